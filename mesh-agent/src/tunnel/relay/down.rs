//! Out of the tunnel to the application.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::task::{Context, Poll};

use super::super::broken::Broken;
use super::super::link::Incoming;
use super::super::wire::{Event, Frame, WireError};
use super::super::{scratch, socket};
use super::{Flow, Terminal, next_window};

/// What may come after RESET was sent, bytes: more costs more than another handshake.
const DISCARD: usize = 1024 * 1024;

/// Ranges that one write takes: as many as a window has records, and some.
const BATCH: usize = 24;

/// Data that is about to be written, as ranges of the scratch buffer.
struct Batch {
    ranges: [Range<usize>; BATCH],
    count: usize,
}

impl Flow {
    /// Moves what can be moved; whether that was anything.
    pub(super) fn poll_down(&mut self, context: &mut Context<'_>) -> Result<bool, Broken> {
        if !self.poll_deliver(context)? {
            return Ok(false);
        }
        if self.received == Some(Terminal::End) && !self.is_finished {
            self.finish_app();
            return Ok(true);
        }
        if !self.expects_more() {
            return Ok(false);
        }
        match self.step_down()? {
            true => Ok(true),
            false => match self.link.stream.poll_read_ready(context)? {
                Poll::Ready(()) => Ok(true),
                Poll::Pending => Ok(false),
            },
        }
    }

    /// Whether the application has all there is.
    fn poll_deliver(&mut self, context: &mut Context<'_>) -> Result<bool, Broken> {
        let Some(app) = &self.app else {
            return Ok(true);
        };
        match self.undelivered.poll_flush(app, context) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_reset)) => self.app_is_gone()?,
        }
        Ok(true)
    }

    /// Passes the peer's FIN on.
    fn finish_app(&mut self) {
        if let Some(app) = &self.app {
            socket::finish(app);
        }
        self.is_finished = true;
    }

    /// Whether a frame of this flow may come. Until the peer knows how this side has ended, its
    /// own END may be followed by RESET; after that, by the next flow.
    fn expects_more(&self) -> bool {
        match self.received {
            None => true,
            Some(Terminal::End) => self.sent.is_none(),
            Some(Terminal::Reset) => false,
        }
    }

    /// Reads, opens in place, and writes; whether anything was read.
    fn step_down(&mut self) -> Result<bool, Broken> {
        scratch::with(|bytes| {
            let window = self.down_window;
            let mut incoming = self.link.load(bytes, window)?;
            let Some(read) = incoming.read else {
                return Ok(false);
            };
            self.down_window = next_window(window, read);
            self.take(bytes, &mut incoming)?;
            self.link.store(bytes, incoming);
            Ok(true)
        })
    }

    /// Takes events until there is none or the flow's last one.
    fn take(&mut self, bytes: &mut [u8], incoming: &mut Incoming) -> Result<(), Broken> {
        let mut batch = Batch::new();
        while self.expects_more() {
            match self.link.next(bytes, incoming)? {
                None => break,
                Some(Event::Data(_)) if self.received.is_some() => {
                    return Err(WireError::Unexpected("DATA").into());
                }
                Some(Event::Data(range)) => {
                    if batch.is_full() {
                        self.deliver(bytes, &mut batch)?;
                    }
                    batch.push(range);
                }
                Some(Event::Preamble(_)) => {}
                Some(Event::Frame(frame)) => {
                    self.deliver(bytes, &mut batch)?;
                    self.take_frame(&frame)?;
                }
            }
        }
        self.deliver(bytes, &mut batch)
    }

    fn take_frame(&mut self, frame: &Frame) -> Result<(), Broken> {
        match frame {
            Frame::End if self.received.is_none() => self.received = Some(Terminal::End),
            Frame::Reset => {
                self.received = Some(Terminal::Reset);
                self.peer_has_reset()?;
            }
            Frame::GoAway if !self.is_server => self.link.is_last = true,
            out_of_turn => return Err(WireError::Unexpected(out_of_turn.name()).into()),
        }
        Ok(())
    }

    /// Writes a batch to the application; what it does not take is kept.
    fn deliver(&mut self, bytes: &[u8], batch: &mut Batch) -> Result<(), Broken> {
        let length = batch.length();
        if length == 0 {
            return Ok(());
        }
        let Some(app) = &self.app else {
            batch.clear();
            return self.discard(length);
        };
        self.link.control.add_received(length);
        if let Some(tap) = &mut self.tap {
            batch.ranges().for_each(|range| tap.received(&bytes[range]));
        }
        let written = match self.undelivered.is_empty() {
            false => Ok(0),
            true => socket::write_vectored(app, &batch.slices(bytes)[..batch.count], length),
        };
        match written {
            Ok(written) => batch.keep(written, bytes, &mut self.undelivered),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                batch.keep(0, bytes, &mut self.undelivered);
            }
            Err(_reset) => self.app_is_gone()?,
        }
        batch.clear();
        Ok(())
    }

    fn discard(&mut self, length: usize) -> Result<(), Broken> {
        self.discarded += length;
        match self.discarded > DISCARD {
            true => Err(Broken::Unended),
            false => Ok(()),
        }
    }
}

impl Batch {
    fn new() -> Self {
        Self {
            ranges: [const { 0..0 }; BATCH],
            count: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.count == BATCH
    }

    fn push(&mut self, range: Range<usize>) {
        self.ranges[self.count] = range;
        self.count += 1;
    }

    fn clear(&mut self) {
        self.count = 0;
    }

    fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.ranges[..self.count].iter().cloned()
    }

    fn length(&self) -> usize {
        self.ranges().map(|range| range.len()).sum()
    }

    fn slices<'b>(&self, bytes: &'b [u8]) -> [IoSlice<'b>; BATCH] {
        let mut slices = [IoSlice::new(&[]); BATCH];
        for (slice, range) in slices.iter_mut().zip(self.ranges()) {
            *slice = IoSlice::new(&bytes[range]);
        }
        slices
    }

    /// Copies what is behind the first `written` bytes.
    fn keep(&self, mut written: usize, bytes: &[u8], rest: &mut super::Outgoing) {
        for range in self.ranges() {
            let skipped = written.min(range.len());
            written -= skipped;
            rest.keep(&bytes[range.start + skipped..range.end]);
        }
    }
}
