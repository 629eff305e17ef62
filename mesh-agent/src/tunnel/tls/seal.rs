//! Records that are sent (RFC 8446, 5.2).

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce as AeadNonce,
    UnboundKey,
};
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{AeadKey, Iv, Nonce, make_tls13_aad};

use super::{HEADER, OVERHEAD, Secret, TRAILER};

/// How long before its limit a key is replaced, records: more than one step seals.
const MARGIN: u64 = 64;

/// The key of the sending direction.
pub(super) struct Sealer {
    key: LessSafeKey,
    iv: Iv,
    sequence: u64,
}

impl Sealer {
    pub(super) fn new((sequence, secrets): Secret) -> Result<Self, rustls::Error> {
        let (algorithm, key, iv) = parts(secrets)?;
        let key = UnboundKey::new(algorithm, key.as_ref())
            .map_err(|_unspecified| rustls::Error::EncryptError)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv,
            sequence,
        })
    }

    /// Makes a record in `record` of the `length` bytes that follow the place of its header;
    /// its length.
    pub(super) fn seal(
        &mut self,
        record: &mut [u8],
        length: usize,
        content: u8,
    ) -> Result<usize, rustls::Error> {
        let sealed = length + TRAILER;
        // A header is the additional data, too.
        let header = make_tls13_aad(sealed);
        let (head, body) = record[..HEADER + sealed].split_at_mut(HEADER);
        head.copy_from_slice(&header);
        let (inner, tag) = body.split_at_mut(length + 1);
        inner[length] = content;
        let nonce = Nonce::new(&self.iv, self.sequence);
        self.sequence = self
            .sequence
            .checked_add(1)
            .ok_or(rustls::Error::EncryptError)?;
        let made = self
            .key
            .seal_in_place_separate_tag(
                AeadNonce::assume_unique_for_key(nonce.0),
                Aad::from(header),
                inner,
            )
            .map_err(|_unspecified| rustls::Error::EncryptError)?;
        tag.copy_from_slice(made.as_ref());
        Ok(length + OVERHEAD)
    }

    /// Appends a record with a copy of `payload`.
    pub(super) fn append(
        &mut self,
        out: &mut Vec<u8>,
        payload: &[u8],
        content: u8,
    ) -> Result<(), rustls::Error> {
        let start = out.len();
        out.resize(start + HEADER, 0);
        out.extend_from_slice(payload);
        out.resize(start + payload.len() + OVERHEAD, 0);
        self.seal(&mut out[start..], payload.len(), content)?;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the key has sealed nearly `limit` records.
    pub(super) fn is_worn(&self, limit: u64) -> bool {
        self.sequence.saturating_add(MARGIN) >= limit
    }
}

fn parts(
    secrets: ConnectionTrafficSecrets,
) -> Result<(&'static Algorithm, AeadKey, Iv), rustls::Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => Ok((&AES_128_GCM, key, iv)),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => Ok((&AES_256_GCM, key, iv)),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((&CHACHA20_POLY1305, key, iv)),
        _ => Err(rustls::Error::General("unknown cipher suite".into())),
    }
}
