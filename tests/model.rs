//! The protocol, model-checked: an exhaustive search through everything that two or three small
//! regions, one key, a handful of application writes, crashes and retries can do to each other.
//!
//! The search calls the shipped protocol. What judges it is apart from it: [`Search::judge`] gives
//! each application write its version by the design's rule, from the ground truth of who wrote a
//! record, and whenever nothing is left to do every region must hold the highest one.
//!
//! Depth first, over hashed states. Images, memories, floors and actions are interned, and each
//! judgement of the protocol is computed once; so a step costs about a microsecond.

#![allow(clippy::print_stdout, clippy::panic, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::time::Instant;

use aws_sdk_dynamodb::types::AttributeValue;
use tradewind::protocol::{
    Action, Body, Fingerprint, Floors, Hlc, Item, KeyMemory, Nonce, Origin, Record, STAMP, STAMP_MAGIC,
    Stamp, Verdict, Version, Write,
};

const MAX: usize = 3;
const NAMES: [&str; MAX] = ["a", "b", "c"];
/// No data attribute: a bare item.
const BARE: u8 = 255;

/// Clock and origin: the model's own reading of a version.
type V = (u64, u8);

/// What the regions hold at first.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Init {
    Absent,
    /// Written in region a long ago: bare there, stamped elsewhere.
    Shared,
}

/// Rules that are broken on purpose: the search must notice each.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    None,
    NoFingerprint,
    StampNotAbove,
    NoHeal,
    NoMark,
    NoBump,
    NoChainMemory,
    MemoryLost,
    NoNewStampFloor,
    PlainMark,
    NoNonce,
    MarkPutBack,
    VolatileWatermark,
    ForgetBeforeRead,
    InPlaceBlind,
    LateRewind,
    LooseFloors,
}

#[derive(Clone, Debug)]
struct Setting {
    name: &'static str,
    regions: usize,
    ops: u8,
    crashes: u8,
    ticks: u8,
    /// Pushes and local writes that take effect with an unknown outcome, and are made again.
    dups: u8,
    /// Requests that outlive their agent's wait and land at any later time.
    zombies: u8,
    init: Init,
    /// Old copies may be put back: 0 none, 1 with a stamp, 2 all that the region has held,
    /// 3 what any region has held.
    put_backs: u8,
    updates: bool,
    settles: bool,
    /// Other keys hold the rewind position and the done positions back.
    pinned: bool,
    /// Records are read one by one instead of as soon as they are there.
    lazy: bool,
    stamp_in_place: bool,
    defect: Defect,
    max_states: usize,
}

impl Setting {
    const fn new(name: &'static str, regions: usize, ops: u8) -> Self {
        Self {
            name,
            regions,
            ops,
            crashes: 0,
            ticks: 1,
            dups: 0,
            zombies: 0,
            init: Init::Absent,
            put_backs: 1,
            updates: true,
            settles: true,
            pinned: false,
            lazy: false,
            stamp_in_place: false,
            defect: Defect::None,
            max_states: 3_000_000,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Truth {
    Put,
    Update,
    PutBack,
    Delete,
    AgentPut,
    AgentMark,
    AgentDelete,
}

#[derive(Clone, Hash)]
struct Rec {
    time: u8,
    old: u16,
    new: u16,
    truth: Truth,
    /// The first judgement, or 0.
    judged: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Durable {
    rewind: u8,
    /// The floors in force at `rewind`.
    floors: [u8; MAX],
    done: [u8; MAX],
    watermark: [u8; MAX],
}

#[derive(Clone, Hash)]
struct Agent {
    memory: u32,
    floors: [u8; MAX],
    read: u8,
    /// Record, destination, action; in order.
    queue: Vec<(u8, u8, u16)>,
    /// Records before are not acted on (again).
    act_from: [u8; MAX],
    /// Per record read: the floors in force, and where a rebuild of the memory before it starts.
    log: Vec<([u8; MAX], u8)>,
    durable: Durable,
    in_place: bool,
}

#[derive(Clone, Hash)]
struct Region {
    clock: u8,
    item: u16,
    stream: Vec<Rec>,
    agent: Agent,
    seen: BTreeSet<u16>,
    puts: u8,
    /// The oracle's highest version.
    highest: V,
    lost: Vec<V>,
}

#[derive(Clone)]
struct State {
    regions: Vec<Region>,
    /// Requests under way: destination, action.
    zombies: BTreeSet<(u8, u16)>,
    ops: u8,
    crashes: u8,
    ticks: u8,
    dups: u8,
    zombie_budget: u8,
    /// The highest version of all, and its data (0 for absent).
    best: (V, u8),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(u8),
    Update(u8),
    PutBack(u8, u16),
    Delete(u8),
    Tick(u8),
    Read(u8),
    Do(u8, u8),
    Duplicate(u8, u8),
    Delay(u8, u8),
    Land(u8, u16),
    Checkpoint(u8, bool, bool),
    Crash(u8),
    Settle(u8),
    InPlace(u8),
}

struct Image {
    data: u8,
    stamp: Option<String>,
    version: Option<V>,
    mark: bool,
    matches: bool,
    item: Item,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Where {
    Peers,
    Here,
}

#[derive(Clone)]
struct Judged {
    verdict: Verdict,
    version: Option<V>,
    actions: Vec<(Where, u16)>,
    conflict: Option<(V, V)>,
}

type JudgeKey = (u8, u32, u8, u8, u16, u16, [u8; MAX], bool, Truth);

#[derive(Default, Debug)]
struct Counts {
    states: usize,
    steps: usize,
    quiet: usize,
    max_agent_writes: HashMap<usize, usize>,
    limit_put_back: usize,
    limit_merge: usize,
    limit_between: usize,
    missed_conflict: usize,
    false_conflict: usize,
    double_conflict: usize,
    heals: usize,
}

struct Search {
    set: Setting,
    origins: Vec<Origin>,
    key: Item,
    images: Vec<Image>,
    image_ids: HashMap<(u8, Option<String>), u16>,
    memories: Vec<KeyMemory>,
    memory_ids: HashMap<String, u32>,
    actions: Vec<Action>,
    action_ids: HashMap<String, u16>,
    judgements: Vec<Judged>,
    judged: HashMap<JudgeKey, (u32, u32)>,
    forgotten: HashMap<(u32, [u8; MAX], u8, u8), u32>,
    counts: Counts,
    /// A failure of the state being built.
    failure: Option<String>,
    note: Option<String>,
}

fn parse_version(hlc: &str, origin: &str) -> Option<V> {
    let origin = NAMES.iter().position(|name| *name == origin)?;
    Some((u64::from_str_radix(hlc, 16).ok()?, origin as u8))
}

fn v_of(version: &Version) -> V {
    let text = version.to_string();
    let mut words = text.split(' ');
    parse_version(words.next().unwrap(), words.next().unwrap()).unwrap()
}

fn at(time: u8) -> u64 {
    u64::from(time) << 20
}

impl Search {
    fn new(set: Setting) -> Self {
        let key = Item::from([("pk".to_owned(), AttributeValue::S("k".to_owned()))]);
        let mut search = Self {
            set,
            origins: NAMES.iter().map(|name| name.parse().unwrap()).collect(),
            key,
            images: vec![],
            image_ids: HashMap::new(),
            memories: vec![],
            memory_ids: HashMap::new(),
            actions: vec![],
            action_ids: HashMap::new(),
            judgements: vec![],
            judged: HashMap::new(),
            forgotten: HashMap::new(),
            counts: Counts::default(),
            failure: None,
            note: None,
        };
        // Image 0 and judgement 0 stand for none.
        search.image(0, None);
        search.judgements.push(Judged {
            verdict: Verdict::Unchanged,
            version: None,
            actions: vec![],
            conflict: None,
        });
        search
    }

    fn image(&mut self, data: u8, stamp: Option<String>) -> u16 {
        if let Some(id) = self.image_ids.get(&(data, stamp.clone())) {
            return *id;
        }
        let item = self.item_of(data, stamp.as_ref());
        let well = stamp.as_ref().filter(|text| text.starts_with(STAMP_MAGIC));
        let words: Vec<&str> = well.map(|text| text.split(' ').collect()).unwrap_or_default();
        let version = words.get(2).and_then(|origin| parse_version(words[1], origin));
        let mark = words.get(5) == Some(&"x");
        let matches = words.get(5).is_some_and(|word| *word == Fingerprint::of(&item).to_string());
        let id = self.images.len() as u16;
        self.images.push(Image { data, stamp: stamp.clone(), version, mark, matches, item });
        self.image_ids.insert((data, stamp), id);
        id
    }

    fn item_of(&self, data: u8, stamp: Option<&String>) -> Item {
        let mut item = self.key.clone();
        if data != BARE {
            item.insert("d".to_owned(), AttributeValue::N(data.to_string()));
        }
        if let Some(stamp) = stamp {
            item.insert(STAMP.to_owned(), AttributeValue::S(stamp.clone()));
        }
        item
    }

    fn memory(&mut self, memory: KeyMemory) -> u32 {
        let text = format!("{memory:?}");
        if let Some(id) = self.memory_ids.get(&text) {
            return *id;
        }
        let id = self.memories.len() as u32;
        self.memories.push(memory);
        self.memory_ids.insert(text, id);
        id
    }

    fn data_of(item: &Item) -> u8 {
        match item.get("d") {
            Some(AttributeValue::N(number)) => number.parse().unwrap(),
            _ => BARE,
        }
    }

    fn action(&mut self, action: Action) -> u16 {
        let write = |write: &Write| {
            let body = match &write.body {
                Body::Put(item, _) => format!("put {}", Self::data_of(item)),
                Body::Delete => "delete".to_owned(),
            };
            let base = write.base.as_ref().map_or("-".to_owned(), ToString::to_string);
            format!("{body} v={}base={base}", write.version)
        };
        let text = match &action {
            Action::Push(w) => format!("push {}", write(w)),
            Action::Heal(w) => format!("heal {}", write(w)),
            Action::Restamp(w, stored) => format!("restamp {} where {stored:?}", write(w)),
            Action::CarryOut { mark, .. } => format!("carry out {mark:?}"),
        };
        if let Some(id) = self.action_ids.get(&text) {
            return *id;
        }
        let id = self.actions.len() as u16;
        self.actions.push(action);
        self.action_ids.insert(text, id);
        id
    }

    fn floors(&self, floors: [u8; MAX]) -> Floors {
        let mut built = Floors::default();
        for (origin, floor) in self.origins.iter().zip(floors).take(self.set.regions) {
            built.raise(origin, Hlc::at_millis(floor.into()));
        }
        built
    }

    fn initial(&mut self) -> State {
        let (shared, best) = match self.set.init {
            Init::Absent => (None, ((0, 0), 0)),
            Init::Shared => (Some(1), ((0, 0), 1)),
        };
        let regions = (0..self.set.regions)
            .map(|r| {
                let memory = self.memory(KeyMemory::new(self.origins[r].clone()));
                let item = shared.map_or(0, |data| {
                    if r == 0 {
                        return self.image(data, None);
                    }
                    let fingerprint = Fingerprint::of(&self.item_of(data, None));
                    let stamp = format!("{STAMP_MAGIC}{:016x} a - - {fingerprint} {:016x}", 0, 0xf000 + r);
                    self.image(data, Some(stamp))
                });
                let floors = [u8::from(shared.is_some()); MAX];
                Region {
                    clock: 1,
                    item,
                    stream: vec![],
                    agent: Agent {
                        memory,
                        floors,
                        read: 0,
                        queue: vec![],
                        act_from: [0; MAX],
                        log: vec![],
                        durable: Durable { floors, watermark: floors, ..Durable::default() },
                        in_place: false,
                    },
                    seen: BTreeSet::from_iter((item != 0).then_some(item)),
                    puts: 0,
                    highest: (0, 0),
                    lost: vec![],
                }
            })
            .collect();
        State {
            regions,
            zombies: BTreeSet::new(),
            ops: self.set.ops,
            crashes: self.set.crashes,
            ticks: self.set.ticks,
            dups: self.set.dups,
            zombie_budget: self.set.zombies,
            best,
        }
    }

    fn write(&mut self, state: &mut State, r: usize, new: u16, truth: Truth) {
        let put_backs = self.set.put_backs;
        let images = &self.images;
        let region = &mut state.regions[r];
        if region.item == new {
            return;
        }
        region.stream.push(Rec { time: region.clock, old: region.item, new, truth, judged: 0 });
        region.item = new;
        if new != 0 && (put_backs > 1 || put_backs == 1 && images[new as usize].stamp.is_some()) {
            if put_backs == 3 {
                state.regions.iter_mut().for_each(|region| _ = region.seen.insert(new));
            } else {
                region.seen.insert(new);
            }
        }
    }

    /// Carries out one physical write, if its condition holds.
    fn attempt(&mut self, state: &mut State, dest: usize, action: u16) {
        let region = &state.regions[dest];
        let stored = &self.images[region.item as usize];
        let present = region.item != 0;
        let stamp = stored.stamp.clone();
        let stored_data = stored.data;
        let agents = stamp.as_ref().filter(|text| text.starts_with(STAMP_MAGIC));
        let nonce = Nonce((dest as u64) << 32 | (region.stream.len() as u64 + 1));
        let below = |write: &Write| {
            let bound = Stamp::bound(&write.version);
            stamp.as_ref().is_none_or(|text| !text.starts_with(STAMP_MAGIC) || *text < bound)
        };
        let action = self.actions[action as usize].clone();
        match &action {
            Action::Push(write) if !below(write) => return,
            Action::Push(Write { body: Body::Delete, .. })
                if self.set.defect == Defect::PlainMark && !present =>
            {
                return;
            }
            Action::Push(Write { body: Body::Delete, .. }) if self.set.defect == Defect::NoMark => {
                return self.write(state, dest, 0, Truth::AgentDelete);
            }
            Action::Heal(write) => {
                if self.set.defect == Defect::NoHeal
                    || !present
                    || agents.is_none_or(|text| *text >= Stamp::bound(&write.version))
                {
                    return;
                }
                self.counts.heals += 1;
            }
            Action::Restamp(write, expected) => {
                let expected = expected.as_ref().map(|value| value.as_s().unwrap());
                let blind = self.set.defect == Defect::InPlaceBlind;
                if !present || !blind && stamp.as_ref() != expected {
                    return;
                }
                if blind {
                    let new = self.image(stored_data, Some(write.stamp(nonce).to_string()));
                    return self.write(state, dest, new, Truth::AgentPut);
                }
            }
            Action::CarryOut { mark, .. } => {
                let mark = mark.as_s().unwrap();
                let same = if self.set.defect == Defect::NoNonce {
                    stamp.as_ref().is_some_and(|text| {
                        text.len() > 16 && text[..text.len() - 16] == mark[..mark.len() - 16]
                    })
                } else {
                    stamp.as_ref() == Some(mark)
                };
                if same {
                    self.write(state, dest, 0, Truth::AgentDelete);
                }
                return;
            }
            Action::Push(_) => {}
        }
        let (Action::Push(write) | Action::Heal(write) | Action::Restamp(write, _)) = &action else { return };
        let stamp = Some(write.stamp(nonce).to_string());
        let (data, truth) = match &write.body {
            Body::Put(item, _) => (Self::data_of(item), Truth::AgentPut),
            Body::Delete => (if present { stored_data } else { BARE }, Truth::AgentMark),
        };
        let new = self.image(data, stamp);
        self.write(state, dest, new, truth);
    }

    /// What the agent is shown; some defects bend it.
    fn shown(&self, rec: &Rec, nonce: u64) -> (Option<Item>, Option<Item>) {
        let image = |id: u16| (id != 0).then(|| self.images[id as usize].item.clone());
        let (mut old, mut new) = (image(rec.old), image(rec.new));
        let (old_i, new_i) = (&self.images[rec.old as usize], &self.images[rec.new as usize]);
        match self.set.defect {
            Defect::NoFingerprint if new_i.version.is_some() && !new_i.mark => {
                let mut words: Vec<String> =
                    new_i.stamp.clone().unwrap().split(' ').map(str::to_owned).collect();
                words[5] = Fingerprint::of(&new_i.item).to_string();
                new.as_mut().unwrap().insert(STAMP.to_owned(), AttributeValue::S(words.join(" ")));
            }
            Defect::StampNotAbove if new_i.matches && old_i.version >= new_i.version => {
                old.as_mut().unwrap().remove(STAMP);
            }
            Defect::NoBump if rec.old != 0 && new_i.stamp.is_none() => {
                old.as_mut().unwrap().remove(STAMP);
            }
            Defect::NoNewStampFloor if rec.truth == Truth::PutBack && !new_i.mark => {
                new.as_mut().unwrap().remove(STAMP);
            }
            Defect::MarkPutBack if rec.truth == Truth::PutBack && new_i.mark => {
                old = Some(self.item_of(new_i.data, None));
                let stamp = new_i.stamp.clone().unwrap();
                let stamp = format!("{}{nonce:016x}", &stamp[..stamp.len() - 16]);
                new.as_mut().unwrap().insert(STAMP.to_owned(), AttributeValue::S(stamp));
            }
            _ => {}
        }
        (old, new)
    }

    fn protocol(
        &mut self,
        r: usize,
        memory: u32,
        ordinal: u8,
        rec: &Rec,
        floors: [u8; MAX],
        in_place: bool,
    ) -> (u32, u32) {
        let truth = if self.set.defect == Defect::None { Truth::Put } else { rec.truth };
        let key = (r as u8, memory, ordinal, rec.time, rec.old, rec.new, floors, in_place, truth);
        if let Some(found) = self.judged.get(&key) {
            return *found;
        }
        let (old, new) = self.shown(rec, 0xdead_0000 + u64::from(ordinal));
        let record = Record { created_millis: rec.time.into(), key: self.key.clone(), old, new };
        let mut mem = self.memories[memory as usize].clone();
        let judgement = mem.judge(ordinal.into(), record, &self.floors(floors), in_place);
        if self.set.defect == Defect::NoChainMemory && judgement.verdict == Verdict::LocalPut {
            mem = KeyMemory::new(self.origins[r].clone());
        }
        let next = self.memory(mem);
        let mut version = None;
        let mut actions = vec![];
        for action in judgement.actions {
            let place = if let Action::Push(write) = &action {
                version = Some(v_of(&write.version));
                Where::Peers
            } else {
                Where::Here
            };
            actions.push((place, self.action(action)));
        }
        let conflict = judgement.conflict.map(|c| (v_of(&c.lost), v_of(&c.won)));
        let id = self.judgements.len() as u32;
        self.judgements.push(Judged { verdict: judgement.verdict, version, actions, conflict });
        self.judged.insert(key, (next, id));
        (next, id)
    }

    fn fail(&mut self, why: String) {
        if self.failure.is_none() {
            self.failure = Some(why);
        }
    }

    fn read(&mut self, state: &mut State, r: usize) {
        let agent = &state.regions[r].agent;
        let ordinal = agent.read;
        let rec = state.regions[r].stream[ordinal as usize].clone();
        let oldest = self.memories[agent.memory as usize].oldest().map_or(ordinal, |since| since as u8);
        let floors = agent.floors;
        let (memory, id) = self.protocol(r, agent.memory, ordinal, &rec, floors, agent.in_place);
        let judged = self.judgements[id as usize].clone();
        let peers = self.set.regions;
        let agent = &mut state.regions[r].agent;
        agent.log.truncate(ordinal.into());
        agent.log.push((floors, oldest));
        agent.memory = memory;
        agent.read += 1;
        for (place, action) in &judged.actions {
            for dest in 0..peers {
                if (dest == r) == (*place == Where::Here) && ordinal >= agent.act_from[dest] {
                    agent.queue.push((ordinal, dest as u8, *action));
                }
            }
        }
        if rec.judged == 0 {
            state.regions[r].stream[ordinal as usize].judged = id;
            self.judge(state, r, &rec, &judged);
        } else {
            let first = &self.judgements[rec.judged as usize];
            if (first.verdict, first.version) != (judged.verdict, judged.version) {
                let why = format!(
                    "replay: record {ordinal} of {} was {:?} {:?}, now {:?} {:?}",
                    NAMES[r], first.verdict, first.version, judged.verdict, judged.version
                );
                self.fail(why);
            }
        }
    }

    /// The oracle: what the design says of a record whose writer is known.
    fn judge(&mut self, state: &mut State, r: usize, rec: &Rec, judged: &Judged) {
        let (old, new) = (&self.images[rec.old as usize], &self.images[rec.new as usize]);
        let highest = state.regions[r].highest;
        let seen = [old.version, new.version].into_iter().flatten().map(|v| v.0 + 1);
        let floor = if highest == (0, 0) { 0 } else { highest.0 + 1 };
        let version = (seen.fold(at(rec.time).max(floor), u64::max), r as u8);
        let stamped = new.version;
        let by_app = !matches!(rec.truth, Truth::AgentPut | Truth::AgentMark | Truth::AgentDelete);
        let merges = rec.truth == Truth::Delete && old.mark;
        let copies =
            rec.truth == Truth::PutBack && new.matches && old.version.is_none_or(|v| Some(v) < new.version);
        let between = rec.truth == Truth::AgentDelete;
        let data = new.data;
        if judged.verdict.is_local() {
            if !by_app {
                if !between {
                    return self
                        .fail(format!("an agent's write in {} was taken for an application's", NAMES[r]));
                }
                self.counts.limit_between += 1;
            }
            if judged.version != Some(version) {
                return self.fail(format!(
                    "a write in {} got version {:?} instead of {version:?}",
                    NAMES[r], judged.version
                ));
            }
            state.regions[r].highest = version;
            if version == state.best.0 {
                return self.fail(format!("two writes have the version {version:?}"));
            }
            if version > state.best.0 {
                state.best = (version, if rec.new == 0 { 0 } else { data });
            }
        } else if judged.verdict.is_echo() {
            if by_app {
                if merges {
                    self.counts.limit_merge += 1;
                } else if copies {
                    self.counts.limit_put_back += 1;
                } else {
                    return self
                        .fail(format!("an application's write in {} was taken for an echo", NAMES[r]));
                }
            }
            // Conflicts, by the ground truth.
            let base = new.stamp.as_ref().and_then(|text| {
                let words: Vec<&str> = text.split(' ').collect();
                parse_version(words[3], words[4])
            });
            let expected = stamped.filter(|v| {
                *v > highest
                    && highest != (0, 0)
                    && highest.1 == r as u8
                    && v.1 != r as u8
                    && base != Some(highest)
                    && rec.truth != Truth::PutBack
            });
            if let Some(won) = expected {
                if judged.conflict.is_none() {
                    self.counts.missed_conflict += 1;
                    self.note = Some(format!("missed conflict: {highest:?} lost to {won:?} in {}", NAMES[r]));
                }
            } else if let Some(conflict) = judged.conflict.filter(|_| rec.truth != Truth::PutBack) {
                self.counts.false_conflict += 1;
                self.note = Some(format!("false conflict {conflict:?} in {}", NAMES[r]));
            }
            if let Some(v) = stamped {
                let region = &mut state.regions[r];
                region.highest = region.highest.max(v);
            }
        } else {
            self.fail("a change was taken for none".to_owned());
        }
        if let Some((lost, _)) = judged.conflict {
            let region = &mut state.regions[r];
            if region.lost.contains(&lost) {
                self.counts.double_conflict += 1;
                self.note = Some(format!("conflict of {lost:?} counted twice in {}", NAMES[r]));
            } else {
                region.lost.push(lost);
                region.lost.sort_unstable();
            }
        }
    }

    /// Reads all streams to their ends: a step that nothing can come between.
    fn settle_reads(&mut self, state: &mut State) {
        if self.set.lazy {
            return;
        }
        for r in 0..self.set.regions {
            while usize::from(state.regions[r].agent.read) < state.regions[r].stream.len() {
                self.read(state, r);
            }
        }
    }

    /// The next record that is not done for `dest`.
    fn done(agent: &Agent, dest: usize) -> u8 {
        let pending = agent.queue.iter().find(|(_, d, _)| usize::from(*d) == dest);
        pending.map_or(agent.read, |(ordinal, ..)| *ordinal).max(agent.act_from[dest].min(agent.read))
    }

    fn time_at(region: &Region, position: u8) -> u8 {
        region.stream.get(usize::from(position)).map_or(region.clock, |rec| rec.time)
    }

    fn checkpoint(&self, region: &Region) -> Durable {
        let agent = &region.agent;
        let mut next = agent.durable;
        let mut least = agent.read;
        for dest in 0..self.set.regions {
            next.done[dest] = Self::done(agent, dest).max(agent.durable.done[dest]);
            next.watermark[dest] = Self::time_at(region, next.done[dest]).max(next.watermark[dest]);
            least = least.min(next.done[dest]);
        }
        let oldest = self.memories[agent.memory as usize].oldest().map(|since| since as u8);
        let rewind = match self.set.defect {
            Defect::MemoryLost => least,
            Defect::LateRewind => least.min(oldest.unwrap_or(least)),
            // As the memory was before the first record that is not done.
            _ => match agent.log.get(usize::from(least)) {
                Some((_, since)) => least.min(*since),
                None => least.min(oldest.unwrap_or(least)),
            },
        };
        next.rewind = rewind.max(agent.durable.rewind);
        next.floors = self.floors_at(agent, next.rewind);
        next
    }

    fn floors_at(&self, agent: &Agent, position: u8) -> [u8; MAX] {
        agent.log.get(usize::from(position)).map_or(agent.floors, |(floors, _)| *floors)
    }

    fn forget(&mut self, r: usize, memory: u32, floors: [u8; MAX], stream_time: u8) -> u32 {
        let key = (memory, floors, stream_time, r as u8);
        if let Some(next) = self.forgotten.get(&key) {
            return *next;
        }
        let peers: Vec<Origin> =
            (0..self.set.regions).filter(|peer| *peer != r).map(|peer| self.origins[peer].clone()).collect();
        let mut mem = self.memories[memory as usize].clone();
        mem.forget(&peers, &self.floors(floors), stream_time.into());
        let next = self.memory(mem);
        self.forgotten.insert(key, next);
        next
    }

    fn successors(&mut self, state: &State, out: &mut Vec<(Step, State, Option<String>)>) {
        let regions = self.set.regions;
        let mut steps = Vec::new();
        for r in 0..regions as u8 {
            let region = &state.regions[r as usize];
            let agent = &region.agent;
            for dest in 0..regions as u8 {
                let front = agent.queue.iter().find(|(_, d, _)| *d == dest);
                if let Some((_, _, action)) = front {
                    steps.push(Step::Do(r, dest));
                    if state.dups > 0 {
                        steps.push(Step::Duplicate(r, dest));
                    }
                    if state.zombie_budget > 0 && !state.zombies.contains(&(dest, *action)) {
                        steps.push(Step::Delay(r, dest));
                    }
                }
            }
            if usize::from(agent.read) < region.stream.len() {
                steps.push(Step::Read(r));
            }
            if state.ops > 0 {
                steps.push(Step::Put(r));
                if region.item != 0 {
                    steps.push(Step::Delete(r));
                    if self.set.updates && self.images[region.item as usize].stamp.is_some() {
                        steps.push(Step::Update(r));
                    }
                }
                for image in &region.seen {
                    if *image != region.item {
                        steps.push(Step::PutBack(r, *image));
                    }
                }
                if state.ticks > 0 {
                    steps.push(Step::Tick(r));
                }
                if self.set.stamp_in_place && !agent.in_place {
                    steps.push(Step::InPlace(r));
                }
            }
            if self.set.settles {
                steps.push(Step::Settle(r));
            }
            if state.crashes > 0 {
                steps.push(Step::Checkpoint(r, false, false));
                if self.set.pinned {
                    steps.push(Step::Checkpoint(r, true, false));
                    steps.push(Step::Checkpoint(r, false, true));
                }
                steps.push(Step::Crash(r));
            }
        }
        for (dest, action) in &state.zombies {
            steps.push(Step::Land(*dest, *action));
        }
        for step in steps {
            if let Some(next) = self.step(state, step) {
                let failure = self.failure.take();
                out.push((step, next, failure));
            }
        }
    }

    fn step(&mut self, state: &State, step: Step) -> Option<State> {
        let mut s = state.clone();
        match step {
            Step::Put(r) => {
                let region = &mut s.regions[r as usize];
                region.puts += 1;
                let data = 10 * (r + 1) + region.puts;
                s.ops -= 1;
                let image = self.image(data, None);
                self.write(&mut s, r as usize, image, Truth::Put);
            }
            Step::Update(r) => {
                let region = &mut s.regions[r as usize];
                region.puts += 1;
                let data = 10 * (r + 1) + region.puts;
                s.ops -= 1;
                let stamp = self.images[region.item as usize].stamp.clone();
                let image = self.image(data, stamp);
                self.write(&mut s, r as usize, image, Truth::Update);
            }
            Step::PutBack(r, image) => {
                s.ops -= 1;
                self.write(&mut s, r as usize, image, Truth::PutBack);
            }
            Step::Delete(r) => {
                s.ops -= 1;
                self.write(&mut s, r as usize, 0, Truth::Delete);
            }
            Step::Tick(r) => {
                s.ticks -= 1;
                s.regions[r as usize].clock += 1;
            }
            Step::Read(r) => self.read(&mut s, r as usize),
            Step::Do(r, dest) => {
                let queue = &mut s.regions[r as usize].agent.queue;
                let front = queue.iter().position(|(_, d, _)| *d == dest)?;
                let (_, _, action) = queue.remove(front);
                self.attempt(&mut s, dest as usize, action);
            }
            Step::Duplicate(r, dest) => {
                let (_, _, action) =
                    *s.regions[r as usize].agent.queue.iter().find(|(_, d, _)| *d == dest)?;
                let before = s.regions[dest as usize].stream.len();
                self.attempt(&mut s, dest as usize, action);
                if s.regions[dest as usize].stream.len() == before {
                    return None;
                }
                s.dups -= 1;
            }
            Step::Delay(r, dest) => {
                let queue = &s.regions[r as usize].agent.queue;
                let (_, _, action) = *queue.iter().find(|(_, d, _)| *d == dest)?;
                s.zombies.insert((dest, action));
                s.zombie_budget -= 1;
            }
            Step::Land(dest, action) => {
                s.zombies.remove(&(dest, action));
                self.attempt(&mut s, dest as usize, action);
            }
            Step::Checkpoint(r, pin_rewind, pin_done) => {
                let region = &s.regions[r as usize];
                let mut next = self.checkpoint(region);
                let last = region.agent.durable;
                if pin_rewind {
                    (next.rewind, next.floors) = (last.rewind, last.floors);
                }
                if pin_done {
                    (next.done, next.watermark) = (last.done, last.watermark);
                }
                if next == last {
                    return None;
                }
                s.regions[r as usize].agent.durable = next;
            }
            Step::Crash(r) => {
                s.crashes -= 1;
                let memory = self.memory(KeyMemory::new(self.origins[r as usize].clone()));
                let agent = &mut s.regions[r as usize].agent;
                let durable = agent.durable;
                if self.set.defect == Defect::LooseFloors {
                    agent.log.truncate(durable.rewind.into());
                }
                agent.memory = memory;
                agent.queue.clear();
                agent.read = durable.rewind;
                agent.floors = durable.floors;
                agent.act_from = durable.done;
                agent.log.truncate(durable.rewind.into());
            }
            Step::Settle(r) => {
                let r = r as usize;
                let region = &s.regions[r];
                if usize::from(region.agent.read) < region.stream.len()
                    && self.set.defect != Defect::ForgetBeforeRead
                {
                    return None;
                }
                let mut floors = region.agent.floors;
                for (peer, floor) in floors.iter_mut().enumerate().take(self.set.regions) {
                    if peer == r {
                        continue;
                    }
                    let other = &s.regions[peer];
                    let watermark = if self.set.defect == Defect::VolatileWatermark {
                        // All that was read is taken for done.
                        Self::time_at(other, other.agent.read)
                    } else if s.crashes == 0 {
                        self.checkpoint(other).watermark[r]
                    } else {
                        other.agent.durable.watermark[r]
                    };
                    *floor = watermark.max(*floor);
                }
                let stream_time = Self::time_at(region, region.agent.read);
                let memory = self.forget(r, region.agent.memory, floors, stream_time);
                let agent = &mut s.regions[r].agent;
                if floors == agent.floors && memory == agent.memory {
                    return None;
                }
                agent.floors = floors;
                agent.memory = memory;
            }
            Step::InPlace(r) => s.regions[r as usize].agent.in_place = true,
        }
        self.settle_reads(&mut s);
        Some(s)
    }

    /// What every state at rest must satisfy.
    fn check(&mut self, state: &State) -> Option<String> {
        let writes: usize = state.regions.iter().map(|region| region.stream.len()).sum();
        let by_apps = usize::from(self.set.ops - state.ops);
        let by_agents = writes - by_apps;
        let most = self.counts.max_agent_writes.entry(by_apps).or_default();
        *most = by_agents.max(*most);
        if by_agents > 12 * self.set.regions * by_apps.max(1) {
            return Some(format!("{by_agents} writes of agents for {by_apps}"));
        }
        let quiet = state.zombies.is_empty()
            && state.regions.iter().all(|region| {
                region.agent.queue.is_empty() && usize::from(region.agent.read) == region.stream.len()
            });
        if !quiet {
            return None;
        }
        self.counts.quiet += 1;
        for (r, region) in state.regions.iter().enumerate() {
            let image = &self.images[region.item as usize];
            let data = if region.item == 0 { 0 } else { image.data };
            if data != state.best.1 {
                return Some(format!(
                    "at rest, {} holds {data} and the highest write is {} at {:?}",
                    NAMES[r], state.best.1, state.best.0
                ));
            }
            if image.mark {
                return Some(format!("at rest, {} holds a marked item", NAMES[r]));
            }
        }
        None
    }

    /// The part of a state that the future can depend on.
    fn hash(&self, state: &State) -> u64 {
        let mut h = DefaultHasher::new();
        (state.ops, state.crashes, state.dups, state.zombie_budget, state.best).hash(&mut h);
        state.zombies.hash(&mut h);
        if state.ops > 0 {
            state.ticks.hash(&mut h);
        }
        for region in &state.regions {
            let agent = &region.agent;
            (region.clock, region.item, region.stream.len(), region.highest).hash(&mut h);
            (agent.memory, agent.floors, agent.read, &agent.queue, agent.in_place).hash(&mut h);
            region.lost.hash(&mut h);
            if state.ops > 0 {
                region.seen.hash(&mut h);
                region.puts.hash(&mut h);
            }
            if state.crashes > 0 {
                (&region.stream, &agent.log, agent.durable, agent.act_from).hash(&mut h);
            } else {
                for rec in &region.stream[agent.read.into()..] {
                    rec.hash(&mut h);
                }
                if self.set.settles {
                    self.checkpoint(region).watermark.hash(&mut h);
                }
            }
        }
        h.finish()
    }

    fn run(&mut self) -> Result<(), Vec<(Step, State, Option<String>)>> {
        let start = self.initial();
        let mut visited = HashSet::new();
        visited.insert(self.hash(&start));
        let mut path: Vec<(Step, State, Option<String>)> = vec![];
        let mut first = vec![];
        self.successors(&start, &mut first);
        let mut stack = vec![first];
        while let Some(top) = stack.last_mut() {
            let Some((step, state, failure)) = top.pop() else {
                stack.pop();
                path.pop();
                continue;
            };
            self.counts.steps += 1;
            if failure.is_some() {
                path.push((step, state, failure));
                return Err(path);
            }
            if !visited.insert(self.hash(&state)) {
                continue;
            }
            if let Some(why) = self.check(&state) {
                path.push((step, state, Some(why)));
                return Err(path);
            }
            if visited.len() >= self.set.max_states {
                break;
            }
            let mut next = vec![];
            self.successors(&state, &mut next);
            path.push((step, state, None));
            stack.push(next);
        }
        self.counts.states = visited.len();
        Ok(())
    }

    /// The shortest path to a failure, breadth first.
    fn shortest(&mut self, most: usize) -> Option<Vec<(Step, State, Option<String>)>> {
        let start = self.initial();
        let mut visited = HashSet::from([self.hash(&start)]);
        let mut nodes: Vec<(usize, Step)> = vec![];
        let mut level = vec![(usize::MAX, start.clone())];
        while !level.is_empty() && visited.len() < most {
            let mut below = vec![];
            for (parent, state) in level {
                let mut next = vec![];
                self.successors(&state, &mut next);
                for (step, state, failure) in next {
                    let fresh = visited.insert(self.hash(&state));
                    if failure.is_none() && !fresh {
                        continue;
                    }
                    let failure = failure.or_else(|| self.check(&state));
                    nodes.push((parent, step));
                    if failure.is_some() {
                        return Some(self.replay(start, &nodes, failure));
                    }
                    below.push((nodes.len() - 1, state));
                }
            }
            level = below;
        }
        None
    }

    fn replay(
        &mut self,
        start: State,
        nodes: &[(usize, Step)],
        failure: Option<String>,
    ) -> Vec<(Step, State, Option<String>)> {
        let mut steps = vec![];
        let mut node = nodes.len() - 1;
        while node != usize::MAX {
            steps.push(nodes[node].1);
            node = nodes[node].0;
        }
        let mut path: Vec<(Step, State, Option<String>)> = vec![];
        let mut state = start;
        for step in steps.into_iter().rev() {
            state = self.step(&state, step).unwrap();
            self.failure = None;
            path.push((step, state.clone(), None));
        }
        path.last_mut().unwrap().2 = failure;
        path
    }

    fn show_image(&self, id: u16) -> String {
        if id == 0 {
            return "absent".to_owned();
        }
        let image = &self.images[id as usize];
        let stamp = match (&image.version, &image.stamp) {
            (Some((hlc, origin)), Some(text)) => format!(
                " [{}{} {}.{} n{}]",
                if image.mark { "MARK " } else { "" },
                if image.matches || image.mark { "" } else { "kept" },
                hlc >> 20,
                format!("{}{}", hlc & 0xf_ffff, NAMES[*origin as usize]),
                text.split(' ').next_back().unwrap().trim_start_matches('0')
            ),
            (_, Some(text)) => format!(" [{text}]"),
            _ => String::new(),
        };
        let data = if image.data == BARE { "bare".to_owned() } else { image.data.to_string() };
        format!("{data}{stamp}")
    }

    fn show_action(&self, id: u16) -> String {
        let text = self.action_ids.iter().find(|(_, found)| **found == id).map(|(text, _)| text.as_str());
        text.unwrap_or_default().replace("00000000000", "")
    }

    fn show(&self, path: &[(Step, State, Option<String>)]) {
        println!("--- counterexample of {:?} ({} steps)", self.set.name, path.len());
        let mut read = [0; MAX];
        let mut before: Option<&State> = None;
        for (step, state, failure) in path {
            let what = match step {
                Step::Do(r, dest) | Step::Duplicate(r, dest) | Step::Delay(r, dest) => before
                    .and_then(|s| {
                        let queue = &s.regions[*r as usize].agent.queue;
                        queue.iter().find(|(_, d, _)| d == dest)
                    })
                    .map(|(ordinal, _, action)| format!("{} (record {ordinal})", self.show_action(*action)))
                    .unwrap_or_default(),
                Step::Land(_, action) => self.show_action(*action),
                Step::PutBack(_, image) => self.show_image(*image),
                Step::Checkpoint(r, ..) => {
                    let d = state.regions[*r as usize].agent.durable;
                    format!(
                        "rewind {} floors {:?} done {:?} watermark {:?}",
                        d.rewind, d.floors, d.done, d.watermark
                    )
                }
                Step::Settle(r) => {
                    let agent = &state.regions[*r as usize].agent;
                    format!("floors {:?} memory {}", agent.floors, self.memories[agent.memory as usize].len())
                }
                _ => String::new(),
            };
            println!("{step:?} {what}");
            if let Step::Crash(r) = step {
                read[*r as usize] = state.regions[*r as usize].agent.durable.rewind;
            }
            for (r, region) in state.regions.iter().enumerate() {
                for i in read[r]..region.agent.read {
                    let rec = &region.stream[i as usize];
                    let judged = &self.judgements[rec.judged as usize];
                    println!(
                        "      {} #{i} t{} {:?}: {} -> {} | {:?} {}{}",
                        NAMES[r],
                        rec.time,
                        rec.truth,
                        self.show_image(rec.old),
                        self.show_image(rec.new),
                        judged.verdict,
                        judged
                            .actions
                            .iter()
                            .map(|(_, a)| self.show_action(*a))
                            .collect::<Vec<_>>()
                            .join("; "),
                        judged.conflict.map_or(String::new(), |c| format!(" CONFLICT {c:?}"))
                    );
                }
                read[r] = region.agent.read;
            }
            if let Some(why) = failure {
                println!("=> {why}");
            }
            before = Some(state);
        }
    }
}

/// Runs one setting; whether it holds.
fn holds(set: Setting) -> bool {
    let from = Instant::now();
    let mut search = Search::new(set.clone());
    let result = search.run();
    let complete = search.counts.states < set.max_states;
    println!(
        "{} defect={:?}: {} {} in {:.1?}; {:?}; {} memories, {} images, {} actions, {} judgements",
        set.name,
        set.defect,
        if result.is_ok() { "HOLDS" } else { "FAILS" },
        if complete { "complete" } else { "(cut short)" },
        from.elapsed(),
        search.counts,
        search.memories.len(),
        search.images.len(),
        search.actions.len(),
        search.judgements.len(),
    );
    match result {
        Ok(()) => true,
        Err(path) => {
            if set.defect == Defect::None || std::env::var("SHOW").is_ok() {
                let mut again = Search::new(set);
                match again.shortest(1_500_000) {
                    Some(path) => again.show(&path),
                    None => search.show(&path),
                }
            } else {
                println!("   {}", path.last().and_then(|(.., why)| why.clone()).unwrap_or_default());
            }
            false
        }
    }
}

#[test]
#[ignore = "exploration"]
fn explore() {
    let var = |name: &str, or: u8| std::env::var(name).ok().map_or(or, |v| v.parse().unwrap());
    let mut set = Setting::new("explore", var("R", 2).into(), var("OPS", 2));
    set.crashes = var("CRASHES", 0);
    set.ticks = var("TICKS", 1);
    set.dups = var("DUPS", 0);
    set.zombies = var("ZOMBIES", 0);
    set.put_backs = var("BACKS", 1);
    set.settles = var("SETTLES", 1) == 1;
    set.pinned = var("PINNED", 0) == 1;
    set.lazy = var("LAZY", 0) == 1;
    set.stamp_in_place = var("INPLACE", 0) == 1;
    set.init = if var("SHARED", 0) == 1 { Init::Shared } else { Init::Absent };
    set.max_states = std::env::var("MAXSTATES").ok().map_or(3_000_000, |v| v.parse().unwrap());
    holds(set);
}
