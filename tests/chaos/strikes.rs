//! Servers are struck while tickets flow: nobody of ours may end, and all comes by itself again. What a strike is, a campaign says.

use std::time::Duration;

use bson::Document;

use super::campaign::{Dice, Story};
use super::check::Checker;
use super::flow::{self, Slot};
use crate::support::Deployment;
use crate::support::cable::{Cable, Silence};

/// The longest between the completion of tickets and a strike, ms: with luck it meets a transaction.
pub(crate) const SOON: usize = 600;

/// A run: the stream, who runs the stages, and what has happened.
pub(crate) struct Run<'r> {
    pub(crate) dice: Dice,
    pub(crate) story: &'r mut Story,
    /// Who looks at the deployment.
    pub(crate) checker: &'r Checker,
    deployment: Deployment,
    slots: Vec<Slot>,
    /// How many tickets have completed.
    completed: usize,
}

impl Run<'_> {
    /// Sleeps for a time that the dice say.
    pub(crate) fn sleep(&mut self, from_ms: usize, to_ms: usize) {
        let ms = from_ms + self.dice.roll(to_ms - from_ms);
        std::thread::sleep(Duration::from_millis(ms as u64));
    }

    /// Has tickets complete.
    pub(crate) fn complete(&mut self, tickets: &[Document]) {
        self.deployment.insert(tickets);
        self.completed += tickets.len();
    }

    /// Counts and tells a strike.
    pub(crate) fn strike(&mut self, name: &str) {
        self.story.fault(name);
        self.story.tell(name);
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

    /// Has a cable be silent for a while; what waits then is delivered late, or lost.
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

    /// Whether there is reason to wait on: nobody may have ended.
    fn goes_on(&mut self) -> bool {
        flow::nobody_ended(&mut self.slots, self.story)
    }

    /// Waits until `ready`; tells what is missing when it does not come.
    fn comes(&mut self, ready: impl Fn() -> bool) -> bool {
        let is_there = flow::until(|| self.goes_on(), ready);
        if !is_there {
            flow::is_missing(self.checker, self.slots.iter().flat_map(|slot| &slot.process), self.story);
        }
        is_there
    }

    /// Waits until all that has completed is judged. `false`: in vain.
    pub(crate) fn settles(&mut self) -> bool {
        let (checker, completed) = (self.checker, self.completed);
        self.comes(|| flow::is_judged(checker, completed))
    }

    /// Has tickets complete and the servers be struck, in turns.
    fn go(&mut self, strikes: usize, strike: &mut dyn FnMut(&mut Self, &[Document])) {
        for slot in &mut self.slots {
            slot.process = Some(slot.start(&self.deployment, &[]));
        }
        let checker = self.checker;
        if !flow::until(|| self.goes_on(), || checker.tail_streams()) {
            return self.story.violation("tail did not begin");
        }
        let mut parts = flow::parts(2 * strikes + 1);
        for _ in 0..strikes {
            self.complete(parts.next().expect("two a strike"));
            self.sleep(0, SOON);
            strike(self, parts.next().expect("two a strike"));
            if !self.story.is_clean() {
                return;
            }
            self.story.tell("all are back");
            // Mostly the next strike meets stages that have recovered, sometimes those that are about to.
            if self.dice.roll(3) > 0 {
                if !self.settles() {
                    return;
                }
                let completed = self.completed;
                self.story.tell(format!("{completed} tickets are judged"));
            } else {
                self.sleep(0, 3_000);
            }
        }
        parts.for_each(|part| self.complete(part));
        self.comes(|| flow::is_done(checker));
    }
}

/// Strikes so often, and checks what is there at the end. A strike is given what completes meanwhile.
pub(crate) fn run(
    seed: u64,
    story: &mut Story,
    (deployment, checker): (Deployment, Checker),
    strikes: usize,
    strike: &mut dyn FnMut(&mut Run<'_>, &[Document]),
) {
    let mut dice = Dice::new(seed);
    let slots = flow::slots(&mut dice);
    story.note(format!("in {} processes", slots.len()));
    Run { dice, story: &mut *story, checker: &checker, deployment, slots, completed: 0 }.go(strikes, strike);
    flow::check(&checker, story);
}
