//! The log in memory: for the demo, and for tests that need every fault at will.
//!
//! It keeps Kafka's habits where a stage could notice: offsets have holes (markers, aborted and compacted records), a
//! hanging transaction hides what comes after it, a group's members give up before they are assigned anew, and offsets of
//! an old generation are refused. What Kafka's disk does, bounds do here: see [`Limits`].

mod group;
mod partition;
#[cfg(test)]
pub(crate) mod slow;
mod state;

use std::ops::ControlFlow;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use self::group::Turn;
use self::state::State;
use super::{
    Bounds, Committed, Delivered, Follower, Log, LogError, Member, Membership, MembershipOf, Polled, Producer, Reader, TopicSettings,
    TransactError, Transaction,
};
use crate::threads::{self, Monitor};

/// Records that one poll brings at most.
const POLL_RECORDS: usize = 4_096;

/// How much memory the log may take, and how long it waits for whom.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes a topic that is not compacted keeps, about, of what every group has committed.
    pub topic_bytes: usize,
    /// Superseded bytes that a partition of a compacted topic keeps, about: how far a follower of every record may lag behind.
    pub superseded_bytes: usize,
    /// Records of a topic that a group with members may lag behind before [`Producer::transact`] waits for it.
    pub backlog_records: i64,
    /// How long `transact` waits for such a group before it aborts.
    pub backlog_patience: Duration,
    /// How long a member may leave a rebalance unanswered before it is ousted.
    pub rebalance_patience: Duration,
    /// How long a member may go without a poll before it is ousted.
    pub session_patience: Duration,
    /// How long a read waits for a hanging transaction.
    pub hanging_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            topic_bytes: usize::MAX,
            superseded_bytes: 4 << 20,
            backlog_records: i64::MAX,
            backlog_patience: Duration::from_secs(10),
            rebalance_patience: Duration::from_secs(10),
            session_patience: Duration::MAX,
            hanging_patience: Duration::from_secs(20),
        }
    }
}

/// What may go wrong with a transaction: see [`MemoryLog::inject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing of it becomes visible, and the producer knows.
    Abort,
    /// Everything becomes visible, but the producer does not know.
    UnknownVisible,
    /// Nothing becomes visible, but the producer does not know.
    UnknownLost,
    /// A late EndTxn cuts it: the first records become visible, the others, `last` and the offsets do not, and the producer does
    /// not know.
    Torn {
        /// How many of [`Transaction::records`] become visible.
        visible: usize,
    },
    /// It stays open, hiding all that comes after, until its transactional id is used again; the producer does not know.
    Hang,
    /// Another process takes over the transactional id just before.
    Fence,
}

/// A log in this process's memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    limits: Limits,
    state: Monitor<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn wait<'a>(&'a self, guard: MutexGuard<'a, State>, until: Instant) -> MutexGuard<'a, State> {
        self.state.wait(guard, Some(until))
    }
}

impl MemoryLog {
    /// Returns an empty log that keeps everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an empty log of bounded memory.
    #[must_use]
    pub fn bounded(limits: Limits) -> Self {
        Self { shared: Arc::new(Shared { limits, ..Shared::default() }) }
    }

    /// Lets `fault` happen to a transaction of `transactional_id`: the one after the next `after`. One fault a transaction.
    pub fn inject(&self, transactional_id: &str, after: usize, fault: Fault) {
        self.shared.lock().inject(transactional_id, after, fault);
    }

    /// Removes all members of `group`, as if they had been silent for too long. They notice when they poll, and join again.
    pub fn oust(&self, group: &str) {
        self.shared.lock().oust(group);
        self.shared.state.notify();
    }

    /// Forgets the records of a partition before `offset`, as retention would.
    pub fn truncate(&self, topic: &str, partition: u32, offset: i64) {
        self.shared.lock().truncate(topic, partition, offset);
    }

    /// Returns about how many bytes the records of `topic` take.
    #[must_use]
    pub fn bytes(&self, topic: &str) -> usize {
        self.shared.lock().topic(topic).map_or(0, |topic| topic.partitions.iter().map(partition::Partition::bytes).sum())
    }
}

impl Log for MemoryLog {
    fn create_topics(&self, topics: &[TopicSettings]) -> Result<(), LogError> {
        self.shared.lock().create(topics)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        Ok(self.shared.lock().topic(topic).map_or(0, |topic| topic.settings.partitions))
    }

    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>, LogError> {
        let epoch = self.shared.lock().next_epoch(transactional_id);
        self.shared.state.notify();
        Ok(Box::new(MemoryProducer { shared: Arc::clone(&self.shared), id: transactional_id.to_owned(), epoch, spent: false }))
    }

    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, LogError> {
        let mut state = self.shared.lock();
        if state.topic(topic).is_none() {
            return Err(missing(format!("joining {group} on {topic}")));
        }
        let id = state.next_member();
        state.group(group, topic).join(id, threads::now());
        self.shared.state.notify();
        let (shared, group, topic) = (Arc::clone(&self.shared), group.to_owned(), topic.to_owned());
        Ok(Box::new(MemoryMember { shared, group, topic, id, held: Vec::new(), generation: None, turns: 0 }))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(MemoryReader { shared: Arc::clone(&self.shared) }))
    }

    fn follow(&self, topic: &str, from: &[i64]) -> Result<Box<dyn Follower>, LogError> {
        let state = self.shared.lock();
        let Some(found) = state.topic(topic) else { return Err(missing(format!("following {topic}"))) };
        let mut positions = Vec::new();
        for (partition, index) in found.partitions.iter().zip(0..) {
            let position = from.get(positions.len()).copied().unwrap_or(partition.bounds().low);
            super::within(topic, index, partition.bounds(), position)?;
            positions.push(position);
        }
        Ok(Box::new(MemoryFollower { shared: Arc::clone(&self.shared), topic: topic.to_owned(), positions }))
    }
}

fn missing(doing: String) -> LogError {
    LogError::Unavailable { doing, reason: "there is no such topic".to_owned() }
}

struct MemoryProducer {
    shared: Arc<Shared>,
    id: String,
    epoch: u64,
    spent: bool,
}

impl Producer for MemoryProducer {
    fn transact(&mut self, transaction: Transaction) -> Result<(), TransactError> {
        if self.spent {
            return Err(TransactError::Aborted { reason: "the producer is spent; make a new one".to_owned() });
        }
        let result = self.attempt(transaction);
        self.spent = result.is_err();
        self.shared.state.notify();
        result
    }
}

impl MemoryProducer {
    fn attempt(&self, transaction: Transaction) -> Result<(), TransactError> {
        let limits = &self.shared.limits;
        let mut state = self.shared.lock();
        let give_up = threads::now() + limits.backlog_patience;
        loop {
            if state.epoch(&self.id) != self.epoch {
                return Err(TransactError::Fenced { id: self.id.clone() });
            }
            let Some(topic) = state.backlogged(&transaction, limits.backlog_records) else { break };
            if threads::now() >= give_up {
                let reason = format!("a group on {topic} lags by more than {} records", limits.backlog_records);
                return Err(TransactError::Aborted { reason });
            }
            state = self.shared.wait(state, give_up);
        }
        state.commit(&self.id, transaction, limits)
    }
}

struct MemoryMember {
    shared: Arc<Shared>,
    group: String,
    topic: String,
    id: u64,
    /// What the caller has been told it holds.
    held: Vec<u32>,
    /// The generation in which it was told so.
    generation: Option<u64>,
    /// Polls that brought records: whose turn it is to be read first.
    turns: usize,
}

impl Member for MemoryMember {
    fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError> {
        let give_up = threads::now() + timeout;
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            let now = threads::now();
            let mut wake = give_up;
            match state.turn(&self.group, &self.topic, self.id, &shared.limits, now) {
                Turn::Ousted => {
                    self.generation = None;
                    if !self.held.is_empty() {
                        return Ok(Polled::Revoked(std::mem::take(&mut self.held)));
                    }
                    self.id = state.next_member();
                    state.group(&self.group, &self.topic).join(self.id, now);
                    shared.state.notify();
                    continue;
                }
                Turn::GiveUp => {
                    self.generation = None;
                    shared.state.notify();
                    if !self.held.is_empty() {
                        return Ok(Polled::Revoked(std::mem::take(&mut self.held)));
                    }
                    continue;
                }
                Turn::Take(partitions) => {
                    self.held = partitions;
                    self.generation = state.group(&self.group, &self.topic).generation_of(self.id);
                    if !self.held.is_empty() {
                        return Ok(Polled::Assigned(self.held.clone()));
                    }
                    continue;
                }
                Turn::Wait => {
                    let expires = state.group(&self.group, &self.topic).expires_at(shared.limits.rebalance_patience);
                    wake = expires.map_or(give_up, |expires| expires.min(give_up));
                }
                Turn::Deliver => {
                    let records = state.deliver(&self.group, &self.topic, self.id, self.turns)?;
                    if !records.is_empty() {
                        self.turns += 1;
                        shared.state.notify();
                        return Ok(Polled::Records(records));
                    }
                }
            }
            if now >= give_up {
                return Ok(Polled::Idle);
            }
            state = shared.wait(state, wake);
        }
    }

    fn committed(&mut self, partition: u32) -> Result<Option<Committed>, LogError> {
        Ok(self.shared.lock().group(&self.group, &self.topic).committed.get(&partition).cloned())
    }

    fn start(&mut self, partition: u32, offset: i64) -> Result<(), LogError> {
        if !self.held.contains(&partition) {
            let doing = format!("starting {}[{partition}]", self.topic);
            return Err(LogError::Unavailable { doing, reason: "it is not assigned to this member".to_owned() });
        }
        let mut state = self.shared.lock();
        super::within(&self.topic, partition, state.bounds(&self.topic, partition)?, offset)?;
        state.group(&self.group, &self.topic).start(self.id, partition, offset);
        Ok(())
    }

    fn membership(&self) -> Option<Membership> {
        let generation = self.generation?;
        let (group, topic) = (self.group.clone(), self.topic.clone());
        Some(Membership(MembershipOf::Memory { group, topic, member: self.id, generation }))
    }
}

impl Drop for MemoryMember {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.leave(&self.group, &self.topic, self.id);
        self.shared.state.notify();
    }
}

struct MemoryReader {
    shared: Arc<Shared>,
}

impl Reader for MemoryReader {
    fn bounds(&mut self, topic: &str, partition: u32) -> Result<Bounds, LogError> {
        self.shared.lock().bounds(topic, partition)
    }

    fn stable_end(&mut self, topic: &str, partition: u32) -> Result<i64, LogError> {
        Ok(self.shared.lock().partition(topic, partition)?.last_stable())
    }

    fn read(
        &mut self,
        topic: &str,
        partition: u32,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(Delivered) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        let to = to.min(self.bounds(topic, partition)?.end);
        let give_up = threads::now() + self.shared.limits.hanging_patience;
        let mut records = Vec::new();
        let mut position = from;
        while position < to {
            let mut state = self.shared.lock();
            let bounds = state.bounds(topic, partition)?;
            super::within(topic, partition, bounds, position)?;
            let next = state.partition(topic, partition)?.copy(position, to, POLL_RECORDS, &mut records);
            if next == position {
                if threads::now() >= give_up {
                    return Err(LogError::HeldUp { topic: topic.to_owned(), partition, stuck_at: position, end: bounds.end });
                }
                state = self.shared.wait(state, give_up);
            }
            drop(state);
            position = next;
            for record in records.drain(..) {
                if each(record).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

struct MemoryFollower {
    shared: Arc<Shared>,
    topic: String,
    positions: Vec<i64>,
}

impl Follower for MemoryFollower {
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Delivered>, LogError> {
        let give_up = threads::now() + timeout;
        let mut state = self.shared.lock();
        let mut records = Vec::new();
        loop {
            state.copy_from(&self.topic, &mut self.positions, &mut records)?;
            if !records.is_empty() || threads::now() >= give_up {
                return Ok(records);
            }
            state = self.shared.wait(state, give_up);
        }
    }
}

#[cfg(test)]
mod tests;
