//! The key memory of one track, in memory and on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::SpillError;
use super::room::Spill;
use super::shelf::Shelf;
use crate::protocol::{Floors, Judgement, KeyId, KeyMemory, Origin, Record};

/// How many keys all tracks of a table remember together.
#[derive(Debug, Default)]
pub struct Remembered {
    in_memory: AtomicUsize,
    on_disk: AtomicUsize,
}

impl Remembered {
    pub fn in_memory(&self) -> usize {
        self.in_memory.load(Ordering::Relaxed)
    }

    pub fn on_disk(&self) -> usize {
        self.on_disk.load(Ordering::Relaxed)
    }

    pub fn all(&self) -> usize {
        self.in_memory() + self.on_disk()
    }
}

/// The key memory of one track. It gives the same results as a [`KeyMemory`] that holds all of its keys.
#[derive(Debug)]
pub struct Keys {
    origin: Origin,
    memory: KeyMemory,
    /// Set while any key is on disk.
    shelf: Option<Shelf>,
    spill: Arc<Spill>,
    table: Arc<Remembered>,
    /// How many of its keys have been counted, in memory and on disk.
    counted: (usize, usize),
}

impl Keys {
    /// An empty memory for a track of a table.
    pub fn new(origin: Origin, spill: &Arc<Spill>, table: &Arc<Remembered>) -> Self {
        spill.joined();
        Self {
            memory: KeyMemory::new(origin.clone()),
            origin,
            shelf: None,
            spill: Arc::clone(spill),
            table: Arc::clone(table),
            counted: (0, 0),
        }
    }

    /// See [`KeyMemory::judge`]. After a failure nothing more can be judged: a remembered key can't be read.
    pub fn judge(
        &mut self,
        ordinal: u64,
        record: Record,
        floors: &Floors,
        stamp_in_place: bool,
    ) -> Result<Judgement, SpillError> {
        if let Some(shelf) = &mut self.shelf {
            let key = KeyId::of(&record.key);
            if !self.memory.knows(&key) {
                // Whoever starts again does without the disk for a while.
                let state = shelf.take(&key, &self.origin).inspect_err(|_| self.spill.rest())?;
                if let Some(state) = state {
                    self.memory.put_back(key, state);
                }
            }
        }
        let judgement = self.memory.judge(ordinal, record, floors, stamp_in_place);
        self.count();
        Ok(judgement)
    }

    /// Moves keys to disk if there are too many in memory. Returns whether any were moved. Those that can't
    /// be moved stay, and the next attempt is a minute later.
    pub fn make_room(&mut self) -> Result<bool, SpillError> {
        let excess = self.spill.excess(self.memory.len());
        if excess == 0 || self.spill.rests() {
            return Ok(false);
        }
        let moved = self.set_aside(excess);
        if moved.is_err() {
            self.spill.rest();
            self.shelf.take_if(|shelf| shelf.len() == 0);
        }
        self.count();
        moved.map(|()| true)
    }

    fn set_aside(&mut self, count: usize) -> Result<(), SpillError> {
        let on_disk = match &mut self.shelf {
            Some(on_disk) => on_disk,
            None => {
                let (store, number) = self.spill.open()?;
                self.shelf.insert(Shelf::new(store, number))
            }
        };
        let keys = self.memory.set_aside(count);
        on_disk.add(&keys).inspect_err(|error| {
            // Otherwise they are there, if not all on disk.
            if !matches!(error, SpillError::Unwritten { .. }) {
                for (key, state) in keys {
                    self.memory.put_back(key, state);
                }
            }
        })
    }

    /// See [`KeyMemory::forget`].
    pub fn forget(&mut self, peers: &[Origin], floors: &Floors, hold: Option<u64>) -> Result<(), SpillError> {
        let sweep = self.memory.forget(peers, floors, hold);
        let swept = match (&mut self.shelf, sweep) {
            (Some(on_disk), Some(sweep)) => on_disk.forget(sweep),
            _ => Ok(()),
        };
        self.shelf.take_if(|shelf| shelf.len() == 0);
        self.count();
        swept
    }

    /// Forgets everything: no more records come.
    pub fn clear(&mut self) {
        self.memory = KeyMemory::new(self.origin.clone());
        self.shelf = None;
        self.count();
    }

    /// The ordinal of the oldest record still needed to rebuild this memory, or an older one.
    pub fn oldest(&self) -> Option<u64> {
        let on_disk = self.shelf.as_ref().and_then(Shelf::oldest);
        self.memory.oldest().into_iter().chain(on_disk).min()
    }

    /// The number of keys held in memory.
    pub fn in_memory(&self) -> usize {
        self.memory.len()
    }

    /// The number of keys on disk.
    pub fn on_disk(&self) -> usize {
        self.shelf.as_ref().map_or(0, Shelf::len)
    }

    /// How many keys all tracks of the table remember.
    pub fn of_table(&self) -> usize {
        self.table.all()
    }

    fn count(&mut self) {
        self.note((self.in_memory(), self.on_disk()));
    }

    fn note(&mut self, now: (usize, usize)) {
        let before = std::mem::replace(&mut self.counted, now);
        for (sum, before, now) in [
            (self.spill.held(), before.0, now.0),
            (&self.table.in_memory, before.0, now.0),
            (&self.table.on_disk, before.1, now.1),
        ] {
            if now >= before {
                sum.fetch_add(now - before, Ordering::Relaxed);
            } else {
                sum.fetch_sub(before - now, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.note((0, 0));
        self.spill.left();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aws_sdk_dynamodb::types::AttributeValue;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{Fingerprint, Hlc, Item, Nonce, STAMP, STAMP_MAGIC, Version};

    const MINUTE: u64 = 60_000;
    const NOW: u64 = 1_795_000_000_000;

    /// What happens next; a write is to one of few keys.
    #[derive(Clone, Debug)]
    enum Step {
        Put { key: u8, value: u8, keeps_stamp: bool },
        Delete { key: u8 },
        Replicated { key: u8, value: u8, minutes_ago: u64, is_mark: bool, is_own: bool },
        PutBack { key: u8, which: usize },
        Later { seconds: u64 },
        Floors { own_minutes_ago: u64, peer_minutes_ago: u64 },
        Forget { is_held: bool },
    }

    fn steps() -> impl Strategy<Value = Step> {
        let key = || 0..6_u8;
        prop_oneof![
            4 => (key(), 0..3_u8, any::<bool>()).prop_map(|(key, value, keeps_stamp)| Step::Put { key, value, keeps_stamp }),
            2 => key().prop_map(|key| Step::Delete { key }),
            4 => (key(), 0..3_u8, 0..4_u64, any::<bool>(), any::<bool>()).prop_map(
                |(key, value, minutes_ago, is_mark, is_own)| Step::Replicated { key, value, minutes_ago, is_mark, is_own }
            ),
            1 => (key(), any::<usize>()).prop_map(|(key, which)| Step::PutBack { key, which }),
            3 => (1..90_u64).prop_map(|seconds| Step::Later { seconds }),
            2 => (0..4_u64, 0..4_u64).prop_map(|(own_minutes_ago, peer_minutes_ago)| Step::Floors { own_minutes_ago, peer_minutes_ago }),
            3 => prop::bool::weighted(0.2).prop_map(|is_held| Step::Forget { is_held }),
        ]
    }

    /// A table, and the same records for a memory that holds all keys and one that holds few.
    struct Replay {
        own: Origin,
        peer: Origin,
        millis: u64,
        ordinal: u64,
        floors: Floors,
        images: BTreeMap<u8, Item>,
        shown: BTreeMap<u8, Vec<Item>>,
        all: KeyMemory,
        few: Keys,
    }

    impl Replay {
        fn new(room: usize) -> Self {
            let (own, peer): (Origin, Origin) =
                ("tokyo".parse().expect("a name"), "dublin".parse().expect("a name"));
            let few = Keys::new(own.clone(), &Arc::new(Spill::new(room, None)), &Arc::default());
            let all = KeyMemory::new(own.clone());
            let (floors, images, shown) = Default::default();
            Self { own, peer, millis: NOW, ordinal: 0, floors, images, shown, all, few }
        }

        fn key(key: u8) -> Item {
            Item::from([("id".to_owned(), AttributeValue::S(key.to_string()))])
        }

        fn step(&mut self, step: &Step) {
            match *step {
                Step::Put { key, value, keeps_stamp } => {
                    let mut item = Self::key(key);
                    item.insert("v".to_owned(), AttributeValue::N(value.to_string()));
                    let stamp = self.images.get(&key).and_then(|image| image.get(STAMP));
                    item.extend(stamp.filter(|_| keeps_stamp).map(|stamp| (STAMP.to_owned(), stamp.clone())));
                    self.write(key, Some(item));
                }
                Step::Delete { key } => self.write(key, None),
                Step::Replicated { key, value, minutes_ago, is_mark, is_own } => {
                    let mut item = Self::key(key);
                    item.insert("v".to_owned(), AttributeValue::N(value.to_string()));
                    let stands = self.images.get(&key).cloned().unwrap_or_else(|| Self::key(key));
                    let mut item = if is_mark { stands } else { item };
                    item.remove(STAMP);
                    let origin = if is_own { &self.own } else { &self.peer };
                    let hlc = Hlc::at_millis(self.millis - minutes_ago * MINUTE);
                    let version = Version { hlc, origin: origin.clone() };
                    let (mark, print) = (if is_mark { "x-" } else { "" }, Fingerprint::of(&item));
                    let nonce = Nonce::new(&self.own, self.ordinal);
                    let stamp = format!("{STAMP_MAGIC}{version}- - {mark}{print} {nonce}");
                    item.insert(STAMP.to_owned(), AttributeValue::S(stamp));
                    self.write(key, Some(item));
                }
                Step::PutBack { key, which } => {
                    let shown = self.shown.get(&key).filter(|shown| !shown.is_empty());
                    if let Some(item) = shown.map(|shown| shown[which % shown.len()].clone()) {
                        self.write(key, Some(item));
                    }
                }
                Step::Later { seconds } => self.millis += seconds * 1000,
                Step::Floors { own_minutes_ago, peer_minutes_ago } => {
                    let at = |minutes| Hlc::at_millis(self.millis - minutes * MINUTE);
                    self.floors.raise(&self.own, at(own_minutes_ago));
                    self.floors.raise(&self.peer, at(peer_minutes_ago));
                }
                Step::Forget { is_held } => self.forget(is_held.then_some(7)),
            }
        }

        fn write(&mut self, key: u8, new: Option<Item>) {
            let old = match &new {
                Some(new) => self.images.insert(key, new.clone()),
                None => self.images.remove(&key),
            };
            self.shown.entry(key).or_default().extend(new.clone());
            let record = Record { created_millis: self.millis, key: Self::key(key), old, new };
            let expected = self.all.judge(self.ordinal, record.clone(), &self.floors, false);
            let judgement = self.few.judge(self.ordinal, record, &self.floors, false).expect("a file");
            assert_eq!(judgement, expected);
            self.ordinal += 1;
            self.make_room();
        }

        fn forget(&mut self, hold: Option<u64>) {
            self.all.forget(std::slice::from_ref(&self.peer), &self.floors, hold);
            self.few.forget(std::slice::from_ref(&self.peer), &self.floors, hold).expect("a file");
            self.make_room();
        }

        fn make_room(&mut self) {
            while self.few.make_room().expect("a file") {}
            assert!(self.few.in_memory() <= self.few.spill.room, "{:?}", self.few);
            assert!(self.few.in_memory() + self.few.on_disk() >= self.all.len());
            // Records read again from further back than needed are judged the same.
            if let Some(oldest) = self.all.oldest() {
                assert!(
                    self.few.oldest().is_some_and(|few| few <= oldest),
                    "{:?} {oldest}",
                    self.few.oldest()
                );
            }
            let counted = (self.few.table.in_memory(), self.few.table.on_disk());
            assert_eq!(counted, (self.few.in_memory(), self.few.on_disk()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn a_memory_that_is_partly_on_disk_says_the_same(steps in vec(steps(), 1..150), room in 1..5_usize) {
            let mut replay = Replay::new(room);
            for step in &steps {
                replay.step(step);
            }
            // In the end, nothing is left in either.
            replay.millis += 30 * MINUTE;
            replay.step(&Step::Floors { own_minutes_ago: 0, peer_minutes_ago: 0 });
            replay.forget(None);
            prop_assert_eq!((replay.all.len(), replay.few.in_memory(), replay.few.on_disk()), (0, 0, 0));
            prop_assert_eq!(replay.few.oldest(), None);
        }
    }

    #[test]
    fn all_tracks_share_one_room() {
        let (spill, table) = (Arc::new(Spill::new(640, None)), Arc::default());
        let own: Origin = "tokyo".parse().expect("a name");
        let mut tracks: Vec<Keys> = (0..3).map(|_| Keys::new(own.clone(), &spill, &table)).collect();
        let floors = Floors::default();
        for ordinal in 0..3_000_u64 {
            // The tracks have a backlog one after the other.
            let track = usize::try_from(ordinal / 1_000).expect("few");
            let key = Item::from([("id".to_owned(), AttributeValue::N(ordinal.to_string()))]);
            let record = Record { created_millis: NOW + ordinal, new: Some(key.clone()), old: None, key };
            tracks[track].judge(ordinal, record, &floors, false).expect("a file");
            tracks[track].make_room().expect("a file");
            if ordinal % 50 == 0 {
                for track in &mut tracks {
                    track.forget(&[], &floors, None).expect("a file");
                    while track.make_room().expect("a file") {}
                }
            }
            // Each may always hold ten keys.
            assert!(table.in_memory() <= 640 + 30, "{}", table.in_memory());
            assert_eq!(table.all(), usize::try_from(ordinal).expect("few") + 1);
        }
        assert!(table.in_memory() > 500, "{}", table.in_memory());
        tracks.truncate(1);
        assert_eq!(table.all(), 1_000);
        tracks.clear();
        assert_eq!((table.all(), spill.held().load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn where_nothing_can_be_moved_all_stays_in_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("missing");
        let spill = Arc::new(Spill::new(10, Some(missing.clone())));
        let told = spill.check().expect_err("no folder").to_string();
        assert!(told.starts_with(&format!("can't make a file in {}: ", missing.display())), "{told}");
        let mut keys = Keys::new("tokyo".parse().expect("a name"), &spill, &Arc::default());
        let mut failures = 0;
        for ordinal in 0..100 {
            let key = Item::from([("id".to_owned(), AttributeValue::N(ordinal.to_string()))]);
            let record = Record { created_millis: NOW, new: Some(key.clone()), old: None, key };
            keys.judge(ordinal, record, &Floors::default(), false).expect("memory");
            failures += u32::from(keys.make_room().is_err());
        }
        assert_eq!((keys.in_memory(), keys.on_disk(), failures), (100, 0, 1));
    }
}
