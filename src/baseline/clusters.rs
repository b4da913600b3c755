//! Clusters: where the baseline's tickets lie, all features together, so that a window shows how features go together.
//!
//! A change of correlation moves no feature by itself. It moves tickets to where few were before, and so from one cluster to
//! another. Source: Kuncheva (2013), "Change Detection in Streaming Multivariate Data Using Likelihood Detectors", IEEE TKDE 25:
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
    /// Rows by cluster.
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

/// From a row to its nearest centroid, compiled: what text fields add to the distances is looked up.
#[derive(Clone, Debug)]
pub(crate) struct Nearest {
    clusters: usize,
    codes: Vec<CodeTerms>,
    numbers: Vec<NumberTerms>,
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
            && clusters.counts.len() == centroids.len()
            && centroids.is_empty() == axes.is_empty()
            && centroids.iter().all(|centroid| centroid.len() == axes.len());
        if !is_whole {
            return None;
        }
        let (mut codes, mut numbers): (Vec<CodeTerms>, Vec<NumberTerms>) = (Vec::new(), Vec::new());
        for (place, axis) in axes.iter().enumerate() {
            let feature = columns.iter().position(|column| column.name == axis.feature)?;
            let mut at_axis = [0.0; MAX_CLUSTERS];
            for (coordinate, centroid) in at_axis.iter_mut().zip(centroids) {
                *coordinate = centroid[place];
            }
            match encoder.place(feature) {
                Place::Number(at) => numbers.push(NumberTerms { at, feature, axis: axis.clone(), centroids: at_axis }),
                Place::Code(at) => {
                    let known = codes.iter().position(|terms| terms.at == at).unwrap_or_else(|| {
                        codes.push(CodeTerms { at, by_code: vec![[0.0; MAX_CLUSTERS]; 256] });
                        codes.len() - 1
                    });
                    for (code, distances) in (0..=u8::MAX).zip(&mut codes[known].by_code) {
                        let value = encoder.input(feature, encoder.code_cell(feature, code, &columns[feature].learned));
                        add(distances, &at_axis, axis, value);
                    }
                }
            }
        }
        Some(Self { clusters: centroids.len(), codes, numbers })
    }

    /// Returns the number of clusters.
    pub(crate) fn clusters(&self) -> usize {
        self.clusters
    }

    /// Returns the cluster whose centroid is nearest, of equals the first.
    ///
    /// Cost: one addition a text field and cluster, one squared difference a number and cluster; allocates nothing.
    pub(crate) fn cluster(&self, encoder: &Encoder, row: &Row) -> usize {
        let mut distances = [0.0; MAX_CLUSTERS];
        for terms in &self.codes {
            for (distance, term) in distances.iter_mut().zip(&terms.by_code[usize::from(row.codes[terms.at])]) {
                *distance += term;
            }
        }
        for terms in &self.numbers {
            let cell = encoder.number_cell(terms.feature, number(row.numbers[terms.at]));
            add(&mut distances, &terms.centroids, &terms.axis, encoder.input(terms.feature, cell));
        }
        let mut nearest = 0;
        for (cluster, distance) in distances[..self.clusters].iter().enumerate() {
            if *distance < distances[nearest] {
                nearest = cluster;
            }
        }
        nearest
    }
}

/// Adds an axis's part of the squared distances.
fn add(distances: &mut [f64; MAX_CLUSTERS], centroids: &[f64; MAX_CLUSTERS], axis: &Axis, value: f64) {
    let standard = axis.standard(value);
    for (distance, centroid) in distances.iter_mut().zip(centroids) {
        let gap = standard - centroid;
        *distance += axis.weight * gap * gap;
    }
}
