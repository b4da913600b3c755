//! What the verdict of a mark has used, read back from `summaries`.

use std::collections::BTreeMap;

use crate::summary::{Slice, Summary};

/// Collects the slices of one window as they stood at the mark that ends it.
///
/// Push every record of `summaries` in order. The slices are those that the judge added at that mark, so a check on them
/// gives its bits; later records only tell how many tickets came too late for it.
#[derive(Debug)]
pub struct FromLog {
    from_ms: i64,
    at_ms: i64,
    fingerprint: String,
    version: u64,
    then: BTreeMap<(u32, i64), Slice>,
    rows_now: BTreeMap<(u32, i64), u64>,
    incomplete: bool,
    partitions: Option<u32>,
    ended: std::collections::BTreeSet<u32>,
}

impl FromLog {
    /// Begins to collect the window `[from_ms, at_ms)` under a spec's fingerprint and a baseline's version.
    #[must_use]
    pub fn new((from_ms, at_ms): (i64, i64), fingerprint: &str, version: u64) -> Self {
        Self {
            from_ms,
            at_ms,
            fingerprint: fingerprint.to_owned(),
            version,
            then: BTreeMap::new(),
            rows_now: BTreeMap::new(),
            incomplete: false,
            partitions: None,
            ended: std::collections::BTreeSet::new(),
        }
    }

    /// Takes the next record.
    pub fn push(&mut self, summary: &Summary) {
        if summary.fingerprint != self.fingerprint || summary.version != Some(self.version) {
            return;
        }
        let before_end = summary.mark.end_ms <= self.at_ms;
        for slice in summary.slices.iter().filter(|slice| (self.from_ms..self.at_ms).contains(&slice.start_ms)) {
            let place = (summary.partition, slice.start_ms);
            if before_end {
                self.then.insert(place, slice.clone());
            }
            self.rows_now.insert(place, slice.rows);
        }
        if summary.mark.end_ms == self.at_ms {
            self.incomplete |= summary.incomplete;
            self.partitions = Some(summary.mark.partitions);
            if !summary.more {
                self.ended.insert(summary.partition);
            }
        }
    }

    /// Whether every partition has published the mark that ends the window: else there was no verdict there (yet).
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.partitions.is_some_and(|partitions| self.ended.len() as u64 == u64::from(partitions))
    }

    /// Whether the log did not reach back over the whole window at that mark.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Returns how many tickets of the window came after the mark's verdict.
    #[must_use]
    pub fn late_since(&self) -> u64 {
        let rows = |place: &(u32, i64)| self.then.get(place).map_or(0, |slice| slice.rows);
        self.rows_now.iter().map(|(place, now)| now.saturating_sub(rows(place))).sum()
    }

    /// Returns the slices, of all partitions.
    #[must_use]
    pub fn slices(self) -> Vec<Slice> {
        self.then.into_values().collect()
    }
}
