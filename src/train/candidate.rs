//! One candidate: a forest fitted to a span of rows, measured on rows that came later.

use std::ops::Range;

use linfa::prelude::*;
use ndarray::Array1;
use serde::{Deserialize, Serialize};

use super::forest::{ForestParams, TrainError};
use super::frame::Frame;
use crate::baseline::builder::CODES;
use crate::baseline::learned::learned;
use crate::features::Place;
use crate::model::duration::{Card, DurationModel};
use crate::model::interval::{conformal_ratios, coverage};
use crate::spec::Spec;

/// No duration below one second is predicted: the contract's.
pub const FLOOR_MS: f32 = 1_000.0;
/// Share of the hold-out outside each end of the interval, %.
const TAIL_PERCENT: usize = 10;

/// A fitted candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What it was trained on, in a word: `since_onset`, `recent`, `window`, or `version 3`.
    pub name: String,
    /// The model.
    pub model: DurationModel,
    /// Each feature's share, in the model's order; empty for an archived version.
    pub importances: Vec<f64>,
    /// How it does on the hold-out.
    pub metrics: Metrics,
    /// Its predictions for the hold-out's rows, in order.
    pub predictions: Vec<f64>,
}

/// How a model does on the hold-out. In the target's unit where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Rows of the hold-out.
    pub rows: u64,
    /// Mean absolute error.
    pub mae: f64,
    /// Mean absolute error / mean actual: the contract's criterion.
    pub mae_share: f64,
    /// Root mean squared error.
    pub rmse: f64,
    /// Coefficient of determination; `None` where the actuals do not vary.
    pub r2: Option<f64>,
    /// Median of |error|.
    pub p50: f64,
    /// 90th percentile of |error|.
    pub p90: f64,
    /// 99th percentile of |error|.
    pub p99: f64,
}

/// Why a candidate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CandidateError {
    /// No rows to learn from, or to measure on.
    #[error("{what} has {rows} rows; at least {needed} are needed")]
    TooFew {
        /// Training split or hold-out.
        what: &'static str,
        /// Its rows.
        rows: usize,
        /// What is enough.
        needed: usize,
    },
    /// The fit.
    #[error(transparent)]
    Fit(#[from] TrainError),
}

impl Metrics {
    /// Measures predictions.
    ///
    /// - Shapes: both `[rows]`, at least one row, in one unit.
    #[must_use]
    pub fn of(predicted: &[f64], actual: &[f64]) -> Self {
        let (p, a) = (Array1::from(predicted.to_vec()), Array1::from(actual.to_vec()));
        // linfa's metrics; its errors are of empty arrays, which are told apart here.
        let mae = p.mean_absolute_error(&a).unwrap_or(f64::NAN);
        let mse = p.mean_squared_error(&a).unwrap_or(f64::NAN);
        let r2 = p.r2(&a).ok().filter(|r2| r2.is_finite());
        let mean = a.mean().unwrap_or(f64::NAN);
        let mut errors: Vec<f64> = predicted.iter().zip(actual).map(|(p, a)| (p - a).abs()).collect();
        errors.sort_unstable_by(f64::total_cmp);
        let quantile = |q| crate::baseline::quantile::quantile(&errors, q);
        Self {
            rows: actual.len() as u64,
            mae,
            mae_share: mae / mean,
            rmse: mse.sqrt(),
            r2,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
        }
    }
}

/// Learns the aggregates of a span of the frame: what the model needs besides the trees, from the training rows alone.
#[must_use]
pub fn aggregates(frame: &Frame, spec: &Spec, rows: Range<usize>) -> Vec<Vec<f64>> {
    let encoder = frame.encoder();
    let fields = encoder.code_fields().len();
    let mut codes = vec![Vec::with_capacity(rows.len()); fields];
    frame.each(rows.clone(), |_, row| {
        for (column, code) in codes.iter_mut().zip(&row.codes) {
            column.push(*code);
        }
    });
    let mut others = vec![[0_u64; CODES]; fields];
    if let (Some(from), Some(to)) = (frame.completed_at_ms().get(rows.start), frame.completed_at_ms().get(rows.end.saturating_sub(1))) {
        frame.each_other(*from, to.saturating_add(1), |row| {
            for (counts, code) in others.iter_mut().zip(&row.codes) {
                counts[usize::from(*code)] += 1;
            }
        });
    }
    let actual = &frame.actual()[rows];
    (0..spec.features.len())
        .map(|feature| match encoder.place(feature) {
            Place::Code(at) => learned(spec, encoder, feature, &codes[at], actual, &others[at]),
            Place::Number(_) => Vec::new(),
        })
        .collect()
}

/// Fits a forest to `train` and measures it on `holdout`, later rows.
///
/// Law: not one byte of the model depends on the hold-out's answers, but for what its card says of them.
///
/// # Errors
/// [`CandidateError`].
pub fn fit(
    name: &str,
    frame: &Frame,
    spec: &Spec,
    (train, holdout): (Range<usize>, Range<usize>),
    seed: u64,
) -> Result<Candidate, CandidateError> {
    if train.is_empty() {
        return Err(CandidateError::TooFew { what: "the training split", rows: 0, needed: 1 });
    }
    if holdout.is_empty() {
        return Err(CandidateError::TooFew { what: "the hold-out", rows: 0, needed: 1 });
    }
    let learned = aggregates(frame, spec, train.clone());
    let dataset = Dataset::new(frame.inputs(train.clone(), &learned), Array1::from(frame.actual()[train.clone()].to_vec()));
    let fitted = ForestParams::default().seed(seed).fit(&dataset)?;
    let times = frame.completed_at_ms();
    let card = Card {
        spec: spec.name.clone(),
        fingerprint: spec.fingerprint(),
        features: spec.features.iter().map(|feature| feature.name.clone()).collect(),
        learned,
        interval: None,
        coverage: None,
        mae: 0.0,
        data_ms: (times[train.start], times[train.end - 1].saturating_add(1)),
        rows: train.len() as u64,
    };
    let mut candidate = measured(name, DurationModel::new(fitted.forest, FLOOR_MS, card), frame, holdout);
    candidate.importances = fitted.importances;
    Ok(candidate)
}

/// Measures a model on the hold-out, and writes on its card what that says.
#[must_use]
pub fn measured(name: &str, model: DurationModel, frame: &Frame, holdout: Range<usize>) -> Candidate {
    let predictions = model.predict_rows(frame.inputs(holdout.clone(), &model.card().learned).view());
    let actual = &frame.actual()[holdout];
    let metrics = Metrics::of(&predictions, actual);
    let half = predictions.len() / 2;
    let ratios = conformal_ratios(&predictions[..half], &actual[..half], TAIL_PERCENT).ok();
    let covered = ratios.and_then(|ratios| coverage(ratios, &predictions[half..], &actual[half..]).ok().flatten());
    let card = Card {
        interval: ratios.map(|ratios| (ratios.low_ratio, ratios.high_ratio)),
        coverage: covered,
        mae: metrics.mae,
        ..model.card().clone()
    };
    Candidate { name: name.to_owned(), model: model.with_card(card), importances: Vec::new(), metrics, predictions }
}

/// Splits off the newest `share` of `rows` as hold-out: at least `least`, and none older than `longest_ms` before the newest.
#[must_use]
pub fn split(frame: &Frame, rows: Range<usize>, share: f64, least: usize, longest_ms: Option<i64>) -> (Range<usize>, Range<usize>) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
    let wanted = ((rows.len() as f64 * share) as usize).max(least).min(rows.len());
    let mut cut = rows.end - wanted;
    if let (Some(longest_ms), Some(newest)) = (longest_ms, rows.end.checked_sub(1).and_then(|last| frame.completed_at_ms().get(last))) {
        cut = cut.max(frame.between(i64::MIN, newest - longest_ms).end.clamp(rows.start, rows.end.saturating_sub(least)));
    }
    // Tickets that completed together stay together: no answer of the hold-out's first moment is in the training split.
    while cut > rows.start && cut < rows.end && frame.completed_at_ms()[cut - 1] == frame.completed_at_ms()[cut] {
        cut -= 1;
    }
    (rows.start..cut, cut..rows.end)
}

/// Returns a row of inputs that stands for the training split: what MLflow shows as the input example.
#[must_use]
pub fn example(frame: &Frame, at: usize, learned: &[Vec<f64>]) -> Vec<f32> {
    frame.inputs(at..at + 1, learned).into_raw_vec_and_offset().0
}
