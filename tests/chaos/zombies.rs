//! A process stands still while another takes over, and goes on later as if nothing had been: it gets nothing in.

use std::time::Duration;

use super::campaign::{Dice, Seeds, Story, run};
use super::check::Checker;
use super::flow::{self, Slot};
use crate::support::{Deployment, Process, kafka};

/// Parts of the stream: four while each zombie is at work, and one at the end.
const PARTS: usize = 17;
/// Runs of the test that every change has to pass: stages apart, and together.
const SEEDS: u64 = 2;
/// The longest between the completion of tickets and a freeze, ms: with luck it meets a transaction.
const SOON: usize = 600;
/// What a process says that ends because another has its name.
const TWIN: &str = "another process has the same instance name";

struct Run<'r> {
    deployment: Deployment,
    dice: Dice,
    slots: Vec<Slot>,
    /// Whether two processes have had the same name.
    had_twins: bool,
    /// How many have ended because of that.
    twins_ended: usize,
    /// How many tickets have completed.
    completed: usize,
    story: &'r mut Story,
}

impl Run<'_> {
    fn sleep(&mut self, below_ms: usize) {
        std::thread::sleep(Duration::from_millis(self.dice.roll(below_ms) as u64));
    }

    fn complete(&mut self, tickets: Option<&[bson::Document]>) {
        let tickets = tickets.expect("there are parts enough");
        self.deployment.insert(tickets);
        self.completed += tickets.len();
    }

    /// Returns the process if it lives. One of two with the same name may have ended, and says so.
    fn living(&mut self, process: Process) -> Option<Process> {
        if process.is_alive() {
            return Some(process);
        }
        let said = process.last_words();
        if self.had_twins && said.contains(TWIN) {
            self.twins_ended += 1;
            self.story.tell("one has ended: another had its name");
        } else {
            self.story.violation(format!("a process ended by itself:\n{said}"));
        }
        None
    }

    /// Starts what does not run. Whether there is reason to wait on.
    fn goes_on(&mut self) -> bool {
        for at in 0..self.slots.len() {
            let process = self.slots[at].process.take().and_then(|process| self.living(process));
            let slot = &mut self.slots[at];
            slot.process = process.or_else(|| Some(slot.start(&self.deployment, &[])));
        }
        self.story.is_clean()
    }

    /// Freezes the process of a slot, has another take over, lets the frozen one go on, and kills either.
    fn pair(&mut self, at: usize, checker: &Checker, parts: &mut dyn Iterator<Item = &'static [bson::Document]>) {
        let Some(zombie) = self.slots[at].process.take() else { return };
        self.complete(parts.next());
        self.sleep(SOON);
        zombie.freeze();
        let (of, its_name) = (self.slots[at].stages.join(","), self.slots[at].instance.clone());
        let is_twin = self.dice.roll(2) == 0;
        if is_twin {
            self.had_twins = true;
        } else {
            self.slots[at].instance.push('x');
        }
        let instance = self.slots[at].instance.clone();
        self.story.fault(&format!("of {of} {}", if is_twin { "with a twin" } else { "with an heir" }));
        self.story.tell(format!("{of} is frozen, {instance} is started"));
        self.slots[at].process = Some(self.slots[at].start(&self.deployment, &[]));
        self.complete(parts.next());
        if self.dice.roll(2) == 0 {
            let completed = self.completed;
            if !flow::until(|| self.goes_on(), || flow::is_judged(checker, completed)) {
                return flow::is_missing(checker, self.slots.iter().flat_map(|slot| &slot.process), self.story);
            }
            self.story.tell(format!("{completed} tickets are judged without it"));
        } else {
            self.sleep(5_000);
        }
        // Both have something to do.
        self.complete(parts.next());
        self.sleep(SOON / 2);
        zombie.thaw();
        self.story.tell("it goes on");
        self.sleep(SOON / 2);
        self.complete(parts.next());
        self.sleep(3_000);
        let heir = self.slots[at].process.take().and_then(|process| self.living(process));
        let zombie = self.living(zombie);
        let (killed, rest) = if self.dice.roll(2) == 0 {
            (zombie, heir)
        } else {
            self.slots[at].instance = its_name;
            (heir, zombie)
        };
        self.slots[at].process = rest;
        if let Some(killed) = killed {
            killed.kill();
            self.story.tell("one of the two is killed");
        }
        self.goes_on();
    }

    fn go(&mut self, checker: &Checker, pairs: &[usize]) {
        if !flow::until(|| self.goes_on(), || checker.tail_streams()) {
            return self.story.violation("tail did not begin");
        }
        let mut parts = flow::parts(PARTS);
        for at in pairs {
            self.pair(*at, checker, &mut parts);
            if !self.story.is_clean() {
                return;
            }
        }
        for part in parts {
            self.complete(Some(part));
        }
        if !flow::until(|| self.goes_on(), || flow::is_done(checker)) {
            flow::is_missing(checker, self.slots.iter().flat_map(|slot| &slot.process), self.story);
        }
    }
}

fn zombies(seed: u64, story: &mut Story) {
    let (deployment, checker) = flow::deployment(&format!("zombies-{seed}-{}", std::process::id()), &kafka().bootstrap_servers);
    let mut dice = Dice::new(seed);
    let (slots, pairs) = if seed.is_multiple_of(2) {
        let slots = flow::together(1 + dice.roll(2));
        let pairs: Vec<usize> = (0..2 + dice.roll(2)).map(|_| dice.roll(slots.len())).collect();
        (slots, pairs)
    } else {
        // Each stage once, in any order, and one of them again.
        let mut pairs = vec![0, 1, 2];
        (1..3).for_each(|at| pairs.swap(at, dice.roll(at + 1)));
        pairs.push(dice.roll(3));
        (flow::apart(), pairs)
    };
    let slots = flow::perhaps_seated(&mut dice, slots);
    let mut run = Run { deployment, dice, slots, had_twins: false, twins_ended: 0, completed: 0, story };
    run.go(&checker, &pairs);
    run.slots.clear();
    let twins_ended = run.twins_ended;
    story.note(format!("{twins_ended} ended because another had its name"));
    flow::check(&checker, story);
}

#[test]
fn a_process_that_was_frozen_and_goes_on_gets_nothing_in_after_another_took_over() {
    run(Seeds::or(SEEDS), "zombies", zombies);
}
