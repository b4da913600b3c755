//! CloudEvents 1.0 in the binary mode of the Kafka binding: attributes are headers, the value is the data.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::{parse_rfc3339, rfc3339};
use crate::log::{Delivered, Header, Record};

/// An event. Its id and time are functions of what it tells, so that a replay gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent {
    /// Unique within `source`: who has seen an id has seen the event.
    pub id: String,
    /// Who says so: `/tidemark/<spec>`.
    pub source: String,
    /// What happened: `tidemark.alert.opened.v1`.
    pub kind: String,
    /// When, ms since 1970, in event time.
    pub time_ms: i64,
    /// About what: the cause, or the model.
    pub subject: String,
    /// The data, as JSON.
    pub data: Bytes,
}

const VERSION: &str = "ce_specversion";
const ID: &str = "ce_id";
const SOURCE: &str = "ce_source";
const TYPE: &str = "ce_type";
const TIME: &str = "ce_time";
const SUBJECT: &str = "ce_subject";
const CONTENT_TYPE: &str = "content-type";
const JSON: &str = "application/json";

/// A record that is no CloudEvent of the binary mode.
#[derive(Debug, thiserror::Error)]
#[error("the record at offset {offset} is no CloudEvent: {reason}")]
pub struct NotAnEvent {
    /// Offset of the record.
    pub offset: i64,
    /// What is missing or wrong.
    pub reason: String,
}

/// Returns the `source` of every event about a spec.
#[must_use]
pub fn source(spec: &str) -> String {
    format!("/tidemark/{spec}")
}

impl CloudEvent {
    /// Returns the record that carries the event to partition 0 of `topic`. `more` are our own headers, after the event's.
    #[must_use]
    pub fn into_record(self, topic: Arc<str>, key: &str, more: Vec<Header>) -> Record {
        let header = |name: &'static str, text: String| (Cow::Borrowed(name), Bytes::from(text));
        let mut headers = vec![
            header(VERSION, "1.0".to_owned()),
            header(ID, self.id),
            header(SOURCE, self.source),
            header(TYPE, self.kind),
            header(TIME, rfc3339(self.time_ms)),
            header(SUBJECT, self.subject),
            header(CONTENT_TYPE, JSON.to_owned()),
        ];
        headers.extend(more);
        Record { topic, partition: 0, key: Some(Bytes::copy_from_slice(key.as_bytes())), value: Some(self.data), headers }
    }

    /// Reads the event that a record carries.
    ///
    /// # Errors
    /// [`NotAnEvent`] when an attribute is missing or unreadable.
    pub fn from_record(record: &Delivered) -> Result<Self, NotAnEvent> {
        let wrong = |reason: String| NotAnEvent { offset: record.offset, reason };
        let attribute = |name: &str| {
            let bytes = record.header(name).ok_or_else(|| wrong(format!("header {name} is missing")))?;
            String::from_utf8(bytes.to_vec()).map_err(|_| wrong(format!("header {name} is not UTF-8")))
        };
        let version = attribute(VERSION)?;
        if version != "1.0" {
            return Err(wrong(format!("specversion is {version:?}, not \"1.0\"")));
        }
        let time = attribute(TIME)?;
        Ok(Self {
            id: attribute(ID)?,
            source: attribute(SOURCE)?,
            kind: attribute(TYPE)?,
            time_ms: parse_rfc3339(&time).ok_or_else(|| wrong(format!("time {time:?} is not RFC 3339 in UTC")))?,
            subject: attribute(SUBJECT)?,
            data: record.value.clone().ok_or_else(|| wrong("it has no value".to_owned()))?,
        })
    }

    /// Returns the event in the structured mode, as one JSON object: what a webhook receives.
    #[must_use]
    pub fn structured(&self) -> serde_json::Value {
        let data: serde_json::Value = serde_json::from_slice(&self.data).unwrap_or(serde_json::Value::Null);
        serde_json::json!({
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.kind,
            "time": rfc3339(self.time_ms),
            "subject": self.subject,
            "datacontenttype": JSON,
            "data": data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> CloudEvent {
        CloudEvent {
            id: "hour_of_day-1842-opened".to_owned(),
            source: source("execution-tickets"),
            kind: "tidemark.alert.opened.v1".to_owned(),
            time_ms: 1_363_500_000_123,
            subject: "hour_of_day".to_owned(),
            data: Bytes::from_static(b"{\"level\":\"critical\"}"),
        }
    }

    fn delivered(record: Record) -> Delivered {
        Delivered { partition: 0, offset: 7, timestamp_ms: 0, key: record.key, value: record.value, headers: record.headers }
    }

    #[test]
    fn an_event_comes_back_from_its_record() {
        let record = event().into_record(Arc::from("tidemark.alerts"), "hour_of_day", vec![]);
        assert_eq!(record.key.as_deref(), Some(&b"hour_of_day"[..]));
        let names: Vec<&str> = record.headers.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject", "content-type"]);
        assert_eq!(CloudEvent::from_record(&delivered(record)).unwrap(), event());
    }

    #[test]
    fn a_record_without_an_attribute_is_named_as_no_event() {
        let mut record = event().into_record(Arc::from("tidemark.alerts"), "k", vec![]);
        record.headers.retain(|(name, _)| name != "ce_id");
        let error = CloudEvent::from_record(&delivered(record)).unwrap_err();
        assert_eq!(error.to_string(), "the record at offset 7 is no CloudEvent: header ce_id is missing");
    }

    #[test]
    fn the_structured_form_nests_the_data() {
        let json = event().structured();
        assert_eq!(json["data"]["level"], "critical");
        assert_eq!(json["time"], "2013-03-17T06:00:00.123Z");
    }
}
