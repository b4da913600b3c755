//! What the train stage looks for while nothing is asked of it: requests of people, a training whose time has come, and whether
//! somebody moved Production. Looking may take seconds where a server is away, so a thread looks, and the owner decides.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::answer::Trainer;
use super::documents::RequestDocument;
use super::schedule::{Facts, Last, Rules, Wanted};
use crate::baseline::Baseline;
use crate::clock::{DAY_MS, now_ms, parse_rfc3339};
use crate::registry::RegistryError;

/// Tag of a version: end of the rows that were held out.
const HOLDOUT_TO: &str = "tidemark.holdout_to";

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct LookFor {
    /// The last training that is in the log.
    pub(super) last: Option<Last>,
    /// When a request of our own was last answered without a training, ms since 1970.
    pub(super) answered_ms: Option<i64>,
    /// Whether a training may be asked for, if its time has come: nothing is open.
    pub(super) schedule: Schedule,
}

/// Whether a training may be asked for, and whether tickets may be counted for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// Something is open already.
    Rests,
    /// By the clock alone: tickets were counted a moment ago.
    ByClock,
    /// By the clock and by the number of new tickets.
    ByRows,
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Seen {
    /// End of the rows to train on, in event time, ms since 1970: of the last verdict, else the present.
    pub(super) at_ms: i64,
    /// Whether the judge has a request open.
    pub(super) judge_asks: bool,
    /// Requests of people.
    pub(super) requests: Vec<RequestDocument>,
    /// The training whose time has come.
    pub(super) wanted: Option<Wanted>,
    /// Somebody moved Production.
    pub(super) moved: Option<MovedTo>,
}

/// Where Production is, when no training put it there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MovedTo {
    /// The version.
    pub(super) version: u64,
    /// The version that the newest baseline names.
    pub(super) before: u64,
    /// The baseline of that version, where there is one.
    pub(super) own: Option<Baseline>,
    /// Number of the newest baseline.
    pub(super) newest: u64,
}

impl Trainer {
    /// Looks. What cannot be seen just now is not there: it is looked again soon.
    pub(super) fn look(&self, wanted: &LookFor) -> Seen {
        let (context, now_ms) = (&self.context, now_ms());
        let verdict = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).last(context);
        let verdict = verdict.unwrap_or_else(|error| {
            tracing::debug!(%error, "reading the last verdict");
            None
        });
        let judge_asks = verdict.as_ref().is_some_and(super::verdicts::Verdict::asks);
        let schedule = if judge_asks { Schedule::Rests } else { wanted.schedule };
        let at_ms = verdict.map_or(now_ms, |verdict| verdict.at_ms);
        Seen {
            at_ms,
            judge_asks,
            requests: self.documents.requests(context, now_ms),
            wanted: self.wanted(LookFor { schedule, ..*wanted }, now_ms, at_ms),
            moved: self.moved(),
        }
    }

    fn wanted(&self, asked: LookFor, now_ms: i64, event_ms: i64) -> Option<Wanted> {
        if asked.schedule == Schedule::Rests {
            return None;
        }
        let config = &self.context.config.train;
        let rules = Rules::of(config);
        let window_ms = i64::from(config.window_days) * DAY_MS;
        let (last, answered_ms, min_rows) = (asked.last, asked.answered_ms, config.min_samples);
        let mut facts = Facts { now_ms, event_ms, last, answered_ms, min_rows, window_ms };
        let mut rows_since = |from_ms: i64, most: u64| {
            (asked.schedule == Schedule::ByRows)
                .then(|| self.documents.completed(&self.context, (from_ms, now_ms + DAY_MS), most))
                .flatten()
        };
        rules.wanted(&facts, &mut rows_since)?;
        // The log does not know of trainings by command; the registry does.
        match self.last_registered() {
            Ok(registered) => facts.last = facts.last.into_iter().chain(registered).max_by_key(|last| last.trained_ms),
            Err(error) => {
                tracing::debug!(%error, "asking the registry for the last training");
                return None;
            }
        }
        rules.wanted(&facts, &mut rows_since)
    }

    fn last_registered(&self) -> Result<Option<Last>, RegistryError> {
        let versions = self.registry.versions(&self.context.spec.model)?;
        Ok(versions.iter().max_by_key(|version| version.created_ms).map(|newest| Last {
            trained_ms: newest.created_ms,
            rows_to_ms: newest.tags.get(HOLDOUT_TO).and_then(|text| parse_rfc3339(text)).unwrap_or(newest.created_ms),
        }))
    }

    fn moved(&self) -> Option<MovedTo> {
        let production = match self.registry.production(&self.context.spec.model) {
            Ok(production) => {
                if self.is_registry_away.swap(false, Ordering::Relaxed) {
                    tracing::info!("the registry answers again");
                }
                production?
            }
            Err(error) => {
                if !self.is_registry_away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the registry does not answer: until it does nothing is promoted, and no move by others is seen");
                }
                return None;
            }
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = known.newest(&self.context).ok()?.values().next_back()?;
        let (newest, before) = (newest.version, newest.scored_by.as_ref()?.version);
        if before == production {
            return None;
        }
        let (own, _) = known.of_version(&self.context, production).ok()?;
        Some(MovedTo { version: production, before, own, newest })
    }
}
