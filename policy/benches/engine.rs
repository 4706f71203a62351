//! What a verdict, a compilation and a change cost, in the world that `large_world` describes; and in the same with every kind of
//! policy (`large_world/kinds.rs`).
//!
//! `cargo bench -p sluice-policy`. The aims are those of docs/PERFORMANCE.md; compile time and memory are measured once, before
//! anything else has touched the heap, and printed.

#[path = "large_world/kinds.rs"]
mod kinds;
mod large_world;

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use large_world::{Size, address, objects, pod};
use sluice_policy::http::{HttpMatch, HttpRequest, PathMatch};
use sluice_policy::label::Selector;
use sluice_policy::source::{
    Action, L7, Namespace, Namespaces, Object, Pod, PodRef, PodSelector, Policy, PolicyKind, PolicyRef, PortMatch, Rule, Tier,
};
use sluice_policy::view::Scope;
use sluice_policy::world::Edit;
use sluice_policy::{Decision, Direction, Flow, Protocol, Request, Table, View, World};

/// Peak resident memory of this process in MiB, from `/proc/self/status`.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM is there");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("VmHWM is in kB") / 1024
}

/// How long this thread has run on a processor, to within a scheduler's tick: what is left of a measurement on a machine that
/// others use too.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has /proc");
    Duration::from_nanos(text.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("the first field is in ns"))
}

/// A compiled world, as the controller holds it and as one reader of it has it.
struct Compiled {
    world: World,
    view: View,
    table: Table,
}

fn compile(edits: Vec<Edit>, scope: Scope) -> Compiled {
    let mut world = World::new();
    world.apply(edits);
    let mut view = View::new(scope);
    let (table, _) = Table::empty().apply(&view.snapshot(&world)).expect("a snapshot fits the empty table");
    Compiled { world, view, table }
}

fn flow(from: IpAddr, to: IpAddr, destination_port: u16) -> Flow<'static> {
    Flow { source: from, destination: to, protocol: Protocol::Tcp, destination_port, icmp: None, names: &[], request: None }
}

/// Flows of every kind: inside a namespace, across, to the outside; allowed and denied. Without those that the walk ends early
/// for.
fn flows(size: Size) -> Vec<Flow<'static>> {
    let outside: IpAddr = "203.0.113.9".parse().expect("an address");
    (0..4096_u32)
        .map(|k| {
            let from = k.wrapping_mul(7919) % size.pods;
            // Same namespace: the same remainder by their number.
            let near = (from + size.namespaces * (1 + k % 40)) % size.pods;
            match k % 4 {
                0 => flow(address(from), address(near), 8080),
                1 => flow(address(from), address(near), 9090),
                2 => flow(address(from), address(k.wrapping_mul(104_729) % size.pods), 8080),
                _ => flow(address(from), outside, 443),
            }
        })
        .collect()
}

/// A pod whose only rule lists `rules` HTTP rules of one item each, and a client: the last one allows the request.
fn http_table(rules: u16) -> Table {
    let namespace: Arc<str> = "shop".into();
    let end = |name: &str, ip: &str| {
        Object::Pod(Pod {
            reference: PodRef { namespace: namespace.clone(), name: name.into() },
            labels: Default::default(),
            ips: vec![ip.parse().expect("an address")],
            node: Some("node".into()),
            host_network: false,
            finished: false,
            service_account: "default".into(),
            ports: Vec::new(),
        })
    };
    let rule = |i: u16| Rule {
        direction: Direction::Ingress,
        path: format!("ingress[{i}]").into(),
        action: Action::Allow,
        peers: None,
        ports: Some(vec![PortMatch::Range { protocol: Protocol::Tcp, first: 80, last: 80 }]),
        l7: Some(L7::Http(vec![HttpMatch {
            index: 0,
            method: Some(if i.is_multiple_of(2) { "POST" } else { "GET" }.into()),
            path: Some(PathMatch::Regex(format!("/api/v1/resource-{i}/[0-9]+").into())),
            ..HttpMatch::default()
        }])),
    };
    let policy = Policy {
        reference: PolicyRef { kind: PolicyKind::SluiceNetworkPolicy, namespace: namespace.clone(), name: "api".into() },
        tier: Tier::Additive,
        subject: PodSelector { namespaces: Namespaces::Named(namespace.clone()), pods: Selector::everything() },
        ingress: true,
        egress: false,
        audit: false,
        expires: None,
        rules: (0..rules).map(rule).collect(),
    };
    let objects = [
        Object::Namespace(Namespace { name: namespace.clone(), labels: Default::default() }),
        end("client", "10.0.0.1"),
        end("server", "10.0.0.2"),
        Object::Policy(policy),
    ];
    compile(objects.map(Edit::Put).to_vec(), Scope::Everything).table
}

/// Which policies there are.
#[derive(Clone, Copy)]
enum Kinds {
    /// Those of `large_world`.
    Common,
    Every,
}

impl Kinds {
    fn edits(self, size: Size) -> Vec<Edit> {
        let more = match self {
            Self::Common => Vec::new(),
            Self::Every => kinds::every_kind(size),
        };
        objects(size).chain(more).map(Edit::Put).collect()
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Common => "",
            Self::Every => ", every kind",
        }
    }
}

fn report_compilation(size: Size, kinds: Kinds) -> (Compiled, Compiled) {
    let edits = kinds.edits(size);
    let policies = edits.iter().filter(|edit| matches!(edit, Edit::Put(Object::Policy(_)))).count();
    let before = peak_mib();
    let (started, cpu) = (Instant::now(), on_cpu());
    let everything = compile(edits, Scope::Everything);
    let (took, cpu) = (started.elapsed(), on_cpu() - cpu);
    println!(
        "compile of {policies} policies and {} pods{}, to a table of everything: {took:.2?} ({cpu:.2?} on a processor), peak memory {} MiB ({before} MiB of it the objects)",
        size.pods,
        kinds.describe(),
        peak_mib(),
    );
    let edits = kinds.edits(size);
    let started = Instant::now();
    let mut world = World::new();
    world.apply(edits);
    let objects_done = started.elapsed();
    let mut view = View::new(Scope::Node("node-7".into()));
    let changes = view.snapshot(&world);
    let viewed = started.elapsed() - objects_done;
    let (table, _) = Table::empty().apply(&changes).expect("a snapshot fits the empty table");
    println!(
        "the same, to the table of one of {} nodes: world {objects_done:.2?}, view {viewed:.2?} ({} changes), table {:.2?}, peak memory {} MiB",
        size.nodes,
        changes.len(),
        started.elapsed() - objects_done - viewed,
        peak_mib(),
    );
    (everything, Compiled { world, view, table })
}

fn verdicts(criterion: &mut Criterion, everything: &Table, node: &Table, size: Size, kinds: Kinds) {
    let flows = flows(size);
    let count = |decision| flows.iter().filter(|flow| everything.verdict(flow).decision() == decision).count();
    println!(
        "flows: {} allowed, {} denied, {} need a request",
        count(Decision::Allow),
        count(Decision::Deny),
        count(Decision::Inspect)
    );
    // The flows of the whole cluster in turn find nothing in the processor's caches; a busy node's few do.
    let few = &flows[..64];
    for (name, table, flows) in [
        ("everything, 4096 flows", everything, flows.as_slice()),
        ("everything, 64 flows", everything, few),
        ("one node, 4096 flows", node, flows.as_slice()),
        ("one node, 64 flows", node, few),
    ] {
        let cpu = on_cpu();
        let rounds = 2_000_000 / flows.len();
        for _ in 0..rounds {
            for flow in flows {
                black_box(table.verdict(black_box(flow)));
            }
        }
        let each = (on_cpu() - cpu).as_nanos() / (rounds * flows.len()) as u128;
        let name = format!("{name}{}", kinds.describe());
        println!("verdict, L3/L4, {name}: {each} ns on a processor");
        let mut next = flows.iter().cycle();
        criterion.bench_function(&format!("verdict, L3/L4, {name}"), |b| {
            b.iter(|| table.verdict(black_box(next.next().expect("a cycle has no end"))));
        });
    }
}

fn http(criterion: &mut Criterion) {
    let table = http_table(100);
    let ask = |path| {
        let request = HttpRequest::plain("GET", path, "shop");
        let mut flow = flow([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 80);
        flow.request = Some(Request::Http(black_box(&request)));
        table.verdict(black_box(&flow)).decision()
    };
    for (name, path, expected) in [
        ("the last rule allows", "/api/v1/resource-99/1234", Decision::Allow),
        ("no rule allows", "/api/v1/resource-100/1234", Decision::Deny),
    ] {
        assert_eq!(ask(path), expected, "{name}");
        let cpu = on_cpu();
        let rounds = 500_000_u32;
        for _ in 0..rounds {
            black_box(ask(path));
        }
        println!("verdict, HTTP, 100 rules, {name}: {} ns on a processor", ((on_cpu() - cpu) / rounds).as_nanos());
        criterion.bench_function(&format!("verdict, HTTP, 100 rules, {name}"), |b| b.iter(|| ask(path)));
    }
}

/// One pod changes its `version` and back: from the edit to the table.
fn change(criterion: &mut Criterion, compiled: &mut Compiled, size: Size, name: &str, changed: u32) {
    let mut turn = 0_u32;
    criterion.bench_function(&format!("delta of one pod, {name}"), |b| {
        b.iter_batched(
            || {
                turn += 1;
                let mut pod = pod(size, changed);
                pod.labels.insert("version".into(), if turn.is_multiple_of(2) { "blue" } else { "green" }.into());
                pod.labels.insert("tier".into(), if turn.is_multiple_of(2) { "front" } else { "data" }.into());
                Edit::Put(Object::Pod(pod))
            },
            |edit| {
                let effects = compiled.world.apply([edit]);
                let changes = compiled.view.delta(&compiled.world, &effects);
                assert!(!changes.is_empty(), "the change reaches the table");
                compiled.table = compiled.table.apply(&changes).expect("a delta fits the state it was made for").0;
            },
            BatchSize::PerIteration,
        );
    });
}

fn main() {
    let size = Size::LARGE;
    let mut criterion = Criterion::default().configure_from_args();
    for kinds in [Kinds::Common, Kinds::Every] {
        let (mut everything, mut node) = report_compilation(size, kinds);
        verdicts(&mut criterion, &everything.table, &node.table, size, kinds);
        let name = |what| format!("{what}{}", kinds.describe());
        change(&mut criterion, &mut everything, size, &name("table of everything"), 7);
        change(&mut criterion, &mut node, size, &name("table of one node"), 7);
    }
    http(&mut criterion);
    let mut slow = Criterion::default().configure_from_args().sample_size(10);
    for kinds in [Kinds::Common, Kinds::Every] {
        slow.bench_function(&format!("compile, table of everything{}", kinds.describe()), |b| {
            b.iter_batched(|| kinds.edits(size), |edits| compile(edits, Scope::Everything), BatchSize::PerIteration);
        });
    }
    slow.final_summary();
}
