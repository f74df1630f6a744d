//! The regions and tables that a command applies to.

use std::collections::BTreeMap;

use clap::Args;

use super::{ConfigFile, Exit, Failure};
use crate::config::Config;
use crate::operate::{TableReplicas, named_tables};
use crate::protocol::Origin;
use crate::region::Region;

#[derive(Debug, Args)]
pub(super) struct Chosen {
    #[command(flatten)]
    config: ConfigFile,
    /// Only what this region keeps; may be repeated. Default: all.
    #[arg(long, value_name = "NAME")]
    region: Vec<String>,
    /// Only this table; may be repeated. Default: all.
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
}

/// The same, resolved to the tables' replicas.
pub(super) struct Reached {
    pub(super) config: Config,
    pub(super) tables: Vec<TableReplicas>,
    chosen: Vec<Origin>,
}

impl Chosen {
    /// All regions and tables.
    pub(super) fn all(config: ConfigFile) -> Self {
        Self { config, region: Vec::new(), table: Vec::new() }
    }

    pub(super) async fn reach(&self) -> Result<Reached, Failure> {
        let config = self.config.load()?;
        let chosen = self.region.iter().map(|name| known(&config, name)).collect::<Result<Vec<_>, _>>()?;
        let regions = Region::connect_all(&config).await?;
        let tables = named_tables(&config, &regions, &self.table).await?;
        Ok(Reached { config, tables, chosen })
    }
}

impl Reached {
    /// Whether a region is one of the chosen ones.
    pub(super) fn has(&self, region: &Origin) -> bool {
        self.chosen.is_empty() || self.chosen.contains(region)
    }
}

/// A region that has been connected to.
pub(super) fn connected<'a>(
    regions: &'a BTreeMap<Origin, Region>,
    name: &Origin,
) -> Result<&'a Region, Failure> {
    regions.get(name).ok_or_else(|| Failure::internal("a region without a client"))
}

/// The region with this name, or else a usage error.
pub(super) fn known(config: &Config, name: &str) -> Result<Origin, Failure> {
    config.region(name).map(|region| region.name.clone()).ok_or_else(|| {
        let names: Vec<_> = config.regions.iter().map(|region| region.name.as_str()).collect();
        Failure::new(
            Exit::Usage,
            format!("no region {name:?} in the configuration; there are: {}", names.join(", ")),
        )
    })
}
