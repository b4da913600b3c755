//! Verdicts in words: one sentence, what to do, what to keep in mind.

use crate::alert::{Change, Evidence, Level, Measure, MovedFeature};
use crate::baseline::Baseline;
use crate::clock::rfc3339;
use crate::config;
use crate::status::{Episode, JudgeState, Status};

use super::queue::Step;
use super::sight::level_of;

/// Returns what limits a verdict.
pub(crate) fn caveats(step: &Step, state: JudgeState, gaps: &[(i64, i64)], baseline: Option<&Baseline>) -> Vec<String> {
    let mut caveats = Vec::new();
    if state == JudgeState::Uncalibrated {
        caveats.push("uncalibrated: the baseline is too short to know its own noise, so this is a warning at most".to_owned());
    }
    if step.summaries.iter().any(|summary| summary.incomplete) {
        caveats.push("incomplete: the log no longer reaches back over the longest window; counts are of what is left".to_owned());
    }
    for (from_ms, to_ms) in gaps {
        caveats.push(format!("gap: MongoDB has forgotten what happened between {} and {}", rfc3339(*from_ms), rfc3339(*to_ms)));
    }
    caveats.extend(baseline.and_then(no_clusters));
    caveats
}

/// Says why `clusters` is not judged, where a baseline has none.
pub(crate) fn no_clusters(baseline: &Baseline) -> Option<String> {
    match &baseline.clusters {
        None => Some(format!(
            "clusters: not judged: baseline {} was made before baselines had clusters; the next one has them",
            baseline.version
        )),
        Some(clusters) if clusters.centroids.is_empty() => {
            Some(format!("clusters: not judged: no feature varies in baseline {}", baseline.version))
        }
        Some(_) => None,
    }
}

fn window(days: u32) -> String {
    if days == 1 { "1 day".to_owned() } else { format!("{days} days") }
}

/// Returns an effect and the window it was seen in.
fn effect(evidence: &Evidence) -> Option<String> {
    let effect = evidence.effect?;
    let measured = match evidence.measure {
        Measure::Psi => format!("PSI {effect:.3}"),
        Measure::Ks => format!("KS distance {effect:.3}"),
        Measure::MaeRatio => format!("MAE {effect:.2} times the baseline's"),
    };
    Some(format!("{measured} over {}", window(evidence.days)))
}

/// The deciding look with the largest effect; where none decides, any.
fn clearest(evidence: &[Evidence]) -> Option<&Evidence> {
    let largest = |decides: bool| {
        let looks = evidence.iter().filter(|look| look.decides == decides);
        looks.max_by(|a, b| a.effect.unwrap_or(f64::NEG_INFINITY).total_cmp(&b.effect.unwrap_or(f64::NEG_INFINITY)))
    };
    largest(true).or_else(|| largest(false))
}

/// Returns the sentence of an alert.
pub(crate) fn alert(cause: &str, change: Change, episode: &Episode, evidence: &[Evidence], features: &[MovedFeature]) -> String {
    let what = clearest(evidence);
    let effect = what.and_then(effect).unwrap_or_else(|| "no verdict at this mark".to_owned());
    let lasted = rfc3339(episode.opened_at_ms);
    match change {
        Change::Opened | Change::Escalated => {
            let word = if change == Change::Opened { "drifts" } else { "drifts further" };
            let threshold = what.map_or(0.0, |look| if episode.level == Level::Critical { look.critical } else { look.warning });
            let certainty = match what.and_then(|look| look.calibrated_log_p.map(|log_p| (log_p, look.alpha))) {
                Some((log_p, Some(_))) => format!("; chance of that in a quiet window 10^{:.0}", log_p / std::f64::consts::LN_10),
                _ => String::new(),
            };
            let onset = episode.onset_ms.map(|ms| format!(", since about {}", rfc3339(ms))).unwrap_or_default();
            let moved: Vec<&str> = features.iter().map(|moved| moved.feature.as_str()).collect();
            let moved = if moved.is_empty() { String::new() } else { format!("; most of all {}, taken together", moved.join(", ")) };
            format!("{cause} {word}: {effect} ({} above {threshold}{certainty}){onset}{moved}", episode.level.name())
        }
        Change::Resolved => format!("{cause} is quiet again: {effect}; its episode had been open since {lasted}"),
        Change::Accepted => format!("{cause} is accepted as it is now: {effect}; its episode had been open since {lasted}"),
    }
}

/// Returns the sentence of a status.
pub(crate) fn summary(status: &Status, rules: &config::Judge) -> String {
    let Some(level) = status.status else {
        return waiting(status, rules);
    };
    let open: Vec<String> = status
        .causes
        .iter()
        .filter_map(|(name, cause)| {
            let episode = cause.episode.as_ref()?;
            let effect = clearest(&cause.evidence).and_then(effect).unwrap_or_else(|| "no verdict at this mark".to_owned());
            let recovering = if episode.recovering { ", recovering" } else { "" };
            Some(format!("{name} {} ({effect}{recovering})", episode.level.name()))
        })
        .collect();
    let rest = match status.state {
        JudgeState::Judging | JudgeState::Uncalibrated => String::new(),
        _ => format!("; {}", waiting(status, rules)),
    };
    if open.is_empty() {
        return format!("{}: no cause has an open episode{rest}", level.name());
    }
    format!("{}: {}{rest}", level.name(), open.join("; "))
}

fn waiting(status: &Status, rules: &config::Judge) -> String {
    match status.state {
        JudgeState::NoBaseline => "no verdict: no baseline; create one with: tidemark baseline create --from DATE --to DATE".to_owned(),
        JudgeState::Filling | JudgeState::Settling => {
            let Some(window) = status.windows.iter().find(|window| !window.full || window.rows < rules.min_rows) else {
                return "some causes cannot be judged".to_owned();
            };
            if window.full {
                return format!(
                    "no verdict over {}: {} tickets, at least {} are needed",
                    self::window(window.days),
                    window.rows,
                    rules.min_rows
                );
            }
            format!("the window of {} is filling: {} tickets so far", self::window(window.days), window.rows)
        }
        JudgeState::Uncalibrated | JudgeState::Judging => "every cause is judged".to_owned(),
    }
}

/// Returns what to do, in words: for every cause over a threshold, alarm or not.
pub(crate) fn recommendations(status: &Status) -> Vec<String> {
    let mut advice = Vec::new();
    for (name, cause) in &status.causes {
        let Some(look) = clearest(&cause.evidence) else { continue };
        let over = level_of(look);
        let Some(effect) = effect(look) else { continue };
        match (&cause.episode, over) {
            (Some(episode), _) => {
                let deed = match (name.as_str(), episode.level) {
                    ("error", Level::Critical) => "retrain the model, or look at what changed at the onset",
                    (_, Level::Critical) => "find out what changed; retrain, or accept it with tidemark baseline accept",
                    _ => "watch it; it is not critical",
                };
                advice.push(format!("{name}: {effect}: {deed}"));
            }
            (None, Level::Warning | Level::Critical) if look.decides => {
                advice.push(format!("{name}: {effect}: over a threshold, but not (yet) beyond what quiet windows show; nothing to do"));
            }
            _ => {}
        }
    }
    if let Some(trigger) = &status.trigger {
        advice.push(format!("training asked for by {}: {}", trigger.id, trigger.reason));
    }
    if advice.is_empty() && status.status.is_some() {
        advice.push("nothing to do".to_owned());
    }
    advice
}
