//! The train stage on a real MongoDB and a log in memory: what time, volume and people ask for, the guard, crashes, a registry that
//! refuses.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bson::{DateTime, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use mongodb::{Client, Collection};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark::baseline::builder::{Builder, Making};
use tidemark::clock::now_ms;
use tidemark::config::Config;
use tidemark::history;
use tidemark::log::memory::{Fault, MemoryLog};
use tidemark::log::{Delivered, Log, Record, Transaction};
use tidemark::model_event::Notice;
use tidemark::registry::{LocalRegistry, Publication, Published, Registry, RegistryError, Version};
use tidemark::spec::Spec;
use tidemark::stage::{Context, Health, State, Stop};
use tidemark::ticket::{FieldValue, Ticket, TicketId, Transition};
use tidemark::topics::Topics;
use tidemark::train::stage;
use tokio::runtime::Runtime;

use crate::support::schemas::validate;
use crate::support::{mongo, poison, wait_until};
use crate::train::{plant, tickets};

const LIMIT: Duration = Duration::from_mins(2);
const DURATION: &str = "ticket-duration-predictor";
const ANOMALY: &str = "ticket-anomaly-detector";
const TEN_MINUTES_MS: i64 = 600_000;

/// A directory as registry, in which some requests fail.
struct Failing {
    inner: LocalRegistry,
    /// Promotions that the registry is away for, and that were tried.
    away: AtomicUsize,
    promotions: AtomicUsize,
    /// Promotions of the anomaly model for which our credentials are refused.
    locked_out: AtomicUsize,
    /// A model that cannot be published.
    refused: Option<&'static str>,
    /// Done when a model is published for the first time.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Registry for Failing {
    fn publish(&self, publication: &Publication) -> Result<Published, RegistryError> {
        if self.refused == Some(publication.model.as_str()) {
            return Err(RegistryError::Invalid { attempted: "publishing".to_owned(), reason: "it is refused".to_owned() });
        }
        if let Some(meanwhile) = self.meanwhile.lock().unwrap().take() {
            meanwhile();
        }
        self.inner.publish(publication)
    }

    fn versions(&self, model: &str) -> Result<Vec<Version>, RegistryError> {
        self.inner.versions(model)
    }

    fn production(&self, model: &str) -> Result<Option<u64>, RegistryError> {
        self.inner.production(model)
    }

    fn promote(&self, model: &str, version: u64, reason: &str) -> Result<(), RegistryError> {
        self.promotions.fetch_add(1, Ordering::SeqCst);
        let is_away = self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_away {
            return Err(RegistryError::Unavailable { attempted: "promoting".to_owned(), reason: "it is away".to_owned() });
        }
        let left = |left: usize| left.checked_sub(1);
        if model == ANOMALY && self.locked_out.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            return Err(RegistryError::Refused { attempted: "promoting".to_owned(), reason: "the token has expired".to_owned() });
        }
        self.inner.promote(model, version, reason)
    }

    fn set_tag(&self, model: &str, version: u64, key: &str, value: &str) -> Result<(), RegistryError> {
        self.inner.set_tag(model, version, key, value)
    }

    fn load(&self, model: &str, version: u64, paths: &[&str], limit_bytes: u64) -> Result<BTreeMap<String, Vec<u8>>, RegistryError> {
        self.inner.load(model, version, paths, limit_bytes)
    }
}

/// One deployment: a database, a log, a registry.
struct World {
    database: &'static str,
    config: Config,
    log: MemoryLog,
    topics: Topics,
    spec: Spec,
    registry: Arc<Failing>,
    folder: TempDir,
    /// What others wrote: topic and offsets.
    strangers: Mutex<Vec<(Arc<str>, Range<i64>)>>,
}

/// A train stage that runs.
struct Running {
    stop: Stop,
    health: Health,
    thread: JoinHandle<()>,
}

impl World {
    /// Begins with so many tickets, the last of which completed just now. Others may be labelled as anomalies.
    fn new(database: &'static str, rows: u64) -> Self {
        let label = "\n[[field]]\nname = \"is_anomaly\"\npaths = [\"is_anomaly\"]\nkind = \"text\"\n\n[anomaly]\nlabel = \"is_anomaly\"\n";
        let spec = Spec::from_toml(&format!("{}{label}", include_str!("../config/execution-tickets.toml"))).unwrap();
        let mut config = Config { instance: "one".to_owned(), ..Config::default() };
        config.mongodb.uri = Some(mongo().uri.clone().into());
        config.mongodb.database = Some(database.to_owned());
        config.train.anomaly_contamination = 0.02;
        let (log, topics) = (MemoryLog::new(), Topics::new("tidemark"));
        log.create_topics(&topics.settings(&config.topic_plan())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        config.registry.cache = folder.path().join("cache").display().to_string();
        let inner = LocalRegistry::new(folder.path().join("models"));
        let registry = Arc::new(Failing {
            inner,
            away: AtomicUsize::new(0),
            promotions: AtomicUsize::new(0),
            locked_out: AtomicUsize::new(0),
            refused: None,
            meanwhile: Mutex::default(),
        });
        let world = Self { database, config, log, topics, spec, registry, folder, strangers: Mutex::default() };
        let first_ms = now_ms() - i64::try_from(rows).unwrap() * TEN_MINUTES_MS;
        world.insert(0..rows, |n| first_ms + i64::try_from(n).unwrap() * TEN_MINUTES_MS);
        world
    }

    fn refusing(mut self, model: &'static str) -> Self {
        let inner = LocalRegistry::new(self.folder.path().join("models"));
        self.registry = Arc::new(Failing {
            inner,
            away: AtomicUsize::new(0),
            promotions: AtomicUsize::new(0),
            locked_out: AtomicUsize::new(0),
            refused: Some(model),
            meanwhile: Mutex::default(),
        });
        self
    }

    fn collection(&self, runtime: &Runtime, name: &str) -> Collection<Document> {
        runtime.block_on(Client::with_uri_str(&mongo().uri)).unwrap().database(self.database).collection(name)
    }

    fn insert(&self, numbers: std::ops::Range<u64>, completed_at: impl Fn(u64) -> i64) {
        let made = tickets(numbers, |n, ticket| {
            plant(n, ticket);
            ticket["completed_at"] = json!(completed_at(n));
        });
        let documents: Vec<Document> = made.iter().map(|ticket| bson::serialize_to_document(ticket).unwrap()).collect();
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async { self.collection_in("execution_tickets").await.insert_many(documents).await }).unwrap();
    }

    async fn collection_in(&self, name: &str) -> Collection<Document> {
        Client::with_uri_str(&mongo().uri).await.unwrap().database(self.database).collection(name)
    }

    /// Writes what a neighbour would to ask for a training.
    fn ask(&self, priority: i32, age_ms: i64) {
        let runtime = Runtime::new().unwrap();
        let document = doc! {
            "model_name": DURATION, "trigger_type": "manual", "priority": priority, "reason": "a neighbour asks", "metadata": {},
            "timestamp": DateTime::from_millis(now_ms() - age_ms),
        };
        runtime.block_on(self.collection(&runtime, "ml_retraining_triggers").insert_one(document).into_future()).unwrap();
    }

    /// Writes requests that a neighbour would not: megabytes of reason, and texts that are no UTF-8.
    fn ask_badly(&self) {
        let broken = |mut document: Document, text: &str| {
            document.insert("timestamp", DateTime::from_millis(now_ms() - 60_000));
            document.extend(doc! { "model_name": DURATION, "trigger_type": "manual" });
            let mut bytes = bson::serialize_to_vec(&document).unwrap();
            if let Some(at) = bytes.windows(text.len()).position(|some| some == text.as_bytes()) {
                bytes[at] = 0xFF;
            }
            RawDocumentBuf::from_bytes(bytes).unwrap()
        };
        let documents = [
            broken(doc! { "_id": "no-id-at-all", "reason": "why" }, "no-id-at-all"),
            broken(doc! { "_id": "long", "reason": "x".repeat(5 << 20) }, "nothing"),
            broken(doc! { "_id": "no-reason", "reason": "unreadable" }, "unreadable"),
        ];
        let insert = rawdoc! { "insert": "ml_retraining_triggers", "documents": RawArrayBuf::from_iter(documents) };
        let written = Runtime::new()
            .unwrap()
            .block_on(async { Client::with_uri_str(&mongo().uri).await.unwrap().database(self.database).run_raw_command(insert).await });
        assert_eq!(written.unwrap().get_i32("n").unwrap(), 3);
    }

    fn documents(&self, name: &str) -> Vec<Document> {
        let runtime = Runtime::new().unwrap();
        let collection = self.collection(&runtime, name);
        runtime.block_on(async {
            let mut cursor = collection.find(doc! {}).await.unwrap();
            let mut all = Vec::new();
            while cursor.advance().await.unwrap() {
                all.push(cursor.deserialize_current().unwrap());
            }
            all
        })
    }

    fn start(&self) -> Running {
        let (stop, health) = (Stop::default(), Health::default());
        let context = Context {
            config: Arc::new(self.config.clone()),
            spec: Arc::new(self.spec.clone()),
            topics: Arc::new(self.topics.clone()),
            log: Arc::new(self.log.clone()),
            stop: stop.clone(),
            health: health.clone(),
            registry: Some(Arc::clone(&self.registry) as Arc<dyn Registry>),
        };
        let thread = std::thread::spawn(move || stage::run(&context, history::Place::Mongodb).unwrap());
        Running { stop, health, thread }
    }

    /// Every record of a topic, each held against its schema.
    fn records(&self, topic: &str) -> Vec<Delivered> {
        let mut reader = self.log.reader().unwrap();
        let bounds = reader.bounds(topic, 0).unwrap();
        let mut all = Vec::new();
        reader
            .read(topic, 0, bounds.low, bounds.end, &mut |record| {
                let is_strange = |(of, offsets): &(Arc<str>, Range<i64>)| **of == *topic && offsets.contains(&record.offset);
                if !self.strangers.lock().unwrap().iter().any(is_strange) {
                    validate(topic, &record);
                    all.push(record);
                }
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        all
    }

    /// Writes what is no record of ours into everything that the stage reads.
    fn poison(&self) {
        let topics = &self.topics;
        let keys = [
            (&topics.retraining_triggers, DURATION),
            (&topics.baselines, "execution-tickets@1"),
            (&topics.status, "execution-tickets"),
            (&topics.model_events, "execution-tickets"),
        ];
        for (topic, key) in keys {
            let real = self.records(topic).pop();
            let from = self.log.reader().unwrap().bounds(topic, 0).unwrap().end;
            let records = poison::records(topic, 0, key, real);
            self.log.producer("stranger").unwrap().transact(Transaction { records, ..Transaction::default() }).unwrap();
            let to = self.log.reader().unwrap().bounds(topic, 0).unwrap().end;
            self.strangers.lock().unwrap().push((topic.clone(), from..to));
        }
    }

    /// What became of triggers, in order: change, type, priority, why closed.
    fn triggers(&self) -> Vec<(String, String, u64, Option<String>)> {
        let records = self.records(&self.topics.retraining_triggers);
        let told = records.iter().map(|record| {
            let trigger: Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
            let text = |name: &str| trigger[name].as_str().map(str::to_owned);
            (text("change").unwrap(), text("trigger_type").unwrap(), trigger["priority"].as_u64().unwrap(), text("closed_because"))
        });
        told.collect()
    }

    /// What trainings came to: trigger, outcome, and the whole event.
    fn outcomes(&self) -> Vec<Value> {
        let records = self.records(&self.topics.model_events);
        let values = records.iter().map(|record| serde_json::from_slice::<Value>(record.value.as_ref().unwrap()).unwrap());
        values.filter(|value| value["kind"] == "outcome").collect()
    }

    fn notices(&self) -> Vec<Notice> {
        self.records(&self.topics.model_events).iter().filter_map(|record| Notice::decode(record.value.as_ref().unwrap())).collect()
    }

    /// Waits until so many requests were answered, and what was decided is done.
    fn answered(&self, number: usize) -> Value {
        wait_until("a request is answered", LIMIT, || (self.outcomes().len() >= number).then_some(()));
        let last = self.outcomes()[number - 1].clone();
        wait_until("what was decided is done", LIMIT, || {
            let done = |notice: &Notice| matches!(notice, Notice::Applied { id, .. } if *id == last["id"]);
            self.notices().iter().any(done).then_some(())
        });
        last
    }
}

impl Running {
    fn stop(self) {
        self.stop.ask();
        self.thread.join().unwrap();
    }

    fn says(&self) -> String {
        match self.health.all().remove("train") {
            Some(State::Ready(says) | State::Waiting(says) | State::Failed(says)) => says,
            None => String::new(),
        }
    }
}

fn told(change: &str, trigger_type: &str, priority: u64, because: Option<&str>) -> (String, String, u64, Option<String>) {
    (change.to_owned(), trigger_type.to_owned(), priority, because.map(str::to_owned))
}

#[test]
fn what_time_volume_and_people_ask_for_is_trained_once_by_one_owner_and_the_guard_holds_back() {
    let mut world = World::new("train_asks", 3_000);
    let (one, two) = (world.start(), world.start());
    let first = world.answered(1);
    assert_eq!((&first["outcome"], &first["version"], &first["baseline"]), (&json!("promoted"), &json!(1), &json!(1)), "{first}");
    assert_eq!((&first["beside"][0]["model"], &first["beside"][0]["outcome"]), (&json!(ANOMALY), &json!("promoted")), "{first}");
    assert_eq!((world.registry.production(DURATION).unwrap(), world.registry.production(ANOMALY).unwrap()), (Some(1), Some(1)));
    assert_eq!(
        world.triggers(),
        [told("raised", "scheduled", 3, None), told("due", "scheduled", 3, None), told("closed", "scheduled", 3, Some("promoted"))]
    );
    let standing_by = [&one, &two].iter().filter(|running| running.says().starts_with("standing by")).count();
    assert_eq!(standing_by, 1, "one owner");

    // History asks for nothing; a fresh request has to wait.
    world.ask(4, 2 * 86_400_000);
    world.ask(3, 0);
    let held = world.answered(2);
    assert_eq!((&held["outcome"], held["reason"].as_str().unwrap().contains("train.min_interval_hours")), (&json!("held_back"), true));
    wait_until("both say what is held back", LIMIT, || [&one, &two].iter().any(|r| r.says().contains("held back: 1")).then_some(()));
    one.stop();
    two.stop();

    world.config.train.min_interval_hours = 0;
    world.config.train.max_per_day = 24;
    let running = world.start();
    let refused = world.answered(3);
    assert_eq!(
        (&refused["trigger"], &refused["outcome"]),
        (&held["trigger"], &json!("refused")),
        "the same world: nothing better is found"
    );
    assert_ne!(refused["id"], held["id"], "another attempt has another answer");
    assert_eq!(world.triggers()[3..].iter().map(|told| told.0.as_str()).collect::<Vec<_>>(), ["raised", "due", "due", "closed"]);
    assert_eq!(world.triggers()[6], told("closed", "manual", 3, Some("answered")));
    let asked = world.documents("ml_retraining_triggers");
    let taken: Vec<bool> = asked.iter().map(|document| document.get_document("metadata").unwrap().contains_key("trigger")).collect();
    assert_eq!(taken, [false, true], "a request's document names its trigger");
    running.stop();

    world.config.train.data_volume_trigger_threshold = 20;
    world.insert(3_000..3_021, |n| now_ms() + i64::try_from(n).unwrap() - 3_000);
    let running = world.start();
    let volume = world.answered(4);
    assert!(volume["trigger"].as_str().unwrap().starts_with("execution-tickets-data-volume-"), "{volume}");
    assert_eq!(world.triggers()[7], told("raised", "data_volume", 2, None));
    running.stop();

    let history = world.documents("ml_training_history");
    let told: Vec<&str> = history
        .iter()
        .filter(|told| told.get_str("model_name").is_ok_and(|name| name == DURATION))
        .map(|told| told.get_str("outcome").unwrap())
        .collect();
    assert_eq!(told, ["promoted", "held_back", "refused", "refused"]);
    let audit = world.documents("model_audit_log");
    let promoted: Vec<&str> = audit.iter().map(|promotion| promotion.get_str("model_name").unwrap()).collect();
    assert_eq!(promoted[..2], [DURATION, ANOMALY], "a better anomaly model may follow");
    assert!(promoted[2..].iter().all(|model| *model == ANOMALY), "{promoted:?}");
}

#[test]
fn what_strangers_write_asks_for_nothing_and_hides_nothing() {
    let world = World::new("train_strangers", 3_000);
    world.poison();
    let running = world.start();
    let first = world.answered(1);
    assert_eq!((&first["outcome"], &first["version"], &first["baseline"]), (&json!("promoted"), &json!(1), &json!(1)), "{first}");
    // The copy of a request that has its answer is no other request, now and at the next start.
    world.poison();
    running.stop();
    world.poison();
    let running = world.start();
    world.ask(3, 0);
    let held = world.answered(2);
    assert_eq!(held["outcome"], json!("held_back"), "{held}");
    running.stop();
    assert_eq!(world.outcomes().len(), 2);
    assert_eq!(world.triggers().iter().map(|told| told.0.as_str()).collect::<Vec<_>>(), ["raised", "due", "closed", "raised", "due"]);
}

#[test]
fn requests_that_nobody_should_write_keep_nobody_else_waiting() {
    let world = World::new("train_bad_requests", 700);
    let running = world.start();
    world.answered(1);
    world.ask_badly();
    world.ask(3, 0);
    world.answered(3);
    running.stop();
    let raised: Vec<_> = world.triggers().into_iter().filter(|told| told.0 == "raised").map(|told| (told.1, told.2)).collect();
    // The unreadable reason costs the reason; of megabytes, and of an unreadable _id, nothing is asked.
    assert_eq!(raised, [("scheduled".to_owned(), 3), ("manual".to_owned(), 3), ("manual".to_owned(), 3)]);
}

#[test]
fn whatever_becomes_of_its_transactions_a_request_is_raised_and_answered_once() {
    for (at, fault) in [(0, Fault::UnknownVisible), (0, Fault::UnknownLost), (1, Fault::UnknownVisible), (1, Fault::UnknownLost)] {
        let world =
            World::new(["raise_seen", "raise_lost", "answer_seen", "answer_lost"][2 * at + usize::from(fault == Fault::UnknownLost)], 700);
        world.log.inject("tidemark.baseline", at, fault);
        let running = world.start();
        let answer = world.answered(1);
        running.stop();
        assert_eq!((&answer["outcome"], &answer["version"]), (&json!("promoted"), &json!(1)), "{fault:?} at {at}");
        assert_eq!(world.outcomes().len(), 1, "{fault:?} at {at}");
        let changes: Vec<String> = world.triggers().into_iter().map(|told| told.0).collect();
        assert_eq!(changes, ["raised", "due", "closed"], "{fault:?} at {at}");
        assert_eq!(world.registry.versions(DURATION).unwrap().len(), 1, "{fault:?} at {at}");
    }
}

#[test]
fn an_anomaly_model_that_fails_hides_no_answer() {
    let world = World::new("anomaly_fails", 700).refusing(ANOMALY);
    let running = world.start();
    let answer = world.answered(1);
    running.stop();
    assert_eq!((&answer["outcome"], &answer["version"]), (&json!("promoted"), &json!(1)), "{answer}");
    assert_eq!((&answer["beside"][0]["outcome"], &answer["beside"][0]["version"]), (&json!("failed"), &Value::Null), "{answer}");
    assert!(answer["beside"][0]["reason"].as_str().unwrap().contains("it is refused"), "{answer}");
}

#[test]
fn credentials_that_are_refused_once_lose_no_promotion() {
    let world = World::new("locked_out_once", 3_000);
    world.registry.locked_out.store(1, Ordering::SeqCst);
    let running = world.start();
    let answer = world.answered(1);
    running.stop();
    assert_eq!(answer["beside"][0]["outcome"], json!("promoted"), "{answer}");
    assert_eq!(world.registry.production(ANOMALY).unwrap(), Some(1));
}

#[test]
fn a_promotion_that_the_registry_was_away_for_is_repeated_before_anybodys_move_is_looked_for() {
    let mut world = World::new("away_once", 1_500);
    world.config.train.min_interval_hours = 0;
    world.config.train.max_per_day = 24;
    let running = world.start();
    world.answered(1);
    // The world becomes another one, and the registry is away just when the better version is to be promoted.
    world.insert(1_500..1_800, |n| now_ms() + (i64::try_from(n).unwrap() - 1_800) * 60_000);
    let runtime = Runtime::new().unwrap();
    let slower = vec![doc! { "$set": { "actual_duration_ms": { "$multiply": ["$actual_duration_ms", 3] } } }];
    runtime.block_on(world.collection(&runtime, "execution_tickets").update_many(doc! {}, slower).into_future()).unwrap();
    let tried = world.registry.promotions.load(Ordering::SeqCst);
    world.registry.away.store(1, Ordering::SeqCst);
    world.ask(3, 0);
    let answer = world.answered(2);
    assert_eq!((&answer["outcome"], &answer["version"]), (&json!("promoted"), &json!(2)), "{answer}");
    assert_eq!(world.registry.promotions.load(Ordering::SeqCst) - tried, if answer["beside"][0]["outcome"] == "promoted" { 3 } else { 2 });
    assert_eq!(world.registry.production(DURATION).unwrap(), Some(2));
    running.stop();
    let moved: Vec<Notice> = world.notices().into_iter().filter(|notice| matches!(notice, Notice::Moved { .. })).collect();
    assert_eq!(moved, [], "nobody moved Production");
    let versions = world.registry.versions(DURATION).unwrap();
    assert_eq!(versions[1].tags["tidemark.before"], "1", "a rollback knows where it leads");
}

/// A baseline as somebody's command writes it.
fn by_hand(world: &World, version: u64) -> Record {
    let (spec, now_ms) = (&world.spec, now_ms());
    let from_ms = now_ms - 200 * TEN_MINUTES_MS;
    let mut builder = Builder::new(spec, from_ms, now_ms).unwrap();
    for n in 0..200 {
        let completed_at_ms = from_ms + n * TEN_MINUTES_MS;
        let mut fields = vec![FieldValue::Missing; spec.fields.len()];
        fields[spec.field("retry_count").unwrap()] = FieldValue::Number((n % 5) as f64);
        builder.push(&Ticket {
            id: TicketId::from_text(&n.to_string()),
            completed_at_ms,
            event_at_ms: completed_at_ms,
            commit: None,
            transition: Transition::Replay,
            actual: 100.0 + (n % 7) as f64,
            predicted: Some(100.0),
            model_version: None,
            fields,
        });
    }
    let making = Making { version, created_at_ms: now_ms, window_days: &world.config.window.days, predecessor: None };
    let baseline = builder.build(&making).unwrap();
    Record {
        topic: world.topics.baselines.clone(),
        partition: 0,
        key: Some(format!("{}@{version}", spec.name).into()),
        value: Some(serde_json::to_vec(&baseline).unwrap().into()),
        headers: Vec::new(),
    }
}

#[test]
fn a_baseline_that_somebody_writes_while_it_trains_keeps_its_number() {
    let world = World::new("numbers", 700);
    let (log, record) = (world.log.clone(), by_hand(&world, 1));
    let write = move || {
        let mut producer = log.producer("tidemark.baseline").unwrap();
        producer.transact(Transaction { records: vec![record], ..Transaction::default() }).unwrap();
    };
    *world.registry.meanwhile.lock().unwrap() = Some(Box::new(write));
    let running = world.start();
    let answer = world.answered(1);
    running.stop();
    assert_eq!((&answer["outcome"], &answer["baseline"]), (&json!("promoted"), &json!(2)), "{answer}");
    let keys: Vec<String> = world
        .records(&world.topics.baselines)
        .iter()
        .map(|record| String::from_utf8_lossy(record.key.as_ref().unwrap()).into_owned())
        .collect();
    assert_eq!(keys, ["execution-tickets@1", "execution-tickets@2"], "each number is given once");
    assert_eq!(world.registry.versions(DURATION).unwrap().len(), 1, "the training that was made again is the same version");
}
