//! `tidemark train` and `tidemark models` without a server: bad input, models that cannot be used, rollback, planted anomalies.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// When the first ticket completes: 1 January 2025, UTC.
const FIRST_MS: u64 = 1_735_689_600_000;

/// A folder with tickets, and a registry.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, tickets: &[Value]) {
        let lines: String = tickets.iter().map(|ticket| format!("{ticket}\n")).collect();
        std::fs::write(self.path("tickets.ndjson"), lines).unwrap();
    }

    /// Runs the command with nothing in its environment but the registry.
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the command starts")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).env_clear().stdin(Stdio::null()).args(arguments);
        command.env("TIDEMARK_REGISTRY_DIRECTORY", self.path("models"));
        command
    }

    /// Trains on tickets and returns the exit code and the report.
    fn train(&self, tickets: &[Value], more: &[&str]) -> (i32, Value) {
        self.write(tickets);
        let file = self.path("tickets.ndjson");
        let output = self.run(&[&["train", "--file", file.to_str().unwrap(), "--output", "json"], more].concat());
        (output.status.code().unwrap(), json_of(&output))
    }

    fn models(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["models"], arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{}", both(&output));
        json_of(&output)
    }

    fn in_production(&self) -> Vec<u64> {
        let versions = self.models(&["list", "--model", "ticket-duration-predictor"]);
        let there = versions.as_array().unwrap().iter().filter(|version| version["in_production"] == true);
        there.map(|version| version["version"].as_u64().unwrap()).collect()
    }
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", both(output)))
}

/// A number below `bound` that looks random and is always the same (splitmix64).
fn drawn(ticket: u64, what: u64, bound: u64) -> u64 {
    let mut x = ticket.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(what.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % bound
}

/// The `n`th ticket, one every ten minutes: its type decides how long it takes, up to 10 % more or less.
fn ticket(n: u64) -> Value {
    let kind = usize::try_from(n % 3).unwrap();
    let takes = [30_000, 90_000, 200_000][kind] * (90 + drawn(n, 1, 21)) / 100;
    let estimate = [30_000, 90_000, 200_000][kind];
    let task_type = ["BUILD", "TEST", "DEPLOY"][kind];
    let risk = if drawn(n, 2, 2) == 0 { "high" } else { "medium" };
    json!({
        "ticket_id": format!("t{n}"), "status": "COMPLETED", "task_type": task_type, "risk_band": risk,
        "qos": { "delivery_mode": "at_least_once", "consistency": "causal", "durability": "persistent" },
        "required_capabilities": vec!["c"; usize::try_from(2 + drawn(n, 3, 3)).unwrap()],
        "parameters": { "size": "x".repeat(usize::try_from(drawn(n, 4, 40)).unwrap()) },
        "sla": { "timeout_ms": 300_000 }, "estimated_duration_ms": estimate,
        "retry_count": 0, "created_at": FIRST_MS + n * 600_000, "completed_at": FIRST_MS + n * 600_000,
        "actual_duration_ms": takes,
    })
}

pub(crate) fn tickets(numbers: std::ops::Range<u64>, change: impl Fn(u64, &mut Value)) -> Vec<Value> {
    let changed = |n| {
        let mut ticket = ticket(n);
        change(n, &mut ticket);
        ticket
    };
    numbers.map(changed).collect()
}

fn as_they_are(_: u64, _: &mut Value) {}

fn said(report: &Value) -> String {
    format!("{} {} {}", report["summary"], report["notes"], report["advice"])
}

#[test]
fn too_little_data_says_how_many_there_are_how_many_are_needed_and_what_was_left_out() {
    let place = Place::new();
    place.write(&[]);
    let output = place.run(&["train", "--file", place.path("tickets.ndjson").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5), "{}", both(&output));
    assert!(both(&output).contains("has no rows"), "{}", both(&output));

    let (code, report) = place.train(&[ticket(0)], &[]);
    assert_eq!((code, report["valid"].clone()), (1, json!(false)));
    for words in ["1 completed tickets", "at least 100 are needed", "train.min_samples", "train.window_days"] {
        assert!(said(&report).contains(words), "{words}: {report}");
    }
    let without_answer = tickets(0..120, |n, ticket| {
        if n % 4 == 0 {
            ticket["actual_duration_ms"] = Value::Null;
        }
    });
    let (code, report) = place.train(&without_answer, &[]);
    assert!(code == 1 && said(&report).contains("90 completed tickets") && said(&report).contains("30 no_actual"), "{report}");
    let (code, _) = place.train(&without_answer, &["--min-samples=60", "--window-days=540"]);
    assert_eq!(code, 0, "the command's own setting");
    assert_eq!(place.in_production(), [1], "nothing else was registered");
}

#[test]
fn strange_tickets_end_with_a_model_or_with_advice() {
    let place = Place::new();
    let dry = |tickets: &[Value]| place.train(tickets, &["--dry-run"]);
    let (code, equal) = dry(&tickets(0..200, |_, ticket| ticket["actual_duration_ms"] = json!(5_000)));
    assert_eq!(code, 0, "{equal}");
    assert_eq!(equal["models"][0]["candidates"][0]["metrics"]["mae"], 0.0);

    let bare = |n: u64, ticket: &mut Value| {
        let takes = 1_000 + drawn(n, 9, 1_000_000);
        *ticket = json!({ "ticket_id": n, "status": "COMPLETED", "completed_at": ticket["completed_at"], "actual_duration_ms": takes });
    };
    let (code, missing) = dry(&tickets(0..400, bare));
    assert_eq!(code, 1, "{missing}");
    assert!(said(&missing).contains("is missing or unknown in 100 %"), "{missing}");
    assert!(said(&missing).contains("its error is"), "{missing}");

    let ten_orders = |n: u64, ticket: &mut Value| ticket["actual_duration_ms"] = json!(10_u64.pow(u32::try_from(drawn(n, 9, 11)).unwrap()));
    let (code, wide) = dry(&tickets(0..900, ten_orders));
    assert_eq!(code, 1, "{wide}");
    for words in ["most of the error is in task_type", "the model leans on", "train.window_days"] {
        assert!(said(&wide).contains(words), "{words}: {wide}");
    }
    assert!(wide["models"][0]["candidates"][0]["metrics"]["mae"].as_f64().unwrap().is_finite());

    let new_type = |n: u64, ticket: &mut Value| {
        if n >= 330 {
            ticket["task_type"] = json!("INVENTED_TODAY");
            ticket["actual_duration_ms"] = json!(2_000_000);
        }
    };
    let (code, new) = dry(&tickets(0..400, new_type));
    assert!(code == 1 && said(&new).contains("most of the error is in task_type others"), "{new}");
    assert!(!place.path("models").exists(), "a dry run registers nothing");
}

#[test]
fn tickets_that_are_there_twice_or_from_the_future_are_counted_and_left_out() {
    let place = Place::new();
    let mut all = tickets(0..300, as_they_are);
    let expected = place.train(&all, &["--dry-run"]).1;
    all.extend(tickets(0..300, as_they_are));
    all.extend(tickets(300..305, |_, ticket| ticket["completed_at"] = json!(4_102_444_800_000_u64)));
    let (code, report) = place.train(&all, &["--dry-run"]);
    assert_eq!((code, report["rows"].clone(), report["from_the_future"].clone()), (0, json!(300), json!(5)));
    assert!(said(&report).contains("repeated completions: 300") && said(&report).contains("is a clock ahead"), "{report}");
    assert_eq!((&report["id"], &report["at"]), (&expected["id"], &expected["at"]), "the same rows, the same training");
    assert_eq!(report["models"], expected["models"]);
}

#[test]
fn the_same_tickets_are_one_training_and_better_ones_are_promoted_and_rolled_back() {
    let place = Place::new();
    let slow = |_: u64, ticket: &mut Value| ticket["actual_duration_ms"] = json!(ticket["actual_duration_ms"].as_u64().unwrap() * 2);
    assert_eq!(place.train(&tickets(0..600, as_they_are), &[]).1["models"][0]["outcome"], "promoted");
    let (code, again) = place.train(&tickets(0..600, as_they_are), &[]);
    assert_eq!((code, again["models"][0]["outcome"].clone()), (0, json!("already promoted")), "{again}");
    assert_eq!(place.models(&["list", "--model", "ticket-duration-predictor"]).as_array().unwrap().len(), 1);

    let (code, same_world) = place.train(&tickets(0..900, as_they_are), &[]);
    assert_eq!((code, place.in_production()), (0, vec![1]), "valid, but not better: {same_world}");
    let (code, other_world) = place.train(&tickets(900..2_400, slow), &[]);
    assert_eq!((code, place.in_production()), (0, vec![3]), "{other_world}");
    assert!(other_world["models"][0]["reason"].as_str().unwrap().contains("less error than Production"), "{other_world}");

    place.models(&["promote", "2", "--reason", "by hand"]);
    place.models(&["promote", "3"]);
    assert_eq!(place.models(&["rollback"])["version"], 2, "what was there before");
    assert_eq!(place.models(&["rollback"])["version"], 3, "2 took the place of 3");
    let shown = place.models(&["show", "2"]);
    assert_eq!(
        (shown["stage"].clone(), shown["tags"]["tidemark.promotion_reason"].clone()),
        (json!("Archived"), json!("rolled back by command"))
    );
    let nobody = place.run(&["models", "promote", "9"]);
    assert!(nobody.status.code() == Some(5) && both(&nobody).contains("there: 1, 2, 3"), "{}", both(&nobody));
    let nothing = place.run(&["models", "rollback", "--model", "ticket-anomaly-detector"]);
    assert!(nothing.status.code() == Some(5) && both(&nothing).contains("nothing to roll back"), "{}", both(&nothing));
}

#[test]
fn what_is_in_production_stays_when_it_cannot_be_compared_with() {
    let place = Place::new();
    place.train(&tickets(0..600, as_they_are), &[]);
    let slow = |_: u64, ticket: &mut Value| ticket["actual_duration_ms"] = json!(ticket["actual_duration_ms"].as_u64().unwrap() * 2);
    let file = place.path("models/ticket-duration-predictor/1/model/model.onnx");
    let good = std::fs::read(&file).unwrap();
    let config = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/execution-tickets.toml")).unwrap();
    let other_spec = place.path("other.toml");
    std::fs::write(&other_spec, config.replace("default = 0.85", "default = 0.86")).unwrap();

    std::fs::write(&file, b"not what was published").unwrap();
    let (code, damaged) = place.train(&tickets(600..1_500, slow), &[]);
    assert_eq!((code, place.in_production()), (0, vec![1]), "{damaged}");
    assert!(said(&damaged).contains("is not what was published") && said(&damaged).contains("tidemark models promote"), "{damaged}");

    std::fs::write(&file, good).unwrap();
    let (code, foreign) = place.train(&tickets(600..1_400, slow), &["--spec", other_spec.to_str().unwrap()]);
    assert_eq!((code, place.in_production()), (0, vec![1]), "{foreign}");
    assert!(said(&foreign).contains("the model was made for spec"), "{foreign}");

    std::fs::remove_dir_all(place.path("models")).unwrap();
    let (code, emptied) = place.train(&tickets(600..1_500, slow), &[]);
    assert_eq!((code, place.in_production()), (0, vec![1]), "an emptied registry begins anew: {emptied}");
}

#[test]
fn a_registry_that_does_not_answer_is_known_before_anything_is_read() {
    let place = Place::new();
    let mut command = place.command(&["train", "--file", "no-such-file"]);
    let away = command.env("MLFLOW_TRACKING_URI", "http://joe:hunter2@127.0.0.1:1").output().unwrap();
    assert_eq!(away.status.code(), Some(4), "{}", both(&away));
    assert!(both(&away).contains("in MLflow at http://") && !both(&away).contains("hunter2"), "{}", both(&away));
    let none = place.run(&["train", "--file", "no-such-file", "--set", "registry.directory="]);
    assert!(none.status.code() == Some(2) && both(&none).contains("MLFLOW_TRACKING_URI"), "{}", both(&none));
    assert_eq!(place.run(&["train", "--window-days=0"]).status.code(), Some(2));
}

/// The four kinds of the contract, and two that no rule knows.
pub(crate) fn plant(n: u64, ticket: &mut Value) {
    let planted = n % 50 == 7;
    ticket["is_anomaly"] = json!(planted);
    match (planted, drawn(n, 8, 6)) {
        (false, _) => {}
        (true, 0) => {
            ticket["risk_band"] = json!("low");
            ticket["required_capabilities"] = json!(vec!["c"; 14]);
        }
        (true, 1) => {
            ticket["risk_band"] = json!("low");
            ticket["qos"] = json!({ "delivery_mode": "exactly_once", "consistency": "strong", "durability": "ephemeral" });
        }
        (true, 2) => {
            ticket["estimated_duration_ms"] = json!(900_000 + drawn(n, 9, 500_000));
            ticket["sla"]["timeout_ms"] = json!(2_500_000);
        }
        (true, 3) => {
            ticket["required_capabilities"] = json!(vec!["c"; 30]);
            ticket["parameters"] = json!({ "size": "x".repeat(300) });
        }
        (true, 4) => {
            ticket["parameters"] = json!({ "size": "x".repeat(4_000) });
            ticket["retry_count"] = json!(3);
        }
        (true, _) => {
            ticket["retry_count"] = json!(5 + drawn(n, 9, 5));
            ticket["sla"]["timeout_ms"] = json!(1_500_000);
        }
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "its figures are worth a look")]
fn planted_anomalies_are_found_on_later_tickets_and_without_any_precision_is_unknown() {
    let place = Place::new();
    let config = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/execution-tickets.toml")).unwrap();
    let label = "\n[[field]]\nname = \"is_anomaly\"\npaths = [\"is_anomaly\"]\nkind = \"text\"\n\n[anomaly]\nlabel = \"is_anomaly\"\n";
    std::fs::write(place.path("labelled.toml"), config + label).unwrap();
    let spec = place.path("labelled.toml");
    let labelled = ["--spec", spec.to_str().unwrap(), "--set", "train.anomaly_contamination=0.02"];
    let (code, report) = place.train(&tickets(0..5_000, plant), &labelled);
    let model = &report["models"][1];
    let metrics = &model["candidates"][0]["metrics"];
    println!(
        "precision {} recall {} f1 {} base rate {} lift {}",
        metrics["precision"], metrics["recall"], metrics["f1"], metrics["base_rate"], metrics["lift"]
    );
    assert_eq!((code, model["outcome"].clone()), (0, json!("promoted")), "{model}");
    assert!(metrics["precision"].as_f64().unwrap() > 0.75 && metrics["lift"].as_f64().unwrap() > 30.0, "{metrics}");

    let (_, quiet) = place.train(&tickets(5_000..7_000, |_, ticket| ticket["is_anomaly"] = json!(false)), &labelled);
    let model = &quiet["models"][1];
    assert_eq!((&model["outcome"], &model["candidates"][0]["metrics"]["precision"]), (&json!("registered"), &Value::Null));
    assert!(model["reason"].as_str().unwrap().starts_with("precision is unknown: none of the"), "{model}");
    let (_, ruled) = place.train(&tickets(0..2_000, |n, ticket| ticket["estimated_duration_ms"] = json!(1_000_000 * (n % 3))), &[]);
    assert!(ruled["models"][1]["reason"].as_str().unwrap().starts_with("labels are not rare"), "{}", ruled["models"][1]);
}
