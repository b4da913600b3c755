//! What the errors of history are like: the statistics of `ml_backfill_history`.

use serde::Serialize;

use super::item::Item;
use super::item::Skip;
use crate::baseline::quantile::quantile;

/// Errors that are kept one by one, 8 bytes each; up to here percentiles are exact.
pub(super) const EXACT_ROWS: usize = 2_000_000;
/// Beyond, errors are counted in bins of which each is wider than the one before by this ratio, and a percentile is the middle of
/// its bin: off by less than 1 %.
const BIN_RATIO: f64 = 1.02;
/// Upper end of the first bin, in the target's unit.
const FIRST_BIN: f64 = 1e-3;
/// Bins: 1.02^2400 × 1e-3 is above 1e17, more than any error within the plausible range.
const BINS: usize = 2_400;
/// Extreme errors that are told one by one: as many as the documents of the predecessor held.
const EXTREMES: usize = 10;
/// An error above this many times the prediction is extreme: the contract's bound.
const EXTREME_RATIO: f64 = 3.0;

/// Completed tickets without an error, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Skipped {
    pub(super) no_actual: u64,
    pub(super) no_predicted: u64,
    pub(super) invalid: u64,
}

impl Skipped {
    pub(super) fn count(&mut self, why: Skip) {
        match why {
            Skip::NoActual => self.no_actual += 1,
            Skip::NoPredicted => self.no_predicted += 1,
            Skip::Invalid => self.invalid += 1,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.no_actual += other.no_actual;
        self.no_predicted += other.no_predicted;
        self.invalid += other.invalid;
    }

    fn total(&self) -> u64 {
        self.no_actual + self.no_predicted + self.invalid
    }
}

/// A ticket whose error is above 3 × its prediction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Extreme {
    /// The ticket's id.
    pub ticket_id: String,
    /// What was predicted, in the target's unit.
    pub predicted_ms: f64,
    /// What was right.
    pub actual_ms: f64,
    /// |predicted − actual|.
    pub error_ms: f64,
    /// |predicted − actual| / predicted.
    pub error_ratio: f64,
}

/// The statistics of the contract. Errors are absolute, in the target's unit; null where there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// Tickets with an error.
    pub processed: u64,
    /// Completed tickets without a usable answer.
    pub skipped_no_actual: u64,
    /// Completed tickets without a prediction above 0.
    pub skipped_no_predicted: u64,
    /// Completed tickets that cannot be used for another reason: no id, no readable completion time.
    pub skipped_invalid: u64,
    /// All of them together.
    pub total_tickets: u64,
    /// Mean.
    pub mean_error_ms: Option<f64>,
    /// Median.
    pub median_error_ms: Option<f64>,
    /// 50 %; the median again, under the predecessor's other name.
    pub p50_error_ms: Option<f64>,
    /// 95 %.
    pub p95_error_ms: Option<f64>,
    /// 99 %.
    pub p99_error_ms: Option<f64>,
    /// How exact the percentiles are: `exact`, or `relative error at most 1 %`.
    pub percentiles: &'static str,
    /// Tickets on which the model was trained: their errors say little. 0 for the tickets' own predictions.
    pub in_sample: u64,
    /// Errors above 3 × the prediction.
    pub extreme_errors_count: u64,
    /// The largest of them by ratio, 10 at most.
    pub extreme_errors: Vec<Extreme>,
}

/// Statistics in the making.
pub(super) struct Collecting {
    pub(super) skipped: Skipped,
    exact: Vec<f64>,
    exact_rows: usize,
    bins: Vec<u64>,
    processed: u64,
    sum: f64,
    largest: f64,
    in_sample: u64,
    extremes: Vec<Extreme>,
    extreme_count: u64,
}

impl Collecting {
    pub(super) fn new() -> Self {
        Self::keeping(EXACT_ROWS)
    }

    /// Keeps that many errors one by one.
    pub(super) fn keeping(exact_rows: usize) -> Self {
        Self {
            skipped: Skipped::default(),
            exact: Vec::new(),
            exact_rows,
            bins: Vec::new(),
            processed: 0,
            sum: 0.0,
            largest: 0.0,
            in_sample: 0,
            extremes: Vec::new(),
            extreme_count: 0,
        }
    }

    pub(super) fn add(&mut self, item: &Item) {
        let error = (item.predicted - item.actual).abs();
        self.processed += 1;
        self.sum += error;
        self.largest = self.largest.max(error);
        self.in_sample += u64::from(item.in_sample == Some(true));
        if self.bins.is_empty() && self.exact.len() < self.exact_rows {
            self.exact.push(error);
        } else {
            if self.bins.is_empty() {
                self.bins = vec![0; BINS];
                std::mem::take(&mut self.exact).into_iter().for_each(|error| self.bins[bin(error)] += 1);
            }
            self.bins[bin(error)] += 1;
        }
        let ratio = error / item.predicted;
        if ratio > EXTREME_RATIO {
            self.extreme_count += 1;
            self.extreme(item, error, ratio);
        }
    }

    fn extreme(&mut self, item: &Item, error_ms: f64, error_ratio: f64) {
        let at = self.extremes.partition_point(|known| known.error_ratio >= error_ratio);
        if at >= EXTREMES {
            return;
        }
        let ticket_id = item.id.to_string();
        self.extremes.insert(at, Extreme { ticket_id, predicted_ms: item.predicted, actual_ms: item.actual, error_ms, error_ratio });
        self.extremes.truncate(EXTREMES);
    }

    pub(super) fn end(mut self) -> Stats {
        self.exact.sort_unstable_by(f64::total_cmp);
        let at = |q: f64| (self.processed > 0).then(|| if self.bins.is_empty() { quantile(&self.exact, q) } else { self.binned(q) });
        Stats {
            processed: self.processed,
            skipped_no_actual: self.skipped.no_actual,
            skipped_no_predicted: self.skipped.no_predicted,
            skipped_invalid: self.skipped.invalid,
            total_tickets: self.processed + self.skipped.total(),
            mean_error_ms: (self.processed > 0).then(|| self.sum / self.processed as f64),
            median_error_ms: at(0.5),
            p50_error_ms: at(0.5),
            p95_error_ms: at(0.95),
            p99_error_ms: at(0.99),
            percentiles: if self.bins.is_empty() { "exact" } else { "relative error at most 1 %" },
            in_sample: self.in_sample,
            extreme_errors_count: self.extreme_count,
            extreme_errors: self.extremes,
        }
    }

    /// The middle, by ratio, of the bin that holds the `q` quantile's rank; below the first bin's end, 0.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank below the number of rows")]
    fn binned(&self, q: f64) -> f64 {
        let rank = ((self.processed - 1) as f64 * q).round() as u64;
        let mut passed = 0;
        for (bin, count) in self.bins.iter().enumerate() {
            passed += count;
            if passed > rank {
                return if bin == 0 { 0.0 } else { (FIRST_BIN * BIN_RATIO.powf(bin as f64 - 0.5)).min(self.largest) };
            }
        }
        self.largest
    }
}

/// Bin 0 holds errors below [`FIRST_BIN`]; bin k those in `[FIRST_BIN · BIN_RATIO^(k−1), FIRST_BIN · BIN_RATIO^k)`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "held within the number of bins")]
fn bin(error: f64) -> usize {
    if error < FIRST_BIN {
        return 0;
    }
    let place = libm::log(error / FIRST_BIN) / libm::log(BIN_RATIO);
    (place.floor() as usize + 1).min(BINS - 1)
}
