//! This process's CPU time and memory, as reported by Linux; not available elsewhere.

use std::time::Duration;

/// Linux counts CPU time for user space in hundredths of a second, on every machine.
const TICK: Duration = Duration::from_millis(10);

/// The CPU time that this process has used so far.
pub(crate) fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may hold anything; what follows may not.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(|field| field.parse::<u32>().ok());
    Some(TICK * (times.next()?? + times.next()??))
}

/// The CPU time used since `then`, the result of an earlier call.
pub(crate) fn cpu_since(then: Option<Duration>) -> Option<Duration> {
    Some(cpu_time()?.saturating_sub(then?))
}

/// Resets the peak of resident memory to what is resident now.
pub(crate) fn reset_peak_memory() {
    // If this fails, the peak is that of the whole run: too high, but never too low.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The peak of resident memory, in MiB.
pub(crate) fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u32 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(f64::from(kib) / 1024.0)
}
