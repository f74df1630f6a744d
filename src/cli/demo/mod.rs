//! `tradewind demo`.

mod feed;
mod page;
mod regions;
mod report;
mod workload;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use self::feed::DemoFeed;
use self::report::Outcome;
use self::workload::{Workload, settle, told};
use super::listen::Listen;
use super::progress::Progress;
use super::run::Signals;
use super::{Exit, Failure, output};
use crate::agent::Agent;
use crate::operate::{Options, verify};
use crate::region::Region;
use crate::telemetry::Telemetry;

/// How replicas are compared.
const OPTIONS: Options = Options {
    segments: 2,
    settle: Duration::from_secs(5),
    limit: 20,
    read_units: None,
    memory: 256 * 1024 * 1024,
};

/// Watch regions replicate and converge, in this process, in about half a minute.
///
/// Starts DynamoDB-compatible regions on loopback ports, an agent for each, and applications that put,
/// update, delete and put back old copies of the same keys in all regions at once, and count, each in an item
/// of its own. Then it lets the regions settle, compares every item, and prints what happened. Exits with 0
/// only if nothing differs, no count has gone back, and the feed, if there is one, has told every write.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// How many regions.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    regions: u8,
    /// How many keys the applications share: fewer cause more conflicts.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// How many writes the applications make in all.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..))]
    writes: u64,
    /// Writes a second, over all regions.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Makes the applications choose the same writes again; random if left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Keep running, with a page that shows what happens, until Ctrl-C; then settle and compare.
    #[arg(long)]
    dashboard: bool,
    /// Also tell every write to a feed, a file of JSON lines for each region, and check that each write is told
    /// once, in order.
    #[arg(long)]
    feed: bool,
    #[command(flatten)]
    listen: Listen,
}

impl Demo {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let seed = self.seed.unwrap_or_else(|| fastrand::Rng::new().u64(..));
        let (_embedded, mut config) = regions::start(self.regions, self.dashboard).await?;
        let feed = self.feed.then(DemoFeed::new).transpose()?;
        config.feeds.extend(feed.as_ref().map(|feed| feed.config(&config)));
        let regions = Region::connect_all(&config).await?;
        regions::prepare(&config, &regions).await?;
        // Before the agents start: what is measured earlier is not kept.
        let telemetry =
            self.dashboard.then(|| Telemetry::start(None)).transpose().map_err(Failure::internal)?;
        let mut agents = Vec::new();
        for region in &config.regions {
            agents.push(Agent::start(&config, region.name.as_str()).await?);
        }

        let _stage = match telemetry {
            Some(telemetry) => {
                let telemetry = Arc::new(telemetry);
                Some(page::show(&self.listen, telemetry, &config, &regions, &agents).await?)
            }
            None => None,
        };
        let started = Instant::now();
        let total = (!self.dashboard).then_some(self.writes);
        let mut progress = Progress::new("writing", total, json);
        let mut signals = if self.dashboard { Some(Signals::listen()?) } else { None };
        let most = total.unwrap_or(u64::MAX);
        let workload = Workload { keys: self.keys, most, rate: self.rate, seed };
        let writes = workload.write(&regions, &agents, &mut progress, &mut signals).await;
        progress.finish();
        let writing_seconds = started.elapsed().as_secs_f64();

        let stopped = Instant::now();
        let mut progress = Progress::new("settling", None, json);
        tokio::select! {
            settled = settle(&agents, &mut progress) => settled?,
            () = told(&mut signals) => return Ok(Exit::Interrupted),
        }
        progress.finish();
        let settling_seconds = stopped.elapsed().as_secs_f64();

        let verification = verify(&config, &regions, OPTIONS, &mut ()).await?;
        let mut outcome = Outcome::of(seed, &agents);
        outcome.writes = writes;
        (outcome.writing_seconds, outcome.settling_seconds) = (writing_seconds, settling_seconds);
        outcome.compared(verification);
        outcome.feed = feed.map(|feed| feed.check(&agents)).transpose()?;
        for agent in agents {
            agent.stop().await;
        }
        output::report(json, &outcome, report::text)?;
        Ok(if outcome.is_right() { Exit::Done } else { Exit::Differs })
    }
}
