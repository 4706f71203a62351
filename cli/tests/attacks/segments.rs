//! TCP segments that begin no connection in order, and SYNs that bring data along.

use sluice_testnet::ReversePath;

use crate::packet::{ACK, Ends, FIN, PSH, RST, SYN, Segment, TCP, URG};
use crate::stage::{Case, Family, Shot, Stage, everywhere, with_reverse_path};

fn odd_segments(stage: &mut Stage, ends: Ends) -> Vec<Shot> {
    // A cookie (RFC 7413), and the experimental option that came before it.
    let cookie = || vec![34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    let experimental = || vec![254, 12, 0xf9, 0x89, 1, 2, 3, 4, 5, 6, 7, 8];
    let kinds = [
        ("a SYN with data", SYN, vec![]),
        ("a SYN with data and a fast open cookie", SYN, cookie()),
        ("a SYN with data and an experimental cookie", SYN, experimental()),
        ("SYN and PSH", SYN | PSH, vec![]),
        ("SYN and URG", SYN | URG, vec![]),
        ("SYN with both ECN bits", SYN | 0xc0, vec![]),
        ("SYN and FIN", SYN | FIN, vec![]),
        ("SYN and RST", SYN | RST, vec![]),
        ("SYN and ACK first", SYN | ACK, vec![]),
        ("RST", RST, vec![]),
        ("RST and ACK", RST | ACK, vec![]),
        ("FIN", FIN, vec![]),
        ("FIN and ACK", FIN | ACK, vec![]),
        ("no flag", 0, vec![]),
        ("FIN, PSH and URG", FIN | PSH | URG, vec![]),
        ("every flag", 0xff, vec![]),
        ("data without a connection", ACK | PSH, vec![]),
        ("ACK", ACK, vec![]),
    ];
    let mut shots = Vec::new();
    for (number, (what, flags, options)) in (0..).zip(kinds) {
        let mut ends = ends;
        ends.from.set_port(ends.from.port() + number);
        shots.push(stage.shot(what, |text| {
            let acknowledged = if flags & ACK == 0 { 0 } else { 2000 };
            let segment = Segment { options, acknowledged, ..Segment::of(flags, text) };
            vec![ends.packet(TCP, &segment.encode(ends))]
        }));
    }
    shots
}

fn cases(stage: &mut Stage) -> Vec<Case<'static>> {
    let mut cases = Vec::new();
    for family in Family::BOTH {
        for (port, victim, to) in [(20_000, "plain", 9000), (20_100, "backend", 9000), (20_200, "backend", 8080)] {
            let ends = stage.ends(("attacker", port), (victim, to), family);
            let shots = odd_segments(stage, ends);
            cases.push(Case { from: "attacker", victim, shots });
        }
    }
    cases
}

#[test]
fn odd_segments_reach_no_server() {
    everywhere(|stage| {
        // Conntrack takes up connections in the middle, and the proxy's listener would take data with the SYN without a cookie.
        stage.node().ns().sysctl("netfilter/nf_conntrack_tcp_loose", "1").unwrap();
        stage.node().ns().sysctl("ipv4/tcp_fastopen", "1543").unwrap();
        let cases = cases(stage);
        stage.closed(&cases);
        assert_eq!(stage.scene.web.connections(), 0);
    });
}

/// A SYN on the way to the proxy is answered by it; what follows without a handshake is the proxy's to throw away.
#[test]
fn odd_segments_behind_a_syn_reach_no_server() {
    with_reverse_path(ReversePath::Off, |stage| {
        for family in Family::BOTH {
            let ends = stage.ends(("attacker", 21_000), ("backend", 8080), family);
            let first = stage.shot("SYN", |text| vec![ends.syn(text)]);
            let mut shots = vec![first];
            for (flags, what) in [(ACK | PSH, "data"), (FIN | ACK, "FIN"), (RST, "RST"), (SYN, "SYN"), (ACK | PSH, "data again")]
            {
                shots.push(stage.shot(what, |text| {
                    let segment = Segment { acknowledged: 5, sequence: 1001, ..Segment::of(flags, text) };
                    vec![ends.packet(TCP, &segment.encode(ends))]
                }));
            }
            stage.nothing_arrives(&[Case { from: "attacker", victim: "backend", shots }]);
        }
        stage.disarm();
        let ends = stage.ends(("attacker", 21_001), ("backend", 8080), Family::V4);
        let shots = vec![stage.shot("SYN", |text| vec![ends.syn(text)])];
        stage.all_arrives(&[Case { from: "attacker", victim: "backend", shots }]);
    });
}
