//! Proves the path to the consumers of `alerts`: writes an alert that says it is a test, and reads it back.

use std::time::{Duration, Instant};

use crate::alert::Alert;
use crate::clock::now_ms;
use crate::log::{LogError, TransactError, Transaction};
use crate::spec::Spec;
use crate::stage::Context;

/// Where the test alert is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Id of its event.
    pub id: String,
    /// Its offset in partition 0 of `alerts`.
    pub offset: i64,
    /// From the beginning of its transaction until a read_committed reader had it.
    pub took: Duration,
}

/// Why it is not known to have arrived.
#[derive(Debug, thiserror::Error)]
pub enum TestAlertError {
    /// The log.
    #[error("sending a test alert")]
    Log(#[from] LogError),
    /// The transaction.
    #[error("writing a test alert to topic {topic}")]
    Transact {
        /// The topic.
        topic: String,
        /// Why.
        #[source]
        source: TransactError,
    },
    /// It was committed, and did not become visible.
    #[error("test alert {id} was committed to topic {topic}, but no reader saw it within {seconds} s: a transaction may hang before it")]
    Unseen {
        /// Id of its event.
        id: String,
        /// The topic.
        topic: String,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// Returns the event of a test alert.
#[must_use]
pub fn event(spec: &Spec, at_ms: i64) -> crate::cloudevent::CloudEvent {
    let message = "This is a test: nothing has happened. It shows that alerts reach you.".to_owned();
    let alert = Alert::Test { spec: spec.name.clone(), message };
    alert.event(&spec.name, format!("test-{at_ms}"), at_ms, "test")
}

/// Writes a test alert and waits until it can be read.
///
/// # Errors
/// [`TestAlertError`].
pub fn send(context: &Context, patience: Duration) -> Result<Sent, TestAlertError> {
    let topic = &context.topics.alerts;
    let event = event(&context.spec, now_ms());
    let id = event.id.clone();
    let begun = Instant::now();
    let transactional_id = format!("{}.test-alert.{}", context.config.kafka.topic_prefix, context.config.instance);
    let mut producer = context.log.producer(&transactional_id)?;
    let end = context.log.reader()?.bounds(topic, 0)?.end;
    let mut follower = context.log.follow(topic, &[end])?;
    let record = event.into_record(topic.clone(), "test", vec![("kind".into(), "test".into())]);
    let transaction = Transaction { records: vec![record], ..Transaction::default() };
    producer.transact(transaction).map_err(|source| TestAlertError::Transact { topic: topic.to_string(), source })?;
    while begun.elapsed() < patience && !context.stop.is_asked() {
        for found in follower.poll(Duration::from_millis(100))? {
            if found.header("ce_id") == Some(id.as_bytes()) {
                return Ok(Sent { id, offset: found.offset, took: begun.elapsed() });
            }
        }
    }
    Err(TestAlertError::Unseen { id, topic: topic.to_string(), seconds: patience.as_secs() })
}
