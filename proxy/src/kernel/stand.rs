//! Of which of the controller's tables the kernel's rules are: written beside them, so that a successor can tell an older table
//! from theirs.

use super::netlink;

/// One of the controller's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// The controller's run, which counts the generations.
    pub epoch: u64,
    pub generation: u64,
}

impl Stand {
    /// Of one run of the controller, and no later.
    pub fn is_no_newer_than(self, other: Self) -> bool {
        self.epoch == other.epoch && self.generation <= other.generation
    }

    pub(super) fn key(self) -> Vec<u8> {
        let words = [self.epoch >> 32, self.epoch & 0xffff_ffff, self.generation >> 32, self.generation & 0xffff_ffff];
        words.iter().flat_map(|word| u32::try_from(*word).expect("half of 64 bits").to_ne_bytes()).collect()
    }

    pub(super) fn from_key(key: &[u8]) -> Option<Self> {
        let word = |at| netlink::u32_at(key, at).map(u64::from);
        let number = |at| Some(word(at)? << 32 | word(at + 4)?);
        Some(Self { epoch: number(0)?, generation: number(8)? })
    }
}

/// What a former process left in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Nothing,
    /// Rules, and of which of the controller's tables.
    Rules(Option<Stand>),
}
