//! The state of one table's shards, for those that wait for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::agent::track::TrackState;
use crate::source::ShardId;

/// The state of one table's shards, for those that wait for it.
#[derive(Debug, Default)]
pub(in crate::agent) struct Shards(Mutex<State>);

#[derive(Debug, Default)]
pub(super) struct State {
    /// Every readable shard is being read by an agent known to be alive.
    pub(super) settled: bool,
    /// How many times in a row that was found.
    pub(super) rounds: u32,
    pub(super) tracks: BTreeMap<ShardId, watch::Receiver<TrackState>>,
    /// The stream has been read to its end for all destinations: nobody need wait for it.
    is_over: bool,
}

impl Shards {
    /// The calls in a row that found every shard of this agent drained; for an agent that reads none, how
    /// often that was found.
    pub(in crate::agent) fn idle_calls(&self) -> u32 {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_over {
            return u32::MAX;
        }
        let least = state.tracks.values().map(|track| track.borrow().idle_calls).min();
        if state.settled { least.unwrap_or(state.rounds) } else { 0 }
    }

    pub(in crate::agent) fn are_over(&self) {
        self.change(|state| state.is_over = true);
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
