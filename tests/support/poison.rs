//! Records that are none of ours, for any topic.

use std::borrow::Cow;

use bytes::Bytes;
use tidemark::log::{Delivered, Record};
use tidemark::ticket::CHAIN;

/// Bytes of a large record: nearly as much as a broker takes.
const LARGE: usize = 900_000;

type Headers = Vec<(Cow<'static, str>, Bytes)>;

/// Values that no record of ours has: some short ones, and two that are long.
fn values() -> (Vec<Option<Bytes>>, Vec<Bytes>) {
    let huge = r#"{"spec":"execution-tickets","mark":1e999,"version":99999999999999999999999,"at_ms":-1e400,"partition":4294967296}"#;
    let texts = ["", "{", "null", "[]", "0", r#"{"spec":7}"#, r#"{"kind":"mark"}"#, huge];
    let mut short: Vec<Option<Bytes>> = texts.iter().map(|text| Some(Bytes::from_static(text.as_bytes()))).collect();
    short.push(Some(Bytes::from_static(&[0xff, 0xfe, 0, 0x80])));
    short.push(None);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    (short, vec![deep.into(), vec![b'x'; LARGE].into()])
}

/// Headers that some record of ours has, but for what is said in them, and never a chain.
fn headers() -> Vec<Headers> {
    let one = |name: &'static str, value: &'static [u8]| (Cow::Borrowed(name), Bytes::from_static(value));
    vec![
        vec![],
        vec![one("kind", b"ticket"), one("source", b"0:18446744073709551616")],
        vec![one("kind", b"mark"), one("source", b"nowhere")],
        vec![one("kind", &[0xff]), one("ce_type", &[0xff]), one("ce_id", b""), one("ce_specversion", b"9")],
        vec![one("kind", b"trigger"), one("source", b"0:x"), one("ce_id", b"x"), one("content-type", b"text/plain")],
    ]
}

/// Returns what a stranger writes: every value, with headers and without, under a real key and under none; and a copy of a real record,
/// without its chain: with it, it would be a repetition, which the audit and an alert name.
pub(crate) fn records(topic: &str, partition: u32, key: &'static str, real: Option<Delivered>) -> Vec<Record> {
    let record = |key: Option<Bytes>, value, headers| Record { topic: topic.into(), partition, key, value, headers };
    let key = || Some(Bytes::from_static(key.as_bytes()));
    let (short, long) = values();
    let mut records: Vec<Record> = long.into_iter().map(|value| record(key(), Some(value), vec![])).collect();
    for (number, headers) in headers().into_iter().enumerate() {
        records.extend(short.iter().map(|value| record(key().filter(|_| number != 1), value.clone(), headers.clone())));
    }
    records.extend(real.map(|real| {
        let headers = real.headers.into_iter().filter(|(name, _)| name != CHAIN);
        record(real.key, real.value, headers.collect())
    }));
    records
}
