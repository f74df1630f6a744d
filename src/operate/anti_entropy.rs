//! Compares replicas now and then, at a low rate, while an agent runs; and fixes what differs.
//!
//! A table's first region does this, by the agent whose name comes first. No agent has to be sure of being
//! the only one: a comparison changes nothing, and of two repairs one is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use super::agents::{Patience, running};
use super::{Options, SeedChange, SeedOptions, TableVerdict, repair, tables, verify};
use crate::config::{AntiEntropy, Config, Repair, TableConfig};
use crate::control::{AgentId, ControlTable};
use crate::fault::Fault;
use crate::protocol::Origin;
use crate::region::Region;

/// How often, at most, it is checked whether a table is due.
const LOOK: Duration = Duration::from_mins(1);
/// How long a marked table waits for its next comparison, at most: something was lost.
const MARKED: Duration = Duration::from_hours(1);
/// How long the agents may take to confirm that everything written is everywhere.
const PATIENCE: Duration = Duration::from_mins(10);
const MEMORY: usize = 64 * 1024 * 1024;

/// Compares the tables whose first region is an agent's, for as long as it is polled; does nothing if the
/// configuration does not ask for it.
pub async fn anti_entropy(config: Config, regions: BTreeMap<Origin, Region>, home: Region, me: AgentId) {
    let Some(rules) = &config.anti_entropy else { return };
    let look = LOOK.min(rules.every / 2);
    let mut looks = tokio::time::interval_at(Instant::now() + look, look);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let tables = match tables(&config, &regions).await {
            Ok(tables) => tables,
            Err(error) => {
                debug!(region = %home.name, %error, "can't look for tables to compare");
                continue;
            }
        };
        for table in tables.iter().map(|table| &*table.config).filter(|table| is_first(table, &home.name)) {
            match is_due(&config, rules, table, &home, &me).await {
                Ok(true) => Box::pin(see_to(&config, rules, table, &regions, &home)).await,
                Ok(false) => {}
                Err(fault) => {
                    debug!(region = %home.name, table = table.name, %fault, "can't read when it was last compared");
                }
            }
        }
    }
}

fn is_first(table: &TableConfig, region: &Origin) -> bool {
    table.replicas.first().is_some_and(|(first, _)| first == region)
}

async fn is_due(
    config: &Config,
    rules: &AntiEntropy,
    table: &TableConfig,
    home: &Region,
    me: &AgentId,
) -> Result<bool, Fault> {
    let agreement = ControlTable::of(home).agreement(&table.name).await?;
    let every = if agreement.gaps.is_empty() { rules.every } else { rules.every.min(MARKED) };
    if agreement.verified.is_some_and(|verified| verified.age() < every) {
        return Ok(false);
    }
    let running = running(home, Patience::with_running(config.tuning.lease_duration)).await?;
    Ok(running.keys().next() == Some(me))
}

/// Compares one table; if it differs, fixes that and compares it again.
async fn see_to(
    config: &Config,
    rules: &AntiEntropy,
    table: &TableConfig,
    regions: &BTreeMap<Origin, Region>,
    home: &Region,
) {
    // Exactly this table, and no pattern that finds more.
    let alone = Config { tables: vec![table.clone()], patterns: Vec::new(), ..config.clone() };
    let (region, name) = (&home.name, &table.name);
    let Some(verdict) = compared(&alone, rules, regions, region).await else { return };
    if verdict.items_differing == 0 || rules.repair == Repair::Nothing {
        return;
    }
    let options = SeedOptions {
        segments: 1,
        read_units: Some(rules.read_units),
        write_units: Some(rules.write_units),
        memory: MEMORY,
        patience: PATIENCE,
        leave: if rules.repair == Repair::All {
            Vec::new()
        } else {
            vec![SeedChange::Added, SeedChange::Clash]
        },
        ..SeedOptions::default()
    };
    match repair(&alone, regions, &options, &mut |_| {}).await {
        Ok(seeded) => {
            let copies: u64 = seeded.iter().flat_map(|of| of.seeded.values()).sum();
            let failed: u64 = seeded.iter().map(|of| of.failed).sum();
            info!(%region, table = name, copies, failed, "anti-entropy: fixed what its rules allow");
            if copies > 0 {
                compared(&alone, rules, regions, region).await;
            }
        }
        Err(error) => {
            warn!(%region, table = name, %error, "anti-entropy: can't fix what differs now");
        }
    }
}

/// The result of comparing a table, which is also stored in the control tables.
async fn compared(
    alone: &Config,
    rules: &AntiEntropy,
    regions: &BTreeMap<Origin, Region>,
    region: &Origin,
) -> Option<TableVerdict> {
    let options = Options {
        segments: 1,
        settle: Duration::from_secs(10),
        limit: 0,
        read_units: Some(rules.read_units),
        memory: MEMORY,
    };
    match verify(alone, regions, options, &mut ()).await {
        Ok(verification) => {
            let verdict = verification.tables.into_iter().next()?;
            let TableVerdict { table, items_compared: compared, items_differing: differing, .. } = &verdict;
            if *differing > 0 {
                warn!(%region, table, compared, differing, "anti-entropy: replicas differ: see `tradewind verify`");
            } else {
                info!(%region, table, compared, "anti-entropy: the replicas agree");
            }
            Some(verdict)
        }
        Err(error) => {
            warn!(%region, %error, "anti-entropy: can't compare the replicas now");
            None
        }
    }
}
