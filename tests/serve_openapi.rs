//! The interface against its own description, by a client that makes up requests, valid and not.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::mongo;
use crate::support::predictor::Predictor;
use crate::support::process::tools;

#[test]
fn a_fuzzing_client_finds_no_answer_that_the_description_does_not_allow() {
    let predictor = Predictor::start(&[("MONGODB_URI", &mongo().uri), ("MONGODB_DATABASE", "serve_openapi")]);
    let reports = tempfile::tempdir().unwrap();
    let Output { status, stdout, .. } = Command::new(tools().join("checks/bin/st"))
        .args(["run", &format!("http://127.0.0.1:{}/v1/openapi.json", predictor.port)])
        .args(["--url", &format!("http://127.0.0.1:{}", predictor.port)])
        // The same requests every time: what is found can be found again.
        .args(["--checks", "all", "--max-examples", "60", "--seed", "7", "--generation-database", "none", "--no-color"])
        .current_dir(reports.path())
        .output()
        .expect("schemathesis is installed: run script/bootstrap test");
    let said = String::from_utf8_lossy(&stdout);
    assert!(status.success(), "{said}");
    for endpoint in ["/v1/predictions/duration", "/v1/predictions/anomaly", "/v1/predictions/load"] {
        let metrics = predictor.page("/metrics").unwrap().1;
        let name = endpoint.rsplit('/').next().unwrap();
        assert!(metrics.contains(&format!("endpoint=\"{name}\",status=\"200\"")), "{name} was never asked rightly");
        assert!(metrics.contains(&format!("endpoint=\"{name}\",status=\"400\"")), "{name} was never asked wrongly");
    }
    predictor.stop();
}

#[test]
fn the_process_serves_the_description_that_is_kept() {
    let predictor = Predictor::start(&[]);
    let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/openapi.json")).unwrap();
    assert_eq!(predictor.page("/v1/openapi.json").unwrap(), (200, kept));
    let (status, answer) = predictor.ask("duration", &json!({ "ticket": { "task_type": "BUILD" } }));
    assert_eq!((status, &answer["prediction"]["fallback"]), (200, &Value::from("not_enabled")));
    predictor.stop();
}
