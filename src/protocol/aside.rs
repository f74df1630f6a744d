//! Keys that are set aside: the state of each as bytes, and an outline of many for when they are forgotten.

use super::Sweep;
use super::key_state::{Healing, KeyState, Seen, Tip};
use super::{Floors, Hlc, Nonce, Origin, Version};

/// When all of many keys are forgotten, and how far back their memory reaches.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// The highest clock of those whose items do not state it.
    latest: Option<Hlc>,
    /// The last record that asked for a heal, in milliseconds.
    heal_millis: Option<u64>,
    /// The highest clock of each origin among the stamps of those whose items state their version.
    stamps: Floors,
    oldest: Option<u64>,
}

impl Outline {
    pub fn add(&mut self, state: &KeyState) {
        match state.tip {
            Tip::Carried => {
                state
                    .stamps
                    .iter()
                    .for_each(|seen| self.stamps.raise(&seen.version.origin, seen.version.hlc));
            }
            Tip::Bare | Tip::Absent | Tip::Stale => self.latest = self.latest.max(Some(state.latest.hlc)),
        }
        self.heal_millis = self.heal_millis.max(state.heals.iter().map(|heal| heal.millis).max());
        self.oldest = Some(self.oldest.map_or(state.oldest(), |oldest| oldest.min(state.oldest())));
    }

    /// The ordinal of the oldest record needed to rebuild all of them; a lower bound, once some of them are
    /// forgotten.
    pub fn oldest(&self) -> Option<u64> {
        self.oldest
    }
}

impl Sweep {
    /// Whether this forgets every key in the outline.
    pub fn forgets_all(&self, keys: &Outline) -> bool {
        keys.latest.is_none_or(|latest| latest < self.all)
            && keys.heal_millis.is_none_or(|millis| Hlc::at_millis(millis) < self.own)
            && keys.stamps.iter().all(|(origin, hlc)| hlc < self.floors.before(origin))
    }
}

/// Bytes that are not a key's state.
#[derive(Debug, thiserror::Error)]
#[error("these bytes don't say what was known of a key")]
pub struct Malformed;

impl KeyState {
    /// Appends the key's state; [`Self::read`] reads it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { latest, tip, stamps, heals, since } = self;
        out.push(match tip {
            Tip::Bare => 0,
            Tip::Absent => 1,
            Tip::Stale => 2,
            Tip::Carried => 3,
        });
        write_version(out, latest);
        out.extend(since.to_be_bytes());
        // At most `STAMPS`.
        out.push(u8::try_from(stamps.len()).unwrap_or(u8::MAX));
        for Seen { nonce, version, ordinal } in stamps {
            out.extend(nonce.number().to_be_bytes());
            write_version(out, version);
            out.extend(ordinal.to_be_bytes());
        }
        for Healing { version, millis, ordinal } in heals {
            write_version(out, version);
            out.extend(millis.to_be_bytes());
            out.extend(ordinal.to_be_bytes());
        }
    }

    /// Reads what [`Self::write`] wrote, to the end. Most versions are of the region `own`.
    pub fn read(mut bytes: &[u8], own: &Origin) -> Result<Self, Malformed> {
        let input = &mut bytes;
        let tip = match take::<1>(input)? {
            [0] => Tip::Bare,
            [1] => Tip::Absent,
            [2] => Tip::Stale,
            [3] => Tip::Carried,
            _ => return Err(Malformed),
        };
        let latest = read_version(input, own)?;
        let since = number(input)?;
        let [count] = take(input)?;
        let seen = |_| {
            let nonce = Nonce::from_number(number(input)?);
            Ok(Seen { nonce, version: read_version(input, own)?, ordinal: number(input)? })
        };
        let stamps = (0..count).map(seen).collect::<Result<_, Malformed>>()?;
        let mut heals = Vec::new();
        while !input.is_empty() {
            let version = read_version(input, own)?;
            heals.push(Healing { version, millis: number(input)?, ordinal: number(input)? });
        }
        Ok(Self { latest, tip, stamps, heals: heals.into(), since })
    }
}

fn write_version(out: &mut Vec<u8>, Version { hlc, origin }: &Version) {
    out.extend(u64::from(*hlc).to_be_bytes());
    let name = origin.as_str().as_bytes();
    // At most `Origin::MAX_LEN`.
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend(name);
}

fn read_version(input: &mut &[u8], own: &Origin) -> Result<Version, Malformed> {
    let hlc = Hlc::from(number(input)?);
    let [length] = take(input)?;
    let (name, rest) = input.split_at_checked(length.into()).ok_or(Malformed)?;
    *input = rest;
    let origin = if name == own.as_str().as_bytes() {
        own.clone()
    } else {
        std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()).ok_or(Malformed)?
    };
    Ok(Version { hlc, origin })
}

fn number(input: &mut &[u8]) -> Result<u64, Malformed> {
    take(input).map(u64::from_be_bytes)
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (bytes, rest) = input.split_first_chunk().ok_or(Malformed)?;
    *input = rest;
    Ok(*bytes)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn versions() -> impl Strategy<Value = Version> {
        // Around the times of the floors.
        ((0..6_u64).prop_map(|minutes| Hlc::at_millis(minutes * 60_000)), "[ab]")
            .prop_map(|(hlc, name)| Version { hlc, origin: name.parse().expect("a name") })
    }

    fn states() -> impl Strategy<Value = KeyState> {
        let tips = prop_oneof![Just(Tip::Bare), Just(Tip::Absent), Just(Tip::Stale), Just(Tip::Carried)];
        let seen = (any::<u64>(), versions(), 0..99_u64).prop_map(|(nonce, version, ordinal)| Seen {
            nonce: Nonce::from_number(nonce),
            version,
            ordinal,
        });
        let heals = (versions(), 0..6_u64, 0..99_u64).prop_map(|(version, minutes, ordinal)| Healing {
            version,
            millis: minutes * 60_000,
            ordinal,
        });
        (versions(), tips, vec(seen, 0..4), vec(heals, 0..4), 0..99_u64).prop_map(
            |(latest, tip, stamps, heals, since)| KeyState {
                latest,
                tip,
                stamps: stamps.into(),
                heals: heals.into(),
                since,
            },
        )
    }

    fn sweeps() -> impl Strategy<Value = Sweep> {
        (0..8_u64, 0..8_u64).prop_map(|(own, peers)| {
            let mut floors = Floors::default();
            let [own, peers] = [own, peers].map(|minutes| Hlc::at_millis(minutes * 60_000));
            floors.raise(&"a".parse().expect("a name"), own);
            floors.raise(&"b".parse().expect("a name"), peers);
            Sweep { floors, own, all: own.min(peers) }
        })
    }

    proptest! {
        #[test]
        fn what_is_known_of_a_key_is_read_back(state in states(), cut in 1..20_usize) {
            let own = "a".parse().expect("a name");
            let mut bytes = Vec::new();
            state.write(&mut bytes);
            let read = KeyState::read(&bytes, &own).expect("what was written");
            prop_assert_eq!(format!("{read:?}"), format!("{state:?}"));
            bytes.push(0);
            prop_assert!(KeyState::read(&bytes, &own).is_err());
            bytes.truncate(bytes.len().saturating_sub(1 + cut));
            // It may end where a heal would start.
            if let Ok(short) = KeyState::read(&bytes, &own) {
                prop_assert!(short.heals.len() < state.heals.len());
            }
        }

        #[test]
        fn an_outline_tells_what_its_keys_do(states in vec(states(), 1..5), sweep in sweeps()) {
            let mut outline = Outline::default();
            for state in &states {
                outline.add(state);
            }
            let left: Vec<_> = states.iter().cloned().filter_map(|mut state| sweep.leaves(&mut state).then_some(state)).collect();
            prop_assert!(!sweep.forgets_all(&outline) || left.is_empty(), "{left:?}");
            prop_assert_eq!(outline.oldest(), states.iter().map(KeyState::oldest).min());
            // For a single key, it is exact.
            if let [_] = states[..] {
                prop_assert_eq!(sweep.forgets_all(&outline), left.is_empty());
            }
        }

        #[test]
        fn a_later_sweep_does_for_an_earlier_one(state in states(), one in sweeps(), other in sweeps()) {
            let mut floors = one.floors.clone();
            other.floors.iter().for_each(|(origin, hlc)| floors.raise(origin, hlc));
            let later = Sweep { floors, own: one.own.max(other.own), all: one.all.max(other.all) };
            let (mut both, mut last) = (state.clone(), state);
            let left = one.leaves(&mut both) && later.leaves(&mut both);
            prop_assert_eq!(left, later.leaves(&mut last));
            if left {
                prop_assert_eq!(format!("{both:?}"), format!("{last:?}"));
            }
        }
    }
}
