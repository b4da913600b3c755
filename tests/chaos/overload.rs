//! Far more tickets complete than Kafka takes: what waits, waits in MongoDB, and comes by itself when Kafka is fast again.

use std::time::{Duration, Instant};

use bson::Document;

use super::campaign::{Seeds, Story, is_campaign, run};
use super::check::Checker;
use super::flow::TRANSACTION;
use crate::e2e::{halves, make_baseline_from_file};
use crate::support::cable::{Cable, Silence};
use crate::support::flights::MARCH;
use crate::support::{Deployment, Kafka, Process, mongo};

const PARTITIONS: u32 = 4;
/// Tickets of a burst in the campaign, and in the test that every change has to pass.
const BURST: [usize; 2] = [500_000, 20_000];
/// Bytes that the broker takes of all producers in a second. A transaction of tail's usual size takes longer than one may live.
const QUOTA: u32 = 200_000;
/// The tickets of a burst complete within so many days, fewer than a window's.
const DAYS: usize = 5;
const DAY_MS: usize = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
const LATENESS_MS: i64 = 600_000;
/// Seconds of lag that are reached while Kafka is slow, and that it is at most again when all is there: the position's time is a whole
/// second, and moves with MongoDB's own news when there are no tickets.
const LAG_S: f64 = 12.0;
const NO_LAG_S: f64 = 2.0;
/// How many tickets have to come through while Kafka is slow.
const SLOWLY: u64 = 2_000;
/// Patience.
const LIMIT: Duration = Duration::from_mins(10);
/// MB that the process may take: what the README promises with a window of twice the campaign's burst. What it holds besides rows does
/// not depend on how much waits: two transactions a stage, and the queues of its Kafka clients.
const MOST_MB: f64 = 256.0;

/// The flights of March again and again, each with an id of its own, evenly over the days.
fn ticket(number: usize, burst: usize) -> Document {
    let flights = halves().1;
    let mut ticket = flights[number % flights.len()].clone();
    ticket.insert("_id", i64::try_from(number).expect("not so many"));
    ticket.insert("ticket_id", format!("B-{number}"));
    ticket.insert("completed_at", completed_at(number, burst));
    ticket
}

/// When a ticket of the burst completes, ms since 1970.
fn completed_at(number: usize, burst: usize) -> i64 {
    MARCH + HOUR_MS + i64::try_from(number * DAYS * DAY_MS / burst).expect("days")
}

/// The end of the last slice that the burst ends.
fn last_mark(burst: usize) -> i64 {
    (completed_at(burst - 20, burst) - LATENESS_MS).div_euclid(HOUR_MS) * HOUR_MS
}

/// How far tail is behind, in seconds, as it says itself.
fn lag_s(process: &Process) -> f64 {
    process.gauge("tidemark_tail_lag_seconds").unwrap_or(0.0)
}

struct Overload<'r> {
    process: Process,
    longest_lag_s: f64,
    story: &'r mut Story,
}

impl Overload<'_> {
    /// Waits until `ready`, and looks at the process meanwhile. `false` when there is no reason to go on.
    fn comes(&mut self, what: &str, ready: impl Fn(&Process) -> bool) -> bool {
        let begun = Instant::now();
        while !ready(&self.process) {
            self.longest_lag_s = self.longest_lag_s.max(lag_s(&self.process));
            if !self.process.is_alive() || begun.elapsed() > LIMIT {
                self.story.violation(format!("{what}: it did not come\n{}", self.process.last_words()));
                return false;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        self.story.tell(what);
        true
    }

    fn go(&mut self, deployment: &Deployment, checker: &Checker, kafka: &Kafka, cable: &Cable, burst: usize) {
        let came = |process: &Process| process.metric("tidemark_tail_tickets_total");
        if !self.comes("tail streams", |_| checker.tail_streams()) {
            return;
        }
        kafka.set_producer_quota(Some(QUOTA));
        self.story.fault("quota");
        for numbers in (0..burst).collect::<Vec<_>>().chunks(10_000) {
            deployment.insert(&numbers.iter().map(|number| ticket(*number, burst)).collect::<Vec<_>>());
        }
        self.story.tell(format!("{burst} tickets have completed"));
        let settled_after = Instant::now() + Duration::from_secs(3);
        if !self.comes("tickets come slowly", |process| came(process) >= SLOWLY) {
            return;
        }
        let before_s = lag_s(&self.process);
        cable.be_silent(Silence::Everything);
        self.story.fault("silence");
        std::thread::sleep(TRANSACTION * 2);
        let after_s = lag_s(&self.process);
        if after_s < before_s + TRANSACTION.as_secs_f64() {
            self.story.violation(format!("nothing could be committed, and tail's lag went from {before_s} to {after_s} s"));
        }
        cable.be_silent(Silence::Nothing);
        let (before, longest) = (came(&self.process), self.longest_lag_s);
        if !self.comes("tickets come slowly again, late", |process| came(process) > before && longest.max(lag_s(process)) >= LAG_S) {
            return;
        }
        let slowly = came(&self.process);
        if slowly >= burst as u64 {
            self.story.violation("Kafka was not slow");
        }
        kafka.set_producer_quota(None);
        self.story.tell(format!("Kafka is fast again; {slowly} tickets came before"));
        // All that completed is committed once the position has passed that time.
        if self.comes("tail does not lag", |process| Instant::now() > settled_after && lag_s(process) <= NO_LAG_S)
            && self.comes("watch does not lag", |process| process.gauge("tidemark_watch_lag_records") == Some(0.0))
        {
            self.comes("all is judged", |_| checker.judged_until() >= Some(last_mark(burst)));
        }
    }
}

fn overload(seed: u64, story: &mut Story) {
    let burst = BURST[usize::from(!is_campaign())];
    let mut cable = Cable::bind();
    let kafka = Kafka::apart(cable.port, |broker| cable.forward_to(broker));
    let name = format!("overload-{seed}-{}", std::process::id());
    let mut deployment = Deployment::new(&name, PARTITIONS);
    let settings = [
        ("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers.clone()),
        ("TIDEMARK_TAIL_START", "history".to_owned()),
        ("TIDEMARK_TAIL_CLOCK", "tickets".to_owned()),
        ("TIDEMARK_KAFKA_PROPERTIES_TRANSACTION_TIMEOUT_MS", TRANSACTION.as_millis().to_string()),
    ];
    settings.iter().for_each(|(key, value)| deployment.set(key, value));
    let checker = Checker::new(&mongo().uri, &kafka.bootstrap_servers, &name, PARTITIONS);
    checker.create_topics();
    make_baseline_from_file(&deployment);
    let process = deployment.start("one", &["run", "--stages", "tail,watch,judge"]);
    let mut overload = Overload { process, longest_lag_s: 0.0, story };
    overload.go(&deployment, &checker, &kafka, &cable, burst);
    let Overload { process, longest_lag_s, story } = overload;
    if let Some(peak_mb) = process.memory_mb("VmHWM") {
        if peak_mb > MOST_MB {
            story.violation(format!("the process took {peak_mb:.0} MB, more than {MOST_MB:.0}"));
        }
        let (rows, bytes) = (process.gauge("tidemark_watch_window_rows"), process.gauge("tidemark_watch_window_bytes"));
        let failed = process.metric("tidemark_tail_transactions_total{outcome=\"aborted\"}");
        story.note(format!(
            "{burst} tickets, peak memory {peak_mb:.0} MB, lag up to {longest_lag_s:.0} s, {failed} transactions of tail failed, \
             {:.0} rows of {:.1} MB in the window",
            rows.unwrap_or(0.0),
            bytes.unwrap_or(0.0) / 1e6
        ));
    }
    process.kill();
    checker.audit(burst, story);
    checker.once(story);
}

#[test]
fn a_burst_that_kafka_is_too_slow_for_waits_in_mongodb() {
    run(Seeds::or(1), "slow times", overload);
}
