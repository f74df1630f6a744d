//! The tracks of one shard: the main one, and one for each peer that has fallen behind in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::holding::{Holding, StartPoint};
use super::shared::Shared;
use super::track::{Command, Meeting, Notice, Track, TrackState, Until};
use crate::contained::unless_aborted;
use crate::control::{Checkpoint, Leases};
use crate::destination::Destination;

/// How long a peer that could not keep up once more waits until the next attempt.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

enum Ended {
    Main,
    CatchUp(Destination, Option<Checkpoint>),
}

impl Holding {
    /// Replicates the shard to its end, or until it is stopped or the lease is lost.
    pub(super) async fn run(
        self,
        shared: Arc<Shared>,
        leases: watch::Receiver<Leases>,
        state: watch::Sender<TrackState>,
        stop: CancellationToken,
    ) {
        let mut holding = self;
        holding.note_jumps(&leases.borrow(), shared.before.as_deref());
        let holding = Arc::new(holding);
        let (in_time, late) = holding.split(&shared, &leases.borrow());
        let mut tracks: JoinSet<Ended> = JoinSet::new();
        let (notices, mut incoming) = mpsc::unbounded_channel();
        let (commands, orders) = mpsc::unbounded_channel();
        let main =
            Track::new(Arc::clone(&shared), Arc::clone(&holding), &in_time, notices, state, stop.clone());
        tracks.spawn(async move {
            main.run(Until::Stopped, orders).await;
            Ended::Main
        });
        let start = |peer: Destination, from: Option<StartPoint>, tracks: &mut JoinSet<Ended>| {
            let catch_up = CatchUp {
                shared: Arc::clone(&shared),
                holding: Arc::clone(&holding),
                peer,
                main: commands.clone(),
            };
            tracks.spawn(catch_up.run(from, leases.clone(), stop.clone()));
        };
        for peer in late {
            start(peer, None, &mut tracks);
        }
        loop {
            tokio::select! {
                biased;
                Some(Notice::Dropped(peer, checkpoint)) = incoming.recv() => {
                    start(peer, Some(StartPoint { checkpoint, begun: true }), &mut tracks);
                }
                // With a panic the table's task ends too, and is restarted.
                ended = tracks.join_next() => match ended.and_then(unless_aborted) {
                    Some(Ended::CatchUp(peer, saved)) => {
                        let _ = commands.send(Command::Joined(peer, saved));
                    }
                    // The shard's children may start.
                    Some(Ended::Main) => shared.wake.notify_one(),
                    None => return,
                },
            }
        }
    }
}

/// Brings one peer up to the main track's position.
struct CatchUp {
    shared: Arc<Shared>,
    holding: Arc<Holding>,
    peer: Destination,
    main: mpsc::UnboundedSender<Command>,
}

impl CatchUp {
    /// Resumes where the peer was dropped, or otherwise where the leases say.
    async fn run(
        self,
        from: Option<StartPoint>,
        mut leases: watch::Receiver<Leases>,
        stop: CancellationToken,
    ) -> Ended {
        let Shared { origin, table, before, .. } = &*self.shared;
        if let Some(before) = before {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::CatchUp(self.peer, None),
                () = self.holding.tenure.ended() => return Ended::CatchUp(self.peer, None),
                () = before.over(&self.peer) => {}
            }
        }
        let from = match from {
            Some(from) => from,
            None => tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::CatchUp(self.peer, None),
                () = self.holding.tenure.ended() => return Ended::CatchUp(self.peer, None),
                leases = leases.wait_for(|leases| self.holding.may_begin(&self.peer, leases)) => match leases {
                    Ok(leases) => self.holding.from(&self.peer, &leases, before.as_deref()),
                    Err(_) => return Ended::CatchUp(self.peer, None),
                },
            },
        };
        info!(region = %origin, destination = %self.peer, table, shard = %self.holding.lease.shard, "the destination is catching up");
        let (meeting, until) = watch::channel(Meeting::Open);
        let meeting = Arc::new(meeting);
        let (state, mut states) = watch::channel(TrackState::default());
        // A track for one peer gets no commands, and drops nobody.
        let (_commands, orders) = mpsc::unbounded_channel();
        let (notices, _notices) = mpsc::unbounded_channel();
        let destinations = BTreeMap::from([(self.peer.clone(), from)]);
        let (shared, holding) = (Arc::clone(&self.shared), Arc::clone(&self.holding));
        let track = Track::new(shared, holding, &destinations, notices, state, stop);
        let mut track = std::pin::pin!(track.run(Until::Met(until), orders));
        let mut pause = FIRST_PAUSE;
        loop {
            let met = async {
                // The track, which has the other end, still exists.
                let _ = states.wait_for(|state| state.near_tip).await;
                let mut seen = meeting.subscribe();
                meeting.send_replace(Meeting::Open);
                let _ = self.main.send(Command::Attach(self.peer.clone(), Arc::clone(&meeting)));
                let _ = seen.wait_for(|meeting| *meeting == Meeting::Missed).await;
                tokio::time::sleep(pause).await;
            };
            tokio::select! {
                biased;
                saved = &mut track => return Ended::CatchUp(self.peer, saved),
                () = met => pause = (2 * pause).min(LONGEST_PAUSE),
            }
        }
    }
}
