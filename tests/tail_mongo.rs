//! The first stage on a real replica set: what completes there is in the log, once.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use mongodb::{Client, Collection};
use tidemark::config::{Config, Start};
use tidemark::log::kafka::KafkaLog;
use tidemark::log::memory::{Fault, MemoryLog};
use tidemark::log::{Delivered, Log, Record, Transaction};
use tidemark::spec::Spec;
use tidemark::stage::{Context, Health, State, Stop};
use tidemark::tail::mongo::MongoSource;
use tidemark::tail::{self, TailError};
use tidemark::ticket::{Chain, Ticket, Transition};
use tidemark::topics::Topics;
use tokio::runtime::Runtime;

use crate::support::disturbed::{Disturbed, Gate, Ways};
use crate::support::{kafka, mongo, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const PARTITIONS: u32 = 3;

/// A collection of its own, and the log that its tickets go to.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) collection: Collection<Document>,
    /// For its faults; where tickets go to is `target`.
    pub(crate) log: MemoryLog,
    pub(crate) target: Arc<dyn Log>,
    pub(crate) config: Config,
    pub(crate) spec: Arc<Spec>,
}

/// The stage, running.
pub(crate) struct Running {
    pub(crate) context: Context,
    pub(crate) thread: JoinHandle<Result<(), TailError>>,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        Self::at(&mongo().uri, name)
    }

    /// The same on a MongoDB of one's own.
    pub(crate) fn at(uri: &str, name: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(Client::with_uri_str(uri)).unwrap();
        let database = client.database(&format!("tail_{name}"));
        let mut config = Config::default();
        config.mongodb.uri = Some(uri.to_owned().into());
        config.mongodb.database = Some(database.name().to_owned());
        config.kafka.partitions = PARTITIONS;
        let spec = Spec::from_toml(include_str!("../config/execution-tickets.toml")).unwrap();
        let collection = database.collection(&spec.source.collection);
        runtime.block_on(async { database.create_collection(&spec.source.collection).await }).unwrap();
        let log = MemoryLog::new();
        Self { runtime, collection, target: Arc::new(log.clone()), log, config, spec: Arc::new(spec) }
    }

    /// The same, with a real broker.
    fn on_kafka(name: &str) -> Self {
        let mut world = Self::new(name);
        world.config.kafka.bootstrap_servers = Some(kafka().bootstrap_servers.clone());
        world.config.kafka.topic_prefix = format!("tail-{name}");
        world.target = Arc::new(KafkaLog::connect(&world.config.kafka).unwrap());
        world
    }

    pub(crate) fn topics(&self) -> Topics {
        Topics::new(&self.config.kafka.topic_prefix)
    }

    pub(crate) fn keep_images(&self) {
        let command = doc! { "collMod": self.collection.name(), "changeStreamPreAndPostImages": { "enabled": true } };
        self.runtime
            .block_on(async { self.collection.client().database(&self.collection.namespace().db).run_command(command).await })
            .unwrap();
    }

    /// Starts the stage and waits until it leads.
    pub(crate) fn start(&self) -> Running {
        let running = self.launch();
        wait_until("the tail leads", LIMIT, || {
            matches!(running.context.health.all().get(tail::PART), Some(State::Ready(words)) if words.starts_with("leading")).then_some(())
        });
        running
    }

    /// Starts the stage.
    pub(crate) fn launch(&self) -> Running {
        let topics = self.topics();
        self.target.create_topics(&topics.settings(&self.config.topic_plan())).unwrap();
        let context = Context {
            config: Arc::new(self.config.clone()),
            spec: self.spec.clone(),
            topics: Arc::new(topics),
            log: self.target.clone(),
            stop: Stop::default(),
            health: Health::default(),
            registry: None,
        };
        let source = MongoSource::new(&self.config, &self.spec).unwrap();
        let thread = std::thread::spawn({
            let context = context.clone();
            move || tail::run(&context, Box::new(source))
        });
        Running { context, thread }
    }

    pub(crate) fn insert(&self, documents: impl IntoIterator<Item = Document>) {
        let documents: Vec<_> = documents.into_iter().collect();
        self.runtime.block_on(async { self.collection.insert_many(documents).await }).unwrap();
    }

    /// Sets fields of one document.
    pub(crate) fn update(&self, id: i32, set: Document) {
        let update = doc! { "$set": set };
        self.runtime.block_on(async { self.collection.update_one(doc! { "_id": id }, update).await }).unwrap();
    }

    pub(crate) fn replace(&self, id: i32, document: Document) {
        self.runtime.block_on(async { self.collection.replace_one(doc! { "_id": id }, document).await }).unwrap();
    }

    pub(crate) fn delete(&self, id: i32) {
        self.runtime.block_on(async { self.collection.delete_one(doc! { "_id": id }).await }).unwrap();
    }

    pub(crate) fn records(&self, topic: &str) -> Vec<Delivered> {
        let mut reader = self.target.reader().unwrap();
        let mut records = Vec::new();
        for partition in 0..PARTITIONS {
            let bounds = reader.bounds(topic, partition).unwrap();
            let mut chain: Option<Chain> = None;
            reader
                .read(topic, partition, bounds.low, bounds.end, &mut |record| {
                    let theirs = Chain::parse(record.header("chain").unwrap()).unwrap();
                    if record.header("kind") == Some(b"chain-start") {
                        chain = Some(Chain::begin(&theirs.id));
                    }
                    chain.get_or_insert_with(|| Chain::begin(&theirs.id)).follow(&record).unwrap();
                    records.push(record);
                    ControlFlow::Continue(())
                })
                .unwrap();
        }
        records
    }

    /// Tickets by id, in the order in which each completed.
    pub(crate) fn tickets(&self) -> BTreeMap<String, Vec<Ticket>> {
        let mut tickets: BTreeMap<String, Vec<Ticket>> = BTreeMap::new();
        for record in self.records(&self.topics().tickets) {
            if record.header("kind") == Some(b"ticket") {
                let ticket = Ticket::decode(&self.spec, record.value.as_deref().unwrap()).unwrap();
                tickets.entry(ticket.id.to_string()).or_default().push(ticket);
            }
        }
        tickets
    }

    pub(crate) fn transitions(&self) -> BTreeMap<String, Vec<Transition>> {
        self.tickets().into_iter().map(|(id, tickets)| (id, tickets.iter().map(|ticket| ticket.transition).collect())).collect()
    }

    /// Waits until so many tickets are there, and then for one more that is written now: whatever is wrong would stand before it.
    pub(crate) fn settle(&self, id: i32, tickets: usize) -> BTreeMap<String, Vec<Transition>> {
        self.insert([completed(id)]);
        let last = name(id);
        wait_until("the last ticket arrives", LIMIT, || self.tickets().contains_key(&last).then_some(()));
        let mut all = self.transitions();
        all.remove(&last);
        assert_eq!(all.values().map(Vec::len).sum::<usize>(), tickets, "{all:?}");
        all
    }

    pub(crate) fn dead(&self) -> Vec<(String, String)> {
        let dead = self.records(&self.topics().dead_letters);
        let values = dead.iter().map(|record| serde_json::from_slice::<serde_json::Value>(record.value.as_deref().unwrap()).unwrap());
        values.map(|value| (value["reason"].as_str().unwrap().to_owned(), value["detail"].as_str().unwrap().to_owned())).collect()
    }
}

impl Running {
    pub(crate) fn stop(self) {
        self.context.stop.ask();
        self.thread.join().unwrap().unwrap();
    }
}

pub(crate) fn name(id: i32) -> String {
    format!("T-{id}")
}

fn ticket(id: i32, status: &str) -> Document {
    doc! {
        "_id": id,
        "ticket_id": name(id),
        "status": status,
        "task_type": "BUILD",
        "completed_at": DateTime::now(),
        "actual_duration_ms": 1_000 + id,
        "secret": "never leaves",
        "parameters": { "a": 1 },
    }
}

pub(crate) fn completed(id: i32) -> Document {
    ticket(id, "COMPLETED")
}

pub(crate) fn executing(id: i32) -> Document {
    ticket(id, "EXECUTING")
}

/// A completed ticket without a usable target.
pub(crate) fn unusable(id: i32) -> Document {
    let mut document = completed(id);
    document.insert("actual_duration_ms", -5);
    document
}

/// A document that completed and says no id.
pub(crate) fn without_id(id: i32) -> Document {
    let mut document = completed(id);
    document.remove("ticket_id");
    document
}

/// A completed document whose `_id` is no whole number.
fn of_another_type(id: i32) -> Document {
    let mut document = completed(id);
    let other = match id % 4 {
        0 => Bson::Double(f64::from(id) + 0.5),
        1 => Bson::String(name(id)),
        2 => Bson::Document(doc! { "at": id }),
        _ => Bson::ObjectId(ObjectId::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (id >> 8).to_le_bytes()[0], id.to_le_bytes()[0]])),
    };
    document.insert("_id", other);
    document
}

#[test]
fn inserts_and_updates_complete_once_and_other_changes_do_not() {
    let world = World::new("updates");
    let stage = world.start();
    world.insert([completed(1), executing(2), executing(3), executing(4)]);
    world.update(2, doc! { "status": "COMPLETED" });
    world.update(2, doc! { "status": "COMPLETED" });
    world.update(2, doc! { "note": "later" });
    world.update(3, doc! { "status": "FAILED" });
    world.update(4, doc! { "status": "COMPLETED", "actual_duration_ms": 77 });
    world.update(4, doc! { "status": "EXECUTING" });
    world.update(4, doc! { "status": "COMPLETED" });
    let all = world.settle(100, 4);
    assert_eq!(all[&name(1)], [Transition::Insert]);
    assert_eq!(all[&name(2)], [Transition::Update]);
    assert_eq!(all[&name(4)], [Transition::Update, Transition::Update]);
    assert!((world.tickets()[&name(4)][0].actual - 77.0).abs() < 1e-9);
    let all_bytes: Vec<u8> = world.records(&world.topics().tickets).iter().flat_map(|record| record.value.clone().unwrap()).collect();
    assert!(!String::from_utf8_lossy(&all_bytes).contains("never leaves"));
    stage.stop();
}

#[test]
fn a_replace_counts_when_its_pre_image_was_not_completed_and_is_assumed_without_one() {
    let world = World::new("replaces");
    world.insert([executing(1), completed(2)]);
    let stage = world.start();
    world.replace(1, completed(1));
    world.replace(2, completed(2));
    let all = world.settle(100, 2);
    assert_eq!((&all[&name(1)], &all[&name(2)]), (&vec![Transition::Assumed], &vec![Transition::Assumed]));
    stage.stop();

    let world = World::new("replaces_with_images");
    world.keep_images();
    world.insert([executing(1), completed(2), executing(3)]);
    let stage = world.start();
    world.replace(1, completed(1));
    world.replace(2, completed(2));
    world.update(3, doc! { "status": "COMPLETED", "actual_duration_ms": 5 });
    world.update(3, doc! { "actual_duration_ms": 6 });
    let all = world.settle(100, 2);
    assert_eq!((&all[&name(1)], &all[&name(3)]), (&vec![Transition::Replace], &vec![Transition::Update]));
    assert!((world.tickets()[&name(3)][0].actual - 5.0).abs() < 1e-9, "the post-image, not the version read later");
    stage.stop();
}

#[test]
fn what_cannot_be_used_is_a_dead_letter_and_the_stream_goes_on() {
    let world = World::new("dead");
    let stage = world.start();
    let mut future = completed(1);
    future.insert("completed_at", DateTime::from_millis(DateTime::now().timestamp_millis() + 7_200_000));
    let mut no_actual = completed(2);
    no_actual.insert("actual_duration_ms", -5);
    let mut no_id = completed(3);
    no_id.remove("ticket_id");
    world.insert([future, no_actual, no_id]);
    world.settle(100, 0);
    let mut reasons: Vec<_> = world.dead().into_iter().map(|(reason, _)| reason).collect();
    reasons.sort();
    assert_eq!(reasons, ["bad_id", "from_the_future", "no_actual"]);
    stage.stop();
}

#[test]
fn a_stopped_stage_goes_on_where_it_was_and_deleted_documents_are_named() {
    let world = World::new("restart");
    let stage = world.start();
    world.insert([completed(1), executing(2), executing(3)]);
    world.settle(100, 1);
    stage.stop();
    world.insert((10..200).map(|id| if id == 100 { executing(9) } else { completed(id) }));
    world.update(2, doc! { "status": "COMPLETED" });
    world.update(3, doc! { "status": "COMPLETED" });
    world.delete(3);
    let stage = world.start();
    let all = world.settle(300, 192);
    assert!(all.values().all(|times| times.len() == 1));
    let dead = world.dead();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].0, "gone_before_read");
    stage.stop();
}

#[test]
fn tickets_of_one_mongodb_transaction_all_arrive_whatever_fails() {
    let world = World::new("transactions");
    for (after, fault) in [
        (3, Fault::Torn { visible: 1 }),
        (6, Fault::UnknownLost),
        (9, Fault::UnknownVisible),
        (12, Fault::Torn { visible: 3 }),
        (15, Fault::Abort),
    ] {
        world.log.inject("tidemark.tail", after, fault);
    }
    let stage = world.start();
    let client = world.collection.client().clone();
    for batch in 0..12 {
        world.runtime.block_on(async {
            let mut session = client.start_session().await.unwrap();
            session.start_transaction().await.unwrap();
            for id in batch * 5..batch * 5 + 5 {
                world.collection.insert_one(completed(id)).session(&mut session).await.unwrap();
            }
            session.commit_transaction().await.unwrap();
        });
    }
    let all = world.settle(100, 60);
    assert!(all.values().all(|times| times == &[Transition::Insert]));
    stage.stop();
}

#[test]
fn a_history_and_the_stream_meet_without_a_gap_and_without_a_repeat() {
    let mut world = World::new("history");
    world.config.tail.start = Start::History;
    world.config.tail.transaction_rows = 500;
    world.insert((0..25_000).map(|id| if id % 2 == 0 { completed(id) } else { executing(id) }));
    // The first ticket waits at a gate: by then the first 10,000 completed ones have been read, and the rest has not.
    let gate = Gate::default();
    let transact = {
        let gate = gate.clone();
        move |_: &str, transaction: &Transaction| {
            let is_ticket = |record: &Record| record.headers.iter().any(|(name, value)| name == "kind" && &value[..] == b"ticket");
            if transaction.records.iter().any(is_ticket) {
                gate.pass();
            }
        }
    };
    world.target = Arc::new(Disturbed::new(&world.log, Ways { transact: Box::new(transact), ..Ways::default() }));
    let stage = world.launch();
    gate.wait_until_reached(LIMIT);
    let words = wait_until("it says how far it is", LIMIT, || match stage.context.health.all().remove(tail::PART) {
        Some(State::Ready(words)) if words.contains(" of about ") => Some(words),
        _ => None,
    });
    let about = words.split(" of about ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    // A sample of 1,000: the half of them completed, give or take five standard deviations.
    assert!(about.is_some_and(|about| (10_500..14_500).contains(&about)), "{words}");
    let complete = |id: i32| world.update(id, doc! { "status": "COMPLETED" });
    // In front of what has been read: the stream brings these, and then the history shows them as well.
    (20_501..25_000).step_by(500).for_each(complete);
    world.insert((30_000..30_100).map(completed).chain((30_200..30_203).map(without_id)));
    // Behind it, and something that completed long ago.
    (1..19_000).step_by(500).for_each(complete);
    world.update(1_000, doc! { "note": "touched" });
    thread::scope(|scope| {
        // And all over the place, all the while.
        let writer = scope.spawn(|| (101..25_000).step_by(100).filter(|id| id % 500 != 1).for_each(complete));
        gate.open();
        writer.join().unwrap();
    });
    wait_until("the history is read", LIMIT, || {
        let health = stage.context.health.all();
        matches!(health.get(tail::PART), Some(State::Ready(words)) if !words.contains("history")).then_some(())
    });
    let all = world.settle(90_000, 12_500 + 9 + 100 + 38 + 200);
    let repeats: Vec<_> = all.iter().filter(|(_, times)| times.len() > 1).collect();
    assert!(repeats.is_empty(), "{repeats:?}");
    for id in (20_501..25_000).step_by(500) {
        assert_eq!(all[&name(id)], [Transition::Update], "{id} came through the stream, whatever the history shows of it");
    }
    assert_eq!(all[&name(30_000)], [Transition::Insert]);
    assert_eq!(world.dead().len(), 3, "what has no id came through the stream, and the history shows it as well: {:?}", world.dead());
    stage.stop();
}

#[test]
fn a_history_that_is_interrupted_goes_on_and_repeats_nothing() {
    let mut world = World::new("interrupted");
    world.config.tail.start = Start::History;
    world.config.tail.transaction_rows = 500;
    world.insert((0..12_000).map(|id| if id % 2 == 0 { completed(id) } else { executing(id) }));
    // A chunk ends among those that no comparison with a number finds.
    world.insert((20_000..29_000).map(of_another_type));
    let mut large = completed(40_000);
    large.insert("task_type", "x".repeat(5_000_000));
    world.insert([without_id(40_001), large]);
    for after in [4, 7, 9, 12, 14] {
        world.log.inject("tidemark.tail", after, Fault::Torn { visible: 100 });
    }
    let stage = world.start();
    for id in (1..12_000).step_by(300) {
        world.update(id, doc! { "status": "COMPLETED" });
    }
    stage.stop();
    for id in (2..12_000).step_by(600) {
        world.update(id, doc! { "status": "EXECUTING" });
    }
    for id in (4..12_000).step_by(600) {
        world.delete(id);
    }
    let stage = world.start();
    wait_until("the history is read", LIMIT, || {
        let health = stage.context.health.all();
        matches!(health.get(tail::PART), Some(State::Ready(words)) if !words.contains("history")).then_some(())
    });
    world.insert([completed(90_000)]);
    wait_until("the last ticket arrives", LIMIT, || world.tickets().contains_key(&name(90_000)).then_some(()));
    let all = world.transitions();
    assert!(all.values().all(|times| times.len() == 1));
    for id in (0..12_000).step_by(2).filter(|id| ![2, 4].contains(&(id % 600))).chain(20_000..29_000) {
        assert!(all.contains_key(&name(id)), "{id} is missing");
    }
    for id in (1..12_000).step_by(300) {
        assert!(all.contains_key(&name(id)), "{id} is missing");
    }
    let reasons: Vec<String> = world.dead().into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons.iter().filter(|reason| *reason == "bad_id").count(), 1, "{reasons:?}");
    assert_eq!(reasons.iter().filter(|reason| *reason == "too_large").count(), 1, "{reasons:?}");
    assert_eq!(reasons.len(), 2);
    stage.stop();
}

#[test]
fn a_collection_that_is_dropped_and_made_anew_is_followed() {
    let world = World::new("dropped");
    let stage = world.start();
    world.insert([completed(1)]);
    world.settle(100, 1);
    world.runtime.block_on(async { world.collection.drop().await }).unwrap();
    world.insert([completed(2)]);
    wait_until("the ticket of the new collection arrives", LIMIT, || world.tickets().contains_key(&name(2)).then_some(()));
    stage.stop();
    let stage = world.start();
    world.insert([completed(3)]);
    wait_until("the next one too", LIMIT, || world.tickets().contains_key(&name(3)).then_some(()));
    assert_eq!(world.tickets().values().map(Vec::len).sum::<usize>(), 4);
    stage.stop();
}

#[test]
fn on_a_real_broker_a_history_and_the_stream_arrive_once_through_restarts() {
    let mut world = World::on_kafka("broker");
    world.config.tail.start = Start::History;
    world.config.tail.transaction_rows = 300;
    world.insert((0..3_000).map(|id| if id % 2 == 0 { completed(id) } else { executing(id) }));
    for round in 0..3 {
        let stage = world.start();
        for id in (1 + round * 2..3_000).step_by(60) {
            world.update(id, doc! { "status": "COMPLETED" });
        }
        let last = 10_000 + round;
        world.insert([completed(last)]);
        wait_until("the last ticket of the round arrives", LIMIT, || world.tickets().contains_key(&name(last)).then_some(()));
        stage.stop();
    }
    let stage = world.start();
    let all = world.settle(90_000, 1_500 + 150 + 3);
    assert!(all.values().all(|times| times.len() == 1));
    stage.stop();
}

#[test]
fn on_a_real_broker_a_second_process_stands_by_and_takes_over() {
    let world = World::on_kafka("takeover");
    let first = world.start();
    let second = {
        let context = Context { stop: Stop::default(), health: Health::default(), ..first.context.clone() };
        let source = MongoSource::new(&world.config, &world.spec).unwrap();
        let thread = std::thread::spawn({
            let context = context.clone();
            move || tail::run(&context, Box::new(source))
        });
        Running { context, thread }
    };
    // Which of the two leads the group decides, when the second one has joined it.
    let says = |process: &Running, begin: &str| matches!(process.context.health.all().get(tail::PART), Some(State::Ready(words)) if words.starts_with(begin));
    let both = |one: &Running, other: &Running| says(one, "leading") && says(other, "standing by");
    wait_until("one leads, the other stands by", LIMIT, || (both(&first, &second) || both(&second, &first)).then_some(()));
    let (leader, other) = if says(&first, "leading") { (first, second) } else { (second, first) };
    world.insert((0..50).map(completed));
    leader.stop();
    world.insert((50..100).map(completed));
    let all = world.settle(1_000, 100);
    assert!(all.values().all(|times| times.len() == 1));
    other.stop();
}
