//! How far a replay has come: what tail has read, and what the judge has said.

use std::time::Duration;

use crate::cli::exit::{Exit, Failure};
use crate::log::{Delivered, Follower};
use crate::stage::Context;
use crate::status::Status;
use crate::tail::Place;
use crate::tail::position::Position;

/// Follows positions and verdicts.
pub(super) struct Heard {
    positions: Box<dyn Follower>,
    statuses: Box<dyn Follower>,
    position: Option<Position>,
    judged_mark: u64,
}

impl Heard {
    /// Follows from the beginning of both topics.
    pub(super) fn follow(context: &Context) -> Result<Self, Failure> {
        let positions = context.log.follow(&context.topics.positions, &[0])?;
        let statuses = context.log.follow(&context.topics.status, &[0])?;
        Ok(Self { positions, statuses, position: None, judged_mark: 0 })
    }

    /// Waits a moment for verdicts and returns them.
    pub(super) fn poll(&mut self, time: Duration) -> Result<Vec<Status>, Failure> {
        if let Some(record) = self.positions.poll(Duration::ZERO)?.last() {
            let position: Position = decode(record, "positions")?;
            // The follower may be behind what was read when tail ended.
            if self.position.as_ref().is_none_or(|known| known.next_mark <= position.next_mark) {
                self.position = Some(position);
            }
        }
        let statuses: Vec<Status> = self.statuses.poll(time)?.iter().map(|record| decode(record, "status")).collect::<Result<_, _>>()?;
        self.judged_mark = statuses.last().map_or(self.judged_mark, |status| status.mark);
        Ok(statuses)
    }

    /// Tail has ended: reads the last position, which the follower may not have brought yet.
    ///
    /// # Errors
    /// The log's.
    pub(super) fn tail_has_ended(&mut self, context: &Context) -> Result<(), Failure> {
        let topic = &context.topics.positions;
        let mut reader = context.log.reader()?;
        let bounds = reader.bounds(topic, 0)?;
        let mut last = None;
        // A compacted topic keeps its last record, whatever markers follow it.
        reader.read(topic, 0, bounds.low, bounds.end, &mut |record| {
            last = Some(record);
            std::ops::ControlFlow::Continue(())
        })?;
        if let Some(record) = last {
            self.position = Some(decode(&record, "positions")?);
        }
        Ok(())
    }

    /// Whether every mark in the log has its verdict.
    pub(super) fn has_judged_all(&self) -> bool {
        self.position.as_ref().is_none_or(|position| position.next_mark <= self.judged_mark + 1)
    }

    /// Returns how many rows of the file have been read.
    pub(super) fn rows(&self) -> u64 {
        match self.position.as_ref().map(|position| &position.place) {
            Some(Place::Rows(rows)) => *rows,
            _ => 0,
        }
    }
}

/// Reads a record's JSON.
pub(super) fn decode<'de, T: serde::Deserialize<'de>>(record: &'de Delivered, topic: &str) -> Result<T, Failure> {
    serde_json::from_slice(record.value.as_deref().unwrap_or_default())
        .map_err(|error| Failure::new(Exit::Failed, format!("record {} of {topic} is not what it has to be: {error}", record.offset)))
}
