//! A node with pods, the engine and the kernel's rules, for the tests of the kernel part.

#![expect(unreachable_pub, reason = "the module belongs to several test programs")]
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod answer;
pub mod diverted;
pub mod frame;
pub mod packet;
pub mod proxy;
pub mod running;

use std::net::IpAddr;
use std::time::Duration;

use sluice_policy::snapshot::Change;
use sluice_policy::table::Touched;
use sluice_policy::view::Scope;
use sluice_policy::world::{Edit, World};
use sluice_policy::{Table, View};
use sluice_proxy::kernel::bridge::{Bridges, Form, Standing};
use sluice_proxy::kernel::routes::PolicyRouting;
use sluice_proxy::kernel::{Applied, Config, Kernel};
use sluice_testnet::{Layout, Net, Node, Options, Outcome, Pod, Port, Probe, Protocol, ReversePath};

/// How long a probe may stay unanswered before it counts as dropped.
pub const SILENCE: Duration = Duration::from_millis(400);

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// `true` where namespaces can be made; says so where not. As root nothing may be missing.
pub fn possible() -> bool {
    match sluice_testnet::capability() {
        Ok(()) => true,
        Err(why) => {
            assert!(!nix::unistd::geteuid().is_root(), "as root nothing may be skipped: {why}");
            println!("SKIPPED: {why}");
            false
        }
    }
}

/// The objects of a text of manifests, all of which must be right.
pub fn edits(manifests: &str) -> Vec<Edit> {
    let read = sluice_crds::read(manifests, "test");
    assert!(read.is_whole(), "{read:?}");
    let lowered = read.documents.iter().map(sluice_crds::lower_document);
    lowered
        .filter_map(|lowered| {
            assert!(lowered.is_valid(), "{lowered:?}");
            lowered.object.map(Edit::Put)
        })
        .collect()
}

/// A Pod object on `node`.
pub fn pod_yaml(node: &str, namespace: &str, name: &str, app: &str, addresses: &[&str]) -> String {
    let ips: Vec<String> = addresses.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}\n\
         spec:\n  nodeName: {node}\n  containers:\n  - name: main\n    ports:\n    \
         - {{name: web, containerPort: 8080}}\n    - {{name: dns, containerPort: 53, protocol: UDP}}\n\
         status: {{phase: Running, podIPs: [{}]}}\n",
        ips.join(", ")
    )
}

/// One node's engine, from objects to table.
pub struct Engine {
    pub world: World,
    pub view: View,
    pub table: Table,
}

impl Engine {
    pub fn new(node: &str) -> Self {
        Self { world: World::new(), view: View::new(Scope::Node(node.into())), table: Table::empty() }
    }

    pub fn edit(&mut self, edits: Vec<Edit>) -> Touched {
        let effects = self.world.apply(edits);
        let changes: Vec<Change> = self.view.delta(&self.world, &effects);
        let (table, touched) = self.table.apply(&changes).expect("the view's changes fit");
        self.table = table;
        touched
    }
}

/// A network with one node, `node-1`, whose kernel holds what the engine says.
pub struct Stage {
    pub net: Net,
    pub node: Node,
    pub engine: Engine,
    pub kernel: Kernel,
    /// In the layouts with a bridge.
    pub bridges: Option<Bridges>,
    pub form: Form,
}

/// Pods on a bridge, without and with bridge-nf-call-iptables.
pub const BRIDGES: [Layout; 2] = [Layout::Bridge { call_iptables: false }, Layout::Bridge { call_iptables: true }];

/// [`BRIDGES`], each with the forms of the redirect that are possible here. As root outside of user namespaces that is both.
pub fn bridges() -> Vec<(Layout, Form)> {
    let forms = forms();
    forms.into_iter().flat_map(|form| BRIDGES.map(|layout| (layout, form))).collect()
}

/// The forms of the redirect that are possible here.
pub fn forms() -> Vec<Form> {
    let Err(why) = sluice_ebpf_redirect::is_possible() else { return vec![Form::Classifier, Form::Bpf] };
    let users = std::fs::read_to_string("/proc/self/uid_map").expect("a map of users");
    let is_first_namespace = users.split_whitespace().eq(["0", "0", "4294967295"]);
    assert!(!(is_first_namespace && nix::unistd::geteuid().is_root()), "as root nothing may be skipped: {why}");
    println!("SKIPPED, `redirect: bpf`: {why}");
    vec![Form::Classifier]
}

/// `SLUICE_LAYOUT`: `routed` (default), `bridge0`, `bridge1`.
#[expect(clippy::disallowed_methods, reason = "the one place where these tests read their environment")]
pub fn layout() -> Layout {
    match std::env::var("SLUICE_LAYOUT").as_deref() {
        Err(_) | Ok("routed") => Layout::Routed,
        Ok("bridge0") => BRIDGES[0],
        Ok("bridge1") => BRIDGES[1],
        Ok(other) => panic!("SLUICE_LAYOUT={other}: routed, bridge0 or bridge1"),
    }
}

impl Stage {
    pub fn new(config: Config) -> Self {
        Self::laid_out(layout(), Form::Auto, config)
    }

    pub fn laid_out(layout: Layout, form: Form, config: Config) -> Self {
        // Without rp_filter: what is dropped shall be dropped by our rules.
        let options = Options { layout, reverse_path: ReversePath::Off };
        let net = Net::with(options).expect("a network");
        let node = net.add_node("node-1", &[]).expect("a node");
        let mark = config.mark;
        let table = config.routing_table;
        let uplinks = config.uplinks.clone();
        let (kernel, bridges) = node.ns().run(|| {
            PolicyRouting::new(mark, table, 100).expect("routing").install().expect("rules and routes");
            let bridges = (layout != Layout::Routed).then(|| Bridges::open(&uplinks, form).expect("bridges"));
            (Kernel::open(config).expect("nftables"), bridges)
        });
        let mut engine = Engine::new("node-1");
        let addresses: Vec<String> =
            node.addresses().iter().map(|ip| format!("{{type: InternalIP, address: \"{ip}\"}}")).collect();
        engine.edit(edits(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node-1}}\n\
             spec: {{podCIDRs: [10.0.1.0/24]}}\nstatus: {{addresses: [{}]}}\n",
            addresses.join(", ")
        )));
        Self { net, node, engine, kernel, bridges, form }
    }

    /// Another process, which knows nothing of the former one's.
    pub fn reopen_bridges(&mut self) {
        let form = self.form;
        self.bridges = None;
        self.bridges = Some(self.node.ns().run(|| Bridges::open(&[], form)).expect("bridges"));
    }

    /// A pod that exists, and that nobody has told the engine of.
    pub fn stranger(&self, name: &str, addresses: &[&str]) -> Pod {
        let ips: Vec<IpAddr> = addresses.iter().map(|a| ip(a)).collect();
        let pod = self.net.add_pod(&self.node, name, &ips).expect("a pod");
        let all = [Port::tcp(80), Port::tcp(8080), Port::tcp(9090), Port::udp(53), Port::udp(5353), Port::sctp(132)];
        self.net.serve_pod(&pod, &all).expect("servers");
        pod
    }

    /// A pod `namespace/name` with label `app: name`, known to the engine.
    pub fn pod(&mut self, name: &str, addresses: &[&str]) -> Pod {
        let pod = self.stranger(name, addresses);
        let (namespace, short) = name.split_once('/').expect("namespace/name");
        self.engine.edit(edits(&pod_yaml("node-1", namespace, short, short, addresses)));
        pod
    }

    /// Puts what the engine says in force, all of it.
    pub fn apply_whole(&mut self) -> Applied {
        let (table, kernel) = (&self.engine.table, &mut self.kernel);
        let applied = self.node.ns().run(|| kernel.apply(table, None, &[])).expect("a whole table");
        self.keep_bridges(None);
        applied
    }

    /// Puts a change in force, as a small one.
    pub fn change(&mut self, manifests: &str) -> Applied {
        self.change_by(edits(manifests))
    }

    pub fn change_by(&mut self, edits: Vec<Edit>) -> Applied {
        let touched = self.engine.edit(edits);
        let (table, kernel) = (&self.engine.table, &mut self.kernel);
        let applied = self.node.ns().run(|| kernel.apply(table, Some(&touched), &[])).expect("a change");
        self.keep_bridges(Some(&touched));
        applied
    }

    fn keep_bridges(&mut self, touched: Option<&Touched>) {
        let table = &self.engine.table;
        if let Some(bridges) = &mut self.bridges {
            self.node.ns().run(|| bridges.keep(table, touched)).expect("the bridges");
            self.follow_foreign();
        }
    }

    /// Tells the kernel's part of the bridges that aren't pods'.
    pub fn follow_foreign(&mut self) {
        let (bridges, kernel) = (self.bridges.as_ref().expect("a layout with a bridge"), &mut self.kernel);
        if kernel.set_foreign_bridges(&bridges.foreign()) {
            self.node.ns().run(|| kernel.refresh_uplinks()).expect("a whole table");
        }
    }

    /// What the enforcer does between tables.
    pub fn tick(&mut self) -> Standing {
        let bridges = self.bridges.as_mut().expect("a layout with a bridge");
        self.node.ns().run(|| bridges.tick()).expect("the bridges")
    }

    /// Takes the rules away that decide about packets.
    pub fn unguard(&self) {
        let families: &[&str] = if self.bridges.is_some() { &["inet", "bridge"] } else { &["inet"] };
        for family in families {
            self.node.ns().exec("nft", &["delete", "table", family, "sluice"]).expect("the table was there");
        }
    }

    /// Takes away all that Sluice put into the kernel: filters of a bridge's ports in BPF judge by themselves.
    pub fn disarm(&self) {
        self.node.ns().run(Kernel::cleanup).expect("everything goes");
    }

    /// What `nft list ruleset` prints on the node.
    pub fn listing(&self) -> String {
        self.node.ns().exec("nft", &["-s", "list", "ruleset"]).expect("nft reads the ruleset")
    }

    pub fn probe(&self, rows: &[(&Pod, &str, u16, Protocol)]) -> Vec<Outcome> {
        let probes: Vec<Probe> = rows
            .iter()
            .map(|(from, to, port, protocol)| Probe {
                from: from.ns().clone(),
                source: None,
                to: ip(to),
                port: *port,
                protocol: *protocol,
            })
            .collect();
        self.net.probe(&probes, SILENCE)
    }

    /// Tries each row and compares with whether it shall get through.
    pub fn expect(&self, rows: &[(&Pod, &str, u16, Protocol, bool)]) {
        let tried: Vec<_> = rows.iter().map(|(from, to, port, protocol, _)| (*from, *to, *port, *protocol)).collect();
        let outcomes = self.probe(&tried);
        let mut wrong = Vec::new();
        for ((from, to, port, protocol, through), outcome) in rows.iter().zip(outcomes) {
            if outcome.is_connected() != *through {
                wrong.push(format!("{} -> {to}:{port} {protocol:?}: {outcome:?}, wanted through={through}", from.name()));
            }
        }
        assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), self.listing());
    }
}
