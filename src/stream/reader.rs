//! Reads one stream: finds its shards, keeps parents before children, and hands on pages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodbstreams::types::{Shard, ShardIteratorType};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use super::record::ReadPage;
use super::service_clock::ServiceClock;
use super::{Pace, Position, Sequence, ShardId, lenient};
use crate::fault::{Fault, persist};
use crate::protocol::Record;

/// How often new shards are looked for; also whenever one has ended.
const DISCOVERY: Duration = Duration::from_secs(15);
/// The least time between two looks: DescribeStream allows 10 calls a second.
const DISCOVERY_PAUSE: Duration = Duration::from_millis(500);
/// GetRecords' own limit.
const PAGE: i32 = 1_000;

/// What came of one call for records.
#[derive(Debug)]
pub struct Page {
    pub shard: ShardId,
    /// Empty at the tip of the shard.
    pub records: Vec<(Sequence, Record)>,
    /// The shard has ended, and all of it has been handed on.
    pub closed: bool,
    /// When the call was made.
    pub asked: Instant,
    /// When it was answered, by the service's own clock, in milliseconds since the Unix epoch.
    pub served_millis: Option<u64>,
}

/// What a reader reports.
#[derive(Debug)]
pub enum StreamEvent {
    /// The shards that there are, each with its parent; repeated now and then.
    Listed(BTreeMap<ShardId, Option<ShardId>>),
    /// A shard is being read from now on, until its last page.
    Opened(ShardId),
    Page(Page),
    /// Records after this position were trimmed before they were read: they are lost to this
    /// reader, which goes on with the oldest that is left.
    Trimmed {
        shard: ShardId,
        after: Position,
    },
    /// A record that can't be read was passed over.
    Unreadable {
        shard: ShardId,
        reason: String,
    },
}

/// The stream that is read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Must not retry by itself: each attempt takes its turn.
    pub client: Client,
    pub arn: String,
    /// Shared by all who read this stream.
    pub pace: Arc<Pace>,
}

/// Reads a stream from the given positions on (from the oldest record where none is given) and
/// sends what it reads until the receiver is dropped.
pub async fn read(
    source: Source,
    start: BTreeMap<ShardId, Position>,
    poll_interval: Duration,
    events: mpsc::Sender<StreamEvent>,
) {
    let mut started: BTreeMap<ShardId, Option<AbortHandle>> = BTreeMap::new();
    let mut ended: BTreeSet<ShardId> = BTreeSet::new();
    let mut readers: JoinSet<ShardId> = JoinSet::new();
    // Shards that were left unread, and are gone.
    let mut unseen = start.clone();
    unseen.retain(|_, position| *position != Position::End);
    loop {
        let Some(listed) = list_shards(&source).await else {
            tokio::time::sleep(DISCOVERY).await;
            continue;
        };
        for (shard, after) in std::mem::take(&mut unseen) {
            if !listed.contains_key(&shard)
                && events.send(StreamEvent::Trimmed { shard, after }).await.is_err()
            {
                return;
            }
        }
        for (shard, reader) in &mut started {
            let gone = reader.take_if(|_| !listed.contains_key(shard) && !ended.contains(shard));
            let Some(reader) = gone else { continue };
            reader.abort();
            ended.insert(shard.clone());
            for event in lost(shard) {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
        if events.send(StreamEvent::Listed(listed.clone())).await.is_err() {
            return;
        }
        let mut ready = true;
        while ready {
            ready = false;
            for (id, parent) in &listed {
                let waits = parent
                    .as_ref()
                    .is_some_and(|parent| listed.contains_key(parent) && !ended.contains(parent));
                if waits || started.contains_key(id) {
                    continue;
                }
                let position = start.get(id).cloned().unwrap_or(Position::TrimHorizon);
                if position == Position::End {
                    // Its children may start in the same round.
                    started.insert(id.clone(), None);
                    ended.insert(id.clone());
                    ready = true;
                    continue;
                }
                debug!(shard = %id, %position, "reading a shard");
                if events.send(StreamEvent::Opened(id.clone())).await.is_err() {
                    return;
                }
                let reader = ShardReader {
                    source: source.clone(),
                    shard: id.clone(),
                    position,
                    poll_interval,
                    events: events.clone(),
                };
                started.insert(id.clone(), Some(readers.spawn(reader.run())));
            }
        }
        tokio::select! {
            biased;
            () = events.closed() => return,
            Some(ended_reader) = readers.join_next() => {
                // One that was aborted has its shard noted already.
                ended.extend(ended_reader.ok());
                tokio::time::sleep(DISCOVERY_PAUSE).await;
            }
            () = tokio::time::sleep(DISCOVERY) => {}
        }
    }
}

fn lineage(shard: &Shard) -> Option<(ShardId, Option<ShardId>)> {
    let id = |text: &str| ShardId(text.into());
    Some((id(shard.shard_id()?), shard.parent_shard_id().map(id)))
}

/// What is said of a shard that went away while it was being read: it is older than 24 hours.
fn lost(shard: &ShardId) -> [StreamEvent; 2] {
    let end = Page {
        shard: shard.clone(),
        records: Vec::new(),
        closed: true,
        asked: Instant::now(),
        served_millis: None,
    };
    [StreamEvent::Trimmed { shard: shard.clone(), after: Position::TrimHorizon }, StreamEvent::Page(end)]
}

/// All shards with their parents; none, if the service can't list them.
async fn list_shards(source: &Source) -> Option<BTreeMap<ShardId, Option<ShardId>>> {
    let mut shards = BTreeMap::new();
    let mut last = None;
    loop {
        let call = || async {
            source.pace.shards().await;
            let request = source.client.describe_stream().stream_arn(&source.arn);
            let answer = request.set_exclusive_start_shard_id(last.clone()).send().await?;
            Ok::<_, Fault>(answer.stream_description)
        };
        let described =
            persist(call, |fault| warn!(%fault, "can't list the shards of the local stream; trying again"))
                .await;
        match described {
            Ok(description) => {
                let description = description?;
                shards.extend(description.shards().iter().filter_map(lineage));
                last = description.last_evaluated_shard_id;
                if last.is_none() {
                    return Some(shards);
                }
            }
            Err(fault) => {
                warn!(%fault, "the shards of the local stream can't be listed");
                return None;
            }
        }
    }
}

/// When a page was asked for, its records, the iterator for the next, and when it was given.
type Records = (Instant, Vec<(Sequence, Record)>, Option<String>, Option<u64>);

struct ShardReader {
    source: Source,
    shard: ShardId,
    position: Position,
    poll_interval: Duration,
    events: mpsc::Sender<StreamEvent>,
}

/// What a call to the stream came to, beside its answer.
enum Answer<T> {
    Good(T),
    /// The iterator is older than 15 minutes.
    Expired,
    /// The position is older than 24 hours.
    Trimmed,
}

impl ShardReader {
    /// Reads the shard to its end, or until nobody listens any more.
    async fn run(mut self) -> ShardId {
        let mut iterator = None;
        let mut ticks = tokio::time::interval(self.poll_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let current = match iterator.take() {
                Some(current) => current,
                None => match self.get_iterator().await {
                    Answer::Good(Some(fresh)) => fresh,
                    // Nothing to go on with: ask again, at the pace of polling.
                    Answer::Good(None) | Answer::Expired => {
                        ticks.tick().await;
                        continue;
                    }
                    Answer::Trimmed => {
                        if self.skip_trimmed().await.is_err() {
                            break;
                        }
                        continue;
                    }
                },
            };
            ticks.tick().await;
            let (asked, records, next, served_millis) = match self.get_records(&current).await {
                Answer::Good(page) => page,
                Answer::Expired => continue,
                Answer::Trimmed => {
                    if self.skip_trimmed().await.is_err() {
                        break;
                    }
                    continue;
                }
            };
            if let Some((last, _)) = records.last() {
                self.position = Position::After(last.clone());
            }
            let closed = next.is_none();
            let page = Page { shard: self.shard.clone(), records, closed, asked, served_millis };
            if self.events.send(StreamEvent::Page(page)).await.is_err() || closed {
                break;
            }
            iterator = next;
        }
        self.source.pace.ended(&self.shard);
        self.shard
    }

    async fn skip_trimmed(&mut self) -> Result<(), mpsc::error::SendError<StreamEvent>> {
        // The oldest record can go between an iterator and its first use. Nothing is missing: this
        // reader was never past it.
        if self.position == Position::TrimHorizon {
            return Ok(());
        }
        let after = std::mem::replace(&mut self.position, Position::TrimHorizon);
        self.events.send(StreamEvent::Trimmed { shard: self.shard.clone(), after }).await
    }

    async fn get_iterator(&self) -> Answer<Option<String>> {
        let call = || async {
            let Source { client, arn, .. } = &self.source;
            let request = client.get_shard_iterator().stream_arn(arn).shard_id(&*self.shard.0);
            let request = match &self.position {
                Position::After(sequence) => request
                    .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                    .sequence_number(sequence.as_str()),
                Position::TrimHorizon | Position::End => {
                    request.shard_iterator_type(ShardIteratorType::TrimHorizon)
                }
            };
            sort(request.send().await)
        };
        match persist(call, |fault| self.complain(fault)).await {
            Ok(Answer::Good(output)) => Answer::Good(output.shard_iterator),
            Ok(Answer::Expired) => Answer::Expired,
            Ok(Answer::Trimmed) => Answer::Trimmed,
            Err(fault) => {
                self.complain(&fault);
                Answer::Expired
            }
        }
    }

    async fn get_records(&self, iterator: &str) -> Answer<Records> {
        let clock = ServiceClock::default();
        let call = || async {
            self.source.pace.records(&self.shard).await;
            let request = self.source.client.get_records().shard_iterator(iterator).limit(PAGE);
            let asked = Instant::now();
            let result = request.customize().interceptor(clock.clone()).send().await;
            if let Err(error) = &result
                && let Some(page) = read_leniently(error)
            {
                debug!(shard = %self.shard, error = %error.to_string(), "the SDK can't read a page");
                return Ok(Answer::Good((asked, page)));
            }
            Ok(match sort(result)? {
                Answer::Good(output) => Answer::Good((asked, ReadPage::from(output))),
                Answer::Trimmed => Answer::Trimmed,
                Answer::Expired => Answer::Expired,
            })
        };
        let answer = persist(call, |fault| self.complain(fault)).await;
        // A call that can never succeed is made anew, with a fresh iterator.
        let (asked, page) = match answer {
            Ok(Answer::Good(page)) => page,
            Ok(Answer::Trimmed) => return Answer::Trimmed,
            Ok(Answer::Expired) => return Answer::Expired,
            Err(fault) => {
                self.complain(&fault);
                return Answer::Expired;
            }
        };
        let mut records = Vec::with_capacity(page.records.len());
        for record in page.records {
            match record {
                Ok(record) => records.push(record),
                Err(error) => {
                    let event =
                        StreamEvent::Unreadable { shard: self.shard.clone(), reason: error.to_string() };
                    // Where nobody listens, the next page finds out.
                    let _ = self.events.send(event).await;
                }
            }
        }
        Answer::Good((asked, records, page.next, clock.millis()))
    }

    fn complain(&self, fault: &Fault) {
        warn!(shard = %self.shard, %fault, "can't read the local stream; trying again");
    }
}

/// The page that an answer holds which the SDK could not read.
fn read_leniently<E>(error: &SdkError<E>) -> Option<ReadPage> {
    let answer = error.raw_response().filter(|answer| answer.status().is_success())?;
    lenient::read(answer.body().bytes()?)
}

/// Sets apart the two answers that are part of reading a stream.
fn sort<T, E>(result: Result<T, SdkError<E>>) -> Result<Answer<T>, Fault>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match result {
        Ok(output) => Ok(Answer::Good(output)),
        Err(error) => match error.code() {
            Some("ExpiredIteratorException") => Ok(Answer::Expired),
            Some("TrimmedDataAccessException") => Ok(Answer::Trimmed),
            _ => Err(error.into()),
        },
    }
}
