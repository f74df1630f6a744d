//! What to do about writes that a destination refuses as invalid.
//!
//! If other writes succeed, the item is the cause, and the write is parked as a dead letter. If many
//! different keys are refused in a row and none succeeds in between, the table is the cause (other keys, an
//! index, an encryption key): nothing is parked, all writes wait, and one is tried now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::destination::Destination;
use crate::fault::{Backoff, FaultKind};
use crate::protocol::KeyId;

/// This many refused keys in a row are no accident.
const MANY: usize = 10;
/// When a refused write is retried: by then it is clear whether others are refused.
const SECOND_TRY: Duration = Duration::from_secs(1);

/// The destinations that refuse all of a table's writes, whatever the key, each with its reason.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<Destination, String>>);

impl Refusals {
    /// All of them.
    pub fn all(&self) -> BTreeMap<Destination, String> {
        self.lock().clone()
    }

    /// Forgets all of them: nothing that could be refused is written any more.
    pub fn clear(&self) {
        self.lock().clear();
    }

    pub(super) fn note(&self, destination: &Destination, reason: Option<String>) {
        let mut all = self.lock();
        match reason {
            Some(reason) => _ = all.insert(destination.clone(), reason),
            None => _ = all.remove(destination),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Destination, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Distinguishes refusals caused by an item from those caused by the table.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// The keys refused since the last successful write.
    in_a_row: BTreeSet<KeyId>,
    held: Option<TableHold>,
}

/// Set while the table refuses every write.
#[derive(Debug)]
struct TableHold {
    backoff: Backoff,
    /// When the next write is tried.
    next: Instant,
    /// Whether that one has been refused before.
    is_refused: bool,
}

/// What to do with a refused write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sentence {
    /// The item is the cause: park the write.
    Park,
    /// Retry it at this time.
    Rest(Instant),
    /// Retry it at this time, as all others: the table is held from now on.
    Hold,
}

impl Judge {
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// When the next write may be tried while the table is held.
    pub(super) fn next(&self) -> Option<Instant> {
        Some(self.held.as_ref()?.next)
    }

    /// Records that a write is tried although the table is held. Returns whether to take one that was refused
    /// before: these alternate with the others. Those that were refused may all be faulty themselves, and
    /// then only the others can show it.
    pub(super) fn tries(&mut self) -> bool {
        self.held.as_mut().is_some_and(|held| {
            held.next = Instant::now() + held.backoff.next(FaultKind::Refused);
            held.is_refused = !held.is_refused;
            held.is_refused
        })
    }

    /// Records that a write of this key was refused; `before` says whether it had been refused earlier.
    pub(super) fn refused(&mut self, key: KeyId, before: bool) -> Sentence {
        let now = Instant::now();
        self.in_a_row.insert(key);
        match &self.held {
            Some(held) => Sentence::Rest(held.next),
            None if self.in_a_row.len() >= MANY => {
                let mut backoff = Backoff::default();
                let next = now + backoff.next(FaultKind::Refused);
                self.held = Some(TableHold { backoff, next, is_refused: true });
                Sentence::Hold
            }
            None if before => Sentence::Park,
            None => Sentence::Rest(now + SECOND_TRY),
        }
    }

    /// Records that a write succeeded, which ends a hold. Returns whether the table was held.
    pub(super) fn made(&mut self) -> bool {
        self.in_a_row.clear();
        self.held.take().is_some()
    }

    /// Records that a write was answered but not made, which proves nothing: the next one may be tried.
    pub(super) fn answered(&mut self) {
        if let Some(held) = &mut self.held {
            held.next = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Item;

    fn key(name: usize) -> KeyId {
        let name = aws_sdk_dynamodb::types::AttributeValue::S(name.to_string());
        KeyId::of(&Item::from([("pk".to_owned(), name)]))
    }

    #[tokio::test(start_paused = true)]
    async fn one_item_is_put_aside_at_its_second_refusal() {
        let mut judge = Judge::default();
        assert_eq!(judge.refused(key(1), false), Sentence::Rest(Instant::now() + SECOND_TRY));
        assert_eq!(judge.refused(key(1), true), Sentence::Park);
    }

    #[tokio::test(start_paused = true)]
    async fn many_in_a_row_are_held_until_one_is_made() {
        let mut judge = Judge::default();
        for i in 1..MANY {
            assert!(matches!(judge.refused(key(i), false), Sentence::Rest(_)), "{i}");
        }
        assert_eq!(judge.refused(key(MANY), false), Sentence::Hold);
        for i in 1..MANY {
            assert!(matches!(judge.refused(key(i), true), Sentence::Rest(_)), "{i}");
        }
        assert!(!judge.tries() || !judge.tries(), "refused and other writes must alternate");
        assert!(judge.made() && !judge.is_held() && !judge.made());
        assert_eq!(judge.refused(key(1), true), Sentence::Park);
    }

    #[tokio::test(start_paused = true)]
    async fn many_of_which_others_are_made_in_between_are_put_aside() {
        let mut judge = Judge::default();
        for i in 0..10 * MANY {
            assert_eq!(judge.refused(key(i), true), Sentence::Park, "{i}");
            assert!(!judge.made());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_that_is_refused_again_and_again_holds_no_other() {
        let mut judge = Judge::default();
        for _ in 0..10 * MANY {
            assert_eq!(judge.refused(key(1), true), Sentence::Park);
        }
    }
}
