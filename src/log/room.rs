//! How much goes into one transaction.

use std::time::Duration;

/// A transaction that took longer shows a log that is slow: the next is not larger.
const UNHURRIED: Duration = Duration::from_secs(1);

/// How many items go into one transaction: halved when one fails (a log that is too slow for it within the transaction's time would fail
/// it for ever), doubled after each that passes soon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    items: usize,
    most: usize,
}

impl Room {
    /// Room for `most` items, now and ever; at least for one.
    pub(crate) fn new(most: usize) -> Self {
        Self { items: most.max(1), most: most.max(1) }
    }

    /// Returns how many go into the next transaction, at most.
    pub(crate) fn items(self) -> usize {
        self.items
    }

    /// A transaction of `items` failed.
    pub(crate) fn failed(&mut self, items: usize) {
        self.items = self.items.min(items).div_ceil(2).max(1);
    }

    /// A transaction of `items` is more than the log takes, and so would all be that are as large.
    pub(crate) fn is_too_large(&mut self, items: usize) {
        self.failed(items);
        self.most = self.items;
    }

    /// A transaction has passed.
    pub(crate) fn passed(&mut self, took: Duration) {
        if took <= UNHURRIED {
            self.items = self.items.saturating_mul(2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_halved_by_failures_and_doubled_by_what_passes_soon() {
        let mut room = Room::new(100);
        room.failed(7);
        assert_eq!(room.items(), 4);
        room.failed(usize::MAX);
        room.failed(usize::MAX);
        room.failed(usize::MAX);
        assert_eq!(room.items(), 1);
        room.passed(Duration::from_secs(2));
        assert_eq!(room.items(), 1, "it took long");
        (0..9).for_each(|_| room.passed(Duration::from_millis(5)));
        assert_eq!(room.items(), 100);
    }

    #[test]
    fn what_the_log_does_not_take_is_not_tried_again() {
        let mut room = Room::new(100);
        room.is_too_large(64);
        (0..9).for_each(|_| room.passed(Duration::ZERO));
        assert_eq!(room.items(), 32);
    }
}
