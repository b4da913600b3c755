//! From the request for a training to its baseline in Kafka, and what the stream feels of it meanwhile.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bson::Document;
use tidemark::log::{Delivered, Follower, Log};
use tidemark::topics::Topics;
use tidemark::trigger::{Trigger, TriggerChange};

use super::backlog::{Bench, flights, insert};
use super::latency::{fresh, insert_paced, spy};
use super::{Figure, median, quantile};
use crate::support;

/// Tickets that are trained on.
const TICKETS: u32 = 100_000;
/// Tickets that pass meanwhile, 1,000 a second.
const PASSING: usize = 25_000;
/// Days over which what is trained on completed.
const DAYS: i64 = 60;

/// Flights that completed in the last days.
fn history() -> Vec<Document> {
    let now = bson::DateTime::now().timestamp_millis();
    let step = DAYS * 86_400_000 / i64::from(TICKETS);
    let mut documents = flights(TICKETS as usize);
    for (n, document) in (1..).zip(&mut documents) {
        document.insert("completed_at", bson::DateTime::from_millis(now - (i64::from(TICKETS) - n) * step));
    }
    documents
}

/// What one process did while tickets passed.
struct Passed {
    /// From acknowledged to visible, ms, of the tickets that came while a training was under way; without one, of all.
    delays: Vec<f64>,
    /// From the request to the baseline.
    training: Option<Duration>,
}

fn pass(bench: &Bench, prefix: &str, stages: &str) -> Passed {
    let client = bench.client();
    bench.runtime.block_on(insert(&client, prefix, &history()));
    let (log, topics) = (bench.log(), Topics::new(prefix));
    let models = format!("registry.directory={}", bench.folder.path().join(format!("{prefix}-models")).display());
    let tickets = fresh(prefix, PASSING);
    let trains = stages.contains("train");
    std::thread::scope(|scope| {
        let passing = scope.spawn(|| bench.runtime.block_on(insert_paced(&client, prefix, tickets)));
        let tidemark = bench.run(prefix, prefix, stages, &["--set", &models]);
        let mut positions = bench.follow(&topics.positions);
        support::wait_until("tail commits its position", Duration::from_secs(60), || {
            positions.poll(Duration::from_millis(100)).ok().filter(|records| !records.is_empty())
        });
        let begun = Instant::now();
        let partitions = log.partitions(&topics.tickets).expect("the topic is there") as usize;
        let seen = spy(log.follow(&topics.tickets, &vec![0; partitions]).expect("the topic is there"));
        let trained = trains.then(|| {
            let is_due = |record: &Delivered| {
                let trigger: Option<Trigger> = serde_json::from_slice(record.value.as_deref().unwrap_or_default()).ok();
                trigger.is_some_and(|trigger| trigger.change == TriggerChange::Due)
            };
            let due = first(bench.follow(&topics.retraining_triggers), "a training is asked for", is_due);
            (due, first(bench.follow(&topics.baselines), "the training has its baseline", |_| true))
        });
        let acknowledged: HashMap<String, Instant> = passing.join().expect("the inserts succeed");
        let (from, to) = trained.unwrap_or((begun, Instant::now()));
        let mut delays = Vec::new();
        while let Ok((at, record)) = seen.recv_timeout(Duration::from_secs(3)) {
            let id = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
            if let Some(written) = acknowledged.get(&id).filter(|written| (from..=to).contains(*written)) {
                delays.push(at.saturating_duration_since(*written).as_secs_f64() * 1e3);
            }
        }
        tidemark.stop();
        Passed { delays, training: trained.map(|(due, baseline)| baseline - due) }
    })
}

/// Waits for the first such record; returns when it was seen.
fn first(mut follower: Box<dyn Follower>, what: &str, is_it: impl Fn(&Delivered) -> bool) -> Instant {
    support::wait_until(what, Duration::from_secs(120), || {
        let records = follower.poll(Duration::from_millis(10)).expect("the broker is up");
        records.iter().any(&is_it).then(Instant::now)
    })
}

pub(crate) fn training(runs: usize) -> Vec<Figure> {
    let bench = Bench::start();
    let (mut seconds, mut quiet, mut meanwhile) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        let alone = pass(&bench, &format!("alone{run}"), "tail,watch,judge");
        let beside = pass(&bench, &format!("beside{run}"), "tail,watch,judge,train");
        seconds.push(beside.training.expect("the stage trains").as_secs_f64());
        quiet.push(quantile(&alone.delays, 0.99));
        meanwhile.push(quantile(&beside.delays, 0.99));
        eprintln!("  {:.1} s; p99 of {} tickets {:.0} ms, {:.0} ms without", seconds[run], beside.delays.len(), meanwhile[run], quiet[run]);
    }
    let (took, without, with) = (median(&seconds), median(&quiet), median(&meanwhile));
    vec![
        Figure {
            name: "training on 100,000 tickets, from request to baseline".to_owned(),
            value: took,
            unit: "s",
            baseline: None,
            against: "",
            goal: "<= 15 s",
            holds: took <= 15.0,
        },
        Figure {
            name: "insert acknowledged to ticket visible meanwhile, p99".to_owned(),
            value: with,
            unit: "ms",
            baseline: Some(without),
            against: "without a training",
            goal: "<= 2 times",
            holds: with <= 2.0 * without,
        },
    ]
}
