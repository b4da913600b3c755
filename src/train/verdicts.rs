//! What the train stage looks at of the last verdict: how far event time is, and what is open.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::log::LogError;
use crate::stage::Context;

/// The lines of a status that are looked at.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Verdict {
    spec: String,
    /// End of the last slice that was judged, ms since 1970: event time.
    pub(super) at_ms: i64,
    trigger: Option<IgnoredAny>,
    causes: BTreeMap<String, CauseLines>,
}

#[derive(Clone, Debug, Deserialize)]
struct CauseLines {
    episode: Option<IgnoredAny>,
}

impl Verdict {
    /// Whether the judge asks for a training, now or when enough has completed.
    pub(super) fn asks(&self) -> bool {
        self.trigger.is_some()
    }

    /// Returns the causes with an open episode.
    pub(super) fn open_causes(&self) -> Vec<String> {
        let open = self.causes.iter().filter(|(_, cause)| cause.episode.is_some());
        open.map(|(name, _)| name.clone()).collect()
    }
}

/// The verdicts, the last of which counts.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    /// Everything before this offset has been read.
    next_offset: i64,
    last: Option<Verdict>,
}

impl Verdicts {
    /// Returns the last verdict about the spec that was committed before the call.
    pub(super) fn last(&mut self, context: &Context) -> Result<Option<Verdict>, LogError> {
        let topic = &context.topics.status;
        let mut reader = context.log.reader()?;
        let bounds = reader.bounds(topic, 0)?;
        let mut last = None;
        reader.read(topic, 0, self.next_offset.clamp(bounds.low, bounds.end), bounds.end, &mut |record| {
            let verdict = serde_json::from_slice::<Verdict>(record.value.as_deref().unwrap_or_default());
            if let Ok(verdict) = verdict
                && verdict.spec == context.spec.name
                && record.key.as_deref() == Some(context.spec.name.as_bytes())
            {
                last = Some(verdict);
            }
            ControlFlow::Continue(())
        })?;
        self.next_offset = bounds.end;
        if last.is_some() {
            self.last = last;
        }
        Ok(self.last.clone())
    }
}
