"""scikit-learn behind a small Python HTTP server: what `tidemark serve` is measured beside.

    predict_server.py FOLDER PORT

FOLDER holds the rows that tidemark's own forest was trained on (inputs.f32, actual.f64) and its features (features.json).
"""

import json
import sys
from pathlib import Path

import numpy as np
import uvicorn
from sklearn.ensemble import RandomForestRegressor

folder, port = Path(sys.argv[1]), int(sys.argv[2])
features = json.loads((folder / "features.json").read_text())
tables = {feature["name"]: (feature["table"], feature["default"]) for feature in features}
actual = np.fromfile(folder / "actual.f64", dtype="<f8")
inputs = np.fromfile(folder / "inputs.f32", dtype="<f4").reshape(len(actual), len(features))
model = RandomForestRegressor(n_estimators=100, max_depth=10, min_samples_split=5, min_samples_leaf=2, n_jobs=2, random_state=1)
model.fit(inputs, actual)
# One row is faster without threads.
model.n_jobs = 1


def of(name, text):
    table, default = tables[name]
    return table.get(str(text).lower(), default)


def row(ticket):
    qos, task, risk = ticket.get("qos", {}), ticket.get("task_type"), ticket.get("risk_band")
    return [
        of("risk_weight", risk),
        of("qos_delivery_score", qos.get("delivery_mode") or qos.get("delivery_guarantee")),
        of("qos_consistency_score", qos.get("consistency") or qos.get("consistency_level")),
        of("qos_durability_score", qos.get("durability")),
        len(ticket.get("required_capabilities", [])),
        of("task_type_encoded", task),
        len(json.dumps(ticket.get("parameters", {}), separators=(",", ":"))),
        ticket.get("estimated_duration_ms", 60000),
        ticket.get("sla", {}).get("timeout_ms", 300000),
        of("avg_duration_by_task", task),
        of("avg_duration_by_risk", risk),
        of("success_rate_by_task", task),
        of("std_duration_by_task", task),
        ticket.get("retry_count", 0),
        ticket["created_at"] // 3_600_000 % 24,
    ]


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    prediction = max(1000.0, float(model.predict(np.array([row(json.loads(body)["ticket"])], dtype=np.float32))[0]))
    answer = json.dumps({"prediction": {"prediction_ms": prediction}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, lifespan="off")
