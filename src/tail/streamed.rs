//! The keys that the stream has brought since a history began: 16 bytes each, and no more than a bound.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};

/// 1,000,000 keys are about 32 MB. The library's own tests have few tickets, and are to meet the bound.
const MOST: usize = if cfg!(test) { 20 } else { 1_000_000 };

/// Returns what a document that cannot be used is remembered by: its ticket's key, or, without one, its `_id`, behind a byte that no key has.
pub(crate) fn unusable<'k>(key: Option<Cow<'k, [u8]>>, document: Option<&str>) -> Option<Cow<'k, [u8]>> {
    key.or_else(|| document.map(|id| [&[0xff], id.as_bytes()].concat().into()))
}

/// Returns the key of one completion of a ticket: what is remembered when the collection is read again.
pub(crate) fn completion(key: &[u8], completed_at_ms: i64) -> Vec<u8> {
    [key, &completed_at_ms.to_be_bytes()].concat()
}

/// Hashes of keys.
#[derive(Debug, Default)]
pub(crate) struct Streamed {
    keys: HashSet<u128>,
    /// Those of the events at hand for which there was no room, or that were looked up.
    at_hand: HashSet<u128>,
    forgotten: bool,
}

impl Streamed {
    /// Remembers a key, while there is room.
    pub(crate) fn insert(&mut self, key: &[u8]) {
        if self.keys.len() >= MOST {
            if !self.keys.contains(&hash(key)) {
                self.forgotten = true;
                self.at_hand.insert(hash(key));
            }
            return;
        }
        self.keys.insert(hash(key));
    }

    /// Remembers a key that was looked up for the events at hand.
    pub(crate) fn insert_at_hand(&mut self, key: &[u8]) {
        self.at_hand.insert(hash(key));
    }

    /// Other events are at hand now.
    pub(crate) fn forget_at_hand(&mut self) {
        self.at_hand.clear();
    }

    /// Whether the key is remembered.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let hash = hash(key);
        self.keys.contains(&hash) || self.at_hand.contains(&hash)
    }

    /// Whether there was no room for some key: then what is not remembered must be looked up in the log.
    pub(crate) fn has_forgotten(&self) -> bool {
        self.forgotten
    }
}

fn hash(key: &[u8]) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(salt);
        hasher.write(key);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_bound_a_key_is_remembered_while_its_events_are_at_hand() {
        let mut streamed = Streamed::default();
        (0..MOST).for_each(|number| streamed.insert(&number.to_le_bytes()));
        assert!(!streamed.has_forgotten());
        streamed.insert(b"one too many");
        streamed.insert_at_hand(b"looked up");
        assert!(streamed.has_forgotten() && streamed.contains(b"one too many") && streamed.contains(b"looked up"));
        streamed.forget_at_hand();
        assert!(!streamed.contains(b"one too many") && !streamed.contains(b"looked up") && streamed.contains(&0_usize.to_le_bytes()));
    }

    #[test]
    fn what_has_no_id_is_remembered_by_its_document() {
        assert_eq!(unusable(Some(b"T".as_slice().into()), Some("7")).as_deref(), Some(b"T".as_slice()));
        assert_eq!(unusable(None, Some("7")), unusable(None, Some("7")));
        assert_ne!(unusable(None, Some("7")), unusable(None, Some("8")));
        assert_ne!(unusable(None, Some("7")), unusable(Some(b"7".as_slice().into()), None));
        assert_eq!(unusable(None, None), None);
    }

    #[test]
    fn a_key_is_remembered_and_another_is_not() {
        let mut streamed = Streamed::default();
        streamed.insert(b"a");
        assert!(streamed.contains(b"a"));
        assert!(!streamed.contains(b"b"));
        assert!(!streamed.has_forgotten());
    }
}
