//! The simulated world: the services, their current faults, and the observers.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use crate::checkpoints::Checkpoints;
use crate::clock::{RegionClock, SimClock};
use crate::feed::FeedJudge;
use crate::item::{Item, KEY_HISTORY, as_number, as_text, data_digest, digest, number, text};
use crate::oracle::{Oracle, Writer};
use crate::service::{CONTROL, Change, KEY, Outcome, Refusal, Service, TABLE};
use crate::settings::{AppWrite, Defect, FaultKind, NAMES, Settings, WriteKind};
use crate::trace::Trace;

/// How many calls for records DynamoDB allows a second for each shard, and how many listings a second.
const RECORDS_A_SECOND: usize = 5;
const LISTINGS_A_SECOND: usize = 10;
/// The call of a function.
pub const INVOKE: &str = "Invoke";
/// How long after a fault an agent may still give up waiting for a contended write, in milliseconds.
const RECOVERY: u64 = 60_000;
/// What a gateway answers in the service's place.
const HOLLOW: [&str; 4] = ["", "{}", r#"{"Records":[]}"#, r#"{"Items":[],"Count":0}"#];

/// Everything that requests encounter.
#[derive(Debug)]
pub struct World {
    pub clock: SimClock,
    pub settings: Settings,
    pub services: Vec<Service>,
    pub oracle: Oracle,
    pub feed: FeedJudge,
    pub checkpoints: Checkpoints,
    pub trace: Trace,
    /// The faults in force, each with its number.
    faults: Vec<(usize, FaultKind)>,
    /// When a fault was last in force.
    disturbed: Option<u64>,
    rng: fastrand::Rng,
    /// When each agent last made a call that has a quota.
    calls: BTreeMap<(usize, String), VecDeque<u64>>,
    /// What the only region that writes a key wrote last: the hash of its data, if it is an item.
    sole: BTreeMap<usize, Option<u64>>,
    /// Who holds the lock of a key.
    locks: BTreeMap<usize, u64>,
    /// Images that keys have had, by region.
    copies: BTreeMap<(usize, String), Vec<Item>>,
    /// Whether a record comes without a creation time, by region and sequence number: decided when it is first read.
    undated: BTreeMap<(usize, String), bool>,
    /// Agents' writes to replicas in flight.
    pub in_flight: usize,
    pub requests: u64,
}

/// Who sent a request, to which region, and its content.
#[derive(Clone, Debug)]
pub struct Request {
    pub number: u64,
    pub from: usize,
    pub agent: usize,
    pub to: usize,
    pub operation: String,
    pub body: Value,
}

impl Request {
    /// Whether it is from a starting agent that reads its checkpoints.
    fn reads_checkpoints(&self) -> bool {
        let pk = as_text(&self.body["ExpressionAttributeValues"][":pk"]);
        self.operation == "Query" && pk.is_some_and(|pk| pk.starts_with("lease/"))
    }

    /// Whether it writes to a replica.
    pub fn writes(&self) -> bool {
        matches!(self.operation.as_str(), "PutItem" | "UpdateItem" | "DeleteItem") && self.is_on_replica()
    }

    fn is_on_replica(&self) -> bool {
        self.body["TableName"] == TABLE
    }
}

/// The fate of a request, decided when it is sent. Times are in milliseconds.
#[derive(Clone, Debug)]
pub struct Fate {
    /// When it lands, after it was sent; never, if it is lost.
    pub lands: Option<u64>,
    /// When it lands a second time, after the first.
    pub again: Option<u64>,
    /// When the answer arrives, after the request has landed; never, if it is lost.
    pub answered: Option<u64>,
    pub refusal: Option<Refusal>,
    /// Whether the refusal is returned although the call took effect.
    pub takes_effect: bool,
    /// The shard that is missing from a list of shards.
    pub misses: Option<usize>,
    /// How else the answer is changed on its way.
    pub bend: Bend,
}

/// How an answer is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bend {
    None,
    /// A page says that its shard has ended.
    End,
    /// Another table answers: it is described with its own keys, and accepts writes.
    OtherTable,
}

impl World {
    pub fn new(clock: SimClock, settings: &Settings, seed: u64, keeps_text: bool) -> Self {
        let service = |(name, offset): (&&str, &i64)| {
            let clock = RegionClock { offset: *offset, granularity: settings.granularity };
            Service::new(name, clock, settings)
        };
        let mut services: Vec<_> = NAMES.iter().zip(&settings.offsets).map(service).collect();
        if settings.defect == Some(Defect::ChildFirst) {
            services.iter_mut().for_each(Service::hide_parents);
        }
        Self {
            clock,
            settings: settings.clone(),
            services,
            oracle: Oracle::new(settings),
            feed: FeedJudge::new(settings.feed.clone()),
            checkpoints: Checkpoints::default(),
            trace: Trace::new(keeps_text),
            faults: Vec::new(),
            disturbed: None,
            rng: fastrand::Rng::with_seed(seed ^ 0x77_6f72_6c64),
            calls: BTreeMap::new(),
            sole: BTreeMap::new(),
            locks: BTreeMap::new(),
            copies: BTreeMap::new(),
            undated: BTreeMap::new(),
            in_flight: 0,
            requests: 0,
        }
    }

    pub fn begin(&mut self, number: usize, fault: &FaultKind) {
        let now = self.clock.now();
        self.trace.note(format_args!("{now} fault {fault:?}"));
        self.disturbed = Some(now);
        match fault {
            FaultKind::Roll { region } => self.services[*region].roll(false, now),
            FaultKind::Recycle { region } => self.services[*region].recycle(now),
            FaultKind::Split { region } => self.services[*region].roll(true, now),
            FaultKind::ClockStep { region, millis } => self.services[*region].clock.offset += millis,
            lasting => self.faults.push((number, lasting.clone())),
        }
    }

    pub fn end(&mut self, number: usize) {
        self.disturbed = Some(self.clock.now());
        self.faults.retain(|(fault, _)| *fault != number);
    }

    /// Accepts a request that is being sent, and decides its fate.
    pub fn send(
        &mut self,
        (from, agent): (usize, usize),
        to: usize,
        operation: &str,
        body: Value,
    ) -> (Request, Fate) {
        let now = self.clock.now();
        self.requests += 1;
        let request =
            Request { number: self.requests, from, agent, to, operation: operation.to_owned(), body };
        self.count_call(&request, now);
        let fate = self.fate(&request);
        let Fate { lands, again, answered, .. } = &fate;
        self.trace.note(format_args!(
            "{now} #{} {}>{} {operation} {:016x} lands {lands:?} again {again:?} answered {answered:?}",
            request.number,
            NAMES[from],
            NAMES[to],
            digest(&request.body),
        ));
        (request, fate)
    }

    /// Checks the quotas that the service grants an agent.
    fn count_call(&mut self, request: &Request, now: u64) {
        let (name, most) = match request.operation.as_str() {
            "GetRecords" => {
                let iterator = request.body["ShardIterator"].as_str().unwrap_or_default();
                (iterator.split('|').next().unwrap_or_default(), RECORDS_A_SECOND)
            }
            "DescribeStream" => ("DescribeStream", LISTINGS_A_SECOND),
            _ => return,
        };
        let calls = self.calls.entry((request.agent, name.to_owned())).or_default();
        calls.retain(|at| at + 1_000 > now);
        calls.push_back(now);
        if calls.len() > most {
            let why = format!(
                "an agent of {} made {} calls of {name} within a second",
                NAMES[request.from],
                calls.len()
            );
            self.oracle.fail(why);
        }
    }

    fn fate(&mut self, request: &Request) -> Fate {
        let Request { from, agent, to, .. } = *request;
        let most = if from == to { self.settings.near } else { self.settings.far };
        let way = |rng: &mut fastrand::Rng| rng.u64(most / 4..=most);
        let mut fate = Fate {
            lands: Some(way(&mut self.rng)),
            again: None,
            answered: Some(way(&mut self.rng)),
            refusal: None,
            takes_effect: true,
            misses: None,
            bend: Bend::None,
        };
        let defect = self.settings.defect;
        let rng = &mut self.rng;
        let hits = |percent: u8, rng: &mut fastrand::Rng| rng.u8(..100) < percent;
        for (_, fault) in &self.faults {
            match fault {
                FaultKind::Cut { from: f, to: t } if (*f, *t) == (from, to) => fate.lands = None,
                FaultKind::Isolate { agent: isolated } if *isolated == agent => fate.lands = None,
                FaultKind::Mute { from: f, to: t } if (*f, *t) == (from, to) => fate.answered = None,
                FaultKind::Slow { from: f, to: t, millis } if (*f, *t) == (from, to) => {
                    fate.lands = fate.lands.map(|lands| lands + rng.u64(..=*millis));
                    fate.answered = fate.answered.map(|answered| answered + rng.u64(..=*millis));
                }
                FaultKind::Lossy { from: f, to: t, percent }
                    if (*f, *t) == (from, to) && hits(*percent, rng) =>
                {
                    match rng.u8(..4) {
                        0 => fate.lands = None,
                        1 => fate.answered = None,
                        // The agent waits for ten seconds.
                        2 => fate.lands = Some(10_000 + rng.u64(..=self.settings.late)),
                        // Nothing on the way repeats a POST over TLS; a nonce arrives once.
                        _ if request.writes() => fate.answered = None,
                        _ => fate.again = Some(rng.u64(..=self.settings.late)),
                    }
                }

                FaultKind::Errors { region, percent } if *region == to && hits(*percent, rng) => {
                    fate.refusal = Some(Refusal::internal());
                    fate.takes_effect = rng.bool();
                }
                FaultKind::Gateway { region, percent }
                    if *region == to && request.operation == "DescribeStream" && hits(*percent, rng) =>
                {
                    fate.misses = Some(rng.usize(..));
                }
                FaultKind::Gateway { region, percent } if *region == to && hits(*percent, rng) => {
                    if request.operation == "GetRecords" && rng.bool() {
                        fate.bend = Bend::End;
                        continue;
                    }
                    let summed = defect == Some(Defect::SummedGateway);
                    fate.refusal = Some(Refusal::hollow(HOLLOW[rng.usize(..HOLLOW.len())], summed));
                    fate.takes_effect = rng.bool();
                }
                FaultKind::Refusing { region } if *region == to && from != to && request.writes() => {
                    if defect == Some(Defect::NowAndThen) && hits(25, rng) {
                        continue;
                    }
                    fate.refusal = Some(Refusal::refused());
                    fate.takes_effect = false;
                }
                FaultKind::Missing { region } if *region == to && from != to && request.is_on_replica() => {
                    fate.refusal = Some(Refusal::missing());
                    fate.takes_effect = false;
                }
                FaultKind::OtherKeys { region } if *region == to && from != to && request.is_on_replica() => {
                    fate.bend = Bend::OtherTable;
                }
                FaultKind::Throttled { region, percent } if *region == to && hits(*percent, rng) => {
                    fate.refusal = Some(Refusal::throttled());
                    fate.takes_effect = false;
                }
                _ => {}
            }
        }
        fate
    }

    /// A request lands: the service answers it.
    pub fn land(&mut self, request: &Request, fate: &Fate) -> Result<Value, Refusal> {
        let now = self.clock.now();
        let answer = match &fate.refusal {
            Some(refusal) if !fate.takes_effect => Err(refusal.clone()),
            None if fate.bend == Bend::OtherTable && request.writes() => Ok(serde_json::json!({})),
            refusal => {
                let mut answer = self.serve(request, now);
                if let Ok(body) = &mut answer {
                    self.bend_answer(request, fate, body);
                }
                // A gateway that takes the next iterator from an answer can't make its checksum.
                if let (Bend::End, Ok(body)) = (fate.bend, &answer)
                    && request.operation == "GetRecords"
                    && self.settings.defect != Some(Defect::BelievedEnds)
                {
                    answer = Err(Refusal::hollow(&body.to_string(), false));
                }
                refusal.clone().map_or(answer, Err)
            }
        };
        match &answer {
            Ok(body) => {
                let hash = digest(body);
                self.trace.note(format_args!("{now} #{} ok {hash:016x}", request.number));
            }
            Err(refusal) => self.trace.note(format_args!("{now} #{} {}", request.number, refusal.code)),
        }
        answer
    }

    /// Changes an answer on its way.
    fn bend_answer(&mut self, request: &Request, fate: &Fate, body: &mut Value) {
        let defect = self.settings.defect;
        if let Some(shards) = body["StreamDescription"]["Shards"].as_array_mut() {
            if let Some(pick) = fate.misses
                && !shards.is_empty()
            {
                shards.remove(pick % shards.len());
            }
            if defect == Some(Defect::BelievedEnds) && self.has_gateway(request.to) {
                for shard in shards {
                    let range = &mut shard["SequenceNumberRange"];
                    range["EndingSequenceNumber"] = range["StartingSequenceNumber"].clone();
                }
            }
        }
        if request.operation == "GetRecords" {
            self.undate(request.to, body);
            if fate.bend == Bend::End {
                body.as_object_mut().and_then(|page| page.remove("NextShardIterator"));
            }
        }
        if fate.bend == Bend::OtherTable && defect != Some(Defect::Blind) {
            body["Table"]["KeySchema"][0]["AttributeName"] = "other".into();
        }
    }

    fn has_gateway(&self, region: usize) -> bool {
        let is_here =
            |fault: &FaultKind| matches!(fault, FaultKind::Gateway { region: at, .. } if *at == region);
        self.faults.iter().any(|(_, fault)| is_here(fault))
    }

    /// Removes the creation times from some records of a page, and from those that have none already.
    fn undate(&mut self, region: usize, page: &mut Value) {
        let percent = self.faults.iter().find_map(|(_, fault)| match fault {
            FaultKind::Undated { region: at, percent } if *at == region => Some(*percent),
            _ => None,
        });
        for record in page["Records"].as_array_mut().into_iter().flatten() {
            let Some(body) = record["dynamodb"].as_object_mut() else { continue };
            let sequence = body["SequenceNumber"].as_str().unwrap_or_default().to_owned();
            let known = (region, sequence);
            // What has been read once stays as it was.
            let is_undated = || percent.is_some_and(|percent| self.rng.u8(..100) < percent);
            if *self.undated.entry(known).or_insert_with(is_undated) {
                body.remove("ApproximateCreationDateTime");
            }
        }
    }

    /// The regions known to have lost records without a mark on the table.
    pub fn unmarked(&self) -> Vec<&'static str> {
        let services = self.services.iter().enumerate().zip(NAMES);
        let is_lost = |region: usize, service: &Service| {
            service.lost_unread()
                || self.undated.iter().any(|((at, _), is_undated)| *is_undated && *at == region)
        };
        let unmarked = services.filter(|((at, service), _)| is_lost(*at, service) && !service.is_marked());
        unmarked.map(|(_, name)| name).collect()
    }

    fn serve(&mut self, request: &Request, now: u64) -> Result<Value, Refusal> {
        let Request { from, to, operation, .. } = request;
        let mut bent = None;
        if let Some(defect) = self.settings.defect {
            assert!(defect != Defect::BreakDown || self.rng.u8(..100) > 0, "the simulated service panics");
            if self.is_swallowed(defect, request) {
                return Ok(serde_json::json!({}));
            }
            bent = bend(defect, request);
            if defect == Defect::SkipAhead && request.reads_checkpoints() {
                self.services[*to].skip_ahead();
            }
        }
        if operation == INVOKE {
            let answer = self.feed.invoke(*from, &request.body, &mut self.rng, self.settings.defect);
            let failures = self.feed.failures.drain(..);
            failures.for_each(|why| self.oracle.fail(why));
            return Ok(answer);
        }
        let lag = self.stream_lag(*to);
        let page = self.rng.usize(0..=self.settings.page);
        // An empty page before the tip, now and then; otherwise at least one record.
        let page = if page == 0 && self.rng.bool() { 0 } else { page.max(1) };
        let body = bent.as_ref().unwrap_or(&request.body);
        let outcome = self.services[*to].call(operation, body, now, lag, page);
        let Outcome { mut answer, change, control, records, too_early } = outcome;
        if let Some(change) = &change {
            self.note_change(*to, change, Writer::Agent(*from));
        }
        if let Some(row) = &control {
            self.note_control(*to, row);
        }
        if too_early {
            let why = format!("{} read a page of a shard before its parent's end", NAMES[*from]);
            self.oracle.fail(why);
        }
        if records > 0 && self.settings.defect == Some(Defect::DropRecord) && self.rng.u8(..100) == 0 {
            let records = answer.as_mut().ok().and_then(|body| body["Records"].as_array_mut());
            records.and_then(Vec::pop);
        }
        answer
    }

    /// Whether a write is acknowledged but not made: a defect.
    fn is_swallowed(&mut self, defect: Defect, request: &Request) -> bool {
        let is_own = request.from == request.to;
        match defect {
            Defect::AckWithoutDoing => !is_own && request.writes() && self.rng.u8(..20) == 0,
            Defect::DropMark => as_text(&request.body["Item"]["pk"]).is_some_and(|pk| pk.starts_with("gap/")),
            Defect::NoHeal => is_own && request.writes() && request.operation == "PutItem",
            _ => false,
        }
    }

    fn stream_lag(&mut self, region: usize) -> u64 {
        let slow = self.faults.iter().filter_map(|(_, fault)| match fault {
            FaultKind::StreamLag { region: r, millis } if *r == region => Some(*millis),
            _ => None,
        });
        let most = self.settings.stream_lag + slow.sum::<u64>();
        self.rng.u64(10..=most.max(10))
    }

    fn note_change(&mut self, region: usize, change: &Change, writer: Writer) {
        let by = match writer {
            Writer::App => "app",
            Writer::Agent(agent) => NAMES[agent],
        };
        let (old, new) = (show(change.old.as_deref()), show(change.new.as_deref()));
        let Change { key, created, .. } = change;
        self.trace.note(format_args!(
            "{} {} {key} by {by} at {created}: {old} -> {new}",
            self.clock.now(),
            NAMES[region],
        ));
        let since = self.disturbed.map(|at| self.clock.now().saturating_sub(at));
        let is_recent = since.is_some_and(|since| since < RECOVERY);
        self.oracle.is_disturbed = is_recent || !self.faults.is_empty();
        self.oracle.observe(region, change, writer, self.clock.now());
        self.feed.observe(region, change, writer);
        if let Some(new) = &change.new {
            let copies = self.copies.entry((region, change.key.clone())).or_default();
            copies.push(Item::clone(new));
            if copies.len() > KEY_HISTORY {
                copies.remove(0);
            }
        }
    }

    fn note_control(&mut self, region: usize, row: &Item) {
        let text = |name: &str| row.get(name).and_then(as_text).unwrap_or_default();
        let pk = text("pk");
        if pk.starts_with("watermark/") {
            let hlc = row.get("hlc").and_then(as_number).unwrap_or_default();
            self.oracle.watermark(region, text("sk"), hlc);
        } else if pk.starts_with("dead-letter/") && row.contains_key("peer") {
            // Every item written here fits every table.
            let (peer, reason) = (text("peer"), text("reason"));
            self.oracle.fail(format!("{}: a write was parked for {peer}: {reason}", NAMES[region]));
        } else if pk.starts_with("lease/") {
            self.oracle.counts.checkpoints += 1;
            if let Err(why) = self.checkpoints.saved(NAMES[region], text("sk"), row) {
                self.oracle.fail(why);
            }
        }
    }

    /// Makes an application's write.
    pub fn write(&mut self, write: &AppWrite) {
        let now = self.clock.now();
        let key = format!("key-{:03}", write.key);
        let stored = self.services[write.region].item(&key).map(|item| Item::clone(item));
        self.check_sole(write, stored.as_ref());
        let fresh = || Item::from([(KEY.to_owned(), text(&key)), ("n".to_owned(), number(write.number))]);
        let copy = |pick: u32, from: usize| {
            let copies = self.copies.get(&(from, key.clone()))?;
            copies.get(usize::try_from(pick).unwrap_or(0) % copies.len()).cloned()
        };
        let new = match write.kind {
            WriteKind::Put { padding } => {
                let mut item = fresh();
                let padding = usize::try_from(padding).unwrap_or(0);
                if padding > 0 {
                    item.insert("padding".to_owned(), text(&"x".repeat(padding)));
                }
                Some(item)
            }
            WriteKind::Update => {
                let mut item = stored.unwrap_or_else(fresh);
                item.insert("n".to_owned(), number(write.number));
                Some(item)
            }
            WriteKind::Add => {
                let mut item = stored.unwrap_or_else(fresh);
                let count = item.get("count").and_then(as_number).unwrap_or_default();
                item.insert("count".to_owned(), number(count + 1));
                Some(item)
            }
            WriteKind::Lock => {
                let mut item = stored.unwrap_or_else(fresh);
                let holder = item.get("holder").and_then(as_number);
                match self.locks.remove(&write.key) {
                    // Its holder releases it, if it still holds it.
                    Some(mine) if holder == Some(mine) => _ = item.remove("holder"),
                    Some(mine) => {
                        let why = format!(
                            "{}: {mine} holds the lock of {key}, but the item says {holder:?}",
                            NAMES[write.region]
                        );
                        self.oracle.fail(why);
                    }
                    None => {
                        item.insert("holder".to_owned(), number(write.number));
                        self.locks.insert(write.key, write.number);
                    }
                }
                Some(item)
            }
            WriteKind::PutBack { pick, from } => match copy(pick, from) {
                Some(copy) => Some(copy),
                None => return,
            },
            WriteKind::PutBackBare { pick, from } => match copy(pick, from) {
                Some(mut copy) => {
                    copy.remove(crate::item::STAMP);
                    Some(copy)
                }
                None => return,
            },
            WriteKind::Delete => None,
            WriteKind::Garbage => {
                let mut item = fresh();
                item.insert(crate::item::STAMP.to_owned(), number(write.number));
                Some(item)
            }
        };
        if write.key < self.settings.sole_keys {
            self.sole.insert(write.key, new.as_ref().map(data_digest));
        }
        let lag = self.stream_lag(write.region);
        let shown = new.as_ref().map_or(0, |item| digest(&crate::item::value_of(item)));
        self.trace.note(format_args!("{now} app {} {key} {shown:016x}", NAMES[write.region]));
        if let Some(mut change) = self.services[write.region].write(&key, new, now, lag) {
            change.is_copy = matches!(write.kind, WriteKind::PutBack { .. } | WriteKind::PutBackBare { .. });
            self.note_change(write.region, &change, Writer::App);
        }
    }

    /// Checks that applications find a key that only one region writes as they left it.
    fn check_sole(&mut self, write: &AppWrite, stored: Option<&Item>) {
        let Some(left) = self.sole.get(&write.key) else { return };
        let found = stored.map(data_digest);
        if found != *left {
            let why = format!(
                "{}: key-{:03} has changed, though nobody else writes it: {}",
                NAMES[write.region],
                write.key,
                show(stored)
            );
            self.oracle.fail(why);
        }
    }

    /// Whether no agent's write is in flight, and what is wrong with the replicas.
    pub fn at_rest(&mut self) -> Vec<String> {
        let replicas: Vec<_> = self.services[..self.settings.regions].iter().map(Service::items).collect();
        let mut wrong = self.oracle.judge(&replicas);
        let parked = self.services.iter().map(Service::parked).sum();
        wrong.extend(self.feed.judge(replicas[0], parked));
        if self.in_flight > 0 {
            wrong.push(format!("{} writes are in flight", self.in_flight));
        }
        wrong
    }
}

/// An image in brief: its data, and its stamp.
fn show(item: Option<&Item>) -> String {
    let Some(item) = item else { return "nothing".to_owned() };
    let number = item.get("n").and_then(as_number).map_or_else(|| "bare".to_owned(), |n| format!("#{n}"));
    match item.get(crate::item::STAMP).and_then(as_text) {
        Some(stamp) => format!("{number} [{stamp}]"),
        None => number,
    }
}

/// A request as a defect changes it.
fn bend(defect: Defect, request: &Request) -> Option<Value> {
    let mut body = request.body.clone();
    match (defect, request.operation.as_str()) {
        (Defect::DropCondition, "PutItem") | (Defect::BlindDelete, "DeleteItem") if request.writes() => {
            body.as_object_mut()?.remove("ConditionExpression");
        }
        (Defect::DropFence, "UpdateItem") if body["ExpressionAttributeValues"][":revision"].is_object() => {
            body.as_object_mut()?.remove("ConditionExpression");
        }
        (Defect::BoldWatermark, "PutItem") if body["TableName"] == CONTROL => {
            let hlc = body["Item"]["hlc"]["N"].as_str()?.parse::<u64>().ok()?;
            body["Item"]["hlc"]["N"] = (hlc + (600_000 << 20)).to_string().into();
        }
        _ => return None,
    }
    Some(body)
}
