//! The built command as a person or a script meets it: exit codes, output, secrets.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{kafka, mongo, parcels};

/// Planted wherever a secret may stand; nothing that is printed may hold it.
const PLANTED: &str = "hunter2-planted";

/// The command in the repository, with nothing in its environment but what a test gives it.
fn tidemark(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_clear().stdin(Stdio::null()).args(arguments);
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the command starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn both(output: &Output) -> String {
    format!("{}{}", out(output), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn ends(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", both(output));
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", both(output)))
}

/// The first flights of the year, one a line.
fn flights(number: usize) -> String {
    let file = std::fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights-demo.ndjson.zst")).unwrap();
    let lines = BufReader::new(zstd::Decoder::new(file).unwrap()).lines().take(number);
    lines.map(|line| line.unwrap() + "\n").collect()
}

#[test]
fn help_is_an_answer_and_a_wrong_command_line_a_fault() {
    let help = run(&mut tidemark(&["--help"]));
    ends(&help, 0);
    for command in
        ["run", "demo", "check", "baseline", "train", "models", "status", "alerts", "test-alert", "config", "spec", "completions"]
    {
        assert!(out(&help).contains(&format!("\n  {command} ")), "{command}: {}", out(&help));
        let help = run(&mut tidemark(&[command, "--help"]));
        ends(&help, 0);
        assert!(out(&help).contains("Usage: tidemark"), "{command}");
    }
    ends(&run(&mut tidemark(&["cheque"])), 2);
    ends(&run(&mut tidemark(&["check", "--window", "7 days"])), 2);
    ends(&run(&mut tidemark(&["check", "--at", "yesterday"])), 2);
    ends(&run(&mut tidemark(&["config", "show", "--output", "html"])), 2);
}

#[test]
fn a_run_without_kafka_says_how_to_configure_it() {
    let output = run(&mut tidemark(&["run"]));
    ends(&output, 2);
    assert!(both(&output).contains("set KAFKA_BOOTSTRAP_SERVERS, --kafka-bootstrap-servers or the key"), "{}", both(&output));
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&mut tidemark(&["completions", shell]));
        ends(&script, 0);
        assert!(out(&script).contains("baseline"), "{shell}");
    }
}

#[test]
fn a_closed_pipe_is_quiet() {
    let mut child = tidemark(&["config", "show", "--output", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn what_is_in_force_says_where_it_came_from() {
    let shown = json(&run(tidemark(&["config", "show", "--output", "json", "--set", "kafka.partitions=7"])
        .env("ML_DRIFT_PSI_THRESHOLD", "0.3")
        .env("TIDEMARK_WINDOW_LATENESS_MS", "1000")));
    let key = |name: &str| shown["keys"].as_array().unwrap().iter().find(|line| line["key"] == name).unwrap().clone();
    assert_eq!((&key("kafka.partitions")["value"], &key("kafka.partitions")["origin"]["kind"]), (&Value::from(7), &Value::from("flag")));
    assert_eq!(key("judge.psi_critical")["origin"]["name"], "ML_DRIFT_PSI_THRESHOLD");
    assert_eq!(key("window.lateness_ms")["value"], 1000);
    assert_eq!(key("tail.start")["origin"]["kind"], "file");
    assert_eq!(key("train.window_days")["used_by"][0], "train");
}

#[test]
fn all_faults_of_configuration_and_spec_come_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let spec = directory.path().join("spec.toml");
    let good = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/execution-tickets.toml")).unwrap();
    std::fs::write(&spec, good.replace("min = 1.0", "min = -1.0").replace("field = \"risk_band\"", "field = \"risk_bnad\"")).unwrap();
    let spec = spec.display().to_string();
    let checked = run(tidemark(&["config", "check", "--spec", &spec, "--set", "kafka.partitons=3"]).env("ML_DRIFT_PSI_THRESHOLD", "much"));
    ends(&checked, 2);
    for expected in ["did you mean kafka.partitions?", "judge.psi_critical", "a number from", "target.min", "did you mean risk_band?"] {
        assert!(out(&checked).contains(expected), "{expected}: {}", out(&checked));
    }
    ends(&run(&mut tidemark(&["status", "--set", "kafka.partitons=3"])), 2);
    ends(&run(&mut tidemark(&["config", "check", "--config", "/no/such/file.toml"])), 2);
}

#[test]
fn a_secret_is_in_no_output_and_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("tidemark.toml");
    std::fs::write(
        &config,
        format!(
            "[mongodb]\nuri = \"mongodb://joe:{PLANTED}@127.0.0.1:1/?serverSelectionTimeoutMS=300\"\n\
             [kafka]\nbootstrap_servers = \"127.0.0.1:1\"\n\
             [kafka.properties]\n\"security.protocol\" = \"SASL_PLAINTEXT\"\n\"sasl.mechanism\" = \"PLAIN\"\n\
             \"sasl.username\" = \"joe\"\n\"sasl.password\" = \"{PLANTED}\"\n\
             [mlflow]\ntracking_uri = \"http://joe:{PLANTED}@127.0.0.1:1\"\n\
             [webhook]\nurl = \"http://127.0.0.1:1/{PLANTED}\"\nsecret = \"{PLANTED}\"\n[http]\nlisten = \"\"\n[log]\nfilter = \"debug\"\n"
        ),
    )
    .unwrap();
    let config = config.display().to_string();
    let interval = ["--from", "2013-01-01", "--to", "2013-02-01"];
    for (arguments, code) in [
        (vec!["config", "show"], 0),
        (vec!["config", "show", "--output", "json"], 0),
        (vec!["config", "check"], 0),
        (vec!["config", "check", "--connect"], 4),
        (vec!["status"], 4),
        (vec!["alerts"], 4),
        (vec!["test-alert"], 4),
        (vec!["run"], 4),
        (vec!["baseline", "list"], 4),
        ([&["baseline", "create", "--dry-run"][..], &interval[..]].concat(), 4),
        (vec!["spec", "suggest", "--collection", "a.b"], 4),
        (vec!["config", "check", "--set", "mongodb.uri=mongodb://joe:hunter2-planted@h"], 2),
        (vec!["config", "check", "--set", "webhook.secret=hunter2-planted"], 2),
    ] {
        let output = run(tidemark(&arguments).args(["--config", &config]));
        ends(&output, code);
        assert!(!both(&output).contains(PLANTED), "{arguments:?}: {}", both(&output));
        assert!(!both(&output).is_empty(), "{arguments:?} says nothing");
    }
    // Out of the environment, and out of a file with a fault in the very line.
    let output = run(tidemark(&["config", "check"]).env("MONGODB_URI", format!("mongo://joe:{PLANTED}@h")));
    ends(&output, 2);
    assert!(!both(&output).contains(PLANTED), "{}", both(&output));
    std::fs::write(Path::new(&config), format!("[mongodb]\nuri = \"mongodb://joe:{PLANTED}@h\n")).unwrap();
    let output = run(&mut tidemark(&["config", "check", "--config", &config]));
    ends(&output, 2);
    assert!(out(&output).contains("in line 2") && !both(&output).contains(PLANTED), "{}", both(&output));
}

const GOLDEN_CHECK: [&str; 11] = [
    "check",
    "--tickets",
    "data/flights-demo.ndjson.zst",
    "--baseline-from",
    "2013-01-01",
    "--baseline-to",
    "2013-03-01",
    "--at",
    "2013-03-22",
    "--window",
    "7d",
];

#[test]
fn a_check_of_a_file_gives_the_golden_figures() {
    let report = json(&run(tidemark(&GOLDEN_CHECK).args(["--output", "json"])));
    let golden: Value = serde_json::from_str(include_str!("golden/flights_weekly.json")).unwrap();
    let look = golden["looks"].as_array().unwrap().iter().find(|look| look["end"].as_str().unwrap().starts_with("2013-03-22")).unwrap();
    assert_eq!(report["rows"], look["rows"]);
    let near = |ours: &Value, theirs: &Value| {
        let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
        assert!((ours - theirs).abs() <= 1e-9 * theirs.abs(), "{ours} {theirs}");
    };
    for (name, feature) in look["features"].as_object().unwrap() {
        // The file's `parameters` are cut, so their size is another.
        if name != "parameters_size" {
            assert_eq!(report["features"][name]["counts"], feature["counts"], "{name}");
            near(&report["features"][name]["psi"], &feature["psi"]);
        }
    }
    near(&report["target"]["ks_hist"], &look["target"]["ks_hist"]);
    near(&report["error"]["mae_ratio"], &look["error"]["mae_ratio"]);
    assert_eq!(report["status"], "warning");
    assert_eq!(report["causes"]["hour_of_day"]["level"], "critical");
}

#[test]
fn a_check_ends_by_what_it_finds() {
    // A few days of flights, so that each try is quick.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tickets.ndjson");
    let text = flights(40_000);
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let check = |more: &[&str]| {
        let mut command = tidemark(&["check", "--tickets", &file, "--baseline-from", "2013-01-01", "--baseline-to", "2013-02-01"]);
        run(command.args(more))
    };
    ends(&check(&["--at", "2013-02-08", "--fail-on", "critical"]), 0);
    let page = check(&["--at", "2013-02-08", "--output", "html"]);
    ends(&page, 0);
    assert!(out(&page).starts_with("<!DOCTYPE html>") || out(&page).starts_with("<!doctype html>"), "{}", &out(&page)[..80]);
    let overlap = check(&["--at", "2013-02-05"]);
    ends(&overlap, 2);
    assert!(both(&overlap).contains("2013-02-08"), "it names the first window that fits: {}", both(&overlap));
    ends(&check(&["--at", "2013-02-08T00:30:00Z"]), 2);
    let none = run(&mut tidemark(&[
        "check",
        "--tickets",
        &file,
        "--baseline-from",
        "2012-01-01",
        "--baseline-to",
        "2012-02-01",
        "--at",
        "2013-02-08",
    ]));
    ends(&none, 5);
    ends(&run(&mut tidemark(&["check", "--tickets", "/no/such/file", "--baseline-from", "2013-01-01", "--baseline-to", "2013-02-01"])), 5);
}

#[test]
fn both_domains_are_drafted_to_specs_that_lack_their_target_alone() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let uri = &mongo().uri; // started here: it cannot be from within a runtime
    runtime.block_on(async {
        let client = mongodb::Client::with_uri_str(uri).await.unwrap();
        let parcels = client.database("command_parcels").collection::<bson::Document>("parcels");
        parcels.insert_many((0..1_000).map(parcels::parcel)).await.unwrap();
    });
    let from_collection = ["spec", "suggest", "--collection", "command_parcels.parcels"];
    let from_file = ["spec", "suggest", "--file", "data/flights-demo.ndjson.zst"];
    let from_parquet = ["spec", "suggest", "--file", "tests/golden/tickets.parquet"];
    for (arguments, target) in
        [(from_file, "actual_duration_ms"), (from_parquet, "actual_duration_ms"), (from_collection, "transit.minutes")]
    {
        let drafted = run(tidemark(&arguments).env("MONGODB_URI", &mongo().uri));
        ends(&drafted, 0);
        let file = directory.path().join("draft.toml");
        std::fs::write(&file, out(&drafted)).unwrap();
        let spec = file.display().to_string();
        let checked = run(&mut tidemark(&["config", "check", "--spec", &spec]));
        ends(&checked, 2);
        assert!(out(&checked).contains("target.paths") && out(&checked).contains("1 fault"), "{}", out(&checked));
        std::fs::write(&file, out(&drafted).replace("\npaths = []\n# Outside", &format!("\npaths = [{target:?}]\n# Outside"))).unwrap();
        ends(&run(&mut tidemark(&["config", "check", "--spec", &spec])), 0);
    }
}

#[test]
fn a_baseline_goes_to_kafka_and_mongodb_once_and_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tickets.ndjson");
    std::fs::write(&file, flights(30_000)).unwrap();
    let file = file.display().to_string();
    let command = |arguments: &[&str]| {
        let mut command = tidemark(arguments);
        command.env("MONGODB_URI", &mongo().uri).env("KAFKA_BOOTSTRAP_SERVERS", &kafka().bootstrap_servers);
        run(command.env("MONGODB_DATABASE", "command_baselines").args(["--topic-prefix", "command-baselines", "--output", "json"]))
    };
    let create = ["baseline", "create", "--from", "2013-01-01", "--to", "2013-01-22", "--file", &file];
    let made = json(&command(&create));
    assert_eq!(
        (&made["written"], &made["in_mongodb"], &made["baseline"]["version"]),
        (&Value::from(true), &Value::from(true), &Value::from(1))
    );
    assert_eq!(json(&command(&create))["written"], false, "the same tickets are the same version");
    let second = json(&command(&["baseline", "create", "--from", "2013-01-01", "--to", "2013-01-29", "--file", &file]));
    assert_eq!(second["baseline"]["version"], 2);
    let listed = json(&command(&["baseline", "list"]));
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(json(&command(&["baseline", "show", "2"])), second["baseline"]);
    ends(&command(&["baseline", "show", "3"]), 5);
    ends(&command(&["baseline", "create", "--from", "2012-01-01", "--to", "2012-02-01", "--file", &file]), 5);

    // Without Kafka a check takes it from MongoDB.
    let mut check = tidemark(&["check", "--tickets", &file, "--at", "2013-02-05", "--output", "json"]);
    let checked = json(&run(check.env("MONGODB_URI", &mongo().uri).env("MONGODB_DATABASE", "command_baselines")));
    assert_eq!(checked["baseline"]["version"], 2);

    let tested = json(&command(&["test-alert"]));
    let alerts = command(&["alerts"]);
    assert!(out(&alerts).contains(tested["id"].as_str().unwrap()), "{}", out(&alerts));
    assert_eq!(json(&command(&["status"])), Value::Null);
    ends(&command(&["alerts", "silence", "--cause", "hour_of_day", "--until", "2099-01-01"]), 0);
    ends(&command(&["alerts", "silence", "--cause", "hour_of_dya", "--until", "2099-01-01"]), 2);
    ends(&command(&["baseline", "accept", "--cause", "hour_of_day"]), 5);
    let connected = command(&["config", "check", "--connect"]);
    ends(&connected, 0);
    let servers = json(&connected)["servers"].clone();
    assert_eq!((&servers[0]["ok"], &servers[1]["ok"], &servers[2]["ok"]), (&Value::from(true), &Value::from(true), &Value::Null));
}
