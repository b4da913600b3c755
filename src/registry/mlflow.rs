//! The registry in MLflow, 2 or 3, through its REST interface.
//!
//! A publication is a run and a version whose source is the run's `model/` folder. The order is what makes it whole: the
//! run is created with the key's tag, filled and closed; the version is created last, with the hashes. A call that dies
//! leaves a run without a version, which the next one with the same content continues, and one with other content
//! replaces.
//!
//! Two that publish one key at once may both create a version. Each searches by the key's tag *after* it has created: the
//! lower number stays, the higher one is deleted before its creator returns, so nobody has been told of it. (MLflow
//! gives a deleted number to no other version. A version that somebody put into use in between is kept.)
//!
//! Which version is in Production is read from stage, alias and the tag of the last promotion, see the rule in
//! `production.rs`.

mod artifacts;
mod http;
mod runs;
mod versions;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;

use super::stamp::{self, CONTENT, REASON, Stamp, WRITTEN};
use super::{PRODUCTION, Publication, Published, Registry, RegistryError, Version, admit, production};
use artifacts::Artifacts;
use http::{Http, encoded};
use wire::{Model, ModelAnswer, ModelVersion, Nothing};

/// Publications of a key that may cross ours before we give up.
const ROUNDS: u32 = 3;
/// Versions, the last changed first, among which one that was moved by hand is looked for.
const LOOKED_AT: u32 = 200;

/// Where MLflow is, and who we are there.
#[derive(Clone, Debug)]
pub struct MlflowSettings {
    /// `MLFLOW_TRACKING_URI`: `http(s)://host:port`; may hold user and password.
    pub tracking_uri: SecretString,
    /// `MLFLOW_EXPERIMENT_NAME`; created when it is missing.
    pub experiment: String,
    /// `MLFLOW_TRACKING_TOKEN`, sent as bearer; goes before user and password.
    pub token: Option<SecretString>,
    /// `MLFLOW_TRACKING_USERNAME`; goes before the address's.
    pub username: Option<String>,
    /// `MLFLOW_TRACKING_PASSWORD`.
    pub password: Option<SecretString>,
    /// `MLFLOW_TRACKING_SERVER_CERT_PATH`: a PEM file of the authorities that may vouch for the server, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Time in which one request has to be answered; ten times that for a file.
    pub timeout: Duration,
    /// Pause before the second of three tries; four times that before the third.
    pub pause: Duration,
}

impl MlflowSettings {
    /// Returns settings with everything else at its default: no credentials, 30 s, 0.5 s.
    #[must_use]
    pub fn new(tracking_uri: SecretString, experiment: impl Into<String>) -> Self {
        Self {
            tracking_uri,
            experiment: experiment.into(),
            token: None,
            username: None,
            password: None,
            ca_file: None,
            timeout: Duration::from_secs(30),
            pause: Duration::from_millis(500),
        }
    }
}

/// A tracking server with its model registry.
pub struct MlflowRegistry {
    http: Http,
    experiment: String,
}

impl std::fmt::Debug for MlflowRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MlflowRegistry")
            .field("address", &self.http.address())
            .field("experiment", &self.experiment)
            .finish_non_exhaustive()
    }
}

impl MlflowRegistry {
    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] when the address is none, or the file of authorities cannot be used.
    pub fn new(settings: &MlflowSettings) -> Result<Self, RegistryError> {
        Ok(Self { http: Http::new(settings)?, experiment: settings.experiment.clone() })
    }

    /// Asks for one experiment, as a training will: a server's health is open to everybody, its experiments are not. Returns whether
    /// there is one.
    ///
    /// # Errors
    /// [`RegistryError`], also for a server that answers something else than experiments.
    pub fn has_experiments(&self) -> Result<bool, RegistryError> {
        let attempted = format!("looking for experiments in MLflow at {}", self.http.address());
        let answer = self.http.post_for_text(&attempted, "/api/2.0/mlflow/experiments/search", &json!({ "max_results": 1 }))?;
        wire::has_experiments(&answer).ok_or_else(|| {
            let start: String = answer.chars().take(60).collect();
            let reason = format!("{} answered {start:?}, which is no list of experiments", self.http.address());
            RegistryError::unavailable(&attempted, format!("{reason}; is this an MLflow tracking server?"))
        })
    }

    fn attempt(&self, what: &str, model: &str) -> String {
        format!("{what} {model} in MLflow at {}", self.http.address())
    }

    fn publish_once(&self, attempted: &str, publication: &Publication, stamp: &Stamp) -> Result<Published, RegistryError> {
        let http = &self.http;
        if let Some(version) = versions::settle(attempted, http, publication)? {
            return self.complete(attempted, &version, publication, stamp);
        }
        versions::create_model(attempted, http, publication)?;
        let experiment = runs::experiment(attempted, http, &self.experiment)?;
        let run = runs::find_or_create(attempted, http, &experiment, publication, stamp)?;
        runs::fill(attempted, http, &run, publication, stamp)?;
        versions::create(attempted, http, &run, publication, stamp)?;
        let settled = versions::settle(attempted, http, publication)?;
        let version =
            settled.ok_or_else(|| RegistryError::conflict(attempted, "the version was deleted while it was published; try again"))?;
        versions::wait_until_ready(attempted, http, &publication.model, version.version)?;
        runs::tidy(attempted, http, &experiment, &publication.key, &version.run_id)?;
        Ok(Published { version: version.version, run_id: version.run_id })
    }

    /// Puts back files that a version has lost, if this publication holds the same.
    fn complete(
        &self,
        attempted: &str,
        version: &ModelVersion,
        publication: &Publication,
        stamp: &Stamp,
    ) -> Result<Published, RegistryError> {
        versions::wait_until_ready(attempted, &self.http, &publication.model, version.version)?;
        let artifacts = Artifacts::of_model(attempted, &self.http, &version.source)?;
        let sizes = artifacts.sizes(attempted)?;
        let tags = version.tags();
        if tags.get(CONTENT) == Some(&stamp.content) {
            for (path, bytes) in &publication.artifacts {
                if sizes.get(path) != Some(&(bytes.len() as u64)) {
                    artifacts.upload(attempted, path, bytes)?;
                }
            }
        } else if let Some(gone) = stamp::stamped(&tags).find(|&path| !sizes.contains_key(path)) {
            return Err(RegistryError::corrupt(
                attempted,
                format!(
                    "version {} lacks {gone}, and what is published now is not the same; delete that version, then publish again",
                    version.version
                ),
            ));
        }
        // Whoever made the version may have died before it took away what else there was.
        match runs::get(attempted, &self.http, &version.run_id) {
            Ok(run) => runs::tidy(attempted, &self.http, &run.info.experiment_id, &publication.key, &version.run_id)?,
            Err(RegistryError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(Published { version: version.version, run_id: version.run_id.clone() })
    }

    /// Returns the registered model, if there is one.
    fn model(&self, attempted: &str, model: &str) -> Result<Option<Model>, RegistryError> {
        let path = format!("/api/2.0/mlflow/registered-models/get?name={}", encoded(model));
        match self.http.get::<ModelAnswer>(attempted, &path) {
            Ok(answer) => Ok(Some(answer.registered_model)),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write_tag(&self, attempted: &str, model: &str, version: u64, key: &str, value: &str) -> Result<(), RegistryError> {
        let value = wire::cut(value, wire::TAG_CHARACTERS);
        let body = json!({ "name": model, "version": version.to_string(), "key": key, "value": value });
        self.http.post::<Nothing>(attempted, "/api/2.0/mlflow/model-versions/set-tag", &body).map(drop)
    }
}

impl Registry for MlflowRegistry {
    fn publish(&self, publication: &Publication) -> Result<Published, RegistryError> {
        let attempted = self.attempt("publishing", &publication.model);
        admit::publication(&attempted, publication)?;
        let stamp = Stamp::of(publication);
        let mut round = 1;
        loop {
            match self.publish_once(&attempted, publication, &stamp) {
                // Another one published this key and took our run away: now its version is found.
                Err(RegistryError::Conflict { .. }) if round < ROUNDS => round += 1,
                ended => return ended,
            }
        }
    }

    fn versions(&self, model: &str) -> Result<Vec<Version>, RegistryError> {
        let attempted = self.attempt("listing the versions of", model);
        admit::model(&attempted, model)?;
        let Some(page) = self.model(&attempted, model)? else { return Ok(Vec::new()) };
        let found = versions::search(&attempted, &self.http, &format!("name = '{model}'"))?;
        let version = |found: ModelVersion| Version {
            number: found.version,
            stage: found.stage(),
            aliases: page.aliases.iter().filter(|alias| alias.version == found.version).map(|alias| alias.alias.clone()).collect(),
            tags: found.tags(),
            description: found.description,
            created_ms: found.creation_timestamp,
            run_id: Some(found.run_id).filter(|id| !id.is_empty()),
        };
        Ok(found.into_iter().map(version).collect())
    }

    fn production(&self, model: &str) -> Result<Option<u64>, RegistryError> {
        let attempted = self.attempt("reading what is in Production of", model);
        admit::model(&attempted, model)?;
        let Some(page) = self.model(&attempted, model)? else { return Ok(None) };
        let written = page.tag(WRITTEN).and_then(|number| number.parse().ok());
        // A version that is moved counts as changed, so it is among the first even if there are thousands.
        let changed = versions::last_changed(&attempted, &self.http, model, LOOKED_AT)?;
        let mut staged: Vec<_> = changed.iter().filter_map(ModelVersion::staged).collect();
        let alias = page.alias(PRODUCTION);
        // The one that we promoted may have been followed by hundreds of candidates since.
        if let Some(number) = written.filter(|&number| staged.is_empty() && alias != Some(number)) {
            match versions::get(&attempted, &self.http, model, number) {
                Ok(version) => staged.extend(version.staged()),
                Err(RegistryError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(production::decide(written, alias, &staged))
    }

    fn promote(&self, model: &str, version: u64, reason: &str) -> Result<(), RegistryError> {
        let attempted = self.attempt(&format!("promoting version {version} of"), model);
        admit::model(&attempted, model)?;
        let http = &self.http;
        let number = version.to_string();
        let stage = json!({ "name": model, "version": number, "stage": PRODUCTION, "archive_existing_versions": true });
        http.post::<Nothing>(&attempted, "/api/2.0/mlflow/model-versions/transition-stage", &stage)?;
        let alias = json!({ "name": model, "alias": PRODUCTION, "version": number });
        http.post::<Nothing>(&attempted, "/api/2.0/mlflow/registered-models/alias", &alias)?;
        self.write_tag(&attempted, model, version, REASON, reason)?;
        // Last: what differs from it from now on is somebody's decision.
        let written = json!({ "name": model, "key": WRITTEN, "value": number });
        http.post::<Nothing>(&attempted, "/api/2.0/mlflow/registered-models/set-tag", &written).map(drop)
    }

    fn set_tag(&self, model: &str, version: u64, key: &str, value: &str) -> Result<(), RegistryError> {
        let attempted = self.attempt(&format!("tagging version {version} of"), model);
        admit::model(&attempted, model)?;
        admit::tag(&attempted, key)?;
        self.write_tag(&attempted, model, version, key, value)
    }

    fn load(&self, model: &str, version: u64, paths: &[&str], limit_bytes: u64) -> Result<BTreeMap<String, Vec<u8>>, RegistryError> {
        let attempted = self.attempt(&format!("loading version {version} of"), model);
        admit::model(&attempted, model)?;
        let found = versions::get(&attempted, &self.http, model, version)?;
        let artifacts = Artifacts::of_model(&attempted, &self.http, &found.source)?;
        let tags = found.tags();
        let mut files = BTreeMap::new();
        let mut left = limit_bytes;
        for &path in paths {
            admit::loadable(&attempted, path)?;
            let expected = stamp::expected(&attempted, &tags, path)?;
            let bytes = match artifacts.download(&attempted, path, left) {
                Err(RegistryError::NotFound { .. }) => {
                    return Err(RegistryError::corrupt(
                        &attempted,
                        format!("{path} of it is gone from {}; promote another version", found.source),
                    ));
                }
                ended => ended?,
            };
            stamp::verify(&attempted, path, &bytes, expected)?;
            left = left.saturating_sub(bytes.len() as u64);
            files.insert(path.to_owned(), bytes);
        }
        Ok(files)
    }
}
