//! Configurations that are taken, and the words with which others are refused.

use clap::{CommandFactory, Parser};
use expect_test::{Expect, expect};

use super::{Args, Config, ConnectionRecords, DenialBody, Deny, Limits, Redirect};
use crate::enforcer::kernel_config;

fn refused(text: &str, expected: &Expect) {
    let error = Config::parse(text, "proxy.yaml").and_then(|config| config.check()).unwrap_err();
    expected.assert_eq(error.to_string().lines().next().unwrap_or_default());
}

#[test]
fn the_command_line_is_sound() {
    Args::command().debug_assert();
    let args = Args::try_parse_from([
        "sluice-proxy",
        "--controller",
        "unix:/run/c.sock",
        "--node",
        "n1",
        "--set",
        "limits.idleSeconds=5",
    ])
    .unwrap();
    assert_eq!(args.node.as_deref(), Some("n1"));
    assert!(Args::try_parse_from(["sluice-proxy"]).is_err());
    assert!(Args::try_parse_from(["sluice-proxy", "--print-config"]).is_ok());
    assert!(Args::try_parse_from(["sluice-proxy", "cleanup"]).is_ok());
    // A broken configuration must not be in the way of a cleanup, so it doesn't take one.
    assert!(Args::try_parse_from(["sluice-proxy", "cleanup", "--config", "broken.yaml"]).is_err());
    let command = Args::command();
    let log = command.get_arguments().find(|argument| argument.get_id() == "log").unwrap();
    assert_eq!(log.get_default_values(), ["info"]);
    for line in [&["--log", "sluice_proxy=debug,warn", "--print-config"][..], &["cleanup", "--log", "sluice_proxy=debug,warn"]] {
        let args = Args::try_parse_from([&["sluice-proxy"], line].concat()).unwrap();
        assert_eq!(args.log, "sluice_proxy=debug,warn", "{line:?}");
    }
}

#[test]
fn a_file_replaces_what_it_names() {
    let text = "uplinks: [eth0]\ndeny: reject\ndenialBody: id\nrecords: {connections: denied}\nlimits:\n  headerBytes: 8192\n";
    let config = Config::parse(text, "proxy.yaml").unwrap();
    assert_eq!(config.deny, Deny::Reject);
    assert_eq!(config.denial_body, DenialBody::Id);
    assert_eq!(config.records.connections, ConnectionRecords::Denied);
    assert_eq!(config.limits.header_bytes, 8192);
    assert_eq!(config.limits.idle_seconds, Config::default().limits.idle_seconds);
}

#[test]
fn what_the_kernel_reports_is_for_the_configuration_to_say() {
    let log = |text: &str| kernel_config(&Config::parse(text, "proxy.yaml").unwrap()).log;
    let of_default = log("").expect("denials have records unless somebody says otherwise");
    assert_eq!((of_default.group, of_default.per_second.get(), of_default.passed), (15001, 10, false));
    assert_eq!(log("records: {kernelPerSecond: 0}"), None);
    let all = log("nflogGroup: 7\nrecords: {connections: all, kernelPerSecond: 3}").expect("some");
    assert_eq!((all.group, all.per_second.get(), all.passed), (7, 3, true));
}

#[test]
fn the_operators_word_and_the_places_in_the_kernel_are_taken() {
    let text = "enforcementAlone: true\nmark: 0x40\nroutingTable: 77\nrulePriority: 50\nhookPriority: -42\n";
    let config = Config::parse(text, "proxy.yaml").unwrap();
    config.check().unwrap();
    let told = crate::enforcer::kernel_config(&config);
    assert!(config.enforcement_alone && !Config::default().enforcement_alone);
    assert_eq!((told.mark.value, told.mark.mask, told.routing_table, told.hook_priority), (0x40, 0x40, 77, -42));
    assert_eq!(config.rule_priority, 50);
    let printed = serde_saphyr::to_string(&config).unwrap();
    for key in ["enforcementAlone: true", "rulePriority: 50", "hookPriority: -42", "mark: 64", "routingTable: 77"] {
        assert!(printed.contains(key), "{key}: {printed}");
    }
}

#[test]
fn an_empty_file_is_the_defaults() {
    for text in ["", "---\n", "# nothing\n"] {
        assert_eq!(Config::parse(text, "proxy.yaml").unwrap(), Config::default(), "{text:?}");
    }
}

#[test]
fn what_is_printed_can_be_read_back() {
    let printed = serde_saphyr::to_string(&Config::default()).unwrap();
    assert_eq!(Config::parse(&printed, "proxy.yaml").unwrap(), Config::default());
}

#[test]
fn refusals_name_the_key() {
    refused(
        "hookPriority: -100",
        &expect!["hookPriority: -100 is not between -99 and -1: behind the translation of Services (-100), before filters (0)"],
    );
    refused(
        "hookPriority: 0",
        &expect!["hookPriority: 0 is not between -99 and -1: behind the translation of Services (-100), before filters (0)"],
    );
    refused("rulePriority: 0", &expect!["rulePriority: 0 is not between 1 and 32765, before the main table"]);
    refused("rulePriority: 32766", &expect!["rulePriority: 32766 is not between 1 and 32765, before the main table"]);
    refused("port: 0", &expect!["port: must be more than 0"]);
    refused("routingTable: 254", &expect!["routingTable: 254 is one of the kernel's own tables"]);
    refused(
        "uplinks: [a-name-that-is-too-long]",
        &expect![[r#"uplinks: "a-name-that-is-too-long" is no interface name: 1 to 15 bytes"#]],
    );
    refused("limits: {headerBytes: 9999999}", &expect!["limits.headerBytes: must be at most 1048576"]);
    refused("limits: {headerBytes: 10}", &expect!["limits.headerBytes: must be at least 1024"]);
    refused("records: {kernelPerSecond: 10001}", &expect!["records.kernelPerSecond: must be at most 10000"]);
    let unknown = Config::parse("limit: {}", "proxy.yaml").unwrap_err().to_string();
    assert!(unknown.contains("limit") && unknown.contains("proxy.yaml"), "{unknown}");
    let wrong = Config::parse("port: eighty", "proxy.yaml").unwrap_err().to_string();
    assert!(wrong.contains("eighty") || wrong.contains("port") || wrong.contains("line"), "{wrong}");
}

#[test]
fn settings_go_over_the_file() {
    let config = Config::load(None, &["limits.idleSeconds=5".into(), "uplinks=[eth0, eth1]".into()]).unwrap();
    assert_eq!(config.limits.idle_seconds, 5);
    assert_eq!(config.uplinks, ["eth0", "eth1"]);
    let config = Config::load(None, &["redirect=classifier".into()]).unwrap();
    assert_eq!(config.redirect, Redirect::Classifier);
    for (setting, word) in [
        ("limits.idle=5", "idle"),
        ("limits", "="),
        ("port.x=1", "below"),
        ("port=many", "port=many"),
        ("limits.headSeconds=0", "limits.headSeconds"),
        ("redirect=magic", "redirect=magic"),
    ] {
        let error = Config::load(None, &[setting.into()]).unwrap_err().to_string();
        assert!(error.contains(word), "{setting}: {error}");
    }
}

#[test]
fn few_files_leave_one_pod_half_of_the_connections() {
    for (connections, per_pod, most, expected) in [
        (50_000, 2_000, 50_000, (50_000, 2_000)),
        (50_000, 2_000, 10_000, (10_000, 2_000)),
        (50_000, 2_000, 448, (448, 224)),
        (50_000, 100, 448, (448, 100)),
        (50_000, 2_000, 1, (1, 1)),
        // Whoever asks for as many for one pod as in all gets it, as long as there are files.
        (300, 300, 448, (300, 300)),
    ] {
        let mut limits = Limits { connections, connections_per_pod: per_pod, ..Limits::default() };
        assert_eq!(limits.hold_at_most(most), expected.0 < connections);
        assert_eq!((limits.connections, limits.connections_per_pod), expected, "{connections} {per_pod} {most}");
    }
}

#[test]
fn bpf_is_refused_where_it_was_not_built() {
    let given = Config::load(None, &["redirect=bpf".into()]);
    if sluice_ebpf_redirect::BUILT {
        assert_eq!(given.unwrap().redirect, Redirect::Bpf);
    } else {
        let error = given.unwrap_err().to_string();
        let expected = format!("built without BPF ({})", sluice_ebpf_redirect::BUILD);
        assert!(error.contains(&expected) && error.contains("`classifier`"), "{error}");
    }
}
