//! One training decided: which candidates there are, how they compare on one hold-out, and which of them may be promoted.
//!
//! Pure: rows and models in, a decision out. What becomes of it — registry, baselines, events — is the stage's.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::candidate::{Candidate, CandidateError, fit, measured, split};
use super::compare::{Comparison, compare};
use super::frame::Frame;
use crate::clock::DAY_MS;
use crate::model::duration::DurationModel;
use crate::spec::Spec;

/// Rows since the onset that a drift training waits for, whatever the configuration says.
pub const MIN_SINCE_ONSET: u64 = 250;
/// Share of the rows that is held out.
const HOLDOUT_SHARE: f64 = 0.2;
/// Rows of the hold-out, at least.
const HOLDOUT_ROWS: usize = 50;
/// Longest hold-out of a training that no drift asked for.
const HOLDOUT_LONGEST_MS: i64 = 7 * DAY_MS;
/// Span of the `recent` candidate.
const RECENT_MS: i64 = 28 * DAY_MS;

/// Why a training is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Time, volume, or somebody asked.
    Unprompted,
    /// The world, or the model, changed at about this time, ms since 1970.
    Drift {
        /// When.
        onset_ms: i64,
        /// Whether the model's error is over its threshold.
        error_is_over: bool,
    },
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// Id of the trigger and its attempt: the seed follows from it.
    pub id: &'r str,
    /// Why.
    pub cause: Cause,
    /// Rows completed before this are there, ms since 1970.
    pub now_ms: i64,
    /// Days of rows.
    pub window_days: u32,
    /// Rows below which nothing is trained.
    pub min_rows: u64,
    /// Rows that one model is trained on, at most.
    pub max_rows: usize,
    /// Hold-out MAE / mean actual below which a model may be promoted.
    pub threshold: f64,
    /// Length of a slice, ms: what the comparison averages over.
    pub slice_ms: i64,
}

/// A model that exists already.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its version in the registry.
    pub version: u64,
    /// The model.
    pub model: Arc<DurationModel>,
}

/// A candidate, and how it compares with Production.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The candidate.
    pub candidate: Candidate,
    /// Its version in the registry, of an archived one.
    pub version: Option<u64>,
    /// Whether its MAE share is below the threshold.
    pub meets_criterion: bool,
    /// How it compares; `None` without a model in Production.
    pub comparison: Option<Comparison>,
    /// Why it may, or may not, be promoted.
    pub reason: String,
}

impl Tried {
    /// Whether it may be promoted.
    #[must_use]
    pub fn may_be_promoted(&self) -> bool {
        self.meets_criterion && self.comparison.as_ref().is_none_or(|comparison| comparison.is_better)
    }
}

/// What a training comes to.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Every candidate, in order.
    pub tried: Vec<Tried>,
    /// Rows of the hold-out in the frame.
    pub holdout: Range<usize>,
    /// Their span, ms since 1970, half open.
    pub holdout_ms: (i64, i64),
    /// The decision.
    pub decision: Decision,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Promote the candidate of that index.
    Promote(usize),
    /// Production stays.
    Refuse(String),
    /// Production stays and is right: the inputs have changed, the error has not. How they are now is the new normal.
    Benign(String),
}

/// Why there is no trial.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Too little since the onset, so far.
    #[error("{rows} tickets have completed since the onset; a training waits for {needed}")]
    NotYet {
        /// There are.
        rows: u64,
        /// There must be.
        needed: u64,
    },
    /// Too little at all.
    #[error(
        "{rows} completed tickets in the last {days} days; at least {needed} are needed (train.min_samples, ML_MIN_TRAINING_SAMPLES): wait, or take a longer window (train.window_days, ML_TRAINING_WINDOW_DAYS)"
    )]
    TooFew {
        /// There are.
        rows: u64,
        /// There must be.
        needed: u64,
        /// In so many days.
        days: u32,
    },
    /// The fit.
    #[error("training candidate {name}: {source}")]
    Fit {
        /// The candidate.
        name: String,
        /// Why.
        #[source]
        source: CandidateError,
    },
}

/// Trains, compares, decides.
///
/// A drift training holds out the newest 20 % of the rows since the onset, at least 50; an unprompted one the newest 20 % of the
/// window, at most 7 days. Candidates of a drift: since the onset, the last 28 days, the whole window, and every archived version;
/// no candidate sees the hold-out.
///
/// # Errors
/// [`TrialError`].
pub fn trial(
    frame: &Frame,
    spec: &Spec,
    request: &Request<'_>,
    production: Option<&Known>,
    archived: &[Known],
) -> Result<Trial, TrialError> {
    let window = frame.between(request.now_ms - i64::from(request.window_days) * DAY_MS, request.now_ms);
    let too_few = |rows: u64, needed: u64| TrialError::TooFew { rows, needed, days: request.window_days };
    let needed = request.min_rows.max(HOLDOUT_ROWS as u64 + 1);
    if (window.len() as u64) < needed {
        return Err(too_few(window.len() as u64, needed));
    }
    let recent = frame.between(request.now_ms - RECENT_MS, request.now_ms);
    let (holdout, spans) = match request.cause {
        Cause::Unprompted => {
            let (train, holdout) = split(frame, window, HOLDOUT_SHARE, HOLDOUT_ROWS, Some(HOLDOUT_LONGEST_MS));
            (holdout, vec![("window", train.start)])
        }
        Cause::Drift { onset_ms, .. } => {
            let since = frame.between(onset_ms, request.now_ms);
            let needed = request.min_rows.max(MIN_SINCE_ONSET);
            if (since.len() as u64) < needed {
                return Err(TrialError::NotYet { rows: since.len() as u64, needed });
            }
            let (_, holdout) = split(frame, since.clone(), HOLDOUT_SHARE, HOLDOUT_ROWS, None);
            let spans = [("since_onset", since.start), ("recent", recent.start.max(window.start)), ("window", window.start)];
            (holdout, spans.to_vec())
        }
    };
    let mut ranges: Vec<(&str, Range<usize>)> = Vec::new();
    for (name, start) in spans {
        let range = start.max(holdout.start.saturating_sub(request.max_rows))..holdout.start;
        if !range.is_empty() && ranges.iter().all(|(_, known)| *known != range) {
            ranges.push((name, range));
        }
    }
    let candidates = ranges.len() + archived.len();
    let seed = seed(request.id);
    let mut tried = Vec::with_capacity(candidates);
    let judge = Judge { frame, request, production: production.map(|known| predictions(frame, &known.model, holdout.clone())), candidates };
    let fitted: Vec<Result<Candidate, TrialError>> = ranges
        .into_par_iter()
        .map(|(name, range)| {
            let candidate = fit(name, frame, spec, (range, holdout.clone()), seed);
            candidate.map_err(|source| TrialError::Fit { name: name.to_owned(), source })
        })
        .collect();
    for candidate in fitted {
        tried.push(judge.judge(candidate?, None, holdout.clone()));
    }
    for known in archived {
        let name = format!("version {}", known.version);
        let candidate = measured(&name, known.model.as_ref().clone(), frame, holdout.clone());
        tried.push(judge.judge(candidate, Some(known.version), holdout.clone()));
    }
    let decision = decide(&tried, request.cause, production.is_some());
    let times = frame.completed_at_ms();
    let holdout_ms = (times[holdout.start], times[holdout.end - 1].saturating_add(1));
    Ok(Trial { tried, holdout, holdout_ms, decision })
}

/// Returns a model's predictions for some rows.
#[must_use]
pub fn predictions(frame: &Frame, model: &DurationModel, rows: Range<usize>) -> Vec<f64> {
    model.predict_rows(frame.inputs(rows, &model.card().learned).view())
}

struct Judge<'j> {
    frame: &'j Frame,
    request: &'j Request<'j>,
    production: Option<Vec<f64>>,
    candidates: usize,
}

impl Judge<'_> {
    fn judge(&self, candidate: Candidate, version: Option<u64>, holdout: Range<usize>) -> Tried {
        let share = candidate.metrics.mae_share;
        let meets_criterion = share < self.request.threshold;
        let comparison = self.production.as_ref().map(|production| {
            let (times, actual) = (&self.frame.completed_at_ms()[holdout.clone()], &self.frame.actual()[holdout]);
            compare(times, actual, production, &candidate.predictions, self.request.slice_ms, self.candidates)
        });
        let reason = match (&comparison, meets_criterion) {
            (_, false) => format!(
                "its error is {:.1} % of the mean; below {:.1} % is needed (train.duration_error_threshold)",
                100.0 * share,
                100.0 * self.request.threshold
            ),
            (Some(comparison), true) => comparison.reason.clone(),
            (None, true) => format!("its error is {:.1} % of the mean, and nothing is in Production", 100.0 * share),
        };
        Tried { candidate, version, meets_criterion, comparison, reason }
    }
}

fn decide(tried: &[Tried], cause: Cause, has_production: bool) -> Decision {
    let by_mae = |a: &(usize, &Tried), b: &(usize, &Tried)| a.1.candidate.metrics.mae.total_cmp(&b.1.candidate.metrics.mae);
    let winner = tried.iter().enumerate().filter(|(_, tried)| tried.may_be_promoted()).min_by(by_mae);
    if let Some((index, _)) = winner {
        return Decision::Promote(index);
    }
    let best = tried.iter().enumerate().min_by(by_mae);
    let reason = best.map_or_else(|| "there was no candidate".to_owned(), |(_, best)| format!("{}: {}", best.candidate.name, best.reason));
    match cause {
        Cause::Drift { error_is_over: false, .. } if has_production => {
            Decision::Benign(format!("the inputs have changed and the model's error has not; {reason}"))
        }
        _ => Decision::Refuse(reason),
    }
}

/// Returns the seed of a training of that id.
#[must_use]
pub fn seed(id: &str) -> u64 {
    let digest = Sha256::digest(id);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}
