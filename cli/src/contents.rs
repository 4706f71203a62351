//! What travels in a flow's connection, as people write it and as the engine is asked.

use std::collections::BTreeMap;

use serde::Deserialize;
use sluice_policy::Request;
use sluice_policy::http::{self, FieldLines, HttpRequest, PathError};
use sluice_policy::name::plain_name;

use crate::flow_line::FlowError;

/// What travels in the connection, as far as rules can ask about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    Http {
        method: String,
        /// As sent, with its query.
        target: String,
        host: String,
        headers: FieldLines,
    },
    Grpc {
        service: String,
        method: String,
        metadata: FieldLines,
    },
    Tls {
        server_name: Option<String>,
    },
    /// A look-up: the name as it is asked for, and the IANA number of the type.
    Lookup {
        name: String,
        kind: u16,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineHttp {
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    #[serde(default)]
    headers: LineFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineGrpc {
    service: String,
    method: String,
    #[serde(default)]
    metadata: LineFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LineTls {
    server_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineDns {
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Header fields by their names, each with one value or several lines.
#[derive(Default, Deserialize)]
#[serde(transparent)]
struct LineFields(BTreeMap<String, Lines>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Lines {
    One(String),
    Several(Vec<String>),
}

impl LineFields {
    fn lines(self) -> FieldLines {
        let line = |name: &String, value: String| (name.clone(), value.into_bytes());
        let lines = self.0.into_iter().flat_map(|(name, lines)| match lines {
            Lines::One(value) => vec![line(&name, value)],
            Lines::Several(values) => values.into_iter().map(|value| line(&name, value)).collect(),
        });
        FieldLines(lines.collect())
    }
}

impl Contents {
    pub(crate) fn http(line: LineHttp) -> Self {
        Self::Http {
            method: line.method.unwrap_or_else(|| "GET".to_owned()),
            target: line.path.unwrap_or_else(|| "/".to_owned()),
            host: line.host.unwrap_or_default(),
            headers: line.headers.lines(),
        }
    }

    pub(crate) fn grpc(line: LineGrpc) -> Self {
        Self::Grpc { service: line.service, method: line.method, metadata: line.metadata.lines() }
    }

    pub(crate) fn tls(line: LineTls) -> Self {
        Self::Tls { server_name: line.server_name }
    }

    pub(crate) fn dns(line: LineDns) -> Result<Self, FlowError> {
        let kind = line.kind.as_deref().unwrap_or("A");
        let kind = sluice_crds::number_of_type(kind).ok_or_else(|| FlowError::LookupText(kind.to_owned()))?;
        Ok(Self::Lookup { name: line.name, kind })
    }

    /// Reads `api.github.com`, or `api.github.com/AAAA`; without a type it is A.
    pub fn from_lookup(text: &str) -> Result<Self, FlowError> {
        let (name, kind) = text.split_once('/').unwrap_or((text, "A"));
        match sluice_crds::number_of_type(kind) {
            Some(kind) if !name.is_empty() => Ok(Self::Lookup { name: name.to_owned(), kind }),
            _ => Err(FlowError::LookupText(text.to_owned())),
        }
    }

    /// Reads `GET /api/users` or `GET http://backend/api/users`.
    pub fn from_request_line(text: &str) -> Result<Self, FlowError> {
        let wrong = || FlowError::RequestText(text.to_owned());
        let (method, target) = text.split_once(' ').ok_or_else(wrong)?;
        let target = target.trim();
        let (host, target) = match target.strip_prefix("http://") {
            Some(rest) => {
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                (host, if path.is_empty() { "/" } else { path })
            }
            None => ("", target),
        };
        if method.is_empty() || !target.starts_with('/') || target.contains(' ') {
            return Err(wrong());
        }
        let headers = FieldLines::default();
        Ok(Self::Http { method: method.to_owned(), target: target.to_owned(), host: host.to_owned(), headers })
    }

    /// Adds the field `NAME: VALUE` to a request of HTTP; other contents have none.
    pub(crate) fn add_header(&mut self, field: &str) -> Result<(), FlowError> {
        let named = field.split_once(':').filter(|(name, _)| !name.trim().is_empty());
        let (name, value) = named.ok_or_else(|| FlowError::HeaderText(field.to_owned()))?;
        if let Self::Http { headers, .. } = self {
            headers.0.push((name.trim().to_owned(), value.trim().as_bytes().to_vec()));
        }
        Ok(())
    }

    /// Reads a call as `orders.OrderService/Get`.
    pub fn from_call(text: &str) -> Result<Self, FlowError> {
        match text.split_once('/') {
            Some((service, method)) if !service.is_empty() && !method.is_empty() && !method.contains(['/', ' ']) => {
                Ok(Self::Grpc { service: service.to_owned(), method: method.to_owned(), metadata: FieldLines::default() })
            }
            _ => Err(FlowError::CallText(text.to_owned())),
        }
    }

    /// Asks `judge` about the request that the engine would be given, or why there is none.
    pub(crate) fn judged<T>(&self, judge: impl FnOnce(Result<Request<'_>, PathError>) -> T) -> T {
        match self {
            Self::Http { method, target, host, headers } => {
                let (raw_path, query) = match target.split_once('?') {
                    Some((path, query)) => (path, Some(query)),
                    None => (target.as_str(), None),
                };
                let host = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name).to_ascii_lowercase();
                match http::canonical_path(raw_path) {
                    Ok(path) => {
                        let plain = HttpRequest::plain(method, &path, &host);
                        judge(Ok(Request::Http(&HttpRequest { query, fields: headers, ..plain })))
                    }
                    Err(error) => judge(Err(error)),
                }
            }
            Self::Grpc { service, method, metadata } => {
                // A call is an HTTP/2 request: POST /SERVICE/METHOD (gRPC over HTTP/2, "Requests").
                let path = format!("/{service}/{method}");
                let mut fields = metadata.clone();
                fields.0.push(("content-type".to_owned(), b"application/grpc".to_vec()));
                match http::canonical_path(&path) {
                    Ok(path) => {
                        let plain = HttpRequest::plain("POST", &path, "");
                        judge(Ok(Request::Http(&HttpRequest { is_http2: true, fields: &fields, ..plain })))
                    }
                    Err(error) => judge(Err(error)),
                }
            }
            Self::Lookup { name, kind } => judge(Ok(Request::Lookup { name: &plain_name(name), kind: *kind })),
            Self::Tls { server_name } => judge(Ok(Request::Tls { server_name: server_name.as_deref() })),
        }
    }
}

impl std::fmt::Display for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http { method, target, .. } => write!(f, "{method} {target}"),
            Self::Grpc { service, method, .. } => write!(f, "gRPC {service}/{method}"),
            Self::Lookup { name, kind } => write!(f, "the look-up of {name} ({})", sluice_crds::type_of_number(*kind)),
            Self::Tls { server_name: Some(name) } => write!(f, "TLS for {name}"),
            Self::Tls { server_name: None } => f.write_str("TLS without a server name"),
        }
    }
}
