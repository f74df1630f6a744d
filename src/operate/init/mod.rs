//! Prepares the replicas: creates what is missing, and reports what does not fit, with its fix.
//!
//! | file | subject |
//! | --- | --- |
//! | `look` | what exists |
//! | `plan` | the steps from what exists to what is needed, and what no step can fix |
//! | `make` | carries out the steps |

mod look;
mod make;
mod plan;

use std::collections::BTreeMap;
use std::fmt;

use aws_sdk_dynamodb::types::TableDescription;
use serde::Serialize;

use self::look::{Own, OwnTable, Replicas};
use super::OperateError;
use super::replicas::client;
use crate::config::Config;
use crate::protocol::Origin;
use crate::region::Region;

pub(super) use make::is_on_demand;

/// What must be done before agents can run.
#[derive(Debug, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What a person has to fix first; with any, no step is carried out.
    pub problems: Vec<Problem>,
}

/// One change.
#[derive(Debug, Serialize)]
pub struct Step {
    pub region: Origin,
    pub table: String,
    pub change: Change,
}

/// What changes in a table.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    CreateControlTable,
    CreateConflictTable,
    /// Created like the replica in another region.
    CreateTable(Box<Model>),
    EnableStream,
    EnableTtl(String),
}

/// The model of a new replica.
#[derive(Debug, Serialize)]
pub struct Model {
    like: Origin,
    #[serde(skip)]
    table: TableDescription,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, table, change } = self;
        match change {
            Change::CreateControlTable => write!(f, "{region}: create the control table {table}"),
            Change::CreateConflictTable => write!(f, "{region}: create the conflict table {table}"),
            Change::CreateTable(model) => {
                write!(f, "{region}: create the table {table} like the one in {}", model.like)
            }
            Change::EnableStream => {
                write!(f, "{region}: turn on the stream of {table}, with NEW_AND_OLD_IMAGES")
            }
            Change::EnableTtl(attribute) => {
                write!(f, "{region}: turn on time to live of {table}, by {attribute}")
            }
        }
    }
}

/// What prevents a table from being replicated, and the fix.
#[derive(Debug, Serialize)]
pub struct Problem {
    pub region: Origin,
    pub table: String,
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}, table {}: {}", self.region, self.table, self.problem)
    }
}

impl Plan {
    /// Checks every replica and control table; changes nothing.
    pub async fn make(
        config: &Config,
        regions: &BTreeMap<Origin, Region>,
        create_tables: bool,
    ) -> Result<Self, OperateError> {
        let (mut own_tables, mut tables) = (Vec::new(), Vec::new());
        for region in &config.regions {
            let region = client(regions, &region.name, &region.control_table)?;
            own_tables.push(OwnTable::look(region, Own::Control).await?);
            if config.records_conflicts_in(&region.name) {
                own_tables.push(OwnTable::look(region, Own::Conflicts).await?);
            }
        }
        for table in &super::tables(config, regions).await? {
            tables.push(Replicas::look(config, table, create_tables).await?);
        }
        Ok(Self::of(&own_tables, &tables, create_tables))
    }
}
