//! One chained topic, read in order: its chains, its order, its control records; and what each record says of a ticket.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::buckets::Key;
use super::findings::{Findings, Kind};
use crate::log::Delivered;
use crate::tail::ROW_PLACE;
use crate::tail::core::DEAD_LETTER;
use crate::tail::partition::partition;
use crate::tail::position::{Head, Position};
use crate::tail::source::ClusterTime;
use crate::ticket::{Break, CHAIN, Chain, Control, KIND, TICKET, TicketId, Transition};

/// A completion, as a record of `tickets` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketLine {
    /// The record's key.
    pub key: Bytes,
    /// When it says it completed, ms since 1970.
    pub completed_at_ms: i64,
    /// MongoDB's cluster time of the completion; `None` for a row of the history.
    pub commit: Option<ClusterTime>,
    /// How the completion is known.
    pub transition: Transition,
    /// Where the record is.
    pub place: (u32, i64),
}

/// An unusable document, as a record of `dead-letters` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLine {
    /// The record's key; `None` when the document has no id.
    pub key: Option<Bytes>,
    /// Why it cannot be used.
    pub reason: String,
    /// When it says it completed, ms since 1970, where that can be read.
    pub completed_at_ms: Option<i64>,
    /// MongoDB's `_id` of it, as the record has it.
    pub document: Option<String>,
    /// Where in its source it is.
    pub position: String,
    /// Where the record is.
    pub place: (u32, i64),
}

impl DeadLine {
    /// Whether it comes of the collection as it was read, and not of the stream.
    pub(super) fn is_row(&self) -> bool {
        self.position.starts_with(ROW_PLACE)
    }

    /// Returns what it is compared by.
    #[must_use]
    pub fn id(&self) -> Key {
        self.key.as_deref().map_or_else(|| Key::of_no_id(&self.reason), Key::of)
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A completion.
    Ticket(TicketLine),
    /// An unusable document.
    Dead(DeadLine),
}

/// A loss that is told.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Gap {
    /// Last cluster time known to be read, ms since 1970.
    pub from_ms: i64,
    /// First cluster time known to follow, ms since 1970.
    pub to_ms: i64,
    /// Why.
    pub reason: String,
}

/// Where a partition begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Sequence of the first record that is kept; above 1 when retention has removed others.
    pub seq: u64,
    /// When the broker appended it, ms since 1970.
    pub at_ms: i64,
}

/// A control record by its kind, and its number or the hash of its id.
type Name = (&'static str, u64);

#[derive(Default)]
struct Partition {
    chain: Option<Chain>,
    /// Those before it, each as far as it came.
    earlier: Vec<Chain>,
    beginning: Option<Beginning>,
    latest: Option<ClusterTime>,
    mark: Option<u64>,
    controls: Vec<Name>,
}

/// Follows one topic. Memory: 24 bytes a control record and partition, apart from a few numbers.
pub struct Follower {
    topic: String,
    holds_tickets: bool,
    partitions: Vec<Partition>,
    gaps: BTreeMap<String, Gap>,
    has_history: bool,
    findings: Findings,
}

#[derive(Deserialize)]
struct TicketValue<'v> {
    #[serde(borrow)]
    id: &'v RawValue,
    completed_at: i64,
    #[serde(default)]
    commit: Option<ClusterTime>,
    transition: Transition,
}

#[derive(Deserialize)]
struct DeadValue<'v> {
    #[serde(borrow)]
    reason: Cow<'v, str>,
    #[serde(default)]
    completed_at: Option<i64>,
    #[serde(borrow, default)]
    document: Option<&'v RawValue>,
    #[serde(borrow, default)]
    position: Option<Cow<'v, str>>,
}

impl Follower {
    /// Follows `tickets`, of so many partitions.
    #[must_use]
    pub fn of_tickets(topic: &str, partitions: u32) -> Self {
        Self::new(topic, partitions, true)
    }

    /// Follows `dead-letters`.
    #[must_use]
    pub fn of_dead_letters(topic: &str, partitions: u32) -> Self {
        Self::new(topic, partitions, false)
    }

    fn new(topic: &str, partitions: u32, holds_tickets: bool) -> Self {
        Self {
            topic: topic.to_owned(),
            holds_tickets,
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            gaps: BTreeMap::new(),
            has_history: false,
            findings: Findings::default(),
        }
    }

    /// Takes the next record of its partition.
    pub fn take(&mut self, record: &Delivered) -> Option<Line> {
        self.chain(record);
        let line = match read(record) {
            Ok(line) => line?,
            Err(why) => {
                let place = self.place(record);
                self.findings.note(Kind::Unreadable, || format!("{place}: {why}"));
                return None;
            }
        };
        if line_key(&line).is_some_and(|key| partition(key, self.count()) != record.partition) {
            let place = self.place(record);
            self.findings.note(Kind::Unreadable, || format!("{place}: its key belongs into another partition"));
        }
        if let Line::Ticket(ticket) = &line {
            self.has_history |= ticket.transition == Transition::History;
            self.order(ticket);
        }
        Some(line)
    }

    fn count(&self) -> u32 {
        u32::try_from(self.partitions.len()).expect("it was made from a u32")
    }

    fn place(&self, record: &Delivered) -> String {
        place(&self.topic, (record.partition, record.offset))
    }

    /// Follows the chain; takes control records into account.
    fn chain(&mut self, record: &Delivered) {
        let place = self.place(record);
        let Some(theirs) = record.header(CHAIN).and_then(Chain::parse) else {
            self.findings.note(Kind::Stranger, || place);
            return;
        };
        let kind = record.header(KIND).unwrap_or_default();
        let begins = theirs.seq == 1 && (!self.holds_tickets || kind == b"chain-start");
        let Some(state) = self.partitions.get_mut(record.partition as usize) else { return };
        if state.beginning.is_none() {
            state.beginning = Some(Beginning { seq: theirs.seq, at_ms: record.timestamp_ms });
        }
        let is_other = state.chain.as_ref().is_none_or(|chain| chain.id != theirs.id);
        let followed = if is_other && begins {
            let mut begun = Chain::begin(&theirs.id);
            let followed = begun.follow(record);
            if followed.is_ok() {
                state.earlier.extend(state.chain.replace(begun));
            }
            followed
        } else if let Some(chain) = &mut state.chain {
            chain.follow(record)
        } else {
            // Retention has removed what came before.
            state.chain = Some(theirs.clone());
            Ok(())
        };
        if let Err(broken) = followed {
            self.findings.note(Kind::ChainBroken, || format!("{place}: {broken}"));
            if matches!(broken, Break::Missing { .. } | Break::Other { .. }) {
                state.earlier.extend(state.chain.replace(theirs));
            }
        }
        if self.holds_tickets && kind != TICKET.as_bytes() {
            self.control(record, &place);
        }
    }

    fn control(&mut self, record: &Delivered, place: &str) {
        let value = record.value.as_deref().unwrap_or_default();
        let control: Control = match serde_json::from_slice(value) {
            Ok(control) => control,
            Err(error) => return self.findings.note(Kind::Unreadable, || format!("{place}: no control record: {error}")),
        };
        let Some(state) = self.partitions.get_mut(record.partition as usize) else { return };
        state.controls.push(name(&control));
        match control {
            Control::Mark(mark) => {
                self.has_history |= mark.number == 0;
                if let Some(last) = state.mark.replace(mark.number)
                    && mark.number != last + 1
                {
                    self.findings.note(Kind::ControlTorn, || format!("{place}: mark {} follows mark {last}", mark.number));
                }
            }
            Control::Gap { id, from_ms, to_ms, reason } => {
                let gap = Gap { from_ms, to_ms, reason };
                if self.gaps.insert(id.clone(), gap.clone()).is_some_and(|other| other != gap) {
                    self.findings.note(Kind::ControlTorn, || format!("{place}: {id} has other words in another partition"));
                }
            }
            _ => {}
        }
    }

    /// The stream's tickets stand in MongoDB's order in each partition, so those of one ticket do.
    fn order(&mut self, ticket: &TicketLine) {
        let (Some(commit), Some(state)) = (ticket.commit, self.partitions.get_mut(ticket.place.0 as usize)) else { return };
        if state.latest > Some(commit) {
            let topic = &self.topic;
            let behind = state.latest.unwrap_or_default();
            self.findings.note(Kind::OutOfOrder, || {
                let id = String::from_utf8_lossy(&ticket.key).into_owned();
                format!("{}: {id} of commit {}.{} behind commit {}.{}", place(topic, ticket.place), commit.0, commit.1, behind.0, behind.1)
            });
        }
        state.latest = state.latest.max(Some(commit));
    }

    /// The position says how far each chain and the marks had come: the log must reach that far, but for what retention has removed.
    /// `lows` are the first offsets that are kept, one a partition.
    pub fn reaches(&mut self, position: &Position, lows: &[i64]) {
        let heads = if self.holds_tickets { &position.tickets } else { &position.dead_letters };
        for (number, ((state, head), low)) in self.partitions.iter().zip(heads).zip(lows).enumerate() {
            if *low >= head.offset {
                continue;
            }
            if lacks(state, head) {
                let topic = &self.topic;
                self.findings.note(Kind::ChainBroken, || {
                    format!("{topic}[{number}] ends before record {} of chain {}, which the position names", head.chain.seq, head.chain.id)
                });
            }
            let marks = position.next_mark.saturating_sub(1);
            let marks_are_gone = state.mark.is_none() && state.beginning.is_some_and(|beginning| beginning.seq > 1);
            if self.holds_tickets && state.mark.unwrap_or(0) < marks && !marks_are_gone {
                let topic = &self.topic;
                self.findings.note(Kind::ControlTorn, || format!("{topic}[{number}] has no mark {marks}, which the position names"));
            }
        }
    }

    /// Whether the log holds what the collection was when tail first ran.
    #[must_use]
    pub fn has_history(&self) -> bool {
        self.has_history
    }

    /// Returns where the partition of a ticket begins.
    #[must_use]
    pub fn beginning_of(&self, key: &[u8]) -> Option<Beginning> {
        self.partitions.get(partition(key, self.count()) as usize)?.beginning
    }

    /// All has been read: compares the partitions' control records, and the gaps.
    #[must_use]
    pub fn end(mut self) -> (Findings, Vec<Gap>) {
        let longest = self.partitions.iter().map(|state| &state.controls).max_by_key(|controls| controls.len());
        let whole = longest.cloned().unwrap_or_default();
        for (number, state) in self.partitions.iter().enumerate() {
            if let Some(different) = differs(&whole, &state.controls) {
                let topic = &self.topic;
                self.findings.note(Kind::ControlTorn, || format!("{topic}[{number}]: {different}"));
            }
        }
        let mut gaps: Vec<Gap> = self.gaps.into_values().collect();
        gaps.sort_by_key(|gap| (gap.from_ms, gap.to_ms));
        for pair in gaps.windows(2) {
            if pair[1].from_ms < pair[0].to_ms {
                let [a, b] = [&pair[0], &pair[1]];
                let what = || format!("{} to {} and {} to {} ms", a.from_ms, a.to_ms, b.from_ms, b.to_ms);
                self.findings.note(Kind::GapsOverlap, what);
            }
        }
        (self.findings, gaps)
    }
}

fn lacks(state: &Partition, head: &Head) -> bool {
    let reaches = |chain: &Chain| chain.id == head.chain.id && chain.seq >= head.chain.seq;
    // A chain that begins anew stands first in the position, then in the log.
    head.chain.seq > 0 && !state.earlier.iter().chain(&state.chain).any(reaches)
}

/// Where a record is, in words.
pub(super) fn place(topic: &str, (partition, offset): (u32, i64)) -> String {
    format!("{topic}[{partition}] at {offset}")
}

fn name(control: &Control) -> Name {
    let id = match control {
        Control::Mark(mark) => mark.number,
        Control::Gap { id, .. }
        | Control::Baseline { id, .. }
        | Control::Outcome { id, .. }
        | Control::Silence { id, .. }
        | Control::Accept { id, .. }
        | Control::ChainStart { id, .. } => Key::of(id.as_bytes()).bucket() as u64,
    };
    (control.kind(), id)
}

/// Says where `part` is no stretch of `whole`, or has something twice. It may begin later (retention) and end earlier: what was torn
/// at the end is made whole when tail runs again, and the position says how far the marks must be there.
fn differs(whole: &[Name], part: &[Name]) -> Option<String> {
    let first = part.first()?;
    let mut seen = HashSet::new();
    if let Some((kind, id)) = part.iter().find(|name| name.0 == "mark" && !seen.insert(**name)) {
        return Some(format!("{kind} {id} is there twice"));
    }
    let Some(start) = whole.iter().position(|name| name == first) else {
        return Some(format!("{} {} is in no other partition", first.0, first.1));
    };
    let mut pairs = whole[start..].iter().zip(part);
    let (expected, found) = pairs.find(|(expected, found)| expected != found)?;
    Some(format!("{} {} where another partition has {} {}", found.0, found.1, expected.0, expected.1))
}

fn line_key(line: &Line) -> Option<&[u8]> {
    match line {
        Line::Ticket(ticket) => Some(&ticket.key),
        Line::Dead(dead) => dead.key.as_deref(),
    }
}

/// Reads what a record says of a ticket; `None` for control records and strangers' records.
///
/// # Errors
/// Why a record with our headers cannot be read.
pub(super) fn read(record: &Delivered) -> Result<Option<Line>, String> {
    if record.header(CHAIN).and_then(Chain::parse).is_none() {
        return Ok(None);
    }
    let place = (record.partition, record.offset);
    let value = record.value.as_deref().unwrap_or_default();
    let wrong = |error: serde_json::Error| error.to_string();
    let kind = record.header(KIND).unwrap_or_default();
    if kind == TICKET.as_bytes() {
        let value: TicketValue<'_> = serde_json::from_slice(value).map_err(wrong)?;
        let key = record.key.clone().ok_or("a ticket without a key")?;
        if *TicketId::from_json(value.id.get().to_owned()).key() != *key {
            return Err(format!("its key is not its id {}", value.id.get()));
        }
        let TicketValue { completed_at, commit, transition, .. } = value;
        return Ok(Some(Line::Ticket(TicketLine { key, completed_at_ms: completed_at, commit, transition, place })));
    }
    if kind == DEAD_LETTER.as_bytes() {
        let value: DeadValue<'_> = serde_json::from_slice(value).map_err(wrong)?;
        return Ok(Some(Line::Dead(DeadLine {
            key: record.key.clone(),
            reason: value.reason.into_owned(),
            completed_at_ms: value.completed_at,
            document: value.document.map(|id| id.get().to_owned()),
            position: value.position.unwrap_or_default().into_owned(),
            place,
        })));
    }
    Ok(None)
}
