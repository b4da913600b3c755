//! The model in Production, as it is now: looked for again and again, swapped whole, and kept when a new one cannot be used.

use std::sync::{Arc, PoisonError, RwLock};

use crate::metrics;
use crate::model::duration::MODEL_FILE;
use crate::model::onnx::MAX_BYTES;
use crate::registry::Registry;
use crate::spec::Spec;
use crate::stage::{Health, State};

/// A version of a model.
#[derive(Debug)]
pub(super) struct Versioned<M> {
    /// Its number in the registry.
    pub(super) version: u64,
    /// The model.
    pub(super) model: M,
}

/// One model of the registry that is followed. Two kinds of model are.
pub(super) struct Followed<M> {
    name: String,
    part: &'static str,
    decode: fn(&[u8], &Spec) -> Result<M, String>,
    current: RwLock<Option<Arc<Versioned<M>>>>,
}

impl<M> Followed<M> {
    /// Prepares to follow the model of that name; `part` is what `/readyz` calls it.
    pub(super) fn new(name: &str, part: &'static str, decode: fn(&[u8], &Spec) -> Result<M, String>) -> Self {
        Self { name: name.to_owned(), part, decode, current: RwLock::new(None) }
    }

    /// Returns the model that answers now. Whoever holds it goes on with it while it is swapped.
    pub(super) fn current(&self) -> Option<Arc<Versioned<M>>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks once at what is in Production, and takes it when it is another version and can be used. Says how it is.
    pub(super) fn look(&self, registry: &dyn Registry, spec: &Spec, health: &Health) {
        let before = self.current().map(|current| current.version);
        let said = match self.found(registry, spec, before) {
            Ok(None) => match before {
                Some(version) => format!("version {version} answers"),
                None => "rules answer: no version is in Production".to_owned(),
            },
            Ok(Some(found)) => {
                let version = found.version;
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(found));
                metrics::serves_model(&self.name, version);
                tracing::info!(model = self.name, version, before, "another version is in Production; it answers from now on");
                format!("version {version} answers")
            }
            Err(why) => {
                metrics::model_not_followed(&self.name);
                let instead = before.map_or("rules answer".to_owned(), |version| format!("version {version} goes on answering"));
                format!("{instead}: {why}")
            }
        };
        let state = State::Ready(said);
        if health.all().get(self.part) != Some(&state) {
            if let State::Ready(said) = &state {
                tracing::info!(model = self.name, "{said}");
            }
            health.set(self.part, state);
        }
    }

    /// Returns the version in Production when it is another than `before`.
    fn found(&self, registry: &dyn Registry, spec: &Spec, before: Option<u64>) -> Result<Option<Versioned<M>>, String> {
        let production = registry.production(&self.name).map_err(|error| error.to_string())?;
        let Some(version) = production else {
            let emptied = "the registry has no version in Production any more; promote one, or roll back";
            return before.map_or(Ok(None), |_| Err(emptied.to_owned()));
        };
        if before == Some(version) {
            return Ok(None);
        }
        let cannot = |why: String| format!("version {version} in Production cannot be used: {why}");
        let files = registry.load(&self.name, version, &[MODEL_FILE], MAX_BYTES as u64).map_err(|error| cannot(error.to_string()))?;
        let bytes = files.get(MODEL_FILE).ok_or_else(|| cannot(format!("it has no {MODEL_FILE}")))?;
        let model = (self.decode)(bytes, spec).map_err(cannot)?;
        Ok(Some(Versioned { version, model }))
    }
}
