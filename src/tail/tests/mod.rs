//! The stage over the log in memory: whatever fails wherever, `tickets` holds the same.

mod history;
mod leading;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::normalise::{DeadLetter, DeadReason, Normalised};
use super::source::{Event, HistoryPlace, Opened, Place, Resume, Source, SourceError};
use crate::config::{ClockMode, Config};
use crate::log::memory::{Fault, MemoryLog};
use crate::log::{Delivered, Log};
use crate::spec::Spec;
use crate::stage::{Context, Health, Stop};
use crate::ticket::{Chain, Control, FieldValue, KIND, Ticket, TicketId, Transition};
use crate::topics::Topics;

const TAIL: &str = "tidemark.tail";

/// Events in memory, brought in pieces of given sizes.
struct Events {
    all: Arc<Vec<Event>>,
    pieces: Vec<usize>,
    read: usize,
    reads: usize,
    replay: bool,
    history: Option<HistoryPlace>,
}

impl Source for Events {
    fn is_replay(&self) -> bool {
        self.replay
    }

    fn open(&mut self, from: Option<&Resume>) -> Result<Opened, SourceError> {
        let begin = if self.replay { Place::Rows(0) } else { Place::Stream { token: token(0, 0, 0), time: (BEGIN, 0), index: 0 } };
        let Some(from) = from else {
            self.read = 0;
            return Ok(Opened { place: begin, fingerprint: "events".into(), history: self.history.clone() });
        };
        let place_of = |event: &Event| match event {
            Event::Ticket { after, .. } | Event::Idle { after } => Some(after.clone()),
            _ => None,
        };
        self.read = self.all.iter().position(|event| place_of(event).as_ref() == Some(&from.place)).map_or(0, |at| at + 1);
        Ok(Opened { place: from.place.clone(), fingerprint: "events".into(), history: from.history.clone() })
    }

    fn read(&mut self, most: usize, _timeout: Duration, into: &mut Vec<Event>) -> Result<(), SourceError> {
        let piece = self.pieces.get(self.reads % self.pieces.len().max(1)).copied().unwrap_or(usize::MAX).min(most);
        self.reads += 1;
        let end = (self.read + piece).min(self.all.len());
        into.extend(self.all[self.read..end].iter().cloned());
        self.read = end;
        Ok(())
    }
}

const BEGIN: u32 = 1_700_000_000;

fn token(seconds: u32, increment: u32, nth: u32) -> Bytes {
    let document = bson::rawdoc! { "_data": format!("82{seconds:08X}{increment:08X}{nth:08X}") };
    Bytes::copy_from_slice(document.as_bytes())
}

fn spec() -> Spec {
    Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap()
}

fn ticket(id: &str, completed_at_ms: i64, commit: Option<(u32, u32)>) -> Ticket {
    Ticket {
        id: TicketId::from_text(id),
        completed_at_ms,
        event_at_ms: completed_at_ms,
        commit,
        transition: if commit.is_some() { Transition::Insert } else { Transition::Replay },
        actual: 1_000.0,
        predicted: Some(900.0),
        model_version: None,
        fields: vec![FieldValue::Missing; spec().fields.len()],
    }
}

/// A file's tickets, `step_ms` apart; each tenth is a dead letter.
fn replayed(rows: u32, step_ms: i64) -> Vec<Event> {
    let mut events: Vec<_> = (0..rows)
        .map(|row| {
            let ticket = ticket(&format!("T{}", row % 97), i64::from(row) * step_ms, None);
            let normalised = if row % 10 == 9 {
                let detail = "no actual".to_owned();
                let mut letter = DeadLetter::bare(Some(ticket.id), DeadReason::NoActual, detail);
                letter.position = Some(format!("line {row}"));
                Normalised::Dead(Box::new(letter))
            } else {
                Normalised::Completed(ticket)
            };
            Event::Ticket { normalised, after: Place::Rows(u64::from(row) + 1) }
        })
        .collect();
    events.push(Event::End);
    events
}

/// A change stream's tickets: three share each cluster time, one of them the same id.
fn streamed(rows: u32, seconds: u32) -> Vec<Event> {
    let mut events: Vec<_> = (0..rows)
        .map(|row| {
            let time = (BEGIN + row / 3 * seconds, 1);
            let id = if row % 3 == 2 { row - 2 } else { row };
            let ticket = ticket(&format!("T{id}"), i64::from(time.0) * 1_000, Some(time));
            let after = Place::Stream { token: token(time.0, time.1, row), time, index: row % 3 + 1 };
            if row % 50 == 49 { Event::Idle { after } } else { Event::Ticket { normalised: Normalised::Completed(ticket), after } }
        })
        .collect();
    events.push(Event::End);
    events
}

fn context(log: &MemoryLog, partitions: u32, configure: impl FnOnce(&mut Config)) -> Context {
    let mut config = Config::default();
    config.kafka.partitions = partitions;
    config.tail.transaction_rows = 50;
    configure(&mut config);
    let topics = Topics::new("tidemark");
    log.create_topics(&topics.settings(&config.topic_plan())).unwrap();
    Context {
        config: Arc::new(config),
        spec: Arc::new(spec()),
        topics: Arc::new(topics),
        log: Arc::new(log.clone()),
        stop: Stop::default(),
        health: Health::default(),
        registry: None,
    }
}

fn source(events: &Arc<Vec<Event>>, pieces: &[usize]) -> Events {
    let replay = matches!(events[0], Event::Ticket { after: Place::Rows(_), .. });
    Events { all: events.clone(), pieces: pieces.to_vec(), read: 0, reads: 0, replay, history: None }
}

fn read(log: &MemoryLog, topic: &str, partitions: u32) -> Vec<Vec<Delivered>> {
    let mut reader = log.reader().unwrap();
    (0..partitions)
        .map(|partition| {
            let bounds = reader.bounds(topic, partition).unwrap();
            let mut records = Vec::new();
            reader
                .read(topic, partition, bounds.low, bounds.end, &mut |record| {
                    records.push(record);
                    ControlFlow::Continue(())
                })
                .unwrap();
            records
        })
        .collect()
}

/// What each partition holds, without what differs from run to run (chain ids), after checking the chains.
fn contents(log: &MemoryLog, topic: &str, partitions: u32) -> Vec<Vec<String>> {
    let all = read(log, topic, partitions);
    all.iter()
        .map(|records| {
            let Some(first) = records.first() else { return Vec::new() };
            let id = Chain::parse(first.header("chain").unwrap()).unwrap().id;
            let mut chain = Chain::begin(&id);
            records
                .iter()
                .map(|record| {
                    chain.follow(record).unwrap();
                    let kind = String::from_utf8_lossy(record.header(KIND).unwrap()).into_owned();
                    let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
                    if kind == "chain-start" { kind } else { format!("{kind} {value}") }
                })
                .collect()
        })
        .collect()
}

fn both(log: &MemoryLog, partitions: u32) -> [Vec<Vec<String>>; 2] {
    ["tidemark.tickets", "tidemark.dead-letters"].map(|topic| contents(log, topic, partitions))
}

/// Runs the stage over `events` to their end; what lies in the log then.
fn run_to_end(events: &Arc<Vec<Event>>, pieces: &[usize], partitions: u32, fault: Option<(usize, Fault)>) -> [Vec<Vec<String>>; 2] {
    let log = MemoryLog::new();
    let context = context(&log, partitions, |config| config.tail.clock = ClockMode::Commit);
    if let Some((after, fault)) = fault {
        log.inject(TAIL, after, fault);
    }
    super::run(&context, Box::new(source(events, pieces))).unwrap();
    both(&log, partitions)
}

/// Returns the first line that differs, in few words.
fn difference(a: &[Vec<Vec<String>>; 2], b: &[Vec<Vec<String>>; 2]) -> Option<String> {
    let partitions = a.iter().flatten().zip(b.iter().flatten());
    partitions.enumerate().find(|(_, (a, b))| a != b).map(|(partition, (a, b))| {
        let at = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        format!("partition {partition}: {} and {} records, record {at}: {:?} and {:?}", a.len(), b.len(), a.get(at), b.get(at))
    })
}

fn count(contents: &[Vec<String>], kind: &str) -> usize {
    contents.iter().flatten().filter(|line| line.split(' ').next() == Some(kind)).count()
}

#[test]
fn a_replay_brings_every_ticket_once_and_the_marks_of_all_complete_slices() {
    let events = Arc::new(replayed(1_000, 60_000));
    let [tickets, dead] = run_to_end(&events, &[], 3, None);
    assert_eq!((count(&tickets, "ticket"), count(&dead, "dead-letter")), (900, 100));
    // The 20th largest completion lies at minute 977 or so: 16 full hours, in each of 3 partitions.
    assert_eq!(count(&tickets, "mark"), 16 * 3);
    assert_eq!(count(&tickets, "chain-start"), 3);
}

#[test]
fn a_mark_stands_before_the_first_ticket_whose_time_reaches_its_end_and_the_lateness() {
    let events = Arc::new(streamed(300, 60));
    let [tickets, _] = run_to_end(&events, &[], 1, None);
    let mut latest = 0;
    let mut marks = 0;
    for line in &tickets[0] {
        if let Some(value) = line.strip_prefix("mark ") {
            let Control::Mark(mark) = serde_json::from_str(value).unwrap() else { panic!("{line}") };
            marks += 1;
            assert_eq!(mark.number, marks);
            assert!(latest < mark.end_ms + 600_000, "{latest} {line}");
        } else if let Some(value) = line.strip_prefix("ticket ") {
            latest = Ticket::decode(&spec(), value.as_bytes()).unwrap().completed_at_ms;
        }
    }
    assert_eq!(marks, 1);
}

#[test]
fn the_log_does_not_depend_on_how_events_were_batched() {
    for events in [Arc::new(replayed(400, 300_000)), Arc::new(streamed(400, 120))] {
        let whole = run_to_end(&events, &[], 3, None);
        proptest!(ProptestConfig::with_cases(20), |(pieces in prop::collection::vec(1_usize..60, 1..20))| {
            prop_assert_eq!(difference(&run_to_end(&events, &pieces, 3, None), &whole), None);
        });
    }
}

#[test]
fn whatever_becomes_of_any_transaction_the_log_holds_the_same() {
    for events in [Arc::new(replayed(300, 600_000)), Arc::new(streamed(300, 300))] {
        let whole = run_to_end(&events, &[30], 3, None);
        for after in 0..14 {
            for visible in [0, 1, 2, 7, 20, 33] {
                let torn = run_to_end(&events, &[30], 3, Some((after, Fault::Torn { visible })));
                assert_eq!(difference(&torn, &whole), None, "torn {visible} after {after}");
            }
            for fault in [Fault::Abort, Fault::UnknownVisible, Fault::UnknownLost, Fault::Fence] {
                let faulty = run_to_end(&events, &[30], 3, Some((after, fault)));
                assert_eq!(difference(&faulty, &whole), None, "{fault:?} after {after}");
            }
        }
    }
}

#[test]
fn several_faults_one_after_the_other_change_nothing() {
    let events = Arc::new(replayed(300, 600_000));
    let whole = run_to_end(&events, &[25], 3, None);
    proptest!(ProptestConfig::with_cases(60), |(faults in prop::collection::btree_map(0_usize..20, (0_usize..6, 0_usize..40), 1..8))| {
        let log = MemoryLog::new();
        let context = context(&log, 3, |_| ());
        for (after, (fault, visible)) in faults {
            let fault = [Fault::Abort, Fault::UnknownVisible, Fault::UnknownLost, Fault::Fence, Fault::Torn { visible }, Fault::Torn { visible }][fault];
            log.inject(TAIL, after, fault);
        }
        super::run(&context, Box::new(source(&events, &[25]))).unwrap();
        prop_assert_eq!(difference(&both(&log, 3), &whole), None);
    });
}
