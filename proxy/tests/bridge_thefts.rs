//! Pods with CAP_NET_ADMIN in their own namespaces, which take the place or the link-layer address of another.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::net::SocketAddr;
use std::time::Duration;

use kernel_stage::frame::{self, Ear};
use kernel_stage::packet::{arrived, forge, listen};
use kernel_stage::{BRIDGES, SILENCE, Stage, bridges, edits, forms, ip, pod_yaml, possible};
use sluice_policy::source::{Key, PodRef};
use sluice_policy::world::Edit;
use sluice_proxy::kernel::Config;
use sluice_proxy::kernel::bridge::{Form, Standing};
use sluice_testnet::{Layout, Netns, Pod, wait_until};

/// More than the time between two looks at everything.
const LONG: Duration = Duration::from_secs(15);
const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n";

fn scene(layout: Layout, form: Form) -> (Stage, Pod, Pod) {
    let mut stage = Stage::laid_out(layout, form, Config::default());
    let thief = stage.pod("x/thief", &["10.0.1.1"]);
    let b = stage.pod("x/b", &["10.0.1.2"]);
    stage.engine.edit(edits(NAMESPACE));
    stage.apply_whole();
    assert_eq!(stage.tick(), Standing { bound: 2, unidentified: 0 });
    (stage, thief, b)
}

/// The end of a veth goes into another namespace, with the address of a pod that has just gone and is still in the table.
#[test]
fn who_takes_the_place_of_one_that_has_gone_gains_nothing() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let (mut stage, thief, _b) = scene(layout, form);
        let c = stage.pod("x/c", &["10.0.1.3"]);
        stage.apply_whole();
        assert_eq!(stage.tick(), Standing { bound: 3, unidentified: 0 });
        stage.net.remove_pod("x/b").unwrap();
        let hidden = Netns::new("hidden").unwrap();
        let moved = hidden.path();
        thief.ns().exec("ip", &["link", "set", "eth0", "netns", moved.to_str().unwrap()]).unwrap();
        for arguments in [
            &["address", "add", "10.0.1.2/32", "dev", "eth0"][..],
            &["link", "set", "eth0", "up"],
            &["route", "add", "default", "dev", "eth0", "onlink", "via", "169.254.1.1"],
        ] {
            hidden.exec("ip", arguments).unwrap();
        }
        let is_closed = wait_until(LONG, || stage.tick() == Standing { bound: 1, unidentified: 1 });
        assert!(is_closed, "{layout:?} {form:?}: {:?}", stage.tick());
        let to = SocketAddr::new(ip("10.0.1.3"), 7777);
        let inbox = listen(c.ns(), to);
        forge(&hidden, SocketAddr::new(ip("10.0.1.2"), 1), to, &[], "as b");
        assert_eq!(arrived(&inbox), None, "{layout:?} {form:?}");
        // Once the thief itself is gone from the table, its port is as good as a new one: what it shows counts.
        let gone = vec![Edit::Remove(Key::Pod(PodRef { namespace: "x".into(), name: "thief".into() }))];
        stage.change_by(gone);
        assert!(wait_until(LONG, || stage.tick() == Standing { bound: 2, unidentified: 0 }), "{:?}", stage.tick());
    }
}

fn set_link_address(pod: &Pod, mac: &str) {
    pod.ns().exec("ip", &["link", "set", "eth0", "address", mac]).unwrap();
}

/// What the node sends to `pod`, and whether it or the thief hears it.
fn heard(stage: &Stage, pod: &Pod, thief: &Pod, text: &str) -> (bool, bool) {
    let to = SocketAddr::new(pod.v4().unwrap(), 7777);
    let (inbox, ear) = (listen(pod.ns(), to), Ear::new(thief.ns()));
    let socket = stage.node.ns().udp_bind(SocketAddr::new(stage.node.addresses()[0], 0)).unwrap();
    socket.send_to(text.as_bytes(), to).unwrap();
    let is_stolen = ear.heard(SILENCE).iter().any(|frame| frame.ends_with(text.as_bytes()));
    (arrived(&inbox).is_some(), is_stolen)
}

#[test]
fn who_has_a_newcomers_link_layer_address_beforehand_hears_nothing_of_it() {
    if !possible() {
        return;
    }
    const ITS: &str = "02:00:00:00:00:77";
    for (layout, form) in bridges() {
        let (mut stage, thief, b) = scene(layout, form);
        set_link_address(&thief, ITS);
        // For this process the thief has had it from the start.
        stage.reopen_bridges();
        stage.apply_whole();
        let newcomer = stage.stranger("x/newcomer", &["10.0.1.4"]);
        set_link_address(&newcomer, ITS);
        stage.change(&pod_yaml("node-1", "x", "newcomer", "newcomer", &["10.0.1.4"]));
        assert!(wait_until(LONG, || stage.tick() == Standing { bound: 3, unidentified: 0 }), "{:?}", stage.tick());
        // The newcomer says who it is, as everybody does; so does the thief, in its name.
        for (from, its) in [(&newcomer, "10.0.1.4"), (&thief, "10.0.1.4")] {
            let mac = frame::mac(from.ns(), "eth0");
            frame::send(from.ns(), &frame::arp(2, mac, ip(its), mac, ip(its), frame::TO_ALL));
        }
        assert_eq!(heard(&stage, &newcomer, &thief, "to the newcomer"), (false, false), "{layout:?} {form:?}");
        assert_eq!(heard(&stage, &b, &thief, "to b"), (true, false), "{layout:?} {form:?}");
        // The newcomer gets one of its own.
        set_link_address(&newcomer, "02:00:00:00:00:78");
        let reached = wait_until(LONG, || {
            stage.tick();
            heard(&stage, &newcomer, &thief, "to the newcomer") == (true, false)
        });
        assert!(reached, "{layout:?} {form:?}");
    }
}

#[test]
fn who_changes_to_a_link_layer_address_loses_it_to_its_owner() {
    if !possible() {
        return;
    }
    const ITS: &str = "02:00:00:00:00:77";
    for form in forms() {
        let (mut stage, thief, b) = scene(BRIDGES[0], form);
        set_link_address(&thief, ITS);
        // Until the change is seen: by then the node reaches the thief by it.
        let seen = wait_until(LONG, || {
            stage.tick();
            heard(&stage, &thief, &b, "to the thief") == (true, false)
        });
        assert!(seen, "{form:?}");
        let newcomer = stage.stranger("x/newcomer", &["10.0.1.4"]);
        set_link_address(&newcomer, ITS);
        stage.change(&pod_yaml("node-1", "x", "newcomer", "newcomer", &["10.0.1.4"]));
        assert!(wait_until(LONG, || stage.tick() == Standing { bound: 3, unidentified: 0 }), "{:?}", stage.tick());
        assert_eq!(heard(&stage, &newcomer, &thief, "to the newcomer"), (true, false), "{form:?}");
        assert_eq!(heard(&stage, &thief, &newcomer, "to the thief"), (false, false), "{form:?}");
    }
}
