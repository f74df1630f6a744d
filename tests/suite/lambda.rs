//! Feeds into a Lambda function of tests/functions: on ministack, which runs it as a process, and in AWS's own runtime
//! under its emulator.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::types::Record;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{Environment, FunctionCode, Runtime};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tradewind::item_json::item_json;
use tradewind::protocol::Item;
use url::Url;

use crate::engine::{ACCESS_KEY, Engine, SECRET_KEY};
use crate::expiry::{expiring, seconds_from_now, until};
use crate::feeds::{assert_counted, await_retries, count_up, text_of};
use crate::items::{b, item, key, n, row, s};
use crate::process::{run, run_json};
use crate::world::{PLACES, PLAIN, World, eventually};

const DUBLIN: usize = 0;
const FEED: &str = "mail";
/// The one in the emulator.
const REPORTS: &str = "orders.partial";

/// A function, and the records that it has taken.
struct Function {
    name: String,
    /// What the feed calls: the name, or more than that.
    target: String,
    endpoint: Url,
    records: PathBuf,
    server: Server,
}

enum Server {
    Ministack {
        client: Client,
        _records: TempDir,
    },
    /// Takes one call at a time, and never says that a function has failed.
    Emulator,
}

impl Function {
    /// A function of tests/functions for Dublin's agents, or nothing where none can run.
    async fn new(world: &World, handler: &str) -> Option<Self> {
        let function = Self::on(world, handler);
        if let Some(function) = &function {
            function.create(handler, Duration::from_mins(1)).await;
        }
        function
    }

    /// The same before it is created, where it can be.
    fn on(world: &World, handler: &str) -> Option<Self> {
        let emulator = std::env::var("TRADEWIND_TEST_RIE").ok();
        let skipped = match (&world.engine, emulator) {
            (Engine::Ministack(endpoint), _) => {
                let folder = TempDir::new().expect("a folder");
                let name = world.table.clone();
                return Some(Self {
                    target: name.clone(),
                    name,
                    endpoint: endpoint.clone(),
                    records: folder.path().join("records"),
                    server: Server::Ministack { client: client(endpoint), _records: folder },
                });
            }
            (Engine::Embedded, Some(endpoint)) if handler == REPORTS => {
                let records = std::env::var("TRADEWIND_TEST_RECORDS").expect("tests/with-rie sets it, too");
                return Some(Self {
                    name: "function".to_owned(),
                    target: "function".to_owned(),
                    endpoint: Url::parse(&endpoint).expect("TRADEWIND_TEST_RIE is a URL"),
                    records: records.into(),
                    server: Server::Emulator,
                });
            }
            (Engine::Embedded, Some(_)) => "tests/with-rie has another function beside it",
            (Engine::Embedded, None) => "it runs no functions; tests/with-rie has one beside it",
            (Engine::DynamoDbLocal(_), _) => "it runs no functions",
        };
        eprintln!("skipped on {:?}: {skipped}", world.engine);
        None
    }

    fn client(&self) -> Option<&Client> {
        match &self.server {
            Server::Ministack { client, .. } => Some(client),
            Server::Emulator => None,
        }
    }

    async fn create(&self, handler: &str, timeout: Duration) {
        let Some(client) = self.client() else { return };
        let records = self.records.to_str().expect("UTF-8");
        let create = client
            .create_function()
            .function_name(&self.name)
            .runtime(Runtime::Python312)
            .role("arn:aws:iam::000000000000:role/function")
            .handler(handler)
            .timeout(timeout.as_secs().try_into().expect("seconds"))
            .environment(Environment::builder().variables("TRADEWIND_TEST_RECORDS", records).build())
            .code(
                FunctionCode::builder()
                    .zip_file(Blob::new(zipped(self.records.parent().expect("a folder")).await))
                    .build(),
            );
        create.send().await.expect("a function; ministack has them with MINISTACK_SERVICES=lambda");
    }

    /// A feed of this function's own, from Dublin alone.
    fn feed(&self, world: &World, head: &str, sink: &str, retry: &str) -> String {
        let (table, region) = (&world.table, world.name(DUBLIN));
        let (function, endpoint) = (&self.target, &self.endpoint);
        format!(
            "[[feed]]\nname = \"{FEED}\"\ntable = \"{table}\"\nregions = [\"{region}\"]\n{head}\n[feed.lambda]\n\
             function = \"{function}\"\nendpoint = \"{endpoint}\"\n{sink}\n[feed.retry]\n{retry}\n"
        )
    }

    /// What it has taken of the world's table, however often.
    fn taken(&self, world: &World) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.records).unwrap_or_default();
        let stream = format!("table/{}/", world.table);
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a record"));
        lines.filter(|record| text_of(&record["eventSourceARN"]).contains(&stream)).collect()
    }

    /// Waits until it has taken so many different records. Returns each once, as first taken.
    async fn await_taken(&self, world: &World, count: usize) -> Vec<Value> {
        let see = || async {
            let mut seen = BTreeSet::new();
            let mut all = self.taken(world);
            all.retain(|record| seen.insert(record["eventID"].to_string()));
            all
        };
        eventually(&format!("{count} records"), see, |all| all.len() >= count).await
    }
}

fn client(endpoint: &Url) -> Client {
    let config = aws_sdk_lambda::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(PLACES[DUBLIN].1))
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests"))
        .endpoint_url(endpoint.as_str())
        .build();
    Client::from_conf(config)
}

/// The functions as Lambda takes them. Python, which they need anyway, makes the archive.
async fn zipped(folder: &Path) -> Vec<u8> {
    let code = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/functions/orders.py");
    let archive = folder.join("code.zip");
    let mut zip = Command::new("python3");
    let made = zip.args(["-m", "zipfile", "--create"]).arg(&archive).arg(code).status().await;
    assert!(made.expect("python3").success());
    std::fs::read(archive).expect("an archive")
}

/// What an event consists of.
fn names(event: &Value) -> Vec<&String> {
    event.as_object().expect("an object").keys().collect()
}

/// The values that an application put, in the order of these records.
fn values(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| text_of(&record["dynamodb"]["NewImage"]["v"]["S"])).collect()
}

/// Waits until so many events are parked, as `tradewind feed parked` tells them.
async fn await_parked(world: &World, count: usize) -> Vec<Value> {
    let see = || async { parked(world).await };
    eventually(&format!("{count} parked events"), see, |parked| parked.len() == count).await
}

async fn parked(world: &World) -> Vec<Value> {
    let (code, parked) = run_json(world.tradewind(DUBLIN, &["feed", "parked", FEED])).await;
    assert_eq!(code, 0, "{parked:#}");
    serde_json::from_value(parked).expect("a list")
}

/// The event of a record of the stream, by Lambda's documentation.
fn event(record: &Record, stream: &str, (old, new): (Option<&Item>, Option<&Item>)) -> Value {
    let body = record.dynamodb.as_ref().expect("a body");
    let mut told = json!({
        "ApproximateCreationDateTime": body.approximate_creation_date_time.expect("a time").secs(),
        "Keys": { "pk": item_json(old.or(new).expect("an image"))["pk"] },
        "SequenceNumber": body.sequence_number,
        "SizeBytes": body.size_bytes,
        "StreamViewType": "NEW_AND_OLD_IMAGES",
    });
    for (name, image) in [("OldImage", old), ("NewImage", new)] {
        if let Some(image) = image {
            told[name] = item_json(image);
        }
    }
    json!({
        "eventName": record.event_name.as_ref().expect("a name").as_str(),
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": PLACES[DUBLIN].1,
        "dynamodb": told,
        "eventSourceARN": stream,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_write_reaches_the_function_once_as_lambda_tells_it() {
    let mut world = World::prepared(2, PLAIN).await;
    let Some(mut function) = Function::new(&world, REPORTS).await else { return };
    if let Some(client) = function.client() {
        let version = client.publish_version().function_name(&function.name).send().await.expect("a version");
        let alias = client.create_alias().function_name(&function.name).name("live");
        let alias =
            alias.function_version(version.version.expect("a number")).send().await.expect("an alias");
        function.target = alias.alias_arn.expect("an ARN");
    }
    world.feeds = function.feed(&world, "strict = true", "report_batch_item_failures = true", "");
    world.start_agents().await;
    let (first, second) = (row("a", "one"), row("a", "two"));
    world.put(DUBLIN, first.clone()).await;
    world.put(DUBLIN, second.clone()).await;
    world.delete(DUBLIN, key("a")).await;
    let whole = item([
        ("pk", s("b")),
        ("n", n("1.5")),
        ("l", AttributeValue::L(vec![s(""), n(2)])),
        ("b", b(&[0, 255])),
    ]);
    world.put(DUBLIN, whole.clone()).await;
    // Told by Tokyo's agents, if at all.
    world.put(1, row("c", "elsewhere")).await;
    let taken = function.await_taken(&world, 4).await;
    world.converged().await;
    world.stop_agent(DUBLIN).await;
    assert_eq!(function.taken(&world), taken, "something was told again");
    let stream =
        world.app(DUBLIN).describe_table().table_name(&world.table).send().await.expect("a description");
    let stream = stream.table.and_then(|table| table.latest_stream_arn).expect("a stream");
    let records = world.records(DUBLIN).await;
    let images =
        [(None, Some(&first)), (Some(&first), Some(&second)), (Some(&second), None), (None, Some(&whole))];
    for (told, images) in taken.iter().zip(images) {
        let sequence = text_of(&told["dynamodb"]["SequenceNumber"]);
        let is_told = |record: &&Record| {
            record.dynamodb.as_ref().and_then(|body| body.sequence_number.as_deref()) == Some(sequence)
        };
        let record = records.iter().find(is_told).expect("a record of the stream");
        let mut expected = event(record, &stream, images);
        expected["eventID"] = told["eventID"].clone();
        assert_eq!(*told, expected);
    }
    let (code, tested) = run_json(world.tradewind(DUBLIN, &["feed", "test", FEED])).await;
    assert_eq!(code, 0, "{tested:#}");
    let made_up = function.taken(&world).split_off(taken.len());
    assert_eq!((made_up.len(), names(&made_up[0])), (1, names(&taken[0])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reported_failure_holds_up_its_key_alone_and_is_parked() {
    let mut world = World::prepared(2, PLAIN).await;
    let Some(function) = Function::new(&world, REPORTS).await else { return };
    world.feeds = function.feed(&world, "", "report_batch_item_failures = true", "attempts = 2");
    // Before there is an agent, so that they are one batch.
    for (id, value) in [("a", "1"), ("p", "poison"), ("b", "2"), ("p", "after"), ("c", "3")] {
        world.put(DUBLIN, row(id, value)).await;
    }
    world.start_agents().await;
    let taken = function.await_taken(&world, 4).await;
    assert_eq!(values(&taken), ["1", "2", "3", "after"]);
    let parked_event = await_parked(&world, 1).await.remove(0);
    assert_eq!(parked_event["key"], item_json(&key("p")));
    assert_eq!(parked_event["rejections"], 3);
    assert!(text_of(&parked_event["reason"]).contains("batchItemFailures"), "{parked_event:#}");
    let id = text_of(&parked_event["id"]);
    let (code, shown, log) = run(world.tradewind(DUBLIN, &["feed", "show", FEED, id])).await;
    assert_eq!(code, 0, "{log}");
    let shown: Value = serde_json::from_str(&shown).expect("an event");
    assert_eq!(shown["dynamodb"]["NewImage"], item_json(&row("p", "poison")));
    assert_eq!(shown["tradewind"]["version"], parked_event["version"]);
    // All that the function gets of an event is parked.
    assert_eq!(names(&shown), names(&taken[0]));
    world.converged().await;
    world.stop_agent(DUBLIN).await;
    assert_eq!(function.taken(&world), taken, "something was told again");
    // It stays parked until the function takes it.
    let replay = async || run_json(world.tradewind(DUBLIN, &["feed", "replay", FEED, "--all"])).await;
    let (code, replayed) = replay().await;
    assert_eq!((code, parked(&world).await.len()), (1, 1), "{replayed:#}");
    let Some(client) = function.client() else { return };
    let repair = client.update_function_configuration().function_name(&function.name);
    repair.handler("orders.repaired").send().await.expect("another handler");
    let (code, replayed) = replay().await;
    assert_eq!((code, parked(&world).await.len()), (0, 0), "{replayed:#}");
    assert_eq!(function.taken(&world).last(), Some(&shown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_a_function_raises_on_is_split_down_to_the_event() {
    const POISON: usize = 5;
    let mut world = World::prepared(2, PLAIN).await;
    let Some(function) = Function::new(&world, "orders.whole").await else { return };
    world.feeds = function.feed(&world, "", "", "attempts = 1");
    let value = |i: usize| if i == POISON { "poison".to_owned() } else { format!("value {i:02}") };
    // Before there is an agent, so that they are one batch. The poison's key has two.
    for i in 0..16 {
        world.put(DUBLIN, row(&format!("key {}", i % 15), &value(i))).await;
    }
    world.put(DUBLIN, row(&format!("key {POISON}"), "after")).await;
    world.start_agents().await;
    let mut taken = function.await_taken(&world, 16).await;
    let parked = await_parked(&world, 1).await.remove(0);
    assert_eq!(parked["key"], item_json(&key(&format!("key {POISON}"))));
    assert_eq!(parked["rejections"], 2);
    assert!(text_of(&parked["reason"]).contains("can't take poison"), "{parked:#}");
    let position = |value: &str| values(&taken).iter().position(|taken| *taken == value);
    assert!(position("value 00") < position("value 15"), "out of order: {taken:#?}");
    let expected: Vec<_> = (0..16).filter(|i| *i != POISON).map(value).collect();
    taken.sort_by_key(|record| values(std::slice::from_ref(record))[0].to_owned());
    assert_eq!(values(&taken)[0], "after");
    assert_eq!(values(&taken)[1..], expected);
    world.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_is_missing_and_then_throttled_loses_nothing_and_parks_nothing() {
    let mut world = World::prepared(2, PLAIN).await;
    let Some(function) = Function::on(&world, "orders.whole") else { return };
    let Some(client) = function.client() else { return };
    world.feeds = function.feed(&world, "", "batch_size = 7", "attempts = 0");
    world.start_agents().await;
    for i in 0..10 {
        world.put(DUBLIN, row(&format!("key {i}"), &format!("value {i:02}"))).await;
    }
    await_retries(&world).await;
    function.create("orders.whole", Duration::from_mins(1)).await;
    function.await_taken(&world, 10).await;
    let throttle = client.put_function_concurrency().function_name(&function.name);
    throttle.reserved_concurrent_executions(0).send().await.expect("no concurrency");
    world.stop_agent(DUBLIN).await;
    world.start_agent(DUBLIN).await;
    for i in 10..30 {
        world.put(DUBLIN, row(&format!("key {i}"), &format!("value {i:02}"))).await;
    }
    await_retries(&world).await;
    assert_eq!(function.taken(&world).len(), 10);
    client.delete_function_concurrency().function_name(&function.name).send().await.expect("concurrency");
    let taken = function.await_taken(&world, 30).await;
    assert_eq!(values(&taken), (0..30).map(|i| format!("value {i:02}")).collect::<Vec<_>>());
    world.converged().await;
    assert_eq!(function.taken(&world).len(), 30, "something was told again");
    assert_eq!(parked(&world).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_takes_the_function_too_long_is_parked() {
    let mut world = World::prepared(2, PLAIN).await;
    // The emulator stops it after three seconds.
    let Some(function) = Function::on(&world, REPORTS) else { return };
    function.create(REPORTS, Duration::from_secs(1)).await;
    world.feeds = function.feed(&world, "", "report_batch_item_failures = true", "attempts = 0");
    for (id, value) in [("a", "1"), ("p", "slow"), ("b", "2"), ("p", "after")] {
        world.put(DUBLIN, row(id, value)).await;
    }
    world.start_agents().await;
    let mut taken = function.await_taken(&world, 3).await;
    taken.sort_by_key(|record| values(std::slice::from_ref(record))[0].to_owned());
    assert_eq!(values(&taken), ["1", "2", "after"]);
    let parked = await_parked(&world, 1).await.remove(0);
    assert_eq!((&parked["key"], &parked["rejections"]), (&item_json(&key("p")), &json!(1)));
    assert!(text_of(&parked["reason"]).contains("timed out"), "{parked:#}");
    world.converged().await;
    world.stop_agent(DUBLIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_killed_again_and_again_call_the_function_with_every_event_in_order() {
    const COUNTERS: usize = 7;
    const COUNTS: usize = 24;
    let mut world = World::prepared(2, PLAIN).await;
    let Some(function) = Function::new(&world, "orders.whole").await else { return };
    world.feeds = function.feed(&world, "", "batch_size = 10\nparallelization = 3", "");
    world.start_agents().await;
    count_up(&mut world, COUNTERS, COUNTS, 8).await;
    let taken = function.await_taken(&world, COUNTERS * COUNTS).await;
    assert_counted(&taken, COUNTERS, COUNTS);
    world.converged().await;
    assert_eq!(parked(&world).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_names_dynamodb_as_its_user() {
    let Some(mut world) = expiring(2).await else { return };
    let Some(function) = Function::new(&world, REPORTS).await else { return };
    let remove = r#"filter = ['{"userIdentity":{"principalId":["dynamodb.amazonaws.com"]}}']"#;
    world.feeds = function.feed(&world, remove, "report_batch_item_failures = true", "");
    world.start_agents().await;
    let (expired, deleted) = (until("a", seconds_from_now(-60)), until("b", seconds_from_now(3_600)));
    for item in [&expired, &deleted] {
        world.put(DUBLIN, item.clone()).await;
    }
    world.delete(DUBLIN, key("b")).await;
    let see = || async {
        world.server(DUBLIN).expire();
        function.taken(&world)
    };
    let taken = eventually("an expiry", see, |taken| !taken.is_empty()).await;
    world.converged().await;
    world.stop_agent(DUBLIN).await;
    assert_eq!(function.taken(&world).len(), 1, "{taken:#?}");
    assert_eq!(taken[0]["eventName"], "REMOVE");
    assert_eq!(
        taken[0]["userIdentity"],
        json!({ "type": "Service", "principalId": "dynamodb.amazonaws.com" })
    );
    assert_eq!(taken[0]["dynamodb"]["OldImage"], item_json(&expired));
    assert_eq!(taken[0]["dynamodb"].get("NewImage"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tumbling_windows_count_each_event_once() {
    const EVENTS: u64 = 25;
    let mut world = World::prepared(2, PLAIN).await;
    let Some(function) = Function::new(&world, "orders.windows").await else { return };
    let (sink, retry) = ("batch_size = 4\ntumbling_window = \"2s\"", "blocked = \"shard\"");
    world.feeds = function.feed(&world, "", sink, retry);
    world.start_agents().await;
    for i in 0..EVENTS {
        world.put(DUBLIN, row(&format!("key {i}"), "value")).await;
    }
    // Records are told late, once their windows are over.
    let see = || async { function.taken(&world) };
    let count = |ends: &Vec<Value>| ends.iter().filter_map(|end| end["state"]["count"].as_u64()).sum::<u64>();
    let ends = eventually("all windows' ends", see, |ends| count(ends) >= EVENTS).await;
    world.converged().await;
    world.stop_agent(DUBLIN).await;
    let later = function.taken(&world);
    assert_eq!((count(&later), later.len()), (EVENTS, ends.len()), "{later:#?}");
    for pair in ends.windows(2) {
        assert!(text_of(&pair[0]["window"]["end"]) <= text_of(&pair[1]["window"]["start"]), "{ends:#?}");
    }
    for end in &ends {
        let time = |name: &str| humantime::parse_rfc3339(text_of(&end["window"][name])).expect("a time");
        assert_eq!(time("end").duration_since(time("start")).expect("an order"), Duration::from_secs(2));
        assert_eq!(end["isWindowTerminatedEarly"], false);
        assert_eq!(end["Records"], json!([]));
        assert!(!text_of(&end["shardId"]).is_empty());
    }
}
