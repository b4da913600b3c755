//! Candidates to publish.

use std::collections::BTreeMap;

use tidemark::registry::layout::{OnnxModel, Output, model_files};
use tidemark::registry::{Lineage, Publication};

/// `variable = features · (1, 2, 3)`, made with the onnx package: one MatMul.
const ONNX: &[u8] = include_bytes!("../golden/three_features.onnx");

/// Returns a candidate whose model multiplies.
pub(crate) fn publication(model: &str, key: &str) -> Publication {
    let outputs = [Output { name: "variable".to_owned(), dtype: "float32".to_owned(), shape: vec![-1, 1] }];
    let mut artifacts = model_files(&OnnxModel {
        onnx: ONNX,
        features: &["risk_weight", "retry_count", "hour_of_day"],
        outputs: &outputs,
        created_ms: 1_363_500_000_123,
        example: &[1.0, 0.5, 12.0],
    });
    artifacts.insert("report.json".to_owned(), b"{}\n".to_vec());
    artifacts.insert("plots/error by hour.svg".to_owned(), b"<svg/>".to_vec());
    Publication {
        model: model.to_owned(),
        model_description: "Predicts how long a ticket takes.".to_owned(),
        key: key.to_owned(),
        run_name: "drift 2013-07-02, since onset".to_owned(),
        start_ms: 1_363_500_000_000,
        end_ms: 1_363_500_001_000,
        params: BTreeMap::from([("trees".to_owned(), "100".to_owned())]),
        metrics: BTreeMap::from([("mae_ms".to_owned(), 603_600.5), ("lift".to_owned(), f64::NAN), ("ratio".to_owned(), f64::INFINITY)]),
        tags: BTreeMap::from([("tidemark.candidate".to_owned(), "since-onset".to_owned())]),
        description: "Trained on 339 rows since the onset.".to_owned(),
        lineage: Lineage {
            data_ms: (1_363_000_000_000, 1_363_400_000_000),
            holdout_ms: (1_363_400_000_000, 1_363_500_000_000),
            baseline: Some("flights@3".to_owned()),
            onset_ms: Some(1_363_300_000_000),
        },
        artifacts,
    }
}
