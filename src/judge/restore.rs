//! Goes on where the last owner stopped: its status says what was decided, the log what of that became visible.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::cloudevent::CloudEvent;
use crate::fault;
use crate::log::{Delivered, Member, Producer, Reader, Record};
use crate::metrics;
use crate::stage::Context;
use crate::status::{Newest, Status};

use super::shell::JudgeError;

/// What a commit of `summaries` says beside the offset.
#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    /// A successor reads from here to have the windows again.
    restore: i64,
    /// The last mark judged.
    mark: u64,
}

/// Writes the commit's metadata.
pub(crate) fn metadata(restore: i64, mark: u64) -> String {
    serde_json::to_string(&Metadata { restore, mark }).expect("two numbers")
}

/// Where to go on.
pub(crate) struct Restored {
    /// First offset of `summaries` to read.
    pub(crate) from: i64,
    /// Ids of events that are visible although the status does not know them: a transaction was torn behind them.
    visible: BTreeSet<Vec<u8>>,
}

impl Restored {
    /// Whether the event of a record is visible already.
    pub(crate) fn is_visible(&self, record: &Record) -> bool {
        let id = record.headers.iter().find(|(name, _)| name == "ce_id");
        id.is_some_and(|(_, id)| self.visible.contains(id.as_ref()))
    }
}

/// What the next owner begins with: its producer, what is visible, and the last status.
pub(crate) type Begin = (Box<dyn Producer>, Restored, Option<Status>);

/// Fences the last owner with the producer that it returns, and reads where it stopped.
///
/// The status is the truth: it is the last record of each transaction, so all that belongs to it is visible. Alerts and
/// triggers beyond it are found by their mark.
pub(crate) fn restore(context: &Context, member: &mut dyn Member) -> Result<Begin, JudgeError> {
    let id = format!("{}.judge.{}", context.config.kafka.topic_prefix, context.instance());
    let producer = context.log.producer(&id)?;
    let mut reader = context.log.reader()?;
    let status = last_status(context, reader.as_mut())?;
    let after = status.as_ref().map(|status| status.mark);
    let mut visible = BTreeSet::new();
    for topic in [&context.topics.alerts, &context.topics.retraining_triggers] {
        let bounds = reader.bounds(topic, 0)?;
        reader.read(topic, 0, bounds.low, bounds.end, &mut |record| {
            if mark_of(&record).is_some_and(|mark| after.is_none_or(|after| mark > after))
                && let Ok(event) = CloudEvent::from_record(&record)
            {
                visible.insert(event.id.into_bytes());
            }
            ControlFlow::Continue(())
        })?;
    }
    let bounds = reader.bounds(&context.topics.summaries, 0)?;
    let committed = member.committed(0)?;
    fault::pass(super::shell::JUDGE, fault::Place::OffsetsRead);
    let noted = committed.and_then(|committed| serde_json::from_str::<Metadata>(&committed.metadata).ok());
    // Without a commit (offsets expire), and where the log no longer reaches back: all that is left. The status says
    // which marks were judged.
    let from = noted.map_or(bounds.low, |noted| noted.restore.clamp(bounds.low, bounds.end));
    Ok((producer, Restored { from, visible }, status))
}

fn last_status(context: &Context, reader: &mut dyn Reader) -> Result<Option<Status>, JudgeError> {
    let topic = &context.topics.status;
    let bounds = reader.bounds(topic, 0)?;
    let mut newest = Newest::default();
    reader.read(topic, 0, bounds.low, bounds.end, &mut |record| {
        newest.take(&context.spec.name, record);
        ControlFlow::Continue(())
    })?;
    if newest.strangers > 0 {
        tracing::warn!(%topic, strangers = newest.strangers, "records that are no statuses are passed over");
        metrics::strangers_passed_over(super::shell::JUDGE, "status", newest.strangers);
    }
    let Some(record) = newest.record() else { return Ok(None) };
    let value = record.value.as_deref().unwrap_or_default();
    let wrong = |error: serde_json::Error| JudgeError::Status {
        spec: context.spec.name.clone(),
        topic: topic.to_string(),
        offset: record.offset,
        reason: error.to_string(),
    };
    serde_json::from_slice(value).map(Some).map_err(wrong)
}

/// The mark that an event of the judge comes from; `None` for events of others.
fn mark_of(record: &Delivered) -> Option<u64> {
    let kind = record.header("kind")?;
    if kind != b"episode" && kind != b"trigger" {
        return None;
    }
    let source = std::str::from_utf8(record.header("source")?).ok()?;
    source.strip_prefix("0:")?.parse().ok()
}
