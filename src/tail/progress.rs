//! How far the history has been read, and about what is left of it.

use std::time::{Duration, Instant};

use crate::threads;

/// A reading of the collection's history, from where this process took it up.
pub(super) struct Progress {
    /// About how many rows there are, where that is known.
    expected: Option<u64>,
    begun: Instant,
    begun_rows: u64,
}

impl Progress {
    /// Takes it up after so many rows.
    pub(super) fn begin(expected: Option<u64>, rows: u64) -> Self {
        Self { expected, begun: threads::now(), begun_rows: rows }
    }

    /// Returns about how many rows are left after so many.
    pub(super) fn left(&self, rows: u64) -> Option<u64> {
        self.expected.map(|expected| expected.saturating_sub(rows))
    }

    /// Says it, with the time that is left at the pace so far.
    pub(super) fn words(&self, rows: u64) -> String {
        words(self.expected, rows, rows.saturating_sub(self.begun_rows), threads::since(self.begun))
    }
}

fn words(expected: Option<u64>, rows: u64, read: u64, took: Duration) -> String {
    let Some(expected) = expected else {
        return format!("reading the collection's history, {rows} completed tickets so far");
    };
    let far = format!("reading the collection's history, {rows} of about {} completed tickets", expected.max(rows));
    if read == 0 || rows >= expected {
        return far;
    }
    let seconds = took.as_secs_f64() * (expected - rows) as f64 / read as f64;
    let left = match seconds {
        ..90.0 => format!("{seconds:.0} s"),
        ..5_400.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.0} h", seconds / 3_600.0),
    };
    format!("{far}, about {left} left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_of_the_pace_since_it_was_taken_up() {
        let said = |expected, rows, read, seconds| words(expected, rows, read, Duration::from_secs(seconds));
        let begins = "reading the collection's history, ";
        let cases = [
            (said(Some(4_000), 1_000, 500, 10), "1000 of about 4000 completed tickets, about 60 s left"),
            (said(Some(40_000), 1_000, 500, 10), "1000 of about 40000 completed tickets, about 13 min left"),
            (said(Some(4_000_000), 1_000, 500, 10), "1000 of about 4000000 completed tickets, about 22 h left"),
            (said(Some(4_000), 1_000, 0, 10), "1000 of about 4000 completed tickets"),
            (said(Some(4_000), 4_100, 500, 10), "4100 of about 4100 completed tickets"),
            (said(None, 1_000, 500, 10), "1000 completed tickets so far"),
        ];
        for (said, expected) in cases {
            assert_eq!(said, format!("{begins}{expected}"));
        }
    }

    #[test]
    fn what_is_left_is_never_less_than_nothing() {
        assert_eq!(Progress::begin(Some(10), 0).left(4), Some(6));
        assert_eq!(Progress::begin(Some(10), 0).left(11), Some(0));
        assert_eq!(Progress::begin(None, 0).left(4), None);
    }
}
