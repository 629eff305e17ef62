//! What the kernel programs hand to the agent of an HTTP/2 connection.

use super::FrameHeader;

/// Most bytes of a frame's payload that one record carries.
pub const HEAD_BYTES: usize = 240;
/// Size of the ring buffer, bytes.
pub const HEAD_RING_BYTES: usize = 256 << 10;

/// Bits of [`Head::flags`].
pub mod head_flag {
    /// The server has sent it; otherwise the client.
    pub const RESPONSES: u32 = 1;
    /// A frame begins. Otherwise the record goes on with the payload of the last one.
    pub const BEGINS: u32 = 1 << 1;
    /// The connection has ended; there is no frame.
    pub const CLOSED: u32 = 1 << 2;
    /// Not all of the connection was handed over, which is counted.
    pub const OVER: u32 = 1 << 3;
}

/// A frame, a part of one, or the end of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// When it was seen, nanoseconds since boot.
    pub time_ns: u64,
    /// Cookie of the server's socket.
    pub cookie: u64,
    /// Subject that calls; not known before the client has said something.
    pub source: u32,
    /// Subject that is called.
    pub service: u32,
    /// Its version.
    pub version: u32,
    /// [`request_bit`](crate::http::request_bit) bits.
    pub bits: u32,
    /// The frame.
    pub frame: FrameHeader,
    /// Numbers the records of one direction of a connection from 0.
    pub number: u32,
    /// [`head_flag`] bits.
    pub flags: u32,
    /// How many bytes of payload follow.
    pub length: u32,
}
const _: () = assert!(size_of::<Head>() == 56);

/// A record: a head and the bytes that follow it, of which only those that are meant cross over.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HeadRecord {
    /// What it is about.
    pub head: Head,
    /// The bytes.
    pub bytes: [u8; HEAD_BYTES],
}
const _: () = assert!(size_of::<HeadRecord>() == 296);

impl Head {
    /// Decodes a record from the ring buffer; `None` unless its lengths fit.
    pub fn from_bytes(record: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, bytes) = record.split_first_chunk::<56>()?;
        let u64_at = |at: usize| Some(u64::from_ne_bytes(fixed.get(at..at + 8)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_ne_bytes(fixed.get(at..at + 4)?.try_into().ok()?));
        let head = Self {
            time_ns: u64_at(0)?,
            cookie: u64_at(8)?,
            source: u32_at(16)?,
            service: u32_at(20)?,
            version: u32_at(24)?,
            bits: u32_at(28)?,
            frame: FrameHeader {
                length: u32_at(32)?,
                stream: u32_at(36)?,
                kind: fixed[40],
                flags: fixed[41],
                _pad: 0,
            },
            number: u32_at(44)?,
            flags: u32_at(48)?,
            length: u32_at(52)?,
        };
        Some((head, bytes.get(..head.length as usize)?))
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn a_record_is_read_from_where_it_is_written() {
        assert_eq!(
            [
                offset_of!(Head, cookie),
                offset_of!(Head, source),
                offset_of!(Head, bits),
                offset_of!(Head, frame),
                offset_of!(Head, number),
                offset_of!(Head, length),
                offset_of!(FrameHeader, kind),
                offset_of!(HeadRecord, bytes),
            ],
            [8, 16, 28, 32, 44, 52, 8, 56]
        );
        let mut record = [0; 59];
        record[8] = 7;
        record[52] = 3;
        record[56..].copy_from_slice(b"abc");
        let (head, bytes) = Head::from_bytes(&record).expect("a record");
        assert_eq!((head.cookie, bytes), (7, &b"abc"[..]));
        record[52] = 4;
        assert_eq!(Head::from_bytes(&record), None, "bytes are missing");
        assert_eq!(Head::from_bytes(&record[..55]), None);
    }
}
