//! Others write into every topic what is no record of ours. It is passed over and counted, by those who run and by those who take over.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use tidemark::audit::Kind;
use tidemark::log::Transaction;

use super::campaign::{Dice, Seeds, Story, run};
use super::check::Checker;
use super::flow::{self, Slot};
use crate::support::{Deployment, kafka, poison};

/// How often they write, and processes are killed.
const ROUNDS: usize = 2;
/// What is written meets those who run within so long, mostly; else it meets those who follow them.
const MET_WITHIN: Duration = Duration::from_secs(1);

struct Run<'r> {
    deployment: Deployment,
    checker: Checker,
    slots: Vec<Slot>,
    /// What processes that have been killed said they had passed over.
    told: BTreeMap<String, u64>,
    story: &'r mut Story,
}

impl Run<'_> {
    /// Returns the topics that something of ours reads, with their partitions, and the keys of real records.
    fn topics(&self) -> Vec<(String, u32, &'static str)> {
        let (topics, many) = (&self.checker.topics, self.checker.partitions());
        let spec = "execution-tickets";
        [
            (&topics.tickets, many, "T-1"),
            (&topics.dead_letters, many, "T-1"),
            (&topics.prediction_errors, many, "T-1"),
            (&topics.positions, 1, spec),
            (&topics.status, 1, spec),
            (&topics.summaries, 1, "0"),
            (&topics.baselines, 1, "execution-tickets@1"),
            (&topics.model_events, 1, spec),
            (&topics.alerts, 1, "error"),
            (&topics.retraining_triggers, 1, "ticket-duration-predictor"),
        ]
        .map(|(topic, partitions, key)| (topic.to_string(), partitions, key))
        .into()
    }

    /// Writes everything that is no record of ours into every topic.
    fn poison(&mut self) {
        let mut many = 0;
        for (topic, partitions, key) in self.topics() {
            let is_compacted = self.checker.is_compacted(&topic);
            for partition in 0..partitions {
                let last = self.checker.records(&topic, partition).pop();
                let mut records = poison::records(&topic, partition, key, last);
                // The broker itself refuses what it could not compact.
                records.retain(|record| record.key.is_some() || !is_compacted);
                many += records.len();
                let from = self.end(&topic, partition);
                let mut stranger = self.checker.log.producer("somebody-else").expect("a producer");
                stranger.transact(Transaction { records, ..Transaction::default() }).expect("whoever may write, may write anything");
                let written: Range<i64> = from..self.end(&topic, partition);
                self.checker.strangers.push((topic.clone(), partition, written));
            }
        }
        self.story.tell(format!("somebody writes {many} records"));
    }

    fn end(&self, topic: &str, partition: u32) -> i64 {
        self.checker.log.reader().and_then(|mut reader| reader.bounds(topic, partition)).expect("the broker answers").end
    }

    /// Whether there is reason to wait on: nobody may have ended.
    fn goes_on(&mut self) -> bool {
        flow::nobody_ended(&mut self.slots, self.story)
    }

    fn until(&mut self, ready: impl Fn(&Checker) -> bool) -> bool {
        let checker = self.checker.clone();
        if flow::until(|| self.goes_on(), || ready(&checker)) {
            return true;
        }
        flow::is_missing(&checker, self.slots.iter().flat_map(|slot| &slot.process), self.story);
        false
    }

    /// Starts every process, those that run as new ones.
    fn start(&mut self) {
        // What is read back is counted by who met it first: its last words count.
        self.told.extend(self.counted());
        for slot in &mut self.slots {
            if let Some(process) = slot.process.take() {
                process.kill();
                self.story.fault("kills");
            }
            slot.process = Some(slot.start(&self.deployment, &[]));
        }
    }

    /// What each process says it has passed over, by stage and topic.
    fn counted(&self) -> BTreeMap<String, u64> {
        let pages = self.slots.iter().filter_map(|slot| slot.process.as_ref()?.get("/metrics"));
        let lines = pages.flat_map(|(_, page)| page.lines().map(str::to_owned).collect::<Vec<_>>());
        let of = lines.filter_map(|line| Some(line.strip_prefix("tidemark_strangers_total{")?.to_owned()));
        of.filter_map(|line| line.split_once("} ").map(|(labels, count)| (labels.to_owned(), count.parse().expect("a count")))).collect()
    }

    /// Whoever reads a topic says how much it has passed over there.
    fn is_counted(&mut self) {
        let wanted = [
            ("tail", "positions"),
            ("tail", "tickets"),
            ("watch", "tickets"),
            ("watch", "baselines"),
            ("judge", "summaries"),
            ("judge", "status"),
            ("judge", "baselines"),
            ("trigger-documents", "retraining-triggers"),
        ];
        let missing = || -> Vec<(&str, &str)> {
            let mut counted = self.counted();
            counted.extend(self.told.clone());
            let has = |(stage, topic): &(&str, &str)| {
                let its =
                    |labels: &String| labels.contains(&format!("stage=\"{stage}\"")) && labels.contains(&format!("topic=\"{topic}\""));
                counted.iter().any(|(labels, count)| its(labels) && *count > 0)
            };
            wanted.into_iter().filter(|wanted| !has(wanted)).collect()
        };
        if !flow::until(|| true, || missing().is_empty()) {
            self.story.violation(format!("strangers' records are not counted by {:?}", missing()));
        }
    }

    fn go(&mut self) {
        // Before anybody of ours has written anything.
        self.poison();
        self.start();
        if !self.until(Checker::tail_streams) {
            return;
        }
        let mut completed = 0;
        for (round, part) in flow::parts(ROUNDS + 1).enumerate() {
            self.deployment.insert(part);
            completed += part.len();
            if !self.until(|checker| flow::is_judged(checker, completed)) {
                return;
            }
            self.story.tell(format!("{completed} tickets are judged"));
            if round < ROUNDS {
                self.poison();
                std::thread::sleep(MET_WITHIN);
                self.start();
            }
        }
        if self.until(flow::is_done) {
            self.is_counted();
        }
    }
}

fn strangers(seed: u64, story: &mut Story) {
    let (deployment, checker) = flow::deployment(&format!("poison-{seed}-{}", std::process::id()), &kafka().bootstrap_servers);
    let mut dice = Dice::new(seed);
    let slots = flow::slots(&mut dice);
    let mut run = Run { deployment, checker, slots, told: BTreeMap::new(), story };
    run.go();
    run.slots.clear();
    let Run { checker, story, .. } = run;
    flow::check(&checker, story);
    let named = checker.names(Kind::Stranger);
    if named == 0 {
        story.violation("the audit does not name what strangers wrote into the tickets");
    }
}

#[test]
fn what_strangers_write_into_any_topic_is_passed_over_and_counted_by_everybody() {
    run(Seeds::or(1), "kills", strangers);
}
