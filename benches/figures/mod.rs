//! What a figure is, and all of them.

mod backfill;
mod backlog;
mod flights;
mod forests;
mod latency;
mod memory;
mod once;
mod policies;
mod predict;
mod process;
mod recovery;
mod stages;
mod training;
mod verdict;

use serde_json::{Value, json};

/// Measures a figure with that many runs.
pub(crate) type Measure = fn(usize) -> Vec<Figure>;

/// Name, what it is, and how it is measured.
pub(crate) const ALL: &[(&str, &str, Measure)] = &[
    ("year", "the demo's year of flights, all stages in one process", stages::year),
    ("verdict", "a verdict over windows of 10,000 and 1,000,000 rows", verdict::verdict),
    ("ticket-cost", "cost of a ticket in windows of 10,000 and 1,000,000 rows", memory::ticket_cost),
    ("memory", "memory of run with 1,000,000 rows in the window, and while a second million passes", memory::memory),
    ("backlog-inserts", "300,000 inserted flights, MongoDB to Kafka, against a bare cursor", backlog::inserts),
    ("backlog-updates", "300,000 updates to COMPLETED, MongoDB to Kafka, against a bare cursor", backlog::updates),
    ("exactly-once", "a backlog of 300,000 flights, tail against the same tail over a producer without transactions", once::exactly_once),
    ("recovery", "each stage killed with 1,000,000 rows in the window, to the first new verdict", recovery::recovery),
    ("backfill", "prediction errors of 300,000 tickets in MongoDB, into Kafka, against a bare find cursor", backfill::backfill),
    ("watch-judge", "300,000 tickets in Kafka to the last verdict, against a plain reader and writer", stages::watch_judge),
    ("latency", "insert acknowledged to ticket visible, 1,000/s", latency::ticket),
    ("predict", "one prediction over HTTP, 1,000/s, against scikit-learn behind a Python server", predict::duration),
    ("load", "a worker's load against 1,000,000 tickets in MongoDB", predict::load),
    ("forest", "the duration forest on 100,000 flights, against scikit-learn's; its file in onnxruntime", forests::forest),
    ("training", "from a request for a training to its baseline in Kafka, and what the stream feels of it", training::training),
    ("policies", "a year of flights under four policies of retraining", policies::policies),
    ("isolation", "the isolation forest on 100,000 flights with planted anomalies, against scikit-learn's", forests::isolation),
    ("alert-latency", "commit of the ticket that ends a slice to alert visible, 1,000/s", latency::alert),
];

/// One measured number beside its baseline.
pub(crate) struct Figure {
    /// What it is.
    pub(crate) name: String,
    /// The median.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// The median of what it is compared with, from the same run.
    pub(crate) baseline: Option<f64>,
    /// What it is compared with.
    pub(crate) against: &'static str,
    /// The goal, in words.
    pub(crate) goal: &'static str,
    /// Whether the goal holds.
    pub(crate) holds: bool,
}

impl Figure {
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.baseline.map(|baseline| self.value / baseline)
    }

    pub(crate) fn print(&self) {
        let ratio = self.ratio().map_or(String::new(), |ratio| {
            format!("  {ratio:.3} of {} {} ({})", number(self.baseline.unwrap_or_default()), self.unit, self.against)
        });
        println!(
            "{:<44} {:>12} {}{ratio}  goal {}: {}",
            self.name,
            number(self.value),
            self.unit,
            self.goal,
            if self.holds { "holds" } else { "MISSED" }
        );
    }

    pub(crate) fn json(&self) -> Value {
        json!({"name": self.name, "value": self.value, "unit": self.unit, "baseline": self.baseline, "against": self.against,
            "ratio": self.ratio(), "goal": self.goal, "holds": self.holds})
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// Returns the median; the mean of the middle two of an even count.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Returns a quantile by linear interpolation.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    assert!(!values.is_empty(), "a figure has at least one run");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q * (sorted.len() - 1) as f64;
    let low = at.floor() as usize;
    let high = at.ceil() as usize;
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}
