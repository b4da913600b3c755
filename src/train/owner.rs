//! The owner of the one partition of `retraining-triggers`: takes requests, has them trained, and answers each once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use super::answer::{Answer, Trainer};
use super::baselines::brought_back;
use super::documents::RequestDocument;
use super::events::{Events, is_training};
use super::look::{LookFor, MovedTo, Schedule, Seen};
use super::open::{Open, name_of, requests, trigger};
use super::schedule::{HIGH, Rules};
use super::stage::TRAIN;
use crate::baseline::{self, Baseline};
use crate::clock::now_ms;
use crate::fault::{self, Place};
use crate::log::{Delivered, LogError, Member, OffsetCommit, Producer, Record, TransactError, Transaction};
use crate::metrics;
use crate::model_event::{Beside, ModelEvent, MovedBy, Notice};
use crate::registry::{RegistryError, put_into_production};
use crate::stage::{Context, State};
use crate::trigger::{ClosedBecause, Trigger, TriggerChange, TriggerType};

/// How often it is looked what nobody tells: people's requests, the time, and who moved Production.
const LOOK: Duration = Duration::from_secs(5);
/// How often MongoDB is asked for the number of new tickets.
const COUNT: Duration = Duration::from_mins(10);

/// See the module.
pub(super) struct Owner {
    producer: Box<dyn Producer>,
    trainer: Arc<Trainer>,
    rules: Rules,
    waiting: VecDeque<(Trigger, i64)>,
    training: Option<(Trigger, i64, Receiver<Answer>)>,
    events: Events,
    /// Outcomes that the registry has not heard of: until it has, a difference there is our own doing and nobody's decision.
    unapplied: Vec<(String, ModelEvent)>,
    open: BTreeMap<String, Open>,
    /// Every manual request that is in the topic, closed or not: its document is taken once.
    manual: BTreeSet<String>,
    looked: Option<Instant>,
    counted: Option<Instant>,
    /// Changes with everything that makes what was seen before it stale.
    epoch: u64,
    looking: Option<(u64, Receiver<Seen>)>,
    /// Where Production was seen at the last look, if nobody of us put it there.
    moved: Option<MovedTo>,
    /// The version without a baseline that was told of.
    told: Option<u64>,
}

impl Owner {
    /// Fences the last owner, reads back what it answered, and makes good what it left undone.
    pub(super) fn take_over(context: &Context, member: &mut dyn Member, trainer: &Arc<Trainer>) -> Result<Self, LogError> {
        context.health.set(TRAIN, State::Waiting("reading back what was answered".to_owned()));
        let producer = producer(context)?;
        let mut reader = context.log.reader()?;
        let committed = member.committed(0)?;
        let bounds = reader.bounds(&context.topics.retraining_triggers, 0)?;
        let from = committed.as_ref().map_or(bounds.low, |committed| committed.offset).clamp(bounds.low, bounds.end);
        let events = Events::read(context, reader.as_mut(), committed.as_ref().map(|committed| committed.metadata.as_str()))?;
        let (open, manual) = requests(context, reader.as_mut(), (bounds.low, bounds.end), from, &events)?;
        member.start(0, from)?;
        let unapplied = events.unapplied();
        fault::pass(TRAIN, Place::Restored);
        let mut owner = Self {
            producer,
            trainer: Arc::clone(trainer),
            rules: Rules::of(&context.config.train),
            waiting: VecDeque::new(),
            training: None,
            events,
            unapplied: Vec::new(),
            open,
            manual,
            looked: None,
            counted: None,
            epoch: 0,
            looking: None,
            moved: None,
            told: None,
        };
        for (id, event) in unapplied {
            owner.apply(context, &id, &event);
        }
        Ok(owner)
    }

    /// Whether a thread trains.
    pub(super) fn trains(&self) -> bool {
        self.training.is_some()
    }

    /// Takes what the topic brought.
    pub(super) fn take(&mut self, context: &Context, records: Vec<Delivered>) {
        for record in records {
            let Some(trigger) = trigger(context, &record) else {
                tracing::warn!(
                    offset = record.offset,
                    "a record of {} is no request and is passed over",
                    context.topics.retraining_triggers
                );
                metrics::strangers_passed_over(TRAIN, "retraining-triggers", 1);
                continue;
            };
            if trigger.trigger_type == TriggerType::Manual {
                self.manual.insert(trigger.id.clone());
            }
            match trigger.change {
                TriggerChange::Due => {
                    if trigger.is_unprompted() && !self.events.has_answered(&trigger.answer_id()) {
                        self.open.insert(trigger.id.clone(), Open { trigger: trigger.clone(), is_held: false });
                    }
                    self.waiting.push_back((trigger, record.offset));
                    fault::pass(TRAIN, Place::Taken);
                }
                TriggerChange::Closed => drop(self.open.remove(&trigger.id)),
                TriggerChange::Raised | TriggerChange::Joined => {}
            }
        }
    }

    /// Does one thing; `false` when the group has to be joined anew.
    pub(super) fn step(&mut self, context: &Context, member: &dyn Member) -> Result<bool, LogError> {
        if let Some((trigger, next_offset, coming)) = self.training.take() {
            return match coming.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.training = Some((trigger, next_offset, coming));
                    Ok(true)
                }
                Ok(answer) => self.answer(context, member, &trigger, next_offset, answer),
                Err(TryRecvError::Disconnected) => {
                    let answer = Answer::failed("the training ended without an answer; its message is in the log above");
                    self.answer(context, member, &trigger, next_offset, answer)
                }
            };
        }
        let Some((trigger, offset)) = self.waiting.pop_front() else {
            self.say_how(context);
            return self.look(context);
        };
        if self.events.has_answered(&trigger.answer_id()) {
            return Ok(true);
        }
        let held = self.rules.held_back(&trigger, now_ms(), &self.events.trained_ms()).filter(|_| !self.trainer.replays());
        if let Some((_, why)) = held {
            return self.answer(context, member, &trigger, offset + 1, Answer::only("held_back", why));
        }
        // Whoever wrote a baseline meanwhile has fenced us; whoever is about to is fenced, and takes the next number.
        self.producer = producer(context)?;
        context.health.set(TRAIN, State::Ready(format!("training for {} (attempt {})", trigger.id, trigger.attempts + 1)));
        let (send, coming) = channel();
        let (trainer, asked) = (Arc::clone(&self.trainer), trigger.clone());
        let train = move || {
            // Nobody waits any more when the partition was revoked.
            let _unheard = send.send(trainer.answer(&asked));
        };
        match std::thread::Builder::new().name("training".to_owned()).spawn(train) {
            Ok(_) => self.training = Some((trigger, offset + 1, coming)),
            Err(error) => {
                let answer = Answer::failed(&format!("no thread for the training: {error}"));
                return self.answer(context, member, &trigger, offset + 1, answer);
            }
        }
        Ok(true)
    }

    fn say_how(&self, context: &Context) {
        let held = self.open.values().filter(|open| open.is_held).count();
        let what = if held > 0 { format!("waiting for a request; held back: {held}") } else { "waiting for a request".to_owned() };
        context.health.set(TRAIN, State::Ready(what));
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
        self.epoch += 1;
        let id = trigger.answer_id();
        tracing::info!(trigger = trigger.id, outcome = answer.outcome, reason = answer.reason, "a request is answered");
        let event = ModelEvent::Outcome {
            id: id.clone(),
            spec: context.spec.name.clone(),
            trigger: trigger.id.clone(),
            outcome: answer.outcome.to_owned(),
            reason: answer.reason,
            mark: trigger.asked,
            baseline: answer.baseline.as_ref().map(|baseline| baseline.version),
            version: answer.promoted,
            at_ms: Some(trigger.at_ms),
            beside: answer.beside,
        };
        let closed = self.closed_by(trigger, &event);
        self.events.look_at_end(context)?;
        let commit = OffsetCommit { partition: 0, offset: next_offset, metadata: self.events.metadata(now_ms()) };
        let closing = closed.iter().map(|closed| closed.clone().into_record(context.topics.retraining_triggers.clone()));
        let transaction = Transaction {
            records: answer.baseline.iter().map(|baseline| baseline_record(context, baseline)).chain(closing).collect(),
            last: vec![event_record(context, event.encode())],
            offsets: Some((membership, vec![commit])),
        };
        fault::pass(TRAIN, Place::Sealed);
        match self.producer.transact(transaction) {
            Ok(()) => {}
            Err(TransactError::TooLarge { topic, bytes }) => {
                // The same answer would not fit the next time either.
                tracing::error!(%topic, bytes, "an answer is too large for its topic; the request is answered as failed");
                self.producer = producer(context)?;
                let answer = Answer::failed("its baseline is too large for the baselines topic: raise its max.message.bytes");
                return self.answer(context, member, trigger, next_offset, answer);
            }
            Err(error) => {
                tracing::warn!(%error, "the answer to a request did not certainly arrive; reading back");
                return Ok(false);
            }
        }
        for closed in closed {
            self.open.remove(&closed.id);
        }
        if let Some(open) = self.open.get_mut(&trigger.id) {
            open.is_held = true;
        }
        self.events.tell(id.clone(), event.clone(), now_ms());
        self.apply(context, &id, &event);
        Ok(true)
    }

    /// Returns the requests that an answer closes: its own when no mark raised it, and those that were held back until a training.
    fn closed_by(&self, trigger: &Trigger, event: &ModelEvent) -> Vec<Trigger> {
        let ModelEvent::Outcome { outcome, .. } = event else { return Vec::new() };
        let mut closed = Vec::new();
        let mut close = |trigger: &Trigger, because: ClosedBecause| {
            let attempts = trigger.attempts + u32::from(is_training(event) && because == ClosedBecause::Answered);
            let closed_because = Some(because);
            closed.push(Trigger { change: TriggerChange::Closed, closed_because, attempts, ..trigger.clone() });
        };
        if trigger.is_unprompted() && outcome != "held_back" {
            close(trigger, if outcome == "promoted" { ClosedBecause::Promoted } else { ClosedBecause::Answered });
        }
        if is_training(event) {
            let held = self.open.values().filter(|open| open.is_held && open.trigger.id != trigger.id);
            held.for_each(|open| close(&open.trigger, ClosedBecause::Superseded));
        }
        closed
    }

    /// Does in the registry what was decided, then says so. What fails is done again, before it is looked whether somebody moved
    /// Production.
    fn apply(&mut self, context: &Context, id: &str, event: &ModelEvent) {
        let ModelEvent::Outcome { version, reason, beside, .. } = event else { return };
        let registry = Arc::clone(&self.trainer.registry);
        let mut before = None;
        if let Some(version) = *version {
            match put_into_production(registry.as_ref(), &context.spec.model, version, reason) {
                Ok(found) => {
                    before = found;
                    fault::pass(TRAIN, Place::Promoted);
                }
                Err(error) => {
                    tracing::warn!(%error, version, "the version is promoted in the log and not yet in the registry; it is tried again soon");
                    self.unapplied.push((id.to_owned(), event.clone()));
                    return;
                }
            }
        }
        for Beside { model, reason, version, .. } in beside.iter().filter(|beside| beside.promoted().is_some()) {
            let version = version.expect("it was looked at");
            match put_into_production(registry.as_ref(), model, version, reason) {
                Ok(_) => {}
                // Credentials expire, and are renewed.
                Err(error @ (RegistryError::Unavailable { .. } | RegistryError::Refused { .. })) => {
                    tracing::warn!(%error, model, version, "the version is not yet promoted in the registry; it is tried again soon");
                    self.unapplied.push((id.to_owned(), event.clone()));
                    return;
                }
                // It hides no answer: the model that is judged is where it belongs.
                Err(error) => tracing::error!(%error, model, version, "the version cannot be promoted in the registry"),
            }
        }
        self.trainer.document_outcome(id, event, before);
        self.events.applied(id);
        let applied = Notice::Applied { id: id.to_owned(), spec: context.spec.name.clone() };
        let record = Record { key: Some(id.to_owned().into()), ..event_record(context, applied.encode()) };
        if let Err(error) = self.producer.transact(Transaction { records: vec![record], ..Transaction::default() }) {
            tracing::warn!(%error, "an applied event did not certainly arrive; what it says is done again at the next start");
            if let Ok(producer) = producer(context) {
                self.producer = producer;
            }
        }
    }

    /// Looks at what nobody tells, from time to time.
    fn look(&mut self, context: &Context) -> Result<bool, LogError> {
        if let Some((epoch, coming)) = self.looking.take() {
            return match coming.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.looking = Some((epoch, coming));
                    Ok(true)
                }
                Ok(seen) if epoch == self.epoch => self.decide(context, seen),
                // What was seen is stale, or the thread ended: its message is in the log.
                Ok(_) | Err(TryRecvError::Disconnected) => Ok(true),
            };
        }
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(true);
        }
        self.looked = Some(Instant::now());
        if !self.unapplied.is_empty() {
            for (id, event) in std::mem::take(&mut self.unapplied) {
                self.apply(context, &id, &event);
            }
            return Ok(true);
        }
        if self.trainer.replays() {
            return Ok(true);
        }
        let schedule = match (self.open.is_empty(), self.counted.is_none_or(|counted| counted.elapsed() >= COUNT)) {
            (false, _) => Schedule::Rests,
            (true, false) => Schedule::ByClock,
            (true, true) => Schedule::ByRows,
        };
        if schedule == Schedule::ByRows {
            self.counted = Some(Instant::now());
        }
        let wanted = LookFor { last: self.events.last(), answered_ms: self.events.came_to_nothing_ms(), schedule };
        let (send, coming) = channel();
        let trainer = Arc::clone(&self.trainer);
        let look = move || {
            // Nobody waits any more when the partition was revoked.
            let _unheard = send.send(trainer.look(&wanted));
        };
        match std::thread::Builder::new().name("train-look".to_owned()).spawn(look) {
            Ok(_) => self.looking = Some((self.epoch, coming)),
            Err(error) => tracing::warn!(%error, "no thread to look with; it is tried again"),
        }
        Ok(true)
    }

    /// Acts on what was seen; `false` when the group has to be joined anew.
    fn decide(&mut self, context: &Context, seen: Seen) -> Result<bool, LogError> {
        let Seen { at_ms, judge_asks, requests, wanted, moved } = seen;
        let mut due = Vec::new();
        for RequestDocument { id, priority, reason } in requests {
            let trigger_id = format!("{}-manual-{}", context.spec.name, name_of(&id));
            if !self.manual.contains(&trigger_id) {
                let reason = reason.unwrap_or_else(|| "somebody asked for it in ml_retraining_triggers".to_owned());
                let priority = priority.unwrap_or(HIGH);
                due.push(Trigger::unprompted(trigger_id.clone(), &context.spec, TriggerType::Manual, priority, reason, at_ms));
            }
            // It is noted after it is in the log; a crash in between is seen by its id.
            if !due.is_empty() && !self.raise(context, std::mem::take(&mut due))? {
                return Ok(false);
            }
            self.trainer.documents.taken(context, &id, &trigger_id);
        }
        if let Some(wanted) = wanted.filter(|_| self.open.is_empty()) {
            let id = format!("{}-{}-{}", context.spec.name, wanted.trigger_type.name().replace('_', "-"), now_ms());
            due.push(Trigger::unprompted(id, &context.spec, wanted.trigger_type, wanted.priority, wanted.reason, at_ms));
            if !self.raise(context, due)? {
                return Ok(false);
            }
        }
        if !self.ask_again(context, at_ms, judge_asks)? {
            return Ok(false);
        }
        self.follow_production(context, moved)
    }

    /// Raises requests and asks for their trainings; `false` when the group has to be joined anew.
    fn raise(&mut self, context: &Context, triggers: Vec<Trigger>) -> Result<bool, LogError> {
        let topic = &context.topics.retraining_triggers;
        let due = |trigger: &Trigger| Trigger { change: TriggerChange::Due, ..trigger.clone() };
        let records =
            triggers.iter().flat_map(|trigger| [trigger.clone().into_record(topic.clone()), due(trigger).into_record(topic.clone())]);
        if !self.written(Transaction { records: records.collect(), ..Transaction::default() }) {
            return Ok(false);
        }
        fault::pass(TRAIN, Place::Raised);
        for trigger in triggers {
            tracing::info!(trigger = trigger.id, reason = trigger.reason, "a training is asked for");
            metrics::trigger_raised(trigger.trigger_type.name());
            if trigger.trigger_type == TriggerType::Manual {
                self.manual.insert(trigger.id.clone());
            }
            self.open.insert(trigger.id.clone(), Open { trigger, is_held: false });
        }
        Ok(true)
    }

    /// Asks again for what was held back and need not wait any more. The judge's own request goes first.
    fn ask_again(&mut self, context: &Context, at_ms: i64, judge_asks: bool) -> Result<bool, LogError> {
        let (now, trained_ms) = (now_ms(), self.events.trained_ms());
        let may = |open: &&Open| {
            let goes_first = judge_asks && open.trigger.trigger_type != TriggerType::Manual;
            open.is_held && !goes_first && self.rules.held_back(&open.trigger, now, &trained_ms).is_none()
        };
        // One at a time: its training answers those that were raised before.
        let Some(open) = self.open.values().filter(may).max_by_key(|open| open.trigger.priority) else { return Ok(true) };
        let mut again = Trigger { change: TriggerChange::Due, ..open.trigger.clone() };
        // Another attempt is another request: its time tells them apart.
        again.at_ms = at_ms.max(again.at_ms + 1);
        let record = again.clone().into_record(context.topics.retraining_triggers.clone());
        if !self.written(Transaction { records: vec![record], ..Transaction::default() }) {
            return Ok(false);
        }
        self.open.insert(again.id.clone(), Open { trigger: again, is_held: false });
        Ok(true)
    }

    /// Somebody may have moved Production in the registry itself: then the version's own baseline comes back.
    ///
    /// It is believed when it is seen twice: a command first writes to one place and then to the other.
    fn follow_production(&mut self, context: &Context, moved: Option<MovedTo>) -> Result<bool, LogError> {
        let seen_before = self.moved.take();
        let Some(moved) = moved else { return Ok(true) };
        if seen_before.as_ref() != Some(&moved) {
            self.moved = Some(moved);
            return Ok(true);
        }
        let MovedTo { version, before, own, newest } = moved;
        if own.is_none() && self.told == Some(version) {
            return Ok(true);
        }
        let back = own.map(|own| brought_back(&own, newest + 1, now_ms()));
        let reason = match &back {
            Some(_) => "somebody moved Production in the registry; its baseline comes back",
            None => "somebody moved Production in the registry to a version that no baseline knows: train, or create a baseline for it",
        };
        tracing::info!(version, before, reason);
        let event = Notice::Moved {
            id: format!("moved-{}-{version}-{newest}", context.spec.model),
            spec: context.spec.name.clone(),
            model: context.spec.model.clone(),
            action: MovedBy::Moved,
            version,
            before: Some(before),
            baseline: back.as_ref().map(|back| back.version),
            reason: reason.to_owned(),
            at_ms: now_ms(),
        };
        let event_record = Record { key: Some("moved".into()), ..event_record(context, event.encode()) };
        let records = back.iter().map(|back| baseline_record(context, back)).chain([event_record]).collect();
        if !self.written(Transaction { records, ..Transaction::default() }) {
            return Ok(false);
        }
        self.told = back.is_none().then_some(version);
        self.epoch += 1;
        self.trainer.document_moved(&event, back.as_ref());
        Ok(true)
    }

    fn written(&mut self, transaction: Transaction) -> bool {
        let result = self.producer.transact(transaction);
        if let Err(error) = &result {
            tracing::warn!(%error, "what the train stage wrote did not certainly arrive; reading back");
        }
        result.is_ok()
    }
}

fn producer(context: &Context) -> Result<Box<dyn Producer>, LogError> {
    context.log.producer(&baseline::transactional_id(&context.config))
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

fn event_record(context: &Context, value: Vec<u8>) -> Record {
    Record {
        topic: context.topics.model_events.clone(),
        partition: 0,
        key: Some(context.spec.model.clone().into()),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}
