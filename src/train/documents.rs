//! MongoDB as the train stage uses it: documents of what was decided, upserted by id, for the neighbours; how many tickets completed;
//! and what people ask for there.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bson::{Bson, DateTime, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use mongodb::{Client, Database};
use secrecy::ExposeSecret;
use tokio::runtime::Runtime;

use crate::clock::DAY_MS;
use crate::history::{completed_within, plain_name, said};
use crate::stage::Context;

/// How long a server is looked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long MongoDB may count tickets: without an index on the time of completion a large collection takes longer.
const COUNTING: Duration = Duration::from_secs(2);
/// Requests for a training.
const TRIGGERS: &str = "ml_retraining_triggers";
/// A request that is older than this is history, and asks for nothing.
const FRESH_MS: i64 = DAY_MS;
/// Requests that are taken at a time, and documents that are looked at for them.
const REQUESTS: usize = 16;
const LOOKED_AT: i64 = 1_000;
/// A document of more bytes is no request: whoever may write there could have it fill our memory.
const MOST_BYTES: i32 = 64 * 1_024;
/// Characters of a reason that are kept: it goes into records, whose length a topic bounds.
const REASON_CHARS: usize = 1_000;

/// One client on one runtime, made when first needed; nothing where no MongoDB is configured.
#[derive(Default)]
pub(super) struct Documents {
    connection: Mutex<Option<Connection>>,
}

struct Connection {
    runtime: Runtime,
    database: Database,
}

/// What somebody wrote into `ml_retraining_triggers`.
#[derive(Debug)]
pub(super) struct RequestDocument {
    /// Its `_id`, by which it is noted that it was taken.
    pub(super) id: Bson,
    /// 1 low to 4 critical, where it says so.
    pub(super) priority: Option<u8>,
    /// Why, where it says so.
    pub(super) reason: Option<String>,
}

impl RequestDocument {
    /// Reads a document; what cannot be read of it but its `_id` counts as not there.
    fn read(document: &RawDocument) -> Option<Self> {
        let id = document.get("_id").ok()?.and_then(|id| Bson::try_from(id).ok())?;
        let priority = match document.get("priority") {
            Ok(Some(RawBsonRef::Int32(priority))) => u8::try_from(priority).ok(),
            Ok(Some(RawBsonRef::Int64(priority))) => u8::try_from(priority).ok(),
            _ => None,
        };
        let reason = document.get_str("reason").ok().map(|reason| reason.chars().take(REASON_CHARS).collect());
        Some(Self { id, priority: priority.filter(|priority| (1..=4).contains(priority)), reason })
    }
}

impl Documents {
    /// Writes a document by its `_id`. A failure is told and costs the document alone.
    pub(super) fn write(&self, context: &Context, collection: &str, document: &Document) {
        let id = document.get("_id").cloned().unwrap_or(Bson::Null);
        let written = self.with(context, async |database| {
            database.collection::<Document>(collection).replace_one(doc! { "_id": id }, document).upsert(true).await.map(drop)
        });
        if let Some(Err(error)) = written {
            tracing::warn!(collection, error, "a document of a decision was not written; the decision stands in the log");
        }
    }

    /// Returns how many tickets completed in a span, ms since 1970, at most `most`; `None` when MongoDB does not say in time.
    pub(super) fn completed(&self, context: &Context, span_ms: (i64, i64), most: u64) -> Option<u64> {
        let (spec, ticket) = (&context.spec, &context.spec.ticket);
        let mut filter = completed_within(&ticket.completed_at, span_ms);
        if let Some(status) = plain_name(&ticket.status) {
            filter.insert(status, doc! { "$in": &ticket.completed });
        }
        let counted = self.with(context, async |database| {
            let collection = database.collection::<Document>(&spec.source.collection);
            collection.count_documents(filter).limit(most).max_time(COUNTING).await
        })?;
        match counted {
            Ok(rows) => Some(rows),
            Err(error) => {
                let wants = "an index on the time of completion lets it be counted";
                tracing::warn!(error, "how many tickets completed since the last training is not known: {wants}");
                None
            }
        }
    }

    /// Returns the fresh requests of people that have not been taken.
    pub(super) fn requests(&self, context: &Context, now_ms: i64) -> Vec<RequestDocument> {
        let filter = doc! {
            "trigger_type": "manual",
            "model_name": &context.spec.model,
            "metadata.spec": { "$exists": false },
            "metadata.trigger": { "$exists": false },
            "timestamp": { "$gte": DateTime::from_millis(now_ms - FRESH_MS) },
            "$expr": { "$lte": [{ "$bsonSize": "$$ROOT" }, MOST_BYTES] },
        };
        let found = self.with(context, async |database| {
            let triggers = database.collection::<RawDocumentBuf>(TRIGGERS);
            let requests = triggers.find(filter).sort(doc! { "timestamp": 1 }).projection(doc! { "priority": 1, "reason": 1 });
            let mut cursor = requests.limit(LOOKED_AT).batch_size(50).await?;
            let (mut found, mut nameless) = (Vec::new(), 0_u32);
            while found.len() < REQUESTS && cursor.advance().await? {
                match RequestDocument::read(cursor.current()) {
                    Some(request) => found.push(request),
                    None => nameless += 1,
                }
            }
            if nameless > 0 {
                tracing::warn!(nameless, "documents of {TRIGGERS} have an _id that cannot be read, and ask for nothing: delete them");
            }
            Ok(found)
        });
        match found {
            Some(Ok(found)) => found,
            Some(Err(error)) => {
                tracing::debug!(error, "looking for requests in {TRIGGERS}");
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Notes in a request's document which trigger came of it.
    pub(super) fn taken(&self, context: &Context, id: &Bson, trigger: &str) {
        // Whatever metadata was before, a document or not, is now one that names the trigger.
        let update = vec![doc! { "$set": { "metadata": { "$mergeObjects": [
            { "$cond": [{ "$eq": [{ "$type": "$metadata" }, "object"] }, "$metadata", {}] },
            { "trigger": { "$literal": trigger } },
        ] } } }];
        let written = self.with(context, async |database| {
            database.collection::<Document>(TRIGGERS).update_one(doc! { "_id": id }, update).await.map(drop)
        });
        if let Some(Err(error)) = written {
            tracing::warn!(error, trigger, "it could not be noted in {TRIGGERS} that a request was taken; it is known in the log");
        }
    }

    /// Does something with the database; `None` without a MongoDB, else what came of it, the driver's errors in words.
    fn with<T>(
        &self,
        context: &Context,
        act: impl AsyncFnOnce(&Database) -> Result<T, mongodb::error::Error>,
    ) -> Option<Result<T, String>> {
        context.config.mongodb.uri.as_ref()?;
        let mut kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            match Connection::new(context) {
                Ok(connection) => *kept = Some(connection),
                Err(error) => return Some(Err(error)),
            }
        }
        let connection = kept.as_ref()?;
        Some(connection.runtime.block_on(act(&connection.database)).map_err(|error| said(&error)))
    }
}

impl Connection {
    fn new(context: &Context) -> Result<Self, String> {
        let config = &context.config;
        let uri = config.mongodb.uri.as_ref().ok_or("mongodb.uri is not set")?;
        // The driver's own tasks go on between two calls.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        let client = runtime.block_on(async {
            let mut options = ClientOptions::parse(uri.expose_secret()).await?;
            options.app_name.get_or_insert_with(|| "tidemark".to_owned());
            options.server_selection_timeout = Some(PATIENCE);
            options.connect_timeout = Some(PATIENCE);
            options.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).w_timeout(PATIENCE).build());
            Client::with_options(options)
        });
        let client = client.map_err(|error| said(&error))?;
        let database = client.database(config.mongodb.database.as_deref().unwrap_or(&context.spec.source.database));
        Ok(Self { runtime, database })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_far_as_it_goes_and_its_reason_is_bounded() {
        let plain = RequestDocument::read(&bson::rawdoc! { "_id": 7, "priority": 3_i64, "reason": "why" }).unwrap();
        assert_eq!((plain.id, plain.priority, plain.reason.as_deref()), (Bson::Int32(7), Some(3), Some("why")));
        let odd = bson::rawdoc! { "_id": "a", "priority": 9, "reason": "\u{1F600}".repeat(9_000) };
        let odd = RequestDocument::read(&odd).unwrap();
        assert_eq!((odd.priority, odd.reason.unwrap().chars().count()), (None, REASON_CHARS));
        // No UTF-8 in the reason, and then in the _id.
        let mut bytes = bson::rawdoc! { "_id": "abc", "reason": "xyz" }.into_bytes();
        let at = bytes.windows(3).position(|three| three == b"xyz").unwrap();
        bytes[at] = 0xFF;
        assert!(RequestDocument::read(RawDocument::from_bytes(&bytes).unwrap()).is_some_and(|request| request.reason.is_none()));
        let at = bytes.windows(3).position(|three| three == b"abc").unwrap();
        bytes[at] = 0xFF;
        assert!(RequestDocument::read(RawDocument::from_bytes(&bytes).unwrap()).is_none());
        assert!(RequestDocument::read(&bson::rawdoc! { "reason": "nobody's" }).is_none());
    }
}
