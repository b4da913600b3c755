//! The baseline: what a window is held against. Immutable, versioned, one Kafka record (at most 1 MB).

pub mod anchor;
pub mod builder;
pub mod clusters;
pub mod document;
pub(crate) mod learned;
pub(crate) mod noise;
pub mod quantile;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::anchor::Anchor;
pub use self::clusters::Clusters;
use crate::config::Config;
use crate::model::shelf::ModelRef;
use crate::summary::ErrorSums;

/// The series of a ticket's own prediction.
pub const RECORDED: &str = "recorded";
/// The transactional id of all that writes baselines, by stage or by command: they fence each other, so that each number is given once.
pub(crate) fn transactional_id(config: &Config) -> String {
    format!("{}.baseline", config.kafka.topic_prefix)
}

/// c of ln(|error| + c) as a share of the MAE.
pub(crate) const LOG_OFFSET: f64 = 0.01;

/// A baseline of one spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Name of the spec.
    pub spec: String,
    /// Its fingerprint: a baseline of another spec is refused.
    pub fingerprint: String,
    /// Name of the model.
    pub model: String,
    /// Version, from 1.
    pub version: u64,
    /// When it was made, ms since 1970 (wall time).
    pub created_at_ms: i64,
    /// Start of its data, inclusive, ms since 1970.
    pub from_ms: i64,
    /// End of its data, exclusive. Windows count only tickets that completed at or after it.
    pub to_ms: i64,
    /// Usable tickets.
    pub rows: u64,
    /// One a feature, in the model's order.
    pub columns: Vec<Column>,
    /// The target.
    pub target: TargetColumn,
    /// Where its tickets lie, all features together. `None`: made before baselines had clusters, so that they are not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Clusters>,
    /// The first baseline, where this is not it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Anchor>,
    /// Errors by series.
    pub errors: BTreeMap<String, ErrorBaseline>,
    /// c of ln(|error| + c): 1 % of the MAE of the judged series; 0 when that is unknown.
    pub log_offset: f64,
    /// What the baseline does by itself, one a window length, shortest first.
    pub noise: Vec<Noise>,
    /// The model in Production while this baseline is in force: its series is judged, and it scores tickets that it did not
    /// predict itself. `None`: the tickets' own predictions are judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scored_by: Option<ModelRef>,
    /// The mark whose request for a training it answers, where one asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<u64>,
    /// Made by a drift training: until a full window has passed only its error is judged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub provisional: bool,
}

/// A feature's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Name of the feature.
    pub name: String,
    /// Bins; missing, non-finite and unseen follow after them.
    pub bins: Bins,
    /// Rows by bin, the last three included.
    pub counts: Vec<u64>,
    /// What a learned encoder gives each category (index = row of the feature's table); empty for the others.
    #[serde(default)]
    pub learned: Vec<f64>,
    /// Mean of the finite values.
    pub mean: f64,
    /// Population standard deviation.
    pub std: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// At most 1,000 values, evenly spaced in order of size.
    pub sample: Vec<f64>,
}

/// How values fall into bins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bins {
    /// A bin a value; others are unseen.
    Values(Vec<f64>),
    /// Bin i holds `edge[i-1] < x <= edge[i]`, open at both ends: one more bin than edges.
    Edges(Vec<f64>),
}

impl Bins {
    /// Returns the number of bins, without missing, non-finite and unseen.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Values(values) => values.len(),
            Self::Edges(edges) => edges.len() + 1,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bin of a value: missing is `len()`, non-finite `len() + 1`, unseen `len() + 2`.
    #[must_use]
    pub fn bin(&self, cell: Cell) -> usize {
        let number = match cell {
            Cell::Missing => return self.len(),
            Cell::Unseen => return self.len() + 2,
            Cell::Number(number) => number,
        };
        if number.is_nan() || number.is_infinite() {
            return self.len() + 1;
        }
        match self {
            Self::Values(values) => values.binary_search_by(|v| v.total_cmp(&(number + 0.0))).unwrap_or(self.len() + 2),
            Self::Edges(edges) => edges.partition_point(|edge| *edge < number),
        }
    }
}

/// A value of a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell {
    /// Absent or unreadable.
    Missing,
    /// A category that the table does not list.
    Unseen,
    /// A number, maybe not finite.
    Number(f64),
}

/// The target's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetColumn {
    /// Edges of the fine histogram: the k/1024 quantiles, equal ones merged, open ends.
    pub edges: Vec<f64>,
    /// Rows by bin.
    pub counts: Vec<u64>,
    /// Mean.
    pub mean: f64,
    /// Population standard deviation.
    pub std: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// At most 1,000 values, evenly spaced in order of size.
    pub sample: Vec<f64>,
}

/// Errors of one series over the baseline's rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorBaseline {
    /// Mean absolute error in the target's unit.
    pub mae: f64,
    /// Days behind that MAE.
    pub days: f64,
    /// The sums.
    pub sums: ErrorSums,
}

/// Noise of one window length (judgement: from daily counts inside the baseline).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Window length L in days.
    pub days: u32,
    /// K = ⌊days of the baseline / L⌋.
    pub windows: u32,
    /// φ by cause, `target` and `clusters` included.
    pub phi: BTreeMap<String, f64>,
    /// s: standard deviation of ln(MAE(W) / MAE(B − W)) by series; `None` when it cannot be had.
    pub log_mae_std: BTreeMap<String, f64>,
}
