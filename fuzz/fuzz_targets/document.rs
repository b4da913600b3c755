//! Any bytes, as BSON and as a line of JSON: no panic, and every ticket survives its record.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tidemark::spec::Spec;
use tidemark::tail::normalise::{KEPT_BYTES, Normalised, Normaliser, Unreadable};
use tidemark::ticket::Ticket;

static SPEC: OnceLock<(Spec, Normaliser)> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let (spec, normaliser) = SPEC.get_or_init(|| {
        let spec = Spec::from_toml(include_str!("../../config/execution-tickets.toml")).expect("the spec is good");
        let normaliser = Normaliser::new(&spec);
        (spec, normaliser)
    });
    let mut unreadable = Unreadable::default();
    hold(spec, normaliser.from_json(bytes, 1, &mut unreadable));
    if let Ok(document) = bson::RawDocument::from_bytes(bytes) {
        hold(spec, normaliser.from_bson(document, &mut unreadable));
        hold(spec, normaliser.completed_from_bson(document, &mut unreadable));
    }
});

fn hold(spec: &Spec, normalised: Normalised) {
    match normalised {
        Normalised::Completed(ticket) => {
            let mut value = Vec::new();
            ticket.encode(spec, &mut value);
            let read = Ticket::decode(spec, &value).expect("what is written can be read");
            assert_eq!(format!("{read:?}"), format!("{ticket:?}"));
        }
        Normalised::Dead(dead) => assert!(dead.fields.text.len() <= KEPT_BYTES && !dead.encode().is_empty()),
        Normalised::Other(_) => {}
    }
}
