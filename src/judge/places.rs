//! Where in `summaries` the marks stand: from which offset a successor has to read to have the windows again.

use std::collections::VecDeque;

use crate::clock::HOUR_MS;
use crate::ticket::Mark;

/// First offset of each mark that the windows still need.
#[derive(Debug)]
pub(crate) struct Places {
    /// Marks in order, with the first offset at which a summary of each was met.
    marks: VecDeque<(Mark, i64)>,
    keep_ms: i64,
    last: Option<Mark>,
}

impl Places {
    /// Keeps marks for `keep_ms`, and for as long again as slices are counted before their mark: `early_ms`, and the hour by
    /// which a ticket may be ahead of its time.
    pub(crate) fn new(keep_ms: i64, early_ms: i64) -> Self {
        Self { marks: VecDeque::new(), keep_ms: keep_ms + early_ms + HOUR_MS, last: None }
    }

    /// A summary of a mark was met at an offset. Only the first of a mark counts.
    pub(crate) fn saw(&mut self, mark: Mark, offset: i64) {
        if self.marks.back().is_none_or(|(newest, _)| newest.number < mark.number) {
            self.marks.push_back((mark, offset));
        }
    }

    /// The windows have moved on to this mark.
    pub(crate) fn passed(&mut self, mark: Mark) {
        self.last = Some(mark);
        while self.marks.front().is_some_and(|(oldest, _)| oldest.end_ms < mark.end_ms - self.keep_ms && oldest.number < mark.number) {
            self.marks.pop_front();
        }
    }

    /// Returns the last mark that was passed.
    pub(crate) fn last(&self) -> Option<Mark> {
        self.last
    }

    /// Returns the offset from which a successor has to read.
    pub(crate) fn restore_offset(&self) -> Option<i64> {
        self.marks.front().map(|(_, offset)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u64) -> Mark {
        Mark { number, end_ms: i64::try_from(number).unwrap() * HOUR_MS, partitions: 2, baseline: None }
    }

    #[test]
    fn a_successor_reads_from_the_first_summary_of_the_oldest_mark_that_counts() {
        let mut places = Places::new(10 * HOUR_MS, HOUR_MS);
        for number in 1..=40 {
            for partition in 0..2 {
                places.saw(mark(number), i64::try_from(number).unwrap() * 10 + partition);
            }
            places.passed(mark(number));
        }
        assert_eq!(places.restore_offset(), Some(280));
        assert_eq!(places.last().unwrap().number, 40);
    }
}
