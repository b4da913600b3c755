//! One verdict for one window, without anything running: counts in, a report for people and programs out.

mod count;
mod from_log;
mod page;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::alert::{Carrier, Distribution, Level, Measure, MovedFeature};
use crate::baseline::Baseline;
use crate::clock::{DAY_MS, rfc3339};
use crate::config::{Decision, Judge};
use crate::drift::look::{CLUSTERS, ERROR, MAX_COLUMNS_OVER, TARGET};
use crate::drift::mae_ratio::mae;
use crate::drift::{CauseLook, ColumnLook, ErrorLook, Look, TargetLook, look};
use crate::judge::explain::{Case, bin_names};
use crate::judge::words::no_clusters;
use crate::spec::Spec;
use crate::summary::Slice;

pub use count::{CountError, Counter};
pub use from_log::FromLog;
pub use page::page;

/// A window that cannot be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The end is inside a slice.
    #[error("the window's end {at} is not the end of a slice: take {before} or {after}")]
    NotOnBoundary {
        /// What was asked for.
        at: String,
        /// The end of a slice before it.
        before: String,
        /// The next.
        after: String,
    },
    /// The window reaches into the baseline's data.
    #[error(
        "the window begins at {from}, inside the baseline's data (until {until}): a window is judged on tickets that the baseline does not know; take --at {earliest} or later, or a shorter window"
    )]
    Overlaps {
        /// Start of the window.
        from: String,
        /// End of the baseline's data.
        until: String,
        /// First end of a window of that length that does not overlap.
        earliest: String,
    },
    /// A window has at least a day.
    #[error("a window has at least one day, in whole days")]
    NoDays,
}

/// Returns the window `[at − days, at)`, ms since 1970.
///
/// # Errors
/// [`CheckError`] when it is not made of whole slices, or begins before the baseline's data ended.
pub fn window(at_ms: i64, days: u32, slice_ms: i64, baseline: &Baseline) -> Result<(i64, i64), CheckError> {
    if days == 0 {
        return Err(CheckError::NoDays);
    }
    let inside = at_ms.rem_euclid(slice_ms);
    if inside != 0 {
        let before_ms = at_ms - inside;
        let (before, after) = (rfc3339(before_ms), rfc3339(before_ms + slice_ms));
        return Err(CheckError::NotOnBoundary { at: rfc3339(at_ms), before, after });
    }
    let length_ms = i64::from(days) * DAY_MS;
    let from_ms = at_ms - length_ms;
    if from_ms < baseline.to_ms {
        let earliest_ms = (baseline.to_ms + length_ms + slice_ms - 1).div_euclid(slice_ms) * slice_ms;
        let (from, until, earliest) = (rfc3339(from_ms), rfc3339(baseline.to_ms), rfc3339(earliest_ms));
        return Err(CheckError::Overlaps { from, until, earliest });
    }
    Ok((from_ms, at_ms))
}

/// What is to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The spec.
    pub spec: &'a Spec,
    /// The baseline.
    pub baseline: &'a Baseline,
    /// Slices counted over that baseline; those outside the window are left out.
    pub slices: &'a [Slice],
    /// End of the window, exclusive, ms since 1970.
    pub at_ms: i64,
    /// Its length.
    pub days: u32,
    /// The rules.
    pub judge: &'a Judge,
    /// Tickets that came after the verdict of that mark, where the log says so.
    pub late_since: Option<u64>,
}

/// The verdict of one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Name of the spec.
    pub spec: String,
    /// Name of the model.
    pub model: String,
    /// What the window is held against.
    pub baseline: BaselineReport,
    /// Start of the window.
    pub from: String,
    /// End of the window, exclusive.
    pub at: String,
    /// Length of the window.
    pub window_days: u32,
    /// Tickets in it.
    pub rows: u64,
    /// Of these, tickets that came after their slice's mark (known from the log only).
    pub late: u64,
    /// Tickets of the window that came after the verdict of that mark, which does not know them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_since: Option<u64>,
    /// `calibrated`, or the contract's bare `thresholds`.
    pub decision: &'static str,
    /// The verdict; `None` when there are too few tickets for one.
    pub status: Option<Level>,
    /// Whether every cause that decides is held against the baseline's own noise.
    pub calibrated: bool,
    /// One sentence for a person.
    pub summary: String,
    /// What to do, in words.
    pub recommendations: Vec<String>,
    /// Every feature, by name.
    pub features: BTreeMap<String, FeatureReport>,
    /// Tickets by cluster of the baseline, all features together; absent where the baseline has none, or under bare thresholds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<FeatureReport>,
    /// PSI against the first baseline by cause of features; absent where the window is held against the first.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub anchor_psi: BTreeMap<String, f64>,
    /// Features over the critical PSI and beyond noise.
    pub columns_over_critical: usize,
    /// The target.
    pub target: TargetReport,
    /// The model's error.
    pub error: ErrorReport,
    /// Every cause, by name.
    pub causes: BTreeMap<String, CauseReport>,
}

/// What the window is held against.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BaselineReport {
    /// Its version.
    pub version: u64,
    /// Start of its data.
    pub from: String,
    /// End of its data, exclusive.
    pub to: String,
    /// Its tickets.
    pub rows: u64,
}

/// A feature.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeatureReport {
    /// Population stability index.
    pub psi: f64,
    /// Textbook p-value.
    pub psi_p: f64,
    /// Its natural logarithm.
    pub psi_log_p: f64,
    /// Rows of the window by bin.
    pub counts: Vec<u64>,
    /// Rows of the baseline by bin.
    pub baseline_counts: Vec<u64>,
    /// What each bin holds, in words.
    pub bins: Vec<String>,
    /// The cause that it belongs to.
    pub cause: String,
}

/// The target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TargetReport {
    /// Kolmogorov–Smirnov distance over the baseline's k/1024 quantiles.
    pub ks_hist: f64,
    /// Textbook p-value.
    pub ks_hist_p: f64,
    /// Its natural logarithm.
    pub ks_hist_log_p: f64,
    /// Its distribution before and now, in about 20 groups of equal weight in the baseline.
    pub distribution: Distribution,
}

/// The model's error.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ErrorReport {
    /// Which predictions are judged.
    pub series: String,
    /// Tickets with such a prediction.
    pub rows: u64,
    /// Mean absolute error in the target's unit.
    pub mae_ms: Option<f64>,
    /// The baseline's.
    pub baseline_mae_ms: Option<f64>,
    /// One over the other.
    pub mae_ratio: Option<f64>,
    /// Textbook p-value of Welch's test on the logarithm of the error.
    pub welch_p: Option<f64>,
    /// Its natural logarithm.
    pub welch_log_p: Option<f64>,
    /// The last days' MAE, by number of days.
    pub mae_ms_by_days: BTreeMap<u32, f64>,
    /// Why the error is not judged, when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_judged: Option<crate::drift::look::NotJudged>,
}

/// A cause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CauseReport {
    /// Its level: effect and evidence.
    pub level: Level,
    /// What the effect is measured by.
    pub measure: Measure,
    /// The effect.
    pub effect: f64,
    /// Its threshold for a warning.
    pub warning: f64,
    /// Its threshold for critical.
    pub critical: f64,
    /// p-value against the baseline's own noise; `None` when that is not known.
    pub calibrated_p: Option<f64>,
    /// Its natural logarithm.
    pub calibrated_log_p: Option<f64>,
    /// Whether a window of that length decides about this cause; else it is shown, without verdict.
    pub decides: bool,
    /// Of a feature's cause the column that speaks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Categories that carry the change, the heaviest first.
    pub carriers: Vec<Carrier>,
    /// Of `clusters` the features that moved most, taken together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<MovedFeature>,
}

/// Windows of the contract whose MAE is reported.
const MAE_DAYS: [u32; 3] = [1, 3, 7];

/// Judges one window. The same counts give the same report, bit by bit.
#[must_use]
pub fn check(question: &Question) -> Report {
    let Question { spec, baseline, at_ms, days, .. } = *question;
    let judge = deciding(question.judge, days);
    let now = question.sum(days);
    let seen = look(baseline, spec, &now, days, &judge);
    let nothing = Slice::default();
    let case = Case { spec, baseline, now: &now, before_onset: &nothing, since_onset: &now };
    let causes: BTreeMap<String, CauseReport> =
        seen.causes.iter().map(|cause| (cause.name.clone(), cause_report(cause, &seen.columns, &case))).collect();
    let status = status(&seen, &judge);
    let deciding = || seen.causes.iter().filter(|cause| cause.decides);
    Report {
        spec: spec.name.clone(),
        model: baseline.model.clone(),
        baseline: BaselineReport {
            version: baseline.version,
            from: rfc3339(baseline.from_ms),
            to: rfc3339(baseline.to_ms),
            rows: baseline.rows,
        },
        from: rfc3339(at_ms - i64::from(days) * DAY_MS),
        at: rfc3339(at_ms),
        window_days: days,
        rows: seen.rows,
        late: now.late,
        late_since: question.late_since,
        decision: match judge.decision {
            Decision::Calibrated => "calibrated",
            Decision::Thresholds => "thresholds",
        },
        status,
        calibrated: judge.decision == Decision::Calibrated && deciding().all(|cause| cause.calibrated),
        summary: summary(status, &seen, &judge),
        recommendations: recommendations(status, &seen, &causes, &case, &judge),
        columns_over_critical: seen.columns_over_critical,
        clusters: clusters_report(seen.clusters, &case),
        anchor_psi: seen.anchor_psi,
        target: target_report(seen.target, &case),
        error: question.error_report(&seen.error),
        features: seen.columns.into_iter().enumerate().map(|(at, column)| feature_report(at, column, question)).collect(),
        causes,
    }
}

/// A window that is at least as long as the longest that decides about a cause decides too: it was asked for.
fn deciding(judge: &Judge, days: u32) -> Judge {
    let mut judge = judge.clone();
    for list in [&mut judge.error_days, &mut judge.target_days, &mut judge.feature_days] {
        if list.iter().all(|longest| *longest < days) {
            list.push(days);
        }
    }
    judge
}

impl Question<'_> {
    /// Sums the slices of the last `days` days.
    fn sum(&self, days: u32) -> Slice {
        let from_ms = self.at_ms - i64::from(days) * DAY_MS;
        let mut sum = Slice { start_ms: from_ms, ..Slice::default() };
        for slice in self.slices.iter().filter(|slice| (from_ms..self.at_ms).contains(&slice.start_ms)) {
            sum.add(slice);
        }
        sum
    }

    fn error_report(&self, error: &ErrorLook) -> ErrorReport {
        let of_days = |days: u32| mae(self.sum(days).series.get(&error.series)?);
        let shown = MAE_DAYS.into_iter().filter(|days| *days <= self.days);
        ErrorReport {
            series: error.series.clone(),
            rows: error.rows,
            mae_ms: error.mae_ms,
            baseline_mae_ms: self.baseline.errors.get(&error.series).map(|errors| errors.mae),
            mae_ratio: error.mae_ratio,
            welch_p: error.welch_p,
            welch_log_p: error.welch_log_p,
            mae_ms_by_days: shown.filter_map(|days| Some((days, of_days(days)?))).collect(),
            not_judged: error.not_judged,
        }
    }
}

fn feature_report(at: usize, column: ColumnLook, question: &Question) -> (String, FeatureReport) {
    let (feature, known) = (&question.spec.features[at], &question.baseline.columns[at]);
    let report = FeatureReport {
        psi: column.psi,
        psi_p: column.psi_p,
        psi_log_p: column.psi_log_p,
        counts: if column.counts.is_empty() { vec![0; known.counts.len()] } else { column.counts },
        baseline_counts: known.counts.clone(),
        bins: bin_names(feature, &known.bins),
        cause: question.spec.cause(at).to_owned(),
    };
    (column.name, report)
}

fn clusters_report(seen: Option<ColumnLook>, case: &Case) -> Option<FeatureReport> {
    let (seen, shown) = (seen?, case.distribution_of_clusters()?);
    Some(FeatureReport {
        psi: seen.psi,
        psi_p: seen.psi_p,
        psi_log_p: seen.psi_log_p,
        counts: shown.now,
        baseline_counts: shown.before,
        bins: shown.bins,
        cause: CLUSTERS.to_owned(),
    })
}

fn target_report(target: TargetLook, case: &Case) -> TargetReport {
    let distribution = case.distributions(TARGET, |_| None).pop().expect("the target has a distribution");
    TargetReport { ks_hist: target.ks_hist, ks_hist_p: target.ks_hist_p, ks_hist_log_p: target.ks_hist_log_p, distribution }
}

fn column_of(cause: &CauseLook, columns: &[ColumnLook]) -> Option<usize> {
    let name = cause.column.as_ref()?;
    columns.iter().position(|column| column.name == *name)
}

fn cause_report(cause: &CauseLook, columns: &[ColumnLook], case: &Case) -> CauseReport {
    let level = if cause.decides { cause.level() } else { Level::Ok };
    let carriers = if level == Level::Ok { vec![] } else { case.carriers(&cause.name, column_of(cause, columns)) };
    let moved = if level == Level::Ok { vec![] } else { case.moved(&cause.name) };
    CauseReport {
        moved,
        level,
        measure: measure(cause),
        effect: cause.effect,
        warning: cause.warning,
        critical: cause.critical,
        calibrated_p: cause.calibrated.then_some(cause.p),
        calibrated_log_p: cause.calibrated.then_some(cause.log_p),
        decides: cause.decides,
        column: cause.column.clone(),
        carriers,
    }
}

fn measure(cause: &CauseLook) -> Measure {
    match cause.name.as_str() {
        ERROR => Measure::MaeRatio,
        TARGET => Measure::Ks,
        _ => Measure::Psi,
    }
}

/// Returns the status of this look alone: what an episode of each cause that is over would give.
fn status(seen: &Look, judge: &Judge) -> Option<Level> {
    if !seen.judged {
        return None;
    }
    if judge.decision == Decision::Thresholds {
        return Some(seen.bare_level(judge));
    }
    let deciding = || seen.causes.iter().filter(|cause| cause.decides);
    let critical: Vec<&str> = deciding().filter(|cause| cause.over_critical).map(|cause| cause.name.as_str()).collect();
    let features_decide = deciding().any(|cause| cause.column.is_some());
    let many_columns = features_decide && seen.columns_over_critical > MAX_COLUMNS_OVER;
    if critical.len() >= 2 || critical.contains(&ERROR) || critical.contains(&TARGET) || many_columns {
        return Some(Level::Critical);
    }
    let any_over = deciding().any(|cause| cause.level() > Level::Ok);
    Some(if any_over { Level::Warning } else { Level::Ok })
}

/// Returns an effect in words.
fn effect(cause: &CauseLook) -> String {
    match measure(cause) {
        Measure::Psi => format!("PSI {:.3}", cause.effect),
        Measure::Ks => format!("KS distance {:.3}", cause.effect),
        Measure::MaeRatio => format!("MAE {:.2} times the baseline's", cause.effect),
    }
}

fn summary(status: Option<Level>, seen: &Look, judge: &Judge) -> String {
    let Some(status) = status else {
        return format!("no verdict: {} tickets in the window, at least {} are needed", seen.rows, judge.min_rows);
    };
    let over: Vec<String> = (seen.causes.iter().filter(|cause| cause.decides && cause.level() > Level::Ok))
        .map(|cause| format!("{} {} ({})", cause.name, cause.level().name(), effect(cause)))
        .collect();
    if over.is_empty() {
        return format!("{}: no cause is over a threshold beyond what quiet windows show", status.name());
    }
    format!("{}: {}", status.name(), over.join("; "))
}

fn recommendations(status: Option<Level>, seen: &Look, causes: &BTreeMap<String, CauseReport>, case: &Case, judge: &Judge) -> Vec<String> {
    if status.is_none() {
        return vec!["take a longer window, or wait for more tickets".to_owned()];
    }
    let mut advice = Vec::new();
    for cause in &seen.causes {
        let (name, report) = (&cause.name, &causes[&cause.name]);
        if report.level > Level::Ok {
            let column = column_of(cause, &seen.columns);
            let deeds = case.recommendations(name, column, &report.carriers);
            advice.extend(deeds.into_iter().map(|deed| format!("{name}: {} over {} days: {deed}", effect(cause), seen.days)));
        } else if cause.effect > cause.warning && !cause.decides {
            advice.push(format!(
                "{name}: {} over {} days: shown without verdict, because windows of that length do not decide about it",
                effect(cause),
                seen.days
            ));
        } else if cause.effect > cause.warning {
            advice.push(format!(
                "{name}: {} over {} days: over a threshold, but not beyond what quiet windows show; nothing to do",
                effect(cause),
                seen.days
            ));
        }
    }
    if let Some(reason) = seen.error.not_judged {
        use crate::drift::look::NotJudged;
        advice.push(match reason {
            NotJudged::NoBaseline => "error: not judged: the baseline has no predictions; check the spec's prediction paths".to_owned(),
            NotJudged::PerfectBaseline => "error: not judged: the baseline's MAE is 0, so there is no ratio to it".to_owned(),
            NotJudged::FewRows => format!("error: not judged: only {} tickets of the window have a prediction", seen.error.rows),
        });
    }
    if judge.decision == Decision::Calibrated {
        advice.extend(no_clusters(case.baseline));
    }
    if advice.is_empty() {
        advice.push("nothing to do".to_owned());
    }
    advice
}

#[cfg(test)]
mod tests;
