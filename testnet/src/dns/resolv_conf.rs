//! The files by which a program finds its name servers, for one program alone.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Command;

use crate::child::append;

/// What `/etc/resolv.conf` says to a pod's programs.
#[derive(Clone, Debug, Default)]
pub struct ResolvConf {
    /// Whom to ask; C libraries take three.
    pub nameservers: Vec<IpAddr>,
    /// What is tried behind a name that has few dots.
    pub search: Vec<String>,
    /// Such as `ndots:5`, `timeout:1`, `use-vc`.
    pub options: Vec<String>,
}

/// Runs in the new mount namespace, with the file's text and the program with its arguments.
///
/// `/run` is covered, as what lies there would answer in the place of name servers: nscd, systemd-resolved. `/etc/resolv.conf` may be
/// a link into it. The order of sources is that of a container without any: files, then DNS.
const COVER: &str = r#"
set -eu
mount -n -t tmpfs -o mode=755 tmpfs /run
mkdir /run/testnet
printf '%s' "$1" >/run/testnet/resolv.conf
echo 'hosts: files dns' >/run/testnet/nsswitch.conf
printf '127.0.0.1 localhost\n::1 localhost\n' >/run/testnet/hosts
: >/run/testnet/gai.conf
for name in resolv.conf nsswitch.conf hosts gai.conf; do
  at=$(readlink -m "/etc/$name")
  case $at in
    /run/*) mkdir -p "${at%/*}"; cp "/run/testnet/$name" "$at" ;;
    *)
      if [ -e "$at" ]; then mount -n --bind "/run/testnet/$name" "$at"
      elif [ "$name" = resolv.conf ]; then echo "this machine has no /etc/resolv.conf to cover" >&2; exit 125
      fi ;;
  esac
done
shift
exec "$@"
"#;

impl ResolvConf {
    /// One name server, and what else is usual: a try takes five seconds, names with a dot are tried as they are.
    pub fn of(nameserver: IpAddr) -> Self {
        Self { nameservers: vec![nameserver], ..Self::default() }
    }

    /// As the kubelet writes it for a pod of `namespace`: `ndots:5` and the cluster's search list.
    pub fn of_cluster(nameserver: IpAddr, namespace: &str) -> Self {
        let mut file = Self::of(nameserver);
        file.search = [format!("{namespace}.svc.cluster.local"), "svc.cluster.local".into(), "cluster.local".into()].into();
        file.options.push("ndots:5".to_owned());
        file
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for nameserver in &self.nameservers {
            let _ = writeln!(text, "nameserver {nameserver}");
        }
        for (word, values) in [("search", &self.search), ("options", &self.options)] {
            if !values.is_empty() {
                let _ = writeln!(text, "{word} {}", values.join(" "));
            }
        }
        text
    }

    /// The same command, started where these are its files: in a mount namespace of its own. To be spawned in a pod, as any
    /// command: `pod.ns().spawn(conf.around(&command))`.
    pub fn around(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("unshare");
        wrapped.args(["--mount", "--propagation", "private", "--", "sh", "-c", COVER, "sh"]);
        wrapped.arg(self.text());
        append(&mut wrapped, command);
        // These would override the file.
        wrapped.env_remove("RES_OPTIONS").env_remove("LOCALDOMAIN").env_remove("HOSTALIASES");
        wrapped
    }
}
