//! Many years of one plan, and what they show.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::alert::Level;
use crate::config::Judge;

use super::{Opening, Plan, Pool, year};

/// What the years of one plan show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// Years that were run.
    pub years: u64,
    /// Drawn baselines that were of no use.
    pub refused: u64,
    /// Episodes that opened with nothing to open for, at the critical level, by cause.
    pub false_critical: BTreeMap<String, u64>,
    /// The same at the warning level.
    pub false_warning: BTreeMap<String, u64>,
    /// Hours from the change to the critical level, by cause, in order of size.
    pub delays_hours: BTreeMap<String, Vec<i64>>,
}

impl Measured {
    /// Returns the false openings at the critical level.
    #[must_use]
    pub fn false_alarms(&self) -> u64 {
        self.false_critical.values().sum()
    }

    /// Returns the median delay of a cause, counting years in which it was not found as longer than all others; `None`
    /// when it was found in less than half of them.
    #[must_use]
    pub fn median_delay_hours(&self, cause: &str) -> Option<i64> {
        let middle = usize::try_from((self.years - self.refused) / 2).ok()?;
        self.delays_hours.get(cause)?.get(middle).copied()
    }

    fn take(&mut self, plan: Plan, openings: Vec<Opening>) {
        self.years += 1;
        let mut found: BTreeMap<String, i64> = BTreeMap::new();
        for opening in openings {
            let counts = match opening.level {
                Level::Critical => &mut self.false_critical,
                Level::Warning | Level::Ok => &mut self.false_warning,
            };
            if plan.change.is_none() || opening.hours <= 0 {
                *counts.entry(opening.cause).or_default() += 1;
            } else if opening.level == Level::Critical {
                found.entry(opening.cause).or_insert(opening.hours);
            }
        }
        for (cause, hours) in found {
            let delays = self.delays_hours.entry(cause).or_default();
            let at = delays.partition_point(|known| *known <= hours);
            delays.insert(at, hours);
        }
    }
}

/// Runs `years` years of a plan, one seed after the other, on as many threads as there are processors.
#[must_use]
pub fn measure(pool: &Pool, plan: Plan, judge: &Judge, years: u64, first_seed: u64) -> Measured {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let run = |part: u64| {
        let seeds = (first_seed..first_seed + years).filter(move |seed| seed % threads == part);
        seeds.map(|seed| year(pool, plan, judge, seed)).collect::<Vec<_>>()
    };
    let mut measured = Measured::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads).map(|part| scope.spawn(move || run(part))).collect();
        for part in parts {
            for openings in part.join().expect("a drawn year does not panic") {
                match openings {
                    Ok(openings) => measured.take(plan, openings),
                    Err(_) => {
                        measured.years += 1;
                        measured.refused += 1;
                    }
                }
            }
        }
    });
    measured
}
