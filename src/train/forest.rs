//! Training of the regression forest: histograms over quantile bins, a bootstrap sample a tree, trees side by side.

use linfa::traits::Fit;
use linfa::{Dataset, DatasetBase, ParamGuard};
use ndarray::{Array1, Array2};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::bins::BinnedRows;
use super::grow::{Grown, Targets, grow};
use crate::model::forest::Forest;
use crate::model::tree::Tree;

/// Levels that a tree may be asked to have: 2^16 leaves fill [`crate::model::tree::MAX_NODES`].
pub const MAX_TRAINED_DEPTH: u32 = 16;
/// Trees that may be asked for.
pub const MAX_TREES: usize = 10_000;
/// Rows that may be trained on: their draws are counted in 32 bits, and their sums keep 37 bits of each target.
pub const MAX_ROWS: usize = 1 << 24;

/// A forest that cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A parameter out of its range.
    #[error("{name} is {value}: it must lie between {low} and {high}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What it is.
        value: String,
        /// Its least value.
        low: String,
        /// Its greatest value.
        high: String,
    },
    /// No row, too few, or more than can be counted.
    #[error("{rows} rows to train on: there must be between {least} and {MAX_ROWS}")]
    Rows {
        /// Rows given.
        rows: usize,
        /// Rows that are enough.
        least: usize,
    },
    /// No feature, or more than a node can name.
    #[error("{features} features to train on: there must be between 1 and 65,535")]
    Features {
        /// Features given.
        features: usize,
    },
    /// Not a target for every row.
    #[error("{rows} rows have {targets} targets: each row needs one")]
    Targets {
        /// Rows given.
        rows: usize,
        /// Targets given.
        targets: usize,
    },
    /// A feature without a value, or an infinite one.
    #[error("feature {feature} of row {row} is {value}: fill in its default before training")]
    Feature {
        /// The row.
        row: usize,
        /// The feature.
        feature: usize,
        /// What it is.
        value: f32,
    },
    /// A target that no f32 comes near.
    #[error("the target of row {row} is {value}: leave out the row, no model can learn from it")]
    Target {
        /// The row.
        row: usize,
        /// What it is.
        value: f64,
    },
    /// What linfa found wrong.
    #[error("the dataset cannot be trained on: {0}")]
    Linfa(#[from] linfa::Error),
}

/// Parameters of the forest that have been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidForestParams {
    trees: usize,
    depth: u32,
    min_rows_split: usize,
    min_rows_leaf: usize,
    seed: u64,
}

impl ValidForestParams {
    /// Returns how many trees are grown.
    #[must_use]
    pub fn trees(&self) -> usize {
        self.trees
    }

    /// Returns how many levels a tree may have below its root.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// Returns how many distinct rows a node needs to be split.
    #[must_use]
    pub fn min_rows_split(&self) -> usize {
        self.min_rows_split
    }

    /// Returns how many distinct rows each side of a split keeps.
    #[must_use]
    pub fn min_rows_leaf(&self) -> usize {
        self.min_rows_leaf
    }
}

/// Parameters of the forest: by default the contract's, 100 trees of depth 10, split at 5 rows, 2 rows a leaf, seed 0.
#[derive(Clone, Debug, PartialEq)]
pub struct ForestParams(ValidForestParams);

impl Default for ForestParams {
    fn default() -> Self {
        Self(ValidForestParams { trees: 100, depth: 10, min_rows_split: 5, min_rows_leaf: 2, seed: 0 })
    }
}

impl ForestParams {
    /// Sets how many trees are grown.
    #[must_use]
    pub fn trees(mut self, trees: usize) -> Self {
        self.0.trees = trees;
        self
    }

    /// Sets how many levels a tree may have below its root.
    #[must_use]
    pub fn depth(mut self, depth: u32) -> Self {
        self.0.depth = depth;
        self
    }

    /// Sets how many distinct rows a node needs to be split: scikit-learn's `min_samples_split`.
    #[must_use]
    pub fn min_rows_split(mut self, rows: usize) -> Self {
        self.0.min_rows_split = rows;
        self
    }

    /// Sets how many distinct rows each side of a split keeps: scikit-learn's `min_samples_leaf`.
    #[must_use]
    pub fn min_rows_leaf(mut self, rows: usize) -> Self {
        self.0.min_rows_leaf = rows;
        self
    }

    /// Sets the seed of all that is drawn.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.0.seed = seed;
        self
    }
}

impl ParamGuard for ForestParams {
    type Checked = ValidForestParams;
    type Error = TrainError;

    fn check_ref(&self) -> Result<&ValidForestParams, TrainError> {
        let params = &self.0;
        within("trees", params.trees, 1, MAX_TREES)?;
        within("depth", params.depth, 0, MAX_TRAINED_DEPTH)?;
        within("min_rows_split", params.min_rows_split, 2, MAX_ROWS)?;
        within("min_rows_leaf", params.min_rows_leaf, 1, MAX_ROWS)?;
        Ok(params)
    }

    fn check(self) -> Result<ValidForestParams, TrainError> {
        self.check_ref()?;
        Ok(self.0)
    }
}

/// Refuses a value of the parameter `name` outside its range.
pub(super) fn within<T: PartialOrd + ToString>(name: &'static str, value: T, low: T, high: T) -> Result<(), TrainError> {
    if (&low..=&high).contains(&&value) {
        return Ok(());
    }
    Err(TrainError::Parameter { name, value: value.to_string(), low: low.to_string(), high: high.to_string() })
}

/// Refuses rows that no tree can be grown on.
pub(super) fn check_rows(rows: &Array2<f32>, least: usize) -> Result<(), TrainError> {
    if rows.nrows() < least || rows.nrows() > MAX_ROWS {
        return Err(TrainError::Rows { rows: rows.nrows(), least });
    }
    if rows.ncols() == 0 || rows.ncols() > usize::from(u16::MAX) {
        return Err(TrainError::Features { features: rows.ncols() });
    }
    if rows.as_slice().is_some_and(|values| values.iter().all(|value| value.is_finite())) {
        return Ok(());
    }
    match rows.indexed_iter().find(|(_, value)| !value.is_finite()) {
        Some(((row, feature), &value)) => Err(TrainError::Feature { row, feature, value }),
        None => Ok(()),
    }
}

/// A trained forest and what it learned from.
#[derive(Clone, Debug, PartialEq)]
pub struct FittedForest {
    /// The model.
    pub forest: Forest,
    /// Each feature's share of the sum of squares that its splits explained, `[features]`: the mean over trees, summing to 1; all 0
    /// when no tree found anything to split.
    ///
    /// Source: Breiman, Friedman, Olshen & Stone (1984), as scikit-learn's `feature_importances_`.
    pub importances: Vec<f64>,
}

/// Fits the forest to rows, `[rows, features]`, and their targets, `[rows]`, in any unit.
///
/// Law: the same rows and seed give the same forest, bit for bit, on any number of threads. Cost: about
/// `trees × rows × features × depth / 2` additions, on all threads of the current rayon pool.
///
/// # Errors
/// [`TrainError`], naming the row that cannot be learned from.
impl Fit<Array2<f32>, Array1<f64>, TrainError> for ValidForestParams {
    type Object = FittedForest;

    fn fit(&self, dataset: &Dataset<f32, f64, ndarray::Ix1>) -> Result<FittedForest, TrainError> {
        let DatasetBase { records, targets, .. } = dataset;
        check_rows(records, 1)?;
        if targets.len() != records.nrows() {
            return Err(TrainError::Targets { rows: records.nrows(), targets: targets.len() });
        }
        if let Some((row, &value)) = targets.iter().enumerate().find(|(_, y)| y.is_nan() || y.abs() > f64::from(f32::MAX)) {
            return Err(TrainError::Target { row, value });
        }

        let binned = BinnedRows::of(records.view());
        let targets = Targets::of(targets.to_vec());
        let features = records.ncols();
        let (trees, gains): (Vec<Tree>, Vec<Vec<f64>>) = tree_seeds(self.seed, self.trees)
            .into_par_iter()
            .map(|seed| {
                let Grown { nodes, gains } = grow(&binned, &targets, features, self, seed);
                (Tree::new(&nodes, features).expect("grow makes trees"), gains)
            })
            .unzip();
        Ok(FittedForest { forest: Forest::new(trees, features), importances: importances(&gains, features) })
    }
}

/// Returns a seed a tree. They are drawn, not counted up: else the forests of two neighbouring seeds would share most of their trees.
pub(super) fn tree_seeds(seed: u64, trees: usize) -> Vec<u64> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    (0..trees).map(|_| rng.next_u64()).collect()
}

fn importances(gains: &[Vec<f64>], features: usize) -> Vec<f64> {
    let mut shares = vec![0.0; features];
    for tree in gains {
        let all: f64 = tree.iter().sum();
        if all > 0.0 {
            shares.iter_mut().zip(tree).for_each(|(share, gain)| *share += gain / all);
        }
    }
    let total: f64 = shares.iter().sum();
    if total > 0.0 {
        shares.iter_mut().for_each(|share| *share /= total);
    }
    shares
}

#[cfg(test)]
mod tests;
