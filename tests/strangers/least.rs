//! The privileges that the README's table names, and no other: with them every command does its work.

use std::process::Command;
use std::time::Duration;

use bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use super::{ends, tidemark};
use crate::support::flights::first_lines;
use crate::support::guarded_kafka::{GuardedKafka, LEAST, PASSWORD};
use crate::support::guarded_mongo::GuardedMongo;
use crate::support::predictor::Predictor;
use crate::support::{Deployment, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "least";
const TICKETS: &str = "execution_tickets";

/// Who, what on which collection (none: on the database), what on the cluster: the rows of the README's table.
type Role = (&'static str, &'static [(&'static str, &'static [&'static str])], &'static [&'static str]);
const ROLES: [Role; 9] = [
    ("tail", &[("", &["listCollections"]), (TICKETS, &["find", "changeStream"]), ("local.oplog.rs", &["collStats"])], &["serverStatus"]),
    ("judge", &[("ml_retraining_triggers", &["insert", "update"])], &[]),
    ("baseline", &[(TICKETS, &["find"]), ("ml_feature_baselines", &["insert", "update"])], &[]),
    ("check", &[(TICKETS, &["find"])], &[]),
    ("check-without-kafka", &[(TICKETS, &["find"]), ("ml_feature_baselines", &["find"])], &[]),
    ("audit", &[("", &["listCollections"]), (TICKETS, &["find", "changeStream"])], &[]),
    (
        "train",
        &[
            (TICKETS, &["find"]),
            ("ml_feature_baselines", &["insert", "update"]),
            ("ml_training_history", &["insert", "update"]),
            ("model_audit_log", &["insert", "update"]),
            ("ml_retraining_triggers", &["find", "insert", "update"]),
        ],
        &[],
    ),
    ("serve", &[(TICKETS, &["find", "listIndexes"])], &[]),
    ("backfill", &[(TICKETS, &["find", "listIndexes", "update"]), ("ml_backfill_history", &["createIndex", "insert", "update"])], &[]),
];
const GRANTS: [(&str, &str, &str); 6] = [
    ("topic", "least.", "create"),
    ("topic", "least.", "describe_configs"),
    ("topic", "least.", "read"),
    ("topic", "least.", "write"),
    ("group", "least.", "read"),
    ("transactional_id", "least.", "write"),
];

fn document(line: &str) -> Document {
    bson::serialize_to_document(&serde_json::from_str::<Value>(line).unwrap()).unwrap()
}

#[test]
fn with_the_privileges_of_the_table_and_no_other_every_command_does_its_work() {
    let (kafka, mongo) = (GuardedKafka::start(), GuardedMongo::start());
    kafka.grant(&GRANTS);
    for (name, privileges, cluster) in ROLES {
        mongo.make_user(name, NAME, privileges, cluster);
    }
    let tickets: Vec<Document> = first_lines(20_000).iter().map(|line| document(line)).collect();
    mongo.insert(NAME, TICKETS, &tickets);
    mongo.ask(NAME, doc! { "createIndexes": TICKETS, "indexes": [{ "key": { "completed_at": 1 }, "name": "completed" }] });

    let models = tempfile::tempdir().unwrap();
    let environment = |user: &str| -> Vec<(&'static str, String)> {
        vec![
            ("MONGODB_URI", mongo.uri(Some(user))),
            ("MONGODB_DATABASE", NAME.to_owned()),
            ("KAFKA_BOOTSTRAP_SERVERS", kafka.scram.clone()),
            ("TIDEMARK_KAFKA_TOPIC_PREFIX", NAME.to_owned()),
            ("TIDEMARK_KAFKA_PROPERTIES_SECURITY_PROTOCOL", "SASL_SSL".to_owned()),
            ("TIDEMARK_KAFKA_PROPERTIES_SASL_MECHANISM", "SCRAM-SHA-512".to_owned()),
            ("TIDEMARK_KAFKA_PROPERTIES_SASL_USERNAME", LEAST.to_owned()),
            ("TIDEMARK_KAFKA_PROPERTIES_SASL_PASSWORD", PASSWORD.to_owned()),
            ("TIDEMARK_KAFKA_PROPERTIES_SSL_CA_LOCATION", kafka.certificates.path("ca.crt")),
            ("TIDEMARK_TAIL_START", "history".to_owned()),
            ("TIDEMARK_REGISTRY_DIRECTORY", models.path().display().to_string()),
        ]
    };
    let command = |user: &str, arguments: &[&str]| -> Command {
        let mut command = tidemark(arguments);
        command.envs(environment(user));
        command
    };

    let create = ["baseline", "create", "--from", "2013-01-01", "--to", "2013-01-15"];
    let said = ends(&mut command("baseline", &create), 0, PASSWORD);
    assert!(said.contains("ml_feature_baselines"), "{said}");
    let check = ["check", "--at", "2013-01-22"];
    ends(&mut command("check", &check), 0, PASSWORD);
    ends(command("check-without-kafka", &check).env_remove("KAFKA_BOOTSTRAP_SERVERS"), 0, PASSWORD);
    ends(&mut command("train", &["train", "--at", "2013-01-22"]), 0, PASSWORD);
    let backfill = ["backfill", "--from", "2013-01-20", "--model", "1", "--write-back"];
    ends(&mut command("backfill", &backfill), 0, PASSWORD);

    let worker = |status: &str| doc! { "ticket_id": status, "status": status, "allocated_worker_id": "w", "completed_at": DateTime::now(), "actual_duration_ms": 500 };
    mongo.insert(NAME, TICKETS, &[worker("PENDING"), worker("EXECUTING"), worker("COMPLETED")]);
    let serve = environment("serve");
    let predictor = Predictor::start(&serve.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>());
    let (status, answer) = predictor.ask("duration", &json!({ "ticket": { "task_type": "BUILD" } }));
    assert_eq!(status, 200, "{answer}");
    let load = wait_until("a worker's load comes from MongoDB", LIMIT, || {
        let (status, answer) = predictor.ask("load", &json!({ "worker_id": "w" }));
        // A busy machine may take longer than an answer waits.
        (status == 200 && answer["prediction"]["source"] == "rules").then_some(answer)
    });
    assert_eq!((&load["prediction"]["depth"], &load["prediction"]["queue_time_ms"]), (&json!(2), &json!(1_000.0)), "{load}");
    wait_until("the indexes are looked at", LIMIT, || predictor.says("load").contains("createIndex").then_some(()));
    assert!(!predictor.last_words().contains(PASSWORD), "{}", predictor.last_words());
    predictor.stop();

    let start = |user: &str, stages: &str| {
        let mut deployment = Deployment::new(NAME, 4);
        environment(user).iter().for_each(|(name, value)| deployment.set(name, value));
        deployment.start(user, &["run", "--stages", stages])
    };
    let stages = [start("tail", "tail,watch"), start("judge", "judge"), start("train", "train")];
    mongo.insert(
        NAME,
        TICKETS,
        &[doc! { "ticket_id": "now", "status": "COMPLETED", "completed_at": DateTime::now(), "actual_duration_ms": 7 }],
    );
    wait_until("all is in the log", LIMIT, || {
        let audited = command("audit", &["audit"]).output().unwrap();
        (audited.status.success() && stages[0].metric("tidemark_tail_tickets_total") > 19_000).then_some(())
    });
    for (stage, part) in stages.iter().zip(["tail", "judge", "train"]) {
        stage.wait_for(part);
    }
    ends(&mut command("train", &["train", "--request"]), 0, PASSWORD);
    wait_until("its document is written", LIMIT, || (mongo.count(NAME, "ml_retraining_triggers")? > 0).then_some(()));
    let metrics = || stages[0].get("/metrics").map(|(_, page)| page).unwrap_or_default();
    wait_until("the oplog is watched", LIMIT, || metrics().contains("\ntidemark_tail_oplog_used_ratio").then_some(()));
    assert_eq!(kafka.failed_authentications(), 0);
    stages.into_iter().for_each(crate::support::Process::stop);
}
