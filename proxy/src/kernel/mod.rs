//! The node's kernel rules: one table `inet sluice` that says of each flow of a pod accept, drop, reject, or hand it to the
//! proxy.
//!
//! The table outlives the process: what it forbids stays forbidden while the proxy restarts, and flows that need the proxy are
//! closed without it. [`Kernel`] writes it from [`sluice_policy::Table`]s, each generation as one atomic change.
//!
//! | module | |
//! |---|---|
//! | [`base`] | the chains that every packet meets, and the attack that each rule closes |
//! | [`denied`], [`site`], [`ration`] | where a packet is denied: counted, reported, dropped |
//! | [`nflog`], [`tally`] | the reports, and the counters |
//! | [`program`] | the rules of one kind of pod in one direction |
//! | [`bundle`] | many of them as few look-ups |
//! | [`address`] | what the sets and maps hold of one address |
//! | [`replace`], [`delta`] | the transactions: a whole new state, or what differs |
//! | [`object`], [`expr`], [`names`], [`comment`] | the vocabulary, plain data |
//! | [`transaction`], [`channel`], [`inquiry`], [`held`] | libnftnl, the sockets, and what the kernel holds |
//! | [`counts`] | what the rules have matched |
//! | [`harm`] | whether somebody else has taken the rules away |
//! | [`stand`] | of which of the controller's tables the rules are |
//! | [`others`] | what other programs' rules do to flows that go through the proxy |
//! | [`path`] | whether the pods' packets come by here at all |
//! | [`write`] | the two ways to a new state: a small change, or everything anew |
//! | [`uplinks`] | which interfaces lead away from the node |
//! | [`told`] | which addresses names have, for each pod |
//! | [`conntrack`], [`revoke`] | live flows, and which of them a new table ends |
//! | [`routes`] | policy routing for the proxy's sockets |
//! | [`bridge`] | pods on bridges: tables `bridge sluice` and `netdev sluice`, and filters at their ports |

mod address;
mod base;
pub mod bridge;
mod bundle;
mod channel;
mod comment;
mod config;
pub mod conntrack;
mod counts;
mod delta;
mod denied;
mod expr;
mod harm;
mod held;
mod inquiry;
mod names;
mod netlink;
pub mod nflog;
mod object;
pub mod others;
pub mod path;
mod pretence;
mod program;
mod ration;
mod replace;
pub mod revoke;
pub mod routes;
mod rtnl;
mod site;
mod stand;
pub mod tally;
mod told;
mod transaction;
mod uplinks;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_policy::Table;
use sluice_policy::snapshot::ProgramId;
use sluice_policy::table::Touched;

use bundle::Index;
use channel::Channel;
use counts::{Former, InForce};
use harm::Rules;
use held::Held;
use names::Edition;
use program::Rendered;
use revoke::Revocation;
use transaction::Transaction;
use write::{Small, write_established};

use crate::names::Names;

pub use channel::ChannelError;
pub use config::{Config, ConfigError, DEFAULT_HOOK_PRIORITY, Deny, Log, Mark, extends_elements};
pub use counts::{Count, CountedAction};
pub use harm::Harm;
pub use netlink::Error as NetlinkError;
#[cfg(test)]
pub(crate) use netlink::no_namespaces;
pub use site::{Budget, Site, Subject};
pub use stand::{Left, Stand};

/// How long a revoked tuple is closed: longer than its peers go on trying on it.
const REVOKED_FOR: Duration = Duration::from_secs(60);

/// Why the kernel doesn't hold what it should. What it held before is in force.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration of the kernel's part")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("ask the kernel what table inet sluice holds")]
    Held(#[source] netlink::Error),
    #[error("table inet sluice was changed by somebody else while it was written")]
    Meddled,
    #[error("remains of 26 failed replacements fill table inet sluice, and can't be removed")]
    Crowded,
    #[error("find the node's interfaces")]
    Interfaces(#[source] std::io::Error),
    #[error("remove policy routing")]
    Routes(#[from] routes::Error),
    #[error(transparent)]
    Bridges(#[from] bridge::Error),
}

/// The table `inet sluice` of one network namespace, and what is known of its contents.
#[derive(Debug)]
pub struct Kernel {
    config: Config,
    channel: Channel,
    names: netlink::Socket,
    /// What pods were told of names.
    names_told: Option<Arc<Names>>,
    /// What the next change writes beside the rules, so that a successor can tell an older table from this one.
    stand: Option<Stand>,
    /// Bridges that aren't pods', by name.
    foreign_bridges: BTreeSet<String>,
    /// What this process put in force last. `None` until the first time.
    installed: Option<Installed>,
    /// What rules of this process counted that were written anew.
    former: Former,
}

#[derive(Debug)]
struct Installed {
    table: Table,
    programs: BTreeMap<ProgramId, Rendered>,
    bundles: Index,
    edition: Edition,
    uplinks: BTreeSet<String>,
    /// Those of the chains that only a whole replacement writes.
    rules: Rules,
    stand: Option<Stand>,
    /// Until when there may be revoked tuples, so that established flows' packets are looked up among them.
    cutting_until: Option<Instant>,
    /// Whether flows are handed to the proxy.
    diverts: bool,
    /// The ruleset's state in which `rules` were seen last.
    seen: Option<u32>,
    /// After an error the next change replaces everything.
    is_certain: bool,
}

impl Installed {
    fn in_force(&self) -> InForce<'_> {
        InForce { table: &self.table, programs: &self.programs }
    }

    /// After the chains of established flows were written anew.
    fn reread_established(&mut self, names: &mut netlink::Socket) -> Result<(), netlink::Error> {
        let chains = base::established(self.edition, false).map(|chain| chain.name);
        let reread = Rules::read(names, chains).inspect_err(|_| self.is_certain = false)?;
        self.rules.update(reread);
        Ok(())
    }
}

/// What a change took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Everything was written anew.
    pub whole: bool,
    /// 1, but for a replacement that does not fit into one.
    pub transactions: usize,
    pub messages: usize,
    pub bytes: usize,
    pub elapsed: Duration,
}

/// What [`Kernel::cleanup`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// There was a table.
    pub table: bool,
    /// There was something on bridges.
    pub bridges: bool,
}

impl Kernel {
    /// Opens the table of the calling thread's network namespace. One that a former process left stays in force as it is until
    /// the first [`apply`](Self::apply), which replaces it without a gap.
    pub fn open(config: Config) -> Result<Self, Error> {
        config.check()?;
        let channel = Channel::open()?;
        let mut names = Held::socket().map_err(Error::Held)?;
        Held::read(&mut names).map_err(Error::Held)?;
        let foreign_bridges = BTreeSet::new();
        let former = Former::default();
        Ok(Self { config, channel, names, names_told: None, stand: None, foreign_bridges, installed: None, former })
    }

    /// What was there before this process put anything in force. A table without rules, which a replacement that was never
    /// finished leaves, is nothing.
    pub fn left(&mut self) -> Result<Left, Error> {
        let rules = Rules::read(&mut self.names, [names::PREROUTING.to_owned()]).map_err(Error::Held)?;
        if rules.is_empty() {
            return Ok(Left::Nothing);
        }
        held::stand(&mut self.names).map(Left::Rules).map_err(Error::Held)
    }

    /// Which of the controller's tables the next changes put in force.
    pub fn set_stand(&mut self, stand: Stand) {
        self.stand = Some(stand);
    }

    /// Which of the controller's tables this process put in force last.
    pub fn stand(&self) -> Option<Stand> {
        self.installed.as_ref().and_then(|installed| installed.stand)
    }

    /// The next change puts what is in force there once more.
    pub fn keep_stand(&mut self) {
        if let Some(installed) = &self.installed {
            self.stand = installed.stand;
        }
    }

    /// Puts `table` in force, in one atomic change. `touched` is what differs from the table that was applied last; `None` writes
    /// everything anew. `revocations` are closed in the same change.
    ///
    /// Runs in the network namespace that [`open`](Self::open) ran in, of which it looks up the interfaces. On an error the
    /// former generation stays in force, and the next change replaces everything.
    pub fn apply(&mut self, table: &Table, touched: Option<&Touched>, revocations: &[Revocation]) -> Result<Applied, Error> {
        let start = Instant::now();
        self.config.audits = table.has_audit();
        self.config.looks_up = table.diverts_lookups();
        // Rules of the base chains, which a small change doesn't write.
        let of_base = |table: &Table| (table.has_audit(), table.diverts_lookups());
        let base_alike = self.installed.as_ref().is_none_or(|installed| of_base(&installed.table) == of_base(table));
        if let Some(touched) = touched.filter(|touched| !touched.node && base_alike) {
            match self.change(table, touched, revocations, start) {
                Ok(applied) => return Ok(applied),
                Err(Small::Unfit) => {}
                // Somebody else wrote into the table, or what we believe of it is wrong: write everything anew.
                Err(Small::Failed(error)) => tracing::warn!(%error, "a change of the kernel's table failed: replacing it"),
            }
        }
        if let Some(installed) = &mut self.installed {
            installed.is_certain = false;
        }
        let refused = match self.replace(table, revocations, start) {
            Err(Error::Channel(error @ ChannelError::Refused { .. })) if self.config.log.is_some() => error,
            replaced => return replaced,
        };
        // A kernel without log rules, or another version's sets in their place: what shall be enforced does not wait for that.
        let log = self.config.log.take();
        let replaced = self.replace(table, revocations, start);
        self.config.log = log;
        if replaced.is_ok() {
            let error = crate::error_chain(&refused);
            tracing::warn!("the kernel refuses rules that report, so what it denies gets no records: {error}");
        }
        replaced.map_err(|_| refused.into())
    }

    /// Whether flows are handed to the proxy from the next change on, which then writes everything anew; else they are denied.
    pub fn set_diverts(&mut self, diverts: bool) {
        self.config.diverts = diverts;
        if let Some(installed) = self.installed.as_mut().filter(|installed| installed.diverts != diverts) {
            installed.is_certain = false;
        }
    }

    /// Whether what is in force hands flows to the proxy; `None` before the first table.
    pub fn diverts(&self) -> Option<bool> {
        self.installed.as_ref().map(|installed| installed.diverts)
    }

    /// How often this has changed the node's ruleset.
    pub fn own_changes(&self) -> u32 {
        self.channel.commits()
    }

    /// The table that this process put in force last.
    pub fn in_force(&self) -> Option<&Table> {
        self.installed.as_ref().map(|installed| &installed.table)
    }

    /// What the rules of the table in force have matched since this process began, in the order of their names.
    pub fn counts(&mut self) -> Result<Vec<Count>, Error> {
        let Some(installed) = &self.installed else { return Ok(Vec::new()) };
        self.former.counts(&mut self.names, &installed.in_force()).map_err(Error::Held)
    }

    /// Looks whether somebody else took the rules away that every packet meets. What was found stays so until an
    /// [`apply`](Self::apply), which then writes everything anew. Cheap where nobody changed the node's ruleset.
    pub fn harm(&mut self) -> Result<Option<Harm>, Error> {
        let Some(installed) = &mut self.installed else {
            return Ok(None);
        };
        // Before the rules: what changes after this is found by the next look.
        let generation = harm::generation(&mut self.names).map_err(Error::Held)?;
        if generation.is_some() && generation == installed.seen {
            return Ok(None);
        }
        let now = Rules::read(&mut self.names, installed.rules.chains()).map_err(Error::Held)?;
        let harm = installed.rules.harm(&now);
        match harm {
            None => installed.seen = generation,
            Some(_) => installed.is_certain = false,
        }
        Ok(harm)
    }

    /// Looks again which interfaces lead away from the node; writes everything anew if they differ. An interface that appears
    /// later than the last whole replacement and isn't an uplink by its kind is taken for a pod's until then. After an error the
    /// next call tries again.
    pub fn refresh_uplinks(&mut self) -> Result<Option<Applied>, Error> {
        let Some(installed) = &self.installed else {
            return Ok(None);
        };
        if self.uplinks(&installed.table)? == installed.uplinks {
            return Ok(None);
        }
        let table = installed.table.clone();
        self.keep_stand();
        self.apply(&table, None, &[]).map(Some)
    }

    /// Bridges behind which there are no pods: as if they were uplinks. Whether they are others than before; then
    /// [`refresh_uplinks`](Self::refresh_uplinks) puts it in force.
    pub fn set_foreign_bridges(&mut self, names: &BTreeSet<String>) -> bool {
        let is_new = self.foreign_bridges != *names;
        if is_new {
            self.foreign_bridges.clone_from(names);
        }
        is_new
    }

    /// Once no tuple is revoked any more, established flows' packets aren't looked up among them. To be called now and then.
    pub fn end_cutting(&mut self) -> Result<(), Error> {
        let Some(installed) = self.installed.as_mut().filter(|installed| installed.is_certain) else {
            return Ok(());
        };
        if installed.cutting_until.is_none_or(|until| Instant::now() < until) {
            return Ok(());
        }
        let mut transaction = Transaction::new();
        write_established(&mut transaction, installed.edition, false);
        self.channel.commit(&transaction.into_messages())?;
        installed.cutting_until = None;
        installed.reread_established(&mut self.names).map_err(Error::Held)?;
        installed.seen = installed.seen.map(|seen| seen.wrapping_add(1));
        Ok(())
    }

    /// Removes what Sluice put into the kernel: table, rules and routes. Nothing there is no error.
    pub fn cleanup() -> Result<Removed, Error> {
        let mut channel = Channel::open()?;
        let mut names = Held::socket().map_err(Error::Held)?;
        let held = Held::read(&mut names).map_err(Error::Held)?;
        if held.table {
            let mut transaction = Transaction::new();
            transaction.delete_table();
            channel.commit(&transaction.into_messages())?;
        }
        routes::remove()?;
        let bridges = bridge::Bridges::cleanup()?;
        Ok(Removed { table: held.table, bridges })
    }

    fn uplinks(&self, table: &Table) -> Result<BTreeSet<String>, Error> {
        let mut uplinks = uplinks::find(&table.node().ips, &self.config.uplinks).map_err(Error::Interfaces)?;
        uplinks.extend(self.foreign_bridges.iter().cloned());
        Ok(uplinks)
    }
}

#[cfg(test)]
mod tests;
