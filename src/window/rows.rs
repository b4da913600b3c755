//! The rows of one slice: buffered as they come, then one polars frame of typed columns.

use polars::prelude::{
    BooleanChunked, Column, DataFrame, Float64Chunked, Int64Chunked, IntoColumn, NewChunkedArray, UInt8Chunked, UInt32Chunked,
};

use super::counting::Outcome;
use crate::features::{Encoder, Row, number, stored};

/// Rows that are buffered before they are turned into columns: polars pays per call, not per row.
const BATCH_ROWS: usize = 1_024;

/// Column of the completion time, ms since 1970.
pub const COMPLETED_AT: &str = "completed_at";
/// Column of the right answer.
pub const ACTUAL: &str = "actual";
/// Column of the ticket's own prediction.
pub const PREDICTED: &str = "predicted";
/// Column that tells whether the ticket came after its slice's mark.
pub const LATE: &str = "late";
/// Column of the version of the model that made the ticket's own prediction; 0 where it does not say.
pub const PREDICTED_BY: &str = "predicted_by";
/// Before the name of a field.
pub const FIELD: &str = "field.";

/// The rows of one slice, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    frame: Option<DataFrame>,
    codes: Vec<u8>,
    numbers: Vec<f64>,
    others: Vec<Other>,
}

#[derive(Clone, Copy, Debug)]
struct Other {
    completed_at_ms: i64,
    actual: f64,
    predicted: f64,
    predicted_by: u32,
    late: bool,
}

impl Rows {
    pub(crate) fn push(&mut self, encoder: &Encoder, row: &Row, outcome: Outcome) {
        self.codes.extend_from_slice(&row.codes);
        self.numbers.extend_from_slice(&row.numbers);
        let Outcome { completed_at_ms, actual, predicted, predicted_by, late } = outcome;
        self.others.push(Other { completed_at_ms, actual, predicted: stored(predicted), predicted_by, late });
        if self.others.len() >= BATCH_ROWS {
            self.freeze(encoder);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.frame.as_ref().map_or(0, DataFrame::height) + self.others.len()
    }

    /// Hands every row to `each`, the oldest first.
    pub(crate) fn each(&self, encoder: &Encoder, mut each: impl FnMut(&Row, Outcome)) {
        let (codes, numbers) = (encoder.code_fields().len(), encoder.number_fields().len());
        let mut row = Row { codes: vec![0; codes], numbers: vec![0.0; numbers] };
        if let Some(frame) = &self.frame {
            let mut columns = Columns::of(frame, codes, numbers);
            while let Some(outcome) = columns.next(&mut row) {
                each(&row, outcome);
            }
        }
        for (at, other) in self.others.iter().enumerate() {
            row.codes.copy_from_slice(&self.codes[at * codes..(at + 1) * codes]);
            row.numbers.copy_from_slice(&self.numbers[at * numbers..(at + 1) * numbers]);
            let Other { completed_at_ms, actual, predicted, predicted_by, late, .. } = *other;
            each(&row, Outcome { completed_at_ms, actual, predicted: number(predicted), predicted_by, late });
        }
    }

    /// Returns all rows as one frame.
    pub(crate) fn frame(&mut self, encoder: &Encoder) -> Option<&DataFrame> {
        if !self.others.is_empty() {
            self.freeze(encoder);
        }
        self.frame.as_ref()
    }

    fn freeze(&mut self, encoder: &Encoder) {
        let rows = self.others.len();
        let (codes, numbers) = (encoder.code_fields().len(), encoder.number_fields().len());
        let mut columns: Vec<Column> = Vec::with_capacity(codes + numbers + 5);
        for (at, name) in encoder.code_fields().enumerate() {
            let values: Vec<u8> = self.codes[at..].iter().step_by(codes).copied().collect();
            columns.push(UInt8Chunked::from_vec(format!("{FIELD}{name}").into(), values).into_column());
        }
        for (at, name) in encoder.number_fields().enumerate() {
            let values = self.numbers[at..].iter().step_by(numbers).map(|stored| number(*stored));
            columns.push(Float64Chunked::from_iter_options(format!("{FIELD}{name}").into(), values).into_column());
        }
        let others = &self.others;
        let completed: Vec<i64> = others.iter().map(|other| other.completed_at_ms).collect();
        columns.push(Int64Chunked::from_vec(COMPLETED_AT.into(), completed).into_column());
        let actual: Vec<f64> = others.iter().map(|other| other.actual).collect();
        columns.push(Float64Chunked::from_vec(ACTUAL.into(), actual).into_column());
        let predicted = others.iter().map(|other| number(other.predicted));
        columns.push(Float64Chunked::from_iter_options(PREDICTED.into(), predicted).into_column());
        let by: Vec<u32> = others.iter().map(|other| other.predicted_by).collect();
        columns.push(UInt32Chunked::from_vec(PREDICTED_BY.into(), by).into_column());
        columns.push(BooleanChunked::from_iter_values(LATE.into(), others.iter().map(|other| other.late)).into_column());
        let more = DataFrame::new(rows, columns).expect("every column has one value a row, and a name of its own");
        match &mut self.frame {
            None => self.frame = Some(more),
            Some(frame) => {
                frame.vstack_mut_owned(more).expect("both frames were made here, from one spec");
            }
        }
        // Most slices get no further row: what they kept room for would be as large as the rows themselves.
        (self.codes, self.numbers, self.others) = Default::default();
    }
}

type Values<'a, T> = Box<dyn Iterator<Item = Option<T>> + 'a>;

/// A frame, read row by row.
struct Columns<'a> {
    codes: Vec<Values<'a, u8>>,
    numbers: Vec<Values<'a, f64>>,
    completed: Values<'a, i64>,
    actual: Values<'a, f64>,
    predicted: Values<'a, f64>,
    predicted_by: Values<'a, u32>,
    late: Values<'a, bool>,
}

impl<'a> Columns<'a> {
    fn of(frame: &'a DataFrame, codes: usize, numbers: usize) -> Self {
        const TYPED: &str = "the frame was made here, and its columns keep their types";
        let columns = frame.columns();
        let number = |at: usize| -> Values<'a, f64> { Box::new(columns[at].f64().expect(TYPED).iter()) };
        let other = codes + numbers;
        Self {
            codes: (0..codes).map(|at| -> Values<'a, u8> { Box::new(columns[at].u8().expect(TYPED).iter()) }).collect(),
            numbers: (codes..other).map(number).collect(),
            completed: Box::new(columns[other].i64().expect(TYPED).iter()),
            actual: number(other + 1),
            predicted: number(other + 2),
            predicted_by: Box::new(columns[other + 3].u32().expect(TYPED).iter()),
            late: Box::new(columns[other + 4].bool().expect(TYPED).iter()),
        }
    }

    fn next(&mut self, row: &mut Row) -> Option<Outcome> {
        const WHOLE: &str = "every column is as high as its frame and never null";
        let completed_at_ms = self.completed.next()?.expect(WHOLE);
        for (code, values) in row.codes.iter_mut().zip(&mut self.codes) {
            *code = values.next().flatten().expect(WHOLE);
        }
        for (number, values) in row.numbers.iter_mut().zip(&mut self.numbers) {
            *number = stored(values.next().expect(WHOLE));
        }
        Some(Outcome {
            completed_at_ms,
            actual: self.actual.next().flatten().expect(WHOLE),
            predicted: self.predicted.next().expect(WHOLE),
            predicted_by: self.predicted_by.next().flatten().expect(WHOLE),
            late: self.late.next().flatten().expect(WHOLE),
        })
    }
}
