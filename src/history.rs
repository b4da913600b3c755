//! Tickets of the past, as commands and trainings read them: from a file, or from MongoDB by majority, each completion once.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::Client;
use mongodb::options::{ClientOptions, ReadConcern};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::clock::{DAY_MS, rfc3339};
use crate::config::Config;
use crate::config::show::redact_uri;
use crate::spec::{Path as FieldPath, Spec};
pub use crate::tail::mongo::said;
use crate::tail::normalise::{Normalised, Normaliser, Unreadable};
use crate::tail::replay::{Replay, ReplayError, Slowdown};
use crate::ticket::Ticket;

/// Documents in one batch of the cursor.
const BATCH: u32 = 1_000;
/// How long a server is looked for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the past cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file.
    #[error(transparent)]
    File(#[from] ReplayError),
    /// MongoDB is not configured, or its address cannot be used.
    #[error("{0}")]
    NotConfigured(String),
    /// MongoDB does not answer, or refuses.
    #[error("cannot read {place}: {reason}; `tidemark config check --connect` tries each step")]
    Mongodb {
        /// Database, collection and server, without secrets.
        place: String,
        /// What the driver says.
        reason: String,
    },
}

/// Where tickets are read.
#[derive(Clone, Debug)]
pub enum Place {
    /// NDJSON, plain or packed, or Parquet; `-` is standard input. What is slowed down on the way, if anything.
    File(PathBuf, Option<Slowdown>),
    /// The spec's collection.
    Mongodb,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Documents.
    pub documents: u64,
    /// Completed tickets, each once.
    pub completed: u64,
    /// Documents that are not completed.
    pub others: u64,
    /// Completions that were there before.
    pub repeats: u64,
    /// Documents that cannot be used, by reason.
    pub dead: BTreeMap<&'static str, u64>,
    /// Fields that could not be read, by `field: reason`.
    pub unreadable: BTreeMap<String, u64>,
}

impl Tally {
    /// Says what could not be used, in words; `None` when all could.
    #[must_use]
    pub fn unused(&self) -> Option<String> {
        let dead: Vec<String> = self.dead.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let fields: Vec<String> = self.unreadable.iter().map(|(field, count)| format!("{field} in {count}")).collect();
        let mut said = Vec::new();
        if !dead.is_empty() {
            said.push(format!("documents that cannot be used: {}", dead.join(", ")));
        }
        if !fields.is_empty() {
            said.push(format!("fields that cannot be read: {}", fields.join(", ")));
        }
        if self.repeats > 0 {
            said.push(format!("repeated completions: {}", self.repeats));
        }
        (!said.is_empty()).then(|| said.join("; "))
    }
}

/// A ticket, and whether it completed.
pub enum Found<'t> {
    /// It did.
    Completed(&'t Ticket),
    /// It has a target and did not.
    Other(&'t Ticket),
}

struct Reading<'r> {
    normaliser: Normaliser,
    unreadable: Unreadable,
    seen: HashSet<[u8; 16]>,
    tally: Tally,
    take: &'r mut dyn FnMut(&Found<'_>),
}

impl Reading<'_> {
    fn take(&mut self, normalised: Normalised) {
        self.tally.documents += 1;
        match normalised {
            Normalised::Completed(ticket) => {
                let mut sha = Sha256::new_with_prefix(ticket.id.json());
                sha.update(ticket.completed_at_ms.to_le_bytes());
                let mut key = [0; 16];
                key.copy_from_slice(&sha.finalize()[..16]);
                if self.seen.insert(key) {
                    self.tally.completed += 1;
                    (self.take)(&Found::Completed(&ticket));
                } else {
                    self.tally.repeats += 1;
                }
            }
            Normalised::Other(ticket) => {
                self.tally.others += 1;
                if let Some(ticket) = ticket {
                    (self.take)(&Found::Other(&ticket));
                }
            }
            Normalised::Dead(dead) => *self.tally.dead.entry(dead.reason.name()).or_default() += 1,
        }
    }

    fn end(mut self, spec: &Spec) -> Tally {
        for (field, why, count) in self.unreadable.iter() {
            self.tally.unreadable.insert(format!("{} ({})", spec.fields[field].name, why.name()), count);
        }
        self.tally
    }
}

/// Hands every ticket of `place` to `take`. From MongoDB only those that may have completed in `[from_ms, to_ms)` are read;
/// the taker looks again. `seen` is called once a document.
///
/// # Errors
/// [`HistoryError`].
pub fn each(
    place: &Place,
    config: &Config,
    spec: &Spec,
    interval: (i64, i64),
    seen: &mut dyn FnMut(),
    take: &mut dyn FnMut(&Found<'_>),
) -> Result<Tally, HistoryError> {
    let reading = Reading {
        normaliser: Normaliser::new(spec),
        unreadable: Unreadable::default(),
        seen: HashSet::new(),
        tally: Tally::default(),
        take,
    };
    match place {
        Place::File(path, slowdown) => from_file(path, slowdown.as_ref(), spec, reading, seen),
        Place::Mongodb => from_mongodb(config, spec, interval, reading, seen),
    }
}

fn from_file(
    path: &Path,
    slowdown: Option<&Slowdown>,
    spec: &Spec,
    mut reading: Reading<'_>,
    seen: &mut dyn FnMut(),
) -> Result<Tally, HistoryError> {
    let mut replay = Replay::open(path, spec)?;
    if let Some(slowdown) = slowdown {
        replay = replay.with_slowdown(slowdown.clone());
    }
    for row in replay.by_ref() {
        reading.take(row?.normalised);
        seen();
    }
    reading.unreadable = replay.take_unreadable();
    Ok(reading.end(spec))
}

fn from_mongodb(
    config: &Config,
    spec: &Spec,
    interval: (i64, i64),
    mut reading: Reading<'_>,
    seen: &mut dyn FnMut(),
) -> Result<Tally, HistoryError> {
    let Some(uri) = &config.mongodb.uri else {
        let ways = "set MONGODB_URI, MONGODB_URI_FILE, --mongodb-uri or the key in the configuration file";
        return Err(HistoryError::NotConfigured(format!("mongodb.uri is not set: {ways}")));
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| HistoryError::NotConfigured(format!("cannot start a runtime: {error}")))?;
    let database = config.mongodb.database.as_deref().unwrap_or(&spec.source.database);
    let place = format!("{database}.{} at {}", spec.source.collection, redact_uri(uri.expose_secret()));
    let failure = |error: &mongodb::error::Error| HistoryError::Mongodb { place: place.clone(), reason: said(error) };
    runtime.block_on(async {
        let client = client(uri).await.map_err(|error| failure(&error))?;
        let collection = client.database(database).collection::<RawDocumentBuf>(&spec.source.collection);
        let filter = completed_within(&spec.ticket.completed_at, interval);
        let mut find = collection.find(filter).batch_size(BATCH).no_cursor_timeout(false);
        if let Some(projection) = projection(&reading.normaliser.paths()) {
            find = find.projection(projection);
        }
        let mut cursor = find.await.map_err(|error| failure(&error))?;
        while cursor.advance().await.map_err(|error| failure(&error))? {
            let normalised = reading.normaliser.from_bson(cursor.current(), &mut reading.unreadable);
            reading.take(normalised);
            seen();
        }
        Ok::<(), HistoryError>(())
    })?;
    Ok(reading.end(spec))
}

/// Makes a client whose reads are majority reads, patient for seconds unless the connection string says otherwise.
pub(crate) async fn client(uri: &SecretString) -> Result<Client, mongodb::error::Error> {
    let mut options = ClientOptions::parse(uri.expose_secret()).await?;
    options.app_name.get_or_insert_with(|| "tidemark".to_owned());
    options.server_selection_timeout.get_or_insert(PATIENCE);
    options.connect_timeout.get_or_insert(PATIENCE);
    options.read_concern = Some(ReadConcern::majority());
    Client::with_options(options)
}

/// 0001-01-01, ms since 1970.
const FIRST_DAY_MS: i64 = -62_135_596_800_000;
/// 9999-12-31, ms since 1970.
const LAST_DAY_MS: i64 = 253_402_214_400_000;

/// Times occur as dates, numbers of ms and texts; MongoDB compares within a type only. Texts may carry an offset, so their
/// bounds are a day wider.
pub(crate) fn completed_within(path: &FieldPath, (from_ms, to_ms): (i64, i64)) -> Document {
    let (Some(name), true) = (plain_name(path), from_ms < to_ms) else { return Document::new() };
    let date = |ms: i64| Bson::DateTime(bson::DateTime::from_millis(ms));
    // A year of five digits stands before all others, as a text.
    let day = |ms: i64| rfc3339(ms.clamp(FIRST_DAY_MS, LAST_DAY_MS))[..10].to_owned();
    doc! { "$or": [
        { &name: { "$gte": date(from_ms), "$lt": date(to_ms) } },
        { &name: { "$gte": from_ms, "$lt": to_ms } },
        { &name: { "$gte": day(from_ms - DAY_MS), "$lt": day(to_ms + 2 * DAY_MS) } },
    ] }
}

/// The path as a query names it; `None` when one of its names cannot stand there.
pub(crate) fn plain_name(path: &FieldPath) -> Option<String> {
    let fine = path.names().iter().all(|name| !name.contains('.') && !name.starts_with('$'));
    fine.then(|| path.to_string())
}

/// An inclusive projection: each path, or the part of it before a name that cannot stand there.
pub(crate) fn projection(paths: &[&FieldPath]) -> Option<Document> {
    let mut wanted: Vec<String> = Vec::new();
    for path in paths {
        let plain: Vec<&str> =
            path.names().iter().map(String::as_str).take_while(|name| !name.contains('.') && !name.starts_with('$')).collect();
        if plain.is_empty() {
            return None;
        }
        wanted.push(plain.join("."));
    }
    wanted.sort();
    // A path below another that is there collides with it.
    wanted.dedup_by(|below, above| *below == *above || below.starts_with(&format!("{above}.")));
    let mut projection: Document = wanted.iter().map(|path| (path.clone(), Bson::Int32(1))).collect();
    if !wanted.iter().any(|path| path == "_id" || path.starts_with("_id.")) {
        projection.insert("_id", 0);
    }
    Some(projection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(json: &str) -> FieldPath {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_form_of_time_is_asked_for() {
        let filter = completed_within(&path("\"done.at\""), (0, DAY_MS));
        let branches = filter.get_array("$or").unwrap();
        assert_eq!(branches.len(), 3);
        let texts = branches[2].as_document().unwrap().get_document("done.at").unwrap();
        assert_eq!(texts, &doc! { "$gte": "1969-12-31", "$lt": "1970-01-04" });
        assert_eq!(completed_within(&path("[\"a.b\"]"), (0, 1)), doc! {});
        // Years of more than four digits are no dates as texts.
        let open = completed_within(&path("\"at\""), (i64::MIN / 2, i64::MAX / 2));
        let texts = open.get_array("$or").unwrap()[2].as_document().unwrap().get_document("at").unwrap();
        assert_eq!(texts, &doc! { "$gte": "0001-01-01", "$lt": "9999-12-31" });
    }

    #[test]
    fn a_projection_has_no_path_below_another_and_no_name_that_mongodb_reads_otherwise() {
        let paths = [path("\"a.b\""), path("[\"a\", \"c.d\"]"), path("\"z\"")];
        let projection = projection(&paths.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(projection, doc! { "a": 1, "z": 1, "_id": 0 });
        assert_eq!(super::projection(&[&path("[\"a.b\"]")]), None);
        assert_eq!(super::projection(&[&path("\"_id\"")]), Some(doc! { "_id": 1 }));
    }

    #[test]
    fn what_could_not_be_used_is_said() {
        assert_eq!(Tally::default().unused(), None);
        let tally = Tally { dead: BTreeMap::from([("no_actual", 3)]), repeats: 2, ..Tally::default() };
        assert_eq!(tally.unused().unwrap(), "documents that cannot be used: 3 no_actual; repeated completions: 2");
    }
}
