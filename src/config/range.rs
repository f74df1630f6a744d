//! Numbers and times that must be in a range.

use std::time::Duration;

use toml::Spanned;

use super::problem::Problem;

/// A number that must be in a range, if it is given.
pub(super) fn within(number: Option<&Spanned<i64>>, least: i64, most: i64) -> Result<Option<u32>, Problem> {
    let Some(number) = number else { return Ok(None) };
    match u32::try_from(*number.get_ref()) {
        Ok(value) if (least..=most).contains(number.get_ref()) => Ok(Some(value)),
        _ => Err(Problem::at(number, format!("expected {least} to {most}"))),
    }
}

/// A time that must be in a range of seconds, if it is given.
pub(super) fn time(
    time: Option<&Spanned<String>>,
    least: u64,
    most: u64,
) -> Result<Option<Duration>, Problem> {
    let Some(text) = time else { return Ok(None) };
    let range = Duration::from_secs(least)..=Duration::from_secs(most);
    match humantime::parse_duration(text.get_ref()) {
        Ok(time) if range.contains(&time) => Ok(Some(time)),
        _ => {
            let shown = humantime::format_duration;
            let message = format!("expected a time, {} to {}", shown(*range.start()), shown(*range.end()));
            Err(Problem::at(text, message))
        }
    }
}
