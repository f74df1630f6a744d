//! The crew: which agents of this region are alive, and which peers and feeds are paused for all of them. One beat of
//! an agent renews all its leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::{moment, wall_millis};
use crate::control::{AgentId, Beat, ControlTable, CrewTable, FeedBegins, PausedDestinations};
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
    pub(super) feeds: watch::Sender<FeedBegins>,
}

/// Writes this agent's beats, and publishes who is alive and what is paused, until it is stopped.
///
/// An agent counts as alive while its beat has changed within the lease duration, by this agent's own
/// monotonic clock: clocks of different machines are never compared.
pub(super) async fn keep_watch(watch: Watch, stop: CancellationToken) {
    let mut seen = Seen::default();
    let patience = watch.lease_duration / 2;
    let mut ticks = tokio::time::interval(watch.lease_duration / 4);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for count in 1.. {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        if let Some(CrewTable { beats, pauses, feeds }) = watch.exchange(count, patience).await {
            coalesce(&watch.pauses, &watch.region, pauses);
            watch.feeds.send_if_modified(|known| {
                let is_new = *known != feeds;
                *known = feeds;
                is_new
            });
            let now = Instant::now();
            seen.note(beats, now, watch.lease_duration);
            watch.publish(seen.alive(&watch.me, now, watch.lease_duration), now);
            for agent in seen.silent_since(now, watch.lease_duration * FORGOTTEN) {
                if *agent != watch.me {
                    // If this fails, it is retried at the next beat.
                    let _ = watch.control.strike(agent).await;
                }
            }
        }
    }
    match timeout(patience, watch.control.strike(&watch.me)).await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => debug!(%fault, "could not deregister this agent"),
        Err(_) => debug!("could not deregister this agent in time"),
    }
}

impl Watch {
    /// Writes a beat, and reads those of the others.
    async fn exchange(&self, count: u64, patience: Duration) -> Option<CrewTable> {
        // Whoever pauses a peer waits until this reports the pause.
        let (paused, regions) = (self.pauses.all(), self.regions.clone());
        let beat = Beat { count, paused, regions, configuration: self.configuration.clone() };
        let (beaten, seen) = tokio::join!(
            timeout(patience, self.control.beat(&self.me, &beat)),
            timeout(patience, self.control.crew()),
        );
        match beaten {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => debug!(%fault, "could not write this agent's heartbeat; retrying"),
            Err(_) => debug!("could not write this agent's heartbeat in time; retrying"),
        }
        match seen {
            Ok(Ok(table)) => return Some(table),
            Ok(Err(fault)) => debug!(%fault, "could not read the other agents' heartbeats; retrying"),
            Err(_) => debug!("could not read the other agents' heartbeats in time; retrying"),
        }
        None
    }

    fn publish(&self, alive: BTreeMap<AgentId, bool>, now: Instant) {
        self.crew.send_if_modified(|crew| {
            for agent in crew.alive.keys().filter(|agent| !alive.contains_key(*agent)) {
                info!(%agent, "an agent of this region is silent; taking over its shards");
            }
            let changed = crew.alive != alive;
            *crew = Crew { alive, looked: Some(now) };
            changed
        });
    }
}

/// Keeps the pauses that are not over, and logs changes.
fn coalesce(pauses: &Pauses, origin: &Origin, mut told: PausedDestinations) {
    let (now, before) = (wall_millis(), pauses.all());
    told.retain(|paused, until| paused.peer() != Some(origin) && *until > now);
    for (destination, until_millis) in told.iter().filter(|(paused, until)| before.get(paused) != Some(until))
    {
        let until = moment(*until_millis);
        warn!(
            region = %origin, %destination, %until,
            "the destination is paused: nothing is written to it until then, or until it is resumed"
        );
    }
    for destination in before.keys().filter(|paused| !told.contains_key(*paused)) {
        info!(region = %origin, %destination, "the destination is no longer paused");
    }
    pauses.are(told);
}

/// The beats that this agent has seen.
#[derive(Debug, Default)]
struct Seen {
    last: BTreeMap<AgentId, Last>,
    looked: Option<Instant>,
}

/// The last beat of an agent.
#[derive(Debug)]
struct Last {
    beat: u64,
    /// When it was first seen, by this agent's monotonic clock.
    at: Instant,
    /// Whether it followed an earlier one.
    followed: bool,
}

impl Seen {
    fn note(&mut self, beats: BTreeMap<AgentId, Beat>, now: Instant, lease_duration: Duration) {
        // While this agent could read nothing, the others may not have been silent at all.
        if self.looked.replace(now).is_some_and(|last| now.duration_since(last) > lease_duration / 2) {
            self.last.values_mut().for_each(|last| last.at = now);
        }
        self.last.retain(|agent, _| beats.contains_key(agent));
        for (agent, Beat { count: beat, .. }) in beats {
            let last = self.last.entry(agent).or_insert(Last { beat, at: now, followed: false });
            if last.beat != beat {
                *last = Last { beat, at: now, followed: true };
            }
        }
    }

    /// The live agents, this one among them; and whether each has been seen to beat.
    fn alive(&self, me: &AgentId, now: Instant, lease_duration: Duration) -> BTreeMap<AgentId, bool> {
        let living = self.last.iter().filter(|(_, last)| now.duration_since(last.at) < lease_duration);
        let living = living.map(|(agent, last)| (agent.clone(), last.followed));
        living.chain([(me.clone(), true)]).collect()
    }

    /// The agents that have been silent for longer than this.
    fn silent_since(&self, now: Instant, long: Duration) -> impl Iterator<Item = &AgentId> {
        let silent = self.last.iter().filter(move |(_, last)| now.duration_since(last.at) > long);
        silent.map(|(agent, _)| agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(4);

    fn beats(counts: &[(&str, u64)]) -> BTreeMap<AgentId, Beat> {
        let beat = |&(agent, count): &(&str, u64)| (agent.into(), Beat { count, ..Beat::default() });
        counts.iter().map(beat).collect()
    }

    #[test]
    fn an_agent_is_alive_while_its_beat_changes() {
        let (me, start, mut seen) = (AgentId::from("me"), Instant::now(), Seen::default());
        let mut look = |seconds: u64, counts: &[(&str, u64)]| {
            let now = start + Duration::from_secs(seconds);
            seen.note(beats(counts), now, LEASE);
            let alive = seen.alive(&me, now, LEASE).into_iter();
            let alive: Vec<_> = alive.map(|(agent, followed)| format!("{agent} {followed}")).collect();
            let silent: Vec<_> = seen.silent_since(now, 2 * LEASE).map(ToString::to_string).collect();
            (alive.join(", "), silent.join(", "))
        };
        for (seconds, a, alive, silent) in [
            (0, 7, "a false, me true", ""),
            (1, 8, "a true, me true", ""),
            (2, 8, "a true, me true", ""),
            (4, 8, "a true, me true", ""),
            (5, 8, "me true", ""),
            (7, 8, "me true", ""),
            (9, 8, "me true", ""),
            (10, 8, "me true", "a"),
            (11, 9, "a true, me true", ""),
            // Nobody has looked for a while: silence says nothing.
            (60, 9, "a true, me true", ""),
        ] {
            assert_eq!(look(seconds, &[("a", a)]), (alive.to_owned(), silent.to_owned()), "at {seconds} s");
        }
        assert_eq!(look(61, &[]).0, "me true");
    }
}
