//! A larger mesh with traffic that goes on, for what shows traffic.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use crate::peer::{Dial, Peer};
use crate::sandbox::Sandbox;

/// Name of the policy's file.
pub const FILE: &str = "20-town.toml";

/// See [`CALLED`].
type Called = (&'static str, &'static str, u8, &'static [Version]);
type Version = (&'static str, u16);
/// Services that are called: namespace, name, last byte of the VIP, and the port of each version.
const CALLED: [Called; 6] = [
    ("shop", "web", 20, &[("v1", 18090)]),
    ("shop", "checkout", 21, &[("v1", 18091)]),
    ("shop", "catalog", 22, &[("v3", 18092)]),
    ("shop", "payments", 10, &[("v1", 18093), ("v2", 18094)]),
    ("data", "ledger", 30, &[("v1", 18095)]),
    ("data", "stock", 31, &[("v1", 18096)]),
];
/// Services that only call.
const CALLERS: [(&str, &str); 3] = [("edge", "gateway"), ("ops", "backup"), ("dev", "intruder")];
/// Who calls whom, and how many connections in each round. The intruder is not let in, and
/// nobody listens for the ledger.
const CALLS: [(&str, &str, u32); 9] = [
    ("gateway", "web", 12),
    ("web", "checkout", 4),
    ("web", "catalog", 9),
    ("checkout", "payments", 5),
    ("checkout", "stock", 3),
    ("catalog", "stock", 6),
    ("payments", "ledger", 1),
    ("backup", "stock", 1),
    ("intruder", "payments", 1),
];

/// The processes, and what makes them call each other.
#[derive(Debug)]
pub struct Town {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
    _servers: Vec<Peer>,
}

impl Town {
    /// Writes the policy and starts the processes, which begin to call. The agent must run.
    ///
    /// # Errors
    ///
    /// Something cannot be started.
    pub fn open(sandbox: &Sandbox) -> io::Result<Self> {
        let spawn =
            |name: &str| Peer::spawn(&sandbox.cgroup, &format!("system.slice/{name}.service"));
        let mut servers = Vec::new();
        for (_, name, _, versions) in CALLED {
            let mut server = spawn(name)?;
            if name != "ledger" {
                for (version, port) in versions {
                    server.serve_tcp(&format!("127.0.0.1:{port}"), version)?;
                }
            }
            servers.push(server);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = Vec::new();
        for (from, to, times) in CALLS {
            let (peer, stop) = (spawn(from)?, Arc::clone(&stop));
            callers.push(thread::spawn(move || call(peer, vip(to), times, &stop)));
        }
        Ok(Self {
            stop,
            callers,
            _servers: servers,
        })
    }

    /// The policy: everybody may call as they do, but for the intruder. Payments has a canary.
    pub fn policy() -> String {
        let mut text = String::from(
            "[[deny]]\nname = \"no-strangers-at-the-till\"\nfrom = [\"dev/*\"]\nto = [\"shop/payments\"]\n\n",
        );
        for (namespace, name) in CALLERS {
            text += &format!(
                "[[service]]\nname = \"{name}\"\nnamespace = \"{namespace}\"\nworkload = {{ systemd = \"{name}.service\" }}\n\n"
            );
        }
        for (namespace, name, byte, versions) in CALLED {
            let endpoint = |(version, port): &Version| {
                format!("{{ address = \"127.0.0.1:{port}\", version = \"{version}\" }}")
            };
            let endpoints: Vec<_> = versions.iter().map(endpoint).collect();
            text += &format!(
                "[[service]]\nname = \"{name}\"\nnamespace = \"{namespace}\"\nvip = \"10.96.0.{byte}\"\nports = [{{ name = \"main\", listen = 80 }}]\nworkload = {{ systemd = \"{name}.service\" }}\nendpoints = [{}]\n\n",
                endpoints.join(", ")
            );
        }
        text += "[[split]]\nservice = \"shop/payments\"\nweights = { v1 = 99, v2 = 1 }\n\n";
        for (from, to, _) in CALLS.iter().filter(|(from, ..)| *from != "intruder") {
            text += &format!(
                "[[allow]]\nname = \"{from}-{to}\"\nfrom = [\"{}\"]\nto = [\"{}\"]\n\n",
                full(from),
                full(to)
            );
        }
        text
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers.drain(..) {
            // One that has panicked has said so.
            let _ = caller.join();
        }
    }
}

fn call(mut peer: Peer, to: SocketAddr, times: u32, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // Refusals are outcomes, too; an error is the end of the peer.
        if peer.dial(Dial::tcp(to).times(times)).is_err() {
            return;
        }
        sleep(Duration::from_millis(200));
    }
}

/// `namespace/name` of a service of the town.
fn full(name: &str) -> String {
    let called = CALLED
        .iter()
        .map(|(namespace, name, ..)| (*namespace, *name));
    let mut all = called.chain(CALLERS);
    let found = all.find(|(_, known)| *known == name);
    found.map_or_else(
        || name.to_owned(),
        |(namespace, name)| format!("{namespace}/{name}"),
    )
}

/// What clients dial to reach a service of the town.
pub fn vip(name: &str) -> SocketAddr {
    let found = CALLED.iter().find(|(_, known, ..)| *known == name);
    let byte = found.map_or(0, |(_, _, byte, _)| *byte);
    SocketAddr::from(([10, 96, 0, byte], 80))
}
