//! The baseline that a mark names, read from the topic when it is first needed.

use crate::baseline::Baseline;
use crate::baseline_topic;
use crate::stage::Context;

use super::shell::{JUDGE, JudgeError};

/// The one baseline in use.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    held: Option<Baseline>,
}

impl Versions {
    /// Makes sure that `version` is held; false when the topic does not have it yet.
    pub(crate) fn has(&mut self, context: &Context, version: Option<u64>) -> Result<bool, JudgeError> {
        let Some(version) = version else { return Ok(true) };
        if self.held.as_ref().is_some_and(|held| held.version == version) {
            return Ok(true);
        }
        let key = format!("{}@{version}", context.spec.name);
        let topic = &context.topics.baselines;
        let found = baseline_topic::find(context.log.reader()?.as_mut(), topic, (&context.spec.name, version), JUDGE)?;
        let Some(found) = found else { return Ok(false) };
        let wrong = |reason: String| JudgeError::Baseline { key: key.clone(), topic: topic.to_string(), reason };
        let baseline = found.map_err(wrong)?;
        if baseline.fingerprint != context.spec.fingerprint() {
            return Err(wrong(format!("it was made with another spec (fingerprint {})", baseline.fingerprint)));
        }
        self.held = Some(baseline);
        Ok(true)
    }

    /// Returns `version`, when it is held.
    pub(crate) fn get(&self, version: Option<u64>) -> Option<&Baseline> {
        self.held.as_ref().filter(|held| Some(held.version) == version)
    }
}
