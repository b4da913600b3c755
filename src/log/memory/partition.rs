//! One partition: records in order of offset, with the holes that markers, aborted and compacted records leave.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::log::{Bounds, Delivered};

/// What a record costs beside its key, value and headers, about.
const RECORD_OVERHEAD_BYTES: usize = 96;

#[derive(Default)]
pub(super) struct Partition {
    records: VecDeque<Delivered>,
    low: i64,
    end: i64,
    bytes: usize,
    /// Bytes that the last compaction left.
    compact_bytes: usize,
    /// First offset of each transaction that neither committed nor aborted, by transactional id.
    hanging: HashMap<String, i64>,
}

impl Partition {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { low: self.low, end: self.end }
    }

    /// Where read_committed readers stop.
    pub(super) fn last_stable(&self) -> i64 {
        self.hanging.values().copied().min().unwrap_or(self.end)
    }

    pub(super) fn append(&mut self, mut record: Delivered) {
        record.offset = self.end;
        self.end += 1;
        self.bytes += size(&record);
        self.records.push_back(record);
    }

    /// Takes an offset that no reader ever sees: a transaction's marker, or a record of an aborted one.
    pub(super) fn skip(&mut self) {
        self.end += 1;
    }

    pub(super) fn hang(&mut self, transactional_id: &str, first: i64) {
        self.hanging.entry(transactional_id.to_owned()).or_insert(first);
    }

    /// Ends a hanging transaction with an abort marker; returns whether there was one.
    pub(super) fn abort_hanging(&mut self, transactional_id: &str) -> bool {
        let hung = self.hanging.remove(transactional_id).is_some();
        if hung {
            self.skip();
        }
        hung
    }

    /// Hands copies of at most `most` records with `from <= offset < to` to `into` and returns the next position.
    pub(super) fn copy(&self, from: i64, to: i64, most: usize, into: &mut Vec<Delivered>) -> i64 {
        let to = to.min(self.last_stable());
        if from >= to {
            return from;
        }
        let start = self.records.partition_point(|record| record.offset < from);
        for (taken, record) in self.records.range(start..).enumerate() {
            if record.offset >= to {
                break;
            }
            if taken == most {
                return record.offset;
            }
            into.push(record.clone());
        }
        to
    }

    /// Drops the oldest records before `floor` until no more than `most_bytes` are left.
    pub(super) fn trim(&mut self, most_bytes: usize, floor: i64) {
        while self.bytes > most_bytes {
            match self.records.front() {
                Some(oldest) if oldest.offset < floor => self.low = oldest.offset + 1,
                _ => return,
            }
            if let Some(oldest) = self.records.pop_front() {
                self.bytes -= size(&oldest);
            }
        }
    }

    /// Drops everything before `offset`.
    pub(super) fn truncate(&mut self, offset: i64) {
        self.trim(0, offset);
        self.low = self.low.max(offset.min(self.end));
    }

    /// Keeps only the last record of each key, once that frees enough to be worth a pass.
    pub(super) fn compact(&mut self, slack_bytes: usize) {
        if self.bytes <= 2 * self.compact_bytes + slack_bytes {
            return;
        }
        let mut last: HashMap<Bytes, i64> = HashMap::new();
        for record in &self.records {
            if let Some(key) = &record.key {
                last.insert(key.clone(), record.offset);
            }
        }
        self.records.retain(|record| record.key.as_ref().is_none_or(|key| last.get(key) == Some(&record.offset)));
        self.bytes = self.records.iter().map(size).sum();
        self.compact_bytes = self.bytes;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn size(record: &Delivered) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
    RECORD_OVERHEAD_BYTES + record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &'static str, bytes: usize) -> Delivered {
        Delivered {
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: Some(Bytes::from_static(key.as_bytes())),
            value: Some(Bytes::from(vec![0; bytes])),
            headers: Vec::new(),
        }
    }

    fn offsets(partition: &Partition) -> Vec<i64> {
        let mut records = Vec::new();
        partition.copy(0, i64::MAX, usize::MAX, &mut records);
        records.iter().map(|record| record.offset).collect()
    }

    #[test]
    fn a_position_passes_markers_but_not_a_hanging_transaction() {
        let mut partition = Partition::default();
        partition.append(record("a", 1));
        partition.skip();
        let mut records = Vec::new();
        assert_eq!(partition.copy(0, 10, 10, &mut records), 2);
        partition.hang("id", 2);
        partition.skip();
        partition.append(record("b", 1));
        assert_eq!(partition.copy(2, 10, 10, &mut records), 2);
        assert!(partition.abort_hanging("id"));
        assert_eq!(partition.copy(2, 10, 10, &mut records), 5);
        assert_eq!(records.len(), 2);
    }

    #[test]
    fn a_full_batch_leaves_the_position_at_the_next_record() {
        let mut partition = Partition::default();
        for _ in 0..5 {
            partition.append(record("a", 1));
            partition.skip();
        }
        let mut records = Vec::new();
        assert_eq!(partition.copy(0, 10, 2, &mut records), 4);
        assert_eq!(partition.copy(4, 9, 10, &mut records), 9);
        assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 2, 4, 6, 8]);
    }

    #[test]
    fn trimming_moves_low_and_never_passes_the_floor() {
        let mut partition = Partition::default();
        for _ in 0..10 {
            partition.append(record("a", 1_000));
        }
        partition.trim(0, 4);
        assert_eq!(partition.bounds(), Bounds { low: 4, end: 10 });
        partition.trim(3_500, 10);
        assert_eq!(partition.bounds(), Bounds { low: 7, end: 10 });
    }

    #[test]
    fn compaction_keeps_the_last_of_each_key_at_its_offset() {
        let mut partition = Partition::default();
        for key in ["a", "b", "a", "c", "b"] {
            partition.append(record(key, 100));
        }
        partition.compact(0);
        assert_eq!(offsets(&partition), [2, 3, 4]);
        assert_eq!(partition.bounds(), Bounds { low: 0, end: 5 });
    }
}
