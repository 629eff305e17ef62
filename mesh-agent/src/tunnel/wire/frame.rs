//! Frames: a type, a length and a payload.

use super::open::unknown_extension;
use super::{HEADER, Open, WireError};

/// Longest payload of a frame other than DATA, bytes.
pub const MAX_CONTROL: usize = 1024;

/// Longest payload of a DATA frame, bytes: its length has 24 bits.
pub const MAX_DATA: usize = (1 << 24) - 1;

/// Bit of a type that allows to skip a frame that is not known.
const OPTIONAL: u8 = 0x80;

const OPEN: u8 = 1;
const OPENED: u8 = 2;
const REFUSED: u8 = 3;
pub(super) const DATA: u8 = 4;
const END: u8 = 5;
const RESET: u8 = 6;
const GOAWAY: u8 = 7;

/// A frame other than DATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The client asks for a flow.
    Open(Box<Open>),
    /// The server has it.
    Opened,
    /// The server refuses it.
    Refused(Code),
    /// The sender's application sends no more: FIN.
    End,
    /// The flow is over in both directions: RST.
    Reset,
    /// The server takes no further flow on this connection.
    GoAway,
}

/// Why a flow is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// The policy does not allow it.
    Denied = 1,
    /// The proven identities do not fit what was asked for.
    Identity = 2,
    /// The server does not host the endpoint.
    UnknownEndpoint = 3,
    /// Nobody listens on the endpoint.
    ConnectRefused = 4,
    /// The endpoint did not answer in time.
    ConnectTimeout = 5,
    /// There is no route to the endpoint.
    Unreachable = 6,
    /// The server is about to stop.
    Draining = 7,
    /// The server has as many flows as it takes.
    Overload = 8,
    /// The server could not, for a reason of its own.
    Internal = 9,
    /// OPEN has a critical extension that the server does not know.
    Unsupported = 10,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Denied,
        Self::Identity,
        Self::UnknownEndpoint,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::Unreachable,
        Self::Draining,
        Self::Overload,
        Self::Internal,
        Self::Unsupported,
    ];

    /// As it is in metrics and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Identity => "identity",
            Self::UnknownEndpoint => "unknown_endpoint",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Unreachable => "unreachable",
            Self::Draining => "draining",
            Self::Overload => "overload",
            Self::Internal => "internal",
            Self::Unsupported => "unsupported",
        }
    }

    /// A code that a later minor version added is [`Code::Internal`] to this one.
    fn decode(byte: u8) -> Self {
        let known = Self::ALL.into_iter().find(|code| *code as u8 == byte);
        known.unwrap_or(Self::Internal)
    }
}

impl Frame {
    /// Appends the frame.
    ///
    /// # Errors
    ///
    /// The version label of an OPEN is none.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let start = out.len();
        out.extend_from_slice(&header(self.kind(), 0));
        match self {
            Self::Open(open) => open.encode(out)?,
            Self::Refused(code) => out.push(*code as u8),
            Self::Opened | Self::End | Self::Reset | Self::GoAway => {}
        }
        let length = out.len() - start - HEADER;
        out[start..start + HEADER].copy_from_slice(&header(self.kind(), length as u32));
        Ok(())
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Open(_) => OPEN,
            Self::Opened => OPENED,
            Self::Refused(_) => REFUSED,
            Self::End => END,
            Self::Reset => RESET,
            Self::GoAway => GOAWAY,
        }
    }

    /// As it is called in the specification.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "OPEN",
            Self::Opened => "OPENED",
            Self::Refused(_) => "REFUSED",
            Self::End => "END",
            Self::Reset => "RESET",
            Self::GoAway => "GOAWAY",
        }
    }

    /// Reads a payload; `None` for a frame that is skipped.
    pub(super) fn decode(kind: u8, body: &[u8]) -> Result<Option<Self>, WireError> {
        let frame = match (kind, body) {
            (OPEN, body) => Self::Open(Box::new(Open::decode(body)?)),
            (OPENED, extensions) => match unknown_extension(extensions)? {
                None => Self::Opened,
                Some(kind) => return Err(WireError::Extension(kind)),
            },
            (REFUSED, [code, ..]) => Self::Refused(Code::decode(*code)),
            (END, []) => Self::End,
            (RESET, []) => Self::Reset,
            (GOAWAY, []) => Self::GoAway,
            (kind, _) if kind & OPTIONAL != 0 => return Ok(None),
            (kind, body) => return Err(WireError::Length(kind, body.len() as u32)),
        };
        Ok(Some(frame))
    }
}

/// Header of a DATA frame of `length` bytes, 1 to [`MAX_DATA`].
pub fn data_header(length: usize) -> [u8; HEADER] {
    debug_assert!((1..=MAX_DATA).contains(&length));
    header(DATA, length as u32)
}

fn header(kind: u8, length: u32) -> [u8; HEADER] {
    let [_, high, middle, low] = length.to_be_bytes();
    [kind, high, middle, low]
}

/// Reads a header: type and length.
pub(super) fn read_header(bytes: [u8; HEADER]) -> Result<(u8, u32), WireError> {
    let [kind, high, middle, low] = bytes;
    let length = u32::from_be_bytes([0, high, middle, low]);
    let known = (OPEN..=GOAWAY).contains(&kind) || kind & OPTIONAL != 0;
    let fits = match kind {
        DATA => length != 0,
        _ => length as usize <= MAX_CONTROL,
    };
    match (known, fits) {
        (false, _) => Err(WireError::Type(kind)),
        (true, false) => Err(WireError::Length(kind, length)),
        (true, true) => Ok((kind, length)),
    }
}
