//! Who leads, and what the leader does: one process at a time owns the partition of `positions`; the others stand by hot.

mod back;

use std::time::{Duration, Instant};

use super::core::{Core, Counts, Step};
use super::follow::{Decisions, Followed, FollowedTopic, Verdict};
use super::gate::{ANSWER_AFTER, Gate};
use super::normalise::{DeadLetter, DeadReason, Normalised};
use super::position::Position;
use super::progress::Progress;
use super::source::{ClusterTime, Event, Source, SourceError};
use super::{PART, TailError};
use crate::clock::now_ms;
use crate::config::{ClockMode, Tail};
use crate::fault;
use crate::log::{Committer, Done, LogError, Member, Polled, Producer, Room, TransactError};
use crate::metrics;
use crate::spec::Spec;
use crate::stage::{Context, State};
use crate::threads;
use crate::ticket::Ticket;

/// How long a call may wait for news before this process looks at its group again.
const GLANCE: Duration = Duration::from_millis(200);
/// How long events are taken in before it is looked whether the transaction under way has ended.
const FILL: Duration = Duration::from_millis(1);
/// The first wait after a failure; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A position that moved without a record is committed this often, so that an idle collection does not outlive its oplog.
const IDLE_COMMIT: Duration = Duration::from_secs(10);
/// How often the health's words are renewed.
const SPEAK: Duration = Duration::from_millis(500);

/// How a time of leading ended.
enum End {
    /// The source has no more.
    Exhausted,
    /// The stop was asked for.
    Stopped,
    /// The partition is somebody else's.
    Lost,
}

/// Why one attempt ended early.
enum Setback {
    /// It may pass: begin again, reading back first.
    Again(String),
    /// One record was too large for the log.
    TooLarge { topic: String, bytes: usize },
    /// It will not pass.
    Fatal(TailError),
}

impl From<LogError> for Setback {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable { .. } | LogError::HeldUp { .. } => Self::Again(error.to_string()),
            LogError::WrongTopic { .. } | LogError::Truncated { .. } | LogError::Unseated { .. } => Self::Fatal(error.into()),
        }
    }
}

impl From<SourceError> for Setback {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Unavailable { .. } | SourceError::Forgotten { .. } => Self::Again(error.to_string()),
            SourceError::Denied { .. } | SourceError::Refused { .. } => Self::Fatal(error.into()),
        }
    }
}

impl From<TailError> for Setback {
    fn from(error: TailError) -> Self {
        match error {
            TailError::Log(error) => error.into(),
            TailError::Source(error) => error.into(),
            TailError::Refused(_) => Self::Fatal(error),
        }
    }
}

impl From<TransactError> for Setback {
    fn from(error: TransactError) -> Self {
        match error {
            TransactError::TooLarge { topic, bytes } => Self::TooLarge { topic, bytes },
            TransactError::Fenced { .. } | TransactError::Aborted { .. } | TransactError::Unknown { .. } => Self::Again(error.to_string()),
        }
    }
}

/// Stands by and leads, in turns, until the end.
pub(super) fn run(context: &Context, source: Box<dyn Source>) -> Result<(), TailError> {
    let group = format!("{}.tail", context.config.kafka.topic_prefix);
    let mut wait = FIRST_WAIT;
    let member = loop {
        match context.log.member(&group, &context.topics.positions) {
            Ok(member) => break member,
            Err(error) => {
                context.health.set(PART, State::Waiting(error.to_string()));
                if context.stop.wait(wait) {
                    return Ok(());
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    };
    let mut stage = Stage::new(context, source, member);
    while !context.stop.is_asked() {
        metrics::tail_stands_by();
        if !stage.ours {
            // Before it has a seat in its group, nobody knows whether another process leads.
            let has_joined = stage.member.membership().is_some();
            if has_joined {
                stage.source.close();
            }
            stage.say(|| {
                if has_joined {
                    State::Ready("standing by: another process leads".to_owned())
                } else {
                    State::Waiting("joining its group".to_owned())
                }
            });
            stage.glance(GLANCE)?;
            continue;
        }
        match stage.lead()? {
            End::Exhausted | End::Stopped => break,
            End::Lost => tracing::info!("tail: another process leads now"),
        }
    }
    Ok(())
}

/// What is known of a transaction beside its records.
struct Sealed {
    counts: Counts,
    /// How many events wait for it.
    waiting: usize,
    /// Whether events are in it.
    has_passed: bool,
    /// Cluster time of the last event.
    source_time: Option<ClusterTime>,
}

/// What is known of a ticket whose record is too large.
struct Burial {
    bytes: usize,
    detail: String,
}

struct Stage<'c> {
    context: &'c Context,
    source: Box<dyn Source>,
    member: Box<dyn Member>,
    transactional_id: String,
    /// Whether the group says that the partition is ours.
    ours: bool,
    /// Events in one transaction.
    room: Room,
    /// The ticket that is a dead letter because its record is too large even alone.
    bury: Option<Burial>,
    /// Why the last attempt ended, until one leads again.
    setback: Option<String>,
    events: Vec<Event>,
    next: usize,
    /// Up to here the log has been asked which of the rows the stream has brought.
    looked_up: usize,
    spoke: Option<Instant>,
    /// The baseline that the next decision waits for, and all decisions after it.
    awaited: Option<u64>,
    /// While the history is read.
    progress: Option<Progress>,
}

impl<'c> Stage<'c> {
    fn new(context: &'c Context, source: Box<dyn Source>, member: Box<dyn Member>) -> Self {
        Self {
            context,
            source,
            member,
            transactional_id: format!("{}.tail", context.config.kafka.topic_prefix),
            ours: false,
            room: Room::new(context.config.tail.transaction_rows),
            bury: None,
            setback: None,
            events: Vec::new(),
            next: 0,
            looked_up: 0,
            spoke: None,
            awaited: None,
            progress: None,
        }
    }
}

impl Stage<'_> {
    /// Hears what the group says.
    fn glance(&mut self, timeout: Duration) -> Result<(), TailError> {
        match self.member.poll(timeout) {
            Ok(Polled::Assigned(partitions)) => self.ours = self.ours || partitions.contains(&0),
            Ok(Polled::Revoked(partitions)) => self.ours = self.ours && !partitions.contains(&0),
            Ok(Polled::Records(_) | Polled::Idle) => {}
            Err(error @ LogError::Unavailable { .. }) => {
                tracing::warn!("tail: {error}");
                // Whether this process still leads is not known here; a producer that was fenced will tell.
                let _asked = self.context.stop.wait(timeout);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Waits, still hearing the group. `false` when there is no reason to go on.
    fn pause(&mut self, wait: Duration) -> Result<bool, TailError> {
        let until = threads::now() + wait;
        while self.ours && !self.context.stop.is_asked() {
            let left = until.saturating_duration_since(threads::now());
            if left.is_zero() {
                return Ok(true);
            }
            self.glance(left.min(GLANCE))?;
        }
        Ok(false)
    }

    fn may_speak(&self) -> bool {
        self.spoke.is_none_or(|last| threads::since(last) >= SPEAK)
    }

    fn say(&mut self, words: impl FnOnce() -> State) {
        if self.may_speak() {
            self.spoke = Some(threads::now());
            self.context.health.set(PART, words());
        }
    }

    fn lead(&mut self) -> Result<End, TailError> {
        let mut wait = FIRST_WAIT;
        loop {
            let begun = threads::now();
            let setback = match self.attempt() {
                Ok(end) => return Ok(end),
                Err(setback) => setback,
            };
            match setback {
                Setback::Fatal(error) => return Err(error),
                Setback::TooLarge { topic, bytes } => self.shrink(&topic, bytes)?,
                Setback::Again(reason) => {
                    if threads::since(begun) > LONGEST_WAIT * 2 {
                        wait = FIRST_WAIT;
                    }
                    tracing::warn!("tail begins again in {} ms: {reason}", wait.as_millis());
                    self.setback = Some(reason.clone());
                    self.context.health.set(PART, State::Waiting(reason));
                    self.pause(wait)?;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
            if self.context.stop.is_asked() {
                return Ok(End::Stopped);
            }
            if !self.ours {
                return Ok(End::Lost);
            }
        }
    }

    /// Halves the transaction; of a single ticket, decides that it is a dead letter.
    fn shrink(&mut self, topic: &str, bytes: usize) -> Result<(), TailError> {
        if self.room.items() > 1 {
            self.room.failed(usize::MAX);
            return Ok(());
        }
        if self.bury.is_some() {
            return Err(TailError::Refused(format!(
                "topic {topic} does not take a record of {bytes} bytes, not even a dead letter: raise its max.message.bytes"
            )));
        }
        self.bury = Some(Burial { bytes, detail: format!("its record of {bytes} bytes is more than topic {topic} takes") });
        Ok(())
    }

    /// Fences the last leader, reads back, and goes on from there until something happens.
    fn attempt(&mut self) -> Result<End, Setback> {
        let doing =
            self.setback.as_ref().map_or_else(|| "reading its position back".to_owned(), |reason| format!("beginning again: {reason}"));
        self.context.health.set(PART, State::Waiting(doing));
        let mut producer = self.context.log.producer(&self.transactional_id)?;
        let mut reader = self.context.log.reader()?;
        let mut core = self.restore(producer.as_mut(), reader.as_mut())?;
        let mut decisions = {
            let position = core.position();
            let (context, offsets) = (self.context, (position.baselines_offset, position.model_events_offset));
            Decisions::follow(context.log.as_ref(), reader.as_mut(), &context.topics, &context.spec, offsets.0, offsets.1)?
        };
        let mut gate = None;
        if self.source.lives_through() {
            let next_mark = core.position().next_mark;
            gate = Some(Gate::follow(self.context.log.as_ref(), &self.context.topics, &self.context.spec.name, next_mark)?);
        }
        core.begin();
        if !core.is_catching_up() {
            self.commit(producer.as_mut(), &mut core)?;
        }
        // What was decided before now has its place before anything is read.
        while decisions.are_on_their_way() && self.ours && !self.context.stop.is_asked() {
            self.glance(Duration::ZERO)?;
            // Only baselines are waited for, and it may be the other topic that is late.
            self.decide(&mut core, &mut decisions, gate.as_mut(), FIRST_WAIT)?;
        }
        drop(reader);
        let mut committer =
            Committer::new("tail-commit", producer).map_err(|error| Setback::Again(format!("starting a thread: {error}")))?;
        metrics::tail_leads();
        self.progress = core.position().history.as_ref().map(|history| Progress::begin(self.source.history_rows(), history.rows));
        if self.progress.is_some() {
            // It may take hours: how far it is is said at once.
            self.spoke = None;
            self.speak(core.position());
        }
        reached(core.position().place.time());
        self.setback = None;
        tracing::info!(partitions = core.position().partitions(), "tail leads");
        let mut submitted = threads::now();
        let mut idle_since_commit = false;
        loop {
            if self.context.stop.is_asked() {
                self.settle(&mut committer, Duration::MAX)?;
                return Ok(End::Stopped);
            }
            self.glance(Duration::ZERO)?;
            if !self.ours {
                return Ok(End::Lost);
            }
            self.settle(&mut committer, Duration::ZERO)?;
            self.decide(&mut core, &mut decisions, gate.as_mut(), Duration::ZERO)?;
            if let Some(gate) = &mut gate {
                core.allow_marks_until(gate.next(core.position().next_mark, Duration::ZERO)?);
            }
            if self.next == self.events.len() && (core.waiting() < self.room.items() || core.is_catching_up()) {
                self.events.clear();
                (self.next, self.looked_up) = (0, 0);
                core.forget_looked_up();
                // What waits to be committed waits for no further event.
                let patience = if core.waiting() == 0 && !committer.is_busy() { GLANCE } else { Duration::ZERO };
                self.source.read(self.room.items(), patience, &mut self.events)?;
                if !self.events.is_empty() {
                    fault::pass(PART, fault::Place::EventsRead);
                }
            }
            let step = self.take(&mut core, &mut committer)?;
            if core.waiting() == 0 && !committer.is_busy() {
                reached(core.position().place.time());
            }
            idle_since_commit |= core.waiting() == 0 && self.next > 0;
            let due = core.waiting() > 0 || idle_since_commit && threads::since(submitted) >= IDLE_COMMIT;
            if due && !core.is_catching_up() {
                // While one transaction is under way the next is filled, up to its limit.
                let is_full =
                    core.waiting() >= self.room.items() || matches!(step, Step::Full | Step::Await(_) | Step::AwaitVerdict | Step::End);
                self.settle(&mut committer, if is_full { Duration::MAX } else { FILL })?;
                if !committer.is_busy() {
                    self.submit(&mut committer, &mut core);
                    submitted = threads::now();
                    idle_since_commit = false;
                }
            } else if committer.is_busy() && self.next == self.events.len() {
                self.settle(&mut committer, FILL)?;
            }
            match step {
                Step::Taken | Step::Full => self.speak(core.position()),
                Step::Await(version) => {
                    self.settle(&mut committer, Duration::MAX)?;
                    self.say(|| State::Waiting(format!("baseline {version} must be published before the replay goes on")));
                    self.decide(&mut core, &mut decisions, gate.as_mut(), GLANCE)?;
                }
                Step::AwaitVerdict => {
                    self.settle(&mut committer, Duration::MAX)?;
                    if let Some(gate) = &mut gate {
                        core.allow_marks_until(gate.next(core.position().next_mark, FILL)?);
                    }
                }
                Step::End => {
                    self.settle(&mut committer, Duration::MAX)?;
                    self.submit(&mut committer, &mut core);
                    self.settle(&mut committer, Duration::MAX)?;
                    self.context.health.set(PART, State::Ready("the source is exhausted, all of it is committed".to_owned()));
                    return Ok(End::Exhausted);
                }
            }
        }
    }

    fn submit(&mut self, committer: &mut Committer<Sealed>, core: &mut Core) {
        let waiting = core.waiting();
        let (transaction, counts) = core.seal();
        fault::pass(PART, fault::Place::Sealed);
        // Events are in it, so that one that was too large has been passed when it is committed.
        let has_passed = !transaction.records.is_empty() && self.next > 0;
        committer.submit(transaction, Sealed { counts, waiting, has_passed, source_time: core.position().place.time() });
    }

    /// Waits at most so long for the transaction under way, and acts on what became of it.
    fn settle(&mut self, committer: &mut Committer<Sealed>, time: Duration) -> Result<(), Setback> {
        let Some(Done { note, result, took }) = committer.wait(time) else { return Ok(()) };
        self.committed(result, took, &note)
    }

    fn committed(&mut self, result: Result<(), TransactError>, took: Duration, sealed: &Sealed) -> Result<(), Setback> {
        let outcome = match &result {
            Ok(()) => metrics::Outcome::Committed,
            Err(TransactError::Fenced { .. }) => metrics::Outcome::Fenced,
            Err(TransactError::Aborted { .. } | TransactError::TooLarge { .. }) => metrics::Outcome::Aborted,
            Err(TransactError::Unknown { .. }) => metrics::Outcome::Unknown,
        };
        metrics::tail_transacted(outcome, took);
        if sealed.waiting > 0 && matches!(result, Err(TransactError::Aborted { .. } | TransactError::Unknown { .. })) {
            self.room.failed(sealed.waiting);
        }
        result?;
        if sealed.has_passed {
            self.room.passed(took);
        }
        count(&sealed.counts);
        reached(sealed.source_time);
        Ok(())
    }

    fn speak(&mut self, position: &Position) {
        let end = position.next_end_ms;
        if !self.may_speak() {
            return;
        }
        let mut reading = None;
        if let Some(progress) = &self.progress {
            let rows = position.history.as_ref().map(|history| history.rows);
            if let Some(left) = rows.map_or(Some(0), |rows| progress.left(rows)) {
                metrics::tail_history_left(left);
            }
            reading = rows.map(|rows| progress.words(rows));
        }
        if reading.is_none() {
            self.progress = None;
        }
        let awaited = self.awaited.map_or_else(String::new, |version| format!("; decisions wait for baseline {version}"));
        self.say(|| {
            State::Ready(match (reading, end) {
                (Some(reading), _) => format!("leading: {reading}{awaited}"),
                (None, None) => "leading: waiting for the first tickets to tell the time".to_owned(),
                (None, Some(end)) => format!("leading: slice ends {}{awaited}", in_words(end)),
            })
        });
    }

    /// Takes what was read, up to one transaction's worth.
    fn take(&mut self, core: &mut Core, committer: &mut Committer<Sealed>) -> Result<Step, Setback> {
        let present_ms = now_ms();
        while self.next < self.events.len() {
            if core.waiting() >= self.room.items() && !core.is_catching_up() {
                break;
            }
            let is_row = matches!(self.events[self.next], Event::Row { .. });
            if is_row && self.next >= self.looked_up && core.has_forgotten_keys() {
                if core.waiting() > 0 {
                    return Ok(Step::Full);
                }
                self.settle(committer, Duration::MAX)?;
                self.look_up_rows(core)?;
                self.looked_up = self.events.len();
            }
            let event = &mut self.events[self.next];
            if let Event::Ticket { normalised, .. } | Event::Row { normalised, .. } = event
                && let Normalised::Completed(ticket) = normalised
                && let Some(burial) = self.bury.take_if(|burial| record_bytes(&self.context.spec, ticket) >= burial.bytes)
            {
                let letter = DeadLetter::of_ticket(&self.context.spec, ticket, DeadReason::TooLarge, burial.detail);
                *normalised = Normalised::Dead(Box::new(letter));
            }
            match core.take(event, present_ms) {
                Step::Taken => self.next += 1,
                other => return Ok(other),
            }
        }
        Ok(Step::Taken)
    }

    /// Gives new baselines and decisions their place, here.
    fn decide(
        &mut self,
        core: &mut Core,
        decisions: &mut Decisions,
        mut gate: Option<&mut Gate>,
        timeout: Duration,
    ) -> Result<(), Setback> {
        let mut timeout = timeout;
        loop {
            decisions.hear(timeout)?;
            timeout = Duration::ZERO;
            // What a torn transaction has left comes first, of whichever topic it is.
            let placed = FollowedTopic::ALL
                .into_iter()
                .find(|&topic| decisions.next(topic).is_some_and(|followed| self.place(core, topic, followed, gate.as_deref_mut())));
            let Some(topic) = placed else { return Ok(()) };
            decisions.done(topic);
        }
    }

    /// Gives one of them its place. `false`: it has to wait.
    fn place(&mut self, core: &mut Core, topic: FollowedTopic, followed: &Followed, gate: Option<&mut Gate>) -> bool {
        // In a replay that is lived through, an answer has one place.
        if gate.is_some()
            && let Some(mark) = followed.answers
            && !(core.is_held() && core.position().next_mark > mark + ANSWER_AFTER)
        {
            return false;
        }
        if topic == FollowedTopic::ModelEvents {
            let waits_for = followed.after.filter(|version| core.position().baseline.is_none_or(|in_force| in_force < *version));
            if self.awaited != waits_for {
                self.awaited = waits_for;
                if let Some(version) = waits_for {
                    tracing::warn!("tail: a decision of {} waits for baseline {version}", self.context.topics.model_events);
                }
            }
            if waits_for.is_some() {
                return false;
            }
        }
        match &followed.verdict {
            Verdict::Takes(control) => {
                if !core.decide(control) {
                    return false;
                }
                tracing::info!(kind = control.kind(), "tail: a decision takes its place in the stream");
            }
            Verdict::Refused(reason) => {
                metrics::decision_refused();
                tracing::warn!(
                    "tail refuses a record of {}: {reason}",
                    match topic {
                        FollowedTopic::Baselines => &self.context.topics.baselines,
                        FollowedTopic::ModelEvents => &self.context.topics.model_events,
                    }
                );
            }
            Verdict::Passes => {}
        }
        match topic {
            FollowedTopic::Baselines => core.followed(Some(followed.next_offset), None),
            FollowedTopic::ModelEvents => {
                if let (Some(gate), Some(mark)) = (gate, followed.answers) {
                    gate.answered(mark);
                }
                core.followed(None, Some(followed.next_offset));
            }
        }
        true
    }

    /// Commits at once, before the stream is read.
    fn commit(&mut self, producer: &mut dyn Producer, core: &mut Core) -> Result<(), Setback> {
        let waiting = core.waiting();
        let (transaction, counts) = core.seal();
        let sealed = Sealed { counts, waiting, has_passed: false, source_time: core.position().place.time() };
        let begun = threads::now();
        let result = producer.transact(transaction);
        self.committed(result, threads::since(begun), &sealed)
    }
}

fn record_bytes(spec: &Spec, ticket: &Ticket) -> usize {
    let mut value = Vec::new();
    ticket.encode(spec, &mut value);
    value.len() + ticket.id.key().len()
}

fn clock_mode(config: &Tail, source: &dyn Source) -> ClockMode {
    if source.is_replay() { ClockMode::Tickets } else { config.clock }
}

/// All of the change stream is committed until then; a file and a history have no cluster time.
fn reached(time: Option<ClusterTime>) {
    if let Some(time) = time {
        metrics::tail_reaches(i64::from(time.0) * 1_000);
    }
}

fn count(counts: &Counts) {
    if counts.tickets > 0 {
        metrics::tickets_sent(counts.tickets);
    }
    if counts.marks > 0 {
        metrics::marks_sent(counts.marks);
    }
    for (reason, &letters) in DeadReason::ALL.iter().zip(&counts.dead) {
        if letters > 0 {
            metrics::dead_letters_sent(reason.name(), letters);
        }
    }
    (0..counts.gaps).for_each(|_| metrics::gap_sent());
    if counts.skipped > 0 {
        tracing::info!(events = counts.skipped, "tail: read again what a torn transaction had brought, and skipped it");
    }
    if counts.vanished > 0 {
        tracing::warn!(events = counts.vanished, "tail: events that a torn transaction had brought did not come again");
    }
}

/// Returns a time of day, UTC, with its date.
fn in_words(ms: i64) -> String {
    bson::DateTime::from_millis(ms).try_to_rfc3339_string().unwrap_or_else(|_| format!("{ms} ms"))
}
