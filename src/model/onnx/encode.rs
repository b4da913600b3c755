//! From a model to the bytes of its file.

use bytes::Bytes;
use prost::Message;

use super::proto::{
    AttributeProto, DimensionProto, FLOAT, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, dimension,
};
use super::{IR_VERSION, Labels, MAX_BYTES, OPSET, SAMPLE_ROWS_KEY, THRESHOLD_KEY, TREES, TREES_DOMAIN, TREES_OPSET};
use crate::model::forest::Forest;
use crate::model::isolation::{IsolationForest, average_path};
use crate::model::tree::{Node, Tree};

/// A model that its own decoder would not read back.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// A floor that bounds nothing.
    #[error("the floor of the predictions is {floor}: it must be finite")]
    Floor {
        /// The floor.
        floor: f32,
    },
    /// Names that ONNX cannot tell apart, or that the graph uses itself.
    #[error("the input is called {input:?} and the output {output:?}: both need a name, different, and not one of {taken:?}")]
    Names {
        /// Name of the input.
        input: String,
        /// Name of the output.
        output: String,
        /// Names that the graph uses.
        taken: &'static [&'static str],
    },
    /// A metadata key that belongs to the encoder.
    #[error("the metadata key {key:?} begins with \"tidemark.\", which is the encoder's own: choose another")]
    Key {
        /// The key.
        key: String,
    },
    /// Too large a model.
    #[error("the model file has {bytes} bytes: at most {MAX_BYTES} are read back; train fewer or shallower trees")]
    Size {
        /// Its bytes.
        bytes: usize,
    },
}

// Names inside the graphs.
const MEAN: &str = "mean";
const FLOOR: &str = "floor";
const MINUS_AVERAGE_PATH: &str = "minus_average_path";
const EXPONENT: &str = "exponent";
const TWO: &str = "two";
const TAKEN: [&str; 5] = [MEAN, FLOOR, MINUS_AVERAGE_PATH, EXPONENT, TWO];

/// Returns the file of `forest`, whose predictions are never below `floor`.
///
/// In onnxruntime the sums are f32: predictions agree with [`Forest::predict_row`] to about 1e-6 of their size.
///
/// # Errors
/// [`EncodeError`].
pub fn encode_forest(forest: &Forest, floor: f32, labels: &Labels) -> Result<Vec<u8>, EncodeError> {
    if !floor.is_finite() {
        return Err(EncodeError::Floor { floor });
    }
    let nodes = vec![trees(forest.trees(), &labels.input), node("Max", &[MEAN, FLOOR], &labels.output)];
    model("duration", forest.features(), nodes, &[(FLOOR, floor)], labels, &[])
}

/// Returns the file of `forest`; its output is the score, its threshold and ψ are metadata under `tidemark.`.
///
/// # Errors
/// [`EncodeError`].
pub fn encode_isolation(forest: &IsolationForest, labels: &Labels) -> Result<Vec<u8>, EncodeError> {
    let nodes = vec![
        trees(forest.trees(), &labels.input),
        node("Div", &[MEAN, MINUS_AVERAGE_PATH], EXPONENT),
        node("Pow", &[TWO, EXPONENT], &labels.output),
    ];
    let constants = [(MINUS_AVERAGE_PATH, minus_average_path(forest.sample_rows())), (TWO, 2.0)];
    let own = [(SAMPLE_ROWS_KEY, forest.sample_rows().to_string()), (THRESHOLD_KEY, forest.threshold().to_string())];
    model("anomaly", forest.features(), nodes, &constants, labels, &own)
}

/// Returns `-c(ψ)` as the graph has it.
#[expect(clippy::cast_possible_truncation, reason = "the graph computes in f32")]
pub(super) fn minus_average_path(sample_rows: u32) -> f32 {
    -average_path(sample_rows as usize) as f32
}

fn model(
    name: &str,
    features: usize,
    nodes: Vec<NodeProto>,
    constants: &[(&str, f32)],
    labels: &Labels,
    own: &[(&str, String)],
) -> Result<Vec<u8>, EncodeError> {
    let is_free = |name: &str| !name.is_empty() && !TAKEN.contains(&name);
    if !is_free(&labels.input) || !is_free(&labels.output) || labels.input == labels.output {
        return Err(EncodeError::Names { input: labels.input.clone(), output: labels.output.clone(), taken: &TAKEN });
    }
    if let Some(key) = labels.metadata.keys().find(|key| key.starts_with("tidemark.")) {
        return Err(EncodeError::Key { key: key.clone() });
    }
    let own = own.iter().map(|(key, value)| (*key, value.as_str()));
    let metadata = labels.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).chain(own);
    let opset = |domain: &str, version| message(&OperatorSetIdProto { domain: domain.to_owned(), version });
    let graph = GraphProto {
        node: nodes.iter().map(message).collect(),
        name: name.to_owned(),
        initializer: constants.iter().map(|(name, value)| message(&constant(name, *value))).collect(),
        input: vec![message(&matrix(&labels.input, features))],
        output: vec![message(&matrix(&labels.output, 1))],
    };
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        opset_import: vec![opset("", OPSET), opset(TREES_DOMAIN, TREES_OPSET)],
        metadata_props: metadata
            .map(|(key, value)| message(&StringStringEntryProto { key: key.to_owned(), value: value.to_owned() }))
            .collect(),
    };
    let bytes = model.encode_to_vec();
    if bytes.len() > MAX_BYTES { Err(EncodeError::Size { bytes: bytes.len() }) } else { Ok(bytes) }
}

fn message(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn name(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn node(op_type: &str, input: &[&str], output: &str) -> NodeProto {
    NodeProto {
        input: input.iter().map(|input| name(input)).collect(),
        output: vec![name(output)],
        name: op_type.to_owned(),
        op_type: op_type.to_owned(),
        ..NodeProto::default()
    }
}

fn constant(name: &str, value: f32) -> TensorProto {
    TensorProto { dims: vec![1], data_type: FLOAT, float_data: vec![value], name: name.to_owned() }
}

fn matrix(name: &str, columns: usize) -> ValueInfoProto {
    let columns = dimension::Value::Size(i64::try_from(columns).expect("a row has few features"));
    let dim = [dimension::Value::Name("N".to_owned()), columns].map(|value| message(&DimensionProto { value: Some(value) }));
    let tensor_type = TensorTypeProto { elem_type: FLOAT, shape: Some(TensorShapeProto { dim: dim.to_vec() }) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}

/// The trees as parallel lists, one element a node; and one a leaf for its value.
fn trees(trees: &[Tree], input: &str) -> NodeProto {
    let (branch, leaf) = (Bytes::from_static(b"BRANCH_LEQ"), Bytes::from_static(b"LEAF"));
    let (mut modes, mut features, mut thresholds, mut lefts, mut rights) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut tree_ids, mut node_ids, mut leaf_tree_ids, mut leaf_node_ids, mut values) = (vec![], vec![], vec![], vec![], vec![]);
    for (tree_id, tree) in (0_i64..).zip(trees) {
        for (node_id, node) in (0_i64..).zip(tree.nodes()) {
            tree_ids.push(tree_id);
            node_ids.push(node_id);
            let (mode, feature, threshold, left, right) = match node {
                Node::Split { feature, threshold, left, right } => (&branch, feature, threshold, left, right),
                Node::Leaf { value } => {
                    leaf_tree_ids.push(tree_id);
                    leaf_node_ids.push(node_id);
                    values.push(value);
                    (&leaf, 0, 0.0, 0, 0)
                }
            };
            modes.push(mode.clone());
            features.push(i64::from(feature));
            thresholds.push(threshold);
            lefts.push(i64::from(left));
            rights.push(i64::from(right));
        }
    }
    let leaves = values.len();
    let attributes = [
        string("aggregate_function", "AVERAGE"),
        int("n_targets", 1),
        ints("nodes_treeids", tree_ids),
        ints("nodes_nodeids", node_ids),
        AttributeProto { name: "nodes_modes".to_owned(), r#type: attribute_type::STRINGS, strings: modes, ..AttributeProto::default() },
        ints("nodes_featureids", features),
        floats("nodes_values", thresholds),
        ints("nodes_truenodeids", lefts),
        ints("nodes_falsenodeids", rights),
        ints("target_treeids", leaf_tree_ids),
        ints("target_nodeids", leaf_node_ids),
        ints("target_ids", vec![0; leaves]),
        floats("target_weights", values),
    ];
    let attribute = attributes.iter().map(message).collect();
    NodeProto { domain: TREES_DOMAIN.to_owned(), attribute, ..node(TREES, &[input], MEAN) }
}

fn string(name: &str, text: &'static str) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: attribute_type::STRING, s: text.into(), ..AttributeProto::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: attribute_type::INT, i, ..AttributeProto::default() }
}

fn ints(name: &str, ints: Vec<i64>) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: attribute_type::INTS, ints, ..AttributeProto::default() }
}

fn floats(name: &str, floats: Vec<f32>) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: attribute_type::FLOATS, floats, ..AttributeProto::default() }
}
