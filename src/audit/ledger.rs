//! Some buckets in full: every ticket of them as MongoDB and as the log have it, and where the two differ.

use std::collections::BTreeMap;
use std::collections::HashMap;

use bytes::Bytes;

use super::buckets::{Chosen, Key};
use super::findings::{Findings, Kind};
use super::follower::{DeadLine, Line, TicketLine, place};
use crate::ticket::Transition;

/// What MongoDB, or whoever knows, holds of a ticket that completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<'f> {
    /// It completed.
    Completed {
        /// The record key of its id.
        key: &'f [u8],
        /// When it says it completed, ms since 1970.
        completed_at_ms: i64,
    },
    /// It completed and cannot be used.
    Dead {
        /// The record key of its id, where it has one.
        key: Option<&'f [u8]>,
        /// Why, as dead letters name it.
        reason: &'f str,
    },
}

impl Fact<'_> {
    /// Returns what it is compared by, and its time where it has one.
    #[must_use]
    pub fn item(&self) -> (Key, Option<i64>) {
        match self {
            Self::Completed { key, completed_at_ms } => (Key::of(key), Some(*completed_at_ms)),
            Self::Dead { key: Some(key), .. } => (Key::of(key), None),
            Self::Dead { key: None, reason } => (Key::of_no_id(reason), None),
        }
    }

    fn name(&self) -> Bytes {
        match self {
            Self::Completed { key, .. } | Self::Dead { key: Some(key), .. } => Bytes::copy_from_slice(key),
            Self::Dead { key: None, reason } => Bytes::from(format!("(no id: {reason})")),
        }
    }
}

/// A ticket that one side lacks: the other may know why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// What it is compared by.
    pub id: Key,
    /// The record key.
    pub key: Bytes,
    /// When it says it completed, ms since 1970; `None` of a document that cannot be used.
    pub completed_at_ms: Option<i64>,
    /// Whether the other side has another completion of it.
    pub has_another: bool,
}

impl std::fmt::Display for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = String::from_utf8_lossy(&self.key);
        match self.completed_at_ms {
            Some(ms) => write!(f, "{key} completed at {}", crate::clock::rfc3339(ms)),
            None => write!(f, "{key}"),
        }
    }
}

/// What two sides differ in.
#[derive(Clone, Debug, Default)]
pub struct Differences {
    /// MongoDB has it, the log does not.
    pub only_in_mongodb: Vec<Open>,
    /// The log has it, MongoDB does not.
    pub only_in_log: Vec<Open>,
    /// What needs no further look.
    pub findings: Findings,
}

/// What a dead letter is known by among those of its id, or of none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Told<'l> {
    At(&'l str),
    Document(&'l str),
    /// Ms since 1970.
    Completion(i64),
}

#[derive(Default)]
struct Entry {
    key: Bytes,
    completed: Vec<i64>,
    dead: u32,
    tickets: Vec<TicketLine>,
    letters: Vec<DeadLine>,
}

/// Both sides of some buckets.
pub struct Ledger {
    chosen: Chosen,
    entries: HashMap<Key, Entry>,
}

impl Ledger {
    /// Takes what is in `chosen`, and nothing else.
    #[must_use]
    pub fn of(chosen: Chosen) -> Self {
        Self { chosen, entries: HashMap::new() }
    }

    /// Takes what MongoDB has.
    pub fn fact(&mut self, fact: &Fact<'_>) {
        let (id, completed_at_ms) = fact.item();
        if !self.chosen.has(id) {
            return;
        }
        let entry = self.entries.entry(id).or_default();
        if entry.key.is_empty() {
            entry.key = fact.name();
        }
        match completed_at_ms {
            Some(ms) => entry.completed.push(ms),
            None => entry.dead += 1,
        }
    }

    /// Takes what the log has.
    pub fn line(&mut self, line: Line) {
        let (id, key) = match &line {
            Line::Ticket(ticket) => (Key::of(&ticket.key), ticket.key.clone()),
            Line::Dead(dead) => (dead.id(), dead.key.clone().unwrap_or_else(|| Bytes::from(format!("(no id: {})", dead.reason)))),
        };
        if !self.chosen.has(id) {
            return;
        }
        let entry = self.entries.entry(id).or_default();
        if entry.key.is_empty() {
            entry.key = key;
        }
        match line {
            Line::Ticket(ticket) => entry.tickets.push(ticket),
            Line::Dead(dead) => entry.letters.push(dead),
        }
    }

    /// Compares the two sides. `topics` are the names of `tickets` and `dead-letters`, for the words.
    #[must_use]
    pub fn compare(self, topics: (&str, &str)) -> Differences {
        let mut differences = Differences::default();
        // In an order of their own, so that what is told is the same each time.
        let entries: BTreeMap<Key, Entry> = self.entries.into_iter().collect();
        for (id, entry) in &entries {
            entry.repeats(topics, &mut differences.findings);
            entry.lacks(*id, &mut differences);
        }
        differences
    }
}

impl Entry {
    fn name(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }

    fn repeats(&self, (tickets, dead_letters): (&str, &str), findings: &mut Findings) {
        let mut by_time: BTreeMap<i64, Vec<&TicketLine>> = BTreeMap::new();
        for ticket in &self.tickets {
            by_time.entry(ticket.completed_at_ms).or_default().push(ticket);
        }
        for (ms, lines) in by_time {
            // As many documents may share an id as MongoDB has.
            let mut allowed = self.completed.iter().filter(|at| **at == ms).count().max(1) - 1;
            for (at, line) in lines.iter().enumerate().skip(1) {
                let earlier = &lines[..at];
                let is_same = |other: &&&TicketLine| other.commit == line.commit || other.commit.is_none() || line.commit.is_none();
                let Some(other) = earlier.iter().find(is_same) else {
                    let kind = if line.transition == Transition::Assumed { Kind::Folded } else { Kind::Again };
                    findings.note(kind, || self.name());
                    continue;
                };
                if line.transition == Transition::Assumed && other.commit != line.commit {
                    findings.note(Kind::Folded, || self.name());
                } else if allowed > 0 {
                    allowed -= 1;
                } else {
                    let at = crate::clock::rfc3339(ms);
                    findings.note(Kind::Duplicated, || {
                        format!("{} completed at {at}: {} and {}", self.name(), place(tickets, other.place), place(tickets, line.place))
                    });
                }
            }
        }
        let mut told: HashMap<Told<'_>, (u32, i64)> = HashMap::new();
        for letter in &self.letters {
            let position = Some(letter.position.as_str()).filter(|position| !position.is_empty()).map(Told::At);
            let document = letter.document.as_deref().map(Told::Document);
            let completion = letter.completed_at_ms.filter(|_| letter.key.is_some()).map(Told::Completion);
            // One event of the stream is told once. What a reading of the collection meets must not have been told at all; but what was
            // written again after it had been read is told again.
            let others = [document, completion].into_iter().flatten().filter(|_| letter.is_row());
            if let Some(other) = position.into_iter().chain(others).find_map(|it| told.get(&it)) {
                findings.note(Kind::DuplicatedDeadLetter, || {
                    format!("{}: {} and {}", self.name(), place(dead_letters, *other), place(dead_letters, letter.place))
                });
            }
            for it in [position, document, completion].into_iter().flatten() {
                told.insert(it, letter.place);
            }
        }
    }

    fn lacks(&self, id: Key, differences: &mut Differences) {
        let mut in_log: BTreeMap<i64, usize> = BTreeMap::new();
        for ticket in &self.tickets {
            *in_log.entry(ticket.completed_at_ms).or_default() += 1;
        }
        let mut in_mongodb: BTreeMap<i64, usize> = BTreeMap::new();
        for ms in &self.completed {
            *in_mongodb.entry(*ms).or_default() += 1;
        }
        let (has_tickets, has_completed) = (!self.tickets.is_empty(), !self.completed.is_empty());
        let open = |completed_at_ms, has_another| Open { id, key: self.key.clone(), completed_at_ms, has_another };
        // A document of which the log has another completion was changed afterwards, or completed again and is still to come.
        for (ms, count) in &in_mongodb {
            let there = in_log.get(ms).copied().unwrap_or(0);
            for _ in there..*count {
                if self.letters.is_empty() {
                    differences.only_in_mongodb.push(open(Some(*ms), has_tickets));
                } else {
                    differences.findings.note(Kind::OtherwiseRecorded, || open(Some(*ms), false).to_string());
                }
            }
        }
        for ms in in_log.keys().filter(|ms| !in_mongodb.contains_key(ms)) {
            differences.only_in_log.push(open(Some(*ms), has_completed));
        }
        let letters = self.letters.len();
        for _ in letters..self.dead as usize {
            if self.tickets.is_empty() {
                differences.only_in_mongodb.push(open(None, false));
            } else {
                differences.findings.note(Kind::OtherwiseRecorded, || open(None, false).to_string());
            }
        }
        if self.dead == 0 && letters > 0 && self.completed.is_empty() {
            differences.only_in_log.push(open(None, false));
        }
    }
}
