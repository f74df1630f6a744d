//! Which copies bring regions to the same item where no stream does: for what was written before the streams
//! were on, or was lost in them.
//!
//! A seed is a put that is older than every write to come: it has the version of the item that it copies, and
//! its base says under which hold it was made. It is correct only between two moments:
//!
//! - From when every agent of the table has noticed the hold, everything written anywhere before that is
//!   everywhere, and agents have corrected what that left wrong: so regions must have shown the same twice,
//!   and between these everything written before the first must have been done everywhere. Then they show the
//!   newest of everything forgotten, and everything that comes later is remembered: if a seed replaces it, or
//!   is stored where it deleted something, the agent corrects that, as with any older write.
//! - Until the hold is over. From then on, a seed that appears is an application's put-back.

use std::sync::Arc;

use super::{Body, Fingerprint, Hlc, Item, Origin, STAMP, Selections, Stamp, Version, Write};

/// One copy, on its way to a region. It replaces exactly what the region showed, and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Seed {
    pub region: Origin,
    pub write: Write,
    /// What it replaces has no version of its own: no version shows that it was older.
    pub is_clash: bool,
}

/// What to do about a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Seeding {
    /// Nothing: all regions hold the same.
    Same,
    /// Nothing now: an agent is about to delete it.
    Marked,
    /// Copies of what is newer, or was in one region only.
    Copy(Vec<Seed>),
    /// The same, but no version shows which of the items is newer.
    Clash(Vec<Seed>),
}

/// What one region holds.
struct Holding<'a> {
    region: &'a Origin,
    item: Option<&'a Item>,
    fingerprint: Option<Fingerprint>,
    /// The version in its stamp. An application that wrote on top of a stamp, and kept it, has at least a
    /// version above it. `None` without a stamp, or with an earlier seeder's for what had none.
    version: Option<Version>,
    /// Whether the version is the item's own.
    is_exact: bool,
}

impl<'a> Holding<'a> {
    fn of(region: &'a Origin, item: Option<&'a Item>) -> Self {
        let stamp = item.and_then(Stamp::read).filter(|stamp| stamp.version.is_agents());
        let is_exact = stamp.as_ref().zip(item).is_some_and(|(stamp, item)| stamp.matches(item));
        let version = stamp.map(|Stamp { version, .. }| {
            if is_exact { version } else { Version { hlc: version.hlc.next(), origin: region.clone() } }
        });
        Self { region, item, fingerprint: item.map(Fingerprint::of), version, is_exact }
    }
}

/// What brings regions to the same item of a key, under a hold of this number.
///
/// An item with a version wins over one without, and a higher version over a lower one. What an application
/// wrote on top of a version, keeping its stamp, is above that version. If none has a version, the region
/// that comes first here wins. Only `to` are written to, and each only with what its selection shows; from a
/// region whose writes stay there, nothing is copied, and what it wrote last is left alone.
pub fn seed(
    key: &Item,
    items: &[(Origin, Option<Item>)],
    selections: &Selections,
    to: &[Origin],
    hold: u64,
) -> Seeding {
    let is_marked = |item: &Item| Stamp::read(item).is_some_and(|stamp| stamp.is_mark());
    if items.iter().filter_map(|(_, item)| item.as_ref()).any(is_marked) {
        return Seeding::Marked;
    }
    let holdings: Vec<_> = items.iter().map(|(region, item)| Holding::of(region, item.as_ref())).collect();
    let sources = || holdings.iter().filter(|holding| !selections.keeps(holding.region));
    let versioned = sources().filter(|holding| holding.version.is_some());
    let newest = versioned.max_by(|a, b| a.version.cmp(&b.version));
    let Some(winner) = newest.or_else(|| sources().find(|holding| holding.item.is_some())) else {
        return Seeding::Same;
    };
    let (Some(item), Some(fingerprint)) = (winner.item, winner.fingerprint) else { return Seeding::Same };
    let mut data = item.clone();
    data.remove(STAMP);
    // Below everything that an agent ever assigns, and above what an earlier hold assigned.
    let lowest = || Version { hlc: Hlc::from(hold), origin: winner.region.clone() };
    let write = Write {
        key: key.clone(),
        version: winner.version.clone().unwrap_or_else(lowest),
        base: Some(Version { hlc: Hlc::from(hold), origin: Origin::seeding() }),
        body: Body::Put(Arc::new(data), fingerprint),
        replaced: None,
        home: None,
    };
    let mut is_clash = false;
    let mut seeds = Vec::new();
    for holding in &holdings {
        let region = holding.region;
        let Some(view) = selections.view(winner.region, region, &write) else { continue };
        // Its agents delete what is not for a region.
        let Body::Put(_, shown) = &view.body else { continue };
        if holding.fingerprint == Some(*shown) {
            continue;
        }
        let is_unversioned = holding.item.is_some() && !holding.is_exact;
        if is_unversioned && selections.keeps(region) {
            continue;
        }
        is_clash |= holding.item.is_some() && !(holding.is_exact && winner.is_exact);
        if to.contains(region) {
            let replaced = holding.item.cloned().map(Arc::new);
            let write = Write { replaced, ..view.into_owned() };
            seeds.push(Seed { region: region.clone(), write, is_clash: is_unversioned });
        }
    }
    if is_clash {
        Seeding::Clash(seeds)
    } else if seeds.is_empty() {
        Seeding::Same
    } else {
        Seeding::Copy(seeds)
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeSet;

    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::protocol::{Guard, Nonce, Selection, Test};

    const HOLD: u64 = 7;

    fn name(name: &str) -> Origin {
        name.parse().expect("a name")
    }

    fn nonce(random: u64) -> Nonce {
        Nonce::new(&name("a"), random)
    }

    fn key() -> Item {
        Item::from([("pk".to_owned(), AttributeValue::S("k".to_owned()))])
    }

    fn bare(data: &str) -> Item {
        let mut item = key();
        item.insert("v".to_owned(), AttributeValue::S(data.to_owned()));
        item
    }

    fn at(minutes: u64, origin: &str) -> Version {
        Version { hlc: Hlc::at_millis(minutes * 60_000), origin: name(origin) }
    }

    fn stamped(data: &str, version: Version) -> Item {
        let item = bare(data);
        let body = Body::Put(Arc::new(item.clone()), Fingerprint::of(&item));
        let write = Write { key: key(), version, base: None, body, replaced: None, home: None };
        with(item, &write.stamp(nonce(1), &Guard::Absent))
    }

    fn with(mut item: Item, stamp: &Stamp) -> Item {
        item.insert(STAMP.to_owned(), AttributeValue::S(stamp.to_string()));
        item
    }

    fn held(items: [Option<Item>; 3]) -> Vec<(Origin, Option<Item>)> {
        ["a", "b", "c"].map(name).into_iter().zip(items).collect()
    }

    fn all() -> Vec<Origin> {
        ["a", "b", "c"].map(name).into()
    }

    fn decide(items: [Option<Item>; 3]) -> Seeding {
        seed(&key(), &held(items), &Selections::default(), &all(), HOLD)
    }

    fn told(seeds: &[Seed]) -> Vec<(&str, Version, Option<&Item>, bool)> {
        seeds
            .iter()
            .map(|Seed { region, write, is_clash }| {
                (region.as_str(), write.version.clone(), write.replaced.as_deref(), *is_clash)
            })
            .collect()
    }

    #[test]
    fn what_is_in_one_region_only_is_copied_below_all_versions() {
        let Seeding::Copy(seeds) = decide([None, Some(bare("one")), Some(bare("one"))]) else { panic!() };
        let lowest = Version { hlc: Hlc::from(HOLD), origin: name("b") };
        assert_eq!(told(&seeds), [("a", lowest.clone(), None, false)]);
        assert!(lowest < at(1, "a"));
        let stamp = seeds[0].write.stamp(nonce(3), &Guard::Absent);
        assert_eq!(stamp.hold(), Some(HOLD));
        assert_eq!(Stamp::read(&with(bare("one"), &stamp)), Some(stamp), "it is a stamp like any other");
    }

    #[test]
    fn a_copy_has_the_version_of_what_it_copies() {
        let (older, newer) = (stamped("one", at(4, "a")), stamped("two", at(5, "c")));
        let Seeding::Copy(seeds) = decide([Some(older.clone()), Some(newer.clone()), None]) else { panic!() };
        let version = at(5, "c");
        assert_eq!(told(&seeds), [("a", version.clone(), Some(&older), false), ("c", version, None, false)]);
        let Body::Put(item, fingerprint) = &seeds[1].write.body else { panic!() };
        assert_eq!((item.as_ref(), *fingerprint), (&bare("two"), Fingerprint::of(&newer)));
        // The same data without a stamp, in the region where the write was made, is the same.
        let same = decide([Some(bare("two")), Some(newer.clone()), Some(newer)]);
        assert_eq!(same, Seeding::Same);
    }

    #[test]
    fn what_has_no_version_may_be_on_its_way() {
        let kept = with(bare("two"), &Stamp::read(&stamped("one", at(3, "a"))).expect("a stamp"));
        let Seeding::Clash(seeds) = decide([Some(bare("one")), Some(bare("two")), None]) else { panic!() };
        let lowest = Version { hlc: Hlc::from(HOLD), origin: name("a") };
        let two = bare("two");
        assert_eq!(told(&seeds), [("b", lowest.clone(), Some(&two), true), ("c", lowest, None, false)]);
        let newer = stamped("one", at(4, "c"));
        let Seeding::Clash(seeds) = decide([Some(newer), Some(kept.clone()), None]) else { panic!() };
        assert_eq!((seeds[0].write.replaced.as_deref(), seeds[0].is_clash), (Some(&kept), true));
        // Something written on top of a version is above it.
        let older = stamped("one", at(3, "a"));
        let Seeding::Clash(seeds) = decide([Some(older.clone()), Some(kept), None]) else { panic!() };
        let version = Version { hlc: at(3, "b").hlc.next(), origin: name("b") };
        assert_eq!(told(&seeds), [("a", version.clone(), Some(&older), false), ("c", version, None, false)]);
        // One with a version wins.
        let newer = stamped("two", at(5, "c"));
        let Seeding::Clash(seeds) = decide([Some(bare("one")), None, Some(newer)]) else { panic!() };
        let version = at(5, "c");
        let one = bare("one");
        assert_eq!(told(&seeds), [("a", version.clone(), Some(&one), true), ("b", version, None, false)]);
    }

    #[test]
    fn what_an_earlier_hold_copied_is_outranked() {
        let earlier = stamped("one", Version { hlc: Hlc::from(HOLD - 1), origin: name("c") });
        let Seeding::Clash(seeds) = decide([Some(bare("two")), Some(earlier.clone()), None]) else {
            panic!()
        };
        assert_eq!((seeds[0].write.replaced.as_deref(), seeds[0].is_clash), (Some(&earlier), true));
        assert!(seeds[0].write.version > Stamp::read(&earlier).expect("a stamp").version);
    }

    #[test]
    fn a_mark_is_left_to_its_agent_and_other_regions_are_not_written() {
        let (version, body) = (at(9, "c"), Body::Delete);
        let mark = Write { key: key(), version, base: None, body, replaced: None, home: None };
        let marked = with(bare("one"), &mark.stamp(nonce(2), &Guard::Exactly(&bare("one"))));
        assert_eq!(decide([Some(marked), None, Some(bare("one"))]), Seeding::Marked);
        assert_eq!(decide([None, None, None]), Seeding::Same);
        let items = held([Some(bare("one")), None, None]);
        let Seeding::Copy(seeds) = seed(&key(), &items, &Selections::default(), &[name("c")], HOLD) else {
            panic!()
        };
        assert_eq!(seeds.len(), 1);
        assert_eq!(seed(&key(), &items, &Selections::default(), &[name("a")], HOLD), Seeding::Same);
    }

    #[test]
    fn a_region_is_seeded_with_what_it_takes() {
        let attribute = |text: &str| AttributeValue::S(text.to_owned());
        let mut selections = Selections::default();
        let without = BTreeSet::from(["v".to_owned()]);
        selections.add(name("b"), Selection { only: Vec::new(), without });
        let only = vec![("v".to_owned(), Test::Is(vec![attribute("two")]))];
        selections.add(name("c"), Selection { only, without: BTreeSet::new() });
        let decide = |items| seed(&key(), &held(items), &selections, &all(), HOLD);
        let Seeding::Copy(seeds) = decide([Some(bare("one")), None, None]) else { panic!() };
        assert_eq!(seeds.len(), 1, "it is not for c");
        let Body::Put(item, _) = &seeds[0].write.body else { panic!() };
        assert_eq!((seeds[0].region.as_str(), item.as_ref()), ("b", &key()));
        assert_eq!(decide([None, Some(bare("one")), None]), Seeding::Same, "what b writes stays there");
        assert_eq!(decide([Some(bare("one")), Some(bare("one")), None]), Seeding::Same);
    }
}
