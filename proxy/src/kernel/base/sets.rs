//! The sets that the base chains look into.

use sluice_policy::Direction;

use super::super::names::{self, Edition};
use super::super::object::{Element, Family, Field, Set, SetKind, interface_key};
use super::super::pretence;

pub(in crate::kernel) const UPLINKS: &str = "uplinks";
pub(in crate::kernel) const INSIDE: &str = "inside";
pub(super) const OUTSIDE_KINDS: &str = "outside_kinds";
pub(super) const ON_LINK: &str = "neighbour_discovery";
pub(super) const NEIGHBOURS: &str = "neighbours";
pub(in crate::kernel) const LOCAL: &str = "local";
pub(in crate::kernel) const ELSEWHERE: &str = "elsewhere";
pub(in crate::kernel) const ITSELF: &str = "itself";
/// The pods whose look-ups are diverted, and where they ask.
pub(in crate::kernel) const LOOKUPS: &str = "lookups";
/// How many they ask.
pub(super) const ASKING: &str = "asking";
pub(in crate::kernel) const AUDITED: &str = "audited";
pub(in crate::kernel) const POD_CIDRS: &str = "pod_cidrs";

/// Kinds of interfaces that lead away from the node: tunnels, which carry other nodes' pods, and what physical interfaces are
/// bundled into.
///
/// A physical interface has no kind. A bridge, a veth, a tap and what nobody knows lead to pods, unless the name is an uplink's.
pub(in crate::kernel) const OUTSIDE: [&str; 19] = [
    "vxlan",
    "geneve",
    "wireguard",
    "ipip",
    "sit",
    "ip6tnl",
    "gre",
    "gretap",
    "erspan",
    "ip6gre",
    "ip6gretap",
    "ip6erspan",
    "vti",
    "vti6",
    "xfrm",
    "bond",
    "team",
    "vlan",
    "wwan",
];

/// Router solicitation, neighbour solicitation and advertisement; multicast listeners. What a router says, advertisement (134) and
/// redirect (137), is no pod's to say: a node that listens to routers would take the pod for its next hop (CVE-2020-10749).
const ON_LINK_TYPES: [u8; 7] = [130, 131, 132, 133, 135, 136, 143];

/// Neighbour solicitation and advertisement.
const NEIGHBOUR_TYPES: [u8; 2] = [135, 136];

/// The pods of which Audit policies read what they send, or are sent, at every port.
pub(in crate::kernel) fn read(direction: Direction) -> String {
    format!("audited_{direction}")
}

/// The pods and ports at which Audit policies read.
pub(in crate::kernel) fn read_port(direction: Direction) -> String {
    format!("audited_{direction}_port")
}

/// The sets of revoked tuples, which no edition replaces.
pub(in crate::kernel) fn revoked_set(family: Family) -> Set {
    let address = Field::Address(family);
    Set::new(names::revoked(family), &[Field::Protocol, address, Field::Port, address, Field::Port], SetKind::Timed)
}

/// The set of the one element that [`held::stand`](crate::kernel::held::stand) reads.
pub(in crate::kernel) fn stand_set() -> Set {
    let comment = Some("epoch and generation of the controller's table".to_owned());
    Set { comment, ..Set::new(names::STAND, &[Field::Number; 4], SetKind::Plain) }
}

/// The sets that the rules below look into, and what is in them for good.
pub(in crate::kernel) fn sets(edition: Edition) -> Vec<(Set, Vec<Element>)> {
    let mut sets = vec![
        (Set::new(edition.name(UPLINKS), &[Field::Interface], SetKind::Plain), Vec::new()),
        (Set::new(edition.name(INSIDE), &[Field::InterfaceIndex], SetKind::Learned), Vec::new()),
        (
            Set::new(edition.name(OUTSIDE_KINDS), &[Field::Interface], SetKind::Plain),
            OUTSIDE.iter().map(|kind| Element::plain(interface_key(kind))).collect(),
        ),
        (
            Set::new(edition.name(ON_LINK), &[Field::Icmpv6Type], SetKind::Plain),
            ON_LINK_TYPES.iter().map(|kind| Element::plain(vec![*kind])).collect(),
        ),
        (
            Set::new(edition.name(NEIGHBOURS), &[Field::Icmpv6Type], SetKind::Plain),
            NEIGHBOUR_TYPES.iter().map(|kind| Element::plain(vec![*kind])).collect(),
        ),
    ];
    sets.extend(pretence::sets(edition));
    for family in Family::BOTH {
        let address = Field::Address(family);
        sets.extend([
            (Set::new(edition.sets_of(LOCAL, family), &[address], SetKind::Plain), Vec::new()),
            (Set::new(edition.sets_of(ELSEWHERE, family), &[address], SetKind::Plain), Vec::new()),
            (Set::new(edition.sets_of(ITSELF, family), &[address, address], SetKind::Plain), Vec::new()),
            (Set::new(edition.sets_of(LOOKUPS, family), &[address, Field::Protocol, Field::Port], SetKind::Plain), Vec::new()),
            (Set::new(edition.sets_of(ASKING, family), &[address], SetKind::Rationed), Vec::new()),
            (Set::new(edition.sets_of(AUDITED, family), &[address], SetKind::Plain), Vec::new()),
            (Set::new(edition.sets_of(POD_CIDRS, family), &[address], SetKind::Interval), Vec::new()),
        ]);
        for direction in Direction::BOTH {
            let read = edition.sets_of(&read(direction), family);
            let read_port = edition.sets_of(&read_port(direction), family);
            sets.extend([
                (Set::new(read, &[address], SetKind::Plain), Vec::new()),
                (Set::new(read_port, &[address, Field::Port], SetKind::Plain), Vec::new()),
            ]);
        }
        sets.extend(
            [Direction::Egress, Direction::Ingress]
                .map(|direction| (Set::new(edition.dispatch(direction, family), &[address], SetKind::Verdicts), Vec::new())),
        );
    }
    sets
}
