//! What only a look inside can arrange: a send buffer too small for the state.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use sluice_policy::Protocol;
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

/// `None` where no namespace can be made.
fn namespace(name: &str) -> Option<Netns> {
    if let Err(why) = sluice_testnet::capability() {
        assert!(!nix::unistd::geteuid().is_root(), "as root nothing may be skipped: {why}");
        println!("SKIPPED: {why}");
        return None;
    }
    Some(Netns::new(name).expect("a namespace"))
}

#[test]
fn a_state_larger_than_the_send_buffer_is_filled_in_parts_and_switched_to_at_once() {
    let Some(ns) = namespace("small-buffer") else { return };
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

#[test]
fn more_revoked_flows_than_fit_into_one_transaction_hold_up_no_table() {
    let Some(ns) = namespace("many-revoked") else { return };
    let table = table();
    let mut kernel = ns.run(|| Kernel::open(Config::default())).expect("nftables");
    kernel.channel.set_limit_bytes(20_000);
    // A table that this buffer takes in parts, and whose switch it takes whole.
    kernel.channel.set_buffer_bytes(100_000);
    let end = |port: u16| (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), port);
    let revoked: Vec<Revocation> = (1..=4_000)
        .map(|port| Revocation {
            protocol: Protocol::Udp,
            source: end(port),
            destination: (Ipv4Addr::new(11, 0, 0, 1).into(), 53),
        })
        .collect();
    for touched in [None, Some(Touched::default())] {
        ns.run(|| kernel.apply(&table, touched.as_ref(), &revoked)).expect("in parts");
        let listing = ns.exec("nft", &["list", "set", "inet", "sluice", "revoked_v4"]).expect("nft reads it");
        assert_eq!(listing.matches("udp . 10.0.0.1 .").count(), revoked.len());
    }
}

/// Some messages of a replacement are too large for this buffer, but not the first ones, and none of a sweep.
fn impede(kernel: &mut Kernel) {
    kernel.channel.set_limit_bytes(4_000);
    kernel.channel.set_buffer_bytes(2_500);
}

fn relieve(kernel: &mut Kernel) {
    kernel.channel.set_buffer_bytes(100_000);
    kernel.channel.set_limit_bytes(20_000);
}

#[test]
fn failed_replacements_leave_nothing_behind_and_the_former_in_force() {
    let Some(ns) = namespace("failed-fill") else { return };
    let table = table();
    let mut kernel = ns.run(|| Kernel::open(Config::default())).expect("nftables");
    ns.run(|| kernel.apply(&table, None, &[])).expect("in force");
    let held = || ns.run(|| Held::read(&mut Held::socket().expect("a socket"))).expect("names");
    let before = held();
    impede(&mut kernel);
    for attempt in 0..30 {
        let refused = ns.run(|| kernel.apply(&table, None, &[])).expect_err("it doesn't fit");
        assert!(matches!(refused, Error::Channel(ChannelError::Send { .. })), "attempt {attempt}: {refused:?}");
        assert_eq!(held(), before, "attempt {attempt}");
    }
    assert_eq!(elements(&ns), usize::try_from(PEERS).expect("a small number"));
    assert_eq!(ns.run(|| kernel.harm()).expect("a look"), None, "the former table is whole");
    relieve(&mut kernel);
    ns.run(|| kernel.apply(&table, None, &[])).expect("in parts");
}

#[test]
fn uplinks_that_could_not_be_followed_are_tried_again() {
    let Some(ns) = namespace("failed-uplinks") else { return };
    let table = table();
    let mut kernel = ns.run(|| Kernel::open(Config::default())).expect("nftables");
    ns.run(|| kernel.apply(&table, None, &[])).expect("in force");
    kernel.config.uplinks.push("eth9".to_owned());
    impede(&mut kernel);
    for _ in 0..2 {
        ns.run(|| kernel.refresh_uplinks()).expect_err("it doesn't fit, again and again");
    }
    relieve(&mut kernel);
    let applied = ns.run(|| kernel.refresh_uplinks()).expect("it fits");
    assert!(applied.is_some_and(|applied| applied.whole), "{applied:?}");
    assert_eq!(ns.run(|| kernel.refresh_uplinks()).expect("nothing to do"), None);
}

#[test]
fn harm_by_others_is_seen_and_own_changes_are_none() {
    let Some(ns) = namespace("harm") else { return };
    let table = table();
    let saved = "add table inet sluice; add chain inet sluice prerouting { type filter hook prerouting priority -90 ; }";
    let rows: [(&[&str], Option<Harm>); 9] = [
        (&["add table inet other"], None),
        (&["add element inet sluice uplinks { eth7 }", "delete element inet sluice uplinks { eth7 }"], None),
        (&["flush ruleset"], Some(Harm::Removed)),
        (&["delete table inet sluice"], Some(Harm::Removed)),
        (&["flush ruleset", saved], Some(Harm::Altered)),
        (&["flush table inet sluice"], Some(Harm::Altered)),
        (&["flush chain inet sluice forward"], Some(Harm::Altered)),
        (&["flush chain inet sluice live_v4"], Some(Harm::Altered)),
        (&["insert rule inet sluice prerouting accept"], Some(Harm::Altered)),
    ];
    for (commands, harm) in rows {
        // Into an empty ruleset, so that names have no mark.
        ns.exec("nft", &["flush", "ruleset"]).expect("nft");
        let mut kernel = ns.run(|| Kernel::open(Config::default())).expect("nftables");
        ns.run(|| kernel.apply(&table, None, &[])).expect("in force");
        ns.run(|| kernel.apply(&table, Some(&Touched::default()), &[])).expect("nothing new");
        assert_eq!(ns.run(|| kernel.harm()).expect("a look"), None, "before {commands:?}");
        for command in commands {
            ns.exec("nft", &[command]).expect("nft takes it");
        }
        for _ in 0..2 {
            assert_eq!(ns.run(|| kernel.harm()).expect("a look"), harm, "{commands:?}");
        }
        let applied = ns.run(|| kernel.apply(&table, Some(&Touched::default()), &[])).expect("written anew");
        assert_eq!(applied.whole, harm.is_some(), "{commands:?}: {applied:?}");
        assert_eq!(ns.run(|| kernel.harm()).expect("a look"), None, "after {commands:?}");
    }
}

#[test]
fn revoked_tuples_are_looked_for_as_long_as_there_are_any() {
    let Some(ns) = namespace("cutting") else { return };
    let table = table();
    let mut kernel = ns.run(|| Kernel::open(Config::default())).expect("nftables");
    ns.run(|| kernel.apply(&table, None, &[])).expect("in force");
    let looks = || {
        let chain = ns.exec("nft", &["list", "chain", "inet", "sluice", "established_v4"]).expect("nft reads it");
        assert!(chain.contains("accept"), "{chain}");
        chain.contains("@revoked_v4")
    };
    assert!(!looks());
    let (source, destination) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([11, 0, 0, 1]));
    let revocation = Revocation { protocol: Protocol::Tcp, source: (source, 1), destination: (destination, 2) };
    ns.run(|| kernel.apply(&table, Some(&Touched::default()), &[revocation])).expect("in force");
    assert!(looks());
    assert_eq!(ns.run(|| kernel.harm()).expect("a look"), None);
    ns.run(|| kernel.end_cutting()).expect("nothing to do yet");
    assert!(looks());
    kernel.installed.as_mut().expect("in force").cutting_until = Some(Instant::now());
    ns.run(|| kernel.end_cutting()).expect("the end");
    assert!(!looks());
    assert_eq!(ns.run(|| kernel.harm()).expect("a look"), None);
    ns.exec("nft", &["insert rule inet sluice established_v4 accept"]).expect("nft");
    assert_eq!(ns.run(|| kernel.harm()).expect("a look"), Some(Harm::Altered));
}

#[test]
fn a_successor_learns_which_table_the_rules_are_of() {
    let Some(ns) = namespace("stand") else { return };
    let table = table();
    let left = || ns.run(|| Kernel::open(Config::default()).and_then(|mut kernel| kernel.left())).expect("nftables");
    let mut kernel = ns.run(|| Kernel::open(Config::default())).expect("nftables");
    assert_eq!(left(), Left::Nothing);
    ns.run(|| kernel.apply(&table, None, &[])).expect("in force");
    assert_eq!(left(), Left::Rules(None));
    let stand = |generation| Stand { epoch: u64::MAX - 1, generation };
    // By a whole replacement, by a change that changes nothing else, and by one more than 32 bits further.
    for (generation, touched) in [(1, None), (2, Some(Touched::default())), (1 << 40, Some(Touched::default()))] {
        kernel.set_stand(stand(generation));
        ns.run(|| kernel.apply(&table, touched.as_ref(), &[])).expect("in force");
        assert_eq!(left(), Left::Rules(Some(stand(generation))));
        assert_eq!(ns.run(|| kernel.harm()).expect("a look"), None);
    }
    // What was never put in force is not said to be.
    kernel.set_stand(stand(9));
    impede(&mut kernel);
    ns.run(|| kernel.apply(&table, None, &[])).expect_err("it doesn't fit");
    assert_eq!(left(), Left::Rules(Some(stand(1 << 40))));
    relieve(&mut kernel);
    kernel.config.uplinks.push("eth9".to_owned());
    assert!(ns.run(|| kernel.refresh_uplinks()).expect("it fits").is_some());
    assert_eq!(left(), Left::Rules(Some(stand(1 << 40))), "what is in force was written once more");
    // As a replacement leaves it that was never finished.
    ns.exec("nft", &["flush table inet sluice"]).expect("nft");
    assert_eq!(left(), Left::Nothing);
}

#[test]
fn rules_that_report_stand_in_nobodys_way() {
    let Some(ns) = namespace("no-reports") else { return };
    let log = Log { group: 7, per_second: std::num::NonZeroU32::MIN, passed: false };
    let mut kernel = ns.run(|| Kernel::open(Config { log: Some(log), ..Config::default() })).expect("nftables");
    // A set of another kind has the name of one that reports need.
    for line in ["add table inet sluice", "add set inet sluice reported_egress_v4 { type ipv6_addr; }"] {
        ns.exec("nft", &line.split(' ').collect::<Vec<_>>()).expect("nft takes it");
    }
    let listing = || ns.exec("nft", &["list", "table", "inet", "sluice"]).expect("nft reads it");
    ns.run(|| kernel.apply(&table(), None, &[])).expect("in force without them");
    assert!(listing().contains("counter name \"isolated_egress\"") && !listing().contains("log prefix"), "{}", listing());
    assert_eq!(ns.run(|| kernel.harm()).expect("a look"), None);
    // With the next whole replacement it is tried again.
    ns.exec("nft", &["delete", "set", "inet", "sluice", "reported_egress_v4"]).expect("nobody uses it");
    ns.run(|| kernel.apply(&table(), None, &[])).expect("in force");
    assert!(listing().contains("log prefix \"sluice NoRuleMatched egress\" group 7"), "{}", listing());
}
