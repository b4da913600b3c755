//! The predictions, asked over a real socket on loopback.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::*;
use crate::model::duration::tests::constant;
use crate::model::duration::{DurationModel, MODEL_FILE};
use crate::registry::{Lineage, LocalRegistry, Publication};

struct Service {
    server: Option<Server>,
    stop: Stop,
    health: Health,
}

impl Service {
    fn start(config: &Config, registry: Option<Arc<dyn Registry>>) -> Self {
        Self::of(&spec(), config, registry)
    }

    fn of(spec: &Arc<Spec>, config: &Config, registry: Option<Arc<dyn Registry>>) -> Self {
        let (stop, health) = (Stop::default(), Health::default());
        let serving = Serving { config, spec, registry, stop: &stop, health: &health };
        let handle = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
        let server = start(&serving, handle).unwrap();
        Self { server: Some(server), stop, health }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.as_ref().unwrap().address().unwrap()).unwrap()
    }

    /// Asks, and holds the answer against its description.
    fn ask(&self, path: &str, body: &str) -> (u16, Value) {
        let (status, answer) = self.raw(&format!(
            "POST /v1/predictions/{path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        described(path, status, &answer);
        (status, answer)
    }

    fn raw(&self, request: &str) -> (u16, Value) {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        answer(&mut stream)
    }

    /// Waits until a part says something.
    fn says(&self, part: &str, what: &str) {
        let begun = Instant::now();
        loop {
            let said = self.health.all().get(part).cloned();
            if matches!(&said, Some(State::Ready(said)) if said.contains(what)) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{part} says {said:?}, not {what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.ask();
        drop(self.server.take());
    }
}

/// Panics unless the description allows this answer.
fn described(path: &str, status: u16, answer: &Value) {
    let mut schema: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut response = &schema["paths"][format!("/v1/predictions/{path}")]["post"]["responses"][status.to_string()];
    if let Some(elsewhere) = response["$ref"].as_str() {
        response = schema.pointer(elsewhere.trim_start_matches('#')).unwrap();
    }
    let kind = if status == 200 { "application/json" } else { "application/problem+json" };
    let inner = response["content"][kind]["schema"].clone();
    assert!(inner.is_object(), "{path} {status} is not described");
    schema["allOf"] = json!([inner]);
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let faults: Vec<String> = validator.iter_errors(answer).map(|fault| format!("{}: {fault}", fault.instance_path)).collect();
    assert!(faults.is_empty(), "{path} {status}: {}\nin {answer}", faults.join("; "));
}

fn answer(stream: &mut TcpStream) -> (u16, Value) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
}

fn spec() -> Arc<Spec> {
    Arc::new(Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap())
}

fn config() -> Config {
    let mut config = Config::default();
    "127.0.0.1:0".clone_into(&mut config.serve.listen);
    config.serve.enhanced_scheduling = true;
    config.serve.follow_seconds = 1;
    config
}

fn publish(registry: &LocalRegistry, model: &str, file: Vec<u8>) -> u64 {
    let publication = Publication {
        model: model.to_owned(),
        model_description: String::new(),
        key: format!("k{}", registry.versions(model).unwrap().len()),
        run_name: "r".into(),
        start_ms: 0,
        end_ms: 1,
        params: BTreeMap::new(),
        metrics: BTreeMap::new(),
        tags: BTreeMap::new(),
        description: String::new(),
        lineage: Lineage::default(),
        artifacts: BTreeMap::from([(MODEL_FILE.to_owned(), file)]),
    };
    registry.publish(&publication).unwrap().version
}

/// A registry that nobody may ask.
struct Untouched;
impl Registry for Untouched {
    fn publish(&self, _: &Publication) -> Result<crate::registry::Published, crate::registry::RegistryError> {
        panic!("touched")
    }
    fn versions(&self, _: &str) -> Result<Vec<crate::registry::Version>, crate::registry::RegistryError> {
        panic!("touched")
    }
    fn production(&self, _: &str) -> Result<Option<u64>, crate::registry::RegistryError> {
        panic!("touched")
    }
    fn promote(&self, _: &str, _: u64, _: &str) -> Result<(), crate::registry::RegistryError> {
        panic!("touched")
    }
    fn set_tag(&self, _: &str, _: u64, _: &str, _: &str) -> Result<(), crate::registry::RegistryError> {
        panic!("touched")
    }
    fn load(&self, _: &str, _: u64, _: &[&str], _: u64) -> Result<BTreeMap<String, Vec<u8>>, crate::registry::RegistryError> {
        panic!("touched")
    }
}

fn model(value: f32) -> Vec<u8> {
    constant(&spec(), value).to_bytes("duration_ms").unwrap()
}

#[test]
fn without_enhanced_scheduling_rules_answer_at_once_and_the_registry_is_not_touched() {
    let mut config = config();
    config.serve.enhanced_scheduling = false;
    let service = Service::start(&config, Some(Arc::new(Untouched)));
    let (status, answer) = service.ask("duration", r#"{"ticket": {"risk_band": "HIGH", "required_capabilities": ["a", "b"]}}"#);
    let prediction = &answer["prediction"];
    assert_eq!(status, 200);
    assert!((prediction["prediction_ms"].as_f64().unwrap() - 60_000.0 * (0.7 + 0.6 * 0.7) * 1.2).abs() < 1e-6, "{answer}");
    assert_eq!(
        (&prediction["source"], &prediction["fallback"], &prediction["model"]),
        (&json!("rules"), &json!("not_enabled"), &json!(null))
    );
    assert_eq!(prediction["confidence"], json!(0.5));
    assert!(service.health.is_ready());
}

#[test]
fn a_follower_that_panics_is_a_failed_part_and_answers_go_on() {
    let service = Service::start(&config(), Some(Arc::new(Untouched)));
    let begun = Instant::now();
    while !matches!(service.health.all().get("model"), Some(State::Failed(why)) if why.contains("panicked")) {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::yield_now();
    }
    let (status, answer) = service.ask("duration", r#"{"ticket": {}}"#);
    assert_eq!((status, &answer["prediction"]["fallback"]), (200, &json!("no_model")));
}

#[test]
fn the_model_in_production_answers_with_version_interval_and_what_it_was_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let registry = LocalRegistry::new(folder.path());
    let version = publish(&registry, "ticket-duration-predictor", model(90_000.0));
    registry.promote("ticket-duration-predictor", version, "test").unwrap();
    let service = Service::start(&config(), Some(Arc::new(registry)));
    service.says("model", "version 1 answers");
    let ticket = r#"{"ticket_id": {"$oid": "65a000000000000000000001"}, "task_type": "BUILD", "risk_band": "low", "created_at": {"$date": "2026-03-17T06:00:00Z"}, "retry_count": {"$numberInt": "2"}}"#;
    let (status, answer) = service.ask("duration", &format!("{{\"tickets\": [{ticket}, {{}}]}}"));
    assert_eq!(status, 200, "{answer}");
    let first = &answer["predictions"][0];
    assert_eq!(first["prediction_ms"], json!(90_000.0));
    assert_eq!(first["ticket_id"], json!({"$oid": "65a000000000000000000001"}));
    assert_eq!(first["model"], json!({"name": "ticket-duration-predictor", "version": 1}));
    assert_eq!((&first["source"], &first["fallback"]), (&json!("model"), &json!(null)));
    assert_eq!(first["interval"], json!({"low_ms": 72_000.0, "high_ms": 112_500.0, "coverage": null}));
    assert!((first["confidence"].as_f64().unwrap() - 0.7 * (1.0 - 30_000.0 / 45_000.0)).abs() < 1e-9, "{answer}");
    let defaulted = first["defaulted"].as_array().unwrap();
    assert!(defaulted.contains(&json!("sla_timeout_ms")) && !defaulted.contains(&json!("retry_count")), "{answer}");
    assert_eq!(answer["predictions"][1]["defaulted"].as_array().unwrap().len(), 15);
}

#[test]
fn a_new_version_answers_without_a_restart_and_a_bad_one_never_does() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Arc::new(LocalRegistry::new(folder.path()));
    let name = "ticket-duration-predictor";
    let service = Service::start(&config(), Some(Arc::clone(&registry) as Arc<dyn Registry>));
    service.says("model", "no version is in Production");
    let predicted = || service.ask("duration", r#"{"ticket": {}}"#).1["prediction"]["prediction_ms"].as_f64().unwrap();
    registry.promote(name, publish(&registry, name, model(90_000.0)), "test").unwrap();
    service.says("model", "version 1 answers");
    assert!((predicted() - 90_000.0).abs() < 1e-6);
    registry.promote(name, publish(&registry, name, model(30_000.0)), "test").unwrap();
    service.says("model", "version 2 answers");
    assert!((predicted() - 30_000.0).abs() < 1e-6);
    registry.promote(name, publish(&registry, name, b"no model".to_vec()), "test").unwrap();
    service.says("model", "version 2 goes on answering: version 3 in Production cannot be used");
    assert!((predicted() - 30_000.0).abs() < 1e-6);
    let mut other = (*spec()).clone();
    other.features[0].default = 0.25;
    registry.promote(name, publish(&registry, name, constant(&other, 1.0).to_bytes("duration_ms").unwrap()), "test").unwrap();
    service.says("model", "version 4 in Production cannot be used: the model was made for spec");
    registry.promote(name, 1, "rollback").unwrap();
    service.says("model", "version 1 answers");
    assert!((predicted() - 90_000.0).abs() < 1e-6);
    assert!(DurationModel::from_bytes(b"no model", &spec()).is_err());
}

#[test]
fn no_request_is_dropped_while_versions_are_swapped() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Arc::new(LocalRegistry::new(folder.path()));
    let name = "ticket-duration-predictor";
    registry.promote(name, publish(&registry, name, model(10_000.0)), "test").unwrap();
    let service = Service::start(&config(), Some(Arc::clone(&registry) as Arc<dyn Registry>));
    service.says("model", "version 1 answers");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0_u64;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let (status, answer) = service.ask("duration", r#"{"ticket": {}}"#);
                let prediction = &answer["prediction"];
                assert_eq!((status, &prediction["source"]), (200, &json!("model")));
                let version = prediction["model"]["version"].as_f64().unwrap();
                assert_eq!(prediction["prediction_ms"], json!(10_000.0 * version), "the version that is named is the one that answered");
                asked += 1;
            }
            asked
        });
        for version in 2..=3_u8 {
            registry.promote(name, publish(&registry, name, model(10_000.0 * f32::from(version))), "test").unwrap();
            service.says("model", &format!("version {version} answers"));
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(asking.join().unwrap() > 0);
    });
}

#[test]
fn an_anomaly_model_in_production_flags_and_the_rules_name_the_kind() {
    use crate::model::anomaly::{AnomalyModel, Card};
    use crate::model::tree::{Node, Tree};
    let own = "an-anomaly-model-of-its-own";
    let anomaly = crate::spec::Anomaly { model: own.to_owned(), label: None, anomalous: Vec::new() };
    let spec = Arc::new(Spec { anomaly: Some(anomaly), ..Spec::clone(&spec()) });
    // Rows of more than 3 retries end after one step, all others after twenty.
    let retries = u16::try_from(spec.features.iter().position(|feature| feature.name == "retry_count").unwrap()).unwrap();
    let split = Node::Split { feature: retries, threshold: 3.0, left: 1, right: 2 };
    let tree = Tree::new(&[split, Node::Leaf { value: 20.0 }, Node::Leaf { value: 1.0 }], spec.features.len()).unwrap();
    let forest = crate::model::isolation::IsolationForest::new(vec![tree], spec.features.len(), 256, 0.6);
    let card = Card {
        spec: spec.name.clone(),
        fingerprint: spec.fingerprint(),
        features: spec.features.iter().map(|feature| feature.name.clone()).collect(),
        learned: constant(&spec, 1.0).card().learned.clone(),
        contamination: 0.05,
        precision: None,
        data_ms: (0, 1),
        rows: 1,
    };
    let file = AnomalyModel::new(forest, card).to_bytes().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let registry = LocalRegistry::new(folder.path());
    registry.promote(own, publish(&registry, own, file), "test").unwrap();
    let service = Service::of(&spec, &config(), Some(Arc::new(registry)));
    service.says("anomaly-model", "version 1 answers");
    let (_, answer) = service
        .ask("anomaly", r#"{"tickets": [{"retry_count": 4}, {"retry_count": 3, "required_capabilities": [1,2,3,4,5,6,7,8,9,10,11]}]}"#);
    let [first, second] = [&answer["predictions"][0], &answer["predictions"][1]];
    assert_eq!((&first["is_anomaly"], &first["kind"], &first["source"]), (&json!(true), &json!("unknown"), &json!("model")));
    assert_eq!((&second["is_anomaly"], &second["kind"], &second["model"]["version"]), (&json!(false), &json!(null), &json!(1)));
    assert!(first["score"].as_f64().unwrap() > second["score"].as_f64().unwrap());
}

#[test]
fn an_anomaly_has_its_kind_and_a_sentence() {
    let service = Service::start(&config(), None);
    let unusual = r#"{"ticket": {"risk_band": "low", "required_capabilities": [1, 2, 3, 4, 5, 6], "estimated_duration_ms": 60000}}"#;
    let (status, answer) = service.ask("anomaly", unusual);
    let prediction = &answer["prediction"];
    assert_eq!((status, &prediction["is_anomaly"], &prediction["kind"]), (200, &json!(true), &json!("resource_mismatch")));
    assert!(prediction["sentence"].as_str().unwrap().contains("6 capabilities"), "{answer}");
    assert_eq!((&prediction["source"], &prediction["fallback"], &prediction["score"]), (&json!("rules"), &json!("no_model"), &json!(null)));
    let (_, answer) = service.ask("anomaly", r#"{"ticket": {}}"#);
    assert_eq!((&answer["prediction"]["is_anomaly"], &answer["prediction"]["kind"]), (&json!(false), &json!(null)));
}

#[test]
fn without_mongodb_a_load_is_the_fallback_and_says_so() {
    let service = Service::start(&config(), None);
    let (status, answer) = service.ask("load", r#"{"worker_ids": ["a", "b"]}"#);
    assert_eq!(status, 200);
    let expected = json!({"worker_id": "b", "queue_time_ms": 2_000.0, "load": 0.5, "depth": null, "source": "estimate", "fallback": "no_mongodb", "age_ms": 0});
    assert_eq!(answer["predictions"][1], expected);
}

#[test]
fn a_request_that_cannot_be_answered_is_told_what_where_and_what_to_do() {
    let mut config = config();
    config.serve.max_batch = 2;
    config.serve.max_body_bytes = 1_024;
    config.serve.timeout_ms = 200;
    let service = Service::start(&config, None);
    for (body, status, place) in [
        ("{", 400, "body"),
        (r#"{"ticket": 7}"#, 400, "/ticket"),
        (r#"{"tickets": [{}, {"task_type": 1, "task_type": 2}]}"#, 400, "/tickets/1"),
        (r#"{"tickets": [{}, {}, {}]}"#, 422, "/tickets"),
        (&"x".repeat(2_000), 413, "body"),
    ] {
        let (found, problem) = service.ask("duration", body);
        assert_eq!((found, &problem["where"]), (status, &json!(place)), "{problem}");
        assert!(problem["detail"].is_string() && problem["action"].is_string() && problem["status"] == json!(status), "{problem}");
    }
    let post = "POST /v1/predictions/duration HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    assert_eq!(service.raw(&format!("{post}content-type: text/plain\r\ncontent-length: 2\r\n\r\n{{}}")).0, 415);
    assert_eq!(service.raw(&format!("{post}content-length: 20\r\n\r\n{{")).0, 408);
    assert_eq!(service.raw("GET /v1/predictions/duration HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").0, 405);
    assert_eq!(service.raw("GET /v2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").1["where"], json!("path"));
}

#[test]
fn more_requests_than_there_are_places_are_turned_away() {
    let mut config = config();
    config.serve.max_concurrent = 1;
    config.serve.timeout_ms = 10_000;
    let service = Service::start(&config, None);
    let mut slow = service.connect();
    let head =
        "POST /v1/predictions/duration HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 14\r\nexpect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).unwrap();
    // The server asks for the body once the request has its place.
    let mut go_on = [0; 25];
    slow.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let (status, problem) = service.ask("duration", r#"{"ticket": {}}"#);
    assert_eq!((status, &problem["type"]), (503, &json!("urn:tidemark:problem:busy")));
    slow.write_all(br#"{"ticket": {}}"#).unwrap();
    assert_eq!(answer(&mut slow).0, 200);
    assert_eq!(service.ask("duration", r#"{"ticket": {}}"#).0, 200);
}

#[test]
fn the_answer_under_way_is_given_when_the_server_stops() {
    let mut service = Service::start(&config(), None);
    let mut slow = service.connect();
    let head = "POST /v1/predictions/duration HTTP/1.1\r\nhost: x\r\ncontent-length: 14\r\nexpect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    slow.read_exact(&mut go_on).unwrap();
    let server = service.server.take().unwrap();
    let address = server.address().unwrap();
    let stopping = std::thread::spawn(move || server.stop());
    // Nobody new is let in once those who are in have been told.
    while TcpStream::connect(address).is_ok() {
        std::thread::yield_now();
    }
    slow.write_all(br#"{"ticket": {}}"#).unwrap();
    assert_eq!(answer(&mut slow).0, 200);
    stopping.join().unwrap();
}

#[test]
fn a_target_that_is_no_time_is_refused_by_name() {
    let mut other = (*spec()).clone();
    "cost_euros".clone_into(&mut other.target.name);
    let (stop, health) = (Stop::default(), Health::default());
    let (config, other) = (config(), Arc::new(other));
    let serving = Serving { config: &config, spec: &other, registry: None, stop: &stop, health: &health };
    let handle = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let error = start(&serving, handle).err().unwrap();
    assert!(error.to_string().contains("cost_euros"), "{error}");
}
