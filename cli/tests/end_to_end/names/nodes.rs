//! The resolver on another node than the pod, as most of a cluster's are.

use sluice_testnet::dns::{Authority, Client, Lookup, ResolvConf, Resolver, ResolverOptions, dig};
use sluice_testnet::{Net, Port, Protocol, Service};

use super::{API, GIT, to_names, zones};
use crate::client::ip;
use crate::scene::Scene;

const RESOLVER: [&str; 2] = ["10.2.0.53", "fd00:2::53"];
const CLUSTER_IP: &str = "10.96.0.10";

#[test]
fn a_resolver_on_another_node_is_asked_and_learned_from() {
    let pods: [(&str, &str, &[&str]); 2] =
        [("shop/web", "node-1", &["10.1.0.1", "fd00:1::1"]), ("kube-system/dns", "node-2", &RESOLVER)];
    let Some(scene) = Scene::start(&["node-1", "node-2"], &pods, &to_names(&["api.github.com"]), &[]) else { return };
    for address in API {
        scene.net.add_outside_address(ip(address)).unwrap();
    }
    scene.net.serve(scene.net.outside(), "outside", &[Port::tcp(GIT)]).unwrap();
    let authority = Authority::start(scene.net.outside(), &[Net::OUTSIDE_V4], zones()).unwrap();
    let options = ResolverOptions::at(authority.addresses(), &["github.com", "example.org"]);
    let _resolver = Resolver::start(scene.pod("kube-system/dns").ns(), &RESOLVER.map(ip), &options).unwrap();
    let service = |protocol| Service {
        name: "kube-system/dns".to_owned(),
        protocol,
        address: (ip(CLUSTER_IP), 53).into(),
        backends: vec![(ip(RESOLVER[0]), 53).into()],
    };
    scene.node("node-1").set_services(&[service(Protocol::Udp), service(Protocol::Tcp)]).unwrap();
    let web = scene.pod("shop/web");
    for server in [RESOLVER[0], RESOLVER[1], CLUSTER_IP] {
        for options in [&["+time=9"][..], &["+time=9", "+tcp"][..]] {
            for (name, status) in [("api.github.com", "NOERROR"), ("www.example.org", "REFUSED")] {
                let answer = dig(web.ns(), (ip(server), 53).into(), name, "A", options).unwrap().answer();
                assert_eq!(answer.status, status, "{server} {options:?}: {}", answer.text);
            }
        }
        let files = ResolvConf::of_cluster(ip(server), "shop");
        let found = Client::Glibc.look_up(web.ns(), &files, &Lookup::and_connect("api.github.com", GIT)).unwrap();
        assert!(matches!(found.connects.as_slice(), [(_, Ok(()))]), "{server}: {found:?}");
    }
}
