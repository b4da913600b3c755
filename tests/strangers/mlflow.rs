//! MLflow over TLS, with a token or a password.

use std::process::Command;
use std::time::Duration;

use super::{ends, failures, tidemark};
use crate::support::flights::first_lines;
use crate::support::guarded_mlflow::{GuardedMlflow, SECRET};
use crate::support::{Deployment, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// Somebody at the door: variables of the environment.
#[derive(Clone)]
struct Visitor(Vec<(&'static str, String)>);

impl Visitor {
    fn nobody(mlflow: &GuardedMlflow) -> Self {
        let uri = ("MLFLOW_TRACKING_URI", format!("https://{}", mlflow.address));
        Self(vec![uri, ("MLFLOW_TRACKING_SERVER_CERT_PATH", mlflow.certificates.path("ca.crt"))])
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self = self.without(name);
        self.0.push((name, value.into()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.0.retain(|(theirs, _)| *theirs != name);
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tidemark(arguments);
        command.envs(self.0.iter().map(|(name, value)| (name, value)));
        command
    }
}

#[test]
fn with_the_right_proof_models_are_trained_promoted_and_listed() {
    let mlflow = GuardedMlflow::start();
    let nobody = Visitor::nobody(&mlflow);
    let token = nobody.clone().with("MLFLOW_TRACKING_TOKEN", SECRET);
    let kept = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kept.path(), format!("{SECRET}\n")).unwrap();
    for visitor in [
        token.clone(),
        nobody.clone().with("MLFLOW_TRACKING_TOKEN_FILE", kept.path().display().to_string()),
        nobody.clone().with("MLFLOW_TRACKING_USERNAME", "joe").with("MLFLOW_TRACKING_PASSWORD", SECRET),
        nobody.with("MLFLOW_TRACKING_URI", format!("https://joe:{SECRET}@{}", mlflow.address)),
    ] {
        let said = ends(&mut visitor.command(&["config", "check", "--connect"]), 0, SECRET);
        assert!(said.contains("experiments: ok"), "{said}");
        ends(&mut visitor.command(&["models", "list", "--model", "strangers"]), 0, SECRET);
    }
    let file = tempfile::Builder::new().suffix(".ndjson").tempfile().unwrap();
    std::fs::write(file.path(), first_lines(3_000).join("\n")).unwrap();
    let train = ["train", "--file", &file.path().display().to_string(), "--at", "2013-01-04", "--set", "train.min_samples=100"];
    let said = ends(&mut token.command(&train), 0, SECRET);
    assert!(said.contains("version 1"), "{said}");
    let (requests, broken) = mlflow.asked();
    assert!(requests > 20 && broken == 0, "{requests} requests, {broken} connections without one");
}

#[test]
fn without_it_a_person_is_told_what_to_do_soon_and_the_server_is_left_in_peace() {
    let mlflow = GuardedMlflow::start();
    let nobody = Visitor::nobody(&mlflow);
    let good = nobody.clone().with("MLFLOW_TRACKING_TOKEN", SECRET);
    let at = |address: &str| good.clone().with("MLFLOW_TRACKING_URI", format!("https://{address}"));
    let authority = "MLFLOW_TRACKING_SERVER_CERT_PATH";
    let stranger = mlflow.certificates.path("stranger.crt");
    let cases = [
        ("a wrong token", good.clone().with("MLFLOW_TRACKING_TOKEN", "hunter2-wrong"), "check MLFLOW_TRACKING_TOKEN", 4),
        ("an expired token", good.clone().with("MLFLOW_TRACKING_TOKEN", format!("expired-{SECRET}")), "The access token expired", 4),
        ("no credentials", nobody.clone(), "check MLFLOW_TRACKING_TOKEN", 4),
        (
            "a wrong password",
            nobody.with("MLFLOW_TRACKING_USERNAME", "joe").with("MLFLOW_TRACKING_PASSWORD", "hunter2-wrong"),
            "MLFLOW_TRACKING_PASSWORD",
            4,
        ),
        ("another authority", good.clone().with(authority, stranger), "name that one's file as mlflow.ca_file", 4),
        ("an authority that the system does not know", good.clone().without(authority), "name that one's file as mlflow.ca_file", 4),
        ("a certificate of another host", at(&mlflow.elsewhere), "is for another host", 4),
        ("an expired certificate", at(&mlflow.expired), "has to be renewed", 4),
        ("no TLS", good.clone().with("MLFLOW_TRACKING_URI", format!("http://{}", mlflow.address)), "begins with https://", 4),
        ("no such file", good.clone().with(authority, mlflow.certificates.path("nowhere.crt")), "nowhere.crt", 2),
    ];
    let before = mlflow.asked();
    std::thread::scope(|scope| {
        for (case, visitor, expected, code) in &cases {
            scope.spawn(move || {
                for (arguments, code) in [(&["config", "check", "--connect"][..], 4), (&["models", "list"], *code)] {
                    let failed = failures(&ends(&mut visitor.command(arguments), code, "hunter2"));
                    assert!(failed.contains(expected), "{case}, {arguments:?}: {failed}");
                }
            });
        }
    });
    let (requests, broken) = mlflow.asked();
    // A refusal is not asked about again; a connection that ends early is tried three times.
    assert_eq!(requests - before.0, 4 * 2, "requests");
    assert!(broken - before.1 <= cases.len() * 2 * 3, "{broken} connections without a request");

    // A stage goes on asking, now and then: credentials are renewed.
    let mut deployment = Deployment::new("strangers-mlflow", 1);
    cases[1].1.0.iter().for_each(|(name, value)| deployment.set(name, value));
    deployment.set("TIDEMARK_LOG_FILTER", "debug");
    let train = deployment.start("one", &["run", "--stages", "train"]);
    let before = mlflow.asked().0;
    wait_until("the stage has asked", LIMIT, || (mlflow.asked().0 > before).then_some(()));
    wait_until("it says why it does nothing", LIMIT, || train.log().contains(cases[1].2).then_some(()));
    let before = mlflow.asked().0;
    std::thread::sleep(Duration::from_secs(10));
    let more = mlflow.asked().0 - before;
    assert!(more <= 20, "{more} requests in ten seconds");
    assert!(train.is_alive() && !train.log().contains("hunter2"), "{}", train.last_words());
    train.stop();
}
