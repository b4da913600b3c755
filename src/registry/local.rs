//! The registry as a directory: for one machine, without a server, readable by a person.
//!
//! ```text
//! <root>/<model>/model.json           what it is, which version is in Production, the newest number
//! <root>/<model>/<version>/meta.json  key, run, parameters, metrics, tags
//! <root>/<model>/<version>/…          the files
//! <root>/<model>/.lock                held by whoever changes something; released by the system when a process dies
//! ```
//! A version is made in a folder `.new` and renamed when all of it is on disk; a JSON file is replaced by renaming. So a
//! crash leaves the state before or the state after, and perhaps a `.new…`, which the next writer takes away. Readers take
//! no lock. Setting `production` in `model.json` by hand is a way to promote.

mod disk;
mod page;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::stamp::{self, KEY, REASON, Stamp};
use super::{PRODUCTION, Publication, Published, Registry, RegistryError, Stage, Version, admit};
use crate::clock::now_ms;
use disk::failed;
use page::{Meta, Model};

/// Where a version is made.
const NEW: &str = ".new";
/// The lock's file.
const LOCK: &str = ".lock";

/// A directory that holds models.
#[derive(Clone, Debug)]
pub struct LocalRegistry {
    root: PathBuf,
}

impl LocalRegistry {
    /// Uses `root`, which is created with the first publication.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn attempt(&self, what: &str, model: &str) -> String {
        format!("{what} {model} in the registry {}", self.root.display())
    }

    /// Keeps every other writer of the model out until the file is dropped.
    fn lock(&self, attempted: &str, model: &str) -> Result<File, RegistryError> {
        let path = self.root.join(model).join(LOCK);
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| failed(attempted, &path, &error))?;
        file.lock().map_err(|error| failed(attempted, &path, &error))?;
        Ok(file)
    }

    /// Like [`Self::lock`], for a version that must be there.
    fn lock_version(&self, attempted: &str, model: &str, version: u64) -> Result<(File, PathBuf, Meta), RegistryError> {
        let folder = self.root.join(model).join(version.to_string());
        if !folder.is_dir() {
            return Err(no_version(attempted, version));
        }
        let lock = self.lock(attempted, model)?;
        let meta = Meta::read(attempted, &folder)?;
        Ok((lock, folder, meta))
    }
}

impl Registry for LocalRegistry {
    fn publish(&self, publication: &Publication) -> Result<Published, RegistryError> {
        let attempted = self.attempt("publishing", &publication.model);
        admit::publication(&attempted, publication)?;
        let folder = self.root.join(&publication.model);
        disk::create_folder(&attempted, &folder)?;
        let _lock = self.lock(&attempted, &publication.model)?;
        // Writers hold the lock: what lies about is of a process that died.
        disk::remove_leftovers(&attempted, &folder, NEW)?;

        let mut model = Model::read(&attempted, &folder)?;
        let numbers = numbers(&attempted, &folder)?;
        for &number in &numbers {
            let version = folder.join(number.to_string());
            let meta = Meta::read(&attempted, &version)?;
            if meta.tags.get(KEY) == Some(&publication.key) {
                repair(&attempted, &version, &meta, publication)?;
                return Ok(Published { version: number, run_id: meta.run_id });
            }
        }

        // The newest number is kept apart from the folders: a person may have deleted the newest folder.
        let number = numbers.last().copied().unwrap_or(0).max(model.newest).max(model.production.unwrap_or(0)) + 1;
        let meta = Meta::of(publication, now_ms());
        let new = folder.join(NEW);
        // Side by side: the disk answers several syncs at once in little more than the time of one.
        publication.artifacts.par_iter().try_for_each(|(path, bytes)| disk::write(&attempted, &new.join(path), bytes))?;
        meta.write(&attempted, &new)?;
        disk::sync_folders(&attempted, &new)?;
        disk::rename(&attempted, &new, &folder.join(number.to_string()))?;
        model.newest = number;
        if model.description.is_empty() {
            model.description.clone_from(&publication.model_description);
        }
        model.write(&attempted, &folder)?;
        Ok(Published { version: number, run_id: meta.run_id })
    }

    fn versions(&self, model: &str) -> Result<Vec<Version>, RegistryError> {
        let attempted = self.attempt("listing the versions of", model);
        admit::model(&attempted, model)?;
        let folder = self.root.join(model);
        let production = Model::read(&attempted, &folder)?.production;
        let mut versions = Vec::new();
        for number in numbers(&attempted, &folder)? {
            let meta = Meta::read(&attempted, &folder.join(number.to_string()))?;
            let (stage, aliases) = match production {
                Some(promoted) if promoted == number => (Stage::Production, vec![PRODUCTION.to_owned()]),
                _ if meta.tags.contains_key(REASON) => (Stage::Archived, Vec::new()),
                _ => (Stage::None, Vec::new()),
            };
            versions.push(Version {
                number,
                stage,
                aliases,
                tags: meta.tags,
                description: meta.description,
                created_ms: meta.created_ms,
                run_id: Some(meta.run_id),
            });
        }
        Ok(versions)
    }

    fn production(&self, model: &str) -> Result<Option<u64>, RegistryError> {
        let attempted = self.attempt("reading what is in Production of", model);
        admit::model(&attempted, model)?;
        Ok(Model::read(&attempted, &self.root.join(model))?.production)
    }

    fn promote(&self, model: &str, version: u64, reason: &str) -> Result<(), RegistryError> {
        let attempted = self.attempt(&format!("promoting version {version} of"), model);
        admit::model(&attempted, model)?;
        let (_lock, folder, mut meta) = self.lock_version(&attempted, model, version)?;
        let above = self.root.join(model);
        let mut page = Model::read(&attempted, &above)?;
        page.production = Some(version);
        reason.clone_into(&mut page.reason);
        page.write(&attempted, &above)?;
        meta.tags.insert(REASON.to_owned(), reason.to_owned());
        meta.write(&attempted, &folder)
    }

    fn set_tag(&self, model: &str, version: u64, key: &str, value: &str) -> Result<(), RegistryError> {
        let attempted = self.attempt(&format!("tagging version {version} of"), model);
        admit::model(&attempted, model)?;
        admit::tag(&attempted, key)?;
        let (_lock, folder, mut meta) = self.lock_version(&attempted, model, version)?;
        meta.tags.insert(key.to_owned(), value.to_owned());
        meta.write(&attempted, &folder)
    }

    fn load(&self, model: &str, version: u64, paths: &[&str], limit_bytes: u64) -> Result<BTreeMap<String, Vec<u8>>, RegistryError> {
        let attempted = self.attempt(&format!("loading version {version} of"), model);
        admit::model(&attempted, model)?;
        let folder = self.root.join(model).join(version.to_string());
        if !folder.is_dir() {
            return Err(no_version(&attempted, version));
        }
        let meta = Meta::read(&attempted, &folder)?;
        let mut files = BTreeMap::new();
        let mut left = limit_bytes;
        for &path in paths {
            admit::loadable(&attempted, path)?;
            let expected = stamp::expected(&attempted, &meta.tags, path)?;
            let bytes = disk::read_up_to(&attempted, &folder.join(path), left)?;
            stamp::verify(&attempted, path, &bytes, expected)?;
            left = left.saturating_sub(bytes.len() as u64);
            files.insert(path.to_owned(), bytes);
        }
        Ok(files)
    }
}

/// Puts back files of a version that are gone or cut short, if this publication holds the same.
fn repair(attempted: &str, version: &Path, meta: &Meta, publication: &Publication) -> Result<(), RegistryError> {
    let same = meta.tags.get(stamp::CONTENT) == Some(&Stamp::of(publication).content);
    if same {
        for (path, bytes) in &publication.artifacts {
            let there = fs::metadata(version.join(path)).is_ok_and(|file| file.len() == bytes.len() as u64);
            if !there {
                disk::replace(attempted, &version.join(path), bytes)?;
            }
        }
        return disk::sync_folders(attempted, version);
    }
    let Some(gone) = stamp::stamped(&meta.tags).find(|path| !version.join(path).is_file()) else { return Ok(()) };
    Err(RegistryError::corrupt(
        attempted,
        format!("{} lacks {gone}, and what is published now is not the same; delete that folder, then publish again", version.display()),
    ))
}

/// Returns the numbers of a model's versions, ascending.
fn numbers(attempted: &str, folder: &Path) -> Result<Vec<u64>, RegistryError> {
    // Only names that a number would be given: `007` is a person's copy.
    let number = |name: &str| name.parse::<u64>().ok().filter(|number| number.to_string() == name);
    let mut numbers: Vec<u64> = disk::names(attempted, folder)?.iter().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn no_version(attempted: &str, version: u64) -> RegistryError {
    RegistryError::not_found(attempted, format!("there is no version {version}; `tidemark models list` shows what there is"))
}
