//! From librdkafka's messages to ours.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::Message;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers};

use crate::log::{Delivered, Header};

/// Records that one poll brings at most.
pub(super) const POLL_RECORDS: usize = 4_096;
/// Bytes of keys and values after which a poll brings no more.
pub(super) const POLL_BYTES: usize = 4 << 20;

/// As much as the headers of a ticket have.
const HEADERS_BYTES: usize = 256;

/// Names of headers that every record of some topic has, so that they need not be allocated each time.
const FREQUENT: [&str; 10] =
    ["kind", "chain", "source", "content-type", "ce_specversion", "ce_type", "ce_source", "ce_id", "ce_time", "ce_subject"];

/// Returns a wait in whole milliseconds, rounded up: librdkafka knows no shorter ones, and rdkafka asks it without a pause, a
/// processor's whole time, while the last fraction of one passes.
pub(super) fn whole(wait: Duration) -> Duration {
    Duration::from_millis(u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// librdkafka counts partitions in `i32`.
pub(super) fn native(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

pub(super) fn partition_of(message: &BorrowedMessage<'_>) -> u32 {
    u32::try_from(message.partition()).unwrap_or(u32::MAX)
}

pub(super) fn delivered(message: &BorrowedMessage<'_>) -> Delivered {
    Delivered {
        partition: partition_of(message),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: message.headers().map_or_else(Vec::new, ours),
    }
}

/// Their values share one buffer: a record has up to ten.
fn ours(headers: &BorrowedHeaders) -> Vec<Header> {
    let mut values = Vec::with_capacity(HEADERS_BYTES);
    headers.iter().for_each(|header| values.extend_from_slice(header.value.unwrap_or_default()));
    let mut values = Bytes::from(values);
    let named = headers.iter().map(|header| {
        let name = match FREQUENT.iter().find(|name| **name == header.key) {
            Some(name) => Cow::Borrowed(*name),
            None => Cow::Owned(header.key.to_owned()),
        };
        (name, values.split_to(header.value.unwrap_or_default().len()))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_a_whole_number_of_milliseconds_and_never_shorter() {
        let whole = |nanos: u64| whole(Duration::from_nanos(nanos)).as_nanos();
        assert_eq!([0, 1, 999_999, 1_000_000, 1_000_001].map(whole), [0, 1_000_000, 1_000_000, 1_000_000, 2_000_000]);
    }
}
