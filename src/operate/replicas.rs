//! One table of the configuration, with its replica in each of its regions.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::OperateError;
use crate::config::TableConfig;
use crate::control::ControlTable;
use crate::fault::{Fault, FaultKind};
use crate::protocol::Origin;
use crate::region::Region;
use crate::schema::{Described, StreamState, describe};

/// A table, with the replicas that the configuration gives it, in the order of the file. None is left out: a
/// command that skipped a region would appear to have done everything.
#[derive(Clone, Debug)]
pub struct TableReplicas {
    pub(crate) config: Arc<TableConfig>,
    pub(super) replicas: Vec<PhysicalReplica>,
}

/// A table in one region.
#[derive(Clone, Debug)]
pub struct PhysicalReplica {
    pub(super) table: Arc<TableConfig>,
    pub(super) region: Region,
    /// The table's name there.
    pub(super) name: String,
}

impl TableReplicas {
    /// Resolves a table of the configuration; fails if a region of it has no client.
    pub fn of(config: TableConfig, regions: &BTreeMap<Origin, Region>) -> Result<Self, OperateError> {
        let config = Arc::new(config);
        let replica = |(region, name): &(Origin, String)| {
            let (region, name) = (client(regions, region, name)?.clone(), name.clone());
            Ok(PhysicalReplica { table: Arc::clone(&config), region, name })
        };
        let replicas = config.replicas.iter().map(replica).collect::<Result<_, OperateError>>()?;
        Ok(Self { config, replicas })
    }

    /// The table's name in the file.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The replica of a region, if it has one.
    pub fn replica_in(&self, region: &Origin) -> Option<&PhysicalReplica> {
        self.replicas.iter().find(|replica| replica.region.name == *region)
    }

    pub(super) fn is_in(&self, region: &Origin) -> bool {
        self.replica_in(region).is_some()
    }

    /// The regions that have a replica.
    pub(super) fn regions(&self) -> Vec<Origin> {
        self.replicas.iter().map(|replica| replica.region.name.clone()).collect()
    }
}

impl PhysicalReplica {
    pub(super) fn control(&self) -> ControlTable {
        ControlTable::of(&self.region)
    }

    /// The regions that have the other replicas.
    pub fn peers(&self) -> Vec<Origin> {
        let names = self.table.replicas.iter().map(|(name, _)| name);
        names.filter(|name| **name != self.region.name).cloned().collect()
    }

    pub(super) async fn describe(&self) -> Result<Described, Fault> {
        describe(&self.region, &self.name).await
    }

    /// Its stream, which must show both images.
    pub(super) async fn stream(&self) -> Result<String, OperateError> {
        let described = self.describe().await.map_err(|fault| self.at(fault))?;
        let StreamState::On { arn } = described.stream else {
            let message = "the table has no stream with both images; `tradewind init` says what to do";
            return Err(self.at(Fault::new(FaultKind::Missing, message)));
        };
        Ok(arn)
    }

    /// A failed call about the table itself.
    pub(super) fn at(&self, fault: impl Into<Fault>) -> OperateError {
        OperateError::at(&self.region, &self.name, fault)
    }

    /// A failed call about its rows in the control table.
    pub(super) fn at_control(&self, fault: impl Into<Fault>) -> OperateError {
        OperateError::at(&self.region, &self.region.control_table, fault)
    }
}

/// The clients of a region of the table.
pub(super) fn client<'a>(
    regions: &'a BTreeMap<Origin, Region>,
    region: &Origin,
    table: &str,
) -> Result<&'a Region, OperateError> {
    regions.get(region).ok_or_else(|| OperateError {
        region: region.clone(),
        table: table.to_owned(),
        fault: Fault::new(FaultKind::Invalid, "there is no client for the region"),
    })
}
