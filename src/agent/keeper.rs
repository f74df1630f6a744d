//! Supervises one table: starts it, regularly checks whether it is still there, and restarts it when needed.
//! Whatever happens to it affects no other table.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::StartError;
use super::coordinator::Shards;
use super::crew::Member;
use super::figures::TableStatus;
use super::plan::{Site, TableCheck};
use super::table::TablePlan;
use crate::config::TableConfig;
use crate::control::FeedBegin;
use crate::fault::{Fault, FaultKind};
use crate::feed::FeedName;

/// The wait before the first retry.
const FIRST_DELAY: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    pub(super) site: Arc<Site>,
    pub(super) member: Member,
    pub(super) table: TableConfig,
    /// Found by a pattern: once it is deleted, there is nothing to wait for.
    pub(super) found: bool,
    pub(super) status: Arc<TableStatus>,
}

/// Why a table is no longer replicated.
enum Ended {
    Stopped,
    OtherStream,
    /// A feed is to be told once more.
    Rewound,
    Deleted(Fault),
    BrokeDown(String),
}

impl Keeper {
    /// Replicates until it is stopped, or until a table found by a pattern is deleted. `first` is the result
    /// of a first attempt, if there was one.
    pub(super) async fn run(&self, first: Option<Result<TablePlan, StartError>>, stop: &CancellationToken) {
        let mut first = first;
        // It may have panicked before.
        self.status.ended();
        let mut delays = None;
        loop {
            let plan = match first.take() {
                Some(plan) => plan,
                None => tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    plan = self.site.plan(&self.table, &self.status, Instant::now()) => plan,
                },
            };
            let trouble = match plan {
                Ok(plan) => {
                    let started = Instant::now();
                    let ended = self.replicate(plan, stop).await;
                    self.status.ended();
                    if started.elapsed() > self.interval() {
                        delays = None;
                    }
                    self.trouble(ended)
                }
                Err(trouble) => Some(trouble),
            };
            if stop.is_cancelled() {
                return;
            }
            if let Some(trouble) = trouble {
                if self.found && trouble.is_missing() {
                    warn!(table = self.table.name, "the table has been deleted and is no longer replicated");
                    return;
                }
                self.complain(trouble);
                let delays = delays.get_or_insert_with(|| self.delays());
                let delay = delays.next().unwrap_or_else(|| self.interval());
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(delay) => {}
                }
            }
        }
    }

    /// Replicates until it is stopped, or can't go on.
    async fn replicate(&self, plan: TablePlan, stop: &CancellationToken) -> Ended {
        let shards: Vec<Arc<Shards>> = plan.stages.iter().map(|_| Arc::default()).collect();
        let (origin, table) = (&self.site.local.name, &self.table.name);
        info!(region = %origin, table, peers = plan.peers.len(), agent = %self.member.me, "replicating");
        self.status.started(shards.clone());
        let leave = stop.child_token();
        let stream_arn = plan.stages.last().map(|stage| stage.stream.arn.clone()).unwrap_or_default();
        let begins: Vec<_> = plan.feeds.iter().map(|feed| (feed.config.name.clone(), feed.begin)).collect();
        let mut running = JoinSet::new();
        running.spawn(plan.run(self.member.clone(), shards, leave.clone()));
        tokio::select! {
            biased;
            ended = running.join_next() => match ended {
                _ if stop.is_cancelled() => Ended::Stopped,
                Some(Ok(Err(error)) | Err(error)) => Ended::BrokeDown(error.to_string()),
                Some(Ok(Ok(()))) | None => Ended::BrokeDown("it ended by itself".to_owned()),
            },
            ended = self.watch(&stream_arn, &begins) => {
                // What has been read is finished, as far as that is possible now.
                leave.cancel();
                running.join_next().await;
                ended
            }
        }
    }

    /// Returns once the table or its stream is no longer the one it was, or one of its feeds has been rewound.
    async fn watch(&self, stream_arn: &str, begins: &[(FeedName, FeedBegin)]) -> Ended {
        let mut seen = self.site.feeds.subscribe();
        let rewound = seen.wait_for(|seen| {
            begins.iter().any(|(feed, begin)| seen.get(feed).is_some_and(|seen| seen.rewinds > begin.rewinds))
        });
        tokio::select! {
            biased;
            Ok(_) = rewound => {
                info!(region = %self.site.local.name, table = self.table.name, "a feed has been rewound");
                Ended::Rewound
            }
            ended = self.look(stream_arn) => ended,
        }
    }

    async fn look(&self, stream_arn: &str) -> Ended {
        let interval = self.interval();
        let mut looks = tokio::time::interval_at(Instant::now() + interval, interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            match self.site.look(&self.table, stream_arn).await {
                None => {}
                Some(TableCheck::Unchanged) => _ = self.status.note_trouble(None),
                Some(TableCheck::Deleted(fault)) => return Ended::Deleted(fault),
                Some(TableCheck::OtherStream) => return Ended::OtherStream,
                // What the old stream still holds is replicated: on AWS it can be read for 24 hours.
                Some(TableCheck::NoStream(trouble)) => self.complain(trouble),
            }
        }
    }

    /// The trouble to report for an end, if any.
    fn trouble(&self, ended: Ended) -> Option<StartError> {
        let (region, table) = (self.site.local.name.clone(), self.site.name_of(&self.table).to_owned());
        match ended {
            // If there is another stream, the next plan reports it.
            Ended::Stopped | Ended::OtherStream | Ended::Rewound => None,
            Ended::Deleted(fault) => Some(self.site.fault(&table, fault)),
            Ended::BrokeDown(reason) => {
                self.status.tally.breakdowns.add();
                Some(StartError::BrokeDown { region, table, reason })
            }
        }
    }

    /// Logs trouble, once.
    fn complain(&self, trouble: StartError) {
        let text = trouble.in_one_line();
        if self.status.note_trouble(Some(trouble)) {
            error!("{text} (retrying)");
        } else {
            debug!("{text}");
        }
    }

    fn interval(&self) -> Duration {
        self.site.config.tuning.discovery_interval
    }

    fn delays(&self) -> ExponentialBackoff {
        let most = self.interval();
        ExponentialBuilder::default()
            .with_min_delay(FIRST_DELAY.min(most))
            .with_max_delay(most)
            .without_max_times()
            .with_jitter()
            .build()
    }
}

impl StartError {
    fn is_missing(&self) -> bool {
        matches!(self, Self::Fault { fault, .. } if fault.kind == FaultKind::Missing)
    }
}
