//! The judge over the year of flights: which episodes it finds, when, and what it asks for.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use tidemark::alert::{Alert, Change, EpisodeAlert, Level};
use tidemark::baseline::Baseline;
use tidemark::baseline::builder::{Builder, Making};
use tidemark::clock::{DAY_MS, HOUR_MS, parse_rfc3339, rfc3339};
use tidemark::cloudevent::CloudEvent;
use tidemark::config::Config;
use tidemark::features::{Encoder, Row};
use tidemark::judge;
use tidemark::log::memory::MemoryLog;
use tidemark::log::{Log, Record, Transaction};
use tidemark::stage::{Context, Health, Stop};
use tidemark::status::Status;
use tidemark::summary::{Slice, Summary};
use tidemark::ticket::Mark;
use tidemark::topics::Topics;
use tidemark::trigger::{ClosedBecause, Trigger, TriggerChange, TriggerType};
use tidemark::window::{Counting, Outcome};

use crate::support::flights::{Flight, JANUARY, MARCH, flights, slow_down, spec};

/// Partitions that the summaries come from.
const PARTITIONS: u32 = 2;

struct Found {
    alerts: Vec<EpisodeAlert>,
    triggers: Vec<Trigger>,
    status: Status,
    took: Duration,
    marks: u64,
}

impl Found {
    /// Day of the year's text, cause, change and level of each alert.
    fn told(&self) -> Vec<(String, &str, Change, Level)> {
        self.alerts.iter().map(|alert| (rfc3339(alert.at_ms)[..13].to_owned(), alert.cause.as_str(), alert.change, alert.level)).collect()
    }
}

/// Judges the year with hourly marks from March on, against a baseline of January and February.
fn judge_year(change: fn(&mut Flight, usize)) -> Found {
    let spec = spec();
    let task_type = spec.field("task_type").unwrap();
    let mut builder = Builder::new(&spec, JANUARY, MARCH).unwrap();
    let mut later = Vec::new();
    flights(|mut flight| {
        change(&mut flight, task_type);
        match (flight.ticket.completed_at_ms < MARCH, flight.completed) {
            (true, true) => builder.push(&flight.ticket),
            (true, false) => builder.push_other(&flight.ticket),
            (false, true) => later.push(flight.ticket),
            (false, false) => {}
        }
    });
    let making = Making { version: 1, created_at_ms: 0, window_days: &[1, 3, 7], predecessor: None };
    let baseline = builder.build(&making).unwrap();

    let encoder = Encoder::new(&spec).unwrap();
    let names: Vec<&str> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
    let counting = Counting::new(&encoder, &names, &spec.fingerprint(), &baseline).unwrap();
    let last = later.iter().map(|ticket| ticket.completed_at_ms).max().unwrap();
    let hours = usize::try_from((last - MARCH) / HOUR_MS + 1).unwrap();
    let mut slices = vec![vec![Slice::default(); PARTITIONS as usize]; hours];
    let mut row = Row::default();
    for (number, ticket) in later.iter().enumerate() {
        let hour = usize::try_from((ticket.completed_at_ms - MARCH) / HOUR_MS).unwrap();
        encoder.encode(&ticket.fields, &mut row);
        let outcome = Outcome { completed_at_ms: ticket.completed_at_ms, actual: ticket.actual, predicted: ticket.predicted, late: false };
        counting.add(&encoder, &row, outcome, &mut slices[hour][number % PARTITIONS as usize]);
    }

    let mut summaries = Vec::new();
    for (hour, parts) in slices.into_iter().enumerate() {
        let start_ms = MARCH + i64::try_from(hour).unwrap() * HOUR_MS;
        let mark = Mark { number: hour as u64 + 1, end_ms: start_ms + HOUR_MS, partitions: PARTITIONS, baseline: Some(1) };
        for (partition, slice) in (0..PARTITIONS).zip(parts) {
            summaries.push(Summary {
                spec: spec.name.clone(),
                fingerprint: spec.fingerprint(),
                version: Some(1),
                partition,
                sequence: mark.number,
                mark,
                slices: vec![Slice { start_ms, ..slice }],
                controls: vec![],
                incomplete: false,
                more: false,
            });
        }
    }
    run(&baseline, &summaries)
}

fn run(baseline: &Baseline, summaries: &[Summary]) -> Found {
    let log = MemoryLog::new();
    let config = Config { instance: "year".to_owned(), ..Config::default() };
    let topics = Topics::new("tidemark");
    log.create_topics(&topics.settings(&config.topic_plan())).unwrap();
    let context = Context {
        config: Arc::new(config),
        spec: Arc::new(spec()),
        topics: Arc::new(topics),
        log: Arc::new(log.clone()),
        stop: Stop::default(),
        health: Health::default(),
    };
    let record = |topic: &Arc<str>, key: String, value: Vec<u8>| Record {
        topic: topic.clone(),
        partition: 0,
        key: Some(Bytes::from(key)),
        value: Some(Bytes::from(value)),
        headers: vec![],
    };
    let mut writer = log.producer("writer").unwrap();
    let mut write = |records| writer.transact(Transaction { records, ..Transaction::default() }).unwrap();
    write(vec![record(
        &context.topics.baselines,
        format!("execution-tickets@{}", baseline.version),
        serde_json::to_vec(baseline).unwrap(),
    )]);
    let encoded =
        |summary: &Summary| record(&context.topics.summaries, summary.partition.to_string(), serde_json::to_vec(summary).unwrap());
    write(summaries.iter().map(encoded).collect());

    let last = summaries.last().unwrap().mark.number;
    let begun = std::time::Instant::now();
    let judged = context.clone();
    let judge = std::thread::spawn(move || judge::run(&judged));
    let mut follower = log.follow(&context.topics.status, &[0]).unwrap();
    let mut status: Option<Status> = None;
    while status.as_ref().is_none_or(|status| status.mark < last) {
        assert!(begun.elapsed() < Duration::from_secs(300), "{:?}", context.health.all());
        if let Some(record) = follower.poll(Duration::from_millis(20)).unwrap().pop() {
            status = Some(serde_json::from_slice(&record.value.unwrap()).unwrap());
        }
    }
    let took = begun.elapsed();
    context.stop.ask();
    judge.join().unwrap().unwrap();

    let mut reader = log.reader().unwrap();
    let mut read = |topic: &str| {
        let bounds = reader.bounds(topic, 0).unwrap();
        let mut events = vec![];
        let mut keep = |record| {
            events.push(CloudEvent::from_record(&record).unwrap());
            ControlFlow::Continue(())
        };
        reader.read(topic, 0, bounds.low, bounds.end, &mut keep).unwrap();
        events
    };
    let alerts = read(&context.topics.alerts).into_iter().map(|event| match serde_json::from_slice(&event.data).unwrap() {
        Alert::Episode(alert) => *alert,
        other => panic!("{other:?}"),
    });
    let alerts = alerts.collect();
    let triggers =
        read(&context.topics.retraining_triggers).into_iter().map(|event| serde_json::from_slice(&event.data).unwrap()).collect();
    Found { alerts, triggers, status: status.unwrap(), took, marks: last }
}

fn print(found: &Found) {
    for alert in &found.alerts {
        println!("{} {}", rfc3339(alert.at_ms), alert.summary);
        for carrier in &alert.carriers {
            println!(
                "    {} {}: {:.3} -> {:.3}, part {:.2}, {:?} -> {:?}",
                carrier.column,
                carrier.category,
                carrier.share_before,
                carrier.share_now,
                carrier.part,
                carrier.mean_abs_error_before,
                carrier.mean_abs_error_now
            );
        }
        for advice in &alert.recommendations {
            println!("    * {advice}");
        }
    }
    for t in &found.triggers {
        println!("{} {} {:?} {:?} {} {:?}", rfc3339(t.at_ms), t.id, t.change, t.trigger_type, t.reason, t.closed_because);
    }
    println!("{}\n{:?}\n{:?} for {} marks", found.status.summary, found.status.recommendations, found.took, found.marks);
    let _ = (DAY_MS, parse_rfc3339(""), ClosedBecause::Resolved, TriggerChange::Raised, TriggerType::Drift, found.told());
}

#[test]
fn the_real_year_has_its_clock_change_and_no_episode_of_error() {
    print(&judge_year(|_, _| {}));
}

#[test]
fn the_slow_summer_is_found_told_and_ends() {
    print(&judge_year(slow_down));
}
