//! The forests beside scikit-learn's, on the same rows in the same run, and beside onnxruntime's answers.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use linfa::traits::Fit;
use linfa::{Dataset, DatasetBase};
use ndarray::{Array1, Array2, Axis, Slice};
use serde_json::Value;
use tempfile::TempDir;
use tidemark::features::Encoder;
use tidemark::model::onnx::{Labels, encode_forest};
use tidemark::train::candidate::aggregates;
use tidemark::train::forest::{FittedForest, ForestParams};
use tidemark::train::frame::Collecting;
use tidemark::train::isolation::IsolationParams;

use super::flights::{spec, tickets};
use super::{Figure, median};

/// Flights that are trained on, those behind them that are predicted, and those that onnxruntime predicts too.
const TRAINED: usize = 100_000;
const HELD_OUT: usize = 50_000;
const COMPARED: usize = 10_000;
/// Forests whose areas are averaged: one area varies by 0.01 to 0.02, so that the mean is known to 0.002.
const SEEDS: u64 = 100;
/// Forests of each side in turn.
const IN_TURN: usize = 10;
/// No prediction below a second, as the contract has it.
const FLOOR_MS: f32 = 1_000.0;

/// Rows of the year in order of completion, the aggregates learned on those trained on.
struct Rows {
    inputs: Array2<f32>,
    actual: Vec<f64>,
    folder: TempDir,
}

impl Rows {
    fn read() -> Self {
        let spec = spec();
        let mut collecting = Collecting::new(Arc::new(Encoder::new(&spec).expect("the spec has features")));
        tickets().iter().for_each(|ticket| collecting.push(ticket));
        let frame = collecting.frame();
        let all = TRAINED + HELD_OUT;
        let inputs = frame.inputs(0..all, &aggregates(&frame, &spec, 0..TRAINED));
        let rows = Self { inputs, actual: frame.actual()[..all].to_vec(), folder: tempfile::tempdir().expect("a temporary directory") };
        rows.write("x.f32", rows.inputs.iter().flat_map(|value| value.to_le_bytes()).collect());
        rows.write("y.f64", rows.actual.iter().flat_map(|value| value.to_le_bytes()).collect());
        rows
    }

    fn write(&self, name: &str, bytes: Vec<u8>) {
        std::fs::write(self.folder.path().join(name), bytes).expect("a writable folder");
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn trained(&self) -> Array2<f32> {
        self.inputs.slice_axis(Axis(0), Slice::from(..TRAINED)).to_owned()
    }

    fn features(&self) -> String {
        self.inputs.ncols().to_string()
    }

    fn fit(&self, seed: u64) -> (FittedForest, f64) {
        let data = Dataset::new(self.trained(), Array1::from(self.actual[..TRAINED].to_vec()));
        let began = Instant::now();
        let fitted = ForestParams::default().seed(seed).fit(&data).expect("flights can be learned from");
        (fitted, began.elapsed().as_secs_f64())
    }
}

fn python(arguments: &[&str]) -> Value {
    let python = crate::support::process::tools().join("venv/bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/figures/scikit_learn.py");
    let output = Command::new(python).arg(script).args(arguments).output().expect("python is there: run script/bootstrap mlflow");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

pub(crate) fn forest(runs: usize) -> Vec<Figure> {
    let rows = Rows::read();
    let (mut ours, mut theirs, mut our_mae, mut their_mae) = (vec![], vec![], vec![], vec![]);
    for seed in 0..runs as u64 {
        let (fitted, seconds) = rows.fit(seed);
        let predicted = fitted.forest.predict_rows(rows.inputs.slice_axis(Axis(0), Slice::from(TRAINED..)));
        let errors: f64 = predicted.iter().zip(&rows.actual[TRAINED..]).map(|(predicted, actual)| (predicted - actual).abs()).sum();
        ours.push(seconds);
        our_mae.push(errors / HELD_OUT as f64);
        let said = python(&["forest", &rows.path("x.f32"), &rows.path("y.f64"), &rows.features(), &TRAINED.to_string(), &seed.to_string()]);
        theirs.push(number(&said["seconds"]));
        their_mae.push(number(&said["mae"]));
        eprintln!("  {seconds:.3} s against {:.3} s", number(&said["seconds"]));
    }
    let (seconds, bare, mae, their_mae) = (median(&ours), median(&theirs), median(&our_mae), median(&their_mae));
    let against = "scikit-learn, the same rows and parameters, both cores";
    let mut figures = vec![
        Figure {
            name: "duration forest, 100,000 flights x 15".to_owned(),
            value: seconds,
            unit: "s",
            baseline: Some(bare),
            against,
            goal: "<= 1/12",
            holds: seconds * 12.0 <= bare,
        },
        Figure {
            name: "its MAE on the next 50,000".to_owned(),
            value: mae,
            unit: "ms",
            baseline: Some(their_mae),
            against,
            goal: "<= 1.01",
            holds: mae <= 1.01 * their_mae,
        },
    ];
    figures.push(onnx(&rows));
    figures
}

/// Rust's predictions against onnxruntime's of the same file.
fn onnx(rows: &Rows) -> Figure {
    let (fitted, _) = rows.fit(0);
    let labels = Labels { input: "features".to_owned(), output: "duration_ms".to_owned(), ..Labels::default() };
    rows.write("model.onnx", encode_forest(&fitted.forest, FLOOR_MS, &labels).expect("a forest has a file"));
    let compared = rows.inputs.slice_axis(Axis(0), Slice::from(TRAINED..TRAINED + COMPARED));
    rows.write("compared.f32", compared.iter().flat_map(|value| value.to_le_bytes()).collect());
    let predicted = fitted.forest.predict_rows(compared).into_iter().map(|predicted| predicted.max(f64::from(FLOOR_MS)));
    rows.write("predicted.f64", predicted.flat_map(f64::to_le_bytes).collect());
    let said = python(&["onnx", &rows.path("model.onnx"), &rows.path("compared.f32"), &rows.features(), &rows.path("predicted.f64")]);
    // In parts of a thousand million: the table shows three digits.
    let difference = 1e9 * number(&said["difference"]);
    Figure {
        name: "Rust and onnxruntime, 10,000 tickets".to_owned(),
        value: difference,
        unit: "ppb at most",
        baseline: None,
        against: "",
        goal: "<= 100,000 ppb (1e-4)",
        holds: difference <= 1e5,
    }
}

/// A number below `bound` that looks random and is always the same (splitmix64).
fn drawn(row: usize, what: u64, bound: u64) -> u64 {
    let mut x = (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(what.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % bound
}

/// Plants anomalies in one row of fifty: the contract's four kinds, and two that no rule knows. Returns which rows.
fn plant(rows: &mut Array2<f32>) -> Vec<u8> {
    let spec = spec();
    let at = |name: &str| spec.features.iter().position(|feature| feature.name == name).expect("a feature of the contract");
    let [risk, delivery, capabilities] = ["risk_weight", "qos_delivery_score", "capabilities_count"].map(at);
    let [size, estimate, timeout] = ["parameters_size", "estimated_duration_ms", "sla_timeout_ms"].map(at);
    let [average, deviation, retries] = ["avg_duration_by_task", "std_duration_by_task", "retry_count"].map(at);
    let mut labels = vec![0; rows.nrows()];
    for (number, mut row) in rows.outer_iter_mut().enumerate() {
        if drawn(number, 1, 50) > 0 {
            continue;
        }
        labels[number] = 1;
        let small = |bound: u64| drawn(number, 3, bound) as f32;
        match drawn(number, 2, 6) {
            0 => (row[risk], row[capabilities]) = (0.3, 8.0 + small(5)),
            1 => (row[risk], row[delivery]) = (0.3, 1.0),
            2 => row[estimate] = row[average] + row[deviation] * (4.0 + small(5)),
            3 => row[capabilities] = 12.0 + small(8),
            4 => row[size] *= 4.0 + small(7),
            _ => (row[retries], row[timeout]) = (5.0 + small(7), row[timeout] * 4.0),
        }
    }
    labels
}

/// Area under the ROC curve: the chance that an anomaly scores above an ordinary row, ties counted half (Mann & Whitney 1947).
fn area(scores: &[f64], labels: &[u8]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let (mut rank, mut ranks, mut anomalies) = (0, 0.0, 0.0);
    for tied in order.chunk_by(|a, b| scores[*a].total_cmp(&scores[*b]).is_eq()) {
        let mean = rank as f64 + (tied.len() + 1) as f64 / 2.0;
        let planted = tied.iter().filter(|row| labels[**row] == 1).count() as f64;
        ranks += mean * planted;
        anomalies += planted;
        rank += tied.len();
    }
    (ranks - anomalies * (anomalies + 1.0) / 2.0) / (anomalies * (scores.len() as f64 - anomalies))
}

pub(crate) fn isolation(runs: usize) -> Vec<Figure> {
    let rows = Rows::read();
    let mut planted = rows.trained();
    let labels = plant(&mut planted);
    rows.write("planted.f32", planted.iter().flat_map(|value| value.to_le_bytes()).collect());
    rows.write("labels.u8", labels.clone());
    let data = DatasetBase::from(planted.clone());
    let (mut ours, mut theirs, mut our_areas, mut their_areas) = (vec![], vec![], vec![], vec![]);
    let seeds = SEEDS.max(runs as u64);
    for seeds in (0..seeds).collect::<Vec<_>>().chunks(IN_TURN) {
        for seed in seeds {
            let began = Instant::now();
            // The fit scores the training rows for its threshold; scikit-learn's does not, so this counts one scoring more of ours.
            let forest = IsolationParams::default().seed(*seed).fit(&data).expect("flights can be isolated");
            let scores = forest.score_rows(planted.view());
            ours.push(began.elapsed().as_secs_f64());
            our_areas.push(area(scores.as_slice().expect("one row of scores"), &labels));
        }
        let (planted, labels, features) = (rows.path("planted.f32"), rows.path("labels.u8"), rows.features());
        let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
        let mut words = vec!["isolation", &planted, &labels, &features];
        words.extend(seeds.iter().map(String::as_str));
        let said = python(&words);
        let numbers = |name: &str| said[name].as_array().expect("a list").iter().map(number).collect::<Vec<f64>>();
        theirs.extend(numbers("seconds"));
        their_areas.extend(numbers("auc"));
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (seconds, bare, area, their_area) = (median(&ours), median(&theirs), mean(&our_areas), mean(&their_areas));
    let against = "scikit-learn, the same rows and parameters";
    vec![
        Figure {
            name: "isolation forest, fit and score".to_owned(),
            value: seconds,
            unit: "s",
            baseline: Some(bare),
            against,
            goal: "<= 1/4",
            holds: seconds * 4.0 <= bare,
        },
        Figure {
            name: format!("its AUC on planted anomalies, {seeds} seeds"),
            value: area,
            unit: "",
            baseline: Some(their_area),
            against,
            goal: ">= theirs - 0.005",
            holds: area >= their_area - 0.005,
        },
    ]
}
