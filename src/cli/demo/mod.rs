//! `tidemark demo`: a real year of flights through the real stages, over the log in memory, with no server anywhere.

mod story;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::alert::{Alert, Change, Level};
use crate::baseline::Baseline;
use crate::cli::exit::{Exit, Failure};
use crate::cli::heard::{Heard, decode};
use crate::cli::out::{Format, Out, Tone};
use crate::cli::run::failed;
use crate::cli::session::Session;
use crate::cli::time::{instant, shown, span};
use crate::clock::{DAY_MS, rfc3339};
use crate::config::Config;
use crate::features::Encoder;
use crate::history::Place;
use crate::log::memory::{Limits, MemoryLog};
use crate::log::{Follower, Record, Transaction};
use crate::model::shelf::ModelRef;
use crate::model_event::ModelEvent;
use crate::pipeline::{Part, Pipeline, Stage};
use crate::registry::{LocalRegistry, Registry};
use crate::stage::{Context, Health, Stop};
use crate::status::Status;
use crate::tail::Source;
use crate::tail::normalise::Normalised;
use crate::tail::replay::{Replay, ReplayPlan, ReplaySource, Slowdown, Speed};
use crate::topics::Topics;
use crate::train::baselines::Setting;
use crate::train::candidate::example;
use crate::train::frame::Collecting;
use crate::train::publication::{About, publication};
use crate::train::trial::{Cause, Decision, Request, trial};
use crate::trigger::{Trigger, TriggerChange};
use story::Line;

/// Rows that one of the demo's models is trained on, at most: two months, so that a year of trainings takes seconds.
const TRAINING_ROWS: usize = 50_000;
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

/// What the table at the end tells, and `--output json` prints last.
#[derive(Debug, Default, Serialize)]
struct Totals {
    tickets: u64,
    seconds: f64,
    tickets_per_second: f64,
    marks: u64,
    episodes: Vec<EpisodeRow>,
    triggers: Vec<TriggerRow>,
    trainings: Vec<TrainingRow>,
}

/// One training and what it came to. Errors are Production's mean over one day.
#[derive(Debug, Serialize)]
struct TrainingRow {
    asked: String,
    outcome: String,
    version: Option<u64>,
    mae_before: Option<f64>,
    mae_after: Option<f64>,
    reason: String,
    #[serde(skip)]
    mark: u64,
    #[serde(skip)]
    baseline: Option<u64>,
}

/// Production's mean error over the day that ends with a mark.
#[derive(Debug)]
struct Day {
    mark: u64,
    baseline: Option<u64>,
    full: bool,
    mae: Option<f64>,
}

/// One episode.
#[derive(Debug, Serialize)]
struct EpisodeRow {
    cause: String,
    level: &'static str,
    onset: Option<String>,
    opened: String,
    ended: Option<String>,
    #[serde(skip)]
    id: String,
    #[serde(skip)]
    opened_ms: i64,
    #[serde(skip)]
    ended_ms: Option<i64>,
}

/// One trigger.
#[derive(Debug, Serialize)]
struct TriggerRow {
    kind: &'static str,
    priority: u8,
    raised: String,
    causes: Vec<String>,
    closed: Option<String>,
    #[serde(skip)]
    id: String,
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
    let log = MemoryLog::bounded(Limits { backlog_records: 50_000, topic_bytes: 256 << 20, ..Limits::default() });
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
    let mut teller = Teller::new(arguments, &context, &baseline, session.out.format == Format::Text)?;
    let history = Place::File(arguments.tickets.clone(), slowdown(arguments, &context));
    let stages = if arguments.no_training { &[Stage::Tail, Stage::Watch, Stage::Judge][..] } else { &Stage::ALL[..] };
    let mut pipeline = Pipeline::start(&context, stages, Some(source), &history).map_err(failed)?;
    let mut replayed = false;
    while !(replayed && teller.heard.has_judged_all()) {
        if let Some((part, end)) = pipeline.wait(Duration::ZERO) {
            end.map_err(failed)?;
            replayed |= part == Part::Stage(Stage::Tail);
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
    let days = u32::try_from((to - from) / DAY_MS).unwrap_or(u32::MAX);
    let config = &context.config;
    let setting = Setting {
        spec: &context.spec,
        frame: &frame,
        version: 1,
        created_at_ms: to,
        now_ms: to,
        window_days: &config.window.days,
        answers: None,
    };
    if arguments.no_training {
        return setting.without_model((from, to)).map_err(|error| bad("the demo's baseline", &error));
    }
    let request = Request {
        id: "demo-first",
        cause: Cause::Unprompted,
        now_ms: to,
        window_days: days,
        min_rows: config.train.min_samples,
        max_rows: config.train.max_rows,
        threshold: config.train.duration_error_threshold,
        slice_ms: config.window.slice_ms,
    };
    let trial = trial(&frame, &context.spec, &request, None, &[]).map_err(|error| bad("the demo's first training", &error))?;
    let Decision::Promote(first) = trial.decision else {
        return Err(bad("the demo's first training", &"its model does not meet the criterion"));
    };
    let tried = &trial.tried[first];
    let example = example(&frame, trial.holdout.start, &tried.candidate.model.card().learned);
    let about = About { spec: &context.spec, request: &request, baseline: None, example: &example, onset_ms: None };
    let (publication, file) = publication(&about, &trial, tried).map_err(|error| bad("the demo's first model", &error))?;
    let published = registry.publish(&publication).map_err(|error| bad("the demo's registry", &error))?;
    registry.promote(&context.spec.model, published.version, "the first").map_err(|error| bad("the demo's registry", &error))?;
    let named = ModelRef::of(&context.spec.model, published.version, &file);
    setting.first((from, to), &named, &tried.candidate, trial.holdout.clone()).map_err(|error| bad("the demo's baseline", &error))
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

/// Hears the topics and tells what comes.
struct Teller {
    alerts: Box<dyn Follower>,
    triggers: Box<dyn Follower>,
    model_events: Box<dyn Follower>,
    /// When each training was asked for, by mark.
    asked: BTreeMap<u64, i64>,
    /// Each mark's one day, in order.
    days: Vec<Day>,
    heard: Heard,
    calendar: Vec<Line>,
    bar: Option<ProgressBar>,
    slow: bool,
    month: String,
    totals: Totals,
}

impl Teller {
    fn new(arguments: &Demo, context: &Context, baseline: &Baseline, out_is_text: bool) -> Result<Self, Failure> {
        let follow = |topic: &str| context.log.follow(topic, &[0]);
        let mut calendar = Vec::new();
        if !arguments.no_slowdown {
            let line = |date: &str, text: &str| Line {
                at_ms: at(date),
                word: "INJECTED".to_owned(),
                tone: Tone::Warning,
                text: text.to_owned(),
                more: Vec::new(),
            };
            calendar.push(line(SLOW_TO, "the slow-down ends"));
            calendar.push(line(SLOW_FROM, "the slow-down begins: DEPLOY, TRANSFORM and EXECUTE take 1.6 times as long"));
        }
        let year = baseline.from_ms..at("2014-01-01");
        let bar = (out_is_text && std::io::stderr().is_terminal()).then(|| {
            let days = u64::try_from((year.end - year.start) / DAY_MS).unwrap_or_default();
            let style = ProgressStyle::with_template("  {bar:30} {msg}").expect("the demo's own template");
            ProgressBar::new(days).with_style(style)
        });
        Ok(Self {
            alerts: follow(&context.topics.alerts)?,
            triggers: follow(&context.topics.retraining_triggers)?,
            model_events: follow(&context.topics.model_events)?,
            asked: BTreeMap::new(),
            days: Vec::new(),
            heard: Heard::follow(context)?,
            calendar,
            bar,
            slow: !arguments.no_slowdown,
            month: String::new(),
            totals: Totals::default(),
        })
    }

    /// Waits a moment for verdicts and tells them, each after what it led to.
    fn listen(&mut self, out: &mut Out) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for status in self.heard.poll(Duration::from_millis(50))? {
            lines.extend(self.verdict(&status).map(|line| (line, None)));
        }
        for record in self.alerts.poll(Duration::ZERO)? {
            let alert: Alert = decode(&record, "alerts")?;
            self.count_alert(&alert);
            lines.extend(story::alert(&alert).map(|line| (line, Some(serde_json::to_value(&alert)))));
        }
        for record in self.triggers.poll(Duration::ZERO)? {
            let trigger: Trigger = decode(&record, "retraining-triggers")?;
            self.count_trigger(&trigger);
            if let (TriggerChange::Due, Some(mark)) = (trigger.change, trigger.asked) {
                self.asked.insert(mark, trigger.at_ms);
            } else {
                lines.push((story::trigger(&trigger), Some(serde_json::to_value(&trigger))));
            }
        }
        for record in self.model_events.poll(Duration::ZERO)? {
            let Ok(Some(event)) = ModelEvent::decode(record.value.as_deref().unwrap_or_default()) else { continue };
            lines.extend(self.training(&event).map(|line| (line, Some(serde_json::to_value(&event)))));
        }
        lines.sort_by_key(|(line, _)| line.at_ms);
        for (line, json) in lines {
            while self.calendar.last().is_some_and(|next| next.at_ms <= line.at_ms) {
                let next = self.calendar.pop().expect("it was there");
                self.tell(&next, out)?;
            }
            match json {
                Some(json) if out.format == Format::Json => {
                    out.json_line(&json.map_err(|error| Failure::new(Exit::Failed, format!("an alert has no JSON form: {error}")))?)?;
                }
                _ => self.tell(&line, out)?,
            }
        }
        Ok(())
    }

    fn tell(&self, line: &Line, out: &mut Out) -> Result<(), Failure> {
        if out.format == Format::Json {
            return Ok(());
        }
        let text = line.render(out);
        match &self.bar {
            Some(bar) => bar.suspend(|| out.line(text)),
            None => out.line(text),
        }
    }

    /// Counts an answer to a training; returns the line that tells it.
    fn training(&mut self, event: &ModelEvent) -> Option<Line> {
        let ModelEvent::Outcome { outcome, reason, mark: Some(mark), baseline, version, .. } = event else { return None };
        let at_ms = self.asked.get(mark).copied()?;
        self.totals.trainings.push(TrainingRow {
            asked: rfc3339(at_ms),
            outcome: outcome.clone(),
            version: *version,
            mae_before: None,
            mae_after: None,
            mark: *mark,
            reason: reason.clone(),
            baseline: *baseline,
        });
        Some(story::training(at_ms, outcome, *version, reason))
    }

    /// Counts a verdict. Without a terminal the first of a month makes a line.
    fn verdict(&mut self, status: &Status) -> Option<Line> {
        self.totals.marks = status.mark;
        if let Some(day) = status.windows.first() {
            self.days.push(Day { mark: status.mark, baseline: status.baseline, full: day.full, mae: day.mae });
        }
        let word = status.status.map_or(status.state.name(), Level::name);
        if let Some(bar) = &self.bar {
            bar.set_position(u64::try_from((status.at_ms - at(BASELINE_FROM)) / DAY_MS).unwrap_or_default());
            bar.set_message(format!("{}  {word}", shown(status.at_ms)));
            return None;
        }
        let month = rfc3339(status.at_ms).get(..7).map(str::to_owned)?;
        let is_new = month != self.month;
        self.month = month;
        is_new.then(|| Line {
            at_ms: status.at_ms,
            word: word.to_owned(),
            tone: Tone::Faint,
            text: "replayed so far".to_owned(),
            more: Vec::new(),
        })
    }

    fn count_alert(&mut self, alert: &Alert) {
        let Alert::Episode(episode) = alert else { return };
        match episode.change {
            Change::Opened => self.totals.episodes.push(EpisodeRow {
                cause: episode.cause.clone(),
                level: episode.level.name(),
                onset: episode.onset_ms.map(rfc3339),
                opened: rfc3339(episode.at_ms),
                ended: None,
                id: episode.episode.clone(),
                opened_ms: episode.at_ms,
                ended_ms: None,
            }),
            Change::Escalated | Change::Resolved | Change::Accepted => {
                let Some(row) = self.totals.episodes.iter_mut().find(|row| row.id == episode.episode) else { return };
                row.level = episode.level.name();
                if episode.change != Change::Escalated {
                    row.ended = Some(rfc3339(episode.at_ms));
                    row.ended_ms = Some(episode.at_ms);
                }
            }
        }
    }

    fn count_trigger(&mut self, trigger: &Trigger) {
        let causes = || trigger.causes.iter().map(|cause| cause.cause.clone()).collect();
        if trigger.change == TriggerChange::Raised {
            self.totals.triggers.push(TriggerRow {
                kind: trigger.trigger_type.name(),
                priority: trigger.priority,
                raised: rfc3339(trigger.raised_at_ms),
                causes: causes(),
                closed: None,
                id: trigger.id.clone(),
            });
        } else if let Some(row) = self.totals.triggers.iter_mut().find(|row| row.id == trigger.id) {
            row.causes = causes();
            if trigger.change == TriggerChange::Closed {
                row.closed = Some(rfc3339(trigger.at_ms));
            }
        }
    }
}

impl Teller {
    fn conclude(mut self, seconds: f64, out: &mut Out) -> Result<(), Failure> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        for row in &mut self.totals.trainings {
            row.mae_before = self.days.iter().find(|day| day.mark == row.mark).and_then(|day| day.mae);
            let first_full = self.days.iter().find(|day| day.full && row.version.is_some() && day.baseline == row.baseline);
            row.mae_after = first_full.and_then(|day| day.mae);
        }
        self.totals.seconds = seconds;
        self.totals.tickets = self.heard.rows();
        self.totals.tickets_per_second = self.totals.tickets as f64 / seconds;
        if out.format == Format::Json {
            return out.json_line(&serde_json::json!({"event": "summary", "totals": self.totals}));
        }
        let totals = &self.totals;
        out.line("")?;
        let title = out.tone(Tone::Strong, "The year in one table");
        out.line(title)?;
        let rows: Vec<Vec<String>> = totals
            .episodes
            .iter()
            .map(|row| {
                let lasted = row.ended_ms.map_or_else(|| "still open".to_owned(), |end| span(end - row.opened_ms));
                let cell = |time: &Option<String>| time.as_deref().map_or_else(|| "-".to_owned(), short);
                vec![row.cause.clone(), row.level.to_owned(), cell(&row.onset), short(&row.opened), cell(&row.ended), lasted]
            })
            .collect();
        out.table(&["cause", "level", "began about", "alarm", "end", "lasted"], &rows)?;
        out.line("")?;
        let rows: Vec<Vec<String>> = totals
            .triggers
            .iter()
            .map(|row| {
                let closed = row.closed.as_deref().map_or_else(|| "still open".to_owned(), short);
                vec![row.kind.to_owned(), row.priority.to_string(), row.causes.join(", "), short(&row.raised), closed]
            })
            .collect();
        out.table(&["retraining trigger", "priority", "causes", "raised", "closed"], &rows)?;
        out.line("")?;
        let minutes = |mae: Option<f64>| mae.map_or_else(|| "-".to_owned(), |mae| format!("{:.1} min", mae / 60_000.0));
        let rows: Vec<Vec<String>> = totals
            .trainings
            .iter()
            .map(|row| {
                let version = row.version.map_or_else(|| "-".to_owned(), |version| version.to_string());
                vec![short(&row.asked), row.outcome.clone(), version, minutes(row.mae_before), minutes(row.mae_after)]
            })
            .collect();
        if !rows.is_empty() {
            out.table(&["training asked for", "outcome", "version", "error over a day before", "after"], &rows)?;
            out.line("")?;
        }
        out.line(format!(
            "  {} tickets in {seconds:.1} s ({:.0} tickets/s), a look at every one of {} hours",
            totals.tickets, totals.tickets_per_second, totals.marks
        ))?;
        if self.slow {
            out.line(
                "  The slow-down was injected by this demo; the clock change in March (hour_of_day), the summer and the winds are real.",
            )?;
        }
        out.line("")?;
        let title = out.tone(Tone::Strong, "Next");
        out.line(title)?;
        for (command, what) in [
            ("tidemark demo --no-slowdown", "the year as it was"),
            ("tidemark demo --no-training", "the schedule's own estimates watched, and nobody answers"),
            (
                "tidemark check --tickets data/flights-demo.ndjson.zst --baseline-from 2013-01-01 --baseline-to 2013-03-01 --at 2013-03-22 --window 7d",
                "one window, one verdict",
            ),
            ("script/servers start", "MongoDB and Kafka on this machine; then see \"On real servers\" in the README"),
        ] {
            out.line(format!("  {command}"))?;
            let what = out.tone(Tone::Faint, what);
            out.line(format!("      {what}"))?;
        }
        Ok(())
    }
}

/// Shortens RFC 3339 to the minute.
fn short(time: &str) -> String {
    time.get(..16).map_or_else(|| time.to_owned(), |text| text.replace('T', " "))
}
