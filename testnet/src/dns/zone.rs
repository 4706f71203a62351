//! A zone as a test says it, and the zone file that a server reads.

use std::fmt::Write as _;
use std::net::IpAddr;

/// A zone. Every name is written whole, such as `api.github.com` in the zone `github.com`, without a dot at its end. The records
/// of its start, its name server and that one's addresses come by themselves.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: String,
    ttl: u32,
    records: Vec<ZoneRecord>,
}

#[derive(Clone, Debug)]
struct ZoneRecord {
    name: String,
    ttl: u32,
    kind: String,
    data: String,
}

/// The time to live of the records of a zone's start and name server.
const OWN_TTL: u32 = 300;
/// For how long a resolver may keep that a name isn't there.
const NEGATIVE_TTL: u32 = 1;

impl Zone {
    /// A zone with nothing in it. Records live for 300 s unless [`Zone::ttl`] says otherwise.
    pub fn new(origin: &str) -> Self {
        Self { origin: origin.to_owned(), ttl: OWN_TTL, records: Vec::new() }
    }

    /// The name of the zone.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The time to live, in seconds, of the records that are added from here on.
    #[must_use]
    pub fn ttl(mut self, seconds: u32) -> Self {
        self.ttl = seconds;
        self
    }

    /// One A or AAAA record for each address.
    #[must_use]
    pub fn addresses(self, name: &str, addresses: &[IpAddr]) -> Self {
        addresses.iter().fold(self, |zone, address| {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            zone.record(name, kind, &address.to_string())
        })
    }

    /// A CNAME record: `name` is another name for `of`, which may be in another zone.
    #[must_use]
    pub fn alias(self, name: &str, of: &str) -> Self {
        self.record(name, "CNAME", &format!("{of}."))
    }

    /// A TXT record of one string, of at most 255 bytes of ASCII.
    #[must_use]
    pub fn text(self, name: &str, text: &str) -> Self {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        self.record(name, "TXT", &format!("\"{quoted}\""))
    }

    /// An HTTPS record: priority, target (empty: `name` itself) and parameters as a zone file has them: `alpn=h2 ipv4hint=10.0.0.1`.
    #[must_use]
    pub fn https(self, name: &str, priority: u16, target: &str, parameters: &str) -> Self {
        self.record(name, "HTTPS", &format!("{priority} {target}. {parameters}"))
    }

    /// A SVCB record, as [`Zone::https`].
    #[must_use]
    pub fn svcb(self, name: &str, priority: u16, target: &str, parameters: &str) -> Self {
        self.record(name, "SVCB", &format!("{priority} {target}. {parameters}"))
    }

    /// Any other record: its type and its data as a zone file has them, names there with a dot at their end.
    #[must_use]
    pub fn record(mut self, name: &str, kind: &str, data: &str) -> Self {
        let (name, kind, data) = (name.to_owned(), kind.to_owned(), data.to_owned());
        self.records.push(ZoneRecord { name, ttl: self.ttl, kind, data });
        self
    }

    /// Without the records of `name`.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.records.retain(|record| record.name != name);
        self
    }

    /// The zone file, for a server at these addresses.
    pub(super) fn file(&self, serial: u32, servers: &[IpAddr]) -> String {
        let origin = &self.origin;
        let mut text = format!(
            "{origin}. {OWN_TTL} IN SOA ns.{origin}. hostmaster.{origin}. {serial} 3600 600 86400 {NEGATIVE_TTL}\n\
             {origin}. {OWN_TTL} IN NS ns.{origin}.\n"
        );
        for server in servers {
            let kind = if server.is_ipv4() { "A" } else { "AAAA" };
            let _ = writeln!(text, "ns.{origin}. {OWN_TTL} IN {kind} {server}");
        }
        for ZoneRecord { name, ttl, kind, data } in &self.records {
            let _ = writeln!(text, "{name}. {ttl} IN {kind} {data}");
        }
        text
    }
}
