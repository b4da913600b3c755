//! What the targets share.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::LazyLock;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemark::log::Delivered;
use tidemark::spec::Spec;
use tidemark::summary::Slice;
use tidemark::tail::normalise::{KEPT_BYTES, Normalised};
use tidemark::ticket::Ticket;

/// The spec that records and models are read under.
pub static SPEC: LazyLock<Spec> =
    LazyLock::new(|| Spec::from_toml(include_str!("../../config/execution-tickets.toml")).expect("the spec is good"));

/// Reads a value from JSON; what can be read is the same once it is written and read back.
pub fn there_and_back<T: Serialize + DeserializeOwned + Debug>(json: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(json).ok()?;
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what is written can be read");
    assert_eq!(format!("{read:?}"), format!("{again:?}"));
    Some(read)
}

/// A ticket survives its record, and a dead letter is bounded.
pub fn hold(normalised: Normalised) {
    match normalised {
        Normalised::Completed(ticket) => {
            let mut value = Vec::new();
            ticket.encode(&SPEC, &mut value);
            let read = Ticket::decode(&SPEC, &value).expect("what is written can be read");
            assert_eq!(format!("{read:?}"), format!("{ticket:?}"));
        }
        Normalised::Dead(dead) => assert!(dead.fields.text.len() <= KEPT_BYTES && !dead.encode().is_empty()),
        Normalised::Other(_) => {}
    }
}

/// Reads bytes as a record: lines of `header: value`, one of them perhaps `key`, an empty line, and the value.
pub fn record(bytes: &[u8]) -> Delivered {
    let mut record = Delivered { partition: 0, offset: 2, timestamp_ms: 0, key: None, value: None, headers: Vec::new() };
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { break };
        let value = Bytes::copy_from_slice(line[colon + 1..].trim_ascii());
        match &*String::from_utf8_lossy(&line[..colon]) {
            "key" => record.key = Some(value),
            name => record.headers.push((Cow::Owned(name.to_owned()), value)),
        }
    }
    record.value = Some(Bytes::copy_from_slice(rest));
    record
}

/// Returns the number of counts that a slice has room for.
pub fn cells(slice: &Slice) -> usize {
    let rows = slice.columns.iter().map(Vec::len).sum::<usize>() + slice.error_by.iter().map(Vec::len).sum::<usize>();
    rows + slice.spread.len() + slice.target.len()
}
