//! Lines the partitions' summaries up, mark by mark.

use std::collections::{BTreeMap, VecDeque};

use crate::summary::Summary;
use crate::ticket::Mark;

/// Summaries that wait for their like of the other partitions.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    partitions: BTreeMap<u32, Waiting>,
    held: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    /// One entry a mark, oldest first; all but the last are whole.
    marks: VecDeque<Group>,
    /// Number of the newest mark that was taken whole.
    newest: Option<u64>,
}

#[derive(Debug)]
struct Group {
    records: Vec<Summary>,
    whole: bool,
}

impl Group {
    fn mark(&self) -> Mark {
        self.records[0].mark
    }
}

/// What the queue gives next.
#[derive(Debug, PartialEq)]
pub(crate) struct Step {
    /// The mark.
    pub(crate) mark: Mark,
    /// Summaries up to it, in order of partition; several of one partition in the order of the log.
    pub(crate) summaries: Vec<Summary>,
    /// Every partition is here. Otherwise some begin later: their first mark is not reached, and there is no verdict.
    pub(crate) complete: bool,
}

impl Queue {
    /// Takes a summary, in the order of the log. What was taken before is passed over.
    pub(crate) fn offer(&mut self, summary: Summary) {
        let waiting = self.partitions.entry(summary.partition).or_default();
        if waiting.newest.is_some_and(|newest| summary.mark.number <= newest) {
            return;
        }
        self.held += 1;
        let whole = !summary.more;
        let number = summary.mark.number;
        match waiting.marks.back_mut() {
            Some(last) if !last.whole && last.mark().number == number => {
                last.records.push(summary);
                last.whole = whole;
            }
            _ => waiting.marks.push_back(Group { records: vec![summary], whole }),
        }
        if whole {
            waiting.newest = Some(number);
        }
    }

    /// Returns the number of summaries held.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Returns the number of marks held of one partition.
    pub(crate) fn held_of(&self, partition: u32) -> usize {
        self.partitions.get(&partition).map_or(0, |waiting| waiting.marks.len())
    }

    /// Returns the mark that [`Queue::next`] would give.
    pub(crate) fn peek(&self) -> Option<Mark> {
        self.lowest()
    }

    /// Returns the next mark with the summaries of all partitions, as soon as all are here.
    ///
    /// The number of partitions is that of the newest mark at a head: a new partition count begins at a mark.
    pub(crate) fn next(&mut self) -> Option<Step> {
        let mark = self.lowest()?;
        let mut complete = true;
        let mut summaries = Vec::new();
        for partition in 0..mark.partitions {
            let waiting = self.partitions.get_mut(&partition).expect("lowest() saw a head of each partition");
            if waiting.marks.front().is_some_and(|group| group.mark().number == mark.number) {
                summaries.extend(waiting.marks.pop_front().expect("it was there").records);
            } else {
                complete = false;
            }
        }
        for (_, waiting) in self.partitions.range_mut(mark.partitions..) {
            // Partitions of a count that is no longer in force.
            while waiting.marks.front().is_some_and(|group| group.mark().number <= mark.number) {
                summaries.extend(waiting.marks.pop_front().expect("it was there").records);
            }
        }
        self.held -= summaries.len();
        Some(Step { mark, summaries, complete })
    }

    /// Returns the lowest mark at a head, once every partition of the newest head has one.
    fn lowest(&self) -> Option<Mark> {
        let heads = || self.partitions.values().filter_map(|waiting| waiting.marks.front());
        let newest = heads().map(Group::mark).max_by_key(|mark| mark.number)?;
        let mut lowest: Option<Mark> = None;
        for partition in 0..newest.partitions {
            let group = self.partitions.get(&partition)?.marks.front().filter(|group| group.whole)?;
            if lowest.is_none_or(|low| group.mark().number < low.number) {
                lowest = Some(group.mark());
            }
        }
        lowest
    }

    /// Returns the partitions that the others wait for, with the mark they wait at.
    pub(crate) fn held_up_by(&self) -> Vec<u32> {
        let heads = self.partitions.values().filter_map(|waiting| waiting.marks.front());
        let Some(newest) = heads.map(Group::mark).max_by_key(|mark| mark.number) else { return vec![] };
        let missing =
            |partition: &u32| self.partitions.get(partition).and_then(|waiting| waiting.marks.front()).is_none_or(|group| !group.whole);
        (0..newest.partitions).filter(missing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(partition: u32, number: u64, partitions: u32) -> Summary {
        Summary {
            spec: "s".to_owned(),
            fingerprint: "f".to_owned(),
            version: None,
            partition,
            sequence: number * 10,
            mark: Mark { number, end_ms: i64::try_from(number).unwrap() * 1000, partitions, baseline: None },
            slices: vec![],
            controls: vec![],
            incomplete: false,
            more: false,
        }
    }

    fn steps(queue: &mut Queue) -> Vec<(u64, usize, bool)> {
        std::iter::from_fn(|| queue.next()).map(|step| (step.mark.number, step.summaries.len(), step.complete)).collect()
    }

    #[test]
    fn a_mark_comes_when_every_partition_is_there() {
        let mut queue = Queue::default();
        queue.offer(summary(1, 1, 2));
        queue.offer(summary(1, 2, 2));
        assert_eq!(queue.next(), None);
        assert_eq!(queue.held_up_by(), [0]);
        queue.offer(summary(0, 1, 2));
        assert_eq!(steps(&mut queue), [(1, 2, true)]);
        queue.offer(summary(0, 2, 2));
        assert_eq!(steps(&mut queue), [(2, 2, true)]);
        assert_eq!(queue.held(), 0);
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let mut queue = Queue::default();
        for record in [summary(2, 1, 3), summary(0, 1, 3), summary(0, 2, 3), summary(1, 1, 3)] {
            queue.offer(record);
        }
        let partitions: Vec<u32> = queue.next().unwrap().summaries.iter().map(|s| s.partition).collect();
        assert_eq!(partitions, [0, 1, 2]);
    }

    #[test]
    fn what_was_taken_before_is_passed_over() {
        let mut queue = Queue::default();
        for record in [summary(0, 1, 1), summary(0, 2, 1), summary(0, 1, 1), summary(0, 2, 1)] {
            queue.offer(record);
        }
        assert_eq!(steps(&mut queue), [(1, 1, true), (2, 1, true)]);
        queue.offer(summary(0, 2, 1));
        assert_eq!(queue.held(), 0);
    }

    #[test]
    fn several_records_of_one_mark_count_as_one() {
        let mut queue = Queue::default();
        queue.offer(Summary { more: true, ..summary(0, 1, 1) });
        assert_eq!(queue.next(), None);
        queue.offer(summary(0, 1, 1));
        assert_eq!(steps(&mut queue), [(1, 2, true)]);
    }

    #[test]
    fn a_partition_that_begins_later_gives_marks_without_a_verdict_until_then() {
        let mut queue = Queue::default();
        for record in [summary(0, 4, 2), summary(0, 5, 2), summary(0, 6, 2), summary(1, 6, 2)] {
            queue.offer(record);
        }
        assert_eq!(steps(&mut queue), [(4, 1, false), (5, 1, false), (6, 2, true)]);
    }

    #[test]
    fn a_new_number_of_partitions_begins_at_a_mark() {
        let mut queue = Queue::default();
        for record in [summary(0, 1, 1), summary(0, 2, 3), summary(2, 2, 3), summary(1, 2, 3), summary(0, 3, 1)] {
            queue.offer(record);
        }
        assert_eq!(steps(&mut queue), [(1, 1, true), (2, 3, true), (3, 1, true)]);
    }
}
