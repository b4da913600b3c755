//! A baseline as the document of `ml_feature_baselines`, and back.
//!
//! The members that its neighbours read are in their form; `tidemark` beside them holds what only we need, so that the
//! way there and back loses nothing.

use bson::{Bson, DateTime, Document, doc};

use crate::drift::look::judged_series;

use super::Baseline;

/// The collection.
pub const COLLECTION: &str = "ml_feature_baselines";
/// The member that holds what only we need.
const OURS: &str = "tidemark";

/// A document of `ml_feature_baselines` that is not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Written by something else: it has no bins and counts.
    #[error("the baseline document {id} has no member `{OURS}`: it was not written by tidemark and has no bins; create a new baseline")]
    Foreign {
        /// Its `_id`.
        id: String,
    },
    /// Damaged.
    #[error("the baseline document {id} cannot be read: {reason}")]
    Unreadable {
        /// Its `_id`.
        id: String,
        /// What is wrong.
        reason: String,
    },
}

/// Returns the `_id`: `spec@version`, so that a baseline is written once.
#[must_use]
pub fn id(spec: &str, version: u64) -> String {
    format!("{spec}@{version}")
}

impl Baseline {
    /// Returns the document.
    #[must_use]
    pub fn to_document(&self) -> Document {
        let mut ours = self.clone();
        let mut features = Document::new();
        for column in &mut ours.columns {
            let values = std::mem::take(&mut column.sample);
            let feature = doc! { "values": values, "mean": column.mean, "std": column.std, "min": column.min, "max": column.max };
            features.insert(column.name.clone(), feature);
        }
        let values = std::mem::take(&mut ours.target.sample);
        let target = &self.target;
        let training_mae = self.errors.get(judged_series(self)).map_or(Bson::Null, |errors| Bson::Double(errors.mae));
        doc! {
            "_id": id(&self.spec, self.version),
            "model_name": self.model.clone(),
            "version": signed(self.version),
            "timestamp": DateTime::from_millis(self.created_at_ms),
            "features": features,
            "target_distribution": {
                "values": values,
                "mean": target.mean,
                "std": target.std,
                "percentiles": { "p50": target.p50, "p95": target.p95, "p99": target.p99 },
            },
            "training_mae": training_mae,
            "sample_count": signed(self.rows),
            OURS: bson::serialize_to_document(&ours).expect("a baseline has only texts, numbers and lists"),
        }
    }

    /// Reads a document that [`Baseline::to_document`] made.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn from_document(document: &Document) -> Result<Self, DocumentError> {
        let id = document.get("_id").map_or_else(|| "without _id".to_owned(), ToString::to_string);
        let Ok(ours) = document.get_document(OURS) else { return Err(DocumentError::Foreign { id }) };
        let unreadable = |reason: String| DocumentError::Unreadable { id: id.clone(), reason };
        let mut baseline: Self = bson::deserialize_from_document(ours.clone()).map_err(|error| unreadable(error.to_string()))?;
        for column in &mut baseline.columns {
            column.sample = values(document, &["features", &column.name]).map_err(unreadable)?;
        }
        baseline.target.sample = values(document, &["target_distribution"]).map_err(unreadable)?;
        Ok(baseline)
    }
}

fn values(document: &Document, path: &[&str]) -> Result<Vec<f64>, String> {
    let missing = || format!("{}.values is not a list of numbers", path.join("."));
    let mut at = document;
    for name in path {
        at = at.get_document(name).map_err(|_| missing())?;
    }
    let list = at.get_array("values").map_err(|_| missing())?;
    list.iter().map(|value| value.as_f64().ok_or_else(missing)).collect()
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
