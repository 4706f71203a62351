//! Every check by its code: what it finds, and why that matters. `--list`, `--explain` and docs/lint.md are made from this.

use std::fmt::Write as _;

use super::finding::Severity;

/// The stable name of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    Unreadable,
    NotUnderstood,
    Doubtful,
    EndPortBelowPort,
    ExceptOutsideCidr,
    DnsNotAllowed,
    DnsWithoutTcp,
    SelectorMatchesNothing,
    NamespaceNameLabel,
    OnlyHostNetwork,
    OrForAnd,
    ServicePortForTargetPort,
    ServiceAddress,
    PodAddressInBlock,
    MetadataReachable,
    OneSided,
    L4DisarmsL7,
    RuleNeverMatches,
    AddsNothing,
    DirectionNotInPolicyTypes,
    IngressClosedUnsaid,
    EncryptedDnsOpen,
    AllowsEverything,
    EmptyListIsEveryone,
    NamedDenyButAllows,
    HttpOnTlsPort,
    HttpPatternDoubtful,
    InventoryMissing,
}

/// What there is to say of a check.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    pub code: &'static str,
    /// Of most of its findings: some are only remarks.
    pub severity: Severity,
    /// A few words.
    pub what: &'static str,
    /// Stands beside each finding.
    pub why: &'static str,
    /// What exactly is found, and what is passed over.
    pub about: &'static str,
}

impl Code {
    pub const ALL: [Self; 28] = [
        Self::Unreadable,
        Self::NotUnderstood,
        Self::Doubtful,
        Self::EndPortBelowPort,
        Self::ExceptOutsideCidr,
        Self::DnsNotAllowed,
        Self::DnsWithoutTcp,
        Self::SelectorMatchesNothing,
        Self::NamespaceNameLabel,
        Self::OnlyHostNetwork,
        Self::OrForAnd,
        Self::ServicePortForTargetPort,
        Self::ServiceAddress,
        Self::PodAddressInBlock,
        Self::MetadataReachable,
        Self::OneSided,
        Self::L4DisarmsL7,
        Self::RuleNeverMatches,
        Self::AddsNothing,
        Self::DirectionNotInPolicyTypes,
        Self::IngressClosedUnsaid,
        Self::EncryptedDnsOpen,
        Self::AllowsEverything,
        Self::EmptyListIsEveryone,
        Self::NamedDenyButAllows,
        Self::HttpOnTlsPort,
        Self::HttpPatternDoubtful,
        Self::InventoryMissing,
    ];

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }

    pub const fn as_str(self) -> &'static str {
        self.check().code
    }

    pub const fn check(self) -> Check {
        use Severity::{Error, Info, Warning};
        let (code, severity, what, why, about) = match self {
            Self::Unreadable => (
                "unreadable",
                Error,
                "a file or document that can't be read",
                "Nothing of it is in force, or what it held before stays so.",
                "The file can't be opened, is too large, or isn't YAML or JSON. What else could be read is checked \
                 all the same, and the exit status is 2.",
            ),
            Self::NotUnderstood => (
                "not-understood",
                Error,
                "a field that can't be understood",
                "What can't be understood closes: an allow matches nothing, a deny all that its other parts leave \
                 open.",
                "Whatever the API server would refuse, or this version doesn't know yet. The exit status is 2.",
            ),
            Self::Doubtful => (
                "doubtful",
                Warning,
                "a field that is probably not meant so",
                "The API server takes it, and does something else than it seems to say.",
                "What the reader of manifests remarks on its own, such as an object that is defined twice.",
            ),
            Self::EndPortBelowPort => (
                "end-port-below-port",
                Error,
                "`endPort` is less than `port`",
                "Such a range holds no port, so the entry matches nothing.",
                "Also a `range` of a ClusterNetworkPolicy whose `start` is not less than its `end`.",
            ),
            Self::ExceptOutsideCidr => (
                "except-outside-cidr",
                Error,
                "an `except` that is no part of its `cidr`",
                "An exception carves out of its own block alone, so this one keeps nobody out; the API server refuses \
                 it.",
                "An `except` that lies outside of its `cidr`, or is as large.",
            ),
            Self::DnsNotAllowed => (
                "dns-not-allowed",
                Warning,
                "egress is closed but for some peers, and DNS is not among them",
                "The pods can't look up the names of the peers that they may reach, so nothing works that goes by \
                 name.",
                "Pods that are isolated in egress and may reach something, but no resolver on UDP 53: neither pods \
                 that look like the cluster's DNS, nor a block, nor everyone. Pods that may reach nothing at all, and \
                 DNS servers themselves, are left alone.",
            ),
            Self::DnsWithoutTcp => (
                "dns-without-tcp",
                Warning,
                "DNS is allowed over UDP alone",
                "An answer that is too long for UDP is asked for again over TCP; without it such names fail, and only \
                 those.",
                "Pods that are isolated in egress and reach a resolver on UDP 53, but none on TCP 53.",
            ),
            Self::SelectorMatchesNothing => (
                "selector-matches-nothing",
                Warning,
                "a selector that no pod or namespace matches",
                "As a subject it leaves the policy without effect; as a peer it opens nothing. Mostly it is a slip.",
                "The nearest label that does exist is named where there is one: by its spelling, by the same value \
                 under another key, or because the labels are those of a Service. Selectors that also match nothing \
                 in a namespace without any pods are passed over (see `inventory-missing`).",
            ),
            Self::NamespaceNameLabel => (
                "namespace-name-label",
                Warning,
                "a namespace is selected by a label `name` that it doesn't have",
                "Only `kubernetes.io/metadata.name` is on every namespace; any other label must be put there by \
                 somebody.",
                "A `namespaceSelector` by `name` (or `kubernetes.io/namespace.name`) which no namespace carries, \
                 while there is a namespace of that name, or of nearly that name.",
            ),
            Self::OnlyHostNetwork => (
                "only-host-network",
                Warning,
                "a selector that only pods in the node's network match",
                "Such pods have the node's address and are never selected: a policy about them has no effect, and a \
                 peer that names them matches nothing.",
                "Typically kube-apiserver, kube-proxy and other static pods.",
            ),
            Self::OrForAnd => (
                "or-for-and",
                Warning,
                "`namespaceSelector` and `podSelector` as two peers, where one may be meant",
                "Two list items are an OR: all pods of those namespaces, and those pods of the policy's own \
                 namespace.",
                "A peer of `namespaceSelector` alone, followed by one of `podSelector` alone. It is only remarked on \
                 (info) where the pods of the second are found at home and not in the namespaces of the first, \
                 because then it can't be an AND.",
            ),
            Self::ServicePortForTargetPort => (
                "service-port-for-target-port",
                Warning,
                "a Service's port where the pod's port is needed",
                "Policies see the packet after the Service's translation, so the rule opens a port on which nobody \
                 listens.",
                "A rule by a number that is the `port` of a Service for these pods with another `targetPort`, while \
                 no container of theirs declares the number.",
            ),
            Self::ServiceAddress => (
                "service-address",
                Warning,
                "a Service's address in an `ipBlock`",
                "Policies see the packet after the Service's translation: nothing ever arrives with the address of a \
                 Service.",
                "A block of one to 256 addresses that covers a `clusterIP`.",
            ),
            Self::PodAddressInBlock => (
                "pod-address-in-block",
                Warning,
                "pods' addresses in an `ipBlock`",
                "A pod gets another address each time it is made, and its old one goes to somebody else.",
                "A block within the pods' range (`spec.podCIDRs` of the nodes), or one of up to 256 addresses with a \
                 pod's among them. A wider block, but for `0.0.0.0/0` and `::/0`, is only remarked on (info): it lets \
                 pods in that no selector names.",
            ),
            Self::MetadataReachable => (
                "metadata-reachable",
                Warning,
                "the cloud's metadata service can be reached",
                "Whoever takes over such a pod gets the node's credentials from 169.254.169.254.",
                "An egress rule that covers 169.254.169.254 (or fd00:ec2::254) on TCP 80 without `except`, where no \
                 Deny and no Admin rule closes it again.",
            ),
            Self::OneSided => (
                "one-sided",
                Warning,
                "one end allows the connection and the other doesn't",
                "Both ends are asked: egress of the source and ingress of the destination. This rule opens nothing.",
                "A rule that names pods, none of which, on none of its ports, the other direction allows. Asked of \
                 the engine, pod by pod (those that look alike once).",
            ),
            Self::L4DisarmsL7 => (
                "l4-disarms-l7",
                Warning,
                "a rule without an L7 part makes one with such a part useless",
                "A request is allowed if any rule allows it: where a rule asks for no request, none is read.",
                "Both policies are named. Where the plain rule covers only some of the peers or ports, which may be \
                 meant, it is only remarked on (info).",
            ),
            Self::RuleNeverMatches => (
                "rule-never-matches",
                Warning,
                "a rule that can't match anything, or whose word never counts",
                "It looks like protection or access that isn't there.",
                "All its ports are names that no pod has; or a Deny rule or an Admin rule that covers it wholly \
                 decides before it. Where an Admin Accept has allowed the same already, it is only remarked on \
                 (info).",
            ),
            Self::AddsNothing => (
                "adds-nothing",
                Info,
                "a policy that changes nothing",
                "One thing less to read, and one less to forget when the other is changed.",
                "What it allows, other policies allow as well, and the pods that it isolates, others isolate. Judged \
                 by what is written, not by the pods of today: a policy for more pods than the others is never \
                 reported.",
            ),
            Self::DirectionNotInPolicyTypes => (
                "direction-not-in-policy-types",
                Warning,
                "rules for a direction that `policyTypes` leaves out",
                "The rules have no effect, and the direction stays open.",
                "`egress` (or `ingress`) is written, empty or not, and `policyTypes` is without it; or `egress: []` \
                 with no `policyTypes` at all, which isolates nobody in egress.",
            ),
            Self::IngressClosedUnsaid => (
                "ingress-closed-unsaid",
                Warning,
                "egress rules without `policyTypes`, which close ingress too",
                "Where `policyTypes` is absent Ingress is always among them, so these pods take no connections any more.",
                "`egress` has rules, and neither `policyTypes` nor `ingress` is written.",
            ),
            Self::EncryptedDnsOpen => (
                "encrypted-dns-open",
                Warning,
                "names are restricted, and DNS over TLS or HTTPS is open to everyone",
                "A pod that resolves names elsewhere is not held by rules that go by name.",
                "Pods with `fqdns` or `domainNames` in their egress, which may also reach any address on TCP 853 or \
                 443.",
            ),
            Self::AllowsEverything => (
                "allows-everything",
                Info,
                "a rule that allows everything",
                "The pods are as open as without the policy.",
                "A rule without peers, ports and L7 part (`- {}`).",
            ),
            Self::EmptyListIsEveryone => (
                "empty-list-is-everyone",
                Info,
                "an empty list of peers or ports",
                "`from: []` is not nobody but everyone, as if it weren't there.",
                "`from`, `to` or `ports` written as an empty list in a rule that allows.",
            ),
            Self::NamedDenyButAllows => (
                "named-deny-but-allows",
                Info,
                "a policy that is called a denial, and allows",
                "Policies of Kubernetes only ever add: this one takes nothing away that another one allows.",
                "A NetworkPolicy with deny, block or restrict in its name whose rules allow something to peers that \
                 are given by labels.",
            ),
            Self::HttpOnTlsPort => (
                "http-on-tls-port",
                Warning,
                "an `http` rule for port 443 alone",
                "TLS is not opened, so no request is seen and every connection is denied.",
                "Rules with `http` whose ports are all 443, 6443 or 8443.",
            ),
            Self::HttpPatternDoubtful => (
                "http-pattern-doubtful",
                Warning,
                "a pattern in `http` that matches other than it seems to",
                "Patterns are regular expressions that match the whole text; a path is matched without its query.",
                "A path that ends in `/*` as for a shell, doesn't begin with `/`, or asks for a query; a method in \
                 lower case.",
            ),
            Self::InventoryMissing => (
                "inventory-missing",
                Info,
                "the manifests don't say who is there",
                "Checks that hold policies against pods can't be made.",
                "There are no pods at all (nor Deployments or the like), or none in a namespace that a policy names.",
            ),
        };
        Check { code, severity, what, why, about }
    }

    /// A paragraph for a terminal.
    pub fn to_text(self) -> String {
        let check = self.check();
        format!(
            "{} ({})\n    {}.\n    {}\n    {}\n",
            check.code,
            check.severity.as_str(),
            sentence(check.what),
            check.why,
            check.about
        )
    }
}

fn sentence(what: &str) -> String {
    let mut letters = what.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// All checks as a chapter of docs/lint.md.
pub fn to_markdown() -> String {
    let mut text = String::new();
    for code in Code::ALL {
        let check = code.check();
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "### {}\n\n{}: {}. {}\n\n{}\n\n",
            check.code,
            sentence(check.severity.as_str()),
            check.what,
            check.why,
            check.about
        );
    }
    text
}
