//! The crew: which agents of this region are alive, and which peers are paused for all of them. One beat of
//! an agent renews all its leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::{moment, wall_millis};
use crate::control::{AgentId, Beat, ControlTable, CrewTable, PausedPeers};
use crate::deliver::Pauses;
use crate::protocol::Origin;

/// An agent that has been silent for this many lease durations is deregistered.
const FORGOTTEN: u32 = 10;

/// The agents of a region, as this one last saw them.
#[derive(Clone, Debug)]
pub(super) struct Crew {
    /// The agents considered alive, each with whether it has been seen to beat. One that has not may be long
    /// gone: its row was there before this agent started watching.
    pub(super) alive: BTreeMap<AgentId, bool>,
    pub(super) looked: Option<Instant>,
}

impl Crew {
    /// Nobody has been seen yet.
    pub(super) const UNSEEN: Self = Self { alive: BTreeMap::new(), looked: None };

    /// Whether this is too old to take leases from others: this agent may have been asleep.
    pub(super) fn is_stale(&self, lease_duration: Duration) -> bool {
        self.looked.is_none_or(|looked| looked.elapsed() > lease_duration)
    }
}

/// An agent and its crew.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) me: AgentId,
    pub(super) crew: watch::Receiver<Crew>,
}

/// Which agent this is for, and whom to notify.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) control: ControlTable,
    pub(super) region: Origin,
    /// The agent's configuration, for its beats.
    pub(super) regions: Vec<Origin>,
    pub(super) configuration: String,
    pub(super) me: AgentId,
    pub(super) lease_duration: Duration,
    pub(super) crew: watch::Sender<Crew>,
    pub(super) pauses: Arc<Pauses>,
}

/// Writes this agent's beats, and publishes who is alive and what is paused, until it is stopped.
///
/// An agent counts as alive while its beat has changed within the lease duration, by this agent's own
/// monotonic clock: clocks of different machines are never compared.
pub(super) async fn keep_watch(watch: Watch, stop: CancellationToken) {
    let Watch { control, region, regions, configuration, me, lease_duration, crew, pauses } = watch;
    let mut last_changes: BTreeMap<AgentId, Last> = BTreeMap::new();
    let mut ticks = tokio::time::interval(lease_duration / 4);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0;
    let mut last_look: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        count += 1;
        // Whoever pauses a peer waits until this reports the pause.
        let (regions, configuration) = (regions.clone(), configuration.clone());
        let beat = Beat { count, paused: pauses.all(), regions, configuration };
        let patience = lease_duration / 2;
        let (beaten, seen) = tokio::join!(
            tokio::time::timeout(patience, control.beat(&me, &beat)),
            tokio::time::timeout(patience, control.crew()),
        );
        match beaten {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => debug!(%fault, "could not write this agent's heartbeat; retrying"),
            Err(_) => debug!("could not write this agent's heartbeat in time; retrying"),
        }
        let CrewTable { beats, pauses: told } = match seen {
            Ok(Ok(table)) => table,
            Ok(Err(fault)) => {
                debug!(%fault, "could not read the other agents' heartbeats; retrying");
                continue;
            }
            Err(_) => {
                debug!("could not read the other agents' heartbeats in time; retrying");
                continue;
            }
        };
        coalesce(&pauses, &region, told);
        let now = Instant::now();
        // While this agent could read nothing, the others may not have been silent at all.
        if last_look.replace(now).is_some_and(|last| now.duration_since(last) > lease_duration / 2) {
            for last in last_changes.values_mut() {
                last.at = now;
            }
        }
        last_changes.retain(|agent, _| beats.contains_key(agent));
        for (agent, Beat { count: beat, .. }) in beats {
            let last = last_changes.entry(agent).or_insert(Last { beat, at: now, seen: false });
            if last.beat != beat {
                *last = Last { beat, at: now, seen: true };
            }
        }
        let silent = |last: &Last| now.duration_since(last.at);
        let living = last_changes.iter().filter(|(_, last)| silent(last) < lease_duration);
        let mut alive: BTreeMap<AgentId, bool> =
            living.map(|(agent, last)| (agent.clone(), last.seen)).collect();
        alive.insert(me.clone(), true);
        crew.send_if_modified(|crew| {
            for agent in crew.alive.keys().filter(|agent| !alive.contains_key(*agent)) {
                info!(%agent, "an agent of this region is silent; taking over its shards");
            }
            let changed = crew.alive != alive;
            *crew = Crew { alive, looked: Some(now) };
            changed
        });
        for (agent, last) in &last_changes {
            if *agent != me && silent(last) > lease_duration * FORGOTTEN {
                // If this fails, it is retried at the next beat.
                let _ = control.strike(agent).await;
            }
        }
    }
    match tokio::time::timeout(lease_duration / 2, control.strike(&me)).await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => debug!(%fault, "could not deregister this agent"),
        Err(_) => debug!("could not deregister this agent in time"),
    }
}

/// Keeps the pauses that are not over, and logs changes.
fn coalesce(pauses: &Pauses, origin: &Origin, mut told: PausedPeers) {
    let (now, before) = (wall_millis(), pauses.all());
    told.retain(|peer, until| peer != origin && *until > now);
    for (peer, until_millis) in told.iter().filter(|(peer, until)| before.get(peer) != Some(until)) {
        let until = moment(*until_millis);
        warn!(
            region = %origin, %peer, %until,
            "the peer is paused: nothing is written to it until then or `tradewind resume`"
        );
    }
    for peer in before.keys().filter(|peer| !told.contains_key(*peer)) {
        info!(region = %origin, %peer, "the peer is no longer paused");
    }
    pauses.are(told);
}

/// The last beat of an agent.
struct Last {
    beat: u64,
    /// When it was first seen, by this agent's monotonic clock.
    at: Instant,
    /// Whether it followed an earlier one.
    seen: bool,
}
