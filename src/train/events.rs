//! What a train stage has to know of `model-events`: answers that the registry has not heard of, and when trainings were.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::schedule::Last;
use crate::clock::DAY_MS;
use crate::log::{LogError, Reader};
use crate::model_event::{ModelEvent, Notice};
use crate::stage::Context;

/// Answers that are remembered beside the last training: as long as the guard looks back, and then some.
const REMEMBERED_MS: i64 = 2 * DAY_MS;

/// An outcome that is in the log.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) id: String,
    pub(super) event: ModelEvent,
    pub(super) is_applied: bool,
    /// It stands at this offset or behind.
    offset: i64,
    /// When it was written, by the wall clock, ms since 1970.
    at_ms: i64,
}

/// What the offset commits of the stage carry: from where `model-events` has to be read.
#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    model_events: i64,
}

/// The outcomes that matter.
#[derive(Debug, Default)]
pub(super) struct Events {
    told: Vec<Told>,
    /// The offset after the last record that is known.
    end: i64,
}

impl Events {
    /// Reads what is there, from where the last owner's `metadata` says.
    pub(super) fn read(context: &Context, reader: &mut dyn Reader, metadata: Option<&str>) -> Result<Self, LogError> {
        let topic = &context.topics.model_events;
        let bounds = reader.bounds(topic, 0)?;
        let noted = metadata.and_then(|metadata| serde_json::from_str::<Metadata>(metadata).ok());
        let from = noted.map_or(bounds.low, |noted| noted.model_events.clamp(bounds.low, bounds.end));
        let mut told: Vec<Told> = Vec::new();
        let mut applied = BTreeSet::new();
        reader.read(topic, 0, from, bounds.end, &mut |record| {
            let value = record.value.as_deref().unwrap_or_default();
            if let Ok(Some(event)) = ModelEvent::decode(value)
                && let ModelEvent::Outcome { id, spec, .. } = &event
                && *spec == context.spec.name
            {
                told.push(Told { id: id.clone(), event, is_applied: false, offset: record.offset, at_ms: record.timestamp_ms });
            } else if let Some(Notice::Applied { id, .. }) = Notice::decode(value) {
                applied.insert(id);
            }
            ControlFlow::Continue(())
        })?;
        for told in &mut told {
            told.is_applied = applied.contains(&told.id);
        }
        Ok(Self { told, end: bounds.end })
    }

    /// Looks where the topic ends: what is told next stands there or behind.
    pub(super) fn look_at_end(&mut self, context: &Context) -> Result<(), LogError> {
        self.end = context.log.reader()?.bounds(&context.topics.model_events, 0)?.end;
        Ok(())
    }

    /// Notes an outcome that was written at `now_ms`.
    pub(super) fn tell(&mut self, id: String, event: ModelEvent, now_ms: i64) {
        self.told.push(Told { id, event, is_applied: false, offset: self.end, at_ms: now_ms });
    }

    /// Notes that the registry has heard of an outcome.
    pub(super) fn applied(&mut self, id: &str) {
        self.told.iter_mut().filter(|told| told.id == id).for_each(|told| told.is_applied = true);
    }

    /// Returns the outcomes that the registry has not heard of, oldest first.
    pub(super) fn unapplied(&self) -> Vec<(String, ModelEvent)> {
        self.told.iter().filter(|told| !told.is_applied).map(|told| (told.id.clone(), told.event.clone())).collect()
    }

    /// Whether a request has its answer.
    pub(super) fn has_answered(&self, answer_id: &str) -> bool {
        self.told.iter().any(|told| told.id == answer_id)
    }

    /// Returns when trainings were answered, by the wall clock, ms since 1970, ascending.
    pub(super) fn trained_ms(&self) -> Vec<i64> {
        self.told.iter().filter(|told| is_training(&told.event)).map(|told| told.at_ms).collect()
    }

    /// Returns the last training that did not fail.
    pub(super) fn last(&self) -> Option<Last> {
        let last = self.told.iter().rev().find(|told| was_trained(&told.event))?;
        let ModelEvent::Outcome { at_ms, .. } = &last.event else { return None };
        Some(Last { trained_ms: last.at_ms, rows_to_ms: at_ms.unwrap_or(last.at_ms) })
    }

    /// Returns when a request was last answered with `not_yet` or `failed`, by the wall clock, ms since 1970.
    pub(super) fn came_to_nothing_ms(&self) -> Option<i64> {
        let nothing = |event: &ModelEvent| matches!(event, ModelEvent::Outcome { mark: None, outcome, .. } if matches!(outcome.as_str(), "not_yet" | "failed"));
        self.told.iter().rev().find(|told| nothing(&told.event)).map(|told| told.at_ms)
    }

    /// Forgets what matters no more; returns the metadata that lets the next owner read from there.
    pub(super) fn metadata(&mut self, now_ms: i64) -> String {
        let last = self.told.iter().rposition(|told| was_trained(&told.event));
        let mut at = 0;
        self.told.retain(|told| {
            let matters = !told.is_applied || told.at_ms >= now_ms - REMEMBERED_MS || Some(at) == last;
            at += 1;
            matters
        });
        let model_events = self.told.iter().map(|told| told.offset).min().unwrap_or(self.end);
        serde_json::to_string(&Metadata { model_events }).expect("a number has a JSON form")
    }
}

/// Whether an outcome cost a training, to the guard: what is frozen, held back or too early did not, what failed may have.
pub(super) fn is_training(event: &ModelEvent) -> bool {
    was_trained(event) || matches!(event, ModelEvent::Outcome { outcome, .. } if outcome == "failed")
}

fn was_trained(event: &ModelEvent) -> bool {
    matches!(event, ModelEvent::Outcome { outcome, .. } if matches!(outcome.as_str(), "promoted" | "refused" | "accepted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(id: &str, outcome: &str) -> ModelEvent {
        ModelEvent::Outcome {
            id: id.to_owned(),
            spec: "s".to_owned(),
            trigger: "t".to_owned(),
            outcome: outcome.to_owned(),
            reason: String::new(),
            mark: None,
            baseline: None,
            version: None,
            at_ms: Some(7),
            beside: vec![],
        }
    }

    #[test]
    fn what_is_read_at_the_next_start_reaches_back_to_what_still_matters() {
        let mut events = Events { end: 3, ..Events::default() };
        events.tell("unheard".to_owned(), outcome("unheard", "promoted"), DAY_MS);
        events.end = 5;
        events.tell("old".to_owned(), outcome("old", "refused"), 2 * DAY_MS);
        events.end = 8;
        events.tell("held".to_owned(), outcome("held", "held_back"), 9 * DAY_MS);
        events.applied("old");
        events.applied("held");
        assert_eq!(events.metadata(9 * DAY_MS), r#"{"model_events":3}"#, "the registry has not heard of it");
        events.applied("unheard");
        assert_eq!(events.metadata(9 * DAY_MS), r#"{"model_events":5}"#, "it is the last training");
        assert_eq!(events.last(), Some(Last { trained_ms: 2 * DAY_MS, rows_to_ms: 7 }));
        events.tell("new".to_owned(), outcome("new", "refused"), 10 * DAY_MS);
        assert_eq!((events.trained_ms(), events.unapplied().len()), (vec![2 * DAY_MS, 10 * DAY_MS], 1));
        events.applied("new");
        assert_eq!(events.metadata(10 * DAY_MS), r#"{"model_events":8}"#);
        assert!(events.has_answered("held") && !events.has_answered("old"));
    }
}
