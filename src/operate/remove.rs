//! Removes a region from replication: nothing is removed before everything written there is everywhere, its
//! agents have stopped, and no agent elsewhere would write to it.
//!
//! It leaves the region's items as they are. The command is run several times: it says what a person
//! has to do next.
//!
//! This order makes it safe. As long as agents elsewhere have the region in their configuration, they forget
//! no key that it has not passed; so its writes are drained first, its agents are stopped second, and only
//! then do the others drop it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::agents::{AgentElsewhere, Patience, elsewhere, running};
use super::left::{Left, left};
use super::wait::watermarks_at;
use super::{Arrival, OperateError, PhysicalReplica, TableReplicas, Watermark, tables_seen_from, wait};
use crate::clock::wall_millis;
use crate::config::Config;
use crate::control::{Cause, ControlTable, Gap, lease_space};
use crate::fault::{Fault, FaultKind, in_time};
use crate::protocol::Origin;
use crate::region::Region;
use crate::schema::StreamState;

/// How long a region may take to answer before it counts as out of reach.
const ANSWER: Duration = Duration::from_secs(10);

/// How to remove a region.
#[derive(Clone, Copy, Debug)]
pub struct RemoveOptions {
    /// Remove it even if something is not everywhere, or can't be known to be.
    pub force: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// How long draining may take.
    pub timeout: Duration,
}

/// The state of a region's removal.
#[derive(Debug, Serialize)]
pub struct Removal {
    pub region: Origin,
    /// Its rows are gone.
    pub removed: bool,
    /// Why the region does not answer, if it does not.
    pub unreachable: Option<String>,
    /// The region's running agents.
    pub agents: Vec<String>,
    /// The agents of other regions whose configuration names it.
    pub named_by: Vec<AgentElsewhere>,
    /// While its agents run: the arrival of what was written before the call.
    pub arrivals: Vec<Arrival>,
    /// While none runs: what its streams hold that is not everywhere.
    pub left: Vec<Left>,
    /// The marks of its tables: writes of the region that may be missing at peers.
    pub marks: usize,
    /// Its writes that a peer could not take.
    pub dead_letters: usize,
    /// If something is left: up to when each other region has what was written there.
    pub watermarks: Vec<Watermark>,
    /// How many rows were removed, by region.
    pub rows: BTreeMap<Origin, usize>,
}

impl Removal {
    /// Whether all that was written there is known to be everywhere.
    pub fn is_drained(&self) -> bool {
        self.unreachable.is_none()
            && self.arrivals.iter().all(Arrival::is_complete)
            && self.left.iter().all(|left| left.writes == 0 && !left.unknown)
            && self.marks == 0
            && self.dead_letters == 0
    }

    /// Whether its rows may be removed.
    pub fn is_ready(&self, force: bool) -> bool {
        self.agents.is_empty() && self.named_by.is_empty() && (force || self.is_drained())
    }
}

/// Removes a region as far as that is possible now.
pub async fn remove(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    gone: &Region,
    options: RemoveOptions,
) -> Result<Removal, OperateError> {
    let mut others: BTreeMap<Origin, Region> = regions.clone();
    others.remove(&gone.name);
    let (mut removal, tables) = survey(config, regions, &others, gone, options).await?;
    if options.dry_run || !removal.is_ready(options.force) {
        return Ok(removal);
    }
    if !removal.is_drained() {
        mark(&tables, &removal).await?;
    }
    let still_there = removal.unreachable.is_none().then_some(gone);
    removal.rows = remove_rows(&tables, &others, &gone.name, still_there).await?;
    removal.removed = true;
    Ok(removal)
}

/// The state of a region's removal, and the tables that it takes part in; changes nothing.
async fn survey(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    others: &BTreeMap<Origin, Region>,
    gone: &Region,
    options: RemoveOptions,
) -> Result<(Removal, Vec<TableReplicas>), OperateError> {
    let patience = Patience::with_running(config.tuning.lease_duration);
    let mut removal = Removal {
        region: gone.name.clone(),
        removed: false,
        unreachable: None,
        agents: Vec::new(),
        named_by: named_by(others, &gone.name, patience).await?,
        arrivals: Vec::new(),
        left: Vec::new(),
        marks: 0,
        dead_letters: 0,
        watermarks: Vec::new(),
        rows: BTreeMap::new(),
    };
    match running(gone, patience).await {
        Ok(agents) => removal.agents = agents.keys().map(ToString::to_string).collect(),
        Err(fault) if options.force => removal.unreachable = Some(fault.to_string()),
        Err(fault) => return Err(OperateError::at(gone, &gone.control_table, fault)),
    }
    let is_there = removal.unreachable.is_none();
    let asked = regions.values().filter(|region| is_there || region.name != gone.name);
    let mut tables = tables_seen_from(config, regions, asked).await?;
    tables.retain(|table| table.is_in(&gone.name));
    let is_known = !removal.agents.is_empty() || is_known(&tables, others, &gone.name).await?;
    // If no other region knows it any more, its removal has already begun: its own leases, which say what has
    // been replicated, may be gone.
    if is_there && is_known {
        look(config, &tables, gone, options, &mut removal).await?;
    }
    if !removal.is_drained() {
        let of_gone = |watermark: &Watermark| watermark.origin == gone.name;
        let stay = tables.iter().flat_map(|table| &table.replicas).filter(|of| of.region.name != gone.name);
        removal.watermarks = watermarks_at(stay).await?.into_iter().filter(of_gone).collect();
    }
    Ok((removal, tables))
}

/// Whether any other region has rows about the region.
async fn is_known(
    tables: &[TableReplicas],
    others: &BTreeMap<Origin, Region>,
    gone: &Origin,
) -> Result<bool, OperateError> {
    let names = names(tables);
    let mut is_known = false;
    for region in others.values() {
        let spaces = spaces(region, tables).await?;
        let told = ControlTable::of(region).knows(gone, &names, &spaces).await;
        is_known |= told.map_err(|fault| OperateError::at(region, &region.control_table, fault))?;
    }
    Ok(is_known)
}

/// Removes the rows about the region from the others' control tables and then, if it still exists, its own;
/// returns how many, by region.
async fn remove_rows(
    tables: &[TableReplicas],
    others: &BTreeMap<Origin, Region>,
    gone: &Origin,
    still_there: Option<&Region>,
) -> Result<BTreeMap<Origin, usize>, OperateError> {
    let (names, mut removed) = (names(tables), BTreeMap::new());
    for region in others.values() {
        let spaces = spaces(region, tables).await?;
        let rows = ControlTable::of(region).forget_region(gone, &names, &spaces).await;
        let rows = rows.map_err(|fault| OperateError::at(region, &region.control_table, fault))?;
        removed.insert(region.name.clone(), rows);
    }
    // Last, once no other region knows it.
    if let Some(region) = still_there {
        let spaces = spaces(region, tables).await?;
        let rows = ControlTable::of(region).deregister_region(&names, &spaces).await;
        let rows = rows.map_err(|fault| OperateError::at(region, &region.control_table, fault))?;
        removed.insert(region.name.clone(), rows);
    }
    Ok(removed)
}

fn names(tables: &[TableReplicas]) -> Vec<String> {
    tables.iter().map(|table| table.name().to_owned()).collect()
}

/// The agents that would still write to the region. One that does not report this is of an older version.
async fn named_by(
    others: &BTreeMap<Origin, Region>,
    gone: &Origin,
    patience: Patience,
) -> Result<Vec<AgentElsewhere>, OperateError> {
    let beating = elsewhere(others, patience).await?;
    let named_by =
        beating.into_iter().filter(|(_, beat)| beat.regions.is_empty() || beat.regions.contains(gone));
    Ok(named_by.map(|(agent, _)| agent).collect())
}

/// Which of the region's writes are not everywhere, as its agents or else its streams show.
async fn look(
    config: &Config,
    tables: &[TableReplicas],
    gone: &Region,
    options: RemoveOptions,
    removal: &mut Removal,
) -> Result<(), OperateError> {
    let deadline = Instant::now() + options.timeout;
    let control = ControlTable::of(gone);
    for replica in tables.iter().filter_map(|table| table.replica_in(&gone.name)) {
        let table = &replica.table.name;
        let agreement = control.agreement(table).await.map_err(|fault| replica.at_control(fault))?;
        removal.marks += agreement.gaps.len();
        let letters = control.dead_letters(table).await.map_err(|fault| replica.at_control(fault))?;
        removal.dead_letters += letters.len();
        if removal.agents.is_empty() {
            let look = timeout_at(deadline, left(replica, &config.tuning)).await;
            let left = look.unwrap_or_else(|_| {
                let message = format!("its stream could not be read within {} s", options.timeout.as_secs());
                Err(Fault::new(FaultKind::Unreachable, message))
            });
            removal.left.push(match left {
                Ok(left) => left,
                Err(fault) if options.force => {
                    warn!(region = %gone.name, table, %fault, "can't find out what is left");
                    Left { table: table.clone(), writes: 0, unknown: true }
                }
                Err(fault) => return Err(OperateError::at(gone, table, fault)),
            });
        }
    }
    if !removal.agents.is_empty() {
        let origins = tables.iter().filter_map(|table| table.replica_in(&gone.name));
        let peers: BTreeSet<Origin> = tables.iter().flat_map(TableReplicas::regions).collect();
        let peers: Vec<Origin> = peers.into_iter().filter(|region| *region != gone.name).collect();
        removal.arrivals = wait(origins, &peers, deadline, |_| {}).await?;
    }
    Ok(())
}

/// Marks the tables: one region may have what another lacks, so the replicas must be compared.
async fn mark(tables: &[TableReplicas], removal: &Removal) -> Result<(), OperateError> {
    for table in tables {
        let stay: Vec<&PhysicalReplica> =
            table.replicas.iter().filter(|replica| replica.region.name != removal.region).collect();
        let [first, _, ..] = stay[..] else { continue };
        let promised = removal.watermarks.iter().filter(|watermark| watermark.table == table.name());
        let from_millis = promised.map(|watermark| watermark.millis.unwrap_or_default()).min();
        let gap = Gap {
            origin: removal.region.clone(),
            shard: "removed".to_owned(),
            cause: Cause::Trimmed,
            peers: stay.iter().map(|replica| replica.region.name.clone()).collect(),
            feeds: Vec::new(),
            from_millis: from_millis.unwrap_or_default(),
            until_millis: wall_millis(),
            found_millis: wall_millis(),
        };
        let control = first.control();
        let saved = in_time(ANSWER, "no answer", control.save_gap(table.name(), &gap)).await;
        saved.map_err(|fault| first.at_control(fault))?;
    }
    Ok(())
}

/// The lease spaces in a region of those of the tables' streams that exist.
async fn spaces(region: &Region, tables: &[TableReplicas]) -> Result<Vec<String>, OperateError> {
    let mut spaces = Vec::new();
    for replica in tables.iter().filter_map(|table| table.replica_in(&region.name)) {
        let table = &replica.table.name;
        let known = replica.control().table_streams(table).await;
        let known = known.map_err(|fault| replica.at_control(fault))?;
        spaces.extend(known.iter().map(|stream| lease_space(table, &stream.arn)));
        match replica.describe().await {
            Ok(described) => {
                if let StreamState::On { arn } = described.stream {
                    spaces.push(lease_space(table, &arn));
                    spaces.dedup();
                }
            }
            Err(fault) if fault.kind == FaultKind::Missing => {}
            Err(fault) => return Err(replica.at(fault)),
        }
    }
    Ok(spaces)
}
