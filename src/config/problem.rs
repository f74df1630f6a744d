//! What is wrong with a file, and at which line and column.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

/// Why `regions.toml` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "can't read {}: {source}\nName another file with --config, or start from the regions.toml that \
         comes with Tradewind.",
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

    /// About an entry for which this build lacks a feature.
    #[cfg(not(all(feature = "jaq", feature = "lambda", feature = "parquet", feature = "s3")))]
    pub(super) fn not_built<T>(entry: &Spanned<T>, feature: &str) -> Self {
        Self::at(entry, format!("this build lacks it: build it with the feature `{feature}`"))
    }

    /// About the file as a whole.
    pub(super) fn whole(message: &str) -> Self {
        Self { span: 0..0, message: message.to_owned() }
    }

    /// The same for people; `path` is the file of the text.
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
            source_line: without_secrets(source_line),
            width: self.span.len().clamp(1, room.max(1)),
            message: self.message,
        }
    }
}

/// Words in the names of entries that hold secrets. None belongs in the file, so such an entry may be the
/// problem.
const SECRET: [&str; 5] = ["secret", "password", "token", "credential", "access_key"];

/// A line with asterisks for what may be secret: a message may end up in a log.
fn without_secrets(line: &str) -> String {
    let mut hidden = vec![false; line.len()];
    let lower = line.to_ascii_lowercase();
    let named = SECRET.iter().filter_map(|word| lower.find(word)).min();
    if let Some(value) = named.and_then(|name| Some(name + line[name..].find('=')? + 1)) {
        hidden[line.len() - line[value..].trim_start().len()..].fill(true);
    }
    // What comes before the host of a URL.
    for (scheme, _) in line.match_indices("://") {
        let rest = &line[scheme + 3..];
        let end = rest.find(['/', '"', '\'', ' ']).unwrap_or(rest.len());
        if let Some(host) = rest[..end].rfind('@') {
            hidden[scheme + 3..scheme + 3 + host].fill(true);
        }
    }
    line.char_indices().map(|(at, char)| if hidden[at] { '*' } else { char }).collect()
}

impl From<toml::de::Error> for Problem {
    fn from(error: toml::de::Error) -> Self {
        Self { span: error.span().unwrap_or(0..0), message: error.message().trim().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        for (line, shown) in [
            ("secret_access_key = \"wJalr/K7\"", "secret_access_key = **********"),
            ("endpoint = \"https://me:pass@host/\"", "endpoint = \"https://*******@host/\""),
            ("endpoint = \"https://host/a@b\"", "endpoint = \"https://host/a@b\""),
            ("Password='é'", "Password=***"),
            ("role = { arn = \"a\", token = 1 }", "role = { arn = \"a\", token = ***"),
            ("# no token", "# no token"),
            ("name = \"dublin\"", "name = \"dublin\""),
        ] {
            assert_eq!(without_secrets(line), shown);
        }
    }
}
