//! The year of flights as tickets, with the sizes of `parameters` that the golden figures were computed from.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use tidemark::baseline::Baseline;
use tidemark::baseline::builder::{Builder, Making};
use tidemark::features::{Encoder, Row};
use tidemark::spec::Spec;
use tidemark::summary::Slice;
use tidemark::tail::normalise::{Normalised, Normaliser, Unreadable};
use tidemark::ticket::{FieldValue, Ticket};
use tidemark::window::{Counting, Outcome};

/// 2013-01-01, 2013-03-01, 2013-07-01 and 2013-08-15, UTC.
pub(crate) const JANUARY: i64 = 1_356_998_400_000;
pub(crate) const MARCH: i64 = 1_362_096_000_000;
const SLOW_FROM: i64 = 1_372_636_800_000;
const SLOW_TO: i64 = 1_376_524_800_000;

/// A ticket of the year.
pub(crate) struct Flight {
    pub(crate) ticket: Ticket,
    pub(crate) completed: bool,
}

/// The spec of the flights.
pub(crate) fn spec() -> Spec {
    Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()
}

/// Hands every flight to `each`, in order of completion.
pub(crate) fn flights(mut each: impl FnMut(Flight)) {
    let spec = spec();
    let size_at = spec.field("parameters_size").unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unpacked = |path: &str| zstd::Decoder::new(std::fs::File::open(root.join(path)).unwrap()).unwrap();
    let mut sizes = Vec::new();
    unpacked("tests/golden/parameters_sizes.zst").read_to_end(&mut sizes).unwrap();
    let normaliser = Normaliser::new(&spec);
    let mut unreadable = Unreadable::default();
    let mut reader = BufReader::with_capacity(1 << 20, unpacked("data/flights-demo.ndjson.zst"));
    let (mut line, mut number) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut line).unwrap() > 0 {
        let (mut ticket, completed) = match normaliser.from_json(&line, number as u64 + 1, &mut unreadable) {
            Normalised::Completed(ticket) => (ticket, true),
            Normalised::Other(Some(ticket)) => (*ticket, false),
            Normalised::Other(None) => {
                line.clear();
                number += 1;
                continue;
            }
            Normalised::Dead(dead) => panic!("every flight can be read: {dead:?}"),
        };
        ticket.fields[size_at] = FieldValue::Number(f64::from(sizes[number]));
        each(Flight { ticket, completed });
        line.clear();
        number += 1;
    }
    assert_eq!((number, sizes.len()), (336_776, 336_776));
}

/// Returns the first lines of the year's file.
pub(crate) fn first_lines(count: usize) -> Vec<String> {
    let file = std::fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights-demo.ndjson.zst")).unwrap();
    BufReader::new(zstd::Decoder::new(file).unwrap()).lines().take(count).map(Result::unwrap).collect()
}

/// The slow-down of the demo: × 1.6, rounded half up, for three task types in six weeks of summer.
#[expect(clippy::cast_possible_truncation, reason = "durations are whole milliseconds")]
pub(crate) fn slow_down(flight: &mut Flight, task_type: usize) {
    let ticket = &mut flight.ticket;
    let slow = matches!(&ticket.fields[task_type], FieldValue::Text(text) if ["DEPLOY", "TRANSFORM", "EXECUTE"].contains(&text.as_str()));
    if flight.completed && slow && (SLOW_FROM..SLOW_TO).contains(&ticket.completed_at_ms) {
        ticket.actual = ((ticket.actual as i64 * 16 + 5) / 10) as f64;
    }
}

/// The year as a baseline of its first two months, and the tickets that completed later.
pub(crate) struct Year {
    pub(crate) spec: Spec,
    pub(crate) baseline: Baseline,
    pub(crate) later: Vec<Ticket>,
}

impl Year {
    /// Reads the year, each flight after `change`, which is given the place of the task type.
    pub(crate) fn read(change: fn(&mut Flight, usize)) -> Self {
        let spec = spec();
        let task_type = spec.field("task_type").unwrap();
        let mut builder = Builder::new(&spec, JANUARY, MARCH).unwrap();
        let mut later = Vec::new();
        flights(|mut flight| {
            change(&mut flight, task_type);
            match (flight.ticket.completed_at_ms < MARCH, flight.completed) {
                (true, true) => builder.push(&flight.ticket),
                (true, false) => builder.push_other(&flight.ticket),
                (false, true) => later.push(flight.ticket),
                (false, false) => {}
            }
        });
        let making = Making { version: 1, created_at_ms: 0, window_days: &[1, 3, 7], predecessor: None };
        Self { baseline: builder.build(&making).unwrap(), spec, later }
    }

    /// Hands every later ticket to `each`, with its number and what counts it into a slice.
    pub(crate) fn count(&self, mut each: impl FnMut(usize, &Ticket, &mut dyn FnMut(&mut Slice))) {
        let encoder = Encoder::new(&self.spec).unwrap();
        let names: Vec<&str> = self.spec.features.iter().map(|feature| feature.name.as_str()).collect();
        let counting = Counting::new(&encoder, &names, &self.spec.fingerprint(), &self.baseline).unwrap();
        let mut row = Row::default();
        for (number, ticket) in self.later.iter().enumerate() {
            encoder.encode(&ticket.fields, &mut row);
            let outcome = Outcome {
                completed_at_ms: ticket.completed_at_ms,
                actual: ticket.actual,
                predicted: ticket.predicted,
                predicted_by: 0,
                late: false,
            };
            each(number, ticket, &mut |slice| {
                counting.add(&encoder, &row, outcome, slice);
            });
        }
    }
}
