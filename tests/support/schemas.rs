//! The schemas of the topics, and whether a record keeps to its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::Value;
use tidemark::cloudevent::CloudEvent;
use tidemark::log::Delivered;

/// The topics, without their prefix, that carry CloudEvents.
const EVENTS: [&str; 2] = ["alerts", "retraining-triggers"];

/// Returns the directory of the schemas.
pub(crate) fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas"))
}

/// Returns every schema by its topic, without the prefix.
pub(crate) fn all() -> &'static BTreeMap<String, (Value, Validator)> {
    static ALL: OnceLock<BTreeMap<String, (Value, Validator)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let entries = std::fs::read_dir(directory()).expect("the schemas are there").map(|entry| entry.expect("it is readable").path());
        let schema = |path: PathBuf| {
            let topic = path.file_name()?.to_str()?.strip_suffix(".v1.json")?.to_owned();
            let schema: Value = serde_json::from_slice(&std::fs::read(&path).expect("it is readable")).expect("a schema is JSON");
            let validator = jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{topic}: {error}"));
            Some((topic, (schema, validator)))
        };
        entries.filter_map(schema).collect()
    })
}

/// Says how a value differs from the schema of `topic` (without its prefix).
pub(crate) fn check(topic: &str, value: &[u8]) -> Result<(), String> {
    let (_, schema) = all().get(topic).ok_or_else(|| format!("topic {topic} has no schema"))?;
    let value: Value = serde_json::from_slice(value).map_err(|error| format!("{topic}: no JSON: {error}"))?;
    let faults: Vec<String> = schema.iter_errors(&value).map(|fault| format!("{}: {fault}", fault.instance_path)).collect();
    if faults.is_empty() { Ok(()) } else { Err(format!("{topic}: {}\nin {value}", faults.join("; "))) }
}

/// Asserts that a record of `topic` (with or without a prefix) keeps to its schema, headers included.
pub(crate) fn validate(topic: &str, record: &Delivered) {
    let topic = topic.rsplit('.').next().expect("a name has a last part");
    let value = record.value.as_deref().unwrap_or_else(|| panic!("{topic}: a record without a value"));
    check(topic, value).unwrap_or_else(|fault| panic!("{fault}"));
    if EVENTS.contains(&topic) {
        CloudEvent::from_record(record).unwrap_or_else(|fault| panic!("{topic}: {fault}"));
    }
    if topic == "tickets" {
        let value: Value = serde_json::from_slice(value).expect("it was checked");
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or("ticket");
        assert_eq!(record.header("kind"), Some(kind.as_bytes()), "the header says what the value is");
        assert_eq!(record.key.is_none(), kind != "ticket", "control records have no key, tickets have one");
    }
}
