//! What every log must do, as sentences.

#![expect(clippy::unwrap_used, reason = "these are the bodies of tests")]

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidemark::log::{
    Delivered, Header, Log, LogError, MAX_RECORD_BYTES, Member, Membership, OffsetCommit, Polled, Record, TopicSettings, TransactError,
    Transaction,
};

use super::Bench;
use crate::support::wait_until;

type Case = fn(&Bench<'_>, &str);

/// All cases. Each is given its own name, to make names of topics, groups and transactional ids from.
pub(super) const ALL: &[(&str, Case)] = &[
    ("a-transaction-is-visible-as-a-whole-when-it-has-committed", a_transaction_is_visible_as_a_whole),
    ("a-record-that-is-too-large-leaves-nothing", a_record_that_is_too_large_leaves_nothing),
    ("a-second-holder-of-an-id-fences-the-first", a_second_holder_of_an_id_fences_the_first),
    ("offsets-and-their-metadata-come-back-to-the-next-member", offsets_and_their_metadata_come_back),
    ("offsets-of-an-old-generation-are-refused", offsets_of_an_old_generation_are_refused),
    ("offsets-of-a-member-that-was-ousted-while-it-slept-are-refused", offsets_of_an_ousted_member_are_refused),
    ("two-members-share-the-partitions-and-a-leaving-one-hands-over", two_members_share_and_hand_over),
    ("an-assigned-partition-delivers-nothing-before-it-is-started", nothing_is_delivered_before_start),
    ("records-keep-their-order-within-a-partition", records_keep_their_order),
    ("a-range-ends-at-its-end-even-when-that-is-a-marker", a_range_ends_at_its_end),
    ("a-read-waits-for-a-hanging-transaction-to-end", a_read_waits_for_a_hanging_transaction),
    ("a-read-gives-up-on-a-transaction-that-hangs-too-long", a_read_gives_up_on_a_hanging_transaction),
    ("what-retention-has-removed-is-named", what_retention_has_removed_is_named),
    ("a-position-after-the-end-is-refused", a_position_after_the_end_is_refused),
    ("a-topic-that-differs-is-refused-by-name", a_topic_that_differs_is_refused),
    ("a-topic-that-is-not-there-is-named", a_topic_that_is_not_there_is_named),
    ("every-byte-comes-back", every_byte_comes_back),
    ("a-follower-goes-on-from-given-offsets", a_follower_goes_on),
];

const SOON: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);

fn settings(name: &str, partitions: u32) -> TopicSettings {
    let retention_ms = Some(86_400_000);
    TopicSettings { name: name.to_owned(), partitions, replication: 1, compacted: false, retention_ms, append_time: true }
}

fn topic(log: &dyn Log, name: &str, partitions: u32) {
    log.create_topics(&[settings(name, partitions)]).unwrap();
}

fn record(topic: &str, partition: u32, value: &str) -> Record {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    Record { topic: topic.into(), partition, key: None, value, headers: Vec::new() }
}

fn write(log: &dyn Log, id: &str, records: Vec<Record>) {
    log.producer(id).unwrap().transact(Transaction { records, ..Transaction::default() }).unwrap();
}

fn value(record: &Delivered) -> String {
    String::from_utf8(record.value.as_deref().unwrap_or_default().to_vec()).unwrap()
}

/// Reads a partition from its first offset to its end.
fn read_all(log: &dyn Log, topic: &str, partition: u32) -> Vec<String> {
    let mut reader = log.reader().unwrap();
    let bounds = reader.bounds(topic, partition).unwrap();
    let mut values = Vec::new();
    let each = &mut |record: Delivered| {
        values.push(value(&record));
        ControlFlow::Continue(())
    };
    reader.read(topic, partition, bounds.low, bounds.end, each).unwrap();
    values
}

/// Polls; a cluster that is not reached for a moment is polled again, as the contract says.
fn poll(member: &mut dyn Member, timeout: Duration) -> Polled {
    match member.poll(timeout) {
        Err(LogError::Unavailable { .. }) => Polled::Idle,
        polled => polled.unwrap(),
    }
}

/// Waits until the partition ends there: a transaction's marker is written a moment after its commit.
fn ends_at(log: &dyn Log, topic: &str, end: i64) {
    let mut reader = log.reader().unwrap();
    wait_until("the last marker", SOON, || (reader.bounds(topic, 0).unwrap().end == end).then_some(()));
}

fn assigned(member: &mut dyn Member) -> Vec<u32> {
    let give_up = Instant::now() + SOON;
    while Instant::now() < give_up {
        match poll(member, SHORT) {
            Polled::Assigned(partitions) => return partitions,
            Polled::Idle => {}
            other => panic!("{other:?} before an assignment"),
        }
    }
    panic!("no assignment");
}

fn offsets(member: &dyn Member, offset: i64, metadata: &str) -> (Membership, Vec<OffsetCommit>) {
    (member.membership().unwrap(), vec![OffsetCommit { partition: 0, offset, metadata: metadata.to_owned() }])
}

fn records(member: &mut dyn Member, count: usize) -> Vec<Delivered> {
    let give_up = Instant::now() + SOON;
    let mut all = Vec::new();
    while all.len() < count {
        assert!(Instant::now() < give_up, "{} of {count} records", all.len());
        match poll(member, SHORT) {
            Polled::Records(records) => all.extend(records),
            Polled::Idle => {}
            other => panic!("{other:?} among records"),
        }
    }
    all
}

fn a_transaction_is_visible_as_a_whole(bench: &Bench<'_>, name: &str) {
    let (log, other) = (bench.log, format!("{name}.other"));
    topic(log, name, 2);
    topic(log, &other, 1);
    let mut producer = log.producer(name).unwrap();
    let transaction = Transaction {
        records: vec![record(name, 0, "a"), record(name, 1, "b"), record(name, 0, "c")],
        last: vec![record(&other, 0, "position")],
        offsets: None,
    };
    producer.transact(transaction).unwrap();
    producer.transact(Transaction { records: vec![record(name, 0, "d")], ..Transaction::default() }).unwrap();
    producer.transact(Transaction::default()).unwrap();
    assert_eq!(read_all(log, name, 0), ["a", "c", "d"]);
    assert_eq!(read_all(log, name, 1), ["b"]);
    assert_eq!(read_all(log, &other, 0), ["position"]);
}

fn a_record_that_is_too_large_leaves_nothing(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    topic(log, name, 1);
    let mut producer = log.producer(name).unwrap();
    let large = "x".repeat(MAX_RECORD_BYTES + 1);
    let records = vec![record(name, 0, "small"), record(name, 0, &large)];
    match producer.transact(Transaction { records, ..Transaction::default() }) {
        Err(TransactError::TooLarge { topic, bytes }) => assert_eq!((topic.as_str(), bytes), (name, large.len())),
        other => panic!("{other:?}"),
    }
    assert!(producer.transact(Transaction { records: vec![record(name, 0, "spent")], ..Transaction::default() }).is_err());
    let taken = "y".repeat(MAX_RECORD_BYTES - 1024);
    write(log, name, vec![record(name, 0, "after"), record(name, 0, &taken)]);
    assert_eq!(read_all(log, name, 0), ["after", &taken]);
}

fn a_second_holder_of_an_id_fences_the_first(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    topic(log, name, 1);
    let mut first = log.producer(name).unwrap();
    first.transact(Transaction { records: vec![record(name, 0, "first")], ..Transaction::default() }).unwrap();
    write(log, name, vec![record(name, 0, "second")]);
    let fenced = first.transact(Transaction { records: vec![record(name, 0, "late")], ..Transaction::default() });
    assert!(matches!(fenced, Err(TransactError::Fenced { ref id }) if id == name), "{fenced:?}");
    assert_eq!(read_all(log, name, 0), ["first", "second"]);
}

fn offsets_and_their_metadata_come_back(bench: &Bench<'_>, name: &str) {
    let (log, output) = (bench.log, format!("{name}.output"));
    topic(log, name, 1);
    topic(log, &output, 1);
    write(log, name, vec![record(name, 0, "a"), record(name, 0, "b")]);
    let metadata = format!("{{\"restore\":1,\"é\":\"{}\"}}", "m".repeat(4_000));
    let mut first = log.member(name, name).unwrap();
    assert!(first.membership().is_none(), "before the group is joined");
    assert_eq!(assigned(&mut *first), [0]);
    assert_eq!(first.committed(0).unwrap(), None);
    let mut producer = log.producer(&output).unwrap();
    let transaction = Transaction {
        records: vec![record(&output, 0, "effect")],
        offsets: Some(offsets(&*first, 2, &metadata)),
        ..Transaction::default()
    };
    producer.transact(transaction).unwrap();
    let alone = Transaction { offsets: Some(offsets(&*first, 1, "")), ..Transaction::default() };
    producer.transact(alone).unwrap();
    let committed = first.committed(0).unwrap().unwrap();
    assert_eq!((committed.offset, committed.metadata.as_str()), (1, ""));
    producer.transact(Transaction { offsets: Some(offsets(&*first, 2, &metadata)), ..Transaction::default() }).unwrap();
    drop(first);

    let mut second = log.member(name, name).unwrap();
    assert_eq!(assigned(&mut *second), [0]);
    let committed = second.committed(0).unwrap().unwrap();
    assert_eq!((committed.offset, committed.metadata), (2, metadata));
    assert_eq!(read_all(log, &output, 0), ["effect"]);
}

fn offsets_of_an_old_generation_are_refused(bench: &Bench<'_>, name: &str) {
    let (log, output) = (bench.log, format!("{name}.output"));
    topic(log, name, 1);
    topic(log, &output, 1);
    let mut first = log.member(name, name).unwrap();
    assigned(&mut *first);
    let stale = offsets(&*first, 1, "stale");
    let mut second = log.member(name, name).unwrap();
    let owner = settle(&mut [&mut *first, &mut *second]).iter().position(|held| !held.is_empty()).unwrap();
    let transaction = Transaction { records: vec![record(&output, 0, "stale")], offsets: Some(stale), ..Transaction::default() };
    let refused = log.producer(&output).unwrap().transact(transaction);
    assert!(matches!(refused, Err(TransactError::Fenced { .. })), "{refused:?}");
    assert_eq!(read_all(log, &output, 0), Vec::<String>::new());
    let owner = if owner == 0 { &mut first } else { &mut second };
    assert_eq!(owner.committed(0).unwrap(), None);
    let transaction = Transaction { offsets: Some(offsets(&**owner, 0, "fresh")), ..Transaction::default() };
    log.producer(&output).unwrap().transact(transaction).unwrap();
    assert_eq!(owner.committed(0).unwrap().unwrap().metadata, "fresh");
}

fn offsets_of_an_ousted_member_are_refused(bench: &Bench<'_>, name: &str) {
    let (log, output) = (bench.impatient, format!("{name}.output"));
    topic(log, name, 1);
    topic(log, &output, 1);
    let mut sleeper = log.member(name, name).unwrap();
    assigned(&mut *sleeper);
    let mut producer = log.producer(&output).unwrap();
    let mut next = log.member(name, name).unwrap();
    assert_eq!(assigned(&mut *next), [0], "the sleeper holds nobody up for ever");
    let records = vec![record(&output, 0, "woken")];
    let refused = producer.transact(Transaction { records, offsets: Some(offsets(&*sleeper, 1, "")), ..Transaction::default() });
    assert!(matches!(refused, Err(TransactError::Fenced { .. })), "{refused:?}");
    assert_eq!(read_all(log, &output, 0), Vec::<String>::new());
    assert!(matches!(sleeper.poll(SOON).unwrap(), Polled::Revoked(partitions) if partitions == [0]));
    assert_eq!(next.committed(0).unwrap(), None);
}

/// Polls all members until every partition of a topic of one to four partitions is held once, and returns who holds what.
fn settle(members: &mut [&mut dyn Member]) -> Vec<BTreeSet<u32>> {
    let give_up = Instant::now() + SOON;
    let mut held = vec![BTreeSet::new(); members.len()];
    let mut heard = vec![false; members.len()];
    let mut quiet = 0;
    while quiet < 5 {
        assert!(Instant::now() < give_up, "held: {held:?}");
        quiet += 1;
        for (index, member) in members.iter_mut().enumerate() {
            match poll(*member, Duration::from_millis(50)) {
                Polled::Assigned(partitions) => held[index] = partitions.into_iter().collect(),
                Polled::Revoked(_) => held[index].clear(),
                Polled::Records(_) | Polled::Idle => continue,
            }
            heard[index] = true;
            quiet = 0;
        }
        if !heard.contains(&true) || held.iter().all(BTreeSet::is_empty) {
            quiet = 0;
        }
    }
    held
}

fn two_members_share_and_hand_over(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    topic(log, name, 4);
    let mut first = log.member(name, name).unwrap();
    assert_eq!(assigned(&mut *first), [0, 1, 2, 3]);
    first.start(0, 0).unwrap();
    let mut second = log.member(name, name).unwrap();
    let held = settle(&mut [&mut *first, &mut *second]);
    assert_eq!(held.iter().map(BTreeSet::len).collect::<Vec<_>>(), [2, 2], "{held:?}");
    assert!(held[0].is_disjoint(&held[1]), "{held:?}");
    drop(first);
    match second.poll(SOON).unwrap() {
        Polled::Revoked(partitions) => assert_eq!(partitions.into_iter().collect::<BTreeSet<_>>(), held[1]),
        other => panic!("{other:?}"),
    }
    assert_eq!(assigned(&mut *second), [0, 1, 2, 3]);
}

fn nothing_is_delivered_before_start(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    topic(log, name, 2);
    let values = ["a", "b", "c"];
    write(log, name, values.iter().flat_map(|value| [record(name, 0, value), record(name, 1, value)]).collect());
    let mut member = log.member(name, name).unwrap();
    assert_eq!(assigned(&mut *member), [0, 1]);
    assert!(matches!(member.poll(SHORT).unwrap(), Polled::Idle));
    assert!(member.start(2, 0).is_err(), "it is not assigned");
    member.start(0, 1).unwrap();
    assert_eq!(
        records(&mut *member, 2).iter().map(|record| (record.partition, value(record))).collect::<Vec<_>>(),
        [(0, "b".to_owned()), (0, "c".to_owned())]
    );
    assert!(matches!(member.poll(SHORT).unwrap(), Polled::Idle));
    member.start(1, 2).unwrap();
    let first = records(&mut *member, 1);
    assert_eq!((first[0].partition, value(&first[0])), (1, "c".to_owned()));
    write(log, name, vec![record(name, 0, "d"), record(name, 1, "d")]);
    let both = records(&mut *member, 2);
    assert_eq!(both.iter().map(|record| record.partition).collect::<BTreeSet<_>>(), BTreeSet::from([0, 1]));
    assert!(both.iter().all(|record| value(record) == "d"));
    member.start(0, 0).unwrap();
    assert_eq!(records(&mut *member, 4).iter().map(value).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
}

fn records_keep_their_order(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    topic(log, name, 3);
    let mut member = log.member(name, name).unwrap();
    for partition in assigned(&mut *member) {
        member.start(partition, 0).unwrap();
    }
    let mut producer = log.producer(name).unwrap();
    for transaction in 0..5 {
        let numbers = transaction * 2_000..(transaction + 1) * 2_000;
        let records = numbers.map(|number: u32| record(name, number % 3, &number.to_string())).collect();
        producer.transact(Transaction { records, ..Transaction::default() }).unwrap();
    }
    let mut last: BTreeMap<u32, (u32, i64)> = BTreeMap::new();
    for record in records(&mut *member, 10_000) {
        let number: u32 = value(&record).parse().unwrap();
        let before = last.insert(record.partition, (number, record.offset));
        assert_eq!(number, before.map_or(record.partition, |(number, _)| number + 3));
        assert!(before.is_none_or(|(_, offset)| offset < record.offset));
    }
}

fn a_range_ends_at_its_end(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    topic(log, name, 1);
    let mut producer = log.producer(name).unwrap();
    for number in 0..3 {
        let records = vec![record(name, 0, &format!("{number}a")), record(name, 0, &format!("{number}b"))];
        producer.transact(Transaction { records, ..Transaction::default() }).unwrap();
    }
    let mut reader = log.reader().unwrap();
    ends_at(log, name, 9);
    assert_eq!(reader.bounds(name, 0).unwrap().low, 0);
    let mut range = |from, to, most: usize| {
        let mut values = Vec::new();
        let each = &mut |record: Delivered| {
            values.push(value(&record));
            if values.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        reader.read(name, 0, from, to, each).unwrap();
        values
    };
    assert_eq!(range(0, 9, 100), ["0a", "0b", "1a", "1b", "2a", "2b"]);
    assert_eq!(range(1, 4, 100), ["0b", "1a"]);
    assert_eq!(range(8, 9, 100), Vec::<String>::new(), "only a marker");
    assert_eq!(range(2, 3, 100), Vec::<String>::new(), "only a marker, with records after it");
    assert_eq!(range(3, 9, 1), ["1a"]);
    assert_eq!(range(9, 9, 100), Vec::<String>::new());
    assert_eq!(range(7, 1_000, 100), ["2b"], "the end is no further than it is");
    assert_eq!(range(0, 2, 100), ["0a", "0b"], "the same reader reads again");
}

fn a_read_waits_for_a_hanging_transaction(bench: &Bench<'_>, name: &str) {
    let (log, hanging) = (bench.log, format!("{name}.hanging"));
    topic(log, name, 1);
    write(log, name, vec![record(name, 0, "before")]);
    ends_at(log, name, 2);
    (bench.hang)(&hanging, name);
    write(log, name, vec![record(name, 0, "after")]);
    let mut follower = log.follow(name, &[0]).unwrap();
    let seen = follower.poll(SOON).unwrap();
    assert_eq!(seen.iter().map(value).collect::<Vec<_>>(), ["before"]);
    assert!(follower.poll(SHORT).unwrap().is_empty(), "the transaction hides what is after it");
    let read = std::thread::scope(|scope| {
        let read = scope.spawn(|| read_all(log, name, 0));
        drop(log.producer(&hanging).unwrap());
        read.join().unwrap()
    });
    assert_eq!(read, ["before", "after"]);
}

fn a_read_gives_up_on_a_hanging_transaction(bench: &Bench<'_>, name: &str) {
    let (log, hanging) = (bench.log, format!("{name}.hanging"));
    topic(log, name, 1);
    write(log, name, vec![record(name, 0, "before")]);
    ends_at(log, name, 2);
    (bench.hang)(&hanging, name);
    write(log, name, vec![record(name, 0, "after")]);
    let mut reader = log.reader().unwrap();
    // Before, marker, hanging, after, marker: the end is the real one.
    ends_at(log, name, 5);
    match reader.read(name, 0, 0, 5, &mut |_| ControlFlow::Continue(())) {
        Err(LogError::HeldUp { topic, partition: 0, stuck_at: 2, end: 5 }) => assert_eq!(topic, name),
        other => panic!("{other:?}"),
    }
    let mut before = Vec::new();
    let each = &mut |record: Delivered| {
        before.push(value(&record));
        ControlFlow::Continue(())
    };
    reader.read(name, 0, 0, 2, each).unwrap();
    assert_eq!(before, ["before"], "what is before it can be read");
    drop(log.producer(&hanging).unwrap());
}

fn what_retention_has_removed_is_named(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    topic(log, name, 1);
    write(log, name, (0..10).map(|number| record(name, 0, &number.to_string())).collect());
    (bench.truncate)(name, 4);
    let mut reader = log.reader().unwrap();
    assert_eq!(reader.bounds(name, 0).unwrap().low, 4);
    let read = reader.read(name, 0, 3, 10, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(read, Err(LogError::Truncated { partition: 0, low: 4, wanted: 3, .. })), "{read:?}");
    assert_eq!(read_all(log, name, 0).len(), 6);
    let followed = log.follow(name, &[0]).err();
    assert!(matches!(followed, Some(LogError::Truncated { low: 4, wanted: 0, .. })), "{followed:?}");
    let mut member = log.member(name, name).unwrap();
    assigned(&mut *member);
    let started = member.start(0, 3);
    assert!(matches!(started, Err(LogError::Truncated { low: 4, wanted: 3, .. })), "{started:?}");
    member.start(0, 4).unwrap();
    assert_eq!(value(&records(&mut *member, 6)[0]), "4");
}

fn a_position_after_the_end_is_refused(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    topic(log, name, 1);
    write(log, name, vec![record(name, 0, "only")]);
    ends_at(log, name, 2);
    let followed = log.follow(name, &[3]).err();
    assert!(matches!(followed, Some(LogError::WrongTopic { ref topic, .. }) if topic == name), "{followed:?}");
    let mut member = log.member(name, name).unwrap();
    assigned(&mut *member);
    let started = member.start(0, 3);
    assert!(matches!(started, Err(LogError::WrongTopic { ref topic, .. }) if topic == name), "{started:?}");
    member.start(0, 2).unwrap();
    write(log, name, vec![record(name, 0, "next")]);
    assert_eq!(value(&records(&mut *member, 1)[0]), "next");
}

fn a_topic_that_differs_is_refused(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    let compacted = TopicSettings { compacted: true, retention_ms: None, ..settings(&format!("{name}.compacted"), 1) };
    let for_ever = TopicSettings { retention_ms: None, ..settings(&format!("{name}.for-ever"), 1) };
    let all = [settings(name, 3), compacted.clone(), for_ever.clone()];
    log.create_topics(&all).unwrap();
    log.create_topics(&all).unwrap();
    assert_eq!(log.partitions(name).unwrap(), 3);
    log.create_topics(&[TopicSettings { retention_ms: Some(1_000), ..settings(name, 3) }]).unwrap();

    let differing = [
        (settings(name, 4), "3"),
        (TopicSettings { compacted: true, retention_ms: None, ..settings(name, 3) }, "cleanup.policy=compact"),
        (TopicSettings { compacted: false, ..compacted }, "cleanup.policy=delete"),
        (TopicSettings { retention_ms: Some(86_400_001), ..settings(name, 3) }, "retention.ms=86400001"),
        (TopicSettings { retention_ms: None, ..settings(name, 3) }, "retention.ms=-1"),
    ];
    for (wanted, said) in differing {
        let unmade = settings(&format!("{name}.unmade"), 1);
        match log.create_topics(&[unmade.clone(), wanted.clone()]) {
            Err(LogError::WrongTopic { topic, reason }) => {
                assert_eq!(topic, wanted.name);
                assert!(reason.contains(said), "{reason}");
            }
            other => panic!("{wanted:?}: {other:?}"),
        }
        assert_eq!(log.partitions(&unmade.name).unwrap(), 0, "nothing is created while something is wrong");
    }
}

fn a_topic_that_is_not_there_is_named(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    assert_eq!(log.partitions(name).unwrap(), 0);
    for error in [log.member(name, name).err(), log.follow(name, &[0]).err(), log.reader().unwrap().bounds(name, 0).err()] {
        let error = error.unwrap();
        assert!(matches!(error, LogError::Unavailable { .. }) && error.to_string().contains(name), "{error}");
    }
}

fn every_byte_comes_back(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    topic(log, name, 1);
    let bytes = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
    let header = |name: &'static str, value: &'static [u8]| -> Header { (Cow::Borrowed(name), Bytes::from_static(value)) };
    let headers = vec![header("kind", b"ticket"), header("x", b""), header("x", b"\x00\xff"), header("é", "é".as_bytes())];
    let plain = |key, value| Record { topic: name.into(), partition: 0, key, value, headers: Vec::new() };
    let written = [
        Record { headers, ..plain(bytes(b"key"), bytes(b"value")) },
        plain(None, bytes(b"null key")),
        plain(bytes(b"tombstone"), None),
        plain(bytes(b"empty value"), bytes(b"")),
        plain(bytes(b""), bytes(b"empty key")),
        plain(bytes(b"\x00\x01\xff"), bytes(b"\xff\x00")),
    ];
    write(log, name, written.to_vec());
    let mut read = Vec::new();
    let each = &mut |record: Delivered| {
        read.push(record);
        ControlFlow::Continue(())
    };
    log.reader().unwrap().read(name, 0, 0, 7, each).unwrap();
    assert_eq!(read.len(), written.len());
    for ((read, written), offset) in read.iter().zip(&written).zip(0..) {
        assert_eq!((&read.key, &read.value, &read.headers), (&written.key, &written.value, &written.headers));
        assert_eq!((read.partition, read.offset), (0, offset));
        assert!((tidemark::clock::now_ms() - read.timestamp_ms).abs() < 60_000, "append time {}", read.timestamp_ms);
    }
}

fn a_follower_goes_on(bench: &Bench<'_>, name: &str) {
    let log = bench.log;
    topic(log, name, 2);
    write(log, name, vec![record(name, 0, "old"), record(name, 0, "a"), record(name, 1, "b")]);
    let mut follower = log.follow(name, &[1, 0]).unwrap();
    let mut follow = |count: usize| {
        let give_up = Instant::now() + SOON;
        let mut values = BTreeSet::new();
        while values.len() < count {
            assert!(Instant::now() < give_up, "{values:?}");
            values.extend(follower.poll(SHORT).unwrap().iter().map(value));
        }
        values
    };
    assert_eq!(follow(2), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    write(log, name, vec![record(name, 0, "c"), record(name, 1, "d")]);
    assert_eq!(follow(2), BTreeSet::from(["c".to_owned(), "d".to_owned()]));
}
