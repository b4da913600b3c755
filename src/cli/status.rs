//! `tidemark status`: the last verdict as a person wants to read it.

use clap::Args;

use crate::alert::Level;
use crate::log::Log;
use crate::status::{CauseStatus, JudgeState, Newest, Status, WindowStatus};
use crate::topics::Topics;

use super::exit::{Exit, Failure};
use super::out::{Format, Out, Tone, plain};
use super::session::Session;
use super::time;
use super::topic::records;

/// Flags of `status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark status
  tidemark status --output json | jq .status
  tidemark status --topic-prefix staging --kafka-bootstrap-servers kafka:9092")]
pub struct StatusArgs {
    /// Each column's and each cause's figures too
    #[arg(long)]
    all: bool,
}

pub(super) fn run(flags: &StatusArgs, session: &mut Session) -> Result<Exit, Failure> {
    let spec = session.spec()?;
    let log = session.log()?;
    let topics = Topics::new(&session.config()?.kafka.topic_prefix);
    let status = read(log.as_ref(), &topics, &spec.name)?;
    show(status.as_ref(), &spec.name, &topics, flags.all, &mut session.out)?;
    Ok(Exit::Ok)
}

/// Returns the last verdict about a spec.
pub(super) fn read(log: &dyn Log, topics: &Topics, spec: &str) -> Result<Option<Status>, Failure> {
    let mut newest = Newest::default();
    records(log, &topics.status, 0)?.into_iter().for_each(|record| newest.take(spec, record));
    let Some(record) = newest.record() else { return Ok(None) };
    serde_json::from_slice(record.value.as_deref().unwrap_or_default()).map(Some).map_err(|error| {
        let topic = &topics.status;
        Failure::new(Exit::Refused, format!("the record of {spec} in topic {topic} is no status of this version of tidemark: {error}"))
    })
}

fn show(status: Option<&Status>, spec: &str, topics: &Topics, all: bool, out: &mut Out) -> Result<(), Failure> {
    if out.format == Format::Json {
        return out.json(&status);
    }
    let Some(status) = status else {
        out.line(format!("No verdict about {spec} yet: topic {} has none.", topics.status))?;
        return out.line("It comes with the first mark: `tidemark run` says what it waits for.");
    };
    let verdict = match status.status {
        None => out.tone(Tone::Faint, "no verdict yet"),
        Some(Level::Ok) => out.tone(Tone::Good, "ok"),
        Some(Level::Warning) => out.tone(Tone::Warning, "WARNING"),
        Some(Level::Critical) => out.tone(Tone::Critical, "CRITICAL"),
    };
    out.line(format!("{}: {verdict}", plain(&status.spec)))?;
    out.line(plain(&status.summary))?;
    out.line("")?;
    let baseline = status.baseline.map_or_else(|| "none".to_owned(), |version| version.to_string());
    out.line(format!("As of      {} (mark {})", time::shown(status.at_ms), status.mark))?;
    out.line(format!("Model      {}, baseline {baseline}", plain(&status.model)))?;
    out.line(format!("Judge      {}", waits_for(status)))?;
    out.line("")?;
    let rows: Vec<Vec<String>> = status.windows.iter().map(window).collect();
    out.table(&["WINDOW", "TICKETS", "LATE", "HIGHEST PSI", "KS", "MAE", "MAE RATIO", "SERIES"], &rows)?;
    episodes(status, out)?;
    if let Some(trigger) = &status.trigger {
        out.line("")?;
        let raised = time::shown(trigger.raised_at_ms);
        let attempts = if trigger.attempts == 0 { String::new() } else { format!(", {} attempts so far", trigger.attempts) };
        out.line(format!(
            "Retraining asked for at {raised} ({}, priority {}{attempts}): {}",
            trigger.trigger_type.name(),
            trigger.priority,
            plain(&trigger.reason)
        ))?;
    }
    for (cause, until) in &status.silences {
        out.line(format!("Silenced: {} until {}", plain(cause), time::shown(*until)))?;
    }
    for (from, to) in &status.gaps {
        out.line(format!("Gap: what happened between {} and {} is not known", time::shown(*from), time::shown(*to)))?;
    }
    for caveat in &status.caveats {
        out.line(format!("Mind: {}", plain(caveat)))?;
    }
    if !status.recommendations.is_empty() {
        out.line("")?;
        for recommendation in &status.recommendations {
            out.line(format!("- {}", plain(recommendation)))?;
        }
    }
    if all { details(status, out) } else { Ok(()) }
}

fn waits_for(status: &Status) -> String {
    let longest = status.windows.iter().map(|window| window.days).max().unwrap_or(0);
    match status.state {
        JudgeState::NoBaseline => "waits for a baseline: create one with `tidemark baseline create --from DATE --to DATE`".to_owned(),
        JudgeState::Filling => {
            let full = status.since_ms + i64::from(longest) * crate::clock::DAY_MS;
            format!("waits for a full window; the longest is full at {}", time::shown(full))
        }
        JudgeState::Settling => "judges some causes; the others wait for a full window under this baseline".to_owned(),
        JudgeState::Uncalibrated => {
            "warns at most: the baseline is too short to know its own noise; create one over a longer time".to_owned()
        }
        JudgeState::Judging => "judges every cause".to_owned(),
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

fn window(window: &WindowStatus) -> Vec<String> {
    let highest = window.psi.iter().max_by(|a, b| a.1.total_cmp(b.1));
    let mae = window.mae.map_or_else(|| "-".to_owned(), |mae| format!("{mae:.0}"));
    vec![
        format!("{} d{}", window.days, if window.full { "" } else { " (not full)" }),
        window.rows.to_string(),
        window.late.to_string(),
        highest.map_or_else(|| "-".to_owned(), |(column, psi)| format!("{psi:.3} {}", plain(column))),
        number(window.ks),
        mae,
        number(window.mae_ratio),
        plain(window.series.as_deref().unwrap_or("-")),
    ]
}

fn episodes(status: &Status, out: &mut Out) -> Result<(), Failure> {
    let open = status.causes.iter().filter_map(|(cause, how)| how.episode.as_ref().map(|episode| (cause, how, episode)));
    for (number, (cause, how, episode)) in open.enumerate() {
        if number == 0 {
            out.line("")?;
        }
        let tone = if episode.level == Level::Critical { Tone::Critical } else { Tone::Warning };
        let mut text = format!("{} {} since {}", out.tone(tone, episode.level.name()), plain(cause), time::shown(episode.opened_at_ms));
        if let Some(onset) = episode.onset_ms {
            text.push_str(&format!(", began about {}", time::shown(onset)));
        }
        if episode.recovering {
            text.push_str(", recovering under a new version");
        }
        if how.close_looks > 0 {
            text.push_str(&format!(", quiet for {} looks", how.close_looks));
        }
        out.line(text)?;
    }
    Ok(())
}

fn details(status: &Status, out: &mut Out) -> Result<(), Failure> {
    out.line("")?;
    let mut rows = Vec::new();
    for (cause, how) in &status.causes {
        rows.extend(evidence(cause, how));
    }
    out.table(&["CAUSE", "WINDOW", "TICKETS", "EFFECT", "WARNING", "CRITICAL", "P (CALIBRATED)", "DECIDES"], &rows)?;
    out.line("")?;
    let mut rows = Vec::new();
    for window in &status.windows {
        rows.extend(window.psi.iter().map(|(column, psi)| vec![plain(column), format!("{} d", window.days), format!("{psi:.4}")]));
    }
    rows.sort();
    out.table(&["COLUMN", "WINDOW", "PSI"], &rows)?;
    let anchored = |window: &WindowStatus| {
        let days = window.days;
        let row = move |(cause, psi): (&String, &f64)| vec![plain(cause), format!("{days} d"), format!("{psi:.4}")];
        window.anchor_psi.iter().map(row).collect::<Vec<_>>()
    };
    let mut rows: Vec<Vec<String>> = status.windows.iter().flat_map(anchored).collect();
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort();
    out.line("")?;
    out.table(&["CAUSE", "WINDOW", "PSI AGAINST THE FIRST BASELINE"], &rows)
}

fn evidence(cause: &str, how: &CauseStatus) -> Vec<Vec<String>> {
    let row = |look: &crate::alert::Evidence| {
        vec![
            plain(cause),
            format!("{} d", look.days),
            look.rows.to_string(),
            number(look.effect),
            format!("{}", look.warning),
            format!("{}", look.critical),
            look.calibrated_p.map_or_else(|| "-".to_owned(), |p| format!("{p:.2e}")),
            if look.decides { "yes" } else { "no" }.to_owned(),
        ]
    };
    how.evidence.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::memory::MemoryLog;
    use crate::log::{Record, Transaction};
    use std::collections::BTreeMap;

    pub(super) fn status() -> Status {
        Status {
            spec: "tickets".to_owned(),
            fingerprint: "f".to_owned(),
            model: "m".to_owned(),
            mark: 12,
            at_ms: 1_363_960_800_000,
            baseline: Some(1),
            state: JudgeState::Filling,
            status: Some(Level::Warning),
            summary: "hour_of_day\u{1b}[31m drifts".to_owned(),
            recommendations: vec!["look at hour_of_day".to_owned()],
            windows: vec![WindowStatus {
                days: 7,
                rows: 6_400,
                late: 3,
                full: false,
                psi: BTreeMap::from([("hour_of_day".to_owned(), 0.28), ("risk_weight".to_owned(), 0.01)]),
                anchor_psi: BTreeMap::from([("hour_of_day".to_owned(), 0.41)]),
                ks: Some(0.05),
                ks_p: Some(0.3),
                mae: Some(2_400_000.4),
                mae_ratio: None,
                series: Some("recorded".to_owned()),
            }],
            causes: BTreeMap::new(),
            columns_over: vec![],
            trigger: None,
            silences: BTreeMap::new(),
            gaps: vec![],
            since_ms: 1_363_824_000_000,
            caveats: vec!["a gap lies in the window".to_owned()],
        }
    }

    fn written(status: &Status) -> (MemoryLog, Topics) {
        let (log, topics) = (MemoryLog::new(), Topics::new("t"));
        log.create_topics(&topics.settings(&crate::config::Config::default().topic_plan())).unwrap();
        let value = serde_json::to_vec(status).unwrap();
        let record =
            Record { topic: topics.status.clone(), partition: 0, key: Some("tickets".into()), value: Some(value.into()), headers: vec![] };
        log.producer("p").unwrap().transact(Transaction { records: vec![record], ..Transaction::default() }).unwrap();
        (log, topics)
    }

    #[test]
    fn a_person_reads_verdict_window_and_what_to_do() {
        let (log, topics) = written(&status());
        let found = read(&log, &topics, "tickets").unwrap();
        let (mut out, text) = Out::buffer(Format::Text);
        show(found.as_ref(), "tickets", &topics, true, &mut out).unwrap();
        let text = text.text();
        for expected in [
            "tickets: WARNING",
            "0.280 hour_of_day",
            "7 d (not full)",
            "is full at 2013-03-28 00:00 UTC",
            "Mind: a gap lies",
            "- look at hour_of_day",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "what a topic holds may not steer a terminal");
    }

    #[test]
    fn without_a_verdict_it_says_so() {
        let (log, topics) = written(&status());
        assert_eq!(read(&log, &topics, "other").unwrap(), None);
        let (mut out, text) = Out::buffer(Format::Text);
        show(None, "other", &topics, false, &mut out).unwrap();
        assert!(text.text().contains("No verdict about other yet"));
        let (mut out, text) = Out::buffer(Format::Json);
        show(None, "other", &topics, false, &mut out).unwrap();
        assert_eq!(text.text(), "null\n");
    }

    #[test]
    fn the_json_is_the_record() {
        let (mut out, text) = Out::buffer(Format::Json);
        show(Some(&status()), "tickets", &Topics::new("t"), false, &mut out).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text.text()).unwrap(), status());
    }
}
