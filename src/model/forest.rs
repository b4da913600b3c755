//! The regression forest: the mean of its trees' answers.

use linfa::traits::PredictInplace;
use ndarray::{Array1, Array2, ArrayView2};

use super::tree::{Tree, mean_of_row, means_of_rows};

/// A forest for rows of a fixed number of f32 features.
///
/// - Unit: that of the targets it was trained on; ms for the duration model.
/// - Law: a prediction lies between the smallest and the largest leaf value, and depends on neither batch nor threads.
/// - Source: Breiman (2001), "Random Forests".
#[derive(Clone, Debug, PartialEq)]
pub struct Forest {
    trees: Vec<Tree>,
    features: usize,
}

impl Forest {
    /// Returns the forest of `trees`, each made for rows of `features` features.
    pub(crate) fn new(trees: Vec<Tree>, features: usize) -> Self {
        assert!(!trees.is_empty() && features > 0, "a forest has a tree and a feature");
        Self { trees, features }
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

    /// Returns the prediction for one row, `[features]`.
    ///
    /// Cost: trees × depth comparisons, some 20 µs for a hundred trees of depth 10.
    #[must_use]
    pub fn predict_row(&self, row: &[f32]) -> f64 {
        assert_eq!(row.len(), self.features, "a row has the forest's features");
        mean_of_row(&self.trees, row)
    }

    /// Returns the predictions for `rows`, `[rows, features]`: bit for bit those of [`Self::predict_row`].
    #[must_use]
    pub fn predict_rows(&self, rows: ArrayView2<f32>) -> Array1<f64> {
        let mut predictions = Array1::zeros(rows.nrows());
        self.write_predictions(rows, &mut predictions);
        predictions
    }

    fn write_predictions(&self, rows: ArrayView2<f32>, predictions: &mut Array1<f64>) {
        assert_eq!(rows.ncols(), self.features, "a row has the forest's features");
        assert_eq!(rows.nrows(), predictions.len(), "a prediction for every row");
        let standard = rows.as_standard_layout();
        let flat = standard.as_slice().expect("the standard layout is contiguous");
        match predictions.as_slice_mut() {
            Some(slice) => means_of_rows(&self.trees, flat, self.features, slice),
            None => {
                let mut means = vec![0.0; predictions.len()];
                means_of_rows(&self.trees, flat, self.features, &mut means);
                *predictions = Array1::from_vec(means);
            }
        }
    }
}

impl PredictInplace<Array2<f32>, Array1<f64>> for Forest {
    fn predict_inplace<'a>(&'a self, x: &'a Array2<f32>, y: &mut Array1<f64>) {
        self.write_predictions(x.view(), y);
    }

    fn default_target(&self, x: &Array2<f32>) -> Array1<f64> {
        Array1::zeros(x.nrows())
    }
}

#[cfg(test)]
mod tests {
    use linfa::traits::Predict;
    use ndarray::array;

    use super::*;
    use crate::model::tree::Node;

    fn forest() -> Forest {
        let split = Node::Split { feature: 1, threshold: 0.5, left: 1, right: 2 };
        let nodes = [split, Node::Leaf { value: 1000.0 }, Node::Leaf { value: 3000.0 }];
        let trees = vec![Tree::new(&nodes, 2).unwrap(), Tree::new(&[Node::Leaf { value: 2000.0 }], 2).unwrap()];
        Forest::new(trees, 2)
    }

    #[test]
    fn a_prediction_is_the_mean_of_the_trees() {
        assert_eq!(forest().predict_rows(array![[9.0, 0.5], [9.0, 0.6]].view()).to_vec(), [1500.0, 2500.0]);
    }

    #[test]
    fn a_batch_in_any_layout_says_what_its_rows_say() {
        let rows = array![[9.0, 0.0, 1.0], [0.5, 0.6, f32::NAN]];
        let by_rows: Vec<f64> = rows.columns().into_iter().map(|row| forest().predict_row(&row.to_vec())).collect();
        assert_eq!(forest().predict_rows(rows.t()).to_vec(), by_rows);
        assert_eq!(forest().predict(&rows.t().to_owned()).to_vec(), by_rows);
    }
}
