//! The log in memory, with somebody in the way: a test decides when a member is heard, and when a transaction goes on.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tidemark::log::memory::MemoryLog;
use tidemark::log::{
    Committed, Follower, Log, LogError, Member, Membership, Polled, Producer, Reader, TopicSettings, TransactError, Transaction,
};

type OfGroup<T> = Box<dyn Fn(&str) -> T + Send + Sync>;
type OfTransaction = Box<dyn Fn(&str, &Transaction) + Send + Sync>;

/// Where a test gets in the way.
pub(crate) struct Ways {
    /// Called with the group before it is joined.
    pub(crate) join: OfGroup<Result<(), LogError>>,
    /// Whether the group has an ear for its members yet.
    pub(crate) hears: OfGroup<bool>,
    /// Called with the transactional id before a transaction begins.
    pub(crate) transact: OfTransaction,
}

impl Default for Ways {
    fn default() -> Self {
        Self { join: Box::new(|_| Ok(())), hears: Box::new(|_| true), transact: Box::new(|_, _| ()) }
    }
}

/// The log.
#[derive(Clone)]
pub(crate) struct Disturbed {
    log: MemoryLog,
    ways: Arc<Ways>,
}

impl Disturbed {
    /// Gets in the way of `log`.
    pub(crate) fn new(log: &MemoryLog, ways: Ways) -> Self {
        Self { log: log.clone(), ways: Arc::new(ways) }
    }
}

/// A member that joins when it is heard.
struct DisturbedMember {
    member: Option<Box<dyn Member>>,
    log: MemoryLog,
    group: String,
    topic: String,
    ways: Arc<Ways>,
}

impl DisturbedMember {
    fn member(&mut self) -> &mut dyn Member {
        self.member.as_deref_mut().expect("it has been assigned something, so it has joined")
    }
}

struct DisturbedProducer {
    producer: Box<dyn Producer>,
    id: String,
    ways: Arc<Ways>,
}

impl Log for Disturbed {
    fn create_topics(&self, topics: &[TopicSettings]) -> Result<(), LogError> {
        self.log.create_topics(topics)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.log.partitions(topic)
    }

    fn producer(&self, id: &str) -> Result<Box<dyn Producer>, LogError> {
        let producer = self.log.producer(id)?;
        Ok(Box::new(DisturbedProducer { producer, id: id.to_owned(), ways: self.ways.clone() }))
    }

    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, LogError> {
        (self.ways.join)(group)?;
        let (group, topic) = (group.to_owned(), topic.to_owned());
        Ok(Box::new(DisturbedMember { member: None, log: self.log.clone(), group, topic, ways: self.ways.clone() }))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, LogError> {
        self.log.reader()
    }

    fn follow(&self, topic: &str, from: &[i64]) -> Result<Box<dyn Follower>, LogError> {
        self.log.follow(topic, from)
    }
}

impl Member for DisturbedMember {
    fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError> {
        if !(self.ways.hears)(&self.group) {
            std::thread::sleep(timeout);
            return Ok(Polled::Idle);
        }
        if self.member.is_none() {
            self.member = Some(self.log.member(&self.group, &self.topic)?);
        }
        self.member().poll(timeout)
    }

    fn committed(&mut self, partition: u32) -> Result<Option<Committed>, LogError> {
        self.member().committed(partition)
    }

    fn start(&mut self, partition: u32, offset: i64) -> Result<(), LogError> {
        self.member().start(partition, offset)
    }

    fn membership(&self) -> Option<Membership> {
        self.member.as_ref()?.membership()
    }
}

impl Producer for DisturbedProducer {
    fn transact(&mut self, transaction: Transaction) -> Result<(), TransactError> {
        (self.ways.transact)(&self.id, &transaction);
        self.producer.transact(transaction)
    }
}

/// Closed until it is opened; knows whether somebody stands before it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    is_open: bool,
    is_reached: bool,
}

impl Gate {
    /// Waits until the gate is open.
    pub(crate) fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.is_reached = true;
        changed.notify_all();
        drop(changed.wait_while(state, |state| !state.is_open).unwrap());
    }

    /// Waits until somebody stands before the gate.
    pub(crate) fn wait_until_reached(&self, limit: Duration) {
        let (state, changed) = &*self.0;
        let (state, _) = changed.wait_timeout_while(state.lock().unwrap(), limit, |state| !state.is_reached).unwrap();
        assert!(state.is_reached, "nobody came to the gate within {limit:?}");
    }

    /// Opens it for good.
    pub(crate) fn open(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().is_open = true;
        changed.notify_all();
    }

    /// Whether it is open.
    pub(crate) fn is_open(&self) -> bool {
        self.0.0.lock().unwrap().is_open
    }
}
