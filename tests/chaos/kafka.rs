//! The broker fails while tickets flow, by restart, SIGKILL, SIGSTOP, and connections that are cut or silent. All comes by itself again.

use std::time::Duration;

use bson::Document;

use super::campaign::{Seeds, Story, run};
use super::flow::{self, SESSION, TRANSACTION};
use super::strikes::{self, Run, SOON};
use crate::support::Kafka;
use crate::support::cable::{Cable, Silence};
use crate::support::kafka::DEAD_AFTER;

/// How often the broker fails in one run.
const STRIKES: usize = 5;
/// Runs of the test that every change has to pass.
const SEEDS: u64 = 2;
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
    FullDisk,
}

impl Strike {
    const ALL: [Self; 8] =
        [Self::Restart, Self::Kill, Self::Freeze, Self::FreezeLong, Self::Cut, Self::Silence, Self::Unanswered, Self::FullDisk];

    fn name(self) -> &'static str {
        match self {
            Self::Restart => "clean restart",
            Self::Kill => "SIGKILL and restart",
            Self::Freeze => "short SIGSTOP",
            Self::FreezeLong => "SIGSTOP beyond session and transaction",
            Self::Cut => "cuts of all connections",
            Self::Silence => "silence both ways",
            Self::Unanswered => "lost answers",
            Self::FullDisk => "full disk",
        }
    }
}

impl Broker {
    fn strike(&mut self, run: &mut Run<'_>, strike: Strike, meanwhile: &[Document]) {
        // A broker that is asked to end gives its partitions up first, and commits what is under way without a marker in those that
        // have no other replica (4.3.1, as in `Kafka::apart`): nothing may be under way.
        if matches!(strike, Strike::Restart) {
            if !run.settles() {
                return;
            }
            std::thread::sleep(QUIET);
        }
        run.strike(strike.name());
        match strike {
            Strike::Restart | Strike::Kill => {
                self.kafka.signal(if matches!(strike, Strike::Kill) { "KILL" } else { "TERM" });
                if matches!(strike, Strike::Kill) {
                    std::thread::sleep(DEAD_AFTER + Duration::from_secs(1));
                }
                self.kafka.wait_until_ended();
                run.complete(meanwhile);
                self.kafka.start_again();
            }
            Strike::Freeze | Strike::FreezeLong => {
                self.kafka.signal("STOP");
                run.complete(meanwhile);
                // Shorter than the controller takes the broker for dead.
                if matches!(strike, Strike::FreezeLong) {
                    std::thread::sleep(SESSION + TRANSACTION);
                }
                run.sleep(500, 2_500);
                self.kafka.signal("CONT");
            }
            Strike::Cut => {
                let mut connections = self.cable.cut();
                run.complete(meanwhile);
                for _ in 0..run.dice.roll(6) {
                    run.sleep(0, SOON);
                    connections += self.cable.cut();
                }
                run.story.tell(format!("{connections} connections were cut"));
            }
            Strike::Silence | Strike::Unanswered => {
                let is_unanswered = matches!(strike, Strike::Unanswered);
                self.cable.be_silent(if is_unanswered { Silence::Answers } else { Silence::Everything });
                run.complete(meanwhile);
                run.sleep(if is_unanswered { 20 } else { 1_000 }, if is_unanswered { 2_000 } else { 7_000 });
                if is_unanswered || run.dice.roll(2) == 0 {
                    self.cable.cut();
                }
                self.cable.be_silent(Silence::Nothing);
            }
            Strike::FullDisk => {
                self.kafka.fill_disk(&run.checker.topics.tickets);
                run.complete(meanwhile);
                self.kafka.wait_until_ended();
                std::thread::sleep(DEAD_AFTER + Duration::from_secs(1));
                self.kafka.start_again();
            }
        }
    }
}

fn strikes(seed: u64, story: &mut Story, broker: &mut Broker) {
    let servers = flow::deployment(&format!("kafka-{seed}-{}", std::process::id()), &broker.kafka.bootstrap_servers);
    strikes::run(seed, story, servers, STRIKES, &mut |run, meanwhile| {
        let strike = Strike::ALL[run.dice.roll(Strike::ALL.len())];
        broker.strike(run, strike, meanwhile);
    });
}

#[test]
fn a_broker_that_fails_in_any_way_costs_time_and_nothing_else() {
    let mut broker = Broker::start();
    run(Seeds::or(SEEDS), "strikes", |seed, story| strikes(seed, story, &mut broker));
}

#[test]
fn a_broker_whose_disk_is_full_is_waited_for() {
    let mut broker = Broker::start();
    run(Seeds::or(1), "full disks", |seed, story| {
        let servers = flow::deployment(&format!("full-disk-{seed}-{}", std::process::id()), &broker.kafka.bootstrap_servers);
        strikes::run(seed, story, servers, 1, &mut |run, meanwhile| broker.strike(run, Strike::FullDisk, meanwhile));
    });
}
