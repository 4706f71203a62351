//! The peers of a rule, each beside the entry that it was written as.

use sluice_policy::Direction;
use sluice_policy::source::{Action, Peer, PolicyKind, PolicyRef};

use crate::cluster_policy;
use crate::diagnostic::{At, Report};
use crate::peer::peer;
use crate::policy::home;
use crate::rule::{Context, Dialect};
use crate::value::Value;

/// What each entry of `from` (or `to`) of a rule of `policy` was understood as: one item for each entry, in their order, empty
/// where the entry can't be read. (A rule's own peers leave such entries out.) What is wrong is for [`lower`](crate::lower) to say.
pub fn peers_of_rule(rule: &Value, policy: &PolicyRef, direction: Direction) -> Vec<Vec<Peer>> {
    let name = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let Some(entries) = rule.get(name).and_then(Value::as_list) else { return Vec::new() };
    let context = Context { dialect: Dialect::of(policy.kind), namespaces: home(policy) };
    let mut report = Report::default();
    let read = |entry: &Value| {
        let at = At::root(entry.line);
        if policy.kind == PolicyKind::ClusterNetworkPolicy {
            return cluster_policy::peer(entry, direction, Action::Allow, at, &mut report).unwrap_or_default();
        }
        let partly = peer(entry, direction, &context, Action::Allow, at, &mut report);
        partly.open.filter(|_| partly.complete).into_iter().collect()
    };
    entries.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_cannot_be_read_keeps_its_place() {
        let text = "from: [ { podSelector: {} }, { podselector: {} }, { ipBlock: { cidr: 10.0.0.0/8 } } ]\n";
        let rule = &crate::read(text, "test").documents[0].value;
        let policy = PolicyRef { kind: PolicyKind::NetworkPolicy, namespace: "shop".into(), name: "web".into() };
        let lengths: Vec<usize> = peers_of_rule(rule, &policy, Direction::Ingress).iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 0, 1]);
        assert_eq!(peers_of_rule(rule, &policy, Direction::Egress), Vec::<Vec<Peer>>::new());
    }
}
