//! A document that cannot be used, as data: why, and the little of it that may leave MongoDB.

use serde::ser::{Serialize, SerializeStruct, Serializer};
use sha2::{Digest, Sha256};

use crate::spec::Spec;
use crate::ticket::{Ticket, TicketId};

/// How much of the projected fields a dead letter keeps, in bytes.
pub const KEPT_BYTES: usize = 32 * 1024;

/// Why a document is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeadReason {
    /// No id, null, or one that cannot be read.
    BadId,
    /// The id's extended JSON is longer than [`super::MAX_ID_BYTES`].
    IdTooLong,
    /// Completed, but without a readable, plausible completion time.
    NoCompletedAt,
    /// Completed, but without a readable target within the spec's range.
    NoActual,
    /// Completed later than the present.
    FromTheFuture,
    /// Completed, but deleted before it could be read.
    GoneBeforeRead,
    /// Too large for a record.
    TooLarge,
    /// Not a document at all: bytes that are no BSON or no JSON object, or a name that is there twice.
    Undecodable,
}

impl DeadReason {
    /// Every reason, in the order of the enum.
    pub const ALL: [Self; 8] = [
        Self::BadId,
        Self::IdTooLong,
        Self::NoCompletedAt,
        Self::NoActual,
        Self::FromTheFuture,
        Self::GoneBeforeRead,
        Self::TooLarge,
        Self::Undecodable,
    ];

    /// Returns the name in records and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BadId => "bad_id",
            Self::IdTooLong => "id_too_long",
            Self::NoCompletedAt => "no_completed_at",
            Self::NoActual => "no_actual",
            Self::FromTheFuture => "from_the_future",
            Self::GoneBeforeRead => "gone_before_read",
            Self::TooLarge => "too_large",
            Self::Undecodable => "undecodable",
        }
    }
}

impl std::fmt::Display for DeadReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The fields that the spec names, as extended JSON, cut; never the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projected {
    /// At most [`KEPT_BYTES`] of it, cut between two characters; empty when there is none.
    pub text: String,
    /// Length before the cut, in bytes. Of an undecodable document: its own length.
    pub bytes: u64,
    /// SHA-256 before the cut, hex. Of an undecodable document: its own.
    pub sha256: String,
}

impl Projected {
    /// Keeps nothing of `raw` but its length and hash.
    #[must_use]
    pub fn withheld(raw: &[u8]) -> Self {
        Self { text: String::new(), bytes: raw.len() as u64, sha256: hex(&Sha256::digest(raw)) }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A document that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id, where it has one; one that is too long is `{"$sha256":"…","$bytes":n}`.
    pub id: Option<TicketId>,
    /// Why it cannot be used.
    pub reason: DeadReason,
    /// The same in words, with the field and what was found there.
    pub detail: String,
    /// MongoDB's `_id` of the document, as ids are written; `None` of a file. The reader of the source sets it.
    pub document: Option<TicketId>,
    /// Where it is in its source: `line 17`, or a resume token. The reader of the source sets it.
    pub position: Option<String>,
    /// What may be known of it.
    pub fields: Projected,
    /// When it says it completed, ms since 1970, where that can be read.
    pub completed_at_ms: Option<i64>,
}

impl DeadLetter {
    /// Makes a dead letter of which nothing but the reason is known.
    #[must_use]
    pub fn bare(id: Option<TicketId>, reason: DeadReason, detail: String) -> Self {
        Self { id, reason, detail, document: None, position: None, fields: Projected::withheld(&[]), completed_at_ms: None }
    }

    /// Makes a dead letter of a ticket that was readable but cannot be sent.
    #[must_use]
    pub fn of_ticket(spec: &Spec, ticket: &Ticket, reason: DeadReason, detail: String) -> Self {
        let mut value = Vec::new();
        ticket.encode(spec, &mut value);
        let cut = value.len().min(KEPT_BYTES);
        let text = match std::str::from_utf8(&value[..cut]) {
            Ok(text) => text.to_owned(),
            Err(error) => String::from_utf8_lossy(&value[..error.valid_up_to()]).into_owned(),
        };
        let fields = Projected { text, bytes: value.len() as u64, sha256: hex(&Sha256::digest(&value)) };
        let completed_at_ms = Some(ticket.completed_at_ms);
        Self { id: Some(ticket.id.clone()), reason, detail, document: None, position: None, fields, completed_at_ms }
    }

    /// Returns the record's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers have a JSON form")
    }
}

impl Serialize for DeadLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json =
            |id: &TicketId| serde_json::value::RawValue::from_string(id.json().to_owned()).expect("an id is the extended JSON of a value");
        let mut record = serializer.serialize_struct("DeadLetter", 9)?;
        record.serialize_field("id", &self.id.as_ref().map(json))?;
        record.serialize_field("reason", self.reason.name())?;
        record.serialize_field("detail", &self.detail)?;
        record.serialize_field("completed_at", &self.completed_at_ms)?;
        record.serialize_field("document", &self.document.as_ref().map(json))?;
        record.serialize_field("position", &self.position)?;
        record.serialize_field("fields", &self.fields.text)?;
        record.serialize_field("fields_bytes", &self.fields.bytes)?;
        record.serialize_field("fields_sha256", &self.fields.sha256)?;
        record.end()
    }
}
