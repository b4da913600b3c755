//! Prediction errors of history: the tickets' own predictions, or history rescored by one version of the model.
//!
//! Errors go to `prediction-errors`, each exactly once by (ticket, completion, version, source) however often it is stopped
//! and started again, statistics to `ml_backfill_history`. Tickets are read in spans of time in parallel ([`read`]), taken up
//! in order of time, a UTC day a range, and written by one transactional producer that knows what is visible ([`ledger`]).

mod item;
mod ledger;
mod mongo;
mod read;
mod record;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::clock;
use crate::config::Config;
use crate::features::EncoderError;
use crate::history::Place;
use crate::log::{Log, LogError};
use crate::model::duration::DurationModel;
use crate::model::shelf::ModelRef;
use crate::spec::Spec;
use crate::stage::Stop;
use crate::tail::replay::ReplayError;
use crate::topics::Topics;

use item::{Item, Scoring};
use ledger::Ledger;
use mongo::{Collection, WrittenBack};
use read::{Day, Source, Sweeps};
pub use stats::{Extreme, Stats};

/// Whose predictions are held against the answers.
#[derive(Clone, Debug)]
pub enum Predictions {
    /// The tickets' own.
    Recorded,
    /// Those of one version of the model.
    Rescored(ModelRef, Arc<DurationModel>),
}

impl Predictions {
    /// Returns the name in records and documents.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Rescored(..) => "rescored",
        }
    }

    /// Returns the version that predicts; `None` when each ticket says it itself.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        match self {
            Self::Recorded => None,
            Self::Rescored(model, _) => Some(model.version),
        }
    }
}

/// A span of `completed_at`, half open, ms since 1970; open where there is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First ms.
    pub from_ms: Option<i64>,
    /// Ms after the last.
    pub to_ms: Option<i64>,
}

impl Span {
    /// Whether a time lies inside.
    #[must_use]
    pub fn holds(&self, ms: i64) -> bool {
        self.from_ms.is_none_or(|from| from <= ms) && self.to_ms.is_none_or(|to| ms < to)
    }

    fn is_open(&self) -> bool {
        self.from_ms.is_none() && self.to_ms.is_none()
    }
}

/// What is to be backfilled.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the tickets are.
    pub place: Place,
    /// When they completed.
    pub span: Span,
    /// Whose predictions.
    pub predictions: Predictions,
    /// Stores the prediction on the ticket, too: of a model, in MongoDB.
    pub write_back: bool,
    /// Counts only: nothing is written anywhere.
    pub dry_run: bool,
}

impl Request {
    /// Returns the name of the job: its document's `_id`. 16 hex digits that differ when spec, span, model, version or source do.
    #[must_use]
    pub fn id(&self, spec: &Spec) -> String {
        let bound = |ms: Option<i64>| ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
        let (from, to) = (bound(self.span.from_ms), bound(self.span.to_ms));
        let version = self.predictions.version().unwrap_or_default();
        short_hash(&format!("{}\n{}\n{from}\n{to}\n{}\n{version}\n{}", spec.name, spec.fingerprint(), spec.model, self.predictions.name()))
    }

    /// Returns the name of the series that its errors belong to. Jobs of one series fence each other, whatever their spans: only so
    /// is an error of two overlapping spans written once.
    #[must_use]
    pub fn series_id(&self, spec: &Spec) -> String {
        let version = self.predictions.version().unwrap_or_default();
        short_hash(&format!("{}\n{}\n{}\n{version}", spec.name, spec.model, self.predictions.name()))
    }
}

fn short_hash(text: &str) -> String {
    Sha256::digest(text)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a backfill works with.
#[derive(Clone)]
pub struct Around<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The spec.
    pub spec: &'a Spec,
    /// The log; without one nothing but statistics comes of it.
    pub log: Option<&'a dyn Log>,
    /// Asked between two transactions.
    pub stop: Stop,
}

/// How far a backfill is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Documents read so far.
    pub read: u64,
    /// How many there are, about, where that is known.
    pub total: Option<u64>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The job: `_id` of its document.
    pub id: String,
    /// Name of the spec.
    pub spec: String,
    /// Name of the model.
    pub model: String,
    /// Version that predicted; null for the tickets' own predictions.
    pub version: Option<u64>,
    /// `recorded` or `rescored`.
    pub source: &'static str,
    /// First ms of the span, where it has a bound.
    pub from_ms: Option<i64>,
    /// Ms after the span, where it has a bound.
    pub to_ms: Option<i64>,
    /// Errors written to `prediction-errors` now.
    pub written: u64,
    /// Errors that were there before.
    pub already_there: u64,
    /// Predictions written to tickets now; null when that was not asked for.
    pub written_back: Option<u64>,
    /// Documents that hold a completion another one holds too: counted once.
    pub repeats: u64,
    /// Whether `ml_backfill_history` has its document.
    pub in_mongodb: bool,
    /// The statistics.
    pub stats: Stats,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Why a backfill ended before its end. Started again it goes on: nothing is written twice.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// It cannot work as it was asked.
    #[error("{0}")]
    Usage(String),
    /// The file.
    #[error(transparent)]
    File(#[from] ReplayError),
    /// MongoDB does not answer, or refuses.
    #[error("cannot {doing}: {reason}; `tidemark config check --connect` tries each step. Start the command again: it goes on")]
    Mongodb {
        /// What was attempted, where.
        doing: String,
        /// What the driver says.
        reason: String,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Somebody else writes the same errors, or this process was held up for too long.
    #[error(
        "another process backfills {series} now (transactional id {id}), or this one stood still for longer than a transaction may: \
         wait for it, or start the command again"
    )]
    Fenced {
        /// In words.
        series: String,
        /// The transactional id.
        id: String,
    },
    /// The log took nothing in several attempts.
    #[error("cannot write to {topic} in {attempts} attempts: {reason}; start the command again: it goes on")]
    Unwritten {
        /// The topic.
        topic: String,
        /// How often.
        attempts: usize,
        /// What was said last.
        reason: String,
    },
    /// A topic that must be ours holds what cannot be read.
    #[error("{0}")]
    Refused(String),
    /// The spec's features.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// It was asked to stop.
    #[error("stopped; start the command again: it goes on")]
    Stopped,
}

/// How much at once.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Items that are handed to the ledger together, at least: a transaction costs milliseconds, whatever its size.
    batch_rows: usize,
    /// Errors in one transaction, at most: some 3 MB, far from what a transaction's time-out allows.
    transaction_rows: usize,
    /// Items in memory, at most, apart from a whole day of each span: some 150 MB.
    held_rows: usize,
}

const SIZES: Sizes = Sizes { batch_rows: 5_000, transaction_rows: 10_000, held_rows: 900_000 };

/// Backfills. `tell` is called now and then, on this thread.
///
/// # Errors
/// [`BackfillError`].
pub fn run(request: &Request, around: &Around<'_>, tell: &mut dyn FnMut(Progress)) -> Result<Report, BackfillError> {
    run_sized(request, around, tell, SIZES)
}

fn run_sized(request: &Request, around: &Around<'_>, tell: &mut dyn FnMut(Progress), sizes: Sizes) -> Result<Report, BackfillError> {
    let Around { config, spec, .. } = *around;
    let mut notes = Vec::new();
    if request.write_back && !(matches!(request.predictions, Predictions::Rescored(..)) && matches!(request.place, Place::Mongodb)) {
        let what = "--write-back stores what a model predicts on the tickets of MongoDB: give --model VERSION, and no --file";
        return Err(BackfillError::Usage(what.to_owned()));
    }
    if let Span { from_ms: Some(from), to_ms: Some(to) } = request.span
        && from >= to
    {
        return Err(BackfillError::Usage("--from is not before --to: there is nothing between them".to_owned()));
    }
    let collection = Collection::open(config, spec, request.write_back)?;
    let source = match (&request.place, &collection) {
        (Place::File(path, slowdown), _) => Source::File(path, slowdown.as_ref()),
        (Place::Mongodb, Some(collection)) => Source::Mongodb(collection),
        (Place::Mongodb, None) => {
            let ways = "set MONGODB_URI, MONGODB_URI_FILE, --mongodb-uri or the key in the configuration file, or read a file with --file";
            return Err(BackfillError::Usage(format!("mongodb.uri is not set: {ways}")));
        }
    };
    let topics = Topics::new(&config.kafka.topic_prefix);
    let mut ledger = match around.log.filter(|_| !request.dry_run) {
        Some(log) => Some(Ledger::open(log, &topics, config, spec, request, sizes.transaction_rows)?),
        None => None,
    };
    if around.log.is_none() && !request.dry_run {
        notes.push("Kafka is not configured: statistics only, no error was written; set KAFKA_BOOTSTRAP_SERVERS to write them".to_owned());
    }
    let scoring = Scoring::new(spec, request)?;
    let plan = source.plan(request.span, &mut notes)?;
    let read = AtomicU64::new(0);
    let mut work = Work {
        request,
        ledger: ledger.as_mut(),
        collection: collection.as_ref().filter(|_| request.write_back && !request.dry_run),
        stats: stats::Collecting::new(),
        batch: Vec::new(),
        batched: 0,
        batch_rows: sizes.batch_rows,
        written: 0,
        already_there: 0,
        written_back: WrittenBack::default(),
        repeats: 0,
        timeless: HashSet::new(),
    };
    let total = plan.total;
    Sweeps { source: &source, scoring: &scoring, read: &read, stop: &around.stop }.run(
        sizes.held_rows,
        plan.spans,
        &mut || tell(Progress { read: read.load(Ordering::Relaxed), total }),
        &mut |sweep| {
            for key in sweep.timeless {
                if request.span.is_open() && work.timeless.insert(key) {
                    work.stats.skipped.invalid += 1;
                }
            }
            sweep.days.into_iter().try_for_each(|(day, found)| work.take(day, found))
        },
    )?;
    work.flush()?;
    let Work { stats, written, already_there, written_back, repeats, .. } = work;
    if written_back.blocked > 0 {
        notes.push(format!(
            "{} tickets did not get their prediction: where its document should be they have something else",
            written_back.blocked
        ));
    }
    let mut report = Report {
        id: request.id(spec),
        spec: spec.name.clone(),
        model: spec.model.clone(),
        version: request.predictions.version(),
        source: request.predictions.name(),
        from_ms: request.span.from_ms,
        to_ms: request.span.to_ms,
        written,
        already_there,
        written_back: request.write_back.then_some(written_back.changed),
        repeats,
        in_mongodb: false,
        stats: stats.end(),
        notes,
    };
    match collection.filter(|_| !request.dry_run) {
        Some(collection) => {
            collection.write_report(&report, config.backfill.history_retention_days, clock::now_ms())?;
            report.in_mongodb = true;
        }
        None if !request.dry_run => {
            report.notes.push(format!("MongoDB is not configured: no document in {}", mongo::HISTORY));
        }
        None => {}
    }
    Ok(report)
}

/// What happens to the tickets, day after day.
struct Work<'a, 'l> {
    request: &'a Request,
    ledger: Option<&'a mut Ledger<'l>>,
    collection: Option<&'a Collection>,
    stats: stats::Collecting,
    batch: Vec<(i64, Vec<Item>)>,
    batched: usize,
    batch_rows: usize,
    written: u64,
    already_there: u64,
    written_back: WrittenBack,
    repeats: u64,
    timeless: HashSet<u128>,
}

impl Work<'_, '_> {
    fn take(&mut self, day: i64, mut found: Day) -> Result<(), BackfillError> {
        self.stats.skipped.add(&found.skipped);
        found.items.sort_unstable_by(Item::order);
        let documents = found.items.len();
        found.items.dedup_by(|later, earlier| later.is_same_completion(earlier));
        self.repeats += (documents - found.items.len()) as u64;
        for item in &found.items {
            self.stats.add(item);
        }
        self.batched += found.items.len();
        self.batch.push((day, found.items));
        if self.batched >= self.batch_rows { self.flush() } else { Ok(()) }
    }

    /// Writes what has been collected: errors first, then the tickets' predictions.
    fn flush(&mut self) -> Result<(), BackfillError> {
        let batch = std::mem::take(&mut self.batch);
        let items = std::mem::take(&mut self.batched) as u64;
        if let Some(ledger) = &mut self.ledger {
            let written = ledger.write(&batch)?;
            self.written += written;
            self.already_there += items - written;
        }
        if let (Some(collection), Some(version)) = (self.collection, self.request.predictions.version()) {
            for items in batch.iter().flat_map(|(_, items)| items.chunks(mongo::UPDATES)) {
                let done = collection.write_back(items, version)?;
                self.written_back.changed += done.changed;
                self.written_back.blocked += done.blocked;
            }
        }
        Ok(())
    }
}
