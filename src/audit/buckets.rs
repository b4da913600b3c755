//! What one side holds, in 65,536 sums: where two sides have the same sums they hold the same, whatever the order.

use sha2::{Digest, Sha256};

/// How many buckets there are; a ticket's is the first 16 bits of [`Key`].
pub const BUCKETS: usize = 1 << 16;

/// What a ticket is known by: half a SHA-256 of its record key. Everything about one ticket is in one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u128);

impl Key {
    /// Returns the key of a ticket.
    #[must_use]
    pub fn of(record_key: &[u8]) -> Self {
        Self(half(&Sha256::digest(record_key)))
    }

    /// Returns the key that all dead letters without an id share that have this reason.
    #[must_use]
    pub fn of_no_id(reason: &str) -> Self {
        Self(half(&Sha256::new_with_prefix(b"\0no id: ").chain_update(reason).finalize()))
    }

    /// Returns its bucket.
    #[must_use]
    pub fn bucket(self) -> usize {
        usize::try_from(self.0 >> 112).expect("16 bits are an index")
    }

    /// H(id, `completed_at`).
    fn with(self, item: i64) -> u128 {
        half(&Sha256::new_with_prefix(self.0.to_le_bytes()).chain_update(item.to_le_bytes()).finalize())
    }
}

fn half(digest: &[u8]) -> u128 {
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(half)
}

/// Stands for a completion time in the sum of a dead letter, which has none.
const DEAD: i64 = i64::MIN;

/// Counts and sums of one side: 2 MB, however many tickets there are.
///
/// A bucket is (count, sum of H(id, `completed_at`) modulo 2^128). Two different multisets of one size have the same sum with a
/// chance of 2^-128 each.
#[derive(Clone, Debug)]
pub struct Buckets {
    sums: Vec<(u64, u128)>,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { sums: vec![(0, 0); BUCKETS] }
    }
}

impl Buckets {
    /// Adds a completion, or a dead letter (`None`).
    pub fn add(&mut self, key: Key, completed_at_ms: Option<i64>) {
        let (count, sum) = &mut self.sums[key.bucket()];
        *count += 1;
        *sum = sum.wrapping_add(key.with(completed_at_ms.unwrap_or(DEAD)));
    }

    /// Returns how much was added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.sums.iter().map(|(count, _)| count).sum()
    }

    /// Returns the buckets that differ from `other`'s, in groups: a group holds at most `room` items of both sides together, or is
    /// one bucket.
    #[must_use]
    pub fn unequal(&self, other: &Self, room: u64) -> Vec<Chosen> {
        let mut groups: Vec<Chosen> = Vec::new();
        let mut held = 0;
        for (bucket, (ours, theirs)) in self.sums.iter().zip(&other.sums).enumerate() {
            if ours == theirs {
                continue;
            }
            let items = ours.0 + theirs.0;
            if groups.is_empty() || held + items > room {
                groups.push(Chosen::none());
                held = 0;
            }
            held += items;
            if let Some(group) = groups.last_mut() {
                group.0[bucket] = true;
            }
        }
        groups
    }
}

/// Some of the buckets.
#[derive(Clone, Debug)]
pub struct Chosen(Box<[bool]>);

impl Chosen {
    fn none() -> Self {
        Self(vec![false; BUCKETS].into())
    }

    /// Returns all of them: for a log that is small enough to be held whole.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![true; BUCKETS].into())
    }

    /// Whether the key's bucket is one of them.
    #[must_use]
    pub fn has(&self, key: Key) -> bool {
        self.0[key.bucket()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(items: impl Iterator<Item = u32>) -> Buckets {
        let mut buckets = Buckets::default();
        items.for_each(|item| buckets.add(Key::of(&item.to_le_bytes()), Some(i64::from(item))));
        buckets
    }

    #[test]
    fn the_order_does_not_matter_and_each_item_does() {
        let all = side(0..10_000);
        assert!(all.unequal(&side((0..10_000).rev()), 1).is_empty());
        let without = side((0..10_000).filter(|item| *item != 77));
        let groups = all.unequal(&without, 1_000_000);
        assert_eq!(groups.len(), 1);
        assert!(groups[0].has(Key::of(&77_u32.to_le_bytes())));
        assert_eq!((all.count(), without.count()), (10_000, 9_999));
    }

    #[test]
    fn another_time_of_completion_is_another_item_in_the_same_bucket() {
        let key = Key::of(b"T");
        let [mut a, mut b] = [Buckets::default(), Buckets::default()];
        a.add(key, Some(1));
        b.add(key, Some(2));
        assert!(a.unequal(&b, 10)[0].has(key));
    }

    #[test]
    fn a_group_holds_no_more_than_there_is_room_for() {
        let groups = side(0..10_000).unequal(&Buckets::default(), 1_000);
        assert!((10..=11).contains(&groups.len()), "{}", groups.len());
        let each_once = (0..10_000_u32).all(|item| groups.iter().filter(|group| group.has(Key::of(&item.to_le_bytes()))).count() == 1);
        assert!(each_once);
    }
}
