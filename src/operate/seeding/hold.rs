//! A hold on a table, in the control tables of all its regions.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use super::SeedError;
use crate::config::Tuning;
use crate::control::{Held, HoldRow, lease_space};
use crate::deliver::Tenure;
use crate::operate::wait::everywhere;
use crate::operate::{Arrival, OperateError, PhysicalReplica, TableReplicas};

/// A hold, renewed until it is released or dropped. If it is dropped, or its process is killed, agents
/// consider it over after a while.
pub(super) struct Hold {
    pub(super) number: u64,
    /// How long seeds may be written.
    pub(super) tenure: Arc<Tenure>,
    table: TableReplicas,
    places: Arc<[HeldReplica]>,
    tuning: Tuning,
    renewals: JoinSet<()>,
}

/// Where a region keeps the row of the table's hold.
struct HeldReplica {
    replica: PhysicalReplica,
    space: String,
}

impl HeldReplica {
    async fn row(&self) -> Result<HoldRow, OperateError> {
        let table = self.replica.control().leases(&self.space).await;
        table.map(|table| table.hold).map_err(|fault| self.replica.at_control(fault))
    }

    fn busy(&self) -> SeedError {
        let PhysicalReplica { table, region, .. } = &self.replica;
        SeedError::Busy { table: table.name.clone(), region: region.name.clone() }
    }
}

impl Hold {
    /// Raises a hold, and waits until it is in force everywhere, and everything written before it is
    /// everywhere.
    pub(super) async fn raise(
        table: &TableReplicas,
        tuning: &Tuning,
        patience: Duration,
    ) -> Result<Self, SeedError> {
        let places = places(table).await?;
        let number = next_number(&places, renewal_interval(tuning)).await?;
        let asked = Instant::now();
        for place in places.iter() {
            let raised = place.replica.control().raise_hold(&place.space, number).await;
            if raised.map_err(|fault| place.replica.at_control(fault))? == Held::No {
                return Err(place.busy());
            }
        }
        let tenure = Arc::new(Tenure::until(asked + tuning.tenure()));
        let mut renewals = JoinSet::new();
        renewals.spawn(renew(Arc::clone(&places), number, Arc::clone(&tenure), tuning.clone()));
        let hold = Self { number, tenure, table: table.clone(), places, tuning: tuning.clone(), renewals };
        // All agents have seen the hold, and everything from before it is everywhere.
        hold.pass(patience).await?;
        hold.pass(patience).await?;
        Ok(hold)
    }

    /// Waits until everything written anywhere before the call is everywhere.
    pub(super) async fn pass(&self, patience: Duration) -> Result<(), SeedError> {
        let passed = pass(&self.table, patience);
        tokio::select! {
            passed = passed => passed,
            () = self.tenure.ended() => Err(self.lost()),
        }
    }

    pub(super) fn lost(&self) -> SeedError {
        SeedError::Lost { table: self.table.name().to_owned() }
    }

    /// Waits until no seed can still be in progress, and releases the hold.
    pub(super) async fn release(mut self) -> Result<(), SeedError> {
        tokio::time::sleep(self.tuning.settle).await;
        if self.tenure.has_ended() {
            return Err(self.lost());
        }
        self.renewals.shutdown().await;
        for place in self.places.iter() {
            let released = place.replica.control().release_hold(&place.space, self.number).await;
            // Agents consider it over by themselves.
            if let Err(fault) = released {
                warn!(
                    region = %place.replica.region.name, table = self.table.name(), %fault,
                    "can't release the hold: it lapses"
                );
            }
        }
        Ok(())
    }
}

/// Waits until everything written to a table in any of its regions is in all of them.
pub(super) async fn pass(table: &TableReplicas, patience: Duration) -> Result<(), SeedError> {
    let deadline = Instant::now() + patience;
    let arrivals = everywhere(table, deadline).await?;
    match arrivals.into_iter().find(|arrival| !arrival.is_complete()) {
        Some(Arrival { table, origin, peer, .. }) => {
            Err(SeedError::NotPassed { table, origin, peer, patience })
        }
        None => Ok(()),
    }
}

async fn places(table: &TableReplicas) -> Result<Arc<[HeldReplica]>, OperateError> {
    let mut places = Vec::new();
    for replica in &table.replicas {
        let space = lease_space(table.name(), &replica.stream().await?);
        places.push(HeldReplica { replica: replica.clone(), space });
    }
    Ok(places.into())
}

/// The number of the next hold. One that is being renewed belongs to another process.
async fn next_number(places: &[HeldReplica], renewal: Duration) -> Result<u64, SeedError> {
    let mut last = 0;
    for place in places {
        let row = place.row().await?;
        last = last.max(row.number).max(row.over);
        if row.active().is_some() {
            let PhysicalReplica { table, region, .. } = &place.replica;
            debug!(region = %region.name, table = table.name, hold = row.number, "there is already a hold");
            tokio::time::sleep(renewal * 3).await;
            if place.row().await? != row {
                return Err(place.busy());
            }
        }
    }
    Ok(last + 1)
}

fn renewal_interval(tuning: &Tuning) -> Duration {
    tuning.settle / 12
}

/// Renews the hold in all regions, and with it the right to write; until it has to end.
async fn renew(places: Arc<[HeldReplica]>, number: u64, tenure: Arc<Tenure>, tuning: Tuning) {
    let mut ticks = tokio::time::interval(renewal_interval(&tuning));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        let mut renewals = JoinSet::new();
        for i in 0..places.len() {
            let places = Arc::clone(&places);
            renewals
                .spawn(async move { places[i].replica.control().renew_hold(&places[i].space, number).await });
        }
        let mut renewed = true;
        while let Some(renewal) = renewals.join_next().await {
            match renewal {
                Ok(Ok(Held::Yes)) => {}
                Ok(Ok(Held::No)) => return tenure.end(),
                Ok(Err(fault)) => {
                    debug!(%fault, "can't renew the hold; retrying");
                    renewed = false;
                }
                Err(_) => renewed = false,
            }
        }
        // Well before agents consider it over.
        if last.elapsed() > tuning.hold_lapse() / 2 {
            return tenure.end();
        }
        if renewed {
            last = asked;
            tenure.extend(asked + tuning.tenure());
        }
    }
}
