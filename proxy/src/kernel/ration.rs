//! The words by which rules add elements to sets, count packets and report some of them.

use std::num::NonZeroU32;

use nftnl::nftnl_sys as sys;

use super::denied::KEPT_FOR;
use super::expr::{self, Address, Expr, REGISTER, Value, expr};
use super::object::Family;

/// How many packets of one pod, or of one interface, are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ration {
    pub(super) per_second: NonZeroU32,
    /// So many at once, after a time without any.
    pub(super) burst: u32,
}

/// `counter name "isolated_egress"`
pub(super) fn named_counter(name: &str) -> Expr {
    const COUNTER: u32 = 1;
    expr(
        "objref",
        [(sys::NFTNL_EXPR_OBJREF_IMM_TYPE, Value::U32(COUNTER)), (sys::NFTNL_EXPR_OBJREF_IMM_NAME, Value::Text(name.to_owned()))],
    )
}

/// `log prefix "sluice ForgedSource" group 15001 snaplen 128 queue-threshold 16`
pub(super) fn log(prefix: &str, group: u16, snap_bytes: u32, lines_at_once: u16) -> Expr {
    expr(
        "log",
        [
            (sys::NFTNL_EXPR_LOG_PREFIX, Value::Text(prefix.to_owned())),
            (sys::NFTNL_EXPR_LOG_GROUP, Value::U16(group)),
            (sys::NFTNL_EXPR_LOG_SNAPLEN, Value::U32(snap_bytes)),
            (sys::NFTNL_EXPR_LOG_QTHRESHOLD, Value::U16(lines_at_once)),
        ],
    )
}

/// `update @set { ip saddr timeout 10m counter limit rate 10/second burst 20 packets }`. The rule goes on while the limit lasts.
pub(super) fn address_rationed(of: Family, address: Address, set: &str, ration: Ration) -> Vec<Expr> {
    vec![expr::address_at(of, address, REGISTER), update(set, ration, WITHIN)]
}

/// `update @set { ip saddr timeout 10m counter limit rate over 10/second burst 20 packets }`. The rule goes on beyond the limit. Where the set
/// is full, it never does.
pub(super) fn address_beyond(of: Family, address: Address, set: &str, ration: Ration) -> Vec<Expr> {
    vec![expr::address_at(of, address, REGISTER), update(set, ration, BEYOND)]
}

/// As [`address_rationed`], by `meta iif`.
pub(super) fn interface_rationed(set: &str, ration: Ration) -> Vec<Expr> {
    vec![expr::meta(expr::META_IIF), update(set, ration, WITHIN)]
}

const WITHIN: u32 = 0;
/// `NFT_LIMIT_F_INV`
const BEYOND: u32 = 1;

/// The counter stands first: it counts what the limit keeps back too.
fn update(set: &str, ration: Ration, side: u32) -> Expr {
    const UPDATE: u32 = 1;
    /// `NFT_DYNSET_F_EXPR`: there are several.
    const SEVERAL: u32 = 2;
    const PER_SECOND: u64 = 1;
    const PACKETS: u32 = 0;
    let limit = expr(
        "limit",
        [
            (sys::NFTNL_EXPR_LIMIT_RATE, Value::U64(u64::from(ration.per_second.get()))),
            (sys::NFTNL_EXPR_LIMIT_UNIT, Value::U64(PER_SECOND)),
            (sys::NFTNL_EXPR_LIMIT_BURST, Value::U32(ration.burst)),
            (sys::NFTNL_EXPR_LIMIT_TYPE, Value::U32(PACKETS)),
            (sys::NFTNL_EXPR_LIMIT_FLAGS, Value::U32(side)),
        ],
    );
    let kept_ms = u64::try_from(KEPT_FOR.as_millis()).expect("minutes fit");
    expr(
        "dynset",
        [
            (sys::NFTNL_EXPR_DYNSET_SREG_KEY, Value::U32(REGISTER)),
            (sys::NFTNL_EXPR_DYNSET_OP, Value::U32(UPDATE)),
            (sys::NFTNL_EXPR_DYNSET_SET_NAME, Value::Text(set.to_owned())),
            (sys::NFTNL_EXPR_DYNSET_TIMEOUT, Value::U64(kept_ms)),
            (sys::NFTNL_EXPR_DYNSET_FLAGS, Value::U32(SEVERAL)),
            (sys::NFTNL_EXPR_DYNSET_EXPRESSIONS, Value::Inner(vec![expr::counter(), limit])),
        ],
    )
}

/// `add @set { meta iif }`. Ends the rule's evaluation where the set is full.
pub(super) fn learn_interface(set: &str) -> Vec<Expr> {
    const ADD: u32 = 0;
    let add = expr(
        "dynset",
        [
            (sys::NFTNL_EXPR_DYNSET_SREG_KEY, Value::U32(REGISTER)),
            (sys::NFTNL_EXPR_DYNSET_OP, Value::U32(ADD)),
            (sys::NFTNL_EXPR_DYNSET_SET_NAME, Value::Text(set.to_owned())),
        ],
    );
    vec![expr::meta(expr::META_IIF), add]
}
