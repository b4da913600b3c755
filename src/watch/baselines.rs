//! Finding a baseline by version in the `baselines` topic.

use std::sync::Arc;

use super::PART;
use super::partition::{Plan, Usable};
use crate::baseline::Baseline;
use crate::baseline_topic;
use crate::log::{LogError, Reader};
use crate::window::Counting;

/// Returns the baseline of that version, compiled: `None` while the topic does not have it, or its model is still being fetched, `Some(None)` when it cannot be
/// counted with (another spec's, or unreadable), which is logged.
///
/// # Errors
/// [`LogError`].
pub(super) fn find(reader: &mut dyn Reader, plan: &Plan, version: u64) -> Result<Option<Usable>, LogError> {
    let found = baseline_topic::find(reader, &plan.topics.baselines, (&plan.spec.name, version), PART)?;
    let key = format!("{}@{version}", plan.spec.name);
    Ok(found.and_then(|found| compile(found, &key, plan)))
}

/// `None` while the model that the baseline names is not at hand.
fn compile(found: Result<Baseline, String>, key: &str, plan: &Plan) -> Option<Usable> {
    let features: Vec<&str> = plan.spec.features.iter().map(|feature| feature.name.as_str()).collect();
    let baseline = match found {
        Ok(baseline) => baseline,
        Err(error) => {
            tracing::error!(%key, %error, "the baseline in force cannot be read: slices have rows only");
            return Some(None);
        }
    };
    match Counting::new(&plan.encoder, &features, &plan.fingerprint, &baseline) {
        Ok(counting) => match &baseline.scored_by {
            None => Some(Some(Arc::new(counting))),
            Some(named) => match plan.shelf.get(named) {
                Ok(model) => Some(Some(Arc::new(counting.with_model(named.version, named.series(), model)))),
                Err(waits) => {
                    tracing::debug!(%key, %waits, "the baseline in force waits for its model");
                    None
                }
            },
        },
        Err(error) => {
            tracing::error!(%key, %error, "the baseline in force cannot be used: slices have rows only");
            Some(None)
        }
    }
}
