//! Answers that no broker gives at will, from librdkafka's mock of one.

use bytes::Bytes;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};

use super::*;
use crate::config;

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn producer(cluster: &Cluster) -> KafkaProducer {
    let config = config::Kafka { bootstrap_servers: Some(cluster.bootstrap_servers()), ..config::Kafka::default() };
    KafkaProducer::init(&Properties::new(&config).unwrap(), "id").unwrap()
}

fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    cluster.create_topic("position", 1, 1).unwrap();
    cluster
}

fn transaction() -> Transaction {
    let record = |topic: &str| Record {
        topic: topic.into(),
        partition: 0,
        key: None,
        value: Some(Bytes::from_static(b"value")),
        headers: vec![("kind".into(), Bytes::from_static(b"ticket"))],
    };
    Transaction { records: vec![record("t"), record("t")], last: vec![record("position")], offsets: None }
}

#[test]
fn a_commit_whose_connection_was_lost_is_unknown_although_librdkafka_sends_it_again_and_reports_success() {
    let cluster = cluster();
    let mut producer = producer(&cluster);
    producer.transact(transaction()).unwrap();
    cluster.request_errors(Api::EndTxn, &[Answer::RD_KAFKA_RESP_ERR__TRANSPORT]);
    let outcome = producer.transact(transaction());
    assert!(matches!(outcome, Err(TransactError::Unknown { ref reason }) if reason.starts_with("committed, but")), "{outcome:?}");
    assert!(matches!(producer.transact(transaction()), Err(TransactError::Aborted { .. })), "the producer is spent");
}

#[test]
fn a_second_lost_connection_that_librdkafka_does_not_report_is_noticed_by_the_time_it_took() {
    let cluster = cluster();
    let mut producer = producer(&cluster);
    let lost = Answer::RD_KAFKA_RESP_ERR__TRANSPORT;
    for _ in 0..3 {
        cluster.request_errors(Api::Produce, &[lost]);
        producer.transact(transaction()).unwrap();
    }
    cluster.request_errors(Api::EndTxn, &[lost]);
    let outcome = producer.transact(transaction());
    assert!(matches!(outcome, Err(TransactError::Unknown { .. })), "{outcome:?}");
}

#[test]
fn a_lost_connection_before_the_commit_costs_nothing() {
    let cluster = cluster();
    let mut producer = producer(&cluster);
    cluster.request_errors(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR__TRANSPORT]);
    producer.transact(transaction()).unwrap();
}

#[test]
fn a_refused_end_is_fenced_or_unknown_but_never_a_success() {
    let fenced = cluster();
    let mut first = producer(&fenced);
    fenced.request_errors(Api::EndTxn, &[Answer::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    let outcome = first.transact(transaction());
    assert!(matches!(outcome, Err(TransactError::Fenced { ref id }) if id == "id"), "{outcome:?}");

    let refusing = cluster();
    let mut second = producer(&refusing);
    refusing.request_errors(Api::EndTxn, &[Answer::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE]);
    let outcome = second.transact(transaction());
    assert!(matches!(outcome, Err(TransactError::Unknown { .. } | TransactError::Aborted { .. })), "{outcome:?}");
}

#[test]
fn a_broker_that_takes_less_than_we_send_is_too_large() {
    let cluster = cluster();
    let mut producer = producer(&cluster);
    cluster.request_errors(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let outcome = producer.transact(transaction());
    assert!(matches!(outcome, Err(TransactError::TooLarge { ref topic, bytes: 5 }) if topic == "t"), "{outcome:?}");
}

#[test]
fn a_refused_partition_aborts() {
    let cluster = cluster();
    let mut producer = producer(&cluster);
    cluster.request_errors(Api::AddPartitionsToTxn, &[Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let outcome = producer.transact(transaction());
    assert!(matches!(outcome, Err(TransactError::Aborted { .. })), "{outcome:?}");
}

#[test]
fn a_coordinator_that_still_loads_is_waited_for() {
    let cluster = cluster();
    let loading = Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    cluster.request_errors(Api::InitProducerId, &[loading, loading]);
    producer(&cluster).transact(transaction()).unwrap();
}
