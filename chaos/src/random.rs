//! Random scenarios: the same seed gives the same one.

use std::fmt::Write as _;
use std::time::Duration;

use crate::scenario::{MOST_SKEW_SECONDS, PLACES};

/// Makes a scenario, as TOML.
pub fn scenario(seed: u64, lasts: Duration) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    let seconds = u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX).max(12);
    let agents = rng.u32(1..=2);
    let skews: Vec<String> = (0..PLACES.len())
        .map(|_| if rng.bool() { rng.u32(0..=MOST_SKEW_SECONDS) } else { 0 }.to_string())
        .collect();
    let (rate, keys, conflicts) = (rng.u32(10..30), rng.u32(2..30), rng.u32(10..90));
    let (delete, put_back) = (rng.u32(1..6), rng.u32(0..3));
    let (count, lock) = (rng.u32(1..5), rng.u32(1..3));
    let memory = if rng.u8(0..4) == 0 { format!("memory_keys = {}\n", rng.u32(1..6)) } else { String::new() };
    let mut text = format!(
        "name = \"random-{seed}\"\nabout = \"Everything at random, by seed {seed}.\"\nagents = {agents}\n\
         {memory}skew_seconds = [{}]\n\n[workload]\nfor = \"{seconds}s\"\nrate = {rate}\nkeys = {keys}\n\
         conflict_percent = {conflicts}\ndelete = {delete}\nput_back = {put_back}\ncount = {count}\nlock = {lock}\n",
        skews.join(", ")
    );
    for _ in 0..(seconds / 4).clamp(3, 200) {
        let lasts = rng.u32(1..=(seconds / 4).clamp(2, 20));
        let at = rng.u32(1..=(seconds - 4).saturating_sub(lasts).max(1));
        let (one, two) = (PLACES[rng.usize(0..3)].0, PLACES[rng.usize(0..3)].0);
        let agent = rng.u32(0..agents);
        let percent = rng.u32(5..50);
        let fault = match rng.u8(0..14) {
            0 => format!("partition\"\nregion = \"{one}"),
            1 => format!("partition\"\nfrom = \"{one}\"\nto = \"{two}"),
            2 => format!("flapping\"\nevery = \"600ms\"\nregion = \"{one}"),
            3 => format!("swallow-requests\"\nfrom = \"{one}\"\nto = \"{two}"),
            4 => format!("swallow-answers\"\nto = \"{one}"),
            5 => format!("latency\"\njitter = \"150ms\"\ndelay = \"{percent}ms"),
            6 => format!("resets\"\npercent = {}\nto = \"{one}", percent / 3),
            7 => format!("errors\"\npercent = {percent}\nerror = \"ProvisionedThroughputExceededException"),
            8 => format!("errors\"\ntable = \"control\"\nto = \"{one}\"\nerror = \"InternalServerError"),
            9 => format!("fail-afterwards\"\npercent = {percent}\nto = \"{one}"),
            10 => "errors\"\npercent = 40\noperation = \"GetRecords\"\nerror = \"ExpiredIteratorException"
                .to_owned(),
            11 => format!("kill\"\nagent = {agent}\nregion = \"{one}"),
            12 => format!("pause\"\nagent = {agent}\nregion = \"{one}"),
            _ => format!("endpoint-down\"\nregion = \"{one}"),
        };
        // Writing to memory does not fail.
        let _ = write!(text, "\n[[fault]]\nat = \"{at}s\"\nfor = \"{lasts}s\"\nkind = \"{fault}\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn random_scenarios_are_right_and_repeatable() {
        for seed in 0..200 {
            let text = scenario(seed, Duration::from_secs(seed + 10));
            assert_eq!(text, scenario(seed, Duration::from_secs(seed + 10)));
            let scenario = Scenario::parse(&text).expect(&text);
            assert!(scenario.calm() < scenario.workload.lasts);
        }
    }
}
