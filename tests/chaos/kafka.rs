//! The broker fails while tickets flow, by restart, SIGKILL, SIGSTOP, and connections that are cut or silent. All comes by itself again.

use std::time::Duration;

use super::campaign::{Dice, Seeds, Story, run};
use super::check::Checker;
use super::flow::{self, SESSION, Slot, TRANSACTION};
use crate::support::cable::{Cable, Silence};
use crate::support::kafka::DEAD_AFTER;
use crate::support::{Deployment, Kafka};

/// How often the broker fails in one run.
const STRIKES: usize = 5;
/// Runs of the test that every change has to pass.
const SEEDS: u64 = 2;
/// The longest between the completion of tickets and a strike, ms: with luck it meets a transaction.
const SOON: usize = 600;

/// After the last verdict: its transaction has ended by then.
const QUIET: Duration = Duration::from_secs(1);

/// A broker that clients reach through a cable only.
struct Broker {
    kafka: Kafka,
    cable: Cable,
}

impl Broker {
    fn start() -> Self {
        let mut cable = Cable::bind();
        let kafka = Kafka::apart(cable.port, |broker| cable.forward_to(broker));
        Self { kafka, cable }
    }
}

/// What is done to the broker.
#[derive(Clone, Copy)]
enum Strike {
    Restart,
    Kill,
    Freeze,
    FreezeLong,
    Cut,
    Silence,
    Unanswered,
}

impl Strike {
    const ALL: [Self; 7] = [Self::Restart, Self::Kill, Self::Freeze, Self::FreezeLong, Self::Cut, Self::Silence, Self::Unanswered];

    fn name(self) -> &'static str {
        match self {
            Self::Restart => "clean restart",
            Self::Kill => "SIGKILL and restart",
            Self::Freeze => "short SIGSTOP",
            Self::FreezeLong => "SIGSTOP beyond session and transaction",
            Self::Cut => "cuts of all connections",
            Self::Silence => "silence both ways",
            Self::Unanswered => "lost answers",
        }
    }
}

struct Run<'r> {
    broker: &'r mut Broker,
    deployment: Deployment,
    dice: Dice,
    slots: Vec<Slot>,
    story: &'r mut Story,
}

impl Run<'_> {
    fn sleep(&mut self, from_ms: usize, to_ms: usize) {
        let ms = from_ms + self.dice.roll(to_ms - from_ms);
        std::thread::sleep(Duration::from_millis(ms as u64));
    }

    fn complete(&self, tickets: &[bson::Document]) -> usize {
        self.deployment.insert(tickets);
        tickets.len()
    }

    /// Strikes; `meanwhile` completes while the broker is away. Returns how many those are.
    fn strike(&mut self, strike: Strike, meanwhile: &[bson::Document]) -> usize {
        self.story.fault(strike.name());
        self.story.tell(strike.name());
        let completed;
        match strike {
            Strike::Restart | Strike::Kill => {
                self.broker.kafka.signal(if matches!(strike, Strike::Kill) { "KILL" } else { "TERM" });
                if matches!(strike, Strike::Kill) {
                    std::thread::sleep(DEAD_AFTER + Duration::from_secs(1));
                }
                self.broker.kafka.wait_until_ended();
                completed = self.complete(meanwhile);
                self.broker.kafka.start_again();
            }
            Strike::Freeze | Strike::FreezeLong => {
                self.broker.kafka.signal("STOP");
                completed = self.complete(meanwhile);
                // Shorter than the controller takes the broker for dead.
                if matches!(strike, Strike::FreezeLong) {
                    std::thread::sleep(SESSION + TRANSACTION);
                }
                self.sleep(500, 2_500);
                self.broker.kafka.signal("CONT");
            }
            Strike::Cut => {
                let mut connections = self.broker.cable.cut();
                completed = self.complete(meanwhile);
                for _ in 0..self.dice.roll(6) {
                    self.sleep(0, SOON);
                    connections += self.broker.cable.cut();
                }
                self.story.tell(format!("{connections} connections were cut"));
            }
            Strike::Silence | Strike::Unanswered => {
                let is_unanswered = matches!(strike, Strike::Unanswered);
                self.broker.cable.be_silent(if is_unanswered { Silence::Answers } else { Silence::Everything });
                completed = self.complete(meanwhile);
                self.sleep(if is_unanswered { 20 } else { 1_000 }, if is_unanswered { 2_000 } else { 7_000 });
                if is_unanswered || self.dice.roll(2) == 0 {
                    self.broker.cable.cut();
                }
                self.broker.cable.be_silent(Silence::Nothing);
            }
        }
        self.story.tell("the broker is back");
        completed
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

    /// Has tickets complete and the broker fail, in turns.
    fn go(&mut self, checker: &Checker) {
        for slot in &mut self.slots {
            slot.process = Some(slot.start(&self.deployment, &[]));
        }
        if !flow::until(|| self.goes_on(), || checker.tail_streams()) {
            return self.story.violation("tail did not begin");
        }
        let mut parts = flow::parts(2 * STRIKES + 1);
        let mut completed = 0;
        for _ in 0..STRIKES {
            completed += self.complete(parts.next().expect("two a strike"));
            self.sleep(0, SOON);
            let strike = Strike::ALL[self.dice.roll(Strike::ALL.len())];
            // A broker that is asked to end gives its partitions up first, and commits what is under way without a marker in those that
            // have no other replica (4.3.1, as in `Kafka::apart`): nothing may be under way.
            if matches!(strike, Strike::Restart) {
                if !flow::until(|| self.goes_on(), || flow::is_judged(checker, completed)) {
                    return flow::is_missing(checker, self.slots.iter().flat_map(|slot| &slot.process), self.story);
                }
                std::thread::sleep(QUIET);
            }
            completed += self.strike(strike, parts.next().expect("two a strike"));
            // Mostly the next strike meets stages that have recovered, sometimes those that are about to.
            if self.dice.roll(3) > 0 {
                if !flow::until(|| self.goes_on(), || flow::is_judged(checker, completed)) {
                    return flow::is_missing(checker, self.slots.iter().flat_map(|slot| &slot.process), self.story);
                }
                self.story.tell(format!("{completed} tickets are judged"));
            } else {
                self.sleep(0, 3_000);
            }
        }
        for part in parts {
            self.complete(part);
        }
        if !flow::until(|| self.goes_on(), || flow::is_done(checker)) {
            flow::is_missing(checker, self.slots.iter().flat_map(|slot| &slot.process), self.story);
        }
    }
}

fn strikes(seed: u64, story: &mut Story, broker: &mut Broker) {
    let (deployment, checker) = flow::deployment(&format!("kafka-{seed}-{}", std::process::id()), &broker.kafka.bootstrap_servers);
    let mut dice = Dice::new(seed);
    let slots = flow::slots(&mut dice);
    story.note(format!("in {} processes", slots.len()));
    let mut run = Run { broker, deployment, dice, slots, story };
    run.go(&checker);
    run.slots.clear();
    flow::check(&checker, story);
}

#[test]
fn a_broker_that_fails_in_any_way_costs_time_and_nothing_else() {
    let mut broker = Broker::start();
    run(Seeds::or(SEEDS), "strikes", |seed, story| strikes(seed, story, &mut broker));
}
