//! How long a push waits for the destination's agent when it meets a write which that agent has not reported.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use crate::protocol::Item;
use crate::replica::Insistence;

/// How long to wait for the peer's agent, at least: once it has read its write, it sets its version beside
/// what is stored, and its own push has met the pusher's write.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same where there is no item: no version can be set beside that. A put made too early is healed.
const PATIENCE_WITH_NOTHING: Duration = Duration::from_secs(1);
/// How many times, meanwhile, it may find nothing to read.
const POLLS: u32 = 6;
/// For an item that is written all the time while its agent is down, the wait is this many times as long.
const LAST: u32 = 10;
/// How soon it looks again, at first and at most.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_millis(500);

/// A push that has been contended for some time.
#[derive(Debug)]
pub(super) struct Contention {
    since: Instant,
    /// What was found, and since when.
    found: Option<Item>,
    found_since: Instant,
    polls: Duration,
    delays: ExponentialBackoff,
}

impl Contention {
    /// Starts now; streams are polled at this interval.
    pub(super) fn begin(poll_interval: Duration) -> Self {
        let delays = ExponentialBuilder::default().with_min_delay(FIRST_DELAY).with_max_delay(LAST_DELAY);
        let now = Instant::now();
        Self {
            since: now,
            found: None,
            found_since: now,
            polls: poll_interval * POLLS,
            delays: delays.without_max_times().with_jitter().build(),
        }
    }

    /// Records what was just found; returns when to look again.
    pub(super) fn next(&mut self, found: Option<Item>) -> Instant {
        let now = Instant::now();
        if self.found != found {
            (self.found, self.found_since) = (found, now);
        }
        now + self.delays.next().unwrap_or(LAST_DELAY)
    }

    pub(super) fn insistence(&self) -> Insistence {
        let patience = if self.found.is_some() { PATIENCE } else { PATIENCE_WITH_NOTHING };
        if self.since.elapsed() >= PATIENCE.max(self.polls) * LAST {
            Insistence::OnAnything
        } else if self.found_since.elapsed() >= patience.max(self.polls) {
            Insistence::On(self.found.clone())
        } else {
            Insistence::None
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn item(data: &str) -> Item {
        Item::from([("d".to_owned(), AttributeValue::S(data.to_owned()))])
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_for_long_is_insisted_on_and_what_changes_is_waited_for() {
        let mut contention = Contention::begin(SECOND / 2);
        contention.next(Some(item("a")));
        tokio::time::advance(PATIENCE.saturating_sub(SECOND)).await;
        assert_eq!(contention.insistence(), Insistence::None);
        contention.next(Some(item("a")));
        tokio::time::advance(SECOND).await;
        assert_eq!(contention.insistence(), Insistence::On(Some(item("a"))));
        for data in 0..9 {
            contention.next(Some(item(&data.to_string())));
            assert_eq!(contention.insistence(), Insistence::None, "it has changed");
            tokio::time::advance(PATIENCE).await;
        }
        contention.next(None);
        assert_eq!(contention.insistence(), Insistence::OnAnything, "it has waited for long enough");
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_stands_it_waits_less_long() {
        let mut contention = Contention::begin(SECOND / 10);
        contention.next(None);
        tokio::time::advance(SECOND / 2).await;
        assert_eq!(contention.insistence(), Insistence::None);
        tokio::time::advance(SECOND / 2).await;
        assert_eq!(contention.insistence(), Insistence::On(None));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_are_seldom_read_are_waited_for_longer() {
        let mut contention = Contention::begin(10 * SECOND);
        contention.next(None);
        tokio::time::advance(59 * SECOND).await;
        assert_eq!(contention.insistence(), Insistence::None);
        tokio::time::advance(SECOND).await;
        assert_eq!(contention.insistence(), Insistence::On(None));
    }

    #[tokio::test(start_paused = true)]
    async fn it_looks_again_soon_and_then_less_often() {
        let mut contention = Contention::begin(SECOND);
        let mut delay = || contention.next(None) - Instant::now();
        assert!(delay() < SECOND / 5);
        let later: Vec<Duration> = (0..20).map(|_| delay()).collect();
        assert!(later[10..].iter().all(|delay| (LAST_DELAY..=2 * LAST_DELAY).contains(delay)), "{later:?}");
    }
}
