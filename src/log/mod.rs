//! The seam to the log: topics, records, transactions, groups.
//!
//! Two implementations, [`kafka`] and [`memory`], are held to one contract suite (`tests/log_contract.rs`). Everything
//! here blocks: a stage owns a thread, and librdkafka's transaction calls block anyway.
//!
//! What a stage may rely on:
//! - A [`Producer`] exists only after `init_transactions`: whoever used its transactional id before is fenced.
//! - [`Producer::transact`] is a whole transaction. `records` are acknowledged by the broker before `last` and `offsets`
//!   are sent, so a transaction that was torn by a late EndTxn can repeat its effects but never lose them.
//! - After every error of `transact` the producer is spent: make a new one, then read back what became visible.
//! - Records are *accepted* when `transact` is called and *durable* when it returns `Ok`. Nothing in between is promised.
//! - A [`Committer`] has one transaction under way while [`Member::poll`] runs. When a revoke meets it, either its offsets
//!   are in time, and [`Member::committed`] of the next owner waits for its end; or they are of a generation that is over, and
//!   nothing of it becomes visible.

mod committer;
pub mod kafka;
pub mod memory;
mod refusal;
mod room;

pub use committer::{Committer, Done};
pub(crate) use room::Room;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;

/// A header's name and value. Names are UTF-8, values are bytes.
pub type Header = (Cow<'static, str>, Bytes);

/// A record as a stage writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Topic, full name with its prefix.
    pub topic: std::sync::Arc<str>,
    /// Partition, chosen by the writer: no partitioner of a client library decides where a ticket goes.
    pub partition: u32,
    /// Key; `None` for control records.
    pub key: Option<Bytes>,
    /// Value; `None` is a tombstone on a compacted topic.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
}

/// Largest key and value of a record together. Topics are created to take it; one made by others may take less.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

impl Record {
    /// Returns the size of key and value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// A record as a reader meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Partition it was read from.
    pub partition: u32,
    /// Its offset there.
    pub offset: i64,
    /// The log's timestamp (broker append time where the topic says so), ms since 1970.
    pub timestamp_ms: i64,
    /// Key.
    pub key: Option<Bytes>,
    /// Value.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
}

impl Delivered {
    /// Returns the first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_ref())
    }
}

/// What a topic has to be. Created when missing; refused by name when an existing one differs in partitions or clean-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// Full name.
    pub name: String,
    /// Partitions; an existing topic with another number is refused.
    pub partitions: u32,
    /// Copies of each partition.
    pub replication: u32,
    /// Keeps the last record of each key instead of everything for a time.
    pub compacted: bool,
    /// Retention in ms; `None` keeps for ever. An existing topic that keeps less is refused.
    pub retention_ms: Option<i64>,
    /// Stamps records with the broker's append time instead of the producer's.
    pub append_time: bool,
}

/// An offset to commit inside a transaction, with up to 4,096 bytes of metadata that come back to the next owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Partition of the member's topic.
    pub partition: u32,
    /// Next offset to be read.
    pub offset: i64,
    /// The stage's own words: restore offset, chain and mark state.
    pub metadata: String,
}

/// What a group has committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Next offset to be read.
    pub offset: i64,
    /// What [`OffsetCommit::metadata`] said.
    pub metadata: String,
}

/// One whole transaction.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Sent first; all acknowledged before anything below is sent.
    pub records: Vec<Record>,
    /// Sent last (the position).
    pub last: Vec<Record>,
    /// Offsets, committed last, under the membership that fences a paused owner.
    pub offsets: Option<(Membership, Vec<OffsetCommit>)>,
}

/// Proof of who is asking when offsets are committed: the group's current generation. Opaque to stages.
pub struct Membership(pub(crate) MembershipOf);

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Membership")
    }
}

pub(crate) enum MembershipOf {
    Kafka { topic: String, metadata: std::sync::Arc<rdkafka::consumer::ConsumerGroupMetadata> },
    Memory { group: String, topic: String, member: u64, generation: u64 },
}

/// Why a transaction did not certainly commit. The producer is spent in every case.
#[derive(Debug, thiserror::Error)]
pub enum TransactError {
    /// Another process has taken over; stand by unless the group still says that the partition is ours.
    #[error("fenced: another process took over transactional id {id}")]
    Fenced {
        /// The transactional id.
        id: String,
    },
    /// Nothing of it will ever be visible.
    #[error("transaction aborted: {reason}")]
    Aborted {
        /// What the broker or client said.
        reason: String,
    },
    /// One record is larger than the topic takes; nothing is visible. Halve the batch, down to the one record.
    #[error("record too large for topic {topic} ({bytes} bytes); nothing of its transaction was written")]
    TooLarge {
        /// The topic.
        topic: String,
        /// Size of the largest record of the batch, key and value.
        bytes: usize,
    },
    /// It may or may not be visible: read back before going on.
    #[error("transaction outcome unknown: {reason}")]
    Unknown {
        /// What was reported while committing.
        reason: String,
    },
}

/// Any other failure of the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log cannot be reached or answered with an error that may pass; try again with back-off.
    #[error("{doing}: {reason}")]
    Unavailable {
        /// What was attempted, on what.
        doing: String,
        /// What came back.
        reason: String,
    },
    /// A topic is not what it has to be; a person must decide.
    #[error("topic {topic} is wrong: {reason}")]
    WrongTopic {
        /// The topic.
        topic: String,
        /// What differs and what to do.
        reason: String,
    },
    /// Another process took our seat in a group under the same name.
    #[error(
        "another process has the same instance name: it took our seat in group {group}; give each its own group.instance.id in kafka.properties"
    )]
    Unseated {
        /// The group.
        group: String,
    },
    /// An offset that must be read is no longer there.
    #[error("{topic}[{partition}] begins at offset {low}, but offset {wanted} is needed: retention has removed it")]
    Truncated {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The first offset that is still there.
        low: i64,
        /// The offset asked for.
        wanted: i64,
    },
    /// Somebody's open transaction hides the end, and has done so for longer than its time-out allows.
    #[error(
        "{topic}[{partition}] cannot be read past offset {stuck_at}: a transaction hangs there (end is {end}); abort it with kafka-transactions.sh"
    )]
    HeldUp {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The reader's position.
        stuck_at: i64,
        /// The end, as read_uncommitted shows it.
        end: i64,
    },
}

/// What a group member's poll brings. One event at a time, in order.
#[derive(Debug)]
pub enum Polled {
    /// These partitions are ours now. They deliver nothing until [`Member::start`].
    Assigned(Vec<u32>),
    /// These are no longer ours; what they delivered and was not committed will be delivered to the next owner.
    Revoked(Vec<u32>),
    /// Records, in order within each partition. Never empty.
    Records(Vec<Delivered>),
    /// Nothing within the time-out.
    Idle,
}

/// First offset that is there, and the offset after the last one, whoever's transaction it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First offset still kept.
    pub low: i64,
    /// Offset after the last record, as read_uncommitted sees it.
    pub end: i64,
}

/// Refuses a position outside `bounds`.
fn within(topic: &str, partition: u32, bounds: Bounds, position: i64) -> Result<(), LogError> {
    let Bounds { low, end } = bounds;
    if position < low {
        return Err(LogError::Truncated { topic: topic.to_owned(), partition, low, wanted: position });
    }
    if position > end {
        let reason = format!(
            "partition {partition} ends at offset {end}, but was read up to {position} before: it was recreated or lost its end; \
             restore it, or choose another kafka.topic_prefix"
        );
        return Err(LogError::WrongTopic { topic: topic.to_owned(), reason });
    }
    Ok(())
}

/// A log: Kafka, or memory.
pub trait Log: Send + Sync {
    /// Creates what is missing, refuses by name what is wrong.
    ///
    /// # Errors
    /// [`LogError::WrongTopic`] for the first that differs; [`LogError::Unavailable`].
    fn create_topics(&self, topics: &[TopicSettings]) -> Result<(), LogError>;

    /// Returns the number of partitions, or 0 when there is no such topic.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    fn partitions(&self, topic: &str) -> Result<u32, LogError>;

    /// Fences the last holder of `transactional_id` and returns its successor.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>, LogError>;

    /// Joins `group` on `topic`.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, LogError>;

    /// Returns a reader that belongs to no group.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    fn reader(&self) -> Result<Box<dyn Reader>, LogError>;

    /// Follows every partition of `topic` from the given next offsets (index = partition), outside any group.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]; [`LogError::Truncated`].
    fn follow(&self, topic: &str, from: &[i64]) -> Result<Box<dyn Follower>, LogError>;
}

/// A transactional writer.
pub trait Producer: Send {
    /// Begins, sends `records`, waits for their acknowledgement, sends `last` and `offsets`, commits.
    ///
    /// # Errors
    /// See [`TransactError`]. The producer is spent after any of them.
    fn transact(&mut self, transaction: Transaction) -> Result<(), TransactError>;
}

/// A member of a consumer group on one topic. Reads committed records only. Leaves the group when dropped.
pub trait Member: Send {
    /// Waits for the next event. Call it at least every few seconds: it is also the sign of life.
    ///
    /// # Errors
    /// [`LogError`]; the member may be polled again after [`LogError::Unavailable`].
    fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError>;

    /// Returns what the group has committed for an assigned partition.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    fn committed(&mut self, partition: u32) -> Result<Option<Committed>, LogError>;

    /// Lets an assigned partition deliver from `offset` on. Again, with another offset, to seek.
    ///
    /// # Errors
    /// [`LogError`].
    fn start(&mut self, partition: u32, offset: i64) -> Result<(), LogError>;

    /// Returns the proof for [`Transaction::offsets`]; `None` before the group has been joined.
    fn membership(&self) -> Option<Membership>;
}

/// Reads ranges, committed records only.
pub trait Reader: Send {
    /// Returns the bounds of a partition.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    fn bounds(&mut self, topic: &str, partition: u32) -> Result<Bounds, LogError>;

    /// Returns where committed records end now: before [`Bounds::end`] while a transaction is open.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    fn stable_end(&mut self, topic: &str, partition: u32) -> Result<i64, LogError>;

    /// Hands every committed record with `from <= offset < to` to `each`, in order, until it breaks.
    ///
    /// `to` is usually [`Bounds::end`]. Ends when the reader's *position* is at `to`: the last offsets may be
    /// transaction markers. Where a transaction hangs before `to`, waits for its time-out and 10 s more.
    ///
    /// # Errors
    /// [`LogError::Truncated`] when `from` is gone; [`LogError::HeldUp`]; [`LogError::Unavailable`].
    fn read(
        &mut self,
        topic: &str,
        partition: u32,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(Delivered) -> ControlFlow<()>,
    ) -> Result<(), LogError>;
}

/// Follows a topic's end.
pub trait Follower: Send {
    /// Waits for the next committed records, of any partition; empty after the time-out.
    ///
    /// # Errors
    /// [`LogError`].
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Delivered>, LogError>;
}
