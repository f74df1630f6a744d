//! The judge. It knows every application's write with its place in its region's stream, and determines by the
//! design's rules, independently of the protocol's code, which one must survive.
//!
//! A write's version is the creation time of its record, bumped above everything that it was made on top of
//! (the stamps in the old and the new image, and the highest version that this stream had shown for the key),
//! then its origin's name. The highest version wins.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::history::{History, Image, Millis, Operation, Outcome, Seen};
use crate::rollback::{Deletes, Rollback, Soles};

/// The most violations of each kind to show; the rest are only counted: many of one kind must not hide
/// another.
const MOST_OF_A_KIND: usize = 10;
/// How many lines of a key's history to show, and how many of them may follow the violation.
const LINES: usize = 60;
const LINES_AFTER: usize = 10;

/// A clock, and the number of a region. Regions are numbered in the order of their names.
pub type Version = (u64, usize);

/// A violation of a promise.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// The promise that was broken, in a word or two.
    pub kind: &'static str,
    pub key: Option<String>,
    pub message: String,
    /// What happened to the key, in every region.
    pub history: Vec<String>,
}

/// An application's write, with the version that the rule gives it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// `None` for a delete.
    pub write: Option<String>,
    /// The item's data, without the stamp.
    pub data: Option<String>,
    /// When its record was read in its own region.
    pub at: Millis,
}

/// A version as it reached a region.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub region: usize,
    pub at: Millis,
    pub version: Version,
}

/// What a record is.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub is_by_app: bool,
    /// The version that it brought; `None` for a delete that an agent applied.
    pub version: Option<Version>,
    /// Whether an agent marked the item to be deleted.
    pub is_mark: bool,
}

/// The checker's findings.
#[derive(Debug, Default)]
pub struct Judgement {
    pub violations: Vec<Violation>,
    /// How many there are in all.
    pub violation_count: usize,
    pub issued: BTreeMap<String, BTreeMap<Version, Issued>>,
    /// By the record's number in the history; none for one that changed nothing.
    pub accounts: BTreeMap<usize, Account>,
    pub arrivals: BTreeMap<String, Vec<Arrival>>,
    /// The version of each write.
    pub versions: HashMap<String, Version>,
    pub agent_writes: usize,
    pub heals: Vec<Millis>,
    pub conflicts: Vec<Millis>,
    /// Agents' writes in the place of newer ones.
    pub rollbacks: Vec<Rollback>,
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
    /// Whether the latest image is of that version.
    is_latest: bool,
    is_delete: bool,
    /// When an application sent it, or when it was read.
    since: Millis,
    /// The newest of the rollbacks, if it has not been corrected.
    rolled_back: Option<usize>,
}

/// What else is known about the region whose stream is read.
struct Context<'a> {
    region: usize,
    /// When each write was sent.
    sent: HashMap<&'a str, Millis>,
    soles: Soles<'a>,
    deletes: Deletes<'a>,
}

/// An agent's write, to be compared with what was issued.
struct Claim<'a> {
    seen: &'a Seen,
    stamp: Option<Stamp>,
    /// The highest version that the stream had shown before.
    above: Option<Version>,
}

impl Claim<'_> {
    /// Whether it set a stamp, other than a delete mark, beside what was stored.
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
    judgement.check_rollbacks(history);
    judgement.check_counts(history);
    judgement.check_locks(history);
    judgement.check_claims(history, &claims);
    judgement.check_acknowledged(history);
    judgement.check_effort(history);
    judgement
}

impl Judgement {
    /// Records a violation, with all that happened to its key.
    pub fn fail(&mut self, history: &History, kind: &'static str, key: Option<&str>, message: String) {
        self.fail_at(history, kind, key, Millis::MAX, message);
    }

    /// Records a violation seen at this time.
    fn fail_at(
        &mut self,
        history: &History,
        kind: &'static str,
        key: Option<&str>,
        at: Millis,
        message: String,
    ) {
        self.violation_count += 1;
        if self.violations.iter().filter(|told| told.kind == kind).count() < MOST_OF_A_KIND {
            let lines = key.map(|key| self.story(history, key, at)).unwrap_or_default();
            self.violations.push(Violation { kind, key: key.map(str::to_owned), message, history: lines });
        }
    }

    /// Adds a violation that does not come from the histories.
    pub fn add(&mut self, kind: &'static str, message: String) {
        self.violation_count += 1;
        self.violations.push(Violation { kind, key: None, message, history: Vec::new() });
    }

    /// Reads a region's stream, giving each application's write its version.
    fn read<'a>(&mut self, history: &'a History, region: usize, claims: &mut Vec<Claim<'a>>) {
        let mut known: HashMap<&str, Known> = HashMap::new();
        let mut made: HashSet<&str> = HashSet::new();
        let mut context = Context {
            region,
            sent: history.writes.iter().map(|write| (write.id.as_str(), write.sent)).collect(),
            soles: Soles::of(history),
            deletes: Deletes::of(history, region),
        };
        let own = |write: &str| write.split(' ').next() == Some(history.regions[region].as_str());
        let is_change = |seen: &Seen| seen.region == region && seen.old != seen.new;
        for (number, seen) in history.seen.iter().enumerate().filter(|(_, seen)| is_change(seen)) {
            let known = known.entry(&seen.key).or_default();
            let old = Stamp::of(seen.old.as_ref(), &history.regions);
            let new = Stamp::of(seen.new.as_ref(), &history.regions);
            let by_app = match &seen.new {
                // Every application's write has an identity that no item had before.
                Some(image) => image.write.as_deref().is_some_and(|write| own(write) && made.insert(write)),
                None => {
                    let mark = old.filter(|old| old.is_mark);
                    let applies_it = mark.is_some_and(|mark| {
                        known.is_latest && known.is_delete || known.highest <= Some(mark.version)
                    });
                    !applies_it
                }
            };
            if by_app {
                let version = Some(self.by_app(seen, [old, new], known, &mut context));
                self.accounts.insert(number, Account { is_by_app: true, version, is_mark: false });
                continue;
            }
            let (version, is_mark) = (new.map(|new| new.version), new.is_some_and(|new| new.is_mark));
            self.accounts.insert(number, Account { is_by_app: false, version, is_mark });
            self.agent_writes += 1;
            let claim = Claim { seen, stamp: new, above: known.highest };
            if let Some(stamp) = new.filter(|_| !claim.is_beside()) {
                self.by_agent(seen, old, stamp, known, &context);
            }
            claims.push(claim);
        }
    }

    /// Records an application's write. Returns its version.
    fn by_app(
        &mut self,
        seen: &Seen,
        stamps: [Option<Stamp>; 2],
        known: &mut Known,
        context: &mut Context,
    ) -> Version {
        let floors = stamps.into_iter().flatten().map(|stamp| stamp.version);
        let floors = floors.chain(known.highest).map(|version| version.0 + 1);
        let version = (floors.fold(seen.created << 20, u64::max), context.region);
        let issued = Issued {
            write: seen.new.as_ref().and_then(|image| image.write.clone()),
            data: seen.new.as_ref().map(|image| image.data.clone()),
            at: seen.at,
        };
        let mut since = seen.at;
        if let Some(write) = &issued.write {
            self.versions.insert(write.clone(), version);
            since = context.sent.get(write.as_str()).copied().unwrap_or(since);
        } else if !context.deletes.explain(seen, &context.sent) {
            self.rollbacks.push(Rollback::delete(seen, known.highest));
        }
        self.make_good(known, seen.at);
        *known = Known {
            highest: Some(version),
            is_latest: true,
            is_delete: issued.write.is_none(),
            since,
            rolled_back: None,
        };
        self.issued.entry(seen.key.clone()).or_default().insert(version, issued);
        self.arrive(seen, version);
        version
    }

    /// Records an agent's write that is more than a stamp in place.
    fn by_agent(
        &mut self,
        seen: &Seen,
        old: Option<Stamp>,
        stamp: Stamp,
        known: &mut Known,
        context: &Context,
    ) {
        if !stamp.is_mark && context.soles.writer(&seen.key) == Some(context.region) {
            self.rollbacks.push(Rollback::of_sole(seen, stamp.version, known.highest));
        } else if let Some(lost) = known.highest.filter(|highest| stamp.version < *highest)
            && known.is_latest
            && !known.is_delete
            && !stamp.is_mark
        {
            known.rolled_back = Some(self.rollbacks.len());
            self.rollbacks.push(Rollback::of(seen, stamp.version, lost, known.since));
        }
        if Some(stamp.version) >= known.highest {
            self.make_good(known, seen.at);
            *known = Known {
                highest: Some(stamp.version),
                is_latest: true,
                is_delete: stamp.is_mark,
                since: seen.at,
                rolled_back: None,
            };
        } else if !(stamp.is_mark && known.is_delete) {
            known.is_latest = false;
        }
        if stamp.version.1 == context.region {
            self.heals.push(seen.at);
        } else if old.is_some_and(|old| stamp.base != Some(old.version) && stamp.version > old.version) {
            self.conflicts.push(seen.at);
        }
        self.arrive(seen, stamp.version);
    }

    /// Records that something at least as new is stored where an older write had replaced a newer one.
    fn make_good(&mut self, known: &Known, at: Millis) {
        if let Some(rollback) = known.rolled_back.and_then(|number| self.rollbacks.get_mut(number)) {
            rollback.until = Some(at);
        }
    }

    fn arrive(&mut self, seen: &Seen, version: Version) {
        let arrival = Arrival { region: seen.region, at: seen.at, version };
        self.arrivals.entry(seen.key.clone()).or_default().push(arrival);
    }

    /// What agents wrote must be what applications wrote, with the version by the rule.
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
            // Beside data that it does not fit, a stamp says that the data is newer.
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
                let message = format!("{region}: an agent wrote {what} as {told}; by the rule, it is {real}");
                self.fail_at(history, "false version", key, seen.at, message);
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

    /// No agent's write may replace an application's newer one.
    fn check_rollbacks(&mut self, history: &History) {
        for rollback in &mut self.rollbacks {
            let issued = self.issued.get(&rollback.key);
            let issued = rollback.won.and_then(|won| issued?.get(&won));
            rollback.waited = issued.map(|issued| rollback.at.saturating_sub(issued.at));
        }
        for rollback in self.rollbacks.clone().iter().filter(|rollback| !rollback.is_late()) {
            let name = |version: Option<Version>| version.map_or("?".to_owned(), |at| show(history, at));
            let (region, lost) = (&history.regions[rollback.region], name(rollback.lost));
            let message = match rollback.won {
                None => format!("{region}: an agent deleted an update, {lost}, that no application deleted"),
                Some(_) if rollback.is_sole => format!(
                    "{region}: an agent put {} over an item that only this region's application writes, {lost}",
                    name(rollback.won)
                ),
                Some(_) => format!(
                    "{region}: an agent put {} over a newer write, {lost}, {} ms old",
                    name(rollback.won),
                    rollback.age
                ),
            };
            self.fail_at(history, "rolled back", Some(&rollback.key), rollback.at, message);
        }
    }

    /// If only one region writes an item that only counts, its count is the number of that region's writes,
    /// at every moment.
    fn check_counts(&mut self, history: &History) {
        let soles = Soles::of(history);
        let mut counted: HashMap<&str, u64> = HashMap::new();
        let mut made: HashSet<&str> = HashSet::new();
        for seen in &history.seen {
            let Some(image) = seen.new.as_ref().filter(|_| soles.counts(&seen.key) == Some(seen.region))
            else {
                continue;
            };
            let count = counted.entry(&seen.key).or_default();
            *count += u64::from(image.write.as_deref().is_some_and(|write| made.insert(write)));
            if image.count != Some(*count) {
                let region = &history.regions[seen.region];
                let message = format!("{region}: {:?} stood after {count} writes", image.count);
                self.fail_at(history, "count went back", Some(&seen.key), seen.at, message);
            }
        }
        // What an application was told: the last count, and how many writes may have been made since.
        let mut answers: HashMap<&str, (u64, u64)> = HashMap::new();
        for write in &history.writes {
            if soles.counts(&write.key) != Some(write.region) {
                continue;
            }
            let (last, since) = answers.entry(&write.key).or_default();
            let Some(count) = write.count else {
                *since += 1;
                continue;
            };
            let range = *last + 1..=*last + 1 + *since;
            (*last, *since) = (count, 0);
            if !range.contains(&count) {
                let message = format!("{}: it was told {count}, which must be in {range:?}", write.id);
                self.fail_at(history, "count went back", Some(&write.key), write.done, message);
            }
        }
    }

    /// A lock has one holder until that one releases it.
    fn check_locks(&mut self, history: &History) {
        let writes: HashMap<&str, &crate::history::AppWrite> =
            history.writes.iter().map(|write| (write.id.as_str(), write)).collect();
        let mut holders: HashMap<&str, &str> = HashMap::new();
        let mut made: HashSet<&str> = HashSet::new();
        for seen in &history.seen {
            let Some(id) = seen.new.as_ref().and_then(|image| image.write.as_deref()) else { continue };
            let Some(write) = writes.get(id).filter(|write| write.operation.locks()) else { continue };
            if write.region != seen.region || !made.insert(id) {
                continue;
            }
            let holder = seen.new.as_ref().and_then(|image| image.holder.as_deref());
            let before = match holder {
                Some(holder) => holders.insert(&seen.key, holder),
                None => {
                    holders.remove(seen.key.as_str());
                    None
                }
            };
            if let (Some(before), Some(holder)) = (before, holder) {
                let message = format!("{holder} took the lock ({id}) that {before} holds");
                self.fail_at(history, "two holders", Some(&seen.key), seen.at, message);
            }
        }
    }

    /// An application's write costs one write for each peer, a delete two, and one more if it was healed.
    fn check_effort(&mut self, history: &History) {
        let made: usize = self.issued.values().map(BTreeMap::len).sum();
        let bound = made * 4 * (history.regions.len() - 1) + 50;
        if self.agent_writes > bound {
            let message = format!("agents made {} writes for {made} by applications", self.agent_writes);
            self.fail(history, "amplified", None, message);
        }
    }

    /// What happened to a key, in every region, in chronological order, until shortly after this moment.
    fn story(&self, history: &History, key: &str, at: Millis) -> Vec<String> {
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
        let until = lines.partition_point(|(when, _)| *when <= at) + LINES_AFTER;
        lines.truncate(until);
        let skipped = lines.len().saturating_sub(LINES);
        let mut told: Vec<String> =
            (skipped > 0).then(|| format!("({skipped} earlier lines)")).into_iter().collect();
        told.extend(
            lines
                .into_iter()
                .skip(skipped)
                .map(|(at, line)| format!("{}.{:03} s  {line}", at / 1000, at % 1000)),
        );
        told
    }
}

pub fn show(history: &History, (clock, region): Version) -> String {
    format!("{}.{}@{}", clock >> 20, clock & 0xf_ffff, history.regions[region])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::history::AppWrite;

    /// A stamp with a clock of so many milliseconds.
    fn stamp(millis: u64, region: &str, is_mark: bool) -> String {
        let mark = if is_mark { "x-" } else { "" };
        format!("tw1 {:016x} {region} - - {mark}0 {millis:016x}", millis << 20)
    }

    /// The history of one key in two regions, built record by record.
    #[derive(Default)]
    struct Story {
        history: History,
        at: Millis,
    }

    impl Story {
        fn new() -> Self {
            let regions = ["dublin", "tokyo"].map(str::to_owned).to_vec();
            Self { history: History { regions, stored: vec![None, None], ..History::default() }, at: 1_000 }
        }

        fn image(write: &str, count: u64, holder: Option<&str>, stamp: Option<String>) -> Image {
            let (write, holder) = (Some(write.to_owned()), holder.map(str::to_owned));
            let data = format!("{write:?} {count} {holder:?}");
            Image { write, count: Some(count), holder, stamp, data }
        }

        fn standing(&self, region: usize) -> Option<Image> {
            self.history.seen.iter().rfind(|seen| seen.region == region)?.new.clone()
        }

        fn after(mut self, millis: Millis) -> Self {
            self.at += millis;
            self
        }

        fn record(mut self, region: usize, new: Option<Image>) -> Self {
            let (old, key, at) = (self.standing(region), "k".to_owned(), self.at);
            let sequence = self.history.seen.len().to_string();
            self.history.seen.push(Seen { region, key, sequence, at, created: at, old, new });
            self.at += 10;
            self
        }

        /// An application's write, whose ID begins with its region.
        fn app(self, operation: Operation, write: &str, count: u64, holder: Option<&str>) -> Self {
            let region = usize::from(write.starts_with("tokyo"));
            let stamp = self.standing(region).and_then(|image| image.stamp);
            let image = Self::image(write, count, holder, stamp);
            self.told(operation, write, None)
                .record(region, (operation != Operation::Delete).then_some(image))
        }

        fn told(mut self, operation: Operation, write: &str, count: Option<u64>) -> Self {
            let (region, at) = (usize::from(write.starts_with("tokyo")), self.at);
            let (id, key) = (write.to_owned(), "k".to_owned());
            let outcome = Outcome::Acknowledged;
            let (sent, done) = (at, at);
            self.history.writes.push(AppWrite { id, region, key, operation, outcome, count, sent, done });
            self
        }

        fn kinds(&self) -> Vec<&'static str> {
            judge(&self.history, |_| true).violations.iter().map(|violation| violation.kind).collect()
        }
    }

    #[test]
    fn an_older_write_in_the_place_of_a_newer_one_is_a_rollback_unless_it_has_waited() {
        let story = |waits| {
            let story = Story::new().app(Operation::Update, "tokyo 0", 0, None);
            let older = story.history.seen[0].created;
            story
                .app(Operation::Update, "dublin 0", 0, None)
                .after(waits)
                .record(0, Some(Story::image("tokyo 0", 0, None, Some(stamp(older, "tokyo", false)))))
        };
        assert_eq!(story(100).kinds(), ["rolled back"]);
        let (history, none) = (story(3_000).history, [] as [&str; 0]);
        assert_eq!(story(3_000).kinds(), none);
        let rollback = judge(&history, |_| true).rollbacks.remove(0);
        assert_eq!((rollback.is_late(), rollback.age, rollback.until), (true, 3_010, None));
    }

    #[test]
    fn an_older_put_over_a_newer_delete_is_none() {
        let story = Story::new().app(Operation::Update, "tokyo 0", 0, None);
        let older = story.history.seen[0].created;
        let story = story
            .app(Operation::Put, "dublin 0", 0, None)
            .app(Operation::Delete, "dublin 1", 0, None)
            .record(0, Some(Story::image("tokyo 0", 0, None, Some(stamp(older, "tokyo", false)))));
        assert_eq!(story.kinds(), [] as [&str; 0]);
    }

    #[test]
    fn an_applied_delete_is_no_rollback_and_an_updates_delete_is_one() {
        let story = |updates: bool| {
            let story = Story::new().app(Operation::Put, "tokyo 0", 0, None);
            let older = story.history.seen[0].created;
            let put = |is_mark| {
                Story::image("tokyo 0", 0, None, Some(stamp(older + u64::from(is_mark), "tokyo", is_mark)))
            };
            let mut story = story.record(0, Some(put(false)));
            story.at = older + 1;
            let mut story = story.app(Operation::Delete, "tokyo 1", 0, None);
            story.at += 100;
            let story = story.record(0, Some(put(true)));
            let story = if updates { story.app(Operation::Update, "dublin 0", 0, None) } else { story };
            story.record(0, None)
        };
        assert_eq!(story(false).kinds(), [] as [&str; 0]);
        assert_eq!(story(true).kinds(), ["rolled back"]);
    }

    #[test]
    fn a_count_is_that_of_its_writes_at_every_moment() {
        let story = || {
            Story::new().app(Operation::Add, "dublin 0", 1, None).app(Operation::Swap, "dublin 1", 2, None)
        };
        assert_eq!(story().kinds(), [] as [&str; 0]);
        assert_eq!(story().app(Operation::Add, "dublin 2", 2, None).kinds(), ["count went back"]);
        let first = story().history.seen[0].created;
        let undone =
            story().record(0, Some(Story::image("dublin 0", 1, None, Some(stamp(first, "dublin", false)))));
        assert_eq!(undone.kinds(), ["rolled back", "count went back"]);
        let told = |counts: [u64; 2]| {
            let story = Story::new().told(Operation::Add, "dublin 0", Some(counts[0]));
            story.told(Operation::Add, "dublin 1", Some(counts[1])).kinds()
        };
        assert!(!told([1, 2]).contains(&"count went back"));
        assert!(told([1, 1]).contains(&"count went back"));
    }

    #[test]
    fn a_lock_has_one_holder() {
        let story = || {
            Story::new()
                .app(Operation::Lock, "dublin 0", 0, Some("one"))
                .app(Operation::Unlock, "dublin 1", 0, None)
                .app(Operation::Lock, "dublin 2", 0, Some("two"))
        };
        assert_eq!(story().kinds(), [] as [&str; 0]);
        assert_eq!(story().app(Operation::Lock, "dublin 3", 0, Some("one")).kinds(), ["two holders"]);
    }

    #[test]
    fn a_stamp_beside_newer_data_is_right_and_one_of_another_region_is_not() {
        let story = |region| {
            let story = Story::new().app(Operation::Update, "tokyo 0", 0, None);
            let story = story.app(Operation::Update, "dublin 0", 0, None);
            let version = story.history.seen[usize::from(region == "dublin")].created;
            let story = story.app(Operation::Update, "dublin 1", 0, None);
            story.record(0, Some(Story::image("dublin 1", 0, None, Some(stamp(version, region, false)))))
        };
        assert_eq!(story("dublin").kinds(), [] as [&str; 0]);
        assert_eq!(story("tokyo").kinds(), ["false version"]);
    }

    #[test]
    fn what_is_told_stops_soon_after_what_is_told_of() {
        let mut story = Story::new().app(Operation::Add, "dublin 0", 7, None);
        for number in 1..100 {
            story = story.app(Operation::Add, &format!("dublin {number}"), 7 + number, None);
        }
        let judgement = judge(&story.history, |_| true);
        assert!(judgement.violations[0].history.len() < 20);
        assert_eq!(BTreeMap::len(&judgement.issued["k"]), 100);
    }
}
