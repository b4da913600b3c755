//! Tickets to slices, as watch counts them, but once and for one baseline.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::baseline::Baseline;
use crate::features::{Encoder, EncoderError, Row};
use crate::spec::Spec;
use crate::summary::Slice;
use crate::ticket::Ticket;
use crate::window::{Counting, CountingError, Outcome};

/// Why tickets cannot be counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CountError {
    /// The spec's features cannot be computed.
    #[error("cannot compute the spec's features: {0}")]
    Spec(#[from] EncoderError),
    /// The baseline is another spec's.
    #[error(transparent)]
    Baseline(#[from] CountingError),
}

/// Counts the tickets of one window.
#[derive(Debug)]
pub struct Counter {
    encoder: Encoder,
    counting: Arc<Counting>,
    slice_ms: i64,
    from_ms: i64,
    to_ms: i64,
    slices: BTreeMap<i64, Slice>,
    /// Completions that were counted: 16 bytes each, of one window.
    seen: HashSet<[u8; 16]>,
    row: Row,
}

impl Counter {
    /// Begins to count the tickets of `[from_ms, to_ms)`.
    ///
    /// # Errors
    /// [`CountError`] when spec and baseline do not fit each other.
    pub fn new(spec: &Spec, baseline: &Baseline, slice_ms: i64, (from_ms, to_ms): (i64, i64)) -> Result<Self, CountError> {
        let encoder = Encoder::new(spec)?;
        let names: Vec<&str> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
        let counting = Arc::new(Counting::new(&encoder, &names, &spec.fingerprint(), baseline)?);
        Ok(Self { encoder, counting, slice_ms, from_ms, to_ms, slices: BTreeMap::new(), seen: HashSet::new(), row: Row::default() })
    }

    /// Counts a completed ticket, if it is in the window; the same completion once.
    pub fn push(&mut self, ticket: &Ticket) {
        if !(self.from_ms..self.to_ms).contains(&ticket.event_at_ms) {
            return;
        }
        let start_ms = ticket.event_at_ms.div_euclid(self.slice_ms) * self.slice_ms;
        let slice = self.slices.entry(start_ms).or_insert_with(|| Slice { start_ms, ..Slice::default() });
        if !self.seen.insert(identity(ticket)) {
            slice.repeats += 1;
            return;
        }
        self.encoder.encode(&ticket.fields, &mut self.row);
        let (completed_at_ms, actual, predicted) = (ticket.completed_at_ms, ticket.actual, ticket.predicted);
        self.counting.add(&self.encoder, &self.row, Outcome { completed_at_ms, actual, predicted, predicted_by: 0, late: false }, slice);
    }

    /// Returns the slices that have a ticket, oldest first.
    #[must_use]
    pub fn slices(self) -> Vec<Slice> {
        self.slices.into_values().collect()
    }
}

fn identity(ticket: &Ticket) -> [u8; 16] {
    let mut hash = Sha256::new_with_prefix(ticket.id.json());
    hash.update(ticket.completed_at_ms.to_le_bytes());
    let mut identity = [0; 16];
    identity.copy_from_slice(&hash.finalize()[..16]);
    identity
}
