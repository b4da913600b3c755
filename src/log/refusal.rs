//! What makes an existing topic unfit, in words for the person who has to decide.

use super::{LogError, TopicSettings};

/// What an existing topic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Existing {
    pub(crate) partitions: u32,
    pub(crate) compacted: bool,
    /// Also deletes by age or size, compacted or not.
    pub(crate) deletes: bool,
    /// `None` keeps for ever.
    pub(crate) retention_ms: Option<i64>,
    /// Largest total size of a partition; `None` for no bound.
    pub(crate) retention_bytes: Option<i64>,
    /// Records carry the broker's append time.
    pub(crate) append_time: bool,
}

/// Refuses `existing` when it is not what `wanted` says.
///
/// More retention than wanted is fine: it is the operator's disk. Copies are not compared: they change how safe a topic is,
/// not what it means.
pub(crate) fn check(wanted: &TopicSettings, existing: &Existing) -> Result<(), LogError> {
    match reason(wanted, existing) {
        None => Ok(()),
        Some(reason) => Err(LogError::WrongTopic { topic: wanted.name.clone(), reason }),
    }
}

fn reason(wanted: &TopicSettings, existing: &Existing) -> Option<String> {
    let name = &wanted.name;
    if existing.partitions != wanted.partitions {
        return Some(format!(
            "it has {} partitions, {} are configured; set kafka.partitions to {} before the first start; to a topic in use Kafka adds \
             partitions and takes none back: begin anew with another kafka.topic_prefix",
            existing.partitions, wanted.partitions, existing.partitions
        ));
    }
    if wanted.compacted && (!existing.compacted || existing.deletes) {
        return Some(format!(
            "its cleanup.policy is not plain compact, so it would forget its keys; \
             kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config cleanup.policy=compact"
        ));
    }
    if !wanted.compacted && existing.compacted {
        return Some(format!(
            "its cleanup.policy compacts, so records would vanish from within; \
             kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config cleanup.policy=delete"
        ));
    }
    if wanted.compacted {
        return None;
    }
    let needed = wanted.retention_ms.unwrap_or(i64::MAX);
    let kept = existing.retention_ms.unwrap_or(i64::MAX);
    if kept < needed {
        let wanted_ms = wanted.retention_ms.map_or_else(|| "-1".to_owned(), |ms| ms.to_string());
        return Some(format!(
            "it keeps records for {kept} ms, {wanted_ms} are needed; \
             kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config retention.ms={wanted_ms}"
        ));
    }
    if wanted.append_time && !existing.append_time {
        return Some(format!(
            "it deletes records by the time their producer gave them, so a backlog could vanish unread; kafka-configs.sh --alter \
             --entity-type topics --entity-name {name} --add-config message.timestamp.type=LogAppendTime"
        ));
    }
    if let Some(bytes) = existing.retention_bytes {
        return Some(format!(
            "it keeps at most {bytes} bytes a partition, whatever their age; \
             kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config retention.bytes=-1"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> TopicSettings {
        TopicSettings { name: "t".into(), partitions: 4, replication: 1, compacted: false, retention_ms: Some(1_000), append_time: true }
    }

    fn existing() -> Existing {
        Existing { partitions: 4, compacted: false, deletes: true, retention_ms: Some(1_000), retention_bytes: None, append_time: true }
    }

    #[test]
    fn a_topic_that_keeps_as_much_or_more_is_taken() {
        assert_eq!(reason(&wanted(), &existing()), None);
        assert_eq!(reason(&wanted(), &Existing { retention_ms: Some(1_001), ..existing() }), None);
        assert_eq!(reason(&wanted(), &Existing { retention_ms: None, ..existing() }), None);
    }

    #[test]
    fn each_difference_is_named_with_what_to_do() {
        let cases = [
            (wanted(), Existing { partitions: 5, ..existing() }, "partitions"),
            (wanted(), Existing { compacted: true, ..existing() }, "cleanup.policy=delete"),
            (wanted(), Existing { retention_ms: Some(999), ..existing() }, "retention.ms=1000"),
            (wanted(), Existing { retention_bytes: Some(1), ..existing() }, "retention.bytes=-1"),
            (wanted(), Existing { append_time: false, ..existing() }, "LogAppendTime"),
            (TopicSettings { retention_ms: None, ..wanted() }, existing(), "retention.ms=-1"),
            (TopicSettings { compacted: true, ..wanted() }, existing(), "cleanup.policy=compact"),
            (TopicSettings { compacted: true, ..wanted() }, Existing { compacted: true, ..existing() }, "cleanup.policy=compact"),
        ];
        for (wanted, existing, said) in cases {
            let reason = reason(&wanted, &existing).unwrap();
            assert!(reason.contains(said), "{reason}");
        }
    }
}
