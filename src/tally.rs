//! Counts what an agent has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::protocol::Verdict;

macro_rules! tally {
    ($(#[doc = $whose:literal])* $Tally:ident, $Snapshot:ident: $($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        $(#[doc = $whose])*
        #[derive(Debug, Default)]
        pub struct $Tally { $($(#[doc = $doc])* pub $name: Counter),* }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $Snapshot { $($(#[doc = $doc])* pub $name: u64),* }

        impl $Tally {
            pub fn snapshot(&self) -> $Snapshot {
                $Snapshot { $($name: self.$name.get()),* }
            }
        }

        impl $Snapshot {
            /// Every counter: its name, what it counts, and how to read it.
            pub(crate) const COUNTERS: &[(&str, &str, fn(&Self) -> u64)] =
                &[$((stringify!($name), concat!($($doc),*), |tally| tally.$name)),*];
        }

        impl std::ops::AddAssign for $Snapshot {
            fn add_assign(&mut self, other: Self) {
                // Another agent's figures may be anything.
                $(self.$name = self.$name.saturating_add(other.$name);)*
            }
        }
    };
}

tally! {
    /// Counters of one agent and table.
    Tally, TallySnapshot:
    /// Records read from the local stream, excluding those re-read after a restart.
    records,
    /// Puts and updates by applications among them.
    local_puts,
    /// Deletes by applications and TTL expiries among them.
    local_deletes,
    /// Echoes among them: records of agents' writes, not forwarded.
    echoes,
    /// Local writes that lost to one that was not made on top of them.
    conflicts,
    /// Conflicts that were to be recorded but could not be.
    conflicts_unrecorded,
    /// Writes that a peer accepted.
    replicated,
    /// Writes superseded at a peer: it already had a newer version, or this one.
    superseded,
    /// Writes coalesced into a later one of the same key, and so not made at a peer.
    coalesced,
    /// Writes that met one at a peer which that region's agent had not reported yet.
    contended,
    /// Writes that took effect on a condition which did not name everything they replaced.
    unguarded,
    /// Newer local versions put back over older replicated ones.
    heals,
    /// Deletes applied for delete marks.
    deletes_applied,
    /// Local writes stamped in place.
    restamps,
    /// Writes parked as dead letters, since a replica can never accept them.
    dead_letters,
    /// Throttled attempts.
    throttled,
    /// Attempts that failed otherwise, and were retried.
    retries,
    /// Times that a table was marked because records were trimmed before they were read, or because it has
    /// another stream.
    gaps,
    /// Records that could not be read.
    unreadable,
    /// Failures to move remembered keys to disk, or to read them from there.
    spill_failures,
    /// Replicated writes whose origin is not a region of the table here: agents of another setup made them,
    /// and they go to no peer.
    foreign,
    /// Times that the table's replication failed because of a defect and was restarted.
    breakdowns,
}

tally! {
    /// What has become of the events of one feed, since the agent started.
    FeedCounts, FeedSnapshot:
    /// Events that the feed's sink has taken.
    delivered,
    /// Events that no filter of the feed matches.
    filtered,
    /// Applications' writes that changed nothing of what the feed shows, such as a stamp alone.
    unchanged,
    /// Calls of the feed's sink that failed, and were tried again.
    retried,
    /// Calls of the feed's sink that were answered by the rejection of an event, or of a whole batch.
    rejected,
    /// Events that the sink rejected to the end, so that they were parked.
    parked,
}

impl Tally {
    pub fn count_verdict(&self, verdict: Verdict) {
        self.records.add();
        match verdict {
            Verdict::LocalPut => self.local_puts.add(),
            Verdict::LocalDelete => self.local_deletes.add(),
            Verdict::EchoPut | Verdict::EchoMark | Verdict::EchoDelete => self.echoes.add(),
            Verdict::Unchanged => {}
        }
    }
}

impl TallySnapshot {
    /// Agents' writes to replicas that took effect.
    pub fn agent_writes(&self) -> u64 {
        self.replicated + self.heals + self.deletes_applied + self.restamps
    }

    /// Applications' writes that the streams showed.
    pub fn local_writes(&self) -> u64 {
        self.local_puts + self.local_deletes
    }
}

/// A count, as one of several figures.
pub(crate) fn count(count: impl TryInto<u32>) -> f64 {
    f64::from(count.try_into().unwrap_or(u32::MAX))
}

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add_all(&self, count: usize) {
        self.0.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
