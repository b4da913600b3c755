//! One regression tree, grown on binned rows.
//!
//! A node's histograms say all that its split needs. Only the smaller child of a split counts its rows; the larger one's
//! histograms are the parent's less those. The sums are integers, so taking away leaves exactly what counting would have found.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::bins::BinnedRows;
use super::forest::ValidForestParams;
use crate::model::tree::Node;

/// A gain below this part of the node's own sum of squares is rounding. The gain's relative error is the square of f64's, 2^-104,
/// times at most the ratio of the rows on both sides, 2^24.
const ROUNDING: f64 = 1.0 / (1_u128 << 80) as f64;

/// Targets as integers, so that sums over rows are exact in any order.
#[derive(Clone, Debug)]
pub(super) struct Targets {
    /// As they came.
    pub(super) values: Vec<f64>,
    /// Distance from the middle of their range, in steps of 1 / `steps_per_unit`.
    steps: Vec<i64>,
    steps_per_unit: f64,
}

impl Targets {
    /// Returns the finite `values` with as fine a step as lets the sum of all of them fit into 62 bits.
    #[expect(clippy::cast_possible_truncation, reason = "a step count is below 2^62 by the choice of the step")]
    pub(super) fn of(values: Vec<f64>) -> Self {
        let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &y| (y.min(low), y.max(high)));
        let (middle, reach) = (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0);
        let spare_bits = 61.0 - libm::ceil(libm::log2(values.len() as f64)) - libm::ceil(libm::log2(reach.max(f64::MIN_POSITIVE)));
        let steps_per_unit = libm::exp2(spare_bits.min(500.0));
        let steps = values.iter().map(|y| libm::round((y - middle) * steps_per_unit) as i64).collect();
        Self { values, steps, steps_per_unit }
    }
}

/// What a bin knows of its rows. 16 bytes: two additions a row and feature.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bin {
    /// Targets in steps, each as often as its row was drawn.
    sum: i64,
    /// Draws in the upper half, distinct rows in the lower.
    counts: u64,
}

const ONE_DRAW: u64 = 1 << 32;

/// The step and the bound on rows leave no room to overflow; unchecked, for these are the inner loops of all training.
impl Bin {
    fn add(&mut self, other: Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.counts = self.counts.wrapping_add(other.counts);
    }

    fn less(self, other: Self) -> Self {
        Self { sum: self.sum.wrapping_sub(other.sum), counts: self.counts.wrapping_sub(other.counts) }
    }

    fn draws(self) -> f64 {
        (self.counts >> 32) as f64
    }

    fn rows(self) -> usize {
        (self.counts & (ONE_DRAW - 1)) as usize
    }
}

/// Rows whose draws are fetched together, so that one wait on memory serves all of them.
const AHEAD: usize = 32;

/// The best question of a node.
struct Split {
    /// Position among the binned features.
    at: usize,
    /// The last bin that goes left.
    bin: u8,
    /// Sum of squares that it explains.
    gain: f64,
}

/// A grown tree.
pub(super) struct Grown {
    /// The root first.
    pub(super) nodes: Vec<Node>,
    /// Sum of squares that each feature explained, `[features]`, in squared units of the target.
    pub(super) gains: Vec<f64>,
}

/// Returns the tree of a bootstrap sample of the rows, drawn by `seed`.
///
/// The limits count distinct rows and the sums count draws, as scikit-learn has it.
pub(super) fn grow(binned: &BinnedRows, targets: &Targets, features: usize, params: &ValidForestParams, seed: u64) -> Grown {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let rows = targets.steps.len();
    let mut draws = vec![0_u32; rows];
    for _ in 0..rows {
        draws[below(&mut rng, rows)] += 1;
    }
    let drawn: Vec<Bin> = draws
        .iter()
        .zip(&targets.steps)
        .map(|(&draws, &steps)| Bin { sum: steps * i64::from(draws), counts: u64::from(draws) * ONE_DRAW + u64::from(draws > 0) })
        .collect();
    let order: Vec<u32> = (0_u32..).zip(&draws).filter(|(_, draws)| **draws > 0).map(|(row, _)| row).collect();
    let mut total = Bin::default();
    drawn.iter().for_each(|row| total.add(*row));

    let scratch = vec![0; order.len()];
    let grown = Grown { nodes: Vec::new(), gains: vec![0.0; features] };
    let mut tree =
        Growth { binned, targets, params, drawn, scratch, spare: Vec::new(), order: (0..binned.features.len()).collect(), rng, grown };
    let mut order = order;
    let mut histogram = tree.take_histogram();
    if tree.may_split(total, 0) {
        tree.count(&order, &mut histogram);
    }
    tree.node(&mut order, total, histogram, 0);
    tree.grown
}

/// Returns a number below `bound`, each as likely as any other to within 2^-32 for 2^32 rows.
#[expect(clippy::cast_possible_truncation, reason = "the product's upper half is below the bound")]
pub(super) fn below(rng: &mut Xoshiro256PlusPlus, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

struct Growth<'a> {
    binned: &'a BinnedRows,
    targets: &'a Targets,
    params: &'a ValidForestParams,
    /// What each row adds to a bin.
    drawn: Vec<Bin>,
    scratch: Vec<u32>,
    /// Histograms that nodes have done with.
    spare: Vec<Vec<Bin>>,
    /// The binned features, in the order that the last node looked at them.
    order: Vec<usize>,
    rng: Xoshiro256PlusPlus,
    grown: Grown,
}

impl Growth<'_> {
    /// Grows the node of `rows`, which add up to `total` and, where it may split, to `histogram`. Returns its position.
    fn node(&mut self, rows: &mut [u32], total: Bin, histogram: Vec<Bin>, depth: u32) -> u32 {
        let position = u32::try_from(self.grown.nodes.len()).expect("the parameters bound the nodes");
        let found = if self.may_split(total, depth) { self.best_split(&histogram, total) } else { None };
        let Some(split) = found else {
            self.spare.push(histogram);
            self.grown.nodes.push(Node::Leaf { value: self.mean(rows) });
            return position;
        };

        let binned = &self.binned.features[split.at];
        self.grown.gains[binned.feature] += split.gain / (self.targets.steps_per_unit * self.targets.steps_per_unit);
        let mut left_total = Bin::default();
        histogram[binned.first_bin..=binned.first_bin + usize::from(split.bin)].iter().for_each(|bin| left_total.add(*bin));
        let feature = u16::try_from(binned.feature).expect("fit refuses more features than a u16 counts");
        let threshold = binned.cuts.threshold(usize::from(split.bin));
        self.grown.nodes.push(Node::Leaf { value: 0.0 }); // its place; the children's are not known yet

        let (left_rows, right_rows) = self.partition(rows, &split).split_at_mut(left_total.rows());
        let right_total = total.less(left_total);
        let (left_histogram, right_histogram) = self.children((left_rows, left_total), (right_rows, right_total), histogram, depth + 1);
        let left = self.node(left_rows, left_total, left_histogram, depth + 1);
        let right = self.node(right_rows, right_total, right_histogram, depth + 1);
        self.grown.nodes[position as usize] = Node::Split { feature, threshold, left, right };
        position
    }

    fn may_split(&self, total: Bin, depth: u32) -> bool {
        depth < self.params.depth() && total.rows() >= self.params.min_rows_split().max(2 * self.params.min_rows_leaf())
    }

    /// Returns the children's histograms: the smaller child's counted, the larger one's the rest of the parent's.
    fn children(&mut self, left: (&[u32], Bin), right: (&[u32], Bin), mut parent: Vec<Bin>, depth: u32) -> (Vec<Bin>, Vec<Bin>) {
        let is_left_smaller = left.0.len() <= right.0.len();
        let (smaller, larger) = if is_left_smaller { (left, right) } else { (right, left) };
        let mut counted = self.take_histogram();
        if self.may_split(smaller.1, depth) || self.may_split(larger.1, depth) {
            self.count(smaller.0, &mut counted);
            for (rest, counted) in parent.iter_mut().zip(&counted) {
                *rest = rest.less(*counted);
            }
        }
        if is_left_smaller { (counted, parent) } else { (parent, counted) }
    }

    fn take_histogram(&mut self) -> Vec<Bin> {
        self.spare.pop().unwrap_or_else(|| vec![Bin::default(); self.binned.total_bins()])
    }

    fn count(&self, rows: &[u32], histogram: &mut [Bin]) {
        histogram.fill(Bin::default());
        let width = self.binned.features.len();
        let firsts: Vec<usize> = self.binned.features.iter().map(|feature| feature.first_bin).collect();
        let (all_drawn, all_bins) = (self.drawn.as_slice(), self.binned.bins.as_slice());
        for rows in rows.chunks(AHEAD) {
            let mut ahead = [Bin::default(); AHEAD];
            ahead.iter_mut().zip(rows).for_each(|(ahead, row)| *ahead = all_drawn[*row as usize]);
            for (&row, &drawn) in rows.iter().zip(&ahead) {
                let bins = &all_bins[row as usize * width..][..width];
                for (&first, &bin) in firsts.iter().zip(bins) {
                    histogram[first.wrapping_add(usize::from(bin))].add(drawn);
                }
            }
        }
    }

    /// Returns the split that explains most, if any explains more than rounding does.
    ///
    /// The gain is `(L - l·S/w)² · w / (l · r)`, with S the node's sum, L the left one's, and w, l and r the draws in all, left and
    /// right. Equal gains go to the feature that comes first in a random order, so that copies of a feature share its importance.
    fn best_split(&mut self, histogram: &[Bin], total: Bin) -> Option<Split> {
        let features = &self.binned.features;
        let (sum, draws) = (total.sum as f64, total.draws());
        let mean = sum / draws;
        let mut best: Option<Split> = None;
        let mut best_gain = sum * mean * ROUNDING;
        for drawn in 0..self.order.len() {
            let other = drawn + below(&mut self.rng, self.order.len() - drawn);
            self.order.swap(drawn, other);
            let at = self.order[drawn];
            let first = features[at].first_bin;
            let bins = &histogram[first..first + features[at].cuts.bins()];
            let mut left = Bin::default();
            for (bin, counted) in (0..=u8::MAX).zip(&bins[..bins.len() - 1]) {
                if counted.counts == 0 {
                    continue;
                }
                left.add(*counted);
                let right = total.less(left);
                if right.rows() < self.params.min_rows_leaf() {
                    break;
                }
                if left.rows() < self.params.min_rows_leaf() {
                    continue;
                }
                let apart = left.sum as f64 - left.draws() * mean;
                let gain = apart * apart * draws / (left.draws() * right.draws());
                if gain > best_gain {
                    best_gain = gain;
                    best = Some(Split { at, bin, gain });
                }
            }
        }
        best
    }

    /// Puts the rows that go left before the others, each in the order they had.
    fn partition<'r>(&mut self, rows: &'r mut [u32], split: &Split) -> &'r mut [u32] {
        let width = self.binned.features.len();
        let (mut left, mut right) = (0, 0);
        for at in 0..rows.len() {
            let row = rows[at];
            let goes_left = usize::from(self.binned.bins[row as usize * width + split.at] <= split.bin);
            rows[left] = row;
            self.scratch[right] = row;
            left += goes_left;
            right += 1 - goes_left;
        }
        rows[left..].copy_from_slice(&self.scratch[..right]);
        rows
    }

    /// Returns the mean target of the draws, from the targets as they came.
    #[expect(clippy::cast_possible_truncation, reason = "fit refuses targets that an f32 cannot hold; a leaf's value is rounded to one")]
    fn mean(&self, rows: &[u32]) -> f32 {
        let (mut sum, mut count) = (0.0, 0.0);
        for &row in rows {
            let draws = self.drawn[row as usize].draws();
            sum += self.targets.values[row as usize] * draws;
            count += draws;
        }
        (sum / count) as f32
    }
}
