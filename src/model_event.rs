//! What becomes of models and what people decide by command: the records of `model-events`.

use serde::{Deserialize, Serialize};

use crate::ticket::Control;

/// A record of `model-events` that changes a verdict. Tail turns it into a control record; other kinds are not for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ModelEvent {
    /// A person silenced a cause.
    Silence {
        /// Identity of the event; the same decision sent twice has one id.
        id: String,
        /// Name of the spec.
        spec: String,
        /// The cause.
        cause: String,
        /// Until when, ms since 1970, in event time.
        until_ms: i64,
    },
    /// A person accepts how a cause is now.
    Accept {
        /// Identity of the event.
        id: String,
        /// Name of the spec.
        spec: String,
        /// The cause.
        cause: String,
    },
    /// What became of a training.
    Outcome {
        /// Identity of the event.
        id: String,
        /// Name of the spec.
        spec: String,
        /// Id of the trigger it answers.
        trigger: String,
        /// `promoted`, `refused`, `failed`, `not_yet`, `held_back`, `accepted` or `settled`.
        outcome: String,
        /// In words.
        reason: String,
        /// Mark at which the training was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mark: Option<u64>,
        /// Version of the baseline that it made: it comes into force first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        baseline: Option<u64>,
        /// Version of the model that is in Production with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
        /// End of the rows that the answer is about, ms since 1970, in event time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_ms: Option<i64>,
        /// What became of the models that were trained beside it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        beside: Vec<Beside>,
    },
}

/// A model that was trained beside the one that is judged: it changes no verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// Name of the model.
    pub model: String,
    /// `promoted`, `refused` or `failed`.
    pub outcome: String,
    /// In words.
    pub reason: String,
    /// Its version in the registry, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

impl Beside {
    /// Returns the version that goes to Production.
    #[must_use]
    pub fn promoted(&self) -> Option<u64> {
        self.version.filter(|_| self.outcome == "promoted")
    }
}

/// How Production came to be moved without a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MovedBy {
    /// `tidemark models promote`.
    Promoted,
    /// `tidemark models rollback`.
    RolledBack,
    /// Somebody did it in the registry itself.
    Moved,
}

impl MovedBy {
    /// Returns the word that records and documents use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Moved => "moved",
        }
    }
}

/// A record of `model-events` that tells what happened and changes no verdict by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Notice {
    /// What an outcome decided has been done in the registry.
    Applied {
        /// Id of the outcome.
        id: String,
        /// Name of the spec.
        spec: String,
    },
    /// A person moved Production, by command or in the registry.
    Moved {
        /// Identity of the event.
        id: String,
        /// Name of the spec.
        spec: String,
        /// Name of the model.
        model: String,
        /// How.
        action: MovedBy,
        /// Version that is in Production now.
        version: u64,
        /// Version that was there before, as far as it is known.
        before: Option<u64>,
        /// Version of the baseline that comes into force with it; `None` where none is known for that version.
        baseline: Option<u64>,
        /// Why, in words.
        reason: String,
        /// When, ms since 1970, by the clock of who says so.
        at_ms: i64,
    },
}

impl Notice {
    /// Returns the record's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers have a JSON form")
    }

    /// Reads a record's value; `None` is an event of another kind, or none of this version.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// A value that is no event.
#[derive(Debug, thiserror::Error)]
#[error("not a model event: {0}")]
pub struct ModelEventError(String);

impl ModelEvent {
    /// Returns the record's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers have a JSON form")
    }

    /// Reads a record's value; `None` is an event of a kind that changes no verdict.
    ///
    /// # Errors
    /// [`ModelEventError`] when it is no event at all, or one of these kinds with a member missing or wrong.
    pub fn decode(value: &[u8]) -> Result<Option<Self>, ModelEventError> {
        #[derive(Deserialize)]
        struct Kind {
            kind: String,
        }
        let wrong = |error: serde_json::Error| ModelEventError(error.to_string());
        let Kind { kind } = serde_json::from_slice(value).map_err(wrong)?;
        if !matches!(kind.as_str(), "silence" | "accept" | "outcome") {
            return Ok(None);
        }
        serde_json::from_slice(value).map(Some).map_err(wrong)
    }

    /// Returns the name of the spec it is about.
    #[must_use]
    pub fn spec(&self) -> &str {
        match self {
            Self::Silence { spec, .. } | Self::Accept { spec, .. } | Self::Outcome { spec, .. } => spec,
        }
    }

    /// Returns the control record that stands for it in `tickets`.
    #[must_use]
    pub fn into_control(self) -> Control {
        match self {
            Self::Silence { id, cause, until_ms, .. } => Control::Silence { id, cause, until_ms },
            Self::Accept { id, cause, .. } => Control::Accept { id, cause },
            Self::Outcome { id, trigger, outcome, reason, mark, baseline, .. } => {
                Control::Outcome { id, trigger, outcome, reason, mark, baseline }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_survives_the_wire_and_an_unknown_kind_is_not_an_error() {
        let silence = ModelEvent::Silence { id: "s1".into(), spec: "x".into(), cause: "error".into(), until_ms: 7 };
        assert_eq!(ModelEvent::decode(&silence.encode()).unwrap(), Some(silence));
        assert_eq!(ModelEvent::decode(br#"{"kind":"applied","id":"a"}"#).unwrap(), None);
    }

    #[test]
    fn what_changes_no_verdict_is_passed_over_by_who_decides() {
        let moved = Notice::Moved {
            id: "m".into(),
            spec: "x".into(),
            model: "d".into(),
            action: MovedBy::RolledBack,
            version: 2,
            before: Some(3),
            baseline: None,
            reason: "by hand".into(),
            at_ms: 7,
        };
        assert_eq!(ModelEvent::decode(&moved.encode()).unwrap(), None);
        assert_eq!(Notice::decode(&moved.encode()), Some(moved));
        assert_eq!(Notice::decode(br#"{"kind":"silence","id":"s"}"#), None);
    }

    #[test]
    fn a_silence_without_its_cause_is_refused() {
        assert!(ModelEvent::decode(br#"{"kind":"silence","id":"s","spec":"x","until_ms":1}"#).is_err());
        assert!(ModelEvent::decode(b"no json").is_err());
    }
}
