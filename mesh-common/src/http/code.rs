//! Names of what was asked, and of what could not be read.

codes! {
    /// The method of a request.
    Method(u8) {
        /// One that RFC 9110 and RFC 5789 do not name.
        Other = 0 => "other",
        /// `GET`.
        Get = 1 => "GET",
        /// `HEAD`.
        Head = 2 => "HEAD",
        /// `POST`.
        Post = 3 => "POST",
        /// `PUT`.
        Put = 4 => "PUT",
        /// `DELETE`.
        Delete = 5 => "DELETE",
        /// `CONNECT`.
        Connect = 6 => "CONNECT",
        /// `OPTIONS`.
        Options = 7 => "OPTIONS",
        /// `TRACE`.
        Trace = 8 => "TRACE",
        /// `PATCH`.
        Patch = 9 => "PATCH",
    }
}

codes! {
    /// Why a connection is not followed any further.
    Unparsed(u8) {
        /// A message does not begin as one of HTTP/1 does.
        NotHttp = 0 => "not-http",
        /// The client speaks HTTP/2.
        Http2 = 1 => "http2",
        /// A header line is folded, or begins in a way that readers do not agree on.
        Header = 2 => "header",
        /// `Content-Length` is no number, or there are several that differ.
        ContentLength = 3 => "content-length",
        /// `Transfer-Encoding` is something else than `chunked`, or comes with a length or in
        /// HTTP/1.0.
        TransferEncoding = 4 => "transfer-encoding",
        /// A chunked body is not as it must be.
        Chunk = 5 => "chunk",
        /// A response to no request.
        Unsolicited = 6 => "unsolicited",
        /// More requests at once than are kept track of.
        Pipeline = 7 => "pipeline",
        /// The connection was switched to another protocol, or is a tunnel now.
        Upgraded = 8 => "upgraded",
        /// Bytes were missed: they came in another order than they were sent in.
        Gap = 9 => "gap",
        /// The connection is older than the programs on it.
        MidStream = 10 => "mid-stream",
        /// No program saw the connection: its socket is of no cgroup that is measured.
        Unseen = 11 => "unseen",
        /// Two packets of one direction at the same time, or more packets than there is room to
        /// read at once.
        Busy = 12 => "busy",
        /// There was no room to keep track of the connection.
        NoStorage = 13 => "no-storage",
        /// HTTP/2 that breaks the rules of HTTP/2.
        Malformed = 14 => "malformed",
        /// A header block of HTTP/2 is longer than is looked at.
        Head = 15 => "head",
        /// The peers remember more header fields than are remembered here.
        HeaderTable = 16 => "header-table",
        /// What the kernel had to tell of the connection was lost on the way to the agent.
        Lost = 17 => "lost",
    }
}

impl Method {
    /// The method that a request begins with, by its first eight bytes (in little-endian order),
    /// and how long it is with the space behind it; a length of 0 if it is none of those named.
    #[inline(always)]
    pub(super) const fn at_start(word: u64) -> (Self, u32) {
        const fn starts(word: u64, with: &[u8; 8], length: u32) -> bool {
            (word ^ u64::from_le_bytes(*with)) << (64 - 8 * length) == 0
        }
        if starts(word, b"GET     ", 4) {
            (Self::Get, 4)
        } else if starts(word, b"POST    ", 5) {
            (Self::Post, 5)
        } else if starts(word, b"PUT     ", 4) {
            (Self::Put, 4)
        } else if starts(word, b"HEAD    ", 5) {
            (Self::Head, 5)
        } else if starts(word, b"DELETE  ", 7) {
            (Self::Delete, 7)
        } else if starts(word, b"PATCH   ", 6) {
            (Self::Patch, 6)
        } else if starts(word, b"OPTIONS ", 8) {
            (Self::Options, 8)
        } else if starts(word, b"CONNECT ", 8) {
            (Self::Connect, 8)
        } else if starts(word, b"TRACE   ", 6) {
            (Self::Trace, 6)
        } else {
            (Self::Other, 0)
        }
    }
}
