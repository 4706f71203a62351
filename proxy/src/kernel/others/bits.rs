//! Values of which only some bits are known: what a rule of somebody else's compares, for a packet that is not there.

/// Some bytes of a register. Where a bit of `known` is 0, that of `value` says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits {
    value: Vec<u8>,
    known: Vec<u8>,
    /// An address of the packet from its first byte on, of which these bits are left.
    address: Option<Vec<u8>>,
}

/// Whether something holds for the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
    /// What it hangs on isn't known.
    Perhaps,
}

impl Holds {
    pub(super) fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    pub(super) fn not(self, inverted: bool) -> Self {
        match self {
            Self::Yes if inverted => Self::No,
            Self::No if inverted => Self::Yes,
            other => other,
        }
    }

    /// Both.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Perhaps,
        }
    }
}

impl Bits {
    /// Nothing is known.
    pub(super) fn unknown() -> Self {
        Self::default()
    }

    pub(super) fn known(value: &[u8]) -> Self {
        Self { value: value.to_vec(), known: vec![0xff; value.len()], address: None }
    }

    /// Only the bits of `known` are.
    pub(super) fn partly(value: &[u8], known: &[u8]) -> Self {
        Self { value: value.to_vec(), known: known.to_vec(), address: None }
    }

    /// The first bytes of an address that isn't known, but for what it can't be.
    pub(super) fn address(length: usize) -> Self {
        Self { value: vec![0; length], known: vec![0; length], address: Some(vec![0xff; length]) }
    }

    /// `bits & mask ^ xor`.
    pub(super) fn masked(&self, mask: &[u8], xor: &[u8]) -> Self {
        let at = |bytes: &[u8], index: usize| bytes.get(index).copied().unwrap_or_default();
        let length = mask.len();
        let value = (0..length).map(|i| at(&self.value, i) & mask[i] ^ at(xor, i)).collect();
        // What the mask takes away is known: it is 0.
        let known = (0..length).map(|i| at(&self.known, i) | !mask[i]).collect();
        let changes = xor.iter().any(|byte| *byte != 0);
        let address = self.address.as_ref().filter(|_| !changes).map(|left| (0..length).map(|i| at(left, i) & mask[i]).collect());
        Self { value, known, address }
    }

    /// Whether the first bytes are `data`. `is_possible`: whether a packet's address can be `data` in the bits of a mask.
    pub(super) fn equals(&self, data: &[u8], is_possible: impl Fn(&[u8], &[u8]) -> bool) -> Holds {
        let mut holds = Holds::Yes;
        for (index, byte) in data.iter().enumerate() {
            let known = self.known.get(index).copied().unwrap_or_default();
            let value = self.value.get(index).copied().unwrap_or_default();
            if (value ^ byte) & known != 0 {
                return Holds::No;
            }
            if known != 0xff {
                holds = Holds::Perhaps;
            }
        }
        match &self.address {
            Some(mask) if holds == Holds::Perhaps && !is_possible(data, mask) => Holds::No,
            _ => holds,
        }
    }

    /// Whether all bits of `mask` are known to be as in `value`.
    pub(super) fn is_surely(&self, value: &[u8], mask: &[u8]) -> bool {
        self.masked(mask, &[]).equals(&value.iter().zip(mask).map(|(v, m)| v & m).collect::<Vec<_>>(), |_, _| true) == Holds::Yes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_some_bits_decides_what_it_can() {
        let any = |_: &[u8], _: &[u8]| true;
        let state = Bits::known(&[8, 0, 0, 0]);
        // `ct state established,related`: masked, then compared with 0.
        let masked = state.masked(&[6, 0, 0, 0], &[0; 4]);
        assert_eq!(masked.equals(&[0; 4], any), Holds::Yes);
        assert_eq!(state.equals(&[2, 0, 0, 0], any), Holds::No);
        // One bit of a mark.
        let mark = Bits::partly(&[0, 0x10, 0, 0], &[0, 0x10, 0, 0]);
        assert_eq!(mark.equals(&[0, 0, 0, 0], any), Holds::No);
        assert_eq!(mark.equals(&[1, 0x10, 0, 0], any), Holds::Perhaps);
        assert_eq!(mark.masked(&[0, 0x10, 0, 0], &[0; 4]).equals(&[0, 0x10, 0, 0], any), Holds::Yes);
        assert!(mark.masked(&[0xff; 4], &[1, 0, 0, 0]).is_surely(&[0, 0x10, 0, 0], &[0, 0x10, 0, 0]));
        assert!(!mark.masked(&[0, 0, 0, 0], &[1, 0, 0, 0]).is_surely(&[0, 0x10, 0, 0], &[0, 0x10, 0, 0]));
        assert_eq!(Bits::unknown().equals(&[1], any), Holds::Perhaps);
        let address = Bits::address(4);
        assert_eq!(
            address.masked(&[0xff, 0, 0, 0], &[0; 4]).equals(&[127, 0, 0, 0], |data, mask| data[0] & mask[0] != 127),
            Holds::No
        );
    }
}
