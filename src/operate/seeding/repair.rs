//! Finds keys by comparing all replicas, and settles those that differ.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tokio::time::Instant;

use super::seeder::Seeder;
use super::{HOLD_FOR, SeedError, SeedOptions, SeedPhase, SeedProgress, Seeded};
use crate::config::Config;
use crate::operate::verify::suspects;
use crate::operate::{VerifyError, named_tables};
use crate::protocol::{Item, Origin};
use crate::region::Region;

/// This many keys are settled between two checks of the time.
const KEYS: usize = 10_000;

/// Brings all replicas to the same items, by the versions in their stamps; in all tables.
pub async fn repair(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    options: &SeedOptions,
    audience: &mut (impl FnMut(SeedProgress) + Send),
) -> Result<Vec<Seeded>, SeedError> {
    let mut results = Vec::new();
    for table in &named_tables(config, regions, &options.tables).await? {
        let replicas = super::replicas(config, table, options).await?;
        let seeder = Arc::new(Seeder::new(table, replicas, &config.tuning, options));
        super::told(repair_table(&seeder), &seeder, audience).await?;
        results.push(seeder.result(true));
    }
    Ok(results)
}

async fn repair_table(seeder: &Arc<Seeder>) -> Result<bool, SeedError> {
    let SeedOptions { segments, memory, .. } = seeder.options;
    seeder.enter(SeedPhase::Comparing);
    let (compared, mut found) = suspects(&seeder.table, &seeder.replicas, segments, memory).await?;
    seeder.has_read(usize::try_from(compared).unwrap_or(usize::MAX));
    let entries = found.read().map_err(VerifyError::from)?;
    let mut left = entries.map(|entry| Ok(seeder.replicas[0].key(&entry?.key)));
    loop {
        let mut next = some(&mut left)?;
        if next.is_empty() {
            return Ok(true);
        }
        let hold = seeder.raise().await?;
        let until = Instant::now() + HOLD_FOR;
        while !next.is_empty() {
            let suspects = seeder.find(hold.as_ref(), next, None).await?;
            seeder.settle(hold.as_ref(), suspects).await?;
            next = if Instant::now() < until { some(&mut left)? } else { Vec::new() };
        }
        seeder.release(hold).await?;
    }
}

fn some(left: &mut impl Iterator<Item = io::Result<Item>>) -> Result<Vec<Item>, VerifyError> {
    Ok(left.take(KEYS).collect::<io::Result<_>>()?)
}
