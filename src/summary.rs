//! The record between watch and judge: what each slice counts to, as integers, so that adding and subtracting is exact.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::decimal::Decimal;
use crate::ticket::{Control, Mark};

/// Counts that a reader makes room for at most, in all slices of one record: empty cells are not written, so a short text can ask for
/// any number of them. A full record of hourly slices has some hundred thousand.
pub const MOST_CELLS: usize = 1 << 25;

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
    #[serde(deserialize_with = "sparse::read_slices")]
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
    /// Rows by feature and bin: the baseline's bins, then missing, non-finite, unseen. After the features, where the baseline has
    /// clusters, rows by cluster, near and far; then the columns of the first baseline whose bins are not this one's.
    #[serde(default, serialize_with = "sparse::write_rows::<_, u64, _>", deserialize_with = "sparse::read_rows::<_, u64, _>")]
    pub columns: Vec<Vec<u64>>,
    /// Sum of |error| in µs by feature and bin, for features with bins of categories (empty for the others), then by cluster.
    #[serde(default, serialize_with = "sparse::write_rows::<_, Decimal, _>", deserialize_with = "sparse::read_rows::<_, Decimal, _>")]
    pub error_by: Vec<Vec<i128>>,
    /// Sum of the squared distance from the nearest centroid by axis of the baseline's clusters, in 2^-16 squared deviations.
    #[serde(default, skip_serializing_if = "Vec::is_empty", serialize_with = "sparse::write_row", deserialize_with = "sparse::read_row")]
    pub spread: Vec<u64>,
    /// Rows by bin of the target's fine histogram.
    #[serde(default, serialize_with = "sparse::write_row", deserialize_with = "sparse::read_row")]
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
    /// Whether the sums of a window of slices like this one stay within their types. Every slice that was counted is far from that; what
    /// a stranger writes may be anything.
    fn can_be_added(&self) -> bool {
        let counts = self.columns.iter().flatten().chain(&self.target);
        let largest = counts.fold(self.rows | self.late | self.repeats, |all, count| all | count);
        let spread = self.spread.iter().fold(0, |all, sum| all | sum);
        let sums = self.series.values().flat_map(|sums| [sums.abs_us, sums.log, sums.log_sq]);
        let errors = self.error_by.iter().flatten().copied().chain(sums).fold(0, |all, sum| all | sum.unsigned_abs());
        let rows = self.series.values().fold(0, |all, sums| all | sums.rows);
        (largest | rows) >> 44 == 0 && spread >> 54 == 0 && errors >> 106 == 0
    }

    /// Adds another's counts; both must be counted over the same bins (or this one still be empty).
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.late += other.late;
        self.repeats += other.repeats;
        add_rows(&mut self.columns, &other.columns, |a, b| *a += b);
        add_rows(&mut self.error_by, &other.error_by, |a, b| *a += b);
        add_row(&mut self.spread, &other.spread, |a, b| *a += b);
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
        add_row(&mut self.spread, &other.spread, take);
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
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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
        Decimal::deserialize(deserializer).map(|decimal| decimal.0)
    }

    /// One number: parsed where it stands, without a text of its own.
    pub(super) struct Decimal(i128);

    impl From<i128> for Decimal {
        fn from(number: i128) -> Self {
            Self(number)
        }
    }

    impl From<Decimal> for i128 {
        fn from(decimal: Decimal) -> Self {
            decimal.0
        }
    }

    impl Serialize for Decimal {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&self.0)
        }
    }

    impl<'de> Deserialize<'de> for Decimal {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_str(Text)
        }
    }

    struct Text;

    impl de::Visitor<'_> for Text {
        type Value = Decimal;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an integer as a text")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Decimal, E> {
            text.parse().map(Decimal).map_err(E::custom)
        }
    }
}

/// Counts without what is 0, which in a slice is nearly all: how many bins there are, then the cells that are not empty.
mod sparse {
    use std::fmt;

    use serde::de::{Deserializer, Error, SeqAccess, Visitor};
    use serde::{Deserialize, Serialize, Serializer};

    use super::{MOST_CELLS, Slice};

    /// Bins of one row that a reader makes room for at most.
    const MOST: usize = 65_536;
    /// The same of all rows of one slice.
    const MOST_OF_ROWS: usize = 1 << 20;

    /// `bins` gives the shape, `cells` what is in it.
    #[derive(Serialize, Deserialize)]
    struct Sparse<B, C> {
        bins: B,
        cells: C,
    }

    /// An iterator, written as a list.
    struct List<I>(I);

    impl<I: Iterator<Item: Serialize> + Clone> Serialize for List<I> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(self.0.clone())
        }
    }

    pub(super) fn write_row<S: Serializer>(counts: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
        let filled = counts.iter().enumerate().filter(|(_, count)| **count != 0);
        Sparse { bins: counts.len(), cells: List(filled) }.serialize(serializer)
    }

    pub(super) fn read_row<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
        let Sparse { bins, cells } = Sparse::<usize, Vec<(usize, u64)>>::deserialize(deserializer)?;
        let mut counts = zeros(bins)?;
        for (bin, count) in cells {
            *cell(&mut counts, bin)? = count;
        }
        Ok(counts)
    }

    /// Writes a row a column, each number as a `W`.
    pub(super) fn write_rows<T, W, S>(rows: &[Vec<T>], serializer: S) -> Result<S::Ok, S::Error>
    where
        T: Copy + Default + PartialEq,
        W: From<T> + Serialize,
        S: Serializer,
    {
        let filled = rows.iter().enumerate().flat_map(|(column, row)| {
            let filled = row.iter().enumerate().filter(|(_, number)| **number != T::default());
            filled.map(move |(bin, number)| (column, bin, W::from(*number)))
        });
        Sparse { bins: List(rows.iter().map(Vec::len)), cells: List(filled) }.serialize(serializer)
    }

    pub(super) fn read_rows<'de, T, W, D>(deserializer: D) -> Result<Vec<Vec<T>>, D::Error>
    where
        T: Copy + Default,
        W: Into<T> + Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let Sparse { bins, cells } = Sparse::<Vec<usize>, Vec<(usize, usize, W)>>::deserialize(deserializer)?;
        within(bins.iter().fold(0, |sum: usize, &bins| sum.saturating_add(bins)), MOST_OF_ROWS)?;
        let mut rows = bins.into_iter().map(zeros).collect::<Result<Vec<Vec<T>>, _>>()?;
        for (column, bin, number) in cells {
            *cell(cell(&mut rows, column)?, bin)? = number.into();
        }
        Ok(rows)
    }

    fn zeros<T: Clone + Default, E: Error>(bins: usize) -> Result<Vec<T>, E> {
        within(bins, MOST)?;
        Ok(vec![T::default(); bins])
    }

    fn within<E: Error>(bins: usize, most: usize) -> Result<(), E> {
        if bins > most { Err(E::custom(format!("{bins} bins; {most} are the most"))) } else { Ok(()) }
    }

    /// Reads slices until they have too many cells.
    pub(super) fn read_slices<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Slice>, D::Error> {
        struct Slices;
        impl<'de> Visitor<'de> for Slices {
            type Value = Vec<Slice>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("slices")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Slice>, A::Error> {
                let (mut slices, mut cells) = (Vec::new(), 0);
                while let Some(slice) = seq.next_element::<Slice>()? {
                    if !slice.can_be_added() {
                        return Err(A::Error::custom(format!("slice {} has counts that no slice has", slice.start_ms)));
                    }
                    let columns: usize = slice.columns.iter().map(Vec::len).sum();
                    let errors: usize = slice.error_by.iter().map(Vec::len).sum();
                    cells += columns + errors + slice.spread.len() + slice.target.len();
                    within(cells, MOST_CELLS)?;
                    slices.push(slice);
                }
                Ok(slices)
            }
        }
        deserializer.deserialize_seq(Slices)
    }

    fn cell<T, E: Error>(cells: &mut [T], index: usize) -> Result<&mut T, E> {
        let length = cells.len();
        cells.get_mut(index).ok_or_else(|| E::custom(format!("cell {index} of {length}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(slice: &Slice) -> (String, Slice) {
        let text = serde_json::to_string(slice).unwrap();
        let back = serde_json::from_str(&text).unwrap();
        (text, back)
    }

    #[test]
    fn a_slice_is_as_large_as_its_filled_cells_and_comes_back_whole() {
        let mut target = vec![0; 1_025];
        (target[0], target[500], target[1_024]) = (3, 1, 2);
        let slice = Slice {
            columns: vec![vec![0, 0, 6], vec![], vec![1, 0]],
            error_by: vec![vec![i128::MIN, 0, -7], vec![], vec![i128::MAX]],
            target,
            ..Slice::default()
        };
        let (text, back) = there_and_back(&slice);
        assert_eq!(back, slice);
        assert!(text.contains(r#""columns":{"bins":[3,0,2],"cells":[[0,2,6],[2,0,1]]}"#), "{text}");
        assert!(
            text.contains(r#""error_by":{"bins":[3,0,1],"cells":[[0,0,"-170141183460469231731687303715884105728"],[0,2,"-7"],"#),
            "{text}"
        );
        assert!(text.contains(r#""target":{"bins":1025,"cells":[[0,3],[500,1],[1024,2]]}"#), "{text}");
        for row in [vec![], vec![0, 0]] {
            let slice = Slice { columns: vec![row.clone(); row.len()], target: row, ..Slice::default() };
            assert_eq!(there_and_back(&slice).1, slice, "empty, with its shape");
        }
    }

    #[test]
    fn what_no_slice_can_be_is_refused() {
        let refused = |what: &str| {
            let text = format!(r#"{{"start_ms":0,"rows":0,{what}}}"#);
            serde_json::from_str::<Slice>(&text).unwrap_err().to_string()
        };
        assert!(refused(r#""target":{"bins":2,"cells":[[2,1]]}"#).contains("cell 2 of 2"));
        assert!(refused(r#""target":{"bins":99999999999,"cells":[]}"#).contains("65536 are the most"));
        assert!(refused(r#""columns":{"bins":[1,99999],"cells":[]}"#).contains("65536 are the most"));
        assert!(refused(r#""columns":{"bins":[1],"cells":[[1,0,1]]}"#).contains("cell 1 of 1"));
        assert!(refused(r#""error_by":{"bins":[1],"cells":[[0,0,"1.5"]]}"#).contains("invalid digit"));
        refused(r#""target":{"bins":2,"cells":[[0,-1]]}"#);
        let many = vec!["65536"; 100].join(",");
        assert!(refused(&format!(r#""columns":{{"bins":[{many}],"cells":[]}}"#)).contains("6553600 bins; 1048576 are the most"));
    }

    #[test]
    fn counts_that_would_overflow_a_sum_are_no_summary() {
        let read = |slice: &str| {
            let mark = r#"{"number":1,"end_ms":1,"partitions":1,"baseline":1}"#;
            let text = format!(
                r#"{{"spec":"s","fingerprint":"f","version":1,"partition":0,"sequence":1,"controls":[],"mark":{mark},"slices":[{slice}]}}"#
            );
            serde_json::from_str::<Summary>(&text)
        };
        assert!(read(r#"{"start_ms":0,"rows":1000000000}"#).is_ok());
        let large = i128::MAX;
        for slice in [
            r#"{"start_ms":7,"rows":18446744073709551615}"#.to_owned(),
            r#"{"start_ms":7,"rows":1,"target":{"bins":1,"cells":[[0,18446744073709551615]]}}"#.to_owned(),
            r#"{"start_ms":7,"rows":1,"spread":{"bins":1,"cells":[[0,18446744073709551615]]}}"#.to_owned(),
            format!(r#"{{"start_ms":7,"rows":1,"error_by":{{"bins":[1],"cells":[[0,0,"{large}"]]}}}}"#),
            format!(r#"{{"start_ms":7,"rows":1,"series":{{"recorded":{{"rows":1,"abs_us":"{large}","log":"0","log_sq":"0"}}}}}}"#),
        ] {
            assert!(read(&slice).unwrap_err().to_string().contains("slice 7 has counts that no slice has"), "{slice}");
        }
    }

    #[test]
    fn a_short_record_does_not_make_room_for_gigabytes() {
        let slice = r#"{"start_ms":0,"rows":0,"target":{"bins":65536,"cells":[]}}"#;
        let text = |slices: usize| {
            format!(
                r#"{{"spec":"s","fingerprint":"f","version":1,"partition":0,"sequence":1,"controls":[],"mark":{{"number":1,"end_ms":1,"partitions":1,"baseline":1}},"slices":[{}]}}"#,
                vec![slice; slices].join(",")
            )
        };
        assert_eq!(serde_json::from_str::<Summary>(&text(2)).unwrap().slices.len(), 2);
        let error = serde_json::from_str::<Summary>(&text(20_000)).unwrap_err().to_string();
        assert!(error.contains("33619968 bins; 33554432 are the most"), "{error}");
    }
}
