//! MongoDB's part: spans of tickets read through an index, predictions written back, the document of the statistics.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use crossbeam_channel::bounded;
use mongodb::options::IndexOptions;
use mongodb::{Client, IndexModel};
use secrecy::ExposeSecret;
use tokio::runtime::Runtime;

use super::item::{Input, Item, Scoring};
use super::read::{CHUNK, CHUNKS, Plan, Sweep};
use super::{BackfillError, Report, Span};
use crate::clock::DAY_MS;
use crate::config::Config;
use crate::config::show::redact_uri;
use crate::history::{client, completed_within, plain_name, projection, said};
use crate::spec::{Path, Spec};
use crate::stage::Stop;
use crate::tail::normalise::{EARLIEST_MS, LATEST_MS, from_rfc3339};

/// Collection of the statistics.
pub(super) const HISTORY: &str = "ml_backfill_history";
/// Updates in one command.
pub(super) const UPDATES: usize = 1_000;
/// Documents that one span holds, about.
const SPAN_DOCUMENTS: u64 = 20_000;
/// Documents in one batch of the cursor.
const BATCH: u32 = 1_000;

/// The spec's collection.
pub(super) struct Collection {
    client: Client,
    runtime: Runtime,
    database: String,
    name: String,
    address: String,
    completed_at: Path,
    write_back: Option<WriteBack>,
}

/// MongoDB's code for a field below something that is no document.
const PATH_NOT_VIABLE: i64 = 28;

/// What became of predictions that were to be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WrittenBack {
    /// Tickets that were changed.
    pub(super) changed: u64,
    /// Tickets that have something else where the document of the prediction should be.
    pub(super) blocked: u64,
}

/// What one command did.
#[derive(Default)]
struct Updated {
    changed: u64,
    /// Places of updates in the command that no path led to.
    blocked: Vec<usize>,
}

fn whole(number: Option<&Bson>) -> Option<i64> {
    number.and_then(|number| number.as_i64().or_else(|| number.as_i32().map(i64::from)))
}

fn reason(error: &Document) -> String {
    error.get_str("errmsg").unwrap_or("no reason given").to_owned()
}

/// Where predictions are written back to.
struct WriteBack {
    prediction: String,
    version: String,
    completed_at: String,
}

impl Collection {
    /// Prepares to read; `None` when MongoDB is not configured.
    pub(super) fn open(config: &Config, spec: &Spec, write_back: bool) -> Result<Option<Self>, BackfillError> {
        let Some(uri) = &config.mongodb.uri else { return Ok(None) };
        let address = redact_uri(uri.expose_secret());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| BackfillError::Usage(format!("cannot start a runtime: {error}")))?;
        let client = runtime.block_on(client(uri)).map_err(|error| failure(&format!("use {address}"), &error))?;
        let database = config.mongodb.database.as_deref().unwrap_or(&spec.source.database).to_owned();
        let write_back = if write_back { Some(WriteBack::of(spec)?) } else { None };
        let (name, completed_at) = (spec.source.collection.clone(), spec.ticket.completed_at.clone());
        Ok(Some(Self { client, runtime, database, name, address, completed_at, write_back }))
    }

    fn place(&self) -> String {
        format!("{}.{} at {}", self.database, self.name, self.address)
    }

    fn documents(&self) -> mongodb::Collection<Document> {
        self.client.database(&self.database).collection(&self.name)
    }

    /// Cuts a span into spans of about as many documents, where an index makes reading one cheap; else it is read in one pass.
    pub(super) fn plan(&self, span: Span, notes: &mut Vec<String>) -> Result<Plan, BackfillError> {
        let reading = format!("read {}", self.place());
        self.runtime.block_on(self.planned(span, notes)).map_err(|error| failure(&reading, &error))
    }

    async fn planned(&self, span: Span, notes: &mut Vec<String>) -> mongodb::error::Result<Plan> {
        let total = self.documents().estimated_document_count().await?;
        let one = |total| Plan { spans: [span].into(), total };
        let Some(name) = plain_name(&self.completed_at) else { return Ok(one(Some(total))) };
        if !self.has_index(&name).await? {
            notes.push(format!(
                "{} has no index on {name}: all of it was read in one pass; db.{}.createIndex({{\"{name}\": 1}}) lets spans of time \
                 be read at once",
                self.place(),
                self.name
            ));
            return Ok(one((span.is_open()).then_some(total)));
        }
        let Some((earliest, latest)) = self.extent(&name, span).await? else { return Ok(one(Some(0))) };
        let counted = if span.is_open() { total } else { self.documents().count_documents(within(&self.completed_at, span)).await? };
        Ok(Plan { spans: cut(span, earliest, latest, counted), total: Some(counted) })
    }

    async fn has_index(&self, name: &str) -> mongodb::error::Result<bool> {
        use futures_util::TryStreamExt;
        let indexes: Vec<IndexModel> = match self.documents().list_indexes().await {
            Ok(cursor) => cursor.try_collect().await?,
            // NamespaceNotFound: there is no such collection yet.
            Err(error) if matches!(error.kind.as_ref(), mongodb::error::ErrorKind::Command(command) if command.code == 26) => vec![],
            Err(error) => return Err(error),
        };
        let is_whole = |index: &IndexModel| {
            let options = index.options.as_ref();
            options.is_none_or(|options| options.partial_filter_expression.is_none() && options.sparse != Some(true))
        };
        Ok(indexes.iter().any(|index| index.keys.keys().next().is_some_and(|first| first == name) && is_whole(index)))
    }

    /// Returns first and last completion, ms since 1970. MongoDB sorts by type first, so each type of time is asked for.
    async fn extent(&self, name: &str, span: Span) -> mongodb::error::Result<Option<(i64, i64)>> {
        let mut extent: Option<(i64, i64)> = None;
        for kind in ["date", "number", "string"] {
            for direction in [1, -1] {
                let filter = doc! { name: { "$type": kind } };
                let found = self.documents().find_one(filter).sort(doc! { name: direction }).projection(doc! { name: 1, "_id": 0 }).await?;
                let Some(ms) = found.and_then(|found| time(&self.completed_at, &found)) else { continue };
                let ms = ms.clamp(EARLIEST_MS, LATEST_MS);
                let ms = span.to_ms.map_or(ms, |to| ms.min(to - 1)).max(span.from_ms.unwrap_or(ms));
                extent = Some(extent.map_or((ms, ms), |(first, last)| (first.min(ms), last.max(ms))));
            }
        }
        Ok(extent)
    }

    /// Reads a span: one thread follows the cursor, this one scores what it brings.
    pub(super) fn sweep(
        &self,
        span: Span,
        scoring: &Scoring,
        read: &AtomicU64,
        stop: &Stop,
        sweep: &mut Sweep,
    ) -> Result<(), BackfillError> {
        let (send, chunks) = bounded::<Vec<Input>>(CHUNKS);
        let filter = within(&self.completed_at, span);
        let mut paths = scoring.normaliser.paths();
        let id = Path::named("_id");
        if self.write_back.is_some() && !paths.contains(&&id) {
            paths.push(&id);
        }
        let projection = projection(&paths);
        std::thread::scope(|scope| {
            let cursor = scope.spawn(|| {
                self.runtime.block_on(async {
                    let documents = self.documents().clone_with_type::<RawDocumentBuf>();
                    let mut find = documents.find(filter).batch_size(BATCH);
                    if let Some(projection) = projection {
                        find = find.projection(projection);
                    }
                    let mut cursor = find.await?;
                    let mut chunk = Vec::with_capacity(CHUNK);
                    while cursor.advance().await? {
                        chunk.push(Input::Document(cursor.current().to_owned()));
                        if chunk.len() == CHUNK && send.send(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK))).is_err() {
                            return Ok(());
                        }
                    }
                    // The last chunk is for nobody when the scorer has given up.
                    let _unheard = send.send(chunk);
                    drop(send);
                    Ok::<(), mongodb::error::Error>(())
                })
            });
            for chunk in chunks {
                read.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                sweep.take_chunk(scoring, span, chunk);
                if stop.is_asked() {
                    return Err(BackfillError::Stopped);
                }
            }
            let ended = cursor.join().expect("reading a cursor does not panic");
            ended.map_err(|error| failure(&format!("read {}", self.place()), &error))
        })
    }

    /// Stores predictions on their tickets. A ticket that completed again meanwhile, or that has the prediction of this version
    /// already, stays as it is.
    pub(super) fn write_back(&self, items: &[Item], version: u64) -> Result<WrittenBack, BackfillError> {
        let Some(to) = &self.write_back else { return Ok(WrittenBack::default()) };
        let version = version.to_string();
        let stored: Vec<(f64, &(Bson, Bson))> = items.iter().filter_map(|item| Some((item.predicted, item.stored.as_deref()?))).collect();
        let filter = |(id, completed_at): &(Bson, Bson)| {
            let there = doc! { &to.version: &version, &to.prediction: { "$gt": 0 } };
            doc! { "_id": id.clone(), &to.completed_at: completed_at.clone(), "$nor": [there] }
        };
        let set = |(predicted, stored): &(f64, &(Bson, Bson))| {
            doc! { "q": filter(stored), "u": { "$set": { &to.prediction: *predicted, &to.version: &version } } }
        };
        let Updated { changed, blocked } = self.update(stored.iter().map(set).collect())?;
        let Some((parent, prediction, own_version)) = to.parent().filter(|_| !blocked.is_empty()) else {
            return Ok(WrittenBack { changed, blocked: blocked.len() as u64 });
        };
        // Nothing can be set below a null: there the whole document is set.
        let place = |index: &usize| {
            let (predicted, stored) = stored.get(*index)?;
            let mut wanted = filter(stored);
            wanted.insert(parent, doc! { "$type": "null" });
            let whole = doc! { prediction: *predicted, own_version: &version };
            Some(doc! { "q": wanted, "u": { "$set": { parent: whole } } })
        };
        let placed = self.update(blocked.iter().filter_map(place).collect())?;
        Ok(WrittenBack { changed: changed + placed.changed, blocked: (blocked.len() as u64).saturating_sub(placed.changed) })
    }

    fn update(&self, updates: Vec<Document>) -> Result<Updated, BackfillError> {
        if updates.is_empty() {
            return Ok(Updated::default());
        }
        let doing = format!("write predictions back to {}", self.place());
        let command = doc! { "update": &self.name, "updates": updates, "ordered": false, "writeConcern": { "w": "majority" } };
        let reply = self.runtime.block_on(async { self.client.database(&self.database).run_command(command).await });
        let reply = reply.map_err(|error| failure(&doing, &error))?;
        let mut blocked = Vec::new();
        for error in reply.get_array("writeErrors").into_iter().flatten().filter_map(Bson::as_document) {
            match (whole(error.get("code")), whole(error.get("index"))) {
                (Some(PATH_NOT_VIABLE), Some(index)) => blocked.extend(usize::try_from(index).ok()),
                _ => return Err(BackfillError::Mongodb { doing, reason: reason(error) }),
            }
        }
        if let Ok(error) = reply.get_document("writeConcernError") {
            return Err(BackfillError::Mongodb { doing, reason: reason(error) });
        }
        let changed = whole(reply.get("nModified")).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        Ok(Updated { changed, blocked })
    }

    /// Writes the document of a job, over the one it had.
    pub(super) fn write_report(&self, report: &Report, retention_days: u32, now_ms: i64) -> Result<(), BackfillError> {
        let date = |ms: i64| Bson::DateTime(DateTime::from_millis(ms));
        let stats = bson::serialize_to_document(&report.stats).expect("statistics have only texts, numbers and lists");
        let document = doc! {
            "_id": &report.id,
            "timestamp": date(now_ms),
            "retention_until": date(now_ms + i64::from(retention_days) * DAY_MS),
            "spec": &report.spec,
            "model_name": &report.model,
            "model_version": report.version.map(|version| version.to_string()),
            "source": report.source,
            "from": report.from_ms.map(date),
            "to": report.to_ms.map(date),
            "stats": stats,
        };
        let collection = self.client.database(&self.database).collection::<Document>(HISTORY);
        let doing = format!("write {} to {}.{HISTORY} at {}", report.id, self.database, self.address);
        let options = IndexOptions::builder().expire_after(std::time::Duration::ZERO).build();
        let index = IndexModel::builder().keys(doc! { "retention_until": 1 }).options(options).build();
        self.runtime
            .block_on(async {
                collection.create_index(index).await?;
                collection.replace_one(doc! { "_id": &report.id }, document).upsert(true).await
            })
            .map(|_| ())
            .map_err(|error| failure(&doing, &error))
    }
}

impl WriteBack {
    /// Returns the document that holds both, and their names in it; `None` when they are at the root.
    fn parent(&self) -> Option<(&str, &str, &str)> {
        let (parent, prediction) = self.prediction.rsplit_once('.')?;
        let (_, version) = self.version.rsplit_once('.')?;
        Some((parent, prediction, version))
    }

    /// The prediction goes beside its version: the first of the spec's prediction paths with the version's parent.
    fn of(spec: &Spec) -> Result<Self, BackfillError> {
        let cannot = |what: &str| BackfillError::Usage(format!("--write-back needs {what} in the spec {}", spec.name));
        let version = spec.prediction.model_version.as_ref().ok_or_else(|| cannot("prediction.model_version"))?;
        let parent = |path: &Path| path.names()[..path.names().len() - 1].to_vec();
        let prediction = spec.prediction.paths.iter().find(|path| parent(path) == parent(version));
        let prediction = prediction.ok_or_else(|| cannot("a path of prediction.paths beside prediction.model_version"))?;
        let plain = |path: &Path| plain_name(path).ok_or_else(|| cannot("names without dots and dollars"));
        Ok(Self { prediction: plain(prediction)?, version: plain(version)?, completed_at: plain(&spec.ticket.completed_at)? })
    }
}

fn failure(doing: &str, error: &mongodb::error::Error) -> BackfillError {
    BackfillError::Mongodb { doing: doing.to_owned(), reason: said(error) }
}

fn within(path: &Path, span: Span) -> Document {
    match (span.from_ms, span.to_ms) {
        (None, None) => Document::new(),
        (Some(from), Some(to)) => completed_within(path, (from, to)),
        (Some(from), None) => beside(path, "$gte", from, from - DAY_MS, None),
        // What is of no type that a time has is read first.
        (None, Some(to)) => beside(path, "$lt", to, to + 2 * DAY_MS, Some(&TIMELESS)),
    }
}

/// Types of BSON that no time has; `null` beside them finds what is absent, too.
const TIMELESS: [&str; 8] = ["bool", "object", "array", "objectId", "binData", "timestamp", "minKey", "maxKey"];

/// Filters by one bound, for each type of time: texts may carry an offset, so theirs is a day or two wider.
fn beside(path: &Path, side: &str, bound_ms: i64, text_ms: i64, others: Option<&[&str]>) -> Document {
    let Some(name) = plain_name(path) else { return Document::new() };
    let day = crate::clock::rfc3339(text_ms)[..10].to_owned();
    let mut sides = vec![
        doc! { &name: { side: Bson::DateTime(DateTime::from_millis(bound_ms)) } },
        doc! { &name: { side: bound_ms } },
        doc! { &name: { side: day } },
    ];
    if let Some(types) = others {
        sides.extend([doc! { &name: Bson::Null }, doc! { &name: { "$type": types.to_vec() } }]);
    }
    doc! { "$or": sides }
}

fn time(path: &Path, document: &Document) -> Option<i64> {
    let (last, before) = path.names().split_last()?;
    let mut inside = document;
    for name in before {
        inside = inside.get_document(name).ok()?;
    }
    match inside.get(last)? {
        Bson::DateTime(date) => Some(date.timestamp_millis()),
        Bson::Int32(ms) => Some(i64::from(*ms)),
        Bson::Int64(ms) => Some(*ms),
        #[expect(clippy::cast_possible_truncation, reason = "it is clamped to plausible times")]
        Bson::Double(ms) if ms.is_finite() => Some(*ms as i64),
        Bson::String(text) => from_rfc3339(text),
        _ => None,
    }
}

/// Cuts at the ends of days; the first and the last span are as open as the whole.
fn cut(span: Span, earliest_ms: i64, latest_ms: i64, documents: u64) -> VecDeque<Span> {
    let (first, last) = (earliest_ms.div_euclid(DAY_MS), latest_ms.div_euclid(DAY_MS));
    let days = last - first + 1;
    let parts = i64::try_from(documents.div_ceil(SPAN_DOCUMENTS)).unwrap_or(i64::MAX).clamp(1, days.max(1));
    let mut bounds: Vec<i64> = (1..parts).map(|part| (first + days * part / parts) * DAY_MS).collect();
    bounds.dedup();
    let mut spans = VecDeque::new();
    let mut from_ms = span.from_ms;
    for bound in bounds {
        spans.push_back(Span { from_ms, to_ms: Some(bound) });
        from_ms = Some(bound);
    }
    spans.push_back(Span { from_ms, to_ms: span.to_ms });
    spans
}
