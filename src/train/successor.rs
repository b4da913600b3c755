//! The baseline that begins with a version: what its windows will be held against.

use crate::baseline::builder::{Builder, Making, Refused};
use crate::baseline::noise::log_mae_std;
use crate::baseline::{Baseline, ErrorBaseline, LOG_OFFSET};
use crate::clock::DAY_MS;
use crate::model::shelf::ModelRef;
use crate::spec::Spec;
use crate::summary::ErrorSums;

use super::frame::Frame;
use super::trial::{Tried, predictions};

/// A version that comes into Production, and what it was made from.
#[derive(Clone, Copy, Debug)]
pub struct Successor<'s> {
    /// The spec.
    pub spec: &'s Spec,
    /// The rows.
    pub frame: &'s Frame,
    /// Its candidate.
    pub tried: &'s Tried,
    /// Begin and end of the hold-out, ms since 1970, half open.
    pub holdout_ms: (i64, i64),
    /// Begin of the training's window, ms since 1970.
    pub from_ms: i64,
    /// The version.
    pub scored_by: &'s ModelRef,
    /// Window lengths in days whose noise is learned.
    pub window_days: &'s [u32],
    /// The present, ms since 1970.
    pub created_at_ms: i64,
}

impl Successor<'_> {
    /// Returns the baseline that carries features and target on from `predecessor`: what is normal has not changed, only who
    /// predicts.
    ///
    /// Its error is the hold-out's, and s the new model's on the predecessor's rows; φ belongs to the process and stays.
    #[must_use]
    pub fn carried(&self, predecessor: &Baseline, version: u64) -> Baseline {
        let interval = (predecessor.from_ms, predecessor.to_ms);
        self.of_version(Baseline { version, to_ms: predecessor.to_ms.max(self.holdout_ms.1), ..predecessor.clone() }, interval)
    }

    /// Returns a baseline of all rows of the training: where there is none, or the one before is of another spec, or what is
    /// normal is in question.
    ///
    /// # Errors
    /// [`Refused`] says why it would be of no use.
    pub fn made(&self, predecessor: Option<&Baseline>, version: u64) -> Result<Baseline, Refused> {
        let to_ms = self.holdout_ms.1;
        let rows = self.frame.between(self.from_ms, to_ms);
        let first_ms = self.frame.completed_at_ms().get(rows.start).copied().unwrap_or(self.from_ms);
        let from_ms = first_ms.div_euclid(DAY_MS) * DAY_MS;
        let mut builder = Builder::new(self.spec, from_ms, to_ms)?;
        let (times, actual, predicted) = (self.frame.completed_at_ms(), self.frame.actual(), self.frame.predicted());
        self.frame.each(rows, |at, row| builder.push_row(row, times[at], actual[at], predicted[at]));
        self.frame.each_other(from_ms, to_ms, |row| builder.push_other_row(row));
        let making = Making { version, created_at_ms: self.created_at_ms, window_days: self.window_days, predecessor };
        Ok(self.of_version(builder.build(&making)?, (from_ms, to_ms)))
    }

    /// Puts the version's own error into a baseline whose columns were counted over `interval`.
    fn of_version(&self, baseline: Baseline, interval: (i64, i64)) -> Baseline {
        let series = self.scored_by.series();
        let (errors, log_offset) = self.errors();
        // Rows that the model has not seen have larger errors: among the others they would look like noise.
        let trained = (interval.0, interval.1.min(self.holdout_ms.0));
        let mut noise = baseline.noise.clone();
        let lengths: Vec<u32> = noise.iter().map(|noise| noise.days).collect();
        let deviations = if trained.0 < trained.1 { self.deviations(trained, &lengths) } else { vec![None; lengths.len()] };
        for (noise, s) in noise.iter_mut().zip(deviations) {
            noise.log_mae_std = s.map(|s| (series.clone(), s)).into_iter().collect();
        }
        Baseline {
            created_at_ms: self.created_at_ms,
            model: self.scored_by.name.clone(),
            errors: [(series, errors)].into(),
            log_offset,
            noise,
            scored_by: Some(self.scored_by.clone()),
            provisional: false,
            ..baseline
        }
    }

    /// Returns the errors on the hold-out, and c of ln(|error| + c).
    fn errors(&self) -> (ErrorBaseline, f64) {
        let candidate = &self.tried.candidate;
        let rows = self.frame.between(self.holdout_ms.0, self.holdout_ms.1);
        let absolute = |(predicted, actual): (&f64, &f64)| (predicted - actual).abs();
        let log_offset = LOG_OFFSET * candidate.metrics.mae;
        let mut sums = ErrorSums::default();
        for error in candidate.predictions.iter().zip(&self.frame.actual()[rows]).map(absolute) {
            sums.push(error, log_offset);
        }
        let days = (self.holdout_ms.1 - self.holdout_ms.0) as f64 / DAY_MS as f64;
        (ErrorBaseline { mae: candidate.metrics.mae, days, sums }, log_offset)
    }

    fn deviations(&self, interval: (i64, i64), lengths: &[u32]) -> Vec<Option<f64>> {
        let rows = self.frame.between(interval.0, interval.1);
        let predicted = predictions(self.frame, &self.tried.candidate.model, rows.clone());
        let (times, actual) = (&self.frame.completed_at_ms()[rows.clone()], &self.frame.actual()[rows]);
        let errors = times.iter().zip(predicted.iter().zip(actual)).map(|(at, (predicted, actual))| (*at, (predicted - actual).abs()));
        log_mae_std(interval, lengths, errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::frame::tests::{FIRST_MS, actual, frame, spec};
    use crate::train::trial::{Cause, Request, Trial, trial};

    fn tried(frame: &Frame, spec: &Spec) -> Trial {
        let now_ms = frame.completed_at_ms().last().unwrap() + 1;
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

    fn with(check: impl FnOnce(&Successor<'_>, &Trial)) {
        let (spec, frame) = (spec(), frame(3_000, actual));
        let tried = tried(&frame, &spec);
        let scored_by = ModelRef::of("m", 7, b"file");
        let successor = Successor {
            spec: &spec,
            frame: &frame,
            tried: &tried.tried[0],
            holdout_ms: tried.holdout_ms,
            from_ms: FIRST_MS,
            scored_by: &scored_by,
            window_days: &[1, 3, 7],
            created_at_ms: 5,
        };
        check(&successor, &tried);
    }

    #[test]
    fn a_first_baseline_is_made_of_the_trainings_rows_and_measured_out_of_sample() {
        with(|successor, tried| {
            let baseline = successor.made(None, 1).unwrap();
            assert_eq!((baseline.rows, baseline.from_ms, baseline.to_ms), (3_000, FIRST_MS, tried.holdout_ms.1));
            assert_eq!(baseline.scored_by.as_ref().unwrap().version, 7);
            assert_eq!(baseline.errors.keys().collect::<Vec<_>>(), ["v7"], "series are not mixed");
            let errors = &baseline.errors["v7"];
            assert!((errors.mae - tried.tried[0].candidate.metrics.mae).abs() < 1e-9);
            assert_eq!(errors.sums.rows, tried.holdout.len() as u64, "the hold-out's errors and no others");
            assert!((errors.sums.abs_us as f64 / 1000.0 / errors.sums.rows as f64 - errors.mae).abs() < 1.0);
            for noise in &baseline.noise {
                assert!(noise.log_mae_std["v7"] > 0.0 && noise.log_mae_std.len() == 1, "{noise:?}");
            }
        });
    }

    #[test]
    fn a_scheduled_promotion_carries_features_and_target_on() {
        with(|successor, tried| {
            let mut before = successor.made(None, 1).unwrap();
            before.to_ms = FIRST_MS + 14 * DAY_MS;
            before.rows = 77;
            before.noise.iter_mut().for_each(|noise| noise.log_mae_std = [("v3".to_owned(), 9.0)].into());
            let carried = successor.carried(&before, 2);
            assert_eq!((carried.version, carried.rows, carried.from_ms), (2, 77, before.from_ms));
            assert_eq!((&carried.columns, &carried.target), (&before.columns, &before.target));
            assert_eq!(carried.to_ms, tried.holdout_ms.1, "no window holds what the version was trained or measured on");
            assert_eq!(carried.noise[0].phi, before.noise[0].phi, "φ belongs to the process");
            assert!(carried.noise.iter().all(|noise| noise.log_mae_std.contains_key("v7") && !noise.log_mae_std.contains_key("v3")));
        });
    }
}
