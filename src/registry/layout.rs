//! The files below `model/` that make an ONNX model loadable by MLflow, in Python, as any other.
//!
//! `mlflow.pyfunc.load_model` reads `MLmodel`, takes the loader named there (`mlflow.onnx`) and runs `model.onnx` in
//! onnxruntime. Everything here is a function of the arguments, so that the same candidate has the same bytes.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::clock::rfc3339;

/// The version of MLflow whose format this is.
const MLFLOW_VERSION: &str = "3.17.2";
/// Of Python, for an environment made to serve the model.
const PYTHON_VERSION: &str = "3.11.7";
/// The oldest onnx that reads operator set 17 and is built for that Python.
const ONNX_VERSION: &str = "1.16.0";
/// Lower bounds, so that a data scientist's newer environment loads the model without a warning.
const REQUIREMENTS: &[&str] = &["mlflow>=2.22", "numpy>=1.26", "onnx>=1.16", "onnxruntime>=1.18"];

/// One output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name in the ONNX graph.
    pub name: String,
    /// Type of its elements, as numpy calls it (`float32`, `int64`).
    pub dtype: String,
    /// Its shape; the first dimension is rows, -1.
    pub shape: Vec<i64>,
}

/// An ONNX model with one input of shape `[rows, features]`, float32.
#[derive(Clone, Copy, Debug)]
pub struct OnnxModel<'a> {
    /// The serialised model.
    pub onnx: &'a [u8],
    /// Names of the columns of its input, in order.
    pub features: &'a [&'a str],
    /// Its outputs, in order.
    pub outputs: &'a [Output],
    /// When it was made, ms since 1970.
    pub created_ms: i64,
    /// One row of its input.
    pub example: &'a [f32],
}

/// Returns the files by path, `model/` included.
///
/// - Source: what `mlflow.onnx.save_model` of MLflow 3.17.2 writes, read back from its output.
///
/// # Panics
/// When `example` has not one finite value for each feature.
#[must_use]
pub fn model_files(model: &OnnxModel) -> BTreeMap<String, Vec<u8>> {
    assert_eq!(model.example.len(), model.features.len(), "the example has a value for each feature");
    assert!(model.example.iter().all(|value| value.is_finite()), "the example's values are finite");
    // An unnamed tensor's example is the bare rows, and a scoring server takes them as `inputs`.
    // Written as float32: as a `Value`, 0.1 would become 0.10000000149011612.
    let example = serde_json::to_string(&[model.example]).expect("finite numbers have a JSON form");
    let serving = format!(r#"{{"inputs":{example}}}"#);
    let files = [
        ("MLmodel", mlmodel(model).into_bytes()),
        ("model.onnx", model.onnx.to_vec()),
        ("requirements.txt", lines(REQUIREMENTS, "")),
        ("conda.yaml", conda().into_bytes()),
        ("python_env.yaml", python_env().into_bytes()),
        ("input_example.json", example.into_bytes()),
        ("serving_input_example.json", serving.into_bytes()),
    ];
    files.into_iter().map(|(name, bytes)| (format!("model/{name}"), bytes)).collect()
}

fn mlmodel(model: &OnnxModel) -> String {
    let inputs = json!([{ "type": "tensor", "tensor-spec": { "dtype": "float32", "shape": [-1, model.features.len()] } }]);
    let outputs: Vec<Value> = model
        .outputs
        .iter()
        .map(|output| json!({ "name": output.name, "type": "tensor", "tensor-spec": { "dtype": output.dtype, "shape": output.shape } }))
        .collect();
    let features: String = model.features.iter().map(|name| format!("  - {}\n", json!(name))).collect();
    let created = rfc3339(model.created_ms).trim_end_matches('Z').replace('T', " ");
    format!(
        "flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_session_options: null
    onnx_version: {ONNX_VERSION}
    providers:
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
    python_version: {PYTHON_VERSION}
is_signature_from_type_hint: false
metadata:
  features:
{features}mlflow_version: {MLFLOW_VERSION}
model_size_bytes: {}
model_uuid: {}
prompts: null
saved_input_example_info:
  artifact_path: input_example.json
  serving_input_path: serving_input_example.json
  type: ndarray
signature:
  inputs: {}
  outputs: {}
  params: null
type_hint_from_example: false
utc_time_created: '{created}000'
",
        model.onnx.len(),
        uuid(model.onnx),
        quoted(&inputs),
        quoted(&json!(outputs)),
    )
}

/// Returns 32 hexadecimal digits, a UUID of version 8, that identify the model's bytes.
///
/// - Source: RFC 9562, 5.8.
fn uuid(onnx: &[u8]) -> String {
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&Sha256::digest(onnx)[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// JSON as a single-quoted YAML scalar.
fn quoted(value: &Value) -> String {
    format!("'{}'", value.to_string().replace('\'', "''"))
}

fn conda() -> String {
    let packages = String::from_utf8_lossy(&lines(REQUIREMENTS, "  - ")).into_owned();
    format!("channels:\n- conda-forge\ndependencies:\n- python={PYTHON_VERSION}\n- pip\n- pip:\n{packages}name: mlflow-env\n")
}

fn python_env() -> String {
    format!("python: {PYTHON_VERSION}\nbuild_dependencies:\n- pip\n- setuptools\n- wheel\ndependencies:\n- -r requirements.txt\n")
}

fn lines(all: &[&str], before: &str) -> Vec<u8> {
    all.iter().map(|line| format!("{before}{line}\n")).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(features: &[&str], onnx: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let outputs = [Output { name: "it's".to_owned(), dtype: "float32".to_owned(), shape: vec![-1, 1] }];
        let example = vec![0.1; features.len()];
        model_files(&OnnxModel { onnx, features, outputs: &outputs, created_ms: 1_363_500_000_123, example: &example })
    }

    fn text(files: &BTreeMap<String, Vec<u8>>, path: &str) -> String {
        String::from_utf8(files[path].clone()).unwrap()
    }

    #[test]
    fn the_same_model_has_the_same_files() {
        assert_eq!(files(&["a", "b"], b"onnx"), files(&["a", "b"], b"onnx"));
        let (one, other) = (files(&["a"], b"one"), files(&["a"], b"other"));
        assert_ne!(one["model/MLmodel"], other["model/MLmodel"], "another model has another id");
    }

    #[test]
    fn the_description_names_shape_time_and_identity() {
        let files = files(&["a", "b"], b"onnx");
        let mlmodel = text(&files, "model/MLmodel");
        for line in [
            r#"  inputs: '[{"tensor-spec":{"dtype":"float32","shape":[-1,2]},"type":"tensor"}]'"#,
            r#"  outputs: '[{"name":"it''s","tensor-spec":{"dtype":"float32","shape":[-1,1]},"type":"tensor"}]'"#,
            "utc_time_created: '2013-03-17 06:00:00.123000'",
            "  - \"b\"",
            "model_size_bytes: 4",
        ] {
            assert!(mlmodel.lines().any(|found| found == line), "{line}\n{mlmodel}");
        }
        let id = uuid(b"onnx");
        assert!(id.len() == 32 && id.as_bytes()[12] == b'8', "{id}");
        assert_eq!(text(&files, "model/input_example.json"), "[[0.1,0.1]]");
        assert_eq!(text(&files, "model/serving_input_example.json"), r#"{"inputs":[[0.1,0.1]]}"#);
    }

    #[test]
    #[should_panic(expected = "a value for each feature")]
    fn an_example_of_another_width_is_a_broken_promise() {
        let model = OnnxModel { onnx: b"", features: &["a"], outputs: &[], created_ms: 0, example: &[] };
        drop(model_files(&model));
    }
}
