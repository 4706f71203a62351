//! The requests of one connection that are under way: those that still go on a second after a new table came are judged by it.
//!
//! | when a new table denies a request | what becomes of it |
//! |---|---|
//! | and its response has not begun | it is answered with the denial |
//! | and the response of a gRPC call has begun | trailers with status 7 end the call |
//! | and another response has begun | it breaks off: RST_STREAM, or the end of an HTTP/1 connection |
//!
//! In all cases the server's side ends too. What the client has been sent stays with it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use rustc_hash::FxHashMap;
use sluice_policy::flow::Request;
use sluice_policy::{Decision, Reason, Table};

use crate::judge::{self, Ends, Forwarded, JudgedRequest, Ruling};

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Underway(Mutex<Requests>);

#[derive(Debug, Default)]
struct Requests {
    next: u64,
    open: FxHashMap<u64, Arc<Shared>>,
}

/// A request from its judgement to the end of its response; dropped, it isn't under way any more.
#[derive(Debug)]
pub(crate) struct Open {
    number: u64,
    shared: Arc<Shared>,
    underway: Arc<Underway>,
}

/// What the parts that carry a request know of its end.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) request: JudgedRequest,
    cut: OnceLock<Cut>,
    wakers: Mutex<[Option<Waker>; 2]>,
}

/// Why a request must end.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub(crate) ruling: Ruling,
    pub(crate) sentence: String,
}

/// Who waits for the end of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiting {
    Request = 0,
    Response = 1,
}

impl Underway {
    /// `request` was allowed and goes on. The newest table has its say only after this: see [`Open::judge_again`].
    pub(crate) fn open(self: &Arc<Self>, request: JudgedRequest) -> Open {
        let shared = Arc::new(Shared { request, cut: OnceLock::new(), wakers: Mutex::default() });
        let mut requests = self.lock();
        let number = requests.next;
        requests.next += 1;
        requests.open.insert(number, Arc::clone(&shared));
        Open { number, shared, underway: Arc::clone(self) }
    }

    /// Ends what `table` doesn't allow.
    pub(crate) fn judge_again(&self, table: &Table, ends: &Ends) {
        for shared in self.lock().open.values() {
            shared.judge_again(table, ends);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.underway.lock().open.remove(&self.number);
    }
}

impl Shared {
    /// Ends the request if `table` doesn't allow it.
    pub(crate) fn judge_again(&self, table: &Table, ends: &Ends) {
        let fields = Forwarded(&self.request.fields);
        let http = self.request.as_http(&fields);
        let request = Some(Request::Http(&http));
        if self.cut().is_some() || judge::decision(table, ends, request) == Decision::Allow {
            return;
        }
        let mut ruling = judge::rule(table, ends, request);
        ruling.decision = Decision::Deny;
        ruling.reason = Reason::PolicyChanged;
        let sentence = judge::sentence(table, ends, Some(&self.request), &ruling);
        let _ = self.cut.set(Cut { ruling, sentence });
        for waker in self.wakers().iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }

    /// Why the request must end, if it must.
    pub(crate) fn cut(&self) -> Option<&Cut> {
        self.cut.get()
    }

    /// Waits until the request must end.
    pub(crate) fn poll_cut(&self, who: Waiting, cx: &Context<'_>) -> Poll<&Cut> {
        // The waker first: a cut between the two would wake nobody.
        let waker = cx.waker();
        match &mut self.wakers()[who as usize] {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        self.cut().map_or(Poll::Pending, Poll::Ready)
    }

    fn wakers(&self) -> MutexGuard<'_, [Option<Waker>; 2]> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
