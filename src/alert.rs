//! The data of a record of `alerts`: what happened, how we know, when it began, what to do.

use serde::{Deserialize, Serialize};

use crate::cloudevent::{self, CloudEvent};

/// How bad it is. `Ok` comes in statuses and looks only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing to do.
    #[default]
    Ok,
    /// Worth a look.
    Warning,
    /// Worth being woken.
    Critical,
}

impl Level {
    /// Returns the word that records and people use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What becomes of an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It begins.
    Opened,
    /// From warning to critical; at most once.
    Escalated,
    /// It ended by itself, or by a new model.
    Resolved,
    /// It ended because how things are now was accepted.
    Accepted,
}

impl Change {
    /// Returns the word that records and event types use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Escalated => "escalated",
            Self::Resolved => "resolved",
            Self::Accepted => "accepted",
        }
    }
}

/// What an effect is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Population stability index, nats.
    Psi,
    /// Kolmogorov–Smirnov distance, 0 to 1.
    Ks,
    /// MAE now by MAE of the baseline.
    MaeRatio,
}

/// The data of an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Alert {
    /// An episode of drift opened, escalated or ended.
    Episode(Box<EpisodeAlert>),
    /// The chain of a partition of `tickets` is broken.
    BrokenChain {
        /// Name of the spec.
        spec: String,
        /// Partition of `tickets`.
        partition: u32,
        /// Sequence at which it broke.
        sequence: u64,
        /// How.
        reason: String,
        /// What to do.
        recommendations: Vec<String>,
    },
    /// MongoDB has forgotten what happened between the bounds.
    Gap {
        /// Name of the spec.
        spec: String,
        /// Id of the control record.
        control: String,
        /// Last cluster time known to be read, ms since 1970.
        from_ms: i64,
        /// First cluster time known to follow, ms since 1970.
        to_ms: i64,
        /// Why.
        reason: String,
        /// What to do.
        recommendations: Vec<String>,
    },
    /// Nothing happened: somebody tries the path to the consumers.
    Test {
        /// Name of the spec.
        spec: String,
        /// In words.
        message: String,
    },
}

impl Alert {
    /// Returns the event type: `tidemark.alert.<what>.v1`.
    #[must_use]
    pub fn event_type(&self) -> String {
        let what = match self {
            Self::Episode(alert) => alert.change.name(),
            Self::BrokenChain { .. } => "broken_chain",
            Self::Gap { .. } => "gap",
            Self::Test { .. } => "test",
        };
        format!("tidemark.alert.{what}.v1")
    }

    /// Returns the event that carries it; `subject` is also the record's key.
    #[must_use]
    pub fn event(&self, spec: &str, id: String, time_ms: i64, subject: &str) -> CloudEvent {
        CloudEvent {
            id,
            source: cloudevent::source(spec),
            kind: self.event_type(),
            time_ms,
            subject: subject.to_owned(),
            data: serde_json::to_vec(self).expect("an alert has only texts and numbers").into(),
        }
    }
}

/// An episode of drift opened, escalated or ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpisodeAlert {
    /// Name of the spec.
    pub spec: String,
    /// Name of the model.
    pub model: String,
    /// The cause: a group of columns that are functions of one field, or `clusters`, `target`, `error`.
    pub cause: String,
    /// What became of its episode.
    pub change: Change,
    /// Level of the episode (of a resolved one: the highest it had).
    pub level: Level,
    /// Id of the episode: all its alerts carry it.
    pub episode: String,
    /// The mark at which this was decided.
    pub mark: u64,
    /// Its end of slice, ms since 1970: the time of the verdict.
    pub at_ms: i64,
    /// Version of the baseline.
    pub baseline: Option<u64>,
    /// Status over all causes, this change included.
    pub status: Level,
    /// One sentence for a person.
    pub summary: String,
    /// When the change began: a slice boundary of the last 14 days, ms since 1970.
    pub onset_ms: Option<i64>,
    /// The looks that decided, one a window length.
    pub evidence: Vec<Evidence>,
    /// Counts before and now.
    pub distributions: Vec<Distribution>,
    /// The categories that carry the change, the heaviest first.
    pub carriers: Vec<Carrier>,
    /// Of the cause `clusters` the features that moved most, taken together, the first most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<MovedFeature>,
    /// What to do, in words.
    pub recommendations: Vec<String>,
    /// What limits this verdict: an uncalibrated baseline, a gap, an incomplete window.
    #[serde(default)]
    pub caveats: Vec<String>,
}

/// One window's look at one cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Window length in days.
    pub days: u32,
    /// Rows behind it.
    pub rows: u64,
    /// What the effect is.
    pub measure: Measure,
    /// How large it is; `None` when it cannot be had.
    pub effect: Option<f64>,
    /// From where on it is a warning.
    pub warning: f64,
    /// From where on it is critical.
    pub critical: f64,
    /// Textbook p-value.
    pub p: Option<f64>,
    /// Its natural logarithm.
    pub log_p: Option<f64>,
    /// p-value against the baseline's own noise.
    pub calibrated_p: Option<f64>,
    /// Its natural logarithm.
    pub calibrated_log_p: Option<f64>,
    /// The level that it has to be below.
    pub alpha: Option<f64>,
    /// Whether this window takes part in the decision.
    pub decides: bool,
}

/// Counts of one column before and now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The column, or the target's name.
    pub column: String,
    /// Its PSI in the longest deciding window, where it has one.
    pub psi: Option<f64>,
    /// What each bin holds, in words.
    pub bins: Vec<String>,
    /// Rows of the baseline by bin.
    pub before: Vec<u64>,
    /// Rows of the window by bin.
    pub now: Vec<u64>,
}

/// A feature that tells the clusters that grew or shrank from the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovedFeature {
    /// The feature; it stands for all of its field.
    pub feature: String,
    /// Its part of what tells these clusters from the mean, 0 to 1.
    pub part: f64,
    /// Its own PSI in that window: small when it changed only together with others.
    pub psi: Option<f64>,
}

/// A category and what it has to do with the change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Carrier {
    /// The column.
    pub column: String,
    /// The category, in words.
    pub category: String,
    /// Share of the rows before.
    pub share_before: f64,
    /// Share of the rows now.
    pub share_now: f64,
    /// Mean |error| in the target's unit before the onset, where it is known.
    pub mean_abs_error_before: Option<f64>,
    /// Mean |error| in the target's unit now, where it is known.
    pub mean_abs_error_now: Option<f64>,
    /// Its part of the effect, at least 0; of a rise of the error above 1 where other categories fell.
    pub part: f64,
}
