//! `[feed.lambda]`: how a Lambda function is invoked.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::in_region::{in_region, url_in_each};
use super::problem::Problem;
use super::range::{time, within};
use crate::protocol::Origin;

/// How a Lambda function is invoked: what an event source mapping calls by these names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LambdaConfig {
    /// Its name, with an alias or a version after a colon, or its ARN.
    pub function: String,
    /// Where Lambda is, if not at the AWS region's own endpoint; `{region}` stands for the agent's region.
    pub endpoint: Option<String>,
    pub batch_size: usize,
    pub batching_window: Duration,
    pub parallelization: u32,
    pub report_batch_item_failures: bool,
    pub tumbling_window: Option<Duration>,
    /// How long the function may run.
    pub timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LambdaEntry {
    function: Spanned<String>,
    endpoint: Option<Spanned<String>>,
    batch_size: Option<Spanned<i64>>,
    batching_window: Option<Spanned<String>>,
    parallelization: Option<Spanned<i64>>,
    #[serde(default)]
    report_batch_item_failures: bool,
    tumbling_window: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
}

impl LambdaConfig {
    /// Where Lambda is for agents of a region, if not at its AWS region's own endpoint.
    pub fn endpoint_in(&self, region: &Origin) -> Option<String> {
        self.endpoint.as_ref().map(|endpoint| in_region(endpoint, region))
    }
}

/// The ranges and defaults of an event source mapping.
impl LambdaEntry {
    pub(super) fn check(&self, regions: &[Origin]) -> Result<LambdaConfig, Problem> {
        if self.function.get_ref().is_empty() {
            return Err(Problem::at(&self.function, "expected a function's name, or its ARN"));
        }
        let endpoint = url_in_each(self.endpoint.as_ref(), regions)?;
        let batch_size = within(self.batch_size.as_ref(), 1, 10_000)?.unwrap_or(100);
        let batching_window = time(self.batching_window.as_ref(), 0, 300)?.unwrap_or_default();
        Ok(LambdaConfig {
            function: self.function.get_ref().clone(),
            endpoint,
            batch_size: usize::try_from(batch_size).unwrap_or(usize::MAX),
            batching_window,
            parallelization: within(self.parallelization.as_ref(), 1, 10)?.unwrap_or(1),
            report_batch_item_failures: self.report_batch_item_failures,
            tumbling_window: time(self.tumbling_window.as_ref(), 0, 900)?.filter(|width| !width.is_zero()),
            timeout: time(self.timeout.as_ref(), 1, 900)?.unwrap_or(Duration::from_mins(15)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, SinkConfig};
    use crate::feed::{Blocked, Retry, View};

    #[test]
    fn a_function_has_the_defaults_of_an_event_source_mapping() {
        let parsed = |more: &str| {
            let text = format!(
                "region = [{{ name = \"tokyo\", aws_region = \"ap-northeast-1\" }}]\ntable = [{{ name = \"orders\" \
                 }}]\n[[feed]]\nname = \"mail\"\ntable = \"orders\"\n{more}"
            );
            let mut config = Config::parse(Path::new("regions.toml"), &text).expect("a configuration");
            let feed = config.feeds.remove(0);
            let lambda = match feed.sink {
                SinkConfig::Lambda(lambda) => Some(lambda),
                _ => None,
            };
            (lambda.expect("a function"), feed.retry, feed.shape)
        };
        let (lambda, retry, shape) = parsed("lambda.function = \"mail\"");
        let by_default = LambdaConfig {
            function: "mail".to_owned(),
            endpoint: None,
            batch_size: 100,
            batching_window: Duration::ZERO,
            parallelization: 1,
            report_batch_item_failures: false,
            tumbling_window: None,
            timeout: Duration::from_mins(15),
        };
        assert_eq!(
            (lambda, retry, shape.view, shape.strict),
            (by_default, Retry::default(), View::default(), false)
        );
        let (lambda, retry, shape) = parsed(
            r#"
            view = "NEW_IMAGE"
            strict = true
            without = ["card"]
            [feed.lambda]
            function = "mail:live"
            endpoint = "http://{region}.local:9001"
            batch_size = 10000
            batching_window = "5m"
            parallelization = 10
            report_batch_item_failures = true
            tumbling_window = "15m"
            timeout = "3s"
            [feed.retry]
            attempts = -1
            max_age = "-1"
            bisect = false
            blocked = "shard"
            "#,
        );
        let tokyo = "tokyo".parse().expect("a name");
        assert_eq!(lambda.endpoint_in(&tokyo).as_deref(), Some("http://tokyo.local:9001"));
        assert_eq!(
            (lambda.batch_size, lambda.batching_window.as_secs(), lambda.parallelization),
            (10_000, 300, 10)
        );
        assert_eq!(lambda.tumbling_window, Some(Duration::from_mins(15)));
        assert!(lambda.report_batch_item_failures && lambda.timeout == Duration::from_secs(3));
        let expected = Retry { attempts: None, max_age: None, bisect: false, blocked: Blocked::Shard };
        assert_eq!((retry, shape.view, shape.strict), (expected, View::NewImage, true));
        assert!(shape.selection.is_some_and(|selection| selection.without.contains("card")));
    }
}
