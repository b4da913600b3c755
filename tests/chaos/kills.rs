//! Processes killed while tickets flow: at named places, and at any time.

use std::time::Duration;

use tidemark::fault::{Place, VARIABLE};

use super::campaign::{Dice, Seeds, Story, is_campaign, run};
use super::flow::{self, STAGES, Slot};
use crate::support::{Deployment, kafka};

/// Parts of the stream; processes are killed while each of them flows.
const ROUNDS: usize = 8;
/// Runs of the test that every change has to pass, and its kills: some ten a run.
const SEEDS: u64 = 7;
const LEAST: u64 = 50;

/// Processes that are killed, at named places and at any time, and started again.
pub(crate) struct Run<'r> {
    /// The stage and the place that this seed aims at: so many seeds as there are places aim at all of them.
    aim: (&'static str, Place),
    /// The latest time that a place is passed, drawn from these.
    latest: [usize; 4],
    pub(crate) deployment: Deployment,
    pub(crate) dice: Dice,
    pub(crate) slots: Vec<Slot>,
    /// Where the process of each slot will be killed.
    armed: Vec<Option<String>>,
    pub(crate) story: &'r mut Story,
}

impl<'r> Run<'r> {
    /// A run of `seed` over `stages`.
    pub(crate) fn new(
        seed: u64,
        (stages, latest): (&[&'static str], [usize; 4]),
        deployment: Deployment,
        dice: Dice,
        slots: Vec<Slot>,
        story: &'r mut Story,
    ) -> Self {
        let aims: Vec<_> = stages.iter().flat_map(|stage| Place::of(stage).into_iter().map(|place| (*stage, place))).collect();
        let aim = aims[usize::try_from(seed).expect("a small seed") % aims.len()];
        Self { aim, latest, deployment, dice, armed: slots.iter().map(|_| None).collect(), slots, story }
    }

    /// Starts what does not run; `armed`, perhaps with a place at which it will be killed.
    pub(crate) fn start(&mut self, armed: bool) {
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
        let mut stages = self.slots[slot].stages.to_vec();
        if stages == ["train"] {
            // What it writes has a transactional id of another name.
            stages.push("baseline");
        }
        let (stage, place) = if stages.contains(&self.aim.0) && self.dice.roll(2) == 0 {
            self.aim
        } else {
            let stage = stages[self.dice.roll(stages.len())];
            let places = Place::of(stage);
            (stage, places[self.dice.roll(places.len())])
        };
        let many = if matches!((stage, place), ("watch" | "judge", Place::Taken) | (_, Place::Judged)) { 40 } else { 1 };
        let latest = self.latest[self.dice.roll(4)];
        let nth = 1 + self.dice.roll(latest) * many;
        let micros = if self.dice.roll(3) == 0 { format!(":{}", self.dice.roll(5_000)) } else { String::new() };
        format!("{stage}:{}:{nth}{micros}", place.name())
    }

    /// Counts those that were killed at their places.
    pub(crate) fn reap(&mut self) {
        for (slot, armed) in self.slots.iter_mut().zip(&mut self.armed) {
            let Some(process) = slot.process.take_if(|process| !process.is_alive()) else { continue };
            match armed.take() {
                Some(fault) => {
                    // STAGE:PLACE, without which time and how long after it.
                    let place: Vec<&str> = fault.split(':').take(2).collect();
                    self.story.fault(&format!("at {}", place.join(":")));
                    self.story.tell(format!("{} was killed at {fault}", slot.instance));
                }
                None => self.story.violation(format!("{} ended by itself:\n{}", slot.instance, process.last_words())),
            }
        }
    }

    /// Kills some of those that run.
    pub(crate) fn kill_some(&mut self) {
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

    /// Waits until `ready`; what has died on the way is started again, at first `armed` so many times. `false`: in vain.
    pub(crate) fn comes(&mut self, mut armed: usize, ready: impl Fn() -> bool) -> bool {
        let goes_on = || {
            self.reap();
            if self.slots.iter().any(|slot| slot.process.is_none()) {
                self.start(armed > 0);
                armed = armed.saturating_sub(1);
            }
            self.story.is_clean()
        };
        flow::until(goes_on, ready)
    }
}

fn kills(seed: u64, story: &mut Story) {
    let (deployment, checker) = flow::deployment(&format!("kills-{seed}-{}", std::process::id()), &kafka().bootstrap_servers);
    let mut dice = Dice::new(seed);
    let slots = flow::slots(&mut dice);
    let mut run = Run::new(seed, (&STAGES, [1, 3, 8, 20]), deployment, dice, slots, story);
    run.start(true);
    if !run.comes(0, || checker.tail_streams()) {
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
    if !run.comes(0, || flow::is_done(&checker)) {
        flow::is_missing(&checker, run.slots.iter().flat_map(|slot| &slot.process), run.story);
    }
    run.slots.clear();
    flow::check(&checker, story);
}

#[test]
fn fifty_kills_lose_nothing_repeat_nothing_and_change_no_verdict() {
    let done = run(Seeds::or(SEEDS), "kills", kills);
    assert!(done >= LEAST || is_campaign(), "{done} kills");
}
