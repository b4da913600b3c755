//! Requests that no mark raised, until they are closed: the log is where they are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bson::Bson;
use sha2::{Digest, Sha256};

use super::events::Events;
use crate::cloudevent::CloudEvent;
use crate::log::{Delivered, LogError, Reader};
use crate::stage::Context;
use crate::trigger::{Trigger, TriggerChange, TriggerType};

/// A request that no mark raised, until it is closed.
pub(super) struct Open {
    pub(super) trigger: Trigger,
    /// Its last attempt was held back; otherwise it waits in the topic, or is trained for.
    pub(super) is_held: bool,
}

/// Returns the open requests that no mark raised, and every manual one.
///
/// `from` is where the group goes on: what stands behind it is delivered again.
pub(super) fn requests(
    context: &Context,
    reader: &mut dyn Reader,
    (low, end): (i64, i64),
    from: i64,
    events: &Events,
) -> Result<(BTreeMap<String, Open>, BTreeSet<String>), LogError> {
    let (mut open, mut manual) = (BTreeMap::new(), BTreeSet::new());
    reader.read(&context.topics.retraining_triggers, 0, low, end, &mut |record| {
        let Some(trigger) = trigger(context, &record).filter(Trigger::is_unprompted) else { return ControlFlow::Continue(()) };
        if trigger.trigger_type == TriggerType::Manual {
            manual.insert(trigger.id.clone());
        }
        match trigger.change {
            TriggerChange::Closed => drop(open.remove(&trigger.id)),
            TriggerChange::Due => {
                // What has an answer and is not closed was held back; the rest is delivered again.
                let is_held = record.offset < from || events.has_answered(&trigger.answer_id());
                open.insert(trigger.id.clone(), Open { trigger, is_held });
            }
            TriggerChange::Raised | TriggerChange::Joined => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok((open, manual))
}

/// Returns the trigger of a record, if it is one of ours.
pub(super) fn trigger(context: &Context, record: &Delivered) -> Option<Trigger> {
    let event = CloudEvent::from_record(record).ok()?;
    let trigger: Trigger = serde_json::from_slice(&event.data).ok()?;
    (trigger.spec == context.spec.name).then_some(trigger)
}

/// Returns a document's `_id` as part of a trigger's id: letters and digits.
pub(super) fn name_of(id: &Bson) -> String {
    if let Bson::ObjectId(id) = id {
        return id.to_hex();
    }
    Sha256::digest(id.to_string()).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}
