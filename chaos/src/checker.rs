//! The judge. It knows every application's write with its place in its region's stream, and works
//! out by the design's words, apart from the protocol's code, which one must survive.
//!
//! A write's version is the creation time of its record, bumped above everything that it was made
//! on top of (the stamps in the old and the new image, and the highest version that this stream had
//! shown for the key), then its origin's name. The highest version wins.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::history::{History, Image, Millis, Operation, Outcome, Seen};

/// Of each kind, violations beyond these are counted, but not told: many of one must not hide another.
const MOST_OF_A_KIND: usize = 10;
/// Lines of a key's history.
const LINES: usize = 60;

/// A clock, and the number of a region. Regions are numbered in the order of their names.
pub type Version = (u64, usize);

/// What must not be.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// What promise is broken, in a word or two.
    pub kind: &'static str,
    pub key: Option<String>,
    pub message: String,
    /// What happened to the key, in every region.
    pub history: Vec<String>,
}

/// An application's write, with the version that the rule gives it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// None is a delete.
    pub write: Option<String>,
    /// The item's data, stamp aside.
    pub data: Option<String>,
    /// When its record was read in its own region.
    pub at: Millis,
}

/// A version as it got to a region.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub region: usize,
    pub at: Millis,
    pub version: Version,
}

/// What the checker has worked out.
#[derive(Debug, Default)]
pub struct Judgement {
    pub violations: Vec<Violation>,
    /// How many there are in all.
    pub violation_count: usize,
    pub issued: BTreeMap<String, BTreeMap<Version, Issued>>,
    pub arrivals: BTreeMap<String, Vec<Arrival>>,
    /// The version of each write.
    pub versions: HashMap<String, Version>,
    pub agent_writes: usize,
    pub heals: Vec<Millis>,
    pub conflicts: Vec<Millis>,
}

/// A stamp, read without the protocol's code.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stamp {
    version: Version,
    base: Option<Version>,
    is_mark: bool,
}

impl Stamp {
    fn of(image: Option<&Image>, regions: &[String]) -> Option<Self> {
        let text = image?.stamp.as_ref()?;
        let words: Vec<&str> = text.split(' ').collect();
        let [magic, clock, origin, base_clock, base_origin, fingerprint, _] = words.as_slice() else {
            return None;
        };
        let version = |clock: &str, origin: &str| {
            let origin = regions.iter().position(|name| name == origin)?;
            Some((u64::from_str_radix(clock, 16).ok()?, origin))
        };
        let stamp = Self {
            version: version(clock, origin)?,
            base: version(base_clock, base_origin),
            is_mark: fingerprint.starts_with("x-"),
        };
        (*magic == "tw1").then_some(stamp)
    }
}

/// What one region's stream has shown of a key.
#[derive(Default)]
struct Known {
    highest: Option<Version>,
    /// The latest image is of that version.
    is_latest: bool,
    is_delete: bool,
}

/// An agent's write, to be compared with what was issued.
struct Claim<'a> {
    seen: &'a Seen,
    stamp: Option<Stamp>,
    /// The highest version that the stream had shown before.
    above: Option<Version>,
}

impl Claim<'_> {
    /// Whether it set a stamp beside what stood, which is not the mark of a delete.
    fn is_beside(&self) -> bool {
        let data = |image: &Option<Image>| image.as_ref().map(|image| image.data.clone());
        self.stamp.is_some_and(|stamp| !stamp.is_mark) && data(&self.seen.old) == data(&self.seen.new)
    }
}

/// Judges a run; `is_excused` names keys that may differ.
pub fn judge(history: &History, is_excused: impl Fn(&str) -> bool) -> Judgement {
    let mut judgement = Judgement::default();
    let mut claims = Vec::new();
    for region in 0..history.regions.len() {
        judgement.read(history, region, &mut claims);
    }
    // The worst first.
    judgement.check_stored(history, &is_excused);
    judgement.check_claims(history, &claims);
    judgement.check_acknowledged(history);
    judgement.check_effort(history);
    judgement
}

impl Judgement {
    fn fail(&mut self, history: &History, kind: &'static str, key: Option<&str>, message: String) {
        self.violation_count += 1;
        if self.violations.iter().filter(|told| told.kind == kind).count() < MOST_OF_A_KIND {
            let lines = key.map(|key| self.story(history, key)).unwrap_or_default();
            self.violations.push(Violation { kind, key: key.map(str::to_owned), message, history: lines });
        }
    }

    /// Adds a violation that is not the histories' own.
    pub fn add(&mut self, kind: &'static str, message: String) {
        self.violation_count += 1;
        self.violations.push(Violation { kind, key: None, message, history: Vec::new() });
    }

    /// Reads a region's stream: gives each application's write its version.
    fn read<'a>(&mut self, history: &'a History, region: usize, claims: &mut Vec<Claim<'a>>) {
        let mut known: HashMap<&str, Known> = HashMap::new();
        let mut made: HashSet<&str> = HashSet::new();
        let own = |write: &str| write.split(' ').next() == Some(history.regions[region].as_str());
        for seen in history.seen.iter().filter(|seen| seen.region == region && seen.old != seen.new) {
            let known = known.entry(&seen.key).or_default();
            let old = Stamp::of(seen.old.as_ref(), &history.regions);
            let new = Stamp::of(seen.new.as_ref(), &history.regions);
            let by_app = match &seen.new {
                // Every application's write has an identity that no item had before.
                Some(image) => image.write.as_deref().is_some_and(|write| own(write) && made.insert(write)),
                None => {
                    let mark = old.filter(|old| old.is_mark);
                    let carries_out = mark.is_some_and(|mark| {
                        known.is_latest && known.is_delete || known.highest <= Some(mark.version)
                    });
                    !carries_out
                }
            };
            if by_app {
                let floors = [old.map(|stamp| stamp.version.0), new.map(|stamp| stamp.version.0)];
                let floors = floors.into_iter().chain([known.highest.map(|version| version.0)]).flatten();
                let clock = floors.map(|floor| floor + 1).fold(seen.created << 20, u64::max);
                let version = (clock, region);
                let issued = Issued {
                    write: seen.new.as_ref().and_then(|image| image.write.clone()),
                    data: seen.new.as_ref().map(|image| image.data.clone()),
                    at: seen.at,
                };
                if let Some(write) = &issued.write {
                    self.versions.insert(write.clone(), version);
                }
                *known = Known { highest: Some(version), is_latest: true, is_delete: issued.write.is_none() };
                self.issued.entry(seen.key.clone()).or_default().insert(version, issued);
                self.arrive(seen, version);
                continue;
            }
            self.agent_writes += 1;
            let claim = Claim { seen, stamp: new, above: known.highest };
            let is_beside = claim.is_beside();
            claims.push(claim);
            let Some(stamp) = new else { continue };
            if is_beside {
                continue;
            }
            if Some(stamp.version) >= known.highest {
                *known = Known { highest: Some(stamp.version), is_latest: true, is_delete: stamp.is_mark };
            } else if !(stamp.is_mark && known.is_delete) {
                known.is_latest = false;
            }
            if stamp.version.1 == region {
                self.heals.push(seen.at);
            } else if old.is_some_and(|old| stamp.base != Some(old.version) && stamp.version > old.version) {
                self.conflicts.push(seen.at);
            }
            self.arrive(seen, stamp.version);
        }
    }

    fn arrive(&mut self, seen: &Seen, version: Version) {
        let arrival = Arrival { region: seen.region, at: seen.at, version };
        self.arrivals.entry(seen.key.clone()).or_default().push(arrival);
    }

    /// What agents wrote must be what applications wrote, with the version of the rule.
    fn check_claims(&mut self, history: &History, claims: &[Claim]) {
        for claim in claims {
            let Claim { seen, stamp, above } = claim;
            let Some(image) = &seen.new else { continue };
            let region = &history.regions[seen.region];
            let key = Some(seen.key.as_str());
            let Some(stamp) = stamp else {
                let message = format!("{region}: an agent wrote an item without a stamp");
                self.fail(history, "unstamped", key, message);
                continue;
            };
            let issued = self.issued.get(&seen.key).and_then(|issued| issued.get(&stamp.version));
            // Beside data that it does not fit, a stamp says that this is newer.
            let is_older =
                claim.is_beside() && stamp.version.1 == seen.region && Some(stamp.version) < *above;
            let is_right = issued.is_some_and(|issued| {
                if stamp.is_mark {
                    issued.write.is_none()
                } else {
                    is_older || issued.data.as_ref() == Some(&image.data)
                }
            });
            if !is_right {
                let what = if stamp.is_mark { "a delete" } else { image.write.as_deref().unwrap_or("?") };
                let told = show(history, stamp.version);
                let real = image.write.as_ref().and_then(|write| self.versions.get(write));
                let real = real.map_or("no write".to_owned(), |real| show(history, *real));
                let message = format!(
                    "{region}: an agent wrote {what} as {told}; by the rule, what it wrote is {real}"
                );
                self.fail(history, "false version", key, message);
            }
        }
    }

    /// What was acknowledged must be in its region's stream, or the run proves nothing.
    fn check_acknowledged(&mut self, history: &History) {
        for write in &history.writes {
            let must = write.outcome == Outcome::Acknowledged && write.operation != Operation::Delete;
            if must && !self.versions.contains_key(&write.id) && history.stored[write.region].is_some() {
                let message = format!("{}: acknowledged, but it is not in its region's stream", write.id);
                self.fail(history, "not in the stream", Some(&write.key), message);
            }
        }
    }

    fn check_stored(&mut self, history: &History, is_excused: &impl Fn(&str) -> bool) {
        let empty = BTreeMap::new();
        let mut keys: Vec<String> = self.issued.keys().cloned().collect();
        let stored = history.stored.iter().flatten().flat_map(BTreeMap::keys);
        keys.extend(stored.filter(|key| !self.issued.contains_key(*key)).cloned());
        keys.sort();
        keys.dedup();
        for key in keys.iter().filter(|key| !is_excused(key)) {
            let winner = self.issued.get(key).unwrap_or(&empty).last_key_value();
            let winner = winner.map(|(version, issued)| (*version, issued.clone()));
            let data = winner.as_ref().and_then(|(_, issued)| issued.data.clone());
            for (region, items) in history.stored.iter().enumerate() {
                let (Some(items), name) = (items, &history.regions[region]) else { continue };
                let image = items.get(key);
                if Stamp::of(image, &history.regions).is_some_and(|stamp| stamp.is_mark) {
                    let message = format!("{name} still holds an item that is marked for deletion");
                    self.fail(history, "left marked", Some(key), message);
                    continue;
                }
                if image.map(|image| &image.data) == data.as_ref() {
                    continue;
                }
                let held = image.map_or("nothing", |image| image.write.as_deref().unwrap_or("?"));
                let wins =
                    winner.as_ref().map_or("nothing was ever written".to_owned(), |(version, issued)| {
                        let what = issued.write.as_deref().unwrap_or("a delete");
                        format!("the last writer is {what} ({})", show(history, *version))
                    });
                let kind = match (&data, image) {
                    (None, _) => "resurrected",
                    (Some(_), None) => "vanished",
                    (Some(_), Some(_)) => "last writer lost",
                };
                self.fail(history, kind, Some(key), format!("{name} holds {held}, but {wins}"));
            }
        }
    }

    /// An application's write costs one write a peer, a delete two and one more where it healed.
    fn check_effort(&mut self, history: &History) {
        let made: usize = self.issued.values().map(BTreeMap::len).sum();
        let bound = made * 4 * (history.regions.len() - 1) + 50;
        if self.agent_writes > bound {
            let message = format!("agents made {} writes for {made} of applications", self.agent_writes);
            self.fail(history, "amplified", None, message);
        }
    }

    /// What happened to a key, in every region, in the order of time.
    fn story(&self, history: &History, key: &str) -> Vec<String> {
        let mut lines: Vec<(Millis, String)> = Vec::new();
        for seen in history.seen.iter().filter(|seen| seen.key == key) {
            let image = |image: &Option<Image>| {
                let Some(image) = image else { return "-".to_owned() };
                let stamp = Stamp::of(Some(image), &history.regions);
                let stamp = stamp.map(|stamp| {
                    format!(
                        " [{}{}]",
                        show(history, stamp.version),
                        if stamp.is_mark { ", marked" } else { "" }
                    )
                });
                format!("{}{}", image.write.as_deref().unwrap_or("(keys only)"), stamp.unwrap_or_default())
            };
            let region = &history.regions[seen.region];
            lines.push((seen.at, format!("{region}'s stream: {} -> {}", image(&seen.old), image(&seen.new))));
        }
        for write in history.writes.iter().filter(|write| write.key == key) {
            let version =
                self.versions.get(&write.id).map(|version| format!(", {}", show(history, *version)));
            let (id, operation, outcome) = (&write.id, write.operation, write.outcome);
            let line = format!("{id}: {operation:?}, {outcome:?}{}", version.unwrap_or_default());
            lines.push((write.done, line));
        }
        // Each stream keeps its order.
        lines.sort_by_key(|(at, _)| *at);
        let skipped = lines.len().saturating_sub(LINES);
        let mut told: Vec<String> =
            (skipped > 0).then(|| format!("({skipped} lines before)")).into_iter().collect();
        told.extend(
            lines
                .into_iter()
                .skip(skipped)
                .map(|(at, line)| format!("{}.{:03} s  {line}", at / 1000, at % 1000)),
        );
        told
    }
}

fn show(history: &History, (clock, region): Version) -> String {
    format!("{}.{}@{}", clock >> 20, clock & 0xf_ffff, history.regions[region])
}
