//! What a pod may not say, whatever policies say, because only others have a right to: routers, ends of flows, ends of tunnels.
//!
//! [`base`](super::base) has the reasons in its tables.

use super::base::{INSIDE, ITSELF};
use super::expr;
use super::names::Edition;
use super::object::{Family, Rule, Verdict};

/// ICMP of a pod about a flow that it is no end of, or about none, leaves the chain of flows that were judged: nothing there is
/// its, and it is judged like any packet.
///
/// The pod is an end if it has the address from which the flow's packets come in the direction that the error has: behind
/// any translation the flow's own record of it, which a rule can compare with the packet's source by way of the set of pairs of
/// one address.
pub(super) fn errors(family: Family, edition: Edition) -> [Rule; 3] {
    let icmp = if family == Family::V4 { expr::ICMP } else { expr::ICMPV6 };
    let of_a_pod = |states| [expr::state(states), expr::protocol(icmp), expr::interface_in(&edition.name(INSIDE))].concat();
    let itself = edition.sets_of(ITSELF, family);
    let about_others = |direction| expr::sender_is_not_the_flows(family, direction, &itself);
    [
        Rule::new([of_a_pod(expr::INVALID)], &Verdict::Return),
        Rule::new([of_a_pod(expr::RELATED), about_others(expr::ORIGINAL)], &Verdict::Return),
        Rule::new([of_a_pod(expr::RELATED), about_others(expr::REPLY)], &Verdict::Return),
    ]
}
