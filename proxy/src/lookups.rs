//! Who judges pods' look-ups, and what becomes of what they teach.
//!
//! | the table says | the query |
//! |---|---|
//! | a rule allows it | goes to the server that was asked |
//! | no rule does, but it is a name of a rule with a search list's suffix behind it | NXDOMAIN at once: the resolver tries the next name |
//! | anything else | REFUSED, or NXDOMAIN by configuration, with the policy's name |
//!
//! What an answer teaches is this pod's alone, all of it: which rule takes which address of which name is the table's to say, for each
//! connection. A pod of two families asks by one of them about both, so each of its addresses is taught what it can connect to. The
//! kernel is told before the pod.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use sluice_policy::flow::{Flow, Protocol, Request};
use sluice_policy::{Reason, Table};
use tokio::sync::watch;

use crate::config::Config;
use crate::connection::Dataplane;
use crate::dns::service::{Asked, Fate, Judge, NotLearned, Ruling as DnsRuling, Transport};
use crate::dns::{Address, Answer, DenyWith, Kind, Rcode};
use crate::enforcer::Learner;
use crate::ident::Ids;
use crate::judge::{self, ClientAddr, Ends, OriginalDst, Ruling};
use crate::names::{Lesson, Moment, Names};
use crate::records::{DnsFacts, Record, RecordSink, RecordType, RecordVerdict, shortened};

/// Addresses that a record repeats.
const MOST_ADDRESSES: usize = 16;
/// Bytes of the text of an Extended DNS Error: more may not fit beside the question.
const MOST_TEXT_BYTES: usize = 300;

/// The judge of this node's look-ups.
#[derive(Debug)]
pub struct Lookups {
    node: Arc<str>,
    table: watch::Receiver<Arc<Table>>,
    names: Arc<Names>,
    learner: Learner,
    deny_with: DenyWith,
    records: RecordSink,
    metrics: LookupMetrics,
    ids: Ids,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    verdict: &'static str,
    reason: &'static str,
}

/// What is counted of look-ups.
#[derive(Clone, Debug)]
pub struct LookupMetrics {
    lookups: Family<Outcome, Counter>,
    upstream: Histogram,
    learning: Histogram,
}

impl LookupMetrics {
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("sluice_dns");
        let metrics = Self {
            lookups: Family::default(),
            upstream: Histogram::new(exponential_buckets(0.000_1, 4.0, 9)),
            learning: Histogram::new(exponential_buckets(0.000_02, 4.0, 9)),
        };
        let m = metrics.clone();
        registry.register("lookups", "Look-ups of pods, by what became of them", m.lookups);
        registry.register_with_unit("upstream", "Time that servers took to answer", Unit::Seconds, m.upstream);
        let help = "Time until the kernel held what an answer taught";
        registry.register_with_unit("learning", help, Unit::Seconds, m.learning);
        metrics
    }
}

impl Lookups {
    pub fn new(config: &Config, dataplane: &Dataplane, names: Arc<Names>, learner: Learner, metrics: LookupMetrics) -> Self {
        Self {
            node: Arc::clone(&dataplane.node),
            table: dataplane.table.clone(),
            names,
            learner,
            deny_with: config.dns.deny_with.into(),
            records: dataplane.records.clone(),
            metrics,
            ids: Ids::default(),
        }
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.borrow())
    }
}

/// The flow that a query is, as the engine judges it.
fn flow(asked: &Asked) -> Flow<'_> {
    let query = &asked.query;
    let request = match query.kind {
        Kind::LookUp => Request::Lookup { name: &query.name, kind: query.record_type.0 },
        Kind::Other => Request::Opaque,
    };
    Flow {
        source: asked.client.ip().to_canonical(),
        destination: asked.server.ip().to_canonical(),
        protocol: protocol(asked.transport),
        destination_port: asked.server.port(),
        icmp: None,
        names: &[],
        request: Some(request),
    }
}

const fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    }
}

impl Judge for Lookups {
    fn judge(&self, asked: &Asked) -> DnsRuling {
        let table = self.table();
        let flow = flow(asked);
        let verdict = table.verdict(&flow);
        if verdict.is_allowed() {
            return DnsRuling::Forward;
        }
        let ruling = Ruling::new(&table, &flow, &verdict);
        if ruling.reason == Reason::NoRuleMatched && table.is_suffixed(&flow) {
            return DnsRuling::NoSuchName;
        }
        DnsRuling::Refuse { with: self.deny_with, text: sentence(&table, asked, &ruling) }
    }

    async fn learn(&self, asked: &Asked, answer: &Answer) -> Result<(), NotLearned> {
        let client = asked.client.ip().to_canonical();
        let now = Moment::now();
        let table = self.table();
        let others = table.addresses_of_pod(client).filter(|own| *own != client);
        let lessons = [client].into_iter().chain(others).map(|own| self.names.learn(own, answer, now));
        let lessons = lessons.filter(|lesson| !lesson.is_empty());
        let (prolonging, lessons): (Vec<Lesson>, Vec<Lesson>) = lessons.partition(|lesson| lesson.prolongs);
        drop(table);
        for lesson in prolonging {
            self.learner.prolong(lesson);
        }
        self.learner.learn(lessons).await.map_err(NotLearned::Kernel)
    }

    fn learns_later(&self) -> bool {
        self.learner.is_late()
    }

    fn seen(&self, asked: &Asked, fate: &Fate) {
        let table = self.table();
        let flow = flow(asked);
        let verdict_by_now = table.verdict(&flow);
        let ruling = Ruling::new(&table, &flow, &verdict_by_now);
        let ends = Ends { protocol: flow.protocol, ..Ends::new(ClientAddr(asked.client), OriginalDst(asked.server)) };
        let mut record = Record::new(RecordType::Lookup, self.ids.next(), &self.node, &table, &ends);
        record.decided(&ruling);
        let (name, kind) = (shortened(&asked.query.name).into_owned(), asked.query.record_type);
        let mut facts = DnsFacts { name, kind, rcode: None, addresses: Vec::new(), ttl: None };
        let servfail = Some(Rcode::SERV_FAIL);
        // By the table of now it may be another answer than the one that was given.
        let (verdict, reason, rcode) = match fate {
            Fate::Answered { answer, upstream, learned } => {
                self.metrics.upstream.observe(upstream.as_secs_f64());
                if *learned > Duration::ZERO {
                    self.metrics.learning.observe(learned.as_secs_f64());
                }
                note(&mut facts, answer);
                let is_withheld = |address: &Address| {
                    let names = answer.names_of(address);
                    names.iter().any(|name| table.withholds(flow.source, name, address.ip))
                };
                let withheld = answer.addresses.iter().any(is_withheld);
                let reason = if withheld { Reason::PrivateAddress } else { ruling.reason };
                (RecordVerdict::Allow, reason, Some(answer.rcode))
            }
            Fate::Refused => (RecordVerdict::Deny, ruling.reason, Some(denied_with(self.deny_with))),
            Fate::NoSuchName => (RecordVerdict::Deny, Reason::SearchSuffix, Some(Rcode::NX_DOMAIN)),
            Fate::TimedOut | Fate::Unreachable => (RecordVerdict::Allow, Reason::NoAnswer, servfail),
            Fate::NotLearned { answer, .. } => {
                note(&mut facts, answer);
                (RecordVerdict::Deny, Reason::NotLearned, servfail)
            }
            Fate::TooManyInFlight => (RecordVerdict::Deny, Reason::TooManyConnections, servfail),
            Fate::IdInUse => (RecordVerdict::Deny, Reason::MalformedRequest, servfail),
            Fate::Abandoned => (RecordVerdict::Allow, Reason::Aborted, None),
        };
        facts.rcode = rcode;
        record.verdict = verdict;
        record.reason = reason;
        record.dns = Some(facts);
        record.lasted(asked.began.into_std());
        self.metrics.lookups.get_or_create(&Outcome { verdict: verdict.as_str(), reason: reason.as_str() }).inc();
        if let Some(audit) = table.audit(&flow, &verdict_by_now) {
            let mut audited = record.clone();
            audited.audited(ruling.decision, &audit);
            self.records.write(audited);
        }
        self.records.write(record);
    }
}

const fn denied_with(with: DenyWith) -> Rcode {
    match with {
        DenyWith::Refused => Rcode::REFUSED,
        DenyWith::NxDomain => Rcode::NX_DOMAIN,
    }
}

fn note(facts: &mut DnsFacts, answer: &Answer) {
    facts.addresses = answer.addresses.iter().take(MOST_ADDRESSES).map(|address| address.ip).collect();
    facts.ttl = answer.ttl_seconds;
}

/// `Sluice denied the look-up of evil.example (A) from shop/web: no egress rule of SluiceNetworkPolicy shop/p allows it`
fn sentence(table: &Table, asked: &Asked, ruling: &Ruling) -> String {
    let who = judge::who(table, asked.client.ip());
    let name = asked.query.name.get(..100).unwrap_or(&asked.query.name).escape_debug();
    let mut line = format!("Sluice denied the look-up of {name} ({}) from {who}", asked.query.record_type);
    line.push_str(&judge::because(ruling));
    line.truncate(line.floor_char_boundary(MOST_TEXT_BYTES));
    line
}
