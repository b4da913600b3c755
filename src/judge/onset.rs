//! When a change began: the slice boundary that best divides the last days in two.

use crate::clock::{DAY_MS, HOUR_MS};

use super::windows::Sparse;

/// What the slices are divided by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By<'a> {
    /// Counts of a column, with its number of bins.
    Column {
        /// The column.
        column: usize,
        /// Its bins.
        bins: usize,
    },
    /// The target's rank in the baseline: the middle of each bin's span of the baseline's cumulated share.
    Target {
        /// By bin of the target's fine histogram.
        ranks: &'a [f64],
    },
    /// |error| of a series: what its alarm is about. (The logarithm finds a front of bad weather twelve days early when the
    /// alarm is a day old, the error itself the right hour.)
    Error {
        /// The series.
        series: &'a str,
    },
}

/// One slice's part: its rows, and sums of what is compared.
#[derive(Clone, Debug)]
struct Part {
    start_ms: i64,
    rows: f64,
    sums: Vec<f64>,
}

/// Returns the start of the slice with which the change began: the boundary that maximises the between-group sum of squares
/// `Σ_k S1k²/n1 + S2k²/n2`, where k runs over the bins (the one-hot counts of a column) or is the one mean that is compared.
///
/// The counts of a column are held against the mean of the same hour of day first: which hour a ticket was made in, or what is
/// done at night, would otherwise divide the days by the clock.
///
/// - Cost: slices × bins, once an alarm.
/// - `None` with fewer than two slices that hold rows.
/// - Source: Sen and Srivastava (1975), "On Tests for Detecting Change in Mean": the least-squares change point.
pub(crate) fn onset<'a>(slices: impl Iterator<Item = (i64, &'a Sparse)>, by: By<'_>) -> Option<i64> {
    let mut parts = parts(slices, by);
    if matches!(by, By::Column { .. }) {
        take_out_the_day(&mut parts);
    }
    let width = parts.first()?.sums.len();
    let rows: f64 = parts.iter().map(|part| part.rows).sum();
    let mut total = vec![0.0; width];
    for part in &parts {
        for (sum, more) in total.iter_mut().zip(&part.sums) {
            *sum += more;
        }
    }
    let (mut rows_before, mut before) = (0.0, vec![0.0; width]);
    let mut best: Option<(f64, i64)> = None;
    for pair in parts.windows(2) {
        rows_before += pair[0].rows;
        for (sum, more) in before.iter_mut().zip(&pair[0].sums) {
            *sum += more;
        }
        let rows_after = rows - rows_before;
        let between: f64 = before.iter().zip(&total).map(|(b, t)| b * b / rows_before + (t - b) * (t - b) / rows_after).sum();
        if best.is_none_or(|(most, _)| between > most) {
            best = Some((between, pair[1].start_ms));
        }
    }
    best.map(|(_, start_ms)| start_ms)
}

/// Leaves of each slice what is not usual at its hour of the day. Two days are needed to know what is usual.
fn take_out_the_day(parts: &mut [Part]) {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return };
    if last.start_ms - first.start_ms < 2 * DAY_MS {
        return;
    }
    let hour = |part: &Part| usize::try_from(part.start_ms.rem_euclid(DAY_MS) / HOUR_MS).expect("an hour of the day is small");
    let width = first.sums.len();
    let mut usual = vec![(0.0, vec![0.0; width]); 24];
    for part in parts.iter() {
        let (rows, sums) = &mut usual[hour(part)];
        *rows += part.rows;
        for (sum, more) in sums.iter_mut().zip(&part.sums) {
            *sum += more;
        }
    }
    for part in parts {
        let (rows, sums) = &usual[hour(part)];
        for (own, sum) in part.sums.iter_mut().zip(sums) {
            *own -= part.rows * sum / rows;
        }
    }
}

/// Adds up the partitions of each slice, and leaves out slices without rows.
fn parts<'a>(slices: impl Iterator<Item = (i64, &'a Sparse)>, by: By<'_>) -> Vec<Part> {
    let width = match by {
        By::Column { bins, .. } => bins,
        By::Target { .. } | By::Error { .. } => 1,
    };
    let mut parts: Vec<Part> = Vec::new();
    for (start_ms, slice) in slices {
        if parts.last().is_none_or(|part| part.start_ms != start_ms) {
            parts.push(Part { start_ms, rows: 0.0, sums: vec![0.0; width] });
        }
        let part = parts.last_mut().expect("one was just pushed");
        match by {
            By::Column { column, .. } => {
                for (bin, count) in slice.column(column) {
                    part.sums[bin] += count as f64;
                    part.rows += count as f64;
                }
            }
            By::Target { ranks } => {
                for (bin, count) in slice.target() {
                    part.sums[0] += ranks[bin] * count as f64;
                    part.rows += count as f64;
                }
            }
            By::Error { series } => {
                if let Some(sums) = slice.errors(series) {
                    part.sums[0] += sums.abs_us as f64;
                    part.rows += sums.rows as f64;
                }
            }
        }
    }
    parts.retain(|part| part.rows > 0.0);
    parts
}

/// Returns the rank in the baseline of each bin of the target: the middle of its span of the cumulated share.
pub(crate) fn ranks(counts: &[u64]) -> Vec<f64> {
    let rows = counts.iter().sum::<u64>().max(1) as f64;
    let mut below = 0_u64;
    counts
        .iter()
        .map(|count| {
            let middle = (below as f64 + *count as f64 / 2.0) / rows;
            below += count;
            middle
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::HOUR_MS;
    use crate::judge::windows::Windows;
    use crate::summary::{ErrorSums, Slice};
    use std::collections::BTreeMap;

    fn windows(change_at: i64) -> Windows {
        let mut windows = Windows::new(&[7], HOUR_MS);
        for hour in 0..200 {
            let changed = hour >= change_at;
            let wobble = u64::try_from(hour % 5).unwrap();
            let counts = if changed { vec![10 + wobble, 30] } else { vec![30, 10 + wobble] };
            let mut sums = ErrorSums::default();
            for _ in 0..10 {
                sums.push(if changed { 900.0 } else { 300.0 } + wobble as f64 * 20.0, 1.0);
            }
            for partition in 0..2 {
                windows.replace(
                    partition,
                    &Slice {
                        start_ms: hour * HOUR_MS,
                        rows: counts.iter().sum(),
                        columns: vec![counts.clone()],
                        target: counts.clone(),
                        series: BTreeMap::from([("recorded".to_owned(), sums)]),
                        ..Slice::default()
                    },
                );
            }
        }
        windows.advance(200 * HOUR_MS);
        windows
    }

    #[test]
    fn a_step_is_found_to_the_slice() {
        for change_at in [20, 77, 180, 198] {
            let windows = windows(change_at);
            let ranks = ranks(&[100, 100]);
            for by in [By::Column { column: 0, bins: 2 }, By::Target { ranks: &ranks }, By::Error { series: "recorded" }] {
                assert_eq!(onset(windows.recent(), by), Some(change_at * HOUR_MS), "{by:?}");
            }
        }
    }

    #[test]
    fn what_the_clock_does_every_day_is_no_change() {
        // By day bin 0, by night bin 1; from hour 100 on, in the evening, one ticket in four is in bin 2.
        let mut windows = Windows::new(&[7], HOUR_MS);
        for hour in 0..117 {
            let mut counts = if hour % 24 < 12 { vec![40, 0, 0] } else { vec![0, 40, 0] };
            if hour >= 100 {
                counts = counts.into_iter().map(|count| count / 4 * 3).collect();
                counts[2] = 10;
            }
            let slice = Slice { start_ms: hour * HOUR_MS, rows: 40, columns: vec![counts], ..Slice::default() };
            windows.replace(0, &slice);
        }
        windows.advance(117 * HOUR_MS);
        assert_eq!(onset(windows.recent(), By::Column { column: 0, bins: 3 }), Some(100 * HOUR_MS));
    }

    #[test]
    fn one_slice_alone_has_no_onset() {
        let mut windows = Windows::new(&[7], HOUR_MS);
        windows.replace(0, &Slice { start_ms: 0, rows: 3, columns: vec![vec![3]], ..Slice::default() });
        windows.advance(HOUR_MS);
        assert_eq!(onset(windows.recent(), By::Column { column: 0, bins: 1 }), None);
        assert_eq!(onset(windows.recent(), By::Error { series: "recorded" }), None);
    }
}
