//! What others do to topics that are ours: delete them, give them partitions, take their beginning, leave a transaction open in them.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::MetadataPartition;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::mongo::runtime;
use super::process::wait_until;

const LIMIT: Duration = Duration::from_mins(1);
const ASK: Duration = Duration::from_secs(10);
/// How long a transaction may hang: no test takes so long, and a broker allows no more than a quarter of an hour.
const HANGS_FOR: Duration = Duration::from_mins(10);

fn admin(bootstrap_servers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", bootstrap_servers).create().expect("a valid configuration")
}

/// A reader of committed records, as every client is that asks for nothing else.
fn consumer(bootstrap_servers: &str, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()
        .expect("a valid configuration")
}

/// Waits until a topic has so many partitions, each with a leader.
fn wait_for_partitions(bootstrap_servers: &str, topic: &str, count: usize) {
    let client = consumer(bootstrap_servers, "somebody-else");
    wait_until("the topic has its new number of partitions", LIMIT, || {
        let metadata = client.fetch_metadata(Some(topic), ASK).ok()?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let leaders: Vec<i32> = found.map_or_else(Vec::new, |found| found.partitions().iter().map(MetadataPartition::leader).collect());
        (leaders.len() == count && leaders.iter().all(|leader| *leader >= 0)).then_some(())
    });
}

/// Deletes a topic.
pub(crate) fn delete_topic(bootstrap_servers: &str, topic: &str) {
    let admin = admin(bootstrap_servers);
    let deleted = runtime().block_on(admin.delete_topics(&[topic], &AdminOptions::new())).expect("the broker answers");
    for one in deleted {
        one.expect("the topic can be deleted");
    }
    wait_for_partitions(bootstrap_servers, topic, 0);
}

/// Gives a topic more partitions, so that it has `count`.
pub(crate) fn add_partitions(bootstrap_servers: &str, topic: &str, count: usize) {
    let admin = admin(bootstrap_servers);
    let new = [NewPartitions::new(topic, count)];
    let added = runtime().block_on(admin.create_partitions(&new, &AdminOptions::new())).expect("the broker answers");
    for one in added {
        one.expect("partitions can be added");
    }
    wait_for_partitions(bootstrap_servers, topic, count);
}

/// Has the broker forget what is before these offsets of a topic's partitions, the first one's first, as its retention would.
pub(crate) fn forget_before(bootstrap_servers: &str, topic: &str, offsets: &[i64]) {
    let admin = admin(bootstrap_servers);
    let mut before = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(offsets) {
        before.add_partition_offset(topic, partition, Offset::Offset(*offset)).expect("it is an offset");
    }
    let forgotten = runtime().block_on(admin.delete_records(&before, &AdminOptions::new())).expect("the broker answers");
    assert_eq!(forgotten.count(), before.count());
    for partition in forgotten.elements() {
        partition.error().expect("records can be deleted");
    }
}

/// Writes a record into a topic's first partition in a transaction of `id`, and never ends it. Whoever takes the id over does.
pub(crate) fn hang(bootstrap_servers: &str, id: &str, topic: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .set("transactional.id", id)
        .set("transaction.timeout.ms", HANGS_FOR.as_millis().to_string())
        .create()
        .expect("a valid configuration");
    producer.init_transactions(Duration::from_secs(30)).expect("the id is free");
    producer.begin_transaction().expect("a transaction begins");
    // A compacted topic takes no record without a key.
    let record = BaseRecord::<[u8], [u8]>::to(topic).partition(0).key(b"hanging").payload(b"hanging");
    producer.send(record).expect("there is room for a record");
    producer.flush(ASK).expect("the record is acknowledged");
}

/// Returns where the first partition of a topic ends for those who read committed records.
pub(crate) fn stable_end(bootstrap_servers: &str, topic: &str) -> i64 {
    consumer(bootstrap_servers, "somebody-else").fetch_watermarks(topic, 0, ASK).expect("the broker answers").1
}

/// Returns what a group has committed of a topic's first partition.
pub(crate) fn committed(bootstrap_servers: &str, group: &str, topic: &str) -> i64 {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, 0);
    let committed = consumer(bootstrap_servers, group).committed_offsets(asked, ASK).expect("the broker answers");
    match committed.find_partition(topic, 0).expect("it was asked for").offset() {
        Offset::Offset(offset) => offset,
        other => panic!("{group} has committed {other:?} of {topic}"),
    }
}
