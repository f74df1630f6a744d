//! Separates what differs from what is only on its way.
//!
//! What differed in the scans is reread, by its key. A key on which replicas then still disagree is reported
//! if one of these holds:
//!
//! - It was so before a barrier was raised in each region, and is so, unchanged in all of them, after the
//!   agents have confirmed that everything written before it is everywhere.
//! - The agents don't confirm that (one is not running, can't reach a peer, or is too slow for a round), and
//!   replicas disagreed at each look for as long as they were given to settle.
//!
//! A key that changes in every round is written all the time; it is counted, but not reported.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::holding::{Difference, difference};
use super::pile::{Entry, Pile, Trace};
use super::{Audience, Options, Stage, VerifyError};
use crate::operate::agents::{Patience, first_without};
use crate::operate::scanned::ScannedReplica;
use crate::operate::wait::everywhere;
use crate::operate::{Arrival, TableReplicas};
use crate::protocol::{Item, Origin};

/// How many suspects are reread concurrently.
const AT_ONCE: usize = 32;
/// The memory for the remaining suspects; the rest is on disk.
const ROOM: usize = 1024 * 1024;
/// The pause between two looks, at first and at most.
const PAUSE: Duration = Duration::from_millis(250);
const LONG_PAUSE: Duration = Duration::from_secs(5);
/// At most this many suspects are reread repeatedly while waiting for the agents.
const FEW: u64 = 1000;
/// How long the agents may take to confirm that everything before a barrier is everywhere.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often a key that keeps changing is reread.
const ROUNDS: usize = 3;

/// The result for the suspects.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) differing: u64,
    pub(super) other_versions: u64,
    pub(super) changing: u64,
    /// The first differences.
    pub(super) differences: Vec<Difference>,
    /// Whether agents confirmed that everything had arrived; none, if there was nothing left to ask.
    pub(super) agents_answered: Option<bool>,
}

/// Rereads suspects.
pub(super) struct Recheck<'a, A> {
    pub(super) table: &'a TableReplicas,
    pub(super) replicas: Arc<[ScannedReplica]>,
    pub(super) options: Options,
    pub(super) lease_duration: Duration,
    pub(super) audience: &'a mut A,
    pub(super) settled: Settled,
}

/// A suspect, as it is now; with how replicas differ, if they do.
struct RecheckedKey {
    was: Entry,
    now: Box<[Trace]>,
    difference: Option<Difference>,
}

impl<A: Audience> Recheck<'_, A> {
    pub(super) async fn run(mut self, suspects: Pile) -> Result<Settled, VerifyError> {
        let began = Instant::now();
        let mut left = self.look(suspects, Keep::AsItIs).await?;
        if left.count() > 0 && !self.options.settle.is_zero() {
            let regions = self.table.replicas.iter().map(|replica| &replica.region);
            let silent = first_without(regions, Patience::with_running(self.lease_duration)).await;
            for _ in 0..if silent.is_none() { ROUNDS } else { 0 } {
                if left.count() == 0 {
                    break;
                }
                let (passed, still) = self.barrier(left).await?;
                self.settled.agents_answered = Some(passed);
                left = still;
                if !passed {
                    break;
                }
                left = self.look(left, Keep::Changed).await?;
            }
            if self.settled.agents_answered == Some(true) {
                self.settled.changing = left.count();
                return Ok(self.settled);
            }
            self.settled.agents_answered = Some(false);
            left = self.wait_until(began + self.options.settle, left).await?;
        }
        // No agent can say whether it is on its way.
        self.look(left, Keep::Nothing).await?;
        Ok(self.settled)
    }

    /// Waits until everything written before now is everywhere; drops what agrees meanwhile. The rest stays
    /// as it was before.
    async fn barrier(&mut self, left: Pile) -> Result<(bool, Pile), VerifyError> {
        let mut passing = std::pin::pin!(everywhere(self.table, Instant::now() + PATIENCE));
        let mut left = left;
        let mut pause = PAUSE;
        loop {
            self.audience.progress(self.table.name(), Stage::WaitingForAgents { suspects: left.count() });
            tokio::select! {
                arrivals = &mut passing => {
                    let passed = arrivals.map(|arrivals| arrivals.iter().all(Arrival::is_complete));
                    let passed = passed.unwrap_or_else(|error| {
                        tracing::debug!(%error, "can't ask the agents");
                        false
                    });
                    return Ok((passed, left));
                }
                () = tokio::time::sleep(pause), if left.count() <= FEW => {
                    left = self.look(left, Keep::AsItWas).await?;
                    if left.count() == 0 {
                        return Ok((true, left));
                    }
                    pause = (pause * 2).min(LONG_PAUSE);
                }
            }
        }
    }

    /// Drops what comes to agree before a given time.
    async fn wait_until(&mut self, until: Instant, left: Pile) -> Result<Pile, VerifyError> {
        let mut left = left;
        let mut pause = PAUSE;
        while left.count() > 0 && Instant::now() < until {
            self.audience.progress(self.table.name(), Stage::Rechecking { suspects: left.count() });
            tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(LONG_PAUSE);
            left = self.look(left, Keep::AsItWas).await?;
        }
        Ok(left)
    }

    /// Rereads all suspects, and keeps those that may still be on their way.
    async fn look(&mut self, mut suspects: Pile, keep: Keep) -> Result<Pile, VerifyError> {
        let mut left = Pile::new(ROOM);
        let mut running: JoinSet<Result<RecheckedKey, VerifyError>> = JoinSet::new();
        let mut ticks = tokio::time::interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut to_do = suspects.count();
        let mut waiting = suspects.read()?;
        loop {
            while running.len() < AT_ONCE
                && let Some(entry) = waiting.next()
            {
                running.spawn(read_again(self.replicas.clone(), entry?));
            }
            tokio::select! {
                look = running.join_next() => match look {
                    None => return Ok(left),
                    // No key may count as compared because of a panic here.
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                    Some(Ok(look)) => {
                        to_do = to_do.saturating_sub(1);
                        self.decide(look?, keep, &mut left)?;
                    }
                },
                _ = ticks.tick() => {
                    self.audience.progress(self.table.name(), Stage::Rechecking { suspects: to_do });
                }
            }
        }
    }

    fn decide(&mut self, look: RecheckedKey, keep: Keep, left: &mut Pile) -> io::Result<()> {
        let RecheckedKey { was, now, difference } = look;
        let Some(difference) = difference else { return Ok(()) };
        let kept = match keep {
            Keep::AsItIs => Some(now),
            Keep::AsItWas => return left.push(&was),
            Keep::Changed => (now != was.traces).then_some(now),
            Keep::Nothing => None,
        };
        if let Some(traces) = kept {
            return left.push(&Entry { traces, ..was });
        }
        if difference.only_versions {
            self.settled.other_versions += 1;
        } else {
            self.settled.differing += 1;
        }
        self.audience.difference(self.table.name(), &difference);
        if self.settled.differences.len() < self.options.limit {
            self.settled.differences.push(difference);
        }
        Ok(())
    }
}

/// What happens to a suspect on which replicas still disagree.
#[derive(Clone, Copy)]
enum Keep {
    /// It is kept, as it is now.
    AsItIs,
    /// It is kept, as it was before.
    AsItWas,
    /// It is kept if it has changed, and reported if not.
    Changed,
    /// It is reported.
    Nothing,
}

async fn read_again(replicas: Arc<[ScannedReplica]>, was: Entry) -> Result<RecheckedKey, VerifyError> {
    let mut items: Vec<(Origin, Option<Item>)> = Vec::with_capacity(replicas.len());
    let mut full = Item::new();
    for replica in &*replicas {
        full = replica.key(&was.key);
        items.push((replica.region.name.clone(), replica.get(full.clone()).await?));
    }
    let now = items.iter().map(|(_, item)| Trace::of(item.as_ref())).collect();
    Ok(RecheckedKey { was, now, difference: difference(&full, items, &replicas[0].config.selections) })
}
