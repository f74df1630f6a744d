//! What an agent has done, and where it stands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::StartError;
use super::coordinator::Shards;
use crate::lag::{LagBook, PeerLag};
use crate::protocol::Origin;
use crate::tally::{Tally, TallySnapshot};

/// What an agent has done, and where it stands; outlives it.
#[derive(Clone, Debug)]
pub struct Figures(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    region: Origin,
    tables: Mutex<Vec<Arc<TableStatus>>>,
    /// Why tables can't be found by their patterns.
    blind: Mutex<Option<StartError>>,
}

/// What an agent has done for one table.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    pub origin: Origin,
    pub table: String,
    /// Why the table is not being replicated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    #[serde(flatten)]
    pub tally: TallySnapshot,
    pub lag: BTreeMap<Origin, PeerLag>,
}

/// One table of an agent, whether it is being replicated or not.
#[derive(Debug)]
pub(super) struct TableStatus {
    pub(super) name: String,
    pub(super) tally: Arc<Tally>,
    pub(super) lag: Arc<LagBook>,
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    /// While it runs.
    shards: Option<Arc<Shards>>,
    trouble: Option<StartError>,
}

impl Figures {
    pub(super) fn new(region: Origin) -> Self {
        Self(Arc::new(Inner { region, tables: Mutex::default(), blind: Mutex::default() }))
    }

    pub(super) fn add(&self, table: &str) -> Arc<TableStatus> {
        let (tally, lag, standing) = (Arc::default(), Arc::default(), Mutex::default());
        let status = Arc::new(TableStatus { name: table.to_owned(), tally, lag, standing });
        lock(&self.0.tables).push(Arc::clone(&status));
        status
    }

    pub(super) fn remove(&self, table: &str) {
        lock(&self.0.tables).retain(|status| status.name != table);
    }

    /// Notes whether tables can be found, and if not, why; whether that is news.
    pub(super) fn note_blind(&self, blind: Option<StartError>) -> bool {
        replace(&mut lock(&self.0.blind), blind)
    }

    /// Returns when each table's stream has been found drained, with nothing under way, in
    /// `calls` calls in a row; tables in trouble are not waited for.
    pub async fn drained(&self, calls: u32) {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        while !lock(&self.0.tables).iter().all(|table| table.is_drained(calls)) {
            ticks.tick().await;
        }
    }

    /// The calls in a row that found each table's stream drained.
    pub fn idle_calls(&self) -> u32 {
        lock(&self.0.tables).iter().map(|table| table.idle_calls()).min().unwrap_or_default()
    }

    /// The keys that the agent holds in memory: those whose items do not say their own version.
    pub fn remembered(&self) -> usize {
        let remembered = |table: &Arc<TableStatus>| {
            lock(&table.standing).shards.as_ref().map(|shards| shards.remembered()).unwrap_or_default()
        };
        lock(&self.0.tables).iter().map(remembered).sum()
    }

    /// Why not all is being replicated that should be: the first reason.
    pub fn trouble(&self) -> Option<StartError> {
        let of_table = |table: &Arc<TableStatus>| lock(&table.standing).trouble.clone();
        let first = lock(&self.0.tables).iter().find_map(of_table);
        first.or_else(|| lock(&self.0.blind).clone())
    }

    /// What the agent has done, by table.
    pub fn report(&self) -> Vec<TableReport> {
        lock(&self.0.tables)
            .iter()
            .map(|table| TableReport {
                origin: self.0.region.clone(),
                table: table.name.clone(),
                trouble: lock(&table.standing).trouble.as_ref().map(StartError::in_one_line),
                tally: table.tally.snapshot(),
                lag: table.lag.summary(),
            })
            .collect()
    }
}

impl TableStatus {
    pub(super) fn started(&self, shards: Arc<Shards>) {
        *lock(&self.standing) = Standing { shards: Some(shards), trouble: None };
    }

    pub(super) fn ended(&self) {
        lock(&self.standing).shards = None;
    }

    /// Notes why the table is not being replicated, or that it is; whether that is news.
    pub(super) fn note_trouble(&self, trouble: Option<StartError>) -> bool {
        replace(&mut lock(&self.standing).trouble, trouble)
    }

    fn idle_calls(&self) -> u32 {
        lock(&self.standing).shards.as_ref().map(|shards| shards.idle_calls()).unwrap_or_default()
    }

    fn is_drained(&self, calls: u32) -> bool {
        let in_trouble = lock(&self.standing).trouble.is_some();
        in_trouble || self.idle_calls() >= calls
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the new reason reads otherwise than the old one.
fn replace(old: &mut Option<StartError>, new: Option<StartError>) -> bool {
    let text = |error: &Option<StartError>| error.as_ref().map(ToString::to_string);
    let is_news = text(old) != text(&new);
    *old = new;
    is_news
}
