//! Processes killed while tickets flow: at named places, and at any time.

use std::time::Duration;

use tidemark::fault::{Place, VARIABLE};

use super::campaign::{Dice, Seeds, Story, run};
use super::flow::{self, STAGES, Slot};
use crate::support::{Deployment, kafka};

/// Parts of the stream; processes are killed while each of them flows.
const ROUNDS: usize = 8;
/// Kills of the test that every change has to pass.
const SEEDS: u64 = 5;

struct Run<'r> {
    /// The stage and the place that this seed aims at: so many seeds as there are places aim at all of them.
    aim: (&'static str, Place),
    deployment: Deployment,
    dice: Dice,
    slots: Vec<Slot>,
    /// Where the process of each slot will be killed.
    armed: Vec<Option<String>>,
    story: &'r mut Story,
}

impl Run<'_> {
    /// Starts what does not run; `armed`, perhaps with a place at which it will be killed.
    fn start(&mut self, armed: bool) {
        for at in 0..self.slots.len() {
            if self.slots[at].process.is_some() {
                continue;
            }
            let fault = (armed && self.dice.roll(10) < 8).then(|| self.fault(at));
            let slot = &mut self.slots[at];
            let environment: Vec<(&str, &str)> = fault.iter().map(|fault| (VARIABLE, fault.as_str())).collect();
            slot.process = Some(slot.start(&self.deployment, &environment));
            self.story.tell(format!("{} starts, to be killed at {}", slot.instance, fault.as_deref().unwrap_or("no place")));
            self.armed[at] = fault;
        }
    }

    /// Chooses a place of one of the slot's stages: mostly soon, sometimes late, sometimes a moment after it.
    fn fault(&mut self, slot: usize) -> String {
        let stages = self.slots[slot].stages;
        let (stage, place) = if stages.contains(&self.aim.0) && self.dice.roll(2) == 0 {
            self.aim
        } else {
            let stage = stages[self.dice.roll(stages.len())];
            let places = Place::of(stage);
            (stage, places[self.dice.roll(places.len())])
        };
        let many = if matches!(place, Place::Taken | Place::Judged) { 40 } else { 1 };
        let latest = [1, 3, 8, 20][self.dice.roll(4)];
        let nth = 1 + self.dice.roll(latest) * many;
        let micros = if self.dice.roll(3) == 0 { format!(":{}", self.dice.roll(5_000)) } else { String::new() };
        format!("{stage}:{}:{nth}{micros}", place.name())
    }

    /// Counts those that were killed at their places.
    fn reap(&mut self) {
        for (slot, armed) in self.slots.iter_mut().zip(&mut self.armed) {
            let Some(process) = slot.process.take_if(|process| !process.is_alive()) else { continue };
            match armed.take() {
                Some(fault) => {
                    self.story.fault("at a named place");
                    self.story.tell(format!("{} was killed at {fault}", slot.instance));
                }
                None => self.story.violation(format!("{} ended by itself:\n{}", slot.instance, process.last_words())),
            }
        }
    }

    /// Kills some of those that run.
    fn kill_some(&mut self) {
        for at in 0..self.slots.len() {
            let odds = if self.armed[at].is_some() { 3 } else { 6 };
            if self.dice.roll(10) < odds
                && let Some(process) = self.slots[at].process.take()
            {
                process.kill();
                self.story.fault("at any time");
                self.story.tell(format!("{} is killed", self.slots[at].instance));
            }
        }
    }

    /// Whether there is reason to wait on: what has died on the way is started again.
    fn goes_on(&mut self) -> bool {
        self.reap();
        self.start(false);
        self.story.is_clean()
    }
}

fn kills(seed: u64, story: &mut Story) {
    let (deployment, checker) = flow::deployment(&format!("kills-{seed}-{}", std::process::id()), &kafka().bootstrap_servers);
    let mut dice = Dice::new(seed);
    let slots = flow::slots(&mut dice);
    let aims: Vec<_> = STAGES.iter().flat_map(|stage| Place::of(stage).into_iter().map(|place| (*stage, place))).collect();
    let aim = aims[usize::try_from(seed).expect("a small seed") % aims.len()];
    let mut run = Run { aim, deployment, dice, armed: slots.iter().map(|_| None).collect(), slots, story };
    run.start(true);
    if !flow::until(|| run.goes_on(), || checker.tail_streams()) {
        return run.story.violation("tail did not begin");
    }
    for part in flow::parts(ROUNDS) {
        run.start(true);
        run.deployment.insert(part);
        run.story.tell(format!("{} tickets complete", part.len()));
        let longest = if run.dice.roll(3) == 0 { 4_000 } else { 1_200 };
        let wait = 100 + run.dice.roll(longest);
        std::thread::sleep(Duration::from_millis(wait as u64));
        run.reap();
        run.kill_some();
    }
    if !flow::until(|| run.goes_on(), || flow::is_done(&checker)) {
        flow::is_missing(&checker, run.slots.iter().flat_map(|slot| &slot.process), run.story);
    }
    run.slots.clear();
    flow::check(&checker, story);
}

#[test]
fn fifty_kills_lose_nothing_repeat_nothing_and_change_no_verdict() {
    run(Seeds::or(SEEDS), "kills", kills);
}
