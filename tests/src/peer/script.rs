//! Both ends of a connection byte by byte: how much is sent, in which order, and how it ends.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use serde::{Deserialize, Serialize};

use super::protocol::PATIENCE;
use crate::patience::scaled;

/// One thing that an end does. After the last one it closes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Send this at once.
    Say(Vec<u8>),
    /// Send so many bytes.
    Send(u64),
    /// Receive so many bytes.
    Receive(u64),
    /// Receive until the other end has closed.
    Drain,
    /// Say that no more is sent.
    Finish,
    /// Wait so many milliseconds.
    Pause(u64),
    /// Close by a reset.
    Abort,
}

/// What came of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Played {
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes that were received.
    pub received: u64,
    /// The error that ended it.
    pub error: Option<String>,
}

/// Plays `steps` on a connection and closes it.
pub fn play(mut stream: TcpStream, steps: &[Step]) -> Played {
    let mut played = Played::default();
    let result = steps
        .iter()
        .try_for_each(|step| once(&mut stream, step, &mut played));
    played.error = result.err().map(|error| format!("{:?}", error.kind()));
    played
}

fn once(stream: &mut TcpStream, step: &Step, played: &mut Played) -> io::Result<()> {
    stream.set_read_timeout(Some(scaled(PATIENCE)))?;
    match step {
        Step::Say(bytes) => {
            stream.set_nodelay(true)?;
            stream.write_all(bytes)?;
            played.sent += bytes.len() as u64;
        }
        Step::Send(bytes) => {
            let sent = io::copy(&mut io::repeat(b'x').take(*bytes), stream)?;
            played.sent += sent;
        }
        Step::Receive(bytes) => receive(stream, *bytes, played)?,
        Step::Drain => receive(stream, u64::MAX, played)?,
        Step::Finish => stream.shutdown(Shutdown::Write)?,
        Step::Pause(millis) => sleep(Duration::from_millis(*millis)),
        Step::Abort => set_socket_linger(&*stream, Some(Duration::ZERO))?,
    }
    stream.flush()
}

fn receive(stream: &mut TcpStream, most: u64, played: &mut Played) -> io::Result<()> {
    let mut buffer = [0; 16_384];
    let mut left = most;
    while left > 0 {
        let room = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let length = stream.read(&mut buffer[..room])? as u64;
        if length == 0 {
            break;
        }
        played.received += length;
        left -= length;
    }
    Ok(())
}
