//! Processes come and go while tickets flow: watchers from one to one a partition and back, and five that stand by for each other.
//! Leadership and partitions change hands when somebody comes or goes, and at no other time: nobody fences anybody in turns.

use std::time::Duration;

use super::campaign::{Dice, Seeds, Story, run};
use super::check::Checker;
use super::flow::{self, On, STAGES};
use crate::support::{Deployment, Process, kafka, wait_until};

/// Partitions of the tickets, and watchers at the most.
const MOST: usize = 8;
/// Processes that run every stage at once, at the beginning and then.
const FEW: usize = 2;
const MANY: usize = 5;
/// How often the leader goes, with [`MANY`] there.
const ROUNDS: usize = 4;
/// Parts of the stream that flow while nobody comes or goes.
const STILL: usize = 3;
/// The longest between a part of the stream and who comes or goes, ms.
const SOON: usize = 600;

/// Long enough that nobody loses its seat because a busy machine lets it wait.
const SESSION_MS: &str = "6000";
/// What processes say when they lead, and when they find that another does their work.
const LEADS: &str = "tail leads";
const FENCED: [&str; 4] = [LEADS, "another process leads now", "another process judges now", "fenced as "];

/// Processes of the same stages.
struct Crowd<'r> {
    deployment: Deployment,
    checker: Checker,
    dice: Dice,
    /// What a process of the crowd runs.
    stages: &'static str,
    members: Vec<(String, Process)>,
    /// Those that stay to the end, beside it.
    beside: Vec<(String, Process)>,
    /// How many have been in it so far.
    come: usize,
    /// How often somebody came or went.
    changes: usize,
    /// What those said who are gone.
    gone: String,
    completed: usize,
    story: &'r mut Story,
}

impl<'r> Crowd<'r> {
    fn new((mut deployment, checker): (Deployment, Checker), stages: &'static str, seed: u64, story: &'r mut Story) -> Self {
        deployment.set("TIDEMARK_KAFKA_PROPERTIES_SESSION_TIMEOUT_MS", SESSION_MS);
        let (members, beside) = (Vec::new(), Vec::new());
        let dice = Dice::new(seed);
        Self { deployment, checker, dice, stages, members, beside, come: 0, changes: 0, gone: String::new(), completed: 0, story }
    }

    fn comes(&mut self) {
        self.come += 1;
        self.changes += 1;
        let instance = format!("m{}", self.come);
        let process = self.deployment.start(&instance, &["run", "--stages", self.stages]);
        self.story.fault("come");
        self.story.tell(format!("{instance} comes"));
        self.members.push((instance, process));
    }

    /// Has a member go; the dice say how.
    fn goes(&mut self, at: usize) {
        self.changes += 1;
        let (instance, process) = self.members.remove(at);
        self.gone += &process.log();
        let is_killed = self.dice.roll(2) == 0;
        if is_killed {
            process.kill();
        } else {
            process.stop();
        }
        let how = if is_killed { "go by SIGKILL" } else { "go by SIGTERM" };
        self.story.fault(how);
        self.story.tell(format!("{instance} has to {how}"));
    }

    fn sleep(&mut self) {
        std::thread::sleep(Duration::from_millis(self.dice.roll(SOON) as u64));
    }

    fn complete(&mut self, part: Option<&[bson::Document]>) {
        let part = part.expect("there are parts enough");
        self.deployment.insert(part);
        self.completed += part.len();
        self.sleep();
    }

    /// Whether there is reason to wait on: nobody may have ended.
    fn goes_on(&mut self) -> bool {
        for (instance, process) in self.members.iter().chain(&self.beside) {
            if !process.is_alive() {
                self.story.violation(format!("{instance} ended by itself:\n{}", process.last_words()));
            }
        }
        self.story.is_clean()
    }

    fn until(&mut self, ready: impl Fn(&Checker, usize) -> bool) -> bool {
        let (checker, completed) = (self.checker.clone(), self.completed);
        if flow::until(|| self.goes_on(), || ready(&checker, completed)) {
            return true;
        }
        flow::is_missing(&checker, self.members.iter().chain(&self.beside).map(|(_, process)| process), self.story);
        false
    }

    /// How often something of `what` was said so far.
    fn said(&self, what: &[&str]) -> usize {
        let logs = self.members.iter().chain(&self.beside).map(|(_, process)| process.log());
        let count = |log: &str| what.iter().map(|words| log.matches(words).count()).sum::<usize>();
        count(&self.gone) + logs.map(|log| count(&log)).sum::<usize>()
    }

    /// Waits until every member has said that it is ready or stands by, and everything that has completed is judged.
    fn settles(&mut self, part: &str) -> bool {
        self.members.iter().for_each(|(_, process)| {
            wait_until("it has its place in the group", Duration::from_mins(3), || {
                let says = process.says(part);
                (says.starts_with("watching") || says.starts_with("standing by") || says.starts_with("leading")).then_some(())
            });
        });
        self.until(flow::is_judged)
    }

    /// Has tickets flow while nobody comes or goes: nothing may change hands.
    fn stands_still(&mut self, parts: &mut impl Iterator<Item = &'static [bson::Document]>) -> bool {
        let before = self.said(&FENCED);
        for _ in 0..STILL {
            self.complete(parts.next());
        }
        let is_judged = self.until(flow::is_judged);
        let after = self.said(&FENCED);
        self.story.tell(format!("{} work, {after} changes of hands so far", self.members.len()));
        if after != before {
            self.story.violation(format!("nobody came or went, and {} times work changed hands", after - before));
        }
        is_judged && after == before
    }

    /// Has the rest of the tickets flow, and holds what came against a pass with one process.
    fn ends(mut self, parts: impl Iterator<Item = &'static [bson::Document]>) {
        parts.for_each(|part| self.complete(Some(part)));
        self.until(|checker, _| flow::is_done(checker));
        let (led, fenced) = (self.said(&[LEADS]), self.said(&FENCED[1..]));
        self.story.note(format!("{} came or went; led {led} times, {fenced} times somebody found another at work", self.changes));
        if led > self.changes + self.beside.len() {
            self.story.violation(format!("the tail was led {led} times, and only {} came or went", self.changes));
        }
        self.members.clear();
        self.beside.clear();
        flow::check(&self.checker, self.story);
    }
}

fn watchers(seed: u64, story: &mut Story) {
    let name = format!("watchers-{seed}-{}", std::process::id());
    let on = flow::deployment_on(&name, &On { partitions: u32::try_from(MOST).expect("a few"), ..On::broker(&kafka().bootstrap_servers) });
    let mut crowd = Crowd::new(on, "watch", seed, story);
    for stage in ["tail", "judge"] {
        let process = crowd.deployment.start(stage, &["run", "--stages", stage]);
        crowd.beside.push((stage.to_owned(), process));
    }
    crowd.comes();
    if !crowd.until(|checker, _| checker.tail_streams()) {
        return;
    }
    let mut parts = flow::parts(2 * MOST + 2 * STILL + 1);
    while crowd.members.len() < MOST {
        crowd.complete(parts.next());
        crowd.comes();
        if crowd.dice.roll(2) == 0 && !crowd.settles("watch") {
            return;
        }
    }
    if !crowd.settles("watch") {
        return;
    }
    wait_until("each has a partition", Duration::from_mins(3), || {
        crowd.members.iter().all(|(_, process)| process.says("watch") == "watching 1 partitions").then_some(())
    });
    if !crowd.stands_still(&mut parts) {
        return;
    }
    while crowd.members.len() > 1 {
        crowd.complete(parts.next());
        let at = crowd.dice.roll(crowd.members.len());
        crowd.goes(at);
        if crowd.dice.roll(2) == 0 && !crowd.settles("watch") {
            return;
        }
    }
    if !crowd.settles("watch") || !crowd.stands_still(&mut parts) {
        return;
    }
    crowd.ends(parts);
}

fn leaders(seed: u64, story: &mut Story) {
    let on = flow::deployment(&format!("leaders-{seed}-{}", std::process::id()), &kafka().bootstrap_servers);
    let stages: &'static str = STAGES.join(",").leak();
    let mut crowd = Crowd::new(on, stages, seed, story);
    (0..FEW).for_each(|_| crowd.comes());
    if !crowd.until(|checker, _| checker.tail_streams()) {
        return;
    }
    let mut parts = flow::parts(ROUNDS * 2 + STILL * 2 + 2);
    crowd.complete(parts.next());
    if !crowd.settles("tail") || !crowd.stands_still(&mut parts) {
        return;
    }
    (FEW..MANY).for_each(|_| crowd.comes());
    for _ in 0..ROUNDS {
        crowd.complete(parts.next());
        if !crowd.settles("tail") {
            return;
        }
        let leader = wait_until("one leads, and only one", Duration::from_mins(3), || {
            let leads = |at: &usize| crowd.members[*at].1.says("tail").starts_with("leading");
            let leading: Vec<usize> = (0..crowd.members.len()).filter(leads).collect();
            if let [leader] = leading[..] { Some(leader) } else { None }
        });
        crowd.complete(parts.next());
        crowd.goes(leader);
        crowd.comes();
    }
    crowd.complete(parts.next());
    if !crowd.settles("tail") || !crowd.stands_still(&mut parts) {
        return;
    }
    crowd.ends(parts);
}

#[test]
fn watchers_come_and_go_and_nobody_fences_anybody_in_turns() {
    run(Seeds::or(1), "changes", watchers);
}

#[test]
fn one_leads_and_whoever_stands_by_takes_over() {
    run(Seeds::or(1), "changes", leaders);
}
