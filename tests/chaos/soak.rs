//! A long time under a mix of faults: the audit is clean at the end, everything derived is there once, and memory does not grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bson::Document;
use mongodb::Client;
use tidemark::clock::HOUR_MS;

use super::campaign::{Dice, Seeds, Story, run, said};
use super::check::Checker;
use super::flow::{self, Slot};
use crate::e2e::{halves, last_mark, make_baseline_from_file};
use crate::support::cable::{Cable, Silence};
use crate::support::mongo::runtime;
use crate::support::{Deployment, Kafka, Mongo};

const PARTITIONS: u32 = 4;
/// Tickets that complete in a second, which is an hour of their time: the longest window is full after three minutes.
const RATE: usize = 2_000;
/// Tickets are inserted so many at once, so often.
const AT_ONCE: usize = RATE / 10;
/// See [`AT_ONCE`].
const EVERY: Duration = Duration::from_millis(100);
/// How long the suite's run takes; `script/chaos soak --seconds 3600` is an hour.
const SECONDS: u64 = 30;
/// Where the tickets' time begins: 2013-03-01, UTC, which the baseline ends before.
const START_MS: i64 = 1_362_096_000_000;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Looks that are made one: their median.
const LOOKS: usize = 12;
/// What memory does while windows, caches and queues fill up is no growth: so much of the time is left out, at most a quarter.
const FILLING: Duration = Duration::from_mins(10);
/// Student's t of a slope that nobody takes for chance (1 % of flat series have more, two-sided, for 40 values and more).
const SLOPE_T: f64 = 2.7;

/// What Newey and West take for 50 values: 4 (n / 100)^(2/9).
const LAG: usize = 3;

/// The `number`th ticket.
fn ticket(number: usize) -> Document {
    let flights = halves().1;
    let mut ticket = flights[number % flights.len()].clone();
    let id = format!("soak-{number}");
    ticket.insert("_id", &id);
    ticket.insert("ticket_id", id);
    let second = i64::try_from(number).expect("fewer than an i64 holds") * HOUR_MS / i64::try_from(RATE).expect("a small number");
    ticket.insert("completed_at", START_MS + second);
    ticket
}

/// Completes [`RATE`] tickets a second, by majority, until it is told to stop; after a pause it catches up.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Writer {
    fn start(uri: &str, database: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (uri, database, asked) = (uri.to_owned(), database.to_owned(), Arc::clone(&stop));
        let work = async move {
            let client = Client::with_uri_str(&uri).await.expect("a valid connection string");
            let collection = client.database(&database).collection::<Document>("execution_tickets");
            let (mut due, mut next) = (Instant::now(), 0);
            while !asked.load(Ordering::Relaxed) {
                tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
                let tickets: Vec<Document> = (next..next + AT_ONCE).map(ticket).collect();
                collection.insert_many(&tickets).await.expect("MongoDB waits, and does not refuse");
                next += AT_ONCE;
                due += EVERY;
            }
            next
        };
        Self { stop, thread: std::thread::spawn(move || runtime().block_on(work)) }
    }

    /// Returns how many have completed.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("all were written")
    }
}

struct Run<'r> {
    deployment: Deployment,
    kafka: &'r Cable,
    mongo: &'r Mongo,
    dice: Dice,
    /// The first is never killed, and its memory is looked at.
    slots: Vec<Slot>,
    looked: Instant,
    /// Resident memory of the first, MB.
    resident: Vec<f64>,
    story: &'r mut Story,
}

impl Run<'_> {
    /// Waits for so long, and looks at the processes meanwhile: nobody may end.
    fn rest(&mut self, from_ms: usize, to_ms: usize) {
        let until = Instant::now() + Duration::from_millis((from_ms + self.dice.roll(to_ms - from_ms)) as u64);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100).min(until.saturating_duration_since(Instant::now())));
            self.goes_on();
        }
    }

    /// Whether there is reason to go on.
    fn goes_on(&mut self) -> bool {
        let is_clean = flow::nobody_ended(&mut self.slots, self.story);
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.resident.extend(self.slots[0].process.as_ref().and_then(|process| process.memory_mb("VmRSS")));
        }
        is_clean
    }

    fn start(&mut self, slot: usize) {
        self.slots[slot].process = Some(self.slots[slot].start(&self.deployment, &[]));
    }

    fn freeze(&mut self, slot: usize, longest_ms: usize) {
        let name = self.slots[slot].instance.clone();
        self.story.fault(&format!("SIGSTOP of {name}"));
        let Some(process) = self.slots[slot].process.take() else { return };
        process.freeze();
        self.rest(500, longest_ms);
        process.thaw();
        self.slots[slot].process = Some(process);
    }

    fn strike(&mut self) {
        match self.dice.roll(8) {
            wait @ 0..=1 => {
                self.story.fault("SIGKILL of two");
                self.slots[1].process.take().into_iter().for_each(crate::support::Process::kill);
                self.rest(10, if wait == 0 { 100 } else { 10_000 });
                self.start(1);
            }
            2 => self.freeze(0, 8_000),
            3 => self.freeze(1, 12_000),
            4 => {
                self.story.fault("cuts of all connections to Kafka");
                self.kafka.cut();
            }
            5 => {
                self.story.fault("silence between us and Kafka");
                self.kafka.be_silent(Silence::Everything);
                self.rest(1_000, 7_000);
                self.kafka.be_silent(Silence::Nothing);
            }
            6 => {
                self.story.fault("lost answers of Kafka");
                self.kafka.be_silent(Silence::Answers);
                self.rest(20, 2_000);
                self.kafka.cut();
                self.kafka.be_silent(Silence::Nothing);
            }
            _ => {
                self.story.fault("SIGSTOP of MongoDB");
                self.mongo.signal("STOP");
                self.rest(500, 5_000);
                self.mongo.signal("CONT");
            }
        }
    }
}

/// A straight line through a series, its slope per value, and the slope's standard error, for errors that depend on those before
/// (Newey & West 1987, with a lag of [`LAG`]).
fn slope(series: &[f64]) -> (f64, f64) {
    let n = series.len() as f64;
    let (middle, mean) = ((n - 1.0) / 2.0, series.iter().sum::<f64>() / n);
    let at = |i: usize| i as f64 - middle;
    let squares: f64 = (0..series.len()).map(|i| at(i) * at(i)).sum();
    let slope = series.iter().enumerate().map(|(i, value)| at(i) * (value - mean)).sum::<f64>() / squares;
    let scores: Vec<f64> = series.iter().enumerate().map(|(i, value)| at(i) * (value - mean - slope * at(i))).collect();
    let product = |by: usize| scores.iter().zip(&scores[by..]).map(|(one, other)| one * other).sum::<f64>();
    let meat = product(0) + (1..=LAG).map(|by| 2.0 * (1.0 - by as f64 / (LAG as f64 + 1.0)) * product(by)).sum::<f64>();
    (slope, (meat * n / (n - 2.0)).sqrt() / squares)
}

#[test]
fn a_slope_is_told_from_noise() {
    let mut dice = Dice::new(1);
    let noise: Vec<f64> = (0..50).map(|_| dice.roll(1_000) as f64 / 100.0).collect();
    let (flat, error) = slope(&noise);
    assert!((flat / error).abs() < SLOPE_T, "{flat} {error}");
    let rising: Vec<f64> = noise.iter().enumerate().map(|(i, value)| value + i as f64 / 5.0).collect();
    let (steep, error) = slope(&rising);
    assert!((steep - flat - 0.2).abs() < 1e-9 && steep / error > SLOPE_T, "{steep} {error}");
}

fn medians(looks: &[f64]) -> Vec<f64> {
    let middle = |some: &[f64]| {
        let mut some = some.to_vec();
        some.sort_by(f64::total_cmp);
        some[some.len() / 2]
    };
    looks.chunks_exact(LOOKS).map(middle).collect()
}

/// Says what memory did, and whether it grew.
fn growth(resident: &[f64], story: &mut Story) -> String {
    let filling = (FILLING.as_secs() / LOOK.as_secs()).min(resident.len() as u64 / 4);
    let minutes = medians(&resident[usize::try_from(filling).expect("it fits")..]);
    let most = resident.iter().copied().fold(0.0, f64::max);
    if minutes.len() < 15 {
        return format!("memory at most {most:.0} MB; too short to tell a slope");
    }
    let (slope, error) = slope(&minutes);
    let t = slope / error;
    if t > SLOPE_T {
        story.violation(format!("memory grows by {:.2} MB an hour (t = {t:.1}); MB by the minute: {minutes:.0?}", slope * 60.0));
    }
    format!("memory at most {most:.0} MB, slope {:+.2} ± {:.2} MB an hour (t = {t:.1})", slope * 60.0, error * 60.0)
}

fn soak(seed: u64, seconds: u64, story: &mut Story) {
    let mut cable = Cable::bind();
    let kafka = Kafka::apart(cable.port, |broker| cable.forward_to(broker));
    let mongo = Mongo::start();
    let name = format!("soak-{seed}-{}", std::process::id());
    let mut deployment = Deployment::new(&name, PARTITIONS);
    deployment.set("MONGODB_URI", &mongo.uri);
    deployment.set("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap_servers);
    deployment.set("TIDEMARK_TAIL_CLOCK", "tickets");
    deployment.set("TIDEMARK_TAIL_START", "history");
    let checker = Checker::new(&mongo.uri, &kafka.bootstrap_servers, &name, PARTITIONS);
    checker.create_topics();
    make_baseline_from_file(&deployment);
    let slots = flow::together(2);
    let (dice, looked) = (Dice::new(seed), Instant::now());
    let mut run = Run { deployment, kafka: &cable, mongo: &mongo, dice, slots, looked, resident: Vec::new(), story };
    (0..2).for_each(|slot| run.start(slot));
    if !flow::until(|| run.goes_on(), || checker.tail_streams()) {
        return run.story.violation("tail did not begin");
    }
    let writer = Writer::start(&mongo.uri, &name);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) && run.goes_on() {
        run.rest(2_000, 15_000);
        run.strike();
    }
    let completed = writer.stop();
    let rate = completed as f64 / begun.elapsed().as_secs_f64();
    let last: Vec<Document> = (completed - 100..completed).map(ticket).collect();
    if !flow::until(|| run.goes_on(), || checker.judged_until() >= Some(last_mark(&last))) {
        run.story.violation(format!("it is judged until {:?} of {}", checker.judged_until(), last_mark(&last)));
    }
    let resident = std::mem::take(&mut run.resident);
    run.rest(5_000, 6_000);
    run.slots.clear();
    let grown = growth(&resident, story);
    let audit = Instant::now();
    checker.audit(completed, story);
    let speed = completed as f64 / audit.elapsed().as_secs_f64();
    checker.once(story);
    story.note(format!("{completed} tickets, {rate:.0} a second; {grown}; audited at {speed:.0} a second"));
}

#[test]
fn a_mix_of_faults_for_a_long_time_loses_nothing_and_fills_no_memory() {
    let seconds = said("CHAOS_SECONDS").map_or(SECONDS, |text| text.parse().expect("a whole number"));
    run(Seeds::or(1), "faults", |seed, story| soak(seed, seconds, story));
}
