//! The protocol of the first stage: events of a source in, records and the position that goes with them out.
//!
//! Pure: no clock of its own, no I/O. What comes out is a function of the events, of the baselines and decisions that were
//! handed in between them, and of nothing else; not of how events were batched, nor of where a process ended.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::adopted::{self, Adopted, AdoptedControl, Identity};
use super::normalise::{DeadLetter, DeadReason, Normalised};
use super::partition::partition;
use super::position::{Head, Position};
use super::source::{ClusterTime, Event, Opened, Place};
use super::streamed::{Streamed, completion, unusable};
use crate::clock::DAY_MS;
use crate::config::{ClockMode, Window};
use crate::log::{Record, Transaction};
use crate::spec::Spec;
use crate::ticket::{Control, Mark, TICKET, Ticket, TicketId, Transition};
use crate::topics::Topics;

/// [`crate::ticket::KIND`] of a dead letter.
pub const DEAD_LETTER: &str = "dead-letter";
/// Marks are cut into transactions of about so many records.
const MOST_RECORDS: usize = 10_000;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has been taken.
    Taken,
    /// It has not: what is there must be committed first. Offer it again.
    Full,
    /// It has not: a baseline of at least this version must come first. Offer it again.
    Await(u64),
    /// It has not: the verdicts of earlier marks must come first. Offer it again.
    AwaitVerdict,
    /// It was the last.
    End,
}

/// What came out since the last [`Core::seal`], for the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tickets.
    pub tickets: u64,
    /// Dead letters, by reason in the order of [`DeadReason::ALL`].
    pub dead: [u64; DeadReason::ALL.len()],
    /// Marks, counted once whatever the number of partitions.
    pub marks: u64,
    /// Events that a torn transaction had brought into the log before.
    pub skipped: u64,
    /// Rows of the history that the stream had brought before.
    pub streamed: u64,
    /// Events adopted that never came again.
    pub vanished: u64,
    /// Gaps.
    pub gaps: u64,
}

/// The protocol's state.
#[derive(Debug)]
pub struct Core {
    spec: Arc<Spec>,
    topics: Arc<Topics>,
    slice_ms: i64,
    lateness_ms: i64,
    longest_ms: i64,
    position: Position,
    adopted: Adopted,
    streamed: Streamed,
    touched_tickets: Vec<bool>,
    touched_dead: Vec<bool>,
    out: Vec<Record>,
    counts: Counts,
    scratch: Vec<u8>,
    /// The last mark that may be sent.
    last_mark: Option<u64>,
    is_held: bool,
}

impl Core {
    /// Goes on from `position`, knowing what is `adopted` beyond it and, during a history, which keys were `streamed`.
    #[must_use]
    pub(crate) fn new(
        spec: Arc<Spec>,
        topics: Arc<Topics>,
        window: &Window,
        position: Position,
        adopted: Adopted,
        streamed: Streamed,
    ) -> Self {
        let partitions = position.tickets.len();
        Self {
            spec,
            topics,
            slice_ms: window.slice_ms,
            lateness_ms: window.lateness_ms,
            longest_ms: window.days.iter().copied().max().map_or(0, |days| i64::from(days) * DAY_MS),
            position,
            adopted,
            streamed,
            touched_tickets: vec![false; partitions],
            touched_dead: vec![false; partitions],
            out: Vec::new(),
            counts: Counts::default(),
            scratch: Vec::new(),
            last_mark: None,
            is_held: false,
        }
    }

    /// Sends no mark after this one, until it is told of a later one.
    pub(crate) fn allow_marks_until(&mut self, last: u64) {
        self.last_mark = Some(last);
    }

    /// Whether the last event that was offered has to wait for verdicts: nothing lies between it and the next mark.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held
    }

    fn held_up(&self) -> Step {
        if self.is_held { Step::AwaitVerdict } else { Step::Full }
    }

    /// Returns the position as it would be committed now.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Returns the records that wait for [`Core::seal`].
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Whether a torn transaction is being made whole. Until it is, nothing must be committed: the position would say that
    /// what it left is done with, and the next process could not tell it from what is still to come.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        !self.adopted.is_empty()
    }

    /// Whether more keys were streamed since the history began than are remembered: see [`Core::remember`].
    #[must_use]
    pub fn has_forgotten_keys(&self) -> bool {
        self.position.history.is_some() && self.streamed.has_forgotten()
    }

    /// Returns what a ticket is remembered as while a history is read: its key, or, when the collection is read again, this
    /// completion of it.
    pub(crate) fn remembered_as<'t>(&self, ticket: &'t Ticket) -> Cow<'t, [u8]> {
        let key = ticket.id.key();
        let is_again = self.position.history.as_ref().is_some_and(|history| history.completed_from_ms.is_some());
        if is_again { completion(&key, ticket.completed_at_ms).into() } else { key }
    }

    /// The same of a document that cannot be used; `None` when nothing is known of it.
    pub(crate) fn unusable_as(letter: &DeadLetter) -> Option<Cow<'_, [u8]>> {
        unusable(letter.id.as_ref().map(TicketId::key), letter.document.as_ref().map(TicketId::json))
    }

    /// Remembers a key that the stream has brought since the history began, as found in the log.
    pub fn remember(&mut self, key: &[u8]) {
        self.streamed.insert_at_hand(key);
    }

    /// Other events are at hand than those whose keys were looked up.
    pub(crate) fn forget_looked_up(&mut self) {
        self.streamed.forget_at_hand();
    }

    /// Returns the key of a row that is in the log or not, for all that is remembered; `None` of what needs no look.
    pub(crate) fn wants(&self, event: &Event) -> Option<Vec<u8>> {
        let Event::Row { normalised, .. } = event else { return None };
        let key = match normalised {
            Normalised::Completed(ticket) if !self.is_before(ticket) => Some(self.remembered_as(ticket)),
            Normalised::Dead(letter) => Self::unusable_as(letter),
            _ => None,
        };
        key.filter(|key| !self.streamed.contains(key)).map(Cow::into_owned)
    }

    /// Whether a row completed before anything counts.
    fn is_before(&self, ticket: &Ticket) -> bool {
        let from_ms = self.position.history.as_ref().and_then(|history| history.completed_from_ms);
        from_ms.is_some_and(|from_ms| ticket.completed_at_ms < from_ms)
    }

    /// Begins the chains, and the history with its floor mark, where that has not been done.
    pub fn begin(&mut self) {
        let start = Control::ChainStart {
            id: format!("chain-{}", self.position.tickets[0].chain.id),
            spec: self.position.spec.clone(),
            fingerprint: self.position.fingerprint.clone(),
            partitions: self.position.partitions(),
        };
        if self.position.tickets.iter().any(|head| head.chain.seq == 0) || self.adopted.has(&start) {
            self.control(&start);
        }
        if let Some(time) = self.position.place.time()
            && self.position.clock.now_at(Some(time)) != self.position.clock.now()
        {
            self.position.clock.pass(time);
        }
        let Some(since) = self.position.history.as_ref().map(|history| history.since) else {
            self.position.next_mark = self.position.next_mark.max(1);
            return;
        };
        if self.position.next_mark == 0 {
            if self.position.clock.mode() != ClockMode::Tickets {
                let floor = i64::from(since.0) * 1_000 - self.longest_ms;
                self.mark(floor.div_euclid(self.slice_ms) * self.slice_ms);
            }
            self.position.next_mark = 1;
        }
    }

    /// MongoDB has forgotten what followed the position: a gap record says so, up to `present`. With `opened`, the collection is read
    /// again from there; `streamed` holds what the log has of it. Without, nothing moves but what is told, and it is told once.
    ///
    /// Records that a torn transaction left beyond the position will not come again: they stand, and the reading meets them in
    /// `streamed` like all others.
    pub(crate) fn forget(&mut self, present: ClusterTime, reason: &str, opened: Option<(Opened, Streamed)>) {
        let mut told_ms = self.position.gap_told_ms;
        for adopted in self.adopted.abandon() {
            if let Control::Gap { to_ms, .. } = &adopted.control {
                told_ms = told_ms.max(Some(*to_ms));
            }
            self.complete(&adopted);
        }
        let read_ms = self.position.place.time().map_or(0, |(seconds, _)| i64::from(seconds) * 1_000);
        let (from_ms, to_ms) = (told_ms.unwrap_or(read_ms), (i64::from(present.0) + 1) * 1_000);
        let is_standing = opened.is_none() && told_ms.is_some();
        if from_ms < to_ms && !is_standing {
            let id = format!("gap-{from_ms}-{to_ms}");
            self.broadcast(&Control::Gap { id, from_ms, to_ms, reason: reason.to_owned() }, |_| true);
            self.counts.gaps += 1;
            told_ms = Some(to_ms);
        }
        match opened {
            None => self.position.gap_told_ms = told_ms,
            Some((opened, streamed)) => {
                self.position.gap_told_ms = None;
                self.position.place = opened.place;
                self.position.source = opened.fingerprint;
                self.position.history = opened.history;
                self.streamed = streamed;
            }
        }
    }

    /// Takes the next event. `present_ms` is the wall clock, which only tells what is from the future.
    pub fn take(&mut self, event: &mut Event, present_ms: i64) -> Step {
        match event {
            Event::Ticket { normalised: Normalised::Completed(ticket), after } => {
                let judged = self.position.clock.event_at(ticket.completed_at_ms, ticket.commit, present_ms);
                let now = match judged {
                    Ok(_) => self.position.clock.now_with(ticket.completed_at_ms, ticket.commit),
                    Err(_) => self.position.clock.now_at(ticket.commit),
                };
                if !self.marks_until(now, self.lateness_ms) {
                    return self.held_up();
                }
                let completed_at_ms = ticket.completed_at_ms;
                match judged {
                    Ok(event_at_ms) => {
                        ticket.event_at_ms = event_at_ms;
                        self.position.clock.take(completed_at_ms, ticket.commit);
                        self.ticket(ticket);
                    }
                    Err(ahead_ms) => {
                        self.pass(after);
                        let mut letter = from_the_future(&self.spec, ticket, ahead_ms);
                        letter.position = Some(position_text(after));
                        self.dead_letter(&letter);
                    }
                }
                self.arrive(after);
            }
            Event::Ticket { normalised, after } => {
                if !self.marks_until(self.position.clock.now_at(after.time()), self.lateness_ms) {
                    return self.held_up();
                }
                self.pass(after);
                if let Normalised::Dead(letter) = normalised {
                    if letter.position.is_none() || after.time().is_some() {
                        letter.position = Some(position_text(after));
                    }
                    self.dead_letter(letter);
                }
                self.arrive(after);
            }
            Event::Idle { after } => {
                if !self.marks_until(self.position.clock.now_at(after.time()), self.lateness_ms) {
                    return self.held_up();
                }
                self.pass(after);
                self.arrive(after);
            }
            Event::Row { normalised, last } => self.row(normalised, last, present_ms),
            Event::HistoryRead => {
                self.position.history = None;
                self.streamed = Streamed::default();
                self.counts.vanished += self.adopted.pass_history() as u64;
                for control in self.adopted.rest() {
                    self.complete(&control);
                }
            }
            Event::AwaitBaseline { version } => {
                let has_come = |position: &Position| position.baseline.is_some_and(|in_force| in_force >= *version);
                if !has_come(&self.position) {
                    // What was decided before the stream came here stood before it: a torn transaction's decisions wait no longer, not
                    // even for their own records, which another may now stand before.
                    for adopted in self.adopted.complete_decisions(*version) {
                        self.complete(&adopted);
                    }
                }
                if !has_come(&self.position) {
                    return Step::Await(*version);
                }
            }
            Event::End => {
                // There is nothing left to be late.
                if !self.marks_until(self.position.clock.now(), 0) {
                    return self.held_up();
                }
                for adopted in self.adopted.surrender() {
                    self.complete(&adopted);
                }
                return Step::End;
            }
        }
        Step::Taken
    }

    fn pass(&mut self, after: &Place) {
        if let Some(time) = after.time() {
            self.position.clock.pass(time);
        }
    }

    /// The event that ends at `after` is done with.
    fn arrive(&mut self, after: &Place) {
        self.position.place.clone_from(after);
        if !self.adopted.is_empty() {
            self.counts.vanished += self.adopted.pass(after.time()) as u64;
            for control in self.adopted.rest() {
                self.complete(&control);
            }
        }
    }

    fn row(&mut self, normalised: &mut Normalised, last: &Bytes, present_ms: i64) {
        let Some(since) = self.position.history.as_ref().map(|history| history.since) else { return };
        match normalised {
            Normalised::Completed(ticket) => {
                if self.is_before(ticket) || self.streamed.contains(&self.remembered_as(ticket)) {
                    self.counts.streamed += 1;
                    if !self.adopted.is_empty() {
                        self.adopted.skip(&Identity::Row(ticket.id.key().into_owned()));
                    }
                } else {
                    ticket.commit = None;
                    ticket.transition = Transition::History;
                    match self.position.clock.event_at(ticket.completed_at_ms, Some(since), present_ms) {
                        Ok(event_at_ms) => {
                            ticket.event_at_ms = event_at_ms;
                            self.ticket(ticket);
                        }
                        Err(ahead_ms) => {
                            let mut letter = from_the_future(&self.spec, ticket, ahead_ms);
                            letter.position = Some(row_text(last));
                            self.dead_letter(&letter);
                        }
                    }
                }
            }
            Normalised::Dead(letter) => {
                letter.position = Some(row_text(last));
                if Self::unusable_as(letter).is_some_and(|key| self.streamed.contains(&key)) {
                    self.counts.streamed += 1;
                    let key = letter.id.as_ref().map(TicketId::key);
                    self.adopted.skip(&adopted::of_dead_letter(key.as_deref(), letter.position.as_deref()));
                } else {
                    self.dead_letter(letter);
                }
            }
            Normalised::Other(_) => {}
        }
        if let Some(history) = &mut self.position.history {
            history.last = Some(last.clone());
            history.rows += 1;
        }
        if !self.adopted.is_empty() {
            self.counts.vanished += self.adopted.pass_row() as u64;
            for control in self.adopted.rest() {
                self.complete(&control);
            }
        }
    }

    fn ticket(&mut self, ticket: &Ticket) {
        let key = ticket.id.key();
        if self.position.history.is_some() && ticket.transition != Transition::History {
            let remembered = self.remembered_as(ticket).into_owned();
            self.streamed.insert(&remembered);
        }
        if !self.adopted.is_empty()
            && self.adopted.skip(&adopted::of_ticket(&key, ticket.commit, ticket.transition, ticket.completed_at_ms))
        {
            self.counts.skipped += 1;
            return;
        }
        self.counts.tickets += 1;
        let partition = partition(&key, self.position.partitions());
        self.scratch.clear();
        ticket.encode(&self.spec, &mut self.scratch);
        let value = Bytes::copy_from_slice(&self.scratch);
        let key = Bytes::copy_from_slice(&key);
        self.append_ticket_or_control(partition, TICKET, Some(key), value);
    }

    fn dead_letter(&mut self, letter: &DeadLetter) {
        let key = letter.id.as_ref().map(TicketId::key);
        if self.position.history.is_some()
            && let Some(key) = Self::unusable_as(letter)
            && !letter.position.as_deref().is_some_and(|place| place.starts_with(adopted::ROW_PLACE))
        {
            self.streamed.insert(&key);
        }
        if !self.adopted.is_empty() {
            let identity: Identity = adopted::of_dead_letter(key.as_deref(), letter.position.as_deref());
            if self.adopted.skip(&identity) {
                self.counts.skipped += 1;
                return;
            }
        }
        self.counts.dead[letter.reason as usize] += 1;
        let partition = key.as_deref().map_or(0, |key| partition(key, self.position.partitions()));
        let key = key.map(|key| Bytes::copy_from_slice(&key));
        let value = Bytes::from(letter.encode());
        let head = &mut self.position.dead_letters[partition as usize];
        self.touched_dead[partition as usize] = true;
        self.out.push(link(head, &self.topics.dead_letters, partition, DEAD_LETTER, key, value));
    }

    /// Puts a control record into every partition. `false`: not now, what was adopted has to come again first.
    #[must_use]
    pub fn decide(&mut self, control: &Control) -> bool {
        if let Control::Baseline { version, .. } = control
            && self.position.baseline.is_some_and(|in_force| *version <= in_force)
        {
            return true;
        }
        self.control(control)
    }

    /// The followed topics have been read up to these offsets.
    pub fn followed(&mut self, baselines_offset: Option<i64>, model_events_offset: Option<i64>) {
        if let Some(offset) = baselines_offset {
            self.position.baselines_offset = offset;
        }
        if let Some(offset) = model_events_offset {
            self.position.model_events_offset = offset;
        }
    }

    fn control(&mut self, control: &Control) -> bool {
        if self.adopted.is_done(control) {
            return true;
        }
        let Some(completed) = self.adopted.complete(control) else {
            return false;
        };
        let adopted_itself = !completed.is_empty();
        for adopted in &completed {
            self.complete(adopted);
        }
        if !adopted_itself {
            self.in_force(control);
            self.broadcast(control, |_| true);
        }
        true
    }

    /// Gives an adopted control record to the partitions that lack it.
    fn complete(&mut self, adopted: &AdoptedControl) {
        self.in_force(&adopted.control);
        self.broadcast(&adopted.control, |partition| !adopted.present[partition]);
    }

    fn in_force(&mut self, control: &Control) {
        if let Control::Baseline { version, .. } = control {
            self.position.baseline = self.position.baseline.max(Some(*version));
        }
    }

    fn broadcast(&mut self, control: &Control, to: impl Fn(usize) -> bool) {
        let value = Bytes::from(serde_json::to_vec(control).expect("texts and numbers have a JSON form"));
        for partition in 0..self.position.partitions() {
            if to(partition as usize) {
                self.append_ticket_or_control(partition, control.kind(), None, value.clone());
            }
        }
    }

    /// Sends the marks that stand before source time `now`. `false`: there are more than one transaction takes.
    #[must_use]
    fn marks_until(&mut self, now: Option<i64>, lateness_ms: i64) -> bool {
        let Some(now) = now else {
            return true;
        };
        if self.position.history.is_some() {
            return true;
        }
        let next_end = match (self.position.next_end_ms, self.position.clock.beginning()) {
            (Some(end), _) => end,
            (None, Some(beginning)) => (beginning.div_euclid(self.slice_ms) + 1) * self.slice_ms,
            // Time becomes known with the event that is at hand.
            (None, None) => return true,
        };
        self.position.next_end_ms = Some(next_end);
        let mut end = next_end;
        self.is_held = false;
        while end.saturating_add(lateness_ms) <= now {
            if self.last_mark.is_some_and(|last| self.position.next_mark > last) && !self.is_catching_up() {
                self.is_held = true;
                return false;
            }
            if self.out.len() >= MOST_RECORDS && !self.is_catching_up() {
                return false;
            }
            self.mark(end);
            end += self.slice_ms;
            self.position.next_end_ms = Some(end);
        }
        true
    }

    fn mark(&mut self, end_ms: i64) {
        let mark =
            Mark { number: self.position.next_mark, end_ms, partitions: self.position.partitions(), baseline: self.position.baseline };
        self.position.next_mark += 1;
        self.counts.marks += 1;
        if !self.control(&Control::Mark(mark)) {
            // Adopted marks come again in their order; one that is new can only come after all of them.
            for adopted in self.adopted.surrender() {
                self.complete(&adopted);
            }
            self.broadcast(&Control::Mark(Mark { baseline: self.position.baseline, ..mark }), |_| true);
        }
    }

    fn append_ticket_or_control(&mut self, partition: u32, kind: &'static str, key: Option<Bytes>, value: Bytes) {
        let head = &mut self.position.tickets[partition as usize];
        self.touched_tickets[partition as usize] = true;
        self.out.push(link(head, &self.topics.tickets, partition, kind, key, value));
    }

    /// Returns everything since the last call as one transaction, the position last.
    #[must_use]
    pub fn seal(&mut self) -> (Transaction, Counts) {
        let records = std::mem::take(&mut self.out);
        self.out.reserve(records.len());
        let last = Record {
            topic: self.topics.positions.clone(),
            partition: 0,
            key: Some(Bytes::from(self.position.spec.clone())),
            value: Some(Bytes::from(self.position.encode())),
            headers: Vec::new(),
        };
        // The end of a transaction takes an offset in each partition that it touched.
        let touched = self.touched_tickets.iter_mut().zip(&mut self.position.tickets);
        for (touched, head) in touched.chain(self.touched_dead.iter_mut().zip(&mut self.position.dead_letters)) {
            if std::mem::take(touched) {
                head.offset += 1;
            }
        }
        (Transaction { records, last: vec![last], offsets: None }, std::mem::take(&mut self.counts))
    }
}

fn link(head: &mut Head, topic: &Arc<str>, partition: u32, kind: &'static str, key: Option<Bytes>, value: Bytes) -> Record {
    let headers = head.chain.link(kind, key.as_deref(), &value);
    head.offset += 1;
    Record { topic: topic.clone(), partition, key, value: Some(value), headers }
}

fn from_the_future(spec: &Spec, ticket: &Ticket, ahead_ms: i64) -> DeadLetter {
    let minutes = ahead_ms / 60_000;
    DeadLetter::of_ticket(spec, ticket, DeadReason::FromTheFuture, format!("completed {minutes} minutes later than the clock shows"))
}

/// Returns a dead letter's position in the stream.
fn position_text(place: &Place) -> String {
    match place {
        Place::Rows(rows) => format!("row {rows}"),
        Place::Stream { token, time, index } => bson::RawDocument::from_bytes(token)
            .ok()
            .and_then(|token| token.get_str("_data").ok())
            .map_or_else(|| format!("time {}.{} index {index}", time.0, time.1), |data| format!("{}{data}", adopted::TOKEN_PLACE)),
    }
}

/// Returns a dead letter's position in the history.
fn row_text(last: &Bytes) -> String {
    let id = bson::RawDocument::from_bytes(last).ok().and_then(|last| bson::Document::try_from(last).ok());
    let id = id.and_then(|mut id| id.remove("_id")).map(|id| id.to_string());
    format!("{}{}", adopted::ROW_PLACE, id.unwrap_or_default())
}
