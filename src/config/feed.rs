//! `[[feed]]`: where a table's changes are told.

use std::collections::BTreeMap;

#[cfg(not(feature = "lambda"))]
use Value as LambdaEntry;
#[cfg(not(feature = "s3"))]
use Value as S3Entry;
use serde::Deserialize;
use toml::{Spanned, Value};

use super::in_region::{REGION, in_region};
#[cfg(feature = "lambda")]
use super::lambda::{LambdaConfig, LambdaEntry};
use super::peer::{OnlyEntry, named, scalar, selection};
use super::problem::Problem;
use super::range::{time, within};
#[cfg(feature = "s3")]
use super::s3::{S3Config, S3Entry, S3Place};
use super::{Config, Start, TableConfig};
use crate::feed::{Blocked, Events, FeedName, Field, Filter, Projection, Retry, Shape, View};
#[cfg(feature = "jaq")]
use crate::feed::{Transform, TransformError};
use crate::protocol::{Origin, Selection};

/// Tells the writes that applications make to a table.
#[derive(Clone, Debug)]
pub struct FeedConfig {
    pub name: FeedName,
    /// The table's name in the configuration.
    pub table: String,
    /// The regions whose applications' writes are told.
    pub regions: Vec<Origin>,
    pub start: Start,
    /// An event is told if one of them matches, or if there is none.
    pub filters: Vec<Filter>,
    pub shape: Shape,
    pub retry: Retry,
    pub on_failure: OnFailure,
    pub sink: SinkConfig,
}

/// Where the events go that the sink rejects to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Rows of the control table.
    DeadLetters,
    /// An object for each.
    #[cfg(feature = "s3")]
    S3(S3Place),
}

/// Where the events go.
#[derive(Clone, Debug)]
pub enum SinkConfig {
    /// A file of JSON lines; `{region}` in its path stands for the agent's region.
    File { path: String },
    #[cfg(feature = "lambda")]
    Lambda(LambdaConfig),
    #[cfg(feature = "s3")]
    S3(S3Config),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FeedEntry {
    name: Spanned<String>,
    table: Spanned<String>,
    regions: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    start: Start,
    #[serde(default)]
    filter: Vec<Spanned<String>>,
    /// Whether `numeric` rules also compare text that spells a number, as DynamoDB's numbers do.
    #[serde(default)]
    numeric_strings: bool,
    #[serde(default)]
    events: Events,
    #[serde(default)]
    view: View,
    #[serde(default)]
    strict: bool,
    #[serde(default)]
    only: Vec<Spanned<OnlyEntry>>,
    #[serde(default)]
    without: Vec<Spanned<String>>,
    fields: Option<Spanned<BTreeMap<String, FieldEntry>>>,
    /// A program in jq's language, which makes one value of an event, or none.
    transform: Option<Spanned<String>>,
    file: Option<FileEntry>,
    lambda: Option<Spanned<LambdaEntry>>,
    s3: Option<Spanned<S3Entry>>,
    #[serde(default)]
    retry: RetryEntry,
}

/// Where a field of an image comes from.
#[derive(Deserialize)]
#[serde(untagged)]
enum FieldEntry {
    Attribute(String),
    /// An attribute, and names within it.
    Path(Vec<String>),
    Constant {
        is: Value,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    path: Spanned<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryEntry {
    attempts: Option<Spanned<i64>>,
    max_age: Option<Spanned<String>>,
    bisect: Option<bool>,
    blocked: Option<Spanned<String>>,
    on_failure: Option<Spanned<String>>,
    on_failure_aws_region: Option<Spanned<String>>,
    on_failure_endpoint: Option<Spanned<String>>,
}

const SINKS: &str = "[feed.lambda], [feed.s3] or [feed.file]";
const DEAD_LETTERS: &str = "dead-letters";
/// As many as an event source mapping of Lambda takes.
const MOST_FILTERS: usize = 5;

impl FeedConfig {
    /// Whether agents of a region deliver it.
    pub fn is_of(&self, table: &str, region: &Origin) -> bool {
        self.table == table && self.regions.contains(region)
    }

    /// Why it can't be told from a stream with this view; nothing if it can.
    fn lacks(&self, shown: View) -> Option<String> {
        let Self { name, shape, filters, .. } = self;
        let mut hidden = shown.hidden().iter();
        let looked_at = hidden.find(|image| filters.iter().any(|filter| filter.looks_at(image)));
        let is_selected = shape.selection.as_ref().is_some_and(|selection| !selection.only.is_empty());
        let (is_covered, shown) = (shown.covers(shape.view), shown.name());
        if let Some(image) = looked_at {
            Some(format!("a filter of the feed {} looks at {image}", name.as_str()))
        } else if is_selected {
            Some(format!("the feed {} selects items by `only`, which needs both images", name.as_str()))
        } else if !is_covered {
            Some(format!(
                "the feed {} shows {}: give it view = \"{shown}\"",
                name.as_str(),
                shape.view.name()
            ))
        } else {
            None
        }
    }
}

impl Config {
    /// Why a stream of a table does not suffice that shows only part of the images; nothing if it does.
    pub fn lacks(&self, table: &TableConfig, shown: View) -> Option<String> {
        let mut feeds = self.feeds.iter().filter(|feed| feed.table == table.name).peekable();
        if table.replicas.len() > 1 || feeds.peek().is_none() {
            return Some("NEW_AND_OLD_IMAGES is needed to replicate".to_owned());
        }
        feeds.find_map(|feed| feed.lacks(shown))
    }
}

impl OnFailure {
    /// The bucket's URL for agents of a region; nothing if the events stay in the control table.
    pub fn url_in(&self, region: &Origin) -> Option<String> {
        #[cfg(not(feature = "s3"))]
        let _ = region;
        match self {
            Self::DeadLetters => None,
            #[cfg(feature = "s3")]
            Self::S3(place) => Some(place.url_in(region)),
        }
    }
}

impl SinkConfig {
    /// Where the events of a region go, for people.
    pub fn target_in(&self, region: &Origin) -> String {
        match self {
            Self::File { path } => in_region(path, region),
            #[cfg(feature = "lambda")]
            Self::Lambda(lambda) => format!("function {}", lambda.function),
            #[cfg(feature = "s3")]
            Self::S3(s3) => s3.place.url_in(region),
        }
    }

    /// What its agents must be allowed to do, in the words of IAM.
    pub fn actions(&self) -> &'static str {
        match self {
            Self::File { .. } => "to write",
            #[cfg(feature = "lambda")]
            Self::Lambda(_) => "lambda:InvokeFunction",
            #[cfg(feature = "s3")]
            Self::S3(_) => "s3:PutObject, s3:GetObject and s3:ListBucket",
        }
    }
}

/// The feeds of a file.
pub(super) fn check(entries: &[Spanned<FeedEntry>], config: &Config) -> Result<Vec<FeedConfig>, Problem> {
    let mut feeds: Vec<FeedConfig> = Vec::new();
    for entry in entries {
        let feed = entry.get_ref().check(entry, config)?;
        if feeds.iter().any(|other| other.name == feed.name) {
            return Err(Problem::at(
                &entry.get_ref().name,
                format!("duplicate feed {:?}", feed.name.as_str()),
            ));
        }
        feeds.push(feed);
    }
    Ok(feeds)
}

impl FeedEntry {
    pub(super) fn table(&self) -> &str {
        self.table.get_ref()
    }

    fn check(&self, whole: &Spanned<Self>, config: &Config) -> Result<FeedConfig, Problem> {
        let text = self.name.get_ref();
        let name = text
            .parse::<FeedName>()
            .map_err(|error| Problem::at(&self.name, format!("{text:?} can't name a feed: {error}")))?;
        let regions = self.regions_of(config)?;
        if self.filter.len() > MOST_FILTERS {
            let message = format!("expected at most {MOST_FILTERS} filters");
            return Err(Problem::at(&self.filter[MOST_FILTERS], message));
        }
        let filter = |text: &Spanned<String>| {
            let filter = text.get_ref().parse::<Filter>();
            let filter = filter.map_err(|error| Problem::at(text, error.to_string()))?;
            Ok::<_, Problem>(if self.numeric_strings { filter.numeric_strings() } else { filter })
        };
        let filters = self.filter.iter().map(filter).collect::<Result<_, _>>()?;
        let shape = Shape {
            events: self.events,
            view: self.view,
            selection: self.selection()?,
            fields: self.fields.as_ref().map(projection).transpose()?,
            strict: self.strict,
            #[cfg(feature = "jaq")]
            transform: self.transform()?,
        };
        #[cfg(not(feature = "jaq"))]
        if let Some(transform) = &self.transform {
            return Err(Problem::not_built(transform, "jaq"));
        }
        let (sink, retry) = (self.sink(whole, &regions)?, self.retry.check()?);
        #[cfg(feature = "lambda")]
        if let (Blocked::Key, SinkConfig::Lambda(LambdaConfig { tumbling_window: Some(_), .. })) =
            (retry.blocked, &sink)
        {
            let message = "with a tumbling_window, [feed.retry] must have blocked = \"shard\": a key that waits would \
                           come after the end of its window";
            return Err(Problem::at(whole, message));
        }
        let (table, start, on_failure) =
            (self.table.get_ref().clone(), self.start, self.retry.on_failure(&regions)?);
        Ok(FeedConfig { name, table, regions, start, filters, shape, retry, on_failure, sink })
    }

    fn selection(&self) -> Result<Option<Selection>, Problem> {
        let selection = selection(&self.only, &self.without)?;
        Ok((selection != Selection::default()).then_some(selection))
    }

    #[cfg(feature = "jaq")]
    fn transform(&self) -> Result<Option<Transform>, Problem> {
        let transform = |code: &Spanned<String>| {
            code.get_ref().parse().map_err(|error: TransformError| Problem::at(code, error.to_string()))
        };
        self.transform.as_ref().map(transform).transpose()
    }

    fn sink(&self, whole: &Spanned<Self>, regions: &[Origin]) -> Result<SinkConfig, Problem> {
        let file = self.file.as_ref().map(|file| file.check(regions));
        let lambda = self.lambda.as_ref().map(|lambda| {
            #[cfg(feature = "lambda")]
            return lambda.get_ref().check(regions).map(SinkConfig::Lambda);
            #[cfg(not(feature = "lambda"))]
            Err(Problem::not_built(lambda, "lambda"))
        });
        let s3 = self.s3.as_ref().map(|s3| {
            #[cfg(feature = "s3")]
            return s3
                .get_ref()
                .check(self.name.get_ref(), regions, self.transform.is_some())
                .map(SinkConfig::S3);
            #[cfg(not(feature = "s3"))]
            Err(Problem::not_built(s3, "s3"))
        });
        let mut sinks = [file, lambda, s3].into_iter().flatten();
        match (sinks.next(), sinks.next()) {
            (Some(sink), None) => sink,
            (None, _) => Err(Problem::at(whole, format!("expected where the events go: {SINKS}"))),
            (Some(_), Some(_)) => Err(Problem::at(whole, format!("expected one of {SINKS}"))),
        }
    }

    /// The regions whose agents deliver the feed: all that have the table, or the first of them if each tells what is
    /// written in all, unless some are named.
    fn regions_of(&self, config: &Config) -> Result<Vec<Origin>, Problem> {
        let table = self.table.get_ref();
        let found = config.found(table);
        let known = config.tables.iter().filter(|known| known.name == *table).chain(&found);
        let members: Vec<Origin> =
            known.flat_map(|known| known.replicas.iter().map(|(region, _)| region.clone())).collect();
        if members.is_empty() {
            let message = format!("no [[table]] is called {table:?}, and no pattern finds it");
            return Err(Problem::at(&self.table, message));
        }
        let tells_all = self.events != Events::Origin;
        let Some(list) = &self.regions else {
            return Ok(if tells_all { members.into_iter().take(1).collect() } else { members });
        };
        if let (true, Some(second)) = (tells_all, list.get_ref().get(1)) {
            let message = "a region tells what is written in all of them, so expected one region";
            return Err(Problem::at(second, message));
        }
        let mut regions = Vec::new();
        for entry in list.get_ref() {
            let text = entry.get_ref();
            match members.iter().find(|member| member.as_str() == text) {
                Some(region) if !regions.contains(region) => regions.push(region.clone()),
                Some(_) => return Err(Problem::at(entry, format!("duplicate region {text:?}"))),
                None => {
                    let message = format!("the region {text:?} is not in this table's `regions`");
                    return Err(Problem::at(entry, message));
                }
            }
        }
        if regions.is_empty() {
            return Err(Problem::at(list, "expected at least one region"));
        }
        Ok(regions)
    }
}

impl FieldEntry {
    fn check(&self) -> Result<Field, &'static str> {
        match self {
            Self::Attribute(name) => Ok(Field::At(vec![named(name)?])),
            Self::Path(names) if names.is_empty() => Err("expected the name of an attribute"),
            Self::Path(names) => {
                Ok(Field::At(names.iter().map(|name| named(name)).collect::<Result<_, _>>()?))
            }
            Self::Constant { is } => Ok(Field::Is(scalar(is)?)),
        }
    }
}

fn projection(entries: &Spanned<BTreeMap<String, FieldEntry>>) -> Result<Projection, Problem> {
    let field = |(name, entry): (&String, &FieldEntry)| {
        let field = entry.check().map_err(|expected| Problem::at(entries, format!("{name}: {expected}")))?;
        Ok::<_, Problem>((named(name).map_err(|expected| Problem::at(entries, expected))?, field))
    };
    let fields: BTreeMap<_, _> = entries.get_ref().iter().map(field).collect::<Result<_, _>>()?;
    if fields.is_empty() {
        return Err(Problem::at(entries, "expected at least one field"));
    }
    Ok(Projection::new(fields))
}

impl FileEntry {
    fn check(&self, regions: &[Origin]) -> Result<SinkConfig, Problem> {
        let Self { path } = self;
        if path.get_ref().is_empty() {
            return Err(Problem::at(path, "expected the path of a file"));
        }
        if regions.len() > 1 && !path.get_ref().contains(REGION) {
            let message = format!(
                "agents of several regions would write one file: put {REGION} into its path, or name one region in \
                 `regions`"
            );
            return Err(Problem::at(path, message));
        }
        Ok(SinkConfig::File { path: path.get_ref().clone() })
    }
}

impl RetryEntry {
    fn check(&self) -> Result<Retry, Problem> {
        let default = Retry::default();
        let attempts = match &self.attempts {
            None => default.attempts,
            // Without end, as in an event source mapping.
            Some(attempts) if *attempts.get_ref() == -1 => None,
            Some(_) => within(self.attempts.as_ref(), 0, 10_000)?,
        };
        let max_age = match &self.max_age {
            None => default.max_age,
            Some(age) if age.get_ref() == "-1" => None,
            Some(_) => time(self.max_age.as_ref(), 60, 604_800)?,
        };
        let blocked = match &self.blocked {
            None => default.blocked,
            Some(blocked) => match blocked.get_ref().as_str() {
                "key" => Blocked::Key,
                "shard" => Blocked::Shard,
                _ => return Err(Problem::at(blocked, "expected \"key\" or \"shard\"")),
            },
        };
        Ok(Retry { attempts, max_age, bisect: self.bisect.unwrap_or(default.bisect), blocked })
    }

    fn on_failure(&self, regions: &[Origin]) -> Result<OnFailure, Problem> {
        let Self { on_failure, on_failure_aws_region: aws_region, on_failure_endpoint: endpoint, .. } = self;
        let to = on_failure.as_ref().filter(|to| *to.get_ref() != DEAD_LETTERS);
        let Some(to) = to else {
            return match aws_region.as_ref().or(endpoint.as_ref()) {
                None => Ok(OnFailure::DeadLetters),
                Some(other) => Err(Problem::at(other, "expected on_failure = \"s3://…\" beside it")),
            };
        };
        if !to.get_ref().starts_with("s3://") {
            return Err(Problem::at(to, format!("expected {DEAD_LETTERS:?} or s3://BUCKET/PREFIX")));
        }
        #[cfg(feature = "s3")]
        return S3Place::parse(to, aws_region.as_ref().map(Spanned::get_ref), endpoint.as_ref(), regions)
            .map(OnFailure::S3);
        #[cfg(not(feature = "s3"))]
        {
            let _ = regions;
            Err(Problem::not_built(to, "s3"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;

    fn parse(feed: &str) -> Result<Vec<FeedConfig>, String> {
        let text = format!(
            "region = [{{ name = \"tokyo\", aws_region = \"ap-northeast-1\" }}, {{ name = \"dublin\", aws_region = \
             \"eu-west-1\" }}]\ntable = [{{ name = \"orders\" }}, {{ pattern = \"shop-*\" }}]\n{feed}\n"
        );
        let config = Config::parse(Path::new("regions.toml"), &text).map_err(|error| error.to_string())?;
        Ok(config.feeds)
    }

    #[test]
    fn a_feed_is_delivered_by_the_regions_that_have_its_table() {
        let feeds = parse(
            "[[feed]]\nname = \"search\"\ntable = \"orders\"\nfile.path = \"/tmp/{region}.jsonl\"\n\
             [[feed]]\nname = \"audit\"\ntable = \"shop-a\"\nregions = [\"dublin\"]\nfilter = \
             ['{\"eventName\":[\"REMOVE\"]}']\nfile.path = \"audit.jsonl\"",
        );
        let feeds = feeds.expect("a configuration");
        let (tokyo, dublin) = ("tokyo".parse().expect("a name"), "dublin".parse().expect("a name"));
        assert!(feeds[0].is_of("orders", &tokyo) && !feeds[0].is_of("shop-a", &tokyo));
        assert!(feeds[1].is_of("shop-a", &dublin) && !feeds[1].is_of("shop-a", &tokyo));
        assert_eq!(feeds[0].sink.target_in(&tokyo), "/tmp/tokyo.jsonl");
    }

    #[test]
    fn images_show_the_fields_that_are_named() {
        let fields =
            "fields = { id = \"orderId\", city = [\"address\", \"city\"], source = { is = \"shop\" } }";
        let feeds =
            format!("[[feed]]\nname = \"search\"\ntable = \"orders\"\n{fields}\nfile.path = \"{{region}}\"");
        let shape = parse(&feeds).expect("a configuration").remove(0).shape;
        let at = |path: &[&str]| Field::At(path.iter().map(ToString::to_string).collect());
        let expected = [
            ("id".to_owned(), at(&["orderId"])),
            ("city".to_owned(), at(&["address", "city"])),
            ("source".to_owned(), Field::Is(AttributeValue::S("shop".to_owned()))),
        ];
        assert_eq!(shape.fields, Some(Projection::new(expected.into())));
    }

    #[cfg(feature = "s3")]
    #[test]
    fn what_is_rejected_goes_to_the_control_table_or_a_bucket() {
        let on_failure = |more: &str| {
            let feed = "[[feed]]\nname = \"search\"\ntable = \"orders\"\nfile.path = \"{region}\"\n";
            parse(&format!("{feed}{more}")).map(|mut feeds| feeds.remove(0).on_failure)
        };
        assert_eq!(on_failure(""), Ok(OnFailure::DeadLetters));
        assert_eq!(on_failure("retry.on_failure = \"dead-letters\""), Ok(OnFailure::DeadLetters));
        let place = S3Place {
            bucket: "failures".to_owned(),
            aws_region: Some("eu-west-1".to_owned()),
            prefix: "{region}/".to_owned(),
            endpoint: None,
        };
        let all =
            "retry = { on_failure = \"s3://failures/{region}/\", on_failure_aws_region = \"eu-west-1\" }";
        assert_eq!(on_failure(all), Ok(OnFailure::S3(place)));
        for (more, told) in [
            ("retry.on_failure = \"s3://\"", "s3://BUCKET/PREFIX"),
            ("retry = { on_failure = \"s3://b\", on_failure_endpoint = \"there\" }", "expected a URL"),
        ] {
            assert!(on_failure(more).expect_err(more).contains(told), "{more}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_at_its_place() {
        let feed = "[[feed]]\nname = \"search\"\ntable = \"orders\"\n";
        let file = "file.path = \"{region}.jsonl\"\n";
        for (text, place, told) in [
            (format!("[[feed]]\nname = \"A\"\ntable = \"orders\"\n{file}"), "4:8", "can't name a feed"),
            (format!("[[feed]]\nname = \"a\"\ntable = \"other\"\n{file}"), "5:9", "no [[table]] is called"),
            (format!("{feed}fields = {{}}\n{file}"), "6:10", "expected at least one field"),
            (
                format!("{feed}fields = {{ a = \"_tw\" }}\n{file}"),
                "6:10",
                "a: this attribute is Tradewind's own",
            ),
            (format!("{feed}fields = {{ a = [] }}\n{file}"), "6:10", "a: expected the name of an attribute"),
            (format!("{feed}fields = {{ a = {{ is = [1] }} }}\n{file}"), "6:10", "a: expected a string"),
            (feed.to_owned(), "3:1", "expected where the events go"),
            (format!("{feed}{file}lambda.function = \"mail\""), "3:1", "expected one of"),
            (format!("{feed}lambda.function = \"\""), "6:19", "a function's name"),
            (format!("{feed}lambda.function = \"f\"\nlambda.batch_size = 0"), "7:21", "expected 1 to 10000"),
            (format!("{feed}lambda.function = \"f\"\nlambda.batching_window = \"6m\""), "7:26", "0s to 5m"),
            (
                format!("{feed}lambda.function = \"f\"\nlambda.tumbling_window = \"1m\""),
                "3:1",
                "blocked = \"shard\"",
            ),
            (format!("{feed}lambda.function = \"f\"\nlambda.endpoint = \"there\""), "7:19", "expected a URL"),
            (format!("{feed}{file}retry.attempts = -2"), "7:18", "expected 0 to 10000"),
            (format!("{feed}{file}retry.max_age = \"1s\""), "7:17", "1m to 7days"),
            (format!("{feed}{file}retry.blocked = \"all\""), "7:17", "\"key\" or \"shard\""),
            (format!("{feed}{file}retry.on_failure = \"sqs\""), "7:20", "\"dead-letters\" or s3://"),
            (format!("{feed}{file}retry.on_failure_endpoint = \"http://s3\""), "7:29", "beside it"),
            (format!("{feed}file.path = \"all.jsonl\""), "6:13", "would write one file"),
            (
                format!("{feed}events = \"state\"\nregions = [\"tokyo\", \"dublin\"]\n{file}"),
                "7:21",
                "expected one region",
            ),
            (format!("{feed}regions = [\"oregon\"]\n{file}"), "6:12", "not in this table's"),
            (format!("{feed}filter = ['{{\"a\":1}}']\n{file}"), "6:11", "array"),
            (format!("{feed}{file}{feed}{file}"), "8:8", "duplicate feed"),
        ] {
            let error = parse(&text).expect_err("a mistake");
            assert!(
                error.contains(&format!("regions.toml:{place}:")) && error.contains(told),
                "{place} {told}: {error}"
            );
        }
    }
}
