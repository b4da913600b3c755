# MLflow with a local store, for trying.
FROM python:3.12-slim
RUN pip install --no-cache-dir mlflow==3.17.2 && mkdir /mlflow && chown 65532:65532 /mlflow
USER 65532:65532
ENV HOME=/tmp
EXPOSE 5000
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--allowed-hosts", "*", \
     "--backend-store-uri", "sqlite:////mlflow/mlflow.db", "--artifacts-destination", "/mlflow/artifacts"]
