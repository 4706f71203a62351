//! The side that lets go.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::channel::Door;
use super::{Channel, ChannelError, FORMAT, Message, Sockets};

/// A successor reads its configuration and opens its side of the kernel.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// Writing to the kernel takes no longer, unless it is stuck.
const LEARN_PATIENCE: Duration = Duration::from_secs(3);

/// Waits for successors at `path` from now on, in a thread of its own. Each gets these sockets; once it is ready, it is passed on. Of
/// what isn't passed on, only the log is told.
pub fn offer(path: &Path, sockets: Arc<Mutex<Sockets>>, successors: mpsc::Sender<Channel>) -> std::io::Result<()> {
    let door = Door::open_at(path)?;
    let wait = move || {
        while !successors.is_closed() {
            let ready = door.accept().and_then(|channel| greet(&channel, &sockets).map(|()| channel));
            match ready {
                Ok(channel) => drop(successors.blocking_send(channel)),
                Err(ChannelError::Closed) => tracing::warn!("a process wanted to take over, and ended before it could"),
                Err(error) => {
                    tracing::warn!(error = crate::error_chain(&error), "a process can't take over");
                    // Without files it would be the same at once.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    };
    std::thread::Builder::new().name("restart".into()).spawn(wait)?;
    Ok(())
}

fn greet(channel: &Channel, sockets: &Mutex<Sockets>) -> Result<(), ChannelError> {
    {
        let sockets = sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let each = sockets.each();
        channel.send(&Message::Offer { format: FORMAT, sockets: each.len() }, None)?;
        for (kind, socket) in each {
            channel.send(&Message::Socket(kind), Some(socket))?;
        }
    }
    match channel.receive(Some(READY_PATIENCE))? {
        (Message::Ready, _) => Ok(()),
        _ => Err(ChannelError::Confused),
    }
}

impl Channel {
    /// From now on the kernel is the successor's.
    pub fn release(&self) -> Result<(), ChannelError> {
        self.send(&Message::Released, None)
    }

    /// Has the successor learn what came late. Ok: the kernel holds it, and it is written down.
    pub fn teach(&self, late: crate::names::Late) -> Result<(), String> {
        let ask = || {
            self.send(&Message::Learn(late), None)?;
            self.receive(Some(LEARN_PATIENCE))
        };
        match ask() {
            Ok((Message::Learned { error: None }, _)) => Ok(()),
            Ok((Message::Learned { error: Some(error) }, _)) => Err(error),
            Ok(_) => Err(ChannelError::Confused.to_string()),
            Err(error) => Err(format!("the successor: {}", crate::error_chain(&error))),
        }
    }
}
