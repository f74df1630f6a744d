//! What a link does to the calls that it carries: a service, or something in front of it, with faults and
//! defects.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tradewind_proxy::{Fate, Tamper};

use crate::defect::{Defect, delay};
use crate::faults::{TABLE, UNDATED};
use crate::history::KEY;
use crate::scenario::{Answer, Fault, Kind, Table};
use crate::wire::ACCESS_KEY;

/// The errors that a scenario may name.
const ERRORS: [&str; 10] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "InternalServerError",
    "ServiceUnavailable",
    "RequestLimitExceeded",
    "ExpiredIteratorException",
    "LimitExceededException",
    "ResourceNotFoundException",
    "ValidationException",
    "TrimmedDataAccessException",
];
/// The operations that `operation = "writes"` stands for.
pub const WRITES: [&str; 3] = ["PutItem", "UpdateItem", "DeleteItem"];
/// What gateways answer with a success status.
const HOLLOW: [&str; 4] = ["", "{}", r#"{"Records":[]}"#, r#"{"Items":[],"Count":0,"ScannedCount":0}"#];
/// A page in the service's place, and the statuses that it comes with.
const PAGE: &str = "<html><title>A gateway of the harness</title></html>";
const STATUSES: [u16; 7] = [200, 403, 404, 407, 429, 502, 503];
/// The fraction (one in this many) of its time for which a recreated table is missing.
const MISSING: u32 = 3;

/// What happens to the calls on a link.
#[derive(Debug)]
pub struct Rules {
    active: Vec<Rule>,
    /// The percentage of record pages that report the end of their shard.
    false_ends: u8,
    /// Whether answers come without their checksums.
    has_no_sums: bool,
    guise: Guise,
    /// Whether the agent has been told that the table is managed, and how many writes it made nevertheless.
    was_told: bool,
    disobeyed: usize,
    /// The only access key that is accepted.
    access_key: String,
    /// When iterators were requested within a second, and the most at once.
    iterators: (VecDeque<Instant>, usize),
    rng: fastrand::Rng,
}

/// How the table is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guise {
    /// As it is.
    Own,
    /// As one with other keys.
    Another,
    /// As a replica of a managed global table.
    Managed,
}

/// What happens to some calls.
#[derive(Clone, Debug)]
struct Rule {
    percent: u8,
    operation: Option<String>,
    table: Option<Table>,
    does: Does,
}

#[derive(Clone, Copy, Debug)]
enum Does {
    Meet(Fate),
    /// Something answers in the service's place.
    Intercept(Option<Answer>),
}

/// The rules of one link.
#[derive(Clone, Debug)]
pub struct SharedRules(Arc<Mutex<Rules>>);

/// One link's service.
pub struct Service {
    pub rules: SharedRules,
    /// The agent's region.
    pub from: usize,
    /// Whether the endpoint is that of the agent's own region.
    pub is_own: bool,
    pub skew_seconds: u32,
    pub defect: Option<Defect>,
}

impl SharedRules {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Rules {
            active: Vec::new(),
            false_ends: 0,
            has_no_sums: false,
            guise: Guise::Own,
            was_told: false,
            disobeyed: 0,
            access_key: ACCESS_KEY.to_owned(),
            iterators: (VecDeque::new(), 0),
            rng: fastrand::Rng::with_seed(seed),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Rules> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies these faults to the service, at this time of the run.
    pub fn set(&self, faults: &[&Fault], now: Duration, is_own: bool) {
        let mut rules = self.lock();
        rules.active.clear();
        (rules.false_ends, rules.has_no_sums, rules.guise) = (0, false, Guise::Own);
        for fault in faults {
            match fault.kind {
                Kind::Errors => rules.active.push(rule(fault, Does::Meet(Fate::Fail(error(fault))))),
                Kind::FailAfterwards => rules.active.push(rule(fault, Does::Meet(Fate::LoseAnswer))),
                Kind::Gateway => rules.active.push(rule(fault, Does::Intercept(fault.answer))),
                Kind::FalseEnds => rules.false_ends = fault.percent,
                Kind::NoChecksums => rules.has_no_sums = true,
                Kind::Managed => rules.guise = Guise::Managed,
                // A reader of the table's own stream is not affected.
                Kind::OtherTable if !is_own => {
                    let is_another = now >= fault.at + fault.lasts / MISSING;
                    let gone = Does::Meet(Fate::Fail("ResourceNotFoundException"));
                    let lost = Does::Meet(Fate::Pretend("{}"));
                    for operation in WRITES {
                        let does = if is_another { lost } else { gone };
                        rules.active.push(on_data(operation, does));
                    }
                    if is_another {
                        rules.guise = Guise::Another;
                    } else {
                        rules.active.push(on_data("DescribeTable", gone));
                    }
                }
                _ => {}
            }
        }
    }

    /// Accepts only this access key from now on.
    pub fn take_key(&self, access_key: &str) {
        access_key.clone_into(&mut self.lock().access_key);
    }

    /// The most iterators that were requested within a second.
    pub fn most_iterators(&self) -> usize {
        self.lock().iterators.1
    }

    /// How many writes were made to a table that was described as managed.
    pub fn disobeyed(&self) -> usize {
        self.lock().disobeyed
    }
}

impl Rules {
    fn count(&mut self, operation: &str) {
        if operation != "GetShardIterator" {
            return;
        }
        let (asked, most) = &mut self.iterators;
        let now = Instant::now();
        asked.push_back(now);
        while asked.front().is_some_and(|at| now.duration_since(*at) > Duration::from_secs(1)) {
            asked.pop_front();
        }
        *most = (*most).max(asked.len());
    }
}

fn rule(fault: &Fault, does: Does) -> Rule {
    Rule { percent: fault.percent, operation: fault.operation.clone(), table: fault.table, does }
}

fn on_data(operation: &str, does: Does) -> Rule {
    Rule { percent: 100, operation: Some(operation.to_owned()), table: Some(Table::Data), does }
}

fn error(fault: &Fault) -> &'static str {
    let named = fault.error.as_deref().unwrap_or("InternalServerError");
    ERRORS.iter().find(|error| **error == named).copied().unwrap_or("InternalServerError")
}

/// Whether a scenario may name this error.
pub fn is_known(error: &str) -> bool {
    ERRORS.contains(&error)
}

/// Whether a rule applies to an operation.
fn is_meant(only: &str, operation: &str) -> bool {
    only == operation || only == "writes" && WRITES.contains(&operation)
}

/// What comes in place of an answer: status and body.
fn in_its_place(answer: Option<Answer>, rng: &mut fastrand::Rng) -> (u16, &'static str) {
    match answer {
        None => (200, HOLLOW[rng.usize(..HOLLOW.len())]),
        Some(Answer::Nothing) => (200, HOLLOW[0]),
        Some(Answer::Braces) => (200, HOLLOW[1]),
        Some(Answer::Records) => (200, HOLLOW[2]),
        Some(Answer::Items) => (200, HOLLOW[3]),
        Some(Answer::Page) => (STATUSES[rng.usize(..STATUSES.len())], PAGE),
    }
}

/// Whether a call names a table. The control table's rows name the replicated one, too.
fn is_on(table: Table, body: &str) -> bool {
    let name = match table {
        Table::Data => TABLE,
        Table::Control => "tradewind-control",
    };
    body.contains(&format!("\"TableName\":\"{name}\""))
}

fn is_on_data(body: &str) -> bool {
    is_on(Table::Data, body)
}

impl Tamper for Service {
    fn request(&self, operation: &str, body: &str) -> Fate {
        let mut rules = self.rules.lock();
        rules.count(operation);
        if rules.was_told && WRITES.contains(&operation) && is_on_data(body) {
            rules.disobeyed += 1;
        }
        let Rules { active, rng, .. } = &mut *rules;
        for rule in active {
            let is_met = rule.operation.as_ref().is_none_or(|only| is_meant(only, operation))
                && rule.table.is_none_or(|table| is_on(table, body));
            if is_met && rng.u8(0..100) < rule.percent {
                let fate = match rule.does {
                    Does::Meet(fate) => fate,
                    Does::Intercept(answer) => {
                        let (status, body) = in_its_place(answer, rng);
                        Fate::Intercept(status, body)
                    }
                };
                return self.defect.map_or(fate, |defect| defect.instead(fate, rng));
            }
        }
        match self.defect {
            Some(defect) if is_on_data(body) => defect.fate(operation, body, self.is_own, rng),
            Some(defect) => defect.fate_of_row(operation, body),
            None => Fate::Pass,
        }
    }

    fn signed(&self, access_key: &str) -> Fate {
        if self.rules.lock().access_key == access_key {
            Fate::Pass
        } else {
            Fate::Fail("UnrecognizedClientException")
        }
    }

    fn sign(&self) -> Option<&str> {
        Some(ACCESS_KEY)
    }

    fn forward(&self, operation: &str, body: String) -> String {
        let Some(defect) = self.defect else { return body };
        let Ok(mut request) = serde_json::from_str(&body) else { return body };
        if is_on_data(&body) {
            defect.bend_write(operation, &mut request);
        } else {
            defect.bend_row(self.from, &mut request);
        }
        request.to_string()
    }

    fn answer(&self, operation: &str, body: String) -> String {
        if !matches!(operation, "GetRecords" | "DescribeTable" | "DescribeStream") {
            return body;
        }
        let Ok(mut answer) = serde_json::from_str::<Value>(&body) else { return body };
        let mut rules = self.rules.lock();
        match operation {
            "GetRecords" => self.bend_page(&mut answer, &mut rules),
            "DescribeTable" if rules.guise == Guise::Another && self.defect != Some(Defect::Blind) => {
                rename_key(&mut answer);
            }
            "DescribeTable" if answer["Table"]["TableName"] == TABLE => {
                rules.was_told = rules.guise == Guise::Managed;
                if rules.was_told && self.defect != Some(Defect::Heedless) {
                    manage(&mut answer);
                }
            }
            "DescribeStream" if self.defect != Some(Defect::BelievedEnds) => open_shards(&mut answer),
            _ => return body,
        }
        answer.to_string()
    }

    fn sums(&self) -> bool {
        !self.rules.lock().has_no_sums
    }
}

impl Service {
    fn bend_page(&self, page: &mut Value, rules: &mut Rules) {
        if let Some(records) = page["Records"].as_array_mut() {
            delay(records, self.skew_seconds);
            records.iter_mut().for_each(undate);
            if let Some(defect) = self.defect {
                defect.bend_page(self.from, records, &mut rules.rng);
            }
        }
        if rules.rng.u8(0..100) < rules.false_ends
            && let Some(page) = page.as_object_mut()
        {
            page.remove("NextShardIterator");
        }
    }
}

/// Removes the creation time from a record of the item that must have none.
fn undate(record: &mut Value) {
    if record["dynamodb"]["Keys"][KEY]["S"] == UNDATED
        && let Some(body) = record["dynamodb"].as_object_mut()
    {
        body.remove("ApproximateCreationDateTime");
    }
}

/// Gives a described table another key.
fn rename_key(described: &mut Value) {
    let table = &mut described["Table"];
    for list in ["KeySchema", "AttributeDefinitions"] {
        for named in table[list].as_array_mut().into_iter().flatten() {
            named["AttributeName"] = "other".into();
        }
    }
}

/// Describes a table as a replica of a managed global table.
fn manage(described: &mut Value) {
    let table = &mut described["Table"];
    table["GlobalTableVersion"] = "2019.11.21".into();
    table["Replicas"] = json!([{ "RegionName": "us-east-1", "ReplicaStatus": "ACTIVE" }]);
}

/// Lists shards as DynamoDB does while they are open. Those of a stream that is on are always open here, but
/// engines say otherwise.
fn open_shards(described: &mut Value) {
    if described["StreamDescription"]["StreamStatus"] != "ENABLED" {
        return;
    }
    for shard in described["StreamDescription"]["Shards"].as_array_mut().into_iter().flatten() {
        if let Some(range) = shard["SequenceNumberRange"].as_object_mut() {
            range.remove("EndingSequenceNumber");
        }
    }
}
