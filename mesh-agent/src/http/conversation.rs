//! A connection of which all bytes are at hand: HTTP/1 or HTTP/2, as the client begins.

use mesh_common::http::{Event, Exchange, Side, Unparsed};
use mesh_common::http2::PREFACE;

use super::memory::{Memory, Share};
use super::{Outcome, h2};

/// See the module.
#[derive(Debug)]
pub struct Conversation {
    speaks: Speaks,
    /// Only HTTP/2 will do.
    is_grpc: bool,
    share: Share,
}

#[derive(Debug)]
enum Speaks {
    /// So many bytes of the preface of HTTP/2 have come, and nothing else of the client. A server
    /// of HTTP/2 may say how it wants the connection before that.
    Preface(usize, Option<Box<h2::Bytes>>),
    Http1(Box<Exchange>),
    Http2(Box<h2::Bytes>),
    /// It cannot be followed any further, and that was said.
    Over,
}

impl Conversation {
    /// Before the first byte, on a port that is declared to speak gRPC or just HTTP.
    pub fn new(is_grpc: bool, memory: &Memory) -> Self {
        Self {
            speaks: Speaks::Preface(0, None),
            is_grpc,
            share: memory.share(),
        }
    }

    /// The next bytes of one side, at the time `at`, nanoseconds on any clock that does not go
    /// back. Requests that are over, or answered where nothing can follow, are given to `told`.
    ///
    /// # Errors
    ///
    /// It cannot be followed any further. This is said once.
    pub fn pass(
        &mut self,
        from: Side,
        at: u64,
        bytes: &[u8],
        told: &mut impl FnMut(Outcome),
    ) -> Result<(), Unparsed> {
        let passed = self.try_pass(from, at, bytes, told);
        if passed.is_err() {
            self.speaks = Speaks::Over;
            // Less always fits.
            let _ = self.share.set(0);
        }
        passed
    }

    /// The connection has ended.
    pub fn end(&mut self, told: &mut impl FnMut(Outcome)) {
        match &mut self.speaks {
            Speaks::Http2(bytes) => bytes.end(told),
            Speaks::Http1(exchange) => {
                for (method, count) in exchange.unanswered() {
                    let unanswered = Outcome {
                        method,
                        code: 0,
                        grpc: None,
                        waited: None,
                    };
                    (0..count).for_each(|_| told(unanswered));
                }
            }
            Speaks::Preface(..) | Speaks::Over => {}
        }
    }

    fn try_pass(
        &mut self,
        from: Side,
        at: u64,
        mut bytes: &[u8],
        told: &mut impl FnMut(Outcome),
    ) -> Result<(), Unparsed> {
        if let Speaks::Preface(have, server) = &mut self.speaks {
            let have = *have;
            if from == Side::Responses {
                let server = server.get_or_insert_default();
                let passed = server.pass(from, at, bytes, told);
                self.share.set(server.held())?;
                return passed.map_err(|_no_settings| Unparsed::Unsolicited);
            }
            bytes = self.greet(at, have, bytes)?;
        }
        match &mut self.speaks {
            Speaks::Http1(exchange) => exchange.feed(from, bytes, at, |event| {
                if let Event::Response {
                    method,
                    status,
                    elapsed_ns,
                } = event
                {
                    told(Outcome {
                        method,
                        code: status,
                        grpc: None,
                        waited: Some(elapsed_ns),
                    });
                }
            }),
            Speaks::Http2(h2) => {
                h2.pass(from, at, bytes, told)?;
                self.share.set(h2.held())
            }
            Speaks::Preface(..) | Speaks::Over => Ok(()),
        }
    }

    /// Compares the client's first bytes with the preface of HTTP/2; gives what is behind it.
    fn greet<'b>(&mut self, at: u64, have: usize, bytes: &'b [u8]) -> Result<&'b [u8], Unparsed> {
        let server = match &mut self.speaks {
            Speaks::Preface(_, server) => server.take(),
            _ => None,
        };
        let (wanted, length) = (&PREFACE[have..], bytes.len().min(PREFACE.len() - have));
        let (first, rest) = bytes.split_at(length);
        if first == wanted {
            self.speaks = Speaks::Http2(server.unwrap_or_default());
            return Ok(rest);
        }
        if wanted.starts_with(first) {
            self.speaks = Speaks::Preface(have + length, server);
            return Ok(rest);
        }
        if self.is_grpc || server.is_some() {
            return Err(Unparsed::NotHttp);
        }
        self.share.set(size_of::<Exchange>())?;
        let mut exchange = Box::<Exchange>::default();
        // What came before was the same as in the preface.
        exchange.feed(Side::Requests, &PREFACE[..have], at, |_| {})?;
        self.speaks = Speaks::Http1(exchange);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Side::{Requests, Responses};

    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    /// GET and 404 by the static table, on stream 1, which ends.
    const ASKED: &[u8] = &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x82];
    const ANSWERED: &[u8] = &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x8d];

    fn hear(is_grpc: bool, lines: &[(Side, &[u8])]) -> Result<Vec<(u16, Option<u64>)>, Unparsed> {
        let memory = Memory::new(1 << 20);
        let mut conversation = Conversation::new(is_grpc, &memory);
        let mut heard = Vec::new();
        let mut told = |outcome: Outcome| heard.push((outcome.code, outcome.waited));
        let mut failed = Ok(());
        for (at, (from, line)) in lines.iter().enumerate() {
            let passed = conversation.pass(*from, at as u64, line, &mut told);
            if failed.is_err() {
                assert_eq!(passed, Ok(()), "it is said once");
                assert_eq!(memory.held(), 0);
            }
            failed = failed.and(passed);
        }
        conversation.end(&mut told);
        drop(conversation);
        assert_eq!(memory.held(), 0);
        failed.map(|()| heard)
    }

    #[test]
    fn the_preface_tells_which_it_is() {
        for split in [1, 5, 23, 24] {
            let (first, second) = PREFACE.split_at(split);
            let lines = [
                (Requests, first),
                (Requests, second),
                (Requests, SETTINGS),
                (Requests, ASKED),
                (Responses, SETTINGS),
                (Responses, ANSWERED),
            ];
            for is_grpc in [false, true] {
                assert_eq!(hear(is_grpc, &lines), Ok(vec![(404, Some(2))]));
            }
        }
        let one: [(Side, &[u8]); 3] = [
            (Requests, b"P"),
            (
                Requests,
                b"OST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            ),
            (Responses, b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"),
        ];
        assert_eq!(hear(false, &one), Ok(vec![(503, Some(1))]));
        assert_eq!(hear(true, &one), Err(Unparsed::NotHttp));
    }

    #[test]
    fn a_server_of_http2_may_speak_first() {
        let lines = [
            (Responses, &SETTINGS[..4]),
            (Requests, &PREFACE[..7]),
            (Responses, &SETTINGS[4..]),
            (Requests, &PREFACE[7..]),
            (Requests, SETTINGS),
            (Requests, ASKED),
            (Responses, ANSWERED),
        ];
        assert_eq!(hear(true, &lines), Ok(vec![(404, Some(1))]));
        let http1: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
        let lines = [(Responses, SETTINGS), (Requests, http1)];
        assert_eq!(hear(false, &lines), Err(Unparsed::NotHttp));
    }

    #[test]
    fn what_is_not_answered_is_told_at_the_end() {
        let get: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        assert_eq!(
            hear(false, &[(Requests, get), (Requests, get)]),
            Ok(vec![(0, None); 2])
        );
        let lines = [
            (Requests, &PREFACE[..]),
            (Requests, SETTINGS),
            (Requests, ASKED),
        ];
        assert_eq!(hear(true, &lines), Ok(vec![(0, None)]));
    }

    #[test]
    fn what_is_no_http_is_not_followed() {
        let tls: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        let ssh: &[u8] = b"SSH-2.0-OpenSSH_9.2\r\n";
        assert_eq!(hear(true, &[(Requests, tls)]), Err(Unparsed::NotHttp));
        assert!(hear(false, &[(Requests, tls), (Requests, ASKED)]).is_err());
        assert_eq!(
            hear(false, &[(Responses, ssh), (Requests, ssh)]),
            Err(Unparsed::Unsolicited)
        );
        // A server that knows HTTP/1 only.
        let refused: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        let lines = [
            (Requests, &PREFACE[..]),
            (Requests, SETTINGS),
            (Responses, refused),
        ];
        assert_eq!(hear(false, &lines), Err(Unparsed::NotHttp));
    }

    #[test]
    fn without_memory_nothing_is_followed() {
        let memory = Memory::new(100);
        for line in [b"GET / HTTP/1.1\r\n".as_slice(), &PREFACE] {
            let mut conversation = Conversation::new(false, &memory);
            let passed = conversation.pass(Requests, 0, line, &mut drop);
            assert_eq!(passed, Err(Unparsed::NoStorage));
        }
    }
}
