//! Look-ups of pods that have rules by name: each datagram and segment is handed to the proxy's listeners for DNS.
//!
//! This comes before anything that trusts a flow, tracked or not (node-local DNS takes its packets out of tracking). What comes after the
//! spoof check and before it:
//!
//! | rule | without it |
//! |---|---|
//! | `ip saddr . ip daddr @itself`: accept | A pod's own server on port 53 would be asked by the proxy. |
//! | to 127.0.0.0/8: drop | With `route_localnet` the proxy would ask the node's own resolver for the pod. |
//! | IPv6, a fragment header: drop | As in `live`. |
//! | datagrams of a pod beyond its share of a second: drop | One pod's flood would fill the queue that all pods' look-ups wait in. |
//! | the label *diverted*: of TCP where it begins, of UDP always | The proxy's answer makes a flow of what it answers. The server, which was never asked, could send to the pod as if it answered too, past all that the pod may receive; and a connection would be ended as one that nobody reads when the next table comes. |
//!
//! The proxy answers datagrams by sockets that are transparent, since `output` turns back what else is said in a labelled flow. A
//! connection from before the policy gets no label, so that it ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::config::Config;
use super::super::denied;
use super::super::expr::{self, Address};
use super::super::names::Edition;
use super::super::object::{Chain, Family, Rule, Verdict};
use super::super::ration::{self, Ration};
use super::super::site::Site;
use super::sets::{ASKING, ITSELF, LOOKUPS};

const DIVERT: &str = "lookups_divert";

/// In `from_pod`.
pub(super) fn from_pod(config: &Config, family: Family, edition: Edition) -> Option<Rule> {
    let asked = expr::address_protocol_and_port_in(family, Address::Source, &edition.sets_of(LOOKUPS, family));
    config.looks_up.then(|| Rule::new([asked], &Verdict::Goto(edition.sets_of(DIVERT, family))).because("look-ups are judged"))
}

pub(super) fn chain(config: &Config, family: Family, edition: Edition) -> Option<Chain> {
    config.looks_up.then(|| Chain { name: edition.sets_of(DIVERT, family), rules: divert(config, family, edition) })
}

fn divert(config: &Config, family: Family, edition: Edition) -> Vec<Rule> {
    let itself = expr::both_addresses_in(family, &edition.sets_of(ITSELF, family));
    let mut rules = vec![Rule::new([itself], &Verdict::Accept).because("a pod to itself")];
    let listener = match family {
        Family::V4 => {
            let loopback = [expr::family(family), expr::destination_begins(family, &[Ipv4Addr::LOCALHOST.octets()[0]])];
            rules.push(Rule::new(loopback, &denied::goto(Site::ToLoopback, edition)).because("the node's loopback from outside"));
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        }
        Family::V6 => {
            rules.push(Rule::new([expr::fragment_header()], &Verdict::Drop).because("fragments inside fragments"));
            IpAddr::V6(Ipv6Addr::LOCALHOST)
        }
    };
    if config.diverts {
        if let Some(per_second) = config.look_ups_per_second {
            let ration = Ration { per_second, burst: per_second.get().div_ceil(2) };
            let beyond = ration::address_beyond(family, Address::Source, &edition.sets_of(ASKING, family), ration);
            let flood = [expr::protocol(expr::UDP), expr::family(family), beyond];
            rules.push(Rule::new(flood, &denied::goto(Site::Flood, edition)).because("more look-ups than one pod may ask"));
        }
        rules.push(Rule::acting([expr::protocol(expr::TCP), expr::state(expr::NEW), expr::set_label(config.label_bit)]));
        rules.push(Rule::acting([expr::protocol(expr::UDP), expr::set_label(config.label_bit)]));
        rules.extend([expr::TCP, expr::UDP].map(|protocol| {
            let taken = [expr::family(family), expr::protocol(protocol), expr::tproxy(listener, config.dns_port)];
            Rule::new(taken.into_iter().chain([expr::set_mark(config.mark.value, config.mark.mask)]), &Verdict::Accept)
        }));
    }
    rules.push(Rule::new([], &denied::goto(Site::Unheard, edition)).because("nobody listens"));
    rules
}
