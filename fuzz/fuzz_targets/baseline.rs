//! Any bytes as a baseline and, after an empty line, a summary: what is accepted as the spec's counts and is judged without a panic.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tidemark::baseline::Baseline;
use tidemark::check::Counter;
use tidemark::config::Config;
use tidemark::drift::look::look;
use tidemark::summary::{Slice, Summary};
use tidemark::tail::normalise::{Normalised, Normaliser, Unreadable};
use tidemark::ticket::Ticket;
use tidemark_fuzz::{SPEC, there_and_back};

const HOUR_MS: i64 = 3_600_000;

static TICKETS: LazyLock<Vec<Ticket>> = LazyLock::new(|| {
    let normaliser = Normaliser::new(&SPEC);
    let lines = [
        r#"{"ticket_id": "a", "status": "COMPLETED", "task_type": "BUILD", "risk_band": "high", "completed_at": 1362898861000, "actual_duration_ms": 60000, "estimated_duration_ms": 50000, "predicted_duration_ms": 55000, "retry_count": 1}"#,
        r#"{"ticket_id": "b", "status": "COMPLETED", "completed_at": 1362898862000, "actual_duration_ms": 31000000000, "retry_count": -7}"#,
    ];
    let read = |line: &str| match normaliser.from_json(line.as_bytes(), 1, &mut Unreadable::default()) {
        Normalised::Completed(ticket) => ticket,
        other => panic!("a ticket: {other:?}"),
    };
    lines.into_iter().map(read).collect()
});

fuzz_target!(|bytes: &[u8]| {
    let cut = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap_or(bytes.len());
    let Some(mut baseline) = there_and_back::<Baseline>(&bytes[..cut]) else { return };
    // What a reader would pass over is of no interest here.
    (baseline.spec, baseline.fingerprint) = (SPEC.name.clone(), SPEC.fingerprint());
    let Ok(mut counter) = Counter::new(&SPEC, &baseline, HOUR_MS, (0, i64::MAX)) else { return };
    TICKETS.iter().for_each(|ticket| counter.push(ticket));
    let mut window = Slice::default();
    counter.slices().iter().for_each(|slice| window.add(slice));
    let rules = Config::default().judge;
    let _seen = look(&baseline, &SPEC, &window, 1, &rules).bare_level(&rules);
    if let Ok(summary) = serde_json::from_slice::<Summary>(&bytes[(cut + 2).min(bytes.len())..]) {
        for slice in &summary.slices {
            let _seen = look(&baseline, &SPEC, slice, 7, &rules).bare_level(&rules);
        }
    }
});
