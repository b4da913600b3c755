//! Hostile tickets end to end: written to a real MongoDB between good ones, while every stage runs on a real Kafka.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use mongodb::Collection;
use mongodb::error::ErrorKind;
use mongodb::options::ChangeStreamPreAndPostImages;
use tidemark::spec::Spec;
use tidemark::tail::normalise::{Normalised, Normaliser, Unreadable};
use tokio::runtime::Runtime;

use crate::support::hostile::{Body, COMPLETED_MS, Expected, Hostile, hostile_documents, plain};
use crate::support::{Deployment, Process, Seen, wait_until};

const LIMIT: Duration = Duration::from_mins(2);

/// A record's key, if it has one, and the reason of a dead letter: how often each must be there.
type Records = BTreeMap<(Option<String>, Option<String>), u64>;

struct World {
    runtime: Runtime,
    collection: Collection<RawDocumentBuf>,
    normaliser: Normaliser,
    /// What must become of everything that was written.
    expected: Records,
    /// Fields of used tickets that cannot be read.
    unreadable: u64,
}

impl World {
    /// Makes the collection. It keeps images, so that every version of an updated ticket is the one that is judged.
    fn new(deployment: &Deployment) -> Self {
        let runtime = Runtime::new().unwrap();
        let collection = deployment.collection(&runtime);
        let database = collection.client().database(&collection.namespace().db);
        let images = ChangeStreamPreAndPostImages::builder().enabled(true).build();
        runtime.block_on(async { database.create_collection(collection.name()).change_stream_pre_and_post_images(images).await }).unwrap();
        let spec = Spec::from_toml(include_str!("../config/execution-tickets.toml")).unwrap();
        Self { runtime, collection, normaliser: Normaliser::new(&spec), expected: Records::new(), unreadable: 0 }
    }

    /// Inserts a document; false when MongoDB, or its driver, does not take it.
    fn takes(&self, document: RawDocumentBuf) -> bool {
        match self.runtime.block_on(async { self.collection.insert_one(document).await }) {
            Ok(_) => true,
            Err(error) => {
                let is_away =
                    matches!(*error.kind, ErrorKind::Io(_) | ErrorKind::ServerSelection { .. } | ErrorKind::ConnectionPoolCleared { .. });
                assert!(!is_away, "{error}");
                false
            }
        }
    }

    fn update(&self, id: &str, set: Document) {
        let update = async { self.collection.update_one(doc! { "_id": id }, doc! { "$set": set }).await };
        assert_eq!(self.runtime.block_on(update).unwrap().matched_count, 1);
    }

    /// Notes what must become of a document.
    fn expect(&mut self, name: &str, document: &RawDocumentBuf, expected: &Expected) {
        let (key, reason) = match (self.normaliser.from_bson(document, &mut Unreadable::default()), expected) {
            (_, Expected::NotCompleted) => return,
            (Normalised::Completed(ticket), Expected::Used(_)) => (Some(ticket.id), None),
            (Normalised::Completed(ticket), Expected::DeadInTail(reason)) => (Some(ticket.id), Some(*reason)),
            (Normalised::Dead(dead), Expected::Dead(reason)) => (dead.id, Some(*reason)),
            (other, expected) => panic!("{name}: {expected:?} was expected, not {other:?}"),
        };
        if let Expected::Used(fields) = expected {
            self.unreadable += fields.len() as u64;
        }
        let key = key.map(|id| String::from_utf8(id.key().into_owned()).unwrap());
        *self.expected.entry((key, reason.map(str::to_owned))).or_default() += 1;
    }

    /// Writes a hostile ticket; false when MongoDB does not take it. Its id is the document's too, where MongoDB allows that.
    fn write(&mut self, hostile: &Hostile) -> bool {
        let raw = match &hostile.body {
            Body::Json(_) => return false,
            Body::Bson(bytes) => RawDocumentBuf::from_bytes(bytes.clone()).unwrap(),
            Body::Document(document) => {
                let raw = RawDocumentBuf::try_from(document).unwrap();
                if let Some(id) = document.get("ticket_id") {
                    let mut with_id = document.clone();
                    with_id.insert("_id", id.clone());
                    if self.takes(RawDocumentBuf::try_from(&with_id).unwrap()) {
                        self.expect(hostile.name, &raw, &hostile.expected);
                        return true;
                    }
                }
                raw
            }
        };
        let is_taken = self.takes(raw.clone());
        if is_taken {
            self.expect(hostile.name, &raw, &hostile.expected);
        }
        is_taken
    }

    /// A good ticket that completes three times, with another target each time.
    fn good(&mut self, number: i64) {
        let name = good_name(number);
        let mut ticket = plain(name.as_str());
        ticket.insert("_id", &name);
        for time in 0..3 {
            let (completed_at, actual) = (COMPLETED_MS + number * 1_000 + time, 60_000 + time);
            if time == 0 {
                ticket.extend(doc! { "completed_at": completed_at, "actual_duration_ms": actual });
                assert!(self.takes(RawDocumentBuf::try_from(&ticket).unwrap()));
            } else {
                self.update(&name, doc! { "status": "EXECUTING" });
                self.update(&name, doc! { "status": "COMPLETED", "completed_at": completed_at, "actual_duration_ms": actual });
            }
        }
        *self.expected.entry((Some(name), None)).or_default() += 3;
    }

    /// One document that is another type's each time it completes, down to its id.
    fn write_shifty(&mut self) {
        let mut ticket = plain("shifty");
        ticket.extend(doc! { "_id": "shifty", "status": "EXECUTING" });
        assert!(self.takes(RawDocumentBuf::try_from(&ticket).unwrap()));
        let used = Expected::Used(&["retry_count"]);
        let steps = [
            (doc! { "status": "COMPLETED", "retry_count": "7" }, used.clone()),
            (doc! { "status": ["EXECUTING"] }, Expected::NotCompleted),
            (doc! { "status": "COMPLETED", "retry_count": [7], "completed_at": "2013-03-10T07:01:02Z" }, used.clone()),
            (doc! { "status": 1 }, Expected::NotCompleted),
            (doc! { "status": "COMPLETED", "ticket_id": 77_i64, "completed_at": DateTime::from_millis(COMPLETED_MS + 2_000) }, used),
            (doc! { "status": Bson::Null }, Expected::NotCompleted),
            (doc! { "status": "COMPLETED", "completed_at": true }, Expected::Dead("no_completed_at")),
            (doc! { "status": "EXECUTING", "ticket_id": Bson::Null }, Expected::NotCompleted),
            (doc! { "status": "COMPLETED", "completed_at": COMPLETED_MS + 3_000 }, Expected::Dead("bad_id")),
            (doc! { "note": "completed before" }, Expected::NotCompleted),
        ];
        for (set, expected) in steps {
            self.update("shifty", set.clone());
            ticket.extend(set);
            self.expect("shifty", &RawDocumentBuf::try_from(&ticket).unwrap(), &expected);
        }
    }

    fn expected_where(&self, is_dead: bool) -> u64 {
        self.expected.iter().filter(|((_, reason), _)| reason.is_some() == is_dead).map(|(_, times)| times).sum()
    }

    /// Waits until the process has counted everything that must become a record.
    fn settle(&self, process: &Process) {
        let wanted = [self.expected_where(false), self.expected_where(true)];
        wait_until("every ticket has become a record", LIMIT, || {
            let counted = ["tidemark_tail_tickets_total", "tidemark_tail_dead_letters_total"].map(|name| process.metric(name));
            counted.iter().zip(wanted).all(|(counted, wanted)| *counted >= wanted).then_some(())
        });
    }
}

fn good_name(number: i64) -> String {
    format!("good-{number}")
}

/// Counts the tickets and the dead letters that are there.
fn found(seen: &[Seen]) -> Records {
    let mut found = Records::new();
    for record in seen {
        let reason = match (record.topic.rsplit('.').next(), record.headers.get("kind").map(String::as_str)) {
            (Some("tickets"), Some("ticket")) => None,
            (Some("dead-letters"), _) => Some(record.json()["reason"].as_str().unwrap().to_owned()),
            _ => continue,
        };
        *found.entry((record.key.clone(), reason)).or_default() += 1;
    }
    found
}

#[test]
fn hostile_tickets_on_real_servers_are_used_or_dead_letters_once_and_the_good_ones_between_them_arrive_in_order() {
    let deployment = Deployment::new("hostile", 4);
    // With a baseline, so that watch makes features of everything that is used.
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/flights-demo.ndjson.zst");
    deployment.command(&["baseline", "create", "--from", "2013-01-01", "--to", "2013-03-01", "--file", file]);
    let mut world = World::new(&deployment);
    let process = deployment.start("one", &["run"]);
    process.wait_for("tail");

    let (mut taken, mut refused) = (0, Vec::new());
    let mut good = 0;
    for hostile in hostile_documents() {
        if world.write(&hostile) {
            taken += 1;
        } else if !matches!(hostile.body, Body::Json(_)) {
            refused.push(hostile);
        }
        world.good(good);
        good += 1;
    }
    world.write_shifty();
    world.good(good);
    assert!(taken >= 60, "only {taken} kinds were written");
    let names: Vec<&str> = refused.iter().map(|hostile| hostile.name).collect();
    assert!(refused.iter().all(|hostile| matches!(hostile.body, Body::Bson(_))), "MongoDB takes every whole document, but not {names:?}");
    world.settle(&process);

    let seen = deployment.read(None);
    let found = found(&seen);
    let wrong: Vec<_> = world.expected.keys().chain(found.keys()).filter(|which| world.expected.get(which) != found.get(which)).collect();
    assert!(
        wrong.is_empty(),
        "{wrong:#?}: {:?} were expected, {:?} are there",
        wrong.iter().map(|which| world.expected.get(which)).collect::<Vec<_>>(),
        wrong.iter().map(|which| found.get(which)).collect::<Vec<_>>()
    );
    for number in 0..=good {
        let name = good_name(number);
        let its = seen.iter().filter(|record| record.key.as_deref() == Some(&name) && record.topic.rsplit('.').next() == Some("tickets"));
        let actuals: Vec<String> = its.map(|record| record.json()["actual"].as_f64().unwrap().to_string()).collect();
        assert_eq!(actuals, ["60000", "60001", "60002"], "{name}");
    }
    assert!(!seen.iter().any(|record| record.value.as_deref().is_some_and(|value| value.contains("hunter2"))));

    // The stream is alive, in the process that was started, which has counted each once.
    world.good(good + 1);
    world.settle(&process);
    assert!(process.is_alive());
    assert_eq!(process.metric("tidemark_tail_tickets_total"), world.expected_where(false));
    assert_eq!(process.metric("tidemark_tail_dead_letters_total"), world.expected_where(true));
    wait_until("watch has met every ticket", LIMIT, || {
        let met = ["tidemark_watch_tickets_total", "tidemark_watch_repeated_tickets_total"].map(|name| process.metric(name));
        (met[0] + met[1] >= world.expected_where(false)).then_some(())
    });
    assert_eq!(process.metric("tidemark_watch_chain_breaks_total"), 0);
    assert!(world.unreadable > 10 && process.metric("tidemark_tail_unreadable_fields_total") >= world.unreadable);
    process.stop();
}
