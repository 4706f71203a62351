//! The ids of records, which a denied client sees as `x-sluice-id`.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

/// Names one connection or request: 16 hexadecimal digits, unique within a process and unlikely to recur in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordId(u64);

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for RecordId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bytes = self.0.to_be_bytes();
        let half = |place: usize| if place.is_multiple_of(2) { bytes[place / 2] >> 4 } else { bytes[place / 2] & 0xf };
        let text: [u8; 16] = std::array::from_fn(|place| DIGITS[usize::from(half(place))]);
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// Gives out ids.
#[derive(Debug)]
pub struct Ids {
    offset: u64,
    next: AtomicU64,
}

impl Default for Ids {
    /// Begins at a random place, so that the ids of two lives of the proxy don't meet.
    fn default() -> Self {
        Self { offset: RandomState::new().build_hasher().finish(), next: AtomicU64::new(0) }
    }
}

impl Ids {
    /// The next id. Multiplying by an odd number and shifting are both one-to-one, so no id comes twice.
    pub fn next(&self) -> RecordId {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        RecordId(n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::Ids;

    #[test]
    fn ids_differ_and_have_one_shape() {
        let ids = Ids::default();
        let seen: std::collections::HashSet<String> = (0..10_000).map(|_| ids.next().to_string()).collect();
        assert_eq!(seen.len(), 10_000);
        assert!(seen.iter().all(|id| id.len() == 16));
        let id = ids.next();
        assert_eq!(serde_json::to_value(id).unwrap(), id.to_string());
    }
}
