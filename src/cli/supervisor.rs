//! systemd, if it started the agent: it is notified when the agent is ready, healthy, and stopping.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent::Figures;
use crate::contained::contained;
use crate::dashboard::live;

/// Notifies the service manager, if there is one, that the agent is healthy, until it is dropped.
#[derive(Debug)]
pub(super) struct Supervisor {
    watchdog: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// The agent has started. From now on the watchdog is fed while `/healthz` would be green.
    pub(super) fn ready(agent: &Figures, liveness_timeout: Duration) -> Self {
        tell(NotifyState::Ready);
        let agents = [agent.clone()];
        let watchdog = sd_notify::watchdog_enabled().map(|bound| {
            tokio::spawn(async move {
                let begin = || feed(&agents, bound, liveness_timeout);
                contained("the watchdog task", &CancellationToken::new(), begin).await;
            })
        });
        Self { watchdog }
    }

    #[expect(clippy::unused_self, reason = "only what is ready stops")]
    pub(super) fn stopping(&self) {
        tell(NotifyState::Stopping);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.abort();
        }
    }
}

/// Feeds the watchdog while the agents are alive.
async fn feed(agents: &[Figures], bound: Duration, liveness_timeout: Duration) {
    // Half the bound, as systemd recommends.
    let mut ticks = tokio::time::interval(bound / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if live(agents, liveness_timeout).is_ok() {
            tell(NotifyState::Watchdog);
        }
    }
}

/// Does nothing without `NOTIFY_SOCKET`.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "can't notify the service manager");
    }
}
