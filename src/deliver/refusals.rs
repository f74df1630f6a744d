//! What to do about writes that a destination refuses as invalid.
//!
//! If another write that began later succeeds, the item is the cause, and the write is parked as a dead
//! letter. If many different keys are refused in a row and none succeeds in between, the table is the cause
//! (other keys, an index, an encryption key): nothing is parked, all writes wait, and one is tried now and
//! then. Where too little is written to show either, the write is parked after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::destination::Destination;
use crate::fault::{Backoff, FaultKind};
use crate::protocol::KeyId;

/// This many refused keys in a row are no accident.
const MANY: usize = 10;
/// When a refused write is retried: by then it is often clear whether others are refused.
const NEXT_TRY: Duration = Duration::from_secs(1);
/// How long a write may be refused while no other shows whether the table is the cause: until it is parked,
/// it holds the table's checkpoint.
const PATIENCE: Duration = Duration::from_mins(1);

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
    /// When the last of the successful writes began.
    taken: Option<Instant>,
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

    /// Records that a write of this key was refused, for the first time at `since`.
    pub(super) fn refused(&mut self, key: KeyId, since: Instant) -> Sentence {
        let now = Instant::now();
        let is_alone = self.taken.is_some_and(|taken| taken > since);
        self.in_a_row.insert(key);
        match &self.held {
            Some(held) => Sentence::Rest(held.next),
            None if self.in_a_row.len() >= MANY => {
                let mut backoff = Backoff::default();
                let next = now + backoff.next(FaultKind::Refused);
                self.held = Some(TableHold { backoff, next, is_refused: true });
                Sentence::Hold
            }
            None if is_alone || now >= since + PATIENCE => Sentence::Park,
            None => Sentence::Rest(now + NEXT_TRY),
        }
    }

    /// Records that a write succeeded that began at this time, which ends a hold. Returns whether the table was
    /// held.
    pub(super) fn made(&mut self, begun: Instant) -> bool {
        self.taken = self.taken.max(Some(begun));
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

    async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_is_put_aside_once_another_is_taken() {
        let (mut judge, since) = (Judge::default(), Instant::now());
        assert_eq!(judge.refused(key(1), since), Sentence::Rest(since + NEXT_TRY));
        pass(NEXT_TRY).await;
        // That one was under way before, and says nothing.
        judge.made(since);
        assert_eq!(judge.refused(key(1), since), Sentence::Rest(Instant::now() + NEXT_TRY));
        judge.made(Instant::now());
        assert_eq!(judge.refused(key(1), since), Sentence::Park);
    }

    #[tokio::test(start_paused = true)]
    async fn items_of_which_nothing_shows_the_cause_are_put_aside_after_a_while() {
        let (mut judge, since) = (Judge::default(), Instant::now());
        while since.elapsed() < PATIENCE {
            for i in 1..MANY {
                assert!(matches!(judge.refused(key(i), since), Sentence::Rest(_)), "{i}");
            }
            pass(NEXT_TRY).await;
        }
        for i in 1..MANY {
            assert_eq!(judge.refused(key(i), since), Sentence::Park);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_in_a_row_are_held_until_one_is_made() {
        let (mut judge, since) = (Judge::default(), Instant::now());
        for i in 1..MANY {
            assert!(matches!(judge.refused(key(i), since), Sentence::Rest(_)), "{i}");
            pass(PATIENCE / 20).await;
        }
        assert_eq!(judge.refused(key(MANY), Instant::now()), Sentence::Hold);
        pass(PATIENCE).await;
        for i in 1..MANY {
            assert!(matches!(judge.refused(key(i), since), Sentence::Rest(_)), "{i}");
        }
        assert!(!judge.tries() || !judge.tries(), "refused and other writes must alternate");
        let now = Instant::now();
        assert!(judge.made(now) && !judge.is_held() && !judge.made(now));
        assert_eq!(judge.refused(key(1), since), Sentence::Park);
    }

    #[tokio::test(start_paused = true)]
    async fn many_of_which_others_are_made_in_between_are_put_aside() {
        let (mut judge, since) = (Judge::default(), Instant::now());
        pass(NEXT_TRY).await;
        assert!(!judge.made(Instant::now()));
        for i in 0..10 * MANY {
            assert_eq!(judge.refused(key(i), since), Sentence::Park, "{i}");
            assert!(!judge.made(Instant::now()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_that_is_refused_again_and_again_holds_no_other() {
        let (mut judge, since) = (Judge::default(), Instant::now());
        for _ in 0..10 * MANY {
            assert_ne!(judge.refused(key(1), since), Sentence::Hold);
        }
    }
}
