//! How far a replay may go ahead of its verdicts.
//!
//! A year is replayed in seconds, a training takes seconds too: unless the tail waits, what a training decides would take its place
//! wherever the machine happened to be. So a replay that is lived through sends mark n only when mark n − [`ANSWER_AFTER`] has been
//! judged, and when every training that was asked for until then has its answer; that answer stands just before mark
//! n. The closed loop of a year is then the same, byte for byte, on every machine, and the stages still work at the same time.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use crate::cloudevent::CloudEvent;
use crate::log::{Follower, Log, LogError};
use crate::topics::Topics;
use crate::trigger::{Trigger, TriggerChange};

/// A training's answer stands after so many marks: the time that it takes, in slices.
pub(crate) const ANSWER_AFTER: u64 = 6;

/// Marks that are sent at a time. The stages work at the same time only on different marks: all of the room at once would go through
/// them in one lump, and leave the others idle.
const AT_A_TIME: u64 = ANSWER_AFTER / 3;

/// What a replay waits for.
pub(crate) struct Gate {
    statuses: Box<dyn Follower>,
    triggers: Box<dyn Follower>,
    spec: String,
    judged: u64,
    asked: BTreeSet<u64>,
}

/// The lines of a status that are looked at.
#[derive(Deserialize)]
struct StatusLines {
    spec: String,
    mark: u64,
}

impl Gate {
    /// Follows the verdicts. Of trainings that were asked for before, those whose answer had its place before `next_mark` are done.
    pub(crate) fn follow(log: &dyn Log, topics: &Topics, spec: &str, next_mark: u64) -> Result<Self, LogError> {
        let mut gate = Self {
            statuses: log.follow(&topics.status, &[])?,
            triggers: log.follow(&topics.retraining_triggers, &[])?,
            spec: spec.to_owned(),
            judged: 0,
            asked: BTreeSet::new(),
        };
        gate.look(Duration::ZERO)?;
        gate.asked.retain(|mark| mark + ANSWER_AFTER >= next_mark);
        Ok(gate)
    }

    /// Returns the last mark that may be sent now, of those from `mark` on; waits at most `timeout` for news when that is none.
    pub(crate) fn next(&mut self, mark: u64, timeout: Duration) -> Result<u64, LogError> {
        let mut last = self.look(Duration::ZERO)?;
        if last < mark && !timeout.is_zero() {
            last = self.look(timeout)?;
        }
        Ok(last.min(mark + AT_A_TIME - 1))
    }

    /// Looks for news, waiting at most `timeout` for them; returns the last mark that verdicts and answers leave room for.
    fn look(&mut self, timeout: Duration) -> Result<u64, LogError> {
        // A request is committed together with the status of its mark, or before it: read in this order it is never missed.
        for record in self.statuses.poll(timeout)? {
            let status = serde_json::from_slice::<StatusLines>(record.value.as_deref().unwrap_or_default());
            if let Ok(status) = status
                && status.spec == self.spec
            {
                self.judged = self.judged.max(status.mark);
            }
        }
        loop {
            let records = self.triggers.poll(Duration::ZERO)?;
            if records.is_empty() {
                break;
            }
            for record in records {
                let Ok(event) = CloudEvent::from_record(&record) else { continue };
                let Ok(trigger) = serde_json::from_slice::<Trigger>(&event.data) else { continue };
                if let (TriggerChange::Due, Some(mark)) = (trigger.change, trigger.asked)
                    && trigger.spec == self.spec
                {
                    self.asked.insert(mark);
                }
            }
        }
        let last = self.asked.first().map_or(self.judged, |asked| self.judged.min(*asked));
        Ok(last + ANSWER_AFTER)
    }

    /// The training asked for at this mark has its answer in the stream.
    pub(crate) fn answered(&mut self, mark: u64) {
        self.asked.remove(&mark);
    }
}
