//! Training of the isolation forest: small random trees, each on a small random sample.

use linfa::traits::Fit;
use linfa::{DatasetBase, ParamGuard};
use ndarray::{Array2, ArrayView2};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::forest::{MAX_TREES, TrainError, check_rows, tree_seeds, within};
use super::grow::below;
use crate::model::isolation::{IsolationForest, average_path};
use crate::model::tree::{Node, Tree};

/// Rows that a tree's sample may be asked to have.
pub const MAX_SAMPLE_ROWS: usize = 1 << 15;

/// Parameters of the isolation forest that have been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidIsolationParams {
    trees: usize,
    sample_rows: usize,
    contamination: f64,
    seed: u64,
}

/// Parameters of the isolation forest: by default 100 trees on 256 rows each (the paper's), contamination 0.05 (the contract's), seed 0.
#[derive(Clone, Debug, PartialEq)]
pub struct IsolationParams(ValidIsolationParams);

impl Default for IsolationParams {
    fn default() -> Self {
        Self(ValidIsolationParams { trees: 100, sample_rows: 256, contamination: 0.05, seed: 0 })
    }
}

impl IsolationParams {
    /// Sets how many trees are grown.
    #[must_use]
    pub fn trees(mut self, trees: usize) -> Self {
        self.0.trees = trees;
        self
    }

    /// Sets how many rows each tree is grown on, all rows at most: the paper's ψ.
    #[must_use]
    pub fn sample_rows(mut self, rows: usize) -> Self {
        self.0.sample_rows = rows;
        self
    }

    /// Sets the share of the training rows that the threshold calls anomalous.
    #[must_use]
    pub fn contamination(mut self, share: f64) -> Self {
        self.0.contamination = share;
        self
    }

    /// Sets the seed of all that is drawn.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.0.seed = seed;
        self
    }
}

impl ParamGuard for IsolationParams {
    type Checked = ValidIsolationParams;
    type Error = TrainError;

    fn check_ref(&self) -> Result<&ValidIsolationParams, TrainError> {
        within("trees", self.0.trees, 1, MAX_TREES)?;
        within("sample_rows", self.0.sample_rows, 2, MAX_SAMPLE_ROWS)?;
        within("contamination", self.0.contamination, 0.0, 0.5)?;
        Ok(&self.0)
    }

    fn check(self) -> Result<ValidIsolationParams, TrainError> {
        self.check_ref()?;
        Ok(self.0)
    }
}

/// Fits the isolation forest to rows, `[rows, features]`; targets are not looked at.
///
/// The threshold is the `1 - contamination` quantile of the training rows' scores, by linear interpolation. Law: the same rows and
/// seed give the same forest, bit for bit, on any number of threads.
///
/// # Errors
/// [`TrainError`]; fewer than two rows isolate nothing.
impl<T> Fit<Array2<f32>, T, TrainError> for ValidIsolationParams {
    type Object = IsolationForest;

    fn fit(&self, dataset: &DatasetBase<Array2<f32>, T>) -> Result<IsolationForest, TrainError> {
        let rows = &dataset.records;
        check_rows(rows, 2)?;
        let sample_rows = self.sample_rows.min(rows.nrows());
        let mut trees = Vec::with_capacity(self.trees);
        for seed in tree_seeds(self.seed, self.trees) {
            trees.push(Tree::new(&isolate(rows.view(), sample_rows, seed), rows.ncols()).expect("isolate makes trees"));
        }
        let sampled = u32::try_from(sample_rows).expect("the parameters bound the sample");
        let forest = IsolationForest::new(trees, rows.ncols(), sampled, f64::INFINITY);
        let threshold = quantile(forest.score_rows(rows.view()).to_vec(), 1.0 - self.contamination);
        Ok(forest.with_threshold(threshold))
    }
}

/// Returns the `q` quantile of `values`, by linear interpolation (Hyndman & Fan 1996, type 7).
fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    let position = q * (values.len() - 1) as f64;
    let below = libm::floor(position);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a floored position in the values")]
    let (_, &mut low, above) = values.select_nth_unstable_by(below as usize, f64::total_cmp);
    let high = above.iter().copied().reduce(f64::min).unwrap_or(low);
    low + (high - low) * (position - below)
}

/// Grows one tree on `sample_rows` different rows.
fn isolate(rows: ArrayView2<f32>, sample_rows: usize, seed: u64) -> Vec<Node> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let width = rows.ncols();
    let mut sample = Vec::with_capacity(sample_rows * width);
    for row in choose(&mut rng, rows.nrows(), sample_rows) {
        sample.extend(rows.row(row));
    }
    let mut order: Vec<u32> = (0_u32..).take(sample_rows).collect();
    let mut isolation = Isolation { sample, width, deepest: sample_rows.next_power_of_two().ilog2(), rng, nodes: Vec::new() };
    isolation.node(&mut order, 0);
    isolation.nodes
}

/// Returns `count` different numbers below `bound`, ascending: each set as likely as any other (Floyd's sampling, Bentley & Floyd 1987).
fn choose(rng: &mut Xoshiro256PlusPlus, bound: usize, count: usize) -> std::collections::BTreeSet<usize> {
    let mut chosen = std::collections::BTreeSet::new();
    for last in bound - count..bound {
        if !chosen.insert(below(rng, last + 1)) {
            chosen.insert(last);
        }
    }
    chosen
}

struct Isolation {
    /// `[sample_rows, width]`, row-major.
    sample: Vec<f32>,
    width: usize,
    /// `⌈log2 ψ⌉`: deeper than this, a row is ordinary.
    deepest: u32,
    rng: Xoshiro256PlusPlus,
    nodes: Vec<Node>,
}

impl Isolation {
    /// Grows the node of `rows` and returns its position.
    fn node(&mut self, rows: &mut [u32], depth: u32) -> u32 {
        let position = u32::try_from(self.nodes.len()).expect("a tree has fewer than two nodes a row");
        let found = if depth < self.deepest && rows.len() > 1 { self.split(rows) } else { None };
        let Some((feature, threshold)) = found else {
            self.nodes.push(Node::Leaf { value: path(depth, rows.len()) });
            return position;
        };
        self.nodes.push(Node::Leaf { value: 0.0 }); // its place; the children's are not known yet
        let middle = self.partition(rows, feature, threshold);
        let (left_rows, right_rows) = rows.split_at_mut(middle);
        let left = self.node(left_rows, depth + 1);
        let right = self.node(right_rows, depth + 1);
        let feature = u16::try_from(feature).expect("fit refuses more features than a u16 counts");
        self.nodes[position as usize] = Node::Split { feature, threshold, left, right };
        position
    }

    /// Draws a feature in which the rows differ, and a threshold between its least and its greatest value.
    fn split(&mut self, rows: &[u32]) -> Option<(usize, f32)> {
        let start = below(&mut self.rng, self.width);
        let mut candidates: Vec<usize> = (start..self.width).chain(0..start).collect();
        while !candidates.is_empty() {
            let feature = candidates.swap_remove(below(&mut self.rng, candidates.len()));
            let value = |row: &u32| self.sample[*row as usize * self.width + feature];
            let (low, high) = rows.iter().map(value).fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
            if low < high {
                return Some((feature, self.threshold(low, high)));
            }
        }
        None
    }

    /// Draws from `[low, high)`.
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 may reach the upper end, and is then undone")]
    fn threshold(&mut self, low: f32, high: f32) -> f32 {
        let share = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let drawn = (f64::from(low) + (f64::from(high) - f64::from(low)) * share) as f32;
        if drawn < high { drawn.max(low) } else { low }
    }

    fn partition(&self, rows: &mut [u32], feature: usize, threshold: f32) -> usize {
        let mut left = 0;
        for at in 0..rows.len() {
            if self.sample[rows[at] as usize * self.width + feature] <= threshold {
                rows.swap(left, at);
                left += 1;
            }
        }
        left
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a leaf's value is rounded to an f32")]
fn path(depth: u32, rows: usize) -> f32 {
    (f64::from(depth) + average_path(rows)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two features in a tight cloud; every fiftieth row lies far out.
    fn cloud(rows: usize) -> Array2<f32> {
        Array2::from_shape_fn((rows, 2), |(row, feature)| {
            let spread = ((row * (31 + 8 * feature)) % 101) as f32 / 101.0;
            if row % 50 == 0 { 8.0 + 3.0 * spread } else { spread }
        })
    }

    fn fit(rows: &Array2<f32>, params: IsolationParams) -> Result<IsolationForest, TrainError> {
        params.fit(&DatasetBase::from(rows.clone()))
    }

    #[test]
    fn rows_far_out_score_above_all_others() {
        let rows = cloud(5000);
        let forest = fit(&rows, IsolationParams::default().contamination(0.02)).unwrap();
        let scores = forest.score_rows(rows.view());
        let flagged: Vec<usize> = (0..5000).filter(|row| forest.is_anomalous(scores[*row])).collect();
        assert!(flagged.iter().all(|row| row % 50 == 0) && flagged.len() > 90, "{flagged:?}");
    }

    #[test]
    fn the_threshold_leaves_the_contamination_above_it() {
        let rows = cloud(1000);
        let forest = fit(&rows, IsolationParams::default().contamination(0.05)).unwrap();
        let above = forest.score_rows(rows.view()).iter().filter(|score| forest.is_anomalous(**score)).count();
        assert!((30..=50).contains(&above), "{above}");
    }

    #[test]
    fn a_contamination_of_zero_flags_no_training_row() {
        let rows = cloud(300);
        let forest = fit(&rows, IsolationParams::default().contamination(0.0)).unwrap();
        assert!(forest.score_rows(rows.view()).iter().all(|score| !forest.is_anomalous(*score)));
    }

    #[test]
    fn a_seed_gives_one_forest_on_any_number_of_threads() {
        let rows = cloud(2000);
        let on = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(&rows, IsolationParams::default().seed(seed)).unwrap())
        };
        assert_eq!(on(1, 7), on(3, 7));
        assert_ne!(on(1, 7), on(1, 8));
    }

    #[test]
    fn rows_that_are_all_alike_cannot_be_told_apart() {
        let forest = fit(&Array2::from_elem((40, 3), 2.5), IsolationParams::default()).unwrap();
        assert!(forest.trees().iter().all(|tree| tree.nodes().len() == 1));
        assert!((forest.score_row(&[2.5; 3]) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn neighbouring_floats_and_the_widest_range_are_split() {
        let next = f32::from_bits(1.0_f32.to_bits() + 1);
        for pair in [[1.0, next], [f32::MIN, f32::MAX], [-0.0, f32::from_bits(1)]] {
            let rows = Array2::from_shape_fn((20, 1), |(row, _)| pair[row % 2]);
            let forest = fit(&rows, IsolationParams::default().sample_rows(8)).unwrap();
            assert!(forest.trees().iter().any(|tree| tree.nodes().len() > 1), "{pair:?}");
        }
    }

    #[test]
    fn what_cannot_be_trained_on_is_refused_by_name() {
        let refused = |rows: Array2<f32>, params: IsolationParams| fit(&rows, params).expect_err("refused").to_string();
        let default = IsolationParams::default;
        assert!(refused(cloud(1), default()).starts_with("1 rows to train on"));
        assert!(refused(Array2::zeros((9, 0)), default()).starts_with("0 features"));
        assert!(refused(Array2::from_elem((9, 2), f32::NAN), default()).starts_with("feature 0 of row 0 is NaN"));
        assert!(refused(cloud(9), default().trees(0)).starts_with("trees is 0"));
        assert!(refused(cloud(9), default().sample_rows(1)).starts_with("sample_rows is 1"));
        assert!(refused(cloud(9), default().contamination(f64::NAN)).starts_with("contamination is NaN"));
        assert!(refused(cloud(9), default().contamination(0.6)).starts_with("contamination is 0.6"));
    }
}
