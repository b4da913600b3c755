//! What a full window costs: memory of the whole process, and time a ticket.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemark::clock::{DAY_MS, HOUR_MS};
use tidemark::features::Encoder;
use tidemark::status::Status;
use tidemark::ticket::Mark;
use tidemark::topics::Topics;
use tidemark::window::{Counting, Shape, Window};

use super::backlog::Bench;
use super::verdict::{ROWS, START_MS};
use super::{Figure, flights, median};
use crate::support;

/// Tickets measured in one run.
const MEASURED: usize = 200_000;

pub(crate) fn ticket_cost(runs: usize) -> Vec<Figure> {
    let (spec, tickets) = (flights::spec(), flights::tickets());
    let baseline = flights::baseline(&tickets);
    let encoder = Arc::new(Encoder::new(&spec).expect("the spec is sound"));
    let names: Vec<&str> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
    let counting = Arc::new(Counting::new(&encoder, &names, &spec.fingerprint(), &baseline).expect("its own spec"));
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (rows, times) in ROWS.iter().zip(&mut times) {
            let shape = Shape { slice_ms: HOUR_MS, longest_ms: 7 * DAY_MS };
            let mut window = Window::new(Arc::clone(&encoder), shape, Some(Arc::clone(&counting)));
            let (end, mut marks) = (START_MS + 7 * DAY_MS, 0);
            flights::spread(&tickets, *rows, START_MS, end).for_each(|ticket| _ = window.push(&ticket));
            // The same number of slices passes in both, so that only the rows differ; eviction included.
            let more: Vec<_> = flights::spread(&tickets, MEASURED, end, end + DAY_MS).collect();
            let begun = Instant::now();
            for ticket in &more {
                while ticket.event_at_ms >= end + marks * HOUR_MS {
                    window.mark(&Mark {
                        number: u64::try_from(marks).expect("positive") + 1,
                        end_ms: end + marks * HOUR_MS,
                        partitions: 1,
                        baseline: Some(1),
                    });
                    drop(window.changed());
                    marks += 1;
                }
                window.push(ticket);
            }
            times.push(begun.elapsed().as_secs_f64() * 1e9 / MEASURED as f64);
        }
    }
    let [small, large] = times.map(|times| median(&times));
    vec![Figure {
        name: "ticket into a window of 1,000,000 rows".to_owned(),
        value: large,
        unit: "ns",
        baseline: Some(small),
        against: "into a window of 10,000 rows",
        goal: "<= 1.1",
        holds: large <= 1.1 * small,
    }]
}

/// Writes `count` flights, completing evenly over `[from_ms, to_ms)`, as NDJSON.
fn write_flights(to: &mut impl Write, count: usize, from_ms: i64, to_ms: i64) {
    let flights: Vec<serde_json::Value> = flights::lines()
        .map(|line| serde_json::from_str(&line).expect("JSON"))
        .filter(|f: &serde_json::Value| f["status"] == "COMPLETED")
        .collect();
    let step = (to_ms - from_ms) as f64 / count as f64;
    for n in 0..count {
        let mut flight = flights[n % flights.len()].clone();
        flight["ticket_id"] = format!("{from_ms}-{n}").into();
        flight["completed_at"] = (from_ms + (n as f64 * step) as i64).into();
        writeln!(to, "{flight}").expect("the folder takes the flights");
    }
}

pub(crate) fn memory(runs: usize) -> Vec<Figure> {
    let bench = Bench::start();
    let path = bench.folder.path().join("two-million.ndjson.zst");
    let mut file = zstd::Encoder::new(std::fs::File::create(&path).expect("the folder takes a file"), 1).expect("zstd");
    for week in 0..2 {
        let from = START_MS + week * 7 * DAY_MS;
        write_flights(&mut file, ROWS[1], from, from + 7 * DAY_MS);
    }
    file.finish().expect("the folder takes the flights");
    let file = path.to_str().expect("UTF-8");
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let prefix = format!("memory{run}");
        bench.create_baseline(&prefix);
        // Paced a little below full speed would hide nothing: the process reads, writes and judges as fast as it can.
        let tidemark = bench.run(&prefix, &prefix, "tail,watch,judge", &["--replay", file]);
        let mut statuses = bench.follow(&Topics::new(&prefix).status);
        let mut peaks = [0.0_f64; 2];
        support::wait_until("two million tickets are judged", Duration::from_secs(600), || {
            // A replay ends by itself when all of it is judged.
            let resident = tidemark.resident_mb("VmRSS").unwrap_or_default();
            let records = statuses.poll(Duration::from_millis(100)).expect("the broker is up");
            let status: Status = serde_json::from_slice(records.last()?.value.as_deref()?).ok()?;
            let week = (status.at_ms - START_MS) / (7 * DAY_MS);
            // The window is full from the end of the first week on.
            if status.at_ms >= START_MS + 6 * DAY_MS {
                let at = usize::from(week >= 1);
                peaks[at] = peaks[at].max(resident);
            }
            (status.at_ms >= START_MS + 14 * DAY_MS - 2 * HOUR_MS).then_some(())
        });
        tidemark.stop();
        eprintln!("  {:.0} MB with the first million in the window, {:.0} MB while the second passes", peaks[0], peaks[1]);
        first.push(peaks[0]);
        second.push(peaks[1]);
    }
    let (one, two) = (median(&first), median(&second));
    let worst = one.max(two);
    vec![
        Figure {
            name: "run, 1,000,000 rows x 15 features in the window".to_owned(),
            value: worst,
            unit: "MB",
            baseline: None,
            against: "",
            goal: "<= 256 MB",
            holds: worst <= 256.0,
        },
        Figure {
            name: "the same while a second million passes".to_owned(),
            value: two,
            unit: "MB",
            baseline: Some(one),
            against: "the first million",
            goal: "flat (<= 1.05)",
            holds: two <= 1.05 * one,
        },
    ]
}
