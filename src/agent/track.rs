//! One reading of the local stream: stream → classify → resolve → apply.
//!
//! The main track feeds the local replica and every peer that keeps up. A peer that has fallen
//! behind is fed by a track of its own, from where it was left, until it has caught up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::progress::{Needs, PageEnd, Progress};
use crate::apply::{Job, Lanes, Ledger};
use crate::config::Tuning;
use crate::control::{Checkpoint, ControlTable};
use crate::fault::{Fault, FaultKind};
use crate::protocol::{Action, Conflict, Floors, Hlc, KeyMemory, Origin};
use crate::stream::{Page, Position, ShardId, Source, StreamEvent, read};
use crate::tally::Tally;

/// How long the other peers may be held up, in all, by one that is slow, before that one gets a
/// track of its own.
const PATIENCE: Duration = Duration::from_secs(3);
/// Creation times move the durable promise by at least this much, or it is not worth a write.
const WORTH_A_WRITE_MILLIS: u64 = 60_000;
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What all tracks of one table share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) origin: Origin,
    pub(super) table: String,
    pub(super) peers: Vec<Origin>,
    pub(super) tuning: Tuning,
    pub(super) control: ControlTable,
    pub(super) source: Source,
    pub(super) tally: Arc<Tally>,
    /// The lanes to every region, the local one included.
    pub(super) lanes: BTreeMap<Origin, Arc<Lanes>>,
    /// That of the next save of checkpoints: a save that lands late must not undo later ones.
    pub(super) revision: AtomicU64,
    /// What the peers say has arrived here.
    pub(super) watermarks: watch::Receiver<Floors>,
    /// What may be told to each peer, and to ourselves: what is durably done there.
    pub(super) promises: BTreeMap<Origin, watch::Sender<Hlc>>,
}

/// The checkpoints of one destination.
pub(super) type Checkpoints = BTreeMap<ShardId, Checkpoint>;

/// What a track is asked.
#[derive(Debug)]
pub(super) enum Command {
    /// Feed this peer again, from here on; the answer says where that is.
    Attach(Origin, oneshot::Sender<BTreeMap<ShardId, Position>>),
    /// All that came before that has been done, and saved so far.
    Joined(Origin, Checkpoints),
}

/// What a track tells.
#[derive(Debug)]
pub(super) enum Notice {
    /// A peer can't keep up; it has been given everything up to these checkpoints.
    Dropped(Origin, Checkpoints),
    /// A peer that was being attached can't keep up.
    Refused(Origin),
}

/// How a track treats one destination.
#[derive(Debug)]
struct Feed {
    ledger: Arc<Ledger>,
    /// What was done before this track began.
    start: BTreeMap<ShardId, Position>,
    state: FeedState,
    held_up: Duration,
    saved: Checkpoints,
}

#[derive(Debug)]
enum FeedState {
    Fed,
    /// Fed, while another track still does what came before.
    Joining,
    /// No longer fed; what it was given, up to here, is still being worked on.
    Dropped(Box<Dropped>),
}

/// Where a track stood when it dropped a peer.
#[derive(Debug)]
struct Dropped {
    fed_to: u64,
    progress: Progress,
    needs: Needs,
}

/// When a track comes to its end.
#[derive(Debug)]
pub(super) enum Until {
    /// When it is told to.
    Stopped,
    /// When it has passed these positions and all is done; `None` until they are known.
    Passed(watch::Receiver<Option<BTreeMap<ShardId, Position>>>),
}

pub(super) struct Track {
    shared: Arc<Shared>,
    memory: KeyMemory,
    floors: Arc<Floors>,
    /// Watermarks that wait until the stream has been read past the moment they were seen.
    unsettled: VecDeque<(Instant, Floors)>,
    /// A lower bound of the oldest record that the memory needs; exact at each sweep.
    oldest: u64,
    progress: Progress,
    feeds: BTreeMap<Origin, Feed>,
    notices: mpsc::UnboundedSender<Notice>,
    state: watch::Sender<TrackState>,
    /// How often the shards must have been listed before the track may come to its end: what the
    /// main track knows of shards is newer than its own list.
    listings_needed: u64,
    is_main: bool,
}

/// Where a track stands, for those that wait for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TrackState {
    /// The calls in a row that found nothing to read, nothing to do, and nobody left behind.
    pub(super) idle_calls: u32,
    /// It reads what was written just now.
    pub(super) near_tip: bool,
    /// The keys that are held in memory.
    pub(super) remembered: usize,
}

impl Track {
    /// A track that goes on from the checkpoints of its destinations.
    pub(super) fn new(
        shared: Arc<Shared>,
        destinations: BTreeMap<Origin, Checkpoints>,
        notices: mpsc::UnboundedSender<Notice>,
        state: watch::Sender<TrackState>,
    ) -> Self {
        let mut base: BTreeMap<ShardId, (Position, u64)> = BTreeMap::new();
        let mut floors: Option<Floors> = None;
        for checkpoint in destinations.values().flat_map(BTreeMap::values) {
            floors = Some(floors.map_or_else(|| checkpoint.floors.clone(), |f| f.meet(&checkpoint.floors)));
        }
        let shards = destinations.values().flat_map(BTreeMap::keys);
        for shard in shards {
            let mut least: Option<(Position, u64)> = None;
            for checkpoints in destinations.values() {
                let (position, millis) = checkpoints
                    .get(shard)
                    .map_or((Position::TrimHorizon, 0), |c| (c.rewind.clone(), c.millis));
                least =
                    Some(least.map_or((position.clone(), millis), |(p, m)| (p.min(position), m.min(millis))));
            }
            base.extend(least.map(|least| (shard.clone(), least)));
        }
        let is_main = destinations.contains_key(&shared.origin);
        let feeds = destinations
            .into_iter()
            .map(|(destination, saved)| {
                let start = saved.iter().map(|(shard, c)| (shard.clone(), c.done.clone())).collect();
                (destination, Feed::new(FeedState::Fed, start, saved))
            })
            .collect();
        Self {
            memory: KeyMemory::new(shared.origin.clone()),
            floors: Arc::new(floors.unwrap_or_default()),
            unsettled: VecDeque::new(),
            oldest: 0,
            progress: Progress::new(base, shared.tuning.settle),
            feeds,
            notices,
            state,
            listings_needed: 0,
            is_main,
            shared,
        }
    }

    /// Reads until it is stopped, or has reached its end; then waits for what is under way, and
    /// makes a last checkpoint. Returns what has been saved for its last destination.
    pub(super) async fn run(
        mut self,
        mut until: Until,
        mut commands: mpsc::UnboundedReceiver<Command>,
        stop: CancellationToken,
    ) -> Checkpoints {
        let (events, mut incoming) = mpsc::channel(4);
        let reader = read(
            self.shared.source.clone(),
            self.progress.positions(),
            self.shared.tuning.poll_interval,
            events,
        );
        let mut ticks = tokio::time::interval(self.shared.tuning.checkpoint_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reader = std::pin::pin!(reader);
        loop {
            // In this order, so that a simulation repeats itself; events come last, being many.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = &mut reader => break,
                _ = ticks.tick() => self.checkpoint().await,
                Some(command) = commands.recv() => self.command(command),
                Some(event) = incoming.recv() => self.event(event).await,
            }
            if self.has_ended(&mut until) {
                break;
            }
        }
        drop(incoming);
        self.drain().await;
        self.checkpoint().await;
        self.feeds.pop_last().map(|(_, feed)| feed.saved).unwrap_or_default()
    }

    fn has_ended(&mut self, until: &mut Until) -> bool {
        let Until::Passed(positions) = until else { return false };
        if positions.has_changed().unwrap_or(false) {
            // One list may be on its way already.
            self.listings_needed = self.progress.listings() + 2;
        }
        let positions = positions.borrow_and_update();
        positions.as_ref().is_some_and(|positions| {
            self.progress.listings() >= self.listings_needed
                && self.progress.has_passed(positions)
                && self.feeds.values().all(|feed| feed.ledger.is_empty())
        })
    }

    async fn event(&mut self, event: StreamEvent) {
        let table = &self.shared.table;
        match event {
            StreamEvent::Listed(shards) => {
                for shard in self.progress.listed(shards) {
                    self.retire(&shard).await;
                }
            }
            StreamEvent::Opened(shard) => self.progress.opened(shard),
            StreamEvent::Page(page) => self.page(page).await,
            StreamEvent::Trimmed { shard, after } => {
                self.shared.tally.gaps.add();
                error!(
                    origin = %self.shared.origin, table, %shard, %after,
                    "records after this position were trimmed before they were read (streams keep 24 hours): \
                     writes may be missing at the peers; run `tradewind verify`"
                );
            }
            StreamEvent::Unreadable { shard, reason } => {
                self.shared.tally.unreadable.add();
                error!(origin = %self.shared.origin, table, %shard, reason, "a record was passed over");
            }
        }
    }

    async fn retire(&mut self, shard: &ShardId) {
        for feed in self.feeds.values_mut() {
            feed.saved.remove(shard);
        }
        if self.is_main {
            let retire = || self.shared.control.retire_shard(&self.shared.table, shard);
            if let Err(fault) = retire().await {
                debug!(%shard, %fault, "can't remove the checkpoint of a shard that is gone");
            }
        }
    }

    async fn page(&mut self, page: Page) {
        let seen = Instant::now();
        let end = PageEnd::of(&page);
        let before = self.needs();
        let full = page.records.len() >= 1_000;
        for (sequence, record) in page.records {
            let ordinal = self.progress.next_ordinal();
            let created_millis = record.created_millis;
            let stamp_in_place = self.is_main && !full && self.memory.len() >= self.shared.tuning.memory_keys;
            let judgement = self.memory.judge(ordinal, record, &self.floors, stamp_in_place);
            let is_new =
                |feed: &Feed| feed.start.get(&page.shard).is_none_or(|position| !position.covers(&sequence));
            if self.is_main && self.feeds.values().any(is_new) {
                self.shared.tally.count_verdict(judgement.verdict);
                if let Some(conflict) = &judgement.conflict {
                    self.report(conflict);
                }
            }
            let targets: Vec<Origin> =
                self.feeds.iter().filter(|(_, feed)| is_new(feed)).map(|(name, _)| name.clone()).collect();
            for action in judgement.actions {
                let local = !matches!(action, Action::Push(_));
                for target in &targets {
                    if (*target == self.shared.origin) != local {
                        continue;
                    }
                    self.dispatch(target, &action, ordinal, created_millis, seen).await;
                }
            }
        }
        self.progress.judged(&end, before);
        self.note_idle(&end);
    }

    fn report(&self, conflict: &Conflict) {
        self.shared.tally.conflicts.add();
        let Conflict { lost, won, .. } = conflict;
        debug!(table = self.shared.table, lost = %lost, won = %won, "conflict: the last writer won");
    }

    /// Queues an action for a destination. A destination without room is waited for, but a peer
    /// no longer than the others can bear.
    async fn dispatch(
        &mut self,
        target: &Origin,
        action: &Action,
        ordinal: u64,
        created_millis: u64,
        seen: Instant,
    ) {
        let Some(lanes) = self.shared.lanes.get(target).cloned() else { return };
        let alone = self.feeds.len() == 1;
        let Some(feed) = self.feeds.get_mut(target) else { return };
        if feed.is_dropped() {
            return;
        }
        let job =
            Job { action: action.clone(), ordinal, ledger: Arc::clone(&feed.ledger), created_millis, seen };
        let Some(job) = lanes.try_send(job) else {
            feed.held_up = feed.held_up.saturating_sub(Duration::from_millis(1));
            return;
        };
        let waiting = Instant::now();
        if alone || *target == self.shared.origin {
            lanes.send(job).await;
        } else if tokio::time::timeout(PATIENCE.saturating_sub(feed.held_up), lanes.send(job)).await.is_ok() {
            feed.held_up += waiting.elapsed();
        } else {
            self.drop_feed(target, ordinal);
        }
    }

    fn drop_feed(&mut self, peer: &Origin, ordinal: u64) {
        let (needs, progress) = (self.needs(), self.progress.before(ordinal));
        let Some(feed) = self.feeds.get_mut(peer) else { return };
        warn!(
            origin = %self.shared.origin, %peer, table = self.shared.table,
            "the peer can't keep up: it gets a cursor of its own, and the others go on"
        );
        if let FeedState::Joining = feed.state {
            self.feeds.remove(peer);
            let _ = self.notices.send(Notice::Refused(peer.clone()));
        } else {
            feed.state = FeedState::Dropped(Box::new(Dropped { fed_to: ordinal, progress, needs }));
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Attach(peer, answer) => {
                let positions = self.progress.positions();
                self.feeds.insert(peer, Feed::new(FeedState::Joining, BTreeMap::new(), BTreeMap::new()));
                let _ = answer.send(positions);
            }
            Command::Joined(peer, saved) => {
                if let Some(feed) = self.feeds.get_mut(&peer) {
                    // What has been promised for these must not be taken back.
                    feed.saved = saved;
                    feed.state = FeedState::Fed;
                    info!(origin = %self.shared.origin, %peer, table = self.shared.table, "the peer has caught up");
                }
            }
        }
    }

    fn needs(&self) -> Needs {
        Needs { oldest: self.oldest, floors: Arc::clone(&self.floors) }
    }

    fn note_idle(&self, end: &PageEnd) {
        let idle = self.progress.at_tip()
            && end.last_millis.is_none()
            && self.feeds.values().all(|feed| feed.is_fed() && feed.ledger.is_empty())
            && (!self.is_main || self.feeds.len() == self.shared.lanes.len());
        let near_tip = self.progress.near_tip();
        let remembered = self.memory.len();
        self.state.send_modify(|state| {
            state.remembered = remembered;
            state.idle_calls = if idle { state.idle_calls.saturating_add(1) } else { 0 };
            state.near_tip = near_tip;
        });
    }

    /// Takes in watermarks, forgets what may be forgotten, and makes progress durable.
    async fn checkpoint(&mut self) {
        self.settle();
        self.memory.forget(&self.shared.peers, &self.floors);
        self.oldest = self.memory.oldest().unwrap_or_else(|| self.progress.next());
        let now = self.needs();
        let mut changed: BTreeMap<ShardId, Vec<(Origin, Checkpoint)>> = BTreeMap::new();
        let mut least = self.progress.next();
        for (destination, feed) in &self.feeds {
            let unfinished = feed.unfinished(self.progress.next());
            let checkpoints = match &feed.state {
                FeedState::Joining => continue,
                FeedState::Fed => {
                    least = least.min(unfinished);
                    self.progress.checkpoints(unfinished, &now)
                }
                FeedState::Dropped(dropped) => dropped.progress.checkpoints(unfinished, &dropped.needs),
            };
            for (shard, checkpoint) in checkpoints {
                let checkpoint = feed.advance(&shard, checkpoint);
                if feed.is_worth_saving(&shard, &checkpoint) {
                    changed.entry(shard).or_default().push((destination.clone(), checkpoint));
                }
            }
        }
        for (shard, changed) in changed {
            match self.save(&shard, &changed).await {
                Ok(()) => {
                    for (destination, checkpoint) in changed {
                        if let Some(feed) = self.feeds.get_mut(&destination) {
                            feed.saved.insert(shard.clone(), checkpoint);
                        }
                    }
                }
                Err(fault) => warn!(
                    origin = %self.shared.origin, table = self.shared.table, %fault,
                    "can't save a checkpoint in the control table; trying again"
                ),
            }
        }
        self.promise();
        self.release_dropped();
        self.progress.prune(least, &now);
    }

    /// Saves, but holds the stream up only so long: the next checkpoint is soon.
    async fn save(&self, shard: &ShardId, changed: &[(Origin, Checkpoint)]) -> Result<(), Fault> {
        let revision = self.shared.revision.fetch_add(1, Ordering::Relaxed);
        let save = self.shared.control.save_checkpoints(&self.shared.table, shard, revision, changed);
        tokio::time::timeout(SAVE_TIMEOUT, save).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", SAVE_TIMEOUT.as_secs());
            Err(Fault { kind: FaultKind::Unreachable, code: String::new(), message })
        })
    }

    /// Raises the floors by the watermarks, the own one among them, that were seen before all that
    /// has now been read.
    fn settle(&mut self) {
        let mut floors = self.shared.watermarks.borrow().clone();
        if let Some(own) = self.shared.promises.get(&self.shared.origin) {
            floors.raise(&self.shared.origin, *own.borrow());
        }
        if self.unsettled.back().is_none_or(|(_, last)| *last != floors) {
            self.unsettled.push_back((Instant::now(), floors));
        }
        let Some(read_to) = self.progress.read_to() else { return };
        while self.unsettled.front().is_some_and(|(seen, _)| *seen <= read_to) {
            if let Some((_, watermarks)) = self.unsettled.pop_front() {
                let floors = Arc::make_mut(&mut self.floors);
                watermarks.iter().for_each(|(origin, hlc)| floors.raise(origin, hlc));
            }
        }
    }

    /// Tells each peer what is durably with it: all writes older than its least advanced shard.
    fn promise(&self) {
        let Some(frontier) = self.progress.frontier() else { return };
        for (peer, feed) in &self.feeds {
            let saved = |shard: &&ShardId| feed.saved.get(shard).map_or(0, |checkpoint| checkpoint.millis);
            // Shards that have been read to their ends may still have records under way.
            let unfinished = feed.saved.values().filter(|checkpoint| checkpoint.done != Position::End);
            let unfinished = unfinished.map(|checkpoint| checkpoint.millis);
            let Some(millis) = frontier.iter().map(saved).chain(unfinished).min() else { continue };
            if let (Some(promise), true) = (self.shared.promises.get(peer), feed.is_fed()) {
                promise.send_if_modified(|promised| {
                    let raised = Hlc::at_millis(millis) > *promised;
                    *promised = (*promised).max(Hlc::at_millis(millis));
                    raised
                });
            }
        }
    }

    /// Hands on the peers that have done all that they were given.
    fn release_dropped(&mut self) {
        let finished = |feed: &Feed| feed.is_dropped() && feed.is_saved();
        let released: Vec<Origin> =
            self.feeds.iter().filter(|(_, feed)| finished(feed)).map(|(peer, _)| peer.clone()).collect();
        for peer in released {
            if let Some(feed) = self.feeds.remove(&peer) {
                let _ = self.notices.send(Notice::Dropped(peer, feed.saved));
            }
        }
    }

    /// Waits for the writes under way, as long as a stopping agent may.
    async fn drain(&self) {
        let deadline = Instant::now() + self.shared.tuning.drain_timeout;
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while self.feeds.values().any(|feed| !feed.ledger.is_empty()) {
            if Instant::now() >= deadline {
                let left: usize = self.feeds.values().map(|feed| feed.ledger.len()).sum();
                warn!(left, "stopping with writes under way: they are made again after the next start");
                return;
            }
            ticks.tick().await;
        }
    }
}

impl Feed {
    fn new(state: FeedState, start: BTreeMap<ShardId, Position>, saved: Checkpoints) -> Self {
        Self { ledger: Arc::default(), start, state, held_up: Duration::ZERO, saved }
    }

    fn is_fed(&self) -> bool {
        matches!(self.state, FeedState::Fed)
    }

    fn is_dropped(&self) -> bool {
        matches!(self.state, FeedState::Dropped(_))
    }

    /// Whether all that a dropped peer was given is done, and durably so.
    fn is_saved(&self) -> bool {
        let FeedState::Dropped(dropped) = &self.state else { return false };
        let Dropped { fed_to, progress, needs } = dropped.as_ref();
        self.ledger.is_empty()
            && progress.checkpoints(*fed_to, needs).into_iter().all(|(shard, checkpoint)| {
                self.saved.get(&shard).is_some_and(|saved| saved.done >= checkpoint.done)
            })
    }

    /// The first record that is not done.
    fn unfinished(&self, next: u64) -> u64 {
        let fed_to = match &self.state {
            FeedState::Dropped(dropped) => dropped.fed_to,
            FeedState::Fed | FeedState::Joining => next,
        };
        self.ledger.first().map_or(fed_to, |first| first.min(fed_to))
    }

    /// A checkpoint never goes back: while a restarted track re-reads, the old one holds.
    fn advance(&self, shard: &ShardId, mut checkpoint: Checkpoint) -> Checkpoint {
        if let Some(saved) = self.saved.get(shard) {
            if checkpoint.done < saved.done {
                checkpoint = saved.clone();
            }
            checkpoint.millis = checkpoint.millis.max(saved.millis);
        }
        checkpoint
    }

    fn is_worth_saving(&self, shard: &ShardId, checkpoint: &Checkpoint) -> bool {
        self.saved.get(shard).is_none_or(|saved| {
            saved.done != checkpoint.done
                || saved.rewind != checkpoint.rewind
                || checkpoint.millis >= saved.millis + WORTH_A_WRITE_MILLIS
        })
    }
}
