//! `tidemark config check --connect`: tries each server as the stages will use it, and says each.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{Document, doc};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use secrecy::ExposeSecret;
use serde::Serialize;

use crate::config::Config;
use crate::config::show::redact_uri;
use crate::log::kafka::advice;
use crate::registry::MlflowRegistry;
use crate::spec::Spec;
use crate::topics::Topics;

use super::mongo;
use super::session::mlflow_settings;

/// How long a server may take.
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

/// Keeps what librdkafka says by the way: why a connection fails is not in the error of the call.
#[derive(Clone, Default)]
struct Words(Arc<Mutex<Vec<String>>>);

impl Words {
    fn keep(&self, reason: &str) {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = words.iter().all(|word| word != reason);
        if is_news && words.len() < 3 {
            words.push(reason.to_owned());
        }
    }
}

impl ClientContext for Words {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What made a connection fail, with librdkafka's own guess at the reason.
        if facility == "FAIL" {
            let said = message.split_once("]: ").map_or(message, |(_thread, said)| said);
            self.keep(said);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // That all are down is what the others explain.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.keep(reason);
        }
    }
}

impl ConsumerContext for Words {}

fn kafka(config: &Config) -> Probe {
    let Some(servers) = &config.kafka.bootstrap_servers else { return Probe::absent("Kafka") };
    Probe::of("Kafka", servers.clone(), kafka_steps(config, servers))
}

fn kafka_steps(config: &Config, servers: &str) -> Vec<Step> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", servers).set("reconnect.backoff.ms", "500").set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in &config.kafka.properties {
        client.set(name, value.expose_secret());
    }
    let words = Words::default();
    let consumer: BaseConsumer<Words> = match client.create_with_context(words.clone()) {
        Ok(consumer) => consumer,
        Err(error) => return vec![bad("configure", format!("librdkafka refuses kafka.properties: {error}"))],
    };
    let metadata = match consumer.fetch_metadata(None, PATIENCE) {
        Ok(metadata) => metadata,
        Err(error) => {
            // Polls hand over what was said meanwhile.
            (0..10).for_each(|_| drop(consumer.poll(Duration::from_millis(10))));
            let why = words.0.lock().unwrap_or_else(PoisonError::into_inner).join("; ");
            let why = if why.is_empty() { error.to_string() } else { why };
            return vec![bad("metadata", format!("{why}; {}", advice(&why)))];
        }
    };
    let mut steps = vec![good("metadata", format!("{} brokers", metadata.brokers().len()))];
    let topics = Topics::new(&config.kafka.topic_prefix);
    let mut missing = Vec::new();
    let mut right = 0;
    for wanted in topics.settings(&config.topic_plan()) {
        let found = metadata.topics().iter().find(|topic| topic.name() == wanted.name);
        let Some(found) = found.filter(|topic| topic.error().is_none()) else {
            missing.push(wanted.name);
            continue;
        };
        let partitions = found.partitions().len();
        if partitions == wanted.partitions as usize {
            right += 1;
        } else {
            let name = &wanted.name;
            steps.push(bad(
                "topic",
                format!(
                    "{name} has {partitions} partitions, {} are wanted; set kafka.partitions to {partitions}, or choose another kafka.topic_prefix",
                    wanted.partitions
                ),
            ));
        }
    }
    if right > 0 {
        steps.push(good("topics", format!("{right} are there with the right partitions")));
    }
    if !missing.is_empty() {
        steps.push(good("topics", format!("{} are missing and will be created: {}", missing.len(), missing.join(", "))));
    }
    steps.extend(transactions(&client, config));
    steps
}

/// Transactions need more than metadata: a coordinator, and the right to use a transactional id.
fn transactions(client: &ClientConfig, config: &Config) -> Option<Step> {
    use rdkafka::producer::{BaseProducer, Producer};
    let id = format!("{}.check", config.kafka.topic_prefix);
    let mut client = client.clone();
    client.set("transactional.id", &id).set("transaction.timeout.ms", "10000").set_log_level(RDKafkaLogLevel::Emerg);
    let tried = "transactions";
    let producer: BaseProducer = match client.create() {
        Ok(producer) => producer,
        Err(error) => return Some(bad(tried, format!("librdkafka refuses kafka.properties: {error}"))),
    };
    Some(match producer.init_transactions(PATIENCE) {
        Ok(()) => good(tried, "allowed"),
        Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TransactionalIdAuthorizationFailed) => bad(
            tried,
            format!(
                "not allowed to use transactional id {id}; grant Write and Describe on transactional ids {}.*",
                config.kafka.topic_prefix
            ),
        ),
        Err(error) => bad(tried, format!("init_transactions with id {id}: {error}; does the transaction coordinator have enough brokers?")),
    })
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
}
