//! Runs of one kind of fault, one a seed: their stories, and how it ended.

use std::io::Write;
use std::time::Instant;

/// Characters of a line that are shown.
const LONGEST: usize = 600;

/// How many runs, from which seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds {
    first: u64,
    count: u64,
}

impl Seeds {
    /// As `script/chaos` says in the environment, else so many from 1.
    pub(crate) fn or(count: u64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "script/chaos says it so")]
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a whole number"));
        Self { first: number("CHAOS_SEED").unwrap_or(1), count: number("CHAOS_COUNT").unwrap_or(count) }
    }
}

/// What happened in a run, in order.
pub(crate) struct Story {
    begun: Instant,
    lines: Vec<String>,
    /// Kills, attacks, faults: whatever the run is made of.
    pub(crate) faults: u64,
    /// What was violated.
    violations: Vec<String>,
    /// What is told of every run.
    note: String,
}

impl Story {
    fn new() -> Self {
        Self { begun: Instant::now(), lines: Vec::new(), faults: 0, violations: Vec::new(), note: String::new() }
    }

    /// Tells what happens.
    pub(crate) fn tell(&mut self, line: impl Into<String>) {
        self.lines.push(format!("{:>7.2} s  {}", self.begun.elapsed().as_secs_f64(), line.into()));
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

/// Runs every seed; panics when any was violated, after all of them are told.
#[expect(clippy::print_stdout, reason = "a person reads it")]
pub(crate) fn run(seeds: Seeds, faults: &str, mut one: impl FnMut(u64, &mut Story)) {
    let (mut violations, mut all) = (0, 0);
    for seed in seeds.first..seeds.first + seeds.count {
        let mut story = Story::new();
        one(seed, &mut story);
        all += story.faults;
        println!("seed {seed}: {} {faults}, {:.0} s {}", story.faults, story.begun.elapsed().as_secs_f64(), story.note);
        if !story.is_clean() {
            violations += 1;
            println!("seed {seed} VIOLATES:");
            for line in story.violations.iter().flat_map(|violation| violation.lines()) {
                println!("  {}", line.chars().take(LONGEST).collect::<String>());
            }
            println!("what happened:");
            story.lines.iter().for_each(|line| println!("  {line}"));
        }
        // A pipe shows each run as it ends.
        drop(std::io::stdout().flush());
    }
    println!("{all} {faults}\n{} runs, {violations} violations", seeds.count);
    assert_eq!(violations, 0, "script/chaos NAME --seed S replays one");
}
