//! Writes log lines to standard error, in a thread of its own.
//!
//! No line may stop the process or its work: a reader that has gone away, a full disk, or a reader that
//! stopped reading costs lines, and nothing else. How many is logged once lines can be written again.

use std::io::{self, Write, stderr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

/// How many lines may wait to be written.
const WAITING: usize = 4096;
/// How long a process that ends waits for its last lines to be written.
const LAST: Duration = Duration::from_secs(1);

static LOG: OnceLock<Log> = OnceLock::new();

/// The writer of the process's log.
#[derive(Clone, Debug)]
pub(super) struct Log {
    lines: SyncSender<Message>,
    /// Lines that were not written, and whose loss is not logged yet.
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Sent once all earlier lines have been written.
    Flush(Sender<()>),
}

impl Log {
    /// Starts writing to standard error. If no thread can be started, no line is written.
    pub(super) fn start() -> Self {
        Self::over(stderr())
    }

    fn over(to: impl Write + Send + 'static) -> Self {
        let (lines, messages) = sync_channel(WAITING);
        let lost = Arc::default();
        let log = Self { lines, lost: Arc::clone(&lost) };
        let _ = std::thread::Builder::new().name("log".to_owned()).spawn(move || write(to, &messages, &lost));
        log
    }

    /// Makes [`flush`] apply to this log.
    pub(super) fn keep(&self) {
        let _ = LOG.set(self.clone());
    }

    fn flush(&self) {
        let (written, wait) = channel();
        if self.lines.try_send(Message::Flush(written)).is_ok() {
            let _ = wait.recv_timeout(LAST);
        }
    }
}

/// Waits until the lines so far have been written, if that is possible soon.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.flush();
    }
}

fn write(mut to: impl Write, messages: &Receiver<Message>, lost: &AtomicU64) {
    for message in messages {
        match message {
            Message::Line(line) => match to.write_all(&line).and_then(|()| to.flush()) {
                Ok(()) => match lost.swap(0, Ordering::Relaxed) {
                    0 => {}
                    lines => warn!(lines, "log lines lost: they could not be written, or nobody read them"),
                },
                Err(_) => _ = lost.fetch_add(1, Ordering::Relaxed),
            },
            // Whoever asked may have given up waiting.
            Message::Flush(written) => _ = written.send(()),
        }
    }
}

/// Each line is written in one call.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Message::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// Accepts this many lines, and then none.
    struct Full(usize, Arc<Mutex<Vec<u8>>>);

    impl Write for Full {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0 -= 1;
            self.1.lock().unwrap_or_else(PoisonError::into_inner).write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Does not return during the test.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_can_not_be_written_is_counted_and_fails_nobody() {
        let written = Arc::default();
        let mut log = Log::over(Full(1, Arc::clone(&written)));
        for line in ["one\n", "two\n", "three\n"] {
            assert_eq!(log.write(line.as_bytes()).ok(), Some(line.len()));
        }
        Log::flush(&log);
        assert_eq!(*written.lock().expect("whole"), b"one\n");
        assert_eq!(log.lost.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_reader_that_stopped_reading_holds_nobody_up() {
        let (_held, stuck) = channel();
        let mut log = Log::over(Stuck(stuck));
        for _ in 0..WAITING + 10 {
            assert_eq!(log.write(b"line\n").ok(), Some(5));
        }
        // One is being written.
        assert!(log.lost.load(Ordering::Relaxed) >= 9);
    }
}
