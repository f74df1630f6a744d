//! The drain: how fast an agent delivers a backlog to its peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tradewind::agent::Agent;
use tradewind::config::Tuning;
use tradewind::tally::TallySnapshot;

use crate::Result;
use crate::application::Application;
use crate::ceiling::Ceiling;
use crate::engine::Engine;
use crate::figures::per_second;
use crate::plan::Plan;
use crate::process::{cpu_since, cpu_time, peak_mib, reset_peak_memory};
use crate::stage::Stage;

/// The size of the items, here and for the ceiling.
pub(crate) const BYTES: usize = 200;
/// How many applications write the backlog at once.
const WRITERS: usize = 48;
/// How long without progress before the benchmark gives up.
const PATIENCE: Duration = Duration::from_mins(1);

/// One drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drain {
    pub peers: usize,
    pub records: u64,
    /// From a peer's first answer to its last.
    pub seconds: f64,
    pub records_per_second: f64,
    pub writes_per_second: f64,
    /// The endpoint's ceiling for writes to as many replicas together, before and after.
    pub ceiling_per_second: [f64; 2],
    /// The ratio of the writes to the harmonic mean of both, since times are averaged and not rates.
    pub ratio: f64,
    /// CPU time of the whole agent: reading, judging, and writing to all peers.
    pub cpu_us_per_record: Option<f64>,
    pub peak_mib: Option<f64>,
}

/// Lets the origin's agent drain a backlog. The peers' agents don't run: reading the echoes would use the
/// machine, and the endpoint, too.
pub(crate) async fn measure(engine: &Engine, plan: &Plan, peers: usize, ceiling: &Ceiling) -> Result<Drain> {
    let stage = Stage::set(engine, 1 + peers, Tuning::default()).await?;
    fill(&stage, plan).await?;
    let before = ceiling.of(&stage, 1..peers + 1, plan).await?;

    let writes = plan.records * peers as u64;
    let mut progress = plan.progress("draining", Some(writes));
    reset_peak_memory();
    let cpu = cpu_time();
    let agent = stage.start_agent(0).await?;
    // The last moment at which nothing had arrived.
    let mut began = Instant::now();
    let mut last = (Instant::now(), 0);
    while last.1 < writes {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let done = arrived(&agent);
        if done > last.1 {
            last = (Instant::now(), done);
        } else if last.0.elapsed() > PATIENCE {
            return Err(format!("a backlog of {writes} writes stopped draining at {done}").into());
        }
        if done == 0 {
            began = Instant::now();
        }
        progress.update(done, String::new);
    }
    progress.finish();
    let cpu = cpu_since(cpu);
    let peak_mib = peak_mib();
    agent.stop().await;
    let after = ceiling.of(&stage, 1..peers + 1, plan).await?;

    let time = last.0.saturating_duration_since(began);
    let writes_per_second = per_second(writes, time);
    Ok(Drain {
        peers,
        records: plan.records,
        seconds: time.as_secs_f64(),
        records_per_second: writes_per_second / f64::from(u32::try_from(peers)?),
        writes_per_second,
        ceiling_per_second: [before, after],
        ratio: writes_per_second / harmonic(before, after),
        cpu_us_per_record: cpu.map(|cpu| 1e6 / per_second(plan.records, cpu)),
        peak_mib,
    })
}

/// The mean rate, if as many writes were made at one as at the other.
pub(crate) fn harmonic(a: f64, b: f64) -> f64 {
    2.0 / (1.0 / a + 1.0 / b)
}

/// What an agent has done for its one table.
pub(crate) fn tally(agent: &Agent) -> TallySnapshot {
    let mut total = TallySnapshot::default();
    agent.figures().report().into_iter().for_each(|table| total += table.tally);
    total
}

/// The writes that have been answered, either way.
pub(crate) fn arrived(agent: &Agent) -> u64 {
    let TallySnapshot { replicated, superseded, coalesced, .. } = tally(agent);
    replicated + superseded + coalesced
}

/// Writes the backlog, with a key for each record.
pub(crate) async fn fill(stage: &Stage, plan: &Plan) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let records = plan.records;
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let application =
            Application { client: stage.client(0).clone(), table: stage.table.clone(), bytes: BYTES };
        let next = Arc::clone(&next);
        writers.spawn(async move {
            loop {
                let serial = next.fetch_add(1, Ordering::Relaxed);
                if serial >= records {
                    return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(());
                }
                application.put(&format!("item-{serial:08}"), Instant::now()).await?;
            }
        });
    }
    let mut progress = plan.progress("writing a backlog", Some(records));
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            ended = writers.join_next() => match ended {
                Some(ended) => ended??,
                None => break,
            },
            _ = ticks.tick() => progress.update(next.load(Ordering::Relaxed).min(records), String::new),
        }
    }
    progress.finish();
    Ok(())
}
