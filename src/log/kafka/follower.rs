//! Follows a topic's end, outside any group.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::Offset;

use super::Cluster;
use super::errors::unavailable;
use super::fetch::{self, POLL_BYTES, POLL_RECORDS, native};
use super::notices::Notices;
use super::properties::Properties;
use crate::log::{Delivered, Follower, LogError, within};

/// How long the broker waits for more before it says that this is the end: what comes is sent at once, and an end is no news.
const END_WITHIN_MS: u32 = 50;

pub(super) struct KafkaFollower {
    topic: String,
    consumer: BaseConsumer<Notices>,
    cluster: Arc<Cluster>,
    properties: Properties,
    /// Next offset of each partition.
    positions: Vec<i64>,
    /// An error that came behind records: told after they were taken.
    failure: Option<KafkaError>,
}

impl KafkaFollower {
    pub(super) fn new(properties: &Properties, cluster: Arc<Cluster>, topic: &str, from: &[i64]) -> Result<Self, LogError> {
        let count = cluster.partitions(topic)?;
        if count == 0 {
            return Err(LogError::Unavailable { doing: format!("following {topic}"), reason: "there is no such topic".to_owned() });
        }
        let mut positions = Vec::new();
        for partition in 0..count {
            let bounds = cluster.bounds(topic, partition)?;
            let position = from.get(positions.len()).copied().unwrap_or(bounds.low);
            within(topic, partition, bounds, position)?;
            positions.push(position);
        }
        let consumer = properties.reader(END_WITHIN_MS, Notices::new(&format!("follower of {topic}")))?;
        assign(&consumer, topic, &positions)?;
        Ok(Self { topic: topic.to_owned(), consumer, cluster, properties: properties.clone(), positions, failure: None })
    }

    /// Decides whether an error of the consumer concerns the caller.
    fn explain(&mut self, error: &KafkaError) -> Result<(), LogError> {
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                for (partition, position) in (0..).zip(&self.positions) {
                    within(&self.topic, partition, self.cluster.bounds(&self.topic, partition)?, *position)?;
                }
                // All are within bounds by now. Another client: see [`super::reader`] for why this one may not be assigned again.
                let consumer = self.properties.reader(END_WITHIN_MS, Notices::new(&format!("follower of {}", self.topic)))?;
                assign(&consumer, &self.topic, &self.positions)?;
                self.consumer = consumer;
                Ok(())
            }
            Some(Code::BrokerTransportFailure | Code::OperationTimedOut | Code::RequestTimedOut | Code::Resolve) => Ok(()),
            _ => Err(unavailable(format!("following {}", self.topic), error)),
        }
    }
}

fn assign(consumer: &BaseConsumer<Notices>, topic: &str, positions: &[i64]) -> Result<(), LogError> {
    super::settle(consumer.client(), topic)?;
    let doing = || format!("following {topic}");
    let mut partitions = TopicPartitionList::with_capacity(positions.len());
    for (partition, position) in (0..).zip(positions) {
        let added = partitions.add_partition_offset(topic, native(partition), Offset::Offset(*position));
        added.map_err(|error| unavailable(doing(), &error))?;
    }
    consumer.assign(&partitions).map_err(|error| unavailable(doing(), &error))
}

impl Follower for KafkaFollower {
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Delivered>, LogError> {
        let give_up = std::time::Instant::now() + timeout;
        let mut records = Vec::new();
        let mut bytes = 0;
        if let Some(error) = self.failure.take() {
            self.explain(&error)?;
        }
        while records.len() < POLL_RECORDS && bytes < POLL_BYTES {
            let left = give_up.saturating_duration_since(std::time::Instant::now());
            let wait = if records.is_empty() { fetch::whole(left) } else { Duration::ZERO };
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let record = fetch::delivered(&message);
                    let Some(position) = self.positions.get_mut(record.partition as usize) else { continue };
                    *position = record.offset + 1;
                    bytes += record.value.as_ref().map_or(0, bytes::Bytes::len);
                    records.push(record);
                }
                Some(Err(KafkaError::PartitionEOF(_))) if !left.is_zero() => {}
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) if records.is_empty() => self.explain(&error)?,
                Some(Err(error)) => {
                    self.failure = Some(error);
                    break;
                }
                None if records.is_empty() && !left.is_zero() => {}
                None => break,
            }
        }
        Ok(records)
    }
}
