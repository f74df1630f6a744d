//! Records conflicts in the region's conflict table, beside the stream, which never waits for it.
//!
//! A conflict being saved is in the ledger of the agent's own region, and so ahead of its checkpoint: an
//! agent that is killed finds the conflict again. But a conflict table that is missing or slow must not block
//! anything for ever. So a conflict that finds no space, or can't be saved in time, is lost: counted, and
//! logged.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, error};

use crate::config::Tuning;
use crate::contained::unless_aborted;
use crate::control::ConflictTable;
use crate::deliver::{Complaints, Ledger};
use crate::fault::persist;
use crate::log_key::log_key;
use crate::protocol::Conflict;
use crate::replica::item_bytes;
use crate::tally::Tally;

/// How many conflicts are saved at once.
const CONCURRENCY: usize = 16;

/// Queues conflicts to be saved.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    sender: mpsc::UnboundedSender<Entry>,
    /// The space left in the queue, in KiB.
    room: Arc<Semaphore>,
    saver: Arc<Saver>,
}

#[derive(Debug)]
struct Entry {
    conflict: Conflict,
    seen_millis: u64,
    ordinal: u64,
    ledger: Arc<Ledger>,
    deadline: Instant,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Saver {
    table: String,
    conflicts: ConflictTable,
    keep_days: u32,
    /// How long saving one may take, from when it was found: as long as a stopping agent would wait for it.
    patience: Duration,
    tally: Arc<Tally>,
    complaints: Complaints,
}

impl Recorder {
    /// Starts saving among `tasks`, and ends with them.
    pub(super) fn start(
        table: String,
        conflicts: ConflictTable,
        tuning: &Tuning,
        tally: Arc<Tally>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (sender, entries) = mpsc::unbounded_channel();
        let saver = Arc::new(Saver {
            table,
            conflicts,
            keep_days: tuning.conflict_days,
            patience: tuning.drain_timeout,
            tally,
            complaints: Complaints::default(),
        });
        tasks.spawn(Arc::clone(&saver).run(entries));
        Self { sender, room: Arc::new(Semaphore::new(tuning.queue_mib * 1024)), saver }
    }

    /// Queues a conflict, if there is space for it.
    pub(super) fn record(&self, conflict: Conflict, seen_millis: u64, ordinal: u64, ledger: &Arc<Ledger>) {
        let images = [&conflict.loser, &conflict.winner].into_iter().flatten();
        let kib = images.map(item_bytes).sum::<usize>() / 1024 + 1;
        let cost = u32::try_from(kib).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(cost) else {
            self.saver.lose(&conflict, &"too many are being saved at once");
            return;
        };
        ledger.begin(ordinal, seen_millis);
        let deadline = Instant::now() + self.saver.patience;
        let entry =
            Entry { conflict, seen_millis, ordinal, ledger: Arc::clone(ledger), deadline, _room: room };
        // A closed queue means that the agent is stopping: the conflict stays in the ledger.
        let _ = self.sender.send(entry);
    }
}

impl Saver {
    async fn run(self: Arc<Self>, mut entries: mpsc::UnboundedReceiver<Entry>) {
        let mut saves = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(ended) = saves.join_next() => drop(unless_aborted(ended)),
                entry = entries.recv(), if saves.len() < CONCURRENCY => match entry {
                    Some(entry) => _ = saves.spawn(Arc::clone(&self).save(entry)),
                    None => return,
                },
            }
        }
    }

    async fn save(self: Arc<Self>, entry: Entry) {
        let Entry { conflict, seen_millis, ordinal, ledger, deadline, _room } = entry;
        let Self { table, conflicts, keep_days, .. } = &*self;
        let save = persist(
            || conflicts.save(table, &conflict, seen_millis, *keep_days),
            |fault| debug!(region = %conflicts.region(), table, %fault, "can't record a conflict; retrying"),
        );
        match timeout_at(deadline, save).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => self.lose(&conflict, &fault),
            Err(_) => self.lose(&conflict, &"the conflict table did not answer in time"),
        }
        ledger.finish(ordinal);
    }

    fn lose(&self, conflict: &Conflict, why: &dyn std::fmt::Display) {
        self.tally.conflicts_unrecorded.add();
        let Conflict { key, lost, won, .. } = conflict;
        let (region, table, key) = (self.conflicts.region(), &self.table, log_key(key));
        if self.complaints.is_due() {
            error!(
                %region, table, %key, %lost, %won,
                "could not record a conflict, and others may be lost too: {why}; is there a conflict table? `tradewind \
                 init` creates it"
            );
        } else {
            debug!(%region, table, %key, %lost, %won, "could not record a conflict: {why}");
        }
    }
}
