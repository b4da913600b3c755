//! A baseline in its topic, found by its version.

use std::ops::ControlFlow;

use serde::Deserialize;

use crate::baseline::Baseline;
use crate::log::{LogError, Reader};
use crate::metrics;

/// What every version of the program writes into a baseline.
#[derive(Deserialize)]
struct Lines {
    spec: String,
    version: u64,
}

/// Returns the baseline of that spec and version, or why it cannot be read; `None` while the topic does not have it.
///
/// A version is given once, so the first record of it counts. What has its key and is no baseline is a stranger's: it is passed over, and
/// counted for `stage`.
///
/// # Errors
/// [`LogError`].
pub(crate) fn find(
    reader: &mut dyn Reader,
    topic: &str,
    (spec, version): (&str, u64),
    stage: &'static str,
) -> Result<Option<Result<Baseline, String>>, LogError> {
    let key = format!("{spec}@{version}");
    let bounds = reader.bounds(topic, 0)?;
    let (mut found, mut strangers) = (None, 0);
    reader.read(topic, 0, bounds.low, bounds.end, &mut |record| {
        if record.key.as_deref() != Some(key.as_bytes()) {
            return ControlFlow::Continue(());
        }
        let value = record.value.as_deref().unwrap_or_default();
        let is_one = serde_json::from_slice::<Lines>(value).is_ok_and(|lines| lines.spec == spec && lines.version == version);
        if !is_one {
            strangers += 1;
        } else if !matches!(found, Some(Ok(_))) {
            found = Some(serde_json::from_slice::<Baseline>(value).map_err(|error| error.to_string()));
        }
        ControlFlow::Continue(())
    })?;
    if found.is_some() && strangers > 0 {
        tracing::warn!(topic, key, strangers, "records that are no baselines are passed over");
        metrics::strangers_passed_over(stage, "baselines", strangers);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::memory::MemoryLog;
    use crate::log::{Log, Record, TopicSettings, Transaction};

    #[test]
    fn strangers_with_its_key_do_not_hide_a_baseline() {
        let log = MemoryLog::new();
        let topic =
            TopicSettings { name: "b".into(), partitions: 1, replication: 1, compacted: true, retention_ms: None, append_time: false };
        log.create_topics(&[topic]).unwrap();
        let send = |value: Option<&str>| {
            let value = value.map(|value| value.to_owned().into());
            let record = Record { topic: "b".into(), partition: 0, key: Some("s@1".into()), value, headers: vec![] };
            log.producer("p").unwrap().transact(Transaction { records: vec![record], ..Transaction::default() }).unwrap();
        };
        let found = || find(log.reader().unwrap().as_mut(), "b", ("s", 1), "watch").unwrap();
        send(Some("{"));
        send(Some(r#"{"spec":"other","version":1}"#));
        assert!(found().is_none(), "none of them is one");
        send(Some(r#"{"spec":"s","version":1}"#));
        assert!(matches!(found(), Some(Err(_))), "one that another version of the program wrote is not passed over in silence");
        let real = serde_json::json!({
            "spec": "s", "fingerprint": "f", "model": "m", "version": 1, "created_at_ms": 0, "from_ms": 0, "to_ms": 7, "rows": 0,
            "columns": [], "errors": {}, "log_offset": 0.0, "noise": [],
            "target": { "edges": [], "counts": [], "mean": 0.0, "std": 0.0, "p50": 0.0, "p95": 0.0, "p99": 0.0, "sample": [] },
        });
        send(Some(&real.to_string()));
        send(None);
        send(Some("[1e999]"));
        assert_eq!(found().unwrap().unwrap().to_ms, 7);
    }
}
