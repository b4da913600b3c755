//! What the demo tells: alerts, triggers and the calendar as lines a person reads in one go.

use crate::alert::{Alert, Change, EpisodeAlert, Evidence, Level, Measure};
use crate::cli::out::{Out, Tone, plain};
use crate::cli::time::shown;
use crate::trigger::{Trigger, TriggerChange};

/// A line of the story, before it has a colour.
pub(super) struct Line {
    /// When, in event time, ms since 1970.
    pub(super) at_ms: i64,
    /// The word in front.
    pub(super) word: String,
    /// How grave.
    pub(super) tone: Tone,
    /// What happened.
    pub(super) text: String,
    /// Further lines, indented.
    pub(super) more: Vec<String>,
}

impl Line {
    /// Returns the text for a terminal, lines separated by newlines.
    pub(super) fn render(&self, out: &Out) -> String {
        let when = shown(self.at_ms);
        let word = out.tone(self.tone, &format!("{:<9}", self.word));
        let mut text = format!("  {:<16}  {word}  {}", when.trim_end_matches(" UTC"), self.text);
        for line in &self.more {
            text.push_str(&format!("\n{:31}{}", "", out.tone(Tone::Faint, line)));
        }
        text
    }
}

/// Tells an alert.
pub(super) fn alert(alert: &Alert) -> Option<Line> {
    let Alert::Episode(episode) = alert else { return None };
    let (word, tone) = match (episode.change, episode.level) {
        (Change::Resolved, _) => ("RESOLVED", Tone::Good),
        (Change::Accepted, _) => ("ACCEPTED", Tone::Good),
        (_, Level::Critical) => ("ALARM", Tone::Critical),
        _ => ("WARNING", Tone::Warning),
    };
    let mut more = Vec::new();
    if !matches!(episode.change, Change::Resolved | Change::Accepted) {
        more.extend(strongest(episode).map(evidence));
        if let Some(onset) = episode.onset_ms {
            more.push(format!("began about {}; {}", shown(onset), carriers(episode)));
        }
        more.extend(episode.recommendations.iter().take(2).map(|text| format!("→ {}", plain(text))));
    }
    let text = format!("{}: {}  [status {}]", plain(&episode.cause), plain(&episode.summary), episode.status.name());
    Some(Line { at_ms: episode.at_ms, word: word.to_owned(), tone, text, more })
}

/// Returns the evidence with the largest effect against its own threshold, of those that decide.
fn strongest(episode: &EpisodeAlert) -> Option<&Evidence> {
    let weight = |e: &Evidence| e.effect.map_or(0.0, |effect| effect / e.critical);
    episode.evidence.iter().filter(|e| e.decides && e.effect.is_some()).max_by(|a, b| weight(a).total_cmp(&weight(b)))
}

fn evidence(e: &Evidence) -> String {
    let (name, effect) = match e.measure {
        Measure::Psi => ("PSI", e.effect),
        Measure::Ks => ("KS distance", e.effect),
        Measure::MaeRatio => ("MAE ratio", e.effect),
    };
    let p = e.calibrated_log_p.or(e.log_p).map_or_else(|| "no p-value".to_owned(), |log_p| format!("p {}", power_of_ten(log_p)));
    format!(
        "{name} {:.2} (critical from {}) over {} d, {} tickets, {p} against the baseline's own noise",
        effect.unwrap_or_default(),
        e.critical,
        e.days,
        e.rows
    )
}

/// Writes a probability from its natural logarithm, also where the probability itself underflows.
pub(super) fn power_of_ten(log_p: f64) -> String {
    let exponent = log_p / std::f64::consts::LN_10;
    if exponent > -3.0 { format!("= {:.3}", log_p.exp()) } else { format!("≈ 1e{exponent:.0}") }
}

fn carriers(episode: &EpisodeAlert) -> String {
    let carried: Vec<String> = episode
        .carriers
        .iter()
        .take(3)
        .map(|c| format!("{} {} {:.1} % → {:.1} %", plain(&c.column), plain(&c.category), c.share_before * 100.0, c.share_now * 100.0))
        .collect();
    if carried.is_empty() { "spread over all categories".to_owned() } else { format!("carried by {}", carried.join(", ")) }
}

/// Tells what a training came to.
pub(super) fn training(at_ms: i64, outcome: &str, version: Option<u64>, reason: &str) -> Line {
    let (word, tone) = match outcome {
        "promoted" => ("PROMOTED", Tone::Good),
        "settled" => ("SETTLED", Tone::Good),
        "accepted" => ("ACCEPTED", Tone::Good),
        "failed" => ("FAILED", Tone::Critical),
        _ => ("TRAINED", Tone::Faint),
    };
    let text = match (outcome, version) {
        (_, Some(version)) => format!("version {version} goes to Production: {}", plain(reason)),
        ("refused", None) => format!("Production stays: {}", plain(reason)),
        (_, None) => plain(reason),
    };
    Line { at_ms, word: word.to_owned(), tone, text, more: Vec::new() }
}

/// Tells a trigger.
pub(super) fn trigger(trigger: &Trigger) -> Line {
    let (word, tone, text) = match trigger.change {
        TriggerChange::Raised => (
            "TRIGGER",
            Tone::Strong,
            format!("retraining asked for: {}, priority {}: {}", trigger.trigger_type.name(), trigger.priority, plain(&trigger.reason)),
        ),
        TriggerChange::Joined => ("TRIGGER", Tone::Strong, format!("another cause joins it: {}", plain(&trigger.reason))),
        TriggerChange::Due => ("TRAINING", Tone::Faint, format!("a training is due (attempt {})", trigger.attempts + 1)),
        TriggerChange::Closed => {
            let because = trigger.closed_because.map_or_else(String::new, |because| format!(": {because:?}").to_lowercase());
            ("TRIGGER", Tone::Strong, format!("{} is closed{because}", trigger.trigger_type.name()))
        }
    };
    Line { at_ms: trigger.at_ms, word: word.to_owned(), tone, text, more: Vec::new() }
}
