//! The way to a feed's sink: slots of events in order, each of which delivers one batch after the other.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::queue::{Queue, Queued, Room};
use super::{Complaints, EventJob, Load, Parking, Pauses, SinkCall, SinkCalls, Tenure};
use crate::clock::wall_millis;
use crate::contained::unless_aborted;
use crate::control::ParkedEvent;
use crate::destination::Destination;
use crate::fault::{Backoff, Fault, FaultKind, insist};
use crate::feed::{
    Answer, Call, Entry, Event, EventName, Events, Filter, Images, Next, Parcel, Retry, Settled, Slot,
    Telling,
};
use crate::log_key::log_key;
use crate::protocol::{Item, Judgement, KeyId};
use crate::sink::{Batch, Delivery, Offer, Sink};
use crate::source::ShardId;
use crate::tally::FeedCounts;

/// How a feed tells its events, and to which sink.
#[derive(Debug)]
pub struct Teller {
    pub telling: Telling,
    /// An event is told if one of them matches, or if there is none.
    pub filters: Vec<Filter>,
    pub retry: Retry,
    pub sink: Sink,
    /// The attribute whose value decides on the slot of an item's events.
    pub partition_key: String,
    pub counts: Arc<FeedCounts>,
    pub calls: Arc<SinkCalls>,
    pub complaints: Complaints,
    pub pauses: Arc<Pauses>,
    /// What was written before this is not told, in milliseconds since the Unix epoch.
    pub since_millis: u64,
    pub parking: Parking,
}

/// Queues a feed's events.
#[derive(Debug)]
pub struct Batches {
    queue: Queue<EventJob, Queued<EventJob>>,
    teller: Arc<Teller>,
}

impl Batches {
    /// Starts delivering among `tasks`, and ends with them.
    pub fn start(teller: Teller, queue_mib: usize, tasks: &mut JoinSet<()>) -> Self {
        let (sender, queued) = mpsc::unbounded_channel();
        let queue = Queue::new(sender, queue_mib);
        let teller = Arc::new(teller);
        let slots = Slots {
            destination: Destination::feed_called(&teller.telling.feed),
            teller: Arc::clone(&teller),
            room: queue.room(),
            lines: BTreeMap::new(),
            attempts: JoinSet::new(),
            parking: JoinSet::new(),
        };
        tasks.spawn(slots.run(queued));
        Self { queue, teller }
    }

    pub fn queue(&self) -> &Queue<EventJob, Queued<EventJob>> {
        &self.queue
    }

    /// What the feed tells of a record, if anything. The images are needed if it [shows
    /// arrivals](Self::shows_arrivals), or if the record lacks one: then its name is needed, too.
    pub fn event(
        &self,
        judgement: &Judgement,
        images: Option<&Images>,
        partial: Option<EventName>,
        created_millis: u64,
    ) -> Option<Event> {
        let Teller { since_millis, counts, .. } = &*self.teller;
        if created_millis < *since_millis {
            return None;
        }
        let shape = &self.teller.telling.shape;
        let event = match (partial, images) {
            (Some(name), Some(images)) => Event::of_part(judgement, name, images, shape),
            _ => Event::of(judgement, images, shape),
        };
        if event.is_none() && judgement.verdict.is_local() {
            counts.unchanged.add();
        }
        event
    }

    /// Whether it tells what other regions' applications write.
    pub fn shows_arrivals(&self) -> bool {
        self.teller.telling.shape.events != Events::Origin
    }
}

/// An event in a slot, as it is told.
#[derive(Debug)]
struct Told {
    job: EventJob,
    text: String,
    key: KeyId,
    room: Option<OwnedSemaphorePermit>,
}

impl Told {
    fn offer(&self) -> Offer<'_> {
        let sequence = self.job.provenance.sequence.as_str();
        Offer { text: &self.text, sequence, created_millis: self.created_millis() }
    }
}

impl Parcel for Told {
    fn key(&self) -> KeyId {
        self.key
    }

    fn bytes(&self) -> usize {
        self.text.len()
    }

    fn created_millis(&self) -> u64 {
        self.job.record().created_millis
    }

    fn is_left(&self) -> bool {
        self.job.tenure.has_ended()
    }

    fn free(&mut self) {
        self.text = String::new();
        self.room = None;
    }
}

/// The shard, where each has slots of its own, and the number of the slot.
type SlotId = (Option<ShardId>, u64);

/// A slot, and what is under way of it.
#[derive(Debug)]
struct Line {
    slot: Slot<Told>,
    is_busy: bool,
    /// While the sink can't be reached.
    backoff: Option<Backoff>,
    /// The ARN of the stream that its events come from.
    stream: Arc<str>,
}

/// A finished call of the sink.
struct Attempt {
    slot: SlotId,
    call: Call<Told>,
    outcome: Result<Delivery, Fault>,
}

/// Gives each slot its turn.
struct Slots {
    teller: Arc<Teller>,
    destination: Destination,
    room: Room,
    lines: BTreeMap<SlotId, Line>,
    attempts: JoinSet<Attempt>,
    parking: JoinSet<()>,
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.teller.calls.block(0);
    }
}

impl Slots {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Queued<EventJob>>) {
        let teller = Arc::clone(&self.teller);
        let mut more = true;
        while more || !self.lines.is_empty() {
            let is_paused = teller.pauses.holds(&self.destination);
            let next = if is_paused { None } else { self.begin() };
            teller.calls.block(self.lines.values().map(|line| line.slot.blocked()).sum());
            tokio::select! {
                biased;
                Some(attempt) = self.attempts.join_next() => {
                    if let Some(attempt) = unless_aborted(attempt) {
                        self.over(attempt);
                    }
                }
                Some(parked) = self.parking.join_next() => drop(unless_aborted(parked)),
                queued = queue.recv(), if more => match queued {
                    Some(queued) => self.add(queued),
                    None => more = false,
                },
                () = teller.pauses.over(&self.destination), if is_paused => {}
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Puts an event into its slot, unless it is not for the feed.
    fn add(&mut self, (job, room): Queued<EventJob>) {
        let text = match self.teller.text(&job) {
            Ok(Some(text)) => text,
            Ok(None) => {
                self.teller.counts.filtered.add();
                return job.finish();
            }
            Err(reason) => {
                let teller = Arc::clone(&self.teller);
                self.parking.spawn(async move {
                    teller.park(&job, 1, &reason).await;
                    drop(room);
                });
                return;
            }
        };
        let slot = self.teller.slot(&job);
        let key = KeyId::of(&job.event.key);
        let stream = &job.provenance.stream;
        let line = self.lines.entry(slot).or_insert_with(|| Line {
            slot: Slot::default(),
            is_busy: false,
            backoff: None,
            stream: Arc::clone(stream),
        });
        line.slot.add(Told { job, text, key, room: Some(room) }, Instant::now());
    }

    /// Starts what may start. Returns when more may.
    fn begin(&mut self) -> Option<Instant> {
        let (now, now_millis) = (Instant::now(), wall_millis());
        let mut limits = self.teller.sink.limits();
        if self.room.is_half_taken() {
            // What waits for more events would leave no space for them.
            limits.window = Duration::ZERO;
        }
        let mut soonest = None;
        for (id, line) in self.lines.iter_mut().filter(|(_, line)| !line.is_busy) {
            match line.slot.next(&limits, now, now_millis) {
                Next::Call(call) => {
                    line.is_busy = true;
                    let (slot, teller) = (id.clone(), Arc::clone(&self.teller));
                    let stream = Arc::clone(&line.stream);
                    self.attempts.spawn(async move {
                        let batch = Batch {
                            events: call.events.iter().map(|entry| entry.parcel.offer()).collect(),
                            window: call.window.as_ref(),
                            shard: slot.0.as_ref().map_or("", |shard| &*shard.0),
                            stream: &stream,
                        };
                        let called = Instant::now();
                        let outcome = teller.sink.deliver(&batch).await;
                        teller.calls.add(SinkCall { events: batch.events.len(), took: called.elapsed() });
                        Attempt { slot, call, outcome }
                    });
                }
                Next::Later(at) => soonest = soonest.into_iter().chain(at).min(),
            }
        }
        self.lines.retain(|_, line| line.is_busy || !line.slot.is_empty());
        soonest
    }

    /// Takes the sink's answer.
    fn over(&mut self, Attempt { slot, call, outcome }: Attempt) {
        let Some(line) = self.lines.get_mut(&slot) else { return };
        line.is_busy = false;
        let (answer, reason, state) = match outcome {
            Ok(Delivery::Taken { state }) => (Answer::Taken, String::new(), state),
            Ok(Delivery::Had { count }) => (Answer::Had { count }, String::new(), None),
            Ok(Delivery::HadWithMore) => (Answer::HadWithMore, String::new(), None),
            Ok(Delivery::Rejected { from, is_named, reason, state }) => {
                (Answer::Rejected { from, is_named }, reason, state)
            }
            Err(fault) if fault.kind == FaultKind::Invalid => {
                (Answer::Rejected { from: 0, is_named: false }, fault.to_string(), None)
            }
            Err(fault) => {
                let rest = line.backoff.get_or_insert_default().next(fault.kind);
                (Answer::Unavailable { rest }, fault.to_string(), None)
            }
        };
        self.teller.note(&answer, &reason, &call.events);
        if !matches!(answer, Answer::Unavailable { .. }) && line.backoff.take().is_some() {
            self.teller.tell_of_end();
        }
        let Settled { taken, given_up } =
            line.slot.answered(call, answer, state, &self.teller.retry, Instant::now(), wall_millis());
        self.teller.counts.delivered.add_all(taken.len());
        // The first one comes last: until all are finished, a checkpoint passes none of them.
        for told in taken.iter().rev() {
            told.job.finish();
        }
        for Entry { parcel, rejections, .. } in given_up {
            let (teller, reason) = (Arc::clone(&self.teller), reason.clone());
            self.parking.spawn(async move { teller.park(&parcel.job, rejections, &reason).await });
        }
    }
}

impl Teller {
    /// An event as it is told; nothing if the feed leaves it out, and why if it can't be told.
    fn text(&self, job: &EventJob) -> Result<Option<String>, String> {
        let Telling { shape, .. } = &self.telling;
        let mut event = job.event.json(&self.telling, &job.provenance);
        if !self.filters.is_empty() && !self.filters.iter().any(|filter| filter.matches(&event)) {
            return Ok(None);
        }
        shape.view.project(&mut event);
        shape.text(&event)
    }

    /// An event as it is parked: before the feed's program has transformed it.
    fn whole(&self, job: &EventJob) -> String {
        let mut event = job.event.json(&self.telling, &job.provenance);
        self.telling.shape.view.project(&mut event);
        event.to_string()
    }

    fn slot(&self, job: &EventJob) -> SlotId {
        let shard = || Some(job.provenance.shard.clone());
        let slots = match self.sink.slots() {
            None => return (None, 0),
            Some(1) => return (shard(), 0),
            Some(slots) => u64::from(slots),
        };
        let mut hasher = DefaultHasher::new();
        let partition = job.event.key.get_key_value(&self.partition_key);
        let partition = partition.map(|(name, value)| Item::from([(name.clone(), value.clone())]));
        KeyId::of(&partition.unwrap_or_default()).hash(&mut hasher);
        (shard(), hasher.finish() % slots)
    }

    /// Counts and logs what a sink has answered, where it has not simply taken the events.
    fn note(&self, answer: &Answer, reason: &str, batch: &[Entry<Told>]) {
        let Telling { feed, table, region, .. } = &self.telling;
        let events = batch.len();
        match answer {
            Answer::Taken | Answer::Had { .. } | Answer::HadWithMore => {}
            Answer::Rejected { from, .. } => {
                self.counts.rejected.add();
                let key = batch.get(*from).map(|entry| log_key(&entry.parcel.job.event.key));
                if self.complaints.is_due() {
                    warn!(%region, %feed, table, key, events, reason, "the sink rejects an event, or a batch; retrying");
                } else {
                    debug!(%region, %feed, table, key, events, reason, "the sink rejects an event, or a batch; retrying");
                }
            }
            Answer::Unavailable { .. } => {
                self.counts.retried.add();
                if self.complaints.is_due() {
                    error!(
                        %region, %feed, table, events, reason,
                        "can't deliver a feed's events; retrying, and the feed's later events wait"
                    );
                } else {
                    debug!(%region, %feed, table, events, reason, "can't deliver a feed's events; retrying");
                }
            }
        }
    }

    fn tell_of_end(&self) {
        let Telling { feed, table, region, .. } = &self.telling;
        info!(%region, %feed, table, "the feed's sink answers again");
    }

    /// Saves an event that is not told, and marks it as finished.
    async fn park(&self, job: &EventJob, rejections: u32, reason: &str) {
        let text = self.whole(job);
        let Telling { feed, table, region, .. } = &self.telling;
        let key = log_key(&job.event.key);
        let parked = ParkedEvent {
            feed: feed.clone(),
            table: table.clone(),
            key: job.event.key.clone(),
            version: job.event.version.clone(),
            reason: reason.to_owned(),
            rejections,
        };
        let parking = &self.parking;
        let save = || parking.save(&parked, &job.provenance, &text);
        let saved = insist(save, |fault| {
            error!(
                %region, %feed, table, %key, %fault, %parking,
                "can't park an event; retrying, and the checkpoint waits for it"
            );
        });
        let tenure: &Tenure = &job.tenure;
        tokio::select! {
            biased;
            // Its next owner delivers it again.
            () = tenure.ended() => return,
            () = saved => {}
        }
        self.counts.parked.add();
        job.finish();
        error!(
            %region, %feed, table, %key, reason, rejections, %parking,
            "an event can't be told, and is parked"
        );
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;
    use serde_json::Value;

    use super::*;
    use crate::control::{ControlTable, PausedDestinations};
    use crate::deliver::{JobRecord, Ledger};
    use crate::feed::{Provenance, Shape};
    use crate::protocol::{Floors, KeyMemory, Record};
    use crate::sink::FileSink;
    use crate::source::Sequence;

    fn job(ordinal: u64, status: &str, ledger: &Arc<Ledger>, tenure: &Arc<Tenure>) -> EventJob {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let key = Item::from([("pk".to_owned(), text("a"))]);
        let new = Item::from([("pk".to_owned(), text("a")), ("status".to_owned(), text(status))]);
        let created_millis = 1_800_000_000_000 + ordinal;
        let record = Record { created_millis, key, old: None, new: Some(new) };
        let mut memory = KeyMemory::new("tokyo".parse().expect("a name"));
        let judgement = memory.judge(ordinal, record, &Floors::default(), false);
        let event = Event::of(&judgement, None, &Shape::default());
        let provenance = Provenance {
            stream: "arn".into(),
            shard: ShardId("shard".into()),
            sequence: Sequence::new(&ordinal.to_string()),
            created_millis,
            bytes: 0,
            user: None,
        };
        let record = JobRecord { ordinal, ledger: Arc::clone(ledger), created_millis, seen: Instant::now() };
        EventJob { event: event.expect("an event"), provenance, record, tenure: Arc::clone(tenure) }
    }

    fn teller(path: std::path::PathBuf, counts: &Arc<FeedCounts>) -> Teller {
        let pauses = Arc::<Pauses>::default();
        pauses.are(PausedDestinations::new());
        Teller {
            telling: Telling {
                feed: "search".parse().expect("a name"),
                table: "orders".to_owned(),
                region: "tokyo".parse().expect("a name"),
                aws_region: "ap-northeast-1".to_owned(),
                shape: Shape::default(),
            },
            filters: vec![
                r#"{"dynamodb":{"NewImage":{"status":{"S":[{"anything-but":"draft"}]}}}}"#
                    .parse()
                    .expect("a filter"),
            ],
            retry: Retry::default(),
            sink: Sink::File(FileSink::new(path)),
            partition_key: "pk".to_owned(),
            counts: Arc::clone(counts),
            calls: Arc::new(SinkCalls::new(
                &"tokyo".parse().expect("a name"),
                "orders",
                &"search".parse().expect("a name"),
            )),
            complaints: Complaints::default(),
            pauses,
            since_millis: 0,
            parking: Parking::DeadLetters { control: ControlTable::unreachable(), days: 1 },
        }
    }

    fn told(path: &std::path::Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let status = |line: &str| {
            let event: Value = serde_json::from_str(line).expect("an event");
            event["dynamodb"]["NewImage"]["status"]["S"].as_str().expect("text").to_owned()
        };
        text.lines().map(status).collect()
    }

    #[tokio::test]
    async fn events_are_told_in_order_and_finished_once_they_are_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("later");
        let path = missing.join("events.jsonl");
        let (counts, ledger) = (Arc::<FeedCounts>::default(), Arc::<Ledger>::default());
        let tenure = Arc::new(Tenure::until(Instant::now() + Duration::from_mins(1)));
        let gone = Arc::new(Tenure::until(Instant::now() + Duration::from_mins(1)));
        gone.end();
        let mut tasks = JoinSet::new();
        let teller = teller(path.clone(), &counts);
        let calls = Arc::clone(&teller.calls);
        let batches = Batches::start(teller, 1, &mut tasks);
        for (ordinal, status) in [(1, "new"), (2, "draft"), (3, "paid")] {
            batches.queue().send(job(ordinal, status, &ledger, &tenure)).await;
        }
        // Its lease has gone to another agent, which tells it.
        batches.queue().send(job(4, "lost", &ledger, &gone)).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while counts.snapshot().retried == 0 || counts.snapshot().filtered == 0 {
            assert!(Instant::now() < deadline, "nothing was tried");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(ledger.len(), 3, "an event counts as told though it is not there");
        std::fs::create_dir(&missing).expect("a folder");
        while ledger.first() != Some(4) {
            assert!(Instant::now() < deadline, "the events were not told");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(told(&path), ["new", "paid"]);
        let snapshot = counts.snapshot();
        assert_eq!((snapshot.delivered, snapshot.filtered), (2, 1));
        assert_eq!(calls.last().map(|call| call.events), Some(1));
    }
}
