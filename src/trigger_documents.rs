//! Writes requests for trainings to `ml_retraining_triggers`, where the neighbours look for them: one document a trigger, at
//! least once, beside the stream.

use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use mongodb::Client;
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use secrecy::ExposeSecret;

use crate::cloudevent::CloudEvent;
use crate::log::{Delivered, LogError};
use crate::outbox::{self, Ended, Failure, Route};
use crate::stage::Context;
use crate::trigger::Trigger;

/// Name of the collection.
pub const COLLECTION: &str = "ml_retraining_triggers";
/// How long a server is looked for before the attempt counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the documents cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TriggerDocumentsError {
    /// The log.
    #[error("writing trigger documents: the log cannot be read: {0}")]
    Log(#[from] LogError),
    /// The connection string.
    #[error("writing trigger documents: mongodb.uri cannot be used: {0}")]
    Uri(String),
    /// The runtime.
    #[error("writing trigger documents: cannot start a runtime: {0}")]
    Runtime(#[source] std::io::Error),
}

/// Writes documents until asked to stop. Returns at once when there is no MongoDB, or none are wanted.
///
/// # Errors
/// [`TriggerDocumentsError`]. A MongoDB that does not answer is no error: it is tried again for ever.
pub fn run(context: &Context) -> Result<(), TriggerDocumentsError> {
    let config = &context.config;
    let Some(uri) = config.mongodb.uri.as_ref().filter(|_| config.mongodb.trigger_documents) else { return Ok(()) };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(TriggerDocumentsError::Runtime)?;
    let wrong = |error: mongodb::error::Error| TriggerDocumentsError::Uri(error.to_string());
    let client = runtime.block_on(async {
        let mut options = ClientOptions::parse(uri.expose_secret()).await?;
        options.app_name.get_or_insert_with(|| "tidemark".to_owned());
        options.server_selection_timeout = Some(PATIENCE);
        options.connect_timeout = Some(PATIENCE);
        options.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).w_timeout(PATIENCE).build());
        Client::with_options(options)
    });
    let database = config.mongodb.database.as_deref().unwrap_or(&context.spec.source.database);
    let collection = client.map_err(wrong)?.database(database).collection::<Document>(COLLECTION);
    let route = Route {
        part: "trigger-documents",
        topic: context.topics.retraining_triggers.clone(),
        group: format!("{}.trigger-documents", config.kafka.topic_prefix),
        attempts: None,
        first_start_ms: None,
    };
    let mut deliver = |record: &Delivered| {
        let document = read(record)?;
        let id = document.get("_id").cloned().unwrap_or(Bson::Null);
        let written = runtime.block_on(async { collection.replace_one(doc! { "_id": id }, document).upsert(true).await });
        written.map(|_| ()).map_err(|error| Failure::Again(format!("writing to {COLLECTION}: {error}")))
    };
    let mut count = |_: Ended| {};
    Ok(outbox::carry(context, &route, &mut deliver, &mut count)?)
}

/// Returns the document of a trigger's record.
fn read(record: &Delivered) -> Result<Document, Failure> {
    let never = |reason: String| Failure::Never(reason);
    let event = CloudEvent::from_record(record).map_err(|error| never(error.to_string()))?;
    let trigger: Trigger = serde_json::from_slice(&event.data).map_err(|error| never(format!("it is no trigger: {error}")))?;
    document(&trigger).map_err(|error| never(format!("it cannot be a document: {error}")))
}

/// Returns the contract's document. The last record of a trigger wins; its time is when it was raised.
fn document(trigger: &Trigger) -> Result<Document, bson::error::Error> {
    Ok(doc! {
        "_id": &trigger.id,
        "model_name": &trigger.model,
        "trigger_type": trigger.trigger_type.name(),
        "priority": i32::from(trigger.priority),
        "reason": &trigger.reason,
        "metadata": bson::serialize_to_document(trigger)?,
        "timestamp": DateTime::from_millis(trigger.raised_at_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Level;
    use crate::trigger::{TriggerCause, TriggerChange, TriggerType};

    fn trigger() -> Trigger {
        Trigger {
            id: "execution-tickets-drift-2940".to_owned(),
            spec: "execution-tickets".to_owned(),
            model: "ticket-duration-predictor".to_owned(),
            change: TriggerChange::Raised,
            trigger_type: TriggerType::Drift,
            priority: 4,
            reason: "error and target are at their critical levels".to_owned(),
            causes: vec![TriggerCause {
                cause: "error".to_owned(),
                episode: "error-2930".to_owned(),
                level: Level::Critical,
                onset_ms: Some(1),
            }],
            raised_mark: Some(2940),
            raised_at_ms: 1_372_680_000_000,
            mark: Some(2940),
            at_ms: 1_372_680_000_000,
            baseline: Some(1),
            attempts: 0,
            closed_because: None,
            asked: None,
            next_due_ms: None,
            error_is_over: false,
            settles: None,
        }
    }

    #[test]
    fn a_document_has_the_contracts_fields_and_types() {
        let found = document(&trigger()).unwrap();
        let fields: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(fields, ["_id", "model_name", "trigger_type", "priority", "reason", "metadata", "timestamp"]);
        assert_eq!(found.get_i32("priority").unwrap(), 4);
        assert_eq!(found.get_str("trigger_type").unwrap(), "drift");
        assert_eq!(found.get_datetime("timestamp").unwrap().timestamp_millis(), 1_372_680_000_000);
        assert_eq!(found.get_document("metadata").unwrap().get_array("causes").unwrap().len(), 1);
    }

    #[test]
    fn a_record_that_is_no_trigger_is_given_up() {
        let record = Delivered { partition: 0, offset: 3, timestamp_ms: 0, key: None, value: None, headers: vec![] };
        assert!(matches!(read(&record), Err(Failure::Never(_))));
        let event = trigger().event().into_record("t".into(), "k", vec![]);
        let record = Delivered { partition: 0, offset: 3, timestamp_ms: 0, key: event.key, value: event.value, headers: event.headers };
        assert_eq!(read(&record).unwrap().get_str("_id").unwrap(), "execution-tickets-drift-2940");
    }
}
