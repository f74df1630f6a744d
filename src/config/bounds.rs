//! The bounds of what may be tuned: beyond some, nothing works; beyond others, it is not proven that no write
//! is lost.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;

use super::problem::Problem;
use super::tuning::Tuning;

/// As in the simulator: a request that its agent has given up on may take effect up to two thirds of `settle`
/// later, and one attempt takes 10 s at most. An agent that forgets sooner can take a late write for an
/// application's.
const SETTLE: RangeInclusive<Duration> = Duration::from_secs(30)..=Duration::from_hours(1);
/// DynamoDB keeps records no longer than this. Which writes are reported as lost, and when, depends on it.
const RETENTION: RangeInclusive<Duration> = Duration::from_mins(10)..=Duration::from_hours(24);
/// Promises rise, and settle, many times before a record is trimmed.
const SETTLES_A_RETENTION: u32 = 4;
/// As in the simulator: an iterator expires after 15 minutes.
const POLL: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(1);

pub(super) fn check(tuning: &Spanned<Tuning>) -> Result<(), Problem> {
    let wrong = |message: String| Err(Problem::at(tuning, message));
    let Tuning { concurrency, queue_mib, memory_keys, dead_letter_days, conflict_days, .. } =
        *tuning.get_ref();
    let days = |days: u32| usize::try_from(days).unwrap_or(usize::MAX);
    for (key, value, range) in [
        ("concurrency", concurrency, 1..=1024),
        ("queue_mib", queue_mib, 1..=4096),
        ("memory_keys", memory_keys, 1..=usize::MAX),
        ("dead_letter_days", days(dead_letter_days), 1..=36_500),
        ("conflict_days", days(conflict_days), 1..=36_500),
    ] {
        if !range.contains(&value) {
            return wrong(format!("{key} = {value}: expected {} to {}", range.start(), range.end()));
        }
    }
    let Tuning { settle, stream_retention, poll_interval, idle_poll_interval, .. } = *tuning.get_ref();
    if tuning.get_ref().unproven {
        return Ok(());
    }
    for (key, value, range, why) in [
        (
            "settle",
            settle,
            SETTLE,
            "a write may be in progress for this long, and an agent that forgets sooner can undo it",
        ),
        (
            "stream_retention",
            stream_retention,
            RETENTION,
            "streams keep no more, and what they lost is judged by it",
        ),
        ("poll_interval", poll_interval, POLL, "a stream that is read less often may lose records unnoticed"),
        (
            "idle_poll_interval",
            idle_poll_interval,
            POLL,
            "a stream that is read less often may lose records unnoticed",
        ),
    ] {
        if !range.contains(&value) {
            let time = humantime::format_duration;
            let (value, least, most) = (time(value), time(*range.start()), time(*range.end()));
            return wrong(format!("{key} = \"{value}\": expected \"{least}\" to \"{most}\"; {why}"));
        }
    }
    if settle * SETTLES_A_RETENTION > stream_retention {
        let most = humantime::format_duration(stream_retention / SETTLES_A_RETENTION);
        return wrong(format!("settle: expected at most \"{most}\", a quarter of stream_retention"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    #[test]
    fn what_no_proof_covers_is_refused_unless_a_test_asks_for_it() {
        let parsed = |tuning: &str| {
            let text = format!(
                "region = [{{ name = \"a\", aws_region = \"eu-west-1\" }}, {{ name = \"b\", aws_region = \
                 \"us-west-2\" }}]\ntable = [{{ name = \"orders\" }}]\n[tuning]\n{tuning}"
            );
            Config::parse(Path::new("regions.toml"), &text).map(|_| ()).map_err(|error| error.to_string())
        };
        for (good, bad, says) in [
            ("settle = \"30s\"", "settle = \"29s\"", "settle = \"29s\": expected \"30s\" to \"1h\""),
            ("settle = \"1h\"", "settle = \"61m\"", "expected \"30s\" to \"1h\""),
            ("stream_retention = \"10m\"", "stream_retention = \"25h\"", "expected \"10m\" to \"1day\""),
            ("poll_interval = \"1m\"", "poll_interval = \"61s\"", "expected \"1ms\" to \"1m\""),
            ("idle_poll_interval = \"1m\"", "idle_poll_interval = \"2m\"", "expected \"1ms\" to \"1m\""),
            (
                "settle = \"5m\"\nstream_retention = \"20m\"",
                "settle = \"5m\"\nstream_retention = \"19m\"",
                "a quarter of stream_retention",
            ),
        ] {
            assert_eq!(parsed(good), Ok(()));
            let refused = parsed(bad).expect_err(bad);
            assert!(refused.contains(says), "{refused}");
            assert_eq!(parsed(&format!("{bad}\nunproven = true")), Ok(()));
        }
        for bad in ["dead_letter_days = 0", "conflict_days = 0"] {
            let refused = parsed(&format!("{bad}\nunproven = true")).expect_err(bad);
            assert!(refused.contains("expected 1 to 36500"), "{refused}");
        }
    }
}
