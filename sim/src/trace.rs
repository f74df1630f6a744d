//! A line-by-line trace: always its hash, and its text on request.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Every request, answer and write, in order.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: DefaultHasher,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub fn new(keeps_text: bool) -> Self {
        Self { hasher: DefaultHasher::new(), lines: keeps_text.then(Vec::new) }
    }

    pub fn note(&mut self, line: fmt::Arguments<'_>) {
        let text = line.to_string();
        text.hash(&mut self.hasher);
        if let Some(lines) = &mut self.lines {
            lines.push(text);
        }
    }

    /// The hash of all lines so far.
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    pub fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}
