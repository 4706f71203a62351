//! The scene's name servers: they answer for all of the scene's names to whoever asks, so that whatever a look-up is refused was not
//! their doing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use sluice_policy::source::plain_name;
use sluice_testnet::dns::{Kind, Message, Query, Record, Reply, Scripted};
use sluice_testnet::{Error, Netns};

/// How long the addresses of the scene's names may be kept, in seconds.
const TTL: u32 = 60;
/// No such name (RFC 1035, section 4.1.1).
const NX_DOMAIN: u8 = 3;

/// Answers by UDP and TCP on these addresses of `ns` until it is dropped. Names are plain.
pub(super) fn serve(ns: &Netns, addresses: &[SocketAddr], names: &BTreeMap<String, Vec<IpAddr>>) -> Result<Scripted, Error> {
    let names = names.clone();
    Scripted::start(ns, addresses, move |query: &Query| match query.message() {
        Some(question) => vec![Reply::message(&answer(&question, &names))],
        None => Vec::new(),
    })
}

/// Every answer says that it comes from who knows (AA), which no answer of Sluice's own does.
fn answer(question: &Message, names: &BTreeMap<String, Vec<IpAddr>>) -> Message {
    let mut reply = question.reply();
    reply.authoritative = true;
    let Some(asked) = question.questions.first() else { return reply };
    match names.get(&plain_name(&asked.name)) {
        Some(addresses) => {
            let of_type = |ip: &&IpAddr| asked.kind == if ip.is_ipv4() { Kind::A } else { Kind::AAAA };
            reply.answers = addresses.iter().filter(of_type).map(|ip| Record::address(&asked.name, TTL, *ip)).collect();
        }
        None => reply.rcode = NX_DOMAIN,
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_addresses_of_the_type_asked_for() {
        let names = BTreeMap::from([("a.example".to_owned(), vec!["192.0.2.1".parse().unwrap()])]);
        for (name, kind, rcode, addresses) in [
            ("A.example", Kind::A, 0, 1),
            ("a.example", Kind::AAAA, 0, 0),
            ("a.example", Kind::TXT, 0, 0),
            ("b.example", Kind::A, NX_DOMAIN, 0),
        ] {
            let reply = answer(&Message::query(7, name, kind), &names);
            assert_eq!((reply.id, reply.rcode, reply.addresses().len()), (7, rcode, addresses), "{name} {kind:?}");
            assert!(reply.authoritative && reply.answers.iter().all(|record| record.ttl == TTL));
        }
    }
}
