//! A feed into a file: how fast an agent tells a backlog, and the lag under a steady load, from the moment at which
//! an application's write was due to its event on the disk. One region, so that nothing else is delivered.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tradewind::agent::Agent;
use tradewind::config::Tuning;

use crate::Result;
use crate::application::{Application, SENT, at};
use crate::ceiling::Ceiling;
use crate::drain::{BYTES, fill, harmonic};
use crate::engine::Engine;
use crate::figures::per_second;
use crate::plan::Plan;
use crate::process::{cpu_since, cpu_time, peak_mib, reset_peak_memory};
use crate::stage::Stage;
use crate::steady::{millis, quantile, sorted, write};

/// How long without progress before the benchmark gives up.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often the file is read: the lag of an event is exact to that.
const LOOK: Duration = Duration::from_millis(2);

/// All figures of a feed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Feed {
    pub drain: FeedDrain,
    pub steady: Vec<FeedLag>,
}

/// How a backlog is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FeedDrain {
    pub events: u64,
    pub events_per_second: f64,
    /// Conditional puts a second to another table of the same endpoint, before and after.
    pub ceiling_per_second: [f64; 2],
    /// The ratio of the events to the harmonic mean of both.
    pub ratio: f64,
    /// CPU time of the whole agent: reading, judging, and writing the file.
    pub cpu_us_per_event: Option<f64>,
    /// The agent's requests to the endpoint: reads of the stream, checkpoints, leases.
    pub requests_per_thousand: f64,
    pub peak_mib: Option<f64>,
}

/// The lag under one load.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct FeedLag {
    /// The applications' writes, as a fraction of the endpoint's ceiling.
    pub load: f64,
    pub writes_per_second: f64,
    pub events: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Half the poll interval: the least median wait of a write.
    pub least_ms: f64,
    pub p50_ratio: f64,
    /// The agent's requests to the endpoint.
    pub requests_per_thousand: f64,
}

/// Measures a backlog, and three loads.
pub(crate) async fn measure(engine: &Engine, plan: &Plan, ceiling: &Ceiling) -> Result<Feed> {
    let drain = drain(engine, plan, ceiling).await?;
    let mut steady = Vec::new();
    for load in [0.1, 0.5, 0.8] {
        steady.push(lag(engine, plan, ceiling, load).await?);
    }
    Ok(Feed { drain, steady })
}

async fn drain(engine: &Engine, plan: &Plan, ceiling: &Ceiling) -> Result<FeedDrain> {
    let folder = TempDir::new()?;
    let stage = staged(engine, folder.path()).await?;
    fill(&stage, plan).await?;
    // What the ceiling's puts write must not be told.
    let bare = Stage::set(engine, 1, Tuning::default()).await?;
    let before = ceiling.of(&bare, 0..1, plan).await?;
    let events = plan.records;
    let mut progress = plan.progress("telling a backlog", Some(events));
    reset_peak_memory();
    let cpu = cpu_time();
    let (agent, requests) = stage.start_counted(0).await?;
    // The last moment at which nothing had been told.
    let (mut began, mut last) = (Instant::now(), (Instant::now(), 0));
    while last.1 < events {
        tokio::time::sleep(LOOK).await;
        let done = delivered(&agent);
        if done > last.1 {
            last = (Instant::now(), done);
        } else if last.0.elapsed() > PATIENCE {
            return Err(format!("a backlog of {events} events stopped draining at {done}").into());
        }
        if done == 0 {
            began = Instant::now();
        }
        progress.update(done, String::new);
    }
    progress.finish();
    let (cpu, peak_mib) = (cpu_since(cpu), peak_mib());
    let requests = requests.count();
    agent.stop().await;
    let after = ceiling.of(&bare, 0..1, plan).await?;
    let events_per_second = per_second(events, last.0.saturating_duration_since(began));
    Ok(FeedDrain {
        events,
        events_per_second,
        ceiling_per_second: [before, after],
        ratio: events_per_second / harmonic(before, after),
        cpu_us_per_event: cpu.map(|cpu| 1e6 / per_second(events, cpu)),
        requests_per_thousand: per_thousand(requests, events),
        peak_mib,
    })
}

async fn lag(engine: &Engine, plan: &Plan, ceiling: &Ceiling, load: f64) -> Result<FeedLag> {
    let folder = TempDir::new()?;
    let rate = load * {
        let probed = Stage::set(engine, 1, Tuning::default()).await?;
        ceiling.of(&probed, 0..1, plan).await?
    };
    let stage = staged(engine, folder.path()).await?;
    let (agent, requests) = stage.start_counted(0).await?;
    tokio::time::timeout(PATIENCE, agent.figures().drained(1)).await?;
    let already = requests.count();
    let application =
        Application { client: stage.client(0).clone(), table: stage.table.clone(), bytes: BYTES };
    let begun = Instant::now();
    let mut tail = Tail::of(file(folder.path()));
    let stop = CancellationToken::new();
    let told = {
        let stop = stop.clone();
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                tokio::time::sleep(LOOK).await;
                tail.read()?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(tail)
        })
    };
    let made = write(&application, rate, begun, plan).await?;
    let deadline = Instant::now() + PATIENCE;
    while delivered(&agent) < made {
        if Instant::now() >= deadline {
            return Err(format!("{} of {made} writes were told", delivered(&agent)).into());
        }
        tokio::time::sleep(LOOK).await;
    }
    let requests = requests.count().saturating_sub(already);
    stop.cancel();
    let mut tail = told.await??;
    tail.read()?;
    agent.stop().await;
    let from = begun + plan.warm_up;
    let lags = sorted(tail.events.into_iter().filter(|(sent, _)| *sent >= from).map(|(_, lag)| lag));
    let least_ms = millis(Tuning::default().poll_interval / 2);
    let p50_ms = quantile(&lags, 0.5);
    Ok(FeedLag {
        load,
        writes_per_second: rate,
        events: lags.len(),
        p50_ms,
        p99_ms: quantile(&lags, 0.99),
        max_ms: quantile(&lags, 1.0),
        least_ms,
        p50_ratio: p50_ms / least_ms,
        requests_per_thousand: per_thousand(requests, made),
    })
}

/// One region, with a feed of all that is written there.
async fn staged(engine: &Engine, folder: &Path) -> Result<Stage> {
    Stage::fed(engine, 1, Tuning::default(), file(folder)).await
}

fn file(folder: &Path) -> PathBuf {
    folder.join("events.jsonl")
}

/// How many events the agent has told.
fn delivered(agent: &Agent) -> u64 {
    agent.figures().delivered().values().sum()
}

fn per_thousand(requests: u64, events: u64) -> f64 {
    let figure = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    1000.0 * figure(requests) / figure(events)
}

/// A reader of the file, which is only appended to.
struct Tail {
    path: PathBuf,
    read: u64,
    /// The end of what was read: a line that is not whole yet.
    rest: Vec<u8>,
    /// When each event's write was due, and how long after that it was in the file.
    events: Vec<(Instant, Duration)>,
}

impl Tail {
    fn of(path: PathBuf) -> Self {
        Self { path, read: 0, rest: Vec::new(), events: Vec::new() }
    }

    fn read(&mut self) -> Result<()> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        file.seek(SeekFrom::Start(self.read))?;
        self.read += u64::try_from(file.read_to_end(&mut self.rest)?)?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: Value = serde_json::from_slice(line)?;
            let sent =
                event["dynamodb"]["NewImage"][SENT]["N"].as_str().and_then(|micros| micros.parse().ok());
            let sent = at(Duration::from_micros(sent.ok_or("an event without its time")?));
            self.events.push((sent, sent.elapsed()));
        }
        Ok(())
    }
}
