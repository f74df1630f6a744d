//! Compares the replicas item by item, apart from the stamp.
//!
//! A first pass scans all replicas side by side, once, and keeps a fingerprint of each key until all have
//! shown it. What differs may just be on its way, so those keys are reread: see `recheck`. Each replica is
//! read once, and nothing else is read but the suspects.
//!
//! | file | subject |
//! | --- | --- |
//! | `scan` | reads the replicas, in step, within a budget of capacity |
//! | `matcher` | finds the keys that may differ, in bounded memory |
//! | `pile` | what is known about keys, in memory and on disk |
//! | `recheck` | separates what differs from what is only on its way |
//! | `holding` | what regions hold for a key, and how they differ |

mod holding;
mod matcher;
mod pile;
mod recheck;
mod scan;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::scanned::{Budgets, ScannedReplica, replicas};
use super::{OperateError, PhysicalReplica, TableReplicas};
use crate::clock::wall_millis;
use crate::config::Config;
use crate::contained::joined;
use crate::control::{Gap, Verified};
use crate::fault::FaultKind;
use crate::protocol::Origin;
use crate::region::Region;

pub use holding::{Difference, Holding};
use matcher::{Matcher, Matches, Sighting};
use pile::Pile;
use recheck::{Recheck, Settled};
use scan::scan_segment;

/// How often progress is reported.
const TELL: Duration = Duration::from_millis(200);
/// Pages that wait to be compared.
const PAGES: usize = 4;

/// How to compare.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Concurrent scans per replica.
    pub segments: u16,
    /// How long replicas may take to agree on what differed at first, if no agents confirm that everything
    /// has arrived.
    pub settle: Duration,
    /// How many differences are kept per table; all are counted and reported.
    pub limit: usize,
    /// Read units per second and region.
    pub read_units: Option<u32>,
    /// How much memory keys may take until all replicas have shown them, in bytes.
    pub memory: usize,
}

/// Is notified of a comparison's progress.
pub trait Audience {
    fn progress(&mut self, table: &str, stage: Stage);
    /// Called for each difference.
    fn difference(&mut self, table: &str, difference: &Difference);
}

/// Ignores everything.
impl Audience for () {
    fn progress(&mut self, _: &str, _: Stage) {}
    fn difference(&mut self, _: &str, _: &Difference) {}
}

/// The result of comparing all tables.
#[derive(Debug, Serialize)]
pub struct Verification {
    pub tables: Vec<TableVerdict>,
}

/// The result of comparing one table.
#[derive(Debug, Serialize)]
pub struct TableVerdict {
    pub table: String,
    /// Different keys, over all regions.
    pub items_compared: u64,
    pub items_differing: u64,
    /// Items that are the same in all regions, but whose stamps have different versions: a later write
    /// between the two would be taken in one region only.
    pub versions_differing: u64,
    /// Keys that changed at each read, and differed: they are written all the time.
    pub items_changing: u64,
    /// The first of the differences.
    pub differences: Vec<Difference>,
    /// The gaps that the table was marked with; closed, if nothing differs.
    pub gaps: Vec<Gap>,
    /// Whether agents of all regions confirmed that everything had arrived; none, if there was nothing left
    /// to ask. If false, what is reported differed for as long as replicas were given to settle.
    pub agents_answered: Option<bool>,
    /// What it used, in read units.
    pub read_units: BTreeMap<Origin, f64>,
    /// Bytes that were kept on disk meanwhile.
    pub spilled_bytes: u64,
    pub seconds: f64,
}

/// The progress of a comparison.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    Scanning(Scanned),
    /// This many suspects are still to be reread.
    Rechecking {
        suspects: u64,
    },
    /// Waiting for the agents to confirm that everything written is everywhere.
    WaitingForAgents {
        suspects: u64,
    },
}

/// The progress of the scans.
#[derive(Clone, Copy, Debug)]
pub struct Scanned {
    /// Items read so far, over all regions.
    pub items: u64,
    /// The services' estimate of the number of items; they count a few times a day.
    pub estimate: u64,
    /// Read units used so far, over all regions.
    pub read_units: f64,
    pub since: Instant,
}

/// Why replicas could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Operate(#[from] OperateError),
    #[error(
        "what exceeds the memory can't be kept in {folder}: {0}\nName another folder with TMPDIR, or allow \
         more memory with --memory-mib.",
        folder = std::env::temp_dir().display()
    )]
    Disk(#[from] io::Error),
}

impl TableVerdict {
    /// Whether no key differs, and none was left undecided.
    fn is_settled(&self) -> bool {
        self.items_differing == 0 && self.items_changing == 0
    }
}

impl Verification {
    /// Whether all replicas hold the same.
    pub fn agrees(&self) -> bool {
        self.tables.iter().all(|table| table.items_differing == 0)
    }
}

/// Compares all tables.
pub async fn verify(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    options: Options,
    audience: &mut impl Audience,
) -> Result<Verification, VerifyError> {
    let mut budgets = Budgets::new(options.read_units);
    let mut tables = Vec::new();
    for table in &super::tables(config, regions).await? {
        let began = Instant::now();
        let before = budgets.used(table);
        // Before the first read: a gap that is found during the comparison is not closed.
        let gaps = gaps(table).await;
        let lease_duration = config.tuning.lease_duration;
        let mut verdict = compare(table, &mut budgets, options, lease_duration, audience).await?;
        for (replica, gap) in gaps {
            if verdict.is_settled()
                && let Err(fault) = replica.control().close_gap(table.name(), &gap).await
            {
                warn!(region = %replica.region.name, table = table.name(), %fault, "can't remove the table's mark");
            }
            verdict.gaps.push(gap);
        }
        verdict.read_units = budgets.used(table);
        for (name, units) in &mut verdict.read_units {
            *units -= before.get(name).copied().unwrap_or_default();
        }
        verdict.seconds = began.elapsed().as_secs_f64();
        leave(table, &verdict).await;
        tables.push(verdict);
    }
    Ok(Verification { tables })
}

/// The gaps in the control tables that can be read, each with the replica whose region's table has it: if the
/// origin is lost, that is another region.
async fn gaps(table: &TableReplicas) -> Vec<(&PhysicalReplica, Gap)> {
    let mut gaps = Vec::new();
    for replica in &table.replicas {
        match replica.control().agreement(table.name()).await {
            Ok(found) => gaps.extend(found.gaps.into_iter().map(|gap| (replica, gap))),
            Err(fault) => {
                debug!(region = %replica.region.name, %fault, "can't read the gaps in the control table");
            }
        }
    }
    gaps
}

/// Stores the result in every region, for its agents to report.
async fn leave(table: &TableReplicas, verdict: &TableVerdict) {
    let TableVerdict { items_compared, items_differing, .. } = *verdict;
    let verified = Verified { millis: wall_millis(), items_compared, items_differing };
    for replica in &table.replicas {
        match replica.control().save_verified(table.name(), verified).await {
            // Without a control table, there are no agents to report it.
            Err(fault) if fault.kind != FaultKind::Missing => warn!(
                region = %replica.region.name, table = table.name(), %fault,
                "can't store the result in the control table: this region's agents do not report it"
            ),
            _ => {}
        }
    }
}

/// The number of keys, and those on which replicas may disagree, by a scan of all of them.
pub(super) async fn suspects(
    table: &TableReplicas,
    replicas: &Arc<[ScannedReplica]>,
    segments: u16,
    memory: usize,
) -> Result<(u64, Pile), VerifyError> {
    let found = scan(table, replicas, segments, memory, &mut ()).await?;
    Ok((found.compared, found.suspects))
}

async fn compare<A: Audience>(
    table: &TableReplicas,
    budgets: &mut Budgets,
    options: Options,
    lease_duration: Duration,
    audience: &mut A,
) -> Result<TableVerdict, VerifyError> {
    let replicas = replicas(&table.replicas, budgets).await?;
    let Matches { compared, suspects, spilled } =
        scan(table, &replicas, options.segments, options.memory, audience).await?;
    let settled = Settled::default();
    let recheck = Recheck { table, replicas, options, lease_duration, audience, settled };
    let mut settled = recheck.run(suspects).await?;
    settled.differences.sort_by_key(|difference| difference.key.to_string());
    Ok(TableVerdict {
        table: table.name().to_owned(),
        items_compared: compared,
        items_differing: settled.differing,
        versions_differing: settled.other_versions,
        items_changing: settled.changing,
        differences: settled.differences,
        gaps: Vec::new(),
        agents_answered: settled.agents_answered,
        read_units: BTreeMap::new(),
        spilled_bytes: spilled,
        seconds: 0.0,
    })
}

/// Scans all replicas, and finds the keys that may differ.
async fn scan<A: Audience>(
    table: &TableReplicas,
    replicas: &Arc<[ScannedReplica]>,
    segments: u16,
    memory: usize,
    audience: &mut A,
) -> Result<Matches, VerifyError> {
    let (pages, mut scanned) = mpsc::channel::<Vec<Sighting>>(PAGES);
    let mut matcher = Matcher::new(replicas.len(), memory);
    // It may have to wait for the disk.
    let comparison = tokio::task::spawn_blocking(move || {
        while let Some(page) = scanned.blocking_recv() {
            page.into_iter().try_for_each(|sighting| matcher.see(sighting))?;
        }
        matcher.finish()
    });
    let mut scans = JoinSet::new();
    for segment in 0..segments {
        scans.spawn(scan_segment(replicas.clone(), segment, segments, pages.clone()));
    }
    drop(pages);
    let since = Instant::now();
    let used = || replicas.iter().map(|replica| replica.budget.used()).sum::<f64>();
    let before = used();
    let mut ticks = tokio::time::interval(TELL);
    loop {
        tokio::select! {
            scan = scans.join_next() => match scan {
                None => break,
                // What a panic has left unread must not count as compared.
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                Some(Ok(scan)) => scan?,
            },
            _ = ticks.tick() => audience.progress(table.name(), Stage::Scanning(Scanned {
                items: replicas.iter().map(ScannedReplica::items).sum(),
                estimate: replicas.iter().map(|replica| replica.estimate).sum(),
                read_units: used() - before,
                since,
            })),
        }
    }
    let found = joined(comparison.await)?;
    Ok(found)
}
