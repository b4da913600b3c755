//! Topics of a deployment that others have changed, on a real broker: deleted and made anew, with more partitions, without their
//! beginning, held up by a transaction that nobody ends.

use std::ops::Range;
use std::time::Duration;

use bson::Document;
use serde_json::Value;
use tidemark::log::Delivered;
use tidemark::tail::partition::partition as partition_of;
use tidemark::ticket::Chain;

use crate::chaos::check::Checker;
use crate::e2e::halves;
use crate::support::{Deployment, Process, kafka, meddling, mongo, wait_until};
use crate::tail_mongo::{completed, name, unusable};

const LIMIT: Duration = Duration::from_mins(2);
const PARTITIONS: u32 = 3;
const TAIL: [&str; 3] = ["run", "--stages", "tail"];
/// What a refused topic or position ends with.
const REFUSED: Option<i32> = Some(6);

const SENT: &str = "tidemark_tail_tickets_total";
const BURIED: &str = "tidemark_tail_dead_letters_total";
const WATCHED: &str = "tidemark_watch_tickets_total";

fn begin(name: &str, partitions: u32) -> (Deployment, Checker) {
    (Deployment::new(name, partitions), Checker::new(&mongo().uri, &kafka().bootstrap_servers, name, partitions))
}

fn insert(deployment: &Deployment, ids: Range<i32>) {
    let documents: Vec<Document> = ids.map(completed).collect();
    deployment.insert(&documents);
}

/// Waits until a process has counted so many.
fn counts(process: &Process, metric: &str, count: u64) {
    wait_until(metric, LIMIT, || {
        assert!(process.is_alive(), "tidemark ended:\n{}", process.last_words());
        (process.metric(metric) == count).then_some(())
    });
}

/// Returns where each partition of a topic ends, whoever wrote there.
fn ends(checker: &Checker, topic: &str) -> Vec<i64> {
    let mut reader = checker.log.reader().unwrap();
    (0..checker.log.partitions(topic).unwrap()).map(|partition| reader.bounds(topic, partition).unwrap().end).collect()
}

/// Returns the ids of all tickets in the log, sorted; one that is there twice comes twice.
fn ids(checker: &Checker) -> Vec<String> {
    let tickets = (0..checker.partitions()).flat_map(|partition| checker.tickets(partition));
    let mut ids: Vec<String> = tickets.map(|ticket| String::from_utf8_lossy(ticket.key.as_deref().unwrap()).into_owned()).collect();
    ids.sort();
    ids
}

fn names(ids: impl Iterator<Item = i32>) -> Vec<String> {
    let mut names: Vec<String> = ids.map(name).collect();
    names.sort();
    names
}

fn json(record: &Delivered) -> Value {
    serde_json::from_slice(record.value.as_deref().unwrap()).unwrap()
}

fn sequence(record: &Delivered) -> u64 {
    Chain::parse(record.header("chain").unwrap()).unwrap().seq
}

#[test]
fn tickets_that_were_deleted_and_made_anew_are_refused_until_the_position_goes_too() {
    let servers = &kafka().bootstrap_servers;
    let (mut deployment, checker) = begin("topics-anew", PARTITIONS);
    deployment.set("TIDEMARK_KAFKA_PROPERTIES_TRANSACTION_TIMEOUT_MS", "3000");
    let topics = &checker.topics;
    let process = deployment.start("one", &TAIL);
    process.wait_for("tail");
    insert(&deployment, 0..10);
    counts(&process, SENT, 10);

    meddling::delete_topic(servers, &topics.tickets);
    let mut inserted = 10;
    wait_until("tail ends", LIMIT, || {
        // What is written while the broker still takes the topic away goes with it.
        if u64::try_from(inserted).is_ok_and(|inserted| process.metric(SENT) == inserted) {
            let next = inserted + 1;
            insert(&deployment, inserted..next);
            inserted = next;
        }
        (!process.is_alive()).then_some(())
    });
    let gone = format!(
        "tidemark: tail stopped: tail refuses to go on: topics {} and {} must exist with the same number of partitions; they have 0 and \
         {PARTITIONS}. If one was deleted, delete both and {}, too",
        topics.tickets, topics.dead_letters, topics.positions
    );
    assert!(process.log().contains(&gone), "{}", process.last_words());

    let committed = ends(&checker, &topics.positions);
    let (code, said) = deployment.ended(&TAIL);
    let what = format!(
        "tail refuses to go on: topic {}[0] is not the one that the position describes: it ends at offset 0, before record ",
        topics.tickets
    );
    let advice = "If it was deleted and made anew, delete the position's topic too, or configure another kafka.topic_prefix";
    assert!(code == REFUSED && said.contains(&what) && said.contains(advice), "{code:?}: {said}");
    assert_eq!(ends(&checker, &topics.tickets), [0, 0, 0], "nothing is written into the new topic");
    assert_eq!(ends(&checker, &topics.positions), committed);

    meddling::delete_topic(servers, &topics.positions);
    let process = deployment.start("one", &TAIL);
    process.wait_for("tail");
    insert(&deployment, 1_000..1_010);
    counts(&process, SENT, 10);
    process.stop();
    assert_eq!(ids(&checker), names(1_000..1_010));
}

#[test]
fn partitions_that_were_added_take_no_ticket_and_are_refused_at_the_next_start() {
    let servers = &kafka().bootstrap_servers;
    let (mut deployment, checker) = begin("topics-grown", PARTITIONS);
    let topics = &checker.topics;
    deployment.set("TIDEMARK_KAFKA_PROPERTIES_TOPIC_METADATA_REFRESH_INTERVAL_MS", "1000");
    let process = deployment.start("one", &TAIL);
    process.wait_for("tail");
    let watch = deployment.start("two", &["run", "--stages", "watch"]);
    insert(&deployment, 0..30);
    counts(&process, SENT, 30);
    counts(&watch, WATCHED, 30);

    for topic in [&topics.tickets, &topics.dead_letters, &topics.prediction_errors] {
        meddling::add_partitions(servers, topic, PARTITIONS as usize + 1);
    }
    let added = format!("partition {PARTITIONS} was added to {}", topics.tickets);
    wait_until(&added, LIMIT, || watch.log().contains(&added).then_some(()));
    insert(&deployment, 30..90);
    deployment.insert(&(1_000..1_030).map(unusable).collect::<Vec<_>>());
    counts(&process, SENT, 90);
    counts(&process, BURIED, 30);
    counts(&watch, WATCHED, 90);
    watch.wait_for("watch");
    watch.stop();
    process.stop();
    let written = || [&topics.tickets, &topics.dead_letters, &topics.positions].map(|topic| ends(&checker, topic));
    let before = written();
    assert_eq!((before[0].len(), before[0].last()), (4, Some(&0)), "{before:?}");
    assert_eq!((before[1].len(), before[1].last()), (4, Some(&0)), "{before:?}");
    assert!(names(30..90).iter().any(|id| partition_of(id.as_bytes(), PARTITIONS + 1) == PARTITIONS), "some would have gone there");
    assert_eq!(ids(&checker), names(0..90));
    for partition in 0..PARTITIONS {
        let tickets = checker.tickets(partition);
        assert!(tickets.iter().all(|ticket| partition_of(ticket.key.as_deref().unwrap(), PARTITIONS) == partition), "{partition}");
    }

    insert(&deployment, 90..100);
    let (code, said) = deployment.ended(&TAIL);
    let grown = format!(
        "topic {} is wrong: it has 4 partitions, 3 are configured; set kafka.partitions to 4 before the first start; to a topic in use \
         Kafka adds partitions and takes none back: begin anew with another kafka.topic_prefix",
        topics.tickets
    );
    assert!(code == REFUSED && said.contains(&grown), "{code:?}: {said}");
    deployment.set("TIDEMARK_KAFKA_PARTITIONS", "4");
    let (code, said) = deployment.ended(&TAIL);
    let moved = format!(
        "tail refuses to go on: topic {} has 4 partitions, but the position describes 3: tickets would change partition. Begin anew \
         with another kafka.topic_prefix",
        topics.tickets
    );
    assert!(code == REFUSED && said.contains(&moved), "{code:?}: {said}");
    assert_eq!(written(), before, "who is refused writes nothing");
}

#[test]
fn tickets_that_were_gone_before_watch_had_read_them_are_an_alert_and_its_windows_say_that_they_lack_them() {
    const PART: usize = 300;
    const LOST: usize = 100;
    let servers = &kafka().bootstrap_servers;
    let (mut deployment, checker) = begin("topics-forgotten", 1);
    deployment.set("TIDEMARK_TAIL_CLOCK", "tickets");
    let topics = &checker.topics;
    let flights = &halves().1[..2 * PART];
    let tail = deployment.start("tail", &TAIL);
    tail.wait_for("tail");
    let watch = deployment.start("watch", &["run", "--stages", "watch"]);
    deployment.insert(&flights[..PART]);
    counts(&watch, WATCHED, PART as u64);
    watch.stop();
    deployment.insert(&flights[PART..]);
    counts(&tail, SENT, 2 * PART as u64);

    let committed = meddling::committed(servers, &format!("{}.watch", deployment.prefix), &topics.tickets);
    let all = checker.records(&topics.tickets, 0);
    let is_ticket = |record: &&Delivered| record.header("kind") == Some(b"ticket");
    let unread: Vec<&Delivered> = all.iter().filter(|record| record.offset >= committed).collect();
    let first_left = unread.iter().copied().filter(is_ticket).nth(LOST).expect("more were sent than are lost");
    meddling::forget_before(servers, &topics.tickets, &[first_left.offset]);
    assert_eq!(checker.log.reader().unwrap().bounds(&topics.tickets, 0).unwrap().low, first_left.offset);

    let watch = deployment.start("watch", &["run", "--stages", "watch"]);
    counts(&watch, WATCHED, (PART - LOST) as u64);
    assert_eq!(watch.metric("tidemark_watch_chain_breaks_total"), 1);
    let alerts = checker.records(&topics.alerts, 0);
    let reasons: Vec<String> = alerts.iter().map(|alert| json(alert)["reason"].as_str().unwrap().to_owned()).collect();
    let (from, to) = (sequence(unread[0]), sequence(first_left) - 1);
    assert_eq!(reasons, [format!("at offset {} of partition 0: records {from} to {to} are missing", first_left.offset)]);
    assert_eq!(alerts[0].header("ce_type"), Some(&b"tidemark.alert.broken_chain.v1"[..]));

    let is_read = |record: &&Delivered| record.offset < committed || record.offset >= first_left.offset;
    let predicted = all.iter().filter(is_read).filter(is_ticket).filter(|ticket| !json(ticket)["predicted"].is_null());
    let sources: Vec<String> = predicted.map(|ticket| format!("0:{}", sequence(ticket))).collect();
    let errors = checker.records(&topics.prediction_errors, 0);
    let of: Vec<String> = errors.iter().map(|error| String::from_utf8_lossy(error.header("source").unwrap()).into_owned()).collect();
    assert_eq!(of, sources, "each ticket that was left has its prediction error, once");
    let marks = all.iter().filter(is_read).filter(|record| record.header("kind") == Some(b"mark"));
    let marks: Vec<(u64, bool)> = marks.map(|mark| (sequence(mark), mark.offset >= first_left.offset)).collect();
    let summaries = checker.records(&topics.summaries, 0);
    let told: Vec<(u64, bool)> = summaries
        .iter()
        .map(json)
        .map(|summary| (summary["sequence"].as_u64().unwrap(), summary["incomplete"].as_bool().unwrap_or(false)))
        .collect();
    assert_eq!(told, marks, "what is told of a mark, and whether tickets are missing there");
    assert!([true, false].iter().all(|lacks| marks.iter().any(|(_, incomplete)| incomplete == lacks)), "{marks:?}");
    watch.stop();
    tail.stop();
}

#[test]
fn a_strangers_transaction_that_hangs_before_our_last_commit_is_named_and_waited_for() {
    let servers = &kafka().bootstrap_servers;
    let (deployment, checker) = begin("topics-hanging", 1);
    let topics: [&str; 2] = [&checker.topics.positions, &checker.topics.tickets];
    let stranger = |topic: &str| format!("{topic}.stranger");
    let tail = deployment.start("one", &TAIL);
    tail.wait_for("tail");
    insert(&deployment, 0..10);
    counts(&tail, SENT, 10);
    for topic in topics {
        meddling::hang(servers, &stranger(topic), topic);
    }
    insert(&deployment, 10..20);
    counts(&tail, SENT, 20);
    tail.stop();
    insert(&deployment, 20..30);

    let tail = deployment.start("one", &TAIL);
    for topic in topics {
        let (stuck_at, end) = (meddling::stable_end(servers, topic), ends(&checker, topic)[0]);
        assert!(stuck_at + 1 < end, "our last commit is behind it");
        let words = format!(
            "{topic}[0] cannot be read past offset {stuck_at}: a transaction hangs there (end is {end}); abort it with kafka-transactions.sh"
        );
        wait_until(&words, LIMIT, || {
            assert!(tail.is_alive(), "tidemark ended:\n{}", tail.last_words());
            tail.says("tail").contains(&words).then_some(())
        });
        assert_eq!(tail.get("/readyz").map(|(status, _)| status), Some(503));
        drop(checker.log.producer(&stranger(topic)).unwrap());
    }
    tail.wait_for("tail");
    counts(&tail, SENT, 10);

    // Whoever runs already is held up, too, and says so.
    let tickets = &checker.topics.tickets;
    let watch = deployment.start("two", &["run", "--stages", "watch"]);
    counts(&watch, WATCHED, 30);
    meddling::hang(servers, &stranger(tickets), tickets);
    insert(&deployment, 30..40);
    counts(&tail, SENT, 20);
    let words = format!("{tickets}[0] cannot be read past offset {}", meddling::stable_end(servers, tickets));
    wait_until(&words, LIMIT, || watch.says("watch").contains(&words).then_some(()));
    assert_eq!(watch.get("/readyz").map(|(status, _)| status), Some(503));
    assert!(watch.gauge("tidemark_watch_lag_records").is_some_and(|lag| lag >= 10.0));
    drop(checker.log.producer(&stranger(tickets)).unwrap());
    counts(&watch, WATCHED, 40);
    watch.wait_for("watch");
    watch.stop();
    tail.stop();
    assert_eq!(ids(&checker), names(0..40), "each ticket once");
    for topic in topics {
        assert!(checker.records(topic, 0).iter().all(|record| record.key.as_deref() != Some(b"hanging")), "{topic}");
    }
}
