//! The two JSON files that a person finds in a local registry.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::disk;
use crate::registry::admit::META;
use crate::registry::stamp::{self, Stamp};
use crate::registry::{Publication, RegistryError};

const MODEL: &str = "model.json";

/// `model.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Model {
    pub(super) description: String,
    /// The version in Production.
    pub(super) production: Option<u64>,
    /// Why it is.
    #[serde(default)]
    pub(super) reason: String,
    /// The highest number that was given to a version.
    pub(super) newest: u64,
}

impl Model {
    /// Reads it; a model that nobody has published has an empty one.
    pub(super) fn read(attempted: &str, folder: &Path) -> Result<Self, RegistryError> {
        Ok(read(attempted, &folder.join(MODEL))?.unwrap_or_default())
    }

    pub(super) fn write(&self, attempted: &str, folder: &Path) -> Result<(), RegistryError> {
        disk::replace(attempted, &folder.join(MODEL), &text(self))
    }
}

/// `meta.json` of a version.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) run_id: String,
    pub(super) run_name: String,
    pub(super) description: String,
    pub(super) created_ms: i64,
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    pub(super) params: BTreeMap<String, String>,
    pub(super) metrics: BTreeMap<String, Value>,
    pub(super) tags: BTreeMap<String, String>,
}

impl Meta {
    /// Describes a publication. Its run's id is a function of model and key.
    pub(super) fn of(publication: &Publication, created_ms: i64) -> Self {
        let identity = stamp::sha256(format!("{}\n{}", publication.model, publication.key).as_bytes());
        Self {
            run_id: identity[..32].to_owned(),
            run_name: publication.run_name.clone(),
            description: publication.description.clone(),
            created_ms,
            start_ms: publication.start_ms,
            end_ms: publication.end_ms,
            params: publication.params.clone(),
            metrics: publication.metrics.iter().map(|(name, value)| (name.clone(), stamp::number(*value))).collect(),
            tags: Stamp::of(publication).version_tags,
        }
    }

    pub(super) fn read(attempted: &str, version: &Path) -> Result<Self, RegistryError> {
        let path = version.join(META);
        read(attempted, &path)?
            .ok_or_else(|| RegistryError::corrupt(attempted, format!("{} is gone; move its folder away", path.display())))
    }

    pub(super) fn write(&self, attempted: &str, version: &Path) -> Result<(), RegistryError> {
        disk::replace(attempted, &version.join(META), &text(self))
    }
}

fn read<T: DeserializeOwned>(attempted: &str, path: &Path) -> Result<Option<T>, RegistryError> {
    let Some(bytes) = disk::read(attempted, path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| RegistryError::corrupt(attempted, format!("{} is not as it was written: {error}; repair it", path.display())))
}

fn text(page: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(page).expect("texts and numbers have a JSON form");
    text.push(b'\n');
    text
}
