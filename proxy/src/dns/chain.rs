//! The names that a question goes through to its addresses: CNAMEs, and of service bindings their aliases (RFC 9460 section 2.4.2).

use std::collections::HashMap;

use hickory_proto::op::Message;
use hickory_proto::rr::{DNSClass, Name, RData, Record, rdata::SVCB};

use super::code::RecordType;
use super::wire::plain;

/// Aliases that are followed from a question. What is behind a longer chain is not reached.
pub const MOST_ALIASES: usize = 16;

/// Above it a TTL is taken for 0 (RFC 2181 section 8).
const MOST_TTL_SECONDS: u32 = 0x7fff_ffff;

/// Of an answer's records those that say where a name of the Internet leads, by their owners.
pub(super) struct Records<'a> {
    by_owner: HashMap<String, Vec<&'a Record>>,
    asked: RecordType,
}

/// A name of the chain.
pub(super) struct Link {
    pub(super) name: String,
    /// The least TTL of the aliases before it; `None` for the question.
    pub(super) ttl: Option<u32>,
}

impl<'a> Records<'a> {
    /// Those that a question of the type `asked` may believe. What else is known of a service comes beside its records (RFC 9460
    /// section 4.1), so of these questions alone the additional section counts.
    pub(super) fn of(message: &'a Message, asked: RecordType) -> Self {
        let beside = if is_service(asked) { &message.additionals[..] } else { &[] };
        let mut by_owner: HashMap<String, Vec<&Record>> = HashMap::new();
        for record in message.answers.iter().chain(beside) {
            let leads = matches!(record.data, RData::A(_) | RData::AAAA(_) | RData::CNAME(_) | RData::SVCB(_) | RData::HTTPS(_));
            if leads && record.dns_class == DNSClass::IN {
                by_owner.entry(plain_of(&record.name)).or_default().push(record);
            }
        }
        Self { by_owner, asked }
    }

    pub(super) fn of_owner(&self, name: &str) -> &[&'a Record] {
        self.by_owner.get(name).map_or(&[], Vec::as_slice)
    }

    /// The chain from the question on. It ends where a name has no alias, or more than one; where it comes back to itself; and where
    /// it becomes too long.
    pub(super) fn chain(&self, question: &str) -> Vec<Link> {
        let mut chain = vec![Link { name: question.to_owned(), ttl: None }];
        while let Some(end) = chain.last()
            && let Some((name, ttl)) = self.alias(&end.name)
            && chain.len() <= MOST_ALIASES
            && chain.iter().all(|link| link.name != name)
        {
            let ttl = end.ttl.map_or(ttl, |before| before.min(ttl));
            chain.push(Link { name, ttl: Some(ttl) });
        }
        chain
    }

    /// Where all aliases of the name lead, and the least of their TTLs.
    fn alias(&self, name: &str) -> Option<(String, u32)> {
        let records = self.of_owner(name);
        let mut canonical = records
            .iter()
            .filter_map(|record| match &record.data {
                RData::CNAME(to) => Some((&to.0, ttl(record))),
                _ => None,
            })
            .peekable();
        if canonical.peek().is_some() {
            return only(canonical);
        }
        // A target that is the root says that there is no such service.
        only(
            self.services(name)
                .filter(|(_, service)| service.svc_priority == 0)
                .map(|(ttl, service)| (&service.target_name, ttl)),
        )
        .filter(|(target, _)| !target.is_empty())
    }

    /// The name's bindings of the kind that was asked for. One alias among them takes the say from all others.
    pub(super) fn bindings(&self, name: &str) -> impl Iterator<Item = (u32, &'a SVCB)> {
        let aliased = self.services(name).any(|(_, service)| service.svc_priority == 0);
        self.services(name).filter(move |_| !aliased)
    }

    fn services(&self, name: &str) -> impl Iterator<Item = (u32, &'a SVCB)> {
        self.of_owner(name).iter().filter_map(|record| match &record.data {
            RData::SVCB(service) if self.asked == RecordType::SVCB => Some((ttl(record), service)),
            RData::HTTPS(service) if self.asked == RecordType::HTTPS => Some((ttl(record), &service.0)),
            _ => None,
        })
    }
}

/// The one target of these aliases. Of two nobody can say which one a client follows.
fn only<'a>(mut aliases: impl Iterator<Item = (&'a Name, u32)>) -> Option<(String, u32)> {
    let (target, mut least) = aliases.next()?;
    for (other, ttl) in aliases {
        if other != target {
            return None;
        }
        least = least.min(ttl);
    }
    Some((plain_of(target), least))
}

pub(super) fn is_service(asked: RecordType) -> bool {
    matches!(asked, RecordType::SVCB | RecordType::HTTPS)
}

pub(super) fn ttl(record: &Record) -> u32 {
    ttl_of(record.ttl)
}

pub(super) fn ttl_of(said: u32) -> u32 {
    if said > MOST_TTL_SECONDS { 0 } else { said }
}

fn plain_of(name: &Name) -> String {
    plain(name.iter())
}
