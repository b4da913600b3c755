//! Reading back: the position, and what became visible beyond it.

use std::borrow::Cow;
use std::ops::ControlFlow;

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::adopted::{Adopted, ROW_PLACE};
use super::core::DEAD_LETTER;
use super::position::{Head, Position, hex};
use super::streamed::{completion, unusable};
use super::{PART, TailError};
use crate::log::{Bounds, Delivered, Log, Reader};
use crate::metrics;
use crate::spec::Spec;
use crate::ticket::{CHAIN, Chain, KIND, TICKET, Transition};
use crate::topics::Topics;

/// Whose a record of `positions` is.
enum Whose {
    Ours(Box<Position>),
    /// The spec.
    AnotherSpecs(String),
    /// One of ours, which another version wrote; why it cannot be read.
    AnotherVersions(String),
    /// No position at all.
    Strangers,
}

/// What every version writes into a position.
#[derive(serde::Deserialize)]
struct Lines {
    spec: String,
    #[serde(rename = "fingerprint")]
    _fingerprint: String,
    #[serde(rename = "tickets")]
    _tickets: Vec<serde::de::IgnoredAny>,
}

fn whose(record: &Delivered, spec: &Spec) -> Whose {
    let value = record.value.as_deref().unwrap_or_default();
    match serde_json::from_slice::<Lines>(value) {
        Ok(lines) if record.key.as_deref() != Some(lines.spec.as_bytes()) => Whose::Strangers,
        Ok(lines) if lines.spec != spec.name => Whose::AnotherSpecs(lines.spec),
        Ok(_) => Position::decode(value)
            .map_or_else(|error| Whose::AnotherVersions(error.to_string()), |position| Whose::Ours(Box::new(position))),
        Err(_) => Whose::Strangers,
    }
}

/// Returns the last position of `spec`, or `None` before the first start. What strangers wrote is passed over.
///
/// # Errors
/// [`TailError::Refused`] when the topics are somebody else's: they hold tickets without a position, or another spec's position.
pub(crate) fn position(reader: &mut dyn Reader, topics: &Topics, spec: &Spec, partitions: u32) -> Result<Option<Position>, TailError> {
    let mut found = last_position(reader, topics, spec)?;
    if found.is_none() {
        let mut has_tickets = false;
        for partition in 0..partitions {
            has_tickets = has_tickets || has_records(reader, &topics.tickets, partition)?;
        }
        if !has_tickets {
            return Ok(None);
        }
        // A process that stood still after the first look may see the tickets of a leader that came meanwhile. Before tickets there
        // is a position, so a second look finds it.
        found = last_position(reader, topics, spec)?;
    }
    let Some(position) = found else {
        return Err(TailError::Refused(format!(
            "topic {} has records, but {} has no position for them: this is not a first start. Delete both topics to begin anew, or \
             configure another kafka.topic_prefix",
            topics.tickets, topics.positions
        )));
    };
    if position.partitions() != partitions || position.dead_letters.len() != position.tickets.len() {
        return Err(TailError::Refused(format!(
            "topic {} has {partitions} partitions, but the position describes {}: tickets would change partition. Begin anew with another \
             kafka.topic_prefix; tail.start = \"history\" brings what the collection has",
            topics.tickets,
            position.partitions()
        )));
    }
    Ok(Some(position))
}

/// Returns the newest position in its topic, if there is one.
fn last_position(reader: &mut dyn Reader, topics: &Topics, spec: &Spec) -> Result<Option<Position>, TailError> {
    let mut last = None;
    let mut other = None;
    let bounds = reader.bounds(&topics.positions, 0)?;
    // The last position stands at the end, before whatever markers follow it: no need to read a day of them.
    let mut step = 64;
    let strangers = loop {
        let from = (bounds.end - step).max(bounds.low);
        let mut strangers = 0;
        reader.read(&topics.positions, 0, from, bounds.end, &mut |record| {
            match whose(&record, spec) {
                Whose::Ours(position) => last = Some(Ok(*position)),
                Whose::AnotherVersions(why) => last = Some(Err(why)),
                Whose::AnotherSpecs(name) => other = Some(name),
                Whose::Strangers => strangers += 1,
            }
            ControlFlow::Continue(())
        })?;
        if last.is_some() || from == bounds.low {
            break strangers;
        }
        step *= 8;
    };
    if strangers > 0 {
        tracing::warn!(topic = %topics.positions, strangers, "records that are no positions are passed over");
        metrics::strangers_passed_over(PART, "positions", strangers);
    }
    if let Some(other) = other {
        return Err(TailError::Refused(format!(
            "topic {} holds the position of spec {}, and a topic prefix serves one spec: configure another kafka.topic_prefix for spec {}",
            topics.positions, other, spec.name
        )));
    }
    last.transpose().map_err(|error| TailError::Refused(format!("the position in topic {} cannot be read: {error}", topics.positions)))
}

fn has_records(reader: &mut dyn Reader, topic: &str, partition: u32) -> Result<bool, TailError> {
    let Bounds { low, end } = reader.bounds(topic, partition)?;
    let mut found = false;
    reader.read(topic, partition, low, end, &mut |record| {
        found = record.header(CHAIN).is_some();
        if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}

/// Returns the number of partitions of `tickets`, which `dead-letters` must share.
///
/// # Errors
/// [`TailError::Refused`] when it does not, or when there are no such topics.
pub(crate) fn partitions(log: &dyn Log, topics: &Topics) -> Result<u32, TailError> {
    let tickets = log.partitions(&topics.tickets)?;
    let dead_letters = log.partitions(&topics.dead_letters)?;
    if tickets == 0 || tickets != dead_letters {
        return Err(TailError::Refused(format!(
            "topics {} and {} must exist with the same number of partitions; they have {tickets} and {dead_letters}. If one was deleted, \
             delete both and {}, too, or configure another kafka.topic_prefix",
            topics.tickets, topics.dead_letters, topics.positions
        )));
    }
    Ok(tickets)
}

/// Moves the heads of `position` on to the last visible records, and returns what lies between.
///
/// # Errors
/// [`TailError::Refused`] when a topic is not the one that the heads describe.
pub(crate) fn adopt(reader: &mut dyn Reader, topics: &Topics, position: &mut Position) -> Result<Adopted, TailError> {
    let mut adopted = Adopted::default();
    let partitions = position.partitions();
    for (partition, head) in (0..).zip(&mut position.tickets) {
        let mut controls = 0;
        for record in beyond(reader, topics, &topics.tickets, partition, head)? {
            adopted
                .adopt_ticket_or_control(&record, partitions, &mut controls)
                .map_err(|reason| foreign(&topics.tickets, partition, &format!("record {} is not ours: {reason}", record.offset)))?;
        }
    }
    for (partition, head) in (0..).zip(&mut position.dead_letters) {
        for record in beyond(reader, topics, &topics.dead_letters, partition, head)? {
            adopted
                .adopt_dead_letter(&record)
                .map_err(|reason| foreign(&topics.dead_letters, partition, &format!("record {} is not ours: {reason}", record.offset)))?;
        }
    }
    Ok(adopted)
}

fn foreign(topic: &str, partition: u32, reason: &str) -> TailError {
    TailError::Refused(format!(
        "topic {topic}[{partition}] is not the one that the position describes: {reason}. If it was deleted and made anew, delete the \
         position's topic too, or configure another kafka.topic_prefix"
    ))
}

/// Reads what follows the head, and moves the head on to its last record.
fn beyond(reader: &mut dyn Reader, topics: &Topics, topic: &str, partition: u32, head: &mut Head) -> Result<Vec<Delivered>, TailError> {
    let Bounds { low, end } = reader.bounds(topic, partition)?;
    // The head's offset is reckoned, not told: where its record is not found, look further back.
    let mut from = (head.offset - 1).clamp(low, end.max(low));
    let mut step = 64;
    let found = loop {
        let found = read_beyond(reader, topic, partition, head, from, end)?;
        if found.head.is_some() || head.chain.seq == 0 && from <= head.offset || from == low {
            break found;
        }
        from = (from - step).max(low);
        step *= 8;
    };
    let name = if *topic == *topics.tickets { "tickets" } else { "dead-letters" };
    metrics::strangers_passed_over(PART, name, found.strangers);
    if let Some(offset) = found.head {
        head.offset = offset + 1;
    } else if head.chain.seq > 0 && found.records.is_empty() && end < head.offset {
        return Err(foreign(topic, partition, &format!("it ends at offset {end}, before record {}", head.chain.seq)));
    }
    for record in &found.records {
        head.chain.follow(record).map_err(|broken| foreign(topic, partition, &format!("offset {}: {broken}", record.offset)))?;
        head.offset = record.offset + 1;
    }
    Ok(found.records)
}

struct Found {
    /// Offset of the head's own record.
    head: Option<i64>,
    records: Vec<Delivered>,
    /// Records without a chain that can be read.
    strangers: u64,
}

fn read_beyond(reader: &mut dyn Reader, topic: &str, partition: u32, head: &Head, from: i64, end: i64) -> Result<Found, TailError> {
    let mut found = Found { head: None, records: Vec::new(), strangers: 0 };
    let (mut wrong, mut strangers) = (None, 0);
    reader.read(topic, partition, from, end, &mut |record| {
        // Without a chain that can be read it is a stranger's.
        let Some(chain) = record.header(CHAIN).and_then(Chain::parse) else {
            strangers += 1;
            return ControlFlow::Continue(());
        };
        if chain.id != head.chain.id {
            // An earlier chain of this prefix ends where ours begins; after that, only ours may follow.
            if found.head.is_some() || !found.records.is_empty() || head.chain.seq > 0 && record.offset >= head.offset {
                wrong = Some(format!("chain {} at offset {}, where {} was expected", chain.id, record.offset, head.chain.id));
                return ControlFlow::Break(());
            }
        } else if chain.seq > head.chain.seq {
            found.records.push(record);
        } else if chain.seq == head.chain.seq {
            if chain.hash != head.chain.hash {
                wrong = Some(format!("record {} has another hash", chain.seq));
                return ControlFlow::Break(());
            }
            found.head = Some(record.offset);
        }
        ControlFlow::Continue(())
    })?;
    match wrong {
        Some(reason) => Err(foreign(topic, partition, &reason)),
        None => Ok(Found { strangers, ..found }),
    }
}

/// Hands each record to `each` until that breaks it off, with what a history leaves out because of it: the keys that the stream has
/// brought since it began (at a first start, all that is not history itself); or, when the collection is read again, every completion
/// that the log has, of those that count.
pub(crate) fn streamed_keys(
    reader: &mut dyn Reader,
    topics: &Topics,
    partitions: u32,
    completed_from_ms: Option<i64>,
    each: &mut dyn FnMut(Option<&[u8]>) -> ControlFlow<()>,
) -> Result<(), TailError> {
    for partition in 0..partitions {
        for topic in [&topics.tickets, &topics.dead_letters] {
            let Bounds { low, end } = reader.bounds(topic, partition)?;
            let mut flow = ControlFlow::Continue(());
            reader.read(topic, partition, low, end, &mut |record| {
                flow = left_out(&record, completed_from_ms, each);
                flow
            })?;
            if flow.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn left_out(record: &Delivered, completed_from_ms: Option<i64>, each: &mut dyn FnMut(Option<&[u8]>) -> ControlFlow<()>) -> ControlFlow<()> {
    let kind = record.header(KIND).filter(|_| record.header(CHAIN).is_some()).unwrap_or_default();
    let key = record.key.as_deref();
    if kind == TICKET.as_bytes()
        && let (Some(key), Some(line)) = (key, line(record))
    {
        return match completed_from_ms {
            Some(from_ms) if line.completed_at >= from_ms => each(Some(&completion(key, line.completed_at))),
            None if line.transition != Transition::History => each(Some(key)),
            _ => each(None),
        };
    }
    if kind == DEAD_LETTER.as_bytes()
        && let Some(letter) = letter(record)
        && (completed_from_ms.is_some() || !letter.is_of_history())
    {
        // A ticket that could be read and not be sent is a ticket when it is read again.
        if let (Some(_), Some(key), Some(completed_at)) = (completed_from_ms, key, letter.completed_at) {
            each(Some(&completion(key, completed_at)))?;
        }
        return each(unusable(key.map(Cow::Borrowed), letter.document.map(RawValue::get)).as_deref());
    }
    each(None)
}

#[derive(serde::Deserialize)]
struct Line {
    transition: Transition,
    completed_at: i64,
}

fn line(record: &Delivered) -> Option<Line> {
    serde_json::from_slice(record.value.as_deref()?).ok()
}

#[derive(serde::Deserialize)]
struct Letter<'a> {
    #[serde(borrow, default)]
    document: Option<&'a RawValue>,
    #[serde(default)]
    completed_at: Option<i64>,
    #[serde(borrow)]
    position: Option<Cow<'a, str>>,
}

impl Letter<'_> {
    fn is_of_history(&self) -> bool {
        self.position.as_ref().is_some_and(|position| position.starts_with(ROW_PLACE))
    }
}

fn letter(record: &Delivered) -> Option<Letter<'_>> {
    serde_json::from_slice(record.value.as_deref()?).ok()
}

/// Begins new chains after what is in the topics; `salt` is whatever makes them differ from all others.
pub(crate) fn new_heads(reader: &mut dyn Reader, topic: &str, partitions: u32, salt: &str) -> Result<Vec<Head>, TailError> {
    let mut heads = Vec::new();
    for partition in 0..partitions {
        let digest = Sha256::digest(format!("{topic}[{partition}] {salt}"));
        heads.push(Head::begin(&hex(&digest[..8]), reader.bounds(topic, partition)?.end));
    }
    Ok(heads)
}
