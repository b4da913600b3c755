//! How a baseline's tickets fall into clusters: k-means over their standardised features.
//!
//! Everything is a function of the set of tickets: not of their order, of threads or of a clock.

use std::cmp::Ordering;

use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_clustering::KMeans;
use ndarray::Array2;
use rand_xoshiro::Xoshiro256Plus;
use rand_xoshiro::rand_core::SeedableRng;

use super::{Builder, Built};
use crate::baseline::Column;
use crate::baseline::clusters::{Axis, Clusters, MAX_CLUSTERS, Nearest};
use crate::baseline::noise::Daily;
use crate::features::Row;

/// Tickets from which centroids are found, evenly spread over all of them in the order of their values.
const SAMPLE: usize = 8_192;
/// Share of the tickets that each cluster holds at least: what the index is customarily asked of a bin (Siddiqi 2006, "Credit
/// Risk Scorecards"), because it jumps by chance where few are.
const LEAST_SHARE: f64 = 0.05;
/// Beginnings of k-means, of which the one with the smallest sum of squares counts.
const RUNS: usize = 4;
/// Steps of one run at most.
const STEPS: u64 = 50;
/// Where the beginnings are drawn from.
const SEED: u64 = 0x7469_6465;

impl Builder {
    /// Returns the clusters, and rows by day and cluster.
    pub(super) fn clusters(&self, built: &[Built]) -> (Clusters, Daily) {
        let axes = self.axes(built);
        let columns: Vec<&Column> = built.iter().map(|built| &built.column).collect();
        let centroids = if axes.is_empty() { Vec::new() } else { fit(&axes, &self.points(&axes, &columns)) };
        let (count, width) = (centroids.len(), axes.len());
        let (half_within, spread, counts) = (vec![0.0; count], vec![0.0; width], vec![0; 2 * count]);
        let mut clusters = Clusters { axes, centroids, half_within, spread, counts };
        let mut daily = self.daily(2 * count);
        if count == 0 {
            return (clusters, daily);
        }
        let compile = |clusters: &Clusters| {
            Nearest::new(&self.encoder, &columns, clusters).expect("centroids have a coordinate an axis, and axes are columns")
        };
        clusters.half_within = self.half_within(&compile(&clusters), count);
        let nearest = compile(&clusters);
        let (mut row, mut spread) = (Row::default(), vec![0; width]);
        for (at, day) in self.day.iter().enumerate() {
            self.read(at, &mut row);
            let nearby = nearest.nearby(&self.encoder, &row);
            daily.count(*day, nearest.bin(nearby));
            nearest.spread(&self.encoder, &row, nearby, &mut spread);
        }
        clusters.spread = Clusters::mean_spread(&spread, self.rows() as u64);
        clusters.counts = daily.total();
        (clusters, daily)
    }

    /// Returns the median squared distance of each cluster's tickets from its centroid; 0 of a cluster without any.
    fn half_within(&self, nearest: &Nearest, clusters: usize) -> Vec<f64> {
        let mut distances: Vec<Vec<f64>> = vec![Vec::new(); clusters];
        let mut row = Row::default();
        for at in 0..self.rows() {
            self.read(at, &mut row);
            let nearby = nearest.nearby(&self.encoder, &row);
            distances[nearby.cluster].push(nearby.distance);
        }
        let median = |of_cluster: &mut Vec<f64>| {
            let middle = of_cluster.len() / 2;
            if of_cluster.is_empty() { 0.0 } else { *of_cluster.select_nth_unstable_by(middle, f64::total_cmp).1 }
        };
        distances.iter_mut().map(median).collect()
    }

    /// Returns the features that vary: their mean and deviation as the model is given them.
    fn axes(&self, built: &[Built]) -> Vec<Axis> {
        let rows = self.rows() as f64;
        let mut axes: Vec<(usize, Axis)> = Vec::new();
        for (feature, Built { column, finite, .. }) in built.iter().enumerate() {
            let (known, default) = (*finite as f64, self.spec.features[feature].default);
            let absent = rows - known;
            // Moments of the values that are there, and of a default for each that is not.
            let mean = (known * column.mean + absent * default) / rows;
            let square = |from: f64| (from - mean) * (from - mean);
            let std = ((known * (column.std * column.std + square(column.mean)) + absent * square(default)) / rows).sqrt();
            let is_one_value = *finite == 0 || (same(column.min, column.max) && (absent < 1.0 || same(column.min, default)));
            if !is_one_value && std > 0.0 && std.is_finite() && mean.is_finite() {
                axes.push((feature, Axis { feature: column.name.clone(), mean, std, weight: 1.0 }));
            }
        }
        let causes: Vec<&str> = axes.iter().map(|(feature, _)| self.spec.cause(*feature)).collect();
        let weigh = |cause: &str| 1.0 / causes.iter().filter(|other| **other == cause).count() as f64;
        axes.into_iter().zip(&causes).map(|((_, axis), cause)| Axis { weight: weigh(cause), ..axis }).collect()
    }

    /// Returns the sampled tickets as points, `[rows, axes]`, each axis already multiplied by the root of its weight.
    fn points(&self, axes: &[Axis], columns: &[&Column]) -> Array2<f64> {
        let mut order: Vec<usize> = (0..self.rows()).collect();
        order.sort_unstable_by(|a, b| self.compare(*a, *b));
        let rows = order.len().min(SAMPLE);
        let of_axis = |axis: &Axis| columns.iter().position(|column| column.name == axis.feature).expect("an axis is a column");
        let features: Vec<usize> = axes.iter().map(of_axis).collect();
        let mut points = Array2::zeros((rows, axes.len()));
        let mut row = Row::default();
        for (at, mut point) in points.rows_mut().into_iter().enumerate() {
            self.read(order[at * (order.len() - 1) / (rows - 1)], &mut row);
            for ((coordinate, axis), feature) in point.iter_mut().zip(axes).zip(&features) {
                let cell = self.encoder.cell(*feature, &row, &columns[*feature].learned);
                *coordinate = axis.standard(self.encoder.input(*feature, cell)) * axis.weight.sqrt();
            }
        }
        points
    }

    /// Orders tickets by the values of their fields; equals are alike to every feature.
    fn compare(&self, a: usize, b: usize) -> Ordering {
        let by_code = self.codes.iter().map(|column| column[a].cmp(&column[b]));
        let by_number = self.numbers.iter().map(|column| column[a].total_cmp(&column[b]));
        by_code.chain(by_number).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }

    fn read(&self, at: usize, row: &mut Row) {
        row.codes.clear();
        row.codes.extend(self.codes.iter().map(|column| column[at]));
        row.numbers.clear();
        row.numbers.extend(self.numbers.iter().map(|column| column[at]));
    }
}

fn same(a: f64, b: f64) -> bool {
    a.total_cmp(&b).is_eq()
}

/// Returns the centroids of as many clusters as there can be, at most [`MAX_CLUSTERS`] and at least 2, while the smallest holds
/// [`LEAST_SHARE`] of the points; the most populous first.
///
/// The question is not how many groups there are by nature, which an index of compactness (Caliński and Harabasz, silhouettes)
/// would answer with 2 for most: clusters are bins here, which should be many, and none of them rare.
fn fit(axes: &[Axis], points: &Array2<f64>) -> Vec<Vec<f64>> {
    let points = DatasetBase::from(points.view());
    let rows = points.records.nrows();
    let mut clusters = MAX_CLUSTERS.min(rows);
    loop {
        let params = KMeans::params_with_rng(clusters, Xoshiro256Plus::seed_from_u64(SEED)).n_runs(RUNS).max_n_iterations(STEPS);
        let found = params.fit(&points).expect("standardised values are finite, and there are as many points as clusters");
        let mut centroids: Vec<(u64, Vec<f64>)> = found.centroids().rows().into_iter().map(|row| (0, row.to_vec())).collect();
        for point in points.records.rows() {
            let distance = |centroid: &[f64]| point.iter().zip(centroid).map(|(x, c)| (x - c) * (x - c)).sum::<f64>();
            let (mut nearest, mut least) = (0, f64::INFINITY);
            for (cluster, (_, centroid)) in centroids.iter().enumerate() {
                let far = distance(centroid);
                if far < least {
                    (nearest, least) = (cluster, far);
                }
            }
            centroids[nearest].0 += 1;
        }
        let smallest = centroids.iter().map(|(rows, _)| *rows).min().unwrap_or(0);
        if clusters <= 2 || smallest as f64 >= LEAST_SHARE * rows as f64 {
            centroids.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| by_coordinates(&a.1, &b.1)));
            let in_deviations =
                |(_, centroid): (u64, Vec<f64>)| centroid.iter().zip(axes).map(|(x, axis)| x / axis.weight.sqrt()).collect();
            return centroids.into_iter().map(in_deviations).collect();
        }
        clusters -= 1;
    }
}

fn by_coordinates(a: &[f64], b: &[f64]) -> Ordering {
    a.iter().zip(b).map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

#[cfg(test)]
mod tests;
