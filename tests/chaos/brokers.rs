//! Three brokers fail by one or by two while tickets flow, so that leaders and coordinators move, or there is none for a while.

use std::time::Duration;

use bson::Document;

use super::campaign::{Seeds, Story, is_campaign, run};
use super::flow::{self, On};
use super::strikes::{self, Run, SOON};
use crate::support::cluster::{BROKERS, COPIES, Cluster, FENCED_AFTER};

/// How often brokers fail in one run of the campaign, and of the test that every change has to pass.
const STRIKES: [usize; 2] = [10, 3];
/// Runs of the test that every change has to pass.
const SEEDS: u64 = 1;

/// Longer than every time-out of ours: those of 12, 15, 20 and 30 s.
const BEYOND: Duration = Duration::from_secs(40);

/// What is done to the brokers.
#[derive(Clone, Copy)]
enum Strike {
    Restart,
    Roll,
    Kill,
    KillTwo,
    Freeze,
    FreezeLong,
    FreezeTwo,
    FullDisk,
    FreezeBeyond,
}

impl Strike {
    /// The last takes too long for the test that every change has to pass.
    const ALL: [Self; 9] = [
        Self::Restart,
        Self::Roll,
        Self::Kill,
        Self::KillTwo,
        Self::Freeze,
        Self::FreezeLong,
        Self::FreezeTwo,
        Self::FullDisk,
        Self::FreezeBeyond,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Restart => "clean restart under traffic",
            Self::Roll => "clean restart of all, one after the other",
            Self::Kill => "SIGKILL",
            Self::KillTwo => "SIGKILL of two",
            Self::Freeze => "short SIGSTOP",
            Self::FreezeLong => "SIGSTOP until others lead",
            Self::FreezeTwo => "SIGSTOP of two",
            Self::FullDisk => "full disk",
            Self::FreezeBeyond => "SIGSTOP beyond every time-out",
        }
    }
}

fn strike(cluster: &mut Cluster, run: &mut Run<'_>, meanwhile: &[Document]) {
    let strike = Strike::ALL[run.dice.roll(Strike::ALL.len() - usize::from(!is_campaign()))];
    let one = run.dice.roll(BROKERS);
    let two = (one + 1 + run.dice.roll(BROKERS - 1)) % BROKERS;
    run.strike(strike.name());
    run.story.tell(match strike {
        Strike::Roll => format!("from broker {one} on"),
        Strike::KillTwo | Strike::FreezeTwo => format!("brokers {one} and {two}"),
        _ => format!("broker {one}"),
    });
    match strike {
        Strike::Restart => restart(cluster, one, || run.complete(meanwhile)),
        Strike::Roll => {
            // Something completes while each of them gives up what it leads.
            let mut parts = meanwhile.chunks(meanwhile.len().div_ceil(BROKERS));
            for at in 0..BROKERS {
                restart(cluster, (one + at) % BROKERS, || parts.next().into_iter().for_each(|part| run.complete(part)));
            }
        }
        Strike::Kill | Strike::KillTwo => {
            cluster.signal(one, "KILL");
            if matches!(strike, Strike::KillTwo) {
                run.sleep(0, SOON);
                cluster.signal(two, "KILL");
            }
            run.complete(meanwhile);
            let after = FENCED_AFTER + Duration::from_secs(2);
            run.sleep(0, usize::try_from(after.as_millis()).expect("seconds"));
            cluster.start_again(one);
            if matches!(strike, Strike::KillTwo) {
                cluster.start_again(two);
            }
        }
        Strike::Freeze | Strike::FreezeLong | Strike::FreezeTwo | Strike::FreezeBeyond => {
            cluster.signal(one, "STOP");
            if matches!(strike, Strike::FreezeTwo) {
                run.sleep(0, SOON);
                cluster.signal(two, "STOP");
            }
            run.complete(meanwhile);
            if matches!(strike, Strike::FreezeBeyond) {
                std::thread::sleep(BEYOND);
            } else if matches!(strike, Strike::FreezeLong) || run.dice.roll(3) == 0 {
                std::thread::sleep(FENCED_AFTER);
            }
            run.sleep(300, 2_500);
            cluster.signal(one, "CONT");
            if matches!(strike, Strike::FreezeTwo) {
                run.sleep(0, SOON);
                cluster.signal(two, "CONT");
            }
        }
        Strike::FullDisk => {
            cluster.fill_disk(one, &run.checker.topics.tickets);
            run.complete(meanwhile);
            cluster.wait_until_ended(one);
            cluster.start_again(one);
        }
    }
    cluster.wait_until_all_up();
}

/// Asks a broker to end and starts it again; `meanwhile` happens while it gives up what it leads.
fn restart(cluster: &mut Cluster, broker: usize, meanwhile: impl FnOnce()) {
    cluster.signal(broker, "TERM");
    meanwhile();
    cluster.wait_until_ended(broker);
    cluster.start_again(broker);
    cluster.wait_until_all_up();
}

fn strikes(seed: u64, story: &mut Story, cluster: &mut Cluster) {
    let servers = flow::deployment_on(
        &format!("brokers-{seed}-{}", std::process::id()),
        &On { copies: COPIES, ..On::broker(&cluster.bootstrap_servers) },
    );
    strikes::run(seed, story, servers, STRIKES[usize::from(!is_campaign())], &mut |run, meanwhile| strike(cluster, run, meanwhile));
}

#[test]
fn leaders_and_coordinators_move_and_nothing_else_does() {
    let mut cluster = Cluster::start();
    run(Seeds::or(SEEDS), "strikes", |seed, story| strikes(seed, story, &mut cluster));
}
