//! The whole of a backfill over the log in memory, with every fault at every transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicUsize;

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::*;
use crate::clock::DAY_MS;
use crate::log::memory::{Fault, MemoryLog};
use crate::log::{Follower, Member, Producer, Reader, TopicSettings};
use crate::model::duration::tests::constant;

/// Small enough for many transactions: days of 7 tickets in transactions of at most 5, some 14 tickets at a time.
const SMALL: Sizes = Sizes { batch_rows: 14, transaction_rows: 5, held_rows: 1_000 };
const FIRST_DAY: i64 = 15_000 * DAY_MS;
const A_DAY: i64 = 7;

fn spec() -> Spec {
    Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()
}

/// Ticket `n` of 7 a day.
fn ticket(n: i64) -> Value {
    json!({
        "ticket_id": format!("t{n}"), "status": "COMPLETED", "completed_at": FIRST_DAY + n / A_DAY * DAY_MS + n % A_DAY * 3_600_000,
        "actual_duration_ms": 10_000 + n, "predictions": { "duration_ms": 9_000 + 3 * n, "model_version": "3" },
    })
}

fn file(tickets: impl IntoIterator<Item = Value>) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    for ticket in tickets {
        writeln!(file, "{ticket}").unwrap();
    }
    file
}

struct World {
    log: MemoryLog,
    config: Config,
    spec: Spec,
}

impl World {
    fn new() -> Self {
        let (log, config) = (MemoryLog::new(), Config::default());
        log.create_topics(&Topics::new(&config.kafka.topic_prefix).settings(&config.topic_plan())).unwrap();
        Self { log, config, spec: spec() }
    }

    fn request(file: &NamedTempFile, predictions: Predictions) -> Request {
        let place = Place::File(file.path().to_owned(), None);
        Request { place, span: Span::default(), predictions, write_back: false, dry_run: false }
    }

    fn run_on(&self, log: &dyn Log, request: &Request, sizes: Sizes) -> Result<Report, BackfillError> {
        let around = Around { config: &self.config, spec: &self.spec, log: Some(log), stop: Stop::default() };
        run_sized(request, &around, &mut |_| {}, sizes)
    }

    fn run(&self, request: &Request) -> Result<Report, BackfillError> {
        self.run_on(&self.log, request, SMALL)
    }

    fn id(&self, request: &Request) -> String {
        format!("tidemark.backfill.{}", request.series_id(&self.spec))
    }

    fn errors(&self) -> Vec<Value> {
        self.values("prediction-errors")
    }

    fn values(&self, topic: &str) -> Vec<Value> {
        let topic = format!("tidemark.{topic}");
        let mut reader = self.log.reader().unwrap();
        let mut values = vec![];
        for partition in 0..self.log.partitions(&topic).unwrap() {
            let bounds = reader.bounds(&topic, partition).unwrap();
            let mut each = |record: crate::log::Delivered| {
                values.push(serde_json::from_slice(&record.value.unwrap()).unwrap());
                ControlFlow::Continue(())
            };
            reader.read(&topic, partition, bounds.low, bounds.end, &mut each).unwrap();
        }
        values
    }

    fn assert_each_once(&self, tickets: i64, what: &str) {
        let ids: Vec<String> = self.errors().iter().map(|error| error["ticket"].to_string()).collect();
        let distinct: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(ids.len(), distinct.len(), "{what}: no error is there twice");
        assert_eq!(distinct.len(), usize::try_from(tickets).unwrap(), "{what}: no error is missing");
    }
}

/// A log that makes so many producers and no more: a process that is killed when its transaction fails.
struct Mortal {
    log: MemoryLog,
    lives: AtomicUsize,
}

impl Log for Mortal {
    fn create_topics(&self, topics: &[TopicSettings]) -> Result<(), LogError> {
        self.log.create_topics(topics)
    }
    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.log.partitions(topic)
    }
    fn producer(&self, id: &str) -> Result<Box<dyn Producer>, LogError> {
        if self.lives.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |lives| lives.checked_sub(1)).is_err() {
            return Err(LogError::Unavailable { doing: "living".to_owned(), reason: "killed".to_owned() });
        }
        self.log.producer(id)
    }
    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, LogError> {
        self.log.member(group, topic)
    }
    fn reader(&self) -> Result<Box<dyn Reader>, LogError> {
        self.log.reader()
    }
    fn follow(&self, topic: &str, from: &[i64]) -> Result<Box<dyn Follower>, LogError> {
        self.log.follow(topic, from)
    }
}

const TICKETS: i64 = 33;
/// Transactions of an undisturbed run: the first position, and 3 of 5, 5 and 4 errors for each 14 tickets.
const TRANSACTIONS: usize = 8;

fn faults() -> Vec<Fault> {
    let mut faults = vec![Fault::Abort, Fault::UnknownVisible, Fault::UnknownLost, Fault::Hang, Fault::Fence];
    faults.extend((0..=5).map(|visible| Fault::Torn { visible }));
    faults
}

#[test]
fn whatever_happens_to_any_transaction_each_error_is_there_once() {
    let file = file((0..TICKETS).map(ticket));
    for fault in faults() {
        for transaction in 0..TRANSACTIONS {
            let what = format!("{fault:?} at transaction {transaction}");
            let world = World::new();
            let request = World::request(&file, Predictions::Recorded);
            world.log.inject(&world.id(&request), transaction, fault);
            let report = match world.run(&request) {
                Err(BackfillError::Fenced { .. }) if fault == Fault::Fence => world.run(&request).unwrap(),
                ended => ended.unwrap_or_else(|error| panic!("{what}: {error}")),
            };
            world.assert_each_once(TICKETS, &what);
            assert_eq!(report.written + report.already_there, 33, "{what}");
        }
    }
}

#[test]
fn killed_in_any_transaction_and_started_again_each_error_is_there_once() {
    let file = file((0..TICKETS).map(ticket));
    for fault in faults() {
        for transaction in 0..TRANSACTIONS {
            let what = format!("killed by {fault:?} at transaction {transaction}");
            let world = World::new();
            let request = World::request(&file, Predictions::Recorded);
            world.log.inject(&world.id(&request), transaction, fault);
            let mortal = Mortal { log: world.log.clone(), lives: AtomicUsize::new(1) };
            assert!(world.run_on(&mortal, &request, SMALL).is_err(), "{what}");
            let report = world.run(&request).unwrap_or_else(|error| panic!("{what}: {error}"));
            world.assert_each_once(TICKETS, &what);
            assert_eq!(report.stats.processed, 33, "{what}: the statistics are of all tickets");
            assert_eq!(report.written + report.already_there, 33, "{what}");
            assert_eq!(world.run(&request).unwrap().written, 0, "{what}: nothing is left to write");
        }
    }
}

#[test]
fn torn_twice_in_a_row_and_killed_each_error_is_there_once() {
    let file = file((0..TICKETS).map(ticket));
    for first in 1..TRANSACTIONS - 1 {
        let world = World::new();
        let request = World::request(&file, Predictions::Recorded);
        world.log.inject(&world.id(&request), first, Fault::Torn { visible: 2 });
        world.log.inject(&world.id(&request), first + 1, Fault::Torn { visible: 1 });
        let mortal = Mortal { log: world.log.clone(), lives: AtomicUsize::new(2) };
        assert!(world.run_on(&mortal, &request, SMALL).is_err());
        world.run(&request).unwrap();
        world.assert_each_once(TICKETS, &format!("torn from {first} on"));
    }
}

#[test]
fn spans_that_overlap_and_tickets_that_come_late_are_written_once() {
    let world = World::new();
    let some = file((0..TICKETS).filter(|n| n % 3 != 0).map(ticket));
    let half = Span { from_ms: Some(FIRST_DAY + DAY_MS / 8), to_ms: Some(FIRST_DAY + 3 * DAY_MS + DAY_MS / 8) };
    let first = world.run(&Request { span: half, ..World::request(&some, Predictions::Recorded) }).unwrap();
    let whole = world.run(&World::request(&some, Predictions::Recorded)).unwrap();
    assert_eq!((first.written, whole.already_there, whole.written), (14, 14, 8));
    let all = file((0..TICKETS).map(ticket));
    let late = world.run(&World::request(&all, Predictions::Recorded)).unwrap();
    assert_eq!((late.already_there, late.written), (22, 11));
    world.assert_each_once(TICKETS, "late tickets");
    assert_ne!(first.id, whole.id, "two spans are two jobs");
}

#[test]
fn what_the_log_has_forgotten_is_not_written_again_while_its_day_is_whole() {
    let world = World::new();
    let file = file((0..TICKETS).map(ticket));
    let request = World::request(&file, Predictions::Recorded);
    world.run(&request).unwrap();
    let mut reader = world.log.reader().unwrap();
    for partition in 0..4 {
        let end = reader.bounds("tidemark.prediction-errors", partition).unwrap().end;
        world.log.truncate("tidemark.prediction-errors", partition, end);
    }
    assert_eq!(world.run(&request).unwrap().written, 0);
    assert_eq!(world.errors().len(), 0);
}

#[test]
fn another_process_of_the_same_series_ends_the_first() {
    let world = World::new();
    let file = file((0..TICKETS).map(ticket));
    let request = World::request(&file, Predictions::Recorded);
    let topics = Topics::new("tidemark");
    let mut first = Ledger::open(&world.log, &topics, &world.config, &world.spec, &request, 5).unwrap();
    world.run(&Request { span: Span { from_ms: Some(0), to_ms: None }, ..request.clone() }).unwrap();
    let item = |n: i64| Item {
        id: crate::ticket::TicketId::from_text(&format!("t{n}")),
        completed_at_ms: FIRST_DAY,
        predicted: 1.0,
        actual: 2.0,
        version: Some("3".to_owned()),
        in_sample: None,
        stored: None,
    };
    let error = first.write(&[(FIRST_DAY, vec![item(100)])]).unwrap_err();
    assert!(matches!(error, BackfillError::Fenced { .. }), "{error}");
    world.assert_each_once(TICKETS, "fenced");
}

#[test]
fn series_do_not_stand_in_each_others_way() {
    let world = World::new();
    let file = file((0..TICKETS).map(ticket));
    world.run(&World::request(&file, Predictions::Recorded)).unwrap();
    for version in [1, 2] {
        let model = Arc::new(constant(&world.spec, 5_000.0));
        let predictions = Predictions::Rescored(ModelRef::of("m", version, b""), model);
        assert_eq!(world.run(&World::request(&file, predictions)).unwrap().written, 33);
    }
    let mut by_series: BTreeMap<String, usize> = BTreeMap::new();
    for error in world.errors() {
        *by_series.entry(format!("{} {}", error["series"], error["source"]["backfill"])).or_default() += 1;
    }
    let expected = [("\"recorded\" \"recorded\"", 33), ("\"v1\" \"rescored\"", 33), ("\"v2\" \"rescored\"", 33)];
    assert_eq!(by_series, expected.map(|(name, count)| (name.to_owned(), count)).into());
}

#[test]
fn a_rescored_error_says_whether_the_model_was_trained_on_its_ticket() {
    let world = World::new();
    let file = file((0..TICKETS).map(ticket));
    let model = constant(&world.spec, 5_000.0);
    let card = crate::model::duration::Card { data_ms: (FIRST_DAY + DAY_MS, FIRST_DAY + 2 * DAY_MS), ..model.card().clone() };
    let predictions = Predictions::Rescored(ModelRef::of("m", 7, b""), Arc::new(model.with_card(card)));
    let report = world.run(&World::request(&file, predictions)).unwrap();
    assert_eq!(report.stats.in_sample, 7, "a day of them");
    for error in world.errors() {
        let at = error["completed_at"].as_i64().unwrap();
        assert_eq!(error["in_sample"], (FIRST_DAY + DAY_MS..FIRST_DAY + 2 * DAY_MS).contains(&at), "{error}");
        assert_eq!((&error["version"], &error["predicted"], &error["backfilled"]), (&json!("7"), &json!(5_000), &json!(true)));
    }
}

#[test]
fn tickets_without_an_error_are_counted_by_reason() {
    let with = |n: i64, change: &dyn Fn(&mut Value)| {
        let mut ticket = ticket(n);
        change(&mut ticket);
        ticket
    };
    let without = |n: i64, name: &str| {
        with(n, &|ticket| {
            ticket.as_object_mut().unwrap().remove(name);
        })
    };
    let documents = vec![
        ticket(0),
        ticket(1),
        ticket(1),
        without(2, "actual_duration_ms"),
        with(3, &|ticket| ticket["actual_duration_ms"] = json!(0)),
        without(4, "predictions"),
        with(5, &|ticket| ticket["predictions"]["duration_ms"] = json!(-1)),
        without(6, "ticket_id"),
        without(7, "completed_at"),
        with(8, &|ticket| ticket["status"] = json!("FAILED")),
        with(9, &|ticket| ticket["completed_at"] = json!("2011-01-26T02:00:00+02:00")),
    ];
    let world = World::new();
    let file = file(documents);
    let request = World::request(&file, Predictions::Recorded);
    let report = world.run(&request).unwrap();
    let counts =
        |stats: &Stats| (stats.processed, stats.skipped_no_actual, stats.skipped_no_predicted, stats.skipped_invalid, stats.total_tickets);
    assert_eq!(counts(&report.stats), (3, 2, 2, 2, 9));
    assert_eq!(report.repeats, 1);
    // Inside a span only what completed in it: what does not say when is not.
    let span = Span { from_ms: Some(FIRST_DAY), to_ms: Some(FIRST_DAY + 3 * 3_600_000) };
    let report = world.run(&Request { span, ..request }).unwrap();
    assert_eq!(counts(&report.stats), (3, 1, 0, 0, 4));
}

#[test]
fn statistics_are_those_of_an_independent_computation() {
    let world = World::new();
    let file = file((0..1_000).map(|n| {
        let mut ticket = ticket(n);
        ticket["predictions"]["duration_ms"] = json!(if n % 100 == 7 { 1_000 + n } else { 9_000 + n * n % 4_001 });
        ticket
    }));
    let stats = world.run_on(&world.log, &World::request(&file, Predictions::Recorded), SIZES).unwrap().stats;
    // In integers: |predicted - actual|, sorted; numpy's linear interpolation at (n - 1) q.
    let pairs = (0..1_000_i32).map(|n| (if n % 100 == 7 { 1_000 + n } else { 9_000 + n * n % 4_001 }, 10_000 + n));
    let mut errors: Vec<i32> = pairs.clone().map(|(predicted, actual)| (predicted - actual).abs()).collect();
    errors.sort_unstable();
    let at = |thousandths: usize| {
        let place = 999 * thousandths;
        let (low, high) = (errors[place / 1_000], errors[(place / 1_000 + 1).min(999)]);
        f64::from(low) + f64::from(high - low) * (place % 1_000) as f64 / 1_000.0
    };
    let close = |ours: Option<f64>, theirs: f64| assert!((ours.unwrap() - theirs).abs() < 1e-6, "{ours:?} {theirs}");
    close(stats.mean_error_ms, f64::from(errors.iter().sum::<i32>()) / 1_000.0);
    close(stats.median_error_ms, at(500));
    close(stats.p50_error_ms, at(500));
    close(stats.p95_error_ms, at(950));
    close(stats.p99_error_ms, at(990));
    assert_eq!(stats.percentiles, "exact");
    let extreme: Vec<(i32, i32)> = pairs.filter(|(predicted, actual)| (actual - predicted).abs() > 3 * predicted).collect();
    assert_eq!(stats.extreme_errors_count, extreme.len() as u64);
    assert_eq!(stats.extreme_errors_count, 10);
    assert_eq!(stats.extreme_errors[0].ticket_id, "t7", "the largest ratio first");
}

#[test]
fn beyond_the_exact_rows_percentiles_are_off_by_at_most_one_per_cent() {
    let (mut exact, mut binned) = (stats::Collecting::keeping(100_000), stats::Collecting::keeping(1_000));
    for n in 0..20_000_i32 {
        let error = 1e-2 * 1.000_7_f64.powi(n);
        let id = crate::ticket::TicketId::from_text("t");
        let actual = error + 1e6;
        let item = Item { id, completed_at_ms: 0, predicted: 1e6, actual, version: None, in_sample: None, stored: None };
        exact.add(&item);
        binned.add(&item);
    }
    let (exact, binned) = (exact.end(), binned.end());
    for (exact, binned) in
        [(exact.p50_error_ms, binned.p50_error_ms), (exact.p95_error_ms, binned.p95_error_ms), (exact.p99_error_ms, binned.p99_error_ms)]
    {
        let (exact, binned) = (exact.unwrap(), binned.unwrap());
        assert!((binned / exact - 1.0).abs() <= 0.01, "{exact} {binned}");
    }
    assert_eq!(binned.percentiles, "relative error at most 1 %");
    assert_eq!(binned.mean_error_ms, exact.mean_error_ms);
}

#[test]
fn with_little_memory_a_span_is_read_in_several_passes_and_comes_to_the_same() {
    let file = file((0..TICKETS).rev().map(ticket));
    let (much, little) = (World::new(), World::new());
    let request = World::request(&file, Predictions::Recorded);
    let at_once = much.run(&request).unwrap();
    let in_passes = little.run_on(&little.log, &request, Sizes { held_rows: 8, ..SMALL }).unwrap();
    little.assert_each_once(TICKETS, "several passes");
    assert_eq!(at_once.stats, in_passes.stats);
    assert_eq!(much.errors(), little.errors(), "the same records in the same order");
}

#[test]
fn without_kafka_there_are_statistics_and_a_word_about_it() {
    let world = World::new();
    let file = file((0..TICKETS).map(ticket));
    let request = World::request(&file, Predictions::Recorded);
    let around = Around { config: &world.config, spec: &world.spec, log: None, stop: Stop::default() };
    let report = super::run(&request, &around, &mut |_| {}).unwrap();
    assert_eq!((report.stats.processed, report.written, report.already_there), (33, 0, 0));
    assert!(report.notes[0].contains("KAFKA_BOOTSTRAP_SERVERS"), "{:?}", report.notes);
    let dry = world.run(&Request { dry_run: true, ..request }).unwrap();
    assert_eq!((dry.stats.processed, world.errors().len(), world.values("model-events").len()), (33, 0, 0));
}

#[test]
fn no_ticket_at_all_is_a_report_too() {
    let world = World::new();
    let pending = file([json!({ "ticket_id": "t", "status": "PENDING" })]);
    let report = world.run(&World::request(&pending, Predictions::Recorded)).unwrap();
    assert_eq!((report.stats.total_tickets, report.stats.mean_error_ms), (0, None));
}

#[test]
fn what_cannot_be_done_is_said() {
    let world = World::new();
    let file = file([]);
    let request = World::request(&file, Predictions::Recorded);
    let said = |request: Request| world.run(&request).unwrap_err().to_string();
    assert!(said(Request { write_back: true, ..request.clone() }).contains("--model VERSION"));
    assert!(said(Request { span: Span { from_ms: Some(2), to_ms: Some(2) }, ..request.clone() }).contains("--from is not before --to"));
    assert!(said(Request { place: Place::Mongodb, ..request }).contains("MONGODB_URI"));
}

#[test]
fn a_topic_that_was_made_anew_is_refused_by_name() {
    let world = World::new();
    let file = file((0..TICKETS).map(ticket));
    let request = World::request(&file, Predictions::Recorded);
    world.run(&request).unwrap();
    let positions = world.values("model-events");
    let other = World::new();
    let last = positions.last().unwrap();
    let record = crate::log::Record {
        topic: "tidemark.model-events".into(),
        partition: 0,
        key: Some(format!("backfill/{}", request.series_id(&world.spec)).into()),
        value: Some(last.to_string().into()),
        headers: vec![("kind".into(), "backfill".into())],
    };
    let transaction = crate::log::Transaction { records: vec![record], ..crate::log::Transaction::default() };
    other.log.producer("p").unwrap().transact(transaction).unwrap();
    let error = other.run(&request).unwrap_err();
    assert!(matches!(&error, BackfillError::Refused(what) if what.contains("tidemark.prediction-errors[")), "{error}");
}
