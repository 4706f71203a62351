//! On the ports of TLS and HTTP a connection must ask for a name that the rule allows.

use serde_json::{Value, json};

use super::{API, NODE, Stage, WWW, to_names};
use crate::client::curl;
use crate::scene::LONG;

/// A connection's record, once it is written.
fn connection(stage: &Stage, wanted: impl Fn(&Value) -> bool) -> Value {
    let record = stage.scene.programs.wait_record(NODE, LONG, |record| record["type"] == "connection" && wanted(record));
    record.unwrap_or_else(|| panic!("no such record: {:#?}", stage.scene.programs.records(NODE)))
}

#[test]
fn the_server_name_must_be_the_rules() {
    let Some(stage) = Stage::start(&to_names(&["api.github.com", "www.example.org"]), &[]) else { return };
    let files = tempfile::tempdir().unwrap();
    let mut servers = Vec::new();
    for address in [API[0].to_owned(), format!("[{}]", API[1]), WWW[0].to_owned()] {
        servers.push(crate::tls::serve(stage.scene.net.outside(), &format!("{address}:443"), files.path()));
    }
    let web = stage.scene.pod("shop/web");
    stage.look_up("shop/web", "api.github.com");
    stage.look_up("shop/web", "www.example.org");
    stage.dig("shop/web", super::RESOLVER[1], "api.github.com", "AAAA", &[]);
    let get = |name: &str, address: &str| {
        let to = format!("::{address}:443");
        curl(web.ns(), &format!("https://{name}/"), &["--insecure", "--connect-to", &to])
    };
    for address in [API[0], &format!("[{}]", API[1])] {
        let answer = get("api.github.com", address);
        assert_eq!((answer.exit, answer.status), (0, 200), "{address}: {answer:?}");
        for name in ["evil.example", "shop.example.org", address] {
            let answer = get(name, address);
            assert_eq!((answer.exit, answer.status), (35, 0), "{name} at {address}: {answer:?}");
        }
    }
    // Both are names of the rule, and each opens its own addresses; a name of the rule at the other's address is one that it may ask for.
    assert_eq!(get("www.example.org", WWW[0]).status, 200);
    let allowed = connection(&stage, |record| record["verdict"] == "allow" && record["destination"]["ip"] == API[1]);
    assert_eq!(allowed["destination"]["name"], "api.github.com", "{allowed:#}");
    assert_eq!(allowed["tls"]["serverName"], "api.github.com");
    let denied = connection(&stage, |record| record["tls"]["serverName"] == "evil.example");
    assert_eq!((&denied["verdict"], &denied["reason"]), (&json!("deny"), &json!("NoRuleMatched")), "{denied:#}");
    assert_eq!((&denied["policy"]["name"], &denied["destination"]["name"]), (&json!("outside"), &json!("api.github.com")));
}

#[test]
fn the_host_must_be_the_rules() {
    let Some(stage) = Stage::start(&to_names(&["api.github.com"]), &[]) else { return };
    stage.scene.web.serve(stage.scene.net.outside(), "outside", 80);
    let web = stage.scene.pod("shop/web");
    stage.look_up("shop/web", "api.github.com");
    let get = |name: &str, path: &str| {
        let to = format!("::{}:80", API[0]);
        curl(web.ns(), &format!("http://{name}{path}"), &["--connect-to", &to])
    };
    let answer = get("API.github.com.", "/allowed");
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = get("www.example.org", "/denied");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("SluiceNetworkPolicy shop/outside"), "{answer:?}");
    let answer = get(API[0], "/address");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(stage.scene.seen("/allowed").len(), 1);
    assert!(stage.scene.seen("/denied").is_empty() && stage.scene.seen("/address").is_empty());
    let record = stage.scene.request_record(NODE, "/allowed");
    assert_eq!(record["destination"]["name"], "api.github.com", "{record:#}");
}
