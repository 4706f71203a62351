//! Puts the parts together, and takes them apart at the end.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::config::Config;
use crate::files::{self, FilesConfig, FilesError, Watch};
use crate::listen::{ListenError, Listener, SocketFile, listen};
use crate::publish::{INPUTS, Input, Publisher};
use crate::{admin, serve};

/// How long the streams to the nodes may take to end. Nothing on a node depends on it.
const DRAIN: Duration = Duration::from_secs(2);

/// Between two pings to a node, and then for its answer.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why the controller can't start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("--admin {address}")]
    Admin { address: SocketAddr, source: io::Error },
    #[error("start a thread")]
    Thread(#[source] io::Error),
}

/// A controller at work.
#[derive(Debug)]
pub struct Running {
    /// Where the feed is served over TCP; a port of 0 was chosen by the system.
    pub tcp: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    watch: Watch,
    _socket: Option<SocketFile>,
}

/// Starts watching and serving, on the current tokio runtime. It ends on `cancel`; [`Running::ended`] waits for that.
pub async fn start(config: Config, cancel: CancellationToken) -> Result<Running, RunError> {
    let tasks = TaskTracker::new();
    let (inputs, outputs) = mpsc::channel(INPUTS);

    // Sockets first: what can't work says so before a large folder is read.
    let listener = listen(&config.listen, config.socket_mode, config.insecure_listen)?;
    let admin = match config.admin {
        None => None,
        Some(address) => {
            let failed = |source| RunError::Admin { address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            tasks.spawn(admin::serve(listener, inputs.clone(), tasks.clone(), cancel.clone()));
            Some(bound)
        }
    };

    // The world has a runtime of its own: what it computes may take a second, and holds up no stream.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(RunError::Thread)?;
    // Drawn at random by the system: the hasher's keys are.
    let publisher = Publisher::new(RandomState::new().build_hasher().finish());
    let thread = std::thread::Builder::new().name("world".to_owned());
    thread.spawn(move || runtime.block_on(publisher.run(outputs))).map_err(RunError::Thread)?;

    let batches = inputs.clone();
    let files = FilesConfig { folder: config.files.clone(), file_limit_bytes: config.file_limit_bytes };
    let watch = files::watch(files, move |batch| batches.blocking_send(Input::Files(batch)).is_ok())?;

    let service = serve::Service::new(inputs, tasks.clone(), cancel.clone());
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(8)
        .http2_max_header_list_size(16 << 10)
        .add_service(service);
    let stopped = cancel.clone().cancelled_owned();
    let (server, tcp, socket) = match listener {
        Listener::Unix(listener, file) => {
            let incoming = UnixListenerStream::new(listener);
            (tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped)), None, Some(file))
        }
        Listener::Tcp(listener) => {
            let bound = listener.local_addr().ok();
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            (tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped)), bound, None)
        }
    };
    tracing::info!(files = %config.files.display(), listen = %config.listen, "serving nodes");
    Ok(Running { tcp, admin, cancel, tasks, server, watch, _socket: socket })
}

impl Running {
    /// Waits for the end: `cancel`, or a socket that fails.
    pub async fn ended(mut self) -> Result<(), tonic::transport::Error> {
        let failed = tokio::select! {
            () = self.cancel.cancelled() => None,
            served = &mut self.server => Some(served),
        };
        self.cancel.cancel();
        drop(self.watch);
        self.tasks.close();
        // A node that doesn't let go of its stream is left to notice by itself.
        let _ = tokio::time::timeout(DRAIN, self.tasks.wait()).await;
        match failed {
            Some(Ok(served)) => served,
            Some(Err(_)) => Ok(()),
            None => {
                if tokio::time::timeout(DRAIN, &mut self.server).await.is_err() {
                    self.server.abort();
                }
                Ok(())
            }
        }
    }
}
