//! What both name servers need: a folder, a process, and to know when it answers.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use super::wire::{Kind, Message};
use super::{Socket, wire};
use crate::{Error, Netns};

/// The port of DNS.
pub(super) const PORT: u16 = 53;
/// For a server to start or to change: on a busy machine.
const LONG: Duration = Duration::from_secs(15);

pub(super) fn failed(ns: &Netns, program: &str, reason: impl ToString) -> Error {
    Error::Command { command: program.to_owned(), namespace: ns.name().to_owned(), reason: reason.to_string() }
}

pub(super) fn folder(ns: &Netns, program: &str) -> Result<tempfile::TempDir, Error> {
    tempfile::Builder::new().prefix("testnet-").tempdir().map_err(|error| failed(ns, program, error))
}

/// Writes a file in one step, so that no server reads half of it.
pub(super) fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

/// Asks every address until what it says of `zone`'s start is `right`; `said` is what the server wrote, for the error.
pub(super) fn await_start(
    ns: &Netns,
    addresses: &[IpAddr],
    zone: &str,
    right: impl Fn(&Message) -> bool,
    said: impl Fn() -> String,
) -> Result<(), Error> {
    let until = Instant::now() + LONG;
    for address in addresses {
        let server = SocketAddr::new(*address, PORT);
        let mut wait = Duration::from_millis(10);
        loop {
            let asked = Socket::open(ns, server).and_then(|mut socket| socket.ask(zone, Kind::SOA, Duration::from_millis(200)));
            match asked {
                Ok(Some(answer)) if answer.message().is_some_and(|message| right(&message)) => break,
                _ if Instant::now() < until => std::thread::sleep(wait),
                last => return Err(failed(ns, "name server", format!("{server} on {zone}: {last:?}\n{}", said()))),
            }
            wait = (wait * 3 / 2).min(Duration::from_millis(100));
        }
    }
    Ok(())
}

/// The serial number of a zone's start, if the message has one.
pub(super) fn serial(message: &Message) -> Option<u32> {
    let start = message.answers.iter().find(|record| record.kind == Kind::SOA)?;
    let wire::Data::Bytes(data) = &start.data else { return None };
    let numbers = data.len().checked_sub(20)?;
    Some(u32::from_be_bytes(data[numbers..numbers + 4].try_into().ok()?))
}
