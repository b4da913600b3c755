//! MLflow's answers, as far as they are read. Members that a server leaves out are empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::registry::Stage;
use crate::registry::production::Staged;

/// An answer of which nothing is read.
#[derive(Debug, Deserialize)]
pub(super) struct Nothing {}

/// Returns whether there is an experiment in an answer of `experiments/search`; `None` when it is no such answer. An empty list is
/// left out.
pub(super) fn has_experiments(answer: &str) -> Option<bool> {
    let answer: serde_json::Map<String, Value> = serde_json::from_str(answer).ok()?;
    match answer.get("experiments") {
        Some(experiments) => experiments.as_array().map(|experiments| !experiments.is_empty()),
        None => answer.is_empty().then_some(false),
    }
}

/// `experiments/get-by-name`.
#[derive(Debug, Deserialize)]
pub(super) struct ExperimentAnswer {
    pub(super) experiment: Experiment,
}

/// An experiment.
#[derive(Debug, Deserialize)]
pub(super) struct Experiment {
    pub(super) experiment_id: String,
    #[serde(default)]
    pub(super) lifecycle_stage: String,
}

/// `experiments/create`.
#[derive(Debug, Deserialize)]
pub(super) struct ExperimentId {
    pub(super) experiment_id: String,
}

/// `runs/create`, `runs/get`.
#[derive(Debug, Deserialize)]
pub(super) struct RunAnswer {
    pub(super) run: Run,
}

/// `runs/search`.
#[derive(Debug, Deserialize)]
pub(super) struct Runs {
    #[serde(default)]
    pub(super) runs: Vec<Run>,
}

/// A run.
#[derive(Debug, Deserialize)]
pub(super) struct Run {
    pub(super) info: RunInfo,
    #[serde(default)]
    pub(super) data: RunData,
}

/// What a run is.
#[derive(Debug, Deserialize)]
pub(super) struct RunInfo {
    pub(super) run_id: String,
    #[serde(default)]
    pub(super) experiment_id: String,
    #[serde(default)]
    pub(super) artifact_uri: String,
}

/// What a run holds.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RunData {
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    metrics: Vec<Metric>,
}

/// The last value of a metric, of which only the name is read.
#[derive(Debug, Deserialize)]
struct Metric {
    key: String,
}

impl Run {
    pub(super) fn has_metric(&self, key: &str) -> bool {
        self.data.metrics.iter().any(|metric| metric.key == key)
    }

    pub(super) fn tag(&self, key: &str) -> Option<&str> {
        self.data.tags.iter().find(|tag| tag.key == key).map(|tag| tag.value.as_str())
    }
}

/// A tag of anything.
#[derive(Debug, Deserialize)]
pub(super) struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

/// `registered-models/get`.
#[derive(Debug, Deserialize)]
pub(super) struct ModelAnswer {
    pub(super) registered_model: Model,
}

/// A registered model.
#[derive(Debug, Deserialize)]
pub(super) struct Model {
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    pub(super) aliases: Vec<Alias>,
}

impl Model {
    pub(super) fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|tag| tag.key == key).map(|tag| tag.value.as_str())
    }

    /// Returns the number that an alias names.
    pub(super) fn alias(&self, name: &str) -> Option<u64> {
        self.aliases.iter().find(|alias| alias.alias == name).map(|alias| alias.version)
    }
}

/// A name for a version.
#[derive(Debug, Deserialize)]
pub(super) struct Alias {
    pub(super) alias: String,
    #[serde(deserialize_with = "integer")]
    pub(super) version: u64,
}

/// `model-versions/search`.
#[derive(Debug, Deserialize)]
pub(super) struct Versions {
    #[serde(default)]
    pub(super) model_versions: Vec<ModelVersion>,
    #[serde(default)]
    pub(super) next_page_token: String,
}

/// `model-versions/get`, `model-versions/create`.
#[derive(Debug, Deserialize)]
pub(super) struct VersionAnswer {
    pub(super) model_version: ModelVersion,
}

/// A version of a registered model.
#[derive(Debug, Deserialize)]
pub(super) struct ModelVersion {
    #[serde(deserialize_with = "integer")]
    pub(super) version: u64,
    #[serde(default)]
    current_stage: String,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default, deserialize_with = "integer")]
    pub(super) creation_timestamp: i64,
    #[serde(default, deserialize_with = "integer")]
    last_updated_timestamp: i64,
    #[serde(default)]
    pub(super) run_id: String,
    #[serde(default)]
    pub(super) source: String,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) status_message: String,
    #[serde(default)]
    tags: Vec<Tag>,
}

impl ModelVersion {
    pub(super) fn stage(&self) -> Stage {
        match self.current_stage.as_str() {
            "Production" => Stage::Production,
            "Staging" => Stage::Staging,
            "Archived" => Stage::Archived,
            _ => Stage::None,
        }
    }

    /// Returns where it stands in the stage Production, if it does.
    pub(super) fn staged(&self) -> Option<Staged> {
        (self.stage() == Stage::Production).then_some(Staged { number: self.version, updated_ms: self.last_updated_timestamp })
    }

    pub(super) fn tags(&self) -> BTreeMap<String, String> {
        self.tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect()
    }
}

/// `mlflow-artifacts/artifacts?path=`.
#[derive(Debug, Deserialize)]
pub(super) struct Files {
    #[serde(default)]
    pub(super) files: Vec<FileInfo>,
}

/// A file, or a folder.
#[derive(Debug, Deserialize)]
pub(super) struct FileInfo {
    /// Its name in the folder that was listed.
    pub(super) path: String,
    #[serde(default)]
    pub(super) is_dir: bool,
    #[serde(default, deserialize_with = "integer")]
    pub(super) file_size: u64,
}

/// MLflow writes 64-bit integers as numbers, Protocol Buffers as texts, and versions are texts.
fn integer<'de, D: Deserializer<'de>, N: TryFrom<i64>>(from: D) -> Result<N, D::Error> {
    let value = Value::deserialize(from)?;
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok()).and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| serde::de::Error::custom(format!("{value} is not an integer")))
}

/// Returns tags as requests carry them.
pub(super) fn tags(tags: &BTreeMap<String, String>) -> Vec<Value> {
    tags.iter().map(|(key, value)| json!({ "key": key, "value": cut(value, TAG_CHARACTERS) })).collect()
}

/// The longest value of a tag that MLflow 2 and 3 keep.
pub(super) const TAG_CHARACTERS: usize = 5_000;

/// Returns the text, or its beginning and a sign that there was more.
pub(super) fn cut(text: &str, characters: usize) -> String {
    if text.chars().count() <= characters {
        return text.to_owned();
    }
    text.chars().take(characters - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_with_numbers_as_numbers_or_texts() {
        let both = [
            json!({ "version": "7", "creation_timestamp": 5, "current_stage": "Production" }),
            json!({ "version": 7, "creation_timestamp": "5", "current_stage": "Production" }),
        ];
        for value in both {
            let version: ModelVersion = serde_json::from_value(value).unwrap();
            assert_eq!((version.version, version.creation_timestamp), (7, 5));
            assert_eq!(version.staged(), Some(Staged { number: 7, updated_ms: 0 }));
        }
        assert!(serde_json::from_value::<ModelVersion>(json!({ "version": "latest" })).is_err());
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
