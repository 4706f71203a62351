//! What a folder of policies is meant to allow: `expectations.yaml`, beside the manifests.
//!
//! ```yaml
//! apiVersion: test.sluice.dev/v1alpha1
//! kind: Expectations
//! traffic: true            # also worth seeing with real connections
//! names: { api.example.org: [203.0.113.7] }   # the addresses that names have, as --names gives them; with traffic, what DNS answers
//! expectations:
//! - from: production/frontend
//!   to: production/backend
//!   port: 8080             # protocol: TCP unless said
//!   http: DELETE /api/users
//!   expect: deny
//!   by: SluiceNetworkPolicy production/backend
//!   reason: NoRuleMatched
//!   because: only an administrator removes users
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sluice_policy::{Protocol, Reason};

use crate::contents::Contents;
use crate::flow_line::{End, FlowError, Question, at_most_one};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectations {
    /// `test.sluice.dev/v1alpha1`. With these two the file may lie among manifests: it is no kind of the cluster's.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// `Expectations`.
    pub kind: String,
    /// Whether the rows are worth seeing with real connections as well.
    #[serde(default)]
    pub traffic: bool,
    /// The addresses that names have, for rules that go by name.
    #[serde(default)]
    pub names: BTreeMap<String, Vec<IpAddr>>,
    pub expectations: Vec<Row>,
}

/// One flow, and what must become of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// `NAMESPACE/POD` or an address.
    pub from: String,
    /// `NAMESPACE/POD`, an address, or one of the names.
    pub to: String,
    #[serde(default)]
    pub port: u16,
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    /// `METHOD PATH`.
    pub http: Option<String>,
    /// `SERVICE/METHOD`, in the place of `http`.
    pub grpc: Option<String>,
    /// The server name that a client of TLS asks for, in the place of `http`.
    pub tls: Option<String>,
    /// `NAME` or `NAME/TYPE`: a look-up, in the place of `http`.
    pub dns: Option<String>,
    pub expect: Expect,
    /// Who decides, as `sluice eval` names it: `NetworkPolicy shop/db ingress[0]`, or the policy alone. Checked where given; of
    /// several, any one.
    pub by: Option<String>,
    /// The word of `sluice eval` for why. Checked where given.
    pub reason: Option<Reason>,
    /// Why, in words.
    pub because: Option<String>,
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

/// What must become of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    Allow,
    Deny,
    /// It hangs on the request, and the row gives none.
    L7,
}

impl Expect {
    /// The word of `sluice eval`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::L7 => "l7",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ExpectationError {
    #[error("{}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {problem}", path.display())]
    Parse { path: PathBuf, problem: String },
}

impl Expectations {
    /// The name of the file in its folder.
    pub const FILE: &str = "expectations.yaml";

    /// Reads `dir/expectations.yaml`.
    pub fn read(dir: &Path) -> Result<Self, ExpectationError> {
        Self::read_file(&dir.join(Self::FILE)).map(|(expectations, _)| expectations)
    }

    /// Reads a file, and the line of each row in it, from 1.
    pub fn read_file(path: &Path) -> Result<(Self, Vec<u32>), ExpectationError> {
        let path = path.to_owned();
        let text = std::fs::read_to_string(&path).map_err(|source| ExpectationError::Read { path: path.clone(), source })?;
        let expectations = Self::parse(&text).map_err(|problem| ExpectationError::Parse { path: path.clone(), problem })?;
        let manifests = sluice_crds::read(&text, &path.to_string_lossy());
        let rows = manifests.documents.first().and_then(|document| document.value.get("expectations")?.as_list());
        let mut lines: Vec<u32> = rows.unwrap_or_default().iter().map(|row| row.line).collect();
        lines.resize(expectations.expectations.len(), 0);
        Ok((expectations, lines))
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        let version = (file.api_version.as_str(), file.kind.as_str());
        if version != ("test.sluice.dev/v1alpha1", "Expectations") {
            return Err(format!("{} {} is not test.sluice.dev/v1alpha1 Expectations", version.0, version.1));
        }
        for (index, row) in file.expectations.iter().enumerate() {
            row.question().map_err(|e| format!("expectations[{index}]: {e}"))?;
            if row.protocol.has_ports() && row.port == 0 {
                return Err(format!("expectations[{index}]: {} needs a port", row.protocol));
            }
        }
        Ok(file)
    }
}

impl Row {
    /// Whether `rule`, as `sluice eval` names it, is the one in `by`, or of the policy there.
    pub fn names(by: &str, rule: &str) -> bool {
        rule.strip_prefix(by).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }

    /// Whether it goes to a name, whose address its client has to look up.
    pub fn goes_by_name(&self) -> bool {
        matches!(self.to.parse(), Ok(End::Name(_)))
    }

    pub fn question(&self) -> Result<Question, FlowError> {
        let from = self.from.parse()?;
        if matches!(from, End::Name(_)) {
            return Err(FlowError::NamedSource);
        }
        let (to, contents) = (self.to.parse()?, self.contents()?);
        Ok(Question { from, to, port: self.port, protocol: self.protocol, icmp: None, contents })
    }

    fn contents(&self) -> Result<Option<Contents>, FlowError> {
        let http = self.http.as_deref().map(Contents::from_request_line).transpose()?;
        let grpc = self.grpc.as_deref().map(Contents::from_call).transpose()?;
        let tls = self.tls.clone().map(|name| Contents::Tls { server_name: Some(name) });
        let dns = self.dns.as_deref().map(Contents::from_lookup).transpose()?;
        at_most_one([http, grpc, tls, dns])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_asks_nothing_is_named() {
        let head = "apiVersion: test.sluice.dev/v1alpha1\nkind: Expectations\n";
        let no_port = format!("{head}expectations:\n- {{ from: a/b, to: c/d, expect: allow }}\n");
        assert_eq!(Expectations::parse(&no_port).unwrap_err(), "expectations[0]: TCP needs a port");
        let bad_end = format!("{head}expectations:\n- {{ from: b, to: c/d, port: 80, expect: allow }}\n");
        assert!(Expectations::parse(&bad_end).unwrap_err().contains(r#"expectations[0]: end "b""#));
        let unknown = format!("{head}expectations:\n- {{ from: a/b, to: c/d, port: 80, expect: allow, becuase: x }}\n");
        assert!(Expectations::parse(&unknown).unwrap_err().contains("becuase"));
    }
}
