//! Finds the tables that match the configuration's patterns.

use std::collections::BTreeMap;

use crate::config::{Config, TableConfig};
use crate::fault::Fault;
use crate::protocol::Origin;
use crate::region::Region;

/// The tables of a region that a pattern selects for replication there, by name.
pub async fn find(config: &Config, region: &Region) -> Result<BTreeMap<String, TableConfig>, Fault> {
    let mut found = BTreeMap::new();
    let mut last = None;
    loop {
        let page = region.tables.list_tables().set_exclusive_start_table_name(last).send().await?;
        for name in page.table_names.unwrap_or_default() {
            if let Some(table) = config.found(&name).filter(|table| table.is_in(&region.name)) {
                found.insert(name, table);
            }
        }
        last = page.last_evaluated_table_name;
        if last.is_none() {
            return Ok(found);
        }
    }
}

/// The text of the first pattern that a region's tables may match; `None` if it has none.
pub fn pattern_in(config: &Config, region: &Origin) -> Option<String> {
    let entry = config.patterns.iter().find(|entry| entry.regions.contains(region))?;
    Some(entry.pattern.to_string())
}
