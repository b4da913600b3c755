//! Which names, keys and paths may reach a store. They become URLs, filters and file names, so they are plain.

use super::stamp::{CONTENT, KEY, SHA256};
use super::{Publication, RegistryError};

/// Characters of a model's name: it is a folder's name too.
const NAME_LENGTH: usize = 200;
/// Characters of a key: MLflow's bound on what tag filters are sure to compare.
const KEY_LENGTH: usize = 250;
/// Characters of a path: MLflow keeps it in a tag's name, behind a prefix.
const PATH_LENGTH: usize = 200;
/// Local versions keep what they know of themselves under this name.
pub(super) const META: &str = "meta.json";
/// Folder of the model's own files.
pub(super) const MODEL_FOLDER: &str = "model/";

/// Checks a model's name.
pub(super) fn model(attempted: &str, name: &str) -> Result<(), RegistryError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_LENGTH || name.starts_with('.') || !name.chars().all(plain) {
        return Err(RegistryError::invalid(
            attempted,
            format!("{name:?} is not admitted as a model's name: 1 to {NAME_LENGTH} letters, digits, '.', '_' or '-', the first not a '.'"),
        ));
    }
    Ok(())
}

/// Checks a path that may be loaded.
pub(super) fn loadable(attempted: &str, path: &str) -> Result<(), RegistryError> {
    artifact(attempted, path)?;
    if !path.starts_with(MODEL_FOLDER) {
        return Err(RegistryError::invalid(attempted, format!("{path:?} is not below {MODEL_FOLDER}, and only that is loaded")));
    }
    Ok(())
}

/// Checks a tag that a caller sets.
pub(super) fn tag(attempted: &str, key: &str) -> Result<(), RegistryError> {
    if key.is_empty() || key.len() > KEY_LENGTH || key == KEY || key == CONTENT || key.starts_with(SHA256) {
        return Err(RegistryError::invalid(attempted, format!("tag {key:?} is the registry's own, empty, or above {KEY_LENGTH} bytes")));
    }
    Ok(())
}

/// Checks everything of a publication that a store could choke on.
pub(super) fn publication(attempted: &str, publication: &Publication) -> Result<(), RegistryError> {
    model(attempted, &publication.model)?;
    key(attempted, &publication.key)?;
    for path in publication.artifacts.keys() {
        artifact(attempted, path)?;
        let folder = format!("{path}/");
        if publication.artifacts.keys().any(|other| other.starts_with(&folder)) {
            return Err(RegistryError::invalid(attempted, format!("{path:?} is a file and a folder")));
        }
    }
    if !publication.artifacts.keys().any(|path| path.starts_with(MODEL_FOLDER)) {
        return Err(RegistryError::invalid(attempted, format!("there is no file below {MODEL_FOLDER}")));
    }
    for name in publication.tags.keys() {
        tag(attempted, name)?;
    }
    Ok(())
}

fn key(attempted: &str, key: &str) -> Result<(), RegistryError> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '\'' | '"' | '`' | '\\');
    if key.is_empty() || key.len() > KEY_LENGTH || !key.chars().all(plain) {
        return Err(RegistryError::invalid(
            attempted,
            format!("{key:?} is not admitted as a key: 1 to {KEY_LENGTH} visible ASCII characters without quotes and backslash"),
        ));
    }
    Ok(())
}

fn artifact(attempted: &str, path: &str) -> Result<(), RegistryError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ' ');
    let segment = |text: &str| !text.is_empty() && text != "." && text != ".." && text.chars().all(plain);
    if path.len() > PATH_LENGTH || path == META || !path.split('/').all(segment) {
        return Err(RegistryError::invalid(
            attempted,
            format!(
                "{path:?} is not admitted as a file's path: relative, at most {PATH_LENGTH} letters, digits, '.', '_', '-', ' ', not {META}"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_folder() {
        for name in ["", ".", "..", ".hidden", "../x", "a/b", "a\\b", "a%2Fb", "a b", "a'b", "ä", "a?b", "a#b", &"a".repeat(201)] {
            assert!(matches!(model("test", name), Err(RegistryError::Invalid { .. })), "{name}");
        }
        for name in ["ticket-duration-predictor", "a.b_c-1"] {
            assert!(model("test", name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_path_cannot_leave_its_folder() {
        for path in ["", "/etc/x", "a/../b", "a//b", "a/", ".", "a/./b", "a\\b", "a%2e%2e/b", "a#b", "meta.json", "a:b"] {
            assert!(matches!(artifact("test", path), Err(RegistryError::Invalid { .. })), "{path}");
        }
        for path in ["model/MLmodel", "plots/error by hour.svg", "model/a/b.c"] {
            assert!(artifact("test", path).is_ok(), "{path}");
        }
        assert!(matches!(loadable("test", "report.json"), Err(RegistryError::Invalid { .. })));
    }

    #[test]
    fn a_key_cannot_end_a_filter() {
        for wrong in ["", "a'b", "a\"b", "a`b", "a b", "a\\b", "ä", &"k".repeat(251)] {
            assert!(matches!(key("test", wrong), Err(RegistryError::Invalid { .. })), "{wrong}");
        }
        assert!(key("test", "flights/drift@2013-07-01T00:00:00.000Z#1+since-onset=%").is_ok());
    }

    #[test]
    fn the_registrys_own_tags_are_not_a_callers() {
        for wrong in ["", "tidemark.key", "tidemark.content", "tidemark.sha256/model/model.onnx"] {
            assert!(matches!(tag("test", wrong), Err(RegistryError::Invalid { .. })), "{wrong}");
        }
        assert!(tag("test", "tidemark.outcome").is_ok());
    }
}
