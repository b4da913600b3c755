//! The duration model as it answers a ticket: the forest, and all that stands around it in its file.
//!
//! The file is the ONNX that Python loads. What Python does not need — the tables learned on the training split, the interval,
//! where the model comes from — is the [`Card`], one JSON text in the file's metadata.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::features::{Encoder, Row};
use crate::spec::Spec;

use super::forest::Forest;
use super::onnx::{DecodeError, EncodeError, Labels, decode_forest, encode_forest};

/// Path of a model's file in the registry.
pub const MODEL_FILE: &str = "model/model.onnx";
/// Key of the card in the file's metadata.
const CARD: &str = "card";
/// Name of the graph's input.
pub const INPUT: &str = "features";

/// What stands beside the trees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Name of the spec.
    pub spec: String,
    /// Its fingerprint: a model of another spec is refused.
    pub fingerprint: String,
    /// Names of the features, in order.
    pub features: Vec<String>,
    /// What each learned feature gives each row of its table, learned on the training split; empty for the others.
    pub learned: Vec<Vec<f64>>,
    /// 10 % and 90 % of actual / predicted on the older half of the hold-out; `None` when the hold-out was too small.
    pub interval: Option<(f64, f64)>,
    /// Share of the younger half of the hold-out inside that interval.
    pub coverage: Option<f64>,
    /// Mean absolute error on the hold-out, in the target's unit.
    pub mae: f64,
    /// Begin and end of the rows trained on, ms since 1970, half open.
    pub data_ms: (i64, i64),
    /// Rows trained on.
    pub rows: u64,
}

/// A file that is no model for this spec.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Not one of our graphs.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Without a card, or with one that cannot be read.
    #[error("the model's file has no readable card: {reason}; it was not made by tidemark")]
    Card {
        /// What is wrong.
        reason: String,
    },
    /// Of another spec.
    #[error("the model was made for spec {theirs}, ours is {ours}: train one for this spec")]
    OtherSpec {
        /// Name and fingerprint that it was made for.
        theirs: String,
        /// Ours.
        ours: String,
    },
}

/// A duration model.
#[derive(Clone, Debug, PartialEq)]
pub struct DurationModel {
    forest: Forest,
    floor: f32,
    card: Card,
}

impl DurationModel {
    /// Puts a model together. No prediction is below `floor` (in the target's unit).
    #[must_use]
    pub fn new(forest: Forest, floor: f32, card: Card) -> Self {
        assert_eq!(forest.features(), card.features.len(), "a forest has the card's features");
        Self { forest, floor, card }
    }

    /// Returns the model's file.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn to_bytes(&self, output: &str) -> Result<Vec<u8>, EncodeError> {
        let card = serde_json::to_string(&self.card).expect("a card has only texts and numbers");
        let labels = Labels { input: INPUT.to_owned(), output: output.to_owned(), metadata: BTreeMap::from([(CARD.to_owned(), card)]) };
        encode_forest(&self.forest, self.floor, &labels)
    }

    /// Reads a model's file, which may come from anyone.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn from_bytes(bytes: &[u8], spec: &Spec) -> Result<Self, ModelError> {
        let decoded = decode_forest(bytes)?;
        let bad = |reason: String| ModelError::Card { reason };
        let text = decoded.labels.metadata.get(CARD).ok_or_else(|| bad("there is none".to_owned()))?;
        let card: Card = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
        if card.spec != spec.name || card.fingerprint != spec.fingerprint() {
            let theirs = format!("{} ({})", card.spec, card.fingerprint);
            return Err(ModelError::OtherSpec { theirs, ours: format!("{} ({})", spec.name, spec.fingerprint()) });
        }
        let fits = card.learned.len() == spec.features.len()
            && card.features.iter().eq(spec.features.iter().map(|feature| &feature.name))
            && decoded.forest.features() == spec.features.len()
            && card.learned.iter().flatten().all(|value| value.is_finite());
        if !fits {
            return Err(bad("its features are not the spec's".to_owned()));
        }
        Ok(Self { forest: decoded.forest, floor: decoded.floor, card })
    }

    /// Returns what stands beside the trees.
    #[must_use]
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Returns the same trees with another card.
    #[must_use]
    pub fn with_card(self, card: Card) -> Self {
        Self::new(self.forest, self.floor, card)
    }

    /// Writes the model's inputs for a row into `inputs`, `[features]`.
    pub fn inputs(&self, encoder: &Encoder, row: &Row, inputs: &mut Vec<f32>) {
        write_inputs(encoder, row, &self.card.learned, inputs);
    }

    /// Predicts from inputs, in the target's unit.
    #[must_use]
    pub fn predict_inputs(&self, inputs: &[f32]) -> f64 {
        self.forest.predict_row(inputs).max(f64::from(self.floor))
    }

    /// Predicts a row, in the target's unit.
    #[must_use]
    pub fn predict(&self, encoder: &Encoder, row: &Row) -> f64 {
        let mut inputs = Vec::with_capacity(self.card.features.len());
        self.inputs(encoder, row, &mut inputs);
        self.predict_inputs(&inputs)
    }

    /// Predicts many rows, `[rows, features]`.
    #[must_use]
    pub fn predict_rows(&self, rows: ndarray::ArrayView2<f32>) -> Vec<f64> {
        let floor = f64::from(self.floor);
        self.forest.predict_rows(rows).into_iter().map(|prediction| prediction.max(floor)).collect()
    }
}

/// Writes a model's inputs for a row: each feature's number, or its default where that is missing, unseen or not finite.
pub fn write_inputs(encoder: &Encoder, row: &Row, learned: &[Vec<f64>], inputs: &mut Vec<f32>) {
    inputs.clear();
    #[expect(clippy::cast_possible_truncation, reason = "models see f32, as their ONNX does")]
    inputs.extend(learned.iter().enumerate().map(|(feature, learned)| {
        let number = encoder.input(feature, encoder.cell(feature, row, learned)) as f32;
        number.clamp(f32::MIN, f32::MAX)
    }));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::tree::{Node, Tree};

    fn spec() -> Spec {
        Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()
    }

    /// A model that answers `value` to every ticket.
    pub(crate) fn constant(spec: &Spec, value: f32) -> DurationModel {
        let features: Vec<String> = spec.features.iter().map(|feature| feature.name.clone()).collect();
        let tree = Tree::new(&[Node::Leaf { value }], features.len()).unwrap();
        let learned = spec.features.iter().map(|f| if f.encoder.is_learned() { vec![f.default; f.table.len()] } else { vec![] }).collect();
        let card = Card {
            spec: spec.name.clone(),
            fingerprint: spec.fingerprint(),
            features,
            learned,
            interval: Some((0.8, 1.25)),
            coverage: None,
            mae: 1.0,
            data_ms: (0, 1),
            rows: 1,
        };
        DurationModel::new(Forest::new(vec![tree], spec.features.len()), 1_000.0, card)
    }

    #[test]
    fn a_model_survives_its_file_and_answers_at_least_its_floor() {
        let spec = spec();
        let model = constant(&spec, 7.0);
        let read = DurationModel::from_bytes(&model.to_bytes("duration_ms").unwrap(), &spec).unwrap();
        assert_eq!(read, model);
        let encoder = Encoder::new(&spec).unwrap();
        let mut row = Row::default();
        encoder.encode(&vec![crate::ticket::FieldValue::Missing; spec.fields.len()], &mut row);
        assert!((read.predict(&encoder, &row) - 1_000.0).abs() < 1e-9);
    }

    #[test]
    fn a_model_of_another_spec_is_refused_by_both_fingerprints() {
        let spec = spec();
        let bytes = constant(&spec, 7.0).to_bytes("duration_ms").unwrap();
        let mut other = spec.clone();
        other.features[0].default = 0.25;
        let error = DurationModel::from_bytes(&bytes, &other).unwrap_err();
        assert!(matches!(&error, ModelError::OtherSpec { .. }), "{error}");
        assert!(DurationModel::from_bytes(b"no model", &spec).is_err());
    }
}
