//! Metadata, kinds and inventory to what the engine knows, row by row, with what is said about them.

use sluice_crds::Lowered;
use sluice_policy::source::{Key, Object};

mod lowering;

use lowering::lowered;

fn said(lowered: &Lowered) -> Vec<String> {
    lowered.diagnostics.iter().map(|d| format!("{}: {d}", d.severity.as_str())).collect()
}

#[test]
fn who_a_policy_is() {
    let rows = [
        ("metadata: {name: p}", "NetworkPolicy default/p", 0),
        ("metadata: {name: p, namespace: \"\"}", "NetworkPolicy default/p", 0),
        ("metadata: {name: p, namespace: ns, unknown: x, labels: {a: b}}", "NetworkPolicy ns/p", 0),
        ("metadata: {name: P}", "NetworkPolicy default/P", 1),
        ("metadata: {name: p, labels: {a: 5}}", "NetworkPolicy default/p", 1),
        ("metadata: {namespace: ns}", "NetworkPolicy ns/unnamed-", 1),
        ("metadata: {namespace: ns, name: 5}", "NetworkPolicy ns/unnamed-", 1),
        ("kind2: x", "NetworkPolicy default/unnamed-", 2),
        ("metadata: {name: p, namespace: N}", "", 1),
        ("metadata: {name: p, namespace: 5}", "", 1),
        ("metadata: [p]", "", 1),
    ];
    for (metadata, want, remarks) in rows {
        let lowered = lowered(&format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, {metadata}}}"));
        assert_eq!(lowered.diagnostics.len(), remarks, "{metadata}: {:?}", said(&lowered));
        let key = match &lowered.key {
            Some(Key::Policy(reference)) => reference.to_string(),
            None => String::new(),
            other => panic!("{other:?}"),
        };
        assert!(key.starts_with(want) && key.is_empty() == want.is_empty(), "{metadata}: {key}");
        assert_eq!(lowered.object.map(|o| o.key()), lowered.key, "{metadata}");
    }
}

#[test]
fn kinds() {
    let rows = [
        ("{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: 5}", "None", 0),
        ("{apiVersion: v1, kind: ConfigMap}", "None", 0),
        ("{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: x}, spec: 5}", "None", 0),
        ("{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}", "None", 0),
        ("{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: x, ports: [{port: 0}, {}]}}", "None", 3),
        ("{apiVersion: v1, kind: NetworkPolicy, metadata: {name: x}}", "Policy", 1),
        ("{apiVersion: extensions/v1beta1, kind: NetworkPolicy, metadata: {name: x}}", "Policy", 1),
        ("{apiVersion: networking.k8s.io/v2, kind: NetworkPolicy, metadata: {name: x}}", "Policy", 1),
        ("{apiVersion: sluice.dev/v1, kind: SluiceNetworkPolicy, metadata: {name: x}}", "Policy", 1),
        ("{apiVersion: sluice.dev/v1alpha1, kind: SluiceNetPolicy, metadata: {name: x}}", "None", 1),
        ("{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: x}}", "None", 2),
        ("{apiVersion: sluice.dev/v1alpha1, kind: SluiceClusterNetworkPolicy, metadata: {name: x}}", "None", 2),
        ("{kind: Pod, metadata: {name: x}}", "None", 1),
        ("{apiVersion: v1, metadata: {name: x}}", "None", 1),
        ("{apiVersion: v1, kind: 5}", "None", 1),
        ("{apiVersion: v1, kind: Namespace, metadata: {name: x}}", "Namespace", 0),
        ("{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {a: 5}}}", "None", 1),
    ];
    for (text, want, remarks) in rows {
        let lowered = lowered(text);
        let got = match &lowered.object {
            None => "None",
            Some(Object::Namespace(_)) => "Namespace",
            Some(Object::Policy(_)) => "Policy",
            Some(_) => "another",
        };
        assert_eq!((got, lowered.diagnostics.len()), (want, remarks), "{text}: {:?}", said(&lowered));
    }
}

/// A misspelt `spec` must not make a policy that isolates less than was meant.
#[test]
fn a_policy_without_its_spec() {
    let rows = [
        ("spec: {policyTypes: [Egress]}", (false, true), 0),
        ("", (true, false), 0),
        ("status: {x: z}", (true, false), 0),
        ("sepc: {policyTypes: [Egress]}", (true, true), 1),
        ("spec: {policyTypes: [Egress]}, rules: []", (false, true), 1),
    ];
    for (rest, want, remarks) in rows {
        let lowered =
            lowered(&format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, {rest}}}"));
        assert_eq!(lowered.diagnostics.len(), remarks, "{rest}: {:?}", said(&lowered));
        let Some(Object::Policy(policy)) = lowered.object else { panic!("a policy is a policy") };
        assert_eq!((policy.ingress, policy.egress), want, "{rest}");
    }
}

#[test]
fn a_remark_names_file_line_object_field_and_remedy() {
    let text = "apiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata:\n  name: backend\n  namespace: production\n\
        spec:\n  ingress:\n  - http:\n    - method: GET\n    - path: \"/a(\"\n    ports:\n    - port: 80\n      endport: 90\n";
    let lowered = lowered(text);
    assert_eq!(
        said(&lowered),
        [
            "error: m.yaml:13: SluiceNetworkPolicy production/backend: spec.ingress[0].ports[0].endport: unknown field \"endport\"; is endPort meant?",
            "error: m.yaml:10: SluiceNetworkPolicy production/backend: spec.ingress[0].http[1].path: \"/a(\" is not a regular expression: unclosed group; mend the regular expression; a special character is taken literally after \\",
        ]
    );
}

#[test]
fn pods() {
    let rows = [
        ("", "ns/p [] None host=false finished=false default []", 0),
        (
            "spec: {nodeName: n1, hostNetwork: true, serviceAccountName: sa}, status: {phase: Failed, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}",
            "ns/p [10.0.0.1, fd00::1] Some(\"n1\") host=true finished=true sa []",
            0,
        ),
        (
            "spec: {nodeName: \"\", serviceAccountName: \"\"}, status: {phase: Pending, podIP: \"\"}",
            "ns/p [] None host=false finished=false default []",
            0,
        ),
        (
            "spec: {containers: [{ports: [{name: a, containerPort: 80}, {containerPort: 81}, {name: a, containerPort: 82}, {name: a, containerPort: 53, protocol: UDP}]}], \
             initContainers: [{ports: [{name: i, containerPort: 1}]}, {restartPolicy: Always, ports: [{name: s, containerPort: 2}]}]}",
            "ns/p [] None host=false finished=false default [a:TCP:80, a:UDP:53, s:TCP:2]",
            0,
        ),
        (
            "spec: {containers: [{ports: [{name: A, containerPort: 80}, {name: b, containerPort: 0}, {name: c}, x]}, 5]}",
            "ns/p [] None host=false finished=false default []",
            4,
        ),
        ("status: {podIPs: [{ip: x}, {ip: 10.0.0.1}, {}]}", "ns/p [10.0.0.1] None host=false finished=false default []", 2),
        ("status: {podIP: '::ffff:10.0.0.1'}", "ns/p [] None host=false finished=false default []", 1),
        ("spec: {unknown: x, containers: null}", "ns/p [] None host=false finished=false default []", 0),
        // Nobody could say who selects these.
        ("spec: []", "kept", 1),
        ("spec: {hostNetwork: \"true\"}", "kept", 1),
        ("spec: {nodeName: 5}", "kept", 1),
        ("status: {phase: 5}", "kept", 1),
    ];
    for (rest, want, remarks) in rows {
        let lowered = lowered(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: ns}}, {rest}}}"));
        assert_eq!(lowered.diagnostics.len(), remarks, "{rest}: {:?}", said(&lowered));
        let got = match &lowered.object {
            None => {
                assert!(matches!(&lowered.key, Some(Key::Pod(pod)) if pod.to_string() == "ns/p"), "what was known stays");
                "kept".to_owned()
            }
            Some(Object::Pod(p)) => {
                let ports: Vec<String> = p.ports.iter().map(|p| format!("{}:{}:{}", p.name, p.protocol, p.port)).collect();
                format!(
                    "{} {:?} {:?} host={} finished={} {} [{}]",
                    p.reference,
                    p.ips,
                    p.node,
                    p.host_network,
                    p.finished,
                    p.service_account,
                    ports.join(", ")
                )
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(got, want, "{rest}");
    }
}

#[test]
fn namespaces_and_nodes() {
    let Some(Object::Namespace(ns)) =
        lowered("{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {kubernetes.io/metadata.name: lie, x: \"1\"}}}")
            .object
    else {
        panic!("a namespace")
    };
    assert_eq!(format!("{:?}", ns.labels), r#"{"kubernetes.io/metadata.name": "a", "x": "1"}"#);
    let node = lowered(
        "{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd00::/64', x]}, \
         status: {addresses: [{type: InternalIP, address: 172.18.0.2}, {type: Hostname, address: n1}, {type: ExternalIP, address: 'fd01::2'}, {type: InternalIP, address: x}]}}",
    );
    assert_eq!(node.diagnostics.len(), 2, "{:?}", said(&node));
    let Some(Object::Node(node)) = node.object else { panic!("a node") };
    assert_eq!(format!("{:?} {:?}", node.ips, node.pod_cidrs), "[172.18.0.2, fd01::2] [10.1.0.0/24, fd00::/64]");
}
