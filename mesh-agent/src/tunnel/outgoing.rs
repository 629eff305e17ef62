//! Bytes that a socket has not taken yet.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::socket;

/// A queue that has memory only while something is in it.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is appended is sent after the rest.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Copies what a write has not moved.
    pub(super) fn keep(&mut self, rest: &[u8]) {
        self.bytes.extend_from_slice(rest);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes all of it.
    pub(super) fn poll_flush(
        &mut self,
        stream: &TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            match socket::write(stream, &self.bytes[self.written..]) {
                Ok(part) => self.written += part,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(stream.poll_write_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !self.bytes.is_empty() {
            self.clear();
        }
        Poll::Ready(Ok(()))
    }
}
