//! The feed's gRPC service: one stream per node.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sluice_feed::parts;
use sluice_feed::wire::feed_server::{Feed, FeedServer};
use sluice_feed::wire::{self, controller_message, node_message};
use sluice_feed::{NODE_NAME_LIMIT_BYTES, VERSION};
use sluice_policy::label::{Operator, Requirement, Selector};
use sluice_policy::snapshot::Generation;
use sluice_policy::source::{Namespaces, PodSelector};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::plan::{Hello, SessionId};
use crate::publish::{Input, Outgoing, outbox_size};

/// How long a client may take to say hello.
const GREETING: Duration = Duration::from_secs(10);

/// A node's messages are short: a hello, acks, nacks with a reason.
const NODE_MESSAGE_LIMIT_BYTES: usize = 64 << 10;

/// The characters of a nack's reason that are kept.
const REASON_CHARS: usize = 1000;

/// Serves nodes.
pub(crate) struct Service {
    inputs: mpsc::Sender<Input>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    sessions: AtomicU64,
}

impl Service {
    pub(crate) fn new(inputs: mpsc::Sender<Input>, tasks: TaskTracker, cancel: CancellationToken) -> FeedServer<Self> {
        FeedServer::new(Self { inputs, tasks, cancel, sessions: AtomicU64::new(1) })
            .max_decoding_message_size(NODE_MESSAGE_LIMIT_BYTES)
    }
}

#[tonic::async_trait]
impl Feed for Service {
    type FollowStream = Parts;

    async fn follow(&self, request: Request<Streaming<wire::NodeMessage>>) -> Result<Response<Parts>, Status> {
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(GREETING, messages.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(node_message::Body::Hello(hello)) = first.and_then(|message| message.body) else {
            return Err(Status::invalid_argument("a node's first message is its hello"));
        };
        let hello = checked(hello)?;
        let id = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        let (outbox, outgoing) = mpsc::channel(outbox_size());
        let (answer, answered) = oneshot::channel();
        let gone = |_| Status::unavailable("the controller is stopping");
        self.inputs.send(Input::Join { id, hello, outbox, answer }).await.map_err(|_| gone(()))?;
        let joined = answered.await.map_err(|_| gone(()))?;
        joined.map_err(|refusal| Status::resource_exhausted(refusal.to_string()))?;

        let (inputs, cancel) = (self.inputs.clone(), self.cancel.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = listen(id, messages, &inputs) => {}
            }
            // The publisher is gone only when the controller ends.
            let _ = inputs.send(Input::Leave(id)).await;
        });
        Ok(Response::new(Parts { outgoing, current: None }))
    }
}

fn checked(hello: wire::Hello) -> Result<Hello, Status> {
    if hello.version != VERSION {
        let text = format!("this node speaks version {} of the feed, this controller speaks {VERSION}", hello.version);
        return Err(Status::failed_precondition(text));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if hello.node.is_empty() || hello.node.len() > NODE_NAME_LIMIT_BYTES || !hello.node.chars().all(plain) {
        return Err(Status::invalid_argument("a node's name is 1 to 253 letters, digits, '-', '.' and '_'"));
    }
    let resolvers = hello.resolvers.into_iter().map(resolvers).collect();
    Ok(Hello { node: Arc::from(hello.node), epoch: hello.epoch, generation: Generation(hello.generation), resolvers })
}

/// The pods of a namespace that have all of these labels.
fn resolvers(pods: wire::Resolvers) -> PodSelector {
    let has =
        |(key, value): (String, String)| Requirement { key: key.into(), operator: Operator::In, values: vec![value.into()] };
    PodSelector { namespaces: Namespaces::Named(pods.namespace.into()), pods: Selector::new(pods.labels.into_iter().map(has)) }
}

/// Passes on what the node says, until it says no more, or something that makes no sense.
async fn listen(id: SessionId, mut messages: Streaming<wire::NodeMessage>, inputs: &mpsc::Sender<Input>) {
    while let Ok(Some(message)) = messages.message().await {
        let input = match message.body {
            Some(node_message::Body::Ack(ack)) => Input::Ack(id, Generation(ack.generation)),
            Some(node_message::Body::Nack(nack)) => {
                let reason = nack.reason.chars().take(REASON_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
                Input::Nack(id, Generation(nack.generation), reason)
            }
            Some(node_message::Body::Hello(_)) | None => return,
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

/// A node's queue as a stream of messages: each update in its parts.
pub(crate) struct Parts {
    outgoing: mpsc::Receiver<Outgoing>,
    current: Option<Box<dyn Iterator<Item = wire::Part> + Send>>,
}

impl Stream for Parts {
    type Item = Result<wire::ControllerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = |body| Poll::Ready(Some(Ok(wire::ControllerMessage { body: Some(body) })));
        loop {
            if let Some(part) = self.current.as_mut().and_then(Iterator::next) {
                return message(controller_message::Body::Part(part));
            }
            self.current = None;
            match ready!(self.outgoing.poll_recv(context)) {
                None => return Poll::Ready(None),
                Some(Outgoing::Update { heading, payload }) => self.current = Some(Box::new(parts::split(heading, payload))),
                Some(Outgoing::Welcome { epoch, current }) => {
                    return message(controller_message::Body::Welcome(wire::Welcome { version: VERSION, epoch, current }));
                }
            }
        }
    }
}
