//! How long a ticket will take: the model's answer, else the rules', else the ticket's own estimate.

use serde::Serialize;

use super::facts::Facts;
use super::source::{Fallback, ModelName, Source};

/// No prediction is below this, in ms. Source: the contract, "Predictions and what stands in for them".
pub(super) const LEAST_MS: f64 = 1_000.0;
/// Confidence of a model's answer at its task's mean; of the rules'; of the estimate. Source: as above.
const MODEL_CONFIDENCE: f64 = 0.7;
const RULES_CONFIDENCE: f64 = 0.5;
const ESTIMATE_CONFIDENCE: f64 = 0.3;

/// A duration's answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DurationAnswer {
    /// The ticket's id, as extended JSON, where it has one.
    pub(super) ticket_id: Option<Box<serde_json::value::RawValue>>,
    /// In ms, at least [`LEAST_MS`].
    pub(super) prediction_ms: f64,
    /// Which of the three answered.
    pub(super) source: Source,
    /// Why the model did not.
    pub(super) fallback: Option<Fallback>,
    /// The model that answered.
    pub(super) model: Option<ModelName>,
    /// 0.1 to 1.
    pub(super) confidence: f64,
    /// Where 80 % of the actuals lie by the model's hold-out.
    pub(super) interval: Option<Interval>,
    /// Features whose value was absent, unreadable or unknown, so that the default was taken.
    pub(super) defaulted: Vec<String>,
}

/// Where the actual probably lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Interval {
    /// Lower end, ms.
    pub(super) low_ms: f64,
    /// Upper end, ms.
    pub(super) high_ms: f64,
    /// Share of later tickets of the hold-out that lay inside.
    pub(super) coverage: Option<f64>,
}

/// What was said, in the target's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Said {
    /// The prediction.
    pub(super) prediction: f64,
    /// Its confidence.
    pub(super) confidence: f64,
    /// Who said it.
    pub(super) source: Source,
}

/// Decides. `modelled` is the model's prediction, `facts` what the rules know, `own` the ticket's own prediction or estimate, and
/// `least` the smallest prediction, all in the target's unit; `None` when nobody can say anything.
///
/// - Confidence of the model: `0.7 × max(0, 1 − |prediction − mean| / (3 × std))`, within 0.1 and 1.
/// - Rules: `mean × (0.7 + 0.6 × risk weight) × (1 + 0.1 × capabilities)`.
/// - Source: the contract, "Predictions and what stands in for them".
pub(super) fn decide(modelled: Option<f64>, facts: Option<&Facts>, own: Option<f64>, least: f64) -> Option<Said> {
    if let Some(prediction) = modelled.filter(|prediction| prediction.is_finite()) {
        let prediction = prediction.max(least);
        let confidence = facts.map_or(MODEL_CONFIDENCE, |facts| confidence(prediction, facts));
        return Some(Said { prediction, confidence, source: Source::Model });
    }
    let by_rules = facts.map(|facts| facts.average * (0.7 + 0.6 * facts.risk_weight) * (1.0 + 0.1 * facts.capabilities));
    if let Some(prediction) = by_rules.filter(|prediction| prediction.is_finite()) {
        return Some(Said { prediction: prediction.max(least), confidence: RULES_CONFIDENCE, source: Source::Rules });
    }
    let own = own.filter(|own| own.is_finite())?;
    Some(Said { prediction: own.max(least), confidence: ESTIMATE_CONFIDENCE, source: Source::Estimate })
}

fn confidence(prediction: f64, facts: &Facts) -> f64 {
    let distance = (prediction - facts.average).abs();
    // A task whose actuals are all equal leaves no room: at its mean all is well, elsewhere nothing is.
    let share = if distance == 0.0 { 0.0 } else { distance / (3.0 * facts.std) };
    let closeness = if share.is_nan() { 0.0 } else { (1.0 - share).max(0.0) };
    (MODEL_CONFIDENCE * closeness).clamp(0.1, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        risk_weight: 0.7,
        capabilities: 2.0,
        average: 60_000.0,
        std: 15_000.0,
        estimate: 60_000.0,
        has_estimate: true,
        is_exactly_once: false,
    };

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn the_model_answers_with_the_contracts_confidence() {
        let said = decide(Some(75_000.0), Some(&FACTS), None, 1_000.0).unwrap();
        close(said.confidence, 0.7 * (1.0 - 15_000.0 / 45_000.0));
        assert_eq!(said.source, Source::Model);
        close(decide(Some(60_000.0), Some(&FACTS), None, 1_000.0).unwrap().confidence, 0.7);
        close(decide(Some(600_000.0), Some(&FACTS), None, 1_000.0).unwrap().confidence, 0.1);
        let constant = Facts { std: 0.0, ..FACTS };
        close(decide(Some(60_000.0), Some(&constant), None, 1_000.0).unwrap().confidence, 0.7);
        close(decide(Some(60_001.0), Some(&constant), None, 1_000.0).unwrap().confidence, 0.1);
    }

    #[test]
    fn rules_stand_in_for_the_model_and_the_estimate_for_the_rules() {
        let said = decide(None, Some(&FACTS), Some(5.0), 1_000.0).unwrap();
        close(said.prediction, 60_000.0 * (0.7 + 0.42) * 1.2);
        close(said.confidence, 0.5);
        assert_eq!(said.source, Source::Rules);
        let broken = Facts { average: f64::INFINITY, ..FACTS };
        for facts in [None, Some(&broken)] {
            let said = decide(Some(f64::NAN), facts, Some(90_000.0), 1_000.0).unwrap();
            assert_eq!(said, Said { prediction: 90_000.0, confidence: 0.3, source: Source::Estimate });
        }
        assert_eq!(decide(None, None, None, 1_000.0), None);
    }

    #[test]
    fn no_prediction_is_below_a_second() {
        let small = Facts { average: 1.0, ..FACTS };
        for said in
            [decide(Some(7.0), None, None, 1_000.0), decide(None, Some(&small), None, 1_000.0), decide(None, None, Some(7.0), 1_000.0)]
        {
            close(said.unwrap().prediction, 1_000.0);
        }
    }
}
