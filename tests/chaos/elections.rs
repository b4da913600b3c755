//! MongoDB's members fail while tickets complete: step-down, SIGKILL and SIGSTOP of the primary, restart of all.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bson::{DateTime, Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::{InsertManyOptions, WriteConcern};
use mongodb::{Client, Collection};

use super::campaign::{Dice, Seeds, Story, run};
use super::check::Checker;
use crate::support::mongo::runtime;
use crate::support::replica_set::ReplicaSet;
use crate::support::{Deployment, kafka, wait_until};

const PARTITIONS: u32 = 2;
/// MongoDB's own default.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(90);
const AT_ONCE: u64 = 10;
const PAUSE: Duration = Duration::from_millis(50);
/// How long a primary stays frozen: much longer than an election takes, so that a stream that is back at the thaw only is told.
const FROZEN: Duration = Duration::from_secs(40);
/// How much longer than MongoDB acknowledges nothing the stream may bring nothing, s.
const LATER_S: f64 = 3.0;

/// Completes tickets, each acknowledged by a majority, whatever happens to the servers.
struct Writer {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// When each batch was acknowledged, ms since 1970.
    thread: JoinHandle<Vec<i64>>,
}

impl Writer {
    fn start(uri: &str, database: &str) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (uri, database) = (uri.to_owned(), database.to_owned());
        let (counted, asked) = (Arc::clone(&acknowledged), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let mut collection = connect(&uri, &database).await;
                let (mut next, mut times) = (0, Vec::new());
                while !asked.load(Ordering::Relaxed) {
                    let tickets: Vec<Document> = (next..next + AT_ONCE).map(ticket).collect();
                    while !insert(&collection, &tickets).await {
                        // The driver waits for a frozen server for ever: another client does not know it.
                        collection = connect(&uri, &database).await;
                    }
                    times.push(DateTime::now().timestamp_millis());
                    next += AT_ONCE;
                    counted.store(next, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                times
            })
        });
        Self { acknowledged, stop, thread }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn end(self) -> Vec<i64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it writes until it is stopped")
    }
}

async fn connect(uri: &str, database: &str) -> Collection<Document> {
    let client = Client::with_uri_str(format!("{uri}&serverSelectionTimeoutMS=2000&connectTimeoutMS=1000")).await;
    client.expect("a valid connection string").database(database).collection("execution_tickets")
}

/// The same ticket each time it is tried again: its `_id` is its own. So many a second end some slices of an hour.
fn ticket(number: u64) -> Document {
    let number = i64::try_from(number).expect("not so many");
    doc! {
        "_id": number, "ticket_id": format!("T-{number}"), "status": "COMPLETED", "task_type": "BUILD",
        "completed_at": DateTime::from_millis(1_700_000_000_000 + number * 1_000), "actual_duration_ms": 60_000,
        "estimated_duration_ms": 90_000,
    }
}

/// The number in `T-17`.
fn number(key: &[u8]) -> usize {
    std::str::from_utf8(&key[2..]).unwrap().parse().unwrap()
}

/// Whether a majority has all of them.
async fn insert(collection: &Collection<Document>, tickets: &[Document]) -> bool {
    let options = InsertManyOptions::builder().ordered(false).write_concern(WriteConcern::majority()).build();
    let written = tokio::time::timeout(Duration::from_secs(3), async { collection.insert_many(tickets).with_options(options).await });
    match written.await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => match error.kind.as_ref() {
            // It is there already; whether a majority has it the next write's acknowledgement says, which comes after it.
            ErrorKind::InsertMany(failed) => {
                let is_there = |errors: &Vec<mongodb::error::IndexedWriteError>| errors.iter().all(|error| error.code == 11_000);
                failed.write_concern_error.is_none() && failed.write_errors.as_ref().is_some_and(is_there)
            }
            _ => false,
        },
        Err(_) => false,
    }
}

/// What is done to the members.
#[derive(Clone, Copy)]
enum Fault {
    StepDown,
    Kill,
    Freeze,
    Restart,
}

impl Fault {
    const ALL: [Self; 4] = [Self::StepDown, Self::Kill, Self::Freeze, Self::Restart];

    fn name(self) -> &'static str {
        match self {
            Self::StepDown => "step-down",
            Self::Kill => "SIGKILL of the primary",
            Self::Freeze => "SIGSTOP of the primary",
            Self::Restart => "restart of all members",
        }
    }

    /// Does it; all members run again at its end.
    fn happen(self, set: &mut ReplicaSet) {
        match self {
            Self::StepDown => set.step_down(),
            Self::Kill => set.kill_primary(),
            Self::Freeze => {
                let frozen = set.freeze_primary();
                std::thread::sleep(FROZEN);
                set.thaw(frozen);
            }
            Self::Restart => set.kill_all(),
        }
        set.start_all();
        set.wait_for_primary();
    }
}

/// What reached the log.
struct Sent {
    /// When, ms since 1970, and which ticket.
    tickets: Vec<(i64, usize)>,
}

impl Sent {
    fn new(checker: &Checker) -> Self {
        let records = (0..PARTITIONS).flat_map(|partition| checker.tickets(partition));
        let mut tickets: Vec<(i64, usize)> =
            records.map(|record| (record.timestamp_ms, number(record.key.as_deref().expect("a ticket has a key")))).collect();
        tickets.sort_unstable();
        Self { tickets }
    }

    /// Tells of a fault what it cost, s: without an acknowledgement, without a ticket in the stream, and from one to the other. The
    /// stream may be silent [`LATER_S`] longer than MongoDB.
    fn cost(&self, fault: Fault, within: Range<i64>, acknowledged: &[i64], story: &mut Story) -> String {
        let gap_s = |times: &mut dyn Iterator<Item = i64>| {
            let times: Vec<i64> = times.collect();
            let ending = times.windows(2).filter(|pair| within.contains(&pair[1]));
            ending.map(|pair| pair[1] - pair[0]).max().unwrap_or(0) as f64 / 1_000.0
        };
        let in_mongodb = gap_s(&mut acknowledged.iter().copied());
        let in_stream = gap_s(&mut self.tickets.iter().map(|(at_ms, _)| *at_ms));
        if in_stream > in_mongodb + LATER_S {
            let name = fault.name();
            story.violation(format!("{name}: the stream was silent for {in_stream:.1} s, MongoDB for {in_mongodb:.1} s only"));
        }
        let each = usize::try_from(AT_ONCE).expect("a few");
        let its = self.tickets.iter().filter(|(at_ms, _)| within.contains(at_ms));
        let late_ms = its.filter_map(|(at_ms, ticket)| Some(at_ms - acknowledged.get(ticket / each)?)).max();
        format!(
            "{}: MongoDB acknowledged nothing for {in_mongodb:.1} s, the stream brought nothing for {in_stream:.1} s, the longest from an \
             acknowledgement to the log was {:.1} s",
            fault.name(),
            late_ms.unwrap_or(0) as f64 / 1_000.0
        )
    }
}

fn elections(seed: u64, story: &mut Story, set: &mut ReplicaSet) {
    let name = format!("elections-{seed}-{}", std::process::id());
    let mut deployment = Deployment::new(&name, PARTITIONS);
    deployment.set("MONGODB_URI", &set.uri);
    deployment.set("TIDEMARK_TAIL_START", "history");
    let checker = Checker::new(&set.uri, &kafka().bootstrap_servers, &name, PARTITIONS);
    checker.create_topics();
    let process = deployment.start("one", &["run", "--stages", "tail,watch,judge"]);
    wait_until("tail streams", LIMIT, || checker.tail_streams().then_some(()));
    let writer = Writer::start(&set.uri, &name);
    let sent = || -> u64 { (0..PARTITIONS).map(|partition| checker.tickets(partition).len() as u64).sum() };
    let all_is_sent = |tickets: u64| {
        let begun = Instant::now();
        while sent() < tickets && begun.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    let mut faults = Fault::ALL;
    let mut dice = Dice::new(seed);
    (1..faults.len()).for_each(|at| faults.swap(at, dice.roll(at + 1)));
    let mut begun_ms = Vec::new();
    for fault in faults {
        let before = writer.acknowledged();
        wait_until("tickets complete", LIMIT, || (writer.acknowledged() > before + 100).then_some(()));
        all_is_sent(before);
        wait_until("all members are there", LIMIT, || set.has_all().then_some(()));
        story.tell(fault.name());
        story.fault(fault.name());
        begun_ms.push(DateTime::now().timestamp_millis());
        fault.happen(set);
        let before = writer.acknowledged();
        wait_until("tickets complete again", LIMIT, || (writer.acknowledged() > before + 200).then_some(()));
        all_is_sent(before);
    }
    let acknowledged = writer.end();
    let written = acknowledged.len() as u64 * AT_ONCE;
    story.tell(format!("{written} tickets acknowledged"));
    all_is_sent(written);
    if !process.is_alive() {
        story.violation(format!("the process ended by itself:\n{}", process.last_words()));
    }
    story.tell(format!("it said:\n{}", process.log()));
    process.kill();
    let sent = Sent::new(&checker);
    let until_ms = begun_ms.iter().skip(1).copied().chain([i64::MAX]);
    let within = begun_ms.iter().zip(until_ms).map(|(from, until)| *from..until);
    let costs: Vec<String> = faults.iter().zip(within).map(|(fault, within)| sent.cost(*fault, within, &acknowledged, story)).collect();
    story.note(format!("{written} tickets\n  {}", costs.join("\n  ")));
    checker.audit(usize::try_from(written).expect("not so many"), story);
    checker.once(story);
}

#[test]
fn elections_and_frozen_members_lose_nothing_and_repeat_nothing() {
    let mut set = ReplicaSet::start(ELECTION_TIMEOUT);
    run(Seeds::or(1), "faults", |seed, story| elections(seed, story, &mut set));
}
