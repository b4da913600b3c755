//! What MongoDB knows of a worker: the tickets it has before it, and how long its last ones took.

use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::options::{ClientOptions, ReadConcern};
use mongodb::{Client, Collection};
use secrecy::ExposeSecret;

use super::load::Seen;
use crate::clock::{self, HOUR_MS, rfc3339};
use crate::config::Config;
use crate::config::show::redact_uri;
use crate::history::{plain_name, projection, said};
use crate::spec::Spec;
use crate::tail::normalise::{Normalised, Normaliser, Unreadable};

/// The window of completions, and how many of them are looked at and used. Source: the contract, "Load".
const WINDOW_MS: i64 = HOUR_MS;
const LOOKED_AT: i64 = 50;
const USED: usize = 10;
/// Tickets that are counted at most: with as many, even tickets of 1 ms fill the longest queue time, 60,000 ms.
const COUNTED: i64 = 60_000;
/// A completion further ahead of our clock is nobody's history. Source: design.md, "Time".
const AHEAD_MS: i64 = HOUR_MS;
/// Times as text carry an offset of at most so much; so their bounds are wider, and more of them are looked at.
const OFFSET_MS: i64 = 14 * HOUR_MS;
const TEXTS_LOOKED_AT: i64 = 500;
/// How long a server is looked for, and how long it may work on one answer. A late answer still serves those who ask next.
const PATIENCE: Duration = Duration::from_secs(1);
/// Name of the count among the documents of an answer.
const DEPTH: &str = "tidemark_depth";

/// The collection, asked for workers.
pub(super) struct Workers {
    collection: Collection<RawDocumentBuf>,
    name: String,
    address: String,
    normaliser: Normaliser,
    worker: String,
    status: String,
    completed_at: String,
    open: Vec<String>,
    completed: Vec<String>,
    projection: Document,
    ms_per_unit: f64,
}

impl Workers {
    /// Prepares to ask; inside a runtime. `None` when MongoDB is not configured.
    ///
    /// # Errors
    /// What cannot be used: the address, or a path that no query can name.
    pub(super) async fn connect(config: &Config, spec: &Spec, ms_per_unit: f64) -> Result<Option<Self>, String> {
        let Some(uri) = &config.mongodb.uri else { return Ok(None) };
        let address = redact_uri(uri.expose_secret());
        let cannot =
            |error: &mongodb::error::Error| format!("cannot use {address}: {}; check mongodb.uri, host names and DNS", said(error));
        let mut options = ClientOptions::parse(uri.expose_secret()).await.map_err(|error| cannot(&error))?;
        options.app_name.get_or_insert_with(|| "tidemark-serve".to_owned());
        options.server_selection_timeout.get_or_insert(PATIENCE);
        options.connect_timeout.get_or_insert(PATIENCE);
        // The newest a server has: a queue is a guess, and a majority read would only make it an older one.
        options.read_concern.get_or_insert(ReadConcern::local());
        let client = Client::with_options(options).map_err(|error| cannot(&error))?;
        let named = |path: &crate::spec::Path| {
            plain_name(path).ok_or_else(|| format!("the spec's path {path} cannot stand in a query, so no worker's load can be read"))
        };
        let mut wanted = vec![&spec.ticket.id, &spec.ticket.status, &spec.ticket.completed_at];
        wanted.extend(&spec.target.paths);
        wanted.extend(spec.target.between.iter().flat_map(|between| [&between.from, &between.to]));
        let database = config.mongodb.database.as_deref().unwrap_or(&spec.source.database);
        let words = |text: &str| text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect::<Vec<_>>();
        Ok(Some(Self {
            collection: client.database(database).collection(&spec.source.collection),
            name: spec.source.collection.clone(),
            normaliser: Normaliser::new(spec),
            worker: config.serve.worker_field.clone(),
            status: named(&spec.ticket.status)?,
            completed_at: named(&spec.ticket.completed_at)?,
            open: words(&config.serve.open_statuses),
            completed: spec.ticket.completed.clone(),
            projection: projection(&wanted).unwrap_or_default(),
            ms_per_unit,
            address,
        }))
    }

    /// Asks for one worker: one command, so one way there and back.
    ///
    /// # Errors
    /// What MongoDB says, in words.
    pub(super) async fn ask(&self, worker: &str) -> Result<Seen, String> {
        let now_ms = clock::now_ms();
        let failed = |error: mongodb::error::Error| format!("reading {} at {}: {}", self.name, self.address, said(&error));
        let answer = self.collection.aggregate(self.pipeline(worker, now_ms)).max_time(PATIENCE).with_type::<RawDocumentBuf>();
        let mut documents = answer.await.map_err(failed)?;
        let (mut depth, mut completions) = (0, Vec::new());
        while let Some(document) = documents.try_next().await.map_err(failed)? {
            if let Ok(Some(count)) = document.get(DEPTH) {
                depth = count.as_i32().map(i64::from).or(count.as_i64()).unwrap_or_default();
            } else if let Normalised::Completed(ticket) = self.normaliser.from_bson(&document, &mut Unreadable::default()) {
                completions.push((ticket.completed_at_ms, ticket.actual));
            }
        }
        completions.retain(|(at_ms, _)| (now_ms - WINDOW_MS..=now_ms + AHEAD_MS).contains(at_ms));
        completions.sort_unstable_by_key(|(at_ms, _)| std::cmp::Reverse(*at_ms));
        completions.truncate(USED);
        let mean_ms = (!completions.is_empty())
            .then(|| self.ms_per_unit * completions.iter().map(|(_, actual)| actual).sum::<f64>() / completions.len() as f64);
        Ok(Seen { depth: u64::try_from(depth).unwrap_or_default(), mean_ms })
    }

    /// Times occur as dates, numbers of ms and texts; MongoDB compares within a type only, so each has a branch of its own that
    /// the index answers in order.
    fn pipeline(&self, worker: &str, now_ms: i64) -> Vec<Document> {
        let (from_ms, to_ms) = (now_ms - WINDOW_MS, now_ms + AHEAD_MS);
        let date = |ms: i64| Bson::DateTime(bson::DateTime::from_millis(ms));
        let branch = |from: Bson, to: Bson, limit: i64| {
            let pipeline = vec![
                doc! { "$match": { &self.worker: worker, &self.status: one_of(&self.completed), &self.completed_at: { "$gte": from, "$lte": to } } },
                doc! { "$sort": { &self.completed_at: -1 } },
                doc! { "$limit": limit },
                doc! { "$project": self.projection.clone() },
            ];
            doc! { "$unionWith": { "coll": &self.name, "pipeline": pipeline } }
        };
        vec![
            doc! { "$match": { &self.worker: worker, &self.status: one_of(&self.open) } },
            doc! { "$limit": COUNTED },
            doc! { "$count": DEPTH },
            branch(date(from_ms), date(to_ms), LOOKED_AT),
            branch(Bson::Int64(from_ms), Bson::Int64(to_ms), LOOKED_AT),
            branch(rfc3339(from_ms - OFFSET_MS).into(), rfc3339(to_ms + OFFSET_MS).into(), TEXTS_LOOKED_AT),
        ]
    }

    /// Says which index answers, or how to make one.
    ///
    /// # Errors
    /// What MongoDB says, in words.
    pub(super) async fn index(&self) -> Result<Result<String, String>, String> {
        let failed = |error: mongodb::error::Error| format!("listing the indexes of {} at {}: {}", self.name, self.address, said(&error));
        let mut indexes = match self.collection.list_indexes().await {
            Ok(indexes) => indexes,
            // 26: the collection is not there yet.
            Err(error) if matches!(error.kind.as_ref(), mongodb::error::ErrorKind::Command(command) if command.code == 26) => {
                return Ok(Err(self.create_index()));
            }
            Err(error) => return Err(failed(error)),
        };
        while let Some(index) = indexes.try_next().await.map_err(failed)? {
            let is_whole =
                index.options.as_ref().is_none_or(|options| options.partial_filter_expression.is_none() && options.sparse != Some(true));
            if is_whole && self.answers(&index.keys) {
                return Ok(Ok(index.keys.to_string()));
            }
        }
        Ok(Err(self.create_index()))
    }

    /// Whether an index gives a worker's tickets by status and in the order of completion.
    fn answers(&self, keys: &Document) -> bool {
        let names: Vec<&String> = keys.keys().take(3).collect();
        let [first, second, third] = names[..] else { return false };
        let of_both = (*first == self.worker && *second == self.status) || (*first == self.status && *second == self.worker);
        of_both && *third == self.completed_at && keys.values().take(3).all(|order| order.as_str().is_none())
    }

    /// Returns the command that makes the index, for `mongosh`.
    pub(super) fn create_index(&self) -> String {
        let text = |name: &str| serde_json::Value::from(name).to_string();
        let keys = format!("{{ {}: 1, {}: 1, {}: -1 }}", text(&self.worker), text(&self.status), text(&self.completed_at));
        format!("db.getCollection({}).createIndex({keys})", text(&self.name))
    }
}

fn one_of(values: &[String]) -> Bson {
    match values {
        [one] => one.as_str().into(),
        many => Bson::Document(doc! { "$in": many }),
    }
}
