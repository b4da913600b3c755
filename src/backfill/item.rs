//! One document as a backfill sees it: an error that can be told, or why there is none.

use bson::{Bson, RawDocument, RawDocumentBuf};
use sha2::{Digest, Sha256};

use super::{Predictions, Request, Span};
use crate::features::{Encoder, EncoderError, Row};
use crate::spec::Spec;
use crate::tail::normalise::{DeadReason, Normalised, Normaliser, Unreadable};
use crate::ticket::TicketId;

/// A prediction that can be held against its answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) id: TicketId,
    pub(super) completed_at_ms: i64,
    pub(super) predicted: f64,
    pub(super) actual: f64,
    /// Version of the model that predicted, where it is known.
    pub(super) version: Option<String>,
    /// Whether the model was trained on it; `None` for a prediction of the ticket's own.
    pub(super) in_sample: Option<bool>,
    /// Its `_id` and its `completed_at` as MongoDB has them, where predictions are written back.
    pub(super) stored: Option<Box<(Bson, Bson)>>,
}

impl Item {
    /// What an error is known by, within its series.
    pub(super) fn key(&self) -> u128 {
        key(self.id.json(), self.completed_at_ms, self.version.as_deref())
    }

    /// In order of completion; then by everything else, so that it is the same whatever order they were read in.
    pub(super) fn order(&self, other: &Self) -> std::cmp::Ordering {
        let by_completion = self.completed_at_ms.cmp(&other.completed_at_ms).then_with(|| self.id.cmp(&other.id));
        by_completion
            .then_with(|| self.version.cmp(&other.version))
            .then_with(|| self.predicted.total_cmp(&other.predicted))
            .then_with(|| self.actual.total_cmp(&other.actual))
    }

    pub(super) fn is_same_completion(&self, other: &Self) -> bool {
        self.completed_at_ms == other.completed_at_ms && self.id == other.id
    }
}

/// Half a SHA-256 of ticket, completion and version: two errors of one series share it with a chance below 1e-24 among a billion.
pub(super) fn key(ticket: &str, completed_at_ms: i64, version: Option<&str>) -> u128 {
    let mut sha = Sha256::new_with_prefix(completed_at_ms.to_le_bytes());
    sha.update(ticket);
    if let Some(version) = version {
        sha.update([0]);
        sha.update(version);
    }
    let mut half = [0; 16];
    half.copy_from_slice(&sha.finalize()[..16]);
    u128::from_le_bytes(half)
}

/// What is read: a document of MongoDB, or a row of a file.
pub(super) enum Input {
    Document(RawDocumentBuf),
    Row(Normalised),
}

/// Why a completed ticket has no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skip {
    NoActual,
    NoPredicted,
    Invalid,
}

/// What a document turned out to be.
pub(super) enum Outcome {
    Item(Item),
    /// A completed ticket without an error, and when it completed.
    Skipped(Skip, i64),
    /// One that does not say when it completed, by its hash.
    Timeless(u128),
    NotCompleted,
    Outside,
}

/// Turns documents into outcomes. Shared freely.
pub(super) struct Scoring {
    pub(super) spec: Spec,
    pub(super) normaliser: Normaliser,
    encoder: Encoder,
    predictions: Predictions,
    write_back: bool,
}

impl Scoring {
    pub(super) fn new(spec: &Spec, request: &Request) -> Result<Self, EncoderError> {
        Ok(Self {
            spec: spec.clone(),
            normaliser: Normaliser::new(spec),
            encoder: Encoder::new(spec)?,
            predictions: request.predictions.clone(),
            write_back: request.write_back,
        })
    }

    pub(super) fn judge(&self, input: Input, span: Span) -> Outcome {
        let (normalised, document) = match input {
            Input::Row(normalised) => (normalised, None),
            Input::Document(document) => {
                (self.normaliser.from_bson(&document, &mut Unreadable::default()), Some(document).filter(|_| self.write_back))
            }
        };
        let ticket = match normalised {
            Normalised::Other(_) => return Outcome::NotCompleted,
            Normalised::Dead(dead) => {
                let Some(completed_at_ms) = dead.completed_at_ms else {
                    let id = dead.id.as_ref().map_or("", TicketId::json);
                    return Outcome::Timeless(key(id, 0, Some(&dead.fields.sha256)));
                };
                if !span.holds(completed_at_ms) {
                    return Outcome::Outside;
                }
                let skip = if dead.reason == DeadReason::NoActual { Skip::NoActual } else { Skip::Invalid };
                return Outcome::Skipped(skip, completed_at_ms);
            }
            Normalised::Completed(ticket) if !span.holds(ticket.completed_at_ms) => return Outcome::Outside,
            Normalised::Completed(ticket) => ticket,
        };
        let completed_at_ms = ticket.completed_at_ms;
        let (predicted, version, in_sample) = match &self.predictions {
            Predictions::Recorded => match ticket.predicted {
                None => return Outcome::Skipped(Skip::NoPredicted, completed_at_ms),
                Some(predicted) => (predicted, ticket.model_version, None),
            },
            Predictions::Rescored(named, model) => {
                let mut row = Row::default();
                self.encoder.encode(&ticket.fields, &mut row);
                let (begin, end) = model.card().data_ms;
                (model.predict(&self.encoder, &row), Some(named.version.to_string()), Some((begin..end).contains(&completed_at_ms)))
            }
        };
        let stored = document.and_then(|document| self.stored(&document)).map(Box::new);
        Outcome::Item(Item { id: ticket.id, completed_at_ms, predicted, actual: ticket.actual, version, in_sample, stored })
    }

    fn stored(&self, document: &RawDocument) -> Option<(Bson, Bson)> {
        let whole: bson::Document = document.try_into().ok()?;
        let id = whole.get("_id")?.clone();
        let (last, before) = self.spec.ticket.completed_at.names().split_last()?;
        let mut inside = &whole;
        for name in before {
            inside = inside.get_document(name).ok()?;
        }
        Some((id, inside.get(last)?.clone()))
    }
}
