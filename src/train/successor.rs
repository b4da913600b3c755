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
