//! The spec's baselines as the train stage knows them: what is new is read, and no more.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::baseline::Baseline;
use crate::log::LogError;
use crate::stage::Context;

use super::baselines::of_version;

/// Baselines that are held; older ones are read again where one is wanted.
const HELD: usize = 64;

/// The newest baselines, by version.
#[derive(Debug, Default)]
pub(super) struct KnownBaselines {
    /// Everything before this offset has been read.
    next_offset: i64,
    held: BTreeMap<u64, Baseline>,
}

impl KnownBaselines {
    /// Returns the newest baselines of the spec, everything included that was committed before the call.
    pub(super) fn newest(&mut self, context: &Context) -> Result<&BTreeMap<u64, Baseline>, LogError> {
        let held = &mut self.held;
        self.next_offset = read(context, self.next_offset, &mut |baseline| {
            held.insert(baseline.version, baseline);
            if held.len() > HELD {
                held.pop_first();
            }
        })?;
        Ok(&self.held)
    }

    /// Returns the newest baseline of a version of the model, however old, and the newest of all.
    pub(super) fn of_version(&mut self, context: &Context, version: u64) -> Result<(Option<Baseline>, Option<Baseline>), LogError> {
        let held = self.newest(context)?;
        let (own, newest) = of_version(held.values(), version);
        let (mut own, newest) = (own.cloned(), newest.cloned());
        if own.is_none() && held.len() == HELD {
            read(context, 0, &mut |baseline| {
                if baseline.scored_by.as_ref().is_some_and(|named| named.version == version) {
                    own = Some(baseline);
                }
            })?;
        }
        Ok((own, newest))
    }
}

/// Reads the spec's baselines from an offset on; returns the offset after the last.
fn read(context: &Context, from: i64, take: &mut dyn FnMut(Baseline)) -> Result<i64, LogError> {
    let topic = &context.topics.baselines;
    let mut reader = context.log.reader()?;
    let bounds = reader.bounds(topic, 0)?;
    reader.read(topic, 0, from.clamp(bounds.low, bounds.end), bounds.end, &mut |record| {
        if let Ok(baseline) = serde_json::from_slice::<Baseline>(record.value.as_deref().unwrap_or_default())
            && baseline.spec == context.spec.name
            && baseline.fingerprint == context.spec.fingerprint()
        {
            take(baseline);
        }
        ControlFlow::Continue(())
    })?;
    Ok(bounds.end)
}
