//! Who answered, and why nobody better did.

use serde::Serialize;

/// Which of the three answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    /// The model in Production.
    Model,
    /// The contract's rules.
    Rules,
    /// What stands there when even they cannot answer: the ticket's own estimate, a constant.
    Estimate,
}

impl Source {
    /// Returns the name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Rules => "rules",
            Self::Estimate => "estimate",
        }
    }
}

/// Why the best source did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fallback {
    /// `serve.enhanced_scheduling` is false.
    NotEnabled,
    /// No usable version is in Production, or none was found yet; `/readyz` says why.
    NoModel,
    /// The worker completed nothing in the window.
    NoHistory,
    /// MongoDB is not configured.
    NoMongodb,
    /// MongoDB failed.
    MongodbFailed,
    /// MongoDB did not answer in time.
    MongodbSlow,
}

/// A model's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ModelName {
    /// Name in the registry.
    pub(super) name: String,
    /// Version there.
    pub(super) version: u64,
}
