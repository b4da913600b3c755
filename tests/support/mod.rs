//! What integration tests stand on: real servers, started when first asked for and shared by the whole binary.

pub(crate) mod cable;
pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod cutter;
mod deployment;
pub(crate) mod disturbed;
pub(crate) mod flights;
pub(crate) mod guarded_kafka;
pub(crate) mod guarded_mlflow;
pub(crate) mod guarded_mongo;
pub(crate) mod hostile;
pub(crate) mod kafka;
pub(crate) mod late_end;
pub(crate) mod meddling;
pub(crate) mod mlflow;
pub(crate) mod models;
pub(crate) mod mongo;
pub(crate) mod parcels;
pub(crate) mod poison;
pub(crate) mod predictor;
pub(crate) mod process;
pub(crate) mod publications;
pub(crate) mod replica_set;
pub(crate) mod schemas;
pub(crate) mod stub;

pub(crate) use deployment::{Deployment, Process, Seen};
pub(crate) use kafka::{Kafka, kafka};
pub(crate) use mlflow::mlflow;
pub(crate) use mongo::{Mongo, mongo};
pub(crate) use process::wait_until;
