//! `tidemark config check --connect`: tries each server as the stages will use it, and says each.

use std::time::Duration;

use bson::{Document, doc};
use secrecy::ExposeSecret;
use serde::Serialize;

use crate::config::Config;
use crate::config::show::redact_uri;
use crate::log::kafka::KafkaLog;
use crate::log::{Log, TopicSettings};
use crate::registry::MlflowRegistry;
use crate::spec::Spec;
use crate::topics::Topics;

use super::mongo;
use super::session::mlflow_settings;

/// How long MLflow may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is asked of MLflow.
const EXPERIMENTS: &str = "experiments";

/// What was found at one server.
#[derive(Debug, Serialize)]
pub(super) struct Probe {
    /// Which.
    pub(super) server: &'static str,
    /// Where, without secrets; `None` when none is configured.
    pub(super) address: Option<String>,
    /// Whether it can be used; `None` when none is configured.
    pub(super) ok: Option<bool>,
    /// What was tried, in order.
    pub(super) steps: Vec<Step>,
}

/// One thing that was tried.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    /// What.
    pub(super) tried: String,
    /// Whether it went well.
    pub(super) ok: bool,
    /// What came back, and what to do.
    pub(super) found: String,
}

impl Probe {
    fn absent(server: &'static str) -> Self {
        Self { server, address: None, ok: None, steps: Vec::new() }
    }

    fn of(server: &'static str, address: String, steps: Vec<Step>) -> Self {
        Self { server, address: Some(address), ok: Some(steps.iter().all(|step| step.ok)), steps }
    }
}

fn good(tried: &str, found: impl Into<String>) -> Step {
    Step { tried: tried.to_owned(), ok: true, found: found.into() }
}

fn bad(tried: &str, found: impl Into<String>) -> Step {
    Step { tried: tried.to_owned(), ok: false, found: found.into() }
}

/// Tries all of them.
pub(super) fn all(config: &Config, spec: Option<&Spec>) -> Vec<Probe> {
    vec![mongodb(config, spec), kafka(config), mlflow(config)]
}

fn mongodb(config: &Config, spec: Option<&Spec>) -> Probe {
    let Some(uri) = &config.mongodb.uri else { return Probe::absent("MongoDB") };
    let address = redact_uri(uri.expose_secret());
    let steps = match mongo::connect(config) {
        Ok(connection) => connection.wait(mongodb_steps(&connection.client, config, spec)),
        Err(failure) => vec![bad("connect", failure.to_string())],
    };
    Probe::of("MongoDB", address, steps)
}

async fn mongodb_steps(client: &::mongodb::Client, config: &Config, spec: Option<&Spec>) -> Vec<Step> {
    let mut steps = Vec::new();
    let hello = match client.database("admin").run_command(doc! { "hello": 1 }).await {
        Ok(hello) => hello,
        Err(error) => {
            steps.push(bad("ping", format!("{}; is it up, and may this host reach it?", mongo::said(&error))));
            return steps;
        }
    };
    steps.push(good("ping", "answers"));
    match hello.get_str("setName") {
        Ok(name) => steps.push(good("replica set", name)),
        Err(_) if matches!(hello.get_str("msg"), Ok("isdbgrid")) => steps.push(good("replica set", "a sharded cluster")),
        Err(_) => {
            steps.push(bad("replica set", "a standalone server has no change streams; start it with --replSet and run rs.initiate()"))
        }
    }
    let Some(spec) = spec else {
        steps.push(bad("collection", "not tried: the watch spec has faults"));
        return steps;
    };
    let database = client.database(config.mongodb.database.as_deref().unwrap_or(&spec.source.database));
    let name = &spec.source.collection;
    let place = format!("{}.{name}", database.name());
    let collection = database.collection::<Document>(name);
    let filter = doc! { "name": name };
    match database.run_command(doc! { "listCollections": 1, "filter": filter, "nameOnly": false }).await {
        Ok(reply) => {
            let first = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).ok().and_then(|batch| batch.first());
            let options = first.and_then(|found| found.as_document()).and_then(|found| found.get_document("options").ok());
            let images = options.and_then(|options| options.get_document("changeStreamPreAndPostImages").ok());
            let enabled = images.is_some_and(|images| images.get_bool("enabled").unwrap_or(false));
            steps.push(match (first, enabled) {
                (None, _) => good("collection", format!("{place} does not exist yet; tickets are read from when it does")),
                (Some(_), true) => good("collection", format!("{place}, with pre- and post-images")),
                (Some(_), false) => good("collection", format!("{place}, without pre-images: a replace counts as an assumed completion")),
            });
        }
        Err(error) => steps.push(bad("collection", format!("cannot list {place}: {}; it takes listCollections", mongo::said(&error)))),
    }
    match collection.find_one(doc! {}).projection(doc! { "_id": 1 }).await {
        Ok(_) => steps.push(good("read", format!("{place} can be read"))),
        Err(error) => steps.push(bad("read", format!("cannot read {place}: {}; it takes find", mongo::said(&error)))),
    }
    match collection.watch().max_await_time(Duration::from_millis(1)).await {
        Ok(_) => steps.push(good("change stream", "opens")),
        Err(error) => {
            steps.push(bad("change stream", format!("cannot watch {place}: {}; it takes changeStream and find", mongo::said(&error))));
        }
    }
    steps
}

fn kafka(config: &Config) -> Probe {
    let Some(servers) = &config.kafka.bootstrap_servers else { return Probe::absent("Kafka") };
    Probe::of("Kafka", servers.clone(), kafka_steps(config))
}

fn kafka_steps(config: &Config) -> Vec<Step> {
    let log = match KafkaLog::connect(&config.kafka) {
        Ok(log) => log,
        Err(error) => return vec![bad("metadata", error.to_string())],
    };
    let mut steps = vec![good("metadata", "answers")];
    let mut missing = Vec::new();
    let mut right = 0;
    for TopicSettings { name, partitions: wanted, .. } in Topics::new(&config.kafka.topic_prefix).settings(&config.topic_plan()) {
        match log.partitions(&name) {
            Ok(0) => missing.push(name),
            Ok(found) if found == wanted => right += 1,
            Ok(found) => steps.push(bad(
                "topic",
                format!(
                    "{name} has {found} partitions, {wanted} are wanted; set kafka.partitions to {found}, or choose another kafka.topic_prefix"
                ),
            )),
            Err(error) => {
                steps.push(bad("topic", error.to_string()));
                return steps;
            }
        }
    }
    if right > 0 {
        steps.push(good("topics", format!("{right} are there with the right partitions")));
    }
    if !missing.is_empty() {
        steps.push(good("topics", format!("{} are missing and will be created: {}", missing.len(), missing.join(", "))));
    }
    // They need more than metadata: a coordinator, and the right to use a transactional id.
    steps.push(match log.producer(&format!("{}.check", config.kafka.topic_prefix)) {
        Ok(_) => good("transactions", "allowed"),
        Err(error) => bad("transactions", error.to_string()),
    });
    steps
}

fn mlflow(config: &Config) -> Probe {
    let Some(uri) = &config.mlflow.tracking_uri else { return Probe::absent("MLflow") };
    let mut settings = mlflow_settings(&config.mlflow, uri);
    settings.timeout = PATIENCE;
    let found = MlflowRegistry::new(&settings).and_then(|mlflow| mlflow.has_experiments());
    let step = match found {
        Ok(true) => good(EXPERIMENTS, "can be read"),
        Ok(false) => good(EXPERIMENTS, "can be read; there are none yet"),
        Err(error) => bad(EXPERIMENTS, error.reason()),
    };
    Probe::of("MLflow", redact_uri(uri), vec![step])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_configured_is_not_tried() {
        let probes = all(&Config::default(), None);
        assert_eq!(probes.len(), 3);
        assert!(probes.iter().all(|probe| probe.ok.is_none() && probe.steps.is_empty()));
    }

    #[test]
    fn a_server_that_is_not_there_is_named_without_its_password() {
        let mut config = Config::default();
        config.mongodb.uri = Some("mongodb://joe:hunter2@127.0.0.1:1/?serverSelectionTimeoutMS=200".into());
        config.mlflow.tracking_uri = Some("http://joe:hunter2@127.0.0.1:1".to_owned());
        config.kafka.bootstrap_servers = Some("127.0.0.1:1".to_owned());
        config.kafka.properties.insert("sasl.password".to_owned(), "hunter2".into());
        let probes = all(&config, None);
        let text = serde_json::to_string(&probes).unwrap();
        assert!(probes.iter().all(|probe| probe.ok == Some(false)), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_property_that_kafka_does_not_take_is_named_without_its_value() {
        let mut config = Config::default();
        config.kafka.bootstrap_servers = Some("127.0.0.1:1".to_owned());
        config.kafka.properties.insert("security.protocol".to_owned(), "hunter2".into());
        let text = serde_json::to_string(&all(&config, None)).unwrap();
        assert!(text.contains("security.protocol") && !text.contains("hunter2"), "{text}");
    }
}
