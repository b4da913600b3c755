//! The baseline that comes with a decision about a model, by stage or by command (judgement, 8).
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
use crate::baseline::{Anchor, Baseline, ErrorBaseline, LOG_OFFSET, RECORDED};
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

    /// The inputs of `[from_ms, to_ms)`, the errors of the model's hold-out: where there is no baseline yet, or the one before is of
    /// another spec, or what is normal is in question. `before` lends its φ, where the span is too short for one of its own.
    ///
    /// # Errors
    /// [`Refused`] says why it would be of no use.
    pub fn made(
        &self,
        before: Option<&Baseline>,
        span_ms: (i64, i64),
        model: &ModelRef,
        candidate: &Candidate,
        holdout: Range<usize>,
    ) -> Result<Baseline, Refused> {
        let mut baseline = self.build(span_ms, before)?;
        self.score(&mut baseline, model, candidate, holdout, span_ms);
        Ok(baseline)
    }

    /// Returns the span of all rows from `from_ms` on, ms since 1970: it begins with the day of the first of them.
    #[must_use]
    pub fn span_from(&self, from_ms: i64) -> (i64, i64) {
        let rows = self.frame.between(from_ms, self.now_ms);
        let first_ms = self.frame.completed_at_ms().get(rows.start).copied().unwrap_or(from_ms);
        (first_ms.div_euclid(DAY_MS) * DAY_MS, self.now_ms)
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
            let mae = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
            set_errors(&mut baseline, &named.series(), mae, &errors, (span.1 - span.0) as f64 / DAY_MS as f64);
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
        let to_ms = self.now_ms.max(before.to_ms);
        let anchor = Anchor::after(before, self.spec);
        Baseline { version: self.version, created_at_ms: self.created_at_ms, to_ms, answers: self.answers, anchor, ..before.clone() }
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
        set_errors(baseline, &series, candidate.metrics.mae, &errors(self.frame, &candidate.predictions, holdout.clone()), days);
        baseline.errors.retain(|name, _| *name == RECORDED || *name == series);
        // Rows that the model has not seen have larger errors: among the others they would look like noise.
        let rows_ms = (rows_ms.0, rows_ms.1.min(times[holdout.start]));
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

/// The baseline of a version that somebody put back into Production: as it was, under the next number.
#[must_use]
pub fn brought_back(own: &Baseline, version: u64, created_at_ms: i64) -> Baseline {
    Baseline { version, created_at_ms, answers: None, ..own.clone() }
}

/// Returns the newest baseline of a version of the model, and the newest of all, of baselines by ascending number.
#[must_use]
pub fn of_version<'b>(all: impl IntoIterator<Item = &'b Baseline>, version: u64) -> (Option<&'b Baseline>, Option<&'b Baseline>) {
    let is_its = |baseline: &Baseline| baseline.scored_by.as_ref().is_some_and(|named| named.version == version);
    all.into_iter().fold((None, None), |(own, _), baseline| (if is_its(baseline) { Some(baseline) } else { own }, Some(baseline)))
}

fn errors(frame: &Frame, predicted: &[f64], rows: Range<usize>) -> Vec<f64> {
    predicted.iter().zip(&frame.actual()[rows]).map(|(predicted, actual)| (predicted - actual).abs()).collect()
}

/// Makes a series the judged one: its sums, and c of the logarithm for all.
fn set_errors(baseline: &mut Baseline, series: &str, mae: f64, errors: &[f64], days: f64) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::frame::tests::{FIRST_MS, actual, frame, spec};
    use crate::train::trial::{Cause, Request, Trial, trial};

    fn tried(frame: &Frame, spec: &Spec, now_ms: i64) -> Trial {
        let request = Request {
            id: "t",
            cause: Cause::Unprompted,
            now_ms,
            window_days: 540,
            min_rows: 100,
            max_rows: 100_000,
            threshold: 0.15,
            slice_ms: 3_600_000,
        };
        trial(frame, spec, &request, None, &[]).unwrap()
    }

    fn with(check: impl FnOnce(&dyn Fn(u64) -> Baseline, &Setting<'_>, &ModelRef, &Trial)) {
        let (spec, frame) = (spec(), frame(3_000, actual));
        let now_ms = frame.completed_at_ms().last().unwrap() + 1;
        let tried = tried(&frame, &spec, now_ms);
        let model = ModelRef::of("m", 7, b"file");
        let setting = Setting { spec: &spec, frame: &frame, version: 1, created_at_ms: 5, now_ms, window_days: &[1, 3, 7], answers: None };
        let make = |version: u64| {
            let setting = Setting { version, ..setting };
            setting.made(None, setting.span_from(FIRST_MS + 1), &model, &tried.tried[0].candidate, tried.holdout.clone()).unwrap()
        };
        check(&make, &setting, &model, &tried);
    }

    #[test]
    fn a_first_baseline_is_made_of_the_trainings_rows_and_measured_out_of_sample() {
        with(|make, _, _, tried| {
            let baseline = make(1);
            assert_eq!((baseline.rows, baseline.from_ms, baseline.to_ms), (3_000, FIRST_MS, tried.holdout_ms.1));
            assert_eq!(baseline.scored_by.as_ref().unwrap().version, 7);
            let errors = &baseline.errors["v7"];
            assert!((errors.mae - tried.tried[0].candidate.metrics.mae).abs() < 1e-9);
            assert_eq!(errors.sums.rows, tried.holdout.len() as u64, "the hold-out's errors and no others");
            assert!((errors.sums.abs_us as f64 / 1000.0 / errors.sums.rows as f64 - errors.mae).abs() < 1.0);
            assert!(baseline.noise.iter().all(|noise| noise.log_mae_std["v7"] > 0.0), "{:?}", baseline.noise);
        });
    }

    #[test]
    fn a_scheduled_promotion_carries_features_and_target_on() {
        with(|make, setting, model, tried| {
            let mut before = make(1);
            before.to_ms = FIRST_MS + 14 * DAY_MS;
            before.rows = 77;
            before.noise.iter_mut().for_each(|noise| noise.log_mae_std = [("v3".to_owned(), 9.0)].into());
            let next = Setting { version: 2, ..*setting };
            let carried = next.promoted(&before, model, &tried.tried[0].candidate, tried.holdout.clone(), false);
            assert_eq!((carried.version, carried.rows, carried.from_ms, carried.provisional), (2, 77, before.from_ms, false));
            assert_eq!((&carried.columns, &carried.target), (&before.columns, &before.target));
            assert_eq!(carried.to_ms, tried.holdout_ms.1, "no window holds what the version was trained or measured on");
            assert_eq!(carried.noise[0].phi, before.noise[0].phi, "φ belongs to the process");
            assert!(carried.noise.iter().all(|noise| noise.log_mae_std.contains_key("v7") && !noise.log_mae_std.contains_key("v3")));
        });
    }

    #[test]
    fn a_version_that_comes_back_brings_its_own_newest_baseline() {
        with(|make, setting, model, tried| {
            let first = make(1);
            let other = ModelRef::of("m", 8, b"other");
            let second =
                Setting { version: 2, ..*setting }.promoted(&first, &other, &tried.tried[0].candidate, tried.holdout.clone(), true);
            let all = [first.clone(), second.clone()];
            assert_eq!(of_version(&all, model.version), (Some(&first), Some(&second)));
            assert_eq!(of_version(&all, 9), (None, Some(&second)));
            let back = brought_back(&first, 3, 9);
            assert_eq!((back.version, back.created_at_ms, back.answers), (3, 9, None));
            assert_eq!(Baseline { version: 1, created_at_ms: 5, ..back }, first);
        });
    }
}
