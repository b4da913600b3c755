//! librdkafka's properties for each kind of client.

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use secrecy::{ExposeSecret, SecretString};

use super::errors::reason;
use crate::config;
use crate::config::faults::RESERVED_PROPERTIES;
use crate::log::{LogError, MAX_RECORD_BYTES};

/// The name by which a member of a group keeps its seat when its process is started again (KIP-345); of members alone.
const SEAT: &str = "group.instance.id";

/// Of every consumer, where the operator says nothing else.
const CONSUMER: [(&str, &str); 6] = [
    ("session.timeout.ms", "6000"),
    ("heartbeat.interval.ms", "1500"),
    // A transaction at its slowest, and a commit of it, fit between two polls.
    ("max.poll.interval.ms", "45000"),
    ("fetch.wait.max.ms", "50"),
    // By default a reader that is faster than the broker sleeps for a second.
    ("fetch.queue.backoff.ms", "5"),
    ("queued.max.messages.kbytes", "8192"),
];

/// Of every producer, where the operator says nothing else.
const PRODUCER: [(&str, &str); 4] = [
    // librdkafka (2.12, issues 5456 and 5511) waits without end for a group's coordinator that has gone while offsets are sent, until any
    // of its connections changes: one that is idle for longer than a commit may take is closed, which is such a change.
    ("connections.max.idle.ms", "20000"),
    // All of a transaction waits while its partitions are registered, and is batched there: there is nothing to wait for.
    ("linger.ms", "0"),
    ("queue.buffering.max.kbytes", "65536"),
    ("transaction.timeout.ms", "10000"),
];

/// What all clients of one cluster share.
#[derive(Clone)]
pub(super) struct Properties {
    shared: ClientConfig,
    /// [`SEAT`].
    seat: Option<String>,
    secrets: Vec<SecretString>,
    servers: String,
    prefix: String,
}

impl Properties {
    pub(super) fn new(config: &config::Kafka) -> Result<Self, LogError> {
        let refuse = |reason| Err(LogError::Unavailable { doing: "configuring Kafka".to_owned(), reason });
        let Some(servers) = config.bootstrap_servers.clone().filter(|servers| !servers.trim().is_empty()) else {
            return refuse("no servers are configured; set kafka.bootstrap_servers or KAFKA_BOOTSTRAP_SERVERS".to_owned());
        };
        let mut shared = ClientConfig::new();
        shared
            .set("client.id", "tidemark")
            .set("bootstrap.servers", &servers)
            .set("message.max.bytes", MAX_RECORD_BYTES.to_string())
            // A client waits half of this between its first connection, to a bootstrap server, and that to the real broker: a stage has
            // some of them one after the other, and is to be back soon.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            // A lost connection with one request in flight is said at this level.
            .set_log_level(RDKafkaLogLevel::Info);
        for (name, value) in &config.properties {
            if RESERVED_PROPERTIES.contains(&name.as_str()) {
                return refuse(format!("kafka.properties may not set {name}: exactly-once rests on it; remove it"));
            }
            shared.set(name, value.expose_secret());
        }
        let seat = shared.get(SEAT).map(str::to_owned);
        shared.remove(SEAT);
        let secrets = config.properties.values().cloned().collect();
        Ok(Self { shared, seat, secrets, servers, prefix: config.topic_prefix.clone() })
    }

    pub(super) fn servers(&self) -> &str {
        &self.servers
    }

    /// What the names of topics, groups and transactional ids begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// For administration, and for questions to the cluster.
    pub(super) fn create<C: ClientContext, T: FromClientConfigAndContext<C>>(&self, context: C) -> Result<T, LogError> {
        self.build(&self.shared, context)
    }

    /// For questions about the ends of partitions, as a reader of that isolation sees them.
    pub(super) fn consumer_without_group<C: ConsumerContext>(&self, isolation: &str, context: C) -> Result<BaseConsumer<C>, LogError> {
        let mut config = self.with_defaults(&CONSUMER);
        config.set("isolation.level", isolation);
        self.build(&config, context)
    }

    /// For a transactional producer.
    pub(super) fn producer<C: ClientContext, T: FromClientConfigAndContext<C>>(&self, id: &str, context: C) -> Result<T, LogError> {
        let mut config = self.with_defaults(&PRODUCER);
        config.set("transactional.id", id).set("enable.idempotence", "true").set("acks", "all").set("delivery.report.only.error", "true");
        // A topic that somebody deleted is not made again by a broker's own idea of it.
        config.set("allow.auto.create.topics", "false");
        self.build(&config, context)
    }

    /// For a member of `group`.
    pub(super) fn member<C: ConsumerContext>(&self, group: &str, context: C) -> Result<BaseConsumer<C>, LogError> {
        self.build(&self.of_member(group), context)
    }

    fn of_member(&self, group: &str) -> ClientConfig {
        let mut config = self.consumer(group);
        // Eager: a new generation begins only after every member has heard that the old one is over.
        config.set("partition.assignment.strategy", "range");
        if let Some(seat) = &self.seat {
            config.set(SEAT, seat);
        }
        config
    }

    /// For a client that reads what it assigns itself, and says when it has met the end: so long after it was there.
    pub(super) fn reader<C: ConsumerContext>(&self, wait_ms: u32, context: C) -> Result<BaseConsumer<C>, LogError> {
        let mut config = self.consumer(&format!("{}.reader", self.prefix));
        config.set("enable.partition.eof", "true").set("fetch.wait.max.ms", wait_ms.to_string());
        // A follower's end may lie before what the leader has committed: read back from there, a transaction would be missing.
        config.set("client.rack", "");
        self.build(&config, context)
    }

    /// For a client that fetches what a member was assigned.
    pub(super) fn fetcher<C: ConsumerContext>(&self, context: C) -> Result<BaseConsumer<C>, LogError> {
        self.build(&self.consumer(&format!("{}.fetcher", self.prefix)), context)
    }

    fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.with_defaults(&CONSUMER);
        config
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error");
        config
    }

    /// Sets what the operator has not set.
    fn with_defaults(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = self.shared.clone();
        for (name, value) in defaults {
            if config.get(name).is_none() {
                config.set(*name, *value);
            }
        }
        config
    }

    fn build<C: ClientContext, T: FromClientConfigAndContext<C>>(&self, config: &ClientConfig, context: C) -> Result<T, LogError> {
        config.create_with_context(context).map_err(|error| {
            let reason = self.secrets.iter().fold(reason(&error), |said, secret| mask(&said, secret.expose_secret()));
            LogError::Unavailable { doing: format!("configuring Kafka at {}", self.servers), reason }
        })
    }
}

fn mask(said: &str, secret: &str) -> String {
    if secret.is_empty() { said.to_owned() } else { said.replace(secret, "***") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::log::kafka::notices::Notices;

    fn with(name: &str, value: &str) -> Result<Properties, LogError> {
        let properties = BTreeMap::from([(name.to_owned(), value.into())]);
        Properties::new(&config::Kafka { bootstrap_servers: Some("h:1".into()), properties, ..config::Kafka::default() })
    }

    #[test]
    fn what_exactly_once_rests_on_cannot_be_set() {
        for name in RESERVED_PROPERTIES {
            let error = with(name, "x").err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn the_operators_values_win_over_our_defaults() {
        let properties = with("linger.ms", "7").unwrap();
        assert_eq!(properties.with_defaults(&[("linger.ms", "1"), ("fetch.min.bytes", "2")]).get("linger.ms"), Some("7"));
    }

    #[test]
    fn a_seat_is_for_members_alone() {
        let properties = with(SEAT, "a").unwrap();
        assert_eq!(properties.shared.get(SEAT), None);
        assert_eq!(properties.of_member("g").get(SEAT), Some("a"));
    }

    #[test]
    fn a_value_that_is_not_accepted_is_named_by_its_key_alone() {
        let properties = with("security.protocol", "hunter2").unwrap();
        let error = properties.consumer_without_group("read_committed", Notices::new("test")).err().unwrap().to_string();
        assert!(error.contains("security.protocol") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn properties_that_do_not_fit_together_are_named_without_their_values() {
        let properties = with("ssl.ca.location", "/there/is/no/hunter2").unwrap();
        let properties = Properties { shared: properties.with_defaults(&[("security.protocol", "ssl")]), ..properties };
        let error = properties.consumer_without_group("read_committed", Notices::new("test")).err().unwrap().to_string();
        assert!(error.contains("ssl.ca.location") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn no_servers_is_said_with_the_key_to_set() {
        let error = Properties::new(&config::Kafka::default()).err().unwrap().to_string();
        assert!(error.contains("kafka.bootstrap_servers"), "{error}");
    }
}
