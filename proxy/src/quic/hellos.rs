//! The server names that a client asks for, in the Initial packets of one flow.
//!
//! One pair of addresses may carry many connections, one after another or at a time, and a server tells them apart by ids that the
//! client chooses. So the flow is never done with: whatever packet could begin a connection is read, also behind the first.
//!
//! | a datagram | |
//! |---|---|
//! | with an Initial packet that its own destination id protects, 1200 bytes or more | an attempt to connect: its frames are put together until the ClientHello is whole |
//! | with one that belongs to an attempt that was read before | more of it: what it repeats must be the same. A second ClientHello (HelloRetryRequest) is read like the first |
//! | with any other Initial packet, a packet of another version, or bytes behind a packet that can't be read | unreadable: a server may see more in it |
//! | without Initial packets | nothing is to be read |
//!
//! What belongs to a ClientHello that is not whole yet is held back: a server that got all but its last piece could be given that piece
//! when nobody knows the others any more.

use std::mem;

use super::keys::{Keys, Side};
use super::packet::{Initial, Packet, Unreadable, Version, first, frames};
use crate::hello;

/// RFC 9000 section 14.1.
const LEAST_DATAGRAM_BYTES: usize = 1200;
/// Attempts that are remembered, and what is kept of all of them: beyond that the oldest is forgotten.
const MOST_ATTEMPTS: usize = 4;
const MOST_BYTES: usize = 32 << 10;
/// A ClientHello with keys that no quantum computer finds has some 1,800 bytes.
const MOST_HELLO_BYTES: usize = 16 << 10;
/// What is held back of one attempt.
const MOST_HELD: usize = 8;
const MOST_HELD_BYTES: usize = 16 << 10;

/// What a datagram adds to what was known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Of the ClientHellos that are whole by it.
    pub(crate) server_names: Vec<Option<String>>,
    /// A ClientHello goes on in datagrams that have not come.
    pub(crate) goes_on: bool,
    /// It has an Initial packet.
    pub(crate) begins: bool,
}

/// The attempts to connect of one flow.
#[derive(Debug, Default)]
pub(crate) struct Hellos {
    attempts: Vec<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    version: Version,
    destination: Vec<u8>,
    source: Vec<u8>,
    keys: Keys,
    largest: Option<u64>,
    stream: Stream,
    held: Vec<Vec<u8>>,
    /// The newest datagram has a packet of it.
    is_of_newest: bool,
}

/// Whom an answer to an attempt is for: what a server would know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answerable {
    pub(super) version: Version,
    /// The destination that the client chose, by which keys are made.
    pub(super) destination: Vec<u8>,
    /// The client's own.
    pub(super) source: Vec<u8>,
}

impl Hellos {
    /// Reads a datagram of the client's. What it held back of it, [`Self::release`] gives.
    ///
    /// After an error nothing of it is known: attempts that it had to do with are forgotten, so that none of their ClientHellos counts
    /// as read that nobody was told of.
    pub(crate) fn see(&mut self, datagram: &[u8]) -> Result<Seen, Unreadable> {
        self.attempts.iter_mut().for_each(|attempt| attempt.is_of_newest = false);
        let seen = self.read(datagram);
        if seen.is_err() {
            self.forget();
        }
        while self.attempts.len() > 1 && self.attempts.iter().map(Attempt::bytes).sum::<usize>() > MOST_BYTES {
            self.attempts.remove(0);
        }
        seen
    }

    fn read(&mut self, datagram: &[u8]) -> Result<Seen, Unreadable> {
        let mut seen = Seen::default();
        let mut incomplete = None;
        let mut rest = datagram;
        while !rest.is_empty() {
            let packet;
            (packet, rest) = first(rest)?;
            let Packet::Initial(initial) = packet else { continue };
            let is_long_enough = datagram.len() >= LEAST_DATAGRAM_BYTES;
            let place = self.add(&initial, is_long_enough)?;
            let attempt = &mut self.attempts[place];
            seen.begins = true;
            seen.server_names.extend(attempt.stream.read()?);
            if attempt.stream.goes_on() {
                incomplete = Some(attempt.destination.clone());
            }
        }
        if let Some(destination) = incomplete {
            seen.goes_on = true;
            let attempt = self.attempts.iter_mut().find(|attempt| attempt.destination == destination);
            attempt.ok_or(Unreadable::TooLong)?.hold(datagram)?;
        }
        Ok(seen)
    }

    /// Holds back a datagram of a flow that has not begun to pass, and has nothing to be read in it.
    pub(crate) fn hold(&mut self, datagram: &[u8]) {
        if let Some(attempt) = self.attempts.last_mut() {
            let _ = attempt.hold(datagram);
        }
    }

    /// What was held back of attempts whose ClientHellos are whole.
    pub(crate) fn release(&mut self) -> Vec<Vec<u8>> {
        let whole = self.attempts.iter_mut().filter(|attempt| !attempt.stream.goes_on());
        whole.flat_map(|attempt| mem::take(&mut attempt.held)).collect()
    }

    /// Forgets the attempts that the newest datagram belongs to, and what was held back of them: it was denied. What is sent of them once
    /// more is read like new.
    pub(crate) fn forget(&mut self) {
        self.attempts.retain(|attempt| !attempt.is_of_newest);
    }

    /// Whom to answer about the newest attempt.
    pub(crate) fn newest(&self) -> Option<Answerable> {
        let Attempt { version, destination, source, .. } = self.attempts.last()?;
        Some(Answerable { version: *version, destination: destination.clone(), source: source.clone() })
    }

    /// Adds an Initial packet to the attempt that it belongs to, which may be a new one; yields which that is.
    fn add(&mut self, initial: &Initial<'_>, is_long_enough: bool) -> Result<usize, Unreadable> {
        // Once it is answered, the client sends to an id that its server has chosen, with the keys of the first.
        let known = self.attempts.iter_mut().enumerate().rev().find_map(|(place, attempt)| {
            let payload = attempt.open(initial)?;
            Some((place, payload))
        });
        let (place, payload) = match known {
            Some(known) => known,
            None if !is_long_enough => return Err(Unreadable::TooShort),
            None => {
                let mut attempt = Attempt::new(initial);
                let payload = attempt.open(initial).ok_or(Unreadable::Foreign)?;
                if self.attempts.len() == MOST_ATTEMPTS {
                    self.attempts.remove(0);
                }
                self.attempts.push(attempt);
                (self.attempts.len() - 1, payload)
            }
        };
        // The attempt that is read is the newest: it is the one that is answered, and the last to be displaced.
        let attempt = self.attempts.remove(place);
        self.attempts.push(attempt);
        let newest = self.attempts.len() - 1;
        self.attempts[newest].is_of_newest = true;
        let stream = &mut self.attempts[newest].stream;
        frames(&payload, |at, bytes| stream.put(at, bytes))?;
        Ok(newest)
    }
}

impl Attempt {
    fn new(initial: &Initial<'_>) -> Self {
        Self {
            version: initial.version,
            destination: initial.destination.to_vec(),
            source: initial.source.to_vec(),
            keys: Keys::of(initial.version, initial.destination, Side::Client),
            largest: None,
            stream: Stream::default(),
            held: Vec::new(),
            is_of_newest: true,
        }
    }

    /// The packet's payload, if it belongs to this.
    fn open(&mut self, initial: &Initial<'_>) -> Option<Vec<u8>> {
        let of_other;
        let keys = if initial.version == self.version {
            &self.keys
        } else {
            // Client and server may agree on another version by their first packets (RFC 9369 section 4.1).
            of_other = Keys::of(initial.version, &self.destination, Side::Client);
            &of_other
        };
        let opened = keys.open(initial.whole, initial.number_at, self.largest)?;
        self.largest = self.largest.max(Some(opened.number));
        Some(opened.payload)
    }

    /// What it takes of memory, but for what all take.
    fn bytes(&self) -> usize {
        self.stream.bytes.capacity() + self.held_bytes()
    }

    fn held_bytes(&self) -> usize {
        self.held.iter().map(Vec::len).sum()
    }

    fn hold(&mut self, datagram: &[u8]) -> Result<(), Unreadable> {
        if self.held.len() >= MOST_HELD || self.held_bytes() + datagram.len() > MOST_HELD_BYTES {
            return Err(Unreadable::TooLong);
        }
        self.held.push(datagram.to_vec());
        Ok(())
    }
}

/// The handshake's bytes in the order of the stream, which frames bring in any.
#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    /// Which of them have come, a bit for each.
    has_come: Vec<u8>,
    /// So many from the beginning on are there.
    whole_to: usize,
    /// Messages up to here were read.
    read_to: usize,
}

impl Stream {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), Unreadable> {
        let at = usize::try_from(at).map_err(|_| Unreadable::TooLong)?;
        let end = at.checked_add(bytes.len()).filter(|end| *end <= MOST_HELLO_BYTES).ok_or(Unreadable::TooLong)?;
        if end > self.bytes.len() {
            self.bytes.reserve_exact(end - self.bytes.len());
            self.bytes.resize(end, 0);
            self.has_come.resize(end.div_ceil(8), 0);
        }
        for (at, byte) in (at..end).zip(bytes) {
            // A server may take the first or the last of two.
            if self.has_come(at) && self.bytes[at] != *byte {
                return Err(Unreadable::Contradiction);
            }
            self.bytes[at] = *byte;
            self.has_come[at / 8] |= 1 << (at % 8);
        }
        while self.whole_to < self.bytes.len() && self.has_come(self.whole_to) {
            self.whole_to += 1;
        }
        Ok(())
    }

    fn has_come(&self, at: usize) -> bool {
        self.has_come[at / 8] & (1 << (at % 8)) != 0
    }

    /// The server names of the ClientHellos that are whole by now and were not before.
    fn read(&mut self) -> Result<Vec<Option<String>>, Unreadable> {
        let mut names = Vec::new();
        loop {
            let unread = &self.bytes[self.read_to..self.whole_to];
            match hello::message(unread).map_err(|_| Unreadable::Hello)? {
                None => return Ok(names),
                Some(message) => {
                    self.read_to = self.whole_to - message.rest.len();
                    names.push(message.server_name);
                }
            }
        }
    }

    /// Whether part of a message is there, or none yet.
    fn goes_on(&self) -> bool {
        self.read_to == 0 || self.read_to < self.bytes.len()
    }
}

#[cfg(test)]
mod tests;
