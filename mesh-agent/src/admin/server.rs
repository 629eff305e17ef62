//! The server's life: bound, running on its own thread, stopped when dropped.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::access::Gate;
use super::bind::{self, BindError, SocketFile};
use super::limits::{CONNECTIONS, HEAD_BYTES, HEADERS, STACK, Timeouts};
use super::metrics::Cause;
use super::peer::Peer;
use super::routes::{Door, Routes, Visitor};
use super::{Options, Source};

/// A server that listens but does not answer yet.
#[derive(Debug)]
pub struct Server {
    options: Options,
    gate: Gate,
    pub(super) timeouts: Timeouts,
    tcp: Option<std::net::TcpListener>,
    unix: Option<(StdUnixListener, SocketFile)>,
}

impl Server {
    /// Takes the addresses, so that a second agent fails before it touches anything.
    pub fn bind(options: Options) -> Result<Self, BindError> {
        let gate = Gate::new(options.access.clone())?;
        let tcp = options
            .listen
            .map(|address| bind::tcp(address, &options.access))
            .transpose()?;
        let unix = options.run_dir.as_deref().map(bind::unix).transpose()?;
        Ok(Self {
            options,
            gate,
            timeouts: Timeouts::default(),
            tcp,
            unix,
        })
    }

    /// The TCP address it listens on.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Begins to answer, on its own thread.
    pub fn start(self, source: Arc<dyn Source>) -> Result<Running, BindError> {
        let Self {
            options,
            gate,
            timeouts,
            tcp,
            unix,
        } = self;
        let (stop, stopped) = oneshot::channel();
        let runtime = runtime().map_err(BindError::Start)?;
        let shared = Arc::new(Shared {
            routes: Routes::new(source, gate, &options),
            timeouts,
        });
        let (unix, file) = unix.unzip();
        let listeners = {
            let _context = runtime.enter();
            Listeners::adopt(tcp, unix).map_err(BindError::Start)?
        };
        let thread = std::thread::Builder::new()
            .name("admin".into())
            .stack_size(STACK)
            .spawn(move || run(runtime, listeners, shared, stopped))
            .map_err(BindError::Start)?;
        Ok(Running {
            stop: Some(stop),
            thread: Some(thread),
            _file: file,
        })
    }
}

/// A server that answers; dropping it stops it and removes the socket.
#[derive(Debug)]
pub struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _file: Option<SocketFile>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = ended {
            tracing::error!("the admin server's thread panicked");
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(4)
        .thread_name("admin-work")
        .thread_stack_size(STACK)
        .thread_keep_alive(Duration::from_secs(30))
        .build()
}

struct Listeners {
    tcp: Option<TcpListener>,
    unix: Option<UnixListener>,
}

impl Listeners {
    fn adopt(
        tcp: Option<std::net::TcpListener>,
        unix: Option<StdUnixListener>,
    ) -> io::Result<Self> {
        Ok(Self {
            tcp: tcp.map(TcpListener::from_std).transpose()?,
            unix: unix.map(UnixListener::from_std).transpose()?,
        })
    }
}

/// What all connections share.
struct Shared {
    routes: Routes,
    timeouts: Timeouts,
}

fn run(runtime: Runtime, listeners: Listeners, shared: Arc<Shared>, stop: oneshot::Receiver<()>) {
    let Listeners { tcp, unix } = listeners;
    runtime.block_on(async {
        let tcp = serve_all(tcp, shared.clone());
        let unix = serve_all(unix, shared);
        tokio::select! {
            _ = stop => {}
            _ = async { tokio::join!(tcp, unix) } => {}
        }
    });
    // Work that is under way holds only copies and references; it need not be waited for long.
    runtime.shutdown_timeout(Duration::from_secs(1));
}

/// Something that accepts connections.
trait Accept {
    const DOOR: Door;
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>>;
    fn trusts(stream: &Self::Stream) -> bool;
    fn serve(stream: Self::Stream, shared: &Shared) -> impl Future<Output = ()> + Send;
}

impl Accept for TcpListener {
    const DOOR: Door = Door::Tcp;
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }

    fn trusts(_: &Self::Stream) -> bool {
        true
    }

    async fn serve(stream: Self::Stream, shared: &Shared) {
        if !shared.routes.gate().is_encrypted() {
            return serve(Visitor::tcp(false), stream, shared).await;
        }
        let patience = shared.timeouts.head;
        match shared.routes.open(stream, patience).await {
            Ok((stream, proven)) => serve(Visitor::tcp(proven), stream, shared).await,
            Err(error) => tracing::debug!("admin connection: {error}"),
        }
    }
}

impl Accept for UnixListener {
    const DOOR: Door = Door::Unix;
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }

    fn trusts(stream: &Self::Stream) -> bool {
        let own = rustix::process::geteuid().as_raw();
        let peer = stream.peer_cred().map(|credentials| credentials.uid());
        peer.is_ok_and(|uid| may_use(uid, own))
    }

    async fn serve(stream: Self::Stream, shared: &Shared) {
        serve(Visitor::UNIX, stream, shared).await;
    }
}

/// Who may use the unix socket.
pub(super) fn may_use(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// Serves what a listener accepts, for ever.
async fn serve_all<L: Accept>(listener: Option<L>, shared: Arc<Shared>) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.next().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: it passes, and trying at once would spin.
                tracing::warn!("admin server cannot accept: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let place = places.clone().try_acquire_owned();
        let refused = |cause| shared.routes.metrics().refused(L::DOOR, cause, 1);
        match place {
            Err(_) => refused(Cause::Full),
            Ok(_) if !L::trusts(&stream) => refused(Cause::Credentials),
            Ok(place) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    L::serve(stream, &shared).await;
                    drop(place);
                });
            }
        }
    }
}

/// Serves one connection to its end.
async fn serve<S>(visitor: Visitor, stream: S, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Shared { routes, timeouts } = shared;
    let service = service_fn(|request| routes.answer(visitor, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.head)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Peer::new(stream, timeouts.idle)), service);
    // Whatever ends it, the client is the one who can do something about it, not the operator.
    match timeout(timeouts.lifetime, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("admin connection: {error}"),
        Err(_) => tracing::debug!("admin connection: it lasted too long"),
    }
}
