//! What is right: apart from the protocol, by the design's rules and the ground truth of who made
//! which write. What docs/correctness.md tells users of as limits is counted, not refused.

use std::collections::BTreeMap;

use tradewind::protocol::Stamp;

use super::catalogue::{ABSENT, BARE, Judged, NAMES, V, show_version};
use super::steps::Model;
use super::world::{Rec, State, Truth, UNIT_MILLIS};

/// What a search has seen.
#[derive(Default)]
pub(crate) struct Tally {
    /// States in which nothing is left to do.
    pub(crate) quiet: usize,
    pub(crate) heals: usize,
    /// Contended pushes that were made whatever stood.
    pub(crate) insisted: usize,
    /// The most writes of agents, by the number of application writes and of faults.
    pub(crate) agent_writes: BTreeMap<(u8, u8), usize>,
    pub(crate) limits: BTreeMap<&'static str, usize>,
}

impl Tally {
    fn limit(&mut self, name: &'static str) {
        *self.limits.entry(name).or_default() += 1;
    }
}

/// Whether a write was made on top of another, or on top of writes of its own region of which the first
/// was.
fn descends(s: &State, key: u8, version: V, from: V) -> bool {
    let mut at = version;
    while let Some(Some(base)) = s.bases.get(&(key, at)).filter(|_| at.1 == version.1) {
        if *base == from {
            return true;
        }
        at = *base;
    }
    false
}

/// Whether a region's agent knows that all that was written at a version's origin up to then has come.
fn knows_passed(s: &State, r: usize, version: Option<V>) -> bool {
    version.is_some_and(|(hlc, origin)| {
        u64::from(s.regions[r].agent.floors[usize::from(origin)]) * UNIT_MILLIS > hlc >> 20
    })
}

impl Model {
    pub(crate) fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    /// Judges what the protocol said of a record that it was shown for the first time.
    pub(crate) fn judge(&mut self, s: &mut State, r: usize, ordinal: u8, rec: &Rec, judged: &Judged) {
        let (is_local, is_echo) = (judged.verdict.is_local(), judged.verdict.is_echo());
        self.judge_what_is_seen(s, r, ordinal, rec);
        match (is_local, is_echo) {
            (true, _) => self.judge_local(s, r, ordinal, rec, judged),
            (_, true) => self.judge_echo(s, r, rec, judged),
            // A stamp beside what an application has written since.
            _ if rec.truth == Truth::AgentStamp && self.is_beside_newer(s, r, rec) => {}
            _ => self.fail("a change was taken for none".to_owned()),
        }
        if let Some((lost, _)) = judged.conflict {
            let region = &mut s.regions[r];
            if region.lost.contains(&(rec.key, lost)) {
                self.tally.limit("conflicts told twice");
            } else {
                region.lost.push((rec.key, lost));
                region.lost.sort_unstable();
            }
        }
    }

    /// Whether a stamp stands beside what an application has written since, which may be the same data.
    fn is_beside_newer(&self, s: &State, r: usize, rec: &Rec) -> bool {
        let new = self.cat.get(rec.new);
        !new.matches || new.version < Some(s.regions[r].highest[usize::from(rec.key)])
    }

    /// What the region's applications see: no agent replaces what they wrote by something older.
    fn judge_what_is_seen(&mut self, s: &mut State, r: usize, ordinal: u8, rec: &Rec) {
        let key = usize::from(rec.key);
        let before = s.regions[r].stream[..usize::from(ordinal)].iter().rev().find(|b| b.key == rec.key);
        let before = before.map(|before| before.truth);
        let unmarked = s.regions[r].stream[..usize::from(ordinal)].iter().rev();
        let unmarked = unmarked.filter(|b| b.truth != Truth::AgentMark).find(|b| b.key == rec.key);
        let is_over_put_back = unmarked.is_some_and(|b| b.truth == Truth::PutBack);
        let (old, new) = (self.cat.get(rec.old), self.cat.get(rec.new));
        // A heal knows a copy that was made elsewhere.
        let stamp = Stamp::read(&self.cat.get(rec.old).item);
        let is_foreign = stamp.is_some_and(|stamp| !stamp.nonce.is_of(&self.cat.origins[r]));
        let is_over_put_back = is_over_put_back && !(is_foreign && rec.truth == Truth::AgentHeal);
        // A seeder that looked while an older copy had been put back brings it under the copy's version.
        let is_newest_data = self.set.seeds && s.best[key].1 == new.data;
        let region = &mut s.regions[r];
        let highest = region.highest[key];
        match rec.truth {
            Truth::AgentPut | Truth::AgentHeal | Truth::AgentStamp if new.version >= Some(highest) => {
                region.stale[key] = false;
            }
            Truth::AgentPut | Truth::AgentHeal if old.data != new.data || rec.old == ABSENT => {
                let was_stale = std::mem::replace(&mut region.stale[key], true);
                if was_stale {
                    return;
                }
                let version = new.version.map_or_else(|| "?".to_owned(), show_version);
                if self.set.hasty && rec.truth == Truth::AgentPut {
                    self.tally.limit("rolled back in haste");
                } else if rec.old == ABSENT || old.data == BARE {
                    self.tally.limit("older puts over newer deletes");
                } else if is_over_put_back {
                    self.tally.limit("older puts over the same data put back");
                } else if is_newest_data {
                    self.tally.limit("seeds of the newest data in an older copy's name");
                } else {
                    self.fail(format!(
                        "{} saw its write {} rolled back by {version}",
                        NAMES[r],
                        show_version(highest)
                    ));
                }
            }
            Truth::AgentDelete if before == Some(Truth::PutBack) => {
                self.tally.limit("deletes of a marked copy that was put back");
            }
            Truth::AgentDelete if before.is_some_and(|before| !before.is_agent()) => {
                self.fail(format!("an agent deleted an update in {} that it had not seen", NAMES[r]));
            }
            Truth::AgentPut
            | Truth::AgentHeal
            | Truth::AgentStamp
            | Truth::AgentMark
            | Truth::AgentDelete => {}
            Truth::Put | Truth::Update | Truth::PutBack | Truth::Delete => region.stale[key] = false,
        }
    }

    fn judge_local(&mut self, s: &mut State, r: usize, ordinal: u8, rec: &Rec, judged: &Judged) {
        let before = s.regions[r].stream[..usize::from(ordinal)].iter().rev().find(|b| b.key == rec.key);
        let put_back = before.is_some_and(|before| before.truth == Truth::PutBack);
        if rec.truth == Truth::AgentDelete && put_back {
            // It becomes a delete of that region's own.
        } else if rec.truth.is_agent() {
            return self.fail(format!("an agent's write in {} was taken for an application's", NAMES[r]));
        }
        let (old, new) = (self.cat.get(rec.old), self.cat.get(rec.new));
        let highest = &mut s.regions[r].highest[usize::from(rec.key)];
        // Above the stamps of both images, and above all that this stream has shown of the key.
        let seen = [old.version, new.version, (*highest != (0, 0)).then_some(*highest)];
        let hlc = seen
            .into_iter()
            .flatten()
            .map(|v| v.0 + 1)
            .fold((u64::from(rec.time) * UNIT_MILLIS) << 20, u64::max);
        let version: V = (hlc, u8::try_from(r).unwrap());
        *highest = version;
        if self.set.coalesces {
            s.bases.insert((rec.key, version), judged.base);
        }
        let best = &mut s.best[usize::from(rec.key)];
        let clash = version == best.0;
        if version > best.0 {
            *best = (version, if rec.new == ABSENT { 0 } else { new.data });
        }
        if judged.version != Some(version) {
            let got = judged.version.map_or_else(|| "none".to_owned(), show_version);
            self.fail(format!(
                "a write in {} got version {got} instead of {}",
                NAMES[r],
                show_version(version)
            ));
        } else if clash {
            self.fail(format!("two writes have the version {}", show_version(version)));
        }
    }

    fn judge_echo(&mut self, s: &mut State, r: usize, rec: &Rec, judged: &Judged) {
        let (old, new) = (self.cat.get(rec.old), self.cat.get(rec.new));
        let highest = s.regions[r].highest[usize::from(rec.key)];
        let mut limit = None;
        if !rec.truth.is_agent() {
            if rec.truth == Truth::Delete && old.mark {
                limit = Some("deletes of a marked item");
            } else if rec.truth == Truth::PutBack && old.data == new.data && !new.mark {
                limit = Some("copies put back over the same data");
            } else if rec.truth == Truth::PutBack && new.mark && knows_passed(s, r, new.version) {
                // Its nonce is forgotten by then, and a heal may still come with that very mark.
                limit = Some("marked copies put back while a heal with their mark may come");
            } else {
                return self.fail(format!("an application's write in {} was taken for an echo", NAMES[r]));
            }
        }
        // A conflict, by the ground truth: a local write loses to what was not based on it.
        let won = new.version.filter(|v| {
            *v > highest
                && highest != (0, 0)
                && usize::from(highest.1) == r
                && usize::from(v.1) != r
                && new.base != Some(highest)
                && !descends(s, rec.key, *v, highest)
        });
        let told = judged.conflict.map(|(_, won)| won);
        if let Some(v) = new.version {
            let highest = &mut s.regions[r].highest[usize::from(rec.key)];
            *highest = v.max(*highest);
        }
        if let Some(name) = limit {
            return self.tally.limit(name);
        }
        match (won, told) {
            (Some(_), None) => self.tally.limit("conflicts not told"),
            (None, Some(won)) => {
                self.fail(format!(
                    "{} told a conflict that was none, won by {}",
                    NAMES[r],
                    show_version(won)
                ));
            }
            _ => {}
        }
    }

    /// Judges what the protocol says of a record that it has been shown before. Where it is to act
    /// on it, and may have acted in part, it must say the same again.
    pub(crate) fn judge_again(&mut self, r: usize, ordinal: u8, rec: &Rec, judged: &Judged, acts: bool) {
        let first = &self.cat.judgements[rec.judged as usize];
        if acts && (first.verdict, first.version) != (judged.verdict, judged.version) {
            let show = |j: &Judged| {
                format!(
                    "{:?} {}",
                    j.verdict,
                    j.version.map_or_else(|| "without version".to_owned(), show_version)
                )
            };
            let why = format!(
                "read again, record {ordinal} of {} was {}, now {}",
                NAMES[r],
                show(first),
                show(judged)
            );
            self.fail(why);
        }
    }

    /// What must hold of every state, and of every state at rest.
    pub(crate) fn check(&mut self, s: &State) -> Option<String> {
        let writes: usize = s.regions.iter().map(|region| region.stream.len()).sum();
        let by_apps = self.set.ops - s.left.ops;
        // An application's write that changes nothing makes no record.
        let by_agents = writes.saturating_sub(by_apps.into());
        let faults = s.left.faults_since(&self.set);
        let most = self.tally.agent_writes.entry((by_apps, faults)).or_default();
        *most = by_agents.max(*most);
        let bound = self.set.most_agent_writes(by_apps, faults);
        if by_agents > bound {
            return Some(format!(
                "{by_agents} writes of agents for {by_apps} of applications, above {bound}"
            ));
        }
        if !s.is_quiet() {
            return None;
        }
        self.tally.quiet += 1;
        for (r, region) in s.regions.iter().enumerate() {
            for key in 0..usize::from(self.set.keys) {
                let image = self.cat.get(region.items[key]);
                let data = if region.items[key] == ABSENT { 0 } else { image.data };
                let (version, winner) = s.best[key];
                let selects = self.set.selects && r + 1 == self.set.regions;
                // What a region wrote itself, it keeps.
                let is_for = !selects || winner % 2 == 0 || usize::from(version.1) == r;
                let winner = if is_for { winner } else { 0 };
                if data != winner {
                    return Some(format!(
                        "at rest, {} holds {data} and the highest write is {winner} at {}",
                        NAMES[r],
                        show_version(version)
                    ));
                }
                if image.mark {
                    return Some(format!("at rest, {} holds a marked item", NAMES[r]));
                }
            }
        }
        None
    }
}
