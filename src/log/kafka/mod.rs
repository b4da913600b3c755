//! The log on Apache Kafka, through librdkafka.

mod admin;
mod errors;
mod fetch;
mod follower;
mod member;
mod notices;
mod outcome;
mod producer;
mod properties;
mod reader;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataPartition;

use self::errors::{advice, patiently, reason, unavailable};
use self::notices::Notices;
use self::properties::Properties;
use super::{Bounds, Follower, Log, LogError, Member, Producer, Reader, TopicSettings};
use crate::config;

/// How long one question to the cluster may take, repetitions included.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long the first one may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A refusal that another broker does not take back within so long is final.
const REFUSED_AFTER: Duration = Duration::from_secs(3);
/// How long a broker that refuses is left in peace.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// How long one of the first questions of a client waits, before a pause.
const ASKED_FOR: Duration = Duration::from_secs(2);
/// How long a client that failed is listened to for its reasons.
const SAID_WITHIN: Duration = Duration::from_millis(100);

/// A topic to ask about, only to hear an answer.
const ANY: &str = "tidemark";

/// A Kafka cluster.
pub struct KafkaLog {
    properties: Properties,
    cluster: Arc<Cluster>,
}

/// Answers questions about topics. These clients read nothing and stay, so that an answer comes at once.
pub(super) struct Cluster {
    /// Reads uncommitted: a partition's end is its real one.
    client: BaseConsumer<Notices>,
    /// Reads committed: a partition's end is its last stable offset.
    committed: BaseConsumer<Notices>,
}

impl KafkaLog {
    /// Connects to the cluster.
    ///
    /// # Errors
    /// [`LogError::Unavailable`], naming the servers, when nobody answers within ten seconds, or the brokers that are named in the answer do not
    /// within as long, or a property is not accepted.
    /// The values of properties are never part of a message.
    pub fn connect(config: &config::Kafka) -> Result<Self, LogError> {
        let properties = Properties::new(config)?;
        let client = properties.consumer_without_group("read_uncommitted", Notices::new("cluster"))?;
        let committed = properties.consumer_without_group("read_committed", Notices::new("cluster"))?;
        let cluster = Arc::new(Cluster { client, committed });
        let doing = || format!("connecting to Kafka at {}", properties.servers());
        cluster.reach().map_err(|said| {
            let reason = format!("{said}; {}", advice(&said));
            LogError::Unavailable { doing: doing(), reason }
        })?;
        tracing::info!(servers = properties.servers(), "connected to Kafka");
        Ok(Self { properties, cluster })
    }
}

impl Log for KafkaLog {
    fn create_topics(&self, topics: &[TopicSettings]) -> Result<(), LogError> {
        admin::create(&self.properties, &self.cluster, topics)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.cluster.partitions(topic)
    }

    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>, LogError> {
        Ok(Box::new(producer::KafkaProducer::init(&self.properties, transactional_id)?))
    }

    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, LogError> {
        Ok(Box::new(member::KafkaMember::join(&self.properties, Arc::clone(&self.cluster), group, topic)?))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(reader::KafkaReader::new(&self.properties, Arc::clone(&self.cluster))))
    }

    fn follow(&self, topic: &str, from: &[i64]) -> Result<Box<dyn Follower>, LogError> {
        Ok(Box::new(follower::KafkaFollower::new(&self.properties, Arc::clone(&self.cluster), topic, from)?))
    }
}

impl Cluster {
    /// Waits until brokers answer both clients, or until it is clear that none will.
    ///
    /// # Errors
    /// What was said last.
    fn reach(&self) -> Result<(), String> {
        let give_up = Instant::now() + CONNECT_WITHIN;
        let (mut wait, mut refused) = (SAID_WITHIN, None);
        loop {
            let Err(error) = ask(self.client.client(), ANY, wait) else { break };
            // Events are served by polling only; one call may bring but one of them.
            let heard = Instant::now() + SAID_WITHIN;
            while Instant::now() < heard {
                drop(self.client.poll(SAID_WITHIN / 10));
            }
            let said = self.client.context().last_words();
            let is_refused = said.as_deref().is_some_and(errors::is_refusal);
            let now = Instant::now();
            if now >= give_up || is_refused && now >= *refused.get_or_insert(now) + REFUSED_AFTER {
                return Err(said.unwrap_or_else(|| reason(&error)));
            }
            if is_refused {
                // A call that waits has librdkafka try again and again.
                wait = SAID_WITHIN;
                thread::sleep(REFUSED_PAUSE);
            } else {
                (wait, refused) = ((wait * 2).min(REFUSED_AFTER), None);
            }
        }
        [&self.client, &self.committed].into_iter().try_for_each(|client| {
            answers_twice(client.client(), ANY, CONNECT_WITHIN)
                .map_err(|error| client.context().last_words().unwrap_or_else(|| reason(&error)))
        })
    }

    /// Returns the number of partitions, or 0 when there is no such topic. Waits while one of them has no leader: then the cluster is
    /// not what it will be, and the number of the others would be taken for another topic's.
    pub(super) fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        let asked = patiently(ANSWER_WITHIN, |time| {
            let metadata = self.client.fetch_metadata(Some(topic), time)?;
            let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(0) };
            count(found.error().map(Code::from), found.partitions().iter().map(MetadataPartition::leader))
        });
        asked.map_err(|error| unavailable(format!("looking for topic {topic}"), &error))
    }

    /// Returns the bounds of a partition, whoever's transactions are in it.
    pub(super) fn bounds(&self, topic: &str, partition: u32) -> Result<Bounds, LogError> {
        bounds(&self.client, topic, partition)
    }

    /// Returns where committed records end now.
    pub(super) fn stable_end(&self, topic: &str, partition: u32) -> Result<i64, LogError> {
        Ok(bounds(&self.committed, topic, partition)?.end)
    }
}

/// Asks about a topic, be it there or not: any broker can answer.
fn ask<C: ClientContext>(client: &Client<C>, topic: &str, within: Duration) -> KafkaResult<()> {
    client.fetch_metadata(Some(topic), within).map(drop)
}

/// Waits until a client has its connection to a broker, and knows where the topic is that it is for. As soon as librdkafka has heard who the
/// brokers are, it lets go of the bootstrap server that said so, and of whatever else was asked there; some of that it asks again half a
/// second later, and so it does for a topic that is new to it when it is assigned. The second answer comes from a broker.
fn settle<C: ClientContext>(client: &Client<C>, topic: &str) -> Result<(), LogError> {
    answers_twice(client, topic, ANSWER_WITHIN).map_err(|error| unavailable(format!("looking for the broker of {topic}"), &error))
}

fn answers_twice<C: ClientContext>(client: &Client<C>, topic: &str, within: Duration) -> KafkaResult<()> {
    let give_up = Instant::now() + within;
    (0..2).try_for_each(|_| {
        let left = give_up.saturating_duration_since(Instant::now());
        patiently(left, |time| ask(client, topic, time.min(ASKED_FOR)))
    })
}

/// Counts the partitions of a topic by their leaders (-1: none), unless its error, or one without a leader, may pass.
fn count(error: Option<Code>, leaders: impl ExactSizeIterator<Item = i32>) -> KafkaResult<u32> {
    if let Some(code) = error {
        return if errors::passes(code) { Err(KafkaError::MetadataFetch(code)) } else { Ok(0) };
    }
    let count = u32::try_from(leaders.len()).unwrap_or(u32::MAX);
    if leaders.into_iter().any(|leader| leader < 0) { Err(KafkaError::MetadataFetch(Code::LeaderNotAvailable)) } else { Ok(count) }
}

/// Returns the bounds of a partition as `client` sees them: read_committed ones see the last stable offset as its end.
fn bounds<C: rdkafka::consumer::ConsumerContext>(client: &BaseConsumer<C>, topic: &str, partition: u32) -> Result<Bounds, LogError> {
    // What it has to say is heard here, as nobody else polls it.
    drop(client.poll(Duration::ZERO));
    let number = fetch::native(partition);
    let (low, end) = patiently(ANSWER_WITHIN, |time| client.fetch_watermarks(topic, number, time))
        .map_err(|error| unavailable(format!("asking for the bounds of {topic}[{partition}]"), &error))?;
    Ok(Bounds { low, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_with_a_partition_without_a_leader_is_asked_for_again_and_not_taken_for_a_smaller_one() {
        assert_eq!(count(None, [1, 1, 2].into_iter()), Ok(3));
        assert_eq!(count(None, [1, -1, 2].into_iter()), Err(KafkaError::MetadataFetch(Code::LeaderNotAvailable)));
        assert_eq!(count(Some(Code::UnknownTopicOrPartition), [].into_iter()), Ok(0));
        assert_eq!(count(Some(Code::LeaderNotAvailable), [].into_iter()), Err(KafkaError::MetadataFetch(Code::LeaderNotAvailable)));
    }
}
