//! MongoDB forgets what came after tail's position: the log says so once, and nothing that can still be read is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Binary, DateTime, Document, Timestamp, doc, spec::BinarySubtype};
use tidemark::config::HistoryLost;
use tidemark::log::memory::Fault;

use crate::support::mongo::Mongo;
use crate::support::wait_until;
use crate::tail_mongo::{World, completed, name};

const LIMIT: Duration = Duration::from_secs(60);
const PARTITIONS: usize = 3;

/// Writes elsewhere until the oplog's oldest entry is younger than all that is there now.
pub(crate) fn forget(world: &World) {
    let client = world.collection.client();
    let junk = client.database("elsewhere").collection::<Document>("junk");
    let large = doc! { "x": Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 1_000_000] } };
    world.runtime.block_on(async {
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

fn unusable(id: i32) -> Document {
    let mut document = completed(id);
    document.insert("actual_duration_ms", -5);
    document
}

/// Tickets before, in the gap (one of them is deleted, two are of no use), and after; returns when the gap's began and ended.
fn lose(world: &World) -> (i64, i64) {
    let stage = world.start();
    let mut old = completed(500);
    old.insert("completed_at", DateTime::from_millis(DateTime::now().timestamp_millis() - 8 * 86_400_000));
    world.insert((0..30).map(completed).chain([unusable(30), old]));
    wait_until("the tickets arrive", LIMIT, || (world.tickets().len() == 31 && world.dead().len() == 1).then_some(()));
    stage.stop();
    let from = DateTime::now().timestamp_millis();
    world.insert((100..120).map(completed).chain([unusable(120), unusable(121)]));
    world.delete(119);
    let to = DateTime::now().timestamp_millis();
    forget(world);
    (from, to)
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
    wait_until("what came after arrives", LIMIT, || world.tickets().contains_key(&name(200)).then_some(()));
    stage.stop();
    each_is_there_once(&world, (0..30).chain(100..119).chain([200, 500]));
    assert_eq!(world.dead().len(), 3, "each unusable one once");
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
        wait_until("what came after arrives", LIMIT, || world.tickets().contains_key(&crate::tail_mongo::name(200)).then_some(()));
        stage.stop();
        each_is_there_once(&world, (0..30).chain(100..119).chain([200, 500]));
        assert_eq!(world.dead().len(), 3, "{name}");
        let gaps = gaps(&world);
        assert!(gaps[0].0 <= from && to <= gaps.last().unwrap().1, "{name}: {gaps:?} contain {from} to {to}");
        assert!(gaps.windows(2).all(|pair| pair[0].1 == pair[1].0), "{name}: {gaps:?}");
    }
}
