//! The first stage.

pub mod normalise;
