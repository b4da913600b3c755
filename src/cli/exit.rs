//! The one table of exit codes, and the failure that carries one.

use crate::log::LogError;
use crate::registry::RegistryError;

/// How the command ended. `run` that is asked to stop by a signal ends gracefully with 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is done.
    Ok = 0,
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line, the configuration or the spec has a fault.
    Usage = 2,
    /// The level of `--fail-on` is reached.
    LevelReached = 3,
    /// A server cannot be reached, or refused us.
    Unreachable = 4,
    /// The input data cannot be used: a file, a baseline.
    BadInput = 5,
    /// A topic or a position is not what it has to be; nothing was changed.
    Refused = 6,
    /// `audit`: the log is not what MongoDB says it has to be.
    Differs = 7,
}

/// The table as `--help` shows it.
pub const TABLE: &str = "Exit codes:
  0  done
  1  failed for a reason without a code of its own
  2  the command line, the configuration or the spec has a fault
  3  the level of --fail-on is reached
  4  a server cannot be reached or refused us
  5  the input data cannot be used (a file, a baseline)
  6  a topic or a position is refused; nothing was changed
  7  audit: the log differs from MongoDB, or a chain is broken
  130, 143  ended by SIGINT or SIGTERM before it could end by itself";

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed: what was attempted, on what, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// With the code to end with.
    #[error("{message}")]
    Because {
        /// The code.
        exit: Exit,
        /// For a person.
        message: String,
    },
    /// The reader of our output has gone: that is no failure of ours, and not worth a word.
    #[error("the reader of the output has gone")]
    BrokenPipe,
}

impl Exit {
    /// Returns the code of what the log said.
    #[must_use]
    pub fn of_log(error: &LogError) -> Self {
        match error {
            LogError::Unavailable { .. } => Self::Unreachable,
            LogError::WrongTopic { .. } | LogError::Truncated { .. } | LogError::HeldUp { .. } | LogError::Unseated { .. } => Self::Refused,
        }
    }
}

impl Failure {
    /// Makes one.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self::Because { exit, message: message.into() }
    }

    /// Returns the code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Because { exit, .. } => *exit,
            Self::BrokenPipe => Exit::Ok,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::new(Exit::Failed, format!("cannot write the output: {error}; is the disk full?")),
        }
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::new(Exit::of_log(&error), error.to_string())
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let exit = match error {
            RegistryError::Unavailable { .. } | RegistryError::Refused { .. } => Exit::Unreachable,
            RegistryError::Corrupt { .. } | RegistryError::NotFound { .. } => Exit::BadInput,
            RegistryError::Conflict { .. } => Exit::Failed,
            RegistryError::Invalid { .. } => Exit::Usage,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<crate::config::faults::Faults> for Failure {
    fn from(faults: crate::config::faults::Faults) -> Self {
        Self::new(Exit::Usage, faults.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_the_help_lists_every_code() {
        for exit in
            [Exit::Ok, Exit::Failed, Exit::Usage, Exit::LevelReached, Exit::Unreachable, Exit::BadInput, Exit::Refused, Exit::Differs]
        {
            assert!(TABLE.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }
}
