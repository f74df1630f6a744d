//! What an agent has done, and its present state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use super::StartError;
use super::backlog::{Backlog, Backlogs};
use super::coordinator::Shards;
use super::crew::Crew;
use super::foreign::Foreign;
use crate::control::{AgentId, PausedDestinations};
use crate::deliver::{Pauses, Refusals, SinkCall, SinkCalls};
use crate::destination::Destination;
use crate::feed::FeedName;
use crate::lag::{LagBook, PeerLag, Spread};
use crate::protocol::Origin;
use crate::source::ShardId;
use crate::spill::Remembered;
use crate::tally::{FeedCounts, FeedSnapshot, Tally, TallySnapshot};

/// What an agent has done, and its present state; outlives the agent.
#[derive(Clone, Debug)]
pub struct Figures(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    region: Origin,
    agent: AgentId,
    /// Set once the agent has started.
    crew: OnceLock<watch::Receiver<Crew>>,
    pauses: OnceLock<Arc<Pauses>>,
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

/// The present state of one table. Lag is not in it, since summarising it takes long.
#[derive(Clone, Debug)]
pub struct TableStanding {
    pub region: Origin,
    pub table: String,
    /// Why the table is not being replicated.
    pub trouble: Option<String>,
    pub tally: TallySnapshot,
    pub is_replicating: bool,
    /// How far each peer is behind, in the shards that this agent reads.
    pub backlogs: BTreeMap<Origin, Backlog>,
    /// For each peer, whether it is paused.
    pub paused: BTreeMap<Origin, bool>,
    /// The regions that refuse all writes, each with its reason.
    pub refused: BTreeMap<Origin, String>,
    /// The writes of another setup's agents, by the region that their stamps name: no peer gets them.
    pub foreign: BTreeMap<Origin, u64>,
    /// The feeds that this agent delivers.
    pub feeds: BTreeMap<FeedName, FeedStanding>,
    /// The age of what each other origin has promised this region.
    pub arrivals: BTreeMap<Origin, Duration>,
    /// The shards that this agent reads, and how long ago each was read.
    pub unread: BTreeMap<ShardId, Duration>,
    /// Those that are polled but can't be read.
    pub failing: BTreeSet<ShardId>,
    /// The keys remembered in memory.
    pub in_memory: usize,
    /// Those remembered on disk.
    pub on_disk: usize,
}

/// One table of an agent, whether it is being replicated or not.
#[derive(Debug)]
pub(super) struct TableStatus {
    pub(super) name: String,
    pub(super) tally: Arc<Tally>,
    pub(super) lag: Arc<LagBook>,
    pub(super) backlogs: Arc<Backlogs>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) remembered: Arc<Remembered>,
    pub(super) foreign: Arc<Foreign>,
    feeds: Mutex<BTreeMap<FeedName, FeedFigures>>,
    standing: Mutex<TableState>,
}

#[derive(Debug, Default)]
struct TableState {
    /// While it runs: for each stream being read.
    shards: Option<Vec<Arc<Shards>>>,
    trouble: Option<StartError>,
}

impl Figures {
    pub(super) fn new(region: Origin, agent: AgentId) -> Self {
        let (tables, blind) = (Mutex::default(), Mutex::default());
        let (crew, pauses) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Inner { region, agent, crew, pauses, tables, blind }))
    }

    pub(super) fn started(&self, crew: watch::Receiver<Crew>, pauses: Arc<Pauses>) {
        // An agent starts once.
        let _ = (self.0.crew.set(crew), self.0.pauses.set(pauses));
    }

    pub fn region(&self) -> &Origin {
        &self.0.region
    }

    pub fn agent(&self) -> &AgentId {
        &self.0.agent
    }

    /// The live agents of the region, and how long ago the control table showed them; `None` before it ever
    /// did.
    pub fn crew(&self) -> Option<(Vec<AgentId>, Duration)> {
        let crew = self.0.crew.get()?.borrow();
        Some((crew.alive.keys().cloned().collect(), crew.looked?.elapsed()))
    }

    /// The paused peers and feeds, each with the end of its pause.
    pub fn paused(&self) -> PausedDestinations {
        self.0.pauses.get().map(|pauses| pauses.all()).unwrap_or_default()
    }

    pub(super) fn add(&self, table: &str) -> Arc<TableStatus> {
        let lag = Arc::new(LagBook::new(&self.0.region, table));
        let status = Arc::new(TableStatus {
            name: table.to_owned(),
            tally: Arc::default(),
            lag,
            backlogs: Arc::default(),
            refusals: Arc::default(),
            remembered: Arc::default(),
            foreign: Arc::default(),
            feeds: Mutex::default(),
            standing: Mutex::default(),
        });
        lock(&self.0.tables).push(Arc::clone(&status));
        status
    }

    pub(super) fn remove(&self, table: &str) {
        lock(&self.0.tables).retain(|status| status.name != table);
    }

    /// Records whether tables can be found, and if not, why. Returns whether that is news.
    pub(super) fn note_blind(&self, blind: Option<StartError>) -> bool {
        replace(&mut lock(&self.0.blind), blind)
    }

    /// Returns once each table's stream has been found drained, with nothing in progress, in `calls` calls in
    /// a row; tables in trouble are not waited for.
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

    /// The keys that the agent remembers, those whose items do not state their own version: in memory, and on
    /// disk.
    pub fn remembered(&self) -> (usize, usize) {
        let tables = lock(&self.0.tables);
        let sum = |of: fn(&Remembered) -> usize| tables.iter().map(|table| of(&table.remembered)).sum();
        (sum(Remembered::in_memory), sum(Remembered::on_disk))
    }

    /// Why not everything that should be replicated is: the first reason.
    pub fn trouble(&self) -> Option<StartError> {
        let of_table = |table: &Arc<TableStatus>| lock(&table.standing).trouble.clone();
        let first = lock(&self.0.tables).iter().find_map(of_table);
        first.or_else(|| lock(&self.0.blind).clone())
    }

    /// What the agent has done, by table.
    pub fn report(&self) -> Vec<TableReport> {
        let report = |table: &Arc<TableStatus>| TableReport {
            origin: self.0.region.clone(),
            table: table.name.clone(),
            trouble: table.trouble(),
            tally: table.tally.snapshot(),
            lag: table.lag.summary(),
        };
        lock(&self.0.tables).iter().map(report).collect()
    }

    /// The names of the tables, whether they are being replicated or not.
    pub fn tables(&self) -> Vec<String> {
        lock(&self.0.tables).iter().map(|table| table.name.clone()).collect()
    }

    /// The present state of each table.
    pub fn standings(&self) -> Vec<TableStanding> {
        let paused = self.paused();
        let is_paused = |destination| paused.contains_key(&destination);
        let standing = |table: &Arc<TableStatus>| {
            let is_replicating = lock(&table.standing).shards.is_some();
            let arrivals = table.backlogs.arrivals();
            let of_region = |(refusing, reason): (Destination, String)| {
                Some((refusing.region(&self.0.region)?.clone(), reason))
            };
            TableStanding {
                region: self.0.region.clone(),
                table: table.name.clone(),
                trouble: table.trouble(),
                tally: table.tally.snapshot(),
                is_replicating,
                backlogs: table.backlogs.by_peer(),
                paused: arrivals
                    .keys()
                    .map(|peer| (peer.clone(), is_paused(Destination::Peer(peer.clone()))))
                    .collect(),
                refused: table.refusals.all().into_iter().filter_map(of_region).collect(),
                foreign: table.foreign.all(),
                feeds: table.feeds(),
                arrivals,
                unread: table.backlogs.unread(),
                failing: table.backlogs.failing(),
                in_memory: table.remembered.in_memory(),
                on_disk: table.remembered.on_disk(),
            }
        };
        lock(&self.0.tables).iter().map(standing).collect()
    }

    /// The lag of each table to each peer since the last call, for one reader that looks now and then.
    pub fn take_recent_lag(&self) -> Vec<(Origin, Spread)> {
        lock(&self.0.tables).iter().flat_map(|table| table.lag.take_recent()).collect()
    }

    /// How many events the sink of each feed has taken.
    pub fn delivered(&self) -> BTreeMap<FeedName, u64> {
        let tables = lock(&self.0.tables);
        let of_table = |table: &Arc<TableStatus>| {
            let feeds = lock(&table.feeds);
            let count = |(feed, figures): (&FeedName, &FeedFigures)| {
                (feed.clone(), figures.counts.snapshot().delivered)
            };
            feeds.iter().map(count).collect::<Vec<_>>()
        };
        tables.iter().flat_map(of_table).collect()
    }

    /// What has been done for all tables.
    pub fn total(&self) -> TallySnapshot {
        let mut total = TallySnapshot::default();
        lock(&self.0.tables).iter().for_each(|table| total += table.tally.snapshot());
        total
    }
}

/// What an agent has done for one feed.
#[derive(Clone, Debug)]
pub(super) struct FeedFigures {
    pub(super) counts: Arc<FeedCounts>,
    pub(super) calls: Arc<SinkCalls>,
}

/// The present state of one feed, as far as this agent delivers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedStanding {
    pub counts: FeedSnapshot,
    /// How many records have been read but not told yet.
    pub backlog: usize,
    /// The age of the oldest write that has not been told yet.
    pub age: Duration,
    /// How many keys wait behind an event that the sink has rejected.
    pub blocked: usize,
    pub last_call: Option<SinkCall>,
}

impl TableStatus {
    /// The figures of a feed of this region, which go on when the table is replicated again.
    pub(super) fn feed_figures(&self, region: &Origin, feed: &FeedName) -> FeedFigures {
        let new = || FeedFigures {
            counts: Arc::default(),
            calls: Arc::new(SinkCalls::new(region, &self.name, feed)),
        };
        lock(&self.feeds).entry(feed.clone()).or_insert_with(new).clone()
    }

    fn feeds(&self) -> BTreeMap<FeedName, FeedStanding> {
        let mut backlogs = self.backlogs.by_feed();
        let standing = |(feed, figures): (&FeedName, &FeedFigures)| {
            let Backlog { age, records } = backlogs.remove(feed).unwrap_or_default();
            let FeedFigures { counts, calls } = figures;
            let (counts, blocked, last_call) = (counts.snapshot(), calls.blocked(), calls.last());
            (feed.clone(), FeedStanding { counts, backlog: records, age, blocked, last_call })
        };
        lock(&self.feeds).iter().map(standing).collect()
    }

    pub(super) fn started(&self, shards: Vec<Arc<Shards>>) {
        *lock(&self.standing) = TableState { shards: Some(shards), trouble: None };
    }

    pub(super) fn ended(&self) {
        lock(&self.standing).shards = None;
        self.refusals.clear();
    }

    /// Records why the table is not being replicated, or that it is. Returns whether that is news.
    pub(super) fn note_trouble(&self, trouble: Option<StartError>) -> bool {
        replace(&mut lock(&self.standing).trouble, trouble)
    }

    fn trouble(&self) -> Option<String> {
        lock(&self.standing).trouble.as_ref().map(StartError::in_one_line)
    }

    fn idle_calls(&self) -> u32 {
        let shards = lock(&self.standing).shards.clone().unwrap_or_default();
        shards.iter().map(|shards| shards.idle_calls()).min().unwrap_or_default()
    }

    fn is_drained(&self, calls: u32) -> bool {
        let in_trouble = lock(&self.standing).trouble.is_some();
        in_trouble || self.idle_calls() >= calls
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the new reason's text differs from the old one's.
fn replace(old: &mut Option<StartError>, new: Option<StartError>) -> bool {
    let text = |error: &Option<StartError>| error.as_ref().map(ToString::to_string);
    let is_news = text(old) != text(&new);
    *old = new;
    is_news
}
