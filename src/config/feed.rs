//! `[[feed]]`: where a table's changes are told.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::Config;
use super::problem::Problem;
use crate::feed::{FeedName, Filter};
use crate::protocol::Origin;

/// Tells the writes that applications make to a table.
#[derive(Clone, Debug)]
pub struct FeedConfig {
    pub name: FeedName,
    /// The table's name in the configuration.
    pub table: String,
    /// The regions whose applications' writes are told.
    pub regions: Vec<Origin>,
    /// An event is told if one of them matches, or if there is none.
    pub filters: Vec<Filter>,
    pub sink: SinkConfig,
}

/// Where the events go.
#[derive(Clone, Debug)]
pub enum SinkConfig {
    /// A file of JSON lines; `{region}` in its path stands for the agent's region.
    File { path: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FeedEntry {
    name: Spanned<String>,
    table: Spanned<String>,
    regions: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    filter: Vec<Spanned<String>>,
    /// Whether `numeric` rules also compare text that spells a number, as DynamoDB's numbers do.
    #[serde(default)]
    numeric_strings: bool,
    file: Option<FileEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    path: Spanned<String>,
}

/// In a path, the region of the agent.
const REGION: &str = "{region}";
/// As many as an event source mapping of Lambda takes.
const MOST_FILTERS: usize = 5;

impl FeedConfig {
    /// Whether agents of a region deliver it.
    pub fn is_of(&self, table: &str, region: &Origin) -> bool {
        self.table == table && self.regions.contains(region)
    }
}

impl SinkConfig {
    /// The file that the agents of a region write.
    pub fn path_in(&self, region: &Origin) -> PathBuf {
        let Self::File { path } = self;
        PathBuf::from(path.replace(REGION, region.as_str()))
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
        let Some(FileEntry { path }) = &self.file else {
            let message = "expected where the events go: [feed.file] with a `path`";
            return Err(Problem::at(whole, message));
        };
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
        let sink = SinkConfig::File { path: path.get_ref().clone() };
        Ok(FeedConfig { name, table: self.table.get_ref().clone(), regions, filters, sink })
    }

    /// The regions whose agents deliver the feed: all that have the table, unless some are named.
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
        let Some(list) = &self.regions else { return Ok(members) };
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

#[cfg(test)]
mod tests {
    use std::path::Path;

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
        assert_eq!(feeds[0].sink.path_in(&tokyo), Path::new("/tmp/tokyo.jsonl"));
    }

    #[test]
    fn what_is_wrong_is_told_at_its_place() {
        let feed = "[[feed]]\nname = \"search\"\ntable = \"orders\"\n";
        let file = "file.path = \"{region}.jsonl\"\n";
        for (text, place, told) in [
            (format!("[[feed]]\nname = \"A\"\ntable = \"orders\"\n{file}"), "4:8", "can't name a feed"),
            (format!("[[feed]]\nname = \"a\"\ntable = \"other\"\n{file}"), "5:9", "no [[table]] is called"),
            (feed.to_owned(), "3:1", "expected where the events go"),
            (format!("{feed}file.path = \"all.jsonl\""), "6:13", "would write one file"),
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
