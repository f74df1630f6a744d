//! The lag under a steady load, from the moment at which an application's write was due to the peer's answer.
//! Counting from when it was due includes writes that had to wait.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tradewind::config::Tuning;

use crate::Result;
use crate::application::{Application, on_clock};
use crate::ceiling::Ceiling;
use crate::drain::{BYTES, arrived};
use crate::engine::{Engine, PLACES};
use crate::figures::per_second;
use crate::keys::{Choice, Keys};
use crate::meter::Arrival;
use crate::plan::Plan;
use crate::process::{cpu_since, cpu_time, peak_mib, reset_peak_memory};
use crate::stage::Stage;

const KEYS: u64 = 10_000;
/// How many writes an application has in flight at most; later ones wait, and that counts.
const UNDER_WAY: usize = 512;
const PATIENCE: Duration = Duration::from_mins(1);
/// How much time one point of the plot covers.
const BUCKET: Duration = Duration::from_millis(250);

/// The lag under one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Steady {
    /// All writes to the endpoint, the applications' and the agents', as fractions of its ceiling.
    pub load: f64,
    pub application_writes_per_second: f64,
    pub peers: usize,
    pub arrivals: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    #[serde(rename = "p99.9_ms")]
    pub p999_ms: f64,
    pub max_ms: f64,
    /// The median time that a peer takes to answer.
    pub round_trip_ms: f64,
    /// Half the poll interval and one round trip: the least median wait of a write.
    pub least_ms: f64,
    /// The ratio of the median to that, and of the 99th percentile.
    pub p50_ratio: f64,
    pub p99_ratio: f64,
    /// CPU time of three agents and the applications, for each of the applications' writes.
    pub cpu_us_per_write: Option<f64>,
    /// Of three agents and the applications.
    pub peak_mib: Option<f64>,
    pub timeline: Vec<Point>,
}

/// The lag of the writes in a quarter of a second.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    pub second: f64,
    pub p50_ms: f64,
    pub max_ms: f64,
}

/// Three regions with an agent each; applications write in one of them, at a fixed rate.
///
/// One endpoint serves all regions, so a write costs it one put and one for each peer.
pub(crate) async fn measure(engine: &Engine, plan: &Plan, load: f64, ceiling: &Ceiling) -> Result<Steady> {
    let tuning = Tuning::default();
    let peers = PLACES.len() - 1;
    let least = tuning.poll_interval / 2;
    let stage = Stage::set(engine, PLACES.len(), tuning).await?;
    let shared = {
        let probed = Stage::set(engine, PLACES.len(), Tuning::default()).await?;
        ceiling.of(&probed, 0..PLACES.len(), plan).await?
    };
    let (agent, meter) = stage.start_metered(0).await?;
    let mut others = Vec::new();
    for region in 1..=peers {
        others.push(stage.start_agent(region).await?);
    }
    let agents = [vec![&agent], others.iter().collect()].concat();
    for agent in agents {
        tokio::time::timeout(PATIENCE, agent.figures().drained(1)).await?;
    }

    let rate = load * shared / f64::from(u32::try_from(PLACES.len())?);
    let application =
        Application { client: stage.client(0).clone(), table: stage.table.clone(), bytes: BYTES };
    reset_peak_memory();
    let cpu = cpu_time();
    let begun = Instant::now();
    let made = write(&application, rate, begun, plan).await?;
    let all = made * peers as u64;
    let deadline = Instant::now() + PATIENCE;
    while arrived(&agent) < all {
        if Instant::now() >= deadline {
            return Err(format!("{} of {all} writes arrived", arrived(&agent)).into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let cpu = cpu_since(cpu);

    let from = on_clock(begun + plan.warm_up);
    let mut arrivals: Vec<Arrival> = meter.take().arrivals;
    arrivals.retain(|arrival| arrival.sent >= from);
    let lags = sorted(arrivals.iter().map(|arrival| arrival.lag));
    let round_trips = sorted(arrivals.iter().map(|arrival| arrival.round_trip));
    let (p50_ms, p99_ms) = (quantile(&lags, 0.5), quantile(&lags, 0.99));
    let round_trip_ms = quantile(&round_trips, 0.5);
    let least_ms = millis(least) + round_trip_ms;
    let figures = Steady {
        load,
        application_writes_per_second: rate,
        peers,
        arrivals: arrivals.len(),
        p50_ms,
        p99_ms,
        p999_ms: quantile(&lags, 0.999),
        max_ms: quantile(&lags, 1.0),
        round_trip_ms,
        least_ms,
        p50_ratio: p50_ms / least_ms,
        p99_ratio: p99_ms / least_ms,
        cpu_us_per_write: cpu.map(|cpu| 1e6 / per_second(made, cpu)),
        peak_mib: peak_mib(),
        timeline: timeline(&arrivals, from),
    };
    agent.stop().await;
    for agent in others {
        agent.stop().await;
    }
    Ok(figures)
}

/// Puts items at a fixed rate. Returns how many.
pub(crate) async fn write(application: &Application, rate: f64, begun: Instant, plan: &Plan) -> Result<u64> {
    let most = Duration::from_secs_f64(f64::from(plan.steady_writes) / rate);
    let time = plan.warm_up + plan.steady.min(most);
    let mut progress = plan.progress("a steady load", None);
    let mut keys = Keys::new(Choice::Uniform, KEYS, 1);
    let mut writes = JoinSet::new();
    let mut made = 0_u32;
    loop {
        let offset = Duration::from_secs_f64(f64::from(made) / rate);
        if offset >= time {
            break;
        }
        let due = begun + offset;
        tokio::time::sleep_until(due).await;
        let (application, key) = (application.clone(), format!("item-{:08}", keys.next()));
        writes.spawn(async move { application.put(&key, due).await });
        made += 1;
        while let Some(ended) = writes.try_join_next() {
            ended??;
        }
        while writes.len() >= UNDER_WAY {
            if let Some(ended) = writes.join_next().await {
                ended??;
            }
        }
        progress.update(made.into(), || format!("{rate:.0} a second"));
    }
    while let Some(ended) = writes.join_next().await {
        ended??;
    }
    progress.finish();
    Ok(made.into())
}

fn timeline(arrivals: &[Arrival], from: Duration) -> Vec<Point> {
    let bucket = |arrival: &Arrival| arrival.sent.saturating_sub(from).as_micros() / BUCKET.as_micros();
    let mut buckets = std::collections::BTreeMap::<_, Vec<Duration>>::new();
    for arrival in arrivals {
        buckets.entry(bucket(arrival)).or_default().push(arrival.lag);
    }
    let point = |(bucket, lags): (u128, Vec<Duration>)| {
        let lags = sorted(lags.into_iter());
        let second = BUCKET.as_secs_f64() * f64::from(u32::try_from(bucket).unwrap_or(u32::MAX));
        Point { second, p50_ms: quantile(&lags, 0.5), max_ms: quantile(&lags, 1.0) }
    };
    buckets.into_iter().map(point).collect()
}

pub(crate) fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times
}

/// The smallest time that this fraction of all does not exceed, in milliseconds.
pub(crate) fn quantile(sorted: &[Duration], part: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a position among few"
    )]
    let position = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(position.saturating_sub(1)).copied().map(millis).unwrap_or_default()
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_nearest_rank() {
        let times = sorted((1..=1_000).rev().map(Duration::from_millis));
        for (part, expected) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1_000.0)] {
            assert!((quantile(&times, part) - expected).abs() < 1e-9, "{part}");
        }
        assert!(quantile(&[], 0.5).abs() < 1e-9);
    }
}
