//! The side that takes over.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::{Channel, ChannelError, FORMAT, Message, Sockets};
use crate::names::Late;

/// How long a process that runs may be busy, with its kernel and its disk too.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two attempts, while another one takes over or gives up.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a process that runs can't be relieved.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    #[error("it hands over in format {0}, and this version understands {FORMAT}: end it first")]
    Format(u32),
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// A process that runs, and waits until its successor is ready.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
}

/// What a predecessor has learned when it couldn't tell the kernel any more.
#[derive(Debug)]
pub struct Inherited {
    pub late: Late,
    pub done: oneshot::Sender<Result<(), String>>,
}

impl Predecessor {
    /// The process that waits at `path`, and its sockets. `None`: there is none. Blocks for as long as it takes to answer.
    pub fn find(path: &Path) -> Result<Option<(Self, Sockets)>, TakeOverError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Self::greet(path) {
                // It gives way to another successor, or has just ended.
                Err(TakeOverError::Channel(ChannelError::Closed)) if Instant::now() < end => std::thread::sleep(PAUSE),
                found => return found,
            }
        }
    }

    fn greet(path: &Path) -> Result<Option<(Self, Sockets)>, TakeOverError> {
        let Some(channel) = Channel::connect(path)? else { return Ok(None) };
        let count = match channel.receive(Some(PATIENCE))?.0 {
            Message::Offer { format: FORMAT, sockets } => sockets,
            Message::Offer { format, .. } => return Err(TakeOverError::Format(format)),
            _ => return Err(ChannelError::Confused.into()),
        };
        let mut sockets = Sockets::default();
        for _ in 0..count {
            match channel.receive(Some(PATIENCE))? {
                (Message::Socket(kind), Some(socket)) => sockets.take(kind, socket),
                _ => return Err(ChannelError::Confused.into()),
            }
        }
        Ok(Some((Self { channel }, sockets)))
    }

    /// Relieves it: on Ok it leaves the kernel alone, its table is on disk, and it reads no more.
    pub fn relieve(self) -> Result<Relieved, TakeOverError> {
        self.channel.send(&Message::Ready, None)?;
        match self.channel.receive(Some(PATIENCE))?.0 {
            Message::Released => Ok(Relieved { channel: self.channel }),
            _ => Err(ChannelError::Confused.into()),
        }
    }
}

/// A process that ends, and may still have answers for pods.
#[derive(Debug)]
pub struct Relieved {
    channel: Channel,
}

impl Relieved {
    /// Learns what it has learned, until it has ended, in a thread of its own.
    pub fn listen(self, inherited: mpsc::Sender<Inherited>) -> std::io::Result<()> {
        let listen = move || {
            while let Ok((Message::Learn(late), _)) = self.channel.receive(None) {
                let (done, learned) = oneshot::channel();
                let sent = inherited.blocking_send(Inherited { late, done });
                let learned = sent.ok().and_then(|()| learned.blocking_recv().ok());
                let error = learned.unwrap_or_else(|| Err("the kernel's thread has ended".to_owned())).err();
                if self.channel.send(&Message::Learned { error }, None).is_err() {
                    break;
                }
            }
            tracing::info!("the former proxy has ended");
        };
        std::thread::Builder::new().name("predecessor".into()).spawn(listen)?;
        Ok(())
    }
}
