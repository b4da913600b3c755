use std::borrow::Cow;

use bytes::Bytes;

use super::*;
use crate::config::ClockMode;
use crate::tail::partition::partition;
use crate::tail::position::{Head, Position};
use crate::tail::source::Place;
use crate::tail::time::SourceClock;
use crate::ticket::{Chain, Control, Mark};

const PARTITIONS: u32 = 2;

/// A log as tail writes it.
struct Written {
    heads: Vec<Head>,
    records: Vec<Delivered>,
    mark: u64,
}

impl Written {
    fn new() -> Self {
        let heads = (0..PARTITIONS).map(|number| Head { chain: Chain::begin(&format!("c{number}")), offset: 0 }).collect();
        let mut written = Self { heads, records: Vec::new(), mark: 1 };
        let start = Control::ChainStart { id: "chain-c0".into(), spec: "s".into(), fingerprint: "f".into(), partitions: PARTITIONS };
        written.broadcast(&start);
        written
    }

    fn append(&mut self, partition: u32, kind: &'static str, key: Option<Bytes>, value: Bytes) {
        let head = &mut self.heads[partition as usize];
        let headers = head.chain.link(kind, key.as_deref(), &value);
        self.records.push(Delivered { partition, offset: head.offset, timestamp_ms: 0, key, value: Some(value), headers });
        head.offset += 1;
    }

    fn broadcast(&mut self, control: &Control) {
        for partition in 0..PARTITIONS {
            self.append(partition, control.kind(), None, serde_json::to_vec(control).unwrap().into());
        }
    }

    fn mark(&mut self) {
        let mark = Mark { number: self.mark, end_ms: 0, partitions: PARTITIONS, baseline: None };
        self.mark += 1;
        self.broadcast(&Control::Mark(mark));
    }

    fn ticket(&mut self, id: &str, completed_at: i64, commit: u32) {
        let value =
            format!("{{\"id\":{id:?},\"completed_at\":{completed_at},\"commit\":[{commit},1],\"transition\":\"insert\",\"fields\":{{}}}}");
        let key = Bytes::copy_from_slice(id.as_bytes());
        self.append(partition(&key, PARTITIONS), "ticket", Some(key), value.into());
    }

    fn check(&self, facts: &[Fact<'_>]) -> Findings {
        let topics = Topics::new("t");
        check(&Sides { topics: &topics, partitions: PARTITIONS, facts, tickets: &self.records, dead_letters: &[] })
    }
}

fn fact(key: &str, completed_at_ms: i64) -> Fact<'_> {
    Fact::Completed { key: key.as_bytes(), completed_at_ms }
}

fn written() -> (Written, Vec<Fact<'static>>) {
    let mut written = Written::new();
    for (at, id) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        written.ticket(id, 10, u32::try_from(at).unwrap() + 1);
        written.mark();
    }
    (written, ["a", "b", "c", "d", "e"].map(|id| fact(id, 10)).to_vec())
}

fn kinds(findings: &Findings) -> Vec<(Kind, u64)> {
    findings.iter().map(|(kind, found)| (kind, found.count)).collect()
}

#[test]
fn a_log_that_keeps_its_promise_has_no_findings() {
    let (written, facts) = written();
    assert_eq!(kinds(&written.check(&facts)), []);
}

#[test]
fn a_log_that_ends_before_its_position_lacks_something_unless_retention_has_removed_it() {
    let head = |number: usize, seq: u64| Head { chain: Chain { seq, ..Chain::begin(&format!("c{number}")) }, offset: 7 };
    let position = Position {
        spec: "s".into(),
        fingerprint: "f".into(),
        source: String::new(),
        place: Place::Rows(0),
        history: None,
        gap_told_ms: None,
        tickets: vec![head(0, 6), head(1, 6)],
        dead_letters: vec![head(0, 0), head(1, 0)],
        clock: SourceClock::new(ClockMode::Tickets),
        next_mark: 4,
        next_end_ms: None,
        baseline: None,
        baselines_offset: 0,
        model_events_offset: 0,
    };
    let found = |lows: [i64; 2]| {
        let mut follower = Follower::of_tickets("t", PARTITIONS);
        follower.reaches(&position, &lows);
        kinds(&follower.end().0)
    };
    assert_eq!(found([0, 0]), [(Kind::ChainBroken, 2), (Kind::ControlTorn, 2)]);
    assert_eq!(found([7, 6]), [(Kind::ChainBroken, 1), (Kind::ControlTorn, 1)]);
    assert_eq!(found([7, 9]), []);
}

/// A dead letter: whose, at what place, of which document, completed when.
fn letter(key: Option<&'static str>, position: &str, document: Option<&str>, completed_at_ms: Option<i64>) -> Line {
    Line::Dead(DeadLine {
        key: key.map(Bytes::from),
        reason: "bad_id".to_owned(),
        completed_at_ms,
        document: document.map(str::to_owned),
        position: position.to_owned(),
        place: (0, 0),
    })
}

#[test]
fn a_row_that_was_told_before_is_a_duplicate_and_what_was_written_again_is_not() {
    let duplicates = |letters: Vec<Line>| {
        let mut ledger = Ledger::of(Chosen::all());
        letters.into_iter().for_each(|letter| ledger.line(letter));
        let found = ledger.compare(("t", "d")).findings.iter().map(|(kind, found)| (kind, found.count)).collect::<Vec<_>>();
        found.into_iter().filter(|(kind, _)| *kind == Kind::DuplicatedDeadLetter).map(|(_, count)| count).sum::<u64>()
    };
    let [streamed, row] = ["token 82", "_id 7"];
    assert_eq!(duplicates(vec![letter(None, streamed, Some("7"), None), letter(None, row, Some("7"), None)]), 1);
    assert_eq!(duplicates(vec![letter(None, row, Some("7"), None), letter(None, row, Some("7"), None)]), 1);
    assert_eq!(duplicates(vec![letter(Some("a"), streamed, None, Some(9)), letter(Some("a"), row, None, Some(9))]), 1);
    // Written again after it was read; another document; another completion; nothing to tell them by.
    assert_eq!(duplicates(vec![letter(None, row, Some("7"), None), letter(None, streamed, Some("7"), None)]), 0);
    assert_eq!(duplicates(vec![letter(None, streamed, Some("8"), None), letter(None, row, Some("7"), None)]), 0);
    assert_eq!(duplicates(vec![letter(Some("a"), streamed, None, Some(8)), letter(Some("a"), row, None, Some(9))]), 0);
    assert_eq!(duplicates(vec![letter(None, streamed, None, Some(9)), letter(None, row, None, Some(9))]), 0);
}

#[test]
fn what_is_missing_or_gone_or_altered_is_named() {
    let (written, mut facts) = written();
    facts.push(fact("f", 10));
    facts[0] = fact("a", 11);
    facts.remove(1);
    let findings = written.check(&facts);
    assert_eq!(kinds(&findings), [(Kind::Missing, 1), (Kind::Gone, 1), (Kind::Altered, 2)]);
    assert!(findings.to_string().contains("f completed at 1970"), "{findings}");
    assert_eq!(findings.wrong(false).count(), 1);
    assert_eq!(findings.wrong(true).count(), 3);
}

#[test]
fn a_completion_that_is_there_twice_is_duplicated_and_one_of_another_commit_is_not() {
    let (mut written, facts) = written();
    written.ticket("a", 10, 6);
    written.ticket("b", 10, 6);
    written.ticket("b", 10, 6);
    assert_eq!(kinds(&written.check(&facts)), [(Kind::Duplicated, 1), (Kind::Again, 2)]);
}

#[test]
fn a_ticket_behind_a_later_commit_is_out_of_order() {
    let (mut written, mut facts) = written();
    written.ticket("a", 12, 1);
    written.ticket("b", 12, 1);
    facts.extend([fact("a", 12), fact("b", 12)]);
    let findings = written.check(&facts);
    assert!(findings.count(Kind::OutOfOrder) > 0, "{findings}");
}

#[test]
fn a_record_that_is_lost_repeated_or_changed_breaks_the_chain() {
    let (written, facts) = written();
    let ticket = written.records.iter().position(|record| record.key.is_some()).unwrap();
    let mut lost = Written { records: written.records.clone(), heads: vec![], mark: 0 };
    lost.records.remove(ticket);
    assert_eq!(kinds(&lost.check(&facts)), [(Kind::Missing, 1), (Kind::ChainBroken, 1)]);
    let mut repeated = Written { records: written.records.clone(), heads: vec![], mark: 0 };
    repeated.records.push(written.records[ticket].clone());
    assert_eq!(kinds(&repeated.check(&facts)), [(Kind::Duplicated, 1), (Kind::OutOfOrder, 1), (Kind::ChainBroken, 1)]);
    let mut changed = Written { records: written.records.clone(), heads: vec![], mark: 0 };
    let value = String::from_utf8(changed.records[ticket].value.clone().unwrap().to_vec()).unwrap();
    changed.records[ticket].value = Some(value.replace("\"completed_at\":10", "\"completed_at\":13").into());
    assert_eq!(changed.check(&facts).count(Kind::ChainBroken), 2);
}

#[test]
fn a_mark_that_one_partition_lacks_is_torn_and_a_strangers_record_is_only_counted() {
    let (mut written, facts) = written();
    let value = serde_json::to_vec(&Control::Mark(Mark { number: 6, end_ms: 0, partitions: PARTITIONS, baseline: None })).unwrap();
    written.append(0, "mark", None, value.into());
    assert_eq!(kinds(&written.check(&facts)), [], "a torn end is made whole when tail runs again");
    written.mark = 7;
    written.mark();
    assert!(written.check(&facts).count(Kind::ControlTorn) > 0);

    let (mut written, facts) = self::written();
    let headers = vec![(Cow::Borrowed("kind"), Bytes::from_static(b"ticket"))];
    written.records.push(Delivered { partition: 0, offset: 99, timestamp_ms: 0, key: None, value: None, headers });
    assert_eq!(kinds(&written.check(&facts)), [(Kind::Stranger, 1)]);
}

#[test]
fn what_is_lost_within_a_gap_is_told_and_gaps_do_not_overlap() {
    let (mut written, mut facts) = written();
    facts.push(fact("lost", 15));
    written.broadcast(&Control::Gap { id: "gap-12-20".into(), from_ms: 12, to_ms: 20, reason: "rolled".into() });
    assert_eq!(kinds(&written.check(&facts)), [(Kind::InGap, 1)]);
    written.broadcast(&Control::Gap { id: "gap-19-30".into(), from_ms: 19, to_ms: 30, reason: "rolled".into() });
    assert_eq!(written.check(&facts).count(Kind::GapsOverlap), 1);
}
