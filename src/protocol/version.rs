//! The one total order of writes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A hybrid logical clock: wall time in milliseconds (the upper 44 bits) and a counter (the lower 20), as in
/// Kulkarni et al., "Logical Physical Clocks" (2014).
///
/// The wall time only ever comes from the creation time of a stream record, which the origin's own service
/// sets. As this is one number, a full counter carries over into the wall time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hlc(u64);

impl Hlc {
    const COUNTER_BITS: u32 = 20;
    /// Below every clock that a write can have.
    pub const ZERO: Self = Self(0);

    /// The first clock of a millisecond since the Unix epoch. Years after 2500 saturate.
    pub fn at_millis(millis: u64) -> Self {
        Self(millis.min(u64::MAX >> Self::COUNTER_BITS) << Self::COUNTER_BITS)
    }

    /// The wall time, in milliseconds since the Unix epoch.
    pub fn millis(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The next clock: one above.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl From<u64> for Hlc {
    fn from(raw: u64) -> Self {
        Self(raw)
    }
}

impl From<Hlc> for u64 {
    fn from(hlc: Hlc) -> Self {
        hlc.0
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The name of the region where an application made a write.
///
/// Names are 1 to 32 characters of `a-z`, `0-9`, `-` and `_`, so that a space, which ends a name
/// inside a stamp, sorts below every character of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(Arc<str>);

impl Origin {
    pub const MAX_LEN: usize = 32;

    /// The base of a seed's stamp, with the number of its hold as the clock; among the floors, it stands for
    /// all holds together. No region may have this name.
    pub fn seeding() -> Self {
        Self("-".into())
    }

    /// Whether a region may have this name.
    pub fn can_be_region(&self) -> bool {
        !self.0.starts_with('-')
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that no region can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected 1 to {} characters of a-z, 0-9, '-' and '_'", Origin::MAX_LEN)]
pub struct InvalidOrigin;

impl TryFrom<String> for Origin {
    type Error = InvalidOrigin;

    fn try_from(name: String) -> Result<Self, InvalidOrigin> {
        name.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.as_str().to_owned()
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(name: &str) -> Result<Self, InvalidOrigin> {
        if is_name(name) { Ok(Self(name.into())) } else { Err(InvalidOrigin) }
    }
}

/// Whether a text has the form of a region's name, which other things have, too.
pub(crate) fn is_name(text: &str) -> bool {
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    (1..=Origin::MAX_LEN).contains(&text.len()) && text.bytes().all(legal)
}

/// A write's place in the one total order: the clock, then the origin.
///
/// No two writes to one key share a version: writes of one origin are ordered by the clock alone, because
/// each is bumped above the last one in the key's memory, and the memory is kept at least until the stream's
/// own time has passed it (see [`super::KeyMemory::forget`]). So no sequence number is needed, which would
/// cost 42 bytes in every item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub hlc: Hlc,
    pub origin: Origin,
}

impl fmt::Display for Version {
    /// `hlc origin `: sorts byte by byte as the version does, even as the prefix of a stamp.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.hlc, self.origin)
    }
}

/// A text that is not a version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected a clock of 16 hexadecimal digits and the name of a region")]
pub struct InvalidVersion;

impl FromStr for Version {
    type Err = InvalidVersion;

    /// Reads what [`fmt::Display`] writes, with or without the space at its end.
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let (hlc, origin) = text.trim_end().split_once(' ').ok_or(InvalidVersion)?;
        Self::from_words(hlc, origin).ok_or(InvalidVersion)
    }
}

impl Version {
    /// Whether an agent assigned it. A version that a seeder assigns to an item without one is below all of
    /// those, and implies no order.
    pub fn is_agents(&self) -> bool {
        self.hlc.millis() > 0
    }

    /// Reads back the two words that [`fmt::Display`] writes.
    pub(super) fn from_words(hlc: &str, origin: &str) -> Option<Self> {
        if hlc.len() != 16 || !hlc.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        Some(Self { hlc: Hlc(u64::from_str_radix(hlc, 16).ok()?), origin: origin.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version() -> impl Strategy<Value = Version> {
        // Few distinct values, so that equal clocks and origins that are prefixes come up.
        (prop_oneof![0..4_u64, any::<u64>()], "[a-b0_-]{1,3}").prop_map(|(hlc, origin)| Version {
            hlc: Hlc(hlc),
            origin: origin.parse().expect("a legal name"),
        })
    }

    proptest! {
        #[test]
        fn text_sorts_as_the_version_does(a in version(), b in version()) {
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
        }

        #[test]
        fn text_is_read_back(version in version()) {
            prop_assert_eq!(version.to_string().parse(), Ok(version.clone()));
            prop_assert_eq!(version.to_string().trim_end().parse(), Ok(version));
        }
    }

    #[test]
    fn a_full_counter_carries_into_the_wall_time() {
        let last = Hlc((7 << Hlc::COUNTER_BITS) | ((1 << Hlc::COUNTER_BITS) - 1));
        assert_eq!(last.next(), Hlc::at_millis(8));
    }

    #[test]
    fn a_time_beyond_all_clocks_is_the_last_one() {
        assert_eq!(Hlc::at_millis(u64::MAX), Hlc::at_millis(u64::MAX >> Hlc::COUNTER_BITS));
    }

    #[test]
    fn a_clock_has_one_spelling() {
        for text in ["1 tokyo", "+000000000000001 tokyo", "000000000000000A tokyo"] {
            assert_eq!(text.parse::<Version>(), Err(InvalidVersion), "{text}");
        }
    }

    #[test]
    fn a_regions_name_begins_with_no_hyphen() {
        for (name, can_be) in [("tokyo", true), ("a-b", true), ("-", false), ("-a", false)] {
            let origin: Origin = name.parse().expect("a legal name");
            assert_eq!(origin.can_be_region(), can_be, "{name}");
            assert_eq!(String::from(origin), name);
        }
    }

    #[test]
    fn illegal_names_are_refused() {
        for name in ["", "Tokyo", "a b", "a.b", &"x".repeat(33)] {
            assert_eq!(name.parse::<Origin>(), Err(InvalidOrigin), "{name}");
        }
    }
}
