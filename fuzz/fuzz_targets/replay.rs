//! Any bytes as a file of tickets: lines, plain or packed, or Parquet. No panic that gets out, and reading ends.
#![no_main]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use tidemark::tail::replay::{Replay, fingerprint};
use tidemark_fuzz::SPEC;

static HOOK: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    // The decoder of Parquet panics, and its caller catches that: what counts is what gets out.
    HOOK.call_once(|| std::panic::set_hook(Box::new(|told| eprintln!("{told}"))));
    let file = std::env::temp_dir().join(format!("tidemark-fuzz-{}", std::process::id()));
    std::fs::write(&file, bytes).expect("the place takes a file");
    let read = catch_unwind(AssertUnwindSafe(|| {
        let Ok(replay) = Replay::open(&file, &SPEC) else { return };
        let mut rows = 0_u64;
        for row in replay {
            let Ok(row) = row else { break };
            assert!(row.number > rows, "rows are numbered in order");
            rows = row.number;
        }
        let _identity = fingerprint(&file);
    }));
    drop(std::fs::remove_file(&file));
    if read.is_err() {
        std::process::abort();
    }
});
