//! `tidemark alerts`: what was alarmed, and what a person decides about it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use sha2::{Digest, Sha256};

use crate::alert::{Alert, Change, Level};
use crate::clock::now_ms;
use crate::cloudevent::CloudEvent;
use crate::config::faults::nearest;
use crate::drift::look::{CLUSTERS, ERROR, TARGET};
use crate::log::{Delivered, Log, Record, TopicSettings};
use crate::model_event::ModelEvent;
use crate::spec::Spec;
use crate::topics::{TopicPlan, Topics};

use super::exit::{Exit, Failure};
use super::out::{Format, Out, Tone, plain};
use super::session::Session;
use super::topic::{records, write};
use super::{status, time};

/// Flags of `alerts`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  tidemark alerts
  tidemark alerts --follow
  tidemark alerts --since 2013-03-01 --output json | jq .data.summary
  tidemark alerts silence --cause hour_of_day --until 2013-03-24

JSON is one CloudEvent a line."
)]
pub struct Alerts {
    /// What a person decides, instead of listing
    #[command(subcommand)]
    command: Option<AlertsCommand>,
    /// Go on and print each alert as it comes
    #[arg(long, short)]
    follow: bool,
    /// From this time on: 2013-03-01, RFC 3339, or so long ago: 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = time::since)]
    since: Option<i64>,
    /// How many of the last, without --since
    #[arg(long, value_name = "N", default_value_t = 20)]
    last: usize,
}

/// What a person decides.
#[derive(Debug, Subcommand)]
pub(super) enum AlertsCommand {
    /// Hold back the alerts of one cause for a while; its episode is still kept
    #[command(after_help = "Examples:
  tidemark alerts silence --cause hour_of_day --until 2013-03-24
  tidemark alerts silence --cause error --until 12h

A length of time counts from the last verdict. Causes are those of the spec, `target` and `error`.")]
    Silence(Silence),
}

/// Flags of `alerts silence`.
#[derive(Debug, Args)]
pub(super) struct Silence {
    /// The cause
    #[arg(long, value_name = "NAME")]
    cause: String,
    /// Until when, in event time: 2013-03-24, RFC 3339, or a length of time: 12h, 7d
    #[arg(long, value_name = "TIME")]
    until: String,
}

pub(super) fn run(flags: &Alerts, session: &mut Session) -> Result<Exit, Failure> {
    let spec = session.spec()?;
    let log = session.log()?;
    let topics = Topics::new(&session.config()?.kafka.topic_prefix);
    let plan = session.config()?.topic_plan();
    let prefix = session.config()?.kafka.topic_prefix.clone();
    if let Some(AlertsCommand::Silence(silence)) = &flags.command {
        check_cause(&spec, &silence.cause)?;
        let at_ms = status::read(log.as_ref(), &topics, &spec.name)?.map_or_else(now_ms, |status| status.at_ms);
        let until_ms = until(&silence.until, at_ms)?;
        let event = silence_event(&spec.name, &silence.cause, until_ms);
        decide(log.as_ref(), &prefix, &topics, &plan, &event)?;
        let said = format!("{} is silenced until {}.", silence.cause, time::shown(until_ms));
        return told(&event, &said, &mut session.out);
    }
    list(flags, &spec.name, log.as_ref(), &topics, &mut session.out)?;
    if flags.follow { follow(&spec.name, log.as_ref(), &topics, &mut session.out) } else { Ok(Exit::Ok) }
}

fn told(event: &ModelEvent, said: &str, out: &mut Out) -> Result<Exit, Failure> {
    match out.format {
        Format::Json => out.json(event)?,
        _ => out.line(format!("{said} It takes effect at the next mark."))?,
    }
    Ok(Exit::Ok)
}

/// Records that a person accepts how a cause is now.
pub(super) fn accept(cause: &str, session: &mut Session) -> Result<Exit, Failure> {
    let spec = session.spec()?;
    check_cause(&spec, cause)?;
    let log = session.log()?;
    let topics = Topics::new(&session.config()?.kafka.topic_prefix);
    let plan = session.config()?.topic_plan();
    let prefix = session.config()?.kafka.topic_prefix.clone();
    let found = status::read(log.as_ref(), &topics, &spec.name)?;
    let episode = found.as_ref().and_then(|status| status.causes.get(cause)).and_then(|how| how.episode.as_ref());
    let Some(episode) = episode else {
        let mut open =
            found.iter().flat_map(|status| &status.causes).filter(|(_, how)| how.episode.is_some()).map(|(name, _)| name.as_str());
        let open = open.by_ref().collect::<Vec<_>>().join(", ");
        let which = if open.is_empty() { "no cause has one".to_owned() } else { format!("open: {open}") };
        return Err(Failure::new(Exit::BadInput, format!("cannot accept {cause}: it has no open episode; {which}")));
    };
    // One decision an episode, however often it is sent.
    let event = ModelEvent::Accept { id: format!("accept-{}", episode.id), spec: spec.name.clone(), cause: cause.to_owned() };
    decide(log.as_ref(), &prefix, &topics, &plan, &event)?;
    told(&event, &format!("How {cause} is now is accepted: its episode closes."), &mut session.out)
}

fn check_cause(spec: &Spec, cause: &str) -> Result<(), Failure> {
    let mut causes: Vec<&str> = spec.causes().into_keys().collect();
    causes.extend([CLUSTERS, TARGET, ERROR]);
    if causes.contains(&cause) {
        return Ok(());
    }
    let guess = nearest(cause, causes.iter().copied()).map_or_else(String::new, |guess| format!("; did you mean {guess}?"));
    Err(Failure::new(Exit::Usage, format!("spec {} has no cause {cause:?}{guess} Causes: {}", spec.name, causes.join(", "))))
}

fn until(text: &str, at_ms: i64) -> Result<i64, Failure> {
    let until_ms = match (time::duration(text), time::instant(text)) {
        (Ok(length_ms), _) => at_ms + length_ms,
        (Err(_), Ok(until_ms)) => until_ms,
        (Err(_), Err(problem)) => return Err(Failure::new(Exit::Usage, format!("--until: {problem}, or a length of time such as 12h"))),
    };
    if until_ms <= at_ms {
        let (until, at) = (time::shown(until_ms), time::shown(at_ms));
        return Err(Failure::new(Exit::Usage, format!("--until: {until} is not after the last verdict ({at})")));
    }
    Ok(until_ms)
}

fn silence_event(spec: &str, cause: &str, until_ms: i64) -> ModelEvent {
    // The same decision has the same id, so that a repeated command is one silence.
    let digest = Sha256::digest(format!("{spec}\n{cause}\n{until_ms}"));
    let id = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    ModelEvent::Silence { id: format!("silence-{id}"), spec: spec.to_owned(), cause: cause.to_owned(), until_ms }
}

pub(super) fn setting(topics: &Topics, plan: &TopicPlan, name: &str) -> TopicSettings {
    let mut all = topics.settings(plan).into_iter();
    all.find(|topic| topic.name == name).expect("every topic has its settings")
}

fn decide(log: &dyn Log, prefix: &str, topics: &Topics, plan: &TopicPlan, event: &ModelEvent) -> Result<(), Failure> {
    let record = Record {
        topic: topics.model_events.clone(),
        partition: 0,
        key: Some(Bytes::copy_from_slice(event.spec().as_bytes())),
        value: Some(event.encode().into()),
        headers: vec![],
    };
    write(log, &format!("{prefix}.command"), setting(topics, plan, &topics.model_events), &[record])
}

/// An alert as it is listed.
struct Listed {
    event: CloudEvent,
    alert: Option<Alert>,
}

fn listed(record: &Delivered, spec: &str) -> Option<Listed> {
    let event = CloudEvent::from_record(record).ok()?;
    let ours = event.source == crate::cloudevent::source(spec);
    ours.then(|| Listed { alert: serde_json::from_slice(&event.data).ok(), event })
}

fn list(flags: &Alerts, spec: &str, log: &dyn Log, topics: &Topics, out: &mut Out) -> Result<(), Failure> {
    let mut found: Vec<Listed> = records(log, &topics.alerts, 0)?.iter().filter_map(|record| listed(record, spec)).collect();
    match flags.since {
        Some(since_ms) => found.retain(|alert| alert.event.time_ms >= since_ms),
        None => drop(found.drain(..found.len().saturating_sub(flags.last))),
    }
    if found.is_empty() && out.format == Format::Text && !flags.follow {
        return out.line(format!("No alerts about {spec} in topic {}.", topics.alerts));
    }
    found.iter().try_for_each(|alert| print(alert, out))
}

fn print(alert: &Listed, out: &mut Out) -> Result<(), Failure> {
    if out.format == Format::Json {
        return out.json_line(&alert.event.structured());
    }
    let when = time::shown(alert.event.time_ms);
    let (tone, word, text) = match &alert.alert {
        Some(Alert::Episode(episode)) => {
            let tone = match (episode.change, episode.level) {
                (Change::Resolved | Change::Accepted, _) => Tone::Good,
                (_, Level::Critical) => Tone::Critical,
                _ => Tone::Warning,
            };
            let word = match episode.change {
                Change::Opened | Change::Escalated => episode.level.name(),
                Change::Resolved => "resolved",
                Change::Accepted => "accepted",
            };
            (tone, word, format!("{}: {}", episode.cause, episode.summary))
        }
        Some(Alert::BrokenChain { partition, sequence, reason, .. }) => {
            (Tone::Critical, "broken chain", format!("partition {partition}, sequence {sequence}: {reason}"))
        }
        Some(Alert::Gap { from_ms, to_ms, reason, .. }) => {
            (Tone::Critical, "gap", format!("{} to {}: {reason}", time::shown(*from_ms), time::shown(*to_ms)))
        }
        Some(Alert::Test { message, .. }) => (Tone::Faint, "test", message.clone()),
        None => (Tone::Faint, "unknown", alert.event.kind.clone()),
    };
    let word = out.tone(tone, &format!("{word:<12}"));
    out.line(format!("{when}  {word}  {}", plain(&text)))
}

fn follow(spec: &str, log: &dyn Log, topics: &Topics, out: &mut Out) -> Result<Exit, Failure> {
    if log.partitions(&topics.alerts)? == 0 {
        return Err(Failure::new(Exit::Refused, format!("there is no topic {} to follow; `tidemark run` creates it", topics.alerts)));
    }
    let end = log.reader()?.bounds(&topics.alerts, 0)?.end;
    let mut follower = log.follow(&topics.alerts, &[end])?;
    loop {
        // A follower brings what comes, and an interrupt ends the process as it should.
        for record in follower.poll(Duration::from_secs(1))? {
            if let Some(alert) = listed(&record, spec) {
                print(&alert, out)?;
            }
        }
    }
}

/// Flags of `test-alert`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark test-alert
  tidemark test-alert --message \"on-call drill\"

Writes an alert of kind `test` as every other alert is written, and reads it back as a consumer would.")]
pub struct TestAlert {
    /// What it says
    #[arg(long, value_name = "TEXT", default_value = "a test of the path to the consumers; nothing happened")]
    message: String,
}

pub(super) fn test(flags: &TestAlert, session: &mut Session) -> Result<Exit, Failure> {
    let spec = session.spec()?;
    let log = session.log()?;
    let topics = Topics::new(&session.config()?.kafka.topic_prefix);
    let plan = session.config()?.topic_plan();
    let id = format!("test-{}-{}", now_ms(), std::process::id());
    let seen = prove(log.as_ref(), &session.config()?.kafka.topic_prefix, &topics, &plan, &spec.name, &flags.message, &id)?;
    let answer =
        serde_json::json!({ "id": id, "topic": topics.alerts.as_ref(), "partition": 0, "offset": seen.offset, "took_ms": seen.took_ms });
    match session.out.format {
        Format::Json => session.out.json(&answer)?,
        _ => session.out.line(format!(
            "Alert {id} is in {}[0] at offset {}; a read_committed consumer saw it after {} ms.",
            topics.alerts, seen.offset, seen.took_ms
        ))?,
    }
    Ok(Exit::Ok)
}

/// Where a test alert was seen.
struct Seen {
    offset: i64,
    took_ms: i64,
}

fn prove(log: &dyn Log, prefix: &str, topics: &Topics, plan: &TopicPlan, spec: &str, message: &str, id: &str) -> Result<Seen, Failure> {
    let alert = Alert::Test { spec: spec.to_owned(), message: message.to_owned() };
    let began_ms = now_ms();
    let record = alert.event(spec, id.to_owned(), began_ms, "test").into_record(Arc::clone(&topics.alerts), "test", vec![]);
    write(log, &format!("{prefix}.command"), setting(topics, plan, &topics.alerts), &[record])?;
    let all = records(log, &topics.alerts, 0)?;
    let found = all.iter().rev().find(|record| record.header("ce_id") == Some(id.as_bytes()));
    match found {
        Some(record) => Ok(Seen { offset: record.offset, took_ms: now_ms() - began_ms }),
        None => Err(Failure::new(
            Exit::Failed,
            format!("alert {id} was written to {} and committed, but a read_committed consumer does not see it", topics.alerts),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::log::Transaction;
    use crate::log::memory::{Fault, MemoryLog};

    fn spec() -> Spec {
        Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()
    }

    fn flags(since: Option<i64>, last: usize) -> Alerts {
        Alerts { command: None, follow: false, since, last }
    }

    fn log_with_alerts(number: i64) -> (MemoryLog, Topics) {
        let (log, topics) = (MemoryLog::new(), Topics::new("t"));
        log.create_topics(&topics.settings(&Config::default().topic_plan())).unwrap();
        let alert = Alert::Test { spec: "s".to_owned(), message: "hello\u{7}".to_owned() };
        let records =
            (0..number).map(|n| alert.event("s", format!("a{n}"), n * 1_000, "test").into_record(topics.alerts.clone(), "test", vec![]));
        log.producer("p").unwrap().transact(Transaction { records: records.collect(), ..Transaction::default() }).unwrap();
        (log, topics)
    }

    #[test]
    fn the_last_alerts_are_listed_or_those_since_a_time() {
        let (log, topics) = log_with_alerts(5);
        for (flags, lines) in [(flags(None, 2), 2), (flags(Some(1_000), 2), 4), (flags(Some(9_000), 2), 1)] {
            let (mut out, text) = Out::buffer(Format::Text);
            list(&flags, "s", &log, &topics, &mut out).unwrap();
            assert_eq!(text.text().lines().count(), lines, "{}", text.text());
            assert!(!text.text().contains('\u{7}'));
        }
        let (mut out, text) = Out::buffer(Format::Json);
        list(&flags(None, 1), "s", &log, &topics, &mut out).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text.text()).unwrap()["id"], "a4");
    }

    #[test]
    fn alerts_of_another_spec_are_not_ours() {
        let (log, topics) = log_with_alerts(1);
        let (mut out, text) = Out::buffer(Format::Text);
        list(&flags(None, 20), "other", &log, &topics, &mut out).unwrap();
        assert_eq!(text.text(), "No alerts about other in topic t.alerts.\n");
    }

    #[test]
    fn a_misspelt_cause_is_refused_with_the_nearest() {
        let said = check_cause(&spec(), "hour_of_dya").unwrap_err().to_string();
        assert!(said.contains("did you mean hour_of_day?"), "{said}");
        for cause in ["hour_of_day", "target", "error", "task_type"] {
            check_cause(&spec(), cause).unwrap();
        }
    }

    #[test]
    fn until_is_a_time_or_a_length_after_the_last_verdict() {
        assert_eq!(until("12h", 1_000).unwrap(), 43_201_000);
        assert_eq!(until("1970-01-02", 1_000).unwrap(), 86_400_000);
        assert!(until("1970-01-01", 1_000).unwrap_err().to_string().contains("is not after the last verdict"));
        assert!(until("soon", 1_000).is_err());
    }

    #[test]
    fn a_decision_is_written_once_in_effect_whatever_happens_to_its_transaction() {
        let topics = Topics::new("t");
        for fault in [None, Some(Fault::Abort), Some(Fault::UnknownVisible), Some(Fault::UnknownLost), Some(Fault::Fence)] {
            let log = MemoryLog::new();
            if let Some(fault) = fault {
                log.inject("t.command", 0, fault);
            }
            let event = silence_event("s", "error", 7);
            decide(&log, "t", &topics, &Config::default().topic_plan(), &event).unwrap();
            let found = records(&log, &topics.model_events, 0).unwrap();
            let events: Vec<_> = found.iter().map(|record| ModelEvent::decode(record.value.as_ref().unwrap()).unwrap().unwrap()).collect();
            assert!(!events.is_empty() && events.iter().all(|found| *found == event), "{fault:?}");
        }
    }

    #[test]
    fn a_test_alert_is_seen_where_consumers_read() {
        let (log, topics) = log_with_alerts(2);
        let seen = prove(&log, "t", &topics, &Config::default().topic_plan(), "s", "drill", "test-1").unwrap();
        let all = records(&log, &topics.alerts, 0).unwrap();
        let last = listed(all.last().unwrap(), "s").unwrap();
        assert_eq!((last.event.id.as_str(), last.event.kind.as_str()), ("test-1", "tidemark.alert.test.v1"));
        assert_eq!(seen.offset, all.last().unwrap().offset);
    }
}
