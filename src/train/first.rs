//! The first model of all: trained on a span of rows, published, promoted, and the baseline that goes with it.

use super::baselines::Setting;
use super::candidate::example;
use super::frame::Frame;
use super::publication::{About, publication};
use super::trial::{Cause, Decision, Request, TrialError, trial};
use crate::baseline::Baseline;
use crate::baseline::builder::Refused;
use crate::clock::DAY_MS;
use crate::config::Config;
use crate::model::onnx::EncodeError;
use crate::model::shelf::ModelRef;
use crate::registry::{Registry, RegistryError};
use crate::spec::Spec;

/// Why there is no first model.
#[derive(Debug, thiserror::Error)]
pub enum FirstError {
    /// Nothing could be trained.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// It is not good enough.
    #[error("the first model does not meet the criterion: {0}")]
    Criterion(String),
    /// It has no file.
    #[error(transparent)]
    File(#[from] EncodeError),
    /// The registry does not take it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its rows make no baseline.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Trains on the rows of `[from_ms, to_ms)`, and puts the model into Production; returns baseline 1.
///
/// # Errors
/// [`FirstError`].
pub fn first(
    frame: &Frame,
    spec: &Spec,
    config: &Config,
    registry: &dyn Registry,
    id: &str,
    (from_ms, to_ms): (i64, i64),
) -> Result<Baseline, FirstError> {
    let request = Request {
        id,
        cause: Cause::Unprompted,
        now_ms: to_ms,
        window_days: u32::try_from((to_ms - from_ms) / DAY_MS).unwrap_or(u32::MAX),
        min_rows: config.train.min_samples,
        max_rows: config.train.max_rows,
        threshold: config.train.duration_error_threshold,
        slice_ms: config.window.slice_ms,
    };
    let trial = trial(frame, spec, &request, None, &[])?;
    let best = match &trial.decision {
        Decision::Promote(best) => &trial.tried[*best],
        Decision::Refuse(reason) | Decision::Benign(reason) => return Err(FirstError::Criterion(reason.clone())),
    };
    let example = example(frame, trial.holdout.start, &best.candidate.model.card().learned);
    let about = About { spec, request: &request, baseline: None, example: &example, onset_ms: None };
    let (publication, file) = publication(&about, &trial, best)?;
    let published = registry.publish(&publication)?;
    registry.promote(&spec.model, published.version, "the first")?;
    let named = ModelRef::of(&spec.model, published.version, &file);
    let setting = Setting { spec, frame, version: 1, created_at_ms: to_ms, now_ms: to_ms, window_days: &config.window.days, answers: None };
    Ok(setting.made(None, (from_ms, to_ms), &named, &best.candidate, trial.holdout.clone())?)
}
