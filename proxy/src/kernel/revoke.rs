//! Which live flows a new table no longer allows.
//!
//! A policy that arrives while a connection is live cuts it. Deleting its conntrack entry is not enough: the server's next packet
//! would open a reversed entry, judged as a flow from server to client. So the caller does, for what [`judge`] returns:
//!
//! 1. in the transaction that brings the new generation: every [`Revocation`], both ways round, into the timed set that drops;
//! 2. after it: delete the conntrack [`entries`](Revoked::entries);
//! 3. read and judge once more, and revoke what is found: a flow that the former rules let in between the reading and the
//!    transaction. From the transaction on, no more of them begin, so that this second look is the last.
//!
//! A flow is judged by the table as if it began now: from the source of its first packet to the real server, after any Service
//! translation. Answers are never judged by themselves.
//!
//! | the table says | label *diverted* | |
//! |---|---|---|
//! | Allow | any | stays |
//! | Inspect | no | revoked: nobody reads it |
//! | Inspect | yes | stays: the proxy reads it |
//! | Deny | no | revoked |
//! | Deny | yes | stays: the proxy closes it |
//!
//! A look-up is Inspect whatever the table says of it. Datagrams that carry the label are look-ups or, where it is inspected, QUIC, which
//! the proxy closes as it does streams; where they are neither any more, their entry is deleted, so that what follows goes the ordinary way,
//! and the tuple is not closed.
//!
//! **The proxy's own legs.** Every flow that the proxy handles carries the label, client legs and upstream legs alike: the chain
//! in prerouting labels what it diverts, the chain in output labels what leaves by a transparent socket (`socket transparent 1`;
//! on this node only the proxy has such sockets, and no pod's packet passes output). An upstream leg has the client's addresses,
//! so the table's verdict about it is the same Inspect or Deny; without the label the revocation would cut what the proxy has
//! just allowed. With it, both legs are left to the proxy, which judges its streams again by the same table, and which the chain
//! asks first about every further packet of such a flow.
//!
//! **The node's own flows** to its pods never meet the rules (they leave by output), whatever address they come from: the Node
//! object's, or one of a bridge or a veth that no object names. Entries with such a source ([`own_addresses`]) are not judged.
//!
//! Entries that a helper expected (the data connection of FTP) are judged by their own address and port like any other: cut,
//! where the rules would not let them in by themselves.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use sluice_policy::snapshot::{Peer, ProgramId};
use sluice_policy::table::Touched;
use sluice_policy::{Decision, Direction, Flow, Protocol, Table};

use super::conntrack::Entry;
use crate::names::{Moment, Names};

/// A flow that must end, from the one who opened it to the real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revocation {
    pub protocol: Protocol,
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
}

/// What has to be done so that no live flow outlives its permission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// For the timed set, sorted, each once. Protocols without ports are not among them: the set's key has ports. For them the
    /// deletion has to do: an echo reply opens no entry, and what else comes back is judged as new.
    pub tuples: Vec<Revocation>,
    /// To delete once the set holds the tuples.
    pub entries: Vec<Entry>,
}

/// Which flows may have got another verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suspects {
    All,
    /// Flows that begin or end at one of these addresses.
    Of(HashSet<IpAddr>),
}

impl Suspects {
    /// Nothing that a live flow hangs on has changed: the conntrack table need not be read.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Of(addresses) if addresses.is_empty())
    }

    pub fn contains(&self, entry: &Entry) -> bool {
        match self {
            Self::All => true,
            Self::Of(addresses) => addresses.contains(&entry.original.source) || addresses.contains(&entry.reply.source),
        }
    }
}

/// The flows that the step to `table` may have changed the verdict of: never too few, sometimes more.
///
/// A verdict hangs on both endpoints, on the programs of the local ones, on the sets these name, and on the node's own facts. A
/// table that isn't loaded decides nothing about live flows: what the kernel holds from before stays in force.
pub fn suspects(table: &Table, touched: &Touched) -> Suspects {
    if !table.is_loaded() {
        return Suspects::Of(HashSet::new());
    }
    if touched.node {
        return Suspects::All;
    }
    // A pod that appears elsewhere, where no rule takes anything back, can only be allowed more than its address was: reading the
    // conntrack table costs milliseconds, and new pods are what most deltas are made of.
    let only_adds = |ip: &IpAddr| touched.appeared.contains(ip) && table.endpoint(*ip).is_some_and(|e| !e.local && !e.conflict);
    let adds = if table.takes_back() { None } else { Some(only_adds) };
    let may_lose = |ip: &&IpAddr| !adds.is_some_and(|adds| adds(ip));
    let mut addresses: HashSet<IpAddr> = touched.endpoints.iter().filter(may_lose).copied().collect();
    let programs: HashSet<ProgramId> = table.program_ids().filter(|p| is_touched(table, touched, *p)).collect();
    if programs.is_empty() && touched.identities.is_empty() {
        return Suspects::Of(addresses);
    }
    for (address, endpoint) in table.endpoints().filter(|(_, e)| e.local) {
        let mut own = Direction::BOTH.into_iter().filter_map(|d| table.programs(endpoint.identity).get(d));
        if touched.identities.contains(&endpoint.identity) || own.any(|p| programs.contains(&p)) {
            addresses.insert(address);
        }
    }
    Suspects::Of(addresses)
}

fn is_touched(table: &Table, touched: &Touched, program: ProgramId) -> bool {
    if touched.programs.contains(&program) {
        return true;
    }
    if touched.sets.is_empty() {
        return false;
    }
    let Some(lines) = table.lines(program) else { return true };
    let mut peers = lines.lines.iter().filter_map(|l| l.peers.as_ref()).flatten();
    peers.any(|p| matches!(p, Peer::Set(set) if touched.sets.contains(set)))
}

/// The addresses of the namespace's own interfaces: of the one that the calling thread is in.
pub fn own_addresses() -> io::Result<HashSet<IpAddr>> {
    let addresses = nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    Ok(addresses.collect())
}

/// By what live flows are judged.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    pub table: &'a Table,
    /// The number of the conntrack label *diverted*.
    pub diverted: u8,
    /// What pods were told of names. A flow outlives the time of the name that it began by, so what has expired counts as long as it is
    /// remembered.
    pub names: Option<&'a Names>,
}

/// Whether `entry` has to end.
pub fn must_end(judge: &Judge<'_>, entry: &Entry) -> bool {
    let Judge { table, diverted, names } = *judge;
    let is_diverted = entry.has_label(diverted);
    if is_diverted && entry.protocol != Protocol::Udp {
        return false;
    }
    let (destination, destination_port) = entry.destination();
    let source = entry.original.source;
    let names = names
        .map(|names| names.of_flow(table, source, entry.original.destination, destination, Moment::default()))
        .unwrap_or_default();
    let flow = Flow {
        source,
        destination,
        protocol: entry.protocol,
        destination_port: if entry.protocol.has_ports() { destination_port } else { 0 },
        icmp: entry.icmp(),
        names: &names,
        request: None,
    };
    if is_diverted {
        // A look-up, or QUIC. Where it is none any more, its tuple shall go the ordinary way.
        return !table.is_lookup(&flow) && !table.may_be_inspected_quic(&flow);
    }
    // It began unread: what the pod sends is diverted from now on, and the server would still have its say.
    if table.is_lookup(&flow) {
        return true;
    }
    // Inspect without the label: the flow began under a table that let it pass unread.
    table.verdict(&flow).decision() != Decision::Allow
}

/// What of `entries` has to end under `table`. See the module for what to do with it.
pub fn judge(judge: &Judge<'_>, suspects: &Suspects, entries: impl IntoIterator<Item = Entry>) -> Revoked {
    if !judge.table.is_loaded() {
        return Revoked::default();
    }
    let entries: Vec<Entry> = entries.into_iter().filter(|e| suspects.contains(e) && must_end(judge, e)).collect();
    let mut tuples: Vec<Revocation> = entries
        .iter()
        .filter(|e| e.protocol.has_ports() && !e.has_label(judge.diverted))
        .map(|e| Revocation { protocol: e.protocol, source: e.source(), destination: e.destination() })
        .collect();
    tuples.sort_unstable();
    tuples.dedup();
    Revoked { tuples, entries }
}

#[cfg(test)]
mod tests;
