//! What others may ask of a connection while its own task drives it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

/// A handle on a connection, for the worker that has it.
#[derive(Clone, Debug, Default)]
pub struct Control(Rc<State>);

#[derive(Debug, Default)]
struct State {
    cut: Cell<bool>,
    drain: Cell<bool>,
    sent: Cell<u64>,
    received: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

impl Control {
    /// Ends the connection at once. The flow that it carries is reset on both sides.
    pub fn cut(&self) {
        self.0.cut.set(true);
        self.wake();
    }

    /// Ends the connection after the flow that it carries. The server's side tells the client so
    /// (GOAWAY); what is idle ends now.
    pub fn drain(&self) {
        self.0.drain.set(true);
        self.wake();
    }

    /// Bytes that the application has sent in the flow, or the last one.
    pub fn sent(&self) -> u64 {
        self.0.sent.get()
    }

    /// Bytes that came for the application in the flow, or the last one.
    pub fn received(&self) -> u64 {
        self.0.received.get()
    }

    pub(super) fn is_cut(&self) -> bool {
        self.0.cut.get()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.0.drain.get()
    }

    pub(super) fn add_sent(&self, bytes: usize) {
        self.0.sent.set(self.0.sent.get() + bytes as u64);
    }

    pub(super) fn add_received(&self, bytes: usize) {
        self.0.received.set(self.0.received.get() + bytes as u64);
    }

    pub(super) fn begin_flow(&self) {
        self.0.sent.set(0);
        self.0.received.set(0);
    }

    /// Has the task that polls woken by [`Control::cut`] and [`Control::drain`].
    pub(super) fn register(&self, context: &Context<'_>) {
        let mut waker = self.0.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
    }

    fn wake(&self) {
        let waker = self.0.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
