//! The data of a record of `retraining-triggers`: the request for a training, and what becomes of it.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::alert::Level;
use crate::cloudevent::{self, CloudEvent};
use crate::log::Record;
use crate::spec::Spec;

/// Why a training is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerType {
    /// Its time has come.
    Scheduled,
    /// The data drifts.
    Drift,
    /// Only the model's error is critical.
    Performance,
    /// Many new tickets.
    DataVolume,
    /// Somebody asked.
    Manual,
}

impl TriggerType {
    /// Returns the contract's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Drift => "drift",
            Self::Performance => "performance",
            Self::DataVolume => "data_volume",
            Self::Manual => "manual",
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerChange {
    /// It is raised.
    Raised,
    /// Another cause joins it.
    Joined,
    /// A training is due: the train stage answers this record, and no other.
    Due,
    /// It is closed; [`Trigger::closed_because`] says why.
    Closed,
}

impl TriggerChange {
    /// Returns the word that records and event types use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Joined => "joined",
            Self::Due => "due",
            Self::Closed => "closed",
        }
    }
}

/// Why a trigger closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedBecause {
    /// A new model went to Production.
    Promoted,
    /// How things are now was accepted.
    Accepted,
    /// The last of its causes closed.
    Resolved,
    /// A graver trigger took its place.
    Superseded,
    /// What was provisional is frozen.
    Settled,
    /// It was answered without a promotion, and asks for no second attempt.
    Answered,
}

/// The data of a record of `retraining-triggers`; also the metadata of the document in `ml_retraining_triggers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// Id of the trigger: all its records carry it.
    pub id: String,
    /// Name of the spec.
    pub spec: String,
    /// Name of the model.
    pub model: String,
    /// What became of it.
    pub change: TriggerChange,
    /// Why a training is asked for.
    pub trigger_type: TriggerType,
    /// 1 low, 2 medium, 3 high, 4 critical.
    pub priority: u8,
    /// In words.
    pub reason: String,
    /// The causes that asked for it; those that joined are last.
    pub causes: Vec<TriggerCause>,
    /// Mark at which it was raised; `None` where no mark raised it (manual).
    pub raised_mark: Option<u64>,
    /// When it was raised, ms since 1970, in event time.
    pub raised_at_ms: i64,
    /// Mark of this record.
    pub mark: Option<u64>,
    /// Time of this record, ms since 1970, in event time.
    pub at_ms: i64,
    /// Version of the baseline in force.
    pub baseline: Option<u64>,
    /// Trainings that answered it without a promotion so far.
    pub attempts: u32,
    /// Why it closed, when it did.
    pub closed_because: Option<ClosedBecause>,
    /// Mark at which a training was asked for that has not been answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<u64>,
    /// No training is asked for before this, ms since 1970, in event time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due_ms: Option<i64>,
    /// Whether the model's error is over its threshold, when a training is asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub error_is_over: bool,
    /// The provisional baseline that is to be frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settles: Option<u64>,
}

/// A cause behind a trigger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TriggerCause {
    /// The cause.
    pub cause: String,
    /// Its episode.
    pub episode: String,
    /// Level of the episode.
    pub level: Level,
    /// When the change began, ms since 1970.
    pub onset_ms: Option<i64>,
}

impl Trigger {
    /// Returns when the change began that this is about, ms since 1970: the error's onset where the error is a cause, else the
    /// target's, else the latest of the features'.
    #[must_use]
    pub fn onset_ms(&self) -> Option<i64> {
        let of = |name: &str| self.causes.iter().rev().find(|cause| cause.cause == name).and_then(|cause| cause.onset_ms);
        of("error").or_else(|| of("target")).or_else(|| self.causes.iter().filter_map(|cause| cause.onset_ms).max())
    }

    /// Whether the train stage, or a person, raised it: no mark asks for its training, and the train stage closes it.
    #[must_use]
    pub fn is_unprompted(&self) -> bool {
        self.raised_mark.is_none()
    }

    /// Returns the identity of the answer to a request: the same however often it is made, another for each attempt.
    #[must_use]
    pub fn answer_id(&self) -> String {
        match self.asked {
            Some(mark) => format!("{}-{mark}", self.id),
            None => format!("{}-{}", self.id, self.at_ms),
        }
    }

    /// Returns a request that no mark raised, as it is raised: `at_ms` is the end of the rows to train on, in event time.
    #[must_use]
    pub fn unprompted(id: String, spec: &Spec, trigger_type: TriggerType, priority: u8, reason: String, at_ms: i64) -> Self {
        Self {
            id,
            spec: spec.name.clone(),
            model: spec.model.clone(),
            change: TriggerChange::Raised,
            trigger_type,
            priority,
            reason,
            causes: Vec::new(),
            raised_mark: None,
            raised_at_ms: at_ms,
            mark: None,
            at_ms,
            baseline: None,
            attempts: 0,
            closed_because: None,
            asked: None,
            next_due_ms: None,
            error_is_over: false,
            settles: None,
        }
    }

    /// Returns the record that carries it to partition 0 of `topic`, of somebody else than the judge.
    #[must_use]
    pub fn into_record(self, topic: Arc<str>) -> Record {
        let header = |name: &'static str, text: &'static str| (Cow::Borrowed(name), Bytes::from_static(text.as_bytes()));
        let more = vec![header("kind", "trigger")];
        self.event().into_record(topic, &self.model, more)
    }

    /// Returns the event that carries it. The record's key is the model's name.
    #[must_use]
    pub fn event(&self) -> CloudEvent {
        let step = self.mark.map_or_else(|| self.at_ms.to_string(), |mark| mark.to_string());
        CloudEvent {
            id: format!("{}-{}-{step}", self.id, self.change.name()),
            source: cloudevent::source(&self.spec),
            kind: format!("tidemark.trigger.{}.v1", self.change.name()),
            time_ms: self.at_ms,
            subject: self.model.clone(),
            data: serde_json::to_vec(self).expect("a trigger has only texts and numbers").into(),
        }
    }
}
