//! What the kernel's table holds by name: asked after a restart, and after an error, when nothing is known any more.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::Stand;
use super::inquiry;
use super::names;
use super::netlink::{self, Error, Socket};
use super::object::Family;
use super::transaction::TABLE;

/// The names in our table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) table: bool,
    pub(super) chains: Vec<String>,
    /// Sets and maps.
    pub(super) sets: Vec<String>,
    /// Where the base chains stand among others of their hooks.
    pub(super) priorities: BTreeMap<String, i32>,
    /// There are revoked tuples.
    pub(super) revoked: bool,
}

impl Held {
    /// Asks the kernel, in the network namespace of `socket`.
    pub(super) fn read(socket: &mut Socket) -> Result<Self, Error> {
        // Attributes of `linux/netfilter/nf_tables.h`: NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and _NAME, NFTA_SET_TABLE and _NAME.
        let tables = listed(socket, inquiry::GET_TABLE, inquiry::NEW_TABLE, 1, 1)?;
        let chains = listed(socket, inquiry::GET_CHAIN, inquiry::NEW_CHAIN, 1, 3)?;
        let sets = listed(socket, inquiry::GET_SET, inquiry::NEW_SET, 1, 2)?;
        let mut revoked = false;
        for set in Family::BOTH.map(names::revoked) {
            revoked = revoked || (sets.contains(&set) && !elements(socket, &set, |_| Some(()))?.is_empty());
        }
        let priorities = priorities(socket)?;
        Ok(Self { table: !tables.is_empty(), chains, sets, priorities, revoked })
    }

    /// A socket for [`Held::read`] in the calling thread's network namespace.
    pub(super) fn socket() -> Result<Socket, Error> {
        Socket::open(SockProtocol::NetlinkNetFilter)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.chains.iter().chain(&self.sets).map(String::as_str)
    }
}

/// Which of the controller's tables the rules are of; `None` if that was never said.
pub(super) fn stand(socket: &mut Socket) -> Result<Option<Stand>, Error> {
    let lists = elements(socket, names::STAND, |list| {
        // NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE.
        let key = [1, 1, 1].into_iter().try_fold(list, netlink::attribute)?;
        Stand::from_key(key)
    });
    match lists {
        Ok(stands) => Ok(stands.into_iter().next()),
        // There is no such set.
        Err(Error::Refused(Errno::ENOENT)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What `read` makes of each list of elements that is not empty.
fn elements<T>(socket: &mut Socket, set: &str, read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, Error> {
    // NFTA_SET_ELEM_LIST_TABLE, _SET and _ELEMENTS.
    socket.dump(inquiry::dump_of(inquiry::NFPROTO_INET, inquiry::GET_ELEMENTS, 1, 2, Some(set)), |_, body| {
        inquiry::attribute(body, 3).filter(|list| !list.is_empty()).and_then(&read)
    })
}

/// Of our base chains.
fn priorities(socket: &mut Socket) -> Result<BTreeMap<String, i32>, Error> {
    let found = socket.dump(inquiry::dump(inquiry::GET_CHAIN), |kind, body| {
        let is_ours = kind == inquiry::NEW_CHAIN && inquiry::is_inet(body);
        let table = inquiry::attribute(body, 1).filter(|_| is_ours)?;
        // NFTA_CHAIN_HOOK, in it NFTA_HOOK_PRIORITY.
        let hook = inquiry::attribute(body, 4).filter(|_| inquiry::is_text(table, TABLE))?;
        let priority = netlink::attribute(hook, 2)?;
        Some((inquiry::text(inquiry::attribute(body, 3)?)?, i32::from_be_bytes(*priority.first_chunk()?)))
    })?;
    Ok(found.into_iter().collect())
}

fn listed(socket: &mut Socket, get: u16, new: u16, table: u16, name: u16) -> Result<Vec<String>, Error> {
    socket.dump(inquiry::dump(get), |kind, body| {
        let is_ours = kind == new && inquiry::is_inet(body) && inquiry::is_text(inquiry::attribute(body, table)?, TABLE);
        is_ours.then(|| inquiry::attribute(body, name).and_then(inquiry::text))?
    })
}
