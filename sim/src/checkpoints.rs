//! Checks the checkpoint rows: they never go back, whoever owns the lease.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::item::{Item, as_number, as_text};

/// Region, shard, destination.
type Name = (String, String, String);
/// Done up to here; and the creation time below which nothing is left.
type Reached = (Position, u64);

/// The checkpoints as last saved.
#[derive(Debug, Default)]
pub struct Checkpoints(BTreeMap<Name, Reached>);

/// In reading order: the sequence numbers between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Position {
    Start,
    After(u128),
    End,
}

impl Position {
    fn of(text: &str) -> Option<Self> {
        match text {
            "TRIM_HORIZON" => Some(Self::Start),
            "SHARD_END" => Some(Self::End),
            digits => digits.parse().ok().map(Self::After),
        }
    }
}

impl Checkpoints {
    /// Records a row as it was saved.
    pub fn saved(&mut self, region: &str, shard: &str, row: &Item) -> Result<(), String> {
        for (name, value) in row {
            let Some(destination) = name.strip_prefix("to ") else { continue };
            let fields = &value["M"];
            let position = |value: &Value| as_text(value).and_then(Position::of);
            let millis = as_number(&fields["millis"]);
            let rewind = position(&fields["rewind"]["M"][shard]);
            let (Some(done), Some(rewind), Some(millis)) = (position(&fields["done"]), rewind, millis) else {
                return Err(format!("{region}: an unreadable checkpoint: {}", Value::clone(value)));
            };
            if rewind > done {
                return Err(format!("{region}: a checkpoint of {shard} with {rewind:?} after {done:?}"));
            }
            let key = (region.to_owned(), shard.to_owned(), destination.to_owned());
            let last = self.0.insert(key, (done, millis));
            if let Some(last) = last.filter(|last| done < last.0 || millis < last.1) {
                return Err(format!(
                    "{region}: the checkpoint of {shard} for {destination} went back from {last:?} to {:?}",
                    (done, millis)
                ));
            }
        }
        Ok(())
    }
}
