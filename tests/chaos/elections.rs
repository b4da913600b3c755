//! MongoDB's members fail while tickets complete: step-down, SIGKILL and SIGSTOP of the primary, restart of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bson::{DateTime, Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::{InsertManyOptions, WriteConcern};
use mongodb::{Client, Collection};

use super::campaign::{Seeds, Story, run};
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
/// How long a primary stays frozen: longer than an election takes.
const FROZEN: Duration = Duration::from_secs(20);

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

/// The same ticket each time it is tried again: its `_id` is its own.
fn ticket(number: u64) -> Document {
    let number = i64::try_from(number).expect("not so many");
    doc! {
        "_id": number, "ticket_id": format!("T-{number}"), "status": "COMPLETED", "task_type": "BUILD",
        "completed_at": DateTime::from_millis(1_700_000_000_000 + number), "actual_duration_ms": 60_000,
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

fn elections(seed: u64, story: &mut Story, set: &mut ReplicaSet) {
    let name = format!("elections-{seed}-{}", std::process::id());
    let mut deployment = Deployment::new(&name, PARTITIONS);
    deployment.set("MONGODB_URI", &set.uri);
    deployment.set("TIDEMARK_TAIL_START", "history");
    let checker = Checker::new(&set.uri, &kafka().bootstrap_servers, &name, PARTITIONS);
    checker.create_topics();
    let process = deployment.start("one", &["run", "--stages", "tail"]);
    wait_until("tail streams", LIMIT, || checker.tail_streams().then_some(()));
    let writer = Writer::start(&set.uri, &name);
    wait_until("tickets complete", LIMIT, || (writer.acknowledged() > 100).then_some(()));
    let fault =
        ["step-down", "SIGKILL of the primary", "SIGSTOP of the primary", "restart of all members"][usize::try_from(seed % 4).unwrap()];
    story.tell(fault);
    story.fault(fault);
    match seed % 4 {
        0 => set.step_down(),
        1 => set.kill_primary(),
        2 => {
            let frozen = set.freeze_primary();
            std::thread::sleep(FROZEN);
            set.thaw(frozen);
        }
        _ => set.kill_all(),
    }
    set.start_all();
    set.wait_for_primary();
    let before = writer.acknowledged();
    wait_until("tickets complete again", LIMIT, || (writer.acknowledged() > before + 200).then_some(()));
    let acknowledged = writer.end();
    let written = acknowledged.len() as u64 * AT_ONCE;
    story.tell(format!("{written} tickets acknowledged"));
    let begun = Instant::now();
    let sent = || -> usize { (0..PARTITIONS).map(|partition| checker.tickets(partition).len()).sum() };
    while (sent() as u64) < written && begun.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(200));
    }
    if !process.is_alive() {
        story.violation(format!("tail ended by itself:\n{}", process.last_words()));
    }
    process.kill();
    let sent: Vec<(i64, usize)> = (0..PARTITIONS)
        .flat_map(|partition| checker.tickets(partition))
        .map(|record| (record.timestamp_ms, number(record.key.as_deref().unwrap())))
        .collect();
    let mut times: Vec<i64> = sent.iter().map(|(at_ms, _)| *at_ms).collect();
    times.sort_unstable();
    let gap_s = |times: &[i64]| times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) as f64 / 1_000.0;
    let each = usize::try_from(AT_ONCE).expect("a few");
    let late_ms = sent.iter().filter_map(|(at_ms, ticket)| Some(at_ms - acknowledged.get(ticket / each)?)).max();
    let (in_stream, in_mongodb) = (gap_s(&times), gap_s(&acknowledged));
    story.note(format!(
        "{fault}: {written} tickets; MongoDB acknowledged nothing for {in_mongodb:.1} s, the stream brought nothing for {in_stream:.1} s, \
         the longest from an acknowledgement to the log was {:.1} s",
        late_ms.unwrap_or(0) as f64 / 1_000.0
    ));
    checker.audit(usize::try_from(written).expect("not so many"), story);
}

#[test]
fn elections_and_frozen_members_lose_nothing_and_repeat_nothing() {
    let mut set = ReplicaSet::start(ELECTION_TIMEOUT);
    run(Seeds::or(4), "faults", |seed, story| elections(seed, story, &mut set));
}
