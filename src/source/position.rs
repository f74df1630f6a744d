//! A reader's position in a shard.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A shard's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub Arc<str>);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ShardId {
    /// The same shard, labelled as one of another stream of the table than the one being read.
    #[must_use]
    pub fn of_stream(&self, label: &str) -> Self {
        if self.is_of_other_stream() { self.clone() } else { Self(format!("{label}/{self}").into()) }
    }

    pub fn is_of_other_stream(&self) -> bool {
        self.0.contains('/')
    }

    /// The shard as its own stream names it.
    #[must_use]
    pub(super) fn at_home(&self) -> Self {
        if self.is_of_other_stream() { Self(self.in_stream().1.into()) } else { self.clone() }
    }

    /// The shard's stream, if that is another one, and its name there.
    pub(super) fn in_stream(&self) -> (Option<&str>, &str) {
        match self.0.split_once('/') {
            Some((label, name)) => (Some(label), name),
            None => (None, &self.0),
        }
    }
}

/// A record's sequence number: 21 to 40 decimal digits, increasing within a shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sequence(Arc<str>);

impl Sequence {
    pub fn new(digits: &str) -> Self {
        Self(digits.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Leading zeros don't count.
    fn significant(&self) -> &str {
        self.0.trim_start_matches('0')
    }
}

impl Ord for Sequence {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.significant(), other.significant());
        a.len().cmp(&b.len()).then_with(|| a.cmp(b))
    }
}

impl PartialOrd for Sequence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// How much of a shard a reader has read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Position {
    /// Nothing: the oldest record still kept comes next.
    TrimHorizon,
    /// Everything up to and including this record.
    After(Sequence),
    /// Everything; the shard is closed.
    End,
}

impl Position {
    /// Whether a record is at or before this position.
    pub fn covers(&self, sequence: &Sequence) -> bool {
        match self {
            Self::TrimHorizon => false,
            Self::After(last) => sequence <= last,
            Self::End => true,
        }
    }
}

impl fmt::Display for Position {
    /// Uses the Kinesis Client Library's words for the two ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TrimHorizon => "TRIM_HORIZON",
            Self::After(sequence) => sequence.as_str(),
            Self::End => "SHARD_END",
        })
    }
}

impl From<&str> for Position {
    fn from(text: &str) -> Self {
        match text {
            "TRIM_HORIZON" => Self::TrimHorizon,
            "SHARD_END" => Self::End,
            sequence => Self::After(Sequence::new(sequence)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sequences_sort_as_numbers(a: u128, b: u128, zeros in 0..5_usize) {
            let padded = Sequence::new(&format!("{}{a}", "0".repeat(zeros)));
            prop_assert_eq!(padded.cmp(&Sequence::new(&b.to_string())), a.cmp(&b));
        }
    }

    #[test]
    fn positions_are_ordered_and_read_back() {
        let positions = ["TRIM_HORIZON", "00009", "10", "SHARD_END"].map(Position::from);
        assert!(positions.is_sorted());
        for position in positions {
            assert_eq!(Position::from(position.to_string().as_str()), position);
        }
    }
}
