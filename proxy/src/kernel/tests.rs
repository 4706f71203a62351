//! What only a look inside can arrange: a send buffer too small for the state.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use sluice_policy::snapshot::{Change, Endpoint, IdentityId, NodeFacts, SetId};
use sluice_policy::source::PodRef;
use sluice_testnet::Netns;

use super::*;

const PEERS: u32 = 5_000;

/// Peers in one set, and a local pod that no policy selects.
fn table() -> Table {
    let endpoint = |name: String, identity, local| {
        let pod = PodRef { namespace: "n".into(), name: name.into() };
        Arc::new(Endpoint { pod, identity: IdentityId(identity), local, conflict: false, host: None, ports: Arc::new([]) })
    };
    let mut changes = vec![
        Change::PutNode(NodeFacts::default()),
        Change::PutIdentity(IdentityId(2), Default::default()),
        Change::EditSet { set: SetId(1), add: vec![IdentityId(1)], remove: Vec::new() },
    ];
    changes.push(Change::PutEndpoint(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), endpoint("local".into(), 2, true)));
    for i in 0..PEERS {
        let ip = IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + i));
        changes.push(Change::PutEndpoint(ip, endpoint(format!("peer-{i}"), 1, false)));
    }
    Table::empty().apply(&changes).expect("the changes fit").0
}

fn elements(ns: &Netns) -> usize {
    let listing = ns.exec("nft", &["list", "table", "inet", "sluice"]).expect("nft reads it");
    listing.matches(" 11.0.").count() + listing.matches("\t11.0.").count()
}

#[test]
fn a_state_larger_than_the_send_buffer_is_filled_in_parts_and_switched_to_at_once() {
    if let Err(why) = sluice_testnet::capability() {
        assert!(!nix::unistd::geteuid().is_root(), "as root nothing may be skipped: {why}");
        println!("SKIPPED: {why}");
        return;
    }
    let ns = Netns::new("small-buffer").expect("a namespace");
    let table = table();
    let mut kernel = ns.run(|| Kernel::open(Config::default())).expect("nftables");
    kernel.channel.set_limit_bytes(20_000);
    for _ in 0..3 {
        let applied = ns.run(|| kernel.apply(&table, None, &[])).expect("in parts");
        assert!(applied.transactions > 4, "{applied:?}");
        assert_eq!(elements(&ns), usize::try_from(PEERS).expect("a small number"));
    }
    // What an interrupted replacement left behind goes with the next one.
    ns.exec("nft", &["add", "set", "inet", "sluice", "local_v4_c", "{ type ipv4_addr; }"]).expect("a leftover");
    ns.exec("nft", &["add", "chain", "inet", "sluice", "judge_c"]).expect("a leftover");
    ns.run(|| kernel.apply(&table, None, &[])).expect("in parts");
    let held = ns.run(|| Held::read(&mut Held::socket().expect("a socket"))).expect("names");
    assert!(held.names().all(|name| !name.ends_with("_c")), "{held:?}");
    assert_eq!(elements(&ns), usize::try_from(PEERS).expect("a small number"));
}
