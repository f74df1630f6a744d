//! The structure of `regions.toml`, and the checks that make it a configuration.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use toml::Spanned;
use url::Url;
use wildmatch::WildMatch;

use super::problem::Problem;
use super::{
    AntiEntropy, Config, Conflicts, Credentials, PatternConfig, RegionConfig, Role, Start, TableConfig,
    TableSpace, Tuning, anti_entropy, bounds, feed, peer,
};
use crate::protocol::Origin;

/// Parses and checks the text of a configuration.
pub(super) fn read(text: &str) -> Result<Config, Problem> {
    toml::from_str::<File>(text)?.check()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    region: Vec<Spanned<RegionEntry>>,
    #[serde(default)]
    table: Vec<Spanned<TableEntry>>,
    #[serde(default)]
    feed: Vec<Spanned<feed::FeedEntry>>,
    #[serde(default)]
    tuning: Option<Spanned<Tuning>>,
    anti_entropy: Option<Spanned<AntiEntropy>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionEntry {
    name: Spanned<String>,
    aws_region: Spanned<String>,
    endpoint: Option<Spanned<String>>,
    streams_endpoint: Option<Spanned<String>>,
    #[serde(default)]
    allow_plain_http: bool,
    profile: Option<Spanned<String>>,
    assume_role: Option<RoleEntry>,
    control_table: Option<Spanned<String>>,
    conflict_table: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleEntry {
    arn: Spanned<String>,
    external_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableEntry {
    name: Option<Spanned<String>>,
    pattern: Option<Spanned<String>>,
    regions: Option<Spanned<Vec<Spanned<String>>>>,
    names: Option<Spanned<BTreeMap<Spanned<String>, Spanned<String>>>>,
    #[serde(default)]
    start: Start,
    #[serde(default)]
    conflicts: Conflicts,
    #[serde(default)]
    peer: Vec<peer::PeerEntry>,
}

impl File {
    fn check(self) -> Result<Config, Problem> {
        if self.region.len() < 2 && self.feed.is_empty() {
            return Err(Problem::whole(
                "expected at least two [[region]] entries, or a [[feed]]: replication needs a peer",
            ));
        }
        if self.table.is_empty() {
            return Err(Problem::whole(
                "expected at least one [[table]] entry with the name of a table, or a pattern",
            ));
        }
        let regions = self.regions()?;
        let mut checked = Checked { regions: &regions, ..Checked::default() };
        for entry in &self.table {
            checked.add(entry)?;
        }
        self.check_alone(&regions)?;
        let Checked { tables, patterns, .. } = checked;
        for (entry, region) in self.region.iter().zip(&regions) {
            let is_used = tables.iter().any(|table| table.is_in(&region.name))
                || patterns.iter().any(|pattern| pattern.regions.contains(&region.name));
            if !is_used {
                let message = format!(
                    "no table uses the region {:?}: name it in a table's `regions`, or remove it",
                    region.name.as_str()
                );
                return Err(Problem::at(&entry.get_ref().name, message));
            }
        }
        let tuning = match self.tuning {
            None => Tuning::default(),
            Some(tuning) => {
                bounds::check(&tuning)?;
                tuning.into_inner()
            }
        };
        let anti_entropy = anti_entropy::check(self.anti_entropy)?;
        let mut config = Config { regions, tables, patterns, feeds: Vec::new(), tuning, anti_entropy };
        config.feeds = feed::check(&self.feed, &config)?;
        Ok(config)
    }

    /// A table in one region has nowhere to go but to a feed.
    fn check_alone(&self, all: &[RegionConfig]) -> Result<(), Problem> {
        for entry in &self.table {
            let TableEntry { name, pattern, regions, .. } = entry.get_ref();
            let members = regions.as_ref().map_or(all.len(), |regions| regions.get_ref().len());
            let mut fed = self.feed.iter().map(|feed| feed.get_ref().table());
            let is_fed = fed.any(|fed| match (name, pattern) {
                (Some(name), _) => fed == name.get_ref(),
                (None, Some(pattern)) => WildMatch::new(pattern.get_ref()).matches(fed),
                (None, None) => false,
            });
            if members < 2 && !is_fed {
                let message =
                    "expected at least two regions, or a [[feed]] of the table: replication needs a peer";
                return Err(match regions {
                    Some(regions) => Problem::at(regions, message),
                    None => Problem::at(entry, message),
                });
            }
        }
        Ok(())
    }

    /// The regions, each with a unique name and place.
    fn regions(&self) -> Result<Vec<RegionConfig>, Problem> {
        let regions =
            self.region.iter().map(|entry| entry.get_ref().check()).collect::<Result<Vec<_>, _>>()?;
        let mut names = HashSet::new();
        for entry in &self.region {
            let name = &entry.get_ref().name;
            if !names.insert(name.get_ref().as_str()) {
                return Err(Problem::at(name, format!("duplicate region {:?}", name.get_ref())));
            }
        }
        for (i, entry) in self.region.iter().enumerate() {
            let region = &regions[i];
            if region.control_table == region.conflict_table {
                let message = format!(
                    "the control table and the conflict table of region {:?} are the same: give it another \
                     `conflict_table`",
                    region.name.as_str()
                );
                return Err(Problem::at(&entry.get_ref().name, message));
            }
            let twin = regions[..i]
                .iter()
                .find(|other| other.place() == region.place() && other.control_table == region.control_table);
            if let Some(twin) = twin {
                let message = format!(
                    "the regions {:?} and {:?} are the same place: AWS region, endpoint and credentials are the \
                     same. If that is intended, give them different control tables (`control_table`)",
                    twin.name.as_str(),
                    region.name.as_str()
                );
                return Err(Problem::at(&entry.get_ref().name, message));
            }
        }
        Ok(regions)
    }
}

/// The tables of a file, checked one after the other.
#[derive(Default)]
struct Checked<'a> {
    regions: &'a [RegionConfig],
    tables: Vec<TableConfig>,
    patterns: Vec<PatternConfig>,
    /// Each replica, by its place.
    taken: HashSet<(TableSpace, String)>,
}

impl<'a> Checked<'a> {
    fn add(&mut self, entry: &Spanned<TableEntry>) -> Result<(), Problem> {
        let table = entry.get_ref();
        match (&table.name, &table.pattern) {
            (Some(name), None) => self.add_named(table, name),
            (None, Some(pattern)) => self.add_pattern(table, pattern),
            (Some(_), Some(pattern)) => Err(Problem::at(
                pattern,
                "a table has a `name` or a `pattern`, not both: make two [[table]] entries of it",
            )),
            (None, None) => {
                let message = "expected `name`, the name of a table, or `pattern`, such as \"shop-*\"";
                Err(Problem::at(entry, message))
            }
        }
    }

    fn add_named(&mut self, entry: &TableEntry, name: &Spanned<String>) -> Result<(), Problem> {
        let table = entry.named(name, self.regions)?;
        for (region, physical) in &table.replicas {
            let Some(region) = self.region(region) else { continue };
            let twice = |called: &str| {
                let message = format!("duplicate table {called:?} in region {}", region.name);
                Err(Problem::at(name, message))
            };
            if self.tables.iter().any(|other| other.name == table.name && other.is_in(&region.name)) {
                return twice(&table.name);
            }
            let mut here = self.regions.iter().filter(|other| other.place() == region.place());
            if let Some(region) = here.find(|other| other.keeps(physical)) {
                let what = if region.control_table == *physical { "control" } else { "conflict" };
                let message = format!("{physical:?} is the {what} table of region {}", region.name);
                return Err(Problem::at(name, message));
            }
            let place = region.place();
            if !self.taken.insert((place, physical.clone())) {
                return twice(physical);
            }
        }
        self.tables.push(table);
        Ok(())
    }

    fn add_pattern(&mut self, entry: &TableEntry, pattern: &Spanned<String>) -> Result<(), Problem> {
        let found = entry.found(pattern, self.regions)?;
        if self.patterns.iter().any(|other| other.pattern == found.pattern) {
            let message = format!("duplicate pattern {:?}", pattern.get_ref());
            return Err(Problem::at(pattern, message));
        }
        let mut places = HashSet::new();
        for region in found.regions.iter().filter_map(|region| self.region(region)) {
            if !places.insert(region.place()) {
                let message = format!(
                    "the region {} is the same place as another of this pattern's `regions`: a table would \
                     be its own replica",
                    region.name
                );
                return Err(Problem::at(pattern, message));
            }
        }
        self.patterns.push(found);
        Ok(())
    }

    fn region(&self, name: &Origin) -> Option<&'a RegionConfig> {
        self.regions.iter().find(|region| region.name == *name)
    }
}

impl RegionEntry {
    fn check(&self) -> Result<RegionConfig, Problem> {
        let name: Origin = self.name.get_ref().parse().map_err(|error| {
            Problem::at(&self.name, format!("{:?} can't name a region: {error}", self.name.get_ref()))
        })?;
        if !name.can_be_region() {
            let message = format!("{:?} can't name a region: it begins with '-'", self.name.get_ref());
            return Err(Problem::at(&self.name, message));
        }
        let aws_region = self.aws_region.get_ref();
        if aws_region.is_empty()
            || !aws_region.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        {
            let message = format!("expected an AWS region such as \"eu-west-1\", not {aws_region:?}");
            return Err(Problem::at(&self.aws_region, message));
        }
        let role = self.assume_role.as_ref().map(RoleEntry::check).transpose()?;
        let url = |text: &Option<Spanned<String>>| {
            text.as_ref().map(|text| check_url(text, self.allow_plain_http)).transpose()
        };
        Ok(RegionConfig {
            name,
            aws_region: aws_region.clone(),
            endpoint: url(&self.endpoint)?,
            streams_endpoint: url(&self.streams_endpoint)?,
            credentials: Credentials::Chain {
                profile: self.profile.as_ref().map(|profile| profile.get_ref().clone()),
                role,
            },
            control_table: own_table(self.control_table.as_ref(), RegionConfig::CONTROL_TABLE)?,
            conflict_table: own_table(self.conflict_table.as_ref(), RegionConfig::CONFLICT_TABLE)?,
        })
    }
}

fn own_table(name: Option<&Spanned<String>>, default: &str) -> Result<String, Problem> {
    name.map_or_else(|| Ok(default.to_owned()), check_table_name)
}

impl RoleEntry {
    fn check(&self) -> Result<Role, Problem> {
        let arn = self.arn.get_ref();
        if !(arn.starts_with("arn:") && arn.contains(":iam:") && arn.contains(":role/")) {
            let message = format!("expected \"arn:aws:iam::<account>:role/<name>\", not {arn:?}");
            return Err(Problem::at(&self.arn, message));
        }
        Ok(Role { arn: arn.clone(), external_id: self.external_id.clone() })
    }
}

impl TableEntry {
    fn named(&self, name: &Spanned<String>, regions: &[RegionConfig]) -> Result<TableConfig, Problem> {
        let name = check_table_name(name)?;
        let members = self.members(regions)?;
        let selections = peer::selections(&self.peer, &members)?;
        let mut replicas: Vec<_> = members.into_iter().map(|region| (region, name.clone())).collect();
        for (region, physical) in self.names.as_ref().map(Spanned::get_ref).into_iter().flatten() {
            let found = find_region(region, regions)?;
            let physical = check_table_name(physical)?;
            match replicas.iter_mut().find(|(member, _)| *member == found) {
                Some((_, table)) => *table = physical,
                None => {
                    let message =
                        format!("the region {:?} is not in this table's `regions`", region.get_ref());
                    return Err(Problem::at(region, message));
                }
            }
        }
        Ok(TableConfig { name, replicas, start: self.start, conflicts: self.conflicts, selections })
    }

    fn found(&self, pattern: &Spanned<String>, regions: &[RegionConfig]) -> Result<PatternConfig, Problem> {
        if let Some(names) = &self.names {
            let message = "a table found by a pattern has the same name in all regions: name this one by `name`, \
                           in an entry of its own";
            return Err(Problem::at(names, message));
        }
        let members = self.members(regions)?;
        Ok(PatternConfig {
            pattern: check_pattern(pattern)?,
            selections: peer::selections(&self.peer, &members)?,
            regions: members,
            start: self.start,
            conflicts: self.conflicts,
        })
    }

    /// The regions that have a replica.
    fn members(&self, regions: &[RegionConfig]) -> Result<Vec<Origin>, Problem> {
        let Some(list) = &self.regions else {
            return Ok(regions.iter().map(|region| region.name.clone()).collect());
        };
        let mut members = Vec::new();
        for entry in list.get_ref() {
            let region = find_region(entry, regions)?;
            if members.contains(&region) {
                return Err(Problem::at(entry, format!("duplicate region {region:?}")));
            }
            members.push(region);
        }
        if members.is_empty() {
            return Err(Problem::at(list, "expected at least one region"));
        }
        Ok(members)
    }
}

fn find_region(name: &Spanned<String>, regions: &[RegionConfig]) -> Result<Origin, Problem> {
    match regions.iter().find(|region| region.name.as_str() == name.get_ref()) {
        Some(region) => Ok(region.name.clone()),
        None => {
            let known = regions.iter().map(|region| region.name.as_str()).collect::<Vec<_>>().join(", ");
            let message = format!("no region is called {:?}; there are: {known}", name.get_ref());
            Err(Problem::at(name, message))
        }
    }
}

/// Accepts the characters of a table's name, and at least one wildcard.
fn check_pattern(pattern: &Spanned<String>) -> Result<WildMatch, Problem> {
    let text = pattern.get_ref();
    let is_wildcard = |c: u8| matches!(c, b'*' | b'?');
    if !text.bytes().all(|c| is_wildcard(c) || is_in_table_names(c)) {
        let message = format!(
            "{text:?} matches no table: expected a-z, A-Z, 0-9, '_', '-', '.', with '*' for any characters \
             and '?' for one"
        );
        return Err(Problem::at(pattern, message));
    }
    if !text.bytes().any(is_wildcard) {
        let message = format!("{text:?} has neither '*' nor '?': a single table is named by `name`");
        return Err(Problem::at(pattern, message));
    }
    Ok(WildMatch::new(text))
}

fn is_in_table_names(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.')
}

/// DynamoDB's naming rule: 3 to 255 characters of `a-z A-Z 0-9 _ - .`.
fn check_table_name(name: &Spanned<String>) -> Result<String, Problem> {
    let text = name.get_ref();
    if (3..=255).contains(&text.len()) && text.bytes().all(is_in_table_names) {
        Ok(text.clone())
    } else {
        let message = format!(
            "{text:?} can't name a table: expected 3 to 255 characters of a-z, A-Z, 0-9, '_', '-', '.'"
        );
        Err(Problem::at(name, message))
    }
}

fn check_url(text: &Spanned<String>, allow_plain_http: bool) -> Result<Url, Problem> {
    let expected =
        "expected a URL such as \"https://dynamodb.eu-west-1.amazonaws.com\" or \"http://127.0.0.1:8000\"";
    let url =
        Url::parse(text.get_ref()).map_err(|error| Problem::at(text, format!("{error}; {expected}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Problem::at(text, expected));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let message = "a URL must carry no user or password: credentials come from the SDK's own chain";
        return Err(Problem::at(text, message));
    }
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() == "http" && !loopback && !allow_plain_http {
        let message = "plain http sends items in the clear: use https, or set allow_plain_http = true here";
        return Err(Problem::at(text, message));
    }
    Ok(url)
}
