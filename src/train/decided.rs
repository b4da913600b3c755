//! What was decided, as documents for people and neighbours. A MongoDB that is away costs the document, not the decision.

use std::sync::PoisonError;

use bson::{DateTime, Document, doc};

use super::answer::Trainer;
use crate::baseline::{Baseline, document};
use crate::clock::now_ms;
use crate::model_event::{ModelEvent, Notice};

/// Reports of trainings.
const HISTORY: &str = "ml_training_history";
/// Promotions and rollbacks.
const AUDIT: &str = "model_audit_log";

impl Trainer {
    /// Writes what became of a request. `before` is the version that a promoted one took the place of.
    pub(super) fn document_outcome(&self, id: &str, event: &ModelEvent, before: Option<u64>) {
        let ModelEvent::Outcome { trigger, outcome, reason, baseline, version, beside, .. } = event else { return };
        let model = &self.context.spec.model;
        let report = |id: &str, model: &str, outcome: &str, reason: &str, version: Option<u64>| {
            doc! {
                "_id": id, "model_name": model, "timestamp": DateTime::from_millis(now_ms()), "trigger": trigger, "outcome": outcome,
                "reason": reason, "baseline": baseline.map(signed), "version": version.map(signed),
            }
        };
        self.write(HISTORY, &report(id, model, outcome, reason, *version));
        if let Some(version) = *version {
            self.write(AUDIT, &audited(id, model, "promoted", version, before, reason));
        }
        for beside in beside {
            let id = format!("{id}/{}", beside.model);
            self.write(HISTORY, &report(&id, &beside.model, &beside.outcome, &beside.reason, beside.version));
            if let Some(version) = beside.promoted() {
                self.write(AUDIT, &audited(&id, &beside.model, "promoted", version, None, &beside.reason));
            }
        }
        let Some(version) = baseline else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let made = known.newest(&self.context).map(|all| all.get(version).cloned());
        drop(known);
        if let Ok(Some(made)) = made {
            self.write(document::COLLECTION, &made.to_document());
        }
    }

    /// Writes that Production was moved, and the baseline that came back with it.
    pub(super) fn document_moved(&self, event: &Notice, back: Option<&Baseline>) {
        let Notice::Moved { id, model, action, version, before, reason, .. } = event else { return };
        self.write(AUDIT, &audited(id, model, action.name(), *version, *before, reason));
        if let Some(back) = back {
            self.write(document::COLLECTION, &back.to_document());
        }
    }

    fn write(&self, collection: &str, document: &Document) {
        self.documents.write(&self.context, collection, document);
    }
}

/// The document of a version that came into Production, as `tidemark models` writes it too.
fn audited(id: &str, model: &str, action: &str, version: u64, before: Option<u64>, reason: &str) -> Document {
    doc! {
        "_id": id, "model_name": model, "action": action, "version": signed(version), "previous_version": before.map(signed),
        "reason": reason, "timestamp": DateTime::from_millis(now_ms()),
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
