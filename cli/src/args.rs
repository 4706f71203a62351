//! The command line: options, and the help that teaches them.

mod tools;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::lint::Severity;
use crate::output::Format;
pub use tools::{CompletionsArgs, DiffArgs, DiffFormat, GraphArgs, GraphFormat, TestArgs, TestFormat};

/// What Sluice allows, asked of folders of Kubernetes manifests: no cluster and no traffic needed.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, max_term_width = 110, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// Print the settings in force, as YAML, and end.
    #[arg(long, global = true)]
    pub print_config: bool,

    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Cli {
    /// Whether `arguments`, the program's name first, ask for the settings. Then nothing else of a command need be given:
    /// `sluice eval --print-config`.
    pub fn asks_for_settings(arguments: impl IntoIterator<Item = OsString>) -> bool {
        fn undemanding(command: clap::Command) -> clap::Command {
            command.mut_args(|arg| arg.required(false)).mut_subcommands(undemanding)
        }
        // What is wrong with the arguments otherwise is for the real parser to say.
        undemanding(Self::command())
            .try_get_matches_from(arguments)
            .is_ok_and(|matches| matches.try_get_one::<bool>("print_config").is_ok_and(|given| given == Some(&true)))
    }
}

const EXAMPLES: &str = "\
Examples:
  sluice demo                                   policies in force on real traffic, in network namespaces
  sluice matrix -f examples/three-tier --port 8080/tcp
  sluice explain -f examples/http-rules --from production/frontend --to production/backend \\
      --port 8080/tcp --http 'DELETE /api/users'
  sluice diff policies.old/ policies/ --inventory cluster/
  sluice test -f manifests/ expectations.yaml
  sluice graph -f manifests/ -o html > graph.html
  sluice eval -f manifests/ --flows flows.jsonl
  sluice lint -f manifests/

Exit status: 0 yes or nothing found; 1 denied, findings, or other than expected; 2 input that can't be read.";

#[derive(Debug, Subcommand)]
pub enum Command {
    Eval(EvalArgs),
    Explain(ExplainArgs),
    Matrix(MatrixArgs),
    Lint(LintArgs),
    Graph(GraphArgs),
    Diff(DiffArgs),
    Test(TestArgs),
    Counters(CountersArgs),
    Names(NamesArgs),
    Demo(DemoArgs),
    Completions(CompletionsArgs),
}

/// Where the objects are.
#[derive(Debug, Args)]
pub struct Manifests {
    /// A manifest file, or a folder of them (repeatable): YAML or JSON, several objects to a file, List objects too.
    #[arg(short = 'f', long = "file", value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Ask about another time than now, in RFC 3339: policies that have expired by then are as if absent.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub at: Option<SystemTime>,
}

impl Manifests {
    /// The time that is asked about.
    pub fn time(&self) -> SystemTime {
        self.at.unwrap_or_else(SystemTime::now)
    }
}

fn moment(written: &str) -> Result<SystemTime, String> {
    sluice_crds::parse_moment(written).ok_or_else(|| "date, time and offset, as in 2027-01-31T00:00:00Z".to_owned())
}

/// Judge flows without any traffic: one verdict per flow, as a line of JSON or for people.
///
/// Each line of FILE is a flow:
///   {"from": {"namespace": "production", "pod": "frontend"}, "to": {"ip": "203.0.113.7"}, "port": 443, "protocol": "TCP"}
/// with at most one of
///   "http": {"method": "GET", "path": "/api/users?page=2", "host": "backend", "headers": {"x-team": "blue", "via": ["a", "b"]}}
///   "grpc": {"service": "orders.OrderService", "method": "Get", "metadata": {"x-team": "blue"}}
///   "tls": {"serverName": "api.example.com"}
///   "dns": {"name": "api.example.com", "type": "A"}
///
/// Each answer is {"verdict": "allow"|"deny"|"l7", "reason", "egress": {"verdict", "by"}, "ingress": {"verdict", "by"}}.
/// "l7" means that the answer hangs on a request and that the flow gives none. "audit" is there where the Audit policies, were they
/// in force, would make it another answer: {"verdict", "reason", "direction", "egress", "ingress"}. A flow that can't be read has the answer
/// {"error": "FILE:LINE: what is wrong"}. Blank lines have none.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  sluice eval -f examples/http-rules --flows flows.jsonl
  sluice eval -f manifests/ --flows flows.jsonl --at 2027-01-31T00:00:00Z
  echo '{\"from\":{\"namespace\":\"shop\",\"pod\":\"web\"},\"to\":{\"ip\":\"169.254.169.254\"},\"port\":80}' |
      sluice eval -f manifests/ --flows -

Exit status: 0 if every manifest and flow was read, whatever the verdicts; 2 otherwise (the rest is answered all the same)."
)]
pub struct EvalArgs {
    #[command(flatten)]
    pub manifests: Manifests,
    /// The flows, one JSON object per line; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub flows: PathBuf,
    /// What DNS has answered so far: {"name": ["address", ..]}. A flow to a name goes to the first address of the source's
    /// family.
    #[arg(long, value_name = "FILE")]
    pub names: Option<PathBuf>,
    /// How the answers are printed: json is an object a line, yaml a document each. On a terminal text, elsewhere json.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,
}

/// Say why one flow is allowed or denied: a sentence, then the walk through tiers, policies and rules.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice explain -f manifests/ --from shop/web --to shop/db --port 5432/tcp
  sluice explain -f manifests/ --from shop/web --to shop/api --port 8080/tcp --http 'GET /api/users'
  sluice explain -f manifests/ --from shop/web --to shop/api --port 8080/tcp --http 'GET /api/users?page=2' --header 'x-team: blue'
  sluice explain -f manifests/ --from shop/web --to 169.254.169.254 --port 80/tcp -o json
  sluice explain -f manifests/ --from shop/web --to kube-system/coredns-1 --port 53/udp --dns api.github.com

Exit status: 0 allowed (or judged at L7), 1 denied, 2 input that can't be read.")]
pub struct ExplainArgs {
    #[command(flatten)]
    pub manifests: Manifests,
    /// Who connects: NAMESPACE/POD, or an address.
    #[arg(long, value_name = "END")]
    pub from: String,
    /// To whom: NAMESPACE/POD, an address, or a name that --names knows.
    #[arg(long, value_name = "END")]
    pub to: String,
    /// The destination's port, after any Service translation: 8080/tcp, 53/udp, 9898/sctp; icmp (an echo request) or icmp/TYPE/CODE.
    #[arg(long, value_name = "PORT/PROTOCOL")]
    pub port: String,
    /// The request: 'METHOD PATH', or 'METHOD http://HOST/PATH'.
    #[arg(long, value_name = "REQUEST")]
    pub http: Option<String>,
    /// The look-up: NAME, or NAME/TYPE (A unless given).
    #[arg(long, value_name = "NAME", conflicts_with = "http")]
    pub dns: Option<String>,
    /// A header field of the request, 'NAME: VALUE'. May be given several times, of one name too.
    #[arg(long, value_name = "FIELD", requires = "http")]
    pub header: Vec<String>,
    /// What DNS has answered so far: {"name": ["address", ..]}.
    #[arg(long, value_name = "FILE")]
    pub names: Option<PathBuf>,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// Who reaches whom on one port: rows are sources, columns are destinations.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice matrix -f examples/three-tier --port 8080/tcp
  sluice matrix -f manifests/ --port 53/udp --namespace kube-system --namespace shop
  sluice matrix -f manifests/ --port 80/tcp -o html > matrix.html    with who decided in each cell

Marks: . allowed   X denied   L judged at L7   # the pod itself
Exit status: 0 if every manifest was read, 2 otherwise.")]
pub struct MatrixArgs {
    #[command(flatten)]
    pub manifests: Manifests,
    /// The destination's port: 80/tcp, 53/udp, 9898/sctp, or icmp.
    #[arg(long, value_name = "PORT/PROTOCOL")]
    pub port: String,
    /// Only pods of these namespaces (repeatable).
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Vec<String>,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = MatrixFormat::Text)]
    pub output: MatrixFormat,
}

/// `-o` of `matrix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MatrixFormat {
    Text,
    Json,
    Yaml,
    Markdown,
    /// A picture.
    Svg,
    /// A page, to filter and to point at.
    Html,
}

/// Find what is probably not meant: selectors that match nothing, DNS that was forgotten, rules that others make useless.
///
/// Each finding has a code, its place, why it matters, and what to write instead. A policy with the label
/// `lint.sluice.dev/CODE: ignore` asks that CODE is not reported for it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice lint -f manifests/
  sluice lint -f policies/ -f cluster.yaml --fail-on error
  sluice lint -f manifests/ -o json | jq '.findings[] | select(.code == \"one-sided\")'
  sluice lint --list                  all checks
  sluice lint --explain one-sided     one of them

The more of the cluster is given (kubectl get namespaces,pods,services,nodes -A -o yaml), the more can be found.
Exit status: 0 nothing found of the severity of --fail-on or worse, 1 findings, 2 input that can't be read (the rest is checked).")]
pub struct LintArgs {
    /// A manifest file, or a folder of them (repeatable): YAML or JSON, several objects to a file, List objects too.
    #[arg(short = 'f', long = "file", value_name = "PATH", required_unless_present_any = ["list", "explain"])]
    pub paths: Vec<PathBuf>,
    /// The least severity that makes the exit status 1.
    #[arg(long, value_enum, default_value_t = Severity::Warning)]
    pub fail_on: Severity,
    /// Tell of all checks, and end.
    #[arg(long)]
    pub list: bool,
    /// Tell of one check, and end.
    #[arg(long, value_name = "CODE")]
    pub explain: Option<String>,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// How many flows each rule of a node's policies has decided in the kernel since its proxy started.
///
/// A rule that allows counts the first packet of each flow; one that denies counts every packet. Where a pod has more than 16
/// rules that do the same, the kernel looks them up together and counts them as one. Asks the proxy of this node at its admin
/// address.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice counters                     on the node, or in the proxy's pod
  sluice counters --zero              also rules that have matched nothing
  sluice counters -o json | jq '.counters[] | select(.action == \"isolated\")'

Exit status: 0 answered, 2 the proxy doesn't answer.")]
pub struct CountersArgs {
    /// The proxy's admin address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15020")]
    pub admin: String,
    /// Rules that have matched nothing, too.
    #[arg(long)]
    pub zero: bool,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// What the pods of a node have learned from DNS: which addresses are open to them by which name, by which rule, and for how long.
///
/// Asks the proxy of this node at its admin address.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice names                            on the node, or in the proxy's pod
  sluice names --pod shop/web             of one pod
  sluice names --name api.github.com      of one name
  sluice names -o json | jq '.names[] | select(.private)'

Exit status: 0 answered, 2 the proxy doesn't answer.")]
pub struct NamesArgs {
    /// The proxy's admin address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15020")]
    pub admin: String,
    /// Only what this pod has learned: NAMESPACE/POD, or its address.
    #[arg(long, value_name = "POD")]
    pub pod: Option<String>,
    /// Only this name.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// Put policies in force on real traffic, on this machine: pods as network namespaces, the real controller and proxy.
///
/// Prints who asked for what, what was expected and seen, and the policy that decided. Nothing outside its own namespaces is
/// touched, and nothing is left behind.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  sluice demo
  sluice demo --keep                  leaves it up: edit the policies and see them in force at once
  sluice demo exec frontend -- curl -s http://backend:8080/api/users
  sluice demo exec frontend           a shell in the pod

Exit status: 0 every row as expected, 1 a row differs, 2 the demonstration can't run here (and why)."
)]
pub struct DemoArgs {
    /// Leave it up until Ctrl-C, to enter pods and to edit policies.
    #[arg(long)]
    pub keep: bool,
    /// Another scene than the built-in one: a folder with manifests and expectations.yaml, such as one of examples/.
    #[arg(long, value_name = "DIR")]
    pub scene: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Option<DemoCommand>,
}

#[derive(Debug, Subcommand)]
pub enum DemoCommand {
    /// Run a command in a pod of a demonstration that `sluice demo --keep` holds up.
    #[command(after_help = "\
Examples:
  sluice demo exec frontend -- curl -s http://backend:8080/api/users
  sluice demo exec billing/reports    a shell in the pod")]
    Exec {
        /// The pod: NAME, or NAMESPACE/NAME.
        pod: String,
        /// The command; a shell if none is given.
        #[arg(last = true)]
        command: Vec<String>,
    },
}
