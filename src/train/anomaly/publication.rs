//! An anomaly model as the registry gets it.

use std::collections::BTreeMap;

use super::{AnomalyTrial, LabelledBy, Metrics};
use crate::clock::rfc3339;
use crate::model::anomaly::OUTPUT;
use crate::model::onnx::EncodeError;
use crate::registry::layout::{OnnxModel, Output, model_files};
use crate::registry::{Lineage, Publication};
use crate::train::publication::About;

/// Returns the publication of an anomaly model, and the model's file. A function of its arguments, as
/// [`crate::train::publication::publication`] is.
///
/// # Errors
/// [`EncodeError`].
pub fn publication(about: &About<'_>, trial: &AnomalyTrial) -> Result<(Publication, Vec<u8>), EncodeError> {
    let (spec, request, card) = (about.spec, about.request, trial.model.card());
    let onnx = trial.model.to_bytes()?;
    let features: Vec<&str> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
    let outputs = [Output { name: OUTPUT.to_owned(), dtype: "float32".to_owned(), shape: vec![-1, 1] }];
    let files = OnnxModel { onnx: &onnx, features: &features, outputs: &outputs, created_ms: request.now_ms, example: about.example };
    let mut artifacts = model_files(&files);
    let report = serde_json::to_vec_pretty(&report(trial)).expect("a report has only texts and numbers");
    artifacts.insert("report.json".to_owned(), report);
    let tags = [
        ("trigger", request.id.to_owned()),
        ("spec", format!("{} {}", spec.name, spec.fingerprint())),
        ("reason", trial.reason.clone()),
        ("may_be_promoted", trial.may_be_promoted.to_string()),
        ("labelled_by", labelled_by(trial.labelled_by).to_owned()),
    ];
    let params = [("n_estimators", "100".to_owned()), ("max_samples", "256".to_owned()), ("contamination", card.contamination.to_string())];
    let precision = card.precision.map_or_else(|| "unknown".to_owned(), |precision| format!("{:.1} %", 100.0 * precision));
    let publication = Publication {
        model: spec.anomaly_model().to_owned(),
        model_description: format!("Score of how far a ticket of {} is out of the ordinary, in (0, 1)", spec.name),
        key: format!("{}/anomaly", request.id),
        run_name: format!("anomaly {}", rfc3339(request.now_ms)),
        start_ms: request.now_ms,
        end_ms: request.now_ms,
        params: params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        metrics: numbers(trial),
        tags: tags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        description: format!("Precision {precision} on {} later rows. {}", trial.metrics.rows, trial.reason),
        lineage: Lineage {
            data_ms: card.data_ms,
            holdout_ms: trial.holdout_ms,
            baseline: about.baseline.map(|version| format!("{}@{version}", spec.name)),
            onset_ms: about.onset_ms,
        },
        artifacts,
    };
    Ok((publication, onnx))
}

fn labelled_by(who: LabelledBy) -> &'static str {
    match who {
        LabelledBy::Field => "the spec's label field",
        LabelledBy::Rules => "the contract's rules",
        LabelledBy::Nobody => "nobody",
    }
}

fn numbers(trial: &AnomalyTrial) -> BTreeMap<String, f64> {
    let Metrics { rows, anomalies, flagged, hits, precision, recall, f1, base_rate, lift } = trial.metrics;
    let counts = [("holdout_rows", rows), ("anomalies", anomalies), ("flagged", flagged), ("hits", hits)];
    let shares = [("precision", precision), ("recall", recall), ("f1", f1), ("base_rate", base_rate), ("lift", lift)];
    let known = shares.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let mut numbers: BTreeMap<String, f64> =
        counts.map(|(name, count)| (name, count as f64)).into_iter().chain(known).map(|(name, value)| (name.to_owned(), value)).collect();
    numbers.insert("training_rows".to_owned(), trial.model.card().rows as f64);
    numbers.insert("threshold".to_owned(), trial.model.threshold());
    numbers.extend(trial.production.and_then(|production| production.f1).map(|f1| ("production_f1".to_owned(), f1)));
    numbers
}

/// Returns the report of an anomaly model as JSON.
#[must_use]
pub fn report(trial: &AnomalyTrial) -> serde_json::Value {
    let card = trial.model.card();
    serde_json::json!({
        "candidate": "anomaly",
        "metrics": trial.metrics,
        "production": trial.production,
        "labelled_by": trial.labelled_by,
        "contamination": card.contamination,
        "threshold": trial.model.threshold(),
        "may_be_promoted": trial.may_be_promoted,
        "reason": trial.reason,
        "training": { "from": rfc3339(card.data_ms.0), "to": rfc3339(card.data_ms.1), "rows": card.rows },
        "holdout": { "from": rfc3339(trial.holdout_ms.0), "to": rfc3339(trial.holdout_ms.1), "rows": trial.metrics.rows },
    })
}
