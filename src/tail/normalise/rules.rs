//! The rules by which found values become a ticket, the same for BSON and JSON.

use sha2::{Digest, Sha256};

use super::dead::{DeadLetter, DeadReason, KEPT_BYTES, Projected, hex};
use super::extjson::{Cut, Sink, put_text};
use super::value::{Found, Scalar, number_text};
use super::{MAX_ID_BYTES, Normalised, Normaliser, Open, Unreadable, Why};
use crate::spec::FieldKind;
use crate::ticket::{FieldValue, Ticket, TicketId, Transition};

/// Who says whether the document is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    /// Its status.
    ByStatus,
    /// The stream, which saw it happen.
    Known,
}

/// Why there is no ticket.
type Fault = (DeadReason, String);

/// What one pass over a document found, by place.
type Slots<F> = [Option<F>];

impl Normaliser {
    /// Decides what the document is.
    pub(super) fn conclude<'a, F: Found<'a>>(&self, slots: &Slots<F>, completion: Completion, unreadable: &mut Unreadable) -> Normalised {
        let is_completed = completion == Completion::Known || self.has_completed_status(slots);
        if !is_completed {
            return Normalised::Other(self.ticket(slots, &mut Unreadable::default()).ok().map(Box::new));
        }
        match self.ticket(slots, unreadable) {
            Ok(ticket) => Normalised::Completed(ticket),
            Err((reason, detail)) => Normalised::Dead(Box::new(DeadLetter {
                id: slots[self.places.id]
                    .filter(|found| found.scalar() != Scalar::Null)
                    .and_then(|found| id_of(found).ok())
                    .map(|(id, _)| id),
                reason,
                detail,
                document: None,
                position: None,
                fields: self.project(slots),
                completed_at_ms: self.completed_at(slots).ok(),
            })),
        }
    }

    /// Whether the status is one of those that mean completed.
    pub(super) fn has_completed_status<'a, F: Found<'a>>(&self, slots: &Slots<F>) -> bool {
        let Some(status) = slots[self.places.status] else {
            return false;
        };
        matches!(status.scalar(), Scalar::Text(status) if self.spec.ticket.completed.iter().any(|name| *name == *status))
    }

    fn ticket<'a, F: Found<'a>>(&self, slots: &Slots<F>, unreadable: &mut Unreadable) -> Result<Ticket, Fault> {
        let id = self.id(slots)?;
        let completed_at_ms = self.completed_at(slots)?;
        let actual = self.actual(slots)?;
        let fields = self.fields(slots, unreadable);
        Ok(Ticket {
            id,
            completed_at_ms,
            event_at_ms: completed_at_ms,
            commit: None,
            transition: Transition::Replay,
            actual,
            fields,
            predicted: self.predicted(slots),
            model_version: self.places.model_version.and_then(|place| text_of(&slots[place]?.scalar()).ok().flatten()),
        })
    }

    /// Returns what there is of a ticket that need not be completed.
    pub(super) fn open<'a, F: Found<'a>>(&self, slots: &Slots<F>, unreadable: &mut Unreadable) -> Open {
        Open { id: self.id(slots).ok(), predicted: self.predicted(slots), fields: self.fields(slots, unreadable) }
    }

    fn fields<'a, F: Found<'a>>(&self, slots: &Slots<F>, unreadable: &mut Unreadable) -> Vec<FieldValue> {
        let fields = self.places.fields.iter().enumerate().map(|(field, places)| {
            field_value(self.spec.fields[field].kind, places, slots).unwrap_or_else(|why| {
                unreadable.count(field, why);
                FieldValue::Missing
            })
        });
        fields.collect()
    }

    fn predicted<'a, F: Found<'a>>(&self, slots: &Slots<F>) -> Option<f64> {
        self.places.prediction.iter().find_map(|&place| {
            let number = slots[place]?.scalar().number().ok()?;
            (number > 0.0 && number.is_finite()).then_some(number)
        })
    }

    pub(super) fn id<'a, F: Found<'a>>(&self, slots: &Slots<F>) -> Result<TicketId, Fault> {
        let path = &self.spec.ticket.id;
        let found = slots[self.places.id].ok_or_else(|| (DeadReason::BadId, format!("{path} is absent")))?;
        let scalar = found.scalar();
        let is_empty = matches!(&scalar, Scalar::Text(text) if text.is_empty());
        if is_empty || matches!(scalar, Scalar::Null | Scalar::Malformed) {
            return Err((DeadReason::BadId, format!("{path} is {}", scalar.describe())));
        }
        let (id, bytes) = id_of(found).map_err(|why| (DeadReason::BadId, format!("{path} is {}, {}", scalar.describe(), why.name())))?;
        if bytes > MAX_ID_BYTES {
            return Err((DeadReason::IdTooLong, format!("{path} has {bytes} bytes; at most {MAX_ID_BYTES} are kept")));
        }
        Ok(id)
    }

    fn completed_at<'a, F: Found<'a>>(&self, slots: &Slots<F>) -> Result<i64, Fault> {
        let path = &self.spec.ticket.completed_at;
        let Some(found) = slots[self.places.completed_at] else {
            return Err((DeadReason::NoCompletedAt, format!("{path} is absent")));
        };
        let scalar = found.scalar();
        scalar.time_ms().map_err(|why| (DeadReason::NoCompletedAt, format!("{path} is {}, {}", scalar.describe(), why.name())))
    }

    fn actual<'a, F: Found<'a>>(&self, slots: &Slots<F>) -> Result<f64, Fault> {
        let target = &self.spec.target;
        let no = |detail: String| (DeadReason::NoActual, detail);
        let present = self.places.target.iter().zip(&target.paths).find_map(|(&place, path)| {
            let scalar = slots[place]?.scalar();
            (scalar != Scalar::Null).then_some((scalar, path))
        });
        let (actual, from) = if let Some((scalar, path)) = present {
            // What is present wins even when it is of no use: another measure would be another target.
            let actual = scalar.number().map_err(|why| no(format!("{path} is {}, {}", scalar.describe(), why.name())))?;
            (actual, path.to_string())
        } else {
            let (Some((from, to)), Some(between)) = (self.places.between, &target.between) else {
                return Err(no(format!("{} is absent", join(&target.paths))));
            };
            let time = |place: usize, path: &crate::spec::Path| {
                let scalar = slots[place].map_or(Scalar::Null, F::scalar);
                scalar.time_ms().map_err(|why| no(format!("{path} is {}, {}", scalar.describe(), why.name())))
            };
            let ms = time(to, &between.to)? - time(from, &between.from)?;
            #[expect(clippy::cast_precision_loss, reason = "two plausible times differ by less than 2^53 ms")]
            (ms as f64, format!("{} - {}", between.to, between.from))
        };
        if actual > 0.0 && (target.min..=target.max).contains(&actual) {
            Ok(actual)
        } else {
            Err(no(format!("{from} is {actual}, not within {} and {}", target.min, target.max)))
        }
    }

    /// Writes what the spec names, once each; of what is measured only the measure.
    fn project<'a, F: Found<'a>>(&self, slots: &Slots<F>) -> Projected {
        let mut out = Cut::at(KEPT_BYTES);
        let mut separator: &[u8] = b"{";
        // The id is last: it is told elsewhere, and may be long.
        let (id, others): (Vec<_>, Vec<_>) = self.paths.distinct().partition(|&(_, place)| place == self.places.id);
        for (path, place) in others.into_iter().chain(id) {
            let Some(found) = slots[place] else {
                continue;
            };
            out.put(separator);
            separator = b",";
            put_text(&mut out, &path.to_string());
            out.put(b":");
            self.project_one(&mut out, place, found);
        }
        out.put(if separator == b"{" { b"{}" } else { b"}" });
        let text = out.text().to_owned();
        Projected { text, bytes: out.bytes, sha256: hex(&out.sha.finalize()) }
    }

    fn project_one<'a, F: Found<'a>>(&self, out: &mut Cut, place: usize, found: F) {
        let is_list_or_document = matches!(found.scalar(), Scalar::Other(_));
        let measured = if is_list_or_document && self.is_only_measured(place) { found.items().ok() } else { None };
        match (measured, found.json_bytes()) {
            (Some(items), Ok(bytes)) => out.put(format!("{{\"$items\":{items},\"$bytes\":{bytes}}}").as_bytes()),
            (None, Ok(bytes)) if self.is_only_measured(place) => out.put(format!("{{\"$bytes\":{bytes}}}").as_bytes()),
            (_, Ok(_)) => found.put_canonical(out).expect("what can be measured can be written"),
            (_, Err(why)) => put_text(out, why.name()),
        }
    }

    /// Whether a place is read for its length or size alone, so that its value stays where it is.
    fn is_only_measured(&self, place: usize) -> bool {
        let measured = |kind| matches!(kind, FieldKind::Length | FieldKind::JsonSize);
        let places = &self.places;
        let is_named = [places.id, places.status, places.completed_at].contains(&place)
            || places.target.contains(&place)
            || places.prediction.contains(&place)
            || places.model_version == Some(place)
            || places.between.is_some_and(|(from, to)| place == from || place == to);
        let mut kinds = places.fields.iter().zip(&self.spec.fields).filter(|(at, _)| at.contains(&place)).map(|(_, field)| field.kind);
        !is_named && kinds.all(measured)
    }
}

/// Returns the id, or its hash when it is longer than [`MAX_ID_BYTES`], and its length in bytes.
pub(super) fn id_of<'a, F: Found<'a>>(found: F) -> Result<(TicketId, usize), Why> {
    let mut json = Vec::with_capacity(48);
    found.put_canonical(&mut json)?;
    let bytes = json.len();
    if bytes > MAX_ID_BYTES {
        let hash = hex(&Sha256::digest(&json));
        return Ok((TicketId::from_json(format!("{{\"$sha256\":\"{hash}\",\"$bytes\":{bytes}}}")), bytes));
    }
    let json = String::from_utf8(json).map_err(|_| Why::Malformed)?;
    Ok((TicketId::from_json(json), bytes))
}

fn join(paths: &[crate::spec::Path]) -> String {
    paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Reads a field from the first of its places that has something.
fn field_value<'a, F: Found<'a>>(kind: FieldKind, places: &[usize], slots: &Slots<F>) -> Result<FieldValue, Why> {
    let last = places.len().saturating_sub(1);
    for (i, &place) in places.iter().enumerate() {
        let Some(found) = slots[place] else {
            continue;
        };
        let scalar = found.scalar();
        if scalar == Scalar::Null {
            continue;
        }
        let value = match kind {
            FieldKind::Text => match text_of(&scalar)? {
                // An empty text gives way to the next path, as Python's `or` has it; the last one stands.
                Some(text) if text.is_empty() && i < last => continue,
                Some(text) => FieldValue::Text(text),
                None => continue,
            },
            FieldKind::Number => FieldValue::Number(scalar.number()?),
            #[expect(clippy::cast_precision_loss, reason = "plausible times are below 2^53")]
            FieldKind::Time => FieldValue::Number(scalar.time_ms()? as f64),
            #[expect(clippy::cast_precision_loss, reason = "no document has 2^53 items")]
            FieldKind::Length => FieldValue::Number(found.items()? as f64),
            #[expect(clippy::cast_precision_loss, reason = "no document has 2^53 bytes")]
            FieldKind::JsonSize => FieldValue::Number(found.json_bytes()? as f64),
        };
        return Ok(value);
    }
    Ok(FieldValue::Missing)
}

/// Returns a text; a number or boolean becomes its text, null is none.
fn text_of(scalar: &Scalar<'_>) -> Result<Option<String>, Why> {
    match scalar {
        Scalar::Text(text) => Ok(Some(text.clone().into_owned())),
        Scalar::Bool(value) => Ok(Some(value.to_string())),
        Scalar::Integer(number) => Ok(Some(number.to_string())),
        Scalar::Number(number) => Ok(Some(number_text(*number))),
        Scalar::Null => Ok(None),
        Scalar::Malformed => Err(Why::Malformed),
        Scalar::Date(_) | Scalar::Other(_) => Err(Why::WrongType),
    }
}
