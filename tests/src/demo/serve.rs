//! A service of the demo: answers every HTTP request with its name and version.

use std::convert::Infallible;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::Identity;
use crate::cgroup;

/// The line on stdout that says it serves.
pub(super) const READY: &str = "ready";

/// Its command line.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    identity: Identity,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    version: String,
}

/// Serves until it is ended.
pub(super) fn run(args: &Args) -> Result<()> {
    args.identity.assume()?;
    let answer: &'static str = format!("{} {}\n", args.identity.name, args.version).leak();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| args.listen.to_string())?;
        println!("{READY}");
        std::io::stdout().flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(connection(stream, answer));
        }
    })
}

async fn connection(stream: TcpStream, answer: &'static str) {
    let service = service_fn(move |_: Request<Incoming>| async move {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(
            answer.as_bytes(),
        ))))
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        eprintln!("{}: {error}", answer.trim_end());
    }
}

impl Identity {
    /// Becomes the process it says.
    pub(super) fn assume(&self) -> Result<()> {
        cgroup::join(&self.cgroup).with_context(|| self.cgroup.display().to_string())?;
        fs::write("/proc/self/comm", &self.name).context("/proc/self/comm")
    }
}
