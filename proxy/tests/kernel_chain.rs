//! What the kernel's rules do with real packets, and how `nft` prints them.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use kernel_stage::{Stage, possible};
use sluice_proxy::kernel::Config;
use sluice_testnet::Protocol::{Icmp, Sctp, Tcp, Udp};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: production}\n";

const BACKEND: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: backend, namespace: production}
spec:
  podSelector: {matchLabels: {app: backend}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports:
    - {protocol: TCP, port: 8080}
    - {protocol: UDP, port: 53}
    - {protocol: SCTP, port: 132}
";

#[test]
fn what_a_policy_allows_passes_and_the_rest_does_not() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config::default());
    let frontend = stage.pod("production/frontend", &["10.0.1.1", "fd00:1::1"]);
    let _backend = stage.pod("production/backend", &["10.0.1.2", "fd00:1::2"]);
    let other = stage.pod("production/other", &["10.0.1.3", "fd00:1::3"]);
    stage.engine.edit(kernel_stage::edits(NAMESPACE));
    stage.engine.edit(kernel_stage::edits(BACKEND));
    let applied = stage.apply_whole();
    println!("{applied:?}\n{}", stage.listing());
    for (to, back) in [("10.0.1.2", "10.0.1.1"), ("fd00:1::2", "fd00:1::1")] {
        stage.expect(&[
            (&frontend, to, 8080, Tcp, true),
            (&frontend, to, 80, Tcp, false),
            (&frontend, to, 53, Udp, true),
            (&frontend, to, 5353, Udp, false),
            (&frontend, to, 132, Sctp, true),
            (&frontend, to, 0, Icmp, false),
            (&other, to, 8080, Tcp, false),
            (&other, to, 53, Udp, false),
            (&other, to, 132, Sctp, false),
            (&other, back, 80, Tcp, true),
            (&other, back, 5353, Udp, true),
            (&other, back, 132, Sctp, true),
            (&other, back, 0, Icmp, true),
        ]);
    }
}
