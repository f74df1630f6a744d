//! Which setup a table's rows belong to: a setup is a region's name, the table there, and the regions that it
//! is replicated between. Two setups in one control table would mistake each other's positions and promises
//! for their own.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;

use super::condition::held;
use super::{ControlTable, Held, PK, Row, SK, read_text, table_stream, text};
use crate::config::TableConfig;
use crate::fault::Fault;
use crate::protocol::Origin;

/// What identifies a setup, for one table in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    pub region: Origin,
    /// The table's name in the region.
    pub table: String,
    pub regions: BTreeSet<Origin>,
}

impl Setup {
    /// For a table that has a replica in the region.
    pub fn of(table: &TableConfig, region: &Origin) -> Self {
        let physical = table.name_in(region).unwrap_or(&table.name).to_owned();
        let regions = table.replicas.iter().map(|(name, _)| name.clone()).collect();
        Self { region: region.clone(), table: physical, regions }
    }

    /// Whether one may have become the other: regions are added or removed, but not exchanged in one step.
    fn may_become(&self, other: &Self) -> bool {
        let Self { region, table, regions } = self;
        (region, table) == (&other.region, &other.table)
            && (regions.is_subset(&other.regions) || regions.is_superset(&other.regions))
    }
}

const SETUP: &str = "setup";
const REGION: &str = "region";
const TABLE: &str = "tableName";
const REGIONS: &str = "regions";

impl ControlTable {
    /// The reason why this setup must not use the rows of a table: they belong to another setup.
    pub async fn belongs_elsewhere(&self, table: &str, setup: &Setup) -> Result<Option<String>, Fault> {
        let found = self.setup(table).await?;
        Ok(found.filter(|found| !found.may_become(setup)).map(|found| self.reason(table, &found)))
    }

    /// Claims the rows of a table for a setup, unless they belong to another one. Returns the reason in that
    /// case.
    pub async fn claim(&self, table: &str, setup: &Setup) -> Result<Option<String>, Fault> {
        let found = self.setup(table).await?;
        match found {
            Some(found) if found == *setup => return Ok(None),
            Some(found) if !found.may_become(setup) => return Ok(Some(self.reason(table, &found))),
            _ => {}
        }
        let regions = setup.regions.iter().map(|region| text(region.as_str())).collect();
        let put = self.client.put_item().table_name(&self.name).set_item(Some(Row::from([
            (PK.to_owned(), text(table_stream::pk(table))),
            (SK.to_owned(), text(SETUP)),
            (REGION.to_owned(), text(setup.region.as_str())),
            (TABLE.to_owned(), text(&setup.table)),
            (REGIONS.to_owned(), AttributeValue::L(regions)),
        ])));
        let put = put
            .condition_expression("attribute_not_exists(#pk) OR (#region = :region AND #table = :table)")
            .expression_attribute_names("#pk", PK)
            .expression_attribute_names("#region", REGION)
            .expression_attribute_names("#table", TABLE)
            .expression_attribute_values(":region", text(setup.region.as_str()))
            .expression_attribute_values(":table", text(&setup.table));
        match held(put.send().await)? {
            Held::Yes => Ok(None),
            // Another setup came first.
            Held::No => self.belongs_elsewhere(table, setup).await,
        }
    }

    async fn setup(&self, table: &str) -> Result<Option<Setup>, Fault> {
        Ok(self.rows(&table_stream::pk(table)).await?.iter().find_map(read))
    }

    fn reason(&self, table: &str, found: &Setup) -> String {
        let Setup { region, table: physical, regions } = found;
        let regions = regions.iter().map(Origin::as_str).collect::<Vec<_>>().join(", ");
        let (control, pk) = (&self.name, table_stream::pk(table));
        format!(
            "by the control table {control}, another setup replicates {table} here: {physical}, as {region}, \
             between {regions}. \
             In one control table each would mistake the other's positions and promises for its own. Give \
             one of them a control table of its own (`control_table` in regions.toml), or put all regions into one \
             file. If it is the same setup and its regions have changed, change one thing at a time: start agents \
             with a file that has the old regions and the new ones, then with one that lacks the old. If it is no \
             more, remove the row {SETUP:?} of {pk:?} from {control}"
        )
    }
}

pub(super) fn read(row: &Row) -> Option<Setup> {
    if read_text(row, SK)? != SETUP {
        return None;
    }
    let regions = row.get(REGIONS)?.as_l().ok()?.iter();
    Some(Setup {
        region: read_text(row, REGION)?.parse().ok()?,
        table: read_text(row, TABLE)?.to_owned(),
        regions: regions.filter_map(|region| region.as_s().ok()?.parse().ok()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_come_and_go_but_are_not_exchanged() {
        let setup = |region: &str, table: &str, regions: &str| Setup {
            region: region.parse().expect("a name"),
            table: table.to_owned(),
            regions: regions.split(' ').map(|name| name.parse().expect("a name")).collect(),
        };
        let ours = setup("b", "orders", "a b");
        for (other, may) in [
            (setup("b", "orders", "a b"), true),
            (setup("b", "orders", "a b c"), true),
            (setup("b", "orders", "b"), true),
            (setup("b", "orders", "b c"), false),
            (setup("b", "orders-test", "a b"), false),
            (setup("bee", "orders", "a b"), false),
        ] {
            assert_eq!(ours.may_become(&other), may, "{other:?}");
            assert_eq!(other.may_become(&ours), may, "{other:?}");
        }
    }
}
