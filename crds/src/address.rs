//! Addresses and blocks, spelt strictly: what two programs could read differently is refused.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, text};
use crate::value::{Value, quoted};

/// One address. IPv4 in IPv6 notation (`::ffff:10.0.0.1`) is refused: on the wire it is something else than it looks.
pub(crate) fn address(value: &Value, at: At<'_>, report: &mut Report) -> Reading<IpAddr> {
    let written = text(value, at, report)?;
    match written.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            let message = format!("{} is an IPv4 address in IPv6 notation", quoted(written));
            report.error(at, message, "write it as IPv4");
            Err(Unreadable)
        }
        Ok(ip) => Ok(ip),
        Err(_) => {
            report.error(at, format!("{} is no IP address", quoted(written)), "write it like 10.0.0.1 or fd00::1");
            Err(Unreadable)
        }
    }
}

/// A block, in canonical form. Host bits are masked with a warning, as the API does.
pub(crate) fn block(value: &Value, at: At<'_>, report: &mut Report) -> Reading<IpNet> {
    let written = text(value, at, report)?;
    let Some(net) = parse_block(written) else {
        let remedy = match written.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => format!("write {ip}/32 for this one address"),
            Ok(IpAddr::V6(ip)) => format!("write {ip}/128 for this one address"),
            Err(_) => "write it like 10.0.0.0/8 or fd00::/8".to_owned(),
        };
        report.error(at, format!("{} is no CIDR block", quoted(written)), remedy);
        return Err(Unreadable);
    };
    let canonical = net.trunc();
    if canonical != net {
        let message = format!("{net} has bits set beyond its length and is read as {canonical}");
        report.warning(at, message, format!("write {canonical}"));
    }
    Ok(canonical)
}

fn parse_block(written: &str) -> Option<IpNet> {
    let (address, length) = written.split_once('/')?;
    let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    if !plain {
        return None;
    }
    let net = IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()?;
    match net {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => None,
        net => Some(net),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_spelt_strictly() {
        let rows = [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.0.0.1/24", Some("10.0.0.1/24")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("::/0", Some("::/0")),
            ("fd00::/8", Some("fd00::/8")),
            ("10.0.0.0/33", None),
            ("10.0.0.0", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/+8", None),
            ("10.0.0.0/08", None),
            ("010.0.0.0/8", None),
            ("10.0.0/8", None),
            (" 10.0.0.0/8", None),
            ("::ffff:10.0.0.0/104", None),
            ("", None),
        ];
        for (written, want) in rows {
            assert_eq!(parse_block(written).map(|n| n.to_string()).as_deref(), want, "{written:?}");
        }
    }
}
