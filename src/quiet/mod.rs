//! False alarms and delays, measured: years in which nothing changes, and years in which something does, drawn anew from
//! real days and run through the same looks and episodes as the stream.
//!
//! Whatever opens in a year drawn with [`Draw::Days`] or [`Draw::Weeks`] is a false alarm, because its days all come from
//! one pool. [`Draw::Persistent`] lets good and bad days hang together as an AR(1) process does: harder, and closer to a
//! stream with seasons.

mod draw;
mod measure;
mod pool;

use std::collections::{BTreeMap, VecDeque};

use crate::alert::Level;
use crate::baseline::Baseline;
use crate::baseline::builder::{Builder, Making, Refused};
use crate::clock::{DAY_MS, HOUR_MS};
use crate::config::Judge;
use crate::drift::{Look, look};
use crate::judge::core::patience;
use crate::judge::episode::{Moved, Track};
use crate::judge::sight::Views;
use crate::status::Episode;
use crate::summary::Slice;
use crate::window::{Counting, Outcome};

pub use draw::{Draw, Random};
pub use measure::{Measured, measure};
pub use pool::{Pool, PoolError};

/// Days of a year.
const YEAR_DAYS: usize = 365;
/// Days of its baseline.
const BASELINE_DAYS: usize = 59;
/// Quiet days between the baseline and a change.
const DAYS_BEFORE_CHANGE: usize = 21;
/// Days in which a change must be found.
const DAYS_TO_FIND: usize = 42;
/// Windows, in days.
const WINDOWS: [u32; 3] = [1, 3, 7];
/// The first day of a drawn year: a Monday long ago; no verdict depends on it.
const FIRST_DAY_MS: i64 = 15_700 * DAY_MS;

/// What changes for good at some hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Three task types take 1.6 times as long.
    Slowdown,
    /// Tickets are created an hour later by the clock.
    HourShift,
}

/// How years are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// How days follow each other.
    pub draw: Draw,
    /// Share of the tickets that is kept, 0 to 1.
    pub rate: f64,
    /// What changes, if anything.
    pub change: Option<Change>,
}

/// An episode that opened or escalated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The cause.
    pub cause: String,
    /// Its level.
    pub level: Level,
    /// Hours since the baseline's end; of a year with a change, hours since that.
    pub hours: i64,
}

/// Runs one year and returns what opened, in order.
///
/// # Errors
/// [`Refused`] when the drawn baseline is of no use.
pub fn year(pool: &Pool, plan: Plan, judge: &Judge, seed: u64) -> Result<Vec<Opening>, Refused> {
    let mut random = Random::new(seed);
    let days = plan.draw.days(pool, YEAR_DAYS, &mut random);
    let (first, rest) = days.split_at(BASELINE_DAYS.min(days.len()));
    let baseline = baseline(pool, first, plan.rate, &mut random)?;
    let onset_hour = DAYS_BEFORE_CHANGE * 24 + random.below(7 * 24);
    let rest = if plan.change.is_some() { &rest[..rest.len().min(DAYS_BEFORE_CHANGE + 7 + DAYS_TO_FIND)] } else { rest };
    let mut watch = Watch::new(pool, &baseline, judge);
    let mut found = Vec::new();
    for (number, day) in rest.iter().enumerate() {
        let slices = watch.slices(*day, number, plan, onset_hour, &mut random);
        for (hour, slice) in slices.into_iter().enumerate() {
            let hours = number * 24 + hour + 1;
            let start = if plan.change.is_some() { onset_hour } else { 0 };
            let hours = i64::try_from(hours).expect("a year has few hours") - i64::try_from(start).expect("a year has few hours");
            let opened = watch.look(slice).into_iter().map(|(cause, level)| Opening { cause, level, hours });
            found.extend(opened);
        }
    }
    Ok(found)
}

fn baseline(pool: &Pool, days: &[usize], rate: f64, random: &mut Random) -> Result<Baseline, Refused> {
    let to_ms = FIRST_DAY_MS + i64::try_from(days.len()).expect("a year has few days") * DAY_MS;
    let mut builder = Builder::new(&pool.spec, FIRST_DAY_MS, to_ms)?;
    for (number, day) in days.iter().enumerate() {
        let start_ms = FIRST_DAY_MS + i64::try_from(number).expect("a year has few days") * DAY_MS;
        for kept in pool.days[*day].iter().filter(|_| random.share() < rate) {
            builder.push_row(&kept.row, start_ms + i64::from(kept.into_day_ms), kept.actual, kept.predicted);
        }
    }
    builder.build(&Making { version: 1, created_at_ms: 0, window_days: &WINDOWS, predecessor: None })
}

/// The windows and episodes of one year.
struct Watch<'a> {
    pool: &'a Pool,
    baseline: &'a Baseline,
    judge: &'a Judge,
    counting: Counting,
    /// The slices of the longest window, oldest first.
    slices: VecDeque<Slice>,
    sums: [Slice; WINDOWS.len()],
    tracks: BTreeMap<String, Track>,
    at_ms: i64,
}

impl<'a> Watch<'a> {
    fn new(pool: &'a Pool, baseline: &'a Baseline, judge: &'a Judge) -> Self {
        let names: Vec<&str> = pool.spec.features.iter().map(|feature| feature.name.as_str()).collect();
        let counting = Counting::new(&pool.encoder, &names, &baseline.fingerprint, baseline).expect("the baseline was made for this spec");
        let (slices, sums) = (VecDeque::new(), std::array::from_fn(|_| Slice::default()));
        Self { pool, baseline, judge, counting, slices, sums, tracks: BTreeMap::new(), at_ms: baseline.to_ms }
    }

    /// Counts one drawn day, hour by hour.
    fn slices(&self, day: usize, number: usize, plan: Plan, onset_hour: usize, random: &mut Random) -> Vec<Slice> {
        let start_ms = self.baseline.to_ms + i64::try_from(number).expect("a year has few days") * DAY_MS;
        let start = |hour: i64| Slice { start_ms: start_ms + hour * HOUR_MS, ..Slice::default() };
        let mut slices: Vec<Slice> = (0..24).map(start).collect();
        let mut shifted = crate::features::Row::default();
        for kept in self.pool.days[day].iter().filter(|_| random.share() < plan.rate) {
            let hour = usize::try_from(i64::from(kept.into_day_ms) / HOUR_MS).expect("inside a day");
            let changed = plan.change.filter(|_| number * 24 + hour >= onset_hour);
            let actual = match changed {
                Some(Change::Slowdown) if kept.is_slowed => (kept.actual * 1.6 + 0.5).floor(),
                _ => kept.actual,
            };
            let row = if changed == Some(Change::HourShift) {
                shifted.clone_from(&kept.row);
                shifted.numbers[self.pool.created_at] += HOUR_MS as f64;
                &shifted
            } else {
                &kept.row
            };
            let completed_at_ms = start_ms + i64::from(kept.into_day_ms);
            let outcome = Outcome { completed_at_ms, actual, predicted: kept.predicted, predicted_by: 0, late: false };
            self.counting.add(&self.pool.encoder, row, outcome, &mut slices[hour]);
        }
        slices
    }

    /// Ends one slice, and returns what opened or escalated.
    fn look(&mut self, slice: Slice) -> Vec<(String, Level)> {
        self.at_ms += HOUR_MS;
        self.slices.push_back(slice);
        let newest = self.slices.len() - 1;
        for (days, sum) in WINDOWS.into_iter().zip(&mut self.sums) {
            sum.add(&self.slices[newest]);
            let length = usize::try_from(days).expect("a few days") * 24;
            if let Some(left) = (newest + 1).checked_sub(length + 1) {
                sum.subtract(&self.slices[left]);
            }
        }
        let longest = usize::try_from(WINDOWS[WINDOWS.len() - 1]).expect("a few days") * 24;
        if self.slices.len() > longest {
            self.slices.pop_front();
        }
        let judge = self.judge;
        let looks: Vec<Look> =
            (WINDOWS.into_iter().zip(&self.sums)).map(|(days, sum)| look(self.baseline, &self.pool.spec, sum, days, judge)).collect();
        let views = Views { looks: &looks, rules: judge, at_ms: self.at_ms, from_ms: self.baseline.to_ms };
        let mut opened = Vec::new();
        for (name, seen) in views.causes() {
            let Some(sight) = seen.sight else { continue };
            let track = self.tracks.entry(name.clone()).or_default();
            match track.look(sight, patience(judge, &name)) {
                Moved::No => {}
                Moved::Opened(level) => {
                    track.episode = Some(episode(level));
                    opened.push((name, level));
                }
                Moved::Escalated => {
                    track.episode = Some(episode(Level::Critical));
                    opened.push((name, Level::Critical));
                }
                Moved::Closed => track.episode = None,
            }
        }
        opened
    }
}

/// An episode of which only the level matters here.
fn episode(level: Level) -> Episode {
    Episode {
        id: String::new(),
        level,
        opened_mark: 0,
        opened_at_ms: 0,
        critical_at_ms: None,
        onset_ms: None,
        told: None,
        silenced_alerts: 0,
        answered: false,
        recovering: false,
    }
}

#[cfg(test)]
mod tests;
