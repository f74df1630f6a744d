//! One reading of one shard: stream → classify → resolve → apply.
//!
//! The main track of a shard feeds the local replica and every peer that keeps up. A peer that has fallen
//! behind is fed by a track of its own, from where it was left, until it has caught up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::asked::Asked;
use super::backlog::Backlogs;
use super::foreign::Foreign;
use super::holding::{From, Holding};
use super::progress::{Needs, PageEnd, Progress};
use super::recorder::Recorder;
use super::succession::Before;
use super::terms::Terms;
use super::times::Created;
use crate::clock::wall_millis;
use crate::config::{Conflicts, Tuning};
use crate::control::{Cause, Checkpoint, ControlTable, Gap, Held, Jump};
use crate::deliver::{Complaints, Job, Lanes, Ledger, Pauses, Source};
use crate::log_key::log_key;
use crate::protocol::{Action, Conflict, Floors, Hlc, KeyId, Origin, Selections, Version, is_credible};
use crate::replica::AttributeNames;
use crate::spill::{Keys, Remembered, Spill, SpillError};
use crate::stream::{Page, Position, ShardId, Stream, StreamEvent, UnreadableRecord, own_millis};
use crate::tally::Tally;
use crate::telemetry::Trace;

/// How long the other peers may be held up, in all, by one that is slow, before that one gets a
/// track of its own.
const PATIENCE: Duration = Duration::from_secs(3);
/// Creation times move the durable promise by at least this much, or it is not worth a write.
const WORTH_A_WRITE_MILLIS: u64 = 60_000;
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a save that failed is tried again at a shard's end.
const SAVE_AGAIN: Duration = Duration::from_secs(1);
const HOUR_MILLIS: u64 = 3_600_000;
/// Floors that wait for the stream to be read; more are of no use.
const UNSETTLED: usize = 64;
/// How often a track that has read its shard looks whether all is done.
const SETTLE_POLL: Duration = Duration::from_millis(50);

/// What all tracks of one table share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) origin: Origin,
    pub(super) table: String,
    /// Where the leases of the table's stream are kept.
    pub(super) space: String,
    pub(super) peers: Vec<Origin>,
    /// What goes to which region.
    pub(super) selections: Selections,
    pub(super) tuning: Tuning,
    pub(super) control: ControlTable,
    pub(super) stream: Stream,
    /// The stream before.
    pub(super) before: Option<Arc<Before>>,
    pub(super) tally: Arc<Tally>,
    pub(super) conflicts: Conflicts,
    /// Where conflicts are recorded, if they are to be.
    pub(super) recorder: Option<Recorder>,
    /// The attributes that the table's items have.
    pub(super) names: Arc<AttributeNames>,
    /// The lanes to every region, the local one included.
    pub(super) lanes: BTreeMap<Origin, Arc<Lanes>>,
    /// What the peers say has arrived here.
    pub(super) watermarks: watch::Receiver<Floors>,
    /// What all leases together say is durably done here, of our own writes.
    pub(super) own_watermark: watch::Receiver<Hlc>,
    /// What the table's agents are asked.
    pub(super) asked: watch::Receiver<Asked>,
    /// The keys that all tracks remember.
    pub(super) remembered: Arc<Remembered>,
    /// Where those are kept for which there is no room in memory.
    pub(super) spill: Arc<Spill>,
    /// How far each peer is behind, for people.
    pub(super) backlogs: Arc<Backlogs>,
    /// The peers that nothing is written to for now.
    pub(super) pauses: Arc<Pauses>,
    /// Writes of agents of another setup.
    pub(super) foreign: Arc<Foreign>,
    /// Wakes whoever shares the shards out: one has ended.
    pub(super) wake: Notify,
}

impl Shared {
    /// The gap that is left where records were trimmed before they were done for `peers`; none, if
    /// nothing of what they lack is so old. Nothing created before `from_millis` is missing.
    pub(super) fn gap(&self, shard: &ShardId, peers: Vec<Origin>, from_millis: u64) -> Option<Gap> {
        let until_millis = self.trimmed_to().unwrap_or(u64::MAX);
        if from_millis >= until_millis {
            debug!(%shard, "nothing that was trimmed was still to be done");
            return None;
        }
        self.tally.gaps.add();
        let gap = Gap {
            origin: self.origin.clone(),
            shard: shard.to_string(),
            cause: Cause::Trimmed,
            peers,
            from_millis,
            until_millis,
            found_millis: own_millis(&self.stream.client),
        };
        error!(region = %self.origin, table = self.table, "{gap}; the table is marked: run `tradewind verify`");
        Some(gap)
    }

    /// Whatever was created before is trimmed, in milliseconds, as far as is known.
    fn trimmed_to(&self) -> Option<u64> {
        let listed = self.stream.lineage.borrow().as_ref()?.listed_millis?;
        Some(listed.saturating_sub(self.retention_millis()))
    }

    fn retention_millis(&self) -> u64 {
        u64::try_from(self.tuning.stream_retention.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a destination has all of the stream before.
    pub(super) fn may_begin(&self, destination: &Origin) -> bool {
        self.before.as_ref().is_none_or(|before| !before.holds(destination))
    }

    /// Tells now and then of replicated writes whose origin is no region of this setup.
    fn note_origin(&self, origin: &Origin) {
        if self.lanes.contains_key(origin) {
            return;
        }
        self.tally.foreign.add();
        if let Some(writes) = self.foreign.note(origin) {
            warn!(
                region = %self.origin, table = self.table, %origin, writes,
                "agents of another setup write to this table: the stamps name a region that is not among the table's \
                 regions in this configuration. Such writes pass for replicated, and go to no peer: let one setup \
                 have all regions of the table"
            );
        }
    }

    /// What of an action is to be done at a destination, if anything.
    fn view(&self, action: &Action, target: &Origin) -> Option<Action> {
        match action {
            _ if (*target == self.origin) == matches!(action, Action::Push(_)) => None,
            Action::Push(write) => {
                let write = self.selections.view(&self.origin, target, write)?;
                Some(Action::Push(write.into_owned()))
            }
            _ => Some(action.clone()),
        }
    }

    /// Marks the table; whether that is durable.
    pub(super) async fn mark(&self, gap: &Gap) -> bool {
        let Self { origin: region, table, .. } = self;
        match tokio::time::timeout(SAVE_TIMEOUT, self.control.save_gap(table, gap)).await {
            Ok(Ok(())) => return true,
            Ok(Err(fault)) => warn!(%region, table, %fault, "a gap's mark can't be saved; trying again"),
            Err(_) => warn!(%region, table, "a gap's mark could not be saved in time; trying again"),
        }
        false
    }
}

/// What a track is asked.
#[derive(Debug)]
pub(super) enum Command {
    /// Feed this peer again, from here on.
    Attach(Origin, Arc<watch::Sender<Meeting>>),
    /// All that came before that has been done, and saved so far.
    Joined(Origin, Option<Checkpoint>),
}

/// Where a peer that catches up is to meet the main track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// Not known yet.
    Open,
    /// The main track feeds the peer from here on.
    At(BTreeMap<ShardId, Position>),
    /// The main track has left the peer behind once more.
    Missed,
}

/// What a track tells.
#[derive(Debug)]
pub(super) enum Notice {
    /// A peer can't keep up; it has been given everything up to this checkpoint.
    Dropped(Origin, Checkpoint),
}

/// How a track treats one destination.
#[derive(Debug)]
struct Feed {
    ledger: Arc<Ledger>,
    /// What was done of the shard before this track began.
    start: Position,
    state: FeedState,
    held_up: Duration,
    /// What the lease says; nothing of a destination that it does not name yet.
    saved: Option<Checkpoint>,
}

#[derive(Debug)]
enum FeedState {
    Fed,
    /// Fed, while another track still does what came before.
    Joining(Arc<watch::Sender<Meeting>>),
    /// No longer fed; what it was given, up to here, is still being worked on.
    Dropped(Box<Dropped>),
}

/// Where a track stood when it dropped a peer.
#[derive(Debug)]
struct Dropped {
    fed_to: u64,
    /// When the first record that it was not given was created.
    created_millis: u64,
    progress: Progress,
    needs: Needs,
}

/// When a track comes to its end, other than at the shard's.
#[derive(Debug)]
pub(super) enum Until {
    /// When it is told to.
    Stopped,
    /// When it has come to the meeting and all is done.
    Met(watch::Receiver<Meeting>),
}

pub(super) struct Track {
    shared: Arc<Shared>,
    holding: Arc<Holding>,
    keys: Keys,
    /// What may be forgotten.
    floors: Floors,
    /// What tells a put-back from the replicated write that it copies.
    terms: Terms,
    /// Watermarks that wait until the stream has been read past the moment they were seen.
    unsettled: VecDeque<(Instant, Floors)>,
    /// A lower bound of the oldest record that the memory needs. Of a shard that has been read to its end, whose
    /// floors rise no more, this is all that is left to know: nothing is judged by its keys any more.
    oldest: u64,
    progress: Progress,
    feeds: BTreeMap<Origin, Feed>,
    /// Nothing that was created before is missing anywhere, in milliseconds, as this track began.
    known_millis: u64,
    /// The gaps whose marks are not durable yet.
    unmarked: Vec<Gap>,
    complaints: Complaints,
    notices: mpsc::UnboundedSender<Notice>,
    state: watch::Sender<TrackState>,
    is_main: bool,
    /// The shard has been read to its end, and its keys are forgotten.
    is_over: bool,
    stop: CancellationToken,
}

/// Where a track stands, for those that wait for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TrackState {
    /// The calls in a row that found nothing to read, nothing to do, and nobody left behind.
    pub(super) idle_calls: u32,
    /// It reads what was written just now.
    pub(super) near_tip: bool,
}

impl Track {
    /// A track that goes on from what a lease says of each destination.
    pub(super) fn new(
        shared: Arc<Shared>,
        holding: Arc<Holding>,
        destinations: &BTreeMap<Origin, From>,
        notices: mpsc::UnboundedSender<Notice>,
        state: watch::Sender<TrackState>,
        stop: CancellationToken,
    ) -> Self {
        let base = holding.base(destinations.values().map(|from| &from.checkpoint));
        let floors = destinations.values().map(|from| from.checkpoint.floors.clone());
        let floors = floors.reduce(|a, b| a.meet(&b)).unwrap_or_default();
        let is_main = destinations.contains_key(&shared.origin);
        let terms = destinations.values().flat_map(|from| from.checkpoint.terms.clone());
        let from = base.iter().map(|(shard, (position, _))| (shard.clone(), position.clone())).collect();
        let terms = Terms::new(floors.clone(), holding.in_order(from), terms);
        let known_millis = destinations.values().map(|from| from.checkpoint.millis).min();
        let begins_at_oldest =
            base.get(&holding.lease.shard).is_some_and(|(position, _)| *position == Position::TrimHorizon);
        let unread = destinations.iter().filter_map(|(destination, from)| {
            let (trimmed_to, kept) = (shared.trimmed_to()?, shared.retention_millis());
            let since = holding.trimmed_unread(from, begins_at_oldest, trimmed_to, kept)?;
            Some((destination.clone(), since))
        });
        let (lacking, since): (Vec<Origin>, Vec<u64>) = unread.unzip();
        let since = since.into_iter().min();
        let unmarked = since.and_then(|since| shared.gap(&holding.lease.shard, lacking, since));
        let feeds = destinations
            .iter()
            .map(|(destination, from)| {
                let saved = from.begun.then(|| from.checkpoint.clone());
                (destination.clone(), Feed::new(FeedState::Fed, from.checkpoint.done.clone(), saved))
            })
            .collect();
        Self {
            keys: Keys::new(shared.origin.clone(), &shared.spill, &shared.remembered),
            floors,
            terms,
            unsettled: VecDeque::new(),
            oldest: 0,
            progress: Progress::new(holding.lease.shard.clone(), base, shared.tuning.settle),
            feeds,
            known_millis: known_millis.unwrap_or_default(),
            unmarked: unmarked.into_iter().collect(),
            complaints: Complaints::default(),
            notices,
            state,
            is_main,
            is_over: false,
            stop,
            shared,
            holding,
        }
    }

    /// Reads until it is stopped, has lost its lease, or has reached its end; in the last case all
    /// that it did is done, and durably so. Returns what has been saved for its last destination.
    pub(super) async fn run(
        mut self,
        mut until: Until,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) -> Option<Checkpoint> {
        let (events, mut incoming) = mpsc::channel(4);
        // A task of its own, so that it reads on while a checkpoint is being saved.
        let mut reader = JoinSet::new();
        let span = info_span!("stream", region = %self.shared.origin, table = self.shared.table);
        let shards = self.holding.in_order(self.progress.positions());
        reader.spawn(self.shared.stream.clone().read(shards, events).instrument(span));
        let (holding, stop) = (Arc::clone(&self.holding), self.stop.clone());
        let mut asked = self.shared.asked.clone();
        asked.mark_changed();
        let mut barrier = 0;
        let mut ticks = tokio::time::interval(self.shared.tuning.checkpoint_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // In this order, so that a simulation repeats itself; events come last, being many.
            tokio::select! {
                biased;
                () = holding.tenure.ended() => return None,
                () = stop.cancelled() => break,
                Some(Err(broken)) = reader.join_next() => {
                    if let Ok(panic) = broken.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
                _ = ticks.tick() => {
                    self.checkpoint().await;
                }
                Ok(()) = asked.changed() => {
                    let raised = asked.borrow_and_update().barrier;
                    if raised > barrier {
                        barrier = raised;
                        self.progress.raised(raised);
                    }
                }
                Some(command) = commands.recv() => self.command(command),
                Some(event) = incoming.recv() => self.event(event).await,
                () = self.settled(), if self.is_at_end() => {
                    if self.checkpoint().await {
                        let fed = self.feeds.iter().filter(|(_, feed)| feed.is_fed());
                        fed.for_each(|(peer, _)| self.shared.backlogs.done(&self.holding.lease.shard, peer));
                        return self.last_saved();
                    }
                    tokio::time::sleep(SAVE_AGAIN).await;
                }
            }
            if holding.tenure.has_ended() {
                return None;
            }
            // Once more afterwards: the meeting may have been missed meanwhile.
            if self.has_met(&mut until) && self.checkpoint().await && self.has_met(&mut until) {
                return self.last_saved();
            }
        }
        drop(incoming);
        self.drain().await;
        self.checkpoint().await;
        self.last_saved()
    }

    /// What has been saved for the last destination; the only one of a track that catches up.
    fn last_saved(mut self) -> Option<Checkpoint> {
        self.feeds.pop_last().and_then(|(_, feed)| feed.saved)
    }

    /// Whether a catch-up has come to where the main track took over.
    fn has_met(&self, until: &mut Until) -> bool {
        let Until::Met(meeting) = until else { return false };
        let Meeting::At(positions) = &*meeting.borrow_and_update() else { return false };
        self.progress.has_passed(positions) && self.feeds.values().all(|feed| feed.ledger.is_empty())
    }

    /// Whether the shard has been read to its end, and nobody is about to join.
    fn is_at_end(&self) -> bool {
        let joining = |feed: &Feed| matches!(feed.state, FeedState::Joining(_));
        self.progress.is_closed() && !self.feeds.values().any(joining)
    }

    /// Waits until nothing is under way any more.
    async fn settled(&self) {
        loop {
            tokio::time::sleep(SETTLE_POLL).await;
            if self.feeds.values().all(|feed| feed.ledger.is_empty()) {
                return;
            }
        }
    }

    async fn event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Page(page) => self.page(page).await,
            StreamEvent::Trimmed { shard, after } => {
                debug!(%shard, %after, "records after this position were trimmed");
                let peers = self.feeds.keys().cloned().collect();
                self.unmarked.extend(self.shared.gap(&shard, peers, self.known_millis));
            }
            StreamEvent::Failed if self.is_main => self.shared.backlogs.failed(&self.holding.lease.shard),
            StreamEvent::Failed => {}
            StreamEvent::Unreadable { shard, record } => self.pass_over(&shard, &record),
        }
    }

    /// A record can't be read: what it told of is replicated nowhere, and the table is to be marked before a
    /// checkpoint passes it.
    fn pass_over(&mut self, shard: &ShardId, record: &UnreadableRecord) {
        let Shared { origin, table, .. } = &*self.shared;
        let is_done = |feed: &Feed| record.sequence.as_ref().is_some_and(|at| feed.start.covers(at));
        let since_millis = self.holding.lease.since_millis;
        if *shard != self.holding.lease.shard
            || self.feeds.values().all(is_done)
            || record.created_millis.is_some_and(|created| created < since_millis)
        {
            debug!(region = %origin, table, %shard, %record, "a record can't be read, and is not to be replicated");
            return;
        }
        // Whole hours: one mark does for many records.
        let now = own_millis(&self.shared.stream.client);
        let from = record.created_millis.unwrap_or_else(|| self.progress.millis(shard));
        let from = from.clamp(now.saturating_sub(self.shared.retention_millis()).max(since_millis), now);
        let until = record.created_millis.filter(|created| is_credible(*created, now)).unwrap_or(now) + 1;
        let gap = Gap {
            origin: origin.clone(),
            shard: shard.to_string(),
            cause: Cause::Unreadable,
            peers: self.shared.peers.clone(),
            from_millis: from - from % HOUR_MILLIS,
            until_millis: until.next_multiple_of(HOUR_MILLIS),
            found_millis: now,
        };
        if self.is_main {
            self.shared.tally.unreadable.add();
            if self.complaints.is_due() {
                error!(
                    region = %origin, table, %shard, %record,
                    "a record can't be read, and is passed over: {gap}; the table is marked: run `tradewind verify`, \
                     and where replicas differ `tradewind repair`"
                );
            } else {
                debug!(region = %origin, table, %shard, %record, "a record can't be read, and is passed over");
            }
        }
        self.unmarked.retain(|other| !other.is_marked_as(&gap));
        self.unmarked.push(gap);
    }

    async fn page(&mut self, mut page: Page) {
        let seen = Instant::now();
        let now = own_millis(&self.shared.stream.client);
        if !self.set_right(&mut page, now).await {
            return;
        }
        let end = PageEnd::of(&page, now);
        let before = self.needs();
        let mut told_by = None;
        let full = page.records.len() >= 1_000;
        for (sequence, record) in page.records {
            let ordinal = self.progress.next_ordinal();
            let created_millis = record.created_millis;
            let is_crowded = !full && self.keys.of_table() >= self.shared.tuning.memory_keys;
            let stamp_in_place = self.is_main && is_crowded;
            let acts =
                page.shard == self.holding.lease.shard && created_millis >= self.holding.lease.since_millis;
            let Shared { origin, table, .. } = &*self.shared;
            let trace = if acts { Trace::begin(origin, table, &record.key, page.asked, seen) } else { None };
            record.old.iter().chain(&record.new).for_each(|image| self.shared.names.note(image));
            let judging = Instant::now();
            self.terms.come_to(&page.shard, &sequence);
            let floors = self.terms.floors();
            let judgement = match self.keys.judge(ordinal, record, floors, stamp_in_place) {
                Ok(judgement) => judgement,
                Err(error) => return self.begin_again(&error),
            };
            if judgement.by_floors {
                told_by = Some(Arc::clone(floors));
            }
            if let Some(trace) = &trace {
                trace.classified(judging, judgement.verdict);
            }
            self.make_room();
            let is_new = |feed: &Feed| acts && !feed.start.covers(&sequence);
            if self.is_main && self.feeds.values().any(is_new) {
                self.shared.tally.count_verdict(judgement.verdict);
                if let Some((_, Version { origin, .. })) = &judgement.arrived
                    && !judgement.is_seed
                {
                    self.shared.note_origin(origin);
                }
                if let Some(conflict) = judgement.conflict {
                    self.report(&conflict);
                    let own = self.feeds.get(&self.shared.origin).filter(|feed| is_new(feed));
                    if let (Some(recorder), Some(feed)) = (&self.shared.recorder, own) {
                        recorder.record(conflict, created_millis, ordinal, &feed.ledger);
                    }
                }
            }
            let targets: Vec<Origin> =
                self.feeds.iter().filter(|(_, feed)| is_new(feed)).map(|(name, _)| name.clone()).collect();
            if let Some((key, version)) = judgement.arrived {
                self.arrived(key, &version);
            }
            for action in judgement.actions {
                for target in &targets {
                    let Some(action) = self.shared.view(&action, target) else { continue };
                    let Some(feed) = self.feeds.get(target) else { continue };
                    let record = Source { ordinal, ledger: Arc::clone(&feed.ledger), created_millis, seen };
                    let tenure = Arc::clone(&self.holding.tenure);
                    let job = Job { action, record, tenure, trace: trace.clone(), taken_in: Vec::new() };
                    self.dispatch(target, job).await;
                }
            }
        }
        self.progress.judged(&end, before, told_by);
        if let Some(position) = &end.position {
            self.terms.passed(&end.shard, position);
        }
        self.note_idle(&end);
        let now = end.served_millis.unwrap_or_else(wall_millis);
        self.note_backlogs(self.progress.behind(&end, now), now);
    }

    /// Puts the times of a page right whose service's clock is ahead; whether what is decided of that is durable,
    /// which it must be before a record is judged. If not, the track is about to end.
    async fn set_right(&self, page: &mut Page, now: u64) -> bool {
        let mut times = self.holding.times.lock().await;
        for (sequence, record) in &mut page.records {
            loop {
                match times.created(&page.shard, sequence, record.created_millis, now) {
                    Created::At(millis) => {
                        record.created_millis = millis;
                        break;
                    }
                    // What was written to a shard before this one has been decided on.
                    Created::Jumped(_) if page.shard != self.holding.lease.shard => break,
                    Created::Jumped(jump) => {
                        let ahead_s = jump.ahead_millis / 1000;
                        let jumps = times.with(&page.shard, jump);
                        if !self.save_jumps(&jumps).await {
                            return false;
                        }
                        times.insert(page.shard.clone(), jumps);
                        self.tell_of_jump(&page.shard, ahead_s);
                    }
                }
            }
        }
        let ahead_millis = times.ahead_millis(&page.shard);
        page.served_millis = page.served_millis.map(|served| {
            if is_credible(served, now) { served } else { served.saturating_sub(ahead_millis) }
        });
        true
    }

    /// Saves where the service's clock was ahead, for as long as the lease is held and the track is to go on.
    async fn save_jumps(&self, jumps: &[Jump]) -> bool {
        let Shared { control, table, space, origin: region, .. } = &*self.shared;
        let Holding { lease, tenure, .. } = &*self.holding;
        let save = async {
            loop {
                match tokio::time::timeout(SAVE_TIMEOUT, control.save_jumps(space, lease, jumps)).await {
                    Ok(Ok(Held::Yes)) => return true,
                    Ok(Ok(Held::No)) => {
                        tenure.end();
                        return false;
                    }
                    Ok(Err(fault)) => warn!(
                        %region, table, %fault,
                        "could not save in the control table how far the stream's clock is ahead; retrying"
                    ),
                    Err(_) => warn!(
                        %region, table,
                        "the control table did not take how far the stream's clock is ahead within {} s; retrying",
                        SAVE_TIMEOUT.as_secs()
                    ),
                }
                tokio::time::sleep(SAVE_AGAIN).await;
            }
        };
        tokio::select! {
            biased;
            () = tenure.ended() => false,
            () = self.stop.cancelled() => false,
            is_saved = save => is_saved,
        }
    }

    fn tell_of_jump(&self, shard: &ShardId, ahead_s: u64) {
        let Shared { origin: region, table, .. } = &*self.shared;
        if ahead_s > 0 {
            warn!(
                %region, table, %shard, ahead_s,
                "the stream's records have times that are ahead of this machine's clock: they count as if written so \
                 much earlier; set the clock of the service, or this one, by NTP"
            );
        } else {
            info!(%region, table, %shard, "the stream's records have credible times again");
        }
    }

    /// Tells the lanes of the peer that a write of its own has come from, where one of the key may be under way.
    fn arrived(&self, key: KeyId, version: &Version) {
        let feed = self.feeds.get(&version.origin).filter(|feed| !feed.ledger.is_empty());
        if let (Some(_), Some(lanes)) = (feed, self.shared.lanes.get(&version.origin)) {
            lanes.arrived(key, version.clone());
        }
    }

    fn report(&self, conflict: &Conflict) {
        self.shared.tally.conflicts.add();
        let Conflict { key, lost, won, .. } = conflict;
        let Shared { origin: region, table, conflicts, .. } = &*self.shared;
        let key = log_key(key);
        if *conflicts == Conflicts::Log {
            info!(%region, table, %key, %lost, %won, "conflict: the last writer won");
        } else {
            debug!(%region, table, %key, %lost, %won, "conflict: the last writer won");
        }
    }

    /// Queues an action for a destination. A destination without room is waited for, but a peer
    /// no longer than the others can bear.
    async fn dispatch(&mut self, target: &Origin, job: Job) {
        let Some(lanes) = self.shared.lanes.get(target).cloned() else { return };
        let alone = self.feeds.len() == 1;
        let Some(feed) = self.feeds.get_mut(target) else { return };
        if feed.is_dropped() {
            return;
        }
        let Source { ordinal, created_millis, .. } = job.record;
        let Some(job) = lanes.try_send(job) else {
            feed.held_up = feed.held_up.saturating_sub(Duration::from_millis(1));
            return;
        };
        let waiting = Instant::now();
        if alone || *target == self.shared.origin {
            tokio::select! {
                biased;
                () = lanes.send(job) => {}
                // It stays in the ledger, and so before the checkpoint.
                () = self.stop.cancelled() => feed.ledger.begin(ordinal, created_millis),
                () = self.holding.tenure.ended() => feed.ledger.begin(ordinal, created_millis),
            }
        } else if tokio::time::timeout(PATIENCE.saturating_sub(feed.held_up), lanes.send(job)).await.is_ok() {
            feed.held_up += waiting.elapsed();
        } else {
            self.drop_feed(target, ordinal, created_millis);
        }
    }

    fn drop_feed(&mut self, peer: &Origin, ordinal: u64, created_millis: u64) {
        let (needs, progress) = (self.needs(), self.progress.before(ordinal));
        let Some(feed) = self.feeds.get_mut(peer) else { return };
        warn!(
            region = %self.shared.origin, %peer, table = self.shared.table,
            "the peer can't keep up: it gets a cursor of its own, and the others go on"
        );
        if let FeedState::Joining(meeting) = &feed.state {
            meeting.send_replace(Meeting::Missed);
            self.feeds.remove(peer);
        } else {
            feed.state =
                FeedState::Dropped(Box::new(Dropped { fed_to: ordinal, created_millis, progress, needs }));
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Attach(peer, meeting) => {
                // While the memory is being rebuilt, it is not fit to judge for anyone.
                let start = self.feeds.values().map(|feed| feed.start.clone()).max();
                let start = start.unwrap_or(Position::TrimHorizon);
                let mut positions = self.progress.positions();
                if let Some(position) = positions.get_mut(&self.holding.lease.shard) {
                    *position = position.clone().max(start.clone());
                }
                let state = FeedState::Joining(Arc::clone(&meeting));
                self.feeds.insert(peer, Feed::new(state, start, None));
                meeting.send_replace(Meeting::At(positions));
            }
            Command::Joined(peer, saved) => match self.feeds.get_mut(&peer) {
                Some(feed) => {
                    // What has been promised for these must not be taken back.
                    feed.saved = saved;
                    feed.state = FeedState::Fed;
                    info!(region = %self.shared.origin, %peer, table = self.shared.table, "the peer has caught up");
                }
                // It was left behind once more just before it came.
                None => {
                    if let Some(saved) = saved.filter(|saved| saved.done != Position::End) {
                        let _ = self.notices.send(Notice::Dropped(peer, saved));
                    }
                }
            },
        }
    }

    fn needs(&self) -> Needs {
        Needs { oldest: self.oldest, floors: Arc::clone(self.terms.floors()) }
    }

    fn note_idle(&self, end: &PageEnd) {
        let idle = self.progress.at_tip()
            && end.last_millis.is_none()
            && self.feeds.values().all(|feed| feed.is_fed() && feed.ledger.is_empty())
            && (!self.is_main || self.feeds.len() == self.shared.lanes.len());
        let near_tip = self.progress.near_tip();
        self.state.send_modify(|state| {
            state.idle_calls = if idle { state.idle_calls.saturating_add(1) } else { 0 };
            state.near_tip = near_tip;
        });
    }

    /// Notes how far the peers are behind; an age is that of the oldest write that a peer lacks.
    /// `unread` is how old what has not been read may be, if that is known.
    fn note_backlogs(&self, unread: Option<Duration>, now: u64) {
        let Shared { origin, backlogs, .. } = &*self.shared;
        let shard = &self.holding.lease.shard;
        if self.is_main && self.progress.is_closed() {
            backlogs.closed(shard);
        } else if self.is_main {
            backlogs.read(shard);
        }
        let since = |millis: u64| Duration::from_millis(now.saturating_sub(millis));
        for (peer, feed) in self.feeds.iter().filter(|(peer, _)| *peer != origin) {
            let unread = match &feed.state {
                // What is read once more was done before.
                FeedState::Fed => {
                    let promised = feed.saved.as_ref().map_or(Duration::MAX, |saved| since(saved.millis));
                    unread.map(|unread| unread.min(promised))
                }
                FeedState::Dropped(dropped) => Some(since(dropped.created_millis)),
                // The track that does what came before says how far it is.
                FeedState::Joining(_) => continue,
            };
            let unfinished = feed.ledger.oldest_millis().map(since);
            backlogs.note(shard, peer, unread.max(unfinished), feed.ledger.len());
        }
    }

    /// Takes in watermarks, forgets what may be forgotten, and makes progress durable; whether
    /// all of it now is.
    async fn checkpoint(&mut self) -> bool {
        while let Some(gap) = self.unmarked.last() {
            // Without its mark, a checkpoint would hide the gap.
            if !self.shared.mark(gap).await {
                return false;
            }
            self.unmarked.pop();
        }
        self.settle();
        self.forget().await;
        let now = self.needs();
        let mut changed: Vec<(Origin, Checkpoint)> = Vec::new();
        let mut least = self.progress.next();
        for (destination, feed) in &self.feeds {
            let unfinished = feed.unfinished(self.progress.next());
            let checkpoint = match &feed.state {
                FeedState::Joining(_) => {
                    least = least.min(unfinished);
                    continue;
                }
                FeedState::Fed => {
                    least = least.min(unfinished);
                    self.progress.checkpoint(unfinished, &now)
                }
                FeedState::Dropped(dropped) => dropped.progress.checkpoint(unfinished, &dropped.needs),
            };
            let checkpoint = feed.advance(checkpoint);
            if feed.is_worth_saving(&checkpoint) {
                changed.push((destination.clone(), checkpoint));
            }
        }
        let durable = changed.is_empty() || self.save(&changed).await;
        if durable {
            for (destination, checkpoint) in changed {
                if let Some(feed) = self.feeds.get_mut(&destination) {
                    feed.saved = Some(checkpoint);
                }
            }
        }
        self.release_dropped();
        self.progress.prune(least, &now);
        if self.progress.is_closed() {
            // No page comes any more that would tell.
            self.note_backlogs(Some(Duration::ZERO), wall_millis());
        }
        durable
    }

    /// Saves, but holds the stream up only so long: the next checkpoint is soon.
    async fn save(&self, changed: &[(Origin, Checkpoint)]) -> bool {
        let Shared { control, table, space, origin, .. } = &*self.shared;
        let lease = &self.holding.lease;
        let mut saves = self.holding.saves.lock().await;
        *saves += 1;
        let save = control.save_checkpoints(space, lease, *saves, origin, changed);
        match tokio::time::timeout(SAVE_TIMEOUT, save).await {
            Ok(Ok(Held::Yes)) => return true,
            Ok(Ok(Held::No)) => {
                info!(region = %origin, table, shard = %lease.shard, "another agent has taken the shard");
                self.holding.tenure.end();
            }
            Ok(Err(fault)) => {
                warn!(region = %origin, table, %fault, "can't save a checkpoint in the control table; trying again");
            }
            Err(_) => warn!(
                region = %origin, table,
                "the control table did not take a checkpoint within {} s; trying again",
                SAVE_TIMEOUT.as_secs()
            ),
        }
        false
    }

    /// Raises the floors by the watermarks, the own one among them, that were seen before all that
    /// has now been read.
    fn settle(&mut self) {
        let mut floors = self.shared.watermarks.borrow().clone();
        floors.raise(&self.shared.origin, *self.shared.own_watermark.borrow());
        floors.raise(&Origin::seeding(), Hlc::from(self.shared.asked.borrow().over));
        if self.unsettled.back().is_none_or(|(_, last)| *last != floors) {
            if self.unsettled.len() == UNSETTLED {
                self.unsettled.pop_back();
            }
            self.unsettled.push_back((Instant::now(), floors));
        }
        let Some(read_to) = self.progress.read_to() else { return };
        while self.unsettled.front().is_some_and(|(seen, _)| *seen <= read_to) {
            if let Some((_, watermarks)) = self.unsettled.pop_front() {
                self.floors.raise_all(&watermarks);
                self.terms.raise(&watermarks);
            }
        }
    }

    /// Forgets what may be forgotten; at the end of the shard everything, once it is known how far back that reaches.
    async fn forget(&mut self) {
        if self.is_over {
            return;
        }
        let hold = self.shared.asked.borrow().hold;
        // What can't be read any more is missed when a record needs it.
        let _ = self.keys.forget(&self.shared.peers, &self.floors, hold);
        self.oldest = self.keys.oldest().unwrap_or_else(|| self.progress.next());
        if self.progress.is_closed() {
            self.keys.clear();
            self.is_over = true;
        }
        while self.make_room() {
            tokio::task::yield_now().await;
        }
    }

    /// Moves keys to disk, if there are too many in memory; whether any were.
    fn make_room(&mut self) -> bool {
        self.keys.make_room().unwrap_or_else(|error| {
            let Shared { origin: region, table, tuning: Tuning { memory_keys, .. }, .. } = &*self.shared;
            self.shared.tally.spill_failures.add();
            error!(
                %region, table, %error, memory_keys,
                "more keys are remembered than memory is to hold, and they can't be moved to disk: they stay in memory, \
                 which grows with the backlog; nothing is lost. Make room in that folder, or name another one as \
                 spill_directory; trying again in a minute"
            );
            false
        })
    }

    /// Keys that were moved to disk can't be read, so nothing more can be judged: the lease is taken again, and they
    /// are read from the stream once more.
    fn begin_again(&self, error: &SpillError) {
        let Shared { origin: region, table, .. } = &*self.shared;
        self.shared.tally.spill_failures.add();
        error!(
            %region, table, shard = %self.holding.lease.shard, %error,
            "keys that were moved to disk can't be read: the shard is read again from its last checkpoint, and nothing \
             is lost. Look at the disk, or name another folder as spill_directory"
        );
        self.holding.tenure.end();
    }

    /// Hands on the peers that have done all that they were given.
    fn release_dropped(&mut self) {
        let finished = |feed: &Feed| feed.is_dropped() && feed.is_saved();
        let released: Vec<Origin> =
            self.feeds.iter().filter(|(_, feed)| finished(feed)).map(|(peer, _)| peer.clone()).collect();
        for peer in released {
            if let Some(saved) = self.feeds.remove(&peer).and_then(|feed| feed.saved) {
                let _ = self.notices.send(Notice::Dropped(peer, saved));
            }
        }
    }

    /// Waits for the writes under way, as long as a stopping agent may; those to a peer that is paused
    /// would not be made.
    async fn drain(&self) {
        let is_under_way =
            |(peer, feed): (&Origin, &Feed)| !self.shared.pauses.holds(peer) && !feed.ledger.is_empty();
        let deadline = Instant::now() + self.shared.tuning.draining();
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while self.feeds.iter().any(is_under_way) {
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
    fn new(state: FeedState, start: Position, saved: Option<Checkpoint>) -> Self {
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
        let Dropped { fed_to, progress, needs, .. } = dropped.as_ref();
        let last = progress.checkpoint(*fed_to, needs).done;
        self.ledger.is_empty() && self.saved.as_ref().is_some_and(|saved| saved.done >= last)
    }

    /// The first record that is not done.
    fn unfinished(&self, next: u64) -> u64 {
        let fed_to = match &self.state {
            FeedState::Dropped(dropped) => dropped.fed_to,
            FeedState::Fed | FeedState::Joining(_) => next,
        };
        self.ledger.first().map_or(fed_to, |first| first.min(fed_to))
    }

    /// A checkpoint never goes back: while a restarted track re-reads, the old one holds.
    fn advance(&self, mut checkpoint: Checkpoint) -> Checkpoint {
        if let Some(saved) = &self.saved {
            if checkpoint.done < saved.done {
                checkpoint = saved.clone();
            }
            checkpoint.millis = checkpoint.millis.max(saved.millis);
            checkpoint.barrier = checkpoint.barrier.max(saved.barrier);
        }
        checkpoint
    }

    fn is_worth_saving(&self, checkpoint: &Checkpoint) -> bool {
        self.saved.as_ref().is_none_or(|saved| {
            saved.done != checkpoint.done
                || saved.rewind != checkpoint.rewind
                || saved.barrier < checkpoint.barrier
                || checkpoint.millis >= saved.millis + WORTH_A_WRITE_MILLIS
        })
    }
}
