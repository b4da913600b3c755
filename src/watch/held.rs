//! Transactions that nobody ends: what stands behind them cannot be read, and nothing else tells.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::log::LogError;
use crate::threads;

/// A transaction's time-out (`transaction.timeout.ms`), and the time that the broker takes to notice it: one of ours is over by then.
const OURS_ARE_OVER: Duration = Duration::from_secs(20);

/// Where a partition was open at the last looks.
struct Open {
    stable: i64,
    end: i64,
    since: Instant,
}

/// The partitions in which a transaction was open when they were looked at.
#[derive(Default)]
pub(super) struct HeldUp(BTreeMap<u32, Open>);

impl HeldUp {
    /// A partition ends there, and can be read up to `stable`.
    pub(super) fn look(&mut self, partition: u32, stable: i64, end: i64) {
        if stable >= end {
            self.0.remove(&partition);
            return;
        }
        let now = threads::now();
        let open = self.0.entry(partition).or_insert(Open { stable, end, since: now });
        let since = if open.stable == stable { open.since } else { now };
        *open = Open { stable, end, since };
    }

    /// Looks at none but these any more.
    pub(super) fn keep(&mut self, is_ours: impl Fn(u32) -> bool) {
        self.0.retain(|partition, _| is_ours(*partition));
    }

    /// For how long nothing beyond the same offset can be read, at least; `None` where all can.
    pub(super) fn time(&self, partition: u32) -> Option<Duration> {
        self.0.get(&partition).map(|open| threads::since(open.since))
    }

    /// Returns what to say of a transaction of `topic` that is none of ours, if there is one.
    pub(super) fn trouble(&self, topic: &str) -> Option<LogError> {
        let (partition, open) = self.0.iter().find(|(_, open)| threads::since(open.since) >= OURS_ARE_OVER)?;
        Some(LogError::HeldUp { topic: topic.to_owned(), partition: *partition, stuck_at: open.stable, end: open.end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_is_open_for_a_while_is_trouble_and_one_after_the_other_is_not() {
        let mut held = HeldUp::default();
        held.look(0, 5, 9);
        held.look(1, 9, 9);
        assert!(held.time(0).is_some() && held.time(1).is_none() && held.trouble("t").is_none());
        let age = |held: &mut HeldUp| held.0.get_mut(&0).unwrap().since -= OURS_ARE_OVER;
        age(&mut held);
        held.look(0, 5, 12);
        let said = held.trouble("t").unwrap().to_string();
        assert!(said.starts_with("t[0] cannot be read past offset 5: a transaction hangs there (end is 12)"), "{said}");
        held.look(0, 10, 12);
        assert!(held.trouble("t").is_none(), "another one");
        age(&mut held);
        held.look(0, 12, 12);
        assert!(held.trouble("t").is_none() && held.time(0).is_none());
        held.look(0, 12, 14);
        held.keep(|partition| partition != 0);
        assert!(held.time(0).is_none());
    }
}
