//! Tail's position: all that it must know to go on, in one record that is committed with what it describes.

use serde::{Deserialize, Serialize};

use super::source::{HistoryPlace, Place, Resume};
use super::time::SourceClock;
use crate::ticket::Chain;

/// A resume token larger than this is replaced by cluster time and index.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// The record of `positions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Name of the spec.
    pub spec: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Identity of what is read: cluster, collection, pipeline; or the file.
    pub source: String,
    /// How far the source has been read.
    #[serde(with = "place")]
    pub place: Place,
    /// The history, while it is being read.
    #[serde(default, with = "history", skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryPlace>,
    /// MongoDB has forgotten what followed `place`, gap records say so up to here, ms since 1970, and nobody has decided yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_told_ms: Option<i64>,
    /// One chain a partition of `tickets`; as many as there are partitions.
    pub tickets: Vec<Head>,
    /// One chain a partition of `dead-letters`.
    pub dead_letters: Vec<Head>,
    /// Source time.
    pub clock: SourceClock,
    /// Number of the next mark; 0 is the floor mark of a history.
    pub next_mark: u64,
    /// End of the slice that the next mark ends, ms since 1970; `None` before source time is known.
    pub next_end_ms: Option<i64>,
    /// The baseline in force.
    pub baseline: Option<u64>,
    /// Next offset of `baselines`.
    pub baselines_offset: i64,
    /// Next offset of `model-events`.
    pub model_events_offset: i64,
}

/// Where one chain stands, and where its last record is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The chain.
    pub chain: Chain,
    /// The offset that its last record has, or passed at the least: where reading back begins.
    pub offset: i64,
}

impl Head {
    /// Begins the chain `id` in a partition whose next offset is `offset`.
    #[must_use]
    pub fn begin(id: &str, offset: i64) -> Self {
        Self { chain: Chain::begin(id), offset }
    }
}

impl Position {
    /// Returns the number of partitions.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        u32::try_from(self.tickets.len()).expect("a topic has fewer partitions than 2^32")
    }

    /// Returns what the source is told to go on from.
    #[must_use]
    pub fn resume(&self) -> Resume {
        Resume { place: self.place.clone(), fingerprint: self.source.clone(), history: self.history.clone() }
    }

    /// Returns the record's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts, numbers and lists have a JSON form")
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// The JSON error.
    pub fn decode(value: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(value)
    }
}

mod place {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use super::super::source::{ClusterTime, Place};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rows: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time: Option<ClusterTime>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        index: Option<u32>,
    }

    pub(super) fn serialize<S: Serializer>(place: &Place, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match place {
            Place::Rows(rows) => Written { rows: Some(*rows), token: None, time: None, index: None },
            Place::Stream { token, time, index } => {
                let kept = !token.is_empty() && token.len() <= super::MAX_TOKEN_BYTES;
                Written { rows: None, token: kept.then(|| super::hex(token)), time: Some(*time), index: Some(*index) }
            }
        };
        written.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Place, D::Error> {
        let written = Written::deserialize(deserializer)?;
        match (written.rows, written.time) {
            (Some(rows), None) => Ok(Place::Rows(rows)),
            (None, Some(time)) => {
                let token = written.token.as_deref().map_or_else(|| Some(Bytes::new()), super::unhex);
                let token = token.ok_or_else(|| D::Error::custom("a token is hex digits"))?;
                Ok(Place::Stream { token, time, index: written.index.unwrap_or(0) })
            }
            _ => Err(D::Error::custom("a place is either rows of a file or a time of the change stream")),
        }
    }
}

mod history {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use super::super::source::{ClusterTime, HistoryPlace};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written {
        since: ClusterTime,
        last: Option<String>,
        #[serde(default)]
        rows: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        completed_from: Option<i64>,
    }

    #[expect(clippy::ref_option, reason = "serde asks for this signature")]
    pub(super) fn serialize<S: Serializer>(history: &Option<HistoryPlace>, serializer: S) -> Result<S::Ok, S::Error> {
        let written = history.as_ref().map(|h| Written {
            since: h.since,
            last: h.last.as_deref().map(super::hex),
            rows: h.rows,
            completed_from: h.completed_from_ms,
        });
        written.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<HistoryPlace>, D::Error> {
        let Some(written) = Option::<Written>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let last = match written.last {
            None => None,
            Some(text) => Some(super::unhex(&text).ok_or_else(|| D::Error::custom("an _id is hex digits"))?),
        };
        Ok(Some(HistoryPlace { since: written.since, last, rows: written.rows, completed_from_ms: written.completed_from }))
    }
}

/// Returns lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<bytes::Bytes> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(value(high)? << 4 | value(low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClockMode;
    use bytes::Bytes;

    pub(crate) fn sample(place: Place) -> Position {
        Position {
            spec: "tickets".into(),
            fingerprint: "0011223344556677".into(),
            source: "file".into(),
            place,
            history: None,
            gap_told_ms: None,
            tickets: vec![Head::begin("a", 0), Head::begin("b", 7)],
            dead_letters: vec![Head::begin("c", 0), Head::begin("d", 0)],
            clock: SourceClock::new(ClockMode::Auto),
            next_mark: 1,
            next_end_ms: None,
            baseline: Some(3),
            baselines_offset: 4,
            model_events_offset: 5,
        }
    }

    #[test]
    fn a_position_survives_the_wire() {
        let token = Bytes::from_static(&[0, 1, 254, 255]);
        let mut position = sample(Place::Stream { token, time: (7, 8), index: 2 });
        assert_eq!(Position::decode(&position.encode()).unwrap(), position);
        let last = Some(Bytes::from_static(b"x"));
        position.history = Some(HistoryPlace { since: (7, 1), last, rows: 9, completed_from_ms: Some(-5) });
        position.gap_told_ms = Some(8_000);
        assert_eq!(Position::decode(&position.encode()).unwrap(), position);
        let rows = sample(Place::Rows(9));
        assert_eq!(Position::decode(&rows.encode()).unwrap(), rows);
    }

    #[test]
    fn a_token_above_64_kb_is_replaced_by_time_and_index() {
        let token = Bytes::from(vec![1; MAX_TOKEN_BYTES + 1]);
        let position = sample(Place::Stream { token, time: (7, 8), index: 2 });
        let read = Position::decode(&position.encode()).unwrap();
        assert_eq!(read.place, Place::Stream { token: Bytes::new(), time: (7, 8), index: 2 });
    }
}
