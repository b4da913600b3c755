//! Any bytes, as BSON and as a line of JSON: no panic, and every ticket survives its record.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tidemark::baseline::Baseline;
use tidemark::tail::normalise::{Normaliser, Unreadable};
use tidemark_fuzz::{SPEC, hold};

static NORMALISER: LazyLock<Normaliser> = LazyLock::new(|| Normaliser::new(&SPEC));

fuzz_target!(|bytes: &[u8]| {
    let mut unreadable = Unreadable::default();
    hold(NORMALISER.from_json(bytes, 1, &mut unreadable));
    if let Ok(document) = bson::RawDocument::from_bytes(bytes) {
        hold(NORMALISER.from_bson(document, &mut unreadable));
        hold(NORMALISER.completed_from_bson(document, &mut unreadable));
    }
    if let Ok(document) = bson::deserialize_from_slice::<bson::Document>(bytes)
        && let Ok(baseline) = Baseline::from_document(&document)
    {
        let again = Baseline::from_document(&baseline.to_document()).expect("what is written can be read");
        assert_eq!(format!("{again:?}"), format!("{baseline:?}"));
    }
});
