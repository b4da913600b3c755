//! The contract of the log's seam, held against both of its implementations.

mod cases;

use std::time::{Duration, Instant};

use tidemark::config;
use tidemark::log::kafka::KafkaLog;
use tidemark::log::memory::{Fault, Limits, MemoryLog};
use tidemark::log::{Log, Record, Transaction};

use crate::support::{kafka, meddling};

/// A log under test, and what no stage can do but the world does.
pub(crate) struct Bench<'a> {
    pub(crate) log: &'a dyn Log,
    /// The same log, but it ousts a member that is silent for a few seconds.
    pub(crate) impatient: &'a dyn Log,
    /// Leaves a transaction of that id open, with one record in that topic.
    pub(crate) hang: &'a (dyn Fn(&str, &str) + Sync),
    /// Forgets the records of the topic's first partition before that offset.
    pub(crate) truncate: &'a (dyn Fn(&str, i64) + Sync),
}

/// Runs all cases at once, each on topics and groups of its own. A case that fails is named by its thread.
fn hold(bench: &Bench<'_>) {
    std::thread::scope(|scope| {
        for (name, case) in cases::ALL {
            let thread = std::thread::Builder::new().name((*name).to_owned());
            thread.spawn_scoped(scope, move || case(bench, name)).expect("a thread starts");
        }
    });
}

#[test]
fn the_log_in_memory_keeps_the_contract() {
    let log = MemoryLog::bounded(Limits {
        rebalance_patience: Duration::from_millis(300),
        hanging_patience: Duration::from_millis(600),
        ..Limits::default()
    });
    let hang = |id: &str, topic: &str| {
        log.inject(id, 0, Fault::Hang);
        let record = Record { topic: topic.into(), partition: 0, key: None, value: None, headers: Vec::new() };
        let transaction = Transaction { records: vec![record], ..Transaction::default() };
        log.producer(id).unwrap().transact(transaction).unwrap_err();
    };
    let truncate = |topic: &str, offset| log.truncate(topic, 0, offset);
    hold(&Bench { log: &log, impatient: &log, hang: &hang, truncate: &truncate });
}

#[test]
fn the_log_on_kafka_keeps_the_contract() {
    let servers = &kafka().bootstrap_servers;
    let hang = |id: &str, topic: &str| meddling::hang(servers, id, topic);
    let truncate = |topic: &str, offset| meddling::forget_before(servers, topic, &[offset]);
    // A machine that is busy with other tests must not oust anybody.
    let log = connect(servers, &[("session.timeout.ms", "30000")]).unwrap();
    let impatient = connect(servers, &[("max.poll.interval.ms", "6000")]).unwrap();
    hold(&Bench { log: &log, impatient: &impatient, hang: &hang, truncate: &truncate });
}

fn connect(servers: &str, properties: &[(&str, &str)]) -> Result<KafkaLog, tidemark::log::LogError> {
    let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    KafkaLog::connect(&config::Kafka { bootstrap_servers: Some(servers.to_owned()), properties, ..config::Kafka::default() })
}

#[test]
fn a_cluster_that_nobody_answers_for_is_named_within_a_bounded_time_and_no_secret_is() {
    let begun = Instant::now();
    let secrets = [("sasl.username", "someone"), ("sasl.password", "hunter2")];
    let error = connect("127.0.0.1:1,127.0.0.1:2", &secrets).err().unwrap().to_string();
    assert!(error.contains("127.0.0.1:1,127.0.0.1:2"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}
