//! A ticket's answers: read by the tail's rules, then the model, the rules or the estimate.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::anomaly::{self, AnomalyAnswer};
use super::duration::{self, DurationAnswer, Interval, LEAST_MS};
use super::facts::{FactPlaces, Facts};
use super::follow::Followed;
use super::problem::Problem;
use super::source::{Fallback, ModelName, Source};
use crate::baseline::Cell;
use crate::features::{Encoder, Row};
use crate::model::anomaly::AnomalyModel;
use crate::model::duration::{DurationModel, write_inputs};
use crate::registry::Registry;
use crate::spec::Spec;
use crate::stage::{Health, State, Stop};
use crate::tail::normalise::{Normaliser, Open, Unreadable};
use crate::ticket::TicketId;

/// What to send instead of a ticket that cannot be read.
const SEND: &str = "send the ticket's document as MongoDB holds it, plain or extended JSON";

/// Answers for tickets of one spec.
pub(super) struct Tickets {
    spec: Arc<Spec>,
    normaliser: Normaliser,
    encoder: Encoder,
    places: Option<FactPlaces>,
    ms_per_unit: f64,
    models: Option<Arc<Models>>,
}

/// The models that are followed.
struct Models {
    duration: Followed<DurationModel>,
    anomaly: Followed<AnomalyModel>,
}

/// A ticket as it was read.
struct Ticket {
    open: Open,
    row: Row,
}

impl Tickets {
    /// Prepares to answer from rules alone.
    ///
    /// # Errors
    /// What is wrong with the spec, in words.
    pub(super) fn new(spec: &Arc<Spec>, ms_per_unit: f64) -> Result<Self, String> {
        let encoder = Encoder::new(spec).map_err(|error| error.to_string())?;
        let (normaliser, places) = (Normaliser::new(spec), FactPlaces::of(spec));
        Ok(Self { spec: Arc::clone(spec), normaliser, encoder, places, ms_per_unit, models: None })
    }

    /// Follows Production from now on, on a thread of its own: every `every`, and at once.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn follow(
        mut self,
        registry: Option<Arc<dyn Registry>>,
        stop: &Stop,
        health: &Health,
        every: Duration,
    ) -> std::io::Result<Self> {
        let decode = |bytes: &[u8], spec: &Spec| DurationModel::from_bytes(bytes, spec).map_err(|error| error.to_string());
        let decode_anomaly = |bytes: &[u8], spec: &Spec| AnomalyModel::from_bytes(bytes, spec).map_err(|error| error.to_string());
        let models = Arc::new(Models {
            duration: Followed::new(&self.spec.model, "model", decode),
            anomaly: Followed::new(self.spec.anomaly_model(), "anomaly-model", decode_anomaly),
        });
        self.models = Some(Arc::clone(&models));
        let Some(registry) = registry else {
            let why = "rules answer: no registry is configured; set MLFLOW_TRACKING_URI or registry.directory";
            health.set("model", State::Ready(why.to_owned()));
            return Ok(self);
        };
        for part in ["model", "anomaly-model"] {
            health.set(part, State::Waiting("asks the registry what is in Production".to_owned()));
        }
        let (spec, stop, health) = (Arc::clone(&self.spec), stop.clone(), health.clone());
        let body = move || {
            let follow = std::panic::AssertUnwindSafe(|| {
                loop {
                    models.duration.look(registry.as_ref(), &spec, &health);
                    models.anomaly.look(registry.as_ref(), &spec, &health);
                    if stop.wait(every) {
                        return;
                    }
                }
            });
            if std::panic::catch_unwind(follow).is_err() {
                let why = "following Production panicked; its message is in the log. What answered goes on; restart to follow again";
                health.set("model", State::Failed(why.to_owned()));
            }
        };
        std::thread::Builder::new().name("follow-models".to_owned()).spawn(body)?;
        Ok(self)
    }

    fn read(&self, place: &str, json: &str) -> Result<Ticket, Problem> {
        if !json.starts_with('{') {
            return Err(Problem::bad_request(place, "a ticket is a JSON object".to_owned(), SEND));
        }
        let open = self.normaliser.open_from_json(json.as_bytes(), &mut Unreadable::default());
        let open = open.map_err(|why| Problem::bad_request(place, format!("the ticket cannot be read: {why}"), SEND))?;
        let mut row = Row::default();
        self.encoder.encode(&open.fields, &mut row);
        Ok(Ticket { open, row })
    }

    fn facts(&self, learned: Option<&[Vec<f64>]>, ticket: &Ticket) -> Option<Facts> {
        self.places.as_ref().map(|places| places.read(&self.encoder, learned, &ticket.open, &ticket.row))
    }

    /// Names the features that got their default.
    fn defaulted(&self, learned: Option<&[Vec<f64>]>, ticket: &Ticket) -> Vec<String> {
        let mut names = Vec::new();
        for (at, feature) in self.spec.features.iter().enumerate() {
            let table = learned.and_then(|learned| learned.get(at)).map_or(&[][..], Vec::as_slice);
            if !matches!(self.encoder.cell(at, &ticket.row, table), Cell::Number(number) if number.is_finite()) {
                names.push(feature.name.clone());
            }
        }
        names
    }

    /// Says why the model did not answer.
    fn fallback(&self) -> Fallback {
        if self.models.is_some() { Fallback::NoModel } else { Fallback::NotEnabled }
    }

    fn unanswerable(place: &str) -> Problem {
        let detail = "there is no model, no rule for tickets of this spec, and no estimate in the ticket".to_owned();
        Problem::unanswerable(place, detail, "put a version into Production, or send the ticket's estimate")
    }

    /// Answers how long a ticket will take. `place` is where it stands in the request.
    pub(super) fn duration(&self, place: &str, json: &str) -> Result<DurationAnswer, Problem> {
        let ticket = self.read(place, json)?;
        let current = self.models.as_ref().and_then(|models| models.duration.current());
        let learned = current.as_ref().map(|current| current.model.card().learned.as_slice());
        let facts = self.facts(learned, &ticket);
        let modelled = current.as_ref().map(|current| current.model.predict(&self.encoder, &ticket.row));
        let own = facts.as_ref().filter(|facts| facts.has_estimate).map(|facts| facts.estimate).or(ticket.open.predicted);
        let said = duration::decide(modelled, facts.as_ref(), own, LEAST_MS / self.ms_per_unit);
        let said = said.ok_or_else(|| Self::unanswerable(place))?;
        let prediction_ms = said.prediction * self.ms_per_unit;
        let defaulted = self.defaulted(learned, &ticket);
        let answered = current.filter(|_| said.source == Source::Model);
        let interval = answered.as_ref().and_then(|current| {
            let card = current.model.card();
            let (low, high) = card.interval.filter(|(low, high)| low.is_finite() && high.is_finite())?;
            Some(Interval { low_ms: prediction_ms * low, high_ms: prediction_ms * high, coverage: card.coverage })
        });
        Ok(DurationAnswer {
            defaulted,
            ticket_id: ticket.open.id.as_ref().and_then(written),
            prediction_ms,
            source: said.source,
            fallback: answered.is_none().then(|| self.fallback()),
            model: answered.map(|current| ModelName { name: self.spec.model.clone(), version: current.version }),
            confidence: said.confidence,
            interval,
        })
    }

    /// Answers whether a ticket is out of the ordinary. `place` is where it stands in the request.
    pub(super) fn anomaly(&self, place: &str, json: &str) -> Result<AnomalyAnswer, Problem> {
        let ticket = self.read(place, json)?;
        let current = self.models.as_ref().and_then(|models| models.anomaly.current());
        // Without a forest the means of the duration model are better than the defaults.
        let other = self.models.as_ref().and_then(|models| models.duration.current());
        let learned = match (&current, &other) {
            (Some(current), _) => Some(current.model.card().learned.as_slice()),
            (None, Some(other)) => Some(other.model.card().learned.as_slice()),
            (None, None) => None,
        };
        let facts = self.facts(learned, &ticket);
        let scored = current.as_ref().map(|current| {
            let mut inputs = Vec::with_capacity(self.spec.features.len());
            write_inputs(&self.encoder, &ticket.row, &current.model.card().learned, &mut inputs);
            current.model.score(&inputs)
        });
        let said = anomaly::decide(scored, facts.as_ref()).ok_or_else(|| Self::unanswerable(place))?;
        Ok(AnomalyAnswer {
            defaulted: self.defaulted(learned, &ticket),
            ticket_id: ticket.open.id.as_ref().and_then(written),
            score: said.score,
            is_anomaly: said.kind.is_some(),
            kind: said.kind,
            sentence: said.sentence,
            source: if current.is_some() { Source::Model } else { Source::Rules },
            fallback: current.is_none().then(|| self.fallback()),
            model: current.map(|current| ModelName { name: self.spec.anomaly_model().to_owned(), version: current.version }),
        })
    }
}

fn written(id: &TicketId) -> Option<Box<RawValue>> {
    RawValue::from_string(id.json().to_owned()).ok()
}
