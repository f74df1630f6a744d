//! The progress of long work: a bar on a terminal, otherwise a log line now and then.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// How often progress is logged.
const PAUSE: Duration = Duration::from_secs(10);

/// The progress of one piece of work.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    /// Where there is no terminal: when the last line was logged.
    last_line: Option<Instant>,
}

impl Progress {
    /// Work of `total` steps, if that is known.
    pub fn new(what: &'static str, total: Option<u64>, json: bool) -> Self {
        let on_terminal = stderr().is_terminal() && !json;
        let target = if on_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let template = match total {
            Some(_) => "{prefix} [{bar:32}] {human_pos}/{human_len} {per_sec} {msg}",
            None => "{spinner} {prefix} {human_pos} {per_sec} {msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(total, target).with_style(style.progress_chars("=> "));
        bar.set_prefix(what);
        Self { bar, what, last_line: (!on_terminal).then(Instant::now) }
    }

    /// Reports how much is done, with a message.
    pub fn update(&mut self, done: u64, message: impl FnOnce() -> String) {
        self.bar.set_position(done);
        match &mut self.last_line {
            None => self.bar.set_message(message()),
            Some(last) if last.elapsed() >= PAUSE => {
                *last = Instant::now();
                let total = self.bar.length().map(|total| format!("/{total}")).unwrap_or_default();
                // Logged as a warning: whoever waits wants to see this at any log level.
                tracing::warn!("{}: {done}{total} {}", self.what, message());
            }
            Some(_) => {}
        }
    }

    /// Prints something else, without the bar in between.
    pub fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Removes the bar.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// About how long the rest will take, for a progress line; empty if that is unknown.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub(super) fn left(done: u64, all: u64, since: Instant) -> String {
    if done == 0 || all <= done {
        return String::new();
    }
    let elapsed = Instant::now().saturating_duration_since(since).as_secs_f64();
    let seconds = (all - done) as f64 * elapsed / done as f64;
    let left = Duration::from_secs_f64(seconds.clamp(1.0, 1e9).round());
    format!(", about {} left", humantime::format_duration(left))
}
