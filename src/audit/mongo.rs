//! MongoDB's side: everything that has completed, read once and raw, only the fields that identity and usability rest on.

use std::collections::HashMap;

use bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use mongodb::{Client, Cursor, Database};
use secrecy::ExposeSecret;
use tokio::runtime::Runtime;

use super::buckets::Key;
use super::ledger::{Fact, Open};
use super::run::AuditError;
use crate::config::Config;
use crate::config::show::redact_uri;
use crate::history::{client, completed_within, plain_name, projection, said};
use crate::spec::Spec;
use crate::tail::mongo::completed_filter;
use crate::tail::normalise::{Normalised, Normaliser, Unreadable};
use crate::tail::source::ClusterTime;

/// Documents in one batch of the cursor.
const BATCH: i32 = 10_000;
/// The same for each that follows.
const GET_MORE: u32 = 10_000;
/// Ids in one question.
const IDS: usize = 1_000;

/// What a document that completed turned out to be.
pub(super) type Take<'t> = dyn FnMut(&Fact<'_>) -> Result<(), AuditError> + 't;

/// The spec's collection.
pub(super) struct Collection {
    database: Database,
    runtime: Runtime,
    place: String,
    spec: Spec,
    normaliser: Normaliser,
}

/// How a collection is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum As {
    /// As it was at that cluster time.
    Of(ClusterTime),
    /// As a majority knows it.
    Now,
}

impl Collection {
    pub(super) fn open(config: &Config, spec: &Spec) -> Result<Self, AuditError> {
        let none =
            || AuditError::NotConfigured("mongodb.uri is not set: set MONGODB_URI, --mongodb-uri or the key in the configuration file");
        let uri = config.mongodb.uri.as_ref().ok_or_else(none)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| AuditError::Refused(format!("cannot start a runtime: {error}")))?;
        let name = config.mongodb.database.as_deref().unwrap_or(&spec.source.database);
        let place = format!("{name}.{} at {}", spec.source.collection, redact_uri(uri.expose_secret()));
        let made: Result<Client, _> = runtime.block_on(client(uri));
        let client = made.map_err(|error| AuditError::Mongodb { place: place.clone(), reason: said(&error) })?;
        // No feature is looked at: without its fields a document is read and sent in a third of the time.
        let mut light = spec.clone();
        light.fields.clear();
        light.features.clear();
        light.prediction.paths.clear();
        light.prediction.model_version = None;
        Ok(Self { database: client.database(name), runtime, place, spec: spec.clone(), normaliser: Normaliser::new(&light) })
    }

    fn failure(&self, error: &mongodb::error::Error) -> AuditError {
        AuditError::Mongodb { place: self.place.clone(), reason: said(error) }
    }

    /// Returns the server's time now.
    pub(super) fn operation_time(&self) -> Result<ClusterTime, AuditError> {
        let hello = self.runtime.block_on(async { self.database.run_command(doc! { "hello": 1 }).await });
        let hello = hello.map_err(|error| self.failure(&error))?;
        let time = hello
            .get_timestamp("operationTime")
            .map_err(|_| AuditError::Refused(format!("{} is neither of a replica set nor of a sharded cluster", self.place)))?;
        Ok((time.time, time.increment))
    }

    /// Returns about how many documents there are.
    pub(super) fn documents(&self) -> Result<u64, AuditError> {
        let collection = self.database.collection::<Document>(&self.spec.source.collection);
        self.runtime.block_on(async { collection.estimated_document_count().await }).map_err(|error| self.failure(&error))
    }

    /// Hands everything that has completed within `interval` to `take`. Returns `false`, perhaps after some of it, when the server has no
    /// such past any more.
    pub(super) fn each(&self, read_as: As, interval: Option<(i64, i64)>, take: &mut Take<'_>) -> Result<bool, AuditError> {
        let mut filter = completed_filter(&self.spec);
        if let Some(interval) = interval {
            filter = doc! { "$and": [filter, completed_within(&self.spec.ticket.completed_at, interval)] };
        }
        let concern = match read_as {
            As::Of((time, increment)) => doc! { "level": "snapshot", "atClusterTime": Timestamp { time, increment } },
            As::Now => doc! { "level": "majority" },
        };
        let mut find = doc! { "find": &self.spec.source.collection, "filter": filter, "batchSize": BATCH, "readConcern": concern };
        if let Some(projection) = projection(&self.normaliser.paths()) {
            find.insert("projection", projection);
        }
        let mut unreadable = Unreadable::default();
        let mut each = |document: &RawDocument| {
            let within = |ms: i64| interval.is_none_or(|(from_ms, to_ms)| (from_ms..to_ms).contains(&ms));
            match self.normaliser.from_bson(document, &mut unreadable) {
                Normalised::Completed(ticket) if within(ticket.completed_at_ms) => {
                    take(&Fact::Completed { key: &ticket.id.key(), completed_at_ms: ticket.completed_at_ms })
                }
                Normalised::Dead(dead) if interval.is_none() => {
                    let key = dead.id.as_ref().map(crate::ticket::TicketId::key);
                    take(&Fact::Dead { key: key.as_deref(), reason: dead.reason.name() })
                }
                _ => Ok(()),
            }
        };
        match self.read(find, &mut each) {
            Err(Stopped::By(error)) if matches!(read_as, As::Of(_)) && is_too_old(&error) => Ok(false),
            Err(Stopped::By(error)) => Err(self.failure(&error)),
            Err(Stopped::Taker(error)) => Err(error),
            Ok(()) => Ok(true),
        }
    }

    fn read(&self, find: Document, each: &mut dyn FnMut(&RawDocument) -> Result<(), AuditError>) -> Result<(), Stopped> {
        self.runtime.block_on(async {
            let cursor = self.database.run_cursor_command(find).batch_size(GET_MORE).await?;
            let mut cursor: Cursor<RawDocumentBuf> = cursor.with_type();
            while cursor.advance().await? {
                each(cursor.current()).map_err(Stopped::Taker)?;
            }
            Ok(())
        })
    }

    /// Returns what MongoDB has of these tickets now: whether each is completed, and when.
    pub(super) fn look_up(&self, wanted: &[Open]) -> Result<HashMap<Key, Vec<Option<i64>>>, AuditError> {
        let mut found: HashMap<Key, Vec<Option<i64>>> = HashMap::new();
        let Some(path) = plain_name(&self.spec.ticket.id) else { return Ok(found) };
        for some in wanted.chunks(IDS) {
            let ids: Vec<Bson> = some.iter().filter_map(|open| id(&open.key)).collect();
            let mut find = doc! {
                "find": &self.spec.source.collection, "filter": { &path: { "$in": ids } }, "readConcern": { "level": "majority" }
            };
            if let Some(projection) = projection(&self.normaliser.paths()) {
                find.insert("projection", projection);
            }
            let mut unreadable = Unreadable::default();
            let mut each = |document: &RawDocument| {
                let (id, completed_at_ms) = match self.normaliser.from_bson(document, &mut unreadable) {
                    Normalised::Completed(ticket) => (Some(ticket.id), Some(ticket.completed_at_ms)),
                    Normalised::Other(ticket) => (ticket.map(|ticket| ticket.id), None),
                    Normalised::Dead(dead) => (dead.id, None),
                };
                if let Some(id) = id {
                    found.entry(Key::of(&id.key())).or_default().push(completed_at_ms);
                }
                Ok(())
            };
            match self.read(find, &mut each) {
                Ok(()) => {}
                Err(Stopped::By(error)) => return Err(self.failure(&error)),
                Err(Stopped::Taker(error)) => return Err(error),
            }
        }
        Ok(found)
    }
}

enum Stopped {
    By(mongodb::error::Error),
    Taker(AuditError),
}

impl From<mongodb::error::Error> for Stopped {
    fn from(error: mongodb::error::Error) -> Self {
        Self::By(error)
    }
}

/// The server keeps the past for five minutes by default (239, 246), and some storage keeps none (72, 123).
fn is_too_old(error: &mongodb::error::Error) -> bool {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => matches!(command.code, 72 | 123 | 239 | 246),
        _ => false,
    }
}

/// Returns the id that a record key stands for, as MongoDB has it.
fn id(key: &[u8]) -> Option<Bson> {
    let text = std::str::from_utf8(key).ok()?;
    if text.starts_with(['{', '[', '"']) || matches!(text, "true" | "false") {
        return serde_json::from_str(text).ok();
    }
    Some(Bson::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::TicketId;

    #[test]
    fn a_record_key_leads_back_to_its_id() {
        let ids = [Bson::from("T-1"), Bson::from("{\"a\":1}"), Bson::from(true), Bson::from("true"), Bson::Int32(5), Bson::from("[x]")];
        for wanted in ids {
            let raw = bson::rawdoc! { "id": bson::RawBson::try_from(wanted.clone()).unwrap() };
            let of = crate::tail::normalise::id_of(raw.get("id").unwrap().unwrap()).unwrap();
            assert_eq!(id(&TicketId::key(&of)), Some(wanted));
        }
    }
}
