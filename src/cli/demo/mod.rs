//! `tidemark demo`: a real year of flights through the real stages, over the log in memory, with no server anywhere.

mod story;
mod teller;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::baseline::Baseline;
use crate::cli::exit::{Exit, Failure};
use crate::cli::out::{Format, Out, Tone};
use crate::cli::run::failed;
use crate::cli::session::Session;
use crate::cli::time::{instant, shown};
use crate::clock::{DAY_MS, rfc3339};
use crate::config::Config;
use crate::features::Encoder;
use crate::history::Place;
use crate::log::memory::{Limits, MemoryLog};
use crate::log::{Record, Transaction};
use crate::pipeline::{Part, Pipeline, Stage};
use crate::registry::{LocalRegistry, Registry};
use crate::stage::{Context, Health, Stop};
use crate::tail::Source;
use crate::tail::normalise::Normalised;
use crate::tail::replay::{Replay, ReplayPlan, ReplaySource, Slowdown, Speed};
use crate::topics::Topics;
use crate::train::baselines::Setting;
use crate::train::first::first;
use crate::train::frame::Collecting;
use teller::Teller;

/// Rows that one of the demo's models is trained on, at most: some three weeks, so that a year of trainings takes seconds.
const TRAINING_ROWS: usize = 20_000;
/// Room for every verdict of the year, so that its table has all of them however busy the machine is.
const STATUS_BYTES: usize = 256 << 20;
/// Start of the demo's baseline.
const BASELINE_FROM: &str = "2013-01-01";
/// Its end, exclusive.
const BASELINE_TO: &str = "2013-03-01";
/// Start of the injected slow-down.
const SLOW_FROM: &str = "2013-07-01";
/// Its end, exclusive.
const SLOW_TO: &str = "2013-08-15";

/// Replays a real year of flights, dressed as tickets, through the real stages; needs no server
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tidemark demo
  tidemark demo --no-slowdown       the year as it was
  tidemark demo --output json       one JSON object a line, for a program")]
pub struct Demo {
    /// File of tickets (NDJSON, also .gz and .zst)
    #[arg(long, value_name = "FILE", default_value = "data/flights-demo.ndjson.zst")]
    tickets: PathBuf,
    /// Leave the flights as they were: inject no slow-down
    #[arg(long)]
    no_slowdown: bool,
    /// Train nothing: the tickets' own estimates are watched, and requests for trainings stay unanswered
    #[arg(long)]
    no_training: bool,
    /// Pace of the replay: max, or a multiple of real time such as 36000x
    #[arg(long, default_value = "max")]
    speed: Speed,
    /// Partitions of the topic `tickets`; the verdicts are the same with any number
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    partitions: u32,
}

/// Runs the demo.
///
/// # Errors
/// Exit 5 when the file cannot be used; exit 1 when a stage fails.
pub(super) fn run(arguments: &Demo, session: &mut Session) -> Result<Exit, Failure> {
    let spec = Arc::new(session.spec()?);
    let mut config = Config::default();
    config.kafka.partitions = arguments.partitions;
    config.http.listen = String::new();
    let stop = Stop::default();
    let models = tempfile::tempdir().map_err(|error| Failure::new(Exit::Failed, format!("no folder for the demo's models: {error}")))?;
    let registry: Arc<dyn Registry> = Arc::new(LocalRegistry::new(models.path()));
    config.train.max_rows = TRAINING_ROWS;
    config.registry.cache = models.path().join("cache").display().to_string();
    let log =
        MemoryLog::bounded(Limits { backlog_records: 50_000, topic_bytes: 256 << 20, superseded_bytes: STATUS_BYTES, ..Limits::default() });
    let context = Context {
        topics: Arc::new(Topics::new(&config.kafka.topic_prefix)),
        config: Arc::new(config),
        spec,
        log: Arc::new(log),
        stop,
        health: Health::default(),
        registry: Some(Arc::clone(&registry)),
    };
    context.log.create_topics(&context.topics.settings(&context.config.topic_plan()))?;

    introduce(arguments, &mut session.out)?;
    let baseline = baseline(arguments, &context, registry.as_ref())?;
    tell_baseline(&baseline, &mut session.out)?;
    publish(&baseline, &context)?;

    let begun = Instant::now();
    let source = source(arguments, &context, &baseline);
    let mut teller = Teller::new(!arguments.no_slowdown, &context, &baseline, session.out.format == Format::Text)?;
    let history = Place::File(arguments.tickets.clone(), slowdown(arguments, &context));
    let stages = if arguments.no_training { &[Stage::Tail, Stage::Watch, Stage::Judge][..] } else { &Stage::ALL[..] };
    let mut pipeline = Pipeline::start(&context, stages, Some(source), &history).map_err(failed)?;
    let mut replayed = false;
    while !(replayed && teller.has_judged_all()) {
        if let Some((part, end)) = pipeline.wait(Duration::ZERO) {
            end.map_err(failed)?;
            if part == Part::Stage(Stage::Tail) {
                replayed = true;
                teller.tail_has_ended(&context)?;
            }
        }
        teller.listen(&mut session.out)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    pipeline.stop(Duration::from_secs(10)).map_err(failed)?;
    teller.conclude(seconds, &mut session.out)?;
    Ok(Exit::Ok)
}

/// Trains the first model on the demo's first two months, and makes the baseline that goes with it.
fn baseline(arguments: &Demo, context: &Context, registry: &dyn Registry) -> Result<Baseline, Failure> {
    let bad = |what: &str, error: &dyn std::fmt::Display| Failure::new(Exit::BadInput, format!("{what}: {error}"));
    let (from, to) = (at(BASELINE_FROM), at(BASELINE_TO));
    let encoder = Encoder::new(&context.spec).map_err(|error| bad("the demo's spec", &error))?;
    let mut rows = Collecting::new(Arc::new(encoder));
    for row in Replay::open(&arguments.tickets, &context.spec).map_err(|error| bad("reading the demo's tickets", &error))? {
        match row.map_err(|error| bad("reading the demo's tickets", &error))?.normalised {
            // The file is in order of completion, so that a day later nothing of the baseline can come.
            Normalised::Completed(ticket) if ticket.completed_at_ms >= to + DAY_MS => break,
            Normalised::Completed(ticket) => rows.push(&ticket),
            Normalised::Other(Some(ticket)) => rows.push_other(&ticket),
            Normalised::Other(None) | Normalised::Dead(_) => {}
        }
    }
    let frame = rows.frame();
    if arguments.no_training {
        let setting = Setting {
            spec: &context.spec,
            frame: &frame,
            version: 1,
            created_at_ms: to,
            now_ms: to,
            window_days: &context.config.window.days,
            answers: None,
        };
        return setting.without_model((from, to)).map_err(|error| bad("the demo's baseline", &error));
    }
    first(&frame, &context.spec, &context.config, registry, "demo-first", (from, to)).map_err(|error| bad("the demo's first model", &error))
}

/// Publishes the baseline where tail, watch and judge look for it.
fn publish(baseline: &Baseline, context: &Context) -> Result<(), Failure> {
    let record = Record {
        topic: context.topics.baselines.clone(),
        partition: 0,
        key: Some(format!("{}@{}", baseline.spec, baseline.version).into()),
        value: Some(serde_json::to_vec(baseline).expect("a baseline has only texts and numbers").into()),
        headers: Vec::new(),
    };
    let mut producer = context.log.producer(&format!("{}.baseline", context.config.kafka.topic_prefix))?;
    producer
        .transact(Transaction { records: vec![record], ..Transaction::default() })
        .map_err(|error| Failure::new(Exit::Failed, format!("publishing the baseline: {error}")))
}

fn source(arguments: &Demo, context: &Context, baseline: &Baseline) -> Box<dyn Source> {
    let plan = ReplayPlan {
        file: arguments.tickets.clone(),
        speed: arguments.speed,
        slowdown: slowdown(arguments, context),
        await_baseline: Some((baseline.to_ms, baseline.version)),
        lives_through: !arguments.no_training,
    };
    Box::new(ReplaySource::new(plan, &context.spec))
}

fn slowdown(arguments: &Demo, context: &Context) -> Option<Slowdown> {
    if arguments.no_slowdown { None } else { Slowdown::of_the_demo(&context.spec) }
}

fn at(date: &str) -> i64 {
    instant(date).expect("the demo's own dates are dates")
}

fn introduce(arguments: &Demo, out: &mut Out) -> Result<(), Failure> {
    if out.format == Format::Json {
        return Ok(());
    }
    let title = out.tone(Tone::Strong, "Tidemark: a real year of flights, dressed as tickets, through tail, watch, judge and train");
    out.line(title)?;
    out.line(format!("  tickets   {} (every flight out of New York in 2013, CC0)", arguments.tickets.display()))?;
    out.line(
        "  log       in this process's memory; the stages are those that run on Kafka; models in a directory that stands in for MLflow",
    )?;
    if arguments.no_slowdown {
        out.line("  injected  nothing: the year as it was")?;
    } else {
        out.line(format!(
            "  injected  a slow-down: from {SLOW_FROM} to {SLOW_TO} the demo multiplies the durations of DEPLOY, TRANSFORM and EXECUTE by 1.6\n            (--no-slowdown turns it off); everything else is as it was"
        ))?;
    }
    out.line("")
}

fn tell_baseline(baseline: &Baseline, out: &mut Out) -> Result<(), Failure> {
    if out.format == Format::Json {
        return out.json_line(&serde_json::json!({"event": "baseline", "version": baseline.version, "rows": baseline.rows,
            "from": rfc3339(baseline.from_ms), "to": rfc3339(baseline.to_ms), "target_mean": baseline.target.mean,
            "mae": baseline.errors.get(crate::drift::look::judged_series(baseline)).map(|e| e.mae)}));
    }
    let mae =
        baseline.errors.get(crate::baseline::RECORDED).map_or_else(|| "unknown".to_owned(), |e| format!("{:.1} min", e.mae / 60_000.0));
    let windows: Vec<String> = baseline.noise.iter().map(|noise| noise.days.to_string()).collect();
    out.line(format!(
        "  baseline  version {}, {} to {}: {} tickets, {} features, mean duration {:.1} min, mean error of the schedule's own estimate {mae}; its own noise measured for windows of {} days",
        baseline.version,
        shown(baseline.from_ms),
        shown(baseline.to_ms),
        baseline.rows,
        baseline.columns.len(),
        baseline.target.mean / 60_000.0,
        windows.join(", ")
    ))?;
    if let (Some(model), Some(errors)) = (&baseline.scored_by, baseline.errors.get(crate::drift::look::judged_series(baseline))) {
        out.line(format!(
            "  model     version {} trained on the same months: mean error {:.1} min on the {:.0} days that were held out; it is watched from here on",
            model.version,
            errors.mae / 60_000.0,
            errors.days
        ))?;
    }
    out.line("")
}
