//! Any bytes as a record of any of our topics: no panic, what can be read is the same once written and read back, and a record makes
//! room for no more than a bounded multiple of its length.
#![no_main]

use std::borrow::Cow;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidemark::alert::Alert;
use tidemark::audit::Follower;
use tidemark::cloudevent::CloudEvent;
use tidemark::log::{Delivered, Header};
use tidemark::model_event::{ModelEvent, Notice};
use tidemark::status::Status;
use tidemark::summary::{Slice, Summary};
use tidemark::tail::position::Position;
use tidemark::ticket::{Chain, Control, TICKET, Ticket};
use tidemark::trigger::Trigger;
use tidemark_fuzz::{SPEC, cells, record, there_and_back};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ticket) = Ticket::decode(&SPEC, bytes) {
        let mut value = Vec::new();
        ticket.encode(&SPEC, &mut value);
        let read = Ticket::decode(&SPEC, &value).expect("what is written can be read");
        assert_eq!(format!("{read:?}"), format!("{ticket:?}"));
        let _key = ticket.id.key();
    }
    if let Some(summary) = there_and_back::<Summary>(bytes) {
        hold(&summary);
    }
    there_and_back::<Control>(bytes);
    there_and_back::<Status>(bytes);
    there_and_back::<Alert>(bytes);
    if let Some(trigger) = there_and_back::<Trigger>(bytes) {
        let _onset = (trigger.onset_ms(), trigger.is_unprompted(), trigger.answer_id());
        same(trigger.event());
    }
    if let Ok(position) = Position::decode(bytes) {
        let again = Position::decode(&position.encode()).expect("what is written can be read");
        assert_eq!(again.resume(), position.resume());
    }
    if let Ok(Some(event)) = ModelEvent::decode(bytes) {
        assert_eq!(ModelEvent::decode(&event.encode()).expect("what is written can be read").as_ref(), Some(&event));
        let _control = event.into_control();
    }
    if let Some(notice) = Notice::decode(bytes) {
        assert_eq!(Notice::decode(&notice.encode()), Some(notice));
    }
    followed(bytes);
});

/// What is added and taken away again leaves nothing.
fn hold(summary: &Summary) {
    let cells: usize = summary.slices.iter().map(cells).sum();
    assert!(cells <= tidemark::summary::MOST_CELLS, "{cells} cells");
    for slice in &summary.slices {
        let mut sum = Slice::default();
        sum.add(slice);
        sum.subtract(slice);
        assert!(sum.rows == 0 && sum.series.is_empty() && sum.columns.iter().flatten().all(|&count| count == 0));
    }
}

/// The same bytes as a record with headers: as a stranger's, and as one that continues a chain.
fn followed(bytes: &[u8]) {
    let told = record(bytes);
    if let Ok(event) = CloudEvent::from_record(&told) {
        let _sent = event.structured();
        same(event);
    }
    let mut chain = Chain::begin("fuzz");
    let start = Control::ChainStart { id: "s".to_owned(), spec: SPEC.name.clone(), fingerprint: SPEC.fingerprint(), partitions: 1 };
    let first = serde_json::to_vec(&start).expect("it has a JSON form");
    let first = linked(&mut chain, "chain-start", None, &first, 0);
    let kinds = [TICKET, "mark", "gap", "baseline", "outcome", "chain-start", "dead-letter"];
    let kind = kinds[told.key.as_ref().map_or(0, Bytes::len) % kinds.len()];
    let second = linked(&mut chain, kind, told.key.as_deref(), told.value.as_deref().unwrap_or_default(), 1);
    for mut follower in [Follower::of_tickets("tickets", 1), Follower::of_dead_letters("dead-letters", 1)] {
        for record in [&first, &second, &told] {
            let _line = follower.take(record);
        }
        let _found = follower.end();
    }
}

fn linked(chain: &mut Chain, kind: &'static str, key: Option<&[u8]>, value: &[u8], offset: i64) -> Delivered {
    let headers: Vec<Header> =
        chain.link(kind, key, value).into_iter().map(|(name, value)| (Cow::Owned(name.into_owned()), value)).collect();
    let owned = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    Delivered { partition: 0, offset, timestamp_ms: 0, key: key.map(owned), value: Some(owned(value)), headers }
}

/// An event survives its record.
fn same(event: CloudEvent) {
    let written = event.clone().into_record("t".into(), "k", vec![]);
    let delivered =
        Delivered { partition: 0, offset: 0, timestamp_ms: 0, key: written.key, value: written.value, headers: written.headers };
    assert_eq!(CloudEvent::from_record(&delivered).expect("what is written can be read"), event);
}
