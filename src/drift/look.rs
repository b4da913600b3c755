//! One look: what one window says at one mark, cause by cause.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::alert::Level;
use crate::baseline::{Baseline, Noise, RECORDED};
use crate::config::{Decision, Judge};
use crate::spec::Spec;
use crate::summary::Slice;

use super::ks::{Ks, ks};
use super::mae_ratio::{mae, mae_ratio, welch_ln_p};
use super::psi::{Psi, psi};
use super::significance::{MIN_WINDOWS, error_ln_p, feature_ln_p, target_ln_p};

/// The cause that is the target's own distribution.
pub const TARGET: &str = "target";
/// The cause that is how features go together: the window's occupancy of the baseline's clusters.
pub const CLUSTERS: &str = "clusters";
/// The cause that is the model's error.
pub const ERROR: &str = "error";

/// Rows below which χ² tails are too small by a factor of 3 to 6, so that α is divided by ten.
const FEW_ROWS: u64 = 200;
/// An episode closes only below this share of its threshold.
const CLEARS: f64 = 0.8;
/// The contract's rule: critical when more columns than this are over the critical PSI.
pub const MAX_COLUMNS_OVER: usize = 3;

/// What one window says at one mark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Length of the window in days.
    pub days: u32,
    /// Tickets in it.
    pub rows: u64,
    /// Whether there are rows enough for a verdict at all.
    pub judged: bool,
    /// Every feature, in the model's order.
    pub columns: Vec<ColumnLook>,
    /// The window's tickets by cluster, like a column that is none; `None` where the baseline has no clusters, under bare thresholds,
    /// which do not know them, and from a watcher that did not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<ColumnLook>,
    /// PSI against the first baseline by cause of features, where the baseline is not the first: reported, and judged by nobody.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub anchor_psi: BTreeMap<String, f64>,
    /// Features over the critical PSI and significant (under bare thresholds: over it), by column, not by cause.
    pub columns_over_critical: usize,
    /// The target's distribution.
    pub target: TargetLook,
    /// The model's error.
    pub error: ErrorLook,
    /// Every cause: features' by name, then `clusters`, `target` and `error`.
    pub causes: Vec<CauseLook>,
}

/// A feature in a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnLook {
    /// Name of the feature.
    pub name: String,
    /// Population stability index.
    pub psi: f64,
    /// Textbook p-value.
    pub psi_p: f64,
    /// Its natural logarithm.
    pub psi_log_p: f64,
    /// Bins that are not empty in both.
    pub bins: u32,
    /// Rows by bin; the last three are missing, non-finite, unseen.
    pub counts: Vec<u64>,
}

/// The target in a window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetLook {
    /// Kolmogorov–Smirnov distance over the baseline's k/1024 quantiles.
    pub ks_hist: f64,
    /// Textbook p-value.
    pub ks_hist_p: f64,
    /// Its natural logarithm.
    pub ks_hist_log_p: f64,
}

/// The model's error in a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorLook {
    /// Which predictions are judged.
    pub series: String,
    /// Tickets with such a prediction.
    pub rows: u64,
    /// Mean absolute error in the target's unit.
    pub mae_ms: Option<f64>,
    /// The same over the baseline's.
    pub mae_ratio: Option<f64>,
    /// Textbook p-value of Welch's test on the logarithm of the error.
    pub welch_p: Option<f64>,
    /// Its natural logarithm.
    pub welch_log_p: Option<f64>,
    /// Why `error` is not judged, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_judged: Option<NotJudged>,
}

/// Why the error has no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotJudged {
    /// The baseline has no errors of that series.
    NoBaseline,
    /// The baseline's MAE is 0: there is no ratio.
    PerfectBaseline,
    /// Too few tickets of the window have a prediction.
    FewRows,
}

/// A cause in a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CauseLook {
    /// The cause: a group of features, `clusters`, `target` or `error`.
    pub name: String,
    /// The feature whose figures these are: of the cause's columns the one with the most bins. `None` for clusters, target and error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Effect: PSI, KS distance, or MAE ratio (under bare thresholds the target's is still the distance).
    pub effect: f64,
    /// Threshold of the effect for a warning.
    pub warning: f64,
    /// Threshold of the effect for critical.
    pub critical: f64,
    /// p-value, calibrated where `calibrated` says so, else the textbook's.
    pub p: f64,
    /// Its natural logarithm.
    pub log_p: f64,
    /// Whether the baseline's own noise is in p. Without it a cause is over at most at the warning level.
    pub calibrated: bool,
    /// Whether this window decides about this cause; else it is shown only.
    pub decides: bool,
    /// Whether there are rows enough, so that it can be over at all.
    pub judged: bool,
    /// Over at the warning level.
    pub over_warning: bool,
    /// Over at the critical level.
    pub over_critical: bool,
    /// At or below 0.8 of the warning threshold.
    pub clears_warning: bool,
    /// At or below 0.8 of the critical threshold.
    pub clears_critical: bool,
}

impl ColumnLook {
    fn new(name: &str, distance: &Psi, counts: Vec<u64>) -> Self {
        let log_p = distance.ln_p();
        Self { name: name.to_owned(), psi: distance.psi, psi_p: libm::exp(log_p), psi_log_p: log_p, bins: distance.bins, counts }
    }
}

impl CauseLook {
    /// Returns the highest level at which it is over.
    #[must_use]
    pub fn level(&self) -> Level {
        match (self.over_critical, self.over_warning) {
            (true, _) => Level::Critical,
            (false, true) => Level::Warning,
            (false, false) => Level::Ok,
        }
    }
}

/// Returns the series whose errors are judged: that of the version in Production where the baseline has one, else the
/// tickets' own.
#[must_use]
pub fn judged_series(baseline: &Baseline) -> &str {
    baseline.errors.keys().map(String::as_str).find(|series| *series != RECORDED).unwrap_or(RECORDED)
}

/// Looks at one window.
///
/// `window` is the sum of its slices, counted over the bins of `baseline`; `days` is its length.
///
/// - Cost: independent of the window's rows; about 30 µs for 15 features and a target of 1,024 bins.
/// - Law: a function of the counts alone, whatever slices and partitions they were added from.
#[must_use]
pub fn look(baseline: &Baseline, spec: &Spec, window: &Slice, days: u32, judge: &Judge) -> Look {
    let looker = Looker { baseline, judge, days, noise: noise_of(baseline, days) };
    let judged = window.rows >= judge.min_rows;
    let distances = looker.distances(window);
    let columns: Vec<ColumnLook> = baseline
        .columns
        .iter()
        .enumerate()
        .map(|(i, column)| ColumnLook::new(&column.name, &distances[i], window.columns.get(i).cloned().unwrap_or_default()))
        .collect();

    let mut causes = Vec::with_capacity(distances.len() + 3);
    let mut columns_over_critical = 0;
    for (name, members) in spec.causes() {
        let leading = leading_column(&members, &distances);
        causes.push(CauseLook {
            column: Some(columns[leading].name.clone()),
            ..looker.feature_cause(name, &distances[leading], window.rows)
        });
        columns_over_critical += members.iter().filter(|i| looker.feature_cause(name, &distances[**i], window.rows).over_critical).count();
    }
    let clusters = looker.clusters(window);
    if let Some((distance, counts)) = &clusters {
        causes.push(looker.clusters_cause(distance, counts.iter().sum()));
    }
    let clusters = clusters.map(|(distance, counts)| ColumnLook::new(CLUSTERS, &distance, counts));
    let distance = ks_of(baseline, window);
    let ks_log_p = distance.ln_p();
    let target = TargetLook { ks_hist: distance.distance, ks_hist_p: libm::exp(ks_log_p), ks_hist_log_p: ks_log_p };
    causes.push(looker.target_cause(&distance, window.rows));
    let error = looker.error(window);
    if baseline.provisional {
        // Its bins are the predecessor's: until a full window has passed, only the new model's error says anything.
        for cause in &mut causes {
            (cause.judged, cause.over_warning, cause.over_critical) = (false, false, false);
        }
        columns_over_critical = 0;
    }
    causes.extend(looker.error_cause(&error));
    let anchor_psi = looker.anchor_psi(window);
    Look { days, rows: window.rows, judged, columns, clusters, anchor_psi, columns_over_critical, target, error, causes }
}

impl Look {
    /// Returns the status by the contract's bare rule: effects of ratio and PSI, the textbook p-value of the target.
    #[must_use]
    pub fn bare_level(&self, judge: &Judge) -> Level {
        if !self.judged {
            return Level::Ok;
        }
        let ratio = self.error.mae_ratio.filter(|_| self.error.not_judged.is_none()).unwrap_or(0.0);
        let p = self.target.ks_hist_p;
        let columns_over = |threshold: f64| self.columns.iter().filter(|column| column.psi > threshold).count();
        if ratio > judge.mae_ratio_critical || columns_over(judge.psi_critical) > MAX_COLUMNS_OVER || p < judge.ks_p_critical {
            return Level::Critical;
        }
        if ratio > judge.mae_ratio_warning || columns_over(judge.psi_warning) > 0 || p < judge.ks_p_warning {
            return Level::Warning;
        }
        Level::Ok
    }

    /// Returns the largest PSI of any feature, with its name.
    #[must_use]
    pub fn max_psi(&self) -> Option<(&str, f64)> {
        self.columns.iter().map(|c| (c.name.as_str(), c.psi)).max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Returns a cause by name.
    #[must_use]
    pub fn cause(&self, name: &str) -> Option<&CauseLook> {
        self.causes.iter().find(|cause| cause.name == name)
    }
}

/// Returns the noise of that length, where it can calibrate.
fn noise_of(baseline: &Baseline, days: u32) -> Option<&Noise> {
    baseline.noise.iter().find(|noise| noise.days == days && noise.windows >= MIN_WINDOWS)
}

/// Returns the column that speaks for a cause: the one with the most bins, of equals the first in the model's order.
pub(super) fn leading_column(members: &[usize], distances: &[Psi]) -> usize {
    let mut leading = members[0];
    for &member in &members[1..] {
        if distances[member].bins > distances[leading].bins {
            leading = member;
        }
    }
    leading
}

fn ks_of(baseline: &Baseline, window: &Slice) -> Ks {
    if window.rows == 0 || window.target.len() != baseline.target.counts.len() {
        return Ks::NONE;
    }
    ks(&baseline.target.counts, &window.target).unwrap_or(Ks::NONE)
}

/// What is the same for every cause of one look.
struct Looker<'a> {
    baseline: &'a Baseline,
    judge: &'a Judge,
    days: u32,
    noise: Option<&'a Noise>,
}

/// Effect and evidence of one cause, before thresholds.
struct Evidence {
    effect: f64,
    log_p: f64,
    calibrated: bool,
    rows: u64,
}

/// Where a cause's lines are.
struct Lines {
    warning: f64,
    critical: f64,
    /// What no drift looks like: 0 for distances, 1 for the ratio.
    rest: f64,
    alpha_warning: f64,
    alpha_critical: f64,
    decides: bool,
}

impl Looker<'_> {
    fn distances(&self, window: &Slice) -> Vec<Psi> {
        let columns = self.baseline.columns.iter().enumerate();
        columns
            .map(|(i, column)| {
                if window.rows == 0 {
                    return Psi::NONE;
                }
                // Counts of other bins, which only a stranger writes, say nothing; and they end nothing.
                let counts = window.columns.get(i).filter(|counts| counts.len() == column.counts.len());
                counts.and_then(|counts| psi(&column.counts, counts)).unwrap_or(Psi::NONE)
            })
            .collect()
    }

    fn calibrates(&self) -> bool {
        self.judge.decision == Decision::Calibrated
    }

    /// The distance over the clusters, and the window's rows by cluster.
    fn clusters(&self, window: &Slice) -> Option<(Psi, Vec<u64>)> {
        let at = self.baseline.clusters_at().filter(|_| self.calibrates())?;
        let known = self.baseline.clusters.as_ref()?;
        if window.rows == 0 {
            return Some((Psi::NONE, Vec::new()));
        }
        let counts = window.columns.get(at).filter(|counts| counts.len() == known.counts.len())?;
        Some((psi(&known.counts, counts).unwrap_or(Psi::NONE), counts.clone()))
    }

    /// A watcher that does not know of anchors has not counted them: then there is nothing to report.
    fn anchor_psi(&self, window: &Slice) -> BTreeMap<String, f64> {
        let anchored = self.baseline.anchored().into_iter();
        let distances = anchored.filter_map(|(column, counted)| {
            let counts = window.columns.get(counted.at).filter(|counts| counts.len() == column.counts.len())?;
            Some((column.cause.clone(), psi(&column.counts, counts)?.psi))
        });
        distances.collect()
    }

    fn feature_cause(&self, name: &str, psi: &Psi, rows: u64) -> CauseLook {
        let evidence = match self.noise {
            Some(noise) => (feature_ln_p(psi, noise.phi.get(name).copied().unwrap_or(1.0), noise.windows), true),
            None => (psi.ln_p(), false),
        };
        self.psi_cause(name, psi, evidence, rows)
    }

    /// Unlike a feature's, its φ may be unknown where the others' are not: a predecessor without clusters has none to give.
    fn clusters_cause(&self, psi: &Psi, rows: u64) -> CauseLook {
        let known = self.noise.and_then(|noise| Some((*noise.phi.get(CLUSTERS)?, noise.windows)));
        let evidence = match known {
            Some((phi, windows)) => (feature_ln_p(psi, phi, windows), true),
            None => (psi.ln_p(), false),
        };
        self.psi_cause(CLUSTERS, psi, evidence, rows)
    }

    fn psi_cause(&self, name: &str, psi: &Psi, (log_p, calibrated): (f64, bool), rows: u64) -> CauseLook {
        let lines = Lines {
            warning: self.judge.psi_warning,
            critical: self.judge.psi_critical,
            rest: 0.0,
            alpha_warning: self.judge.alpha,
            alpha_critical: self.judge.alpha,
            decides: self.judge.feature_days.contains(&self.days),
        };
        self.cause(name, &Evidence { effect: psi.psi, log_p, calibrated, rows }, &lines)
    }

    fn target_cause(&self, ks: &Ks, rows: u64) -> CauseLook {
        let (log_p, calibrated) = match self.noise {
            Some(noise) => (target_ln_p(ks, noise.phi.get(TARGET).copied().unwrap_or(1.0)), true),
            None => (ks.ln_p(), false),
        };
        let judge = self.judge;
        let lines = Lines {
            warning: judge.ks_warning,
            critical: judge.ks_critical,
            rest: 0.0,
            alpha_warning: judge.alpha,
            alpha_critical: judge.alpha,
            decides: judge.target_days.contains(&self.days),
        };
        let mut cause = self.cause(TARGET, &Evidence { effect: ks.distance, log_p, calibrated, rows }, &lines);
        if !self.calibrates() && cause.judged {
            // The bare rule knows the target by its textbook p-value, not by its distance.
            let p = libm::exp(ks.ln_p());
            cause.over_warning = p < judge.ks_p_warning;
            cause.over_critical = p < judge.ks_p_critical;
            cause.clears_warning = !cause.over_warning;
            cause.clears_critical = !cause.over_critical;
        }
        cause
    }

    fn error(&self, window: &Slice) -> ErrorLook {
        let series = judged_series(self.baseline);
        let sums = window.series.get(series).copied().unwrap_or_default();
        let known = self.baseline.errors.get(series);
        let ratio = known.and_then(|errors| mae_ratio(errors.mae, &sums));
        let welch_log_p = known.and_then(|errors| welch_ln_p(&errors.sums, &sums));
        let not_judged = match known {
            None => Some(NotJudged::NoBaseline),
            Some(errors) if errors.mae.is_nan() || errors.mae <= 0.0 => Some(NotJudged::PerfectBaseline),
            Some(_) if sums.rows < self.judge.min_rows => Some(NotJudged::FewRows),
            Some(_) => None,
        };
        ErrorLook {
            series: series.to_owned(),
            rows: sums.rows,
            mae_ms: mae(&sums),
            mae_ratio: ratio,
            welch_p: welch_log_p.map(libm::exp),
            welch_log_p,
            not_judged,
        }
    }

    /// The error as a cause; `None` where there is no ratio.
    fn error_cause(&self, error: &ErrorLook) -> Option<CauseLook> {
        let ratio = error.mae_ratio?;
        let baseline_days = self.baseline.errors.get(&error.series)?.days;
        let spread = self.noise.and_then(|noise| Some((noise.windows, *noise.log_mae_std.get(&error.series)?)));
        let (log_p, calibrated) = match spread {
            Some((windows, std)) => (error_ln_p(ratio, std, self.days, baseline_days, windows), true),
            // Welch's test has two sides; a smaller error is no evidence of drift.
            None => (error.welch_log_p.filter(|_| ratio > 1.0).unwrap_or(0.0), false),
        };
        let judge = self.judge;
        let longest = judge.error_days.iter().max() == Some(&self.days);
        let lines = Lines {
            warning: judge.mae_ratio_warning,
            critical: judge.mae_ratio_critical,
            rest: 1.0,
            alpha_warning: judge.alpha,
            alpha_critical: if longest { judge.alpha_error_longest } else { judge.alpha },
            decides: judge.error_days.contains(&self.days),
        };
        Some(self.cause(ERROR, &Evidence { effect: ratio, log_p, calibrated, rows: error.rows }, &lines))
    }

    fn cause(&self, name: &str, evidence: &Evidence, lines: &Lines) -> CauseLook {
        let Evidence { effect, log_p, calibrated, rows } = *evidence;
        let judged = rows >= self.judge.min_rows;
        let divisor = if rows < FEW_ROWS { 10.0 } else { 1.0 };
        let evident = |alpha: f64| !self.calibrates() || log_p < libm::log(alpha / divisor);
        let clears = |threshold: f64| effect - lines.rest <= CLEARS * (threshold - lines.rest);
        CauseLook {
            name: name.to_owned(),
            column: None,
            effect,
            warning: lines.warning,
            critical: lines.critical,
            p: libm::exp(log_p),
            log_p,
            calibrated,
            decides: lines.decides,
            judged,
            over_warning: judged && effect > lines.warning && evident(lines.alpha_warning),
            over_critical: judged && effect > lines.critical && evident(lines.alpha_critical) && (calibrated || !self.calibrates()),
            clears_warning: clears(lines.warning),
            clears_critical: clears(lines.critical),
        }
    }
}
