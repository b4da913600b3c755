//! Everything the log in memory holds, as it is changed under its one lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::group::{Group, Turn};
use super::partition::Partition;
use super::{Fault, Limits, POLL_RECORDS, missing};
use crate::clock;
use crate::log::refusal::{self, Existing};
use crate::log::{
    Bounds, Committed, Delivered, LogError, MAX_RECORD_BYTES, MembershipOf, Record, TopicSettings, TransactError, Transaction,
};
use crate::threads;

#[derive(Default)]
pub(super) struct State {
    topics: HashMap<String, Topic>,
    groups: HashMap<String, HashMap<String, Group>>,
    epochs: HashMap<String, u64>,
    faults: HashMap<String, VecDeque<Option<Fault>>>,
    members: u64,
}

pub(super) struct Topic {
    pub(super) settings: TopicSettings,
    pub(super) partitions: Vec<Partition>,
}

impl State {
    pub(super) fn inject(&mut self, transactional_id: &str, after: usize, fault: Fault) {
        let faults = self.faults.entry(transactional_id.to_owned()).or_default();
        if faults.len() <= after {
            faults.resize(after + 1, None);
        }
        faults[after] = Some(fault);
    }

    pub(super) fn create(&mut self, topics: &[TopicSettings]) -> Result<(), LogError> {
        for wanted in topics {
            if let Some(topic) = self.topics.get(&wanted.name) {
                refusal::check(wanted, &topic.existing())?;
            }
        }
        for wanted in topics {
            self.topics.entry(wanted.name.clone()).or_insert_with(|| Topic {
                settings: wanted.clone(),
                partitions: (0..wanted.partitions).map(|_| Partition::default()).collect(),
            });
        }
        Ok(())
    }

    pub(super) fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    pub(super) fn partition(&self, topic: &str, partition: u32) -> Result<&Partition, LogError> {
        let found = self.topics.get(topic).and_then(|topic| topic.partitions.get(partition as usize));
        found.ok_or_else(|| missing(format!("reading {topic}[{partition}]")))
    }

    pub(super) fn bounds(&self, topic: &str, partition: u32) -> Result<Bounds, LogError> {
        self.partition(topic, partition).map(Partition::bounds)
    }

    pub(super) fn truncate(&mut self, topic: &str, partition: u32, offset: i64) {
        let found = self.topics.get_mut(topic).and_then(|topic| topic.partitions.get_mut(partition as usize));
        if let Some(partition) = found {
            partition.truncate(offset);
        }
    }

    /// Fences the last holder of `transactional_id` and ends what it left hanging.
    pub(super) fn next_epoch(&mut self, transactional_id: &str) -> u64 {
        for partition in self.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
            partition.abort_hanging(transactional_id);
        }
        let epoch = self.epochs.entry(transactional_id.to_owned()).or_default();
        *epoch += 1;
        *epoch
    }

    pub(super) fn epoch(&self, transactional_id: &str) -> u64 {
        self.epochs.get(transactional_id).copied().unwrap_or(0)
    }

    pub(super) fn next_member(&mut self) -> u64 {
        self.members += 1;
        self.members
    }

    pub(super) fn group(&mut self, group: &str, topic: &str) -> &mut Group {
        if !self.groups.get(topic).is_some_and(|groups| groups.contains_key(group)) {
            self.groups.entry(topic.to_owned()).or_default().insert(group.to_owned(), Group::default());
        }
        self.groups.get_mut(topic).and_then(|groups| groups.get_mut(group)).expect("the group was inserted above")
    }

    pub(super) fn oust(&mut self, group: &str) {
        self.groups.values_mut().filter_map(|groups| groups.get_mut(group)).for_each(Group::oust_all);
    }

    pub(super) fn leave(&mut self, group: &str, topic: &str, member: u64) {
        let partitions = self.count(topic);
        self.group(group, topic).leave(member, partitions, threads::now());
    }

    pub(super) fn turn(&mut self, group: &str, topic: &str, member: u64, limits: &Limits, now: Instant) -> Turn {
        let partitions = self.count(topic);
        let group = self.group(group, topic);
        group.hear(member, now);
        group.silence(limits.session_patience, partitions, now);
        group.expire(limits.rebalance_patience, partitions, now);
        group.turn(member, partitions)
    }

    fn count(&self, topic: &str) -> u32 {
        self.topics.get(topic).map_or(0, |topic| topic.settings.partitions)
    }

    /// Takes the next records for a member, beginning with another partition each time.
    pub(super) fn deliver(&mut self, group: &str, topic: &str, member: u64, turns: usize) -> Result<Vec<Delivered>, LogError> {
        let mut records = Vec::new();
        let Self { topics, groups, .. } = self;
        let group = groups.get_mut(topic).and_then(|groups| groups.get_mut(group));
        let Some(positions) = group.and_then(|group| group.positions(member)) else { return Ok(records) };
        let Some(found) = topics.get(topic) else { return Ok(records) };
        let first = turns.checked_rem(positions.len()).unwrap_or(0);
        for pass in [true, false] {
            for (index, (&partition, position)) in positions.iter_mut().enumerate() {
                if (index >= first) == pass {
                    found.copy(topic, partition, position, &mut records)?;
                }
            }
        }
        Ok(records)
    }

    /// Takes the next records from these positions and moves them.
    pub(super) fn copy_from(&self, topic: &str, positions: &mut [i64], into: &mut Vec<Delivered>) -> Result<(), LogError> {
        let Some(found) = self.topics.get(topic) else { return Ok(()) };
        for (partition, position) in (0..).zip(positions) {
            found.copy(topic, partition, position, into)?;
        }
        Ok(())
    }

    /// Names a topic of `transaction` that a group with members lags behind too far.
    pub(super) fn backlogged(&self, transaction: &Transaction, most: i64) -> Option<Arc<str>> {
        if most == i64::MAX {
            return None;
        }
        let mut asked: Vec<&Arc<str>> = Vec::new();
        for record in transaction.records.iter().chain(&transaction.last) {
            if !asked.contains(&&record.topic) {
                asked.push(&record.topic);
            }
        }
        asked.into_iter().find(|name| self.backlog(name) > most).cloned()
    }

    /// Records that the slowest group with members has not been given yet.
    fn backlog(&self, topic: &str) -> i64 {
        let (Some(found), Some(groups)) = (self.topics.get(topic), self.groups.get(topic)) else { return 0 };
        let lag = |group: &Group| -> i64 {
            let partitions = (0..).zip(&found.partitions);
            partitions.map(|(index, partition)| partition.last_stable() - group.seen(index).max(partition.bounds().low)).sum()
        };
        groups.values().filter(|group| !group.is_empty()).map(lag).max().unwrap_or(0)
    }

    /// Carries a whole transaction out, or the fault that was injected for it.
    pub(super) fn commit(&mut self, id: &str, transaction: Transaction, limits: &Limits) -> Result<(), TransactError> {
        self.check(&transaction)?;
        let fault = self.faults.get_mut(id).and_then(VecDeque::pop_front).flatten();
        let unknown = |reason: &str| Err(TransactError::Unknown { reason: format!("injected: {reason}") });
        let fenced = || Err(TransactError::Fenced { id: id.to_owned() });
        if fault == Some(Fault::Fence) {
            self.next_epoch(id);
            self.append(transaction, 0);
            return fenced();
        }
        if !self.admits(&transaction) {
            self.append(transaction, 0);
            return fenced();
        }
        match fault {
            None | Some(Fault::Fence) => {
                self.finish(transaction, limits);
                Ok(())
            }
            Some(Fault::UnknownVisible) => {
                self.finish(transaction, limits);
                unknown("committed")
            }
            Some(Fault::UnknownLost) => {
                self.append(transaction, 0);
                unknown("aborted")
            }
            Some(Fault::Torn { visible }) => {
                let visible = visible.min(transaction.records.len());
                self.append(transaction, visible);
                unknown("torn")
            }
            Some(Fault::Hang) => {
                for record in transaction.records.iter().chain(&transaction.last) {
                    if let Some(partition) = self.partition_mut(record) {
                        partition.hang(id, partition.bounds().end);
                        partition.skip();
                    }
                }
                unknown("hanging")
            }
            Some(Fault::Abort) => {
                self.append(transaction, 0);
                Err(TransactError::Aborted { reason: "injected".to_owned() })
            }
        }
    }

    /// Refuses what no broker would take; nothing has been written yet.
    fn check(&self, transaction: &Transaction) -> Result<(), TransactError> {
        let mut checked: Option<(&Arc<str>, u32)> = None;
        let mut largest: Option<(&Arc<str>, usize)> = None;
        for record in transaction.records.iter().chain(&transaction.last) {
            let partitions = match checked {
                Some((topic, partitions)) if *topic == record.topic => partitions,
                _ => self.count(&record.topic),
            };
            checked = Some((&record.topic, partitions));
            if record.partition >= partitions {
                return Err(TransactError::Aborted { reason: format!("there is no {}[{}]", record.topic, record.partition) });
            }
            let bytes = record.bytes();
            if bytes > MAX_RECORD_BYTES && largest.is_none_or(|(_, most)| bytes > most) {
                largest = Some((&record.topic, bytes));
            }
        }
        match largest {
            Some((topic, bytes)) => Err(TransactError::TooLarge { topic: topic.to_string(), bytes }),
            None => Ok(()),
        }
    }

    fn admits(&mut self, transaction: &Transaction) -> bool {
        match &transaction.offsets {
            None => true,
            Some((membership, _)) => match &membership.0 {
                MembershipOf::Memory { group, topic, member, generation } => self.group(group, topic).admits(*member, *generation),
                MembershipOf::Kafka { .. } => false,
            },
        }
    }

    fn finish(&mut self, mut transaction: Transaction, limits: &Limits) {
        let offsets = transaction.offsets.take();
        if let Some((membership, commits)) = offsets
            && let MembershipOf::Memory { group, topic, .. } = membership.0
        {
            let committed = &mut self.group(&group, &topic).committed;
            for commit in commits {
                committed.insert(commit.partition, Committed { offset: commit.offset, metadata: commit.metadata });
            }
            self.trim(&topic, limits);
        }
        for topic in self.append(transaction, usize::MAX) {
            self.trim(&topic, limits);
        }
    }

    /// Appends the first `visible` records; the others take their offsets without ever being seen. Then the markers.
    fn append(&mut self, transaction: Transaction, visible: usize) -> Vec<Arc<str>> {
        let timestamp_ms = clock::now_ms();
        let mut touched: Vec<(Arc<str>, Vec<u32>)> = Vec::new();
        for (index, record) in transaction.records.into_iter().chain(transaction.last).enumerate() {
            match touched.iter_mut().find(|(topic, _)| *topic == record.topic) {
                Some((_, partitions)) if partitions.contains(&record.partition) => {}
                Some((_, partitions)) => partitions.push(record.partition),
                None => touched.push((Arc::clone(&record.topic), vec![record.partition])),
            }
            let partition = self.partition_mut(&record).expect("check found every record's partition");
            if index < visible {
                let Record { partition: number, key, value, headers, .. } = record;
                partition.append(Delivered { partition: number, offset: 0, timestamp_ms, key, value, headers });
            } else {
                partition.skip();
            }
        }
        for (name, partitions) in &touched {
            let Some(topic) = self.topics.get_mut(&**name) else { continue };
            for &index in partitions {
                if let Some(partition) = topic.partitions.get_mut(index as usize) {
                    partition.skip();
                }
            }
        }
        touched.into_iter().map(|(topic, _)| topic).collect()
    }

    fn partition_mut(&mut self, record: &Record) -> Option<&mut Partition> {
        self.topics.get_mut(&*record.topic)?.partitions.get_mut(record.partition as usize)
    }

    /// Makes room: compacts, or drops what every group has committed.
    fn trim(&mut self, topic: &str, limits: &Limits) {
        let Self { topics, groups, .. } = self;
        let Some(found) = topics.get_mut(topic) else { return };
        let share = limits.topic_bytes / found.partitions.len().max(1);
        for (index, partition) in (0..).zip(&mut found.partitions) {
            if found.settings.compacted {
                partition.compact(limits.superseded_bytes);
            } else if partition.bytes() > share {
                let kept_from = groups.get(topic).and_then(|groups| groups.values().map(|group| group.kept_from(index)).min());
                partition.trim(share, kept_from.unwrap_or(i64::MAX));
            }
        }
    }
}

impl Topic {
    fn existing(&self) -> Existing {
        Existing {
            partitions: self.settings.partitions,
            compacted: self.settings.compacted,
            deletes: !self.settings.compacted,
            retention_ms: self.settings.retention_ms,
            retention_bytes: None,
            append_time: self.settings.append_time,
        }
    }

    fn copy(&self, name: &str, partition: u32, position: &mut i64, into: &mut Vec<Delivered>) -> Result<(), LogError> {
        let Some(found) = self.partitions.get(partition as usize) else { return Ok(()) };
        let Bounds { low, .. } = found.bounds();
        if *position < low {
            return Err(LogError::Truncated { topic: name.to_owned(), partition, low, wanted: *position });
        }
        let room = POLL_RECORDS.saturating_sub(into.len());
        *position = found.copy(*position, i64::MAX, room, into);
        Ok(())
    }
}
