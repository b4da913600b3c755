//! The first stage: completed tickets from a source into the log, each exactly once, with everything else that changes a verdict.

mod adopted;
pub mod core;
mod follow;
mod gate;
mod leader;
pub mod mongo;
pub mod normalise;
pub mod partition;
pub mod position;
mod progress;
mod restore;
pub mod replay;
pub mod source;
mod streamed;
#[cfg(test)]
mod tests;
pub mod time;

use crate::log::LogError;
use crate::stage::{Context, State};
pub(crate) use adopted::{ROW_PLACE, time_of_place};
pub(crate) use gate::ANSWER_AFTER;
pub(crate) use restore::{partitions as partitions_of, position as position_of};
pub use source::{Event, Place, Source, SourceError};

/// The part of [`crate::stage::Health`] that this stage speaks for.
pub const PART: &str = "tail";

/// Why the stage ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The log cannot be used, or must not be.
    #[error("tail: {0}")]
    Log(#[from] LogError),
    /// The source cannot be used, or must not be.
    #[error("tail: {0}")]
    Source(#[from] SourceError),
    /// The position in the log is not one that this process may go on from.
    #[error("tail refuses to go on: {0}")]
    Refused(String),
}

/// Runs the stage until the stop is asked for, or until `source` is exhausted and all of it is committed.
///
/// # Errors
/// [`TailError`] when a person has to decide; what may pass is retried with back-off.
pub fn run(context: &Context, source: Box<dyn Source>) -> Result<(), TailError> {
    let result = leader::run(context, source);
    if let Err(error) = &result {
        context.health.set(PART, State::Failed(error.to_string()));
    }
    result
}
