//! Flows that only Audit policies want read, with real packets: to the proxy if it listens, and by their ordinary way if not.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use kernel_stage::proxy::{accept, expect_taken, listen, listen_for_audits};
use kernel_stage::{SILENCE, Stage, bridges, edits, possible};
use sluice_proxy::kernel::Config;
use sluice_proxy::kernel::bridge::Form;
use sluice_proxy::kernel::conntrack::Conntrack;
use sluice_testnet::Protocol::{Tcp, Udp};
use sluice_testnet::{Layout, Net, Netns, Pod, Port};

/// What is enforced: `frontend` reaches 8080 and 9090 of `backend` unread, and 80 read.
const ENFORCED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: x}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: plain, namespace: x}
spec:
  podSelector: {matchLabels: {app: backend}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports: [{port: 8080}, {port: 9090}, {port: 53, protocol: UDP}]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: read, namespace: x}
spec:
  podSelector: {matchLabels: {app: backend}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports: [{port: 80}]
    http: [{method: GET}]
";

/// What is tried: requests at the port `web` of `backend`, which is 8080, and at 80.
const TRIED: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: tried, namespace: x}
spec:
  enforcement: Audit
  podSelector: {matchLabels: {app: backend}}
  ingress:
  - ports: [{port: web}, {port: 80}]
    http: [{method: GET}]
";

struct Scene {
    stage: Stage,
    frontend: Pod,
    backend: Pod,
    other: Pod,
}

fn scene(layout: Layout, form: Form, policies: &str) -> Scene {
    let mut stage = Stage::laid_out(layout, form, Config::default());
    let frontend = stage.pod("x/frontend", &["10.0.1.1", "fd00:1::1"]);
    let backend = stage.pod("x/backend", &["10.0.1.2", "fd00:1::2"]);
    let other = stage.pod("x/other", &["10.0.1.3", "fd00:1::3"]);
    stage.engine.edit(edits(ENFORCED));
    stage.engine.edit(edits(policies));
    stage.apply_whole();
    Scene { stage, frontend, backend, other }
}

/// Routed veths, and bridges with every form of the redirect.
fn layouts() -> Vec<(Layout, Form)> {
    let mut layouts = bridges();
    layouts.insert(0, (Layout::Routed, Form::Auto));
    layouts
}

fn connect(from: &Pod, to: SocketAddr) -> std::io::Result<TcpStream> {
    let own = from.addresses()[usize::from(to.is_ipv6())];
    let stream = from.ns().tcp_connect(Some(own), to, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    Ok(stream)
}

/// Whether the pods' server answers, and nobody in its place.
fn is_answered(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 128];
    stream.write_all(b"hello\n").is_ok() && stream.read(&mut answer).is_ok_and(|length| answer[..length].starts_with(b"x/"))
}

/// The connection, if the kernel hands it to `listener`.
fn taken(listener: &TcpListener, from: &Pod, to: SocketAddr) -> Option<(TcpStream, TcpStream)> {
    let client = connect(from, to).ok()?;
    let taken = accept(listener, Some(SILENCE))?;
    assert_eq!((taken.local_addr().unwrap(), taken.peer_addr().unwrap()), (to, client.local_addr().unwrap()));
    Some((client, taken))
}

fn is_labelled(ns: &Netns, client: SocketAddr) -> bool {
    let entries = ns.run(|| Conntrack::open().unwrap().dump().unwrap());
    entries.iter().any(|e| e.source() == (client.ip(), client.port()) && e.has_label(Config::default().label_bit))
}

#[test]
fn what_is_offered_passes_where_nobody_listens_and_nothing_else_does() {
    if !possible() {
        return;
    }
    for (layout, form) in layouts() {
        let Scene { stage, frontend, backend, other } = scene(layout, form, TRIED);
        let ns = stage.node.ns();
        for family in 0..2 {
            let server = backend.addresses()[family];
            let at = |port| SocketAddr::new(server, port);
            let to = server.to_string();
            let expect_past = || {
                stage.expect(&[
                    (&frontend, &to, 8080, Tcp, true),
                    (&frontend, &to, 9090, Tcp, true),
                    (&frontend, &to, 53, Udp, true),
                    // It has to be read for what is enforced, and nobody reads it.
                    (&frontend, &to, 80, Tcp, false),
                    (&other, &to, 8080, Tcp, false),
                    (&other, &to, 80, Tcp, false),
                ]);
            };
            expect_past();
            let mut past = connect(&frontend, at(8080)).unwrap();
            assert!(is_answered(&mut past) && !is_labelled(ns, past.local_addr().unwrap()), "{}", stage.listing());

            let listener = listen_for_audits(ns, server);
            let (mut client, proxied) = taken(&listener, &frontend, at(8080))
                .unwrap_or_else(|| panic!("{layout:?} {form:?}: not offered\n{}", stage.listing()));
            expect_taken(&client, &proxied, at(8080));
            let tuple = client.local_addr().unwrap();
            assert!(is_labelled(ns, tuple));
            assert!(is_answered(&mut past), "what passed once is not taken in the middle");
            stage.expect(&[
                (&frontend, &to, 9090, Tcp, true),
                (&frontend, &to, 53, Udp, true),
                (&frontend, &to, 80, Tcp, false),
                (&other, &to, 8080, Tcp, false),
            ]);
            assert!(accept(&listener, None).is_none(), "{layout:?} {form:?}: nothing else was offered");
            // The way of what is enforced is another.
            let enforced = listen(ns, server);
            assert!(taken(&enforced, &frontend, at(80)).is_some());
            assert!(taken(&enforced, &frontend, at(8080)).is_none() && accept(&listener, None).is_some());
            drop(enforced);

            drop((listener, proxied));
            assert!(!is_answered(&mut client), "a connection that the proxy held ends with it");
            expect_past();
            assert!(is_answered(&mut past), "and one that it never had goes on");
        }
    }
}

/// The rules of the base chains stay, and the sets follow the policies.
#[test]
fn small_changes_say_what_is_offered() {
    if !possible() {
        return;
    }
    let Scene { mut stage, frontend, backend, .. } = scene(kernel_stage::layout(), Form::Auto, TRIED);
    let ns = stage.node.ns().clone();
    let at = |port| SocketAddr::new(backend.addresses()[0], port);
    let listener = listen_for_audits(&ns, at(0).ip());
    let offered = |port| taken(&listener, &frontend, at(port)).is_some();
    assert!(offered(8080) && !offered(9090));
    assert!(!stage.change(&TRIED.replace("port: web", "port: 9090")).whole);
    assert!(!offered(8080) && offered(9090), "{}", stage.listing());
    // Every port, and more ports than are counted one by one.
    for ports in ["", "  - ports: [{port: 8000, endPort: 9100}]\n    http: [{}]\n"] {
        let every = if ports.is_empty() { "  - http: [{}]\n" } else { ports };
        let policy = TRIED.split("  - ports").next().unwrap().to_owned() + every;
        assert!(!stage.change(&policy).whole);
        assert!(offered(8080) && offered(9090), "{}", stage.listing());
        assert!(connect(&frontend, at(80)).is_err(), "what has to be read is not offered");
    }
    // Enforced, it is no audit any more: nobody listens, so it is closed.
    stage.change(&TRIED.replace("Audit", "Enforce").replace("{port: web}, ", "{port: 9090}, "));
    assert!(!stage.listing().contains("audited_offer"), "no Audit policy is left");
    assert!(connect(&frontend, at(8080)).is_ok_and(|mut stream| is_answered(&mut stream)));
    assert!(accept(&listener, None).is_none());
}

/// Where another engine's rules forbid that flows are diverted, what is enforced is closed, and what is audited isn't.
#[test]
fn where_nothing_may_be_diverted_nothing_is_offered() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config { diverts: false, ..Config::default() });
    let frontend = stage.pod("x/frontend", &["10.0.1.1", "fd00:1::1"]);
    let backend = stage.pod("x/backend", &["10.0.1.2", "fd00:1::2"]);
    stage.engine.edit(edits(ENFORCED));
    stage.engine.edit(edits(TRIED));
    stage.apply_whole();
    for server in backend.addresses() {
        let listener = listen_for_audits(stage.node.ns(), server);
        let to = server.to_string();
        stage.expect(&[(&frontend, &to, 8080, Tcp, true), (&frontend, &to, 80, Tcp, false)]);
        assert!(accept(&listener, None).is_none());
    }
}

/// A live connection that was taken for an audit is the proxy's, whatever the policies say later: the kernel neither cuts it nor leads
/// it past.
#[test]
fn what_was_taken_stays_the_proxys() {
    if !possible() {
        return;
    }
    let Scene { mut stage, frontend, backend, .. } = scene(kernel_stage::layout(), Form::Auto, TRIED);
    let to = SocketAddr::new(backend.addresses()[0], 8080);
    let listener = listen_for_audits(stage.node.ns(), to.ip());
    let (mut client, mut proxied) = taken(&listener, &frontend, to).unwrap();
    for policy in [TRIED.replace("port: web", "port: 9090"), TRIED.replace("Audit", "Enforce")] {
        stage.change(&policy);
        client.write_all(b"ping").unwrap();
        let mut word = [0; 4];
        proxied.read_exact(&mut word).unwrap_or_else(|error| panic!("{error}\n{}", stage.listing()));
    }
}

#[test]
fn what_a_pod_sends_out_is_offered_too_and_what_nobody_tracks_passes() {
    const EGRESS: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: tried, namespace: x}
spec:
  enforcement: Audit
  podSelector: {matchLabels: {app: frontend}}
  policyTypes: [Egress]
  egress:
  - ports: [{port: web}, {port: 80}]
    tls: {serverNames: [api.example.com]}
";
    const UNTRACKED: &str = "table inet others {
    chain prerouting { type filter hook prerouting priority raw; tcp dport 8080 notrack; tcp sport 8080 notrack; }
}";
    if !possible() {
        return;
    }
    for layout in [Layout::Routed, Layout::Bridge { call_iptables: false }, Layout::Bridge { call_iptables: true }] {
        let Scene { stage, frontend, other, .. } = scene(layout, Form::Auto, EGRESS);
        stage.net.serve(stage.net.outside(), "x/outside", &[Port::tcp(80)]).unwrap();
        let ns = stage.node.ns();
        for (family, outside) in [Net::OUTSIDE_V4, Net::OUTSIDE_V6].into_iter().enumerate() {
            let outside = SocketAddr::new(outside, 80);
            let neighbour = SocketAddr::new(other.addresses()[family], 8080);
            let passes = |to| connect(&frontend, to).is_ok_and(|mut stream| is_answered(&mut stream));
            assert!(passes(outside) && passes(neighbour), "{layout:?}: {}", stage.listing());
            let listener = listen_for_audits(ns, outside.ip());
            for to in [outside, neighbour] {
                assert!(taken(&listener, &frontend, to).is_some(), "{layout:?} {to}: {}", stage.listing());
            }
            ns.exec("nft", &[UNTRACKED]).unwrap();
            assert!(passes(neighbour), "{layout:?}: {}", stage.listing());
            assert!(accept(&listener, None).is_none());
            ns.exec("nft", &["delete", "table", "inet", "others"]).unwrap();
        }
    }
}
