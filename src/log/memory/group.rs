//! One consumer group: who sits in it, in which generation, with which partitions.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::log::Committed;

/// A group on one topic.
#[derive(Default)]
pub(super) struct Group {
    generation: u64,
    seats: BTreeMap<u64, Seat>,
    /// Since when the members are asked to give up what they hold.
    rebalancing: Option<Instant>,
    pub(super) committed: HashMap<u32, Committed>,
}

/// One member.
#[derive(Default)]
struct Seat {
    /// Has been part of a generation.
    seated: bool,
    /// Has heard of the present rebalance.
    rejoined: bool,
    /// Has been told of its assignment.
    announced: bool,
    assignment: Vec<u32>,
    /// When it last polled.
    heard: Option<Instant>,
    /// Next offset to be delivered, of the partitions that were started.
    positions: BTreeMap<u32, i64>,
}

/// What a member has to be told before it gets records.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is not in the group any more.
    Ousted,
    /// Give up everything; it counts as rejoined.
    GiveUp,
    /// Wait for the others.
    Wait,
    /// These are yours.
    Take(Vec<u32>),
    /// Nothing new: deliver.
    Deliver,
}

impl Group {
    pub(super) fn join(&mut self, member: u64, now: Instant) {
        self.seats.insert(member, Seat { heard: Some(now), ..Seat::default() });
        self.rebalance(now);
    }

    pub(super) fn leave(&mut self, member: u64, partitions: u32, now: Instant) {
        if self.seats.remove(&member).is_some() {
            self.rebalance(now);
            self.settle(partitions);
        }
    }

    /// Removes every member, as if all had been silent for too long.
    pub(super) fn oust_all(&mut self) {
        self.seats.clear();
        self.rebalancing = None;
        self.generation += 1;
    }

    fn rebalance(&mut self, now: Instant) {
        self.rebalancing.get_or_insert(now);
    }

    /// A member gave a sign of life.
    pub(super) fn hear(&mut self, member: u64, now: Instant) {
        if let Some(seat) = self.seats.get_mut(&member) {
            seat.heard = Some(now);
        }
    }

    /// Removes the members that gave none for longer than `patience`.
    pub(super) fn silence(&mut self, patience: Duration, partitions: u32, now: Instant) {
        let before = self.seats.len();
        self.seats.retain(|_, seat| seat.heard.is_none_or(|heard| now.saturating_duration_since(heard) <= patience));
        if self.seats.len() < before {
            self.rebalance(now);
            self.settle(partitions);
        }
    }

    /// Ends a rebalance that waits for members who stay silent, by removing them.
    pub(super) fn expire(&mut self, patience: Duration, partitions: u32, now: Instant) {
        if self.rebalancing.is_some_and(|since| now.duration_since(since) >= patience) {
            self.seats.retain(|_, seat| seat.rejoined);
            self.settle(partitions);
        }
    }

    /// When [`Group::expire`] has to be asked again.
    pub(super) fn expires_at(&self, patience: Duration) -> Option<Instant> {
        self.rebalancing.map(|since| since + patience)
    }

    /// Says what `member` has to be told next.
    pub(super) fn turn(&mut self, member: u64, partitions: u32) -> Turn {
        let rebalancing = self.rebalancing.is_some();
        let Some(seat) = self.seats.get_mut(&member) else { return Turn::Ousted };
        if rebalancing {
            if seat.rejoined {
                return Turn::Wait;
            }
            seat.rejoined = true;
            seat.positions.clear();
            self.settle(partitions);
            return Turn::GiveUp;
        }
        if !seat.announced {
            seat.announced = true;
            return Turn::Take(seat.assignment.clone());
        }
        Turn::Deliver
    }

    /// Starts the next generation once everyone has rejoined: contiguous ranges, in order of joining.
    fn settle(&mut self, partitions: u32) {
        if !self.seats.values().all(|seat| seat.rejoined) {
            return;
        }
        self.rebalancing = None;
        self.generation += 1;
        let members = u32::try_from(self.seats.len()).unwrap_or(u32::MAX);
        let mut next = 0;
        for (seat, index) in self.seats.values_mut().zip(0..) {
            let share = partitions / members + u32::from(index < partitions % members);
            *seat = Seat { seated: true, assignment: (next..next + share).collect(), heard: seat.heard, ..Seat::default() };
            next += share;
        }
    }

    pub(super) fn generation_of(&self, member: u64) -> Option<u64> {
        self.seats.get(&member).filter(|seat| seat.seated).map(|_| self.generation)
    }

    /// Whether that member of that generation may commit.
    pub(super) fn admits(&self, member: u64, generation: u64) -> bool {
        self.generation == generation && self.generation_of(member).is_some()
    }

    pub(super) fn start(&mut self, member: u64, partition: u32, offset: i64) {
        if let Some(seat) = self.seats.get_mut(&member)
            && seat.assignment.contains(&partition)
        {
            seat.positions.insert(partition, offset);
        }
    }

    /// The started partitions of `member`, to be read and moved.
    pub(super) fn positions(&mut self, member: u64) -> Option<&mut BTreeMap<u32, i64>> {
        self.seats.get_mut(&member).map(|seat| &mut seat.positions)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// The next offset that the group has to see of `partition`: delivered if somebody reads it, else committed.
    pub(super) fn seen(&self, partition: u32) -> i64 {
        let delivered = self.seats.values().find_map(|seat| seat.positions.get(&partition)).copied();
        delivered.unwrap_or_else(|| self.kept_from(partition))
    }

    /// The first offset that the group may still ask for.
    pub(super) fn kept_from(&self, partition: u32) -> i64 {
        self.committed.get(&partition).map_or(0, |committed| committed.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn ranges_are_contiguous_and_the_first_members_get_the_rest() {
        let (mut group, now) = (Group::default(), Instant::now());
        for member in 1..=3 {
            group.join(member, now);
        }
        for member in 1..=3 {
            assert_eq!(group.turn(member, 7), Turn::GiveUp);
        }
        let shares: Vec<_> = (1..=3).map(|member| group.turn(member, 7)).collect();
        assert_eq!(shares, [Turn::Take(vec![0, 1, 2]), Turn::Take(vec![3, 4]), Turn::Take(vec![5, 6])]);
        assert_eq!(group.turn(1, 7), Turn::Deliver);
    }

    #[test]
    fn the_old_generation_may_commit_until_everyone_has_rejoined() {
        let (mut group, now) = (Group::default(), Instant::now());
        group.join(1, now);
        group.turn(1, 1);
        let old = group.generation_of(1).unwrap();
        group.join(2, now);
        assert_eq!(group.turn(2, 1), Turn::GiveUp);
        assert_eq!(group.turn(2, 1), Turn::Wait);
        assert!(group.admits(1, old));
        assert_eq!(group.turn(1, 1), Turn::GiveUp);
        assert!(!group.admits(1, old));
        assert_eq!(group.turn(2, 1), Turn::Take(vec![]));
    }

    #[test]
    fn a_member_without_a_sign_of_life_loses_its_seat_to_the_others() {
        let (mut group, now) = (Group::default(), Instant::now());
        for member in 1..=2 {
            group.join(member, now);
        }
        for member in 1..=2 {
            group.turn(member, 1);
        }
        assert_eq!([group.turn(1, 1), group.turn(2, 1)], [Turn::Take(vec![0]), Turn::Take(vec![])]);
        let old = group.generation_of(1).unwrap();
        group.hear(2, now + PATIENCE);
        group.silence(PATIENCE, 1, now + PATIENCE);
        assert!(group.admits(1, old));
        group.silence(PATIENCE, 1, now + PATIENCE * 3 / 2);
        assert!(!group.admits(1, old));
        assert_eq!(group.turn(2, 1), Turn::GiveUp);
        assert_eq!(group.turn(2, 1), Turn::Take(vec![0]));
        assert_eq!(group.turn(1, 1), Turn::Ousted);
    }

    #[test]
    fn a_silent_member_is_ousted_after_the_patience() {
        let (mut group, now) = (Group::default(), Instant::now());
        group.join(1, now);
        group.turn(1, 1);
        let old = group.generation_of(1).unwrap();
        group.join(2, now);
        group.turn(2, 1);
        group.expire(PATIENCE, 1, now + PATIENCE / 2);
        assert!(group.admits(1, old));
        group.expire(PATIENCE, 1, now + PATIENCE);
        assert!(!group.admits(1, old));
        assert_eq!(group.turn(1, 1), Turn::Ousted);
        assert_eq!(group.turn(2, 1), Turn::Take(vec![0]));
    }
}
