//! Sums that must come out, whatever is lost on the way.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use sluice_policy::{Direction, Protocol};

use super::*;

const SITE: Site = Site::Isolated(Direction::Egress);
const BUDGET: Budget = Budget::Pod(Direction::Egress);

fn pod(number: u8) -> Subject {
    Subject::Address(IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)))
}

fn flow(port: u16) -> Headers {
    let at = |host, port| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), port);
    Headers { source: at(1, port), destination: at(2, 80), protocol: Protocol::Tcp, icmp: None }
}

fn counted(packets: u64) -> Vec<Tally> {
    vec![Tally { subject: pod(1), packets, expires: Duration::from_secs(600) }]
}

/// A second goes by: what was read a second ago counts, and the counters are read.
fn second(ledger: &mut Ledger, now: &mut Instant, packets: u64) -> Vec<Entry> {
    *now += Duration::from_secs(1);
    ledger.settle();
    ledger.read(BUDGET, &counted(packets), *now);
    let due = ledger.due(*now, false);
    ledger.forget(*now);
    due
}

#[test]
fn attempts_again_are_one_record_and_said_within_ten_seconds() {
    let (mut ledger, mut now) = (Ledger::default(), Instant::now());
    let entry = ledger.report(pod(1), SITE, flow(1), now).expect("the first is recorded");
    assert_eq!(entry.left_out, 0);
    assert_eq!(ledger.report(pod(1), SITE, flow(1), now + Duration::from_secs(1)), None);
    let waited: Vec<usize> = (0..20).map(|_| second(&mut ledger, &mut now, 2).len()).collect();
    assert_eq!(waited.iter().sum::<usize>(), 1, "{waited:?}");
    assert!(waited.iter().position(|due| *due == 1).is_some_and(|seconds| seconds < 10), "{waited:?}");
}

#[test]
fn the_next_record_of_the_pod_says_what_was_left_out() {
    let (mut ledger, mut now) = (Ledger::default(), Instant::now());
    ledger.report(pod(1), SITE, flow(1), now).expect("recorded");
    second(&mut ledger, &mut now, 50);
    assert_eq!(ledger.report(pod(1), SITE, flow(2), now).map(|e| e.left_out), Some(0), "reports may still be on their way");
    second(&mut ledger, &mut now, 51);
    assert_eq!(ledger.report(pod(2), SITE, flow(3), now).map(|e| e.left_out), Some(0), "another pod's business");
    assert_eq!(ledger.report(pod(1), SITE, flow(4), now).map(|e| e.left_out), Some(48));
}

#[test]
fn what_was_counted_before_the_start_is_not_told() {
    let (mut ledger, mut now) = (Ledger::default(), Instant::now());
    ledger.begin(BUDGET, &counted(1000), now);
    for _ in 0..20 {
        assert_eq!(second(&mut ledger, &mut now, 1000), []);
    }
    assert_eq!(ledger.report(pod(1), SITE, flow(1), now).map(|e| e.left_out), Some(0));
}

#[test]
fn a_counter_that_begins_anew_makes_no_debt() {
    let (mut ledger, mut now) = (Ledger::default(), Instant::now());
    ledger.report(pod(1), SITE, flow(1), now);
    second(&mut ledger, &mut now, 100);
    second(&mut ledger, &mut now, 100);
    ledger.report(pod(1), SITE, flow(2), now);
    second(&mut ledger, &mut now, 101);
    // Somebody removed the table; two packets since, one of them recorded.
    ledger.report(pod(1), SITE, flow(3), now);
    second(&mut ledger, &mut now, 2);
    second(&mut ledger, &mut now, 2);
    assert_eq!(ledger.report(pod(1), SITE, flow(4), now).map(|e| e.left_out), Some(1));
}

#[test]
fn memory_has_a_bound() {
    let (mut ledger, now) = (Ledger::default(), Instant::now());
    for number in 0..u32::try_from(MOST_ACCOUNTS).unwrap() + 10 {
        ledger.report(Subject::Interface(number), Site::Forged, flow(u16::try_from(number % 60_000).unwrap()), now);
    }
    assert!(ledger.accounts.len() <= MOST_ACCOUNTS && ledger.recorded.len() <= MOST_FLOWS);
    ledger.forget(now + Duration::from_secs(3600));
    assert!(ledger.accounts.is_empty() && ledger.recorded.is_empty());
}

proptest! {
    /// Packets of which some are reported and some reports lost, in any order with the readings.
    #[test]
    fn records_and_what_was_left_out_are_all_packets(events in prop::collection::vec((0_u8..4, 0_u16..5), 0..300)) {
        let (mut ledger, mut now) = (Ledger::default(), Instant::now());
        let (mut packets, mut told) = (0_u64, 0_u64);
        let tell = |entry: Entry| 1 + entry.left_out;
        for (what, port) in events {
            match what {
                0 => told += second(&mut ledger, &mut now, packets).into_iter().map(tell).sum::<u64>(),
                1 => packets += 1,
                _ => {
                    packets += 1;
                    told += ledger.report(pod(1), SITE, flow(port), now).map_or(0, tell);
                }
            }
            prop_assert!(told <= packets);
        }
        packets += 1;
        told += ledger.report(pod(1), SITE, flow(9), now).map_or(0, tell);
        for _ in 0..12 {
            told += second(&mut ledger, &mut now, packets).into_iter().map(tell).sum::<u64>();
        }
        prop_assert_eq!(told, packets);
    }
}
