//! The connection to the controller: made again and again, trusted with nothing.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use sluice_feed::parts::{Assembly, PartError};
use sluice_feed::wire::{self, controller_message, node_message};
use sluice_feed::{MESSAGE_LIMIT_BYTES, VERSION};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::intake::{Answer, Arrival, Stand};
use super::{FeedConfig, FeedMetrics, Timing};

/// Answers that may wait for the connection. The controller leaves at most 64 updates unanswered.
const ANSWERS: usize = 128;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Status(#[from] Box<tonic::Status>),
    #[error("nothing came within {0:?}: {1}")]
    Silence(Duration, &'static str),
    #[error("the controller speaks version {0} of the feed, this node speaks {VERSION}")]
    Version(u32),
    #[error("the controller sent {0}")]
    Unexpected(&'static str),
    #[error(transparent)]
    Part(#[from] PartError),
    #[error("the controller ended the session")]
    Ended,
    #[error("this node is stopping")]
    Stopping,
}

/// Connects forever; returns only when the intake is gone.
pub(super) async fn run(config: FeedConfig, stand: watch::Receiver<Stand>, to: mpsc::Sender<Arrival>, metrics: FeedMetrics) {
    let timing = &config.timing;
    let mut backoff = timing.first_backoff;
    let mut reported = String::new();
    let mut fresh_start = false;
    loop {
        let hello = if fresh_start { None } else { *stand.borrow() };
        let mut session = Session { config: &config, to: &to, metrics: &metrics, welcomed: false };
        let error = session.run(hello).await;
        if matches!(error, LinkError::Stopping) {
            return;
        }
        metrics.connected.set(0);
        metrics.connection_losses.inc();
        // The same trouble is said once, not at each attempt.
        let text = describe(&error);
        if session.welcomed {
            backoff = timing.first_backoff;
            reported.clear();
        }
        if text != reported {
            tracing::warn!(controller = %config.controller, error = text, "no controller; what is in force stays, trying again");
            reported = text;
        }
        // A session that waited in vain for its snapshot begins the next one with empty hands, which makes one due.
        fresh_start = matches!(error, LinkError::Silence(_, SNAPSHOT));
        tokio::time::sleep(jittered(backoff)).await;
        backoff = (backoff * 2).min(timing.longest_backoff);
    }
}

const SNAPSHOT: &str = "the snapshot that was asked for";

/// The error with what caused it: tonic says only "transport error" itself.
fn describe(error: &LinkError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

/// Between a half and the whole of `backoff`, so that the nodes of a cluster don't come back all at once.
fn jittered(backoff: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    let share = u32::try_from(random % 1000).unwrap_or(0);
    backoff / 2 + backoff / 2 * share / 1000
}

struct Session<'a> {
    config: &'a FeedConfig,
    to: &'a mpsc::Sender<Arrival>,
    metrics: &'a FeedMetrics,
    welcomed: bool,
}

impl Session<'_> {
    async fn run(&mut self, stand: Stand) -> LinkError {
        match self.follow(stand).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn follow(&mut self, stand: Stand) -> Result<std::convert::Infallible, LinkError> {
        let timing = &self.config.timing;
        let (outgoing, outbox) = mpsc::channel(ANSWERS);
        let (epoch, generation) = stand.map_or((0, 0), |(epoch, generation)| (epoch, generation.0));
        let hello = wire::Hello {
            version: VERSION,
            node: self.config.node.to_string(),
            epoch,
            generation,
            resolvers: self.config.resolvers.clone(),
        };
        let greet = outgoing.send(wire::NodeMessage { body: Some(node_message::Body::Hello(hello)) });
        greet.await.map_err(|_| LinkError::Ended)?;

        let connecting = connect(self.config, ReceiverStream::new(outbox));
        let silence = |what| move |_| LinkError::Silence(timing.greeting, what);
        let mut stream = timeout(timing.greeting, connecting).await.map_err(silence("a connection"))??;
        let first = timeout(timing.greeting, next(&mut stream)).await.map_err(silence("the controller's welcome"))??;
        let controller_message::Body::Welcome(welcome) = first else { return Err(LinkError::Unexpected("no welcome first")) };
        if welcome.version != VERSION {
            return Err(LinkError::Version(welcome.version));
        }
        self.welcomed = true;
        self.metrics.connected.set(1);
        tracing::info!(controller = %self.config.controller, current = welcome.current, "following the controller");

        let (answers, mut answered) = mpsc::channel(ANSWERS);
        let current = welcome.current.then_some(stand).flatten();
        self.pass(Arrival::Session { node: self.config.node.clone(), epoch: welcome.epoch, current, answers }).await?;
        let mut assembly = Assembly::default();
        let mut wait = Wait::default();
        if !welcome.current {
            wait.for_snapshot(timing);
        }
        loop {
            tokio::select! {
                message = next(&mut stream) => {
                    let controller_message::Body::Part(part) = message? else { return Err(LinkError::Unexpected("a second welcome")) };
                    let arrival = match assembly.push(part) {
                        Ok(None) => None,
                        Ok(Some(update)) => {
                            if update.heading.base.is_none() {
                                wait.snapshot = None;
                            }
                            Some(Arrival::Update(Box::new(update)))
                        }
                        Err(PartError::Unreadable { generation, source }) => {
                            Some(Arrival::Unreadable { generation, reason: source.to_string() })
                        }
                        Err(error) => return Err(error.into()),
                    };
                    // A large snapshot over a slow line may take its time, as long as it keeps coming.
                    if wait.snapshot.is_some() {
                        wait.for_snapshot(timing);
                    }
                    wait.part = assembly.is_open().then(|| Instant::now() + timing.part);
                    if let Some(arrival) = arrival {
                        self.pass(arrival).await?;
                    }
                }
                answer = answered.recv() => {
                    let body = match answer.ok_or(LinkError::Ended)? {
                        Answer::Ack(generation) => node_message::Body::Ack(wire::Ack { generation: generation.0 }),
                        Answer::Nack { generation, reason } => {
                            wait.for_snapshot(timing);
                            node_message::Body::Nack(wire::Nack { generation: generation.0, reason: bounded(reason) })
                        }
                    };
                    outgoing.try_send(wire::NodeMessage { body: Some(body) }).map_err(|_| LinkError::Ended)?;
                }
                (limit, what) = wait.over(timing) => return Err(LinkError::Silence(limit, what)),
            }
        }
    }

    async fn pass(&self, arrival: Arrival) -> Result<(), LinkError> {
        self.to.send(arrival).await.map_err(|_| LinkError::Stopping)
    }
}

/// What the session is waiting for, and until when.
#[derive(Default)]
struct Wait {
    part: Option<Instant>,
    snapshot: Option<Instant>,
}

impl Wait {
    fn for_snapshot(&mut self, timing: &Timing) {
        self.snapshot = Some(Instant::now() + timing.snapshot);
    }

    async fn over(&self, timing: &Timing) -> (Duration, &'static str) {
        let until = |at: Option<Instant>| async move {
            match at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = until(self.part) => (timing.part, "the next part of an update"),
            () = until(self.snapshot) => (timing.snapshot, SNAPSHOT),
        }
    }
}

async fn connect(
    config: &FeedConfig,
    outbox: ReceiverStream<wire::NodeMessage>,
) -> Result<Streaming<wire::ControllerMessage>, LinkError> {
    let timing = &config.timing;
    let channel = Endpoint::from_shared(config.controller.url())?
        .connect_timeout(timing.greeting)
        .http2_keep_alive_interval(timing.keepalive)
        .keep_alive_timeout(timing.keepalive)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .connect()
        .await?;
    let mut client = wire::feed_client::FeedClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT_BYTES);
    Ok(client.follow(outbox).await.map_err(Box::new)?.into_inner())
}

async fn next(stream: &mut Streaming<wire::ControllerMessage>) -> Result<controller_message::Body, LinkError> {
    let message = stream.next().await.ok_or(LinkError::Ended)?.map_err(Box::new)?;
    message.body.ok_or(LinkError::Unexpected("a message of a kind that this version doesn't know"))
}

/// A reason is for people to read; one that quotes a monster is cut.
fn bounded(mut reason: String) -> String {
    let mut end = reason.len().min(1000);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}
