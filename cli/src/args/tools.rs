//! The options of the tools that read policies: `diff`, `test`, `graph`, `completions`.

use std::path::PathBuf;

use clap::Args;

/// Say what a change of policies or pods opens and closes: verdicts are compared, not text.
///
/// OLD and NEW are files or folders of manifests. Every pair of workloads, and of workloads and the outside world, is asked in
/// both versions on every range of ports that any rule tells apart. Where requests are read in both, the rules' patterns are
/// compared as they are written.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice diff policies.old/ policies/
  sluice diff main/policies branch/policies --inventory cluster/     policies alone: the pods are the cluster's
  sluice diff --old a.yaml --old b.yaml --new c.yaml --inventory pods.yaml
  sluice diff main/ branch/ -o markdown > comment.md                 for a pull request

Exit status: 0 every flow is judged as before, 1 differences, 2 input that can't be read.")]
pub struct DiffArgs {
    /// The version that is replaced.
    #[arg(value_name = "OLD", requires = "new")]
    pub old: Option<PathBuf>,
    /// The version that replaces it.
    #[arg(value_name = "NEW")]
    pub new: Option<PathBuf>,
    /// More of the old version (repeatable).
    #[arg(long = "old", value_name = "PATH")]
    pub old_paths: Vec<PathBuf>,
    /// More of the new version (repeatable).
    #[arg(long = "new", value_name = "PATH")]
    pub new_paths: Vec<PathBuf>,
    /// Namespaces, pods and nodes of both versions (repeatable). Without it each has its own; one that has no pods has the other's.
    #[arg(long, value_name = "PATH")]
    pub inventory: Vec<PathBuf>,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = DiffFormat::Text)]
    pub output: DiffFormat,
}

/// `-o` of `diff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DiffFormat {
    Text,
    Json,
    Yaml,
    Markdown,
}
