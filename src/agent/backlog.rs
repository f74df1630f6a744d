//! How far each peer is behind, and when each shard was last read: recorded page by page, only for people and
//! alarms. Replication does not depend on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::wall_millis;
use crate::control::Lease;
use crate::destination::Destination;
use crate::feed::FeedName;
use crate::protocol::{Floors, Origin};
use crate::source::{Position, ShardId};

/// A shard whose last failed call is at most this old is failing: retries are up to half a minute apart.
const FAILING: Duration = Duration::from_mins(1);

/// The backlogs of one table, as its tracks last saw them.
#[derive(Debug)]
pub(super) struct Backlogs {
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    peers: Vec<Origin>,
    feeds: Vec<Destination>,
    found: BTreeMap<(ShardId, Destination), PeerBacklog>,
    looks: BTreeMap<ShardId, ShardLook>,
    /// What the peers' agents report to have arrived here.
    arrived: Floors,
}

/// When a shard was last read, and when reading it last failed since then.
#[derive(Debug)]
struct ShardLook {
    read: Instant,
    failed: Option<Instant>,
}

/// What a track found about one peer in one shard.
#[derive(Clone, Copy, Debug)]
struct PeerBacklog {
    at: Instant,
    /// The age of the oldest write that the peer lacked then.
    age: Duration,
    /// The records that had been read but had not reached the peer yet.
    records: usize,
}

/// How far one peer is behind, over all shards that this agent reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The age of the oldest write that has not reached the peer yet. It rises while nothing is read.
    pub age: Duration,
    /// How many records have been read but have not reached the peer yet.
    pub records: usize,
}

impl Default for Backlogs {
    fn default() -> Self {
        Self { begun: Instant::now(), state: Mutex::default() }
    }
}

impl Backlogs {
    pub(super) fn are_of(&self, peers: Vec<Origin>, feeds: Vec<Destination>) {
        let mut state = self.lock();
        (state.peers, state.feeds) = (peers, feeds);
    }

    /// Records what a peer lacks in a shard; without an age, that nothing new is known about it.
    pub(super) fn note(&self, shard: &ShardId, peer: &Destination, age: Option<Duration>, records: usize) {
        let at = Instant::now();
        let mut state = self.lock();
        let found = state.found.entry((shard.clone(), peer.clone()));
        let found = found.or_insert(PeerBacklog { at, age: Duration::ZERO, records });
        let age = age.unwrap_or_else(|| found.age + found.at.elapsed());
        *found = PeerBacklog { at, age, records };
    }

    /// Records that this agent is about to read a shard, and what its lease says about the peers.
    pub(super) fn begin(&self, lease: &Lease) {
        self.read(&lease.shard);
        let now = wall_millis();
        for (peer, checkpoint) in &lease.checkpoints {
            let is_told = {
                let state = self.lock();
                state.feeds.contains(peer) || peer.peer().is_some_and(|peer| state.peers.contains(peer))
            };
            if is_told && checkpoint.done != Position::End && checkpoint.millis > 0 {
                let age = Duration::from_millis(now.saturating_sub(checkpoint.millis));
                self.note(&lease.shard, peer, Some(age), 0);
            }
        }
    }

    /// Records that a shard has just been read.
    pub(super) fn read(&self, shard: &ShardId) {
        self.lock().looks.insert(shard.clone(), ShardLook { read: Instant::now(), failed: None });
    }

    /// Records that reading a shard has just failed; ignored for a shard that this agent does not read.
    pub(super) fn failed(&self, shard: &ShardId) {
        if let Some(look) = self.lock().looks.get_mut(shard) {
            look.failed = Some(Instant::now());
        }
    }

    /// Records that a shard has been read to its end, and is not read again.
    pub(super) fn closed(&self, shard: &ShardId) {
        self.lock().looks.remove(shard);
    }

    /// Records that a peer has all of a shard that has ended.
    pub(super) fn done(&self, shard: &ShardId, peer: &Destination) {
        self.lock().found.remove(&(shard.clone(), peer.clone()));
    }

    /// Forgets a shard that this agent no longer reads.
    pub(super) fn forget(&self, shard: &ShardId) {
        let mut state = self.lock();
        state.found.retain(|(of, _), _| of != shard);
        state.looks.remove(shard);
    }

    pub(super) fn arrived(&self, arrived: Floors) {
        self.lock().arrived = arrived;
    }

    /// How far each peer is behind, for the part of the stream that this agent reads.
    pub(super) fn by_peer(&self) -> BTreeMap<Origin, Backlog> {
        self.by(Destination::peer)
    }

    /// How far each feed is behind, in the same way.
    pub(super) fn by_feed(&self) -> BTreeMap<FeedName, Backlog> {
        self.by(Destination::feed)
    }

    fn by<N: Clone + Ord>(&self, name: impl Fn(&Destination) -> Option<&N>) -> BTreeMap<N, Backlog> {
        let mut backlogs: BTreeMap<N, Backlog> = BTreeMap::new();
        for ((_, destination), found) in &self.lock().found {
            let Some(name) = name(destination) else { continue };
            let backlog = backlogs.entry(name.clone()).or_default();
            backlog.age = backlog.age.max(found.age + found.at.elapsed());
            backlog.records += found.records;
        }
        backlogs
    }

    /// The age of what each other origin durably promised this region, by its watermark here; if it has
    /// promised nothing yet, how long it has been waited for.
    pub(super) fn arrivals(&self) -> BTreeMap<Origin, Duration> {
        let (now, state) = (wall_millis(), self.lock());
        let age = |origin: &Origin| match state.arrived.get(origin).millis() {
            0 => self.begun.elapsed(),
            millis => Duration::from_millis(now.saturating_sub(millis)),
        };
        state.peers.iter().map(|origin| (origin.clone(), age(origin))).collect()
    }

    /// The shards that this agent reads, and how long ago each was read.
    pub(super) fn unread(&self) -> BTreeMap<ShardId, Duration> {
        self.lock().looks.iter().map(|(shard, look)| (shard.clone(), look.read.elapsed())).collect()
    }

    /// The shards that are polled but can't be read.
    pub(super) fn failing(&self) -> BTreeSet<ShardId> {
        let state = self.lock();
        let is_failing = |look: &ShardLook| look.failed.is_some_and(|at| at.elapsed() < FAILING);
        let failing = state.looks.iter().filter(|(_, look)| is_failing(look));
        failing.map(|(shard, _)| shard.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_age_rises_while_nothing_is_read_and_falls_when_all_is_done() {
        let (backlogs, shard) = (Backlogs::default(), ShardId("s".into()));
        let tokyo: Origin = "tokyo".parse().expect("a name");
        let peer = Destination::Peer(tokyo.clone());
        let age = || backlogs.by_peer()[&tokyo].age.as_secs();
        backlogs.note(&shard, &peer, Some(Duration::from_secs(5)), 3);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(age(), 65);
        backlogs.note(&shard, &peer, None, 3);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(age(), 125);
        backlogs.note(&ShardId("other".into()), &peer, Some(Duration::ZERO), 1);
        assert_eq!(backlogs.by_peer()[&tokyo].records, 4);
        backlogs.note(&shard, &peer, Some(Duration::ZERO), 0);
        assert_eq!(age(), 0);
        // A shard that has ended is no longer read, though a peer may still lack some of it.
        backlogs.read(&shard);
        backlogs.closed(&shard);
        assert!(backlogs.unread().is_empty());
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(age(), 60);
        backlogs.done(&shard, &peer);
        backlogs.note(&ShardId("other".into()), &peer, Some(Duration::ZERO), 1);
        assert_eq!(age(), 0);
        backlogs.forget(&shard);
        backlogs.forget(&ShardId("other".into()));
        assert!(backlogs.by_peer().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_fails_is_told_apart_from_a_shard_that_nobody_asks_for() {
        let (backlogs, shard) = (Backlogs::default(), ShardId("s".into()));
        backlogs.failed(&shard);
        backlogs.read(&shard);
        assert!(backlogs.failing().is_empty());
        backlogs.failed(&shard);
        assert!(backlogs.failing().contains(&shard));
        tokio::time::advance(FAILING).await;
        assert!(backlogs.failing().is_empty() && backlogs.unread()[&shard] >= FAILING);
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_never_promised_anything_has_been_silent_since_the_start() {
        let backlogs = Backlogs::default();
        let origin: Origin = "tokyo".parse().expect("a name");
        backlogs.are_of(vec![origin.clone()], Vec::new());
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(backlogs.arrivals()[&origin].as_secs(), 90);
    }
}
