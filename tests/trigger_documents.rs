//! Trigger documents on a real MongoDB: one a trigger, whatever is delivered twice, and nothing lost while it is away.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::{Client, Collection};
use tidemark::alert::Level;
use tidemark::config::Config;
use tidemark::log::memory::{Fault, MemoryLog};
use tidemark::log::{Log, Transaction};
use tidemark::spec::Spec;
use tidemark::stage::{Context, Health, Stop};
use tidemark::topics::Topics;
use tidemark::trigger::{ClosedBecause, Trigger, TriggerCause, TriggerChange, TriggerType};
use tidemark::trigger_documents;
use tokio::runtime::Runtime;

use crate::support::{mongo, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

fn trigger(number: u64, change: TriggerChange) -> Trigger {
    Trigger {
        id: format!("execution-tickets-drift-{number}"),
        spec: "execution-tickets".to_owned(),
        model: "ticket-duration-predictor".to_owned(),
        change,
        trigger_type: TriggerType::Drift,
        priority: 4,
        reason: "error and target are at their critical levels".to_owned(),
        causes: vec![TriggerCause { cause: "error".to_owned(), episode: "error-9".to_owned(), level: Level::Critical, onset_ms: None }],
        raised_mark: Some(number),
        raised_at_ms: 1_372_680_000_000,
        mark: Some(number),
        at_ms: 1_372_680_000_000,
        baseline: Some(1),
        attempts: 0,
        closed_because: (change == TriggerChange::Closed).then_some(ClosedBecause::Resolved),
        asked: None,
        next_due_ms: None,
        error_is_over: false,
        settles: None,
    }
}

#[test]
fn a_trigger_is_one_document_that_follows_it_to_its_end() {
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(Client::with_uri_str(&mongo().uri)).unwrap();
    let collection: Collection<Document> = client.database("trigger_documents").collection("ml_retraining_triggers");
    let mut config = Config { instance: "one".to_owned(), ..Config::default() };
    config.mongodb.uri = Some(mongo().uri.clone().into());
    config.mongodb.database = Some("trigger_documents".to_owned());
    let log = MemoryLog::new();
    let topics = Topics::new("tidemark");
    log.create_topics(&topics.settings(&config.topic_plan())).unwrap();
    let context = Context {
        config: Arc::new(config),
        spec: Arc::new(Spec::from_toml(include_str!("../config/execution-tickets.toml")).unwrap()),
        topics: Arc::new(topics),
        log: Arc::new(log.clone()),
        stop: Stop::default(),
        health: Health::default(),
        registry: None,
    };
    // Delivered, but not noted: it is delivered again.
    log.inject("tidemark.trigger-documents.one", 0, Fault::Abort);
    log.inject("tidemark.trigger-documents.one", 1, Fault::UnknownLost);
    let write = |trigger: Trigger| {
        let record = trigger.event().into_record(context.topics.retraining_triggers.clone(), &trigger.model, vec![]);
        log.producer("writer").unwrap().transact(Transaction { records: vec![record], ..Transaction::default() }).unwrap();
    };
    let run = || {
        let running = Context { stop: Stop::default(), ..context.clone() };
        let stop = running.stop.clone();
        (stop, thread::spawn(move || trigger_documents::run(&running)))
    };
    let documents = || {
        runtime.block_on(async {
            let mut cursor = collection.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
            let mut found = vec![];
            while cursor.advance().await.unwrap() {
                found.push(cursor.deserialize_current().unwrap());
            }
            found
        })
    };

    write(trigger(1, TriggerChange::Raised));
    let (stop, thread) = run();
    wait_until("the first document", LIMIT, || (documents().len() == 1).then_some(()));
    write(trigger(2, TriggerChange::Raised));
    wait_until("the second document", LIMIT, || (documents().len() == 2).then_some(()));
    stop.ask();
    thread.join().unwrap().unwrap();

    write(trigger(1, TriggerChange::Closed));
    let (stop, thread) = run();
    let closed =
        |document: &Document| document.get_document("metadata").unwrap().get_str("closed_because").is_ok_and(|why| why == "resolved");
    wait_until("the end of the first", LIMIT, || (documents().first().is_some_and(closed)).then_some(()));
    stop.ask();
    thread.join().unwrap().unwrap();
    let found = documents();
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].get_i32("priority").unwrap(), 4);
    assert_eq!(found[1].get_str("model_name").unwrap(), "ticket-duration-predictor");
}
