//! What feeds deliver to beside plain files: in each region a function that is invoked with events, and a bucket.
//! Both append the events that they take to the region's file, in the order in which they come.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tradewind_proxy::{Proxy, Weather};
use url::Url;

use crate::Result;
use crate::defect::Defect;
use crate::feeds::{WRITES, key_of};
use crate::scenario::{Fault, Kind};

/// What begins the names of an object's metadata.
const METADATA: &str = "x-amz-meta-";

/// The functions and the bucket of one region. They are gone when this is dropped.
#[derive(Debug)]
pub struct Sinks {
    region: String,
    network: Proxy,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    region: String,
    defect: Option<Defect>,
    state: Mutex<Condition>,
}

#[derive(Debug)]
struct Condition {
    /// The percentage of calls that are throttled, and of invocations of which half fail.
    throttled: u8,
    halved: u8,
    /// Whether the function rejects one key.
    refuses: bool,
    /// Each object's metadata, by its path.
    objects: BTreeMap<String, HeaderMap>,
    rng: fastrand::Rng,
}

/// The key whose events a region's function rejects.
pub fn refused_key(region: &str) -> String {
    format!("{region}-0")
}

impl Sinks {
    /// Starts them; what they take goes to this folder.
    pub async fn start(region: &str, folder: PathBuf, defect: Option<Defect>, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = Url::parse(&format!("http://{}", listener.local_addr()?))?;
        let (objects, rng) = (BTreeMap::new(), fastrand::Rng::with_seed(seed));
        let state = Mutex::new(Condition { throttled: 0, halved: 0, refuses: false, objects, rng });
        let shared = Arc::new(Shared { folder, region: region.to_owned(), defect, state });
        let app = Router::new().fallback(handle).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // It ends with the run.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { region: region.to_owned(), network: Proxy::to(&url).await?, shared, server })
    }

    /// The URL at which agents reach them.
    pub fn url(&self) -> &Url {
        &self.network.url
    }

    /// Applies the faults of this moment.
    pub fn set(&self, faults: &[Fault]) {
        let met = faults.iter().filter(|fault| fault.region.as_ref().is_none_or(|name| *name == self.region));
        let mut weather = Weather::default();
        let mut state = self.shared.lock();
        (state.throttled, state.halved, state.refuses) = (0, 0, false);
        for fault in met {
            match fault.kind {
                Kind::SinkAway => weather.is_cut = true,
                Kind::SinkResets => weather.resets_percent = fault.percent,
                Kind::SinkThrottles => state.throttled = fault.percent,
                Kind::SinkTakesHalf => state.halved = fault.percent,
                Kind::SinkRefuses => state.refuses = true,
                // The others are not faults of sinks.
                _ => {}
            }
        }
        drop(state);
        self.network.set(weather);
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else { return answer(StatusCode::BAD_REQUEST, "") };
    let path = parts.uri.path();
    let function = path.strip_prefix("/2015-03-31/functions/");
    let answered = match function.and_then(|path| path.strip_suffix("/invocations")) {
        Some(function) => shared.invoke(function, &body),
        None if parts.method == Method::PUT => shared.put(path, &parts.headers, &body),
        None => Ok(shared.head(path)),
    };
    answered.unwrap_or_else(|error| answer(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes events as a function that reports which of them failed.
    fn invoke(&self, function: &str, body: &[u8]) -> Result<Response<Body>> {
        let mut state = self.lock();
        if state.throttles() {
            let mut answer = answer(StatusCode::TOO_MANY_REQUESTS, "{}");
            answer.headers_mut().insert("x-amzn-errortype", "TooManyRequestsException".parse()?);
            return Ok(answer);
        }
        let event: Value = serde_json::from_slice(body)?;
        let records = event["Records"].as_array().ok_or("an event without records")?;
        let is_refused = |record: &Value| {
            let key = record["dynamodb"]["Keys"].as_object().map(key_of);
            function == WRITES && key == Some(refused_key(&self.region))
        };
        let refused = records.iter().position(|record| state.refuses && is_refused(record));
        let half = state.halves().then(|| records.len().div_ceil(2));
        let failed = refused.into_iter().chain(half).min().unwrap_or(records.len());
        let mut taken: Vec<&Value> = records.iter().take(failed).collect();
        if self.defect == Some(Defect::TakesRest) {
            taken.extend(records.iter().skip(failed + 1));
        }
        let lines: Vec<String> = taken.into_iter().map(Value::to_string).collect();
        self.append(function, &lines)?;
        let failed = records.get(failed).map(|record| &record["dynamodb"]["SequenceNumber"]);
        let failures: Vec<Value> =
            failed.map(|number| json!({ "itemIdentifier": number })).into_iter().collect();
        Ok(answer(StatusCode::OK, json!({ "batchItemFailures": failures }).to_string()))
    }

    /// Takes an object of lines of events, unless there is one of its name.
    fn put(&self, path: &str, headers: &HeaderMap, body: &[u8]) -> Result<Response<Body>> {
        let mut state = self.lock();
        if state.throttles() {
            return Ok(answer(StatusCode::SERVICE_UNAVAILABLE, ""));
        }
        let is_new = headers.contains_key(header::IF_NONE_MATCH) && self.defect != Some(Defect::Overwrites);
        if is_new && state.objects.contains_key(path) {
            return Ok(answer(StatusCode::PRECONDITION_FAILED, ""));
        }
        let bucket = path.split('/').nth(1).unwrap_or_default();
        let lines: Vec<&str> = std::str::from_utf8(body)?.lines().collect();
        self.append(bucket, &lines)?;
        let metadata = headers.iter().filter(|(name, _)| name.as_str().starts_with(METADATA));
        let metadata = metadata.map(|(name, value)| (name.clone(), value.clone())).collect();
        state.objects.insert(path.to_owned(), metadata);
        Ok(answer(StatusCode::OK, ""))
    }

    /// What an object's metadata says.
    fn head(&self, path: &str) -> Response<Body> {
        match self.lock().objects.get(path) {
            None => answer(StatusCode::NOT_FOUND, ""),
            Some(metadata) => {
                let mut answer = answer(StatusCode::OK, "");
                answer.headers_mut().extend(metadata.clone());
                answer
            }
        }
    }

    fn append(&self, feed: &str, lines: &[impl AsRef<str>]) -> Result<()> {
        let path = self.folder.join(format!("{feed}.jsonl"));
        let mut file = BufWriter::new(OpenOptions::new().create(true).append(true).open(path)?);
        for line in lines {
            writeln!(file, "{}", line.as_ref())?;
        }
        Ok(file.flush()?)
    }
}

impl Condition {
    fn throttles(&mut self) -> bool {
        self.rng.u8(..100) < self.throttled
    }

    fn halves(&mut self) -> bool {
        self.rng.u8(..100) < self.halved
    }
}

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(Body::from(body.into()));
    *answer.status_mut() = status;
    answer
}
