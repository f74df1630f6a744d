//! The leases' rows: reads, creates, takes and removes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, info};

use super::{Coordinator, Running};
use crate::agent::family::Family;
use crate::agent::shared::Shared;
use crate::config::Start;
use crate::control::{Lease, LeaseTable, Leases};
use crate::destination::Destination;
use crate::fault::Fault;
use crate::source::{Lineage, ShardId, Source};

/// How many rows are written at once, for a stream with many shards.
const AT_ONCE: usize = 16;

impl Coordinator {
    /// Reads all leases, and extends the right to write under those of `running` that are still held.
    pub(super) async fn verify(
        &self,
        running: &BTreeMap<ShardId, Running>,
    ) -> Result<(Leases, Instant), Fault> {
        let Shared { control, table, space, tuning, .. } = &*self.shared;
        let asked = Instant::now();
        let LeaseTable { leases: mut rows, barrier, hold } = control.leases(space).await?;
        let wall = self.shared.stream.own_millis();
        for lease in rows.values_mut() {
            lease.disbelieve(wall);
        }
        let now = self.holds.look(barrier, hold, tuning.hold_lapse());
        self.asked.send_if_modified(|last| std::mem::replace(last, now) != now);
        for (shard, Running { lease, tenure }) in running {
            if rows.get(shard).is_some_and(|row| row.counter == lease.counter) {
                tenure.extend(asked + tuning.tenure());
            } else if !tenure.has_ended() {
                info!(region = %self.shared.origin, table, %shard, "another agent has taken the shard");
                tenure.end();
            }
        }
        Ok((rows, asked))
    }

    /// Takes leases that are still as they were read; those that fail are retried later.
    pub(super) async fn take(&self, wanted: Vec<Lease>) -> Vec<Lease> {
        let mut taken = Vec::new();
        let mut wanted = wanted.into_iter();
        let mut requests = JoinSet::new();
        loop {
            while requests.len() < AT_ONCE
                && let Some(lease) = wanted.next()
            {
                let (sharing, me) = (Arc::clone(&self.shared), self.member.me.clone());
                requests.spawn(async move { sharing.control.take_lease(&sharing.space, &lease, &me).await });
            }
            match requests.join_next().await {
                Some(Ok(Ok(lease))) => taken.extend(lease),
                Some(Ok(Err(fault))) => debug!(%fault, "can't take a lease; retrying"),
                Some(Err(error)) => error!(%error, "the task that takes a lease panicked"),
                None => return taken,
            }
        }
    }

    /// Creates the rows of new shards.
    pub(super) async fn create(&mut self, lineage: &Lineage, rows: &Leases) -> Result<(), Fault> {
        let (missing, is_more) = self.missing.without_lease(&Family { lineage, leases: rows });
        if is_more {
            self.shared.stream.look();
        }
        let since_millis = match self.start {
            Start::Latest => {
                // Creation times may be as coarse as whole minutes.
                let listed = lineage.listed_millis.unwrap_or_default().saturating_sub(60_000);
                let listed = listed.min(self.shared.stream.own_millis());
                self.shared.control.start_since(&self.shared.space, listed).await?
            }
            Start::TrimHorizon => 0,
        };
        let made_millis = lineage.listed_millis.unwrap_or_default();
        let mut creations = JoinSet::new();
        for shard in missing {
            if creations.len() == AT_ONCE {
                creations.join_next().await;
            }
            let sharing = Arc::clone(&self.shared);
            let parent = lineage.named_parent(&shard).cloned();
            creations.spawn(async move {
                let parent = parent.as_ref();
                let control = &sharing.control;
                control.create_lease(&sharing.space, &shard, parent, since_millis, made_millis).await
            });
        }
        while let Some(created) = creations.join_next().await {
            if let Ok(Err(fault)) = created {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Removes the rows of shards that are gone, as they are a day after their end.
    pub(super) async fn retire(
        &mut self,
        lineage: &Lineage,
        rows: &mut Leases,
        running: &BTreeMap<ShardId, Running>,
    ) {
        let mut gone = self.missing.gone(&Family { lineage, leases: rows });
        gone.retain(|shard| !running.contains_key(shard));
        // These shards had children that were gone before anybody saw them.
        let parents = Family { lineage, leases: rows }.parents();
        let childless: BTreeSet<ShardId> =
            gone.iter().filter(|shard| !parents.contains(shard)).cloned().collect();
        let sharing = Arc::clone(&self.shared);
        let Shared { control, space, outlets, .. } = &*sharing;
        for shard in gone {
            let Some(row) = rows.get(&shard) else { continue };
            let missed = outlets.keys().filter(|peer| childless.contains(&shard) || !row.is_done_for(peer));
            let missed: Vec<&Destination> = missed.collect();
            if !missed.is_empty() {
                let family = Family { lineage, leases: rows };
                let from = missed.iter().map(|peer| family.lease_promise(row, peer)).min();
                let gap = sharing.gap(&shard, missed, from.unwrap_or_default());
                // Until the mark is saved, only the row shows the gap.
                if let Some(gap) = gap
                    && !sharing.mark(&gap).await
                {
                    continue;
                }
            }
            rows.remove(&shard);
            if let Err(fault) = control.retire_lease(space, &shard).await {
                debug!(%shard, %fault, "can't remove the lease of a shard that is gone");
            }
        }
    }
}
