//! The page of `--dashboard`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::warn;

use super::OPTIONS;
use crate::agent::{Agent, Figures};
use crate::cli::Failure;
use crate::cli::listen::Listen;
use crate::config::Config;
use crate::dashboard::{Content, Dashboard, Kept};
use crate::observe::{self, Observer};
use crate::operate::verify;
use crate::protocol::Origin;
use crate::region::Region;
use crate::telemetry::Telemetry;

/// How often the replicas are compared while the page is served.
const COMPARE: Duration = Duration::from_secs(20);

/// What is needed to show the demo on a page.
pub(super) struct Stage {
    _dashboard: Option<Dashboard>,
    _observers: Vec<Observer>,
    _comparing: JoinSet<()>,
}

/// Serves the agents' page, where `listen` says.
pub(super) async fn show(
    listen: &Listen,
    telemetry: Arc<Telemetry>,
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    agents: &[Agent],
) -> Result<Stage, Failure> {
    let figures: Vec<Figures> = agents.iter().map(|agent| agent.figures().clone()).collect();
    observe::register_agents(figures.clone());
    let start = |figures: &Figures| Observer::start(config, regions, figures.clone());
    let observers: Vec<Observer> = figures.iter().filter_map(start).collect();
    observe::register_boards(observers.iter().map(|observer| Arc::clone(observer.board())).collect());
    let dashboard = listen.serve(&telemetry).await?;
    if let (Some(dashboard), Some(first)) = (&dashboard, observers.first()) {
        let kept = Kept { config: config.clone(), regions: regions.clone(), is_public: true };
        dashboard.show(Content { agents: figures, board: Arc::clone(first.board()), kept });
        // Logged as a warning: whoever asked for the page wants to see this at any log level.
        warn!("the page is at http://{}/ until Ctrl-C", dashboard.address());
    }
    let mut comparing = JoinSet::new();
    comparing.spawn(compare(config.clone(), regions.clone()));
    Ok(Stage { _dashboard: dashboard, _observers: observers, _comparing: comparing })
}

/// Compares the replicas now and then, like `tradewind verify`.
async fn compare(config: Config, regions: BTreeMap<Origin, Region>) {
    loop {
        tokio::time::sleep(COMPARE).await;
        if let Err(error) = verify(&config, &regions, OPTIONS, &mut ()).await {
            warn!("the replicas can't be compared: {error}");
        }
    }
}
