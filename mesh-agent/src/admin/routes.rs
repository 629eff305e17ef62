//! The router: a request and the listener it came by come in, a response goes out.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::access::{Gate, Opened};
use super::guard::{self, Refused, What};
use super::limits::FRESH;
use super::metrics::Metrics;
use super::observatory::{self, Observatory, Paper};
use super::page::{self, Asset};
use super::query::Query;
use super::scrape::{Kept, Scraper};
use super::single::{Single, Unavailable};
use super::{Options, Source};
use crate::telemetry::exposition::{Format, wants_gzip};
use crate::telemetry::flows::FlowQuery;
use crate::telemetry::registry::Exporter;
use crate::telemetry::status::{Document, SCHEMA_VERSION};

/// The listener a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// TCP: anyone on this host.
    Tcp,
    /// The unix socket: root and the agent's own user.
    Unix,
}

impl Door {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visitor {
    door: Door,
    /// Whether it has shown a certificate that is enough.
    proven: bool,
}

impl Visitor {
    pub(super) const UNIX: Self = Self {
        door: Door::Unix,
        proven: true,
    };

    pub(super) const fn tcp(proven: bool) -> Self {
        let door = Door::Tcp;
        Self { door, proven }
    }
}

/// Answers requests.
pub(super) struct Routes {
    source: Arc<dyn Source>,
    gate: Gate,
    metrics: Metrics,
    scraper: Single<Scraper>,
    readiness: Single<Kept<Vec<String>>>,
    observatory: Single<Observatory>,
    status: Single<()>,
    flows: Single<()>,
    reload: Single<()>,
    /// Names of this node that browsers may call it by.
    names: Vec<Arc<str>>,
}

type Answer = Result<Response<Full<Bytes>>, Unavailable>;

impl Routes {
    pub(super) fn new(source: Arc<dyn Source>, gate: Gate, options: &Options) -> Self {
        let (metrics, own) = Metrics::register();
        let exporter = Exporter::new(options.build, options.series, own);
        Self {
            scraper: Single::new(Scraper::new(source.clone(), exporter)),
            readiness: Single::new(Kept::default()),
            observatory: Single::new(Observatory::new(source.clone(), options.series)),
            status: Single::new(()),
            flows: Single::new(()),
            reload: Single::new(()),
            metrics,
            source,
            gate,
            names: options.names.clone(),
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Makes a handshake, see [`Gate::open`].
    pub(super) async fn open(&self, stream: TcpStream, patience: Duration) -> io::Result<Opened> {
        let bundle = self.source.certificates();
        self.gate.open(bundle, stream, patience).await
    }

    /// Answers a request. Bodies are not read: nothing here takes one.
    pub(super) async fn answer<B>(
        &self,
        visitor: Visitor,
        request: Request<B>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let door = visitor.door;
        let answer = match Route::find(door, request.uri().path()) {
            None => Ok(plain(
                StatusCode::NOT_FOUND,
                "not found; / lists what is here\n",
            )),
            Some(route) if !route.takes(request.method()) => Ok(not_allowed(route)),
            Some(route) => {
                let route = route.for_client(door, request.headers());
                match self.check(route, visitor, &request) {
                    Ok(()) => self.serve(route, door, &request).await,
                    Err(refused) => Ok(refusal(refused)),
                }
            }
        };
        Ok(answer.unwrap_or_else(|unavailable| {
            plain(StatusCode::SERVICE_UNAVAILABLE, &format!("{unavailable}\n"))
        }))
    }

    /// Refuses what a browser may have been made to ask for.
    /// And who has to show something, and does not.
    fn check<B>(
        &self,
        route: Route,
        visitor: Visitor,
        request: &Request<B>,
    ) -> Result<(), Refused> {
        if visitor.door == Door::Unix {
            return Ok(());
        }
        let headers = request.headers();
        if let Some(what) = route.is_for_browsers() {
            guard::check(what, request.uri(), headers, &self.names)?;
        }
        if route.is_public() || self.gate.admits(visitor.proven, headers) {
            return Ok(());
        }
        self.metrics.unauthorized();
        Err(Refused {
            status: StatusCode::UNAUTHORIZED,
            why: "show the token (Authorization: Bearer ..) or a certificate that may ask".into(),
        })
    }

    async fn serve<B>(&self, route: Route, door: Door, request: &Request<B>) -> Answer {
        let query = request.uri().query();
        match route {
            Route::Index => Ok(plain(StatusCode::OK, &index(door))),
            Route::Asset(asset) => Ok(file(asset)),
            Route::Healthz => Ok(plain(StatusCode::OK, "ok\n")),
            Route::Readyz => self.readyz().await,
            Route::Metrics => self.scrape(request.headers()).await,
            Route::Services => self.observe(Paper::Services, query).await,
            Route::Graph => self.observe(Paper::Graph, query).await,
            Route::Status => self.status().await,
            Route::Policy => self.policy().await,
            Route::Decisions => self.decisions().await,
            Route::Reload => self.reload().await,
            Route::Flows => self.flows(door, query.unwrap_or_default()).await,
        }
    }

    async fn flows(&self, door: Door, query: &str) -> Answer {
        let query = match FlowQuery::parse(query) {
            Ok(query) if query.opens && door == Door::Tcp => {
                let text = "opens is for the unix socket: it makes every connection dearer\n";
                return Ok(plain(StatusCode::BAD_REQUEST, text));
            }
            Ok(query) => query,
            Err(error) => return Ok(plain(StatusCode::BAD_REQUEST, &format!("{error}\n"))),
        };
        let source = self.source.clone();
        let work = move |(): &mut ()| serde_json::to_string(&source.flows(&query));
        match self.flows.run(work).await? {
            Ok(document) => Ok(json(StatusCode::OK, document + "\n")),
            Err(_) => Err(Unavailable::Failed),
        }
    }

    async fn observe(&self, paper: Paper, query: Option<&str>) -> Answer {
        let window = Query::parse(query, &["window"]).and_then(|query| query.window());
        let window = match window {
            Ok(window) => window,
            Err(why) => return Ok(plain(StatusCode::BAD_REQUEST, &(why + "\n"))),
        };
        let work = move |observatory: &mut Observatory| observatory.answer(paper, window);
        let (body, begins) = self.observatory.run(work).await?;
        if begins {
            tokio::spawn(observatory::watch(self.observatory.clone()));
        }
        Ok(response(StatusCode::OK, "application/json", body))
    }

    async fn readyz(&self) -> Answer {
        let source = self.source.clone();
        let work = move |kept: &mut Kept<Vec<String>>| kept.get_or(|| source.readiness()).clone();
        let pending = self.readiness.run(work).await?;
        if pending.is_empty() {
            return Ok(plain(StatusCode::OK, "ready\n"));
        }
        let body = pending.join("\n") + "\n";
        Ok(plain(StatusCode::SERVICE_UNAVAILABLE, &body))
    }

    async fn scrape(&self, headers: &HeaderMap) -> Answer {
        self.metrics.scraped();
        let format = Format::of_accept(joined(headers, header::ACCEPT).as_deref());
        let packed = wants_gzip(joined(headers, header::ACCEPT_ENCODING).as_deref());
        let work = move |scraper: &mut Scraper| {
            scraper.expire();
            (scraper.is_empty(), scraper.body(format, packed))
        };
        let (new, body) = self.scraper.run(work).await?;
        if new {
            tokio::spawn(expire(self.scraper.clone()));
        }
        let mut response = response(StatusCode::OK, format.content_type(), body);
        let headers = response.headers_mut();
        headers.insert(
            header::VARY,
            HeaderValue::from_static("accept, accept-encoding"),
        );
        if packed {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(response)
    }

    async fn status(&self) -> Answer {
        let source = self.source.clone();
        let work =
            move |(): &mut ()| serde_json::to_string_pretty(&Document::from(source.status()));
        match self.status.run(work).await? {
            Ok(document) => Ok(json(StatusCode::OK, document + "\n")),
            Err(_) => Err(Unavailable::Failed),
        }
    }

    async fn policy(&self) -> Answer {
        let source = self.source.clone();
        let work = move |(): &mut ()| serde_json::to_string(&source.policy());
        match self.status.run(work).await? {
            Ok(files) => Ok(json(StatusCode::OK, files + "\n")),
            Err(_) => Err(Unavailable::Failed),
        }
    }

    async fn decisions(&self) -> Answer {
        let source = self.source.clone();
        let work = move |(): &mut ()| serde_json::to_string(&source.observed());
        match self.status.run(work).await? {
            Ok(document) => Ok(json(StatusCode::OK, document + "\n")),
            Err(_) => Err(Unavailable::Failed),
        }
    }

    async fn reload(&self) -> Answer {
        let source = self.source.clone();
        let outcome = self.reload.run(move |(): &mut ()| source.reload()).await?;
        Ok(match outcome {
            Ok(reloaded) => json(
                StatusCode::OK,
                format!(
                    "{:#}\n",
                    json!({
                        "schema_version": SCHEMA_VERSION,
                        "outcome": "ok",
                        "revision": reloaded.revision,
                        "digest": reloaded.digest,
                    })
                ),
            ),
            Err(rejected) => json(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!(
                    "{:#}\n",
                    json!({
                        "schema_version": SCHEMA_VERSION,
                        "outcome": "rejected",
                        "diagnostics": rejected.diagnostics,
                    })
                ),
            ),
        })
    }
}

/// Frees a scrape once it is of no use any more. It ends by itself, and each snapshot has one.
async fn expire(scraper: Single<Scraper>) {
    sleep(FRESH).await;
    // Where this fails, the next scrape does it.
    let _ = scraper.run(Scraper::expire).await;
}

/// Everything that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Index,
    Asset(&'static Asset),
    Healthz,
    Readyz,
    Metrics,
    Services,
    Graph,
    Status,
    Policy,
    Decisions,
    Flows,
    Reload,
}

impl Route {
    /// All but the files of the page.
    const ALL: [Self; 11] = [
        Self::Index,
        Self::Healthz,
        Self::Readyz,
        Self::Metrics,
        Self::Services,
        Self::Graph,
        Self::Status,
        Self::Policy,
        Self::Decisions,
        Self::Flows,
        Self::Reload,
    ];

    fn find(door: Door, path: &str) -> Option<Self> {
        let files = page::find(path).map(Self::Asset);
        let mut here = Self::ALL
            .into_iter()
            .chain(files)
            .filter(|route| route.is_at(door));
        here.find(|route| route.path() == path)
    }

    /// Whether the listener has it. What changes or tells all of the policy is not for everyone
    /// on the host, and browsers can be made to send requests to TCP. The page is for browsers.
    fn is_at(self, door: Door) -> bool {
        match self {
            Self::Index
            | Self::Healthz
            | Self::Readyz
            | Self::Metrics
            | Self::Services
            | Self::Graph
            | Self::Flows => true,
            Self::Asset(_) => door == Door::Tcp,
            Self::Status | Self::Policy | Self::Decisions | Self::Reload => door == Door::Unix,
        }
    }

    /// The page in place of the list, for browsers.
    fn for_client(self, door: Door, headers: &HeaderMap) -> Self {
        let browser =
            || door == Door::Tcp && page::is_wanted(joined(headers, header::ACCEPT).as_deref());
        match self {
            Self::Index if browser() => Self::Asset(&page::INDEX),
            other => other,
        }
    }

    /// Whether it says nothing about this host, or no more than that it is well. The page is
    /// nothing without its data.
    fn is_public(self) -> bool {
        matches!(
            self,
            Self::Index | Self::Asset(_) | Self::Healthz | Self::Readyz
        )
    }

    /// What a page of another site must not get at.
    fn is_for_browsers(self) -> Option<What> {
        match self {
            Self::Asset(asset) if *asset == page::INDEX => Some(What::Page),
            Self::Asset(_) | Self::Services | Self::Graph | Self::Flows => Some(What::Data),
            _ => None,
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Index => "/",
            Self::Asset(asset) => asset.path,
            Self::Services => "/api/v1/services",
            Self::Graph => "/api/v1/graph",
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Status => "/status",
            Self::Policy => "/policy",
            Self::Decisions => "/decisions",
            Self::Flows => "/api/v1/flows",
            Self::Reload => "/reload",
        }
    }

    fn takes(self, method: &Method) -> bool {
        match self {
            Self::Reload => method == Method::POST,
            _ => method == Method::GET || method == Method::HEAD,
        }
    }

    const fn allow(self) -> &'static str {
        match self {
            Self::Reload => "POST",
            _ => "GET, HEAD",
        }
    }

    const fn describe(self) -> &'static str {
        match self {
            Self::Index => "this list; a page for browsers",
            Self::Asset(_) => "part of the page",
            Self::Services => "services and how they are (JSON)",
            Self::Graph => "who calls whom (JSON)",
            Self::Healthz => "200 while the agent works",
            Self::Readyz => "200 once the policy is enforced; else what is missing",
            Self::Metrics => "metrics: OpenMetrics or the Prometheus text format",
            Self::Status => "status document (JSON)",
            Self::Policy => "files of the policy in force (JSON)",
            Self::Decisions => "what was decided so far (JSON)",
            Self::Flows => "the latest flows and denials (JSON)",
            Self::Reload => "POST: read the policy files again",
        }
    }
}

fn index(door: Door) -> String {
    let here = Route::ALL.into_iter().filter(|route| route.is_at(door));
    let lines = here.map(|route| format!("{:<18}{}\n", route.path(), route.describe()));
    format!("mesh-agent\n\n{}", lines.collect::<String>())
}

/// All values of a header as one list.
fn joined(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let values = headers.get_all(name).iter();
    let values: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn not_allowed(route: Route) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(route.allow()));
    response
}

fn refusal(refused: Refused) -> Response<Full<Bytes>> {
    let mut response = plain(refused.status, &(refused.why + "\n"));
    if refused.status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        let headers = response.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

fn plain(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    response(status, "text/plain; charset=utf-8", body)
}

fn json(status: StatusCode, document: String) -> Response<Full<Bytes>> {
    response(status, "application/json", document.into())
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        "cross-origin-resource-policy",
        HeaderValue::from_static("same-origin"),
    );
    response
}

fn file(asset: &'static Asset) -> Response<Full<Bytes>> {
    let body = Bytes::from_static(asset.body);
    let mut response = response(StatusCode::OK, asset.content_type, body);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, page::SECURITY_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::VARY, "accept"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
