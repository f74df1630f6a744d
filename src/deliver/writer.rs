//! Makes the writes to one destination, and reports the outcome of each.

use std::sync::Arc;
use std::time::Duration;

use tracing::field::{DisplayValue, display};
use tracing::{debug, error, info, warn};

use super::{Complaints, Job, Pauses, Refusals};
use crate::control::{ControlTable, DeadLetter};
use crate::destination::Destination;
use crate::fault::{Fault, FaultKind, insist};
use crate::lag::LagBook;
use crate::log_key::log_key;
use crate::protocol::{Action, Origin, Write};
use crate::replica::{Fitness, Insistence, Outcome, Replica};
use crate::tally::Tally;
use crate::telemetry::Trace;

/// Where a destination's lanes write and report.
#[derive(Debug)]
pub struct Writer {
    pub destination: Destination,
    /// The region whose agent writes.
    pub origin: Origin,
    /// The table's name in the configuration.
    pub table: String,
    pub replica: Arc<Replica>,
    pub fitness: Fitness,
    /// The agent's own replica.
    pub home: Arc<Replica>,
    /// Where dead letters go: the control table beside the agent's own replica.
    pub control: ControlTable,
    pub dead_letter_days: u32,
    /// The longest interval between two polls of a stream.
    pub poll_interval: Duration,
    pub tally: Arc<Tally>,
    pub lag: Arc<LagBook>,
    pub complaints: Complaints,
    pub pauses: Arc<Pauses>,
    pub refusals: Arc<Refusals>,
}

impl Writer {
    /// Makes one attempt at a job, as soon as its destination may be written to. `newest` is the newest
    /// queued write of its key, if that is another one.
    pub(super) async fn work_on(
        &self,
        job: &Job,
        insistence: &Insistence,
        newest: Option<Write>,
    ) -> Result<Outcome, Fault> {
        self.pauses.over(&self.destination).await;
        self.prove().await?;
        let outcome = job.tenure.within(|| self.attempt(&job.action, insistence, newest.as_ref())).await;
        if let Err(fault) = &outcome
            && (fault.kind == FaultKind::Missing || (fault.kind == FaultKind::Invalid && !fault.is_of_item()))
        {
            self.fitness.doubt();
        }
        outcome
    }

    /// Checks the table if it is in doubt, and logs the result.
    async fn prove(&self) -> Result<(), Fault> {
        match self.fitness.prove().await {
            Ok(false) => {}
            Ok(true) => self.release(),
            Err(fault) => {
                if self.fitness.is_unfit().await {
                    self.refusals.note(&self.destination, Some(fault.to_string()));
                }
                return Err(fault);
            }
        }
        Ok(())
    }

    /// If a push has been or may be superseded, sets its stamp (or that of a newer queued one) beside what
    /// stands in the agent's own replica: the write that superseded it arrives here, and must be able to see
    /// the version.
    async fn attempt(
        &self,
        action: &Action,
        insistence: &Insistence,
        newest: Option<&Write>,
    ) -> Result<Outcome, Fault> {
        let outcome = self.replica.attempt(action, insistence).await?;
        if let (Outcome::Contended(_) | Outcome::Superseded, Action::Push(write)) = (&outcome, action) {
            let stamp = Action::Restamp(newest.unwrap_or(write).clone());
            self.home.attempt(&stamp, &Insistence::None).await?;
        }
        Ok(outcome)
    }

    /// Counts a job's outcome.
    pub(super) fn report(&self, job: &Job, outcome: &Outcome) {
        if let Action::Push(_) = job.action {
            for record in job.coalesced.iter().chain([&job.record]) {
                self.lag.note(self.region(), record.created_millis, record.seen.elapsed());
            }
            job.coalesced.iter().for_each(|_| self.tally.coalesced.add());
        }
        if *outcome == (Outcome::Applied { guarded: false }) {
            self.tally.unguarded.add();
        }
        let counter = match (&job.action, outcome) {
            (Action::Push(_), Outcome::Applied { .. }) => &self.tally.replicated,
            (Action::Push(_), Outcome::Done | Outcome::Superseded | Outcome::Contended(_)) => {
                &self.tally.superseded
            }
            (Action::Heal(..), Outcome::Applied { .. }) => &self.tally.heals,
            (Action::Restamp(_), Outcome::Applied { .. }) => &self.tally.restamps,
            (Action::ApplyDelete { .. }, Outcome::Applied { .. }) => &self.tally.deletes_applied,
            (_, Outcome::Done | Outcome::Superseded | Outcome::Contended(_)) => {
                debug!(
                    region = %self.origin, table = self.table, key = %log_key(job.action.key()),
                    "a local write was no longer needed"
                );
                return;
            }
        };
        counter.add();
    }

    /// The peer written to, for a log line.
    fn peer(&self) -> Option<DisplayValue<&Origin>> {
        self.destination.peer().map(display)
    }

    /// The region written to.
    pub(super) fn region(&self) -> &Origin {
        self.destination.region(&self.origin).unwrap_or(&self.origin)
    }

    /// Logs a failed attempt that is retried.
    pub(super) fn notice(&self, job: &Job, fault: &Fault) {
        let Self { origin: region, table, .. } = self;
        let (peer, key) = (self.peer(), log_key(job.action.key()));
        if fault.kind.is_throttling() {
            self.tally.throttled.add();
            debug!(%region, peer, table, %key, %fault, "throttled; retrying");
            return;
        }
        self.tally.retries.add();
        match fault.kind {
            _ if !self.complaints.is_due() => {
                debug!(%region, peer, table, %key, %fault, "write failed; retrying");
            }
            FaultKind::Invalid | FaultKind::Missing
                if self.refusals.all().contains_key(&self.destination) =>
            {
                error!(
                    %region, peer, table, %key, %fault,
                    "the replica refuses all writes of this table; they wait, and one is retried now and then"
                );
            }
            FaultKind::Refused => error!(
                %region, peer, table, %key, %fault,
                "the region denies the write; check this agent's credentials and permissions there"
            ),
            FaultKind::Missing => error!(
                %region, peer, table, %key, %fault,
                "the replica is missing; create it with `tradewind init --create-tables`"
            ),
            _ => warn!(%region, peer, table, %key, %fault, "write failed; retrying"),
        }
    }

    /// Logs that the replica refuses every write, and that all writes to it wait.
    pub(super) fn hold(&self, fault: &Fault) {
        let Self { origin: region, table, .. } = self;
        error!(
            %region, peer = self.peer(), table, %fault,
            "the replica refuses the writes of many keys in a row and accepts none: the cause is its table, \
             not the items. No write is parked as a dead letter: they wait, and one is retried now and then. \
             Compare the replicas' keys and indexes, and check the encryption key"
        );
        self.refusals.note(&self.destination, Some(fault.to_string()));
    }

    /// Logs that the replica accepts writes again.
    pub(super) fn release(&self) {
        let Self { origin: region, table, .. } = self;
        info!(%region, peer = self.peer(), table, "the replica accepts writes again");
        self.refusals.note(&self.destination, None);
    }

    /// Parks a write that can never be applied as a dead letter, with the reason, so that the stream goes on.
    /// Returns only once the letter is saved: a write that is stored nowhere else must not be skipped.
    pub(super) async fn park(&self, write: &Write, trace: Option<&Trace>, fault: &Fault) {
        let Self { origin: region, table, .. } = self;
        let (peer, key, trace) = (self.peer(), log_key(&write.key), trace.map(Trace::id));
        let reason = fault.to_string();
        let letter = DeadLetter { peer: self.region(), write, reason: &reason };
        let save = || self.control.save_dead_letter(table, &letter, self.dead_letter_days);
        insist(save, |fault| {
            error!(
                %region, peer, table, %key, %fault, trace,
                "can't save a dead letter in the control table; retrying, and the checkpoint waits for it"
            );
        })
        .await;
        self.tally.dead_letters.add();
        error!(
            %region, peer, table, %key, %fault, trace,
            "the replica can never accept this write; it is parked in the dead letters of the origin's \
             control table"
        );
    }
}
