//! Finds the keys on which replicas may disagree, in bounded memory.
//!
//! A key is held only until all replicas have shown it. If they show their items in about the same order, as
//! DynamoDB's regions do, few are held at a time. Otherwise, what exceeds the memory goes to disk, in parts
//! by a hash of the key, and the parts are compared one by one.

use std::collections::HashMap;
use std::io;

use aws_sdk_dynamodb::types::AttributeValue;

use super::pile::{Entry, Pile, Trace};
use crate::protocol::KeyId;

/// The number of parts into which what exceeds the memory is split.
const PARTS: usize = 64;
/// What a part buffers in memory before it is written.
const PART_ROOM: usize = 64 * 1024;
/// The memory for suspects; the rest is on disk.
const SUSPECT_ROOM: usize = 4 * 1024 * 1024;
/// The memory of a held key, apart from the key and the traces.
const OVERHEAD: usize = 96;

/// One item, as a scan has shown it.
#[derive(Debug)]
pub(super) struct Sighting {
    pub(super) replica: usize,
    pub(super) id: KeyId,
    pub(super) key: Box<[AttributeValue]>,
    pub(super) trace: Trace,
}

pub(super) struct Matcher {
    replicas: usize,
    /// How much may be held, in bytes.
    memory: usize,
    held: HashMap<KeyId, PendingKey>,
    bytes: usize,
    parts: Vec<Pile>,
    matches: Matches,
}

/// The result of all sightings.
pub(super) struct Matches {
    /// The number of different keys.
    pub(super) compared: u64,
    /// The keys that may differ.
    pub(super) suspects: Pile,
    /// The bytes written to disk.
    pub(super) spilled: u64,
}

struct PendingKey {
    key: Box<[AttributeValue]>,
    /// By replica; none if it has not been seen.
    traces: Box<[Option<Trace>]>,
}

impl PendingKey {
    fn entry(self, id: KeyId) -> Entry {
        let traces = self.traces.iter().map(|trace| trace.unwrap_or(Trace::Nothing)).collect();
        Entry { id, key: self.key, traces }
    }
}

impl Matcher {
    pub(super) fn new(replicas: usize, memory: usize) -> Self {
        Self {
            replicas,
            memory,
            held: HashMap::new(),
            bytes: 0,
            parts: Vec::new(),
            matches: Matches { compared: 0, suspects: Pile::new(SUSPECT_ROOM), spilled: 0 },
        }
    }

    pub(super) fn see(&mut self, sighting: Sighting) -> io::Result<()> {
        let Sighting { replica, id, key, trace } = sighting;
        let size = self.size(&key);
        let replicas = self.replicas;
        let bytes = &mut self.bytes;
        let held = self.held.entry(id).or_insert_with(|| {
            *bytes += size;
            PendingKey { key, traces: vec![None; replicas].into() }
        });
        held.traces[replica] = Some(trace);
        if held.traces.iter().all(Option::is_some) {
            if let Some(held) = self.held.remove(&id) {
                self.bytes = self.bytes.saturating_sub(size);
                self.matches.note(&held.entry(id))?;
            }
        } else if self.bytes > self.memory {
            self.spill()?;
        }
        Ok(())
    }

    /// Takes what is left as final: what a replica has not shown, it does not hold.
    pub(super) fn finish(mut self) -> io::Result<Matches> {
        if self.parts.is_empty() {
            for (id, held) in self.held {
                self.matches.note(&held.entry(id))?;
            }
            return Ok(self.matches);
        }
        self.spill()?;
        for mut part in self.parts {
            self.matches.spilled += part.bytes();
            // A part larger than the memory is read several times.
            let overhead = part.count() * OVERHEAD as u64;
            let passes = u128::from((part.bytes() + overhead).div_ceil(self.memory.max(1) as u64).max(1));
            for pass in 0..passes {
                let mut held: HashMap<KeyId, Entry> = HashMap::new();
                for entry in part.read()? {
                    let entry = entry?;
                    if entry.id.number() / PARTS as u128 % passes != pass {
                        continue;
                    }
                    match held.get_mut(&entry.id) {
                        None => {
                            held.insert(entry.id, entry);
                        }
                        Some(known) => {
                            let pairs = known.traces.iter_mut().zip(&entry.traces);
                            pairs
                                .filter(|(_, new)| **new != Trace::Nothing)
                                .for_each(|(old, new)| *old = *new);
                        }
                    }
                }
                for entry in held.into_values() {
                    self.matches.note(&entry)?;
                }
            }
        }
        Ok(self.matches)
    }

    /// Moves everything held to disk.
    fn spill(&mut self) -> io::Result<()> {
        if self.parts.is_empty() {
            self.parts = (0..PARTS).map(|_| Pile::new(PART_ROOM)).collect();
        }
        for (id, held) in self.held.drain() {
            self.parts[id.part(PARTS)].push(&held.entry(id))?;
        }
        self.bytes = 0;
        Ok(())
    }

    fn size(&self, key: &[AttributeValue]) -> usize {
        let length = |value: &AttributeValue| match value {
            AttributeValue::S(text) | AttributeValue::N(text) => text.len(),
            AttributeValue::B(blob) => blob.as_ref().len(),
            _ => 0,
        };
        OVERHEAD
            + key.iter().map(|value| size_of::<AttributeValue>() + length(value)).sum::<usize>()
            + self.replicas * size_of::<Option<Trace>>()
    }
}

impl Matches {
    fn note(&mut self, entry: &Entry) -> io::Result<()> {
        self.compared += 1;
        if Trace::agree(&entry.traces) { Ok(()) } else { self.suspects.push(entry) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Item;

    fn item(key: u32, value: u8) -> Item {
        let number = |number: u32| AttributeValue::N(number.to_string());
        Item::from([("pk".to_owned(), number(key)), ("v".to_owned(), number(value.into()))])
    }

    proptest! {
        #[test]
        fn whatever_the_memory_the_same_keys_are_suspect(
            contents in btree_map(0..5000_u32, [proptest::option::of(0..2_u8), proptest::option::of(0..2_u8)], 0..300),
            memory in 0..60_000_usize, seed: u64,
        ) {
            let mut sightings: Vec<(usize, u32, u8)> = Vec::new();
            for (key, values) in &contents {
                let seen = values.iter().enumerate();
                sightings.extend(seen.filter_map(|(replica, value)| Some((replica, *key, (*value)?))));
            }
            fastrand::Rng::with_seed(seed).shuffle(&mut sightings);
            let mut matcher = Matcher::new(2, memory);
            for (replica, key, value) in sightings {
                let pk = AttributeValue::N(key.to_string());
                let id = KeyId::of(&Item::from([("pk".to_owned(), pk.clone())]));
                let trace = Trace::of(Some(&item(key, value)));
                matcher.see(Sighting { replica, id, key: [pk].into(), trace }).expect("room");
            }
            let mut found = matcher.finish().expect("room");
            let suspects: BTreeSet<u32> = found.suspects.read().expect("a file")
                .map(|entry| entry.expect("an entry").key[0].as_n().expect("a number").parse().expect("a key"))
                .collect();
            let expected: BTreeSet<u32> =
                contents.iter().filter(|(_, values)| values[0] != values[1]).map(|(key, _)| *key).collect();
            prop_assert_eq!(suspects, expected);
            let there = contents.values().filter(|values| values.iter().any(Option::is_some)).count();
            prop_assert_eq!(found.compared, there as u64);
        }
    }
}
