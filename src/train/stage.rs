//! The fourth stage: every training that is asked for has one answer, whatever dies on the way.
//!
//! It reads `retraining-triggers` as a group of its own; its owner polls on while a thread trains. An answer is one transaction: the
//! new baseline, the outcome, and the offset of the request, so that they are there together or not at all. The registry is an
//! outbox: a version is published under the request's key before the decision, and promoted after it; what a crash left between
//! the two is made good at the next start, and closed by an `applied` event.
//!
//! What time, volume and people ask for, the owner raises itself, as records of the same topic: so it has one answer, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Trainer;
use super::owner::Owner;
use crate::log::{LogError, Polled};
use crate::stage::{Context, State};

/// Name of the stage.
pub(crate) const TRAIN: &str = "train";
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(100);
/// The same while a thread trains: how soon its answer is committed.
const POLL_TRAINING: Duration = Duration::from_millis(5);
/// Shortest and longest pause before something that failed is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Why the stage cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainStageError {
    /// The log.
    #[error("the train stage cannot use the log: {0}")]
    Log(#[from] LogError),
    /// There is nowhere to keep models.
    #[error("the train stage needs a registry: set MLFLOW_TRACKING_URI, or registry.directory, or leave train out of --stages")]
    NoRegistry,
    /// The spec's features cannot be computed.
    #[error("reading the spec's features: {0}; correct the spec")]
    Spec(#[from] crate::features::EncoderError),
}

/// Runs the stage until it is asked to stop.
///
/// # Errors
/// [`TrainStageError`]. What may pass is tried again with back-off.
pub fn run(context: &Context, place: crate::history::Place) -> Result<(), TrainStageError> {
    let Some(registry) = context.registry.clone() else { return Err(TrainStageError::NoRegistry) };
    let trainer = Arc::new(Trainer::new(context, registry, place)?);
    let reader = Arc::clone(&trainer);
    let ahead = std::thread::Builder::new().name("train-read".to_owned()).spawn(move || reader.read_ahead());
    if let Err(error) = ahead {
        tracing::warn!(%error, "no thread to read ahead with; the first request reads");
    }
    let mut backoff = BACKOFF.0;
    while !context.stop.is_asked() {
        let begun = Instant::now();
        context.health.set(TRAIN, State::Waiting("joining its group".to_owned()));
        match follow(context, &trainer) {
            Ok(()) => {}
            Err(error @ (LogError::Unavailable { .. } | LogError::HeldUp { .. })) => {
                tracing::warn!(%error, "the train stage tries again");
                context.health.set(TRAIN, State::Waiting(error.to_string()));
            }
            Err(error) => {
                context.health.set(TRAIN, State::Failed(error.to_string()));
                return Err(error.into());
            }
        }
        backoff = if begun.elapsed() > BACKOFF.1 { BACKOFF.0 } else { (backoff * 2).min(BACKOFF.1) };
        if context.stop.wait(backoff) {
            break;
        }
    }
    Ok(())
}

/// Follows the group until asked to stop, or until it has to join anew.
fn follow(context: &Context, trainer: &Arc<Trainer>) -> Result<(), LogError> {
    let group = format!("{}.train", context.config.kafka.topic_prefix);
    let mut member = context.log.member(&group, &context.topics.retraining_triggers)?;
    let mut owner: Option<Owner> = None;
    while !context.stop.is_asked() {
        let wait = if owner.as_ref().is_some_and(Owner::trains) { POLL_TRAINING } else { POLL };
        match member.poll(wait)? {
            Polled::Assigned(partitions) if partitions.contains(&0) => {
                owner = Some(Owner::take_over(context, member.as_mut(), trainer)?);
            }
            Polled::Revoked(partitions) if partitions.contains(&0) => owner = None,
            Polled::Records(records) => {
                if let Some(owner) = &mut owner {
                    owner.take(context, records);
                }
            }
            Polled::Assigned(_) | Polled::Revoked(_) | Polled::Idle => {}
        }
        let Some(owner) = &mut owner else {
            context.health.set(TRAIN, State::Ready("standing by: another process trains".to_owned()));
            continue;
        };
        if !owner.step(context, member.as_ref())? {
            return Ok(());
        }
    }
    Ok(())
}
