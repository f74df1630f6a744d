//! Removes a region from replication: nothing is removed before all that was written there is
//! everywhere, and neither its agents run nor any agent elsewhere would write to it.
//!
//! It leaves the region's items as they are. The command is run several times: it says what a person
//! has to do next.
//!
//! The order is what keeps it safe. As long as agents elsewhere have the region in their
//! configuration, they forget no key that it has not passed; so its writes are drained first, its
//! agents stopped second, and only then do the others drop it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use super::agents::{AgentElsewhere, elsewhere, running};
use super::left::{Left, left};
use super::{Arrival, OperateError, Watermark, wait, watermarks};
use crate::clock::wall_millis;
use crate::config::{Config, TableConfig};
use crate::control::{Cause, ControlTable, Gap, lease_space};
use crate::fault::{Fault, FaultKind};
use crate::protocol::Origin;
use crate::region::Region;
use crate::schema::{StreamState, describe};

/// How long a region may take to answer before it counts as out of reach.
const ANSWER: Duration = Duration::from_secs(10);

/// How a region is removed.
#[derive(Clone, Copy, Debug)]
pub struct RemoveOptions {
    /// Though something is left that is not everywhere, or can't be known to be.
    pub force: bool,
    /// Nothing is changed.
    pub dry_run: bool,
    /// How long draining may take.
    pub timeout: Duration,
}

/// Where the removal of a region stands.
#[derive(Debug, Serialize)]
pub struct Removal {
    pub region: Origin,
    /// Its rows are gone.
    pub removed: bool,
    /// Why the region does not answer, if it does not.
    pub unreachable: Option<String>,
    /// The agents of the region that run.
    pub agents: Vec<String>,
    /// The agents of other regions whose configuration names it.
    pub named_by: Vec<AgentElsewhere>,
    /// While its agents run: how far what was written before the call has got.
    pub arrivals: Vec<Arrival>,
    /// While none runs: what its streams hold that is not everywhere.
    pub left: Vec<Left>,
    /// The marks of its tables: writes of the region that may be missing at peers.
    pub marks: usize,
    /// Its writes that a peer could not take.
    pub dead_letters: usize,
    /// Where something is left: up to when each other region has what was written there.
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

/// Removes a region as far as that can be done now.
pub async fn remove(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    gone: &Region,
    options: RemoveOptions,
) -> Result<Removal, OperateError> {
    let lease_duration = config.tuning.lease_duration;
    let mut others: BTreeMap<Origin, Region> = regions.clone();
    others.remove(&gone.name);
    let mut removal = Removal {
        region: gone.name.clone(),
        removed: false,
        unreachable: None,
        agents: Vec::new(),
        named_by: named_by(&others, &gone.name, lease_duration).await?,
        arrivals: Vec::new(),
        left: Vec::new(),
        marks: 0,
        dead_letters: 0,
        watermarks: Vec::new(),
        rows: BTreeMap::new(),
    };
    match running(gone, lease_duration).await {
        Ok(agents) => removal.agents = agents.keys().map(ToString::to_string).collect(),
        Err(fault) if options.force => removal.unreachable = Some(fault.to_string()),
        Err(fault) => return Err(OperateError::at(gone, &gone.control_table, fault)),
    }
    let is_there = removal.unreachable.is_none();
    let mut tables = super::tables(config, if is_there { regions } else { &others }).await?;
    tables.retain(|table| table.is_in(&gone.name));
    let names: Vec<String> = tables.iter().map(|table| table.name.clone()).collect();
    let mut known = !removal.agents.is_empty();
    for region in others.values() {
        let spaces = spaces(region, &tables).await?;
        let told = ControlTable::of(region).knows(&gone.name, &names, &spaces).await;
        known |= told.map_err(|fault| OperateError::at(region, &region.control_table, fault))?;
    }
    // Where no other region knows it any more, its removal was begun before: its own leases, which say
    // what has been replicated, may be gone.
    if is_there && known {
        look(config, &tables, gone, options, &mut removal).await?;
    }
    if !removal.is_drained() {
        let of_gone = |watermark: &Watermark| watermark.origin == gone.name;
        removal.watermarks = watermarks(&tables, &others).await?.into_iter().filter(of_gone).collect();
    }
    if options.dry_run || !removal.is_ready(options.force) {
        return Ok(removal);
    }
    if !removal.is_drained() {
        mark(&tables, &others, &removal).await?;
    }
    for region in others.values() {
        let spaces = spaces(region, &tables).await?;
        let rows = ControlTable::of(region).forget_region(&gone.name, &names, &spaces).await;
        let rows = rows.map_err(|fault| OperateError::at(region, &region.control_table, fault))?;
        removal.rows.insert(region.name.clone(), rows);
    }
    // Last, once nobody else knows it.
    if is_there {
        let spaces = spaces(gone, &tables).await?;
        let rows = ControlTable::of(gone).take_leave(&names, &spaces).await;
        let rows = rows.map_err(|fault| OperateError::at(gone, &gone.control_table, fault))?;
        removal.rows.insert(gone.name.clone(), rows);
    }
    removal.removed = true;
    Ok(removal)
}

/// The agents that would still write to the region. One that does not say is of an older version.
async fn named_by(
    others: &BTreeMap<Origin, Region>,
    gone: &Origin,
    lease_duration: Duration,
) -> Result<Vec<AgentElsewhere>, OperateError> {
    let beating = elsewhere(others, lease_duration).await?;
    let named_by =
        beating.into_iter().filter(|(_, beat)| beat.regions.is_empty() || beat.regions.contains(gone));
    Ok(named_by.map(|(agent, _)| agent).collect())
}

/// What of the region's writes is not everywhere: its agents say so, or else its streams.
async fn look(
    config: &Config,
    tables: &[TableConfig],
    gone: &Region,
    options: RemoveOptions,
    removal: &mut Removal,
) -> Result<(), OperateError> {
    let deadline = Instant::now() + options.timeout;
    let control = ControlTable::of(gone);
    let at = |table: &str, fault: Fault| OperateError::at(gone, table, fault);
    let mut waits = JoinSet::new();
    for table in tables {
        let agreement =
            control.agreement(&table.name).await.map_err(|fault| at(&gone.control_table, fault))?;
        removal.marks += agreement.gaps.len();
        let letters =
            control.dead_letters(&table.name).await.map_err(|fault| at(&gone.control_table, fault))?;
        removal.dead_letters += letters.len();
        if removal.agents.is_empty() {
            let look = timeout_at(deadline, left(gone, table, &config.tuning)).await;
            let left = look.unwrap_or_else(|_| {
                let message = format!("its stream could not be read within {} s", options.timeout.as_secs());
                Err(Fault { kind: FaultKind::Unreachable, code: String::new(), message })
            });
            removal.left.push(match left {
                Ok(left) => left,
                Err(fault) if options.force => {
                    warn!(region = %gone.name, table = table.name, %fault, "what is left can't be known");
                    Left { table: table.name.clone(), writes: 0, unknown: true }
                }
                Err(fault) => return Err(at(&table.name, fault)),
            });
        } else {
            let (table, gone) = (table.clone(), gone.clone());
            let peers: Vec<Origin> = table.replicas.iter().map(|(name, _)| name.clone()).collect();
            let peers: Vec<Origin> = peers.into_iter().filter(|name| *name != gone.name).collect();
            waits.spawn(async move { wait(&table, &gone, &peers, deadline).await });
        }
    }
    while let Some(arrivals) = waits.join_next().await {
        let arrivals = arrivals.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        removal.arrivals.extend(arrivals?);
    }
    removal.arrivals.sort_by(|a, b| (&a.table, &a.peer).cmp(&(&b.table, &b.peer)));
    Ok(())
}

/// Where one region may have got what another has not, the replicas are to be compared.
async fn mark(
    tables: &[TableConfig],
    others: &BTreeMap<Origin, Region>,
    removal: &Removal,
) -> Result<(), OperateError> {
    for table in tables {
        let peers: Vec<Origin> = table
            .replicas
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| others.contains_key(name))
            .collect();
        let Some(region) = peers.first().and_then(|name| others.get(name)).filter(|_| peers.len() > 1) else {
            continue;
        };
        let promised = removal.watermarks.iter().filter(|watermark| watermark.table == table.name);
        let from_millis = promised.map(|watermark| watermark.millis.unwrap_or_default()).min();
        let gap = Gap {
            origin: removal.region.clone(),
            shard: "removed".to_owned(),
            cause: Cause::Trimmed,
            peers,
            from_millis: from_millis.unwrap_or_default(),
            until_millis: wall_millis(),
            found_millis: wall_millis(),
        };
        let saved = timeout(ANSWER, ControlTable::of(region).save_gap(&table.name, &gap)).await;
        let saved = saved.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", ANSWER.as_secs());
            Err(Fault { kind: FaultKind::Unreachable, code: String::new(), message })
        });
        saved.map_err(|fault| OperateError::at(region, &region.control_table, fault))?;
    }
    Ok(())
}

/// Where the leases of the tables' streams are kept in a region, of those that are there.
async fn spaces(region: &Region, tables: &[TableConfig]) -> Result<Vec<String>, OperateError> {
    let mut spaces = Vec::new();
    for table in tables {
        let Some(physical) = table.name_in(&region.name) else { continue };
        let known = ControlTable::of(region).table_streams(&table.name).await;
        let known = known.map_err(|fault| OperateError::at(region, &region.control_table, fault))?;
        spaces.extend(known.iter().map(|stream| lease_space(&table.name, &stream.arn)));
        match describe(region, physical).await {
            Ok(described) => {
                if let StreamState::On { arn } = described.stream {
                    spaces.push(lease_space(&table.name, &arn));
                    spaces.dedup();
                }
            }
            Err(fault) if fault.kind == FaultKind::Missing => {}
            Err(fault) => return Err(OperateError::at(region, physical, fault)),
        }
    }
    Ok(spaces)
}
