//! What follows from writes that a destination refuses as invalid.
//!
//! Where other writes are made, it is the item: it is put aside, to the dead letters. Where many different keys are
//! refused in a row and none is made in between, it is the table (other keys, an index, an encryption key): nothing
//! is put aside, all wait, and one is tried now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::fault::{Backoff, FaultKind};
use crate::protocol::{KeyId, Origin};

/// So many keys in a row are no accident.
const MANY: usize = 10;
/// When a write that was refused is tried once more: by then it shows whether others are.
const SECOND_TRY: Duration = Duration::from_secs(1);

/// The regions that refuse a table's writes whatever their key, each with its reason.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<Origin, String>>);

impl Refusals {
    /// All of them.
    pub fn all(&self) -> BTreeMap<Origin, String> {
        self.lock().clone()
    }

    /// Nothing is written any more that could be refused.
    pub fn clear(&self) {
        self.lock().clear();
    }

    pub(super) fn note(&self, region: &Origin, reason: Option<String>) {
        let mut all = self.lock();
        match reason {
            Some(reason) => _ = all.insert(region.clone(), reason),
            None => _ = all.remove(region),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Origin, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the refusals that are an item's from those that are the table's.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// The keys that were refused since a write was made last.
    in_a_row: BTreeSet<KeyId>,
    held: Option<Held>,
}

/// While the table refuses whatever it is sent.
#[derive(Debug)]
struct Held {
    backoff: Backoff,
    /// When the next write is tried.
    next: Instant,
    /// Whether that is one which was refused before.
    is_refused: bool,
}

/// What becomes of a refused write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sentence {
    /// It is the item: put the write aside.
    Park,
    /// It is tried again then.
    Rest(Instant),
    /// The same, and so it is with all: from now on the table is held.
    Hold,
}

impl Judge {
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// When the next write may be tried, while the table is held.
    pub(super) fn next(&self) -> Option<Instant> {
        Some(self.held.as_ref()?.next)
    }

    /// A write is tried though the table is held. Whether it should be one that was refused before: these and
    /// the others take turns. Those that were refused may all be at fault themselves, and the others may be all
    /// that shows it.
    pub(super) fn tries(&mut self) -> bool {
        self.held.as_mut().is_some_and(|held| {
            held.next = Instant::now() + held.backoff.next(FaultKind::Refused);
            held.is_refused = !held.is_refused;
            held.is_refused
        })
    }

    /// A write of this key was refused, and has been before or not.
    pub(super) fn refused(&mut self, key: KeyId, before: bool) -> Sentence {
        let now = Instant::now();
        self.in_a_row.insert(key);
        match &self.held {
            Some(held) => Sentence::Rest(held.next),
            None if self.in_a_row.len() >= MANY => {
                let mut backoff = Backoff::default();
                let next = now + backoff.next(FaultKind::Refused);
                self.held = Some(Held { backoff, next, is_refused: true });
                Sentence::Hold
            }
            None if before => Sentence::Park,
            None => Sentence::Rest(now + SECOND_TRY),
        }
    }

    /// A write was made; whether the table was held, which it is no longer.
    pub(super) fn made(&mut self) -> bool {
        self.in_a_row.clear();
        self.held.take().is_some()
    }

    /// A write was answered, but not made: that tells nothing, and the next one may be tried.
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
        assert!(!judge.tries() || !judge.tries(), "no turns");
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
