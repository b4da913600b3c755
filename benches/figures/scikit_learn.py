"""The same fits in scikit-learn, on the same rows: prints one JSON object.

usage: scikit_learn.py forest X Y FEATURES TRAINED SEED | isolation X LABELS FEATURES SEEDS… | onnx MODEL X FEATURES PREDICTIONS"""

import json
import sys
import time

import numpy as np


def floats(path, features):
    return np.fromfile(path, np.float32).reshape(-1, int(features))


def forest(x, y, features, trained, seed):
    from sklearn.ensemble import RandomForestRegressor

    rows, target, trained = floats(x, features), np.fromfile(y), int(trained)
    model = RandomForestRegressor(n_estimators=100, max_depth=10, min_samples_split=5, min_samples_leaf=2, n_jobs=2, random_state=int(seed))
    began = time.perf_counter()
    model.fit(rows[:trained], target[:trained])
    took = time.perf_counter() - began
    return {"seconds": took, "mae": float(np.abs(model.predict(rows[trained:]) - target[trained:]).mean())}


def isolation(x, labels, features, *seeds):
    from sklearn.ensemble import IsolationForest
    from sklearn.metrics import roc_auc_score

    rows, planted, seconds, areas = floats(x, features), np.fromfile(labels, np.uint8), [], []
    for seed in seeds:
        model = IsolationForest(n_estimators=100, random_state=int(seed), n_jobs=2)
        began = time.perf_counter()
        scores = -model.fit(rows).score_samples(rows)
        seconds.append(time.perf_counter() - began)
        areas.append(roc_auc_score(planted, scores))
    return {"seconds": seconds, "auc": areas}


def onnx(model, x, features, predictions):
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    ours, theirs = np.fromfile(predictions), session.run(None, {"features": floats(x, features)})[0][:, 0]
    return {"difference": float(np.max(np.abs(theirs - ours) / np.abs(ours)))}


print(json.dumps({"forest": forest, "isolation": isolation, "onnx": onnx}[sys.argv[1]](*sys.argv[2:])))
