//! Whether the kernel holds what it should, in a word that says what to look for.

/// Whether the kernel holds what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelState {
    /// No table has been put in force by this process.
    Waiting,
    InForce,
    /// In force, beside rules of others that the operator knows of: which they are.
    InForceBeside(String),
    /// At least one thing is wrong.
    Failing(Vec<Trouble>),
}

/// Why a node is not ready, in the word that `/readyz` begins with. docs/compatibility.md says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unready {
    /// The newest table was refused, and what was in force still is; or somebody else changed the node, and it isn't repaired
    /// yet.
    KernelRefused,
    /// What another program's rules do doesn't go together with handing flows to the proxy, so none is.
    OtherEngine,
    /// Packets of this node's pods don't come by the rules.
    PathNotSeen,
}

impl Unready {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KernelRefused => "KernelRefused",
            Self::OtherEngine => "OtherEngine",
            Self::PathNotSeen => "PathNotSeen",
        }
    }
}

/// One thing that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub word: Unready,
    pub detail: String,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.word.as_str(), self.detail)
    }
}
