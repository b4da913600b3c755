//! From a document to a ticket: every ticket is read once, here, by one set of rules for BSON and JSON.
//!
//! Only id, completion time and target can make a dead letter; any other field that cannot be read is missing, and
//! counted in [`Unreadable`].

mod bson;
mod columns;
mod dead;
mod extjson;
mod json;
mod paths;
mod rules;
mod time;
mod value;

use ::bson::{RawBsonRef, RawDocument};

pub(crate) use columns::{Columns, document_of};
pub use dead::{DeadLetter, DeadReason, KEPT_BYTES, Projected};

pub use time::{EARLIEST_MS, LATEST_MS, from_rfc3339, is_plausible, to_rfc3339};

use paths::{Paths, Places, ROOT, Room};
use rules::Completion;

use crate::spec::{Path, Spec};
use crate::ticket::{FieldValue, Ticket, TicketId};

/// The longest id that is kept, as compact canonical extended JSON.
pub const MAX_ID_BYTES: usize = 1024;

/// What a document turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Normalised {
    /// A completed ticket. Event time is `completed_at`, commit `None`, transition `Replay`: the source overwrites them.
    Completed(Ticket),
    /// Not completed. The row is there when it has an id, a completion time and a target: success rates are learned from it.
    Other(Option<Box<Ticket>>),
    /// Completed or not to be told, and unusable.
    Dead(Box<DeadLetter>),
}

/// Why a field that is present could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Of a type that its kind does not take.
    WrongType,
    /// A text that is no time, or a time outside the plausible range.
    NotATime,
    /// Nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// Bytes that are not what they say they are.
    Malformed,
}

/// The deepest nesting that is measured.
pub const MAX_DEPTH: usize = 200;

impl Why {
    const ALL: [Self; 4] = [Self::WrongType, Self::NotATime, Self::TooDeep, Self::Malformed];

    /// Returns the name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WrongType => "wrong_type",
            Self::NotATime => "not_a_time",
            Self::TooDeep => "too_deep",
            Self::Malformed => "malformed",
        }
    }
}

/// Counts of unreadable fields, by field and reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    counts: Vec<[u64; Why::ALL.len()]>,
}

impl Unreadable {
    fn count(&mut self, field: usize, why: Why) {
        if self.counts.len() <= field {
            self.counts.resize(field + 1, [0; Why::ALL.len()]);
        }
        self.counts[field][why as usize] += 1;
    }

    /// Whether nothing was unreadable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Returns (place in [`Spec::fields`], reason, count), counts above 0 only.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Why, u64)> {
        self.counts
            .iter()
            .enumerate()
            .flat_map(|(field, by_reason)| Why::ALL.into_iter().map(move |why| (field, why, by_reason[why as usize])))
            .filter(|&(_, _, count)| count > 0)
    }

    /// Forgets all counts.
    pub fn clear(&mut self) {
        self.counts.clear();
    }
}

/// Reads documents of one spec. Made once, shared freely.
#[derive(Clone, Debug)]
pub struct Normaliser {
    spec: Spec,
    paths: Paths,
    places: Places,
}

impl Normaliser {
    /// Prepares to read documents of `spec`.
    #[must_use]
    pub fn new(spec: &Spec) -> Self {
        let mut paths = Paths::new();
        let places = Places::of(spec, &mut paths);
        Self { spec: spec.clone(), paths, places }
    }

    /// Returns every path that is read, none of them below another: the projection.
    #[must_use]
    pub fn paths(&self) -> Vec<&Path> {
        self.paths.outermost()
    }

    /// Reads a document as MongoDB has it; whether it is completed its status says.
    pub fn from_bson(&self, document: &RawDocument, unreadable: &mut Unreadable) -> Normalised {
        self.read_bson(document, Completion::ByStatus, unreadable)
    }

    /// Reads a document of which the stream says that it completed, whatever its status says by now: it is `Completed` or `Dead`.
    pub fn completed_from_bson(&self, document: &RawDocument, unreadable: &mut Unreadable) -> Normalised {
        self.read_bson(document, Completion::Known, unreadable)
    }

    fn read_bson(&self, document: &RawDocument, completion: Completion, unreadable: &mut Unreadable) -> Normalised {
        let mut room = Room::new();
        let slots = room.slots(&self.paths);
        match bson::walk(&self.paths, ROOT, document, slots) {
            Ok(()) => self.conclude(slots, completion, unreadable),
            Err(detail) => undecodable(document.as_bytes(), detail),
        }
    }

    /// Returns whether a document's status means completed: of a pre-image, say.
    #[must_use]
    pub fn is_completed(&self, document: &RawDocument) -> bool {
        let mut room = Room::new();
        let slots = room.slots(&self.paths);
        bson::walk(&self.paths, ROOT, document, slots).is_ok() && self.has_completed_status(slots)
    }

    /// Returns a document's id, where it has a readable one.
    #[must_use]
    pub fn id_from_bson(&self, document: &RawDocument) -> Option<TicketId> {
        let mut room = Room::new();
        let slots = room.slots(&self.paths);
        bson::walk(&self.paths, ROOT, document, slots).ok()?;
        self.id(slots).ok()
    }

    /// Reads a line of NDJSON: plain or extended JSON. `line` is its number, from 1, for the dead letter's position.
    pub fn from_json(&self, json: &[u8], line: u64, unreadable: &mut Unreadable) -> Normalised {
        let mut room = Room::new();
        let slots = room.slots(&self.paths);
        let mut normalised = match json::walk(&self.paths, json, slots) {
            Ok(()) => self.conclude(slots, Completion::ByStatus, unreadable),
            Err(detail) => undecodable(json, detail),
        };
        if let Normalised::Dead(dead) = &mut normalised {
            dead.position = Some(format!("line {line}"));
        }
        normalised
    }
}

/// What a ticket shows before it is completed: all that a prediction may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// Its id, where it has a readable one.
    pub id: Option<TicketId>,
    /// Its own prediction, above 0 and finite, where it has one.
    pub predicted: Option<f64>,
    /// The spec's fields, in its order.
    pub fields: Vec<FieldValue>,
}

impl Normaliser {
    /// Reads a document that may still be under way, plain or extended JSON, by the rules of completed ones.
    ///
    /// # Errors
    /// What makes it no document: syntax, or a name that is there twice.
    pub fn open_from_json(&self, json: &[u8], unreadable: &mut Unreadable) -> Result<Open, String> {
        let mut room = Room::new();
        let slots = room.slots(&self.paths);
        json::walk(&self.paths, json, slots)?;
        Ok(self.open(slots, unreadable))
    }
}

impl Normaliser {
    /// Whether a column of this name is read.
    pub(crate) fn reads_column(&self, name: &str) -> bool {
        columns::place_of(&self.paths, name).is_some()
    }

    /// Finds the places of columns, all of one length.
    ///
    /// # Errors
    /// The name of a column, when another one is read at the same place.
    pub(crate) fn columns(&self, columns: Vec<(String, Box<dyn polars_arrow::array::Array>)>) -> Result<Columns, String> {
        Columns::find(&self.paths, columns)
    }

    /// Reads a row of columns. `number` is its number, from 1, for the dead letter's position.
    pub(crate) fn read_row(&self, columns: &Columns, row: usize, number: u64, unreadable: &mut Unreadable) -> Normalised {
        let mut room = Room::new();
        let slots = room.slots(&self.paths);
        columns.row(row, slots);
        let mut normalised = self.conclude(slots, Completion::ByStatus, unreadable);
        if let Normalised::Dead(dead) = &mut normalised {
            dead.position = Some(format!("row {number}"));
        }
        normalised
    }
}

fn undecodable(raw: &[u8], detail: String) -> Normalised {
    Normalised::Dead(Box::new(DeadLetter {
        id: None,
        reason: DeadReason::Undecodable,
        detail,
        document: None,
        position: None,
        fields: Projected::withheld(raw),
        completed_at_ms: None,
    }))
}

/// Returns a value as an id, of any BSON type: compact canonical extended JSON, or its hash when that is longer than
/// [`MAX_ID_BYTES`]; `None` when its bytes are malformed.
#[must_use]
pub fn id_of(value: RawBsonRef<'_>) -> Option<TicketId> {
    rules::id_of(bson::BsonValue(Some(value))).ok().map(|(id, _)| id)
}

/// Returns a value as compact canonical extended JSON; `None` when its bytes are malformed, or nested beyond [`MAX_DEPTH`].
#[must_use]
pub fn canonical_json(value: RawBsonRef<'_>) -> Option<String> {
    let mut json = Vec::new();
    extjson::put_value(&mut json, value, extjson::Form::Canonical).ok()?;
    String::from_utf8(json).ok()
}

#[cfg(test)]
mod tests;
