//! Features as bins: at most 256 a feature, cut at quantiles, so that comparing bins is comparing values.

use ndarray::ArrayView2;
use rayon::prelude::*;

/// Bins that a feature may have: what a byte tells apart.
pub const MAX_BINS: usize = 256;

/// Rows that one task bins.
const BLOCK_ROWS: usize = 4096;

/// Where one feature is cut.
///
/// Law: `bin(x) <= b` exactly when `x <= cuts[b]`. So a tree grown on bins answers alike on the values themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Cuts {
    cuts: Vec<f32>,
}

impl Cuts {
    /// Returns the cuts of the finite `values`: between each two neighbours when at most [`MAX_BINS`] are distinct, else at
    /// quantiles.
    ///
    /// A cut lies half way between two distinct values, or at the lower one where no f32 lies between.
    #[must_use]
    pub fn of(values: &mut [f32]) -> Self {
        values.sort_unstable_by(f32::total_cmp);
        let mut cuts = Vec::new();
        let mut ends = 0; // rows up to and with the value
        let distinct = values.chunk_by(|a, b| a >= b).count();
        let mut bins_left = MAX_BINS;
        let mut cut_at = 0;
        for equal in values.chunk_by(|a, b| a >= b) {
            ends += equal.len();
            let Some(&above) = values.get(ends) else { break };
            let is_full = distinct <= MAX_BINS || ends * bins_left >= cut_at * bins_left + (values.len() - cut_at);
            if is_full && bins_left > 1 {
                cuts.push(between(equal[0], above));
                cut_at = ends;
                bins_left -= 1;
            }
        }
        Self { cuts }
    }

    /// Returns how many bins there are.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.cuts.len() + 1
    }

    /// Returns the threshold between bin `b` and the next.
    #[must_use]
    pub fn threshold(&self, b: usize) -> f32 {
        self.cuts[b]
    }

    /// Returns the bin of `x`; the last one for a NaN, which no threshold is above.
    #[must_use]
    pub fn bin(&self, x: f32) -> u8 {
        let bin = if x.is_nan() { self.cuts.len() } else { self.cuts.partition_point(|cut| *cut < x) };
        u8::try_from(bin).expect("at most 256 bins")
    }
}

fn between(below: f32, above: f32) -> f32 {
    let middle = f32::midpoint(below, above);
    if below <= middle && middle < above { middle } else { below }
}

/// Rows in bins, for the features that tell any two of them apart.
#[derive(Clone, Debug)]
pub struct BinnedRows {
    /// The features with more than one bin, in their order.
    pub features: Vec<BinnedFeature>,
    /// `[rows, features]`, row-major: the bins that a row adds to lie in one cache line, whatever order the rows come in.
    pub bins: Vec<u8>,
}

/// A feature's place among the bins of all of them.
#[derive(Clone, Debug)]
pub struct BinnedFeature {
    /// Its position in a row of values.
    pub feature: usize,
    /// The bins of the features before it.
    pub first_bin: usize,
    /// Where it is cut.
    pub cuts: Cuts,
}

impl BinnedRows {
    /// Returns `rows`, `[rows, features]` and finite, in bins.
    #[must_use]
    pub fn of(rows: ArrayView2<f32>) -> Self {
        let cuts: Vec<Cuts> = (0..rows.ncols()).into_par_iter().map(|feature| Cuts::of(&mut rows.column(feature).to_vec())).collect();
        let mut features = Vec::new();
        let mut first_bin = 0;
        for (feature, cuts) in cuts.into_iter().enumerate().filter(|(_, cuts)| cuts.bins() > 1) {
            let bins = cuts.bins();
            features.push(BinnedFeature { feature, first_bin, cuts });
            first_bin += bins;
        }
        let width = features.len();
        let mut bins = vec![0; width * rows.nrows()];
        bins.par_chunks_mut((width * BLOCK_ROWS).max(1)).enumerate().for_each(|(block, bins)| {
            for (at, feature) in features.iter().enumerate() {
                let column = rows.column(feature.feature);
                for (row, bins) in bins.chunks_exact_mut(width).enumerate() {
                    bins[at] = feature.cuts.bin(column[block * BLOCK_ROWS + row]);
                }
            }
        });
        Self { features, bins }
    }

    /// Returns the bins of all features together.
    #[must_use]
    pub fn total_bins(&self) -> usize {
        self.features.last().map_or(0, |last| last.first_bin + last.cuts.bins())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn few_values_have_a_bin_each_and_a_cut_half_way() {
        let cuts = Cuts::of(&mut [3.0, 1.0, 1.0, 7.0]);
        assert_eq!(cuts.cuts, [2.0, 5.0]);
        assert_eq!([0.0, 1.0, 2.0, 2.5, 7.0, 99.0].map(|x| cuts.bin(x)), [0, 0, 0, 1, 2, 2]);
    }

    #[test]
    fn many_values_have_256_bins_of_about_as_many_rows() {
        let values: Vec<f32> = (0..100_000_u32).map(|i| (i * 7919 % 100_003) as f32).collect();
        let cuts = Cuts::of(&mut values.clone());
        let mut rows = vec![0; cuts.bins()];
        for value in values {
            rows[usize::from(cuts.bin(value))] += 1;
        }
        assert_eq!(rows.len(), MAX_BINS);
        assert!(rows.iter().all(|rows| (380..=400).contains(rows)), "{rows:?}");
    }

    #[test]
    fn a_common_value_does_not_cost_the_rare_ones_their_bins() {
        let mut values = vec![0.0; 90_000];
        values.extend((1..=10_000_u16).map(f32::from));
        assert_eq!(Cuts::of(&mut values).bins(), MAX_BINS);
    }

    #[test]
    fn bins_and_values_fall_on_the_same_side_of_every_threshold() {
        let next = |x: f32| f32::from_bits(x.to_bits() + 1);
        let mut values =
            vec![-0.0, 0.0, 1.0, next(1.0), next(next(1.0)), f32::MAX, f32::MIN, f32::MIN_POSITIVE, next(0.0), 16_777_216.0, 16_777_218.0];
        values.extend((0..3000_u16).map(|i| (f32::from(i) / 7.0).sin()));
        let cuts = Cuts::of(&mut values.clone());
        for &x in &values {
            for b in 0..cuts.bins() - 1 {
                assert_eq!(usize::from(cuts.bin(x)) <= b, x <= cuts.threshold(b), "{x} at {b}");
            }
        }
        assert!(cuts.cuts.iter().all(|cut| cut.is_finite()) && cuts.cuts.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_constant_feature_is_left_out() {
        let rows = Array2::from_shape_fn((10, 3), |(row, feature)| if feature == 1 { 4.0 } else { row as f32 });
        let binned = BinnedRows::of(rows.view());
        assert_eq!(binned.features.iter().map(|f| (f.feature, f.first_bin)).collect::<Vec<_>>(), [(0, 0), (2, 10)]);
        assert_eq!((binned.total_bins(), binned.bins.len()), (20, 20));
    }

    #[test]
    fn no_values_have_one_bin() {
        assert_eq!(Cuts::of(&mut []).bins(), 1);
        assert_eq!(Cuts::of(&mut [5.0]).bins(), 1);
    }
}
