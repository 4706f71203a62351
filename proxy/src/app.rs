//! Puts the parts together, and takes them apart again in order.
//!
//! ```text
//! main thread     feed, table on disk, admin, signals
//! kernel thread   enforcer: netlink
//! denials thread  what the kernel reports and counts
//! worker threads  one per core: listeners and their connections
//! records thread  standard output
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
use crate::enforcer::{AskCounts, Enforcer, KernelState, Learner, Learning, Taught, kernel_config};
use crate::feed::{self, FeedConfig, FeedMetrics, Held, Timing};
use crate::intercept::{self, Listeners};
use crate::kernel::Left;
use crate::lookups::{LookupMetrics, Lookups};
use crate::metrics::Metrics;
use crate::names::{BootId, Journal, Moment, Names, NamesMetrics};
use crate::quic::{self, QuicMetrics};
use crate::records::{self, RecordSink};
use crate::state;
use crate::upstream::Dialer;

/// Files that are open beside connections.
const OTHER_FILES: usize = 128;
/// Files that look-ups have at most.
const LOOKUP_FILES: usize = 16_384;
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
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let feed_metrics = FeedMetrics::new(&mut registry);
    let denial_metrics = DenialMetrics::new(&mut registry, metrics.audit.clone());
    let admin_listener = TcpListener::bind(admin).await.with_context(|| format!("listen on the admin address {admin}"))?;

    let nothing = Table::with(config.name_settings());
    let (tables, table) = watch::channel(Arc::new(nothing.clone()));
    let (kernel_state, kernel) = watch::channel(KernelState::Waiting);
    let (sink, writer) =
        records::start(config.records.queue_lines, std::io::stdout()).context("start the thread that writes records")?;
    let watched = (table.clone(), sink.clone(), denial_metrics);
    let (witness, witness_end, reports) = start_witness(&config, &node, watched).await?;
    if !reports {
        config.records.kernel_per_second = 0;
    }
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

    let workers = start_workers(&config, &dataplane, &dns, &QuicMetrics::new(&mut registry))?;
    drop((dataplane, dns));
    let (handovers, to_apply) = mpsc::channel(1);
    let (counts, asked) = mpsc::channel(1);
    let inputs = Inputs { handovers: to_apply, asked, lessons };
    let (enforcer, left) = start_enforcer(&config, tables, kernel_state, metrics.clone(), learning, inputs).await?;

    let draining = drain.begun.clone();
    let state =
        Admin { node: node.clone(), registry, metrics, records: sink, kernel, counts, names: known, table: newest, draining };
    let admin_task = tokio::spawn(admin::serve(admin_listener, Arc::new(state)));

    let cancel = CancellationToken::new();
    let (held_in, held) = watch::channel::<Option<Held>>(None);
    let name: Arc<str> = node.as_str().into();
    let keeper = tokio::spawn(state::keep(state_dir.clone(), Arc::clone(&name), held, cancel.clone()));
    let restored = state::unless_older(saved, left);
    let resolvers = config.dns.pods_of_resolvers();
    let feed_config = FeedConfig { controller: controller.clone(), node: name, resolvers, nothing, timing: Timing::default() };
    let feed = tokio::spawn(feed::run(feed_config, restored, handovers, held_in, feed_metrics, cancel.clone()));
    tracing::info!(node, %controller, %admin, port = config.port, "sluice-proxy started");

    let result = tokio::select! {
        () = end.next() => Ok(()),
        _ = enforcer_ended(&enforcer) => Err(anyhow::anyhow!("the kernel's thread has ended")),
    };
    if result.is_ok() {
        tracing::info!(seconds = config.limits.drain_seconds, "draining");
    }
    drain_out(&drain, &workers, Duration::from_secs(config.limits.drain_seconds.into()), &mut end).await;
    cancel.cancel();
    let _ = tokio::time::timeout(LAST_WORDS, async { (feed.await, keeper.await) }).await;
    drop(witness_end);
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

/// What the kernel's thread is told.
struct Inputs {
    handovers: mpsc::Receiver<feed::Handover>,
    asked: mpsc::Receiver<AskCounts>,
    lessons: mpsc::Receiver<Taught>,
}

fn start_workers(
    config: &Config,
    dataplane: &Arc<Dataplane>,
    dns: &Arc<dns::Service<Lookups>>,
    quic_metrics: &QuicMetrics,
) -> Result<Vec<Worker>> {
    let count = match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    // All listeners before the first connection: a listener that joins a group later takes over connections of others.
    let quic = || config.quic_port().map(quic::Sockets::bind).transpose();
    let listeners: Vec<(Listeners, dns::Sockets, Option<quic::Sockets>)> = (0..count)
        .map(|_| Ok((Listeners::bind(config.port, config.audit_port())?, dns::Sockets::bind(config.dns_port())?, quic()?)))
        .collect::<Result<_, intercept::ListenError>>()?;
    let mut workers = Vec::with_capacity(count);
    for (core, (listeners, sockets, datagrams)) in listeners.into_iter().enumerate() {
        let (dataplane, dns, metrics) = (Arc::clone(dataplane), Arc::clone(dns), quic_metrics.clone());
        workers.push(start_thread(format!("worker-{core}"), move |runtime| {
            let drain = dataplane.drain.begun.clone();
            let quic = async {
                match datagrams {
                    Some(datagrams) => quic::run(datagrams, Arc::clone(&dataplane), metrics).await,
                    None => Ok(()),
                }
            };
            let streams = intercept::run(listeners, Arc::clone(&dataplane));
            let all = async { tokio::try_join!(streams, dns.run(sockets, drain), quic) };
            if let Err(error) = runtime.block_on(all) {
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
) -> Result<(Worker, UnixStream, bool)> {
    let (opened, is_open) = oneshot::channel();
    let (end, ended) = UnixStream::pair().context("a pair of sockets")?;
    let log = kernel_config(config).log;
    let node = node.to_owned();
    let worker = start_thread("denials".into(), move |_| match Witness::open(log, &node, tables, sink, metrics) {
        Ok(witness) => {
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
                runtime.block_on(enforcer.run(inputs.handovers, inputs.asked, inputs.lessons));
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
