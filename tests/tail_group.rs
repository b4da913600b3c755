//! The first stage and its group: what it says of itself before it has a seat there.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tidemark::config::Config;
use tidemark::log::Log;
use tidemark::log::memory::MemoryLog;
use tidemark::spec::Spec;
use tidemark::stage::{Context, Health, State, Stop};
use tidemark::tail::replay::{ReplayPlan, ReplaySource, Speed};
use tidemark::tail::{self, TailError};
use tidemark::topics::Topics;

use crate::support::disturbed::{Disturbed, Gate, Ways};
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(30);

/// The tail over a file that never ends in the time of a test: its second ticket is a year late.
fn run(log: Arc<dyn Log>) -> (Context, thread::JoinHandle<Result<(), TailError>>) {
    let topics = Topics::new("tidemark");
    let config = Config::default();
    log.create_topics(&topics.settings(&config.topic_plan())).unwrap();
    let context = Context {
        config: Arc::new(config),
        spec: Arc::new(Spec::from_toml(include_str!("../config/execution-tickets.toml")).unwrap()),
        topics: Arc::new(topics),
        log,
        stop: Stop::default(),
        health: Health::default(),
        registry: None,
    };
    let thread = thread::spawn({
        let context = context.clone();
        move || {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("tickets.ndjson");
            let line = |n: i64, ms: i64| {
                format!(r#"{{"ticket_id":"{n}","status":"COMPLETED","completed_at":{ms},"actual_duration_ms":5}}"#) + "\n"
            };
            let lines: String = (0..60).map(|n| line(n, 1_362_898_800_000 + (n / 30) * 31_536_000_000)).collect();
            std::fs::write(&file, lines).unwrap();
            let plan = ReplayPlan { file, speed: Speed::Times(1.0), slowdown: None, await_baseline: None, lives_through: false };
            tail::run(&context, Box::new(ReplaySource::new(plan, &context.spec)))
        }
    });
    (context, thread)
}

#[test]
fn a_tail_is_not_ready_before_it_has_joined_its_group() {
    let log = MemoryLog::new();
    let gate = Gate::default();
    let hears = {
        let gate = gate.clone();
        Box::new(move |group: &str| group != "tidemark.tail" || gate.is_open())
    };
    let (context, thread) = run(Arc::new(Disturbed::new(&log, Ways { hears, ..Ways::default() })));
    let said = wait_until("it speaks", LIMIT, || context.health.all().get(tail::PART).cloned());
    assert_eq!(said, State::Waiting("joining its group".to_owned()));
    assert!(!context.health.is_ready());
    // A twin that is heard leads meanwhile: the first one knows nothing of it.
    let (leader, leading) = run(Arc::new(log));
    let leads = |state: &State| matches!(state, State::Ready(words) if words.starts_with("leading"));
    wait_until("the twin leads", LIMIT, || leader.health.all().get(tail::PART).filter(|state| leads(state)).cloned());
    assert!(!context.health.is_ready(), "{:?}", context.health.all());
    gate.open();
    wait_until("it has joined", LIMIT, || context.health.is_ready().then_some(()));
    for (context, thread) in [(context, thread), (leader, leading)] {
        context.stop.ask();
        thread.join().unwrap().unwrap();
    }
}
