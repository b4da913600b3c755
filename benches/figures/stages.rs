//! Stages at full speed: the demo's year in one process, and watch and judge on Kafka.

use std::process::Command;
use std::time::{Duration, Instant};

use tidemark::log::{Log, OffsetCommit, Polled, Record, Transaction};
use tidemark::spec::Spec;
use tidemark::status::Status;
use tidemark::ticket::{KIND, TICKET, Ticket};
use tidemark::topics::Topics;

use super::backlog::Bench;
use super::{Figure, median};
use crate::support;

pub(crate) fn year(runs: usize) -> Vec<Figure> {
    let mut rates = Vec::new();
    for _ in 0..runs {
        let output = Command::new(env!("CARGO_BIN_EXE_tidemark"))
            .args(["demo", "--no-training", "--output", "json"])
            .output()
            .expect("the binary is built");
        assert!(output.status.success(), "the demo failed: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let summary: serde_json::Value = serde_json::from_str(text.lines().last().expect("a summary")).expect("JSON");
        rates.push(summary["totals"]["tickets_per_second"].as_f64().expect("a rate"));
        eprintln!("  {:.0}/s", rates[rates.len() - 1]);
    }
    let value = median(&rates);
    vec![Figure {
        name: "year of flights, tail, watch and judge".to_owned(),
        value,
        unit: "tickets/s",
        baseline: None,
        against: "",
        goal: ">= 100,000 tickets/s",
        holds: value >= 100_000.0,
    }]
}

/// Reads and decodes the topic, writes one record a ticket, in plain transactions. Returns tickets per second.
fn plain(log: &dyn Log, topics: &Topics, spec: &Spec, tickets: u64, name: &str) -> f64 {
    let mut member = log.member(&format!("plain.{name}"), &topics.tickets).expect("the broker is up");
    let mut producer = log.producer(&format!("plain.{name}")).expect("the broker is up");
    let output: std::sync::Arc<str> = format!("plain.{name}").into();
    let mut settings = topics.settings(&tidemark::config::Config::default().topic_plan());
    settings.retain(|topic| topic.name == *topics.prediction_errors);
    settings[0].name = output.to_string();
    log.create_topics(&settings).expect("the broker is up");
    let (mut begun, mut done) = (None, 0);
    while done < tickets {
        match member.poll(Duration::from_millis(500)).expect("the broker is up") {
            Polled::Assigned(partitions) => partitions.into_iter().for_each(|p| member.start(p, 0).expect("the broker is up")),
            Polled::Records(records) => {
                let begun_now = Instant::now();
                let mut transaction = Transaction::default();
                let mut offsets = std::collections::BTreeMap::new();
                for record in records {
                    offsets.insert(record.partition, record.offset + 1);
                    if record.header(KIND) != Some(TICKET.as_bytes()) {
                        continue;
                    }
                    let ticket = Ticket::decode(spec, record.value.as_deref().unwrap_or_default()).expect("tail writes tickets");
                    let mut value = Vec::with_capacity(512);
                    ticket.encode(spec, &mut value);
                    transaction.records.push(Record {
                        topic: output.clone(),
                        partition: record.partition,
                        key: record.key,
                        value: Some(value.into()),
                        headers: Vec::new(),
                    });
                }
                done += transaction.records.len() as u64;
                begun.get_or_insert(begun_now);
                let offsets =
                    offsets.into_iter().map(|(partition, offset)| OffsetCommit { partition, offset, metadata: String::new() }).collect();
                transaction.offsets = member.membership().map(|membership| (membership, offsets));
                producer.transact(transaction).expect("the broker is up");
            }
            Polled::Revoked(_) | Polled::Idle => {}
        }
    }
    tickets as f64 / begun.expect("there were records").elapsed().as_secs_f64()
}

pub(crate) fn watch_judge(runs: usize) -> Vec<Figure> {
    let bench = Bench::start();
    let log = bench.log();
    let spec = Spec::from_toml(include_str!("../../config/execution-tickets.toml")).expect("the spec is in the repository");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 0..runs {
        // A topic of its own for every run: a year of flights, written by tail from the file, then judged against January and February.
        let prefix = format!("stages{run}");
        let topics = Topics::new(&prefix);
        bench.create_baseline(&prefix);
        let tail = bench.run(&prefix, &prefix, "tail", &["--replay", "data/flights-demo.ndjson.zst"]);
        let mut positions = bench.follow(&Topics::new(&prefix).positions);
        let mut last = None;
        while let Some(record) = positions.poll(Duration::from_secs(3)).expect("the broker is up").pop() {
            last = record.value;
        }
        tail.stop();
        let position = tidemark::tail::position::Position::decode(&last.expect("tail wrote a position")).expect("tail writes positions");
        let marks = position.next_mark - 1;
        let partitions = position.tickets.len() as u64;
        let tickets: u64 = position.tickets.iter().map(|head| head.chain.seq).sum::<u64>() - partitions * (marks + 2);

        theirs.push(plain(&log, &topics, &spec, tickets, &prefix));
        let begun = Instant::now();
        let mut statuses = log.follow(&topics.status, &[0]).expect("the topic is there");
        let tidemark = bench.run(&prefix, &prefix, "watch,judge", &[]);
        let mut first = None;
        support::wait_until("the last verdict", Duration::from_secs(300), || {
            let records = statuses.poll(Duration::from_millis(20)).expect("the broker is up");
            let newest = records.last()?;
            first.get_or_insert_with(Instant::now);
            let status: Status = serde_json::from_slice(newest.value.as_deref()?).ok()?;
            (status.mark >= marks).then_some(())
        });
        ours.push(tickets as f64 / begun.elapsed().as_secs_f64());
        tidemark.stop();
        eprintln!("  {:.0}/s from the start of the process ({tickets} tickets, {marks} marks) against {:.0}/s", ours[run], theirs[run]);
    }
    let (value, bare) = (median(&ours), median(&theirs));
    vec![Figure {
        name: "watch and judge, tickets in Kafka to the last verdict".to_owned(),
        value,
        unit: "tickets/s",
        baseline: Some(bare),
        against: "reading, decoding and writing one record a ticket",
        goal: ">= 0.8",
        holds: value >= 0.8 * bare,
    }]
}
