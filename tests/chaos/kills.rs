//! Processes killed while tickets flow: at named places, and at any time.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bson::{Bson, Document};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use tidemark::fault::{Place, VARIABLE};
use tidemark::log::{Record, Transaction};

use super::campaign::{Seeds, Story, run};
use super::check::{Checker, Derived};
use crate::e2e::{completed_at, halves, last_mark, make_baseline_from_file};
use crate::support::{Deployment, Process, kafka, mongo, wait_until};

const PARTITIONS: u32 = 3;
/// Flights of a run: three days, the second of them slow, so that episodes open and close.
const TICKETS: usize = 2_700;
const SLOW_FROM: usize = 900;
const SLOW_TO: usize = 1_700;
/// Parts of the stream; processes are killed while each of them flows.
const ROUNDS: usize = 8;
/// A group notices a dead member after its session's time, and the machine is busy.
const LIMIT: Duration = Duration::from_secs(90);
/// How often it is looked whether all is there.
const LOOK: Duration = Duration::from_millis(200);
/// Kills of the test that every change has to pass.
const SEEDS: u64 = 4;

/// The tickets of every run.
pub(crate) fn tickets() -> &'static [Document] {
    static TICKETS_OF_RUNS: OnceLock<Vec<Document>> = OnceLock::new();
    TICKETS_OF_RUNS.get_or_init(|| {
        let mut tickets = halves().1[..TICKETS].to_vec();
        for ticket in &mut tickets[SLOW_FROM..SLOW_TO] {
            let actual = match ticket.get("actual_duration_ms") {
                Some(Bson::Int64(ms)) => *ms,
                Some(Bson::Int32(ms)) => i64::from(*ms),
                other => panic!("a flight took a whole number of ms, not {other:?}"),
            };
            ticket.insert("actual_duration_ms", actual * 3);
        }
        assert!(tickets.is_sorted_by_key(completed_at));
        tickets
    })
}

/// A deployment that begins with the baseline of the flights.
pub(crate) fn deployment(name: &str) -> (Deployment, Checker) {
    let mut deployment = Deployment::new(name, PARTITIONS);
    let settings = [
        ("TIDEMARK_TAIL_START", "history"),
        ("TIDEMARK_TAIL_CLOCK", "tickets"),
        ("TIDEMARK_TAIL_TRANSACTION_ROWS", "20"),
        ("TIDEMARK_KAFKA_PROPERTIES_SESSION_TIMEOUT_MS", "1500"),
        ("TIDEMARK_KAFKA_PROPERTIES_HEARTBEAT_INTERVAL_MS", "400"),
    ];
    settings.into_iter().for_each(|(key, value)| deployment.set(key, value));
    let checker = Checker::new(&mongo().uri, &kafka().bootstrap_servers, name, PARTITIONS);
    checker.create_topics();
    (deployment, checker)
}

/// What a pass without faults brings, and the record of the baseline it was judged by.
struct Clean {
    derived: Derived,
    baseline: Vec<Record>,
}

fn clean() -> &'static Clean {
    static CLEAN: OnceLock<Clean> = OnceLock::new();
    CLEAN.get_or_init(|| {
        let (deployment, checker) = deployment("chaos-clean");
        make_baseline_from_file(&deployment);
        let process = deployment.start("one", &["run"]);
        wait_until("tail streams", LIMIT, || checker.tail_streams().then_some(()));
        for part in tickets().chunks(TICKETS / ROUNDS) {
            deployment.insert(part);
        }
        wait_until("all is judged", LIMIT, || checker.is_done(TICKETS, last_mark(tickets())).then_some(()));
        process.kill();
        let baseline = checker.records(&checker.topics.baselines, 0).into_iter().map(|record| Record {
            topic: checker.topics.baselines.clone(),
            partition: 0,
            key: record.key,
            value: record.value,
            headers: record.headers,
        });
        Clean { derived: checker.derived(), baseline: baseline.collect() }
    })
}

/// Copies the baseline of the clean pass.
fn give_baseline(checker: &Checker) {
    let to = |record: &Record| Record { topic: checker.topics.baselines.clone(), ..record.clone() };
    let records = clean().baseline.iter().map(to).collect();
    let mut producer = checker.log.producer("chaos").expect("a producer");
    producer.transact(Transaction { records, ..Transaction::default() }).expect("the baseline is written");
}

/// A process and what it is started as, again and again.
struct Slot {
    instance: &'static str,
    stages: &'static [&'static str],
    process: Option<Process>,
    armed: Option<String>,
}

const STAGES: [&str; 3] = ["tail", "watch", "judge"];

struct Run<'r> {
    /// The stage and the place that this seed aims at: so many seeds as there are places aim at all of them.
    aim: (&'static str, Place),
    deployment: Deployment,
    dice: Xoshiro256PlusPlus,
    slots: Vec<Slot>,
    story: &'r mut Story,
}

impl Run<'_> {
    fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.dice.next_u64() % sides as u64).expect("fewer than a usize holds")
    }

    /// Starts what does not run; `armed`, perhaps with a place at which it will be killed.
    fn start(&mut self, armed: bool) {
        for at in 0..self.slots.len() {
            if self.slots[at].process.is_some() {
                continue;
            }
            let fault = (armed && self.roll(10) < 8).then(|| self.fault(at));
            let slot = &mut self.slots[at];
            let stages = slot.stages.join(",");
            let arguments = ["run", "--stages", &stages];
            let environment: Vec<(&str, &str)> = fault.iter().map(|fault| (VARIABLE, fault.as_str())).collect();
            slot.process = Some(self.deployment.start_with(slot.instance, &arguments, &environment));
            self.story.tell(format!("{} starts {stages}, to be killed at {}", slot.instance, fault.as_deref().unwrap_or("no place")));
            slot.armed = fault;
        }
    }

    /// Chooses a place of one of the slot's stages: mostly soon, sometimes late, sometimes a moment after it.
    fn fault(&mut self, slot: usize) -> String {
        let stages = self.slots[slot].stages;
        let (stage, place) = if stages.contains(&self.aim.0) && self.roll(2) == 0 {
            self.aim
        } else {
            let stage = stages[self.roll(stages.len())];
            let places = Place::of(stage);
            (stage, places[self.roll(places.len())])
        };
        let many = if matches!(place, Place::Taken | Place::Judged) { 40 } else { 1 };
        let latest = [1, 3, 8, 20][self.roll(4)];
        let nth = 1 + self.roll(latest) * many;
        let micros = if self.roll(3) == 0 { format!(":{}", self.roll(5_000)) } else { String::new() };
        format!("{stage}:{}:{nth}{micros}", place.name())
    }

    /// Counts those that were killed at their places.
    fn reap(&mut self) {
        for slot in &mut self.slots {
            let Some(process) = slot.process.take_if(|process| !process.is_alive()) else { continue };
            match slot.armed.take() {
                Some(fault) => {
                    self.story.faults += 1;
                    self.story.tell(format!("{} was killed at {fault}", slot.instance));
                }
                None => self.story.violation(format!("{} ended by itself:\n{}", slot.instance, process.last_words())),
            }
        }
    }

    /// Kills some of those that run.
    fn kill_some(&mut self) {
        for at in 0..self.slots.len() {
            let odds = if self.slots[at].armed.is_some() { 3 } else { 6 };
            if self.roll(10) < odds
                && let Some(process) = self.slots[at].process.take()
            {
                process.kill();
                self.story.faults += 1;
                self.story.tell(format!("{} is killed", self.slots[at].instance));
            }
        }
    }

    /// Waits until `ready`, starting again what dies on the way. `false`: in vain.
    fn until(&mut self, ready: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        while !ready() {
            self.reap();
            self.start(false);
            if begun.elapsed() > LIMIT || !self.story.is_clean() {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }
}

fn slot(instance: &'static str, stages: &'static [&'static str]) -> Slot {
    Slot { instance, stages, process: None, armed: None }
}

fn kills(seed: u64, story: &mut Story) {
    let (deployment, checker) = deployment(&format!("kills-{seed}-{}", std::process::id()));
    give_baseline(&checker);
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(seed);
    let slots = match dice.next_u64() % 4 {
        0 => vec![slot("one", &STAGES)],
        1 => vec![slot("one", &STAGES), slot("two", &STAGES)],
        _ => vec![slot("t", &["tail"]), slot("w", &["watch"]), slot("j", &["judge"])],
    };
    let aims: Vec<_> = STAGES.iter().flat_map(|stage| Place::of(stage).into_iter().map(|place| (*stage, place))).collect();
    let aim = aims[usize::try_from(seed).expect("a small seed") % aims.len()];
    let mut run = Run { aim, deployment, dice, slots, story };
    run.start(true);
    if !run.until(|| checker.tail_streams()) {
        return run.story.violation("tail did not begin");
    }
    for part in tickets().chunks(TICKETS.div_ceil(ROUNDS)) {
        run.start(true);
        run.deployment.insert(part);
        run.story.tell(format!("{} tickets complete", part.len()));
        let longest = if run.roll(3) == 0 { 4_000 } else { 1_200 };
        let wait = 100 + run.roll(longest);
        std::thread::sleep(Duration::from_millis(wait as u64));
        run.reap();
        run.kill_some();
    }
    let last = last_mark(tickets());
    if !run.until(|| checker.is_done(TICKETS, last)) {
        let until = checker.judged_until();
        let says: Vec<String> = run.slots.iter().flat_map(|slot| &slot.process).map(Process::last_words).collect();
        run.story.violation(format!("not all is there within {LIMIT:?}, it is judged until {until:?} of {last}\n{}", says.join("\n")));
    }
    run.slots.clear();
    checker.audit(TICKETS, story);
    checker.derived().compare(&clean().derived, story);
}

#[test]
fn fifty_kills_lose_nothing_repeat_nothing_and_change_no_verdict() {
    run(Seeds::or(SEEDS), "kills", kills);
}
