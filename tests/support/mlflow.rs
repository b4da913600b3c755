//! MLflow: a tracking server with its model registry, on SQLite and a folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use tidemark::registry::{MlflowRegistry, MlflowSettings};

use super::process::{Server, free_ports, tools, wait_until};

/// A tracking server.
pub(crate) struct Mlflow {
    /// `http://host:port`.
    pub(crate) uri: String,
    server: Server,
}

/// Returns the server that all tests share: use model names of your own.
pub(crate) fn mlflow() -> &'static Mlflow {
    static SHARED: OnceLock<Mlflow> = OnceLock::new();
    SHARED.get_or_init(Mlflow::start)
}

fn python() -> PathBuf {
    let python = tools().join("venv/bin/python");
    assert!(python.is_file(), "no {}: run script/bootstrap mlflow", python.display());
    python
}

impl Mlflow {
    /// Starts a server for one test, which may freeze it.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let [port] = free_ports();
        let mut server = Command::new(python());
        server
            .args(["-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1", "--port", &port.to_string()])
            .args(["--backend-store-uri", &format!("sqlite:///{}/mlflow.db", directory.path().display())])
            .arg("--artifacts-destination")
            .arg(directory.path().join("artifacts"))
            // Seven consumers of jobs that nobody here has, 230 MB each.
            .env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
            .env("MLFLOW_DISABLE_TELEMETRY", "true")
            .current_dir(directory.path());
        let mlflow = Self { uri: format!("http://127.0.0.1:{port}"), server: Server::start(directory, &mut server) };
        let registry = mlflow.registry();
        wait_until("MLflow answers", Duration::from_mins(2), || {
            assert!(mlflow.server.is_alive(), "MLflow did not start:\n{}", mlflow.server.last_words());
            tidemark::registry::Registry::production(&registry, "nobody").ok()
        });
        mlflow
    }

    /// Returns a client with short pauses.
    pub(crate) fn registry(&self) -> MlflowRegistry {
        registry(&self.uri)
    }

    /// Sends a signal to the server (`STOP`, `CONT`, `KILL`).
    pub(crate) fn signal(&self, name: &str) {
        self.server.signal(name);
    }

    /// Returns the server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Returns where the files of a run are kept.
    pub(crate) fn files(&self, run_id: &str) -> PathBuf {
        let root = self.server.directory().join("artifacts");
        let experiments = std::fs::read_dir(root).expect("there are artifacts").map(|entry| entry.expect("an entry").path());
        experiments.map(|experiment| experiment.join(run_id)).find(|run| run.is_dir()).expect("the run has files").join("artifacts")
    }

    /// Calls the REST interface as another client would.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let method = method.parse().expect("a method");
        let url = format!("{}/api/2.0/mlflow/{path}", self.uri);
        runtime.block_on(async {
            let answer = reqwest::Client::new().request(method, url).json(body).send().await.expect("MLflow answers");
            let status = answer.status();
            let text = answer.text().await.expect("MLflow answers");
            assert!(status.is_success(), "{path}: {status} {text}");
            serde_json::from_str(&text).expect("MLflow answers JSON")
        })
    }

    /// Returns the ids of the runs of a key that are not deleted, in the default experiment of the tests.
    pub(crate) fn runs(&self, key: &str) -> Vec<String> {
        let experiment = self.call("GET", "experiments/get-by-name?experiment_name=tests", &Value::Null);
        let filter = format!("tags.`tidemark.key` = '{key}'");
        let body = serde_json::json!({ "experiment_ids": [experiment["experiment"]["experiment_id"]], "filter": filter });
        let answer = self.call("POST", "runs/search", &body);
        let runs = answer["runs"].as_array().cloned().unwrap_or_default();
        runs.iter().map(|run| run["info"]["run_id"].as_str().expect("a run has an id").to_owned()).collect()
    }

    /// Runs Python with MLflow's client; returns what it prints.
    pub(crate) fn python(&self, script: &Path, arguments: &[&str]) -> String {
        let output = Command::new(python())
            .arg(script)
            .args(arguments)
            .env("MLFLOW_TRACKING_URI", &self.uri)
            .output()
            .expect("python is there: run script/bootstrap mlflow");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }
}

/// Returns a client of some address, with short pauses.
pub(crate) fn registry(uri: &str) -> MlflowRegistry {
    let mut settings = MlflowSettings::new(uri.to_owned().into(), "tests");
    settings.pause = Duration::from_millis(2);
    MlflowRegistry::new(&settings).expect("a valid address")
}
