//! The anomaly model of a training: fitted beside the duration model, on the same split.

use crate::model::anomaly::AnomalyModel;
use crate::train::anomaly::publication::{publication, report as candidate_report};
use crate::train::anomaly::{AnomalyTrial, Asked, trial as anomaly_trial};
use crate::train::candidate::example;
use crate::train::diagnosis;
use crate::train::publication::About;
use crate::train::trial::{Request, Trial, seed};

use super::report::{ModelReport, Report};
use super::rows::Rows;
use super::settle::{is_of, put_into_production};
use super::{Surroundings, load};
use crate::cli::exit::{Exit, Failure};
use crate::cli::progress::Progress;

/// What is in Production of the anomaly model.
struct Present {
    version: Option<u64>,
    model: Option<AnomalyModel>,
    /// Why it cannot be compared with.
    unusable: Option<String>,
}

/// Trains the anomaly model, registers it, and promotes it when it may be.
pub(super) fn settle(
    around: &Surroundings,
    rows: &Rows,
    request: &Request<'_>,
    trial: &Trial,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<ModelReport, Failure> {
    progress.step("training the anomaly model");
    let spec = &around.spec;
    let model = spec.anomaly_model();
    let present = present(around)?;
    let mut said = ModelReport::new(model, present.version);
    let train = rows.frame.between(request.now_ms - i64::from(request.window_days) * crate::clock::DAY_MS, trial.holdout_ms.0);
    let config = &around.config.train;
    let asked = Asked {
        contamination: config.anomaly_contamination,
        threshold: config.validation_precision_threshold,
        max_rows: config.max_rows,
        seed: seed(request.id),
    };
    let tried = match anomaly_trial(&rows.frame, spec, (train.clone(), trial.holdout.clone()), &asked, present.model.as_ref()) {
        Ok(tried) => tried,
        Err(error) => {
            said.outcome = "not trained";
            said.reason = error.to_string();
            return Ok(said);
        }
    };
    said.valid = tried.metrics.precision.is_some_and(|precision| precision > asked.threshold);
    said.reason.clone_from(&tried.reason);
    said.candidates = vec![candidate_report(&tried)];
    if !tried.may_be_promoted {
        report.advice.extend(diagnosis::anomaly(spec, &tried));
    }
    let chosen = tried.may_be_promoted && present.unusable.is_none();
    if let (true, Some(version), Some(reason)) = (tried.may_be_promoted, present.version, &present.unusable) {
        said.reason =
            format!("version {version} is in Production and cannot be compared with: {reason}; it stays until `tidemark models promote`");
    }
    if around.dry_run {
        said.outcome = if chosen { "would be promoted" } else { "would be registered" };
        return Ok(said);
    }
    publish(around, rows, request, train.start, &tried, chosen, &mut said)?;
    Ok(said)
}

fn publish(
    around: &Surroundings,
    rows: &Rows,
    request: &Request<'_>,
    example_row: usize,
    tried: &AnomalyTrial,
    chosen: bool,
    said: &mut ModelReport,
) -> Result<(), Failure> {
    let Some(registry) = &around.registry else { return Ok(()) };
    let example = example(&rows.frame, example_row, &tried.model.card().learned);
    let about = About { spec: &around.spec, request, baseline: None, example: &example, onset_ms: None };
    let (publication, _) =
        publication(&about, tried).map_err(|error| Failure::new(Exit::Failed, format!("cannot write the anomaly model: {error}")))?;
    let version = registry.publish(&publication)?.version;
    said.versions.push(version);
    if said.production_before.is_some_and(|before| before == version) && is_of(registry.versions(&said.model)?, version, request.id) {
        said.outcome = "already promoted";
    } else if chosen {
        put_into_production(around, registry.as_ref(), said, version, request.id)?;
    }
    Ok(())
}

fn present(around: &Surroundings) -> Result<Present, Failure> {
    let nothing = Present { version: None, model: None, unusable: None };
    let Some(registry) = &around.registry else { return Ok(nothing) };
    let model = around.spec.anomaly_model();
    let Some(version) = registry.production(model)? else { return Ok(nothing) };
    let read = load(registry.as_ref(), model, version)?
        .and_then(|file| AnomalyModel::from_bytes(&file, &around.spec).map_err(|error| error.to_string()));
    let version = Some(version);
    Ok(match read {
        Ok(model) => Present { version, model: Some(model), unusable: None },
        Err(reason) => Present { version, model: None, unusable: Some(reason) },
    })
}
