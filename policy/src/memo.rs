//! Which lines of a program can match the pods of an identity: worked out once, then remembered.
//!
//! Without it each verdict would intersect the sets of the peer with the sets of the program, some hundred on each side in a large
//! world. The memory is each thread's own, so no verdict waits for another; it is an answer that could be worked out again, and never
//! changes one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHashMap;

use crate::snapshot::{IdentityId, ProgramId};

/// Tells tables apart: what is remembered holds for one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableId(u64);

impl TableId {
    /// One that no other table of this process has.
    pub(crate) fn fresh() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Pairs that a thread remembers; beyond, it begins anew.
const MOST_PAIRS: usize = 1 << 16;

struct Memo {
    table: TableId,
    lines: FxHashMap<(ProgramId, IdentityId), Rc<[u32]>>,
}

thread_local! {
    static MEMO: RefCell<Memo> = RefCell::new(Memo { table: TableId(0), lines: FxHashMap::default() });
}

/// The line numbers that `work_out` gives for the pair, ascending.
pub(crate) fn lines(table: TableId, program: ProgramId, peer: IdentityId, work_out: impl FnOnce() -> Vec<u32>) -> Rc<[u32]> {
    MEMO.with_borrow_mut(|memo| {
        if memo.table != table || memo.lines.len() >= MOST_PAIRS {
            memo.table = table;
            memo.lines.clear();
        }
        memo.lines.entry((program, peer)).or_insert_with(|| work_out().into()).clone()
    })
}
