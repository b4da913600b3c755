//! What MongoDB may do to a change stream: take its collection away, forget, freeze, lose its majority, be another one altogether.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::options::WriteConcern;
use tidemark::spec::Spec;
use tidemark::stage::State;
use tidemark::tail::position::Position;
use tidemark::tail::{self, Place};

use crate::support::mongo::Mongo;
use crate::support::replica_set::ReplicaSet;
use crate::support::{Deployment, Kafka, wait_until};
use crate::tail_gap::{forget, gaps};
use crate::tail_mongo::{Running, World, completed, executing, name};

const LIMIT: Duration = Duration::from_secs(60);

fn arrives(world: &World, id: i32) {
    wait_until("the ticket arrives", LIMIT, || world.tickets().contains_key(&name(id)).then_some(()));
}

fn says(stage: &Running, words: &str) -> bool {
    let health = stage.context.health.all();
    matches!(health.get(tail::PART), Some(State::Waiting(said) | State::Ready(said)) if said.contains(words))
}

fn ask(world: &World, database: &str, command: Document) {
    let client = world.collection.client();
    world.runtime.block_on(async { client.database(database).run_command(command).await }).unwrap();
}

/// Returns the last position that was committed.
fn position(world: &World) -> Position {
    let mut reader = world.target.reader().unwrap();
    let topic = world.topics().positions;
    let bounds = reader.bounds(&topic, 0).unwrap();
    let mut last = None;
    let mut keep = |record: tidemark::log::Delivered| {
        last = record.value;
        std::ops::ControlFlow::Continue(())
    };
    reader.read(&topic, 0, bounds.low, bounds.end, &mut keep).unwrap();
    Position::decode(&last.unwrap()).unwrap()
}

fn seconds(world: &World) -> u32 {
    position(world).place.time().unwrap().0
}

fn seconds_of_the_server(world: &World) -> u32 {
    let client = world.collection.client();
    let hello = world.runtime.block_on(async { client.database("admin").run_command(doc! { "hello": 1 }).await }).unwrap();
    hello.get_timestamp("operationTime").unwrap().time
}

#[test]
fn a_collection_that_is_renamed_away_or_replaced_by_another_is_followed_by_its_name() {
    let world = World::new("renamed");
    let stage = world.start();
    let (database, collection) = (world.collection.namespace().db, world.collection.name().to_owned());
    let place = |name: &str| format!("{database}.{name}");
    world.insert([completed(1)]);
    arrives(&world, 1);
    ask(&world, "admin", doc! { "renameCollection": place(&collection), "to": place("old") });
    world.insert([completed(2)]);
    arrives(&world, 2);
    // What comes in by a rename was completed elsewhere.
    ask(&world, &database, doc! { "insert": "fresh", "documents": [completed(3)] });
    ask(&world, "admin", doc! { "renameCollection": place("fresh"), "to": place(&collection), "dropTarget": true });
    world.insert([completed(4)]);
    arrives(&world, 4);
    stage.stop();
    world.insert([completed(5)]);
    ask(&world, "admin", doc! { "renameCollection": place(&collection), "to": place("older") });
    world.insert([completed(6)]);
    let stage = world.start();
    let all = world.settle(100, 5);
    assert!(all.values().all(|times| times.len() == 1) && !all.contains_key(&name(3)), "{all:?}");
    stage.stop();
}

#[test]
fn a_database_that_is_dropped_and_made_anew_is_followed() {
    let world = World::new("dropped_database");
    let stage = world.start();
    let database = world.collection.namespace().db;
    for round in 0..3 {
        world.insert([completed(round)]);
        arrives(&world, round);
        ask(&world, &database, doc! { "dropDatabase": 1 });
    }
    stage.stop();
    world.insert([completed(10)]);
    ask(&world, &database, doc! { "dropDatabase": 1 });
    world.insert([completed(11)]);
    let stage = world.start();
    // What was gone before it could be read was in its event: an insert has all of it.
    let all = world.settle(100, 5);
    assert!(all.values().all(|times| times.len() == 1), "{all:?}");
    stage.stop();
}

#[test]
fn under_another_spec_the_stream_goes_on_by_time_and_repeats_nothing() {
    let mut world = World::new("other_spec");
    let stage = world.start();
    let client = world.collection.client().clone();
    world.runtime.block_on(async {
        let mut session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        for id in 0..20 {
            world.collection.insert_one(completed(id)).session(&mut session).await.unwrap();
        }
        session.commit_transaction().await.unwrap();
    });
    wait_until("the transaction's tickets arrive", LIMIT, || (world.tickets().len() == 20).then_some(()));
    stage.stop();
    world.insert([completed(20), executing(21)]);
    let text = include_str!("../config/execution-tickets.toml");
    let changed = text.replace("completed = [\"COMPLETED\"]", "completed = [\"COMPLETED\", \"DONE\"]");
    assert_ne!(text, changed);
    world.spec = Arc::new(Spec::from_toml(&changed).unwrap());
    let stage = world.start();
    world.update(21, doc! { "status": "DONE" });
    let all = world.settle(100, 22);
    assert!(all.values().all(|times| times.len() == 1), "{all:?}");
    stage.stop();
}

#[test]
fn a_position_of_another_collection_or_of_the_future_is_refused_by_name() {
    let mut world = World::new("elsewhere");
    let stage = world.start();
    world.insert([completed(1)]);
    arrives(&world, 1);
    stage.stop();
    let refusal = |world: &World| world.launch().thread.join().unwrap().unwrap_err().to_string();
    let ours = world.config.mongodb.database.clone();

    world.config.mongodb.database = Some("tail_somewhere_else".to_owned());
    let reason = refusal(&world);
    for part in ["rs0 tail_elsewhere.execution_tickets", "rs0 tail_somewhere_else.execution_tickets", "kafka.topic_prefix"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }

    // Another cluster of the same name, whose clock is behind.
    world.config.mongodb.database = ours;
    let mut future = position(&world);
    let Place::Stream { time, .. } = &mut future.place else { panic!("{future:?}") };
    time.0 += 10_000;
    let record = tidemark::log::Record {
        topic: world.topics().positions,
        partition: 0,
        key: Some(future.spec.clone().into()),
        value: Some(future.encode().into()),
        headers: vec![],
    };
    let transaction = tidemark::log::Transaction { records: vec![record], ..Default::default() };
    world.target.producer("tests").unwrap().transact(transaction).unwrap();
    let reason = refusal(&world);
    assert!(reason.contains("later than the server's time") && reason.contains("another cluster"), "{reason}");
}

#[test]
fn a_token_that_the_server_does_not_find_is_refused_by_name() {
    let mut world = World::new("token");
    let stage = world.start();
    world.insert([completed(1)]);
    arrives(&world, 1);
    stage.stop();
    let uri = format!("{}&appName=token", crate::support::mongo().uri);
    world.config.mongodb.uri = Some(uri.into());
    let point = |mode: Bson| {
        let data = doc! { "failCommands": ["aggregate"], "errorCode": 280, "appName": "token" };
        doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data }
    };
    ask(&world, "admin", point("alwaysOn".into()));
    let reason = world.launch().thread.join().unwrap().unwrap_err().to_string();
    ask(&world, "admin", point("off".into()));
    assert!(reason.contains("tail_token.execution_tickets") && reason.contains("resume token is not one of"), "{reason}");
    let stage = world.start();
    world.settle(100, 1);
    stage.stop();
}

/// Has the server fail these commands of tail's with that error, from now on. The server must be the test's own.
fn fail(world: &World, commands: &[&str], code: i32) {
    let data = doc! { "failCommands": commands.to_vec(), "errorCode": code, "appName": "tidemark" };
    ask(world, "admin", doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data });
}

fn fail_no_more(world: &World) {
    ask(world, "admin", doc! { "configureFailPoint": "failCommand", "mode": "off" });
}

/// Waits until the stage ends by itself; returns why.
fn why_it_ended(stage: Running) -> String {
    wait_until("the stage ends", LIMIT, || stage.thread.is_finished().then_some(()));
    stage.thread.join().unwrap().unwrap_err().to_string()
}

#[test]
fn a_cursor_that_has_lost_its_place_is_a_gap_only_where_nothing_can_be_opened_at_the_position_either() {
    let mongo = Mongo::start();
    let world = World::at(&mongo.uri, "place_lost");
    let stage = world.start();
    world.insert([completed(1)]);
    arrives(&world, 1);
    // 136, CappedPositionLost: what follows the cursor is gone. What follows the position may still be there.
    fail(&world, &["getMore"], 136);
    wait_until("the cursor is lost", LIMIT, || says(&stage, "(136 ").then_some(()));
    world.insert([completed(2)]);
    fail_no_more(&world);
    arrives(&world, 2);
    assert_eq!(gaps(&world), []);

    fail(&world, &["aggregate", "getMore"], 136);
    let reason = why_it_ended(stage);
    assert!(reason.contains("tail.history_lost = \"reread\"") && reason.contains("(136 "), "{reason}");
    fail_no_more(&world);
    let told = gaps(&world);
    assert_eq!(told.len(), 1, "{told:?}");

    world.insert([completed(3)]);
    let stage = world.start();
    let all = world.settle(100, 3);
    assert!(all.values().all(|times| times.len() == 1), "{all:?}");
    assert_eq!(gaps(&world), told);
    stage.stop();
}

#[test]
fn a_post_image_that_is_said_to_be_missing_is_refused_by_name_and_nothing_is_lost() {
    let mongo = Mongo::start();
    let world = World::at(&mongo.uri, "no_image");
    let stage = world.start();
    world.insert([completed(1)]);
    arrives(&world, 1);
    // 47, NoMatchingDocument: tail requires no image, so a person has to look who does.
    fail(&world, &["getMore"], 47);
    let reason = why_it_ended(stage);
    assert!(reason.contains("a post-image that is required is missing") && reason.contains("(47 "), "{reason}");
    fail_no_more(&world);
    world.insert([completed(2)]);
    let stage = world.start();
    let all = world.settle(100, 2);
    assert!(all.values().all(|times| times.len() == 1), "{all:?}");
    assert_eq!(gaps(&world), []);
    stage.stop();
}

/// A document whose event, with both images, passes 16 MB.
fn large(id: i32, text: char) -> Document {
    let mut document = executing(id);
    document.insert("state", doc! { "v1.phase": "EXECUTING", "text": text.to_string().repeat(9 << 20) });
    document
}

#[test]
fn a_ticket_of_16_mb_is_read_and_one_whose_event_cannot_be_sent_is_a_dead_letter_by_its_key() {
    let world = World::new("large");
    world.keep_images();
    let mut whole = executing(1);
    whole.insert("parameters", doc! { "text": "x".repeat(15 << 20) });
    world.insert([whole, executing(2)]);
    let stage = world.start();
    let set = doc! { "status": "COMPLETED", "parameters": { "text": "y".repeat(15 << 20) } };
    world.update(1, set);
    world.update(2, doc! { "status": "COMPLETED" });
    world.settle(100, 2);
    assert_eq!(world.dead(), []);
    stage.stop();

    // A status that a projection cannot spell takes its parent along, in both images.
    let mut world = World::new("too_large");
    world.keep_images();
    let text = include_str!("../config/execution-tickets.toml");
    let nested = text.replace("status = \"status\"", "status = [\"state\", \"v1.phase\"]");
    assert_ne!(text, nested);
    world.spec = Arc::new(Spec::from_toml(&nested).unwrap());
    let small = |id: i32| {
        let mut document = completed(id);
        document.insert("state", doc! { "v1.phase": "COMPLETED" });
        document
    };
    let complete = |id: i32| {
        let mut document = large(id, 'y');
        document.insert("state", doc! { "v1.phase": "COMPLETED", "text": "z".repeat(9 << 20) });
        document
    };
    world.insert([large(1, 'x'), large(2, 'x')]);
    let stage = world.start();
    world.insert([small(10)]);
    world.replace(1, large(1, 'w'));
    world.insert([small(11)]);
    world.replace(1, complete(1));
    world.insert([small(12)]);
    wait_until("what came behind it arrives", LIMIT, || world.tickets().contains_key(&name(12)).then_some(()));
    stage.stop();
    world.insert([small(13)]);
    world.replace(2, complete(2));
    world.insert([small(14)]);
    let stage = world.start();
    wait_until("what came behind the other arrives", LIMIT, || world.tickets().contains_key(&name(14)).then_some(()));
    stage.stop();
    let there: Vec<(String, usize)> = world.tickets().into_iter().map(|(id, times)| (id, times.len())).collect();
    assert_eq!(there, [10, 11, 12, 13, 14].map(|id| (name(id), 1)));
    let dead = world.dead();
    let reasons: Vec<&str> = dead.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(reasons, ["too_large", "too_large"]);
    let details: Vec<bool> = dead.iter().map(|(_, detail)| detail.contains("\"$numberInt\":\"")).collect();
    assert_eq!(details, [true, true], "{dead:?}");
}

#[test]
fn an_idle_collection_outlives_its_oplog() {
    let mongo = Mongo::forgetful();
    let world = World::at(&mongo.uri, "idle");
    let stage = world.start();
    world.insert([completed(1)]);
    arrives(&world, 1);
    // Whatever the position was until now, MongoDB has forgotten what followed it.
    forget(&world);
    let now = seconds_of_the_server(&world);
    wait_until("the position has moved on without a ticket", LIMIT, || (seconds(&world) > now).then_some(()));
    stage.stop();
    let stage = world.start();
    world.settle(100, 1);
    assert_eq!(gaps(&world), []);
    stage.stop();
}

#[test]
fn when_half_of_the_oplog_has_passed_the_position_somebody_is_told() {
    let (mongo, kafka) = (Mongo::with_small_oplog(), Kafka::start());
    let mut deployment = Deployment::new("oplog-runs-out", 1);
    deployment.set("MONGODB_URI", &mongo.uri);
    deployment.set("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap_servers);
    let runtime = crate::support::mongo::runtime();
    let client = runtime.block_on(Client::with_uri_str(&mongo.uri)).unwrap();
    let insert = |collection: &str, document: Document| {
        runtime
            .block_on(async { client.database("oplog-runs-out").collection::<Document>(collection).insert_one(document).await })
            .unwrap();
    };
    let tail = deployment.start("one", &["run", "--stages", "tail"]);
    let used = || {
        let page = tail.get("/metrics").map(|(_, page)| page).unwrap_or_default();
        page.lines().find_map(|line| line.strip_prefix("tidemark_tail_oplog_used_ratio ")?.parse::<f64>().ok())
    };
    tail.wait_for("tail");
    insert("execution_tickets", completed(1));
    wait_until("the ticket is in the log", LIMIT, || (tail.metric("tidemark_tail_tickets_total") == 1).then_some(()));
    let fresh = wait_until("the oplog is looked at", LIMIT, used);
    assert!(fresh < 0.5, "{fresh}");
    // Kafka takes nothing any more, and the oplog fills.
    kafka.signal("STOP");
    insert("execution_tickets", completed(2));
    (0..90).for_each(|_| insert("junk", doc! { "x": "x".repeat(1_000_000) }));
    wait_until("half of the oplog is used up", LIMIT * 3, || {
        insert("junk", doc! { "x": 1 });
        std::thread::sleep(Duration::from_millis(200));
        used().filter(|used| *used > 0.5)
    });
    assert!(tail.log().contains("MongoDB will soon have forgotten"), "{}", tail.log());
    kafka.signal("CONT");
    wait_until("tail has caught up", LIMIT * 2, || used().filter(|used| *used < 0.5));
    wait_until("the other ticket is in the log", LIMIT, || (tail.metric("tidemark_tail_tickets_total") == 2).then_some(()));
    tail.stop();
}

#[test]
fn what_no_majority_acknowledged_and_was_rolled_back_is_not_in_the_log() {
    let mut set = ReplicaSet::start(Duration::from_secs(10));
    let world = World::at(&set.uri, "majority");
    let stage = world.start();
    world.insert([completed(1)]);
    arrives(&world, 1);
    let primary = set.kill_majority();
    world.runtime.block_on(async {
        let ours = WriteConcern::builder().w(mongodb::options::Acknowledgment::Nodes(1)).journal(true).build();
        let client = Client::with_uri_str(set.member_uri(primary)).await.unwrap();
        let collection = client.database(&world.collection.namespace().db).collection::<Document>(world.collection.name());
        // Acknowledged by one member, and seen by whoever reads what is only there.
        collection.insert_one(completed(2)).write_concern(ours).await.unwrap();
        let majority = WriteConcern::builder().w(mongodb::options::Acknowledgment::Majority).w_timeout(Duration::from_secs(1)).build();
        collection.insert_one(completed(3)).write_concern(majority).await.unwrap_err();
        assert_eq!(collection.count_documents(doc! { "_id": { "$in": [2, 3] } }).await.unwrap(), 2);
    });
    assert!(!world.tickets().contains_key(&name(2)) && !world.tickets().contains_key(&name(3)));
    set.kill_and_start_others(primary);
    set.wait_for_primary();
    let client = world.runtime.block_on(Client::with_uri_str(&set.uri)).unwrap();
    let collection = client.database(&world.collection.namespace().db).collection::<Document>(world.collection.name());
    wait_until("a majority takes a ticket", LIMIT, || world.runtime.block_on(async { collection.insert_one(completed(4)).await }).ok());
    arrives(&world, 4);
    // The old primary comes back, and rolls back what only it had.
    set.start_all();
    wait_until("three members go on", LIMIT, || set.has_all().then_some(()));
    world.runtime.block_on(async { collection.insert_one(completed(5)).await }).unwrap();
    arrives(&world, 5);
    let there: Vec<String> = world.tickets().into_keys().collect();
    assert_eq!(there, [name(1), name(4), name(5)]);
    assert_eq!(gaps(&world), []);
    stage.stop();
}

#[test]
fn a_frozen_server_is_noticed_and_what_completes_after_it_arrives_once() {
    let mongo = Mongo::start();
    let world = World::at(&mongo.uri, "frozen");
    let stage = world.start();
    world.insert([completed(1)]);
    arrives(&world, 1);
    mongo.signal("STOP");
    wait_until("the silence is noticed", LIMIT, || says(&stage, "silent for").then_some(()));
    mongo.signal("CONT");
    world.insert([completed(2)]);
    arrives(&world, 2);
    let all = world.settle(100, 2);
    assert!(all.values().all(|times| times.len() == 1), "{all:?}");
    stage.stop();
}
