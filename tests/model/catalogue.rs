//! Everything that a state names by a number: images, memories, actions, judgements.
//!
//! A state is then small, and each judgement of the protocol is computed once.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::rc::Rc;

use aws_sdk_dynamodb::types::AttributeValue;
use tradewind::protocol::{
    Action, Body, Fingerprint, Item, KeyMemory, Nonce, Origin, STAMP, STAMP_MAGIC, Seed, Selection, Test,
    Verdict, Version, Write,
};

/// The most regions.
pub(crate) const MAX: usize = 3;
pub(crate) const NAMES: [&str; MAX] = ["a", "b", "c"];
/// A floor for each region, and one for the seeder's holds.
pub(crate) const FLOORS: usize = MAX + 1;
/// The most keys.
pub(crate) const KEYS: usize = 2;
pub(crate) const KEY_NAMES: [&str; KEYS] = ["k", "l"];
/// The data of an item that holds no more than its key and a mark.
pub(crate) const BARE: u8 = 255;
/// The image that stands for no item.
pub(crate) const ABSENT: u16 = 0;

/// Clock and origin: the model's own reading of a version.
pub(crate) type V = (u64, u8);

pub(crate) struct Image {
    pub(crate) key: u8,
    pub(crate) data: u8,
    pub(crate) stamp: Option<Rc<str>>,
    pub(crate) version: Option<V>,
    pub(crate) base: Option<V>,
    pub(crate) mark: bool,
    /// The stamp was written together with the data.
    pub(crate) matches: bool,
    pub(crate) item: Item,
}

/// An action, with what the model's table needs of it.
pub(crate) struct Act {
    pub(crate) action: Action,
    pub(crate) key: u8,
    /// What a put writes.
    pub(crate) data: Option<u8>,
    pub(crate) text: String,
}

/// What the protocol said of a record.
#[derive(Clone)]
pub(crate) struct Judged {
    pub(crate) verdict: Verdict,
    pub(crate) version: Option<V>,
    /// What that version was made on top of.
    pub(crate) base: Option<V>,
    /// By destination.
    pub(crate) for_peers: [Vec<u16>; MAX],
    pub(crate) for_here: Vec<u16>,
    pub(crate) conflict: Option<(V, V)>,
    /// The replicated version that has come.
    pub(crate) arrived: Option<V>,
    /// Only the floors say that it is a put-back.
    pub(crate) by_floors: bool,
}

/// Things of one kind, each kept once.
pub(crate) struct Interned<K, T> {
    ids: HashMap<K, usize>,
    pub(crate) all: Vec<T>,
}

impl<K: Hash + Eq, T> Default for Interned<K, T> {
    fn default() -> Self {
        Self { ids: HashMap::new(), all: Vec::new() }
    }
}

impl<K: Hash + Eq, T> Interned<K, T> {
    fn id(&mut self, key: K, make: impl FnOnce(&K) -> T) -> usize {
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        self.all.push(make(&key));
        self.ids.insert(key, self.all.len() - 1);
        self.all.len() - 1
    }
}

pub(crate) struct Catalogue {
    pub(crate) origins: Vec<Origin>,
    pub(crate) keys: Vec<Item>,
    /// Takes items with even data.
    pub(crate) even: Selection,
    images: Interned<(u8, u8, Option<Rc<str>>), Image>,
    memories: Interned<String, KeyMemory>,
    acts: Interned<String, Rc<Act>>,
    seeds: Interned<String, Seed>,
    pub(crate) judgements: Vec<Rc<Judged>>,
}

impl Catalogue {
    pub(crate) fn new() -> Self {
        let nothing = Judged {
            verdict: Verdict::Unchanged,
            version: None,
            base: None,
            for_peers: Default::default(),
            for_here: vec![],
            conflict: None,
            arrived: None,
            by_floors: false,
        };
        let key = |name: &&str| Item::from([("pk".to_owned(), AttributeValue::S((*name).to_owned()))]);
        let even = (0..BARE).step_by(2).map(|data| AttributeValue::N(data.to_string())).collect();
        let mut catalogue = Self {
            origins: NAMES.iter().map(|name| name.parse().unwrap()).collect(),
            keys: KEY_NAMES.iter().map(key).collect(),
            even: Selection { only: vec![("d".to_owned(), Test::Is(even))], without: BTreeSet::new() },
            images: Interned::default(),
            memories: Interned::default(),
            acts: Interned::default(),
            seeds: Interned::default(),
            // Judgement 0 is that of a record which has not been judged.
            judgements: vec![Rc::new(nothing)],
        };
        catalogue.image(0, 0, None);
        catalogue
    }

    pub(crate) fn image(&mut self, key: u8, data: u8, stamp: Option<Rc<str>>) -> u16 {
        let keys = &self.keys;
        let make = |(key, data, stamp): &(u8, u8, Option<Rc<str>>)| {
            let item = item_of(&keys[usize::from(*key)], *data, stamp.as_deref());
            let well = stamp.as_ref().filter(|text| text.starts_with(STAMP_MAGIC));
            let words: Vec<&str> = well.map(|text| text.split(' ').collect()).unwrap_or_default();
            let version = |at: usize| parse_version(words.get(at)?, words.get(at + 1)?);
            Image {
                key: *key,
                data: *data,
                stamp: stamp.clone(),
                version: version(1),
                base: version(3),
                mark: words.get(5).is_some_and(|word| word.starts_with("x-")),
                matches: words.get(5).is_some_and(|word| *word == Fingerprint::of(&item).to_string()),
                item,
            }
        };
        u16::try_from(self.images.id((key, data, stamp), make)).unwrap()
    }

    /// The image of an item that an agent wrote with this version.
    pub(crate) fn nonce(&self, region: usize, random: u64) -> Nonce {
        Nonce::new(&self.origins[region], random)
    }

    pub(crate) fn stamped(&mut self, key: u8, data: u8, version: V, nonce: Nonce) -> u16 {
        let fingerprint = Fingerprint::of(&item_of(&self.keys[usize::from(key)], data, None));
        let (hlc, origin) = (version.0, NAMES[usize::from(version.1)]);
        let stamp = format!("{STAMP_MAGIC}{hlc:016x} {origin} - - {fingerprint} {nonce}");
        self.image(key, data, Some(stamp.into()))
    }

    pub(crate) fn get(&self, image: u16) -> &Image {
        &self.images.all[usize::from(image)]
    }

    /// The item of an image, if it is one.
    pub(crate) fn item(&self, image: u16) -> Option<&Item> {
        (image != ABSENT).then(|| &self.get(image).item)
    }

    pub(crate) fn memory(&mut self, memory: KeyMemory) -> u32 {
        u32::try_from(self.memories.id(format!("{memory:?}"), |_| memory)).unwrap()
    }

    pub(crate) fn empty_memory(&mut self, region: usize) -> u32 {
        self.memory(KeyMemory::new(self.origins[region].clone()))
    }

    pub(crate) fn get_memory(&self, id: u32) -> &KeyMemory {
        &self.memories.all[id as usize]
    }

    pub(crate) fn act(&mut self, key: u8, action: Action) -> u16 {
        let make = |text: &String| {
            let data = action.write().and_then(|write| match &write.body {
                Body::Put(item, _) => Some(data_of(item)),
                Body::Delete => None,
            });
            Rc::new(Act { key, data, text: text.clone(), action: action.clone() })
        };
        u16::try_from(self.acts.id(format!("{} {}", KEY_NAMES[usize::from(key)], text_of(&action)), make))
            .unwrap()
    }

    pub(crate) fn get_act(&self, id: u16) -> &Rc<Act> {
        &self.acts.all[usize::from(id)]
    }

    pub(crate) fn seed(&mut self, seed: Seed) -> u16 {
        u16::try_from(self.seeds.id(format!("{seed:?}"), |_| seed)).unwrap()
    }

    pub(crate) fn get_seed(&self, id: u16) -> &Seed {
        &self.seeds.all[usize::from(id)]
    }

    pub(crate) fn sizes(&self) -> String {
        format!(
            "{} images, {} memories, {} actions, {} judgements",
            self.images.all.len(),
            self.memories.all.len(),
            self.acts.all.len(),
            self.judgements.len()
        )
    }
}

pub(crate) fn item_of(key: &Item, data: u8, stamp: Option<&str>) -> Item {
    let mut item = key.clone();
    if data != BARE {
        item.insert("d".to_owned(), AttributeValue::N(data.to_string()));
    }
    if let Some(stamp) = stamp {
        item.insert(STAMP.to_owned(), AttributeValue::S(stamp.to_owned()));
    }
    item
}

pub(crate) fn data_of(item: &Item) -> u8 {
    match item.get("d") {
        Some(AttributeValue::N(number)) => number.parse().unwrap(),
        _ => BARE,
    }
}

fn parse_version(hlc: &str, origin: &str) -> Option<V> {
    let origin = NAMES.iter().position(|name| *name == origin)?;
    Some((u64::from_str_radix(hlc, 16).ok()?, u8::try_from(origin).ok()?))
}

pub(crate) fn v_of(version: &Version) -> V {
    let origin = NAMES.iter().position(|name| *name == version.origin.as_str());
    (version.hlc.into(), u8::try_from(origin.unwrap()).unwrap())
}

/// All that tells one action from another.
fn text_of(action: &Action) -> String {
    let image = |item: Option<&Item>| {
        let Some(item) = item else { return "nothing".to_owned() };
        let stamp = item.get(STAMP).map(|stamp| format!(" {}", stamp.as_s().map_or("?", String::as_str)));
        format!("{}{}", data_of(item), stamp.unwrap_or_default())
    };
    let write = |write: &Write| {
        let body = match &write.body {
            Body::Put(item, _) => format!("put {}", data_of(item)),
            Body::Delete => "delete".to_owned(),
        };
        let base = write.base.as_ref().map_or_else(|| "nothing".to_owned(), short);
        let over = image(write.replaced.as_deref());
        let home = write.home.as_ref().map(|home| {
            let beside = home.beside.as_ref().map(|stamp| stamp.as_s().map_or("?", String::as_str));
            format!(", at home {} {}", home.fingerprint, beside.unwrap_or_default())
        });
        format!("{body} as {} on {base} over {over}{}", short(&write.version), home.unwrap_or_default())
    };
    match action {
        Action::Push(w) => format!("push {}", write(w)),
        // What it may not replace is part of what it is: actions with one text are one action.
        Action::Heal(w, past) => format!("heal {}, but over nothing of {past:x?}", write(w)),
        Action::Restamp(w) => format!("stamp {}", write(w)),
        Action::ApplyDelete { marked, .. } => format!("apply delete {}", image(Some(marked))),
    }
}

fn short(version: &Version) -> String {
    show_version(v_of(version))
}

/// `<minute>.<counter><origin>`.
pub(crate) fn show_version((hlc, origin): V) -> String {
    let minutes = (hlc >> 20) / super::world::UNIT_MILLIS;
    format!("{minutes}.{}{}", hlc & 0xf_ffff, NAMES[usize::from(origin)])
}
