//! What an agent serves: metrics, probes, the dashboard page and its API.
//!
//! | path | what |
//! | --- | --- |
//! | `/metrics` | the metrics, for Prometheus |
//! | `/` | the page |
//! | `/api/items` | the last conflicts, with a token also both images, dead letters, and parked events: JSON |
//! | `/api/overview` | the present state of all regions: JSON |
//! | `/api/history` | the last quarter of an hour: JSON |
//! | `/healthz` | whether the agent is alive; else it should be restarted |
//! | `/readyz` | whether it replicates |

mod access;
mod health;
mod items;
mod serve;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::agent::Figures;
use crate::contained::contained;
use crate::observe::Board;
use crate::telemetry::Telemetry;

pub use access::Token;
pub(crate) use health::live;
pub use items::Kept;

/// Where an agent listens by default.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7780);

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Dashboard {
    address: SocketAddr,
    shown: Arc<OnceLock<Content>>,
    server: JoinHandle<()>,
}

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{0} is reachable from other machines: set TRADEWIND_TOKEN, or listen on loopback")]
    NoToken(SocketAddr),
    #[error(
        "can't listen on {0}: {1}\nIs another agent running? Name another address with --listen, or --listen off."
    )]
    Taken(SocketAddr, std::io::Error),
}

/// The agents shown: all of this process, and what one of them knows about all regions.
#[derive(Debug)]
pub struct Content {
    pub agents: Vec<Figures>,
    pub board: Arc<Board>,
    pub kept: Kept,
}

impl Content {
    /// How long a shard may go unread.
    fn timeout(&self) -> Duration {
        self.kept.config.tuning.liveness_timeout
    }
}

/// What the handlers share.
#[derive(Clone, Debug)]
struct Served {
    telemetry: Arc<Telemetry>,
    shown: Arc<OnceLock<Content>>,
    /// Whether every request that gets through has presented the token.
    takes_token: bool,
}

impl Dashboard {
    /// Starts serving on `address`; without one, on the default address, or on a free port if that is taken.
    pub async fn start(
        address: Option<SocketAddr>,
        token: Option<Token>,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, ListenError> {
        let wanted = address.unwrap_or(DEFAULT_ADDRESS);
        if !wanted.ip().is_loopback() && token.is_none() {
            return Err(ListenError::NoToken(wanted));
        }
        let bound = match TcpListener::bind(wanted).await {
            Err(error) if address.is_none() => {
                warn!("can't listen on {wanted} ({error}); listening on a free port");
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
            }
            bound => bound,
        };
        let listener = bound.map_err(|error| ListenError::Taken(wanted, error))?;
        let address = listener.local_addr().map_err(|error| ListenError::Taken(wanted, error))?;
        let shown = Arc::default();
        let takes_token = token.is_some();
        let router = router(Served { telemetry, shown: Arc::clone(&shown), takes_token }, token);
        let server = tokio::spawn(async move {
            let work = || serve::serve(&listener, &router);
            contained("the server of metrics and the page", &CancellationToken::new(), work).await;
        });
        Ok(Self { address, shown, server })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows these agents; until then, `/readyz` reports that they are starting.
    pub fn show(&self, shown: Content) {
        // They start once.
        let _ = self.shown.set(shown);
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn router(served: Served, token: Option<Token>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/overview", get(overview))
        .route("/api/history", get(history))
        .route("/api/items", get(items))
        .route("/", get(|| async { part("text/html; charset=utf-8", include_str!("page.html")) }))
        .route("/page.css", get(|| async { part("text/css; charset=utf-8", include_str!("page.css")) }))
        .route("/page.js", get(|| async { part("text/javascript; charset=utf-8", include_str!("page.js")) }));
    let guarded = guarded.layer(middleware::from_fn_with_state(Arc::new(token), access::check));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .merge(guarded)
        .with_state(served)
        .layer(middleware::from_fn(access::refuse_other_sites))
        .layer(middleware::from_fn(unsniffed))
}

async fn metrics(State(served): State<Served>) -> Response {
    match served.telemetry.scrape() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => {
            error!(%error, "scrape failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn overview(State(served): State<Served>) -> Response {
    served.shown.get().map_or_else(starting, |shown| json(&shown.board.overview()))
}

async fn history(State(served): State<Served>) -> Response {
    served.shown.get().map_or_else(starting, |shown| json(&shown.board.history()))
}

async fn items(State(served): State<Served>) -> Response {
    match served.shown.get() {
        Some(shown) => json(&Box::pin(shown.kept.look(&shown.agents, served.takes_token)).await),
        None => starting(),
    }
}

/// Prevents content from being interpreted as another type than declared.
async fn unsniffed(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A part of the page, which loads nothing from elsewhere.
fn part(kind: &'static str, text: &'static str) -> Response {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                  frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

async fn healthz(State(served): State<Served>) -> Response {
    let live = |shown: &Content| health::live(&shown.agents, shown.timeout());
    answer(served.shown.get().map_or(Ok(()), live))
}

async fn readyz(State(served): State<Served>) -> Response {
    let ready = |shown: &Content| health::ready(&shown.agents, shown.timeout());
    answer(served.shown.get().map_or(Err("starting"), ready))
}

fn starting() -> Response {
    answer(Err("starting"))
}

fn json(body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(text) => {
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (headers, text).into_response()
        }
        Err(error) => {
            error!(%error, "can't write an answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A probe's answer: one word.
fn answer(verdict: Result<(), &'static str>) -> Response {
    match verdict {
        Ok(()) => "ok".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}
