//! What of a slot's events is delivered next, and what follows from an answer: no clock, no I/O.
//!
//! A slot delivers one batch after the other. Events of one key are always in one slot, and in order. An event that is
//! rejected is tried again, and what waits behind it meanwhile is the feed's choice: its key, or the whole slot. A batch
//! that is rejected without a word about which event is to blame is split in two, again and again, until one is left.
//!
//! Where a feed has tumbling windows, a call has events of one window only, and the state that the call before returned.
//! A last call without events ends the window. Its events are finished only then: after a crash, all of the window is
//! delivered again, with a new state.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::protocol::KeyId;

/// The first wait after a rejection; each further one is twice as long, up to the longest.
const FIRST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_mins(1);
/// How many rejections in a row count as the search for one bad event; more slow the whole slot down. Splitting the
/// largest batch down to one event takes fourteen.
const SEARCH: u32 = 16;

/// How long nothing must have come before a window ends whose time is over.
const QUIET: Duration = Duration::from_secs(5);
/// How long nothing must have come before what a sink had is finished without what it had beside that: a feed that is
/// filtered otherwise than before may lack the last event.
const MISSED: Duration = Duration::from_mins(10);
/// The longest state of a window, in bytes of JSON; a longer one ends the window early.
const LONGEST_STATE: usize = 1 << 20;

/// What a batch may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub events: usize,
    pub bytes: usize,
    /// How long a batch that is not full waits for more events.
    pub window: Duration,
    /// How long a tumbling window is, if there are any.
    pub tumbling: Option<Duration>,
    /// If given, the events of a batch are all created within one span of that length since the Unix epoch.
    pub span: Option<Duration>,
}

/// What becomes of events that a sink rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many times a rejected event is tried again before it is parked; without end if `None`.
    pub attempts: Option<u32>,
    /// A rejected event that is older is parked at once.
    pub max_age: Option<Duration>,
    /// Whether a batch that is rejected as a whole is split in two.
    pub bisect: bool,
    pub blocked: Blocked,
}

/// What waits behind an event that is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Later events of its key.
    Key,
    /// Everything that comes after it in its slot.
    Shard,
}

impl Default for Retry {
    fn default() -> Self {
        let max_age = Some(Duration::from_hours(6));
        Self { attempts: Some(10), max_age, bisect: true, blocked: Blocked::Key }
    }
}

/// What a slot needs to know of an event.
pub trait Parcel {
    fn key(&self) -> KeyId;
    fn bytes(&self) -> usize;
    fn created_millis(&self) -> u64;
    /// Whether it is left to another agent.
    fn is_left(&self) -> bool;
    /// Frees what it holds: it has been delivered, and only waits to be finished.
    fn free(&mut self);
}

/// An event in a slot.
#[derive(Debug)]
pub struct Entry<P> {
    pub parcel: P,
    since: Instant,
    /// How many times it has been rejected.
    pub rejections: u32,
}

/// What a sink is called with.
#[derive(Debug)]
pub struct Call<P> {
    /// To be delivered in this order.
    pub events: Vec<Entry<P>>,
    pub window: Option<WindowCall>,
}

/// A call within a tumbling window.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowCall {
    /// Its first millisecond since the Unix epoch, and the first one after it.
    pub start_millis: u64,
    pub end_millis: u64,
    /// What the call before returned.
    pub state: Value,
    pub is_final: bool,
    /// Whether the window ends because its state has grown too long.
    pub is_early: bool,
}

/// What a slot wants.
#[derive(Debug)]
pub enum Next<P> {
    Call(Call<P>),
    /// Ask again then, or when an event is added.
    Later(Option<Instant>),
}

/// How a sink has answered to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has all of it.
    Taken,
    /// It had so many of the first ones before, and has none of the others.
    Had { count: usize },
    /// It had all of it before, with events that come after it. What it had at once is finished at once.
    HadWithMore,
    /// It has the events before `from`. It rejects that one, or any of the later ones unless `is_named`.
    Rejected { from: usize, is_named: bool },
    /// It can't be reached, or wants fewer calls: the events are not to blame.
    Unavailable { rest: Duration },
}

/// What has become of the events of a batch.
#[derive(Debug)]
pub struct Settled<P> {
    pub taken: Vec<P>,
    /// Those that are not tried again.
    pub given_up: Vec<Entry<P>>,
}

/// The events of some keys of one shard, in order.
#[derive(Debug)]
pub struct Slot<P> {
    waiting: VecDeque<Entry<P>>,
    /// The sizes of the next batches, where they have been tried before.
    planned: VecDeque<usize>,
    held: BTreeMap<KeyId, Held<P>>,
    resting_until: Option<Instant>,
    /// Rejections in a row.
    strain: u32,
    open: Option<OpenWindow<P>>,
    /// What the sink had before, with events that are still to come.
    had: Vec<P>,
    /// When the last event was added.
    last_added: Option<Instant>,
}

/// A tumbling window that has begun.
#[derive(Debug)]
struct OpenWindow<P> {
    /// How many windows there were before it since the Unix epoch.
    number: u64,
    state: Value,
    is_too_long: bool,
    /// Its events that have been delivered.
    delivered: Vec<P>,
}

/// A key behind a rejected event.
#[derive(Debug)]
struct Held<P> {
    /// The rejected event and what came after it. Without the first while that is being delivered.
    events: VecDeque<Entry<P>>,
    due: Instant,
}

impl<P> Default for Slot<P> {
    fn default() -> Self {
        let (waiting, planned, held) = (VecDeque::new(), VecDeque::new(), BTreeMap::new());
        let (had, resting_until, open, last_added) = (Vec::new(), None, None, None);
        Self { waiting, planned, held, resting_until, strain: 0, open, had, last_added }
    }
}

impl<P: Parcel> Slot<P> {
    pub fn add(&mut self, parcel: P, now: Instant) {
        self.last_added = Some(now);
        self.waiting.push_back(Entry { parcel, since: now, rejections: 0 });
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.held.is_empty() && self.open.is_none() && self.had.is_empty()
    }

    /// How many keys wait behind a rejected event.
    pub fn blocked(&self) -> usize {
        self.held.len()
    }

    /// What to deliver next, while nothing of the slot is under way.
    pub fn next(&mut self, limits: &Limits, now: Instant, now_millis: u64) -> Next<P> {
        if let Some(until) = self.resting_until.filter(|until| *until > now) {
            return Next::Later(Some(until));
        }
        if let Some(entry) = self.next_held(now) {
            return Next::Call(Call { events: vec![entry], window: None });
        }
        self.set_held_apart();
        // Its next owner delivers all of the window.
        _ = self.open.take_if(|open| open.delivered.iter().any(Parcel::is_left));
        self.had.retain(|parcel| !parcel.is_left());
        let ends = limits.tumbling.and_then(|width| self.window_ends(width, now, now_millis));
        if let (Some(width), Some(ends)) = (limits.tumbling, ends)
            && ends <= now
            && let Some(open) = &self.open
        {
            let window = Some(open.call(width, true));
            return Next::Call(Call { events: Vec::new(), window });
        }
        let (fits, full_at) = self.fill(limits);
        let (ready, full_at) = match self.planned.front() {
            Some(size) => (fits.min(*size), None),
            None => (fits, full_at),
        };
        let due = full_at.filter(|at| *at > now);
        if ready == 0 && !self.had.is_empty() {
            // What was to come after it is no longer an event.
            let over = self.last_added.map_or(now, |last| last + MISSED);
            if over <= now {
                return Next::Call(Call { events: Vec::new(), window: None });
            }
            return Next::Later(Some(over));
        }
        if ready == 0 || due.is_some() {
            let held = self.held.values().map(|held| held.due).min();
            return Next::Later(due.into_iter().chain(held).chain(ends).min());
        }
        let ready = limits.tumbling.map_or(ready, |width| self.of_one_window(ready, width));
        if let Some(more) = self.planned.pop_front().map(|size| size - ready).filter(|more| *more > 0) {
            self.planned.push_front(more);
        }
        let events: Vec<_> = self.waiting.drain(..ready).collect();
        let window = limits.tumbling.map(|width| {
            let first = events.first().map_or(0, |entry| number(&entry.parcel, width));
            self.open.get_or_insert_with(|| OpenWindow::new(first)).call(width, false)
        });
        Next::Call(Call { events, window })
    }

    /// When the window that is open ends, if it is known: at once where an event of a later one waits.
    fn window_ends(&self, width: Duration, now: Instant, now_millis: u64) -> Option<Instant> {
        let open = self.open.as_ref()?;
        if open.is_too_long {
            return Some(now);
        }
        match self.waiting.front() {
            Some(entry) => (number(&entry.parcel, width) > open.number).then_some(now),
            None => {
                let left = open.end_millis(width).saturating_sub(now_millis);
                let quiet = self.last_added.map_or(now, |last| last + QUIET);
                Some(quiet.max(now + Duration::from_millis(left)))
            }
        }
    }

    /// How many of so many events are in the window of the first. A late one counts with the window that is open.
    fn of_one_window(&self, ready: usize, width: Duration) -> usize {
        let open = self.open.as_ref().map_or(0, |open| open.number);
        let of = |entry: &Entry<P>| number(&entry.parcel, width).max(open);
        let first = self.waiting.front().map(of);
        self.waiting.iter().take(ready).take_while(|entry| Some(of(entry)) == first).count()
    }

    /// The first event of a key whose turn has come again.
    fn next_held(&mut self, now: Instant) -> Option<Entry<P>> {
        self.held.retain(|_, held| {
            held.events.retain(|entry| !entry.parcel.is_left());
            !held.events.is_empty()
        });
        let due = self.held.values_mut().filter(|held| held.due <= now).min_by_key(|held| held.due)?;
        due.events.pop_front()
    }

    /// Moves what waits behind rejected events out of the way, and drops what is left to other agents.
    fn set_held_apart(&mut self) {
        let is_apart =
            |entry: &Entry<P>| entry.parcel.is_left() || self.held.contains_key(&entry.parcel.key());
        if !self.waiting.iter().any(is_apart) {
            return;
        }
        let (mut planned, mut at) = (VecDeque::new(), 0);
        let mut sizes = std::mem::take(&mut self.planned).into_iter();
        let mut left = sizes.next();
        let mut size = 0;
        for entry in std::mem::take(&mut self.waiting) {
            at += 1;
            if !entry.parcel.is_left() {
                match self.held.get_mut(&entry.parcel.key()) {
                    Some(held) => held.events.push_back(entry),
                    None => {
                        self.waiting.push_back(entry);
                        size += 1;
                    }
                }
            }
            if left == Some(at) {
                planned.extend(Some(size).filter(|size| *size > 0));
                (at, size, left) = (0, 0, sizes.next());
            }
        }
        self.planned = planned;
    }

    /// How many of the waiting events fit into a batch; and when it is delivered, unless it is full.
    fn fill(&self, limits: &Limits) -> (usize, Option<Instant>) {
        let (mut count, mut bytes) = (0, 0);
        let span = |entry: &Entry<P>| limits.span.map(|span| number(&entry.parcel, span));
        let first = self.waiting.front().and_then(span);
        for entry in &self.waiting {
            let more = bytes + entry.parcel.bytes();
            // One event alone is delivered whatever its size.
            if count == limits.events || (count > 0 && more > limits.bytes) || span(entry) != first {
                return (count, None);
            }
            (count, bytes) = (count + 1, more);
        }
        let first = self.waiting.front().map(|entry| entry.since + limits.window);
        (count, first.filter(|_| count < limits.events))
    }

    /// Takes what a sink has answered to a call that this slot has asked for, and the state that came with it.
    pub fn answered(
        &mut self,
        call: Call<P>,
        answer: Answer,
        state: Option<Value>,
        retry: &Retry,
        now: Instant,
        now_millis: u64,
    ) -> Settled<P> {
        let Call { events, window } = call;
        let Some(window) = window else { return self.judged(events, answer, retry, now, now_millis) };
        if window.is_final {
            return self.ended(&window, answer, now);
        }
        let mut settled = self.judged(events, answer, retry, now, now_millis);
        if let Some(open) = &mut self.open {
            if let Some(state) = state {
                open.is_too_long = state.to_string().len() > LONGEST_STATE;
                open.state = state;
            }
            settled.taken.iter_mut().for_each(Parcel::free);
            open.delivered.append(&mut settled.taken);
        }
        settled
    }

    /// Takes the answer to the last call of a window: it is made until it succeeds.
    fn ended(&mut self, window: &WindowCall, answer: Answer, now: Instant) -> Settled<P> {
        let mut settled = Settled { taken: Vec::new(), given_up: Vec::new() };
        match answer {
            Answer::Taken => {
                self.strain = 0;
                if let Some(open) = self.open.take() {
                    settled.taken = open.delivered;
                    self.open = window.is_early.then(|| OpenWindow::new(open.number));
                }
            }
            Answer::Rejected { .. } | Answer::Had { .. } | Answer::HadWithMore => {
                self.strain += 1;
                self.resting_until = Some(now + rest_after(self.strain));
            }
            Answer::Unavailable { rest } => self.resting_until = Some(now + rest),
        }
        settled
    }

    fn taken(&mut self, batch: Vec<Entry<P>>) -> Settled<P> {
        let mut taken = std::mem::take(&mut self.had);
        taken.extend(batch.into_iter().map(|entry| entry.parcel));
        Settled { taken, given_up: Vec::new() }
    }

    fn judged(
        &mut self,
        mut batch: Vec<Entry<P>>,
        answer: Answer,
        retry: &Retry,
        now: Instant,
        now_millis: u64,
    ) -> Settled<P> {
        match answer {
            Answer::Taken => {
                self.strain = 0;
                for entry in &batch {
                    self.release(&entry.parcel.key());
                }
                self.taken(batch)
            }
            Answer::Had { count } => {
                self.strain = 0;
                let rest = batch.split_off(count.min(batch.len()));
                // They are no batch: more events may go with them.
                rest.into_iter().rev().for_each(|entry| self.waiting.push_front(entry));
                self.taken(batch)
            }
            Answer::HadWithMore => {
                self.strain = 0;
                self.had.extend(batch.into_iter().map(|entry| entry.parcel));
                self.had.iter_mut().for_each(Parcel::free);
                Settled { taken: Vec::new(), given_up: Vec::new() }
            }
            Answer::Unavailable { rest } => {
                self.resting_until = Some(now + rest);
                self.put_back(batch);
                Settled { taken: Vec::new(), given_up: Vec::new() }
            }
            Answer::Rejected { from, is_named } => {
                self.rejected(batch, from, is_named, retry, now, now_millis)
            }
        }
    }

    fn rejected(
        &mut self,
        mut batch: Vec<Entry<P>>,
        from: usize,
        is_named: bool,
        retry: &Retry,
        now: Instant,
        now_millis: u64,
    ) -> Settled<P> {
        let mut rest = batch.split_off(from.min(batch.len()));
        self.strain = if batch.is_empty() { self.strain + 1 } else { 0 };
        self.resting_until = self.strain.checked_sub(SEARCH).map(|strain| now + rest_after(strain));
        let taken: Vec<P> = batch.into_iter().map(|entry| entry.parcel).collect();
        let mut settled = Settled { taken, given_up: Vec::new() };
        if rest.is_empty() {
            return settled;
        }
        let is_one = is_named || rest.len() == 1;
        if !is_one && retry.bisect {
            let second = rest.split_off(rest.len() / 2);
            self.plan(second);
            self.plan(rest);
            return settled;
        }
        let blamed = if is_one { 1 } else { rest.len() };
        rest[..blamed].iter_mut().for_each(|entry| entry.rejections += 1);
        let first = &rest[0];
        let is_old = retry.max_age.is_some_and(|most| {
            Duration::from_millis(now_millis.saturating_sub(first.parcel.created_millis())) > most
        });
        let after = rest_after(first.rejections - 1);
        if is_old || retry.attempts.is_some_and(|most| first.rejections > most) {
            let later = rest.split_off(blamed);
            for entry in &rest {
                self.release(&entry.parcel.key());
            }
            settled.given_up = rest;
            self.plan(later);
        } else if is_one && retry.blocked == Blocked::Key {
            let later = rest.split_off(1);
            let key = rest[0].parcel.key();
            let held = self.held.entry(key).or_insert_with(|| Held { events: VecDeque::new(), due: now });
            held.due = now + after;
            held.events.extend(rest);
            held.events.rotate_right(1);
            self.plan(later);
        } else {
            self.resting_until = self.resting_until.max(Some(now + after));
            self.plan(rest);
        }
        settled
    }

    /// Puts a batch back as it was.
    fn put_back(&mut self, batch: Vec<Entry<P>>) {
        let held = batch.first().map(|entry| entry.parcel.key()).and_then(|key| self.held.get_mut(&key));
        match held {
            Some(held) => batch.into_iter().rev().for_each(|entry| held.events.push_front(entry)),
            None => self.plan(batch),
        }
    }

    /// Makes events, which come before all that wait, the next batch.
    fn plan(&mut self, entries: Vec<Entry<P>>) {
        if !entries.is_empty() {
            self.planned.push_front(entries.len());
            entries.into_iter().rev().for_each(|entry| self.waiting.push_front(entry));
        }
    }

    /// Lets what waited behind an event of a key go on.
    fn release(&mut self, key: &KeyId) {
        if let Some(held) = self.held.remove(key) {
            self.plan(held.events.into());
        }
    }
}

impl<P> OpenWindow<P> {
    fn new(number: u64) -> Self {
        Self {
            number,
            state: Value::Object(serde_json::Map::new()),
            is_too_long: false,
            delivered: Vec::new(),
        }
    }

    fn end_millis(&self, width: Duration) -> u64 {
        (self.number + 1).saturating_mul(millis(width))
    }

    fn call(&self, width: Duration, is_final: bool) -> WindowCall {
        let end_millis = self.end_millis(width);
        let (state, is_early) = (self.state.clone(), is_final && self.is_too_long);
        WindowCall { start_millis: end_millis - millis(width), end_millis, state, is_final, is_early }
    }
}

/// How many windows there were before that of an event since the Unix epoch.
fn number(parcel: &impl Parcel, width: Duration) -> u64 {
    parcel.created_millis() / millis(width)
}

fn millis(width: Duration) -> u64 {
    u64::try_from(width.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// How long to wait after so many rejections before the last one.
fn rest_after(before: u32) -> Duration {
    FIRST_REST.saturating_mul(1 << before.min(16)).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Item;
    use aws_sdk_dynamodb::types::AttributeValue;

    /// An event of a key, with its number.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Event(char, usize);

    impl std::fmt::Display for Event {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{}{}", self.0, self.1)
        }
    }

    impl Parcel for Event {
        fn key(&self) -> KeyId {
            KeyId::of(&Item::from([("pk".to_owned(), AttributeValue::S(self.0.to_string()))]))
        }

        fn bytes(&self) -> usize {
            10
        }

        fn created_millis(&self) -> u64 {
            self.1 as u64 * 1_000
        }

        fn is_left(&self) -> bool {
            self.0 == 'z'
        }

        fn free(&mut self) {}
    }

    const LIMITS: Limits =
        Limits { events: 4, bytes: 1_000, window: Duration::ZERO, tumbling: None, span: None };

    fn slot(keys: &str, now: Instant) -> Slot<Event> {
        let mut slot = Slot::default();
        keys.chars().enumerate().for_each(|(i, key)| slot.add(Event(key, i), now));
        slot
    }

    fn shown(batch: &[Entry<Event>]) -> String {
        batch.iter().map(|entry| entry.parcel.to_string()).collect()
    }

    fn called(next: Next<Event>) -> Call<Event> {
        let call = match next {
            Next::Call(call) => Some(call),
            Next::Later(_) => None,
        };
        call.expect("something to deliver")
    }

    /// Delivers to a sink that rejects some events, naming the first of them or not, until nothing is left to do.
    /// Returns the batches, and what was given up.
    fn run(keys: &str, bad: &[usize], is_named: bool, retry: Retry) -> (Vec<String>, String) {
        let mut now = Instant::now();
        let mut slot = slot(keys, now);
        let (mut batches, mut given_up, mut taken) = (Vec::new(), String::new(), Vec::<Event>::new());
        loop {
            let call = match slot.next(&LIMITS, now, 0) {
                Next::Call(call) => call,
                Next::Later(Some(at)) => {
                    now = at;
                    continue;
                }
                Next::Later(None) => break,
            };
            batches.push(shown(&call.events));
            let first = call.events.iter().position(|entry| bad.contains(&entry.parcel.1));
            let answer = match first {
                None => Answer::Taken,
                Some(from) if is_named => Answer::Rejected { from, is_named },
                Some(_) => Answer::Rejected { from: 0, is_named },
            };
            let settled = slot.answered(call, answer, None, &retry, now, 0);
            taken.extend(settled.taken);
            given_up += &shown(&settled.given_up);
        }
        assert!(slot.is_empty());
        let mut last = BTreeMap::new();
        for Event(key, number) in &taken {
            assert!(last.insert(*key, *number).is_none_or(|before| before < *number), "{taken:?}");
        }
        let all = keys.chars().filter(|key| *key != 'z').count();
        let parked = given_up.chars().filter(char::is_ascii_alphabetic).count();
        assert_eq!(taken.len() + parked, all, "an event was lost: {taken:?}, {given_up}");
        (batches, given_up)
    }

    #[test]
    fn a_rejected_event_blocks_its_key_or_its_slot_and_is_given_up_in_the_end() {
        let key = Retry { attempts: Some(1), max_age: None, bisect: true, blocked: Blocked::Key };
        let shard = Retry { blocked: Blocked::Shard, ..key };
        let whole = Retry { bisect: false, ..shard };
        for (what, keys, bad, is_named, retry, batches, given_up) in [
            ("nothing bad", "abcab", [9], true, key, vec!["a0b1c2a3", "b4"], ""),
            (
                "a named event: the others go on, its key waits",
                "abcab",
                [1],
                true,
                key,
                vec!["a0b1c2a3", "c2a3", "b1", "b4"],
                "b1",
            ),
            (
                "a named event holds up all",
                "abcab",
                [1],
                true,
                shard,
                vec!["a0b1c2a3", "b1c2a3", "c2a3", "b4"],
                "b1",
            ),
            (
                "nobody is named: the batch is split until one is left",
                "abcab",
                [1],
                false,
                key,
                vec!["a0b1c2a3", "a0b1", "a0", "b1", "c2a3", "b1", "b4"],
                "b1",
            ),
            (
                "the same, and all else waits",
                "abcab",
                [1],
                false,
                shard,
                vec!["a0b1c2a3", "a0b1", "a0", "b1", "b1", "c2a3", "b4"],
                "b1",
            ),
            (
                "nobody is named, and nothing is split",
                "abcab",
                [1],
                false,
                whole,
                vec!["a0b1c2a3", "a0b1c2a3", "b4"],
                "a0b1c2a3",
            ),
            ("what another agent delivers", "azb", [9], true, key, vec!["a0b2"], ""),
        ] {
            let (told, parked) = run(keys, &bad, is_named, retry);
            assert_eq!(
                (told, parked.as_str()),
                (batches.iter().map(ToString::to_string).collect(), given_up),
                "{what}"
            );
        }
    }

    #[test]
    fn a_key_is_blocked_from_a_rejection_until_its_event_is_taken_or_given_up() {
        let now = Instant::now();
        for (attempts, answer) in
            [(Some(9), Answer::Taken), (Some(1), Answer::Rejected { from: 0, is_named: true })]
        {
            let retry = Retry { attempts, max_age: None, bisect: true, blocked: Blocked::Key };
            let mut slot = slot("aba", now);
            let call = called(slot.next(&LIMITS, now, 0));
            slot.answered(call, Answer::Rejected { from: 0, is_named: true }, None, &retry, now, 0);
            assert_eq!(slot.blocked(), 1);
            let later = now + LONGEST_REST;
            let call = called(slot.next(&LIMITS, later, 0));
            assert_eq!((shown(&call.events).as_str(), slot.blocked()), ("a0", 1));
            slot.answered(call, answer, None, &retry, later, 0);
            assert_eq!(slot.blocked(), 0);
        }
    }

    #[test]
    fn no_event_is_lost_or_overtakes_its_key_whatever_is_rejected() {
        let seed = fastrand::Rng::new().u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..3_000 {
            let keys: String =
                (0..random.usize(1..30)).filter_map(|_| random.choice(["a", "b", "c", "d", "z"])).collect();
            let bad: Vec<usize> = (0..random.usize(0..6)).map(|_| random.usize(0..30)).collect();
            let retry = Retry {
                attempts: Some(random.u32(0..3)),
                max_age: None,
                bisect: random.bool(),
                blocked: if random.bool() { Blocked::Key } else { Blocked::Shard },
            };
            let is_named = random.bool();
            let shown = format!("seed {seed}, round {round}: {keys} {bad:?} {is_named} {retry:?}");
            let (_, given_up) = std::panic::catch_unwind(|| run(&keys, &bad, is_named, retry)).expect(&shown);
            if is_named || retry.bisect {
                let bad = keys.chars().enumerate().filter(|(i, key)| *key != 'z' && bad.contains(i)).count();
                let count = given_up.chars().filter(char::is_ascii_alphabetic).count();
                assert_eq!(count, bad, "{shown}: {given_up}");
            }
        }
    }

    #[test]
    fn a_batch_waits_for_its_window_and_is_cut_by_its_limits() {
        let now = Instant::now();
        let window = Duration::from_secs(5);
        let limits = Limits { window, ..LIMITS };
        let mut some = slot("ab", now);
        assert!(matches!(some.next(&limits, now, 0), Next::Later(Some(at)) if at == now + window));
        assert!(
            matches!(some.next(&limits, now + window, 0), Next::Call(call) if shown(&call.events) == "a0b1")
        );
        let mut full = slot("abcde", now);
        assert!(matches!(full.next(&limits, now, 0), Next::Call(call) if shown(&call.events) == "a0b1c2d3"));
        let mut large = slot("abc", now);
        let narrow = Limits { bytes: 25, ..limits };
        assert!(matches!(large.next(&narrow, now, 0), Next::Call(call) if shown(&call.events) == "a0b1"));
        let mut larger = slot("abc", now);
        let narrow = Limits { bytes: 5, ..limits };
        assert!(matches!(larger.next(&narrow, now, 0), Next::Call(call) if shown(&call.events) == "a0"));
    }

    #[test]
    fn an_outage_uses_no_attempts_and_a_rejected_event_may_be_too_old() {
        let now = Instant::now();
        let retry = Retry { attempts: Some(0), max_age: None, bisect: true, blocked: Blocked::Key };
        let rest = Duration::from_secs(1);
        let mut one = slot("ab", now);
        for _ in 0..5 {
            let call = called(one.next(&LIMITS, now + 100 * rest, 0));
            let settled = one.answered(call, Answer::Unavailable { rest }, None, &retry, now, u64::MAX);
            assert!(settled.given_up.is_empty() && settled.taken.is_empty());
            assert!(matches!(one.next(&LIMITS, now, 0), Next::Later(Some(at)) if at == now + rest));
        }
        let forever = Retry { attempts: None, max_age: Some(Duration::from_mins(1)), ..retry };
        for (now_millis, expected) in [(60_000, ""), (60_001, "a0")] {
            let mut one = slot("a", now);
            let call = called(one.next(&LIMITS, now, 0));
            let answer = Answer::Rejected { from: 0, is_named: true };
            let settled = one.answered(call, answer, None, &forever, now, now_millis);
            assert_eq!(shown(&settled.given_up), expected);
        }
    }

    #[test]
    fn a_window_has_its_own_events_and_state_and_ends_once() {
        let width = Duration::from_secs(2);
        let limits = Limits { tumbling: Some(width), ..LIMITS };
        let retry = Retry { blocked: Blocked::Shard, ..Retry::default() };
        let mut now = Instant::now();
        // Two windows: events 0 and 1, and 2.
        let mut slot = slot("aba", now);
        let mut told = Vec::new();
        let mut answers = [
            (Answer::Taken, Some(Value::from(1))),
            (Answer::Rejected { from: 0, is_named: false }, None),
            (Answer::Taken, None),
            (Answer::Taken, Some(Value::from("x".repeat(LONGEST_STATE)))),
            (Answer::Taken, None),
            (Answer::Taken, None),
        ]
        .into_iter();
        let mut finished = String::new();
        loop {
            match slot.next(&limits, now, 5_000) {
                Next::Call(call) => {
                    let window = call.window.clone().expect("a window");
                    let WindowCall { start_millis, end_millis, state, is_final, is_early } = window;
                    let state = state.to_string().len();
                    told.push(format!(
                        "{} {start_millis}-{end_millis} {state} {is_final} {is_early}",
                        shown(&call.events)
                    ));
                    let (answer, state) = answers.next().expect("no more calls");
                    let settled = slot.answered(call, answer, state, &retry, now, 5_000);
                    finished.extend(settled.taken.iter().map(ToString::to_string));
                    told.push(finished.clone());
                }
                Next::Later(Some(at)) => now = at,
                Next::Later(None) => break,
            }
        }
        let expected = [
            "a0b1 0-2000 2 false false",
            "",
            // The last call is made until it succeeds.
            " 0-2000 1 true false",
            "",
            " 0-2000 1 true false",
            "a0b1",
            "a2 2000-4000 2 false false",
            "a0b1",
            // Its state is too long.
            " 2000-4000 1048578 true true",
            "a0b1a2",
            " 2000-4000 2 true false",
            "a0b1a2",
        ];
        assert_eq!(told, expected);
        assert!(slot.is_empty());
    }
}
