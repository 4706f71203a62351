//! Which interfaces lead away from the node.
//!
//! Behind every interface that has a kind (veth, bridge, ...) and isn't found here are pods, and what comes from there is closed
//! until the snapshot knows it. An uplink is: the loopback; what the configuration names; what carries an address of the Node
//! object; where that has no addresses, the device of a default route. Physical interfaces and tunnels need not be found: the
//! rules know them by having no kind, or one that leads outside.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

/// The names of the uplinks in the calling thread's network namespace.
pub(super) fn find(node_ips: &[IpAddr], configured: &[String]) -> io::Result<BTreeSet<String>> {
    let mut uplinks: BTreeSet<String> = configured.iter().cloned().collect();
    uplinks.insert("lo".to_owned());
    if node_ips.is_empty() {
        uplinks.extend(default_route_devices()?);
        return Ok(uplinks);
    }
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else {
            continue;
        };
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => continue,
        };
        if node_ips.contains(&ip) {
            uplinks.insert(interface.interface_name);
        }
    }
    Ok(uplinks)
}

/// From `/proc/thread-self/net`, which is the namespace of this thread; without IPv6 in the kernel there is no second file.
fn default_route_devices() -> io::Result<BTreeSet<String>> {
    let v4 = std::fs::read_to_string("/proc/thread-self/net/route")?;
    let v6 = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    Ok(v4_default_devices(&v4).chain(v6_default_devices(&v6)).map(str::to_owned).collect())
}

/// Lines of device, destination, gateway, flags, ..., mask as eighth field.
fn v4_default_devices(routes: &str) -> impl Iterator<Item = &str> {
    routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        fields.first().filter(|_| default).copied()
    })
}

/// Lines of destination, prefix length, ..., flags as ninth field, device as tenth. The kernel's own reject route is on `lo`.
fn v6_default_devices(routes: &str) -> impl Iterator<Item = &str> {
    routes.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let default = fields.get(1) == Some(&"00") && fields.first().is_some_and(|d| d.bytes().all(|b| b == b'0'));
        fields.get(9).filter(|device| default && **device != "lo").copied()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_told_from_others() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  veth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(v4_default_devices(v4).collect::<Vec<_>>(), ["eth0"]);
        let zero = "00000000000000000000000000000000";
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
             fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001    veth1\n"
        );
        assert_eq!(v6_default_devices(&v6).collect::<Vec<_>>(), ["eth0"]);
    }
}
