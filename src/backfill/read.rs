//! Tickets in spans of time, several spans at once, handed on in order: memory is bounded by the rows that one span may hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded, unbounded};
use rayon::prelude::*;

use super::item::{Input, Item, Outcome, Scoring};
use super::mongo::Collection;
use super::stats::Skipped;
use super::{BackfillError, Span};
use crate::clock::DAY_MS;
use crate::stage::Stop;
use crate::tail::replay::{Replay, Slowdown};

/// Spans that are read at once: one waits for the server while the other computes.
const READERS: usize = 2;
/// Spans in memory at once: those that are read, and one that is written.
const SPANS: usize = READERS + 1;
/// Documents that are handed from the cursor to the scorers at once.
pub(super) const CHUNK: usize = 1_000;
/// Chunks that wait at most.
pub(super) const CHUNKS: usize = 4;
/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

/// The tickets of one UTC day.
#[derive(Default)]
pub(super) struct Day {
    pub(super) items: Vec<Item>,
    pub(super) skipped: Skipped,
}

/// What one pass over a span brought: whole days, up to where there was no more room.
#[derive(Default)]
pub(super) struct Sweep {
    pub(super) days: BTreeMap<i64, Day>,
    /// Documents that do not say when they completed.
    pub(super) timeless: Vec<u128>,
    rows: usize,
    limit: usize,
    cut: Option<i64>,
}

impl Sweep {
    pub(super) fn of_at_most(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(super) fn take(&mut self, outcome: Outcome) {
        let at_ms = match &outcome {
            Outcome::Item(item) => item.completed_at_ms,
            Outcome::Skipped(_, at_ms) => *at_ms,
            Outcome::Timeless(key) => return self.timeless.push(*key),
            Outcome::NotCompleted | Outcome::Outside => return,
        };
        let start = at_ms.div_euclid(DAY_MS) * DAY_MS;
        if self.cut.is_some_and(|cut| start >= cut) {
            return;
        }
        let day = self.days.entry(start).or_default();
        match outcome {
            Outcome::Item(item) => {
                day.items.push(item);
                self.rows += 1;
            }
            Outcome::Skipped(why, _) => day.skipped.count(why),
            Outcome::Timeless(_) | Outcome::NotCompleted | Outcome::Outside => {}
        }
        // The earliest days are kept; the others are read in a further pass.
        while self.rows > self.limit && self.days.len() > 1 {
            let Some((start, day)) = self.days.pop_last() else { break };
            self.rows -= day.items.len();
            self.cut = Some(start);
        }
    }

    /// Takes a chunk, in order; scored on all cores.
    pub(super) fn take_chunk(&mut self, scoring: &Scoring, span: Span, chunk: Vec<Input>) {
        let outcomes: Vec<Outcome> = chunk.into_par_iter().map(|input| scoring.judge(input, span)).collect();
        outcomes.into_iter().for_each(|outcome| self.take(outcome));
    }
}

/// Where tickets are read.
#[derive(Clone, Copy)]
pub(super) enum Source<'s> {
    File(&'s Path, Option<&'s Slowdown>),
    Mongodb(&'s Collection),
}

/// What is read, in order.
pub(super) struct Plan {
    pub(super) spans: VecDeque<Span>,
    /// Documents, about, where that is known.
    pub(super) total: Option<u64>,
}

impl Source<'_> {
    pub(super) fn plan(&self, span: Span, notes: &mut Vec<String>) -> Result<Plan, BackfillError> {
        match self {
            Self::File(..) => Ok(Plan { spans: [span].into(), total: None }),
            Self::Mongodb(collection) => collection.plan(span, notes),
        }
    }

    fn sweep(&self, span: Span, limit: usize, scoring: &Scoring, read: &AtomicU64, stop: &Stop) -> Result<Sweep, BackfillError> {
        let mut sweep = Sweep::of_at_most(limit);
        match self {
            Self::Mongodb(collection) => collection.sweep(span, scoring, read, stop, &mut sweep)?,
            Self::File(path, slowdown) => {
                let mut replay = Replay::open(path, &scoring.spec)?;
                if let Some(slowdown) = slowdown {
                    replay = replay.with_slowdown((*slowdown).clone());
                }
                let mut chunk = Vec::with_capacity(CHUNK);
                for row in replay.by_ref() {
                    chunk.push(Input::Row(row?.normalised));
                    if chunk.len() == CHUNK {
                        read.fetch_add(CHUNK as u64, Ordering::Relaxed);
                        sweep.take_chunk(scoring, span, std::mem::take(&mut chunk));
                        if stop.is_asked() {
                            return Err(BackfillError::Stopped);
                        }
                    }
                }
                read.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                sweep.take_chunk(scoring, span, chunk);
            }
        }
        Ok(sweep)
    }
}

/// The reading of all spans.
pub(super) struct Sweeps<'s> {
    pub(super) source: &'s Source<'s>,
    pub(super) scoring: &'s Scoring,
    /// Documents read so far.
    pub(super) read: &'s AtomicU64,
    pub(super) stop: &'s Stop,
}

impl Sweeps<'_> {
    /// Hands what the spans bring to `take`, in order of time. All in memory hold `held_rows` items together, at most, apart from one
    /// whole day each.
    pub(super) fn run(
        self,
        held_rows: usize,
        mut spans: VecDeque<Span>,
        tell: &mut dyn FnMut(),
        take: &mut dyn FnMut(Sweep) -> Result<(), BackfillError>,
    ) -> Result<(), BackfillError> {
        let Self { source, scoring, read, stop } = self;
        let limit = if spans.len() > 1 { held_rows / SPANS } else { held_rows };
        let (ask, asked) = unbounded::<Span>(); // never more than SPANS in it
        let (answer, answers) = bounded(SPANS);
        let given_up = Stop::default();
        std::thread::scope(|scope| {
            for reader in 0..READERS {
                let (asked, answer, given_up) = (asked.clone(), answer.clone(), given_up.clone());
                let work = move || {
                    for span in asked {
                        let result = source.sweep(span, limit, scoring, read, &given_up);
                        if answer.send((span, result)).is_err() {
                            return;
                        }
                    }
                };
                let builder = std::thread::Builder::new().name(format!("backfill-{reader}"));
                builder.spawn_scoped(scope, work).expect("the system gives the process one more thread");
            }
            let result = follow(&ask, &answers, &mut spans, stop, tell, take);
            // Readers end when nobody asks any more.
            given_up.ask();
            drop((ask, answers));
            result
        })
    }
}

type Answer = (Span, Result<Sweep, BackfillError>);

fn follow(
    ask: &crossbeam_channel::Sender<Span>,
    answers: &crossbeam_channel::Receiver<Answer>,
    spans: &mut VecDeque<Span>,
    stop: &Stop,
    tell: &mut dyn FnMut(),
    take: &mut dyn FnMut(Sweep) -> Result<(), BackfillError>,
) -> Result<(), BackfillError> {
    let mut under_way: BTreeSet<Option<i64>> = BTreeSet::new();
    let mut ready: BTreeMap<Option<i64>, (Span, Sweep)> = BTreeMap::new();
    let begin = |span: Span, under_way: &mut BTreeSet<Option<i64>>| {
        under_way.insert(span.from_ms);
        ask.send(span).expect("the readers wait for it");
    };
    for span in (0..SPANS).map_while(|_| spans.pop_front()) {
        begin(span, &mut under_way);
    }
    while let Some(&first) = under_way.first() {
        if stop.is_asked() {
            return Err(BackfillError::Stopped);
        }
        let Some((span, mut sweep)) = ready.remove(&first) else {
            match answers.recv_timeout(TELL) {
                Ok((span, sweep)) => drop(ready.insert(span.from_ms, (span, sweep?))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("the readers live as long as they are asked"),
            }
            tell();
            continue;
        };
        under_way.remove(&first);
        match sweep.cut {
            Some(cut) => {
                begin(Span { from_ms: Some(cut), to_ms: span.to_ms }, &mut under_way);
            }
            None => {
                if let Some(next) = spans.pop_front() {
                    begin(next, &mut under_way);
                }
            }
        }
        sweep.cut = None;
        take(sweep)?;
        tell();
    }
    Ok(())
}
