//! What the windows of a mark say about each cause, and which of them decide.

use std::collections::BTreeMap;

use crate::alert::{Evidence, Level, Measure};
use crate::baseline::Baseline;
use crate::clock::DAY_MS;
use crate::config::{self, Decision};
use crate::drift::look::{CLUSTERS, ERROR, TARGET};
use crate::drift::{CauseLook, Look};
use crate::status::{JudgeState, WindowStatus};

use super::episode::Sight;
use super::windows::Windows;

/// Rows below which α is a tenth of itself.
const FEW_ROWS: u64 = 200;

/// The looks of one mark, and from where on they can be believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Views<'a> {
    /// One a window length, in the order configured.
    pub(crate) looks: &'a [Look],
    /// The rules.
    pub(crate) rules: &'a config::Judge,
    /// The end of the windows, ms since 1970.
    pub(crate) at_ms: i64,
    /// From here on slices are whole and belong to the baseline in force.
    pub(crate) from_ms: i64,
}

/// What is seen of one cause.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// What the deciding windows say; `None` when none of them can decide yet.
    pub(crate) sight: Option<Sight>,
    /// Every window that is meant to decide.
    pub(crate) evidence: Vec<Evidence>,
    /// The column that speaks for the cause, of the model's order.
    pub(crate) column: Option<usize>,
    /// A window that decides has no noise to be held against.
    pub(crate) uncalibrated: bool,
}

impl Views<'_> {
    /// Whether a window reaches back over its whole length.
    fn is_full(&self, look: &Look) -> bool {
        self.at_ms - i64::from(look.days) * DAY_MS >= self.from_ms
    }

    /// The window of the bare rule: the longest that has data.
    pub(crate) fn bare(&self) -> Option<&Look> {
        self.looks.iter().filter(|look| look.judged).max_by_key(|look| look.days)
    }

    fn decides(&self, look: &Look, cause: &CauseLook) -> bool {
        match self.rules.decision {
            Decision::Calibrated => cause.decides && self.is_full(look),
            Decision::Thresholds => self.bare().is_some_and(|bare| bare.days == look.days),
        }
    }

    /// Returns what is seen of each cause.
    pub(crate) fn causes(&self) -> BTreeMap<String, Seen> {
        let mut causes: BTreeMap<String, Seen> = BTreeMap::new();
        let mut longest: BTreeMap<&str, u32> = BTreeMap::new();
        for look in self.looks {
            for cause in &look.causes {
                let seen = match causes.get_mut(&cause.name) {
                    Some(seen) => seen,
                    None => causes.entry(cause.name.clone()).or_default(),
                };
                let decides = self.decides(look, cause);
                if cause.decides || decides {
                    seen.evidence.push(self.evidence(look, cause, decides && cause.judged));
                }
                let span = longest.entry(cause.name.as_str()).or_insert(0);
                if decides || seen.column.is_none() {
                    let column = cause.column.as_ref();
                    seen.column = column.and_then(|name| look.columns.iter().position(|column| column.name == *name));
                }
                if !decides || !cause.judged {
                    continue;
                }
                seen.uncalibrated |= !cause.calibrated;
                let sight = seen.sight.get_or_insert(Sight { clears_warning: true, clears_critical: true, ..Sight::default() });
                sight.over_critical |= cause.over_critical;
                sight.clears_warning &= cause.clears_warning;
                sight.clears_critical &= cause.clears_critical;
                if look.days >= *span {
                    *span = look.days;
                    sight.over_warning = cause.over_warning;
                }
            }
        }
        causes
    }

    fn evidence(&self, look: &Look, cause: &CauseLook, decides: bool) -> Evidence {
        let finite = |number: f64| number.is_finite().then_some(number);
        let (measure, p, log_p, rows) = match cause.name.as_str() {
            ERROR => (Measure::MaeRatio, look.error.welch_p, look.error.welch_log_p, look.error.rows),
            TARGET => (Measure::Ks, Some(look.target.ks_hist_p), Some(look.target.ks_hist_log_p), look.rows),
            CLUSTERS => {
                let column = look.clusters.as_ref();
                let rows = column.map_or(0, |column| column.counts.iter().sum());
                (Measure::Psi, column.map(|c| c.psi_p), column.map(|c| c.psi_log_p), rows)
            }
            _ => {
                let column = look.columns.iter().find(|column| Some(&column.name) == cause.column.as_ref());
                (Measure::Psi, column.map(|c| c.psi_p), column.map(|c| c.psi_log_p), look.rows)
            }
        };
        let bare = self.rules.decision == Decision::Thresholds;
        let longest_error = cause.name == ERROR && self.rules.error_days.iter().max() == Some(&look.days);
        let alpha = if longest_error { self.rules.alpha_error_longest } else { self.rules.alpha };
        let calibrated = cause.calibrated && !bare;
        Evidence {
            days: look.days,
            rows,
            measure,
            effect: finite(cause.effect),
            warning: cause.warning,
            critical: cause.critical,
            p: p.and_then(finite),
            log_p: log_p.and_then(finite),
            calibrated_p: calibrated.then_some(cause.p).and_then(finite),
            calibrated_log_p: calibrated.then_some(cause.log_p).and_then(finite),
            alpha: (!bare).then_some(if rows < FEW_ROWS { alpha / 10.0 } else { alpha }),
            decides,
        }
    }

    /// Returns the window that shows a cause's change most clearly: of those that decide the one with the largest effect.
    pub(crate) fn clearest(&self, cause: &str) -> Option<u32> {
        let effects = self.looks.iter().filter_map(|look| {
            let cause = look.cause(cause)?;
            (self.decides(look, cause) && cause.judged).then_some((look.days, cause.effect))
        });
        effects.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(days, _)| days)
    }

    /// Returns the largest PSI of a column in the windows of `days`.
    pub(crate) fn column_psi(&self, column: usize, days: &[u32]) -> Option<f64> {
        let looks = self.looks.iter().filter(|look| days.contains(&look.days));
        looks.filter_map(|look| look.columns.get(column)).map(|column| column.psi).max_by(f64::total_cmp)
    }

    /// Returns how far the judge is.
    pub(crate) fn state(&self, baseline: Option<&Baseline>, causes: &BTreeMap<String, Seen>) -> JudgeState {
        if baseline.is_none() {
            return JudgeState::NoBaseline;
        }
        let judged = causes.values().filter(|seen| seen.sight.is_some()).count();
        if judged == 0 {
            return JudgeState::Filling;
        }
        if judged < causes.len() {
            return JudgeState::Settling;
        }
        let uncalibrated = self.rules.decision == Decision::Calibrated && causes.values().any(|seen| seen.uncalibrated);
        if uncalibrated { JudgeState::Uncalibrated } else { JudgeState::Judging }
    }

    /// Returns what each window shows, shortest first.
    pub(crate) fn windows(&self, windows: &Windows) -> Vec<WindowStatus> {
        let mut shown: Vec<WindowStatus> = windows
            .sums()
            .map(|(days, sum)| {
                let look = self.looks.iter().find(|look| look.days == days);
                let target = look.filter(|look| look.rows > 0).map(|look| &look.target);
                WindowStatus {
                    days,
                    rows: sum.rows,
                    late: sum.late,
                    full: look.map_or(self.at_ms - i64::from(days) * DAY_MS >= self.from_ms, |look| self.is_full(look)),
                    psi: look.map(|look| look.columns.iter().map(|c| (c.name.clone(), c.psi)).collect()).unwrap_or_default(),
                    anchor_psi: look.map(|look| look.anchor_psi.clone()).unwrap_or_default(),
                    ks: target.map(|target| target.ks_hist),
                    ks_p: target.map(|target| target.ks_hist_p),
                    mae: look.and_then(|look| look.error.mae_ms),
                    mae_ratio: look.and_then(|look| look.error.mae_ratio),
                    series: look.map(|look| look.error.series.clone()),
                }
            })
            .collect();
        shown.sort_by_key(|window| window.days);
        shown
    }
}

/// Returns the level that a cause's sight alone would give.
pub(crate) fn level_of(evidence: &Evidence) -> Level {
    match evidence.effect {
        Some(effect) if effect > evidence.critical => Level::Critical,
        Some(effect) if effect > evidence.warning => Level::Warning,
        _ => Level::Ok,
    }
}
