//! A rule of one name: what may be asked, what it opens, and what stays closed.

use serde_json::json;
use sluice_testnet::Protocol;
use sluice_testnet::dns::{Client, Lookup, ResolvConf};

use super::{API, GIT, RESOLVER, Stage, WWW, to_names};
use crate::client::{curl, ip};
use crate::scene::LONG;

/// Info-code *Prohibited* of RFC 8914.
const PROHIBITED: u16 = 18;

#[test]
fn a_name_is_answered_and_its_addresses_open() {
    let Some(stage) = Stage::start(&to_names(&["api.github.com"]), &[]) else { return };
    assert!(stage.is_closed("shop/web", API[0]), "nobody has asked yet");
    for (kind, address) in ["A", "AAAA"].into_iter().zip(API) {
        for server in RESOLVER {
            for options in [&[][..], &["+tcp"][..]] {
                let answer = stage.dig("shop/web", server, "api.github.com", kind, options);
                assert_eq!((answer.status.as_str(), answer.data()), ("NOERROR", vec![address]), "{}", answer.text);
                assert_eq!(answer.by_tcp, !options.is_empty());
            }
        }
    }
    for address in API {
        assert!(stage.connects("shop/web", address), "{address}");
        assert!(stage.reaches("shop/web", address, Protocol::Udp, LONG), "{address}");
    }
    for address in API {
        assert!(stage.is_closed("shop/other", address), "{address}: another pod that may have asked and didn't");
    }
    for address in WWW {
        assert!(stage.is_closed("shop/web", address), "{address} was not looked up");
    }
    assert!(stage.connects("shop/free", WWW[0]), "a pod without such rules");
    let record = stage.record_of("api.github.com", |record| record["dns"]["type"] == "AAAA");
    let dns = &record["dns"];
    assert_eq!((&record["verdict"], &record["reason"]), (&json!("allow"), &json!("RuleMatched")), "{record:#}");
    assert_eq!((&dns["rcode"], &dns["addresses"]), (&json!("NOERROR"), &json!([API[1]])), "{record:#}");
    assert!(dns["ttl"].as_u64().is_some_and(|ttl| (200..=300).contains(&ttl)), "{record:#}");
    let rule = (&record["policy"]["name"], &record["policy"]["rule"]);
    assert_eq!(rule, (&json!("outside"), &json!("egress[0]")), "{record:#}");
    assert_eq!((&record["source"]["pod"], &record["destination"]["pod"]), (&json!("web"), &json!("dns")), "{record:#}");
    assert_eq!((&record["destination"]["port"], &record["protocol"]), (&json!(53), &json!("UDP")), "{record:#}");
    assert!(stage.scene.programs.records(super::NODE).iter().all(|record| record["source"]["pod"] != "free"), "untouched");
}

#[test]
fn other_names_are_refused_by_the_policys_name() {
    let Some(stage) = Stage::start(&to_names(&["api.github.com"]), &[]) else { return };
    for (name, kind) in [("www.example.org", "A"), ("github.com", "A"), ("xapi.github.com", "AAAA"), ("example.org", "TXT")] {
        for options in [&[][..], &["+tcp"][..]] {
            let answer = stage.dig("shop/web", RESOLVER[0], name, kind, options);
            assert_eq!((answer.status.as_str(), answer.data()), ("REFUSED", vec![]), "{}", answer.text);
            let [(code, text)] = answer.extended_errors.as_slice() else { panic!("{}", answer.text) };
            assert_eq!(*code, PROHIBITED);
            assert!(text.contains("SluiceNetworkPolicy shop/outside") && text.contains("shop/web"), "{text}");
        }
        let record = stage.record_of(name, |record| record["protocol"] == "TCP");
        assert_eq!((&record["verdict"], &record["reason"]), (&json!("deny"), &json!("NoRuleMatched")), "{record:#}");
        assert_eq!((&record["policy"]["name"], &record["dns"]["rcode"]), (&json!("outside"), &json!("REFUSED")), "{record:#}");
    }
    // At another server not even the rule's own name: nothing reaches it.
    let answer = stage.dig("shop/web", super::Net::OUTSIDE_V4.to_string().as_str(), "api.github.com", "A", &[]);
    assert_eq!(answer.status, "REFUSED", "{}", answer.text);
    let free = stage.dig("shop/free", RESOLVER[0], "www.example.org", "A", &[]);
    assert_eq!(free.data(), [WWW[0]], "{}", free.text);
    // A search list's suffix behind a name of the rule.
    let searched = "api.github.com.shop.svc.cluster.local";
    for kind in ["A", "AAAA"] {
        let answer = stage.dig("shop/web", RESOLVER[0], searched, kind, &[]);
        assert_eq!(answer.status, "NXDOMAIN", "{}", answer.text);
    }
    let record = stage.record_of(searched, |_| true);
    assert_eq!((&record["verdict"], &record["reason"]), (&json!("deny"), &json!("SearchSuffix")), "{record:#}");
}

#[test]
fn real_clients_find_and_connect() {
    let Some(stage) = Stage::start(&to_names(&["api.github.com"]), &[]) else { return };
    let web = stage.scene.pod("shop/web");
    // Side by side: musl's waits for its time to be over where it is refused.
    std::thread::scope(|scope| {
        for (server, client) in RESOLVER.into_iter().flat_map(|server| Client::ALL.map(|client| (server, client))) {
            let web = &web;
            scope.spawn(move || {
                let cluster = ResolvConf::of_cluster(ip(server), "shop");
                let found = client.look_up(web.ns(), &cluster, &Lookup::and_connect("api.github.com", GIT)).unwrap();
                assert_eq!(found.sorted(), API, "{client:?} at {server}: {found:?}");
                assert!(matches!(found.connects.as_slice(), [(_, Ok(()))]), "{client:?}: the first one takes: {found:?}");
                let refused = client.look_up(web.ns(), &cluster, &Lookup::of("www.example.org")).unwrap();
                assert!(refused.addresses.is_empty(), "{client:?}: {refused:?}");
                assert!(refused.took < LONG, "{client:?}: {refused:?}");
            });
        }
    });
}

/// A pod has addresses of both families, and asks its one server about both.
#[test]
fn what_is_asked_by_one_family_opens_by_the_other() {
    let Some(stage) = Stage::start(&to_names(&["api.github.com"]), &[]) else { return };
    let (v4, v6) = (RESOLVER[0], RESOLVER[1]);
    for (pod, server, kind, address) in [("shop/web", v4, "AAAA", API[1]), ("shop/other", v6, "A", API[0])] {
        assert_eq!(stage.dig(pod, server, "api.github.com", kind, &[]).data(), [address]);
        assert!(stage.connects(pod, address), "{pod}: {address}, by what {server} said");
        let files = tempfile::tempdir().unwrap();
        let at = if address.contains(':') { format!("[{address}]:443") } else { format!("{address}:443") };
        let _server = crate::tls::serve(stage.scene.net.outside(), &at, files.path());
        let to = format!("::{at}");
        let pod = stage.scene.pod(pod);
        let answer = curl(pod.ns(), "https://api.github.com/", &["--insecure", "--connect-to", &to]);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(stage.is_closed("shop/web", API[0]) && stage.is_closed("shop/other", API[1]), "each for the pod that asked");
}
