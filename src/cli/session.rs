//! What every command starts with: the configuration in force, the spec, and the way to the servers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::faults::{Fault, Faults};
use crate::config::load::{Loaded, Sources, load_all};
use crate::config::secrets::Secrets;
use crate::config::{Config, Mlflow};
use crate::log::Log;
use crate::log::kafka::KafkaLog;
use crate::registry::{LocalRegistry, MlflowRegistry, MlflowSettings, Registry};

use crate::spec::Spec;

use super::Global;
use super::exit::{Exit, Failure};
use super::out::{Format, Out};

/// A command's surroundings.
pub struct Session {
    /// What is in force, as far as it has no faults.
    pub loaded: Loaded,
    /// What is wrong with the configuration: none, after [`Session::config`].
    pub faults: Vec<Fault>,
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
    /// What must not be said.
    pub secrets: Secrets,
    /// Where the answer goes.
    pub out: Out,
    /// `NO_COLOR`.
    pub no_color: Option<String>,
}

impl Session {
    /// Reads the layers; their faults wait until a command asks for the configuration.
    ///
    /// # Errors
    /// A configuration file that was asked for and cannot be read; a `--set` that cannot.
    pub fn begin(global: Global, environment: BTreeMap<String, String>) -> Result<Self, Failure> {
        let flags = global.flags()?;
        let file = match configured_file(&global, &environment) {
            Some(path) => {
                let text = std::fs::read_to_string(&path).map_err(|error| {
                    let place = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
                    Failure::new(
                        Exit::Usage,
                        format!("cannot read the configuration file {}: {error}; give another with --config FILE", place.display()),
                    )
                })?;
                Some((path, text))
            }
            None => None,
        };
        let path = file.as_ref().map(|(path, _)| path.clone());
        let read = |path: &Path| std::fs::read_to_string(path);
        let (loaded, faults) = load_all(&Sources { file, environment: &environment, flags, read: &read });
        let format = match (global.output, environment.get("TIDEMARK_OUTPUT").map(String::as_str)) {
            (Some(format), _) => format,
            (None, Some("json")) => Format::Json,
            (None, None | Some("" | "text")) => Format::Text,
            (None, Some("html")) => Format::Html,
            (None, Some(other)) => {
                return Err(Failure::new(Exit::Usage, format!("TIDEMARK_OUTPUT is {other:?}; allowed: text, json or html")));
            }
        };
        let no_color = environment.get("NO_COLOR").cloned();
        let out = Out::stdout(format, no_color.as_deref());
        let secrets = Secrets::of(&loaded.config);
        Ok(Self { loaded, faults, file: path, secrets, out, no_color })
    }

    pub(super) fn start_logging(&self, command: &super::Command) {
        let mut logging = self.loaded.config.log.clone();
        let is_default = logging.filter == crate::config::Logging::default().filter;
        if !command.is_service() && is_default {
            super::logging::QUIET.clone_into(&mut logging.filter);
        }
        super::logging::start(&logging, self.secrets.clone(), self.no_color.as_deref());
    }

    /// Returns the configuration, or all its faults.
    ///
    /// # Errors
    /// Exit 2 with every fault.
    pub fn config(&self) -> Result<&Config, Failure> {
        if self.faults.is_empty() { Ok(&self.loaded.config) } else { Err(Faults(self.faults.clone()).into()) }
    }

    /// Connects to Kafka.
    ///
    /// # Errors
    /// Exit 2 when no server is configured, 4 when none answers.
    pub fn log(&self) -> Result<Arc<dyn Log>, Failure> {
        let kafka = &self.config()?.kafka;
        if kafka.bootstrap_servers.is_none() {
            let ways = "set KAFKA_BOOTSTRAP_SERVERS, --kafka-bootstrap-servers or the key in the configuration file";
            return Err(Failure::new(Exit::Usage, format!("kafka.bootstrap_servers is not set: {ways}")));
        }
        Ok(Arc::new(KafkaLog::connect(kafka)?))
    }

    /// Returns the registry of models: MLflow, else the directory that stands in for it, else none.
    ///
    /// # Errors
    /// Exit 2 when its address cannot be used.
    pub fn registry(&self) -> Result<Option<Arc<dyn Registry>>, Failure> {
        let config = self.config()?;
        let Some(uri) = &config.mlflow.tracking_uri else {
            let directory = &config.registry.directory;
            return Ok((!directory.is_empty()).then(|| Arc::new(LocalRegistry::new(directory)) as Arc<dyn Registry>));
        };
        let registry = MlflowRegistry::new(&mlflow_settings(&config.mlflow, uri));
        Ok(Some(Arc::new(registry.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?)))
    }

    /// Reads the watch spec.
    ///
    /// # Errors
    /// Exit 2: the file cannot be read, or is no spec.
    pub fn spec(&self) -> Result<Spec, Failure> {
        let (spec, faults) = self.spec_and_faults()?;
        if faults.is_empty() { Ok(spec) } else { Err(Faults(faults).into()) }
    }

    /// Reads the watch spec with all its faults.
    ///
    /// # Errors
    /// Exit 2: the file cannot be read, or is not even the TOML of a spec.
    pub fn spec_and_faults(&self) -> Result<(Spec, Vec<Fault>), Failure> {
        let path = &self.loaded.config.spec;
        let text = std::fs::read_to_string(path).map_err(|error| {
            let place = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Failure::new(
                Exit::Usage,
                format!(
                    "cannot read the watch spec {}: {error}; give another with --spec FILE, or draft one with `tidemark spec suggest`",
                    place.display()
                ),
            )
        })?;
        let spec = Spec::from_toml(&text).map_err(|error| {
            let what = error.to_string();
            Failure::new(Exit::Usage, format!("the watch spec {} cannot be read:\n{}", path.display(), what.trim_end()))
        })?;
        let origin = path.display().to_string();
        let faults = spec.faults().into_iter().map(|fault| Fault {
            key: fault.key,
            origin: origin.clone(),
            problem: fault.problem,
            allowed: fault.allowed,
            nearest: fault.nearest,
        });
        let faults = faults.collect();
        Ok((spec, faults))
    }
}

/// Where a configuration file is looked for when nobody names one.
const USUAL_PLACES: [&str; 2] = ["tidemark.toml", "config/tidemark.toml"];

fn configured_file(global: &Global, environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    if let Some(path) = &global.config {
        return Some(path.clone());
    }
    if let Some(path) = environment.get("TIDEMARK_CONFIG").filter(|path| !path.is_empty()) {
        return Some(PathBuf::from(path));
    }
    USUAL_PLACES.iter().map(PathBuf::from).find(|path| path.exists())
}
/// Returns how MLflow at `uri` is spoken to.
pub(super) fn mlflow_settings(mlflow: &Mlflow, uri: &str) -> MlflowSettings {
    let mut settings = MlflowSettings::new(uri.to_owned().into(), &mlflow.experiment_name);
    settings.token.clone_from(&mlflow.token);
    settings.username.clone_from(&mlflow.username);
    settings.password.clone_from(&mlflow.password);
    settings.ca_file = mlflow.ca_file.as_ref().map(PathBuf::from);
    settings
}
