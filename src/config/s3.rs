//! `[feed.s3]`: how events become objects of an S3 bucket.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::in_region::{in_region, url_in_each};
use super::problem::Problem;
use super::range::{time, within};
use crate::protocol::Origin;

/// Part of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Place {
    pub bucket: String,
    /// The bucket's AWS region, if it is not the agent's.
    pub aws_region: Option<String>,
    /// What the names of all objects begin with; `{region}` stands for the agent's region.
    pub prefix: String,
    /// Where S3 is, if not at the AWS region's own endpoint; `{region}` stands for the agent's region.
    pub endpoint: Option<String>,
}

/// How events become objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Config {
    pub place: S3Place,
    pub format: Format,
    pub compression: Compression,
    /// How many bytes of events an object holds, before they are compressed.
    pub object_bytes: usize,
    /// How long an event waits for others that go into the same object.
    pub object_time: Duration,
}

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    JsonLines,
    #[cfg(feature = "parquet")]
    Parquet(Table),
}

/// A table of Parquet.
#[cfg(feature = "parquet")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub rows: Rows,
    /// The feed's own columns, after those that each table has.
    pub columns: Vec<Column>,
}

#[cfg(feature = "parquet")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Events, as the stream's records show them.
    Events,
    /// What the feed's `transform` makes of them.
    Values,
}

#[cfg(feature = "parquet")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: ColumnKind,
}

/// A column's values; what is of another type is null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    String,
    Long,
    Double,
    Boolean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FormatEntry {
    JsonLines,
    Parquet,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    None,
    #[default]
    Gzip,
    Zstd,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct S3Entry {
    bucket: Spanned<String>,
    aws_region: Option<String>,
    prefix: Option<Spanned<String>>,
    endpoint: Option<Spanned<String>>,
    format: Option<Spanned<FormatEntry>>,
    columns: Option<Columns>,
    #[serde(default)]
    compression: Compression,
    object_mib: Option<Spanned<i64>>,
    object_time: Option<Spanned<String>>,
}

impl S3Place {
    /// Reads `s3://bucket/prefix`.
    pub(super) fn parse(
        url: &Spanned<String>,
        aws_region: Option<&String>,
        endpoint: Option<&Spanned<String>>,
        regions: &[Origin],
    ) -> Result<Self, Problem> {
        let path = url.get_ref().strip_prefix("s3://").unwrap_or_default();
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() || prefix.len() > LONGEST_PREFIX {
            let message =
                format!("expected s3://BUCKET/PREFIX, with a prefix of at most {LONGEST_PREFIX} bytes");
            return Err(Problem::at(url, message));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            aws_region: aws_region.cloned(),
            prefix: prefix.to_owned(),
            endpoint: url_in_each(endpoint, regions)?,
        })
    }

    /// The place as a URL, for people.
    pub fn url_in(&self, region: &Origin) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix_in(region))
    }

    pub fn prefix_in(&self, region: &Origin) -> String {
        in_region(&self.prefix, region)
    }

    /// Where S3 is for agents of a region, if not at its AWS region's own endpoint.
    pub fn endpoint_in(&self, region: &Origin) -> Option<String> {
        self.endpoint.as_ref().map(|endpoint| in_region(endpoint, region))
    }
}

#[cfg(feature = "parquet")]
impl Rows {
    /// The columns that each table has.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Events => &[
                "created_at",
                "sequence_number",
                "event_id",
                "event_name",
                "origin",
                "version",
                "base",
                "principal",
                "keys",
                "old_image",
                "new_image",
            ],
            Self::Values => &["created_at", "sequence_number", "value"],
        }
    }
}

impl S3Entry {
    /// Checks the bucket of a feed, whose program may transform its events.
    pub(super) fn check(
        &self,
        feed: &str,
        regions: &[Origin],
        is_transformed: bool,
    ) -> Result<S3Config, Problem> {
        if self.bucket.get_ref().is_empty() {
            return Err(Problem::at(&self.bucket, "expected a bucket's name"));
        }
        let endpoint = url_in_each(self.endpoint.as_ref(), regions)?;
        let prefix = match &self.prefix {
            None => format!("{feed}/"),
            Some(prefix) if prefix.get_ref().len() > LONGEST_PREFIX => {
                return Err(Problem::at(prefix, format!("expected at most {LONGEST_PREFIX} bytes")));
            }
            Some(prefix) => prefix.get_ref().clone(),
        };
        let mib = within(self.object_mib.as_ref(), 1, 1_024)?.unwrap_or(8);
        let (bucket, aws_region) = (self.bucket.get_ref().clone(), self.aws_region.clone());
        Ok(S3Config {
            place: S3Place { bucket, aws_region, prefix, endpoint },
            format: self.format(is_transformed)?,
            compression: self.compression,
            object_bytes: usize::try_from(mib).unwrap_or(usize::MAX) << 20,
            object_time: time(self.object_time.as_ref(), 0, 3_600)?.unwrap_or(Duration::from_mins(1)),
        })
    }

    fn format(&self, is_transformed: bool) -> Result<Format, Problem> {
        match (&self.format, &self.columns) {
            (Some(format), columns) if *format.get_ref() == FormatEntry::Parquet => {
                parquet(format, columns.as_ref(), is_transformed)
            }
            (_, None) => Ok(Format::JsonLines),
            (_, Some(columns)) => Err(Problem::at(columns, "expected format = \"parquet\" beside columns")),
        }
    }
}

/// Columns by name.
type Columns = Spanned<BTreeMap<String, ColumnKind>>;

#[cfg(not(feature = "parquet"))]
fn parquet(format: &Spanned<FormatEntry>, _: Option<&Columns>, _: bool) -> Result<Format, Problem> {
    Err(Problem::not_built(format, "parquet"))
}

#[cfg(feature = "parquet")]
fn parquet(_: &Spanned<FormatEntry>, own: Option<&Columns>, is_transformed: bool) -> Result<Format, Problem> {
    let rows = if is_transformed { Rows::Values } else { Rows::Events };
    let Some(own) = own else { return Ok(Format::Parquet(Table { rows, columns: Vec::new() })) };
    let column = |(name, kind): (&String, &ColumnKind)| {
        if name.is_empty() || rows.columns().contains(&name.as_str()) {
            let each = rows.columns().join(", ");
            return Err(Problem::at(own, format!("{name:?} can't name a column: each table has {each}")));
        }
        Ok(Column { name: name.clone(), kind: *kind })
    };
    let columns = own.get_ref().iter().map(column).collect::<Result<_, _>>()?;
    Ok(Format::Parquet(Table { rows, columns }))
}

/// An object's name may have 1,024 bytes; the rest of it needs at most 200.
const LONGEST_PREFIX: usize = 800;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, SinkConfig};

    fn parsed(more: &str) -> Result<S3Config, String> {
        let text = format!(
            "region = [{{ name = \"tokyo\", aws_region = \"ap-northeast-1\" }}]\ntable = [{{ name = \"orders\" \
             }}]\n[[feed]]\nname = \"archive\"\ntable = \"orders\"\n{more}"
        );
        let mut config =
            Config::parse(Path::new("regions.toml"), &text).map_err(|error| error.to_string())?;
        match config.feeds.remove(0).sink {
            SinkConfig::S3(s3) => Ok(s3),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_bucket_is_all_that_is_needed() {
        let place = S3Place {
            bucket: "events".to_owned(),
            aws_region: None,
            prefix: "archive/".to_owned(),
            endpoint: None,
        };
        let by_default = S3Config {
            place,
            format: Format::JsonLines,
            compression: Compression::Gzip,
            object_bytes: 8 << 20,
            object_time: Duration::from_mins(1),
        };
        assert_eq!(parsed("s3.bucket = \"events\""), Ok(by_default.clone()));
        let all = r#"
            [feed.s3]
            bucket = "events"
            aws_region = "eu-west-1"
            prefix = "orders/{region}/"
            endpoint = "http://{region}.local:9000"
            compression = "zstd"
            object_mib = 64
            object_time = "10m"
        "#;
        let s3 = parsed(all).expect("a configuration");
        let tokyo = "tokyo".parse().expect("a name");
        assert_eq!(s3.place.prefix_in(&tokyo), "orders/tokyo/");
        assert_eq!(s3.place.endpoint_in(&tokyo).as_deref(), Some("http://tokyo.local:9000"));
        assert_eq!(s3.place.aws_region.as_deref(), Some("eu-west-1"));
        assert_eq!((s3.compression, s3.object_bytes), (Compression::Zstd, 64 << 20));
        assert_eq!(s3.object_time, Duration::from_mins(10));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (more, expected) in [
            ("s3.bucket = \"\"", "expected a bucket's name"),
            ("s3 = { bucket = \"b\", object_mib = 0 }", "expected 1 to 1024"),
            ("s3 = { bucket = \"b\", object_time = \"2h\" }", "expected a time"),
            ("s3 = { bucket = \"b\", endpoint = \"here\" }", "expected a URL"),
            ("s3 = { bucket = \"b\", compression = \"lz4\" }", "gzip"),
            ("s3 = { bucket = \"b\", format = \"csv\" }", "json_lines"),
            ("s3 = { bucket = \"b\", columns = { a = \"long\" } }", "expected format = \"parquet\""),
            ("s3.bucket = \"b\"\nfile.path = \"f\"", "expected one of"),
        ] {
            let problem = parsed(more).expect_err(more);
            assert!(problem.contains(expected), "{more}: {problem}");
        }
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn tables_have_columns_of_their_own() {
        let table = |more: &str| {
            let s3 = format!(
                "{more}s3 = {{ bucket = \"b\", format = \"parquet\", columns = {{ total = \"double\" }} }}"
            );
            parsed(&s3).map(|s3| s3.format)
        };
        let expected = |rows| {
            let columns = vec![Column { name: "total".to_owned(), kind: ColumnKind::Double }];
            Ok(Format::Parquet(Table { rows, columns }))
        };
        assert_eq!(table(""), expected(Rows::Events));
        #[cfg(feature = "jaq")]
        assert_eq!(table("transform = '.'\n"), expected(Rows::Values));
        let problem =
            parsed("s3 = { bucket = \"b\", format = \"parquet\", columns = { keys = \"string\" } }");
        let problem = problem.expect_err("a name that is taken");
        assert!(problem.contains("\"keys\" can't name a column"), "{problem}");
        let problem = parsed("s3 = { bucket = \"b\", format = \"parquet\", columns = { a = \"int\" } }");
        assert!(problem.expect_err("no type").contains("long"));
    }
}
