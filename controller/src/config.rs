//! What the controller is told on its command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use serde::Serialize;
use sluice_feed::FeedAddress;

const EXAMPLES: &str = "\
Examples:
  One machine, proxy and controller side by side:
    sluice-controller --files /etc/sluice --listen unix:/run/sluice/controller.sock
    sluice-proxy --controller unix:/run/sluice/controller.sock --node \"$(hostname)\"

  With health, metrics and 'Programmed n/m nodes' of every policy:
    sluice-controller --files /etc/sluice --listen 127.0.0.1:7070 --admin 127.0.0.1:15021
    curl http://127.0.0.1:15021/status

  What is in force, defaults included:
    sluice-controller --print-config

The folder is watched: a change is in force on the nodes within 100 ms. A file that can't be read is reported on standard
error with file, line and field, and what it held before stays in force. To take objects away, delete them or their file.

The feed over TCP is neither encrypted nor authenticated yet, so only loopback addresses are accepted; on a network that
nobody else can reach, --insecure-listen lifts that.";

/// The controller of Sluice: Kubernetes manifests in, one table per node out.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "sluice-controller", version, after_help = EXAMPLES)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// Folder of manifests (*.yaml, *.yml, *.json, also in folders below), watched
    #[arg(long, value_name = "DIR", required_unless_present = "print_config")]
    pub files: Option<PathBuf>,

    /// Where nodes connect: unix:PATH or HOST:PORT
    #[arg(long, value_name = "ADDRESS", required_unless_present = "print_config")]
    #[serde(serialize_with = "as_text")]
    pub listen: Option<FeedAddress>,

    /// Permissions of the Unix socket, in octal. Who can connect learns every policy
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = octal)]
    #[serde(serialize_with = "as_octal")]
    pub socket_mode: u32,

    /// Listen on a TCP address that is not loopback, though nothing there is encrypted or authenticated
    #[arg(long)]
    pub insecure_listen: bool,

    /// Where to serve /healthz, /readyz, /status and /metrics; nowhere unless given
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<SocketAddr>,

    /// The largest file that is read, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub file_limit_mib: u32,

    /// What is logged to standard error: error, warn, info, debug, trace, or per module
    #[arg(long, value_name = "FILTER", env = "SLUICE_LOG", default_value = "info")]
    pub log: String,

    /// Print the configuration that these arguments lead to, as YAML, and exit
    #[arg(long)]
    #[serde(skip)]
    pub print_config: bool,
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub files: PathBuf,
    pub listen: FeedAddress,
    pub socket_mode: u32,
    pub insecure_listen: bool,
    pub admin: Option<SocketAddr>,
    pub file_limit_bytes: usize,
    pub log: String,
}

impl Args {
    /// What to run with; `None` without a folder and an address, which only `--print-config` allows.
    pub fn checked(self) -> Option<Config> {
        Some(Config {
            files: self.files?,
            listen: self.listen?,
            socket_mode: self.socket_mode,
            insecure_listen: self.insecure_listen,
            admin: self.admin,
            file_limit_bytes: self.file_limit_mib as usize * (1 << 20),
            log: self.log,
        })
    }
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("give permissions in octal, such as 0600".to_owned()),
    }
}

fn as_text<S: serde::Serializer>(address: &Option<FeedAddress>, serializer: S) -> Result<S::Ok, S::Error> {
    address.as_ref().map(ToString::to_string).serialize(serializer)
}

fn as_octal<S: serde::Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{mode:04o}"))
}
