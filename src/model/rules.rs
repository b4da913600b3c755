//! The contract's rules about tickets out of the ordinary: they name an anomaly's kind, and answer where there is no model.

use serde::{Deserialize, Serialize};

use crate::baseline::Cell;
use crate::features::{Category, Encoder, Row};
use crate::spec::Spec;

// Every number below is the contract's, "Anomaly".
/// Below this a ticket's risk is low.
const LOW_RISK: f64 = 0.5;
/// Capabilities above which a low risk does not fit.
const FEW_CAPABILITIES: f64 = 5.0;
/// Capabilities above which there are many, whatever the risk.
const MANY_CAPABILITIES: f64 = 10.0;
/// The same where no model is asked.
const TOO_MANY_CAPABILITIES: f64 = 15.0;
/// Standard deviations of the task type's durations that an estimate may be off.
const DEVIATIONS: f64 = 3.0;
/// Share of the task type's average that an estimate lies between where no model is asked.
const AVERAGE_SHARES: (f64, f64) = (0.2, 5.0);
/// The delivery that costs most.
const EXACTLY_ONCE: &str = "exactly_once";

/// What is out of the ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Low risk, and many capabilities.
    ResourceMismatch,
    /// Low risk, and delivered exactly once.
    QosInconsistency,
    /// An estimate far from what the task type takes.
    DurationOutlier,
    /// Very many capabilities.
    CapabilityAnomaly,
    /// None of these.
    Unknown,
}

impl Kind {
    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ResourceMismatch => "resource_mismatch",
            Self::QosInconsistency => "qos_inconsistency",
            Self::DurationOutlier => "duration_outlier",
            Self::CapabilityAnomaly => "capability_anomaly",
            Self::Unknown => "unknown",
        }
    }
}

/// What the rules say of a ticket.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The kind.
    pub kind: Kind,
    /// For a person.
    pub sentence: String,
}

/// The rules, over the features of one spec by name. A rule whose feature the spec lacks, or the ticket, never holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    risk: Option<usize>,
    capabilities: Option<usize>,
    /// The feature, and the row of its table that means exactly once.
    delivery: Option<(usize, usize)>,
    estimate: Option<usize>,
    average: Option<usize>,
    deviation: Option<usize>,
}

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
struct Facts {
    risk: Option<f64>,
    capabilities: Option<f64>,
    exactly_once: bool,
    estimate: Option<f64>,
    average: Option<f64>,
    deviation: Option<f64>,
}

impl Rules {
    /// Finds the features that the rules name.
    #[must_use]
    pub fn of(spec: &Spec) -> Self {
        let at = |name: &str| spec.features.iter().position(|feature| feature.name == name);
        let delivery = ["qos_delivery_score", "qos_delivery"].into_iter().find_map(at).and_then(|feature| {
            let row = spec.features[feature].table.iter().position(|entry| entry.text.eq_ignore_ascii_case(EXACTLY_ONCE));
            row.map(|row| (feature, row))
        });
        Self {
            risk: at("risk_weight"),
            capabilities: at("capabilities_count"),
            delivery,
            estimate: at("estimated_duration_ms"),
            average: at("avg_duration_by_task"),
            deviation: at("std_duration_by_task"),
        }
    }

    /// Returns what the spec lacks, by name; rules that need it never hold.
    #[must_use]
    pub fn lacking(&self) -> Vec<&'static str> {
        let all = [
            ("risk_weight", self.risk.is_some()),
            ("capabilities_count", self.capabilities.is_some()),
            ("qos_delivery_score with exactly_once in its table", self.delivery.is_some()),
            ("estimated_duration_ms", self.estimate.is_some()),
            ("avg_duration_by_task", self.average.is_some()),
            ("std_duration_by_task", self.deviation.is_some()),
        ];
        all.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect()
    }

    /// Whether any rule can hold: else only a forest answers.
    #[must_use]
    pub fn can_answer(&self) -> bool {
        let duration = self.estimate.is_some() && self.average.is_some();
        self.capabilities.is_some() || duration || (self.risk.is_some() && self.delivery.is_some())
    }

    /// Returns the first kind that holds: what an anomaly is called that a forest has found.
    #[must_use]
    pub fn kind(&self, encoder: &Encoder, row: &Row, learned: &[Vec<f64>]) -> Option<Finding> {
        self.facts(encoder, row, learned).kind()
    }

    /// Returns why a ticket is anomalous by the rules alone; `None` when it is not.
    #[must_use]
    pub fn judge(&self, encoder: &Encoder, row: &Row, learned: &[Vec<f64>]) -> Option<Finding> {
        let facts = self.facts(encoder, row, learned);
        facts.kind().or_else(|| facts.without_model())
    }

    fn facts(&self, encoder: &Encoder, row: &Row, learned: &[Vec<f64>]) -> Facts {
        let number = |feature: Option<usize>| {
            let feature = feature?;
            match encoder.cell(feature, row, learned.get(feature).map_or(&[], Vec::as_slice)) {
                Cell::Number(number) if number.is_finite() => Some(number),
                _ => None,
            }
        };
        let exactly_once = self.delivery.is_some_and(|(feature, at)| encoder.category(feature, row) == Some(Category::Row(at)));
        Facts {
            risk: number(self.risk),
            capabilities: number(self.capabilities),
            exactly_once,
            estimate: number(self.estimate),
            average: number(self.average),
            deviation: number(self.deviation),
        }
    }
}

impl Facts {
    fn kind(&self) -> Option<Finding> {
        let low_risk = self.risk.filter(|risk| *risk < LOW_RISK);
        let found = |kind, sentence| Some(Finding { kind, sentence });
        if let (Some(risk), Some(capabilities)) = (low_risk, self.capabilities)
            && capabilities > FEW_CAPABILITIES
        {
            return found(Kind::ResourceMismatch, format!("it asks for {capabilities} capabilities at a risk weight of only {risk}"));
        }
        if let Some(risk) = low_risk.filter(|_| self.exactly_once) {
            return found(Kind::QosInconsistency, format!("it is delivered exactly once at a risk weight of only {risk}"));
        }
        if let (Some(estimate), Some(average), Some(deviation)) = (self.estimate, self.average, self.deviation)
            && (estimate - average).abs() > DEVIATIONS * deviation
        {
            let side = if estimate > average { "above" } else { "below" };
            return found(
                Kind::DurationOutlier,
                format!("its estimate of {estimate:.0} ms is more than 3 standard deviations {side} the {average:.0} ms of its task type"),
            );
        }
        if let Some(capabilities) = self.capabilities.filter(|capabilities| *capabilities > MANY_CAPABILITIES) {
            return found(Kind::CapabilityAnomaly, format!("it asks for {capabilities} capabilities; more than 10 are unusual"));
        }
        None
    }

    fn without_model(&self) -> Option<Finding> {
        if let (Some(estimate), Some(average)) = (self.estimate, self.average)
            && (estimate > AVERAGE_SHARES.1 * average || estimate < AVERAGE_SHARES.0 * average)
        {
            let times = estimate / average;
            return Some(Finding {
                kind: Kind::DurationOutlier,
                sentence: format!("its estimate of {estimate:.0} ms is {times:.2} times the average of its task type"),
            });
        }
        let capabilities = self.capabilities.filter(|capabilities| *capabilities > TOO_MANY_CAPABILITIES)?;
        Some(Finding {
            kind: Kind::CapabilityAnomaly,
            sentence: format!("it asks for {capabilities} capabilities; more than 15 are too many"),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ticket::FieldValue;

    pub(crate) fn spec() -> Spec {
        Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()
    }

    /// Task types take 60,000 ± 10,000 ms.
    pub(crate) fn learned(spec: &Spec) -> Vec<Vec<f64>> {
        let value = |name: &str| if name.starts_with("std") { 10_000.0 } else { 60_000.0 };
        spec.features.iter().map(|f| if f.encoder.is_learned() { vec![value(&f.name); f.table.len()] } else { vec![] }).collect()
    }

    /// An ordinary ticket but for what is given.
    pub(crate) fn row(spec: &Spec, encoder: &Encoder, given: &[(&str, FieldValue)]) -> Row {
        let text = |text: &str| FieldValue::Text(text.into());
        let mut fields = vec![FieldValue::Missing; spec.fields.len()];
        let ordinary = [
            ("risk_band", text("high")),
            ("qos_delivery", text("AT_LEAST_ONCE")),
            ("capabilities", FieldValue::Number(3.0)),
            ("task_type", text("BUILD")),
            ("estimated_duration_ms", FieldValue::Number(61_000.0)),
        ];
        for (name, value) in ordinary.iter().chain(given) {
            fields[spec.field(name).unwrap()] = value.clone();
        }
        let mut row = Row::default();
        encoder.encode(&fields, &mut row);
        row
    }

    fn found(given: &[(&str, FieldValue)]) -> Option<Kind> {
        let spec = spec();
        let encoder = Encoder::new(&spec).unwrap();
        Rules::of(&spec).judge(&encoder, &row(&spec, &encoder, given), &learned(&spec)).map(|finding| finding.kind)
    }

    #[test]
    fn each_kind_begins_above_its_mark_and_the_first_that_holds_names_it() {
        let (low, capabilities) = (("risk_band", FieldValue::Text("low".into())), |n: f64| ("capabilities", FieldValue::Number(n)));
        let (once, estimate) =
            (("qos_delivery", FieldValue::Text("EXACTLY_ONCE".into())), |ms: f64| ("estimated_duration_ms", FieldValue::Number(ms)));
        for (given, kind) in [
            (vec![], None),
            (vec![low.clone(), capabilities(5.0)], None),
            (vec![low.clone(), capabilities(6.0)], Some(Kind::ResourceMismatch)),
            (vec![once.clone()], None),
            (vec![low.clone(), once.clone()], Some(Kind::QosInconsistency)),
            (vec![low, once, capabilities(6.0)], Some(Kind::ResourceMismatch)),
            (vec![estimate(90_000.0)], None),
            (vec![estimate(90_001.0)], Some(Kind::DurationOutlier)),
            (vec![estimate(29_999.0)], Some(Kind::DurationOutlier)),
            (vec![capabilities(10.0)], None),
            (vec![capabilities(11.0)], Some(Kind::CapabilityAnomaly)),
        ] {
            assert_eq!(found(&given), kind, "{given:?}");
        }
    }

    #[test]
    fn what_a_ticket_lacks_is_no_anomaly() {
        assert_eq!(found(&[("estimated_duration_ms", FieldValue::Missing), ("capabilities", FieldValue::Missing)]), None);
        let unseen = ("task_type", FieldValue::Text("a type of today".into()));
        assert_eq!(found(&[unseen, ("estimated_duration_ms", FieldValue::Number(1e12))]), None, "nobody knows how long that type takes");
    }

    #[test]
    fn a_wide_task_type_is_judged_by_its_average_where_no_model_is_asked() {
        let spec = spec();
        let encoder = Encoder::new(&spec).unwrap();
        let wide: Vec<Vec<f64>> = learned(&spec).into_iter().map(|table| table.iter().map(|_| 60_000.0).collect()).collect();
        let rules = Rules::of(&spec);
        for (estimate, holds) in [(300_000.0, true), (300_001.0, true), (12_000.0, false), (11_999.0, true)] {
            // 300,000 is 4 standard deviations of 60,000 above: a kind; 11,999 is within 3.
            let row = row(&spec, &encoder, &[("estimated_duration_ms", FieldValue::Number(estimate))]);
            assert_eq!(rules.judge(&encoder, &row, &wide).is_some(), holds, "{estimate}");
            assert_eq!(rules.kind(&encoder, &row, &wide).is_some(), estimate > 240_000.0, "{estimate}");
        }
    }

    #[test]
    fn a_spec_without_the_features_says_which() {
        let mut spec = spec();
        spec.features.retain(|feature| feature.name == "hour_of_day" || feature.name == "risk_weight");
        let rules = Rules::of(&spec);
        assert!(!rules.can_answer());
        assert_eq!(rules.lacking().len(), 5);
        assert!(Rules::of(&super::tests::spec()).lacking().is_empty());
    }
}
