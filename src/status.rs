//! The record of `status`: the verdict of the last mark, and all that the judge needs to go on from there.
//!
//! Its value is a function of the marks alone: the same bytes from any number of partitions and processes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::alert::{Evidence, Level};
use crate::log::Delivered;
use crate::trigger::Trigger;

/// What every version of the program writes into a status.
#[derive(Deserialize)]
struct Lines {
    spec: String,
    mark: u64,
}

/// The newest status among the records of its topic: that of the last mark. One that stands there again changes nothing, and what is no
/// status is a stranger's.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    last: Option<(u64, Delivered)>,
    /// Records that are no statuses.
    pub(crate) strangers: u64,
}

impl Newest {
    /// Takes the next record, in the order of the log.
    pub(crate) fn take(&mut self, spec: &str, record: Delivered) {
        match serde_json::from_slice::<Lines>(record.value.as_deref().unwrap_or_default()) {
            Ok(lines) if record.key.as_deref() != Some(lines.spec.as_bytes()) => self.strangers += 1,
            Ok(lines) if lines.spec != spec || self.last.as_ref().is_some_and(|(mark, _)| *mark > lines.mark) => {}
            Ok(lines) => self.last = Some((lines.mark, record)),
            Err(_) => self.strangers += 1,
        }
    }

    /// Returns the record, which another version of the program may have written.
    pub(crate) fn record(self) -> Option<Delivered> {
        self.last.map(|(_, record)| record)
    }
}

/// How far the judge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeState {
    /// No baseline is in force.
    NoBaseline,
    /// No window that decides is full yet.
    Filling,
    /// Some causes are judged, others wait for a full window under this baseline.
    Settling,
    /// The baseline is too short to know its own noise: warnings at most.
    Uncalibrated,
    /// Every cause is judged.
    Judging,
}

impl JudgeState {
    /// All states, in order.
    pub const ALL: [Self; 5] = [Self::NoBaseline, Self::Filling, Self::Settling, Self::Uncalibrated, Self::Judging];

    /// Returns the word that records and metrics use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoBaseline => "no_baseline",
            Self::Filling => "filling",
            Self::Settling => "settling",
            Self::Uncalibrated => "uncalibrated",
            Self::Judging => "judging",
        }
    }
}

/// The verdict of one mark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the spec.
    pub spec: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Name of the model.
    pub model: String,
    /// The mark.
    pub mark: u64,
    /// Its end of slice, ms since 1970: windows end here.
    pub at_ms: i64,
    /// Version of the baseline in force.
    pub baseline: Option<u64>,
    /// How far the judge is.
    pub state: JudgeState,
    /// The verdict; `None` before the first.
    pub status: Option<Level>,
    /// One sentence for a person.
    pub summary: String,
    /// What to do, in words.
    pub recommendations: Vec<String>,
    /// What each window shows, shortest first.
    pub windows: Vec<WindowStatus>,
    /// What each cause is judged by, by name.
    pub causes: BTreeMap<String, CauseStatus>,
    /// Columns over the critical PSI whose cause has an episode at the critical level.
    pub columns_over: Vec<String>,
    /// The trigger that is open.
    pub trigger: Option<Trigger>,
    /// Causes that a person silenced, and until when, ms since 1970.
    pub silences: BTreeMap<String, i64>,
    /// What limits this verdict: an uncalibrated baseline, a gap, an incomplete window.
    pub caveats: Vec<String>,
    /// Gaps within the longest window, as `from` and `to`, ms since 1970.
    pub gaps: Vec<(i64, i64)>,
    /// First instant from which the log is known whole, ms since 1970: no window reaches back further.
    pub since_ms: i64,
}

/// What one window shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowStatus {
    /// Length in days.
    pub days: u32,
    /// Tickets in it.
    pub rows: u64,
    /// Of these, late ones.
    pub late: u64,
    /// Whether it reaches back over its whole length.
    pub full: bool,
    /// PSI by column.
    pub psi: BTreeMap<String, f64>,
    /// PSI against the first baseline by cause of features; empty while the first is in force. No verdict rests on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub anchor_psi: BTreeMap<String, f64>,
    /// KS distance of the target.
    pub ks: Option<f64>,
    /// Textbook p-value of the target.
    pub ks_p: Option<f64>,
    /// Mean |error| in the target's unit, of the judged series.
    pub mae: Option<f64>,
    /// By the baseline's.
    pub mae_ratio: Option<f64>,
    /// The judged series.
    pub series: Option<String>,
}

/// How one cause stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CauseStatus {
    /// Its looks at this mark, one a window that decides.
    pub evidence: Vec<Evidence>,
    /// Looks over at the critical level in a row.
    pub critical_looks: u32,
    /// Looks over at the warning level in the longest window in a row.
    pub warning_looks: u32,
    /// Looks below the closing threshold in a row.
    pub close_looks: u32,
    /// How it is now was accepted: no episode before it has been quiet, or the baseline changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
    /// The open episode.
    pub episode: Option<Episode>,
}

/// An open episode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    /// Its id.
    pub id: String,
    /// Its level.
    pub level: Level,
    /// Mark at which it opened.
    pub opened_mark: u64,
    /// That mark's end of slice, ms since 1970.
    pub opened_at_ms: i64,
    /// When it reached the critical level, ms since 1970.
    pub critical_at_ms: Option<i64>,
    /// When the change began, ms since 1970.
    pub onset_ms: Option<i64>,
    /// Level that consumers were told last; `None` while a silence holds the alert back.
    pub told: Option<Level>,
    /// Alerts that a silence held back.
    #[serde(default)]
    pub silenced_alerts: u32,
    /// A training answered it: it asks for no other until it has been over again under the new version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answered: bool,
    /// A new version is in force, and its windows decide whether this ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovering: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mark_counts_and_no_stranger() {
        let mut newest = Newest::default();
        let mut offset = 0;
        let mut take = |key: &'static str, value: Option<&'static str>| {
            let (key, value) = (Some(key.into()), value.map(Into::into));
            newest.take("s", Delivered { partition: 0, offset, timestamp_ms: 0, key, value, headers: vec![] });
            offset += 1;
        };
        take("s", Some(r#"{"spec":"s","mark":7}"#));
        take("s", Some(r#"{"spec":"s","mark":8}"#));
        take("s", Some(r#"{"spec":"s","mark":7}"#));
        take("t", Some(r#"{"spec":"t","mark":9}"#));
        for stranger in [Some("{"), Some(r#"{"spec":"s","mark":1e9}"#), Some(r#"{"spec":"t","mark":9}"#), None] {
            take("s", stranger);
        }
        assert_eq!((newest.strangers, newest.record().map(|record| record.offset)), (4, Some(1)));
    }
}
