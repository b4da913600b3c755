//! The rows of a training: every completed ticket of a span, in order of completion, as one polars frame.

use std::ops::Range;
use std::sync::Arc;

use ndarray::Array2;
use polars::prelude::{DataFrame, SortMultipleOptions};

use crate::features::{Encoder, Row, stored};
use crate::model::duration::write_inputs;
use crate::ticket::Ticket;
use crate::window::{ACTUAL, COMPLETED_AT, Outcome, PREDICTED, Rows};

/// Collects the rows of a [`Frame`].
#[derive(Debug)]
pub struct Collecting {
    encoder: Arc<Encoder>,
    rows: Rows,
    others: Vec<(i64, Row)>,
    row: Row,
}

/// The rows.
#[derive(Clone, Debug)]
pub struct Frame {
    encoder: Arc<Encoder>,
    data: DataFrame,
    completed_at_ms: Vec<i64>,
    actual: Vec<f64>,
    predicted: Vec<Option<f64>>,
    /// Tickets with a target that did not complete: when, and their fields.
    others: Vec<(i64, Row)>,
}

impl Collecting {
    /// Begins.
    #[must_use]
    pub fn new(encoder: Arc<Encoder>) -> Self {
        Self { encoder, rows: Rows::default(), others: Vec::new(), row: Row::default() }
    }

    /// Takes a completed ticket.
    pub fn push(&mut self, ticket: &Ticket) {
        self.encoder.encode(&ticket.fields, &mut self.row);
        let (completed_at_ms, actual, predicted) = (ticket.completed_at_ms, ticket.actual, ticket.predicted);
        let outcome = Outcome { completed_at_ms, actual, predicted, predicted_by: crate::window::predicted_by(ticket), late: false };
        self.rows.push(&self.encoder, &self.row, outcome, 0);
    }

    /// Takes a ticket that has a target and did not complete: success rates are learned from it.
    pub fn push_other(&mut self, ticket: &Ticket) {
        let mut row = Row::default();
        self.encoder.encode(&ticket.fields, &mut row);
        self.others.push((ticket.completed_at_ms, row));
    }

    /// Returns the frame, in order of completion.
    #[must_use]
    pub fn frame(mut self) -> Frame {
        let data = self.rows.frame(&self.encoder).cloned().unwrap_or_default();
        let mut data = if data.height() > 0 {
            let stable = SortMultipleOptions::default().with_maintain_order(true);
            data.sort([COMPLETED_AT], stable).expect("the frame has the column it was made with")
        } else {
            data
        };
        data.rechunk_mut();
        let completed_at_ms = column(&data, COMPLETED_AT, |c| c.i64().expect("made as i64").iter().map(|v| v.unwrap_or(0)).collect());
        let actual = column(&data, ACTUAL, |c| c.f64().expect("made as f64").iter().map(|v| v.unwrap_or(0.0)).collect());
        let predicted = column(&data, PREDICTED, |c| c.f64().expect("made as f64").iter().collect());
        self.others.sort_by_key(|(at, _)| *at);
        Frame { encoder: self.encoder, data, completed_at_ms, actual, predicted, others: self.others }
    }
}

fn column<T>(data: &DataFrame, name: &str, read: impl FnOnce(&polars::prelude::Column) -> Vec<T>) -> Vec<T> {
    data.column(name).map_or_else(|_| Vec::new(), read)
}

impl Frame {
    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.completed_at_ms.len()
    }

    /// Returns the rows that completed in `[from_ms, to_ms)`.
    #[must_use]
    pub fn between(&self, from_ms: i64, to_ms: i64) -> Range<usize> {
        let at = |ms: i64| self.completed_at_ms.partition_point(|at| *at < ms);
        at(from_ms)..at(to_ms.max(from_ms))
    }

    /// Returns the times of completion, ms since 1970, in order, `[rows]`.
    #[must_use]
    pub fn completed_at_ms(&self) -> &[i64] {
        &self.completed_at_ms
    }

    /// Returns the right answers, in the target's unit, `[rows]`.
    #[must_use]
    pub fn actual(&self) -> &[f64] {
        &self.actual
    }

    /// Returns the tickets' own predictions, `[rows]`.
    #[must_use]
    pub fn predicted(&self) -> &[Option<f64>] {
        &self.predicted
    }

    /// Returns the encoder of its rows.
    #[must_use]
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Hands the fields of some rows to `each`, in order.
    pub fn each(&self, rows: Range<usize>, mut each: impl FnMut(usize, &Row)) {
        let (codes, numbers) = (self.encoder.code_fields().len(), self.encoder.number_fields().len());
        let mut row = Row { codes: vec![0; codes], numbers: vec![0.0; numbers] };
        const TYPED: &str = "the frame was made here, and its columns keep their types";
        let columns = self.data.columns();
        let code_columns: Vec<_> = columns.iter().take(codes).map(|column| column.u8().expect(TYPED)).collect();
        let number_columns: Vec<_> = columns.iter().skip(codes).take(numbers).map(|column| column.f64().expect(TYPED)).collect();
        for at in rows {
            for (code, column) in row.codes.iter_mut().zip(&code_columns) {
                *code = column.get(at).unwrap_or(crate::features::MISSING_CODE);
            }
            for (value, column) in row.numbers.iter_mut().zip(&number_columns) {
                *value = stored(column.get(at));
            }
            each(at, &row);
        }
    }

    /// Hands the fields of the tickets that did not complete, with a time in `[from_ms, to_ms)`, to `each`.
    pub fn each_other(&self, from_ms: i64, to_ms: i64, mut each: impl FnMut(&Row)) {
        let at = |ms: i64| self.others.partition_point(|(at, _)| *at < ms);
        for (_, row) in &self.others[at(from_ms)..at(to_ms.max(from_ms))] {
            each(row);
        }
    }

    /// Returns a model's inputs for some rows, `[rows, features]`.
    #[must_use]
    pub fn inputs(&self, rows: Range<usize>, learned: &[Vec<f64>]) -> Array2<f32> {
        let (height, width) = (rows.len(), learned.len());
        let mut flat = Vec::with_capacity(height * width);
        let mut inputs = Vec::with_capacity(width);
        self.each(rows, |_, row| {
            write_inputs(&self.encoder, row, learned, &mut inputs);
            flat.extend_from_slice(&inputs);
        });
        Array2::from_shape_vec((height, width), flat).expect("a value for each row and feature")
    }
}

