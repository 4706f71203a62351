//! The command line of `sluice-proxy`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use sluice_feed::FeedAddress;

const EXAMPLES: &str = "\
Examples:
  A node whose controller runs beside it:
    sluice-proxy --controller unix:/run/sluice/controller.sock --node worker-1
  A controller elsewhere, and a configuration file of which one value is replaced:
    sluice-proxy --controller 10.0.0.5:15010 --node worker-1 --config /etc/sluice/proxy.yaml --set limits.idleSeconds=600
  What the configuration comes to:
    sluice-proxy --config /etc/sluice/proxy.yaml --print-config
  Everything that Sluice put into this network namespace's kernel is removed:
    sluice-proxy cleanup";

/// Enforces the policies of one node. Run it in the node's network namespace, with CAP_NET_ADMIN.
///
/// Records of connections and requests go to standard output, one JSON object a line; the log goes to standard error
/// (--log sets its level). SIGTERM ends it within limits.drainSeconds, a second one at once. What the kernel enforces
/// stays in force when the proxy ends; `cleanup` removes it.
///
/// Where one runs already with the same --node, --state-dir and --admin, this one takes over from it: no connection and no
/// look-up is lost, and the other one ends by itself within limits.drainSeconds.
#[derive(Clone, Debug, Parser)]
#[command(name = "sluice-proxy", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Where the controller listens: unix:PATH or HOST:PORT.
    #[arg(long, value_name = "ADDRESS", required_unless_present = "print_config")]
    pub controller: Option<FeedAddress>,

    /// This node's name, as in the Node object.
    #[arg(long, value_name = "NAME", env = "SLUICE_NODE", required_unless_present = "print_config")]
    pub node: Option<String>,

    /// The configuration, in YAML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Replaces one value of the configuration: limits.idleSeconds=600. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,

    /// Where the last table and names are kept, so that a restart needs no controller; and where a successor knocks.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/sluice")]
    pub state_dir: PathBuf,

    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15020")]
    pub admin: SocketAddr,

    /// What is logged to standard error: error, warn, info, debug, trace, or per module.
    #[arg(long, value_name = "FILTER", env = "SLUICE_LOG", default_value = "info", global = true)]
    pub log: String,

    /// Prints the configuration with all defaults, and ends.
    #[arg(long)]
    pub print_config: bool,
}

/// What to do instead of enforcing.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Removes what Sluice put into the kernel of this network namespace: nothing is enforced any more.
    ///
    /// It finds by itself what is Sluice's, whatever the configuration was.
    #[command(after_help = "\
Examples:
  sluice-proxy cleanup
  ip netns exec node-1 sluice-proxy cleanup")]
    Cleanup,
}
