//! Compares the replicas item by item, the stamp aside.
//!
//! A first pass scans all replicas side by side and keeps a fingerprint a key. What differs in it
//! may just be on its way, so those items are read again, until they agree or time is up.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::OperateError;
use crate::config::{Config, TableConfig};
use crate::control::{ControlTable, Gap};
use crate::fault::Fault;
use crate::item_json::item_json;
use crate::protocol::{Fingerprint, Item, KeyId, Origin, STAMP, Stamp};
use crate::region::Region;
use crate::schema::{KeySchema, describe};

/// How many suspects are read again at once.
const RECHECKS: usize = 32;
/// The pause between two looks at the suspects.
const PAUSE: Duration = Duration::from_millis(250);

/// How to compare.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Scans at once, a replica.
    pub segments: u16,
    /// How long replicas may take to agree on what differed at first.
    pub settle: Duration,
    /// How many differences are told, a table; all are counted.
    pub limit: usize,
}

/// What came of comparing all tables.
#[derive(Debug, Serialize)]
pub struct Verification {
    pub tables: Vec<TableVerdict>,
}

/// What came of comparing one table.
#[derive(Debug, Serialize)]
pub struct TableVerdict {
    pub table: String,
    /// Different keys, over all regions.
    pub items_compared: usize,
    pub items_differing: usize,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// The gaps that the table was marked with; closed, if nothing differs.
    pub gaps: Vec<Gap>,
}

/// One key on which replicas disagree.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// The key, as DynamoDB JSON.
    pub key: Value,
    pub why: String,
    /// What each region holds.
    pub regions: BTreeMap<Origin, Holding>,
}

/// What one region holds for a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "holds", rename_all = "snake_case")]
pub enum Holding {
    Nothing,
    /// An item that is to be deleted as soon as the region's agent comes to it.
    Marked {
        version: String,
    },
    /// An item. Without a version, an application wrote it here last.
    Item {
        fingerprint: String,
        version: Option<String>,
    },
}

/// How far the scans have got.
#[derive(Clone, Copy, Debug)]
pub struct Scanned {
    /// Items read so far, over all regions.
    pub items: u64,
    /// Items there are, as the services estimate it; they count a few times a day.
    pub estimate: u64,
}

impl Verification {
    /// Whether all replicas hold the same.
    pub fn agrees(&self) -> bool {
        self.tables.iter().all(|table| table.items_differing == 0)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.why)
    }
}

/// Compares all tables; `progress` hears of each page that is read.
pub async fn verify(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    options: Options,
    mut progress: impl FnMut(&str, Scanned),
) -> Result<Verification, OperateError> {
    let mut tables = Vec::new();
    for table in &super::tables(config, regions).await? {
        let mut replicas = Vec::new();
        for (name, physical) in &table.replicas {
            let Some(region) = regions.get(name) else { continue };
            let described = describe(region, physical).await;
            let described = described.map_err(|fault| OperateError::at(region, physical, fault))?;
            replicas.push(ScannedReplica {
                region: region.clone(),
                table: physical.clone(),
                keys: described.key_schema,
                estimate: described
                    .table
                    .item_count()
                    .and_then(|n| u64::try_from(n).ok())
                    .unwrap_or_default(),
            });
        }
        // Before the first read: a gap that is found meanwhile is not closed.
        let gaps = gaps(table, regions).await;
        let mut verdict =
            compare(table, &replicas, options, |scanned| progress(&table.name, scanned)).await?;
        for gap in gaps {
            if verdict.items_differing == 0
                && let Some(region) = regions.get(&gap.origin)
                && let Err(fault) = ControlTable::of(region).close_gap(&table.name, &gap).await
            {
                warn!(region = %region.name, table = table.name, %fault, "the table's mark can't be taken away");
            }
            verdict.gaps.push(gap);
        }
        tables.push(verdict);
    }
    Ok(Verification { tables })
}

/// What the control tables tell of gaps, as far as they can be read.
async fn gaps(table: &TableConfig, regions: &BTreeMap<Origin, Region>) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for region in table.replicas.iter().filter_map(|(name, _)| regions.get(name)) {
        match ControlTable::of(region).gaps(&table.name).await {
            Ok(found) => gaps.extend(found),
            Err(fault) => debug!(region = %region.name, %fault, "the control table can't be read for gaps"),
        }
    }
    gaps
}

#[derive(Clone, Debug)]
struct ScannedReplica {
    region: Region,
    table: String,
    keys: KeySchema,
    estimate: u64,
}

/// What the first pass keeps of a key.
struct Seen {
    /// The values of the key attributes, in the order of the schema.
    key: Box<[AttributeValue]>,
    /// By replica.
    prints: Box<[Option<Fingerprint>]>,
}

/// One item of a scan; a marked one has no fingerprint, so that it never agrees.
type Scan = (usize, KeyId, Box<[AttributeValue]>, Option<Fingerprint>);

async fn compare(
    table: &TableConfig,
    replicas: &[ScannedReplica],
    options: Options,
    mut progress: impl FnMut(Scanned),
) -> Result<TableVerdict, OperateError> {
    let (pages, mut scanned) = mpsc::channel::<Vec<Scan>>(16);
    let mut scans = JoinSet::new();
    for (i, replica) in replicas.iter().enumerate() {
        for segment in 0..options.segments {
            let (replica, pages) = (replica.clone(), pages.clone());
            scans.spawn(async move {
                let scan = replica.scan(i, segment, options.segments, &pages).await;
                scan.map_err(|fault| OperateError::at(&replica.region, &replica.table, fault))
            });
        }
    }
    drop(pages);
    let mut items: HashMap<KeyId, Seen> = HashMap::new();
    let mut state = Scanned { items: 0, estimate: replicas.iter().map(|replica| replica.estimate).sum() };
    while let Some(page) = scanned.recv().await {
        state.items += page.len() as u64;
        progress(state);
        for (replica, id, key, print) in page {
            let seen = items
                .entry(id)
                .or_insert_with(|| Seen { key, prints: vec![None; replicas.len()].into_boxed_slice() });
            seen.prints[replica] = print;
        }
    }
    while let Some(scan) = scans.join_next().await {
        // A panic in a scan is a defect; what it did not read shows as differences.
        if let Ok(Err(error)) = scan {
            return Err(error);
        }
    }
    let items_compared = items.len();
    let suspects = items
        .into_values()
        .filter(|seen| seen.prints.iter().any(|print| print.is_none() || *print != seen.prints[0]))
        .map(|seen| seen.key);
    let (items_differing, differences) = recheck(replicas, suspects.collect(), options).await?;
    Ok(TableVerdict {
        table: table.name.clone(),
        items_compared,
        items_differing,
        differences,
        gaps: Vec::new(),
    })
}

/// Reads suspects again until they agree or time is up; returns how many do not, and the first.
async fn recheck(
    replicas: &[ScannedReplica],
    mut suspects: Vec<Box<[AttributeValue]>>,
    options: Options,
) -> Result<(usize, Vec<Difference>), OperateError> {
    let deadline = Instant::now() + options.settle;
    let mut ticks = tokio::time::interval(PAUSE);
    loop {
        ticks.tick().await;
        let mut left = Vec::new();
        let mut differences: Vec<Difference> = Vec::new();
        let mut running = JoinSet::new();
        let mut waiting = suspects.into_iter();
        loop {
            while running.len() < RECHECKS
                && let Some(key) = waiting.next()
            {
                running.spawn(read_again(replicas.to_vec(), key));
            }
            match running.join_next().await {
                None => break,
                // A task that panics is a defect; no key may pass for compared because of it.
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                Some(Ok(read)) => {
                    let (key, difference) = read?;
                    if let Some(difference) = difference {
                        left.push(key);
                        differences.push(difference);
                    }
                }
            }
        }
        if left.is_empty() || Instant::now() >= deadline {
            differences.sort_by_key(|difference| difference.key.to_string());
            differences.truncate(options.limit);
            return Ok((left.len(), differences));
        }
        suspects = left;
    }
}

type ReadAgain = (Box<[AttributeValue]>, Option<Difference>);

async fn read_again(
    replicas: Vec<ScannedReplica>,
    key: Box<[AttributeValue]>,
) -> Result<ReadAgain, OperateError> {
    let mut items = Vec::with_capacity(replicas.len());
    let mut full = Item::new();
    for replica in &replicas {
        full = replica.keys.names().map(str::to_owned).zip(key.iter().cloned()).collect();
        let get = replica.region.tables.get_item().table_name(&replica.table).consistent_read(true);
        let answer = get.set_key(Some(full.clone())).send().await;
        let answer = answer.map_err(|error| OperateError::at(&replica.region, &replica.table, error))?;
        items.push((replica.region.name.clone(), answer.item));
    }
    let regions: BTreeMap<Origin, Holding> =
        items.iter().map(|(region, item)| (region.clone(), Holding::of(item.as_ref()))).collect();
    Ok((key, why(&items, &regions).map(|why| Difference { key: item_json(&full), why, regions })))
}

/// Why replicas do not agree on a key, if they do not.
fn why(items: &[(Origin, Option<Item>)], regions: &BTreeMap<Origin, Holding>) -> Option<String> {
    let regions_with = |holds: fn(&Holding) -> bool| -> Vec<&str> {
        regions.iter().filter(|(_, holding)| holds(holding)).map(|(region, _)| region.as_str()).collect()
    };
    let missing = regions_with(|holding| *holding == Holding::Nothing);
    let marked = regions_with(|holding| matches!(holding, Holding::Marked { .. }));
    let present: Vec<&Item> = items.iter().filter_map(|(_, item)| item.as_ref()).collect();
    let differing: Vec<&str> = match present.split_first() {
        Some((first, rest)) => {
            let mut names: Vec<&str> =
                present.iter().flat_map(|item| item.keys()).map(String::as_str).collect();
            names.sort_unstable();
            names.dedup();
            names.retain(|name| {
                *name != STAMP && rest.iter().any(|item| !same(first.get(*name), item.get(*name)))
            });
            names
        }
        None => Vec::new(),
    };
    let mut reasons = Vec::new();
    if !missing.is_empty() && !present.is_empty() {
        reasons.push(format!("missing in {}", missing.join(", ")));
    }
    if !marked.is_empty() {
        reasons.push(format!("marked for deletion in {} (is its agent running?)", marked.join(", ")));
    }
    if !differing.is_empty() {
        reasons.push(format!("different in {}", differing.join(", ")));
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Whether DynamoDB would treat two values as equal.
fn same(a: Option<&AttributeValue>, b: Option<&AttributeValue>) -> bool {
    let print = |value: Option<&AttributeValue>| {
        value.map(|value| Fingerprint::of(&Item::from([(String::new(), value.clone())])))
    };
    print(a) == print(b)
}

impl Holding {
    fn of(item: Option<&Item>) -> Self {
        let Some(item) = item else { return Self::Nothing };
        let stamp = Stamp::read(item);
        let version = |stamp: &Stamp| stamp.version.to_string().trim_end().to_owned();
        match stamp {
            Some(stamp) if stamp.is_mark() => Self::Marked { version: version(&stamp) },
            stamp => Self::Item {
                fingerprint: Fingerprint::of(item).to_string(),
                version: stamp.filter(|stamp| stamp.matches(item)).as_ref().map(version),
            },
        }
    }
}

impl ScannedReplica {
    async fn scan(
        &self,
        index: usize,
        segment: u16,
        segments: u16,
        pages: &mpsc::Sender<Vec<Scan>>,
    ) -> Result<(), Fault> {
        let mut start = None;
        loop {
            let scan = self.region.tables.scan().table_name(&self.table).consistent_read(true);
            let scan = scan.segment(segment.into()).total_segments(segments.into());
            let page = scan.set_exclusive_start_key(start).send().await?;
            let items = page.items.unwrap_or_default();
            let items = items.iter().map(|item| self.seen(index, item)).collect();
            start = page.last_evaluated_key.filter(|key| !key.is_empty());
            if pages.send(items).await.is_err() || start.is_none() {
                return Ok(());
            }
        }
    }

    fn seen(&self, index: usize, item: &Item) -> Scan {
        let key: Item =
            self.keys.names().filter_map(|name| Some((name.to_owned(), item.get(name)?.clone()))).collect();
        let values = self.keys.names().filter_map(|name| item.get(name).cloned()).collect();
        let marked = Stamp::read(item).is_some_and(|stamp| stamp.is_mark());
        (index, KeyId::of(&key), values, (!marked).then(|| Fingerprint::of(item)))
    }
}
