use linfa::traits::Predict;
use ndarray::array;

use super::*;
use crate::model::tree::Node;

/// Three features, the first of which says most and the last nothing.
fn rows(rows: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, 3), |(row, feature)| match feature {
        0 => ((row * 37) % 1009) as f32 / 8.0,
        1 => ((row * 11) % 7) as f32,
        _ => 1.0,
    })
}

fn targets(rows: &Array2<f32>) -> Array1<f64> {
    rows.rows().into_iter().map(|row| f64::from(row[0]).mul_add(1000.0, f64::from(row[1]) * 500.0) + 60_000.0).collect()
}

fn fit(rows: &Array2<f32>, targets: Array1<f64>, params: ForestParams) -> Result<FittedForest, TrainError> {
    params.fit(&Dataset::new(rows.clone(), targets))
}

fn few() -> ForestParams {
    ForestParams::default().trees(12)
}

#[test]
fn a_forest_learns_what_its_rows_say() {
    let rows = rows(4000);
    let targets = targets(&rows);
    let fitted = fit(&rows, targets.clone(), few()).unwrap();
    let worst = fitted.forest.predict(&rows).iter().zip(&targets).map(|(p, y)| (p - y).abs()).fold(0.0, f64::max);
    assert!(worst < 2_000.0, "{worst}");
    assert!(fitted.importances[0] > 0.9 && fitted.importances[1] > 0.0 && fitted.importances[2].abs() < 1e-12);
    assert!((fitted.importances.iter().sum::<f64>() - 1.0).abs() < 1e-12);
}

#[test]
fn a_seed_gives_one_forest_on_any_number_of_threads() {
    let rows = rows(3000);
    let on = |threads, seed| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let fitted = fit(&rows, targets(&rows), few().seed(seed)).unwrap();
            let predictions = fitted.forest.predict_rows(rows.view());
            (fitted, predictions)
        })
    };
    assert_eq!(on(1, 7), on(2, 7));
    assert_eq!(on(1, 7), on(5, 7));
    assert_ne!(on(1, 7).0.forest, on(1, 8).0.forest);
}

#[test]
fn neighbouring_seeds_share_no_tree() {
    let seeds = tree_seeds(1, 100);
    assert!(tree_seeds(2, 100).iter().all(|seed| !seeds.contains(seed)));
}

#[test]
fn splitting_stops_at_each_limit() {
    let rows = rows(500);
    let leaves = |params: ForestParams| {
        let forest = fit(&rows, targets(&rows), params.trees(1)).unwrap().forest;
        let leaves = forest.trees()[0].nodes().filter(|node| matches!(node, Node::Leaf { .. })).count();
        (forest.trees()[0].depth(), leaves)
    };
    assert_eq!(leaves(few().depth(0)), (0, 1));
    assert_eq!(leaves(few().depth(1)), (1, 2));
    assert_eq!(leaves(few().min_rows_split(501)), (0, 1));
    assert_eq!(leaves(few().min_rows_leaf(251)), (0, 1));
    let drawn = 325; // about 63 % of the rows, each once
    assert!(leaves(few().depth(16).min_rows_leaf(20)).1 <= drawn / 20);
}

#[test]
fn the_least_change_of_a_feature_is_enough_to_split_on() {
    let next = f32::from_bits(1.0_f32.to_bits() + 1);
    let rows = Array2::from_shape_fn((40, 1), |(row, _)| if row % 2 == 0 { 1.0 } else { next });
    let targets = Array1::from_shape_fn(40, |row| if row % 2 == 0 { 10.0 } else { 20.0 });
    let forest = fit(&rows, targets, few()).unwrap().forest;
    assert_eq!(forest.predict_rows(array![[1.0], [next]].view()).to_vec(), [10.0, 20.0]);
}

#[test]
fn copies_of_a_feature_share_its_importance() {
    let one = rows(2000);
    let copies = ndarray::concatenate![ndarray::Axis(1), one, one];
    let importances = fit(&copies, targets(&one), few()).unwrap().importances;
    assert!(importances[0] > 0.2 && importances[3] > 0.2, "{importances:?}");
}

#[test]
fn equal_targets_give_stumps_that_predict_them() {
    for target in [0.0, 3_600_000.0, -0.1, 1e-30, 1e38] {
        let rows = rows(100);
        let fitted = fit(&rows, Array1::from_elem(100, target), few()).unwrap();
        assert!(fitted.forest.trees().iter().all(|tree| tree.nodes().len() == 1), "{target}");
        assert!((fitted.forest.predict_row(&[1.0; 3]) - target).abs() <= target.abs() * 1e-6);
        assert!(fitted.importances.iter().all(|share| share.abs() < 1e-12));
    }
}

#[test]
fn targets_ten_orders_of_magnitude_apart_are_told_apart() {
    let rows = Array2::from_shape_fn((1100, 1), |(row, _)| (row / 100) as f32);
    let targets: Array1<f64> = (0..1100).map(|row| 10_f64.powi(row / 100)).collect();
    let forest = fit(&rows, targets, few().depth(16)).unwrap().forest;
    for power in [1_u8, 5, 10] {
        let expected = 10_f64.powi(i32::from(power));
        assert!((forest.predict_row(&[f32::from(power)]) / expected - 1.0).abs() < 0.01, "10^{power}");
    }
}

#[test]
fn the_widest_targets_and_features_do_not_overflow() {
    let rows = Array2::from_shape_fn((64, 1), |(row, _)| if row % 2 == 0 { f32::MIN } else { f32::MAX });
    let targets = rows.column(0).mapv(f64::from);
    let forest = fit(&rows, targets, few()).unwrap().forest;
    assert!(forest.predict_row(&[f32::MAX]) > 0.9 * f64::from(f32::MAX));
    assert!(forest.predict_row(&[f32::MIN]) < 0.9 * f64::from(f32::MIN));
}

#[test]
fn one_row_gives_stumps() {
    let fitted = fit(&array![[1.0, 2.0]], array![1234.0], few()).unwrap();
    assert!((fitted.forest.predict_row(&[9.0, 9.0]) - 1234.0).abs() < 1e-9);
}

#[test]
fn rows_without_a_feature_that_differs_give_stumps() {
    let fitted = fit(&Array2::ones((50, 2)), Array1::from_iter((0..50).map(f64::from)), few()).unwrap();
    assert!(fitted.forest.trees().iter().all(|tree| tree.nodes().len() == 1));
}

#[test]
fn what_cannot_be_trained_on_is_refused_by_name() {
    let refused = |rows: Array2<f32>, targets: Vec<f64>, params: ForestParams| {
        fit(&rows, Array1::from(targets), params).expect_err("refused").to_string()
    };
    let two = || array![[1.0, 2.0], [3.0, 4.0]];
    assert!(refused(Array2::zeros((0, 2)), vec![], few()).starts_with("0 rows to train on"));
    assert!(refused(Array2::zeros((2, 0)), vec![1.0, 2.0], few()).starts_with("0 features"));
    assert!(refused(array![[1.0, 2.0], [3.0, f32::NAN]], vec![1.0, 2.0], few()).starts_with("feature 1 of row 1 is NaN"));
    for hostile in [f64::NAN, f64::INFINITY, -1e39] {
        assert!(refused(two(), vec![1.0, hostile], few()).starts_with(&format!("the target of row 1 is {hostile}")));
    }
    assert!(refused(two(), vec![1.0, 2.0], few().trees(0)).starts_with("trees is 0: it must lie between 1 and"));
    assert!(refused(two(), vec![1.0, 2.0], few().depth(17)).starts_with("depth is 17"));
    assert!(refused(two(), vec![1.0, 2.0], few().min_rows_split(1)).starts_with("min_rows_split is 1"));
    assert!(refused(two(), vec![1.0, 2.0], few().min_rows_leaf(0)).starts_with("min_rows_leaf is 0"));
}
