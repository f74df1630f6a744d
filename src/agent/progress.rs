//! A track's progress: the pages it has judged, and what may be checkpointed of them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::control::{Checkpoint, Term};
use crate::protocol::{Floors, is_credible};
use crate::source::{Extent, Page, Position, ShardId};

/// The coarsest creation times: DynamoDB Local's, which are whole minutes.
const COARSEST: Duration = Duration::from_mins(1);

/// The pages of a track, in the order in which they were judged.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The shard being read; the others are its ancestors, which come first.
    shard: ShardId,
    /// The pages from which on the stream may have to be read again.
    pages: VecDeque<JudgedPage>,
    /// The position of each shard before them.
    base: BTreeMap<ShardId, Reached>,
    tip: TipState,
    barriers: Barriers,
    next: u64,
    settle: Duration,
}

#[derive(Clone, Debug)]
struct JudgedPage {
    shard: ShardId,
    /// The ordinal after its last record.
    next: u64,
    reached: Reached,
    /// What the memory needed, and the floors, before the page was judged.
    before: Needs,
    /// The floors that distinguished one of its records from a replicated write.
    told_by: Option<Arc<Floors>>,
}

/// What is needed to rebuild a state of the key memory.
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
    /// The creation time of the last record with a credible time.
    millis: u64,
}

/// What is known about the end of the shard.
#[derive(Clone, Debug, Default)]
struct TipState {
    /// Everything written before this moment has been read, including what was done about it.
    read_to: Option<Instant>,
    /// Everything written before this moment has been read, if records appear within `STREAM_DELAY`.
    shown_to: Option<Instant>,
    /// No later record has a creation time before this, in milliseconds.
    millis: u64,
    /// How many records the last page held.
    last_page: Option<usize>,
    /// How many pages in a row have been empty, and since when.
    empty_pages: u32,
    empty_since: Option<Instant>,
    /// The last page that was not empty held very recent records.
    near: bool,
    /// The tip has been reached once, and followed since.
    followed: bool,
    /// The shard is closed, and has been read to its end.
    closed: bool,
}

/// A track that has followed the tip takes this many empty pages in a row for the tip; single ones come
/// before the tip as well, and more do on the way through a long empty stretch ("it might take multiple calls
/// to get to a portion of the shard that contains stream records", GetRecords).
const TIP_PAGES: u32 = 8;
/// A record at most this old was read as soon as it appeared.
const JUST_NOW: Duration = Duration::from_secs(3);
/// A record at most this old was read near the tip.
const NEAR: Duration = Duration::from_secs(10);

/// The longest time a record is assumed to take to appear in the stream, for barriers: AWS speaks of
/// "near-real time", and no service says more. If one takes longer, whoever waits is notified too early, and
/// nothing else goes wrong.
const STREAM_DELAY: Duration = Duration::from_secs(2);
/// The Date header of an answer counts whole seconds.
const HEADER_PRECISION: Duration = Duration::from_secs(1);

impl Progress {
    /// Starts where `base` says, with what a checkpoint said about creation times.
    pub(super) fn new(shard: ShardId, base: BTreeMap<ShardId, (Position, u64)>, settle: Duration) -> Self {
        let reached = |(position, millis)| Reached { position, millis };
        let mut base: BTreeMap<_, _> = base.into_iter().map(|(shard, at)| (shard, reached(at))).collect();
        let own = base.entry(shard.clone()).or_insert(Reached { position: Position::TrimHorizon, millis: 0 });
        let tip = TipState { closed: own.position == Position::End, ..TipState::default() };
        Self { shard, pages: VecDeque::new(), base, tip, barriers: Barriers::default(), next: 0, settle }
    }

    /// The ordinal of the next record.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn next_ordinal(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Records a page whose records have all been judged.
    pub(super) fn judged(&mut self, page: &PageEnd, before: Needs, told_by: Option<Arc<Floors>>) {
        if page.shard == self.shard {
            self.tip.note(page, self.settle);
            self.barriers.read(self.tip.shown_to, self.next);
        }
        let position = if page.closed { Some(Position::End) } else { page.position.clone() };
        let Some(position) = position else { return };
        let millis = page.credible_millis.unwrap_or_else(|| self.reached(&page.shard).millis);
        let reached = Reached { position, millis };
        let shard = page.shard.clone();
        self.pages.push_back(JudgedPage { shard, next: self.next, reached, before, told_by });
    }

    /// How far the shard has been judged.
    fn reached(&self, shard: &ShardId) -> Reached {
        let last = self.pages.iter().rev().find(|page| page.shard == *shard).map(|page| &page.reached);
        let unread = Reached { position: Position::TrimHorizon, millis: 0 };
        last.or_else(|| self.base.get(shard)).cloned().unwrap_or(unread)
    }

    /// No later record of a shard has a creation time before this, in milliseconds, as far as is known.
    pub(super) fn millis(&self, shard: &ShardId) -> u64 {
        self.reached(shard).millis
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

    /// Whether this track has judged everything before `positions`, in the shards that it reads.
    pub(super) fn has_passed(&self, positions: &BTreeMap<ShardId, Position>) -> bool {
        let mine = self.positions();
        positions.iter().all(|(shard, position)| mine.get(shard).is_none_or(|mine| mine >= position))
    }

    /// Records that a barrier was raised before now.
    pub(super) fn raised(&mut self, barrier: u64) {
        self.barriers.raised.push_back((Instant::now(), barrier));
    }

    /// Whether the shard is closed, and has been read to its end.
    pub(super) fn is_closed(&self) -> bool {
        self.tip.closed
    }

    /// Whether the last page was empty.
    pub(super) fn at_tip(&self) -> bool {
        self.tip.last_page == Some(0)
    }

    /// How old the unread part of the shard may be, at its `end` that was served `now`; `None` if the page
    /// says nothing about it.
    pub(super) fn behind(&self, end: &PageEnd, now: u64) -> Option<Duration> {
        let Some(last) = end.last_millis else {
            let at_tip = self.tip.followed
                || self.tip.empty_pages >= TIP_PAGES
                || (end.closed && end.shard == self.shard);
            return at_tip.then_some(Duration::ZERO);
        };
        let age = Duration::from_millis(now.saturating_sub(last));
        // If it does not fill a page, it is all there was, provided that its creation times are recent.
        let precision = if last.is_multiple_of(60_000) { COARSEST } else { Duration::ZERO };
        let is_all = end.extent == Extent::All || (end.extent < Extent::Part && age <= JUST_NOW + precision);
        Some(if is_all { Duration::ZERO } else { age })
    }

    /// Whether what is read now was written just now.
    pub(super) fn near_tip(&self) -> bool {
        self.tip.near || self.tip.empty_pages >= TIP_PAGES
    }

    /// This progress, limited to the records before `ordinal`.
    pub(super) fn before(&self, ordinal: u64) -> Self {
        let mut before = self.clone();
        before.pages.truncate(self.pages.partition_point(|page| page.next <= ordinal));
        before
    }

    /// Nothing that has not been read yet of a shard has a creation time before this, in milliseconds.
    pub(super) fn oldest_unread(&self, shard: &ShardId) -> u64 {
        if *shard == self.shard { self.stream_millis() } else { self.millis(shard) }
    }

    /// Everything written before this moment has been read; says nothing new at the end of a shard, since its
    /// children may hold records of that age.
    pub(super) fn read_to(&self) -> Option<Instant> {
        self.tip.read_to
    }

    /// No later record has a creation time before this, in milliseconds.
    fn stream_millis(&self) -> u64 {
        self.reached(&self.shard).millis.max(self.tip.millis)
    }

    /// The checkpoint of a destination for which all records before `unfinished` are done, when the memory
    /// needs `now`.
    pub(super) fn checkpoint(&self, unfinished: u64, now: &Needs) -> Checkpoint {
        let done = self.pages.partition_point(|page| page.next <= unfinished);
        let needs = self.pages.get(done).map_or(now, |page| &page.before);
        let kept = self.pages.partition_point(|page| page.next <= needs.oldest).min(done);
        let floors = self.pages.get(kept).map_or(&now.floors, |page| &page.before.floors);
        let mut rewind: BTreeMap<ShardId, Position> =
            self.base.iter().map(|(shard, reached)| (shard.clone(), reached.position.clone())).collect();
        for page in self.pages.iter().take(kept) {
            rewind.insert(page.shard.clone(), page.reached.position.clone());
        }
        let terms = self.terms(kept..done, &rewind, floors, &needs.floors);
        rewind.retain(|shard, position| *shard == self.shard || *position != Position::End);
        let own = self.pages.iter().take(done).rev().find(|page| page.shard == self.shard);
        let unread = Reached { position: Position::TrimHorizon, millis: 0 };
        let own = own.map(|page| &page.reached).or_else(|| self.base.get(&self.shard)).unwrap_or(&unread);
        // A shard with nothing left to do promises what its tip does.
        let busy = self.pages.iter().skip(done).any(|page| page.shard == self.shard);
        let millis = if busy { own.millis } else { own.millis.max(self.stream_millis()) };
        let barrier = self.barriers.passed(unfinished);
        let floors = Floors::clone(floors);
        Checkpoint { done: own.position.clone(), rewind, floors, terms, millis, barrier }
    }

    /// The floors by which these pages were judged, where a record was distinguished by them, and those in
    /// force `after` them; except those already in force before, where each shard was at `rewind`.
    ///
    /// Forgetting depends on the floors: a record that comes after a rewind must be judged by the floors of
    /// the first time, or an application's put-back passes for the replicated write that it copies.
    fn terms(
        &self,
        pages: Range<usize>,
        rewind: &BTreeMap<ShardId, Position>,
        floors: &Arc<Floors>,
        after: &Arc<Floors>,
    ) -> Vec<Term> {
        let mut reached: BTreeMap<&ShardId, &Position> = rewind.iter().collect();
        let at = |reached: &BTreeMap<&ShardId, &Position>, shard: &ShardId, floors: &Floors| Term {
            shard: shard.clone(),
            after: reached.get(shard).map_or(Position::TrimHorizon, |position| (*position).clone()),
            floors: floors.clone(),
        };
        let last = pages.end.checked_sub(1).and_then(|last| self.pages.get(last));
        let mut terms = Vec::new();
        let mut in_force = floors;
        for page in self.pages.range(pages) {
            if let Some(told_by) = page.told_by.as_ref().filter(|told_by| *told_by != in_force) {
                terms.push(at(&reached, &page.shard, told_by));
                in_force = told_by;
            }
            reached.insert(&page.shard, &page.reached.position);
        }
        if after != in_force {
            terms.push(at(&reached, last.map_or(&self.shard, |page| &page.shard), after));
        }
        terms
    }

    /// Drops the pages that no destination needs any more.
    pub(super) fn prune(&mut self, unfinished: u64, now: &Needs) {
        let done = self.pages.partition_point(|page| page.next <= unfinished);
        let oldest = self.pages.get(done).map_or(now, |page| &page.before).oldest;
        let kept = self.pages.partition_point(|page| page.next <= oldest).min(done);
        for page in self.pages.drain(..kept) {
            self.base.insert(page.shard, page.reached);
        }
        self.barriers.prune(unfinished);
    }
}

/// Barriers on their way through the stream.
#[derive(Clone, Debug, Default)]
struct Barriers {
    /// Those raised before these moments.
    raised: VecDeque<(Instant, u64)>,
    /// Those with everything before them read: the next ordinal at that time.
    read: VecDeque<(u64, u64)>,
    /// Those with no records kept any more.
    done: u64,
}

impl Barriers {
    /// Everything written before `shown_to` has been read.
    fn read(&mut self, shown_to: Option<Instant>, next: u64) {
        let Some(shown_to) = shown_to else { return };
        while let Some((_, barrier)) = self.raised.pop_front_if(|(seen, _)| *seen <= shown_to) {
            self.read.push_back((next, barrier));
        }
    }

    /// The last barrier before which everything is done, when all records before `unfinished` are.
    fn passed(&self, unfinished: u64) -> u64 {
        let passed = self.read.iter().take_while(|(next, _)| *next <= unfinished).last();
        passed.map_or(self.done, |(_, barrier)| *barrier)
    }

    fn prune(&mut self, unfinished: u64) {
        while let Some((_, barrier)) = self.read.pop_front_if(|(next, _)| *next <= unfinished) {
            self.done = barrier;
        }
    }
}

impl TipState {
    fn note(&mut self, page: &PageEnd, settle: Duration) {
        self.last_page = Some(page.records);
        self.empty_pages = if page.records == 0 { self.empty_pages.saturating_add(1) } else { 0 };
        self.closed |= page.closed;
        if page.records > 0 {
            let age =
                page.served_millis.zip(page.last_millis).map(|(served, last)| served.saturating_sub(last));
            self.near =
                page.extent == Extent::All || age.is_some_and(|age| Duration::from_millis(age) <= NEAR);
            self.followed |= age.is_some_and(|age| Duration::from_millis(age) <= NEAR + COARSEST);
            self.empty_since = None;
        } else {
            let since = *self.empty_since.get_or_insert(page.asked);
            self.followed |= page.open && page.asked.duration_since(since) >= settle;
        }
        // In a shard that has ended, a child's records may be older than an empty page.
        let at_tip =
            page.open && (page.extent == Extent::All || (self.followed && self.empty_pages >= TIP_PAGES));
        let credible = page.credible_millis.unwrap_or_default();
        let (shown_to, read_to, millis) = match (page.last_millis, page.served_millis) {
            // Anything written some time ago would have appeared by now.
            (_, served) if at_tip => {
                let margin = u64::try_from((settle + COARSEST).as_millis()).unwrap_or(u64::MAX);
                let shown_to = page.asked.checked_sub(STREAM_DELAY);
                // A service whose clock is ahead may correct it.
                let millis = served.unwrap_or_default().min(page.now).saturating_sub(margin);
                (shown_to, page.asked.checked_sub(settle), millis.max(credible))
            }
            (None, _) => return,
            // The clock that set these times has been put back since: they don't show how old the records
            // are.
            (Some(last), Some(served)) if !is_credible(last, served) => (None, None, credible),
            // More records of the last one's second may be unread, and requests may have been in flight when
            // a watermark was seen.
            (Some(last), Some(served)) => {
                let behind = Duration::from_millis(served.saturating_sub(last));
                let shown_to = page.asked.checked_sub(behind + HEADER_PRECISION);
                (shown_to, page.asked.checked_sub(behind + settle), credible)
            }
            (Some(_), None) => (None, None, credible),
        };
        self.shown_to = self.shown_to.max(shown_to);
        self.read_to = self.read_to.max(read_to);
        self.millis = self.millis.max(millis);
    }
}

/// What remains of a page once its records have been judged.
#[derive(Debug)]
pub(super) struct PageEnd {
    pub(super) shard: ShardId,
    pub(super) position: Option<Position>,
    pub(super) last_millis: Option<u64>,
    /// The creation time of the last record with a credible time.
    credible_millis: Option<u64>,
    /// This agent's clock.
    now: u64,
    pub(super) records: usize,
    extent: Extent,
    pub(super) closed: bool,
    open: bool,
    asked: Instant,
    pub(super) served_millis: Option<u64>,
}

impl PageEnd {
    /// The end of a page judged when this agent's clock says `now`, whose last record may count so much later
    /// than it was made.
    pub(super) fn of(page: &Page, now: u64, late_millis: u64) -> Self {
        let last = page.records.last();
        let made = |millis: u64| millis.saturating_sub(late_millis);
        let mut latest_first = page.records.iter().rev().map(|change| change.record.created_millis);
        Self {
            shard: page.shard.clone(),
            position: page.last.clone().map(Position::After),
            last_millis: last.map(|change| made(change.record.created_millis)),
            credible_millis: latest_first.find(|millis| is_credible(*millis, now)).map(made),
            now,
            records: page.records.len() + page.unreadable,
            extent: page.extent,
            closed: page.closed,
            open: page.open,
            asked: page.asked,
            served_millis: page.served_millis,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Hlc;
    use crate::source::Sequence;

    fn shard() -> ShardId {
        ShardId("s".into())
    }

    fn judge(progress: &mut Progress, records: u64, oldest: u64) {
        judge_by(progress, records, Needs { oldest, floors: Arc::default() }, None);
    }

    fn judge_by(progress: &mut Progress, records: u64, before: Needs, told_by: Option<Arc<Floors>>) {
        for _ in 0..records {
            progress.next_ordinal();
        }
        let last = progress.next();
        let page = PageEnd {
            shard: shard(),
            position: Some(Position::After(Sequence::new(&last.to_string()))),
            last_millis: Some(last * 1000),
            credible_millis: Some(last * 1000),
            now: last * 1000,
            records: usize::try_from(records).expect("few"),
            extent: Extent::Unsure,
            closed: false,
            open: true,
            asked: Instant::now(),
            served_millis: None,
        };
        progress.judged(&page, before, told_by);
    }

    #[test]
    fn a_page_with_all_there_was_passes_the_barriers_before_it() {
        for extent in [Extent::All, Extent::Unsure] {
            let mut progress = Progress::new(shard(), BTreeMap::new(), Duration::from_secs(1));
            progress.raised(7);
            progress.next_ordinal();
            let page = PageEnd {
                shard: shard(),
                position: Some(Position::After(Sequence::new("1"))),
                last_millis: Some(60_000),
                credible_millis: Some(60_000),
                now: 119_000,
                records: 1,
                extent,
                closed: false,
                open: true,
                asked: Instant::now() + STREAM_DELAY,
                served_millis: Some(119_000),
            };
            progress.judged(&page, Needs { oldest: 0, floors: Arc::default() }, None);
            let barrier = |unfinished| {
                progress.checkpoint(unfinished, &Needs { oldest: 0, floors: Arc::default() }).barrier
            };
            assert_eq!((barrier(0), barrier(1)), (0, if extent == Extent::All { 7 } else { 0 }));
        }
    }

    fn three_pages() -> Progress {
        let mut progress = Progress::new(shard(), BTreeMap::new(), Duration::from_secs(1));
        judge(&mut progress, 10, 0);
        judge(&mut progress, 10, 3);
        judge(&mut progress, 10, 12);
        progress
    }

    fn at(progress: &Progress, unfinished: u64, oldest: u64) -> (String, String) {
        let Checkpoint { done, rewind, .. } =
            progress.checkpoint(unfinished, &Needs { oldest, floors: Arc::default() });
        (done.to_string(), rewind[&shard()].to_string())
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
    fn the_floors_that_told_what_a_record_was_are_kept_with_the_rewind_position() {
        let floors = |millis: u64| {
            let mut floors = Floors::default();
            floors.raise(&"tokyo".parse().expect("a name"), Hlc::at_millis(millis));
            Arc::new(floors)
        };
        let base = BTreeMap::from([(shard(), (Position::TrimHorizon, 0))]);
        let mut progress = Progress::new(shard(), base, Duration::from_mins(1));
        for (in_force, told) in [(1, false), (2, true), (2, true), (3, false), (3, false)] {
            let told_by = told.then(|| floors(in_force));
            judge_by(&mut progress, 10, Needs { oldest: 0, floors: floors(in_force) }, told_by);
        }
        let terms = |unfinished: u64, oldest: u64| {
            let checkpoint = progress.checkpoint(unfinished, &Needs { oldest, floors: floors(4) });
            let at = |term: Term| (term.after.to_string(), Arc::new(term.floors));
            (Arc::new(checkpoint.floors), checkpoint.terms.into_iter().map(at).collect::<Vec<_>>())
        };
        let told = |after: &str, millis| (after.to_owned(), floors(millis));
        assert_eq!(terms(10, 0), (floors(1), vec![told("10", 2)]));
        assert_eq!(terms(40, 0), (floors(1), vec![told("10", 2), told("40", 3)]));
        assert_eq!(terms(50, 0), (floors(1), vec![told("10", 2), told("50", 4)]));
        assert_eq!(terms(50, 10), (floors(2), vec![told("50", 4)]));
        assert_eq!(terms(50, 50), (floors(4), vec![]));
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
