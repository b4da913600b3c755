//! `tidemark baseline`: what windows are held against.

pub(in crate::cli) mod publish;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::baseline::builder::{Builder, Making, Refused};
use crate::baseline::{Baseline, Bins, RECORDED};
use crate::clock::now_ms;
use crate::spec::Spec;
use crate::topics::Topics;

use super::exit::{Exit, Failure};
use super::out::{Format, Out, plain};
use super::progress::Progress;
use super::session::Session;
use super::tickets::{self, Found, Place};
use super::{alerts, status, time};
use publish::Publisher;
pub(super) use publish::{newest_document, versions};

/// What to do with baselines.
#[derive(Debug, Subcommand)]
pub enum BaselineCommand {
    /// Make one of the tickets that completed in an interval, as the next version
    #[command(after_help = "Examples:
  tidemark baseline create --from 2013-01-01 --to 2013-03-01
  tidemark baseline create --from 2013-01-01 --to 2013-03-01 --file tickets.ndjson.zst
  tidemark baseline create --from 2013-01-01 --to 2013-03-01 --dry-run --output json

Times are UTC, the end is exclusive. Whole weeks, at least four of the longest window, let it know its own noise.
Run again with the same tickets, it finds the version that is there. A running tidemark takes the new version at its
next mark.")]
    Create(Create),
    /// List all versions
    #[command(after_help = "Examples:
  tidemark baseline list
  tidemark baseline list --output json")]
    List,
    /// Show one version
    #[command(after_help = "Examples:
  tidemark baseline show 3
  tidemark baseline show 3 --output json > baseline-3.json")]
    Show(Show),
    /// Accept how a cause is now: its episode closes, and nothing is retrained for it
    #[command(after_help = "Examples:
  tidemark baseline accept --cause hour_of_day

The cause alarms again when it has been quiet and drifts anew. To make how things are now the measure, create a baseline.")]
    Accept(Accept),
}

/// Flags of `baseline create`.
#[derive(Debug, Args)]
pub struct Create {
    /// First day or instant, UTC
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    from: i64,
    /// End, exclusive
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    to: i64,
    /// Read this file instead of MongoDB: NDJSON (plain, gzip, zstd) or Parquet; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Make it and show it, but write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Flags of `baseline show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The version
    #[arg(value_name = "VERSION")]
    version: u64,
}

/// Flags of `baseline accept`.
#[derive(Debug, Args)]
pub struct Accept {
    /// The cause: of the spec, `clusters`, `target` or `error`
    #[arg(long, value_name = "NAME")]
    cause: String,
}

pub(super) fn run(command: BaselineCommand, session: &mut Session) -> Result<Exit, Failure> {
    match command {
        BaselineCommand::Create(flags) => create(&flags, session),
        BaselineCommand::List => list(session),
        BaselineCommand::Show(flags) => show(&flags, session),
        BaselineCommand::Accept(flags) => alerts::accept(&flags.cause, session),
    }
}

/// Turns a refusal into a failure. A wrong spec or interval is a fault of the command, the rest of the data.
pub(super) fn refused(doing: &str, refused: &Refused) -> Failure {
    let exit = match refused {
        Refused::Spec(_) | Refused::Interval { .. } => Exit::Usage,
        _ => Exit::BadInput,
    };
    Failure::new(exit, format!("cannot {doing}: {refused}"))
}

fn create(flags: &Create, session: &mut Session) -> Result<Exit, Failure> {
    let spec = session.spec()?;
    let config = session.config()?.clone();
    let doing = format!("make a baseline of {} to {}", time::shown(flags.from), time::shown(flags.to));
    let mut builder = Builder::new(&spec, flags.from, flags.to).map_err(|why| refused(&doing, &why))?;
    // Before the long reading: a log that cannot be reached is known at once.
    let log = if flags.dry_run { None } else { Some(session.log()?) };
    let topics = Topics::new(&config.kafka.topic_prefix);
    if let Some(log) = &log {
        publish::create_topic(log.as_ref(), &topics, &config)?;
    }
    let place = flags.file.clone().map_or(Place::Mongodb, Place::File);
    let mut progress = Progress::new();
    let tally = tickets::each(&place, &config, &spec, (flags.from, flags.to), &mut progress, &mut |found| match found {
        Found::Completed(ticket) => builder.push(ticket),
        Found::Other(ticket) => builder.push_other(ticket),
    })?;
    progress.step("making the baseline");
    let make = |version: u64, predecessor: Option<&Baseline>| {
        builder
            .build(&Making { version, created_at_ms: now_ms(), window_days: &config.window.days, predecessor })
            .map_err(|why| refused(&doing, &why))
    };
    let published = match &log {
        None => publish::Published { baseline: make(1, None)?, is_new: false, in_mongodb: false },
        Some(log) => {
            let publisher = Publisher { log: log.as_ref(), topics: &topics, config: &config, spec: &spec };
            publisher.publish(&make, &mut progress)?
        }
    };
    drop(progress);
    let baseline = &published.baseline;
    if session.out.format == Format::Json {
        let answer = json!({ "written": published.is_new, "in_mongodb": published.in_mongodb, "read": tally, "baseline": baseline });
        session.out.json(&answer)?;
        return Ok(Exit::Ok);
    }
    let out = &mut session.out;
    let name = format!("{}@{}", baseline.spec, baseline.version);
    match (flags.dry_run, published.is_new) {
        (true, _) => out.line("Nothing was written (--dry-run). The baseline would be:")?,
        (false, true) => out.line(format!("Baseline {name} is in topic {}.", topics.baselines))?,
        (false, false) => out.line(format!("Baseline {name} was made of the same tickets: nothing new was written."))?,
    }
    if !flags.dry_run && !published.in_mongodb {
        out.line("No document was written to ml_feature_baselines: mongodb.uri is not set.")?;
    }
    if let Some(unused) = tally.unused() {
        out.line(format!("Not used: {unused}."))?;
    }
    out.line("")?;
    describe(baseline, &spec, out)?;
    Ok(Exit::Ok)
}

fn mae(baseline: &Baseline) -> String {
    baseline.errors.get(RECORDED).map_or_else(|| "-".to_owned(), |errors| format!("{:.0}", errors.mae))
}

fn list(session: &mut Session) -> Result<Exit, Failure> {
    let spec = session.spec()?;
    let log = session.log()?;
    let topics = Topics::new(&session.config()?.kafka.topic_prefix);
    let all = versions(log.as_ref(), &topics, &spec.name)?;
    let in_force = status::read(log.as_ref(), &topics, &spec.name)?.and_then(|status| status.baseline);
    let out = &mut session.out;
    if out.format == Format::Json {
        let rows: Vec<_> = all
            .iter()
            .map(|b| {
                json!({
                    "version": b.version, "model": b.model, "from": crate::clock::rfc3339(b.from_ms), "to": crate::clock::rfc3339(b.to_ms),
                    "rows": b.rows, "created_at": crate::clock::rfc3339(b.created_at_ms), "fingerprint": b.fingerprint,
                    "mae": b.errors.get(RECORDED).map(|errors| errors.mae), "in_force": in_force == Some(b.version),
                })
            })
            .collect();
        out.json(&rows)?;
        return Ok(Exit::Ok);
    }
    if all.is_empty() {
        out.line(format!(
            "No baseline of {} in topic {}. Make one with `tidemark baseline create --from DATE --to DATE`.",
            spec.name, topics.baselines
        ))?;
        return Ok(Exit::Ok);
    }
    let fingerprint = spec.fingerprint();
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|b| {
            let note = match (in_force == Some(b.version), b.fingerprint == fingerprint) {
                (true, _) => "in force",
                (false, true) => "",
                (false, false) => "another spec",
            };
            let shown =
                [time::shown(b.from_ms), time::shown(b.to_ms), b.rows.to_string(), mae(b), time::shown(b.created_at_ms), note.to_owned()];
            [b.version.to_string()].into_iter().chain(shown).collect()
        })
        .collect();
    out.table(&["VERSION", "FROM", "TO", "TICKETS", "MAE", "MADE", ""], &rows)?;
    Ok(Exit::Ok)
}

fn show(flags: &Show, session: &mut Session) -> Result<Exit, Failure> {
    let spec = session.spec()?;
    let log = session.log()?;
    let topics = Topics::new(&session.config()?.kafka.topic_prefix);
    let all = versions(log.as_ref(), &topics, &spec.name)?;
    let Some(baseline) = all.iter().find(|baseline| baseline.version == flags.version) else {
        let there = all.iter().map(|baseline| baseline.version.to_string()).collect::<Vec<_>>().join(", ");
        let there = if there.is_empty() { "none".to_owned() } else { there };
        let topic = &topics.baselines;
        return Err(Failure::new(
            Exit::BadInput,
            format!("topic {topic} has no baseline {} of {}; there: {there}", flags.version, spec.name),
        ));
    };
    if session.out.format == Format::Json {
        session.out.json(baseline)?;
    } else {
        describe(baseline, &spec, &mut session.out)?;
    }
    Ok(Exit::Ok)
}

fn describe(baseline: &Baseline, spec: &Spec, out: &mut Out) -> Result<(), Failure> {
    out.line(format!("Spec       {} ({})", plain(&baseline.spec), baseline.fingerprint))?;
    out.line(format!("Model      {}", plain(&baseline.model)))?;
    out.line(format!("Data       {} to {}, {} tickets", time::shown(baseline.from_ms), time::shown(baseline.to_ms), baseline.rows))?;
    let target = &baseline.target;
    let figures = format!("mean {:.0}, median {:.0}, 95 % below {:.0}, 99 % below {:.0}", target.mean, target.p50, target.p95, target.p99);
    out.line(format!("Target     {}: {figures}", plain(&spec.target.name)))?;
    out.line(match baseline.errors.get(RECORDED) {
        Some(errors) => format!("MAE        {:.0} of {} predictions", errors.mae, errors.sums.rows),
        None => "MAE        unknown: no ticket has a prediction, so the error is not judged".to_owned(),
    })?;
    for noise in &baseline.noise {
        let verdict = if noise.windows < 4 { ", too few to know its own noise" } else { "" };
        out.line(format!("Noise      windows of {} d: {} in the data{verdict}", noise.days, noise.windows))?;
    }
    out.line(match &baseline.clusters {
        Some(clusters) if clusters.centroids.is_empty() => "Clusters   none: no feature varies, so they are not judged".to_owned(),
        Some(clusters) => {
            let counts: Vec<String> = clusters.counts.chunks(2).map(|both| both.iter().sum::<u64>().to_string()).collect();
            format!("Clusters   {} over {} features that vary: {} tickets", counts.len(), clusters.axes.len(), counts.join(", "))
        }
        None => "Clusters   none: made before baselines had them, so they are not judged".to_owned(),
    })?;
    out.line("")?;
    let rows: Vec<Vec<String>> = baseline
        .columns
        .iter()
        .map(|column| {
            let bins = match &column.bins {
                Bins::Values(values) => format!("{} values", values.len()),
                Bins::Edges(edges) => format!("{} ranges", edges.len() + 1),
            };
            let odd = |at: usize| column.counts.get(column.bins.len() + at).map_or_else(|| "-".to_owned(), ToString::to_string);
            let figures = [column.mean, column.std, column.min, column.max].map(|figure| format!("{figure:.3}"));
            [plain(&column.name), bins].into_iter().chain(figures).chain([odd(0), odd(1), odd(2)]).collect()
        })
        .collect();
    out.table(&["FEATURE", "BINS", "MEAN", "STD", "MIN", "MAX", "MISSING", "NOT FINITE", "UNSEEN"], &rows)
}
