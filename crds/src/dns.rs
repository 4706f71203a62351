//! The items of a rule's `dns` list: look-ups of names.

use sluice_policy::source::{DnsMatch, PortMatch};

use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, list, mapping, only, text};
use crate::fqdn;
use crate::l7::{Item as _, part};
use crate::rule::Partly;
use crate::value::{Map, Value, quoted};

/// Types of records by their IANA names and numbers.
pub(crate) const TYPES: [(&str, u16); 21] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("NAPTR", 35),
    ("DS", 43),
    ("SSHFP", 44),
    ("NSEC", 47),
    ("DNSKEY", 48),
    ("TLSA", 52),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("SPF", 99),
    ("ANY", 255),
    ("URI", 256),
    ("CAA", 257),
];

/// The IANA number of a type of records; `TYPE1234` is one without a name here (RFC 3597 section 5).
pub fn number_of_type(written: &str) -> Option<u16> {
    let known = TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(written)).map(|(_, number)| *number);
    known.or_else(|| written.strip_prefix("TYPE")?.parse().ok())
}

/// The name of a type of records.
pub fn type_of_number(number: u16) -> String {
    let known = TYPES.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| format!("TYPE{number}"), |(name, _)| (*name).to_owned())
}

/// Reads a type of records by its name.
pub(crate) fn record_type<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<u16, D::Error> {
    let written = <String as serde::Deserialize>::deserialize(reader)?;
    number_of_type(&written).ok_or_else(|| serde::de::Error::custom(format!("{written:?} is no type of records")))
}

/// In one range of a rule's ports.
pub(crate) const MOST_PORTS: u16 = sluice_policy::table::MOST_LOOKUP_PORTS;

/// Whether look-ups can be judged at these ports.
pub(crate) fn is_judged_at(ports: &PortMatch) -> bool {
    matches!(ports, PortMatch::Range { first, last, .. } if last.checked_sub(*first).is_some_and(|more| more < MOST_PORTS))
}

pub(crate) fn item(value: &Value, index: u16, _: &mut usize, at: At<'_>, report: &mut Report) -> Partly<DnsMatch> {
    let Ok(map) = mapping(value, at, report) else { return Partly::nothing() };
    let mut complete = only(map, &[fqdn::FIELDS[0], fqdn::FIELDS[1], "types"], &[], at, report).is_ok();
    let mut item = DnsMatch::everything(index);
    item.name = part(fqdn::pattern(map, at, report).map(Some), &mut complete);
    item.types = part(types(map, at, report).map(Some), &mut complete).unwrap_or_default();
    Partly { open: Some(item), complete }
}

/// Empty: every type.
fn types(map: &Map, at: At<'_>, report: &mut Report) -> Reading<Vec<u16>> {
    let Some(value) = map.get("types") else { return Ok(Vec::new()) };
    let at = at.field("types", value.line);
    let entries = list(value, at, report)?;
    if entries.is_empty() {
        report.error(at, "an empty list matches no look-up", "leave it out, or name a type");
        return Err(Unreadable);
    }
    let of_name = |(i, entry): (usize, &Value)| {
        let at = at.index(i, entry.line);
        let written = text(entry, at, report)?;
        if let Some((_, number)) = TYPES.iter().find(|(name, _)| **name == **written) {
            return Ok(*number);
        }
        let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        report.error(at, format!("{} is no type of records", quoted(written)), format!("known here: {}", names.join(", ")));
        Err(Unreadable)
    };
    let all: Vec<Reading<u16>> = entries.iter().enumerate().map(of_name).collect();
    let mut numbers = all.into_iter().collect::<Reading<Vec<u16>>>()?;
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}
