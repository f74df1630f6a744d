//! How far a track has got: the pages it has judged, and what may be checkpointed of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::control::Checkpoint;
use crate::protocol::Floors;
use crate::stream::{Page, Position, Sequence, ShardId};

/// The coarsest creation times: DynamoDB Local's, which are whole minutes.
const COARSEST: Duration = Duration::from_mins(1);

/// The shards of a stream, each with its parent.
pub(super) type Lineage = BTreeMap<ShardId, Option<ShardId>>;

/// The pages of a track, in the order in which they were judged.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Those from which on the stream may have to be read again.
    pages: VecDeque<JudgedPage>,
    /// Where each shard stood before them.
    base: BTreeMap<ShardId, Reached>,
    open: BTreeMap<ShardId, Tip>,
    /// The shards that there are, each with its parent.
    listed: Option<Lineage>,
    listings: u64,
    next: u64,
    settle: Duration,
}

#[derive(Clone, Debug)]
struct JudgedPage {
    shard: ShardId,
    /// The ordinal after that of its last record.
    next: u64,
    reached: Reached,
    /// What the memory needed, and the floors, before the page was judged.
    before: Needs,
}

/// What it takes to arrive at a state of the key memory.
#[derive(Clone, Debug)]
pub(super) struct Needs {
    /// The first record that must be read again.
    pub(super) oldest: u64,
    /// The floors in force.
    pub(super) floors: Arc<Floors>,
}

#[derive(Clone, Debug)]
struct Reached {
    position: Position,
    /// The creation time of the last record.
    millis: u64,
}

/// What is known of the end of an open shard.
#[derive(Clone, Debug, Default)]
struct Tip {
    /// All that was written before this moment has been read.
    read_to: Option<Instant>,
    /// No record to come has a creation time before this, in milliseconds.
    millis: u64,
    /// How many records the last page held.
    last_page: Option<usize>,
    /// How many pages in a row have been empty.
    empty_pages: u32,
}

/// So many empty pages in a row are taken for the tip; single ones come before it as well.
const TIP_PAGES: u32 = 8;

/// A page with fewer records than this was read near the tip.
const SHORT_PAGE: usize = 500;

impl Progress {
    /// Starts where `base` says, with what a checkpoint said of creation times.
    pub(super) fn new(base: BTreeMap<ShardId, (Position, u64)>, settle: Duration) -> Self {
        let reached = |(position, millis)| Reached { position, millis };
        Self {
            pages: VecDeque::new(),
            base: base.into_iter().map(|(shard, at)| (shard, reached(at))).collect(),
            open: BTreeMap::new(),
            listed: None,
            listings: 0,
            next: 0,
            settle,
        }
    }

    /// The ordinal of the next record.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn next_ordinal(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Notes which shards there are; returns those that are gone.
    pub(super) fn listed(&mut self, shards: Lineage) -> Vec<ShardId> {
        let is_gone = |shard: &&ShardId| {
            !shards.contains_key(*shard)
                && !self.open.contains_key(*shard)
                && self.pages.iter().all(|page| page.shard != **shard)
        };
        let gone: Vec<_> = self.base.keys().filter(is_gone).cloned().collect();
        for shard in &gone {
            self.base.remove(shard);
        }
        self.listed = Some(shards);
        self.listings += 1;
        gone
    }

    /// How often the shards have been listed.
    pub(super) fn listings(&self) -> u64 {
        self.listings
    }

    pub(super) fn opened(&mut self, shard: ShardId) {
        let unread = Reached { position: Position::TrimHorizon, millis: 0 };
        self.base.entry(shard.clone()).or_insert(unread);
        self.open.insert(shard, Tip::default());
    }

    /// Notes a page whose records have all been judged.
    pub(super) fn judged(&mut self, page: &PageEnd, before: Needs) {
        if page.closed {
            self.open.remove(&page.shard);
        } else if let Some(tip) = self.open.get_mut(&page.shard) {
            tip.note(page, self.settle);
        }
        let position = if page.closed { Some(Position::End) } else { page.position.clone() };
        let Some(position) = position else { return };
        let millis = page.last_millis.unwrap_or_else(|| self.reached(&page.shard).millis);
        let reached = Reached { position, millis };
        self.pages.push_back(JudgedPage { shard: page.shard.clone(), next: self.next, reached, before });
    }

    /// How far the shard has been judged.
    fn reached(&self, shard: &ShardId) -> Reached {
        let last = self.pages.iter().rev().find(|page| page.shard == *shard).map(|page| &page.reached);
        let unread = Reached { position: Position::TrimHorizon, millis: 0 };
        last.or_else(|| self.base.get(shard)).cloned().unwrap_or(unread)
    }

    /// How far each shard has been judged.
    pub(super) fn positions(&self) -> BTreeMap<ShardId, Position> {
        let mut positions: BTreeMap<_, _> =
            self.base.iter().map(|(shard, reached)| (shard.clone(), reached.position.clone())).collect();
        for page in &self.pages {
            positions.insert(page.shard.clone(), page.reached.position.clone());
        }
        positions
    }

    /// Whether this track has judged all that lies before `positions`.
    pub(super) fn has_passed(&self, positions: &BTreeMap<ShardId, Position>) -> bool {
        let Some(listed) = &self.listed else { return false };
        let mine = self.positions();
        positions.iter().all(|(shard, position)| {
            !listed.contains_key(shard) || mine.get(shard).is_some_and(|mine| mine >= position)
        })
    }

    /// Whether every open shard's last page was empty.
    pub(super) fn at_tip(&self) -> bool {
        self.last_pages_below(1)
    }

    /// Whether every open shard's last page was short.
    pub(super) fn near_tip(&self) -> bool {
        self.last_pages_below(SHORT_PAGE)
    }

    fn last_pages_below(&self, records: usize) -> bool {
        let below = |tip: &Tip| tip.last_page.is_some_and(|last| last < records);
        self.frontier()
            .is_some_and(|frontier| frontier.into_iter().all(|shard| self.open.get(shard).is_some_and(below)))
    }

    /// Where records to come can be: the shards that are being read, those that could be, and
    /// those that have ended and whose children are not known yet. None, if there are no such.
    pub(super) fn frontier(&self) -> Option<Vec<&ShardId>> {
        let listed = self.listed.as_ref()?;
        let ended: BTreeSet<&ShardId> = listed
            .keys()
            .filter(|shard| !self.open.contains_key(*shard) && self.reached(shard).position == Position::End)
            .collect();
        let with_children: BTreeSet<&ShardId> = listed.values().flatten().collect();
        let is_open_end = |(shard, parent): &(&ShardId, &Option<ShardId>)| {
            let waits = parent.as_ref().is_some_and(|p| listed.contains_key(p) && !ended.contains(p));
            if ended.contains(shard) { !with_children.contains(shard) } else { !waits }
        };
        let frontier: Vec<_> = listed.iter().filter(is_open_end).map(|(shard, _)| shard).collect();
        (!frontier.is_empty()).then_some(frontier)
    }

    /// What this is as far as records before `ordinal` go.
    pub(super) fn before(&self, ordinal: u64) -> Self {
        let mut before = self.clone();
        before.pages.truncate(self.pages.partition_point(|page| page.next <= ordinal));
        before
    }

    /// All that was written to the table before this moment has been read.
    pub(super) fn read_to(&self) -> Option<Instant> {
        let read_to = |shard: &ShardId| self.open.get(shard).and_then(|tip| tip.read_to);
        self.frontier()?.into_iter().map(read_to).min().flatten()
    }

    fn shard_millis(&self, shard: &ShardId) -> u64 {
        let own = self.reached(shard).millis.max(self.open.get(shard).map_or(0, |tip| tip.millis));
        let parent = self.listed.as_ref().and_then(|listed| listed.get(shard)).and_then(Option::as_ref);
        let parent = parent.filter(|parent| self.base.contains_key(parent));
        own.max(parent.map_or(0, |parent| self.reached(parent).millis))
    }

    /// What is durable to say of a destination for which all records before `unfinished` are
    /// done, when the memory needs `now`.
    pub(super) fn checkpoints(&self, unfinished: u64, now: &Needs) -> BTreeMap<ShardId, Checkpoint> {
        let done = self.pages.partition_point(|page| page.next <= unfinished);
        let needs = self.pages.get(done).map_or(now, |page| &page.before);
        let kept = self.pages.partition_point(|page| page.next <= needs.oldest).min(done);
        let floors = self.pages.get(kept).map_or(&now.floors, |page| &page.before.floors);
        let mut checkpoints: BTreeMap<ShardId, Checkpoint> = self
            .base
            .iter()
            .map(|(shard, reached)| {
                let Reached { position, millis } = reached.clone();
                let checkpoint = Checkpoint {
                    done: position.clone(),
                    rewind: position,
                    floors: Floors::clone(floors),
                    millis,
                };
                (shard.clone(), checkpoint)
            })
            .collect();
        for (i, page) in self.pages.iter().take(done).enumerate() {
            if let Some(checkpoint) = checkpoints.get_mut(&page.shard) {
                checkpoint.done = page.reached.position.clone();
                checkpoint.millis = page.reached.millis;
                if i < kept {
                    checkpoint.rewind = page.reached.position.clone();
                }
            }
        }
        // A shard of which nothing is left to do promises what its tip does.
        let busy: BTreeSet<&ShardId> = self.pages.iter().skip(done).map(|page| &page.shard).collect();
        for (shard, checkpoint) in &mut checkpoints {
            if !busy.contains(shard) {
                checkpoint.millis = checkpoint.millis.max(self.shard_millis(shard));
            }
        }
        checkpoints
    }

    /// Drops the pages that no destination needs any more.
    pub(super) fn prune(&mut self, unfinished: u64, now: &Needs) {
        let done = self.pages.partition_point(|page| page.next <= unfinished);
        let oldest = self.pages.get(done).map_or(now, |page| &page.before).oldest;
        let kept = self.pages.partition_point(|page| page.next <= oldest).min(done);
        for page in self.pages.drain(..kept) {
            self.base.insert(page.shard, page.reached);
        }
    }
}

impl Tip {
    fn note(&mut self, page: &PageEnd, settle: Duration) {
        self.last_page = Some(page.records);
        self.empty_pages = if page.records == 0 { self.empty_pages.saturating_add(1) } else { 0 };
        let (read_to, millis) = match (page.last_millis, page.served_millis) {
            (None, _) if self.empty_pages < TIP_PAGES => return,
            // What was written some time ago would have shown by now.
            (None, served) => {
                let margin = u64::try_from((settle + COARSEST).as_millis()).unwrap_or(u64::MAX);
                (page.asked.checked_sub(settle), served.unwrap_or_default().saturating_sub(margin))
            }
            // Further records of the last one's second may be unread, and requests may have been
            // under way when a watermark was seen.
            (Some(last), Some(served)) => {
                let behind = Duration::from_millis(served.saturating_sub(last));
                (page.asked.checked_sub(behind + settle), last)
            }
            (Some(last), None) => (None, last),
        };
        self.read_to = self.read_to.max(read_to);
        self.millis = self.millis.max(millis);
    }
}

/// What is left of a page once its records have been judged.
#[derive(Debug)]
pub(super) struct PageEnd {
    pub(super) shard: ShardId,
    pub(super) position: Option<Position>,
    pub(super) last_millis: Option<u64>,
    pub(super) records: usize,
    pub(super) closed: bool,
    asked: Instant,
    served_millis: Option<u64>,
}

impl PageEnd {
    pub(super) fn of(page: &Page) -> Self {
        let last = page.records.last();
        Self {
            shard: page.shard.clone(),
            position: last.map(|(sequence, _): &(Sequence, _)| Position::After(sequence.clone())),
            last_millis: last.map(|(_, record)| record.created_millis),
            records: page.records.len(),
            closed: page.closed,
            asked: page.asked,
            served_millis: page.served_millis,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard() -> ShardId {
        ShardId("s".into())
    }

    fn judge(progress: &mut Progress, records: u64, oldest: u64) {
        for _ in 0..records {
            progress.next_ordinal();
        }
        let last = progress.next();
        let page = PageEnd {
            shard: shard(),
            position: Some(Position::After(Sequence::new(&last.to_string()))),
            last_millis: Some(last * 1000),
            records: usize::try_from(records).expect("few"),
            closed: false,
            asked: Instant::now(),
            served_millis: None,
        };
        progress.judged(&page, Needs { oldest, floors: Arc::default() });
    }

    fn three_pages() -> Progress {
        let mut progress = Progress::new(BTreeMap::new(), Duration::from_secs(1));
        progress.listed(Lineage::from([(shard(), None)]));
        progress.opened(shard());
        judge(&mut progress, 10, 0);
        judge(&mut progress, 10, 3);
        judge(&mut progress, 10, 12);
        progress
    }

    fn at(progress: &Progress, unfinished: u64, oldest: u64) -> (String, String) {
        let checkpoint =
            progress.checkpoints(unfinished, &Needs { oldest, floors: Arc::default() }).remove(&shard());
        let Checkpoint { done, rewind, .. } = checkpoint.expect("the shard");
        (done.to_string(), rewind.to_string())
    }

    fn pair(done: &str, rewind: &str) -> (String, String) {
        (done.to_owned(), rewind.to_owned())
    }

    #[test]
    fn a_page_is_done_when_all_before_the_first_unfinished_record_is() {
        let progress = three_pages();
        assert_eq!(at(&progress, 5, 30), pair("TRIM_HORIZON", "TRIM_HORIZON"));
        assert_eq!(at(&progress, 10, 30), pair("10", "TRIM_HORIZON"));
        assert_eq!(at(&progress, 29, 30), pair("20", "10"));
        assert_eq!(at(&progress, 30, 30), pair("30", "30"));
        assert_eq!(at(&progress, 30, 25), pair("30", "20"));
    }

    #[test]
    fn pruning_changes_no_checkpoint() {
        for unfinished in [0, 10, 20, 30] {
            let mut progress = three_pages();
            let before = at(&progress, unfinished, 30);
            progress.prune(unfinished, &Needs { oldest: 30, floors: Arc::default() });
            assert_eq!(at(&progress, unfinished, 30), before);
        }
    }
}
