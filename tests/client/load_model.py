"""Loads a model as a data scientist does: by stage, by alias and by number; prints what each predicts for its example."""

import sys
import warnings

import mlflow
import numpy as np

warnings.filterwarnings("ignore", category=FutureWarning)  # stages are deprecated, and work
name = sys.argv[1]
client = mlflow.MlflowClient()

predictions = []
for uri in (f"models:/{name}/Production", f"models:/{name}@Production", f"models:/{name}/1"):
    model = mlflow.pyfunc.load_model(uri)
    assert model.metadata.get_input_schema().inputs[0].shape == (-1, 3), model.metadata.get_input_schema()
    assert model.metadata.get_output_schema().input_names() == ["variable"], model.metadata.get_output_schema()
    assert model.metadata.metadata["features"] == ["risk_weight", "retry_count", "hour_of_day"], model.metadata.metadata
    row = np.asarray(model.input_example, dtype=np.float32)
    predictions.append(float(model.predict(row)["variable"][0][0]))

version = client.get_model_version(name, "1")
run = client.get_run(version.run_id)
assert run.info.status == "FINISHED" and run.info.run_name == "drift 2013-07-02, since onset", run.info
assert (run.info.start_time, run.info.end_time) == (1363500000000, 1363500001000), run.info
assert run.data.params == {"trees": "100"}, run.data.params
assert run.data.metrics["mae_ms"] == 603600.5 and run.data.metrics["lift"] != run.data.metrics["lift"], run.data.metrics
assert run.data.metrics["ratio"] > 1e300, run.data.metrics
assert run.data.tags["tidemark.baseline"] == "flights@3", run.data.tags
assert version.description == "Trained on 339 rows since the onset." and version.status == "READY", version
assert client.get_registered_model(name).description == "Predicts how long a ticket takes."
assert {f.path for f in client.list_artifacts(version.run_id)} == {"model", "plots", "report.json"}
print(*predictions)
