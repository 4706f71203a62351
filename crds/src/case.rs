//! The conformance corpus: clusters, policies, connections, and whether each must pass.
//!
//! One JSON object a line. A [`Case`] is a list of [`State`]s: the top level, and one more for each step. Each state has the
//! edits that lead to it from the state before, and the flat list of its probes (tables are unrolled). Beyond the shared format,
//! this project's own cases may give a probe contents (`http`, `tls`, `opaque`) or a message (`icmp`), and may expect `"l7"`: the answer hangs on them
//! and none are given. A case or a step may say what time it is, `"now"`, and a probe what Audit policies would make of it, `"audit"`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;
use sluice_policy::http::{FieldLines, HttpRequest};
use sluice_policy::source::PodRef;
use sluice_policy::verdict::Decision;
use sluice_policy::world::Edit;
use sluice_policy::{IcmpMessage, Protocol, Request};

use crate::diagnostic::Diagnostic;
use crate::dns;

mod cluster;
mod written;

/// One cluster and what happens to it.
#[derive(Clone, Debug)]
pub struct Case {
    /// `edge/03-a-matchlabels-entry-with-an-empty-value-needs-the-key`
    pub name: String,
    pub family: String,
    pub title: String,
    pub tags: Vec<String>,
    /// The state at the top level, then one for each step. At least one.
    pub states: Vec<State>,
    /// What was remarked on the policies, all states together.
    pub diagnostics: Vec<Diagnostic>,
}

impl Case {
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|t| t == tag)
    }
}

/// One state of a case's cluster.
#[derive(Clone, Debug)]
pub struct State {
    /// What time it is from here on; `None`: nobody says so.
    pub now: Option<SystemTime>,
    /// What leads here from the state before (from nothing, for the first).
    pub edits: Vec<Edit>,
    pub probes: Vec<Probe>,
}

/// One connection's first packet, and what must become of it.
#[derive(Clone, Debug)]
pub struct Probe {
    pub from: End,
    pub to: End,
    /// The destination's port, after any Service translation.
    pub port: u16,
    pub protocol: Protocol,
    /// Of ICMP: the message. `None`: an echo request.
    pub icmp: Option<IcmpMessage>,
    pub contents: Option<Contents>,
    pub expect: Decision,
    /// What it would be with the Audit policies in force; `None`: the same, or nobody can say.
    pub audit: Option<Decision>,
}

/// One end of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// The pod, where the case names one; an address without pod is outside of the cluster, or a node's.
    pub pod: Option<PodRef>,
    pub ip: IpAddr,
}

/// What was read of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    Http(HttpProbe),
    Tls { server_name: Option<String> },
    Lookup(LookupProbe),
    Opaque,
}

/// A name in the form that patterns compare with, and a type of records by its name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupProbe {
    pub name: String,
    #[serde(rename = "type", deserialize_with = "dns::record_type")]
    pub kind: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    pub method: String,
    /// The canonical path, and a query behind `?`.
    pub path: String,
    #[serde(default = "some_host")]
    pub host: String,
    #[serde(default)]
    pub headers: BTreeMap<String, FieldValues>,
    #[serde(default)]
    pub http2: bool,
}

/// A header field of one line, or of several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum FieldValues {
    One(String),
    Several(Vec<String>),
}

fn some_host() -> String {
    "test".to_owned()
}

impl Contents {
    /// Asks `judge` about the request as the engine is given it.
    pub fn judged<T>(&self, judge: impl FnOnce(Request<'_>) -> T) -> T {
        let HttpProbe { method, path, host, headers, http2 } = match self {
            Self::Tls { server_name } => return judge(Request::Tls { server_name: server_name.as_deref() }),
            Self::Lookup(LookupProbe { name, kind }) => return judge(Request::Lookup { name, kind: *kind }),
            Self::Opaque => return judge(Request::Opaque),
            Self::Http(http) => http,
        };
        let (path, query) = path.split_once('?').map_or((path.as_str(), None), |(path, query)| (path, Some(query)));
        let lines = headers.iter().flat_map(|(name, values)| {
            let values = match values {
                FieldValues::One(value) => std::slice::from_ref(value),
                FieldValues::Several(values) => values.as_slice(),
            };
            values.iter().map(|value| (name.clone(), value.clone().into_bytes()))
        });
        let fields = FieldLines(lines.collect());
        judge(Request::Http(&HttpRequest { method, path, query, host, is_http2: *http2, fields: &fields }))
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.pod {
            Some(pod) => write!(f, "{pod} ({})", self.ip),
            None => self.ip.fmt(f),
        }
    }
}

impl std::fmt::Display for Probe {
    /// `x/a (10.0.0.1) -> y/b (10.0.0.2):80/TCP GET /api: deny`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {}:{}/{}", self.from, self.to, self.port, self.protocol)?;
        if let Some(IcmpMessage { kind, code }) = self.icmp {
            write!(f, " type {kind} code {code}")?;
        }
        match &self.contents {
            None => {}
            Some(Contents::Http(http)) => write!(f, " {} {} {:?}", http.method, http.path, http.headers)?,
            Some(other) => write!(f, " {other:?}")?,
        }
        write!(f, ": {}", self.expect.as_str())
    }
}

/// Why a case can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {message}", path.display())]
    Case { path: PathBuf, line: usize, message: String },
}

/// `../shared/conformance` beside the workspace, if it is there.
pub fn conformance_dir() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    dir.is_dir().then_some(dir)
}

/// The project's own cases: `policy/tests/cases`.
pub fn own_cases_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy/tests/cases")
}

/// The cases of one file.
pub fn read_cases(path: &Path) -> Result<Vec<Case>, CaseError> {
    let text = fs::read_to_string(path).map_err(|source| CaseError::Io { path: path.to_owned(), source })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read =
        |(i, line)| cluster::parse_case(line).map_err(|message| CaseError::Case { path: path.to_owned(), line: i + 1, message });
    lines.map(read).collect()
}

/// The cases of every `*.jsonl` of a folder but `validation.jsonl`, which holds no connections; sorted by file.
pub fn read_case_dir(dir: &Path) -> Result<Vec<Case>, CaseError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut files = fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>()?;
        files.retain(|p| p.extension().is_some_and(|e| e == "jsonl") && !p.ends_with("validation.jsonl"));
        files.sort();
        Ok(files)
    };
    let files = list().map_err(|source| CaseError::Io { path: dir.to_owned(), source })?;
    let mut cases = Vec::new();
    for file in files {
        cases.extend(read_cases(&file)?);
    }
    Ok(cases)
}
