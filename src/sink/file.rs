//! A file of JSON lines: each event is one line. Nothing in it is ever changed; whoever reads it may move it
//! away, and the next event starts a new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Offer, json_lines};
use crate::contained::joined;
use crate::fault::{Fault, FaultKind};

/// A file of JSON lines.
#[derive(Debug)]
pub struct FileSink(PathBuf);

impl FileSink {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Appends the events, and returns once they are on the disk.
    pub(super) async fn append(&self, events: &[Offer<'_>]) -> Result<(), Fault> {
        let (path, lines) = (self.0.clone(), json_lines(events));
        let appended = joined(tokio::task::spawn_blocking(move || append(&path, &lines)).await);
        appended.map_err(|error| {
            let message = format!("can't append to {}: {error}", self.0.display());
            Fault::new(FaultKind::Unreachable, message)
        })
    }
}

fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    if is_cut_short(&mut file)? {
        // Otherwise the next event would be part of the line that a crash has cut.
        file.write_all(b"\n")?;
    }
    file.write_all(lines)?;
    file.sync_data()
}

/// Whether the last line has no end.
fn is_cut_short(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(text: &str) -> Offer<'_> {
        Offer { text, sequence: "", created_millis: 0 }
    }

    #[tokio::test]
    async fn each_event_is_a_line_even_after_one_that_was_cut_short() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let sink = FileSink::new(path.clone());
        sink.append(&[offer(r#"{"a":"x\ny"}"#), offer(r#"{"b":2}"#)]).await.expect("appended");
        let mut file = OpenOptions::new().append(true).open(&path).expect("a file");
        file.write_all(br#"{"cut":"#).expect("written");
        sink.append(&[offer(r#"{"c":3}"#)]).await.expect("appended");
        let text = std::fs::read_to_string(&path).expect("a text");
        assert_eq!(text, "{\"a\":\"x\\ny\"}\n{\"b\":2}\n{\"cut\":\n{\"c\":3}\n");
    }

    #[tokio::test]
    async fn a_file_that_can_not_be_written_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let sink = FileSink::new(folder.path().join("missing").join("events.jsonl"));
        let fault = sink.append(&[offer("1")]).await.expect_err("no such folder");
        assert!(fault.to_string().contains("missing/events.jsonl"), "{fault}");
    }
}
