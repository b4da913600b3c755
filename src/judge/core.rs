//! The judge's core: summaries in, verdicts out; no clock but the mark, no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::alert::{Change, Level};
use crate::baseline::Baseline;
use crate::cloudevent::CloudEvent;
use crate::config::{self, Decision};
use crate::drift::Look;
use crate::drift::look::{ERROR, MAX_COLUMNS_OVER, TARGET, look};
use crate::spec::Spec;
use crate::status::{CauseStatus, Episode, Status};
use crate::ticket::{Control, Mark};
use crate::trigger::{ClosedBecause, Trigger};

use super::episode::{Moved, Patience, Track};
use super::queue::Step;
use super::request::{self, At, Facts};
use super::sight::{Seen, Views};
use super::tell::{Teller, find_onset};
use super::windows::Windows;
use super::words;

/// What is decided at one mark.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The verdict, and all that is needed to go on from it.
    pub status: Status,
    /// Alerts, in order, with the key of their record.
    pub alerts: Vec<(String, CloudEvent)>,
    /// What is told about the request for a training, in order.
    pub triggers: Vec<Trigger>,
}

/// An episode that ended: its cause, what it was, and how.
type Ended = (String, Episode, Change);

/// The judge of one spec.
#[derive(Debug)]
pub(crate) struct Core {
    spec: Arc<Spec>,
    fingerprint: String,
    rules: Arc<config::Judge>,
    windows: Windows,
    tracks: BTreeMap<String, Track>,
    trigger: Option<Trigger>,
    silences: BTreeMap<String, i64>,
    gaps: Vec<(i64, i64)>,
    /// From here on the log is known whole.
    since_ms: Option<i64>,
    /// The version in force at the last mark.
    version: Option<u64>,
    /// The last verdict; `None` before the first.
    status: Option<Level>,
    /// The mark of the status that this judge goes on from: up to it, summaries only fill the windows.
    resumed: Option<u64>,
    /// That mark's end of slice, ms since 1970.
    resumed_at_ms: i64,
}

impl Core {
    /// Makes a judge that goes on from `status`, or begins.
    pub(crate) fn new(spec: Arc<Spec>, rules: config::Judge, window: &config::Window, status: Option<Status>) -> Self {
        let fingerprint = spec.fingerprint();
        let windows = Windows::new(&window.days, window.slice_ms);
        let mut core = Self {
            spec,
            fingerprint,
            rules: Arc::new(rules),
            windows,
            tracks: BTreeMap::new(),
            trigger: None,
            silences: BTreeMap::new(),
            gaps: vec![],
            since_ms: None,
            version: None,
            status: None,
            resumed: None,
            resumed_at_ms: i64::MIN / 2,
        };
        let Some(status) = status else { return core };
        core.resumed = Some(status.mark);
        core.resumed_at_ms = status.at_ms;
        if status.fingerprint != core.fingerprint {
            // Another spec's episodes are about columns that are no longer there; its marks still count.
            return core;
        }
        core.trigger = status.trigger;
        core.silences = status.silences;
        core.gaps = status.gaps;
        core.since_ms = Some(status.since_ms);
        core.version = status.baseline;
        core.status = status.status;
        let track = |cause: CauseStatus| Track {
            critical_looks: cause.critical_looks,
            warning_looks: cause.warning_looks,
            close_looks: cause.close_looks,
            accepted: cause.accepted,
            episode: cause.episode,
        };
        core.tracks = status.causes.into_iter().map(|(name, cause)| (name, track(cause))).collect();
        core
    }

    /// Returns how far before a mark's end the slices begin that later verdicts need, ms.
    pub(crate) fn keep_ms(&self) -> i64 {
        self.windows.keep_ms()
    }

    /// Whether the step is only to fill the windows, so that [`Core::advance`] needs no baseline for it.
    pub(crate) fn only_fills(&self, mark: Mark) -> bool {
        self.resumed.is_some_and(|resumed| mark.number <= resumed)
    }

    /// Takes the summaries of one mark. `baseline` is the version that the mark names.
    ///
    /// Returns the verdict; none while the windows are only filled.
    pub(crate) fn advance(&mut self, step: &Step, baseline: Option<&Baseline>) -> Option<Verdict> {
        let mark = step.mark;
        if step.summaries.iter().any(|summary| summary.fingerprint != self.fingerprint) {
            // A window begins at a change of the spec.
            self.windows.restart(None);
            self.since_ms = None;
            return None;
        }
        for summary in &step.summaries {
            if summary.version != self.windows.version() {
                self.windows.restart(summary.version);
            }
            for slice in &summary.slices {
                self.windows.replace(summary.partition, slice);
            }
        }
        let first_read = self.windows.end_ms().is_none();
        self.windows.advance(mark.end_ms);
        if first_read {
            self.reach_back(mark);
        }
        if self.only_fills(mark) || !step.complete {
            return None;
        }
        Some(self.judge(step, baseline))
    }

    /// The first summary that is read says from where on the windows can be whole.
    fn reach_back(&mut self, mark: Mark) {
        let begins_ms = if mark.number == 0 { mark.end_ms } else { mark.end_ms - self.windows.slice_ms() };
        let known_ms = self.since_ms.unwrap_or(begins_ms);
        let needed_ms = self.resumed_at_ms - self.windows.longest_ms();
        let is_short = self.resumed.is_some() && begins_ms > needed_ms;
        self.since_ms = Some(if is_short { known_ms.max(begins_ms) } else { known_ms });
    }

    fn judge(&mut self, step: &Step, baseline: Option<&Baseline>) -> Verdict {
        let (mark, spec, rules) = (step.mark, Arc::clone(&self.spec), Arc::clone(&self.rules));
        let at = At { spec: &spec, mark: mark.number, at_ms: mark.end_ms, baseline: mark.baseline };
        self.switch(mark.baseline);

        let look_at = |baseline| self.windows.sums().map(|(days, sum)| look(baseline, &spec, sum, days, &rules)).collect();
        let looks: Vec<Look> = baseline.map(look_at).unwrap_or_default();
        let from_ms = self.since_ms.unwrap_or(mark.end_ms).max(baseline.map_or(i64::MIN, |baseline| baseline.to_ms));
        let views = Views { looks: &looks, rules: &rules, at_ms: mark.end_ms, from_ms };
        let causes = views.causes();

        // What people and trainings decided since the last mark comes before this mark's looks.
        let (mut triggers, mut ended) = self.obey(step, at);
        ended.extend(self.move_episodes(at, baseline, &causes));

        let columns_over = self.columns_over(&views);
        if self.status.is_some() || causes.values().any(|seen| seen.sight.is_some()) {
            self.status = Some(match rules.decision {
                Decision::Calibrated => self.level(&columns_over),
                Decision::Thresholds => views.bare().map_or(Level::Ok, |look| look.bare_level(&rules)),
            });
        }
        let status = self.status.unwrap_or(Level::Ok);
        let is_over = |seen: &Seen| seen.sight.is_some_and(|sight| sight.over_critical);
        let over: Vec<String> = causes.iter().filter(|(_, seen)| is_over(seen)).map(|(name, _)| name.clone()).collect();
        let single_after_ms = rules.retrain_on_single_cause.then_some(self.windows.longest_ms());
        let facts = Facts { status, tracks: &self.tracks, over: &over, single_after_ms };
        triggers.extend(request::advance(&mut self.trigger, at, facts));
        if let Some(version) = self.settles(baseline, mark.end_ms) {
            triggers.extend(request::settle(&mut self.trigger, at, version));
        }
        let error_is_over = self.tracks.get(ERROR).is_some_and(|track| track.episode.is_some());
        let rows_since = |from_ms: i64| self.windows.rows_between(from_ms, mark.end_ms);
        triggers.extend(request::ask(&mut self.trigger, at, error_is_over, rows_since));

        // Alerts last: they carry the status.
        let state = views.state(baseline, &causes);
        let caveats = words::caveats(step, state, &self.gaps, baseline.filter(|_| rules.decision == Decision::Calibrated));
        let teller = Teller { windows: &self.windows, views: &views, baseline, at, status, caveats: &caveats };
        let mut alerts = Vec::new();
        for (name, episode, change) in &ended {
            // Who was told that it opened is told that it ended, silence or not.
            if episode.told.is_some() {
                alerts.push(teller.tell(name, episode, *change, causes.get(name)));
            }
        }
        for (name, track) in &mut self.tracks {
            let Some(episode) = &mut track.episode else { continue };
            if self.silences.contains_key(name) || episode.told >= Some(episode.level) {
                continue;
            }
            let change = if episode.told.is_none() { Change::Opened } else { Change::Escalated };
            episode.told = Some(episode.level);
            alerts.push(teller.tell(name, episode, change, causes.get(name)));
        }

        let mut status = Status {
            spec: spec.name.clone(),
            fingerprint: self.fingerprint.clone(),
            model: spec.model.clone(),
            mark: mark.number,
            at_ms: mark.end_ms,
            baseline: mark.baseline,
            state,
            status: self.status,
            summary: String::new(),
            recommendations: vec![],
            windows: views.windows(&self.windows),
            causes: self.cause_statuses(causes),
            columns_over,
            trigger: self.trigger.clone(),
            silences: self.silences.clone(),
            caveats,
            gaps: self.gaps.clone(),
            since_ms: self.since_ms.unwrap_or(mark.end_ms),
        };
        status.summary = words::summary(&status, &rules);
        status.recommendations = words::recommendations(&status);
        Verdict { status, alerts, triggers }
    }

    /// Returns the version of a provisional baseline under which a full window of rows has passed.
    fn settles(&self, baseline: Option<&Baseline>, at_ms: i64) -> Option<u64> {
        let baseline = baseline.filter(|baseline| baseline.provisional)?;
        let longest_ms = self.windows.longest_ms();
        let rows = self.windows.rows_between(baseline.to_ms.max(at_ms - longest_ms), at_ms);
        (at_ms - baseline.to_ms >= longest_ms && rows >= request::ROWS_TO_SETTLE).then_some(baseline.version)
    }

    /// Begins to count anew under another baseline; what is open has to recover under it.
    fn switch(&mut self, version: Option<u64>) {
        if version == self.version {
            return;
        }
        self.version = version;
        for track in self.tracks.values_mut() {
            track.restart_counts();
            track.accepted = false;
            if let Some(episode) = &mut track.episode {
                episode.recovering = true;
            }
        }
    }

    /// Does what the control records since the last mark say.
    fn obey(&mut self, step: &Step, at: At<'_>) -> (Vec<Trigger>, Vec<Ended>) {
        let (mut told, mut ended) = (Vec::new(), Vec::new());
        for control in controls(step) {
            match control {
                Control::Gap { from_ms, to_ms, .. } if !self.gaps.contains(&(*from_ms, *to_ms)) => self.gaps.push((*from_ms, *to_ms)),
                Control::Silence { cause, until_ms, .. } => {
                    self.silences.insert(cause.clone(), *until_ms);
                }
                Control::Accept { cause, .. } => ended.extend(self.accept(cause)),
                Control::Outcome { trigger, outcome, .. } => {
                    let (closed, accepted) = self.outcome(at, trigger, outcome);
                    told.extend(closed);
                    ended.extend(accepted);
                }
                _ => {}
            }
        }
        self.silences.retain(|_, until_ms| *until_ms > at.at_ms);
        let oldest_ms = at.at_ms - self.windows.longest_ms();
        self.gaps.retain(|(_, to_ms)| *to_ms >= oldest_ms);
        (told, ended)
    }

    /// Lets the looks open, raise and close episodes; returns those that closed.
    fn move_episodes(&mut self, at: At<'_>, baseline: Option<&Baseline>, causes: &BTreeMap<String, Seen>) -> Vec<Ended> {
        let mut ended = Vec::new();
        for (name, seen) in causes {
            let patience = patience(&self.rules, name);
            if !self.tracks.contains_key(name) {
                self.tracks.insert(name.clone(), Track::default());
            }
            let track = self.tracks.get_mut(name).expect("it was just put there");
            let Some(sight) = seen.sight else { continue };
            let moved = track.look(sight, patience);
            let silenced = u32::from(self.silences.contains_key(name));
            let onset_ms = || baseline.and_then(|baseline| find_onset(&self.windows, baseline, at.spec, name, seen));
            match moved {
                Moved::No => {}
                Moved::Opened(level) => {
                    track.episode = Some(Episode {
                        id: format!("{name}-{}", at.mark),
                        level,
                        opened_mark: at.mark,
                        opened_at_ms: at.at_ms,
                        critical_at_ms: (level == Level::Critical).then_some(at.at_ms),
                        onset_ms: onset_ms(),
                        told: None,
                        silenced_alerts: silenced,
                        answered: false,
                        recovering: false,
                    });
                }
                Moved::Escalated => {
                    let episode = track.episode.as_mut().expect("only an open episode escalates");
                    episode.level = Level::Critical;
                    episode.critical_at_ms = Some(at.at_ms);
                    episode.onset_ms = onset_ms().or(episode.onset_ms);
                    episode.silenced_alerts += silenced;
                }
                Moved::Closed => ended.extend(track.episode.take().map(|episode| (name.clone(), episode, Change::Resolved))),
            }
            let over_again = track.critical_looks >= patience.critical_looks;
            if let Some(episode) = track.episode.as_mut().filter(|episode| episode.answered) {
                // Over again under the new version: this asks for another training.
                episode.answered = !over_again;
            }
        }
        ended
    }

    fn cause_statuses(&self, seen: BTreeMap<String, Seen>) -> BTreeMap<String, CauseStatus> {
        // A cause that cannot be looked at just now keeps its state.
        let mut statuses: BTreeMap<String, CauseStatus> = BTreeMap::new();
        for (name, track) in &self.tracks {
            let status = CauseStatus {
                evidence: vec![],
                critical_looks: track.critical_looks,
                warning_looks: track.warning_looks,
                close_looks: track.close_looks,
                accepted: track.accepted,
                episode: track.episode.clone(),
            };
            statuses.insert(name.clone(), status);
        }
        for (name, seen) in seen {
            if let Some(status) = statuses.get_mut(&name) {
                status.evidence = seen.evidence;
            }
        }
        statuses
    }

    fn accept(&mut self, cause: &str) -> Option<Ended> {
        let track = self.tracks.get_mut(cause)?;
        let episode = track.episode.take()?;
        track.accepted = true;
        track.restart_counts();
        Some((cause.to_owned(), episode, Change::Accepted))
    }

    /// What became of a training: closes the request it answers, or counts an attempt.
    fn outcome(&mut self, at: At<'_>, id: &str, outcome: &str) -> (Option<Trigger>, Vec<Ended>) {
        let Some(open) = self.trigger.as_mut().filter(|open| open.id == id) else { return (None, vec![]) };
        let names: Vec<String> = open.causes.iter().map(|cause| cause.cause.clone()).collect();
        match outcome {
            "promoted" => {
                for track in self.tracks.values_mut() {
                    let Some(episode) = &mut track.episode else { continue };
                    episode.answered = true;
                    track.restart_counts();
                }
                (request::close(&mut self.trigger, at, ClosedBecause::Promoted), vec![])
            }
            "settled" => (request::close(&mut self.trigger, at, ClosedBecause::Settled), vec![]),
            "accepted" => {
                let ended = names.iter().filter_map(|name| self.accept(name)).collect();
                (request::close(&mut self.trigger, at, ClosedBecause::Accepted), ended)
            }
            "refused" | "failed" => {
                request::answered(open, at, true);
                (None, vec![])
            }
            _ => {
                request::answered(open, at, false);
                (None, vec![])
            }
        }
    }

    /// Columns over the critical PSI in a window that decides, whose cause has an episode at the critical level.
    fn columns_over(&self, views: &Views<'_>) -> Vec<String> {
        let is_critical = |column: usize| self.tracks.get(self.spec.cause(column)).is_some_and(|track| track.level() == Level::Critical);
        let over = |column: &usize| views.column_psi(*column, &self.rules.feature_days).is_some_and(|psi| psi > self.rules.psi_critical);
        let columns = (0..self.spec.features.len()).filter(|column| is_critical(*column)).filter(over);
        columns.map(|column| self.spec.features[column].name.clone()).collect()
    }

    fn level(&self, columns_over: &[String]) -> Level {
        let critical: Vec<&str> =
            self.tracks.iter().filter(|(_, track)| track.level() == Level::Critical).map(|(name, _)| name.as_str()).collect();
        if critical.len() >= 2 || critical.contains(&ERROR) || critical.contains(&TARGET) || columns_over.len() > MAX_COLUMNS_OVER {
            return Level::Critical;
        }
        let any = self.tracks.values().any(|track| track.episode.is_some());
        if any { Level::Warning } else { Level::Ok }
    }
}

/// Returns the looks in a row that a cause takes.
pub(crate) fn patience(rules: &config::Judge, cause: &str) -> Patience {
    if rules.decision == Decision::Thresholds {
        return Patience { critical_looks: 1, warning_looks: 1, close_looks: 1 };
    }
    let critical_looks = match cause {
        ERROR => rules.error_looks,
        TARGET => rules.target_looks,
        _ => rules.feature_looks,
    };
    Patience { critical_looks, warning_looks: rules.warning_looks, close_looks: rules.close_looks }
}

/// The control records of a step, each once, though every partition brings its copy.
fn controls(step: &Step) -> Vec<&Control> {
    let mut seen = std::collections::BTreeSet::new();
    let all = step.summaries.iter().flat_map(|summary| &summary.controls);
    all.filter(|control| control_id(control).is_none_or(|id| seen.insert(id.to_owned()))).collect()
}

fn control_id(control: &Control) -> Option<&str> {
    match control {
        Control::Mark(_) => None,
        Control::Gap { id, .. }
        | Control::Baseline { id, .. }
        | Control::Outcome { id, .. }
        | Control::Silence { id, .. }
        | Control::Accept { id, .. }
        | Control::ChainStart { id, .. } => Some(id),
    }
}
