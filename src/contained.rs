//! Limits a panic to the task in which a library panics. It is logged, and the task starts again.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// How long a panicked task waits before it starts again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The message of a panic.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Panic(String);

const WORDLESS: &str = "no message";

impl Panic {
    fn of(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self(text.unwrap_or(WORDLESS).to_owned())
    }
}

/// A future's output, or the panic that ended it.
pub async fn caught<F: Future>(future: F) -> Result<F::Output, Panic> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(payload) => Poll::Ready(Err(Panic::of(&*payload))),
    })
    .await
}

/// The result of a task that nobody aborts; a panic in it goes on here.
pub(crate) fn joined<T>(ended: Result<T, JoinError>) -> T {
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// The result of a task, unless it was aborted; a panic in it goes on here.
pub(crate) fn unless_aborted<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(done) => Some(done),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => None,
    }
}

/// Runs some work to its end; if it panics, it starts again, unless it is to stop.
pub async fn contained<F>(what: impl fmt::Display, stop: &CancellationToken, mut work: impl FnMut() -> F)
where
    F: Future<Output = ()>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        // Boxed: the work may be large, and is rarely started.
        match caught(Box::pin(work())).await {
            Ok(()) => return,
            Err(panic) => error!("{what} panicked, which is a defect: {panic} (restarting it)"),
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

/// Logs each panic, instead of writing it to standard error, which may be gone.
pub fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let reason = panic.payload_as_str().unwrap_or(WORDLESS);
        // Only if RUST_BACKTRACE asks for it.
        match Backtrace::capture() {
            trace if trace.status() == BacktraceStatus::Captured => {
                error!(place, %trace, "panic: {reason}");
            }
            _ => error!(place, "panic: {reason}"),
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
                // So that it does not panic at the first poll.
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
