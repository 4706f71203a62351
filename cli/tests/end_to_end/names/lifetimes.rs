//! For how long an address is a name's.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use sluice_testnet::Protocol;
use sluice_testnet::dns::Zone;

use super::{API, GIT, NODE, RESOLVER, SPARE, Stage, WWW, egress, to_names};
use crate::client::{Pair, ip};
use crate::scene::LONG;

fn moved(stage: &mut Stage, name: &str, ttl: u32, addresses: &[IpAddr]) {
    let zone = |zone: Zone| zone.without(name).ttl(ttl).addresses(name, addresses);
    stage.authority.change("example.test", zone).unwrap();
    stage.resolver.forget().unwrap();
}

#[test]
fn an_address_closes_when_its_time_is_over_and_what_was_opened_goes_on() {
    let arguments = ["--set", "dns.minTTLSeconds=1"];
    let Some(mut stage) = Stage::start(&to_names(&["short.example.test"]), &arguments) else { return };
    moved(&mut stage, "short.example.test", 4, &[ip(SPARE[0])]);
    let listened = stage.scene.net.outside();
    let told = stage.look_up_at("shop/web", "short.example.test");
    let web = stage.scene.pod("shop/web");
    let mut flow = Pair::connect(web.ns(), listened, &format!("{}:9500", SPARE[0]));
    stage.assert_closes("shop/web", SPARE[0], &told, Duration::from_secs(4));
    assert_eq!(flow.passes(LONG), (true, true), "what was opened goes on");
    // Also over a change of policies, which judges it anew.
    stage.scene.policies(&to_names(&["short.example.test", "api.github.com"]));
    assert_eq!(flow.passes(LONG), (true, true), "over a change of policies");
    stage.look_up("shop/web", "short.example.test");
    assert!(stage.opens_now("shop/web", (ip(SPARE[0]), GIT).into()), "asked again, it is open again");
    // Asked again while it is open, it stays open for longer.
    std::thread::sleep(Duration::from_secs(2));
    stage.resolver.forget().unwrap();
    let told = stage.look_up_at("shop/web", "short.example.test");
    stage.assert_closes("shop/web", SPARE[0], &told, Duration::from_secs(4));
}

#[test]
fn a_ttl_of_zero_lasts_as_long_as_the_floor() {
    let arguments = ["--set", "dns.minTTLSeconds=3"];
    let Some(mut stage) = Stage::start(&to_names(&["never.example.test"]), &arguments) else { return };
    moved(&mut stage, "never.example.test", 0, &[ip(SPARE[0])]);
    let before = Instant::now();
    let answer = stage.look_up("shop/web", "never.example.test");
    let told = before..Instant::now();
    assert_eq!(answer.answers[0].ttl, 0, "the answer is the server's: {}", answer.text);
    stage.assert_closes("shop/web", SPARE[0], &told, Duration::from_secs(3));
}

#[test]
fn a_name_that_moves_has_all_its_addresses_for_their_time() {
    let Some(mut stage) = Stage::start(&to_names(&["moves.example.test"]), &[]) else { return };
    for address in SPARE {
        moved(&mut stage, "moves.example.test", 300, &[ip(address)]);
        assert_eq!(stage.look_up("shop/web", "moves.example.test").data(), [address]);
        assert!(stage.opens_now("shop/web", (ip(address), GIT).into()), "{address}");
    }
    for address in SPARE {
        assert!(stage.connects("shop/web", address), "{address}: an older answer holds for its time");
        assert!(stage.is_closed("shop/other", address));
    }
}

#[test]
fn an_alias_leads_to_the_addresses_at_its_end_for_the_least_time() {
    let arguments = ["--set", "dns.minTTLSeconds=1"];
    let Some(mut stage) = Stage::start(&to_names(&["first.example.test"]), &arguments) else { return };
    let chain = |zone: Zone| {
        zone.ttl(300)
            .alias("first.example.test", "second.example.test")
            .ttl(4)
            .alias("second.example.test", "last.example.test")
            .ttl(300)
            .addresses("last.example.test", &[ip(SPARE[0]), ip(SPARE[1])])
    };
    stage.authority.change("example.test", chain).unwrap();
    let before = Instant::now();
    let answer = stage.look_up("shop/web", "first.example.test");
    let told = before..Instant::now();
    assert_eq!(answer.answers.len(), 4, "{}", answer.text);
    for address in &SPARE[..2] {
        assert!(stage.opens_now("shop/web", (ip(address), GIT).into()), "{address}");
    }
    // The names on the way are the server's word, and no rule's.
    for name in ["second.example.test", "last.example.test"] {
        assert_eq!(stage.dig("shop/web", RESOLVER[0], name, "A", &[]).status, "REFUSED", "{name}");
    }
    let record = stage.record_of("first.example.test", |_| true);
    assert_eq!(record["dns"]["ttl"], 4, "{record:#}");
    stage.assert_closes("shop/web", SPARE[1], &told, Duration::from_secs(4));
}

#[test]
fn an_address_of_two_names_closes_with_the_last_of_them() {
    let two = egress(
        "  - to: [ { fqdns: [ { matchName: www.example.org } ] } ]\n    ports: [ { port: 9418 } ]\n  \
         - to: [ { fqdns: [ { matchName: shop.example.org } ] } ]\n    ports: [ { protocol: UDP, port: 9418 } ]",
    );
    let Some(stage) = Stage::start(&two, &[]) else { return };
    stage.look_up("shop/web", "www.example.org");
    let reaches = |protocol, wait| stage.reaches("shop/web", WWW[0], protocol, wait);
    assert!(reaches(Protocol::Tcp, LONG));
    assert!(!reaches(Protocol::Udp, crate::scene::SHORT), "the other name's rule has not been asked for");
    stage.look_up("shop/web", "shop.example.org");
    assert!(reaches(Protocol::Tcp, LONG) && reaches(Protocol::Udp, LONG));
    assert!(stage.is_closed("shop/web", API[0]));
    assert!(stage.scene.programs.admin(NODE, "/metrics").is_some_and(|text| text.contains("sluice_dns_lookups")));
}
