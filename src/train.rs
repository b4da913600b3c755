//! Training: from rows to models, the same model for the same seed whatever the number of threads.

pub mod frame;

pub mod bins;
mod grow;

pub mod forest;
pub mod isolation;

pub mod candidate;
pub mod compare;
pub mod trial;
pub mod publication;

pub mod baselines;

mod schedule;
mod known;
mod verdicts;
mod documents;
mod beside;
mod answer;
mod look;
mod events;
mod open;
mod decided;
mod owner;
pub mod stage;

pub mod anomaly;

pub mod diagnosis;
pub mod plots;
