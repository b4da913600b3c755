//! What the operator decides: flags over environment over file over default.
//!
//! [`keys`] lists every key with what it may be, [`load`] lays the layers over each other, [`faults`] says what is wrong,
//! [`show`] what is in force.

pub mod faults;
pub mod keys;
pub mod load;
pub mod secrets;
pub mod show;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::clock::{DAY_MS, HOUR_MS};
use crate::topics::TopicPlan;

/// Everything that is configured, with its default.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The watch spec's file.
    pub spec: PathBuf,
    /// Name of this process among its twins: part of transactional ids. The host's name when empty.
    pub instance: String,
    /// MongoDB.
    pub mongodb: Mongodb,
    /// Kafka.
    pub kafka: Kafka,
    /// MLflow.
    pub mlflow: Mlflow,
    /// Where models are kept without MLflow, and at hand.
    pub registry: Registry,
    /// The first stage.
    pub tail: Tail,
    /// Slices and windows.
    pub window: Window,
    /// When a verdict is an alarm.
    pub judge: Judge,
    /// One verdict without running anything.
    pub check: Check,
    /// When and how models are trained.
    pub train: Train,
    /// Prediction errors of history.
    pub backfill: Backfill,
    /// What schedulers ask for.
    pub serve: Serve,
    /// Where alerts go besides Kafka.
    pub webhook: Webhook,
    /// The audit beside the tail.
    pub audit: Audit,
    /// The HTTP server.
    pub http: Http,
    /// Logging.
    pub log: Logging,
}

/// MongoDB.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mongodb {
    /// Connection string (`MONGODB_URI`); may hold a password.
    #[serde(serialize_with = "show::masked_uri")]
    pub uri: Option<SecretString>,
    /// Database (`MONGODB_DATABASE`); the spec's when absent.
    pub database: Option<String>,
    /// Writes a document to `ml_retraining_triggers` for every trigger.
    pub trigger_documents: bool,
}

/// Kafka.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// `host:port,…` (`KAFKA_BOOTSTRAP_SERVERS`).
    pub bootstrap_servers: Option<String>,
    /// Prefix of every topic, group and transactional id.
    pub topic_prefix: String,
    /// Partitions of `tickets`, `dead-letters` and `prediction-errors`.
    pub partitions: u32,
    /// Copies of each partition of topics that are created.
    pub replication: u32,
    /// Retention of `tickets` and `summaries`, in days.
    pub tickets_retention_days: u32,
    /// Retention of the other topics that are not compacted, in days.
    pub retention_days: u32,
    /// Further librdkafka properties, for both producers and consumers (TLS, SASL).
    #[serde(serialize_with = "show::masked_properties")]
    pub properties: std::collections::BTreeMap<String, SecretString>,
}

/// MLflow.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mlflow {
    /// `MLFLOW_TRACKING_URI`.
    #[serde(serialize_with = "show::masked_url")]
    pub tracking_uri: Option<String>,
    /// `MLFLOW_EXPERIMENT_NAME`.
    pub experiment_name: String,
    /// `MLFLOW_TRACKING_TOKEN`.
    #[serde(serialize_with = "show::masked")]
    pub token: Option<SecretString>,
    /// `MLFLOW_TRACKING_USERNAME`.
    pub username: Option<String>,
    /// `MLFLOW_TRACKING_PASSWORD`.
    #[serde(serialize_with = "show::masked")]
    pub password: Option<SecretString>,
    /// `MLFLOW_TRACKING_SERVER_CERT_PATH`: a PEM file of the authorities that may vouch for the server, instead of the system's.
    pub ca_file: Option<String>,
}

/// Models on this machine.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// A directory that stands in for MLflow where no tracking URI is set; empty for none.
    pub directory: String,
    /// Where models that were fetched are kept; empty for a folder of the system's temporary directory.
    pub cache: String,
}

impl Registry {
    /// Returns the folder of models that were fetched.
    #[must_use]
    pub fn cache(&self) -> Option<PathBuf> {
        let own = (!self.cache.is_empty()).then(|| PathBuf::from(&self.cache));
        Some(own.unwrap_or_else(|| std::env::temp_dir().join("tidemark-models")))
    }
}

/// Where the first start begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the next completion.
    Now,
    /// With the collection as it is, then the stream.
    History,
}

/// What tail does when MongoDB has forgotten what came after the position. A gap record says so either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryLost {
    /// It stops: a person decides.
    Stop,
    /// It goes on with the present, and reads the collection again for what completed meanwhile.
    Reread,
}

/// Which clock event time follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockMode {
    /// Decided once, from the first 20 tickets.
    Auto,
    /// MongoDB's cluster time.
    Commit,
    /// The 20th largest `completed_at`.
    Tickets,
}

/// The first stage.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tail {
    /// Where the first start begins.
    pub start: Start,
    /// What happens when MongoDB has forgotten what came after the position.
    pub history_lost: HistoryLost,
    /// Which clock event time follows.
    pub clock: ClockMode,
    /// Tickets in one transaction, at most.
    pub transaction_rows: usize,
    /// Documents in one batch of the cursor.
    pub batch_rows: u32,
}

/// Slices and windows.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// Length of a slice, ms; a divisor of a day.
    pub slice_ms: i64,
    /// How long a slice waits for late tickets, ms.
    pub lateness_ms: i64,
    /// Window lengths in days, ascending.
    pub days: Vec<u32>,
    /// Rows kept in memory per process, at most.
    pub max_rows: usize,
}

/// What makes an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Effect and evidence against the baseline's own noise.
    Calibrated,
    /// The contract's bare thresholds.
    Thresholds,
}

/// When a verdict is an alarm.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Judge {
    /// What makes an alarm.
    pub decision: Decision,
    /// PSI above which a column is over at the critical level (`ML_DRIFT_PSI_THRESHOLD`).
    pub psi_critical: f64,
    /// The same for a warning.
    pub psi_warning: f64,
    /// KS distance of the target, critical.
    pub ks_critical: f64,
    /// KS distance of the target, warning.
    pub ks_warning: f64,
    /// KS p-value of the bare rule, critical.
    pub ks_p_critical: f64,
    /// KS p-value of the bare rule, warning (`ML_DRIFT_KS_PVALUE_THRESHOLD`).
    pub ks_p_warning: f64,
    /// MAE ratio, critical (`ML_DRIFT_MAE_RATIO_THRESHOLD`).
    pub mae_ratio_critical: f64,
    /// MAE ratio, warning.
    pub mae_ratio_warning: f64,
    /// Rows below which there is no verdict.
    pub min_rows: u64,
    /// Windows in days that decide about `error`.
    pub error_days: Vec<u32>,
    /// Windows in days that decide about `target`.
    pub target_days: Vec<u32>,
    /// Windows in days that decide about features.
    pub feature_days: Vec<u32>,
    /// α.
    pub alpha: f64,
    /// α of `error` in the longest window.
    pub alpha_error_longest: f64,
    /// Looks over in a row that open an episode of `error`.
    pub error_looks: u32,
    /// Looks over in a row that open an episode of `target`.
    pub target_looks: u32,
    /// Looks over in a row that open an episode of a feature.
    pub feature_looks: u32,
    /// Looks over at the warning level, in the longest window, that open a warning.
    pub warning_looks: u32,
    /// Looks in a row below 0.8 of the threshold that close an episode.
    pub close_looks: u32,
    /// A single cause over the critical PSI for one full window asks for a training.
    pub retrain_on_single_cause: bool,
}

/// One verdict without running anything.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Check {
    /// Length of the window in days (`ML_DRIFT_CHECK_WINDOW_DAYS`).
    pub window_days: u32,
}

/// When and how models are trained.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// Days of history that a training reads (`ML_TRAINING_WINDOW_DAYS`).
    pub window_days: u32,
    /// Hours after which a model is trained anew (`ML_TRAINING_INTERVAL_HOURS`).
    pub interval_hours: u32,
    /// Rows below which nothing is trained (`ML_MIN_TRAINING_SAMPLES`).
    pub min_samples: u64,
    /// Hold-out MAE / mean actual below which a duration model may be promoted (`ML_DURATION_ERROR_THRESHOLD`).
    pub duration_error_threshold: f64,
    /// Hold-out precision above which an anomaly model may be promoted (`ML_VALIDATION_PRECISION_THRESHOLD`).
    pub validation_precision_threshold: f64,
    /// Share of tickets taken as anomalous (`ML_ANOMALY_CONTAMINATION`).
    pub anomaly_contamination: f64,
    /// New tickets that ask for a training (`ML_DATA_VOLUME_TRIGGER_THRESHOLD`).
    pub data_volume_trigger_threshold: u64,
    /// Hours between two retrainings, at least.
    pub min_interval_hours: u32,
    /// Retrainings a day, at most.
    pub max_per_day: u32,
    /// Rows that one model is trained on, at most: the newest.
    pub max_rows: usize,
}

/// Prediction errors of history.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backfill {
    /// A training backfills errors too (`ML_BACKFILL_ERRORS`).
    pub errors: bool,
    /// Days that a report is kept (`ML_BACKFILL_HISTORY_RETENTION_DAYS`).
    pub history_retention_days: u32,
}

/// What schedulers ask for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serve {
    /// Answers predictions from models and not from rules alone (`ENABLE_ML_ENHANCED_SCHEDULING`).
    pub enhanced_scheduling: bool,
    /// Address of `tidemark serve`.
    pub listen: String,
    /// Seconds between two looks at what is in Production.
    pub follow_seconds: u32,
    /// Bytes of a request's body, at most.
    pub max_body_bytes: usize,
    /// Tickets or workers in one request, at most.
    pub max_batch: usize,
    /// Time from a request's head to its answer, at most, ms.
    pub timeout_ms: u32,
    /// Requests that are answered at a time, at most.
    pub max_concurrent: usize,
    /// Requests of one client in a second, at most; 0 for any number.
    pub max_requests_per_second: u32,
    /// The field that names a ticket's worker, dotted.
    pub worker_field: String,
    /// Values of the status that mean waiting or at work, with commas between them.
    pub open_statuses: String,
}

/// The audit beside the tail.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Seconds between two audits; 0 for none.
    pub every_seconds: u32,
}

/// Where alerts go besides Kafka.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// Gets a POST with each alert and trigger.
    #[serde(serialize_with = "show::masked_webhook")]
    pub url: Option<String>,
    /// Key of the HMAC-SHA256 signature.
    #[serde(serialize_with = "show::masked")]
    pub secret: Option<SecretString>,
}

/// The HTTP server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address; empty for none.
    pub listen: String,
    /// Requests of one client in a second, at most; 0 for any number.
    pub max_requests_per_second: u32,
}

/// Logging.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A `tracing` filter.
    pub filter: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            spec: PathBuf::from("config/execution-tickets.toml"),
            instance: String::new(),
            mongodb: Mongodb::default(),
            kafka: Kafka::default(),
            mlflow: Mlflow::default(),
            registry: Registry::default(),
            tail: Tail::default(),
            window: Window::default(),
            judge: Judge::default(),
            check: Check::default(),
            train: Train::default(),
            backfill: Backfill::default(),
            serve: Serve::default(),
            webhook: Webhook::default(),
            audit: Audit::default(),
            http: Http::default(),
            log: Logging::default(),
        }
    }
}

impl Default for Mongodb {
    fn default() -> Self {
        Self { uri: None, database: None, trigger_documents: true }
    }
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            bootstrap_servers: None,
            topic_prefix: "tidemark".to_owned(),
            partitions: 4,
            replication: 1,
            tickets_retention_days: 30,
            retention_days: 90,
            properties: std::collections::BTreeMap::new(),
        }
    }
}

impl Default for Mlflow {
    fn default() -> Self {
        Self {
            tracking_uri: None,
            experiment_name: "orchestrator-predictive-models".to_owned(),
            token: None,
            username: None,
            password: None,
            ca_file: None,
        }
    }
}

impl Default for Tail {
    fn default() -> Self {
        Self { start: Start::Now, history_lost: HistoryLost::Stop, clock: ClockMode::Auto, transaction_rows: 4_000, batch_rows: 1_000 }
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { slice_ms: HOUR_MS, lateness_ms: 600_000, days: vec![1, 3, 7], max_rows: 2_000_000 }
    }
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            decision: Decision::Calibrated,
            psi_critical: 0.25,
            psi_warning: 0.1,
            ks_critical: 0.2,
            ks_warning: 0.1,
            ks_p_critical: 0.01,
            ks_p_warning: 0.05,
            mae_ratio_critical: 1.5,
            mae_ratio_warning: 1.2,
            min_rows: 50,
            error_days: vec![1, 3, 7],
            target_days: vec![1, 3, 7],
            feature_days: vec![7],
            alpha: 1e-4,
            alpha_error_longest: 1e-3,
            error_looks: 6,
            target_looks: 24,
            feature_looks: 6,
            warning_looks: 24,
            close_looks: 24,
            retrain_on_single_cause: true,
        }
    }
}

impl Default for Check {
    fn default() -> Self {
        Self { window_days: 7 }
    }
}

impl Default for Train {
    fn default() -> Self {
        Self {
            window_days: 540,
            interval_hours: 24,
            min_samples: 100,
            duration_error_threshold: 0.15,
            validation_precision_threshold: 0.75,
            anomaly_contamination: 0.05,
            data_volume_trigger_threshold: 10_000,
            min_interval_hours: 6,
            max_per_day: 2,
            max_rows: 200_000,
        }
    }
}

impl Default for Backfill {
    fn default() -> Self {
        Self { errors: false, history_retention_days: 90 }
    }
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            enhanced_scheduling: false,
            listen: "127.0.0.1:8080".to_owned(),
            follow_seconds: 10,
            max_body_bytes: 1 << 20,
            max_batch: 1_000,
            timeout_ms: 2_000,
            max_concurrent: 64,
            max_requests_per_second: 10_000,
            worker_field: "allocated_worker_id".to_owned(),
            open_statuses: "PENDING,EXECUTING".to_owned(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9464".to_owned(), max_requests_per_second: 1_000 }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

impl Config {
    /// Returns how topics are made.
    #[must_use]
    pub fn topic_plan(&self) -> TopicPlan {
        TopicPlan {
            partitions: self.kafka.partitions,
            replication: self.kafka.replication,
            tickets_retention_ms: i64::from(self.kafka.tickets_retention_days) * DAY_MS,
            retention_ms: i64::from(self.kafka.retention_days) * DAY_MS,
        }
    }
}
