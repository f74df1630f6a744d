//! Watches the checkpoint rows: they never go back.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::item::{Item, as_number, as_text};

/// Region, shard, destination.
type Name = (String, String, String);
/// Done up to here; and the creation time below which nothing is left.
type Reached = (Position, u64);

/// The checkpoints as they were saved last, and as an agent that started has found them.
///
/// A save of an agent that was killed may land after the next one has read the rows. That one
/// knows nothing of it, and no peer was promised anything for it: it may be taken back.
#[derive(Debug, Default)]
pub struct Checkpoints {
    saved: BTreeMap<Name, (u64, Reached)>,
    found: BTreeMap<Name, Reached>,
}

/// In the order of a shard's reading: the sequence numbers between the two ends.
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
    /// An agent that starts reads the rows of its region.
    pub fn read(&mut self, region: &str) {
        let saved = self.saved.iter().filter(|((of, _, _), _)| of == region);
        self.found.extend(saved.map(|(name, (_, reached))| (name.clone(), *reached)));
    }

    /// Takes in a row as it was saved.
    pub fn saved(&mut self, region: &str, shard: &str, row: &Item) -> Result<(), String> {
        let run = row.get("revision").and_then(as_number).unwrap_or_default() >> 32;
        for (name, value) in row {
            let Some(destination) = name.strip_prefix("to ") else { continue };
            let fields = &value["M"];
            let position = |value: &Value| as_text(value).and_then(Position::of);
            let millis = as_number(&fields["millis"]);
            let rewind = position(&fields["rewind"]["M"][shard]);
            let (Some(done), Some(rewind), Some(millis)) = (position(&fields["done"]), rewind, millis) else {
                return Err(format!("{region}: a checkpoint that can't be read: {}", Value::clone(value)));
            };
            if rewind > done {
                return Err(format!("{region}: a checkpoint of {shard} with {rewind:?} after {done:?}"));
            }
            let key = (region.to_owned(), shard.to_owned(), destination.to_owned());
            let found = self.found.get(&key).copied();
            let last = match self.saved.insert(key, (run, (done, millis))) {
                Some((last_run, last)) if last_run == run => Some(last),
                _ => found,
            };
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
