//! A backlog in MongoDB, drained by tail into Kafka and by a bare change-stream cursor, in turns.

use std::time::{Duration, Instant};

use bson::{Bson, Document, RawBson, RawDocumentBuf, Timestamp, doc};
use futures_util::StreamExt;
use mongodb::Client;
use mongodb::options::{ChangeStreamOptions, WriteConcern};
use tidemark::config::Kafka as KafkaConfig;
use tidemark::log::kafka::KafkaLog;
use tidemark::log::{Follower, Log};
use tidemark::tail::mongo::stages;
use tidemark::tail::position::Position;
use tidemark::topics::Topics;
use tokio::runtime::Runtime;

use super::process::Tidemark;
use super::{Figure, median};
use crate::support::{self, Kafka, Mongo};

/// Tickets in the backlog.
pub(crate) const BACKLOG: u64 = 300_000;
/// The spec's collection.
pub(super) const COLLECTION: &str = "execution_tickets";

/// Real servers of this bench's own, and a folder.
pub(crate) struct Bench {
    pub(crate) mongo: Mongo,
    pub(crate) kafka: Kafka,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) runtime: Runtime,
}

impl Bench {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        Self { mongo: Mongo::start(), kafka: Kafka::start(), folder: tempfile::tempdir().expect("a folder"), runtime }
    }

    pub(crate) fn client(&self) -> Client {
        self.runtime.block_on(Client::with_uri_str(&self.mongo.uri)).expect("a valid connection string")
    }

    pub(crate) fn log(&self) -> KafkaLog {
        let config = KafkaConfig { bootstrap_servers: Some(self.kafka.bootstrap_servers.clone()), ..KafkaConfig::default() };
        KafkaLog::connect(&config).expect("the broker is up")
    }

    /// Starts `tidemark run` with topics under `prefix`.
    pub(crate) fn run(&self, prefix: &str, database: &str, stages: &str, more: &[&str]) -> Tidemark {
        self.run_as((prefix, None), prefix, database, stages, more)
    }

    /// The same by another name, perhaps with one that keeps its seat in its groups.
    pub(crate) fn run_as(
        &self,
        (instance, seat): (&str, Option<&str>),
        prefix: &str,
        database: &str,
        stages: &str,
        more: &[&str],
    ) -> Tidemark {
        let environment = [
            ("TIDEMARK_KAFKA_PROPERTIES_GROUP_INSTANCE_ID", seat.unwrap_or_default().to_owned()),
            ("MONGODB_URI", self.mongo.uri.clone()),
            ("MONGODB_DATABASE", database.to_owned()),
            ("KAFKA_BOOTSTRAP_SERVERS", self.kafka.bootstrap_servers.clone()),
            ("TIDEMARK_HTTP_LISTEN", String::new()),
        ];
        let mut arguments = vec!["run", "--stages", stages, "--topic-prefix", prefix, "--instance", instance];
        arguments.extend(more);
        Tidemark::start(&arguments, &environment, &self.folder.path().join(format!("{instance}-{stages}.log")))
    }

    /// Creates the baseline of January and February under `prefix`.
    pub(crate) fn create_baseline(&self, prefix: &str) {
        let created = std::process::Command::new(env!("CARGO_BIN_EXE_tidemark"))
            .args([
                "baseline",
                "create",
                "--from",
                "2013-01-01",
                "--to",
                "2013-03-01",
                "--file",
                "data/flights-demo.ndjson.zst",
                "--topic-prefix",
                prefix,
            ])
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.kafka.bootstrap_servers)
            .env_remove("MONGODB_URI")
            .output()
            .expect("the binary is built");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    }

    /// Follows a topic of one partition from its beginning; waits until it is there.
    pub(crate) fn follow(&self, topic: &str) -> Box<dyn Follower> {
        let log = self.log();
        support::wait_until("a stage creates its topics", Duration::from_secs(60), || log.follow(topic, &[0]).ok())
    }
}

/// Returns the sum of the sequences of `tickets` in the newest position that comes within `time`.
fn sequences(positions: &mut dyn Follower, time: Duration) -> Option<u64> {
    let records = positions.poll(time).expect("the broker is up");
    let newest = records.last()?.value.clone()?;
    let position = Position::decode(&newest).expect("tail writes positions");
    Some(position.tickets.iter().map(|head| head.chain.seq).sum())
}

/// Returns the first `count` completed flights as documents.
pub(crate) fn flights(count: usize) -> Vec<Document> {
    super::flights::lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(&line).expect("JSON"))
        .filter(|flight| flight["status"] == "COMPLETED")
        .take(count)
        .map(|flight| {
            let mut document = bson::serialize_to_document(&flight).expect("a flight is an object");
            let id = document.get("ticket_id").expect("a flight has an id").clone();
            document.insert("_id", id);
            document
        })
        .collect()
}

async fn now(client: &Client) -> Timestamp {
    let reply = client.database("admin").run_command(doc! { "ping": 1 }).await.expect("mongod is up");
    reply.get_timestamp("operationTime").expect("a replica set says its time")
}

pub(super) async fn insert(client: &Client, database: &str, documents: &[Document]) {
    let collection = client.database(database).collection::<Document>(COLLECTION);
    for chunk in documents.chunks(1_000) {
        let concern = WriteConcern::builder().w(mongodb::options::Acknowledgment::Majority).build();
        collection.insert_many(chunk).ordered(false).write_concern(concern).await.expect("mongod takes the flights");
    }
}

async fn complete(client: &Client, database: &str, documents: &[Document]) {
    for chunk in documents.chunks(1_000) {
        let updates: Vec<Document> = chunk
            .iter()
            .map(|d| doc! { "q": { "_id": d.get("_id").expect("it has one").clone() }, "u": { "$set": { "status": "COMPLETED" } } })
            .collect();
        let command = doc! { "update": COLLECTION, "updates": updates, "ordered": false, "writeConcern": { "w": "majority" } };
        client.database(database).run_command(command).await.expect("mongod takes the updates");
    }
}

/// What a bare cursor asks for.
#[derive(Clone)]
struct Bare {
    /// Stages that the server runs. Tail's leave on the server what the spec does not name, and that costs the server.
    pipeline: Vec<Document>,
    /// Whether the documents of updates are fetched as tail does: one `find` by `_id` a thousand.
    gets_documents: bool,
}

/// Drains the backlog with a bare cursor: raw documents, nothing decoded. Returns events per second from the first to the last.
async fn bare(client: &Client, database: &str, since: Timestamp, what: Bare) -> f64 {
    let options = ChangeStreamOptions::builder().start_at_operation_time(since).batch_size(1_000).build();
    let collection = client.database(database).collection::<RawDocumentBuf>(COLLECTION);
    let stream = collection.watch().pipeline(what.pipeline).with_options(options).await;
    let mut stream = stream.expect("a change stream").with_type::<RawDocumentBuf>();
    let (mut begun, mut ids) = (None, Vec::new());
    for event_number in 1..=BACKLOG {
        let event = stream.next().await.expect("the stream goes on").expect("an event");
        begun.get_or_insert_with(Instant::now);
        if what.gets_documents {
            let key = event.get_document("documentKey").expect("an update has a key");
            let id: RawBson = key.get("_id").expect("readable").expect("a key has an _id").into();
            ids.push(Bson::try_from(id).expect("a plain id"));
            if ids.len() == 1_000 || event_number == BACKLOG {
                let filter = doc! { "_id": { "$in": std::mem::take(&mut ids) } };
                let mut found = collection.find(filter).batch_size(1_000).await.expect("mongod is up");
                while found.advance().await.expect("mongod is up") {}
            }
        }
    }
    (BACKLOG - 1) as f64 / begun.expect("there was a first").elapsed().as_secs_f64()
}

struct Drain {
    per_second: f64,
    cpu_seconds_per_100k: f64,
    peak_mb: f64,
}

/// Lets a tail, whose position is before the backlog, drain it; returns tickets per second, and the tail.
pub(super) fn drained<T>(bench: &Bench, prefix: &str, start: impl FnOnce() -> T) -> (f64, T) {
    let mut positions = bench.follow(&Topics::new(prefix).positions);
    let mut before = 0;
    while let Some(sum) = sequences(positions.as_mut(), Duration::from_millis(500)) {
        before = sum;
    }
    let tail = start();
    let (mut first, mut last) = (None, before);
    let deadline = Instant::now() + Duration::from_secs(180);
    // Marks come on top of the tickets; the last position is reached when nothing has come for a second.
    let mut ended = Instant::now();
    while last < before + BACKLOG || ended.elapsed() < Duration::from_secs(1) {
        assert!(Instant::now() < deadline, "tail came to {} of {BACKLOG}", last - before);
        if let Some(sum) = sequences(positions.as_mut(), Duration::from_millis(5)).filter(|sum| *sum > last) {
            first.get_or_insert((Instant::now(), sum));
            (last, ended) = (sum, Instant::now());
        }
    }
    let (begun, at) = first.expect("something came");
    ((last - at) as f64 / ended.duration_since(begun).as_secs_f64(), tail)
}

fn drain(bench: &Bench, prefix: &str, database: &str) -> Drain {
    let (per_second, tidemark) = drained(bench, prefix, || bench.run(prefix, database, "tail", &[]));
    Drain { per_second, cpu_seconds_per_100k: tidemark.cpu_seconds() / BACKLOG as f64 * 1e5, peak_mb: tidemark.memory_mb("VmHWM") }
}

pub(crate) fn inserts(runs: usize) -> Vec<Figure> {
    measure(runs, "backlog of inserts", false)
}

pub(crate) fn updates(runs: usize) -> Vec<Figure> {
    measure(runs, "backlog of updates", true)
}

/// Commits positions before the backlog, then stops: what a tail that was down for a while comes back to.
pub(super) fn commit_positions<'p>(bench: &Bench, database: &str, prefixes: impl Iterator<Item = &'p String>) {
    for prefix in prefixes {
        let tidemark = bench.run(prefix, database, "tail", &[]);
        let mut positions = bench.follow(&Topics::new(prefix).positions);
        support::wait_until("tail commits its position", Duration::from_secs(60), || {
            sequences(positions.as_mut(), Duration::from_millis(100))
        });
        tidemark.stop();
    }
}

fn measure(runs: usize, name: &str, by_update: bool) -> Vec<Figure> {
    let bench = Bench::start();
    let client = bench.client();
    let database = "backlog";
    let mut documents = flights(usize::try_from(BACKLOG).expect("it fits"));
    if by_update {
        for document in &mut documents {
            document.insert("status", "EXECUTING");
        }
        bench.runtime.block_on(insert(&client, database, &documents));
    } else {
        bench.runtime.block_on(async { client.database(database).create_collection(COLLECTION).await }).expect("a new database");
    }
    let prefixes: Vec<String> = (0..runs).map(|run| format!("backlog{run}")).collect();
    commit_positions(&bench, database, prefixes.iter());
    let since = bench.runtime.block_on(now(&client));
    if by_update {
        bench.runtime.block_on(complete(&client, database, &documents));
    } else {
        bench.runtime.block_on(insert(&client, database, &documents));
    }
    drop(documents);
    let everything = Bare { pipeline: Vec::new(), gets_documents: by_update };
    let as_tail = Bare { pipeline: stages(&super::flights::spec()), gets_documents: by_update };
    let (mut ours, mut theirs, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    for prefix in &prefixes {
        let them = bench.runtime.block_on(bare(&client, database, since, everything.clone()));
        let same = bench.runtime.block_on(bare(&client, database, since, as_tail.clone()));
        let us = drain(&bench, prefix, database);
        eprintln!(
            "  {:.0}/s against {them:.0}/s, {same:.0}/s with tail's pipeline; {:.2} CPU-s per 100,000, {:.0} MB",
            us.per_second, us.cpu_seconds_per_100k, us.peak_mb
        );
        theirs.push(them);
        asked.push(same);
        ours.push(us);
    }
    let of = |pick: fn(&Drain) -> f64| median(&ours.iter().map(pick).collect::<Vec<_>>());
    let (rate, bare) = (of(|d| d.per_second), median(&theirs));
    let (cpu, memory) = (of(|d| d.cpu_seconds_per_100k), of(|d| d.peak_mb));
    vec![
        Figure {
            name: format!("{name}: committed in Kafka"),
            value: rate,
            unit: "tickets/s",
            baseline: Some(bare),
            against: "bare change-stream cursor",
            goal: ">= 0.8 of the cursor",
            holds: rate >= 0.8 * bare,
        },
        Figure {
            name: format!("{name}: committed in Kafka, against the same question"),
            value: rate,
            unit: "tickets/s",
            baseline: Some(median(&asked)),
            against: "bare cursor with tail's server-side pipeline",
            goal: "none (the ceiling of a reader to whom the server sends the spec's fields alone)",
            holds: true,
        },
        Figure {
            name: format!("{name}: CPU"),
            value: cpu,
            unit: "s per 100,000",
            baseline: None,
            against: "",
            goal: "<= 1 s",
            holds: cpu <= 1.0,
        },
        Figure {
            name: format!("{name}: peak memory"),
            value: memory,
            unit: "MB",
            baseline: None,
            against: "",
            goal: "<= 100 MB",
            holds: memory <= 100.0,
        },
    ]
}
