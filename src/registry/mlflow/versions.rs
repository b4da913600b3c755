//! Versions of a registered model: found, created, settled when there are two of one key.

use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use super::http::{Http, encoded};
use super::wire::{ModelVersion, Nothing, Run, VersionAnswer, Versions, tags};
use crate::registry::stamp::{KEY, Stamp};
use crate::registry::{Publication, RegistryError, Stage};

/// Versions in one answer.
const PAGE: u32 = 1_000;
/// Answers that are asked for at most: a server whose every answer names a next one is not asked for ever.
const PAGES: u32 = 100;
/// How often a version is asked whether it is ready, and the pause between.
const READY_TRIES: u32 = 60;
const READY_PAUSE: Duration = Duration::from_millis(500);

/// Creates the registered model unless it is there.
pub(super) fn create_model(attempted: &str, http: &Http, publication: &Publication) -> Result<(), RegistryError> {
    let body = json!({ "name": publication.model, "description": publication.model_description });
    match http.post::<Nothing>(attempted, "/api/2.0/mlflow/registered-models/create", &body) {
        Ok(_) | Err(RegistryError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Creates a version of a run that is filled.
pub(super) fn create(attempted: &str, http: &Http, run: &Run, publication: &Publication, stamp: &Stamp) -> Result<(), RegistryError> {
    let body = json!({
        "name": publication.model,
        "source": format!("{}/model", run.info.artifact_uri.trim_end_matches('/')),
        "run_id": run.info.run_id,
        "description": publication.description,
        "tags": tags(&stamp.version_tags),
    });
    http.post::<VersionAnswer>(attempted, "/api/2.0/mlflow/model-versions/create", &body).map(drop)
}

/// Returns the version of a key: the lowest number, when two were created at once. The others are taken away, unless
/// somebody has put one into use.
pub(super) fn settle(attempted: &str, http: &Http, publication: &Publication) -> Result<Option<ModelVersion>, RegistryError> {
    let filter = format!("name = '{}' and tags.`{KEY}` = '{}'", publication.model, publication.key);
    let mut found = search(attempted, http, &filter)?.into_iter();
    let first = found.next();
    for other in found.filter(|version| version.stage() == Stage::None) {
        let body = json!({ "name": publication.model, "version": other.version.to_string() });
        match http.delete::<Nothing>(attempted, "/api/2.0/mlflow/model-versions/delete", &body) {
            // Another one settles too.
            Ok(_) | Err(RegistryError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(first)
}

/// Waits until MLflow says that a version can be used.
pub(super) fn wait_until_ready(attempted: &str, http: &Http, model: &str, version: u64) -> Result<(), RegistryError> {
    for _ in 0..READY_TRIES {
        let found = get(attempted, http, model, version)?;
        match found.status.as_str() {
            // Servers that register at once may leave it out.
            "READY" | "" => return Ok(()),
            "FAILED_REGISTRATION" => {
                return Err(RegistryError::corrupt(
                    attempted,
                    format!("MLflow could not register version {version}: {}; delete it, then publish again", found.status_message),
                ));
            }
            _ => sleep(READY_PAUSE),
        }
    }
    Err(RegistryError::unavailable(attempted, format!("version {version} is not ready after {:?}", READY_PAUSE * READY_TRIES)))
}

/// Returns one version.
pub(super) fn get(attempted: &str, http: &Http, model: &str, version: u64) -> Result<ModelVersion, RegistryError> {
    let path = format!("/api/2.0/mlflow/model-versions/get?name={}&version={version}", encoded(model));
    http.get::<VersionAnswer>(attempted, &path).map(|answer| answer.model_version)
}

/// Returns all versions that match, by ascending number.
pub(super) fn search(attempted: &str, http: &Http, filter: &str) -> Result<Vec<ModelVersion>, RegistryError> {
    let mut found = Vec::new();
    let mut token = String::new();
    for _ in 0..PAGES {
        let path = format!("{}&max_results={PAGE}&page_token={}", search_path(filter, "version_number ASC"), encoded(&token));
        let page: Versions = http.get(attempted, &path)?;
        found.extend(page.model_versions);
        if page.next_page_token.is_empty() || page.next_page_token == token {
            found.sort_by_key(|version| version.version);
            return Ok(found);
        }
        token = page.next_page_token;
    }
    Err(RegistryError::unavailable(attempted, format!("{} names more than {PAGES} pages of versions", http.address())))
}

/// Returns some versions of a model, those that were changed last.
pub(super) fn last_changed(attempted: &str, http: &Http, model: &str, most: u32) -> Result<Vec<ModelVersion>, RegistryError> {
    let path = search_path(&format!("name = '{model}'"), "last_updated_timestamp DESC");
    Ok(http.get::<Versions>(attempted, &format!("{path}&max_results={most}"))?.model_versions)
}

fn search_path(filter: &str, order: &str) -> String {
    format!("/api/2.0/mlflow/model-versions/search?filter={}&order_by={}", encoded(filter), encoded(order))
}
