//! The options of the tools that read policies: `diff`, `test`, `graph`, `completions`.

use std::path::PathBuf;

use clap::Args;

use super::Manifests;

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
    /// Show this many of each: of what opens, of what closes, of policies, of workloads. Of differences those between most
    /// workloads; of the rest it is said how many there are. 0 shows all.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub most: usize,
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

/// Hold policies against what they are meant to allow: a file of flows, each with its verdict.
///
///   apiVersion: test.sluice.dev/v1alpha1
///   kind: Expectations
///   names: { api.example.org: [203.0.113.7] }   # optional: as --names has them
///   expectations:
///   - from: shop/frontend                  # or an address
///     to: shop/backend                     # or one of the names
///     port: 8080
///     protocol: TCP                        # unless said
///     http: DELETE /api/users              # optional
///     expect: deny                         # allow, deny, or l7: it hangs on a request that the row doesn't give
///     by: NetworkPolicy shop/backend       # optional: policy, or policy and rule (NetworkPolicy shop/backend ingress[0])
///     reason: NoRuleMatched                # optional: the word of `sluice eval`
///     because: nobody removes users        # optional: for people
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  sluice test -f examples/three-tier                       the expectations.yaml of the folder
  sluice test -f manifests/ expectations.yaml more.yaml
  sluice test -f manifests/ expectations.yaml -o junit > report.xml

Exit status: 0 all as expected, 1 some differ, 2 input that can't be read, or a flow that can't be judged."
)]
pub struct TestArgs {
    #[command(flatten)]
    pub manifests: Manifests,
    /// Files of expectations, or folders with an expectations.yaml. Without any: those of the folders of manifests.
    #[arg(value_name = "EXPECTATIONS")]
    pub expectations: Vec<PathBuf>,
    /// What DNS has answered so far: {"name": ["address", ..]}.
    #[arg(long, value_name = "FILE")]
    pub names: Option<PathBuf>,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = TestFormat::Text)]
    pub output: TestFormat,
}

/// `-o` of `test`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TestFormat {
    Text,
    Json,
    Yaml,
    /// XML for build servers.
    Junit,
}

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice completions bash > /etc/bash_completion.d/sluice
  sluice completions zsh > \"${fpath[1]}/_sluice\"
  sluice completions fish > ~/.config/fish/completions/sluice.fish")]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

/// Draw who reaches whom on any port: workloads and the outside world as nodes, what is allowed as edges with their ports.
///
/// Edges where requests are judged are marked (L7). What is allowed only because no policy isolates either end is left out, and
/// counted: --all draws it too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice graph -f manifests/ -o html > graph.html          a page, to search and to point at
  sluice graph -f examples/three-tier                      a line for each edge
  sluice graph -f examples/three-tier -o dot | dot -Tsvg > graph.svg
  sluice graph -f manifests/ -n shop -o mermaid            for a page of Markdown

Exit status: 0 if every manifest was read, 2 otherwise.")]
pub struct GraphArgs {
    #[command(flatten)]
    pub manifests: Manifests,
    /// Only workloads of these namespaces, and the outside world (repeatable).
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Vec<String>,
    /// What no policy speaks of, too.
    #[arg(long)]
    pub all: bool,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = GraphFormat::Text)]
    pub output: GraphFormat,
}

/// `-o` of `graph`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GraphFormat {
    Text,
    /// For Graphviz.
    Dot,
    Mermaid,
    /// A page of its own.
    Html,
    Json,
    Yaml,
}
