//! The registry on a real MLflow: the contract, crashes, people who move things, and Python that loads the models.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidemark::registry::{MlflowRegistry, MlflowSettings, Registry, RegistryError};

use crate::registry_contract::{LIMIT, hold};
use crate::support::cutter::{Afterwards, Cutter};
use crate::support::mlflow::{Mlflow, mlflow, registry};
use crate::support::publications::publication;

/// Publishes and promotes, for tests that break it afterwards.
fn published(model: &str, keys: &[&str]) -> MlflowRegistry {
    let registry = mlflow().registry();
    for key in keys {
        registry.publish(&publication(model, key)).expect("it is published");
    }
    registry.promote(model, keys.len() as u64, "the newest").expect("it is promoted");
    registry
}

#[test]
fn mlflow_keeps_the_contract() {
    let registry: Arc<dyn Registry> = Arc::new(mlflow().registry());
    hold(&registry);
}

#[test]
fn a_publication_that_dies_at_any_request_is_completed_by_the_next() {
    let registry = mlflow().registry();
    for at in 0.. {
        let cutter = Cutter::start(&mlflow().uri, at, Afterwards::Dead);
        let (model, key) = ("dies", format!("dies-{at}"));
        let wanted = publication(model, &key);
        let died = crate::support::mlflow::registry(&cutter.uri).publish(&wanted);
        let ended = registry.publish(&wanted).unwrap();
        assert_eq!(ended.version, at as u64 + 1, "request {at}: no number was used up");
        assert_eq!(mlflow().runs(&key), std::slice::from_ref(&ended.run_id), "request {at}: one run");
        assert!(registry.load(model, ended.version, &["model/model.onnx", "model/MLmodel"], LIMIT).is_ok(), "request {at}");
        if let Ok(survived) = died {
            assert!(at > 15 && survived == ended, "{at} requests are the whole publication");
            break;
        }
    }
}

#[test]
fn an_answer_that_is_lost_makes_no_second_version() {
    let mut at = 0;
    loop {
        let cutter = Cutter::start(&mlflow().uri, at, Afterwards::Alive);
        let (model, key) = ("lost", format!("lost-{at}"));
        let ended = registry(&cutter.uri).publish(&publication(model, &key)).unwrap();
        let versions = mlflow().registry().versions(model).unwrap();
        let of_key: Vec<u64> =
            versions.iter().filter(|version| version.tags["tidemark.key"] == key).map(|version| version.number).collect();
        assert_eq!(of_key, [ended.version], "request {at}");
        assert_eq!(mlflow().runs(&key), [ended.run_id], "request {at}");
        if cutter.seen() <= at {
            break;
        }
        at += 1;
    }
    assert!(at > 15, "{at} requests");
}

#[test]
fn a_crash_and_a_restart_with_another_result_end_with_one_run() {
    let registry = mlflow().registry();
    // Cut in the middle of the files.
    let cutter = Cutter::start(&mlflow().uri, 12, Afterwards::Dead);
    assert!(crate::support::mlflow::registry(&cutter.uri).publish(&publication("restart", "restart")).is_err());
    let [half] = &mlflow().runs("restart")[..] else { panic!("a run was begun") };
    let mut other = publication("restart", "restart");
    other.artifacts.insert("model/model.onnx".to_owned(), b"other".to_vec());
    let ended = registry.publish(&other).unwrap();
    assert_ne!(&ended.run_id, half);
    assert_eq!(mlflow().runs("restart"), std::slice::from_ref(&ended.run_id));
    // The maker of a version may die before it has tidied.
    let experiment = mlflow().call("GET", "experiments/get-by-name?experiment_name=tests", &Value::Null);
    let stray =
        json!({ "experiment_id": experiment["experiment"]["experiment_id"], "tags": [{ "key": "tidemark.key", "value": "restart" }] });
    mlflow().call("POST", "runs/create", &stray);
    assert_eq!(registry.publish(&other).unwrap(), ended);
    assert_eq!(mlflow().runs("restart"), [ended.run_id]);
    assert_eq!(registry.load("restart", 1, &["model/model.onnx"], LIMIT).unwrap()["model/model.onnx"], b"other");
}

#[test]
fn a_version_that_lost_files_is_completed_by_the_same_candidate_only() {
    let registry = published("lossy", &["lossy-a"]);
    let run = registry.versions("lossy").unwrap()[0].run_id.clone().unwrap();
    let file = mlflow().files(&run).join("model/model.onnx");
    fs::remove_file(&file).unwrap();
    let error = registry.load("lossy", 1, &["model/model.onnx"], LIMIT).unwrap_err();
    assert!(!matches!(error, RegistryError::NotFound { .. }), "{error}");
    let mut other = publication("lossy", "lossy-a");
    other.artifacts.insert("model/model.onnx".to_owned(), b"other".to_vec());
    let error = registry.publish(&other).unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }) && error.to_string().contains("lacks model/model.onnx"), "{error}");
    registry.publish(&publication("lossy", "lossy-a")).unwrap();
    assert!(registry.load("lossy", 1, &["model/model.onnx"], LIMIT).is_ok());

    fs::write(&file, "changed").unwrap();
    let error = registry.load("lossy", 1, &["model/model.onnx"], LIMIT).unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }) && error.to_string().contains("is not what was published"), "{error}");
}

#[test]
fn a_version_that_somebody_else_made_is_not_loaded() {
    let registry = published("foreign", &["foreign-a"]);
    let run = registry.versions("foreign").unwrap()[0].run_id.clone().unwrap();
    let source = mlflow().call("GET", "model-versions/get?name=foreign&version=1", &Value::Null)["model_version"]["source"].clone();
    mlflow().call("POST", "model-versions/create", &json!({ "name": "foreign", "source": source, "run_id": run }));
    assert_eq!(registry.versions("foreign").unwrap().len(), 2);
    let error = registry.load("foreign", 2, &["model/model.onnx"], LIMIT).unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }) && error.to_string().contains("not published by Tidemark"), "{error}");
}

#[test]
fn whoever_moves_production_in_mlflow_is_noticed() {
    let registry = published("moved", &["moved-a", "moved-b", "moved-c"]);
    assert_eq!(registry.production("moved").unwrap(), Some(3));
    let stage = |version: &str, archive: bool| {
        let body = json!({ "name": "moved", "version": version, "stage": "Production", "archive_existing_versions": archive });
        mlflow().call("POST", "model-versions/transition-stage", &body);
    };
    stage("1", true);
    assert_eq!(registry.production("moved").unwrap(), Some(1), "the stage, as a rollback should be");
    registry.promote("moved", 3, "again").unwrap();
    stage("2", false);
    assert_eq!(registry.production("moved").unwrap(), Some(2), "the stage, as MLflow's client does it");
    registry.promote("moved", 2, "somebody moved it in MLflow").unwrap();
    mlflow().call("POST", "registered-models/alias", &json!({ "name": "moved", "alias": "Production", "version": "1" }));
    assert_eq!(registry.production("moved").unwrap(), Some(1), "the alias");
    registry.promote("moved", 1, "somebody moved it in MLflow").unwrap();
    let shown: Vec<bool> = registry.versions("moved").unwrap().iter().map(|version| !version.aliases.is_empty()).collect();
    assert_eq!(shown, [true, false, false]);

    mlflow().call("DELETE", "registered-models/alias", &json!({ "name": "moved", "alias": "Production" }));
    assert_eq!(registry.production("moved").unwrap(), Some(1), "the stage still says so");
    mlflow().call("DELETE", "model-versions/delete", &json!({ "name": "moved", "version": "1" }));
    assert_eq!(registry.production("moved").unwrap(), None);
}

#[test]
fn an_mlflow_that_was_emptied_says_what_is_missing() {
    let registry = published("emptied", &["emptied-a"]);
    mlflow().call("DELETE", "registered-models/delete", &json!({ "name": "emptied" }));
    assert_eq!(registry.production("emptied").unwrap(), None);
    assert_eq!(registry.versions("emptied").unwrap(), []);
    let error = registry.load("emptied", 1, &["model/model.onnx"], LIMIT).unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("loading version 1 of emptied"), "{error}");
}

#[test]
fn a_deleted_experiment_is_not_written_to() {
    let created = mlflow().call("POST", "experiments/create", &json!({ "name": "gone" }));
    mlflow().call("POST", "experiments/delete", &json!({ "experiment_id": created["experiment_id"] }));
    let registry = MlflowRegistry::new(&MlflowSettings::new(mlflow().uri.clone().into(), "gone")).unwrap();
    let error = registry.publish(&publication("gone", "gone")).unwrap_err();
    assert!(matches!(error, RegistryError::Conflict { .. }) && error.to_string().contains("mlflow experiments restore"), "{error}");
}

#[test]
fn a_frozen_server_is_unavailable_until_it_thaws() {
    let frozen = Mlflow::start();
    let mut settings = MlflowSettings::new(frozen.uri.clone().into(), "tests");
    (settings.timeout, settings.pause) = (Duration::from_millis(300), Duration::from_millis(2));
    let impatient = MlflowRegistry::new(&settings).unwrap();
    frozen.signal("STOP");
    assert!(matches!(impatient.publish(&publication("m", "k")), Err(RegistryError::Unavailable { .. })));
    frozen.signal("CONT");
    assert_eq!(frozen.registry().publish(&publication("m", "k")).unwrap().version, 1);
    frozen.signal("KILL");
    assert!(matches!(impatient.production("m"), Err(RegistryError::Unavailable { .. })));
}

#[test]
fn python_finds_the_run_and_predicts_by_stage_alias_and_number() {
    drop(published("python", &["python-a"]));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client/load_model.py");
    let said = mlflow().python(&script, &["python"]);
    assert!(said.ends_with("38.0 38.0 38.0\n"), "{said}");
}
