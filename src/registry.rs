//! The registry of models: one seam over MLflow and over a plain directory.
//!
//! What is *published* is one candidate of one training: files, numbers and where they come from, under a key that makes
//! it happen once. What is *promoted* is one version of a model; everybody who loads "Production" gets that one. Versions
//! are numbered from 1, per model; a number is never given to a second version.
//!
//! What an implementation promises:
//! - **Once.** After [`Registry::publish`] returned, there is one version with that key, and every further publication
//!   with the key returns its numbers, whoever makes it and whatever it holds. A call that failed or was killed at any
//!   point is repaired by the next one.
//! - **Durable.** What a call has returned survives a crash of this process, and of the machine when the store's own
//!   writes do.
//! - **Whole.** A version that can be seen has all its files, and [`Registry::load`] gives bytes only if they are those
//!   that were published.
//! - **Others may move Production.** [`Registry::production`] sees it at the next call, by the rule in `registry/production.rs`.
//!
//! Methods block. They belong on a thread of their own, never inside an async runtime.

pub mod layout;
pub mod local;
pub mod mlflow;

mod admit;
mod error;
mod production;
mod stamp;

use std::collections::BTreeMap;

pub use error::RegistryError;
pub use local::LocalRegistry;
pub use mlflow::{MlflowRegistry, MlflowSettings};

/// The alias, and the stage, that readers follow.
pub const PRODUCTION: &str = "Production";

/// Tag of a version: the number of the version that it took Production from.
pub const BEFORE: &str = "tidemark.before";

/// Puts a version into Production and notes on it which one it takes the place of; returns that one. Repeating it is harmless.
///
/// The note comes first: a promotion that is cut off can still be rolled back.
///
/// # Errors
/// As [`Registry::promote`].
pub fn put_into_production(registry: &dyn Registry, model: &str, version: u64, reason: &str) -> Result<Option<u64>, RegistryError> {
    let before = registry.production(model)?.filter(|before| *before != version);
    if let Some(before) = before {
        registry.set_tag(model, version, BEFORE, &before.to_string())?;
    }
    registry.promote(model, version, reason)?;
    Ok(before)
}

/// Where models are kept. The contract is in the module's documentation.
pub trait Registry: Send + Sync {
    /// Stores a candidate as a new version, or finds the one that its key already made.
    ///
    /// When two publish one key at once, both get the same version; a second one that came into being is taken away
    /// before either call returns.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] when a name, key or path is not admitted; [`RegistryError::Corrupt`] when the key's
    /// version has lost files that this publication cannot replace; else as the store fails.
    fn publish(&self, publication: &Publication) -> Result<Published, RegistryError>;

    /// Returns every version of a model by ascending number; none when nobody has published the model.
    ///
    /// # Errors
    /// As the store fails.
    fn versions(&self, model: &str) -> Result<Vec<Version>, RegistryError>;

    /// Returns the number of the version in Production, if there is one.
    ///
    /// # Errors
    /// As the store fails.
    fn production(&self, model: &str) -> Result<Option<u64>, RegistryError>;

    /// Puts a version into Production and archives the former one. An older version is a rollback. Repeating it is harmless.
    ///
    /// One process at a time promotes versions of one model (its train stage, or a person); readers may be many.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when there is no such version; else as the store fails.
    fn promote(&self, model: &str, version: u64, reason: &str) -> Result<(), RegistryError>;

    /// Writes a tag of a version, over its former value.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when there is no such version; [`RegistryError::Invalid`] for a tag that the registry
    /// itself depends on; else as the store fails.
    fn set_tag(&self, model: &str, version: u64, key: &str, value: &str) -> Result<(), RegistryError>;

    /// Returns the bytes of files below `model/`, by path, each held against its published SHA-256.
    ///
    /// - Unit: `limit_bytes` bounds the sum of the files' bytes.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when there is no such version; [`RegistryError::Corrupt`] when a file is gone, is not
    /// what was published, was never published by this program, or passes the limit; else as the store fails.
    fn load(&self, model: &str, version: u64, paths: &[&str], limit_bytes: u64) -> Result<BTreeMap<String, Vec<u8>>, RegistryError>;
}

/// One candidate, as a training hands it over.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// Name of the model: letters, digits, `.`, `_`, `-`; at most 200.
    pub model: String,
    /// What the model is, in words; kept from the first publication on.
    pub model_description: String,
    /// What makes it happen once: id of the trigger and name of the candidate. Visible ASCII without quotes and backslash.
    pub key: String,
    /// Name of the run.
    pub run_name: String,
    /// When the training began, ms since 1970.
    pub start_ms: i64,
    /// When it ended, ms since 1970.
    pub end_ms: i64,
    /// Parameters.
    pub params: BTreeMap<String, String>,
    /// Metrics; a value that is not finite is kept as such.
    pub metrics: BTreeMap<String, f64>,
    /// Further tags, of run and version.
    pub tags: BTreeMap<String, String>,
    /// What this version is, in words.
    pub description: String,
    /// What it was made from.
    pub lineage: Lineage,
    /// Files by path (`model/model.onnx`, `report.json`). Segments are letters, digits, `.`, `_`, `-` and space.
    pub artifacts: BTreeMap<String, Vec<u8>>,
}

/// What a version was made from. Spans are half open, ms since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Begin and end of the rows that were trained on.
    pub data_ms: (i64, i64),
    /// Begin and end of the rows that were held out.
    pub holdout_ms: (i64, i64),
    /// Version of the baseline that raised the trigger.
    pub baseline: Option<String>,
    /// Onset of the drift, ms since 1970, when a drift was the reason.
    pub onset_ms: Option<i64>,
}

/// Where a publication stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Number of the version.
    pub version: u64,
    /// Id of its run.
    pub run_id: String,
}

/// One version, as the registry shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its number, from 1.
    pub number: u64,
    /// Its stage.
    pub stage: Stage,
    /// Its aliases.
    pub aliases: Vec<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// What it is, in words.
    pub description: String,
    /// When it was made, ms since 1970, by the store's clock.
    pub created_ms: i64,
    /// Its run, unless somebody made it without one.
    pub run_id: Option<String>,
}

/// Stage of a version, in MLflow's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Registered, never promoted.
    None,
    /// Staging: written by others only.
    Staging,
    /// In Production.
    Production,
    /// Was in Production once.
    Archived,
}
