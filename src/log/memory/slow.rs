//! A log that is slow, or too slow for a transaction of more than so many records, for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::MemoryLog;
use crate::log::{Delivered, Follower, Log, LogError, Member, Producer, Reader, TopicSettings, TransactError, Transaction};

/// How often it is patient with who tries the same again.
const PATIENCE: usize = 100;

/// How often a follower hears nothing at first.
const SILENT_POLLS: usize = 3;

/// Ends larger transactions without effect, as a broker does when their time is over.
#[derive(Clone)]
pub(crate) struct SlowLog {
    log: MemoryLog,
    most_records: usize,
    /// How long each transaction waits before it begins.
    pub(crate) delay: Duration,
    /// How many transactions it has ended.
    pub(crate) ended: Arc<AtomicUsize>,
}

impl SlowLog {
    /// What `log` holds, slowly.
    pub(crate) fn new(log: &MemoryLog, most_records: usize) -> Self {
        Self { log: log.clone(), most_records, delay: Duration::ZERO, ended: Arc::default() }
    }
}

impl Log for SlowLog {
    fn create_topics(&self, topics: &[TopicSettings]) -> Result<(), LogError> {
        self.log.create_topics(topics)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.log.partitions(topic)
    }

    fn producer(&self, id: &str) -> Result<Box<dyn Producer>, LogError> {
        Ok(Box::new(SlowProducer(self.log.producer(id)?, self.clone())))
    }

    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, LogError> {
        self.log.member(group, topic)
    }

    fn reader(&self) -> Result<Box<dyn Reader>, LogError> {
        self.log.reader()
    }

    fn follow(&self, topic: &str, from: &[i64]) -> Result<Box<dyn Follower>, LogError> {
        Ok(Box::new(SlowFollower(self.log.follow(topic, from)?, SILENT_POLLS)))
    }
}

/// Hears nothing at first.
struct SlowFollower(Box<dyn Follower>, usize);

impl Follower for SlowFollower {
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Delivered>, LogError> {
        if self.1 > 0 {
            self.1 -= 1;
            return Ok(Vec::new());
        }
        self.0.poll(timeout)
    }
}

struct SlowProducer(Box<dyn Producer>, SlowLog);

impl Producer for SlowProducer {
    fn transact(&mut self, transaction: Transaction) -> Result<(), TransactError> {
        std::thread::sleep(self.1.delay);
        let records = transaction.records.len() + transaction.last.len();
        if records > self.1.most_records {
            let ended = self.1.ended.fetch_add(1, Ordering::Relaxed);
            assert!(ended < PATIENCE, "it is tried as large as ever: {records} records");
            return Err(TransactError::Aborted { reason: format!("{records} records are too many for its time") });
        }
        self.0.transact(transaction)
    }
}
