//! The isolation forest: a row that few questions set apart from the others is an anomaly.

use ndarray::{Array1, ArrayView2};

use super::tree::{Tree, mean_of_row, means_of_rows};

const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;

/// An isolation forest for rows of a fixed number of f32 features. A leaf's value is the path length of the rows that end in it.
///
/// Source: Liu, Ting & Zhou (2008), "Isolation Forest".
#[derive(Clone, Debug, PartialEq)]
pub struct IsolationForest {
    trees: Vec<Tree>,
    features: usize,
    sample_rows: u32,
    threshold: f64,
}

impl IsolationForest {
    /// Returns the forest of `trees`, each grown on `sample_rows` rows of `features` features.
    pub(crate) fn new(trees: Vec<Tree>, features: usize, sample_rows: u32, threshold: f64) -> Self {
        assert!(!trees.is_empty() && features > 0 && sample_rows > 1, "an isolation forest has a tree, a feature and two rows");
        Self { trees, features, sample_rows, threshold }
    }

    /// Returns the forest with another threshold.
    #[must_use]
    pub fn with_threshold(self, threshold: f64) -> Self {
        Self { threshold, ..self }
    }

    /// Returns how many features a row has.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }

    /// Returns the trees.
    #[must_use]
    pub fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// Returns how many rows each tree was grown on: the paper's ψ.
    #[must_use]
    pub fn sample_rows(&self) -> u32 {
        self.sample_rows
    }

    /// Returns the score above which a row is anomalous.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Returns the anomaly score of one row, `[features]`: `2^(-E[h(x)] / c(ψ))`, with `h` the path length.
    ///
    /// Unit: none, in `(0, 1)`. Towards 1 is anomalous; about 0.5 and below is ordinary.
    #[must_use]
    pub fn score_row(&self, row: &[f32]) -> f64 {
        assert_eq!(row.len(), self.features, "a row has the forest's features");
        self.score(mean_of_row(&self.trees, row))
    }

    /// Returns the scores of `rows`, `[rows, features]`: bit for bit those of [`Self::score_row`].
    #[must_use]
    pub fn score_rows(&self, rows: ArrayView2<f32>) -> Array1<f64> {
        assert_eq!(rows.ncols(), self.features, "a row has the forest's features");
        let standard = rows.as_standard_layout();
        let flat = standard.as_slice().expect("the standard layout is contiguous");
        let mut scores = vec![0.0; rows.nrows()];
        means_of_rows(&self.trees, flat, self.features, &mut scores);
        for score in &mut scores {
            *score = self.score(*score);
        }
        Array1::from_vec(scores)
    }

    /// Returns whether a row of this score is an anomaly.
    #[must_use]
    pub fn is_anomalous(&self, score: f64) -> bool {
        score > self.threshold
    }

    fn score(&self, mean_path: f64) -> f64 {
        libm::exp2(-mean_path / average_path(self.sample_rows as usize))
    }
}

/// Returns the mean path length of an unsuccessful search in a binary search tree of `rows` rows: the paper's c(n).
///
/// `2 H(n - 1) - 2 (n - 1) / n`, with `H(i) ≈ ln(i) + γ` above two rows, `c(2) = 1` and `c(1) = 0`.
/// Source: Liu, Ting & Zhou (2008), equation 1.
#[must_use]
pub fn average_path(rows: usize) -> f64 {
    match rows {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => {
            let below = (rows - 1) as f64;
            2.0 * (libm::log(below) + EULER_GAMMA) - 2.0 * below / rows as f64
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::model::tree::Node;

    #[test]
    fn the_average_path_is_that_of_the_paper() {
        assert!((average_path(256) - 10.244_770_920_119_917).abs() < 1e-12);
        assert!([average_path(0), average_path(1), average_path(2) - 1.0].iter().all(|c| c.abs() < 1e-15));
    }

    #[test]
    fn an_average_path_scores_one_half_and_a_shorter_one_more() {
        let average = 10.244_771_f32;
        let split = Node::Split { feature: 0, threshold: 0.0, left: 1, right: 2 };
        let tree = Tree::new(&[split, Node::Leaf { value: 1.0 }, Node::Leaf { value: average }], 1).unwrap();
        let forest = IsolationForest::new(vec![tree], 1, 256, 0.6);
        let scores = forest.score_rows(array![[-1.0], [1.0]].view());
        assert!((scores[1] - 0.5).abs() < 1e-7 && scores[0] > 0.9);
        assert_eq!(scores[0].to_bits(), forest.score_row(&[-1.0]).to_bits());
        assert!(forest.is_anomalous(scores[0]) && !forest.is_anomalous(scores[1]) && !forest.is_anomalous(0.6));
    }
}
