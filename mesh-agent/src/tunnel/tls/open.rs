//! Records that are received.

use rustls::crypto::cipher::{InboundOpaqueMessage, MessageDecrypter};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite,
};

use super::{FRAGMENT, HEADER, Record, Secret, content};

/// Longest sealed part of a record, bytes (RFC 8446, 5.2).
const SEALED: usize = FRAGMENT + 256;

/// The key of the receiving direction. Opening is rustls' own code, which works in place.
pub(super) struct Opener {
    suite: SupportedCipherSuite,
    decrypter: Box<dyn MessageDecrypter>,
    sequence: u64,
}

impl Opener {
    pub(super) fn new(suite: SupportedCipherSuite, secret: Secret) -> Result<Self, rustls::Error> {
        let (sequence, secrets) = secret;
        Ok(Self {
            suite,
            decrypter: decrypter(suite, secrets)?,
            sequence,
        })
    }

    pub(super) fn replace(&mut self, secret: Secret) -> Result<(), rustls::Error> {
        *self = Self::new(self.suite, secret)?;
        Ok(())
    }

    /// Opens a whole record in place: the type of its content, and how many bytes after the
    /// header are the content.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(u8, usize), rustls::Error> {
        let sealed = &mut record[HEADER..];
        let message = InboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            sealed,
        );
        let opened = self.decrypter.decrypt(message, self.sequence)?;
        self.sequence = self
            .sequence
            .checked_add(1)
            .ok_or(rustls::Error::DecryptError)?;
        Ok((opened.typ.into(), opened.payload.len()))
    }
}

fn decrypter(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageDecrypter>, rustls::Error> {
    let (key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
        _ => return Err(rustls::Error::General("unknown cipher suite".into())),
    };
    match suite {
        SupportedCipherSuite::Tls13(suite) => Ok(suite.aead_alg.decrypter(key, iv)),
        #[expect(unreachable_patterns, reason = "only there with rustls' feature tls12")]
        _ => Err(unexpected("version")),
    }
}

/// Length of the record that `bytes` begin with; `None` if it is not complete.
pub(super) fn record_length(bytes: &[u8]) -> Result<Option<usize>, rustls::Error> {
    let Some(&[kind, _, _, high, low]) = bytes.first_chunk() else {
        return Ok(None);
    };
    let sealed = usize::from(u16::from_be_bytes([high, low]));
    if kind != content::DATA {
        return Err(unexpected("record"));
    }
    if sealed > SEALED {
        return Err(rustls::Error::PeerSentOversizedRecord);
    }
    let length = HEADER + sealed;
    Ok((bytes.len() >= length).then_some(length))
}

/// What an alert says: an end, or an error (RFC 8446, 6).
pub(super) fn alert(payload: &[u8]) -> Result<Record, rustls::Error> {
    let &[_level, description] = payload else {
        return Err(unexpected("alert"));
    };
    match AlertDescription::from(description) {
        AlertDescription::CloseNotify => Ok(Record::Closed),
        AlertDescription::UserCanceled => Ok(Record::Internal),
        description => Err(rustls::Error::AlertReceived(description)),
    }
}

pub(super) fn unexpected(what: &str) -> rustls::Error {
    rustls::Error::General(format!("unexpected {what} after the handshake"))
}
