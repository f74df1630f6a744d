//! Scans all replicas of a table side by side.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_dynamodb::types::{AttributeValue, ReturnConsumedCapacity};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::matcher::Sighting;
use super::pile::Trace;
use crate::capacity::{Budget, read_units};
use crate::fault::Fault;
use crate::operate::OperateError;
use crate::protocol::{Item, KeyId, Selections};
use crate::region::Region;
use crate::schema::KeySchema;

/// How many items a replica may be ahead of the others within a segment. Replicas that stay close
/// leave few keys that only some have shown.
const AHEAD: u64 = 1000;

/// One replica, as it is read.
#[derive(Debug)]
pub(super) struct ScannedReplica {
    pub(super) region: Region,
    pub(super) table: String,
    pub(super) keys: KeySchema,
    /// What of the table goes to which region.
    pub(super) selections: Arc<Selections>,
    /// How many items the service believes there are.
    pub(super) estimate: u64,
    pub(super) budget: Arc<Budget>,
    /// Items read so far, and the thousandths of units that they took.
    items: AtomicU64,
    milliunits: AtomicU64,
}

impl ScannedReplica {
    pub(super) fn new(
        region: Region,
        table: String,
        keys: KeySchema,
        selections: Arc<Selections>,
        estimate: u64,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            region,
            table,
            keys,
            selections,
            estimate,
            budget,
            items: AtomicU64::new(0),
            milliunits: AtomicU64::new(0),
        }
    }

    pub(super) fn items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }

    pub(super) fn at(&self, fault: impl Into<Fault>) -> OperateError {
        OperateError::at(&self.region, &self.table, fault)
    }

    /// The key attributes of a key, by name.
    pub(super) fn key(&self, values: &[AttributeValue]) -> Item {
        self.keys.names().map(str::to_owned).zip(values.iter().cloned()).collect()
    }

    /// Reads one item as it stands now.
    pub(super) async fn get(&self, key: Item) -> Result<Option<Item>, OperateError> {
        self.budget.begin(1.0).await;
        let get = self.region.tables.get_item().table_name(&self.table).consistent_read(true);
        let get = get.return_consumed_capacity(ReturnConsumedCapacity::Total).set_key(Some(key));
        let answer = get.send().await.map_err(|error| self.at(error))?;
        self.budget.settle(1.0, read_units(answer.consumed_capacity(), answer.item().into_iter()));
        Ok(answer.item)
    }

    /// How many items a page may have, and the units that it is likely to take: about what one
    /// second allows.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    #[expect(clippy::cast_possible_truncation, reason = "an estimate, within bounds")]
    fn page(&self) -> (Option<i32>, f64) {
        let Some(rate) = self.budget.rate() else { return (None, 0.0) };
        let (items, milliunits) = (self.items(), self.milliunits.load(Ordering::Relaxed));
        let items_a_unit = if milliunits == 0 { 1.0 } else { items as f64 * 1000.0 / milliunits as f64 };
        let limit = (rate * items_a_unit).clamp(1.0, 100_000.0);
        (Some(limit as i32), limit / items_a_unit.max(0.01))
    }

    /// Reads one page of a segment: its items, and where the next one begins.
    async fn read(
        &self,
        segment: u16,
        segments: u16,
        start: Option<Item>,
    ) -> Result<(Vec<Item>, Option<Item>), Fault> {
        let (limit, estimate) = self.page();
        self.budget.begin(estimate).await;
        let scan = self.region.tables.scan().table_name(&self.table).consistent_read(true);
        let scan = scan.return_consumed_capacity(ReturnConsumedCapacity::Total).set_limit(limit);
        let scan = scan.segment(segment.into()).total_segments(segments.into());
        let page = scan.set_exclusive_start_key(start).send().await?;
        let units = read_units(page.consumed_capacity(), page.items().iter());
        self.budget.settle(estimate, units);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a page's units are few"
        )]
        self.milliunits.fetch_add((units * 1000.0) as u64, Ordering::Relaxed);
        let items = page.items.unwrap_or_default();
        self.items.fetch_add(items.len() as u64, Ordering::Relaxed);
        Ok((items, page.last_evaluated_key.filter(|key| !key.is_empty())))
    }

    fn sighting(&self, replica: usize, item: &Item) -> Sighting {
        let key: Item =
            self.keys.names().filter_map(|name| Some((name.to_owned(), item.get(name)?.clone()))).collect();
        let values = self.keys.names().filter_map(|name| item.get(name).cloned()).collect();
        let id = KeyId::of(&key);
        let trace = if self.selections.is_whole(item) { Trace::of(Some(item)) } else { Trace::Part };
        Sighting { replica, id, key: values, trace }
    }
}

/// How far a segment has been read in one replica.
struct Cursor {
    read: u64,
    start: Option<Item>,
    done: bool,
}

/// Scans one segment of all replicas, in step.
pub(super) async fn scan_segment(
    replicas: Arc<[ScannedReplica]>,
    segment: u16,
    segments: u16,
    pages: mpsc::Sender<Vec<Sighting>>,
) -> Result<(), OperateError> {
    let mut cursors: Vec<Cursor> =
        replicas.iter().map(|_| Cursor { read: 0, start: None, done: false }).collect();
    while let Some(least) = cursors.iter().filter(|cursor| !cursor.done).map(|cursor| cursor.read).min() {
        let mut reads = JoinSet::new();
        for (i, cursor) in cursors.iter_mut().enumerate() {
            if !cursor.done && cursor.read <= least + AHEAD {
                let (replicas, start) = (replicas.clone(), cursor.start.take());
                reads.spawn(async move {
                    let replica = &replicas[i];
                    let (items, next) =
                        replica.read(segment, segments, start).await.map_err(|fault| replica.at(fault))?;
                    let seen: Vec<_> = items.iter().map(|item| replica.sighting(i, item)).collect();
                    Ok::<_, OperateError>((i, seen, next))
                });
            }
        }
        while let Some(read) = reads.join_next().await {
            // A page that was not read must not pass for one that was.
            let read = read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            let (i, seen, next) = read?;
            let cursor = &mut cursors[i];
            cursor.read += seen.len() as u64;
            cursor.done = next.is_none();
            cursor.start = next;
            if pages.send(seen).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
