//! The two ways to a new state of the table: a small change in one transaction, or everything anew under other names.

use std::time::{Duration, Instant};

use sluice_policy::Table;
use sluice_policy::table::Touched;

use super::channel::{self, ChannelError};
use super::counts::Former;
use super::delta::{self, Before};
use super::denied;
use super::harm::Rules;
use super::held::Held;
use super::names::{self, Edition};
use super::object::{Element, Family, concatenation, octets};
use super::revoke::Revocation;
use super::transaction::Transaction;
use super::{Applied, Error, Installed, Kernel, REVOKED_FOR, Stand, base, netlink, replace, told};

impl Kernel {
    pub(super) fn change(
        &mut self,
        table: &Table,
        touched: &Touched,
        revocations: &[Revocation],
        start: Instant,
    ) -> Result<Applied, Small> {
        let Some(installed) = self.installed.as_mut().filter(|installed| installed.is_certain) else {
            return Err(Small::Unfit);
        };
        let before = Before {
            table: &installed.table,
            programs: &installed.programs,
            bundles: &installed.bundles,
            edition: installed.edition,
            in_series: self.config.in_series,
            names: self.names_told.as_deref(),
        };
        let (mut transaction, changed) = delta::delta(&before, table, touched);
        let counted = if changed.is_empty() {
            None
        } else {
            counted(Former::of(&mut self.names, &installed.in_force(), changed.keys().copied()))
        };
        revoke(&mut transaction, revocations);
        let begins_cutting = !revocations.is_empty() && installed.cutting_until.is_none();
        if begins_cutting {
            write_established(&mut transaction, installed.edition, true);
        }
        if installed.stand != self.stand {
            write_stand(&mut transaction, self.stand);
        }
        let messages = transaction.into_messages();
        if messages.len() > self.channel.limit_bytes() {
            return Err(Small::Unfit);
        }
        self.channel.commit(&messages).map_err(|error| Small::Failed(error.into()))?;
        if !revocations.is_empty() {
            installed.cutting_until = Some(cutting_until());
        }
        if begins_cutting {
            installed.reread_established(&mut self.names).map_err(|error| Small::Failed(Error::Held(error)))?;
        }
        for (id, rendered) in changed {
            if let Some(former) = installed.programs.remove(&id) {
                former.bundles.iter().for_each(|bundle| installed.bundles.remove(bundle));
            }
            if let Some(rendered) = rendered {
                rendered.bundles.iter().for_each(|bundle| installed.bundles.insert(bundle));
                installed.programs.insert(id, rendered);
            }
        }
        installed.stand = self.stand;
        if !messages.is_empty() {
            // One commit, one state further, unless somebody else made one too. Tuples that are revoked already are no change.
            installed.seen = installed.seen.filter(|_| revocations.is_empty()).map(|seen| seen.wrapping_add(1));
        }
        installed.table = table.clone();
        if let Some(counted) = counted {
            self.former.take_over(counted, &installed.in_force());
        }
        Ok(Applied {
            whole: false,
            transactions: 1,
            messages: channel::count(&messages),
            bytes: messages.len(),
            elapsed: start.elapsed(),
        })
    }

    pub(super) fn replace(&mut self, table: &Table, revocations: &[Revocation], start: Instant) -> Result<Applied, Error> {
        let held = Held::read(&mut self.names).map_err(Error::Held)?;
        let edition = Edition::unused(held.names()).ok_or(Error::Crowded)?;
        let counted = match &self.installed {
            Some(installed) => counted(Former::of_all(&mut self.names, &installed.in_force())),
            None => None,
        };
        let uplinks = self.uplinks(table)?;
        // Those of a former process too.
        let cutting = held.revoked || !revocations.is_empty();
        let mut replacement = replace::replacement(&self.config, table, &uplinks, &held, edition, cutting);
        if let Some(names) = &self.names_told {
            told::fill(&mut replacement.fill, table, |id| replacement.programs.get(&id), names, |_, _| true);
        }
        // Any pod may have opened any number of flows, so they don't belong into the transaction that can't be split: closed a moment
        // early, they are closed.
        revoke(&mut replacement.fill, revocations);
        if self.installed.is_none() {
            // Elements keep the limit that they began with, and the configuration may be another one since.
            for set in denied::sets(&self.config) {
                replacement.switch.flush_set(&set.name);
            }
        }
        write_stand(&mut replacement.switch, self.stand);
        let lists = [replacement.fill, replacement.switch, replacement.sweep].map(Transaction::into_messages);
        let limit = self.channel.limit_bytes();
        let bytes = lists.iter().map(Vec::len).sum();
        let messages = lists.iter().map(|list| channel::count(list)).sum();
        let [fill, switch, sweep] = &lists;
        let whole;
        let (until_switch, after): (Vec<&[u8]>, Vec<&[u8]>) = if bytes <= limit {
            whole = lists.concat();
            (vec![&whole], Vec::new())
        } else {
            let mut until_switch = channel::split(fill, limit);
            until_switch.push(switch);
            (until_switch, channel::split(sweep, limit))
        };
        let transactions = until_switch.len() + after.len();
        for (number, part) in until_switch.iter().enumerate() {
            if let Err(error) = self.channel.commit(part) {
                // A switch whose answer was not read may have been made; then this edition is the one in force.
                if number > 0 && !(number + 1 == until_switch.len() && matches!(error, ChannelError::Receive(_))) {
                    self.sweep_unfinished(edition);
                }
                return Err(error.into());
            }
        }
        // The new generation is in force. What can't be swept now leads nowhere, and the next replacement tries again.
        for part in after {
            if let Err(error) = self.channel.commit(part) {
                tracing::warn!(%error, "remains of the former generation stay in the kernel's table");
                break;
            }
        }
        let written = base::rule_counts(&self.config, edition, cutting);
        let rules = Rules::read(&mut self.names, written.keys().cloned()).map_err(Error::Held)?;
        if !rules.are_as_many(&written) {
            return Err(Error::Meddled);
        }
        let (programs, bundles) = (replacement.programs, replacement.bundles);
        let (table, stand, cutting_until) = (table.clone(), self.stand, cutting.then(cutting_until));
        self.installed = Some(Installed {
            table,
            programs,
            bundles,
            edition,
            uplinks,
            rules,
            stand,
            cutting_until,
            diverts: self.config.diverts,
            seen: None,
            is_certain: true,
        });
        if let (Some(counted), Some(installed)) = (counted, &self.installed) {
            self.former.take_over(counted, &installed.in_force());
        }
        Ok(Applied { whole: true, transactions, messages, bytes, elapsed: start.elapsed() })
    }

    /// Removes an edition that was filled in part and never switched to. What stays is left to the next replacement that is made.
    fn sweep_unfinished(&mut self, edition: Edition) {
        let limit = self.channel.limit_bytes();
        let swept = Held::read(&mut self.names).map_err(Error::Held).and_then(|held| {
            let sweep = replace::sweep(&held, |name| edition.owns(name)).into_messages();
            channel::split(&sweep, limit).into_iter().try_for_each(|part| Ok(self.channel.commit(part)?))
        });
        if let Err(error) = swept {
            tracing::warn!(error = crate::error_chain(&error), "remains of a failed replacement stay in the kernel's table");
        }
    }
}

/// Why a small change was not made.
pub(super) enum Small {
    /// It doesn't fit into one transaction, or what it would change is not known for certain.
    Unfit,
    Failed(Error),
}

fn counted(counted: Result<Former, netlink::Error>) -> Option<Former> {
    counted.inspect_err(|error| tracing::warn!(error = crate::error_chain(error), "what rules have counted is lost")).ok()
}

/// When the last of the tuples that are revoked now has vanished.
fn cutting_until() -> Instant {
    Instant::now() + REVOKED_FOR + Duration::from_secs(1)
}

pub(super) fn write_established(transaction: &mut Transaction, edition: Edition, cutting: bool) {
    for chain in base::established(edition, cutting) {
        transaction.flush_chain(&chain.name);
        transaction.add_rules(&chain.name, &chain.rules);
    }
}

fn write_stand(transaction: &mut Transaction, stand: Option<Stand>) {
    transaction.flush_set(names::STAND);
    if let Some(stand) = stand {
        transaction.add_elements(names::STAND, &[Element::plain(stand.key())]);
    }
}

/// Closes the tuples, both ways round.
fn revoke(transaction: &mut Transaction, revocations: &[Revocation]) {
    let timeout_ms = u64::try_from(REVOKED_FOR.as_millis()).expect("a minute fits");
    for family in Family::BOTH {
        let tuples = revocations.iter().filter(|r| Family::of(r.source.0) == family && Family::of(r.destination.0) == family);
        let elements: Vec<Element> = tuples
            .flat_map(|r| [(r.source, r.destination), (r.destination, r.source)].map(|ends| (r.protocol, ends)))
            .map(|(protocol, ((from, from_port), (to, to_port)))| {
                let (from, to) = (octets(from), octets(to));
                let key = concatenation([&[protocol.number()][..], &from, &from_port.to_be_bytes(), &to, &to_port.to_be_bytes()]);
                Element { timeout_ms: Some(timeout_ms), ..Element::plain(key) }
            })
            .collect();
        transaction.add_elements(&names::revoked(family), &elements);
    }
}
