//! The model file: one ONNX graph that Rust answers from, and Python's onnxruntime and mlflow.pyfunc too.
//!
//! ```text
//!  duration   features [N, F] ─► TreeEnsembleRegressor ─► Max(floor) ─► output [N, 1]
//!  anomaly    features [N, F] ─► TreeEnsembleRegressor ─► Div(-c(ψ)) ─► Pow(2, ·) ─► output [N, 1]
//! ```
//!
//! Only files of these two shapes are read back. The bytes may come from anyone who can write to the registry: whatever they say,
//! decoding ends with a model that answers every row, or with an error that says what is wrong.
//!
//! The messages are written out by hand for `prost`: it limits nesting, checks every length before it believes it, is kept by the
//! Tokio project, and brings only crates that are in the tree already. `onnx-rs` 0.1.3 reads nested messages by unbounded recursion,
//! so a small hostile file overflows the stack, which nothing can catch.

mod decode;
mod encode;
mod proto;

use std::collections::BTreeMap;

pub use decode::{DecodeError, MAX_BYTES, decode_forest, decode_isolation};
pub use encode::{EncodeError, encode_forest, encode_isolation};

/// The operator of both graphs, its domain, and the version of the domain that has it for f32.
const TREES: &str = "TreeEnsembleRegressor";
const TREES_DOMAIN: &str = "ai.onnx.ml";
const TREES_OPSET: i64 = 3;
/// Of the plain operators; with [`IR_VERSION`] what every onnxruntime since 1.12 reads.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// Metadata keys that the encoder writes itself: what an isolation forest knows and its graph does not say.
const SAMPLE_ROWS_KEY: &str = "tidemark.sample_rows";
const THRESHOLD_KEY: &str = "tidemark.threshold";

/// What a model file is called by, and what it carries besides the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Name of the input, `[N, features]` of f32.
    pub input: String,
    /// Name of the output, `[N, 1]` of f32.
    pub output: String,
    /// ONNX's `metadata_props`. Keys that begin with `tidemark.` are the encoder's own.
    pub metadata: BTreeMap<String, String>,
}

/// A forest as its file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedForest {
    /// The model.
    pub forest: super::forest::Forest,
    /// The least prediction that the file gives, in the forest's unit.
    pub floor: f32,
    /// Its names and metadata.
    pub labels: Labels,
}

/// An isolation forest as its file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedIsolation {
    /// The model.
    pub forest: super::isolation::IsolationForest,
    /// Its names and metadata.
    pub labels: Labels,
}

#[cfg(test)]
mod tests;
