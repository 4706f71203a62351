//! Puts the parts together, and takes them apart again in order.
//!
//! ```text
//! main thread     feed, table on disk, admin, signals
//! kernel thread   enforcer: netlink
//! denials thread  what the kernel reports and counts
//! worker threads  one per core: listeners and their connections
//! records thread  standard output
//! restart thread  waits for a successor ([`crate::restart`])
//! ```

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prometheus_client::registry::Registry;
use sluice_feed::FeedAddress;
use sluice_policy::Table;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::config::Config;
use crate::connection::{Dataplane, Drain};
use crate::denials::{DenialMetrics, Witness};
use crate::dns::service::{self as dns, DnsMetrics};
use crate::enforcer::{Enforcer, Inputs, KernelState, Learner, Learning, kernel_config};
use crate::feed::{self, FeedConfig, FeedMetrics, Held, Timing};
use crate::intercept::{self, Listeners};
use crate::kernel::Left;
use crate::lookups::{LookupMetrics, Lookups};
use crate::metrics::Metrics;
use crate::names::{BootId, Journal, Moment, Names, NamesMetrics};
use crate::quic::{self, QuicMetrics};
use crate::records::{self, RecordSink};
use crate::restart::{self, Predecessor};
use crate::state;
use crate::upstream::Dialer;
use succession::{Keeper, Succession};

mod succession;

/// Files that are open beside connections.
const OTHER_FILES: usize = 128;
/// Files that look-ups have at most.
const LOOKUP_FILES: usize = 16_384;
/// How long what waits at the doors may wait for the first table.
const FIRST_TABLE: Duration = Duration::from_secs(5);
/// What the end of the process may take beyond the drain time.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    pub controller: FeedAddress,
    pub node: String,
    pub state_dir: PathBuf,
    pub admin: SocketAddr,
    pub config: Config,
}

/// Runs the proxy until a signal ends it.
pub fn run(mut options: Options) -> Result<()> {
    let files = fit_to_file_limit(&mut options.config);
    let runtime = current_thread()?;
    runtime.block_on(live(options, files))
}

/// `files` are left to look-ups.
async fn live(options: Options, files: usize) -> Result<()> {
    let Options { controller, node, state_dir, admin, mut config } = options;
    let mut end = Signals::new()?;
    let place = restart::path(&state_dir, &node);
    let found = Predecessor::find(&place).with_context(|| format!("take over from the proxy that {} is of", place.display()))?;
    let (predecessor, inherited) = found.unzip();
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let feed_metrics = FeedMetrics::new(&mut registry);
    let denial_metrics = DenialMetrics::new(&mut registry, metrics.audit.clone());
    let (doors, offered) = open_doors(&config, admin, inherited.unwrap_or_default())?;

    let nothing = Table::with(config.name_settings());
    let (tables, table) = watch::channel(Arc::new(nothing.clone()));
    let (kernel_state, kernel) = watch::channel(KernelState::Waiting);
    let (sink, writer) =
        records::start(config.records.queue_lines, std::io::stdout()).context("start the thread that writes records")?;
    let watched = (table.clone(), sink.clone(), denial_metrics);
    let (witness, witness_end, reports) = start_witness(&config, &node, watched, predecessor.is_some()).await?;
    if !reports {
        config.records.kernel_per_second = 0;
    }
    let relieved = predecessor.map(Predecessor::relieve).transpose().context("take over from the proxy that runs")?;
    let is_planned = relieved.is_some();
    let saved = state::load_or_none(&state_dir, &node, &nothing);
    let former = saved.as_ref().map(|held| Arc::clone(&held.table));
    let learning = remembered(&config, &state_dir, &node, former, &mut registry)?;
    let names = Arc::clone(&learning.names);
    let (known, newest) = (Arc::clone(&names), table.clone());
    let dataplane = Dataplane::new(&node, &config, table, sink.clone(), metrics.clone(), Dialer::Transparent);
    let dataplane = Arc::new(Dataplane { names: Some(Arc::clone(&names)), ..dataplane });
    let drain = dataplane.drain.clone();
    let (learner, lessons) = Learner::new();
    let lookups = Arc::new(Lookups::new(&config, &dataplane, names, learner, LookupMetrics::new(&mut registry)));
    let dns = dns::Service::new(lookups, config.dns.service(files), DnsMetrics::new(&mut registry));

    let (handovers, to_apply) = mpsc::channel(1);
    let (counts, asked) = mpsc::channel(1);
    let (late, inherited) = mpsc::channel(1);
    let (asides, standing_aside) = mpsc::channel(1);
    let inputs = Inputs { handovers: to_apply, asked, lessons, inherited, asides: standing_aside };
    let (enforcer, left) = start_enforcer(&config, tables, kernel_state, metrics.clone(), learning, inputs).await?;
    if let Some(relieved) = relieved {
        relieved.listen(late).context("start the thread that hears the former proxy")?;
    }
    let restored = state::unless_older(saved, left);
    // What waits at the doors is judged by the former table, not by none. Without one it is told so at once.
    let patience = if restored.is_some() || is_planned { FIRST_TABLE } else { Duration::ZERO };
    let workers = start_workers(doors.cores, &dataplane, &dns, &QuicMetrics::new(&mut registry), patience)?;
    drop((dataplane, dns));

    let draining = drain.begun.clone();
    let state =
        Admin { node: node.clone(), registry, metrics, records: sink, kernel, counts, names: known, table: newest, draining };
    let admin_listener = TcpListener::from_std(doors.admin).context("the admin address")?;
    let admin_task = tokio::spawn(admin::serve(admin_listener, Arc::new(state)));

    let cancel = CancellationToken::new();
    let (held_in, held) = watch::channel::<Option<Held>>(None);
    let name: Arc<str> = node.as_str().into();
    let keeper = Keeper::start(state_dir, Arc::clone(&name), held);
    let resolvers = config.dns.pods_of_resolvers();
    let feed_config = FeedConfig { controller: controller.clone(), node: name, resolvers, nothing, timing: Timing::default() };
    let feed = tokio::spawn(feed::run(feed_config, restored, handovers, held_in, feed_metrics, cancel.clone()));
    let succession = Succession::start(&place, offered, asides, keeper, (admin_task.abort_handle(), witness_end));
    tracing::info!(node, %controller, %admin, port = config.port, "sluice-proxy started");

    let result = tokio::select! {
        () = end.next() => Ok(()),
        _ = enforcer_ended(&enforcer) => Err(anyhow::anyhow!("the kernel's thread has ended")),
        () = succession.succeeded() => Ok(()),
    };
    if result.is_ok() {
        tracing::info!(seconds = config.limits.drain_seconds, "draining");
    }
    if succession.has_succeeded() {
        drain.handed_over.cancel();
    }
    succession.close_doors();
    drain_out(&drain, &workers, Duration::from_secs(config.limits.drain_seconds.into()), &mut end).await;
    cancel.cancel();
    let _ = tokio::time::timeout(LAST_WORDS, async { (feed.await, succession.end().await) }).await;
    let _ = tokio::time::timeout(LAST_WORDS, witness.ended.cancelled()).await;
    admin_task.abort();
    let _ = admin_task.await;
    // The workers and the witness held the last senders of records, so what is queued can be written out now.
    writer.finish(LAST_WORDS);
    tracing::info!("ended; what the kernel enforces stays in force");
    result
}

/// Lets connections finish, then ends those that are left.
async fn drain_out(drain: &Drain, workers: &[Worker], limit: Duration, end: &mut Signals) {
    drain.begun.cancel();
    tokio::select! {
        () = all_ended(workers) => return,
        () = tokio::time::sleep(limit) => tracing::info!("the drain time is over"),
        () = end.next() => tracing::info!("second signal: ending at once"),
    }
    drain.over.cancel();
    let _ = tokio::time::timeout(LAST_WORDS, all_ended(workers)).await;
}

/// A thread, and a token that is cancelled when it ends, however it ends.
#[derive(Debug)]
struct Worker {
    ended: CancellationToken,
    _thread: JoinHandle<()>,
}

async fn all_ended(workers: &[Worker]) {
    for worker in workers {
        worker.ended.cancelled().await;
    }
}

async fn enforcer_ended(enforcer: &Worker) {
    enforcer.ended.cancelled().await;
}

/// What pods were told of names, as a former process left it.
fn remembered(
    config: &Config,
    state_dir: &Path,
    node: &str,
    former: Option<Arc<Table>>,
    registry: &mut Registry,
) -> Result<Learning> {
    let metrics = NamesMetrics::new(registry);
    let now = Moment::now();
    let boot = BootId::read().context("read the boot's id")?;
    let (journal, entries) = Journal::open(state_dir, node, boot, metrics.clone(), now);
    let names = Arc::new(Names::new(config.dns.limits(), metrics));
    names.restore(&entries, now);
    Ok(Learning::new(names, journal, former))
}

/// Where traffic arrives at one core.
type Core = (Listeners, dns::Sockets, Option<quic::Sockets>);

/// Where this process is reached.
struct Doors {
    cores: Vec<Core>,
    admin: std::net::TcpListener,
}

/// Opens what isn't `held` already, and all of it once more, for a successor. All listeners before the first connection: one that joins
/// a group later takes over connections of others.
fn open_doors(config: &Config, admin: SocketAddr, held: restart::Sockets) -> Result<(Doors, restart::Sockets)> {
    let count = match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let is_v4 = |address: std::io::Result<SocketAddr>| address.is_ok_and(|address| address.is_ipv4());
    let connections = restart::deal(held.connections, count, |socket| is_v4(socket.local_addr()));
    let lookups = restart::deal(held.lookups, count, |socket| is_v4(socket.local_addr()));
    let by_tcp = restart::deal(held.lookups_by_tcp, count, |socket| is_v4(socket.local_addr()));
    let quic = restart::deal(held.quic, count, |socket| is_v4(socket.local_addr()));
    let cores = connections.into_iter().zip(lookups).zip(by_tcp).zip(quic).map(|(((connections, lookups), by_tcp), quic)| {
        let listeners = Listeners::bind(config.port, config.audit_port(), connections)?;
        let quic = config.quic_port().map(|port| quic::Sockets::adopt(port, quic)).transpose()?;
        Ok((listeners, dns::Sockets::adopt(config.dns_port(), lookups, by_tcp)?, quic))
    });
    let cores: Vec<Core> = cores.collect::<Result<_, intercept::ListenError>>()?;
    let held = held.admin.filter(|held| held.local_addr().is_ok_and(|address| address == admin));
    let admin = held.map_or_else(|| bind_admin(admin), Ok).with_context(|| format!("listen on the admin address {admin}"))?;

    let mut offered = restart::Sockets { admin: Some(admin.try_clone()?), ..restart::Sockets::default() };
    for (listeners, sockets, quic) in &cores {
        offered.connections.extend(listeners.try_clone()?);
        let (lookups, by_tcp) = sockets.try_clone()?.into_held();
        offered.lookups.extend(lookups);
        offered.lookups_by_tcp.extend(by_tcp);
        offered.quic.extend(quic.as_ref().map_or_else(|| Ok(Vec::new()), quic::Sockets::try_clone)?);
    }
    Ok((Doors { cores, admin }, offered))
}

fn bind_admin(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Each of them begins with the first table, but waits for it no longer than `patience`.
fn start_workers(
    cores: Vec<Core>,
    dataplane: &Arc<Dataplane>,
    dns: &Arc<dns::Service<Lookups>>,
    quic_metrics: &QuicMetrics,
    patience: Duration,
) -> Result<Vec<Worker>> {
    let mut workers = Vec::with_capacity(cores.len());
    for (core, (listeners, sockets, datagrams)) in cores.into_iter().enumerate() {
        let (dataplane, dns, metrics) = (Arc::clone(dataplane), Arc::clone(dns), quic_metrics.clone());
        workers.push(start_thread(format!("worker-{core}"), move |runtime| {
            let drain = dataplane.drain.begun.clone();
            let mut tables = dataplane.table.clone();
            let carry = async {
                let _ = tokio::time::timeout(patience, tables.wait_for(|table| table.is_loaded())).await;
                let quic = async {
                    match datagrams {
                        Some(datagrams) => quic::run(datagrams, Arc::clone(&dataplane), metrics).await,
                        None => Ok(()),
                    }
                };
                tokio::try_join!(intercept::run(listeners, Arc::clone(&dataplane)), dns.run(sockets, drain), quic)
            };
            if let Err(error) = runtime.block_on(carry) {
                tracing::error!(%error, core, "worker ended");
            }
        })?);
    }
    Ok(workers)
}

/// Listens to the kernel before it gets its first rules. Yields what ends it when it is dropped, and whether rules may report.
async fn start_witness(
    config: &Config,
    node: &str,
    (tables, sink, metrics): (watch::Receiver<Arc<Table>>, RecordSink, DenialMetrics),
    is_planned: bool,
) -> Result<(Worker, UnixStream, bool)> {
    let (opened, is_open) = oneshot::channel();
    let (end, ended) = UnixStream::pair().context("a pair of sockets")?;
    let log = kernel_config(config).log;
    let node = node.to_owned();
    let worker = start_thread("denials".into(), move |_| match Witness::open(log, &node, tables, sink, metrics) {
        Ok((witness, deaf)) => {
            match deaf.as_ref().map(|error| crate::error_chain(error)) {
                None => {}
                Some(_) if is_planned && witness.is_of_use() => {
                    tracing::info!("what the kernel denies is the former proxy's to record until it lets go");
                }
                Some(error) => tracing::warn!("what the kernel denies gets no records: {error}"),
            }
            let _ = opened.send(Ok(witness.is_of_use()));
            witness.run(&ended);
        }
        Err(error) => drop(opened.send(Err(error))),
    })?;
    let reports = is_open
        .await
        .context("the thread that listens to the kernel ended at once")?
        .context("listen to the kernel (needs CAP_NET_ADMIN in this network namespace)")?;
    Ok((worker, end, reports))
}

async fn start_enforcer(
    config: &Config,
    tables: watch::Sender<Arc<Table>>,
    state: watch::Sender<KernelState>,
    metrics: Metrics,
    learning: Learning,
    inputs: Inputs,
) -> Result<(Worker, Left)> {
    let (opened, is_open) = oneshot::channel();
    let config = config.clone();
    let worker = start_thread("kernel".into(), move |runtime| {
        let opening = Enforcer::open(&config, tables, state, metrics);
        match opening.and_then(|mut enforcer| Ok((enforcer.left()?, enforcer))) {
            Ok((left, mut enforcer)) => {
                let _ = opened.send(Ok(left));
                enforcer.learn_names(learning);
                runtime.block_on(enforcer.run(inputs));
            }
            Err(error) => drop(opened.send(Err(error))),
        }
    })?;
    let left = is_open
        .await
        .context("the kernel's thread ended at once")?
        .context("open the kernel's side (needs CAP_NET_ADMIN in this network namespace)")?;
    Ok((worker, left))
}

fn start_thread(name: String, work: impl FnOnce(&Runtime) + Send + 'static) -> Result<Worker> {
    let ended = CancellationToken::new();
    let guard = ended.clone().drop_guard();
    let runtime = current_thread()?;
    let context = format!("start the thread {name}");
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            let _guard = guard;
            work(&runtime);
        })
        .context(context)?;
    Ok(Worker { ended, _thread: thread })
}

fn current_thread() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("start a runtime")
}

/// Takes as many file descriptors as the process may have, and no more connections than they allow for. Yields how many are left to
/// look-ups: up to a quarter of all.
fn fit_to_file_limit(config: &mut Config) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return LOOKUP_FILES };
    let files = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let of_lookups = (files / 4).min(LOOKUP_FILES);
    let most = (files.saturating_sub(OTHER_FILES + of_lookups) / 2).max(1);
    let asked = config.limits.connections;
    if config.limits.hold_at_most(most) {
        let per_pod = config.limits.connections_per_pod;
        tracing::info!(files, asked, most, per_pod, "fewer connections than limits.connections: two files each");
    }
    of_lookups
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
