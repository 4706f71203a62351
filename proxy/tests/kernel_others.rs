//! What is found of others' rules on a node: each by its name, and nothing where nothing is.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::io::Write;
use std::process::{Command, Stdio};

use expect_test::{Expect, expect};
use kernel_stage::possible;
use sluice_proxy::kernel::others::Lookout;
use sluice_proxy::kernel::{DEFAULT_HOOK_PRIORITY, Mark};
use sluice_testnet::Netns;

/// What a Lookout in `ns` finds, a line each, with handles left out.
fn found(ns: &Netns) -> String {
    ns.run(|| {
        let mut lookout = Lookout::open(Mark::default(), DEFAULT_HOOK_PRIORITY).unwrap();
        let findings = lookout.look(0).unwrap();
        let lines =
            findings.named.iter().map(|finding| format!("{} {}: {}\n", finding.effect.as_str(), finding.place, finding.rule));
        let mut text: String = lines.collect();
        if findings.more() > 0 {
            text.push_str(&format!("and {} more\n", findings.more()));
        }
        regex::Regex::new(r"handle \d+").unwrap().replace_all(&text, "handle N").into_owned()
    })
}

/// Gives `input` to a program on the node.
fn feed(ns: &Netns, program: &str, arguments: &[&str], input: &str) {
    let output = ns.run(|| {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{program}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
}

/// nft 1.0.6 wants a line of its own for what closes a chain.
fn load(ns: &Netns, ruleset: &str) {
    feed(ns, "nft", &["-f", "-"], &ruleset.replace("; }", ";\n}\n").replace("} }", "}\n}\n"));
}

fn check(title: &str, ruleset: &str, expected: &Expect) {
    let ns = Netns::new("others").unwrap();
    ns.exec("ip", &["addr", "add", "192.0.2.10/32", "dev", "lo"]).unwrap();
    println!("{title}");
    load(&ns, ruleset);
    expected.assert_eq(&found(&ns));
}

#[test]
fn rules_that_proxied_flows_would_evade_or_meet_are_named() {
    if !possible() {
        return;
    }
    check("nothing", "table inet empty {}", &expect![""]);
    check(
        "a policy engine in forward, and a firewall of the host",
        "table inet engine {
            set blocked { type ipv4_addr; }
            chain forward { type filter hook forward priority 0; ct state established,related accept; jump pods; }
            chain pods { ip saddr @blocked drop; tcp dport 5432 ip daddr 10.0.1.2 reject; }
         }
         table inet host {
            chain input { type filter hook input priority 0; policy drop; ct state vmap { established : accept, related : accept, invalid : drop }
              iif lo accept; tcp dport { 22, 80 } accept; }
            chain output { type filter hook output priority 0; meta skuid 99 drop; oifname \"pod*\" udp dport 53 counter drop comment \"no DNS\"; }
         }",
        &expect![[r#"
            evades table inet engine, chain pods, rule handle N (hook forward): ip saddr @blocked drop
            evades table inet engine, chain pods, rule handle N (hook forward): l4proto tcp dport 5432 ip daddr 10.0.1.2 reject
            cuts table inet host, chain input (hook input): policy drop
            cuts table inet host, chain output, rule handle N (hook output): oif pod* l4proto udp dport 53 drop comment "no DNS"
        "#]],
    );
    check(
        "the state of the first packet decides at the end",
        "table ip late { chain postrouting { type filter hook postrouting priority -5; ct state new ip daddr 10.0.0.0/8 drop; } }",
        &expect![[r#"
            evades table ip late, chain postrouting, rule handle N (hook postrouting): ct state new ip daddr 10.0.0.0/8 drop
        "#]],
    );
    check(
        "our mark taken away, or kept",
        "table ip marks {
            chain before { type filter hook prerouting priority -150; meta mark set 1; }
            chain after { type filter hook prerouting priority 0; meta mark set meta mark | 0x1; meta mark set ct mark; meta mark set 0x1001; meta mark set 5; }
         }",
        &expect![[r#"
            cuts table ip marks, chain after, rule handle N (hook prerouting): meta mark set …
            cuts table ip marks, chain after, rule handle N (hook prerouting): meta mark set …
        "#]],
    );
    check(
        "what is reached by several jumps, and through a map",
        "table ip6 deep {
            chain one { ip6 daddr fd00::1 drop; }
            chain two { udp dport vmap { 53 : jump one, 54 : drop }; goto one; }
            chain forward { type filter hook forward priority 0; meta l4proto { tcp, udp } jump two; icmpv6 type echo-request drop; }
         }",
        &expect![[r#"
            evades table ip6 deep, chain one, rule handle N (hook forward): ip6 daddr fd00::1 drop
            evades table ip6 deep, chain two, rule handle N (hook forward): l4proto udp dport vmap { … }
        "#]],
    );
    check(
        "what a map has for all that it doesn't name",
        "table inet rest {
            chain input { type filter hook input priority 0; meta l4proto vmap { udp : accept, * : drop }; }
            chain output { type filter hook output priority 0; meta l4proto vmap { tcp : accept, * : drop }; }
            chain forward { type filter hook forward priority 0; ct state vmap { established : accept, * : jump rest }; }
            chain rest { ip daddr 10.0.1.2 drop; }
         }",
        &expect![[r#"
            evades table inet rest, chain rest, rule handle N (hook forward): ip daddr 10.0.1.2 drop
            cuts table inet rest, chain input, rule handle N (hook input): l4proto vmap { … }
            cuts table inet rest, chain output, rule handle N (hook output): l4proto vmap { … }
        "#]],
    );
    check(
        "named limits, and a listener of somebody else's",
        "table inet named {
            limit few { rate 10/second; }
            quota little { over 10 mbytes; }
            counter each { packets 0 bytes 0; }
            chain input { type filter hook input priority 0; tcp dport 80 limit name \"few\" drop; }
            chain forward { type filter hook forward priority 0; counter name \"each\" quota name \"little\" drop; tcp dport 81 counter name \"each\" drop; }
            chain prerouting { type filter hook prerouting priority 0; meta l4proto tcp tproxy ip to :9999 meta mark set 5 accept; }
         }",
        &expect![[r#"
            evades table inet named, chain forward, rule handle N (hook forward): objref … drop
            evades table inet named, chain forward, rule handle N (hook forward): l4proto tcp dport 81 drop
            cuts table inet named, chain input, rule handle N (hook input): l4proto tcp dport 80 objref … drop
            cuts table inet named, chain prerouting, rule handle N (hook prerouting): l4proto tcp tproxy … meta mark set … accept
        "#]],
    );
    check(
        "a bridge's own filter",
        "table bridge filter { chain forward { type filter hook forward priority 0; ip protocol tcp drop; } }",
        &expect![[r#"
            evades table bridge filter, chain forward, rule handle N (hook forward): … 0x0800 … 0x06 drop
        "#]],
    );
}

#[test]
fn rules_that_no_proxied_flow_meets_are_none() {
    if !possible() {
        return;
    }
    for (title, ruleset) in [
        ("accepting", "table inet f { chain forward { type filter hook forward priority 0; policy drop; accept; } }"),
        (
            "invalid packets, odd flags, no connections' beginnings",
            "table inet f {
                chain forward { type filter hook forward priority 0; ct state invalid drop; tcp flags & (fin|syn) == fin|syn drop;
                  tcp flags & (fin|syn|rst|ack) != syn ct state new tcp dport 1-65535 drop; }
                chain input { type filter hook input priority 0; ct state invalid drop; ct state vmap { invalid : drop } }
             }",
        ),
        (
            "other protocols, broadcast, multicast, loopback, the node itself",
            "table inet f {
                chain input { type filter hook input priority 0; meta l4proto { icmp, ipv6-icmp, sctp } drop; meta pkttype broadcast drop;
                  fib daddr type { broadcast, multicast, local } drop; ip daddr 127.0.0.0/8 drop; ip saddr != 127.0.0.0/8 ip daddr 127.0.0.0/8 reject;
                  ip daddr 192.0.2.10 tcp dport 22 drop; ip6 daddr ff00::/8 drop; ip6 saddr ::1 drop; fib daddr type local tcp dport 10250 drop; }
                chain output { type filter hook output priority 0; ip daddr 224.0.0.0/4 drop; meta skuid 4242 drop; }
             }",
        ),
        (
            "before the paths part, or after they meet",
            "table inet f {
                chain early { type filter hook prerouting priority -300; fib saddr . iif oif missing drop; drop; }
                chain late { type filter hook prerouting priority 50; ct state new drop; }
             }
             table netdev n { chain ingress { type filter hook ingress device lo priority 0; ip saddr 10.0.0.0/8 drop; } }",
        ),
        ("address translation", "table ip nat { chain pre { type nat hook prerouting priority -100; tcp dport 80 dnat to 10.0.0.1; }
             chain post { type nat hook postrouting priority 100; ip saddr 10.0.0.0/8 masquerade; } }"),
        ("nodelocal dns", "table ip raw { chain out { type filter hook output priority -300; ip saddr 169.254.20.10 udp sport 53 notrack; }
             chain pre { type filter hook prerouting priority -300; ip daddr 169.254.20.10 udp dport 53 notrack; } }"),
        ("ours", "table inet sluice { chain forward { type filter hook forward priority -90; policy drop; } }"),
        ("kube-proxy, nftables", KUBE_PROXY_NFTABLES),
    ] {
        println!("{title}");
        check(title, ruleset, &expect![""]);
    }
}

/// In the form of kube-proxy's nftables mode, shortened.
const KUBE_PROXY_NFTABLES: &str = "
table ip kube-proxy {
    map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 10.96.0.5 . tcp . 80 : goto reject-chain } }
    map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 192.0.2.77 . tcp . 80 : goto firewall-web } }
    chain reject-chain { reject; }
    chain firewall-web { ip saddr != 203.0.113.0/24 drop; }
    chain endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
    chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
    chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }
    chain filter-input { type filter hook input priority -110; ct state new jump endpoints-check; }
    chain filter-forward { type filter hook forward priority -110; ct state new jump endpoints-check; }
    chain filter-output { type filter hook output priority -110; ct state new jump endpoints-check; ct state new jump firewall-check; }
    chain cluster-ips-check { ip daddr 10.96.0.0/12 drop; }
    chain nat-postrouting { type nat hook postrouting priority 100; meta mark & 0x4000 == 0 return; masquerade; }
}";

/// Programs of iptables that can be called here; says what is skipped where there are none.
fn has(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok();
    if !is_there {
        assert!(!nix::unistd::geteuid().is_root(), "{program} is missing: .ci/setup test installs it");
        println!("SKIPPED: {program} is not installed (Debian: iptables)");
    }
    is_there
}

/// In the form of kube-proxy's iptables mode, shortened, with flannel's chain.
const KUBE_PROXY_IPTABLES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
:FLANNEL-FWD - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.5/32 -p tcp -m comment --comment \"shop/web has no endpoints\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
-A KUBE-PROXY-FIREWALL -d 192.0.2.77/32 -p tcp -m comment --comment \"shop/web:http\" -m tcp --dport 80 -j DROP
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT
COMMIT
";

/// What a distribution's and an engine's rules look like, harmless ones among them.
const OTHERS_IPTABLES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:cali-FORWARD - [0:0]
:cali-tw-cali1 - [0:0]
:ufw-before-input - [0:0]
-A INPUT -j ufw-before-input
-A FORWARD -j DOCKER-USER
-A FORWARD -m comment --comment \"cali:abc\" -j cali-FORWARD
-A cali-FORWARD -i cali1 -m comment --comment \"cali:def\" -g cali-tw-cali1
-A cali-tw-cali1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-tw-cali1 -m conntrack --ctstate INVALID -j DROP
-A cali-tw-cali1 -m comment --comment \"Drop if no profiles matched\" -j DROP
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -m addrtype --dst-type LOCAL -j RETURN
-A ufw-before-input -m addrtype --dst-type BROADCAST -j DROP
-A ufw-before-input -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP
-A ufw-before-input -p tcp -m tcp --dport 23 -j REJECT --reject-with tcp-reset
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-USER -p icmp -j DROP
COMMIT
";

#[test]
fn iptables_rules_are_read_in_both_their_forms() {
    if !possible() {
        return;
    }
    for flavour in ["nft", "legacy"] {
        let (restore, save) = (format!("iptables-{flavour}-restore"), format!("iptables-{flavour}-save"));
        if !has(&restore) || !has(&save) {
            continue;
        }
        let ns = Netns::new("iptables").unwrap();
        feed(&ns, &restore, &[], KUBE_PROXY_IPTABLES);
        expect![""].assert_eq(&found(&ns));
        let ns = Netns::new("iptables").unwrap();
        feed(&ns, &restore, &[], OTHERS_IPTABLES);
        let expected = if flavour == "nft" {
            expect![[r#"
            evades table ip filter, chain FORWARD (hook forward): policy drop
            evades table ip filter, chain cali-tw-cali1, rule handle N (hook forward): drop comment "Drop if no profiles matched"
            cuts table ip filter, chain INPUT (hook input): policy drop
            cuts table ip filter, chain ufw-before-input, rule handle N (hook input): l4proto tcp dport 23 REJECT
        "#]]
        } else {
            expect![[r#"
            evades iptables-legacy table filter, chain FORWARD (hook forward): policy drop
            evades iptables-legacy table filter, chain cali-tw-cali1, rule 3 (hook forward): -A cali-tw-cali1 -m comment --comment "Drop if no profiles matched" -j DROP
            cuts iptables-legacy table filter, chain INPUT (hook input): policy drop
            cuts iptables-legacy table filter, chain ufw-before-input, rule 6 (hook input): -A ufw-before-input -p tcp -m tcp --dport 23 -j REJECT --reject-with tcp-reset
        "#]]
        };
        expected.assert_eq(&found(&ns));
    }
}

#[test]
fn a_look_is_renewed_when_others_change_something() {
    if !possible() {
        return;
    }
    let ns = Netns::new("others").unwrap();
    let count = |lookout: &mut Lookout, own: u32| {
        let findings = lookout.look(own).unwrap();
        findings.evades + findings.cuts
    };
    ns.run(|| {
        let mut lookout = Lookout::open(Mark::default(), DEFAULT_HOOK_PRIORITY).unwrap();
        assert_eq!(count(&mut lookout, 0), 0);
        load(&ns, "table ip f { chain forward { type filter hook forward priority 0; policy drop; } }");
        // Taken for a change of our own, it isn't looked at.
        assert_eq!(count(&mut lookout, 1), 0);
        load(&ns, "table ip g {}");
        assert_eq!(count(&mut lookout, 1), 1);
        load(&ns, "flush ruleset");
        assert_eq!(count(&mut lookout, 1), 0);
        let mut rules = "table ip f { chain forward { type filter hook forward priority 0; ".to_owned();
        for port in 1..=50 {
            rules.push_str(&format!("tcp dport {port} drop; "));
        }
        load(&ns, &(rules + "} }"));
        let findings = lookout.look(1).unwrap();
        assert_eq!((findings.named.len(), findings.evades, findings.more()), (20, 50, 30));
    });
}

#[test]
fn an_engine_of_ten_thousand_rules_is_read_in_time() {
    if !possible() {
        return;
    }
    let ns = Netns::new("others").unwrap();
    // A transaction of an ordinary user is bounded by the socket's buffer.
    for hundred in 0..20 {
        let mut rules = String::from("table ip engine {\nchain forward {\ntype filter hook forward priority 0;\n}\n");
        let pods = || hundred * 100..hundred * 100 + 100;
        for pod in pods() {
            let port = pod + 1;
            rules.push_str(&format!(
                "chain pod{pod} {{\nct state established accept\nip saddr 10.0.0.0/8 tcp dport {port} accept\n"
            ));
            rules.push_str("meta mark & 0x10000 == 0x10000 return\nct state invalid drop\ndrop\n}\n");
        }
        rules.push_str("chain forward {\n");
        for pod in pods() {
            rules.push_str(&format!("oifname \"veth{pod}\" jump pod{pod}\n"));
        }
        feed(&ns, "nft", &["-f", "-"], &(rules + "}\n}\n"));
    }
    ns.run(|| {
        let mut lookout = Lookout::open(Mark::default(), DEFAULT_HOOK_PRIORITY).unwrap();
        let begun = std::time::Instant::now();
        let findings = lookout.look(0).unwrap();
        assert_eq!(findings.evades, 2000);
        println!("12,000 rules are read and followed in {:?}", begun.elapsed());
        assert!(begun.elapsed().as_secs() < 20, "it would hold up every table: {:?}", begun.elapsed());
        let begun = std::time::Instant::now();
        lookout.look(0).unwrap();
        println!("and where nothing has changed, in {:?}", begun.elapsed());
    });
}
