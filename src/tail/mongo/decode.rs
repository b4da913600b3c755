//! From a reply of the change stream to events, in order, each with its place.

use std::collections::HashMap;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf};
use bytes::Bytes;

use super::super::adopted::time_of_token;
use super::super::normalise::{DeadLetter, DeadReason, Normalised, Normaliser, Unreadable, id_of};
use super::super::source::{ClusterTime, Event, Place};
use crate::ticket::Transition;

/// A reply that is not what MongoDB's documentation says.
#[derive(Debug, thiserror::Error)]
#[error("the server's reply is not a change stream's: {0}")]
pub(super) struct NotAReply(String);

/// What is passed over when a stream is opened by time instead of by token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Skip {
    /// Nothing.
    Nothing,
    /// All that is not later than this token.
    Through(String),
    /// So many events of exactly this time.
    Events(ClusterTime, u32),
}

/// What the versions of documents turned out to be, by `_id` as a BSON document.
pub(super) type Versions = HashMap<Vec<u8>, Normalised>;

/// Reads replies one after the other.
pub(super) struct Decoder {
    normaliser: Normaliser,
    id_is_key: bool,
    skip: Skip,
    /// As it was at the beginning.
    first_skip: Skip,
    token: Bytes,
    time: ClusterTime,
    index: u32,
    /// Whether the place has moved since the beginning.
    has_moved: bool,
    pub(super) unreadable: Unreadable,
    /// The token of an invalidate: the stream ended with it.
    pub(super) invalidated: Option<Bytes>,
}

/// An event's parts.
#[derive(Default)]
struct Parts<'d> {
    token: Option<&'d RawDocument>,
    operation: &'d str,
    time: ClusterTime,
    document: Option<&'d RawDocument>,
    before: Option<&'d RawDocument>,
    key: Option<RawBsonRef<'d>>,
}

fn parts(event: &RawDocument) -> Result<Parts<'_>, NotAReply> {
    let mut parts = Parts::default();
    for element in event {
        let (name, value) = element.map_err(|error| NotAReply(error.to_string()))?;
        match (name.as_str(), value) {
            ("_id", RawBsonRef::Document(token)) => parts.token = Some(token),
            ("operationType", RawBsonRef::String(operation)) => parts.operation = operation,
            ("clusterTime", RawBsonRef::Timestamp(time)) => parts.time = (time.time, time.increment),
            ("fullDocument", RawBsonRef::Document(document)) => parts.document = Some(document),
            ("fullDocumentBeforeChange", RawBsonRef::Document(before)) => parts.before = Some(before),
            ("documentKey", RawBsonRef::Document(key)) => parts.key = key.get("_id").ok().flatten(),
            _ => {}
        }
    }
    Ok(parts)
}

/// Returns a value as the BSON document `{_id: value}`.
pub(super) fn id_document(id: RawBsonRef<'_>) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    document.append(bson::cstr!("_id"), id);
    document
}

/// Returns the `_id`s of updates whose values are not in the event.
pub(super) fn to_look_up(events: &[&RawDocument]) -> Result<Vec<RawDocumentBuf>, NotAReply> {
    let mut ids = Vec::new();
    for event in events {
        let parts = parts(event)?;
        if parts.operation == "update" && parts.document.is_none() {
            ids.extend(parts.key.map(id_document));
        }
    }
    Ok(ids)
}

/// Returns the events of a reply, all of them or none: what follows one that cannot be read would be lost.
pub(super) fn events_of(reply: &RawDocument) -> Result<Vec<&RawDocument>, NotAReply> {
    let broken = |error: &dyn std::fmt::Display| NotAReply(error.to_string());
    let cursor = reply.get_document("cursor").map_err(|error| broken(&error))?;
    let batch = match cursor.get("firstBatch").map_err(|error| broken(&error))? {
        Some(batch) => Some(batch),
        None => cursor.get("nextBatch").map_err(|error| broken(&error))?,
    };
    let batch = batch.and_then(RawBsonRef::as_array).ok_or_else(|| NotAReply("it has no batch".to_owned()))?;
    let mut events = Vec::new();
    for event in batch {
        let event = event.map_err(|error| broken(&error))?;
        events.push(event.as_document().ok_or_else(|| NotAReply("an event is no document".to_owned()))?);
    }
    Ok(events)
}

impl Decoder {
    pub(super) fn new(normaliser: Normaliser, id_is_key: bool, place: &Place, skip: Skip) -> Self {
        let (token, time, index) = match place {
            Place::Stream { token, time, index } => (token.clone(), *time, *index),
            Place::Rows(_) => (Bytes::new(), (0, 0), 0),
        };
        Self {
            normaliser,
            id_is_key,
            first_skip: skip.clone(),
            skip,
            token,
            time,
            index,
            has_moved: false,
            unreadable: Unreadable::default(),
            invalidated: None,
        }
    }

    pub(super) fn normaliser(&self) -> &Normaliser {
        &self.normaliser
    }

    fn place(&self) -> Place {
        Place::Stream { token: self.token.clone(), time: self.time, index: self.index }
    }

    /// Whether every event of `time` and before has been read: a later one has, or the server says so with a token of no event.
    pub(super) fn has_passed(&self, time: ClusterTime) -> bool {
        self.time > time || self.time == time && self.data().is_some_and(is_of_no_event)
    }

    fn data(&self) -> Option<&str> {
        RawDocument::from_bytes(&self.token).ok()?.get_str("_data").ok()
    }

    /// Reads one event; `versions` has the documents of updates that were looked up.
    pub(super) fn event(&mut self, event: &RawDocument, versions: &Versions) -> Result<Option<Event>, NotAReply> {
        let parts = parts(event)?;
        let token = parts.token.ok_or_else(|| NotAReply("an event without a resume token".to_owned()))?;
        if self.is_skipped(token, parts.time) {
            // The stream ends with it all the same.
            if parts.operation == "invalidate" {
                self.invalidated = Some(Bytes::copy_from_slice(token.as_bytes()));
            }
            return Ok(None);
        }
        self.move_to(token, parts.time);
        let transition = match parts.operation {
            "insert" => Transition::Insert,
            "update" => Transition::Update,
            "replace" if parts.before.is_none() => Transition::Assumed,
            "replace" => Transition::Replace,
            "invalidate" => {
                self.invalidated = Some(self.token.clone());
                return Ok(Some(Event::Idle { after: self.place() }));
            }
            _ => return Ok(Some(Event::Idle { after: self.place() })),
        };
        let was_completed = parts.operation == "replace" && parts.before.is_some_and(|before| self.normaliser.is_completed(before));
        let mut normalised = match (parts.operation, parts.document) {
            _ if was_completed => Normalised::Other(None),
            ("update", Some(document)) => self.normaliser.completed_from_bson(document, &mut self.unreadable),
            ("update", None) => looked_up(&parts, versions, self.id_is_key),
            (_, Some(document)) => self.normaliser.from_bson(document, &mut self.unreadable),
            (_, None) => Normalised::Other(None),
        };
        match &mut normalised {
            Normalised::Completed(ticket) => (ticket.commit, ticket.transition) = (Some(parts.time), transition),
            Normalised::Dead(letter) => letter.document = parts.key.and_then(id_of),
            Normalised::Other(_) => {}
        }
        Ok(Some(Event::Ticket { normalised, after: self.place() }))
    }

    /// Reads the events of a reply, and its own token.
    pub(super) fn reply(&mut self, reply: &RawDocument, events: &[&RawDocument], versions: &Versions) -> Result<Vec<Event>, NotAReply> {
        let mut read = Vec::with_capacity(events.len());
        for event in events {
            read.extend(self.event(event, versions)?);
        }
        let token = reply.get_document("cursor").and_then(|cursor| cursor.get_document("postBatchResumeToken"));
        if self.invalidated.is_none()
            && let Ok(token) = token
        {
            read.extend(self.replied(token));
        }
        Ok(read)
    }

    fn move_to(&mut self, token: &RawDocument, time: ClusterTime) {
        self.index = if time == self.time { self.index.saturating_add(1) } else { 1 };
        (self.token, self.time, self.has_moved) = (Bytes::copy_from_slice(token.as_bytes()), time, true);
    }

    /// Returns the token of the last event or reply that was taken; `None` while nothing was.
    pub(super) fn taken(&self) -> Option<Bytes> {
        self.has_moved.then(|| self.token.clone())
    }

    /// The stream begins once more where it began: what was passed over comes again.
    pub(super) fn begin_again(&mut self) {
        self.skip = self.first_skip.clone();
    }

    /// Takes an event of which the server tells no more than its key and that it is larger than it can send: a dead letter, unless
    /// it is to be passed over. Returns its token, too.
    pub(super) fn too_large(&mut self, event: &RawDocument, bytes: u64) -> Result<(Bytes, Option<Event>), NotAReply> {
        let parts = parts(event)?;
        let token = parts.token.ok_or_else(|| NotAReply("an event without a resume token".to_owned()))?;
        let its = Bytes::copy_from_slice(token.as_bytes());
        if self.is_skipped(token, parts.time) {
            return Ok((its, None));
        }
        self.move_to(token, parts.time);
        let is_completed = parts.operation == "update" || parts.document.is_some_and(|document| self.normaliser.is_completed(document));
        if !is_completed {
            return Ok((its, Some(Event::Idle { after: self.place() })));
        }
        let of_document = parts.document.and_then(|document| self.normaliser.id_from_bson(document));
        let id = of_document.or_else(|| parts.key.filter(|_| self.id_is_key).and_then(id_of));
        let key = parts.key.and_then(id_of).map_or_else(|| "unreadable".to_owned(), |id| id.json().to_owned());
        let detail = format!("the event of the document with _id {key} has {bytes} bytes, and MongoDB sends no more than 16 MB");
        let mut letter = DeadLetter::bare(id, DeadReason::TooLarge, detail);
        letter.document = parts.key.and_then(id_of);
        Ok((its, Some(Event::Ticket { normalised: Normalised::Dead(Box::new(letter)), after: self.place() })))
    }

    fn is_skipped(&mut self, token: &RawDocument, time: ClusterTime) -> bool {
        match &mut self.skip {
            Skip::Nothing => false,
            Skip::Through(data) => {
                // Tokens are KeyStrings in hex: their order is that of their text.
                let skipped = token.get_str("_data").is_ok_and(|theirs| theirs <= data.as_str());
                if !skipped {
                    self.skip = Skip::Nothing;
                }
                skipped
            }
            Skip::Events(at, left) => {
                if time > *at || *left == 0 {
                    self.skip = Skip::Nothing;
                    return false;
                }
                *left -= u32::from(time == *at && *left != u32::MAX);
                true
            }
        }
    }

    /// The reply ended with this token: no event before it is left.
    pub(super) fn replied(&mut self, token: &RawDocument) -> Option<Event> {
        if token.as_bytes() == self.token.as_ref() {
            return None;
        }
        let time = token.get_str("_data").ok().and_then(time_of_token)?;
        if time < self.time || matches!(&self.skip, Skip::Events(at, _) if time < *at) {
            return None;
        }
        if time > self.time {
            (self.time, self.index) = (time, 0);
        }
        (self.token, self.has_moved) = (Bytes::copy_from_slice(token.as_bytes()), true);
        Some(Event::Idle { after: self.place() })
    }
}

/// Returns what the version that was looked up turned out to be.
fn looked_up(parts: &Parts<'_>, versions: &Versions, id_is_key: bool) -> Normalised {
    let key = parts.key.map(id_document);
    if let Some(found) = key.as_ref().and_then(|key| versions.get(key.as_bytes())) {
        return found.clone();
    }
    let id = parts.key.filter(|_| id_is_key).and_then(id_of);
    let key = parts.key.and_then(id_of).map_or_else(|| "unreadable".to_owned(), |id| id.json().to_owned());
    Normalised::Dead(Box::new(DeadLetter::bare(
        id,
        DeadReason::GoneBeforeRead,
        format!("the document with _id {key} completed and was gone before its values could be read"),
    )))
}

/// Whether a token's `_data` is a high-water mark: after the timestamp, the version (1 or 2) and token type 0.
fn is_of_no_event(data: &str) -> bool {
    data.get(18..24).is_some_and(|rest| matches!(rest, "2B0129" | "2B0229"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use bson::rawdoc;

    fn decoder(skip: Skip) -> Decoder {
        let spec = Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap();
        let place = Place::Stream { token: Bytes::new(), time: (5, 1), index: 0 };
        Decoder::new(Normaliser::new(&spec), false, &place, skip)
    }

    fn event(operation: &str, time: ClusterTime, nth: u32, document: Option<RawDocumentBuf>) -> RawDocumentBuf {
        let stamp = bson::Timestamp { time: time.0, increment: time.1 };
        let data = format!("82{:08X}{:08X}2B022C0100296E5A{nth:04X}", time.0, time.1);
        let mut event = rawdoc! { "_id": { "_data": data }, "operationType": operation, "clusterTime": stamp, "documentKey": { "_id": 7 } };
        if let Some(document) = document {
            event.append(bson::cstr!("fullDocument"), document);
        }
        event
    }

    fn completed() -> RawDocumentBuf {
        let at = bson::DateTime::from_millis(1_700_000_000_000);
        rawdoc! { "ticket_id": "T", "status": "COMPLETED", "completed_at": at, "actual_duration_ms": 5 }
    }

    fn index(event: &Event) -> u32 {
        match event {
            Event::Ticket { after: Place::Stream { index, .. }, .. } | Event::Idle { after: Place::Stream { index, .. } } => *index,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_insert_is_a_ticket_with_its_commit_and_a_shared_time_counts_up() {
        let mut decoder = decoder(Skip::Nothing);
        for nth in 1..=3 {
            let event = decoder.event(&event("insert", (6, 1), nth, Some(completed())), &Versions::new()).unwrap().unwrap();
            let Event::Ticket { normalised: Normalised::Completed(ticket), .. } = &event else { panic!("{event:?}") };
            assert_eq!((ticket.commit, ticket.transition), (Some((6, 1)), Transition::Insert));
            assert_eq!(index(&event), nth);
        }
    }

    #[test]
    fn an_update_is_read_from_its_version_and_without_one_it_is_gone() {
        let mut decoder = decoder(Skip::Nothing);
        let key = id_document(RawBsonRef::Int32(7)).as_bytes().to_vec();
        let version = decoder.normaliser.completed_from_bson(&completed(), &mut Unreadable::default());
        let versions = Versions::from([(key, version)]);
        let update = event("update", (6, 1), 1, None);
        assert_eq!(to_look_up(&[&update]).unwrap().len(), 1);
        let found = decoder.event(&update, &versions).unwrap().unwrap();
        assert!(matches!(found, Event::Ticket { normalised: Normalised::Completed(_), .. }));
        let gone = decoder.event(&update, &Versions::new()).unwrap().unwrap();
        let Event::Ticket { normalised: Normalised::Dead(letter), .. } = gone else { panic!("{gone:?}") };
        assert_eq!(letter.reason, DeadReason::GoneBeforeRead);
    }

    #[test]
    fn a_replace_of_a_completed_ticket_does_not_complete_it_again() {
        let mut decoder = decoder(Skip::Nothing);
        let mut of = |before: Option<RawDocumentBuf>| {
            let mut event = event("replace", (6, 1), 1, Some(completed()));
            if let Some(before) = before {
                event.append(bson::cstr!("fullDocumentBeforeChange"), before);
            }
            match decoder.event(&event, &Versions::new()).unwrap().unwrap() {
                Event::Ticket { normalised: Normalised::Completed(ticket), .. } => Some(ticket.transition),
                _ => None,
            }
        };
        assert_eq!(of(None), Some(Transition::Assumed));
        assert_eq!(of(Some(rawdoc! { "status": "EXECUTING" })), Some(Transition::Replace));
        assert_eq!(of(Some(rawdoc! { "status": "COMPLETED" })), None);
    }

    #[test]
    fn a_reply_of_which_a_part_cannot_be_read_is_none() {
        let good = event("insert", (6, 1), 1, Some(completed()));
        let reply = |batch: bson::RawArrayBuf| rawdoc! { "cursor": { "nextBatch": batch, "id": 1_i64 } };
        let whole = reply(bson::RawArrayBuf::from_iter([good.clone(), good.clone()]));
        assert_eq!(events_of(&whole).unwrap().len(), 2);
        let mut other = bson::RawArrayBuf::from_iter([good]);
        other.push("no event");
        assert!(events_of(&reply(other)).is_err());
        assert!(events_of(&rawdoc! { "cursor": { "id": 1_i64 } }).is_err());
        // The second event's length is more than the array has.
        let mut bytes = whole.into_bytes();
        let at = bytes.windows(3).position(|name| name == b"\x031\0").unwrap() + 3;
        bytes[at + 1] += 1;
        assert!(RawDocument::from_bytes(&bytes).is_ok_and(|reply| events_of(reply).is_err()));
    }

    #[test]
    fn by_time_exactly_what_was_read_is_passed_over() {
        let mut decoder = decoder(Skip::Events((5, 1), 2));
        let mut read = |time, nth| decoder.event(&event("insert", time, nth, Some(completed())), &Versions::new()).unwrap().is_some();
        assert_eq!([read((5, 1), 1), read((5, 1), 2), read((5, 1), 3), read((5, 2), 4)], [false, false, true, true]);
    }

    #[test]
    fn a_stream_ends_with_an_invalidate_that_is_passed_over() {
        let invalidate = event("invalidate", (5, 1), 2, None);
        let data = invalidate.get_document("_id").unwrap().get_str("_data").unwrap().to_owned();
        let mut decoder = decoder(Skip::Through(data));
        assert!(decoder.event(&invalidate, &Versions::new()).unwrap().is_none());
        assert_eq!(decoder.invalidated.as_deref(), Some(invalidate.get_document("_id").unwrap().as_bytes()));
    }

    #[test]
    fn a_high_water_mark_passes_its_own_time_and_an_event_does_not() {
        let mut decoder = decoder(Skip::Nothing);
        decoder.event(&event("insert", (6, 1), 1, Some(completed())), &Versions::new()).unwrap();
        assert!(decoder.has_passed((6, 0)) && !decoder.has_passed((6, 1)));
        assert!(decoder.replied(&rawdoc! { "_data": "8200000006000000022B0229296E04" }).is_some());
        assert!(decoder.has_passed((6, 2)) && !decoder.has_passed((6, 3)));
    }
}
