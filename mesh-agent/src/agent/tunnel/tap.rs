//! Requests of calls to other nodes, read off what the tunnel carries for them.

use std::sync::Arc;
use std::time::Instant;

use mesh_common::http::{Side, Unparsed};

use super::super::calls::{Calls, Route, Tally};
use crate::http::{Conversation, Outcome};
use crate::telemetry::snapshot::RequestProtocol;
use crate::tunnel;

/// Looks at one flow.
pub(super) struct Tap {
    calls: Arc<Calls>,
    tally: Arc<Tally>,
    service: u32,
    conversation: Conversation,
    began: Instant,
}

impl Tap {
    /// A look at a flow of `route`; `None` if there is no room to count its requests.
    pub(super) fn new(calls: &Arc<Calls>, route: Route) -> Option<Self> {
        let is_grpc = route.protocol == RequestProtocol::Grpc;
        Some(Self {
            tally: calls.tally(route)?,
            calls: Arc::clone(calls),
            service: route.service,
            conversation: Conversation::new(is_grpc, &calls.memory),
            began: Instant::now(),
        })
    }

    fn pass(&mut self, from: Side, bytes: &[u8]) {
        let at = self.began.elapsed().as_nanos() as u64;
        let mut told = |outcome: Outcome| self.tally.add(outcome);
        let passed = self.conversation.pass(from, at, bytes, &mut told);
        if let Err(why) = passed {
            self.unparsed(why);
        }
    }

    fn unparsed(&self, why: Unparsed) {
        self.calls.unparsed(self.service, why);
    }
}

impl tunnel::Tap for Tap {
    fn sent(&mut self, bytes: &[u8]) {
        self.pass(Side::Requests, bytes);
    }

    fn received(&mut self, bytes: &[u8]) {
        self.pass(Side::Responses, bytes);
    }
}

impl Drop for Tap {
    /// The flow has ended, in whatever way.
    fn drop(&mut self) {
        let mut told = |outcome: Outcome| self.tally.add(outcome);
        self.conversation.end(&mut told);
    }
}
