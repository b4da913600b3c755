//! The way to MongoDB fails while tickets flow: connections are cut, silent one way or both, for seconds and for longer than anybody waits,
//! and slow. Those who complete tickets have a way of their own.

use std::time::Duration;

use bson::Document;

use super::campaign::{Seeds, Story, is_campaign, run};
use super::flow::{self, On};
use super::strikes::{self, Run};
use crate::support::cable::{Cable, Pace, Silence};
use crate::support::{Mongo, kafka};

/// How often it fails in one run of the campaign, and of the test that every change has to pass.
const STRIKES: [usize; 2] = [12, 5];
/// Runs of the test that every change has to pass.
const SEEDS: u64 = 1;
/// How long it is silent at least to outlast a connection attempt, the choice of a server, and tail's patience with one that is silent.
const BEYOND_MS: usize = 16_000;

/// What is done to the way.
#[derive(Clone, Copy)]
enum Strike {
    Cut,
    Unheard,
    Unanswered,
    Silence,
    Long(Silence),
    Delay,
    Trickle,
}

impl Strike {
    /// Short ones more often: they leave time for more.
    const ALL: [Self; 18] = [
        Self::Cut,
        Self::Cut,
        Self::Cut,
        Self::Unheard,
        Self::Unheard,
        Self::Unheard,
        Self::Unanswered,
        Self::Unanswered,
        Self::Unanswered,
        Self::Silence,
        Self::Silence,
        Self::Long(Silence::Requests),
        Self::Long(Silence::Answers),
        Self::Long(Silence::Everything),
        Self::Delay,
        Self::Delay,
        Self::Trickle,
        Self::Trickle,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Cut => "cuts of all connections",
            Self::Unheard => "lost requests",
            Self::Unanswered => "lost answers",
            Self::Silence => "silence both ways",
            Self::Long(Silence::Requests) => "lost requests beyond patience",
            Self::Long(Silence::Answers) => "lost answers beyond patience",
            Self::Long(_) => "silence both ways beyond patience",
            Self::Delay => "long ways",
            Self::Trickle => "trickles",
        }
    }
}

/// A MongoDB that our processes reach through a cable only.
struct Server {
    mongo: Mongo,
    cable: Cable,
}

impl Server {
    fn start() -> Self {
        let mut cable = Cable::bind();
        let mongo = Mongo::behind(cable.port, |server| cable.forward_to(server));
        Self { mongo, cable }
    }

    /// Strikes; `meanwhile` completes while the way is bad.
    fn strike(&self, run: &mut Run<'_>, meanwhile: &[Document]) {
        let strike = Strike::ALL[run.dice.roll(Strike::ALL.len())];
        run.strike(strike.name());
        match strike {
            Strike::Cut => run.cut(&self.cable, meanwhile),
            Strike::Unheard => run.silence(&self.cable, Silence::Requests, 20, 3_000, meanwhile),
            Strike::Unanswered => run.silence(&self.cable, Silence::Answers, 20, 3_000, meanwhile),
            Strike::Silence => run.silence(&self.cable, Silence::Everything, 1_000, 7_000, meanwhile),
            Strike::Long(silence) => run.silence(&self.cable, silence, BEYOND_MS, BEYOND_MS + 6_000, meanwhile),
            Strike::Delay | Strike::Trickle => {
                let pace = if matches!(strike, Strike::Delay) {
                    Pace { delay: Duration::from_millis(50 + run.dice.roll(1_500) as u64), bytes: 64 << 10 }
                } else {
                    Pace { delay: Duration::from_millis(5), bytes: 16 + run.dice.roll(500) }
                };
                run.story.tell(format!("{pace:?}"));
                self.cable.be_slow(Some(pace));
                run.complete(meanwhile);
                run.sleep(2_000, 8_000);
                self.cable.be_slow(None);
            }
        }
    }
}

fn bad_ways(seed: u64, story: &mut Story, server: &Server) {
    let (mut deployment, checker) = flow::deployment_on(
        &format!("network-{seed}-{}", std::process::id()),
        &On { mongodb: &server.mongo.uri, ..On::broker(&kafka().bootstrap_servers) },
    );
    let as_it_says = if seed.is_multiple_of(2) { "replicaSet=rs0" } else { "directConnection=true" };
    deployment.set("MONGODB_URI", &format!("mongodb://127.0.0.1:{}/?{as_it_says}", server.cable.port));
    story.tell(as_it_says);
    strikes::run(seed, story, (deployment, checker), STRIKES[usize::from(!is_campaign())], &mut |run, meanwhile| {
        server.strike(run, meanwhile)
    });
}

#[test]
fn a_bad_way_to_mongodb_costs_time_and_nothing_else() {
    let server = Server::start();
    run(Seeds::or(SEEDS), "strikes", |seed, story| bad_ways(seed, story, &server));
}
