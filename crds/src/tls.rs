//! A rule's `tls`: the names of servers that a client may ask for.

use std::net::IpAddr;

use sluice_policy::source::{Action, NamePattern, TlsMatch};

use crate::diagnostic::{At, Report};
use crate::domain::is_server_name;
use crate::field::{Reading, Unreadable, mapping, only, text};
use crate::l7::items;
use crate::rule::Partly;
use crate::value::{Value, quoted};

/// `Err`: there is no list of names that could be read.
pub(crate) fn server_names(
    value: &Value,
    action: Action,
    left: &mut usize,
    at: At<'_>,
    report: &mut Report,
) -> Reading<Vec<TlsMatch>> {
    let map = mapping(value, at, report)?;
    let known = only(map, &["serverNames"], &[], at, report);
    let Some(value) = map.get("serverNames") else {
        report.error(at, "which servers?", "give serverNames");
        return Err(Unreadable);
    };
    let names = items(value, action, left, at.field("serverNames", value.line), report, server_name);
    // Another field may have narrowed it.
    if action == Action::Allow { known.and(names) } else { names }
}

fn server_name(value: &Value, index: u16, _: &mut usize, at: At<'_>, report: &mut Report) -> Partly<TlsMatch> {
    let Ok(written) = text(value, at, report) else { return Partly::nothing() };
    let remedy = match () {
        () if written.parse::<IpAddr>().is_ok() => "an address is never asked for as a server's name: give it in ipBlock",
        () if written.ends_with('.') => "leave out the final dot",
        () if !is_server_name(written) => {
            "write it like api.example.org, or *.example.org for all names below; * stands only in front"
        }
        () => {
            let item = TlsMatch { index, name: Some(NamePattern::new(written)) };
            return Partly { open: Some(item), complete: true };
        }
    };
    report.error(at, format!("{} is no server's name", quoted(written)), remedy);
    Partly::nothing()
}
