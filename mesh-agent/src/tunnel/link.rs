//! A TLS connection between two agents, without a notion of which side it is.

use std::io;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::broken::Broken;
use super::chains::{self, Chain};
use super::control::Control;
use super::outgoing::Outgoing;
use super::tls::{FRAGMENT, HEADER, Handshaken, Record, Tls};
use super::wire::{self, Decoder, Event, Frame, Preamble, WireError};
use super::{scratch, socket};

/// A connection between flows, or with one.
pub(super) struct Link {
    /// What the peer has proven itself with.
    pub(super) peer: Chain,
    pub(super) stream: TcpStream,
    pub(super) outgoing: Outgoing,
    pub(super) control: Control,
    tls: Box<Tls>,
    decoder: Decoder,
    /// Data that is opened but not decoded.
    plain: Vec<u8>,
    /// Records that are received but not opened.
    cipher: Vec<u8>,
    has_greeted: bool,
    /// Whether a RESET may still come for the flow before.
    expects_stray: bool,
    /// The server takes no further flow here.
    pub(super) is_last: bool,
    pub(super) has_said_goaway: bool,
}

/// What of the scratch buffer is not read yet.
pub(super) struct Incoming {
    plain: Range<usize>,
    cipher: Range<usize>,
    /// How many bytes came from the socket; `None`: it has no more now.
    pub(super) read: Option<usize>,
}

/// How a socket is read.
type Read = fn(&TcpStream, &mut [u8]) -> io::Result<usize>;

impl Link {
    pub(super) fn new(stream: TcpStream, handshaken: Handshaken) -> Self {
        let Handshaken {
            tls,
            plain,
            cipher,
            certificates,
            ..
        } = handshaken;
        Self {
            peer: chains::share(certificates),
            stream,
            outgoing: Outgoing::default(),
            control: Control::default(),
            tls,
            decoder: Decoder::new(),
            plain,
            cipher,
            has_greeted: false,
            expects_stray: false,
            is_last: false,
            has_said_goaway: false,
        }
    }

    /// Queues a frame, behind the preamble if that was not sent yet.
    pub(super) fn queue(&mut self, frame: &Frame) -> Result<(), Broken> {
        let out = self.outgoing.bytes();
        self.tls.prepare_to_seal(out)?;
        let start = out.len();
        out.resize(start + HEADER, 0);
        if !self.has_greeted {
            self.has_greeted = true;
            out.extend_from_slice(&Preamble::default().encode());
        }
        frame.encode(out)?;
        let length = out.len() - start - HEADER;
        out.resize(start + length + super::tls::OVERHEAD, 0);
        self.tls.seal(&mut out[start..], length)?;
        Ok(())
    }

    /// Queues what has to go before data; whether that is anything.
    pub(super) fn prepare_to_seal(&mut self) -> Result<bool, Broken> {
        self.tls.prepare_to_seal(self.outgoing.bytes())?;
        Ok(!self.outgoing.is_empty())
    }

    /// Seals `length` bytes that lie in `bytes` as [`Tls::seal`] wants them, and writes them.
    pub(super) fn send(&mut self, bytes: &mut [u8], length: usize) -> Result<(), Broken> {
        let sealed = self.tls.seal(bytes, length)?;
        let written = match socket::write(&self.stream, &bytes[..sealed]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            outcome => outcome?,
        };
        self.outgoing.keep(&bytes[written..sealed]);
        Ok(())
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let flushed = ready!(self.outgoing.poll_flush(&self.stream, context));
        Poll::Ready(flushed.map_err(Broken::from))
    }

    /// Fills the scratch buffer with what was left over and with at most `most` bytes of the
    /// socket. The socket is not read while something left over may be an event.
    pub(super) fn load(&mut self, bytes: &mut [u8], most: usize) -> Result<Incoming, Broken> {
        self.load_by(bytes, most, socket::read)
    }

    fn load_by(&mut self, bytes: &mut [u8], most: usize, read: Read) -> Result<Incoming, Broken> {
        let plain = 0..self.plain.len();
        let start = plain.end;
        let left = start + self.cipher.len();
        bytes[plain.clone()].copy_from_slice(&self.plain);
        bytes[start..left].copy_from_slice(&self.cipher);
        let mut incoming = Incoming {
            plain,
            cipher: start..left,
            read: Some(0),
        };
        if self.has_pending() {
            return Ok(incoming);
        }
        // Room for a whole record, whatever was asked for.
        let end = bytes.len().min(left + most.max(FRAGMENT));
        incoming.read = match read(&self.stream, &mut bytes[left..end]) {
            Ok(0) => return Err(Broken::Closed),
            Ok(length) => Some(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => return Err(error.into()),
        };
        incoming.cipher.end += incoming.read.unwrap_or(0);
        Ok(incoming)
    }

    /// Whether something left over may be an event.
    fn has_pending(&self) -> bool {
        !self.plain.is_empty() || super::tls::is_whole(&self.cipher)
    }

    /// The next event of the scratch buffer; data is a range of it.
    pub(super) fn next(
        &mut self,
        bytes: &mut [u8],
        incoming: &mut Incoming,
    ) -> Result<Option<Event>, Broken> {
        loop {
            let Incoming { plain, cipher, .. } = &mut *incoming;
            let event = self.decoder.next(&bytes[..plain.end], &mut plain.start)?;
            if event.is_some() {
                return Ok(event);
            }
            match self.tls.open(bytes, cipher)? {
                Some(Record::Data(range)) => *plain = range,
                Some(Record::Internal) => {}
                Some(Record::Closed) => return Err(Broken::Closed),
                None => return Ok(None),
            }
        }
    }

    /// Keeps what is left of the scratch buffer.
    pub(super) fn store(&mut self, bytes: &[u8], incoming: Incoming) {
        let Incoming { plain, cipher, .. } = incoming;
        replace(&mut self.plain, &bytes[plain]);
        replace(&mut self.cipher, &bytes[cipher]);
    }

    /// The next frame between flows; RESET of the flow before is skipped. Data has no place here.
    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Result<Frame, Broken>> {
        loop {
            if self.control.is_cut() {
                return Poll::Ready(Err(Broken::Cut));
            }
            match self.try_frame(socket::read)? {
                Some(frame) => return Poll::Ready(Ok(frame)),
                None => ready!(self.stream.poll_read_ready(context))?,
            }
        }
    }

    /// The next frame between flows, if it is there; `None` once the socket is empty.
    fn try_frame(&mut self, read: Read) -> Result<Option<Frame>, Broken> {
        scratch::with(|bytes| {
            loop {
                let mut incoming = self.load_by(bytes, FRAGMENT, read)?;
                let is_empty = incoming.read.is_none();
                let event = self.next(bytes, &mut incoming)?;
                self.store(bytes, incoming);
                match event {
                    Some(Event::Frame(Frame::Reset)) if self.expects_stray => {
                        self.expects_stray = false;
                    }
                    Some(Event::Frame(frame)) => return Ok(Some(frame)),
                    Some(Event::Data(_)) => return Err(WireError::Unexpected("DATA").into()),
                    Some(Event::Preamble(_)) => {}
                    None if is_empty => return Ok(None),
                    None => {}
                }
            }
        })
    }

    /// Whether the connection can take another flow: nothing has come but what may come between
    /// two flows. Does not wait.
    pub(super) fn is_usable(&mut self) -> bool {
        let is_cut = self.control.is_cut() || self.control.is_draining();
        let has_news = self.has_pending() || !socket::is_quiet(&self.stream);
        let is_intact = !has_news || matches!(self.try_frame(socket::read_nowait), Ok(None));
        is_intact && !is_cut && !self.is_last && self.outgoing.is_empty()
    }

    /// Between two flows from now on.
    pub(super) fn end_flow(&mut self, may_be_reset: bool) {
        self.expects_stray = may_be_reset;
    }

    /// Says goodbye, if the socket takes it at once.
    pub(super) fn close(mut self) {
        let out = self.outgoing.bytes();
        if self.tls.close(out).is_ok() {
            // The peer learns it from the end of the connection otherwise.
            let _ = socket::write(&self.stream, out);
        }
    }

    /// For tests of the key's limit.
    #[cfg(test)]
    pub(super) fn tls(&mut self) -> &mut Tls {
        &mut self.tls
    }
}

fn replace(kept: &mut Vec<u8>, left: &[u8]) {
    if left.is_empty() {
        if kept.capacity() > 0 {
            *kept = Vec::new();
        }
    } else {
        *kept = left.to_vec();
    }
}

const _: () = assert!(wire::MAX_CONTROL + wire::HEADER + Preamble::LENGTH <= FRAGMENT);
