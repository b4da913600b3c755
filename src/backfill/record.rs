//! An error of history as a record of `prediction-errors`: what watch writes there, marked as backfilled.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::Predictions;
use super::item::{Item, key};
use crate::baseline::RECORDED;
use crate::log::{Delivered, Header, Record};
use crate::tail::partition::partition;
use crate::ticket::KIND;

/// [`KIND`] of these records: watch, which reads its own back, passes over them.
pub(super) const BACKFILLED: &str = "backfilled-error";
/// Name of the header that names the series: what an error is unique within.
pub(super) const SERIES_ID: &str = "backfill";
/// Name of the header that names the day, ms since 1970.
pub(super) const RANGE: &str = "range";

/// Where errors of one series go, and what is the same in all of them.
pub(super) struct Form {
    pub(super) topic: Arc<str>,
    pub(super) partitions: u32,
    pub(super) model: String,
    /// Name of the series: `recorded`, or `v7`.
    pub(super) series: String,
    pub(super) source: &'static str,
    pub(super) id: Bytes,
}

impl Form {
    pub(super) fn new(topic: &Arc<str>, partitions: u32, model: &str, predictions: &Predictions, id: &str) -> Self {
        let series = match predictions {
            Predictions::Recorded => RECORDED.to_owned(),
            Predictions::Rescored(model, _) => model.series(),
        };
        let id = Bytes::from(id.to_owned());
        Self { topic: Arc::clone(topic), partitions, model: model.to_owned(), series, source: predictions.name(), id }
    }

    pub(super) fn record(&self, item: &Item, day: i64, range: &Bytes) -> Record {
        let error = item.predicted - item.actual;
        let value = Value {
            ticket: RawValue::from_string(item.id.json().to_owned()).expect("an id is the extended JSON of a value"),
            completed_at: item.completed_at_ms,
            model: &self.model,
            version: item.version.as_deref(),
            series: &self.series,
            predicted: item.predicted,
            actual: item.actual,
            error,
            absolute_error: error.abs(),
            relative_error: error.abs() / item.actual,
            backfilled: true,
            in_sample: item.in_sample,
            source: Source { backfill: self.source, range: day },
        };
        let key = item.id.key();
        Record {
            topic: Arc::clone(&self.topic),
            partition: partition(&key, self.partitions),
            key: Some(Bytes::copy_from_slice(&key)),
            value: Some(serde_json::to_vec(&value).expect("texts and numbers have a JSON form").into()),
            headers: self.headers(range),
        }
    }

    fn headers(&self, range: &Bytes) -> Vec<Header> {
        vec![
            (Cow::Borrowed(KIND), Bytes::from_static(BACKFILLED.as_bytes())),
            (Cow::Borrowed(SERIES_ID), self.id.clone()),
            (Cow::Borrowed(RANGE), range.clone()),
        ]
    }

    /// Returns day and key of a record of this series; `None` for everybody else's.
    pub(super) fn read(&self, record: &Delivered) -> Option<(i64, u128)> {
        #[derive(Deserialize)]
        struct Lines<'a> {
            #[serde(borrow)]
            ticket: &'a RawValue,
            completed_at: i64,
            #[serde(borrow)]
            version: Option<Cow<'a, str>>,
        }
        if record.header(KIND) != Some(BACKFILLED.as_bytes()) || record.header(SERIES_ID) != Some(&self.id) {
            return None;
        }
        let day = std::str::from_utf8(record.header(RANGE)?).ok()?.parse().ok()?;
        let lines: Lines<'_> = serde_json::from_slice(record.value.as_deref()?).ok()?;
        Some((day, key(lines.ticket.get(), lines.completed_at, lines.version.as_deref())))
    }
}

#[derive(Serialize)]
struct Value<'a> {
    ticket: Box<RawValue>,
    completed_at: i64,
    model: &'a str,
    version: Option<&'a str>,
    series: &'a str,
    #[serde(serialize_with = "number")]
    predicted: f64,
    #[serde(serialize_with = "number")]
    actual: f64,
    #[serde(serialize_with = "number")]
    error: f64,
    #[serde(serialize_with = "number")]
    absolute_error: f64,
    #[serde(serialize_with = "number")]
    relative_error: f64,
    backfilled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_sample: Option<bool>,
    source: Source,
}

#[derive(Serialize)]
struct Source {
    backfill: &'static str,
    range: i64,
}

/// A whole number is written without a fraction, as everywhere in the log.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
fn number<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    if number.fract() == 0.0 && number.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "integral and below 2^53")]
        return serializer.serialize_i64(*number as i64);
    }
    serializer.serialize_f64(*number)
}
