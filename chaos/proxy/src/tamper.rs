//! An HTTP proxy that changes what is said: faults that a network or a service has.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

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

use crate::link::loopback;

const CHECKSUM: &str = "x-amz-crc32";

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// It is answered with this as if it had taken effect, and goes no further.
    Pretend(&'static str),
    /// It is answered with this error, and goes no further.
    Fail(&'static str),
    /// Something in between answers in the service's place, with this status and body.
    Intercept(u16, &'static str),
    /// It takes effect, but its answer is an internal error.
    LoseAnswer,
}

/// How a proxy changes what is said.
pub trait Tamper: Send + Sync + 'static {
    /// Decides on a request, by its operation and its body.
    fn request(&self, _operation: &str, _body: &str) -> Fate {
        Fate::Pass
    }

    /// Decides on a request by the access key that it is signed with, before all else.
    fn signed(&self, _access_key: &str) -> Fate {
        Fate::Pass
    }

    /// The access key that a request goes on with, in the place of its own: a server may keep a set of tables
    /// for each.
    fn sign(&self) -> Option<&str> {
        None
    }

    /// Changes a request that goes on.
    fn forward(&self, _operation: &str, body: String) -> String {
        body
    }

    /// Changes a good answer.
    fn answer(&self, _operation: &str, body: String) -> String {
        body
    }

    /// Whether an answer goes on with its checksum, where the service has sent one.
    fn sums(&self) -> bool {
        true
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
#[derive(Debug)]
pub struct Flaky(pub Mutex<fastrand::Rng>);

impl Tamper for Flaky {
    fn request(&self, operation: &str, _body: &str) -> Fate {
        let iterators = matches!(operation, "GetRecords" | "GetShardIterator");
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).u8(0..12) {
            0 => Fate::Fail("ProvisionedThroughputExceededException"),
            1 => Fate::Fail("InternalServerError"),
            2 => Fate::LoseAnswer,
            3 if iterators => Fate::Fail("ExpiredIteratorException"),
            _ => Fate::Pass,
        }
    }
}

/// A proxy in front of a region; gone when it is dropped.
pub struct TamperingProxy {
    pub url: Url,
    server: JoinHandle<()>,
}

struct Shared {
    target: String,
    client: Client<HttpConnector, Body>,
    tamper: Box<dyn Tamper>,
}

impl TamperingProxy {
    pub async fn to(target: &Url, tamper: impl Tamper) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = loopback(&listener)?;
        let shared = Shared {
            target: target.as_str().trim_end_matches('/').to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            tamper: Box::new(tamper),
        };
        let app = Router::new().fallback(handle).with_state(Arc::new(shared));
        let server = tokio::spawn(async move {
            // It ends with the proxy.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { url, server })
    }
}

impl Drop for TamperingProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else { return error("InternalServerError") };
    if let Some((signature, key)) = access_key(&parts.headers) {
        if let Fate::Fail(code) = shared.tamper.signed(key) {
            return error(code);
        }
        if let Some(other) = shared.tamper.sign() {
            let signature = signature.replacen(&format!("={key}/"), &format!("={other}/"), 1);
            if let Ok(signature) = signature.parse() {
                parts.headers.insert(header::AUTHORIZATION, signature);
            }
        }
    }
    let target = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let fate = shared.tamper.request(&operation, &String::from_utf8_lossy(&body));
    if let Fate::Fail(code) = fate {
        return error(code);
    }
    if let Fate::Pretend(body) = fate {
        return summed(answer(StatusCode::OK, body.to_owned()), body.as_bytes());
    }
    if let Fate::Intercept(status, body) = fate {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        return answer(status, body.to_owned());
    }
    let body = change(body, |body| shared.tamper.forward(&operation, body));
    let mut forward = Request::new(Body::from(body));
    *forward.method_mut() = parts.method;
    let Ok(uri) = format!("{}{}", shared.target, parts.uri).parse() else {
        return error("InternalServerError");
    };
    *forward.uri_mut() = uri;
    *forward.headers_mut() = without_length(parts.headers);
    // One that is cut off behind this proxy shows as a failure of the service.
    let Ok(answered) = shared.client.request(forward).await else { return error("ServiceUnavailable") };
    let (parts, body) = answered.into_parts();
    let Ok(body) = to_bytes(Body::new(body), usize::MAX).await else { return error("ServiceUnavailable") };
    if fate == Fate::LoseAnswer {
        return error("InternalServerError");
    }
    let good = |body| shared.tamper.answer(&operation, body);
    let body = if parts.status.is_success() { change(body, good) } else { body };
    let mut response = Response::new(Body::from(body.clone()));
    *response.status_mut() = parts.status;
    let has_sum = parts.headers.contains_key(CHECKSUM) && shared.tamper.sums();
    *response.headers_mut() = without_length(parts.headers);
    if has_sum {
        response = summed(response, &body);
    }
    if let Some(date) = shared.tamper.date().and_then(|date| date.parse().ok()) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

/// A request's `Authorization`, and the access key in it: `AWS4-HMAC-SHA256 Credential=KEY/20261129/...`.
fn access_key(headers: &HeaderMap) -> Option<(&str, &str)> {
    let signature = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (_, credential) = signature.split_once("Credential=")?;
    Some((signature, credential.split('/').next()?))
}

fn change(body: Bytes, change: impl FnOnce(String) -> String) -> Bytes {
    match String::from_utf8(body.to_vec()) {
        Ok(text) => change(text).into(),
        Err(_) => body,
    }
}

/// Without what says how long the body was, and what its sum.
fn without_length(mut headers: HeaderMap) -> HeaderMap {
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers.remove(CHECKSUM);
    headers
}

/// With the sum of its body, as the service gives it.
fn summed(mut response: Response<Body>, body: &[u8]) -> Response<Body> {
    response.headers_mut().insert(CHECKSUM, crc32fast::hash(body).into());
    response
}

fn error(code: &str) -> Response<Body> {
    let body =
        json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "tampered with" });
    let status = match code {
        "InternalServerError" => StatusCode::INTERNAL_SERVER_ERROR,
        "ServiceUnavailable" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    answer(status, body.to_string())
}

fn answer(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
}

impl fmt::Debug for TamperingProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TamperingProxy").field("url", &self.url).finish_non_exhaustive()
    }
}
