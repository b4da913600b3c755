//! The third stage: summaries in; alerts, status and requests for trainings out.
//!
//! [`core`] decides, and knows no clock but the mark; [`shell`] reads, writes and restores.

pub mod core;
pub(crate) mod episode;
pub(crate) mod explain;
pub(crate) mod onset;
pub(crate) mod queue;
pub(crate) mod request;
pub(crate) mod sight;
pub(crate) mod tell;
pub(crate) mod windows;
pub(crate) mod words;
