//! Whether a ticket is out of the ordinary, which kind of anomaly it is, and a sentence for a person.

use serde::Serialize;

use super::facts::Facts;
use super::source::{Fallback, ModelName, Source};

/// The contract's marks: a risk weight below which much is too much, and how much that is.
const LOW_RISK: f64 = 0.5;
const MANY_CAPABILITIES_AT_LOW_RISK: f64 = 5.0;
const MANY_CAPABILITIES: f64 = 10.0;
const TOO_MANY_CAPABILITIES: f64 = 15.0;
const OUTLIER_STDS: f64 = 3.0;
const HIGH_RATIO: f64 = 5.0;
const LOW_RATIO: f64 = 0.2;

/// What is out of the ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Much capability for little risk.
    ResourceMismatch,
    /// The strongest delivery for little risk.
    QosInconsistency,
    /// An estimate far from what such tasks take.
    DurationOutlier,
    /// Many capabilities.
    CapabilityAnomaly,
    /// The forest says so, and no rule knows why.
    Unknown,
}

/// An anomaly's answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AnomalyAnswer {
    /// The ticket's id, as extended JSON, where it has one.
    pub(super) ticket_id: Option<Box<serde_json::value::RawValue>>,
    /// The forest's score, in (0, 1); rules have none.
    pub(super) score: Option<f64>,
    /// Whether the ticket is an anomaly.
    pub(super) is_anomaly: bool,
    /// Which kind; none for an ordinary ticket.
    pub(super) kind: Option<Kind>,
    /// For a person.
    pub(super) sentence: String,
    /// Who answered.
    pub(super) source: Source,
    /// Why the model did not.
    pub(super) fallback: Option<Fallback>,
    /// The model that answered.
    pub(super) model: Option<ModelName>,
    /// Features whose value was absent, unreadable or unknown, so that the default was taken.
    pub(super) defaulted: Vec<String>,
}

/// What was said.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    pub(super) score: Option<f64>,
    pub(super) kind: Option<Kind>,
    pub(super) sentence: String,
}

/// Decides: `scored` is the forest's score and flag, without a model the rules flag. `None` when nobody can say anything.
///
/// Source: the contract, "Predictions and what stands in for them"; the first kind that holds.
pub(super) fn decide(scored: Option<(f64, bool)>, facts: Option<&Facts>) -> Option<Said> {
    let Some((score, is_anomaly)) = scored else {
        let facts = facts?;
        let ordinary = || Said { score: None, kind: None, sentence: "An ordinary ticket by the rules.".to_owned() };
        let found = kind_of(facts).or_else(|| beyond(facts));
        return Some(found.map_or_else(ordinary, |(kind, sentence)| Said { score: None, kind: Some(kind), sentence }));
    };
    if !is_anomaly {
        return Some(Said { score: Some(score), kind: None, sentence: format!("An ordinary ticket: its score is {score:.2}.") });
    }
    let unknown =
        || (Kind::Unknown, "Unusual as a whole, though no single rule says why: look at the ticket beside others of its type.".to_owned());
    let (kind, sentence) = facts.and_then(kind_of).unwrap_or_else(unknown);
    Some(Said { score: Some(score), kind: Some(kind), sentence })
}

fn kind_of(facts: &Facts) -> Option<(Kind, String)> {
    let Facts { risk_weight, capabilities, average, std, .. } = *facts;
    if risk_weight < LOW_RISK && capabilities > MANY_CAPABILITIES_AT_LOW_RISK {
        let sentence = format!("Asks for {capabilities} capabilities at a low risk (weight {risk_weight}): more than 5 are unusual there.");
        return Some((Kind::ResourceMismatch, sentence));
    }
    if facts.is_exactly_once && risk_weight < LOW_RISK {
        let sentence = format!("Asks for exactly-once delivery at a low risk (weight {risk_weight}): that costs more than it protects.");
        return Some((Kind::QosInconsistency, sentence));
    }
    if (facts.estimate - average).abs() > OUTLIER_STDS * std {
        let sentence =
            format!("{} is more than 3 standard deviations ({std:.0}) from the {average:.0} that such tasks take.", estimate(facts));
        return Some((Kind::DurationOutlier, sentence));
    }
    if capabilities > MANY_CAPABILITIES {
        return Some((Kind::CapabilityAnomaly, format!("Asks for {capabilities} capabilities: more than 10 are unusual.")));
    }
    None
}

/// The marks that only the rules have.
fn beyond(facts: &Facts) -> Option<(Kind, String)> {
    let Facts { average, capabilities, .. } = *facts;
    if facts.estimate > HIGH_RATIO * average || facts.estimate < LOW_RATIO * average {
        let sentence = format!("{} is not within 0.2 and 5 times the {average:.0} that such tasks take.", estimate(facts));
        return Some((Kind::DurationOutlier, sentence));
    }
    (capabilities > TOO_MANY_CAPABILITIES)
        .then(|| (Kind::CapabilityAnomaly, format!("Asks for {capabilities} capabilities: more than 15 are out of all proportion.")))
}

fn estimate(facts: &Facts) -> String {
    let estimate = facts.estimate;
    if facts.has_estimate {
        format!("Its estimate of {estimate:.0}")
    } else {
        format!("It has no estimate; the {estimate:.0} assumed instead")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDINARY: Facts = Facts {
        risk_weight: 0.5,
        capabilities: 2.0,
        average: 60_000.0,
        std: 15_000.0,
        estimate: 60_000.0,
        has_estimate: true,
        is_exactly_once: false,
    };

    fn by_rules(facts: Facts) -> Option<Kind> {
        decide(None, Some(&facts)).and_then(|said| said.kind)
    }

    #[test]
    fn the_first_kind_that_holds_is_said() {
        let all = Facts { risk_weight: 0.3, capabilities: 16.0, is_exactly_once: true, estimate: 1e6, ..ORDINARY };
        assert_eq!(by_rules(all), Some(Kind::ResourceMismatch));
        assert_eq!(by_rules(Facts { capabilities: 5.0, ..all }), Some(Kind::QosInconsistency));
        assert_eq!(by_rules(Facts { risk_weight: 0.5, ..all }), Some(Kind::DurationOutlier));
        assert_eq!(by_rules(Facts { risk_weight: 0.5, estimate: 60_000.0, ..all }), Some(Kind::CapabilityAnomaly));
        assert_eq!(by_rules(Facts { capabilities: 10.0, ..ORDINARY }), None);
        assert_eq!(by_rules(Facts { estimate: 105_000.0, ..ORDINARY }), None, "three standard deviations are allowed");
    }

    #[test]
    fn without_a_model_a_ratio_is_enough() {
        let wide = Facts { std: 1e9, ..ORDINARY };
        assert_eq!(by_rules(wide), None);
        assert_eq!(by_rules(Facts { estimate: 300_001.0, ..wide }), Some(Kind::DurationOutlier));
        assert_eq!(by_rules(Facts { estimate: 11_999.0, ..wide }), Some(Kind::DurationOutlier));
        assert_eq!(decide(Some((0.4, false)), Some(&Facts { estimate: 300_001.0, ..wide })).unwrap().kind, None);
    }

    #[test]
    fn the_forest_flags_and_the_rules_name_the_kind() {
        assert_eq!(decide(Some((0.8, true)), Some(&ORDINARY)).unwrap().kind, Some(Kind::Unknown));
        assert_eq!(decide(Some((0.8, true)), None).unwrap().kind, Some(Kind::Unknown));
        assert_eq!(decide(Some((0.8, true)), Some(&Facts { capabilities: 11.0, ..ORDINARY })).unwrap().kind, Some(Kind::CapabilityAnomaly));
        assert_eq!(decide(Some((0.4, false)), Some(&Facts { capabilities: 11.0, ..ORDINARY })).unwrap().kind, None);
        assert_eq!(decide(None, None), None);
    }
}
