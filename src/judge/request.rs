//! The one open request for a training: raised, joined, superseded, closed.

use std::collections::BTreeMap;

use crate::alert::Level;
use crate::drift::look::{ERROR, TARGET};
use crate::spec::Spec;
use crate::status::Episode;
use crate::trigger::{ClosedBecause, Trigger, TriggerCause, TriggerChange, TriggerType};

use super::episode::Track;

/// Priority of a request that only tidies up.
const LOW: u8 = 1;
/// Priority of a request for a single cause.
const MEDIUM: u8 = 2;
/// Priority when only the error is critical.
const HIGH: u8 = 3;
/// Priority when the status is critical.
const CRITICAL: u8 = 4;

/// Where a request is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    /// The spec.
    pub(crate) spec: &'a Spec,
    /// The mark.
    pub(crate) mark: u64,
    /// Its end of slice, ms since 1970.
    pub(crate) at_ms: i64,
    /// The baseline in force.
    pub(crate) baseline: Option<u64>,
}

/// What decides about requests at a mark, after the looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// The status.
    pub(crate) status: Level,
    /// Every cause.
    pub(crate) tracks: &'a BTreeMap<String, Track>,
    /// Causes over at the critical level at this very look.
    pub(crate) over: &'a [String],
    /// How long a single cause has to stay critical before it asks, ms; `None` when it never may.
    pub(crate) single_after_ms: Option<i64>,
}

/// Moves the request on by one mark; returns what has to be told, in order.
pub(crate) fn advance(open: &mut Option<Trigger>, at: At<'_>, facts: Facts<'_>) -> Vec<Trigger> {
    let mut told = Vec::new();
    if let Some(trigger) = open.as_ref().filter(|trigger| trigger.settles.is_none()) {
        let lives = |cause: &TriggerCause| episode(facts.tracks, &cause.cause).is_some_and(|episode| episode.id == cause.episode);
        if !trigger.causes.iter().any(lives) {
            told.extend(close(open, at, ClosedBecause::Resolved));
        }
    }
    let critical: Vec<(&String, &Episode)> = critical(facts.tracks).collect();
    if let Some(trigger) = open.as_mut().filter(|trigger| !is_minor(trigger)) {
        let joins = |(cause, episode): &(&String, &Episode)| {
            let known = trigger.causes.iter().any(|known| known.cause == **cause && known.episode == episode.id);
            (!known).then(|| trigger_cause(cause, episode))
        };
        let joining: Vec<TriggerCause> = critical.iter().filter_map(joins).collect();
        if !joining.is_empty() {
            let names: Vec<&str> = joining.iter().map(|cause| cause.cause.as_str()).collect();
            trigger.reason = format!("{}; joined by {}", trigger.reason, names.join(", "));
            trigger.causes.extend(joining);
            told.push(say(trigger, at, TriggerChange::Joined));
        }
    }
    let unanswered = critical.iter().any(|(_, episode)| !episode.answered);
    if facts.status == Level::Critical && unanswered && open.as_ref().is_none_or(is_minor) {
        told.extend(close(open, at, ClosedBecause::Superseded));
        let only_error = critical.iter().all(|(cause, _)| cause.as_str() == ERROR);
        let (trigger_type, priority) = if only_error { (TriggerType::Performance, HIGH) } else { (TriggerType::Drift, CRITICAL) };
        told.push(raise(open, at, trigger_type, priority, &critical));
    }
    if let (None, Some(after_ms)) = (&open, facts.single_after_ms) {
        let stays = |(cause, episode): &&(&String, &Episode)| {
            let long = episode.critical_at_ms.is_some_and(|since_ms| at.at_ms - since_ms >= after_ms);
            long && !episode.answered && cause.as_str() != ERROR && cause.as_str() != TARGET && facts.over.contains(*cause)
        };
        let staying: Vec<(&String, &Episode)> = critical.iter().filter(stays).copied().collect();
        if facts.status == Level::Warning && !staying.is_empty() {
            told.push(raise(open, at, TriggerType::Drift, MEDIUM, &staying));
        }
    }
    told
}

/// Rows since the onset without which no training is asked for (judgement: to train on less finds the old world again).
const ROWS_SINCE_ONSET: u64 = 250;
/// Hours after an attempt without a promotion until the next is due, the last for all further ones.
const NEXT_ATTEMPT_HOURS: [i64; 4] = [6, 12, 24, 48];
/// Out-of-sample rows that a provisional baseline needs before it is frozen.
pub(crate) const ROWS_TO_SETTLE: u64 = 500;

/// Asks for a training when one is due: rows enough since the onset, and not before the time that the last attempt left.
pub(crate) fn ask(open: &mut Option<Trigger>, at: At<'_>, error_is_over: bool, rows_since: impl Fn(i64) -> u64) -> Option<Trigger> {
    let trigger = open.as_mut().filter(|trigger| trigger.asked.is_none())?;
    if trigger.next_due_ms.is_some_and(|due_ms| at.at_ms < due_ms) {
        return None;
    }
    if trigger.settles.is_none() && trigger.onset_ms().is_some_and(|onset_ms| rows_since(onset_ms) < ROWS_SINCE_ONSET) {
        return None;
    }
    trigger.asked = Some(at.mark);
    trigger.error_is_over = error_is_over;
    Some(say(trigger, at, TriggerChange::Due))
}

/// A training was answered without a promotion: the next one is due later.
pub(crate) fn answered(trigger: &mut Trigger, at: At<'_>, counts: bool) {
    trigger.asked = None;
    let nth = usize::try_from(trigger.attempts).unwrap_or(usize::MAX).min(NEXT_ATTEMPT_HOURS.len() - 1);
    trigger.next_due_ms = Some(at.at_ms + NEXT_ATTEMPT_HOURS[nth] * crate::clock::HOUR_MS);
    trigger.attempts += u32::from(counts);
}

/// Asks for the freezing of a provisional baseline, when nothing else is open.
pub(crate) fn settle(open: &mut Option<Trigger>, at: At<'_>, version: u64) -> Option<Trigger> {
    if open.is_some() {
        return None;
    }
    let mut trigger = raise(open, at, TriggerType::Scheduled, LOW, &[]);
    let id = format!("{}-settle-{version}", at.spec.name);
    let reason = format!("a full window has passed under the provisional baseline {version}: it is to be frozen");
    (trigger.id, trigger.reason, trigger.settles) = (id, reason, Some(version));
    *open = Some(trigger.clone());
    Some(trigger)
}

/// Closes the open request, if there is one.
pub(crate) fn close(open: &mut Option<Trigger>, at: At<'_>, because: ClosedBecause) -> Option<Trigger> {
    let mut trigger = open.take()?;
    trigger.closed_because = Some(because);
    Some(say(&mut trigger, at, TriggerChange::Closed))
}

fn say(trigger: &mut Trigger, at: At<'_>, change: TriggerChange) -> Trigger {
    trigger.change = change;
    trigger.mark = Some(at.mark);
    trigger.at_ms = at.at_ms;
    trigger.baseline = at.baseline;
    trigger.clone()
}

fn raise(open: &mut Option<Trigger>, at: At<'_>, trigger_type: TriggerType, priority: u8, causes: &[(&String, &Episode)]) -> Trigger {
    let names: Vec<&str> = causes.iter().map(|(cause, _)| cause.as_str()).collect();
    let reason = match (priority, causes.len()) {
        (_, 0) => String::new(),
        (MEDIUM, _) => format!("{} stayed over the critical threshold for one full window", names.join(", ")),
        (_, 1) => format!("{} is at its critical level", names[0]),
        _ => format!("{} are at their critical levels", names.join(", ")),
    };
    let trigger = Trigger {
        id: format!("{}-{}-{}", at.spec.name, trigger_type.name(), at.mark),
        spec: at.spec.name.clone(),
        model: at.spec.model.clone(),
        change: TriggerChange::Raised,
        trigger_type,
        priority,
        reason,
        causes: causes.iter().map(|(cause, episode)| trigger_cause(cause, episode)).collect(),
        raised_mark: Some(at.mark),
        raised_at_ms: at.at_ms,
        mark: Some(at.mark),
        at_ms: at.at_ms,
        baseline: at.baseline,
        attempts: 0,
        closed_because: None,
        asked: None,
        next_due_ms: None,
        error_is_over: false,
        settles: None,
    };
    open.insert(trigger).clone()
}

fn trigger_cause(cause: &str, episode: &Episode) -> TriggerCause {
    TriggerCause { cause: cause.to_owned(), episode: episode.id.clone(), level: episode.level, onset_ms: episode.onset_ms }
}

fn episode<'a>(tracks: &'a BTreeMap<String, Track>, cause: &str) -> Option<&'a Episode> {
    tracks.get(cause)?.episode.as_ref()
}

fn critical(tracks: &BTreeMap<String, Track>) -> impl Iterator<Item = (&String, &Episode)> {
    let with_episode = tracks.iter().filter_map(|(cause, track)| Some((cause, track.episode.as_ref()?)));
    with_episode.filter(|(_, episode)| episode.level == Level::Critical)
}

/// Whether it gives way to a critical status.
fn is_minor(trigger: &Trigger) -> bool {
    trigger.priority <= MEDIUM
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::DAY_MS;

    fn spec() -> Spec {
        Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()
    }

    fn critical_since(cause: &str, at_ms: i64) -> (String, Track) {
        let episode = Episode {
            id: format!("{cause}-1"),
            level: Level::Critical,
            opened_mark: 1,
            opened_at_ms: at_ms,
            critical_at_ms: Some(at_ms),
            onset_ms: None,
            told: Some(Level::Critical),
            silenced_alerts: 0,
            answered: false,
            recovering: false,
        };
        (cause.to_owned(), Track { episode: Some(episode), ..Track::default() })
    }

    fn tracks(causes: &[&str]) -> BTreeMap<String, Track> {
        causes.iter().map(|cause| critical_since(cause, 0)).collect()
    }

    fn step(open: &mut Option<Trigger>, mark: u64, status: Level, causes: &[&str]) -> Vec<(TriggerChange, TriggerType, u8, usize)> {
        let (spec, tracks) = (spec(), tracks(causes));
        let over: Vec<String> = causes.iter().map(|cause| (*cause).to_owned()).collect();
        let at = At { spec: &spec, mark, at_ms: i64::try_from(mark).unwrap() * DAY_MS, baseline: Some(1) };
        let facts = Facts { status, tracks: &tracks, over: &over, single_after_ms: Some(7 * DAY_MS) };
        let told = advance(open, at, facts);
        told.iter().map(|t| (t.change, t.trigger_type, t.priority, t.causes.len())).collect()
    }

    use TriggerChange::{Closed, Joined, Raised};
    use TriggerType::{Drift, Performance, Scheduled};

    #[test]
    fn only_the_error_asks_for_performance_and_later_causes_join() {
        let mut open = None;
        assert_eq!(step(&mut open, 1, Level::Critical, &["error"]), [(Raised, Performance, 3, 1)]);
        let id = open.clone().unwrap().id;
        assert_eq!(step(&mut open, 2, Level::Critical, &["error"]), []);
        assert_eq!(step(&mut open, 3, Level::Critical, &["error", "target"]), [(Joined, Performance, 3, 2)]);
        assert_eq!(open.clone().unwrap().id, id);
        assert_eq!(step(&mut open, 4, Level::Critical, &["target"]), []);
        assert_eq!(step(&mut open, 5, Level::Ok, &[]), [(Closed, Performance, 3, 2)]);
        assert_eq!(open, None);
    }

    #[test]
    fn a_critical_status_of_any_other_kind_asks_for_drift() {
        let mut open = None;
        assert_eq!(step(&mut open, 1, Level::Critical, &["hour_of_day", "target"]), [(Raised, Drift, 4, 2)]);
    }

    #[test]
    fn a_single_cause_asks_after_one_full_window_and_gives_way_to_a_critical_status() {
        let mut open = None;
        for mark in 1..7 {
            assert_eq!(step(&mut open, mark, Level::Warning, &["hour_of_day"]), []);
        }
        assert_eq!(step(&mut open, 7, Level::Warning, &["hour_of_day"]), [(Raised, Drift, 2, 1)]);
        assert_eq!(step(&mut open, 8, Level::Warning, &["hour_of_day"]), []);
        let graver = step(&mut open, 9, Level::Critical, &["error", "hour_of_day"]);
        assert_eq!(graver, [(Closed, Drift, 2, 1), (Raised, Drift, 4, 2)]);
        assert_eq!(open.unwrap().closed_because, None);
    }

    #[test]
    fn a_training_is_asked_for_once_enough_has_completed_since_the_onset_and_again_after_longer_and_longer_times() {
        use crate::clock::HOUR_MS;
        let (spec, mut open) = (spec(), None);
        step(&mut open, 1, Level::Critical, &["error"]);
        open.as_mut().unwrap().causes[0].onset_ms = Some(5);
        let at = |hours: i64| At { spec: &spec, mark: u64::try_from(hours).unwrap(), at_ms: hours * HOUR_MS, baseline: Some(1) };
        assert_eq!(ask(&mut open, at(24), true, |_| 249), None, "a training waits for rows");
        let due = ask(&mut open, at(25), true, |from_ms| if from_ms == 5 { 250 } else { 0 }).unwrap();
        assert_eq!((due.change, due.asked, due.error_is_over), (TriggerChange::Due, Some(25), true));
        assert_eq!(ask(&mut open, at(26), true, |_| 999), None, "one is asked for at a time");
        let mut asked = Vec::new();
        answered(open.as_mut().unwrap(), at(30), true);
        for hour in 31..400 {
            if ask(&mut open, at(hour), true, |_| 999).is_some() {
                asked.push(hour);
                answered(open.as_mut().unwrap(), at(hour), true);
            }
        }
        assert_eq!(asked[..5], [36, 48, 72, 120, 168]);
    }

    #[test]
    fn a_provisional_baseline_is_settled_when_nothing_else_is_open() {
        let (spec, mut open) = (spec(), None);
        let at = At { spec: &spec, mark: 9, at_ms: 9, baseline: Some(4) };
        let raised = settle(&mut open, at, 4).unwrap();
        assert_eq!((raised.trigger_type, raised.priority, raised.settles), (TriggerType::Scheduled, 1, Some(4)));
        assert_eq!(settle(&mut open, at, 4), None);
        assert_eq!(ask(&mut open, at, false, |_| 0).unwrap().settles, Some(4), "it waits for no rows since an onset");
        let graver = step(&mut open, 10, Level::Critical, &["error"]);
        assert_eq!(graver, [(Closed, Scheduled, 1, 0), (Raised, Performance, 3, 1)]);
    }

    #[test]
    fn what_a_training_answered_asks_for_no_other() {
        let (spec, mut tracks) = (spec(), tracks(&["error"]));
        tracks.get_mut("error").unwrap().episode.as_mut().unwrap().answered = true;
        let at = At { spec: &spec, mark: 9, at_ms: 0, baseline: Some(2) };
        let facts = Facts { status: Level::Critical, tracks: &tracks, over: &[], single_after_ms: None };
        assert_eq!(advance(&mut None, at, facts), []);
    }
}
