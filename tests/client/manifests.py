"""Validates Kubernetes manifests, and prints them as one JSON list.

    manifests.py FILE…

What Kubernetes itself does not know (the Prometheus operator's kinds, kustomize's, plain YAML) is printed, not validated.
"""

import json
import sys

import kubernetes_validate
import yaml

FOREIGN = ("monitoring.coreos.com/", "kustomize.config.k8s.io/")
VERSIONS = ("1.27", "1.34")

documents = []
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        for document in yaml.safe_load_all(file):
            documents.append(document)
            if "apiVersion" not in document or document["apiVersion"].startswith(FOREIGN):
                continue
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as fault:
                    place = ".".join(str(part) for part in fault.path)
                    sys.exit(f"{path}: {document.get('kind')} for Kubernetes {version}: {place}: {fault.message}")
json.dump(documents, sys.stdout)
