//! When a training is asked for without a drift, and when one that is asked for has to wait: the contract's rules.
//!
//! Pure: times in, decisions out. Both run on the wall clock, because both are about what trainings cost and how old a model is;
//! what a verdict rests on has no part in it. A replay has neither: its year would depend on the machine.

use crate::clock::{DAY_MS, HOUR_MS, rfc3339};
use crate::config;
use crate::trigger::{Trigger, TriggerType};

/// Priorities of the contract.
const MEDIUM: u8 = 2;
/// See [`MEDIUM`].
pub(crate) const HIGH: u8 = 3;
/// See [`MEDIUM`]. A person who asks with it is not held back.
const CRITICAL: u8 = 4;
/// Longest pause before a request that came to no training is raised again.
const AGAIN_MS: i64 = 6 * HOUR_MS;

/// How often is often enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    interval_ms: i64,
    volume_rows: u64,
    min_interval_ms: i64,
    max_per_day: usize,
}

impl Rules {
    pub(super) fn of(config: &config::Train) -> Self {
        Self {
            interval_ms: i64::from(config.interval_hours) * HOUR_MS,
            volume_rows: config.data_volume_trigger_threshold,
            min_interval_ms: i64::from(config.min_interval_hours) * HOUR_MS,
            max_per_day: usize::try_from(config.max_per_day).unwrap_or(usize::MAX).max(1),
        }
    }

    /// Returns until when a request has to wait, ms since 1970, and why; `None` when it may be trained for now.
    ///
    /// `trained_ms` are the wall times of the trainings that were answered, ascending. What is provisional is frozen at once, and a
    /// person's request of the priority critical is not held back.
    pub(super) fn held_back(&self, trigger: &Trigger, now_ms: i64, trained_ms: &[i64]) -> Option<(i64, String)> {
        if trigger.settles.is_some() || trigger.trigger_type == TriggerType::Manual && trigger.priority >= CRITICAL {
            return None;
        }
        let after_the_last = trained_ms.last().map(|last_ms| last_ms + self.min_interval_ms);
        let of_the_day = trained_ms.len().checked_sub(self.max_per_day).map(|at| trained_ms[at] + DAY_MS);
        let (until_ms, why) = match (after_the_last, of_the_day) {
            (_, Some(until_ms)) if after_the_last <= Some(until_ms) => {
                (until_ms, format!("there were {} trainings in a day (train.max_per_day)", self.max_per_day))
            }
            (Some(until_ms), _) => {
                (until_ms, format!("the last training was less than {} h ago (train.min_interval_hours)", self.min_interval_ms / HOUR_MS))
            }
            (None, _) => return None,
        };
        (until_ms > now_ms).then(|| (until_ms, format!("held back until {}: {why}", rfc3339(until_ms))))
    }

    /// Returns what is to be asked for; of several the highest priority.
    ///
    /// `rows_since` is asked for the number of tickets that completed since a time, at most as many as it is given: it may cost.
    pub(super) fn wanted(&self, facts: &Facts, mut rows_since: impl FnMut(i64, u64) -> Option<u64>) -> Option<Wanted> {
        let Facts { now_ms, event_ms, last, answered_ms, min_rows, window_ms } = *facts;
        if answered_ms.is_some_and(|answered_ms| now_ms < answered_ms + self.interval_ms.min(AGAIN_MS)) {
            return None;
        }
        let Some(last) = last else {
            let rows = rows_since(event_ms - window_ms, min_rows)?;
            let reason = "nothing has been trained yet".to_owned();
            return (rows >= min_rows).then_some(Wanted { trigger_type: TriggerType::Scheduled, priority: HIGH, reason });
        };
        if now_ms >= last.trained_ms + self.interval_ms {
            let reason = format!("the last training was more than {} h ago", self.interval_ms / HOUR_MS);
            return Some(Wanted { trigger_type: TriggerType::Scheduled, priority: MEDIUM, reason });
        }
        let rows = rows_since(last.rows_to_ms, self.volume_rows.saturating_add(1))?;
        let reason = format!("more than {} tickets have completed since the last training", self.volume_rows);
        (rows > self.volume_rows).then_some(Wanted { trigger_type: TriggerType::DataVolume, priority: MEDIUM, reason })
    }
}

/// The last training, by whomever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Last {
    /// When it was, by the wall clock, ms since 1970.
    pub(super) trained_ms: i64,
    /// End of its rows, in event time, ms since 1970.
    pub(super) rows_to_ms: i64,
}

/// What decides whether a training is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// The present, ms since 1970.
    pub(super) now_ms: i64,
    /// How far event time is, ms since 1970.
    pub(super) event_ms: i64,
    /// The last training.
    pub(super) last: Option<Last>,
    /// When a request of our own was last answered without a training, ms since 1970.
    pub(super) answered_ms: Option<i64>,
    /// Rows below which nothing is trained.
    pub(super) min_rows: u64,
    /// Length of the training window, ms.
    pub(super) window_ms: i64,
}

/// A request that is to be raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) trigger_type: TriggerType,
    pub(super) priority: u8,
    pub(super) reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    const NOW: i64 = 1_000 * DAY_MS;

    fn rules() -> Rules {
        Rules::of(&config::Train::default())
    }

    fn trigger(trigger_type: TriggerType, priority: u8) -> Trigger {
        let spec = Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap();
        Trigger::unprompted("t".to_owned(), &spec, trigger_type, priority, String::new(), 0)
    }

    fn held(trained_hours_ago: &[i64]) -> Option<i64> {
        let trained: Vec<i64> = trained_hours_ago.iter().map(|hours| NOW - hours * HOUR_MS).collect();
        rules().held_back(&trigger(TriggerType::Drift, 4), NOW, &trained).map(|(until_ms, _)| (until_ms - NOW) / HOUR_MS)
    }

    #[test]
    fn six_hours_lie_between_two_trainings_and_at_most_two_are_in_a_day() {
        assert_eq!(held(&[]), None);
        assert_eq!(held(&[6]), None);
        assert_eq!(held(&[5]), Some(1));
        assert_eq!(held(&[23, 7]), Some(1), "two in a day");
        assert_eq!(held(&[23, 1]), Some(5), "the later of the two rules");
        assert_eq!(held(&[24, 7]), None);
        assert_eq!(held(&[90, 60, 20, 8]), Some(4), "the day begins with the second newest");
        let (_, why) = rules().held_back(&trigger(TriggerType::Drift, 4), NOW, &[NOW - 7 * HOUR_MS, NOW - 6 * HOUR_MS]).unwrap();
        assert!(why.contains("2 trainings in a day") && why.contains("train.max_per_day"), "{why}");
    }

    #[test]
    fn a_freezing_and_what_a_person_calls_critical_are_not_held_back() {
        let just_now = [NOW - 1];
        let mut settles = trigger(TriggerType::Scheduled, 1);
        settles.settles = Some(3);
        assert_eq!(rules().held_back(&settles, NOW, &just_now), None);
        assert_eq!(rules().held_back(&trigger(TriggerType::Manual, 4), NOW, &just_now), None);
        assert!(rules().held_back(&trigger(TriggerType::Manual, 3), NOW, &just_now).is_some());
        assert!(rules().held_back(&trigger(TriggerType::Scheduled, 4), NOW, &just_now).is_some());
    }

    fn wanted(last: Option<Last>, answered_ms: Option<i64>, rows: u64) -> Option<(TriggerType, u8)> {
        let facts = Facts { now_ms: NOW, event_ms: NOW - HOUR_MS, last, answered_ms, min_rows: 100, window_ms: 540 * DAY_MS };
        let rows_since = |from_ms: i64, most: u64| {
            assert_eq!(from_ms, last.map_or(NOW - HOUR_MS - 540 * DAY_MS, |last| last.rows_to_ms));
            Some(rows.min(most))
        };
        rules().wanted(&facts, rows_since).map(|wanted| (wanted.trigger_type, wanted.priority))
    }

    #[test]
    fn a_model_that_was_never_trained_or_is_old_or_has_missed_many_tickets_is_trained() {
        let last = |hours: i64| Some(Last { trained_ms: NOW - hours * HOUR_MS, rows_to_ms: NOW - 30 * HOUR_MS });
        assert_eq!(wanted(None, None, 100), Some((TriggerType::Scheduled, 3)));
        assert_eq!(wanted(None, None, 99), None, "there is nothing to train on");
        assert_eq!(wanted(last(24), None, 0), Some((TriggerType::Scheduled, 2)));
        assert_eq!(wanted(last(23), None, 10_000), None);
        assert_eq!(wanted(last(23), None, 10_001), Some((TriggerType::DataVolume, 2)));
    }

    #[test]
    fn a_request_that_came_to_nothing_is_raised_again_after_hours_and_not_at_once() {
        assert_eq!(wanted(None, Some(NOW - 5 * HOUR_MS), 1_000), None);
        assert_eq!(wanted(None, Some(NOW - 6 * HOUR_MS), 1_000), Some((TriggerType::Scheduled, 3)));
    }
}
