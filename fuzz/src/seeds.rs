//! Writes what fuzzing begins with, a folder a target: the hostile tickets of the tests, real records, models and files of the first
//! flights, and the configuration.

#![expect(clippy::unwrap_used, reason = "a seed that cannot be made says where")]

#[path = "../../tests/support/hostile.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod hostile;
mod uncounted;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bson::{RawArrayBuf, RawDocumentBuf, cstr, rawdoc};
use linfa::prelude::{Dataset, DatasetBase, Fit};
use ndarray::Array1;
use serde::Serialize;
use tidemark::alert::Alert;
use tidemark::baseline::Baseline;
use tidemark::baseline::builder::{Builder, Making};
use tidemark::check::Counter;
use tidemark::config::ClockMode;
use tidemark::features::Encoder;
use tidemark::model::anomaly::{self, AnomalyModel};
use tidemark::model::duration::{self, DurationModel};
use tidemark::model_event::ModelEvent;
use tidemark::summary::Summary;
use tidemark::tail::normalise::Normalised;
use tidemark::tail::position::{Head, Position};
use tidemark::tail::replay::Replay;
use tidemark::tail::source::Place;
use tidemark::tail::time::SourceClock;
use tidemark::ticket::{Control, Mark, Ticket};
use tidemark::train::candidate::aggregates;
use tidemark::train::forest::ForestParams;
use tidemark::train::frame::Collecting;
use tidemark::train::isolation::IsolationParams;
use tidemark::trigger::{Trigger, TriggerType};
use tidemark_fuzz::SPEC;

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
/// Tickets that the real records are made of.
const TICKETS: usize = 4_000;

/// As long as an input gets (`-max_len` in script/fuzz): a seed that is longer would be cut off, and read as nothing.
const LONGEST_INPUT: usize = 65_536;
/// Tickets that the baseline is made of, so that it fits.
const BASELINE_TICKETS: usize = 100;

/// The folder of all corpora.
struct Corpora(PathBuf);

impl Corpora {
    fn write(&self, target: &str, name: &str, bytes: &[u8]) {
        assert!(bytes.len() <= LONGEST_INPUT, "{target}/{name} is too long for a seed: {} bytes", bytes.len());
        let folder = self.0.join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
    }

    fn json(&self, target: &str, name: &str, value: &impl Serialize) -> Vec<u8> {
        let json = serde_json::to_vec(value).unwrap();
        self.write(target, name, &json);
        json
    }
}

fn main() {
    let corpora = Corpora(std::env::args().nth(1).expect("a folder to write to").into());
    let tickets = flights();
    documents(&corpora);
    records(&corpora, &tickets);
    files(&corpora);
    models(&corpora, &tickets);
    answers(&corpora);
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn flights() -> Vec<Ticket> {
    let rows = Replay::open(&root().join("data/flights-demo.ndjson.zst"), &SPEC).unwrap();
    let completed = rows.filter_map(|row| match row.unwrap().normalised {
        Normalised::Completed(ticket) => Some(ticket),
        _ => None,
    });
    completed.take(TICKETS).collect()
}

/// Tickets as MongoDB and files have them, and as they are asked about.
fn documents(corpora: &Corpora) {
    for (number, hostile) in hostile::hostile_documents().into_iter().enumerate() {
        let name = format!("{number:03}");
        let (bson, json): (Option<Vec<u8>>, Option<Vec<u8>>) = match hostile.body {
            hostile::Body::Document(document) => (bson::serialize_to_vec(&document).ok(), serde_json::to_vec(&document).ok()),
            hostile::Body::Bson(bytes) => (Some(bytes), None),
            hostile::Body::Json(line) => (None, Some(line)),
        };
        // A reply of a change stream holds it three times; the tests read those that are longer.
        let is_seed = |bytes: &Vec<u8>| bytes.len() <= LONGEST_INPUT / 4;
        if let Some(bson) = bson.filter(is_seed) {
            corpora.write("document", &format!("{name}.bson"), &bson);
            corpora.write("stream", &format!("{name}.bson"), &reply(&bson));
        }
        if let Some(json) = json.filter(is_seed) {
            corpora.write("document", &format!("{name}.json"), &json);
            corpora.write("replay", &format!("{name}.ndjson"), &[&json[..], b"\n"].concat());
            corpora.write("http", &format!("{name}.json"), &[b"0{\"ticket\": ", &json[..], b"}"].concat());
        }
    }
    for (name, body) in [
        ("batch", &br#"1{"tickets": [{"task_type": "BUILD"}, {"retry_count": 4}, {}]}"#[..]),
        ("worker", br#"2{"worker_id": "a"}"#),
        ("workers", br#"2{"worker_ids": ["a", "\u0062"]}"#),
    ] {
        corpora.write("http", name, body);
    }
}

/// What a change stream says of a document: inserted, updated, updated and not looked up, and replaced after it was waiting.
fn reply(document: &[u8]) -> Vec<u8> {
    let document = || RawDocumentBuf::from_bytes(document.to_vec()).unwrap();
    let event = |number: u32, operation: &str, of: Option<RawDocumentBuf>| {
        let token = format!("82{:08X}{number:08X}2B022C0100296E5A1004", 6);
        let stamp = bson::Timestamp { time: 6, increment: number };
        let mut event =
            rawdoc! { "_id": { "_data": token }, "operationType": operation, "clusterTime": stamp, "documentKey": { "_id": 7 } };
        if let Some(document) = of {
            event.append(cstr!("fullDocument"), document);
        }
        event
    };
    let mut replaced = event(4, "replace", Some(document()));
    replaced.append(cstr!("fullDocumentBeforeChange"), rawdoc! { "status": "EXECUTING" });
    let update = event(2, "update", Some(document()));
    let batch = RawArrayBuf::from_iter([event(1, "insert", Some(document())), update, event(3, "update", None), replaced]);
    let token = rawdoc! { "_data": "8200000007000000002B0229296E04" };
    rawdoc! { "cursor": { "nextBatch": batch, "postBatchResumeToken": token, "id": 1_i64 }, "ok": 1.0 }.into_bytes()
}

/// Records as the stages write them.
fn records(corpora: &Corpora, tickets: &[Ticket]) {
    let (from_ms, to_ms) = (tickets[0].completed_at_ms / DAY_MS * DAY_MS, tickets[tickets.len() - 1].completed_at_ms + 1);
    let mut ticket = Vec::new();
    tickets[0].encode(&SPEC, &mut ticket);
    corpora.write("records", "ticket", &ticket);

    let mut builder = Builder::new(&SPEC, from_ms, to_ms).unwrap();
    tickets.iter().take(BASELINE_TICKETS).for_each(|ticket| builder.push(ticket));
    let baseline = builder.build(&Making { version: 1, created_at_ms: 0, window_days: &[1, 3], predecessor: None }).unwrap();
    let mut json = corpora.json("baseline", "whole", &baseline);
    corpora.write("document", "baseline.bson", &bson::serialize_to_vec(&baseline.to_document()).unwrap());
    let mut counter = Counter::new(&SPEC, &Baseline { to_ms: 0, ..baseline }, HOUR_MS, (from_ms, to_ms)).unwrap();
    tickets.iter().for_each(|ticket| counter.push(ticket));
    let mark = Mark { number: 7, end_ms: to_ms, partitions: 2, baseline: Some(1) };
    let text = |text: &str| text.to_owned();
    let controls = [
        Control::Mark(mark),
        Control::Gap { id: text("g"), from_ms: 1, to_ms: 2, reason: text("forgotten") },
        Control::Baseline { id: text("b"), version: 1 },
        Control::Silence { id: text("s"), cause: text("error"), until_ms: 9 },
        Control::Accept { id: text("a"), cause: text("error") },
        Control::ChainStart { id: text("c"), spec: SPEC.name.clone(), fingerprint: SPEC.fingerprint(), partitions: 2 },
    ];
    for control in &controls {
        corpora.json("records", control.kind(), control);
    }
    let summary = Summary {
        spec: SPEC.name.clone(),
        fingerprint: SPEC.fingerprint(),
        version: Some(1),
        partition: 0,
        sequence: 9,
        mark,
        slices: counter.slices().into_iter().take(3).collect(),
        controls: controls[1..].to_vec(),
        incomplete: true,
        more: true,
    };
    let summary = corpora.json("records", "summary", &summary);
    json.extend(b"\n\n");
    json.extend(summary);
    corpora.write("baseline", "with-summary", &json);

    let place = Place::Stream { token: bytes::Bytes::from_static(b"\x05\0\0\0\0"), time: (7, 8), index: 2 };
    let position = Position {
        spec: SPEC.name.clone(),
        fingerprint: SPEC.fingerprint(),
        source: text("file"),
        place,
        history: None,
        gap_told_ms: Some(7),
        tickets: vec![Head::begin("a", 0), Head::begin("b", 7)],
        dead_letters: vec![Head::begin("c", 0), Head::begin("d", 0)],
        clock: SourceClock::new(ClockMode::Auto),
        next_mark: 1,
        next_end_ms: Some(HOUR_MS),
        baseline: Some(3),
        baselines_offset: 4,
        model_events_offset: 5,
    };
    corpora.write("records", "position", &position.encode());
    let trigger = Trigger::unprompted(text("t"), &SPEC, TriggerType::Manual, 4, text("by hand"), 7);
    corpora.json("records", "trigger", &trigger);
    let silence = ModelEvent::Silence { id: text("s1"), spec: text("x"), cause: text("error"), until_ms: 7 };
    corpora.write("records", "silence", &silence.encode());
    let gap = Alert::Gap {
        spec: text("x"),
        control: text("g"),
        from_ms: 1,
        to_ms: 2,
        reason: text("forgotten"),
        recommendations: vec![text("look")],
    };
    corpora.json("records", "gap-alert", &gap);
    let headers = "key: a\nce_specversion: 1.0\nce_id: i\nce_source: /tidemark/x\nce_type: tidemark.alert.opened.v1\nce_time: 2013-03-17T06:00:00.123Z\nce_subject: error\nkind: ticket\nchain: fuzz:2:00112233445566778899aabbccddeeff\n\n";
    corpora.write("records", "headers", &[headers.as_bytes(), &ticket].concat());
}

/// Files that a person writes or hands over.
fn files(corpora: &Corpora) {
    for file in ["execution-tickets.toml", "parcel-deliveries.toml", "tidemark.toml"] {
        corpora.write("config", file, &fs::read(root().join("config").join(file)).unwrap());
    }
    for (name, text) in
        [("uri", "[mongodb]\nuri = \"mongodb://joe:hunter2@h:27017/?tls=true\""), ("webhook", "https://joe:hunter2@h/x?y=z")]
    {
        corpora.write("config", name, text.as_bytes());
    }
    for file in ["tickets.parquet", "tickets-flat.parquet"] {
        corpora.write("replay", file, &fs::read(root().join("tests/golden").join(file)).unwrap());
    }
    let line = br#"{"ticket_id": "a", "status": "COMPLETED", "completed_at": 1362898861000, "actual_duration_ms": 60000}"#;
    let lines = [&line[..], b"\n", line, b"\n"].concat();
    corpora.write("replay", "lines", &lines);
    let mut child = std::process::Command::new("gzip")
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&lines).unwrap();
    corpora.write("replay", "lines.gz", &child.wait_with_output().unwrap().stdout);
}

/// Models as trainings leave them, but with few and small trees.
fn models(corpora: &Corpora, tickets: &[Ticket]) {
    let mut collecting = Collecting::new(Arc::new(Encoder::new(&SPEC).unwrap()));
    tickets.iter().take(300).for_each(|ticket| collecting.push(ticket));
    let frame = collecting.frame();
    let learned = aggregates(&frame, &SPEC, 0..300);
    let inputs = frame.inputs(0..300, &learned);
    let (spec, fingerprint) = (SPEC.name.clone(), SPEC.fingerprint());
    let features: Vec<String> = SPEC.features.iter().map(|feature| feature.name.clone()).collect();

    let rows = Dataset::new(inputs.clone(), Array1::from(frame.actual().to_vec()));
    let forest = ForestParams::default().trees(2).depth(3).fit(&rows).unwrap().forest;
    let card = duration::Card {
        spec: spec.clone(),
        fingerprint: fingerprint.clone(),
        features: features.clone(),
        learned: learned.clone(),
        interval: Some((0.8, 1.25)),
        coverage: None,
        mae: 1.0,
        data_ms: (0, 1),
        rows: 300,
    };
    corpora.write("model", "duration", &DurationModel::new(forest, 1_000.0, card).to_bytes(&SPEC.target.name).unwrap());

    let forest = IsolationParams::default().trees(2).sample_rows(16).fit(&DatasetBase::from(inputs)).unwrap();
    let card = anomaly::Card { spec, fingerprint, features, learned, contamination: 0.05, precision: None, data_ms: (0, 1), rows: 300 };
    corpora.write("model", "anomaly", &AnomalyModel::new(forest, card).to_bytes().unwrap());
    corpora.write("model", "other", &fs::read(root().join("tests/golden/three_features.onnx")).unwrap());
}

/// What MLflow answers, in the order in which it is asked, and what a local registry keeps.
fn answers(corpora: &Corpora) {
    let model = r#"{"registered_model": {"name": "m", "aliases": [{"alias": "Production", "version": "4"}], "tags": [{"key": "tidemark.production", "value": "3"}]}}"#;
    let version = r#"{"version": "4", "source": "mlflow-artifacts:/1/r/artifacts/model", "run_id": "r", "current_stage": "Production", "last_updated_timestamp": "5", "tags": [{"key": "tidemark.sha256/model/model.onnx", "value": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}]}"#;
    let search = format!(r#"{{"model_versions": [{version}], "next_page_token": "n"}}"#);
    let get = format!(r#"{{"model_version": {version}}}"#);
    let refused = r#"404{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no\nsuch"}"#;
    for (name, parts) in [
        ("found", vec![model, &search, &get]),
        ("pages", vec![&search, model]),
        ("refused", vec![refused]),
        ("got", vec![&get, "x"]),
        ("gone", vec![&get, refused]),
    ] {
        corpora.write("registry", name, parts.join("\n\n").as_bytes());
    }
    let page = r#"{"description": "d", "production": 1, "reason": "r", "newest": 1}"#;
    let meta = serde_json::json!({
        "run_id": "r", "run_name": "n", "description": "d", "created_ms": 1, "start_ms": 1, "end_ms": 2, "params": {}, "metrics": {"a": 1.5, "b": "NaN"},
        "tags": BTreeMap::from([("tidemark.key", "k"), ("tidemark.sha256.meta.json", "0")]),
    });
    corpora.write("registry", "local", format!("{page}\n\n{meta}").as_bytes());
}
