//! The applications write in all regions at once; then the regions settle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::regions::TABLE;
use super::report::{Outcome, Writes, lag_line, u64_as_f64};
use crate::agent::Agent;
use crate::cli::Failure;
use crate::cli::progress::Progress;
use crate::cli::run::Signals;
use crate::protocol::Origin;
use crate::region::Region;
use crate::workload::{Application, Operation};

/// How many applications write in each region.
const APPLICATIONS: u64 = 4;
/// All agents must find nothing to do at the same time, in this many of their calls.
const QUIET_CALLS: u32 = 4;
/// How long the regions may take to settle; about a hundred times what they need.
const PATIENCE: Duration = Duration::from_mins(5);

/// What the applications do.
pub(super) struct Workload {
    /// How many keys they share.
    pub(super) keys: u64,
    /// How many writes they make in all, at most.
    pub(super) most: u64,
    /// Writes a second, over all regions.
    pub(super) rate: u64,
    pub(super) seed: u64,
}

impl Workload {
    /// Lets the applications write, at the given rate.
    pub(super) async fn write(
        &self,
        regions: &BTreeMap<Origin, Region>,
        agents: &[Agent],
        progress: &mut Progress,
        signals: &mut Option<Signals>,
    ) -> Writes {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let left = Arc::new(AtomicU64::new(self.most));
        let mut running = JoinSet::new();
        let applications = u64::try_from(regions.len()).unwrap_or(u64::MAX) * APPLICATIONS;
        for region in regions.values() {
            for _ in 0..APPLICATIONS {
                let (client, name) = (region.tables.clone(), region.name.to_string());
                let application = Application::new(client, TABLE.to_owned(), name, self.keys, rng.u64(..));
                let pause = Duration::from_secs(applications).div_f64(u64_as_f64(self.rate));
                running.spawn(drive(application, pause, Arc::clone(&left)));
            }
        }
        let mut writes = Writes::default();
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(Ok(made)) => writes.add(made),
                    Some(Err(_)) => writes.failed += 1,
                    None => return writes,
                },
                () = told(signals) => left.store(0, Ordering::Relaxed),
                _ = ticks.tick() => {
                    progress.update(self.most.saturating_sub(left.load(Ordering::Relaxed)), || lag_line(agents));
                }
            }
        }
    }
}

/// Writes at a steady pace until no write is left.
async fn drive(mut application: Application, pause: Duration, left: Arc<AtomicU64>) -> Writes {
    let mut writes = Writes::default();
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let take = |left: u64| left.checked_sub(1);
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
        ticks.tick().await;
        match application.write().await {
            Ok(Operation::Put) => writes.puts += 1,
            Ok(Operation::Update) => writes.updates += 1,
            Ok(Operation::PutBack) => writes.put_backs += 1,
            Ok(Operation::Delete) => writes.deletes += 1,
            Ok(Operation::Count) => writes.counts += 1,
            Ok(Operation::Swap) => writes.swaps += 1,
            Err(_) => writes.failed += 1,
        }
    }
    writes.rollbacks_seen = application.rollbacks();
    writes
}

/// Waits until all agents find nothing to do, all at once and for a while.
pub(super) async fn settle(agents: &[Agent], progress: &mut Progress) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while agents.iter().any(|agent| agent.figures().idle_calls() < QUIET_CALLS) {
        if Instant::now() >= deadline {
            return Err(Failure::internal("the regions did not settle"));
        }
        progress.update(Outcome::of(0, agents).agent_writes, || lag_line(agents));
        ticks.tick().await;
    }
    Ok(())
}

/// Waits until a person ends the demo; forever, if the signal just ends the process.
pub(super) async fn told(signals: &mut Option<Signals>) {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}
