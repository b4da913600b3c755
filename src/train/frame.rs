//! The rows of a training: every completed ticket of a span, in order of completion, as one polars frame.

use std::ops::Range;
use std::sync::Arc;

use ndarray::Array2;
use polars::prelude::{DataFrame, IntoColumn, SortMultipleOptions, UInt8Chunked};

use crate::features::{Encoder, Row, stored};
use crate::model::duration::write_inputs;
use crate::spec::Spec;
use crate::ticket::{FieldValue, Ticket};
use crate::window::{ACTUAL, COMPLETED_AT, Outcome, PREDICTED, Rows};

/// Column of the label, where the spec names one: 0 ordinary, 1 anomalous, 2 unlabelled.
const LABEL: &str = "label";

/// Collects the rows of a [`Frame`], the newest where they are too many.
#[derive(Debug)]
pub struct Collecting {
    encoder: Arc<Encoder>,
    rows: Rows,
    label: Option<Label>,
    labels: Vec<u8>,
    kept: Option<DataFrame>,
    limit_rows: usize,
    dropped: u64,
    others: Vec<(i64, Row)>,
    row: Row,
}

/// Which tickets are labelled as anomalous.
#[derive(Debug)]
struct Label {
    field: usize,
    anomalous: Vec<String>,
}

/// The rows.
#[derive(Clone, Debug)]
pub struct Frame {
    encoder: Arc<Encoder>,
    data: DataFrame,
    completed_at_ms: Vec<i64>,
    actual: Vec<f64>,
    predicted: Vec<Option<f64>>,
    /// Empty where the spec names no label.
    labels: Vec<Option<bool>>,
    dropped: u64,
    /// Tickets with a target that did not complete: when, and their fields.
    others: Vec<(i64, Row)>,
}

impl Collecting {
    /// Begins.
    #[must_use]
    pub fn new(encoder: Arc<Encoder>) -> Self {
        Self {
            encoder,
            rows: Rows::default(),
            label: None,
            labels: Vec::new(),
            kept: None,
            limit_rows: usize::MAX,
            dropped: 0,
            others: Vec::new(),
            row: Row::default(),
        }
    }

    /// Keeps the label that `spec` names, if it names one. Comes before the first ticket.
    #[must_use]
    pub fn with_label(mut self, spec: &Spec) -> Self {
        self.label = spec.anomaly.as_ref().and_then(|anomaly| {
            let field = spec.field(anomaly.label.as_ref()?)?;
            Some(Label { field, anomalous: anomaly.anomalous.clone() })
        });
        self
    }

    /// Keeps only the newest `rows` rows, so that memory holds at most twice as many.
    #[must_use]
    pub fn with_limit(mut self, rows: usize) -> Self {
        self.limit_rows = rows.max(1);
        self
    }

    /// Takes a completed ticket.
    pub fn push(&mut self, ticket: &Ticket) {
        self.encoder.encode(&ticket.fields, &mut self.row);
        let (completed_at_ms, actual, predicted) = (ticket.completed_at_ms, ticket.actual, ticket.predicted);
        let outcome = Outcome { completed_at_ms, actual, predicted, predicted_by: crate::window::predicted_by(ticket), late: false };
        self.rows.push(&self.encoder, &self.row, outcome);
        if let Some(label) = &self.label {
            self.labels.push(label.of(&ticket.fields[label.field]));
        }
        if self.rows.len() >= self.limit_rows {
            self.merge();
        }
    }

    /// Takes a ticket that has a target and did not complete: success rates are learned from it.
    pub fn push_other(&mut self, ticket: &Ticket) {
        let mut row = Row::default();
        self.encoder.encode(&ticket.fields, &mut row);
        self.others.push((ticket.completed_at_ms, row));
        if self.others.len() / 2 >= self.limit_rows {
            self.others.sort_by_key(|(at, _)| *at);
            let surplus = self.others.len() - self.limit_rows;
            self.others.drain(..surplus);
        }
    }

    /// Puts the newest rows to those that are kept, in order of completion.
    fn merge(&mut self) {
        let mut rows = std::mem::take(&mut self.rows);
        let Some(newest) = rows.frame(&self.encoder) else { return };
        let mut newest = newest.clone();
        if self.label.is_some() {
            let labels = UInt8Chunked::from_vec(LABEL.into(), std::mem::take(&mut self.labels));
            newest.with_column(labels.into_column()).expect("every row has its label");
        }
        let data = match self.kept.take() {
            None => newest,
            Some(mut kept) => {
                kept.vstack_mut(&newest).expect("all rows have the same columns");
                kept
            }
        };
        let stable = SortMultipleOptions::default().with_maintain_order(true);
        let data = data.sort([COMPLETED_AT], stable).expect("the frame has the column it was made with");
        let surplus = data.height().saturating_sub(self.limit_rows);
        self.dropped += surplus as u64;
        self.kept = Some(if surplus > 0 { data.tail(Some(self.limit_rows)) } else { data });
    }

    /// Returns the frame, in order of completion.
    #[must_use]
    pub fn frame(mut self) -> Frame {
        self.merge();
        let mut data = self.kept.take().unwrap_or_default();
        data.rechunk_mut();
        let completed_at_ms = column(&data, COMPLETED_AT, |c| c.i64().expect("made as i64").iter().map(|v| v.unwrap_or(0)).collect());
        let actual = column(&data, ACTUAL, |c| c.f64().expect("made as f64").iter().map(|v| v.unwrap_or(0.0)).collect());
        let predicted = column(&data, PREDICTED, |c| c.f64().expect("made as f64").iter().collect());
        let label = |value: Option<u8>| match value {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        };
        let labels = column(&data, LABEL, |c| c.u8().expect("made as u8").iter().map(label).collect());
        self.others.sort_by_key(|(at, _)| *at);
        Frame { encoder: self.encoder, data, completed_at_ms, actual, predicted, labels, dropped: self.dropped, others: self.others }
    }
}

impl Label {
    fn of(&self, value: &FieldValue) -> u8 {
        match value {
            FieldValue::Text(text) => u8::from(self.anomalous.iter().any(|anomalous| anomalous.eq_ignore_ascii_case(text))),
            FieldValue::Missing | FieldValue::Number(_) => 2,
        }
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

    /// Returns whether each ticket was labelled as anomalous, `[rows]`; empty where the spec names no label.
    #[must_use]
    pub fn labels(&self) -> &[Option<bool>] {
        &self.labels
    }

    /// Returns how many older rows were not kept.
    #[must_use]
    pub fn dropped_rows(&self) -> u64 {
        self.dropped
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::DAY_MS;
    use crate::ticket::{TicketId, Transition};

    /// When the first ticket completes.
    pub(crate) const FIRST_MS: i64 = 1_735_689_600_000;
    const STEP_MS: i64 = 600_000;

    pub(crate) fn spec() -> Spec {
        Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()
    }

    /// A number in [0, 1) that looks random and is always the same (splitmix64).
    pub(crate) fn drawn(ticket: usize) -> f64 {
        let mut x = (ticket as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x94d0_49bb_1331_11eb);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// What the `n`th ticket takes: by its type, and 10 % more or less.
    pub(crate) fn actual(n: usize) -> f64 {
        [30_000.0, 90_000.0, 200_000.0][n % 3] * (0.9 + 0.2 * drawn(n))
    }

    pub(crate) fn ticket(spec: &Spec, n: usize, actual: f64) -> Ticket {
        let mut fields = vec![FieldValue::Missing; spec.fields.len()];
        fields[spec.field("task_type").unwrap()] = FieldValue::Text(["BUILD", "TEST", "DEPLOY"][n % 3].into());
        fields[spec.field("risk_band").unwrap()] = FieldValue::Text(["high", "medium"][n % 2].into());
        fields[spec.field("capabilities").unwrap()] = FieldValue::Number((n % 4) as f64);
        let completed_at_ms = FIRST_MS + i64::try_from(n).unwrap() * STEP_MS;
        Ticket {
            id: TicketId::from_text(&format!("t{n}")),
            completed_at_ms,
            event_at_ms: completed_at_ms,
            commit: None,
            transition: Transition::History,
            actual,
            predicted: Some(actual * 1.5),
            model_version: None,
            fields,
        }
    }

    /// One ticket every ten minutes.
    pub(crate) fn frame(rows: usize, actual: impl Fn(usize) -> f64) -> Frame {
        let spec = spec();
        let mut collecting = Collecting::new(Arc::new(Encoder::new(&spec).unwrap()));
        (0..rows).for_each(|n| collecting.push(&ticket(&spec, n, actual(n))));
        collecting.frame()
    }

    #[test]
    fn only_the_newest_rows_are_kept_in_whatever_order_they_come() {
        let mut labelled = spec();
        labelled.anomaly =
            Some(crate::spec::Anomaly { model: "a".into(), label: Some("risk_band".into()), anomalous: vec!["HIGH".into()] });
        let mut collecting = Collecting::new(Arc::new(Encoder::new(&labelled).unwrap())).with_label(&labelled).with_limit(100);
        for n in (0..1_000).map(|n| n * 617 % 1_000) {
            collecting.push(&ticket(&labelled, n, actual(n)));
            collecting.push_other(&ticket(&labelled, n, 1.0));
        }
        let frame = collecting.frame();
        assert_eq!((frame.rows(), frame.dropped_rows()), (100, 900));
        let newest: Vec<i64> = (900..1_000).map(|n| FIRST_MS + n * STEP_MS).collect();
        assert_eq!(frame.completed_at_ms(), newest);
        let expected: Vec<Option<bool>> = (900..1_000).map(|n| Some(n % 2 == 0)).collect();
        assert_eq!(frame.labels(), expected, "a label stays with its ticket");
        assert_eq!(frame.actual(), (900..1_000).map(actual).collect::<Vec<_>>());
        let mut others = 0;
        frame.each_other(0, i64::MAX, |_| others += 1);
        assert!((100..=200).contains(&others), "{others}");
        assert_eq!(frame.between(FIRST_MS, FIRST_MS + DAY_MS), 0..0);
    }
}
