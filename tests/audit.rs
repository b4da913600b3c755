//! `tidemark audit` on real servers: what is clean, what is only still to come, and what a stranger broke, by name.

use std::time::Duration;

use bson::{DateTime, Document, RawDocumentBuf, doc};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::support::mongo::runtime;
use crate::support::{Deployment, kafka, meddling, wait_until};
use crate::tail_mongo::completed;

const LIMIT: Duration = Duration::from_secs(60);

fn tickets(numbers: std::ops::Range<i32>) -> Vec<Document> {
    let now = DateTime::now().timestamp_millis();
    let ticket = |number: i32| {
        doc! {
            "ticket_id": format!("T-{number}"), "status": "COMPLETED", "task_type": "BUILD",
            "completed_at": DateTime::from_millis(now - 1_000 + i64::from(number)), "actual_duration_ms": 60_000,
        }
    };
    numbers.map(ticket).collect()
}

/// Runs the audit; returns its code and its report.
pub(crate) fn audit(deployment: &Deployment, flags: &[&str]) -> (i32, Value) {
    let arguments: Vec<&str> = ["audit", "--output", "json"].into_iter().chain(flags.iter().copied()).collect();
    let output = deployment.output(&arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{:?}: {said}", output.status));
    (output.status.code().unwrap(), report)
}

/// A record of the log as a client of Kafka meets it.
struct Stolen {
    partition: i32,
    key: Vec<u8>,
    value: Vec<u8>,
    headers: OwnedHeaders,
}

/// Reads the first ticket of the topic.
fn steal(topic: &str, partitions: i32) -> Stolen {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka().bootstrap_servers)
        .set("group.id", "stranger")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    (0..partitions).for_each(|partition| list.add_partition_offset(topic, partition, Offset::Beginning).unwrap());
    consumer.assign(&list).unwrap();
    wait_until("a ticket", LIMIT, || {
        let message = consumer.poll(Duration::from_secs(1))?.ok()?;
        let headers = message.headers()?.detach();
        headers.iter().any(|header| header.value == Some(b"ticket")).then(|| Stolen {
            partition: message.partition(),
            key: message.key().unwrap().to_vec(),
            value: message.payload().unwrap().to_vec(),
            headers,
        })
    })
}

fn write(topic: &str, partition: i32, key: &[u8], value: &[u8], headers: OwnedHeaders) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &kafka().bootstrap_servers).create().unwrap();
    producer.send(BaseRecord::to(topic).partition(partition).key(key).payload(value).headers(headers)).map_err(|(error, _)| error).unwrap();
    producer.flush(LIMIT).unwrap();
}

fn count(report: &Value, list: &str, kind: &str) -> u64 {
    report[list][kind]["count"].as_u64().unwrap_or(0)
}

#[test]
fn the_audit_tells_what_is_wrong_from_what_is_only_late_or_gone() {
    let mut deployment = Deployment::new("audited", 3);
    deployment.set("TIDEMARK_TAIL_START", "history");
    deployment.set("TIDEMARK_AUDIT_EVERY_SECONDS", "1");
    deployment.insert(&tickets(0..50));
    let mut unusable = tickets(50..52);
    unusable[0].insert("actual_duration_ms", -5);
    unusable[1].remove("ticket_id");
    deployment.insert(&unusable);

    let process = deployment.start("one", &["run", "--stages", "tail"]);
    process.wait_for("tail");
    // So the next commit says that it is: while it is read, what MongoDB alone has is still to come.
    wait_until("the history is read", LIMIT, || {
        let words = process.says("tail");
        (words.starts_with("leading") && !words.contains("history")).then_some(())
    });
    deployment.insert(&tickets(52..100));
    wait_until("tail has sent all", LIMIT, || (process.metric("tidemark_tail_tickets_total") == 98).then_some(()));
    let audits = r#"tidemark_audit_runs_total{outcome="clean"}"#;
    wait_until("it audits itself", LIMIT, || process.get("/metrics").filter(|(_, page)| page.contains(audits)));
    assert!(process.says("audit").starts_with("the log kept its promise"), "{}", process.says("audit"));
    // While it runs: the position may be behind, and then the rest is only late.
    let (code, report) = audit(&deployment, &["--nothing-changed"]);
    assert_eq!((code, &report["clean"]), (0, &Value::Bool(true)), "{report:#}");
    process.stop();
    let (code, report) = audit(&deployment, &["--nothing-changed"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!((&report["in_mongodb"], &report["in_log"]), (&100.into(), &100.into()), "{report:#}");
    assert_eq!(report["dead_letters"], serde_json::json!({ "no_actual": 1, "bad_id": 1 }));
    assert_eq!(report["lag"]["tickets"], 0);
    assert_eq!(report["notes"], serde_json::json!({}));

    // Completed while nobody runs: late, not missing. Deleted, reopened and changed afterwards: looked up, not wrong.
    deployment.insert(&tickets(100..107));
    let runtime = runtime();
    let collection = deployment.collection(&runtime);
    runtime.block_on(async {
        collection.delete_one(doc! { "ticket_id": "T-3" }).await.unwrap();
        collection.update_one(doc! { "ticket_id": "T-4" }, doc! { "$set": { "status": "EXECUTING" } }).await.unwrap();
        collection
            .update_one(doc! { "ticket_id": "T-5" }, doc! { "$set": { "completed_at": DateTime::from_millis(1_600_000_000_000) } })
            .await
            .unwrap();
    });
    let (code, report) = audit(&deployment, &[]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["lag"]["tickets"], 7, "{report:#}");
    assert_eq!(count(&report, "wrong", "missing"), 0);

    // The same without the past, as after an outage of more than five minutes.
    forget_the_past(&runtime, &collection);
    let (code, report) = audit(&deployment, &[]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!((&report["as_of_position"], &report["lag"]["tickets"]), (&Value::Bool(false), &7.into()), "{report:#}");
    assert_eq!(count(&report, "notes", "lagging"), 7, "{report:#}");
    assert_eq!(count(&report, "notes", "gone"), 2, "{report:#}");
    assert_eq!(count(&report, "notes", "altered"), 2, "{report:#}");
    let (code, report) = audit(&deployment, &["--nothing-changed"]);
    assert_eq!((code, count(&report, "wrong", "gone")), (7, 2), "{report:#}");

    // A stranger repeats a record of ours, and writes one that claims a place in the chain.
    let topic = "audited.tickets";
    let stolen = steal(topic, 3);
    write(topic, stolen.partition, &stolen.key, &stolen.value, stolen.headers.clone());
    let forged = OwnedHeaders::new()
        .insert(Header { key: "kind", value: Some("ticket") })
        .insert(Header { key: "chain", value: Some("0011223344556677:900:00112233445566778899aabbccddeeff") });
    write(topic, stolen.partition, &stolen.key, &stolen.value, forged);
    write(topic, 0, b"hello", b"world", OwnedHeaders::new());
    let (code, report) = audit(&deployment, &[]);
    assert_eq!(code, 7, "{report:#}");
    let id = String::from_utf8(stolen.key).unwrap();
    let duplicated = report["wrong"]["duplicated"]["first"].to_string();
    assert!(duplicated.contains(&format!("{id} completed at")), "{report:#}");
    assert_eq!(count(&report, "wrong", "duplicated"), 2);
    assert_eq!(count(&report, "wrong", "chain_broken"), 2, "{report:#}");
    let broken = report["wrong"]["chain_broken"]["first"].to_string();
    assert!(broken.contains(&format!("{topic}[{}] at", stolen.partition)) && broken.contains("0011223344556677"), "{report:#}");
    assert_eq!(count(&report, "notes", "stranger"), 1);
}

/// Lets MongoDB forget how its documents were before now.
fn forget_the_past(runtime: &tokio::runtime::Runtime, collection: &mongodb::Collection<RawDocumentBuf>) {
    let admin = collection.client().database("admin");
    let keep = |seconds: i32| admin.run_command(doc! { "setParameter": 1, "minSnapshotHistoryWindowInSeconds": seconds });
    runtime.block_on(async {
        keep(0).await.unwrap();
        let junk = collection.client().database("elsewhere").collection::<Document>("audited");
        for at in 0..20 {
            junk.insert_one(doc! { "at": at }).await.unwrap();
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        keep(300).await.unwrap();
    });
}

/// Tickets that tail has sent.
const SENT: &str = "tidemark_tail_tickets_total";

/// Inserts tickets that complete now; returns a time before all of them.
fn complete(deployment: &Deployment, ids: std::ops::Range<i32>) -> String {
    let before = DateTime::now().timestamp_millis();
    deployment.insert(&ids.map(completed).collect::<Vec<_>>());
    before.to_string()
}

/// Returns where each partition ends now.
fn ends(topic: &str, partitions: i32) -> Vec<i64> {
    // Committed records whose marker is still on its way are before the end, too.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka().bootstrap_servers)
        .set("isolation.level", "read_uncommitted")
        .create()
        .unwrap();
    (0..partitions).map(|partition| consumer.fetch_watermarks(topic, partition, LIMIT).unwrap().1).collect()
}

#[test]
fn what_retention_removed_is_excused_until_somebody_claims_that_the_log_has_it() {
    let mut deployment = Deployment::new("retained", 3);
    // No mark is among what is removed: the next one is a day away.
    deployment.set("TIDEMARK_WINDOW_SLICE_MS", "86400000");
    let process = deployment.start("one", &["run", "--stages", "tail"]);
    process.wait_for("tail");
    let first = complete(&deployment, 0..30);
    wait_until("the first are in the log", LIMIT, || (process.metric(SENT) == 30).then_some(()));
    let ends = ends("retained.tickets", 3);
    let second = complete(&deployment, 30..60);
    wait_until("all are in the log", LIMIT, || (process.metric(SENT) == 60).then_some(()));
    process.stop();
    meddling::forget_before(&kafka().bootstrap_servers, "retained.tickets", &ends);

    let (code, report) = audit(&deployment, &[]);
    assert_eq!((code, count(&report, "notes", "before_the_log")), (0, 30), "{report:#}");
    assert_eq!((&report["in_mongodb"], &report["in_log"]), (&60.into(), &30.into()), "{report:#}");
    // `--from` is the claim that the log has all from there on.
    let (code, report) = audit(&deployment, &["--from", &first]);
    assert_eq!((code, count(&report, "wrong", "missing")), (7, 30), "{report:#}");
    let (code, report) = audit(&deployment, &["--from", &first, "--to", &second]);
    assert_eq!((code, count(&report, "wrong", "missing")), (7, 30), "{report:#}");
    assert_eq!((&report["in_mongodb"], &report["in_log"]), (&30.into(), &0.into()), "{report:#}");
    let (code, report) = audit(&deployment, &["--from", &second]);
    assert_eq!((code, &report["clean"]), (0, &Value::Bool(true)), "{report:#}");
    assert_eq!((&report["in_mongodb"], &report["in_log"]), (&30.into(), &30.into()), "{report:#}");
}

/// Sets tail's position behind all that MongoDB has by now, without any of it, as no process of ours ever does. Tail must not run.
fn pass_over_what_came(deployment: &Deployment) {
    let runtime = runtime();
    let client = deployment.collection(&runtime).client().clone();
    let hello = runtime.block_on(async { client.database("admin").run_command(doc! { "hello": 1 }).await }).unwrap();
    let now = hello.get_timestamp("operationTime").unwrap();
    let seen = deployment.read(None);
    let last = seen.iter().rfind(|record| record.topic == "positions").unwrap();
    let mut position = last.json();
    position["place"] = json!({ "time": [now.time, now.increment], "index": u32::MAX });
    let topic = format!("{}.positions", deployment.prefix);
    write(&topic, 0, last.key.as_ref().unwrap().as_bytes(), position.to_string().as_bytes(), OwnedHeaders::new());
}

#[test]
fn what_tail_never_read_is_missing_and_the_audit_beside_tail_tells_how_much() {
    let mut deployment = Deployment::new("passed-over", 3);
    let process = deployment.start("one", &["run", "--stages", "tail"]);
    process.wait_for("tail");
    complete(&deployment, 0..20);
    wait_until("the first are in the log", LIMIT, || (process.metric(SENT) == 20).then_some(()));
    process.stop();
    let lost = complete(&deployment, 20..30);
    pass_over_what_came(&deployment);

    deployment.set("TIDEMARK_AUDIT_EVERY_SECONDS", "1");
    let process = deployment.start("one", &["run", "--stages", "tail"]);
    process.wait_for("tail");
    let after = complete(&deployment, 30..40);
    wait_until("what came after is in the log", LIMIT, || (process.metric(SENT) == 10).then_some(()));
    let missing = r#"tidemark_audit_findings{kind="missing"} 10"#;
    let (_, page) = wait_until("the missing ones are found", LIMIT, || {
        process.get("/metrics").filter(|(_, page)| page.lines().any(|line| line == missing))
    });
    let runs = |outcome: &str| page.contains(&format!("tidemark_audit_runs_total{{outcome=\"{outcome}\"}}"));
    assert!(runs("differs") && !runs("clean"), "{page}");
    wait_until("the health says so", LIMIT, || process.says("audit").starts_with("the log differed from MongoDB at").then_some(()));
    let (status, parts) = process.get("/readyz").unwrap();
    assert_eq!(status, 200, "the stream goes on, and a person has to look: {parts}");
    process.stop();

    let (code, report) = audit(&deployment, &[]);
    assert_eq!((code, count(&report, "wrong", "missing")), (7, 10), "{report:#}");
    assert!(report["wrong"]["missing"]["first"].to_string().contains("T-20 completed at"), "{report:#}");
    let (code, report) = audit(&deployment, &["--from", &lost, "--to", &after]);
    assert_eq!((code, count(&report, "wrong", "missing")), (7, 10), "{report:#}");
    for (range, tickets) in [(["--to", &lost], 20_u64), (["--from", &after], 10)] {
        let (code, report) = audit(&deployment, &range);
        assert_eq!((code, &report["clean"]), (0, &Value::Bool(true)), "{report:#}");
        assert_eq!((&report["in_mongodb"], &report["in_log"]), (&tickets.into(), &tickets.into()), "{report:#}");
    }
}
