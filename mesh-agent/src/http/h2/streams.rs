//! Requests that are in flight.

use std::collections::VecDeque;

use mesh_common::http::{Method, Unparsed};

use super::super::Outcome;

/// Most requests in flight of one connection. Servers allow 100 or 128 mostly.
pub(super) const MOST: usize = 1024;

/// What a header block said.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    pub(super) method: Option<Method>,
    pub(super) status: Option<u16>,
    pub(super) grpc: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Nanoseconds.
    began: u64,
    waited: u64,
    id: u32,
    /// 0 until there is one that is final.
    code: u16,
    grpc: Option<u8>,
    method: Method,
}

/// See the module. Clients number their streams upwards, so these are in order.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: VecDeque<Stream>,
    /// The highest there was.
    newest: u32,
}

impl Streams {
    /// The client has sent a header block. Trailers have no say.
    pub(super) fn request(&mut self, id: u32, at: u64, method: Method) -> Result<(), Unparsed> {
        if id <= self.newest {
            return Ok(());
        }
        if id.is_multiple_of(2) {
            return Err(Unparsed::Malformed);
        }
        if self.open.len() >= MOST {
            return Err(Unparsed::Pipeline);
        }
        self.newest = id;
        self.open.push_back(Stream {
            began: at,
            waited: 0,
            id,
            code: 0,
            grpc: None,
            method,
        });
        Ok(())
    }

    /// The server has sent a header block, the trailers included.
    pub(super) fn response(&mut self, id: u32, at: u64, head: &Head) -> Result<(), Unparsed> {
        if id.is_multiple_of(2) {
            // Pushed: nobody has asked for it.
            return Ok(());
        }
        if id > self.newest {
            return Err(Unparsed::Malformed);
        }
        let Some(stream) = self.find(id).and_then(|index| self.open.get_mut(index)) else {
            return Ok(());
        };
        if let Some(code @ 200..) = head.status
            && stream.code == 0
        {
            stream.code = code;
            stream.waited = at.saturating_sub(stream.began);
        }
        stream.grpc = head.grpc.or(stream.grpc);
        Ok(())
    }

    /// The stream has ended, so or so.
    pub(super) fn end(&mut self, id: u32, told: &mut impl FnMut(Outcome)) {
        if let Some(stream) = self.find(id).and_then(|index| self.open.remove(index)) {
            told(stream.outcome());
        }
    }

    /// Streams above `last` have ended.
    pub(super) fn end_after(&mut self, last: u32, told: &mut impl FnMut(Outcome)) {
        let kept = self.open.partition_point(|stream| stream.id <= last);
        for stream in self.open.drain(kept..) {
            told(stream.outcome());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Memory, bytes.
    pub(super) fn held(&self) -> usize {
        self.open.capacity() * size_of::<Stream>()
    }

    fn find(&self, id: u32) -> Option<usize> {
        self.open.binary_search_by_key(&id, |stream| stream.id).ok()
    }
}

impl Stream {
    fn outcome(&self) -> Outcome {
        Outcome {
            method: self.method,
            code: self.code,
            grpc: self.grpc,
            waited: (self.code != 0).then_some(self.waited),
        }
    }
}

const _: () = assert!(size_of::<Stream>() == 32);
