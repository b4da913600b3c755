//! What the baseline does by itself: every window of a length held against the rest, from daily integer counts.
//!
//! Season, weather and autocorrelation make quiet windows differ more than independent tickets would. φ and s say how
//! much more, so that evidence can be told from habit.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::clock::DAY_MS;
use crate::drift::ks::ks;
use crate::drift::look::{CLUSTERS, TARGET};
use crate::drift::psi::psi;
use crate::spec::Spec;
use crate::summary::micros;

use super::builder::Making;
use super::{Noise, RECORDED};

/// Mean of n_e·D² when tickets are independent: π²/12 (Kolmogorov's distribution has E K² = π²/12).
const KOLMOGOROV_MEAN_SQUARE: f64 = std::f64::consts::PI * std::f64::consts::PI / 12.0;
/// Windows of the baseline below which a predecessor knows its noise better.
const ENOUGH_WINDOWS: u32 = 4;

/// Rows by day and bin.
#[derive(Clone, Debug)]
pub(super) struct Daily {
    first_day: i64,
    bins: usize,
    /// Day by day, bin by bin.
    counts: Vec<u32>,
}

impl Daily {
    pub(super) fn new(first_day: i64, days: i64, bins: usize) -> Self {
        let days = usize::try_from(days).expect("an interval has a day");
        Self { first_day, bins, counts: vec![0; days * bins] }
    }

    pub(super) fn count(&mut self, day: i32, bin: usize) {
        self.counts[day_index(self.first_day, day) * self.bins + bin] += 1;
    }

    pub(super) fn total(&self) -> Vec<u64> {
        self.over(0..self.counts.len() / self.bins.max(1))
    }

    fn over(&self, days: Range<usize>) -> Vec<u64> {
        let mut sum = vec![0; self.bins];
        for day in days {
            for (into, count) in sum.iter_mut().zip(&self.counts[day * self.bins..(day + 1) * self.bins]) {
                *into += u64::from(*count);
            }
        }
        sum
    }

    /// Returns the counts of a window and of the rest.
    fn split(&self, whole: &[u64], window: Range<usize>) -> (Vec<u64>, Vec<u64>) {
        let inside = self.over(window);
        let rest = whole.iter().zip(&inside).map(|(all, part)| all - part).collect();
        (inside, rest)
    }

    /// Returns psi_statistic / (bins − 1) of each window held against the rest.
    fn ratios(&self, whole: &[u64], windows: &[Range<usize>]) -> impl Iterator<Item = f64> {
        windows.iter().filter_map(|window| {
            let (inside, rest) = self.split(whole, window.clone());
            let found = psi(&rest, &inside).filter(|found| found.bins > 1)?;
            Some(found.statistic / found.degrees())
        })
    }
}

/// What noise is learned from.
#[derive(Clone, Debug)]
pub(super) struct Days {
    /// By feature.
    pub(super) columns: Vec<Daily>,
    /// By cluster; without bins when there are none.
    pub(super) clusters: Daily,
    /// By bin of the target's fine histogram.
    pub(super) target: Daily,
    /// Of the tickets' own predictions.
    pub(super) errors: DailyError,
}

/// Errors by day.
#[derive(Clone, Debug)]
pub(super) struct DailyError {
    first_day: i64,
    days: Vec<Absolute>,
}

/// Rows and sum of |error|.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Absolute {
    rows: u64,
    micros: i128,
}

impl Absolute {
    pub(super) fn mae(self) -> Option<f64> {
        (self.rows > 0).then(|| self.micros as f64 / self.rows as f64 / 1000.0)
    }
}

impl DailyError {
    pub(super) fn new(first_day: i64, days: i64) -> Self {
        Self { first_day, days: vec![Absolute::default(); usize::try_from(days).expect("an interval has a day")] }
    }

    pub(super) fn count(&mut self, day: i32, error: f64) {
        let of_day = &mut self.days[day_index(self.first_day, day)];
        of_day.rows += 1;
        of_day.micros += micros(error);
    }

    pub(super) fn total(&self) -> Absolute {
        self.over(0..self.days.len())
    }

    fn over(&self, days: Range<usize>) -> Absolute {
        let mut sum = Absolute::default();
        for day in &self.days[days] {
            sum.rows += day.rows;
            sum.micros += day.micros;
        }
        sum
    }

    /// Returns ln(MAE(W) / MAE(B − W)); `None` when either is 0 or unknown.
    fn log_ratio(&self, window: Range<usize>) -> Option<f64> {
        let (whole, inside) = (self.total(), self.over(window));
        let rest = Absolute { rows: whole.rows - inside.rows, micros: whole.micros - inside.micros };
        let ratio = inside.mae()? / rest.mae()?;
        (ratio > 0.0 && ratio.is_finite()).then(|| libm::log(ratio))
    }
}

/// Returns s of a model for each window length, in the order of `window_days`: the standard deviation of ln(MAE(W) / MAE(B − W))
/// over the windows W inside the interval B; `None` where it cannot be had.
///
/// Shapes: `errors` are (time of completion in ms since 1970, |error|); those outside the interval are left out.
pub(crate) fn log_mae_std((from_ms, to_ms): (i64, i64), window_days: &[u32], errors: impl Iterator<Item = (i64, f64)>) -> Vec<Option<f64>> {
    let first_day = from_ms.div_euclid(DAY_MS);
    let mut daily = DailyError::new(first_day, ((to_ms - 1).div_euclid(DAY_MS) - first_day + 1).max(1));
    for (at_ms, error) in errors.filter(|(at_ms, _)| (from_ms..to_ms).contains(at_ms)) {
        if let Ok(day) = i32::try_from(at_ms.div_euclid(DAY_MS)) {
            daily.count(day, error);
        }
    }
    let of = |days: &u32| {
        let ratios: Vec<f64> = windows_inside(from_ms, to_ms, *days).into_iter().filter_map(|window| daily.log_ratio(window)).collect();
        deviation(&ratios)
    };
    window_days.iter().map(of).collect()
}

fn day_index(first_day: i64, day: i32) -> usize {
    usize::try_from(i64::from(day) - first_day).expect("only tickets of the interval are counted")
}

/// Returns the noise of each window length: own where the interval has windows enough, else the predecessor's.
pub(super) fn noise(
    spec: &Spec,
    (from_ms, to_ms): (i64, i64),
    Days { columns, clusters, target, errors }: &Days,
    making: &Making,
) -> Vec<Noise> {
    let totals: Vec<Vec<u64>> = columns.iter().map(Daily::total).collect();
    let bins_of = |feature: usize| totals[feature].iter().filter(|count| **count > 0).count();
    let (whole_target, whole_clusters) = (target.total(), clusters.total());
    let mut all = Vec::new();
    for &days in making.window_days {
        let windows = u32::try_from((to_ms - from_ms) / DAY_MS).unwrap_or(u32::MAX) / days.max(1);
        let inherited = making.predecessor.and_then(|before| before.noise.iter().find(|noise| noise.days == days));
        if let Some(known) = inherited.filter(|known| windows < ENOUGH_WINDOWS && known.windows > windows) {
            all.push(known.clone());
            continue;
        }
        let ranges = windows_inside(from_ms, to_ms, days);
        let mut phi = BTreeMap::new();
        for (cause, members) in spec.causes() {
            // Of equals the first: `max_by_key` would take the last.
            let leading = members.iter().copied().rev().max_by_key(|feature| bins_of(*feature)).expect("a cause has a column");
            phi.insert(cause.to_owned(), design_effect(columns[leading].ratios(&totals[leading], &ranges)));
        }
        if clusters.bins > 0 {
            phi.insert(CLUSTERS.to_owned(), design_effect(clusters.ratios(&whole_clusters, &ranges)));
        }
        let squares = ranges.iter().filter_map(|window| {
            let (inside, rest) = target.split(&whole_target, window.clone());
            let found = ks(&rest, &inside)?;
            Some(found.effective_rows * found.distance * found.distance / KOLMOGOROV_MEAN_SQUARE)
        });
        phi.insert(TARGET.to_owned(), design_effect(squares));
        let log_ratios: Vec<f64> = ranges.iter().filter_map(|window| errors.log_ratio(window.clone())).collect();
        let log_mae_std = deviation(&log_ratios).map(|s| (RECORDED.to_owned(), s)).into_iter().collect();
        all.push(Noise { days, windows, phi, log_mae_std });
    }
    all.sort_by_key(|noise| noise.days);
    all
}

/// Returns the windows `[d − L, d)` inside the interval, d a day boundary, as ranges of days since its first.
fn windows_inside(from_ms: i64, to_ms: i64, days: u32) -> Vec<Range<usize>> {
    let first_day = from_ms.div_euclid(DAY_MS);
    let first_whole = (from_ms + DAY_MS - 1).div_euclid(DAY_MS);
    let end = to_ms.div_euclid(DAY_MS);
    let index = |day: i64| usize::try_from(day - first_day).expect("a window begins inside the interval");
    (first_whole..=end - i64::from(days)).map(|start| index(start)..index(start + i64::from(days))).collect()
}

/// Returns max(1, mean): quiet windows cannot differ less than independent tickets do.
fn design_effect(ratios: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0);
    for ratio in ratios {
        sum += ratio;
        n += 1.0;
    }
    if n > 0.0 { (sum / n).max(1.0) } else { 1.0 }
}

/// Returns the unbiased standard deviation; `None` of fewer than two values.
fn deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    Some((values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0)).sqrt())
}
