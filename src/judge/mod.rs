//! The third stage: summaries in; alerts, status and requests for trainings out.
//!
//! The core decides, and knows no clock but the mark: `queue` lines partitions up, `windows` adds slices, `sight` reads the
//! looks, `episode` and `request` move on, `tell`, `explain` and `words` say so. The shell reads, writes and restores.

pub mod core;
pub mod shell;

pub(crate) mod episode;
pub(crate) mod explain;
pub(crate) mod onset;
pub(crate) mod places;
pub(crate) mod queue;
pub(crate) mod request;
pub(crate) mod restore;
pub(crate) mod sight;
pub(crate) mod tell;
mod together;
pub(crate) mod versions;
pub(crate) mod windows;
pub(crate) mod words;

#[cfg(test)]
mod tests;

pub use shell::{JudgeError, run};
