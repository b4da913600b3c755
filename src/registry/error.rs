//! Why a registry did not do what it was asked, by what the caller must do about it.

/// What went wrong; the variant says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It may work later: try again.
    #[error("{attempted}: {reason}; try again later")]
    Unavailable {
        /// What was attempted, on what.
        attempted: String,
        /// Why it failed.
        reason: String,
    },
    /// The registry does not let us: credentials or permissions have to change.
    #[error("{attempted}: {reason}")]
    Refused {
        /// What was attempted, on what.
        attempted: String,
        /// Why, and which setting to look at.
        reason: String,
    },
    /// What is stored is not what was published: do not use it.
    #[error("{attempted}: {reason}")]
    Corrupt {
        /// What was attempted, on what.
        attempted: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// There is no such thing.
    #[error("{attempted}: {reason}")]
    NotFound {
        /// What was attempted, on what.
        attempted: String,
        /// What is missing.
        reason: String,
    },
    /// Somebody else's action stands against it.
    #[error("{attempted}: {reason}")]
    Conflict {
        /// What was attempted, on what.
        attempted: String,
        /// What stands against it, and what to do.
        reason: String,
    },
    /// It can never work as it was asked.
    #[error("{attempted}: {reason}")]
    Invalid {
        /// What was attempted, on what.
        attempted: String,
        /// What has to be different.
        reason: String,
    },
}

impl RegistryError {
    /// Returns why it failed, without what was attempted.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Unavailable { reason, .. }
            | Self::Refused { reason, .. }
            | Self::Corrupt { reason, .. }
            | Self::NotFound { reason, .. }
            | Self::Conflict { reason, .. }
            | Self::Invalid { reason, .. } => reason,
        }
    }

    pub(super) fn unavailable(attempted: &str, reason: impl Into<String>) -> Self {
        Self::Unavailable { attempted: attempted.to_owned(), reason: reason.into() }
    }

    pub(super) fn refused(attempted: &str, reason: impl Into<String>) -> Self {
        Self::Refused { attempted: attempted.to_owned(), reason: reason.into() }
    }

    pub(super) fn corrupt(attempted: &str, reason: impl Into<String>) -> Self {
        Self::Corrupt { attempted: attempted.to_owned(), reason: reason.into() }
    }

    pub(super) fn not_found(attempted: &str, reason: impl Into<String>) -> Self {
        Self::NotFound { attempted: attempted.to_owned(), reason: reason.into() }
    }

    pub(super) fn conflict(attempted: &str, reason: impl Into<String>) -> Self {
        Self::Conflict { attempted: attempted.to_owned(), reason: reason.into() }
    }

    pub(super) fn invalid(attempted: &str, reason: impl Into<String>) -> Self {
        Self::Invalid { attempted: attempted.to_owned(), reason: reason.into() }
    }
}
