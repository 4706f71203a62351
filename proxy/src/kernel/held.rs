//! What the kernel's table holds by name: asked after a restart, and after an error, when nothing is known any more.

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::Stand;
use super::names;
use super::netlink::{Attributes, Error, Message, Socket, flags};
use super::object::Family;
use super::transaction::TABLE;

const NFT_MSG_NEWTABLE: u16 = message_type(0);
const NFT_MSG_GETTABLE: u16 = message_type(1);
const NFT_MSG_GETCHAIN: u16 = message_type(4);
const NFT_MSG_NEWCHAIN: u16 = message_type(3);
const NFT_MSG_GETSET: u16 = message_type(10);
const NFT_MSG_NEWSET: u16 = message_type(9);
const NFT_MSG_GETSETELEM: u16 = message_type(13);
const NFPROTO_INET: u8 = 1;
/// `struct nfgenmsg`.
const FIXED_BYTES: usize = 4;

/// `NFNL_SUBSYS_NFTABLES` is 10 and stands in the upper byte.
const fn message_type(message: u16) -> u16 {
    10 << 8 | message
}

/// The names in our table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) table: bool,
    pub(super) chains: Vec<String>,
    /// Sets and maps.
    pub(super) sets: Vec<String>,
    /// There are revoked tuples.
    pub(super) revoked: bool,
}

impl Held {
    /// Asks the kernel, in the network namespace of `socket`.
    pub(super) fn read(socket: &mut Socket) -> Result<Self, Error> {
        // Attributes of `linux/netfilter/nf_tables.h`: NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and _NAME, NFTA_SET_TABLE and _NAME.
        let tables = listed(socket, NFT_MSG_GETTABLE, NFT_MSG_NEWTABLE, 1, 1)?;
        let chains = listed(socket, NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN, 1, 3)?;
        let sets = listed(socket, NFT_MSG_GETSET, NFT_MSG_NEWSET, 1, 2)?;
        let mut revoked = false;
        for set in Family::BOTH.map(names::revoked) {
            revoked = revoked || (sets.contains(&set) && !elements(socket, &set, |_| Some(()))?.is_empty());
        }
        Ok(Self { table: !tables.is_empty(), chains, sets, revoked })
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
        let key = [1, 1, 1]
            .into_iter()
            .try_fold(list, |within, wanted| Attributes(within).find_map(|(kind, value)| (kind == wanted).then_some(value)))?;
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
    let mut request = Message::new(NFT_MSG_GETSETELEM, flags::DUMP, &[NFPROTO_INET, 0, 0, 0]);
    request.put(1, format!("{TABLE}\0").as_bytes()).put(2, format!("{set}\0").as_bytes());
    socket.dump(request, |_, body| {
        let mut attributes = Attributes(body.get(FIXED_BYTES..)?);
        attributes.find_map(|(kind, value)| (kind == 3 && !value.is_empty()).then_some(value)).and_then(&read)
    })
}

fn listed(socket: &mut Socket, get: u16, new: u16, table: u16, name: u16) -> Result<Vec<String>, Error> {
    let request = Message::new(get, flags::DUMP, &[NFPROTO_INET, 0, 0, 0]);
    socket.dump(request, |kind, body| {
        let attributes = Attributes(body.get(FIXED_BYTES..)?);
        let text = |wanted: u16| {
            let (_, value) = attributes.into_iter().find(|(kind, _)| *kind == wanted)?;
            String::from_utf8(value.strip_suffix(&[0]).unwrap_or(value).to_vec()).ok()
        };
        (kind == new && body.first() == Some(&NFPROTO_INET) && text(table)? == TABLE).then(|| text(name))?
    })
}
