//! Answers of every form, and how denials are said.

use std::net::IpAddr;

use sluice_testnet::dns::{Kind, Message, Socket, Stream, Zone};
use sluice_testnet::wait_until;

use super::{API, GIT, NODE, RESOLVER, SPARE, Stage, WWW, egress, to_names};
use crate::client::ip;
use crate::scene::LONG;

const ALL: &str = "  - to: [ { fqdns: [ { matchPattern: \"*.example.test\" } ] } ]";

#[test]
fn what_is_cut_by_udp_is_learned_by_tcp() {
    let Some(mut stage) = Stage::start(&egress(ALL), &[]) else { return };
    let mut many: Vec<IpAddr> = (0..150).map(|n| ip(&format!("192.0.2.{n}"))).collect();
    many.extend([ip(SPARE[0]), ip(SPARE[1])]);
    stage.authority.change("example.test", |zone: Zone| zone.addresses("many.example.test", &many)).unwrap();
    let cut = stage.dig("shop/web", RESOLVER[0], "many.example.test", "A", &["+ignore"]);
    assert!(cut.is_truncated() && !cut.by_tcp, "{}", cut.text);
    assert!(stage.is_closed("shop/web", SPARE[1]), "what is cut teaches nothing");
    let whole = stage.look_up("shop/web", "many.example.test");
    assert!(whole.by_tcp && whole.answers.len() == many.len(), "{}", whole.text);
    for address in &SPARE[..2] {
        assert!(stage.opens_now("shop/web", (ip(address), GIT).into()), "{address}");
    }
}

#[test]
fn hints_and_odd_letters_are_learned() {
    let Some(mut stage) = Stage::start(&egress(ALL), &[]) else { return };
    let zone = |zone: Zone| {
        let hints = format!("alpn=h2 ipv4hint={} ipv6hint={}", SPARE[0], API[1]);
        zone.https("hints.example.test", 1, "", &hints).addresses("odd.example.test", &[ip(SPARE[1])])
    };
    stage.authority.change("example.test", zone).unwrap();
    assert_eq!(stage.dig("shop/web", RESOLVER[0], "hints.example.test", "HTTPS", &[]).answers.len(), 1);
    assert!(stage.connects("shop/web", SPARE[0]) && stage.connects("shop/web", API[1]));
    let odd = stage.look_up("shop/web", "oDd.ExAmPlE.tEsT");
    assert!(odd.text.contains("oDd.ExAmPlE.tEsT"), "the letters are the client's: {}", odd.text);
    assert!(stage.connects("shop/web", SPARE[1]));
    // DNSSEC's bit and sizes are the client's and the server's.
    let signed = stage.dig("shop/web", RESOLVER[0], "odd.example.test", "A", &["+dnssec", "+bufsize=4096"]);
    assert_eq!(signed.status, "NOERROR", "{}", signed.text);
    assert!(signed.text.contains("flags: do"), "{}", signed.text);
}

#[test]
fn a_denial_may_be_said_as_no_such_name() {
    let Some(stage) = Stage::start(&to_names(&["api.github.com"]), &["--set", "dns.denyWith=NXDOMAIN"]) else { return };
    for options in [&[][..], &["+tcp"][..]] {
        let denied = stage.dig("shop/web", RESOLVER[0], "www.example.org", "A", options);
        assert_eq!(denied.status, "NXDOMAIN", "{}", denied.text);
        assert!(denied.extended_errors[0].1.contains("shop/outside"), "{}", denied.text);
    }
    assert_eq!(stage.record_of("www.example.org", |_| true)["dns"]["rcode"], "NXDOMAIN");
}

/// One socket and one connection that were there before the rules, and are there after them.
#[test]
fn rules_come_and_go_under_open_sockets() {
    let Some(mut stage) = Stage::start("", &[]) else { return };
    let web = stage.scene.pod("shop/web");
    let server = (ip(RESOLVER[0]), 53).into();
    let mut socket = Socket::open(web.ns(), server).unwrap();
    let asks = |socket: &mut Socket, name: &str| {
        let answer = socket.ask(name, Kind::A, LONG).unwrap().expect("an answer").message().expect("DNS");
        (answer.rcode, answer.addresses())
    };
    let mut stream = Stream::open(web.ns(), server, LONG).unwrap();
    stream.send(&[Message::query(1, "www.example.org", Kind::A)]).unwrap();
    assert_eq!(Message::parse(&stream.receive().unwrap()).unwrap().addresses(), [ip(WWW[0])]);
    for round in 0..3 {
        assert_eq!(asks(&mut socket, "www.example.org"), (0, vec![ip(WWW[0])]), "{round}: free");
        stage.scene.policies(&to_names(&["api.github.com"]));
        assert_eq!(asks(&mut socket, "www.example.org"), (5, vec![]), "{round}: from the port of an answered question");
        assert_eq!(asks(&mut socket, "api.github.com"), (0, vec![ip(API[0])]), "{round}");
        assert!(stage.opens_now("shop/web", (ip(API[0]), GIT).into()), "{round}");
        if round == 0 {
            let _ = stream.send(&[Message::query(2, "www.example.org", Kind::A)]);
            assert!(stream.receive().is_err(), "a connection that began unread ends");
        }
        stage.scene.remove("policies.yaml");
        // What the rules cut stays cut for a while: another one that begins without them.
        socket = Socket::open(web.ns(), server).unwrap();
    }
    // A rule that goes takes its addresses along.
    stage.scene.policies(&to_names(&["api.github.com", "www.example.org"]));
    assert_eq!(asks(&mut socket, "www.example.org"), (0, vec![ip(WWW[0])]));
    assert!(stage.opens_now("shop/web", (ip(WWW[0]), GIT).into()));
    stage.scene.policies(&to_names(&["api.github.com"]));
    assert!(stage.is_closed("shop/web", WWW[0]));
    assert!(stage.opens_now("shop/web", (ip(API[0]), GIT).into()), "what is remembered of another rule's name stays");
    // Over a restart the same socket goes on.
    stage.scene.programs.kill_proxy(NODE);
    stage.scene.programs.start_proxy(NODE).unwrap();
    stage.scene.programs.wait_ready(NODE, LONG).unwrap();
    assert!(wait_until(LONG, || asks(&mut socket, "api.github.com") == (0, vec![ip(API[0])])));
}
