//! Which pairs have to be asked: those of which one half may be judged otherwise.
//!
//! A half is judged by one end's program, and of the other end only the sets and blocks count that this program names. So it is
//! worked out once for all peers that are alike to the program, and a change that touches every pod but opens little costs little.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sluice_policy::snapshot::{Peer, ProgramId, SetId};
use sluice_policy::source::PortMatch;
use sluice_policy::{Decision, Direction};

use super::compare::{NEW, OLD};
use super::requests;
use crate::reach::{EndId, Reach, flow};

/// One half of all flows from or to one end.
#[derive(Debug)]
pub(super) struct HalfOf {
    end: EndId,
    direction: Direction,
    /// Per version, sorted: the sets that the program names. `None`: too many to tell peers apart by them.
    sets: Option<[Vec<SetId>; 2]>,
    blocks: bool,
    named_ports: bool,
    /// Whether the half differs, by what the program knows of a peer.
    known: Mutex<HashMap<PeerKey, bool>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum PeerKey {
    Outside(EndId),
    Pods {
        sets: [u64; 2],
        kinds: [[Option<u32>; 2]; 2],
        families: [[bool; 2]; 2],
        conflict: [bool; 2],
        ports: Option<[usize; 2]>,
    },
}

/// For every end, the sets that its pods are members of, per version.
pub(super) fn memberships<'r>(reach: &'r Reach<'_>) -> Vec<[&'r [SetId]; 2]> {
    let of = |end, version: usize| {
        let identity = reach.side(end, version).map(|side| side.identity);
        identity.map_or(&[][..], |identity| reach.versions[version].table().sets_of(identity))
    };
    (0..reach.end_count()).map(|end| [of(end, OLD), of(end, NEW)]).collect()
}

impl HalfOf {
    pub(super) fn new(reach: &Reach<'_>, end: EndId, direction: Direction) -> Self {
        let mut half = Self { end, direction, sets: None, blocks: false, named_ports: false, known: Mutex::new(HashMap::new()) };
        let mut sets = [Vec::new(), Vec::new()];
        for version in [OLD, NEW] {
            let program: Option<ProgramId> = reach.program(end, version, direction);
            let lines = program.and_then(|program| reach.versions[version].table().lines(program));
            for line in lines.into_iter().flat_map(|lines| &lines.lines) {
                half.named_ports |= line.ports.iter().flatten().any(|port| matches!(port, PortMatch::Named { .. }));
                for peer in line.peers.iter().flatten() {
                    match peer {
                        Peer::Set(set) => sets[version].push(*set),
                        Peer::Block { .. } => half.blocks = true,
                    }
                }
            }
            sets[version].sort_unstable();
            sets[version].dedup();
        }
        half.sets = sets.iter().all(|sets| sets.len() <= 64).then_some(sets);
        half
    }

    /// Whether the half of flows with `peer` may differ.
    pub(super) fn matters(&self, reach: &Reach<'_>, peer: EndId, memberships: &[[&[SetId]; 2]]) -> bool {
        // A pod and itself is no half of anybody's, so what holds of others of its kind says nothing.
        if peer == self.end {
            return true;
        }
        let Some(key) = self.key(reach, peer, memberships) else { return true };
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return *known;
        }
        let differs = self.differs(reach, peer);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, differs);
        differs
    }

    fn key(&self, reach: &Reach<'_>, peer: EndId, memberships: &[[&[SetId]; 2]]) -> Option<PeerKey> {
        let (Some(old), Some(new)) = (reach.side(peer, OLD), reach.side(peer, NEW)) else {
            return Some(PeerKey::Outside(peer));
        };
        let named = self.sets.as_ref()?;
        let mask = |version: usize| {
            let member = |set: &SetId| memberships[peer][version].binary_search(set).is_ok();
            named[version].iter().enumerate().filter(|(_, set)| member(set)).fold(0_u64, |mask, (place, _)| mask | 1 << place)
        };
        let sides = [old, new];
        let by_ports = self.named_ports && self.direction == Direction::Egress;
        Some(PeerKey::Pods {
            sets: [mask(OLD), mask(NEW)],
            kinds: sides.map(|side| if self.blocks { side.kinds } else { [None; 2] }),
            families: sides.map(|side| side.kinds.map(|kind| kind.is_some())),
            conflict: sides.map(|side| side.conflict),
            ports: by_ports.then(|| sides.map(|side| side.ports)),
        })
    }

    fn differs(&self, reach: &Reach<'_>, peer: EndId) -> bool {
        let (from, to) = match self.direction {
            Direction::Egress => (self.end, peer),
            Direction::Ingress => (peer, self.end),
        };
        let ranges = reach.ranges_of_half(from, to, self.direction);
        reach.addresses(from, to).iter().any(|ips| {
            ranges.iter().any(|range| {
                let [old, new] = [OLD, NEW].map(|version| *reach.verdict(version, ips[version], range).half(self.direction));
                let read = |version: usize| requests::of(reach.versions[version], &flow(ips[version], range), self.direction);
                let reads = old.decision == Decision::Inspect && new.decision == Decision::Inspect;
                old.decision != new.decision || (reads && read(OLD) != read(NEW))
            })
        })
    }
}
