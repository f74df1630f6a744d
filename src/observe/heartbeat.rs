//! The heartbeat: each agent's report is written to its own region, appears in that region's stream, and is
//! then written to every peer, as an application's write is. The time this takes is the lag from origin to
//! peer, measured by one clock and to the millisecond; creation times are whole seconds.
//!
//! The heartbeat does not pass through the queue of a table's own shards: watermark ages and apply lags show
//! how far that is behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::board::Board;
use crate::clock::wall_millis;
use crate::control::{ControlTable, SavedReport};
use crate::fault::Fault;
use crate::feed::View;
use crate::protocol::{Origin, Record};
use crate::region::Region;
use crate::schema::{StreamState, describe};
use crate::source::ShardId;
use crate::source::dynamodb_streams::{Tip, list_once};
use crate::telemetry::HeartbeatInstruments;

/// How long one write of a report may take.
const WRITE: Duration = Duration::from_secs(5);
/// A heartbeat that has not appeared in the stream by then is abandoned; the next one follows.
const LONGEST: Duration = Duration::from_secs(30);
/// How often to check again for the stream of a control table without one.
const RECHECK: Duration = Duration::from_mins(5);

/// Whose heartbeat it is, and where it is sent.
pub(super) struct Heart {
    pub(super) board: Arc<Board>,
    pub(super) local: Region,
    pub(super) peers: BTreeMap<Origin, ControlTable>,
    pub(super) interval: Duration,
    /// How often to poll a shard: as often as the tables' shards, or it would measure another lag.
    pub(super) poll: Duration,
    pub(super) instruments: HeartbeatInstruments,
    pub(super) path: Path,
    pub(super) rng: fastrand::Rng,
}

/// What is known about the control table's stream.
#[derive(Debug, Default)]
pub(super) struct Path {
    stream_arn: Option<String>,
    /// When to look for it again.
    next_look: Option<Instant>,
    /// The shard in which the last heartbeat appeared.
    home: Option<ShardId>,
    told: bool,
}

impl Heart {
    /// Beats until it is dropped.
    pub(super) async fn beat(mut self) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut beat = 0;
        loop {
            ticks.tick().await;
            beat += 1;
            let Ok(body) = serde_json::to_string(&self.board.report()) else { continue };
            let figures = self.board.figures();
            let (region, agent) = (figures.region().clone(), figures.agent().clone());
            let saved = SavedReport { region, agent, beat, body };
            let delay = self.origin(&saved).await;
            self.peers(saved, delay).await;
        }
    }

    /// Writes the report here. Returns how long the stream took to show it, if this agent is to measure that.
    async fn origin(&mut self, report: &SavedReport) -> Option<Duration> {
        let tip = if self.is_first() { self.stand().await } else { None };
        let control = ControlTable::of(&self.local);
        match timeout(WRITE, control.save_report(report, wall_millis())).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => {
                debug!(%fault, "can't save the report in this region");
                return None;
            }
            Err(_) => return None,
        }
        let written = Instant::now();
        let (arn, mut tip) = tip?;
        // Like the tables' shards, it is not polled at the moment of a write.
        tokio::time::sleep(self.poll.mul_f64(self.rng.f64())).await;
        let shown = async {
            while !tip.is_over() {
                let asked = Instant::now();
                let shown = |record: &Record| record.new.as_ref().is_some_and(|new| report.is_shown_by(new));
                match tip.look().await {
                    Ok(seen) => {
                        if let Some((shard, _)) = seen.into_iter().find(|(_, record)| shown(record)) {
                            return Some(shard);
                        }
                    }
                    Err(fault) => {
                        debug!(%fault, "can't read the control table's stream");
                        return None;
                    }
                }
                tokio::time::sleep_until(asked + self.poll).await;
            }
            None
        };
        let shard = timeout(LONGEST, shown).await.ok().flatten();
        let delay = written.elapsed();
        self.path.home.clone_from(&shard);
        if shard.is_none() {
            // The stream may be another one by now.
            self.path.stream_arn = None;
            debug!(arn, "a heartbeat did not appear in the control table's stream");
        }
        shard.map(|_| delay)
    }

    /// Writes the report to all peers at once, and records how long it took in all.
    async fn peers(&self, report: SavedReport, delay: Option<Duration>) {
        let here = KeyValue::new("region", report.region.to_string());
        if let Some(delay) = delay {
            self.instruments.stream_delay.record(delay.as_secs_f64(), std::slice::from_ref(&here));
            self.board.note(|recent| recent.stream_delay_was(delay));
        }
        let mut writes = JoinSet::new();
        for (peer, control) in &self.peers {
            let (peer, control, report) = (peer.clone(), control.clone(), report.clone());
            writes.spawn(async move {
                let begun = Instant::now();
                let write = timeout(WRITE, control.save_report(&report, wall_millis())).await;
                (peer, matches!(write, Ok(Ok(()))).then(|| begun.elapsed()))
            });
        }
        while let Some(written) = writes.join_next().await {
            let Ok((peer, took)) = written else { continue };
            match (took, delay) {
                (Some(took), Some(delay)) => {
                    let lag = delay + took;
                    let attributes = [here.clone(), KeyValue::new("peer", peer.to_string())];
                    self.instruments.lag.record(lag.as_secs_f64(), &attributes);
                    self.board.note(|recent| recent.heartbeat_was(&peer, lag));
                }
                (None, _) => debug!(region = %report.region, %peer, "can't save the report at a peer"),
                (Some(_), None) => {}
            }
        }
    }

    /// Whether this agent measures: one of each region is enough, and a shard allows only two readers more.
    fn is_first(&self) -> bool {
        let figures = self.board.figures();
        figures.crew().is_some_and(|(alive, _)| alive.first() == Some(figures.agent()))
    }

    /// Takes a position at the tip of the control table's stream.
    async fn stand(&mut self) -> Option<(String, Tip)> {
        let arn = self.stream().await?;
        let found = async {
            let client = &self.local.streams;
            let shards = match &self.path.home {
                Some(home) => vec![home.clone()],
                None => {
                    let lineage = list_once(client, &arn).await?;
                    lineage.shards().filter(|shard| !lineage.has_children(shard)).cloned().collect()
                }
            };
            Tip::stand(client, &arn, &shards).await
        };
        match found.await {
            Ok(tip) => Some((arn, tip)),
            Err(fault) => {
                self.tell(&fault);
                (self.path.stream_arn, self.path.home) = (None, None);
                None
            }
        }
    }

    async fn stream(&mut self) -> Option<String> {
        if let Some(arn) = &self.path.stream_arn {
            return Some(arn.clone());
        }
        if self.path.next_look.is_some_and(|next| Instant::now() < next) {
            return None;
        }
        let described = match describe(&self.local, &self.local.control_table).await {
            Ok(described) => described,
            Err(fault) => {
                debug!(%fault, "can't describe the control table");
                return None;
            }
        };
        let arn = match described.stream {
            StreamState::On { arn } | StreamState::Partial { arn, view: View::NewImage } => Some(arn),
            StreamState::Partial { .. } | StreamState::Off => None,
        };
        if arn.is_none() {
            self.path.next_look = Some(Instant::now() + RECHECK);
            if !std::mem::replace(&mut self.path.told, true) {
                let (region, table) = (&self.local.name, &self.local.control_table);
                info!(
                    %region, table,
                    "the control table has no stream of new images, so heartbeats don't measure lag; \
                     `tradewind init` turns it on"
                );
            }
        }
        self.path.stream_arn.clone_from(&arn);
        arn
    }

    fn tell(&mut self, fault: &Fault) {
        self.path.next_look = Some(Instant::now() + RECHECK);
        let (region, table) = (&self.local.name, &self.local.control_table);
        if std::mem::replace(&mut self.path.told, true) {
            debug!(%region, table, %fault, "can't read the control table's stream");
        } else {
            warn!(
                %region, table, %fault,
                "can't read the control table's stream, so heartbeats don't measure lag"
            );
        }
    }
}
