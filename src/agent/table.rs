//! The agent of one table: its lanes, its shards, and the watermarks it publishes and reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, SetOnce, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info_span, warn};

use super::asked::Asked;
use super::backlog::Backlogs;
use super::coordinator::{Coordinator, Shards};
use super::crew::Member;
use super::figures::FeedFigures;
use super::foreign::Foreign;
use super::recorder::Recorder;
use super::shared::{Arrived, MemoryPlace, Notes, Shared};
use super::succession::{Before, Stage, Succession};
use crate::config::{Conflicts, FeedConfig, Start, TableConfig, Tuning};
use crate::control::{ConflictTable, ControlTable, FeedBegin, Leases, TableStream, lease_space};
use crate::deliver::{Batches, Complaints, Lanes, Outlet, Parking, Pauses, Refusals, Teller, Writer};
use crate::destination::Destination;
use crate::fault::{FaultKind, persist};
use crate::feed::Telling;
use crate::lag::LagBook;
use crate::protocol::{Floors, Hlc, Origin};
use crate::region::Region;
use crate::replica::{AttributeNames, Fitness, Replica};
use crate::schema::{Described, KeySchema, describe};
use crate::sink::Sink;
use crate::source::dynamodb_streams::{Pacer, Stream, own_millis};
use crate::spill::{Remembered, Spill};
use crate::tally::Tally;

/// How often a peer whose table does not fit is checked again.
const RECHECK: Duration = Duration::from_secs(15);

/// Everything needed to replicate one table from one region.
pub(super) struct TablePlan {
    pub(super) table: TableConfig,
    pub(super) tuning: Tuning,
    pub(super) local: Region,
    pub(super) peers: Vec<Region>,
    /// The streams to be read, oldest first: the last is the table's present one.
    pub(super) stages: Vec<Stage>,
    pub(super) succession: Succession,
    pub(super) key_schema: KeySchema,
    pub(super) tally: Arc<Tally>,
    pub(super) lag: Arc<LagBook>,
    pub(super) backlogs: Arc<Backlogs>,
    pub(super) pauses: Arc<Pauses>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) remembered: Arc<Remembered>,
    pub(super) spill: Arc<Spill>,
    pub(super) foreign: Arc<Foreign>,
    pub(super) feeds: Vec<TableFeed>,
}

/// A feed that this agent delivers.
pub(super) struct TableFeed {
    pub(super) config: FeedConfig,
    pub(super) figures: FeedFigures,
    pub(super) begin: FeedBegin,
}

impl TableFeed {
    pub(super) fn destination(&self) -> Destination {
        Destination::Feed(self.config.name.clone(), self.begin.rewinds)
    }
}

impl TablePlan {
    /// Replicates until it is stopped, and what is in progress has been finished; or until an indispensable
    /// task panics.
    pub(super) async fn run(
        self,
        member: Member,
        shards: Vec<Arc<Shards>>,
        stop: CancellationToken,
    ) -> Result<(), JoinError> {
        // Everything that belongs to the table ends with these sets.
        let (mut tasks, mut readings) = (JoinSet::new(), JoinSet::new());
        let (common, promises) = self.share(&mut tasks);
        let promises = Arc::new(promises);
        let mut last: Option<Arc<Before>> = None;
        for (i, (stage, shards)) in self.stages.iter().zip(shards).enumerate() {
            let Stage { stream, before } = stage;
            let next = self.stages.get(i + 1).map(|next| next.stream.clone());
            let behind = next.as_ref().map(|_| Before::behind(stream, common.outlets.keys().cloned()));
            // A stream that is no longer read has been read to its end.
            let is_read = last.is_some();
            let before =
                before.as_ref().map(|before| last.take().unwrap_or_else(|| Before::behind(before, [])));
            last.clone_from(&behind);
            let (client, arn) = (self.local.streams.clone(), stream.arn.clone());
            let (source, listing) = Stream::open(client, arn, Arc::clone(&common.pacer));
            // What they log says whose stream it is.
            let span = info_span!("stream", region = %self.local.name, table = self.table.name);
            tasks.spawn(listing.instrument(span));
            let (asked, told) = watch::channel(Asked::default());
            let shared = common.of_stream(&self, &stream.arn, source, told, before.clone());
            // The writes in a stream that follows another were made to a table that was already replicated.
            let start = if stream.before.is_some() { Start::TrimHorizon } else { self.table.start };
            let (member, promises) = (member.clone(), Arc::clone(&promises));
            let shared = Arc::new(shared);
            let coordinator =
                Coordinator::new(shared, member, start, behind, Arc::clone(&shards), asked, promises);
            let reading = StreamReading {
                coordinator,
                before,
                is_read,
                stream: stream.clone(),
                next,
                succession: self.succession.clone(),
                interval: self.tuning.discovery_interval,
                shards,
            };
            readings.spawn(reading.run(stop.clone()));
        }
        loop {
            tokio::select! {
                biased;
                Some(ended) = readings.join_next() => {
                    let is_last = ended?;
                    if readings.is_empty() || (is_last && !stop.is_cancelled()) {
                        return Ok(());
                    }
                }
                Some(ended) = tasks.join_next() => ended?,
            }
        }
    }

    /// Starts what all streams share: the lanes, their gates, and the exchange of watermarks.
    fn share(&self, tasks: &mut JoinSet<()>) -> (TableShared, BTreeMap<Destination, watch::Sender<Hlc>>) {
        let control = ControlTable::of(&self.local);
        let name = self.table.name.clone();
        let names = Arc::new(AttributeNames::default());
        let home = self.replica(&self.local, &names);
        let (mut outlets, mut promises) = (BTreeMap::new(), BTreeMap::new());
        let mut start = |destination: &Destination, region, replica, gate, tasks: &mut JoinSet<()>| {
            let writer = Arc::new(self.writer(destination.clone(), region, replica, &home));
            let Tuning { concurrency, queue_mib, .. } = self.tuning;
            let started = Lanes::start(writer, concurrency, queue_mib, &gate, tasks);
            outlets.insert(destination.clone(), Outlet::Replica(Arc::new(started)));
            let (promise, told) = watch::channel(Hlc::ZERO);
            promises.insert(destination.clone(), promise);
            told
        };
        // Not a `watch`, which wakes the lanes in random order.
        let open = Arc::new(SetOnce::new_with(Some(())));
        let own = start(&Destination::Home, &self.local, Arc::clone(&home), open, tasks);
        for region in &self.peers {
            let (peer, gate) = (Destination::Peer(region.name.clone()), Arc::new(SetOnce::new()));
            let told = start(&peer, region, self.replica(region, &names), Arc::clone(&gate), tasks);
            let (origin, keys) = (self.local.name.clone(), self.key_schema.clone());
            tasks.spawn(open_gate(origin, region.clone(), self.physical(region).to_owned(), keys, gate));
            let known = Arc::clone(&names);
            tasks.spawn(publish(self.local.clone(), region.clone(), name.clone(), known, told));
        }
        for feed in &self.feeds {
            let batches = Batches::start(self.teller(feed), self.tuning.queue_mib, tasks);
            outlets.insert(feed.destination(), Outlet::Feed(Arc::new(batches)));
        }
        let (seen, from_peers) = watch::channel(Floors::default());
        let interval = self.tuning.checkpoint_interval;
        let (local, backlogs) = (self.local.clone(), Arc::clone(&self.backlogs));
        let learnt = Arc::clone(&names);
        tasks.spawn(observe(local, control.clone(), name, interval, seen, learnt, backlogs));
        let Tuning { poll_interval, idle_poll_interval, .. } = self.tuning;
        let pacer = Arc::new(Pacer::new(poll_interval, idle_poll_interval));
        let (remembered, spill) = (Arc::clone(&self.remembered), Arc::clone(&self.spill));
        let memory = MemoryPlace { names, remembered, spill };
        let arrived = Arrived { from_peers, own };
        (TableShared { control, outlets, arrived, memory, notes: self.notes(tasks), pacer }, promises)
    }

    fn notes(&self, tasks: &mut JoinSet<()>) -> Notes {
        let recorder = (self.table.conflicts == Conflicts::Table).then(|| {
            let kept = ConflictTable::of(&self.local);
            let (name, tally) = (self.table.name.clone(), Arc::clone(&self.tally));
            Recorder::start(name, kept, &self.tuning, tally, tasks)
        });
        Notes {
            tally: Arc::clone(&self.tally),
            conflicts: self.table.conflicts,
            recorder,
            backlogs: Arc::clone(&self.backlogs),
            foreign: Arc::clone(&self.foreign),
        }
    }

    fn teller(&self, feed: &TableFeed) -> Teller {
        let FeedConfig { name, table, filters, shape, retry, on_failure, sink, .. } = &feed.config;
        let region = &self.local.name;
        Teller {
            telling: Telling {
                feed: name.clone(),
                table: table.clone(),
                region: region.clone(),
                aws_region: self.local.aws_region().to_owned(),
                shape: shape.clone(),
            },
            filters: filters.clone(),
            retry: *retry,
            sink: Sink::open(sink, &self.local),
            partition_key: self.key_schema.names().next().unwrap_or_default().to_owned(),
            counts: Arc::clone(&feed.figures.counts),
            calls: Arc::clone(&feed.figures.calls),
            complaints: Complaints::default(),
            pauses: Arc::clone(&self.pauses),
            since_millis: feed.begin.since_millis,
            parking: Parking::open(on_failure, &self.local, self.tuning.dead_letter_days),
        }
    }

    /// The table's name in a region.
    fn physical(&self, region: &Region) -> &str {
        self.table.name_in(&region.name).unwrap_or(&self.table.name)
    }

    fn replica(&self, region: &Region, names: &Arc<AttributeNames>) -> Arc<Replica> {
        let (physical, seed) = (self.physical(region).to_owned(), fastrand::Rng::new().u64(..));
        Arc::new(Replica::new(region, physical, Arc::clone(names), seed))
    }

    fn writer(
        &self,
        destination: Destination,
        region: &Region,
        replica: Arc<Replica>,
        home: &Arc<Replica>,
    ) -> Writer {
        let Tuning { dead_letter_days, poll_interval, idle_poll_interval, .. } = self.tuning;
        Writer {
            destination,
            origin: self.local.name.clone(),
            table: self.table.name.clone(),
            replica,
            fitness: Fitness::of(region.clone(), self.physical(region).to_owned(), self.key_schema.clone()),
            home: Arc::clone(home),
            control: ControlTable::of(&self.local),
            dead_letter_days,
            poll_interval: poll_interval.max(idle_poll_interval),
            tally: Arc::clone(&self.tally),
            lag: Arc::clone(&self.lag),
            complaints: Complaints::default(),
            pauses: Arc::clone(&self.pauses),
            refusals: Arc::clone(&self.refusals),
        }
    }
}

/// What all streams of a table share.
struct TableShared {
    control: ControlTable,
    outlets: BTreeMap<Destination, Outlet>,
    arrived: Arrived,
    memory: MemoryPlace,
    notes: Notes,
    pacer: Arc<Pacer>,
}

impl TableShared {
    /// What all tracks of one stream share.
    fn of_stream(
        &self,
        plan: &TablePlan,
        arn: &str,
        stream: Stream,
        asked: watch::Receiver<Asked>,
        before: Option<Arc<Before>>,
    ) -> Shared {
        Shared {
            origin: plan.local.name.clone(),
            space: lease_space(&plan.table.name, arn),
            table: plan.table.name.clone(),
            peers: plan.peers.iter().map(|peer| peer.name.clone()).collect(),
            selections: plan.table.selections.clone(),
            tuning: plan.tuning.clone(),
            control: self.control.clone(),
            stream,
            shows_arrivals: self.outlets.values().any(|outlet| match outlet {
                Outlet::Feed(batches) => batches.shows_arrivals(),
                Outlet::Replica(_) => false,
            }),
            before,
            outlets: self.outlets.clone(),
            pauses: Arc::clone(&plan.pauses),
            arrived: self.arrived.clone(),
            asked,
            memory: self.memory.clone(),
            notes: self.notes.clone(),
            wake: Notify::new(),
        }
    }
}

/// One stream that is being read.
struct StreamReading {
    coordinator: Coordinator,
    before: Option<Arc<Before>>,
    /// Whether the previous one is being read, too.
    is_read: bool,
    stream: TableStream,
    next: Option<TableStream>,
    succession: Succession,
    /// How often to check whether a stream that is no longer the table's own still exists.
    interval: Duration,
    shards: Arc<Shards>,
}

impl StreamReading {
    /// Reads it until it is stopped, or until nothing of it is left to read. Returns whether nothing is left
    /// to read for any destination.
    async fn run(self, stop: CancellationToken) -> bool {
        let Self { coordinator, before, is_read, stream, next, succession, interval, shards } = self;
        if let Some(before) = before {
            if !is_read {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return next.is_none(),
                    () = succession.recall(&before) => {}
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return next.is_none(),
                () = before.over(&Destination::Home) => {}
            }
        }
        let (Some(next), Some(behind)) = (next, coordinator.behind().cloned()) else {
            coordinator.run(stop).await;
            return true;
        };
        let leave = stop.child_token();
        let mut reading = std::pin::pin!(coordinator.run(leave.clone()));
        tokio::select! {
            biased;
            is_over = &mut reading => {
                if !is_over {
                    return true;
                }
                succession.finish(&stream).await;
            }
            () = succession.lose(&stream, &next, interval) => {
                leave.cancel();
                reading.await;
                behind.note(BTreeSet::new(), Leases::new());
            }
        }
        shards.are_over();
        false
    }
}

/// Lets writes to a peer start once its table exists, with the same keys.
async fn open_gate(
    region: Origin,
    peer: Region,
    physical: String,
    expected: KeySchema,
    gate: Arc<SetOnce<()>>,
) {
    loop {
        let described = persist(
            || describe(&peer, &physical),
            |fault| match fault.kind {
                FaultKind::Refused | FaultKind::Missing => error!(
                    %region, peer = %peer.name, table = physical, %fault,
                    "can't replicate to the peer yet; `tradewind init` says what it needs"
                ),
                _ => {
                    warn!(%region, peer = %peer.name, table = physical, %fault, "can't reach the peer; retrying");
                }
            },
        );
        match described.await {
            Ok(Described { managed: Some(reason), .. }) => error!(
                %region, peer = %peer.name, table = physical, reason,
                "Tradewind must not write to the peer's table: nothing is replicated to it"
            ),
            Ok(described) if described.key_schema == expected => {
                // Nobody else opens it.
                let _ = gate.set(());
                return;
            }
            Ok(described) => error!(
                %region, peer = %peer.name, table = physical, found = %described.key_schema, %expected,
                "the peer's table has other keys: nothing is replicated to it until it is recreated"
            ),
            Err(fault) => {
                error!(%region, peer = %peer.name, table = physical, %fault, "can't describe the peer's table");
            }
        }
        tokio::time::sleep(RECHECK).await;
    }
}

/// Writes each new promise to a peer into its control table.
async fn publish(
    local: Region,
    peer: Region,
    table: String,
    names: Arc<AttributeNames>,
    mut promised: watch::Receiver<Hlc>,
) {
    let (control, region, peer) = (ControlTable::of(&peer), local.name, peer.name);
    while promised.changed().await.is_ok() {
        let hlc = *promised.borrow_and_update();
        let save = || control.save_watermark(&table, &region, hlc, names.all(), own_millis(&local.streams));
        let saved = persist(save, |fault| {
            debug!(%region, %peer, table, %fault, "can't save the watermark in a peer's control table; retrying");
        });
        if let Err(fault) = saved.await {
            warn!(%region, %peer, table, %fault, "a peer's control table refuses the watermark");
        }
    }
}

/// Regularly reads what the peers report to have arrived here.
async fn observe(
    local: Region,
    control: ControlTable,
    table: String,
    interval: Duration,
    seen: watch::Sender<Floors>,
    names: Arc<AttributeNames>,
    backlogs: Arc<Backlogs>,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match control.watermarks(&table).await {
            Ok(watermarks) => {
                // The origin of a watermark that lies ahead takes it back with its next report.
                let arrived = watermarks.arrived.credible(own_millis(&local.streams));
                backlogs.arrived(arrived.clone());
                seen.send_replace(arrived);
                names.learn(watermarks.names.iter());
            }
            Err(fault) => debug!(%fault, table, "can't read the watermarks; retrying"),
        }
    }
}
