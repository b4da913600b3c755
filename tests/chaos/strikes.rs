//! A server, or the way to it, fails again and again while tickets flow. Nobody ends because of it, and all comes by itself again.

use std::time::Duration;

use bson::Document;

use super::campaign::{Dice, Story};
use super::check::Checker;
use super::flow::{self, Slot};
use crate::support::Deployment;
use crate::support::cable::{Cable, Silence};

/// The longest between the completion of tickets and a strike, ms: with luck it meets a transaction.
pub(crate) const SOON: usize = 600;

/// A run under strikes.
pub(crate) struct Run<'r> {
    deployment: Deployment,
    checker: Checker,
    pub(crate) dice: Dice,
    slots: Vec<Slot>,
    completed: usize,
    pub(crate) story: &'r mut Story,
}

impl<'r> Run<'r> {
    /// A run of a deployment that nobody runs yet; the seed says who will.
    pub(crate) fn new(seed: u64, (deployment, checker): (Deployment, Checker), story: &'r mut Story) -> Self {
        let mut dice = Dice::new(seed);
        let slots = flow::slots(&mut dice);
        story.note(format!("in {} processes", slots.len()));
        Self { deployment, checker, dice, slots, completed: 0, story }
    }

    /// Does nothing for a while.
    pub(crate) fn sleep(&mut self, from_ms: usize, to_ms: usize) {
        let ms = from_ms + self.dice.roll(to_ms - from_ms);
        std::thread::sleep(Duration::from_millis(ms as u64));
    }

    /// Completes tickets.
    pub(crate) fn complete(&mut self, tickets: &[Document]) {
        self.deployment.insert(tickets);
        self.completed += tickets.len();
    }

    /// Whether there is reason to wait on: nobody may have ended.
    fn goes_on(&mut self) -> bool {
        for slot in &mut self.slots {
            if let Some(process) = slot.process.take_if(|process| !process.is_alive()) {
                self.story.violation(format!("{} ended by itself:\n{}", slot.instance, process.last_words()));
            }
        }
        self.story.is_clean()
    }

    /// Waits until `ready`; tells when that is in vain.
    fn until(&mut self, ready: impl Fn(&Checker, usize) -> bool) -> bool {
        let (checker, completed) = (self.checker.clone(), self.completed);
        if flow::until(|| self.goes_on(), || ready(&checker, completed)) {
            return true;
        }
        flow::is_missing(&checker, self.slots.iter().flat_map(|slot| &slot.process), self.story);
        false
    }

    /// Waits until all that has completed is judged; tells when that is in vain.
    pub(crate) fn until_judged(&mut self) -> bool {
        self.until(flow::is_judged)
    }

    /// Cuts all connections, once to six times.
    pub(crate) fn cut(&mut self, cable: &Cable, meanwhile: &[Document]) {
        let mut connections = cable.cut();
        self.complete(meanwhile);
        for _ in 0..self.dice.roll(6) {
            self.sleep(0, SOON);
            connections += cable.cut();
        }
        self.story.tell(format!("{connections} connections were cut"));
    }

    /// Is silent for a while; what waits then is delivered late, or lost.
    pub(crate) fn silence(&mut self, cable: &Cable, silence: Silence, from_ms: usize, to_ms: usize, meanwhile: &[Document]) {
        cable.be_silent(silence);
        self.complete(meanwhile);
        self.sleep(from_ms, to_ms);
        if self.dice.roll(2) == 0 {
            let connections = cable.cut();
            self.story.tell(format!("what waits on {connections} connections is lost"));
        }
        cable.be_silent(Silence::Nothing);
    }

    /// Has tickets complete and `strike` strike in turns, so many times; then audits and compares. What `strike` is given completes
    /// while the server is away.
    pub(crate) fn go(mut self, strikes: usize, mut strike: impl FnMut(&mut Self, &[Document])) {
        for slot in &mut self.slots {
            slot.process = Some(slot.start(&self.deployment, &[]));
        }
        if !self.until(|checker, _| checker.tail_streams()) {
            return;
        }
        let mut parts = flow::parts(2 * strikes + 1);
        for _ in 0..strikes {
            self.complete(parts.next().expect("two a strike"));
            self.sleep(0, SOON);
            strike(&mut self, parts.next().expect("two a strike"));
            // Mostly the next strike meets stages that have recovered, sometimes those that are about to.
            if self.dice.roll(3) == 0 {
                self.sleep(0, 3_000);
            } else if self.until_judged() {
                self.story.tell(format!("{} tickets are judged", self.completed));
            }
            if !self.story.is_clean() {
                return;
            }
        }
        for part in parts {
            self.complete(part);
        }
        self.until(|checker, _| flow::is_done(checker));
        self.slots.clear();
        flow::check(&self.checker, self.story);
    }
}
