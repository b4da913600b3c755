//! What a torn transaction left visible beyond the position: known, so that reading the stream again does not repeat it.
//!
//! In each partition that is the beginning of what the transaction held for it. So control records, which every partition
//! gets in one order, are adopted as one sequence of which each partition has a prefix.

use std::collections::{HashMap, VecDeque};

use serde::Deserialize;

use super::source::ClusterTime;
use crate::log::Delivered;
use crate::ticket::{Control, KIND, TICKET};

/// After so many events, more than one transaction ever held, what is left will not come any more.
const PATIENCE: u64 = 50_000;

/// What tells one event of the source from every other, however often it is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// A completion in the change stream.
    Commit(Vec<u8>, ClusterTime),
    /// A row of the history.
    Row(Vec<u8>),
    /// A row of a file.
    Completion(Vec<u8>, i64),
    /// Something without an id, by its position.
    Place(String),
}

/// Records beyond the position.
#[derive(Debug)]
pub(crate) struct Adopted {
    events: HashMap<Identity, u32>,
    latest: Option<ClusterTime>,
    patience: u64,
    patience_with_rows: u64,
    controls: VecDeque<AdoptedControl>,
    done: Vec<Control>,
}

/// A control record, and which partitions have it.
#[derive(Debug)]
pub(crate) struct AdoptedControl {
    pub(crate) control: Control,
    pub(crate) present: Vec<bool>,
}

#[derive(Deserialize)]
struct TicketLines {
    completed_at: i64,
    #[serde(default)]
    commit: Option<ClusterTime>,
    transition: crate::ticket::Transition,
}

#[derive(Deserialize)]
struct DeadLines {
    #[serde(default)]
    position: Option<String>,
}

/// Position of a dead letter of the history begins with this.
pub(crate) const ROW_PLACE: &str = "_id ";
/// Position of a dead letter of the change stream begins with this; the token's hex follows.
pub(crate) const TOKEN_PLACE: &str = "token ";

/// Returns the cluster time in a resume token's `_data`: a KeyString that begins with a timestamp (type 0x82, big endian).
pub(crate) fn time_of_token(data: &str) -> Option<ClusterTime> {
    let digits = data.get(..18)?.strip_prefix("82")?;
    let number = |range: std::ops::Range<usize>| u32::from_str_radix(digits.get(range)?, 16).ok();
    Some((number(0..8)?, number(8..16)?))
}

/// Returns the cluster time in a dead letter's position; `None` of the history and of files.
pub(crate) fn time_of_place(position: &str) -> Option<ClusterTime> {
    time_of_token(position.strip_prefix(TOKEN_PLACE)?)
}

/// Returns the identity of a dead letter.
pub(crate) fn of_dead_letter(key: Option<&[u8]>, position: Option<&str>) -> Identity {
    let position = position.unwrap_or_default();
    match key {
        Some(key) if position.starts_with(ROW_PLACE) => Identity::Row(key.to_vec()),
        Some(key) => match time_of_place(position) {
            Some(time) => Identity::Commit(key.to_vec(), time),
            None => Identity::Place(position.to_owned()),
        },
        None => Identity::Place(position.to_owned()),
    }
}

/// Returns the identity of a ticket.
pub(crate) fn of_ticket(key: &[u8], commit: Option<ClusterTime>, transition: crate::ticket::Transition, completed_at_ms: i64) -> Identity {
    match commit {
        Some(time) => Identity::Commit(key.to_vec(), time),
        None if transition == crate::ticket::Transition::History => Identity::Row(key.to_vec()),
        None => Identity::Completion(key.to_vec(), completed_at_ms),
    }
}

impl Default for Adopted {
    fn default() -> Self {
        Self {
            events: HashMap::new(),
            latest: None,
            patience: PATIENCE,
            patience_with_rows: PATIENCE,
            controls: VecDeque::new(),
            done: Vec::new(),
        }
    }
}

impl Adopted {
    /// Whether there is nothing to be careful about.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.controls.is_empty()
    }

    /// Returns how many events and control records are known.
    pub(crate) fn len(&self) -> usize {
        self.events.values().map(|&times| times as usize).sum::<usize>() + self.controls.len()
    }

    /// Adopts a record of `tickets`; records of one partition in order. `nth` counts its control records there, from 0.
    ///
    /// # Errors
    /// Why it cannot be one of ours.
    pub(crate) fn adopt_ticket_or_control(&mut self, record: &Delivered, partitions: u32, nth: &mut usize) -> Result<(), String> {
        let value = record.value.as_deref().unwrap_or_default();
        let wrong = |error: serde_json::Error| error.to_string();
        if record.header(KIND) == Some(TICKET.as_bytes()) {
            let lines: TicketLines = serde_json::from_slice(value).map_err(wrong)?;
            let key = record.key.as_deref().unwrap_or_default();
            self.adopt_event(of_ticket(key, lines.commit, lines.transition, lines.completed_at));
            return Ok(());
        }
        let control: Control = serde_json::from_slice(value).map_err(wrong)?;
        let partition = record.partition as usize;
        let place = (*nth..self.controls.len()).find(|&i| self.controls[i].control == control);
        let place = place.unwrap_or_else(|| {
            self.controls.push_back(AdoptedControl { control, present: vec![false; partitions as usize] });
            self.controls.len() - 1
        });
        self.controls[place].present[partition] = true;
        *nth = place + 1;
        Ok(())
    }

    /// Adopts a record of `dead-letters`.
    ///
    /// # Errors
    /// Why it cannot be one of ours.
    pub(crate) fn adopt_dead_letter(&mut self, record: &Delivered) -> Result<(), String> {
        let value = record.value.as_deref().unwrap_or_default();
        let lines: DeadLines = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        self.adopt_event(of_dead_letter(record.key.as_deref(), lines.position.as_deref()));
        Ok(())
    }

    fn adopt_event(&mut self, identity: Identity) {
        let time = match &identity {
            Identity::Commit(_, time) => Some(*time),
            // What has no id has its time in its position.
            Identity::Place(position) => time_of_place(position),
            Identity::Row(_) | Identity::Completion(..) => None,
        };
        self.latest = self.latest.max(time);
        *self.events.entry(identity).or_default() += 1;
    }

    /// Whether this event is already in the log; if so, once less.
    pub(crate) fn skip(&mut self, identity: &Identity) -> bool {
        let Some(times) = self.events.get_mut(identity) else {
            return false;
        };
        *times -= 1;
        if *times == 0 {
            self.events.remove(identity);
        }
        true
    }

    /// One more event has been read, the source is at `time`: gives up what did not come again, and returns how many.
    pub(crate) fn pass(&mut self, time: Option<ClusterTime>) -> usize {
        self.patience = self.patience.saturating_sub(1);
        let over = self.latest.is_some() && time > self.latest;
        if !over && self.patience > 0 {
            return 0;
        }
        // Rows of the history come in their own time, however far the stream is.
        self.latest = None;
        self.give_up(|identity| !is_row(identity))
    }

    /// One more row of the history has been read: after more than a transaction ever held, gives up those that did not come again, and
    /// returns how many.
    pub(crate) fn pass_row(&mut self) -> usize {
        self.patience_with_rows = self.patience_with_rows.saturating_sub(1);
        if self.patience_with_rows == 0 { self.give_up(is_row) } else { 0 }
    }

    /// The history has been read to its end: gives up the rows that did not come again, and returns how many.
    pub(crate) fn pass_history(&mut self) -> usize {
        self.give_up(is_row)
    }

    fn give_up(&mut self, which: impl Fn(&Identity) -> bool) -> usize {
        let before = self.events.len();
        self.events.retain(|identity, _| !which(identity));
        before - self.events.len()
    }

    /// Returns the control records to be completed when `control` is next: those adopted before it, and itself.
    /// `None`: it must wait until what was adopted has come again.
    pub(crate) fn complete(&mut self, control: &Control) -> Option<Vec<AdoptedControl>> {
        if self.done.iter().any(|done| same(done, control)) {
            return Some(Vec::new());
        }
        let Some(place) = self.controls.iter().position(|adopted| same(&adopted.control, control)) else {
            return self.controls.is_empty().then(Vec::new);
        };
        Some(self.drain_to(place + 1))
    }

    /// Returns the control records to be completed when the stream only goes on under a baseline of at least this version: all up
    /// to that one. Where it was not adopted, no mark that comes after it was, either: those up to the next mark.
    pub(crate) fn complete_decisions(&mut self, wanted: u64) -> Vec<AdoptedControl> {
        let is_wanted = |adopted: &AdoptedControl| matches!(adopted.control, Control::Baseline { version, .. } if version >= wanted);
        let marked = self.controls.iter().position(|adopted| matches!(adopted.control, Control::Mark(_)));
        let end = self.controls.iter().position(is_wanted).map_or(marked.unwrap_or(self.controls.len()), |place| place + 1);
        self.drain_to(end)
    }

    fn drain_to(&mut self, end: usize) -> Vec<AdoptedControl> {
        let completed: Vec<_> = self.controls.drain(..end).collect();
        self.done.extend(completed.iter().map(|adopted| adopted.control.clone()));
        completed
    }

    /// Whether `control` is among what was adopted.
    pub(crate) fn has(&self, control: &Control) -> bool {
        self.controls.iter().any(|adopted| same(&adopted.control, control))
    }

    /// Whether `control` is in the log, in every partition.
    pub(crate) fn is_done(&self, control: &Control) -> bool {
        self.done.iter().any(|done| same(done, control))
    }

    /// Returns all control records that are left, events or not.
    pub(crate) fn surrender(&mut self) -> Vec<AdoptedControl> {
        self.drain_to(self.controls.len())
    }

    /// The source will bring none of it again: forgets the events, and returns all control records.
    pub(crate) fn abandon(&mut self) -> Vec<AdoptedControl> {
        self.events.clear();
        self.surrender()
    }

    /// Returns the control records that are left and wait for nothing, once no event is left.
    pub(crate) fn rest(&mut self) -> Vec<AdoptedControl> {
        if !self.events.is_empty() {
            return Vec::new();
        }
        if self.patience == 0 {
            return self.surrender();
        }
        let mut rest = Vec::new();
        // A mark comes when time comes; what stands behind it waits for it.
        while let Some(next) = self.controls.pop_front_if(|next| !matches!(next.control, Control::Mark(_))) {
            self.done.push(next.control.clone());
            rest.push(next);
        }
        rest
    }
}

/// Whether an event is a row of the history.
fn is_row(identity: &Identity) -> bool {
    match identity {
        Identity::Row(_) => true,
        Identity::Place(place) => place.starts_with(ROW_PLACE),
        Identity::Commit(..) | Identity::Completion(..) => false,
    }
}

/// Whether two control records are one: marks by number, the others by id.
fn same(a: &Control, b: &Control) -> bool {
    fn id(control: &Control) -> (&'static str, Option<u64>, Option<&str>) {
        let kind = control.kind();
        match control {
            Control::Mark(mark) => (kind, Some(mark.number), None),
            Control::Gap { id, .. }
            | Control::Baseline { id, .. }
            | Control::Outcome { id, .. }
            | Control::Silence { id, .. }
            | Control::Accept { id, .. }
            | Control::ChainStart { id, .. } => (kind, None, Some(id)),
        }
    }
    id(a) == id(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::Mark;

    #[test]
    fn what_has_no_id_is_waited_for_until_its_own_time() {
        let mut adopted = Adopted::default();
        adopted.adopt_event(Identity::Commit(b"before".to_vec(), (5, 1)));
        let without_id = Identity::Place(format!("{TOKEN_PLACE}82{:08X}{:08X}", 7, 1));
        adopted.adopt_event(without_id.clone());
        assert_eq!(adopted.pass(Some((6, 1))), 0);
        assert!(adopted.skip(&without_id), "it is in the log already");
    }

    #[test]
    fn a_stream_that_waits_for_a_baseline_completes_what_was_decided_before() {
        let accept = |id: &str| Control::Accept { id: id.to_owned(), cause: "target".to_owned() };
        let baseline = |version| Control::Baseline { id: format!("b@{version}"), version };
        let mark = Control::Mark(Mark { number: 7, end_ms: 0, partitions: 1, baseline: None });
        let left = |controls: &[Control]| {
            let controls = controls.iter().map(|control| AdoptedControl { control: control.clone(), present: vec![true] });
            let mut adopted = Adopted { controls: controls.collect(), ..Adopted::default() };
            adopted.complete_decisions(2);
            adopted.controls.into_iter().map(|adopted| adopted.control).collect::<Vec<_>>()
        };
        assert_eq!(left(&[accept("a"), accept("b")]), []);
        assert_eq!(left(&[accept("a"), baseline(2), mark.clone()]), std::slice::from_ref(&mark));
        assert_eq!(left(&[accept("a"), mark.clone(), accept("b")]), [mark, accept("b")]);
    }

    #[test]
    fn the_stream_that_passes_its_own_events_leaves_the_rows_of_the_history() {
        let mut adopted = Adopted::default();
        adopted.adopt_event(Identity::Row(b"row".to_vec()));
        adopted.adopt_event(Identity::Commit(b"streamed".to_vec(), (5, 1)));
        assert_eq!(adopted.pass(Some((6, 1))), 1);
        assert!(adopted.skip(&Identity::Row(b"row".to_vec())), "it is known until it comes again");
        adopted.adopt_event(Identity::Row(b"deleted".to_vec()));
        assert_eq!(adopted.pass_history(), 1);
        assert!(adopted.is_empty());
    }

    #[test]
    fn a_row_that_does_not_come_again_is_given_up_after_so_many_others_and_not_after_so_many_events() {
        let mut adopted = Adopted::default();
        adopted.adopt_event(Identity::Row(b"deleted".to_vec()));
        assert!((0..2 * PATIENCE).all(|_| adopted.pass(Some((6, 1))) == 0));
        assert!((1..PATIENCE).all(|_| adopted.pass_row() == 0));
        assert_eq!(adopted.pass_row(), 1);
        assert!(adopted.is_empty());
    }
}
