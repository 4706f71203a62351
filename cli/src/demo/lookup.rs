//! The pods' look-ups: one question, and what was answered by whom.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sluice_policy::Protocol;
use sluice_testnet::Netns;
use sluice_testnet::dns::{Kind, Message, Socket, Stream};

/// The port of DNS.
pub(super) const PORT: u16 = 53;
/// Addresses of an answer that are shown.
const SHOWN: usize = 2;

/// An answer that came.
#[derive(Clone, Debug)]
pub(super) struct Told {
    answer: Message,
}

/// Asks `server` once; `None`: nothing came in time.
pub(super) fn ask(
    ns: &Netns,
    server: SocketAddr,
    protocol: Protocol,
    name: &str,
    kind: u16,
    patience: Duration,
) -> io::Result<Option<Told>> {
    let bytes = if protocol == Protocol::Tcp {
        let exchange = || {
            let mut stream = Stream::open(ns, server, patience)?;
            stream.send(&[Message::query(1, name, Kind(kind)).edns(1232)])?;
            stream.receive()
        };
        match exchange() {
            Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => None,
            received => Some(received?),
        }
    } else {
        Socket::open(ns, server)?.ask(name, Kind(kind), patience)?.map(|datagram| datagram.bytes)
    };
    let Some(bytes) = bytes else { return Ok(None) };
    let answer = Message::parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer that is no DNS"))?;
    Ok(Some(Told { answer }))
}

/// The first address of `name`, of IPv6 or IPv4, by the scene's resolvers; none where nobody says one.
pub(super) fn resolve(ns: &Netns, resolvers: &[IpAddr], name: &str, is_ipv6: bool, patience: Duration) -> Option<IpAddr> {
    let kind = if is_ipv6 { Kind::AAAA } else { Kind::A };
    let asked =
        |resolver: &IpAddr| ask(ns, SocketAddr::new(*resolver, PORT), Protocol::Udp, name, kind.0, patience).ok().flatten();
    resolvers.iter().find_map(asked).and_then(|told| told.answer.addresses().first().copied())
}

impl Told {
    /// Whether the scene's own server said it: the look-up was allowed.
    pub(super) fn is_of_server(&self) -> bool {
        self.answer.authoritative
    }

    /// `140.82.112.5, TTL 60`, or the word for why there is no address.
    pub(super) fn in_words(&self) -> String {
        let addresses = self.answer.addresses();
        if addresses.is_empty() {
            return match self.answer.rcode {
                0 => "no address".to_owned(),
                2 => "SERVFAIL".to_owned(),
                3 => "NXDOMAIN".to_owned(),
                5 => "REFUSED".to_owned(),
                other => format!("RCODE {other}"),
            };
        }
        let mut words: Vec<String> = addresses.iter().take(SHOWN).map(ToString::to_string).collect();
        if addresses.len() > SHOWN {
            words.push(format!("{} more", addresses.len() - SHOWN));
        }
        words.extend(self.answer.answers.iter().map(|record| record.ttl).min().map(|ttl| format!("TTL {ttl}")));
        words.join(", ")
    }

    /// The text of the Extended DNS Error (RFC 8914).
    pub(super) fn why(&self) -> Option<String> {
        self.answer.extended_errors().into_iter().map(|(_, text)| text).find(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use sluice_testnet::dns::Record;

    use super::*;

    #[test]
    fn answers_are_told_in_a_few_words() {
        let query = Message::query(1, "a.example", Kind::A);
        let with = |count: u8| {
            let record = |last| Record::address("a.example", 60 - u32::from(last), IpAddr::from([192, 0, 2, last]));
            Message { answers: (1..=count).map(record).collect(), ..query.reply() }
        };
        let refused = Message { rcode: 5, ..query.reply().extended_error(15, "Sluice denied it") };
        for (answer, expected, why) in [
            (with(0), "no address", None),
            (with(1), "192.0.2.1, TTL 59", None),
            (with(2), "192.0.2.1, 192.0.2.2, TTL 58", None),
            (with(4), "192.0.2.1, 192.0.2.2, 2 more, TTL 56", None),
            (refused, "REFUSED", Some("Sluice denied it")),
        ] {
            let told = Told { answer };
            assert_eq!((told.in_words().as_str(), told.why().as_deref()), (expected, why));
        }
    }
}
