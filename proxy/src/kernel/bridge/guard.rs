//! What a bridge lets through: tables `bridge sluice` and `netdev sluice`.
//!
//! `bridge sluice` asks of each frame that comes in by a port, before the bridge does anything with it. It knows no pod: what
//! it lets through is what no filter of a port takes off the bridge, and that is the same for all pods.
//!
//! `prerouting`, priority -300, drops what no rule accepts:
//!
//! | rule | attack it closes |
//! |---|---|
//! | in by a port of `@exempt`: accept | None: uplinks, and the ports of bridges that aren't pods'. |
//! | ARP without a VLAN tag: accept | None: see [`neighbour`](super::neighbour) for what forged ARP gains. |
//! | router and neighbour solicitation, neighbour advertisement, reports of multicast listeners: accept | Not router advertisements nor redirects, by which a pod would become its neighbours' gateway; not queries of listeners. |
//! | DHCP of a client without address: accept | Goes to the node; `forward` lets it to no other port. |
//! | all else: drop | IP that the port's filters did not take off: another pod's source, a port that has no filters yet, VLAN tags (0, one, two, 802.1ad), which filters by protocol don't see and receivers ignore, multicast, protocols other than IP. |
//!
//! `forward`, priority -200, drops what no rule accepts:
//!
//! | rule | attack it closes |
//! |---|---|
//! | from an exempt port to an exempt one: accept | None. |
//! | ARP, neighbour solicitation and advertisement, reports of listeners: accept | |
//! | all else: drop | What is accepted above for the node alone, such as DHCP: it would be a channel between pods, and a pod could answer in the place of the server. What comes from outside to a pod by an uplink that is a port of its bridge: nothing would judge it. |
//!
//! Both hold for a port that appears later, from its first frame: nothing has to be added for it to be closed. Frames between the
//! node and its pods begin or end at the bridge itself and don't pass `forward`.
//!
//! `netdev sluice`: a frame that a port's filter hands to the bridge still counts as one to the neighbour it was sent to, and IP
//! drops what isn't for the node. On each bridge's ingress such frames are taken in. Frames to all (broadcast, multicast) stay
//! what they are: IP forwards none of these, so that unicast IP in a broadcast frame ends at the node.

use std::collections::BTreeSet;

use nftnl::{ChainType, Hook, ProtoFamily};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::super::channel::{Channel, ChannelError};
use super::super::expr::frame::{self, EtherType};
use super::super::expr::{self, Side};
use super::super::harm::{self, Rules};
use super::super::netlink::Socket;
use super::super::object::{Element, Family, Field, Rule, Set, SetKind, Verdict, interface_key};
use super::super::transaction::{BaseHook, Transaction};
use super::Error;

const NFPROTO_NETDEV: u8 = 5;
const NFPROTO_BRIDGE: u8 = 7;

const PREROUTING: &str = "prerouting";
const FORWARD: &str = "forward";
const EXEMPT: &str = "exempt";
/// Of neighbour discovery and multicast listeners, what pods may send.
const SOLICITED: &str = "solicited";
/// Of that, what goes on to other ports.
const NEIGHBOURLY: &str = "neighbourly";

const SOLICITED_TYPES: [u8; 6] = [131, 132, 133, 135, 136, 143];
const NEIGHBOURLY_TYPES: [u8; 5] = [131, 132, 135, 136, 143];

const PREROUTING_PRIORITY: i32 = -300;
const FORWARD_PRIORITY: i32 = -200;
const INGRESS_PRIORITY: i32 = -400;

/// A bridge by number and name: one of the same name that came later is another.
pub(super) type Device = (u32, String);

/// The two tables.
#[derive(Debug)]
pub(super) struct Guard {
    channel: Channel,
    names: Socket,
    gate: Option<Gate>,
    intake: Option<Intake>,
    /// The kernel has no such tables.
    is_refused: bool,
}

/// What `bridge sluice` was written with.
#[derive(Debug)]
struct Gate {
    exempt: BTreeSet<String>,
    rules: Rules,
    seen: Option<u32>,
}

/// What `netdev sluice` was written with.
#[derive(Debug)]
struct Intake {
    bridges: BTreeSet<Device>,
    rules: Rules,
    seen: Option<u32>,
}

impl Guard {
    /// In the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, Error> {
        let channel = Channel::open()?;
        let names = Socket::open(SockProtocol::NetlinkNetFilter).map_err(Error::Look)?;
        Ok(Self { channel, names, gate: None, intake: None, is_refused: false })
    }

    /// Puts `bridge sluice` as it should be, if it isn't. `has_bridges`: without the table the node would be open.
    pub(super) fn close(&mut self, exempt: &BTreeSet<String>, has_bridges: bool) -> Result<(), Error> {
        if self.is_refused && !has_bridges {
            return Ok(());
        }
        let generation = harm::generation(&mut self.names).map_err(Error::Look)?;
        if let Some(gate) = &mut self.gate {
            let is_same = gate.seen == generation || read_gate(&mut self.names)? == gate.rules;
            if is_same && gate.exempt == *exempt {
                gate.seen = generation;
                return Ok(());
            }
            if !is_same {
                tracing::warn!("somebody else changed the kernel's table bridge sluice: it is written anew");
            }
        }
        self.gate = None;
        match self.channel.commit(&gate(exempt).into_messages()) {
            Ok(()) => {}
            Err(ChannelError::Refused { source: Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::ENOENT, .. })
                if !has_bridges =>
            {
                tracing::info!("this kernel has no nftables for bridges; nor has the node a bridge");
                self.is_refused = true;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        self.gate = Some(Gate { exempt: exempt.clone(), rules: read_gate(&mut self.names)?, seen: None });
        Ok(())
    }

    /// Puts `netdev sluice` as it should be for these bridges, if it isn't.
    pub(super) fn take_in(&mut self, bridges: &BTreeSet<Device>) -> Result<(), Error> {
        let generation = harm::generation(&mut self.names).map_err(Error::Look)?;
        if let Some(intake) = &mut self.intake
            && intake.bridges == *bridges
            && (intake.seen == generation || read_intake(&mut self.names, bridges)? == intake.rules)
        {
            intake.seen = generation;
            return Ok(());
        }
        self.intake = None;
        self.channel.commit(&intake(bridges).into_messages())?;
        self.intake = Some(Intake { bridges: bridges.clone(), rules: read_intake(&mut self.names, bridges)?, seen: None });
        Ok(())
    }

    /// Removes both tables. Whether there was one.
    pub(super) fn remove(&mut self) -> Result<bool, Error> {
        let mut found = false;
        for family in [ProtoFamily::Bridge, ProtoFamily::NetDev] {
            let mut transaction = Transaction::of(family);
            transaction.delete_table();
            match self.channel.commit(&transaction.into_messages()) {
                Ok(()) => found = true,
                // No such table, or no such family.
                Err(ChannelError::Refused { source: Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }
}

fn read_gate(names: &mut Socket) -> Result<Rules, Error> {
    let chains = [PREROUTING, FORWARD].map(str::to_owned);
    Rules::read_of(names, NFPROTO_BRIDGE, chains).map_err(Error::Look)
}

fn read_intake(names: &mut Socket, bridges: &BTreeSet<Device>) -> Result<Rules, Error> {
    let chains = bridges.iter().map(chain_of);
    Rules::read_of(names, NFPROTO_NETDEV, chains).map_err(Error::Look)
}

/// `bridge sluice` as a whole, replacing what is there without a gap.
fn gate(exempt: &BTreeSet<String>) -> Transaction {
    let mut transaction = Transaction::of(ProtoFamily::Bridge);
    transaction.add_table();
    let hooks = [(PREROUTING, Hook::PreRouting, PREROUTING_PRIORITY), (FORWARD, Hook::Forward, FORWARD_PRIORITY)];
    for (name, hook, priority) in hooks {
        transaction.add_closed_chain(name, BaseHook { hook, priority, kind: ChainType::Filter });
        transaction.flush_chain(name);
    }
    let types = |types: &[u8]| types.iter().map(|kind| Element::plain(vec![*kind])).collect();
    let names = exempt.iter().map(|name| Element::plain(interface_key(name))).collect();
    let sets: [(&str, Field, Vec<Element>); 3] = [
        (EXEMPT, Field::Interface, names),
        (SOLICITED, Field::Icmpv6Type, types(&SOLICITED_TYPES)),
        (NEIGHBOURLY, Field::Icmpv6Type, types(&NEIGHBOURLY_TYPES)),
    ];
    for (name, key, elements) in sets {
        transaction.add_set(&Set::new(name, &[key], SetKind::Plain));
        transaction.flush_set(name);
        transaction.add_elements(name, &elements);
    }
    transaction.add_rules(PREROUTING, &prerouting());
    transaction.add_rules(FORWARD, &forward());
    transaction
}

fn prerouting() -> Vec<Rule> {
    let v4 = || frame::ether_type(EtherType::Ip(Family::V4));
    let v6 = || frame::ether_type(EtherType::Ip(Family::V6));
    vec![
        Rule::new([frame::port_in(Side::In, EXEMPT)], &Verdict::Accept),
        Rule::new([frame::ether_type(EtherType::Arp)], &Verdict::Accept),
        Rule::new([v6(), expr::icmpv6_type_in(SOLICITED)], &Verdict::Accept),
        Rule::new([v4(), frame::dhcp_v4()], &Verdict::Accept).because("DHCP"),
        Rule::new([v6(), frame::dhcp_v6()], &Verdict::Accept).because("DHCP"),
        Rule::new([vec![expr::counter()]], &Verdict::Drop).because("not from the port's pod, or not for its node"),
    ]
}

fn forward() -> Vec<Rule> {
    vec![
        Rule::new([frame::port_in(Side::In, EXEMPT), frame::port_in(Side::Out, EXEMPT)], &Verdict::Accept),
        Rule::new([frame::ether_type(EtherType::Arp)], &Verdict::Accept),
        Rule::new([frame::ether_type(EtherType::Ip(Family::V6)), expr::icmpv6_type_in(NEIGHBOURLY)], &Verdict::Accept),
        Rule::new([vec![expr::counter()]], &Verdict::Drop).because("from port to port"),
    ]
}

/// `netdev sluice` as a whole.
fn intake(bridges: &BTreeSet<Device>) -> Transaction {
    let mut transaction = Transaction::of(ProtoFamily::NetDev);
    // What isn't there can't be deleted.
    transaction.add_table();
    transaction.delete_table();
    if bridges.is_empty() {
        return transaction;
    }
    transaction.add_table();
    for bridge in bridges {
        let chain = chain_of(bridge);
        transaction.add_ingress_chain(&chain, &bridge.1, INGRESS_PRIORITY);
        transaction.add_rules(&chain, &[Rule::acting([frame::take_in()])]);
    }
    transaction
}

/// A chain's name for a bridge: what nft's grammar has of its name, and its number.
fn chain_of((index, name): &Device) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' };
    format!("in_{}_{index}", name.chars().map(plain).collect::<String>())
}
