//! Whether somebody else has taken our rules away.
//!
//! `nft flush ruleset` removes every table of the node, `inet sluice` too, and it begins a distribution's
//! `/etc/nftables.conf`: reloading that service opens all that was closed. What every packet meets is looked at again and again.
//!
//! A look costs one message: the kernel counts the changes of its ruleset, whoever made them. Only where it has counted some is
//! there more to read, the handles of the rules of [`base`](super::base): a whole replacement writes them, and nothing else may, but for those of
//! established flows, which are read anew after they were written.
//! The kernel gives no handle twice in a table, and none of a table twice, so equal handles are the same rules.
//!
//! | done by somebody else | |
//! |---|---|
//! | table, base chain or its rules removed or flushed | seen |
//! | a rule put before ours, or a saved ruleset with a table `inet sluice` loaded | seen |
//! | elements of sets, rules of one pod's chain | not seen: whoever names these means them. The next change that meets them finds out. |

use std::collections::BTreeMap;

use super::inquiry::{self, attribute, is_text};
use super::netlink::{Error, Socket};
use super::transaction::TABLE;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_HANDLE: u16 = 4;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_GEN_ID: u16 = 1;

/// What somebody else did to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Harm {
    #[error("somebody else removed the kernel's table inet sluice: nothing is enforced until it is written anew")]
    Removed,
    #[error(
        "somebody else changed rules of the kernel's table inet sluice: what is enforced is not known until it is written anew"
    )]
    Altered,
}

/// The table and the rules in some of its chains, by their handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    table: Option<u64>,
    chains: BTreeMap<String, Vec<u64>>,
}

impl Rules {
    /// Asks the kernel, in the network namespace of `socket`.
    pub(super) fn read(socket: &mut Socket, chains: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        Self::read_of(socket, inquiry::NFPROTO_INET, chains)
    }

    /// As [`read`](Self::read), for the table of another family.
    pub(super) fn read_of(socket: &mut Socket, family: u8, chains: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let table = socket
            .dump(inquiry::dump_in(family, inquiry::GET_TABLE), |kind, body| {
                let is_ours = kind == inquiry::NEW_TABLE && body.first() == Some(&family);
                let name = attribute(body, NFTA_TABLE_NAME)?;
                (is_ours && is_text(name, TABLE)).then(|| number(body, NFTA_TABLE_HANDLE)).flatten()
            })?
            .pop();
        let mut read = BTreeMap::new();
        for chain in chains {
            let request = inquiry::dump_of(family, inquiry::GET_RULE, NFTA_RULE_TABLE, NFTA_RULE_CHAIN, Some(&chain));
            let rules = socket.dump(request, |kind, body| {
                let (table, of) = (attribute(body, NFTA_RULE_TABLE)?, attribute(body, NFTA_RULE_CHAIN)?);
                let is_asked = kind == inquiry::NEW_RULE && is_text(table, TABLE) && is_text(of, &chain);
                is_asked.then(|| number(body, NFTA_RULE_HANDLE)).flatten()
            })?;
            read.insert(chain, rules);
        }
        Ok(Self { table, chains: read })
    }

    /// Whether each chain has as many rules as were written.
    pub(super) fn are_as_many(&self, written: &BTreeMap<String, usize>) -> bool {
        let counts = self.chains.iter().map(|(chain, rules)| (chain, rules.len()));
        self.table.is_some() && counts.eq(written.iter().map(|(chain, count)| (chain, *count)))
    }

    /// No table, or no rules in these chains.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_none() || self.chains.values().all(Vec::is_empty)
    }

    /// Some of the chains as they are now.
    pub(super) fn update(&mut self, some: Self) {
        self.chains.extend(some.chains);
    }

    pub(super) fn chains(&self) -> impl Iterator<Item = String> {
        self.chains.keys().cloned()
    }

    /// What makes `now` differ from these.
    pub(super) fn harm(&self, now: &Self) -> Option<Harm> {
        match now.table {
            _ if self == now => None,
            None => Some(Harm::Removed),
            Some(_) => Some(Harm::Altered),
        }
    }
}

/// The number of the ruleset's state: another one after each change by anybody in the network namespace.
pub(super) fn generation(socket: &mut Socket) -> Result<Option<u32>, Error> {
    socket.answered(inquiry::request(inquiry::GET_GENERATION), |kind, body| {
        let id = attribute(body, NFTA_GEN_ID).filter(|_| kind == inquiry::NEW_GENERATION)?;
        Some(u32::from_be_bytes(*id.first_chunk()?))
    })
}

fn number(body: &[u8], wanted: u16) -> Option<u64> {
    inquiry::number(attribute(body, wanted)?)
}
