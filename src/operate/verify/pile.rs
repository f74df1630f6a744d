//! What is known about keys, one record each, in memory while there is room and then on disk.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom, Write};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use crate::protocol::{Fingerprint, Item, KeyId, Stamp, Version};

/// What one replica holds for a key, in few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    Nothing,
    Marked(VersionPrint),
    Item(Fingerprint, Option<VersionPrint>),
    /// An item that not all regions should hold as it is: only the items themselves show whether they agree.
    Part,
}

/// 64 bits that distinguish one version from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VersionPrint(u64);

impl VersionPrint {
    fn of(version: &Version) -> Self {
        // Versions with the same clock and different origins are rare, and must not look the same.
        let name = version.origin.as_str().bytes();
        let origin = name.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(u64::from(version.hlc).rotate_left(32) ^ origin)
    }
}

impl Trace {
    pub(super) fn of(item: Option<&Item>) -> Self {
        let Some(item) = item else { return Self::Nothing };
        let print = Fingerprint::of(item);
        match Stamp::read(item) {
            Some(stamp) if stamp.is_mark() => Self::Marked(VersionPrint::of(&stamp.version)),
            Some(stamp) if stamp.matches(item) && stamp.version.is_agents() => {
                Self::Item(print, Some(VersionPrint::of(&stamp.version)))
            }
            _ => Self::Item(print, None),
        }
    }

    /// Whether replicas agree: they hold the same item, and no two stamps have different versions.
    pub(super) fn agree(traces: &[Self]) -> bool {
        let mut version = None;
        let mut print = None;
        traces.iter().all(|trace| match trace {
            Self::Nothing | Self::Marked(_) | Self::Part => false,
            Self::Item(one, stamped) => {
                let same_version = stamped.is_none_or(|one| *version.get_or_insert(one) == one);
                *print.get_or_insert(*one) == *one && same_version
            }
        }) || traces.iter().all(|trace| *trace == Self::Nothing)
    }
}

/// What is known about one key.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::operate) struct Entry {
    pub(super) id: KeyId,
    /// The values of the key attributes, in the order of the schema.
    pub(in crate::operate) key: Box<[AttributeValue]>,
    /// By replica.
    pub(super) traces: Box<[Trace]>,
}

/// Entries in the order in which they were added. Its file has no name, and disappears with the process,
/// however that ends.
#[derive(Debug)]
pub(in crate::operate) struct Pile {
    /// How much it keeps in memory.
    room: usize,
    recent: Vec<u8>,
    file: Option<File>,
    count: u64,
    bytes: u64,
}

impl Pile {
    pub(super) fn new(room: usize) -> Self {
        Self { room, recent: Vec::new(), file: None, count: 0, bytes: 0 }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The size of the entries as they are stored.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn push(&mut self, entry: &Entry) -> io::Result<()> {
        let before = self.recent.len();
        write_entry(&mut self.recent, entry)?;
        self.bytes += (self.recent.len() - before) as u64;
        self.count += 1;
        if self.recent.len() > self.room {
            let file = match &mut self.file {
                Some(file) => file,
                None => self.file.insert(tempfile::tempfile()?),
            };
            file.write_all(&self.recent)?;
            self.recent.clear();
        }
        Ok(())
    }

    /// Reads all entries, from the first; may be repeated.
    pub(in crate::operate) fn read(&mut self) -> io::Result<impl Iterator<Item = io::Result<Entry>>> {
        let mut on_disk = None;
        if let Some(file) = &mut self.file {
            file.seek(SeekFrom::Start(0))?;
            on_disk = Some(BufReader::with_capacity(1 << 16, file.try_clone()?));
        }
        let mut left = self.count;
        let mut input: Box<dyn Read + Send> = match on_disk {
            Some(on_disk) => Box::new(on_disk.chain(Cursor::new(self.recent.clone()))),
            None => Box::new(Cursor::new(self.recent.clone())),
        };
        Ok(std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            Some(read_entry(&mut input))
        }))
    }
}

fn write_entry(out: &mut Vec<u8>, entry: &Entry) -> io::Result<()> {
    let Entry { id, key, traces } = entry;
    out.extend(id.to_bytes());
    out.push(small(key.len())?);
    for value in key {
        let (kind, bytes) = match value {
            AttributeValue::S(text) => (b'S', text.as_bytes()),
            AttributeValue::N(number) => (b'N', number.as_bytes()),
            AttributeValue::B(blob) => (b'B', blob.as_ref()),
            other => return Err(io::Error::other(format!("{other:?} can't be a key"))),
        };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        out.push(kind);
        out.extend(length.to_be_bytes());
        out.extend(bytes);
    }
    out.push(small(traces.len())?);
    for trace in traces {
        let (kind, print, version) = match trace {
            Trace::Nothing => (0, None, None),
            Trace::Marked(version) => (1, None, Some(version)),
            Trace::Item(print, None) => (2, Some(print), None),
            Trace::Item(print, Some(version)) => (3, Some(print), Some(version)),
            Trace::Part => (4, None, None),
        };
        out.push(kind);
        out.extend(print.map(Fingerprint::to_bytes).into_iter().flatten());
        out.extend(version.map(|version| version.0.to_be_bytes()).into_iter().flatten());
    }
    Ok(())
}

fn small(length: usize) -> io::Result<u8> {
    u8::try_from(length).map_err(io::Error::other)
}

fn read_entry(input: &mut dyn Read) -> io::Result<Entry> {
    let id = KeyId::from_bytes(read_bytes(input)?);
    let [length] = read_bytes(input)?;
    let mut key = Vec::with_capacity(length.into());
    for _ in 0..length {
        let [kind] = read_bytes(input)?;
        let mut bytes = vec![0; u16::from_be_bytes(read_bytes(input)?).into()];
        input.read_exact(&mut bytes)?;
        let text = |bytes| String::from_utf8(bytes).map_err(io::Error::other);
        key.push(match kind {
            b'S' => AttributeValue::S(text(bytes)?),
            b'N' => AttributeValue::N(text(bytes)?),
            _ => AttributeValue::B(Blob::new(bytes)),
        });
    }
    let [length] = read_bytes(input)?;
    let mut traces = Vec::with_capacity(length.into());
    for _ in 0..length {
        let [kind] = read_bytes(input)?;
        let print = |input: &mut dyn Read| read_bytes(input).map(Fingerprint::from_bytes);
        let version =
            |input: &mut dyn Read| read_bytes(input).map(|bytes| VersionPrint(u64::from_be_bytes(bytes)));
        traces.push(match kind {
            0 => Trace::Nothing,
            1 => Trace::Marked(version(input)?),
            2 => Trace::Item(print(input)?, None),
            3 => Trace::Item(print(input)?, Some(version(input)?)),
            _ => Trace::Part,
        });
    }
    Ok(Entry { id, key: key.into(), traces: traces.into() })
}

fn read_bytes<const N: usize>(input: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = AttributeValue> {
        prop_oneof![
            ".{1,20}".prop_map(AttributeValue::S),
            "-?[0-9]{1,38}".prop_map(AttributeValue::N),
            vec(any::<u8>(), 1..20).prop_map(|bytes| AttributeValue::B(Blob::new(bytes))),
        ]
    }

    fn traces() -> impl Strategy<Value = Trace> {
        let version = || any::<u64>().prop_map(VersionPrint);
        let print = || any::<[u8; 12]>().prop_map(Fingerprint::from_bytes);
        prop_oneof![
            Just(Trace::Nothing),
            Just(Trace::Part),
            version().prop_map(Trace::Marked),
            (print(), proptest::option::of(version()))
                .prop_map(|(print, version)| Trace::Item(print, version)),
        ]
    }

    fn entries() -> impl Strategy<Value = Entry> {
        (any::<[u8; 16]>(), vec(values(), 1..3), vec(traces(), 2..5)).prop_map(|(id, key, traces)| Entry {
            id: KeyId::from_bytes(id),
            key: key.into(),
            traces: traces.into(),
        })
    }

    proptest! {
        #[test]
        fn a_pile_gives_back_what_it_was_given(entries in vec(entries(), 0..40), room in 0..2000_usize) {
            let mut pile = Pile::new(room);
            for entry in &entries {
                pile.push(entry).expect("room");
            }
            for _ in 0..2 {
                let read: Vec<_> = pile.read().expect("a file").collect::<Result<_, _>>().expect("entries");
                prop_assert_eq!(&read, &entries);
            }
            prop_assert_eq!(pile.count(), entries.len() as u64);
        }
    }
}
