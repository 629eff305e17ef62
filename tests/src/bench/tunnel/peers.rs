//! The other proxies: each as a pair, TLS 1.3 with certificates on both ends and two workers.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use super::certificates::{self, Certificates, Leaf};
use super::contestant::{Contestant, Pair, Ports, Target};
use super::envoy;
use super::mesh::Mesh;
use super::site::{self, Side, Site};
use crate::agent;

/// Connections that each proxy is prepared for.
pub(super) const CONNECTIONS: u32 = 8000;

/// A proxy that a pair can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Peer {
    /// Its stream module.
    Nginx,
    /// In TCP mode.
    Haproxy,
    /// A thread per connection.
    Stunnel,
    /// As TCP proxy; `MESH_ENVOY` is the path of its binary.
    Envoy,
    /// The mesh: an agent on each host.
    Mesh,
}

/// What a proxy's settings are made of.
pub(super) struct Plan<'a> {
    pub(super) side: Side,
    ports: Ports,
    pub(super) root: String,
    /// A file for its process id. Who has one removes it when it ends, whatever it is.
    pid: String,
    own: &'a Leaf,
}

impl Peer {
    /// Its name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Stunnel => "stunnel",
            Self::Envoy => "envoy",
            Self::Mesh => "mesh",
        }
    }

    /// Why there is none on this machine; `None` if there is.
    pub(super) fn missing(self) -> Option<String> {
        let program = match self {
            Self::Envoy => match env::var_os("MESH_ENVOY") {
                Some(path) => PathBuf::from(path),
                None => return Some("MESH_ENVOY does not name its binary".into()),
            },
            Self::Nginx => STREAM_MODULE.into(),
            Self::Haproxy => "/usr/sbin/haproxy".into(),
            Self::Stunnel => "/usr/bin/stunnel4".into(),
            Self::Mesh => agent::binary(),
        };
        let missing = !program.exists();
        missing.then(|| format!("{} does not exist", program.display()))
    }

    /// Starts a pair of them at `ports`.
    pub(super) fn start(self, site: &Site, ports: Ports) -> Result<Box<dyn Contestant>> {
        if self == Self::Mesh {
            return Ok(Box::new(Mesh::start(site, ports)?));
        }
        let near = self.prepare(site, ports, Side::Near)?;
        let far = self.prepare(site, ports, Side::Far)?;
        let pair = Pair::start(site, self.name(), ports, &[near, far])?;
        Ok(Box::new(pair))
    }

    /// Writes the settings of one; its command line.
    fn prepare(self, site: &Site, ports: Ports, side: Side) -> Result<Vec<String>> {
        let Certificates { root, near, far } = &site.certificates;
        let pid = site.path(&format!("{}-{}.pid", self.name(), side.name()));
        let plan = Plan {
            side,
            ports,
            root: root.display().to_string(),
            pid: pid.display().to_string(),
            own: match side {
                Side::Near => near,
                Side::Far => far,
            },
        };
        let path = site.path(&format!("{}-{}.conf", self.name(), side.name()));
        let settings = match self {
            Self::Nginx => plan.nginx(),
            Self::Haproxy => plan.haproxy(),
            Self::Stunnel => plan.stunnel(),
            Self::Envoy => envoy::settings(&plan),
            Self::Mesh => String::new(),
        };
        fs::write(&path, settings)?;
        Ok(self.command(&path.display().to_string()))
    }

    fn command(self, settings: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Nginx => &["nginx", "-e", "stderr", "-c", settings],
            Self::Haproxy => &["haproxy", "-db", "-f", settings],
            Self::Stunnel => &["stunnel4", settings],
            Self::Envoy => {
                let binary = env::var("MESH_ENVOY").unwrap_or_default();
                let words = [
                    &binary,
                    "--config-path",
                    settings,
                    "--concurrency",
                    "2",
                    "--disable-hot-restart",
                    "--log-level",
                    "warn",
                ];
                return words.map(str::to_owned).to_vec();
            }
            Self::Mesh => &[],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}

/// Where Debian has what makes nginx a TCP proxy.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

impl Plan<'_> {
    pub(super) fn certificate(&self) -> String {
        self.own.certificate.display().to_string()
    }

    pub(super) fn key(&self) -> String {
        self.own.key.display().to_string()
    }

    /// Where it listens and where it connects to, for each of the servers.
    pub(super) fn hops(&self) -> impl Iterator<Item = (Target, SocketAddr, SocketAddr)> {
        Target::ALL.into_iter().map(|target| {
            let (clear, tls) = (self.ports.clear(target), self.ports.tls(target));
            match self.side {
                Side::Near => (target, clear, tls),
                Side::Far => (target, tls, site::local(target.port())),
            }
        })
    }

    fn nginx(&self) -> String {
        let (root, certificate, key) = (&self.root, self.certificate(), self.key());
        let pid = &self.pid;
        let tls = match self.side {
            Side::Near => format!(
                "proxy_ssl on; proxy_ssl_protocols TLSv1.3;
  proxy_ssl_certificate {certificate}; proxy_ssl_certificate_key {key};
  proxy_ssl_trusted_certificate {root}; proxy_ssl_verify on;
  proxy_ssl_name {}; proxy_ssl_server_name on;",
                certificates::FAR
            ),
            Side::Far => format!(
                "ssl_protocols TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key};
  ssl_client_certificate {root}; ssl_verify_client on;"
            ),
        };
        let ssl = if self.side == Side::Far { " ssl" } else { "" };
        let servers: String = self
            .hops()
            .map(|(_, from, to)| {
                format!("  server {{ listen {from}{ssl} backlog=4096; proxy_pass {to}; }}\n")
            })
            .collect();
        format!(
            "load_module {STREAM_MODULE};
worker_processes 2;
daemon off;
pid {pid};
error_log stderr warn;
events {{ worker_connections {}; }}
stream {{
  proxy_timeout 1h;
  {tls}
{servers}}}
",
            // It counts both ends of a connection, and one worker may get most of them.
            2 * CONNECTIONS
        )
    }

    fn haproxy(&self) -> String {
        let (root, bundle) = (&self.root, self.own.bundle.display());
        let mut text = format!(
            "global
  nbthread 2
  maxconn {CONNECTIONS}
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
"
        );
        let tls = format!("crt {bundle} ca-file {root} ssl-min-ver TLSv1.3");
        for (target, from, to) in self.hops() {
            let (bind, server) = match self.side {
                Side::Near => {
                    let name = certificates::FAR;
                    let verify = format!("ssl verify required verifyhost {name} sni str({name})");
                    (String::new(), format!("{verify} {tls}"))
                }
                Side::Far => (format!("ssl verify required {tls}"), String::new()),
            };
            text += &format!(
                "listen {target:?}\n  bind {from} backlog 4096 {bind}\n  server far {to} {server}\n"
            );
        }
        text
    }

    fn stunnel(&self) -> String {
        let (root, certificate, key) = (&self.root, self.certificate(), self.key());
        let mut text = format!(
            "foreground = yes
pid =
syslog = no
debug = warning
cert = {certificate}
key = {key}
CAfile = {root}
verifyChain = yes
sslVersionMin = TLSv1.3
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
"
        );
        let verify = match self.side {
            Side::Near => format!("client = yes\ncheckHost = {}\n", certificates::FAR),
            Side::Far => "requireCert = yes\n".into(),
        };
        for (target, from, to) in self.hops() {
            text += &format!("[{target:?}]\naccept = {from}\nconnect = {to}\n{verify}");
        }
        text
    }
}
