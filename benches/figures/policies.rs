//! A year of flights under four policies of retraining: what each costs in trainings, and what it brings in error.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemark::baseline::Baseline;
use tidemark::clock::DAY_MS;
use tidemark::config::{Config, Decision};
use tidemark::features::Encoder;
use tidemark::history::Place;
use tidemark::log::memory::{Limits, MemoryLog};
use tidemark::log::{Record, Transaction};
use tidemark::model_event::ModelEvent;
use tidemark::pipeline::{Part, Pipeline, Stage};
use tidemark::registry::{LocalRegistry, Registry};
use tidemark::spec::Spec;
use tidemark::stage::{Context, Health, Stop};
use tidemark::tail::normalise::Normalised;
use tidemark::tail::position::Position;
use tidemark::tail::replay::{Replay, ReplayPlan, ReplaySource, Slowdown, Speed};
use tidemark::topics::Topics;
use tidemark::train::first::first;
use tidemark::train::frame::{Collecting, Frame};
use tidemark::train::trial::{Cause, Known, Request, predictions, trial};

use super::{Figure, flights};

/// 1 January, 1 March 2013, and 1 January 2014.
const YEAR_MS: [i64; 3] = [1_356_998_400_000, 1_362_096_000_000, 1_388_534_400_000];
/// Rows that a model is trained on, at most: two months.
const ROWS: usize = 50_000;

/// What a policy came to: from March on, every ticket's error under the model that was in Production when it completed.
struct Lived {
    mae_ms: f64,
    trainings: u64,
    promotions: u64,
}

fn file() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data/flights-demo.ndjson.zst"))
}

/// The year's rows, slowed down in summer as the demo does.
fn frame(spec: &Spec) -> Frame {
    let mut rows = Collecting::new(Arc::new(Encoder::new(spec).expect("the spec is sound")));
    let slowdown = Slowdown::of_the_demo(spec).expect("the spec has task types");
    for row in Replay::open(&file(), spec).expect("the flights are there").with_slowdown(slowdown) {
        match row.expect("the flights can be read").normalised {
            Normalised::Completed(ticket) => rows.push(&ticket),
            Normalised::Other(Some(ticket)) => rows.push_other(&ticket),
            Normalised::Other(None) | Normalised::Dead(_) => {}
        }
    }
    rows.frame()
}

fn config(decision: Decision) -> Config {
    let mut config = Config::default();
    config.kafka.partitions = 1;
    config.train.max_rows = ROWS;
    config.judge.decision = decision;
    config
}

/// A training every week on everything there is, and what it makes goes to Production, as a scheduled job does.
fn weekly(spec: &Spec, frame: &Frame) -> Lived {
    let config = config(Decision::Calibrated);
    let (mut total, mut rows, mut trainings) = (0.0, 0, 0);
    let mut now_ms = YEAR_MS[1];
    while now_ms < YEAR_MS[2] {
        let request = Request {
            id: &format!("weekly-{trainings}"),
            cause: Cause::Unprompted,
            now_ms,
            window_days: config.train.window_days,
            min_rows: config.train.min_samples,
            max_rows: config.train.max_rows,
            threshold: config.train.duration_error_threshold,
            slice_ms: config.window.slice_ms,
        };
        let trained = trial(frame, spec, &request, None, &[]).expect("there is enough");
        trainings += 1;
        let model = Known { version: trainings, model: Arc::new(trained.tried[0].candidate.model.clone()) };
        let week = frame.between(now_ms, (now_ms + 7 * DAY_MS).min(YEAR_MS[2]));
        rows += week.len();
        total += predictions(frame, &model.model, week.clone()).iter().zip(&frame.actual()[week]).map(|(p, a)| (p - a).abs()).sum::<f64>();
        now_ms += 7 * DAY_MS;
    }
    Lived { mae_ms: total / rows as f64, trainings: trainings - 1, promotions: trainings - 1 }
}

/// The stages as they are, with or without train, under either rule of decision.
fn stages(spec: &Spec, frame: &Frame, decision: Decision, stages: &[Stage]) -> Lived {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let registry: Arc<dyn Registry> = Arc::new(LocalRegistry::new(folder.path()));
    let mut config = config(decision);
    config.registry.cache = folder.path().join("cache").display().to_string();
    config.http.listen = String::new();
    let baseline = first(frame, spec, &config, registry.as_ref(), "policies-first", (YEAR_MS[0], YEAR_MS[1])).expect("a first model");
    let limits = Limits { backlog_records: 50_000, topic_bytes: 1 << 30, ..Limits::default() };
    let context = Context {
        topics: Arc::new(Topics::new(&config.kafka.topic_prefix)),
        config: Arc::new(config),
        spec: Arc::new(spec.clone()),
        log: Arc::new(MemoryLog::bounded(limits)),
        stop: Stop::default(),
        health: Health::default(),
        registry: Some(registry),
    };
    context.log.create_topics(&context.topics.settings(&context.config.topic_plan())).expect("the log takes topics");
    publish(&context, &baseline);
    let plan = ReplayPlan {
        file: file(),
        speed: Speed::Max,
        slowdown: Slowdown::of_the_demo(spec),
        await_baseline: Some((YEAR_MS[1], 1)),
        lives_through: stages.contains(&Stage::Train),
    };
    let source = Box::new(ReplaySource::new(plan, spec));
    let mut errors = context.log.follow(&context.topics.prediction_errors, &[0]).expect("the topic is there");
    let mut statuses = context.log.follow(&context.topics.status, &[0]).expect("the topic is there");
    let place = Place::File(file(), Slowdown::of_the_demo(spec));
    let mut pipeline = Pipeline::start(&context, stages, Some(source), &place).expect("the stages start");
    let (mut total, mut rows, mut last_mark, mut judged) = (0.0, 0_u64, None, 0);
    loop {
        if let Some((part, end)) = pipeline.wait(Duration::ZERO) {
            end.expect("the stages run");
            if part == Part::Stage(Stage::Tail) {
                last_mark = Some(last_position(&context).next_mark - 1);
            }
        }
        if let Some(record) = statuses.poll(Duration::ZERO).expect("memory").last() {
            let status: tidemark::status::Status = serde_json::from_slice(record.value.as_deref().unwrap_or_default()).expect("a status");
            judged = status.mark;
        }
        let records = errors.poll(Duration::from_millis(20)).expect("memory");
        let is_over = records.is_empty() && last_mark.is_some_and(|last| judged >= last);
        // The ticket's own prediction has no series in its headers; Production's has.
        for record in records.iter().filter(|record| record.header("series").is_some()) {
            let error: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default()).expect("an error");
            if error["completed_at"].as_i64().expect("a time") >= YEAR_MS[1] {
                total += error["absolute_error"].as_f64().expect("a number");
                rows += 1;
            }
        }
        if is_over {
            break;
        }
    }
    pipeline.stop(Duration::from_secs(10)).expect("the stages stop");
    let (mut trainings, mut promotions) = (0, 0);
    let mut events = context.log.follow(&context.topics.model_events, &[0]).expect("the topic is there");
    for record in std::iter::from_fn(|| Some(events.poll(Duration::ZERO).expect("memory")).filter(|records| !records.is_empty())).flatten()
    {
        if let Ok(Some(ModelEvent::Outcome { outcome, version, .. })) = ModelEvent::decode(record.value.as_deref().unwrap_or_default()) {
            trainings += u64::from(outcome != "not_yet");
            promotions += u64::from(version.is_some());
        }
    }
    Lived { mae_ms: total / rows as f64, trainings, promotions }
}

fn publish(context: &Context, baseline: &Baseline) {
    let record = Record {
        topic: context.topics.baselines.clone(),
        partition: 0,
        key: Some(format!("{}@{}", baseline.spec, baseline.version).into()),
        value: Some(serde_json::to_vec(baseline).expect("JSON").into()),
        headers: Vec::new(),
    };
    let mut producer = context.log.producer("policies").expect("memory");
    producer.transact(Transaction { records: vec![record], ..Transaction::default() }).expect("memory");
}

fn last_position(context: &Context) -> Position {
    let mut positions = context.log.follow(&context.topics.positions, &[0]).expect("the topic is there");
    let mut last = None;
    while let Some(record) = positions.poll(Duration::ZERO).expect("memory").pop() {
        last = record.value;
    }
    Position::decode(&last.expect("tail wrote a position")).expect("tail writes positions")
}

/// Deterministic: one run is as good as five.
pub(crate) fn policies(_runs: usize) -> Vec<Figure> {
    let spec = flights::spec();
    let frame = frame(&spec);
    const WITHOUT: [Stage; 3] = [Stage::Tail, Stage::Watch, Stage::Judge];
    let never = stages(&spec, &frame, Decision::Calibrated, &WITHOUT);
    let all = [
        ("weekly, whatever comes of it", weekly(&spec, &frame)),
        ("at the bare thresholds", stages(&spec, &frame, Decision::Thresholds, &Stage::ALL)),
        ("tidemark", stages(&spec, &frame, Decision::Calibrated, &Stage::ALL)),
    ];
    let figure = |name: &str, lived: &Lived| Figure {
        name: format!("retrained {name}: {} trainings, {} promoted; MAE", lived.trainings, lived.promotions),
        value: lived.mae_ms / 60_000.0,
        unit: "min",
        baseline: Some(never.mae_ms / 60_000.0),
        against: "never",
        goal: "whatever it shows",
        holds: true,
    };
    all.iter().map(|(name, lived)| figure(name, lived)).collect()
}
