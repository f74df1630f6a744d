//! Makes the writes of one destination, and reports what came of each.

use std::sync::Arc;
use std::time::Duration;

use tracing::field::{DisplayValue, display};
use tracing::{debug, error, info, warn};

use super::{Complaints, Job, Pauses, Refusals};
use crate::control::{ControlTable, DeadLetter};
use crate::fault::{Fault, FaultKind, insist};
use crate::lag::LagBook;
use crate::log_key::log_key;
use crate::protocol::{Action, Origin, Write};
use crate::replica::{Fitness, Insistence, Outcome, Replica};
use crate::tally::Tally;
use crate::telemetry::Trace;

/// Where a destination's lanes write, and what they report to.
#[derive(Debug)]
pub struct Writer {
    /// The region that is written to.
    pub region: Origin,
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
    /// The longest time between two looks at a stream.
    pub poll_interval: Duration,
    pub tally: Arc<Tally>,
    pub lag: Arc<LagBook>,
    pub complaints: Complaints,
    pub pauses: Arc<Pauses>,
    pub refusals: Arc<Refusals>,
}

impl Writer {
    /// Makes one attempt at a job, as soon as its destination may be written to. `newest` is the newest write of
    /// its key that is queued, if that is another one.
    pub(super) async fn work_on(
        &self,
        job: &Job,
        insistence: &Insistence,
        newest: Option<Write>,
    ) -> Result<Outcome, Fault> {
        if self.region != self.origin {
            self.pauses.over(&self.region).await;
        }
        self.prove().await?;
        let outcome = job.tenure.within(|| self.attempt(&job.action, insistence, newest.as_ref())).await;
        if let Err(fault) = &outcome
            && (fault.kind == FaultKind::Missing || (fault.kind == FaultKind::Invalid && !fault.is_of_item()))
        {
            self.fitness.doubt();
        }
        outcome
    }

    /// Looks at the table where that is in doubt, and tells what has become of it.
    async fn prove(&self) -> Result<(), Fault> {
        match self.fitness.prove().await {
            Ok(false) => {}
            Ok(true) => self.release(),
            Err(fault) => {
                if self.fitness.is_unfit().await {
                    self.refusals.note(&self.region, Some(fault.to_string()));
                }
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Where a push has lost, or may lose, its stamp is set beside what stands in the own replica, or that of a
    /// newer one that is queued: what it lost to comes here, and must be able to see the version.
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

    /// Counts what became of a job.
    pub(super) fn report(&self, job: &Job, outcome: &Outcome) {
        if let Action::Push(_) = job.action {
            for record in job.taken_in.iter().chain([&job.record]) {
                self.lag.note(&self.region, record.created_millis, record.seen.elapsed());
            }
            job.taken_in.iter().for_each(|_| self.tally.taken_in.add());
        }
        if *outcome == (Outcome::Applied { guarded: false }) {
            self.tally.unguarded.add();
        }
        let counter = match (&job.action, outcome) {
            (Action::Push(_), Outcome::Applied { .. }) => &self.tally.replicated,
            (Action::Push(_), Outcome::Done | Outcome::Superseded | Outcome::Contended(_)) => {
                &self.tally.outrun
            }
            (Action::Heal(..), Outcome::Applied { .. }) => &self.tally.heals,
            (Action::Restamp(_), Outcome::Applied { .. }) => &self.tally.restamps,
            (Action::CarryOut { .. }, Outcome::Applied { .. }) => &self.tally.deletes_carried_out,
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

    /// The region written to, in a log line; an agent's own is no peer.
    fn peer(&self) -> Option<DisplayValue<&Origin>> {
        (self.region != self.origin).then(|| display(&self.region))
    }

    /// Tells of an attempt that failed and is made again.
    pub(super) fn notice(&self, job: &Job, fault: &Fault) {
        let Self { origin: region, table, .. } = self;
        let (peer, key) = (self.peer(), log_key(job.action.key()));
        if fault.kind.is_throttling() {
            self.tally.throttled.add();
            debug!(%region, peer, table, %key, %fault, "throttled; trying again");
            return;
        }
        self.tally.retries.add();
        match fault.kind {
            _ if !self.complaints.is_due() => {
                debug!(%region, peer, table, %key, %fault, "a write failed; trying again");
            }
            FaultKind::Invalid | FaultKind::Missing if self.refusals.all().contains_key(&self.region) => {
                error!(
                    %region, peer, table, %key, %fault,
                    "the replica takes no write of this table, and all wait; it is tried now and then"
                );
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

    /// Tells that the replica refuses whatever it is sent, and that all writes to it wait.
    pub(super) fn hold(&self, fault: &Fault) {
        let Self { origin: region, table, .. } = self;
        error!(
            %region, peer = self.peer(), table, %fault,
            "the replica refuses the writes of many keys in a row, and takes none: that is a state of its table, and not \
             of the items. No write goes to the dead letters: they wait, and one is tried now and then. Compare the \
             replicas' keys and indexes, and see to the encryption key"
        );
        self.refusals.note(&self.region, Some(fault.to_string()));
    }

    /// Tells that the replica takes writes again.
    pub(super) fn release(&self) {
        let Self { origin: region, table, .. } = self;
        info!(%region, peer = self.peer(), table, "the replica takes writes again: those that waited are made");
        self.refusals.note(&self.region, None);
    }

    /// Puts a write that can never be applied aside, with its reason, so that the stream goes on. It ends only once
    /// the letter is saved: a write that stands nowhere else must not be passed by.
    pub(super) async fn bury(&self, write: &Write, trace: Option<&Trace>, fault: &Fault) {
        let Self { origin: region, table, .. } = self;
        let (peer, key, trace) = (self.peer(), log_key(&write.key), trace.map(Trace::id));
        let reason = fault.to_string();
        let letter = DeadLetter { peer: &self.region, write, reason: &reason };
        let save = || self.control.save_dead_letter(table, &letter, self.dead_letter_days);
        insist(save, |fault| {
            error!(
                %region, peer, table, %key, %fault, trace,
                "can't save a dead letter in the control table; trying again, and the checkpoint waits for it"
            );
        })
        .await;
        self.tally.dead_letters.add();
        error!(
            %region, peer, table, %key, %fault, trace,
            "the replica can never take this write; it is in the dead letters of the origin's control table"
        );
    }
}
