//! The record between watch and judge: what each slice counts to, as integers, so that adding and subtracting is exact.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ticket::{Control, Mark};

/// One record of `summaries`: what one partition knew at one mark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the spec.
    pub spec: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Version of the baseline whose bins the counts use; `None` without one: then slices have rows only.
    pub version: Option<u64>,
    /// Partition of `tickets`.
    pub partition: u32,
    /// Sequence of the mark's record in that partition's chain.
    pub sequence: u64,
    /// The mark.
    pub mark: Mark,
    /// Slices that changed since the last mark, whole (they replace what was said before), oldest first.
    pub slices: Vec<Slice>,
    /// Control records passed since the last mark, marks aside, in order.
    pub controls: Vec<Control>,
    /// True when the log no longer reaches back over the longest window: the counts are of what is left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// True when another record of the same partition and mark follows: a recount may be too large for one record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// The counts of one slice of event time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Start of the slice, ms since 1970, a multiple of the slice's length.
    pub start_ms: i64,
    /// Tickets in it.
    pub rows: u64,
    /// Of these, tickets that came after the slice's mark.
    #[serde(default)]
    pub late: u64,
    /// Tickets not used because id and completion were there before.
    #[serde(default)]
    pub repeats: u64,
    /// Rows by feature and bin: the baseline's bins, then missing, non-finite, unseen.
    #[serde(default)]
    pub columns: Vec<Vec<u64>>,
    /// Sum of |error| in µs by feature and bin, for features with bins of categories (empty for the others).
    #[serde(default, with = "decimals2")]
    pub error_by: Vec<Vec<i128>>,
    /// Rows by bin of the target's fine histogram.
    #[serde(default)]
    pub target: Vec<u64>,
    /// Error sums by series (`recorded`, or a rescored version).
    #[serde(default)]
    pub series: BTreeMap<String, ErrorSums>,
}

/// Sums of errors, as fixed point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorSums {
    /// Tickets with a prediction.
    pub rows: u64,
    /// Sum of |error| in thousandths of the target's unit (µs for ms).
    #[serde(with = "decimal")]
    pub abs_us: i128,
    /// Sum of ln(|error| + c) in 2^-48 steps; c is 1 % of the baseline's MAE.
    #[serde(with = "decimal")]
    pub log: i128,
    /// Sum of ln(|error| + c)² in 2^-48 steps.
    #[serde(with = "decimal")]
    pub log_sq: i128,
}

/// Errors above this are counted as this: a hostile prediction of 1e300 must not overflow a sum.
pub const MAX_ERROR: f64 = 1e15;

/// Steps of the fixed point of logarithms in one: 2^48. With 2^40 a p-value of 1e-224 would be off by 1.4e-9: errors
/// are whole minutes often enough that their roundings do not cancel.
pub const LOG_STEPS: f64 = 281_474_976_710_656.0;

impl ErrorSums {
    /// Adds one error. `abs` is |predicted − actual| in the target's unit, `c` the offset inside the logarithm.
    #[expect(clippy::cast_possible_truncation, reason = "f64 to i128 saturates, and plausible targets are far below")]
    pub fn push(&mut self, abs: f64, c: f64) {
        let log = libm::log((abs.min(MAX_ERROR) + c).max(f64::MIN_POSITIVE));
        self.rows += 1;
        self.abs_us += micros(abs);
        self.log += libm::round(log * LOG_STEPS) as i128;
        self.log_sq += libm::round(log * log * LOG_STEPS) as i128;
    }

    /// Adds another's sums.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.abs_us += other.abs_us;
        self.log += other.log;
        self.log_sq += other.log_sq;
    }

    /// Subtracts what was added before.
    pub fn subtract(&mut self, other: &Self) {
        self.rows = self.rows.checked_sub(other.rows).expect("only what was added is subtracted");
        self.abs_us -= other.abs_us;
        self.log -= other.log;
        self.log_sq -= other.log_sq;
    }
}

/// Returns |error| in thousandths of the target's unit, rounded half away from zero.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "f64 to i128 saturates, and plausible targets are far below")]
pub fn micros(abs: f64) -> i128 {
    libm::round(abs.min(MAX_ERROR) * 1000.0) as i128
}

impl Slice {
    /// Adds another's counts; both must be counted over the same bins (or this one still be empty).
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.late += other.late;
        self.repeats += other.repeats;
        add_rows(&mut self.columns, &other.columns, |a, b| *a += b);
        add_rows(&mut self.error_by, &other.error_by, |a, b| *a += b);
        add_row(&mut self.target, &other.target, |a, b| *a += b);
        for (name, sums) in &other.series {
            self.series.entry(name.clone()).or_default().add(sums);
        }
    }

    /// Subtracts what was added before.
    pub fn subtract(&mut self, other: &Self) {
        fn take(a: &mut u64, b: u64) {
            *a = a.checked_sub(b).expect("only what was added is subtracted");
        }
        take(&mut self.rows, other.rows);
        take(&mut self.late, other.late);
        take(&mut self.repeats, other.repeats);
        add_rows(&mut self.columns, &other.columns, take);
        add_rows(&mut self.error_by, &other.error_by, |a, b| *a -= b);
        add_row(&mut self.target, &other.target, take);
        for (name, sums) in &other.series {
            self.series.entry(name.clone()).or_default().subtract(sums);
        }
        self.series.retain(|_, sums| sums.rows > 0);
    }
}

fn add_rows<T: Copy + Default>(into: &mut Vec<Vec<T>>, from: &[Vec<T>], op: impl Fn(&mut T, T) + Copy) {
    if into.len() < from.len() {
        into.resize(from.len(), Vec::new());
    }
    for (a, b) in into.iter_mut().zip(from) {
        add_row(a, b, op);
    }
}

fn add_row<T: Copy + Default>(into: &mut Vec<T>, from: &[T], op: impl Fn(&mut T, T)) {
    if into.len() < from.len() {
        into.resize(from.len(), T::default());
    }
    for (a, b) in into.iter_mut().zip(from) {
        op(a, *b);
    }
}

/// i128 as a decimal text: JSON readers lose digits beyond 2^53.
pub mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    /// Writes the decimal text.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(number: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }
    /// Reads the decimal text.
    ///
    /// # Errors
    /// When it is no integer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        std::borrow::Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod decimals2 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    pub(super) fn serialize<S: Serializer>(rows: &[Vec<i128>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(rows.iter().map(|row| row.iter().map(ToString::to_string).collect::<Vec<_>>()))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<i128>>, D::Error> {
        let rows = Vec::<Vec<String>>::deserialize(deserializer)?;
        rows.iter().map(|row| row.iter().map(|n| n.parse().map_err(D::Error::custom)).collect()).collect()
    }
}
