//! MongoDB forgets what came after tail's position: the log says so once, and nothing that can still be read is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Binary, DateTime, Document, Timestamp, doc, spec::BinarySubtype};
use mongodb::Client;
use tidemark::config::HistoryLost;
use tidemark::log::memory::Fault;
use tidemark::stage::State;
use tidemark::tail;
use tokio::runtime::Runtime;

use crate::audit::audit;
use crate::support::mongo::{Mongo, runtime};
use crate::support::{Deployment, Seen, wait_until};
use crate::tail_mongo::{Running, World, completed, name, unusable, without_id};

const LIMIT: Duration = Duration::from_secs(60);
const PARTITIONS: usize = 3;

/// Writes elsewhere until the oplog's oldest entry is younger than all that is there now.
pub(crate) fn forget(world: &World) {
    forget_at(&world.runtime, world.collection.client());
}

fn forget_at(runtime: &Runtime, client: &Client) {
    let junk = client.database("elsewhere").collection::<Document>("junk");
    let large = doc! { "x": Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 1_000_000] } };
    runtime.block_on(async {
        let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.unwrap();
        let now = hello.get_timestamp("operationTime").unwrap();
        let oplog = client.database("local").collection::<Document>("oplog.rs");
        for _ in 0..2_000 {
            junk.insert_one(large.clone()).await.unwrap();
            let oldest = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.unwrap().unwrap();
            let oldest: Timestamp = oldest.get_timestamp("ts").unwrap();
            if oldest > now {
                return;
            }
        }
        panic!("mongod still remembers");
    });
}

/// Returns the gaps in order; each is in every partition.
pub(crate) fn gaps(world: &World) -> Vec<(i64, i64)> {
    let mut copies: BTreeMap<(i64, i64), usize> = BTreeMap::new();
    for record in world.records(&world.topics().tickets) {
        if record.header("kind") == Some(b"gap") {
            let gap: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
            *copies.entry((gap["from_ms"].as_i64().unwrap(), gap["to_ms"].as_i64().unwrap())).or_default() += 1;
        }
    }
    assert!(copies.values().all(|copies| *copies == PARTITIONS), "{copies:?}");
    copies.into_keys().collect()
}

/// Tickets before, in the gap (one of them is deleted, two are of no use), and after; returns when the gap's began and ended.
fn lose(world: &World) -> (i64, i64) {
    let stage = world.start();
    let mut old = completed(500);
    old.insert("completed_at", DateTime::from_millis(DateTime::now().timestamp_millis() - 8 * 86_400_000));
    let mut future = completed(31);
    future.insert("completed_at", DateTime::from_millis(DateTime::now().timestamp_millis() + 8 * 86_400_000));
    world.insert((0..30).map(completed).chain([unusable(30), future, without_id(32), old]));
    wait_until("the tickets arrive", LIMIT, || (world.tickets().len() == 31 && world.dead().len() == 3).then_some(()));
    stage.stop();
    let from = DateTime::now().timestamp_millis();
    world.insert((100..120).map(completed).chain([unusable(120), unusable(121)]));
    world.delete(119);
    let to = DateTime::now().timestamp_millis();
    forget(world);
    (from, to)
}

/// Waits until the collection has been read again, and 200 is there, which completed meanwhile.
fn all_is_read(world: &World, stage: &Running) {
    wait_until("the collection is read again", LIMIT, || {
        let health = stage.context.health.all();
        let is_read = matches!(health.get(tail::PART), Some(State::Ready(words)) if !words.contains("history"));
        (is_read && world.tickets().contains_key(&name(200))).then_some(())
    });
}

fn each_is_there_once(world: &World, ids: impl Iterator<Item = i32>) {
    let tickets = world.tickets();
    let times: BTreeMap<&str, usize> = tickets.iter().map(|(id, completions)| (id.as_str(), completions.len())).collect();
    let names: Vec<String> = ids.map(name).collect();
    let wanted: BTreeMap<&str, usize> = names.iter().map(|name| (name.as_str(), 1)).collect();
    assert_eq!(times, wanted);
}

#[test]
fn a_lost_history_is_told_once_and_the_stage_stops_until_a_person_says_read_again() {
    let mongo = Mongo::forgetful();
    let mut world = World::at(&mongo.uri, "gap");
    let (from, to) = lose(&world);
    let mut told = Vec::new();
    for _ in 0..2 {
        let ended = world.launch().thread.join().unwrap();
        let reason = ended.unwrap_err().to_string();
        assert!(reason.contains("tail.history_lost = \"reread\""), "{reason}");
        let now = gaps(&world);
        assert_eq!(now.len(), 1, "however often it is started, the gap is told once");
        assert!(now[0].0 <= from && to <= now[0].1, "{now:?} contains {from} to {to}");
        told = now;
        // The server's time moves on, and what it moves on by is lost, too.
        std::thread::sleep(Duration::from_millis(1_100));
        world.insert([completed(150)]);
        world.delete(150);
    }
    forget(&world);

    world.config.tail.history_lost = HistoryLost::Reread;
    let stage = world.start();
    world.insert([completed(200)]);
    all_is_read(&world, &stage);
    stage.stop();
    each_is_there_once(&world, (0..30).chain(100..119).chain([200, 500]));
    assert_eq!(world.dead().len(), 5, "each unusable one once: {:?}", world.dead());
    let all = gaps(&world);
    assert_eq!((all.len(), all[0]), (2, told[0]));
    assert_eq!(all[0].1, all[1].0, "what was lost since is told by a second one, which begins where the first ends");

    let stage = world.start();
    world.insert([completed(201)]);
    wait_until("the stage goes on", LIMIT, || world.tickets().contains_key(&name(201)).then_some(()));
    stage.stop();
    each_is_there_once(&world, (0..30).chain(100..119).chain([200, 201, 500]));
    assert_eq!(gaps(&world), all);
}

#[test]
fn a_gap_that_is_torn_or_lost_on_its_way_is_told_all_the_same_and_no_moment_twice() {
    let mongo = Mongo::forgetful();
    for (name, faults) in [
        ("gap_torn", vec![Fault::Torn { visible: 1 }]),
        ("gap_torn_twice", vec![Fault::Torn { visible: 2 }, Fault::Torn { visible: 1 }]),
        ("gap_lost", vec![Fault::UnknownLost]),
        ("gap_visible", vec![Fault::UnknownVisible]),
        ("gap_aborted", vec![Fault::Abort]),
    ] {
        let mut world = World::at(&mongo.uri, name);
        world.config.tail.history_lost = HistoryLost::Reread;
        let (from, to) = lose(&world);
        for (after, fault) in faults.into_iter().enumerate() {
            world.log.inject("tidemark.tail", after, fault);
        }
        let stage = world.start();
        world.insert([completed(200)]);
        all_is_read(&world, &stage);
        stage.stop();
        each_is_there_once(&world, (0..30).chain(100..119).chain([200, 500]));
        assert_eq!(world.dead().len(), 5, "{name}");
        let gaps = gaps(&world);
        assert!(gaps[0].0 <= from && to <= gaps.last().unwrap().1, "{name}: {gaps:?} contain {from} to {to}");
        assert!(gaps.windows(2).all(|pair| pair[0].1 == pair[1].0), "{name}: {gaps:?}");
    }
}

/// Inserts tickets that complete now.
fn complete(deployment: &Deployment, ids: std::ops::Range<i32>) {
    deployment.insert(&ids.map(completed).collect::<Vec<_>>());
}

#[test]
fn on_real_servers_a_lost_history_is_one_gap_in_each_partition_one_alert_and_a_clean_audit() {
    let mongo = Mongo::forgetful();
    let mut deployment = Deployment::new("forgotten", 3);
    deployment.set("MONGODB_URI", &mongo.uri);
    deployment.written_at.clone_from(&mongo.uri);
    let start = |deployment: &Deployment| {
        let process = deployment.start("one", &["run", "--stages", "tail,watch,judge"]);
        process.wait_for("tail");
        process
    };
    let process = start(&deployment);
    complete(&deployment, 0..30);
    wait_until("the tickets are watched", LIMIT, || (process.metric("tidemark_watch_tickets_total") == 30).then_some(()));
    process.stop();

    let from = DateTime::now().timestamp_millis();
    complete(&deployment, 100..120);
    let runtime = runtime();
    let collection = deployment.collection(&runtime);
    runtime.block_on(async { collection.delete_one(doc! { "_id": 119 }).await }).unwrap();
    let to = DateTime::now().timestamp_millis();
    forget_at(&runtime, collection.client());

    deployment.set("TIDEMARK_TAIL_HISTORY_LOST", "reread");
    let process = start(&deployment);
    complete(&deployment, 200..201);
    // In each partition they stand behind the gap, so that its alert is out when all of them are watched.
    wait_until("what was lost and what came after is watched", LIMIT, || {
        (process.metric("tidemark_watch_tickets_total") >= 20).then_some(())
    });
    process.stop();

    let seen = deployment.read(None);
    let of_kind =
        |kind: &str| -> Vec<&Seen> { seen.iter().filter(|record| record.topic == "tickets" && record.headers["kind"] == kind).collect() };
    let copies = of_kind("gap");
    let mut partitions: Vec<u32> = copies.iter().map(|copy| copy.partition).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 1, 2], "{copies:?}");
    let gap = copies[0].json();
    assert!(copies.iter().all(|copy| copy.json() == gap), "{copies:?}");
    assert!(gap["from_ms"].as_i64().unwrap() <= from && to <= gap["to_ms"].as_i64().unwrap(), "{gap} contains {from} to {to}");

    let is_told =
        |record: &&Seen| record.topic == "alerts" && record.headers.get("ce_type").is_some_and(|kind| kind == "tidemark.alert.gap.v1");
    let alerts: Vec<&Seen> = seen.iter().filter(is_told).collect();
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    let alert = alerts[0].json();
    assert_eq!((&alert["control"], &alert["from_ms"], &alert["to_ms"]), (&gap["id"], &gap["from_ms"], &gap["to_ms"]));

    let mut ids: Vec<String> = of_kind("ticket").iter().map(|ticket| ticket.key.clone().unwrap()).collect();
    ids.sort_unstable();
    let mut wanted: Vec<String> = (0..30).chain(100..119).chain([200]).map(name).collect();
    wanted.sort_unstable();
    assert_eq!(ids, wanted, "each is there once");

    let (code, report) = audit(&deployment, &[]);
    assert_eq!((code, &report["clean"]), (0, &serde_json::Value::Bool(true)), "{report:#}");
    assert_eq!((&report["in_mongodb"], &report["in_log"]), (&50.into(), &50.into()), "{report:#}");
    let told = report["gaps"].as_array().unwrap();
    assert_eq!(told.len(), 1, "{report:#}");
    assert_eq!((&told[0]["from_ms"], &told[0]["to_ms"]), (&gap["from_ms"], &gap["to_ms"]));
}
