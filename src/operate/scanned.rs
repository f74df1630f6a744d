//! One replica, as operator commands read it: within a budget, with strong consistency.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes, ReturnConsumedCapacity};

use super::{OperateError, PhysicalReplica, TableReplicas};
use crate::capacity::{Budget, read_units};
use crate::config::TableConfig;
use crate::fault::Fault;
use crate::protocol::{Item, KeyId, Origin};
use crate::region::Region;
use crate::schema::KeySchema;

/// How many keys one `BatchGetItem` takes.
const BATCH: usize = 100;
/// How long to wait before requesting again what was left over.
const UNPROCESSED_PAUSE: Duration = Duration::from_millis(100);

/// A replica that is being read.
#[derive(Debug)]
pub(in crate::operate) struct ScannedReplica {
    pub(in crate::operate) region: Region,
    pub(in crate::operate) table: String,
    pub(in crate::operate) keys: KeySchema,
    pub(in crate::operate) config: Arc<TableConfig>,
    /// The service's estimate of the number of items.
    pub(in crate::operate) estimate: u64,
    pub(in crate::operate) budget: Arc<Budget>,
    /// Items read so far, and the thousandths of units that they took.
    items: AtomicU64,
    milliunits: AtomicU64,
}

impl ScannedReplica {
    pub(in crate::operate) fn items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }

    pub(in crate::operate) fn at(&self, fault: impl Into<Fault>) -> OperateError {
        OperateError::at(&self.region, &self.table, fault)
    }

    /// The key attributes of a key, by name.
    pub(in crate::operate) fn key(&self, values: &[AttributeValue]) -> Item {
        self.keys.names().map(str::to_owned).zip(values.iter().cloned()).collect()
    }

    /// Reads items by their keys, in this order.
    #[expect(clippy::cast_precision_loss, reason = "few")]
    pub(in crate::operate) async fn get_all(&self, keys: &[Item]) -> Result<Vec<Option<Item>>, OperateError> {
        let mut found: HashMap<KeyId, Item> = HashMap::with_capacity(keys.len());
        for batch in keys.chunks(BATCH) {
            let mut left = batch.to_vec();
            while !left.is_empty() {
                let estimate = left.len() as f64;
                self.budget.begin(estimate).await;
                let wanted = KeysAndAttributes::builder().consistent_read(true).set_keys(Some(left));
                let wanted = wanted.build().map_err(|error| self.at(error))?;
                let get = self.region.tables.batch_get_item().request_items(&self.table, wanted);
                let get = get.return_consumed_capacity(ReturnConsumedCapacity::Total);
                let answer = get.send().await.map_err(|error| self.at(error))?;
                let items = answer.responses.unwrap_or_default().remove(&self.table).unwrap_or_default();
                let units = read_units(answer.consumed_capacity.unwrap_or_default().first(), items.iter());
                self.budget.settle(estimate, units);
                found.extend(items.into_iter().map(|item| (KeyId::of(&self.key_of(&item)), item)));
                // What the service did not process: it was too much at once.
                let rest = answer.unprocessed_keys.unwrap_or_default().remove(&self.table);
                left = rest.map(|rest| rest.keys).unwrap_or_default();
                if !left.is_empty() {
                    tokio::time::sleep(UNPROCESSED_PAUSE).await;
                }
            }
        }
        Ok(keys.iter().map(|key| found.remove(&KeyId::of(key))).collect())
    }

    /// The key attributes of an item.
    pub(in crate::operate) fn key_of(&self, item: &Item) -> Item {
        self.keys.names().filter_map(|name| Some((name.to_owned(), item.get(name)?.clone()))).collect()
    }

    /// Reads one item as it is now.
    pub(in crate::operate) async fn get(&self, key: Item) -> Result<Option<Item>, OperateError> {
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

    /// Reads one page of a segment, of at most this many items; returns its items, and where the next one
    /// begins.
    pub(in crate::operate) async fn read(
        &self,
        segment: u16,
        segments: u16,
        start: Option<Item>,
        most: Option<i32>,
    ) -> Result<(Vec<Item>, Option<Item>), Fault> {
        let (limit, estimate) = self.page();
        let limit = limit.into_iter().chain(most).min();
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
}

/// The read budget of each region, shared by all its tables.
#[derive(Debug)]
pub(in crate::operate) struct Budgets {
    read_units: Option<u32>,
    begun: BTreeMap<Origin, Arc<Budget>>,
}

impl Budgets {
    /// At most this many units per second and region.
    pub(in crate::operate) fn new(read_units: Option<u32>) -> Self {
        Self { read_units, begun: BTreeMap::new() }
    }

    fn of(&mut self, region: &Origin) -> Arc<Budget> {
        let begun = self.begun.entry(region.clone());
        Arc::clone(begun.or_insert_with(|| Arc::new(Budget::new(self.read_units))))
    }

    /// The units used so far in each region of a table.
    pub(in crate::operate) fn used(&self, table: &TableReplicas) -> BTreeMap<Origin, f64> {
        let used = |region: &Origin| self.begun.get(region).map(|budget| budget.used()).unwrap_or_default();
        table.regions().into_iter().map(|region| (region.clone(), used(&region))).collect()
    }
}

/// The replicas of a table, ready to be read; in this order.
pub(in crate::operate) async fn replicas(
    ordered: impl IntoIterator<Item = &PhysicalReplica>,
    budgets: &mut Budgets,
) -> Result<Arc<[ScannedReplica]>, OperateError> {
    let mut replicas = Vec::new();
    for replica in ordered {
        let described = replica.describe().await.map_err(|fault| replica.at(fault))?;
        let estimate = described.table.item_count().and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
        replicas.push(ScannedReplica {
            region: replica.region.clone(),
            table: replica.name.clone(),
            keys: described.key_schema,
            config: Arc::clone(&replica.table),
            estimate,
            budget: budgets.of(&replica.region.name),
            items: AtomicU64::new(0),
            milliunits: AtomicU64::new(0),
        });
    }
    Ok(replicas.into())
}
