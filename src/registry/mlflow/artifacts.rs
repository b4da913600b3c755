//! Files of a run, through the server's own proxy: no credentials of an object store are needed here.

use std::collections::BTreeMap;

use super::http::{Http, encoded};
use super::wire::{FileInfo, Files};
use crate::registry::RegistryError;

const ROUTE: &str = "/api/2.0/mlflow-artifacts/artifacts";
/// How deep a run's folders are listed: ours are two deep.
const DEPTH: u32 = 8;
/// Folders of a run that are listed at most: ours have three.
const FOLDERS: usize = 100;

/// The files of one run.
pub(super) struct Artifacts<'a> {
    http: &'a Http,
    /// Path of the run's files below the server's root.
    root: String,
}

impl<'a> Artifacts<'a> {
    /// Takes the place that MLflow names for a run (`mlflow-artifacts:/1/RUN/artifacts`).
    pub(super) fn of_run(attempted: &str, http: &'a Http, uri: &str) -> Result<Self, RegistryError> {
        let Some(root) = proxied(uri) else {
            return Err(RegistryError::invalid(
                attempted,
                format!(
                    "the experiment keeps its files at {uri}, past {}; start `mlflow server` with --artifacts-destination, or name another experiment",
                    http.address()
                ),
            ));
        };
        Ok(Self { http, root })
    }

    /// Takes the place that a version names for its model (`mlflow-artifacts:/1/RUN/artifacts/model`).
    pub(super) fn of_model(attempted: &str, http: &'a Http, source: &str) -> Result<Self, RegistryError> {
        let root = proxied(source).and_then(|path| path.strip_suffix("/model").map(str::to_owned));
        let Some(root) = root else {
            return Err(RegistryError::corrupt(
                attempted,
                format!("its source {source:?} is not one that Tidemark writes; promote a version that it published"),
            ));
        };
        Ok(Self { http, root })
    }

    pub(super) fn upload(&self, attempted: &str, path: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        self.http.upload(attempted, &self.url(path), bytes)
    }

    pub(super) fn download(&self, attempted: &str, path: &str, limit_bytes: u64) -> Result<Vec<u8>, RegistryError> {
        self.http.download(attempted, &self.url(path), limit_bytes)
    }

    /// Returns the sizes of all files in bytes, by path.
    pub(super) fn sizes(&self, attempted: &str) -> Result<BTreeMap<String, u64>, RegistryError> {
        let mut sizes = BTreeMap::new();
        let mut folders = vec![(String::new(), 0)];
        let mut listed = 0;
        while let Some((folder, depth)) = folders.pop() {
            listed += 1;
            if listed > FOLDERS {
                let reason = format!("{} names more than {FOLDERS} folders below {}", self.http.address(), self.root);
                return Err(RegistryError::unavailable(attempted, reason));
            }
            for FileInfo { path, is_dir, file_size } in self.list(attempted, &folder)? {
                let path = format!("{folder}{path}");
                if !is_dir {
                    sizes.insert(path, file_size);
                } else if depth < DEPTH {
                    folders.push((format!("{path}/"), depth + 1));
                }
            }
        }
        Ok(sizes)
    }

    fn list(&self, attempted: &str, folder: &str) -> Result<Vec<FileInfo>, RegistryError> {
        let path = format!("{}/{folder}", self.root);
        let answer: Result<Files, _> = self.http.get(attempted, &format!("{ROUTE}?path={}", encoded(path.trim_end_matches('/'))));
        match answer {
            Ok(files) => Ok(files.files),
            Err(RegistryError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn url(&self, path: &str) -> String {
        let segments: Vec<String> = self.root.split('/').chain(path.split('/')).map(encoded).collect();
        format!("{ROUTE}/{}", segments.join("/"))
    }
}

/// Returns the path below the server's root, when the server proxies it. Segments that would leave it are refused.
fn proxied(uri: &str) -> Option<String> {
    let rest = uri.strip_prefix("mlflow-artifacts:")?;
    // With an authority (`mlflow-artifacts://host:port/…`) the path begins behind it.
    let path = match rest.strip_prefix("//") {
        Some(authority) => authority.split_once('/')?.1,
        None => rest.strip_prefix('/')?,
    };
    let path = path.trim_end_matches('/');
    let inside = path.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..");
    inside.then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_proxied_place_is_found_and_stays_inside() {
        assert_eq!(proxied("mlflow-artifacts:/1/run/artifacts").as_deref(), Some("1/run/artifacts"));
        assert_eq!(proxied("mlflow-artifacts://h:5000/1/run/artifacts/").as_deref(), Some("1/run/artifacts"));
        for other in
            ["s3://bucket/1", "file:///x", "mlflow-artifacts:/../x", "mlflow-artifacts:/a//b", "mlflow-artifacts:/", "mlflow-artifacts://h"]
        {
            assert_eq!(proxied(other), None, "{other}");
        }
    }
}
