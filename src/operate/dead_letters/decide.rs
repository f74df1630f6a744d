//! Decides what to do about a letter, given what is stored in the replicas.

use std::collections::BTreeMap;

use super::Fate;
use crate::protocol::{Fingerprint, Item, Origin, Stamp, Version};

/// What each region holds for a key.
pub(super) type Images = BTreeMap<Origin, Option<Item>>;

/// What to do about a letter.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// Replicate what the origin holds.
    TouchOrigin,
    /// Another letter of this write has just had that done: only check whether this one's peer would take it.
    Touched,
    /// Delete the item at the peer that the origin's delete did not reach.
    DeleteAtPeer,
    Not(Fate, String),
}

/// What a region holds for a key.
enum Stored<'a> {
    Nothing,
    /// An item, or a mark, with a version of its own.
    Stamped(Version),
    /// An application's own.
    Bare(&'a Item),
}

impl<'a> Stored<'a> {
    fn of(item: Option<&'a Item>) -> Self {
        let Some(item) = item else { return Self::Nothing };
        match Stamp::read(item).filter(|stamp| stamp.is_mark() || stamp.matches(item)) {
            Some(stamp) => Self::Stamped(stamp.version),
            None => Self::Bare(item),
        }
    }
}

/// A letter's write, and what all regions hold for its key; origin and peer are among them.
pub(super) struct Case<'a> {
    pub(super) origin: &'a Origin,
    pub(super) peer: &'a Origin,
    pub(super) version: &'a Version,
    pub(super) is_delete: bool,
    pub(super) new: Option<&'a Item>,
    pub(super) old: Option<&'a Item>,
    pub(super) held: &'a Images,
    /// What the origin holds for the key, as far as it is replicated to the peer.
    pub(super) for_peer: Option<&'a Item>,
    /// Whether something else was stored before everything had arrived.
    pub(super) has_changed: bool,
    /// Whether the origin's item was touched for another letter.
    pub(super) is_touched: bool,
}

impl Case<'_> {
    pub(super) fn decide(&self) -> Decision {
        match self.by_what_stands() {
            Decision::Not(Fate::Superseded, _) | Decision::TouchOrigin if self.is_touched => {
                Decision::Touched
            }
            // A delete leaves no trace of its time.
            Decision::TouchOrigin | Decision::DeleteAtPeer if self.has_changed && !self.is_touched => {
                let why = "the item changed during the replay: replay it again";
                Decision::Not(Fate::Undecided, why.to_owned())
            }
            decision => decision,
        }
    }

    /// Decides by what is stored, if that has not just changed.
    fn by_what_stands(&self) -> Decision {
        let Self { origin, peer, version, is_delete, .. } = *self;
        let superseded = |why: String| Decision::Not(Fate::Superseded, why);
        let undecided = |why: String| Decision::Not(Fate::Undecided, why);
        if !is_delete && self.new.is_none() {
            return undecided("its image has expired: drop the letter".to_owned());
        }
        for region in self.held.keys() {
            match self.standing(region) {
                Stored::Stamped(stands) if stands > *version => {
                    return superseded(format!("{region} holds something newer"));
                }
                Stored::Stamped(stands) if region == peer && stands == *version => {
                    return superseded(format!("{peer} has it already"));
                }
                _ => {}
            }
        }
        let at_origin = match self.standing(origin) {
            Stored::Bare(_) => self.for_peer.map_or(Stored::Nothing, Stored::Bare),
            standing => standing,
        };
        match at_origin {
            Stored::Nothing if !is_delete => return superseded(format!("deleted in {origin} since")),
            Stored::Bare(item) if is_delete || !same(Some(item), self.new) => {
                return superseded(format!("written again in {origin} since"));
            }
            // Nothing can show whether it may be overwritten: an update keeps the stamp.
            Stored::Stamped(stands) if stands < *version => {
                return undecided(format!(
                    "{origin} itself holds something older: write the item there again, and drop the letter"
                ));
            }
            Stored::Nothing | Stored::Bare(_) | Stored::Stamped(_) => {}
        }
        if peer == origin {
            return superseded(format!("{origin} holds it"));
        }
        for region in self.held.keys().filter(|region| *region != origin) {
            // What the write was made on top of is older. Anything else can't be compared.
            if let Stored::Bare(item) = self.standing(region)
                && !same(Some(item), self.old)
                && (is_delete || !same(Some(item), self.new))
            {
                return undecided(format!(
                    "{region} holds a write of its own that {origin} never took: write the right item again in \
                     either, and drop the letter"
                ));
            }
        }
        match self.standing(peer) {
            _ if !is_delete => Decision::TouchOrigin,
            Stored::Nothing => superseded(format!("{peer} has nothing left to delete")),
            _ => Decision::DeleteAtPeer,
        }
    }

    fn standing(&self, region: &Origin) -> Stored<'_> {
        Stored::of(self.held.get(region).and_then(Option::as_ref))
    }
}

/// Whether both exist and hold the same, apart from the stamps.
fn same(a: Option<&Item>, b: Option<&Item>) -> bool {
    a.is_some() && a.map(Fingerprint::of) == b.map(Fingerprint::of)
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::protocol::{Body, Guard, Hlc, Nonce, STAMP, Write};

    fn origin(name: &str) -> Origin {
        name.parse().expect("a legal name")
    }

    fn version(millis: u64, region: &str) -> Version {
        Version { hlc: Hlc::at_millis(millis), origin: origin(region) }
    }

    fn bare(value: &str) -> Item {
        Item::from([("v".to_owned(), AttributeValue::S(value.to_owned()))])
    }

    fn stamped(value: &str, millis: u64, region: &str) -> Item {
        let item = bare(value);
        let body = Body::Put(item.clone().into(), Fingerprint::of(&item));
        stamp(item, body, millis, region)
    }

    fn marked(value: &str, millis: u64, region: &str) -> Item {
        stamp(bare(value), Body::Delete, millis, region)
    }

    fn stamp(mut item: Item, body: Body, millis: u64, region: &str) -> Item {
        let version = version(millis, region);
        let write = Write {
            key: Item::new(),
            version: version.clone(),
            base: None,
            body,
            replaced: None,
            home: None,
        };
        let nonce = Nonce::new(&version.origin, 7);
        item.insert(STAMP.to_owned(), AttributeValue::S(write.stamp(nonce, &Guard::Absent).to_string()));
        item
    }

    /// What happened to the key while waiting for everything to arrive.
    #[derive(Clone, Copy, Debug, Default)]
    struct Meanwhile {
        has_changed: bool,
        is_touched: bool,
    }

    /// What happens to a letter from `a` to `b` of version 9, which replaced "old" by "new" (or deleted it),
    /// if `a`, `b` and `c` hold these.
    fn decide(is_delete: bool, held: [Option<Item>; 3], meanwhile: Meanwhile) -> Result<Decision, Fate> {
        let [origin, peer, _] = ["a", "b", "c"].map(origin);
        let held: Images = ["a", "b", "c"].map(self::origin).into_iter().zip(held).collect();
        let (new, old) = (bare("new"), bare("old"));
        let Meanwhile { has_changed, is_touched } = meanwhile;
        let case = Case {
            origin: &origin,
            peer: &peer,
            version: &version(9, "a"),
            is_delete,
            new: (!is_delete).then_some(&new),
            old: Some(&old),
            held: &held,
            for_peer: held[&origin].as_ref(),
            has_changed,
            is_touched,
        };
        match case.decide() {
            Decision::Not(fate, _) => Err(fate),
            decision => Ok(decision),
        }
    }

    #[test]
    fn a_put_is_replayed_only_where_its_origin_still_holds_it_and_nothing_newer_may_stand() {
        let new = || Some(bare("new"));
        for (held, expected) in [
            ([new(), None, None], Ok(Decision::TouchOrigin)),
            ([Some(stamped("new", 9, "a")), None, Some(stamped("new", 9, "a"))], Ok(Decision::TouchOrigin)),
            ([new(), Some(stamped("old", 5, "c")), Some(stamped("new", 9, "a"))], Ok(Decision::TouchOrigin)),
            ([new(), Some(bare("old")), Some(stamped("new", 9, "a"))], Ok(Decision::TouchOrigin)),
            // The peer already has it.
            ([new(), Some(stamped("new", 9, "a")), None], Err(Fate::Superseded)),
            // Something newer, anywhere.
            ([new(), Some(stamped("x", 10, "c")), None], Err(Fate::Superseded)),
            ([new(), Some(marked("old", 10, "c")), None], Err(Fate::Superseded)),
            ([new(), None, Some(stamped("x", 9, "b"))], Err(Fate::Superseded)),
            ([Some(stamped("new", 10, "c")), None, None], Err(Fate::Superseded)),
            ([Some(bare("x")), None, None], Err(Fate::Superseded)),
            // Deleted since: nothing brings it back.
            ([None, None, None], Err(Fate::Superseded)),
            ([None, Some(bare("old")), Some(stamped("new", 9, "a"))], Err(Fate::Superseded)),
            // What can't be compared is left alone.
            ([new(), Some(bare("x")), None], Err(Fate::Undecided)),
            ([new(), None, Some(bare("x"))], Err(Fate::Undecided)),
            ([Some(stamped("x", 5, "c")), None, None], Err(Fate::Undecided)),
        ] {
            assert_eq!(decide(false, held.clone(), Meanwhile::default()), expected, "{held:?}");
        }
    }

    #[test]
    fn a_delete_is_replayed_only_onto_what_is_older() {
        for (held, expected) in [
            ([None, Some(stamped("old", 5, "c")), None], Ok(Decision::DeleteAtPeer)),
            ([None, Some(bare("old")), None], Ok(Decision::DeleteAtPeer)),
            ([None, None, None], Err(Fate::Superseded)),
            ([Some(bare("old")), Some(bare("old")), None], Err(Fate::Superseded)),
            ([None, Some(stamped("x", 10, "c")), None], Err(Fate::Superseded)),
            ([None, Some(bare("old")), Some(stamped("x", 10, "c"))], Err(Fate::Superseded)),
            ([None, Some(bare("x")), None], Err(Fate::Undecided)),
            ([None, Some(bare("old")), Some(bare("x"))], Err(Fate::Undecided)),
            ([Some(stamped("old", 5, "c")), Some(bare("old")), None], Err(Fate::Undecided)),
        ] {
            assert_eq!(decide(true, held.clone(), Meanwhile::default()), expected, "{held:?}");
        }
    }
    #[test]
    fn what_changed_meanwhile_is_left_alone_but_for_a_touch_of_our_own() {
        let put = || [Some(bare("new")), None, None];
        let delete = || [None, Some(bare("old")), None];
        let newer = || [Some(stamped("new", 10, "c")), None, None];
        let incomparable = || [Some(bare("new")), Some(bare("x")), None];
        let changed = Meanwhile { has_changed: true, is_touched: false };
        let touched = Meanwhile { has_changed: true, is_touched: true };
        for (is_delete, held, meanwhile, expected) in [
            (false, put(), changed, Err(Fate::Undecided)),
            (true, delete(), changed, Err(Fate::Undecided)),
            (false, newer(), changed, Err(Fate::Superseded)),
            // The touch has given the item a newer version, or no stamp shows it yet.
            (false, newer(), touched, Ok(Decision::Touched)),
            (false, put(), touched, Ok(Decision::Touched)),
            (true, delete(), touched, Ok(Decision::DeleteAtPeer)),
            (false, incomparable(), touched, Err(Fate::Undecided)),
        ] {
            assert_eq!(decide(is_delete, held.clone(), meanwhile), expected, "{held:?} {meanwhile:?}");
        }
    }
}
