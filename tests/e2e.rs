//! The whole of it, as the README shows it: tickets complete in a real MongoDB, and a client that is not ours reads the
//! verdicts from a real Kafka.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::sync::OnceLock;
use std::time::Duration;

use bson::{Bson, Document};

use crate::support::flights::{JANUARY, MARCH};
use crate::support::{Deployment, Seen, wait_until};

/// 2013-04-01, UTC: three weeks after New York's clocks moved.
const APRIL: i64 = 1_364_774_400_000;
const HOUR_MS: i64 = 3_600_000;
/// A killed member's partitions are another's after its session's six seconds; the machine may be busy besides.
const LIMIT: Duration = Duration::from_mins(2);
const LATENESS_MS: i64 = 600_000;

/// The flights that ended before April, as MongoDB holds them, in order of completion.
fn documents() -> &'static [Document] {
    static FLIGHTS: OnceLock<Vec<Document>> = OnceLock::new();
    FLIGHTS.get_or_init(|| {
        let file = std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/data/flights-demo.ndjson.zst")).unwrap();
        let lines = BufReader::new(zstd::Decoder::new(file).unwrap()).lines();
        let documents = lines.map(|line| {
            let json: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            bson::serialize_to_document(&json).unwrap()
        });
        documents
            .filter(|document| document.get_i64("completed_at").is_ok())
            .take_while(|document| completed_at(document) < APRIL)
            .collect()
    })
}

pub(crate) fn completed_at(document: &Document) -> i64 {
    match document.get("completed_at") {
        Some(Bson::Int64(ms)) => *ms,
        other => panic!("a flight ends at a number of ms, not {other:?}"),
    }
}

/// The flights before March, which the baseline is made of, and those of March, which live through the stages.
pub(crate) fn halves() -> (&'static [Document], &'static [Document]) {
    let documents = documents();
    documents.split_at(documents.partition_point(|document| completed_at(document) < MARCH))
}

/// Returns the end of the last slice that `documents` end, under the tickets clock.
pub(crate) fn last_mark(documents: &[Document]) -> i64 {
    let mut times: Vec<i64> = documents.iter().map(completed_at).collect();
    times.sort_unstable();
    (times[times.len() - 20] - LATENESS_MS).div_euclid(HOUR_MS) * HOUR_MS
}

pub(crate) fn make_baseline_from_file(deployment: &Deployment) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/flights-demo.ndjson.zst");
    deployment.command(&["baseline", "create", "--from", "2013-01-01", "--to", "2013-03-01", "--file", file]);
}

fn of<'s>(seen: &'s [Seen], topic: &'static str) -> impl Iterator<Item = &'s Seen> {
    seen.iter().filter(move |record| record.topic.rsplit('.').next() == Some(topic))
}

fn tickets(seen: &[Seen]) -> impl Iterator<Item = &Seen> {
    of(seen, "tickets").filter(|record| record.headers["kind"] == "ticket")
}

/// Everything that a consumer acts on, in order, as it was written.
fn verdicts(seen: &[Seen]) -> Vec<String> {
    let topics = ["status", "alerts", "retraining-triggers"].into_iter();
    let records = topics.flat_map(|topic| of(seen, topic));
    records
        .map(|record| {
            let id = record.headers.get("ce_id").map_or("", String::as_str);
            format!("{} {:?} {id} {}", record.topic.rsplit('.').next().unwrap(), record.key, record.value.as_deref().unwrap_or("-"))
        })
        .collect()
}

fn assert_each_once(seen: &[Seen], inserted: &[Document]) {
    let ids: Vec<String> = tickets(seen).map(|record| record.key.clone().expect("a ticket has a key")).collect();
    let distinct: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(ids.len(), distinct.len(), "no ticket is there twice");
    assert_eq!(distinct.len(), inserted.len(), "no ticket is missing");
    let predicted = tickets(seen).filter(|record| record.json().get("predicted").is_some()).count();
    let sources: BTreeSet<&String> = of(seen, "prediction-errors").map(|record| &record.headers["source"]).collect();
    assert_eq!(of(seen, "prediction-errors").count(), predicted, "one prediction error a prediction");
    assert_eq!(sources.len(), predicted, "each from another ticket");
}

fn assert_same_verdicts(seen: &[Seen]) {
    let (theirs, ours) = (verdicts(undisturbed()), verdicts(seen));
    for (at, (undisturbed, here)) in theirs.iter().zip(&ours).enumerate() {
        assert_eq!(undisturbed, here, "record {at} differs");
    }
    assert_eq!(theirs.len(), ours.len());
}

/// What is in the topics after March went through one partition and one process without a disturbance.
fn undisturbed() -> &'static [Seen] {
    static SEEN: OnceLock<Vec<Seen>> = OnceLock::new();
    SEEN.get_or_init(|| {
        let deployment = Deployment::new("undisturbed", 1);
        let (before, march) = halves();
        deployment.insert(before);
        deployment.command(&["baseline", "create", "--from", "2013-01-01", "--to", "2013-03-01"]);
        let process = deployment.start("one", &["run"]);
        process.wait_for("tail");
        deployment.insert(march);
        let seen = deployment.read(Some(last_mark(march)));
        let (status, metrics) = process.get("/metrics").expect("it answers");
        assert_eq!(status, 200);
        for name in ["orchestration_ml_drift_overall_status", "orchestration_ml_drift_check_timestamp", "tidemark_tail_tickets_total"] {
            assert!(metrics.contains(name), "{name} is not in\n{metrics}");
        }
        process.stop();
        seen
    })
}

#[test]
fn tickets_complete_in_mongodb_and_a_foreign_client_reads_the_alarm() {
    let seen = undisturbed();
    let (before, march) = halves();
    assert_each_once(seen, march);
    assert!(completed_at(&before[0]) >= JANUARY);

    let last = of(seen, "status").last().expect("there is a status").json();
    assert_eq!(last["baseline"], 1);
    assert_eq!(last["at_ms"], last_mark(march));
    let alarm = of(seen, "alerts").find(|alert| alert.key.as_deref() == Some("hour_of_day")).expect("the clocks moved");
    assert_eq!(alarm.headers["ce_type"], "tidemark.alert.opened.v1");
    assert!(alarm.json()["summary"].as_str().is_some_and(|summary| summary.contains("hour_of_day")), "{alarm:?}");
    let marks = of(seen, "tickets").filter(|record| record.headers["kind"] == "mark");
    let ends: BTreeSet<i64> = marks.map(|mark| mark.json()["end_ms"].as_i64().unwrap()).collect();
    assert_eq!(i64::try_from(ends.len()).unwrap(), (ends.last().unwrap() - ends.first().unwrap()) / HOUR_MS + 1, "no slice is left out");
}

/// How much of its own work a process has done, by stage.
const WORK: [(&str, &str); 3] =
    [("tail", "tidemark_tail_tickets_total"), ("watch", "tidemark_watch_tickets_total"), ("judge", "tidemark_judge_verdicts_total")];

#[test]
fn seven_partitions_and_one_process_then_three_then_one_come_to_the_same_verdicts() {
    let deployment = Deployment::new("three", 7);
    let (_, march) = halves();
    make_baseline_from_file(&deployment);
    let [first_part, second_part, third_part, fourth_part] = march.chunks(march.len().div_ceil(4)).collect::<Vec<_>>()[..] else {
        panic!("four parts")
    };

    let first = deployment.start("one", &["run"]);
    first.wait_for("tail");
    deployment.insert(first_part);
    let [second, third] = ["two", "three"].map(|instance| deployment.start(instance, &["run"]));
    [&second, &third].iter().for_each(|process| process.wait_for("watch"));
    deployment.insert(second_part);
    for process in [&first, &second, &third] {
        wait_until("each watches a part", LIMIT, || (process.metric(WORK[1].1) > 0).then_some(()));
    }
    // Who leads goes first: tail and judge move, and the partitions are dealt anew.
    first.stop();
    deployment.insert(third_part);
    let watched = third.metric(WORK[1].1);
    wait_until("the third goes on", LIMIT, || (third.metric(WORK[1].1) > watched).then_some(()));
    second.stop();
    deployment.insert(fourth_part);

    let seen = deployment.read(Some(last_mark(march)));
    assert!(third.is_alive());
    assert_each_once(&seen, march);
    assert_same_verdicts(&seen);
}

#[test]
fn each_stage_killed_at_ten_places_changes_nothing() {
    const PLACES: usize = 10;
    let deployment = Deployment::new("killed", 4);
    let (_, march) = halves();
    make_baseline_from_file(&deployment);
    let start = |stage: &str| deployment.start(stage, &["run", "--stages", stage]);
    let mut processes = WORK.map(|(stage, _)| Some(start(stage)));
    processes[0].as_ref().expect("it was started").wait_for("tail");

    let parts: Vec<_> = march.chunks(march.len().div_ceil(PLACES * WORK.len())).collect();
    assert_eq!(parts.len(), PLACES * WORK.len());
    for (place, part) in parts.into_iter().enumerate() {
        let at = place % WORK.len();
        let (stage, work) = WORK[at];
        let process = processes[at].take().expect("it was started");
        let before = process.metric(work);
        deployment.insert(part);
        // In the middle of the part: what it has begun is not done.
        wait_until(stage, LIMIT, || (process.metric(work) > before).then_some(()));
        process.kill();
        processes[at] = Some(start(stage));
    }

    let seen = deployment.read(Some(last_mark(march)));
    assert_each_once(&seen, march);
    assert_same_verdicts(&seen);
}
