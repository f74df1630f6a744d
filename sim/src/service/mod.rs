//! The simulated DynamoDB of one region: tables, conditional writes, streams.
//!
//! It knows the calls that agents make, in the service's own JSON, and panics at any other. Applications
//! write through [`Service::write`].
//!
//! | file | subject |
//! | --- | --- |
//! | `expression` | conditions and updates |
//! | `stream` | shards, iterators, pages, trimming |

mod expression;
mod stream;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use self::expression::Expression;
use self::stream::{Habits, Stream, StreamRecord};
use crate::clock::RegionClock;
use crate::item::{Item, item_of, value_of};
use crate::settings::Settings;

/// The replicated table, and its key attribute.
pub const TABLE: &str = "orders";
pub const KEY: &str = "id";
/// The code of an answer in the service's place that carries a checksum.
pub const SUMMED: &str = "Summed";
/// The control table.
pub const CONTROL: &str = "tradewind-control";

/// An error of the service: its code and its message.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// The item that a condition found, if the call asks for it.
    pub item: Option<Value>,
}

impl Refusal {
    fn new(code: &'static str, message: &str) -> Self {
        Self { status: 400, code, message: message.to_owned(), item: None }
    }

    fn invalid(message: &str) -> Self {
        Self::new("ValidationException", message)
    }

    pub fn missing() -> Self {
        Self::new("ResourceNotFoundException", "Requested resource not found")
    }

    fn expired() -> Self {
        Self::new("ExpiredIteratorException", "Iterator expired")
    }

    fn trimmed() -> Self {
        Self::new("TrimmedDataAccessException", "The requested data has been trimmed")
    }

    /// A call too soon after others.
    pub fn too_often() -> Self {
        Self::new("LimitExceededException", "Rate exceeded for shard")
    }

    pub fn throttled() -> Self {
        Self::new("ProvisionedThroughputExceededException", "The level of configured throughput was exceeded")
    }

    pub fn internal() -> Self {
        let (code, message) = ("InternalServerError", "Internal server error".to_owned());
        Self { status: 500, code, message, item: None }
    }

    /// An answer that comes not from the service but from a gateway, with a success status; it has a checksum
    /// only by a defect.
    pub fn hollow(body: &str, summed: bool) -> Self {
        let code = if summed { SUMMED } else { "Gateway" };
        Self { status: 200, code, message: body.to_owned(), item: None }
    }

    /// A write that the table refuses, whatever it is.
    pub fn refused() -> Self {
        Self::invalid("One or more parameter values were invalid")
    }

    /// A condition that did not hold for the stored item.
    fn condition(request: &Value, stored: Option<&Item>) -> Self {
        let shows = request["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD";
        let item = stored.filter(|_| shows).map(value_of);
        Self { item, ..Self::new("ConditionalCheckFailedException", "The conditional request failed") }
    }

    pub fn body(&self) -> Value {
        let kind = format!("com.amazonaws.dynamodb.v20120810#{}", self.code);
        let mut body = json!({ "__type": kind, "message": self.message });
        if let Some(item) = &self.item {
            body["Item"] = item.clone();
        }
        body
    }
}

/// One change of one item, for the oracle.
#[derive(Clone, Debug)]
pub struct Change {
    pub key: String,
    pub old: Option<Arc<Item>>,
    pub new: Option<Arc<Item>>,
    /// The creation time in its stream record.
    pub created: u64,
    /// An application put a copy back.
    pub is_copy: bool,
    /// The number of its stream record.
    pub sequence: u128,
}

/// The result of a call.
pub struct Outcome {
    pub answer: Result<Value, Refusal>,
    /// The change of a replicated item that it made.
    pub change: Option<Change>,
    /// What it wrote into the control table.
    pub control: Option<Arc<Item>>,
    /// The records in a page.
    pub records: usize,
    /// Whether it is a page of a shard whose parent had not been read to its end.
    pub too_early: bool,
}

impl Outcome {
    fn answer(answer: Result<Value, Refusal>) -> Self {
        Self { answer, change: None, control: None, records: 0, too_early: false }
    }
}

/// The service in one region.
#[derive(Debug)]
pub struct Service {
    pub name: String,
    pub clock: RegionClock,
    items: BTreeMap<String, Arc<Item>>,
    control: BTreeMap<(String, String), Arc<Item>>,
    /// The table's streams, the present one last.
    streams: Vec<Stream>,
    shards: usize,
    is_recycled: bool,
}

impl Service {
    pub fn new(name: &str, clock: RegionClock, settings: &Settings) -> Self {
        let habits = Habits {
            retention: settings.retention,
            listing_delay: settings.listing_delay,
            shards_a_page: settings.shards_a_page,
        };
        Self {
            name: name.to_owned(),
            clock,
            items: BTreeMap::new(),
            control: BTreeMap::new(),
            streams: vec![Stream::new(habits, settings.shards)],
            shards: settings.shards,
            is_recycled: false,
        }
    }

    /// The items stored now.
    pub fn items(&self) -> &BTreeMap<String, Arc<Item>> {
        &self.items
    }

    pub fn item(&self, key: &str) -> Option<&Arc<Item>> {
        self.items.get(key)
    }

    pub fn roll(&mut self, split: bool, now: u64) {
        self.stream().roll(split, now);
    }

    /// Turns the stream off, and on again at once.
    pub fn recycle(&mut self, now: u64) {
        let shards = self.shards;
        let next = self.stream().follow(shards, now);
        self.streams.push(next);
        // Before agents have recorded a stream, there is none that they could miss.
        let is_known = |(pk, sk): &(String, String)| pk.starts_with("table/") && sk.starts_with("stream");
        self.is_recycled |= self.control.keys().any(is_known);
    }

    /// Whether the stream was turned off and on, and no agent has marked the table.
    pub fn is_recycled_unmarked(&self) -> bool {
        self.is_recycled && !self.control.keys().any(|(pk, _)| pk.starts_with("gap/"))
    }

    fn stream(&mut self) -> &mut Stream {
        let last = self.streams.len() - 1;
        &mut self.streams[last]
    }

    /// The stream that a call names, by its ARN or by a shard that it alone has.
    fn stream_of(&mut self, request: &Value) -> Result<&mut Stream, Refusal> {
        let arn = request["StreamArn"].as_str().and_then(|arn| arn.rsplit_once('/'));
        let shard = request["ShardIterator"].as_str().and_then(|iterator| iterator.split('|').next());
        let is_it = |stream: &&mut Stream| match (arn, shard) {
            (Some((_, label)), _) => stream.label == label,
            (_, Some(shard)) => stream.has(shard),
            _ => false,
        };
        self.streams.iter_mut().find(is_it).ok_or_else(Refusal::missing)
    }

    pub fn trim(&mut self, now: u64) {
        self.streams.iter_mut().for_each(|stream| stream.trim(now));
        self.streams.retain(|stream| !stream.is_gone());
    }

    /// Whether records were trimmed before anyone read them.
    pub fn lost_unread(&self) -> bool {
        self.streams.iter().any(|stream| stream.lost_unread)
    }

    /// How many events of feeds are parked.
    pub fn parked(&self) -> usize {
        self.control.keys().filter(|(pk, _)| *pk == format!("parked/{}", crate::feed::FEED)).count()
    }

    /// Whether the region's table is marked.
    pub fn is_marked(&self) -> bool {
        self.control.keys().any(|(pk, _)| pk.starts_with("gap/"))
    }

    pub fn hide_parents(&mut self) {
        self.stream().hides_parents = true;
    }

    /// Replaces an item; if that changes something, the stream shows it `lag` later.
    pub fn write(&mut self, key: &str, new: Option<Item>, now: u64, lag: u64) -> Option<Change> {
        let new = new.map(Arc::new);
        let old = self.items.get(key).cloned();
        if old == new {
            return None;
        }
        match &new {
            Some(item) => self.items.insert(key.to_owned(), Arc::clone(item)),
            None => self.items.remove(key),
        };
        let keys = Arc::new(Item::from([(KEY.to_owned(), json!({ "S": key }))]));
        let created = self.clock.creation(now);
        let record = StreamRecord::new(keys, old.clone(), new.clone(), created, now, now + lag);
        let sequence = self.stream().append(record);
        Some(Change { key: key.to_owned(), old, new, created, is_copy: false, sequence })
    }

    /// Answers one call. `lag` is how long its record takes to appear, `page` how much a page may hold.
    ///
    /// # Panics
    ///
    /// At a call, or an expression, that the simulation does not know.
    #[expect(clippy::panic, reason = "a call that the simulation does not know")]
    pub fn call(&mut self, operation: &str, request: &Value, now: u64, lag: u64, page: usize) -> Outcome {
        match operation {
            "PutItem" | "UpdateItem" | "DeleteItem" if request["TableName"] == TABLE => {
                self.change_item(operation, request, now, lag)
            }
            "PutItem" | "UpdateItem" | "DeleteItem" => self.change_row(operation, request),
            "Query" => Outcome::answer(self.query(request)),
            "DescribeTable" => Outcome::answer(self.describe(request)),
            "DescribeStream" => {
                Outcome::answer(self.stream_of(request).map(|stream| stream.describe(request, now)))
            }
            "GetShardIterator" => {
                Outcome::answer(self.stream_of(request).and_then(|stream| stream.iterator(request, now)))
            }
            "GetRecords" => {
                match self.stream_of(request).and_then(|stream| stream.records(request, page, now)) {
                    Ok(served) => Outcome {
                        answer: Ok(served.answer),
                        change: None,
                        control: None,
                        records: served.records,
                        too_early: served.too_early,
                    },
                    Err(refusal) => Outcome::answer(Err(refusal)),
                }
            }
            other => panic!("the simulated service does not know {other}"),
        }
    }

    fn change_item(&mut self, operation: &str, request: &Value, now: u64, lag: u64) -> Outcome {
        let named = if operation == "PutItem" { &request["Item"] } else { &request["Key"] };
        let Some(named) = item_of(named) else { return Outcome::answer(Err(Refusal::invalid("no item"))) };
        let Some(key) = named.get(KEY).and_then(crate::item::as_text).map(str::to_owned) else {
            return Outcome::answer(Err(Refusal::invalid("One or more parameter values were invalid")));
        };
        let stored = self.items.get(&key);
        if let Some(condition) = request["ConditionExpression"].as_str()
            && !Expression::new(condition, request).holds(stored.map(AsRef::as_ref))
        {
            return Outcome::answer(Err(Refusal::condition(request, stored.map(AsRef::as_ref))));
        }
        let new = match (operation, request["UpdateExpression"].as_str()) {
            ("PutItem", _) => Some(named),
            ("UpdateItem", Some(update)) => {
                let mut item = stored.map_or(named, |stored| Item::clone(stored));
                Expression::new(update, request).update(&mut item);
                Some(item)
            }
            _ => None,
        };
        if new.as_ref().is_some_and(|item| crate::item::weight(item) > 400 * 1_024) {
            return Outcome::answer(Err(Refusal::invalid("Item size has exceeded the maximum allowed size")));
        }
        let change = self.write(&key, new, now, lag);
        Outcome { change, ..Outcome::answer(Ok(json!({}))) }
    }

    fn change_row(&mut self, operation: &str, request: &Value) -> Outcome {
        if request["TableName"] != CONTROL {
            return Outcome::answer(Err(Refusal::missing()));
        }
        let named = if operation == "PutItem" { &request["Item"] } else { &request["Key"] };
        let row = item_of(named).unwrap_or_default();
        let Some(key) = row_key(&row) else { return Outcome::answer(Err(Refusal::invalid("no key"))) };
        let stored = self.control.get(&key);
        if let Some(condition) = request["ConditionExpression"].as_str()
            && !Expression::new(condition, request).holds(stored.map(AsRef::as_ref))
        {
            return Outcome::answer(Err(Refusal::condition(request, stored.map(AsRef::as_ref))));
        }
        let row = match (operation, request["UpdateExpression"].as_str()) {
            ("PutItem", _) => row,
            ("UpdateItem", Some(update)) => {
                let mut row = stored.map_or(row, |stored| Item::clone(stored));
                Expression::new(update, request).update(&mut row);
                row
            }
            _ => {
                self.control.remove(&key);
                return Outcome::answer(Ok(json!({})));
            }
        };
        let row = Arc::new(row);
        self.control.insert(key, Arc::clone(&row));
        let answer = match request["ReturnValues"].as_str() {
            Some("ALL_NEW") => json!({ "Attributes": value_of(&row) }),
            _ => json!({}),
        };
        Outcome { control: Some(row), ..Outcome::answer(Ok(answer)) }
    }

    fn query(&self, request: &Value) -> Result<Value, Refusal> {
        if request["TableName"] != CONTROL {
            return Err(Refusal::missing());
        }
        let condition = request["KeyConditionExpression"].as_str().unwrap_or_default();
        let expression = Expression::new(condition, request);
        let (_, wanted) = expression.equals();
        let wanted = crate::item::as_text(wanted).unwrap_or_default();
        let rows = self.control.iter().filter(|((pk, _), _)| pk == wanted);
        let rows: Vec<_> = rows.map(|(_, row)| value_of(row)).collect();
        Ok(json!({ "Count": rows.len(), "ScannedCount": rows.len(), "Items": rows }))
    }

    fn describe(&self, request: &Value) -> Result<Value, Refusal> {
        let attribute = |name: &str, kind: &str| {
            (
                json!({ "AttributeName": name, "AttributeType": "S" }),
                json!({ "AttributeName": name, "KeyType": kind }),
            )
        };
        let (attributes, is_replica) = match request["TableName"].as_str() {
            Some(TABLE) => (vec![attribute(KEY, "HASH")], true),
            Some(CONTROL) => (vec![attribute("pk", "HASH"), attribute("sk", "RANGE")], false),
            _ => return Err(Refusal::missing()),
        };
        let (definitions, schema): (Vec<_>, Vec<_>) = attributes.into_iter().unzip();
        let mut table = json!({
            "TableName": request["TableName"],
            "TableStatus": "ACTIVE",
            "AttributeDefinitions": definitions,
            "KeySchema": schema,
        });
        if let Some(Stream { label, .. }) = self.streams.last().filter(|_| is_replica) {
            table["StreamSpecification"] =
                json!({ "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES" });
            table["LatestStreamArn"] =
                json!(format!("arn:aws:dynamodb:{}:1:table/{TABLE}/stream/{label}", self.name));
        }
        Ok(json!({ "Table": table }))
    }

    /// Moves every checkpoint to the tip of its shard, done or not: a defect.
    pub fn skip_ahead(&mut self) {
        for row in self.control.iter_mut().filter(|((pk, _), _)| pk.starts_with("lease/")) {
            let Some(tip) = self.streams.last().and_then(|stream| stream.tip(&row.0.1)) else { continue };
            let item = Arc::make_mut(row.1);
            for value in item.values_mut() {
                if let Some(fields) = value.get_mut("M") {
                    fields["done"] = json!({ "S": tip });
                    fields["rewind"] = json!({ "M": { (&row.0.1): { "S": tip } } });
                }
            }
        }
    }
}

fn row_key(row: &Item) -> Option<(String, String)> {
    let text = |name: &str| row.get(name).and_then(crate::item::as_text).map(str::to_owned);
    Some((text("pk")?, text("sk")?))
}
