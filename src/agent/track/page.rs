//! How a track handles a page: judges its records, and dispatches what follows.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::feed::{Dropped, Feed, FeedState};
use super::{Meeting, Track};
use crate::agent::holding::Holding;
use crate::agent::progress::PageEnd;
use crate::agent::shared::{Notes, SAVE_AGAIN, Shared, save_in_time};
use crate::agent::times::Created;
use crate::clock::wall_millis;
use crate::config::Conflicts;
use crate::control::{Cause, Gap, Held, Jump, Lease};
use crate::deliver::{Batches, EventJob, Job, JobRecord, Load, Outlet, Queue, Queued};
use crate::destination::Destination;
use crate::feed::{Images, Provenance};
use crate::log_key::log_key;
use crate::protocol::{Conflict, Floors, Judgement, KeyId, Version, is_credible};
use crate::source::{Change, Extent, Page, Position, ShardId, Source, UnreadableRecord};
use crate::spill::SpillError;
use crate::telemetry::Trace;

/// How long a slow peer may hold up the other peers, in all, before it gets a track of its own.
const PATIENCE: Duration = Duration::from_secs(3);
const HOUR_MILLIS: u64 = 3_600_000;

/// The page that a record came in.
struct Read {
    shard: ShardId,
    asked: Instant,
    seen: Instant,
    is_full: bool,
}

impl Track {
    pub(super) async fn page(&mut self, mut page: Page) {
        let seen = Instant::now();
        let now = self.shared.stream.own_millis();
        let Some(late) = self.set_right(&mut page, now).await else { return };
        let end = PageEnd::of(&page, now, late);
        let before = self.needs();
        let mut told_by = None;
        let read =
            Read { shard: page.shard.clone(), asked: page.asked, seen, is_full: page.extent == Extent::Full };
        for change in page.records {
            match self.record(&read, change).await {
                Ok(by) => told_by = by.or(told_by),
                Err(error) => return self.begin_again(&error),
            }
        }
        self.progress.judged(&end, before, told_by);
        if let Some(position) = &end.position {
            self.terms.passed(&end.shard, position);
        }
        self.note_idle(&end);
        let now = end.served_millis.unwrap_or_else(wall_millis);
        self.note_backlogs(self.progress.behind(&end, now), now);
    }

    /// Judges a record, and dispatches what follows from it. Returns the floors, if the judgement rests on
    /// them.
    async fn record(&mut self, read: &Read, change: Change) -> Result<Option<Arc<Floors>>, SpillError> {
        let Read { shard, asked, seen, is_full } = read;
        // Where there is no peer, a stream may lack images: a feed tells what it shows.
        let partial = if self.shared.peers.is_empty() { change.partial() } else { None };
        let Change { sequence, mut record, bytes, user, .. } = change;
        let (ordinal, created_millis) = (self.progress.next_ordinal(), record.created_millis);
        // Where there is no peer, nothing is written to the table.
        let is_crowded = !is_full
            && !self.shared.peers.is_empty()
            && self.keys.of_table() >= self.shared.tuning.memory_keys;
        let Lease { shard: own, since_millis, .. } = &self.holding.lease;
        let acts = shard == own && created_millis >= *since_millis;
        let Shared { origin, table, .. } = &*self.shared;
        let trace = if acts { Trace::begin(origin, table, &record.key, *asked, *seen) } else { None };
        record.old.iter().chain(&record.new).for_each(|image| self.shared.memory.names.note(image));
        let images = (partial.is_some() || (acts && self.shared.shows_arrivals)).then(|| Images {
            key: record.key.clone(),
            old: record.old.clone(),
            new: record.new.clone(),
        });
        if let (Some(name), Some(images)) = (partial, &images) {
            (record.old, record.new) = images.of_key(name);
        }
        let judging = Instant::now();
        self.terms.come_to(shard, &sequence);
        let floors = Arc::clone(self.terms.floors());
        let mut judgement = self.keys.judge(ordinal, record, &floors, self.is_main && is_crowded)?;
        let told_by = judgement.by_floors.then_some(floors);
        if let Some(trace) = &trace {
            trace.classified(judging, judgement.verdict);
        }
        self.make_room();
        let is_new = |feed: &Feed| acts && !feed.start.covers(&sequence);
        let targets: Vec<Destination> =
            self.feeds.iter().filter(|(_, feed)| is_new(feed)).map(|(name, _)| name.clone()).collect();
        if self.is_main && !targets.is_empty() {
            self.count(&judgement);
            if let Some(conflict) = judgement.conflict.take() {
                self.report(&conflict);
                let own = self.feeds.get(&Destination::Home).filter(|feed| is_new(feed));
                if let (Some(recorder), Some(feed)) = (&self.shared.notes.recorder, own) {
                    recorder.record(conflict, created_millis, ordinal, &feed.ledger);
                }
            }
        }
        if let Some((key, version)) = &judgement.arrived {
            self.arrived(*key, version);
        }
        let tenure = Arc::clone(&self.holding.tenure);
        let record_of = |feed: &Feed| JobRecord {
            ordinal,
            ledger: Arc::clone(&feed.ledger),
            created_millis,
            seen: *seen,
        };
        for action in &judgement.actions {
            for target in &targets {
                let Some(action) = self.shared.view(action, target) else { continue };
                let Some(Outlet::Replica(lanes)) = self.shared.outlets.get(target).cloned() else { continue };
                let Some(record) = self.feeds.get(target).map(record_of) else { continue };
                let (tenure, trace) = (Arc::clone(&tenure), trace.clone());
                let job = Job { action, record, tenure, trace, coalesced: Vec::new() };
                self.dispatch(target, lanes.queue(), job).await;
            }
        }
        for target in &targets {
            let Some(Outlet::Feed(batches)) = self.shared.outlets.get(target).cloned() else { continue };
            let Some(event) = batches.event(&judgement, images.as_ref(), partial, created_millis) else {
                continue;
            };
            let Some(record) = self.feeds.get(target).map(record_of) else { continue };
            let provenance = Provenance {
                stream: Arc::clone(self.shared.stream.arn()),
                shard: shard.clone(),
                sequence: sequence.clone(),
                created_millis,
                bytes,
                user: user.clone(),
            };
            let tenure = Arc::clone(&tenure);
            self.tell(target, &batches, EventJob { event, provenance, record, tenure }).await;
        }
        Ok(told_by)
    }

    fn count(&self, judgement: &Judgement) {
        self.shared.notes.tally.count_verdict(judgement.verdict);
        if let Some((_, Version { origin, .. })) = &judgement.arrived
            && !judgement.is_seed
        {
            self.shared.note_origin(origin);
        }
    }

    /// Corrects the times of a page if its service's clock is ahead. Returns how much later than it was made
    /// its last record may count, in milliseconds; or nothing if the decision is not durable, which it must be
    /// before a record is judged: then the track is about to end.
    async fn set_right(&self, page: &mut Page, now: u64) -> Option<u64> {
        let mut times = self.holding.times.lock().await;
        let kept = now.saturating_sub(self.shared.retention_millis());
        let oldest = self.progress.oldest_unread(&page.shard).max(kept);
        for Change { sequence, record, .. } in &mut page.records {
            loop {
                match times.created(&page.shard, sequence, record.created_millis, now, oldest) {
                    Created::At(millis) => {
                        record.created_millis = millis;
                        break;
                    }
                    // What was written to an earlier shard has already been decided on.
                    Created::Jumped(_) if page.shard != self.holding.lease.shard => break,
                    Created::Jumped(jump) => {
                        let ahead_s = jump.ahead_millis / 1000;
                        let jumps = times.with(&page.shard, jump);
                        if !self.save_jumps(&jumps).await {
                            return None;
                        }
                        times.insert(page.shard.clone(), jumps);
                        self.tell_of_jump(&page.shard, ahead_s);
                    }
                }
            }
        }
        let ahead_millis = times.ahead_millis(&page.shard);
        page.served_millis = page.served_millis.map(|served| {
            if is_credible(served, now) { served } else { served.saturating_sub(ahead_millis) }
        });
        Some(page.records.last().map_or(0, |last| times.late_millis(&page.shard, &last.sequence)))
    }

    /// Saves where the service's clock was ahead, for as long as the lease is held and the track is to go on.
    async fn save_jumps(&self, jumps: &[Jump]) -> bool {
        let Shared { control, table, space, origin: region, .. } = &*self.shared;
        let Holding { lease, tenure, .. } = &*self.holding;
        let save = async {
            loop {
                match save_in_time(control.save_jumps(space, lease, jumps)).await {
                    Ok(Held::Yes) => return true,
                    Ok(Held::No) => {
                        tenure.end();
                        return false;
                    }
                    Err(fault) => warn!(
                        %region, table, %fault,
                        "can't save how far the stream's clock is ahead in the control table; retrying"
                    ),
                }
                tokio::time::sleep(SAVE_AGAIN).await;
            }
        };
        tokio::select! {
            biased;
            () = tenure.ended() => false,
            () = self.stop.cancelled() => false,
            is_saved = save => is_saved,
        }
    }

    fn tell_of_jump(&self, shard: &ShardId, ahead_s: u64) {
        let Shared { origin: region, table, .. } = &*self.shared;
        if ahead_s > 0 {
            warn!(
                %region, table, %shard, ahead_s,
                "the stream's records have times ahead of this machine's clock: they count as written that much \
                 earlier; synchronise the service's clock, or this one, by NTP"
            );
        } else {
            info!(%region, table, %shard, "the stream's records have credible times again");
        }
    }

    /// Handles a record that can't be read: its write is replicated nowhere, and the table must be marked
    /// before a checkpoint passes it.
    pub(super) fn pass_over(&mut self, shard: &ShardId, record: &UnreadableRecord) {
        let Shared { origin, table, .. } = &*self.shared;
        let is_done = |feed: &Feed| record.sequence.as_ref().is_some_and(|at| feed.start.covers(at));
        let since_millis = self.holding.lease.since_millis;
        if *shard != self.holding.lease.shard
            || self.feeds.values().all(is_done)
            || record.created_millis.is_some_and(|created| created < since_millis)
        {
            debug!(region = %origin, table, %shard, %record, "skipping an unreadable record that is not replicated");
            return;
        }
        // Whole hours: one mark stands for many records.
        let now = self.shared.stream.own_millis();
        let from = record.created_millis.unwrap_or_else(|| self.progress.millis(shard));
        let from = from.clamp(now.saturating_sub(self.shared.retention_millis()).max(since_millis), now);
        let until = record.created_millis.filter(|created| is_credible(*created, now)).unwrap_or(now) + 1;
        let gap = Gap {
            origin: origin.clone(),
            shard: shard.to_string(),
            cause: Cause::Unreadable,
            peers: self.shared.peers.clone(),
            feeds: self.feeds.keys().filter_map(Destination::feed).cloned().collect(),
            from_millis: from - from % HOUR_MILLIS,
            until_millis: until.next_multiple_of(HOUR_MILLIS),
            found_millis: now,
        };
        if self.is_main {
            self.shared.notes.tally.unreadable.add();
            if self.complaints.is_due() {
                error!(
                    region = %origin, table, %shard, %record,
                    "skipping an unreadable record: {gap}; the table is marked: run `tradewind verify`, and if \
                     replicas differ `tradewind repair`"
                );
            } else {
                debug!(region = %origin, table, %shard, %record, "skipping an unreadable record");
            }
        }
        self.unmarked.retain(|other| !other.is_marked_as(&gap));
        self.unmarked.push(gap);
    }

    /// Notifies the lanes of the peer that a write of its own has arrived, if one of the key may be in
    /// flight. Not those of other peers: they may lack it yet, and their watermarks promise what is finished.
    fn arrived(&self, key: KeyId, version: &Version) {
        let peer = Destination::Peer(version.origin.clone());
        let feed = self.feeds.get(&peer).filter(|feed| !feed.ledger.is_empty());
        if let (Some(_), Some(Outlet::Replica(lanes))) = (feed, self.shared.outlets.get(&peer)) {
            lanes.arrived(key, version.clone());
        }
    }

    fn report(&self, conflict: &Conflict) {
        self.shared.notes.tally.conflicts.add();
        let Conflict { key, lost, won, .. } = conflict;
        let Shared { origin: region, table, notes: Notes { conflicts, .. }, .. } = &*self.shared;
        let key = log_key(key);
        if *conflicts == Conflicts::Log {
            info!(%region, table, %key, %lost, %won, "conflict: the last writer won");
        } else {
            debug!(%region, table, %key, %lost, %won, "conflict: the last writer won");
        }
    }

    /// Queues an event for a feed, or keeps it until another track has delivered what comes before it.
    async fn tell(&mut self, target: &Destination, batches: &Batches, job: EventJob) {
        let most = self.shared.tuning.queue_mib << 20;
        let Some(feed) = self.feeds.get_mut(target).filter(|feed| feed.is_joining()) else {
            return self.dispatch(target, batches.queue(), job).await;
        };
        let JobRecord { ordinal, created_millis, .. } = job.record;
        feed.kept.bytes += job.bytes();
        if feed.kept.bytes > most {
            self.drop_feed(target, ordinal, created_millis);
        } else {
            feed.ledger.begin(ordinal, created_millis);
            feed.kept.events.push(job);
        }
    }

    /// Queues the events that were kept, but for those that the other track has delivered, too.
    pub(super) async fn tell_kept(
        &mut self,
        target: &Destination,
        kept: Vec<EventJob>,
        done: Option<Position>,
    ) {
        let Some(Outlet::Feed(batches)) = self.shared.outlets.get(target).cloned() else { return };
        for job in kept {
            let JobRecord { ordinal, .. } = job.record;
            let ledger = Arc::clone(&job.record.ledger);
            if !done.as_ref().is_some_and(|done| done.covers(&job.provenance.sequence)) {
                self.dispatch(target, batches.queue(), job).await;
            }
            ledger.finish(ordinal);
        }
    }

    /// Queues a job for a destination. Waits for a destination without space, but for a peer or a feed no longer
    /// than the others can bear.
    async fn dispatch<J: Load, M: From<Queued<J>>>(
        &mut self,
        target: &Destination,
        queue: &Queue<J, M>,
        job: J,
    ) {
        let alone = self.feeds.len() == 1;
        let Some(feed) = self.feeds.get_mut(target) else { return };
        if feed.is_dropped() {
            return;
        }
        let JobRecord { ordinal, created_millis, .. } = *job.record();
        let Some(job) = queue.try_send(job) else {
            feed.held_up = feed.held_up.saturating_sub(Duration::from_millis(1));
            return;
        };
        let waiting = Instant::now();
        if alone || *target == Destination::Home {
            tokio::select! {
                biased;
                () = queue.send(job) => {}
                // It stays in the ledger, and so ahead of the checkpoint.
                () = self.stop.cancelled() => feed.ledger.begin(ordinal, created_millis),
                () = self.holding.tenure.ended() => feed.ledger.begin(ordinal, created_millis),
            }
        } else if tokio::time::timeout(PATIENCE.saturating_sub(feed.held_up), queue.send(job)).await.is_ok() {
            feed.held_up += waiting.elapsed();
        } else {
            self.drop_feed(target, ordinal, created_millis);
        }
    }

    fn drop_feed(&mut self, destination: &Destination, ordinal: u64, created_millis: u64) {
        let (needs, progress) = (self.needs(), self.progress.before(ordinal));
        let Some(feed) = self.feeds.get_mut(destination) else { return };
        warn!(
            region = %self.shared.origin, %destination, table = self.shared.table,
            "the destination can't keep up: it gets its own cursor, and the others go on"
        );
        if let FeedState::Joining(meeting) = &feed.state {
            meeting.send_replace(Meeting::Missed);
            self.feeds.remove(destination);
        } else {
            feed.state =
                FeedState::Dropped(Box::new(Dropped { fed_to: ordinal, created_millis, progress, needs }));
        }
    }
}
