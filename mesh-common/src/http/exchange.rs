//! Both directions of a connection whose bytes are at hand in order.

use super::{Head, Method, PIECE, Pending, Progress, Stream, Unparsed, Window};

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client.
    Requests,
    /// From the server.
    Responses,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request has begun.
    Request {
        /// What is asked.
        method: Method,
    },
    /// Its response has begun. Interim responses are not told, but 101.
    Response {
        /// What was asked.
        method: Method,
        /// The status code.
        status: u16,
        /// From the first byte of the request to the first of the response, nanoseconds.
        elapsed_ns: u64,
    },
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    requests: Stream,
    responses: Stream,
    pending: Pending,
    window: Window,
    over: Option<Unparsed>,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            requests: Stream::requests(),
            responses: Stream::responses(),
            pending: Pending::default(),
            window: Window::default(),
            over: None,
        }
    }
}

impl Exchange {
    /// Reads the next bytes of one direction, which have arrived at `now_ns`, on any clock that
    /// does not go back. `each` is told what they say.
    ///
    /// # Errors
    ///
    /// The connection cannot be followed: what arrives from here on is not looked at, and every
    /// call says so again.
    pub fn feed(
        &mut self,
        side: Side,
        bytes: &[u8],
        now_ns: u64,
        mut each: impl FnMut(Event),
    ) -> Result<(), Unparsed> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Some(reason) = self.over {
                return Err(reason);
            }
            let stream = self.stream(side);
            let skipped = stream.pass_over(rest.len() as u64) as usize;
            rest = &rest[skipped..];
            let piece = &rest[..rest.len().min(PIECE)];
            if !piece.is_empty() {
                rest = &rest[piece.len()..];
                self.piece(side, piece, now_ns, &mut each);
            }
        }
        self.over.map_or(Ok(()), Err)
    }

    /// The requests without an answer, taken out: the connection has ended.
    pub fn unanswered(&mut self) -> impl Iterator<Item = (Method, u32)> + '_ {
        core::iter::from_fn(|| {
            let run = self.pending.pop_run();
            (run.count != 0).then_some((Method(run.method as u8), run.count.into()))
        })
    }

    fn stream(&mut self, side: Side) -> &mut Stream {
        match side {
            Side::Requests => &mut self.requests,
            Side::Responses => &mut self.responses,
        }
    }

    fn piece(&mut self, side: Side, bytes: &[u8], now_ns: u64, each: &mut impl FnMut(Event)) {
        let stream = match side {
            Side::Requests => &mut self.requests,
            Side::Responses => &mut self.responses,
        };
        stream.open(&mut self.window);
        self.window.extend(bytes);
        let mut head = Head::default();
        if head.begin(stream, &self.window) {
            let _ = (0..Head::TURNS).any(|index| head.turn(&self.window, index));
            stream.take(&head, &mut self.window, now_ns);
        }
        loop {
            match stream.step(&mut self.window, now_ns) {
                Progress::MORE => {}
                Progress::REQUEST => {
                    let (method, begun_ns) = (stream.method(), stream.begun_ns());
                    if !self.pending.push(method, begun_ns) {
                        self.over = Some(Unparsed::Pipeline);
                        return;
                    }
                    each(Event::Request { method });
                }
                Progress::RESPONSE => {
                    let run = self.pending.pop();
                    if run.count == 0 {
                        self.over = Some(Unparsed::Unsolicited);
                        return;
                    }
                    let method = Method(run.method as u8);
                    stream.answers(method);
                    each(Event::Response {
                        method,
                        status: stream.status(),
                        elapsed_ns: stream.begun_ns().saturating_sub(run.begun_ns),
                    });
                }
                Progress::UNPARSED => {
                    self.over = Some(stream.reason());
                    return;
                }
                _ => return,
            }
        }
    }
}
