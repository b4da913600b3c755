//! Any bytes as a reply of a change stream: no panic, every ticket survives its record, and a reply is read whole or not at all.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidemark::tail::mongo::Replies;
use tidemark::tail::source::{Event, Place};
use tidemark_fuzz::{SPEC, hold};

fuzz_target!(|bytes: &[u8]| {
    let Ok(reply) = bson::RawDocument::from_bytes(bytes) else { return };
    let place = Place::Stream { token: Bytes::new(), time: (5, 1), index: 0 };
    let mut replies = Replies::new(&SPEC, &place);
    let Ok(events) = replies.read(reply) else { return };
    let read = events.len();
    for event in events {
        if let Event::Ticket { normalised, .. } = event {
            hold(normalised);
        }
    }
    // The same reply once more: nothing depends on what was read before but the place.
    assert!(replies.read(reply).is_ok_and(|events| events.len() <= read));
});
