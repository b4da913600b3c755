//! Topics as commands read and write them: whole, once, on behalf of a person.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::log::{Delivered, Log, LogError, Record, TopicSettings, TransactError, Transaction};

use super::exit::{Exit, Failure};

/// Attempts to write what a person decided.
const ATTEMPTS: usize = 4;

/// Returns every committed record of a partition, oldest first; none when there is no such topic.
pub(super) fn records(log: &dyn Log, topic: &str, partition: u32) -> Result<Vec<Delivered>, LogError> {
    let mut records = Vec::new();
    if log.partitions(topic)? <= partition {
        return Ok(records);
    }
    let mut reader = log.reader()?;
    let bounds = reader.bounds(topic, partition)?;
    reader.read(topic, partition, bounds.low, bounds.end, &mut |record| {
        records.push(record);
        ControlFlow::Continue(())
    })?;
    Ok(records)
}

/// Returns the last value of each key of a compacted topic of one partition; tombstones are gone.
pub(super) fn latest(log: &dyn Log, topic: &str) -> Result<BTreeMap<Bytes, Bytes>, LogError> {
    let mut latest = BTreeMap::new();
    for record in records(log, topic, 0)? {
        let Some(key) = record.key else { continue };
        match record.value {
            Some(value) => latest.insert(key, value),
            None => latest.remove(&key),
        };
    }
    Ok(latest)
}

/// Writes records whose identity is their own: sent twice they are one decision, so an unknown outcome is tried again.
pub(super) fn write(log: &dyn Log, transactional_id: &str, topic: TopicSettings, records: &[Record]) -> Result<(), Failure> {
    let name = topic.name.clone();
    log.create_topics(&[topic])?;
    let mut reason = String::new();
    for _ in 0..ATTEMPTS {
        let mut producer = log.producer(transactional_id)?;
        match producer.transact(Transaction { records: records.to_vec(), ..Transaction::default() }) {
            Ok(()) => return Ok(()),
            Err(error @ TransactError::TooLarge { .. }) => {
                return Err(Failure::new(Exit::Refused, format!("{error}; raise max.message.bytes of the topic")));
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(Failure::new(Exit::Unreachable, format!("cannot write to topic {name} in {ATTEMPTS} attempts: {reason}; is every broker up?")))
}
