//! What the rules know of a ticket: a handful of the contract's features, by name, with their defaults.

use crate::features::{Encoder, Row};
use crate::spec::Spec;
use crate::tail::normalise::Open;
use crate::ticket::FieldValue;

/// The features that the rules read, as the models are given them. Times are in the target's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Facts {
    /// 0.3 (low) to 1.0 (critical).
    pub(super) risk_weight: f64,
    /// How many capabilities the ticket asks for.
    pub(super) capabilities: f64,
    /// Mean actual of the task type.
    pub(super) average: f64,
    /// Standard deviation of the task type's actuals.
    pub(super) std: f64,
    /// The ticket's estimate, or the default when it has none.
    pub(super) estimate: f64,
    /// Whether the ticket has an estimate of its own.
    pub(super) has_estimate: bool,
    /// Whether delivery is promised exactly once.
    pub(super) is_exactly_once: bool,
}

/// Where those features stand in a spec. Made once.
#[derive(Clone, Debug)]
pub(super) struct FactPlaces {
    risk_weight: usize,
    capabilities: usize,
    average: usize,
    std: usize,
    estimate: usize,
    estimate_field: usize,
    delivery_field: usize,
}

impl FactPlaces {
    /// Finds them; `None` when the spec does not have them all: then there are no rules for its tickets.
    pub(super) fn of(spec: &Spec) -> Option<Self> {
        let feature = |name: &str| spec.features.iter().position(|feature| feature.name == name);
        let field = |feature: usize| spec.field(&spec.features[feature].field);
        let estimate = feature("estimated_duration_ms")?;
        Some(Self {
            risk_weight: feature("risk_weight")?,
            capabilities: feature("capabilities_count")?,
            average: feature("avg_duration_by_task")?,
            std: feature("std_duration_by_task")?,
            estimate,
            estimate_field: field(estimate)?,
            delivery_field: field(feature("qos_delivery_score")?)?,
        })
    }

    /// Reads a ticket's facts. `learned` is a model's tables, one a feature; without a model the spec's defaults stand.
    pub(super) fn read(&self, encoder: &Encoder, learned: Option<&[Vec<f64>]>, open: &Open, row: &Row) -> Facts {
        let input = |feature: usize| {
            let learned = learned.and_then(|learned| learned.get(feature)).map_or(&[][..], Vec::as_slice);
            encoder.input(feature, encoder.cell(feature, row, learned))
        };
        let delivery = &open.fields[self.delivery_field];
        Facts {
            risk_weight: input(self.risk_weight),
            capabilities: input(self.capabilities),
            average: input(self.average),
            std: input(self.std),
            estimate: input(self.estimate),
            has_estimate: matches!(open.fields[self.estimate_field], FieldValue::Number(number) if number.is_finite()),
            is_exactly_once: matches!(delivery, FieldValue::Text(text) if text.eq_ignore_ascii_case("exactly_once")),
        }
    }
}
