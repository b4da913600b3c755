//! A worker's load, from a real MongoDB: whole, without an index, without history, and with a server that has gone silent.

use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use mongodb::{Client, Collection};
use serde_json::{Value, json};
use tidemark::clock::{now_ms, rfc3339};

use crate::support::mongo::runtime;
use crate::support::predictor::Predictor;
use crate::support::{Mongo, mongo, wait_until};

const MINUTE_MS: i64 = 60_000;

fn start(mongo: &Mongo, database: &str) -> Predictor {
    Predictor::start(&[("MONGODB_URI", &mongo.uri), ("MONGODB_DATABASE", database)])
}

fn collection(mongo: &Mongo, database: &str) -> (tokio::runtime::Runtime, Collection<Document>) {
    let runtime = runtime();
    let client = runtime.block_on(Client::with_uri_str(&mongo.uri)).unwrap();
    (runtime, client.database(database).collection("execution_tickets"))
}

fn open(worker: &str, number: usize, status: &str) -> Document {
    doc! { "ticket_id": format!("{worker}-open-{number}"), "status": status, "allocated_worker_id": worker }
}

/// Returns a completion `minutes` ago; its time is a date, a number or a text, in turns.
fn completion(worker: &str, minutes: i64, actual_ms: f64) -> Document {
    let ms = now_ms() - minutes * MINUTE_MS;
    let time = match minutes % 3 {
        0 => Bson::DateTime(DateTime::from_millis(ms)),
        1 => Bson::Int64(ms),
        // The same instant, as a clock five hours ahead writes it.
        _ => Bson::String(rfc3339(ms + 5 * 60 * MINUTE_MS).replace('Z', "+05:00")),
    };
    doc! { "ticket_id": format!("{worker}-{minutes}"), "status": "COMPLETED", "allocated_worker_id": worker, "completed_at": time,
    "actual_duration_ms": actual_ms }
}

fn load(predictor: &Predictor, worker: &str) -> Value {
    let (status, answer) = predictor.ask("load", &json!({ "worker_id": worker }));
    assert_eq!(status, 200, "{answer}");
    answer["prediction"].clone()
}

/// Asks until MongoDB was fast enough: on a busy machine the deadline may pass, and the answer then says so.
fn answered(predictor: &Predictor, worker: &str) -> Value {
    wait_until("MongoDB answers in time", Duration::from_secs(30), || {
        let answer = load(predictor, worker);
        (answer["fallback"] != "mongodb_slow").then_some(answer)
    })
}

#[test]
fn a_queue_takes_its_depth_times_the_mean_of_the_last_ten_completions() {
    let (runtime, tickets) = collection(mongo(), "serve_load");
    let mut documents: Vec<Document> = (0..3).map(|number| open("busy", number, "PENDING")).collect();
    documents.push(open("busy", 3, "EXECUTING"));
    documents.push(open("busy", 4, "FAILED"));
    documents.extend((1..=10).map(|minutes| completion("busy", minutes, 1_000.0 + 200.0 * minutes as f64)));
    documents.extend([completion("busy", 11, 1e6), completion("busy", 12, 1e6), completion("busy", 13, 1e6)]);
    documents.extend((0..2).map(|number| open("fresh", number, "PENDING")));
    documents.extend([completion("fresh", 63, 5_000.0), completion("fresh", 64, 5_000.0), completion("fresh", 65, 5_000.0)]);
    documents.push(completion("idle", 6, 5_000.0));
    runtime.block_on(async { tickets.insert_many(&documents).await }).unwrap();

    let predictor = start(mongo(), "serve_load");
    let busy = answered(&predictor, "busy");
    assert!((busy["queue_time_ms"].as_f64().unwrap() - 4.0 * 2_100.0).abs() < 1e-6, "{busy}");
    assert_eq!((&busy["depth"], &busy["load"], &busy["source"]), (&json!(4), &json!(0.4), &json!("rules")));
    let fresh = answered(&predictor, "fresh");
    let what_is_said = (&fresh["queue_time_ms"], &fresh["load"], &fresh["source"], &fresh["fallback"]);
    assert_eq!(what_is_said, (&json!(1_000.0), &json!(0.2), &json!("estimate"), &json!("no_history")), "an hour is the window");
    let idle = answered(&predictor, "idle");
    assert_eq!((&idle["queue_time_ms"], &idle["load"]), (&json!(0.0), &json!(0.0)));

    runtime.block_on(async { tickets.insert_one(open("busy", 5, "PENDING")).await }).unwrap();
    assert_eq!(load(&predictor, "busy")["depth"], 4, "an answer is remembered for half a minute");
    let metrics = predictor.page("/metrics").unwrap().1;
    assert!(metrics.contains("tidemark_serve_load_lookups_total{remembered=\"yes\"}"), "{metrics}");
    assert!(metrics.contains("tidemark_serve_predictions_total{endpoint=\"load\",source=\"rules\"}"), "{metrics}");
    assert!(metrics.contains("tidemark_serve_request_seconds_bucket{endpoint=\"load\""), "{metrics}");
    predictor.stop();
}

#[test]
fn a_missing_index_is_suggested_at_the_start_and_a_present_one_is_found() {
    let (runtime, tickets) = collection(mongo(), "serve_index");
    let suggestion = r#"db.getCollection("execution_tickets").createIndex({ "allocated_worker_id": 1, "status": 1, "completed_at": -1 })"#;
    let says = |predictor: &Predictor, what: &str| {
        wait_until(what, Duration::from_secs(30), || predictor.says("load").contains(what).then_some(()));
    };
    let predictor = start(mongo(), "serve_index");
    says(&predictor, suggestion); // of a collection that is not there yet
    predictor.stop();
    runtime.block_on(async { tickets.insert_one(open("w", 1, "PENDING")).await }).unwrap();
    let other = doc! { "key": { "allocated_worker_id": 1, "completed_at": -1, "status": 1 }, "name": "in another order" };
    let whole = doc! { "allocated_worker_id": 1, "status": 1, "completed_at": -1 };
    let part = doc! { "key": whole, "name": "of some", "partialFilterExpression": { "status": "COMPLETED" } };
    let create = doc! { "createIndexes": "execution_tickets", "indexes": [other, part] };
    runtime.block_on(async { tickets.client().database("serve_index").run_command(create).await }).unwrap();
    let predictor = start(mongo(), "serve_index");
    says(&predictor, suggestion);
    assert!(predictor.last_words().contains(suggestion), "{}", predictor.last_words());
    predictor.stop();
    let name = doc! { "key": { "allocated_worker_id": 1, "status": 1, "completed_at": -1 }, "name": "by worker" };
    let create = doc! { "createIndexes": "execution_tickets", "indexes": [name] };
    runtime.block_on(async { tickets.client().database("serve_index").run_command(create).await }).unwrap();
    let predictor = start(mongo(), "serve_index");
    says(&predictor, "has the index");
    predictor.stop();
}

#[test]
fn a_mongodb_that_has_gone_silent_costs_a_moment_and_the_answer_says_so() {
    let mongo = Mongo::start();
    let predictor = start(&mongo, "serve_silent");
    assert_eq!(answered(&predictor, "before")["fallback"], "no_history");
    mongo.signal("STOP");
    for number in 0..9 {
        let answer = load(&predictor, &format!("silent-{number}"));
        let said = (&answer["queue_time_ms"], &answer["load"], &answer["depth"], &answer["source"]);
        assert_eq!(said, (&json!(2_000.0), &json!(0.5), &json!(null), &json!("estimate")));
        assert!(answer["fallback"] == "mongodb_slow" || answer["fallback"] == "mongodb_failed", "{answer}");
    }
    assert_eq!(load(&predictor, "before")["fallback"], "no_history", "what is remembered needs no server");
    mongo.signal("CONT");
    wait_until("MongoDB answers again", Duration::from_secs(30), || (load(&predictor, "after")["fallback"] == "no_history").then_some(()));
    predictor.stop();
}
