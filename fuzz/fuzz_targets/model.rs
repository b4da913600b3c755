//! Any bytes as a model's file: no panic, what can be read is the same once written and read back, and it answers every row.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tidemark::features::{Encoder, Row};
use tidemark::model::anomaly::AnomalyModel;
use tidemark::model::duration::{DurationModel, write_inputs};
use tidemark::model::onnx::{decode_forest, decode_isolation, encode_forest, encode_isolation};
use tidemark::ticket::FieldValue;
use tidemark_fuzz::SPEC;

static ENCODER: LazyLock<Encoder> = LazyLock::new(|| Encoder::new(&SPEC).expect("the spec is good"));

fuzz_target!(|bytes: &[u8]| {
    if let Ok(decoded) = decode_forest(bytes) {
        let written = encode_forest(&decoded.forest, decoded.floor, &decoded.labels).expect("what was read can be written");
        let again = decode_forest(&written).expect("what is written can be read");
        assert_eq!(format!("{again:?}"), format!("{decoded:?}"));
        assert!(written.len() <= tidemark::model::onnx::MAX_BYTES);
    }
    if let Ok(decoded) = decode_isolation(bytes) {
        let written = encode_isolation(&decoded.forest, &decoded.labels).expect("what was read can be written");
        let again = decode_isolation(&written).expect("what is written can be read");
        assert_eq!(format!("{again:?}"), format!("{decoded:?}"));
    }
    let mut row = Row::default();
    ENCODER.encode(&vec![FieldValue::Missing; SPEC.fields.len()], &mut row);
    if let Ok(model) = DurationModel::from_bytes(bytes, &SPEC) {
        assert!(!model.predict(&ENCODER, &row).is_nan(), "every row is answered");
    }
    if let Ok(model) = AnomalyModel::from_bytes(bytes, &SPEC) {
        let mut inputs = Vec::new();
        write_inputs(&ENCODER, &row, &model.card().learned, &mut inputs);
        assert!(!model.score(&inputs).0.is_nan(), "every row is answered");
    }
});
