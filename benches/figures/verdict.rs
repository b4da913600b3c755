//! What a verdict costs, whatever the window holds.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use tidemark::clock::{DAY_MS, HOUR_MS};
use tidemark::config::Judge;
use tidemark::drift::look::look;
use tidemark::features::Encoder;
use tidemark::summary::Slice;
use tidemark::ticket::Mark;
use tidemark::window::{Counting, Shape, Window};

use super::{Figure, flights, median};

/// Rows of the small and the large window.
pub(crate) const ROWS: [usize; 2] = [10_000, 1_000_000];
/// Verdicts in one run.
const VERDICTS: usize = 500;
/// Start of the windows: after the baseline's data.
pub(crate) const START_MS: i64 = 1_362_096_000_000;

pub(crate) fn verdict(runs: usize) -> Vec<Figure> {
    let (spec, tickets) = (flights::spec(), flights::tickets());
    let baseline = flights::baseline(&tickets);
    let encoder = Arc::new(Encoder::new(&spec).expect("the spec is sound"));
    let names: Vec<&str> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
    let counting = Arc::new(Counting::new(&encoder, &names, &spec.fingerprint(), &baseline).expect("its own spec"));
    let slices: Vec<Vec<Slice>> = ROWS
        .iter()
        .map(|&rows| {
            let mut window =
                Window::new(Arc::clone(&encoder), Shape { slice_ms: HOUR_MS, longest_ms: 7 * DAY_MS }, Some(Arc::clone(&counting)));
            flights::spread(&tickets, rows, START_MS, START_MS + 7 * DAY_MS).for_each(|ticket| _ = window.push(&ticket));
            window.mark(&Mark { number: 1, end_ms: START_MS + 7 * DAY_MS, partitions: 1, baseline: Some(1) });
            window.counts().cloned().collect()
        })
        .collect();
    let judge = Judge::default();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (held, times) in slices.iter().zip(&mut times) {
            times.push(one_run(held, |days, sum| drop(black_box(look(&baseline, &spec, sum, days, &judge)))));
        }
    }
    let [small, large] = times.map(|times| median(&times));
    let figure = |name: &str, value, baseline, against, goal, holds| Figure {
        name: name.to_owned(),
        value,
        unit: "µs",
        baseline,
        against,
        goal,
        holds,
    };
    vec![
        figure(
            "verdict over 1,000,000 rows (1, 3 and 7 days)",
            large,
            Some(small),
            "the same over 10,000 rows",
            "<= 1.2",
            large <= 1.2 * small,
        ),
        figure("verdict over 1,000,000 rows, absolute", large, None, "", "<= 200 µs", large <= 200.0),
    ]
}

/// Moves three windows on by one slice and looks at each, again and again; returns µs a verdict.
fn one_run(held: &[Slice], look: impl Fn(u32, &Slice)) -> f64 {
    let mut windows: Vec<(u32, VecDeque<Slice>, Slice)> = [1_u32, 3, 7]
        .into_iter()
        .map(|days| {
            let inside: VecDeque<Slice> = held.iter().rev().take(days as usize * 24).rev().cloned().collect();
            let mut sum = Slice::default();
            inside.iter().for_each(|slice| sum.add(slice));
            (days, inside, sum)
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..VERDICTS {
        for (days, inside, sum) in &mut windows {
            let oldest = inside.pop_front().expect("a window is not empty");
            sum.subtract(&oldest);
            sum.add(&oldest);
            inside.push_back(oldest);
            look(*days, sum);
        }
    }
    begun.elapsed().as_secs_f64() * 1e6 / VERDICTS as f64
}
