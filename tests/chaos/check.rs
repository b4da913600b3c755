//! What has to hold after a run: the audit, and that the derived topics are those of a pass without any fault; where there is no such
//! pass, that all in them is there once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tidemark::audit::{Around, AuditError, Kind, Report, Request};
use tidemark::config::Config;
use tidemark::log::kafka::KafkaLog;
use tidemark::log::{Delivered, Log, LogError};
use tidemark::spec::Spec;
use tidemark::stage::Stop;
use tidemark::ticket::Mark;
use tidemark::topics::Topics;

use super::campaign::Story;
use crate::support::flights;

/// More aborted transactions than ever follow one another.
const LAST: i64 = 1_000;
/// So much of what is not there once is told by name.
const TOLD: usize = 10;

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
    /// Summaries, prediction errors and dead letters: their order among partitions is nobody's.
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
        let mut records = Vec::new();
        self.each_within(topic, partition, last, &mut |record| records.push(record));
        records
    }

    /// Hands every committed record of a partition to `take`, in order.
    fn each(&self, topic: &str, partition: u32, take: &mut dyn FnMut(Delivered)) {
        self.each_within(topic, partition, i64::MAX, take);
    }

    fn each_within(&self, topic: &str, partition: u32, last: i64, take: &mut dyn FnMut(Delivered)) {
        let (mut next, mut heard) = (0, Instant::now());
        loop {
            let from = next;
            let mut took = |record: Delivered| {
                (next, heard) = (record.offset + 1, Instant::now());
                take(record);
            };
            match self.attempt(topic, partition, (from, last), &mut took) {
                Ok(()) => return,
                Err(LogError::Unavailable { .. }) if heard.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                Err(error) => panic!("what is in {topic}[{partition}] cannot be read: {error}"),
            }
        }
    }

    fn attempt(&self, topic: &str, partition: u32, (from, last): (i64, i64), took: &mut dyn FnMut(Delivered)) -> Result<(), LogError> {
        let mut reader = self.log.reader()?;
        let bounds = reader.bounds(topic, partition)?;
        let is_ours = |record: &Delivered| {
            let strangers =
                |(of, at, offsets): &(String, u32, Range<i64>)| of == topic && *at == partition && offsets.contains(&record.offset);
            !self.strangers.iter().any(strangers)
        };
        let from = from.max(bounds.low).max(bounds.end.saturating_sub(last));
        reader.read(topic, partition, from, bounds.end, &mut |record| {
            if is_ours(&record) {
                took(record);
            }
            ControlFlow::Continue(())
        })
    }

    /// Returns the tickets of a partition.
    pub(crate) fn tickets(&self, partition: u32) -> Vec<Delivered> {
        let mut records = self.records(&self.topics.tickets, partition);
        records.retain(|record| record.header("kind") == Some(b"ticket"));
        records
    }

    /// Returns the dead letters.
    pub(crate) fn dead_letters(&self) -> Vec<Value> {
        let partitions = 0..self.config.kafka.partitions;
        let records = partitions.flat_map(|partition| self.records(&self.topics.dead_letters, partition));
        records.map(|record| read(&record)).collect()
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

    /// Whether everything that is to come of so many tickets, unusable ones included, is there, up to the verdict at `until_ms`.
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
        sent.len() + self.dead_letters().len() >= tickets && errors >= expected
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
        for letter in self.dead_letters() {
            derived.records += 1;
            derived.counts.insert(without_position(letter).to_string());
        }
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

impl Checker {
    /// Tells what of the derived topics is not there once, which needs no clean pass: an error of each series a ticket, a summary a mark
    /// and partition, a status a mark, none of them left out between others; one begin and at most one end an episode and a trigger.
    pub(crate) fn once(&self, story: &mut Story) {
        let mut count = 0;
        let mut wrong = |what: String| {
            count += 1;
            if count <= TOLD {
                story.violation(what);
            }
        };
        for partition in 0..self.partitions() {
            // Each series comes in the order of the tickets.
            let mut last = BTreeMap::<Vec<u8>, u64>::new();
            self.each(&self.topics.prediction_errors, partition, &mut |record| {
                if record.header("kind") != Some(b"prediction-error") {
                    return;
                }
                let sequence = sequence(&record).expect("watch names its input");
                let series = record.header("series").unwrap_or(b"recorded").to_vec();
                if let Some(before) = last.insert(series, sequence).filter(|before| *before >= sequence) {
                    let offset = record.offset;
                    wrong(format!("prediction-errors[{partition}] at {offset}: the error of ticket {sequence} follows that of {before}"));
                }
            });
        }
        let mut marks = BTreeMap::<u32, (u64, bool)>::new();
        self.each(&self.topics.summaries, 0, &mut |record| {
            let SummaryLines { partition, mark: Mark { number, .. }, more } = read(&record);
            if let Some((before, had_more)) = marks.insert(partition, (number, more))
                && number != before + u64::from(!had_more)
            {
                wrong(format!("summaries at {}: mark {number} of partition {partition} follows mark {before}", record.offset));
            }
        });
        // Compaction leaves the last of those that it looks at: what is there still follows one another.
        let mut last = None;
        self.each(&self.topics.status, 0, &mut |record| {
            let StatusLines { mark } = read(&record);
            if let Some(before) = last.replace(mark).filter(|before| mark != before + 1) {
                wrong(format!("status at {}: mark {mark} follows mark {before}", record.offset));
            }
        });
        for (topic, begin) in [(&self.topics.alerts, "opened"), (&self.topics.retraining_triggers, "raised")] {
            let (mut events, mut changes) = (BTreeSet::new(), BTreeSet::new());
            self.each(topic, 0, &mut |record| {
                let event = String::from_utf8_lossy(record.header("ce_id").unwrap_or_default()).into_owned();
                let value: Value = read(&record);
                // A gap and a broken chain are events, and nothing more.
                let is_of_one = value["change"].is_string();
                let of = value["episode"].as_str().or(value["id"].as_str()).unwrap_or_default().to_owned();
                let change = match value["change"].as_str().unwrap_or_default() {
                    "resolved" | "accepted" => "closed",
                    change => change,
                };
                // Others may join a trigger, and trainings be due, again and again.
                let is_again = !changes.insert((of.clone(), change.to_owned())) && !matches!(change, "joined" | "due");
                let has_begun = changes.contains(&(of, begin.to_owned()));
                if !events.insert(event.clone()) || is_of_one && (is_again || !has_begun) {
                    wrong(format!("{topic} at {}: {event} is there twice, or its like, or before its begin", record.offset));
                }
            });
        }
        if count > TOLD {
            story.violation(format!("{count} derived records in all are not there once"));
        }
    }
}

#[derive(Deserialize)]
struct SummaryLines {
    partition: u32,
    mark: Mark,
    #[serde(default)]
    more: bool,
}

#[derive(Deserialize)]
struct StatusLines {
    mark: u64,
}

/// Reads a record of ours.
fn read<T: DeserializeOwned>(record: &Delivered) -> T {
    serde_json::from_slice(record.value.as_deref().unwrap_or_default()).expect("a record of ours is JSON")
}

/// Returns the sequence in the header that names a record's input, `<partition>:<sequence>`.
fn sequence(record: &Delivered) -> Option<u64> {
    std::str::from_utf8(record.header("source")?).ok()?.split_once(':')?.1.parse().ok()
}

/// Where a dead letter was met is a token of its own stream, and its time.
fn without_position(mut letter: Value) -> Value {
    letter["position"] = Value::Null;
    letter
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
            let (here, clean) = (self.records, clean.records);
            story.violation(format!("{here} summaries, prediction errors and dead letters, {clean} in a clean pass"));
        }
        let lines = |these: &Self, those: &Self| these.counts.difference(&those.counts).take(3).cloned().collect::<Vec<_>>().join("\n");
        if self.counts != clean.counts {
            story.violation(format!("counts differ\nonly clean:\n{}\nonly here:\n{}", lines(clean, self), lines(self, clean)));
        }
    }
}
