//! What the environment says to these tests: the one place where they read it.

use std::time::{SystemTime, UNIX_EPOCH};

use sluice_testnet::Layout;

#[expect(clippy::disallowed_methods, reason = "the one place where these tests read their environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// How the nodes have their pods: `SLUICE_LAYOUT=routed` (default), `bridge0` or `bridge1`, by bridge-nf-call-iptables.
pub(crate) fn layout() -> Layout {
    match variable("SLUICE_LAYOUT").as_deref() {
        None | Some("routed") => Layout::Routed,
        Some("bridge0") => Layout::Bridge { call_iptables: false },
        Some("bridge1") => Layout::Bridge { call_iptables: true },
        Some(other) => panic!("SLUICE_LAYOUT={other}: routed, bridge0 or bridge1"),
    }
}

/// `SLUICE_SEED`, or one of this moment; printed, so that what it draws can be drawn again.
pub(crate) fn seed() -> u64 {
    let of_now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = variable("SLUICE_SEED").map_or_else(of_now, |text| text.parse().expect("SLUICE_SEED is a number"));
    println!("SLUICE_SEED={seed} plays this again");
    seed
}

/// `SLUICE_HISTORY_SECONDS`: for how long random histories are played.
pub(crate) fn history_seconds() -> u64 {
    variable("SLUICE_HISTORY_SECONDS").map_or(120, |text| text.parse().expect("a number of seconds"))
}
