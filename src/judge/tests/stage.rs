//! The stage over the log: whatever fails, in whatever pieces and order, the bytes are the same.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::clock::DAY_MS;
use crate::log::memory::slow::SlowLog;
use crate::log::memory::{Fault, MemoryLog};
use crate::log::{Delivered, Log, Record, Transaction};
use crate::stage::{Context, Health, Stop};
use crate::topics::Topics;
use crate::trigger::Trigger;

struct Run {
    log: MemoryLog,
    context: Context,
}

impl Run {
    fn new() -> Self {
        let log = MemoryLog::new();
        let mut config = Config::default();
        config.instance = "i".to_owned();
        let topics = Topics::new("tidemark");
        log.create_topics(&topics.settings(&config.topic_plan())).unwrap();
        let context = Context {
            config: Arc::new(config),
            spec: Arc::new(spec()),
            topics: Arc::new(topics),
            log: Arc::new(log.clone()),
            stop: Stop::default(),
            health: Health::default(),
            registry: None,
        };
        Self { log, context }
    }

    fn write(&self, records: Vec<Record>) {
        self.log.producer("test").unwrap().transact(Transaction { records, ..Transaction::default() }).unwrap();
    }

    fn publish_baseline(&self, baseline: &Baseline) {
        self.write(vec![Record {
            topic: self.context.topics.baselines.clone(),
            partition: 0,
            key: Some(Bytes::from(format!("parcels@{}", baseline.version))),
            value: Some(Bytes::from(serde_json::to_vec(baseline).unwrap())),
            headers: vec![],
        }]);
    }

    fn publish(&self, summaries: &[Summary]) {
        let record = |summary: &Summary| Record {
            topic: self.context.topics.summaries.clone(),
            partition: 0,
            key: Some(Bytes::from(summary.partition.to_string())),
            value: Some(Bytes::from(serde_json::to_vec(summary).unwrap())),
            headers: vec![],
        };
        self.write(summaries.iter().map(record).collect());
    }

    fn read(&self, topic: &str) -> Vec<Delivered> {
        let mut reader = self.log.reader().unwrap();
        let bounds = reader.bounds(topic, 0).unwrap();
        let mut records = vec![];
        let mut keep = |record| {
            records.push(record);
            ControlFlow::Continue(())
        };
        reader.read(topic, 0, bounds.low, bounds.end, &mut keep).unwrap();
        records
    }

    fn last_mark(&self) -> Option<u64> {
        self.read(&self.context.topics.status).last().map(mark_of)
    }

    /// Runs a judge until the status of `mark` is visible.
    fn judge_until(&self, mark: u64) {
        let context = Context { stop: Stop::default(), ..self.context.clone() };
        let stop = context.stop.clone();
        let judge = thread::spawn(move || super::run(&context));
        let mut follower = self.log.follow(&self.context.topics.status, &[0]).unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        let mut reached = None;
        while reached < Some(mark) {
            assert!(Instant::now() < patience, "mark {mark} was not judged: {reached:?} {:?}", self.context.health.all());
            let newest = follower.poll(Duration::from_millis(50)).unwrap().pop();
            reached = newest.map(|record| mark_of(&record)).or(reached);
        }
        stop.ask();
        judge.join().unwrap().unwrap();
    }

    /// What consumers see: alerts, triggers, the last status; without offsets and times of the log.
    fn seen(&self) -> (Vec<Seen>, Vec<Seen>, Option<Bytes>) {
        let bare = |topic: &str| self.read(topic).into_iter().map(|r| (r.key, r.value, r.headers)).collect();
        let status = self.read(&self.context.topics.status).pop().and_then(|record| record.value);
        (bare(&self.context.topics.alerts), bare(&self.context.topics.retraining_triggers), status)
    }
}

fn mark_of(record: &Delivered) -> u64 {
    serde_json::from_slice::<Status>(record.value.as_ref().unwrap()).unwrap().mark
}

type Seen = (Option<Bytes>, Option<Bytes>, Vec<crate::log::Header>);

fn story(partitions: u32) -> Vec<Summary> {
    let mut stream = Stream::new(partitions, Some(1));
    let mut summaries = stream.hours(World::Usual, 24 * 9);
    summaries.extend(stream.hours(World::Slow, 24 * 4));
    summaries.extend(stream.hours(World::Usual, 24 * 9));
    summaries
}

const STORY_MARKS: u64 = 24 * 22;

#[test]
fn a_log_that_is_too_slow_for_large_transactions_gets_small_ones() {
    let [whole, mut run] = [Run::new(), Run::new()];
    let slow = SlowLog::new(&run.log, 20);
    run.context.log = Arc::new(slow.clone());
    for each in [&whole, &run] {
        each.publish_baseline(&baseline(1, 0));
        each.publish(&story(1));
        each.judge_until(STORY_MARKS);
    }
    assert!(slow.ended.load(Ordering::Relaxed) > 0, "nothing was too large");
    assert_eq!(run.seen(), whole.seen());
}

#[test]
fn the_stage_writes_alerts_triggers_and_status() {
    let run = Run::new();
    run.publish_baseline(&baseline(1, 0));
    run.publish(&story(2));
    run.judge_until(STORY_MARKS);
    let (alerts, triggers, status) = run.seen();
    assert_eq!(alerts.len(), 4);
    assert_eq!(triggers.len(), 4, "raised, due, joined, closed");
    let status: Status = serde_json::from_slice(&status.unwrap()).unwrap();
    assert_eq!((status.mark, status.status), (STORY_MARKS, Some(Level::Ok)));
    let trigger: Trigger = serde_json::from_slice(triggers[0].1.as_ref().unwrap()).unwrap();
    assert_eq!(trigger.trigger_type, TriggerType::Performance);
    let event = CloudEvent::from_record(&run.read(&run.context.topics.alerts)[0]).unwrap();
    assert_eq!(event.kind, "tidemark.alert.opened.v1");
    assert_eq!(event.time_ms, alert(&event).at_ms);
    let ids: BTreeSet<String> =
        run.read(&run.context.topics.alerts).iter().map(|record| CloudEvent::from_record(record).unwrap().id).collect();
    assert_eq!(ids.len(), 4, "every event has an id of its own");
}

#[test]
fn a_restart_after_every_few_marks_writes_the_same_bytes() {
    let whole = Run::new();
    whole.publish_baseline(&baseline(1, 0));
    whole.publish(&story(2));
    whole.judge_until(STORY_MARKS);

    let pieces = Run::new();
    pieces.publish_baseline(&baseline(1, 0));
    for piece in story(2).chunks(2 * 24) {
        pieces.publish(piece);
        pieces.judge_until(piece.last().unwrap().mark.number);
    }
    assert_eq!(pieces.seen(), whole.seen());
}

#[test]
fn every_fault_of_a_transaction_leaves_the_same_bytes() {
    let whole = Run::new();
    whole.publish_baseline(&baseline(1, 0));
    whole.publish(&story(2));
    whole.judge_until(STORY_MARKS);
    for fault in [Fault::Abort, Fault::UnknownVisible, Fault::UnknownLost, Fault::Torn { visible: 1 }, Fault::Hang] {
        let run = Run::new();
        run.publish_baseline(&baseline(1, 0));
        for after in 0..5 {
            run.log.inject("tidemark.judge.i", after, fault);
        }
        run.publish(&story(2));
        run.judge_until(STORY_MARKS);
        assert_eq!(run.seen(), whole.seen(), "{fault:?}");
    }
}

#[test]
fn the_order_in_which_partitions_arrive_does_not_matter() {
    let whole = Run::new();
    whole.publish_baseline(&baseline(1, 0));
    whole.publish(&story(2));
    whole.judge_until(STORY_MARKS);

    let run = Run::new();
    run.publish_baseline(&baseline(1, 0));
    let (first, second): (Vec<Summary>, Vec<Summary>) = story(2).into_iter().partition(|summary| summary.partition == 1);
    run.publish(&first);
    run.publish(&second);
    run.judge_until(STORY_MARKS);
    assert_eq!(run.seen(), whole.seen());
}

#[test]
fn a_mark_waits_for_the_baseline_that_it_names() {
    let run = Run::new();
    run.publish(&Stream::new(1, Some(1)).hours(World::Usual, 30));
    let context = Context { stop: Stop::default(), ..run.context.clone() };
    let stop = context.stop.clone();
    let judge = thread::spawn(move || super::run(&context));
    let waits = |run: &Run| matches!(run.context.health.all().get("judge"), Some(crate::stage::State::Waiting(what)) if what.contains("waiting for baseline parcels@1"));
    let patience = Instant::now() + Duration::from_secs(10);
    while !waits(&run) {
        assert!(Instant::now() < patience, "{:?}", run.context.health.all());
        thread::yield_now();
    }
    assert_eq!(run.last_mark(), None);
    run.publish_baseline(&baseline(1, 0));
    let mut follower = run.log.follow(&run.context.topics.status, &[0]).unwrap();
    while run.last_mark() < Some(30) {
        assert!(Instant::now() < patience + Duration::from_secs(10));
        follower.poll(Duration::from_millis(50)).unwrap();
    }
    stop.ask();
    judge.join().unwrap().unwrap();
}

#[test]
fn a_partition_far_ahead_is_read_again_and_not_lost() {
    let marks = 24 * 70;
    let run = Run::new();
    run.publish_baseline(&baseline(1, 0));
    let mut stream = Stream::new(2, Some(1));
    let summaries = stream.hours(World::Usual, marks);
    let (first, second): (Vec<Summary>, Vec<Summary>) = summaries.into_iter().partition(|summary| summary.partition == 1);
    assert!(first.len() > 1_500, "far more than a partition may be ahead");
    run.publish(&first);
    run.publish(&second);
    run.judge_until(marks as u64);
    let status: Status = serde_json::from_slice(&run.seen().2.unwrap()).unwrap();
    assert_eq!(status.windows[0].rows, 16 * 40);
    assert_eq!(i64::from(status.windows[2].days) * DAY_MS, 7 * DAY_MS);
}
