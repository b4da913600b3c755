//! A disk of ours that is full: what cannot be written is said where anybody can hear it, and nothing else suffers.

use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::chaos::check::Checker;
use crate::e2e::halves;
use crate::support::{Deployment, kafka, mongo, wait_until};
use crate::train::tickets;

/// `/dev/full` takes nothing: every write ends as on a full disk.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has it").into()
}

fn tidemark(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_clear().stdin(Stdio::null()).args(arguments);
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn an_answer_that_finds_no_room_is_a_failure_that_is_told() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/flights-demo.ndjson.zst");
    let commands: [&[&str]; 8] = [
        &["--help"],
        &["run", "--help"],
        &["--version"],
        &["completions", "bash"],
        &["config", "show"],
        &["config", "show", "--output", "json"],
        &["spec", "suggest", "--file", file],
        &["demo"],
    ];
    for arguments in commands {
        let output = tidemark(arguments).stdout(full()).output().expect("the command starts");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains("cannot write the output: No space left on device"), "{arguments:?}: {}", said(&output));
        let deaf = tidemark(arguments).stdout(full()).stderr(full()).status().expect("the command starts");
        assert_eq!(deaf.code(), Some(1), "{arguments:?}");
    }
}

#[test]
fn a_process_whose_log_finds_no_room_goes_on() {
    let name = format!("full-log-{}", std::process::id());
    let mut deployment = Deployment::new(&name, 1);
    deployment.set("TIDEMARK_TAIL_START", "history");
    let flights = &halves().1[..500];
    let checker = Checker::new(&mongo().uri, &kafka().bootstrap_servers, &name, 1);
    checker.create_topics();
    let process = deployment.start_on_full_disk("one", &["run", "--stages", "tail,watch,judge"]);
    process.wait_for("tail");
    deployment.insert(flights);
    wait_until("every ticket is sent", Duration::from_mins(2), || {
        assert!(process.is_alive(), "it ended");
        (process.metric("tidemark_tail_tickets_total") == flights.len() as u64).then_some(())
    });
    assert!(process.metric("tidemark_log_lines_lost_total") > 0, "it has a log");
    process.stop();
    assert_eq!(checker.tickets(0).len(), flights.len());
}

/// A folder with tickets to train on, and a registry.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary directory"));
        let lines: String = tickets(0..600, |_, _| ()).iter().map(|ticket| format!("{ticket}\n")).collect();
        std::fs::write(place.0.path().join("tickets.ndjson"), lines).expect("there is room");
        place
    }

    /// Trains where no file may be longer than so many bytes.
    fn train(&self, most_bytes: &str) -> Output {
        let file = self.0.path().join("tickets.ndjson");
        // Else the signal, which a full disk does not send, would end the process before it sees the error.
        let limited = "trap '' XFSZ; exec prlimit --fsize=\"$0\": \"$@\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", limited, most_bytes, env!("CARGO_BIN_EXE_tidemark"), "train", "--file"]).arg(file);
        shell.current_dir(env!("CARGO_MANIFEST_DIR")).env("TIDEMARK_REGISTRY_DIRECTORY", self.0.path().join("models"));
        shell.stdin(Stdio::null()).output().expect("a shell is there")
    }

    /// Returns the versions that the registry has, and which is in Production.
    fn versions(&self) -> Vec<(u64, bool)> {
        let mut list = tidemark(&["models", "list", "--model", "ticket-duration-predictor", "--output", "json"]);
        let output = list.env("TIDEMARK_REGISTRY_DIRECTORY", self.0.path().join("models")).output().expect("the command starts");
        assert!(output.status.success(), "{}", said(&output));
        let versions: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it is JSON");
        versions.iter().map(|version| (version["version"].as_u64().unwrap(), version["in_production"] == true)).collect()
    }
}

#[test]
fn a_registry_without_room_has_a_version_or_none() {
    let place = Place::new();
    // Too little for anything, for the model, for the plots.
    for most_bytes in ["1", "1000", "20000"] {
        let output = place.train(most_bytes);
        assert!(output.status.code().is_some_and(|code| code != 0), "{}: {}", output.status, said(&output));
        let text = said(&output);
        assert!(text.contains("File too large") && text.contains("there is no room"), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        assert_eq!(place.versions(), [], "with {most_bytes} bytes");
    }
    let output = place.train("unlimited");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(place.versions(), [(1, true)]);
}
