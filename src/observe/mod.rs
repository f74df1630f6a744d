//! Shares what each agent knows with all: measures lag by heartbeats, reports to every region, and combines
//! the reports of all regions.
//!
//! | file | subject |
//! | --- | --- |
//! | `heartbeat` | measures lag from origin to peer, round by round |
//! | `report` | what an agent reports of itself |
//! | `recent` | its recent activity |
//! | `overview` | all regions at one glance |
//! | `board` | the overview now, and its history |
//! | `metrics` | counters and gauges of what agents and boards show |

mod board;
mod heartbeat;
mod metrics;
mod overview;
mod recent;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::heartbeat::{Heart, Path};
use self::report::TABLES;
use crate::agent::Figures;
use crate::config::Config;
use crate::contained::contained;
use crate::control::ControlTable;
use crate::protocol::Origin;
use crate::region::Region;
use crate::telemetry::HeartbeatInstruments;

pub use board::{Board, Point};
pub(crate) use metrics::{register_agents, register_boards};
pub use overview::{AgentView, Comparison, Heard, Link, Overview, RegionView};
pub use report::{CallEntry, FeedEntry, PeerReport, Report, TableEntry};

/// How often the board is updated with this agent's figures.
const SAMPLE: Duration = Duration::from_secs(2);

/// Observes one agent until it is dropped.
#[derive(Debug)]
pub struct Observer {
    board: Arc<Board>,
    _tasks: JoinSet<()>,
}

impl Observer {
    pub fn start(config: &Config, regions: &BTreeMap<Origin, Region>, figures: Figures) -> Option<Self> {
        let local = regions.get(figures.region())?.clone();
        let interval = config.tuning.heartbeat_interval;
        let names = config.regions.iter().map(|region| region.name.clone()).collect();
        let answers = regions.iter().map(|(name, region)| (name.clone(), region.interceptions.clone()));
        let board = Arc::new(Board::new(names, figures, interval, answers.collect()));
        let others = regions.values().filter(|region| region.name != local.name);
        let peers: BTreeMap<_, _> =
            others.map(|region| (region.name.clone(), ControlTable::of(region))).collect();
        let poll = config.tuning.poll_interval;
        let control = ControlTable::of(&local);
        let heart = move |board| Heart {
            board,
            local: local.clone(),
            peers: peers.clone(),
            interval,
            poll,
            instruments: HeartbeatInstruments::new(),
            path: Path::default(),
            rng: fastrand::Rng::new(),
        };
        let mut tasks = JoinSet::new();
        keep(&mut tasks, "sampling the agent's figures", &board, sample);
        let listens = control.clone();
        keep(&mut tasks, "reading reports", &board, move |board| listen(listens.clone(), interval, board));
        keep(&mut tasks, "reading tables' marks", &board, move |board| {
            compare(control.clone(), interval, board)
        });
        keep(&mut tasks, "the heartbeat", &board, move |board| heart(board).beat());
        Some(Self { board, _tasks: tasks })
    }

    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }
}

/// Runs a task for as long as the set lives: nobody would notice if it stopped.
fn keep<F>(
    tasks: &mut JoinSet<()>,
    what: &'static str,
    board: &Arc<Board>,
    begin: impl Fn(Arc<Board>) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let board = Arc::clone(board);
    tasks.spawn(async move {
        contained(what, &CancellationToken::new(), || begin(Arc::clone(&board))).await;
    });
}

/// Samples the agent's figures regularly.
async fn sample(board: Arc<Board>) {
    let mut ticks = tokio::time::interval(SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        board.tick();
    }
}

/// Regularly reads which tables are marked, and the results of comparing their replicas, so that they are
/// shown whatever becomes of the agent that compared. With many tables, they take turns.
async fn compare(control: ControlTable, interval: Duration, board: Arc<Board>) {
    let mut ticks = tokio::time::interval(interval * 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = Vec::new();
    loop {
        ticks.tick().await;
        if waiting.is_empty() {
            waiting = board.figures().tables();
        }
        for table in waiting.drain(..waiting.len().min(TABLES)) {
            match control.agreement(&table).await {
                Ok(agreement) => board.note(|recent| recent.agreement_is(table, agreement)),
                Err(fault) => debug!(table, %fault, "can't read a table's marks; retrying"),
            }
        }
    }
}

/// Reads the reports that the agents of all regions make here.
async fn listen(control: ControlTable, interval: Duration, board: Arc<Board>) {
    let mut ticks = tokio::time::interval(interval / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match control.reports().await {
            Ok(reports) => board.hear(reports),
            Err(fault) => debug!(%fault, "can't read the reports of the other agents; retrying"),
        }
    }
}
