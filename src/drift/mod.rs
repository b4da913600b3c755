//! The statistics of drift: counts in, effects and evidence out. Pure, and from integers until the last step.
//!
//! One statistic a file, each with its source; [`look`] puts them together for one window at one mark.

pub mod ks;
pub mod look;
#[cfg(test)]
mod properties;
pub mod mae_ratio;
pub mod psi;
pub mod significance;
pub mod special;

pub use look::{CauseLook, ColumnLook, ErrorLook, Look, TargetLook, look};

pub use crate::alert::Level;
