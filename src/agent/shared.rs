//! What all tracks of one stream of a table share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{debug, error, warn};

use super::asked::Asked;
use super::backlog::Backlogs;
use super::foreign::Foreign;
use super::recorder::Recorder;
use super::succession::Before;
use crate::config::{Conflicts, Tuning};
use crate::control::{Cause, ControlTable, Gap};
use crate::deliver::{Outlet, Pauses};
use crate::destination::Destination;
use crate::fault::{Fault, in_time};
use crate::protocol::{Action, Floors, Hlc, Origin, Selections};
use crate::replica::AttributeNames;
use crate::source::dynamodb_streams::Stream;
use crate::source::{ShardId, Source};
use crate::spill::{Remembered, Spill};
use crate::tally::Tally;

/// How long one save may hold the stream up.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a failed save is retried when nothing can go on without it.
pub(super) const SAVE_AGAIN: Duration = Duration::from_secs(1);

/// Saves in the control table, or gives up in time: the next attempt is soon.
pub(super) fn save_in_time<T>(
    save: impl Future<Output = Result<T, Fault>>,
) -> impl Future<Output = Result<T, Fault>> {
    in_time(SAVE_TIMEOUT, "the control table did not answer", save)
}

/// What all tracks of one table share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) origin: Origin,
    pub(super) table: String,
    /// Where the leases of the table's stream are stored.
    pub(super) space: String,
    pub(super) peers: Vec<Origin>,
    /// What goes to which region.
    pub(super) selections: Selections,
    pub(super) tuning: Tuning,
    pub(super) control: ControlTable,
    pub(super) stream: Stream,
    /// Whether a feed tells what other regions' applications write.
    pub(super) shows_arrivals: bool,
    /// The previous stream.
    pub(super) before: Option<Arc<Before>>,
    pub(super) outlets: BTreeMap<Destination, Outlet>,
    /// The paused peers and feeds, to which nothing is written.
    pub(super) pauses: Arc<Pauses>,
    pub(super) arrived: Arrived,
    /// The requests to the table's agents.
    pub(super) asked: watch::Receiver<Asked>,
    pub(super) memory: MemoryPlace,
    pub(super) notes: Notes,
    /// Wakes the coordinator: a shard has ended.
    pub(super) wake: Notify,
}

/// What is known to have arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    /// What the peers report to have arrived here.
    pub(super) from_peers: watch::Receiver<Floors>,
    /// What all leases together show to be durably done here, of our own writes.
    pub(super) own: watch::Receiver<Hlc>,
}

/// Where tracks remember keys.
#[derive(Clone, Debug)]
pub(super) struct MemoryPlace {
    /// The attribute names of the table's items.
    pub(super) names: Arc<AttributeNames>,
    /// The keys that all tracks remember.
    pub(super) remembered: Arc<Remembered>,
    /// Where keys are kept that don't fit into memory.
    pub(super) spill: Arc<Spill>,
}

/// What people are to know.
#[derive(Clone, Debug)]
pub(super) struct Notes {
    pub(super) tally: Arc<Tally>,
    pub(super) conflicts: Conflicts,
    /// Where conflicts are recorded, if they are to be.
    pub(super) recorder: Option<Recorder>,
    /// How far each peer is behind.
    pub(super) backlogs: Arc<Backlogs>,
    /// Writes of another setup's agents.
    pub(super) foreign: Arc<Foreign>,
}

impl Shared {
    /// The gap left where records were trimmed before they were done for some destinations; `None` if nothing they lack
    /// is that old. Nothing created before `from_millis` is missing.
    pub(super) fn gap<'a>(
        &self,
        shard: &ShardId,
        lacking: impl IntoIterator<Item = &'a Destination>,
        from_millis: u64,
    ) -> Option<Gap> {
        let until_millis = self.trimmed_to().unwrap_or(u64::MAX);
        if from_millis >= until_millis {
            debug!(%shard, "the trimmed records were already done");
            return None;
        }
        self.notes.tally.gaps.add();
        let lacking: Vec<&Destination> = lacking.into_iter().collect();
        let peers = lacking.iter().filter_map(|lacking| lacking.region(&self.origin));
        let gap = Gap {
            origin: self.origin.clone(),
            shard: shard.to_string(),
            cause: Cause::Trimmed,
            peers: peers.cloned().collect(),
            feeds: lacking.iter().filter_map(|lacking| lacking.feed()).cloned().collect(),
            from_millis,
            until_millis,
            found_millis: self.stream.own_millis(),
        };
        error!(region = %self.origin, table = self.table, "{gap}; the table is marked: run `tradewind verify`");
        Some(gap)
    }

    /// Everything created before this is trimmed, in milliseconds, as far as is known.
    pub(super) fn trimmed_to(&self) -> Option<u64> {
        let listed = self.stream.lineage().borrow().as_ref()?.listed_millis?;
        Some(listed.saturating_sub(self.retention_millis()))
    }

    pub(super) fn retention_millis(&self) -> u64 {
        u64::try_from(self.tuning.stream_retention.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a destination has all of the previous stream.
    pub(super) fn may_begin(&self, destination: &Destination) -> bool {
        self.before.as_ref().is_none_or(|before| !before.holds(destination))
    }

    /// Logs, now and then, replicated writes whose origin is not a region of this setup.
    pub(super) fn note_origin(&self, origin: &Origin) {
        if self.outlets.contains_key(&Destination::replica(origin, &self.origin)) {
            return;
        }
        self.notes.tally.foreign.add();
        if let Some(writes) = self.notes.foreign.note(origin) {
            warn!(
                region = %self.origin, table = self.table, %origin, writes,
                "agents of another setup write to this table: the stamps name a region that is not among the table's \
                 regions in this configuration. Such writes count as replicated, and go to no peer: put all \
                 regions of the table into one setup"
            );
        }
    }

    /// The part of an action to do at a replica, if any.
    pub(super) fn view(&self, action: &Action, target: &Destination) -> Option<Action> {
        match (target, action) {
            (Destination::Peer(peer), Action::Push(write)) => {
                let write = self.selections.view(&self.origin, peer, write)?;
                Some(Action::Push(write.into_owned()))
            }
            (Destination::Home, Action::Push(_)) | (Destination::Peer(_) | Destination::Feed(..), _) => None,
            (Destination::Home, action) => Some(action.clone()),
        }
    }

    /// Marks the table. Returns whether that is durable.
    pub(super) async fn mark(&self, gap: &Gap) -> bool {
        let Self { origin: region, table, .. } = self;
        let saved = save_in_time(self.control.save_gap(table, gap)).await;
        if let Err(fault) = &saved {
            warn!(%region, table, %fault, "can't save a gap's mark; retrying");
        }
        saved.is_ok()
    }
}
