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

mod answer;
mod documents;
pub mod stage;

pub mod anomaly;

pub mod diagnosis;
pub mod plots;
