//! One reading of one shard: source → classify → resolve → deliver.
//!
//! The main track of a shard feeds the local replica and every peer that keeps up. A peer that has fallen
//! behind is fed by a track of its own, from where it was left, until it has caught up.
//!
//! | file | subject |
//! | --- | --- |
//! | `page` | judges the records of a page, and dispatches what follows |
//! | `feed` | how the track treats one destination |
//! | `checkpoint` | what is made durable, and what may then be forgotten |
//! | `standing` | the state of the track, for those that wait for it, and for people |

mod checkpoint;
mod feed;
mod page;
mod standing;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use self::feed::{Feed, FeedState};
use super::holding::{Holding, StartPoint};
use super::progress::Progress;
use super::shared::{SAVE_AGAIN, Shared};
use super::terms::Terms;
use crate::control::{Checkpoint, Gap};
use crate::deliver::Complaints;
use crate::destination::Destination;
use crate::protocol::Floors;
use crate::source::{Position, ShardId, Source, StreamEvent};
use crate::spill::Keys;

/// How often a track that has read its shard checks whether everything is done.
const SETTLE_POLL: Duration = Duration::from_millis(50);
/// How often a track that is to stop checks whether everything is done.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// A command to a track.
#[derive(Debug)]
pub(super) enum Command {
    /// Feed this peer again, from here on.
    Attach(Destination, Arc<watch::Sender<Meeting>>),
    /// Everything before that is done, and saved up to this checkpoint.
    Joined(Destination, Option<Checkpoint>),
}

/// Where a peer that catches up is to meet the main track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// Not known yet.
    Open,
    /// The main track feeds the peer from here on.
    At(BTreeMap<ShardId, Position>),
    /// The main track has dropped the peer again.
    Missed,
}

/// A notice from a track.
#[derive(Debug)]
pub(super) enum Notice {
    /// A peer can't keep up; it has been given everything up to this checkpoint.
    Dropped(Destination, Checkpoint),
}

/// When a track ends, other than at the shard's end.
#[derive(Debug)]
pub(super) enum Until {
    /// When it is told to.
    Stopped,
    /// When it has reached the meeting and everything is done.
    Met(watch::Receiver<Meeting>),
}

pub(super) struct Track {
    shared: Arc<Shared>,
    holding: Arc<Holding>,
    keys: Keys,
    /// What may be forgotten.
    floors: Floors,
    /// What distinguishes a put-back from the replicated write that it copies.
    terms: Terms,
    /// Watermarks that wait until the stream has been read past the moment they were seen.
    unsettled: VecDeque<(Instant, Floors)>,
    /// A lower bound of the oldest record that the memory needs. For a shard that has been read to its end,
    /// whose floors no longer rise, this is all that is left to know: its keys are no longer used for
    /// judging.
    oldest: u64,
    progress: Progress,
    feeds: BTreeMap<Destination, Feed>,
    /// Nothing created before this is missing anywhere, in milliseconds, when this track started.
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

/// The state of a track, for those that wait for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TrackState {
    /// The calls in a row that found nothing to read, nothing to do, and nobody left behind.
    pub(super) idle_calls: u32,
    /// Whether it reads what was written just now.
    pub(super) near_tip: bool,
}

impl Track {
    /// A track that resumes from what a lease says about each destination.
    pub(super) fn new(
        shared: Arc<Shared>,
        holding: Arc<Holding>,
        destinations: &BTreeMap<Destination, StartPoint>,
        notices: mpsc::UnboundedSender<Notice>,
        state: watch::Sender<TrackState>,
        stop: CancellationToken,
    ) -> Self {
        let base = holding.base(destinations.values().map(|from| &from.checkpoint));
        let floors = destinations.values().map(|from| from.checkpoint.floors.clone());
        let floors = floors.reduce(|a, b| a.meet(&b)).unwrap_or_default();
        let is_main = destinations.contains_key(&Destination::Home);
        let terms = destinations.values().flat_map(|from| from.checkpoint.terms.clone());
        let from = base.iter().map(|(shard, (position, _))| (shard.clone(), position.clone())).collect();
        let terms = Terms::new(floors.clone(), holding.in_order(from), terms);
        let known_millis = destinations.values().map(|from| from.checkpoint.millis).min();
        let begins_at_oldest =
            base.get(&holding.lease.shard).is_some_and(|(position, _)| *position == Position::TrimHorizon);
        let unread = destinations.iter().filter_map(|(destination, from)| {
            let (trimmed_to, kept) = (shared.trimmed_to()?, shared.retention_millis());
            let since = holding.trimmed_unread(from, begins_at_oldest, trimmed_to, kept)?;
            Some((destination, since))
        });
        let (lacking, since): (Vec<&Destination>, Vec<u64>) = unread.unzip();
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
            keys: Keys::new(shared.origin.clone(), &shared.memory.spill, &shared.memory.remembered),
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

    /// Reads until it is stopped, has lost its lease, or has reached its end; in the last case everything it
    /// did is done, and durably so. Returns what has been saved for its last destination.
    pub(super) async fn run(
        mut self,
        mut until: Until,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) -> Option<Checkpoint> {
        let (events, mut incoming) = mpsc::channel(4);
        // In a task of its own, so that it reads on while a checkpoint is being saved.
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
            // In this order, so that a simulation is reproducible; events come last, being many.
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
                Some(command) = commands.recv() => self.command(command).await,
                Some(event) = incoming.recv() => self.event(event).await,
                () = self.settled(), if self.is_at_end() => {
                    if self.checkpoint().await {
                        let fed = self.feeds.iter().filter(|(_, feed)| feed.is_fed());
                        fed.for_each(|(peer, _)| self.shared.notes.backlogs.done(&self.holding.lease.shard, peer));
                        return self.last_saved();
                    }
                    tokio::time::sleep(SAVE_AGAIN).await;
                }
            }
            if holding.tenure.has_ended() {
                return None;
            }
            // Checked again afterwards: the meeting may have been missed meanwhile.
            if self.has_met(&mut until) && self.checkpoint().await && self.has_met(&mut until) {
                return self.last_saved();
            }
        }
        drop(incoming);
        self.drain().await;
        self.checkpoint().await;
        self.last_saved()
    }

    /// What has been saved for the last destination, which is the only one of a track that catches up.
    fn last_saved(mut self) -> Option<Checkpoint> {
        self.feeds.pop_last().and_then(|(_, feed)| feed.saved)
    }

    /// Whether a catch-up has reached the position where the main track took over.
    fn has_met(&self, until: &mut Until) -> bool {
        let Until::Met(meeting) = until else { return false };
        let Meeting::At(positions) = &*meeting.borrow_and_update() else { return false };
        self.progress.has_passed(positions) && self.feeds.values().all(|feed| feed.ledger.is_empty())
    }

    /// Whether the shard has been read to its end, and nobody is about to join.
    fn is_at_end(&self) -> bool {
        self.progress.is_closed() && !self.feeds.values().any(Feed::is_joining)
    }

    /// Waits until nothing is in progress any more.
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
                self.unmarked.extend(self.shared.gap(&shard, self.feeds.keys(), self.known_millis));
            }
            StreamEvent::Failed if self.is_main => {
                self.shared.notes.backlogs.failed(&self.holding.lease.shard);
            }
            StreamEvent::Failed => {}
            StreamEvent::Unreadable { shard, record } => self.pass_over(&shard, &record),
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Attach(peer, meeting) => {
                // While the memory is being rebuilt, it can't judge for anyone.
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
                    let (done, kept) =
                        (saved.as_ref().map(|saved| saved.done.clone()), std::mem::take(&mut feed.kept));
                    // What has been promised for these must not be taken back.
                    feed.saved = saved;
                    feed.state = FeedState::Fed;
                    self.tell_kept(&peer, kept.events, done).await;
                    info!(region = %self.shared.origin, destination = %peer, table = self.shared.table, "the destination has caught up");
                }
                // It was dropped again just before it arrived.
                None => {
                    if let Some(saved) = saved.filter(|saved| saved.done != Position::End) {
                        let _ = self.notices.send(Notice::Dropped(peer, saved));
                    }
                }
            },
        }
    }

    /// Waits for the writes in flight, as long as a stopping agent may; those to a paused peer would not be
    /// made.
    async fn drain(&self) {
        let is_under_way =
            |(peer, feed): (&Destination, &Feed)| !self.shared.pauses.holds(peer) && !feed.ledger.is_empty();
        let deadline = Instant::now() + self.shared.tuning.draining();
        let mut ticks = tokio::time::interval(DRAIN_POLL);
        while self.feeds.iter().any(is_under_way) {
            if Instant::now() >= deadline {
                let left: usize = self.feeds.values().map(|feed| feed.ledger.len()).sum();
                warn!(left, "stopping with writes in flight: they are repeated after the next start");
                return;
            }
            ticks.tick().await;
        }
    }
}
