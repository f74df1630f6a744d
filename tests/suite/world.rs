//! A world for one test: regions with a table each, the links between them, and the agents.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, PutRequest,
    ScalarAttributeType, StreamSpecification, StreamViewType, WriteRequest,
};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;
use tradewind::agent::Agent;
use tradewind::config::{Config, Conflicts, PatternConfig, RegionConfig, Start, TableConfig, Tuning};
use tradewind::control::{PK, SK};
use tradewind::item_json::item_json;
use tradewind::protocol::{Item, Origin, Selections};
use tradewind::tally::TallySnapshot;
use tradewind_proxy::{Proxy, Tamper, TamperingProxy};
use url::Url;
use wildmatch::WildMatch;

use crate::calls::{Link, watched};
use crate::engine::{Engine, Server, client, streams_client};
use crate::items::{exact, item, n, s, without_stamp};
use crate::process::{Process, tradewind};

/// How long a state may take to come. It is no measure: only a test that fails waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
pub(crate) const LOOK: Duration = Duration::from_millis(20);
/// The idle calls in a row, at every agent, that count as quiet.
const QUIET_CALLS: u32 = 4;
/// As many that, after that, nothing can have been going on.
const LONG_QUIET_CALLS: u32 = 7;

pub(crate) const PLACES: [(&str, &str); 3] =
    [("dublin", "eu-west-1"), ("tokyo", "ap-northeast-1"), ("oregon", "us-west-2")];

/// The key of the test's table: attribute names with their types, the partition key first.
pub(crate) type Keys = &'static [(&'static str, ScalarAttributeType)];

pub(crate) const PLAIN: Keys = &[("pk", ScalarAttributeType::S)];

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) table: String,
    pub(crate) control: String,
    pub(crate) tuning: Tuning,
    /// Finds the tables, in the place of the one table's name.
    pub(crate) pattern: Option<String>,
    /// What becomes of conflicts.
    pub(crate) conflicts: Conflicts,
    /// What goes to which region, as it stands in the file.
    pub(crate) peers: String,
    /// The feeds, as they stand in the file.
    pub(crate) feeds: String,
    /// What else the agents' files say.
    pub(crate) more: &'static str,
    keys: Keys,
    places: Vec<Place>,
    /// For configuration files.
    files: TempDir,
}

struct Place {
    name: Origin,
    aws_region: &'static str,
    server: Server,
    app: Client,
    /// From this region's agent to each region.
    links: Vec<Proxy>,
    /// In front of some of the links.
    tampered: BTreeMap<usize, TamperingProxy>,
    agent: Option<Agent>,
}

/// What the table holds in a region, by key, the stamps aside.
pub(crate) type Contents = BTreeMap<String, String>;

/// Whether this is a write to the applications' table, and not to the control table, whose rows
/// name that one.
pub(crate) fn writes(operation: &str, body: &str) -> bool {
    let writes = matches!(operation, "PutItem" | "UpdateItem" | "DeleteItem");
    writes && body.contains("\"TableName\":\"orders-")
}

impl World {
    /// Regions without a table.
    pub(crate) async fn bare(regions: usize) -> Self {
        let engine = Engine::chosen();
        show_logs();
        let unique = format!("{:012x}", fastrand::Rng::new().u64(..) >> 16);
        let mut places = Vec::new();
        for (name, aws_region) in PLACES.into_iter().take(regions) {
            let name: Origin = name.parse().expect("a region's name");
            let server = Server::start(&engine, &name).await;
            let app = client(&server.endpoint, aws_region);
            places.push(Place {
                name,
                aws_region,
                server,
                app,
                links: Vec::new(),
                tampered: BTreeMap::new(),
                agent: None,
            });
        }
        let endpoints: Vec<_> = places.iter().map(|place| place.server.endpoint.clone()).collect();
        let names: Vec<_> = places.iter().map(|place| place.name.to_string()).collect();
        for place in &mut places {
            for (to, endpoint) in names.iter().zip(&endpoints) {
                let link = Link { from: place.name.to_string(), to: to.clone() };
                place.links.push(watched(endpoint, link).await);
            }
        }
        let tuning = Tuning {
            poll_interval: Duration::from_millis(40),
            checkpoint_interval: Duration::from_millis(200),
            settle: Duration::from_secs(4),
            lease_duration: Duration::from_secs(1),
            concurrency: 16,
            startup_timeout: Duration::from_secs(2),
            ..Tuning::default()
        };
        Self {
            engine,
            table: format!("orders-{unique}"),
            control: format!("control-{unique}"),
            tuning,
            pattern: None,
            conflicts: Conflicts::default(),
            peers: String::new(),
            feeds: String::new(),
            more: "",
            keys: PLAIN,
            places,
            files: TempDir::new().expect("a folder"),
        }
    }

    /// Regions with an empty table each; no agent runs yet.
    pub(crate) async fn prepared(regions: usize, keys: Keys) -> Self {
        let mut world = Self::bare(regions).await;
        world.keys = keys;
        for region in 0..regions {
            world.make_control_table(region).await;
            world.make_table(region, keys, Some(StreamViewType::NewAndOldImages)).await;
        }
        world
    }

    /// Regions with an empty table each, and an agent each.
    pub(crate) async fn running(regions: usize) -> Self {
        let mut world = Self::prepared(regions, PLAIN).await;
        world.start_agents().await;
        world
    }

    pub(crate) async fn make_table(&self, region: usize, keys: Keys, stream: Option<StreamViewType>) {
        let make = self.app(region).create_table().table_name(&self.table);
        let spec = |view| StreamSpecification::builder().stream_enabled(true).stream_view_type(view);
        let spec = stream.map(|view| spec(view).build().expect("a whole specification"));
        make_table(make.set_stream_specification(spec), keys).await;
    }

    /// Turns the table's stream on or off.
    pub(crate) async fn set_stream(&self, region: usize, on: bool) {
        let spec = StreamSpecification::builder().stream_enabled(on);
        let spec = spec.set_stream_view_type(on.then_some(StreamViewType::NewAndOldImages));
        let update = self.app(region).update_table().table_name(&self.table);
        let update = update.stream_specification(spec.build().expect("a whole specification"));
        update.send().await.expect("another stream");
    }

    pub(crate) async fn make_control_table(&self, region: usize) {
        let keys = [(PK, ScalarAttributeType::S), (SK, ScalarAttributeType::S)];
        make_table(self.app(region).create_table().table_name(&self.control), &keys).await;
    }

    pub(crate) fn conflict_table(&self) -> String {
        format!("conflicts-{}", self.control)
    }

    // Agents

    pub(crate) async fn start_agents(&mut self) {
        for region in 0..self.places.len() {
            self.start_agent(region).await;
        }
    }

    pub(crate) async fn start_agent(&mut self, region: usize) {
        let agent = Agent::start(&self.config(region), self.name(region)).await.expect("an agent");
        self.places[region].agent = Some(agent);
    }

    /// Lets an agent finish.
    pub(crate) async fn stop_agent(&mut self, region: usize) {
        self.places[region].agent.take().expect("a running agent").stop().await;
    }

    /// Ends an agent in the middle of whatever it does, as `kill -9` would.
    pub(crate) fn crash_agent(&mut self, region: usize) {
        drop(self.places[region].agent.take().expect("a running agent"));
    }

    /// What an agent has done since it was started.
    pub(crate) fn tally(&self, region: usize) -> TallySnapshot {
        let agent = self.agent(region);
        agent.figures().report().first().expect("a table").tally
    }

    pub(crate) fn agent(&self, region: usize) -> &Agent {
        self.places[region].agent.as_ref().expect("a running agent")
    }

    /// What all running agents have done since they were started.
    pub(crate) fn total(&self) -> TallySnapshot {
        let mut total = TallySnapshot::default();
        self.running_agents()
            .flat_map(|agent| agent.figures().report())
            .for_each(|report| total += report.tally);
        total
    }

    fn running_agents(&self) -> impl Iterator<Item = &Agent> {
        self.places.iter().filter_map(|place| place.agent.as_ref())
    }

    /// The configuration of one region's agent, whose calls all go over its own links.
    pub(crate) fn config(&self, agent: usize) -> Config {
        let regions = self.places.iter().enumerate().map(|(to, place)| RegionConfig {
            name: place.name.clone(),
            aws_region: place.aws_region.to_owned(),
            endpoint: Some(self.url(agent, to)),
            streams_endpoint: None,
            credentials: self.engine.credentials(),
            control_table: self.control.clone(),
            conflict_table: self.conflict_table(),
        });
        let regions = regions.collect();
        let tuning = self.tuning.clone();
        let (mut tables, mut patterns) = (Vec::new(), Vec::new());
        match &self.pattern {
            None if self.peers.is_empty() => tables.push(self.table_config(&self.table)),
            None => {
                let file = Config::parse(Path::new("regions.toml"), &self.config_file(agent));
                let selections = file.expect("a configuration").tables.remove(0).selections;
                tables.push(TableConfig { selections, ..self.table_config(&self.table) });
            }
            Some(pattern) => patterns.push(PatternConfig {
                pattern: WildMatch::new(pattern),
                regions: self.places.iter().map(|place| place.name.clone()).collect(),
                start: Start::default(),
                conflicts: self.conflicts,
                selections: Selections::default(),
            }),
        }
        let feeds = match self.feeds.as_str() {
            "" => Vec::new(),
            _ => {
                let file = Config::parse(Path::new("regions.toml"), &self.config_file(agent));
                file.unwrap_or_else(|error| panic!("{error}")).feeds
            }
        };
        Config { regions, tables, patterns, feeds, tuning, anti_entropy: None }
    }

    /// A table that has one name in all regions.
    pub(crate) fn table_config(&self, name: &str) -> TableConfig {
        let replicas = self.places.iter().map(|place| (place.name.clone(), name.to_owned()));
        let replicas = replicas.collect();
        TableConfig { conflicts: self.conflicts, ..TableConfig::new(name.to_owned(), replicas) }
    }

    /// A command over the regions, as one region's agent reaches them.
    pub(crate) fn tradewind(&self, region: usize, arguments: &[&str]) -> Command {
        let path = self.files.path().join(format!("{}.toml", self.name(region)));
        std::fs::write(&path, self.config_file(region)).expect("a file");
        let mut command = tradewind(arguments);
        command.arg("--config").arg(path);
        command
    }

    /// Starts the agent of a region as a process.
    pub(crate) fn start_process(&self, region: usize) -> Process {
        Process::start(self.tradewind(region, &["run", "--region", self.name(region)]))
    }

    /// The configuration of one region's agent, as a file.
    pub(crate) fn config_file(&self, agent: usize) -> String {
        let mut text = String::new();
        for (to, Place { name, aws_region, .. }) in self.places.iter().enumerate() {
            let (endpoint, control, conflicts) = (self.url(agent, to), &self.control, self.conflict_table());
            write!(
                text,
                "[[region]]\nname = \"{name}\"\naws_region = \"{aws_region}\"\nendpoint = \"{endpoint}\"\n\
                 control_table = \"{control}\"\nconflict_table = \"{conflicts}\"\n\n",
            )
            .expect("memory");
        }
        let Tuning {
            poll_interval,
            checkpoint_interval,
            settle,
            lease_duration,
            concurrency,
            startup_timeout,
            discovery_interval,
            heartbeat_interval,
            liveness_timeout,
            ..
        } = &self.tuning;
        let (key, value) = match &self.pattern {
            None => ("name", &self.table),
            Some(pattern) => ("pattern", pattern),
        };
        let (conflicts, peers) = (format!("{:?}", self.conflicts).to_lowercase(), &self.peers);
        let (more, feeds) = (self.more, &self.feeds);
        write!(
            text,
            "[[table]]\n{key} = \"{value}\"\nconflicts = \"{conflicts}\"\n{peers}\n[tuning]\npoll_interval = \"{poll_interval:?}\"\n\
             checkpoint_interval = \"{checkpoint_interval:?}\"\nsettle = \"{settle:?}\"\nlease_duration = \"{lease_duration:?}\"\n\
             concurrency = {concurrency}\nstartup_timeout = \"{startup_timeout:?}\"\n\
             discovery_interval = \"{discovery_interval:?}\"\nheartbeat_interval = \"{heartbeat_interval:?}\"\n\
             liveness_timeout = \"{liveness_timeout:?}\"\nunproven = true\n{more}\n{feeds}",
        )
        .expect("memory");
        text
    }

    // Links

    /// Cuts what lies between a region and the others; its own agent still reaches it.
    pub(crate) fn cut_off(&self, region: usize) {
        self.links_of(region).for_each(Proxy::cut);
    }

    pub(crate) fn rejoin(&self, region: usize) {
        self.links_of(region).for_each(Proxy::restore);
    }

    fn links_of(&self, region: usize) -> impl Iterator<Item = &Proxy> {
        let all = (0..self.places.len()).flat_map(|from| (0..self.places.len()).map(move |to| (from, to)));
        all.filter(move |(from, to)| from != to && (*from == region || *to == region))
            .map(|(from, to)| self.link(from, to))
    }

    /// The link from one region's agent to a region.
    pub(crate) fn link(&self, from: usize, to: usize) -> &Proxy {
        &self.places[from].links[to]
    }

    /// Puts a proxy in front of the link from one region's agent, as it is started next, to a
    /// region.
    pub(crate) async fn tamper(&mut self, from: usize, to: usize, tamper: impl Tamper) {
        let proxy = TamperingProxy::to(&self.link(from, to).url, tamper).await.expect("a loopback port");
        self.places[from].tampered.insert(to, proxy);
    }

    /// Where one region's agent reaches a region.
    fn url(&self, from: usize, to: usize) -> Url {
        let place = &self.places[from];
        place.tampered.get(&to).map_or_else(|| place.links[to].url.clone(), |proxy| proxy.url.clone())
    }

    // Applications

    pub(crate) fn regions(&self) -> std::ops::Range<usize> {
        0..self.places.len()
    }

    pub(crate) fn name(&self, region: usize) -> &str {
        self.places[region].name.as_str()
    }

    pub(crate) fn server(&self, region: usize) -> &Server {
        &self.places[region].server
    }

    /// A client for a region's streams.
    pub(crate) fn streams(&self, region: usize) -> aws_sdk_dynamodbstreams::Client {
        let Place { server, aws_region, .. } = &self.places[region];
        streams_client(&server.endpoint, aws_region)
    }

    /// An application's client in a region.
    pub(crate) fn app(&self, region: usize) -> &Client {
        &self.places[region].app
    }

    /// Has an application put items, 25 at a time, each alone under its key.
    pub(crate) async fn put_all(&self, region: usize, items: impl Iterator<Item = Item>) {
        let put = |item| {
            let put = PutRequest::builder().set_item(Some(item)).build().unwrap();
            WriteRequest::builder().put_request(put).build()
        };
        let mut puts = items.map(put).peekable();
        while puts.peek().is_some() {
            let batch = puts.by_ref().take(25).collect();
            let write = self.app(region).batch_write_item().request_items(&self.table, batch);
            let left = write.send().await.expect("a batch").unprocessed_items.unwrap_or_default();
            assert!(left.is_empty());
        }
    }

    pub(crate) async fn put(&self, region: usize, item: Item) {
        let put = self.app(region).put_item().table_name(&self.table).set_item(Some(item));
        put.send().await.expect("a put");
    }

    /// Sets one attribute, and keeps the rest: the stamp as well.
    pub(crate) async fn update(&self, region: usize, key: Item, name: &str, value: AttributeValue) {
        let update = self.app(region).update_item().table_name(&self.table).set_key(Some(key));
        let update = update
            .update_expression("SET #name = :value")
            .expression_attribute_names("#name", name)
            .expression_attribute_values(":value", value);
        update.send().await.expect("an update");
    }

    pub(crate) async fn delete(&self, region: usize, key: Item) {
        let delete = self.app(region).delete_item().table_name(&self.table).set_key(Some(key));
        delete.send().await.expect("a delete");
    }

    /// The item as it is stored, stamp and all.
    pub(crate) async fn stored(&self, region: usize, key: &Item) -> Option<Item> {
        let get = self.app(region).get_item().table_name(&self.table).set_key(Some(key.clone()));
        get.consistent_read(true).send().await.expect("a read").item
    }

    pub(crate) async fn get(&self, region: usize, key: &Item) -> Option<Item> {
        self.stored(region, key).await.map(without_stamp)
    }

    /// Waits until a region holds exactly this item, the stamp aside.
    pub(crate) async fn await_item(&self, region: usize, key: &Item, expected: &Item) {
        let wanted = Some(exact(expected));
        let see = || async move { self.get(region, key).await.as_ref().map(exact) };
        eventually(&format!("{wanted:?} in {}", self.name(region)), see, |seen| *seen == wanted).await;
    }

    pub(crate) async fn await_absent(&self, region: usize, key: &Item) {
        let see = || async move { self.stored(region, key).await.as_ref().map(exact) };
        let what = format!("no {} in {}", item_json(key), self.name(region));
        eventually(&what, see, Option::is_none).await;
    }

    /// All of a region's items, as they are stored.
    pub(crate) async fn all_items(&self, region: usize) -> Vec<Item> {
        all_items(self.app(region), &self.table).await
    }

    /// All of a region's items, the stamps aside.
    pub(crate) async fn contents(&self, region: usize) -> Contents {
        let items = self.all_items(region).await;
        items.into_iter().map(|item| (exact(&self.key_of(&item)), exact(&without_stamp(item)))).collect()
    }

    pub(crate) fn key_of(&self, item: &Item) -> Item {
        let keys = self.keys.iter().map(|(name, _)| *name);
        keys.map(|name| (name.to_owned(), item[name].clone())).collect()
    }

    /// Marks the table in Dublin's region, as an agent of days ago would have: writes from the first second of 1970
    /// to this time may be missing in Tokyo's.
    pub(crate) async fn mark(&self, until_millis: u64) {
        let mark = item([
            (PK, s(&format!("gap/{}", self.table))),
            (SK, s("shard 1000")),
            ("origin", s(PLACES[0].0)),
            ("shard", s("shard")),
            ("peers", AttributeValue::L(vec![s(PLACES[1].0)])),
            ("fromMillis", n(1000)),
            ("untilMillis", n(until_millis)),
        ]);
        let put = self.app(0).put_item().table_name(&self.control).set_item(Some(mark));
        put.send().await.expect("a mark");
    }

    /// The rows of a region's control table whose `pk` begins so.
    pub(crate) async fn control_rows(&self, region: usize, prefix: &str) -> Vec<Item> {
        let rows = all_items(self.app(region), &self.control).await;
        rows.into_iter().filter(|row| row[PK].as_s().is_ok_and(|pk| pk.starts_with(prefix))).collect()
    }

    // Convergence

    /// Waits until no agent has anything left to read or to write.
    pub(crate) async fn quiet(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut since: Option<(TallySnapshot, Vec<u32>)> = None;
        loop {
            let idle: Vec<u32> = self.running_agents().map(idle_calls).collect();
            let total = self.total();
            since = match since {
                _ if idle.contains(&0) => None,
                Some((then, calls)) if then == total => {
                    if idle.iter().zip(&calls).all(|(now, then)| now >= &(then + QUIET_CALLS)) {
                        return;
                    }
                    Some((then, calls))
                }
                _ => Some((total, idle.clone())),
            };
            assert!(Instant::now() < deadline, "the agents never rest: idle calls {idle:?}, {total:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// No write makes another: once all is quiet, no agent finds anything more to do.
    pub(crate) async fn still_quiet(&self) {
        let (total, idle): (_, Vec<u32>) = (self.total(), self.running_agents().map(idle_calls).collect());
        let see = || async { self.running_agents().map(idle_calls).collect::<Vec<_>>() };
        let grown = |now: &Vec<u32>| now.iter().zip(&idle).all(|(now, then)| *now >= then + LONG_QUIET_CALLS);
        eventually("a long quiet", see, grown).await;
        assert_eq!(self.total(), total, "something went on after all was quiet");
    }

    /// The promise of convergence: once the streams are drained, every region holds the same
    /// items. Returns them.
    pub(crate) async fn converged(&self) -> Contents {
        self.quiet().await;
        let first = self.contents(0).await;
        for region in self.regions().skip(1) {
            let other = self.contents(region).await;
            let keys: std::collections::BTreeSet<_> = first.keys().chain(other.keys()).collect();
            let differing: Vec<_> = keys
                .into_iter()
                .map(|key| (first.get(key), other.get(key)))
                .filter(|(a, b)| a != b)
                .collect();
            let shown: Vec<_> = differing.iter().take(5).collect();
            assert!(
                differing.is_empty(),
                "{} items differ between {} and {}: {shown:#?}\n{:#?}",
                differing.len(),
                self.name(0),
                self.name(region),
                self.total()
            );
        }
        first
    }
}

/// With `RUST_LOG`, a test that fails shows what the agents said.
fn show_logs() {
    if std::env::var_os("RUST_LOG").is_some() {
        // A second test of one process finds it done.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
    }
}

/// Looks again and again until what is seen will do.
pub(crate) async fn eventually<T, F>(what: &str, see: impl Fn() -> F, will_do: impl Fn(&T) -> bool) -> T
where
    T: std::fmt::Debug,
    F: Future<Output = T>,
{
    eventually_within(PATIENCE, LOOK, what, see, will_do).await
}

/// The same, where it takes longer, or a look costs more.
pub(crate) async fn eventually_within<T, F>(
    patience: Duration,
    pause: Duration,
    what: &str,
    see: impl Fn() -> F,
    will_do: impl Fn(&T) -> bool,
) -> T
where
    T: std::fmt::Debug,
    F: Future<Output = T>,
{
    let deadline = Instant::now() + patience;
    loop {
        let seen = see().await;
        if will_do(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}; there is {seen:?}");
        tokio::time::sleep(pause).await;
    }
}

type CreateTable = aws_sdk_dynamodb::operation::create_table::builders::CreateTableFluentBuilder;

async fn make_table(make: CreateTable, keys: &[(&str, ScalarAttributeType)]) {
    let mut make = make.billing_mode(BillingMode::PayPerRequest);
    for (i, (name, kind)) in keys.iter().enumerate() {
        let role = if i == 0 { KeyType::Hash } else { KeyType::Range };
        let element = KeySchemaElement::builder().attribute_name(*name).key_type(role);
        let attribute = AttributeDefinition::builder().attribute_name(*name).attribute_type(kind.clone());
        make = make
            .key_schema(element.build().expect("a whole element"))
            .attribute_definitions(attribute.build().expect("a whole definition"));
    }
    make.send().await.expect("a new table");
}

async fn all_items(client: &Client, table: &str) -> Vec<Item> {
    let scan = client.scan().table_name(table).consistent_read(true);
    scan.into_paginator().items().send().collect::<Result<_, _>>().await.expect("a scan")
}

fn idle_calls(agent: &Agent) -> u32 {
    agent.figures().idle_calls()
}
