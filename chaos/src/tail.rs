//! Reads a region's stream, bypassing all faults, to its end: parents before their children.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tradewind::source::{Lineage, ShardId};

use crate::Result;
use crate::history::Seen;
use crate::wire::{From, Wire};

/// How many reads in a row must find nothing at the end.
const EMPTY_READS: u32 = 3;
/// How long a stream may stay unreadable, or go on, at the end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often to look for new shards.
const LIST: Duration = Duration::from_secs(5);

/// One region's reader.
#[derive(Debug)]
pub struct Tail {
    pub region: usize,
    pub wire: Wire,
    /// Precedes the run's own keys. Others are not the run's: their writes may have begun before it.
    pub prefix: Arc<str>,
    pub skew_seconds: u32,
    pub began: Instant,
    /// How often each shard is read.
    pub poll: Duration,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// Whether the table may have another stream.
    pub look: Arc<AtomicBool>,
    /// Whether writing is over: the end is the end.
    pub over: Arc<AtomicBool>,
}

/// A position in a stream.
#[derive(Debug)]
pub struct Place {
    stream: String,
    lineage: Lineage,
    shards: BTreeMap<ShardId, Cursor>,
    listed: Instant,
}

/// How far a shard was read, and how to continue.
#[derive(Debug)]
struct Cursor {
    stream: String,
    from: From,
    iterator: Option<String>,
    has_ended: bool,
}

impl Place {
    /// At the beginning, or at the tip: everything from there on is seen.
    pub async fn stand(wire: &Wire, at_tip: bool) -> Result<Self> {
        let stream = wire.stream().await?;
        let lineage = wire.shards(&stream).await?;
        let mut shards = BTreeMap::new();
        for shard in lineage.shards() {
            let from = if at_tip { From::Now } else { From::Beginning };
            let iterator = wire.iterator(&stream, &shard.0, &from).await?;
            let stream = stream.clone();
            shards.insert(shard.clone(), Cursor { stream, from, iterator, has_ended: false });
        }
        Ok(Self { stream, lineage, shards, listed: Instant::now() })
    }

    async fn list(&mut self, wire: &Wire) -> Result<()> {
        self.stream = wire.stream().await?;
        self.lineage = wire.shards(&self.stream).await?;
        for shard in self.lineage.shards() {
            let stream = self.stream.clone();
            let new = || Cursor { stream, from: From::Beginning, iterator: None, has_ended: false };
            self.shards.entry(shard.clone()).or_insert_with(new);
        }
        self.listed = Instant::now();
        Ok(())
    }

    /// Whether a shard may be read: all of its parent has been read, and of the streams before its own.
    fn is_due(&self, shard: &ShardId) -> bool {
        let is_old = |cursor: &Cursor| cursor.stream != self.stream;
        if !is_old(&self.shards[shard])
            && self.shards.values().any(|cursor| is_old(cursor) && !cursor.has_ended)
        {
            return false;
        }
        let parent = self.lineage.parent(shard).and_then(|parent| self.shards.get(parent));
        !self.shards[shard].has_ended && parent.is_none_or(|parent| parent.has_ended)
    }
}

impl Tail {
    /// Reads until writing is over and nothing more comes, and returns true; false if it goes on and on.
    /// Fails if the stream can't be read.
    pub async fn run(self, mut place: Place) -> Result<bool> {
        let (mut empty, mut bad_since, mut over_since) = (0, None, None);
        while !self.over.load(Ordering::Relaxed) || empty < EMPTY_READS {
            if self.over.load(Ordering::Relaxed)
                && over_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
                && bad_since.is_none()
            {
                return Ok(false);
            }
            match self.round(&mut place).await {
                Ok(found) => {
                    bad_since = None;
                    empty = if found { 0 } else { empty + 1 };
                }
                Err(error) => {
                    empty = 0;
                    // Iterators end with the server that gave them. Only one at the tip knows where that was.
                    for cursor in place.shards.values_mut().filter(|cursor| !matches!(cursor.from, From::Now))
                    {
                        cursor.iterator = None;
                    }
                    let since: Instant = *bad_since.get_or_insert_with(Instant::now);
                    if self.over.load(Ordering::Relaxed) && since.elapsed() > PATIENCE {
                        return Err(error);
                    }
                }
            }
            sleep(self.poll).await;
        }
        Ok(true)
    }

    async fn round(&self, place: &mut Place) -> Result<bool> {
        if place.listed.elapsed() > LIST || self.look.load(Ordering::Relaxed) {
            place.list(&self.wire).await?;
            self.look.store(false, Ordering::Relaxed);
        }
        let mut found = false;
        let due: Vec<ShardId> = place.shards.keys().filter(|shard| place.is_due(shard)).cloned().collect();
        for shard in due {
            let Some(cursor) = place.shards.get_mut(&shard) else { continue };
            if cursor.iterator.is_none() {
                cursor.iterator = self.wire.iterator(&cursor.stream, &shard.0, &cursor.from).await?;
            }
            let Some(iterator) = &cursor.iterator else { continue };
            let (changes, next) = self.wire.changes(iterator).await?;
            let at = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            for change in changes {
                cursor.from = From::After(change.sequence.clone());
                let Some(key) = change.key.filter(|key| key.starts_with(&*self.prefix)) else { continue };
                found = true;
                let seen = Seen {
                    region: self.region,
                    key,
                    sequence: change.sequence,
                    at,
                    created: change.created_millis + u64::from(self.skew_seconds) * 1000,
                    old: change.old,
                    new: change.new,
                };
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
            }
            cursor.has_ended = next.is_none();
            cursor.iterator = next;
        }
        Ok(found)
    }
}
