//! The kernel's counters of what was denied: by site, and by whose packets they were.

use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::inquiry;
use super::netlink::{Attributes, Error, Message, Socket, attribute, flags};
use super::site::{Budget, Site, Subject};
use super::transaction::TABLE;

/// What was counted of one pod or interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    pub subject: Subject,
    pub packets: u64,
    /// When the kernel forgets it, if no packet comes.
    pub expires: Duration,
}

/// A reader of the counters of one network namespace.
#[derive(Debug)]
pub struct Tallies {
    socket: Socket,
}

impl Tallies {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(SockProtocol::NetlinkNetFilter)? })
    }

    /// How many packets each site has dropped since the table was made. Empty where there is none.
    pub fn totals(&mut self) -> Result<Vec<(Site, u64)>, Error> {
        // NFTA_OBJ_TABLE, _NAME and _DATA.
        let mut request = Message::new(inquiry::GET_OBJECT, flags::DUMP, &[inquiry::NFPROTO_INET, 0, 0, 0]);
        request.put(1, format!("{TABLE}\0").as_bytes());
        let read = self.socket.dump(request, |kind, body| {
            let name = inquiry::attribute(body, 2).filter(|_| kind == inquiry::NEW_OBJECT)?;
            let site = Site::of_name(std::str::from_utf8(name.strip_suffix(&[0]).unwrap_or(name)).ok()?)?;
            Some((site, packets(inquiry::attribute(body, 4)?)?))
        });
        unless_absent(read)
    }

    /// What was counted of those who share `budget`. Empty where there is no such set.
    pub fn of(&mut self, budget: Budget) -> Result<Vec<Tally>, Error> {
        let mut tallies = Vec::new();
        for (_, set) in budget.sets() {
            // NFTA_SET_ELEM_LIST_TABLE, _SET and _ELEMENTS.
            let mut request = Message::new(inquiry::GET_ELEMENTS, flags::DUMP, &[inquiry::NFPROTO_INET, 0, 0, 0]);
            request.put(1, format!("{TABLE}\0").as_bytes()).put(2, format!("{set}\0").as_bytes());
            let lists = unless_absent(self.socket.dump(request, |kind, body| {
                let list = inquiry::attribute(body, 3).filter(|_| kind == inquiry::NEW_ELEMENTS)?;
                Some(Attributes(list).filter_map(|(_, element)| tally(element, budget)).collect::<Vec<_>>())
            }))?;
            tallies.extend(lists.into_iter().flatten());
        }
        Ok(tallies)
    }
}

/// Without the table, or the set, there is nothing.
fn unless_absent<T>(read: Result<Vec<T>, Error>) -> Result<Vec<T>, Error> {
    match read {
        Err(Error::Refused(Errno::ENOENT)) => Ok(Vec::new()),
        read => read,
    }
}

/// One element: `NFTA_SET_ELEM_KEY`, `_EXPIRATION` and `_EXPRESSIONS`.
fn tally(element: &[u8], budget: Budget) -> Option<Tally> {
    let key = attribute(attribute(element, 1)?, 1)?;
    let subject = match (budget, <[u8; 4]>::try_from(key), <[u8; 16]>::try_from(key)) {
        (Budget::Interface, Ok(number), _) => Subject::Interface(u32::from_ne_bytes(number)),
        (_, Ok(octets), _) => Subject::Address(IpAddr::from(octets)),
        (_, _, Ok(octets)) => Subject::Address(IpAddr::from(octets)),
        _ => return None,
    };
    let counter = Attributes(attribute(element, 11)?).find_map(|(_, expression)| {
        // NFTA_EXPR_NAME and _DATA.
        (attribute(expression, 1)? == b"counter\0").then(|| attribute(expression, 2)).flatten()
    })?;
    let expires = attribute(element, 5).and_then(|ms| ms.first_chunk()).map_or(0, |ms| u64::from_be_bytes(*ms));
    Some(Tally { subject, packets: packets(counter)?, expires: Duration::from_millis(expires) })
}

/// `NFTA_COUNTER_PACKETS`
fn packets(counter: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*attribute(counter, 2)?.first_chunk()?))
}
