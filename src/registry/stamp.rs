//! The tags by which a version is recognised, traced and checked.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::admit::MODEL_FOLDER;
use super::{Lineage, Publication, RegistryError};
use crate::clock::rfc3339;

/// Tag of run and version: the publication's key.
pub(super) const KEY: &str = "tidemark.key";
/// Tag of run and version: SHA-256 of everything that was published except its times.
pub(super) const CONTENT: &str = "tidemark.content";
/// Prefix of a version's tags; behind it a path below `model/`, as value the file's SHA-256.
pub(super) const SHA256: &str = "tidemark.sha256/";
/// Tag of the registered model: number of the version that this program promoted last.
pub(super) const WRITTEN: &str = "tidemark.production";
/// Tag of a version: why it was promoted.
pub(super) const REASON: &str = "tidemark.promotion_reason";

/// What a publication is known by.
pub(super) struct Stamp {
    /// Value of [`CONTENT`].
    pub(super) content: String,
    /// Tags of its run.
    pub(super) run_tags: BTreeMap<String, String>,
    /// Tags of its version: the run's, and a hash for every file of the model.
    pub(super) version_tags: BTreeMap<String, String>,
}

impl Stamp {
    pub(super) fn of(publication: &Publication) -> Self {
        let hashes: BTreeMap<&String, String> = publication.artifacts.iter().map(|(path, bytes)| (path, sha256(bytes))).collect();
        let metrics: BTreeMap<&String, Value> = publication.metrics.iter().map(|(name, value)| (name, number(*value))).collect();
        let whole = json!([
            publication.model,
            publication.run_name,
            publication.params,
            metrics,
            publication.tags,
            publication.description,
            lineage(&publication.lineage),
            hashes
        ]);
        let content = sha256(whole.to_string().as_bytes());

        let mut run_tags = publication.tags.clone();
        run_tags.extend(lineage(&publication.lineage));
        run_tags.insert(KEY.to_owned(), publication.key.clone());
        run_tags.insert(CONTENT.to_owned(), content.clone());
        let mut version_tags = run_tags.clone();
        let model = hashes.into_iter().filter(|(path, _)| path.starts_with(MODEL_FOLDER));
        version_tags.extend(model.map(|(path, hash)| (format!("{SHA256}{path}"), hash)));
        Self { content, run_tags, version_tags }
    }
}

/// Returns the paths of the model's files that a version's tags name.
pub(super) fn stamped(tags: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    tags.keys().filter_map(|key| key.strip_prefix(SHA256))
}

/// Returns the hash that a file of a version must have.
pub(super) fn expected<'t>(attempted: &str, tags: &'t BTreeMap<String, String>, path: &str) -> Result<&'t str, RegistryError> {
    tags.get(&format!("{SHA256}{path}")).map(String::as_str).ok_or_else(|| {
        RegistryError::corrupt(
            attempted,
            format!("the version has no tag {SHA256}{path}: it was not published by Tidemark, or not with this file; promote one that was"),
        )
    })
}

/// Refuses bytes that are not those that were published.
pub(super) fn verify(attempted: &str, path: &str, bytes: &[u8], expected: &str) -> Result<(), RegistryError> {
    let found = sha256(bytes);
    if found == expected {
        return Ok(());
    }
    Err(RegistryError::corrupt(
        attempted,
        format!("{path} is not what was published (SHA-256 {found}, published {expected}); promote another version"),
    ))
}

/// Returns the SHA-256 of some bytes in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a number as JSON; what JSON cannot write, in the words of Protocol Buffers (`"NaN"`, `"Infinity"`, `"-Infinity"`).
pub(super) fn number(value: f64) -> Value {
    if value.is_finite() {
        return json!(value);
    }
    json!(if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    })
}

fn lineage(lineage: &Lineage) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    let mut tag = |name: &str, value: String| drop(tags.insert(format!("tidemark.{name}"), value));
    tag("data_from", rfc3339(lineage.data_ms.0));
    tag("data_to", rfc3339(lineage.data_ms.1));
    tag("holdout_from", rfc3339(lineage.holdout_ms.0));
    tag("holdout_to", rfc3339(lineage.holdout_ms.1));
    if let Some(baseline) = &lineage.baseline {
        tag("baseline", baseline.clone());
    }
    if let Some(onset_ms) = lineage.onset_ms {
        tag("onset", rfc3339(onset_ms));
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication() -> Publication {
        Publication {
            model: "m".to_owned(),
            model_description: String::new(),
            key: "k".to_owned(),
            run_name: "r".to_owned(),
            start_ms: 0,
            end_ms: 1,
            params: BTreeMap::new(),
            metrics: BTreeMap::from([("mae".to_owned(), f64::NAN)]),
            tags: BTreeMap::from([(KEY.to_owned(), "forged".to_owned())]),
            description: String::new(),
            lineage: Lineage { onset_ms: Some(0), ..Lineage::default() },
            artifacts: BTreeMap::from([("model/a".to_owned(), b"a".to_vec()), ("report.json".to_owned(), b"b".to_vec())]),
        }
    }

    #[test]
    fn the_models_files_are_stamped_and_the_key_cannot_be_forged() {
        let stamp = Stamp::of(&publication());
        assert_eq!(stamp.version_tags[KEY], "k");
        assert_eq!(stamp.version_tags["tidemark.onset"], "1970-01-01T00:00:00.000Z");
        assert_eq!(stamped(&stamp.version_tags).collect::<Vec<_>>(), ["model/a"]);
        // printf a | sha256sum
        let a = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
        assert_eq!(expected("test", &stamp.version_tags, "model/a").unwrap(), a);
        assert!(stamped(&stamp.run_tags).next().is_none());
    }

    #[test]
    fn the_content_does_not_depend_on_when_it_was_published() {
        let mut later = publication();
        later.start_ms = 7;
        later.end_ms = 8;
        assert_eq!(Stamp::of(&publication()).content, Stamp::of(&later).content);
        later.artifacts.insert("report.json".to_owned(), b"c".to_vec());
        assert_ne!(Stamp::of(&publication()).content, Stamp::of(&later).content);
    }

    #[test]
    fn numbers_that_json_cannot_write_have_names() {
        let written: Vec<String> = [1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(|value| number(value).to_string()).into();
        assert_eq!(written, ["1.5", "\"NaN\"", "\"Infinity\"", "\"-Infinity\""]);
    }
}
