//! What a look-up costs on its way through Sluice, beside what it costs through dnsdist, and without either.
//!
//! ```text
//! node-1, Sluice   bench/client-1 --53, diverted--> sluice-proxy --.
//! node-2           bench/client-2 --53------------> dnsdist -------+--> nsd, kube-system/dns on node-3
//!                  bench/client-2 --53-----------------------------'
//! ```
//!
//! dnsperf asks through each in turns, at one rate, which all of them carry without loss. dnsdist has no cache and no rules: it takes a
//! datagram, sends it on and brings the answer back. Sluice judges each, tells the kernel what the answer taught before it hands it on, keeps its
//! journal and writes a record. Both nodes track connections, as those with kube-proxy do.

mod dnsperf;
mod scene;

use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;

use self::dnsperf::{Dnsperf, Run};
use self::scene::{Scene, Way};
use crate::processor::{cpu_seconds, cpu_seconds_of_children};
use crate::statistics::Sorted;

/// Names of the load `repeated`.
const REPEATED: usize = 1_000;
/// Questions before the first turn: what is set up once is no part of a figure.
const WARM_UP: usize = 2_000;
/// The names that a pod has room for by default (`dns.namesPerPod`).
const ROOM: usize = 10_000;
/// Rates are found to be too high for some way if more than this share of questions is lost.
const MOST_LOST: f64 = 0.001;

/// How much is asked, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Pace {
    /// What is asked in `lookups` (repeatable; all of it by default).
    #[arg(long, value_enum)]
    load: Vec<Load>,
    /// Questions per second in `lookups`.
    #[arg(long, default_value_t = 5_000)]
    rate: usize,
    /// The same for names that are asked once.
    #[arg(long, default_value_t = 5_000)]
    new_rate: usize,
    /// Seconds of each turn in `lookups`.
    #[arg(long, default_value_t = 3)]
    seconds: usize,
    /// Turns of each peer in `lookups`.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// In `lookups`, schedules dnsdist as Sluice schedules the threads that answer look-ups (`chrt --batch 0`), and not as it comes.
    #[arg(long)]
    dnsdist_as_batch: bool,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Load {
    /// The same names again and again.
    Repeated,
    /// Each name once, each with an address of its own.
    New,
    /// The same, with room for fewer than are asked: each takes the place of another.
    Displacing,
}

/// One turn of one peer.
#[derive(Clone, Debug)]
struct Turn {
    run: Run,
    /// Microseconds of the process in the middle for each question.
    between: Option<f64>,
    /// The same of all processes: client, server, and what is between.
    all: f64,
}

/// Prints what look-ups cost. Without the programs that it takes: which they are, and nothing else.
pub(crate) fn measure(pace: &Pace) -> anyhow::Result<()> {
    let missing = scene::missing();
    if !missing.is_empty() {
        println!("\nlook-ups: NOT MEASURED without {} (`.ci/setup bench` installs what is missing)", missing.join(", "));
        return Ok(());
    }
    let loads = if pace.load.is_empty() { Load::value_variants() } else { &pace.load };
    for load in loads {
        measure_one(*load, pace).with_context(|| format!("look-ups, {load:?}"))?;
    }
    Ok(())
}

fn measure_one(load: Load, pace: &Pace) -> anyhow::Result<()> {
    let Pace { seconds, rounds, .. } = *pace;
    let rate = if load == Load::Repeated { pace.rate } else { pace.new_rate };
    let of_turn = rate * seconds;
    // Sluice alone remembers; one more turn is as fast as it goes, for which there is as much again.
    let warm_up = if load == Load::Displacing { ROOM } else { WARM_UP };
    let fastest = of_turn * 8;
    let needed = if load == Load::Repeated { REPEATED } else { warm_up + of_turn * rounds + fastest };
    let arguments: &[&str] = if load == Load::New { &["--set", "dns.namesPerPod=1000000"] } else { &[] };
    let mut scene = Scene::start(needed, arguments, pace.dnsdist_as_batch)?;
    let what = match load {
        Load::Repeated => format!("{REPEATED} names again and again, TTL 300 s"),
        Load::New => "names and addresses never seen before, with room for all of them (dns.namesPerPod: 1000000)".to_owned(),
        Load::Displacing => {
            format!("names and addresses never seen before, beyond the {ROOM} for which a pod has room by default")
        }
    };
    println!("\nlook-ups, {load:?}: {what}; {rounds} turns of {seconds} s each, {rate} questions per second");

    let mut place = 0;
    let mut next = |count: usize| {
        let first = if load == Load::Repeated { 0 } else { place };
        place += count;
        scene::names(first, if load == Load::Repeated { REPEATED.min(count) } else { count })
    };
    let first = next(warm_up);
    for way in Way::ALL {
        scene.ask(way, &Dnsperf::new(&first, warm_up.div_ceil(rate)).at(rate))?;
    }
    let mut turns: [Vec<Turn>; 3] = Default::default();
    for round in 0..rounds {
        let names = next(of_turn);
        let load = Dnsperf::new(&names, seconds).at(rate);
        // Each round begins with another, so that none always runs after the same.
        for offset in 0..Way::ALL.len() {
            let at = (round + offset) % Way::ALL.len();
            turns[at].push(turn(&mut scene, Way::ALL[at], &load)?);
        }
    }
    print_turns(&turns);
    let names = next(fastest);
    let mut most = Vec::new();
    for way in Way::ALL {
        let run = scene.ask(way, &Dnsperf::new(&names, seconds.min(3)).silent())?;
        most.push(format!("{} {:.0} ({} lost)", way.name(), run.per_second, run.lost));
    }
    println!("{:>16}   {}", "most per second", most.join(", "));
    println!("{:>16}   {}", "memory", scene.memory()?);
    Ok(())
}

fn turn(scene: &mut Scene, way: Way, load: &Dnsperf) -> anyhow::Result<Turn> {
    let process = scene.process(way)?;
    let between = |process: Option<u32>| process.map(cpu_seconds).transpose();
    let (before, all_before) = (between(process)?, cpu_seconds_of_children()?);
    let run = scene.ask(way, load)?;
    // Records and journal may be behind by a moment.
    std::thread::sleep(Duration::from_millis(50));
    let (after, all_after) = (between(process)?, cpu_seconds_of_children()?);
    let each = |seconds: f64| seconds * 1e6 / run.completed.max(1) as f64;
    if run.lost as f64 > run.completed as f64 * MOST_LOST || run.failed > 0 {
        println!("{:>16}   {} lost {} of {}, and {} had no address", "NOTE", way.name(), run.lost, run.completed, run.failed);
    }
    Ok(Turn { between: after.zip(before).map(|(after, before)| each(after - before)), all: each(all_after - all_before), run })
}

fn print_turns(turns: &[Vec<Turn>; 3]) {
    let row = |what: &str, unit: &str, values: Vec<f64>| {
        let sorted = Sorted::new(values);
        println!("{what:>16}   {:>10.2} {:>10.2} {:>10.2}  {unit}", sorted.median(), sorted.least(), sorted.most());
    };
    println!("{:>16}   {:>10} {:>10} {:>10}", "", "median", "least", "most");
    let [sluice, dnsdist, direct] = turns;
    for (way, turns) in Way::ALL.iter().zip(turns) {
        let between: Option<Vec<f64>> = turns.iter().map(|turn| turn.between).collect();
        if let Some(between) = between {
            row(way.name(), "us of it per look-up", between);
        }
    }
    for (way, turns) in Way::ALL.iter().zip(turns) {
        row(
            way.name(),
            "us of all processes per look-up: client, server, what is between",
            turns.iter().map(|turn| turn.all).collect(),
        );
    }
    let ratios = |of: fn(&Turn) -> f64| sluice.iter().zip(dnsdist).map(|(ours, theirs)| of(ours) / of(theirs)).collect();
    row("sluice/dnsdist", "CPU of the process", ratios(|turn| turn.between.unwrap_or(f64::NAN)));
    for (way, turns) in Way::ALL.iter().zip([sluice, dnsdist]) {
        let added = turns.iter().zip(direct).map(|(through, direct)| through.all - direct.all);
        row(way.name(), "us of all processes more than without either", added.collect());
    }
    for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
        for (way, turns) in Way::ALL.iter().zip(turns) {
            row(way.name(), &format!("us latency, {name}"), turns.iter().map(|turn| turn.run.latency_us(share)).collect());
        }
        for (way, turns) in Way::ALL.iter().zip([sluice, dnsdist]) {
            let added =
                turns.iter().zip(direct).map(|(through, direct)| through.run.latency_us(share) - direct.run.latency_us(share));
            row(way.name(), &format!("us added, {name}"), added.collect());
        }
    }
}
