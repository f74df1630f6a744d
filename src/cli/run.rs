//! `tradewind run`.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::chosen::connected;
use super::listen::Listen;
use super::supervisor::Supervisor;
use super::{ConfigFile, Exit, Failure, report};
use crate::agent::{Agent, Figures, TableReport};
use crate::contained::contained;
use crate::dashboard::{Content, Kept};
use crate::observe::{self, Observer};
use crate::operate::anti_entropy;
use crate::region::Region;
use crate::telemetry::Telemetry;

/// How often the log reports what has been done.
const REPORT: Duration = Duration::from_mins(1);
/// With --once, a stream is drained after this many empty reads in a row.
const EMPTY_READS: u32 = 3;

/// Run the agent of one region.
///
/// Reads the region's streams and writes to every peer until it is stopped. On SIGTERM or SIGINT it finishes
/// what is in progress, saves its checkpoints, and exits with 0; a second signal makes it exit at once, with
/// 130. Killed at any moment, it continues where it was.
///
/// A table that can't be replicated does not stop the others: the log says why, and it is retried. The
/// command ends only if no table can be replicated.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigFile,
    /// The region whose streams to read, by its name in regions.toml.
    #[arg(long, value_name = "NAME", env = "TRADEWIND_REGION")]
    region: String,
    /// Stop as soon as the streams are drained. A table that can't be replicated is not waited for, but the
    /// exit code shows it.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    listen: Listen,
}

impl Run {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let config = self.config.load()?;
        let mut signals = Signals::listen()?;
        let region = config.region(&self.region).map(|region| &region.name);
        let telemetry = Arc::new(Telemetry::start(region).map_err(Failure::internal)?);
        let dashboard = self.listen.serve(&telemetry).await?;
        if let Some(dashboard) = &dashboard {
            info!("the page is at http://{}/, metrics at /metrics", dashboard.address());
        }
        let regions = Region::connect_all(&config).await?;
        let agent = tokio::select! {
            started = Agent::start_over(&config, &self.region, &regions) => started?,
            () = signals.next() => return Ok(Exit::Done),
        };
        let figures = agent.figures().clone();
        observe::register_agents(vec![figures.clone()]);
        let observer = Observer::start(&config, &regions, figures.clone())
            .ok_or_else(|| Failure::internal("a region without a client"))?;
        observe::register_boards(vec![Arc::clone(observer.board())]);
        if let Some(dashboard) = &dashboard {
            let board = Arc::clone(observer.board());
            let local = regions.get(figures.region());
            let regions = local.map(|region| (region.name.clone(), region.clone())).into_iter().collect();
            let kept = Kept { config: config.clone(), regions, is_public: false };
            dashboard.show(Content { agents: vec![figures.clone()], board, kept });
        }
        let supervisor = Supervisor::ready(&figures, config.tuning.liveness_timeout);
        let drain_timeout = config.tuning.drain_timeout;
        let mut beside = JoinSet::new();
        let told = figures.clone();
        beside.spawn(async move {
            contained("the report to the log", &CancellationToken::new(), || tell(&told)).await;
        });
        if !self.once {
            let (home, me) = (connected(&regions, figures.region())?.clone(), figures.agent().clone());
            beside.spawn(async move {
                let begin = || anti_entropy(config.clone(), regions.clone(), home.clone(), me.clone());
                contained("anti-entropy", &CancellationToken::new(), begin).await;
            });
        }
        let (exit, stopping) = self.replicate(agent, &figures, &mut signals, &supervisor).await?;
        let deadline = stopping + drain_timeout;
        beside.shutdown().await;
        if exit != Exit::Interrupted {
            let _ = tokio::time::timeout_at(deadline, telemetry.end()).await;
            report(json, &figures.report(), |tables| tables.iter().map(text).collect::<Vec<_>>().join("\n"))?;
        }
        Ok(exit)
    }

    /// Lets the agent run until it is stopped, or has nothing left to do; returns when that was.
    async fn replicate(
        &self,
        mut agent: Agent,
        figures: &Figures,
        signals: &mut Signals,
        supervisor: &Supervisor,
    ) -> Result<(Exit, Instant), Failure> {
        let mut exit = Exit::Done;
        tokio::select! {
            () = signals.next() => {
                info!("stopping: finishing what is in progress; a second signal stops at once");
            }
            () = figures.drained(EMPTY_READS), if self.once => {
                info!("the streams are drained");
                // The log already has its message.
                exit = figures.trouble().as_ref().map_or(Exit::Done, Exit::from);
            }
            () = agent.ended() => return Err(Failure::internal("the agent stopped unexpectedly; its log says why")),
        }
        supervisor.stopping();
        let stopping = Instant::now();
        tokio::select! {
            () = agent.stop() => {}
            () = signals.next() => {
                warn!("stopped at once; what was in progress is repeated after the next start");
                return Ok((Exit::Interrupted, stopping));
            }
        }
        Ok((exit, stopping))
    }
}

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::internal);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Logs now and then what has been done.
async fn tell(figures: &Figures) {
    let mut reports = tokio::time::interval_at(Instant::now() + REPORT, REPORT);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        reports.tick().await;
        figures.report().iter().for_each(|table| info!("{}", text(table)));
    }
}

fn text(table: &TableReport) -> String {
    let TableReport { origin, table, trouble, tally, lag } = table;
    let mut text = format!(
        "{origin}/{table}: {} records ({} echoes), {} writes replicated, {} superseded, {} coalesced, {} contended, \
         {} conflicts, {} heals, {} dead letters",
        tally.records,
        tally.echoes,
        tally.replicated,
        tally.superseded,
        tally.coalesced,
        tally.contended,
        tally.conflicts,
        tally.heals,
        tally.dead_letters
    );
    if let Some(trouble) = trouble {
        let _ = write!(text, "; in trouble: {trouble}");
    }
    for (peer, lag) in lag {
        let seen = &lag.since_seen;
        let _ = write!(text, "; to {peer} p50 {:.0} ms p99 {:.0} ms", seen.p50_ms, seen.p99_ms);
    }
    text
}
