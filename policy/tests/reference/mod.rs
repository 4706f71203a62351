//! A naive judge of NetworkPolicy, ClusterNetworkPolicy and SluiceNetworkPolicy, to be read beside the API text and DESIGN.md section 3.
//!
//! It shares no code with the engine or with `sluice-crds`: its input is manifests as JSON, and for every question it reads all
//! of them again and tries every policy, rule, peer and port. It is slow, and meant to be obviously right.
//!
//! The semantics, row by row:
//!
//! | the API says | here |
//! |---|---|
//! | a pod no policy selects is not isolated | [`judge_half`]: `isolating` is empty |
//! | isolation is per direction, `policyTypes` has defaults | [`isolates`] |
//! | what any rule of any policy allows is allowed | [`judge_half`]: the union of [`matching`] |
//! | absent or empty `from`/`to`/`ports`: no restriction | [`read::list`] gives `None` |
//! | selectors match pods, never addresses | [`peer_matches`] |
//! | `ipBlock` matches addresses, pods' too | [`peer_matches`] |
//! | a named port is the destination pod's | [`port_matches`] |
//! | host-network and finished pods are no pods here | [`Cluster::pods`] |
//! | `nodeSelector` matches nodes' addresses, `serviceAccounts` pods by the name of theirs | [`peer_matches`] |
//! | `icmp` stands where ports stand | [`names::place_matches`] |
//! | `fqdns` matches addresses that names have, and on 80 and 443 connections for these names | [`names::Fqdns`] |
//! | `fqdns` allows or denies the look-up of its names | [`names::Fqdns::asked`] |
//! | `http`, `grpc`, `tls`, `dns` | [`l7::says`] |
//! | ClusterNetworkPolicy's tiers come before and behind | [`tiers`] |
//! | a pod reaches itself; a node reaches its own pods | [`judge`], [`judge_half`] |

mod l7;
mod names;
pub(crate) mod read;
mod tiers;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use self::read::{Action, Ports, Read, Term, Unreadable};

/// The objects of a cluster, as manifests; no two of one kind, namespace and name.
#[derive(Clone, Default)]
pub(crate) struct Cluster {
    pub(crate) objects: Vec<Value>,
    /// In UTC, `2027-01-31T00:00:00Z`; `None`: nothing expires.
    pub(crate) now: Option<String>,
    /// Whether Audit policies are in force too.
    pub(crate) audits: bool,
    /// Whether the server name of QUIC is looked at.
    pub(crate) inspects_quic: bool,
}

/// One object a line.
impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.objects.iter().try_for_each(|object| write!(f, "\n  {object}"))
    }
}

/// The first packet of a connection, and what was read of its contents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// `TCP`, `UDP`, `SCTP`; any other word is a protocol without ports.
    pub(crate) protocol: &'a str,
    pub(crate) port: u16,
    /// Type and code, of ICMP; without them it is an echo request.
    pub(crate) icmp: Option<(u8, u8)>,
    pub(crate) contents: Contents<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Contents<'a> {
    NotRead,
    /// Neither HTTP nor TLS.
    Other,
    Http(&'a Request),
    /// The server name that the client asks for.
    Tls(Option<&'a str>),
    /// A name as patterns are compared with it, and the number of a type of records.
    Lookup(&'a str, u16),
}

/// A request as the server gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) host: String,
    pub(crate) http2: bool,
    /// Line by line.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

/// In the order of strictness: a flow gets the stricter answer of its two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    Allow,
    L7,
    Deny,
}

/// What one end says, and everything that could be named as the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Half {
    pub(crate) answer: Answer,
    /// `NetworkPolicy ns/name ingress[0]` for each rule that gives this answer; `NetworkPolicy ns/name` for each policy that
    /// isolates where none allows. Empty where no policy has a say.
    pub(crate) causes: BTreeSet<String>,
    /// Whether only all of the causes together gave the answer.
    pub(crate) all: bool,
}

impl Half {
    fn silent(answer: Answer) -> Self {
        Self { answer, causes: BTreeSet::new(), all: true }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) egress: Half,
    pub(crate) ingress: Half,
}

impl Judgement {
    pub(crate) fn answer(&self) -> Answer {
        self.egress.answer.max(self.ingress.answer)
    }
}

/// A pod that policies can select: it has an address of its own, and is alive.
#[derive(Clone, Copy, Debug)]
struct Pod<'a> {
    manifest: &'a Value,
}

impl PartialEq for Pod<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.namespace() == other.namespace() && self.name() == other.name()
    }
}

impl<'a> Pod<'a> {
    fn namespace(self) -> &'a str {
        read::namespace(self.manifest)
    }

    fn name(self) -> &'a str {
        self.manifest["metadata"]["name"].as_str().unwrap_or_default()
    }

    fn has_address(self, ip: IpAddr) -> bool {
        let status = &self.manifest["status"];
        let list = status["podIPs"].as_array().into_iter().flatten().map(|entry| &entry["ip"]);
        list.chain([&status["podIP"]]).any(|text| read::address(text) == Some(ip))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    /// The field that lists the rules, the field of a rule that lists its peers, and the word in `policyTypes`.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Ingress => ("ingress", "from", "Ingress"),
            Self::Egress => ("egress", "to", "Egress"),
        }
    }
}

impl Cluster {
    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The policies in force: one that only audits neither allows nor isolates, and one that has expired is as if absent.
    fn policies(&self) -> impl Iterator<Item = &Value> {
        // The cluster's is refused where nobody can say whom it is about.
        let clusters = self.of_kind("SluiceClusterNetworkPolicy").filter(|policy| read::cluster_subject(policy).is_ok());
        let ours = self.of_kind("SluiceNetworkPolicy").chain(clusters);
        let ours = ours.filter(|policy| self.audits || policy["spec"]["enforcement"] != "Audit");
        // Times in one form and one zone are in the order of their texts.
        let is_over = |at: &str| self.now.as_deref().is_some_and(|now| at <= now);
        let ours = ours.filter(move |policy| !read::expires(policy).is_ok_and(|at| at.is_some_and(is_over)));
        self.of_kind("NetworkPolicy").chain(ours)
    }

    fn pods(&self) -> impl Iterator<Item = Pod<'_>> {
        self.of_kind("Pod")
            .filter(|pod| pod["spec"]["hostNetwork"] != true)
            .filter(|pod| !["Succeeded", "Failed"].map(Value::from).contains(&pod["status"]["phase"]))
            .map(|manifest| Pod { manifest })
    }

    /// The labels of a namespace, with the one that the API server gives to every namespace.
    fn namespace_labels(&self, name: &str) -> Vec<(String, String)> {
        let mut labels = self.of_kind("Namespace").find(|n| n["metadata"]["name"] == name).map(read::labels).unwrap_or_default();
        labels.retain(|(key, _)| key != "kubernetes.io/metadata.name");
        labels.push(("kubernetes.io/metadata.name".into(), name.into()));
        labels
    }

    /// Whether `ip` is an address of the node that `pod` runs on.
    fn is_own_node(&self, ip: IpAddr, pod: Pod<'_>) -> bool {
        let name = &pod.manifest["spec"]["nodeName"];
        !name.is_null() && self.of_kind("Node").any(|node| node["metadata"]["name"] == *name && has_address(node, ip))
    }
}

/// Whether `ip` is an address of `node` by which others know it.
fn has_address(node: &Value, ip: IpAddr) -> bool {
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    addresses
        .filter(|entry| entry["type"] == "InternalIP" || entry["type"] == "ExternalIP")
        .any(|entry| read::address(&entry["address"]) == Some(ip))
}

/// Judges one flow at both ends: the source's egress and the destination's ingress.
pub(crate) fn judge(cluster: &Cluster, question: &Question<'_>) -> Judgement {
    let holders = |ip| cluster.pods().filter(move |pod| pod.has_address(ip)).collect::<Vec<_>>();
    let (sources, destinations) = (holders(question.from), holders(question.to));
    // Whose address it is can't be told: either answer might be the wrong one.
    if sources.len() > 1 || destinations.len() > 1 {
        return Judgement { egress: Half::silent(Answer::Deny), ingress: Half::silent(Answer::Deny) };
    }
    let (source, destination) = (sources.first().copied(), destinations.first().copied());
    if source.is_some() && source == destination {
        return Judgement { egress: Half::silent(Answer::Allow), ingress: Half::silent(Answer::Allow) };
    }
    let half = |direction, subject, peer_ip, peer| {
        judge_half(&Case { cluster, question, direction, subject, peer_ip, peer, destination })
    };
    Judgement {
        egress: match source {
            None => Half::silent(Answer::Allow),
            Some(pod) => half(Direction::Egress, pod, question.to, destination),
        },
        ingress: match destination {
            None => Half::silent(Answer::Allow),
            Some(pod) if cluster.is_own_node(question.from, pod) => Half::silent(Answer::Allow),
            Some(pod) => half(Direction::Ingress, pod, question.from, source),
        },
    }
}

/// One end of one flow.
struct Case<'a> {
    cluster: &'a Cluster,
    question: &'a Question<'a>,
    direction: Direction,
    /// The pod whose policies judge.
    subject: Pod<'a>,
    /// The other end, and its pod if it is one.
    peer_ip: IpAddr,
    peer: Option<Pod<'a>>,
    destination: Option<Pod<'a>>,
}

fn judge_half(case: &Case<'_>) -> Half {
    if let Some(half) = tiers::judge(case, "Admin") {
        return half;
    }
    let isolating: Vec<&Value> = case
        .cluster
        .policies()
        .filter(|policy| selects(case.cluster, policy, case.subject) && isolates(policy, case.direction))
        .collect();
    if isolating.is_empty() {
        return tiers::judge(case, "Baseline").unwrap_or_else(|| Half::silent(Answer::Allow));
    }
    // Denies first: those that need no request, then those that do, whatever an allow says; then the allows, likewise.
    for (action, answer) in [(Action::Deny, Answer::Deny), (Action::Allow, Answer::Allow)] {
        let (mut sure, mut asking) = (BTreeSet::new(), BTreeSet::new());
        for (says, name) in isolating.iter().flat_map(|policy| matching(case, policy, action)) {
            match says {
                l7::Says::Yes(items) if items.is_empty() => sure.extend([name]),
                l7::Says::Yes(items) => sure.extend(items.into_iter().map(|item| format!("{name}.{item}"))),
                l7::Says::No => {}
                l7::Says::Ask => asking.extend([name]),
            }
        }
        if !sure.is_empty() {
            return Half { answer, causes: sure, all: false };
        }
        if !asking.is_empty() {
            return Half { answer: Answer::L7, causes: asking, all: false };
        }
    }
    Half { answer: Answer::Deny, causes: isolating.into_iter().map(title).collect(), all: true }
}

/// `NetworkPolicy production/backend`.
fn title(policy: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = if read::is_clusters(policy) { String::new() } else { format!("{}/", read::namespace(policy)) };
    format!("{} {namespace}{}", word(&policy["kind"]), word(&policy["metadata"]["name"]))
}

/// Whether `pod` is a subject of `policy`. A `podSelector` that can't be read selects the whole namespace.
fn selects(cluster: &Cluster, policy: &Value, pod: Pod<'_>) -> bool {
    if read::is_clusters(policy) {
        return read::cluster_subject(policy).is_ok_and(|(namespaces, pods)| {
            terms_match(&namespaces, &cluster.namespace_labels(pod.namespace()))
                && terms_match(&pods, &read::labels(pod.manifest))
        });
    }
    read::namespace(policy) == pod.namespace()
        && read::selector(&policy["spec"]["podSelector"]).map_or(true, |terms| terms_match(&terms, &read::labels(pod.manifest)))
}

/// `policyTypes`, after its defaults: Ingress always, Egress if there are egress rules. Types that can't be read isolate both
/// ways.
fn isolates(policy: &Value, direction: Direction) -> bool {
    let spec = &policy["spec"];
    match read::list(&spec["policyTypes"]) {
        // A word that isn't known might have been `egress`.
        Ok(None) if read::spec(policy).is_err() => true,
        Ok(None) => match direction {
            Direction::Ingress => true,
            Direction::Egress => !matches!(read::list(&spec["egress"]), Ok(None)),
        },
        Ok(Some(types)) => {
            let unreadable = types.iter().any(|word| word != "Ingress" && word != "Egress");
            unreadable || types.iter().any(|word| word == direction.words().2)
        }
        Err(Unreadable) => true,
    }
}

/// What the rules of one direction with `action` say, each way in which one can match by itself, with their names.
///
/// Where the answer hangs on a part that can't be read, an allow doesn't match and a deny does: each entry stands or falls by
/// itself.
fn matching(case: &Case<'_>, policy: &Value, action: Action) -> Vec<(l7::Says, String)> {
    let (rules_field, ..) = case.direction.words();
    let rules = read::list(&policy["spec"][rules_field]).ok().flatten();
    let numbered = rules.into_iter().flatten().enumerate();
    numbered
        .filter(|(_, rule)| read::action(rule, read::is_ours(policy)) == action)
        .flat_map(|(i, rule)| {
            let name = format!("{} {rules_field}[{i}]", title(policy));
            ways(case, policy, rule, action).into_iter().map(move |says| (says, name.clone()))
        })
        .collect()
}

fn ways(case: &Case<'_>, policy: &Value, rule: &Value, action: Action) -> Vec<l7::Says> {
    let deny = action == Action::Deny;
    let holds = |read: Read<bool>| read.unwrap_or(deny);
    let (_, peers_field, _) = case.direction.words();
    let whole = and(read::spec(policy), read::expires(policy).map(|_| true));
    if !holds(and(whole, read::rule(rule, peers_field, read::is_ours(policy)))) || l7::is_void(rule, action) {
        return Vec::new();
    }
    let places = names::place_matches(case, rule, read::is_ours(policy));
    let entries = read::list(&rule[peers_field]);
    let (named, others): (Vec<&Value>, Vec<&Value>) =
        entries.ok().flatten().into_iter().flatten().partition(|entry| names::given(case, policy, entry));
    let named: Vec<Read<names::Fqdns>> = named.into_iter().map(names::Fqdns::read).collect();
    let peers = match entries {
        Ok(Some(_)) => {
            let unreadable = named.iter().filter(|named| named.is_err()).map(|_| Err(Unreadable));
            let answers: Vec<_> = others.iter().map(|entry| peer_matches(case, policy, entry)).chain(unreadable).collect();
            if answers.contains(&Ok(true)) { Ok(true) } else { answers.into_iter().find(Result::is_err).unwrap_or(Ok(false)) }
        }
        Ok(None) => Ok(true),
        Err(Unreadable) => Err(Unreadable),
    };
    let says = || l7::says(rule, action, case);
    let mut ways = Vec::new();
    if holds(and(peers, places)) {
        ways.push(says());
    }
    for fqdns in named.into_iter().flatten() {
        let told = fqdns.is_told(case, deny);
        if l7::is_about_lookups(rule) {
            ways.extend((told && holds(places)).then(says));
            continue;
        }
        let reads_quic = case.cluster.inspects_quic && names::is_quic(case.question);
        if fqdns.check && (names::is_checked(case.question) || reads_quic) {
            ways.extend((holds(places) && (told || deny)).then(|| fqdns.server(case.question, deny).and(says())));
        } else if deny || !fqdns.check || !names::is_quic(case.question) {
            ways.extend((holds(places) && told).then(says));
        }
        ways.push(fqdns.asked(case, deny));
    }
    ways
}

/// AND of three values: what is known to be false is false, whatever the other says.
fn and(one: Read<bool>, two: Read<bool>) -> Read<bool> {
    if one == Ok(false) || two == Ok(false) { Ok(false) } else { Ok(one? && two?) }
}

/// OR over the entries of a list, of three values; without entries there is no restriction.
fn any(entries: Read<Option<&Vec<Value>>>, matches: impl Fn(&Value) -> Read<bool>) -> Read<bool> {
    let Some(entries) = entries? else { return Ok(true) };
    let answers: Vec<_> = entries.iter().map(matches).collect();
    if answers.contains(&Ok(true)) { Ok(true) } else { answers.into_iter().find(Result::is_err).unwrap_or(Ok(false)) }
}

fn peer_matches(case: &Case<'_>, policy: &Value, entry: &Value) -> Read<bool> {
    let peer = read::peer(entry, read::is_ours(policy))?;
    let matches = match peer.what {
        read::Peers::Block { cidr, except } => {
            let excepted = except.iter().map(|hole| hole.map(|hole| !hole.contains(case.peer_ip)));
            excepted.fold(Ok(cidr?.contains(case.peer_ip)), and)
        }
        read::Peers::Nodes(terms) => {
            let mut nodes = case.cluster.of_kind("Node").filter(|node| has_address(node, case.peer_ip));
            match terms {
                Ok(terms) => Ok(nodes.any(|node| terms_match(&terms, &read::labels(node)))),
                // Whichever nodes were meant, what is none is not among them.
                Err(Unreadable) => nodes.next().map_or(Ok(false), |_| Err(Unreadable)),
            }
        }
        read::Peers::Selectors { namespaces, pods, accounts } => {
            let Some(pod) = case.peer else { return Ok(false) };
            let in_namespace = match namespaces {
                Some(terms) => terms.map(|terms| terms_match(&terms, &case.cluster.namespace_labels(pod.namespace()))),
                // Without a namespaceSelector, the policy's own namespace; the cluster's kind has none.
                None if read::is_clusters(policy) => Ok(true),
                None => Ok(pod.namespace() == read::namespace(policy)),
            };
            let account = accounts.map(|names| names.contains(&read::service_account(pod.manifest)));
            and(account, and(in_namespace, pods.map(|terms| terms_match(&terms, &read::labels(pod.manifest)))))
        }
    };
    and(peer.known, matches)
}

fn port_matches(case: &Case<'_>, entry: &Value) -> Read<bool> {
    let read::Port { known, protocol, ports } = read::port(entry)?;
    let of_protocol = protocol == case.question.protocol;
    let matches = ports.map(|ports| match ports {
        Ports::Any => true,
        Ports::Range(first, last) => (first..=last).contains(&case.question.port),
        Ports::Named(name) => {
            case.destination.is_some_and(|pod| read::named_ports(pod.manifest).contains(&(name, protocol, case.question.port)))
        }
    });
    and(Ok(of_protocol), and(known, matches))
}

/// AND over the terms; no terms match everything.
fn terms_match(terms: &[Term], labels: &[(String, String)]) -> bool {
    terms.iter().all(|term| {
        let value = labels.iter().find(|(key, _)| *key == term.key).map(|(_, value)| value);
        match (term.operator.as_str(), value) {
            ("In", Some(value)) => term.values.contains(value),
            ("In", None) => false,
            ("NotIn", Some(value)) => !term.values.contains(value),
            // labels.Requirement.Matches: an absent key is "not in" every set.
            ("NotIn", None) => true,
            ("Exists", value) => value.is_some(),
            (_, value) => value.is_none(),
        }
    })
}
