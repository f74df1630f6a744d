//! Broken builds: what agents would do if a rule of the protocol were missing. The proxy simulates this, so
//! that no defect is in the product. The checker must notice each.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use tradewind_proxy::Fate;

use crate::faults::ELSEWHERE;
use crate::feeds::{STATE, WRITES};
use crate::history::{COUNT, HOLDER, STAMP};
use crate::scenario::PLACES;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Defect {
    /// Puts at a peer have no condition: an older one replaces a newer one.
    Unconditional,
    /// Puts have a condition on the stamp alone, and none on the data that they replace.
    StampsAlone,
    /// A stamp in place decrements the count, as if it had put an older image.
    CountsBack,
    /// A stamp in place removes a lock's holder.
    FreesLocks,
    /// An agent does not put back what an older write has replaced.
    NoHeals,
    /// One put in eight is reported as made, but was not.
    LostWrites,
    /// One page of records in four is skipped.
    LostPages,
    /// Peers are not notified of deletes.
    NoMarks,
    /// Items are written without a stamp: every peer takes them for an application's.
    NoStamps,
    /// One region's agent uses another time than the service's.
    LyingClock,
    /// A gateway's answers are mistaken for the service's: they carry its checksum.
    BelievedGateway,
    /// One page that reports a shard's end is enough: the list of shards agrees.
    BelievedEnds,
    /// A peer's table that was missing is not checked: its description shows the old keys.
    Blind,
    /// Refused writes are parked although all are refused: one write in four is made in between.
    Parks,
    /// Unreadable records leave no mark.
    Unmarked,
    /// A rotated key is never read again.
    OldCredentials,
    /// Stopping has no effective deadline.
    SlowToStop,
    /// An agent ends if nobody reads its log.
    FragileOutput,
    /// An agent serves nobody.
    Unserved,
    /// Writes of another setup's agents pass for an application's.
    Forwards,
    /// A managed replica passes for a table like any other.
    Heedless,
    /// The checkpoint of a feed passes events that have not been delivered: it is that of what has been read.
    PassesEvents,
    /// One replicated write in four passes for one of the application here, so that it is told.
    TellsEchoes,
    /// A function takes what comes after an event that it reports as failed.
    TakesRest,
    /// A bucket ignores conditions.
    Overwrites,
    /// A delete mark is unknown where it is applied, so that the delete is told there, too.
    TellsMarks,
}

impl Defect {
    /// The fate of a write to the replicated table; `own`: of the agent's own region.
    pub fn fate(self, operation: &str, body: &str, own: bool, rng: &mut fastrand::Rng) -> Fate {
        let marks = operation == "UpdateItem" && body.contains(" x-");
        let pretends = match self {
            Self::NoHeals => own && (operation == "PutItem" || marks),
            Self::LostWrites => !own && operation == "PutItem" && rng.u8(0..8) == 0,
            Self::NoMarks => !own && marks,
            _ => false,
        };
        if pretends { Fate::Pretend("{}") } else { Fate::Pass }
    }

    /// The fate of a write to the control table.
    pub fn fate_of_row(self, operation: &str, body: &str) -> Fate {
        match self {
            Self::Unmarked if operation == "PutItem" && body.contains("\"gap/") => Fate::Pretend("{}"),
            _ => Fate::Pass,
        }
    }

    /// The fate of a call with this defect, instead of what it would be.
    pub fn instead(self, fate: Fate, rng: &mut fastrand::Rng) -> Fate {
        match (self, fate) {
            (Self::BelievedGateway, Fate::Intercept(200, body)) => Fate::Pretend(body),
            (Self::Parks, Fate::Fail("ValidationException")) if rng.u8(0..4) == 0 => Fate::Pass,
            _ => fate,
        }
    }

    /// Falsifies a write to the replicated table.
    pub fn bend_write(self, operation: &str, request: &mut Value) {
        let Some(request) = request.as_object_mut() else { return };
        match self {
            Self::CountsBack | Self::FreesLocks => return self.bend_stamp(request),
            _ if operation != "PutItem" => return,
            _ => {}
        }
        match self {
            Self::Unconditional => {
                request.retain(|name, _| {
                    !name.starts_with("ExpressionAttribute") && !name.starts_with("Condition")
                });
            }
            Self::StampsAlone => {
                let stamp = request["Item"][STAMP].clone();
                if stamp.is_null() {
                    return;
                }
                request
                    .insert("ConditionExpression".to_owned(), "attribute_not_exists(#t) OR #t < :t".into());
                request.insert("ExpressionAttributeNames".to_owned(), json!({ "#t": STAMP }));
                request.insert("ExpressionAttributeValues".to_owned(), json!({ ":t": stamp }));
            }
            Self::NoStamps => {
                if let Some(item) = request.get_mut("Item").and_then(Value::as_object_mut) {
                    item.remove(STAMP);
                }
            }
            _ => {}
        }
    }

    /// Falsifies a write to the control table by an agent of the region with this number.
    pub fn bend_row(self, region: usize, request: &mut Value) {
        if self == Self::PassesEvents {
            pass_events(PLACES[region].0, request);
        }
    }

    /// Falsifies a stamp in place.
    fn bend_stamp(self, request: &mut Map<String, Value>) {
        let stamp =
            request.get("ExpressionAttributeValues").and_then(|values| values[":stamp"]["S"].as_str());
        if stamp.is_none_or(|stamp| stamp.contains(" x-")) {
            return;
        }
        let (more, name) =
            if self == Self::CountsBack { (" ADD #bent :bent", COUNT) } else { (" REMOVE #bent", HOLDER) };
        let bent = request["UpdateExpression"].as_str().map(|update| format!("{update}{more}"));
        request.insert("UpdateExpression".to_owned(), bent.into());
        request["ExpressionAttributeNames"]["#bent"] = name.into();
        if self == Self::CountsBack {
            request["ExpressionAttributeValues"][":bent"] = json!({ "N": "-1" });
        }
    }

    /// Falsifies a page of records that an agent of the region with this number reads.
    pub fn bend_page(self, region: usize, records: &mut Vec<Value>, rng: &mut fastrand::Rng) {
        match self {
            Self::LostPages if rng.u8(0..4) == 0 => records.clear(),
            Self::LyingClock if region == 0 => delay(records, 20),
            Self::Forwards => records.iter_mut().for_each(make_ours),
            Self::TellsEchoes => {
                let records = records.iter_mut().filter(|_| rng.u8(0..4) == 0);
                records.for_each(|record| make_local(record, PLACES[region].0));
            }
            Self::TellsMarks => records.iter_mut().for_each(unmark),
            _ => {}
        }
    }
}

/// Removes the stamp of another setup's agent from a record.
fn make_ours(record: &mut Value) {
    let Some(image) = record.pointer_mut("/dynamodb/NewImage").and_then(Value::as_object_mut) else { return };
    let stamp = image.get(STAMP).and_then(|stamp| stamp["S"].as_str());
    if stamp.is_some_and(|stamp| stamp.contains(ELSEWHERE)) {
        image.remove(STAMP);
    }
}

/// Removes the stamp that an agent of this region has set beside what it replicates from a record.
fn make_local(record: &mut Value, region: &str) {
    let stamp = |image: &str| record["dynamodb"][image][STAMP]["S"].as_str();
    let is_arrival = stamp("NewImage").is_some_and(|new| {
        Some(new) != stamp("OldImage") && new.split(' ').nth(2) != Some(region) && !new.contains(" x-")
    });
    if let Some(image) = record["dynamodb"]["NewImage"].as_object_mut().filter(|_| is_arrival) {
        image.remove(STAMP);
    }
}

/// Removes the mark from the record of a marked item's delete.
fn unmark(record: &mut Value) {
    if record["eventName"] != "REMOVE" {
        return;
    }
    let Some(image) = record["dynamodb"]["OldImage"].as_object_mut() else { return };
    if image.get(STAMP).and_then(|stamp| stamp["S"].as_str()).is_some_and(|stamp| stamp.contains(" x-")) {
        image.remove(STAMP);
    }
}

/// Sets the checkpoints of feeds to that of the agent's own region, where one is saved.
fn pass_events(region: &str, request: &mut Value) {
    let names = request["ExpressionAttributeNames"].as_object().cloned().unwrap_or_default();
    let of = |label: &str| names.iter().find(|(_, name)| **name == format!("to {label}"));
    let Some((home, _)) = of(region) else { return };
    let read = request["ExpressionAttributeValues"][home.replace('#', ":")].clone();
    let mut update = request["UpdateExpression"].as_str().unwrap_or_default().to_owned();
    for feed in [WRITES, STATE] {
        let label = format!("feed:{feed}");
        if let Some((name, _)) = of(&label) {
            request["ExpressionAttributeValues"][name.replace('#', ":")] = read.clone();
        } else {
            // Writing to memory does not fail.
            let _ = write!(update, ", #{feed} = :{feed}");
            request["ExpressionAttributeNames"][format!("#{feed}")] = format!("to {label}").into();
            request["ExpressionAttributeValues"][format!(":{feed}")] = read.clone();
        }
    }
    request["UpdateExpression"] = update.into();
}

/// Makes records look this many seconds younger than they are.
pub fn delay(records: &mut [Value], seconds: u32) {
    for record in records {
        let created = &mut record["dynamodb"]["ApproximateCreationDateTime"];
        if let Some(time) = created.as_u64() {
            *created = (time + u64::from(seconds)).into();
        } else if let Some(time) = created.as_f64() {
            *created = (time + f64::from(seconds)).into();
        }
    }
}
