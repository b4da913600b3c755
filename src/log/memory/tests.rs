use std::thread;

use bytes::Bytes;

use super::*;
use crate::log::{OffsetCommit, Record};

const SOON: Duration = Duration::from_secs(5);

fn topic(name: &str, partitions: u32, compacted: bool) -> TopicSettings {
    TopicSettings { name: name.to_owned(), partitions, replication: 1, compacted, retention_ms: None, append_time: true }
}

fn log(limits: Limits) -> MemoryLog {
    let log = MemoryLog::bounded(limits);
    log.create_topics(&[topic("t", 1, false), topic("out", 1, false)]).unwrap();
    log
}

fn records(topic: &str, count: u32, bytes: usize) -> Transaction {
    let record = |n: u32| Record {
        topic: topic.into(),
        partition: 0,
        key: Some(Bytes::copy_from_slice(&n.to_be_bytes())),
        value: Some(Bytes::from(vec![0; bytes])),
        headers: Vec::new(),
    };
    Transaction { records: (0..count).map(record).collect(), ..Transaction::default() }
}

fn visible(log: &MemoryLog, topic: &str) -> usize {
    let (mut reader, mut count) = (log.reader().unwrap(), 0);
    let bounds = reader.bounds(topic, 0).unwrap();
    let each = &mut |_| {
        count += 1;
        ControlFlow::Continue(())
    };
    reader.read(topic, 0, bounds.low, bounds.end, each).unwrap();
    count
}

fn assigned(member: &mut dyn Member) {
    assert!(matches!(member.poll(SOON).unwrap(), Polled::Assigned(partitions) if partitions == [0]));
}

#[test]
fn each_fault_leaves_what_it_says_and_spends_the_producer() {
    let cases =
        [(Fault::Abort, 0), (Fault::UnknownVisible, 3), (Fault::UnknownLost, 0), (Fault::Torn { visible: 2 }, 2), (Fault::Fence, 0)];
    for (fault, seen) in cases {
        let log = log(Limits::default());
        log.inject("id", 1, fault);
        let mut producer = log.producer("id").unwrap();
        producer.transact(records("out", 1, 1)).unwrap();
        let error = producer.transact(records("t", 3, 1)).unwrap_err();
        let as_said = match fault {
            Fault::Abort => matches!(error, TransactError::Aborted { .. }),
            Fault::Fence => matches!(error, TransactError::Fenced { .. }),
            _ => matches!(error, TransactError::Unknown { .. }),
        };
        assert!(as_said, "{fault:?} gave {error:?}");
        assert_eq!(visible(&log, "t"), seen, "{fault:?}");
        assert!(producer.transact(records("t", 1, 1)).is_err(), "{fault:?}");
        log.producer("id").unwrap().transact(records("t", 1, 1)).unwrap();
        assert_eq!(visible(&log, "t"), seen + 1, "{fault:?}");
    }
}

#[test]
fn a_hanging_transaction_hides_what_follows_until_its_id_is_used_again() {
    let log = log(Limits { hanging_patience: Duration::ZERO, ..Limits::default() });
    log.inject("id", 0, Fault::Hang);
    log.producer("id").unwrap().transact(records("t", 2, 1)).unwrap_err();
    log.producer("other").unwrap().transact(records("t", 3, 1)).unwrap();
    let mut reader = log.reader().unwrap();
    let stuck = reader.read("t", 0, 0, 6, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(stuck, Err(LogError::HeldUp { stuck_at: 0, end: 6, .. })), "{stuck:?}");
    log.producer("id").unwrap();
    assert_eq!(visible(&log, "t"), 3);
}

#[test]
fn a_writer_waits_for_a_group_that_lags_and_gives_up_after_its_patience() {
    let limits = Limits { backlog_records: 10, backlog_patience: SOON, ..Limits::default() };
    let slow = log(Limits { backlog_patience: Duration::ZERO, ..limits });
    let _silent = slow.member("g", "t").unwrap();
    let mut producer = slow.producer("id").unwrap();
    producer.transact(records("t", 20, 1)).unwrap();
    assert!(matches!(producer.transact(records("t", 1, 1)), Err(TransactError::Aborted { .. })));

    let log = log(limits);
    let mut member = log.member("g", "t").unwrap();
    assigned(&mut *member);
    member.start(0, 0).unwrap();
    let mut producer = log.producer("id").unwrap();
    producer.transact(records("t", 20, 1)).unwrap();
    let writer = thread::spawn(move || producer.transact(records("t", 1, 1)));
    let mut read = 0;
    while read < 21 {
        if let Polled::Records(records) = member.poll(SOON).unwrap() {
            read += records.len();
        }
    }
    writer.join().unwrap().unwrap();
}

#[test]
fn a_bounded_topic_forgets_only_what_every_group_has_committed() {
    let log = log(Limits { topic_bytes: 10_000, ..Limits::default() });
    let mut member = log.member("g", "t").unwrap();
    assigned(&mut *member);
    let mut producer = log.producer("id").unwrap();
    for _ in 0..20 {
        producer.transact(records("t", 10, 1_000)).unwrap();
    }
    assert_eq!(visible(&log, "t"), 200);
    let commit = OffsetCommit { partition: 0, offset: 100, metadata: String::new() };
    let offsets = Some((member.membership().unwrap(), vec![commit]));
    producer.transact(Transaction { offsets, ..Transaction::default() }).unwrap();
    let low = log.reader().unwrap().bounds("t", 0).unwrap().low;
    assert!((90..=100).contains(&low), "{low}");
    assert!(matches!(member.start(0, 5), Err(LogError::Truncated { wanted: 5, .. })));
    for _ in 0..20 {
        producer.transact(records("out", 10, 1_000)).unwrap();
    }
    assert!(log.bytes("out") <= 10_000, "nobody reads it");
}

#[test]
fn a_compacted_topic_does_not_grow_with_its_updates() {
    let log = MemoryLog::new();
    log.create_topics(&[topic("c", 1, true)]).unwrap();
    let mut producer = log.producer("id").unwrap();
    for _ in 0..100 {
        producer.transact(records("c", 10, 50_000)).unwrap();
    }
    assert!(log.bytes("c") < 8 << 20, "{}", log.bytes("c"));
    assert!(visible(&log, "c") >= 10);
}

#[test]
fn ousted_members_commit_nothing_more_and_join_again() {
    let log = log(Limits::default());
    let mut member = log.member("g", "t").unwrap();
    assigned(&mut *member);
    let stale = member.membership().unwrap();
    log.oust("g");
    let offsets = Some((stale, vec![OffsetCommit { partition: 0, offset: 1, metadata: String::new() }]));
    let refused = log.producer("id").unwrap().transact(Transaction { offsets, ..records("out", 1, 1) });
    assert!(matches!(refused, Err(TransactError::Fenced { .. })), "{refused:?}");
    assert_eq!(visible(&log, "out"), 0);
    assert!(matches!(member.poll(SOON).unwrap(), Polled::Revoked(partitions) if partitions == [0]));
    assigned(&mut *member);
    assert_eq!(member.committed(0).unwrap(), None);
}

#[test]
fn a_million_records_pass_in_seconds() {
    let log = log(Limits { topic_bytes: 64 << 20, backlog_records: 20_000, ..Limits::default() });
    let mut member = log.member("g", "t").unwrap();
    assigned(&mut *member);
    member.start(0, 0).unwrap();
    let mut producer = log.producer("id").unwrap();
    let value = Bytes::from(vec![7; 800]);
    let writer = thread::spawn(move || {
        for _ in 0..250 {
            let record = Record { topic: "t".into(), partition: 0, key: None, value: Some(value.clone()), headers: Vec::new() };
            producer.transact(Transaction { records: vec![record; 4_000], ..Transaction::default() }).unwrap();
        }
    });
    let (begin, mut read) = (Instant::now(), 0);
    while read < 1_000_000 {
        if let Polled::Records(records) = member.poll(SOON).unwrap() {
            read += records.len();
        }
    }
    writer.join().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}
