//! The judge: it is part of the simulated service, knows who made each write, and gives each application's
//! write its version by the design's rule, independently of the protocol's code.
//!
//! It can't know one thing: whether an agent distinguishes a copy that an application put back, including its
//! stamp, from the replicated write that it copies. The design allows both (it depends on a nonce that may be
//! forgotten), so such a write splits the key's history into two worlds; what the agents write afterwards
//! must fit at least one of them.

use std::collections::{BTreeMap, HashMap};

use crate::clock::EPOCH_MILLIS;
use crate::item::{Item, STAMP, as_text, data_digest};
use crate::service::Change;
use crate::settings::{NAMES, Settings};

/// Clock and region. Regions are numbered in the order of their names.
pub type Version = (u64, usize);

/// Who made a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    App,
    Agent(usize),
}

/// What has been counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub app_writes: u64,
    pub agent_writes: u64,
    /// Copies put back that may be mistaken for the replicated write they copy.
    pub put_backs: u64,
    /// Deletes that merged into a mark.
    pub merged: u64,
    /// Older writes of agents in the place of newer ones of applications, as docs/correctness.md allows it:
    /// over a newer delete, over the same data put back, over an attribute whose
    /// name is new, or during a fault.
    pub rolled_back: u64,
    pub watermarks: u64,
    pub checkpoints: u64,
    pub most_worlds: usize,
}

/// The ground truth of every key.
#[derive(Debug)]
pub struct Oracle {
    regions: usize,
    /// Records may be lost: then versions can't be determined.
    is_lenient: bool,
    /// Nothing newer may be replaced by something older, however slow the agents are.
    is_strict: bool,
    /// How far clocks may go back, and watermarks therefore be too high, in clock units.
    slack: u64,
    keys: BTreeMap<String, Vec<World>>,
    /// The data that each stamp was written with.
    stamped: HashMap<String, u64>,
    /// When an application last wrote a key in a region.
    written_at: HashMap<(usize, String), u64>,
    /// The highest watermark of each origin, at any peer.
    watermarks: Vec<u64>,
    /// When each region's table first had an attribute of a name.
    names: Vec<BTreeMap<String, u64>>,
    /// From which record on a region's clock is further ahead than its agent believes.
    ahead_since: Vec<Option<u64>>,
    pub counts: Counts,
    pub failures: Vec<String>,
    /// A fault is in force, or was until a moment ago: an agent may have given up waiting.
    pub is_disturbed: bool,
}

/// One history of a key.
#[derive(Clone, Debug, PartialEq)]
struct World {
    /// The highest version that each region's stream has shown.
    highest: Vec<Version>,
    /// An older write has replaced that version in the region, and has not been healed yet.
    is_stale: Vec<bool>,
    /// The data of every application's write; `None` for a delete.
    issued: BTreeMap<Version, Option<u64>>,
    /// The last write in the region was a copy that an application put back.
    is_copy: Vec<bool>,
}

/// How far ahead a record's time may be to be accepted as it is, in milliseconds.
const BELIEVED: u64 = 30_000;
/// How far record times may go back, in milliseconds.
const SLACK: u64 = 60_000;
/// How long an agent waits, at least, for the agent of a region whose write it can't compare, in
/// milliseconds.
const PATIENCE: u64 = 3_000;
/// With more histories than this, a key is judged only for convergence.
const MOST_WORLDS: usize = 256;

/// A stamp, read without the protocol's code.
#[derive(Clone, Debug)]
struct Stamp {
    version: Version,
    /// What the write was made on top of.
    base: Option<Version>,
    is_mark: bool,
    text: String,
}

impl Stamp {
    fn of(item: Option<&Item>) -> Option<Self> {
        let text = as_text(item?.get(STAMP)?)?;
        let words: Vec<&str> = text.split(' ').collect();
        let [magic, hlc, origin, base_hlc, base_origin, fingerprint, nonce] = words.as_slice() else {
            return None;
        };
        let well_formed = *magic == "tw1" && nonce.len() == 16;
        let is_mark = fingerprint.starts_with("x-");
        let (version, base) = (version(hlc, origin)?, version(base_hlc, base_origin));
        well_formed.then(|| Self { version, base, is_mark, text: text.to_owned() })
    }
}

/// A version as stamps spell it: the clock, and the region's name.
pub fn version(hlc: &str, origin: &str) -> Option<Version> {
    Some((u64::from_str_radix(hlc, 16).ok()?, NAMES.iter().position(|name| *name == origin)?))
}

/// Whether an agent has marked the item to be deleted.
pub fn is_marked(item: &Item) -> bool {
    Stamp::of(Some(item)).is_some_and(|stamp| stamp.is_mark)
}

impl Oracle {
    pub fn new(settings: &Settings) -> Self {
        let regions = settings.regions;
        Self {
            regions,
            is_lenient: !settings.converges,
            is_strict: settings.strict,
            slack: settings.clock_slack << 20,
            keys: BTreeMap::new(),
            stamped: HashMap::new(),
            written_at: HashMap::new(),
            watermarks: vec![0; regions],
            names: vec![BTreeMap::new(); regions],
            ahead_since: vec![None; regions],
            counts: Counts::default(),
            failures: Vec::new(),
            is_disturbed: false,
        }
    }

    pub fn fail(&mut self, why: String) {
        self.failures.push(why);
    }

    /// Records a change of an item that was made now, in the order of the region's stream.
    pub fn observe(&mut self, region: usize, change: &Change, writer: Writer, now: u64) {
        let old = Stamp::of(change.old.as_deref());
        let new = Stamp::of(change.new.as_deref());
        let mut worlds = self.keys.remove(&change.key).unwrap_or_else(|| vec![World::new(self.regions)]);
        if self.is_ahead(region, change.created, now) && writer == Writer::App {
            // Its region's agent, which has not read it yet, decides what it counts as.
            worlds.clear();
        }
        if let (Writer::Agent(_), Some(stamp), Some(item)) = (writer, &new, &change.new) {
            self.stamped.insert(stamp.text.clone(), data_digest(item));
        }
        let written_at = (region, change.key.clone());
        let age = now.saturating_sub(self.written_at.get(&written_at).copied().unwrap_or_default());
        if writer == Writer::App {
            self.written_at.insert(written_at, now);
        }
        let seen = Seen { region, change, old, new, age, now };
        let worlds = match writer {
            Writer::App => self.by_app(worlds, &seen),
            Writer::Agent(agent) => self.by_agent(worlds, &seen, agent),
        };
        for name in change.new.iter().flat_map(|item| item.keys()) {
            if !self.names[region].contains_key(name) {
                self.names[region].insert(name.clone(), now);
            }
        }
        self.counts.most_worlds = self.counts.most_worlds.max(worlds.len());
        self.keys.insert(change.key.clone(), worlds);
    }

    /// Whether a region's agent may consider a change older than its time says.
    fn is_ahead(&mut self, region: usize, created: u64, now: u64) -> bool {
        let since = &mut self.ahead_since[region];
        since.take_if(|since| created + SLACK < *since);
        if since.is_none() && created > EPOCH_MILLIS + now + BELIEVED {
            *since = Some(created);
        }
        since.is_some()
    }

    fn by_app(&mut self, worlds: Vec<World>, seen: &Seen) -> Vec<World> {
        self.counts.app_writes += 1;
        let watermark = self.watermarks[seen.region];
        let could_be_copy = self.could_be_copy(seen);
        let mut next: Vec<World> = Vec::new();
        let mut why = String::new();
        for world in worlds {
            let mut outcomes = Vec::new();
            if let Some(stamp) = could_be_copy {
                let mut copied = world.clone();
                copied.replicated(seen, stamp);
                outcomes.push(copied);
                self.counts.put_backs += 1;
            }
            let mark = seen.old.as_ref().filter(|old| old.is_mark && seen.change.new.is_none());
            if mark.is_some_and(|mark| world.merges(seen.region, mark.version)) {
                self.counts.merged += 1;
                outcomes.push(world);
            } else {
                match world.local(seen, watermark) {
                    Ok(world) => outcomes.push(world),
                    Err(error) => why = error,
                }
            }
            for outcome in outcomes {
                if !next.contains(&outcome) && next.len() < MOST_WORLDS {
                    next.push(outcome);
                }
            }
        }
        if next.is_empty() && !why.is_empty() && !self.is_lenient {
            self.fail(why);
        }
        if next.len() == MOST_WORLDS {
            // The right one may be among those that there was no space for.
            next.clear();
        }
        next
    }

    /// The stamp of an image that an application wrote, if it looks like a replicated write.
    fn could_be_copy<'a>(&self, seen: &'a Seen) -> Option<&'a Stamp> {
        let (item, stamp) = (seen.change.new.as_ref()?, seen.new.as_ref()?);
        let rises = seen.old.as_ref().is_none_or(|old| old.version < stamp.version);
        let looks_right = if stamp.is_mark {
            seen.change.old.as_ref().is_some_and(|old| data_digest(old) == data_digest(item))
                || seen.change.old.is_none() && item.len() == 2
        } else {
            self.stamped.get(&stamp.text) == Some(&data_digest(item))
        };
        (rises && looks_right).then_some(stamp)
    }

    fn by_agent(&mut self, mut worlds: Vec<World>, seen: &Seen, agent: usize) -> Vec<World> {
        self.counts.agent_writes += 1;
        let Change { key, new, .. } = seen.change;
        let whose = format!("the agent of {} in {}, key {key}", NAMES[agent], NAMES[seen.region]);
        let Some(item) = new else {
            return self.applied(worlds, seen, &whose);
        };
        let Some(stamp) = &seen.new else {
            self.fail(format!("{whose}: it wrote an item without a stamp"));
            return worlds;
        };
        let data = data_digest(item);
        if !stamp.is_mark && seen.change.old.as_ref().is_some_and(|old| data_digest(old) == data) {
            return self.stamped_in_place(worlds, seen, stamp, data, &whose);
        }
        let written = (!stamp.is_mark).then_some(data);
        let before = worlds.len();
        let versions = |worlds: &[World]| worlds.first().map(|w| w.issued.get(&stamp.version).copied());
        let found = versions(&worlds);
        worlds.retain(|world| world.issued.get(&stamp.version) == Some(&written));
        if worlds.is_empty() && before > 0 && !self.is_lenient {
            self.fail(format!(
                "{whose}: it wrote {written:?} as {:?}, but the write of that version is {found:?}",
                stamp.version
            ));
        }
        let mut rolled_back = 0;
        for world in &mut worlds {
            rolled_back += usize::from(world.replicated(seen, stamp) == Effect::RolledBack);
        }
        if rolled_back > 0 {
            self.counts.rolled_back += 1;
            // The agent there may have been too slow to report it; it has been waited for.
            let is_late = self.is_disturbed || !self.is_strict && seen.age >= PATIENCE;
            let is_unnamed = self.has_new_name(seen, agent);
            let is_allowed = is_late || is_unnamed || self.is_lenient || rolled_back < worlds.len();
            if !is_allowed {
                self.fail(format!("{whose}: it put {:?} in the place of a newer write", stamp.version));
            }
        }
        worlds
    }

    /// Whether what was replaced has an attribute whose name the agent need not know yet: no condition names it.
    fn has_new_name(&self, seen: &Seen, agent: usize) -> bool {
        let is_known = |name: &String| {
            self.names[agent].get(name).is_some_and(|since| seen.now.saturating_sub(*since) >= PATIENCE)
        };
        seen.change.old.iter().flat_map(|old| old.keys()).any(|name| !is_known(name))
    }

    /// A stamp set beside what was stored: of this data, or of an older write of the region's own.
    fn stamped_in_place(
        &mut self,
        mut worlds: Vec<World>,
        seen: &Seen,
        stamp: &Stamp,
        data: u64,
        whose: &str,
    ) -> Vec<World> {
        let before = worlds.len();
        let (region, version) = (seen.region, stamp.version);
        worlds.retain(|world| match world.issued.get(&version) {
            Some(issued) if *issued == Some(data) => true,
            Some(_) => version.1 == region && version < world.highest[region],
            None => false,
        });
        if worlds.is_empty() && before > 0 && !self.is_lenient {
            self.fail(format!(
                "{whose}: it set a stamp of {version:?} beside something older, or another write"
            ));
        }
        for world in &mut worlds {
            if world.issued.get(&version) == Some(&Some(data)) {
                world.replicated(seen, stamp);
            }
        }
        worlds
    }

    fn applied(&mut self, worlds: Vec<World>, seen: &Seen, whose: &str) -> Vec<World> {
        let Some(mark) = seen.old.as_ref().filter(|old| old.is_mark) else {
            self.fail(format!("{whose}: it deleted an item that was not marked"));
            return worlds;
        };
        let watermark = self.watermarks[seen.region];
        let mut next = Vec::new();
        for world in worlds {
            if world.merges(seen.region, mark.version) {
                next.push(world);
            } else if world.is_copy[seen.region] {
                next.extend(world.local(seen, watermark));
            } else if !self.is_lenient {
                self.fail(format!("{whose}: it deleted an update that was made since the mark"));
            }
        }
        next
    }

    /// Checks a watermark when it reaches a peer: everything of the origin with a lower clock is in effect
    /// there, or superseded.
    pub fn watermark(&mut self, peer: usize, origin: &str, hlc: u64) {
        self.counts.watermarks += 1;
        let Some(origin) = NAMES.iter().position(|name| *name == origin) else { return };
        if self.is_lenient {
            return;
        }
        let hlc = hlc.saturating_sub(self.slack);
        self.watermarks[origin] = self.watermarks[origin].max(hlc);
        let missing = |world: &World| {
            let below = world.issued.range(..(hlc, 0)).rev().find(|(version, _)| version.1 == origin);
            below.map(|(version, _)| *version).filter(|version| world.highest[peer] < *version)
        };
        let mut failures = Vec::new();
        for (key, worlds) in &self.keys {
            let found: Vec<Option<Version>> = worlds.iter().map(missing).collect();
            if let (false, Some(Some(version))) = (found.contains(&None), found.first()) {
                failures.push(format!(
                    "the watermark {hlc} of {} at {} is wrong: {version:?} of key {key} is missing",
                    NAMES[origin], NAMES[peer]
                ));
            }
        }
        self.failures.append(&mut failures);
    }

    /// What must hold at rest.
    pub fn judge(&mut self, replicas: &[&BTreeMap<String, std::sync::Arc<Item>>]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (key, worlds) in &self.keys {
            let stored: Vec<Option<u64>> =
                replicas.iter().map(|items| items.get(key).map(|item| data_digest(item))).collect();
            for (items, name) in replicas.iter().zip(NAMES) {
                if Stamp::of(items.get(key).map(AsRef::as_ref)).is_some_and(|stamp| stamp.is_mark) {
                    wrong.push(format!("key {key}: {name} holds a marked item"));
                }
            }
            if stored.iter().any(|data| *data != stored[0]) {
                wrong.push(format!("key {key}: the replicas hold {stored:?}"));
                continue;
            }
            let winners: Vec<_> = worlds.iter().filter_map(|world| world.issued.last_key_value()).collect();
            let is_right = worlds.is_empty()
                || worlds.iter().any(|world| {
                    world.issued.last_key_value().map_or(stored[0].is_none(), |(_, data)| *data == stored[0])
                });
            if !is_right && !self.is_lenient {
                wrong.push(format!("key {key}: all hold {:?}, the winner is {winners:?}", stored[0]));
            }
        }
        wrong
    }
}

/// A change with its stamps.
struct Seen<'a> {
    region: usize,
    change: &'a Change,
    old: Option<Stamp>,
    new: Option<Stamp>,
    /// How long ago an application wrote the item there.
    age: u64,
    now: u64,
}

/// The effect of a replicated write on what a region's applications see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It is the newest, or changes no data.
    None,
    /// It replaces a newer delete, a copy that was put back, or the same data as it was made on.
    Allowed,
    /// It replaces a newer write.
    RolledBack,
}

impl World {
    fn new(regions: usize) -> Self {
        Self {
            highest: vec![(0, 0); regions],
            is_stale: vec![false; regions],
            issued: BTreeMap::new(),
            is_copy: vec![false; regions],
        }
    }

    /// Records a replicated write.
    fn replicated(&mut self, seen: &Seen, stamp: &Stamp) -> Effect {
        let region = seen.region;
        if stamp.version >= self.highest[region] {
            self.highest[region] = stamp.version;
            self.is_stale[region] = false;
            return Effect::None;
        }
        if stamp.is_mark && self.is_absent(region) {
            return Effect::None;
        }
        let was_absent = self.is_absent(region);
        let was_stale = std::mem::replace(&mut self.is_stale[region], true);
        if was_stale || stamp.is_mark {
            Effect::None
        } else if was_absent || self.is_copy[region] || self.is_base(seen, stamp) {
            Effect::Allowed
        } else {
            Effect::RolledBack
        }
    }

    /// Whether what it replaces has the same data as what it was made on top of: neither a condition nor an
    /// application can distinguish the two.
    fn is_base(&self, seen: &Seen, stamp: &Stamp) -> bool {
        let made_on = stamp.base.and_then(|base| self.issued.get(&base).copied()).flatten();
        made_on.is_some() && made_on == seen.change.old.as_ref().map(|old| data_digest(old))
    }

    /// Whether the region has no item, since its highest version is a delete.
    fn is_absent(&self, region: usize) -> bool {
        !self.is_stale[region] && self.issued.get(&self.highest[region]) == Some(&None)
    }

    /// Whether the delete of an item with this mark belongs to the mark.
    fn merges(&self, region: usize, mark: Version) -> bool {
        self.highest[region] <= mark || self.is_absent(region)
    }

    /// A write that counts as one of this region's own, with its version by the design's rule.
    fn local(mut self, seen: &Seen, watermark: u64) -> Result<Self, String> {
        let Seen { region, change, old, new, .. } = seen;
        let highest = self.highest[*region];
        let stamps = [old, new].into_iter().flatten().map(|stamp| stamp.version.0 + 1);
        let floor = if highest == (0, 0) { 0 } else { highest.0 + 1 };
        let hlc = stamps.fold((change.created << 20).max(floor), u64::max);
        let version = (hlc, *region);
        let key = &change.key;
        if hlc < watermark {
            return Err(format!(
                "key {key}: the write {version:?} comes after its region's watermark {watermark}"
            ));
        }
        let data = change.new.as_ref().map(|item| data_digest(item));
        if self.issued.insert(version, data).is_some() {
            return Err(format!("key {key}: two writes have the version {version:?}"));
        }
        self.highest[*region] = version;
        self.is_stale[*region] = false;
        self.is_copy[*region] = change.is_copy;
        Ok(self)
    }
}
