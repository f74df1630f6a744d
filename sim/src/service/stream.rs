//! The change stream of one table: shards that roll and split, pages, iterators, trimming.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::{Value, json};

use super::Refusal;
use crate::item::{Item, value_of, weight};

/// An iterator's lifetime, in milliseconds.
const ITERATOR_LIFE: u64 = 15 * 60_000;
/// The most records in a page.
const PAGE_RECORDS: usize = 1_000;
const PAGE_BYTES: usize = 1_000_000;
/// Sequence numbers start shortly before they get one digit longer.
const FIRST_SEQUENCE: u128 = 999_999_999_999_999_999_900;

/// One change of one item.
#[derive(Clone, Debug)]
pub(super) struct StreamRecord {
    pub(super) key: Arc<Item>,
    pub(super) old: Option<Arc<Item>>,
    pub(super) new: Option<Arc<Item>>,
    /// The creation time that the service states, in milliseconds since the Unix epoch.
    pub(super) created: u64,
    /// When it was written, in virtual time.
    pub(super) written: u64,
    /// When readers can see it, in virtual time.
    pub(super) visible: u64,
    sequence: u128,
}

/// Properties in which services differ, according to the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// How long records are kept, in milliseconds.
    pub(super) retention: u64,
    /// How long after its creation a new shard is listed, in milliseconds.
    pub(super) listing_delay: u64,
    /// How many shards DescribeStream lists on a page.
    pub(super) shards_a_page: usize,
}

#[derive(Debug)]
struct Shard {
    id: String,
    parent: Option<String>,
    /// The range of key hashes that it takes.
    range: (u64, u64),
    records: VecDeque<StreamRecord>,
    since: u64,
    /// When it was closed, in virtual time.
    closed: Option<u64>,
    first: u128,
    last: u128,
    trimmed: u128,
    /// The last record that a reader has been given.
    served: u128,
    /// Whether some reader has been told that this shard has ended.
    read_out: bool,
}

/// The stream of one table.
#[derive(Debug)]
pub(super) struct Stream {
    /// What distinguishes it from the table's other streams.
    pub(super) label: String,
    shards: BTreeMap<String, Shard>,
    /// It is no longer the table's stream, and can only be read.
    is_off: bool,
    made: u64,
    sequence: u128,
    habits: Habits,
    /// Whether records were dropped that nobody had read.
    pub(super) lost_unread: bool,
    /// Lists no parents, so that readers take children first: a defect.
    pub(super) hides_parents: bool,
}

/// What a page contained, for checks and traces.
pub(super) struct Served {
    pub(super) answer: Value,
    pub(super) records: usize,
    /// Whether the shard's parent had not been read to its end.
    pub(super) too_early: bool,
}

impl Stream {
    pub(super) fn new(habits: Habits, shards: usize) -> Self {
        let stream = Self {
            label: "1".to_owned(),
            shards: BTreeMap::new(),
            is_off: false,
            made: 0,
            sequence: FIRST_SEQUENCE,
            habits,
            lost_unread: false,
            hides_parents: false,
        };
        stream.with_shards(shards, 0)
    }

    /// Ends this stream, and starts the next at the same moment: no write is in neither.
    pub(super) fn follow(&mut self, shards: usize, now: u64) -> Self {
        for shard in self.shards.values_mut() {
            shard.closed.get_or_insert(now);
        }
        self.is_off = true;
        let next = Self {
            label: format!("{}+", self.label),
            shards: BTreeMap::new(),
            is_off: false,
            lost_unread: false,
            ..*self
        };
        next.with_shards(shards, now)
    }

    /// Whether nothing of it is kept any more.
    pub(super) fn is_gone(&self) -> bool {
        self.is_off && self.shards.is_empty()
    }

    pub(super) fn has(&self, shard: &str) -> bool {
        self.shards.contains_key(shard)
    }

    fn with_shards(mut self, shards: usize, now: u64) -> Self {
        let step = u64::MAX / shards as u64;
        for number in 0..shards as u64 {
            let to = if number + 1 == shards as u64 { u64::MAX } else { (number + 1) * step - 1 };
            self.add_shard(None, (number * step, to), now);
        }
        self
    }

    fn add_shard(&mut self, parent: Option<String>, range: (u64, u64), now: u64) {
        self.made += 1;
        // Names that do not sort in the order of creation, like the service's own.
        let mut hasher = DefaultHasher::new();
        self.made.hash(&mut hasher);
        let id = format!("shardId-{:08}-{:08x}", 1_000 + hasher.finish() % 9_000, self.made);
        let shard = Shard {
            id: id.clone(),
            parent,
            range,
            records: VecDeque::new(),
            since: now,
            closed: None,
            first: self.sequence + 1,
            last: self.sequence,
            trimmed: 0,
            served: 0,
            read_out: false,
        };
        self.shards.insert(id, shard);
    }

    /// Closes every open shard; each gets one child, or two.
    pub(super) fn roll(&mut self, split: bool, now: u64) {
        let open: Vec<(String, (u64, u64))> = self
            .shards
            .values_mut()
            .filter(|shard| shard.closed.is_none())
            .map(|shard| {
                shard.closed = Some(now);
                (shard.id.clone(), shard.range)
            })
            .collect();
        for (parent, (from, to)) in open {
            let middle = from + (to - from) / 2;
            if split && open_enough(from, to) {
                self.add_shard(Some(parent.clone()), (from, middle), now);
                self.add_shard(Some(parent), (middle + 1, to), now);
            } else {
                self.add_shard(Some(parent), (from, to), now);
            }
        }
    }

    /// Adds a record to the shard of its key. Returns its number.
    pub(super) fn append(&mut self, mut record: StreamRecord) -> u128 {
        self.sequence += 1;
        record.sequence = self.sequence;
        let mut hasher = DefaultHasher::new();
        format!("{:?}", record.key).hash(&mut hasher);
        let hash = hasher.finish();
        let takes =
            |shard: &&mut Shard| shard.closed.is_none() && (shard.range.0..=shard.range.1).contains(&hash);
        if let Some(shard) = self.shards.values_mut().find(takes) {
            // Readers see a shard's records in order.
            record.visible = record.visible.max(shard.records.back().map_or(0, |last| last.visible));
            shard.last = record.sequence;
            shard.records.push_back(record);
        }
        self.sequence
    }

    /// Drops what is too old.
    pub(super) fn trim(&mut self, now: u64) {
        let oldest = now.saturating_sub(self.habits.retention);
        for shard in self.shards.values_mut() {
            while let Some(first) = shard.records.front().filter(|first| first.written < oldest) {
                shard.trimmed = first.sequence;
                self.lost_unread |= first.sequence > shard.served;
                shard.records.pop_front();
            }
        }
        self.shards.retain(|_, shard| {
            !shard.records.is_empty() || shard.closed.is_none_or(|closed| closed >= oldest)
        });
    }

    pub(super) fn describe(&self, request: &Value, now: u64) -> Value {
        let after = request["ExclusiveStartShardId"].as_str();
        let listed =
            |shard: &&Shard| shard.parent.is_none() || shard.since + self.habits.listing_delay <= now;
        let mut rest = self
            .shards
            .values()
            .filter(listed)
            .filter(|shard| after.is_none_or(|after| shard.id.as_str() > after))
            .peekable();
        let mut shards = Vec::new();
        while shards.len() < self.habits.shards_a_page {
            let Some(shard) = rest.next() else { break };
            let mut listed = json!({
                "ShardId": shard.id,
                "SequenceNumberRange": { "StartingSequenceNumber": shard.first.to_string() },
            });
            if shard.closed.is_some() {
                listed["SequenceNumberRange"]["EndingSequenceNumber"] = json!(shard.last.to_string());
            }
            if let Some(parent) = shard.parent.as_ref().filter(|_| !self.hides_parents) {
                listed["ParentShardId"] = json!(parent);
            }
            shards.push(listed);
        }
        let last = shards.last().map(|shard| shard["ShardId"].clone());
        let status = if self.is_off { "DISABLED" } else { "ENABLED" };
        let mut described = json!({ "Shards": shards, "StreamStatus": status });
        if let (Some(last), true) = (last, rest.peek().is_some()) {
            described["LastEvaluatedShardId"] = last;
        }
        json!({ "StreamDescription": described })
    }

    #[expect(clippy::panic, reason = "a request that the simulation does not know")]
    pub(super) fn iterator(&self, request: &Value, now: u64) -> Result<Value, Refusal> {
        let id = request["ShardId"].as_str().unwrap_or_default();
        let shard = self.shards.get(id).ok_or_else(Refusal::missing)?;
        let after = match request["ShardIteratorType"].as_str() {
            Some("TRIM_HORIZON") => shard.trimmed,
            Some("AFTER_SEQUENCE_NUMBER") => {
                let after = request["SequenceNumber"].as_str().and_then(|digits| digits.parse().ok());
                let after: u128 = after.ok_or_else(|| Refusal::invalid("no sequence number"))?;
                if after <= shard.trimmed {
                    return Err(Refusal::trimmed());
                }
                after
            }
            other => panic!("no such iterator in this simulation: {other:?}"),
        };
        Ok(json!({ "ShardIterator": format!("{id}|{after}|{now}") }))
    }

    /// One page; at most `most` records, within the service's own limits.
    pub(super) fn records(&mut self, request: &Value, most: usize, now: u64) -> Result<Served, Refusal> {
        let iterator = request["ShardIterator"].as_str().unwrap_or_default();
        let mut words = iterator.split('|');
        let (Some(id), Some(after), Some(issued)) = (words.next(), words.next(), words.next()) else {
            return Err(Refusal::invalid("no iterator"));
        };
        let (Ok(after), Ok(issued)) = (after.parse::<u128>(), issued.parse::<u64>()) else {
            return Err(Refusal::invalid("no iterator"));
        };
        if issued + ITERATOR_LIFE < now {
            return Err(Refusal::expired());
        }
        let parent = self.shards.get(id).and_then(|shard| shard.parent.as_ref());
        let too_early = parent.and_then(|parent| self.shards.get(parent)).is_some_and(|p| !p.read_out);
        let shard = self.shards.get_mut(id).ok_or_else(Refusal::missing)?;
        if after < shard.trimmed {
            return Err(Refusal::trimmed());
        }
        let limit = request["Limit"].as_u64().and_then(|limit| usize::try_from(limit).ok());
        let most = limit.unwrap_or(PAGE_RECORDS).min(PAGE_RECORDS).min(most);
        let mut bytes = 0;
        let mut position = after;
        let mut records = Vec::new();
        let from = shard.records.partition_point(|record| record.sequence <= after);
        for record in shard.records.range(from..).take_while(|record| record.visible <= now).take(most) {
            let images = [&record.old, &record.new].into_iter().flatten();
            bytes += images.map(|image| weight(image)).sum::<usize>();
            if bytes > PAGE_BYTES && !records.is_empty() {
                break;
            }
            position = record.sequence;
            records.push(show(record));
        }
        let served = records.len();
        shard.served = shard.served.max(position);
        let mut answer = json!({ "Records": records });
        if shard.closed.is_some() && from + served == shard.records.len() {
            shard.read_out = true;
        } else {
            answer["NextShardIterator"] = json!(format!("{id}|{position}|{now}"));
        }
        Ok(Served { answer, records: served, too_early })
    }

    /// The last record, as a checkpoint would name it: for the defects.
    pub(super) fn tip(&self, shard: &str) -> Option<String> {
        self.shards.get(shard).filter(|shard| shard.last >= shard.first).map(|shard| shard.last.to_string())
    }
}

fn open_enough(from: u64, to: u64) -> bool {
    // No more than eight shards at a time.
    to - from > u64::MAX / 8
}

fn show(record: &StreamRecord) -> Value {
    let mut body = json!({
        "ApproximateCreationDateTime": record.created / 1_000,
        "Keys": value_of(&record.key),
        "SequenceNumber": record.sequence.to_string(),
        "StreamViewType": "NEW_AND_OLD_IMAGES",
    });
    let event = match (&record.old, &record.new) {
        (None, _) => "INSERT",
        (Some(_), Some(_)) => "MODIFY",
        (Some(_), None) => "REMOVE",
    };
    for (name, image) in [("OldImage", &record.old), ("NewImage", &record.new)] {
        if let Some(image) = image {
            body[name] = value_of(image);
        }
    }
    json!({ "eventName": event, "dynamodb": body })
}

impl StreamRecord {
    pub(super) fn new(
        key: Arc<Item>,
        old: Option<Arc<Item>>,
        new: Option<Arc<Item>>,
        created: u64,
        written: u64,
        visible: u64,
    ) -> Self {
        Self { key, old, new, created, written, visible, sequence: 0 }
    }
}
