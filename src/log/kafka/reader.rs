//! Reads a range of a partition to its end, even when the end is a transaction's marker.
//!
//! A client is assigned each partition once: assigning one again that librdkafka is still stopping can end the process (2.12:
//! `rd_kafka_assignment_partition_stopped`, assertion `rktp_started`).

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::Offset;
use rdkafka::{Message as _, TopicPartitionList};

use super::Cluster;
use super::errors::unavailable;
use super::fetch::{self, native};
use super::notices::Notices;
use super::properties::Properties;
use crate::log::{Bounds, Delivered, LogError, Reader, within};

/// A transaction's time-out, and the time the broker takes to notice it.
const HANGING_PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing may come although there must be more.
const SILENCE: Duration = Duration::from_secs(30);
/// How often the last stable offset is asked for while a transaction hangs.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// How long the broker waits for more before it says that this is the end: a range that is read is there.
const END_WITHIN_MS: u32 = 1;

pub(super) struct KafkaReader {
    /// Made when something is to be read.
    consumer: Option<BaseConsumer<Notices>>,
    /// What the consumer has been assigned so far.
    assigned: BTreeSet<(String, u32)>,
    cluster: Arc<Cluster>,
    properties: Properties,
}

impl KafkaReader {
    pub(super) fn new(properties: &Properties, cluster: Arc<Cluster>) -> Self {
        Self { consumer: None, assigned: BTreeSet::new(), cluster, properties: properties.clone() }
    }

    /// Has the partition fetched from `from` on, by another client when this one has had it before.
    fn assign(&mut self, topic: &str, partition: u32, from: i64) -> Result<&BaseConsumer<Notices>, LogError> {
        let place = (topic.to_owned(), partition);
        let consumer = match self.consumer.take().filter(|_| !self.assigned.contains(&place)) {
            Some(consumer) => consumer,
            None => {
                self.assigned.clear();
                self.properties.reader(END_WITHIN_MS, Notices::new("reader"))?
            }
        };
        let consumer = self.consumer.insert(consumer);
        if !self.assigned.iter().any(|(known, _)| known == topic) {
            super::settle(consumer.client(), topic)?;
        }
        self.assigned.insert(place);
        let doing = || format!("reading {topic}[{partition}]");
        let mut partitions = TopicPartitionList::with_capacity(1);
        let added = partitions.add_partition_offset(topic, native(partition), Offset::Offset(from));
        added.map_err(|error| unavailable(doing(), &error))?;
        consumer.assign(&partitions).map_err(|error| unavailable(doing(), &error))?;
        Ok(consumer)
    }

    /// Waits until everything before `to` is committed or aborted.
    fn wait_until_stable(&self, topic: &str, partition: u32, to: i64) -> Result<(), LogError> {
        let give_up = Instant::now() + HANGING_PATIENCE;
        loop {
            let stable = self.cluster.stable_end(topic, partition)?;
            if stable >= to {
                return Ok(());
            }
            if Instant::now() >= give_up {
                let end = self.cluster.bounds(topic, partition)?.end;
                return Err(LogError::HeldUp { topic: topic.to_owned(), partition, stuck_at: stable, end });
            }
            thread::sleep(ASK_EVERY);
        }
    }
}

struct Range<'a> {
    topic: &'a str,
    partition: u32,
    from: i64,
    to: i64,
}

impl Reader for KafkaReader {
    fn bounds(&mut self, topic: &str, partition: u32) -> Result<Bounds, LogError> {
        self.cluster.bounds(topic, partition)
    }

    fn stable_end(&mut self, topic: &str, partition: u32) -> Result<i64, LogError> {
        self.cluster.stable_end(topic, partition)
    }

    fn read(
        &mut self,
        topic: &str,
        partition: u32,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(Delivered) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        let bounds = self.cluster.bounds(topic, partition)?;
        let to = to.min(bounds.end);
        if from >= to {
            return Ok(());
        }
        within(topic, partition, bounds, from)?;
        self.wait_until_stable(topic, partition, to)?;
        let cluster = Arc::clone(&self.cluster);
        let consumer = self.assign(topic, partition, from)?;
        let read = read_stable(&cluster, consumer, &Range { topic, partition, from, to }, each);
        consumer.unassign().map_err(|error| unavailable(format!("reading {topic}[{partition}]"), &error))?;
        read
    }
}

/// Reads until a record at or after the last offset, or until the end is met. Everything before `to` is stable, and was so before the
/// first fetch: so an end that is met lies at `to` or after it, whatever the last offsets hold.
fn read_stable(
    cluster: &Cluster,
    consumer: &BaseConsumer<Notices>,
    range: &Range<'_>,
    each: &mut dyn FnMut(Delivered) -> ControlFlow<()>,
) -> Result<(), LogError> {
    let Range { topic, partition, to, .. } = *range;
    let doing = || format!("reading {topic}[{partition}]");
    let mut position = range.from;
    let mut heard = Instant::now();
    while heard.elapsed() < SILENCE {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                heard = Instant::now();
                if message.offset() >= to {
                    return Ok(());
                }
                position = message.offset() + 1;
                if each(fetch::delivered(&message)).is_break() || position >= to {
                    return Ok(());
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                    within(topic, partition, cluster.bounds(topic, partition)?, position)?;
                    return Err(unavailable(doing(), &error));
                }
                Some(Code::BrokerTransportFailure | Code::OperationTimedOut | Code::RequestTimedOut | Code::Resolve) => {}
                _ => return Err(unavailable(doing(), &error)),
            },
        }
    }
    let said = consumer.context().last_words().unwrap_or_else(|| "the broker is silent".to_owned());
    Err(LogError::Unavailable { doing: doing(), reason: format!("nothing came for {} s at offset {position}: {said}", SILENCE.as_secs()) })
}
