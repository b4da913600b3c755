//! A training on real servers: MongoDB's tickets in, a version in MLflow that Python loads, its baseline in Kafka and MongoDB.

use std::path::Path;

use bson::{Document, doc};
use mongodb::Client;
use serde_json::Value;
use tidemark::features::{Encoder, Row};
use tidemark::model::duration::{DurationModel, MODEL_FILE};
use tidemark::registry::Registry;
use tidemark::tail::normalise::{Normalised, Normaliser, Unreadable};

use crate::support::flights::{MARCH, first_lines, spec};
use crate::support::mlflow::Mlflow;
use crate::support::{Deployment, mongo};

const MODEL: &str = "ticket-duration-predictor";
/// Tickets that Python predicts too, from after the training.
const COMPARED: usize = 10_000;
/// The largest relative difference between Rust and Python that is allowed.
const ALLOWED: f64 = 1e-4;

fn document(line: &str) -> Document {
    let value: Value = serde_json::from_str(line).unwrap();
    bson::serialize_to_document(&value).unwrap()
}

fn completed_at(line: &str) -> i64 {
    let value: Value = serde_json::from_str(line).unwrap();
    value["completed_at"].as_i64().unwrap_or(i64::MAX)
}

/// All documents of a collection.
fn documents(database: &str, collection: &str) -> Vec<Document> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::with_uri_str(&mongo().uri).await.unwrap();
        let mut cursor = client.database(database).collection::<Document>(collection).find(doc! {}).await.unwrap();
        let mut all = Vec::new();
        while cursor.advance().await.unwrap() {
            all.push(cursor.deserialize_current().unwrap());
        }
        all
    })
}

/// Writes inputs and Rust's predictions for tickets, for Python to read.
fn predicted(mlflow: &Mlflow, version: u64, lines: &[String], folder: &Path) {
    let spec = spec();
    let file = mlflow.registry().load(MODEL, version, &[MODEL_FILE], 1 << 30).unwrap().remove(MODEL_FILE).unwrap();
    let model = DurationModel::from_bytes(&file, &spec).unwrap();
    let (encoder, normaliser) = (Encoder::new(&spec).unwrap(), Normaliser::new(&spec));
    let (mut unreadable, mut row, mut inputs) = (Unreadable::default(), Row::default(), Vec::new());
    let (mut rows, mut predictions) = (Vec::new(), Vec::new());
    for (line, number) in lines.iter().zip(1..) {
        let Normalised::Completed(ticket) = normaliser.from_json(line.as_bytes(), number, &mut unreadable) else { continue };
        encoder.encode(&ticket.fields, &mut row);
        model.inputs(&encoder, &row, &mut inputs);
        rows.extend(inputs.iter().flat_map(|value| value.to_le_bytes()));
        predictions.extend(model.predict(&encoder, &row).to_le_bytes());
    }
    assert!(predictions.len() >= COMPARED * 8);
    predictions.truncate(COMPARED * 8);
    rows.truncate(COMPARED * 4 * spec.features.len());
    std::fs::write(folder.join("inputs.f32"), rows).unwrap();
    std::fs::write(folder.join("predictions.f64"), predictions).unwrap();
}

#[test]
#[expect(clippy::print_stdout, reason = "its figures are worth a look")]
fn a_training_on_real_servers_predicts_in_python_what_it_predicts_in_rust() {
    let mlflow = Mlflow::start();
    let deployment = Deployment::new("train_flights", 2);
    let lines = first_lines(65_000);
    let (before, after): (Vec<&String>, Vec<&String>) = lines.iter().partition(|line| completed_at(line) < MARCH);
    deployment.insert(&before.iter().map(|line| document(line)).collect::<Vec<_>>());

    let command = ["train", "--window-days=540", "--min-samples=100", "--output", "json", "--mlflow-tracking-uri", &mlflow.uri];
    let train = |more: &[&str]| -> Value { serde_json::from_str(&deployment.command(&[&command, more].concat())).unwrap() };
    let report = train(&["--dry-run"]);
    assert_eq!(report["models"][0]["outcome"], "would be promoted");
    assert_eq!((mlflow.registry().versions(MODEL).unwrap().len(), documents("train_flights", "ml_training_history").len()), (0, 0));

    let report = train(&[]);
    assert_eq!((&report["valid"], &report["models"][0]["outcome"]), (&Value::from(true), &Value::from("promoted")), "{report}");
    let metrics = &report["models"][0]["candidates"][0]["metrics"];
    println!(
        "trained on {} tickets: MAE {} ms on the {} after",
        report["models"][0]["candidates"][0]["training"]["rows"], metrics["mae"], metrics["rows"]
    );
    assert_eq!(
        (&report["baseline"]["version"], &report["baseline"]["in_kafka"], &report["baseline"]["in_mongodb"]),
        (&Value::from(1), &Value::from(true), &Value::from(true))
    );
    assert_eq!(mlflow.registry().production(MODEL).unwrap(), Some(1));

    let baseline: Value = serde_json::from_str(&deployment.command(&["baseline", "show", "1", "--output", "json"])).unwrap();
    assert_eq!((&baseline["scored_by"]["name"], &baseline["scored_by"]["version"]), (&Value::from(MODEL), &Value::from(1)));
    assert_eq!(baseline["errors"]["v1"]["mae"], metrics["mae"], "out of sample");
    assert!(baseline["noise"][2]["log_mae_std"]["v1"].as_f64().unwrap() > 0.0);

    let kept = documents("train_flights", "ml_feature_baselines");
    assert!((kept[0].get_f64("training_mae").unwrap() - metrics["mae"].as_f64().unwrap()).abs() < 1e-6);
    let history = documents("train_flights", "ml_training_history");
    let names: Vec<&str> = history.iter().map(|report| report.get_str("model_name").unwrap()).collect();
    assert!(names.contains(&MODEL) && names.contains(&"ticket-anomaly-detector") && history[0].get_datetime("timestamp").is_ok());
    let audit = documents("train_flights", "model_audit_log");
    assert_eq!((audit.len(), audit[0].get_str("action").unwrap(), audit[0].get_i64("version").unwrap()), (1, "promoted", 1));

    let again = train(&[]);
    assert_eq!(again["models"][0]["outcome"], "already promoted");
    assert_eq!(mlflow.registry().versions(MODEL).unwrap().len(), 1, "the same tickets are one training");
    assert_eq!(documents("train_flights", "ml_feature_baselines").len(), 1);

    let folder = tempfile::tempdir().unwrap();
    let tickets: Vec<String> = after.into_iter().cloned().collect();
    predicted(&mlflow, 1, &tickets, folder.path());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client/compare_predictions.py");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let said = mlflow.python(&script, &[MODEL, &file("inputs.f32"), &file("predictions.f64")]);
    let line = said.lines().last().unwrap();
    println!("{line}");
    let largest: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(line.starts_with("rows 10000 ") && largest <= ALLOWED, "{line}");

    for model in [MODEL, "ticket-anomaly-detector"] {
        mlflow.call("DELETE", "registered-models/delete", &serde_json::json!({ "name": model }));
    }
    let emptied = train(&["--at", "2013-02-20"]);
    assert!(emptied["notes"].to_string().contains("nothing in Production: it was emptied"), "{}", emptied["notes"]);
    assert_eq!((&emptied["models"][0]["outcome"], &emptied["baseline"]["version"]), (&Value::from("promoted"), &Value::from(2)));
}
