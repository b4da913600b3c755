//! Faults on real servers, from seeds: what happens is a function of the seed as far as a machine allows, and is told when the log
//! does not keep its promise.
//!
//! `script/chaos NAME --seed S --count N` runs any of it.

mod brokers;
pub(crate) mod campaign;
pub(crate) mod check;
mod elections;
mod flow;
mod kafka;
mod kills;
mod late_end;
mod network;
mod operators;
mod overload;
mod poison;
mod soak;
mod strikes;
mod trainings;
mod watchers;
mod zombies;
