//! Clusters: where the baseline's tickets lie, all features together, so that a window shows how features go together.
//!
//! A change of correlation moves no feature by itself. It moves tickets to where few were before: from one cluster to another, or
//! from near a centroid to far from all. So each cluster has two bins, near and far, parted by the median distance of the
//! baseline's tickets. (Whole clusters do not see two groups that change partners: half of each stays on its side of the border.)
//! Source: Kuncheva (2013), "Change Detection in Streaming Multivariate Data Using Likelihood Detectors", IEEE TKDE 25:
//! the divergence of two windows over the clusters of the first.

use serde::{Deserialize, Serialize};

use super::Column;
use crate::features::{Encoder, Place, Row, number};

/// Clusters at most.
pub const MAX_CLUSTERS: usize = 8;
/// Deviations from the mean beyond which a value counts as this far: an outlier is no cluster of its own.
const FARTHEST: f64 = 4.0;

/// The clusters of a baseline's tickets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clusters {
    /// Features that vary, in the model's order. None: all tickets are alike, and there are no clusters.
    pub axes: Vec<Axis>,
    /// Centroids: one a cluster, each `[axes]`, in standard deviations from the axis's mean.
    pub centroids: Vec<Vec<f64>>,
    /// Squared distance from the centroid within which half of a cluster's tickets lie.
    pub half_within: Vec<f64>,
    /// Mean squared distance from the nearest centroid by axis, in squared standard deviations.
    pub spread: Vec<f64>,
    /// Rows by cluster, near and far: `[2 · clusters]`.
    pub counts: Vec<u64>,
}

/// A feature as an axis of the space in which distances are taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// Name of the feature.
    pub feature: String,
    /// Mean of what the model is given, defaults included.
    pub mean: f64,
    /// Its population standard deviation, above 0.
    pub std: f64,
    /// Weight of a squared deviation: 1 / (axes of the same cause), so that each field counts once.
    pub weight: f64,
}

impl Axis {
    /// Returns a value in standard deviations from the mean, held within 4.
    #[must_use]
    pub fn standard(&self, value: f64) -> f64 {
        ((value - self.mean) / self.std).clamp(-FARTHEST, FARTHEST)
    }
}

/// Steps of the fixed point of squared distances in one.
const SPREAD_STEPS: f64 = 65_536.0;

impl Clusters {
    /// Returns the mean squared distance by axis of `rows` tickets, from the sums that [`Slice::spread`] holds.
    ///
    /// [`Slice::spread`]: crate::summary::Slice::spread
    #[must_use]
    pub fn mean_spread(sums: &[u64], rows: u64) -> Vec<f64> {
        sums.iter().map(|sum| *sum as f64 / SPREAD_STEPS / rows.max(1) as f64).collect()
    }
}

/// From a row to its nearest centroid, compiled: what text fields add to the distances is looked up.
#[derive(Clone, Debug)]
pub(crate) struct Nearest {
    clusters: usize,
    half_within: [f64; MAX_CLUSTERS],
    codes: Vec<CodeTerms>,
    numbers: Vec<NumberTerms>,
    /// Texts as axes of their own: where in a row, and squared distances by code and cluster in fixed point.
    code_axes: Vec<(usize, usize, Vec<[u64; MAX_CLUSTERS]>)>,
    axes: usize,
}

/// Where a row lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nearby {
    /// The cluster whose centroid is nearest, of equals the first.
    pub(crate) cluster: usize,
    /// Squared distance from that centroid.
    pub(crate) distance: f64,
}

/// Squared distances that a text field adds, by code and cluster.
#[derive(Clone, Debug)]
struct CodeTerms {
    at: usize,
    by_code: Vec<[f64; MAX_CLUSTERS]>,
}

#[derive(Clone, Debug)]
struct NumberTerms {
    at: usize,
    feature: usize,
    place: usize,
    axis: Axis,
    centroids: [f64; MAX_CLUSTERS],
}

impl Nearest {
    /// Compiles `clusters` over the features that `columns` (in the model's order) belong to.
    ///
    /// `None` when the parts do not fit each other or a column, which no baseline of ours does.
    pub(crate) fn new(encoder: &Encoder, columns: &[&Column], clusters: &Clusters) -> Option<Self> {
        let (axes, centroids) = (&clusters.axes, &clusters.centroids);
        let is_whole = centroids.len() <= MAX_CLUSTERS
            && clusters.counts.len() == 2 * centroids.len()
            && clusters.half_within.len() == centroids.len()
            && clusters.spread.len() == axes.len()
            && centroids.is_empty() == axes.is_empty()
            && centroids.iter().all(|centroid| centroid.len() == axes.len());
        if !is_whole {
            return None;
        }
        let (mut codes, mut numbers, mut code_axes): (Vec<CodeTerms>, Vec<NumberTerms>, Vec<_>) = (Vec::new(), Vec::new(), Vec::new());
        for (place, axis) in axes.iter().enumerate() {
            let feature = columns.iter().position(|column| column.name == axis.feature)?;
            let mut at_axis = [0.0; MAX_CLUSTERS];
            for (coordinate, centroid) in at_axis.iter_mut().zip(centroids) {
                *coordinate = centroid[place];
            }
            match encoder.place(feature) {
                Place::Number(at) => numbers.push(NumberTerms { at, feature, place, axis: axis.clone(), centroids: at_axis }),
                Place::Code(at) => {
                    let known = codes.iter().position(|terms| terms.at == at).unwrap_or_else(|| {
                        codes.push(CodeTerms { at, by_code: vec![[0.0; MAX_CLUSTERS]; 256] });
                        codes.len() - 1
                    });
                    let mut squares = vec![[0; MAX_CLUSTERS]; 256];
                    for ((code, distances), squares) in (0..=u8::MAX).zip(&mut codes[known].by_code).zip(&mut squares) {
                        let value = encoder.input(feature, encoder.code_cell(feature, code, &columns[feature].learned));
                        add(distances, &at_axis, axis, axis.standard(value));
                        *squares = at_axis.map(|centroid| fixed(axis.standard(value) - centroid));
                    }
                    code_axes.push((place, at, squares));
                }
            }
        }
        let mut half_within = [0.0; MAX_CLUSTERS];
        half_within[..centroids.len()].copy_from_slice(&clusters.half_within);
        Some(Self { clusters: centroids.len(), half_within, codes, numbers, code_axes, axes: axes.len() })
    }

    /// Returns the number of bins: near and far of each cluster.
    pub(crate) fn bins(&self) -> usize {
        2 * self.clusters
    }

    /// Returns the number of axes.
    pub(crate) fn axes(&self) -> usize {
        self.axes
    }

    /// Returns the bin of a row that lies there.
    pub(crate) fn bin(&self, nearby: Nearby) -> usize {
        2 * nearby.cluster + usize::from(nearby.distance > self.half_within[nearby.cluster])
    }

    /// Adds a row's squared distance by axis, in fixed point. Cost: a look-up a text, one squared difference a number.
    pub(crate) fn spread(&self, encoder: &Encoder, row: &Row, nearby: Nearby, sums: &mut [u64]) {
        for (place, at, squares) in &self.code_axes {
            sums[*place] += squares[usize::from(row.codes[*at])][nearby.cluster];
        }
        for terms in &self.numbers {
            sums[terms.place] += fixed(terms.standard(encoder, row) - terms.centroids[nearby.cluster]);
        }
    }

    /// Returns the nearest centroid of a row.
    ///
    /// Cost: one addition a text field and cluster, one squared difference a number and cluster; allocates nothing.
    pub(crate) fn nearby(&self, encoder: &Encoder, row: &Row) -> Nearby {
        let mut distances = [0.0; MAX_CLUSTERS];
        for terms in &self.codes {
            for (distance, term) in distances.iter_mut().zip(&terms.by_code[usize::from(row.codes[terms.at])]) {
                *distance += term;
            }
        }
        for terms in &self.numbers {
            add(&mut distances, &terms.centroids, &terms.axis, terms.standard(encoder, row));
        }
        let mut nearest = Nearby { cluster: 0, distance: distances[0] };
        for (cluster, distance) in distances[..self.clusters].iter().enumerate() {
            if *distance < nearest.distance {
                nearest = Nearby { cluster, distance: *distance };
            }
        }
        nearest
    }
}

impl NumberTerms {
    fn standard(&self, encoder: &Encoder, row: &Row) -> f64 {
        self.axis.standard(encoder.input(self.feature, encoder.number_cell(self.feature, number(row.numbers[self.at]))))
    }
}

/// Returns a squared gap in fixed point; a gap is at most 8, so that a slice's sum stays exact in JSON for two thousand million rows.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a square, rounded, and small")]
fn fixed(gap: f64) -> u64 {
    (gap * gap * SPREAD_STEPS + 0.5) as u64
}

/// Adds an axis's part of the squared distances.
fn add(distances: &mut [f64; MAX_CLUSTERS], centroids: &[f64; MAX_CLUSTERS], axis: &Axis, standard: f64) {
    for (distance, centroid) in distances.iter_mut().zip(centroids) {
        let gap = standard - centroid;
        *distance += axis.weight * gap * gap;
    }
}
