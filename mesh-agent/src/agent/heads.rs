//! HTTP/2 connections that the kernel programs follow: what they hand over, to requests.
//!
//! Comes in: records of frames, in the order in which they were seen. Goes out: counted requests.
//! A connection of which a record is missing is not followed any further, and counted as such.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use mesh_common::http::{Side, Unparsed, request_bit};
use mesh_common::http2::{Head, head_flag};

use super::calls::{Calls, Route, Tally};
use crate::http::h2::Connection;
use crate::http::{Outcome, Share};
use crate::telemetry::snapshot::{Crossing, RequestProtocol};

/// Most connections that are followed at a time.
const MOST: usize = 4096;

/// See the module.
pub(crate) struct Heads {
    calls: Arc<Calls>,
    open: HashMap<u64, Followed, RandomState>,
}

/// A connection.
struct Followed {
    /// `None` once it cannot be followed any further.
    connection: Option<Box<Connection>>,
    share: Share,
    /// Known once the client has said something.
    tally: Option<Arc<Tally>>,
    /// Numbers of the next records of each direction.
    next: [u32; 2],
    /// When it was last heard of.
    last: u64,
}

impl Heads {
    pub(crate) fn new(calls: Arc<Calls>) -> Self {
        Self {
            calls,
            open: HashMap::default(),
        }
    }

    /// Takes a record from the ring buffer.
    pub(crate) fn take(&mut self, record: &[u8]) {
        let Some((head, bytes)) = Head::from_bytes(record) else {
            return;
        };
        if head.flags & head_flag::CLOSED != 0 {
            self.close(&head);
            return;
        }
        if !self.open.contains_key(&head.cookie) {
            self.make_room();
        }
        let share = || self.calls.memory.share();
        let followed = self
            .open
            .entry(head.cookie)
            .or_insert_with(|| Followed::new(share()));
        followed.last = head.time_ns;
        let failed = followed.take(&self.calls, &head, bytes).err();
        if let Some(why) = failed {
            followed.stop();
            self.calls.unparsed(head.service, why);
        }
    }

    fn close(&mut self, head: &Head) {
        let Some(mut followed) = self.open.remove(&head.cookie) else {
            return;
        };
        let is_over = head.flags & head_flag::OVER != 0;
        if let (false, Some(connection), Some(tally)) =
            (is_over, &mut followed.connection, &followed.tally)
        {
            connection.end(&mut |outcome| tally.add(outcome));
        }
    }

    /// Forgets a connection that has been silent for longest, if there are too many. Its end may
    /// have been lost; if it goes on, it is one of which something was missed.
    fn make_room(&mut self) {
        if self.open.len() < MOST {
            return;
        }
        let oldest = self.open.iter().min_by_key(|(_, followed)| followed.last);
        if let Some(cookie) = oldest.map(|(cookie, _)| *cookie) {
            self.open.remove(&cookie);
        }
    }
}

impl Followed {
    fn new(share: Share) -> Self {
        Self {
            connection: Some(Box::default()),
            share,
            tally: None,
            next: [0; 2],
            last: 0,
        }
    }

    fn take(&mut self, calls: &Calls, head: &Head, bytes: &[u8]) -> Result<(), Unparsed> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let (from, next) = match head.flags & head_flag::RESPONSES {
            0 => (Side::Requests, &mut self.next[0]),
            _ => (Side::Responses, &mut self.next[1]),
        };
        if *next != head.number {
            return Err(Unparsed::Lost);
        }
        *next += 1;
        if from == Side::Requests && self.tally.is_none() {
            let tally = calls.tally(route(head));
            self.tally = Some(tally.ok_or(Unparsed::NoStorage)?);
        }
        let tally = self.tally.as_deref();
        let mut told = |outcome: Outcome| {
            if let Some(tally) = tally {
                tally.add(outcome);
            }
        };
        if head.flags & head_flag::BEGINS != 0 {
            connection.frame(from, head.time_ns, head.frame, &mut told)?;
        }
        if !bytes.is_empty() {
            connection.payload(from, bytes, &mut told)?;
        }
        self.share.set(connection.held())
    }

    fn stop(&mut self) {
        self.connection = None;
        self.tally = None;
        // Less always fits.
        let _ = self.share.set(0);
    }
}

fn route(head: &Head) -> Route {
    Route {
        source: head.source,
        service: head.service,
        version: head.version,
        crossing: match head.bits & request_bit::MUTUAL_TLS {
            0 => Crossing::None,
            _ => Crossing::Inbound,
        },
        protocol: match head.bits & request_bit::GRPC {
            0 => RequestProtocol::Http,
            _ => RequestProtocol::Grpc,
        },
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::http2::{FrameHeader, frame_flag, frame_kind};

    use super::super::names::Names;
    use super::*;
    use crate::telemetry::snapshot::Snapshot;

    fn record(head: &Head, bytes: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        record.extend(head.time_ns.to_ne_bytes());
        record.extend(head.cookie.to_ne_bytes());
        let words = [head.source, head.service, head.version, head.bits];
        let of_frame = [head.frame.length, head.frame.stream];
        for word in words.into_iter().chain(of_frame) {
            record.extend(word.to_ne_bytes());
        }
        record.extend([head.frame.kind, head.frame.flags, 0, 0]);
        for word in [head.number, head.flags, bytes.len() as u32] {
            record.extend(word.to_ne_bytes());
        }
        record.extend(bytes);
        record
    }

    fn headers(cookie: u64, number: u32, from: u32, stream: u32, block: &[u8]) -> Vec<u8> {
        let head = Head {
            cookie,
            number,
            service: 7,
            bits: request_bit::GRPC,
            flags: from | head_flag::BEGINS,
            frame: FrameHeader {
                length: block.len() as u32,
                stream,
                kind: frame_kind::HEADERS,
                flags: frame_flag::END_HEADERS | frame_flag::END_STREAM,
                _pad: 0,
            },
            ..Head::default()
        };
        record(&head, block)
    }

    fn closed(cookie: u64, flags: u32) -> Vec<u8> {
        let head = Head {
            cookie,
            flags: head_flag::CLOSED | flags,
            ..Head::default()
        };
        record(&head, &[])
    }

    const POST: &[u8] = &[0x83];
    const ANSWER: &[u8] = &[0x8e];
    const SERVER: u32 = head_flag::RESPONSES;

    /// Counts, by code and by reason.
    type Told = (Vec<(u16, u64)>, Vec<(Unparsed, u64)>);

    fn told(heads: &Heads) -> Told {
        let mut snapshot = Snapshot::default();
        heads.calls.tell(&mut snapshot, &Names::default());
        let requests = snapshot.requests.iter();
        let unparsed = snapshot.unparsed.iter();
        (
            requests.map(|s| (s.response_code, s.count)).collect(),
            unparsed.map(|s| (s.reason, s.count)).collect(),
        )
    }

    #[test]
    fn records_of_many_connections_are_kept_apart() {
        let mut heads = Heads::new(Arc::new(Calls::new(4 << 20)));
        for cookie in [1, 2] {
            heads.take(&headers(cookie, 0, 0, 1, POST));
            heads.take(&headers(cookie, 1, 0, 3, POST));
        }
        heads.take(&headers(2, 0, SERVER, 1, ANSWER));
        assert_eq!(told(&heads), (vec![(500, 1)], vec![]));
        heads.take(&closed(1, 0));
        heads.take(&closed(2, 0));
        heads.take(&closed(3, 0));
        assert_eq!(told(&heads), (vec![(0, 3), (500, 1)], vec![]));
        assert_eq!(heads.calls.memory.held(), 0);
    }

    #[test]
    fn a_record_that_is_missing_ends_it_and_is_counted_once() {
        let mut heads = Heads::new(Arc::new(Calls::new(4 << 20)));
        heads.take(&headers(1, 0, 0, 1, POST));
        heads.take(&headers(1, 2, 0, 3, POST));
        heads.take(&headers(1, 3, 0, 5, POST));
        heads.take(&headers(1, 0, SERVER, 1, ANSWER));
        heads.take(&closed(1, 0));
        // One that began before there was anybody to follow it.
        heads.take(&headers(2, 9, 0, 1, POST));
        heads.take(&closed(2, 0));
        // One that the kernel has given up, which it has counted.
        heads.take(&headers(3, 0, 0, 1, POST));
        heads.take(&closed(3, head_flag::OVER));
        assert_eq!(told(&heads), (vec![], vec![(Unparsed::Lost, 2)]));
        assert_eq!(heads.calls.memory.held(), 0);
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut heads = Heads::new(Arc::new(Calls::new(4 << 20)));
        for cookie in 0..=MOST as u64 {
            heads.take(&headers(cookie, 0, 0, 1, POST));
        }
        assert_eq!(heads.open.len(), MOST);
    }
}
