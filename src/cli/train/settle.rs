//! What becomes of a trial: versions in the registry, the baseline, Production, documents.

use std::cell::RefCell;
use std::ops::Range;

use crate::baseline::Baseline;
use crate::baseline::builder::Refused;
use crate::clock::{DAY_MS, now_ms};
use crate::model::shelf::ModelRef;
use crate::registry::{self, Registry, Version};
use crate::train::baselines::Setting;
use crate::train::candidate::{Candidate, example};
use crate::train::plots::plots;
use crate::train::publication::{About, publication, report as candidate_report};
use crate::train::trial::{Decision, Request, Trial};

use super::report::{BaselineReport, ModelReport, Report};
use super::rows::Rows;
use super::{InProduction, Surroundings};
use crate::cli::baseline::publish::{Publisher, find_document, publish_document, versions};
use crate::cli::documents::{Promotion, write_promotion, write_report};
use crate::cli::exit::{Exit, Failure};
use crate::cli::progress::Progress;
use crate::cli::status;

/// Registers the candidates, and promotes the one that was chosen.
pub(super) fn duration(
    around: &Surroundings,
    production: &InProduction,
    rows: &Rows,
    request: &Request<'_>,
    trial: &Trial,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<ModelReport, Failure> {
    let model = &around.spec.model;
    let mut said = ModelReport::new(model, production.version());
    said.valid = trial.tried.iter().any(|tried| tried.meets_criterion);
    said.candidates = trial.tried.iter().map(|tried| candidate_report(trial, tried)).collect();
    let (chosen, reason) = decision(production, trial);
    said.reason = reason;
    if around.dry_run {
        said.outcome = if chosen.is_some() { "would be promoted" } else { "would be registered" };
        return Ok(said);
    }
    let Some(registry) = &around.registry else { return Ok(said) };
    let newest = newest_baseline(around)?;
    if let (InProduction::Nothing, Some(scored_by)) = (production, newest.as_ref().and_then(|newest| newest.scored_by.as_ref())) {
        report.notes.push(format!(
            "a baseline names version {} of {}, and the registry has nothing in Production: it was emptied, or is another one; what is trained now begins anew",
            scored_by.version, scored_by.name
        ));
    }
    let repeated = match production.version() {
        Some(version) => is_of(registry.versions(model)?, version, &rows.id),
        None => false,
    };
    progress.step("registering");
    let mut published = Vec::new();
    for tried in &trial.tried {
        let row = rows.frame.between(tried.candidate.model.card().data_ms.0, rows.at_ms).start;
        let example = example(&rows.frame, row, &tried.candidate.model.card().learned);
        let about = About {
            spec: &around.spec,
            request,
            baseline: newest.as_ref().map(|newest| newest.version),
            example: &example,
            onset_ms: None,
        };
        let (mut publication, file) = publication(&about, trial, tried).map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot write the model of candidate {}: {error}", tried.candidate.name))
        })?;
        publication.artifacts.extend(plots(tried, &rows.frame.actual()[trial.holdout.clone()], &around.spec.target.name));
        let version = registry.publish(&publication)?;
        said.versions.push(version.version);
        published.push(ModelRef::of(model, version.version, &file));
    }
    if repeated {
        said.outcome = "already promoted";
        "the same tickets were trained on before, and that version is in Production".clone_into(&mut said.reason);
        return Ok(said);
    }
    let Some(chosen) = chosen else { return Ok(said) };
    let scored_by = &published[chosen];
    let setting = Setting {
        spec: &around.spec,
        frame: &rows.frame,
        version: 1,
        created_at_ms: now_ms(),
        now_ms: request.now_ms,
        window_days: &around.config.window.days,
        answers: None,
    };
    let successor = Successor {
        setting,
        from_ms: request.now_ms - i64::from(request.window_days) * DAY_MS,
        candidate: &trial.tried[chosen].candidate,
        holdout: trial.holdout.clone(),
        scored_by,
    };
    report.baseline = baseline(around, &successor, report, progress)?;
    progress.step("promoting");
    put_into_production(around, registry.as_ref(), &mut said, scored_by.version, &rows.id)?;
    Ok(said)
}

/// The version that comes into Production, and what its baseline is made from.
struct Successor<'s> {
    setting: Setting<'s>,
    /// Begin of the training's window, ms since 1970.
    from_ms: i64,
    candidate: &'s Candidate,
    holdout: Range<usize>,
    scored_by: &'s ModelRef,
}

/// Promotes, and notes it for people.
pub(super) fn put_into_production(
    around: &Surroundings,
    kept_in: &dyn Registry,
    said: &mut ModelReport,
    version: u64,
    id: &str,
) -> Result<(), Failure> {
    registry::put_into_production(kept_in, &said.model, version, &said.reason)?;
    said.outcome = "promoted";
    said.promoted = Some(version);
    let id = format!("{id}/{}", said.model);
    let promotion =
        Promotion { id: &id, action: "promoted", model: &said.model, version, before: said.production_before, reason: &said.reason };
    write_promotion(&around.config, &around.spec, &promotion).map(drop)
}

/// Returns the candidate to promote, and why, or why not.
fn decision(production: &InProduction, trial: &Trial) -> (Option<usize>, String) {
    let by_hand = |version: u64, reason: &str| {
        format!(
            "version {version} is in Production and cannot be compared with: {reason}; it stays until `tidemark models promote VERSION`"
        )
    };
    match (&trial.decision, production) {
        (Decision::Promote(_), InProduction::Unusable { version, reason }) => (None, by_hand(*version, reason)),
        (Decision::Promote(index), _) => (Some(*index), trial.tried[*index].reason.clone()),
        (Decision::Refuse(reason) | Decision::Benign(reason), _) => (None, reason.clone()),
    }
}

/// Whether a version was made by the training of that id.
pub(super) fn is_of(versions: Vec<Version>, number: u64, id: &str) -> bool {
    versions.iter().any(|version| version.number == number && version.tags.get("trigger").is_some_and(|trigger| trigger == id))
}

fn newest_baseline(around: &Surroundings) -> Result<Option<Baseline>, Failure> {
    match &around.log {
        Some(log) => Ok(versions(log.as_ref(), &around.topics, &around.spec.name)?.pop()),
        None if around.config.mongodb.uri.is_some() => find_document(&around.config, &around.spec, None),
        None => Ok(None),
    }
}

/// Causes whose episode is open; features and target are not carried on then.
fn open_causes(around: &Surroundings) -> Result<Vec<String>, Failure> {
    let Some(log) = &around.log else { return Ok(Vec::new()) };
    let status = status::read(log.as_ref(), &around.topics, &around.spec.name)?;
    let causes = status.map(|status| status.causes).unwrap_or_default();
    Ok(causes.into_iter().filter(|(_, cause)| cause.episode.is_some()).map(|(name, _)| name).collect())
}

/// Writes the baseline that begins with the version, where there is somewhere to write to.
fn baseline(
    around: &Surroundings,
    successor: &Successor<'_>,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<Option<BaselineReport>, Failure> {
    if around.log.is_none() && around.config.mongodb.uri.is_none() {
        report.notes.push("no baseline was written: neither kafka.bootstrap_servers nor mongodb.uri is set".to_owned());
        return Ok(None);
    }
    let open = open_causes(around)?;
    let refused: RefCell<Option<Refused>> = RefCell::default();
    let fingerprint = around.spec.fingerprint();
    let make = |version: u64, before: Option<&Baseline>| {
        let setting = Setting { version, ..successor.setting };
        let (model, candidate, holdout) = (successor.scored_by, successor.candidate, successor.holdout.clone());
        let before = before.filter(|before| before.fingerprint == fingerprint);
        if let Some(before) = before.filter(|_| open.is_empty()) {
            return Ok(setting.promoted(before, model, candidate, holdout, false));
        }
        setting.made(before, setting.span_from(successor.from_ms), model, candidate, holdout).map_err(|why| {
            let failure = Failure::new(Exit::BadInput, why.to_string());
            refused.replace(Some(why));
            failure
        })
    };
    progress.step("writing the baseline");
    let (config, spec, topics) = (&around.config, around.spec.as_ref(), &around.topics);
    let published = match &around.log {
        Some(log) => Publisher { log: log.as_ref(), topics, config, spec }.publish(&make, progress),
        None => publish_document(config, spec, &make),
    };
    match (published, refused.into_inner()) {
        (Ok(published), _) => Ok(Some(BaselineReport::of(&published, around.log.is_some(), &open))),
        (Err(_), Some(why)) => {
            report.notes.push(format!("no baseline was written: {why}"));
            Ok(None)
        }
        (Err(failure), None) => Err(failure),
    }
}

/// Writes each model's report where MongoDB is configured.
pub(super) fn documents(around: &Surroundings, report: &mut Report) -> Result<(), Failure> {
    for model in &report.models {
        let document = report.of(model);
        report.in_mongodb = write_report(&around.config, &around.spec, &report.id, &model.model, &document)?;
    }
    Ok(())
}
