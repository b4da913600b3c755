//! Documents for those who look at models in MongoDB: each training's report, each promotion and rollback.

use bson::{DateTime, Document, doc};
use serde::Serialize;

use crate::clock::now_ms;
use crate::config::Config;
use crate::spec::Spec;

use super::exit::{Exit, Failure};
use super::mongo;

/// Reports of trainings.
pub(super) const HISTORY: &str = "ml_training_history";
/// Promotions and rollbacks.
pub(super) const AUDIT: &str = "model_audit_log";

/// A version that came into Production.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promotion<'p> {
    /// What makes it one event, however often it is written.
    pub(super) id: &'p str,
    /// `promoted` or `rolled_back`.
    pub(super) action: &'static str,
    /// Name of the model.
    pub(super) model: &'p str,
    /// The version.
    pub(super) version: u64,
    /// The version before.
    pub(super) before: Option<u64>,
    /// Why, in words.
    pub(super) reason: &'p str,
}

/// Writes a promotion to `model_audit_log`; does nothing without MongoDB. Returns whether it is there.
pub(super) fn write_promotion(config: &Config, spec: &Spec, promotion: &Promotion<'_>) -> Result<bool, Failure> {
    let document = doc! {
        "_id": promotion.id,
        "model_name": promotion.model,
        "action": promotion.action,
        "version": signed(promotion.version),
        "previous_version": promotion.before.map(signed),
        "reason": promotion.reason,
        "timestamp": DateTime::from_millis(now_ms()),
    };
    write(config, spec, AUDIT, document)
}

/// Writes a training's report to `ml_training_history`, likewise.
pub(super) fn write_report<R: Serialize>(config: &Config, spec: &Spec, id: &str, model: &str, report: &R) -> Result<bool, Failure> {
    let report = bson::serialize_to_document(report)
        .map_err(|error| Failure::new(Exit::Failed, format!("the report of {model} cannot be a document: {error}")))?;
    let mut document = doc! { "_id": format!("{id}/{model}"), "model_name": model, "timestamp": DateTime::from_millis(now_ms()) };
    document.extend(report);
    write(config, spec, HISTORY, document)
}

/// Upserts by `_id`.
fn write(config: &Config, spec: &Spec, collection: &str, document: Document) -> Result<bool, Failure> {
    if config.mongodb.uri.is_none() {
        return Ok(false);
    }
    let connection = mongo::connect(config)?;
    let database = config.mongodb.database.as_deref().unwrap_or(&spec.source.database);
    let place = format!("{database}.{collection}");
    let collection = connection.client.database(database).collection::<Document>(collection);
    let id = document.get("_id").cloned().unwrap_or_default();
    let written = connection.wait(async { collection.replace_one(doc! { "_id": id }, document).upsert(true).await });
    written.map(|_| true).map_err(|error| connection.failure(&format!("write to {place}"), &error))
}

fn signed(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}
