//! The records of the `tickets` topic: tickets and control records, and the chain that binds them.
//!
//! A ticket record holds what the spec names, typed, and nothing else. Its value is one JSON object, written by
//! [`Ticket::encode`] and read by [`Ticket::decode`]; control records are [`Control`]. Every record of either kind
//! carries two headers: `kind`, and `chain` (`<chain id>:<sequence>:<hash>`), see [`Chain`]. A record without a `chain`
//! header is a stranger's.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::log::{Delivered, Header};
use crate::spec::Spec;

/// Name of the header that tells tickets from control records.
pub const KIND: &str = "kind";
/// Name of the header that carries the chain.
pub const CHAIN: &str = "chain";
/// [`KIND`] of a ticket.
pub const TICKET: &str = "ticket";

/// A ticket's id, of any BSON type, as compact canonical extended JSON (a string is a JSON string).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TicketId(String);

impl TicketId {
    /// Takes the compact extended JSON of an id.
    #[must_use]
    pub fn from_json(json: String) -> Self {
        Self(json)
    }

    /// Takes a string id.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(serde_json::Value::from(text).to_string())
    }

    /// Returns the extended JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.0
    }

    /// Returns the record key: a string's own bytes where no other id can have them, else the extended JSON.
    #[must_use]
    pub fn key(&self) -> Cow<'_, [u8]> {
        let Some(inner) = self.0.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return Cow::Borrowed(self.0.as_bytes());
        };
        if inner.starts_with(['{', '[', '\\']) || matches!(inner, "true" | "false" | "null") {
            return Cow::Borrowed(self.0.as_bytes());
        }
        if !inner.contains('\\') {
            return Cow::Borrowed(inner.as_bytes());
        }
        serde_json::from_str::<String>(&self.0).map_or(Cow::Borrowed(self.0.as_bytes()), |text| Cow::Owned(text.into_bytes()))
    }
}

impl fmt::Display for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.key()))
    }
}

/// A field of a ticket, normalised.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// Absent, null, or unreadable (tail counts those by field and reason).
    Missing,
    /// A number, maybe not finite.
    Number(f64),
    /// A text.
    Text(String),
}

/// How it is known that the ticket completed with this event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    /// Inserted completed.
    Insert,
    /// An update set the status.
    Update,
    /// A replace, whose pre-image was not completed.
    Replace,
    /// A replace without a pre-image: folds into an earlier completion of the same id and `completed_at`.
    Assumed,
    /// Read from the collection, not from the stream.
    History,
    /// Read from a file.
    Replay,
}

impl Transition {
    fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Assumed => "assumed",
            Self::History => "history",
            Self::Replay => "replay",
        }
    }
}

/// A completed ticket.
#[derive(Clone, Debug, PartialEq)]
pub struct Ticket {
    /// Its id.
    pub id: TicketId,
    /// When it says it completed, ms since 1970.
    pub completed_at_ms: i64,
    /// Event time: `completed_at`, under the commit clock at most the commit time. Decides the slice. ms since 1970.
    pub event_at_ms: i64,
    /// MongoDB's cluster time of the completion: seconds since 1970 and increment; `None` in a replay.
    pub commit: Option<(u32, u32)>,
    /// How the completion is known.
    pub transition: Transition,
    /// The right answer, in the unit of the target (ms for durations), above 0.
    pub actual: f64,
    /// The ticket's own prediction, above 0 and finite, where it has one.
    pub predicted: Option<f64>,
    /// Version of the model that made the prediction, where the spec says where it is and the ticket has it.
    pub model_version: Option<String>,
    /// The spec's fields, in its order.
    pub fields: Vec<FieldValue>,
}

/// A value that is no ticket record of this spec.
#[derive(Debug, thiserror::Error)]
#[error("not a ticket record of spec {spec}: {reason}")]
pub struct DecodeError {
    /// Name of the spec.
    pub spec: String,
    /// What is wrong, and where.
    pub reason: String,
}

impl Ticket {
    /// Appends the record's value to `out`.
    pub fn encode(&self, spec: &Spec, out: &mut Vec<u8>) {
        debug_assert_eq!(self.fields.len(), spec.fields.len(), "a ticket has the fields of its spec");
        out.extend_from_slice(b"{\"id\":");
        out.extend_from_slice(self.id.0.as_bytes());
        out.extend_from_slice(b",\"completed_at\":");
        put(out, &self.completed_at_ms);
        out.extend_from_slice(b",\"event_at\":");
        put(out, &self.event_at_ms);
        if let Some((seconds, increment)) = self.commit {
            out.extend_from_slice(b",\"commit\":[");
            put(out, &seconds);
            out.push(b',');
            put(out, &increment);
            out.push(b']');
        }
        out.extend_from_slice(b",\"transition\":\"");
        out.extend_from_slice(self.transition.name().as_bytes());
        out.extend_from_slice(b"\",\"actual\":");
        put_number(out, self.actual);
        if let Some(predicted) = self.predicted {
            out.extend_from_slice(b",\"predicted\":");
            put_number(out, predicted);
        }
        if let Some(version) = &self.model_version {
            out.extend_from_slice(b",\"model_version\":");
            put(out, version);
        }
        out.extend_from_slice(b",\"fields\":{");
        let mut first = true;
        for (field, value) in spec.fields.iter().zip(&self.fields) {
            if matches!(value, FieldValue::Missing) {
                continue;
            }
            out.extend_from_slice(if first { b"\"" } else { b",\"" });
            first = false;
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(b"\":");
            match value {
                FieldValue::Missing => {}
                FieldValue::Number(number) => put_number(out, *number),
                FieldValue::Text(text) => put(out, text),
            }
        }
        out.extend_from_slice(b"}}");
    }

    /// Reads a record's value. `spec` must be the one it was written under; unknown members are an error.
    ///
    /// # Errors
    /// [`DecodeError`] says which member is wrong.
    pub fn decode(spec: &Spec, value: &[u8]) -> Result<Self, DecodeError> {
        let wrong = |reason| DecodeError { spec: spec.name.clone(), reason };
        // Once for all of it, and not for each text.
        let value = std::str::from_utf8(value).map_err(|error| wrong(format!("no UTF-8 at byte {}", error.valid_up_to())))?;
        let mut json = serde_json::Deserializer::from_str(value);
        let ticket = TicketSeed(spec).deserialize(&mut json);
        ticket.and_then(|ticket| json.end().map(|()| ticket)).map_err(|error| wrong(error.to_string()))
    }
}

/// Writes a number that JSON may not have: `"NaN"`, `"Infinity"` and `"-Infinity"` as in extended JSON.
fn put_number(out: &mut Vec<u8>, number: f64) {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53: integers below are written without a fraction
    if number.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else if number.is_infinite() {
        out.extend_from_slice(if number > 0.0 { b"\"Infinity\"" as &[u8] } else { b"\"-Infinity\"" });
    } else if number.fract() == 0.0 && number.abs() < EXACT && !(number == 0.0 && number.is_sign_negative()) {
        #[expect(clippy::cast_possible_truncation, reason = "integral and below 2^53")]
        put(out, &(number as i64));
    } else {
        put(out, &number);
    }
}

fn put<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("a Vec takes every byte, and numbers and texts have a JSON form");
}

struct TicketSeed<'s>(&'s Spec);

impl<'de> DeserializeSeed<'de> for TicketSeed<'_> {
    type Value = Ticket;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Ticket, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TicketSeed<'_> {
    type Value = Ticket;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a ticket")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ticket, A::Error> {
        use serde::de::Error;
        let (mut id, mut completed, mut event, mut actual, mut fields, mut transition) = (None, None, None, None, None, None);
        let (mut commit, mut predicted, mut model_version) = (None, None, None);
        while let Some(Name(name)) = map.next_key()? {
            match name.as_ref() {
                "id" => id = Some(TicketId(map.next_value::<&serde_json::value::RawValue>()?.get().to_owned())),
                "completed_at" => completed = Some(map.next_value()?),
                "event_at" => event = Some(map.next_value()?),
                "commit" => commit = Some(map.next_value()?),
                "transition" => transition = Some(map.next_value()?),
                "actual" => actual = Some(map.next_value()?),
                "predicted" => predicted = Some(map.next_value()?),
                "model_version" => model_version = Some(map.next_value()?),
                "fields" => fields = Some(map.next_value_seed(FieldsSeed(self.0))?),
                other => return Err(A::Error::custom(format_args!("unknown member {other}"))),
            }
        }
        let completed_at_ms = completed.ok_or_else(|| A::Error::missing_field("completed_at"))?;
        Ok(Ticket {
            id: id.ok_or_else(|| A::Error::missing_field("id"))?,
            completed_at_ms,
            event_at_ms: event.unwrap_or(completed_at_ms),
            commit,
            transition: transition.ok_or_else(|| A::Error::missing_field("transition"))?,
            actual: actual.ok_or_else(|| A::Error::missing_field("actual"))?,
            predicted,
            model_version,
            fields: fields.ok_or_else(|| A::Error::missing_field("fields"))?,
        })
    }
}

/// A member's name, borrowed where it needs no unescaping.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(V)
    }
}

struct FieldsSeed<'s>(&'s Spec);

impl<'de> DeserializeSeed<'de> for FieldsSeed<'_> {
    type Value = Vec<FieldValue>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed<'_> {
    type Value = Vec<FieldValue>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the spec's fields")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        use serde::de::Error;
        let names = &self.0.fields;
        let mut values = vec![FieldValue::Missing; names.len()];
        let mut next = 0;
        while let Some(Name(name)) = map.next_key()? {
            // Written in the spec's order, so the search almost always ends at once.
            let at = (next..names.len())
                .chain(0..next)
                .find(|&i| names[i].name == name)
                .ok_or_else(|| A::Error::custom(format_args!("field {name} is not in the spec")))?;
            values[at] = map.next_value()?;
            if names[at].kind != crate::spec::FieldKind::Text
                && let FieldValue::Text(text) = &values[at]
            {
                values[at] = match text.as_str() {
                    "NaN" => FieldValue::Number(f64::NAN),
                    "Infinity" => FieldValue::Number(f64::INFINITY),
                    "-Infinity" => FieldValue::Number(f64::NEG_INFINITY),
                    _ => return Err(A::Error::custom(format_args!("field {name} is not a number"))),
                };
            }
            next = at + 1;
        }
        Ok(values)
    }
}

impl<'de> Deserialize<'de> for FieldValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        #[expect(clippy::cast_precision_loss, reason = "a field is a double by definition")]
        impl<'de> Visitor<'de> for V {
            type Value = FieldValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a text or null")
            }
            fn visit_i64<E>(self, number: i64) -> Result<FieldValue, E> {
                Ok(FieldValue::Number(number as f64))
            }
            fn visit_u64<E>(self, number: u64) -> Result<FieldValue, E> {
                Ok(FieldValue::Number(number as f64))
            }
            fn visit_f64<E>(self, number: f64) -> Result<FieldValue, E> {
                Ok(FieldValue::Number(number))
            }
            fn visit_str<E>(self, text: &str) -> Result<FieldValue, E> {
                Ok(FieldValue::Text(text.to_owned()))
            }
            fn visit_unit<E>(self) -> Result<FieldValue, E> {
                Ok(FieldValue::Missing)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<FieldValue, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Err(serde::de::Error::custom("a field cannot be a list"))
            }
        }
        deserializer.deserialize_any(V)
    }
}

/// A control record: one copy in every partition of `tickets`, inside the chain, key null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Control {
    /// Ends the slice that ends at `end_ms`.
    Mark(Mark),
    /// MongoDB has forgotten what happened between the bounds.
    Gap {
        /// Identity of the record, the same in every partition.
        id: String,
        /// Last cluster time known to be read, ms since 1970.
        from_ms: i64,
        /// First cluster time known to follow, ms since 1970.
        to_ms: i64,
        /// Why.
        reason: String,
    },
    /// From here on `version` is the baseline in force.
    Baseline {
        /// Identity of the record.
        id: String,
        /// The version that counts from here.
        version: u64,
    },
    /// What became of a training.
    Outcome {
        /// Identity of the record.
        id: String,
        /// Id of the trigger it answers.
        trigger: String,
        /// `promoted`, `refused`, `failed`, `not_yet`, `held_back`, `accepted` or `settled`.
        outcome: String,
        /// In words.
        reason: String,
        /// Mark at which the training was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mark: Option<u64>,
        /// Version of the baseline that it made, in force before this record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        baseline: Option<u64>,
    },
    /// A person silenced a cause.
    Silence {
        /// Identity of the record.
        id: String,
        /// The cause.
        cause: String,
        /// Until when, ms since 1970, in event time.
        until_ms: i64,
    },
    /// A person accepts how a cause is now: its episode closes.
    Accept {
        /// Identity of the record.
        id: String,
        /// The cause.
        cause: String,
    },
    /// The first record of a chain.
    ChainStart {
        /// Identity of the record.
        id: String,
        /// Name of the spec.
        spec: String,
        /// Its fingerprint.
        fingerprint: String,
        /// Number of partitions.
        partitions: u32,
    },
}

/// The end of one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Dense, from 1 (0 is the floor mark of a history).
    pub number: u64,
    /// End of the slice, exclusive, ms since 1970.
    pub end_ms: i64,
    /// Partitions of `tickets`.
    pub partitions: u32,
    /// Version of the baseline in force; `None` before the first.
    pub baseline: Option<u64>,
}

impl Control {
    /// Returns the `kind` header.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Mark(_) => "mark",
            Self::Gap { .. } => "gap",
            Self::Baseline { .. } => "baseline",
            Self::Outcome { .. } => "outcome",
            Self::Silence { .. } => "silence",
            Self::Accept { .. } => "accept",
            Self::ChainStart { .. } => "chain-start",
        }
    }
}

/// Where a chain stands: its id, the sequence of its last record, and that record's hash.
///
/// `hash(n) = first 16 bytes of SHA-256(hash(n-1) ‖ sequence as u64 LE ‖ kind ‖ 0x00 ‖ key length as i64 LE, -1 for null
/// ‖ key ‖ value)`, in lower-case hex; `hash(0)` hashes the chain id alone. Any reader can check it with a standard library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Identity of the chain.
    pub id: String,
    /// Sequence of the last record; 0 before the first.
    pub seq: u64,
    /// Hash of the last record, hex.
    #[serde(with = "hex16")]
    pub hash: [u8; 16],
}

/// How a record breaks its chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// No chain header: a stranger's record, skipped.
    #[error("a record without a chain header: a stranger's")]
    Stranger,
    /// The header cannot be read.
    #[error("unreadable chain header {0:?}")]
    Unreadable(String),
    /// A record at or before the chain's position.
    #[error("sequence {got} repeats; {expected} was expected")]
    Repeat {
        /// Sequence expected.
        expected: u64,
        /// Sequence found.
        got: u64,
    },
    /// Records are missing.
    #[error("records {expected} to {} are missing", got - 1)]
    Missing {
        /// Sequence expected.
        expected: u64,
        /// Sequence found.
        got: u64,
    },
    /// The hash does not follow.
    #[error("the hash of record {seq} does not follow from its predecessor")]
    Hash {
        /// The record's sequence.
        seq: u64,
    },
    /// Another chain begins without a `chain-start`.
    #[error("chain {got} where {expected} was expected")]
    Other {
        /// Chain expected.
        expected: String,
        /// Chain found.
        got: String,
    },
}

impl Chain {
    /// Begins a chain.
    #[must_use]
    pub fn begin(id: &str) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&Sha256::digest(id.as_bytes())[..16]);
        Self { id: id.to_owned(), seq: 0, hash }
    }

    fn next_hash(&self, kind: &[u8], key: Option<&[u8]>, value: &[u8]) -> [u8; 16] {
        let mut sha = Sha256::new();
        sha.update(self.hash);
        sha.update((self.seq + 1).to_le_bytes());
        sha.update(kind);
        sha.update([0]);
        let length = key.map_or(-1, |k| i64::try_from(k.len()).expect("a key fits in memory"));
        sha.update(length.to_le_bytes());
        sha.update(key.unwrap_or_default());
        sha.update(value);
        let mut hash = [0; 16];
        hash.copy_from_slice(&sha.finalize()[..16]);
        hash
    }

    /// Appends a record and returns its two headers.
    pub fn link(&mut self, kind: &'static str, key: Option<&[u8]>, value: &[u8]) -> Vec<Header> {
        self.hash = self.next_hash(kind.as_bytes(), key, value);
        self.seq += 1;
        vec![(Cow::Borrowed(KIND), Bytes::from_static(kind.as_bytes())), (Cow::Borrowed(CHAIN), Bytes::from(self.header()))]
    }

    /// Returns the `chain` header of the last record.
    #[must_use]
    pub fn header(&self) -> String {
        format!("{}:{}:{}", self.id, self.seq, hex(&self.hash))
    }

    /// Parses a `chain` header.
    #[must_use]
    pub fn parse(header: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(header).ok()?.split(':');
        let (id, seq, hash) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || id.is_empty() {
            return None;
        }
        // Something always follows a record of ours.
        let seq = seq.parse().ok().filter(|seq| *seq < u64::MAX)?;
        Some(Self { id: id.to_owned(), seq, hash: unhex(hash)? })
    }

    /// Checks that `record` is the next of this chain and moves on to it. After a [`Break`] the chain has not moved;
    /// the caller decides whether to adopt [`Chain::parse`] of the record.
    ///
    /// # Errors
    /// [`Break`].
    pub fn follow(&mut self, record: &Delivered) -> Result<(), Break> {
        let header = record.header(CHAIN).ok_or(Break::Stranger)?;
        let theirs =
            Self::parse(header).ok_or_else(|| Break::Unreadable(String::from_utf8_lossy(&header[..header.len().min(100)]).into_owned()))?;
        if theirs.id != self.id {
            return Err(Break::Other { expected: self.id.clone(), got: theirs.id });
        }
        let expected = self.seq + 1;
        if theirs.seq < expected {
            return Err(Break::Repeat { expected, got: theirs.seq });
        }
        if theirs.seq > expected {
            return Err(Break::Missing { expected, got: theirs.seq });
        }
        let kind = record.header(KIND).unwrap_or_default();
        let hash = self.next_hash(kind, record.key.as_deref(), record.value.as_deref().unwrap_or_default());
        if hash != theirs.hash {
            return Err(Break::Hash { seq: theirs.seq });
        }
        self.seq = theirs.seq;
        self.hash = hash;
        Ok(())
    }
}

fn hex(bytes: &[u8; 16]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    let mut text = String::with_capacity(32);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let digits = text.as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}

mod hex16 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::hex(bytes))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
        let text = String::deserialize(deserializer)?;
        super::unhex(&text).ok_or_else(|| D::Error::custom("a hash is 32 hex digits"))
    }
}
