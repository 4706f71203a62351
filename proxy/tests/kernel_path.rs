//! Nodes whose pods' packets don't come by the rules are recognised, and others are not mistaken for such.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::process::Command;
use std::time::Duration;

use kernel_stage::{Stage, edits, pod_yaml, possible};
use sluice_proxy::kernel::Config;
use sluice_proxy::kernel::path::PathWatch;
use sluice_testnet::Netns;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: production}\n";

/// What is found, one line each.
fn look(stage: &Stage, patience: Duration) -> Vec<String> {
    let table = &stage.engine.table;
    stage.node.ns().run(|| {
        let mut watch = PathWatch::open(&[], patience).unwrap();
        watch.look(Some(table)).unwrap().iter().map(ToString::to_string).collect()
    })
}

fn expect_one(stage: &Stage, words: &[&str]) {
    let found = look(stage, Duration::ZERO);
    assert_eq!(found.len(), 1, "{words:?}: {found:?}");
    for word in words {
        assert!(found[0].contains(word), "{word}: {found:?}");
    }
}

fn ip_command(ns: &Netns, line: &str) {
    ns.exec("ip", &line.split(' ').collect::<Vec<_>>()).unwrap();
}

fn stage() -> Option<Stage> {
    if !possible() {
        return None;
    }
    let mut stage = Stage::new(Config::default());
    stage.engine.edit(edits(NAMESPACE));
    Some(stage)
}

#[test]
fn a_routed_node_is_none_of_them() {
    let Some(mut stage) = stage() else { return };
    stage.pod("production/a", &["10.0.1.1", "fd00:1::1"]);
    assert_eq!(look(&stage, Duration::ZERO), [""; 0]);
    // A pod in the node's network, and one on another node.
    let node = stage.node.addresses()[0].to_string();
    stage.engine.edit(edits(&pod_yaml("node-1", "production", "host", "host", &[&node])));
    stage.engine.edit(edits(&pod_yaml("node-2", "production", "far", "far", &["10.0.2.1"])));
    assert_eq!(look(&stage, Duration::ZERO), [""; 0]);
}

#[test]
fn pods_on_a_linux_bridge_are_none_of_them() {
    let Some(mut stage) = stage() else { return };
    let ns = stage.node.ns().clone();
    ip_command(&ns, "link add cni0 type bridge");
    ip_command(&ns, "addr add 10.0.1.254/24 dev cni0");
    ip_command(&ns, "link set cni0 up");
    stage.engine.edit(edits(&pod_yaml("node-1", "production", "a", "a", &["10.0.1.7"])));
    assert_eq!(look(&stage, Duration::ZERO), [""; 0]);
}

#[test]
fn networks_are_known_by_their_interfaces() {
    let Some(stage) = stage() else { return };
    let ns = stage.node.ns();
    for (name, words) in [("kube-ipvs0", ["IPVS", "kube-ipvs0"]), ("cilium_host", ["Cilium", "cilium_host"])] {
        ip_command(ns, &format!("link add {name} type bridge"));
        expect_one(&stage, &words);
        ip_command(ns, &format!("link del {name}"));
        assert_eq!(look(&stage, Duration::ZERO), [""; 0]);
    }
}

#[test]
fn a_pod_on_a_macvlan_is_recognised_once_it_lasts() {
    let Some(mut stage) = stage() else { return };
    let ns = stage.node.ns().clone();
    // Its packets leave by the uplink's own wire: the node has no route to it but the way out.
    let pod = Netns::new("macvlan").unwrap();
    let uplink = sluice_testnet::Node::UPLINK;
    ip_command(&ns, &format!("link add mv0 link {uplink} type macvlan mode bridge"));
    ns.exec("ip", &["link", "set", "mv0", "netns", pod.path().to_str().unwrap()]).unwrap();
    ip_command(&pod, "addr add 10.0.1.9/24 dev mv0");
    ip_command(&pod, "link set mv0 up");
    stage.engine.edit(edits(&pod_yaml("node-1", "production", "mac", "mac", &["10.0.1.9"])));
    expect_one(&stage, &["pod production/mac (10.0.1.9)", "macvlan", uplink]);
    // A pod's route may come after its object.
    assert_eq!(look(&stage, Duration::from_secs(5)), [""; 0]);
    let table = &stage.engine.table;
    ns.run(|| {
        let mut watch = PathWatch::open(&[], Duration::from_millis(300)).unwrap();
        assert!(watch.look(Some(table)).unwrap().is_empty());
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(watch.look(Some(table)).unwrap().len(), 1);
        ns.exec("ip", &["route", "add", "10.0.1.9/32", "dev", "lo"]).unwrap();
        ns.exec("ip", &["link", "add", "veth9", "type", "veth", "peer", "name", "veth9p"]).unwrap();
        ns.exec("ip", &["link", "set", "veth9", "up"]).unwrap();
        ns.exec("ip", &["route", "replace", "10.0.1.9/32", "dev", "veth9"]).unwrap();
        assert!(watch.look(Some(table)).unwrap().is_empty(), "behind an interface of a pod after all");
    });
}

#[test]
fn a_pod_without_a_route_is_recognised_and_many_are_counted() {
    let Some(mut stage) = stage() else { return };
    ip_command(stage.node.ns(), "route add unreachable 10.0.1.0/24");
    for number in 1..=8 {
        let (name, address) = (format!("p{number}"), format!("10.0.1.{number}"));
        stage.engine.edit(edits(&pod_yaml("node-1", "production", &name, "x", &[&address])));
    }
    expect_one(&stage, &["production/p1 (10.0.1.1)", "3 more are not", "no route"]);
}

#[test]
fn programs_that_redirect_are_known_by_name() {
    let Some(mut stage) = stage() else { return };
    let pod = stage.pod("production/a", &["10.0.1.1"]);
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("bpf_lxc.c");
    std::fs::write(&source, "__attribute__((section(\"tc\"), used)) int f(void *c) { return -1; }\nchar l[] __attribute__((section(\"license\"))) = \"GPL\";\n").unwrap();
    let object = folder.path().join("bpf_lxc.o");
    let harmless = folder.path().join("observer.o");
    let built = Command::new("clang").args(["-O2", "-g", "-target", "bpf", "-c"]).arg(&source).arg("-o").arg(&object).status();
    if !built.is_ok_and(|status| status.success()) {
        println!("SKIPPED: no clang that makes BPF programs");
        return;
    }
    std::fs::copy(&object, &harmless).unwrap();
    let ns = stage.node.ns();
    ns.exec("tc", &["qdisc", "add", "dev", pod.interface(), "clsact"]).unwrap();
    let attach = |object: &std::path::Path| {
        let object = object.to_str().unwrap();
        ns.exec(
            "tc",
            &[
                "filter",
                "replace",
                "dev",
                pod.interface(),
                "ingress",
                "prio",
                "1",
                "handle",
                "1",
                "bpf",
                "da",
                "obj",
                object,
                "sec",
                "tc",
            ],
        )
    };
    if let Err(why) = attach(&harmless) {
        // Programs are loaded by root outside of any user namespace.
        let users = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        assert!(users.split_whitespace().nth(2) != Some("4294967295"), "{why}");
        println!("SKIPPED: BPF programs can't be loaded in a user namespace: {why}");
        return;
    }
    assert_eq!(look(&stage, Duration::ZERO), [""; 0], "whoever only looks on");
    attach(&object).unwrap();
    expect_one(&stage, &["eBPF", "bpf_lxc.o", pod.interface()]);
}

/// A pod may remove its own interface, and nothing is wrong with the node. One on a wire that leads outside is another matter.
#[test]
fn one_pod_without_an_interface_says_nothing_of_the_others() {
    let Some(mut stage) = stage() else { return };
    let gone = stage.pod("production/gone", &["10.0.1.1"]);
    gone.ns().exec("ip", &["link", "del", "eth0"]).unwrap();
    expect_one(&stage, &["production/gone (10.0.1.1)"]);
    stage.pod("production/a", &["10.0.1.2"]);
    assert_eq!(look(&stage, Duration::ZERO), [""; 0]);
    let uplink = sluice_testnet::Node::UPLINK;
    ip_command(stage.node.ns(), &format!("route add 10.0.1.3/32 dev {uplink}"));
    stage.engine.edit(edits(&pod_yaml("node-1", "production", "wired", "x", &["10.0.1.3"])));
    expect_one(&stage, &["production/wired (10.0.1.3)", "macvlan", uplink]);
}
