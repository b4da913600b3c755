//! Who leads, what it refuses, and what takes its place in the stream from elsewhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::log::memory::slow::SlowLog;
use crate::log::{Bounds, LogError, Reader, Record, Transaction};
use crate::model_event::ModelEvent;
use crate::stage::State;
use crate::tail::position::{Head, Position};
use crate::tail::time::SourceClock;
use crate::tail::{PART, TailError, restore};

/// A source that does something once when so many events have been read.
struct Interrupted<F> {
    events: Events,
    after: usize,
    act: Option<F>,
}

impl<F: FnOnce() + Send> Source for Interrupted<F> {
    fn is_replay(&self) -> bool {
        self.events.is_replay()
    }

    fn open(&mut self, from: Option<&Resume>) -> Result<Opened, SourceError> {
        self.events.open(from)
    }

    fn read(&mut self, most: usize, timeout: Duration, into: &mut Vec<Event>) -> Result<(), SourceError> {
        if self.events.read >= self.after
            && let Some(act) = self.act.take()
        {
            act();
        }
        self.events.read(most, timeout, into)
    }
}

fn publish(log: &MemoryLog, topic: &str, key: Option<&str>, value: Vec<u8>) {
    let key = key.map(|key| Bytes::from(key.to_owned()));
    let record = Record { topic: Arc::from(topic), partition: 0, key, value: Some(value.into()), headers: Vec::new() };
    log.producer("test").unwrap().transact(Transaction { records: vec![record], ..Transaction::default() }).unwrap();
}

fn publish_baseline(log: &MemoryLog, version: u64) {
    let spec = spec();
    let value = format!(r#"{{"spec":"{}","fingerprint":"{}","version":{version}}}"#, spec.name, spec.fingerprint());
    publish(log, "tidemark.baselines", Some(&format!("{}@{version}", spec.name)), value.into_bytes());
}

fn publish_silence(log: &MemoryLog) {
    let silence = ModelEvent::Silence { id: "s".into(), spec: spec().name, cause: "error".into(), until_ms: 5 };
    publish(log, "tidemark.model-events", None, silence.encode());
}

fn refusal(context: &Context, events: &Arc<Vec<Event>>) -> String {
    match crate::tail::run(context, Box::new(source(events, &[]))) {
        Err(TailError::Refused(reason)) => {
            assert!(matches!(context.health.all()[PART], State::Failed(_)));
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_leader_that_is_replaced_anywhere_leaves_the_log_as_if_it_had_not_been() {
    let events = Arc::new(replayed(300, 600_000));
    let whole = run_to_end(&events, &[20], 3, None);
    for after in [0, 20, 100, 180, 280] {
        let log = MemoryLog::new();
        let first = context(&log, 3, |_| ());
        let stop = first.stop.clone();
        let interrupted = Interrupted { events: source(&events, &[20]), after, act: Some(move || stop.ask()) };
        crate::tail::run(&first, Box::new(interrupted)).unwrap();
        crate::tail::run(&context(&log, 3, |_| ()), Box::new(source(&events, &[20]))).unwrap();
        assert_eq!(difference(&both(&log, 3), &whole), None, "stopped after {after}");
    }
}

#[test]
fn a_log_that_is_too_slow_for_large_transactions_gets_small_ones() {
    let events = Arc::new(replayed(60, 600_000));
    let log = MemoryLog::new();
    let slow = SlowLog::new(&log, 20);
    let context = Context { log: Arc::new(slow.clone()), ..context(&log, 3, |_| ()) };
    crate::tail::run(&context, Box::new(source(&events, &[]))).unwrap();
    assert!(slow.ended.load(Ordering::Relaxed) > 0, "nothing was too large");
    assert_eq!(difference(&both(&log, 3), &run_to_end(&events, &[], 3, None)), None);
}

#[test]
fn what_was_decided_before_the_start_has_its_place_before_the_first_ticket() {
    let log = MemoryLog::new();
    let context = Context { log: Arc::new(SlowLog::new(&log, usize::MAX)), ..context(&log, 2, |_| ()) };
    publish_baseline(&log, 1);
    publish_silence(&log);
    crate::tail::run(&context, Box::new(source(&Arc::new(replayed(50, 1)), &[]))).unwrap();
    for partition in contents(&log, "tidemark.tickets", 2) {
        let first = partition.iter().position(|line| line.starts_with("ticket ")).unwrap();
        for decision in ["baseline ", "silence "] {
            assert!(partition[..first].iter().any(|line| line.starts_with(decision)), "{decision}: {partition:#?}");
        }
    }
}

/// A stream in which nothing completes. A person's decision is torn; a baseline is published before the log is read back.
struct Quiet {
    log: MemoryLog,
    stop: Stop,
    opened: usize,
    reads: usize,
}

impl Source for Quiet {
    fn is_replay(&self) -> bool {
        false
    }

    fn open(&mut self, from: Option<&Resume>) -> Result<Opened, SourceError> {
        self.opened += 1;
        if self.opened == 2 {
            publish_baseline(&self.log, 1);
        }
        let begin = Place::Stream { token: token(0, 0, 0), time: (BEGIN, 0), index: 0 };
        Ok(Opened { place: from.map_or(begin, |from| from.place.clone()), fingerprint: "quiet".into(), history: None })
    }

    fn read(&mut self, _most: usize, _timeout: Duration, _into: &mut Vec<Event>) -> Result<(), SourceError> {
        if self.reads == 0 {
            self.log.inject(TAIL, 0, Fault::Torn { visible: 1 });
            publish_silence(&self.log);
        }
        self.reads += 1;
        if self.reads == 100 {
            self.stop.ask();
        }
        Ok(())
    }
}

#[test]
fn a_torn_decision_does_not_wait_behind_a_newer_baseline() {
    let log = MemoryLog::new();
    let context = context(&log, 3, |_| ());
    let quiet = Quiet { log: log.clone(), stop: context.stop.clone(), opened: 0, reads: 0 };
    crate::tail::run(&context, Box::new(quiet)).unwrap();
    let tickets = contents(&log, "tidemark.tickets", 3);
    assert_eq!((count(&tickets, "silence"), count(&tickets, "baseline")), (3, 3), "{tickets:#?}");
}

#[test]
fn a_leader_that_loses_its_partition_stands_by_and_the_next_one_goes_on() {
    let events = Arc::new(replayed(300, 600_000));
    let whole = run_to_end(&events, &[20], 3, None);
    let log = MemoryLog::new();
    let first = context(&log, 3, |_| ());
    let second = context(&log, 3, |_| ());
    let other = log.clone();
    let interrupted = Interrupted { events: source(&events, &[20]), after: 100, act: Some(move || other.oust(TAIL)) };
    let standing_by = std::thread::spawn({
        let (second, events) = (second.clone(), events.clone());
        move || crate::tail::run(&second, Box::new(source(&events, &[20])))
    });
    let leading = std::thread::spawn({
        let first = first.clone();
        move || crate::tail::run(&first, Box::new(interrupted))
    });
    // Whoever comes to the end ends; the other then leads, finds nothing left to do, and ends too.
    leading.join().unwrap().unwrap();
    standing_by.join().unwrap().unwrap();
    assert_eq!(difference(&both(&log, 3), &whole), None);
}

#[test]
fn a_baseline_takes_its_place_where_the_replay_waits_for_it() {
    let mut events = replayed(300, 600_000);
    events.insert(200, Event::AwaitBaseline { version: 1 });
    let events = Arc::new(events);
    let log = MemoryLog::new();
    let context = context(&log, 2, |_| ());
    let publisher = std::thread::spawn({
        let log = log.clone();
        move || {
            let mut follower = log.follow("tidemark.tickets", &[0, 0]).unwrap();
            let mut tickets = 0;
            while tickets < 180 {
                tickets += follower.poll(Duration::from_secs(1)).unwrap().iter().filter(|record| record.key.is_some()).count();
            }
            publish_baseline(&log, 1);
        }
    });
    crate::tail::run(&context, Box::new(source(&events, &[20]))).unwrap();
    publisher.join().unwrap();
    for partition in contents(&log, "tidemark.tickets", 2) {
        let at = partition.iter().position(|line| line.starts_with("baseline ")).unwrap();
        let (before, after) = partition.split_at(at);
        assert!(before.iter().filter(|line| line.starts_with("mark ")).all(|mark| mark.contains(r#""baseline":null"#)));
        assert!(after.iter().filter(|line| line.starts_with("mark ")).all(|mark| mark.contains(r#""baseline":1"#)));
        assert_eq!(after.iter().filter(|line| line.starts_with("baseline ")).count(), 1);
    }
    assert_eq!(count(&contents(&log, "tidemark.tickets", 2), "ticket"), 270);
}

#[test]
fn decisions_stand_in_every_partition_once_whatever_becomes_of_their_transaction() {
    let events = Arc::new(replayed(120, 600_000));
    let run = |fault: Option<(usize, Fault)>| {
        let log = MemoryLog::new();
        let context = context(&log, 3, |_| ());
        publish_baseline(&log, 1);
        publish_baseline(&log, 2);
        publish_silence(&log);
        publish(&log, "tidemark.model-events", None, br#"{"kind":"applied","id":"x"}"#.to_vec());
        publish(&log, "tidemark.model-events", None, b"no json".to_vec());
        if let Some((after, fault)) = fault {
            log.inject(TAIL, after, fault);
        }
        crate::tail::run(&context, Box::new(source(&events, &[20]))).unwrap();
        both(&log, 3)
    };
    let whole = run(None);
    assert_eq!((count(&whole[0], "baseline"), count(&whole[0], "silence")), (6, 3));
    for after in 0..5 {
        for visible in 0..14 {
            assert_eq!(difference(&run(Some((after, Fault::Torn { visible }))), &whole), None, "torn {visible} after {after}");
        }
    }
}

#[test]
fn a_record_that_is_too_large_even_alone_is_a_dead_letter_and_the_others_arrive() {
    let mut events = replayed(60, 600_000);
    let Event::Ticket { normalised: Normalised::Completed(large), .. } = &mut events[33] else { panic!() };
    large.fields[0] = FieldValue::Text("x".repeat(crate::log::MAX_RECORD_BYTES));
    let [tickets, dead] = run_to_end(&Arc::new(events), &[], 3, None);
    assert_eq!((count(&tickets, "ticket"), count(&dead, "dead-letter")), (53, 7));
    assert_eq!(dead.iter().flatten().filter(|line| line.contains("too_large")).count(), 1);
}

#[test]
fn tickets_without_a_position_are_never_taken_for_a_first_start() {
    let log = MemoryLog::new();
    let context = context(&log, 3, |_| ());
    let headers = vec![("chain".into(), Bytes::from_static(b"another log's"))];
    let record = Record { topic: Arc::from("tidemark.tickets"), partition: 0, key: None, value: None, headers };
    log.producer("test").unwrap().transact(Transaction { records: vec![record], ..Transaction::default() }).unwrap();
    assert!(refusal(&context, &Arc::new(replayed(5, 1))).contains("not a first start"));
}

/// A reader before whom something happens once, when it first looks at the tickets.
struct Frozen<F> {
    reader: Box<dyn Reader>,
    act: Option<F>,
}

impl<F: FnOnce() + Send> Reader for Frozen<F> {
    fn bounds(&mut self, topic: &str, partition: u32) -> Result<Bounds, LogError> {
        if let Some(act) = self.act.take_if(|_| topic == "tidemark.tickets") {
            act();
        }
        self.reader.bounds(topic, partition)
    }

    fn stable_end(&mut self, topic: &str, partition: u32) -> Result<i64, LogError> {
        self.reader.stable_end(topic, partition)
    }

    fn read(
        &mut self,
        topic: &str,
        partition: u32,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(Delivered) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        self.reader.read(topic, partition, from, to, each)
    }
}

#[test]
fn who_stands_still_while_another_starts_for_the_first_time_finds_its_position() {
    let log = MemoryLog::new();
    let context = context(&log, 2, |_| ());
    let events = Arc::new(replayed(50, 1));
    let leads = || crate::tail::run(&context, Box::new(source(&events, &[]))).unwrap();
    let mut reader = Frozen { reader: log.reader().unwrap(), act: Some(leads) };
    assert!(restore::position(&mut reader, &context.topics, &context.spec, 2).unwrap().is_some());
    assert!(reader.act.is_none(), "it looked at the tickets in between");
}

#[test]
fn another_number_of_partitions_and_another_topic_are_refused_by_name() {
    let events = Arc::new(replayed(50, 1));
    let log = MemoryLog::new();
    crate::tail::run(&context(&log, 2, |_| ()), Box::new(source(&events, &[]))).unwrap();
    let value = read(&log, "tidemark.positions", 1)[0].last().unwrap().value.clone().unwrap();
    let position = Position::decode(&value).unwrap();
    for (partitions, words) in [(3, "has 3 partitions, but the position describes 2"), (2, "is not the one that the position describes")] {
        let other = MemoryLog::new();
        let context = context(&other, partitions, |_| ());
        publish(&other, "tidemark.positions", Some(&position.spec), value.to_vec());
        let reason = refusal(&context, &events);
        assert!(reason.contains(words) && reason.contains("tidemark.tickets"), "{reason}");
    }
}

#[test]
fn another_specs_position_is_refused() {
    let log = MemoryLog::new();
    let context = context(&log, 1, |_| ());
    let position = Position {
        spec: "another".into(),
        fingerprint: String::new(),
        source: String::new(),
        place: Place::Rows(0),
        history: None,
        gap_told_ms: None,
        tickets: vec![Head::begin("a", 0)],
        dead_letters: vec![Head::begin("b", 0)],
        clock: SourceClock::new(ClockMode::Tickets),
        next_mark: 1,
        next_end_ms: None,
        baseline: None,
        baselines_offset: 0,
        model_events_offset: 0,
    };
    publish(&log, "tidemark.positions", Some("another"), position.encode());
    assert!(refusal(&context, &Arc::new(replayed(5, 1))).contains("the position of spec another"));
}

#[test]
fn a_changed_spec_begins_new_chains_and_forgets_the_baseline() {
    let log = MemoryLog::new();
    let events = Arc::new(replayed(100, 600_000));
    let first = context(&log, 1, |_| ());
    publish_baseline(&log, 1);
    let stop = first.stop.clone();
    let interrupted = Interrupted { events: source(&events, &[20]), after: 60, act: Some(move || stop.ask()) };
    crate::tail::run(&first, Box::new(interrupted)).unwrap();
    let mut second = context(&log, 1, |_| ());
    let mut changed = spec();
    changed.target.max /= 2.0;
    second.spec = Arc::new(changed);
    crate::tail::run(&second, Box::new(source(&events, &[20]))).unwrap();
    let records = read(&log, "tidemark.tickets", 1).remove(0);
    let starts: Vec<_> = records.iter().filter(|record| record.header(KIND) == Some(b"chain-start")).collect();
    assert_eq!(starts.len(), 2);
    let last_mark = records.iter().rfind(|record| record.header(KIND) == Some(b"mark")).unwrap();
    assert!(String::from_utf8_lossy(last_mark.value.as_deref().unwrap()).contains(r#""baseline":null"#));
    assert_eq!(records.iter().filter(|record| record.key.is_some()).count(), 90);
}
