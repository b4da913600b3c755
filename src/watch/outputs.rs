//! What watch writes: the derived records of one partition, each naming its input, none written twice.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Write;

use bytes::{Bytes, BytesMut};

use super::place::Bound;
use crate::alert::Alert;
use crate::baseline::RECORDED;
use crate::log::{Delivered, Header, Record};
use crate::summary::Summary;
use crate::ticket::{KIND, Ticket};
use crate::topics::Topics;

/// Name of the header that names the input: `<partition>:<sequence>`.
pub(super) const SOURCE: &str = "source";
/// Name of the header that names the series of a prediction that is not the ticket's own.
pub(super) const SERIES: &str = "series";
/// [`KIND`] of a record of `prediction-errors`.
pub(super) const PREDICTION_ERROR: &str = "prediction-error";
/// [`KIND`] of a record of `summaries`.
pub(super) const SUMMARY: &str = "summary";
/// [`KIND`] of our records of `alerts`.
pub(super) const WATCH_ALERT: &str = "watch-alert";

/// Bytes of a summary beyond which it is written as several records.
const SUMMARY_BYTES: usize = 700_000;
/// Bytes that prediction errors share an allocation of.
const SHARED_BYTES: usize = 256 * 1_024;

/// A derived topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// `prediction-errors`, the partition of the same number.
    Errors,
    /// `summaries`, its one partition.
    Summaries,
    /// `alerts`, its one partition.
    Alerts,
}

impl Output {
    pub(super) const ALL: [Self; 3] = [Self::Errors, Self::Summaries, Self::Alerts];

    pub(super) fn topic(self, topics: &Topics) -> &std::sync::Arc<str> {
        match self {
            Self::Errors => &topics.prediction_errors,
            Self::Summaries => &topics.summaries,
            Self::Alerts => &topics.alerts,
        }
    }

    /// Returns the partition of the derived topic that takes what comes from `partition` of `tickets`.
    pub(super) fn partition(self, partition: u32) -> u32 {
        if self == Self::Errors { partition } else { 0 }
    }

    /// Returns the name of a record that `partition` of `tickets` gave rise to; `None` for everybody else's.
    pub(super) fn name(self, partition: u32, record: &Delivered) -> Option<Bytes> {
        let kind = match self {
            Self::Errors => PREDICTION_ERROR,
            Self::Summaries => SUMMARY,
            Self::Alerts => WATCH_ALERT,
        };
        if record.header(KIND) != Some(kind.as_bytes()) {
            return None;
        }
        let source = record.header(SOURCE)?;
        let (from, _) = parse_source(source)?;
        if from != partition {
            return None;
        }
        if let Some(series) = record.header(SERIES) {
            return Some(Bytes::from([source, b"/", series].concat()));
        }
        let named = if self == Self::Alerts { record.header("ce_id")? } else { source };
        Some(Bytes::copy_from_slice(named))
    }
}

/// Parses `<partition>:<sequence>`.
pub(super) fn parse_source(source: &[u8]) -> Option<(u32, u64)> {
    let (partition, sequence) = std::str::from_utf8(source).ok()?.split_once(':')?;
    Some((partition.parse().ok()?, sequence.parse().ok()?))
}

/// What one partition has written to one derived topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Outputs that count for the next commit.
    pub(super) bound: Bound,
    /// Visible beyond the last commit, left by a torn transaction: not written again.
    pub(super) visible: VecDeque<Bytes>,
}

impl Written {
    /// Takes note of an output; returns whether it has to be written.
    fn wants(&mut self, name: impl FnOnce() -> Bytes) -> bool {
        self.bound.outputs += 1;
        if self.visible.is_empty() {
            return true;
        }
        let name = name();
        match self.visible.iter().position(|visible| *visible == name) {
            Some(at) => {
                self.visible.drain(..=at);
                false
            }
            None => true,
        }
    }
}

/// The records of one transaction, in the making.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    /// Whether a verdict or a person waits for it: it holds a summary or an alert.
    pub(super) is_urgent: bool,
    shared: BytesMut,
}

impl Batch {
    /// Writes the error of a ticket's own prediction, where it has one.
    pub(super) fn prediction_error(&mut self, to: &To<'_>, written: &mut Written, sequence: u64, ticket: &Ticket) {
        let Some(predicted) = ticket.predicted else { return };
        if written.wants(|| Bytes::from(format!("{}:{sequence}", to.partition))) {
            self.error(to, sequence, ticket, None, predicted);
        }
    }

    /// Writes the error of what Production predicts for a ticket.
    pub(super) fn production_error(
        &mut self,
        to: &To<'_>,
        written: &mut Written,
        sequence: u64,
        ticket: &Ticket,
        (series, predicted): (&str, f64),
    ) {
        if written.wants(|| Bytes::from(format!("{}:{sequence}/{series}", to.partition))) {
            self.error(to, sequence, ticket, Some(series), predicted);
        }
    }

    /// `error` is predicted − actual; `relative_error` is |error| / actual.
    fn error(&mut self, to: &To<'_>, sequence: u64, ticket: &Ticket, series: Option<&str>, predicted: f64) {
        if self.shared.capacity() < 2_048 {
            self.shared.reserve(SHARED_BYTES);
        }
        let mut out = Text(&mut self.shared);
        let error = predicted - ticket.actual;
        out.text("{\"ticket\":").text(ticket.id.json());
        out.text(",\"completed_at\":").integer(ticket.completed_at_ms);
        out.text(",\"model\":").text(to.model_json).text(",\"version\":");
        match (series, &ticket.model_version) {
            (Some(series), _) => out.quoted(series.trim_start_matches('v')),
            (None, Some(version)) => out.quoted(version),
            (None, None) => out.text("null"),
        };
        out.text(",\"series\":").quoted(series.unwrap_or(RECORDED)).text(",\"predicted\":").number(predicted);
        out.text(",\"actual\":").number(ticket.actual).text(",\"error\":").number(error);
        out.text(",\"absolute_error\":").number(error.abs());
        out.text(",\"relative_error\":").number(error.abs() / ticket.actual);
        out.text(",\"source\":{\"partition\":").integer(to.partition.into());
        out.text(",\"sequence\":").unsigned(sequence).text("}}");
        let value = self.shared.split().freeze();
        self.shared.extend_from_slice(&ticket.id.key());
        let key = self.shared.split().freeze();
        Text(&mut self.shared).integer(to.partition.into()).text(":").unsigned(sequence);
        let source = self.shared.split().freeze();
        let mut headers = vec![kind(PREDICTION_ERROR), (Cow::Borrowed(SOURCE), source)];
        headers.extend(series.map(|series| (Cow::Borrowed(SERIES), Bytes::copy_from_slice(series.as_bytes()))));
        self.records.push(Record {
            topic: std::sync::Arc::clone(&to.topics.prediction_errors),
            partition: Output::Errors.partition(to.partition),
            key: Some(key),
            value: Some(value),
            headers,
        });
    }

    /// Writes a summary, as several records when it is too large for one.
    pub(super) fn summary(&mut self, to: &To<'_>, written: &mut Written, summary: Summary) {
        let value = serde_json::to_vec(&summary).expect("a summary has only numbers and texts");
        if value.len() > SUMMARY_BYTES && summary.slices.len() > 1 {
            let mut first = summary;
            let rest = first.slices.split_off(first.slices.len() / 2);
            let second = Summary { slices: rest, controls: Vec::new(), ..first.clone() };
            first.more = true;
            self.summary(to, written, first);
            self.summary(to, written, second);
            return;
        }
        let source = source(to.partition, summary.sequence);
        if !written.wants(|| source.clone()) {
            return;
        }
        self.is_urgent = true;
        self.records.push(Record {
            topic: std::sync::Arc::clone(&to.topics.summaries),
            partition: Output::Summaries.partition(to.partition),
            key: Some(Bytes::from(to.partition.to_string())),
            value: Some(Bytes::from(value)),
            headers: vec![kind(SUMMARY), (Cow::Borrowed(SOURCE), source)],
        });
    }

    /// Writes an alert of watch's own. `id` and `time_ms` are functions of the log.
    pub(super) fn alert(&mut self, to: &To<'_>, written: &mut Written, sequence: u64, alert: &Told) {
        if !written.wants(|| Bytes::from(alert.id.clone())) {
            return;
        }
        self.is_urgent = true;
        let headers = vec![kind(WATCH_ALERT), (Cow::Borrowed(SOURCE), source(to.partition, sequence))];
        let event = alert.alert.event(to.spec, alert.id.clone(), alert.time_ms, &alert.subject);
        self.records.push(event.into_record(std::sync::Arc::clone(&to.topics.alerts), &alert.subject, headers));
    }
}

/// Whose records they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct To<'a> {
    pub(super) topics: &'a Topics,
    pub(super) spec: &'a str,
    /// The model's name as a JSON text.
    pub(super) model_json: &'a str,
    /// The partition of `tickets`.
    pub(super) partition: u32,
}

/// An alert with its identity.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) alert: Alert,
    pub(super) id: String,
    pub(super) time_ms: i64,
    pub(super) subject: String,
}

fn kind(kind: &'static str) -> Header {
    (Cow::Borrowed(KIND), Bytes::from_static(kind.as_bytes()))
}

fn source(partition: u32, sequence: u64) -> Bytes {
    Bytes::from(format!("{partition}:{sequence}"))
}

/// JSON, written by hand: one record a ticket.
struct Text<'a>(&'a mut BytesMut);

impl Text<'_> {
    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn quoted(&mut self, text: &str) -> &mut Self {
        serde_json::to_writer(Writer(self.0), text).expect("memory takes every byte");
        self
    }

    fn integer(&mut self, number: i64) -> &mut Self {
        serde_json::to_writer(Writer(self.0), &number).expect("memory takes every byte");
        self
    }

    fn unsigned(&mut self, number: u64) -> &mut Self {
        serde_json::to_writer(Writer(self.0), &number).expect("memory takes every byte");
        self
    }

    /// Writes a finite number; a whole one without a fraction. What is not finite has no JSON form and becomes null.
    fn number(&mut self, number: f64) -> &mut Self {
        const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
        if number.fract() == 0.0 && number.abs() < EXACT {
            #[expect(clippy::cast_possible_truncation, reason = "integral and below 2^53")]
            return self.integer(number as i64);
        }
        serde_json::to_writer(Writer(self.0), &number).expect("memory takes every byte");
        self
    }
}

struct Writer<'a>(&'a mut BytesMut);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
