//! Each stage killed with a full window behind it and started again, to the first new verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bson::{DateTime, Document};
use tidemark::clock::{DAY_MS, HOUR_MS};
use tidemark::log::Delivered;
use tidemark::status::Status;
use tidemark::topics::Topics;

use super::backlog::{Bench, COLLECTION, commit_positions, flights, insert};
use super::latency::spy;
use super::process::Tidemark;
use super::verdict::{ROWS, START_MS};
use super::{Figure, median};
use crate::support;

const NAME: &str = "recovery";
const STAGES: [&str; 3] = ["tail", "watch", "judge"];
/// From one live ticket to the next; a million in a week are one in 605 ms.
const TICK_MS: i64 = 100;
const SLICE_MS: i64 = HOUR_MS / 6;
/// What a live ticket moves event time by: a slice, and with it a verdict, ends every second or so.
const STEP_MS: i64 = SLICE_MS * TICK_MS / 1_000;
/// Slices that a stage has caught up after.
const CAUGHT_UP: i64 = 5 * SLICE_MS;

/// Copies of flights with ids and completions of their own.
fn completing(flights: &[Document], count: usize, from_ms: i64, step_ms: f64) -> impl Iterator<Item = Document> {
    (0..count).map(move |n| {
        let mut document = flights[n % flights.len()].clone();
        let id = format!("{from_ms}-{n}");
        document.insert("_id", &id);
        document.insert("ticket_id", id);
        document.insert("completed_at", DateTime::from_millis(from_ms + (n as f64 * step_ms) as i64));
        document
    })
}

/// Completes a ticket every [`TICK_MS`], until it is dropped.
struct Feeder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    fn start(bench: &Bench, flights: Vec<Document>, from_ms: i64) -> Self {
        let (client, stop) = (bench.client(), Arc::new(AtomicBool::new(false)));
        let (asked, runtime) = (Arc::clone(&stop), bench.runtime.handle().clone());
        let work = move || {
            for ticket in completing(&flights, usize::MAX, from_ms, STEP_MS as f64) {
                if asked.load(Ordering::Relaxed) {
                    return;
                }
                runtime.block_on(insert(&client, NAME, &[ticket]));
                std::thread::sleep(Duration::from_millis(TICK_MS.unsigned_abs()));
            }
        };
        Self { stop, thread: Some(std::thread::spawn(work)) }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn judged_at(record: &Delivered) -> Option<i64> {
    let status: Status = serde_json::from_slice(record.value.as_deref()?).ok()?;
    Some(status.at_ms)
}

/// Returns when the first verdict after `at_ms` was seen, and its time.
fn next_verdict(statuses: &Receiver<(Instant, Delivered)>, at_ms: i64) -> (Instant, i64) {
    support::wait_until("a verdict", Duration::from_secs(300), || {
        let (seen, record) = statuses.recv_timeout(Duration::from_millis(100)).ok()?;
        Some((seen, judged_at(&record).filter(|at| *at > at_ms)?))
    })
}

/// Returns the time of the last verdict that has been seen, `at_ms` where there is none.
fn last_verdict(statuses: &Receiver<(Instant, Delivered)>, at_ms: i64) -> i64 {
    statuses.try_iter().filter_map(|(_, record)| judged_at(&record)).fold(at_ms, i64::max)
}

pub(crate) fn recovery(runs: usize) -> Vec<Figure> {
    let bench = Bench::start();
    let client = bench.client();
    let flights = flights(50_000);
    // The rows of the first days stay in the window of a week until the last run.
    let history_ms = 4 * DAY_MS;
    // A history is in no window: all of it comes through the stream.
    bench.runtime.block_on(async { client.database(NAME).create_collection(COLLECTION).await }).expect("a new database");
    commit_positions(&bench, NAME, [NAME.to_owned()].iter());
    let mut tickets = completing(&flights, ROWS[1], START_MS, history_ms as f64 / ROWS[1] as f64).peekable();
    while tickets.peek().is_some() {
        let some: Vec<Document> = tickets.by_ref().take(10_000).collect();
        bench.runtime.block_on(insert(&client, NAME, &some));
    }
    drop(tickets);
    bench.create_baseline(NAME);
    // Who is started again takes its old seat in its group at once, if it has one.
    let seat = std::env::var_os("WITHOUT_SEAT").is_none().then_some(NAME);
    let slices = format!("window.slice_ms={SLICE_MS}");
    let start = |stage: &str| bench.run_as((NAME, seat), NAME, NAME, stage, &["--set", "http.listen=127.0.0.1:0", "--set", &slices]);
    let mut processes: [Tidemark; 3] = STAGES.map(start);
    let statuses = spy(bench.follow(&Topics::new(NAME).status));
    let tickets_seen = spy_all(&bench);
    let _feeder = Feeder::start(&bench, flights, START_MS + history_ms);
    let (_, mut at_ms) = next_verdict(&statuses, START_MS + history_ms + 2 * SLICE_MS);
    eprintln!("  the window is full");
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let (mut held_up, mut taken_over) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        for (n, stage) in STAGES.into_iter().enumerate() {
            // What was under way when it was killed is seen before it is started again.
            processes[n].kill();
            std::thread::sleep(Duration::from_secs(1));
            at_ms = last_verdict(&statuses, at_ms);
            tickets_seen.try_iter().for_each(drop);
            let begun = Instant::now();
            processes[n] = start(stage);
            let (seen, at) = next_verdict(&statuses, at_ms);
            times[n].push(seen.duration_since(begun).as_secs_f64());
            if stage == "tail" {
                let (first, _) = tickets_seen.recv_timeout(Duration::from_secs(60)).expect("tickets come again");
                held_up.push(first.duration_since(begun).as_secs_f64());
            }
            // The next kill meets stages that have caught up.
            (_, at_ms) = next_verdict(&statuses, at + CAUGHT_UP);
        }
        // One that stands by, at its own seat.
        let other = bench.run_as(("other", None), NAME, NAME, "tail", &["--set", "http.listen=127.0.0.1:0", "--set", &slices]);
        std::thread::sleep(Duration::from_secs(3));
        tickets_seen.try_iter().for_each(drop);
        processes[0].kill();
        let begun = Instant::now();
        // What was under way when it was killed comes within the moment.
        let late = begun + Duration::from_millis(500);
        let first = support::wait_until("tickets from who stood by", Duration::from_secs(60), || {
            tickets_seen.recv_timeout(Duration::from_millis(100)).ok().map(|(seen, _)| seen).filter(|seen| *seen > late)
        });
        taken_over.push(first.duration_since(begun).as_secs_f64());
        // Its seat is kept for it until its session is over: the next run begins when the first has led again for a while.
        drop(other);
        processes[0] = start(STAGES[0]);
        std::thread::sleep(Duration::from_secs(1));
        at_ms = last_verdict(&statuses, at_ms);
        (_, at_ms) = next_verdict(&statuses, at_ms + CAUGHT_UP);
        assert!(at_ms < START_MS + 7 * DAY_MS, "rows have left the window: fewer runs, or a shorter history");
        let last = times.each_ref().map(|times| times[times.len() - 1]);
        eprintln!(
            "  {:.1} s tail, {:.1} s watch, {:.1} s judge; tickets again after {:.1} s, {:.1} s from one that stood by",
            last[0],
            last[1],
            last[2],
            held_up[held_up.len() - 1],
            taken_over[taken_over.len() - 1]
        );
    }
    let seconds = |name: String, values: &[f64], limit: f64, goal: &'static str| {
        let value = median(values);
        Figure { name, value, unit: "s", baseline: None, against: "", goal, holds: value <= limit }
    };
    let mut figures: Vec<Figure> = STAGES
        .into_iter()
        .zip(&times)
        .map(|(stage, times)| seconds(format!("{stage} started again to the first new verdict"), times, 10.0, "<= 10 s"))
        .collect();
    figures.push(seconds("tail started again to the first new ticket".to_owned(), &held_up, 1.0, "<= 1 s"));
    figures.push(seconds("tail killed to the first new ticket of one that stood by".to_owned(), &taken_over, 9.0, "<= 9 s"));
    figures
}

/// Follows all partitions of `tickets` from their ends.
fn spy_all(bench: &Bench) -> Receiver<(Instant, Delivered)> {
    use tidemark::log::Log;
    let (log, topic) = (bench.log(), Topics::new(NAME).tickets);
    let partitions = log.partitions(&topic).expect("the broker is up");
    let mut reader = log.reader().expect("the broker is up");
    let ends: Vec<i64> = (0..partitions).map(|partition| reader.bounds(&topic, partition).expect("the broker is up").end).collect();
    spy(log.follow(&topic, &ends).expect("the topic is there"))
}
