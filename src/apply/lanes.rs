//! The lanes of one destination: each key's writes keep their order, and keys don't wait for
//! each other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SetOnce, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::field::{DisplayValue, display};
use tracing::{debug, error, warn};

use super::{Ledger, Outcome, Pauses, Replica, Tenure};
use crate::control::{ControlTable, DeadLetter};
use crate::fault::{Fault, FaultKind, persist};
use crate::lag::LagBook;
use crate::log_key::log_key;
use crate::protocol::{Action, Body, Item, KeyId, Origin, Write};
use crate::tally::Tally;
use crate::telemetry::Trace;

/// One action on its way to a destination.
#[derive(Debug)]
pub struct Job {
    pub action: Action,
    pub ordinal: u64,
    /// Where the action is crossed out once it has finished.
    pub ledger: Arc<Ledger>,
    /// The right to write it.
    pub tenure: Arc<Tenure>,
    pub created_millis: u64,
    pub seen: Instant,
    /// If the record is traced.
    pub trace: Option<Trace>,
}

/// Where a destination's lanes write, and what they report to.
#[derive(Debug)]
pub struct Destination {
    /// The region that is written to.
    pub region: Origin,
    /// The region whose agent writes.
    pub origin: Origin,
    /// The table's name in the configuration.
    pub table: String,
    pub replica: Replica,
    /// Where dead letters go: the control table beside the agent's own replica.
    pub control: ControlTable,
    pub dead_letter_days: u32,
    pub tally: Arc<Tally>,
    pub lag: Arc<LagBook>,
    pub complaints: Complaints,
    pub pauses: Arc<Pauses>,
}

/// Lets one complaint through every few seconds: all lanes of a destination fail at once.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<Option<Instant>>);

impl Complaints {
    const PAUSE: Duration = Duration::from_secs(5);

    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= Self::PAUSE);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// The lanes of one destination.
#[derive(Debug)]
pub struct Lanes {
    senders: Vec<mpsc::UnboundedSender<(Job, OwnedSemaphorePermit)>>,
    /// What may still be queued, in KiB.
    room: Arc<Semaphore>,
    capacity: usize,
}

impl Lanes {
    /// Starts the lanes among `tasks`, with which they end. They write nothing until the gate is
    /// open.
    pub fn start(
        destination: Arc<Destination>,
        concurrency: usize,
        queue_mib: usize,
        gate: &Arc<SetOnce<()>>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let capacity = (queue_mib * 1024).min(Semaphore::MAX_PERMITS);
        let mut senders = Vec::with_capacity(concurrency);
        for _ in 0..concurrency {
            let (sender, jobs) = mpsc::unbounded_channel();
            senders.push(sender);
            tasks.spawn(run_lane(Arc::clone(&destination), jobs, Arc::clone(gate)));
        }
        Self { senders, room: Arc::new(Semaphore::new(capacity)), capacity }
    }

    /// Queues a job, if there is room for it; else gives it back.
    pub fn try_send(&self, job: Job) -> Option<Job> {
        match Arc::clone(&self.room).try_acquire_many_owned(self.cost(&job)) {
            Ok(permit) => {
                self.queue(job, permit);
                None
            }
            Err(_) => Some(job),
        }
    }

    /// Queues a job as soon as there is room for it.
    pub async fn send(&self, job: Job) {
        let cost = self.cost(&job);
        // The semaphore is never closed.
        if let Ok(permit) = Arc::clone(&self.room).acquire_many_owned(cost).await {
            self.queue(job, permit);
        }
    }

    fn queue(&self, job: Job, permit: OwnedSemaphorePermit) {
        let lane = KeyId::of(key_of(&job.action)).lane(self.senders.len());
        job.ledger.begin(job.ordinal, job.created_millis);
        // A closed lane means that the agent is stopping: the job stays in the ledger, and so
        // before the checkpoint.
        let _ = self.senders[lane].send((job, permit));
    }

    fn cost(&self, job: &Job) -> u32 {
        let images = match &job.action {
            Action::Push(write) | Action::Heal(write) | Action::Restamp(write, _) => {
                let new = match &write.body {
                    Body::Put(item, _) => item_bytes(item),
                    Body::Delete => 0,
                };
                new + write.replaced.as_deref().map_or(0, item_bytes)
            }
            Action::CarryOut { .. } => 0,
        };
        let kib = images.div_ceil(1024).max(1).min(self.capacity);
        u32::try_from(kib).unwrap_or(u32::MAX)
    }
}

/// A rough size of an item, in bytes: what its texts and binaries hold.
pub(crate) fn item_bytes(item: &Item) -> usize {
    use aws_sdk_dynamodb::types::AttributeValue as Value;
    fn value_bytes(value: &Value) -> usize {
        match value {
            Value::S(text) | Value::N(text) => text.len(),
            Value::B(bytes) => bytes.as_ref().len(),
            Value::Ss(set) | Value::Ns(set) => set.iter().map(String::len).sum(),
            Value::Bs(set) => set.iter().map(|bytes| bytes.as_ref().len()).sum(),
            Value::L(list) => list.iter().map(|value| 24 + value_bytes(value)).sum(),
            Value::M(map) => item_bytes(map),
            _ => 1,
        }
    }
    item.iter().map(|(name, value)| 32 + name.len() + value_bytes(value)).sum()
}

fn key_of(action: &Action) -> &Item {
    match action {
        Action::Push(write) | Action::Heal(write) | Action::Restamp(write, _) => &write.key,
        Action::CarryOut { key, .. } => key,
    }
}

async fn run_lane(
    destination: Arc<Destination>,
    mut jobs: mpsc::UnboundedReceiver<(Job, OwnedSemaphorePermit)>,
    gate: Arc<SetOnce<()>>,
) {
    gate.wait().await;
    while let Some((job, _room)) = jobs.recv().await {
        tokio::select! {
            biased;
            // What was begun stays in the ledger: whoever has the lease now does it again.
            () = job.tenure.ended() => {}
            () = destination.finish(&job) => job.ledger.finish(job.ordinal),
        }
    }
}

impl Destination {
    /// Works on a job until it is done, or can never be.
    async fn finish(&self, job: &Job) {
        let attempt = || async {
            if self.region != self.origin {
                self.pauses.over(&self.region).await;
            }
            job.tenure.within(|| self.replica.attempt(&job.action)).await
        };
        let step = job.trace.as_ref().and_then(|trace| trace.apply(&self.region));
        let outcome = persist(attempt, |fault| self.notice(job, fault)).await;
        if let Some(step) = step {
            step.end(outcome.as_ref());
        }
        match outcome {
            Ok(outcome) => self.report(job, outcome),
            Err(fault) => self.bury(job, &fault).await,
        }
    }

    fn report(&self, job: &Job, outcome: Outcome) {
        if let Action::Push(_) = job.action {
            self.lag.note(&self.region, job.created_millis, job.seen.elapsed());
        }
        let counter = match (&job.action, outcome) {
            (Action::Push(_), Outcome::Applied) => &self.tally.replicated,
            (Action::Push(_), Outcome::Outrun) => &self.tally.outrun,
            (Action::Heal(_), Outcome::Applied) => &self.tally.heals,
            (Action::Restamp(..), Outcome::Applied) => &self.tally.restamps,
            (Action::CarryOut { .. }, Outcome::Applied) => &self.tally.deletes_carried_out,
            (_, Outcome::Outrun) => {
                debug!(
                    region = %self.origin, table = self.table, key = %log_key(key_of(&job.action)),
                    "a local write was no longer needed"
                );
                return;
            }
        };
        counter.add();
    }

    /// The region written to, in a log line; an agent's own is no peer.
    fn peer(&self) -> Option<DisplayValue<&Origin>> {
        (self.region != self.origin).then(|| display(&self.region))
    }

    fn notice(&self, job: &Job, fault: &Fault) {
        let Self { origin: region, table, .. } = self;
        let (peer, key) = (self.peer(), log_key(key_of(&job.action)));
        if fault.kind == FaultKind::Throttled {
            self.tally.throttled.add();
            debug!(%region, peer, table, %key, %fault, "throttled; trying again");
            return;
        }
        self.tally.retries.add();
        match fault.kind {
            _ if !self.complaints.is_due() => {
                debug!(%region, peer, table, %key, %fault, "a write failed; trying again");
            }
            FaultKind::Refused => error!(
                %region, peer, table, %key, %fault,
                "the region refuses the write; check the credentials and the permissions of this agent there"
            ),
            FaultKind::Missing => error!(
                %region, peer, table, %key, %fault,
                "the replica is missing; create it with `tradewind init --create-tables`"
            ),
            _ => warn!(%region, peer, table, %key, %fault, "a write failed; trying again"),
        }
    }

    /// Puts a write that can never be applied aside, with its reason, so that the stream goes on.
    async fn bury(&self, job: &Job, fault: &Fault) {
        let action = &job.action;
        let trace = job.trace.as_ref().map(Trace::id);
        let (peer, key) = (self.peer(), log_key(key_of(action)));
        let Self { origin: region, table, .. } = self;
        let (Action::Push(write) | Action::Heal(write) | Action::Restamp(write, _)) = action else {
            error!(%region, table, %key, %fault, "a marked item can't be deleted");
            return;
        };
        self.tally.dead_letters.add();
        error!(
            %region, peer, table, %key, %fault, trace,
            "the replica can never take this write; it is in the dead letters of the origin's control table"
        );
        self.save_dead_letter(write, fault).await;
    }

    async fn save_dead_letter(&self, write: &Write, fault: &Fault) {
        let Self { origin: region, table, .. } = self;
        let (peer, key) = (self.peer(), log_key(&write.key));
        let reason = fault.to_string();
        let letter = DeadLetter { peer: &self.region, write, reason: &reason };
        let save = || self.control.save_dead_letter(&self.table, &letter, self.dead_letter_days);
        let saved = persist(save, |fault| {
            error!(%region, peer, table, %key, %fault, "can't save a dead letter in the control table; trying again");
        })
        .await;
        if let Err(fault) = saved {
            error!(%region, peer, table, %key, %fault, "a dead letter can't be saved");
        }
    }
}
