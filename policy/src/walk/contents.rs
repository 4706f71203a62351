//! Whether what was read of a flow matches a line: requests, server names, look-ups.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Judged, Miss, is_deny};
use crate::flow::Request;
use crate::name::plain_name;
use crate::program::{Compiled, Line, Reads};
use crate::source::{Action, DnsMatch, L7, Named};

impl Judged<'_> {
    pub(super) fn contents_match(&self, number: usize, line: &Line, request: Request<'_>) -> Result<Option<u16>, Miss> {
        match request {
            Request::Opaque | Request::Lookup { .. } => self.unreadable(line),
            Request::Http(_) => self.hit(number).ok_or(Miss::Request),
            Request::Tls { server_name } => server_name_matches(self.program, line, server_name),
        }
    }

    /// What can't be read as its protocol no allow matches, and every deny.
    pub(super) fn unreadable(&self, line: &Line) -> Result<Option<u16>, Miss> {
        if is_deny(self.program, line) { Ok(None) } else { Err(Miss::Request) }
    }

    /// Whether the server name or Host is one of the names. Who names no server, or an address, may mean any.
    pub(super) fn server_name_is_one(&self, line: &Line, names: &[Arc<Named>], request: Request<'_>) -> Result<(), Miss> {
        let name = match request {
            Request::Http(request) => Some(request.host),
            Request::Tls { server_name } => server_name,
            Request::Opaque | Request::Lookup { .. } => None,
        };
        let name = name.map(plain_name).filter(|name| !name.is_empty() && !is_address(name));
        match name {
            Some(name) if names.iter().any(|named| named.matches(&name)) => Ok(()),
            Some(_) => Err(Miss::Request),
            None => self.unreadable(line).map(|_| ()),
        }
    }

    pub(super) fn lookup_matches(&self, line: &Line, request: Request<'_>) -> Result<Option<u16>, Miss> {
        let Request::Lookup { name, kind } = request else { return self.unreadable(line) };
        // Some resolvers take such a name apart at its dots, and nobody knows which.
        let is_odd = name.contains('\\') && is_deny(self.program, line);
        match &line.reads {
            Reads::NamesAsked(names) => {
                let is_one = is_odd || names.iter().any(|named| named.matches(name));
                is_one.then_some(None).ok_or(Miss::Request)
            }
            _ => {
                let rule = self.program.rule(line.rule).ok_or(Miss::Request)?;
                let Some(L7::Dns(items)) = &rule.l7 else { return Err(Miss::Request) };
                let matches = |item: &&DnsMatch| item.is_of_type(kind) && (is_odd || item.is_of_name(name));
                items.iter().find(matches).map(|item| Some(item.index)).ok_or(Miss::Request)
            }
        }
    }
}

/// As a Host has it, which may stand in brackets.
fn is_address(name: &str) -> bool {
    name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// Whether an inspecting line matches a TLS stream. A hello without a name may be for any server: no allow matches it, and every
/// deny.
fn server_name_matches(program: &Compiled, line: &Line, server_name: Option<&str>) -> Result<Option<u16>, Miss> {
    let rule = program.rule(line.rule).ok_or(Miss::Request)?;
    match (&rule.l7, server_name.filter(|name| !name.is_empty())) {
        (Some(L7::Tls(items)), Some(name)) => {
            items.iter().find(|item| item.matches(name)).map(|item| Some(item.index)).ok_or(Miss::Request)
        }
        _ if rule.action == Action::Deny => Ok(None),
        _ => Err(Miss::Request),
    }
}
