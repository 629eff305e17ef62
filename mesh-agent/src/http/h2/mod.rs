//! HTTP/2 connections: frames with their times, to requests and how they went.
//!
//! Only what [`FrameHeader::kept`] wants is needed of a connection, all of it and in order:
//! header blocks refer to earlier ones, so nothing can be known behind one that is missing.

mod half;
#[cfg(test)]
mod peers;
mod streams;
#[cfg(test)]
mod tests;

use mesh_common::http::{Method, Side, Unparsed};
use mesh_common::http2::{FrameHeader, Piece, Walk, frame_flag, frame_kind};

use self::half::{Block, Half, Told};
use self::streams::{Head, Streams};
use super::Outcome;
use super::hpack::{Decoder, Field, HpackError};

/// What is known of a connection. After an error nothing more can be.
#[derive(Debug, Default)]
pub struct Connection {
    client: Half,
    server: Half,
    streams: Streams,
}

impl Connection {
    /// A frame begins that is [kept](FrameHeader::kept); its payload has to follow if that is.
    ///
    /// `at` is the time, nanoseconds since whenever; it has to be the same clock for all. Requests
    /// that are over with this are given to `told`.
    ///
    /// # Errors
    ///
    /// See [`Unparsed`].
    pub fn frame(
        &mut self,
        from: Side,
        at: u64,
        frame: FrameHeader,
        told: &mut impl FnMut(Outcome),
    ) -> Result<(), Unparsed> {
        let half = match from {
            Side::Requests => &mut self.client,
            Side::Responses => &mut self.server,
        };
        half.frame(frame, at)?;
        match (frame.kind, from) {
            (frame_kind::RST_STREAM, _) | (frame_kind::DATA, Side::Responses) => {
                self.streams.end(frame.stream, told);
            }
            (frame_kind::PUSH_PROMISE, Side::Requests) => return Err(Unparsed::Malformed),
            (frame_kind::HEADERS | frame_kind::CONTINUATION | frame_kind::PUSH_PROMISE, _)
                if frame.length == 0 =>
            {
                self.payload(from, &[], told)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A part of the payload of the frame that began last on this side.
    ///
    /// # Errors
    ///
    /// See [`Unparsed`].
    pub fn payload(
        &mut self,
        from: Side,
        part: &[u8],
        told: &mut impl FnMut(Outcome),
    ) -> Result<(), Unparsed> {
        let Self {
            client,
            server,
            streams,
        } = self;
        match from {
            Side::Requests => client.payload(part, |hpack, what| asked(streams, hpack, what)),
            Side::Responses => {
                server.payload(part, |hpack, what| answered(streams, hpack, what, told))
            }
        }
    }

    /// The connection has ended: what is in flight will not be answered.
    pub fn end(&mut self, told: &mut impl FnMut(Outcome)) {
        self.streams.end_after(0, told);
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.streams.len()
    }

    /// Memory that it takes, bytes.
    pub fn held(&self) -> usize {
        size_of::<Self>() + self.client.held() + self.server.held() + self.streams.held()
    }
}

/// A connection of which all bytes are at hand, without the client's preface.
#[derive(Debug, Default)]
pub struct Bytes {
    connection: Connection,
    client: Walk,
    server: Walk,
}

impl Bytes {
    /// The next bytes of one side, at the time `at` (see [`Connection::frame`]).
    ///
    /// # Errors
    ///
    /// See [`Unparsed`].
    pub fn pass(
        &mut self,
        from: Side,
        at: u64,
        mut bytes: &[u8],
        told: &mut impl FnMut(Outcome),
    ) -> Result<(), Unparsed> {
        let walk = match from {
            Side::Requests => &mut self.client,
            Side::Responses => &mut self.server,
        };
        while let Some(piece) = walk.next(from, &mut bytes) {
            match piece {
                Piece::Frame(frame) => self.connection.frame(from, at, frame, told)?,
                Piece::Payload(part) => self.connection.payload(from, part, told)?,
                Piece::Unsound => return Err(Unparsed::NotHttp),
            }
        }
        Ok(())
    }

    /// The connection has ended.
    pub fn end(&mut self, told: &mut impl FnMut(Outcome)) {
        self.connection.end(told);
    }

    /// Memory that it takes, bytes.
    pub fn held(&self) -> usize {
        self.connection.held() + 2 * size_of::<Walk>()
    }
}

/// The client has said something.
fn asked(streams: &mut Streams, hpack: &mut Decoder, what: Told<'_>) -> Result<(), Unparsed> {
    match what {
        Told::Block(Block { frame, at }, bytes) => {
            let head = read(hpack, bytes)?;
            let method = head.method.unwrap_or(Method::Other);
            streams.request(frame.stream, at, method)
        }
        // It has no streams of its own to lose.
        Told::GoAway(_) => Ok(()),
    }
}

/// The server has.
fn answered(
    streams: &mut Streams,
    hpack: &mut Decoder,
    what: Told<'_>,
    told: &mut impl FnMut(Outcome),
) -> Result<(), Unparsed> {
    let (Block { frame, at }, bytes) = match what {
        Told::Block(block, bytes) => (block, bytes),
        Told::GoAway(last) => {
            streams.end_after(last, told);
            return Ok(());
        }
    };
    let head = read(hpack, bytes)?;
    if frame.kind == frame_kind::PUSH_PROMISE {
        return Ok(());
    }
    streams.response(frame.stream, at, &head)?;
    if frame.has(frame_flag::END_STREAM) {
        streams.end(frame.stream, told);
    }
    Ok(())
}

fn read(hpack: &mut Decoder, bytes: &[u8]) -> Result<Head, Unparsed> {
    let mut head = Head::default();
    hpack.decode(bytes, |field| match field {
        Field::Method(method) => head.method = Some(method),
        Field::Status(status) => head.status = Some(status),
        Field::Grpc(status) => head.grpc = status,
        Field::Other => {}
    })?;
    Ok(head)
}

impl From<HpackError> for Unparsed {
    fn from(error: HpackError) -> Self {
        match error {
            HpackError::Malformed => Self::Malformed,
            HpackError::TableSize => Self::HeaderTable,
        }
    }
}
