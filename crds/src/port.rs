//! Ports: of a policy's rule, and of a pod.

use sluice_policy::Protocol;
use sluice_policy::source::PortMatch;

use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, mapping, only, text};
use crate::rule::Partly;
use crate::syntax;
use crate::value::{Map, Node, Value, quoted};

/// Reads one entry of `ports`.
///
/// | port | endPort | matches |
/// |---|---|---|
/// | absent | absent | all ports of the protocol |
/// | 80 | absent | 80 |
/// | 80 | 90 | 80 to 90, both included |
/// | `http` | absent | the port that the destination's pod calls so |
/// | absent or a name | 90 | refused |
pub(crate) fn port(value: &Value, at: At<'_>, report: &mut Report) -> Partly<PortMatch> {
    let Ok(map) = mapping(value, at, report) else { return Partly::nothing() };
    let known = only(map, &["protocol", "port", "endPort"], &[], at, report);
    let Ok(protocol) = protocol(map, at, report) else { return Partly::nothing() };
    let read = ports(map, protocol, at, report);
    let complete = known.is_ok() && read.is_ok();
    Partly { open: Some(read.unwrap_or(PortMatch::All { protocol })), complete }
}

fn ports(map: &Map, protocol: Protocol, at: At<'_>, report: &mut Report) -> Reading<PortMatch> {
    let end = map.get("endPort");
    let first = match map.get("port").map(|value| (value, &value.node)) {
        None => match end {
            None => return Ok(PortMatch::All { protocol }),
            Some(value) => {
                report.error(at.field("endPort", value.line), "endPort without port", "give the first port as port");
                return Err(Unreadable);
            }
        },
        Some((value, Node::String(name))) => {
            let at_port = at.field("port", value.line);
            if !syntax::is_port_name(name) {
                let message = format!("{} is no port's name", quoted(name));
                let is_number = name.parse::<u16>().is_ok();
                report.error(at_port, message, if is_number { "write the number without quotes" } else { PORT_NAME });
                return Err(Unreadable);
            }
            if let Some(value) = end {
                report.error(at.field("endPort", value.line), "endPort beside a port's name", "give port as a number");
                return Err(Unreadable);
            }
            return Ok(PortMatch::Named { protocol, name: name.clone() });
        }
        Some((value, _)) => number(value, at.field("port", value.line), report)?,
    };
    let last = match end {
        None => first,
        Some(value) => {
            let at = at.field("endPort", value.line);
            let last = number(value, at, report)?;
            if last < first {
                report.error(at, "endPort is less than port", "give the last port of the range");
                return Err(Unreadable);
            }
            last
        }
    };
    Ok(PortMatch::Range { protocol, first, last })
}

const PORT_NAME: &str = "use 1 to 15 lower-case letters, digits and -, with a letter among them";

/// A port's number, 1 to 65535.
pub(crate) fn number(value: &Value, at: At<'_>, report: &mut Report) -> Reading<u16> {
    let number = match value.node {
        Node::Int(n) => u16::try_from(n).ok().filter(|n| *n > 0),
        _ => None,
    };
    number.ok_or_else(|| {
        report.error(at, format!("{} is no port's number", value.describe()), "write a number from 1 to 65535");
        Unreadable
    })
}

/// `protocol`; TCP where it is absent.
pub(crate) fn protocol(map: &Map, at: At<'_>, report: &mut Report) -> Reading<Protocol> {
    let Some(value) = map.get("protocol") else { return Ok(Protocol::Tcp) };
    let at = at.field("protocol", value.line);
    match &**text(value, at, report)? {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        other => {
            report.error(at, format!("{} is no protocol", quoted(other)), "write TCP, UDP or SCTP");
            Err(Unreadable)
        }
    }
}

/// The name of a pod's port.
pub(crate) fn name(value: &Value, at: At<'_>, report: &mut Report) -> Reading<std::sync::Arc<str>> {
    let name = text(value, at, report)?;
    if syntax::is_port_name(name) {
        return Ok(name.clone());
    }
    report.error(at, format!("{} is no port's name", quoted(name)), PORT_NAME);
    Err(Unreadable)
}
