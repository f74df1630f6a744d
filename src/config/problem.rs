//! What is wrong with a file, and at which line and column.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

/// Why `regions.toml` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "can't read {}: {source}\nName another file with --config, or start from the regions.toml that comes with Tradewind.",
        path.display()
    )]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Invalid(Box<Invalid>),
}

/// What is wrong, and where.
#[derive(Debug)]
pub struct Invalid {
    path: PathBuf,
    line: usize,
    column: usize,
    source_line: String,
    width: usize,
    message: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column, source_line, width, message } = self;
        let gutter = " ".repeat(line.to_string().len());
        writeln!(f, "{}:{line}:{column}: {message}", path.display())?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{line} | {source_line}")?;
        write!(f, "{gutter} | {}{}", " ".repeat(column - 1), "^".repeat(*width))
    }
}

/// Something wrong at a place in the text.
pub(super) struct Problem {
    span: Range<usize>,
    message: String,
}

impl Problem {
    /// About one entry.
    pub(super) fn at<T>(spanned: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { span: spanned.span(), message: message.into() }
    }

    /// About the file as a whole.
    pub(super) fn whole(message: &str) -> Self {
        Self { span: 0..0, message: message.to_owned() }
    }

    /// The same for people; `path` is where the text is from.
    pub(super) fn locate(self, path: &Path, text: &str) -> Invalid {
        let start = self.span.start.min(text.len());
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let source_line = text[line_start..].lines().next().unwrap_or_default();
        let column = text[line_start..start].chars().count() + 1;
        let room = source_line.chars().count().saturating_sub(column - 1);
        Invalid {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            source_line: source_line.to_owned(),
            width: self.span.len().clamp(1, room.max(1)),
            message: self.message,
        }
    }
}

impl From<toml::de::Error> for Problem {
    fn from(error: toml::de::Error) -> Self {
        Self { span: error.span().unwrap_or(0..0), message: error.message().trim().to_owned() }
    }
}
