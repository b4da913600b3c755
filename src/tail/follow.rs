//! What is decided elsewhere and takes its place in the stream: new baselines, and `model-events`.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use serde::Deserialize;

use crate::log::{Delivered, Follower, Log, LogError, Reader};
use crate::model_event::ModelEvent;
use crate::spec::Spec;
use crate::ticket::Control;
use crate::topics::Topics;

/// A decision becomes a record in each partition, and all those between two marks a part of one summary: real ones have some hundred
/// bytes.
const MAX_CONTROL_BYTES: usize = 64 * 1024;

/// A record of a followed topic: the offset after it, and what it says.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) next_offset: i64,
    pub(crate) verdict: Verdict,
    /// The mark whose request for a training it answers.
    pub(crate) answers: Option<u64>,
    /// Version of the baseline that has to be in force before it.
    pub(crate) after: Option<u64>,
}

/// Which topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FollowedTopic {
    Baselines,
    ModelEvents,
}

impl FollowedTopic {
    /// Baselines first, as what is decided may need them.
    pub(crate) const ALL: [Self; 2] = [Self::Baselines, Self::ModelEvents];
}

/// What a record means for the stream.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It takes its place.
    Takes(Control),
    /// It is not about this.
    Passes,
    /// It must not count, and this is why.
    Refused(String),
}

/// Both topics.
pub(crate) struct Decisions {
    baselines: Box<dyn Follower>,
    model_events: Box<dyn Follower>,
    spec: String,
    fingerprint: String,
    new_baselines: VecDeque<Followed>,
    new_events: VecDeque<Followed>,
    /// Offsets of the last records that stood there at the beginning and have not been heard yet.
    unheard: [Option<i64>; 2],
}

impl Decisions {
    /// Follows from these offsets.
    pub(crate) fn follow(
        log: &dyn Log,
        reader: &mut dyn Reader,
        topics: &Topics,
        spec: &Spec,
        baselines_offset: i64,
        model_events_offset: i64,
    ) -> Result<Self, LogError> {
        Ok(Self {
            unheard: [last(reader, &topics.baselines, baselines_offset)?, last(reader, &topics.model_events, model_events_offset)?],
            baselines: from_what_is_left(log, &topics.baselines, baselines_offset)?,
            model_events: from_what_is_left(log, &topics.model_events, model_events_offset)?,
            spec: spec.name.clone(),
            fingerprint: spec.fingerprint(),
            new_baselines: VecDeque::new(),
            new_events: VecDeque::new(),
        })
    }

    /// Hears new records of each topic whose last ones all have their place. Waits for the first at most `timeout`, and not at all
    /// while a decision waits.
    pub(crate) fn hear(&mut self, timeout: Duration) -> Result<(), LogError> {
        let wait = if self.new_events.is_empty() { timeout } else { Duration::ZERO };
        if self.new_baselines.is_empty() {
            for record in self.baselines.poll(wait)? {
                self.unheard[FollowedTopic::Baselines as usize].take_if(|last| *last <= record.offset);
                let (verdict, answers) = baseline(&record, &self.spec, &self.fingerprint);
                self.new_baselines.push_back(Followed { next_offset: record.offset + 1, verdict, answers, after: None });
            }
        }
        if self.new_events.is_empty() {
            for record in self.model_events.poll(Duration::ZERO)? {
                self.unheard[FollowedTopic::ModelEvents as usize].take_if(|last| *last <= record.offset);
                let verdict = model_event(&record, &self.spec);
                let (answers, after) = match &verdict {
                    Verdict::Takes(Control::Outcome { mark, baseline, .. }) => (*mark, *baseline),
                    _ => (None, None),
                };
                self.new_events.push_back(Followed { next_offset: record.offset + 1, verdict, answers, after });
            }
        }
        Ok(())
    }

    /// Returns the next record of a topic that was heard and has no place yet.
    pub(crate) fn next(&self, topic: FollowedTopic) -> Option<&Followed> {
        match topic {
            FollowedTopic::Baselines => self.new_baselines.front(),
            FollowedTopic::ModelEvents => self.new_events.front(),
        }
    }

    /// The record that [`Decisions::next`] returned has its place.
    pub(crate) fn done(&mut self, topic: FollowedTopic) {
        match topic {
            FollowedTopic::Baselines => self.new_baselines.pop_front(),
            FollowedTopic::ModelEvents => self.new_events.pop_front(),
        };
    }

    /// Whether something that was decided before this began to follow may still be on its way. Not when a decision has been heard
    /// that cannot have its place now: what comes after it waits, too.
    pub(crate) fn are_on_their_way(&self) -> bool {
        self.unheard != [None; 2] && self.new_baselines.is_empty() && self.new_events.is_empty()
    }
}

/// Returns the offset of the last record that is committed now, at or after `from`. What is in a transaction that hangs is not.
fn last(reader: &mut dyn Reader, topic: &str, from: i64) -> Result<Option<i64>, LogError> {
    let mut last = None;
    let from = from.max(reader.bounds(topic, 0)?.low);
    let end = reader.stable_end(topic, 0)?;
    reader.read(topic, 0, from, end, &mut |record| {
        last = Some(record.offset);
        ControlFlow::Continue(())
    })?;
    Ok(last)
}

/// A compacted topic may begin later than it did.
fn from_what_is_left(log: &dyn Log, topic: &str, offset: i64) -> Result<Box<dyn Follower>, LogError> {
    match log.follow(topic, &[offset]) {
        Err(LogError::Truncated { low, wanted, .. }) if wanted < low => log.follow(topic, &[low]),
        result => result,
    }
}

/// The lines of a baseline that decide whether it is ours.
#[derive(Deserialize)]
struct BaselineLines {
    spec: String,
    fingerprint: String,
    version: u64,
    #[serde(default)]
    answers: Option<u64>,
}

/// Returns what a record means, and the mark that it answers.
fn baseline(record: &Delivered, spec: &str, fingerprint: &str) -> (Verdict, Option<u64>) {
    let value = record.value.as_deref().unwrap_or_default();
    let lines: BaselineLines = match serde_json::from_slice(value) {
        Ok(lines) => lines,
        Err(error) => return (Verdict::Refused(format!("not a baseline: {error}")), None),
    };
    if lines.spec != spec {
        return (Verdict::Refused(format!("baseline {} is of spec {}, not of {spec}", lines.version, lines.spec)), None);
    }
    if lines.fingerprint != fingerprint {
        let reason = format!(
            "baseline {} was made under fingerprint {} of the spec, which is {fingerprint} now: create a new one",
            lines.version, lines.fingerprint
        );
        return (Verdict::Refused(reason), None);
    }
    (Verdict::Takes(Control::Baseline { id: format!("{spec}@{}", lines.version), version: lines.version }), lines.answers)
}

fn model_event(record: &Delivered, spec: &str) -> Verdict {
    let value = record.value.as_deref().unwrap_or_default();
    match ModelEvent::decode(value) {
        Err(error) => Verdict::Refused(error.to_string()),
        Ok(None) => Verdict::Passes,
        Ok(Some(event)) if event.spec() != spec => Verdict::Refused(format!("a decision about spec {}, not about {spec}", event.spec())),
        Ok(Some(event)) => {
            let control = event.into_control();
            let bytes = serde_json::to_vec(&control).map_or(0, |value| value.len());
            if bytes > MAX_CONTROL_BYTES {
                return Verdict::Refused(format!("a decision of {bytes} bytes; {MAX_CONTROL_BYTES} are the most"));
            }
            Verdict::Takes(control)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn record(value: &str) -> Delivered {
        let value = Some(Bytes::from(value.to_owned()));
        Delivered { partition: 0, offset: 0, timestamp_ms: 0, key: None, value, headers: Vec::new() }
    }

    #[test]
    fn a_baseline_of_our_spec_takes_its_place_and_any_other_is_refused_with_a_reason() {
        let ours = record(r#"{"spec":"a","fingerprint":"f","version":3,"columns":[]}"#);
        let takes = Verdict::Takes(Control::Baseline { id: "a@3".into(), version: 3 });
        assert_eq!(baseline(&ours, "a", "f"), (takes, None));
        for other in [r#"{"spec":"b","fingerprint":"f","version":3}"#, r#"{"spec":"a","fingerprint":"g","version":3}"#, "no json"] {
            assert!(matches!(baseline(&record(other), "a", "f"), (Verdict::Refused(_), None)), "{other}");
        }
    }

    #[test]
    fn a_decision_becomes_a_control_record_and_an_unknown_kind_passes() {
        let accept = record(r#"{"kind":"accept","id":"1","spec":"a","cause":"error"}"#);
        assert_eq!(model_event(&accept, "a"), Verdict::Takes(Control::Accept { id: "1".into(), cause: "error".into() }));
        assert_eq!(model_event(&record(r#"{"kind":"applied"}"#), "a"), Verdict::Passes);
        assert!(matches!(model_event(&accept, "b"), Verdict::Refused(_)));
        let large = format!(r#"{{"kind":"accept","id":"{}","spec":"a","cause":"error"}}"#, "1".repeat(MAX_CONTROL_BYTES));
        assert!(matches!(model_event(&record(&large), "a"), Verdict::Refused(why) if why.contains("bytes")));
    }
}
