//! What marks and summaries have to be, computed anew from `tickets` by simpler means: a clean pass shares its code with the run that
//! it is compared to, so a fault that both have does not show there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidemark::clock::{DAY_MS, HOUR_MS};
use tidemark::log::Delivered;
use tidemark::ticket::{Control, KIND, Mark, Ticket, Transition};

use crate::script::Script;

/// A slice as it is counted: start, rows, of these late, repeats.
type Counts = (i64, u64, u64, u64);

#[derive(Default)]
struct Slice {
    seen: BTreeSet<(Vec<u8>, i64)>,
    rows: u64,
    late: u64,
    repeats: u64,
    is_changed: bool,
}

/// One partition of `tickets`, counted.
pub(crate) struct Oracle<'a> {
    script: &'a Script,
    slices: BTreeMap<i64, Slice>,
    floor_ms: i64,
    last: Option<Mark>,
    /// What each mark has to publish.
    published: Vec<(u64, Vec<Counts>)>,
    faults: Vec<String>,
}

/// Returns what is wrong with the marks among a partition's records, and what each mark has to publish.
pub(crate) fn count(script: &Script, records: &[Delivered]) -> (Vec<(u64, Vec<Counts>)>, Vec<String>) {
    let (slices, published, faults) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut oracle = Oracle { script, slices, floor_ms: i64::MIN, last: None, published, faults };
    for record in records {
        let value = record.value.as_deref().unwrap_or_default();
        if record.header(KIND) == Some(b"ticket") {
            oracle.ticket(&Ticket::decode(&script.spec, value).expect("we wrote it"));
            continue;
        }
        match serde_json::from_slice(value).expect("we wrote it") {
            Control::Mark(mark) => oracle.mark(mark),
            Control::Baseline { .. } => oracle.slices.values_mut().for_each(|slice| slice.is_changed = true),
            _ => {}
        }
    }
    (oracle.published, oracle.faults)
}

impl Oracle<'_> {
    fn slice_of(&self, ms: i64) -> i64 {
        let slice_ms = self.script.config.window.slice_ms;
        ms.div_euclid(slice_ms) * slice_ms
    }

    fn ticket(&mut self, ticket: &Ticket) {
        let window = &self.script.config.window;
        if let (Some((seconds, _)), Some(mark), false) = (ticket.commit, self.last, self.script.is_replay()) {
            let source_ms = i64::from(seconds) * 1_000;
            let next_ms = if mark.number == 0 { i64::MAX } else { mark.end_ms + window.slice_ms };
            if mark.end_ms + window.lateness_ms > source_ms || next_ms.saturating_add(window.lateness_ms) <= source_ms {
                self.faults.push(format!("ticket {} of {source_ms} ms stands behind mark {mark:?}", ticket.id));
            }
        }
        let start = self.slice_of(ticket.event_at_ms);
        if start < self.floor_ms {
            return;
        }
        let identity = (ticket.id.key().into_owned(), ticket.completed_at_ms);
        let first = match ticket.transition {
            Transition::Assumed => self.slice_of(ticket.completed_at_ms.min(ticket.event_at_ms) - HOUR_MS),
            _ => start,
        };
        if let Some((_, slice)) = self.slices.range_mut(first..=start).rev().find(|(_, slice)| slice.seen.contains(&identity)) {
            slice.repeats += 1;
            slice.is_changed = true;
            return;
        }
        let is_late = self.last.is_some_and(|mark| start + self.script.config.window.slice_ms <= mark.end_ms);
        let slice = self.slices.entry(start).or_default();
        slice.seen.insert(identity);
        slice.rows += 1;
        slice.late += u64::from(is_late);
        slice.is_changed = true;
    }

    fn mark(&mut self, mark: Mark) {
        let slice_ms = self.script.config.window.slice_ms;
        let follows = match self.last {
            None => mark.number <= 1,
            Some(last) => mark.number == last.number + 1 && (last.number == 0 || mark.end_ms == last.end_ms + slice_ms),
        };
        if !follows {
            self.faults.push(format!("{mark:?} follows {:?}", self.last));
        }
        self.last = Some(mark);
        let reach_ms = if mark.number == 0 { 0 } else { DAY_MS };
        self.floor_ms = self.floor_ms.max(mark.end_ms - reach_ms);
        self.slices.retain(|start, _| *start >= self.floor_ms);
        let ended = self.slices.range_mut(..mark.end_ms).filter(|(_, slice)| slice.is_changed);
        let counts = ended.map(|(start, slice)| {
            slice.is_changed = false;
            (*start, slice.rows, slice.late, slice.repeats)
        });
        self.published.push((mark.number, counts.collect()));
    }
}

/// Returns the counts that summaries hold, mark by mark.
pub(crate) fn summarised<'r>(values: impl Iterator<Item = &'r [u8]>) -> Vec<(u64, Vec<Counts>)> {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    values
        .map(|value| {
            let summary: Value = serde_json::from_slice(value).expect("we wrote it");
            let slices = summary["slices"].as_array().into_iter().flatten();
            let counts = slices.map(|slice| {
                let start = slice["start_ms"].as_i64().unwrap_or_default();
                (start, number(&slice["rows"]), number(&slice["late"]), number(&slice["repeats"]))
            });
            (number(&summary["mark"]["number"]), counts.collect())
        })
        .collect()
}
