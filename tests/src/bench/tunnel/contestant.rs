//! Who is measured: a way from the near host to the servers of the far one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::proof;
use super::site::{self, Process, Side, Site};
use super::table::Kind;

/// How long proxies may take until the first request comes through.
const START: Duration = Duration::from_secs(15);

/// A way to the servers. Making one starts it, dropping one stops it.
pub(super) trait Contestant {
    /// Its name in tables.
    fn name(&self) -> &str;
    /// What it is held against.
    fn kind(&self) -> Kind;
    /// Where a client on the near host dials a server.
    fn endpoint(&self, target: Target) -> SocketAddr;
    /// The cgroup that its client has to be in.
    fn client(&self) -> &Path;
    /// Cgroups of its proxies, the near one first; none if there are none.
    fn proxies(&self) -> Vec<PathBuf>;
    /// Cgroups of its own servers, if it does not use the site's.
    fn servers(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    /// Cgroups of its processes that are not below the site's.
    fn elsewhere(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    /// What it does, if it does what it is measured for.
    fn proof(&self, site: &Site) -> Result<String>;
    /// What there is to say of the calls since the last time.
    fn remark(&self) -> Result<Option<String>> {
        Ok(None)
    }
    /// Fails with the log of a proxy that has ended.
    fn expect_alive(&mut self) -> Result<()>;
}

/// A server of the far host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An HTTP server that answers with 1 KiB.
    Http,
    /// `iperf3`.
    Bulk,
}

impl Target {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::Http, Self::Bulk];

    /// Where it listens on the far host.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Http => site::HTTP_PORT,
            Self::Bulk => site::BULK_PORT,
        }
    }
}

/// Over the wire without any proxy.
#[derive(Debug)]
pub(super) struct Direct {
    client: PathBuf,
}

impl Direct {
    /// From `site`'s client.
    pub(super) fn new(site: &Site) -> Self {
        let client = site.client.clone();
        Self { client }
    }
}

impl Contestant for Direct {
    fn name(&self) -> &str {
        "direct"
    }

    fn kind(&self) -> Kind {
        Kind::Floor
    }

    fn endpoint(&self, target: Target) -> SocketAddr {
        (site::FAR, target.port()).into()
    }

    fn client(&self) -> &Path {
        &self.client
    }

    fn proxies(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn proof(&self, _: &Site) -> Result<String> {
        Ok("no proxy".into())
    }

    fn expect_alive(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Two proxies of the same kind that speak TLS with each other.
#[derive(Debug)]
pub(super) struct Pair {
    name: &'static str,
    ports: Ports,
    proxies: Vec<Process>,
    client: PathBuf,
}

/// Which ports a pair uses, on both hosts: four from `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    first: u16,
}

impl Ports {
    /// Those of the pair with this number.
    pub(super) fn of(number: usize) -> Self {
        let first = 9000 + 10 * number as u16;
        Self { first }
    }

    /// Where the near proxy listens in clear.
    pub(super) fn clear(self, target: Target) -> SocketAddr {
        site::local(self.first + target as u16)
    }

    /// Where the far proxy listens with TLS.
    pub(super) fn tls(self, target: Target) -> SocketAddr {
        (site::FAR, self.first + 2 + target as u16).into()
    }
}

impl Pair {
    /// Starts both by the command lines in `commands`, the near one first.
    pub(super) fn start(
        site: &Site,
        name: &'static str,
        ports: Ports,
        commands: &[Vec<String>; 2],
    ) -> Result<Self> {
        let mut proxies = Vec::new();
        for (side, command) in Side::BOTH.into_iter().zip(commands) {
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            proxies.push(site.start(side, &format!("{name}-{}", side.name()), &command)?);
        }
        Ok(Self {
            name,
            ports,
            proxies,
            client: site.client.clone(),
        })
    }
}

impl Contestant for Pair {
    fn name(&self) -> &str {
        self.name
    }

    fn kind(&self) -> Kind {
        Kind::Pair
    }

    fn endpoint(&self, target: Target) -> SocketAddr {
        self.ports.clear(target)
    }

    fn client(&self) -> &Path {
        &self.client
    }

    fn proxies(&self) -> Vec<PathBuf> {
        self.proxies
            .iter()
            .map(|proxy| proxy.cgroup.clone())
            .collect()
    }

    fn proof(&self, site: &Site) -> Result<String> {
        proof::negotiated(site, self.ports.tls(Target::Http))
    }

    fn expect_alive(&mut self) -> Result<()> {
        self.proxies.iter_mut().try_for_each(Process::expect_alive)
    }
}

/// Waits until a request comes through.
pub(super) fn await_ready(site: &Site, contestant: &mut dyn Contestant) -> Result<()> {
    let endpoint = contestant.endpoint(Target::Http);
    let deadline = Instant::now() + START;
    loop {
        contestant.expect_alive()?;
        let error = match site.call(contestant.client(), || open(endpoint)) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            bail!("no request comes through: {error:#}");
        }
        sleep(Duration::from_millis(50));
    }
}

/// A connection that has carried one request and could carry more.
pub(super) fn open(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while !is_complete(&answer) {
        let count = stream.read(&mut part)?;
        if count == 0 {
            bail!("closed after {} bytes of the answer", answer.len());
        }
        answer.extend_from_slice(part.get(..count).context("no such part")?);
    }
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        bail!("it answers {}", String::from_utf8_lossy(&answer));
    }
    Ok(stream)
}

/// Whether this is a whole answer of the HTTP server.
fn is_complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    length.and_then(|length| length.parse().ok()) == Some(body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert!(is_complete(whole));
        assert!(!is_complete(&whole[..whole.len() - 1]));
        assert!(!is_complete(b"HTTP/1.1 200 OK\r\n"));
    }

    #[test]
    fn ports_of_pairs_are_different() {
        let ports = |number| {
            let ports = Ports::of(number);
            Target::ALL.map(|target| [ports.clear(target).port(), ports.tls(target).port()])
        };
        let mut all: Vec<u16> = (0..4).flat_map(ports).flatten().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
