//! A planned restart: a second process takes over from the first, and no look-up and no connection is lost or refused meanwhile.
//!
//! ```text
//! successor                                              predecessor
//!   connects to restart-NODE in the state directory ----->
//!     <---------------------------------- Offer, Socket...
//!   opens all that can fail, and doesn't touch the kernel
//!   Ready ----------------------------------------------->  ends its transaction, writes its table down
//!     <----------------------------------------- Released   leaves the kernel alone, reads no more, lets what is under way end
//!   reads table and names, writes the kernel's rules, and answers what waits at the sockets
//!     <------------------------------------------ Learn...  an answer to a look-up that was under way
//!   in the kernel and written down: Learned ------------->  the answer leaves
//! ```
//!
//! Both hold the same sockets from the first message on, so that there is no moment at which nobody does: what arrives between the last
//! read of the one and the first of the other waits in the kernel's queues. Until `Released` the predecessor can go on as if nothing had
//! been, and does if its successor fails. What it carries stays with it until it ends or the drain time is over: connections that were
//! accepted, judged by each new table, and look-ups whose servers are slow.
//!
//! Who may write to the state directory may ask; the other end must be the same user, or root.

mod channel;
mod predecessor;
mod sockets;
mod successor;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use channel::{Channel, ChannelError};
pub use predecessor::{Inherited, Predecessor, Relieved, TakeOverError};
pub use sockets::{Sockets, deal};
pub use successor::offer;

use crate::names::Late;
use sockets::Kind;

/// Another one is understood by nobody.
const FORMAT: u32 = 1;

/// What is said, in either direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    /// The first word: so many sockets follow.
    Offer {
        format: u32,
        sockets: usize,
    },
    /// With the socket itself.
    Socket(Kind),
    Ready,
    Released,
    Learn(Late),
    Learned {
        error: Option<String>,
    },
}

/// Where a process of `node` waits for its successor.
pub fn path(dir: &Path, node: &str) -> PathBuf {
    crate::state::path_of(dir, "restart", node)
}

#[cfg(test)]
mod tests;
