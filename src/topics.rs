//! The topics: their names under a prefix, and what each has to be.

use std::sync::Arc;

use crate::log::TopicSettings;

/// Full names of all topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Tickets and control records, chained.
    pub tickets: Arc<str>,
    /// Tail's position; compacted, one partition. Owning that partition is being the leader.
    pub positions: Arc<str>,
    /// What could not be used, chained.
    pub dead_letters: Arc<str>,
    /// One record a ticket and series.
    pub prediction_errors: Arc<str>,
    /// Counts by slice, from watch to judge; one partition.
    pub summaries: Arc<str>,
    /// Episodes opening, escalating and resolving, broken chains, gaps: CloudEvents.
    pub alerts: Arc<str>,
    /// Requests for a training: CloudEvents.
    pub retraining_triggers: Arc<str>,
    /// The judge's verdict and state; compacted.
    pub status: Arc<str>,
    /// Baselines by `spec@version`; compacted.
    pub baselines: Arc<str>,
    /// What becomes of models, and what people decide by command.
    pub model_events: Arc<str>,
}

/// How topics are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicPlan {
    /// Partitions of `tickets`, `dead-letters` and `prediction-errors`.
    pub partitions: u32,
    /// Copies of each partition.
    pub replication: u32,
    /// Retention of `tickets` in ms.
    pub tickets_retention_ms: i64,
    /// Retention of the other topics that are not compacted, in ms.
    pub retention_ms: i64,
}

impl Topics {
    /// Names the topics under `prefix` (`tidemark` gives `tidemark.tickets`).
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let name = |topic: &str| Arc::from(format!("{prefix}.{topic}"));
        Self {
            tickets: name("tickets"),
            positions: name("positions"),
            dead_letters: name("dead-letters"),
            prediction_errors: name("prediction-errors"),
            summaries: name("summaries"),
            alerts: name("alerts"),
            retraining_triggers: name("retraining-triggers"),
            status: name("status"),
            baselines: name("baselines"),
            model_events: name("model-events"),
        }
    }

    /// Returns what each topic has to be.
    #[must_use]
    pub fn settings(&self, plan: &TopicPlan) -> Vec<TopicSettings> {
        let topic = |name: &Arc<str>, partitions, compacted, retention_ms| TopicSettings {
            name: name.to_string(),
            partitions,
            replication: plan.replication,
            compacted,
            retention_ms,
            append_time: true,
        };
        let kept = Some(plan.retention_ms);
        vec![
            topic(&self.tickets, plan.partitions, false, Some(plan.tickets_retention_ms)),
            topic(&self.positions, 1, true, None),
            topic(&self.dead_letters, plan.partitions, false, kept),
            topic(&self.prediction_errors, plan.partitions, false, kept),
            topic(&self.summaries, 1, false, Some(plan.tickets_retention_ms)),
            topic(&self.alerts, 1, false, kept),
            topic(&self.retraining_triggers, 1, false, kept),
            topic(&self.status, 1, true, None),
            topic(&self.baselines, 1, true, None),
            topic(&self.model_events, 1, false, None),
        ]
    }
}
