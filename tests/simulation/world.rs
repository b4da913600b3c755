//! The log in memory as the simulated processes meet it: calls take time, others come between, and things go wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidemark::log::memory::{Fault, MemoryLog};
use tidemark::log::{
    Bounds, Committed, Delivered, Follower, Log, LogError, Member, Membership, Polled, Producer, Reader, Record, TopicSettings,
    TransactError, Transaction,
};

use crate::plan::{Mishap, Plan, STAGES, Wrong};
use crate::script;
use crate::turns::Turns;

/// What happens to transactions and calls; what is left of it.
#[derive(Default)]
struct Fate {
    mishaps: Vec<Mishap>,
    /// Transactions so far, by stage.
    transactions: [u64; 3],
    reads: u64,
    /// Members that nobody let go of: their processes have ended.
    graveyard: Vec<Box<dyn Member>>,
    /// Transactional ids whose last transaction hangs, and since when.
    hanging: BTreeMap<String, Duration>,
    /// What went wrong, and how often.
    tally: Tally,
    /// Baselines that are published.
    published: BTreeSet<u64>,
}

impl Fate {
    /// Counts what went wrong; returns whether anything did.
    fn count(&mut self, struck: Option<&'static str>) -> bool {
        if let Some(kind) = struck {
            *self.tally.entry(kind).or_default() += 1;
        }
        struck.is_some()
    }
}

/// How often something happened, by its name.
pub(crate) type Tally = BTreeMap<&'static str, u64>;

/// Everything that the processes share.
pub(crate) struct World {
    pub(crate) turns: Arc<Turns>,
    pub(crate) log: MemoryLog,
    fate: Mutex<Fate>,
}

impl World {
    pub(crate) fn new(turns: Arc<Turns>, log: MemoryLog, plan: &Plan) -> Arc<Self> {
        let fate = Fate { mishaps: plan.mishaps.clone(), ..Fate::default() };
        Arc::new(Self { turns, log, fate: Mutex::new(fate) })
    }

    /// Publishes a baseline, once.
    pub(crate) fn publish_baseline(&self, version: u64) {
        if self.fate.lock().unwrap().published.insert(version) {
            self.turns.tell(|| format!("baseline {version} is published"));
            let key = Bytes::from(format!("{}@{version}", script::spec().name));
            self.write("tidemark.baselines", 0, Some(key), script::baseline(version));
        }
    }

    /// Writes a record that no stage writes.
    pub(crate) fn write(&self, topic: &str, partition: u32, key: Option<Bytes>, value: Bytes) {
        let record = Record { topic: Arc::from(topic), partition, key, value: Some(value), headers: Vec::new() };
        self.log.producer("somebody").unwrap().transact(Transaction { records: vec![record], ..Transaction::default() }).unwrap();
    }

    /// Whether the source fails this time.
    pub(crate) fn source_fails(&self) -> bool {
        let mut fate = self.fate.lock().unwrap();
        let read = fate.reads;
        fate.reads += 1;
        let fails = |mishap: &&Mishap| matches!(mishap, Mishap::Source { after, times } if (*after..after + times).contains(&read));
        let struck = fate.mishaps.iter().find(fails).map(Mishap::kind);
        fate.count(struck)
    }

    /// Ends what has hung for longer than a broker lets it.
    pub(crate) fn end_hanging(&self, patience: Duration) {
        let now = self.turns.now();
        let mut fate = self.fate.lock().unwrap();
        let over: Vec<String> = fate.hanging.iter().filter(|(_, since)| **since + patience <= now).map(|(id, _)| id.clone()).collect();
        for id in over {
            fate.hanging.remove(&id);
            drop(self.log.producer(&id));
        }
    }

    /// Something went wrong.
    pub(crate) fn strikes(&self, mishap: &Mishap) {
        self.fate.lock().unwrap().count(Some(mishap.kind()));
    }

    /// Returns what went wrong.
    pub(crate) fn tally(&self) -> Tally {
        self.fate.lock().unwrap().tally.clone()
    }

    /// Lets go of what ended processes held.
    pub(crate) fn bury(&self) {
        let graveyard = std::mem::take(&mut self.fate.lock().unwrap().graveyard);
        drop(graveyard);
    }

    fn next_wrong(&self, stage: usize) -> Option<Wrong> {
        let mut fate = self.fate.lock().unwrap();
        let number = fate.transactions[stage];
        fate.transactions[stage] += 1;
        let is_its =
            |mishap: &&Mishap| matches!(mishap, Mishap::Transaction { stage: its, after, .. } if *its == stage && *after == number);
        let struck = fate.mishaps.iter().find(is_its).copied()?;
        fate.count(Some(struck.kind()));
        if let Mishap::Transaction { wrong, .. } = struck { Some(wrong) } else { None }
    }
}

/// The log as one stage of one process meets it.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) world: Arc<World>,
    /// The process's number among the plan's, for a guest beyond them.
    pub(crate) number: usize,
    pub(crate) stage: usize,
}

impl Line {
    /// A call begins.
    fn call(&self, what: &str) -> Result<(), LogError> {
        let turns = &self.world.turns;
        let micros = turns.draw(|draw| draw.within(2, 60));
        turns.works(Duration::from_micros(micros));
        turns.trace(what.as_bytes());
        turns.step();
        if self.is_away() {
            return Err(LogError::Unavailable { doing: what.to_owned(), reason: "nobody answers".to_owned() });
        }
        Ok(())
    }

    fn is_away(&self) -> bool {
        let now_ms = u64::try_from(self.world.turns.now().as_millis()).unwrap();
        let mut fate = self.world.fate.lock().unwrap();
        let is_its = |mishap: &&Mishap| {
            matches!(mishap, Mishap::Away { stage, process, at_ms, for_ms }
                if *stage == self.stage && *process == self.number && (*at_ms..at_ms + for_ms).contains(&now_ms))
        };
        let struck = fate.mishaps.iter().find(is_its).map(Mishap::kind);
        fate.count(struck)
    }

    /// How long a reading takes now, if it is slow.
    fn slowness(&self) -> Duration {
        let now_ms = u64::try_from(self.world.turns.now().as_millis()).unwrap();
        let mut fate = self.world.fate.lock().unwrap();
        let of = |mishap: &Mishap| match mishap {
            Mishap::Slow { stage, process, at_ms, for_ms, read_ms }
                if *stage == self.stage && *process == self.number && (*at_ms..at_ms + for_ms).contains(&now_ms) =>
            {
                Some((mishap.kind(), *read_ms))
            }
            _ => None,
        };
        let struck = fate.mishaps.iter().find_map(of);
        fate.count(struck.map(|(kind, _)| kind));
        Duration::from_millis(struck.map_or(0, |(_, read_ms)| read_ms))
    }

    pub(crate) fn tell(&self, line: impl FnOnce() -> String) {
        self.world.turns.tell(|| format!("{} of process {}: {}", STAGES[self.stage], self.number, line()));
    }
}

impl Log for Line {
    fn create_topics(&self, topics: &[TopicSettings]) -> Result<(), LogError> {
        self.world.log.create_topics(topics)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.call("partitions")?;
        self.world.log.partitions(topic)
    }

    fn producer(&self, id: &str) -> Result<Box<dyn Producer>, LogError> {
        self.call("producer")?;
        self.world.fate.lock().unwrap().hanging.remove(id);
        let producer = self.world.log.producer(id)?;
        self.tell(|| format!("begins as {id}"));
        Ok(Box::new(LineProducer { producer, id: id.to_owned(), line: self.clone() }))
    }

    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, LogError> {
        self.call("member")?;
        let member = Some(self.world.log.member(group, topic)?);
        Ok(Box::new(LineMember { member, line: self.clone(), waiting: Vec::new() }))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, LogError> {
        self.call("reader")?;
        Ok(Box::new(LineReader { reader: self.world.log.reader()?, line: self.clone() }))
    }

    fn follow(&self, topic: &str, from: &[i64]) -> Result<Box<dyn Follower>, LogError> {
        self.call("follow")?;
        Ok(Box::new(LineFollower { follower: self.world.log.follow(topic, from)?, line: self.clone() }))
    }
}

struct LineProducer {
    producer: Box<dyn Producer>,
    id: String,
    line: Line,
}

impl LineProducer {
    fn transact_as_fated(&mut self, transaction: Transaction, wrong: Option<Wrong>) -> Result<(), TransactError> {
        let (world, turns) = (&self.line.world, &self.line.world.turns);
        let fault = match wrong {
            None | Some(Wrong::Slow(_) | Wrong::CrashAfter) => None,
            Some(Wrong::CrashBefore) => {
                turns.crash();
                None
            }
            Some(Wrong::Fault(fault)) => Some(fault),
            Some(Wrong::CrashTorn(visible)) => Some(Fault::Torn { visible }),
            Some(Wrong::CrashHang) => Some(Fault::Hang),
        };
        if let Some(fault) = fault {
            world.log.inject(&self.id, 0, fault);
            if fault == Fault::Hang {
                world.fate.lock().unwrap().hanging.insert(self.id.clone(), turns.now());
            }
        }
        let result = self.producer.transact(transaction);
        if matches!(wrong, Some(Wrong::CrashAfter | Wrong::CrashTorn(_) | Wrong::CrashHang)) {
            turns.crash();
        }
        result
    }
}

impl Producer for LineProducer {
    fn transact(&mut self, transaction: Transaction) -> Result<(), TransactError> {
        if let Err(error) = self.line.call("transact") {
            return Err(TransactError::Unknown { reason: error.to_string() });
        }
        let turns = Arc::clone(&self.line.world.turns);
        let wrong = self.line.world.next_wrong(self.line.stage);
        for record in transaction.records.iter().chain(&transaction.last) {
            turns.trace(record.value.as_deref().unwrap_or_default());
        }
        let sizes = (transaction.records.len(), transaction.last.len());
        let offsets: Vec<(u32, i64)> =
            transaction.offsets.iter().flat_map(|(_, commits)| commits.iter().map(|commit| (commit.partition, commit.offset))).collect();
        let (before, after) = turns.draw(|draw| (draw.within(100, 2_500), draw.within(100, 2_500)));
        let slow = if let Some(Wrong::Slow(ms)) = wrong { ms * 1_000 } else { 0 };
        turns.sleep(Duration::from_micros(before + slow / 2));
        let result = self.transact_as_fated(transaction, wrong);
        turns.sleep(Duration::from_micros(after + slow / 2));
        self.line.tell(|| {
            let end = match &result {
                Ok(()) => "committed".to_owned(),
                Err(error) => error.to_string(),
            };
            format!("{} records, {} last, offsets {offsets:?}: {end}", sizes.0, sizes.1)
        });
        result
    }
}

struct LineMember {
    member: Option<Box<dyn Member>>,
    line: Line,
    /// Fetched, and not delivered yet.
    waiting: Vec<Delivered>,
}

impl LineMember {
    fn member(&mut self) -> &mut dyn Member {
        self.member.as_deref_mut().expect("it is taken only by drop")
    }

    /// Delivers some of what was fetched.
    fn some(&mut self) -> Polled {
        let most = self.line.world.turns.draw(|draw| draw.one_of(&[1, 3, 10, 50, 1_000]));
        let rest = self.waiting.split_off(self.waiting.len().min(most));
        Polled::Records(std::mem::replace(&mut self.waiting, rest))
    }
}

impl Member for LineMember {
    fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError> {
        self.line.call("poll")?;
        let timeout = if self.waiting.is_empty() { timeout } else { Duration::ZERO };
        match self.member().poll(timeout)? {
            Polled::Records(records) => {
                self.waiting.extend(records);
                Ok(self.some())
            }
            Polled::Idle if !self.waiting.is_empty() => Ok(self.some()),
            Polled::Idle => Ok(Polled::Idle),
            other => {
                self.waiting.clear();
                self.line.tell(|| format!("{other:?}"));
                Ok(other)
            }
        }
    }

    fn committed(&mut self, partition: u32) -> Result<Option<Committed>, LogError> {
        self.line.call("committed")?;
        self.member().committed(partition)
    }

    fn start(&mut self, partition: u32, offset: i64) -> Result<(), LogError> {
        self.line.call("start")?;
        self.waiting.retain(|record| record.partition != partition);
        self.line.tell(|| format!("reads partition {partition} from offset {offset}"));
        self.member().start(partition, offset)
    }

    fn membership(&self) -> Option<Membership> {
        self.member.as_ref()?.membership()
    }
}

impl Drop for LineMember {
    fn drop(&mut self) {
        // A process that ends says nothing to its group.
        if self.line.world.turns.is_killed() {
            self.line.world.fate.lock().unwrap().graveyard.extend(self.member.take());
        }
    }
}

struct LineReader {
    reader: Box<dyn Reader>,
    line: Line,
}

impl Reader for LineReader {
    fn bounds(&mut self, topic: &str, partition: u32) -> Result<Bounds, LogError> {
        self.line.call("bounds")?;
        self.reader.bounds(topic, partition)
    }

    fn stable_end(&mut self, topic: &str, partition: u32) -> Result<i64, LogError> {
        self.line.call("stable-end")?;
        self.reader.stable_end(topic, partition)
    }

    fn read(
        &mut self,
        topic: &str,
        partition: u32,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(Delivered) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        self.line.call("read")?;
        let slowness = self.line.slowness();
        if !slowness.is_zero() {
            self.line.world.turns.sleep(slowness);
        }
        self.reader.read(topic, partition, from, to, each)
    }
}

struct LineFollower {
    follower: Box<dyn Follower>,
    line: Line,
}

impl Follower for LineFollower {
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Delivered>, LogError> {
        self.line.call("follow-poll")?;
        self.follower.poll(timeout)
    }
}
