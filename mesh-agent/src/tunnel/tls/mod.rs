//! TLS 1.3 over a TCP socket.
//!
//! rustls makes the handshake with its unbuffered API, and keeps the key schedule and the
//! tickets. Records are sealed and opened here, in place: that API allocates for each record in
//! both directions and copies it twice (rustls 0.23, `take_received_plaintext`,
//! `PrefixedPayload`). `rustls::kernel` is rustls' interface for that division.

mod handshake;
mod open;
mod post;
mod seal;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, SupportedCipherSuite};

pub use self::handshake::HandshakeError;
pub(super) use self::handshake::{Handshaken, accept, connect};
use self::open::Opener;
use self::post::{Kernel, PostHandshake};
use self::seal::Sealer;

/// Longest payload of a record, bytes (RFC 8446, 5.1).
pub(super) const FRAGMENT: usize = 1 << 14;
/// Bytes before the payload: type, version, length.
pub(super) const HEADER: usize = 5;
/// Bytes after the payload: inner type and tag. All three suites of TLS 1.3 have this tag.
const TRAILER: usize = 1 + 16;
/// What a record has besides its payload, bytes.
pub(super) const OVERHEAD: usize = HEADER + TRAILER;
/// Length of a full record, bytes.
pub(super) const SLOT: usize = FRAGMENT + OVERHEAD;

/// Types of a record's content (RFC 8446, B.1).
mod content {
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const DATA: u8 = 23;
}

/// Records that carry no data, in a row, before the peer is given up: as many as rustls takes.
const IDLE_RECORDS: u8 = 32;

/// The keys of a connection whose handshake is complete.
pub(super) struct Tls {
    sealer: Sealer,
    opener: Opener,
    post: PostHandshake,
    /// Records that one key may seal.
    limit: u64,
    idle_records: u8,
}

/// What was in a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Data; where in the buffer.
    Data(Range<usize>),
    /// Something between the two ends of TLS.
    Internal,
    /// The peer will send no more (`close_notify`).
    Closed,
}

impl Tls {
    fn new(
        suite: SupportedCipherSuite,
        secrets: ExtractedSecrets,
        kernel: Kernel,
    ) -> Result<Self, rustls::Error> {
        let ExtractedSecrets { tx, rx } = secrets;
        Ok(Self {
            sealer: Sealer::new(tx)?,
            opener: Opener::new(suite, rx)?,
            post: PostHandshake::new(kernel),
            limit: confidentiality_limit(suite),
            idle_records: 0,
        })
    }

    /// Seals the `length` bytes of data that lie in `bytes` as records do: [`HEADER`] bytes
    /// before each [`FRAGMENT`] of them, room for the rest of the record behind it. How many
    /// bytes the records have, from the first on.
    pub(super) fn seal(
        &mut self,
        bytes: &mut [u8],
        mut length: usize,
    ) -> Result<usize, rustls::Error> {
        let mut end = 0;
        while length > 0 {
            let part = length.min(FRAGMENT);
            end += self.sealer.seal(&mut bytes[end..], part, content::DATA)?;
            length -= part;
        }
        Ok(end)
    }

    /// Appends what has to be sent before further data: a key update, if the key is worn or the
    /// peer asked for one.
    pub(super) fn prepare_to_seal(&mut self, out: &mut Vec<u8>) -> Result<(), rustls::Error> {
        if self.sealer.is_worn(self.limit) || self.post.take_owed_update() {
            self.sealer
                .append(out, &post::KEY_UPDATE, content::HANDSHAKE)?;
            self.sealer = Sealer::new(self.post.next_sending()?)?;
        }
        Ok(())
    }

    /// Appends `close_notify`.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), rustls::Error> {
        self.sealer.append(out, &[1, 0], content::ALERT)
    }

    /// Opens the first record of `cipher` in place, and moves `cipher` past it; `None` if it is
    /// not complete.
    pub(super) fn open(
        &mut self,
        bytes: &mut [u8],
        cipher: &mut Range<usize>,
    ) -> Result<Option<Record>, rustls::Error> {
        let Some(length) = open::record_length(&bytes[cipher.clone()])? else {
            return Ok(None);
        };
        let start = cipher.start;
        let record = &mut bytes[start..start + length];
        cipher.start += length;
        let (kind, plain) = self.opener.open(record)?;
        let range = start + HEADER..start + HEADER + plain;
        if kind == content::DATA && plain > 0 {
            self.idle_records = 0;
            return Ok(Some(Record::Data(range)));
        }
        self.idle_records += 1;
        if self.idle_records > IDLE_RECORDS {
            return Err(rustls::Error::General(
                "too many records without data".into(),
            ));
        }
        self.internal(kind, &bytes[range]).map(Some)
    }

    fn internal(&mut self, kind: u8, payload: &[u8]) -> Result<Record, rustls::Error> {
        match kind {
            content::DATA => Ok(Record::Internal),
            content::ALERT => open::alert(payload),
            content::HANDSHAKE => {
                if let Some(receiving) = self.post.receive(payload)? {
                    self.opener.replace(receiving)?;
                }
                Ok(Record::Internal)
            }
            _ => Err(open::unexpected("content type")),
        }
    }

    /// Records that the key in use has sealed.
    #[cfg(test)]
    pub(super) fn sealed(&self) -> u64 {
        self.sealer.sequence()
    }

    /// Has each key seal only `limit` records.
    #[cfg(test)]
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }
}

/// Whether `bytes` begin with a whole record, or with something that is none.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    !matches!(open::record_length(bytes), Ok(None))
}

fn confidentiality_limit(suite: SupportedCipherSuite) -> u64 {
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
        #[expect(unreachable_patterns, reason = "only there with rustls' feature tls12")]
        _ => 0,
    }
}

/// Number of the next record, and its key.
type Secret = (u64, ConnectionTrafficSecrets);
