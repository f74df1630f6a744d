//! Finds keys by reading one replica after the other, and can be resumed.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::hold::Hold;
use super::seeder::Seeder;
use super::{HOLD_FOR, SeedError, SeedOptions, SeedProgress, Seeded};
use crate::clock::wall_millis;
use crate::config::Config;
use crate::contained::joined;
use crate::control::{ControlTable, SeededSegment, SegmentPosition};
use crate::operate::scanned::ScannedReplica;
use crate::operate::{OperateError, named_tables};
use crate::protocol::{Item, Origin, Stamp};
use crate::region::Region;

/// This many keys on which regions disagree wait for the agents together, per segment; fewer if their copies
/// would take longer than this many seconds at the requested rate.
const SUSPECTS: usize = 10_000;
const SECONDS: usize = 10;

/// Copies what one region has and another lacks, or has in an older version; in all tables. With `stop`, it
/// ends cleanly where it is.
pub async fn bootstrap(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    options: &SeedOptions,
    stop: watch::Receiver<bool>,
    audience: &mut (impl FnMut(SeedProgress) + Send),
) -> Result<Vec<Seeded>, SeedError> {
    let mut results = Vec::new();
    for table in &named_tables(config, regions, &options.tables).await? {
        if *stop.borrow() {
            break;
        }
        let replicas = super::replicas(config, table, options).await?;
        let seeder = Arc::new(Seeder::new(table, replicas, &config.tuning, options));
        let work = seed_table(&seeder, stop.clone());
        let complete = super::told(work, &seeder, audience).await?;
        results.push(seeder.result(complete));
    }
    Ok(results)
}

/// Returns whether all keys were handled.
async fn seed_table(seeder: &Arc<Seeder>, stop: watch::Receiver<bool>) -> Result<bool, SeedError> {
    let mut segments = segments(seeder).await?;
    loop {
        let hold = seeder.raise().await?;
        if let Some(hold) = &hold {
            segments.iter_mut().filter(|row| row.hold == 0).for_each(|row| row.hold = hold.number);
        }
        let first_hold = segments.iter().map(|row| row.hold).min().unwrap_or_default();
        let until = Instant::now() + HOLD_FOR;
        for source in 0..seeder.replicas.len() {
            let mut reads = JoinSet::new();
            for row in segments.iter().filter(|row| row.source == seeder.replicas[source].region.name) {
                let reading = SegmentReading {
                    seeder: Arc::clone(seeder),
                    hold: hold.clone(),
                    source,
                    first_hold,
                    until,
                    stop: stop.clone(),
                };
                reads.spawn(reading.run(row.clone()));
            }
            while let Some(read) = reads.join_next().await {
                let row = joined(read)?;
                let same =
                    |known: &&mut SeededSegment| (&known.source, known.segment) == (&row.source, row.segment);
                if let Some(known) = segments.iter_mut().find(same) {
                    *known = row;
                }
            }
        }
        let complete = segments.iter().all(|row| row.at == SegmentPosition::End);
        seeder.release(hold).await?;
        if complete && !seeder.options.dry_run {
            forget(seeder, &segments).await?;
        }
        if complete || *stop.borrow() {
            return Ok(complete);
        }
    }
}

/// The segments to read, as an earlier bootstrap left them if it had the same task.
async fn segments(seeder: &Seeder) -> Result<Vec<SeededSegment>, OperateError> {
    let SeedOptions { segments, dry_run, restart, ref to, ref prefer, .. } = seeder.options;
    let names = |names: &[Origin]| names.iter().map(Origin::as_str).collect::<Vec<_>>().join(",");
    let regions: Vec<Origin> = seeder.replicas.iter().map(|replica| replica.region.name.clone()).collect();
    let task = format!("to {} prefer {} among {}", names(to), names(prefer), names(&regions));
    let mut all = Vec::new();
    let mut is_resumed = false;
    for replica in &*seeder.replicas {
        let source = &replica.region.name;
        // What such a region wrote stays there.
        if seeder.table.config.selections.keeps(source) {
            continue;
        }
        let saved = ControlTable::of(&replica.region).seeded_segments(seeder.table.name()).await;
        let saved = saved.map_err(|fault| at_control(replica, fault))?;
        let (fitting, other): (Vec<_>, Vec<_>) =
            saved.into_iter().partition(|row| row.task == task && row.source == *source);
        let is_whole = fitting.first().is_some_and(|row| usize::from(row.segments) == fitting.len());
        if is_whole && !restart && !dry_run {
            is_resumed = true;
            all.extend(fitting);
            continue;
        }
        if !dry_run {
            for row in fitting.iter().chain(&other) {
                let forgotten =
                    ControlTable::of(&replica.region).forget_seeded_segment(seeder.table.name(), row).await;
                forgotten.map_err(|fault| at_control(replica, fault))?;
            }
        }
        all.extend((0..segments).map(|segment| SeededSegment {
            source: source.clone(),
            segment,
            segments,
            task: task.clone(),
            hold: 0,
            at: SegmentPosition::After(None),
        }));
    }
    if is_resumed {
        info!(table = seeder.table.name(), "resuming an earlier bootstrap");
    }
    Ok(all)
}

async fn forget(seeder: &Seeder, segments: &[SeededSegment]) -> Result<(), OperateError> {
    for replica in &*seeder.replicas {
        let control = ControlTable::of(&replica.region);
        for row in segments.iter().filter(|row| row.source == replica.region.name) {
            let forgotten = control.forget_seeded_segment(seeder.table.name(), row).await;
            forgotten.map_err(|fault| at_control(replica, fault))?;
        }
    }
    Ok(())
}

fn at_control(replica: &ScannedReplica, fault: crate::fault::Fault) -> OperateError {
    OperateError::at(&replica.region, &replica.region.control_table, fault)
}

/// One segment of one replica, while a hold lasts.
struct SegmentReading {
    seeder: Arc<Seeder>,
    hold: Option<Arc<Hold>>,
    source: usize,
    /// What was seeded under this hold and later ones is done.
    first_hold: u64,
    until: Instant,
    stop: watch::Receiver<bool>,
}

impl SegmentReading {
    /// Continues from where the row says; returns how far it got.
    async fn run(self, mut row: SeededSegment) -> Result<SeededSegment, SeedError> {
        let seeder = &self.seeder;
        let replica = &seeder.replicas[self.source];
        let SegmentPosition::After(mut start) = row.at.clone() else { return Ok(row) };
        self.save(&row).await?;
        let mut suspects = Vec::new();
        let mut settled = Instant::now();
        while !self.is_over() {
            let most = i32::try_from(self.most()).ok();
            let page = replica.read(row.segment, row.segments, start, most).await;
            let (items, next) = page.map_err(|fault| replica.at(fault))?;
            seeder.has_read(items.len());
            let fresh: Vec<Item> = items.into_iter().filter(|item| !self.has_seeded(item)).collect();
            let keys = fresh.iter().map(|item| replica.key_of(item)).collect();
            suspects.extend(seeder.find(self.hold.as_ref(), keys, Some((self.source, fresh))).await?);
            let is_last = next.is_none();
            let is_due = suspects.len() >= self.most() || settled.elapsed() >= seeder.tuning.tenure();
            if suspects.is_empty() || is_due || is_last || self.is_over() {
                seeder.settle(self.hold.as_ref(), std::mem::take(&mut suspects)).await?;
                settled = Instant::now();
                row.at = next.clone().map_or(SegmentPosition::End, |key| SegmentPosition::After(Some(key)));
                self.save(&row).await?;
            }
            start = next;
            if is_last {
                break;
            }
        }
        Ok(row)
    }

    /// How many suspects may wait.
    fn most(&self) -> usize {
        let rate = self.seeder.options.write_units.and_then(|units| usize::try_from(units).ok());
        rate.map_or(SUSPECTS, |units| units.saturating_mul(SECONDS).min(SUSPECTS))
    }

    fn is_over(&self) -> bool {
        *self.stop.borrow() || Instant::now() >= self.until
    }

    /// Whether an item is a seed of this run: its key is done.
    fn has_seeded(&self, item: &Item) -> bool {
        let stamp = Stamp::read(item).filter(|stamp| self.hold.is_some() && stamp.matches(item));
        stamp.and_then(|stamp| stamp.hold()).is_some_and(|hold| hold >= self.first_hold)
    }

    /// What can't be saved now is saved with the next page; the segment may be read again.
    async fn save(&self, row: &SeededSegment) -> Result<(), SeedError> {
        let Some(hold) = &self.hold else { return Ok(()) };
        if hold.tenure.has_ended() {
            return Err(hold.lost());
        }
        let replica = &self.seeder.replicas[self.source];
        let control = ControlTable::of(&replica.region);
        if let Err(fault) = control.save_seeded_segment(self.seeder.table.name(), row, wall_millis()).await {
            warn!(
                region = %replica.region.name, table = self.seeder.table.name(), %fault,
                "can't save the bootstrap's progress"
            );
        }
        Ok(())
    }
}
