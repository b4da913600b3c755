//! The manifests: valid for Kubernetes itself, and holding what they promise.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tidemark::config::keys::KEYS;

use crate::support::process::tools;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns every document of the manifests, each held against the schemas of the oldest and the newest Kubernetes we know.
fn manifests(files: &[PathBuf]) -> Vec<Value> {
    let mut python = Command::new(tools().join("checks/bin/python"));
    python.arg(repository("tests/client/manifests.py")).args(files);
    let Output { status, stdout, stderr } = python.output().expect("kubernetes-validate is installed: run script/bootstrap test");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

fn all() -> Vec<Value> {
    let files = std::fs::read_dir(repository("deploy/kubernetes")).unwrap().map(|entry| entry.unwrap().path());
    manifests(&files.collect::<Vec<_>>())
}

fn one<'d>(documents: &'d [Value], kind: &str, name: &str) -> &'d Value {
    let found = documents.iter().find(|document| document["kind"] == kind && document["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Returns (name of the object, its pod).
fn pods(documents: &[Value]) -> Vec<(String, &Value)> {
    fn pod(document: &Value) -> Option<&Value> {
        match document["kind"].as_str()? {
            "Deployment" => Some(&document["spec"]["template"]["spec"]),
            "CronJob" => Some(&document["spec"]["jobTemplate"]["spec"]["template"]["spec"]),
            _ => None,
        }
    }
    documents.iter().filter_map(|document| Some((document["metadata"]["name"].as_str()?.to_owned(), pod(document)?))).collect()
}

#[test]
fn the_manifests_are_valid_and_whole() {
    let documents = all();
    for (kind, name) in [
        ("ConfigMap", "orchestrator-ml-training-config"),
        ("Deployment", "tidemark-run"),
        ("Deployment", "tidemark-serve"),
        ("CronJob", "tidemark-check"),
        ("CronJob", "tidemark-train"),
        ("Service", "tidemark"),
        ("PodDisruptionBudget", "tidemark-run"),
        ("PodDisruptionBudget", "tidemark-serve"),
        ("PrometheusRule", "tidemark"),
    ] {
        one(&documents, kind, name);
    }
    let kustomization = documents.iter().find(|document| document["kind"] == "Kustomization").unwrap();
    let mut files: Vec<String> = std::fs::read_dir(repository("deploy/kubernetes"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "kustomization.yaml")
        .collect();
    files.sort();
    let mut named: Vec<String> = serde_json::from_value(kustomization["resources"].clone()).unwrap();
    named.sort();
    assert_eq!(named, files);
}

#[test]
fn every_pod_runs_as_nobody_on_a_read_only_root_with_room_for_temporary_files() {
    let documents = all();
    let pods = pods(&documents);
    assert_eq!(pods.len(), 4);
    for (name, pod) in pods {
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!((&pod["automountServiceAccountToken"], &pod["enableServiceLinks"]), (&json!(false), &json!(false)), "{name}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        let container = &pod["containers"][0];
        let own = &container["securityContext"];
        assert_eq!((&own["readOnlyRootFilesystem"], &own["allowPrivilegeEscalation"]), (&json!(true), &json!(false)), "{name}");
        assert_eq!(own["capabilities"]["drop"], json!(["ALL"]), "{name}");
        assert_eq!(container["volumeMounts"][0]["mountPath"], "/tmp", "{name}");
        assert!(pod["volumes"][0]["emptyDir"]["sizeLimit"].is_string(), "{name}");
        assert!(
            container["resources"]["requests"]["memory"].is_string() && container["resources"]["limits"]["memory"].is_string(),
            "{name}"
        );
        let from: Vec<&Value> = container["envFrom"].as_array().unwrap().iter().collect();
        assert_eq!(from[0]["configMapRef"]["name"], "orchestrator-ml-training-config", "{name}");
    }
    for name in ["tidemark-run", "tidemark-serve"] {
        let container = &one(&documents, "Deployment", name)["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");
    }
}

#[test]
fn every_name_in_the_config_map_is_one_that_tidemark_reads() {
    let documents = all();
    let known: Vec<String> = KEYS.iter().flat_map(tidemark::config::keys::Key::environment).collect();
    let data = &one(&documents, "ConfigMap", "orchestrator-ml-training-config")["data"];
    for (name, value) in data.as_object().unwrap() {
        let key = KEYS.iter().find(|key| key.environment().contains(name));
        let key = key.unwrap_or_else(|| panic!("{name} sets nothing; known: {}", known.join(", ")));
        let read = key.kind.parse(value.as_str().unwrap()).and_then(|value| key.kind.accept(&value));
        assert!(read.is_some(), "{name}: {value} is not {}", key.kind.allowed());
        assert!(!key.kind.is_secret(), "{name} is a secret and does not belong here");
    }
}

#[test]
fn the_jobs_have_command_lines_that_tidemark_takes() {
    let documents = all();
    for (name, pod) in pods(&documents) {
        let mut arguments: Vec<String> = serde_json::from_value(pod["containers"][0]["args"].clone()).unwrap();
        if name == "tidemark-train" {
            assert_eq!(arguments, ["train", "--window-days=540", "--min-samples=100", "--backfill-errors"]);
            continue;
        }
        // The command line is read before its help is shown: a flag that is not there is a fault.
        arguments.push("--help".to_owned());
        let output = Command::new(env!("CARGO_BIN_EXE_tidemark")).args(&arguments).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_rules_are_those_of_deploy_alerts() {
    let documents = all();
    let plain = manifests(&[repository("deploy/alerts.yml")]);
    assert_eq!(one(&documents, "PrometheusRule", "tidemark")["spec"], plain[0]);
    let metrics = std::fs::read_to_string(repository("src/metrics.rs")).unwrap();
    for rule in plain[0]["groups"][0]["rules"].as_array().unwrap() {
        let expression = rule["expr"].as_str().unwrap();
        for word in expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            let name = word.strip_suffix("_bucket").unwrap_or(word);
            let is_ours = name.starts_with("tidemark_") || name.starts_with("orchestration_");
            assert!(!is_ours || metrics.contains(&format!("\"{name}\"")), "{name} is no metric of ours: {expression}");
        }
    }
    if Command::new("promtool").arg("--version").output().is_ok() {
        for arguments in [["check", "rules", "deploy/alerts.yml"], ["test", "rules", "deploy/alerts.test.yml"]] {
            let output = Command::new("promtool").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
