//! The anomaly model of a training by the stage: fitted on the rows before the same hold-out, and decided by itself.
//!
//! Whatever becomes of it is said beside the answer to the request and never instead of it: no verdict rests on this model.

use super::anomaly::publication::publication;
use super::anomaly::{AnomalyTrial, Asked, trial as anomaly_trial};
use super::candidate::example;
use super::frame::Frame;
use super::publication::About;
use super::trial::{Request, Trial, seed};
use crate::clock::DAY_MS;
use crate::model::anomaly::AnomalyModel;
use crate::model::duration::MODEL_FILE;
use crate::model::onnx::MAX_BYTES;
use crate::model_event::Beside;
use crate::registry::Registry;
use crate::stage::Context;

/// Trains, registers and compares the anomaly model; says what is to become of it. Whoever applies the answer promotes it.
pub(super) fn anomaly(
    context: &Context,
    registry: &dyn Registry,
    frame: &Frame,
    request: &Request<'_>,
    trial: &Trial,
    baseline: Option<u64>,
) -> Beside {
    let model = context.spec.anomaly_model().to_owned();
    match decided(context, registry, frame, request, trial, baseline) {
        Ok((version, promotes, reason)) => {
            let outcome = if promotes { "promoted" } else { "refused" }.to_owned();
            Beside { model, outcome, reason, version: Some(version) }
        }
        Err(reason) => {
            tracing::warn!(model, reason, "the anomaly model of a training failed; the answer to the request stands");
            Beside { model, outcome: "failed".to_owned(), reason, version: None }
        }
    }
}

/// Returns the registered version, whether it is to be promoted, and why or why not.
fn decided(
    context: &Context,
    registry: &dyn Registry,
    frame: &Frame,
    request: &Request<'_>,
    trial: &Trial,
    baseline: Option<u64>,
) -> Result<(u64, bool, String), String> {
    let spec = &context.spec;
    let present = registry.production(spec.anomaly_model()).map_err(|error| error.to_string())?;
    let theirs = match present {
        None => Ok(None),
        Some(version) => load(registry, context, version).map(Some).map_err(|reason| (version, reason)),
    };
    let train = frame.between(request.now_ms - i64::from(request.window_days) * DAY_MS, trial.holdout_ms.0);
    let asked = Asked {
        contamination: context.config.train.anomaly_contamination,
        threshold: context.config.train.validation_precision_threshold,
        max_rows: request.max_rows,
        seed: seed(request.id),
    };
    let against = theirs.as_ref().ok().and_then(Option::as_ref);
    let tried: AnomalyTrial =
        anomaly_trial(frame, spec, (train.clone(), trial.holdout.clone()), &asked, against).map_err(|error| error.to_string())?;
    let example = example(frame, train.start, &tried.model.card().learned);
    let about = About { spec, request, baseline, example: &example, onset_ms: None };
    let (publication, _) = publication(&about, &tried).map_err(|error| format!("cannot write the anomaly model: {error}"))?;
    let version = registry.publish(&publication).map_err(|error| error.to_string())?.version;
    Ok(match theirs {
        Err((present, reason)) if tried.may_be_promoted => {
            let stays = "it stays until `tidemark models promote`";
            (version, false, format!("version {present} is in Production and cannot be compared with: {reason}; {stays}"))
        }
        Ok(_) | Err(_) => (version, tried.may_be_promoted, tried.reason),
    })
}

fn load(registry: &dyn Registry, context: &Context, version: u64) -> Result<AnomalyModel, String> {
    let model = context.spec.anomaly_model();
    let mut files = registry.load(model, version, &[MODEL_FILE], MAX_BYTES as u64).map_err(|error| error.to_string())?;
    AnomalyModel::from_bytes(&files.remove(MODEL_FILE).unwrap_or_default(), &context.spec).map_err(|error| error.to_string())
}
