//! The flights as tickets, in this process.

use std::io::BufRead;

use tidemark::baseline::Baseline;
use tidemark::baseline::builder::{Builder, Making};
use tidemark::spec::Spec;
use tidemark::tail::normalise::{Normalised, Normaliser, Unreadable};
use tidemark::ticket::{Ticket, TicketId};

/// 2013-01-01 and 2013-03-01, ms since 1970.
const BASELINE_MS: [i64; 2] = [1_356_998_400_000, 1_362_096_000_000];

/// Returns the spec of the execution tickets.
pub(crate) fn spec() -> Spec {
    Spec::from_toml(include_str!("../../config/execution-tickets.toml")).expect("the spec is in the repository")
}

/// Returns lines of the demo's file.
pub(crate) fn lines() -> impl Iterator<Item = String> {
    let file = std::fs::File::open("data/flights-demo.ndjson.zst").expect("the flights are in the repository");
    let mut decoder = zstd::Decoder::new(file).expect("zstd");
    decoder.window_log_max(31).expect("zstd");
    std::io::BufReader::new(decoder).lines().map(|line| line.expect("UTF-8"))
}

/// Returns every completed flight as a ticket.
pub(crate) fn tickets() -> Vec<Ticket> {
    let (normaliser, mut unreadable) = (Normaliser::new(&spec()), Unreadable::default());
    lines()
        .zip(1..)
        .filter_map(|(line, number)| match normaliser.from_json(line.as_bytes(), number, &mut unreadable) {
            Normalised::Completed(ticket) => Some(ticket),
            Normalised::Other(_) | Normalised::Dead(_) => None,
        })
        .collect()
}

/// Returns the baseline of January and February.
pub(crate) fn baseline(tickets: &[Ticket]) -> Baseline {
    let [from, to] = BASELINE_MS;
    let mut builder = Builder::new(&spec(), from, to).expect("59 days");
    tickets.iter().for_each(|ticket| builder.push(ticket));
    let making = Making { version: 1, created_at_ms: 0, window_days: &[1, 3, 7], predecessor: None };
    builder.build(&making).expect("the flights make a baseline")
}

/// Returns `count` tickets, evenly spread over `[from_ms, to_ms)`, with ids of their own: the flights over and over.
pub(crate) fn spread(tickets: &[Ticket], count: usize, from_ms: i64, to_ms: i64) -> impl Iterator<Item = Ticket> {
    let step = (to_ms - from_ms) as f64 / count as f64;
    (0..count).map(move |n| {
        let mut ticket = tickets[n % tickets.len()].clone();
        ticket.id = TicketId::from_text(&format!("{from_ms}-{n}"));
        ticket.completed_at_ms = from_ms + (n as f64 * step) as i64;
        ticket.event_at_ms = ticket.completed_at_ms;
        ticket
    })
}
