//! What is taken of `dns` and `nameCheck`, and the words with which the rest is refused.

use expect_test::{Expect, expect};

use super::*;
use crate::config::Config;

fn parsed(text: &str) -> Config {
    let config = Config::parse(text, "proxy.yaml").unwrap();
    config.check().unwrap();
    config
}

fn refused(text: &str, expected: &Expect) {
    let error = Config::parse(text, "proxy.yaml").and_then(|config| config.check()).unwrap_err();
    expected.assert_eq(error.to_string().lines().next().unwrap_or_default());
}

#[test]
fn every_key_is_taken() {
    let config = parsed(
        "dns:
  resolvers:
  - namespace: dns
    podSelector: { matchLabels: { app: unbound, tier: node } }
  - ip: 169.254.20.10
  - ip: fd00::10
  minTTLSeconds: 5
  maxTTLSeconds: 600
  graceSeconds: 60
  denyWith: NXDOMAIN
  upstreamTimeoutMs: 2500
  namesPerPod: 100
  addressesPerName: 50
nameCheck: { tlsPorts: [443, 8443], httpPorts: [], quic: Reject }
",
    );
    let labels = [("app", "unbound"), ("tier", "node")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let pods = Resolver::Pods { namespace: "dns".into(), pod_selector: PodSelector { match_labels: labels.into() } };
    let ip = |text: &str| Resolver::Ip(text.parse().unwrap());
    assert_eq!(config.dns.resolvers, [pods, ip("169.254.20.10"), ip("fd00::10")]);
    let limits = config.dns.limits();
    assert_eq!((limits.min_ttl.as_secs(), limits.max_ttl.as_secs(), limits.grace.as_secs()), (5, 600, 60));
    assert_eq!((limits.names_per_pod, limits.addresses_per_name), (100, 50));
    assert_eq!(dns::DenyWith::from(config.dns.deny_with), dns::DenyWith::NxDomain);
    assert_eq!(config.dns.upstream_timeout().as_millis(), 2500);
    assert_eq!((config.name_check.tls_ports.as_slice(), config.name_check.http_ports.as_slice()), (&[443, 8443][..], &[][..]));
    let printed = serde_saphyr::to_string(&config).unwrap();
    assert_eq!(Config::parse(&printed, "printed").unwrap(), config);
}

#[test]
fn the_defaults_are_those_of_the_store_and_are_printed() {
    let config = parsed("");
    assert_eq!(config.dns.limits(), Limits::default());
    assert_eq!(parsed("dns: {}\nnameCheck: {}"), config);
    let printed = serde_saphyr::to_string(&config).unwrap();
    let from = printed.find("dns:").unwrap();
    expect![[r#"
        dns:
          resolvers:
          - namespace: kube-system
            podSelector:
              matchLabels:
                k8s-app: kube-dns
          minTTLSeconds: 30
          maxTTLSeconds: 86400
          graceSeconds: 0
          denyWith: Refused
          upstreamTimeoutMs: 4000
          namesPerPod: 10000
          addressesPerName: 1000
          queriesPerSecondPerPod: 10000
        nameCheck:
          tlsPorts:
          - 443
          httpPorts:
          - 80
          quic: Reject
    "#]]
    .assert_eq(&printed[from..]);
}

#[test]
fn refusals_name_the_key_and_the_remedy() {
    refused("dns: {minTTLSeconds: 99999999}", &expect!["dns.minTTLSeconds: 99999999 is not between 0 and 31622400"]);
    refused("dns: {maxTTLSeconds: 0}", &expect!["dns.maxTTLSeconds: 0 is not between 1 and 31622400"]);
    refused("dns: {maxTTLSeconds: 20}", &expect!["dns.maxTTLSeconds: 20 is less than dns.minTTLSeconds, which is 30"]);
    refused("dns: {upstreamTimeoutMs: 5000}", &expect!["dns.upstreamTimeoutMs: 5000 is not between 1 and 4999"]);
    refused("dns: {namesPerPod: 0}", &expect!["dns.namesPerPod: 0 is not between 1 and 1000000"]);
    refused("dns: {addressesPerName: 0}", &expect!["dns.addressesPerName: 0 is not between 1 and 100000"]);
    refused("dns: {resolvers: [{ip: 10.0.0.1}, {ip: '::'}]}", &expect!["dns.resolvers: [1].ip: :: is no server's address"]);
    refused("dns: {resolvers: [{namespace: '', podSelector: {}}]}", &expect!["dns.resolvers: [0].namespace is empty"]);
    refused("port: 65533\nnameCheck: {quic: Inspect}", &expect!["port: must be at most 65532"]);
    refused("nameCheck: {tlsPorts: [0]}", &expect!["nameCheck.tlsPorts: 0 is no port"]);
    refused("nameCheck: {httpPorts: [443]}", &expect!["nameCheck.httpPorts: 443 is one of nameCheck.tlsPorts too"]);
    for (text, words) in [
        ("dns: {resolvers: [{ip: 10.0.0.1, namespace: a}]}", "dns.resolvers: `ip` stands alone"),
        ("dns: {resolvers: [{namespace: a}]}", "dns.resolvers: `namespace` without `podSelector`"),
        ("dns: {resolvers: [{podSelector: {}}]}", "dns.resolvers: `podSelector` without `namespace`"),
        ("dns: {resolvers: [{}]}", "dns.resolvers: neither"),
        ("dns: {resolvers: [{ip: localhost}]}", "invalid IP address"),
        ("dns: {resolvers: [{namespace: a, podSelector: {matchExpressions: []}}]}", "matchExpressions"),
        ("dns: {denyWith: Drop}", "Drop"),
        ("dns: {minTtlSeconds: 5}", "minTtlSeconds"),
        ("nameCheck: {quic: Allow}", "Allow"),
        ("nameCheck: {tlsPorts: [65536]}", "65536"),
    ] {
        let error = Config::parse(text, "proxy.yaml").unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("proxy.yaml"), "{text}: {error}");
    }
}

#[test]
fn settings_are_taken_like_those_of_other_keys() {
    let settings =
        ["dns.minTTLSeconds=5", "dns.resolvers=[{ip: 10.96.0.10}]", "nameCheck.tlsPorts=[443, 6443]", "dns.denyWith=NXDOMAIN"];
    let config = Config::load(None, &settings.map(str::to_owned)).unwrap();
    assert_eq!(config.dns.min_ttl_seconds, 5);
    assert_eq!(config.dns.resolvers, [Resolver::Ip("10.96.0.10".parse().unwrap())]);
    assert_eq!(config.name_check.tls_ports, [443, 6443]);
    assert_eq!(config.dns.deny_with, DenyWith::NxDomain);
    assert_eq!(config.quic_port(), None);
    let inspecting = Config::load(None, &["nameCheck.quic=Inspect".to_owned()]).unwrap();
    assert_eq!((inspecting.quic_port(), inspecting.name_settings().quic), (Some(15_004), table::Quic::Inspect));
    for (setting, word) in [
        ("dns.minTTL=1", "minTTL"),
        ("dns.resolvers=[{namespace: a}]", "`namespace` without `podSelector`"),
        ("dns.upstreamTimeoutMs=5000", "dns.upstreamTimeoutMs"),
        ("nameCheck.quic.x=1", "below"),
    ] {
        let error = Config::load(None, &[setting.into()]).unwrap_err().to_string();
        assert!(error.contains(word), "{setting}: {error}");
    }
}
