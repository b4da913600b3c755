//! A member of a consumer group, whose partitions deliver nothing before they are started.
//!
//! The client that is the member fetches nothing: it holds the seat. Records come through a second client that belongs to no
//! group and is thrown away whenever the caller goes back or gives up. Assigning the same partition again while librdkafka is
//! still stopping it ends the process (2.12: `rd_kafka_assignment_partition_stopped`, assertion `rktp_started`), and a session
//! that timed out under load does just that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Message as _, TopicPartitionList};

use super::Cluster;
use super::errors::{patiently, unavailable};
use super::fetch::{self, POLL_BYTES, POLL_RECORDS, native};
use super::notices::Notices;
use super::properties::Properties;
use crate::log::{Committed, Delivered, LogError, Member, Membership, MembershipOf, Polled};

/// As long as another's transaction may hold the offsets back, and the broker's own 10 s to notice.
const COMMITTED_WITHIN: Duration = Duration::from_secs(20);

/// So often within [`TWIN_TIME`] is our seat taken by a process that has our name: the two take it in turns.
const TWIN_TURNS: usize = 4;
/// See [`TWIN_TURNS`].
const TWIN_TIME: Duration = Duration::from_mins(1);
/// After how long one joins again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a new fetcher is waited for.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

/// How often the group is served while records are waited for.
const SEATED_EVERY: Duration = Duration::from_millis(100);

pub(super) struct KafkaMember {
    group: String,
    topic: String,
    consumer: BaseConsumer<Seat>,
    cluster: Arc<Cluster>,
    /// The partitions that the caller holds; next offset to be delivered of those that were started.
    held: BTreeMap<u32, Option<i64>>,
    /// Fetches what was started; `None` before anything is, and after a change.
    fetcher: Option<BaseConsumer<Notices>>,
    properties: Properties,
    /// Partitions that were started and that the fetcher has not been told of.
    fresh: Vec<u32>,
    generation: Option<Arc<ConsumerGroupMetadata>>,
    /// An error that came behind records: told after they were taken.
    failure: Option<KafkaError>,
    /// When our seat was taken, of late.
    unseated: VecDeque<Instant>,
    /// When to join again.
    again_at: Option<Instant>,
}

/// What librdkafka calls when the group's generation changes.
struct Seat {
    notices: Notices,
    changes: Mutex<VecDeque<Change>>,
}

enum Change {
    Assigned(Vec<u32>, Option<ConsumerGroupMetadata>),
    Revoked,
}

impl Seat {
    fn push(&self, change: Change) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push_back(change);
    }

    fn pop(&self) -> Option<Change> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn has_changed(&self) -> bool {
        !self.changes.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl ClientContext for Seat {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.notices.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.notices.fault(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.notices.stats(statistics);
    }
}

impl ConsumerContext for Seat {
    /// Answers a new generation with an empty assignment: what is fetched is decided by [`Member::start`] alone, and by another
    /// client.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let answered = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let partitions = partitions.elements().iter().filter_map(|entry| u32::try_from(entry.partition()).ok()).collect();
            // The proof of this generation, taken now: a later one could be that of a member which has silently left.
            self.push(Change::Assigned(partitions, consumer.group_metadata()));
            consumer.assign(&TopicPartitionList::new())
        } else {
            self.push(Change::Revoked);
            consumer.unassign()
        };
        if let Err(error) = answered {
            tracing::warn!(%error, "answering a rebalance");
        }
    }
}

impl KafkaMember {
    pub(super) fn join(properties: &Properties, cluster: Arc<Cluster>, group: &str, topic: &str) -> Result<Self, LogError> {
        if cluster.partitions(topic)? == 0 {
            return Err(LogError::Unavailable { doing: joining(group, topic), reason: "there is no such topic".to_owned() });
        }
        let consumer = seated(properties, group, topic)?;
        let (group, topic) = (group.to_owned(), topic.to_owned());
        Ok(Self {
            group,
            topic,
            consumer,
            cluster,
            held: BTreeMap::new(),
            fetcher: None,
            properties: properties.clone(),
            fresh: Vec::new(),
            generation: None,
            failure: None,
            unseated: VecDeque::new(),
            again_at: None,
        })
    }

    /// Takes the next change of generation over; says what the caller has to know of it.
    fn change(&mut self) -> Option<Polled> {
        match self.consumer.context().pop()? {
            Change::Assigned(partitions, generation) => {
                self.held = partitions.iter().map(|&partition| (partition, None)).collect();
                self.forget_fetcher();
                self.generation = generation.map(Arc::new);
                (!partitions.is_empty()).then_some(Polled::Assigned(partitions))
            }
            Change::Revoked => {
                self.generation = None;
                self.forget_fetcher();
                let partitions: Vec<u32> = std::mem::take(&mut self.held).into_keys().collect();
                (!partitions.is_empty()).then_some(Polled::Revoked(partitions))
            }
        }
    }

    fn forget_fetcher(&mut self) {
        self.fetcher = None;
        self.fresh.clear();
    }

    /// Fetches every started partition, from its next offset.
    fn fetch_started(&mut self) -> Result<(), LogError> {
        if self.fresh.is_empty() || self.consumer.context().has_changed() {
            return Ok(());
        }
        let doing = || format!("fetching from {}", self.topic);
        let mut partitions = TopicPartitionList::with_capacity(self.fresh.len());
        for partition in &self.fresh {
            let Some(offset) = self.held.get(partition).copied().flatten() else { continue };
            let added = partitions.add_partition_offset(&self.topic, native(*partition), Offset::Offset(offset));
            added.map_err(|error| unavailable(doing(), &error))?;
        }
        if self.fetcher.is_none() {
            let fetcher = self.properties.fetcher(Notices::new(&self.group))?;
            // The group must not wait long for it; without an answer it only fetches a second later.
            if let Err(error) = super::answers_twice(fetcher.client(), &self.topic, SETTLED_WITHIN) {
                tracing::debug!(%error, "fetching before a broker has answered");
            }
            self.fetcher = Some(fetcher);
        }
        let fetcher = self.fetcher.as_ref().expect("it was made just now");
        fetcher.incremental_assign(&partitions).map_err(|error| unavailable(doing(), &error))?;
        self.fresh.clear();
        Ok(())
    }

    /// Has every started partition fetched anew, from its next offset.
    fn fetch_anew(&mut self) {
        self.fetcher = None;
        self.fresh = self.held.iter().filter(|(_, next)| next.is_some()).map(|(partition, _)| *partition).collect();
    }

    /// Reads what is there, up to a bound, waiting for the first record only. Nothing when the generation changed meanwhile:
    /// whatever was read then belongs to the next owner.
    fn batch(&mut self, wait: Duration) -> Result<Vec<Delivered>, LogError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        // Serves the group: callbacks, and the sign of life.
        let seated = self.consumer.poll(if self.fetcher.is_some() { Duration::ZERO } else { wait });
        if let Some(Err(error)) = seated {
            self.failure = Some(error);
        }
        let mut wait = wait;
        while let Some(fetcher) = &self.fetcher {
            if self.failure.is_some() || records.len() >= POLL_RECORDS || bytes >= POLL_BYTES {
                break;
            }
            if self.consumer.context().has_changed() {
                return Ok(Vec::new());
            }
            match fetcher.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let next = self.held.get_mut(&fetch::partition_of(&message)).and_then(Option::as_mut);
                    let Some(next) = next.filter(|next| message.offset() >= **next) else { continue };
                    *next = message.offset() + 1;
                    let record = fetch::delivered(&message);
                    bytes += record.value.as_ref().map_or(0, bytes::Bytes::len);
                    records.push(record);
                }
                Some(Err(error)) => self.failure = Some(error),
            }
            wait = Duration::ZERO;
        }
        if self.consumer.context().has_changed() {
            return Ok(Vec::new());
        }
        if records.is_empty()
            && !self.is_unseated()
            && let Some(error) = self.failure.take()
        {
            self.explain(&error)?;
        }
        Ok(records)
    }

    /// Decides whether an error of the consumer concerns the caller.
    fn explain(&mut self, error: &KafkaError) -> Result<(), LogError> {
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                for (&partition, next) in &self.held {
                    if let Some(next) = next {
                        crate::log::within(&self.topic, partition, self.cluster.bounds(&self.topic, partition)?, *next)?;
                    }
                }
                // All are within bounds by now: fetch again.
                self.fetch_anew();
                Ok(())
            }
            // librdkafka goes on by itself: it connects again, or rejoins and says so by a revoke.
            Some(Code::BrokerTransportFailure | Code::OperationTimedOut | Code::PollExceeded | Code::RequestTimedOut | Code::Resolve) => {
                Ok(())
            }
            _ => Err(unavailable(format!("polling {} on {}", self.group, self.topic), error)),
        }
    }

    /// Whether another has joined by our [`group.instance.id`](super::properties).
    fn is_unseated(&self) -> bool {
        self.consumer.client().fatal_error().is_some_and(|(code, _)| code == Code::FencedInstanceId)
    }

    /// Gives up what is held by a client that is spent, and joins again a little later. It may have been ourselves who took the seat: a
    /// client that asks to join a second time, because a slow broker had not answered the first, fences itself.
    fn leave_seat(&mut self) -> Result<Polled, LogError> {
        let now = Instant::now();
        self.unseated.push_back(now);
        self.unseated.retain(|before| now.duration_since(*before) < TWIN_TIME);
        if self.unseated.len() >= TWIN_TURNS {
            return Err(LogError::Unseated { group: self.group.clone() });
        }
        tracing::warn!(group = self.group, "our seat was taken by the same group.instance.id; joining again");
        self.again_at = Some(now + AGAIN);
        // What the spent client said is no news of the next one.
        self.failure = None;
        self.generation = None;
        self.forget_fetcher();
        let partitions: Vec<u32> = std::mem::take(&mut self.held).into_keys().collect();
        Ok(if partitions.is_empty() { Polled::Idle } else { Polled::Revoked(partitions) })
    }
}

/// Returns a client that asks for a seat in the group.
fn seated(properties: &Properties, group: &str, topic: &str) -> Result<BaseConsumer<Seat>, LogError> {
    let seat = Seat { notices: Notices::new(group), changes: Mutex::default() };
    let consumer = properties.member(group, seat)?;
    consumer.subscribe(&[topic]).map_err(|error| unavailable(joining(group, topic), &error))?;
    Ok(consumer)
}

fn joining(group: &str, topic: &str) -> String {
    format!("joining {group} on {topic}")
}

impl Member for KafkaMember {
    fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError> {
        let give_up = Instant::now() + timeout;
        if let Some(again) = self.again_at {
            std::thread::sleep(again.min(give_up).saturating_duration_since(Instant::now()));
            if Instant::now() < again {
                return Ok(Polled::Idle);
            }
            self.consumer = seated(&self.properties, &self.group, &self.topic)?;
            self.again_at = None;
        }
        loop {
            while self.consumer.context().has_changed() {
                if let Some(polled) = self.change() {
                    return Ok(polled);
                }
            }
            self.fetch_started()?;
            let records = self.batch(fetch::whole(give_up.saturating_duration_since(Instant::now())).min(SEATED_EVERY))?;
            if !records.is_empty() {
                return Ok(Polled::Records(records));
            }
            if self.is_unseated() {
                return self.leave_seat();
            }
            if Instant::now() >= give_up && !self.consumer.context().has_changed() {
                return Ok(Polled::Idle);
            }
        }
    }

    fn committed(&mut self, partition: u32) -> Result<Option<Committed>, LogError> {
        let asked = patiently(COMMITTED_WITHIN, |time| {
            let mut partitions = TopicPartitionList::with_capacity(1);
            partitions.add_partition(&self.topic, native(partition));
            let answer = self.consumer.committed_offsets(partitions, time)?;
            answer.elements().iter().try_for_each(rdkafka::topic_partition_list::TopicPartitionListElem::error)?;
            Ok(answer)
        });
        let doing = || format!("asking what {} has committed of {}[{partition}]", self.group, self.topic);
        let answer = asked.map_err(|error| unavailable(doing(), &error))?;
        Ok(answer.elements().first().and_then(|entry| match entry.offset() {
            Offset::Offset(offset) => Some(Committed { offset, metadata: entry.metadata().to_owned() }),
            _ => None,
        }))
    }

    fn start(&mut self, partition: u32, offset: i64) -> Result<(), LogError> {
        let Some(held) = self.held.get_mut(&partition) else {
            let doing = format!("starting {}[{partition}]", self.topic);
            return Err(LogError::Unavailable { doing, reason: "it is not assigned to this member".to_owned() });
        };
        crate::log::within(&self.topic, partition, self.cluster.bounds(&self.topic, partition)?, offset)?;
        let is_again = held.replace(offset).is_some();
        if is_again {
            self.fetch_anew();
        } else {
            self.fresh.push(partition);
        }
        Ok(())
    }

    fn membership(&self) -> Option<Membership> {
        let metadata = Arc::clone(self.generation.as_ref()?);
        Some(Membership(MembershipOf::Kafka { topic: self.topic.clone(), metadata }))
    }
}
