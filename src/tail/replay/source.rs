//! A file as a source of the tail: its completed tickets in order, at the speed that was asked for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Pace, Progress, Replay, ReplayError, Row, Slowdown, Speed, fingerprint, is_stdin, name};
use crate::spec::Spec;
use crate::tail::normalise::Normalised;
use crate::tail::source::{Event, Opened, Place, Resume, Source, SourceError, count_unreadable};

/// How a file is lived through again.
#[derive(Clone, Debug)]
pub struct ReplayPlan {
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// How fast.
    pub speed: Speed,
    /// What is slowed down on the way.
    pub slowdown: Option<Slowdown>,
    /// Before the first ticket that completed at or after this (ms since 1970), the baseline of that version is waited for.
    pub await_baseline: Option<(i64, u64)>,
    /// Whether requests for trainings are waited for: a judge and a train stage have to run.
    pub lives_through: bool,
}

/// Brings the tickets of a file.
pub struct ReplaySource {
    plan: ReplayPlan,
    spec: Spec,
    reading: Option<Reading>,
}

/// A file that is being read.
struct Reading {
    replay: Replay,
    pace: Pace,
    began: Instant,
    /// A row whose time has not come.
    early: Option<(Row, Duration)>,
    /// The last row that was brought.
    row: u64,
    awaited: Option<(i64, u64)>,
    ended: bool,
}

impl ReplaySource {
    /// Takes a plan. Nothing is opened yet.
    #[must_use]
    pub fn new(plan: ReplayPlan, spec: &Spec) -> Self {
        Self { plan, spec: spec.clone(), reading: None }
    }

    /// Returns how far the file has been read; `None` before it is opened.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.reading.as_ref().map(|reading| reading.replay.progress())
    }

    fn refused(&self, reason: &(impl ToString + ?Sized)) -> SourceError {
        SourceError::Refused { doing: format!("replaying {}", name(&self.plan.file)), reason: reason.to_string() }
    }

    /// Returns the row to go on after.
    fn row_of(&self, resume: &Resume, fingerprint: &str) -> Result<u64, SourceError> {
        let Place::Rows(row) = &resume.place else {
            return Err(self.refused("the position in the log is one of a change stream; use a topic prefix of its own for the replay"));
        };
        if resume.fingerprint != fingerprint {
            return Err(self.refused("the position in the log is one of another file; use a topic prefix of its own for each file"));
        }
        Ok(*row)
    }
}

impl Source for ReplaySource {
    fn is_replay(&self) -> bool {
        true
    }

    fn lives_through(&self) -> bool {
        self.plan.lives_through
    }

    fn open(&mut self, from: Option<&Resume>) -> Result<Opened, SourceError> {
        let fingerprint = fingerprint(&self.plan.file).map_err(|error| self.refused(&error))?;
        let row = from.map_or(Ok(0), |resume| self.row_of(resume, &fingerprint))?;
        let opened = Opened { place: Place::Rows(row), fingerprint, history: None };
        if is_stdin(&self.plan.file)
            && let Some(reading) = &self.reading
        {
            if reading.row == row {
                return Ok(opened);
            }
            return Err(self.refused("standard input cannot be read a second time; give the name of a file"));
        }
        let open = || -> Result<Replay, ReplayError> {
            let mut replay = Replay::open(&self.plan.file, &self.spec)?;
            replay.skip_rows(row)?;
            Ok(match &self.plan.slowdown {
                Some(slowdown) => replay.with_slowdown(slowdown.clone()),
                None => replay,
            })
        };
        self.reading = Some(Reading {
            replay: open().map_err(|error| self.refused(&error))?,
            pace: Pace::new(self.plan.speed),
            began: Instant::now(),
            early: None,
            row,
            awaited: self.plan.await_baseline,
            ended: false,
        });
        Ok(opened)
    }

    fn read(&mut self, most: usize, timeout: Duration, into: &mut Vec<Event>) -> Result<(), SourceError> {
        let Some(reading) = &mut self.reading else {
            return Err(self.refused("it is read before it is opened"));
        };
        let read = reading.read(most, timeout, into);
        count_unreadable(&self.spec, &reading.replay.take_unreadable());
        read.map_err(|error| self.refused(&error))
    }
}

impl Reading {
    fn read(&mut self, most: usize, timeout: Duration, into: &mut Vec<Event>) -> Result<(), ReplayError> {
        let until = Instant::now() + timeout;
        let full = into.len() + most;
        let at_first = into.len();
        while into.len() < full {
            let kept_back = self.early.take();
            let next = if kept_back.is_some() { kept_back } else { self.next_row()? };
            let Some((row, due)) = next else {
                if !self.ended {
                    self.ended = true;
                    into.push(Event::End);
                }
                return Ok(());
            };
            let early = due.saturating_sub(self.began.elapsed());
            if !early.is_zero() {
                let left = until.saturating_duration_since(Instant::now());
                let is_waited_for = into.len() == at_first && early <= left;
                if !is_waited_for {
                    self.early = Some((row, due));
                    if into.len() == at_first {
                        std::thread::sleep(left);
                    }
                    return Ok(());
                }
                std::thread::sleep(early);
            }
            if let (Normalised::Completed(ticket), Some((from_ms, version))) = (&row.normalised, self.awaited)
                && ticket.completed_at_ms >= from_ms
            {
                self.awaited = None;
                into.push(Event::AwaitBaseline { version });
                self.early = Some((row, due));
                continue;
            }
            self.row = row.number;
            into.push(Event::Ticket { normalised: row.normalised, after: Place::Rows(row.number) });
        }
        Ok(())
    }

    /// Returns the next row that is not merely a ticket that did not complete, and when it is due.
    fn next_row(&mut self) -> Result<Option<(Row, Duration)>, ReplayError> {
        for row in self.replay.by_ref() {
            let row = row?;
            let due = match &row.normalised {
                Normalised::Other(_) => continue,
                Normalised::Completed(ticket) => self.pace.due(ticket.completed_at_ms),
                Normalised::Dead(_) => Duration::ZERO,
            };
            return Ok(Some((row, due)));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap()
    }

    fn line(id: &str, status: &str, completed_at_ms: i64) -> String {
        format!(r#"{{"ticket_id":"{id}","status":"{status}","completed_at":{completed_at_ms},"actual_duration_ms":5}}"#)
    }

    fn source(lines: &[String], change: impl FnOnce(&mut ReplayPlan)) -> (tempfile::TempDir, ReplaySource) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tickets.ndjson");
        std::fs::write(&file, lines.join("\n")).unwrap();
        let mut plan = ReplayPlan { file, speed: Speed::Max, slowdown: None, await_baseline: None, lives_through: false };
        change(&mut plan);
        (folder, ReplaySource::new(plan, &spec()))
    }

    fn told(events: &[Event]) -> Vec<String> {
        let tell = |event: &Event| match event {
            Event::Ticket { normalised: Normalised::Completed(ticket), after } => format!("{} {after:?}", ticket.id),
            Event::Ticket { normalised: Normalised::Dead(dead), after } => format!("{} {after:?}", dead.reason),
            Event::AwaitBaseline { version } => format!("await {version}"),
            Event::End => "end".to_owned(),
            other => panic!("unexpected {other:?}"),
        };
        events.iter().map(tell).collect()
    }

    const START_MS: i64 = 1_362_898_800_000;

    #[test]
    fn completed_and_dead_tickets_come_in_order_and_then_the_end_once() {
        let lines = [line("a", "COMPLETED", START_MS), line("b", "FAILED", START_MS), "{".to_owned(), line("c", "COMPLETED", START_MS + 1)];
        let (_folder, mut source) = source(&lines, |plan| plan.await_baseline = Some((START_MS + 1, 1)));
        assert!(source.is_replay());
        let opened = source.open(None).unwrap();
        assert_eq!(opened.place, Place::Rows(0));
        let mut events = Vec::new();
        source.read(2, Duration::ZERO, &mut events).unwrap();
        assert_eq!(told(&events), ["a Rows(1)", "undecodable Rows(3)"]);
        source.read(10, Duration::ZERO, &mut events).unwrap();
        source.read(10, Duration::ZERO, &mut events).unwrap();
        assert_eq!(told(&events[2..]), ["await 1", "c Rows(4)", "end"]);

        let resume = Resume { place: Place::Rows(1), fingerprint: opened.fingerprint, history: None };
        events.clear();
        source.open(Some(&resume)).unwrap();
        source.read(10, Duration::ZERO, &mut events).unwrap();
        assert_eq!(told(&events), ["undecodable Rows(3)", "await 1", "c Rows(4)", "end"]);
    }

    #[test]
    fn fields_that_a_replay_cannot_read_are_counted_where_those_of_a_stream_are() {
        let bad = |id: &str| line(id, "COMPLETED", START_MS).replace('{', r#"{"retry_count":"many","#);
        let (_folder, mut source) = source(&[bad("a"), line("b", "COMPLETED", START_MS), bad("c")], |_| {});
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        ::metrics::with_local_recorder(&recorder, || {
            source.open(None).unwrap();
            let mut events = Vec::new();
            while !matches!(events.last(), Some(Event::End)) {
                source.read(1, Duration::ZERO, &mut events).unwrap();
            }
        });
        let text = recorder.handle().render();
        let expected = r#"tidemark_tail_unreadable_fields_total{field="retry_count",reason="wrong_type"} 2"#;
        assert!(text.lines().any(|found| found == expected), "{text}");
    }

    #[test]
    fn a_position_of_another_file_or_of_a_stream_is_refused() {
        let (_folder, mut source) = source(&[line("a", "COMPLETED", START_MS)], |_| {});
        let opened = source.open(None).unwrap();
        let other = Resume { place: Place::Rows(1), fingerprint: "another".to_owned(), history: None };
        assert!(matches!(source.open(Some(&other)), Err(SourceError::Refused { .. })));
        let beyond = Resume { place: Place::Rows(2), fingerprint: opened.fingerprint, history: None };
        assert!(matches!(source.open(Some(&beyond)), Err(SourceError::Refused { .. })));
    }

    #[test]
    fn a_ticket_whose_time_has_not_come_is_kept_back() {
        let first: Vec<_> = (0..20).map(|i| line(&i.to_string(), "COMPLETED", START_MS)).collect();
        let later = (20..40).map(|i| line(&i.to_string(), "COMPLETED", START_MS + 3_600_000));
        let lines: Vec<_> = first.into_iter().chain(later).collect();
        let (_folder, mut source) = source(&lines, |plan| plan.speed = Speed::Times(1.0));
        source.open(None).unwrap();
        let mut events = Vec::new();
        for _ in 0..3 {
            source.read(100, Duration::ZERO, &mut events).unwrap();
        }
        assert_eq!(events.len(), 39, "the 20th of the later ones moves the clock by an hour");
    }
}
