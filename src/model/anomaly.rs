//! The anomaly model as it answers a ticket: the isolation forest with what stands around it in its file, and the rules beside it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::features::{Encoder, Row};
use crate::spec::Spec;

use super::duration::{INPUT, ModelError, write_inputs};
use super::isolation::IsolationForest;
use super::onnx::{EncodeError, Labels, decode_isolation, encode_isolation};
use super::rules::{Kind, Rules};

/// Key of the card in the file's metadata.
const CARD: &str = "card";
/// Name of the graph's output.
pub const OUTPUT: &str = "score";

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
    /// Share of the training rows that the threshold calls anomalous.
    pub contamination: f64,
    /// Precision on the later hold-out; `None` when it is unknown.
    pub precision: Option<f64>,
    /// Begin and end of the rows trained on, ms since 1970, half open.
    pub data_ms: (i64, i64),
    /// Rows trained on.
    pub rows: u64,
}

/// An anomaly model.
#[derive(Clone, Debug, PartialEq)]
pub struct AnomalyModel {
    forest: IsolationForest,
    card: Card,
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnsweredBy {
    /// The forest.
    Model,
    /// The contract's rules: there is no model.
    Rules,
    /// Nobody: there is no model, and the spec has no feature that a rule reads.
    Nobody,
}

/// What is said of a ticket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Whether it is out of the ordinary.
    pub is_anomaly: bool,
    /// The forest's score, in (0, 1), towards 1 the more anomalous; `None` where the rules answer.
    pub score: Option<f64>,
    /// What is out of the ordinary; `None` of an ordinary ticket.
    pub kind: Option<Kind>,
    /// For a person.
    pub sentence: String,
    /// Who answered.
    pub answered_by: AnsweredBy,
}

impl AnomalyModel {
    /// Puts a model together.
    #[must_use]
    pub fn new(forest: IsolationForest, card: Card) -> Self {
        assert_eq!(forest.features(), card.features.len(), "a forest has the card's features");
        Self { forest, card }
    }

    /// Returns the model's file.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, EncodeError> {
        let card = serde_json::to_string(&self.card).expect("a card has only texts and numbers");
        let metadata = BTreeMap::from([(CARD.to_owned(), card)]);
        encode_isolation(&self.forest, &Labels { input: INPUT.to_owned(), output: OUTPUT.to_owned(), metadata })
    }

    /// Reads a model's file, which may come from anyone.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn from_bytes(bytes: &[u8], spec: &Spec) -> Result<Self, ModelError> {
        let decoded = decode_isolation(bytes)?;
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
        if fits { Ok(Self { forest: decoded.forest, card }) } else { Err(bad("its features are not the spec's".to_owned())) }
    }

    /// Returns what stands beside the trees.
    #[must_use]
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Returns the same trees with another card.
    #[must_use]
    pub fn with_card(self, card: Card) -> Self {
        Self::new(self.forest, card)
    }

    /// Returns the score above which a ticket is anomalous.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.forest.threshold()
    }

    /// Returns the scores of inputs, `[rows, features]`.
    #[must_use]
    pub fn scores(&self, inputs: ndarray::ArrayView2<f32>) -> Vec<f64> {
        self.forest.score_rows(inputs).to_vec()
    }

    /// Returns the score of one ticket's inputs, and whether that is an anomaly.
    #[must_use]
    pub fn score(&self, inputs: &[f32]) -> (f64, bool) {
        let score = self.forest.score_row(inputs);
        (score, self.forest.is_anomalous(score))
    }

    /// Whether a ticket of this score is anomalous.
    #[must_use]
    pub fn is_anomalous(&self, score: f64) -> bool {
        self.forest.is_anomalous(score)
    }

    /// Answers a ticket: score and flag from the forest, the kind from the rules.
    #[must_use]
    pub fn answer(&self, rules: &Rules, encoder: &Encoder, row: &Row) -> Anomaly {
        let mut inputs = Vec::with_capacity(self.card.features.len());
        write_inputs(encoder, row, &self.card.learned, &mut inputs);
        let (score, is_anomaly) = self.score(&inputs);
        let (kind, sentence) = if is_anomaly {
            match rules.kind(encoder, row, &self.card.learned) {
                Some(finding) => (Some(finding.kind), format!("Out of the ordinary: {}.", finding.sentence)),
                None => (Some(Kind::Unknown), "Out of the ordinary: unlike other tickets in several features at once.".to_owned()),
            }
        } else {
            (None, "Ordinary.".to_owned())
        };
        Anomaly { is_anomaly, score: Some(score), kind, sentence, answered_by: AnsweredBy::Model }
    }
}

/// Answers a ticket without a model, by the rules. `learned` has the task types' durations: another model's, or the spec's defaults.
#[must_use]
pub fn answer_by_rules(rules: &Rules, encoder: &Encoder, row: &Row, learned: &[Vec<f64>]) -> Anomaly {
    if !rules.can_answer() {
        let sentence =
            format!("Unknown: there is no model, and the spec has none of the features that rules read ({}).", rules.lacking().join(", "));
        return Anomaly { is_anomaly: false, score: None, kind: None, sentence, answered_by: AnsweredBy::Nobody };
    }
    let found = rules.judge(encoder, row, learned);
    let sentence = found.as_ref().map_or_else(|| "Ordinary.".to_owned(), |finding| format!("Out of the ordinary: {}.", finding.sentence));
    let kind = found.map(|finding| finding.kind);
    Anomaly { is_anomaly: kind.is_some(), score: None, kind, sentence, answered_by: AnsweredBy::Rules }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rules::tests::{learned, row, spec};
    use crate::model::tree::{Node, Tree};
    use crate::ticket::FieldValue;

    /// Finds tickets of more than 7 capabilities anomalous.
    fn model(spec: &Spec) -> AnomalyModel {
        let features: Vec<String> = spec.features.iter().map(|feature| feature.name.clone()).collect();
        let at = features.iter().position(|name| name == "capabilities_count").unwrap();
        let split = Node::Split { feature: u16::try_from(at).unwrap(), threshold: 7.0, left: 1, right: 2 };
        let tree = Tree::new(&[split, Node::Leaf { value: 12.0 }, Node::Leaf { value: 2.0 }], features.len()).unwrap();
        let card = Card {
            spec: spec.name.clone(),
            fingerprint: spec.fingerprint(),
            features,
            learned: learned(spec),
            contamination: 0.05,
            precision: None,
            data_ms: (0, 1),
            rows: 1,
        };
        AnomalyModel::new(IsolationForest::new(vec![tree], spec.features.len(), 256, 0.6), card)
    }

    #[test]
    fn the_forest_flags_and_the_rules_name_what_it_flags() {
        let spec = spec();
        let (encoder, rules, model) = (Encoder::new(&spec).unwrap(), Rules::of(&spec), model(&spec));
        let answer = |capabilities: f64| {
            model.answer(&rules, &encoder, &row(&spec, &encoder, &[("capabilities", FieldValue::Number(capabilities))]))
        };
        assert_eq!((answer(7.0).is_anomaly, answer(7.0).kind), (false, None));
        assert_eq!((answer(8.0).is_anomaly, answer(8.0).kind), (true, Some(Kind::Unknown)));
        assert_eq!(answer(11.0).kind, Some(Kind::CapabilityAnomaly));
        assert!(answer(11.0).sentence.contains("11 capabilities"), "{}", answer(11.0).sentence);
        assert!(answer(8.0).score > answer(7.0).score && answer(7.0).answered_by == AnsweredBy::Model);
    }

    #[test]
    fn without_a_model_the_rules_answer_and_without_their_features_nobody_does() {
        let mut spec = spec();
        let encoder = Encoder::new(&spec).unwrap();
        let row = row(&spec, &encoder, &[("capabilities", FieldValue::Number(11.0))]);
        let answer = answer_by_rules(&Rules::of(&spec), &encoder, &row, &learned(&spec));
        assert_eq!((answer.is_anomaly, answer.score, answer.answered_by), (true, None, AnsweredBy::Rules));
        spec.features.retain(|feature| feature.name == "hour_of_day");
        let nobody = answer_by_rules(&Rules::of(&spec), &encoder, &row, &[]);
        assert!(!nobody.is_anomaly && nobody.answered_by == AnsweredBy::Nobody && nobody.sentence.contains("capabilities_count"));
    }

    #[test]
    fn a_model_survives_its_file_and_another_spec_refuses_it() {
        let spec = spec();
        let bytes = model(&spec).to_bytes().unwrap();
        assert_eq!(AnomalyModel::from_bytes(&bytes, &spec).unwrap(), model(&spec));
        let mut other = spec.clone();
        other.features[0].default = 0.25;
        assert!(matches!(AnomalyModel::from_bytes(&bytes, &other), Err(ModelError::OtherSpec { .. })));
        let duration = crate::model::duration::tests::constant(&spec, 1.0).to_bytes("duration_ms").unwrap();
        assert!(AnomalyModel::from_bytes(&duration, &spec).is_err(), "a duration model is none");
    }
}
