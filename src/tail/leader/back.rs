//! Where leading begins: the position is read back, the source is opened there, and what MongoDB has forgotten is told.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use super::{Setback, Stage, clock_mode};
use crate::clock::now_ms;
use crate::config::HistoryLost;
use crate::fault;
use crate::log::{Producer, Reader};
use crate::stage::State;
use crate::tail::adopted::Adopted;
use crate::tail::core::Core;
use crate::tail::position::Position;
use crate::tail::source::{ClusterTime, HistoryPlace, Opened, Place, Resume, SourceError};
use crate::tail::streamed::Streamed;
use crate::tail::time::SourceClock;
use crate::tail::{PART, TailError, restore};
use crate::threads;

/// While all of `tickets` is read, the group hears of this process this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

impl Stage<'_> {
    /// Reads the position and what is visible beyond it, opens the source there; makes and commits the first position.
    pub(super) fn restore(&mut self, producer: &mut dyn Producer, reader: &mut dyn Reader) -> Result<Core, Setback> {
        let context = self.context;
        let (topics, spec) = (&context.topics, &context.spec);
        let partitions = restore::partitions(context.log.as_ref(), topics)?;
        self.events.clear();
        (self.next, self.looked_up) = (0, 0);
        let found = restore::position(reader, topics, spec, partitions)?;
        fault::pass(PART, fault::Place::PositionRead);
        let is_first = found.is_none();
        let (mut position, adopted) = if let Some(mut position) = found {
            let adopted = restore::adopt(reader, topics, &mut position)?;
            fault::pass(PART, fault::Place::Adopted);
            (position, adopted)
        } else {
            let opened = self.source.open(None)?;
            let salt = format!("{} {} {}", spec.name, now_ms(), std::process::id());
            let position = Position {
                spec: spec.name.clone(),
                fingerprint: spec.fingerprint(),
                source: opened.fingerprint,
                place: opened.place,
                clock: SourceClock::new(clock_mode(&context.config.tail, self.source.as_ref())),
                next_mark: u64::from(opened.history.is_none()),
                history: opened.history,
                gap_told_ms: None,
                tickets: restore::new_heads(reader, &topics.tickets, partitions, &salt)?,
                dead_letters: restore::new_heads(reader, &topics.dead_letters, partitions, &salt)?,
                next_end_ms: None,
                baseline: None,
                baselines_offset: 0,
                model_events_offset: 0,
            };
            (position, Adopted::default())
        };
        if !adopted.is_empty() {
            tracing::warn!(records = adopted.len(), "tail: a torn transaction left records beyond the position; they are adopted");
        }
        fault::pass(PART, fault::Place::SourceOpened);
        let mut changed = is_first;
        let mut lost = None;
        if !is_first {
            match self.source.open(Some(&position.resume())) {
                Ok(Opened { place, fingerprint, history }) => {
                    changed |= fingerprint != position.source || position.gap_told_ms.take().is_some();
                    (position.place, position.source, position.history) = (place, fingerprint, history);
                }
                Err(SourceError::Forgotten { doing, reason, present }) => lost = Some((format!("{doing}: {reason}"), present)),
                Err(error) => return Err(error.into()),
            }
        }
        if position.fingerprint != spec.fingerprint() {
            if !adopted.is_empty() {
                return Err(Setback::Fatal(TailError::Refused(format!(
                    "the spec has changed while records of a torn transaction are open: run once with the spec of fingerprint {}, then change it",
                    position.fingerprint
                ))));
            }
            tracing::warn!(
                from = position.fingerprint,
                to = spec.fingerprint(),
                "the spec has changed: new chains begin, windows begin anew"
            );
            let salt = format!("{} {} {}", spec.name, now_ms(), std::process::id());
            position.fingerprint = spec.fingerprint();
            position.tickets = restore::new_heads(reader, &topics.tickets, partitions, &salt)?;
            position.baseline = None;
            position.baselines_offset = 0;
            changed = true;
        }
        if let Some((reason, present)) = lost {
            return self.go_on_after_a_gap(producer, reader, position, adopted, (&reason, present));
        }
        let streamed = match &position.history {
            Some(history) if !is_first => self.streamed(reader, partitions, history.completed_from_ms)?,
            _ => Streamed::default(),
        };
        let mut core = Core::new(spec.clone(), topics.clone(), &context.config.window, position, adopted, streamed);
        if changed && !core.is_catching_up() {
            // The position goes first and alone: what follows can be torn, and is then told from a stranger's by its chain.
            self.commit(producer, &mut core)?;
        }
        Ok(core)
    }

    /// MongoDB has forgotten what followed the position: says so in the log, then stops, or goes on with the present and a second
    /// reading of the collection. Gap and new position are one transaction: there is no gap without its record, and none has two.
    fn go_on_after_a_gap(
        &mut self,
        producer: &mut dyn Producer,
        reader: &mut dyn Reader,
        position: Position,
        adopted: Adopted,
        (reason, present): (&str, ClusterTime),
    ) -> Result<Core, Setback> {
        let context = self.context;
        let opened = if context.config.tail.history_lost == HistoryLost::Reread {
            let window = &context.config.window;
            let read_ms = position.place.time().map_or(0, |(seconds, _)| i64::from(seconds) * 1_000);
            // What was late when the gap began may be missing, too; what is older than that has its verdicts.
            let from_ms = match &position.history {
                // A history that was not read to its end: all that is not in the log counts.
                Some(history) => history.completed_from_ms.unwrap_or(i64::MIN),
                None => position.clock.now().unwrap_or(read_ms) - window.lateness_ms - window.slice_ms,
            };
            let history = HistoryPlace { since: present, last: None, rows: 0, completed_from_ms: Some(from_ms) };
            let place = Place::Stream { token: bytes::Bytes::new(), time: present, index: u32::MAX };
            let resume = Resume { place, fingerprint: position.source.clone(), history: Some(history) };
            let streamed = self.streamed(reader, position.partitions(), Some(from_ms))?;
            Some((self.source.open(Some(&resume))?, streamed))
        } else {
            None
        };
        let is_reread = opened.is_some();
        let mut core =
            Core::new(context.spec.clone(), context.topics.clone(), &context.config.window, position, adopted, Streamed::default());
        core.begin();
        core.forget(present, reason, opened);
        self.commit(producer, &mut core)?;
        if is_reread {
            tracing::error!(
                reason,
                "MongoDB has forgotten what came after the position; a gap record says so, and the collection is read again"
            );
            return Ok(core);
        }
        Err(Setback::Fatal(TailError::Refused(format!(
            "MongoDB has forgotten what came after the position: its oplog does not reach back so far ({reason}). A gap record says so. To go \
             on with the present, and read the collection again for what completed meanwhile, set tail.history_lost = \"reread\"; enlarge \
             the oplog, so that it does not happen again"
        ))))
    }

    /// Returns what a history leaves out ([`restore::streamed_keys`]), as much of it as is remembered.
    fn streamed(&mut self, reader: &mut dyn Reader, partitions: u32, from_ms: Option<i64>) -> Result<Streamed, Setback> {
        self.context.health.set(PART, State::Waiting("reading the log for what it has of the collection's history".to_owned()));
        let mut streamed = Streamed::default();
        self.scan(reader, partitions, from_ms, &mut |key| streamed.insert(key))?;
        Ok(streamed)
    }

    /// More keys were streamed since the history began than are remembered: finds those of the rows at hand in the log. All that was
    /// handed to the log must be there.
    pub(super) fn look_up_rows(&mut self, core: &mut Core) -> Result<(), Setback> {
        let wanted: HashSet<Vec<u8>> = self.events[self.next..].iter().filter_map(|event| core.wants(event)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut reader = self.context.log.reader()?;
        let partitions = core.position().partitions();
        let from_ms = core.position().history.as_ref().and_then(|history| history.completed_from_ms);
        self.scan(reader.as_mut(), partitions, from_ms, &mut |key| {
            if wanted.contains(key) {
                core.remember(key);
            }
        })
    }

    /// Reads all of the log, for minutes when it is large, and stays a member of the group meanwhile.
    fn scan(&mut self, reader: &mut dyn Reader, partitions: u32, from_ms: Option<i64>, each: &mut dyn FnMut(&[u8])) -> Result<(), Setback> {
        let topics = self.context.topics.clone();
        let mut heard = threads::now();
        let mut broken = None;
        restore::streamed_keys(reader, &topics, partitions, from_ms, &mut |key| {
            if let Some(key) = key {
                each(key);
            }
            if threads::since(heard) < SIGN_OF_LIFE {
                return ControlFlow::Continue(());
            }
            heard = threads::now();
            broken = match self.glance(Duration::ZERO) {
                Err(error) => Some(error.into()),
                Ok(()) if self.ours && !self.context.stop.is_asked() => None,
                Ok(()) => Some(Setback::Again("the reading of the log was broken off".to_owned())),
            };
            if broken.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        broken.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::log::memory::MemoryLog;
    use crate::log::{Bounds, Committed, Delivered, Log, LogError, Member, Membership, Polled};
    use crate::spec::Spec;
    use crate::stage::{Context, Health, Stop};
    use crate::tail::source::{Event, Source};
    use crate::topics::Topics;

    /// A seat that is taken away as soon as it is asked for.
    struct Lost;

    impl Member for Lost {
        fn poll(&mut self, _timeout: Duration) -> Result<Polled, LogError> {
            Ok(Polled::Revoked(vec![0]))
        }

        fn committed(&mut self, _partition: u32) -> Result<Option<Committed>, LogError> {
            Ok(None)
        }

        fn start(&mut self, _partition: u32, _offset: i64) -> Result<(), LogError> {
            Ok(())
        }

        fn membership(&self) -> Option<Membership> {
            None
        }
    }

    /// A log of so many records that each take a while, and how many were read.
    struct Long(u32);

    impl Reader for Long {
        fn bounds(&mut self, _topic: &str, _partition: u32) -> Result<Bounds, LogError> {
            Ok(Bounds { low: 0, end: 100 })
        }

        fn stable_end(&mut self, topic: &str, partition: u32) -> Result<i64, LogError> {
            Ok(self.bounds(topic, partition)?.end)
        }

        fn read(
            &mut self,
            _topic: &str,
            partition: u32,
            from: i64,
            to: i64,
            each: &mut dyn FnMut(Delivered) -> ControlFlow<()>,
        ) -> Result<(), LogError> {
            for offset in from..to {
                std::thread::sleep(SIGN_OF_LIFE / 4);
                self.0 += 1;
                let record = Delivered { partition, offset, timestamp_ms: 0, key: None, value: None, headers: Vec::new() };
                if each(record).is_break() {
                    break;
                }
            }
            Ok(())
        }
    }

    struct Nothing;

    impl Source for Nothing {
        fn is_replay(&self) -> bool {
            false
        }

        fn open(&mut self, _from: Option<&Resume>) -> Result<Opened, SourceError> {
            panic!("nobody opens it")
        }

        fn read(&mut self, _most: usize, _timeout: Duration, _into: &mut Vec<Event>) -> Result<(), SourceError> {
            Ok(())
        }
    }

    #[test]
    fn whoever_reads_all_of_the_log_hears_the_group_and_ends_when_it_has_lost_its_seat() {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
        let context = Context {
            config: Arc::new(Config::default()),
            spec: Arc::new(Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap()),
            topics: Arc::new(Topics::new("t")),
            log,
            stop: Stop::default(),
            health: Health::default(),
            registry: None,
        };
        let mut stage = Stage::new(&context, Box::new(Nothing), Box::new(Lost));
        stage.ours = true;
        let mut reader = Long(0);
        assert!(matches!(stage.streamed(&mut reader, 3, None), Err(Setback::Again(_))));
        assert!(reader.0 < 100, "{} records were read: all of the first partition", reader.0);
    }
}
