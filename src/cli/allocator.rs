//! glibc's allocator in a process that goes on for months: what is no longer used goes back to the system.
//!
//! By default every thread gets an arena of its own (up to eight a core), and the size from which a piece is mapped by itself grows
//! up to 32 MB with what is freed (mallopt(3), "dynamic mmap threshold"). Either way what a burst needed stays resident between the
//! pieces that live on, and grows for hours. By itself glibc gives back only what is free at a heap's end; so whole pages that are free
//! between pieces are given back now and then (malloc_trim(3)). `script/chaos soak` looks at it.

use std::collections::BTreeMap;
use std::time::Duration;

/// Variable of the environment, by which an operator says it, `mallopt`'s parameter, and our value.
const SETTINGS: [(&str, libc::c_int, libc::c_int); 3] = [
    ("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, 2),
    // glibc's own initial values: to set them is to keep them.
    ("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, 128 * 1024),
    ("MALLOC_TRIM_THRESHOLD_", libc::M_TRIM_THRESHOLD, 128 * 1024),
];
/// The newer way to say all of them.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// How often free pages are given back.
const EVERY: Duration = Duration::from_mins(1);

/// Sets what `environment` does not say, and returns whether it leaves it to us to [`give_back`]. To be called before there are threads.
#[expect(unsafe_code, reason = "the C library has no other interface for it")]
pub(super) fn set(environment: &BTreeMap<String, String>) -> bool {
    for (_, parameter, value) in unsaid(environment) {
        // SAFETY: it takes two numbers and touches no memory of ours; before threads exist nothing allocates at the same time.
        let is_taken = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(is_taken, 1, "mallopt({parameter}, {value})");
    }
    unsaid(environment).any(|(_, parameter, _)| parameter == libc::M_TRIM_THRESHOLD)
}

/// Gives free pages back from now on.
pub(super) fn give_back() {
    if let Err(error) = std::thread::Builder::new().name("give-back".to_owned()).spawn(now_and_then) {
        tracing::warn!(%error, "memory is given back less often: no thread can be had");
    }
}

#[expect(unsafe_code, reason = "the C library has no other interface for it")]
fn now_and_then() -> ! {
    loop {
        std::thread::sleep(EVERY);
        // SAFETY: it takes a number, and locks each arena while it looks at it, as every call of the allocator does.
        unsafe { libc::malloc_trim(0) };
    }
}

fn unsaid(environment: &BTreeMap<String, String>) -> impl Iterator<Item = (&'static str, libc::c_int, libc::c_int)> {
    let tunes = environment.get(TUNABLES).is_some_and(|tunables| tunables.contains("glibc.malloc."));
    SETTINGS.into_iter().filter(move |(variable, ..)| !tunes && !environment.contains_key(*variable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_says_stays() {
        let said = |pairs: &[(&str, &str)]| {
            let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            unsaid(&environment).map(|(variable, ..)| variable).collect::<Vec<_>>()
        };
        assert_eq!(said(&[]).len(), 3);
        assert_eq!(said(&[("MALLOC_ARENA_MAX", "8")]), ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"]);
        assert_eq!(said(&[(TUNABLES, "glibc.malloc.arena_max=8")]).len(), 0);
        assert_eq!(said(&[(TUNABLES, "glibc.pthread.rseq=0")]).len(), 3);
    }
}
