//! The record of a flow's beginning or end that travels through the ring buffer.

use core::mem::offset_of;

use crate::{Address, SocketKey};

/// Size of the ring buffer of flow records: some 700 of them. The agent empties it ten times a
/// second; what does not fit is counted, so that a flood of connections costs a bounded part of
/// the agent's time.
pub const FLOW_RING_BYTES: usize = 128 << 10;

/// One event of one TCP flow, as its client's socket has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRecord {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub time_ns: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// Cgroup of the process that made the socket; 0 if it was no service's.
    pub cgroup: u64,
    /// From `connect()` to the connection being established, nanoseconds; 0 if it never was, or
    /// if it was established with the agent instead of the endpoint.
    pub connect_ns: u64,
    /// From being established to the event, nanoseconds; from `connect()` where it never was.
    pub duration_ns: u64,
    /// Payload bytes the peer acknowledged.
    pub sent_bytes: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Segments sent again.
    pub retransmits: u32,
    /// Smoothed round-trip time, microseconds; 0 if none was measured, or only that to the agent.
    pub srtt_us: u32,
    /// Subject that called.
    pub source: u32,
    /// Subject that was called.
    pub service: u32,
    /// Frontend that was called.
    pub frontend: u32,
    /// Version that was chosen.
    pub version: u32,
    /// Id of the endpoint on another node that was chosen; 0 for others.
    pub target: u32,
    /// The rule that allowed the call; 0 where the reason is not policy.
    pub rule: u32,
    /// Policy revision, low half, under which it was allowed.
    pub revision: u32,
    /// Low half of the id epoch.
    pub epoch: u32,
    /// Process (thread group) id of the caller.
    pub pid: u32,
    /// User id of the process that made the socket.
    pub uid: u32,
    /// The client's own address.
    pub local: SocketKey,
    /// What the program dialled.
    pub dialled: SocketKey,
    /// Where the kernel connected instead.
    pub endpoint: SocketKey,
    /// [`FlowEvent`](crate::FlowEvent) code.
    pub event: u8,
    /// [`FlowEnd`](crate::FlowEnd) code.
    pub end: u8,
    /// [`Verdict`](crate::Verdict) and [`Reason`](crate::Reason) codes of the call.
    pub verdict: u8,
    /// See `verdict`.
    pub reason: u8,
    /// IP protocol number, and [`flow_bit`](crate::flow_bit) bits.
    pub protocol: u32,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<FlowRecord>() == 176);

impl FlowRecord {
    /// Decodes a record from the ring buffer; `None` unless the length is exact.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 176] = bytes.try_into().ok()?;
        let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u8_at = |at: usize| bytes.get(at).copied();
        let key_at = |at: usize| {
            let key: &[u8; 20] = bytes.get(at..at + 20)?.try_into().ok()?;
            let port = u16::from_ne_bytes([key[16], key[17]]);
            Some(SocketKey::new(
                Address(key[..16].try_into().ok()?),
                port,
                key[18],
            ))
        };
        Some(Self {
            time_ns: u64_at(offset_of!(Self, time_ns))?,
            cookie: u64_at(offset_of!(Self, cookie))?,
            cgroup: u64_at(offset_of!(Self, cgroup))?,
            connect_ns: u64_at(offset_of!(Self, connect_ns))?,
            duration_ns: u64_at(offset_of!(Self, duration_ns))?,
            sent_bytes: u64_at(offset_of!(Self, sent_bytes))?,
            received_bytes: u64_at(offset_of!(Self, received_bytes))?,
            retransmits: u32_at(offset_of!(Self, retransmits))?,
            srtt_us: u32_at(offset_of!(Self, srtt_us))?,
            source: u32_at(offset_of!(Self, source))?,
            service: u32_at(offset_of!(Self, service))?,
            frontend: u32_at(offset_of!(Self, frontend))?,
            version: u32_at(offset_of!(Self, version))?,
            target: u32_at(offset_of!(Self, target))?,
            rule: u32_at(offset_of!(Self, rule))?,
            revision: u32_at(offset_of!(Self, revision))?,
            epoch: u32_at(offset_of!(Self, epoch))?,
            pid: u32_at(offset_of!(Self, pid))?,
            uid: u32_at(offset_of!(Self, uid))?,
            local: key_at(offset_of!(Self, local))?,
            dialled: key_at(offset_of!(Self, dialled))?,
            endpoint: key_at(offset_of!(Self, endpoint))?,
            event: u8_at(offset_of!(Self, event))?,
            end: u8_at(offset_of!(Self, end))?,
            verdict: u8_at(offset_of!(Self, verdict))?,
            reason: u8_at(offset_of!(Self, reason))?,
            protocol: u32_at(offset_of!(Self, protocol))?,
            _pad: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_record_is_one() {
        let mut bytes = [0; 176];
        bytes[8] = 7;
        bytes[offset_of!(FlowRecord, end)] = 4;
        let record = FlowRecord::from_bytes(&bytes).expect("a record");
        assert_eq!((u64::from_le(record.cookie), record.end), (7, 4));
        assert_eq!(FlowRecord::from_bytes(&bytes[..175]), None);
        assert_eq!(FlowRecord::from_bytes(&[0; 177]), None);
    }
}
