//! `tidemark train`: one training by command, from the tickets to what is in Production.
//!
//! The order lets a command that was cut off be given again: candidates first, under a key that follows from the rows; then the
//! baseline that names the version; Production last. The documents for people follow.

mod anomaly;
mod report;
mod request;
mod rows;
mod settle;

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::rfc3339;
use crate::config::Config;
use crate::history;
use crate::log::Log;
use crate::model::duration::{DurationModel, MODEL_FILE};
use crate::model::onnx::MAX_BYTES;
use crate::registry::{Registry, RegistryError};
use crate::spec::Spec;
use crate::topics::Topics;
use crate::train::diagnosis;
use crate::train::trial::{Cause, Known, Request, TrialError, trial};

use super::exit::{Exit, Failure};
use super::out::Format;
use super::progress::Progress;
use super::session::Session;
use super::tickets::Place;
use super::{backfill, baseline, models, time};
use report::Report;
use rows::Rows;

/// Trains the models once
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tidemark train --window-days=540 --min-samples=100
  tidemark train --dry-run --output json
  tidemark train --file tickets.ndjson.zst --at 2013-03-01 --set registry.directory=models
  tidemark train --request --reason 'new task types since Monday'    the running train stage does it

Reads MongoDB's completed tickets, or a file's. Every candidate is registered; one that meets its criterion and beats what is
in Production is promoted, and its baseline goes to Kafka and MongoDB, as far as they are configured. Given again with the same
tickets, it goes on where it was cut off.

Exit 0: the duration model meets its criterion (train.duration_error_threshold), promoted or not; 1: it does not, or there are
too few tickets. The anomaly model's verdict is in the report.")]
pub struct Train {
    /// Days of history to read [key: train.window_days]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    window_days: Option<u32>,
    /// Tickets below which nothing is trained [key: train.min_samples]
    #[arg(long, value_name = "TICKETS", value_parser = clap::value_parser!(u64).range(1..))]
    min_samples: Option<u64>,
    /// Then backfill the prediction errors of the same tickets, as `tidemark backfill` does [key: backfill.errors]
    #[arg(long)]
    backfill_errors: bool,
    /// Train and compare, but register, promote and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Read this file instead of MongoDB: NDJSON (plain, gzip, zstd) or Parquet; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// End of the window, exclusive, UTC [default: just after the newest ticket]
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    at: Option<i64>,
    /// Train nothing here: ask the train stage of `tidemark run` for a training (trigger `manual`)
    #[arg(long, conflicts_with_all = ["window_days", "min_samples", "backfill_errors", "dry_run", "file", "at"])]
    request: bool,
    /// Why, for those who come later
    #[arg(long, value_name = "TEXT", requires = "request", default_value = "asked for by command")]
    reason: String,
    /// Priority of the request; a critical one is not held back by train.min_interval_hours and train.max_per_day
    #[arg(long, value_enum, requires = "request", default_value_t = request::Priority::High)]
    priority: request::Priority,
}

/// What is told as JSON: the training's report, and the backfill's beside it.
#[derive(serde::Serialize)]
struct Told<'t> {
    #[serde(flatten)]
    training: &'t Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    backfill: Option<&'t crate::backfill::Report>,
}

/// What a training works with.
struct Surroundings {
    config: Config,
    spec: Arc<Spec>,
    registry: Option<Arc<dyn Registry>>,
    log: Option<Arc<dyn Log>>,
    topics: Topics,
    dry_run: bool,
}

/// The duration model in Production.
enum InProduction {
    /// There is none.
    Nothing,
    /// It can be compared with.
    Here(Known),
    /// It cannot: a file of somebody else, damaged, or of another spec.
    Unusable { version: u64, reason: String },
}

impl InProduction {
    fn version(&self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Here(known) => Some(known.version),
            Self::Unusable { version, .. } => Some(*version),
        }
    }
}

pub(super) fn run(flags: &Train, session: &mut Session) -> Result<Exit, Failure> {
    if flags.request {
        return request::ask(&flags.reason, flags.priority, session);
    }
    let mut config = session.config()?.clone();
    config.train.window_days = flags.window_days.unwrap_or(config.train.window_days);
    config.train.min_samples = flags.min_samples.unwrap_or(config.train.min_samples);
    let backfills = flags.backfill_errors || config.backfill.errors;
    let around = surroundings(config, flags.dry_run, session)?;
    let place = flags.file.clone().map_or(Place::Mongodb, Place::File);
    let mut progress = Progress::new();
    // Before the long reading: a registry that cannot be reached is known at once.
    let production = in_production(&around)?;
    let rows = rows::read(&around, &place, flags.at, &mut progress)?;
    let report = train(&around, &production, &rows, &mut progress)?;
    drop(progress);
    let history = flags.file.clone().map_or(history::Place::Mongodb, |file| history::Place::File(file, None));
    let backfilled = if backfills { Some(backfill::own_errors(history, flags.dry_run, session)?) } else { None };
    if session.out.format == Format::Json {
        session.out.json(&Told { training: &report, backfill: backfilled.as_ref() })?;
    } else {
        report.show(&mut session.out)?;
        if let Some(backfilled) = &backfilled {
            session.out.line("")?;
            backfill::show(backfilled, &mut session.out)?;
        }
    }
    Ok(if report.valid { Exit::Ok } else { Exit::Failed })
}

fn surroundings(config: Config, dry_run: bool, session: &Session) -> Result<Surroundings, Failure> {
    let spec = Arc::new(session.spec()?);
    let registry = if dry_run { session.registry()? } else { Some(models::registry(session)?) };
    let topics = Topics::new(&config.kafka.topic_prefix);
    let log = if config.kafka.bootstrap_servers.is_some() && !dry_run { Some(session.log()?) } else { None };
    if let Some(log) = &log {
        baseline::publish::create_topic(log.as_ref(), &topics, &config)?;
    }
    Ok(Surroundings { config, spec, registry, log, topics, dry_run })
}

fn in_production(around: &Surroundings) -> Result<InProduction, Failure> {
    let Some(registry) = &around.registry else { return Ok(InProduction::Nothing) };
    let spec = &around.spec;
    let Some(version) = registry.production(&spec.model)? else { return Ok(InProduction::Nothing) };
    Ok(match load(registry.as_ref(), &spec.model, version)? {
        Err(reason) => InProduction::Unusable { version, reason },
        Ok(file) => match DurationModel::from_bytes(&file, spec) {
            Ok(model) => InProduction::Here(Known { version, model: Arc::new(model) }),
            Err(error) => InProduction::Unusable { version, reason: error.to_string() },
        },
    })
}

/// Returns a version's file, or why it cannot be used; fails when the registry does not answer.
fn load(registry: &dyn Registry, model: &str, version: u64) -> Result<Result<Vec<u8>, String>, Failure> {
    match registry.load(model, version, &[MODEL_FILE], MAX_BYTES as u64) {
        Ok(mut files) => Ok(Ok(files.remove(MODEL_FILE).unwrap_or_default())),
        Err(error @ (RegistryError::Unavailable { .. } | RegistryError::Refused { .. })) => Err(error.into()),
        Err(error) => Ok(Err(error.to_string())),
    }
}

fn train(around: &Surroundings, production: &InProduction, rows: &Rows, progress: &mut Progress) -> Result<Report, Failure> {
    let (config, spec) = (&around.config, around.spec.as_ref());
    let mut report = Report::begin(around, rows);
    let request = Request {
        id: &rows.id,
        cause: Cause::Unprompted,
        now_ms: rows.at_ms,
        window_days: config.train.window_days,
        min_rows: config.train.min_samples,
        max_rows: config.train.max_rows,
        threshold: config.train.duration_error_threshold,
        slice_ms: config.window.slice_ms,
    };
    progress.step("training");
    let known = match production {
        InProduction::Here(known) => Some(known),
        InProduction::Nothing | InProduction::Unusable { .. } => None,
    };
    let tried = match trial(&rows.frame, spec, &request, known, &[]) {
        Ok(tried) => tried,
        Err(error) => {
            report.not_trained(&error);
            if matches!(error, TrialError::Fit { .. }) {
                tracing::warn!(%error, "nothing was trained");
            }
            return Ok(report);
        }
    };
    let settled = settle::duration(around, production, rows, &request, &tried, &mut report, progress)?;
    if !settled.valid
        && let Some(first) = tried.tried.first()
    {
        report.advice.extend(diagnosis::duration(&rows.frame, spec, &tried, first));
    }
    report.models.push(settled);
    let settled = anomaly::settle(around, rows, &request, &tried, &mut report, progress)?;
    report.models.push(settled);
    report.end();
    if !around.dry_run {
        progress.step("writing documents");
        settle::documents(around, &mut report)?;
    }
    Ok(report)
}

/// What a training is called when its rows are what is asked for: the same rows, the same name.
fn name(at_ms: i64, digest: &[u8]) -> String {
    let digest: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("train-{}-{digest}", rfc3339(at_ms))
}
