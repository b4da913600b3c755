//! MLflow that is slow, down, wrong, or not MLflow.

use std::time::{Duration, Instant};

use tidemark::registry::{MlflowRegistry, MlflowSettings, Registry, RegistryError};

use crate::support::mlflow::registry;
use crate::support::stub::{Answer, Stub};

const MODEL: &str = r#"{"registered_model": {"name": "m", "aliases": [{"alias": "Production", "version": "4"}]}}"#;

fn of(stub: &Stub) -> MlflowRegistry {
    registry(&format!("http://{}", stub.address))
}

fn settings(uri: String) -> MlflowSettings {
    let mut settings = MlflowSettings::new(uri.into(), "tests");
    settings.pause = Duration::from_millis(2);
    settings
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    for busy in ["503 Service Unavailable", "500 Internal Server Error", "429 Too Many Requests", "408 Request Timeout"] {
        let stub = Stub::start(vec![
            Answer::json(busy, r#"{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "busy"}"#),
            Answer::json(busy, "<html>busy</html>"),
            Answer::json("200 OK", MODEL),
            Answer::json("200 OK", "{}"),
        ]);
        assert_eq!(of(&stub).production("m").unwrap(), Some(4), "{busy}");
        assert_eq!(stub.asked().len(), 4, "{busy}");
    }
}

#[test]
fn after_three_tries_it_is_unavailable_and_the_reason_is_told() {
    let stub = Stub::start((0..9).map(|_| Answer::json("503 Service Unavailable", r#"{"message": "disk full"}"#)).collect());
    let error = of(&stub).production("m").unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }), "{error}");
    for part in ["reading what is in Production of m", &stub.address, "503", "disk full", "3 tries", "try again"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert_eq!(stub.asked().len(), 3);
}

#[test]
fn the_pause_that_a_server_asks_for_is_kept() {
    let stub = Stub::start(vec![
        Answer::Reply("429 Too Many Requests\r\nretry-after: 1", Vec::new()),
        Answer::json("200 OK", MODEL),
        Answer::json("200 OK", "{}"),
    ]);
    let started = Instant::now();
    assert_eq!(of(&stub).production("m").unwrap(), Some(4));
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn wrong_credentials_are_refused_at_once_and_never_shown() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let stub = Stub::start(vec![Answer::json(status, "You are not authenticated")]);
        let mut settings = settings(format!("http://joe:hunter2@{}/?password=hunter3", stub.address));
        settings.token = Some("hunter1".into());
        let registry = MlflowRegistry::new(&settings).unwrap();
        let error = registry.production("m").unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("MLFLOW_TRACKING_TOKEN"), "{error}");
        assert_eq!(stub.asked().len(), 1, "it is not tried again");
        let shown = format!("{error} {error:?} {registry:?} {settings:?}");
        assert!(!shown.contains("hunter"), "{shown}");
    }
}

#[test]
fn credentials_go_along_token_before_user_before_address() {
    let asked = |settings: &mut MlflowSettings| {
        let stub = Stub::start(vec![Answer::json("401 Unauthorized", "")]);
        settings.tracking_uri = format!("http://joe:p%40ss@{}", stub.address).into();
        drop(MlflowRegistry::new(settings).unwrap().production("m"));
        let request = stub.asked().remove(0);
        let header = request.lines().find_map(|line| line.strip_prefix("authorization: ")).map(str::to_owned);
        header.unwrap_or_default()
    };
    let mut settings = settings(String::new());
    assert_eq!(asked(&mut settings), "Basic am9lOnBAc3M=", "joe:p@ss");
    settings.username = Some("ann".to_owned());
    settings.password = Some("secret".into());
    assert_eq!(asked(&mut settings), "Basic YW5uOnNlY3JldA==", "ann:secret");
    settings.token = Some("t0ken".into());
    assert_eq!(asked(&mut settings), "Bearer t0ken");
}

#[test]
fn nobody_there_is_unavailable_and_no_secret_is_told() {
    let [port] = crate::support::process::free_ports();
    let error = registry(&format!("http://joe:hunter2@127.0.0.1:{port}")).production("m").unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(&port.to_string()) && !error.to_string().contains("hunter2"), "{error}");
    let error = MlflowRegistry::new(&settings("localhost:5000:hunter2".to_owned())).unwrap_err();
    assert!(matches!(error, RegistryError::Invalid { .. }) && !error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn a_server_that_does_not_answer_is_given_up_in_time() {
    let stub = Stub::start(vec![Answer::Silence, Answer::Silence, Answer::Silence]);
    let mut settings = settings(format!("http://{}", stub.address));
    settings.timeout = Duration::from_millis(100);
    let started = Instant::now();
    let error = MlflowRegistry::new(&settings).unwrap().production("m").unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }), "{error}");
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[test]
fn an_answer_that_is_not_mlflows_is_said_to_be_so() {
    for garbage in ["<html>welcome</html>", "", "[]", r#"{"registered_model": 7}"#, "\u{0}\u{1}"] {
        let stub = Stub::start(vec![Answer::json("200 OK", garbage)]);
        let error = of(&stub).production("m").unwrap_err();
        assert!(error.to_string().contains("is it a tracking server?"), "{garbage}: {error}");
        assert_eq!(stub.asked().len(), 1);
    }
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let stub = Stub::start(vec![Answer::Endless]);
    let error = of(&stub).production("m").unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }) && error.to_string().contains("67108864 bytes"), "{error}");
}

#[test]
fn a_file_above_the_limit_is_not_read_to_its_end() {
    let version = r#"{"model_version": {"version": "1", "source": "mlflow-artifacts:/1/r/artifacts/model",
        "tags": [{"key": "tidemark.sha256/model/model.onnx", "value": "00"}]}}"#;
    let stub = Stub::start(vec![Answer::json("200 OK", version), Answer::Endless]);
    let error = of(&stub).load("m", 1, &["model/model.onnx"], 1_000).unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }) && error.to_string().contains("1000 bytes"), "{error}");
    assert!(stub.asked()[1].starts_with("GET /api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/model/model.onnx "));
}

#[test]
fn a_redirect_is_not_followed_with_the_credentials() {
    let stub = Stub::start(vec![Answer::Reply("302 Found\r\nlocation: http://elsewhere.invalid/", Vec::new())]);
    let error = of(&stub).production("m").unwrap_err();
    assert!(matches!(error, RegistryError::Invalid { .. }) && error.to_string().contains("give the final address"), "{error}");
    assert_eq!(stub.asked().len(), 1);
}

#[test]
fn a_server_whose_every_answer_names_a_next_one_is_not_asked_for_ever() {
    let pages = (0..300).map(|page| Answer::json("200 OK", &format!(r#"{{"next_page_token": "{}"}}"#, page % 2)));
    let stub = Stub::start([Answer::json("200 OK", MODEL)].into_iter().chain(pages).collect());
    let error = of(&stub).versions("m").unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("more than 100 pages"), "{error}");
    assert_eq!(stub.asked().len(), 101);
}

#[test]
fn folders_that_hold_folders_without_end_are_not_all_listed() {
    let search = r#"{"model_versions": [{"version": "4", "source": "mlflow-artifacts:/1/r/artifacts/model", "run_id": "r"}]}"#;
    let get = r#"{"model_version": {"version": "4", "source": "mlflow-artifacts:/1/r/artifacts/model", "run_id": "r"}}"#;
    let folders = r#"{"files": [{"path": "a", "is_dir": true}, {"path": "b", "is_dir": true}, {"path": "c", "is_dir": true}]}"#;
    let answers = [Answer::json("200 OK", search), Answer::json("200 OK", get)];
    let stub = Stub::start(answers.into_iter().chain((0..300).map(|_| Answer::json("200 OK", folders))).collect());
    let error = of(&stub).publish(&crate::support::publications::publication("m", "k")).unwrap_err();
    assert!(error.to_string().contains("more than 100 folders"), "{error}");
    assert_eq!(stub.asked().len(), 102);
}
