//! What the kernel's part can be told.

use std::num::NonZeroU32;

use super::ration::Ration;

/// The kernel's part of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub mark: Mark,
    /// The routing table by which marked packets are delivered to the proxy's sockets.
    pub routing_table: u32,
    /// Where our chain stands among those of `prerouting`: behind -100, where addresses of Services are translated.
    pub hook_priority: i32,
    /// Whether flows that need the proxy are handed to it. If not, they are denied.
    pub diverts: bool,
    /// The proxy's TPROXY listener on 127.0.0.1.
    pub proxy_port_v4: u16,
    /// The proxy's TPROXY listener on ::1.
    pub proxy_port_v6: u16,
    /// The TPROXY listeners on 127.0.0.1 and ::1 of flows that nothing but Audit policies want read. Where none listens, these pass.
    pub audit_port: u16,
    /// The listeners on 127.0.0.1 and ::1, of both protocols, of look-ups.
    pub dns_port: u16,
    /// Interfaces that lead away from the node, beside those that are found out: behind any other interface of a virtual kind are
    /// pods.
    pub uplinks: Vec<String>,
    pub deny: Deny,
    /// The conntrack label of flows that go through the proxy: a bit, 0 to 127. The other bit of its pair (110 of 111) is Sluice's too.
    pub label_bit: u8,
    /// Up to so many rules of policies that do the same are tried one after the other, which reads like the policies and costs
    /// little; more are looked up together.
    pub in_series: usize,
    /// Whether and how packets are reported to the proxy. Without it nothing is; what is denied is counted all the same.
    pub log: Option<Log>,
    /// Whether what begins allowed flows of pods that an Audit policy selects is offered to the proxy, where contents matter to such a
    /// policy, and else reported: as long as there are such pods.
    pub audits: bool,
    /// Whether look-ups of any pod are diverted.
    pub looks_up: bool,
    /// So many datagrams of one pod's look-ups are diverted; half as many at once after a while without any.
    pub look_ups_per_second: Option<NonZeroU32>,
    /// Whether an element of a timed set that is added again gets the time that it then has, as since Linux 6.12. If not, it is taken out
    /// and put in.
    pub extends: bool,
    /// The sockets on 127.0.0.1 and ::1 for the datagrams of QUIC, where it is inspected. If not, what should be is denied.
    pub quic_port: Option<u16>,
}

/// How packets are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The NFLOG group.
    pub group: u16,
    /// How many denied packets of one pod and direction, or of one interface. Twice as many after a while without any.
    pub per_second: NonZeroU32,
    /// What begins allowed flows is reported too.
    pub passed: bool,
}

impl Log {
    pub(super) fn ration(&self) -> Ration {
        Ration { per_second: self.per_second, burst: self.per_second.get().saturating_mul(2) }
    }
}

/// The bits of the packet mark that are ours. Bits outside `mask` are never touched, and no rule accepts a packet for its mark.
///
/// The default is bit 12. kube-proxy uses 0x4000 and 0x8000; Calico 0xffff0000; Cilium 0x0f00, 0x0200 and the upper half, and
/// with IPsec 0xf000 (such nodes hand packets round this hook and are refused anyway); the AWS CNI 0x80; Tailscale 0xff0000;
/// podman 0x2000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What is set within `mask`.
    pub value: u32,
    pub mask: u32,
}

/// Behind DNAT (-100), before all that filters.
pub const DEFAULT_HOOK_PRIORITY: i32 = -90;

/// What a denied packet's sender sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deny {
    #[default]
    Drop,
    /// TCP gets RST, all else ICMP administratively prohibited.
    Reject,
}

impl Default for Mark {
    fn default() -> Self {
        Self { value: 0x1000, mask: 0x1000 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mark: Mark::default(),
            routing_table: 15_001,
            hook_priority: DEFAULT_HOOK_PRIORITY,
            diverts: true,
            audits: false,
            looks_up: false,
            look_ups_per_second: None,
            extends: true,
            quic_port: None,
            proxy_port_v4: 15_001,
            proxy_port_v6: 15_001,
            audit_port: 15_002,
            dns_port: 15_003,
            uplinks: Vec::new(),
            deny: Deny::default(),
            label_bit: 111,
            in_series: 16,
            log: None,
        }
    }
}

/// Whether the kernel that runs has [`Config::extends`]. Where its release can't be read: no, which always works.
pub fn extends_elements() -> bool {
    let name = nix::sys::utsname::uname().ok();
    name.and_then(|name| release(name.release().to_str()?)).is_some_and(|release| release >= (6, 12))
}

/// `6.1.0-13-amd64` as 6, 1.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A configuration that can't work.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("mark: value {value:#x} has bits outside the mask {mask:#x}, or none")]
    Mark { value: u32, mask: u32 },
    #[error("hookPriority: {0} is not between -99 and -1: behind the translation of Services (-100), before filters (0)")]
    HookPriority(i32),
    #[error("label: {0} is not between 0 and 127")]
    Label(u8),
    #[error("uplinks: {0:?} can't be the name of an interface (1 to 15 bytes, no slash, no space)")]
    Uplink(String),
}

impl Config {
    /// The conntrack label of flows that were offered to the proxy for the sake of Audit policies alone, whether it took them or not.
    pub(super) fn offered_bit(&self) -> u8 {
        self.label_bit ^ 1
    }

    /// What the types can't say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Mark { value, mask } = self.mark;
        if value == 0 || value & !mask != 0 {
            return Err(ConfigError::Mark { value, mask });
        }
        if !(-99..=-1).contains(&self.hook_priority) {
            return Err(ConfigError::HookPriority(self.hook_priority));
        }
        if self.label_bit > 127 {
            return Err(ConfigError::Label(self.label_bit));
        }
        let impossible = |name: &&String| {
            name.is_empty() || name.len() > 15 || name.chars().any(|c| c == '/' || c == '\0' || c.is_whitespace())
        };
        match self.uplinks.iter().find(impossible) {
            Some(name) => Err(ConfigError::Uplink(name.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::release;

    #[test]
    fn releases_are_read_as_distributions_write_them() {
        for (text, read) in [("6.1.0-13-amd64", Some((6, 1))), ("6.12", Some((6, 12))), ("6.18.5+deb14", Some((6, 18)))] {
            assert_eq!(release(text), read, "{text}");
        }
        assert!(release("6.8.0-45-generic").is_some_and(|release| release < (6, 12)));
        assert_eq!((release("linux"), release("6"), release("")), (None, None, None));
    }
}
