//! What the thread that opens listeners is told, and what it tells.

use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::agent::lock;

/// How often new namespaces are looked for when nothing says that there is one.
const REGULARLY: Duration = Duration::from_secs(5);

/// Tells the thread what is wanted.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// `None` until it is said.
    want: Option<Want>,
    look: bool,
    /// Whether everything that was wanted is done.
    done: bool,
    stop: bool,
    found: Findings,
}

/// What is to be listened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Want {
    /// Calls to other nodes.
    pub(super) calls: bool,
    /// Connections of other nodes, at this address.
    pub(super) peers: Option<SocketAddr>,
}

/// What there is to tell of listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Namespaces with listeners.
    pub(super) open: u64,
    /// Namespaces where none could be opened, or that were too many.
    pub(super) failed: u64,
    /// Why connections of other nodes are not taken.
    pub(super) deaf: Option<String>,
    /// What is wrong with keeping listeners over a restart.
    pub(super) unkept: Option<String>,
}

impl Wanted {
    /// Says what to listen for, and has it done.
    pub(super) fn set(&self, want: Want) {
        let mut state = lock(&self.state);
        state.want = Some(want);
        state.look = true;
        state.done = false;
        self.changed.notify_all();
    }

    /// A call found no listener: its namespace may be new.
    pub(super) fn look(&self) {
        let mut state = lock(&self.state);
        if state.want.is_some_and(|want| want.calls) {
            state.look = true;
            self.changed.notify_all();
        }
    }

    /// Waits until what is wanted is done, but no longer than `limit`.
    pub(super) fn settle(&self, limit: Duration) {
        let waits = |state: &mut State| !state.done && !state.stop;
        // What is not done by then is refused until it is.
        let _ = self
            .changed
            .wait_timeout_while(lock(&self.state), limit, waits);
    }

    pub(super) fn stop(&self) {
        lock(&self.state).stop = true;
        self.changed.notify_all();
    }

    pub(super) fn findings(&self) -> Findings {
        lock(&self.state).found.clone()
    }

    /// Waits for something to do: what to listen for. `None` at the end.
    pub(super) fn next(&self) -> Option<Want> {
        let unsaid = |state: &mut State| state.want.is_none() && !state.stop;
        let idle = |state: &mut State| !state.look && !state.stop;
        let said = self.changed.wait_while(lock(&self.state), unsaid);
        let said = said.unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(said, REGULARLY, idle)
            .unwrap_or_else(PoisonError::into_inner);
        state.look = false;
        state.want.filter(|_| !state.stop)
    }

    /// What was wanted is done, unless something else is by now.
    pub(super) fn done(&self, found: Findings) {
        let mut state = lock(&self.state);
        state.found = found;
        state.done = !state.look;
        self.changed.notify_all();
    }
}
