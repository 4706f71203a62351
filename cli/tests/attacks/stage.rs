//! A node with an attacker's pod among others, Sluice at work, and what of the attacker's packets arrives where.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use sluice_testnet::{Layout, Net, Node, Options, Pod, ReversePath, binary};

use crate::packet::{Ends, addresses};
use crate::scene::{LONG, PodSpec, Scene};
use crate::wire::{Mac, Wire, frame, link_address, packet_of};

/// The layouts in which every attack is tried.
const LAYOUTS: [Layout; 3] = [Layout::Routed, Layout::Bridge { call_iptables: false }, Layout::Bridge { call_iptables: true }];

/// How long is looked whether something arrives that must not.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

/// Each with an address of both families that end in the same number.
const PODS: [PodSpec<'static>; 7] = [
    ("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]),
    ("shop/backend", "node-1", &["10.1.0.2", "fd00:1::2"]),
    ("shop/plain", "node-1", &["10.1.0.3", "fd00:1::3"]),
    ("shop/attacker", "node-1", &["10.1.0.4", "fd00:1::4"]),
    ("shop/open", "node-1", &["10.1.0.5", "fd00:1::5"]),
    ("shop/isolated", "node-1", &["10.1.0.6", "fd00:1::6"]),
    ("shop/guarded", "node-1", &["10.1.0.7", "fd00:1::7"]),
];

/// `backend` is read at 8080, for `frontend` and `attacker`, and closed elsewhere. `plain` takes what `frontend` sends. `isolated`
/// neither sends nor takes anything. `guarded` takes everything but the attacker's packets to port 9000, which a Deny names. `open` has
/// no policy.
pub(crate) const POLICIES: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: shop }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } }, { podSelector: { matchLabels: { app: attacker } } } ]
    ports: [ { protocol: TCP, port: 8080 } ]
    http: [ { method: GET, path: "/api/.*" } ]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: plain, namespace: shop }
spec:
  podSelector: { matchLabels: { app: plain } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: isolated, namespace: shop }
spec: { podSelector: { matchLabels: { app: isolated } }, policyTypes: [ Ingress, Egress ] }
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: guarded, namespace: shop }
spec:
  podSelector: { matchLabels: { app: guarded } }
  ingress:
  - action: Deny
    from: [ { podSelector: { matchLabels: { app: attacker } } } ]
    ports: [ { protocol: TCP, port: 9000 }, { protocol: UDP, port: 9000 } ]
  - from: [ { podSelector: {} } ]
"#;

/// The pods' addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// What one attempt sends. Its packets carry a text of their own, by which it is known where they arrive.
pub(crate) struct Shot {
    pub(crate) what: String,
    pub(crate) packets: Vec<Vec<u8>>,
    /// VLAN tags, the outer one first.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) to: Option<Mac>,
    pub(crate) from: Option<Mac>,
    pub(crate) text: Vec<u8>,
    /// Whether it arrives where nobody enforces anything.
    pub(crate) arrives: bool,
}

impl Shot {
    pub(crate) fn tagged(self, tags: &[(u16, u16)]) -> Self {
        Self { tags: tags.to_vec(), ..self }
    }

    /// In frames to another than the next hop.
    pub(crate) fn to(self, mac: Mac) -> Self {
        Self { to: Some(mac), ..self }
    }

    /// In frames of another than the sender.
    pub(crate) fn by(self, mac: Mac) -> Self {
        Self { from: Some(mac), ..self }
    }

    /// Arrives only under this condition even where nobody enforces anything.
    pub(crate) fn arrives_if(self, arrives: bool) -> Self {
        Self { arrives, ..self }
    }
}

/// Attempts of one pod on another.
pub(crate) struct Case<'a> {
    pub(crate) from: &'a str,
    pub(crate) victim: &'a str,
    pub(crate) shots: Vec<Shot>,
}

/// See the module.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    pub(crate) layout: Layout,
    texts: u32,
}

/// Makes the attack in every layout.
pub(crate) fn everywhere(attack: impl Fn(&mut Stage)) {
    with_reverse_path(ReversePath::default(), attack);
}

/// [`everywhere`], on nodes with this `rp_filter`.
pub(crate) fn with_reverse_path(reverse_path: ReversePath, attack: impl Fn(&mut Stage)) {
    for layout in LAYOUTS {
        let options = Options { layout, reverse_path };
        let Some(scene) = Scene::start_on(options, &["node-1"], &PODS, POLICIES, &[]) else { return };
        println!("{layout:?}");
        attack(&mut Stage { scene, layout, texts: 0 });
    }
}

impl Stage {
    /// A pod of namespace `shop`.
    pub(crate) fn pod(&self, name: &str) -> Pod {
        self.scene.pod(&format!("shop/{name}"))
    }

    pub(crate) fn node(&self) -> Node {
        self.scene.node("node-1")
    }

    /// Whether the node's pods are on a bridge.
    pub(crate) fn has_bridge(&self) -> bool {
        self.layout != Layout::Routed
    }

    pub(crate) fn address(&self, pod: &str, family: Family) -> IpAddr {
        let all = self.pod(pod).addresses();
        all.into_iter().find(|address| family.has(*address)).expect("each pod has both")
    }

    pub(crate) fn node_address(&self, family: Family) -> IpAddr {
        *self.node().addresses().iter().find(|address| family.has(**address)).expect("a node has both")
    }

    pub(crate) fn outside(family: Family) -> IpAddr {
        match family {
            Family::V4 => Net::OUTSIDE_V4,
            Family::V6 => Net::OUTSIDE_V6,
        }
    }

    pub(crate) fn ends(&self, from: (&str, u16), to: (&str, u16), family: Family) -> Ends {
        Ends::new((self.address(from.0, family), from.1), (self.address(to.0, family), to.1))
    }

    /// A text of 20 bytes that no other attempt of this stage has.
    pub(crate) fn text(&mut self) -> Vec<u8> {
        self.texts += 1;
        format!("attempt-{:04}-tpmetta", self.texts).into_bytes()
    }

    /// An attempt whose packets are made around its text.
    pub(crate) fn shot(&mut self, what: impl Into<String>, packets: impl FnOnce(&[u8]) -> Vec<Vec<u8>>) -> Shot {
        let text = self.text();
        let packets = packets(&text);
        Shot { what: what.into(), packets, tags: Vec::new(), to: None, from: None, text, arrives: true }
    }

    pub(crate) fn wire(&self, pod: &str) -> Wire {
        Wire::open(self.pod(pod).ns(), "eth0")
    }

    pub(crate) fn mac(&self, pod: &str) -> Mac {
        self.pod(pod).ns().run(|| link_address("eth0").addr().unwrap())
    }

    /// The node's end of what the pod hangs on.
    pub(crate) fn gateway_mac(&self, pod: &str) -> Mac {
        let interface = if self.has_bridge() { Node::BRIDGE.to_owned() } else { self.pod(pod).interface().to_owned() };
        self.node().ns().run(|| link_address(&interface).addr().unwrap())
    }

    /// Where a pod's frames to this address go: a neighbour on the bridge, or the node.
    pub(crate) fn next_hop(&self, from: &str, to: IpAddr) -> Mac {
        let neighbour = PODS.iter().find(|(_, _, all)| all.iter().any(|address| address.parse() == Ok(to)));
        match neighbour.and_then(|(name, ..)| name.strip_prefix("shop/")) {
            Some(name) if self.has_bridge() => self.mac(name),
            _ => self.gateway_mac(from),
        }
    }

    /// Sends an IP packet out of a pod's interface.
    pub(crate) fn send(&self, from: &str, packet: &[u8]) {
        let wire = self.wire(from);
        let (_, to, ..) = addresses(packet).expect("an IP packet");
        wire.send(&frame(self.next_hop(from, to), wire.mac(), &[], packet));
    }

    fn fire(&self, from: &str, shots: &[Shot]) {
        let wire = self.wire(from);
        for shot in shots {
            for packet in &shot.packets {
                let to = shot.to.unwrap_or_else(|| self.next_hop(from, addresses(packet).expect("an IP packet").1));
                wire.send(&frame(to, shot.from.unwrap_or(wire.mac()), &shot.tags, packet));
            }
        }
    }

    /// Whether `text` arrives at `wire` before `wait` is over.
    pub(crate) fn arrives(wire: &Wire, text: &[u8], wait: Duration) -> bool {
        let end = Instant::now() + wait;
        loop {
            if wire.frames().iter().any(|frame| holds(frame, text)) {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What of these attempts arrives at its victim; looks until all did, or `wait` is over.
    pub(crate) fn arrived(&self, cases: &[Case<'_>], wait: Duration) -> Vec<String> {
        let wires: Vec<Wire> = cases.iter().map(|case| self.wire(case.victim)).collect();
        cases.iter().for_each(|case| self.fire(case.from, &case.shots));
        let wanted: usize = cases.iter().map(|case| case.shots.len()).sum();
        let mut seen = vec![Vec::new(); cases.len()];
        let mut arrived = Vec::new();
        let end = Instant::now() + wait;
        while arrived.len() < wanted && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            wires.iter().zip(&mut seen).for_each(|(wire, seen)| seen.extend(wire.frames()));
            arrived = Vec::new();
            for (case, seen) in cases.iter().zip(&seen) {
                let hit = case.shots.iter().filter(|shot| seen.iter().any(|frame| holds(frame, &shot.text)));
                arrived.extend(hit.map(|shot| format!("{} -> {}: {}", case.from, case.victim, shot.what)));
            }
        }
        arrived
    }

    /// Nothing of these attempts arrives; and the same frames do where nobody enforces anything. The stage is over with this.
    pub(crate) fn closed(&mut self, cases: &[Case<'_>]) {
        self.nothing_arrives(cases);
        self.disarm();
        self.all_arrives(cases);
    }

    pub(crate) fn nothing_arrives(&self, cases: &[Case<'_>]) {
        let arrived = self.arrived(cases, SILENCE);
        assert!(arrived.is_empty(), "{:?}: arrived:\n{}\n{}", self.layout, arrived.join("\n"), self.listing());
    }

    /// Of attempts that can: each arrives.
    pub(crate) fn all_arrives(&self, cases: &[Case<'_>]) {
        let wanted = cases.iter().flat_map(|case| case.shots.iter().map(move |shot| (case, shot)));
        let wanted = wanted.filter(|(_, shot)| shot.arrives);
        let mut missing: Vec<_> = wanted.map(|(case, shot)| format!("{} -> {}: {}", case.from, case.victim, shot.what)).collect();
        assert!(!missing.is_empty(), "nothing of this would ever arrive");
        let end = Instant::now() + LONG;
        while !missing.is_empty() && Instant::now() < end {
            // What was lost while a neighbour was asked for comes again.
            let arrived = self.arrived(cases, SILENCE);
            missing.retain(|what| !arrived.contains(what));
        }
        assert!(missing.is_empty(), "{:?}: does not arrive even where nothing is enforced:\n{}", self.layout, missing.join("\n"));
    }

    /// Ends the proxy and takes all that it put into the kernel away.
    pub(crate) fn disarm(&mut self) {
        self.scene.programs.kill_proxy("node-1");
        let program = binary("sluice-proxy").unwrap();
        let said = self.node().ns().exec(program.to_str().expect("a readable path"), &["cleanup"]);
        said.unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) fn listing(&self) -> String {
        self.node().ns().exec("nft", &["-s", "list", "ruleset"]).unwrap()
    }
}

/// Whether the frame carries the text.
pub(crate) fn holds(frame: &[u8], text: &[u8]) -> bool {
    frame.windows(text.len()).any(|window| window == text)
}

/// TCP segments among these frames.
pub(crate) fn segments(frames: &[Vec<u8>]) -> Vec<(Ends, crate::packet::Segment)> {
    frames.iter().filter_map(|frame| crate::packet::Segment::decode(packet_of(frame))).collect()
}
