//! Messages after the handshake: tickets and key updates (RFC 8446, 4.6).

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

use super::Secret;
use super::open::unexpected;

/// A key update that asks for none in return.
pub(super) const KEY_UPDATE: [u8; 5] = [UPDATE, 0, 0, 1, 0];

const TICKET: u8 = 4;
const UPDATE: u8 = 24;
/// Type and length of a handshake message.
const HEADER: usize = 4;
/// Longest message that is taken, bytes.
const LONGEST: usize = 16 * 1024;

/// The key schedule, which stays with rustls.
pub(super) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// What comes after the handshake.
pub(super) struct PostHandshake {
    kernel: Kernel,
    /// The beginning of a message that several records carry.
    partial: Vec<u8>,
    owes_update: bool,
}

impl PostHandshake {
    pub(super) fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            partial: Vec::new(),
            owes_update: false,
        }
    }

    /// Whether the peer has asked for a key update since the last call.
    pub(super) fn take_owed_update(&mut self) -> bool {
        std::mem::take(&mut self.owes_update)
    }

    pub(super) fn next_sending(&mut self) -> Result<Secret, rustls::Error> {
        match &mut self.kernel {
            Kernel::Client(kernel) => kernel.update_tx_secret(),
            Kernel::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    fn next_receiving(&mut self) -> Result<Secret, rustls::Error> {
        match &mut self.kernel {
            Kernel::Client(kernel) => kernel.update_rx_secret(),
            Kernel::Server(kernel) => kernel.update_rx_secret(),
        }
    }

    /// Takes a record's messages; the key of what follows, if it is another one.
    pub(super) fn receive(&mut self, payload: &[u8]) -> Result<Option<Secret>, rustls::Error> {
        self.partial.extend_from_slice(payload);
        let messages = std::mem::take(&mut self.partial);
        let mut rest = &messages[..];
        let mut receiving = None;
        while let Some(length) = message_length(rest)? {
            // Nothing may follow in the record (RFC 8446, 5.1).
            if receiving.is_some() {
                return Err(unexpected("message behind a key update"));
            }
            let (message, behind) = rest.split_at(length);
            receiving = self.message(message[0], &message[HEADER..])?;
            rest = behind;
        }
        if receiving.is_some() && !rest.is_empty() {
            return Err(unexpected("message behind a key update"));
        }
        self.partial = rest.to_vec();
        Ok(receiving)
    }

    fn message(&mut self, kind: u8, body: &[u8]) -> Result<Option<Secret>, rustls::Error> {
        match (kind, body, &mut self.kernel) {
            (TICKET, ticket, Kernel::Client(kernel)) => {
                kernel.handle_new_session_ticket(ticket)?;
                Ok(None)
            }
            (UPDATE, [request @ (0 | 1)], _) => {
                self.owes_update |= *request == 1;
                self.next_receiving().map(Some)
            }
            _ => Err(unexpected("message")),
        }
    }
}

/// Length of the message that `bytes` begin with; `None` if it is not complete.
fn message_length(bytes: &[u8]) -> Result<Option<usize>, rustls::Error> {
    let Some(&[_, high, middle, low]) = bytes.first_chunk() else {
        return Ok(None);
    };
    let length = HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
    if length > LONGEST {
        return Err(unexpected("length of a message"));
    }
    Ok((bytes.len() >= length).then_some(length))
}
