//! The keys that the stream has brought since a history began: 16 bytes each, and no more than a bound.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};

/// 1,000,000 keys are about 32 MB.
const MOST: usize = 1_000_000;

/// Returns the key of one completion of a ticket: what is remembered when the collection is read again.
pub(crate) fn completion(key: &[u8], completed_at_ms: i64) -> Vec<u8> {
    [key, &completed_at_ms.to_be_bytes()].concat()
}

/// Hashes of keys.
#[derive(Debug, Default)]
pub(crate) struct Streamed {
    keys: HashSet<u128>,
    forgotten: bool,
}

impl Streamed {
    /// Remembers a key, while there is room.
    pub(crate) fn insert(&mut self, key: &[u8]) {
        if self.keys.len() >= MOST {
            self.forgotten = self.forgotten || !self.keys.contains(&hash(key));
            return;
        }
        self.keys.insert(hash(key));
    }

    /// Remembers a key that was looked up, beyond the bound: the caller looks up few.
    pub(crate) fn insert_anyway(&mut self, key: &[u8]) {
        self.keys.insert(hash(key));
    }

    /// Whether the key is remembered.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.keys.contains(&hash(key))
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
    fn a_key_is_remembered_and_another_is_not() {
        let mut streamed = Streamed::default();
        streamed.insert(b"a");
        assert!(streamed.contains(b"a"));
        assert!(!streamed.contains(b"b"));
        assert!(!streamed.has_forgotten());
    }
}
