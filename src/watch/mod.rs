//! The second stage: tickets become prediction errors and, at every mark, counts by slice.
//!
//! A watcher's memory is a pure function of its partitions from a restore offset to the committed offset, which every
//! commit's metadata names. So a new owner reads that stretch in silence and goes on; after any failed transaction the old
//! one does the same. [`partition`] decides, this shell polls, commits, and fetches what a decision needs.
//!
//! While one transaction is committed, the next is filled: memory is then ahead of the log by two transactions at most. What
//! makes that safe:
//! - Outputs and the offsets of their input are one transaction, as ever; only one is under way, so they end in order. A
//!   transaction is sealed, offsets, metadata and proof of membership with it, after the outcome of the one before is known.
//! - After any failure everything since the last committed offset is dropped, the filling too, and restored from the log.
//! - A revoke drops the partitions and with them the filling. What is under way then is let be: either its offsets reach
//!   the group within the old generation, and the next owner, who asks for stable offsets only, waits for its end; or they
//!   come too late, are refused, and nothing of it becomes visible.
//! - A partition is restored from its committed offset only when no transaction of ours is under way: else both offset and
//!   outputs could be looked for before it ends, and be there after.
//! - What bounds a successor's reading of outputs is renewed only when nothing is under way or filled: see [`Watch::ends`].
//! - Polling goes on meanwhile, so the group sees a sign of life. It pauses only while both transactions are full, for as long
//!   as one takes.

mod baselines;
mod held;
mod outputs;
mod partition;
mod place;
mod restore;
mod restorer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use self::held::HeldUp;
use self::outputs::{Batch, Output};
use self::partition::{Known, Need, Partition, Plan, Tally};
use self::place::Bound;
use self::restore::{Job, RestoreError};
use self::restorer::Restorer;
use crate::clock::{DAY_MS, now_ms};
use crate::fault::{self, Place};
use crate::features::{Encoder, EncoderError};
use crate::log::{Committer, Delivered, Done, LogError, Member, OffsetCommit, Polled, Reader, Room, TransactError, Transaction};
use crate::metrics::{self, Outcome};
use crate::model::shelf::Shelf;
use crate::stage::{Context, State};
use crate::threads;
use crate::window::Shape;

/// Longest wait of one poll: how soon a stop or a finished restore is noticed.
const POLL: Duration = Duration::from_millis(100);
/// The same while partitions are being restored.
const POLL_RESTORING: Duration = Duration::from_millis(5);
/// How long it is waited at once for the transaction under way while the next is filled, and for records while one is under way.
const FILL: Duration = Duration::from_millis(1);
/// Records in one transaction at most, however well it goes.
const MOST_RECORDS: usize = 8_192;
/// How soon after the last transaction the next is sealed while nothing urgent is in it. Each costs the broker the same, whether it
/// holds one prediction error or hundreds; and a summary, for which a verdict waits, seldom finds one under way.
const PACE: Duration = Duration::from_millis(100);
/// Records that are worth a transaction of their own at any time.
const MANY_RECORDS: usize = 1_024;
/// Wait after an error of the log that may pass.
const RETRY: Duration = Duration::from_millis(500);
/// How often ends of topics are asked for: they bound what a successor reads back, and tell the lag.
const ENDS: Duration = Duration::from_secs(5);
/// Fences within [`TWIN_TIME`] that mean a twin of the same name: a rebalance, or a pause, fences once or twice.
const TWIN_FENCES: usize = 8;
/// See [`TWIN_FENCES`].
const TWIN_TIME: Duration = Duration::from_secs(60);
/// Wait after the first fence; doubled with each further one, five times at most.
const FENCED: Duration = Duration::from_millis(125);
/// How long a record may wait at once for the baseline that it names.
const BASELINE_PATIENCE: Duration = Duration::from_secs(1);

/// Why the stage ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The spec's features cannot be computed.
    #[error("reading the spec's features: {0}; correct the spec")]
    Spec(#[from] EncoderError),
    /// The log refuses for good.
    #[error("watching {topic}: {source}")]
    Log {
        /// The topic.
        topic: String,
        /// What the log says.
        #[source]
        source: LogError,
    },
    /// Another process uses our transactional id.
    #[error(
        "fenced {TWIN_FENCES} times in a minute as {id}: another process has the same instance name; give each its own with --instance"
    )]
    Twin {
        /// The transactional id.
        id: String,
    },
    /// One record's outputs do not fit.
    #[error("the outputs of a single record of tickets are too large for topic {topic} ({bytes} bytes): raise its max.message.bytes")]
    TooLarge {
        /// The topic.
        topic: String,
        /// Bytes of the largest.
        bytes: usize,
    },
}

/// Runs the stage until it is asked to stop.
///
/// # Errors
/// [`WatchError`] when it cannot go on.
pub fn run(context: &Context) -> Result<(), WatchError> {
    let result = Watch::new(context)?.run();
    if let Err(error) = &result {
        context.health.set(PART, State::Failed(error.to_string()));
    }
    result
}

const PART: &str = "watch";

/// The next transaction, while it is filled.
#[derive(Default)]
struct Filling {
    batch: Batch,
    /// Partitions of the records taken.
    moved: BTreeSet<u32>,
    /// How many were taken.
    taken: usize,
}

impl Filling {
    /// Returns for how long it may still be filled, when the last transaction was sealed so long ago.
    fn may_wait(&self, since_last: Duration) -> Duration {
        if self.batch.is_urgent || self.taken >= MANY_RECORDS { Duration::ZERO } else { PACE.saturating_sub(since_last) }
    }
}

/// What is known of a transaction beside its records.
struct Sealed {
    tallies: Vec<(u32, Tally)>,
    taken: usize,
}

struct Watch<'c> {
    context: &'c Context,
    plan: Plan,
    transactional_id: String,
    group: String,
    known: Known,
    /// Dropped before the member: what is under way ends before its seat is given up.
    committer: Option<Committer<Sealed>>,
    filling: Filling,
    member: Option<Box<dyn Member>>,
    reader: Option<Box<dyn Reader>>,
    assigned: BTreeSet<u32>,
    /// Assigned partitions whose state is to be restored.
    wanting: BTreeSet<u32>,
    /// Partitions at work.
    partitions: BTreeMap<u32, Partition>,
    /// Partitions that wait for a baseline.
    starved: BTreeMap<u32, u64>,
    restorer: Restorer,
    /// Records in one transaction.
    room: Room,
    /// When the last transaction was sealed.
    sealed_at: Option<Instant>,
    /// Whether partitions were revoked since the transaction under way was sealed.
    revoked: bool,
    fences: VecDeque<Instant>,
    not_before: Option<Instant>,
    ends_at: Option<Instant>,
    held: HeldUp,
    trouble: Option<String>,
}

impl<'c> Watch<'c> {
    fn new(context: &'c Context) -> Result<Self, WatchError> {
        let window = &context.config.window;
        let longest = window.days.iter().copied().max().unwrap_or(1);
        let shape = Shape { slice_ms: window.slice_ms, longest_ms: i64::from(longest) * DAY_MS };
        let shelf = Shelf::new(context.registry.clone(), &context.spec, context.config.registry.cache());
        let plan = Plan::new(context.spec.clone(), context.topics.clone(), Encoder::new(&context.spec)?, shape, shelf);
        let prefix = &context.config.kafka.topic_prefix;
        let restorer = Restorer::start(&context.log, &plan, window.max_rows);
        Ok(Self {
            context,
            plan,
            transactional_id: format!("{prefix}.watch.{}", context.instance()),
            group: format!("{prefix}.watch"),
            known: Known::new(),
            committer: None,
            filling: Filling::default(),
            member: None,
            reader: None,
            assigned: BTreeSet::new(),
            wanting: BTreeSet::new(),
            partitions: BTreeMap::new(),
            starved: BTreeMap::new(),
            restorer,
            room: Room::new(MOST_RECORDS),
            sealed_at: None,
            revoked: false,
            fences: VecDeque::new(),
            not_before: None,
            ends_at: None,
            held: HeldUp::default(),
            trouble: None,
        })
    }

    fn run(&mut self) -> Result<(), WatchError> {
        self.say();
        while !self.context.stop.is_asked() {
            if let Err(error) = self.turn() {
                self.survive(error)?;
            }
        }
        Ok(())
    }

    /// Does one thing.
    fn turn(&mut self) -> Result<(), Trouble> {
        if let Some(until) = self.not_before {
            let _ = self.context.stop.wait(until.saturating_duration_since(threads::now()));
            self.not_before = None;
            return Ok(());
        }
        if self.committer.is_none() {
            // Before anything is read back: this aborts what our last producer left hanging.
            let producer = self.context.log.producer(&self.transactional_id)?;
            let committer = Committer::new("watch-commit", producer);
            self.committer = Some(committer.map_err(|error| Trouble::Passing(format!("starting a thread: {error}")))?);
        }
        if self.member.is_none() {
            self.member = Some(self.context.log.member(&self.group, &self.plan.topics.tickets)?);
        }
        // Polling comes first: whatever fails below, a revoke is heard.
        let patience = self.patience();
        let member = self.member.as_mut().expect("just joined");
        match member.poll(patience)? {
            Polled::Assigned(partitions) => {
                let known = self.context.config.kafka.partitions;
                let (partitions, added): (Vec<u32>, Vec<u32>) = partitions.into_iter().partition(|partition| *partition < known);
                for partition in added {
                    let topic = &self.plan.topics.tickets;
                    tracing::warn!("partition {partition} was added to {topic}: nothing of ours is there, and it is left alone");
                }
                self.assigned.extend(&partitions);
                self.wanting.extend(&partitions);
                self.say();
            }
            Polled::Revoked(partitions) => {
                self.revoked = true;
                for partition in &partitions {
                    self.assigned.remove(partition);
                }
                for partition in partitions {
                    self.drop_partition(partition);
                    metrics::watch_gave_up(partition);
                }
                self.say();
            }
            Polled::Records(records) => self.take(records)?,
            Polled::Idle if self.is_settled() => {
                if self.wanting.is_empty() && !self.restorer.is_busy() {
                    self.trouble = None;
                }
                self.say();
                // Behind an open transaction there may be something that is not delivered.
                for partition in self.partitions.keys().filter(|partition| self.held.time(**partition).is_none()) {
                    metrics::watch_lags(*partition, 0);
                    metrics::watch_lags_seconds(*partition, 0.0);
                }
            }
            Polled::Idle => {}
        }
        let is_due = self.filling.taken > 0 && self.may_wait().is_zero();
        self.settle(if is_due { FILL } else { Duration::ZERO })?;
        if is_due {
            self.submit()?;
        }
        self.request_restores()?;
        self.take_restored()?;
        self.feed()?;
        self.look_at_ends()
    }

    /// How long a poll may wait for records.
    fn patience(&self) -> Duration {
        let is_waiting = !self.wanting.is_empty() || self.restorer.is_busy() || !self.starved.is_empty();
        if self.filling.taken > 0 {
            self.may_wait().min(if self.is_busy() || is_waiting { FILL } else { POLL })
        } else if !self.is_settled() {
            FILL
        } else if is_waiting {
            POLL_RESTORING
        } else {
            POLL
        }
    }

    /// For how long what was taken may still be added to.
    fn may_wait(&self) -> Duration {
        self.filling.may_wait(self.sealed_at.map_or(PACE, threads::since))
    }

    fn is_busy(&self) -> bool {
        self.committer.as_ref().is_some_and(Committer::is_busy)
    }

    /// Whether all that was taken is committed.
    fn is_settled(&self) -> bool {
        self.filling.taken == 0 && !self.is_busy()
    }

    fn drop_partition(&mut self, partition: u32) {
        self.partitions.remove(&partition);
        if self.filling.moved.contains(&partition) {
            // Its outputs stand among the others': all of them are given up, and restored.
            for other in std::mem::take(&mut self.filling).moved {
                self.partitions.remove(&other);
                self.starved.remove(&other);
                if self.assigned.contains(&other) {
                    self.wanting.insert(other);
                }
            }
        }
        self.wanting.remove(&partition);
        self.starved.remove(&partition);
        self.restorer.cancel(partition);
    }

    fn request_restores(&mut self) -> Result<(), Trouble> {
        if self.is_busy() {
            return Ok(());
        }
        while let Some(partition) = self.wanting.first().copied() {
            let member = self.member.as_mut().expect("a partition is assigned by a member");
            let committed = member.committed(partition)?;
            fault::pass(PART, Place::OffsetsRead);
            self.wanting.remove(&partition);
            self.restorer.request(partition, Job::Resume { partition, committed });
            self.say();
        }
        Ok(())
    }

    fn take_restored(&mut self) -> Result<(), Trouble> {
        while let Some((partition, restored)) = self.restorer.finished() {
            match restored {
                Ok(state) => {
                    let member = self.member.as_mut().expect("a partition is assigned by a member");
                    if let Err(error) = member.start(partition, state.place.offset) {
                        self.wanting.insert(partition);
                        return Err(error.into());
                    }
                    self.partitions.insert(partition, state);
                    fault::pass(PART, Place::Restored);
                }
                Err(RestoreError::Cancelled) => {}
                Err(error) => {
                    self.wanting.insert(partition);
                    return Err(Trouble::Passing(format!("restoring partition {partition}: {error}")));
                }
            }
            self.trouble = None;
            self.say();
        }
        Ok(())
    }

    /// Looks again for the baselines that partitions wait for.
    fn feed(&mut self) -> Result<(), Trouble> {
        let starved: Vec<(u32, u64)> = self.starved.iter().map(|(partition, version)| (*partition, *version)).collect();
        for (partition, version) in starved {
            if self.has_baseline(version)? {
                let offset = self.partitions.get(&partition).expect("what is starved is at work").place.offset;
                self.member.as_mut().expect("a partition is assigned by a member").start(partition, offset)?;
                self.starved.remove(&partition);
                self.say();
            }
        }
        Ok(())
    }

    fn has_baseline(&mut self, version: u64) -> Result<bool, LogError> {
        if self.known.contains_key(&version) {
            return Ok(true);
        }
        if self.reader.is_none() {
            self.reader = Some(self.context.log.reader()?);
        }
        let reader = self.reader.as_mut().expect("just made");
        let Some(found) = baselines::find(&mut **reader, &self.plan, version)? else { return Ok(false) };
        self.known.insert(version, found);
        Ok(true)
    }

    fn take(&mut self, records: Vec<Delivered>) -> Result<(), Trouble> {
        let mut needs: BTreeMap<u32, Need> = BTreeMap::new();
        for record in records {
            let number = record.partition;
            if needs.contains_key(&number) || self.starved.contains_key(&number) {
                continue;
            }
            let Some(partition) = self.partitions.get_mut(&number).filter(|partition| record.offset >= partition.place.offset) else {
                continue;
            };
            match partition.step(&self.plan, &record, &self.known, Some(&mut self.filling.batch)) {
                Ok(()) => {
                    self.filling.moved.insert(number);
                    self.filling.taken += 1;
                    fault::pass(PART, Place::Taken);
                }
                Err(need) => {
                    needs.insert(number, need);
                }
            }
            if self.filling.taken >= self.room.items() {
                self.settle(Duration::MAX)?;
                self.submit()?;
            }
        }
        if !needs.is_empty() {
            // A partition that is read anew goes on from what is sealed, and leaves nothing in the filling.
            self.settle(Duration::MAX)?;
            self.submit()?;
        }
        let mut result = Ok(());
        for (partition, need) in needs {
            if let Err(error) = self.satisfy(partition, need) {
                // Its next delivery would not be the record that it stands at.
                self.drop_partition(partition);
                self.wanting.insert(partition);
                result = Err(error.into());
            }
        }
        result
    }

    /// Hands over what was filled, outputs and offsets together, unless a transaction is under way.
    fn submit(&mut self) -> Result<(), Trouble> {
        if self.filling.taken == 0 || self.is_busy() {
            return Ok(());
        }
        let member = self.member.as_ref().expect("records were delivered to a member");
        let Some(membership) = member.membership() else { return Err(Trouble::Lost("the group no longer knows us".to_owned())) };
        let Filling { batch, moved, taken } = std::mem::take(&mut self.filling);
        let (mut commits, mut tallies) = (Vec::new(), Vec::new());
        for number in moved {
            let partition = self.partitions.get_mut(&number).expect("who drops a partition drops the filling");
            let metadata = partition.metadata(&self.plan).to_text().unwrap_or_default();
            commits.push(OffsetCommit { partition: number, offset: partition.place.offset, metadata });
            tallies.push((number, std::mem::take(&mut partition.tally)));
        }
        let transaction = Transaction { records: batch.records, last: Vec::new(), offsets: Some((membership, commits)) };
        fault::pass(PART, Place::Sealed);
        self.revoked = false;
        self.sealed_at = Some(threads::now());
        self.committer.as_mut().expect("made before anything is polled").submit(transaction, Sealed { tallies, taken });
        Ok(())
    }

    /// Waits at most so long for the transaction under way, and acts on what became of it.
    fn settle(&mut self, time: Duration) -> Result<(), Trouble> {
        let Some(Done { note: Sealed { tallies, taken }, result, took }) = self.committer.as_mut().and_then(|it| it.wait(time)) else {
            return Ok(());
        };
        let outcome = match &result {
            Ok(()) => Outcome::Committed,
            Err(TransactError::Fenced { .. }) => Outcome::Fenced,
            Err(TransactError::Unknown { .. }) => Outcome::Unknown,
            Err(TransactError::Aborted { .. } | TransactError::TooLarge { .. }) => Outcome::Aborted,
        };
        metrics::watch_transacted(outcome, took);
        match result {
            Ok(()) => {
                self.room.passed(took);
                for (number, tally) in tallies {
                    count(number, tally);
                }
                self.bound_rows();
                Ok(())
            }
            Err(TransactError::TooLarge { topic, bytes }) if taken <= 1 => Err(Trouble::TooLarge { topic, bytes }),
            Err(TransactError::TooLarge { .. }) => {
                self.room.failed(taken);
                Err(Trouble::Lost("a record is too large: trying fewer at once".to_owned()))
            }
            // The generation in which it was sealed is over: nobody has our name.
            Err(error @ TransactError::Fenced { .. }) if self.revoked => Err(Trouble::Lost(error.to_string())),
            Err(TransactError::Fenced { .. }) => Err(Trouble::Fenced),
            Err(error @ (TransactError::Aborted { .. } | TransactError::Unknown { .. })) => {
                self.room.failed(taken);
                Err(Trouble::Lost(error.to_string()))
            }
        }
    }

    /// Drops the oldest rows of this process beyond what is configured.
    fn bound_rows(&mut self) {
        let mut rows: usize = self.partitions.values().map(|partition| partition.window.rows()).sum();
        while rows > self.context.config.window.max_rows {
            let oldest = self.partitions.iter().filter_map(|(number, partition)| Some((partition.window.oldest_rows()?, *number))).min();
            let Some((start_ms, number)) = oldest else { return };
            let window = &mut self.partitions.get_mut(&number).expect("just found").window;
            rows -= window.rows();
            window.drop_rows(start_ms);
            rows += window.rows();
        }
    }

    fn satisfy(&mut self, number: u32, need: Need) -> Result<(), LogError> {
        match need {
            Need::Baseline(version) => {
                let begun = threads::now();
                while !self.has_baseline(version)? {
                    if threads::since(begun) >= BASELINE_PATIENCE || self.context.stop.wait(Duration::from_millis(20)) {
                        self.starved.insert(number, version);
                        self.say();
                        return Ok(());
                    }
                }
                let offset = self.partitions[&number].place.offset;
                self.member.as_mut().expect("a partition is assigned by a member").start(number, offset)?;
            }
            Need::Reread(version) => {
                let partition = self.partitions.remove(&number).expect("it just asked");
                let metadata = Box::new(partition.metadata(&self.plan));
                self.restorer.request(number, Job::Reread { metadata, partition: number, version, written: partition.written });
                self.say();
            }
        }
        Ok(())
    }

    /// Asks now and then where the topics end.
    fn look_at_ends(&mut self) -> Result<(), Trouble> {
        if self.ends_at.is_some_and(|at| threads::since(at) < ENDS) {
            return Ok(());
        }
        for _ in 0..2 {
            self.settle(Duration::MAX)?;
            self.submit()?;
        }
        self.ends_at = Some(threads::now());
        if let Err(error) = self.ends() {
            tracing::debug!(%error, "asking where topics end");
        }
        let (rows, bytes) = self
            .partitions
            .values()
            .fold((0, 0), |(rows, bytes), partition| (rows + partition.window.rows() as u64, bytes + partition.window.bytes() as u64));
        metrics::window_holds(rows, bytes);
        Ok(())
    }

    /// Renews what bounds a successor's reading. All that was taken is committed: an output stands before the end or is still to come.
    fn ends(&mut self) -> Result<(), LogError> {
        if self.reader.is_none() {
            self.reader = Some(self.context.log.reader()?);
        }
        let reader = self.reader.as_mut().expect("just made");
        self.held.keep(|number| self.partitions.contains_key(&number));
        for (number, partition) in &mut self.partitions {
            let stable = reader.stable_end(&self.plan.topics.tickets, *number)?;
            let end = reader.bounds(&self.plan.topics.tickets, *number)?.end;
            self.held.look(*number, stable, end);
            metrics::watch_lags(*number, u64::try_from(end - partition.place.offset).unwrap_or(0));
            if let Some(time) = self.held.time(*number) {
                metrics::watch_lags_seconds(*number, time.as_secs_f64());
            }
            for output in Output::ALL {
                let written = &mut partition.written[output as usize];
                // While outputs of a torn transaction are being met again, the old bound finds the rest of them.
                if written.visible.is_empty() {
                    let end = reader.bounds(output.topic(&self.plan.topics), output.partition(*number))?.end;
                    written.bound = Bound { offset: end, outputs: 0 };
                }
            }
        }
        Ok(())
    }

    fn survive(&mut self, trouble: Trouble) -> Result<(), WatchError> {
        let reason = match trouble {
            Trouble::TooLarge { topic, bytes } => return Err(WatchError::TooLarge { topic, bytes }),
            Trouble::Log(source @ (LogError::WrongTopic { .. } | LogError::Unseated { .. })) => {
                return Err(WatchError::Log { topic: self.plan.topics.tickets.to_string(), source });
            }
            Trouble::Fenced => {
                // A twin's commits and ours take turns, so a success in between says nothing.
                self.fences.push_back(threads::now());
                self.fences.retain(|fenced| threads::since(*fenced) < TWIN_TIME);
                if self.fences.len() >= TWIN_FENCES {
                    return Err(WatchError::Twin { id: self.transactional_id.clone() });
                }
                // A seat in the group that is no longer ours shows as a revoke at the next poll: leaving it by ourselves would
                // only make the group turn round once more.
                self.start_over();
                let doublings = u32::try_from(self.fences.len() - 1).unwrap_or(u32::MAX).min(5);
                self.not_before = Some(threads::now() + FENCED * 2u32.pow(doublings));
                format!("fenced as {}", self.transactional_id)
            }
            Trouble::Lost(reason) => {
                self.start_over();
                reason
            }
            Trouble::Log(error) => {
                if let LogError::Truncated { partition, .. } = &error
                    && self.assigned.contains(partition)
                {
                    self.drop_partition(*partition);
                    self.wanting.insert(*partition);
                }
                self.not_before = Some(threads::now() + RETRY);
                error.to_string()
            }
            Trouble::Passing(reason) => {
                self.not_before = Some(threads::now() + RETRY);
                reason
            }
        };
        tracing::warn!(%reason, "watch goes on from what is committed");
        self.trouble = Some(reason);
        self.say();
        Ok(())
    }

    /// Forgets all that may be ahead of the log: a new producer, and every partition from what is committed.
    fn start_over(&mut self) {
        self.committer = None;
        self.filling = Filling::default();
        self.partitions.clear();
        self.starved.clear();
        for partition in &self.assigned {
            self.restorer.cancel(*partition);
        }
        self.wanting.clone_from(&self.assigned);
    }

    fn say(&self) {
        let busy = self.assigned.len() - self.assigned.iter().filter(|partition| self.partitions.contains_key(partition)).count();
        let state = if let Some(trouble) = &self.trouble {
            State::Waiting(trouble.clone())
        } else if let Some(version) = self.starved.values().next() {
            State::Waiting(format!("waiting for baseline {}@{version}", self.plan.spec.name))
        } else if busy > 0 {
            State::Waiting(format!("restoring {busy} of {} partitions", self.assigned.len()))
        } else if let Some(trouble) = self.held.trouble(&self.plan.topics.tickets) {
            State::Waiting(trouble.to_string())
        } else if !self.assigned.is_empty() {
            State::Ready(format!("watching {} partitions", self.assigned.len()))
        } else if self.member.as_ref().is_some_and(|member| member.membership().is_some()) {
            State::Ready("standing by: the partitions are others'".to_owned())
        } else {
            State::Waiting("joining the group".to_owned())
        };
        self.context.health.set(PART, state);
    }
}

fn count(number: u32, tally: Tally) {
    metrics::tickets_watched(tally.tickets - tally.repeats, tally.late + tally.outside, tally.repeats);
    metrics::strangers_passed_over(PART, "tickets", tally.strangers);
    for kind in tally.breaks {
        tracing::warn!(partition = number, kind, "a record of tickets does not follow its predecessor");
        metrics::chain_broke(kind);
    }
    if let Some(seconds) = tally.committed_s {
        metrics::watch_lags_seconds(number, (now_ms() as f64 / 1000.0 - f64::from(seconds)).max(0.0));
    }
}

/// What keeps a turn from its end.
enum Trouble {
    /// The log said so.
    Log(LogError),
    /// It may pass.
    Passing(String),
    /// What is in memory may be ahead of the log.
    Lost(String),
    /// Another process took over.
    Fenced,
    /// One record's outputs do not fit.
    TooLarge { topic: String, bytes: usize },
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

#[cfg(test)]
mod tests;
