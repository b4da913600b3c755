//! The integration tests: one binary, so that all of them share one broker and one replica set.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

mod audit;
mod backfill;
mod chaos;
mod circle;
mod closed_loop;
mod command;
mod e2e;
mod full_disk;
mod golden;
mod hostile;
mod hostile_live;
mod kubernetes;
mod layers;
mod judge_year;
mod log_contract;
mod mlflow;
mod registry_contract;
mod registry_faults;
mod registry_local;
mod registry_mlflow;
mod schemas;
mod serve_hardening;
mod serve_load;
mod serve_openapi;
mod servers;
mod specs;
mod strangers;
mod tail_faults;
mod tail_gap;
mod tail_group;
mod tail_mongo;
mod topics;
mod train;
mod train_flights;
mod train_servers;
mod train_stage;
mod trigger_documents;
mod webhook;
