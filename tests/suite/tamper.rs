//! An HTTP proxy that changes what is said: faults that a network or a service has.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Pass,
    /// It is answered with this error, and goes no further.
    Fail(&'static str),
    /// It takes effect, but its answer is an internal error.
    LoseAnswer,
}

/// How a proxy changes what is said.
pub(crate) trait Tamper: Send + Sync + 'static {
    /// Decides on a request, by its operation and its body.
    fn request(&self, _operation: &str, _body: &str) -> Fate {
        Fate::Pass
    }

    /// Changes a good answer.
    fn answer(&self, _operation: &str, body: String) -> String {
        body
    }

    /// What the service's clock is to say, in the place of what it says.
    fn date(&self) -> Option<String> {
        None
    }
}

/// A closure on requests alone.
impl<F: Fn(&str, &str) -> Fate + Send + Sync + 'static> Tamper for F {
    fn request(&self, operation: &str, body: &str) -> Fate {
        self(operation, body)
    }
}

/// Fails one call in four, in one of several ways.
pub(crate) struct Flaky(pub(crate) Mutex<fastrand::Rng>);

impl Tamper for Flaky {
    fn request(&self, operation: &str, _body: &str) -> Fate {
        let iterators = matches!(operation, "GetRecords" | "GetShardIterator");
        match self.0.lock().unwrap().u8(0..12) {
            0 => Fate::Fail("ProvisionedThroughputExceededException"),
            1 => Fate::Fail("InternalServerError"),
            2 => Fate::LoseAnswer,
            3 if iterators => Fate::Fail("ExpiredIteratorException"),
            _ => Fate::Pass,
        }
    }
}

/// A proxy in front of a region; gone when it is dropped.
pub(crate) struct TamperingProxy {
    pub(crate) url: Url,
    server: JoinHandle<()>,
}

struct Shared {
    target: String,
    client: Client<HttpConnector, Body>,
    tamper: Box<dyn Tamper>,
}

impl TamperingProxy {
    pub(crate) async fn to(target: &Url, tamper: impl Tamper) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port");
        let address = listener.local_addr().expect("an address");
        let shared = Shared {
            target: target.as_str().trim_end_matches('/').to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            tamper: Box::new(tamper),
        };
        let app = Router::new().fallback(handle).with_state(Arc::new(shared));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("a server") });
        Self { url: Url::parse(&format!("http://{address}")).expect("a URL"), server }
    }
}

impl Drop for TamperingProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else { return error("InternalServerError") };
    let target = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let fate = shared.tamper.request(&operation, &String::from_utf8_lossy(&body));
    if let Fate::Fail(code) = fate {
        return error(code);
    }
    let mut forward = Request::new(Body::from(body));
    *forward.method_mut() = parts.method;
    *forward.uri_mut() = format!("{}{}", shared.target, parts.uri).parse().expect("a URI");
    *forward.headers_mut() = parts.headers;
    // One that is cut off behind this proxy shows as a failure of the service.
    let Ok(answer) = shared.client.request(forward).await else { return error("ServiceUnavailable") };
    let (parts, body) = answer.into_parts();
    let Ok(body) = to_bytes(Body::new(body), usize::MAX).await else { return error("ServiceUnavailable") };
    if fate == Fate::LoseAnswer {
        return error("InternalServerError");
    }
    let body = if parts.status.is_success() { change(&shared, &operation, body) } else { body };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = parts.status;
    *response.headers_mut() = without_length(parts.headers);
    if let Some(date) = shared.tamper.date() {
        response.headers_mut().insert(header::DATE, date.parse().expect("a header"));
    }
    response
}

fn change(shared: &Shared, operation: &str, body: Bytes) -> Bytes {
    match String::from_utf8(body.to_vec()) {
        Ok(text) => shared.tamper.answer(operation, text).into(),
        Err(_) => body,
    }
}

/// Without what says how long the body was, and what its sum.
fn without_length(mut headers: HeaderMap) -> HeaderMap {
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers.remove("x-amz-crc32");
    headers
}

fn error(code: &str) -> Response<Body> {
    let body =
        json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "tampered with" });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = match code {
        "InternalServerError" => StatusCode::INTERNAL_SERVER_ERROR,
        "ServiceUnavailable" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    response
}

impl fmt::Debug for TamperingProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TamperingProxy").field("url", &self.url).finish_non_exhaustive()
    }
}
