//! Serves HTTP/1 within limits: a client that connects and says nothing, or never reads the answer, holds a
//! connection for some seconds, and blocks nobody else.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::warn;

/// How long a request's head may take, and how long a connection may be idle between two requests. No body is
/// awaited: a connection with one left over is closed.
const HEAD: Duration = Duration::from_secs(10);
/// How long one connection is served; browsers open another.
const LONGEST: Duration = Duration::from_mins(2);
/// How long an answer in progress may still take after that.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// How many connections are served at once; the next one ends the oldest, so that a probe always gets
/// through.
const MOST: usize = 256;
/// How long to wait, when there are too many open files, for some to be closed.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Serves while it is polled.
pub(super) async fn serve(listener: &TcpListener, router: &Router) {
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if by_age.len() >= MOST {
                        by_age.retain(|connection| !connection.is_finished());
                    }
                    if by_age.len() >= MOST && let Some(oldest) = by_age.pop_front() {
                        oldest.abort();
                    }
                    by_age.push_back(connections.spawn(converse(stream, router.clone())));
                }
                Err(error) => {
                    warn!(%error, "can't accept a connection");
                    sleep(TRY_AGAIN).await;
                }
            },
        }
    }
}

/// Serves one connection to its end. Errors on it are the client's concern.
async fn converse(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    if timeout(LONGEST, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_ANSWER, connection).await;
    }
}
