//! The record of a denial that travels through the ring buffer.

use crate::SocketKey;

/// One refused (or, in audit mode, would-be refused) flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DenialRecord {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub time_ns: u64,
    /// Cgroup of the caller.
    pub cgroup: u64,
    /// Process (thread group) id of the caller.
    pub pid: u32,
    /// User id of the caller.
    pub uid: u32,
    /// [`Subject`](crate::Subject) the caller was taken for.
    pub source: u32,
    /// Subject of the service dialled; 0 outside the mesh.
    pub service: u32,
    /// Frontend dialled; 0 outside the mesh.
    pub frontend: u32,
    /// The rule that decided; 0 where the reason is not policy.
    pub rule: u32,
    /// What was dialled, or bound.
    pub dialled: SocketKey,
    /// [`Verdict`](crate::Verdict), [`Reason`](crate::Reason) and [`Hook`](crate::Hook) codes.
    pub verdict: u8,
    /// See `verdict`.
    pub reason: u8,
    /// See `verdict`.
    pub hook: u8,
    /// Zero.
    pub _pad: u8,
    /// Name of the calling thread, NUL-padded.
    pub comm: [u8; 16],
    /// Where a packet came from; zero where a process of this host was refused.
    pub peer: SocketKey,
    /// Zero.
    pub _pad2: u32,
}
const _: () = assert!(size_of::<DenialRecord>() == 104);

impl DenialRecord {
    /// Decodes a record from the ring buffer; `None` unless the length is exact.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 104] = bytes.try_into().ok()?;
        let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let key_at = |at: usize| {
            let key: &[u8; 20] = bytes.get(at..at + 20)?.try_into().ok()?;
            Some(SocketKey::new(
                crate::Address(key[..16].try_into().ok()?),
                u16::from_ne_bytes([key[16], key[17]]),
                key[18],
            ))
        };
        Some(Self {
            time_ns: u64_at(0)?,
            cgroup: u64_at(8)?,
            pid: u32_at(16)?,
            uid: u32_at(20)?,
            source: u32_at(24)?,
            service: u32_at(28)?,
            frontend: u32_at(32)?,
            rule: u32_at(36)?,
            dialled: key_at(40)?,
            verdict: bytes[60],
            reason: bytes[61],
            hook: bytes[62],
            _pad: 0,
            comm: bytes[64..80].try_into().ok()?,
            peer: key_at(80)?,
            _pad2: 0,
        })
    }
}
