//! The agent of one table: its lanes, its tracks, and the watermarks it gives and takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{SetOnce, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::track::{Checkpoints, Command, Notice, Shared, Track, TrackState, Until};
use crate::apply::{Complaints, Destination, Lanes, Replica};
use crate::config::{TableConfig, Tuning};
use crate::control::ControlTable;
use crate::fault::{FaultKind, persist};
use crate::lag::LagBook;
use crate::protocol::{Floors, Hlc, Origin};
use crate::region::Region;
use crate::schema::{KeySchema, describe};
use crate::stream::Source;
use crate::tally::Tally;

/// A destination whose checkpoint is older than the newest one by this much starts with a track
/// of its own.
const LATE_MILLIS: u64 = 120_000;
/// How often a peer whose table does not fit is looked at again.
const RECHECK: Duration = Duration::from_secs(15);

/// All that it takes to replicate one table from one region.
pub(super) struct TablePlan {
    pub(super) table: TableConfig,
    pub(super) tuning: Tuning,
    pub(super) local: Region,
    pub(super) peers: Vec<Region>,
    pub(super) stream_arn: String,
    pub(super) key_schema: KeySchema,
    pub(super) tally: Arc<Tally>,
    pub(super) lag: Arc<LagBook>,
}

enum Ended {
    Main,
    CatchUp(Origin, Checkpoints),
}

impl TablePlan {
    /// Replicates until it is stopped, and what is under way has been finished.
    pub(super) async fn run(self, stop: CancellationToken, state: watch::Sender<TrackState>) {
        // With this set, everything that belongs to the table ends.
        let mut tasks = JoinSet::new();
        let shared = self.share(&mut tasks);
        let checkpoints = persist(
            || shared.control.checkpoints(&shared.table),
            |fault| warn!(origin = %shared.origin, %fault, "can't read the checkpoints; trying again"),
        );
        let checkpoints = tokio::select! {
            biased;
            checkpoints = checkpoints => checkpoints,
            () = stop.cancelled() => return,
        };
        let checkpoints = match checkpoints {
            Ok(checkpoints) => checkpoints,
            Err(fault) => {
                error!(origin = %shared.origin, table = shared.table, %fault, "the checkpoints can't be read");
                return;
            }
        };
        shared.revision.store(checkpoints.next_run(), Ordering::Relaxed);
        let (in_time, late) = split(&shared, &checkpoints.shards);

        let mut tracks: JoinSet<Ended> = JoinSet::new();
        let (notices, mut incoming) = mpsc::unbounded_channel();
        let (commands, orders) = mpsc::unbounded_channel();
        let main = Track::new(Arc::clone(&shared), in_time, notices.clone(), state);
        let main_stop = stop.clone();
        tracks.spawn(async move {
            main.run(Until::Stopped, orders, main_stop).await;
            Ended::Main
        });
        let mut refusals: BTreeMap<Origin, mpsc::UnboundedSender<()>> = BTreeMap::new();
        let start = |peer: Origin, from: Checkpoints, tracks: &mut JoinSet<Ended>| {
            let (refuse, refused) = mpsc::unbounded_channel();
            let catch_up =
                CatchUp { shared: Arc::clone(&shared), peer: peer.clone(), main: commands.clone(), refused };
            tracks.spawn(catch_up.run(from, stop.clone()));
            (peer, refuse)
        };
        refusals.extend(late.into_iter().map(|(peer, from)| start(peer, from, &mut tracks)));
        loop {
            tokio::select! {
                biased;
                Some(notice) = incoming.recv() => match notice {
                    Notice::Dropped(peer, from) => refusals.extend([start(peer, from, &mut tracks)]),
                    Notice::Refused(peer) => {
                        if let Some(refuse) = refusals.get(&peer) {
                            let _ = refuse.send(());
                        }
                    }
                },
                ended = tracks.join_next() => match ended {
                    Some(Ok(Ended::CatchUp(peer, saved))) => {
                        let _ = commands.send(Command::Joined(peer, saved));
                    }
                    Some(Ok(Ended::Main)) => {}
                    Some(Err(error)) => {
                        error!(%error, table = shared.table, "a track broke down");
                        return;
                    }
                    None => return,
                },
            }
        }
    }

    /// Starts what all tracks share: the lanes, their gates, and the watermarks' coming and going.
    fn share(&self, tasks: &mut JoinSet<()>) -> Arc<Shared> {
        let control = ControlTable::of(&self.local);
        let name = self.table.name.clone();
        let mut lanes = BTreeMap::new();
        let mut promises = BTreeMap::new();
        for region in self.peers.iter().chain([&self.local]) {
            let is_local = region.name == self.local.name;
            // Not a watch: that wakes the lanes in a random order.
            let gate = Arc::new(if is_local { SetOnce::new_with(Some(())) } else { SetOnce::new() });
            let physical = self.table.name_in(&region.name).unwrap_or(&name).to_owned();
            let destination = Destination {
                region: region.name.clone(),
                origin: self.local.name.clone(),
                table: name.clone(),
                replica: Replica::new(region.writes.clone(), physical.clone(), fastrand::Rng::new().u64(..)),
                control: control.clone(),
                dead_letter_days: self.tuning.dead_letter_days,
                tally: Arc::clone(&self.tally),
                lag: Arc::clone(&self.lag),
                complaints: Complaints::default(),
            };
            let Tuning { concurrency, queue_mib, .. } = self.tuning;
            let started = Lanes::start(Arc::new(destination), concurrency, queue_mib, &gate, tasks);
            lanes.insert(region.name.clone(), Arc::new(started));
            let (promise, told) = watch::channel(Hlc::ZERO);
            promises.insert(region.name.clone(), promise);
            if !is_local {
                tasks.spawn(open_gate(region.clone(), physical, self.key_schema.clone(), gate));
                let origin = self.local.name.clone();
                tasks.spawn(publish(ControlTable::of(region), name.clone(), origin, told));
            }
        }
        let (seen, watermarks) = watch::channel(Floors::default());
        tasks.spawn(observe(control.clone(), name.clone(), self.tuning.checkpoint_interval, seen));
        Arc::new(Shared {
            origin: self.local.name.clone(),
            table: name,
            peers: self.peers.iter().map(|peer| peer.name.clone()).collect(),
            tuning: self.tuning.clone(),
            control,
            source: Source {
                client: self.local.streams.clone(),
                arn: self.stream_arn.clone(),
                pace: Arc::default(),
            },
            tally: Arc::clone(&self.tally),
            lanes,
            revision: AtomicU64::default(),
            watermarks,
            promises,
        })
    }
}

/// The destinations that go on together, and the peers that are too far behind for it.
fn split(
    shared: &Shared,
    checkpoints: &BTreeMap<crate::stream::ShardId, BTreeMap<Origin, crate::control::Checkpoint>>,
) -> (BTreeMap<Origin, Checkpoints>, BTreeMap<Origin, Checkpoints>) {
    let mut all: BTreeMap<Origin, Checkpoints> =
        shared.lanes.keys().map(|destination| (destination.clone(), Checkpoints::new())).collect();
    for (shard, by_destination) in checkpoints {
        for (destination, checkpoint) in by_destination {
            if let Some(mine) = all.get_mut(destination) {
                mine.insert(shard.clone(), checkpoint.clone());
            }
        }
    }
    let reached =
        |checkpoints: &Checkpoints| checkpoints.values().map(|c| c.millis).max().unwrap_or_default();
    let newest = all.values().map(reached).max().unwrap_or_default();
    all.into_iter().partition(|(destination, checkpoints)| {
        *destination == shared.origin || reached(checkpoints) + LATE_MILLIS >= newest
    })
}

/// Brings one peer up to where the main track is.
struct CatchUp {
    shared: Arc<Shared>,
    peer: Origin,
    main: mpsc::UnboundedSender<Command>,
    refused: mpsc::UnboundedReceiver<()>,
}

impl CatchUp {
    async fn run(mut self, from: Checkpoints, stop: CancellationToken) -> Ended {
        info!(origin = %self.shared.origin, peer = %self.peer, table = self.shared.table, "the peer is catching up");
        let (passed, until) = watch::channel(None);
        let (state, mut states) = watch::channel(TrackState::default());
        // A track for one peer is never asked, and drops nobody.
        let (_commands, orders) = mpsc::unbounded_channel();
        let (notices, _notices) = mpsc::unbounded_channel();
        let destinations = BTreeMap::from([(self.peer.clone(), from)]);
        let track = Track::new(Arc::clone(&self.shared), destinations, notices, state);
        let mut track = std::pin::pin!(track.run(Until::Passed(until), orders, stop));
        loop {
            tokio::select! {
                biased;
                saved = &mut track => return Ended::CatchUp(self.peer, saved),
                changed = states.wait_for(|state| state.near_tip) => {
                    if changed.is_err() {
                        continue;
                    }
                }
            }
            let (answer, positions) = oneshot::channel();
            let _ = self.main.send(Command::Attach(self.peer.clone(), answer));
            if let Ok(positions) = positions.await {
                passed.send_replace(Some(positions));
            }
            tokio::select! {
                biased;
                saved = &mut track => return Ended::CatchUp(self.peer, saved),
                Some(()) = self.refused.recv() => {
                    passed.send_replace(None);
                }
            }
        }
    }
}

/// Lets writes to a peer begin once its table is there, with the same keys.
async fn open_gate(peer: Region, physical: String, expected: KeySchema, gate: Arc<SetOnce<()>>) {
    loop {
        let described = persist(
            || describe(&peer, &physical),
            |fault| match fault.kind {
                FaultKind::Refused | FaultKind::Missing => error!(
                    peer = %peer.name, table = physical, %fault,
                    "can't replicate to the peer yet; `tradewind init` tells what it needs"
                ),
                _ => warn!(peer = %peer.name, table = physical, %fault, "can't reach the peer; trying again"),
            },
        );
        match described.await {
            Ok(described) if described.key_schema == expected => {
                // Nobody else opens it.
                let _ = gate.set(());
                return;
            }
            Ok(described) => error!(
                peer = %peer.name, table = physical, found = %described.key_schema, %expected,
                "the peer's table has other keys: nothing is replicated to it until it is made anew"
            ),
            Err(fault) => {
                error!(peer = %peer.name, table = physical, %fault, "can't describe the peer's table");
            }
        }
        tokio::time::sleep(RECHECK).await;
    }
}

/// Writes each new promise to a peer into its control table.
async fn publish(control: ControlTable, table: String, origin: Origin, mut promised: watch::Receiver<Hlc>) {
    while promised.changed().await.is_ok() {
        let hlc = *promised.borrow_and_update();
        let save = || control.save_watermark(&table, &origin, hlc);
        let saved =
            persist(save, |fault| debug!(%fault, table, "can't tell a peer its watermark; trying again"));
        if let Err(fault) = saved.await {
            warn!(%fault, table, "a peer's control table takes no watermark");
        }
    }
}

/// Reads, now and then, what the peers say has arrived here.
async fn observe(control: ControlTable, table: String, interval: Duration, seen: watch::Sender<Floors>) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match control.watermarks(&table).await {
            Ok(watermarks) => {
                seen.send_replace(watermarks);
            }
            Err(fault) => debug!(%fault, table, "can't read the watermarks; trying again"),
        }
    }
}
