//! glibc's allocator in a process that goes on for months: what is no longer used goes back to the system.
//!
//! By default every thread gets an arena of its own (up to eight a core), and the size from which a piece is mapped by itself grows
//! up to 32 MB with what is freed (mallopt(3), "dynamic mmap threshold"). Either way what a burst needed stays resident between the
//! pieces that live on, and grows for hours. `script/chaos soak` looks at it.

use std::collections::BTreeMap;

/// Variable of the environment, by which an operator says it, `mallopt`'s parameter, and our value.
const SETTINGS: [(&str, libc::c_int, libc::c_int); 3] = [
    ("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, 2),
    // glibc's own initial values: to set them is to keep them.
    ("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, 128 * 1024),
    ("MALLOC_TRIM_THRESHOLD_", libc::M_TRIM_THRESHOLD, 128 * 1024),
];
/// The newer way to say all of them.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Sets what `environment` does not say. To be called before there are threads.
#[expect(unsafe_code, reason = "the C library has no other interface for it")]
pub(super) fn give_back(environment: &BTreeMap<String, String>) {
    for (_, parameter, value) in unsaid(environment) {
        // SAFETY: it takes two numbers and touches no memory of ours; before threads exist nothing allocates at the same time.
        let is_taken = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(is_taken, 1, "mallopt({parameter}, {value})");
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
