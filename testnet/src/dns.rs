//! DNS on the network: servers that know zones, resolvers with caches, servers that lie, and clients of every kind.
//!
//! ```text
//!   a pod's program ---- /etc/resolv.conf ---->  Resolver (unbound)  ---- its zones ---->  Authority (nsd)
//!   Client, dig, Socket, Stream                  or Scripted: what a test says             from Zones; changed as it runs
//! ```
//!
//! All of it is inside namespaces, so no question ever leaves the machine: names that no zone has aren't there. nsd, unbound, dig
//! and musl-gcc are Debian's packages nsd, unbound, bind9-dnsutils and musl-tools; their services aren't used.
//!
//! ```no_run
//! # use std::net::IpAddr;
//! # use sluice_testnet::{Net, dns::*};
//! # fn ip(text: &str) -> IpAddr { text.parse().unwrap() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let net = Net::new()?;
//! # let node = net.add_node("node-1", &[])?;
//! # let pod = |name, address| net.add_pod(&node, name, &[ip(address)]);
//! let (knows, caches, asks) = (pod("dns/nsd", "10.0.0.1")?, pod("dns/unbound", "10.0.0.2")?, pod("shop/web", "10.0.0.3")?);
//! let zone = Zone::new("example.test").ttl(30).addresses("www.example.test", &[ip("192.0.2.1")]);
//! let mut authority = Authority::start(knows.ns(), &knows.addresses(), [zone])?;
//! let options = ResolverOptions::at(authority.addresses(), &["example.test"]);
//! let resolver = Resolver::start(caches.ns(), &caches.addresses(), &options)?;
//!
//! let files = ResolvConf::of_cluster(ip("10.0.0.2"), "shop");
//! let found = Client::Musl.look_up(asks.ns(), &files, &Lookup::and_connect("www.example.test", 443))?;
//! assert_eq!(found.sorted(), ["192.0.2.1"]);
//! authority.change("example.test", |zone| zone.without("www.example.test"))?;
//! resolver.forget()?;                                     // until then it answers from its cache
//! let answer = dig(asks.ns(), (ip("10.0.0.2"), 53).into(), "www.example.test", "A", &["+tcp"])?.answer();
//! assert_eq!(answer.status, "NXDOMAIN");
//!
//! // Late, and once more from another port with another id.
//! let liar = Scripted::start(knows.ns(), &[(ip("10.0.0.1"), 5353).into()], |query| {
//!     let Some(asked) = query.message() else { return Vec::new() };
//!     let right = asked.reply().answer(Record::address("www.example.test", 60, ip("192.0.2.9")));
//!     let wrong = Message { id: right.id ^ 1, ..right.clone() };
//!     let late = std::time::Duration::from_millis(300);
//!     vec![Reply::message(&right).after(late), Reply::message(&wrong).from((ip("10.0.0.1"), 5354).into())]
//! })?;
//! # Ok(()) }
//! ```

mod authority;
mod dig;
mod lookup;
mod resolv_conf;
mod resolver;
mod scripted;
mod server;
mod socket;
mod wire;
mod zone;

pub use authority::Authority;
pub use dig::{DigAnswer, DigRecord, Dug, dig};
pub use lookup::{Client, Family, Found, Lookup};
pub use resolv_conf::ResolvConf;
pub use resolver::{Resolver, ResolverOptions};
pub use scripted::{Query, Reply, Scripted, Transport};
pub use socket::{Datagram, Socket, Stream, forge};
pub use wire::{Data, Kind, Message, Question, Record};
pub use zone::Zone;
