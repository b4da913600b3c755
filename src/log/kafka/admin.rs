//! Makes the topics that are missing and looks at those that are there.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::errors::{patiently, unavailable};
use super::notices::Notices;
use super::properties::Properties;
use super::{ANSWER_WITHIN, Cluster};
use crate::log::refusal::{self, Existing};
use crate::log::{LogError, MAX_RECORD_BYTES, TopicSettings};

/// How long a new topic may take to have leaders everywhere.
const LED_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a batch of one record takes besides its key and value.
const FRAMING_BYTES: usize = 64 << 10;

pub(super) fn create(properties: &Properties, cluster: &Cluster, topics: &[TopicSettings]) -> Result<(), LogError> {
    let mut missing = Vec::new();
    let mut present = Vec::new();
    for topic in topics {
        match cluster.partitions(&topic.name)? {
            0 => missing.push(topic),
            partitions => present.push((topic, partitions)),
        }
    }
    let client: AdminClient<Notices> = properties.create(Notices::new("administration"))?;
    // Nothing is created while something is wrong.
    check(&client, &present)?;
    for topic in missing {
        make(&client, topic)?;
        wait_for_leaders(cluster, topic)?;
    }
    Ok(())
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_WITHIN)).operation_timeout(Some(ANSWER_WITHIN))
}

fn make(client: &AdminClient<Notices>, topic: &TopicSettings) -> Result<(), LogError> {
    let doing = || format!("creating topic {}", topic.name);
    let (retention_ms, bytes) = (topic.retention_ms.unwrap_or(-1).to_string(), (MAX_RECORD_BYTES + FRAMING_BYTES).to_string());
    let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
    let copies = i32::try_from(topic.replication).unwrap_or(i32::MAX);
    let mut new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(copies)).set("max.message.bytes", &bytes);
    if topic.append_time {
        new = new.set("message.timestamp.type", "LogAppendTime");
    }
    if topic.replication >= 3 {
        new = new.set("min.insync.replicas", "2");
    }
    new = if topic.compacted {
        // Only closed segments are compacted: small ones keep the topic near one record a key.
        new.set("cleanup.policy", "compact")
            .set("segment.bytes", "16777216")
            .set("segment.ms", "600000")
            .set("delete.retention.ms", "60000")
    } else {
        new.set("cleanup.policy", "delete").set("retention.ms", &retention_ms).set("retention.bytes", "-1")
    };
    let results = block_on(client.create_topics([&new], &options())).map_err(|error| unavailable(doing(), &error))?;
    if let Some((_, code)) = results.into_iter().find_map(Result::err) {
        let advice = match code {
            // A twin of this process was faster.
            Code::TopicAlreadyExists => return Ok(()),
            Code::InvalidReplicationFactor => "; there are fewer brokers than kafka.replication",
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => "; allow it to create topics, or create this one for it",
            _ => "",
        };
        return Err(LogError::Unavailable { doing: doing(), reason: format!("{code}{advice}") });
    }
    tracing::info!(topic = topic.name, partitions = topic.partitions, "created a topic");
    Ok(())
}

fn wait_for_leaders(cluster: &Cluster, topic: &TopicSettings) -> Result<(), LogError> {
    let give_up = Instant::now() + LED_WITHIN;
    loop {
        let led = cluster.partitions(&topic.name)?;
        if led == topic.partitions {
            return Ok(());
        }
        if Instant::now() >= give_up {
            let reason = format!("{led} of {} partitions have a leader after {} s", topic.partitions, LED_WITHIN.as_secs());
            return Err(LogError::Unavailable { doing: format!("creating topic {}", topic.name), reason });
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn check(client: &AdminClient<Notices>, topics: &[(&TopicSettings, u32)]) -> Result<(), LogError> {
    if topics.is_empty() {
        return Ok(());
    }
    let asked: Vec<ResourceSpecifier<'_>> = topics.iter().map(|(topic, _)| ResourceSpecifier::Topic(&topic.name)).collect();
    let answers = patiently(ANSWER_WITHIN, |_| block_on(client.describe_configs(&asked, &options())))
        .map_err(|error| unavailable("asking for the settings of our topics".to_owned(), &error))?;
    for ((topic, partitions), answer) in topics.iter().zip(answers) {
        let doing = || format!("asking for the settings of topic {}", topic.name);
        let settings = answer.map_err(|code| LogError::Unavailable { doing: doing(), reason: code.to_string() })?;
        if settings.entries.is_empty() {
            // rdkafka does not look at the error of one topic: a refusal is a list of nothing.
            let reason = "the broker does not tell them; the user needs DescribeConfigs on the topic".to_owned();
            return Err(LogError::Unavailable { doing: doing(), reason });
        }
        refusal::check(topic, &existing(*partitions, &settings))?;
    }
    Ok(())
}

fn existing(partitions: u32, settings: &ConfigResource) -> Existing {
    let value = |name: &str| settings.get(name).and_then(|entry| entry.value.as_deref()).unwrap_or_default();
    let bound = |name: &str| value(name).parse().ok().filter(|value: &i64| *value >= 0);
    let policies: Vec<&str> = value("cleanup.policy").split(',').map(str::trim).collect();
    Existing {
        partitions,
        compacted: policies.contains(&"compact"),
        deletes: policies.contains(&"delete"),
        retention_ms: bound("retention.ms"),
        retention_bytes: bound("retention.bytes"),
        append_time: value("message.timestamp.type") == "LogAppendTime",
    }
}

/// Waits for a future on this thread. librdkafka's own thread completes it.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
