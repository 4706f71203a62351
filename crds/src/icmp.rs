//! One entry of a rule's `icmp`: messages that stand where ports stand.

use sluice_policy::source::{IcmpMatch, PortMatch};
use sluice_policy::{IcmpFamily, Protocol};

use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, mapping, only, text};
use crate::rule::Partly;
use crate::value::{Map, Node, Value, quoted};

/// All messages of either family: what the field is about at least, where no more of it can be read.
pub(crate) const EVERY_MESSAGE: PortMatch = PortMatch::All { protocol: Protocol::Icmp };

/// Reads an entry.
///
/// | type | code | matches |
/// |---|---|---|
/// | absent | absent | all messages of the family |
/// | 3 | absent | all of type 3 |
/// | 3 | 4 | these |
/// | absent | 4 | refused: a code means something only beside its type |
pub(crate) fn message(value: &Value, at: At<'_>, report: &mut Report) -> Partly<PortMatch> {
    let nothing = || Partly { open: Some(EVERY_MESSAGE), complete: false };
    let Ok(map) = mapping(value, at, report) else { return nothing() };
    let known = only(map, &["family", "type", "code"], &[], at, report);
    let (kind, code) = (number(map, "type", at, report), number(map, "code", at, report));
    let Ok(family) = family(map, value.line, at, report) else { return nothing() };
    let mut complete = known.is_ok() && kind.is_ok() && code.is_ok();
    if let (Ok(None), Ok(Some(_))) = (kind, code) {
        report.error(at.field("code", value.line), "code without type", "give the type, too");
        complete = false;
    }
    let kind = kind.ok().flatten();
    let code = code.ok().flatten().filter(|_| kind.is_some());
    Partly { open: Some(PortMatch::Icmp(IcmpMatch { family, kind, code })), complete }
}

fn family(map: &Map, line: u32, at: At<'_>, report: &mut Report) -> Reading<IcmpFamily> {
    let Some(value) = map.get("family") else {
        report.error(at.field("family", line), "of which family?", "write family: IPv4 or IPv6, whose types differ");
        return Err(Unreadable);
    };
    let at = at.field("family", value.line);
    match &**text(value, at, report)? {
        "IPv4" => Ok(IcmpFamily::V4),
        "IPv6" => Ok(IcmpFamily::V6),
        other => {
            report.error(at, format!("{} is no family", quoted(other)), "write IPv4 or IPv6");
            Err(Unreadable)
        }
    }
}

fn number(map: &Map, name: &'static str, at: At<'_>, report: &mut Report) -> Reading<Option<u8>> {
    let Some(value) = map.get(name) else { return Ok(None) };
    let number = match value.node {
        Node::Int(n) => u8::try_from(n).ok(),
        _ => None,
    };
    number.map(Some).ok_or_else(|| {
        let at = at.field(name, value.line);
        report.error(at, format!("{} is no {name} of ICMP", value.describe()), "write a number from 0 to 255");
        Unreadable
    })
}
