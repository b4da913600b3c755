//! The answer to one request for a training: rows read, candidates tried and published, the baseline that follows.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::baselines::Setting;
use super::beside;
use super::candidate::example;
use super::documents::Documents;
use super::frame::{Collecting, Frame};
use super::known::KnownBaselines;
use super::publication::{About, publication};
use super::stage::TRAIN;
use super::trial::{Cause, Decision, Known, Request, Trial, TrialError, Tried, trial};
use super::verdicts::Verdicts;
use crate::baseline::Baseline;
use crate::clock::DAY_MS;
use crate::fault;
use crate::features::{Encoder, EncoderError};
use crate::history::{self, Found, Place};
use crate::model::duration::{DurationModel, MODEL_FILE};
use crate::model::onnx::MAX_BYTES;
use crate::model::shelf::{ModelRef, Shelf};
use crate::model_event::Beside;
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
    /// `promoted`, `refused`, `failed`, `not_yet`, `held_back`, `accepted` or `settled`.
    pub(super) outcome: &'static str,
    /// In words.
    pub(super) reason: String,
    /// The baseline that comes with it.
    pub(super) baseline: Option<Baseline>,
    /// The version to be promoted.
    pub(super) promoted: Option<u64>,
    /// What became of the models that were trained beside it.
    pub(super) beside: Vec<Beside>,
}

impl Answer {
    /// An answer that changes nothing.
    pub(super) fn only(outcome: &'static str, reason: String) -> Self {
        Self { outcome, reason, baseline: None, promoted: None, beside: Vec::new() }
    }

    pub(super) fn failed(reason: &str) -> Self {
        Self::only("failed", reason.to_owned())
    }
}

/// Trains.
pub(super) struct Trainer {
    pub(super) context: Context,
    pub(super) registry: Arc<dyn Registry>,
    pub(super) place: Place,
    pub(super) documents: Documents,
    pub(super) known: Mutex<KnownBaselines>,
    pub(super) verdicts: Mutex<Verdicts>,
    /// Whether the registry did not answer when it was last looked at, so that this is said once.
    pub(super) is_registry_away: AtomicBool,
    encoder: Arc<Encoder>,
    shelf: Shelf,
    /// The rows of a file, read once: a file does not change.
    rows: Mutex<Option<Arc<Frame>>>,
}

/// A trial, the model that was chosen, and what became of the models beside it.
struct Done {
    trial: Trial,
    chosen: Option<ModelRef>,
    beside: Vec<Beside>,
}

impl Trainer {
    pub(super) fn new(context: &Context, registry: Arc<dyn Registry>, place: Place) -> Result<Self, EncoderError> {
        let encoder = Arc::new(Encoder::new(&context.spec)?);
        let shelf = Shelf::new(Some(Arc::clone(&registry)), &context.spec, context.config.registry.cache());
        Ok(Self {
            context: context.clone(),
            registry,
            place,
            documents: Documents::default(),
            known: Mutex::default(),
            verdicts: Mutex::default(),
            is_registry_away: AtomicBool::default(),
            encoder,
            shelf,
            rows: Mutex::default(),
        })
    }

    /// Whether a file is lived through: then nothing may depend on the wall clock, nor on when somebody looks.
    pub(super) fn replays(&self) -> bool {
        matches!(self.place, Place::File(..))
    }

    /// Reads the rows of a file ahead of the first request: they do not change.
    pub(super) fn read_ahead(&self) {
        if self.replays()
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
        let all = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.newest(context).map_err(|error| error.to_string())?.clone()
        };
        let newest = all.keys().next_back().copied().unwrap_or(0);
        let frame = self.frame(trigger.at_ms)?;
        let mut setting = Setting {
            spec: &context.spec,
            frame: &frame,
            version: newest + 1,
            // A function of the request, not of the machine: the same bytes in every replay.
            created_at_ms: trigger.at_ms,
            now_ms: trigger.at_ms,
            window_days: &context.config.window.days,
            answers: trigger.asked,
        };
        if trigger.is_unprompted() {
            let rows = frame.between(i64::MIN, trigger.at_ms);
            if let Some(newest_ms) = frame.completed_at_ms()[rows].last() {
                setting.now_ms = newest_ms + 1;
            }
            return self.unprompted(trigger, &setting, all.values().next_back());
        }
        let before = trigger.baseline.and_then(|version| all.get(&version)).or_else(|| all.values().next_back());
        let before = before.ok_or("there is no baseline: create one with `tidemark baseline create`")?;
        // A torn transaction may have brought our own answer's baseline without the answer: then it is answered again.
        let is_torn = all.get(&newest).is_some_and(|newest| newest.answers.is_some() && newest.answers == trigger.asked);
        if before.version != newest && !is_torn {
            let reason = format!("baseline {newest} came after this was asked for under {}; it is asked for again", before.version);
            return Ok(Answer::only(if trigger.settles.is_some() { "settled" } else { "not_yet" }, reason));
        }
        let production = self.production(before)?;
        if trigger.settles.is_some() {
            return self.settle(trigger, &setting, before, production.as_ref());
        }
        let onset_ms = trigger.onset_ms().unwrap_or(trigger.raised_at_ms);
        let cause = Cause::Drift { onset_ms, error_is_over: trigger.error_is_over };
        let archived = self.archived(trigger.at_ms, &all, production.as_ref());
        let id = trigger.answer_id();
        let request = Request { id: &id, ..self.request(trigger, cause) };
        let Done { trial, chosen, beside } =
            match self.tried(&request, &setting, production.as_ref(), &archived, Some(before), trigger.onset_ms()) {
                Ok(done) => done,
                Err(TrialOrText::Trial(TrialError::NotYet { rows, needed })) => {
                    return Ok(Answer::only("not_yet", format!("{rows} tickets since the onset; a training waits for {needed}")));
                }
                Err(TrialOrText::Trial(error)) => return Err(error.to_string()),
                Err(TrialOrText::Text(text)) => return Err(text),
            };
        let answer = match (&trial.decision, chosen) {
            (Decision::Promote(at), Some(model)) => {
                let tried = &trial.tried[*at];
                let reason = format!("{}: {}", tried.candidate.name, tried.reason);
                let baseline = setting.promoted(before, &model, &tried.candidate, trial.holdout.clone(), true);
                Answer { baseline: Some(baseline), promoted: Some(model.version), ..Answer::only("promoted", reason) }
            }
            (Decision::Benign(reason), _) => {
                let baseline = setting.accepted(before).map_err(|error| format!("the inputs cannot be accepted: {error}"))?;
                Answer { baseline: Some(baseline), ..Answer::only("accepted", reason.clone()) }
            }
            (Decision::Refuse(reason), _) => Answer::only("refused", reason.clone()),
            (Decision::Promote(_), None) => Answer::failed("the candidate that was chosen has not been published"),
        };
        Ok(Answer { beside, ..answer })
    }

    /// A training that no drift asked for: time, volume, or a person did.
    fn unprompted(&self, trigger: &Trigger, setting: &Setting<'_>, before: Option<&Baseline>) -> Result<Answer, String> {
        let id = trigger.answer_id();
        let request = Request { id: &id, now_ms: setting.now_ms, ..self.request(trigger, Cause::Unprompted) };
        let production = self.in_production(before)?;
        let known = match &production {
            InProduction::Here(known) => Some(known),
            InProduction::Nothing | InProduction::Unusable { .. } => None,
        };
        let Done { trial, chosen, beside } = match self.tried(&request, setting, known, &[], before, None) {
            Ok(done) => done,
            Err(TrialOrText::Trial(error @ (TrialError::TooFew { .. } | TrialError::NotYet { .. }))) => {
                return Ok(Answer::only("not_yet", error.to_string()));
            }
            Err(TrialOrText::Trial(error)) => return Err(error.to_string()),
            Err(TrialOrText::Text(text)) => return Err(text),
        };
        let answer = match (&trial.decision, chosen, &production) {
            (Decision::Promote(_), _, InProduction::Unusable { version, reason }) => {
                let stays = "it stays until `tidemark models promote VERSION`";
                Answer::only("refused", format!("version {version} is in Production and cannot be compared with: {reason}; {stays}"))
            }
            (Decision::Promote(at), Some(model), _) => {
                let tried = &trial.tried[*at];
                let reason = format!("{}: {}", tried.candidate.name, tried.reason);
                let open = self.open_causes()?;
                let baseline = match before.filter(|_| open.is_empty()) {
                    Some(before) => setting.promoted(before, &model, &tried.candidate, trial.holdout.clone(), false),
                    // What is normal is in question, or was never said.
                    None => setting
                        .made(
                            before,
                            setting.span_from(setting.now_ms - i64::from(request.window_days) * DAY_MS),
                            &model,
                            &tried.candidate,
                            trial.holdout.clone(),
                        )
                        .map_err(|error| format!("no baseline can be made for version {}: {error}", model.version))?,
                };
                Answer { baseline: Some(baseline), promoted: Some(model.version), ..Answer::only("promoted", reason) }
            }
            (Decision::Refuse(reason) | Decision::Benign(reason), ..) => Answer::only("refused", reason.clone()),
            (Decision::Promote(_), None, _) => Answer::failed("the candidate that was chosen has not been published"),
        };
        Ok(Answer { beside, ..answer })
    }

    fn open_causes(&self) -> Result<Vec<String>, String> {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let last = verdicts.last(&self.context).map_err(|error| error.to_string())?;
        Ok(last.map(|last| last.open_causes()).unwrap_or_default())
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
        let follow_up = self.tried(&request, setting, Some(production), &[], Some(before), None);
        let (reason, promoted, baseline, beside) = match follow_up {
            Err(TrialOrText::Text(text)) => return Err(text),
            Err(TrialOrText::Trial(error)) => (format!("{frozen_reason}; no follow-up: {error}"), None, frozen, Vec::new()),
            Ok(Done { trial, chosen, beside }) => {
                let (reason, promoted, baseline) = match (&trial.decision, chosen) {
                    (Decision::Promote(at), Some(model)) => {
                        let tried = &trial.tried[*at];
                        let baseline = setting.promoted(&frozen, &model, &tried.candidate, trial.holdout.clone(), false);
                        let reason = format!("{frozen_reason}; the follow-up is promoted: {}", tried.reason);
                        (reason, Some(model.version), baseline)
                    }
                    (Decision::Refuse(why) | Decision::Benign(why), _) => (format!("{frozen_reason}; no follow-up: {why}"), None, frozen),
                    (Decision::Promote(_), None) => return Err("the follow-up has not been published".to_owned()),
                };
                (reason, promoted, baseline, beside)
            }
        };
        Ok(Answer { outcome: "settled", reason, baseline: Some(baseline), promoted, beside })
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

    /// Tries candidates and publishes them, and the anomaly model beside them.
    fn tried(
        &self,
        request: &Request<'_>,
        setting: &Setting<'_>,
        production: Option<&Known>,
        archived: &[Known],
        before: Option<&Baseline>,
        onset_ms: Option<i64>,
    ) -> Result<Done, TrialOrText> {
        let frame = setting.frame;
        let trial = trial(frame, &self.context.spec, request, production, archived).map_err(TrialOrText::Trial)?;
        fault::pass(TRAIN, fault::Place::Trained);
        let before = before.map(|before| before.version);
        let (chosen, beside) = std::thread::scope(|scope| {
            let anomaly = scope.spawn(|| beside::anomaly(&self.context, self.registry.as_ref(), frame, request, &trial, before));
            let chosen = self.publish(&trial, request, frame, before, onset_ms);
            (chosen, anomaly.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        Ok(Done { chosen: chosen.map_err(TrialOrText::Text)?, trial, beside: vec![beside] })
    }

    /// Registers every candidate that is new; returns the chosen one's name.
    fn publish(
        &self,
        trial: &Trial,
        request: &Request<'_>,
        frame: &Frame,
        before: Option<u64>,
        onset_ms: Option<i64>,
    ) -> Result<Option<ModelRef>, String> {
        let written = |tried: &Tried| {
            let example = example(frame, trial.holdout.start, &tried.candidate.model.card().learned);
            let about = About { spec: &self.context.spec, request, baseline: before, example: &example, onset_ms };
            tried.version.is_none().then(|| publication(&about, trial, tried))
        };
        let publications: Vec<_> = trial.tried.par_iter().map(written).collect();
        let mut chosen = None;
        for (at, (tried, publication)) in trial.tried.iter().zip(publications).enumerate() {
            let is_chosen = trial.decision == Decision::Promote(at);
            let (version, file) = if let Some(publication) = publication {
                let (publication, file) = publication.map_err(|error| error.to_string())?;
                let published = self.registry.publish(&publication).map_err(|error| error.to_string())?;
                fault::pass(TRAIN, fault::Place::Registered);
                (published.version, file)
            } else {
                let Some(version) = tried.version.filter(|_| is_chosen) else { continue };
                let limit = MAX_BYTES as u64;
                let loaded = self.registry.load(&self.context.spec.model, version, &[MODEL_FILE], limit);
                let mut files = loaded.map_err(|error| error.to_string())?;
                (version, files.remove(MODEL_FILE).unwrap_or_default())
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

    /// Returns what the registry says is in Production, which may be nobody's whom a baseline names.
    fn in_production(&self, newest: Option<&Baseline>) -> Result<InProduction, String> {
        let model = &self.context.spec.model;
        let Some(version) = self.registry.production(model).map_err(|error| error.to_string())? else { return Ok(InProduction::Nothing) };
        if let Some(newest) = newest.filter(|newest| newest.scored_by.as_ref().is_some_and(|named| named.version == version))
            && let Ok(Some(known)) = self.production(newest)
        {
            return Ok(InProduction::Here(known));
        }
        let read = self.registry.load(model, version, &[MODEL_FILE], MAX_BYTES as u64).map_err(|error| error.to_string());
        let read = read.and_then(|mut files| {
            let file = files.remove(MODEL_FILE).unwrap_or_default();
            DurationModel::from_bytes(&file, &self.context.spec).map_err(|error| error.to_string())
        });
        Ok(match read {
            Ok(model) => InProduction::Here(Known { version, model: Arc::new(model) }),
            Err(reason) => InProduction::Unusable { version, reason },
        })
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
        let mut collecting = Collecting::new(Arc::clone(&self.encoder)).with_label(&self.context.spec);
        let mut take = |found: &Found<'_>| match found {
            Found::Completed(ticket) => collecting.push(ticket),
            Found::Other(ticket) => collecting.push_other(ticket),
        };
        let (config, spec) = (&self.context.config, &self.context.spec);
        history::each(&self.place, config, spec, (from_ms, at_ms), &mut || {}, &mut take).map_err(|error| error.to_string())?;
        let frame = Arc::new(collecting.frame());
        if self.replays() {
            *kept = Some(Arc::clone(&frame));
        }
        Ok(frame)
    }
}

/// The model in Production, as an unprompted training meets it.
enum InProduction {
    Nothing,
    Here(Known),
    /// A file of somebody else, damaged, or of another spec.
    Unusable {
        version: u64,
        reason: String,
    },
}

enum TrialOrText {
    Trial(TrialError),
    Text(String),
}
