//! What the demo hears and tells: the topics' records as a story in order of event time, and the table at its end.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use super::story::{self, Line};
use super::{BASELINE_FROM, SLOW_FROM, SLOW_TO, at};
use crate::alert::{Alert, Change, Level};
use crate::baseline::Baseline;
use crate::cli::exit::{Exit, Failure};
use crate::cli::heard::{Heard, decode};
use crate::cli::out::{Format, Out, Tone};
use crate::cli::time::{shown, span};
use crate::clock::{DAY_MS, rfc3339};
use crate::log::Follower;
use crate::model_event::ModelEvent;
use crate::stage::Context;
use crate::status::Status;
use crate::tail::ANSWER_AFTER;
use crate::trigger::{Trigger, TriggerChange};

/// What the table at the end tells, and `--output json` prints last.
#[derive(Debug, Default, Serialize)]
struct Totals {
    tickets: u64,
    seconds: f64,
    tickets_per_second: f64,
    marks: u64,
    episodes: Vec<EpisodeRow>,
    triggers: Vec<TriggerRow>,
    trainings: Vec<TrainingRow>,
}

/// One training and what it came to. Errors are Production's mean over one day.
#[derive(Debug, Serialize)]
struct TrainingRow {
    asked: String,
    outcome: String,
    version: Option<u64>,
    mae_before: Option<f64>,
    mae_after: Option<f64>,
    reason: String,
    #[serde(skip)]
    mark: u64,
    #[serde(skip)]
    baseline: Option<u64>,
}

/// Production's mean error over the day that ends with a mark.
#[derive(Debug)]
struct Day {
    mark: u64,
    baseline: Option<u64>,
    full: bool,
    mae: Option<f64>,
}

/// One episode.
#[derive(Debug, Serialize)]
struct EpisodeRow {
    cause: String,
    level: &'static str,
    onset: Option<String>,
    opened: String,
    ended: Option<String>,
    #[serde(skip)]
    id: String,
    #[serde(skip)]
    opened_ms: i64,
    #[serde(skip)]
    ended_ms: Option<i64>,
}

/// One trigger.
#[derive(Debug, Serialize)]
struct TriggerRow {
    kind: &'static str,
    priority: u8,
    raised: String,
    causes: Vec<String>,
    closed: Option<String>,
    #[serde(skip)]
    id: String,
}

/// Something that was heard.
struct Pending {
    /// Among things of one moment: a verdict, what it found, what it asks for, and the answer.
    order: u8,
    line: Line,
    json: Option<Value>,
}

fn as_json(event: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(event).map_err(|error| Failure::new(Exit::Failed, format!("an event has no JSON form: {error}")))
}

/// Hears the topics and tells what comes.
pub(super) struct Teller {
    alerts: Box<dyn Follower>,
    triggers: Box<dyn Follower>,
    model_events: Box<dyn Follower>,
    /// When each training was asked for, by mark.
    asked: BTreeMap<u64, i64>,
    /// Answers whose requests have not been heard yet: topics are read one after the other.
    answers: Vec<ModelEvent>,
    /// What was heard and waits until nothing earlier can come.
    pending: Vec<Pending>,
    /// How long after its event a thing may be heard, ms of event time.
    lag_ms: i64,
    /// The newest verdict's mark, ms since 1970.
    judged_ms: i64,
    /// Each mark's one day, in order.
    days: Vec<Day>,
    heard: Heard,
    calendar: Vec<Line>,
    bar: Option<ProgressBar>,
    slow: bool,
    month: String,
    totals: Totals,
}

impl Teller {
    pub(super) fn new(slow: bool, context: &Context, baseline: &Baseline, out_is_text: bool) -> Result<Self, Failure> {
        let follow = |topic: &str| context.log.follow(topic, &[0]);
        let mut calendar = Vec::new();
        if slow {
            let line = |date: &str, text: &str| Line {
                at_ms: at(date),
                word: "INJECTED".to_owned(),
                tone: Tone::Warning,
                text: text.to_owned(),
                more: Vec::new(),
            };
            calendar.push(line(SLOW_TO, "the slow-down ends"));
            calendar.push(line(SLOW_FROM, "the slow-down begins: DEPLOY, TRANSFORM and EXECUTE take 1.6 times as long"));
        }
        let year = baseline.from_ms..at("2014-01-01");
        let bar = (out_is_text && std::io::stderr().is_terminal()).then(|| {
            let days = u64::try_from((year.end - year.start) / DAY_MS).unwrap_or_default();
            let style = ProgressStyle::with_template("  {bar:30} {msg}").expect("the demo's own template");
            ProgressBar::new(days).with_style(style)
        });
        Ok(Self {
            alerts: follow(&context.topics.alerts)?,
            triggers: follow(&context.topics.retraining_triggers)?,
            model_events: follow(&context.topics.model_events)?,
            asked: BTreeMap::new(),
            answers: Vec::new(),
            pending: Vec::new(),
            lag_ms: i64::try_from(ANSWER_AFTER).unwrap_or(i64::MAX).saturating_mul(context.config.window.slice_ms),
            judged_ms: i64::MIN,
            days: Vec::new(),
            heard: Heard::follow(context)?,
            calendar,
            bar,
            slow,
            month: String::new(),
            totals: Totals::default(),
        })
    }

    /// Tail has ended: from here on it is known which mark is the last.
    pub(super) fn tail_has_ended(&mut self, context: &Context) -> Result<(), Failure> {
        self.heard.tail_has_ended(context)
    }

    /// Whether every mark in the log has its verdict.
    pub(super) fn has_judged_all(&self) -> bool {
        self.heard.has_judged_all()
    }

    /// Waits a moment for verdicts, and tells what nothing earlier can come before any more.
    pub(super) fn listen(&mut self, out: &mut Out) -> Result<(), Failure> {
        self.hear(Duration::from_millis(50))?;
        self.tell_until(self.judged_ms.saturating_sub(self.lag_ms), out)
    }

    /// Takes what there is from every topic; `false` when there was nothing.
    fn hear(&mut self, wait: Duration) -> Result<bool, Failure> {
        let before = self.pending.len();
        // Verdicts first: whatever led to one is in the log before it.
        let statuses = self.heard.poll(wait)?;
        let mut is_new = !statuses.is_empty();
        for status in statuses {
            self.judged_ms = self.judged_ms.max(status.at_ms);
            let line = self.verdict(&status);
            self.pending.extend(line.map(|line| Pending { order: 0, line, json: None }));
        }
        for record in self.alerts.poll(Duration::ZERO)? {
            let alert: Alert = decode(&record, "alerts")?;
            self.count_alert(&alert);
            let json = as_json(&alert)?;
            self.pending.extend(story::alert(&alert).map(|line| Pending { order: 1, line, json: Some(json) }));
        }
        for record in self.triggers.poll(Duration::ZERO)? {
            let trigger: Trigger = decode(&record, "retraining-triggers")?;
            self.count_trigger(&trigger);
            if let (TriggerChange::Due, Some(mark)) = (trigger.change, trigger.asked) {
                is_new |= self.asked.insert(mark, trigger.at_ms).is_none();
            } else {
                self.pending.push(Pending { order: 2, line: story::trigger(&trigger), json: Some(as_json(&trigger)?) });
            }
        }
        for record in self.model_events.poll(Duration::ZERO)? {
            self.answers.extend(ModelEvent::decode(record.value.as_deref().unwrap_or_default()).ok().flatten());
        }
        for event in std::mem::take(&mut self.answers) {
            let ModelEvent::Outcome { mark: Some(mark), .. } = &event else { continue };
            let Some(at_ms) = self.asked.get(mark).copied() else {
                self.answers.push(event);
                continue;
            };
            if let Some(line) = self.training(at_ms, &event) {
                self.pending.push(Pending { order: 3, line, json: Some(as_json(&event)?) });
            }
        }
        Ok(is_new || self.pending.len() > before)
    }

    /// Tells what happened until `until_ms`, in order of event time.
    fn tell_until(&mut self, until_ms: i64, out: &mut Out) -> Result<(), Failure> {
        self.pending.sort_by_key(|pending| (pending.line.at_ms, pending.order));
        let ready = self.pending.partition_point(|pending| pending.line.at_ms <= until_ms);
        for Pending { line, json, .. } in self.pending.drain(..ready).collect::<Vec<_>>() {
            while self.calendar.last().is_some_and(|next| next.at_ms <= line.at_ms) {
                let next = self.calendar.pop().expect("it was there");
                self.tell(&next, out)?;
            }
            match json {
                Some(json) if out.format == Format::Json => out.json_line(&json)?,
                _ => self.tell(&line, out)?,
            }
        }
        Ok(())
    }

    fn tell(&self, line: &Line, out: &mut Out) -> Result<(), Failure> {
        if out.format == Format::Json {
            return Ok(());
        }
        let text = line.render(out);
        match &self.bar {
            Some(bar) => bar.suspend(|| out.line(text)),
            None => out.line(text),
        }
    }

    /// Counts an answer to a training; returns the line that tells it.
    fn training(&mut self, at_ms: i64, event: &ModelEvent) -> Option<Line> {
        let ModelEvent::Outcome { outcome, reason, mark: Some(mark), baseline, version, .. } = event else { return None };
        self.totals.trainings.push(TrainingRow {
            asked: rfc3339(at_ms),
            outcome: outcome.clone(),
            version: *version,
            mae_before: None,
            mae_after: None,
            mark: *mark,
            reason: reason.clone(),
            baseline: *baseline,
        });
        Some(story::training(at_ms, outcome, *version, reason))
    }

    /// Counts a verdict. Without a terminal the first of a month makes a line.
    fn verdict(&mut self, status: &Status) -> Option<Line> {
        self.totals.marks = status.mark;
        if let Some(day) = status.windows.first() {
            self.days.push(Day { mark: status.mark, baseline: status.baseline, full: day.full, mae: day.mae });
        }
        let word = status.status.map_or(status.state.name(), Level::name);
        if let Some(bar) = &self.bar {
            bar.set_position(u64::try_from((status.at_ms - at(BASELINE_FROM)) / DAY_MS).unwrap_or_default());
            bar.set_message(format!("{}  {word}", shown(status.at_ms)));
            return None;
        }
        let month = rfc3339(status.at_ms).get(..7).map(str::to_owned)?;
        let is_new = month != self.month;
        self.month = month;
        is_new.then(|| Line {
            at_ms: status.at_ms,
            word: word.to_owned(),
            tone: Tone::Faint,
            text: "replayed so far".to_owned(),
            more: Vec::new(),
        })
    }

    fn count_alert(&mut self, alert: &Alert) {
        let Alert::Episode(episode) = alert else { return };
        match episode.change {
            Change::Opened => self.totals.episodes.push(EpisodeRow {
                cause: episode.cause.clone(),
                level: episode.level.name(),
                onset: episode.onset_ms.map(rfc3339),
                opened: rfc3339(episode.at_ms),
                ended: None,
                id: episode.episode.clone(),
                opened_ms: episode.at_ms,
                ended_ms: None,
            }),
            Change::Escalated | Change::Resolved | Change::Accepted => {
                let Some(row) = self.totals.episodes.iter_mut().find(|row| row.id == episode.episode) else { return };
                row.level = episode.level.name();
                if episode.change != Change::Escalated {
                    row.ended = Some(rfc3339(episode.at_ms));
                    row.ended_ms = Some(episode.at_ms);
                }
            }
        }
    }

    fn count_trigger(&mut self, trigger: &Trigger) {
        let causes = || trigger.causes.iter().map(|cause| cause.cause.clone()).collect();
        if trigger.change == TriggerChange::Raised {
            self.totals.triggers.push(TriggerRow {
                kind: trigger.trigger_type.name(),
                priority: trigger.priority,
                raised: rfc3339(trigger.raised_at_ms),
                causes: causes(),
                closed: None,
                id: trigger.id.clone(),
            });
        } else if let Some(row) = self.totals.triggers.iter_mut().find(|row| row.id == trigger.id) {
            row.causes = causes();
            if trigger.change == TriggerChange::Closed {
                row.closed = Some(rfc3339(trigger.at_ms));
            }
        }
    }
}

impl Teller {
    /// Tells the rest and the table. The stages have ended.
    pub(super) fn conclude(mut self, seconds: f64, out: &mut Out) -> Result<(), Failure> {
        while self.hear(Duration::ZERO)? {}
        self.tell_until(i64::MAX, out)?;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        for row in &mut self.totals.trainings {
            row.mae_before = self.days.iter().find(|day| day.mark == row.mark).and_then(|day| day.mae);
            let first_full = self.days.iter().find(|day| day.full && row.version.is_some() && day.baseline == row.baseline);
            row.mae_after = first_full.and_then(|day| day.mae);
        }
        self.totals.seconds = seconds;
        self.totals.tickets = self.heard.rows();
        self.totals.tickets_per_second = self.totals.tickets as f64 / seconds;
        if out.format == Format::Json {
            return out.json_line(&serde_json::json!({"event": "summary", "totals": self.totals}));
        }
        let totals = &self.totals;
        out.line("")?;
        let title = out.tone(Tone::Strong, "The year in one table");
        out.line(title)?;
        let rows: Vec<Vec<String>> = totals
            .episodes
            .iter()
            .map(|row| {
                let lasted = row.ended_ms.map_or_else(|| "still open".to_owned(), |end| span(end - row.opened_ms));
                let cell = |time: &Option<String>| time.as_deref().map_or_else(|| "-".to_owned(), short);
                vec![row.cause.clone(), row.level.to_owned(), cell(&row.onset), short(&row.opened), cell(&row.ended), lasted]
            })
            .collect();
        out.table(&["cause", "level", "began about", "alarm", "end", "lasted"], &rows)?;
        out.line("")?;
        let rows: Vec<Vec<String>> = totals
            .triggers
            .iter()
            .map(|row| {
                let closed = row.closed.as_deref().map_or_else(|| "still open".to_owned(), short);
                vec![row.kind.to_owned(), row.priority.to_string(), row.causes.join(", "), short(&row.raised), closed]
            })
            .collect();
        out.table(&["retraining trigger", "priority", "causes", "raised", "closed"], &rows)?;
        out.line("")?;
        let minutes = |mae: Option<f64>| mae.map_or_else(|| "-".to_owned(), |mae| format!("{:.1} min", mae / 60_000.0));
        let rows: Vec<Vec<String>> = totals
            .trainings
            .iter()
            .map(|row| {
                let version = row.version.map_or_else(|| "-".to_owned(), |version| version.to_string());
                vec![short(&row.asked), row.outcome.clone(), version, minutes(row.mae_before), minutes(row.mae_after)]
            })
            .collect();
        if !rows.is_empty() {
            out.table(&["training asked for", "outcome", "version", "error over a day before", "after"], &rows)?;
            out.line("")?;
        }
        out.line(format!(
            "  {} tickets in {seconds:.1} s ({:.0} tickets/s), a look at every one of {} hours",
            totals.tickets, totals.tickets_per_second, totals.marks
        ))?;
        if self.slow {
            out.line(
                "  The slow-down was injected by this demo; the clock change in March (hour_of_day), the summer and the winds are real.",
            )?;
        }
        out.line("")?;
        let title = out.tone(Tone::Strong, "Next");
        out.line(title)?;
        for (command, what) in [
            ("tidemark demo --no-slowdown", "the year as it was"),
            ("tidemark demo --no-training", "the schedule's own estimates watched, and nobody answers"),
            (
                "tidemark check --tickets data/flights-demo.ndjson.zst --baseline-from 2013-01-01 --baseline-to 2013-03-01 --at 2013-03-22 --window 7d",
                "one window, one verdict",
            ),
            ("script/servers start", "MongoDB and Kafka on this machine; then see \"On real servers\" in the README"),
        ] {
            out.line(format!("  {command}"))?;
            let what = out.tone(Tone::Faint, what);
            out.line(format!("      {what}"))?;
        }
        Ok(())
    }
}

/// Shortens RFC 3339 to the minute.
fn short(time: &str) -> String {
    time.get(..16).map_or_else(|| time.to_owned(), |text| text.replace('T', " "))
}
