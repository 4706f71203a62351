//! The ports of a bridge: closed from the first frame, opened for their own pods, kept so, and left as they were found.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use kernel_stage::frame;
use kernel_stage::packet::{arrived, forge, listen, unbroken};
use kernel_stage::running::Running;
use kernel_stage::{BRIDGES, SILENCE, Stage, bridges, edits, forms, ip, pod_yaml, possible};
use sluice_policy::source::{Key, PodRef};
use sluice_policy::world::Edit;
use sluice_proxy::feed::Extent;
use sluice_proxy::kernel::bridge::{Form, Standing};
use sluice_proxy::kernel::{Config, Kernel};
use sluice_testnet::Protocol::{Tcp, Udp};
use sluice_testnet::{Layout, Netns, Node, Pod, wait_until};

const LONG: Duration = Duration::from_secs(10);
const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n";

/// Pods `a` and `b`, which no policy selects.
fn scene(layout: Layout, form: Form) -> (Stage, Pod, Pod) {
    let mut stage = Stage::laid_out(layout, form, Config::default());
    let a = stage.pod("x/a", &["10.0.1.1", "fd00:1::1"]);
    let b = stage.pod("x/b", &["10.0.1.2", "fd00:1::2"]);
    stage.engine.edit(edits(NAMESPACE));
    (stage, a, b)
}

fn applied(layout: Layout, form: Form) -> (Stage, Pod, Pod) {
    let (mut stage, a, b) = scene(layout, form);
    stage.apply_whole();
    (stage, a, b)
}

/// Sends from the pod until `inbox` has something, and says how long that took.
fn until_heard(from: &Pod, to: SocketAddr, inbox: &UdpSocket) -> Duration {
    let socket = from.ns().udp_bind(SocketAddr::new(from.v4().unwrap(), 0)).unwrap();
    inbox.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    let began = Instant::now();
    while began.elapsed() < LONG {
        socket.send_to(b"hello", to).unwrap();
        if arrived(inbox).is_some() {
            return began.elapsed();
        }
    }
    panic!("nothing is heard from {}", from.name());
}

fn remove(name: &str) -> Vec<Edit> {
    vec![Edit::Remove(Key::Pod(PodRef { namespace: "x".into(), name: name.into() }))]
}

#[test]
fn a_port_is_closed_from_its_first_frame_and_opens_with_the_table() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let (mut stage, a, b) = scene(layout, form);
        let running = Running::start(&stage);
        running.hand_over(&stage.engine.table, Extent::Whole);
        stage.expect(&[(&a, "10.0.1.2", 80, Tcp, true)]);
        // A port that nobody has told of, known to the table later.
        let stranger = stage.stranger("x/c", &["10.0.1.3"]);
        stage.expect(&[(&stranger, "10.0.1.2", 80, Tcp, false), (&stranger, "203.0.113.10", 0, Tcp, false)]);
        let to = SocketAddr::new(ip("10.0.1.2"), 7777);
        let inbox = listen(b.ns(), to);
        forge(stranger.ns(), SocketAddr::new(ip("10.0.1.3"), 1), to, &[], "early");
        assert_eq!(arrived(&inbox), None);
        let touched = stage.engine.edit(edits(&pod_yaml("node-1", "x", "c", "c", &["10.0.1.3"])));
        running.hand_over(&stage.engine.table, Extent::Touched(touched));
        let took = until_heard(&stranger, to, &inbox);
        println!("{:?} {form:?}: open {took:?} after its table was in force", layout);
        assert!(took < Duration::from_secs(3), "{took:?}");
        // A pod that the table knows before it is there.
        let touched = stage.engine.edit(edits(&pod_yaml("node-1", "x", "d", "d", &["10.0.1.4"])));
        running.hand_over(&stage.engine.table, Extent::Touched(touched));
        let late = stage.stranger("x/d", &["10.0.1.4"]);
        let took = until_heard(&late, to, &inbox);
        println!("{:?} {form:?}: open {took:?} after its port was there", layout);
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert!(wait_until(LONG, || running.metrics.bridge_ports.get() == 4));
        assert_eq!(running.metrics.bridge_ports_unidentified.get(), 0);
        stage.expect(&[(&late, "10.0.1.3", 80, Tcp, true), (&stranger, "10.0.1.4", 53, Udp, true)]);
        // And one that goes is closed at once.
        let touched = stage.engine.edit(remove("c"));
        running.hand_over(&stage.engine.table, Extent::Touched(touched));
        let filters = stage.node.ns().exec("tc", &["filter", "show", "dev", stranger.interface(), "ingress"]).unwrap();
        assert_eq!(filters.trim(), "", "the pod has gone from the table");
        stage.expect(&[(&stranger, "10.0.1.2", 80, Tcp, false)]);
    }
}

/// Two namespaces on a bridge that nobody knows.
#[test]
fn a_bridge_that_appears_later_is_closed_from_its_first_frame() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let (stage, ..) = applied(layout, form);
        let ns = stage.node.ns();
        ns.exec("ip", &["link", "add", "br9", "up", "type", "bridge"]).unwrap();
        let [one, two] = ["1", "2"].map(|last| {
            let end = Netns::new("end").unwrap();
            let path = end.path().display().to_string();
            let here = format!("late{last}");
            ns.exec("ip", &["link", "add", &here, "type", "veth", "peer", "name", "eth0", "netns", &path]).unwrap();
            ns.exec("ip", &["link", "set", &here, "master", "br9", "up"]).unwrap();
            end.exec("ip", &["address", "add", &format!("10.9.0.{last}/24"), "dev", "eth0"]).unwrap();
            end.exec("ip", &["link", "set", "eth0", "up"]).unwrap();
            end
        });
        let to: SocketAddr = "10.9.0.2:7777".parse().unwrap();
        let inbox = listen(&two, to);
        let sender = one.udp_bind("10.9.0.1:0".parse().unwrap()).unwrap();
        let send = || (0..20).any(|_| sender.send_to(b"hello", to).is_ok() && arrived(&inbox).is_some());
        assert!(!send(), "{:?}: {}", layout, stage.listing());
        stage.unguard();
        assert!(send(), "where nothing guards it, it does pass");
    }
}

#[test]
fn what_somebody_takes_away_leaves_ports_closed_until_it_is_back() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let (mut stage, a, b) = applied(layout, form);
        let through = |stage: &Stage, is: bool| {
            stage.expect(&[(&a, "10.0.1.2", 80, Tcp, is), (&a, "fd00:1::2", 80, Tcp, is), (&b, "10.0.1.1", 53, Udp, is)]);
        };
        through(&stage, true);
        let on = |pod: &Pod| pod.interface().to_owned();
        let (port, other) = (on(&a), on(&b));
        for harm in [
            vec![vec!["tc", "qdisc", "del", "dev", &port, "clsact"], vec!["tc", "qdisc", "del", "dev", &other, "clsact"]],
            vec![vec!["tc", "filter", "del", "dev", &port, "ingress"], vec!["tc", "filter", "del", "dev", &other, "ingress"]],
            vec![vec!["nft", "delete", "table", "netdev", "sluice"]],
        ] {
            for command in &harm {
                stage.node.ns().exec(command[0], &command[1..]).unwrap();
            }
            // BPF addresses the frames to the bridge: they are the node's without that table, which follows when the address changes.
            through(&stage, form == Form::Bpf && harm[0].contains(&"netdev"));
            std::thread::sleep(Duration::from_millis(550));
            stage.tick();
            through(&stage, true);
        }
        // Ours, of IPv4 alone or of both, and one of somebody else's, which would let a neighbour's address in.
        let ns = stage.node.ns().clone();
        let ours = if form == Form::Bpf { "1" } else { "83" };
        ns.exec("tc", &["filter", "del", "dev", &port, "ingress", "prio", ours]).unwrap();
        let admit = ["match", "ip", "src", "10.0.1.2/32", "action", "mirred", "ingress", "redirect", "dev", Node::BRIDGE];
        let head = ["filter", "add", "dev", &port, "ingress", "protocol", "ip", "prio", "83", "u32"];
        ns.exec("tc", &[&head[..], &admit[..]].concat()).unwrap();
        stage.tick();
        through(&stage, true);
        let filters = ns.exec("tc", &["filter", "show", "dev", &port, "ingress"]).unwrap();
        assert!(!filters.contains("0a000102"), "{filters}");
        // Without the table what isn't redirected passes; it comes back by itself.
        ns.exec("nft", &["delete", "table", "bridge", "sluice"]).unwrap();
        std::thread::sleep(Duration::from_millis(550));
        stage.tick();
        assert!(stage.listing().contains("table bridge sluice"));
        through(&stage, true);
    }
}

#[test]
fn a_pod_that_takes_anothers_address_gains_nothing() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let (mut stage, thief, b) = applied(layout, form);
        for address in ["10.0.1.2/32", "fd00:1::2/128"] {
            thief.ns().exec("ip", &["address", "add", address, "dev", "eth0"]).unwrap();
        }
        let c = stage.stranger("x/c", &["10.0.1.3", "fd00:1::3"]);
        let change = pod_yaml("node-1", "x", "c", "c", &["10.0.1.3", "fd00:1::3"]);
        stage.change(&change);
        // A process that starts now finds both addresses behind the thief's port, and what its predecessor said of it.
        for is_new in [false, true] {
            if is_new {
                stage.reopen_bridges();
                stage.apply_whole();
            }
            assert_eq!(stage.tick(), Standing { bound: 3, unidentified: 0 });
            for (from, to) in [("10.0.1.2", "10.0.1.3"), ("fd00:1::2", "fd00:1::3")] {
                let inbox = listen(c.ns(), SocketAddr::new(ip(to), 7777));
                forge(thief.ns(), SocketAddr::new(ip(from), 1), SocketAddr::new(ip(to), 7777), &[], "as b");
                assert_eq!(arrived(&inbox), None);
                forge(b.ns(), SocketAddr::new(ip(from), 1), SocketAddr::new(ip(to), 7777), &[], "b itself");
                assert_eq!(arrived(&inbox).as_deref(), Some("b itself"), "{}", stage.listing());
            }
            let own = |to: &str| SocketAddr::new(ip(to), 80);
            assert!(thief.ns().tcp_connect(Some(ip("10.0.1.1")), own("10.0.1.3"), SILENCE).is_ok());
        }
    }
}

#[test]
fn whose_port_it_is_must_be_certain() {
    if !possible() {
        return;
    }
    for form in forms() {
        let (mut stage, a, _b) = scene(BRIDGES[0], form);
        // Both show an address of x/c; and x/e shows its own and one of x/c.
        let _c = stage.stranger("x/c", &["10.0.1.3"]);
        let thief = stage.stranger("x/e", &["10.0.1.5"]);
        thief.ns().exec("ip", &["address", "add", "10.0.1.3/32", "dev", "eth0"]).unwrap();
        // No end in another namespace, as of a tap.
        stage.node.ns().exec("ip", &["link", "add", "tap-like", "type", "veth", "peer", "name", "tap-peer"]).unwrap();
        stage.node.ns().exec("ip", &["link", "set", "tap-like", "master", Node::BRIDGE, "up"]).unwrap();
        for (name, address) in [("c", "10.0.1.3"), ("e", "10.0.1.5")] {
            stage.engine.edit(edits(&pod_yaml("node-1", "x", name, name, &[address])));
        }
        stage.apply_whole();
        assert_eq!(stage.tick(), Standing { bound: 2, unidentified: 3 });
        stage.expect(&[(&thief, "10.0.1.2", 80, Tcp, false), (&a, "10.0.1.3", 80, Tcp, false), (&a, "10.0.1.2", 80, Tcp, true)]);
        // Once it is certain, it is opened.
        thief.ns().exec("ip", &["address", "del", "10.0.1.3/32", "dev", "eth0"]).unwrap();
        let opened = wait_until(LONG, || stage.tick() == Standing { bound: 4, unidentified: 1 });
        assert!(opened, "{:?}", stage.tick());
        stage.expect(&[(&thief, "10.0.1.2", 80, Tcp, true), (&a, "10.0.1.3", 80, Tcp, true)]);
    }
}

#[test]
fn it_outlives_the_process_and_the_next_one_takes_it_up_without_a_gap() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let (mut stage, a, _b) = applied(layout, form);
        let ns = stage.node.ns().clone();
        let filters = |pod: &Pod| ns.exec("tc", &["filter", "show", "dev", pod.interface(), "ingress"]).unwrap();
        // A successor of this form replaces the program by its own, of another number.
        let nameless = |text: String| match form {
            Form::Bpf => text.split_whitespace().filter(|word| !word.contains('[') && word.parse::<u32>().is_err()).collect(),
            _ => text,
        };
        let before = nameless(filters(&a));
        let (sent, answered) = unbroken(&a, ip("10.0.1.2"), || {
            for _ in 0..10 {
                stage.bridges = None;
                std::thread::sleep(Duration::from_millis(20));
                stage.reopen_bridges();
                stage.apply_whole();
                assert_eq!(stage.tick(), Standing { bound: 2, unidentified: 0 });
            }
        });
        assert_eq!(sent, answered, "{:?} {form:?}: {sent} sent", layout);
        assert!(sent > 100, "{sent}");
        assert_eq!(nameless(filters(&a)), before, "what fits is left as it is");
    }
}

#[test]
fn a_port_is_not_taken_up_for_a_pod_that_got_its_address_since() {
    if !possible() {
        return;
    }
    for form in forms() {
        let (mut stage, a, b) = applied(BRIDGES[0], form);
        // While no process looks, a goes, and its address is given to c; the interface of a is still there.
        stage.bridges = None;
        a.remove_address(ip("10.0.1.1")).unwrap();
        a.remove_address(ip("fd00:1::1")).unwrap();
        let c = stage.pod("x/c", &["10.0.1.1"]);
        stage.engine.edit(remove("a"));
        stage.reopen_bridges();
        stage.apply_whole();
        assert_eq!(stage.tick(), Standing { bound: 2, unidentified: 1 });
        stage.expect(&[(&c, "10.0.1.2", 80, Tcp, true), (&b, "10.0.1.1", 80, Tcp, true)]);
        let inbox = listen(b.ns(), SocketAddr::new(ip("10.0.1.2"), 7777));
        let packet = frame::datagram(SocketAddr::new(ip("10.0.1.1"), 1), SocketAddr::new(ip("10.0.1.2"), 7777), "as before");
        let [bridge, own] = [(stage.node.ns(), Node::BRIDGE), (a.ns(), "eth0")].map(|(ns, interface)| frame::mac(ns, interface));
        frame::send(a.ns(), &frame::ip_frame(bridge, own, &[], &packet));
        assert_eq!(arrived(&inbox), None);
    }
}

/// Pods that come and go without a pause: the state stays in force, and the last one is opened.
#[test]
fn pods_that_come_and_go_are_no_failure() {
    if !possible() {
        return;
    }
    for form in forms() {
        let (mut stage, a, _b) = scene(BRIDGES[0], form);
        for n in 3..9 {
            stage.engine.edit(edits(&pod_yaml("node-1", "x", &format!("c{n}"), "c", &[&format!("10.0.1.{n}")])));
        }
        let running = Running::start(&stage);
        running.hand_over(&stage.engine.table, Extent::Whole);
        for _ in 0..15 {
            for n in 3..9 {
                stage.net.add_pod(&stage.node, &format!("x/c{n}"), &[ip(&format!("10.0.1.{n}"))]).unwrap();
            }
            for n in 3..9 {
                stage.net.remove_pod(&format!("x/c{n}")).unwrap();
            }
            assert_eq!(running.metrics.kernel_failures.get(), 0, "{:?}", *running.state.borrow());
        }
        // Else one of those that went could be counted for the last.
        assert!(wait_until(LONG, || running.metrics.bridge_ports.get() == 2), "{}", running.metrics.bridge_ports.get());
        let last = stage.stranger("x/c3", &["10.0.1.3"]);
        let opened = wait_until(LONG, || running.metrics.bridge_ports.get() == 3);
        assert!(opened, "{} ports", running.metrics.bridge_ports.get());
        stage.expect(&[(&last, "10.0.1.1", 80, Tcp, true), (&a, "10.0.1.3", 80, Tcp, true)]);
    }
}

#[test]
fn cleanup_leaves_nothing_of_ours_and_all_of_others() {
    if !possible() {
        return;
    }
    for form in forms() {
        let (mut stage, a, b) = scene(BRIDGES[0], form);
        let ns = stage.node.ns().clone();
        // What others have at a port: the older kind of queueing discipline, and a filter.
        ns.exec("tc", &["qdisc", "add", "dev", b.interface(), "ingress"]).unwrap();
        let foreign = ["match", "ip", "dst", "192.0.2.1/32", "flowid", "1:1"];
        let head = ["filter", "add", "dev", b.interface(), "ingress", "protocol", "ip", "prio", "7", "u32"];
        ns.exec("tc", &[&head[..], &foreign[..]].concat()).unwrap();
        stage.apply_whole();
        stage.expect(&[(&a, "10.0.1.2", 80, Tcp, true), (&b, "fd00:1::1", 80, Tcp, true)]);
        let fdb = || ns.exec("bridge", &["fdb", "show", "br", Node::BRIDGE]).unwrap();
        let neighbours = || ns.exec("ip", &["neighbour", "show", "dev", Node::BRIDGE, "nud", "permanent"]).unwrap();
        assert!(fdb().contains("sticky") && neighbours().contains("10.0.1.2"), "{}{}", fdb(), neighbours());
        stage.bridges = None;
        let removed = ns.run(Kernel::cleanup).unwrap();
        assert!(removed.table && removed.bridges);
        assert_eq!(ns.exec("nft", &["list", "ruleset"]).unwrap().trim(), "");
        assert!(!fdb().contains("sticky"), "{}", fdb());
        assert_eq!(neighbours().trim(), "");
        let of_a = ns.exec("tc", &["qdisc", "show", "dev", a.interface()]).unwrap();
        assert!(!of_a.contains("clsact"), "{of_a}");
        let of_b = ns.exec("tc", &["filter", "show", "dev", b.interface(), "ingress"]).unwrap();
        assert!(of_b.contains("c0000201") && !of_b.contains("mirred") && !of_b.contains("sluice"), "{of_b}");
        stage.net.serve_pod(&b, &[sluice_testnet::Port::tcp(80)]).unwrap();
        assert!(a.ns().tcp_connect(None, "10.0.1.2:80".parse().unwrap(), SILENCE).is_ok(), "as before Sluice");
        assert_eq!(ns.run(Kernel::cleanup).unwrap(), sluice_proxy::kernel::Removed { table: false, bridges: false });
    }
}

#[test]
fn a_node_without_bridges_gets_a_table_and_nothing_else() {
    if !possible() {
        return;
    }
    for form in forms() {
        let mut stage = Stage::laid_out(sluice_testnet::Layout::Routed, form, Config::default());
        let a = stage.pod("x/a", &["10.0.1.1"]);
        let _b = stage.pod("x/b", &["10.0.1.2"]);
        stage.engine.edit(edits(NAMESPACE));
        stage.reopen_bridges();
        stage.apply_whole();
        assert_eq!(stage.tick(), Standing::default());
        let listing = stage.listing();
        assert!(listing.contains("table bridge sluice") && !listing.contains("table netdev"), "{listing}");
        assert!(!stage.node.ns().exec("tc", &["qdisc", "show"]).unwrap().contains("clsact"));
        stage.expect(&[(&a, "10.0.1.2", 80, Tcp, true)]);
    }
}

/// What a busy node costs: printed, with bounds that only a mistake exceeds.
#[test]
fn many_ports_are_opened_and_kept_at_little_cost() {
    if !possible() {
        return;
    }
    for form in forms() {
        const PODS: usize = 100;
        let mut stage = Stage::laid_out(BRIDGES[0], form, Config::default());
        let named: Vec<(String, [IpAddr; 2])> =
            (1..=PODS).map(|n| (format!("x/p{n}"), [ip(&format!("10.0.1.{n}")), ip(&format!("fd00:1::{n:x}"))])).collect();
        let wanted: Vec<_> = named.iter().map(|(name, addresses)| (&stage.node, name.as_str(), addresses.as_slice())).collect();
        stage.net.add_pods(&wanted).unwrap();
        stage.engine.edit(edits(NAMESPACE));
        for (name, addresses) in &named {
            let [v4, v6] = addresses.map(|address| address.to_string());
            let short = name.trim_start_matches("x/");
            stage.engine.edit(edits(&pod_yaml("node-1", "x", short, short, &[&v4, &v6])));
        }
        let began = Instant::now();
        stage.apply_whole();
        println!("{form:?}: {PODS} ports and their table: {:?}", began.elapsed());
        assert_eq!(stage.tick(), Standing { bound: PODS, unidentified: 0 });
        std::thread::sleep(Duration::from_millis(100));
        stage.tick();
        let ns = stage.node.ns().clone();
        let bridges = stage.bridges.as_mut().unwrap();
        let (idle, look) = ns.run(|| {
            let began = Instant::now();
            for _ in 0..100 {
                bridges.tick().unwrap();
            }
            let idle = began.elapsed() / 100;
            let alias = std::process::Command::new("ip").args(["link", "set", "veth-p1", "alias", "changed"]).status().unwrap();
            assert!(alias.success());
            std::thread::sleep(Duration::from_millis(50));
            let began = Instant::now();
            bridges.tick().unwrap();
            (idle, began.elapsed())
        });
        println!("{form:?}: a tick in which nothing changed: {idle:?}; one in which a port did: {look:?}");
        assert!(idle < Duration::from_millis(2) && look < Duration::from_millis(200), "{idle:?}, {look:?}");
    }
}
