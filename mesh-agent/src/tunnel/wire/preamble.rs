//! What each side says first on a connection.

use super::WireError;

const MAGIC: [u8; 4] = *b"mesh";
/// The version that ALPN names; another one has another ALPN name.
const MAJOR: u8 = 1;
/// Flags that a receiver must know, or close.
const CRITICAL: u16 = 0x00ff;

/// A side's first bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preamble {
    /// Highest minor version the sender speaks; both use the lower of the two.
    pub minor: u8,
    /// Low byte: critical, see [`Preamble::UNFRAMED`]; high byte: ignored where unknown.
    pub flags: u16,
}

impl Preamble {
    /// Length, bytes.
    pub const LENGTH: usize = 8;

    /// Reserved: the only flow has no frames after OPENED, and its end is the connection's end.
    /// No version accepts it yet.
    pub const UNFRAMED: u16 = 0x0001;

    /// The bytes.
    pub fn encode(self) -> [u8; Self::LENGTH] {
        let [m, e, s, h] = MAGIC;
        let [high, low] = self.flags.to_be_bytes();
        [m, e, s, h, MAJOR, self.minor, high, low]
    }

    /// Reads the bytes.
    ///
    /// # Errors
    ///
    /// Another protocol, another major version, or a critical flag that is not known.
    pub fn decode(bytes: [u8; Self::LENGTH]) -> Result<Self, WireError> {
        let [m, e, s, h, major, minor, high, low] = bytes;
        let flags = u16::from_be_bytes([high, low]);
        match () {
            () if [m, e, s, h] != MAGIC => Err(WireError::Magic),
            () if major != MAJOR => Err(WireError::Version(major)),
            () if flags & CRITICAL != 0 => Err(WireError::Flags(flags)),
            () => Ok(Self { minor, flags }),
        }
    }
}
