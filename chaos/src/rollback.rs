//! Agents' writes that replaced applications' newer ones, which no application may see.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::checker::Version;
use crate::history::{AppWrite, History, Millis, Operation, Outcome, Seen};

/// How long an agent waits, at least, for the agent of a region whose write is stored there and has not been
/// reported.
const PATIENCE: Millis = 3_000;
/// How long, at least, if what is stored there changes all the time.
const LONG_PATIENCE: Millis = 30_000;

/// An agent's write that replaced a newer one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback {
    pub region: usize,
    pub key: String,
    pub at: Millis,
    /// When a write as new as the lost one, or newer, was stored there again.
    pub until: Option<Millis>,
    /// `None` is a delete that no application made.
    pub won: Option<Version>,
    pub lost: Option<Version>,
    /// How long ago the lost one was made.
    pub age: Millis,
    /// How long ago the other one was made.
    pub waited: Option<Millis>,
    /// No other region's application writes the key.
    pub is_sole: bool,
}

impl Rollback {
    pub fn of(seen: &Seen, won: Version, lost: Version, since: Millis) -> Self {
        Self {
            region: seen.region,
            key: seen.key.clone(),
            at: seen.at,
            until: None,
            won: Some(won),
            lost: Some(lost),
            age: seen.at.saturating_sub(since),
            waited: None,
            is_sole: false,
        }
    }

    /// For an item that only this region's application writes.
    pub fn of_sole(seen: &Seen, won: Version, lost: Option<Version>) -> Self {
        Self { lost, is_sole: true, ..Self::of(seen, won, won, seen.at) }
    }

    /// A delete that no application made.
    pub fn delete(seen: &Seen, lost: Option<Version>) -> Self {
        Self { won: None, ..Self::of_sole(seen, (0, 0), lost) }
    }

    /// Whether docs/correctness.md allows it: the region's agent had not reported the newer write for so long
    /// that it was no longer waited for.
    pub fn is_late(&self) -> bool {
        let has_waited = self.waited.is_some_and(|waited| waited >= LONG_PATIENCE);
        !self.is_sole && (self.age >= PATIENCE || has_waited)
    }
}

/// A summary of the rollbacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rollbacks {
    /// Those that must not happen.
    pub seen: usize,
    /// Those while a region's agent was late or away, and how long the longest could be seen.
    pub late: usize,
    pub longest_late: Millis,
}

impl Rollbacks {
    pub fn of(rollbacks: &[Rollback], end: Millis) -> Self {
        let late = rollbacks.iter().filter(|rollback| rollback.is_late());
        let lasted = |rollback: &Rollback| rollback.until.unwrap_or(end).saturating_sub(rollback.at);
        let (late, longest_late) = (late.clone().count(), late.map(lasted).max().unwrap_or_default());
        Self { seen: rollbacks.len() - late, late, longest_late }
    }
}

/// The keys that only one region's application has written.
#[derive(Debug)]
pub struct Soles<'a>(HashMap<&'a str, Sole>);

#[derive(Clone, Copy, Debug)]
struct Sole {
    /// `None` if there is more than one.
    writer: Option<usize>,
    counts: bool,
}

impl<'a> Soles<'a> {
    pub fn of(history: &'a History) -> Self {
        let mut soles = HashMap::new();
        for write in &history.writes {
            let new = Sole { writer: Some(write.region), counts: true };
            let sole: &mut Sole = soles.entry(write.key.as_str()).or_insert(new);
            sole.writer = sole.writer.filter(|writer| *writer == write.region);
            sole.counts &= write.operation.counts();
        }
        Self(soles)
    }

    /// The only region that writes a key.
    pub fn writer(&self, key: &str) -> Option<usize> {
        self.0.get(key)?.writer
    }

    /// The only region that writes a key, if it only counts in it.
    pub fn counts(&self, key: &str) -> Option<usize> {
        let sole = self.0.get(key)?;
        sole.writer.filter(|_| sole.counts)
    }
}

/// A region's applications' deletes, which leave no identity in a stream: each explains one record.
#[derive(Debug)]
pub struct Deletes<'a>(BTreeMap<&'a str, Vec<&'a AppWrite>>);

impl<'a> Deletes<'a> {
    pub fn of(history: &'a History, region: usize) -> Self {
        let mut deletes: BTreeMap<&str, Vec<&AppWrite>> = BTreeMap::new();
        for write in &history.writes {
            if write.region == region && write.operation == Operation::Delete {
                deletes.entry(&write.key).or_default().push(write);
            }
        }
        Self(deletes)
    }

    /// Whether an application can have made this delete. `sent` is when each write was sent.
    pub fn explain(&mut self, seen: &Seen, sent: &HashMap<&str, Millis>) -> bool {
        let Some(deletes) = self.0.get_mut(seen.key.as_str()) else { return false };
        let removed = seen.old.as_ref().and_then(|image| image.write.as_deref());
        let since = removed.and_then(|write| sent.get(write)).copied().unwrap_or_default();
        // A lost answer may belong to a write that is made later.
        let could = |write: &&AppWrite| {
            write.sent <= seen.at && (write.outcome == Outcome::Maybe || write.done >= since)
        };
        match deletes.iter().position(could) {
            Some(at) => {
                deletes.remove(at);
                true
            }
            None => false,
        }
    }
}
