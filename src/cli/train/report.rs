//! What a training says: one report, as JSON for programs and as lines for a person.

use serde::Serialize;
use serde_json::{Value, json};

use crate::clock::{DAY_MS, rfc3339};
use crate::train::trial::TrialError;

use super::Surroundings;
use super::rows::Rows;
use crate::cli::baseline::publish::Published;
use crate::cli::exit::Failure;
use crate::cli::out::{Out, Tone, plain};
use crate::cli::tickets::Tally;

/// One training.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Its id.
    pub(super) id: String,
    spec: String,
    at: String,
    window_days: u32,
    dry_run: bool,
    /// Whether the duration model meets its criterion.
    pub(super) valid: bool,
    /// In a sentence.
    pub(super) summary: String,
    rows: u64,
    read: Tally,
    from_the_future: u64,
    older_rows_dropped: u64,
    /// The models.
    pub(super) models: Vec<ModelReport>,
    /// The baseline that was written.
    pub(super) baseline: Option<BaselineReport>,
    /// Whether the report is in `ml_training_history`.
    pub(super) in_mongodb: bool,
    /// What else is worth knowing.
    pub(super) notes: Vec<String>,
    /// What to do.
    pub(super) advice: Vec<String>,
}

/// One model of a training.
#[derive(Debug, Serialize)]
pub(super) struct ModelReport {
    /// Name of the model.
    pub(super) model: String,
    /// `promoted`, `already promoted`, `registered`; or what a dry run would do.
    pub(super) outcome: &'static str,
    /// Why.
    pub(super) reason: String,
    /// Whether its criterion is met.
    pub(super) valid: bool,
    /// The version in Production before.
    pub(super) production_before: Option<u64>,
    /// The version that was promoted.
    pub(super) promoted: Option<u64>,
    /// Versions of the candidates, in order.
    pub(super) versions: Vec<u64>,
    /// The candidates.
    pub(super) candidates: Vec<Value>,
}

impl ModelReport {
    /// Begins.
    pub(super) fn new(model: &str, production_before: Option<u64>) -> Self {
        Self {
            model: model.to_owned(),
            outcome: "registered",
            reason: String::new(),
            valid: false,
            production_before,
            promoted: None,
            versions: Vec::new(),
            candidates: Vec::new(),
        }
    }
}

/// The baseline that begins with a version.
#[derive(Debug, Serialize)]
pub(super) struct BaselineReport {
    version: u64,
    in_kafka: bool,
    in_mongodb: bool,
    rows: u64,
    from: String,
    to: String,
    mae: Option<f64>,
    open_causes: Vec<String>,
}

impl BaselineReport {
    /// Says what was published.
    pub(super) fn of(published: &Published, in_kafka: bool, open_causes: &[String]) -> Self {
        let baseline = &published.baseline;
        let series = crate::drift::look::judged_series(baseline);
        Self {
            version: baseline.version,
            in_kafka,
            in_mongodb: published.in_mongodb,
            rows: baseline.rows,
            from: rfc3339(baseline.from_ms),
            to: rfc3339(baseline.to_ms),
            mae: baseline.errors.get(series).map(|errors| errors.mae),
            open_causes: open_causes.to_vec(),
        }
    }
}

impl Report {
    /// Begins the report of a training.
    pub(super) fn begin(around: &Surroundings, rows: &Rows) -> Self {
        let days = around.config.train.window_days;
        let window = rows.frame.between(rows.at_ms - i64::from(days) * DAY_MS, rows.at_ms);
        let mut notes = Vec::new();
        if rows.frame.dropped_rows() > 0 {
            let (dropped, most) = (rows.frame.dropped_rows(), around.config.train.max_rows);
            notes.push(format!("{dropped} older tickets were not kept: a model sees the newest {most} (train.max_rows)"));
        }
        if rows.from_the_future > 0 {
            let many = rows.from_the_future;
            notes.push(format!("{many} tickets completed more than an hour from now and were left out: is a clock ahead, here or there?"));
        }
        if rows.is_at_rest && window.start < window.end {
            notes.push(format!(
                "nothing completed in the last {days} days: the window ends with the newest ticket, {}",
                rfc3339(rows.at_ms - 1)
            ));
        }
        if let Some(unused) = rows.tally.unused() {
            notes.push(unused);
        }
        Self {
            id: rows.id.clone(),
            spec: around.spec.name.clone(),
            at: rfc3339(rows.at_ms),
            window_days: days,
            dry_run: around.dry_run,
            valid: false,
            summary: String::new(),
            rows: window.len() as u64,
            read: rows.tally.clone(),
            from_the_future: rows.from_the_future,
            older_rows_dropped: rows.frame.dropped_rows(),
            models: Vec::new(),
            baseline: None,
            in_mongodb: false,
            notes,
            advice: Vec::new(),
        }
    }

    /// Says why there is no model.
    pub(super) fn not_trained(&mut self, error: &TrialError) {
        self.summary = format!("nothing was trained: {error}");
    }

    /// Sums up.
    pub(super) fn end(&mut self) {
        // The first is the model that tickets are scheduled by.
        self.valid = self.models.first().is_some_and(|model| model.valid);
        let of = |model: &ModelReport| format!("{}: {} ({})", model.model, model.outcome, model.reason);
        self.summary = self.models.iter().map(of).collect::<Vec<_>>().join("; ");
    }

    /// Returns the report of one model, as a document.
    pub(super) fn of(&self, model: &ModelReport) -> Value {
        json!({
            "training_id": self.id, "spec": self.spec, "at": self.at, "window_days": self.window_days, "rows": self.rows,
            "valid": model.valid, "outcome": model.outcome, "reason": model.reason, "production_before": model.production_before,
            "promoted": model.promoted, "versions": model.versions, "candidates": model.candidates,
            "baseline": self.baseline, "read": self.read, "notes": self.notes, "advice": self.advice,
        })
    }

    /// Writes it for a person.
    pub(super) fn show(&self, out: &mut Out) -> Result<(), Failure> {
        let window = format!("{} tickets of the {} days before {}", self.rows, self.window_days, self.at);
        out.line(format!("Training {} of {}: {window}.", self.id, plain(&self.spec)))?;
        for model in &self.models {
            out.line("")?;
            model.show(out)?;
        }
        if self.models.is_empty() {
            let summary = out.tone(Tone::Critical, &plain(&self.summary));
            out.line(summary)?;
        }
        if let Some(baseline) = &self.baseline {
            out.line("")?;
            let place = match (baseline.in_kafka, baseline.in_mongodb) {
                (true, true) => "Kafka and MongoDB",
                (true, false) => "Kafka",
                _ => "MongoDB",
            };
            let mae = baseline.mae.map_or_else(|| "unknown".to_owned(), |mae| format!("{mae:.0}"));
            out.line(format!("Baseline {} is in {place}: {} tickets, MAE {mae}.", baseline.version, baseline.rows))?;
        }
        for (head, lines) in [("Note", &self.notes), ("To do", &self.advice)] {
            for line in lines {
                out.line(format!("{head}: {}.", plain(line)))?;
            }
        }
        if self.dry_run {
            out.line("Nothing was registered or written (--dry-run).")?;
        }
        Ok(())
    }
}

impl ModelReport {
    fn show(&self, out: &mut Out) -> Result<(), Failure> {
        let version = self.promoted.map_or_else(String::new, |version| format!(" as version {version}"));
        let tone = if self.valid { Tone::Good } else { Tone::Warning };
        let head = out.tone(tone, &format!("{}: {}{version}", plain(&self.model), self.outcome));
        out.line(head)?;
        out.line(format!("  {}", plain(&self.reason)))?;
        if self.candidates.iter().any(|candidate| candidate["candidate"] == "anomaly") { self.anomaly(out) } else { self.duration(out) }
    }

    fn version_of(&self, candidate: usize) -> String {
        self.versions.get(candidate).map_or_else(|| "-".to_owned(), ToString::to_string)
    }

    fn duration(&self, out: &mut Out) -> Result<(), Failure> {
        let rows: Vec<Vec<String>> = (self.candidates.iter().enumerate())
            .map(|(at, candidate)| {
                let metrics = &candidate["metrics"];
                vec![
                    candidate["candidate"].as_str().unwrap_or("-").to_owned(),
                    self.version_of(at),
                    candidate["training"]["rows"].to_string(),
                    metrics["rows"].to_string(),
                    figure(&metrics["mae"], 0),
                    percent(&metrics["mae_share"]),
                    figure(&metrics["rmse"], 0),
                    figure(&metrics["r2"], 3),
                    candidate["comparison"]["production_mae"].as_f64().map_or_else(|| "-".to_owned(), |mae| format!("{mae:.0}")),
                    percent(&candidate["interval"]["coverage"]),
                ]
            })
            .collect();
        let head =
            ["CANDIDATE", "VERSION", "TRAINED ON", "HELD OUT", "MAE", "OF MEAN", "RMSE", "R2", "PRODUCTION'S MAE", "COVERAGE OF 80 %"];
        out.table(&head, &rows)
    }

    fn anomaly(&self, out: &mut Out) -> Result<(), Failure> {
        let rows: Vec<Vec<String>> = (self.candidates.iter().enumerate())
            .map(|(at, candidate)| {
                let metrics = &candidate["metrics"];
                let shares = ["precision", "recall", "f1", "base_rate"].map(|name| percent(&metrics[name]));
                let counts = [candidate["training"]["rows"].to_string(), metrics["rows"].to_string()];
                [self.version_of(at)].into_iter().chain(counts).chain(shares).chain([figure(&metrics["lift"], 2)]).collect()
            })
            .collect();
        out.table(&["VERSION", "TRAINED ON", "LABELLED", "PRECISION", "RECALL", "F1", "BASE RATE", "LIFT"], &rows)
    }
}

fn figure(value: &Value, digits: usize) -> String {
    value.as_f64().map_or_else(|| "unknown".to_owned(), |number| format!("{number:.digits$}"))
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| "unknown".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}
