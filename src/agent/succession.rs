//! Which streams of a table are read, and in which order: if a table has another stream than before, the
//! previous one is read to its end first, for each destination by itself, and what may be in neither is
//! marked.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::family::Family;
use crate::control::{
    Cause, Checkpoint, ControlTable, Gap, Jump, Leases, TableStream, lease_space, stream_label,
};
use crate::destination::Destination;
use crate::fault::{Fault, FaultKind, persist};
use crate::protocol::{Floors, Origin};
use crate::region::Region;
use crate::source::dynamodb_streams::own_millis;
use crate::source::{Lineage, ShardId};
use crate::tally::Tally;

/// A stream may be created before it shows everything that is written.
const ENABLING_MILLIS: u64 = 60_000;
/// How often a destination checks whether its turn has come.
const LOOK: Duration = Duration::from_millis(250);
/// A stream counts as missing once that has been reported twice, this far apart.
const AGAIN: Duration = Duration::from_secs(1);

/// The stream before the one being read: which destinations lack some of it, and what the others must know
/// about it.
#[derive(Debug)]
pub(super) struct Before {
    stream: TableStream,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    behind: BTreeSet<Destination>,
    /// As they were when those who are not behind had come to its end.
    leases: Leases,
}

impl Before {
    /// A stream that these destinations still have to read.
    pub(super) fn behind(
        stream: &TableStream,
        destinations: impl IntoIterator<Item = Destination>,
    ) -> Arc<Self> {
        let state = State { behind: destinations.into_iter().collect(), leases: Leases::new() };
        Arc::new(Self { stream: stream.clone(), state: Mutex::new(state) })
    }

    pub(super) fn note(&self, behind: BTreeSet<Destination>, leases: Leases) {
        *self.lock() = State { behind, leases };
    }

    /// Whether a destination lacks some of the stream, and must not start the next one.
    pub(super) fn holds(&self, destination: &Destination) -> bool {
        self.lock().behind.contains(destination)
    }

    /// Returns once a destination has all of the stream.
    pub(super) async fn over(&self, destination: &Destination) {
        while self.holds(destination) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The shards that the key memory may be rebuilt from, parents before children.
    pub(super) fn shards(&self) -> Vec<ShardId> {
        let state = self.lock();
        let rewinds = state.leases.values().flat_map(|lease| lease.checkpoints.values());
        let older = rewinds.flat_map(|checkpoint| checkpoint.rewind.keys());
        let older: BTreeSet<&ShardId> = older.filter(|shard| shard.is_of_other_stream()).collect();
        let family = Family { lineage: &Lineage::from_iter([]), leases: &state.leases };
        let mut own: Vec<&ShardId> = state.leases.keys().collect();
        own.sort_by_key(|shard| family.ancestors(shard).len());
        older.into_iter().chain(own).map(|shard| shard.of_stream(self.stream.label())).collect()
    }

    /// Where the clock of the stream's service was ahead.
    pub(super) fn jumps(&self) -> Vec<(ShardId, Vec<Jump>)> {
        let state = self.lock();
        let jumped = state.leases.values().filter(|lease| !lease.jumps.is_empty());
        jumped.map(|lease| (lease.shard.of_stream(self.stream.label()), lease.jumps.clone())).collect()
    }

    /// Where a destination starts a shard of the next stream: with the key memory that it had at the end of
    /// this one, and with the floors in force there.
    pub(super) fn checkpoint(&self, destination: &Destination) -> Option<(Checkpoint, Floors)> {
        let state = self.lock();
        let lineage = Lineage::from_iter([]);
        let parents = Family { lineage: &lineage, leases: &state.leases }.parents();
        let last = state.leases.values().filter(|lease| !parents.contains(&lease.shard));
        let ends = last.filter_map(|lease| lease.checkpoints.get(destination).cloned());
        let mut at_end = Floors::default();
        let ends = ends.inspect(|end| {
            let terms = end.terms.iter().map(|term| &term.floors);
            terms.chain([&end.floors]).for_each(|floors| at_end.raise_all(floors));
        });
        let mut all = ends.reduce(|mut all, end| {
            all.rewind.extend(end.rewind);
            all.floors = all.floors.meet(&end.floors);
            // Parallel shards are read again one after the other: what was in force late in one was not yet
            // in force early in another.
            all.terms.clear();
            all.millis = all.millis.min(end.millis);
            all
        })?;
        let label = self.stream.label();
        all.rewind = all.rewind.into_iter().map(|(shard, at)| (shard.of_stream(label), at)).collect();
        all.terms.iter_mut().for_each(|term| term.shard = term.shard.of_stream(label));
        Some((all, at_end))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream to be read.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub(super) stream: TableStream,
    /// Its predecessor, if that can be read, or is known to have been read to its end.
    pub(super) before: Option<TableStream>,
}

/// The streams of one table, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Succession {
    pub(super) local: Region,
    pub(super) table: String,
    pub(super) peers: Vec<Origin>,
    pub(super) feeds: Vec<Destination>,
    pub(super) tally: Arc<Tally>,
}

impl Succession {
    /// The streams to be read, oldest first; the last is the table's present one. If agents have not read
    /// that one before, the table is marked first.
    pub(super) async fn stages(&self, arn: &str) -> Result<Vec<Stage>, Fault> {
        let control = ControlTable::of(&self.local);
        let mut known = control.table_streams(&self.table).await?;
        if !known.iter().any(|stream| stream.label() == stream_label(arn)) {
            let follows = |stream: &TableStream, label: &str| stream.before.as_deref() == Some(label);
            let last = known.iter().find(|last| !known.iter().any(|other| follows(other, last.label())));
            let before = last.map(|last| last.label().to_owned());
            let new = TableStream { arn: arn.to_owned(), before, is_done: false, is_lost: false };
            if let Some(last) = last {
                warn!(
                    region = %self.local.name, table = self.table, before = last.label(), now = new.label(),
                    "the table has another stream: its stream was turned off and on, or it was deleted and recreated"
                );
                // If it can't be read, what follows reports that.
                if last.is_done || self.is_readable(last).await? {
                    self.mark(Cause::OtherStream, last, &new).await?;
                }
            }
            control.begin_stream(&self.table, &new).await?;
            known.push(new);
        }
        let of = |label: &str| known.iter().find(|stream| stream.label() == label);
        let mut streams: Vec<TableStream> = of(stream_label(arn)).cloned().into_iter().collect();
        let before =
            |next: &TableStream| next.before.as_deref().and_then(of).filter(|stream| !stream.is_done);
        while let Some(stream) = streams.last().and_then(before).filter(|_| streams.len() < known.len()) {
            streams.push(stream.clone());
        }
        streams.reverse();
        let first = streams.first().and_then(|first| of(first.before.as_deref()?));
        let mut before = first.filter(|first| !first.is_lost).cloned();
        let mut stages: Vec<Stage> = Vec::new();
        for (i, stream) in streams.iter().enumerate() {
            if let Some(next) = streams.get(i + 1)
                && !self.is_readable(stream).await?
            {
                self.give_up(stream, next).await?;
                before = before.filter(|_| !stages.is_empty());
                continue;
            }
            let last = before.replace(stream.clone());
            stages.push(Stage { stream: stream.clone(), before: last });
        }
        if let [past @ .., Stage { stream: now, .. }] = &*stages {
            for Stage { stream: past, .. } in past {
                let (before, now) = (past.label(), now.label());
                info!(
                    region = %self.local.name, table = self.table, before, now,
                    "reading the previous stream to its end first"
                );
            }
        }
        Ok(stages)
    }

    /// Loads what a stream's leases say, once it has been read to its end.
    pub(super) async fn recall(&self, before: &Before) {
        let control = ControlTable::of(&self.local);
        let space = lease_space(&self.table, &before.stream.arn);
        let read = || control.leases(&space);
        let found =
            persist(read, |fault| debug!(%fault, "can't read the leases of the previous stream; retrying"));
        if let Ok(found) = found.await {
            before.note(BTreeSet::new(), found.leases);
        }
    }

    /// Records that a stream has been read to its end, for all destinations.
    pub(super) async fn finish(&self, stream: &TableStream) {
        let control = ControlTable::of(&self.local);
        let saved = persist(
            || control.end_stream(&self.table, stream, false, own_millis(&self.local.streams)),
            |fault| debug!(%fault, "can't record the end of a stream; retrying"),
        );
        if let Err(fault) = saved.await {
            warn!(region = %self.local.name, table = self.table, %fault, "can't record the end of a stream");
        }
        let (region, table, before) = (&self.local.name, &self.table, stream.label());
        info!(%region, table, before, "the previous stream has been read to its end");
    }

    /// Returns once a stream that was to be read can't be, and the table is marked for that.
    pub(super) async fn lose(&self, stream: &TableStream, next: &TableStream, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            match self.is_readable(stream).await {
                Ok(true) => {}
                Ok(false) => match self.give_up(stream, next).await {
                    Ok(()) => return,
                    Err(fault) => warn!(
                        region = %self.local.name, table = self.table, %fault,
                        "can't save a gap's mark; retrying"
                    ),
                },
                Err(fault) => debug!(%fault, "can't describe the previous stream; retrying"),
            }
        }
    }

    /// Marks the table for a stream that can no longer be read, and gives the stream up.
    async fn give_up(&self, stream: &TableStream, next: &TableStream) -> Result<(), Fault> {
        self.mark(Cause::StreamGone, stream, next).await?;
        let now = own_millis(&self.local.streams);
        ControlTable::of(&self.local).end_stream(&self.table, stream, true, now).await
    }

    /// Marks the table: from what all leases of the previous stream had promised, until the next one started.
    async fn mark(&self, cause: Cause, before: &TableStream, next: &TableStream) -> Result<(), Fault> {
        let control = ControlTable::of(&self.local);
        let mut leases = control.leases(&lease_space(&self.table, &before.arn)).await?.leases;
        let now = own_millis(&self.local.streams);
        for lease in leases.values_mut() {
            lease.disbelieve(now);
        }
        let family = Family { lineage: &Lineage::from_iter([]), leases: &leases };
        let peers = self.peers.iter().cloned().map(Destination::Peer);
        let destinations = peers.chain(self.feeds.iter().cloned());
        let since =
            destinations.map(|destination| family.promise(&destination, |_| true)).min().unwrap_or_default();
        let until_millis = next.made_millis().map_or(now, |made| now.min(made + ENABLING_MILLIS));
        let gap = Gap {
            origin: self.local.name.clone(),
            cause,
            shard: next.label().to_owned(),
            peers: self.peers.clone(),
            feeds: self.feeds.iter().filter_map(Destination::feed).cloned().collect(),
            from_millis: since.max(before.made_millis().unwrap_or_default()).min(until_millis),
            until_millis,
            found_millis: now,
        };
        control.save_gap(&self.table, &gap).await?;
        self.tally.gaps.add();
        error!(
            region = %self.local.name, table = self.table,
            "{gap}; the table is marked: run `tradewind verify`, and if replicas differ `tradewind repair`"
        );
        Ok(())
    }

    /// Whether a stream still exists.
    async fn is_readable(&self, stream: &TableStream) -> Result<bool, Fault> {
        if self.is_there(stream).await? {
            return Ok(true);
        }
        tokio::time::sleep(AGAIN).await;
        self.is_there(stream).await
    }

    async fn is_there(&self, stream: &TableStream) -> Result<bool, Fault> {
        let describe = self.local.streams.describe_stream().stream_arn(&stream.arn).limit(1);
        match describe.send().await.map_err(Fault::from) {
            // Some servers answer with the table's present stream instead.
            Ok(answer) => Ok(answer
                .stream_description
                .is_some_and(|found| found.stream_label.is_none_or(|label| label == stream.label()))),
            Err(fault) if fault.kind == FaultKind::Missing => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}
