//! How the flows between two identities are judged: worked out once, then remembered.
//!
//! Without it each verdict would look up both identities and programs and intersect the sets of each end with those of the
//! other's program, some hundred on each side in a large world. The memory is each thread's own, so no verdict waits for another;
//! it is an answer that could be worked out again, and never changes one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHashMap;

use crate::snapshot::IdentityId;
use crate::walk::Plans;

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

/// Identity of source and destination, and whether they are local; addresses that no pod has are told apart from all of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u64; 2]);

impl Key {
    pub(crate) fn new(ends: [Option<(IdentityId, bool)>; 2]) -> Self {
        Self(ends.map(|end| end.map_or(0, |(identity, local)| 1 + (u64::from(identity.0) << 1 | u64::from(local)))))
    }
}

struct Memo {
    table: TableId,
    plans: FxHashMap<Key, Rc<Plans>>,
}

thread_local! {
    static MEMO: RefCell<Memo> = RefCell::new(Memo { table: TableId(0), plans: FxHashMap::default() });
}

/// The plans for `key`, by `work_out` if this thread doesn't remember them for `table`.
pub(crate) fn plans(table: TableId, key: Key, work_out: impl FnOnce() -> Plans) -> Rc<Plans> {
    MEMO.with_borrow_mut(|memo| {
        if memo.table != table || memo.plans.len() >= MOST_PAIRS {
            memo.table = table;
            memo.plans.clear();
        }
        memo.plans.entry(key).or_insert_with(|| Rc::new(work_out())).clone()
    })
}
