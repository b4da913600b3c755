//! The judge's rim: reads summaries, commits verdicts, and goes on where the last owner stopped.
//!
//! While one transaction of verdicts is committed, the next is filled. A leader's memory is then ahead of the log, so after any
//! failure, and when the partition is revoked, it is dropped as a whole, and the next one reads back what became visible. What is
//! under way at a revoke is settled by the group: its offset came in time, or the transaction is refused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::fault::{self, Place};
use crate::log::{Committer, Delivered, Done, LogError, Member, OffsetCommit, Polled, Record, Room, TransactError, Transaction};
use crate::metrics;
use crate::stage::{Context, State};
use crate::summary::Summary;
use crate::threads;

use super::core::{Core, Verdict};
use super::places::Places;
use super::queue::Queue;
use super::restore::{self, Restored};
use super::versions::Versions;

/// Name of the stage.
pub(crate) const JUDGE: &str = "judge";
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(200);
/// How long it is waited at once for the transaction under way while the next is filled, and for summaries while one is under way.
const FILL: Duration = Duration::from_millis(1);
/// Marks in one transaction at most: what is behind is caught up in large steps, what is live goes one by one.
const MARKS_PER_TRANSACTION: usize = 128;
/// Marks held of a partition while another is behind; what comes beyond them is passed over and read again. A fetch brings a watcher
/// some hundred marks of one partition of tickets before the next, so fewer would have the judge turn back all the time.
const MARKS_AHEAD: usize = 1_000;
/// Shortest and longest pause before something that failed is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Why the judge cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The log.
    #[error("the judge cannot use the log: {0}")]
    Log(#[from] LogError),
    /// The last status record cannot be read.
    #[error(
        "reading the last status of {spec} at offset {offset} of topic {topic}: {reason}; it was written by another version of tidemark"
    )]
    Status {
        /// Name of the spec.
        spec: String,
        /// The topic.
        topic: String,
        /// Offset of the record.
        offset: i64,
        /// What is wrong.
        reason: String,
    },
    /// A baseline record cannot be read.
    #[error("reading baseline {key} from topic {topic}: {reason}; create it anew")]
    Baseline {
        /// Its key.
        key: String,
        /// The topic.
        topic: String,
        /// What is wrong.
        reason: String,
    },
    /// One mark's records are larger than the log takes.
    #[error("the records of mark {mark} are too large for the log: {reason}; raise max.message.bytes of the topic")]
    TooLarge {
        /// The mark.
        mark: u64,
        /// What the log said.
        reason: String,
    },
}

/// Judges until asked to stop.
///
/// # Errors
/// [`JudgeError`]. What may pass is tried again with back-off, for ever, and shows in the health.
pub fn run(context: &Context) -> Result<(), JudgeError> {
    let mut backoff = BACKOFF.0;
    while !context.stop.is_asked() {
        let group = format!("{}.judge", context.config.kafka.topic_prefix);
        context.health.set(JUDGE, State::Waiting(format!("joining group {group}")));
        let joined = threads::now();
        match context.log.member(&group, &context.topics.summaries).map_err(JudgeError::from).and_then(|member| follow(context, member)) {
            Ok(()) => {}
            Err(JudgeError::Log(error @ (LogError::Unavailable { .. } | LogError::HeldUp { .. }))) => {
                tracing::warn!(%error, "the judge tries again");
                context.health.set(JUDGE, State::Waiting(error.to_string()));
            }
            Err(error) => {
                context.health.set(JUDGE, State::Failed(error.to_string()));
                return Err(error);
            }
        }
        backoff = if threads::since(joined) > BACKOFF.1 { BACKOFF.0 } else { (backoff * 2).min(BACKOFF.1) };
        if context.stop.wait(backoff) {
            break;
        }
    }
    Ok(())
}

/// Follows the group until asked to stop (or fenced: then the caller joins anew).
fn follow(context: &Context, mut member: Box<dyn Member>) -> Result<(), JudgeError> {
    let mut leader: Option<Leader> = None;
    context.health.set(JUDGE, State::Ready("standing by".to_owned()));
    while !context.stop.is_asked() {
        match member.poll(leader.as_ref().map_or(POLL, Leader::patience))? {
            Polled::Assigned(partitions) if partitions.contains(&0) => {
                // What is under way ends before it is looked what became visible.
                drop(leader.take());
                leader = Some(Leader::take_over(context, member.as_mut(), Room::new(MARKS_PER_TRANSACTION))?);
            }
            Polled::Revoked(partitions) if partitions.contains(&0) => {
                leader = None;
                context.health.set(JUDGE, State::Ready("standing by".to_owned()));
            }
            Polled::Records(records) => {
                if let Some(leader) = &mut leader {
                    leader.take(context, records);
                }
            }
            Polled::Assigned(_) | Polled::Revoked(_) | Polled::Idle => {}
        }
        let Some(mut current) = leader.take() else { continue };
        leader = match current.step(context, member.as_mut()) {
            Ok(()) => Some(current),
            Err(Stopped::Fenced) => {
                tracing::info!("another process judges now");
                return Ok(());
            }
            Err(Stopped::TakeOver { room }) => {
                drop(current);
                Some(Leader::take_over(context, member.as_mut(), room)?)
            }
            Err(Stopped::Failed(error)) => return Err(error),
        };
    }
    Ok(())
}

/// Why a step did not end well.
enum Stopped {
    /// Another process has taken over.
    Fenced,
    /// Read back what became visible, then go on with at most so many marks in a transaction.
    TakeOver { room: Room },
    /// For good, or until the log is back.
    Failed(JudgeError),
}

impl From<JudgeError> for Stopped {
    fn from(error: JudgeError) -> Self {
        Self::Failed(error)
    }
}

impl From<LogError> for Stopped {
    fn from(error: LogError) -> Self {
        Self::Failed(error.into())
    }
}

/// Verdicts, and how long each took.
type Verdicts = Vec<(Verdict, Duration)>;

/// The owner of the one partition of `summaries`.
struct Leader {
    core: Core,
    queue: Queue,
    versions: Versions,
    restored: Restored,
    committer: Committer<Verdicts>,
    /// What was decided since the last transaction was sealed.
    filling: Verdicts,
    places: Places,
    /// Next offset to be read.
    next_offset: i64,
    /// Records that are passed over because too much is held: from which offset, and of which partitions.
    passed_over: Option<(i64, std::collections::BTreeSet<u32>)>,
    /// The offset after the last record that was taken of each partition: what is met again before it is not read twice.
    taken: BTreeMap<u32, i64>,
    /// Marks in one transaction.
    room: Room,
}

impl Leader {
    fn take_over(context: &Context, member: &mut dyn Member, room: Room) -> Result<Self, JudgeError> {
        context.health.set(JUDGE, State::Waiting("reading back what was judged".to_owned()));
        let (producer, restored, status) = restore::restore(context, member)?;
        fault::pass(JUDGE, Place::Restored);
        let committer = Committer::new("judge-commit", producer)
            .map_err(|error| LogError::Unavailable { doing: "starting a thread".to_owned(), reason: error.to_string() })?;
        let core = Core::new(context.spec.clone(), context.config.judge.clone(), &context.config.window, status);
        member.start(0, restored.from)?;
        Ok(Self {
            places: Places::new(core.keep_ms(), context.config.window.slice_ms + context.config.window.lateness_ms),
            core,
            queue: Queue::default(),
            versions: Versions::default(),
            next_offset: restored.from,
            restored,
            committer,
            filling: Vec::new(),
            passed_over: None,
            taken: BTreeMap::new(),
            room,
        })
    }

    /// Takes records into the queue.
    fn take(&mut self, context: &Context, records: Vec<Delivered>) {
        for record in records {
            self.next_offset = record.offset + 1;
            if key_of(&record).is_some_and(|partition| self.passes(partition, record.offset)) {
                continue;
            }
            let Some(summary) = decode(context, &record) else { continue };
            if self.passes(summary.partition, record.offset) {
                continue;
            }
            if self.queue.held_of(summary.partition) >= MARKS_AHEAD {
                self.passed_over.get_or_insert_with(|| (record.offset, std::collections::BTreeSet::new())).1.insert(summary.partition);
                continue;
            }
            self.places.saw(summary.mark, record.offset);
            self.taken.insert(summary.partition, record.offset + 1);
            self.queue.offer(summary);
            fault::pass(JUDGE, Place::Taken);
        }
    }

    /// Whether a record of that partition was taken before, or waits to be read again.
    fn passes(&self, partition: u32, offset: i64) -> bool {
        let is_passed_over = self.passed_over.as_ref().is_some_and(|(_, partitions)| partitions.contains(&partition));
        is_passed_over || self.taken.get(&partition).is_some_and(|next| offset < *next)
    }

    /// How long a poll may wait for summaries.
    fn patience(&self) -> Duration {
        match (self.filling.is_empty(), self.committer.is_busy()) {
            (false, _) => Duration::ZERO,
            (true, true) => FILL,
            (true, false) => POLL,
        }
    }

    /// Judges all marks that are complete, and commits.
    fn step(&mut self, context: &Context, member: &mut dyn Member) -> Result<(), Stopped> {
        while let Some(mark) = self.queue.peek() {
            let fills = self.core.only_fills(mark);
            if !fills && !self.versions.has(context, mark.baseline)? {
                let version = mark.baseline.unwrap_or_default();
                let waits = format!("waiting for baseline {}@{version} in topic {}", context.spec.name, context.topics.baselines);
                context.health.set(JUDGE, State::Waiting(waits));
                return self.settle_and_submit(context, member, FILL);
            }
            let step = self.queue.next().expect("peek() saw it");
            let begun = threads::now();
            let verdict = self.core.advance(&step, if fills { None } else { self.versions.get(mark.baseline) });
            self.places.passed(mark);
            if let Some(verdict) = verdict {
                fault::pass(JUDGE, Place::Judged);
                if !verdict.alerts.is_empty() {
                    fault::pass(JUDGE, Place::EpisodeChanged);
                }
                self.filling.push((verdict, threads::since(begun)));
            }
            if self.filling.len() >= self.room.items() {
                self.settle_and_submit(context, member, Duration::MAX)?;
            }
        }
        self.settle_and_submit(context, member, if self.filling.is_empty() { Duration::ZERO } else { FILL })?;
        self.read_again(member)?;
        self.say_how(context);
        Ok(())
    }

    /// Waits at most so long for the transaction under way, and hands over the next once there is none.
    fn settle_and_submit(&mut self, context: &Context, member: &dyn Member, time: Duration) -> Result<(), Stopped> {
        if let Some(Done { note, result, took }) = self.committer.wait(time) {
            self.settled(context, &note, result)?;
            self.room.passed(took);
        }
        if self.filling.is_empty() || self.committer.is_busy() {
            return Ok(());
        }
        self.submit(context, member)
    }

    /// Reads again what was passed over, once there is room.
    fn read_again(&mut self, member: &mut dyn Member) -> Result<(), LogError> {
        let Some((from, partitions)) = &self.passed_over else { return Ok(()) };
        if partitions.iter().any(|partition| self.queue.held_of(*partition) < MARKS_AHEAD / 2) {
            member.start(0, *from)?;
            self.next_offset = *from;
            self.passed_over = None;
        }
        Ok(())
    }

    fn say_how(&self, context: &Context) {
        let behind = self.queue.held_up_by();
        let Some(partition) = behind.first().filter(|_| self.queue.held() > 0) else {
            return match self.places.last() {
                Some(mark) => context.health.set(JUDGE, State::Ready(format!("judged mark {}", mark.number))),
                None => context.health.set(JUDGE, State::Ready("waiting for the first mark".to_owned())),
            };
        };
        // The others are at most a moment ahead most of the time: only a real lead is worth a word.
        if self.queue.held() > 2 * context.config.kafka.partitions as usize {
            let waits = format!("partition {partition} of {} holds the others up: no summary of the next mark", context.topics.tickets);
            context.health.set(JUDGE, State::Waiting(waits));
        }
    }

    fn submit(&mut self, context: &Context, member: &dyn Member) -> Result<(), Stopped> {
        let Some(membership) = member.membership() else { return Err(Stopped::Fenced) };
        let verdicts = std::mem::take(&mut self.filling);
        let number = verdicts.last().expect("something was filled").0.status.mark;
        let metadata = restore::metadata(self.places.restore_offset().unwrap_or(self.restored.from), number);
        let mut transaction = Transaction {
            offsets: Some((membership, vec![OffsetCommit { partition: 0, offset: self.next_offset, metadata }])),
            ..Transaction::default()
        };
        for (verdict, _) in &verdicts {
            let is_new = |record: &Record| !self.restored.is_visible(record);
            transaction.records.extend(outputs(context, verdict).into_iter().filter(is_new));
            transaction.last.push(status_record(context, verdict));
        }
        fault::pass(JUDGE, Place::Sealed);
        self.committer.submit(transaction, verdicts);
        Ok(())
    }

    /// Acts on what became of a transaction.
    fn settled(&self, context: &Context, verdicts: &Verdicts, result: Result<(), TransactError>) -> Result<(), Stopped> {
        let number = verdicts.last().map_or(0, |(verdict, _)| verdict.status.mark);
        match result {
            Ok(()) => {}
            Err(TransactError::Fenced { .. }) => return Err(Stopped::Fenced),
            Err(error @ TransactError::TooLarge { .. }) if verdicts.len() == 1 => {
                return Err(JudgeError::TooLarge { mark: number, reason: error.to_string() }.into());
            }
            Err(error) => {
                tracing::warn!(%error, mark = number, "reading back what became visible");
                let _asked = context.stop.wait(BACKOFF.0);
                let mut room = self.room;
                // A verdict as large as these comes at every mark.
                let halve = if matches!(error, TransactError::TooLarge { .. }) { Room::is_too_large } else { Room::failed };
                halve(&mut room, verdicts.len());
                return Err(Stopped::TakeOver { room });
            }
        }
        for (verdict, took) in verdicts {
            count(verdict, *took);
        }
        Ok(())
    }
}

/// Returns the partition of `tickets` that a summary is keyed by: nearly all of it need not be parsed to pass it over.
fn key_of(record: &Delivered) -> Option<u32> {
    std::str::from_utf8(record.key.as_deref()?).ok()?.parse().ok()
}

fn decode(context: &Context, record: &Delivered) -> Option<Summary> {
    let summary = serde_json::from_slice::<Summary>(record.value.as_deref().unwrap_or_default());
    match summary {
        Ok(summary) if summary.spec == context.spec.name => Some(summary),
        Ok(summary) => {
            tracing::warn!(offset = record.offset, spec = summary.spec, "a summary of another spec is passed over");
            metrics::strangers_passed_over(JUDGE, "summaries", 1);
            None
        }
        Err(error) => {
            tracing::warn!(offset = record.offset, %error, "a record of {} is no summary and is passed over", context.topics.summaries);
            metrics::strangers_passed_over(JUDGE, "summaries", 1);
            None
        }
    }
}

/// The alerts and triggers of a verdict as records.
fn outputs(context: &Context, verdict: &Verdict) -> Vec<Record> {
    let header = |name: &'static str, text: String| (Cow::Borrowed(name), Bytes::from(text));
    let source = format!("0:{}", verdict.status.mark);
    let more = |kind: &str| vec![header("kind", kind.to_owned()), header("source", source.clone())];
    let alerts = verdict.alerts.iter().map(|(key, event)| event.clone().into_record(context.topics.alerts.clone(), key, more("episode")));
    let triggers = verdict.triggers.iter().map(|trigger| {
        let topic = context.topics.retraining_triggers.clone();
        trigger.event().into_record(topic, &trigger.model, more("trigger"))
    });
    alerts.chain(triggers).collect()
}

fn status_record(context: &Context, verdict: &Verdict) -> Record {
    let header = |name: &'static str, text: String| (Cow::Borrowed(name), Bytes::from(text));
    let value = serde_json::to_vec(&verdict.status).expect("a status has only texts and numbers");
    Record {
        topic: context.topics.status.clone(),
        partition: 0,
        key: Some(Bytes::from(context.spec.name.clone())),
        value: Some(Bytes::from(value)),
        headers: vec![header("kind", "status".to_owned()), header("source", format!("0:{}", verdict.status.mark))],
    }
}

fn count(verdict: &Verdict, took: Duration) {
    let status = &verdict.status;
    let longest = status.windows.iter().rev().find(|window| window.rows > 0);
    let numbers = metrics::Verdict {
        status: status.status.map(|level| level as u8),
        max_psi: longest.and_then(|window| window.psi.values().copied().max_by(f64::total_cmp)),
        anchor_psi: longest.and_then(|window| window.anchor_psi.values().copied().max_by(f64::total_cmp)),
        mae_ratio: longest.and_then(|window| window.mae_ratio),
        target_p: longest.and_then(|window| window.ks_p),
        end_ms: status.at_ms,
    };
    metrics::judged(&numbers, took);
    metrics::judge_is(status.state.name());
    for (_, event) in &verdict.alerts {
        let kind = ["opened", "escalated", "resolved", "accepted"].into_iter().find(|kind| event.kind.contains(kind));
        metrics::alert_raised(kind.unwrap_or("other"));
    }
    for trigger in &verdict.triggers {
        if trigger.change == crate::trigger::TriggerChange::Raised {
            metrics::trigger_raised(trigger.trigger_type.name());
        }
    }
}
