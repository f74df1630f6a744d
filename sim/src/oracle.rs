//! The judge: it sits in the simulated service, knows who made each write, and gives each
//! application's write its version by the design's rule, apart from the protocol's code.
//!
//! One thing it cannot know: whether an agent tells a copy that an application put back, stamp and
//! all, from the replicated write that it copies. The design allows both (it hangs on a nonce that
//! may be forgotten), so such a write splits the key's history into two worlds; what the agents
//! write afterwards must fit at least one of them.

use std::collections::{BTreeMap, HashMap};

use crate::item::{Item, STAMP, as_text, data_digest};
use crate::service::Change;
use crate::settings::NAMES;

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
    /// Copies put back that may be taken for the replicated write they copy.
    pub put_backs: u64,
    /// Deletes that merged into a mark.
    pub merged: u64,
    /// Updates between a mark and its delete, which lost to it.
    pub between: u64,
    pub watermarks: u64,
    pub checkpoints: u64,
    pub most_worlds: usize,
}

/// The ground truth of every key.
#[derive(Debug)]
pub struct Oracle {
    regions: usize,
    /// Records may be lost: then versions can't be told.
    is_lenient: bool,
    /// How far clocks may go back, and watermarks be too high for it, in clock units.
    slack: u64,
    keys: BTreeMap<String, Vec<World>>,
    /// The data that each stamp was written with.
    stamped: HashMap<String, u64>,
    /// The highest watermark of each origin, at any peer.
    watermarks: Vec<u64>,
    pub counts: Counts,
    pub failures: Vec<String>,
}

/// One history of a key.
#[derive(Clone, Debug, PartialEq)]
struct World {
    /// The highest version that each region's stream has shown.
    highest: Vec<Version>,
    /// An older write has replaced that version in the region, and not been healed yet.
    is_stale: Vec<bool>,
    /// The data of every application's write; none is a delete.
    issued: BTreeMap<Version, Option<u64>>,
}

/// Histories of a key beyond which it is no longer judged, but for convergence.
const MOST_WORLDS: usize = 256;

/// A stamp, read without the protocol's code.
#[derive(Clone, Debug)]
struct Stamp {
    version: Version,
    is_mark: bool,
    text: String,
}

impl Stamp {
    fn of(item: Option<&Item>) -> Option<Self> {
        let text = as_text(item?.get(STAMP)?)?;
        let words: Vec<&str> = text.split(' ').collect();
        let [magic, hlc, origin, _, _, fingerprint, nonce] = words.as_slice() else { return None };
        let origin = NAMES.iter().position(|name| name == origin)?;
        let hlc = u64::from_str_radix(hlc, 16).ok()?;
        let well_formed = *magic == "tw1" && nonce.len() == 16;
        let is_mark = *fingerprint == "x";
        well_formed.then(|| Self { version: (hlc, origin), is_mark, text: text.to_owned() })
    }
}

impl Oracle {
    pub fn new(regions: usize, is_lenient: bool, slack_millis: u64) -> Self {
        Self {
            regions,
            is_lenient,
            slack: slack_millis << 20,
            keys: BTreeMap::new(),
            stamped: HashMap::new(),
            watermarks: vec![0; regions],
            counts: Counts::default(),
            failures: Vec::new(),
        }
    }

    pub fn fail(&mut self, why: String) {
        self.failures.push(why);
    }

    /// Takes in a change of an item, in the order of the region's stream.
    pub fn observe(&mut self, region: usize, change: &Change, writer: Writer) {
        let old = Stamp::of(change.old.as_deref());
        let new = Stamp::of(change.new.as_deref());
        let worlds = self.keys.remove(&change.key).unwrap_or_else(|| vec![World::new(self.regions)]);
        if let (Writer::Agent(_), Some(stamp), Some(item)) = (writer, &new, &change.new) {
            self.stamped.insert(stamp.text.clone(), data_digest(item));
        }
        let seen = Seen { region, change, old, new };
        let worlds = match writer {
            Writer::App => self.by_app(worlds, &seen),
            Writer::Agent(agent) => self.by_agent(worlds, &seen, agent),
        };
        self.counts.most_worlds = self.counts.most_worlds.max(worlds.len());
        self.keys.insert(change.key.clone(), worlds);
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
                copied.replicated(seen.region, stamp);
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
        next
    }

    /// The stamp of an image that an application wrote, where it looks like a replicated write.
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
            return self.carried_out(worlds, seen, &whose);
        };
        let Some(stamp) = &seen.new else {
            self.fail(format!("{whose}: it wrote an item without a stamp"));
            return worlds;
        };
        let written = if stamp.is_mark { None } else { Some(data_digest(item)) };
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
        for world in &mut worlds {
            world.replicated(seen.region, stamp);
        }
        worlds
    }

    fn carried_out(&mut self, worlds: Vec<World>, seen: &Seen, whose: &str) -> Vec<World> {
        let Some(mark) = seen.old.as_ref().filter(|old| old.is_mark) else {
            self.fail(format!("{whose}: it deleted an item that was not marked"));
            return worlds;
        };
        let watermark = self.watermarks[seen.region];
        let mut next = Vec::new();
        for world in worlds {
            if world.merges(seen.region, mark.version) {
                next.push(world);
            } else {
                self.counts.between += 1;
                next.extend(world.local(seen, watermark));
            }
        }
        next
    }

    /// Checks a watermark at the moment at which it gets to a peer: everything of the origin with
    /// a lower clock is in effect there, or superseded.
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
                    "the watermark {hlc} of {} at {} is false: {version:?} of key {key} is not there",
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
            let is_right = worlds.len() >= MOST_WORLDS
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
}

impl World {
    fn new(regions: usize) -> Self {
        Self { highest: vec![(0, 0); regions], is_stale: vec![false; regions], issued: BTreeMap::new() }
    }

    /// Takes in a replicated write.
    fn replicated(&mut self, region: usize, stamp: &Stamp) {
        if stamp.version >= self.highest[region] {
            self.highest[region] = stamp.version;
            self.is_stale[region] = false;
        } else if !(stamp.is_mark && self.is_absent(region)) {
            self.is_stale[region] = true;
        }
    }

    /// Whether the region has nothing to show, since its highest version is a delete.
    fn is_absent(&self, region: usize) -> bool {
        !self.is_stale[region] && self.issued.get(&self.highest[region]) == Some(&None)
    }

    /// Whether a delete of an item with this mark is that mark's.
    fn merges(&self, region: usize, mark: Version) -> bool {
        self.highest[region] <= mark || self.is_absent(region)
    }

    /// A write that counts as one of this region's own, with its version by the design's rule.
    fn local(mut self, seen: &Seen, watermark: u64) -> Result<Self, String> {
        let Seen { region, change, old, new } = seen;
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
        Ok(self)
    }
}
