//! The lanes of one writer, one for each key: a key's writes keep their order, and no key waits for another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, SetOnce, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::contention::Contention;
use super::queue::{Queue, Queued};
use super::refusals::{Judge, Sentence};
use super::width::Width;
use super::{Job, Writer};
use crate::contained::unless_aborted;
use crate::fault::{Backoff, Fault, FaultKind};
use crate::protocol::{Action, KeyId, Version, Write};
use crate::replica::{Insistence, Outcome};
use crate::telemetry::Step;

/// How many throttled keys may rest while the others go on: more than one hot partition has at once.
const MOST_THROTTLED: usize = 1024;

/// The lanes of one writer.
#[derive(Debug)]
pub struct Lanes(Queue<Job, Message>);

/// A message to a destination's dispatcher.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every message is the large one")]
pub enum Message {
    Queue(Queued<Job>),
    /// This destination's write of a key has arrived at the agent's own replica.
    Arrived(KeyId, Version),
}

impl From<Queued<Job>> for Message {
    fn from(queued: Queued<Job>) -> Self {
        Self::Queue(queued)
    }
}

impl Lanes {
    /// Starts the lanes among `tasks`, and they end with them. They write nothing until the gate is open, and
    /// at most `concurrency` items at once.
    pub fn start(
        writer: Arc<Writer>,
        concurrency: usize,
        queue_mib: usize,
        gate: &Arc<SetOnce<()>>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (sender, messages) = mpsc::unbounded_channel();
        let dispatcher = Dispatcher {
            writer,
            width: Width::new(concurrency),
            lanes: BTreeMap::new(),
            ready: VecDeque::new(),
            throttled: BTreeSet::new(),
            failing: BTreeSet::new(),
            contended: BTreeSet::new(),
            refused: BTreeSet::new(),
            judge: Judge::default(),
            attempts: JoinSet::new(),
        };
        tasks.spawn(dispatcher.run(messages, Arc::clone(gate)));
        Self(Queue::new(sender, queue_mib))
    }

    pub fn queue(&self) -> &Queue<Job, Message> {
        &self.0
    }

    /// Records that this destination's write of a key has arrived at the agent's own replica: an older queued
    /// write of the key need not be made where it meets an image that can't be compared.
    pub fn arrived(&self, key: KeyId, version: Version) {
        self.0.tell(Message::Arrived(key, version));
    }
}

/// The queue of one key. Its first job is in flight, ready, or resting between two attempts.
#[derive(Debug, Default)]
struct Lane {
    first: Option<Begun>,
    rest: VecDeque<Queued<Job>>,
    /// The destination's highest version that has meanwhile arrived at the agent's own replica.
    arrived: Option<Version>,
}

impl Lane {
    /// The newest queued write.
    fn newest(&self) -> Option<Write> {
        match &self.rest.back()?.0.action {
            Action::Push(write) => Some(write.clone()),
            _ => None,
        }
    }
}

/// A job whose turn has come.
#[derive(Debug)]
struct Begun {
    job: Job,
    backoff: Backoff,
    step: Option<Step>,
    was_throttled: bool,
    /// When it was first refused as invalid.
    refused: Option<Instant>,
    contention: Option<Contention>,
    _room: OwnedSemaphorePermit,
}

/// A finished attempt.
struct Attempt {
    key: KeyId,
    begun: Begun,
    since: Instant,
    ended: Ended,
}

/// How an attempt ended.
enum Ended {
    Answered(Result<Outcome, Fault>),
    /// The replica can never take the write, and it is parked in the dead letters.
    Parked(Fault),
    /// The lease has ended: its next owner does the job again.
    Left,
}

/// Gives each key its turn.
struct Dispatcher {
    writer: Arc<Writer>,
    width: Width,
    lanes: BTreeMap<KeyId, Lane>,
    /// The keys whose turn it is.
    ready: VecDeque<KeyId>,
    /// The keys whose last attempt failed, by when they may retry: those that were throttled, which says
    /// something about few keys, and those that failed otherwise, which says something about all.
    throttled: BTreeSet<(Instant, KeyId)>,
    failing: BTreeSet<(Instant, KeyId)>,
    /// The keys whose push met a write that the peer's agent has not reported, by when they look again.
    contended: BTreeSet<(Instant, KeyId)>,
    /// The keys whose write was refused as invalid, by when they may retry; while the table is held, none
    /// may.
    refused: BTreeSet<(Instant, KeyId)>,
    judge: Judge,
    attempts: JoinSet<Attempt>,
}

impl Dispatcher {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>, gate: Arc<SetOnce<()>>) {
        gate.wait().await;
        let mut more = true;
        while more || !self.lanes.is_empty() {
            self.begin();
            let next = self.next_turn();
            tokio::select! {
                biased;
                Some(attempt) = self.attempts.join_next() => {
                    if let Some(attempt) = unless_aborted(attempt) {
                        self.over(attempt);
                    }
                }
                message = messages.recv(), if more => match message {
                    Some(Message::Queue(queued)) => self.enqueue(queued),
                    Some(Message::Arrived(key, version)) => self.arrived(key, version),
                    None => more = false,
                },
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.wake(),
                else => {}
            }
        }
    }

    fn enqueue(&mut self, (mut job, mut room): Queued<Job>) {
        let key = KeyId::of(job.action.key());
        let lane = self.lanes.entry(key).or_insert_with(|| {
            self.ready.push_back(key);
            Lane::default()
        });
        // A job in progress may already have been written, and stays as it is.
        if let Some((before, mut its_room)) = lane.rest.pop_back() {
            if let Some(before) = job.coalesce(before) {
                lane.rest.push_back((before, its_room));
            } else if let Some(part) = its_room.split(job.coalesced.len()) {
                // A waiting record takes space even without its images.
                room.merge(part);
            }
        }
        lane.rest.push_back((job, room));
    }

    fn arrived(&mut self, key: KeyId, version: Version) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.arrived = lane.arrived.take().max(Some(version));
        }
    }

    /// Starts as many attempts as allowed. If a destination fails, only the keys that noticed keep trying; if
    /// it throttles, many may rest before the others wait for them; if it refuses every write, all wait.
    fn begin(&mut self) {
        while let Some(key) = self.next_key() {
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            let writer = Arc::clone(&self.writer);
            let first = lane.first.take();
            let begun = first.or_else(|| Some(Begun::new(lane.rest.pop_front()?, &writer)));
            let Some(begun) = begun else { continue };
            let newest = begun.contention.is_some().then(|| lane.newest()).flatten();
            self.attempts.spawn(async move {
                let since = Instant::now();
                let insistence = begun.insistence();
                let ended = tokio::select! {
                    biased;
                    () = begun.job.tenure.ended() => Ended::Left,
                    outcome = writer.work_on(&begun.job, &insistence, newest) => Ended::Answered(outcome),
                };
                Attempt { key, begun, since, ended }
            });
        }
    }

    /// The key whose attempt may start now, if any. While the table is held, one alone, now and then.
    fn next_key(&mut self) -> Option<KeyId> {
        let Some(due) = self.judge.next() else {
            let may = self.width.allows(self.under_way()) && self.throttled.len() < MOST_THROTTLED;
            return if may { self.ready.pop_front() } else { None };
        };
        let may = self.attempts.is_empty() && due <= Instant::now();
        if !may || (self.ready.is_empty() && self.refused.is_empty()) {
            return None;
        }
        let refused = |refused: &mut BTreeSet<(Instant, KeyId)>| refused.pop_first().map(|(_, key)| key);
        // The newest is the least like those that were refused.
        if self.judge.tries() {
            refused(&mut self.refused).or_else(|| self.ready.pop_back())
        } else {
            self.ready.pop_back().or_else(|| refused(&mut self.refused))
        }
    }

    /// When the next waiting key is due to start or to wake.
    fn next_turn(&self) -> Option<Instant> {
        let resting = [&self.throttled, &self.failing, &self.contended];
        let next = resting.into_iter().filter_map(|keys| Some(keys.first()?.0)).min();
        let refused = match self.judge.next() {
            None => self.refused.first().map(|(at, _)| *at),
            // Attempts in flight come first.
            Some(_) if !self.attempts.is_empty() => None,
            Some(due) => (!self.ready.is_empty() || !self.refused.is_empty()).then_some(due),
        };
        next.into_iter().chain(refused).min()
    }

    /// A failing key keeps its slot.
    fn under_way(&self) -> usize {
        self.attempts.len() + self.failing.len()
    }

    fn over(&mut self, Attempt { key, mut begun, since, ended }: Attempt) {
        match ended {
            Ended::Answered(Err(fault)) if fault.kind == FaultKind::Invalid => {
                self.refused(key, begun, since, fault);
                return;
            }
            Ended::Answered(Err(fault)) => {
                // After its first throttling, a job says something about its key, but nothing more about the
                // table.
                if fault.kind != FaultKind::Throttled || !begun.was_throttled {
                    self.width.failed(fault.kind, since);
                }
                begun.was_throttled |= fault.kind == FaultKind::Throttled;
                self.writer.notice(&begun.job, &fault);
                let resting =
                    if fault.kind.is_throttling() { &mut self.throttled } else { &mut self.failing };
                resting.insert((Instant::now() + begun.backoff.next(fault.kind), key));
                if let Some(lane) = self.lanes.get_mut(&key) {
                    lane.first = Some(begun);
                }
                return;
            }
            Ended::Answered(Ok(Outcome::Contended(found))) if !self.is_superseded(key, &begun.job) => {
                let contention = begun.contention.get_or_insert_with(|| {
                    self.writer.tally.contended.add();
                    Contention::begin(self.writer.poll_interval)
                });
                self.contended.insert((contention.next(found), key));
                if let Some(lane) = self.lanes.get_mut(&key) {
                    lane.first = Some(begun);
                }
                return;
            }
            Ended::Answered(Ok(outcome)) => {
                self.answered(&outcome, since);
                self.finish(begun, Ok(&outcome));
            }
            Ended::Parked(fault) => self.finish(begun, Err(&fault)),
            // It stays in the ledger.
            Ended::Left => {}
        }
        if self.lanes.get(&key).is_some_and(|lane| lane.rest.is_empty()) {
            self.lanes.remove(&key);
        } else {
            self.ready.push_back(key);
        }
    }

    /// Marks a job with nothing left to do as finished.
    fn finish(&mut self, mut begun: Begun, outcome: Result<&Outcome, &Fault>) {
        self.width.went_well(self.under_way() + 1, !self.ready.is_empty());
        if let Some(step) = begun.step.take() {
            step.end(outcome);
        }
        if let Ok(outcome) = outcome {
            self.writer.report(&begun.job, outcome);
        }
        begun.job.finish();
    }

    /// A successful write shows that the table accepts writes.
    fn answered(&mut self, outcome: &Outcome, begun: Instant) {
        if !matches!(outcome, Outcome::Applied { .. }) {
            self.judge.answered();
        } else if self.judge.made(begun) {
            self.writer.release();
            self.ready.extend(std::mem::take(&mut self.refused).into_iter().map(|(_, key)| key));
        }
    }

    /// Handles a write refused as invalid: because of its item, which is then parked, or because of the
    /// table's state.
    fn refused(&mut self, key: KeyId, mut begun: Begun, since: Instant, fault: Fault) {
        let first = *begun.refused.get_or_insert_with(Instant::now);
        let sentence = if fault.is_of_item() { Sentence::Park } else { self.judge.refused(key, first) };
        let at = match (sentence, begun.job.action.write()) {
            (Sentence::Park, Some(write)) => {
                let writer = Arc::clone(&self.writer);
                let write = write.clone();
                self.attempts.spawn(async move {
                    let ended = tokio::select! {
                        biased;
                        () = begun.job.tenure.ended() => Ended::Left,
                        () = writer.park(&write, begun.job.trace.as_ref(), &fault) => Ended::Parked(fault),
                    };
                    Attempt { key, begun, since, ended }
                });
                return;
            }
            // A dead letter can't say what to do with a marked item, so it is retried until done.
            (Sentence::Park, None) => Instant::now() + begun.backoff.next(fault.kind),
            (Sentence::Rest(at), _) => at,
            (Sentence::Hold, _) => {
                self.writer.hold(&fault);
                since
            }
        };
        self.writer.notice(&begun.job, &fault);
        self.refused.insert((at, key));
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.first = Some(begun);
        }
    }

    /// Whether something newer than a push has arrived from its destination.
    fn is_superseded(&self, key: KeyId, job: &Job) -> bool {
        let arrived = self.lanes.get(&key).and_then(|lane| lane.arrived.as_ref());
        matches!(&job.action, Action::Push(write) if arrived.is_some_and(|arrived| *arrived > write.version))
    }

    /// Makes the keys that have rested long enough ready.
    fn wake(&mut self) {
        let now = Instant::now();
        let refused = if self.judge.is_held() { None } else { Some(&mut self.refused) };
        for resting in
            [&mut self.throttled, &mut self.failing, &mut self.contended].into_iter().chain(refused)
        {
            while resting.first().is_some_and(|(at, _)| *at <= now)
                && let Some((_, key)) = resting.pop_first()
            {
                self.ready.push_front(key);
            }
        }
    }
}

impl Begun {
    fn new((job, room): Queued<Job>, writer: &Writer) -> Self {
        let step = job.trace.as_ref().and_then(|trace| trace.apply(writer.region()));
        let backoff = Backoff::default();
        Self { job, backoff, step, was_throttled: false, refused: None, contention: None, _room: room }
    }

    fn insistence(&self) -> Insistence {
        self.contention.as_ref().map_or(Insistence::None, Contention::insistence)
    }
}
