//! An alert about clusters explains itself: which grew and shrank, and the features that tell those from the others.

use crate::alert::{Carrier, Distribution, MovedFeature};
use crate::baseline::Clusters;
use crate::drift::look::CLUSTERS;
use crate::drift::psi::psi;

use super::explain::{Case, carriers_of};

/// Features that an alert names at most.
const NAMED: usize = 3;
/// Part of the change below which a feature is not worth a name.
const LEAST_PART: f64 = 0.05;
/// Features that describe a cluster.
const TRAITS: usize = 2;
/// Standard deviations from the mean below which a cluster is not known by a feature.
const LEAST_TRAIT: f64 = 0.3;

impl Case<'_> {
    /// Returns the clusters of the baseline and the window's rows in them, where both are known.
    fn clusters(&self) -> Option<(&Clusters, &[u64])> {
        let clusters = self.baseline.clusters.as_ref()?;
        let now = self.now.columns.get(self.baseline.columns.len())?;
        (now.len() == clusters.counts.len()).then_some((clusters, now.as_slice()))
    }

    /// Returns the rows by cluster before and now, each cluster in words.
    pub(crate) fn distribution_of_clusters(&self) -> Option<Distribution> {
        let (clusters, now) = self.clusters()?;
        let both = |cluster: usize| ["near", "far from"].map(|side| format!("{side} centre {}", self.name(clusters, cluster)));
        let bins = (0..clusters.centroids.len()).flat_map(both).collect();
        let found = psi(&clusters.counts, now).map(|found| found.psi);
        Some(Distribution { column: CLUSTERS.to_owned(), psi: found, bins, before: clusters.counts.clone(), now: now.to_vec() })
    }

    /// Returns the clusters that grew or shrank, by their part of the index.
    pub(super) fn carriers_of_clusters(&self) -> Vec<Carrier> {
        let Some(shown) = self.distribution_of_clusters() else { return vec![] };
        let mut carriers = carriers_of(&shown);
        for carrier in &mut carriers {
            let bin = shown.bins.iter().position(|name| *name == carrier.category);
            self.put_errors(carrier, self.baseline.columns.len(), bin);
        }
        carriers
    }

    /// Returns the features that moved most, taken together; empty for a cause that is not `clusters`.
    ///
    /// A feature's part is `w·(|S_now − S_before| + |Σ (n − b)·c|)` as a share of the sum over all features: how much farther from
    /// their centroids, or nearer, tickets lie along it (S, the mean squared distance), and how far its mean moved, as the
    /// clusters' shares before and now (b, n) and their centroids (c) have it; w is its weight. Of the features of one cause the
    /// one with the largest part is named, for all of them.
    pub(crate) fn moved(&self, cause: &str) -> Vec<MovedFeature> {
        let Some((clusters, now)) = self.clusters().filter(|_| cause == CLUSTERS) else { return vec![] };
        let rows: u64 = now.iter().sum();
        let spread_now = Clusters::mean_spread(&self.now.spread, rows);
        let (share_before, share_now) = (shares(&clusters.counts), shares(now));
        let part = |axis: usize| -> f64 {
            let wider = spread_now.get(axis).map_or(0.0, |now| (now - clusters.spread[axis]).abs());
            let moves = clusters.centroids.iter().zip(share_before.iter().zip(&share_now));
            let moved: f64 = moves.map(|(centroid, (before, now))| (now - before) * centroid[axis]).sum();
            clusters.axes[axis].weight * (wider + moved.abs())
        };
        let by_axis: Vec<f64> = (0..clusters.axes.len()).map(part).collect();
        let whole: f64 = by_axis.iter().sum();
        if rows == 0 || whole <= 0.0 {
            return vec![];
        }
        let mut moved: Vec<MovedFeature> = Vec::new();
        for members in self.by_cause(clusters, &by_axis) {
            let feature = clusters.axes[members[0]].feature.clone();
            let psi = self.psi_of(&feature);
            moved.push(MovedFeature { feature, part: members.iter().map(|axis| by_axis[*axis]).sum::<f64>() / whole, psi });
        }
        moved.sort_by(|a, b| b.part.total_cmp(&a.part));
        moved.retain(|feature| feature.part >= LEAST_PART);
        moved.truncate(NAMED);
        moved
    }

    /// Returns the axes of each cause, those with the largest of `sizes` first, in each and over all.
    fn by_cause(&self, clusters: &Clusters, sizes: &[f64]) -> Vec<Vec<usize>> {
        let cause_of = |axis: usize| {
            let feature = self.spec.features.iter().position(|feature| feature.name == clusters.axes[axis].feature);
            feature.map_or("", |feature| self.spec.cause(feature))
        };
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by(|a, b| sizes[*b].total_cmp(&sizes[*a]));
        let mut causes: Vec<(&str, Vec<usize>)> = Vec::new();
        for axis in order {
            let cause = cause_of(axis);
            match causes.iter_mut().find(|(known, _)| *known == cause) {
                Some((_, members)) => members.push(axis),
                None => causes.push((cause, vec![axis])),
            }
        }
        causes.into_iter().map(|(_, members)| members).collect()
    }

    fn psi_of(&self, feature: &str) -> Option<f64> {
        let column = self.baseline.columns.iter().position(|column| column.name == feature)?;
        psi(&self.baseline.columns[column].counts, self.now.columns.get(column)?).map(|found| found.psi)
    }

    /// Returns a cluster in words: its number and the features that it is known by.
    fn name(&self, clusters: &Clusters, cluster: usize) -> String {
        let centroid = &clusters.centroids[cluster];
        let sizes: Vec<f64> = clusters.axes.iter().zip(centroid).map(|(axis, at)| axis.weight.sqrt() * at.abs()).collect();
        let traits = self.by_cause(clusters, &sizes).into_iter().map(|members| members[0]);
        let known: Vec<String> = traits
            .filter(|axis| centroid[*axis].abs() >= LEAST_TRAIT)
            .take(TRAITS)
            .map(|axis| {
                let side = if centroid[axis] > 0.0 { "high" } else { "low" };
                format!("{} {side} {:+.1}", clusters.axes[axis].feature, centroid[axis])
            })
            .collect();
        let traits = if known.is_empty() { "the mean of all".to_owned() } else { known.join(", ") };
        format!("{} ({traits})", cluster + 1)
    }

    /// Says what a change of clusters is, and where to look.
    pub(super) fn advice_on_clusters(&self, carriers: &[Carrier]) -> Vec<String> {
        let largest = self.baseline.columns.iter().filter_map(|column| Some((column.name.as_str(), self.psi_of(&column.name)?)));
        let largest = largest.max_by(|a, b| a.1.total_cmp(&b.1));
        let moved: Vec<String> = self.moved(CLUSTERS).into_iter().map(|moved| moved.feature).collect();
        let mut advice = Vec::new();
        if !moved.is_empty() {
            advice.push(format!(
                "features go together in another way than in the baseline, most of all {}: ask what changed about these tickets",
                moved.join(", ")
            ));
        }
        if let Some((feature, psi)) = largest {
            advice.push(format!("the feature that moved most by itself is {feature} (PSI {psi:.3})"));
        }
        for carrier in carriers.iter().take(NAMED) {
            let verb = if carrier.share_now > carrier.share_before { "rose" } else { "fell" };
            let (before, now) = (100.0 * carrier.share_before, 100.0 * carrier.share_now);
            advice.push(format!(
                "tickets {} {verb} from {before:.1} to {now:.1} % (figures in brackets: standard deviations from the mean)",
                carrier.category
            ));
        }
        advice
    }
}

/// Returns the shares of the clusters, near and far together.
fn shares(counts: &[u64]) -> Vec<f64> {
    let rows = counts.iter().sum::<u64>().max(1) as f64;
    counts.chunks(2).map(|both| both.iter().sum::<u64>() as f64 / rows).collect()
}

#[cfg(test)]
mod tests;
