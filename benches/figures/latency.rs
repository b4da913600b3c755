//! From a write that MongoDB has acknowledged to what a read_committed consumer sees, at 1,000 tickets/s.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bson::Document;
use mongodb::options::{Acknowledgment, WriteConcern};
use tidemark::alert::Alert;
use tidemark::log::{Delivered, Follower, Log};
use tidemark::ticket::{Control, KIND, TICKET};
use tidemark::topics::Topics;

use super::backlog::{Bench, flights};
use super::{Figure, quantile};
use crate::support;

/// Tickets a second.
const RATE: u32 = 1_000;
/// Tickets in one run.
const TICKETS: usize = 10_000;

/// Follows a topic in a thread of its own and sends what comes with the instant it was seen.
pub(super) fn spy(mut follower: Box<dyn Follower>) -> mpsc::Receiver<(Instant, Delivered)> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(records) = follower.poll(Duration::from_millis(100)) {
            let seen = Instant::now();
            if records.into_iter().any(|record| sender.send((seen, record)).is_err()) {
                return;
            }
        }
    });
    receiver
}

/// Inserts tickets one by one at [`RATE`], majority-acknowledged; returns when each was acknowledged, by id.
pub(super) async fn insert_paced(client: &mongodb::Client, database: &str, documents: Vec<Document>) -> HashMap<String, Instant> {
    let concern = WriteConcern::builder().w(Acknowledgment::Majority).build();
    let collection = client.database(database).collection::<Document>("execution_tickets");
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut writes = tokio::task::JoinSet::new();
    for mut document in documents {
        ticks.tick().await;
        document.insert("completed_at", bson::DateTime::now());
        let (collection, concern) = (collection.clone(), concern.clone());
        writes.spawn(async move {
            let id = document.get_str("_id").expect("flights have text ids").to_owned();
            collection.insert_one(document).write_concern(concern).await.expect("mongod takes the flight");
            (id, Instant::now())
        });
    }
    writes.join_all().await.into_iter().collect()
}

/// Returns copies of flights that complete when they are inserted, with ids of their own.
pub(super) fn fresh(run: &str, count: usize) -> Vec<Document> {
    flights(count)
        .into_iter()
        .enumerate()
        .map(|(n, mut document)| {
            let id = format!("{run}-{n}");
            document.insert("_id", &id);
            document.insert("ticket_id", &id);
            document.remove("completed_at");
            document
        })
        .collect()
}

pub(crate) fn ticket(runs: usize) -> Vec<Figure> {
    let bench = Bench::start();
    let client = bench.client();
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let prefix = format!("latency{run}");
        let tidemark = bench.run(&prefix, &prefix, "tail", &[]);
        let mut positions = bench.follow(&Topics::new(&prefix).positions);
        support::wait_until("tail commits its position", Duration::from_secs(60), || {
            positions.poll(Duration::from_millis(100)).ok().filter(|records| !records.is_empty())
        });
        let log = bench.log();
        let topic = Topics::new(&prefix).tickets;
        let partitions = log.partitions(&topic).expect("the topic is there") as usize;
        let seen = spy(log.follow(&topic, &vec![0; partitions]).expect("the topic is there"));
        let acknowledged = bench.runtime.block_on(insert_paced(&client, &prefix, fresh(&prefix, TICKETS)));
        let mut delays = Vec::with_capacity(TICKETS);
        while delays.len() < TICKETS {
            let (at, record) = seen.recv_timeout(Duration::from_secs(30)).expect("every ticket becomes visible");
            if record.header(KIND) == Some(TICKET.as_bytes()) {
                let id = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
                // Visible before the acknowledgement has reached the writer counts as at once.
                delays.push(at.saturating_duration_since(acknowledged[&id]).as_secs_f64() * 1e3);
            }
        }
        tidemark.stop();
        p50.push(quantile(&delays, 0.5));
        p99.push(quantile(&delays, 0.99));
        eprintln!("  p50 {:.2} ms, p99 {:.2} ms", p50[run], p99[run]);
    }
    figures("insert acknowledged to ticket visible", &p50, &p99, [4.0, 12.0], ["<= 4 ms", "<= 12 ms"])
}

/// Seconds of tickets in one run.
const SECONDS: usize = 40;
/// Seconds before the first drift, and between two.
const DRIFT_EVERY: usize = 3;

/// What changes, one after the other: each opens an episode of its own some looks later, and escalates it.
const DRIFTS: [(&str, &str); 11] = [
    ("", "risk_band"),
    ("", "task_type"),
    ("qos", "delivery_mode"),
    ("qos", "consistency"),
    ("qos", "durability"),
    ("", "retry_count"),
    ("sla", "timeout_ms"),
    ("", "estimated_duration_ms"),
    ("", "required_capabilities"),
    ("", "parameters"),
    ("", "actual_duration_ms"),
];

/// Lets a ticket of that second be as all the drifts before it make it.
fn drift(document: &mut Document, second: usize) {
    for (parent, name) in DRIFTS.iter().take(second / DRIFT_EVERY) {
        let value = match *name {
            "retry_count" => 5.into(),
            "timeout_ms" | "estimated_duration_ms" | "actual_duration_ms" => 90_000_000_i64.into(),
            "required_capabilities" => bson::Bson::Array(vec!["one".into(); 12]),
            "parameters" => bson::doc! { "one": "another" }.into(),
            _ => "another".into(),
        };
        let document = if parent.is_empty() { &mut *document } else { document.get_document_mut(parent).expect("flights have it") };
        document.insert(*name, value);
    }
}

pub(crate) fn alert(runs: usize) -> Vec<Figure> {
    let bench = Bench::start();
    let client = bench.client();
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let prefix = format!("alert{run}");
        bench.create_baseline(&prefix);
        // No window of days is full within a minute: the bare rule, which needs none, looks at what there is.
        let seconds = [
            "--set",
            "window.slice_ms=1000",
            "--set",
            "window.lateness_ms=0",
            "--set",
            "tail.clock=commit",
            "--set",
            "judge.decision=thresholds",
        ];
        let tidemark = bench.run(&prefix, &prefix, "tail,watch,judge", &seconds);
        let mut positions = bench.follow(&Topics::new(&prefix).positions);
        support::wait_until("tail commits its position", Duration::from_secs(60), || {
            positions.poll(Duration::from_millis(100)).ok().filter(|records| !records.is_empty())
        });
        let (log, topics) = (bench.log(), Topics::new(&prefix));
        let partitions = log.partitions(&topics.tickets).expect("the topic is there") as usize;
        let tickets = spy(log.follow(&topics.tickets, &vec![0; partitions]).expect("the topic is there"));
        let alerts = spy(bench.follow(&topics.alerts));
        let summaries = spy(bench.follow(&topics.summaries));
        let statuses = spy(bench.follow(&topics.status));
        let mut documents = fresh(&prefix, SECONDS * RATE as usize);
        for (n, document) in documents.iter_mut().enumerate() {
            drift(document, n / RATE as usize);
        }
        bench.runtime.block_on(insert_paced(&client, &prefix, documents));
        let mut marks: HashMap<u64, Instant> = HashMap::new();
        while let Ok((at, record)) = tickets.recv_timeout(Duration::from_secs(3)) {
            if let Some(Ok(Control::Mark(mark))) = record.value.as_deref().filter(|_| record.key.is_none()).map(serde_json::from_slice) {
                marks.entry(mark.number).or_insert(at);
            }
        }
        let counted = last_seen(&summaries);
        let judged = last_seen(&statuses);
        let between = |from: &HashMap<u64, Instant>, to: &HashMap<u64, Instant>| {
            let delays = from.iter().filter_map(|(mark, at)| Some(to.get(mark)?.saturating_duration_since(*at).as_secs_f64() * 1e3));
            let delays: Vec<f64> = delays.collect();
            format!("{:.1} and {:.1} ms", quantile(&delays, 0.5), quantile(&delays, 0.99))
        };
        let to = [between(&marks, &counted), between(&counted, &judged)];
        eprintln!("  of every mark, p50 and p99: {} until its summaries are visible, {} more until its status is", to[0], to[1]);
        let mut delays = Vec::new();
        while let Ok((at, record)) = alerts.try_recv() {
            if let Ok(Alert::Episode(episode)) = serde_json::from_slice(record.value.as_deref().unwrap_or_default()) {
                delays.push(at.saturating_duration_since(marks[&episode.mark]).as_secs_f64() * 1e3);
            }
        }
        tidemark.stop();
        assert!(delays.len() >= DRIFTS.len(), "each drift raises an alert: there are {}", delays.len());
        p50.push(quantile(&delays, 0.5));
        p99.push(quantile(&delays, 0.99));
        eprintln!("  {} alerts: p50 {:.2} ms, p99 {:.2} ms", delays.len(), p50[run], p99[run]);
    }
    figures("end of slice visible to alert visible", &p50, &p99, [20.0, 60.0], ["<= 20 ms", "<= 60 ms"])
}

/// Returns when the last record of each mark was seen.
fn last_seen(seen: &mpsc::Receiver<(Instant, Delivered)>) -> HashMap<u64, Instant> {
    let mark = |record: &Delivered| {
        let value: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default()).ok()?;
        value["mark"].as_u64().or_else(|| value["mark"]["number"].as_u64())
    };
    seen.try_iter().filter_map(|(at, record)| Some((mark(&record)?, at))).collect()
}

fn figures(name: &str, p50: &[f64], p99: &[f64], limits: [f64; 2], goals: [&'static str; 2]) -> Vec<Figure> {
    let figure = |what: &str, values: &[f64], limit: f64, goal| {
        let value = super::median(values);
        Figure { name: format!("{name}, {what}"), value, unit: "ms", baseline: None, against: "", goal, holds: value <= limit }
    };
    vec![figure("p50", p50, limits[0], goals[0]), figure("p99", p99, limits[1], goals[1])]
}
