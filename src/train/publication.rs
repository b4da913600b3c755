//! A candidate as the registry gets it: the model's files, the numbers, and where it comes from.

use std::collections::BTreeMap;

use super::trial::{Request, Trial, Tried};
use crate::clock::rfc3339;
use crate::model::duration::MODEL_FILE;
use crate::model::onnx::EncodeError;
use crate::registry::layout::{OnnxModel, Output, model_files};
use crate::registry::{Lineage, Publication};
use crate::spec::Spec;

/// What a publication says beside the candidate itself.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The spec.
    pub spec: &'a Spec,
    /// What was asked for.
    pub request: &'a Request<'a>,
    /// Version of the baseline in force.
    pub baseline: Option<u64>,
    /// One row of inputs of the training split.
    pub example: &'a [f32],
    /// Onset of the drift, ms since 1970.
    pub onset_ms: Option<i64>,
}

/// Returns the publication of a candidate, and the model's file. A function of its arguments: a training that is made again after
/// a crash finds what it wrote before.
///
/// # Errors
/// [`EncodeError`].
pub fn publication(about: &About<'_>, trial: &Trial, tried: &Tried) -> Result<(Publication, Vec<u8>), EncodeError> {
    let (spec, request, candidate) = (about.spec, about.request, &tried.candidate);
    let onnx = candidate.model.to_bytes(&spec.target.name)?;
    let features: Vec<&str> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
    let outputs = [Output { name: spec.target.name.clone(), dtype: "float32".to_owned(), shape: vec![-1, 1] }];
    let files = OnnxModel { onnx: &onnx, features: &features, outputs: &outputs, created_ms: request.now_ms, example: about.example };
    let mut artifacts = model_files(&files);
    debug_assert!(artifacts.contains_key(MODEL_FILE), "the layout has the model's file");
    let report = report(trial, tried);
    artifacts.insert("report.json".to_owned(), serde_json::to_vec_pretty(&report).expect("a report has only texts and numbers"));

    let metrics = &candidate.metrics;
    let mut numbers = BTreeMap::from([
        ("mae".to_owned(), metrics.mae),
        ("mae_percentage".to_owned(), 100.0 * metrics.mae_share),
        ("rmse".to_owned(), metrics.rmse),
        ("error_p50".to_owned(), metrics.p50),
        ("error_p90".to_owned(), metrics.p90),
        ("error_p99".to_owned(), metrics.p99),
        ("holdout_rows".to_owned(), metrics.rows as f64),
        ("training_rows".to_owned(), candidate.model.card().rows as f64),
    ]);
    numbers.extend(metrics.r2.map(|r2| ("r2".to_owned(), r2)));
    numbers.extend(candidate.model.card().coverage.map(|coverage| ("interval_coverage".to_owned(), coverage)));
    for (feature, share) in features.iter().zip(&candidate.importances) {
        numbers.insert(format!("importance.{feature}"), *share);
    }
    let mut tags = BTreeMap::from([
        ("trigger".to_owned(), request.id.to_owned()),
        ("candidate".to_owned(), candidate.name.clone()),
        ("spec".to_owned(), format!("{} {}", spec.name, spec.fingerprint())),
        ("reason".to_owned(), tried.reason.clone()),
        ("may_be_promoted".to_owned(), tried.may_be_promoted().to_string()),
    ]);
    if let Some(comparison) = &tried.comparison {
        numbers.insert("production_mae".to_owned(), comparison.production_mae);
        numbers.insert("gain".to_owned(), comparison.gain);
        numbers.extend(comparison.p.map(|p| ("comparison_p".to_owned(), p)));
        tags.insert("compared_with".to_owned(), "Production, on the same hold-out".to_owned());
    }
    let params = [("n_estimators", "100"), ("max_depth", "10"), ("min_samples_split", "5"), ("min_samples_leaf", "2")];
    let publication = Publication {
        model: spec.model.clone(),
        model_description: format!("{} of {}, in {}", spec.target.name, spec.name, unit(&spec.target.name)),
        key: format!("{}/{}", request.id, candidate.name.replace(' ', "-")),
        run_name: format!("{} {}", candidate.name, rfc3339(request.now_ms)),
        start_ms: request.now_ms,
        end_ms: request.now_ms,
        params: params.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        metrics: numbers,
        tags,
        description: format!("{}: mean absolute error {:.0} on {} later rows. {}", candidate.name, metrics.mae, metrics.rows, tried.reason),
        lineage: Lineage {
            data_ms: candidate.model.card().data_ms,
            holdout_ms: trial.holdout_ms,
            baseline: about.baseline.map(|version| format!("{}@{version}", spec.name)),
            onset_ms: about.onset_ms,
        },
        artifacts,
    };
    Ok((publication, onnx))
}

fn unit(target: &str) -> &str {
    target.rsplit_once('_').map_or("its own unit", |(_, unit)| unit)
}

/// Returns the report of a candidate as JSON.
#[must_use]
pub fn report(trial: &Trial, tried: &Tried) -> serde_json::Value {
    let card = tried.candidate.model.card();
    serde_json::json!({
        "candidate": tried.candidate.name,
        "metrics": tried.candidate.metrics,
        "comparison": tried.comparison,
        "may_be_promoted": tried.may_be_promoted(),
        "reason": tried.reason,
        "training": { "from": rfc3339(card.data_ms.0), "to": rfc3339(card.data_ms.1), "rows": card.rows },
        "holdout": { "from": rfc3339(trial.holdout_ms.0), "to": rfc3339(trial.holdout_ms.1), "rows": trial.holdout.len() },
        "interval": card.interval.map(|(low, high)| serde_json::json!({ "low_ratio": low, "high_ratio": high, "coverage": card.coverage })),
        "importances": card.features.iter().zip(&tried.candidate.importances).map(|(name, share)| (name.clone(), *share)).collect::<BTreeMap<_, _>>(),
    })
}
