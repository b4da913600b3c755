//! What has to hold after a run: the audit, and that the derived topics are those of a pass without any fault.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemark::audit::{Around, AuditError, Kind, Report, Request};
use tidemark::config::Config;
use tidemark::log::kafka::KafkaLog;
use tidemark::log::{Delivered, Log, LogError};
use tidemark::spec::Spec;
use tidemark::stage::Stop;
use tidemark::topics::Topics;

use super::campaign::Story;
use crate::support::flights;

/// More aborted transactions than ever follow one another.
const LAST: i64 = 1_000;

/// How long a broker that has just come back, on a machine that has much to do, may answer with errors that pass.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// A deployment as the checker sees it: its servers, its names, and nothing of its processes.
#[derive(Clone)]
pub(crate) struct Checker {
    config: Config,
    spec: Arc<Spec>,
    pub(crate) topics: Topics,
    pub(crate) log: Arc<dyn Log>,
    /// What others wrote: topic, partition and offsets. It is not looked at.
    pub(crate) strangers: Vec<(String, u32, Range<i64>)>,
}

/// Everything that consumers act on, as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Derived {
    /// Statuses, alerts and triggers, in order.
    verdicts: Vec<String>,
    /// Summaries and prediction errors: their order among partitions is nobody's.
    counts: BTreeSet<String>,
    /// How many those were.
    records: usize,
}

impl Checker {
    /// Looks at `prefix`, which is the database's name, too.
    pub(crate) fn new(mongodb: &str, kafka: &str, prefix: &str, partitions: u32) -> Self {
        let mut config = Config::default();
        config.mongodb.uri = Some(mongodb.to_owned().into());
        config.mongodb.database = Some(prefix.to_owned());
        config.kafka.bootstrap_servers = Some(kafka.to_owned());
        prefix.clone_into(&mut config.kafka.topic_prefix);
        config.kafka.partitions = partitions;
        let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(&config.kafka).expect("Kafka answers"));
        Self { topics: Topics::new(prefix), spec: Arc::new(flights::spec()), config, log, strangers: Vec::new() }
    }

    /// Returns how many partitions of tickets there are.
    pub(crate) fn partitions(&self) -> u32 {
        self.config.kafka.partitions
    }

    /// The same where each partition of the topics that it makes has so many copies.
    pub(crate) fn with_copies(mut self, copies: u32) -> Self {
        self.config.kafka.replication = copies;
        self
    }

    /// Makes the topics, as the first process would.
    pub(crate) fn create_topics(&self) {
        self.log.create_topics(&self.topics.settings(&self.config.topic_plan())).expect("the topics can be made");
    }

    /// Whether a topic keeps the last record of each key only.
    pub(crate) fn is_compacted(&self, topic: &str) -> bool {
        self.topics.settings(&self.config.topic_plan()).iter().any(|settings| settings.name == topic && settings.compacted)
    }

    /// Returns every committed record of a partition.
    pub(crate) fn records(&self, topic: &str, partition: u32) -> Vec<Delivered> {
        self.records_within(topic, partition, i64::MAX)
    }

    /// Returns the last record of a topic of one partition: it stands before a few markers, if anywhere.
    fn last(&self, topic: &str) -> Option<Delivered> {
        self.records_within(topic, 0, LAST).pop()
    }

    fn records_within(&self, topic: &str, partition: u32, last: i64) -> Vec<Delivered> {
        let begun = Instant::now();
        loop {
            match self.attempt(topic, partition, last) {
                Ok(records) => return records,
                Err(LogError::Unavailable { .. }) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                Err(error) => panic!("what is in {topic}[{partition}] cannot be read: {error}"),
            }
        }
    }

    fn attempt(&self, topic: &str, partition: u32, last: i64) -> Result<Vec<Delivered>, LogError> {
        let mut records = Vec::new();
        let mut reader = self.log.reader()?;
        let bounds = reader.bounds(topic, partition)?;
        let is_ours = |record: &Delivered| {
            let strangers =
                |(of, at, offsets): &(String, u32, Range<i64>)| of == topic && *at == partition && offsets.contains(&record.offset);
            !self.strangers.iter().any(strangers)
        };
        let mut take = |record| {
            records.extend(Some(record).filter(is_ours));
            ControlFlow::Continue(())
        };
        let from = bounds.low.max(bounds.end.saturating_sub(last));
        reader.read(topic, partition, from, bounds.end, &mut take)?;
        Ok(records)
    }

    /// Returns the tickets of a partition.
    pub(crate) fn tickets(&self, partition: u32) -> Vec<Delivered> {
        let mut records = self.records(&self.topics.tickets, partition);
        records.retain(|record| record.header("kind") == Some(b"ticket"));
        records
    }

    /// Returns the event time of the last verdict, ms since 1970.
    pub(crate) fn judged_until(&self) -> Option<i64> {
        let status = self.last(&self.topics.status)?;
        let status: serde_json::Value = serde_json::from_slice(&status.value?).expect("a status is JSON");
        status["at_ms"].as_i64()
    }

    /// Returns the last position, once the history has been read.
    pub(crate) fn tail_streams(&self) -> bool {
        let position = self.last(&self.topics.positions).and_then(|record| record.value);
        let position = position.and_then(|value| serde_json::from_slice::<serde_json::Value>(&value).ok());
        position.is_some_and(|position| position.get("history").is_none())
    }

    /// Whether everything that is to come of so many tickets is there, up to the verdict at `until_ms`.
    pub(crate) fn is_done(&self, tickets: usize, until_ms: i64) -> bool {
        if self.judged_until() < Some(until_ms) {
            return false;
        }
        let partitions = 0..self.config.kafka.partitions;
        let sent: Vec<Delivered> = partitions.clone().flat_map(|partition| self.tickets(partition)).collect();
        let has_prediction = |record: &&Delivered| {
            let ticket = serde_json::from_slice::<serde_json::Value>(record.value.as_deref().unwrap_or_default());
            ticket.is_ok_and(|ticket| ticket.get("predicted").is_some())
        };
        let expected = sent.iter().filter(has_prediction).count();
        let errors: usize = partitions.map(|partition| self.records(&self.topics.prediction_errors, partition).len()).sum();
        sent.len() >= tickets && errors >= expected
    }

    /// Returns what consumers act on.
    pub(crate) fn derived(&self) -> Derived {
        let mut derived = Derived::default();
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(b"-")).into_owned();
        let line = |record: &Delivered, headers: &[&str]| {
            let headers: Vec<String> = headers.iter().map(|name| text(record.header(name))).collect();
            format!("{} {} {}", text(record.key.as_deref()), headers.join(" "), text(record.value.as_deref()))
        };
        for topic in [&self.topics.status, &self.topics.alerts, &self.topics.retraining_triggers] {
            let records = self.records(topic, 0);
            derived.verdicts.extend(records.iter().map(|record| line(record, &["kind", "ce_id", "source"])));
        }
        let mut count = |topic: &str, partition| {
            let records = self.records(topic, partition);
            derived.records += records.len();
            derived.counts.extend(records.iter().map(|record| without_chain_id(&line(record, &["source"]))));
        };
        count(&self.topics.summaries, 0);
        (0..self.config.kafka.partitions).for_each(|partition| count(&self.topics.prediction_errors, partition));
        derived
    }

    fn report(&self) -> Result<Report, AuditError> {
        let request = Request { nothing_changed: true, ..Request::default() };
        let around = Around { config: &self.config, spec: &self.spec, log: self.log.as_ref(), stop: &Stop::default() };
        tidemark::audit::run(&request, &around, &mut |_| {})
    }

    /// Returns how many of a kind the audit names.
    pub(crate) fn names(&self, kind: Kind) -> u64 {
        self.report().map_or(0, |report| report.notes.count(kind) + report.wrong.count(kind))
    }

    /// Audits; nothing may be missing, repeated, late or before the log.
    pub(crate) fn audit(&self, tickets: usize, story: &mut Story) {
        match self.report() {
            Err(error) => story.violation(format!("no audit: {error}")),
            Ok(report) => {
                if !report.clean {
                    story.violation(format!("the log differs from MongoDB\n{}", report.wrong));
                }
                for kind in [Kind::Lagging, Kind::BeforeTheLog, Kind::InGap] {
                    if report.notes.count(kind) > 0 {
                        story.violation(format!("{} tickets are {}", report.notes.count(kind), kind.words()));
                    }
                }
                if report.in_log != tickets as u64 {
                    story.violation(format!("{} tickets completed, the log has {}", tickets, report.in_log));
                }
            }
        }
    }
}

/// A chain's id is random, and stands in the summary of the mark that follows its beginning.
fn without_chain_id(line: &str) -> String {
    let Some((before, rest)) = line.split_once("\"chain-") else { return line.to_owned() };
    let after = rest.trim_start_matches(|digit: char| digit.is_ascii_hexdigit());
    format!("{before}\"chain{}", without_chain_id(after))
}

impl Derived {
    /// Tells where it differs from what a pass without faults brought.
    pub(crate) fn compare(&self, clean: &Self, story: &mut Story) {
        let pairs = clean.verdicts.iter().zip(&self.verdicts);
        if let Some((expected, found)) = pairs.into_iter().find(|(expected, found)| expected != found) {
            story.violation(format!("a verdict differs from that of a clean pass\nclean {expected}\nhere  {found}"));
        } else if self.verdicts.len() != clean.verdicts.len() {
            story.violation(format!("{} verdicts, {} in a clean pass", self.verdicts.len(), clean.verdicts.len()));
        }
        if self.records != clean.records {
            story.violation(format!("{} summaries and prediction errors, {} in a clean pass", self.records, clean.records));
        }
        let lines = |these: &Self, those: &Self| these.counts.difference(&those.counts).take(3).cloned().collect::<Vec<_>>().join("\n");
        if self.counts != clean.counts {
            story.violation(format!("counts differ\nonly clean:\n{}\nonly here:\n{}", lines(clean, self), lines(self, clean)));
        }
    }
}
