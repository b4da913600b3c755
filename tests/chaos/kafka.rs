//! The broker fails while tickets flow, by restart, SIGKILL, SIGSTOP, and connections that are cut or silent. All comes by itself again.

use std::time::Duration;

use bson::Document;

use super::campaign::{Seeds, Story, is_campaign, run};
use super::flow::{self, SESSION, TRANSACTION};
use super::strikes::{self, Run};
use crate::support::Kafka;
use crate::support::cable::{Cable, Silence};
use crate::support::kafka::DEAD_AFTER;

/// How often the broker fails in one run.
const STRIKES: usize = 5;
/// Runs of the test that every change has to pass.
const SEEDS: u64 = 2;
/// Longer than every time-out of ours: those of 12, 15, 20 and 30 s.
const BEYOND_MS: usize = 40_000;
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
    SilenceLong,
}

impl Strike {
    /// The last takes too long for the test that every change has to pass.
    const ALL: [Self; 9] = [
        Self::Restart,
        Self::Kill,
        Self::Freeze,
        Self::FreezeLong,
        Self::Cut,
        Self::Silence,
        Self::Unanswered,
        Self::FullDisk,
        Self::SilenceLong,
    ];

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
            Self::SilenceLong => "silence both ways beyond every time-out",
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
            Strike::Cut => run.cut(&self.cable, meanwhile),
            Strike::Silence => run.silence(&self.cable, Silence::Everything, 1_000, 7_000, meanwhile),
            Strike::Unanswered => run.silence(&self.cable, Silence::Answers, 20, 2_000, meanwhile),
            // To clients it is frozen. With SIGSTOP the only broker would find its partitions without a leader when it goes on, and leave
            // out markers, as in `Kafka::apart`; `brokers` freezes one of three.
            Strike::SilenceLong => run.silence(&self.cable, Silence::Everything, BEYOND_MS, BEYOND_MS + 2_000, meanwhile),
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
        let strike = Strike::ALL[run.dice.roll(Strike::ALL.len() - usize::from(!is_campaign()))];
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
