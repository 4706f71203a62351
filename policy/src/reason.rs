//! The one word that says why. The same word is metric label, log field, record field, status reason and CLI word.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// Why a flow was allowed, denied or handed to the proxy.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    /// No policy isolates the pod in this direction, so everything is allowed.
    NotIsolated,
    /// A rule allows it.
    RuleMatched,
    /// A Deny rule matches.
    DeniedByRule,
    /// The pod is isolated in this direction and no rule allows it.
    NoRuleMatched,
    /// A pod always reaches itself.
    SamePod,
    /// The node always reaches its own pods.
    FromOwnNode,
    /// Neither end is a pod that is judged here.
    NotOurPod,
    /// The answer hangs on a request, a server name or a look-up.
    NeedsRequest,
    /// A rule about requests might have allowed it, but the bytes are not of its protocol.
    NotTheProtocol,
    /// An address of this node's pods which the table doesn't know (yet): closed.
    UnknownPod,
    /// Two live pods claim this address: closed, because either answer might be the wrong one.
    AddressConflict,
    /// The table has not arrived yet, or could not be read.
    NoSnapshot,
    /// The request can't be read, or two parsers could read it differently.
    MalformedRequest,
    /// The head of the request is larger than the limit.
    HeadTooLarge,
    /// The head of the request didn't arrive within the limit.
    HeadTimeout,
    /// The proxy holds as many connections as it may, in all or for this pod.
    TooManyConnections,
    /// The upstream server could not be reached.
    UpstreamUnreachable,
    /// The upstream server broke the protocol.
    UpstreamMalformed,
    /// A policy that arrived while the connection was live forbids it.
    PolicyChanged,
    /// DNS gave a name an address of the cluster or a private one, which no rule of the pod takes: it stays closed.
    PrivateAddress,
    /// A name of a rule with a search list's suffix behind it: there is no such name.
    SearchSuffix,
    /// The server didn't answer the look-up in time, or in no way that can be believed.
    NoAnswer,
    /// What the answer said couldn't be put in force, so the pod didn't get it.
    NotLearned,
    /// Nothing was sent in either direction for as long as the limit.
    IdleTimeout,
    /// The proxy is ending, and the drain time is over.
    Draining,
    /// The connection didn't come through the kernel's rules: it was made to the proxy's own port.
    NotDiverted,
    /// The client or the server ended the connection in the middle.
    Aborted,
    /// The packet's source is not the pod's that sent it, or is a pod's here and came from outside the node.
    ForgedSource,
    /// The packet says by itself which way it wants to go (a source route, a routing header).
    SourceRouted,
    /// The packet is for the node's loopback addresses and came from a pod, or from outside.
    ToLoopback,
    /// The flow has to be read, and no proxy listens: it isn't running, or is ending.
    ProxyNotListening,
    /// The flow has to be read, and the kernel doesn't track it, so that it could pass unread later.
    NotTracked,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
