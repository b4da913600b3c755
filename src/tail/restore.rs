//! Reading back: the position, and what became visible beyond it.

use std::ops::ControlFlow;

use sha2::{Digest, Sha256};

use super::TailError;
use super::adopted::{Adopted, ROW_PLACE};
use super::position::{Head, Position, hex};
use super::streamed::{Streamed, completion};
use crate::log::{Bounds, Delivered, Log, Reader};
use crate::spec::Spec;
use crate::ticket::{CHAIN, Chain, KIND, TICKET, Transition};
use crate::topics::Topics;

/// Returns the last position of `spec`, or `None` before the first start.
///
/// # Errors
/// [`TailError::Refused`] when the topics are somebody else's: they hold tickets without a position, or another spec's position.
pub(crate) fn position(reader: &mut dyn Reader, topics: &Topics, spec: &Spec, partitions: u32) -> Result<Option<Position>, TailError> {
    let mut last = None;
    let mut other = None;
    let bounds = reader.bounds(&topics.positions, 0)?;
    // The last position stands at the end, before whatever markers follow it: no need to read a day of them.
    let mut step = 64;
    loop {
        let from = (bounds.end - step).max(bounds.low);
        reader.read(&topics.positions, 0, from, bounds.end, &mut |record| {
            if record.key.as_deref() == Some(spec.name.as_bytes()) {
                last = record.value;
            } else {
                other = record.key;
            }
            ControlFlow::Continue(())
        })?;
        if last.is_some() || from == bounds.low {
            break;
        }
        step *= 8;
    }
    if let Some(other) = other {
        return Err(TailError::Refused(format!(
            "topic {} holds the position of spec {}, and a topic prefix serves one spec: configure another kafka.topic_prefix for spec {}",
            topics.positions,
            String::from_utf8_lossy(&other),
            spec.name
        )));
    }
    let Some(value) = last else {
        for partition in 0..partitions {
            if has_records(reader, &topics.tickets, partition)? {
                return Err(TailError::Refused(format!(
                    "topic {} has records, but {} has no position for them: this is not a first start. Delete both topics to begin anew, \
                     or configure another kafka.topic_prefix",
                    topics.tickets, topics.positions
                )));
            }
        }
        return Ok(None);
    };
    let position = Position::decode(&value)
        .map_err(|error| TailError::Refused(format!("the position in topic {} cannot be read: {error}", topics.positions)))?;
    if position.partitions() != partitions || position.dead_letters.len() != position.tickets.len() {
        return Err(TailError::Refused(format!(
            "topic {} has {partitions} partitions, but the position describes {}: tickets would change partition",
            topics.tickets,
            position.partitions()
        )));
    }
    Ok(Some(position))
}

fn has_records(reader: &mut dyn Reader, topic: &str, partition: u32) -> Result<bool, TailError> {
    let Bounds { low, end } = reader.bounds(topic, partition)?;
    let mut found = false;
    reader.read(topic, partition, low, end, &mut |_| {
        found = true;
        ControlFlow::Break(())
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
            "topics {} and {} must exist with the same number of partitions; they have {tickets} and {dead_letters}",
            topics.tickets, topics.dead_letters
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
        for record in beyond(reader, &topics.tickets, partition, head)? {
            adopted
                .adopt_ticket_or_control(&record, partitions, &mut controls)
                .map_err(|reason| foreign(&topics.tickets, partition, &format!("record {} is not ours: {reason}", record.offset)))?;
        }
    }
    for (partition, head) in (0..).zip(&mut position.dead_letters) {
        for record in beyond(reader, &topics.dead_letters, partition, head)? {
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
fn beyond(reader: &mut dyn Reader, topic: &str, partition: u32, head: &mut Head) -> Result<Vec<Delivered>, TailError> {
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
}

fn read_beyond(reader: &mut dyn Reader, topic: &str, partition: u32, head: &Head, from: i64, end: i64) -> Result<Found, TailError> {
    let mut found = Found { head: None, records: Vec::new() };
    let mut wrong = None;
    reader.read(topic, partition, from, end, &mut |record| {
        let Some(header) = record.header(CHAIN) else {
            return ControlFlow::Continue(());
        };
        let Some(chain) = Chain::parse(header) else {
            wrong = Some(format!("the chain header at offset {} cannot be read", record.offset));
            return ControlFlow::Break(());
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
        None => Ok(found),
    }
}

/// Returns what a history leaves out: the keys that the stream has brought since it began (at a first start, all that is not history
/// itself); or, when the collection is read again, every completion that the log has, of those that count.
pub(crate) fn streamed(
    reader: &mut dyn Reader,
    topics: &Topics,
    partitions: u32,
    completed_from_ms: Option<i64>,
) -> Result<Streamed, TailError> {
    let mut streamed = Streamed::default();
    streamed_keys(reader, topics, partitions, completed_from_ms, &mut |key| streamed.insert(key))?;
    Ok(streamed)
}

/// Hands everything that [`streamed`] remembers to `each`.
pub(crate) fn streamed_keys(
    reader: &mut dyn Reader,
    topics: &Topics,
    partitions: u32,
    completed_from_ms: Option<i64>,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), TailError> {
    for partition in 0..partitions {
        let Bounds { low, end } = reader.bounds(&topics.tickets, partition)?;
        reader.read(&topics.tickets, partition, low, end, &mut |record| {
            if record.header(KIND) == Some(TICKET.as_bytes())
                && let (Some(key), Some(line)) = (&record.key, line(&record))
            {
                match completed_from_ms {
                    Some(from_ms) if line.completed_at >= from_ms => each(&completion(key, line.completed_at)),
                    None if line.transition != Transition::History => each(key),
                    _ => {}
                }
            }
            ControlFlow::Continue(())
        })?;
        let Bounds { low, end } = reader.bounds(&topics.dead_letters, partition)?;
        reader.read(&topics.dead_letters, partition, low, end, &mut |record| {
            if (completed_from_ms.is_some() || !is_of_history(&record))
                && let Some(key) = &record.key
            {
                each(key);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Line {
    transition: Transition,
    completed_at: i64,
}

fn line(record: &Delivered) -> Option<Line> {
    serde_json::from_slice(record.value.as_deref()?).ok()
}

fn is_of_history(record: &Delivered) -> bool {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        position: Option<std::borrow::Cow<'a, str>>,
    }
    let line = record.value.as_deref().and_then(|value| serde_json::from_slice::<Line<'_>>(value).ok());
    line.and_then(|line| line.position).is_some_and(|position| position.starts_with(ROW_PLACE))
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
