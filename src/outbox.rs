//! Carries records of a topic to somewhere outside the log, at least once, and never holds the stream up.
//!
//! The log is the queue: a group's committed offset says what has arrived, so a restart resumes there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::clock::now_ms;
use crate::log::{Delivered, LogError, Member, OffsetCommit, Polled, Producer, TransactError, Transaction};
use crate::stage::{Context, State};

/// Records taken from the log ahead of their delivery, at most; more stay in the log.
const AHEAD: usize = 1_000;
/// How long one poll waits: also how soon a stop is noticed.
const POLL: Duration = Duration::from_millis(200);
/// Pause before the first repetition; it doubles until [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause before a repetition.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a delivery failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may pass: try again.
    Again(String),
    /// It will be refused for ever: go on with the next.
    Never(String),
}

/// What is carried where.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// Its name in health and logs.
    pub(crate) part: &'static str,
    /// The topic; partition 0 of it.
    pub(crate) topic: std::sync::Arc<str>,
    /// The group whose offset says what has arrived; also part of the transactional id.
    pub(crate) group: String,
    /// Attempts before a record is given up; `None` for ever.
    pub(crate) attempts: Option<u32>,
    /// On the very first start, records older than this are left out; `None` takes all.
    pub(crate) first_start_ms: Option<i64>,
}

/// How a record's delivery ended, or that an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It arrived.
    Delivered,
    /// An attempt failed and will be repeated.
    Retried,
    /// It was given up.
    GivenUp,
}

/// Carries records until asked to stop. `deliver` may block for some seconds; `count` is told how deliveries end.
pub(crate) fn carry(
    context: &Context,
    route: &Route,
    deliver: &mut dyn FnMut(&Delivered) -> Result<(), Failure>,
    count: &mut dyn FnMut(Ended),
) -> Result<(), LogError> {
    let mut pause = FIRST_PAUSE;
    while !context.stop.is_asked() {
        let begun = Instant::now();
        match carry_as_member(context, route, deliver, count) {
            Ok(()) => {}
            Err(error @ (LogError::Unavailable { .. } | LogError::HeldUp { .. })) => {
                tracing::warn!(part = route.part, %error, "it is tried again");
                context.health.set(route.part, State::Waiting(error.to_string()));
            }
            Err(error) => return Err(error),
        }
        pause = if begun.elapsed() > LONGEST_PAUSE { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        if context.stop.wait(pause) {
            break;
        }
    }
    Ok(())
}

fn carry_as_member(
    context: &Context,
    route: &Route,
    deliver: &mut dyn FnMut(&Delivered) -> Result<(), Failure>,
    count: &mut dyn FnMut(Ended),
) -> Result<(), LogError> {
    let mut member = context.log.member(&route.group, &route.topic)?;
    let mut carrier: Option<Carrier> = None;
    context.health.set(route.part, State::Ready("standing by".to_owned()));
    while !context.stop.is_asked() {
        let wait = carrier.as_ref().map_or(POLL, |carrier| carrier.wait().min(POLL));
        match member.poll(wait)? {
            Polled::Assigned(partitions) if partitions.contains(&0) => carrier = Some(Carrier::take_over(context, route, member.as_mut())?),
            Polled::Revoked(partitions) if partitions.contains(&0) => {
                carrier = None;
                context.health.set(route.part, State::Ready("standing by".to_owned()));
            }
            Polled::Records(records) => {
                if let Some(carrier) = &mut carrier {
                    carrier.take(records);
                }
            }
            Polled::Assigned(_) | Polled::Revoked(_) | Polled::Idle => {}
        }
        if let Some(current) = &mut carrier
            && !current.work(context, route, member.as_mut(), deliver, count)?
        {
            return Ok(());
        }
    }
    Ok(())
}

/// The owner of the partition.
struct Carrier {
    producer: Box<dyn Producer>,
    waiting: VecDeque<Delivered>,
    /// From here on records were left in the log because too many were waiting.
    left: Option<i64>,
    /// Records stamped before this are left out.
    not_before_ms: Option<i64>,
    attempts: u32,
    due: Instant,
}

impl Carrier {
    fn take_over(context: &Context, route: &Route, member: &mut dyn Member) -> Result<Self, LogError> {
        let producer = producer(context, route)?;
        let bounds = context.log.reader()?.bounds(&route.topic, 0)?;
        let committed = member.committed(0)?;
        let not_before_ms = route.first_start_ms.filter(|_| committed.is_none()).map(|age_ms| now_ms() - age_ms);
        let from = committed.map_or(bounds.low, |committed| committed.offset.clamp(bounds.low, bounds.end));
        member.start(0, from)?;
        context.health.set(route.part, State::Ready("carrying".to_owned()));
        Ok(Self { producer, waiting: VecDeque::new(), left: None, not_before_ms, attempts: 0, due: Instant::now() })
    }

    fn take(&mut self, records: Vec<Delivered>) {
        for record in records {
            if self.left.is_some() || self.waiting.len() >= AHEAD {
                self.left.get_or_insert(record.offset);
                continue;
            }
            self.waiting.push_back(record);
        }
    }

    /// How long nothing is due.
    fn wait(&self) -> Duration {
        if self.waiting.is_empty() { POLL } else { self.due.saturating_duration_since(Instant::now()) }
    }

    /// Delivers what is due; false when somebody else carries now.
    fn work(
        &mut self,
        context: &Context,
        route: &Route,
        member: &mut dyn Member,
        deliver: &mut dyn FnMut(&Delivered) -> Result<(), Failure>,
        count: &mut dyn FnMut(Ended),
    ) -> Result<bool, LogError> {
        // One at a time: the group wants to be polled in between.
        let Some(record) = self.waiting.front().filter(|_| Instant::now() >= self.due) else { return Ok(true) };
        let is_old = self.not_before_ms.is_some_and(|not_before_ms| record.timestamp_ms < not_before_ms);
        let result = if is_old { Ok(()) } else { deliver(record) };
        match result {
            Ok(()) => {
                if !is_old {
                    count(Ended::Delivered);
                    context.health.set(route.part, State::Ready("carrying".to_owned()));
                }
            }
            Err(Failure::Again(reason)) if route.attempts.is_none_or(|most| self.attempts + 1 < most) => {
                count(Ended::Retried);
                self.due = Instant::now() + pause(self.attempts);
                self.attempts += 1;
                tracing::warn!(part = route.part, offset = record.offset, attempt = self.attempts, reason, "it is tried again");
                // Ready all the same: the stream does not depend on it.
                context.health.set(route.part, State::Ready(format!("not delivered yet: {reason}")));
                return Ok(true);
            }
            Err(Failure::Again(reason) | Failure::Never(reason)) => {
                count(Ended::GivenUp);
                tracing::error!(part = route.part, offset = record.offset, reason, "given up; the record stays in {}", route.topic);
            }
        }
        let next = record.offset + 1;
        self.waiting.pop_front();
        self.attempts = 0;
        self.due = Instant::now();
        let goes_on = self.commit(context, route, member, next)?;
        if let (true, Some(left)) = (self.waiting.is_empty(), self.left) {
            self.left = None;
            member.start(0, left)?;
        }
        Ok(goes_on)
    }

    fn commit(&mut self, context: &Context, route: &Route, member: &mut dyn Member, next: i64) -> Result<bool, LogError> {
        let Some(membership) = member.membership() else { return Ok(false) };
        let commit = OffsetCommit { partition: 0, offset: next, metadata: String::new() };
        match self.producer.transact(Transaction { offsets: Some((membership, vec![commit])), ..Transaction::default() }) {
            Ok(()) => Ok(true),
            Err(TransactError::Fenced { .. }) => Ok(false),
            Err(error) => {
                // Delivered, but perhaps not noted: the next commit notes it, or a restart delivers it twice.
                tracing::warn!(part = route.part, %error, "the offset may not have been committed");
                self.producer = producer(context, route)?;
                Ok(true)
            }
        }
    }
}

fn producer(context: &Context, route: &Route) -> Result<Box<dyn Producer>, LogError> {
    context.log.producer(&format!("{}.{}", route.group, context.config.instance))
}

/// Returns the pause after so many failed attempts.
fn pause(attempts: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(attempts.min(16))).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses: Vec<u128> = (0..9).map(|attempt| pause(attempt).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
