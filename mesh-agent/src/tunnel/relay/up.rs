//! From the application into the tunnel.

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use super::super::broken::Broken;
use super::super::scratch::{SLOTS, WINDOW};
use super::super::tls::{FRAGMENT, HEADER, SLOT};
use super::super::wire::{self, data_header};
use super::super::{scratch, socket};
use super::{Flow, Terminal, next_window};

/// What a read of the application gave.
enum Step {
    Moved(usize),
    End,
    Empty,
    Failed,
}

impl Flow {
    /// Moves what can be moved; whether that was anything.
    pub(super) fn poll_up(&mut self, context: &mut Context<'_>) -> Result<bool, Broken> {
        let had_work = !self.link.outgoing.is_empty();
        match self.link.poll_flush(context)? {
            Poll::Pending => return Ok(false),
            Poll::Ready(()) if self.sent.is_some() => return Ok(had_work),
            Poll::Ready(()) => {}
        }
        if self.link.prepare_to_seal()? {
            return Ok(true);
        }
        match self.step_up()? {
            Step::Moved(length) => self.link.control.add_sent(length),
            Step::End => self.send_terminal(Terminal::End)?,
            Step::Failed => self.app_is_gone()?,
            Step::Empty => return self.is_app_readable(context),
        }
        Ok(true)
    }

    fn is_app_readable(&mut self, context: &mut Context<'_>) -> Result<bool, Broken> {
        let ready = self.app.as_ref().map(|app| app.poll_read_ready(context));
        match ready {
            None | Some(Poll::Pending) => Ok(false),
            Some(Poll::Ready(Ok(()))) => Ok(true),
            Some(Poll::Ready(Err(_shutdown))) => {
                self.app_is_gone()?;
                Ok(true)
            }
        }
    }

    /// Reads into the places of the records' payloads, seals them there, and writes them.
    fn step_up(&mut self) -> Result<Step, Broken> {
        let Some(app) = &self.app else {
            return Ok(Step::Empty);
        };
        let slots = self.up_window.div_ceil(SLOT).min(SLOTS);
        scratch::with(|bytes| {
            let read = match read_into_slots(app, bytes, slots) {
                Ok(0) => return Ok(Step::End),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Empty),
                Err(_reset) => return Ok(Step::Failed),
            };
            if let Some(tap) = &mut self.tap {
                // Before it is sealed where it lies.
                payloads(bytes, read).for_each(|part| tap.sent(part));
            }
            bytes[HEADER..HEADER + wire::HEADER].copy_from_slice(&data_header(read));
            self.link.send(bytes, wire::HEADER + read)?;
            let moved = if read == room(slots) { WINDOW } else { read };
            self.up_window = next_window(self.up_window, moved);
            Ok(Step::Moved(read))
        })
    }
}

/// Reads what the payloads of `slots` records hold, behind the header of one frame.
fn read_into_slots(app: &TcpStream, bytes: &mut [u8], slots: usize) -> io::Result<usize> {
    let mut chunks = bytes.chunks_exact_mut(SLOT);
    let mut places: [IoSliceMut<'_>; SLOTS] = std::array::from_fn(|index| {
        let skipped = if index == 0 { wire::HEADER } else { 0 };
        let chunk = chunks.next().unwrap_or_default();
        IoSliceMut::new(&mut chunk[HEADER + skipped..HEADER + FRAGMENT])
    });
    socket::read_vectored(app, &mut places[..slots], room(slots))
}

/// What [`read_into_slots`] has read, in order.
fn payloads(bytes: &[u8], read: usize) -> impl Iterator<Item = &[u8]> {
    let (mut left, mut skipped) = (read, wire::HEADER);
    bytes.chunks_exact(SLOT).map_while(move |chunk| {
        let payload = &chunk[HEADER + skipped..HEADER + FRAGMENT];
        let length = payload.len().min(left);
        left -= length;
        skipped = 0;
        (length > 0).then(|| &payload[..length])
    })
}

/// Data that `slots` records hold, bytes.
fn room(slots: usize) -> usize {
    slots * FRAGMENT - wire::HEADER
}
