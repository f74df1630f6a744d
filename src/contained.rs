//! What a panic may take with it: the task in which a library panics, and nothing else. It is told, and the
//! task is begun again.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// How long a task that broke down waits before it begins again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What a panic says.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Panic(String);

const WORDLESS: &str = "it gave no reason";

impl Panic {
    fn of(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self(text.unwrap_or(WORDLESS).to_owned())
    }
}

/// A future's outcome, or the panic in which it ended.
pub async fn caught<F: Future>(future: F) -> Result<F::Output, Panic> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(payload) => Poll::Ready(Err(Panic::of(&*payload))),
    })
    .await
}

/// Does something to its end; where it breaks down, it is begun again, unless it is to stop.
pub async fn contained<F>(what: impl fmt::Display, stop: &CancellationToken, mut work: impl FnMut() -> F)
where
    F: Future<Output = ()>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        // Boxed: what is contained may be large, and is begun seldom.
        match caught(Box::pin(work())).await {
            Ok(()) => return,
            Err(panic) => error!("{what} broke down, which is a defect: {panic} (it begins again)"),
        }
        pause = if begun.elapsed() > LONGEST_PAUSE { FIRST_PAUSE } else { pause };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// Has the log tell of each panic, in the place of standard error, which may be gone.
pub fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let reason = panic.payload_as_str().unwrap_or(WORDLESS);
        // Only where RUST_BACKTRACE asks for it.
        match Backtrace::capture() {
            trace if trace.status() == BacktraceStatus::Captured => {
                error!(place, %trace, "a panic: {reason}");
            }
            _ => error!(place, "a panic: {reason}"),
        }
    }));
}

#[cfg(test)]
#[expect(clippy::panic, reason = "what is contained")]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_breaks_down_begins_again_and_comes_to_its_end() {
        let begun = Cell::new(0);
        let work = || {
            begun.set(begun.get() + 1);
            let nth = begun.get();
            async move {
                // Not at the first poll only.
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(nth > 3, "attempt {nth}");
            }
        };
        contained("the test", &CancellationToken::new(), work).await;
        assert_eq!(begun.get(), 4);
    }

    #[tokio::test]
    async fn what_breaks_down_while_it_stops_does_not_begin_again() {
        let stop = CancellationToken::new();
        stop.cancel();
        contained("the test", &stop, || async { panic!("at the end") }).await;
    }

    #[tokio::test]
    async fn a_panic_is_told_in_its_own_words() {
        let text = |panic: Result<(), Panic>| panic.expect_err("a panic").to_string();
        assert_eq!(text(caught(async { panic!("plain") }).await), "plain");
        assert_eq!(text(caught(async { panic!("with {}", 5) }).await), "with 5");
        assert_eq!(text(caught(async { std::panic::panic_any(5) }).await), WORDLESS);
        assert_eq!(caught(async { 5 }).await.ok(), Some(5));
    }
}
