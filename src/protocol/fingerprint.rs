//! The canonical hash by which a stamp recognises the item that it was written with.
//!
//! Two items that DynamoDB treats as equal have one fingerprint: the order of sets and maps and the spelling
//! of numbers do not matter.

use std::fmt;
use std::str::FromStr;

use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};

use super::{Item, STAMP};

/// 96 bits of SHA-256 over the canonical form of an item without its stamp.
///
/// Sixteen characters in a stamp; the odds that an application's write collides with the stamp
/// it kept are 2⁻⁹⁶.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 12]);

impl Fingerprint {
    /// Stands for unknown data: the odds that an item has this fingerprint are those of any other.
    pub const UNKNOWN: Self = Self([0; 12]);

    /// The fingerprint of an item, without its stamp.
    pub fn of(item: &Item) -> Self {
        Self(digest(item))
    }

    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    pub fn to_bytes(&self) -> [u8; 12] {
        self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD_NO_PAD.encode(self.0))
    }
}

/// A text that is not a fingerprint.
#[derive(Debug, thiserror::Error)]
#[error("expected 16 characters of base64")]
pub struct InvalidFingerprint;

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| InvalidFingerprint)?;
        bytes.try_into().map(Self).map_err(|_| InvalidFingerprint)
    }
}

/// 128 bits of SHA-256 over the key attributes: a key's name in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u128);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl KeyId {
    pub fn of(key: &Item) -> Self {
        Self(u128::from_be_bytes(digest(key)))
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    pub fn number(self) -> u128 {
        self.0
    }

    /// The part that this key falls into, out of `parts`.
    pub fn part(self, parts: usize) -> usize {
        let parts = u128::try_from(parts.max(1)).unwrap_or(u128::MAX);
        usize::try_from(self.0 % parts).unwrap_or(0)
    }
}

/// The first `N` bytes, at most 32, of the hash.
fn digest<const N: usize>(item: &Item) -> [u8; N] {
    let mut hasher = Sha256::new();
    hash_map(&mut hasher, item.iter().filter(|(name, _)| *name != STAMP));
    let full: [u8; 32] = hasher.finalize().into();
    std::array::from_fn(|i| full[i])
}

/// Every part is preceded by its type and its length, so that no two items have the same form.
fn hash_map<'a>(hasher: &mut Sha256, entries: impl Iterator<Item = (&'a String, &'a AttributeValue)>) {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    tag(hasher, b'M', entries.len());
    for (name, value) in entries {
        bytes(hasher, b'k', name.as_bytes());
        hash_value(hasher, value);
    }
}

fn hash_value(hasher: &mut Sha256, value: &AttributeValue) {
    match value {
        AttributeValue::S(text) => bytes(hasher, b'S', text.as_bytes()),
        AttributeValue::N(number) => bytes(hasher, b'N', canonical_number(number).as_bytes()),
        AttributeValue::B(blob) => bytes(hasher, b'B', blob.as_ref()),
        AttributeValue::Bool(flag) => tag(hasher, b'T', usize::from(*flag)),
        AttributeValue::Null(_) => tag(hasher, b'0', 0),
        AttributeValue::Ss(set) => hash_set(hasher, b's', set.iter().map(String::as_bytes).collect()),
        AttributeValue::Bs(set) => hash_set(hasher, b'b', set.iter().map(AsRef::as_ref).collect()),
        AttributeValue::Ns(set) => {
            let numbers: Vec<String> = set.iter().map(|number| canonical_number(number)).collect();
            hash_set(hasher, b'n', numbers.iter().map(String::as_bytes).collect());
        }
        AttributeValue::L(list) => {
            tag(hasher, b'L', list.len());
            for element in list {
                hash_value(hasher, element);
            }
        }
        AttributeValue::M(map) => hash_map(hasher, map.iter()),
        // A type that this build of the SDK does not know: its debug form is all there is.
        other => bytes(hasher, b'?', format!("{other:?}").as_bytes()),
    }
}

fn hash_set(hasher: &mut Sha256, kind: u8, mut elements: Vec<&[u8]>) {
    elements.sort_unstable();
    tag(hasher, kind, elements.len());
    for element in elements {
        bytes(hasher, b'e', element);
    }
}

fn tag(hasher: &mut Sha256, kind: u8, count: usize) {
    hasher.update([kind]);
    hasher.update((count as u64).to_be_bytes());
}

fn bytes(hasher: &mut Sha256, kind: u8, content: &[u8]) {
    tag(hasher, kind, content.len());
    hasher.update(content);
}

/// One spelling for each number: its sign, its digits without zeros at either end, and the power of ten of
/// the last one. Anything that is not a number stays as it is.
fn canonical_number(text: &str) -> String {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()),
        None => (unsigned, Some(0)),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let (Some(exponent), true) = (exponent, !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()))
    else {
        return text.to_owned();
    };
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return "0".to_owned();
    }
    let short = significant.trim_end_matches('0');
    let power = exponent
        .saturating_sub_unsigned(fraction.len() as u64)
        .saturating_add_unsigned((significant.len() - short.len()) as u64);
    format!("{}{short}e{power}", if negative { "-" } else { "" })
}

/// Whether two numbers are equal, however they are spelt.
pub(super) fn same_number(a: &str, b: &str) -> bool {
    a == b || canonical_number(a) == canonical_number(b)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use aws_sdk_dynamodb::primitives::Blob;
    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    fn item(value: AttributeValue) -> Item {
        Item::from([("a".to_owned(), value)])
    }

    #[test]
    fn equal_numbers_have_one_form() {
        for forms in [
            &["0", "-0", "0.00", "0e7", "+0"][..],
            &["100", "1e2", "1E+2", "100.0", "0100", "10e1", "1000e-1"],
            &["-0.5", "-.5", "-5e-1", "-0.50"],
            &["12345678901234567890123456789012345678", "1.2345678901234567890123456789012345678E37"],
        ] {
            for form in forms {
                assert_eq!(canonical_number(form), canonical_number(forms[0]), "{form}");
            }
        }
        assert_ne!(canonical_number("1"), canonical_number("-1"));
        assert_ne!(canonical_number("1"), canonical_number("10"));
        assert_eq!(canonical_number("e5"), "e5");
    }

    #[test]
    fn numbers_are_the_same_however_they_are_spelt() {
        for (a, b, same) in [("1", "1", true), ("100", "1e2", true), ("1", "10", false), ("x", "x", true)] {
            assert_eq!(same_number(a, b), same, "{a} {b}");
        }
    }

    #[test]
    fn bytes_are_read_back() {
        let item = item(AttributeValue::Bool(true));
        let (fingerprint, key) = (Fingerprint::of(&item), KeyId::of(&item));
        assert_eq!(Fingerprint::from_bytes(fingerprint.to_bytes()), fingerprint);
        assert_eq!(KeyId::from_bytes(key.to_bytes()), key);
        assert_eq!(key.number(), u128::from_be_bytes(key.to_bytes()));
    }

    #[test]
    fn the_stamp_and_the_order_of_sets_do_not_count() {
        let set = |names: [&str; 2]| AttributeValue::Ss(names.map(str::to_owned).to_vec());
        let mut stamped = item(set(["x", "y"]));
        stamped.insert(STAMP.to_owned(), AttributeValue::S("any".to_owned()));
        assert_eq!(Fingerprint::of(&stamped), Fingerprint::of(&item(set(["y", "x"]))));
    }

    #[test]
    fn keys_are_spread_over_the_parts() {
        let parts: Vec<usize> = (0..5).map(|id| KeyId(id).part(3)).collect();
        assert_eq!(parts, [0, 1, 2, 0, 1]);
        assert_eq!(KeyId(7).part(0), 0, "no parts count as one");
    }

    #[test]
    fn types_and_boundaries_count() {
        let text = |s: &str| AttributeValue::S(s.to_owned());
        let items = [
            item(text("1")),
            item(AttributeValue::N("1".to_owned())),
            item(AttributeValue::B(Blob::new("1"))),
            item(AttributeValue::Ss(vec!["1".to_owned()])),
            item(AttributeValue::Ns(vec!["1".to_owned()])),
            item(AttributeValue::L(vec![text("1")])),
            item(AttributeValue::L(vec![text(""), text("1")])),
            item(AttributeValue::L(vec![text("1"), text("")])),
            item(AttributeValue::M(item(text("1")))),
            item(AttributeValue::Null(true)),
            item(AttributeValue::Bool(true)),
            item(AttributeValue::Bool(false)),
            Item::new(),
        ];
        for (i, a) in items.iter().enumerate() {
            for (j, b) in items.iter().enumerate() {
                assert_eq!(Fingerprint::of(a) == Fingerprint::of(b), i == j, "{a:?} {b:?}");
            }
        }
    }

    /// A value as DynamoDB understands it: equal where DynamoDB says so.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Value {
        S(String),
        N(Number),
        B(Vec<u8>),
        Bool(bool),
        Null,
        Ss(BTreeSet<String>),
        Ns(BTreeSet<Number>),
        Bs(BTreeSet<Vec<u8>>),
        L(Vec<Value>),
        M(BTreeMap<String, Value>),
    }

    /// Digits without a zero at the end, and the power of ten of the last.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Number(i64, i32);

    fn numbers() -> impl Strategy<Value = Number> {
        (prop_oneof![-20..20_i64, any::<i64>()], -3..4_i32).prop_map(|(mut digits, mut power)| {
            while digits != 0 && digits % 10 == 0 {
                (digits, power) = (digits / 10, power + 1);
            }
            if digits == 0 { Number(0, 0) } else { Number(digits, power) }
        })
    }

    /// Few distinct values, so that equal ones occur.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            "[ab]{0,2}".prop_map(Value::S),
            numbers().prop_map(Value::N),
            vec(0..3_u8, 0..3).prop_map(Value::B),
            any::<bool>().prop_map(Value::Bool),
            Just(Value::Null),
            btree_set("[ab]{1,2}", 1..4).prop_map(Value::Ss),
            btree_set(numbers(), 1..4).prop_map(Value::Ns),
            btree_set(vec(0..3_u8, 1..3), 1..4).prop_map(Value::Bs),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..3).prop_map(Value::L),
                btree_map("[ab]{1,2}", inner, 0..3).prop_map(Value::M),
            ]
        })
    }

    /// One of the ways to write a number.
    fn spell_number(Number(digits, power): Number, rng: &mut fastrand::Rng) -> String {
        let sign = if digits < 0 { "-" } else { ["", "", "+"][rng.usize(..3)] };
        let zeros = rng.usize(..3);
        let mut text =
            format!("{}{}{}", "0".repeat(rng.usize(..3)), digits.unsigned_abs(), "0".repeat(zeros));
        let mut power = power - i32::try_from(zeros).expect("few");
        if rng.bool() {
            let places = rng.usize(..=text.len());
            text.insert(text.len() - places, '.');
            power += i32::try_from(places).expect("few");
        }
        let e = ["e", "E"][rng.usize(..2)];
        let plus = if power >= 0 && rng.bool() { "+" } else { "" };
        if power == 0 && rng.bool() {
            format!("{sign}{text}")
        } else {
            format!("{sign}{text}{e}{plus}{power}")
        }
    }

    /// One of the ways to write a value.
    fn spell(value: &Value, rng: &mut fastrand::Rng) -> AttributeValue {
        fn shuffled<T>(mut elements: Vec<T>, rng: &mut fastrand::Rng) -> Vec<T> {
            rng.shuffle(&mut elements);
            elements
        }
        match value {
            Value::S(text) => AttributeValue::S(text.clone()),
            Value::N(number) => AttributeValue::N(spell_number(*number, rng)),
            Value::B(bytes) => AttributeValue::B(Blob::new(bytes.clone())),
            Value::Bool(flag) => AttributeValue::Bool(*flag),
            Value::Null => AttributeValue::Null(true),
            Value::Ss(set) => AttributeValue::Ss(shuffled(set.iter().cloned().collect(), rng)),
            Value::Ns(set) => {
                let numbers = set.iter().map(|number| spell_number(*number, rng)).collect();
                AttributeValue::Ns(shuffled(numbers, rng))
            }
            Value::Bs(set) => AttributeValue::Bs(shuffled(set.iter().cloned().map(Blob::new).collect(), rng)),
            Value::L(list) => AttributeValue::L(list.iter().map(|value| spell(value, rng)).collect()),
            Value::M(map) => {
                AttributeValue::M(map.iter().map(|(name, value)| (name.clone(), spell(value, rng))).collect())
            }
        }
    }

    proptest! {
        #[test]
        fn a_fingerprint_is_equal_just_where_dynamodb_says_so(a in values(), b in values(), seed: u64) {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let mut print = |value: &Value| Fingerprint::of(&item(spell(value, rng)));
            prop_assert_eq!(print(&a), print(&a));
            prop_assert_eq!(print(&a) == print(&b), a == b);
        }

        #[test]
        fn a_key_has_one_name_and_one_part(a in values(), b in values(), seed: u64, parts in 1..9_usize) {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let mut id = |value: &Value| KeyId::of(&item(spell(value, rng)));
            prop_assert_eq!(id(&a), id(&a));
            prop_assert_eq!(id(&a) == id(&b), a == b);
            prop_assert_eq!(id(&a).to_string() == id(&b).to_string(), a == b);
            prop_assert!(id(&a).part(parts) < parts);
        }

        #[test]
        fn a_number_survives_a_shift_of_its_point(digits in "[1-9][0-9]{0,36}", shift in 0..40_usize, negative: bool) {
            let sign = if negative { "-" } else { "" };
            let plain = format!("{sign}{digits}");
            let shifted = format!("{sign}{digits}{}e-{shift}", "0".repeat(shift));
            prop_assert_eq!(canonical_number(&plain), canonical_number(&shifted));
        }

        #[test]
        fn a_fingerprint_is_read_back(text: String) {
            let fingerprint = Fingerprint::of(&item(AttributeValue::S(text)));
            prop_assert_eq!(fingerprint.to_string().parse::<Fingerprint>().ok(), Some(fingerprint));
        }
    }
}
