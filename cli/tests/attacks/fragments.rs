//! Packets in pieces: cut so that no piece shows its ports, pieces that overlap, pieces of pieces, and some that stay away.

use sluice_testnet::wait_until;

use crate::packet::{DESTINATION, Ends, SYN, Segment, TCP, UDP, fragment, fragment_header, ipv6, udp};
use crate::scene::LONG;
use crate::stage::{Case, Family, SILENCE, Shot, Stage, everywhere, segments};

/// The text three times, each in 24 bytes.
fn thrice(text: &[u8]) -> Vec<u8> {
    let mut block = text.to_vec();
    block.resize(24, b' ');
    block.repeat(3)
}

/// The transport header, of 8 or 24 bytes, and the text behind it.
fn transport(ends: Ends, protocol: u8, text: &[u8]) -> Vec<u8> {
    match protocol {
        UDP => udp(ends, &thrice(text)),
        _ => Segment { options: vec![1; 4], ..Segment::of(SYN, &thrice(text)) }.encode(ends),
    }
}

/// One part of a packet: where it begins, its bytes, and whether it says that more follow.
type Part = (usize, Vec<u8>, bool);

/// Cuts at these places.
fn cut(bytes: &[u8], at: &[usize]) -> Vec<Part> {
    let from = [0].iter().chain(at);
    let upto = at.iter().chain([bytes.len()].iter()).copied().collect::<Vec<_>>();
    from.zip(upto).map(|(from, upto)| (*from, bytes[*from..upto].to_vec(), upto < bytes.len())).collect()
}

/// The same transport header to another port: what a second piece writes over the first.
fn elsewhere(ends: Ends, port: u16) -> Ends {
    let mut ends = ends;
    ends.to.set_port(port);
    ends
}

fn pieces(stage: &mut Stage, ends: Ends, first_identification: u16) -> Vec<Shot> {
    let mut shots = Vec::new();
    let mut identification = first_identification;
    for (protocol, header) in [(UDP, 8), (TCP, 24)] {
        let mut shot = |what: &str, parts: &dyn Fn(&[u8], &[u8]) -> Vec<Part>| {
            identification += 1;
            shots.push(stage.shot(format!("{what}, protocol {protocol}"), |text| {
                // The text goes to the closed port; another to one that is open to the attacker.
                let other = vec![b'.'; text.len()];
                let (closed, open) = (transport(ends, protocol, text), transport(elsewhere(ends, 9001), protocol, &other));
                let parts = parts(&closed, &open).into_iter();
                parts.map(|(offset, bytes, more)| fragment(ends, protocol, identification, offset, more, &bytes)).collect()
            }));
        };
        // The header and one of the three texts behind it.
        let first = header + 24;
        shot("the ports apart", &|closed, _| cut(closed, &[8]));
        shot("in many pieces", &|closed, _| cut(closed, &[8, 16, first, first + 24]));
        shot("backwards", &|closed, _| cut(closed, &[8, first]).into_iter().rev().collect());
        shot("a first piece alone", &|closed, _| vec![(0, closed[..first].to_vec(), true)]);
        shot("a later piece alone", &|closed, _| cut(closed, &[header]).into_iter().skip(1).collect());
        shot("a later piece that says more follow", &|closed, _| vec![(header, closed[header..].to_vec(), true)]);
        shot("a second piece over the first", &|closed, open| {
            vec![(0, open[..first].to_vec(), true), (0, closed[..first].to_vec(), true), (first, open[first..].to_vec(), false)]
        });
        shot("a longer piece over the first", &|closed, open| {
            let longer = first + 24;
            vec![
                (0, open[..first].to_vec(), true),
                (0, closed[..longer].to_vec(), true),
                (longer, open[longer..].to_vec(), false),
            ]
        });
        shot("a longer piece over one that came before", &|closed, open| {
            vec![
                (first, open[first..].to_vec(), false),
                (0, closed[..first + 24].to_vec(), true),
                (0, open[..first].to_vec(), true),
            ]
        });
        shot("the first piece twice, the closed port last", &|closed, open| {
            vec![(first, open[first..].to_vec(), false), (0, open[..8].to_vec(), true), (0, closed[..first].to_vec(), true)]
        });
    }
    shots
}

/// Fragments inside whole packets that have a fragment header themselves: what reassembles once leaves the inner ones.
fn pieces_of_pieces(stage: &mut Stage, ends: Ends, first_identification: u32) -> Vec<Shot> {
    let mut shots = Vec::new();
    let mut identification = first_identification;
    let (from, to) = (ends.from.ip(), ends.to.ip());
    for protocol in [UDP, TCP] {
        for (what, at) in [("the ports apart", 8_usize), ("the text apart", 24)] {
            identification += 10;
            shots.push(stage.shot(format!("inner pieces, {what}, protocol {protocol}"), |text| {
                let parts = cut(&transport(ends, protocol, text), &[at]).into_iter().zip(1..);
                let inner = parts.map(|((offset, bytes, more), number)| {
                    let outer = fragment_header(identification + number, 0, false);
                    ipv6(from, to, &[outer, fragment_header(identification, offset, more)], protocol, &bytes)
                });
                inner.collect()
            }));
        }
        identification += 10;
        shots.push(stage.shot(format!("inner pieces, the first without ports, protocol {protocol}"), |text| {
            let mut bytes = vec![DESTINATION, 0, 1, 4, 0, 0, 0, 0, protocol, 0, 1, 4, 0, 0, 0, 0];
            bytes.extend(transport(ends, protocol, text));
            let parts = cut(&bytes, &[8]).into_iter().zip(1..);
            let inner = parts.map(|((offset, bytes, more), number)| {
                let outer = fragment_header(identification + number, 0, false);
                ipv6(from, to, &[outer, fragment_header(identification, offset, more)], DESTINATION, &bytes)
            });
            inner.collect()
        }));
    }
    shots
}

const TARGETS: [(u16, &str, u16); 4] =
    [(9100, "plain", 9000), (9200, "backend", 9000), (9300, "backend", 8080), (9400, "guarded", 9000)];

#[test]
fn pieces_of_a_packet_are_judged_as_one() {
    everywhere(|stage| {
        let mut cases = Vec::new();
        for family in Family::BOTH {
            for (port, victim, to) in TARGETS {
                let ends = stage.ends(("attacker", port), (victim, to), family);
                let shots = pieces(stage, ends, port);
                cases.push(Case { from: "attacker", victim, shots });
            }
        }
        stage.closed(&cases);
    });
}

/// Where a rule denies and the rest is open, what shows no port is denied too: the node takes the outer header off, and the pod
/// puts the inner pieces together.
#[test]
fn pieces_inside_pieces_are_no_way_past_a_denial() {
    everywhere(|stage| {
        let mut cases = Vec::new();
        for (port, victim, to) in TARGETS {
            let ends = stage.ends(("attacker", port), (victim, to), Family::V6);
            let shots = pieces_of_pieces(stage, ends, u32::from(port) * 100);
            cases.push(Case { from: "attacker", victim, shots });
        }
        let server = stage.pod("guarded").ns().udp_bind((stage.address("guarded", Family::V6), 9000).into()).unwrap();
        server.set_nonblocking(true).unwrap();
        let arrived = stage.arrived(&cases, SILENCE);
        let mut bytes = [0; 128];
        let got = server.recv(&mut bytes).map(|length| String::from_utf8_lossy(&bytes[..length]).into_owned());
        assert!(got.is_err(), "the server got {got:?}");
        assert!(arrived.is_empty(), "arrived: {arrived:#?}");
        stage.disarm();
        stage.all_arrives(&cases);
    });
}

/// In pieces and allowed: a packet that policy lets pass arrives whole.
#[test]
fn pieces_of_an_allowed_packet_arrive() {
    everywhere(|stage| {
        for family in Family::BOTH {
            for (number, at) in (1..).zip([&[8][..], &[8, 24, 48], &[48]]) {
                let ends = stage.ends(("attacker", 9500 + number), ("guarded", 9001), family);
                let guarded = stage.pod("guarded").ns().udp_bind(ends.to).unwrap();
                guarded.set_read_timeout(Some(LONG)).unwrap();
                let text = thrice(&stage.text());
                for (offset, bytes, more) in cut(&udp(ends, &text), at) {
                    stage.send("attacker", &fragment(ends, UDP, 9500 + number, offset, more, &bytes));
                }
                let mut arrived = [0; 128];
                assert_eq!(guarded.recv(&mut arrived).unwrap(), text.len(), "{family:?} cut at {at:?}");
                assert_eq!(arrived[..text.len()], text[..]);
            }
            let text = thrice(&stage.text());
            // TCP in pieces to what is read reaches the proxy: it answers.
            let ends = stage.ends(("attacker", 9600), ("backend", 8080), family);
            let own = stage.wire("attacker");
            let syn = Segment { options: vec![1; 4], ..Segment::of(SYN, &text) }.encode(ends);
            // A first piece of IPv6 without the whole TCP header is thrown away (RFC 7112).
            for (offset, bytes, more) in cut(&syn, if family == Family::V4 { &[8, 16] } else { &[24, 48] }) {
                stage.send("attacker", &fragment(ends, TCP, 9600, offset, more, &bytes));
            }
            let answered = wait_until(LONG, || {
                segments(&own.frames()).iter().any(|(at, segment)| *at == ends.back() && segment.flags & SYN != 0)
            });
            assert!(answered, "{family:?}: the proxy answers a SYN in pieces");
        }
    });
}
