//! Every key: what it may be, which environment names set it, which commands read it.

use super::show::has_password;

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text without control characters.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number within the bounds.
    Integer(i64, i64),
    /// A number within the bounds.
    Number(f64, f64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A divisor of a day, in ms.
    Slice,
    /// Ascending whole numbers of days.
    Days,
    /// `host:port,…`.
    Servers,
    /// A prefix of topic names.
    Prefix,
    /// `host:port`, or empty.
    Address,
    /// An http or https URL.
    Url,
    /// A MongoDB connection string; secret.
    MongodbUri,
    /// A text that is never shown.
    Secret,
    /// A table of librdkafka properties; secret.
    Properties,
    /// A `tracing` filter.
    Filter,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// Its name in the environment of the system that tidemark joins.
    pub contract: Option<&'static str>,
    /// What it may be.
    pub kind: Kind,
    /// The commands that read it.
    pub used_by: &'static [&'static str],
}

const fn key(name: &'static str, kind: Kind, used_by: &'static [&'static str]) -> Key {
    Key { name, contract: None, kind, used_by }
}

const fn contract(name: &'static str, contract: &'static str, kind: Kind, used_by: &'static [&'static str]) -> Key {
    Key { name, contract: Some(contract), kind, used_by }
}

const ALL: &[&str] = &["every command"];
const RUN: &[&str] = &["run"];
const JUDGED: &[&str] = &["run", "check", "demo"];
const KAFKA: &[&str] = &["run", "baseline", "status", "alerts", "test-alert", "check --from-log"];
const MONGODB: &[&str] = &["run", "baseline", "check", "serve", "spec suggest"];
const TRAIN: &[&str] = &["train", "run", "models", "backfill", "serve"];
const SERVE: &[&str] = &["serve"];
const LEVEL: Kind = Kind::Number(0.0, 1.0);
const LOOKS: Kind = Kind::Integer(1, 10_000);

/// All keys, in the order of `config/tidemark.toml`.
pub const KEYS: &[Key] = &[
    key("spec", Kind::Text, ALL),
    key("instance", Kind::Text, RUN),
    contract("mongodb.uri", "MONGODB_URI", Kind::MongodbUri, MONGODB),
    contract("mongodb.database", "MONGODB_DATABASE", Kind::Text, MONGODB),
    key("mongodb.trigger_documents", Kind::Flag, RUN),
    contract("kafka.bootstrap_servers", "KAFKA_BOOTSTRAP_SERVERS", Kind::Servers, KAFKA),
    key("kafka.topic_prefix", Kind::Prefix, KAFKA),
    key("kafka.partitions", Kind::Integer(1, 1_000), RUN),
    key("kafka.replication", Kind::Integer(1, 100), RUN),
    key("kafka.tickets_retention_days", Kind::Integer(2, 36_500), RUN),
    key("kafka.retention_days", Kind::Integer(1, 36_500), RUN),
    key("kafka.properties", Kind::Properties, KAFKA),
    contract("mlflow.tracking_uri", "MLFLOW_TRACKING_URI", Kind::Url, &["train", "config check --connect"]),
    contract("mlflow.experiment_name", "MLFLOW_EXPERIMENT_NAME", Kind::Text, TRAIN),
    contract("mlflow.token", "MLFLOW_TRACKING_TOKEN", Kind::Secret, TRAIN),
    contract("mlflow.username", "MLFLOW_TRACKING_USERNAME", Kind::Text, TRAIN),
    contract("mlflow.password", "MLFLOW_TRACKING_PASSWORD", Kind::Secret, TRAIN),
    contract("mlflow.ca_file", "MLFLOW_TRACKING_SERVER_CERT_PATH", Kind::Text, TRAIN),
    key("registry.directory", Kind::Text, TRAIN),
    key("registry.cache", Kind::Text, RUN),
    key("tail.start", Kind::Choice(&["now", "history"]), RUN),
    key("tail.history_lost", Kind::Choice(&["stop", "reread"]), RUN),
    key("tail.clock", Kind::Choice(&["auto", "commit", "tickets"]), RUN),
    key("tail.transaction_rows", Kind::Integer(1, 100_000), RUN),
    key("tail.batch_rows", Kind::Integer(1, 100_000), RUN),
    key("window.slice_ms", Kind::Slice, JUDGED),
    key("window.lateness_ms", Kind::Integer(0, 86_400_000), RUN),
    key("window.days", Kind::Days, JUDGED),
    key("window.max_rows", Kind::Integer(1_000, 1_000_000_000), RUN),
    key("judge.decision", Kind::Choice(&["calibrated", "thresholds"]), JUDGED),
    contract("judge.psi_critical", "ML_DRIFT_PSI_THRESHOLD", Kind::Number(0.000_001, 100.0), JUDGED),
    key("judge.psi_warning", Kind::Number(0.000_001, 100.0), JUDGED),
    key("judge.ks_critical", LEVEL, JUDGED),
    key("judge.ks_warning", LEVEL, JUDGED),
    key("judge.ks_p_critical", LEVEL, JUDGED),
    contract("judge.ks_p_warning", "ML_DRIFT_KS_PVALUE_THRESHOLD", LEVEL, JUDGED),
    contract("judge.mae_ratio_critical", "ML_DRIFT_MAE_RATIO_THRESHOLD", Kind::Number(1.0, 1_000.0), JUDGED),
    key("judge.mae_ratio_warning", Kind::Number(1.0, 1_000.0), JUDGED),
    key("judge.min_rows", Kind::Integer(1, 1_000_000_000), JUDGED),
    key("judge.error_days", Kind::Days, JUDGED),
    key("judge.target_days", Kind::Days, JUDGED),
    key("judge.feature_days", Kind::Days, JUDGED),
    key("judge.alpha", Kind::Number(1e-12, 0.5), JUDGED),
    key("judge.alpha_error_longest", Kind::Number(1e-12, 0.5), JUDGED),
    key("judge.error_looks", LOOKS, RUN),
    key("judge.target_looks", LOOKS, RUN),
    key("judge.feature_looks", LOOKS, RUN),
    key("judge.warning_looks", LOOKS, RUN),
    key("judge.close_looks", LOOKS, RUN),
    key("judge.retrain_on_single_cause", Kind::Flag, RUN),
    contract("check.window_days", "ML_DRIFT_CHECK_WINDOW_DAYS", Kind::Integer(1, 366), &["check"]),
    contract("train.window_days", "ML_TRAINING_WINDOW_DAYS", Kind::Integer(1, 36_500), TRAIN),
    contract("train.interval_hours", "ML_TRAINING_INTERVAL_HOURS", Kind::Integer(1, 876_000), TRAIN),
    contract("train.min_samples", "ML_MIN_TRAINING_SAMPLES", Kind::Integer(1, 1_000_000_000), TRAIN),
    contract("train.duration_error_threshold", "ML_DURATION_ERROR_THRESHOLD", Kind::Number(0.0, 10.0), TRAIN),
    contract("train.validation_precision_threshold", "ML_VALIDATION_PRECISION_THRESHOLD", LEVEL, TRAIN),
    contract("train.anomaly_contamination", "ML_ANOMALY_CONTAMINATION", Kind::Number(0.000_001, 0.5), TRAIN),
    contract("train.data_volume_trigger_threshold", "ML_DATA_VOLUME_TRIGGER_THRESHOLD", Kind::Integer(1, 1_000_000_000_000), TRAIN),
    key("train.min_interval_hours", Kind::Integer(0, 8_760), TRAIN),
    key("train.max_per_day", Kind::Integer(1, 24), TRAIN),
    key("train.max_rows", Kind::Integer(1_000, 16_000_000), TRAIN),
    contract("backfill.errors", "ML_BACKFILL_ERRORS", Kind::Flag, TRAIN),
    contract("backfill.history_retention_days", "ML_BACKFILL_HISTORY_RETENTION_DAYS", Kind::Integer(1, 36_500), &["backfill"]),
    contract("serve.enhanced_scheduling", "ENABLE_ML_ENHANCED_SCHEDULING", Kind::Flag, SERVE),
    key("serve.listen", Kind::Address, SERVE),
    key("serve.follow_seconds", Kind::Integer(1, 3_600), SERVE),
    key("serve.max_body_bytes", Kind::Integer(1_024, 64 << 20), SERVE),
    key("serve.max_batch", Kind::Integer(1, 10_000), SERVE),
    key("serve.timeout_ms", Kind::Integer(100, 60_000), SERVE),
    key("serve.max_concurrent", Kind::Integer(1, 10_000), SERVE),
    key("serve.max_requests_per_second", Kind::Integer(0, 1_000_000), SERVE),
    key("serve.worker_field", Kind::Text, SERVE),
    key("serve.open_statuses", Kind::Text, SERVE),
    key("audit.every_seconds", Kind::Integer(0, 31_536_000), RUN),
    key("webhook.url", Kind::Url, RUN),
    key("webhook.secret", Kind::Secret, RUN),
    key("http.listen", Kind::Address, RUN),
    key("http.max_requests_per_second", Kind::Integer(0, 1_000_000), RUN),
    key("log.format", Kind::Choice(&["text", "json"]), ALL),
    key("log.filter", Kind::Filter, ALL),
];

/// Returns the key of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    /// Returns its name in tidemark's own part of the environment: `TIDEMARK_KAFKA_PARTITIONS`.
    #[must_use]
    pub fn own_environment(&self) -> String {
        format!("TIDEMARK_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// Returns every environment name that sets it, the strongest first.
    #[must_use]
    pub fn environment(&self) -> Vec<String> {
        let mut names = vec![self.own_environment()];
        names.extend(self.contract.map(str::to_owned));
        names
    }
}

impl Kind {
    /// Whether its values are never shown as they are.
    #[must_use]
    pub fn is_secret(self) -> bool {
        matches!(self, Self::MongodbUri | Self::Secret | Self::Properties)
    }

    /// Says what is allowed.
    #[must_use]
    pub fn allowed(self) -> String {
        match self {
            Self::Text => "a text without control characters".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Integer(min, max) => format!("a whole number from {min} to {max}"),
            Self::Number(min, max) => format!("a number from {min} to {max}"),
            Self::Choice(words) => words.join(" or "),
            Self::Slice => "a divisor of a day from 1000 to 86400000 (3600000 is an hour)".to_owned(),
            Self::Days => "a list of whole numbers of days from 1 to 366, ascending: [1, 3, 7]".to_owned(),
            Self::Servers => "host:port, several with commas between them".to_owned(),
            Self::Prefix => "1 to 200 letters, digits, '.', '_' or '-'".to_owned(),
            Self::Address => "host:port, or empty for none".to_owned(),
            Self::Url => "an http:// or https:// URL with a host".to_owned(),
            Self::MongodbUri => {
                "mongodb:// or mongodb+srv:// with hosts; %-encode the characters @ : / ? # [ ] of user and password".to_owned()
            }
            Self::Secret => "a text of 8 to 4096 characters".to_owned(),
            Self::Properties => "a table of librdkafka property names and texts".to_owned(),
            Self::Filter => "a tracing filter: info, or warn,tidemark=debug".to_owned(),
        }
    }

    /// Reads a text from the environment or a flag.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<toml::Value> {
        let text = text.trim();
        Some(match self {
            Self::Flag => toml::Value::Boolean(match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => true,
                "false" | "0" | "no" | "off" => false,
                _ => return None,
            }),
            Self::Integer(..) | Self::Slice => toml::Value::Integer(text.parse().ok()?),
            Self::Number(..) => toml::Value::Float(text.parse().ok()?),
            Self::Days => {
                let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
                let days = inner.split(',').map(|day| day.trim().parse().map(toml::Value::Integer));
                toml::Value::Array(days.collect::<Result<_, _>>().ok()?)
            }
            Self::Properties => return None,
            Self::Choice(_) => toml::Value::String(text.to_ascii_lowercase()),
            _ => toml::Value::String(text.to_owned()),
        })
    }

    /// Returns the value in the form that the configuration takes, or `None` when it is not allowed.
    #[must_use]
    pub fn accept(self, value: &toml::Value) -> Option<toml::Value> {
        let fine = match (self, value) {
            (Self::Flag, toml::Value::Boolean(_)) => true,
            (Self::Integer(min, max), toml::Value::Integer(number)) => (min..=max).contains(number),
            (Self::Slice, toml::Value::Integer(number)) => (1_000..=86_400_000).contains(number) && 86_400_000 % number == 0,
            #[expect(clippy::cast_precision_loss, reason = "a whole number where a number is asked for")]
            (Self::Number(..), toml::Value::Integer(number)) => return self.accept(&toml::Value::Float(*number as f64)),
            (Self::Number(min, max), toml::Value::Float(number)) => (min..=max).contains(number),
            (Self::Days, toml::Value::Array(days)) => {
                let days: Option<Vec<i64>> = days.iter().map(toml::Value::as_integer).collect();
                let days = days?;
                !days.is_empty() && days.iter().all(|day| (1..=366).contains(day)) && days.is_sorted_by(|a, b| a < b)
            }
            (Self::Properties, toml::Value::Table(_)) => true,
            (_, toml::Value::String(text)) => self.accepts_text(text),
            _ => false,
        };
        fine.then(|| value.clone())
    }

    fn accepts_text(self, text: &str) -> bool {
        match self {
            Self::Text => !text.chars().any(char::is_control),
            Self::Choice(words) => words.contains(&text),
            Self::Servers => text.split(',').all(|server| is_host_port(server.trim())),
            Self::Prefix => {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
                (1..=200).contains(&text.len()) && text.chars().all(legal) && text != "." && text != ".."
            }
            Self::Address => text.is_empty() || is_host_port(text),
            Self::Url => url_host(text).is_some(),
            Self::MongodbUri => is_mongodb_uri(text),
            Self::Secret => (8..=4_096).contains(&text.len()),
            Self::Filter => tracing_subscriber::filter::EnvFilter::try_new(text).is_ok() && !text.is_empty(),
            _ => false,
        }
    }
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    (plain || bracketed) && port.parse::<u16>().is_ok()
}

fn url_host(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok()?;
    let http = matches!(url.scheme(), "http" | "https");
    url.host_str().filter(|host| http && !host.is_empty()).map(str::to_owned)
}

fn is_mongodb_uri(text: &str) -> bool {
    let scheme = text.starts_with("mongodb://") || text.starts_with("mongodb+srv://");
    scheme && mongodb::options::ConnectionString::parse(text).is_ok()
}

/// Whether a value may stand in a command line, where every user of the machine can read it.
#[must_use]
pub fn may_be_an_argument(kind: Kind, text: &str) -> bool {
    match kind {
        Kind::Secret | Kind::Properties => false,
        Kind::MongodbUri | Kind::Url => !has_password(text),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<String> = KEYS.iter().flat_map(Key::environment).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn the_contract_is_honoured_by_name() {
        for name in [
            "MONGODB_URI",
            "MONGODB_DATABASE",
            "KAFKA_BOOTSTRAP_SERVERS",
            "MLFLOW_TRACKING_URI",
            "MLFLOW_EXPERIMENT_NAME",
            "MLFLOW_TRACKING_SERVER_CERT_PATH",
            "ML_TRAINING_WINDOW_DAYS",
            "ML_TRAINING_INTERVAL_HOURS",
            "ML_MIN_TRAINING_SAMPLES",
            "ML_DURATION_ERROR_THRESHOLD",
            "ML_VALIDATION_PRECISION_THRESHOLD",
            "ML_ANOMALY_CONTAMINATION",
            "ML_DRIFT_CHECK_WINDOW_DAYS",
            "ML_DRIFT_PSI_THRESHOLD",
            "ML_DRIFT_MAE_RATIO_THRESHOLD",
            "ML_DRIFT_KS_PVALUE_THRESHOLD",
            "ML_DATA_VOLUME_TRIGGER_THRESHOLD",
            "ML_BACKFILL_ERRORS",
            "ML_BACKFILL_HISTORY_RETENTION_DAYS",
            "ENABLE_ML_ENHANCED_SCHEDULING",
        ] {
            assert!(KEYS.iter().any(|key| key.contract == Some(name)), "{name}");
        }
    }
}
