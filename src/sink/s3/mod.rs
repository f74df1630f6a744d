//! Objects of an S3 bucket, each of them written once: an archive that holds every event exactly once.
//!
//! An object is named after its first event, and says in its metadata which one is its last. It is put on condition
//! that there is none of that name. Agents finish the events of an object all at once, so whoever delivers them again
//! begins with the same first event, finds the object, and goes on after its last one. Nothing but the bucket need
//! remember which events went into one object.

#[cfg(feature = "parquet")]
mod parquet;
mod rejected;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use flate2::write::GzEncoder;

use super::{Batch, Delivery, Offer, json_lines};
use crate::clock::moment;
use crate::config::{Compression, Format, S3Config, S3Place};
use crate::contained::joined;
use crate::fault::{Fault, FaultKind, chain};
use crate::feed::Limits;
use crate::protocol::Origin;
use crate::region::Region;
use crate::source::Sequence;

pub use rejected::RejectedBucket;

/// The metadata of an object: the ARN of the stream that its events come from, its last event's sequence number, and
/// how many events it has.
const STREAM: &str = "tradewind-stream";
const LAST: &str = "tradewind-last";
const EVENTS: &str = "tradewind-events";

/// Objects are in one folder for each of these.
const HOUR: Duration = Duration::from_hours(1);
/// How long one object may take.
const ATTEMPT: Duration = Duration::from_mins(5);

/// A bucket, and what the names of its objects begin with.
#[derive(Debug)]
pub struct S3Sink {
    client: Client,
    config: S3Config,
    region: Origin,
    objects: Mutex<Objects>,
}

/// Of which objects part has been offered again: the last event of each, by shard.
#[derive(Debug, Default)]
struct Objects(BTreeMap<String, Sequence>);

impl Objects {
    /// What is known of a batch before its object is put.
    fn before(&mut self, batch: &Batch<'_>) -> Option<Delivery> {
        if batch.events.is_empty() {
            return Some(Delivery::Taken { state: None });
        }
        let last = self.0.remove(batch.shard)?;
        self.found(batch, last)
    }

    /// What follows once its object is put, or one of the same name has been found, with this last event; `None` if
    /// the latter is no object of the feed's.
    fn after(&mut self, batch: &Batch<'_>, found: Option<Sequence>) -> Option<Delivery> {
        self.0.remove(batch.shard);
        found.map_or(Some(Delivery::Taken { state: None }), |last| self.found(batch, last))
    }

    /// What an object with this last event says about a batch that does not begin before it; `None` if nothing.
    fn found(&mut self, batch: &Batch<'_>, last: Sequence) -> Option<Delivery> {
        let has = |offer: &Offer<'_>| Sequence::new(offer.sequence) <= last;
        let count = batch.events.iter().take_while(|offer| has(offer)).count();
        let is_all = count == batch.events.len();
        let ends = batch.events.last().is_some_and(|offer| Sequence::new(offer.sequence) == last);
        match count {
            0 => None,
            _ if ends => Some(Delivery::Taken { state: None }),
            _ if is_all => {
                self.0.insert(batch.shard.to_owned(), last);
                Some(Delivery::HadWithMore)
            }
            _ => Some(Delivery::Had { count }),
        }
    }
}

impl S3Sink {
    /// Writes with the credentials of an agent's region and, unless the bucket is elsewhere, in its AWS region.
    pub fn new(config: S3Config, region: &Region) -> Self {
        let client = client(&config.place, region);
        Self { client, config, region: region.name.clone(), objects: Mutex::default() }
    }

    pub(super) fn limits(&self) -> Limits {
        let S3Config { object_bytes: bytes, object_time: window, .. } = self.config;
        Limits { events: usize::MAX, bytes, window, tumbling: None, span: Some(HOUR) }
    }

    /// Whether the bucket is there and may be read.
    pub(super) async fn check(&self) -> Result<(), Fault> {
        look(&self.client, &self.config.place).await
    }

    /// Writes an object, unless it has been written before; returns which of the events are in it.
    pub(super) async fn put(&self, batch: &Batch<'_>) -> Result<Delivery, Fault> {
        if let Some(delivery) = self.objects().before(batch) {
            return Ok(delivery);
        }
        let (Some(first), Some(last)) = (batch.events.first(), batch.events.last()) else {
            return Ok(Delivery::Taken { state: None });
        };
        let name = self.name(batch.shard, first);
        let body = self.body(&batch.events).await?;
        let put = self
            .client
            .put_object()
            .bucket(&self.config.place.bucket)
            .key(&name)
            .if_none_match("*")
            .content_type(self.content_type())
            .metadata(STREAM, batch.stream)
            .metadata(LAST, last.sequence)
            .metadata(EVENTS, batch.events.len().to_string())
            .body(ByteStream::from(body));
        let found = match Box::pin(put.send()).await {
            Ok(_) => None,
            Err(error) if status(&error) == Some(412) => Some(self.last_of(&name, batch.stream).await?),
            Err(error) => return Err(fault(&error)),
        };
        self.objects().after(batch, found).ok_or_else(|| strange(&name))
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last event of an object that is there already.
    async fn last_of(&self, name: &str, stream: &str) -> Result<Sequence, Fault> {
        let head = self.client.head_object().bucket(&self.config.place.bucket).key(name);
        let head = Box::pin(head.send()).await.map_err(|error| fault(&error))?;
        let metadata = head.metadata.unwrap_or_default();
        // Another stream may have had a shard of this name.
        let is_of_it = metadata.get(STREAM).map_or("", String::as_str) == stream;
        let last = metadata.get(LAST).filter(|_| is_of_it);
        last.map(|last| Sequence::new(last)).ok_or_else(|| strange(name))
    }

    /// The name of the object that begins with an event.
    fn name(&self, shard: &str, first: &Offer<'_>) -> String {
        let prefix = self.config.place.prefix_in(&self.region);
        let path = path(first.created_millis, &self.region, shard, first.sequence);
        let ending = match (&self.config.format, self.config.compression) {
            (Format::JsonLines, Compression::None) => "jsonl",
            (Format::JsonLines, Compression::Gzip) => "jsonl.gz",
            (Format::JsonLines, Compression::Zstd) => "jsonl.zst",
            #[cfg(feature = "parquet")]
            (Format::Parquet(_), _) => "parquet",
        };
        format!("{prefix}{path}.{ending}")
    }

    /// What an object with these events holds.
    async fn body(&self, events: &[Offer<'_>]) -> Result<Vec<u8>, Fault> {
        let compression = self.config.compression;
        let body = match &self.config.format {
            Format::JsonLines => {
                let lines = json_lines(events);
                tokio::task::spawn_blocking(move || compressed(compression, lines))
            }
            #[cfg(feature = "parquet")]
            Format::Parquet(table) => {
                let (table, rows): (_, Vec<_>) =
                    (table.clone(), events.iter().map(parquet::Row::of).collect());
                tokio::task::spawn_blocking(move || {
                    parquet::table(&table, compression, &rows).map_err(io::Error::other)
                })
            }
        };
        let body = joined(body.await);
        body.map_err(|error| {
            Fault::new(FaultKind::Unreachable, format!("can't make an object of events: {error}"))
        })
    }

    fn content_type(&self) -> &'static str {
        match (&self.config.format, self.config.compression) {
            (Format::JsonLines, Compression::None) => "application/x-ndjson",
            (Format::JsonLines, Compression::Gzip) => "application/gzip",
            (Format::JsonLines, Compression::Zstd) => "application/zstd",
            #[cfg(feature = "parquet")]
            (Format::Parquet(_), _) => "application/vnd.apache.parquet",
        }
    }
}

/// Calls S3 with the credentials of an agent's region and, unless the bucket is elsewhere, in its AWS region.
fn client(place: &S3Place, region: &Region) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(ATTEMPT)
        .build();
    let mut client = aws_sdk_s3::config::Builder::from(region.sdk())
        .timeout_config(timeouts)
        // Each attempt is counted and logged.
        .retry_config(RetryConfig::disabled());
    if let Some(region) = &place.aws_region {
        client = client.region(aws_sdk_s3::config::Region::new(region.clone()));
    }
    if let Some(endpoint) = place.endpoint_in(&region.name) {
        client = client.endpoint_url(endpoint).force_path_style(true);
    }
    Client::from_conf(client.build())
}

/// Whether a bucket is there and may be read.
async fn look(client: &Client, place: &S3Place) -> Result<(), Fault> {
    let answer = client.head_bucket().bucket(&place.bucket).send();
    Box::pin(answer).await.map(|_| ()).map_err(|error| fault(&error))
}

/// The name, without its beginning and ending, of an object that begins with an event: in the folder of the hour in
/// which that was created.
fn path(created_millis: u64, region: &Origin, shard: &str, sequence: &str) -> String {
    let created = moment(created_millis).to_string();
    format!("dt={}/hour={}/{region}-{shard}-{sequence}", &created[..10], &created[11..13])
}

fn compressed(compression: Compression, lines: Vec<u8>) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(lines),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&lines)?;
            encoder.finish()
        }
        Compression::Zstd => zstd::encode_all(lines.as_slice(), zstd::DEFAULT_COMPRESSION_LEVEL),
    }
}

fn strange(name: &str) -> Fault {
    let message = format!(
        "there is an object {name} that this feed has not written from this stream: move it away, or give the feed \
         another prefix"
    );
    Fault::new(FaultKind::Refused, message)
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|answer| answer.status().as_u16())
}

/// What to do about a call that failed. It says nothing about the events.
fn fault<E: ProvideErrorMetadata + std::error::Error + 'static>(error: &SdkError<E>) -> Fault {
    let code = error.code().unwrap_or_default();
    let kind = match (code, status(error)) {
        ("SlowDown" | "TooManyRequestsException", _) | (_, Some(429 | 503)) => FaultKind::Throttled,
        (_, Some(403)) => FaultKind::Refused,
        ("NoSuchBucket", _) | (_, Some(404)) => FaultKind::Missing,
        _ if code.starts_with("KMS.") || code.starts_with("ExpiredToken") => FaultKind::Refused,
        _ => FaultKind::Unreachable,
    };
    // The answer to HEAD has no body that says why.
    let message = match (error.message(), status(error)) {
        (Some(message), _) => message.to_owned(),
        (None, Some(403)) => "access denied".to_owned(),
        (None, Some(404)) => "not found".to_owned(),
        (None, _) => chain(error),
    };
    Fault { kind, code: code.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use aws_sdk_dynamodb::types::AttributeValue;
    use tokio::time::Instant;

    use super::*;
    use crate::feed::{Answer, Call, Next, Parcel, Retry, Slot};
    use crate::protocol::{Item, KeyId};

    /// An event by its number: one is created each quarter of an hour.
    #[derive(Debug)]
    struct Event(usize, String);

    impl Parcel for Event {
        fn key(&self) -> KeyId {
            KeyId::of(&Item::from([("pk".to_owned(), AttributeValue::N((self.0 % 3).to_string()))]))
        }

        fn bytes(&self) -> usize {
            1
        }

        fn created_millis(&self) -> u64 {
            self.0 as u64 * 15 * 60_000
        }

        fn is_left(&self) -> bool {
            false
        }

        fn free(&mut self) {}
    }

    /// Delivers events to a bucket while agents die at any moment, and what they had put arrives late or not at all.
    /// Returns the numbers of the events in each object.
    fn archived(random: &mut fastrand::Rng, events: usize, is_atomic: bool) -> Vec<Vec<usize>> {
        let mut bucket: BTreeMap<usize, usize> = BTreeMap::new();
        // A request of an agent that has died, on its way still.
        let mut late: Option<(usize, usize)> = None;
        let mut done = 0;
        while done < events {
            let (mut slot, mut objects, mut now) = (Slot::default(), Objects::default(), Instant::now());
            let mut unread: VecDeque<usize> = (done..events).collect();
            loop {
                for number in unread.drain(..random.usize(0..=unread.len().min(6))) {
                    slot.add(Event(number, number.to_string()), now);
                }
                let window = Duration::from_secs(random.u64(0..3));
                let (events, span) = (random.usize(1..6), random.bool().then_some(HOUR));
                let limits = Limits { events, bytes: 100, window, tumbling: None, span };
                let call: Call<Event> = match slot.next(&limits, now, 0) {
                    Next::Call(call) => call,
                    // An agent waits for long for what it has not read.
                    Next::Later(Some(at)) if unread.is_empty() || at < now + Duration::from_mins(1) => {
                        now = at;
                        continue;
                    }
                    Next::Later(_) if unread.is_empty() => break,
                    Next::Later(_) => continue,
                };
                let numbers: Vec<usize> = call.events.iter().map(|entry| entry.parcel.0).collect();
                let offers = call.events.iter().map(|entry| Offer {
                    text: "",
                    sequence: &entry.parcel.1,
                    created_millis: entry.parcel.created_millis(),
                });
                let batch = Batch { events: offers.collect(), shard: "shard", ..Batch::default() };
                let (dies, lands) = (random.u8(..8) == 0, random.bool());
                let delivery = objects.before(&batch).unwrap_or_else(|| {
                    let (first, last) = (&numbers[0], &numbers[numbers.len() - 1]);
                    // It may land before this one does.
                    if let Some((first, last)) = late.take_if(|_| random.bool()) {
                        bucket.entry(first).or_insert(last);
                    }
                    let found = bucket.get(first).map(|last| Sequence::new(&last.to_string()));
                    if found.is_none() && dies && !lands {
                        late = Some((*first, *last));
                    } else {
                        bucket.entry(*first).or_insert(*last);
                    }
                    objects.after(&batch, found).expect("an object of the feed's")
                });
                if dies {
                    break;
                }
                let answer = match delivery {
                    Delivery::Had { count } => Answer::Had { count },
                    Delivery::HadWithMore => Answer::HadWithMore,
                    _ => Answer::Taken,
                };
                let settled = slot.answered(call, answer, None, &Retry::default(), now, 0);
                // A checkpoint may be saved at any moment; what is finished last to first is passed all at once.
                let finished = settled.taken.iter().map(|event| event.0).max().map(|last| last + 1);
                let passed = if is_atomic { finished } else { finished.map(|to| random.usize(done..=to)) };
                done = passed.unwrap_or(done).max(done);
                if !is_atomic && passed < finished {
                    break;
                }
            }
        }
        bucket.into_iter().map(|(first, last)| (first..=last).collect()).collect()
    }

    #[test]
    fn each_event_is_in_one_object_whenever_agents_die() {
        let seed = fastrand::Rng::new().u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut twice = 0;
        for round in 0..2_000 {
            let count = random.usize(1..60);
            let mut all = archived(&mut random, count, true).concat();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>(), "seed {seed}, round {round}");
            twice += usize::from(archived(&mut random, count, false).concat().len() != count);
        }
        assert!(twice > 0, "seed {seed}: a checkpoint within an object goes by unnoticed");
    }

    #[test]
    fn an_object_that_is_none_of_the_feeds_is_told() {
        let events = vec![Offer { text: "", sequence: "5", created_millis: 0 }];
        let batch = Batch { events, shard: "shard", ..Batch::default() };
        assert_eq!(Objects::default().after(&batch, Some(Sequence::new("4"))), None);
    }

    #[test]
    fn what_is_compressed_is_read_back() {
        use std::io::Read;
        let lines = b"{\"a\":1}\n".repeat(1_000);
        let of = |compression| compressed(compression, lines.clone()).expect("compressed");
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(of(Compression::Gzip).as_slice()).read_to_end(&mut read).expect("gzip");
        assert_eq!(read, lines);
        assert_eq!(zstd::decode_all(of(Compression::Zstd).as_slice()).expect("zstd"), lines);
        assert_eq!(of(Compression::None), lines);
    }
}
