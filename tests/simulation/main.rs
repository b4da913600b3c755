//! The simulation: tail, watch and judge as they are, over the log in memory, with every order of events and every mishap from one
//! seed. `script/simulate` runs it; without arguments it is a test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(clippy::print_stdout, reason = "it is a command")]

mod check;
mod draw;
mod oracle;
mod plan;
mod run;
mod script;
mod seeds;
mod turns;
mod world;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::seeds::{SHARE, Scenario, simulate, story};
use crate::world::Tally;

/// Seeds that the test runs.
const TEST_SEEDS: u64 = 2_000;
/// Stories that are told of one run; of the other violations only the seed.
const STORIES: usize = 5;

/// What is asked for.
struct Asked {
    first: u64,
    count: u64,
    jobs: usize,
    /// Ends with the first violation, and tells no story.
    is_first_enough: bool,
}

fn main() -> ExitCode {
    let mut asked =
        Asked { first: 0, count: TEST_SEEDS, jobs: std::thread::available_parallelism().map_or(1, usize::from), is_first_enough: false };
    let mut arguments = std::env::args().skip(1);
    let mut names = Vec::new();
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse::<u64>().ok());
        let is_fine = match argument.as_str() {
            "--seed" => number().map(|number| asked.first = number).is_some(),
            "--count" => number().map(|number| asked.count = number).is_some(),
            "--jobs" => number().map(|number| asked.jobs = usize::try_from(number).unwrap().max(1)).is_some(),
            "--first" => {
                asked.is_first_enough = true;
                true
            }
            // cargo's own way to choose tests by name.
            name if !name.starts_with("--") => {
                names.push("simulation".contains(name));
                true
            }
            "--list" => return ExitCode::SUCCESS,
            _ => true,
        };
        if !is_fine {
            println!("{argument} takes a number");
            return ExitCode::from(2);
        }
    }
    if !names.is_empty() && !names.contains(&true) {
        return ExitCode::SUCCESS;
    }
    if !replays(asked.first) {
        return ExitCode::FAILURE;
    }
    let violations = all(&asked);
    println!("{} seeds, {violations} violations", asked.count);
    if violations > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Whether seeds replay exactly: without that no other seed means anything.
fn replays(first: u64) -> bool {
    for seed in first..first + 3 {
        let traces: Vec<_> = (0..2).filter_map(|_| Scenario::of(seed).ok()).map(|scenario| simulate(&scenario, seed).traced).collect();
        if traces.len() == 2 && traces[0] != traces[1] {
            println!("seed {seed} does not replay: {traces:?}");
            return false;
        }
    }
    true
}

/// Runs all seeds; returns how many violate something.
fn all(asked: &Asked) -> u64 {
    let (first, end) = (asked.first, asked.first + asked.count);
    let begun = Instant::now();
    let (next, done, tally) = (AtomicU64::new(first / SHARE), AtomicU64::new(0), Mutex::new(Tally::new()));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for job in 0..asked.jobs {
            let (next, done, tally, failed) = (&next, &done, &tally, &failed);
            scope.spawn(move || {
                stay(job);
                loop {
                    let share = next.fetch_add(1, Ordering::Relaxed);
                    let seeds = (share * SHARE).max(first)..((share + 1) * SHARE).min(end);
                    if seeds.start >= end || asked.is_first_enough && !failed.lock().unwrap().is_empty() {
                        return;
                    }
                    for (seed, violations) in one_share(seeds, done, tally) {
                        println!("seed {seed} violates: {}", violations[0].lines().next().unwrap_or_default());
                        failed.lock().unwrap().push(seed);
                    }
                    let so_far = done.load(Ordering::Relaxed);
                    if so_far % 1_000 < SHARE && so_far >= SHARE {
                        let seconds = begun.elapsed().as_secs_f64();
                        let rate = so_far as f64 / seconds;
                        let violations = failed.lock().unwrap().len();
                        println!("{so_far} of {} seeds, {rate:.0} a second, {violations} violations", asked.count);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    for seed in failed.iter().take(if asked.is_first_enough { 0 } else { STORIES }) {
        match story(*seed) {
            Ok(story) => println!("{story}"),
            Err(faults) => println!("seed {seed}, without any mishap: {}", faults.join("\n")),
        }
    }
    for (name, number) in tally.into_inner().unwrap() {
        println!("{number:>9} {name}");
    }
    println!("{:.1} s", begun.elapsed().as_secs_f64());
    failed.len() as u64
}

/// Keeps this thread, and those that it starts, on one core: they take turns, and handing over to another core costs more than a turn.
fn stay(job: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    let mut one = CpuSet::new();
    one.set(cores[job % cores.len()]);
    let _slower_and_the_same = sched_setaffinity(None, &one);
}

/// Runs the seeds of one scenario; returns those that violate something.
fn one_share(seeds: std::ops::Range<u64>, done: &AtomicU64, tally: &Mutex<Tally>) -> Vec<(u64, Vec<String>)> {
    let mut failed = Vec::new();
    let scenario = Scenario::of(seeds.start);
    for seed in seeds {
        match &scenario {
            Ok(scenario) => {
                debug_assert!(scenario.is_of(seed));
                let came = simulate(scenario, seed);
                let mut tally = tally.lock().unwrap();
                for (name, number) in came.tally {
                    *tally.entry(name).or_default() += number;
                }
                if !came.violations.is_empty() {
                    failed.push((seed, came.violations));
                }
            }
            Err(faults) => failed.push((seed, faults.clone())),
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    failed
}
