//! A name that has another address each time, as those of content networks do: each answer has one of 500.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_testnet::Protocol;
use sluice_testnet::dns::{Kind, Query, Record, Reply};

use super::race::{Client, denied_packets};
use super::{NODE, RESOLVERS, Stage, egress};
use crate::client::ip;
use crate::scene::{LONG, SHORT};

const NET: &str = "45.7.0.0/16";
const FIRST: Ipv4Addr = Ipv4Addr::new(45, 7, 0, 0);
const ADDRESSES: u32 = 500;
/// `dns.addressesPerName`, below [`ADDRESSES`].
const HELD: u32 = 400;
/// Look-ups of the name that is short of time: fewer than the bound.
const SHORT_LIVED: u32 = 300;
const SHORT_TTL: u32 = 4;

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(FIRST) + number % ADDRESSES).into()
}

/// The next address of the name that is asked for; `short.*` for [`SHORT_TTL`], others for five minutes.
fn rotating() -> impl FnMut(&Query) -> Vec<Reply> + Send {
    let mut asked_so_far = BTreeMap::<String, u32>::new();
    move |query| {
        let asked = query.message().expect("DNS");
        let name = &asked.questions[0].name;
        let number = asked_so_far.entry(name.clone()).or_default();
        let ttl = if name.starts_with("short.") { SHORT_TTL } else { 300 };
        let record = Record::address(name, ttl, address(*number));
        *number += 1;
        vec![Reply::message(&asked.reply().answer(record))]
    }
}

/// What `sluice names` says that `web` has of a name.
fn listed(stage: &Stage, name: &str) -> Vec<Value> {
    let arguments = ["names", "--pod", "shop/web", "--name", name, "-o", "json"];
    let text = stage.scene.node(NODE).ns().exec(env!("CARGO_BIN_EXE_sluice"), &arguments).unwrap();
    let mut answer: Value = serde_json::from_str(&text).unwrap();
    answer["names"].as_array_mut().map(std::mem::take).unwrap_or_else(|| panic!("{text}"))
}

fn displaced(stage: &Stage) -> u64 {
    let metrics = stage.scene.programs.admin(NODE, "/metrics").unwrap();
    let count = metrics.lines().find_map(|line| line.strip_prefix("sluice_names_displaced_total{bound=\"addressesPerName\"} "));
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{metrics}"))
}

/// Which of these connections come about.
fn open(stage: &Stage, numbers: &[u32], wait: Duration) -> Vec<u32> {
    let probe = |number: &u32| stage.probe("shop/web", &address(*number).to_string(), Protocol::Tcp);
    let probes: Vec<_> = numbers.iter().map(probe).collect();
    let outcomes = stage.scene.net.probe(&probes, wait);
    numbers.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_connected()).map(|(number, _)| *number).collect()
}

#[test]
fn each_of_five_hundred_addresses_is_open_for_its_time() {
    let rules = egress("  - to: [ { fqdns: [ { matchPattern: \"*.rotates.test\" } ] } ]");
    let bound = format!("dns.addressesPerName={HELD}");
    let arguments = ["--set", RESOLVERS, "--set", "dns.minTTLSeconds=1", "--set", &bound];
    let Some(stage) = Stage::start(&rules, &arguments) else { return };
    stage.lead_outside(NET);
    let _server = stage.serve_script(rotating());
    let web = stage.scene.pod("shop/web");
    let reach = |client: &mut Client, name: &str, number| {
        let before = Instant::now();
        assert_eq!(client.reach(name), address(number));
        before..Instant::now()
    };

    // One answer after the other, each with an address that no other had: the first ones make place for the last.
    web.ns().run(|| {
        let mut client = Client::open(Kind::A);
        for number in 0..ADDRESSES {
            reach(&mut client, "long.rotates.test", number);
        }
    });
    assert_eq!(denied_packets(&stage), 0, "no SYN came before its address was open");
    assert_eq!(displaced(&stage), u64::from(ADDRESSES - HELD));
    let left = listed(&stage, "long.rotates.test");
    let addresses: Vec<IpAddr> = left.iter().map(|line| ip(line["address"].as_str().unwrap())).collect();
    assert_eq!(addresses, (ADDRESSES - HELD..ADDRESSES).map(address).collect::<Vec<_>>(), "the newest, each once");
    assert!(left.iter().all(|line| line["rules"][0]["name"] == "outside" && line["pod"] == "web"), "{:#}", left[0]);
    let gone = [0, 1, 50, 98, 99];
    assert_eq!(open(&stage, &gone, SHORT), [0; 0], "the oldest are closed");
    let kept = [100, 101, 250, 399, 498, 499];
    assert_eq!(open(&stage, &kept, LONG), kept, "older answers hold as well");

    // With little time each.
    let told: Vec<_> = web.ns().run(|| {
        let mut client = Client::open(Kind::A);
        (0..SHORT_LIVED).map(|number| reach(&mut client, "short.rotates.test", number)).collect()
    });
    // The other name has those from 100 on.
    for number in [0, 99] {
        let ttl = Duration::from_secs(SHORT_TTL.into());
        stage.assert_closes("shop/web", &address(number).to_string(), &told[number as usize], ttl);
    }
    assert_eq!(open(&stage, &kept, LONG), kept);
    assert_eq!(displaced(&stage), u64::from(ADDRESSES - HELD), "what is over is not displaced");
}
