//! A baseline into topic and collection, as the next version, whoever else does the same at the same time.
//!
//! The producer's fixed transactional id makes the order: whoever begins later fences who began earlier, who then looks at
//! what is there and begins again. The topic comes first; the document is an upsert by the record's key.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bson::{Document, doc};

use crate::baseline::document::{self, COLLECTION};
use crate::baseline::{Baseline, transactional_id};
use crate::config::Config;
use crate::log::{Log, LogError, Record, TransactError, Transaction};
use crate::spec::Spec;
use crate::topics::Topics;

use crate::cli::exit::{Exit, Failure};
use crate::cli::mongo;
use crate::cli::progress::Progress;
use crate::cli::topic::latest;

/// Attempts against others who do the same.
const ATTEMPTS: usize = 8;

/// What became of a baseline.
pub(in crate::cli) struct Published {
    /// As it is in the topic.
    pub(in crate::cli) baseline: Baseline,
    /// Whether it was not there before.
    pub(in crate::cli) is_new: bool,
    /// Whether its document is in MongoDB.
    pub(in crate::cli) in_mongodb: bool,
}

/// Makes a baseline of a version, after the version before it.
pub(in crate::cli) type Make<'m> = dyn Fn(u64, Option<&Baseline>) -> Result<Baseline, Failure> + 'm;

/// Where it goes.
pub(in crate::cli) struct Publisher<'p> {
    pub(in crate::cli) log: &'p dyn Log,
    pub(in crate::cli) topics: &'p Topics,
    pub(in crate::cli) config: &'p Config,
    pub(in crate::cli) spec: &'p Spec,
}

/// Creates the topic, or refuses it by name.
pub(in crate::cli) fn create_topic(log: &dyn Log, topics: &Topics, config: &Config) -> Result<(), LogError> {
    let mut all = topics.settings(&config.topic_plan());
    all.retain(|topic| topic.name == *topics.baselines);
    log.create_topics(&all)
}

/// Returns all versions of a spec's baseline, oldest first.
pub(in crate::cli) fn versions(log: &dyn Log, topics: &Topics, spec: &str) -> Result<Vec<Baseline>, Failure> {
    let mut versions = Vec::new();
    for (key, value) in latest(log, &topics.baselines)? {
        let name = String::from_utf8_lossy(&key).into_owned();
        if name.rsplit_once('@').is_none_or(|(of, _)| of != spec) {
            continue;
        }
        let baseline: Baseline = serde_json::from_slice(&value).map_err(|error| {
            let topic = &topics.baselines;
            Failure::new(Exit::Refused, format!("record {name} of topic {topic} is no baseline of this version of tidemark: {error}"))
        })?;
        versions.push(baseline);
    }
    versions.sort_by_key(|baseline| baseline.version);
    Ok(versions)
}

/// Returns the newest baseline of a spec in MongoDB, or the version asked for: for those who have no Kafka.
pub(in crate::cli) fn newest_document(config: &Config, spec: &Spec, asked: Option<u64>) -> Result<Baseline, Failure> {
    find_document(config, spec, asked)?.ok_or_else(|| {
        let place = format!("{}.{COLLECTION}", config.mongodb.database.as_deref().unwrap_or(&spec.source.database));
        let which = asked.map_or_else(|| "no baseline".to_owned(), |version| format!("no baseline {version}"));
        let ways = "make one with `tidemark baseline create`, or check against --baseline-from and --baseline-to";
        Failure::new(Exit::BadInput, format!("there is {which} of {} in {place}: {ways}", spec.name))
    })
}

/// Like [`newest_document`]; `None` when there is none.
pub(in crate::cli) fn find_document(config: &Config, spec: &Spec, asked: Option<u64>) -> Result<Option<Baseline>, Failure> {
    let connection = mongo::connect(config)?;
    let database = config.mongodb.database.as_deref().unwrap_or(&spec.source.database);
    let place = format!("{database}.{COLLECTION}");
    let collection = connection.client.database(database).collection::<Document>(COLLECTION);
    // Ids are `spec@version`, and A follows @.
    let filter = match asked {
        Some(version) => doc! { "_id": document::id(&spec.name, version) },
        None => doc! { "_id": { "$gte": format!("{}@", spec.name), "$lt": format!("{}A", spec.name) } },
    };
    let found = connection.wait(async { collection.find_one(filter).sort(doc! { "version": -1 }).await });
    let found = found.map_err(|error| connection.failure(&format!("read {place}"), &error))?;
    let Some(found) = found else { return Ok(None) };
    Baseline::from_document(&found)
        .map(Some)
        .map_err(|error| Failure::new(Exit::BadInput, format!("cannot use a document of {place}: {error}")))
}

/// Writes a baseline as the next document where there is no Kafka, unless the newest is the same.
pub(in crate::cli) fn publish_document(config: &Config, spec: &Spec, make: &Make<'_>) -> Result<Published, Failure> {
    let connection = mongo::connect(config)?;
    let database = config.mongodb.database.as_deref().unwrap_or(&spec.source.database);
    let collection = connection.client.database(database).collection::<Document>(COLLECTION);
    for _ in 0..ATTEMPTS {
        let newest = find_document(config, spec, None)?;
        let made = make(newest.as_ref().map_or(1, |newest| newest.version + 1), newest.as_ref())?;
        if let Some(same) = newest.filter(|newest| is_same(newest, &made)) {
            return Ok(Published { baseline: same, is_new: false, in_mongodb: true });
        }
        match connection.wait(async { collection.insert_one(made.to_document()).await }) {
            Ok(_) => return Ok(Published { baseline: made, is_new: true, in_mongodb: true }),
            // Somebody else made that version meanwhile.
            Err(error) if is_duplicate(&error) => {}
            Err(error) => return Err(connection.failure(&format!("write {} to {database}.{COLLECTION}", key(&made)), &error)),
        }
    }
    Err(Failure::new(
        Exit::Unreachable,
        format!("cannot write a baseline to {database}.{COLLECTION} in {ATTEMPTS} attempts: others write there"),
    ))
}

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    /// MongoDB's DuplicateKey.
    const DUPLICATE_KEY: i32 = 11_000;
    use mongodb::error::{ErrorKind, WriteFailure};
    matches!(error.kind.as_ref(), ErrorKind::Write(WriteFailure::WriteError(error)) if error.code == DUPLICATE_KEY)
}

/// The record's key, and the document's `_id`.
fn key(baseline: &Baseline) -> String {
    document::id(&baseline.spec, baseline.version)
}

/// Whether both were made of the same tickets in the same way.
fn is_same(a: &Baseline, b: &Baseline) -> bool {
    (a.from_ms, a.to_ms, a.rows, &a.fingerprint, &a.model) == (b.from_ms, b.to_ms, b.rows, &b.fingerprint, &b.model)
        && a.scored_by == b.scored_by
        && a.columns == b.columns
        && a.clusters == b.clusters
        && a.target == b.target
        && a.errors == b.errors
}

/// Waits a while that nobody knows: two who fence each other in step would do so to the last attempt.
fn give_way(attempt: usize) {
    let longest_ms = 20 << attempt.min(ATTEMPTS);
    std::thread::sleep(Duration::from_millis(RandomState::new().hash_one(attempt) % longest_ms));
}

impl Publisher<'_> {
    /// Writes the baseline, unless the newest version is the same.
    pub(in crate::cli) fn publish(&self, make: &Make<'_>, progress: &mut Progress) -> Result<Published, Failure> {
        let (baseline, is_new) = self.to_topic(make)?;
        let in_mongodb = self.config.mongodb.uri.is_some();
        if in_mongodb {
            progress.step(&format!("writing to {COLLECTION}"));
            self.to_mongodb(&baseline)?;
        }
        Ok(Published { baseline, is_new, in_mongodb })
    }

    fn to_topic(&self, make: &Make<'_>) -> Result<(Baseline, bool), Failure> {
        let id = transactional_id(self.config);
        let mut ours: Option<Baseline> = None;
        let mut reason = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                give_way(attempt);
            }
            // Whoever held the id before is fenced now: what is read next does not change under us.
            let mut producer = self.log.producer(&id)?;
            let there = versions(self.log, self.topics, &self.spec.name)?;
            let newest = there.last();
            let made = make(newest.map_or(1, |newest| newest.version + 1), newest)?;
            if let Some(same) = newest.filter(|newest| is_same(newest, &made)) {
                let is_ours = ours.as_ref() == Some(same);
                return Ok((same.clone(), is_ours));
            }
            let record = Record {
                topic: self.topics.baselines.clone(),
                partition: 0,
                key: Some(key(&made).into()),
                value: Some(serde_json::to_vec(&made).expect("a baseline has only texts, numbers and lists").into()),
                headers: vec![],
            };
            match producer.transact(Transaction { records: vec![record], ..Transaction::default() }) {
                Ok(()) => return Ok((made, true)),
                Err(error @ TransactError::TooLarge { .. }) => {
                    return Err(Failure::new(Exit::Refused, format!("{error}; raise max.message.bytes of the topic")));
                }
                Err(error) => reason = error.to_string(),
            }
            ours = Some(made);
        }
        Err(Failure::new(
            Exit::Unreachable,
            format!(
                "cannot write the baseline to topic {} in {ATTEMPTS} attempts: {reason}; is somebody else doing the same?",
                self.topics.baselines
            ),
        ))
    }

    fn to_mongodb(&self, baseline: &Baseline) -> Result<(), Failure> {
        let connection = mongo::connect(self.config)?;
        let database = self.config.mongodb.database.as_deref().unwrap_or(&self.spec.source.database);
        let id = key(baseline);
        let place = format!("{database}.{COLLECTION}");
        let collection = connection.client.database(database).collection::<Document>(COLLECTION);
        let replaced = connection.wait(async { collection.replace_one(doc! { "_id": &id }, baseline.to_document()).upsert(true).await });
        replaced.map(|_| ()).map_err(|error| {
            let failure = connection.failure(&format!("write {id} to {place}"), &error);
            Failure::new(
                failure.exit(),
                format!("baseline {id} is in topic {}, but {failure}; run the command again to write the document", self.topics.baselines),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;
    use crate::baseline::TargetColumn;
    use crate::log::memory::{Fault, MemoryLog};

    fn spec() -> Spec {
        Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap()
    }

    fn baseline(version: u64, rows: u64, created_at_ms: i64) -> Baseline {
        let target =
            TargetColumn { edges: vec![], counts: vec![rows], mean: 1.0, std: 1.0, p50: 1.0, p95: 1.0, p99: 1.0, sample: vec![1.0] };
        Baseline {
            spec: spec().name,
            fingerprint: "f".to_owned(),
            model: "m".to_owned(),
            version,
            created_at_ms,
            from_ms: 0,
            to_ms: 1,
            rows,
            columns: vec![],
            target,
            errors: BTreeMap::new(),
            log_offset: 0.0,
            scored_by: None,
            answers: None,
            clusters: None,
            anchor: None,
            provisional: false,
            noise: vec![],
        }
    }

    fn published(log: &MemoryLog, rows: u64) -> Result<(u64, bool), Failure> {
        let (topics, config, spec) = (Topics::new("t"), Config::default(), spec());
        create_topic(log, &topics, &config).unwrap();
        let mut config = config;
        config.kafka.topic_prefix = "t".to_owned();
        let calls = RefCell::new(0);
        let make = |version: u64, _: Option<&Baseline>| {
            *calls.borrow_mut() += 1;
            Ok(baseline(version, rows, *calls.borrow()))
        };
        let publisher = Publisher { log, topics: &topics, config: &config, spec: &spec };
        publisher.to_topic(&make).map(|(baseline, is_new)| (baseline.version, is_new))
    }

    #[test]
    fn each_new_baseline_is_the_next_version_and_the_same_one_is_found_again() {
        let log = MemoryLog::new();
        assert_eq!(published(&log, 200).unwrap(), (1, true));
        assert_eq!(published(&log, 200).unwrap(), (1, false));
        assert_eq!(published(&log, 300).unwrap(), (2, true));
        let versions = versions(&log, &Topics::new("t"), &spec().name).unwrap();
        assert_eq!(versions.iter().map(|b| (b.version, b.rows)).collect::<Vec<_>>(), [(1, 200), (2, 300)]);
    }

    #[test]
    fn whatever_happens_to_the_transaction_there_is_one_version() {
        for fault in [Fault::Abort, Fault::UnknownVisible, Fault::UnknownLost, Fault::Fence] {
            let log = MemoryLog::new();
            log.inject("t.baseline", 0, fault);
            assert_eq!(published(&log, 200).unwrap(), (1, true), "{fault:?}");
            assert_eq!(versions(&log, &Topics::new("t"), &spec().name).unwrap().len(), 1, "{fault:?}");
        }
    }

    #[test]
    fn two_at_once_make_two_versions() {
        let log = MemoryLog::new();
        let made: Vec<(u64, bool)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|n| {
                    scope.spawn({
                        let log = log.clone();
                        move || published(&log, 200 + n).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut versions: Vec<u64> = made.iter().map(|(version, _)| *version).collect();
        versions.sort_unstable();
        assert_eq!(versions, [1, 2]);
    }

    #[test]
    fn a_stranger_in_the_topic_is_refused_by_name() {
        let log = MemoryLog::new();
        let topics = Topics::new("t");
        create_topic(&log, &topics, &Config::default()).unwrap();
        let key = format!("{}@1", spec().name);
        let record = Record {
            topic: topics.baselines.clone(),
            partition: 0,
            key: Some(key.clone().into()),
            value: Some("{}".into()),
            headers: vec![],
        };
        log.producer("p").unwrap().transact(Transaction { records: vec![record], ..Transaction::default() }).unwrap();
        let failure = versions(&log, &topics, &spec().name).unwrap_err();
        assert_eq!(failure.exit(), Exit::Refused);
        assert!(failure.to_string().contains(&key), "{failure}");
    }
}
