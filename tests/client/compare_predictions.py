"""Loads Production as a data scientist does, by stage and by alias, and holds its predictions against those in a file.

usage: compare_predictions.py MODEL INPUTS PREDICTIONS; prints the largest relative difference."""

import sys
import warnings

import mlflow
import numpy as np

warnings.filterwarnings("ignore", category=FutureWarning)  # stages are deprecated, and work
name, inputs, predictions = sys.argv[1:]
ours = np.fromfile(predictions, np.float64)
rows = np.fromfile(inputs, np.float32).reshape(len(ours), -1)
client = mlflow.MlflowClient()

largest = 0.0
for uri in (f"models:/{name}/Production", f"models:/{name}@Production"):
    model = mlflow.pyfunc.load_model(uri)
    assert len(model.metadata.metadata["features"]) == rows.shape[1], model.metadata.metadata
    assert model.input_example.shape == (1, rows.shape[1]), model.input_example
    (theirs,) = model.predict(rows).values()
    largest = max(largest, np.max(np.abs(theirs[:, 0] - ours) / np.abs(ours)))

version = client.get_model_version_by_alias(name, "Production")
assert version.current_stage == "Production" and version.status == "READY", version
run = client.get_run(version.run_id)
assert run.info.status == "FINISHED", run.info
assert {"mae", "rmse", "r2", "mae_percentage", "importance.estimated_duration_ms"} <= run.data.metrics.keys(), run.data.metrics
assert run.data.params["n_estimators"] == "100" and run.data.params["max_depth"] == "10", run.data.params
plots = {file.path for file in client.list_artifacts(version.run_id, "plots")}
assert plots == {f"plots/{plot}.svg" for plot in ("error_quantiles", "importances", "predicted_vs_actual")}, plots
print(f"rows {len(ours)} largest relative difference {largest:.3g}")
