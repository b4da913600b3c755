//! Tidemark watches models whose right answers arrive later.
//!
//! ```text
//!  MongoDB change stream ─► tail ─► tickets ─► watch ─► prediction-errors
//!    (or a replayed file)   │ ▲       (log)     │  └──► summaries ─► judge ─► alerts, status, retraining-triggers
//!                           │ └─ baselines, model-events
//!                           ├► positions
//!                           └► dead-letters
//! ```
//!
//! The modules follow the flow: shared words first, then the seam to the log, then the stages, then the rim.

pub mod clock;
pub mod threads;
pub mod config;
pub mod fault;
pub mod metrics;
pub mod model_event;
pub mod spec;
pub mod ticket;
pub mod topics;

pub mod log;

pub mod baseline;
mod baseline_topic;
pub mod summary;

pub mod cloudevent;

pub mod model;
pub mod registry;

pub mod alert;
pub mod trigger;

pub mod status;

pub mod stage;

pub mod tail;

pub mod history;

pub mod features;
pub mod window;

pub mod drift;

pub mod judge;
pub mod watch;

pub mod train;

pub mod backfill;

pub mod audit;

pub mod check;
pub mod quiet;

pub(crate) mod outbox;
pub mod trigger_documents;
pub mod webhook;

pub mod serve;

pub mod pipeline;

pub mod cli;
