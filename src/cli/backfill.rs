//! `tidemark backfill`: prediction errors of history, exactly once.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::backfill::{Around, BackfillError, Predictions, Progress as Done, Report, Request, Span, run as backfill};
use crate::history::Place;
use crate::model::duration::{DurationModel, MODEL_FILE};
use crate::model::onnx::MAX_BYTES;
use crate::model::shelf::ModelRef;
use crate::registry::{Registry, RegistryError};
use crate::spec::Spec;
use crate::stage::Stop;

use super::exit::{Exit, Failure};
use super::out::{Format, Out, Tone, plain};
use super::progress::Progress;
use super::session::Session;
use super::time;

/// Flags of `backfill`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark backfill
  tidemark backfill --from 2013-01-01 --to 2013-03-01 --model production
  tidemark backfill --model 7 --write-back
  tidemark backfill --file flights.ndjson.zst --dry-run --output json

It may be stopped at any time, and started again: nothing is written twice, and nothing is left out.")]
pub struct BackfillArgs {
    /// First completion, inclusive [default: the first there is]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// End, exclusive [default: no end]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Rescore history by this version of the model: its number, or `production` [default: the tickets' own predictions]
    #[arg(long, value_name = "VERSION")]
    model: Option<String>,
    /// Also store the model's prediction on each ticket in MongoDB, which does not complete it again
    #[arg(long, requires = "model", conflicts_with = "file")]
    write_back: bool,
    /// Tickets from a file (NDJSON, plain or packed, or Parquet) instead of MongoDB
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Count only: write nothing anywhere
    #[arg(long)]
    dry_run: bool,
}

/// Backfills the errors of the tickets' own predictions, as a training does on request.
pub(super) fn own_errors(place: Place, dry_run: bool, session: &mut Session) -> Result<Report, Failure> {
    let request =
        Request { place, span: Span { from_ms: None, to_ms: None }, predictions: Predictions::Recorded, write_back: false, dry_run };
    carry_out(&request, session)
}

fn carry_out(request: &Request, session: &mut Session) -> Result<Report, Failure> {
    let spec = session.spec()?;
    let has_kafka = session.config()?.kafka.bootstrap_servers.is_some();
    let log = if has_kafka && !request.dry_run { Some(session.log()?) } else { None };
    let mut progress = Progress::new();
    let version = request.predictions.version().map_or_else(String::new, |version| format!(" by version {version}"));
    progress.step(&format!("backfilling {} predictions{version}", request.predictions.name()));
    let around = Around { config: session.config()?, spec: &spec, log: log.as_deref(), stop: Stop::default() };
    backfill(request, &around, &mut |Done { read, total }| progress.rows(read, total)).map_err(failure)
}

pub(super) fn run(flags: &BackfillArgs, session: &mut Session) -> Result<Exit, Failure> {
    let spec = session.spec()?;
    let bound = |text: &Option<String>, flag: &str| {
        let read = text.as_deref().map(time::instant).transpose();
        read.map_err(|why| Failure::new(Exit::Usage, format!("{flag}: {why}")))
    };
    let span = Span { from_ms: bound(&flags.from, "--from")?, to_ms: bound(&flags.to, "--to")? };
    let predictions = match &flags.model {
        None => Predictions::Recorded,
        Some(wanted) => {
            let none = "no registry is configured: set MLFLOW_TRACKING_URI or registry.directory to take a model from it";
            let registry = session.registry()?.ok_or_else(|| Failure::new(Exit::Usage, none))?;
            model(registry.as_ref(), &spec, wanted)?
        }
    };
    let place = flags.file.clone().map_or(Place::Mongodb, |file| Place::File(file, None));
    let request = Request { place, span, predictions, write_back: flags.write_back, dry_run: flags.dry_run };
    let report = carry_out(&request, session)?;
    show(&report, &mut session.out)?;
    Ok(Exit::Ok)
}

/// Fetches a version of the spec's model by its number, or the one in Production.
pub(super) fn model(registry: &dyn Registry, spec: &Spec, wanted: &str) -> Result<Predictions, Failure> {
    let name = &spec.model;
    let version = if wanted.eq_ignore_ascii_case("production") {
        let none =
            || Failure::new(Exit::BadInput, format!("no version of {name} is in Production: give a number, or train and promote one"));
        registry.production(name).map_err(|error| refused(&error))?.ok_or_else(none)?
    } else {
        let wrong =
            || Failure::new(Exit::Usage, format!("--model is {wanted:?}; allowed: the number of a version from 1 on, or `production`"));
        wanted.trim().parse().ok().filter(|number: &u64| *number > 0).ok_or_else(wrong)?
    };
    let files = registry.load(name, version, &[MODEL_FILE], MAX_BYTES as u64).map_err(|error| refused(&error))?;
    let file = files.get(MODEL_FILE).map_or(&[][..], Vec::as_slice);
    let model = DurationModel::from_bytes(file, spec).map_err(|error| {
        Failure::new(Exit::BadInput, format!("version {version} of {name} cannot be used: {error}; give another with --model"))
    })?;
    Ok(Predictions::Rescored(ModelRef::of(name, version, file), Arc::new(model)))
}

fn refused(error: &RegistryError) -> Failure {
    let exit = match error {
        RegistryError::Unavailable { .. } | RegistryError::Refused { .. } => Exit::Unreachable,
        _ => Exit::BadInput,
    };
    Failure::new(exit, error.to_string())
}

fn failure(error: BackfillError) -> Failure {
    let exit = match error {
        BackfillError::Log(error) => return error.into(),
        BackfillError::Usage(_) | BackfillError::Encoder(_) => Exit::Usage,
        BackfillError::File(_) => Exit::BadInput,
        BackfillError::Mongodb { .. } | BackfillError::Unwritten { .. } => Exit::Unreachable,
        BackfillError::Fenced { .. } | BackfillError::Refused(_) => Exit::Refused,
        BackfillError::Stopped => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

/// Tells a report.
pub(super) fn show(report: &Report, out: &mut Out) -> Result<(), Failure> {
    if out.format == Format::Json {
        return out.json(report);
    }
    let stats = &report.stats;
    let whose = report.version.map_or_else(|| "the tickets' own predictions".to_owned(), |version| format!("version {version}"));
    out.line(format!("{}: errors of {whose} against {} tickets", plain(&report.model), stats.total_tickets))?;
    for note in &report.notes {
        let note = out.tone(Tone::Warning, &plain(note));
        out.line(note)?;
    }
    out.line("")?;
    out.line(format!("Written         {} ({} were there before)", report.written, report.already_there))?;
    if let Some(written_back) = report.written_back {
        out.line(format!("Written back    {written_back}"))?;
    }
    out.line(format!("Processed       {}", stats.processed))?;
    out.line(format!(
        "Skipped         {} without an answer, {} without a prediction, {} invalid",
        stats.skipped_no_actual, stats.skipped_no_predicted, stats.skipped_invalid
    ))?;
    if report.repeats > 0 {
        out.line(format!("Repeats         {} documents hold a completion that another one holds", report.repeats))?;
    }
    if stats.in_sample > 0 {
        out.line(format!("In sample       {}: the model was trained on them, their errors enter no verdict", stats.in_sample))?;
    }
    if let (Some(mean), Some(p50), Some(p95), Some(p99)) = (stats.mean_error_ms, stats.p50_error_ms, stats.p95_error_ms, stats.p99_error_ms)
    {
        out.line(format!("Absolute error  mean {mean:.0} ms, p50 {p50:.0}, p95 {p95:.0}, p99 {p99:.0} ({})", stats.percentiles))?;
    }
    out.line(format!("Extreme errors  {} above 3 x the prediction", stats.extreme_errors_count))?;
    if !stats.extreme_errors.is_empty() {
        out.line("")?;
        let row = |error: &crate::backfill::Extreme| {
            vec![
                plain(&error.ticket_id),
                format!("{:.0}", error.predicted_ms),
                format!("{:.0}", error.actual_ms),
                format!("{:.1}", error.error_ratio),
            ]
        };
        let rows: Vec<Vec<String>> = stats.extreme_errors.iter().map(row).collect();
        out.table(&["TICKET", "PREDICTED MS", "ACTUAL MS", "ERROR / PREDICTION"], &rows)?;
    }
    Ok(())
}
