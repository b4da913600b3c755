//! The fourth stage: every training that is asked for has one answer, whatever dies on the way.
//!
//! It reads `retraining-triggers` as a group of its own; its owner polls on while a thread trains. An answer is one transaction: the
//! new baseline, the outcome, and the offset of the request, so that they are there together or not at all. The registry is an
//! outbox: a version is published under the request's key before the decision, and promoted after it; what a crash left between
//! the two is made good at the next start, and closed by an `applied` event.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use super::answer::{Answer, Trainer};
use crate::baseline::Baseline;
use crate::clock::now_ms;
use crate::cloudevent::CloudEvent;
use crate::log::{Delivered, LogError, Member, OffsetCommit, Polled, Producer, Reader, Record, TransactError, Transaction};
use crate::model_event::ModelEvent;
use crate::registry::Registry;
use crate::stage::{Context, State};
use crate::trigger::{Trigger, TriggerChange};

/// Name of the stage.
pub(crate) const TRAIN: &str = "train";
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(100);
/// The same while a thread trains: how soon its answer is committed.
const POLL_TRAINING: Duration = Duration::from_millis(5);
/// Shortest and longest pause before something that failed is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often it is looked whether somebody else moved Production.
const LOOK_AT_PRODUCTION: Duration = Duration::from_secs(20);

/// Why the stage cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainStageError {
    /// The log.
    #[error("the train stage cannot use the log")]
    Log(#[from] LogError),
    /// There is nowhere to keep models.
    #[error("the train stage needs a registry: set MLFLOW_TRACKING_URI, or registry.directory, or leave train out of --stages")]
    NoRegistry,
    /// The spec's features cannot be computed.
    #[error("reading the spec's features: correct the spec")]
    Spec(#[from] crate::features::EncoderError),
}

/// Runs the stage until it is asked to stop.
///
/// # Errors
/// [`TrainStageError`]. What may pass is tried again with back-off.
pub fn run(context: &Context, place: crate::history::Place) -> Result<(), TrainStageError> {
    let Some(registry) = context.registry.clone() else { return Err(TrainStageError::NoRegistry) };
    let trainer = Arc::new(Trainer::new(context, Arc::clone(&registry), place)?);
    let reader = Arc::clone(&trainer);
    let ahead = std::thread::Builder::new().name("train-read".to_owned()).spawn(move || reader.read_ahead());
    if let Err(error) = ahead {
        tracing::warn!(%error, "no thread to read ahead with; the first request reads");
    }
    let mut backoff = BACKOFF.0;
    while !context.stop.is_asked() {
        let begun = Instant::now();
        context.health.set(TRAIN, State::Waiting("joining its group".to_owned()));
        match follow(context, &trainer, registry.as_ref()) {
            Ok(()) => {}
            Err(error @ (LogError::Unavailable { .. } | LogError::HeldUp { .. })) => {
                tracing::warn!(%error, "the train stage tries again");
                context.health.set(TRAIN, State::Waiting(error.to_string()));
            }
            Err(error) => {
                context.health.set(TRAIN, State::Failed(error.to_string()));
                return Err(error.into());
            }
        }
        backoff = if begun.elapsed() > BACKOFF.1 { BACKOFF.0 } else { (backoff * 2).min(BACKOFF.1) };
        if context.stop.wait(backoff) {
            break;
        }
    }
    Ok(())
}

/// Follows the group until asked to stop, or until it has to join anew.
fn follow(context: &Context, trainer: &Arc<Trainer>, registry: &dyn Registry) -> Result<(), LogError> {
    let group = format!("{}.train", context.config.kafka.topic_prefix);
    let mut member = context.log.member(&group, &context.topics.retraining_triggers)?;
    let mut owner: Option<Owner> = None;
    while !context.stop.is_asked() {
        let wait = if owner.as_ref().is_some_and(|owner| owner.training.is_some()) { POLL_TRAINING } else { POLL };
        match member.poll(wait)? {
            Polled::Assigned(partitions) if partitions.contains(&0) => {
                owner = Some(Owner::take_over(context, member.as_mut(), trainer, registry)?);
            }
            Polled::Revoked(partitions) if partitions.contains(&0) => owner = None,
            Polled::Records(records) => {
                if let Some(owner) = &mut owner {
                    owner.waiting.extend(records);
                }
            }
            Polled::Assigned(_) | Polled::Revoked(_) | Polled::Idle => {}
        }
        let Some(owner) = &mut owner else {
            context.health.set(TRAIN, State::Ready("standing by: another process trains".to_owned()));
            continue;
        };
        if !owner.step(context, member.as_ref())? {
            return Ok(());
        }
    }
    Ok(())
}

/// The owner of the one partition of `retraining-triggers`.
struct Owner {
    producer: Box<dyn Producer>,
    trainer: Arc<Trainer>,
    waiting: VecDeque<Delivered>,
    /// Requests that have an answer although their offset was not committed.
    answered: BTreeSet<String>,
    training: Option<(Trigger, i64, Receiver<Answer>)>,
    looked: Instant,
    /// Outcomes that the registry has not heard of: until it has, a difference there is our own doing and nobody's decision.
    unapplied: Vec<(String, ModelEvent)>,
}

impl Owner {
    fn take_over(context: &Context, member: &mut dyn Member, trainer: &Arc<Trainer>, registry: &dyn Registry) -> Result<Self, LogError> {
        context.health.set(TRAIN, State::Waiting("reading back what was answered".to_owned()));
        let id = format!("{}.train", context.config.kafka.topic_prefix);
        let producer = context.log.producer(&id)?;
        let mut reader = context.log.reader()?;
        let from = member.committed(0)?.map(|committed| committed.offset);
        let bounds = reader.bounds(&context.topics.retraining_triggers, 0)?;
        member.start(0, from.unwrap_or(bounds.low).clamp(bounds.low, bounds.end))?;
        let told = outcomes(context, reader.as_mut())?;
        let answered = told.iter().map(|told| told.id.clone()).collect();
        let mut owner = Self {
            producer,
            trainer: Arc::clone(trainer),
            waiting: VecDeque::new(),
            answered,
            training: None,
            looked: Instant::now(),
            unapplied: Vec::new(),
        };
        for told in told.into_iter().filter(|told| !told.is_applied) {
            owner.apply(context, registry, &told.id, &told.event);
        }
        Ok(owner)
    }

    /// Does one thing; `false` when the group has to be joined anew.
    fn step(&mut self, context: &Context, member: &dyn Member) -> Result<bool, LogError> {
        if let Some((trigger, next_offset, coming)) = self.training.take() {
            match coming.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.training = Some((trigger, next_offset, coming));
                    return Ok(true);
                }
                Ok(answer) => return self.answer(context, member, &trigger, next_offset, answer),
                Err(TryRecvError::Disconnected) => {
                    let answer = Answer::failed("the training ended without an answer; its message is in the log above");
                    return self.answer(context, member, &trigger, next_offset, answer);
                }
            }
        }
        let Some(record) = self.waiting.pop_front() else {
            context.health.set(TRAIN, State::Ready("waiting for a request".to_owned()));
            return self.look_at_production(context);
        };
        let Some(trigger) = due(&record).filter(|trigger| trigger.spec == context.spec.name) else { return Ok(true) };
        if self.answered.contains(&answer_id(&trigger)) {
            return Ok(true);
        }
        context.health.set(TRAIN, State::Ready(format!("training for {} (attempt {})", trigger.id, trigger.attempts + 1)));
        let (send, coming) = channel();
        let (trainer, asked) = (Arc::clone(&self.trainer), trigger.clone());
        let train = move || {
            // Nobody waits any more when the partition was revoked.
            let _unheard = send.send(trainer.answer(&asked));
        };
        match std::thread::Builder::new().name("training".to_owned()).spawn(train) {
            Ok(_) => self.training = Some((trigger, record.offset + 1, coming)),
            Err(error) => {
                let answer = Answer::failed(&format!("no thread for the training: {error}"));
                return self.answer(context, member, &trigger, record.offset + 1, answer);
            }
        }
        Ok(true)
    }

    fn answer(
        &mut self,
        context: &Context,
        member: &dyn Member,
        trigger: &Trigger,
        next_offset: i64,
        answer: Answer,
    ) -> Result<bool, LogError> {
        let Some(membership) = member.membership() else { return Ok(false) };
        let id = answer_id(trigger);
        tracing::info!(trigger = trigger.id, outcome = answer.outcome, reason = answer.reason, "a training is answered");
        let event = ModelEvent::Outcome {
            id: id.clone(),
            spec: context.spec.name.clone(),
            trigger: trigger.id.clone(),
            outcome: answer.outcome.to_owned(),
            reason: answer.reason,
            mark: trigger.asked,
            baseline: answer.baseline.as_ref().map(|baseline| baseline.version),
            version: answer.promoted,
        };
        let transaction = Transaction {
            records: answer.baseline.iter().map(|baseline| baseline_record(context, baseline)).collect(),
            last: vec![event_record(context, &event)],
            offsets: Some((membership, vec![OffsetCommit { partition: 0, offset: next_offset, metadata: String::new() }])),
        };
        match self.producer.transact(transaction) {
            Ok(()) => {}
            Err(TransactError::TooLarge { topic, bytes }) => {
                // The same answer would not fit the next time either.
                tracing::error!(%topic, bytes, "an answer is too large for its topic; the request is answered as failed");
                return self.again(context, member, trigger, next_offset);
            }
            Err(error) => {
                tracing::warn!(%error, "the answer to a training did not certainly arrive; reading back");
                return Ok(false);
            }
        }
        self.answered.insert(id.clone());
        if let Some(registry) = &context.registry {
            self.apply(context, registry.as_ref(), &id, &event);
        }
        Ok(true)
    }

    fn again(&mut self, context: &Context, member: &dyn Member, trigger: &Trigger, next_offset: i64) -> Result<bool, LogError> {
        self.producer = context.log.producer(&format!("{}.train", context.config.kafka.topic_prefix))?;
        let answer = Answer::failed("its baseline is too large for the baselines topic: raise its max.message.bytes");
        self.answer(context, member, trigger, next_offset, answer)
    }

    /// Does in the registry what was decided, then says so. What fails is done again, before it is looked whether somebody moved Production.
    fn apply(&mut self, context: &Context, registry: &dyn Registry, id: &str, event: &ModelEvent) {
        if let ModelEvent::Outcome { version: Some(version), reason, .. } = event
            && let Err(error) = registry.promote(&context.spec.model, *version, reason)
        {
            tracing::warn!(%error, version, "the version is promoted in the log and not yet in the registry; it is tried again soon");
            self.unapplied.push((id.to_owned(), event.clone()));
            return;
        }
        self.trainer.document(id, event);
        let applied = serde_json::json!({ "kind": "applied", "id": id, "spec": context.spec.name });
        let record = Record {
            topic: context.topics.model_events.clone(),
            partition: 0,
            key: Some(id.to_owned().into()),
            value: Some(applied.to_string().into()),
            headers: Vec::new(),
        };
        if let Err(error) = self.producer.transact(Transaction { records: vec![record], ..Transaction::default() }) {
            tracing::warn!(%error, "an applied event did not certainly arrive; what it says is done again at the next start");
            if let Ok(producer) = context.log.producer(&format!("{}.train", context.config.kafka.topic_prefix)) {
                self.producer = producer;
            }
        }
    }

    /// Somebody may have moved Production in the registry itself: then the version's own baseline comes back.
    fn look_at_production(&mut self, context: &Context) -> Result<bool, LogError> {
        if self.looked.elapsed() < LOOK_AT_PRODUCTION {
            return Ok(true);
        }
        self.looked = Instant::now();
        if let Some(registry) = context.registry.clone().filter(|_| !self.unapplied.is_empty()) {
            for (id, event) in std::mem::take(&mut self.unapplied) {
                self.apply(context, registry.as_ref(), &id, &event);
            }
            return Ok(true);
        }
        let Some(baseline) = self.trainer.follow_production() else { return Ok(true) };
        let version = baseline.scored_by.as_ref().map(|named| named.version);
        tracing::info!(?version, baseline = baseline.version, "somebody moved Production; its baseline comes back");
        let moved = serde_json::json!({
            "kind": "moved", "id": format!("moved-{}", baseline.version), "spec": context.spec.name, "version": version,
            "baseline": baseline.version, "at_ms": now_ms(),
        });
        let event = Record {
            topic: context.topics.model_events.clone(),
            partition: 0,
            key: Some("moved".into()),
            value: Some(moved.to_string().into()),
            headers: Vec::new(),
        };
        let transaction = Transaction { records: vec![baseline_record(context, &baseline), event], ..Transaction::default() };
        if let Err(error) = self.producer.transact(transaction) {
            tracing::warn!(%error, "a moved Production is looked at again");
            return Ok(false);
        }
        Ok(true)
    }
}

/// An outcome that is in the log.
struct Told {
    id: String,
    event: ModelEvent,
    is_applied: bool,
}

/// Reads every outcome, oldest first, and whether it was applied.
fn outcomes(context: &Context, reader: &mut dyn Reader) -> Result<Vec<Told>, LogError> {
    #[derive(serde::Deserialize)]
    struct Applied {
        kind: String,
        id: String,
    }
    let topic = &context.topics.model_events;
    let bounds = reader.bounds(topic, 0)?;
    let mut told: Vec<Told> = Vec::new();
    let mut applied = BTreeSet::new();
    reader.read(topic, 0, bounds.low, bounds.end, &mut |record| {
        let value = record.value.as_deref().unwrap_or_default();
        if let Ok(Some(event)) = ModelEvent::decode(value)
            && let ModelEvent::Outcome { id, spec, .. } = &event
            && *spec == context.spec.name
        {
            told.push(Told { id: id.clone(), event, is_applied: false });
        } else if let Ok(event) = serde_json::from_slice::<Applied>(value)
            && event.kind == "applied"
        {
            applied.insert(event.id);
        }
        ControlFlow::Continue(())
    })?;
    for told in &mut told {
        told.is_applied = applied.contains(&told.id);
    }
    Ok(told)
}

/// Returns the request of a record, if it is one.
fn due(record: &Delivered) -> Option<Trigger> {
    let event = CloudEvent::from_record(record).ok()?;
    let trigger: Trigger = serde_json::from_slice(&event.data).ok()?;
    (trigger.change == TriggerChange::Due).then_some(trigger)
}

/// Returns the identity of a request's answer: the same however often it is made.
fn answer_id(trigger: &Trigger) -> String {
    format!("{}-{}", trigger.id, trigger.asked.unwrap_or_default())
}

fn baseline_record(context: &Context, baseline: &Baseline) -> Record {
    Record {
        topic: context.topics.baselines.clone(),
        partition: 0,
        key: Some(format!("{}@{}", baseline.spec, baseline.version).into()),
        value: Some(serde_json::to_vec(baseline).expect("a baseline has only texts, numbers and lists").into()),
        headers: Vec::new(),
    }
}

fn event_record(context: &Context, event: &ModelEvent) -> Record {
    Record {
        topic: context.topics.model_events.clone(),
        partition: 0,
        key: Some(context.spec.model.clone().into()),
        value: Some(event.encode().into()),
        headers: Vec::new(),
    }
}

/// Reads every baseline of the spec, by version.
pub(super) fn baselines(context: &Context) -> Result<BTreeMap<u64, Baseline>, LogError> {
    let mut reader = context.log.reader()?;
    let topic = &context.topics.baselines;
    let bounds = reader.bounds(topic, 0)?;
    let mut found = BTreeMap::new();
    reader.read(topic, 0, bounds.low, bounds.end, &mut |record| {
        if let Ok(baseline) = serde_json::from_slice::<Baseline>(record.value.as_deref().unwrap_or_default())
            && baseline.spec == context.spec.name
            && baseline.fingerprint == context.spec.fingerprint()
        {
            found.insert(baseline.version, baseline);
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}
