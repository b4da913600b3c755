//! One simulation: the stages' own code, as many processes as the plan has, over the log in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemark::log::memory::{Limits, MemoryLog};
use tidemark::log::{Delivered, Log};
use tidemark::stage::{Context, Health, Stop};
use tidemark::tail::position::Position;
use tidemark::topics::Topics;
use tidemark::{judge, tail, watch};

use crate::plan::{Mishap, Plan, STAGES};
use crate::script::{Script, ScriptedSource, Switch};
use crate::turns::Turns;
use crate::world::{Line, Tally, World};

/// A group does without a member that it has not heard of for so long.
const SESSION: Duration = Duration::from_secs(6);
/// A broker ends a transaction that hangs for so long.
const TRANSACTION: Duration = Duration::from_secs(10);
/// How long it may take until all is judged, after the last event and the last mishap.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long it is watched whether more comes, once all is there.
const AFTERWARDS: Duration = Duration::from_secs(3);
/// How often it is looked whether all is there.
const LOOK: Duration = Duration::from_millis(100);
/// How long the stages may take to end when they are asked to.
const STOP: Duration = Duration::from_secs(60);

/// What came of a simulation.
pub(crate) struct Outcome {
    pub(crate) log: MemoryLog,
    /// What stands for the order of everything that happened, and the number of turns.
    pub(crate) traced: (u64, u64),
    /// What is wrong already.
    pub(crate) violations: Vec<String>,
    pub(crate) story: Vec<String>,
    /// What went wrong, and how often.
    pub(crate) tally: Tally,
}

/// Returns the committed records of a topic's partition, up to the first transaction that is open.
pub(crate) fn records(log: &MemoryLog, topic: &str, partition: u32) -> Vec<Delivered> {
    let (mut follower, mut records) = (log.follow(topic, &[]).unwrap(), Vec::new());
    loop {
        let some = follower.poll(Duration::ZERO).unwrap();
        if some.is_empty() {
            return records;
        }
        records.extend(some.into_iter().filter(|record| record.partition == partition));
    }
}

/// Returns an empty log with the topics of a script.
pub(crate) fn empty_log(script: &Script) -> MemoryLog {
    let log = MemoryLog::bounded(Limits { session_patience: SESSION, ..Limits::default() });
    log.create_topics(&Topics::new("tidemark").settings(&script.config.topic_plan())).unwrap();
    log
}

struct Process {
    /// Its number among the plan's.
    number: usize,
    /// Its number among the threads'.
    threads: usize,
    stop: Stop,
    /// When it begins again, once it has ended.
    again_at: Option<Duration>,
    healths: Health,
}

type Ends = Arc<Mutex<Vec<String>>>;

struct Run<'a> {
    script: &'a Arc<Script>,
    stages: &'a [usize],
    world: Arc<World>,
    topics: Arc<Topics>,
    processes: Vec<Process>,
    ends: Ends,
}

/// Runs these stages of a script under a plan, until all is judged.
pub(crate) fn run(script: &Arc<Script>, plan: &Plan, stages: &[usize], log: MemoryLog, seed: u64, with_story: bool) -> Outcome {
    let turns = Turns::begin(seed, with_story);
    let world = World::new(Arc::clone(&turns), log, plan);
    let topics = Arc::new(Topics::new("tidemark"));
    let mut run = Run { script, stages, world, topics, processes: Vec::new(), ends: Ends::default() };
    if stages.contains(&0) {
        run.world.publish_baseline(1);
    }
    for number in 0..plan.processes {
        run.begin(number);
    }
    run.live(plan);
    run.finish()
}

impl Run<'_> {
    /// Starts a process of that number.
    fn begin(&mut self, number: usize) {
        let threads = self.world.turns.process();
        let (stop, health) = (Stop::default(), Health::default());
        self.world.turns.tell(|| format!("process {number} begins"));
        for &stage in self.stages {
            let line = Line { world: Arc::clone(&self.world), number, stage };
            let mut config = self.script.config.clone();
            config.instance = format!("i{number}");
            let context = Context {
                config: Arc::new(config),
                spec: Arc::clone(&self.script.spec),
                topics: Arc::clone(&self.topics),
                log: Arc::new(line.clone()),
                stop: stop.clone(),
                health: health.clone(),
                registry: None,
            };
            let (script, ends) = (Arc::clone(self.script), Arc::clone(&self.ends));
            let body = move || {
                let end = match stage {
                    0 => tail::run(&context, Box::new(ScriptedSource::new(&script, line))).map_err(|error| error.to_string()),
                    1 => watch::run(&context).map_err(|error| error.to_string()),
                    _ => judge::run(&context).map_err(|error| error.to_string()),
                };
                if let Err(error) = end {
                    ends.lock().unwrap().push(format!("{} of process {number} gave up: {error}", STAGES[stage]));
                }
            };
            self.world.turns.launch(threads, STAGES[stage], Box::new(body));
        }
        self.processes.push(Process { number, threads, stop, again_at: None, healths: health });
    }

    /// Lets things happen until all is judged.
    fn live(&mut self, plan: &Plan) {
        let mut due = agenda(plan, self.script);
        due.sort_by_key(|(at, _)| *at);
        let mut due = std::collections::VecDeque::from(due);
        let pauses = plan.mishaps.iter().filter_map(|mishap| match mishap {
            Mishap::Pause { at_ms, for_ms, .. } | Mishap::Away { at_ms, for_ms, .. } | Mishap::Slow { at_ms, for_ms, .. } => {
                Some(Duration::from_millis(at_ms + for_ms))
            }
            _ => None,
        });
        let end = due.back().map(|(at, _)| *at).into_iter().chain(pauses).fold(self.script.length(), Duration::max);
        let (mut over_at, mut not_before): (Option<Duration>, Duration) = (None, Duration::ZERO);
        let turns = Arc::clone(&self.world.turns);
        loop {
            let now = turns.now();
            while let Some((_, act)) = due.pop_front_if(|(at, _)| *at <= now) {
                self.act(act, now);
            }
            if self.begin_again(plan, now) && !plan.mishaps.is_empty() {
                // It may have fallen with something still to write, which another can only when its seat and its transaction are given up.
                not_before = now + SESSION + TRANSACTION;
            }
            self.world.end_hanging(TRANSACTION);
            if !self.ends.lock().unwrap().is_empty() || !turns.panics().is_empty() {
                return;
            }
            let is_over = due.is_empty() && (self.script.errors.is_none() || now > end + SESSION);
            if over_at.is_none() && is_over && self.is_complete() {
                turns.tell(|| "all is judged".to_owned());
                over_at = Some(now);
            }
            if over_at.is_some_and(|at| now >= at.max(not_before) + AFTERWARDS) {
                return;
            }
            if turns.is_endless() || now > end + PATIENCE {
                let states: Vec<String> = self.processes.iter().map(|process| format!("{:?}", process.healths.all())).collect();
                let how = if turns.is_endless() { "goes round in circles" } else { "stands still" };
                self.ends.lock().unwrap().push(format!("it {how} before all is judged: {}", states.join("; ")));
                return;
            }
            let next = due.front().map(|(at, _)| *at);
            let again = self.processes.iter().filter_map(|process| process.again_at).min();
            let wake = [next, again].into_iter().flatten().fold(now + LOOK, Duration::min);
            turns.drive(wake.max(now + Duration::from_micros(1)));
        }
    }

    fn act(&mut self, act: Act, now: Duration) {
        let turns = Arc::clone(&self.world.turns);
        if let Act::Mishap(mishap) = &act {
            self.world.strikes(mishap);
        }
        match act {
            Act::Publish => self.world.publish_baseline(2),
            Act::Join(number) => {
                self.world.strikes(&Mishap::Guest { at_ms: 0, for_ms: 0 });
                self.begin(number);
            }
            Act::Leave(number) => {
                turns.tell(|| format!("process {number} is asked to end"));
                self.processes.iter().filter(|process| process.number == number).for_each(|process| process.stop.ask());
            }
            Act::Mishap(Mishap::Crash { process, away_ms, .. }) => {
                if let Some(process) = self.processes.iter_mut().find(|its| its.number == process && turns.lives(its.threads)) {
                    turns.tell(|| format!("process {} ends", process.number));
                    process.again_at = Some(now + Duration::from_millis(away_ms));
                    turns.kill(process.threads);
                }
            }
            Act::Mishap(Mishap::Pause { process, for_ms, .. }) => {
                if let Some(process) = self.processes.iter().find(|its| its.number == process && turns.lives(its.threads)) {
                    turns.tell(|| format!("process {} stands still for {for_ms} ms", process.number));
                    turns.pause(process.threads, now + Duration::from_millis(for_ms));
                }
            }
            Act::Mishap(Mishap::Oust { stage, .. }) => {
                turns.tell(|| format!("the group of {} loses its members", STAGES[stage]));
                self.world.log.oust(&format!("tidemark.{}", STAGES[stage]));
            }
            // Before there is a position, a record in `tickets` is refused, rightly.
            Act::Mishap(Mishap::Stranger { .. }) if records(&self.world.log, &self.topics.positions, 0).is_empty() => {}
            Act::Mishap(Mishap::Stranger { partition, .. }) => {
                let partition = partition % self.script.config.kafka.partitions;
                self.world.write(&self.topics.tickets, partition, None, bytes::Bytes::from_static(b"{\"what\":\"is this\"}"));
            }
            Act::Mishap(Mishap::Decision { cause, is_silence, at_ms }) => {
                let kind = if is_silence { "silence" } else { "accept" };
                let mut value =
                    serde_json::json!({ "kind": kind, "id": format!("d{at_ms}"), "spec": self.script.spec.name, "cause": cause });
                if is_silence {
                    value["until_ms"] = self.script.middle_ms().into();
                }
                turns.tell(|| format!("somebody decides: {value}"));
                self.world.write(&self.topics.model_events, 0, None, bytes::Bytes::from(value.to_string()));
            }
            Act::Mishap(_) => {}
        }
    }

    /// Starts the plan's processes that have ended without being asked to. Whether there were any.
    fn begin_again(&mut self, plan: &Plan, now: Duration) -> bool {
        let turns = Arc::clone(&self.world.turns);
        let mut numbers = Vec::new();
        self.processes.retain_mut(|process| {
            if turns.lives(process.threads) && process.again_at.is_none() {
                return true;
            }
            // A process of the plan that fell in a transaction comes back soon, one that was asked to end does not.
            let again_at = *process.again_at.get_or_insert(now + Duration::from_millis(40));
            if again_at > now {
                return true;
            }
            if process.number < plan.processes && !process.stop.is_asked() {
                numbers.push(process.number);
            }
            false
        });
        for number in &numbers {
            self.begin(*number);
        }
        !numbers.is_empty()
    }

    /// Whether all events are in the log, and the last mark is judged.
    fn is_complete(&self) -> bool {
        let log = &self.world.log;
        let positions = if self.stages.contains(&0) { records(log, &self.topics.positions, 0) } else { Vec::new() };
        if self.stages.contains(&0) {
            let last = positions.last().and_then(|record| record.value.as_deref());
            let Some(position) = last.map(|value| Position::decode(value).unwrap()) else { return false };
            if (&position.place, &position.history) != (&self.script.last().0, &self.script.last().1) {
                return false;
            }
        }
        if !self.stages.contains(&2) {
            return true;
        }
        if let Some(errors) = self.script.errors {
            let partitions = 0..self.script.config.kafka.partitions;
            if partitions.map(|partition| records(log, &self.topics.prediction_errors, partition).len()).sum::<usize>() < errors {
                return false;
            }
        }
        let Some(mark) = last_mark(log, &self.topics) else { return true };
        let statuses = records(log, &self.topics.status, 0);
        statuses.last().is_some_and(|record| judged(record) == Some(mark))
    }

    /// Ends everything.
    fn finish(self) -> Outcome {
        let turns = Arc::clone(&self.world.turns);
        for process in &self.processes {
            if turns.lives(process.threads) {
                turns.pause(process.threads, turns.now());
            }
            process.stop.ask();
        }
        let until = turns.now() + STOP;
        let mut violations = std::mem::take(&mut *self.ends.lock().unwrap());
        let lives = |process: &Process| turns.lives(process.threads);
        while self.processes.iter().any(lives) && turns.now() < until && !turns.is_endless() && violations.is_empty() {
            turns.drive(until);
        }
        let threads: Vec<usize> = self.processes.iter().map(|process| process.threads).collect();
        for process in threads {
            if turns.lives(process) {
                if violations.is_empty() {
                    violations.push("a stage did not end when it was asked to".to_owned());
                }
                turns.kill(process);
            }
        }
        turns.drive(turns.now());
        turns.join();
        violations.append(&mut self.ends.lock().unwrap());
        violations.extend(turns.panics().into_iter().map(|panic| format!("a thread panicked: {panic}")));
        self.world.bury();
        Outcome { log: self.world.log.clone(), traced: turns.traced(), violations, story: turns.story(), tally: self.world.tally() }
    }
}

/// What happens at a time.
#[derive(Clone, Copy)]
enum Act {
    Mishap(Mishap),
    Join(usize),
    Leave(usize),
    Publish,
}

fn agenda(plan: &Plan, script: &Script) -> Vec<(Duration, Act)> {
    let mut agenda = Vec::new();
    let mut guest = plan.processes;
    for mishap in &plan.mishaps {
        match mishap {
            Mishap::Crash { at_ms, .. } | Mishap::Pause { at_ms, .. } | Mishap::Oust { at_ms, .. } | Mishap::Stranger { at_ms, .. } => {
                agenda.push((Duration::from_millis(*at_ms), Act::Mishap(*mishap)));
            }
            Mishap::Decision { at_ms, .. } => {
                agenda.push((Duration::from_millis(*at_ms), Act::Mishap(*mishap)));
            }
            Mishap::Guest { at_ms, for_ms } => {
                agenda.push((Duration::from_millis(*at_ms), Act::Join(guest)));
                agenda.push((Duration::from_millis(at_ms + for_ms), Act::Leave(guest)));
                guest += 1;
            }
            Mishap::Transaction { .. } | Mishap::Away { .. } | Mishap::Slow { .. } | Mishap::Source { .. } => {}
        }
    }
    if let Switch::At(at_ms) = script.switch {
        agenda.push((Duration::from_millis(at_ms), Act::Publish));
    }
    agenda
}

/// Returns the number of the last mark in `tickets`.
pub(crate) fn last_mark(log: &MemoryLog, topics: &Topics) -> Option<u64> {
    let records = records(log, &topics.tickets, 0);
    let marks = records.iter().rev().filter(|record| record.header("kind") == Some(b"mark"));
    let value = marks.into_iter().next()?.value.as_deref()?;
    let value: serde_json::Value = serde_json::from_slice(value).ok()?;
    value["number"].as_u64()
}

/// Returns the mark of a status.
fn judged(record: &Delivered) -> Option<u64> {
    let source = std::str::from_utf8(record.header("source")?).ok()?;
    source.strip_prefix("0:")?.parse().ok()
}

/// Copies what the derived topics are made from into an empty log.
pub(crate) fn copy(script: &Script, from: &MemoryLog) -> MemoryLog {
    let (to, topics) = (empty_log(script), Topics::new("tidemark"));
    let mut producer = to.producer("copy").unwrap();
    for (topic, partitions) in [(&topics.baselines, 1), (&topics.tickets, script.config.kafka.partitions)] {
        let mut transaction = tidemark::log::Transaction::default();
        for partition in 0..partitions {
            transaction.records.extend(records(from, topic, partition).into_iter().map(|record| tidemark::log::Record {
                topic: Arc::clone(topic),
                partition,
                key: record.key,
                value: record.value,
                headers: record.headers,
            }));
        }
        producer.transact(transaction).unwrap();
    }
    to
}
