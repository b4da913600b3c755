//! Runs of one kind of fault, one a seed: their stories, and how it ended.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// Characters of a line that are shown.
const LONGEST: usize = 600;

/// How many runs, from which seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds {
    first: u64,
    count: u64,
    /// Whether the story of a run without a violation is told, too.
    tells: bool,
}

impl Seeds {
    /// As `script/chaos` says in the environment, else so many from 1.
    pub(crate) fn or(count: u64) -> Self {
        let number = |name: &str| said(name).map(|text| text.parse::<u64>().expect("a whole number"));
        let tells = said("CHAOS_STORY").is_some();
        Self { first: number("CHAOS_SEED").unwrap_or(1), count: number("CHAOS_COUNT").unwrap_or(count), tells }
    }
}

/// What `script/chaos` says in the environment.
#[expect(clippy::disallowed_methods, reason = "there is no other way from there to here")]
pub(crate) fn said(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether `script/chaos` runs, not the tests that every change has to pass.
pub(crate) fn is_campaign() -> bool {
    said("CHAOS_CAMPAIGN").is_some()
}

/// The dice of a run: what they show follows from its seed.
pub(crate) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// Returns a number below `sides`.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.0.next_u64() % sides as u64).expect("fewer than a usize holds")
    }
}

/// What happened in a run, in order.
pub(crate) struct Story {
    begun: Instant,
    lines: Vec<String>,
    /// Kills, attacks, faults: whatever the run is made of, and how many of each kind.
    faults: BTreeMap<String, u64>,
    /// What was violated.
    violations: Vec<String>,
    /// What is told of every run.
    note: String,
}

impl Story {
    fn new() -> Self {
        Self { begun: Instant::now(), lines: Vec::new(), faults: BTreeMap::new(), violations: Vec::new(), note: String::new() }
    }

    /// Tells what happens.
    pub(crate) fn tell(&mut self, line: impl Into<String>) {
        self.lines.push(format!("{:>7.2} s  {}", self.begun.elapsed().as_secs_f64(), line.into()));
    }

    /// Counts what was done to the deployment, by its kind.
    pub(crate) fn fault(&mut self, kind: &str) {
        *self.faults.entry(kind.to_owned()).or_default() += 1;
    }

    /// Says what is told of the run however it ends.
    pub(crate) fn note(&mut self, note: String) {
        self.note = note;
    }

    /// Tells what does not hold.
    pub(crate) fn violation(&mut self, invariant: impl Into<String>) {
        self.violations.push(invariant.into());
    }

    /// Whether all has held so far.
    pub(crate) fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

/// Runs every seed, or until the first violation when CHAOS_FIRST is set; panics when any was violated, after all of them are told.
/// Returns how much was done to the deployments.
#[expect(clippy::print_stdout, reason = "a person reads it")]
pub(crate) fn run(seeds: Seeds, faults: &str, mut one: impl FnMut(u64, &mut Story)) -> u64 {
    let (mut runs, mut violations, mut all) = (0, 0, BTreeMap::<String, u64>::new());
    let ends_at_first = said("CHAOS_FIRST").is_some();
    for seed in seeds.first..seeds.first + seeds.count {
        if ends_at_first && violations > 0 {
            break;
        }
        runs += 1;
        let mut story = Story::new();
        // What cannot be read or written any more is told with what led to it, and the next run begins.
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one(seed, &mut story)));
        if let Err(panic) = end {
            let said = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
            story.violation(format!("it panicked: {}", said.unwrap_or_default()));
        }
        let count: u64 = story.faults.values().sum();
        story.faults.iter().for_each(|(kind, count)| *all.entry(kind.clone()).or_default() += count);
        println!("seed {seed}: {count} {faults}, {:.0} s {}", story.begun.elapsed().as_secs_f64(), story.note);
        if !story.is_clean() {
            violations += 1;
            println!("seed {seed} VIOLATES:");
            for line in story.violations.iter().flat_map(|violation| violation.lines()) {
                println!("  {}", line.chars().take(LONGEST).collect::<String>());
            }
        }
        if !story.is_clean() || seeds.tells {
            println!("what happened:");
            story.lines.iter().for_each(|line| println!("  {line}"));
        }
        // A pipe shows each run as it ends.
        drop(std::io::stdout().flush());
    }
    let kinds: Vec<String> = all.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let done: u64 = all.values().sum();
    println!("{done} {faults}: {}\n{runs} runs, {violations} violations", kinds.join(", "));
    assert_eq!(violations, 0, "script/chaos NAME --seed S replays one");
    done
}
