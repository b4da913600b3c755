//! Where tickets come from: a change stream, or a file that is replayed.

use std::time::Duration;

use bytes::Bytes;

use super::normalise::{Normalised, Unreadable};
use crate::metrics;
use crate::spec::Spec;

/// MongoDB's cluster time: seconds since 1970, and increment.
pub type ClusterTime = (u32, u32);

/// How far a source has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// So many rows of the file.
    Rows(u64),
    /// In the change stream, after one of its events or, when idle, after what it has looked at.
    Stream {
        /// The resume token, a BSON document; empty when it was too large for a position.
        token: Bytes,
        /// Cluster time of the event, or of the token.
        time: ClusterTime,
        /// Events of exactly that time up to here: several tickets of one transaction share it.
        index: u32,
    },
}

impl Place {
    /// Returns the cluster time, of a change stream.
    #[must_use]
    pub fn time(&self) -> Option<ClusterTime> {
        match self {
            Self::Rows(_) => None,
            Self::Stream { time, .. } => Some(*time),
        }
    }
}

/// What a source brings, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// A document that completed, or cannot be used. `Normalised::Other` may be left out, or sent for its place.
    Ticket {
        /// What the document turned out to be, with commit and transition as the source knows them.
        normalised: Normalised,
        /// How far the source has been read with it.
        after: Place,
    },
    /// A row of the collection's history. It counts only when the stream has not brought its key since the history began.
    Row {
        /// What the document turned out to be.
        normalised: Normalised,
        /// Its `_id`, as the BSON document `{_id: …}`: the history has been read up to here.
        last: Bytes,
    },
    /// The history has been read to its end; from here on there is only the stream.
    HistoryRead,
    /// Nothing completed, but the source has come this far.
    Idle {
        /// How far.
        after: Place,
    },
    /// Wait here until this baseline, or a later one, is in force: a replay lives through what is decided on the way.
    AwaitBaseline {
        /// Its version.
        version: u64,
    },
    /// There is no more, and there never will be.
    End,
}

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It may pass: open again, from the last position, after a while.
    #[error("{doing}: {reason}")]
    Unavailable {
        /// What was attempted, on what.
        doing: String,
        /// What came back.
        reason: String,
    },
    /// What came after the position is not there any more.
    #[error("{doing}: {reason}")]
    Forgotten {
        /// What was attempted, on what.
        doing: String,
        /// What came back.
        reason: String,
        /// The server's time: whatever comes after it is still there.
        present: ClusterTime,
    },
    /// The server does not let us: user, password or privileges.
    #[error("{doing}: {reason}")]
    Denied {
        /// What was attempted, on what.
        doing: String,
        /// What came back, and what to do.
        reason: String,
    },
    /// A person must decide.
    #[error("{doing}: {reason}")]
    Refused {
        /// What was attempted, on what.
        doing: String,
        /// What came back, and what to do.
        reason: String,
    },
}

/// A source's history, while it is being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPlace {
    /// The server's operation time before anything was read.
    pub since: ClusterTime,
    /// `last` of the last [`Event::Row`] that is in the log.
    pub last: Option<Bytes>,
    /// How many rows there were up to it.
    pub rows: u64,
    /// The collection is read again, after a gap: only what completed at or after this counts, ms since 1970, unless the log has it.
    pub completed_from_ms: Option<i64>,
}

/// Where a source goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// How far it was read.
    pub place: Place,
    /// [`Opened::fingerprint`] when that place was taken. When it differs now, resume by time, and skip what is not later.
    pub fingerprint: String,
    /// The history, while it is being read.
    pub history: Option<HistoryPlace>,
}

/// Where a source begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// How far it has been read: committed before anything else.
    pub place: Place,
    /// Identity of what is read: cluster, collection, pipeline; or the file.
    pub fingerprint: String,
    /// The history, if it is (still) to be read.
    pub history: Option<HistoryPlace>,
}

/// Brings events, from the beginning or from where they were left.
pub trait Source: Send {
    /// Whether tickets are lived through again: their own completion times are then the clock.
    fn is_replay(&self) -> bool;

    /// Whether each request for a training is waited for: what it decides then has its place in the replay, whatever the machine.
    fn lives_through(&self) -> bool {
        false
    }

    /// Begins, or goes on after `from`. May be called again at any time, to go back.
    ///
    /// # Errors
    /// [`SourceError`].
    fn open(&mut self, from: Option<&Resume>) -> Result<Opened, SourceError>;

    /// Returns about how many rows the history has that was opened last, where that is known.
    fn history_rows(&self) -> Option<u64> {
        None
    }

    /// Appends at most `most` of the events that are waiting to `into`; waits for the first at most `timeout`.
    ///
    /// # Errors
    /// [`SourceError`]. What was appended before is good.
    fn read(&mut self, most: usize, timeout: Duration, into: &mut Vec<Event>) -> Result<(), SourceError>;

    /// Nobody reads until it is opened again: another process leads. May be said again and again.
    fn close(&mut self) {}
}

/// Counts fields that a source could not read, whichever source it is.
pub(super) fn count_unreadable(spec: &Spec, unreadable: &Unreadable) {
    for (field, why, times) in unreadable.iter() {
        metrics::fields_unreadable(&spec.fields[field].name, why.name(), times);
    }
}
