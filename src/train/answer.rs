//! The answer to one request for a training: rows read, candidates tried and published, the baseline that follows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bson::{DateTime, doc};

use super::baselines::Setting;
use super::candidate::example;
use super::frame::{Collecting, Frame};
use super::publication::{About, publication};
use super::stage::baselines;
use super::trial::{Cause, Decision, Known, Request, Trial, TrialError, trial};
use crate::baseline::Baseline;
use crate::clock::{DAY_MS, now_ms};
use crate::features::{Encoder, EncoderError};
use crate::history::{self, Found, Place};
use crate::model::shelf::{ModelRef, Shelf};
use crate::model_event::ModelEvent;
use crate::registry::Registry;
use crate::stage::Context;
use crate::trigger::Trigger;

/// An archived version older than this is no candidate.
const ARCHIVED_FOR_MS: i64 = 90 * DAY_MS;
/// Archived versions that are tried, the newest first.
const MOST_ARCHIVED: usize = 3;

/// What a training came to.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// `promoted`, `refused`, `failed`, `not_yet`, `accepted` or `settled`.
    pub(super) outcome: &'static str,
    /// In words.
    pub(super) reason: String,
    /// The baseline that comes with it.
    pub(super) baseline: Option<Baseline>,
    /// The version to be promoted.
    pub(super) promoted: Option<u64>,
}

impl Answer {
    pub(super) fn failed(reason: &str) -> Self {
        Self { outcome: "failed", reason: reason.to_owned(), baseline: None, promoted: None }
    }
}

/// Trains.
pub(super) struct Trainer {
    context: Context,
    registry: Arc<dyn Registry>,
    place: Place,
    encoder: Arc<Encoder>,
    shelf: Shelf,
    /// The rows of a file, read once: a file does not change.
    rows: Mutex<Option<Arc<Frame>>>,
}

impl Trainer {
    pub(super) fn new(context: &Context, registry: Arc<dyn Registry>, place: Place) -> Result<Self, EncoderError> {
        let encoder = Arc::new(Encoder::new(&context.spec)?);
        let shelf = Shelf::new(Some(Arc::clone(&registry)), &context.spec, context.config.registry.cache());
        Ok(Self { context: context.clone(), registry, place, encoder, shelf, rows: Mutex::default() })
    }

    /// Reads the rows of a file ahead of the first request: they do not change.
    pub(super) fn read_ahead(&self) {
        if matches!(self.place, Place::File(..))
            && let Err(reason) = self.frame(i64::MAX)
        {
            tracing::warn!(%reason, "the rows to train on cannot be read; each request will try again");
        }
    }

    /// Answers a request. Whatever goes wrong is an answer, too.
    pub(super) fn answer(&self, trigger: &Trigger) -> Answer {
        match self.train(trigger) {
            Ok(answer) => answer,
            Err(reason) => Answer::failed(&reason),
        }
    }

    fn train(&self, trigger: &Trigger) -> Result<Answer, String> {
        let context = &self.context;
        let all = baselines(context).map_err(|error| error.to_string())?;
        let before = trigger.baseline.and_then(|version| all.get(&version)).or_else(|| all.values().next_back());
        let before = before.ok_or("there is no baseline: create one with `tidemark baseline create`")?;
        let newest = all.keys().next_back().copied().unwrap_or(0);
        let frame = self.frame(trigger.at_ms)?;
        let production = self.production(before)?;
        let setting = Setting {
            spec: &context.spec,
            frame: &frame,
            version: newest + 1,
            // A function of the request, not of the machine: the same bytes in every replay.
            created_at_ms: trigger.at_ms,
            now_ms: trigger.at_ms,
            window_days: &context.config.window.days,
            answers: trigger.asked,
        };
        if trigger.settles.is_some() {
            return self.settle(trigger, &setting, before, production.as_ref());
        }
        let onset_ms = trigger.onset_ms().unwrap_or(trigger.raised_at_ms);
        let cause = Cause::Drift { onset_ms, error_is_over: trigger.error_is_over };
        let archived = self.archived(trigger.at_ms, &all, production.as_ref());
        let (trial, answer) = match self.tried(trigger, &frame, cause, production.as_ref(), &archived, before) {
            Ok(tried) => tried,
            Err(TrialOrText::Trial(TrialError::NotYet { rows, needed })) => {
                let reason = format!("{rows} tickets since the onset; a training waits for {needed}");
                return Ok(Answer { outcome: "not_yet", reason, baseline: None, promoted: None });
            }
            Err(TrialOrText::Trial(error)) => return Err(error.to_string()),
            Err(TrialOrText::Text(text)) => return Err(text),
        };
        Ok(match (&trial.decision, answer) {
            (Decision::Promote(at), Some(model)) => {
                let tried = &trial.tried[*at];
                let reason = format!("{}: {}", tried.candidate.name, tried.reason);
                let baseline = setting.promoted(before, &model, &tried.candidate, trial.holdout.clone(), true);
                Answer { outcome: "promoted", reason, baseline: Some(baseline), promoted: Some(model.version) }
            }
            (Decision::Benign(reason), _) => {
                let baseline = setting.accepted(before).map_err(|error| format!("the inputs cannot be accepted: {error}"))?;
                Answer { outcome: "accepted", reason: reason.clone(), baseline: Some(baseline), promoted: None }
            }
            (Decision::Refuse(reason), _) => Answer { outcome: "refused", reason: reason.clone(), baseline: None, promoted: None },
            (Decision::Promote(_), None) => Answer::failed("the candidate that was chosen has not been published"),
        })
    }

    /// Freezes a provisional baseline, and makes one follow-up from all rows since it began.
    fn settle(&self, trigger: &Trigger, setting: &Setting<'_>, before: &Baseline, production: Option<&Known>) -> Result<Answer, String> {
        let frozen =
            setting.frozen(before, production).map_err(|error| format!("baseline {} cannot be frozen: {error}", before.version))?;
        let frozen_reason = format!("baseline {} is frozen on {} tickets of a full window", before.version, frozen.rows);
        let production = production.ok_or("a provisional baseline has a model")?;
        // Everything since the onset: the model's own data begins there when it was trained on it, else at the promotion.
        let since_ms = production.model.card().data_ms.0.max(before.to_ms - 28 * DAY_MS);
        let days = u32::try_from((trigger.at_ms - since_ms) / DAY_MS + 1).unwrap_or(1);
        let config = &self.context.config.train;
        let request = Request { window_days: days.min(config.window_days), ..self.request(trigger, Cause::Unprompted) };
        let follow_up = trial(setting.frame, &self.context.spec, &request, Some(production), &[]);
        let (reason, promoted, baseline) = match follow_up {
            Err(error) => (format!("{frozen_reason}; no follow-up: {error}"), None, frozen),
            Ok(trial) => {
                let published = self.publish(&trial, &request, setting.frame, before, None)?;
                match (&trial.decision, published) {
                    (Decision::Promote(at), Some(model)) => {
                        let tried = &trial.tried[*at];
                        let baseline = setting.promoted(&frozen, &model, &tried.candidate, trial.holdout.clone(), false);
                        let reason = format!("{frozen_reason}; the follow-up is promoted: {}", tried.reason);
                        (reason, Some(model.version), baseline)
                    }
                    (Decision::Refuse(why) | Decision::Benign(why), _) => (format!("{frozen_reason}; no follow-up: {why}"), None, frozen),
                    (Decision::Promote(_), None) => return Err("the follow-up has not been published".to_owned()),
                }
            }
        };
        Ok(Answer { outcome: "settled", reason, baseline: Some(baseline), promoted })
    }

    fn request<'r>(&self, trigger: &'r Trigger, cause: Cause) -> Request<'r> {
        let config = &self.context.config;
        Request {
            id: &trigger.id,
            cause,
            now_ms: trigger.at_ms,
            window_days: config.train.window_days,
            min_rows: config.train.min_samples,
            max_rows: config.train.max_rows,
            threshold: config.train.duration_error_threshold,
            slice_ms: config.window.slice_ms,
        }
    }

    /// Tries candidates and publishes them; returns the trial, and the model that was chosen.
    fn tried(
        &self,
        trigger: &Trigger,
        frame: &Frame,
        cause: Cause,
        production: Option<&Known>,
        archived: &[Known],
        before: &Baseline,
    ) -> Result<(Trial, Option<ModelRef>), TrialOrText> {
        let id = format!("{}-{}", trigger.id, trigger.asked.unwrap_or_default());
        let request = Request { id: &id, ..self.request(trigger, cause) };
        let trial = trial(frame, &self.context.spec, &request, production, archived).map_err(TrialOrText::Trial)?;
        let chosen = self.publish(&trial, &request, frame, before, trigger.onset_ms()).map_err(TrialOrText::Text)?;
        Ok((trial, chosen))
    }

    /// Registers every candidate that is new; returns the chosen one's name.
    fn publish(
        &self,
        trial: &Trial,
        request: &Request<'_>,
        frame: &Frame,
        before: &Baseline,
        onset_ms: Option<i64>,
    ) -> Result<Option<ModelRef>, String> {
        let mut chosen = None;
        for (at, tried) in trial.tried.iter().enumerate() {
            let example = example(frame, trial.holdout.start, &tried.candidate.model.card().learned);
            let about = About { spec: &self.context.spec, request, baseline: Some(before.version), example: &example, onset_ms };
            let is_chosen = trial.decision == Decision::Promote(at);
            let (version, file) = if let Some(version) = tried.version {
                if !is_chosen {
                    continue;
                }
                let path = crate::model::duration::MODEL_FILE;
                let limit = crate::model::onnx::MAX_BYTES as u64;
                let mut files = self.registry.load(&self.context.spec.model, version, &[path], limit).map_err(|error| error.to_string())?;
                (version, files.remove(path).unwrap_or_default())
            } else {
                let (publication, file) = publication(&about, trial, tried).map_err(|error| error.to_string())?;
                let published = self.registry.publish(&publication).map_err(|error| error.to_string())?;
                (published.version, file)
            };
            if is_chosen {
                let named = ModelRef::of(&self.context.spec.model, version, &file);
                self.shelf.put(named.clone(), Arc::new(tried.candidate.model.clone()));
                chosen = Some(named);
            }
        }
        Ok(chosen)
    }

    /// Returns the model that is judged.
    fn production(&self, baseline: &Baseline) -> Result<Option<Known>, String> {
        let Some(named) = &baseline.scored_by else { return Ok(None) };
        let model = match self.shelf.get(named) {
            Ok(model) => model,
            Err(_) => Arc::new(self.shelf.fetch(named)?),
        };
        self.shelf.put(named.clone(), Arc::clone(&model));
        Ok(Some(Known { version: named.version, model }))
    }

    /// Returns versions that were in Production in the last 90 days.
    fn archived(&self, at_ms: i64, all: &BTreeMap<u64, Baseline>, production: Option<&Known>) -> Vec<Known> {
        let mut named: Vec<&ModelRef> = Vec::new();
        for baseline in all.values().rev().filter(|baseline| at_ms - baseline.created_at_ms <= ARCHIVED_FOR_MS) {
            if let Some(model) = &baseline.scored_by
                && production.is_none_or(|production| production.version != model.version)
                && !named.contains(&model)
            {
                named.push(model);
            }
        }
        let known = named.into_iter().take(MOST_ARCHIVED).filter_map(|model| match self.shelf.get(model) {
            Ok(found) => Some(Known { version: model.version, model: found }),
            Err(_) => match self.shelf.fetch(model) {
                Ok(found) => Some(Known { version: model.version, model: Arc::new(found) }),
                Err(reason) => {
                    tracing::warn!(version = model.version, %reason, "an archived version cannot be tried");
                    None
                }
            },
        });
        known.collect()
    }

    /// Reads the rows of the training window; a file's all at once.
    fn frame(&self, at_ms: i64) -> Result<Arc<Frame>, String> {
        let mut kept = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = kept.as_ref() {
            return Ok(Arc::clone(frame));
        }
        let from_ms = at_ms.saturating_sub(i64::from(self.context.config.train.window_days) * DAY_MS);
        let mut collecting = Collecting::new(Arc::clone(&self.encoder));
        let mut take = |found: &Found<'_>| match found {
            Found::Completed(ticket) => collecting.push(ticket),
            Found::Other(ticket) => collecting.push_other(ticket),
        };
        let (config, spec) = (&self.context.config, &self.context.spec);
        history::each(&self.place, config, spec, (from_ms, at_ms), &mut || {}, &mut take).map_err(|error| error.to_string())?;
        let frame = Arc::new(collecting.frame());
        if matches!(self.place, Place::File(..)) {
            *kept = Some(Arc::clone(&frame));
        }
        Ok(frame)
    }

    /// Returns the baseline that has to come into force because somebody else moved Production.
    pub(super) fn follow_production(&self) -> Option<Baseline> {
        if matches!(self.place, Place::File(..)) {
            return None;
        }
        let production = match self.registry.production(&self.context.spec.model) {
            Ok(production) => production?,
            Err(error) => {
                tracing::debug!(%error, "asking the registry for Production");
                return None;
            }
        };
        let all = baselines(&self.context).ok()?;
        let newest = all.values().next_back()?;
        if newest.scored_by.as_ref().is_none_or(|named| named.version == production) {
            return None;
        }
        let own = all.values().rev().find(|baseline| baseline.scored_by.as_ref().is_some_and(|named| named.version == production));
        let Some(own) = own else {
            tracing::warn!(
                version = production,
                "Production was moved to a version that no baseline knows; train or create a baseline for it"
            );
            return None;
        };
        let mut back = own.clone();
        back.version = newest.version + 1;
        back.created_at_ms = now_ms();
        back.answers = None;
        Some(back)
    }

    /// Writes what was decided where the neighbours look for it; a MongoDB that is away costs the document, not the decision.
    pub(super) fn document(&self, id: &str, event: &ModelEvent) {
        let ModelEvent::Outcome { trigger, outcome, reason, baseline, version, .. } = event else { return };
        let document = doc! {
            "_id": id,
            "model_name": &self.context.spec.model,
            "timestamp": DateTime::from_millis(now_ms()),
            "trigger": trigger,
            "outcome": outcome,
            "reason": reason,
            "baseline": baseline.and_then(|version| i64::try_from(version).ok()),
            "version": version.and_then(|version| i64::try_from(version).ok()),
        };
        super::documents::write(&self.context, "ml_training_history", &document);
        if version.is_some() {
            super::documents::write(&self.context, "model_audit_log", &document);
        }
        if let Some(version) = baseline
            && let Ok(all) = baselines(&self.context)
            && let Some(baseline) = all.get(version)
        {
            super::documents::write(&self.context, crate::baseline::document::COLLECTION, &baseline.to_document());
        }
    }
}

enum TrialOrText {
    Trial(TrialError),
    Text(String),
}
