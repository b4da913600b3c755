//! Reading the two sides, and asking about what only one of them has.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::buckets::{Buckets, Chosen, Key};
use super::findings::{Findings, Kind};
use super::follower::{Follower, Gap, Line, read};
use super::ledger::{Fact, Ledger, Open};
use super::lost_as;
use super::mongo::{As, Collection};
use crate::clock::rfc3339;
use crate::config::Config;
use crate::log::{Log, LogError, Reader};
use crate::spec::Spec;
use crate::stage::Stop;
use crate::tail::mongo::MongoSource;
use crate::tail::normalise::Normalised;
use crate::tail::position::Position;
use crate::tail::source::{Event, Place, Source, SourceError};
use crate::tail::{self, TailError};
use crate::topics::Topics;

/// Items of both sides in memory at once, while unequal buckets are looked at: about 150 MB.
const ROOM: u64 = 500_000;
/// Rows between two signs of progress.
const TELL_EVERY: u64 = 4_096;
/// Tickets that only the log has are looked up in MongoDB up to so many; more are taken for gone.
const MOST_LOOKED_UP: usize = 20_000;
/// How long the stream may be silent while it is asked what is still to come.
const SILENCE: Duration = Duration::from_secs(60);
/// Events read at once.
const EVENTS: usize = 1_000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// MongoDB is not configured.
    #[error("{0}")]
    NotConfigured(&'static str),
    /// MongoDB does not answer, or refuses.
    #[error("cannot read {place}: {reason}; `tidemark config check --connect` tries each step")]
    Mongodb {
        /// Database, collection and server, without secrets.
        place: String,
        /// What the driver says.
        reason: String,
    },
    /// The topics are not what an audit can be made of.
    #[error("{0}")]
    Refused(String),
    /// It was asked to stop.
    #[error("the audit was stopped")]
    Stopped,
}

impl From<TailError> for AuditError {
    fn from(error: TailError) -> Self {
        match error {
            TailError::Log(error) => error.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// First completion, inclusive, ms since 1970. When given, completions before the log began are missing, too.
    pub from_ms: Option<i64>,
    /// End, exclusive, ms since 1970.
    pub to_ms: Option<i64>,
    /// Nobody changed, reopened or deleted a ticket after it had completed: what only the log has is wrong.
    pub nothing_changed: bool,
}

impl Request {
    fn interval(&self) -> Option<(i64, i64)> {
        let is_open = self.from_ms.is_none() && self.to_ms.is_none();
        (!is_open).then_some((self.from_ms.unwrap_or(i64::MIN / 2), self.to_ms.unwrap_or(i64::MAX / 2)))
    }

    fn has(&self, completed_at_ms: i64) -> bool {
        self.interval().is_none_or(|(from_ms, to_ms)| (from_ms..to_ms).contains(&completed_at_ms))
    }
}

/// Surroundings of an audit.
pub struct Around<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The watch spec.
    pub spec: &'a Arc<Spec>,
    /// The log.
    pub log: &'a dyn Log,
    /// Asks for the end.
    pub stop: &'a Stop,
}

/// How far an audit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being read.
    pub doing: &'static str,
    /// Rows of it so far.
    pub rows: u64,
    /// All rows, about, where that is known.
    pub total: Option<u64>,
}

/// How far tail is behind MongoDB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// From the position to MongoDB's time, s.
    pub seconds: u64,
    /// Completions in between; `None` when MongoDB has forgotten them.
    pub tickets: Option<u64>,
}

/// What an audit found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the spec.
    pub spec: String,
    /// Whether the promise is kept.
    pub clean: bool,
    /// First completion, inclusive.
    pub from: Option<String>,
    /// End, exclusive.
    pub to: Option<String>,
    /// Whether MongoDB was read as it was at the position; else as it is.
    pub as_of_position: bool,
    /// Completed documents in MongoDB, those that cannot be used included.
    pub in_mongodb: u64,
    /// Completions in the log, and its dead letters.
    pub in_log: u64,
    /// Losses that are told.
    pub gaps: Vec<Gap>,
    /// Dead letters by reason.
    pub dead_letters: std::collections::BTreeMap<String, u64>,
    /// What is not in the log yet.
    pub lag: Lag,
    /// Buckets that were unequal needed so many further passes.
    pub passes: usize,
    /// What breaks the promise.
    pub wrong: Findings,
    /// What is worth knowing.
    pub notes: Findings,
}

/// Holds the log against MongoDB.
///
/// # Errors
/// [`AuditError`]. A difference is no error.
pub fn run(request: &Request, around: &Around<'_>, tell: &mut dyn FnMut(Progress)) -> Result<Report, AuditError> {
    let topics = Topics::new(&around.config.kafka.topic_prefix);
    let partitions = tail::partitions_of(around.log, &topics)?;
    let mut audit = Audit {
        request,
        around,
        partitions,
        reader: around.log.reader()?,
        collection: Collection::open(around.config, around.spec)?,
        topics,
        read_as: As::Now,
        tell,
    };
    audit.run()
}

struct Audit<'a> {
    request: &'a Request,
    around: &'a Around<'a>,
    topics: Topics,
    partitions: u32,
    reader: Box<dyn Reader>,
    collection: Collection,
    read_as: As,
    tell: &'a mut dyn FnMut(Progress),
}

/// What the first pass over the log brought.
struct Read {
    tickets: Follower,
    dead_letters: Follower,
    buckets: Buckets,
    reasons: std::collections::BTreeMap<String, u64>,
}

impl Audit<'_> {
    fn run(&mut self) -> Result<Report, AuditError> {
        let mut position = self.position()?;
        let Some(time) = position.place.time() else {
            let reason = format!("topic {} holds a replayed file: an audit compares a change stream with MongoDB", self.topics.tickets);
            return Err(AuditError::Refused(reason));
        };
        self.read_as = As::Of(time);
        let in_mongodb = self.mongodb()?;
        let as_of_position = self.read_as != As::Now;
        if !as_of_position {
            position = self.position()?;
        }
        let Read { mut tickets, mut dead_letters, buckets, reasons } = self.log()?;
        tickets.reaches(&position, &self.lows(true)?);
        dead_letters.reaches(&position, &self.lows(false)?);
        let mut findings = Findings::default();
        let groups = in_mongodb.unequal(&buckets, ROOM);
        let passes = groups.len();
        let (mut missing, mut extra) = (Vec::new(), Vec::new());
        for group in groups {
            let differences = self.compare(group, &mut position)?;
            findings.merge(differences.findings);
            missing.extend(differences.only_in_mongodb);
            extra.extend(differences.only_in_log);
        }
        let (lag, to_come) = self.still_to_come(&position, &missing)?;
        let has_history = tickets.has_history() || position.history.is_some();
        let beginnings: Vec<_> = missing.iter().map(|open| tickets.beginning_of(&open.key)).collect();
        let (found, gaps) = tickets.end();
        findings.merge(found);
        findings.merge(dead_letters.end().0);
        for (open, beginning) in missing.iter().zip(beginnings) {
            // Rows of a history that is still being read are to come, and so is all that the stream still brings.
            let is_to_come = position.history.is_some() || to_come.has(open, &position);
            let begins_at_ms = beginning.filter(|beginning| beginning.seq > 1 || !has_history).map(|beginning| beginning.at_ms);
            let is_before = self.request.from_ms.is_none() && open.completed_at_ms.is_none_or(|ms| Some(ms) < begins_at_ms);
            let kind = match lost_as(open, &gaps) {
                _ if is_to_come => Kind::Lagging,
                Kind::InGap => Kind::InGap,
                _ if is_before && begins_at_ms.is_some() => Kind::BeforeTheLog,
                other => other,
            };
            findings.note(kind, || open.to_string());
        }
        self.only_in_log(&extra, &mut findings)?;
        Ok(self.report(
            findings,
            gaps,
            lag,
            Counted { in_mongodb: in_mongodb.count(), in_log: buckets.count(), passes, as_of_position, reasons },
        ))
    }

    fn report(&self, findings: Findings, gaps: Vec<Gap>, lag: Lag, counted: Counted) -> Report {
        let is_wrong = |kind: Kind| if self.request.nothing_changed { kind.is_wrong_if_nothing_changed() } else { kind.is_wrong() };
        let (wrong, notes) = findings.split(is_wrong);
        Report {
            spec: self.around.spec.name.clone(),
            clean: wrong.is_empty(),
            from: self.request.from_ms.map(rfc3339),
            to: self.request.to_ms.map(rfc3339),
            as_of_position: counted.as_of_position,
            in_mongodb: counted.in_mongodb,
            in_log: counted.in_log,
            gaps,
            dead_letters: counted.reasons,
            lag,
            passes: counted.passes,
            wrong,
            notes,
        }
    }

    fn position(&mut self) -> Result<Position, AuditError> {
        let position = tail::position_of(self.reader.as_mut(), &self.topics, self.around.spec, self.partitions)?;
        let none = || format!("topic {} has no position of spec {}: has `tidemark run` run?", self.topics.positions, self.around.spec.name);
        position.ok_or_else(|| AuditError::Refused(none()))
    }

    /// Fills the buckets of MongoDB's side: as it was at the position, else, where that is too long ago, as it is.
    fn mongodb(&mut self) -> Result<Buckets, AuditError> {
        let mut buckets = Buckets::default();
        let is_read = self.facts(&mut |fact| {
            let (key, completed_at_ms) = fact.item();
            buckets.add(key, completed_at_ms);
        })?;
        if !is_read {
            self.read_as = As::Now;
            buckets = Buckets::default();
            self.facts(&mut |fact| {
                let (key, completed_at_ms) = fact.item();
                buckets.add(key, completed_at_ms);
            })?;
        }
        Ok(buckets)
    }

    fn facts(&mut self, each: &mut dyn FnMut(&Fact<'_>)) -> Result<bool, AuditError> {
        let total = Some(self.collection.documents()?);
        let mut rows = 0;
        let (stop, tell) = (self.around.stop, &mut self.tell);
        self.collection.each(self.read_as, self.request.interval(), &mut |fact| {
            rows += 1;
            if rows % TELL_EVERY == 0 {
                if stop.is_asked() {
                    return Err(AuditError::Stopped);
                }
                tell(Progress { doing: "reading MongoDB", rows, total });
            }
            each(fact);
            Ok(())
        })
    }

    /// Whether a record counts: within the interval, and not later than what MongoDB was asked for.
    fn counts(&self, line: &Line) -> bool {
        match (line, self.read_as) {
            (Line::Dead(_), _) if self.request.interval().is_some() => false,
            (Line::Ticket(ticket), As::Of(time)) if ticket.commit > Some(time) => false,
            (Line::Dead(dead), As::Of(time)) if tail::time_of_place(&dead.position) > Some(time) => false,
            (Line::Ticket(ticket), _) => self.request.has(ticket.completed_at_ms),
            (Line::Dead(_), _) => true,
        }
    }

    fn log(&mut self) -> Result<Read, AuditError> {
        let mut tickets = Follower::of_tickets(&self.topics.tickets, self.partitions);
        let mut dead_letters = Follower::of_dead_letters(&self.topics.dead_letters, self.partitions);
        let mut buckets = Buckets::default();
        let mut reasons = std::collections::BTreeMap::new();
        self.lines(
            &mut |is_ticket, record| {
                let line = if is_ticket { tickets.take(record) } else { dead_letters.take(record) };
                if let Some(Line::Dead(dead)) = &line {
                    *reasons.entry(dead.reason.clone()).or_default() += 1;
                }
                line
            },
            &mut |line| match line {
                Line::Ticket(ticket) => buckets.add(Key::of(&ticket.key), Some(ticket.completed_at_ms)),
                Line::Dead(dead) => buckets.add(dead.id(), None),
            },
        )?;
        Ok(Read { tickets, dead_letters, buckets, reasons })
    }

    /// Returns the first offsets that are kept, one a partition.
    fn lows(&mut self, of_tickets: bool) -> Result<Vec<i64>, AuditError> {
        let topic = if of_tickets { &self.topics.tickets } else { &self.topics.dead_letters };
        let reader = &mut self.reader;
        (0..self.partitions).map(|partition| Ok(reader.bounds(topic, partition)?.low)).collect()
    }

    /// Reads both topics to the end as it is now.
    fn lines(
        &mut self,
        follow: &mut dyn FnMut(bool, &crate::log::Delivered) -> Option<Line>,
        each: &mut dyn FnMut(Line),
    ) -> Result<(), AuditError> {
        let mut ranges = Vec::new();
        let mut total = 0;
        for topic in [&self.topics.tickets, &self.topics.dead_letters] {
            for partition in 0..self.partitions {
                let bounds = self.reader.bounds(topic, partition)?;
                total += u64::try_from(bounds.end - bounds.low).unwrap_or(0);
                ranges.push((topic.clone(), partition, bounds));
            }
        }
        let mut rows = 0;
        let mut reader = self.around.log.reader()?;
        for (topic, partition, bounds) in ranges {
            let is_ticket = topic == self.topics.tickets;
            let mut stopped = false;
            reader.read(&topic, partition, bounds.low, bounds.end, &mut |record| {
                rows += 1;
                if rows % TELL_EVERY == 0 {
                    (self.tell)(Progress { doing: "reading the log", rows, total: Some(total) });
                    stopped = self.around.stop.is_asked();
                }
                if let Some(line) = follow(is_ticket, &record).filter(|line| self.counts(line)) {
                    each(line);
                }
                if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if stopped {
                return Err(AuditError::Stopped);
            }
        }
        Ok(())
    }

    /// Reads both sides again, for these buckets only.
    fn compare(&mut self, chosen: Chosen, position: &mut Position) -> Result<super::Differences, AuditError> {
        let mut ledger = Ledger::of(chosen.clone());
        if !self.facts(&mut |fact| ledger.fact(fact))? {
            self.read_as = As::Now;
            ledger = Ledger::of(chosen);
            self.facts(&mut |fact| ledger.fact(fact))?;
        }
        if self.read_as == As::Now {
            *position = self.position()?;
        }
        self.lines(&mut |_, record| read(record).ok().flatten(), &mut |line| ledger.line(line))?;
        Ok(ledger.compare((&self.topics.tickets, &self.topics.dead_letters)))
    }

    /// Asks the change stream, as tail does, what lies between the position and MongoDB's present.
    fn still_to_come(&mut self, position: &Position, missing: &[Open]) -> Result<(Lag, ToCome), AuditError> {
        let present = self.collection.operation_time()?;
        let time = position.place.time().unwrap_or_default();
        let seconds = u64::from(present.0.saturating_sub(time.0));
        let wanted: HashSet<(Key, Option<i64>)> = missing.iter().map(|open| (open.id, open.completed_at_ms)).collect();
        let mut source = MongoSource::new(self.around.config, self.around.spec).map_err(refused)?;
        let mut resume = position.resume();
        resume.history = None;
        let forgotten = || Ok((Lag { seconds, tickets: None }, ToCome { found: None }));
        match source.open(Some(&resume)) {
            Ok(_) => {}
            Err(SourceError::Forgotten { .. }) => return forgotten(),
            Err(error) => return Err(refused(error)),
        }
        let (mut tickets, mut found, mut events) = (0, HashSet::new(), Vec::new());
        let mut heard = Instant::now();
        let mut reached = time >= present;
        while !reached {
            if self.around.stop.is_asked() {
                return Err(AuditError::Stopped);
            }
            match source.read(EVENTS, Duration::from_millis(500), &mut events) {
                Ok(()) => {}
                Err(SourceError::Forgotten { .. }) => return forgotten(),
                Err(error) => return Err(refused(error)),
            }
            if !events.is_empty() {
                heard = Instant::now();
            } else if heard.elapsed() > SILENCE {
                let reason = format!("the change stream has been silent for {} s before it reached the server's time", SILENCE.as_secs());
                return Err(AuditError::Refused(reason));
            }
            for event in events.drain(..) {
                reached = reached || place_of(&event).and_then(Place::time) >= Some(present);
                let Some((id, completed_at_ms)) = item(&event) else { continue };
                tickets += 1;
                if wanted.contains(&(id, completed_at_ms)) {
                    found.insert((id, completed_at_ms));
                }
                if tickets % TELL_EVERY == 0 {
                    (self.tell)(Progress { doing: "reading what is still to come", rows: tickets, total: None });
                }
            }
        }
        Ok((Lag { seconds, tickets: Some(tickets) }, ToCome { found: Some(found) }))
    }

    /// Looks up in MongoDB what only the log has.
    fn only_in_log(&self, extra: &[Open], findings: &mut Findings) -> Result<(), AuditError> {
        let known = self.collection.look_up(&extra[..extra.len().min(MOST_LOOKED_UP)])?;
        for open in extra {
            let there = known.get(&open.id).map_or(&[][..], Vec::as_slice);
            if open.completed_at_ms.is_some() && there.contains(&open.completed_at_ms) {
                // It completed while the two sides were read.
                continue;
            }
            if open.completed_at_ms.is_none() {
                findings.note(Kind::OtherwiseRecorded, || open.to_string());
            } else if there.iter().any(Option::is_some) || open.has_another {
                findings.note(Kind::Altered, || open.to_string());
            } else {
                let what = if there.is_empty() { "deleted" } else { "open again" };
                findings.note(Kind::Gone, || format!("{open}: {what}"));
            }
        }
        Ok(())
    }
}

struct Counted {
    in_mongodb: u64,
    in_log: u64,
    passes: usize,
    as_of_position: bool,
    reasons: std::collections::BTreeMap<String, u64>,
}

/// What the stream will still bring.
struct ToCome {
    /// Of what was asked for; `None` when MongoDB has forgotten what follows the position.
    found: Option<HashSet<(Key, Option<i64>)>>,
}

impl ToCome {
    fn has(&self, open: &Open, position: &Position) -> bool {
        match &self.found {
            Some(found) => found.contains(&(open.id, open.completed_at_ms)),
            // There will be a gap record: until then only the times tell.
            None => {
                open.completed_at_ms.is_some_and(|ms| position.place.time().is_some_and(|(seconds, _)| ms / 1_000 >= i64::from(seconds)))
            }
        }
    }
}

fn place_of(event: &Event) -> Option<&Place> {
    match event {
        Event::Ticket { after, .. } | Event::Idle { after } => Some(after),
        _ => None,
    }
}

fn item(event: &Event) -> Option<(Key, Option<i64>)> {
    let Event::Ticket { normalised, .. } = event else { return None };
    match normalised {
        Normalised::Completed(ticket) => Some((Key::of(&ticket.id.key()), Some(ticket.completed_at_ms))),
        Normalised::Dead(dead) => Some((dead.id.as_ref().map_or_else(|| Key::of_no_id(dead.reason.name()), |id| Key::of(&id.key())), None)),
        Normalised::Other(_) => None,
    }
}

fn refused(error: SourceError) -> AuditError {
    match error {
        SourceError::Unavailable { doing, reason } => AuditError::Mongodb { place: doing, reason },
        other => AuditError::Refused(other.to_string()),
    }
}
