//! A map whose clones share what they don't change.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use rustc_hash::{FxBuildHasher, FxHashMap};

/// A power of two. Cloning costs one reference count per shard, changing a shared map copies one shard.
const SHARDS: usize = 128;

/// A hash map in shards behind reference counts: a table of 100,000 entries is cloned in microseconds, and a change copies
/// less than a thousand of them. Look-ups cost one more indirection than a plain map's.
#[derive(Clone, Debug)]
pub(crate) struct Sharded<K, V> {
    shards: Arc<[Arc<FxHashMap<K, V>>]>,
    len: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Sharded<K, V> {
    pub(crate) fn new() -> Self {
        let empty = Arc::new(FxHashMap::default());
        Self { shards: (0..SHARDS).map(|_| empty.clone()).collect(), len: 0 }
    }

    /// The hash is mixed once more, so that the shard says nothing about the slots that hashbrown chooses inside it.
    #[inline]
    fn shard_of(key: &K) -> usize {
        const BITS: u32 = SHARDS.trailing_zeros();
        (FxBuildHasher.hash_one(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS)) as usize
    }

    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.shards[Self::shard_of(key)].get(key)
    }

    /// The shard of `key`, owned by this map alone.
    fn shard_mut(&mut self, key: &K) -> &mut FxHashMap<K, V> {
        let index = Self::shard_of(key);
        if Arc::get_mut(&mut self.shards).is_none() {
            self.shards = self.shards.iter().cloned().collect();
        }
        let shards = Arc::get_mut(&mut self.shards).expect("the list of shards was just copied");
        Arc::make_mut(&mut shards[index])
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.get(key)?;
        self.shard_mut(key).get_mut(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = self.shard_mut(&key).insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let old = self.shard_mut(key).remove(key);
        self.len -= usize::from(old.is_some());
        old
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_do_not_see_each_other() {
        let mut first: Sharded<u32, String> = Sharded::new();
        for n in 0..1000 {
            first.insert(n, n.to_string());
        }
        let mut second = first.clone();
        second.insert(7, "changed".into());
        second.remove(&8);
        assert_eq!((first.len(), second.len()), (1000, 999));
        assert_eq!(first.get(&7).map(String::as_str), Some("7"));
        assert_eq!(first.get(&8).map(String::as_str), Some("8"));
        assert_eq!(second.get(&7).map(String::as_str), Some("changed"));
        assert_eq!(second.get(&8), None);
        if let Some(value) = second.get_mut(&9) {
            value.push('!');
        }
        assert_eq!((first.get(&9).map(String::as_str), second.get(&9).map(String::as_str)), (Some("9"), Some("9!")));
    }

    /// With a weak hash all keys may fall into one shard: then a change would copy everything.
    #[test]
    fn small_integers_and_addresses_spread() {
        let mut map: Sharded<std::net::IpAddr, ()> = Sharded::new();
        for n in 0..12_800_u32 {
            map.insert(std::net::IpAddr::from((0x0a00_0000 + n).to_be_bytes()), ());
        }
        let fullest = map.shards.iter().map(|s| s.len()).max().unwrap_or(0);
        assert!(fullest < 400, "the fullest shard holds {fullest} of 12,800");
    }
}
