//! The judge over the year of flights: which episodes it finds, when, and what it asks for.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use tidemark::alert::{Alert, Change, EpisodeAlert, Level};
use tidemark::baseline::Baseline;
use tidemark::clock::{DAY_MS, HOUR_MS, parse_rfc3339, rfc3339};
use tidemark::cloudevent::CloudEvent;
use tidemark::config::Config;
use tidemark::judge;
use tidemark::log::memory::MemoryLog;
use tidemark::log::{Log, Record, Transaction};
use tidemark::stage::{Context, Health, Stop};
use tidemark::status::Status;
use tidemark::summary::{Slice, Summary};
use tidemark::ticket::Mark;
use tidemark::topics::Topics;
use tidemark::trigger::{ClosedBecause, Trigger, TriggerChange, TriggerType};

use crate::support::flights::{Flight, MARCH, Year, slow_down, spec};

/// Partitions that the summaries come from.
const PARTITIONS: u32 = 2;

struct Found {
    alerts: Vec<EpisodeAlert>,
    triggers: Vec<Trigger>,
    status: Status,
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
    let year = Year::read(change);
    let spec = &year.spec;
    let last = year.later.iter().map(|ticket| ticket.completed_at_ms).max().unwrap();
    let hours = usize::try_from((last - MARCH) / HOUR_MS + 1).unwrap();
    let mut slices = vec![vec![Slice::default(); PARTITIONS as usize]; hours];
    year.count(|number, ticket, count| {
        let hour = usize::try_from((ticket.completed_at_ms - MARCH) / HOUR_MS).unwrap();
        count(&mut slices[hour][number % PARTITIONS as usize]);
    });

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
    run(&year.baseline, &summaries)
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
        registry: None,
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
    Found { alerts, triggers, status: status.unwrap(), marks: last }
}

/// Start of an hour of the year, as alerts tell it.
fn hour(text: &str) -> i64 {
    parse_rfc3339(&format!("{text}:00:00Z")).unwrap()
}

/// When episodes reached their critical level, and when those ended, by cause.
fn critical(found: &Found) -> Vec<(String, &str, Change)> {
    let told = found.told().into_iter();
    told.filter(|(_, _, _, level)| *level == Level::Critical).map(|(at, cause, change, _)| (at, cause, change)).collect()
}

fn told<'a>(found: &'a Found, cause: &str, change: Change) -> &'a EpisodeAlert {
    found.alerts.iter().find(|alert| alert.cause == cause && alert.change == change && alert.level == Level::Critical).unwrap()
}

fn triggers(found: &Found) -> Vec<(String, TriggerChange, TriggerType, u8, Option<ClosedBecause>)> {
    let each = found.triggers.iter().filter(|trigger| trigger.change != TriggerChange::Due);
    each.map(|t| (rfc3339(t.at_ms)[..13].to_owned(), t.change, t.trigger_type, t.priority, t.closed_because)).collect()
}

fn at(hour: &str) -> String {
    hour.to_owned()
}

/// New York's clocks moved on 10 March at 07:00 UTC; the first flights that show it land at 10:00.
fn the_clock_change_is_found(found: &Found) {
    let alert = told(found, "hour_of_day", Change::Escalated);
    assert_eq!(rfc3339(alert.at_ms), "2013-03-16T18:00:00.000Z", "155 hours after the clocks moved");
    let off_hours = (alert.onset_ms.unwrap() - hour("2013-03-10T10")) / HOUR_MS;
    assert!((-1..=1).contains(&off_hours), "{}", alert.summary);
    assert!(alert.recommendations[0].contains("looks like a clock change"), "{:?}", alert.recommendations);
    assert_eq!(alert.status, Level::Warning, "a single cause is a warning over all");
    assert!(alert.evidence.iter().all(|look| look.decides && look.calibrated_p.unwrap() < look.alpha.unwrap()));
}

#[test]
fn the_real_year_has_its_clock_change_a_week_of_retries_and_no_episode_of_error() {
    let found = judge_year(|_, _| {});
    the_clock_change_is_found(&found);
    use Change::{Escalated, Resolved};
    assert_eq!(
        critical(&found),
        [
            (at("2013-03-16T18"), "hour_of_day", Escalated),
            (at("2013-07-01T12"), "retry_count", Escalated),
            (at("2013-07-05T23"), "retry_count", Resolved),
            (at("2013-11-05T12"), "hour_of_day", Resolved),
        ]
    );
    assert!(found.alerts.iter().all(|alert| alert.cause != "error"));
    let (single, grave) = ((TriggerType::Drift, 2), (TriggerType::Drift, 4));
    assert_eq!(
        triggers(&found),
        [
            (at("2013-03-23T18"), TriggerChange::Raised, single.0, single.1, None),
            (at("2013-07-01T12"), TriggerChange::Closed, single.0, single.1, Some(ClosedBecause::Superseded)),
            (at("2013-07-01T12"), TriggerChange::Raised, grave.0, grave.1, None),
            (at("2013-11-05T12"), TriggerChange::Closed, grave.0, grave.1, Some(ClosedBecause::Resolved)),
        ]
    );
    assert_eq!((found.status.status, found.marks), (Some(Level::Ok), 7_353));
}

#[test]
fn the_slow_summer_is_found_explained_told_and_ends() {
    let found = judge_year(slow_down);
    the_clock_change_is_found(&found);
    let begun = hour("2013-07-01T00");
    for (cause, hours) in [("error", 23), ("target", 42)] {
        let opened = told(&found, cause, Change::Opened);
        assert_eq!(opened.at_ms, begun + hours * HOUR_MS, "{}", opened.summary);
        assert_eq!(opened.onset_ms, Some(begun), "{}", opened.summary);
        assert_eq!(opened.status, Level::Critical);
        let resolved = told(&found, cause, Change::Resolved);
        let after_days = (resolved.at_ms - hour("2013-08-15T00")) / DAY_MS;
        assert!((1..7).contains(&after_days), "{}", resolved.summary);
        assert_eq!(resolved.episode, opened.episode);
        let episodes = found.alerts.iter().filter(|alert| alert.cause == cause && alert.level == Level::Critical).count();
        assert_eq!(episodes, 2, "one opens, one ends");
    }
    let carriers: Vec<&str> = told(&found, "error", Change::Opened).carriers.iter().map(|carrier| carrier.category.as_str()).collect();
    for slow in ["EXECUTE", "DEPLOY", "TRANSFORM"] {
        assert!(carriers.contains(&slow), "{slow} is not among {carriers:?}");
    }
    let joined: Vec<_> =
        triggers(&found).into_iter().filter(|trigger| trigger.1 == TriggerChange::Joined).map(|trigger| trigger.0).collect();
    assert_eq!(joined, [at("2013-07-01T23"), at("2013-07-02T18")]);
    let largest = found.alerts.iter().map(|alert| serde_json::to_vec(alert).unwrap().len()).max().unwrap();
    assert!(largest < 50_000, "an alert of {largest} bytes");
}
