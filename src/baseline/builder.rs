//! Makes a baseline of an interval's tickets.
//!
//! Tickets are kept as compact columns (a byte a text, eight a number; 75 bytes a ticket of the execution tickets),
//! because bins are known only when the last ticket is in.

mod clustering;

use crate::clock::DAY_MS;
use crate::features::{Encoder, EncoderError, Place, Row, number, stored};
use crate::spec::{self, Spec};
use crate::summary::ErrorSums;
use crate::ticket::Ticket;

use super::learned::learned;
use super::noise::{Daily, DailyError, Days, noise};
use super::quantile::{edges, quantile, sample};
use super::{Anchor, Baseline, Bins, Cell, Column, ErrorBaseline, LOG_OFFSET, RECORDED, TargetColumn};

/// Usable tickets that a baseline needs.
pub const MIN_ROWS: usize = 100;
/// Distinct values up to which a number has a bin a value.
const MAX_VALUES: usize = 20;
/// Bins of a number with more.
const NUMBER_BINS: u32 = 10;
/// Bins of the target's histogram.
const TARGET_BINS: u32 = 1024;
/// Values that are kept of a column.
const SAMPLE: usize = 1_000;
/// Largest baseline as JSON: it must fit a Kafka record of the default size with room for its headers.
pub const MAX_BYTES: usize = 1_000_000;
/// Codes of a text field.
pub(crate) const CODES: usize = 256;

/// Why no baseline can be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    /// The spec's features cannot be computed.
    #[error("cannot compute the spec's features: {0}")]
    Spec(#[from] EncoderError),
    /// The interval is empty or upside down.
    #[error("the interval must end after it begins, by at least one day: it has {days:.2} days")]
    Interval {
        /// Its length.
        days: f64,
    },
    /// No ticket in the interval.
    #[error(
        "no completed ticket in the interval ({others} not completed): check the interval (UTC, the end exclusive) and the spec's status values"
    )]
    Empty {
        /// Tickets with a target that did not complete.
        others: u64,
    },
    /// Too few.
    #[error("{rows} usable tickets are too few for a baseline: at least {MIN_ROWS} are needed; widen the interval")]
    TooFew {
        /// Usable tickets.
        rows: usize,
    },
    /// The target never changes.
    #[error("{target} is {value} for all {rows} tickets: a baseline needs a target that varies; check the spec's target paths")]
    ConstantTarget {
        /// Name of the target.
        target: String,
        /// Its one value.
        value: f64,
        /// Usable tickets.
        rows: usize,
    },
    /// No feature has a value.
    #[error("no feature has a single finite value in {rows} tickets: check the spec's field paths")]
    NoFiniteColumn {
        /// Usable tickets.
        rows: usize,
    },
    /// Too large for a record.
    #[error("the baseline has {bytes} bytes as JSON and at most {MAX_BYTES} fit a record: shorten the tables of the spec")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// What a baseline is called, and what it follows.
#[derive(Clone, Copy, Debug)]
pub struct Making<'a> {
    /// Version, from 1.
    pub version: u64,
    /// The present, ms since 1970.
    pub created_at_ms: i64,
    /// Window lengths in days whose noise is learned.
    pub window_days: &'a [u32],
    /// The version before: its noise serves where this interval is too short to have its own.
    pub predecessor: Option<&'a Baseline>,
}

/// Collects an interval's tickets.
#[derive(Debug)]
pub struct Builder {
    spec: Spec,
    encoder: Encoder,
    from_ms: i64,
    to_ms: i64,
    row: Row,
    /// By text field, then by ticket.
    codes: Vec<Vec<u8>>,
    /// By other field, then by ticket.
    numbers: Vec<Vec<f64>>,
    actual: Vec<f64>,
    /// Stored as numbers are: may be missing.
    predicted: Vec<f64>,
    /// Day since 1970.
    day: Vec<i32>,
    /// Tickets with a target that did not complete, by text field and code.
    others: Vec<[u64; CODES]>,
    other_rows: u64,
}

impl Builder {
    /// Begins a baseline of tickets that complete in `[from_ms, to_ms)`.
    ///
    /// # Errors
    /// [`Refused::Spec`], [`Refused::Interval`].
    pub fn new(spec: &Spec, from_ms: i64, to_ms: i64) -> Result<Self, Refused> {
        let encoder = Encoder::new(spec)?;
        if to_ms - from_ms < DAY_MS {
            return Err(Refused::Interval { days: (to_ms - from_ms) as f64 / DAY_MS as f64 });
        }
        let (texts, others) = (encoder.code_fields().len(), encoder.number_fields().len());
        Ok(Self {
            spec: spec.clone(),
            from_ms,
            to_ms,
            row: Row::default(),
            codes: vec![Vec::new(); texts],
            numbers: vec![Vec::new(); others],
            actual: Vec::new(),
            predicted: Vec::new(),
            day: Vec::new(),
            others: vec![[0; CODES]; texts],
            other_rows: 0,
            encoder,
        })
    }

    /// Returns the completed tickets so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.actual.len()
    }

    /// Takes a completed ticket; one that completed outside the interval is left out.
    pub fn push(&mut self, ticket: &Ticket) {
        let mut row = std::mem::take(&mut self.row);
        self.encoder.encode(&ticket.fields, &mut row);
        self.push_row(&row, ticket.completed_at_ms, ticket.actual, ticket.predicted);
        self.row = row;
    }

    /// Takes a completed ticket's row, likewise.
    pub(crate) fn push_row(&mut self, row: &Row, completed_at_ms: i64, actual: f64, predicted: Option<f64>) {
        if !self.covers(completed_at_ms) {
            return;
        }
        let Ok(day) = i32::try_from(completed_at_ms.div_euclid(DAY_MS)) else { return };
        for (column, code) in self.codes.iter_mut().zip(&row.codes) {
            column.push(*code);
        }
        for (column, number) in self.numbers.iter_mut().zip(&row.numbers) {
            column.push(*number);
        }
        self.actual.push(actual);
        self.predicted.push(stored(predicted));
        self.day.push(day);
    }

    /// Takes a ticket that has a target but did not complete: success rates are learned from it, nothing else.
    pub fn push_other(&mut self, ticket: &Ticket) {
        if !self.covers(ticket.completed_at_ms) {
            return;
        }
        let mut row = std::mem::take(&mut self.row);
        self.encoder.encode(&ticket.fields, &mut row);
        self.push_other_row(&row);
        self.row = row;
    }

    /// Takes the row of such a ticket, which is of the interval.
    pub(crate) fn push_other_row(&mut self, row: &Row) {
        for (counts, code) in self.others.iter_mut().zip(&row.codes) {
            counts[usize::from(*code)] += 1;
        }
        self.other_rows += 1;
    }

    fn covers(&self, completed_at_ms: i64) -> bool {
        (self.from_ms..self.to_ms).contains(&completed_at_ms)
    }

    /// Makes the baseline.
    ///
    /// # Errors
    /// [`Refused`] says why it would be of no use.
    pub fn build(&self, making: &Making) -> Result<Baseline, Refused> {
        let rows = self.rows();
        if rows == 0 {
            return Err(Refused::Empty { others: self.other_rows });
        }
        if rows < MIN_ROWS {
            return Err(Refused::TooFew { rows });
        }
        let mut sorted = self.actual.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        if sorted[0].total_cmp(&sorted[rows - 1]).is_eq() {
            return Err(Refused::ConstantTarget { target: self.spec.target.name.clone(), value: sorted[0], rows });
        }
        let built: Vec<Built> = (0..self.spec.features.len()).map(|feature| self.column(feature)).collect();
        if built.iter().all(|column| column.finite == 0) {
            return Err(Refused::NoFiniteColumn { rows });
        }
        let (target, target_daily) = self.target(&sorted);
        let (errors, log_offset, error_daily) = self.errors();
        let (clusters, cluster_daily) = self.clusters(&built);
        let (columns, column_daily): (Vec<Column>, Vec<Daily>) = built.into_iter().map(|b| (b.column, b.daily)).unzip();
        let days = Days { columns: column_daily, clusters: cluster_daily, target: target_daily, errors: error_daily };
        let baseline = Baseline {
            spec: self.spec.name.clone(),
            fingerprint: self.spec.fingerprint(),
            model: self.spec.model.clone(),
            version: making.version,
            created_at_ms: making.created_at_ms,
            from_ms: self.from_ms,
            to_ms: self.to_ms,
            rows: rows as u64,
            noise: noise(&self.spec, (self.from_ms, self.to_ms), &days, making),
            columns,
            target,
            clusters: Some(clusters),
            anchor: making.predecessor.and_then(|before| Anchor::after(before, &self.spec)),
            errors: errors.map(|errors| (RECORDED.to_owned(), errors)).into_iter().collect(),
            log_offset,
            scored_by: None,
            answers: None,
            provisional: false,
        };
        let bytes = serde_json::to_vec(&baseline).expect("a baseline has only texts, numbers and lists").len();
        if bytes > MAX_BYTES {
            return Err(Refused::TooLarge { bytes });
        }
        Ok(baseline)
    }

    fn first_day(&self) -> i64 {
        self.from_ms.div_euclid(DAY_MS)
    }

    fn daily(&self, bins: usize) -> Daily {
        Daily::new(self.first_day(), (self.to_ms - 1).div_euclid(DAY_MS) - self.first_day() + 1, bins)
    }

    fn column(&self, feature: usize) -> Built {
        let learned = self.learned(feature);
        let (bins, finite) = self.bins(feature, &learned);
        let mut daily = self.daily(bins.len() + 3);
        match self.encoder.place(feature) {
            Place::Code(at) => {
                let bin_of: Vec<usize> = (0..=u8::MAX).map(|code| bins.bin(self.encoder.code_cell(feature, code, &learned))).collect();
                for (code, day) in self.codes[at].iter().zip(&self.day) {
                    daily.count(*day, bin_of[usize::from(*code)]);
                }
            }
            Place::Number(at) => {
                for (value, day) in self.numbers[at].iter().zip(&self.day) {
                    daily.count(*day, bins.bin(self.encoder.number_cell(feature, number(*value))));
                }
            }
        }
        let moments = Moments::of(&finite);
        let column = Column {
            name: self.spec.features[feature].name.clone(),
            bins,
            counts: daily.total(),
            learned,
            mean: moments.mean,
            std: moments.std,
            min: finite.first().copied().unwrap_or_default(),
            max: finite.last().copied().unwrap_or_default(),
            sample: sample(&finite, SAMPLE),
        };
        Built { column, daily, finite: finite.len() }
    }

    /// Returns the bins of a feature, and its finite values in order of size.
    fn bins(&self, feature: usize, learned: &[f64]) -> (Bins, Vec<f64>) {
        let mut finite: Vec<f64> = match self.encoder.place(feature) {
            Place::Code(at) => {
                let value_of: Vec<Option<f64>> = (0..=u8::MAX).map(|code| finite(self.encoder.code_cell(feature, code, learned))).collect();
                self.codes[at].iter().filter_map(|code| value_of[usize::from(*code)]).collect()
            }
            Place::Number(at) => self.numbers[at].iter().filter_map(|v| finite(self.encoder.number_cell(feature, number(*v)))).collect(),
        };
        finite.sort_unstable_by(f64::total_cmp);
        let spec = &self.spec.features[feature];
        let values = match spec.encoder {
            spec::Encoder::Hour => (0..24).map(f64::from).collect(),
            spec::Encoder::Table => distinct(spec.table.iter().map(|entry| entry.value + 0.0).collect()),
            _ => {
                let values = distinct_of_sorted(&finite);
                if values.len() > MAX_VALUES {
                    return (Bins::Edges(edges(&finite, NUMBER_BINS)), finite);
                }
                values
            }
        };
        (Bins::Values(values), finite)
    }

    /// Returns what a learned feature gives each row of its table; empty for the others.
    fn learned(&self, feature: usize) -> Vec<f64> {
        let Place::Code(at) = self.encoder.place(feature) else { return Vec::new() };
        learned(&self.spec, &self.encoder, feature, &self.codes[at], &self.actual, &self.others[at])
    }

    fn target(&self, sorted: &[f64]) -> (TargetColumn, Daily) {
        let edges = edges(sorted, TARGET_BINS);
        let mut daily = self.daily(edges.len() + 1);
        for (actual, day) in self.actual.iter().zip(&self.day) {
            daily.count(*day, edges.partition_point(|edge| *edge < *actual));
        }
        let moments = Moments::of(sorted);
        let target = TargetColumn {
            edges,
            counts: daily.total(),
            mean: moments.mean,
            std: moments.std,
            p50: quantile(sorted, 0.5),
            p95: quantile(sorted, 0.95),
            p99: quantile(sorted, 0.99),
            sample: sample(sorted, SAMPLE),
        };
        (target, daily)
    }

    /// Returns the errors of the tickets' own predictions (`None` when no ticket has one), c, and the daily sums.
    fn errors(&self) -> (Option<ErrorBaseline>, f64, DailyError) {
        let mut daily = DailyError::new(self.first_day(), (self.to_ms - 1).div_euclid(DAY_MS) - self.first_day() + 1);
        let absolute: Vec<f64> = (self.actual.iter().zip(&self.predicted).zip(&self.day))
            .filter_map(|((actual, predicted), day)| {
                let error = (number(*predicted)? - actual).abs();
                daily.count(*day, error);
                Some(error)
            })
            .collect();
        let Some(mae) = daily.total().mae() else { return (None, 0.0, daily) };
        let log_offset = LOG_OFFSET * mae;
        let mut sums = ErrorSums::default();
        for error in absolute {
            sums.push(error, log_offset);
        }
        let days = (self.to_ms - self.from_ms) as f64 / DAY_MS as f64;
        (Some(ErrorBaseline { mae, days, sums }), log_offset, daily)
    }
}

/// A column, and what noise is learned from.
struct Built {
    column: Column,
    daily: Daily,
    finite: usize,
}

fn finite(cell: Cell) -> Option<f64> {
    match cell {
        Cell::Number(number) if number.is_finite() => Some(number + 0.0),
        _ => None,
    }
}

fn distinct(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    distinct_of_sorted(&values)
}

fn distinct_of_sorted(sorted: &[f64]) -> Vec<f64> {
    let mut distinct = sorted.to_vec();
    distinct.dedup_by(|later, earlier| *later <= *earlier);
    distinct
}

/// Mean and population standard deviation; 0 of nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    pub(super) mean: f64,
    pub(super) std: f64,
}

impl Moments {
    pub(super) fn of(values: &[f64]) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        let n = values.len() as f64;
        let mean = sum(values.iter().copied()) / n;
        Self { mean, std: (sum(values.iter().map(|v| (v - mean) * (v - mean))) / n).sqrt() }
    }
}

/// Sums with a compensation, so that a million terms lose no digit that a golden test would see (Neumaier 1974).
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0_f64);
    for value in values {
        let next = sum + value;
        lost += if sum.abs() >= value.abs() { (sum - next) + value } else { (value - next) + sum };
        sum = next;
    }
    if lost.is_finite() { sum + lost } else { sum }
}

#[cfg(test)]
mod tests;
