//! Reads the shards of one lineage, parents before children, and hands on their pages.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodbstreams::types::ShardIteratorType;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::lister::list;
use super::record::ReadPage;
use super::service_clock::{ServiceClock, own_millis};
use super::{Pacer, lenient};
use crate::answer::Summed;
use crate::fault::{Backoff, Fault, FaultKind, persist};
use crate::source::{Change, Extent, Lineage, Page, Position, Sequence, ShardId, Source, StreamEvent};

/// GetRecords' own limit.
const PAGE: u16 = 1_000;
/// A page with at least this many records was probably not the last one.
const MORE: usize = 500;
/// A page this large, in bytes, may have ended because of its size: 1 MB is GetRecords' limit, and a record
/// is 800 KB at most.
const HEAVY: u64 = 200_000;
/// How many useless iterators in a row to accept before logging it.
const USELESS: u32 = 4;
/// How many answers in a row must report a shard's end: where the service sends checksums, so that the last one must have
/// its own; and where it does not.
const ENDS_SUMMED: u32 = 2;
const ENDS: u32 = 6;
/// How long a list may lag in showing a shard's end before that is logged.
const LIST_LAGS: Duration = Duration::from_secs(30);
/// Stands in place of a region in the name of a stream of DynamoDB Local.
const DYNAMODB_LOCAL: &str = "ddblocal";

/// One stream to read.
#[derive(Clone, Debug)]
pub struct Stream {
    client: Client,
    arn: Arc<str>,
    /// Shared by all of an agent's readers of the table's streams.
    pacer: Arc<Pacer>,
    lineage: watch::Receiver<Option<Lineage>>,
    /// Requests a fresh list.
    look: Arc<Notify>,
}

impl Source for Stream {
    fn lineage(&self) -> watch::Receiver<Option<Lineage>> {
        self.lineage.clone()
    }

    fn look(&self) {
        self.look.notify_one();
    }

    fn own_millis(&self) -> u64 {
        own_millis(&self.client)
    }

    async fn read(self, shards: Vec<(ShardId, Position)>, events: mpsc::Sender<StreamEvent>) {
        for (shard, position) in shards {
            if position == Position::End {
                continue;
            }
            debug!(%shard, %position, "reading a shard");
            let reader = ShardReader {
                stream: self.clone(),
                shard,
                position,
                events: events.clone(),
                useless: Useless::default(),
                end: None,
                is_summed: false,
            };
            if !reader.run().await {
                return;
            }
        }
    }
}

impl Stream {
    /// A stream, and the task that keeps its list of shards fresh until nobody looks at it any more.
    pub fn open(client: Client, arn: String, pacer: Arc<Pacer>) -> (Self, impl Future<Output = ()>) {
        let (listed, lineage) = watch::channel(None);
        let look = Arc::new(Notify::new());
        let list = list(client.clone(), arn.clone(), Arc::clone(&look), listed);
        (Self { client, arn: arn.into(), pacer, lineage, look }, list)
    }

    /// A stream whose shards have been listed, and are not listed again.
    pub fn listed(client: Client, arn: String, pacer: Arc<Pacer>, lineage: Lineage) -> Self {
        // What has been sent can be read though nothing more is.
        let (_, lineage) = watch::channel(Some(lineage));
        Self { client, arn: arn.into(), pacer, lineage, look: Arc::default() }
    }

    pub fn arn(&self) -> &Arc<str> {
        &self.arn
    }

    /// Whether a page that ends before the tip does so only for its number of records or its size. This may
    /// not be assumed of DynamoDB itself ("it might take multiple calls", GetRecords). DynamoDB Local reads
    /// one table of one database; its creation times are whole minutes, so without this it would take up to a
    /// minute to know that everything has been read.
    fn gives_all_there_is(&self) -> bool {
        self.arn.split(':').nth(3) == Some(DYNAMODB_LOCAL)
    }

    /// The stream of a shard, which may be an earlier one, and the shard's name there.
    fn place<'a>(&self, shard: &'a ShardId) -> (String, &'a str) {
        match (shard.in_stream(), self.arn.rsplit_once("/stream/")) {
            ((Some(label), name), Some((table, _))) => (format!("{table}/stream/{label}"), name),
            ((_, name), _) => (self.arn.to_string(), name),
        }
    }
}

/// The content of one answer, and when it was given.
struct Records {
    read: Vec<Change>,
    unreadable: usize,
    last: Option<Sequence>,
    bytes: u64,
    /// The iterator for the next page.
    next: Option<String>,
    served_millis: Option<u64>,
    /// Whether it came with its checksum.
    summed: bool,
}

struct ShardReader {
    stream: Stream,
    shard: ShardId,
    position: Position,
    events: mpsc::Sender<StreamEvent>,
    useless: Useless,
    end: Option<ToldEnd>,
    /// Whether a page has come with its checksum: its service sends them.
    is_summed: bool,
}

/// Consecutive iterators with which nothing could be read.
#[derive(Default)]
struct Useless {
    times: u32,
    backoff: Backoff,
}

/// A shard's end as answers report it. One answer without a next iterator is no proof: whatever answers in
/// the service's place lacks one as well.
struct ToldEnd {
    since: Instant,
    /// How many answers in a row have reported it, each to an iterator of its own.
    times: u32,
}

/// The result of a call to the stream, beside its answer.
enum Answer<T> {
    Good(T),
    /// The iterator is older than 15 minutes.
    Expired,
    /// The position is older than 24 hours.
    Trimmed,
    /// The shard no longer exists.
    Gone,
}

impl ShardReader {
    /// Reads the shard to its end. Returns whether the receiver stayed to the end.
    async fn run(mut self) -> bool {
        let mut iterator = None;
        // When records last came: a shard that has just started counts as busy.
        let mut fresh = Instant::now();
        loop {
            let current = match iterator.take() {
                Some(current) => current,
                None => {
                    let answer = self.get_iterator().await;
                    match self.unless_lost(answer, "no iterator was returned").await {
                        Ok(Some(current)) => current,
                        Ok(None) => continue,
                        Err(stayed) => return stayed,
                    }
                }
            };
            let asked = Instant::now();
            let answer = self.get_records(&current).await;
            let page = match self.unless_lost(answer, "the iterator has expired, or can't be used").await {
                Ok(Some(page)) => page,
                Ok(None) => continue,
                Err(stayed) => return stayed,
            };
            let Records { read: records, unreadable, last, bytes, next, served_millis, summed } = page;
            if let Some(last) = &last {
                self.position = Position::After(last.clone());
            }
            let count = records.len() + unreadable;
            if count > 0 {
                fresh = asked;
            }
            self.useless = Useless::default();
            self.is_summed |= summed;
            let proof = (count == 0 && next.is_none()).then_some(summed);
            let closed = self.has_ended(next.is_none(), proof, asked);
            let open = next.is_some() && !self.has_children();
            let extent = match records.len() {
                all if all >= usize::from(PAGE) => Extent::Full,
                _ if count >= MORE => Extent::Part,
                _ if bytes < HEAVY && self.stream.gives_all_there_is() => Extent::All,
                _ => Extent::Unsure,
            };
            let shard = self.shard.clone();
            let page = Page { shard, records, unreadable, extent, last, closed, open, asked, served_millis };
            if self.events.send(StreamEvent::Page(page)).await.is_err() {
                return false;
            }
            if closed {
                return true;
            }
            iterator = next;
            // An answer that reported the shard's end is checked again at once.
            let again = extent >= Extent::Part || self.end.as_ref().is_some_and(|end| end.times < ENDS);
            self.stream.pacer.pause(asked, fresh, again).await;
        }
    }

    /// What an answer holds; nothing if the position is to be found again first. Fails if reading is over, with
    /// whether the receiver stayed.
    async fn unless_lost<T>(&mut self, answer: Answer<T>, why: &'static str) -> Result<Option<T>, bool> {
        match answer {
            Answer::Good(held) => return Ok(Some(held)),
            Answer::Expired => self.useless(why).await,
            Answer::Trimmed => self.skip_trimmed().await.map_err(|_| false)?,
            Answer::Gone => return Err(self.end_unread().await.is_ok()),
        }
        Ok(None)
    }

    /// Whether the shard has certainly ended: several answers in a row have said so, each to an iterator of
    /// its own, the last of them without a record, and the list says so too. Fewer are enough if the last one
    /// came with its checksum, and none without it if the service sends them.
    fn has_ended(&mut self, lacks_next: bool, empty_and_summed: Option<bool>, asked: Instant) -> bool {
        if !lacks_next {
            self.end = None;
            return false;
        }
        let end = self.end.get_or_insert(ToldEnd { since: asked, times: 0 });
        end.times += 1;
        let (times, since) = (end.times, end.since);
        let listed = self.stream.lineage.borrow();
        // A stream that has been replaced by another one has ended, with all its shards.
        let is_over = self.shard.is_of_other_stream();
        if is_over || listed.as_ref().is_some_and(|lineage| lineage.has_ended(&self.shard)) {
            let sends_sums = self.is_summed || listed.as_ref().is_some_and(|lineage| lineage.is_summed);
            return empty_and_summed.is_some_and(|is_summed| is_end(times, is_summed, sends_sums));
        }
        self.stream.look.notify_one();
        if since.elapsed() >= LIST_LAGS && times.is_power_of_two() {
            warn!(
                shard = %self.shard, times,
                "the stream reports the shard's end, but the list of shards does not: reading it again. If \
                 this persists, something in between answers in the stream's place"
            );
            let _ = self.events.try_send(StreamEvent::Failed);
        }
        false
    }

    /// Waits before the next iterator is requested, longer with each useless one.
    async fn useless(&mut self, why: &'static str) {
        let Useless { times, backoff } = &mut self.useless;
        *times += 1;
        let pause = backoff.next(FaultKind::Unreachable);
        if *times >= USELESS && times.is_power_of_two() {
            let (shard, times) = (&self.shard, *times);
            warn!(%shard, why, times, "can't read the local stream: no usable iterator; retrying");
        }
        tokio::time::sleep(pause).await;
    }

    /// A surer sign of a shard's end than an ending sequence number in the list: some servers give one to
    /// every shard.
    fn has_children(&self) -> bool {
        let listed = self.stream.lineage.borrow();
        listed.as_ref().is_some_and(|lineage| lineage.has_children(&self.shard))
    }

    async fn skip_trimmed(&mut self) -> Result<(), mpsc::error::SendError<StreamEvent>> {
        self.useless("the records at the iterator's start were trimmed").await;
        // The oldest record can be trimmed between an iterator's creation and its first use. Nothing is
        // missing: this reader was never past it.
        if self.position == Position::TrimHorizon {
            return Ok(());
        }
        let after = std::mem::replace(&mut self.position, Position::TrimHorizon);
        self.events.send(StreamEvent::Trimmed { shard: self.shard.clone(), after }).await
    }

    /// Ends a shard that was removed while it was being read.
    async fn end_unread(&mut self) -> Result<(), mpsc::error::SendError<StreamEvent>> {
        let (shard, after) = (self.shard.clone(), self.position.clone());
        self.events.send(StreamEvent::Trimmed { shard: shard.clone(), after }).await?;
        let end = Page {
            shard,
            records: Vec::new(),
            unreadable: 0,
            extent: Extent::Unsure,
            last: None,
            closed: true,
            open: false,
            asked: Instant::now(),
            served_millis: None,
        };
        self.events.send(StreamEvent::Page(end)).await
    }

    /// Separates the errors that are part of reading a stream.
    fn sort<T, E>(&self, result: Result<T, SdkError<E>>) -> Result<Answer<T>, Fault>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let error = match result {
            Ok(output) => return Ok(Answer::Good(output)),
            Err(error) => error,
        };
        let listed = self.stream.lineage.borrow();
        let is_gone = listed.as_ref().is_some_and(|lineage| !lineage.contains(&self.shard));
        match error.code() {
            Some("ExpiredIteratorException") => Ok(Answer::Expired),
            Some("TrimmedDataAccessException") => Ok(Answer::Trimmed),
            // If the whole stream is missing it can't be listed, and its shards are not gone.
            Some("ResourceNotFoundException") if is_gone => Ok(Answer::Gone),
            _ => Err(error.into()),
        }
    }

    async fn get_iterator(&self) -> Answer<String> {
        let call = || async {
            let (arn, shard) = self.stream.place(&self.shard);
            let request = self.stream.client.get_shard_iterator().stream_arn(arn).shard_id(shard);
            let request = match &self.position {
                Position::After(sequence) => request
                    .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                    .sequence_number(sequence.as_str()),
                Position::TrimHorizon | Position::End => {
                    request.shard_iterator_type(ShardIteratorType::TrimHorizon)
                }
            };
            self.sort(request.send().await)
        };
        match persist(call, |fault| self.complain(fault)).await {
            Ok(Answer::Good(output)) => output.shard_iterator.map_or(Answer::Expired, Answer::Good),
            Ok(Answer::Expired) => Answer::Expired,
            Ok(Answer::Trimmed) => Answer::Trimmed,
            Ok(Answer::Gone) => Answer::Gone,
            Err(fault) => {
                self.complain(&fault);
                Answer::Expired
            }
        }
    }

    async fn get_records(&self, iterator: &str) -> Answer<Records> {
        let (clock, summed) = (ServiceClock::default(), Summed::default());
        let call = || async {
            self.stream.pacer.attempt(&self.shard.at_home()).await;
            let request = self.stream.client.get_records().shard_iterator(iterator).limit(PAGE.into());
            let request = request.customize().interceptor(clock.clone()).interceptor(summed.clone());
            let result = request.send().await;
            if let Err(error) = &result
                && let Some(page) = read_leniently(error)
            {
                debug!(shard = %self.shard, error = %error.to_string(), "the SDK can't read a page");
                return Ok(Answer::Good(page));
            }
            self.sort(result.map(ReadPage::from))
        };
        let answer = persist(call, |fault| self.complain(fault)).await;
        // A call that can never succeed is retried with a fresh iterator.
        let page = match answer {
            Ok(Answer::Good(page)) => page,
            Ok(Answer::Trimmed) => return Answer::Trimmed,
            Ok(Answer::Expired) => return Answer::Expired,
            Ok(Answer::Gone) => return Answer::Gone,
            Err(fault) => {
                self.complain(&fault);
                return Answer::Expired;
            }
        };
        let mut records = Vec::with_capacity(page.records.len());
        let (mut unreadable, mut last) = (0, None);
        for record in page.records {
            match record {
                Ok(record) => {
                    last = Some(record.sequence.clone());
                    records.push(record);
                }
                Err(record) => {
                    unreadable += 1;
                    last = record.sequence.clone().or(last);
                    let event = StreamEvent::Unreadable { shard: self.shard.clone(), record };
                    // If the receiver is gone, the next page notices.
                    let _ = self.events.send(event).await;
                }
            }
        }
        let (bytes, next) = (page.bytes, page.next);
        let (served_millis, summed) = (clock.millis(), summed.is_summed());
        Answer::Good(Records { read: records, unreadable, last, bytes, next, served_millis, summed })
    }

    fn complain(&self, fault: &Fault) {
        warn!(shard = %self.shard, %fault, "can't read the local stream; retrying");
        let _ = self.events.try_send(StreamEvent::Failed);
    }
}

/// Whether a shard has ended that so many answers in a row have said to have, the last of them with or without its
/// checksum.
fn is_end(times: u32, is_summed: bool, sends_sums: bool) -> bool {
    if is_summed { times >= ENDS_SUMMED } else { times >= ENDS && !sends_sums }
}

/// The page in an answer that the SDK could not read.
fn read_leniently<E>(error: &SdkError<E>) -> Option<ReadPage> {
    let answer = error.raw_response().filter(|answer| answer.status().is_success())?;
    lenient::read(answer.body().bytes()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_answers_without_the_services_checksum_ends_no_shard() {
        for (times, is_summed, sends_sums, expected) in [
            (1, true, true, false),
            (2, true, true, true),
            (5, false, false, false),
            (6, false, false, true),
            // Something in between answers, again and again.
            (6, false, true, false),
            (1_000, false, true, false),
        ] {
            assert_eq!(is_end(times, is_summed, sends_sums), expected, "{times} {is_summed} {sends_sums}");
        }
    }
}
