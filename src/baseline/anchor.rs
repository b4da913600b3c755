//! The first baseline, as later ones carry it: so that a drift in small steps does not hide behind baselines that follow it.
//!
//! Of each cause's columns the one that speaks for it is kept, with the first baseline's bins. Where a later baseline has the same
//! bins, its own counts serve; else the window counts the column a second time, after features and clusters.

use serde::{Deserialize, Serialize};

use super::{Baseline, Bins};
use crate::spec::Spec;

/// What the first baseline was like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// Its version.
    pub version: u64,
    /// Start of its data, inclusive, ms since 1970.
    pub from_ms: i64,
    /// End of its data, exclusive.
    pub to_ms: i64,
    /// One a cause, by the cause's name.
    pub columns: Vec<AnchorColumn>,
}

/// The column that speaks for a cause in the first baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnchorColumn {
    /// The cause.
    pub cause: String,
    /// The feature.
    pub name: String,
    /// Its bins then.
    pub bins: Bins,
    /// What its learned encoder gave each category then; empty for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<f64>,
    /// Rows by bin, missing, non-finite and unseen last.
    pub counts: Vec<u64>,
}

impl Anchor {
    /// Returns what the successors of `before` are also held against: its own anchor, or itself. `None` where it is of another spec.
    #[must_use]
    pub fn after(before: &Baseline, spec: &Spec) -> Option<Self> {
        if before.fingerprint != spec.fingerprint() {
            return None;
        }
        Some(before.anchor.clone().unwrap_or_else(|| Self::of(before, spec)))
    }

    fn of(first: &Baseline, spec: &Spec) -> Self {
        let filled = |member: usize| first.columns[member].counts.iter().filter(|count| **count > 0).count();
        let columns = spec.causes().into_iter().map(|(cause, members)| {
            // Of equals the first in the model's order.
            let leading = members.iter().copied().rev().max_by_key(|member| filled(*member)).unwrap_or(members[0]);
            let column = &first.columns[leading];
            AnchorColumn {
                cause: cause.to_owned(),
                name: column.name.clone(),
                bins: column.bins.clone(),
                learned: column.learned.clone(),
                counts: column.counts.clone(),
            }
        });
        Self { version: first.version, from_ms: first.from_ms, to_ms: first.to_ms, columns: columns.collect() }
    }
}

/// Where a slice counts a column of the anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// The feature's position.
    pub(crate) feature: usize,
    /// Position among a slice's columns.
    pub(crate) at: usize,
}

impl Baseline {
    /// Returns the position of the clusters among a slice's columns, where this baseline has any.
    pub(crate) fn clusters_at(&self) -> Option<usize> {
        self.clusters.as_ref().filter(|clusters| !clusters.centroids.is_empty()).map(|_| self.columns.len())
    }

    /// Returns each column of the anchor with its place among a slice's columns; one that names no feature is left out.
    pub(crate) fn anchored(&self) -> Vec<(&AnchorColumn, Counted)> {
        let mut next = self.columns.len() + usize::from(self.clusters_at().is_some());
        let columns = self.anchor.iter().flat_map(|anchor| &anchor.columns);
        let placed = columns.filter_map(|anchored| {
            let feature = self.columns.iter().position(|column| column.name == anchored.name)?;
            let ours = &self.columns[feature];
            let at = if (&ours.bins, &ours.learned) == (&anchored.bins, &anchored.learned) {
                feature
            } else {
                next += 1;
                next - 1
            };
            Some((anchored, Counted { feature, at }))
        });
        placed.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::HOUR_MS;
    use crate::config::Judge;
    use crate::drift::look::look;
    use crate::features::Encoder;
    use crate::summary::Slice;
    use crate::window::Window;
    use crate::window::tests::{SHAPE, baseline, counting, spec, ticket};

    /// The sum of a window's slices under a baseline.
    fn counted(spec: &Spec, under: &Baseline) -> Slice {
        let encoder = Arc::new(Encoder::new(spec).unwrap());
        let mut window = Window::new(Arc::clone(&encoder), SHAPE, Some(counting(spec, &encoder, under)));
        for seed in 0..3_000 {
            window.push(&ticket(spec, seed, i64::try_from(seed).unwrap() * HOUR_MS / 100));
        }
        let mut sum = Slice::default();
        window.counts().for_each(|slice| sum.add(slice));
        sum
    }

    #[test]
    fn a_window_under_a_later_baseline_shows_what_the_first_would_have_shown() {
        let spec = spec();
        let first = baseline(&spec, 1, 0);
        let mut second = baseline(&spec, 2, 0);
        second.anchor = Anchor::after(&first, &spec);
        assert_ne!(first.columns, second.columns, "the bins differ");
        let judge = Judge::default();
        let (under_first, under_second) = (counted(&spec, &first), counted(&spec, &second));
        let expected = look(&first, &spec, &under_first, 7, &judge);
        let seen = look(&second, &spec, &under_second, 7, &judge);
        assert!(expected.anchor_psi.is_empty(), "the first has no first");
        assert_eq!(seen.anchor_psi.len(), spec.causes().len());
        for (cause, psi) in &seen.anchor_psi {
            let column = second.anchor.as_ref().unwrap().columns.iter().find(|column| column.cause == *cause).unwrap();
            let then = expected.columns.iter().find(|then| then.name == column.name).unwrap();
            assert_eq!(psi.to_bits(), then.psi.to_bits(), "{cause}");
        }
        let places: Vec<usize> = second.anchored().iter().map(|(_, counted)| counted.at).collect();
        assert!(places.iter().any(|at| *at < second.columns.len()), "a column with the same bins is counted once: {places:?}");
        assert!(places.iter().any(|at| *at >= second.columns.len()), "one with others twice: {places:?}");
    }

    #[test]
    fn the_anchor_is_handed_on_and_never_to_another_spec() {
        let mut spec = spec();
        let first = baseline(&spec, 1, 0);
        let mut second = baseline(&spec, 2, 0);
        second.anchor = Anchor::after(&first, &spec);
        assert_eq!(Anchor::after(&second, &spec), second.anchor);
        assert_eq!(second.anchor.as_ref().unwrap().version, 1);
        spec.name.push_str("-other");
        assert_eq!(Anchor::after(&second, &spec), None);
    }
}
