//! Whether what is in the log is what has to be there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemark::log::memory::MemoryLog;
use tidemark::log::{Delivered, Header};
use tidemark::tail::partition::partition;
use tidemark::ticket::{CHAIN, Chain, Control, KIND, Ticket};
use tidemark::topics::Topics;

use crate::oracle::{count, summarised};
use crate::plan::Plan;
use crate::run::{copy, empty_log, records, run};
use crate::script::{Script, Switch};
use crate::world::Tally;

/// A record without what differs from run to run.
type Bare = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<Header>);

fn bare(record: &Delivered) -> Bare {
    (record.key.as_deref().map(<[u8]>::to_vec), record.value.as_deref().map(<[u8]>::to_vec), record.headers.clone())
}

fn shown(record: Option<&Bare>) -> String {
    let Some((key, value, headers)) = record else { return "nothing".to_owned() };
    let text = |bytes: &Option<Vec<u8>>| bytes.as_deref().map_or("-".to_owned(), |bytes| String::from_utf8_lossy(bytes).into_owned());
    let headers: Vec<String> = headers.iter().map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value))).collect();
    let value: String = text(value).chars().take(300).collect();
    format!("{} {value} [{}]", text(key), headers.join(" "))
}

/// Returns what differs first.
fn differ(what: &str, got: &[Bare], wanted: &[Bare]) -> Option<String> {
    let at = (0..got.len().max(wanted.len())).find(|&at| got.get(at) != wanted.get(at))?;
    let (shown_got, shown_wanted) = (shown(got.get(at)), shown(wanted.get(at)));
    Some(format!("{what}: record {at} of {} (wanted {}) is\n    {shown_got}\n  and not\n    {shown_wanted}", got.len(), wanted.len()))
}

/// Returns the records of a chained topic without its chain, and what is wrong with the chain.
fn unchained(log: &MemoryLog, topic: &str, partition: u32, faults: &mut Vec<String>) -> Vec<Delivered> {
    let mut chain: Option<Chain> = None;
    let mut all = Vec::new();
    for mut record in records(log, topic, partition) {
        let Some(header) = record.header(CHAIN) else { continue };
        let its = Chain::parse(header).expect("we wrote it");
        let chain = chain.get_or_insert_with(|| Chain::begin(&its.id));
        if let Err(broken) = chain.follow(&record) {
            faults.push(format!("{topic}[{partition}] at offset {}: {broken}", record.offset));
            return all;
        }
        record.headers.retain(|(name, _)| name != CHAIN);
        all.push(record);
    }
    all
}

/// Takes out what may differ from run to run: a chain's name, and what is decided elsewhere, which may come anywhere.
fn comparable(script: &Script, all: Vec<Delivered>) -> Vec<Bare> {
    let is_never = script.switch == Switch::Never;
    let is_anywhere = |record: &Delivered| match record.header(KIND) {
        Some(b"accept" | b"silence") => true,
        Some(b"baseline") => !is_never,
        _ => false,
    };
    let kept = all.iter().filter(|record| !is_anywhere(record));
    kept.map(|record| {
        let mut record = bare(record);
        if record.2.iter().any(|(name, value)| name == KIND && value.as_ref() == b"chain-start") {
            record.1 = None;
        }
        if !is_never
            && record.2.iter().any(|(name, value)| name == KIND && value.as_ref() == b"mark")
            && let Ok(Control::Mark(mark)) = serde_json::from_slice(record.1.as_deref().unwrap_or_default())
        {
            record.1 = serde_json::to_vec(&Control::Mark(tidemark::ticket::Mark { baseline: None, ..mark })).ok();
        }
        record
    })
    .collect()
}

/// What the first stage alone makes of a script when nothing goes wrong: `tickets` and `dead-letters`, by partition.
pub(crate) struct Clean {
    tickets: Vec<Vec<Bare>>,
    dead: Vec<Vec<Bare>>,
}

/// Runs the first stage alone.
pub(crate) fn clean(script: &Arc<Script>) -> Result<Clean, Vec<String>> {
    let outcome = run(script, &Plan::calm(), &[0], empty_log(script), 0, false);
    let mut faults = outcome.violations;
    let topics = Topics::new("tidemark");
    let partitions = 0..script.config.kafka.partitions;
    let tickets = partitions.clone().map(|partition| comparable(script, unchained(&outcome.log, &topics.tickets, partition, &mut faults)));
    let tickets: Vec<Vec<Bare>> = tickets.collect();
    let dead = partitions.map(|partition| unchained(&outcome.log, &topics.dead_letters, partition, &mut faults).iter().map(bare).collect());
    let dead = dead.collect();
    if faults.is_empty() { Ok(Clean { tickets, dead }) } else { Err(faults) }
}

/// Returns all that is wrong with what a run left in the log.
pub(crate) fn faults(script: &Arc<Script>, log: &MemoryLog, clean: &Clean) -> Vec<String> {
    let mut faults = Vec::new();
    let topics = Topics::new("tidemark");
    let partitions = script.config.kafka.partitions;
    // The truth is the script itself.
    let mut wanted: Vec<Vec<_>> = vec![Vec::new(); partitions as usize];
    for ticket in &script.tickets {
        wanted[partition(&ticket.0, partitions) as usize].push(ticket.clone());
    }
    let mut letters = Vec::new();
    let mut controls: Option<Vec<Bare>> = None;
    for number in 0..partitions {
        let all = unchained(log, &topics.tickets, number, &mut faults);
        // Control records are the same everywhere, in one order, and each is there once.
        let its: Vec<Bare> = all.iter().filter(|record| record.header(KIND) != Some(b"ticket")).map(bare).collect();
        if its.iter().collect::<BTreeSet<_>>().len() < its.len() {
            faults.push(format!("tickets[{number}]: a control record is there twice"));
        }
        let first = controls.get_or_insert_with(|| its.clone());
        faults.extend(differ(&format!("control records of tickets[{number}], against those of the first partition"), &its, first));
        let tickets = all.iter().filter(|record| record.header(KIND) == Some(b"ticket"));
        let got: Vec<_> = tickets
            .map(|record| {
                let ticket = Ticket::decode(&script.spec, record.value.as_deref().unwrap_or_default()).expect("we wrote it");
                (ticket.id.key().into_owned(), ticket.completed_at_ms, ticket.commit)
            })
            .collect();
        let its = &wanted[number as usize];
        if let Some(at) = (0..got.len().max(its.len())).find(|&at| got.get(at) != its.get(at)) {
            faults.push(format!(
                "tickets[{number}]: ticket {at} of {} (wanted {}) is {:?} and not {:?}",
                got.len(),
                its.len(),
                got.get(at),
                its.get(at)
            ));
        }
        let (published, wrong) = count(script, &all);
        faults.extend(wrong.into_iter().map(|wrong| format!("tickets[{number}]: {wrong}")));
        let key = number.to_string();
        let summaries = records(log, &topics.summaries, 0);
        let its = summaries.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes()));
        let summarised = summarised(its.map(|record| record.value.as_deref().unwrap_or_default()));
        if let Some(at) = (0..published.len().max(summarised.len())).find(|&at| summarised.get(at) != published.get(at)) {
            faults.push(format!(
                "summaries of partition {number}: mark, and start, rows, late and repeats of each slice, are {:?} and not {:?}",
                summarised.get(at),
                published.get(at)
            ));
        }
        faults.extend(differ(&format!("tickets[{number}]"), &comparable(script, all), &clean.tickets[number as usize]));
        let dead = unchained(log, &topics.dead_letters, number, &mut faults);
        let its: Vec<Bare> = dead.iter().map(bare).collect();
        faults.extend(differ(&format!("dead-letters[{number}]"), &its, &clean.dead[number as usize]));
        letters.extend(dead.iter().filter_map(|record| {
            let value: serde_json::Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
            value["detail"].as_str().map(str::to_owned)
        }));
    }
    letters.sort();
    let mut dead = script.dead.clone();
    dead.sort();
    if letters != dead {
        faults.push(format!("dead-letters holds {letters:?} and not {dead:?}"));
    }
    // What is derived is a function of the tickets: a clean pass over the same ones gives the same.
    if faults.is_empty() {
        derived(script, log, &topics, &mut faults);
    }
    faults
}

fn derived(script: &Arc<Script>, log: &MemoryLog, topics: &Topics, faults: &mut Vec<String>) {
    let again = run(script, &Plan::calm(), &[1, 2], copy(script, log), 1, false);
    if !again.violations.is_empty() {
        faults.extend(again.violations.into_iter().map(|violation| format!("the clean pass: {violation}")));
        return;
    }
    for number in 0..script.config.kafka.partitions {
        let of = |log: &MemoryLog| records(log, &topics.prediction_errors, number).iter().map(bare).collect::<Vec<_>>();
        faults.extend(differ(&format!("prediction-errors[{number}]"), &of(log), &of(&again.log)));
        let key = number.to_string().into_bytes();
        let of = |log: &MemoryLog| -> Vec<Bare> {
            records(log, &topics.summaries, 0).iter().map(bare).filter(|record| record.0.as_ref() == Some(&key)).collect()
        };
        faults.extend(differ(&format!("summaries of partition {number}"), &of(log), &of(&again.log)));
    }
    let of = |log: &MemoryLog, topic: &str| -> Vec<Bare> { records(log, topic, 0).iter().map(bare).collect() };
    for topic in [&topics.status, &topics.retraining_triggers, &topics.alerts] {
        let (mut got, mut wanted) = (of(log, topic), of(&again.log, topic));
        if *topic == topics.alerts {
            // Watchers tell of their partitions in any order.
            got.sort_by_key(is_of_watch);
            wanted.sort_by_key(is_of_watch);
        }
        faults.extend(differ(topic, &got, &wanted));
    }
    episodes(log, topics, faults);
}

/// Counts what was judged.
pub(crate) fn judged(log: &MemoryLog, tally: &mut Tally) {
    let topics = Topics::new("tidemark");
    let mut count = |name, number: usize| *tally.entry(name).or_default() += number as u64;
    let alerts = records(log, &topics.alerts, 0);
    let of = |kind: &str| {
        let is = |record: &&Delivered| record.header("ce_type").is_some_and(|its| String::from_utf8_lossy(its).contains(kind));
        alerts.iter().filter(is).count()
    };
    count("episodes opened", of("opened"));
    count("episodes resolved", of("resolved"));
    count("trigger records", records(log, &topics.retraining_triggers, 0).len());
    count("verdicts", records(log, &topics.status, 0).len());
}

fn is_of_watch((_, value, headers): &Bare) -> Option<Vec<u8>> {
    let is = headers.iter().any(|(name, kind)| name == KIND && kind.as_ref() == b"watch-alert");
    if is { value.clone() } else { None }
}

/// One open and one resolve an episode, one escalation at most; one raising a trigger.
fn episodes(log: &MemoryLog, topics: &Topics, faults: &mut Vec<String>) {
    let mut changes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records(log, &topics.alerts, 0) {
        let value: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default()).unwrap_or_default();
        if let (Some(episode), Some(change)) = (value["episode"].as_str(), value["change"].as_str()) {
            changes.entry(episode.to_owned()).or_default().push(change.to_owned());
        }
    }
    for (episode, changes) in changes {
        let count = |wanted: &str| changes.iter().filter(|change| *change == wanted).count();
        if changes[0] != "opened" || count("opened") != 1 || count("escalated") > 1 || count("resolved") + count("accepted") > 1 {
            faults.push(format!("episode {episode} went {changes:?}"));
        }
    }
    let mut raised = BTreeSet::new();
    for record in records(log, &topics.retraining_triggers, 0) {
        let value: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default()).unwrap_or_default();
        if value["change"] == "raised" && !raised.insert(value["id"].to_string()) {
            faults.push(format!("trigger {} is raised twice", value["id"]));
        }
    }
}
