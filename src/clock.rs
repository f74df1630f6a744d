//! The only place that reads this machine's clock. It serves lag, ages and logs; no version uses it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The end of the year 9999, in milliseconds since the Unix epoch.
const LAST_MOMENT: u64 = 253_402_300_799_999;

/// This machine's clock, in milliseconds since the Unix epoch.
pub(crate) fn wall_millis() -> u64 {
    epoch_millis(wall_clock())
}

/// A time in milliseconds since the Unix epoch.
pub(crate) fn epoch_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// This machine's clock.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// A time in milliseconds since the Unix epoch, in readable form. It may come from anyone and be anything:
/// times beyond the year 9999, the last that can be formatted, are shown as its end.
pub(crate) fn moment(millis: u64) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(millis.min(LAST_MOMENT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_can_be_told() {
        let told = |millis| moment(millis).to_string();
        assert_eq!(told(1_700_000_000_999), "2023-11-14T22:13:20Z");
        assert_eq!(told(LAST_MOMENT), "9999-12-31T23:59:59Z");
        assert_eq!(told(LAST_MOMENT + 1), told(LAST_MOMENT));
        assert_eq!(told(u64::MAX), told(LAST_MOMENT));
    }
}
