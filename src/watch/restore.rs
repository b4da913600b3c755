//! A partition's state from the log: what its next owner reads before it goes on.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::baselines;
use super::outputs::{Output, SOURCE, Written, parse_source};
use super::partition::{Known, Partition, Plan};
use super::place::{Bound, Metadata, Place};
use crate::log::{Bounds, Committed, Delivered, Log, LogError, Reader};
use crate::threads;
use crate::ticket::{CHAIN, Chain, Control, KIND};
use crate::window::Counting;

/// Output records looked at first when a place has to be found from the outputs; each further look takes eight times as many.
const FIRST_LOOK: i64 = 1_024;

/// How long a restore waits for a model that is being fetched, before it says so and is asked for again.
const MODEL_PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const MODEL_AGAIN: Duration = Duration::from_millis(10);

/// Why a partition could not be restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The baseline in force is not in its topic.
    #[error(
        "baseline {spec}@{version}, in force at offset {offset} of partition {partition}, is not in the baselines topic, or its model cannot be had from the registry: put it back with `tidemark baseline`, or bring the registry back"
    )]
    NoBaseline {
        /// The spec.
        spec: String,
        /// The version.
        version: u64,
        /// Where it is in force.
        offset: i64,
        /// In which partition.
        partition: u32,
    },
    /// The partition was revoked meanwhile.
    #[error("the partition is somebody else's now")]
    Cancelled,
}

/// What is to be restored.
pub(super) enum Job {
    /// A partition, as its last owner left it.
    Resume { partition: u32, committed: Option<Committed> },
    /// A partition whose rows are not in memory, up to the record at which `version` comes into force, counted under it.
    Reread { metadata: Box<Metadata>, partition: u32, version: Option<u64>, written: [Written; 3] },
}

/// Restores a partition. Rows beyond `max_rows` are dropped, the oldest first.
///
/// # Errors
/// [`RestoreError`].
pub(super) fn restore(log: &dyn Log, plan: &Plan, job: Job, max_rows: usize, cancelled: &AtomicBool) -> Result<Partition, RestoreError> {
    let mut from_log = Restorer { reader: log.reader()?, plan, max_rows, cancelled };
    match job {
        Job::Resume { partition, committed } => from_log.resume(partition, committed),
        Job::Reread { metadata, partition, version, written } => {
            let counting = from_log.counting(partition, version, metadata.place.offset)?;
            let mut restored = from_log.replay(partition, metadata.restore, metadata.place, counting)?;
            restored.written = written;
            Ok(restored)
        }
    }
}

struct Restorer<'a> {
    reader: Box<dyn Reader>,
    plan: &'a Plan,
    max_rows: usize,
    cancelled: &'a AtomicBool,
}

impl Restorer<'_> {
    fn resume(&mut self, partition: u32, committed: Option<Committed>) -> Result<Partition, RestoreError> {
        let bounds = self.reader.bounds(&self.plan.topics.tickets, partition)?;
        let Some(committed) = committed else { return self.begin_after_outputs(partition, bounds) };
        let ours = Metadata::from_text(&committed.metadata).filter(|metadata| metadata.place.offset == committed.offset);
        let Some(metadata) = ours else {
            // What is set by hand says nothing of what is written.
            tracing::warn!(partition, offset = committed.offset, "an offset that somebody else has set is not followed");
            return self.begin_after_outputs(partition, bounds);
        };
        let Metadata { fingerprint, restore, place, written } = metadata;
        let mut restored = if fingerprint != *self.plan.fingerprint {
            // Another spec's: nothing of it can be read. A chain of ours begins with its chain-start.
            let fresh = Place { offset: place.offset.max(bounds.low), chain: place.chain, is_foreign: true, ..Place::default() };
            Partition::at(self.plan, partition, fresh, None)
        } else if place.offset < bounds.low {
            // Never read, and gone: the chain will show the hole at the first record.
            let place = Place { offset: bounds.low, short_until_ms: Some(i64::MAX), ..place };
            let counting = self.counting(partition, place.version, place.offset)?;
            Partition::at(self.plan, partition, place, counting)
        } else {
            let counting = self.counting(partition, place.version, place.offset)?;
            let (from, to) = shorten(restore, place, bounds.low, self.plan.shape.longest_ms);
            self.replay(partition, from, to, counting)?
        };
        for (output, bound) in Output::ALL.into_iter().zip(written) {
            restored.written[output as usize] = self.beyond(output, partition, bound)?;
        }
        Ok(restored)
    }

    /// Begins where no offset of ours is committed: at the beginning, or after the last record whose outputs are there.
    fn begin_after_outputs(&mut self, partition: u32, bounds: Bounds) -> Result<Partition, RestoreError> {
        let mut done = None;
        for output in Output::ALL {
            // Sequences of two chains say nothing of each other; offsets do.
            if let Some(sequence) = self.last_source(output, partition)? {
                let offset = self.offset_of(partition, sequence, bounds)?.map_or(bounds.low, |offset| offset + 1);
                done = done.max(Some(offset));
            }
        }
        let mut restored = match done {
            None => Partition::at(self.plan, partition, Place { offset: bounds.low, ..Place::default() }, None),
            Some(offset) => {
                tracing::warn!(partition, offset, "no offset of ours is committed: going on after the last record whose outputs are there");
                self.read_back(partition, bounds.low, offset)?
            }
        };
        restored.written = self.written_by_now(partition)?;
        Ok(restored)
    }

    /// Reads the window back from `low` to `to` without knowing how anything stood.
    fn read_back(&mut self, partition: u32, low: i64, to: i64) -> Result<Partition, RestoreError> {
        let version = self.last_version(partition, low, to)?;
        let counting = self.counting(partition, version, to)?;
        let begin = Place { offset: low, ..Place::default() };
        self.replay_until(partition, begin, to, counting)
    }

    fn counting(&mut self, partition: u32, version: Option<u64>, offset: i64) -> Result<Option<Arc<Counting>>, RestoreError> {
        let Some(version) = version else { return Ok(None) };
        let begun = threads::now();
        loop {
            if let Some(found) = baselines::find(&mut *self.reader, self.plan, version)? {
                return Ok(found);
            }
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(RestoreError::Cancelled);
            }
            if threads::since(begun) >= MODEL_PATIENCE {
                let spec = self.plan.spec.name.clone();
                return Err(RestoreError::NoBaseline { spec, version, offset, partition });
            }
            threads::sleep(MODEL_AGAIN);
        }
    }

    fn replay(&mut self, partition: u32, from: Place, to: Place, counting: Option<Arc<Counting>>) -> Result<Partition, RestoreError> {
        let mut restored = self.replay_until(partition, from, to.offset, counting)?;
        if restored.place.chain != to.chain {
            tracing::warn!(partition, offset = to.offset, "the log reads otherwise than when it was committed; going on as committed");
        }
        restored.place = to;
        Ok(restored)
    }

    fn replay_until(&mut self, partition: u32, from: Place, to: i64, counting: Option<Arc<Counting>>) -> Result<Partition, RestoreError> {
        let begin = from.offset;
        let mut restored = Partition::at(self.plan, partition, from, counting);
        let (plan, max_rows, cancelled, none) = (self.plan, self.max_rows, self.cancelled, Known::new());
        let mut is_cancelled = false;
        self.reader.read(&plan.topics.tickets, partition, begin, to, &mut |record| {
            restored.step(plan, &record, &none, None).expect("a restoring partition needs nothing");
            while restored.window.rows() > max_rows
                && let Some(oldest) = restored.window.oldest_rows()
            {
                restored.window.drop_rows(oldest);
            }
            is_cancelled = cancelled.load(Ordering::Relaxed);
            if is_cancelled { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if is_cancelled {
            return Err(RestoreError::Cancelled);
        }
        restored.place.offset = to.max(begin);
        restored.tally = super::partition::Tally::default();
        Ok(restored)
    }

    /// Returns the version in force at `to`, as the log between says.
    fn last_version(&mut self, partition: u32, low: i64, to: i64) -> Result<Option<u64>, RestoreError> {
        let mut version = None;
        self.reader.read(&self.plan.topics.tickets, partition, low, to, &mut |record| {
            let is_telling = matches!(record.header(KIND), Some(b"mark" | b"baseline")) && record.header(CHAIN).is_some();
            if is_telling && let Ok(control) = serde_json::from_slice(record.value.as_deref().unwrap_or_default()) {
                match control {
                    Control::Mark(mark) => version = mark.baseline,
                    Control::Baseline { version: switched, .. } => version = Some(switched),
                    _ => {}
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(version)
    }

    /// Returns what is visible of an output beyond the last commit.
    fn beyond(&mut self, output: Output, partition: u32, bound: Bound) -> Result<Written, RestoreError> {
        let (topic, place) = (output.topic(&self.plan.topics), output.partition(partition));
        let bounds = self.reader.bounds(topic, place)?;
        if bounds.low > bound.offset {
            tracing::warn!(%topic, partition, "the outputs of the last commits are gone already");
            return Ok(Written { bound: Bound { offset: bounds.end, outputs: 0 }, visible: VecDeque::new() });
        }
        let (mut outputs, mut visible) = (0, VecDeque::new());
        self.reader.read(topic, place, bound.offset, bounds.end, &mut |record| {
            if let Some(name) = output.name(partition, &record) {
                outputs += 1;
                if outputs > bound.outputs {
                    visible.push_back(name);
                }
            }
            ControlFlow::Continue(())
        })?;
        if !visible.is_empty() {
            tracing::info!(%topic, partition, outputs = visible.len(), "outputs beyond the last commit are visible: not written again");
        }
        Ok(Written { bound, visible })
    }

    fn written_by_now(&mut self, partition: u32) -> Result<[Written; 3], RestoreError> {
        let mut written: [Written; 3] = Default::default();
        for output in Output::ALL {
            let end = self.reader.bounds(output.topic(&self.plan.topics), output.partition(partition))?.end;
            written[output as usize].bound = Bound { offset: end, outputs: 0 };
        }
        Ok(written)
    }

    /// Returns the sequence that the newest output of a partition names.
    fn last_source(&mut self, output: Output, partition: u32) -> Result<Option<u64>, RestoreError> {
        let (topic, place) = (output.topic(&self.plan.topics), output.partition(partition));
        let Bounds { low, end } = self.reader.bounds(topic, place)?;
        let (mut to, mut look) = (end, FIRST_LOOK);
        while to > low {
            let from = (to - look).max(low);
            let mut last = None;
            self.reader.read(topic, place, from, to, &mut |record| {
                if output.name(partition, &record).is_some() {
                    last = record.header(SOURCE).and_then(parse_source).map(|(_, sequence)| sequence).or(last);
                }
                ControlFlow::Continue(())
            })?;
            if last.is_some() {
                return Ok(last);
            }
            (to, look) = (from, look.saturating_mul(8));
        }
        Ok(None)
    }

    /// Returns the offset of the newest record of that sequence.
    fn offset_of(&mut self, partition: u32, sequence: u64, bounds: Bounds) -> Result<Option<i64>, RestoreError> {
        let mut offset = None;
        self.reader.read(&self.plan.topics.tickets, partition, bounds.low, bounds.end, &mut |record: Delivered| {
            if record.header(CHAIN).and_then(Chain::parse).is_some_and(|chain| chain.seq == sequence) {
                offset = Some(record.offset);
            }
            ControlFlow::Continue(())
        })?;
        Ok(offset)
    }
}

/// Where the log no longer reaches back to the restore offset, begins at what is left, and says so.
fn shorten(restore: Place, place: Place, low: i64, longest_ms: i64) -> (Place, Place) {
    if restore.offset >= low {
        return (restore, place);
    }
    let short_until_ms = place.mark.map_or(i64::MAX, |mark| mark.end_ms.saturating_add(longest_ms));
    (Place { offset: low, chain: None, ..restore }, Place { short_until_ms: place.short_until_ms.max(Some(short_until_ms)), ..place })
}
