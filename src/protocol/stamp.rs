//! The stamp: the one attribute that an agent puts into an item it writes.

use std::fmt;
use std::ops::RangeInclusive;

use aws_sdk_dynamodb::types::AttributeValue;
use sha2::{Digest, Sha256};

use super::{Fingerprint, Item, Origin, STAMP, Version};

/// The start of every well-formed stamp: the format's name and its version.
///
/// Conditions test it, so that an attribute of this name which no agent wrote counts as no stamp.
pub const STAMP_MAGIC: &str = "tw1 ";

/// Sorts after every stamp, since the digits of a clock end with `f`.
const STAMP_END: &str = "tw1 g";

/// Precedes the fingerprint of a mark; no fingerprint has its second character.
const MARK: &str = "x-";

/// Distinguishes one physical write attempt from another with the same version.
///
/// It also shows in which region the attempt was made: a stamp that turns up anywhere else is a copy, which
/// an application has put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(u64);

impl Nonce {
    /// How many of its bits are random; the others are a hash of the region's name.
    const RANDOM: u32 = 48;

    /// The nonce of an attempt in a region, from a random number.
    pub fn new(region: &Origin, random: u64) -> Self {
        Self(
            u64::from(Self::tag(region)) << Self::RANDOM
                | random << (64 - Self::RANDOM) >> (64 - Self::RANDOM),
        )
    }

    /// Whether the attempt may have been made in this region: of the attempts in other regions, one in 65,536
    /// looks as if it was.
    pub fn is_of(self, region: &Origin) -> bool {
        self.0 >> Self::RANDOM == u64::from(Self::tag(region))
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }

    pub(super) fn from_number(number: u64) -> Self {
        Self(number)
    }

    fn tag(region: &Origin) -> u16 {
        let digest = Sha256::digest(region.as_str());
        u16::from_be_bytes([digest[0], digest[1]])
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What an agent records about an item that it writes.
///
/// It is kept as one string, so that DynamoDB's own `<` compares versions and a person can read it in a
/// console: `tw1 <hlc> <origin> <base hlc> <base origin> <fingerprint> <nonce>`. A write based on nothing has
/// `- -` for its base, a seed has the number of its hold and `-`, and a delete mark has `x-` before its
/// fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub version: Version,
    /// The version of the image that the write replaced at its origin, if known.
    pub base: Option<Version>,
    pub kind: StampKind,
    pub nonce: Nonce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampKind {
    /// A put; the fingerprint is that of the rest of the item.
    Put(Fingerprint),
    /// A delete mark: the replica's own agent is to delete the item. The fingerprint is that of the data that
    /// the mark was set on, if known.
    Mark(Fingerprint),
}

impl Stamp {
    /// The stamp in an item, if an agent wrote one there.
    pub fn read(item: &Item) -> Option<Self> {
        Stamped::read(item).stamp().cloned()
    }

    pub fn is_mark(&self) -> bool {
        matches!(self.kind, StampKind::Mark(_))
    }

    /// The number of the hold under which a seeder wrote this, if one did.
    pub fn hold(&self) -> Option<u64> {
        self.seeded().map(|base| base.hlc.into())
    }

    /// Once the floors have passed this, it can't arrive any more: a seed may have a version that they passed
    /// long ago, and arrives until its hold is over.
    pub(super) fn comes_until(&self) -> &Version {
        self.seeded().unwrap_or(&self.version)
    }

    fn seeded(&self) -> Option<&Version> {
        self.base.as_ref().filter(|base| base.origin == Origin::seeding())
    }

    /// Whether this stamp was written together with the rest of `item`.
    pub fn matches(&self, item: &Item) -> bool {
        match self.kind {
            StampKind::Put(fingerprint) => fingerprint == Fingerprint::of(item),
            StampKind::Mark(_) => false,
        }
    }

    /// Whether the rest of `item` is what this stamp was set on: no application has written it since.
    pub fn fits(&self, item: &Item, key: &Item) -> bool {
        match self.kind {
            StampKind::Put(fingerprint) => fingerprint == Fingerprint::of(item),
            // A mark that was to find an item, or none, may have found none.
            StampKind::Mark(fingerprint) => self.is_bare(item, key) || fingerprint == Fingerprint::of(item),
        }
    }

    /// Whether this is a mark with nothing beside it.
    pub(super) fn is_bare(&self, item: &Item, key: &Item) -> bool {
        self.is_mark() && item.len() == key.len() + 1
    }

    /// Every stamp of a lower version sorts below this text, and every one of this version or a higher one
    /// above it.
    pub fn bound(version: &Version) -> String {
        format!("{STAMP_MAGIC}{version}")
    }

    /// The stamps of a version.
    pub fn range(version: &Version) -> RangeInclusive<String> {
        let bound = Self::bound(version);
        // The rest of a stamp sorts below this.
        let end = format!("{bound}~");
        bound..=end
    }

    /// The stamps of a version and of all higher ones.
    pub fn range_from(version: &Version) -> RangeInclusive<String> {
        Self::bound(version)..=STAMP_END.to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix(STAMP_MAGIC)?.split(' ');
        let version = Version::from_words(words.next()?, words.next()?)?;
        let base = match (words.next()?, words.next()?) {
            ("-", "-") => None,
            (hlc, origin) => Some(Version::from_words(hlc, origin)?),
        };
        let word = words.next()?;
        let kind = match word.strip_prefix(MARK) {
            Some(fingerprint) => StampKind::Mark(fingerprint.parse().ok()?),
            None => StampKind::Put(word.parse().ok()?),
        };
        let nonce = words.next().filter(|word| word.len() == 16)?;
        let stamp = Self { version, base, kind, nonce: Nonce(u64::from_str_radix(nonce, 16).ok()?) };
        // Only the one canonical spelling is a stamp.
        (words.next().is_none() && stamp.to_string() == text).then_some(stamp)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STAMP_MAGIC}{}", self.version)?;
        match &self.base {
            Some(base) => write!(f, "{base}")?,
            None => f.write_str("- - ")?,
        }
        match self.kind {
            StampKind::Put(fingerprint) => write!(f, "{fingerprint}")?,
            StampKind::Mark(fingerprint) => write!(f, "{MARK}{fingerprint}")?,
        }
        write!(f, " {}", self.nonce)
    }
}

/// The content of an item's stamp attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stamped {
    No,
    Yes(Stamp),
    /// Something that no agent wrote.
    Malformed,
}

impl Stamped {
    pub(super) fn read(item: &Item) -> Self {
        match item.get(STAMP) {
            None => Self::No,
            Some(AttributeValue::S(text)) => Stamp::parse(text).map_or(Self::Malformed, Self::Yes),
            Some(_) => Self::Malformed,
        }
    }

    pub(super) fn stamp(&self) -> Option<&Stamp> {
        match self {
            Self::Yes(stamp) => Some(stamp),
            Self::No | Self::Malformed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Hlc;

    fn version(millis: u64, origin: &str) -> Version {
        Version { hlc: Hlc::at_millis(millis), origin: origin.parse::<Origin>().expect("a legal name") }
    }

    fn stamp(millis: u64, origin: &str, kind: StampKind, nonce: u64) -> Stamp {
        Stamp {
            version: version(millis, origin),
            base: nonce.is_multiple_of(2).then(|| version(nonce, "base")),
            kind,
            nonce: Nonce(nonce),
        }
    }

    proptest! {
        #[test]
        fn a_stamp_is_read_back_and_sorts_about_its_bound(
            at in 0..1_u64 << 44, other in 0..1_u64 << 44, origin in "[a-z0-9_-]{1,32}", mark: bool, nonce: u64
        ) {
            let fingerprint = Fingerprint::of(&Item::new());
            let kind = if mark { StampKind::Mark(fingerprint) } else { StampKind::Put(fingerprint) };
            let written = stamp(at, &origin, kind, nonce);
            prop_assert_eq!(Stamp::parse(&written.to_string()), Some(written.clone()));
            prop_assert_eq!(
                written.to_string() < Stamp::bound(&version(other, &origin)),
                at < other
            );
        }

        #[test]
        fn garbage_is_no_stamp(text in "\\PC{0,120}", tail in "[ -~]{0,90}") {
            prop_assert_eq!(Stamp::parse(&text), None);
            prop_assert_eq!(Stamp::parse(&format!("{STAMP_MAGIC}{tail}")), None);
        }
    }

    #[test]
    fn only_the_canonical_spelling_is_a_stamp() {
        let good = stamp(5, "tokyo", StampKind::Mark(Fingerprint::UNKNOWN), 1).to_string();
        assert!(Stamp::parse(&good).is_some());
        for bad in [
            good.to_uppercase(),
            format!("{good} "),
            format!(" {good}"),
            good.replace("tokyo", "tok yo"),
            good.replace(" x-", " y-"),
            good.replace(" x-", " x"),
            good.replacen("00", "+0", 1),
            good.replace(" 0000000000000001", " +000000000000001"),
        ] {
            assert_eq!(Stamp::parse(&bad), None, "{bad}");
        }
    }
}
