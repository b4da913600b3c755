//! From the bytes of a file to a model, or to what is wrong with them.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::encode::minus_average_path;
use super::proto::{
    AttributeProto, DimensionProto, FLOAT, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    ValueInfoProto, attribute_type, dimension,
};
use super::{DecodedForest, DecodedIsolation, Labels, OPSET, SAMPLE_ROWS_KEY, THRESHOLD_KEY, TREES, TREES_DOMAIN, TREES_OPSET};
use crate::model::forest::Forest;
use crate::model::isolation::IsolationForest;
use crate::model::tree::{Node, Tree, TreeError};

/// Bytes that a model file may have: some seven times a hundred full trees of depth 10.
pub const MAX_BYTES: usize = 32 << 20;
/// Messages of one kind that a graph may have, attributes of its trees included.
const MAX_PARTS: usize = 32;
/// Entries of metadata.
const MAX_METADATA: usize = 1024;

/// A file that is no model of ours.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Too large to be looked at.
    #[error("the model file has {bytes} bytes: at most {MAX_BYTES} are read")]
    Size {
        /// Its bytes.
        bytes: usize,
    },
    /// Not ONNX.
    #[error("the model file is not ONNX: its {part} cannot be read: {source}")]
    Message {
        /// The part.
        part: &'static str,
        /// What cannot be read.
        #[source]
        source: prost::DecodeError,
    },
    /// ONNX, but not of the shape that we write.
    #[error("the model file is not one that Tidemark reads: {found}")]
    Shape {
        /// What is there, and what should be.
        found: String,
    },
    /// Trees that are none.
    #[error("tree {tree} of the model file is broken: {source}")]
    Tree {
        /// Which.
        tree: usize,
        /// Why.
        #[source]
        source: TreeError,
    },
}

fn shape(found: impl Into<String>) -> DecodeError {
    DecodeError::Shape { found: found.into() }
}

/// Returns the forest in `bytes`, as [`super::encode_forest`] writes it.
///
/// # Errors
/// [`DecodeError`], saying what is wrong. No bytes make it panic or take more memory than some twenty times [`MAX_BYTES`].
pub fn decode_forest(bytes: &[u8]) -> Result<DecodedForest, DecodeError> {
    let file = File::read(bytes)?;
    let [trees, max] = file.nodes([(TREES_DOMAIN, TREES), ("", "Max")])?;
    link(&trees, &max, 0)?;
    file.ends(&trees, &max)?;
    let floor = file.constant(&max, 1)?;
    let trees = read_trees(&trees, file.features)?;
    Ok(DecodedForest { forest: Forest::new(trees, file.features), floor, labels: file.labels })
}

/// Returns the isolation forest in `bytes`, as [`super::encode_isolation`] writes it.
///
/// # Errors
/// As [`decode_forest`].
pub fn decode_isolation(bytes: &[u8]) -> Result<DecodedIsolation, DecodeError> {
    let mut file = File::read(bytes)?;
    let [trees, div, pow] = file.nodes([(TREES_DOMAIN, TREES), ("", "Div"), ("", "Pow")])?;
    link(&trees, &div, 0)?;
    link(&div, &pow, 1)?;
    file.ends(&trees, &pow)?;
    let sample_rows = file.own(SAMPLE_ROWS_KEY, |text| text.parse::<u32>().ok().filter(|rows| *rows > 1))?;
    let threshold = file.own(THRESHOLD_KEY, |text| text.parse::<f64>().ok().filter(|threshold| !threshold.is_nan()))?;
    let (divisor, base) = (file.constant(&div, 1)?, file.constant(&pow, 0)?);
    if divisor.to_bits() != minus_average_path(sample_rows).to_bits() || base.to_bits() != 2.0_f32.to_bits() {
        return Err(shape(format!("its score is {base}^(mean path / {divisor}), which is not that of {sample_rows} rows a tree")));
    }
    let trees = read_trees(&trees, file.features)?;
    Ok(DecodedIsolation { forest: IsolationForest::new(trees, file.features, sample_rows, threshold), labels: file.labels })
}

/// A file whose outer parts have been checked.
struct File {
    graph: GraphProto,
    features: usize,
    labels: Labels,
}

impl File {
    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_BYTES {
            return Err(DecodeError::Size { bytes: bytes.len() });
        }
        let model: ModelProto = message("model", Bytes::copy_from_slice(bytes))?;
        let mut opsets: Vec<OperatorSetIdProto> = messages("operator sets", model.opset_import, MAX_PARTS)?;
        opsets.sort_by(|a, b| a.domain.cmp(&b.domain));
        let versions: Vec<(&str, i64)> = opsets.iter().map(|opset| (opset.domain.as_str(), opset.version)).collect();
        if versions != [("", OPSET), (TREES_DOMAIN, TREES_OPSET)] {
            return Err(shape(format!("its operator sets are {versions:?}, not {OPSET} and {TREES_DOMAIN} {TREES_OPSET}")));
        }
        let Some(mut graph) = model.graph else { return Err(shape("it has no graph")) };
        let (input, features) = matrix("input", std::mem::take(&mut graph.input))?;
        let (output, columns) = matrix("output", std::mem::take(&mut graph.output))?;
        if columns != 1 {
            return Err(shape(format!("its output has {columns} columns, not 1")));
        }
        let mut metadata = BTreeMap::new();
        for entry in messages::<StringStringEntryProto>("metadata", model.metadata_props, MAX_METADATA)? {
            if let Some(twice) = metadata.insert(entry.key.clone(), entry.value) {
                return Err(shape(format!("its metadata has the key {:?} twice, once with {twice:?}", entry.key)));
            }
        }
        Ok(Self { graph, features, labels: Labels { input, output, metadata } })
    }

    /// Returns the nodes, which must be these by domain and operator.
    fn nodes<const N: usize>(&self, wanted: [(&str, &str); N]) -> Result<[NodeProto; N], DecodeError> {
        let nodes: Vec<NodeProto> = messages("nodes", self.graph.node.clone(), MAX_PARTS)?;
        let names: Vec<(&str, &str)> = nodes.iter().map(|node| (node.domain.as_str(), node.op_type.as_str())).collect();
        if names != wanted {
            return Err(shape(format!("its nodes are {names:?}, not {wanted:?}")));
        }
        nodes.try_into().map_err(|_| shape("its nodes cannot be counted"))
    }

    /// Checks that the graph begins with the trees and ends with `last`.
    fn ends(&self, trees: &NodeProto, last: &NodeProto) -> Result<(), DecodeError> {
        if trees.input.as_slice() != [self.labels.input.as_bytes()] {
            return Err(shape("its trees do not read its input"));
        }
        if last.output.as_slice() != [self.labels.output.as_bytes()] {
            return Err(shape(format!("its output is not that of its {}", last.op_type)));
        }
        Ok(())
    }

    /// Returns the finite number that input `place` of `node` names.
    fn constant(&self, node: &NodeProto, place: usize) -> Result<f32, DecodeError> {
        let tensors: Vec<TensorProto> = messages("constants", self.graph.initializer.clone(), MAX_PARTS)?;
        let name = node.input.get(place).map_or(&[][..], |name| name.as_ref());
        let mut named = tensors.iter().filter(|tensor| tensor.name.as_bytes() == name);
        let (Some(tensor), None) = (named.next(), named.next()) else {
            return Err(shape(format!("its {} has no constant to compute with, or two", node.op_type)));
        };
        match (tensor.data_type, tensor.dims.as_slice(), tensor.float_data.as_slice()) {
            (FLOAT, [1], [value]) if value.is_finite() => Ok(*value),
            _ => Err(shape(format!("the constant {} is not one finite f32", tensor.name))),
        }
    }

    /// Takes what the encoder keeps under `key` out of the metadata.
    fn own<T>(&mut self, key: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, DecodeError> {
        let Some(text) = self.labels.metadata.remove(key) else { return Err(shape(format!("its metadata has no {key}"))) };
        parse(&text).ok_or_else(|| shape(format!("its metadata says {key} is {text:?}, which it cannot be")))
    }
}

/// Checks that input `place` of `to` is the only output of `from`.
fn link(from: &NodeProto, to: &NodeProto, place: usize) -> Result<(), DecodeError> {
    match (from.output.as_slice(), to.input.get(place)) {
        ([output], Some(input)) if output == input && to.input.len() == 2 => Ok(()),
        _ => Err(shape(format!("its {} does not compute on its {} alone", to.op_type, from.op_type))),
    }
}

fn message<M: Message + Default>(part: &'static str, bytes: Bytes) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|source| DecodeError::Message { part, source })
}

/// Decodes messages of one kind once there are few enough of them.
fn messages<M: Message + Default>(part: &'static str, bytes: Vec<Bytes>, most: usize) -> Result<Vec<M>, DecodeError> {
    if bytes.len() > most {
        return Err(shape(format!("it has {} {part}, more than {most}", bytes.len())));
    }
    bytes.into_iter().map(|bytes| message(part, bytes)).collect()
}

/// Returns the name and the columns of the graph's only `part`, an f32 matrix of any number of rows.
fn matrix(part: &'static str, values: Vec<Bytes>) -> Result<(String, usize), DecodeError> {
    let values: Vec<ValueInfoProto> = messages(part, values, MAX_PARTS)?;
    let [value] = values.as_slice() else { return Err(shape(format!("it has {} {part}s, not 1", values.len()))) };
    let no_matrix = || shape(format!("its {part} {:?} is no f32 matrix of N rows and a fixed number of columns", value.name));
    let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()).filter(|tensor| tensor.elem_type == FLOAT);
    let Some(shape_of) = tensor.and_then(|tensor| tensor.shape.as_ref()) else { return Err(no_matrix()) };
    let dims: Vec<DimensionProto> = messages("dimensions", shape_of.dim.clone(), MAX_PARTS)?;
    let [rows, columns] = dims.as_slice() else { return Err(no_matrix()) };
    let (Some(dimension::Value::Name(_)), Some(dimension::Value::Size(columns))) = (&rows.value, &columns.value) else {
        return Err(no_matrix());
    };
    match usize::try_from(*columns) {
        Ok(columns) if (1..=usize::from(u16::MAX)).contains(&columns) => Ok((value.name.clone(), columns)),
        _ => Err(no_matrix()),
    }
}

fn read_trees(node: &NodeProto, features: usize) -> Result<Vec<Tree>, DecodeError> {
    let lists = Lists::read(node)?;
    let mut trees = Vec::new();
    let (mut at, mut leaf) = (0, 0);
    while at < lists.tree_ids.len() {
        let id = trees.len();
        let mut nodes = Vec::new();
        while lists.tree_ids.get(at).is_some_and(|tree| usize::try_from(*tree) == Ok(id)) {
            nodes.push(lists.node(at, nodes.len(), &mut leaf)?);
            at += 1;
        }
        trees.push(Tree::new(&nodes, features).map_err(|source| DecodeError::Tree { tree: id, source })?);
    }
    if trees.is_empty() || leaf != lists.values.len() {
        return Err(shape(format!("it has {} trees, and {} leaf values for {leaf} leaves", trees.len(), lists.values.len())));
    }
    Ok(trees)
}

/// The trees' attributes: parallel lists, in the order of trees and nodes.
struct Lists {
    tree_ids: Vec<i64>,
    node_ids: Vec<i64>,
    modes: Vec<Bytes>,
    features: Vec<i64>,
    thresholds: Vec<f32>,
    lefts: Vec<i64>,
    rights: Vec<i64>,
    leaf_tree_ids: Vec<i64>,
    leaf_node_ids: Vec<i64>,
    values: Vec<f32>,
}

impl Lists {
    fn read(node: &NodeProto) -> Result<Self, DecodeError> {
        let mut attributes = BTreeMap::new();
        for attribute in messages::<AttributeProto>("attributes", node.attribute.clone(), MAX_PARTS)? {
            if attributes.contains_key(&attribute.name) {
                return Err(shape(format!("its trees have the attribute {} twice", attribute.name)));
            }
            attributes.insert(attribute.name.clone(), attribute);
        }
        let mut take = |name: &str, kind: i32| {
            let found = attributes.remove(name).filter(|attribute| attribute.r#type == kind);
            found.ok_or_else(|| shape(format!("its trees have no attribute {name}, or one of another type")))
        };
        let aggregate = take("aggregate_function", attribute_type::STRING)?.s;
        let targets = take("n_targets", attribute_type::INT)?.i;
        if aggregate != "AVERAGE" || targets != 1 {
            return Err(shape("its trees do not average one target"));
        }
        let mut ints = |name| take(name, attribute_type::INTS).map(|attribute| attribute.ints);
        let lists = Self {
            tree_ids: ints("nodes_treeids")?,
            node_ids: ints("nodes_nodeids")?,
            features: ints("nodes_featureids")?,
            lefts: ints("nodes_truenodeids")?,
            rights: ints("nodes_falsenodeids")?,
            leaf_tree_ids: ints("target_treeids")?,
            leaf_node_ids: ints("target_nodeids")?,
            modes: Vec::new(),
            thresholds: Vec::new(),
            values: Vec::new(),
        };
        let target_ids = ints("target_ids")?;
        let lists = Self {
            modes: take("nodes_modes", attribute_type::STRINGS)?.strings,
            thresholds: take("nodes_values", attribute_type::FLOATS)?.floats,
            values: take("target_weights", attribute_type::FLOATS)?.floats,
            ..lists
        };
        if let Some(name) = attributes.keys().next() {
            return Err(shape(format!("its trees have the attribute {name}, which is not read")));
        }
        let nodes =
            [lists.node_ids.len(), lists.modes.len(), lists.features.len(), lists.thresholds.len(), lists.lefts.len(), lists.rights.len()];
        let leaves = [lists.leaf_tree_ids.len(), lists.leaf_node_ids.len(), target_ids.len()];
        if nodes != [lists.tree_ids.len(); 6] || leaves != [lists.values.len(); 3] || target_ids.iter().any(|id| *id != 0) {
            return Err(shape("the lists of its trees are not of one length, or name a second target"));
        }
        Ok(lists)
    }

    /// Returns element `at` as the node `node_id` of its tree; a leaf takes the next value.
    fn node(&self, at: usize, node_id: usize, leaf: &mut usize) -> Result<Node, DecodeError> {
        let wrong = |what: &str, found: i64| shape(format!("element {at} of its trees has the {what} {found}"));
        if usize::try_from(self.node_ids[at]) != Ok(node_id) {
            return Err(wrong("node id", self.node_ids[at]));
        }
        if self.modes[at] == "LEAF" {
            let is_own =
                self.leaf_tree_ids.get(*leaf) == Some(&self.tree_ids[at]) && self.leaf_node_ids.get(*leaf) == Some(&self.node_ids[at]);
            let Some(value) = self.values.get(*leaf).filter(|_| is_own) else {
                return Err(shape(format!("element {at} of its trees is a leaf whose value is not in its place")));
            };
            *leaf += 1;
            return Ok(Node::Leaf { value: *value });
        }
        if self.modes[at] != "BRANCH_LEQ" {
            return Err(shape(format!("element {at} of its trees is neither BRANCH_LEQ nor LEAF")));
        }
        let child = |child: i64| u32::try_from(child).map_err(|_| wrong("child", child));
        let feature = u16::try_from(self.features[at]).map_err(|_| wrong("feature", self.features[at]))?;
        Ok(Node::Split { feature, threshold: self.thresholds[at], left: child(self.lefts[at])?, right: child(self.rights[at])? })
    }
}
