//! The whole circle on real servers: an alarm, a training, a promotion in MLflow, a new baseline in Kafka, the end of the alarm; the
//! train process killed in the middle; and people who move Production.

use std::collections::BTreeSet;
use std::time::Duration;

use bson::{Bson, Document};
use serde_json::{Value, json};
use tidemark::registry::{Registry, Version};

use crate::e2e::{completed_at, halves};
use crate::support::mlflow::Mlflow;
use crate::support::{Deployment, Seen, wait_until};

const MODEL: &str = "ticket-duration-predictor";
const LIMIT: Duration = Duration::from_mins(2);
const DAY_MS: i64 = 86_400_000;
/// 2013-03-03, UTC: the slow-down begins.
const SLOW_FROM: i64 = 1_362_268_800_000;

/// The flights of March that end in `[from_ms, to_ms)`; from the third on three task types take 1.6 times as long.
fn march(from_ms: i64, to_ms: i64) -> Vec<Document> {
    let (_, march) = halves();
    let within = march.iter().filter(|document| (from_ms..to_ms).contains(&completed_at(document)));
    within
        .map(|document| {
            let mut document = document.clone();
            let is_slow = ["DEPLOY", "TRANSFORM", "EXECUTE"].contains(&document.get_str("task_type").unwrap_or_default());
            if let (true, true, Some(Bson::Int64(actual))) =
                (is_slow, completed_at(&document) >= SLOW_FROM, document.get("actual_duration_ms"))
            {
                let slow = (actual * 16 + 5) / 10;
                document.insert("actual_duration_ms", slow);
            }
            document
        })
        .collect()
}

struct Circle {
    deployment: Deployment,
    mlflow: Mlflow,
}

impl Circle {
    /// Returns what a command says, one JSON value a line or one for all.
    fn ask(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.deployment.command(&[arguments, &["--output", "json"]].concat());
        serde_json::Deserializer::from_str(&text).into_iter().map(Result::unwrap).collect()
    }

    fn alerts(&self, cause: &str) -> Vec<String> {
        let alerts = self.ask(&["alerts", "--last", "1000"]);
        let its = alerts.iter().filter(|alert| alert["subject"] == cause);
        its.map(|alert| alert["type"].as_str().unwrap().to_owned()).collect()
    }

    fn baselines(&self) -> Vec<Value> {
        self.ask(&["baseline", "list"]).remove(0).as_array().unwrap().clone()
    }

    fn status(&self) -> Value {
        self.ask(&["status"]).remove(0)
    }

    fn versions(&self) -> Vec<Version> {
        self.mlflow.registry().versions(MODEL).unwrap()
    }
}

fn events<'s>(seen: &'s [Seen], kind: &'s str) -> impl Iterator<Item = Value> + 's {
    let events = seen.iter().filter(|record| record.topic.ends_with("model-events")).map(Seen::json);
    events.filter(move |event| event["kind"] == kind)
}

#[test]
fn the_loop_closes_on_real_servers_whoever_is_killed_and_follows_people_who_move_production() {
    let mlflow = Mlflow::start();
    let mut deployment = Deployment::new("circle", 2);
    deployment.set("MLFLOW_TRACKING_URI", &mlflow.uri);
    deployment.set("MLFLOW_EXPERIMENT_NAME", "tests");
    deployment.set("ML_DATA_VOLUME_TRIGGER_THRESHOLD", "1000000");
    let circle = Circle { deployment, mlflow };
    let deployment = &circle.deployment;
    let (before, _) = halves();
    deployment.insert(before);
    let trained = circle.ask(&["train"]).remove(0);
    assert_eq!((&trained["models"][0]["outcome"], &trained["baseline"]["version"]), (&json!("promoted"), &json!(1)), "{trained}");

    let judging = deployment.start("judging", &["run", "--stages", "tail,watch,judge"]);
    let training = deployment.start("training", &["run", "--stages", "train"]);
    judging.wait_for("tail");
    training.wait_for("train");
    deployment.insert(&march(0, SLOW_FROM + DAY_MS));
    // Killed when one candidate is registered and the others are not.
    wait_until("a candidate is registered", LIMIT, || (circle.versions().len() > 1).then_some(()));
    let says = training.says("train");
    training.kill();
    assert!(says.starts_with("training for "), "{says}");
    assert_eq!(circle.mlflow.registry().production(MODEL).unwrap(), Some(1));
    let training = deployment.start("training", &["run", "--stages", "train"]);

    wait_until("a version is promoted", LIMIT, || (circle.mlflow.registry().production(MODEL).unwrap() != Some(1)).then_some(()));
    let promoted = circle.mlflow.registry().production(MODEL).unwrap().unwrap();
    let said = circle.ask(&["models", "show", &promoted.to_string()]).remove(0);
    assert_eq!((&said["stage"], &said["aliases"]), (&json!("Production"), &json!(["Production"])), "stage and alias");
    let keys: Vec<String> = circle.versions().iter().map(|version| version.tags["tidemark.key"].clone()).collect();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "one version a candidate");
    assert!(keys.len() > 2, "{keys:?}");
    for key in &keys {
        assert_eq!(circle.mlflow.runs(key).len(), 1, "one run of {key}");
    }
    let baselines = circle.baselines();
    assert_eq!(baselines.len(), 2, "{baselines:?}");

    deployment.insert(&march(SLOW_FROM + DAY_MS, SLOW_FROM + 5 * DAY_MS));
    wait_until("the alarm clears", LIMIT, || circle.alerts("error").iter().any(|kind| kind.contains("resolved")).then_some(()));
    assert_eq!(circle.alerts("error"), ["tidemark.alert.opened.v1", "tidemark.alert.resolved.v1"]);
    let status = circle.status();
    assert_eq!((&status["baseline"], &status["trigger"]), (&json!(2), &Value::Null), "{status}");

    // Somebody moves Production in MLflow itself.
    let body = json!({ "name": MODEL, "version": "1", "stage": "Production", "archive_existing_versions": true });
    circle.mlflow.call("POST", "model-versions/transition-stage", &body);
    wait_until("the version's own baseline comes back", Duration::from_mins(1), || (circle.baselines().len() == 3).then_some(()));
    deployment.insert(&march(SLOW_FROM + 5 * DAY_MS, SLOW_FROM + 6 * DAY_MS));
    wait_until("watch scores by it", LIMIT, || {
        let status = circle.status();
        let series = status["windows"].as_array().unwrap().iter().any(|window| window["series"] == "v1");
        (status["baseline"] == 3 && series).then_some(())
    });

    // And by command: at once.
    let moved = circle.ask(&["models", "promote", &promoted.to_string(), "--reason", "the other was no better"]).remove(0);
    assert_eq!((&moved["told"], &moved["baseline"], &moved["audited"]), (&json!(true), &json!(4), &json!(true)), "{moved}");
    assert_eq!(circle.baselines().len(), 4);
    assert!(training.is_alive() && judging.is_alive());
    training.stop();
    judging.stop();

    let seen = deployment.read(None);
    let outcomes: Vec<Value> = events(&seen, "outcome").collect();
    let ids: BTreeSet<String> = outcomes.iter().map(|outcome| outcome["id"].to_string()).collect();
    assert_eq!(ids.len(), outcomes.len(), "one outcome a request: {outcomes:?}");
    let promotions: Vec<&Value> = outcomes.iter().filter(|outcome| outcome["outcome"] == "promoted").collect();
    assert_eq!(promotions.len(), 1, "{outcomes:?}");
    assert_eq!((&promotions[0]["version"], &promotions[0]["baseline"]), (&json!(promoted), &json!(2)));
    let moves: Vec<(Value, Value, Value)> =
        events(&seen, "moved").map(|moved| (moved["action"].clone(), moved["version"].clone(), moved["baseline"].clone())).collect();
    assert_eq!(moves, [(json!("moved"), json!(1), json!(3)), (json!("promoted"), json!(promoted), json!(4))]);
}
