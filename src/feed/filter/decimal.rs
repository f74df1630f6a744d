//! Decimal numbers of any length, compared without rounding.

use std::cmp::Ordering;

use serde_json::Number;

/// An exact decimal number: the sign times `0.digits` times ten to the `exponent`. Without zeros at either
/// end of the digits, equal numbers have equal fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decimal {
    sign: i8,
    exponent: i64,
    digits: Vec<u8>,
}

impl Decimal {
    pub(super) fn of(number: &Number) -> Option<Self> {
        Self::parse(&number.to_string())
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (sign, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse().ok()?),
            None => (unsigned, 0_i64),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = || whole.bytes().chain(fraction.bytes());
        if digits().next().is_none() || !digits().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let zeros = digits().take_while(|digit| *digit == b'0').count();
        let mut digits: Vec<u8> = digits().skip(zeros).collect();
        while digits.pop_if(|digit| *digit == b'0').is_some() {}
        if digits.is_empty() {
            return Some(Self { sign: 0, exponent: 0, digits });
        }
        let point = exponent.checked_add(i64::try_from(whole.len()).ok()?)?;
        Some(Self { sign, exponent: point.checked_sub(i64::try_from(zeros).ok()?)?, digits })
    }

    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let magnitude = || self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits));
        self.sign
            .cmp(&other.sign)
            .then_with(|| if self.sign < 0 { magnitude().reverse() } else { magnitude() })
    }
}

/// The first number in a JSON text that `serde_json` keeps only rounded.
pub(super) fn first_rounded(json: &str) -> Option<&str> {
    let (mut in_string, mut escaped) = (false, false);
    let outside_numbers = |c: char| {
        let in_number = !in_string && (c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'));
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        !in_number
    };
    json.split(outside_numbers).filter(|token| token.contains(|c: char| c.is_ascii_digit())).find(|token| {
        let kept: Option<Number> = serde_json::from_str(token).ok();
        kept.as_ref().and_then(Decimal::of) != Decimal::parse(token)
    })
}
