//! The two forms of the redirect: one follows the other without a gap and leaves nothing of it, and what only BPF checks.

mod kernel_stage;

use std::net::SocketAddr;

use kernel_stage::frame::{self, Ear, TO_ALL, datagram, ip_frame};
use kernel_stage::packet::{arrived, listen, unbroken};
use kernel_stage::{BRIDGES, SILENCE, Stage, edits, forms, ip, pod_yaml, possible};
use sluice_policy::source::{Key, PodRef};
use sluice_policy::world::Edit;
use sluice_proxy::kernel::bridge::{Bridges, Error, Form, Standing};
use sluice_proxy::kernel::{Config, Kernel};
use sluice_testnet::Pod;
use sluice_testnet::Protocol::Tcp;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n";

fn applied(form: Form) -> (Stage, Pod, Pod) {
    let mut stage = Stage::laid_out(BRIDGES[0], form, Config::default());
    let a = stage.pod("x/a", &["10.0.1.1", "fd00:1::1"]);
    let b = stage.pod("x/b", &["10.0.1.2", "fd00:1::2"]);
    stage.engine.edit(edits(NAMESPACE));
    stage.apply_whole();
    (stage, a, b)
}

fn filters(stage: &Stage, pod: &Pod) -> String {
    stage.node.ns().exec("tc", &["filter", "show", "dev", pod.interface(), "ingress"]).expect("tc speaks")
}

/// Which forms there are at a port.
fn found(stage: &Stage, pod: &Pod) -> Vec<Form> {
    let text = filters(stage, pod);
    let is_there = |word: &str| text.contains(word);
    [(Form::Classifier, is_there(" u32 ")), (Form::Bpf, is_there("sluice_redirect"))]
        .into_iter()
        .filter_map(|(form, is)| is.then_some(form))
        .collect()
}

#[test]
fn one_form_follows_the_other_without_a_gap_and_leaves_nothing_of_it() {
    if !possible() || forms().len() < 2 {
        return;
    }
    let (mut stage, a, b) = applied(Form::Classifier);
    // A port that was opened, and whose pod isn't told any more when the next process looks.
    let gone = stage.pod("x/gone", &["10.0.1.3"]);
    let thief = stage.pod("x/thief", &["10.0.1.4"]);
    stage.apply_whole();
    // What a pod takes on beside its own tells nobody anything about a port that was known.
    thief.ns().exec("ip", &["address", "add", "10.0.1.2/32", "dev", "eth0"]).expect("an address more");
    let (sent, answered) = unbroken(&a, ip("10.0.1.2"), || {
        for form in [Form::Bpf, Form::Classifier, Form::Bpf, Form::Bpf, Form::Classifier, Form::Classifier, Form::Auto] {
            stage.form = form;
            stage.reopen_bridges();
            stage.apply_whole();
            assert_eq!(stage.tick(), Standing { bound: 4, unidentified: 0 }, "{form:?}");
            let now = if form == Form::Auto { Form::Bpf } else { form };
            for pod in [&a, &b, &gone, &thief] {
                assert_eq!(found(&stage, pod), [now], "{}", filters(&stage, pod));
            }
        }
    });
    assert!(sent > 20 && sent == answered, "{answered} of {sent}");
    for (before, after) in [(Form::Bpf, Form::Classifier), (Form::Classifier, Form::Bpf), (Form::Bpf, Form::Bpf)] {
        stage.form = before;
        stage.reopen_bridges();
        stage.apply_whole();
        stage.expect(&[(&gone, "10.0.1.2", 80, Tcp, true)]);
        stage.bridges = None;
        stage.engine.edit(vec![Edit::Remove(Key::Pod(PodRef { namespace: "x".into(), name: "gone".into() }))]);
        stage.form = after;
        stage.reopen_bridges();
        stage.apply_whole();
        assert_eq!(stage.tick(), Standing { bound: 3, unidentified: 1 });
        assert_eq!(filters(&stage, &gone).trim(), "", "{before:?} {after:?}");
        stage.expect(&[(&gone, "10.0.1.2", 80, Tcp, false), (&b, "10.0.1.1", 80, Tcp, true)]);
        stage.engine.edit(edits(&pod_yaml("node-1", "x", "gone", "gone", &["10.0.1.3"])));
    }
    // What is left of both forms goes, whoever cleans up.
    stage.bridges = None;
    let ns = stage.node.ns().clone();
    let head = ["filter", "add", "dev", a.interface(), "ingress", "protocol", "ip", "prio", "83", "u32"];
    ns.exec("tc", &[&head[..], &["match", "ip", "src", "10.0.1.1/32", "flowid", "1:1"]].concat()).expect("a filter of before");
    assert_eq!(found(&stage, &a), [Form::Classifier, Form::Bpf]);
    assert!(ns.run(Kernel::cleanup).expect("a clean node").bridges);
    for pod in [&a, &b, &gone] {
        assert_eq!(filters(&stage, pod).trim(), "");
    }
    assert!(!ns.exec("tc", &["qdisc", "show"]).expect("tc speaks").contains("clsact"));
}

#[test]
fn where_bpf_is_not_possible_it_is_refused_by_name_and_auto_does_without() {
    if !possible() {
        return;
    }
    let (stage, a, _b) = applied(Form::Auto);
    let expected = if forms().len() == 2 { Form::Bpf } else { Form::Classifier };
    assert_eq!(found(&stage, &a), [expected]);
    match stage.node.ns().run(|| Bridges::open(&[], Form::Bpf)) {
        Ok(_) => assert_eq!(expected, Form::Bpf),
        Err(Error::NoBpf(why)) => {
            assert_eq!(expected, Form::Classifier);
            assert!(!why.to_string().is_empty());
        }
        Err(error) => panic!("{error}"),
    }
}

/// A frame from another link-layer address than the pod's is judged as any other by classifiers, and dropped by BPF. So is ARP for
/// somebody else, which gains nothing either way, and what is for many or from many.
#[test]
fn bpf_is_stricter_about_what_a_pod_says_of_itself() {
    if !possible() {
        return;
    }
    for form in forms() {
        let (stage, a, b) = applied(form);
        let passes = form == Form::Classifier;
        let [bridge, own, other] = [(stage.node.ns(), sluice_testnet::Node::BRIDGE), (a.ns(), "eth0"), (b.ns(), "eth0")]
            .map(|(ns, interface)| frame::mac(ns, interface));
        let to = SocketAddr::new(ip("10.0.1.2"), 7777);
        let inbox = listen(b.ns(), to);
        let packet = |text: &str| datagram(SocketAddr::new(ip("10.0.1.1"), 1), to, text);
        frame::send(a.ns(), &ip_frame(bridge, own, &[], &packet("its own")));
        assert_eq!(arrived(&inbox).as_deref(), Some("its own"), "{form:?}");
        let stranger = [2, 0, 0, 0, 0, 9];
        for (whose, mac) in [("nobody's", stranger), ("its neighbour's", other)] {
            frame::send(a.ns(), &ip_frame(bridge, mac, &[], &packet(whose)));
            assert_eq!(arrived(&inbox).as_deref() == Some(whose), passes, "{form:?}: {whose}");
        }
        // ARP: who has the gateway's address, said of the neighbour's.
        let ear = Ear::new(b.ns());
        let lie = frame::arp(1, own, ip("10.0.1.77"), [0; 6], ip("169.254.1.1"), TO_ALL);
        let truth = frame::arp(1, own, ip("10.0.1.1"), [0; 6], ip("169.254.1.1"), TO_ALL);
        frame::send(a.ns(), &lie);
        frame::send(a.ns(), &truth);
        let heard = ear.heard(SILENCE);
        let is_heard = |sent: &[u8]| heard.iter().any(|frame| frame.starts_with(sent));
        assert!(is_heard(&truth), "{form:?}: {heard:?}");
        assert_eq!(is_heard(&lie), passes, "{form:?}: {heard:?}");
    }
}

/// BPF knows the pod's link-layer address. One that the pod changes is looked at again.
#[test]
fn a_pod_may_change_its_own_link_layer_address() {
    if !possible() {
        return;
    }
    for form in forms() {
        let (mut stage, a, _b) = applied(form);
        stage.expect(&[(&a, "10.0.1.2", 80, Tcp, true)]);
        a.ns().exec("ip", &["link", "set", "eth0", "address", "02:00:00:00:00:99"]).expect("another address");
        stage.reopen_bridges();
        stage.apply_whole();
        assert_eq!(stage.tick(), Standing { bound: 2, unidentified: 0 });
        stage.expect(&[(&a, "10.0.1.2", 80, Tcp, true), (&a, "fd00:1::2", 80, Tcp, true)]);
    }
}
