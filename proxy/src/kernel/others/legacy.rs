//! Tables of the older iptables, which nftables doesn't show.
//!
//! The kernel lists the tables of a network namespace that were ever used (`/proc/net/ip_tables_names`). Their rules come out of a
//! socket option that would need unsafe code, or of `iptables-legacy-save`, where that is installed.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use ipnet::IpNet;

use super::super::object::octets;
use super::packet::{Hook, TCP, UDP, state};
use super::ruleset::{Base, Chain, Rule, Ruleset, Step, TableFamily, TableName, Test, Verdict};
use super::xtables;

/// Of the tables only these are of any say: in `nat` nothing can be dropped.
const TABLES: [&str; 4] = ["filter", "mangle", "raw", "security"];

/// The tables that are loaded, and what of them could not be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Legacy {
    pub(super) ruleset: Ruleset,
    /// The table, and why.
    pub(super) unreadable: Vec<(TableName, String)>,
}

/// The names of loaded tables, of both families: what tells that a program has begun to use the older iptables.
pub(super) fn names() -> Vec<TableName> {
    // Of the thread's own network namespace.
    [(TableFamily::Ip, "/proc/thread-self/net/ip_tables_names"), (TableFamily::Ip6, "/proc/thread-self/net/ip6_tables_names")]
        .into_iter()
        .flat_map(|(family, path)| {
            let names = std::fs::read_to_string(path).unwrap_or_default();
            let of_say = |name: &&str| TABLES.contains(name);
            let table = |name: &str| TableName { family, name: name.to_owned(), is_legacy: true };
            names.lines().filter(of_say).map(table).collect::<Vec<_>>()
        })
        .collect()
}

/// Reads the rules of these tables.
pub(super) fn read(names: &[TableName]) -> Legacy {
    let mut legacy = Legacy::default();
    for table in names {
        let program = if table.family == TableFamily::Ip6 { "ip6tables-legacy-save" } else { "iptables-legacy-save" };
        match saved(program, table) {
            Ok(text) => legacy.ruleset.chains.extend(chains(table, &text)),
            Err(why) => legacy.unreadable.push((table.clone(), why)),
        }
    }
    legacy
}

fn saved(program: &str, table: &TableName) -> Result<String, String> {
    let output = Command::new(program).args(["-t", &table.name]).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(format!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(format!("{program} is not installed where the proxy runs")),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// The chains of one table, as `iptables-save` prints them.
fn chains(table: &TableName, text: &str) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_whitespace();
            let (name, policy) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let base = hook(name).map(|hook| Base { hook, priority: priority(&table.name), drops: policy == "DROP" });
            chains.push(Chain { table: table.clone(), name: name.to_owned(), base, rules: Vec::new() });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words = words(rule);
            let Some((name, words)) = words.split_first() else { continue };
            if let Some(chain) = chains.iter_mut().find(|chain| chain.name == *name) {
                let (steps, comment) = steps(words);
                chain.rules.push(Rule { handle: None, comment, steps, text: Some(format!("-A {rule}")) });
            }
        }
    }
    chains
}

fn hook(chain: &str) -> Option<Hook> {
    Some(match chain {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
        "OUTPUT" => Hook::Output,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    })
}

/// `NF_IP_PRI_*`.
fn priority(table: &str) -> i32 {
    match table {
        "raw" => -300,
        "mangle" => -150,
        "security" => 50,
        _ => 0,
    }
}

/// Splits at spaces; text in double quotes is one word, in which a backslash stands before a quote.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut begun) = (String::new(), false, false);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => (quoted, begun) = (!quoted, true),
            '\\' if quoted => word.extend(letters.next()),
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            letter => {
                word.push(letter);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// What a rule asks for and does. An option that isn't followed is a condition that may hold or not.
fn steps(words: &[String]) -> (Vec<Step>, Option<String>) {
    let (mut steps, mut comment) = (Vec::new(), None);
    let mut words = words.iter().map(String::as_str).peekable();
    let mut inverted = false;
    while let Some(word) = words.next() {
        if word == "!" {
            inverted = true;
            continue;
        }
        let inverted = std::mem::take(&mut inverted);
        let test = match word {
            // Names a match whose options follow.
            "-m" => {
                words.next();
                continue;
            }
            "--comment" => {
                comment = words.next().map(str::to_owned);
                continue;
            }
            "-j" | "-g" => {
                steps.extend(words.next().and_then(|target| verdict(target, word == "-g")).map(Step::Verdict));
                // Options of the target.
                break;
            }
            "-p" => words.next().and_then(protocol).map(|number| Test::Protocol { number, inverted }),
            "-s" | "-d" => words.next().and_then(|net| address(net, word == "-s", inverted)),
            "--ctstate" | "--state" => words.next().and_then(states).map(|bits| Test::State { bits, inverted }),
            "--tcp-flags" => match (words.next().and_then(flags), words.next().and_then(flags)) {
                (Some(mask), Some(value)) => Some(Test::Flags { mask, value, inverted }),
                _ => None,
            },
            "--dst-type" | "--src-type" => {
                words.next().and_then(address_types).map(|types| Test::AddressType { types, inverted })
            }
            "--pkt-type" => words.next().and_then(packet_type).map(|number| Test::PacketType { number, inverted }),
            // The option's own words are conditions that nobody knows too.
            _ => None,
        };
        steps.push(test.map_or_else(|| Step::Perhaps(word.trim_start_matches('-').to_owned()), Step::Test));
    }
    (steps, comment)
}

fn verdict(target: &str, is_goto: bool) -> Option<Verdict> {
    match target {
        "ACCEPT" => Some(Verdict::Accept),
        "DROP" => Some(Verdict::Deny(target.to_owned())),
        "RETURN" => Some(Verdict::Return),
        chain if is_goto => Some(Verdict::Goto(chain.to_owned())),
        // A chain of the table, or a target: which of them it is, the walk knows.
        other => match xtables::target(other) {
            Some(Verdict::Deny(name)) => Some(Verdict::Jump(name)),
            known => known,
        },
    }
}

fn protocol(word: &str) -> Option<u8> {
    match word {
        "tcp" => Some(TCP),
        "udp" => Some(UDP),
        "icmp" => Some(1),
        "ipv6-icmp" | "icmpv6" => Some(58),
        "sctp" => Some(132),
        "esp" => Some(50),
        "ah" => Some(51),
        "gre" => Some(47),
        number => number.parse().ok(),
    }
}

fn address(net: &str, is_source: bool, inverted: bool) -> Option<Test> {
    let net = net.parse::<IpNet>().or_else(|_| net.parse::<IpAddr>().map(IpNet::from)).ok()?;
    Some(Test::Address { is_source, value: octets(net.network()), mask: octets(net.netmask()), inverted })
}

fn states(list: &str) -> Option<u32> {
    list.split(',').try_fold(0, |bits, word| {
        let bit = match word {
            "INVALID" => state::INVALID,
            "ESTABLISHED" => state::ESTABLISHED,
            "RELATED" => state::RELATED,
            "NEW" => state::NEW,
            "UNTRACKED" => state::UNTRACKED,
            // DNAT and SNAT: any connection can be of that kind.
            _ => return None,
        };
        Some(bits | bit)
    })
}

fn flags(list: &str) -> Option<u8> {
    list.split(',').try_fold(0, |bits, word| {
        let bit = match word {
            "FIN" => 1,
            "SYN" => 2,
            "RST" => 4,
            "PSH" => 8,
            "ACK" => 16,
            "URG" => 32,
            "ALL" => 63,
            "NONE" => 0,
            _ => return None,
        };
        Some(bits | bit)
    })
}

/// `1 << RTN_*`.
fn address_types(list: &str) -> Option<u32> {
    const NAMES: [&str; 8] = ["UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE"];
    list.split(',').try_fold(0, |bits, word| Some(bits | 1 << NAMES.iter().position(|name| *name == word)?))
}

fn packet_type(word: &str) -> Option<u8> {
    ["host", "broadcast", "multicast"].iter().position(|name| *name == word).and_then(|number| u8::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_or_fails_is_said() {
        let table = TableName { family: TableFamily::Ip, name: "filter".to_owned(), is_legacy: true };
        let why = saved("no-such-iptables-save", &table).unwrap_err();
        assert_eq!(why, "no-such-iptables-save is not installed where the proxy runs");
        assert!(saved("false", &table).unwrap_err().starts_with("false failed"));
    }

    #[test]
    fn what_iptables_saves_is_read() {
        let table = TableName { family: TableFamily::Ip, name: "filter".to_owned(), is_legacy: true };
        let text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [1:2]\n:MINE - [0:0]\n\
             -A FORWARD ! -s 10.0.0.0/8 -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m comment --comment \"say \\\"no\\\"\" -j MINE\n\
             -A MINE -m conntrack --ctstate INVALID,NEW -j REJECT --reject-with icmp-port-unreachable\n-A MINE -m owner --uid-owner 5 -g X\nCOMMIT\n";
        let chains = chains(&table, text);
        assert_eq!(chains.len(), 3);
        assert_eq!(chains[1].base, Some(Base { hook: Hook::Forward, priority: 0, drops: true }));
        assert_eq!(chains[2].base, None);
        let rule = &chains[1].rules[0];
        assert_eq!(rule.comment.as_deref(), Some("say \"no\""));
        assert_eq!(
            rule.steps,
            [
                Step::Test(Test::Address { is_source: true, value: vec![10, 0, 0, 0], mask: vec![255, 0, 0, 0], inverted: true }),
                Step::Test(Test::Protocol { number: 6, inverted: false }),
                Step::Test(Test::Flags { mask: 0x17, value: 2, inverted: false }),
                Step::Verdict(Verdict::Jump("MINE".to_owned())),
            ]
        );
        assert_eq!(
            chains[2].rules[0].steps,
            [Step::Test(Test::State { bits: 9, inverted: false }), Step::Verdict(Verdict::Jump("REJECT".to_owned()))]
        );
        let last = &chains[2].rules[1].steps;
        assert_eq!(last.last(), Some(&Step::Verdict(Verdict::Goto("X".to_owned()))));
        assert!(matches!(last[0], Step::Perhaps(_)));
    }
}
