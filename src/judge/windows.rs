//! The windows' counts: slices are added when they enter or change, subtracted when they leave; exact, as integers.

use std::collections::BTreeMap;

use crate::clock::DAY_MS;
use crate::summary::{ErrorSums, Slice};

/// Days of slices that are kept, beyond the longest window, to find out when a change began.
pub(crate) const ONSET_DAYS: i64 = 14;

/// The counts of every window length, and the slices behind them.
#[derive(Debug)]
pub(crate) struct Windows {
    days: Vec<u32>,
    slice_ms: i64,
    /// Version of the baseline over whose bins the slices are counted.
    version: Option<u64>,
    /// The latest of each slice and partition.
    slices: BTreeMap<(i64, u32), Sparse>,
    sums: Vec<Slice>,
    /// Windows end here, exclusive.
    end_ms: i64,
}

/// A slice without its zeros: most bins of an hour are empty.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sparse {
    rows: u64,
    late: u64,
    repeats: u64,
    columns: Box<[(u16, u16, u64)]>,
    errors: Box<[(u16, u16, i128)]>,
    spread: Box<[(u16, u64)]>,
    target: Box<[(u16, u64)]>,
    series: Box<[(String, ErrorSums)]>,
}

fn narrow(index: usize) -> u16 {
    u16::try_from(index).expect("a baseline has fewer than 65,536 columns, and a column fewer bins")
}

fn cells<T: Copy + Default + PartialEq>(rows: &[Vec<T>]) -> Box<[(u16, u16, T)]> {
    let row = |(column, bins): (usize, &Vec<T>)| {
        let filled = bins.iter().enumerate().filter(|(_, count)| **count != T::default());
        filled.map(|(bin, count)| (narrow(column), narrow(bin), *count)).collect::<Vec<_>>()
    };
    rows.iter().enumerate().flat_map(row).collect()
}

fn filled(row: &[u64]) -> Box<[(u16, u64)]> {
    row.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bin, count)| (narrow(bin), *count)).collect()
}

impl Sparse {
    fn of(slice: &Slice) -> Self {
        Self {
            rows: slice.rows,
            late: slice.late,
            repeats: slice.repeats,
            columns: cells(&slice.columns),
            errors: cells(&slice.error_by),
            spread: filled(&slice.spread),
            target: filled(&slice.target),
            series: slice.series.iter().map(|(name, sums)| (name.clone(), *sums)).collect(),
        }
    }

    /// Adds the counts to a sum of the right shape.
    pub(crate) fn add_to(&self, sum: &mut Slice) {
        sum.rows += self.rows;
        sum.late += self.late;
        sum.repeats += self.repeats;
        for (column, bin, count) in &self.columns {
            sum.columns[usize::from(*column)][usize::from(*bin)] += count;
        }
        for (column, bin, error) in &self.errors {
            sum.error_by[usize::from(*column)][usize::from(*bin)] += error;
        }
        for (axis, square) in &self.spread {
            sum.spread[usize::from(*axis)] += square;
        }
        for (bin, count) in &self.target {
            sum.target[usize::from(*bin)] += count;
        }
        for (name, sums) in &self.series {
            if let Some(known) = sum.series.get_mut(name) {
                known.add(sums);
            } else {
                sum.series.insert(name.clone(), *sums);
            }
        }
    }

    fn take_from(&self, sum: &mut Slice) {
        fn take(from: &mut u64, count: u64) {
            *from = from.checked_sub(count).expect("only what was added is subtracted");
        }
        take(&mut sum.rows, self.rows);
        take(&mut sum.late, self.late);
        take(&mut sum.repeats, self.repeats);
        for (column, bin, count) in &self.columns {
            take(&mut sum.columns[usize::from(*column)][usize::from(*bin)], *count);
        }
        for (column, bin, error) in &self.errors {
            sum.error_by[usize::from(*column)][usize::from(*bin)] -= error;
        }
        for (axis, square) in &self.spread {
            take(&mut sum.spread[usize::from(*axis)], *square);
        }
        for (bin, count) in &self.target {
            take(&mut sum.target[usize::from(*bin)], *count);
        }
        for (name, sums) in &self.series {
            let known = sum.series.get_mut(name).expect("only what was added is subtracted");
            known.subtract(sums);
            if known.rows == 0 {
                sum.series.remove(name);
            }
        }
    }

    /// Rows by bin of one column, where there are any.
    pub(crate) fn column(&self, column: usize) -> impl Iterator<Item = (usize, u64)> + '_ {
        let wanted = narrow(column);
        self.columns.iter().filter(move |cell| cell.0 == wanted).map(|(_, bin, count)| (usize::from(*bin), *count))
    }

    /// Rows by bin of the target, where there are any.
    pub(crate) fn target(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.target.iter().map(|(bin, count)| (usize::from(*bin), *count))
    }

    /// Error sums of one series.
    pub(crate) fn errors(&self, series: &str) -> Option<&ErrorSums> {
        self.series.iter().find(|(name, _)| name == series).map(|(_, sums)| sums)
    }
}

impl Windows {
    /// Makes windows of `days`, over slices of `slice_ms`.
    pub(crate) fn new(days: &[u32], slice_ms: i64) -> Self {
        Self {
            days: days.to_vec(),
            slice_ms,
            version: None,
            slices: BTreeMap::new(),
            sums: vec![Slice::default(); days.len()],
            end_ms: i64::MIN,
        }
    }

    /// Returns how far back slices are kept, ms.
    pub(crate) fn keep_ms(&self) -> i64 {
        self.longest_ms().max(ONSET_DAYS * DAY_MS)
    }

    /// Returns the longest window, ms.
    pub(crate) fn longest_ms(&self) -> i64 {
        self.days.iter().map(|days| i64::from(*days) * DAY_MS).max().unwrap_or(0)
    }

    /// Forgets every slice: from here on they are counted over the bins of `version`.
    pub(crate) fn restart(&mut self, version: Option<u64>) {
        self.version = version;
        self.slices.clear();
        self.sums.fill(Slice::default());
    }

    /// Returns the version over whose bins the slices are counted.
    pub(crate) fn version(&self) -> Option<u64> {
        self.version
    }

    /// Takes a slice of a partition; it replaces what was said of it before.
    pub(crate) fn replace(&mut self, partition: u32, slice: &Slice) {
        let start_ms = slice.start_ms;
        if self.end_ms != i64::MIN && start_ms < self.end_ms - self.keep_ms() {
            return;
        }
        for sum in &mut self.sums {
            widen(sum, slice);
        }
        let new = Sparse::of(slice);
        let old = self.slices.get(&(start_ms, partition));
        for (days, sum) in self.days.iter().zip(&mut self.sums) {
            let begins_ms = self.end_ms.saturating_sub(i64::from(*days) * DAY_MS);
            if start_ms >= begins_ms && start_ms < self.end_ms {
                if let Some(old) = old {
                    old.take_from(sum);
                }
                new.add_to(sum);
            }
        }
        self.slices.insert((start_ms, partition), new);
    }

    /// Moves every window's end to `end_ms`, a later slice boundary.
    pub(crate) fn advance(&mut self, end_ms: i64) {
        let was_ms = self.end_ms;
        if end_ms <= was_ms {
            return;
        }
        for (days, sum) in self.days.iter().zip(&mut self.sums) {
            let length_ms = i64::from(*days) * DAY_MS;
            let begins_ms = end_ms - length_ms;
            if was_ms != i64::MIN {
                let leaving = (was_ms - length_ms, 0)..(begins_ms.min(was_ms), 0);
                for (_, slice) in self.slices.range(leaving) {
                    slice.take_from(sum);
                }
            }
            let entering = (begins_ms.max(was_ms), 0)..(end_ms, 0);
            for (_, slice) in self.slices.range(entering) {
                slice.add_to(sum);
            }
        }
        self.end_ms = end_ms;
        let kept = self.slices.split_off(&(end_ms - self.keep_ms(), 0));
        self.slices = kept;
    }

    /// Returns the windows' lengths in days and counts, in the order they were configured.
    pub(crate) fn sums(&self) -> impl Iterator<Item = (u32, &Slice)> {
        self.days.iter().copied().zip(&self.sums)
    }

    /// Returns the counts of one length.
    pub(crate) fn sum(&self, days: u32) -> Option<&Slice> {
        self.sums().find(|(length, _)| *length == days).map(|(_, sum)| sum)
    }

    /// Returns the slices of the last [`ONSET_DAYS`], by start; several of one start are of different partitions.
    pub(crate) fn recent(&self) -> impl Iterator<Item = (i64, &Sparse)> {
        let from = self.end_ms.saturating_sub(ONSET_DAYS * DAY_MS);
        self.slices.range((from, 0)..(self.end_ms, 0)).map(|((start, _), slice)| (*start, slice))
    }

    /// Returns the counts of the slices with `from_ms <= start < to_ms` that are still kept.
    pub(crate) fn between(&self, from_ms: i64, to_ms: i64) -> Slice {
        let mut sum = Slice::default();
        if let Some(shape) = self.sums.last() {
            widen(&mut sum, shape);
        }
        for (_, slice) in self.slices.range((from_ms, 0)..(to_ms, 0)) {
            slice.add_to(&mut sum);
        }
        sum
    }

    /// Returns the rows of the slices with `from_ms <= start < to_ms` that are still kept.
    pub(crate) fn rows_between(&self, from_ms: i64, to_ms: i64) -> u64 {
        self.slices.range((from_ms, 0)..(to_ms.max(from_ms), 0)).map(|(_, slice)| slice.rows).sum()
    }

    /// Returns where the windows end, ms since 1970; `None` before the first mark.
    pub(crate) fn end_ms(&self) -> Option<i64> {
        (self.end_ms != i64::MIN).then_some(self.end_ms)
    }

    /// Returns the length of a slice, ms.
    pub(crate) fn slice_ms(&self) -> i64 {
        self.slice_ms
    }
}

/// Gives `sum` at least the shape of `slice`.
fn widen(sum: &mut Slice, slice: &Slice) {
    fn widen_rows<T: Clone + Default>(into: &mut Vec<Vec<T>>, from: &[Vec<T>]) {
        if into.len() < from.len() {
            into.resize(from.len(), Vec::new());
        }
        for (a, b) in into.iter_mut().zip(from) {
            if a.len() < b.len() {
                a.resize(b.len(), T::default());
            }
        }
    }
    widen_rows(&mut sum.columns, &slice.columns);
    widen_rows(&mut sum.error_by, &slice.error_by);
    if sum.spread.len() < slice.spread.len() {
        sum.spread.resize(slice.spread.len(), 0);
    }
    if sum.target.len() < slice.target.len() {
        sum.target.resize(slice.target.len(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::HOUR_MS;
    use proptest::prelude::*;

    fn slice(start_ms: i64, counts: [u64; 3], error: i128) -> Slice {
        let rows = counts.iter().sum();
        let sums = ErrorSums { rows, abs_us: error, log: error * 2, log_sq: error * 3 };
        Slice {
            start_ms,
            rows,
            columns: vec![counts.to_vec(), vec![rows, 0]],
            error_by: vec![vec![error, 0, 0], vec![]],
            spread: vec![0, rows * 3],
            target: counts.to_vec(),
            series: BTreeMap::from([("recorded".to_owned(), sums)]),
            ..Slice::default()
        }
    }

    fn recount(windows: &Windows, latest: &BTreeMap<(i64, u32), Slice>, days: u32, end_ms: i64) -> Slice {
        let mut sum = Slice::default();
        widen(&mut sum, windows.sum(days).unwrap());
        for ((start, _), slice) in latest {
            if *start < end_ms && *start >= end_ms - i64::from(days) * DAY_MS {
                sum.add(slice);
            }
        }
        sum.series.retain(|_, sums| sums.rows > 0);
        sum
    }

    #[test]
    fn a_slice_enters_with_its_mark_and_leaves_a_window_later() {
        let mut windows = Windows::new(&[1, 3], HOUR_MS);
        windows.replace(0, &slice(0, [1, 2, 3], 10));
        windows.advance(HOUR_MS);
        assert_eq!(windows.sum(1).unwrap().rows, 6);
        windows.advance(DAY_MS);
        assert_eq!(windows.sum(1).unwrap().rows, 6);
        windows.advance(DAY_MS + HOUR_MS);
        assert_eq!(windows.sum(1).unwrap().rows, 0);
        assert_eq!(windows.sum(3).unwrap().rows, 6);
        assert!(windows.sum(1).unwrap().series.is_empty());
    }

    #[test]
    fn a_late_slice_replaces_what_was_said_before() {
        let mut windows = Windows::new(&[1], HOUR_MS);
        windows.replace(0, &slice(0, [1, 2, 3], 10));
        windows.advance(HOUR_MS);
        windows.replace(0, &slice(0, [2, 2, 3], 12));
        assert_eq!(windows.sum(1).unwrap().columns[0], [2, 2, 3]);
        assert_eq!(windows.sum(1).unwrap().series["recorded"].abs_us, 12);
    }

    #[test]
    fn a_slice_of_the_future_waits_for_its_mark() {
        let mut windows = Windows::new(&[1], HOUR_MS);
        windows.advance(HOUR_MS);
        windows.replace(0, &slice(HOUR_MS, [1, 0, 0], 1));
        assert_eq!(windows.sum(1).unwrap().rows, 0);
        windows.advance(2 * HOUR_MS);
        assert_eq!(windows.sum(1).unwrap().rows, 1);
    }

    #[test]
    fn a_jump_over_the_whole_window_leaves_it_empty() {
        let mut windows = Windows::new(&[1, 3], HOUR_MS);
        windows.replace(0, &slice(0, [1, 2, 3], 10));
        windows.advance(HOUR_MS);
        windows.advance(40 * DAY_MS);
        assert!(windows.sums().all(|(_, sum)| sum.rows == 0));
        assert_eq!(windows.recent().count(), 0);
    }

    proptest! {
        #[test]
        fn windows_equal_a_recount(events in prop::collection::vec((0_i64..120, 0_u32..3, 0_u64..9, 0_u64..9, prop::bool::ANY), 1..120)) {
            let mut windows = Windows::new(&[1, 3], HOUR_MS);
            let mut latest = BTreeMap::new();
            let mut end = 0;
            for (hour, partition, a, b, moves) in events {
                if moves {
                    end = end.max(hour);
                    windows.advance(end * HOUR_MS);
                }
                let new = slice(hour * HOUR_MS, [a, b, 1], i128::from(a) * 7);
                windows.replace(partition, &new);
                latest.insert((hour * HOUR_MS, partition), new);
            }
            windows.advance((end + 1) * HOUR_MS);
            for days in [1, 3] {
                let mut expected = recount(&windows, &latest, days, (end + 1) * HOUR_MS);
                expected.start_ms = 0;
                prop_assert_eq!(windows.sum(days).unwrap(), &expected);
            }
        }
    }
}
