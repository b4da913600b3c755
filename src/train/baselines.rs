//! The baseline that comes with a decision of the train stage (judgement, 8).
//!
//! Everything a verdict rests on is out of sample: a new version's error is that of its hold-out, and windows under it count only
//! tickets that completed after its data ended.

use std::collections::BTreeMap;
use std::ops::Range;

use super::candidate::Candidate;
use super::frame::Frame;
use super::trial::{Known, predictions};
use crate::baseline::builder::{Builder, Making, Refused};
use crate::baseline::noise::log_mae_std;
use crate::baseline::{Baseline, ErrorBaseline, LOG_OFFSET, RECORDED};
use crate::clock::DAY_MS;
use crate::model::shelf::ModelRef;
use crate::spec::Spec;
use crate::summary::ErrorSums;

/// What is the same for every baseline of one decision.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'s> {
    /// The spec.
    pub spec: &'s Spec,
    /// The rows.
    pub frame: &'s Frame,
    /// Version of the new baseline.
    pub version: u64,
    /// When it is made, ms since 1970.
    pub created_at_ms: i64,
    /// Rows completed before this are there: windows under the new baseline begin here, ms since 1970.
    pub now_ms: i64,
    /// Window lengths in days.
    pub window_days: &'s [u32],
    /// The mark whose request is answered.
    pub answers: Option<u64>,
}

impl Setting<'_> {
    /// A baseline without a model: the tickets' own predictions are judged.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn without_model(&self, span_ms: (i64, i64)) -> Result<Baseline, Refused> {
        self.build(span_ms, None)
    }

    /// The first baseline of all: the inputs of `[from_ms, to_ms)`, the errors of the model's hold-out.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn first(&self, span_ms: (i64, i64), model: &ModelRef, candidate: &Candidate, holdout: Range<usize>) -> Result<Baseline, Refused> {
        let mut baseline = self.build(span_ms, None)?;
        self.score(&mut baseline, model, candidate, holdout, span_ms);
        Ok(baseline)
    }

    /// A new version was promoted: inputs go on as they were, the error is that of its hold-out. After a drift the inputs are
    /// provisional.
    #[must_use]
    pub fn promoted(
        &self,
        before: &Baseline,
        model: &ModelRef,
        candidate: &Candidate,
        holdout: Range<usize>,
        after_drift: bool,
    ) -> Baseline {
        let mut baseline = self.next(before);
        baseline.provisional = after_drift || before.provisional;
        self.score(&mut baseline, model, candidate, holdout, (before.from_ms, before.to_ms));
        baseline
    }

    /// A full window has passed under a provisional baseline: its rows are the new normal, and the model's error in them.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn frozen(&self, before: &Baseline, production: Option<&Known>) -> Result<Baseline, Refused> {
        let span = (before.to_ms, self.now_ms);
        let mut baseline = self.build(span, Some(before))?;
        baseline.scored_by.clone_from(&before.scored_by);
        if let (Some(named), Some(production)) = (&before.scored_by, production) {
            let rows = self.frame.between(span.0, span.1);
            let errors = errors(self.frame, &predictions(self.frame, &production.model, rows.clone()), rows);
            set_errors(&mut baseline, &named.series(), &errors, (span.1 - span.0) as f64 / DAY_MS as f64);
            inherit_spread(&mut baseline, before, &named.series());
        }
        Ok(baseline)
    }

    /// The inputs changed and the model is still right: the last full window's inputs are the new normal, its error stays judged
    /// by what it was.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn accepted(&self, before: &Baseline) -> Result<Baseline, Refused> {
        let longest_ms = self.window_days.iter().map(|days| i64::from(*days) * DAY_MS).max().unwrap_or(DAY_MS);
        let mut baseline = self.build((self.now_ms - longest_ms, self.now_ms), Some(before))?;
        baseline.scored_by.clone_from(&before.scored_by);
        baseline.errors.clone_from(&before.errors);
        baseline.log_offset = before.log_offset;
        let series: Vec<String> = before.errors.keys().cloned().collect();
        for series in series {
            inherit_spread(&mut baseline, before, &series);
        }
        Ok(baseline)
    }

    fn next(&self, before: &Baseline) -> Baseline {
        Baseline { version: self.version, created_at_ms: self.created_at_ms, to_ms: self.now_ms, answers: self.answers, ..before.clone() }
    }

    fn build(&self, (from_ms, to_ms): (i64, i64), predecessor: Option<&Baseline>) -> Result<Baseline, Refused> {
        let mut builder = Builder::new(self.spec, from_ms, to_ms)?;
        let (times, actual, predicted) = (self.frame.completed_at_ms(), self.frame.actual(), self.frame.predicted());
        self.frame.each(self.frame.between(from_ms, to_ms), |at, row| builder.push_row(row, times[at], actual[at], predicted[at]));
        self.frame.each_other(from_ms, to_ms, |row| builder.push_other_row(row));
        let making = Making { version: self.version, created_at_ms: self.created_at_ms, window_days: self.window_days, predecessor };
        let mut baseline = builder.build(&making)?;
        baseline.answers = self.answers;
        Ok(baseline)
    }

    /// Puts a model's hold-out into a baseline, and what its errors do by themselves on the rows of `rows_ms`.
    fn score(&self, baseline: &mut Baseline, model: &ModelRef, candidate: &Candidate, holdout: Range<usize>, rows_ms: (i64, i64)) {
        let series = model.series();
        let times = self.frame.completed_at_ms();
        let span_ms = times[holdout.end - 1] - times[holdout.start];
        let days = (span_ms as f64 / DAY_MS as f64).max(1.0 / 24.0);
        set_errors(baseline, &series, &errors(self.frame, &candidate.predictions, holdout), days);
        baseline.errors.retain(|name, _| *name == RECORDED || *name == series);
        let rows = self.frame.between(rows_ms.0, rows_ms.1);
        let scored = predictions(self.frame, &candidate.model, rows.clone());
        let on_rows: Vec<(i64, f64)> = times[rows.clone()].iter().copied().zip(errors(self.frame, &scored, rows)).collect();
        let lengths: Vec<u32> = baseline.noise.iter().map(|noise| noise.days).collect();
        let spreads = if rows_ms.0 < rows_ms.1 { log_mae_std(rows_ms, &lengths, on_rows.into_iter()) } else { vec![None; lengths.len()] };
        for (noise, std) in baseline.noise.iter_mut().zip(spreads) {
            noise.log_mae_std.retain(|name, _| *name == RECORDED);
            noise.log_mae_std.extend(std.map(|std| (series.clone(), std)));
        }
        baseline.scored_by = Some(model.clone());
    }
}

fn errors(frame: &Frame, predicted: &[f64], rows: Range<usize>) -> Vec<f64> {
    predicted.iter().zip(&frame.actual()[rows]).map(|(predicted, actual)| (predicted - actual).abs()).collect()
}

/// Makes a series the judged one: its sums, and c of the logarithm for all.
fn set_errors(baseline: &mut Baseline, series: &str, errors: &[f64], days: f64) {
    let mae = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
    baseline.log_offset = LOG_OFFSET * mae;
    let mut sums = ErrorSums::default();
    for error in errors {
        sums.push(*error, baseline.log_offset);
    }
    baseline.errors.insert(series.to_owned(), ErrorBaseline { mae, days, sums });
}

/// The spread of a model's error belongs to the model: it stays what it was.
fn inherit_spread(baseline: &mut Baseline, before: &Baseline, series: &str) {
    let known: BTreeMap<u32, f64> = before.noise.iter().filter_map(|noise| Some((noise.days, *noise.log_mae_std.get(series)?))).collect();
    for noise in &mut baseline.noise {
        if let Some(std) = known.get(&noise.days) {
            noise.log_mae_std.insert(series.to_owned(), *std);
        }
    }
}
