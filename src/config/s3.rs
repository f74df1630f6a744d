//! `[feed.s3]`: how events become objects of an S3 bucket.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::in_region::{in_region, url_in_each};
use super::problem::Problem;
use super::range::{time, within};
use crate::protocol::Origin;

/// How events become objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Config {
    pub bucket: String,
    /// The bucket's AWS region, if it is not the agent's.
    pub aws_region: Option<String>,
    /// What the names of all objects begin with; `{region}` stands for the agent's region.
    pub prefix: String,
    /// Where S3 is, if not at the AWS region's own endpoint; `{region}` stands for the agent's region.
    pub endpoint: Option<String>,
    pub compression: Compression,
    /// How many bytes of events an object holds, before they are compressed.
    pub object_bytes: usize,
    /// How long an event waits for others that go into the same object.
    pub object_time: Duration,
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
    #[serde(default)]
    compression: Compression,
    object_mib: Option<Spanned<i64>>,
    object_time: Option<Spanned<String>>,
}

impl S3Config {
    pub fn prefix_in(&self, region: &Origin) -> String {
        in_region(&self.prefix, region)
    }

    /// Where S3 is for agents of a region, if not at its AWS region's own endpoint.
    pub fn endpoint_in(&self, region: &Origin) -> Option<String> {
        self.endpoint.as_ref().map(|endpoint| in_region(endpoint, region))
    }
}

impl S3Entry {
    pub(super) fn check(&self, feed: &str, regions: &[Origin]) -> Result<S3Config, Problem> {
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
        Ok(S3Config {
            bucket: self.bucket.get_ref().clone(),
            aws_region: self.aws_region.clone(),
            prefix,
            endpoint,
            compression: self.compression,
            object_bytes: usize::try_from(mib).unwrap_or(usize::MAX) << 20,
            object_time: time(self.object_time.as_ref(), 0, 3_600)?.unwrap_or(Duration::from_mins(1)),
        })
    }
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
        let by_default = S3Config {
            bucket: "events".to_owned(),
            aws_region: None,
            prefix: "archive/".to_owned(),
            endpoint: None,
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
        assert_eq!(s3.prefix_in(&tokyo), "orders/tokyo/");
        assert_eq!(s3.endpoint_in(&tokyo).as_deref(), Some("http://tokyo.local:9000"));
        assert_eq!(s3.aws_region.as_deref(), Some("eu-west-1"));
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
            ("s3.bucket = \"b\"\nfile.path = \"f\"", "expected one of"),
        ] {
            let problem = parsed(more).expect_err(more);
            assert!(problem.contains(expected), "{more}: {problem}");
        }
    }
}
