//! The stream that runs are held against: its tickets, its deployment, and what a pass without faults makes of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bson::{Bson, Document};
use serde_json::Value;
use tidemark::log::{Record, Transaction};

use super::campaign::{Dice, Story};
use super::check::{Checker, Derived};
use crate::e2e::{completed_at, halves, last_mark, make_baseline_from_file};
use crate::support::{Deployment, Process, kafka, mongo, wait_until};

/// Of the tickets in most runs.
pub(crate) const PARTITIONS: u32 = 3;
/// Flights of a run: three days, the second of them slow, so that episodes open and close.
const TICKETS: usize = 2_700;
const SLOW_FROM: usize = 900;
const SLOW_TO: usize = 1_700;
/// One ticket of so many has no duration, and one no id: such are dead letters, and under faults each is one once, too.
const NO_ACTUAL: usize = 97;
const NO_ID: usize = 389;
/// Patience: a group notices a dead member after its session's time, and the machine may be busy with more than this.
const LIMIT: Duration = Duration::from_secs(240);
/// How often it is looked whether all is there.
const LOOK: Duration = Duration::from_millis(200);
/// How long a transaction may hang before the broker ends it.
pub(crate) const TRANSACTION: Duration = Duration::from_secs(3);
/// After how long a silent member loses its seat.
pub(crate) const SESSION: Duration = Duration::from_millis(1_500);

/// The tickets of every run.
fn tickets() -> &'static [Document] {
    static TICKETS_OF_RUNS: OnceLock<Vec<Document>> = OnceLock::new();
    TICKETS_OF_RUNS.get_or_init(|| {
        let mut tickets = halves().1[..TICKETS].to_vec();
        slow(&mut tickets[SLOW_FROM..SLOW_TO], 3);
        spoil(&mut tickets);
        assert!(tickets.is_sorted_by_key(completed_at));
        tickets
    })
}

/// Makes tickets take so many times as long.
pub(crate) fn slow(tickets: &mut [Document], times: i64) {
    for ticket in tickets {
        let actual = match ticket.get("actual_duration_ms") {
            Some(Bson::Int64(ms)) => *ms,
            Some(Bson::Int32(ms)) => i64::from(*ms),
            other => panic!("a flight took a whole number of ms, not {other:?}"),
        };
        ticket.insert("actual_duration_ms", actual * times);
    }
}

/// Makes some tickets unusable. Those have an `_id` of ours, by which their dead letters are known.
fn spoil(tickets: &mut [Document]) {
    for (number, ticket) in (1_usize..).zip(tickets) {
        if number.is_multiple_of(NO_ACTUAL) {
            ticket.insert("actual_duration_ms", -5_i64);
        } else if number.is_multiple_of(NO_ID) {
            ticket.remove("ticket_id");
        } else {
            continue;
        }
        ticket.insert("_id", format!("unusable-{number}"));
    }
}

/// Whether a ticket has not been spoilt.
fn is_usable(ticket: &Document) -> bool {
    !ticket.contains_key("_id")
}

/// Returns the end of the last slice that the first `count` tickets end: of those that can be used, as no other moves the clock.
fn last_mark_of(count: usize) -> i64 {
    // They are in order, and the clock shows the 20th from the end.
    let last: Vec<Document> = tickets()[..count].iter().rev().filter(|ticket| is_usable(ticket)).take(20).cloned().collect();
    last_mark(&last)
}

/// The tickets in so many parts.
pub(crate) fn parts(count: usize) -> impl Iterator<Item = &'static [Document]> {
    tickets().chunks(TICKETS.div_ceil(count))
}

/// The servers of a run, and how it is spread over them.
pub(crate) struct On<'s> {
    /// Addresses of the broker or brokers.
    pub(crate) kafka: &'s str,
    /// Connection string.
    pub(crate) mongodb: &'s str,
    /// Of the tickets.
    pub(crate) partitions: u32,
    /// Of each partition.
    pub(crate) copies: u32,
}

impl<'s> On<'s> {
    /// The broker at `kafka`, and the MongoDB that all tests share.
    pub(crate) fn broker(kafka: &'s str) -> Self {
        Self { kafka, mongodb: &mongo().uri, partitions: PARTITIONS, copies: 1 }
    }
}

/// A deployment without a baseline, and who checks it.
pub(crate) fn empty(name: &str, on: &On<'_>) -> (Deployment, Checker) {
    let mut deployment = Deployment::new(name, on.partitions);
    let ms = |time: Duration| time.as_millis().to_string();
    let settings = [
        ("KAFKA_BOOTSTRAP_SERVERS", on.kafka.to_owned()),
        ("MONGODB_URI", on.mongodb.to_owned()),
        ("TIDEMARK_KAFKA_REPLICATION", on.copies.to_string()),
        ("TIDEMARK_TAIL_START", "history".to_owned()),
        ("TIDEMARK_TAIL_CLOCK", "tickets".to_owned()),
        ("TIDEMARK_TAIL_TRANSACTION_ROWS", "20".to_owned()),
        ("TIDEMARK_KAFKA_PROPERTIES_SESSION_TIMEOUT_MS", ms(SESSION)),
        ("TIDEMARK_KAFKA_PROPERTIES_HEARTBEAT_INTERVAL_MS", "400".to_owned()),
        ("TIDEMARK_KAFKA_PROPERTIES_TRANSACTION_TIMEOUT_MS", ms(TRANSACTION)),
    ];
    settings.iter().for_each(|(key, value)| deployment.set(key, value));
    on.mongodb.clone_into(&mut deployment.written_at);
    let checker = Checker::new(on.mongodb, on.kafka, name, on.partitions).with_copies(on.copies);
    checker.create_topics();
    (deployment, checker)
}

/// A deployment that begins with the baseline of the flights, on the broker at `kafka`.
pub(crate) fn deployment(name: &str, kafka: &str) -> (Deployment, Checker) {
    deployment_on(name, &On::broker(kafka))
}

/// The same on any servers.
pub(crate) fn deployment_on(name: &str, on: &On<'_>) -> (Deployment, Checker) {
    let (deployment, checker) = empty(name, on);
    let to = |record: &Record| Record { topic: checker.topics.baselines.clone(), ..record.clone() };
    let records = clean(on.partitions).baseline.iter().map(to).collect();
    let mut producer = checker.log.producer("chaos").expect("a producer");
    producer.transact(Transaction { records, ..Transaction::default() }).expect("the baseline is written");
    (deployment, checker)
}

/// What a pass without faults brings, and the record of the baseline it was judged by.
struct Clean {
    derived: Derived,
    baseline: Vec<Record>,
}

/// A summary is one of a partition, so it matters how many there are.
fn clean(partitions: u32) -> Arc<Clean> {
    static CLEAN: Mutex<BTreeMap<u32, Arc<OnceLock<Arc<Clean>>>>> = Mutex::new(BTreeMap::new());
    let clean = Arc::clone(CLEAN.lock().expect("nobody panics there").entry(partitions).or_default());
    let clean = clean.get_or_init(|| {
        let on = On { partitions, ..On::broker(&kafka().bootstrap_servers) };
        let (deployment, checker) = empty(&format!("chaos-clean-{partitions}"), &on);
        make_baseline_from_file(&deployment);
        let process = deployment.start("one", &["run"]);
        wait_until("tail streams", LIMIT, || checker.tail_streams().then_some(()));
        parts(8).for_each(|part| deployment.insert(part));
        wait_until("all is judged", LIMIT, || is_done(&checker).then_some(()));
        process.kill();
        let baseline = checker.records(&checker.topics.baselines, 0).into_iter().map(|record| Record {
            topic: checker.topics.baselines.clone(),
            partition: 0,
            key: record.key,
            value: record.value,
            headers: record.headers,
        });
        Arc::new(Clean { derived: checker.derived(), baseline: baseline.collect() })
    });
    Arc::clone(clean)
}

/// Looks again and again until `ready`, and before each look whether there is reason to go on. `false`: in vain.
pub(crate) fn until(mut goes_on: impl FnMut() -> bool, ready: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !ready() {
        if !goes_on() || begun.elapsed() > LIMIT {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

/// Whether all that is to come of the tickets is there.
pub(crate) fn is_done(checker: &Checker) -> bool {
    checker.is_done(TICKETS, last_mark_of(TICKETS))
}

/// Whether the first `count` tickets are judged as far as they go.
pub(crate) fn is_judged(checker: &Checker, count: usize) -> bool {
    checker.judged_until() >= Some(last_mark_of(count))
}

/// Tells that not everything came, and what the processes say.
pub(crate) fn is_missing<'p>(checker: &Checker, processes: impl Iterator<Item = &'p Process>, story: &mut Story) {
    let (until, last) = (checker.judged_until(), last_mark_of(TICKETS));
    let says: Vec<String> = processes.map(Process::last_words).collect();
    story.violation(format!("not all is there within {LIMIT:?}, it is judged until {until:?} of {last}\n{}", says.join("\n")));
}

/// Audits what is there at the end, and compares it with what a pass without faults brings.
pub(crate) fn check(checker: &Checker, story: &mut Story) {
    checker.audit(TICKETS, story);
    check_dead_letters(checker, story);
    checker.derived().compare(&clean(checker.partitions()).derived, story);
}

/// Each ticket that cannot be used has to be a dead letter once, and nothing else.
fn check_dead_letters(checker: &Checker, story: &mut Story) {
    let line = |document: &Value, id: &Value, reason: &Value| format!("{document} {id} {reason}");
    let letters = checker.dead_letters();
    let mut found: Vec<String> = letters.iter().map(|letter| line(&letter["document"], &letter["id"], &letter["reason"])).collect();
    let unusable = tickets().iter().filter(|ticket| !is_usable(ticket));
    let mut expected: Vec<String> = unusable
        .map(|ticket| {
            let text = |name: &str| ticket.get_str(name).map_or(Value::Null, Value::from);
            let reason = if ticket.contains_key("ticket_id") { "no_actual" } else { "bad_id" };
            line(&text("_id"), &text("ticket_id"), &Value::from(reason))
        })
        .collect();
    found.sort();
    expected.sort();
    if found != expected {
        let (found, expected) = (found.join("\n"), expected.join("\n"));
        story.violation(format!("dead letters are not those of the tickets that cannot be used\nfound:\n{found}\nexpected:\n{expected}"));
    }
}

/// Every stage that writes.
pub(crate) const STAGES: [&str; 3] = ["tail", "watch", "judge"];

/// A process and what it is started as, again and again.
pub(crate) struct Slot {
    pub(crate) instance: String,
    pub(crate) stages: &'static [&'static str],
    pub(crate) process: Option<Process>,
    /// Whether who is started again takes its old seat in its groups at once, instead of a new one (KIP-345).
    keeps_seat: bool,
}

impl Slot {
    fn new(instance: &str, stages: &'static [&'static str]) -> Self {
        Self { instance: instance.to_owned(), stages, process: None, keeps_seat: false }
    }

    /// Starts a process of it, with more in its environment.
    pub(crate) fn start(&self, deployment: &Deployment, environment: &[(&str, &str)]) -> Process {
        let seat = self.keeps_seat.then_some(("TIDEMARK_KAFKA_PROPERTIES_GROUP_INSTANCE_ID", self.instance.as_str()));
        let environment: Vec<(&str, &str)> = environment.iter().copied().chain(seat).collect();
        deployment.start_with(&self.instance, &["run", "--stages", &self.stages.join(",")], &environment)
    }
}

/// Tells of processes that have ended by themselves. Whether all has held so far.
pub(crate) fn nobody_ended(slots: &mut [Slot], story: &mut Story) -> bool {
    for slot in slots {
        if let Some(process) = slot.process.take_if(|process| !process.is_alive()) {
            story.violation(format!("{} ended by itself:\n{}", slot.instance, process.last_words()));
        }
    }
    story.is_clean()
}

/// One process for every stage.
pub(crate) fn apart() -> Vec<Slot> {
    vec![Slot::new("t", &["tail"]), Slot::new("w", &["watch"]), Slot::new("j", &["judge"])]
}

/// One process, or two that stand by for each other.
pub(crate) fn together(processes: usize) -> Vec<Slot> {
    ["one", "two"].into_iter().take(processes).map(|instance| Slot::new(instance, &STAGES)).collect()
}

/// Two processes that train and stand by for each other.
pub(crate) fn trainers() -> Vec<Slot> {
    vec![Slot::new("training", &["train"]), Slot::new("standing-by", &["train"])]
}

/// Who runs the stages: one process, two that stand by for each other, or most often one a stage.
pub(crate) fn slots(dice: &mut Dice) -> Vec<Slot> {
    let slots = match dice.roll(4) {
        0 => together(1),
        1 => together(2),
        _ => apart(),
    };
    perhaps_seated(dice, slots)
}

/// In every other run, who is started again keeps its seat.
pub(crate) fn perhaps_seated(dice: &mut Dice, mut slots: Vec<Slot>) -> Vec<Slot> {
    let keeps_seat = dice.roll(2) == 0;
    slots.iter_mut().for_each(|slot| slot.keeps_seat = keeps_seat);
    slots
}
