//! The link between the SDK and the service: an HTTP client that carries requests through the simulated
//! network instead of a socket.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::date_time::{DateTime, Format};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::service::{Refusal, SUMMED};
use crate::settings::NAMES;
use crate::world::{Fate, INVOKE, Request, World};

/// The world, shared by everything that acts in it.
#[derive(Clone, Debug)]
pub struct SharedWorld(Arc<Mutex<World>>);

impl SharedWorld {
    pub fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One agent's access to the network.
#[derive(Clone, Debug)]
pub struct Network {
    pub world: SharedWorld,
    /// The region of the agent.
    pub from: usize,
    /// Its number.
    pub agent: usize,
}

impl HttpClient for Network {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let connect_timeout = settings.connect_timeout().unwrap_or(Duration::from_secs(3));
        SharedHttpConnector::new(Connector { network: self.clone(), connect_timeout })
    }
}

#[derive(Debug)]
struct Connector {
    network: Network,
    connect_timeout: Duration,
}

type Answer = (Result<Value, Refusal>, u64);

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let world = self.network.world.clone();
        let Some((to, operation, body)) = read(&request) else {
            let error = ConnectorError::user("a request that the simulation can't read".into());
            return HttpConnectorFuture::ready(Err(error));
        };
        let (request, fate) =
            world.lock().send((self.network.from, self.network.agent), to, &operation, body);
        let (answer, answered) = oneshot::channel();
        let connect_timeout = self.connect_timeout;
        let lost = fate.lands.is_none();
        // A request that was sent lands whether or not anyone still waits for its answer.
        if request.writes() {
            world.lock().in_flight += 1;
        }
        tokio::spawn(deliver(world, request, fate, answer));
        HttpConnectorFuture::new(async move {
            if lost {
                sleep(connect_timeout).await;
                return Err(ConnectorError::timeout("no connection".into()));
            }
            let Ok((answer, date)) = answered.await else {
                // No answer will come; the SDK's own timeout ends the call.
                return std::future::pending().await;
            };
            Ok(write(answer, date))
        })
    }
}

/// Carries a request to its service, maybe twice, and returns the answer.
async fn deliver(world: SharedWorld, request: Request, fate: Fate, answer: oneshot::Sender<Answer>) {
    if let Some(lands) = fate.lands {
        sleep(Duration::from_millis(lands)).await;
        let first = {
            let mut world = world.lock();
            let answer = world.land(&request, &fate);
            let now = world.clock.now();
            (answer, world.services[request.to].clock.wall(now))
        };
        if let Some(again) = fate.again {
            let (world, request, fate) = (world.clone(), request.clone(), fate.clone());
            if request.writes() {
                world.lock().in_flight += 1;
            }
            tokio::spawn(async move {
                sleep(Duration::from_millis(again)).await;
                let mut world = world.lock();
                // Nobody receives the second answer.
                let _ = world.land(&request, &fate);
                if request.writes() {
                    world.in_flight -= 1;
                }
            });
        }
        if request.writes() {
            world.lock().in_flight -= 1;
        }
        if let Some(answered) = fate.answered {
            sleep(Duration::from_millis(answered)).await;
            let _ = answer.send(first);
        }
    } else if request.writes() {
        world.lock().in_flight -= 1;
    }
}

/// The region, the operation and the body of a request.
fn read(request: &HttpRequest) -> Option<(usize, String, Value)> {
    let host = request.uri().strip_prefix("http://")?;
    let to = NAMES.iter().position(|name| host.starts_with(&format!("{name}.sim")))?;
    let operation = match request.headers().get("x-amz-target") {
        Some(target) => target.split_once('.')?.1.to_owned(),
        None if host.ends_with("/invocations") => INVOKE.to_owned(),
        None => return None,
    };
    Some((to, operation, serde_json::from_slice(request.body().bytes()?).ok()?))
}

fn write(answer: Result<Value, Refusal>, wall: u64) -> HttpResponse {
    let is_broken = matches!(&answer, Ok(body) if body.get("errorMessage").is_some());
    let (status, body) = match answer {
        Ok(body) => (200, body.to_string()),
        Err(Refusal { status: 200, code: SUMMED, message, .. }) => (200, message),
        // Something in between answers in the service's place, without its checksum.
        Err(Refusal { status: 200, message, .. }) => {
            let ok = 200_u16.try_into().unwrap_or_else(|_| http_internal_error());
            return HttpResponse::new(ok, SdkBody::from(message));
        }
        Err(refusal) => (refusal.status, refusal.body().to_string()),
    };
    let status = status.try_into().unwrap_or_else(|_| http_internal_error());
    let checksum = crc32fast::hash(body.as_bytes()).to_string();
    let mut response = HttpResponse::new(status, SdkBody::from(body));
    let headers = response.headers_mut();
    if is_broken {
        headers.insert("x-amz-function-error", "Unhandled");
    }
    headers.insert("x-amz-crc32", checksum);
    headers.insert("content-type", "application/x-amz-json-1.0");
    let date = DateTime::from_secs(i64::try_from(wall / 1_000).unwrap_or_default());
    if let Ok(date) = date.fmt(Format::HttpDate) {
        headers.insert("date", date);
    }
    response
}

fn http_internal_error() -> aws_smithy_runtime_api::http::StatusCode {
    // Every status that the service gives is valid.
    aws_smithy_runtime_api::http::StatusCode::try_from(500).unwrap_or_else(|_| unreachable!())
}
