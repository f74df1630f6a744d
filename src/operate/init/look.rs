//! What exists.

use aws_sdk_dynamodb::types::TimeToLiveStatus;

use crate::config::Config;
use crate::control::{PK, SK, Setup};
use crate::fault::FaultKind;
use crate::operate::{OperateError, PhysicalReplica, TableReplicas};
use crate::protocol::Origin;
use crate::region::Region;
use crate::schema::{Described, StreamState, describe};

/// What one of Tradewind's own tables is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Control,
    Conflicts,
}

/// One of Tradewind's own tables, as it is now.
pub(super) struct OwnTable {
    pub(super) region: Origin,
    pub(super) name: String,
    pub(super) own: Own,
    /// None if there is no table of that name.
    pub(super) found: Option<Described>,
    /// The attribute by which its rows expire; not looked up for a table that is not Tradewind's.
    pub(super) ttl: Option<String>,
}

/// The replicas of a table, as they are now, in the order of the file.
pub(super) struct Replicas {
    pub(super) replicas: Vec<Replica>,
    /// The attribute by which the first one's items expire; looked up only if others are to be created like
    /// it.
    pub(super) ttl: Option<String>,
}

pub(super) struct Replica {
    pub(super) region: Origin,
    pub(super) name: String,
    pub(super) found: Option<Described>,
    /// Why its stream does not suffice, if it lacks images that are needed.
    pub(super) lacks: Option<String>,
    /// Why its rows in the control table belong to another setup, if they do.
    pub(super) elsewhere: Option<String>,
}

impl OwnTable {
    pub(super) async fn look(region: &Region, own: Own) -> Result<Self, OperateError> {
        let name = match own {
            Own::Control => &region.control_table,
            Own::Conflicts => &region.conflict_table,
        };
        let found = look(region, name).await?;
        let ttl = match &found {
            Some(found) if has_own_keys(found) => ttl_attribute(region, name).await?,
            _ => None,
        };
        Ok(Self { region: region.name.clone(), name: name.clone(), own, found, ttl })
    }
}

/// Whether a table has the keys of Tradewind's own ones.
pub(super) fn has_own_keys(table: &Described) -> bool {
    table.key_schema.names().eq([PK, SK])
}

impl Replicas {
    pub(super) async fn look(
        config: &Config,
        table: &TableReplicas,
        create_tables: bool,
    ) -> Result<Self, OperateError> {
        let mut replicas = Vec::new();
        for replica in &table.replicas {
            replicas.push(Replica::look(config, replica).await?);
        }
        let first = table.replicas.iter().zip(&replicas).find(|(_, seen)| seen.found.is_some());
        let is_one_missing = replicas.iter().any(|replica| replica.found.is_none());
        let ttl = match first {
            Some((first, _)) if create_tables && is_one_missing => {
                ttl_attribute(&first.region, &first.name).await?
            }
            _ => None,
        };
        Ok(Self { replicas, ttl })
    }
}

impl Replica {
    async fn look(config: &Config, replica: &PhysicalReplica) -> Result<Self, OperateError> {
        let PhysicalReplica { table, region, name } = replica;
        let found = look(region, name).await?;
        let lacks = match found.as_ref().map(|found| &found.stream) {
            Some(StreamState::Partial { view, .. }) => config.lacks(table, *view),
            _ => None,
        };
        let mut elsewhere = None;
        if found.is_some() {
            let setup = Setup::of(table, &region.name);
            elsewhere = match replica.control().belongs_elsewhere(&table.name, &setup).await {
                Ok(reason) => reason,
                // The control table is about to be created or corrected.
                Err(fault) if matches!(fault.kind, FaultKind::Missing | FaultKind::Invalid) => None,
                Err(fault) => return Err(replica.at_control(fault)),
            };
        }
        Ok(Self { region: region.name.clone(), name: name.clone(), found, lacks, elsewhere })
    }
}

/// Describes a table, if it exists.
async fn look(region: &Region, table: &str) -> Result<Option<Described>, OperateError> {
    match describe(region, table).await {
        Ok(described) => Ok(Some(described)),
        Err(fault) if fault.kind == FaultKind::Missing => Ok(None),
        Err(fault) => Err(OperateError::at(region, table, fault)),
    }
}

async fn ttl_attribute(region: &Region, table: &str) -> Result<Option<String>, OperateError> {
    let answer = region.tables.describe_time_to_live().table_name(table).send().await;
    let described = answer.map_err(|error| OperateError::at(region, table, error))?.time_to_live_description;
    Ok(described
        .filter(|ttl| {
            matches!(ttl.time_to_live_status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling))
        })
        .and_then(|ttl| ttl.attribute_name))
}
