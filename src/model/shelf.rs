//! The versions of the duration model that a stage has at hand: fetched once from the registry, by number and hash.
//!
//! A stage asks and goes on; a thread fetches meanwhile. A version that cannot be had is asked for again, and no other ever
//! stands in for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::duration::{DurationModel, MODEL_FILE};
use super::onnx::MAX_BYTES;
use crate::registry::Registry;
use crate::spec::Spec;

/// How long until a version that could not be had is asked for again.
const AGAIN: Duration = Duration::from_secs(2);
/// Versions that are kept in memory; an older one is fetched again from the disk.
const KEPT: usize = 8;

/// One version of a model, named so that nothing else can stand in for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelRef {
    /// Name in the registry.
    pub name: String,
    /// Version there, from 1.
    pub version: u64,
    /// SHA-256 of [`MODEL_FILE`], hex.
    pub sha256: String,
}

impl ModelRef {
    /// Names a model by its file.
    #[must_use]
    pub fn of(name: &str, version: u64, file: &[u8]) -> Self {
        Self { name: name.to_owned(), version, sha256: hex(&Sha256::digest(file)) }
    }

    /// Returns the name of its series of predictions.
    #[must_use]
    pub fn series(&self) -> String {
        format!("v{}", self.version)
    }
}

enum Place {
    Here(Arc<DurationModel>),
    Coming(Receiver<Result<DurationModel, String>>),
    Failed { reason: String, at: Instant },
}

/// The shelf. Cloned freely.
#[derive(Clone)]
pub struct Shelf {
    registry: Option<Arc<dyn Registry>>,
    spec: Arc<Spec>,
    folder: Option<PathBuf>,
    places: Arc<Mutex<BTreeMap<ModelRef, Place>>>,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shelf")
    }
}

impl Shelf {
    /// Makes a shelf of `registry`'s models. Files are kept in `folder`, too, where there is one.
    #[must_use]
    pub fn new(registry: Option<Arc<dyn Registry>>, spec: &Arc<Spec>, folder: Option<PathBuf>) -> Self {
        Self { registry, spec: Arc::clone(spec), folder, places: Arc::default() }
    }

    /// Returns the model if it is here; else why not yet, while a thread fetches it.
    ///
    /// # Errors
    /// What is waited for, in words.
    pub fn get(&self, wanted: &ModelRef) -> Result<Arc<DurationModel>, String> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get_mut(wanted) {
            if let Place::Coming(coming) = place {
                match coming.try_recv() {
                    Err(TryRecvError::Empty) => return Err(format!("model {} version {} is being fetched", wanted.name, wanted.version)),
                    Err(TryRecvError::Disconnected) => {
                        *place = Place::Failed { reason: "fetching it failed".to_owned(), at: Instant::now() }
                    }
                    Ok(Ok(model)) => *place = Place::Here(Arc::new(model)),
                    Ok(Err(reason)) => {
                        tracing::warn!(model = wanted.name, version = wanted.version, %reason, "a model cannot be had");
                        *place = Place::Failed { reason, at: Instant::now() };
                    }
                }
            }
            match place {
                Place::Here(model) => return Ok(Arc::clone(model)),
                Place::Failed { reason, at } if at.elapsed() < AGAIN => {
                    return Err(format!("model {} version {} cannot be had: {reason}", wanted.name, wanted.version));
                }
                Place::Failed { .. } | Place::Coming(_) => {}
            }
        }
        if places.len() >= KEPT
            && let Some(oldest) = places.keys().find(|known| *known != wanted).cloned()
        {
            places.remove(&oldest);
        }
        let (send, coming) = channel();
        let (shelf, what) = (self.clone(), wanted.clone());
        let fetch = move || {
            // Nobody waits any more when the shelf is gone.
            let _unheard = send.send(shelf.fetch(&what));
        };
        let place = match std::thread::Builder::new().name("fetch-model".to_owned()).spawn(fetch) {
            Ok(_) => Place::Coming(coming),
            Err(error) => Place::Failed { reason: error.to_string(), at: Instant::now() },
        };
        places.insert(wanted.clone(), place);
        Err(format!("model {} version {} is being fetched", wanted.name, wanted.version))
    }

    /// Puts a model on the shelf that is at hand already.
    pub fn put(&self, named: ModelRef, model: Arc<DurationModel>) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).insert(named, Place::Here(model));
    }

    /// Waits for a model, as commands and trainings do.
    ///
    /// # Errors
    /// Why it cannot be had, in words.
    pub fn fetch(&self, wanted: &ModelRef) -> Result<DurationModel, String> {
        let kept = self.folder.as_ref().map(|folder| folder.join(format!("{}.onnx", wanted.sha256)));
        if let Some(bytes) = kept.as_ref().and_then(|file| std::fs::read(file).ok())
            && hex(&Sha256::digest(&bytes)) == wanted.sha256
        {
            return DurationModel::from_bytes(&bytes, &self.spec).map_err(|error| error.to_string());
        }
        let Some(registry) = &self.registry else {
            return Err("no registry is configured: set MLFLOW_TRACKING_URI or registry.directory".to_owned());
        };
        let files = registry.load(&wanted.name, wanted.version, &[MODEL_FILE], MAX_BYTES as u64);
        let bytes = files.map_err(|error| error.to_string())?.remove(MODEL_FILE).unwrap_or_default();
        let found = hex(&Sha256::digest(&bytes));
        if found != wanted.sha256 {
            return Err(format!("its file has SHA-256 {found}, the baseline names {}", wanted.sha256));
        }
        let model = DurationModel::from_bytes(&bytes, &self.spec).map_err(|error| error.to_string())?;
        if let Some(file) = kept
            && let Err(error) = keep(&file, &bytes)
        {
            tracing::warn!(file = %file.display(), %error, "a model cannot be kept on disk; it will be fetched again");
        }
        Ok(model)
    }
}

fn keep(file: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let written = file.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&written, bytes)?;
    std::fs::rename(written, file)
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::duration::tests::constant;
    use crate::registry::{LocalRegistry, Publication};

    fn spec() -> Arc<Spec> {
        Arc::new(Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap())
    }

    fn published(folder: &std::path::Path, spec: &Spec) -> (Arc<dyn Registry>, ModelRef) {
        let registry = LocalRegistry::new(folder);
        let file = constant(spec, 5_000.0).to_bytes("duration_ms").unwrap();
        let publication = Publication {
            model: "m".into(),
            model_description: String::new(),
            key: "k".into(),
            run_name: "r".into(),
            start_ms: 0,
            end_ms: 1,
            params: BTreeMap::new(),
            metrics: BTreeMap::new(),
            tags: BTreeMap::new(),
            description: String::new(),
            lineage: crate::registry::Lineage::default(),
            artifacts: BTreeMap::from([(MODEL_FILE.to_owned(), file.clone())]),
        };
        let version = registry.publish(&publication).unwrap().version;
        (Arc::new(registry), ModelRef::of("m", version, &file))
    }

    #[test]
    fn a_model_is_waited_for_and_then_here_and_on_disk() {
        let (folder, spec) = (tempfile::tempdir().unwrap(), spec());
        let (registry, wanted) = published(folder.path(), &spec);
        let cache = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(Some(registry), &spec, Some(cache.path().to_owned()));
        let begun = Instant::now();
        while shelf.get(&wanted).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30));
            std::thread::yield_now();
        }
        let without_registry = Shelf::new(None, &spec, Some(cache.path().to_owned()));
        assert!(without_registry.fetch(&wanted).is_ok());
    }

    #[test]
    fn no_other_file_stands_in_for_the_one_that_is_named() {
        let (folder, spec) = (tempfile::tempdir().unwrap(), spec());
        let (registry, wanted) = published(folder.path(), &spec);
        let shelf = Shelf::new(Some(registry), &spec, None);
        let other = ModelRef { sha256: "0".repeat(64), ..wanted };
        assert!(shelf.fetch(&other).unwrap_err().contains("the baseline names"));
    }
}
