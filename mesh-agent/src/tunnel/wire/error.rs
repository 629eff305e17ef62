//! What a peer can get wrong.

use std::error::Error;
use std::fmt;

/// Bytes that are not `mesh/1`; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The connection does not begin with the magic bytes.
    Magic,
    /// A major version that ALPN did not agree on.
    Version(u8),
    /// Critical flags of the preamble that this version does not know.
    Flags(u16),
    /// A frame of a type that is neither known nor optional.
    Type(u8),
    /// A frame whose length its type does not have.
    Length(u8, u32),
    /// The fields of an OPEN do not fill it.
    Open,
    /// The version label is not UTF-8, too long or has control characters.
    Label,
    /// An answer with a critical extension that this version does not know.
    Extension(u16),
    /// A known frame where the state of the flow has no place for it.
    Unexpected(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("it does not begin as mesh/1 does"),
            Self::Version(version) => write!(f, "version {version} where ALPN says 1"),
            Self::Flags(flags) => write!(f, "unknown critical flags {flags:#06x}"),
            Self::Type(kind) => write!(f, "unknown frame type {kind:#04x}"),
            Self::Length(kind, length) => {
                write!(f, "a frame of type {kind:#04x} with length {length}")
            }
            Self::Open => f.write_str("a malformed OPEN"),
            Self::Label => f.write_str("a malformed version label"),
            Self::Extension(kind) => write!(f, "unknown critical extension {kind:#06x}"),
            Self::Unexpected(frame) => write!(f, "{frame} out of turn"),
        }
    }
}

impl Error for WireError {}
