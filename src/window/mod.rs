//! The window of one partition: slices of event time, each with its counts and its rows.
//!
//! Pure: tickets and marks in, counts out. Counts are kept under one baseline and rebuilt under another from the rows, which
//! are a cache: where they were dropped, [`Window::recount`] says so, and the caller reads the log again.

mod counting;
mod rows;

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use polars::prelude::DataFrame;
use sha2::{Digest, Sha256};

pub use self::counting::{Counting, CountingError, Outcome};
pub(crate) use self::rows::Rows;
pub use self::rows::{ACTUAL, COMPLETED_AT, FIELD, LATE, PREDICTED, PREDICTED_BY};
use crate::clock::HOUR_MS;
use crate::features::{Encoder, Row};
use crate::summary::Slice;
use crate::ticket::{Mark, Ticket, Transition};

/// How event time is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Length of a slice, ms.
    pub slice_ms: i64,
    /// Length of the longest window, ms.
    pub longest_ms: i64,
}

impl Shape {
    /// Returns the start of the slice that holds a time.
    #[must_use]
    pub fn slice_of(&self, event_at_ms: i64) -> i64 {
        event_at_ms.div_euclid(self.slice_ms).saturating_mul(self.slice_ms)
    }

    /// Slices held at most: the longest window several times over. Only tickets scattered by a fault reach it.
    #[must_use]
    pub fn bound(&self) -> usize {
        usize::try_from(self.longest_ms / self.slice_ms).unwrap_or(usize::MAX).saturating_mul(4).saturating_add(1_000)
    }
}

/// What became of a ticket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pushed {
    /// It is in the window now.
    New {
        /// Whether its slice's mark had passed.
        late: bool,
        /// Whether it is the first of its slice.
        opened: bool,
        /// What the model in Production predicts for it, where there is one and the window counts it.
        scored: Option<f64>,
    },
    /// The same id and completion are in the window already; not used twice.
    Repeat,
    /// No window reaches back to it.
    Outside,
}

/// Rows of a slice were dropped to bound memory: only the log has them now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsDropped;

/// The slices of one partition.
#[derive(Debug)]
pub struct Window {
    encoder: Arc<Encoder>,
    shape: Shape,
    counting: Option<Arc<Counting>>,
    slices: BTreeMap<i64, Held>,
    /// Start of the first slice that a window may still use.
    floor_ms: i64,
    /// End of the last slice that has its mark.
    ended_ms: i64,
    rows: usize,
    row: Row,
}

#[derive(Debug, Default)]
struct Held {
    counts: Slice,
    seen: HashSet<u64, BuildHasherDefault<Identity>>,
    /// `None` once dropped.
    rows: Option<Rows>,
    changed: bool,
}

/// Identities are hashes already.
#[derive(Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
    fn write_u64(&mut self, identity: u64) {
        self.0 = identity;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

fn identity(ticket: &Ticket) -> u64 {
    let mut sha = Sha256::new();
    sha.update(ticket.completed_at_ms.to_le_bytes());
    sha.update(ticket.id.json());
    let digest = sha.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

impl Window {
    /// Returns an empty window that counts under `counting`.
    #[must_use]
    pub fn new(encoder: Arc<Encoder>, shape: Shape, counting: Option<Arc<Counting>>) -> Self {
        let (slices, row) = (BTreeMap::new(), Row::default());
        Self { encoder, shape, counting, slices, floor_ms: i64::MIN, ended_ms: i64::MIN, rows: 0, row }
    }

    /// Returns the name of the series of the model in Production, where there is one.
    #[must_use]
    pub fn production_series(&self) -> Option<&str> {
        self.counting.as_ref()?.series()
    }

    /// Returns the version of the baseline that it counts under.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.counting.as_ref().map(|counting| counting.version())
    }

    /// Returns how event time is cut.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Returns the start of the first slice that a window may still use.
    #[must_use]
    pub fn floor_ms(&self) -> i64 {
        self.floor_ms
    }

    /// Leaves out what lies before a floor that a mark of long ago has set.
    pub fn raise_floor(&mut self, floor_ms: i64) {
        self.floor_ms = self.floor_ms.max(floor_ms);
    }

    /// Whether there is a slice that starts then.
    #[must_use]
    pub fn holds(&self, start_ms: i64) -> bool {
        self.slices.contains_key(&start_ms)
    }

    /// Whether every slice's rows are in memory.
    #[must_use]
    pub fn has_all_rows(&self) -> bool {
        self.slices.values().all(|held| held.rows.is_some())
    }

    /// Returns the number of rows in memory.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns about how many bytes rows and identities take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let fields = self.encoder.code_fields().len() + self.encoder.number_fields().len() * 8;
        let identities: usize = self.slices.values().map(|held| held.seen.capacity() * 10).sum();
        self.rows * (fields + 29) + identities
    }

    /// Takes a ticket.
    pub fn push(&mut self, ticket: &Ticket) -> Pushed {
        let start_ms = self.shape.slice_of(ticket.event_at_ms);
        if start_ms < self.floor_ms {
            return Pushed::Outside;
        }
        let identity = identity(ticket);
        if ticket.transition == Transition::Assumed
            && let Some(earlier) = self.earlier_completion(ticket, start_ms, identity)
        {
            self.repeat(earlier);
            return Pushed::Repeat;
        }
        let opened = !self.slices.contains_key(&start_ms);
        if opened && self.slices.len() >= self.shape.bound() && !self.make_room(start_ms) {
            return Pushed::Outside;
        }
        let held = self.slices.entry(start_ms).or_insert_with(|| Held::open(start_ms));
        if !held.seen.insert(identity) {
            self.repeat(start_ms);
            return Pushed::Repeat;
        }
        let late = start_ms.saturating_add(self.shape.slice_ms) <= self.ended_ms;
        let (completed_at_ms, actual, predicted) = (ticket.completed_at_ms, ticket.actual, ticket.predicted);
        let predicted_by = predicted_by(ticket);
        let outcome = Outcome { completed_at_ms, actual, predicted, predicted_by, late };
        self.encoder.encode(&ticket.fields, &mut self.row);
        held.changed = true;
        let scored = count(self.counting.as_deref(), &self.encoder, &self.row, outcome, &mut held.counts);
        if let Some(rows) = &mut held.rows {
            rows.push(&self.encoder, &self.row, outcome);
            self.rows += 1;
        }
        Pushed::New { late, opened, scored }
    }

    /// A replace without a pre-image folds into an earlier completion, whose event time may have been held back to its commit.
    fn earlier_completion(&self, ticket: &Ticket, start_ms: i64, identity: u64) -> Option<i64> {
        let first = self.shape.slice_of(ticket.completed_at_ms.min(ticket.event_at_ms).saturating_sub(HOUR_MS));
        let mut candidates = self.slices.range(first..=start_ms).rev();
        candidates.find(|(_, held)| held.seen.contains(&identity)).map(|(start, _)| *start)
    }

    fn repeat(&mut self, start_ms: i64) {
        let held = self.slices.get_mut(&start_ms).expect("a repeat repeats what is held");
        held.counts.repeats += 1;
        held.changed = true;
    }

    /// Drops what is farthest from the present, so that a stream of scattered times cannot take all memory.
    fn make_room(&mut self, wanted_ms: i64) -> bool {
        let (first, last) = match (self.slices.first_key_value(), self.slices.last_key_value()) {
            (Some((first, _)), Some((last, _))) => (*first, *last),
            _ => return true,
        };
        let is_far = |start: i64| self.ended_ms != i64::MIN && start > self.ended_ms.saturating_add(self.shape.longest_ms);
        let victim = if is_far(last) { last } else { first };
        if (is_far(wanted_ms) && wanted_ms >= victim) || (victim == first && wanted_ms < first) {
            return false;
        }
        self.remove(victim);
        true
    }

    fn remove(&mut self, start_ms: i64) {
        if let Some(held) = self.slices.remove(&start_ms) {
            self.rows -= held.rows.map_or(0, |rows| rows.len());
        }
    }

    /// Ends the slice that ends at the mark, and drops those that no window of this mark or a later one reaches.
    pub fn mark(&mut self, mark: &Mark) {
        self.ended_ms = self.ended_ms.max(mark.end_ms);
        // The floor mark of a history is the beginning of all windows: what lies before it is in none.
        let reach_ms = if mark.number == 0 { 0 } else { self.shape.longest_ms };
        self.floor_ms = self.floor_ms.max(mark.end_ms.saturating_sub(reach_ms));
        while let Some((&first, _)) = self.slices.first_key_value()
            && first < self.floor_ms
        {
            self.remove(first);
        }
    }

    /// Returns the ended slices that changed since they were last asked for, the oldest first.
    pub fn changed(&mut self) -> Vec<Slice> {
        let ended_ms = self.ended_ms;
        let ended = self.slices.range_mut(..ended_ms).filter(|(_, held)| held.changed);
        ended
            .map(|(_, held)| {
                held.changed = false;
                held.counts.clone()
            })
            .collect()
    }

    /// Marks every slice as changed: what was published under another baseline is to be said anew.
    pub fn touch(&mut self) {
        for held in self.slices.values_mut() {
            held.changed = true;
        }
    }

    /// Counts every slice anew under another baseline.
    ///
    /// # Errors
    /// [`RowsDropped`] when rows of a slice are no longer in memory; the window is unchanged.
    pub fn recount(&mut self, counting: Option<Arc<Counting>>) -> Result<(), RowsDropped> {
        if !self.has_all_rows() {
            return Err(RowsDropped);
        }
        self.counting = counting;
        for held in self.slices.values_mut() {
            let mut counts = Slice { start_ms: held.counts.start_ms, repeats: held.counts.repeats, ..Slice::default() };
            if let Some(rows) = &held.rows {
                rows.each(&self.encoder, |row, outcome| {
                    count(self.counting.as_deref(), &self.encoder, row, outcome, &mut counts);
                });
            }
            held.counts = counts;
            held.changed = true;
        }
        Ok(())
    }

    /// Returns the start of the oldest slice whose rows are in memory.
    #[must_use]
    pub fn oldest_rows(&self) -> Option<i64> {
        self.slices.iter().find(|(_, held)| held.rows.as_ref().is_some_and(|rows| rows.len() > 0)).map(|(start, _)| *start)
    }

    /// Drops the rows of one slice, and those that it would still get; its counts stay.
    pub fn drop_rows(&mut self, start_ms: i64) {
        if let Some(held) = self.slices.get_mut(&start_ms) {
            self.rows -= held.rows.take().map_or(0, |rows| rows.len());
        }
    }

    /// Returns the rows of one slice as a frame, while they are in memory.
    pub fn frame(&mut self, start_ms: i64) -> Option<&DataFrame> {
        self.slices.get_mut(&start_ms)?.rows.as_mut()?.frame(&self.encoder)
    }

    /// Returns the counts of every slice held, the oldest first.
    pub fn counts(&self) -> impl Iterator<Item = &Slice> {
        self.slices.values().map(|held| &held.counts)
    }
}

impl Held {
    fn open(start_ms: i64) -> Self {
        Self { counts: Slice { start_ms, ..Slice::default() }, rows: Some(Rows::default()), ..Self::default() }
    }
}

/// Counts a ticket; returns what Production predicts for it.
fn count(counting: Option<&Counting>, encoder: &Encoder, row: &Row, outcome: Outcome, slice: &mut Slice) -> Option<f64> {
    if let Some(counting) = counting {
        counting.add(encoder, row, outcome, slice).map(|(_, predicted)| predicted)
    } else {
        slice.rows += 1;
        slice.late += u64::from(outcome.late);
        None
    }
}

/// Returns the number of the version that a ticket says it was predicted by; 0 where it says none.
pub(crate) fn predicted_by(ticket: &Ticket) -> u32 {
    ticket.model_version.as_deref().and_then(|version| version.trim_start_matches('v').parse().ok()).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests;
