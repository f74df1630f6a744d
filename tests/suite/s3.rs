//! Feeds into a bucket of ministack's S3: each event in one object, whenever agents die.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::CreateBucketConfiguration;
use flate2::read::GzDecoder;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use url::Url;

use crate::engine::{ACCESS_KEY, Engine, SECRET_KEY};
use crate::feeds::{assert_counted, await_retries, count_up, text_of};
use crate::items::{key, n, row};
use crate::process::{run, run_json};
use crate::world::{PLACES, PLAIN, World, eventually};

const FEED: &str = "archive";

/// A bucket for a world's feed.
struct Bucket {
    client: Client,
    name: String,
    endpoint: Url,
}

/// An object: its name, and its lines.
type Object = (String, Vec<Value>);

impl Bucket {
    /// A bucket, or nothing where there is no S3.
    async fn new(world: &World) -> Option<Self> {
        let bucket = Self::named(world)?;
        bucket.create().await;
        Some(bucket)
    }

    /// The same before it is created.
    fn named(world: &World) -> Option<Self> {
        let Engine::Ministack(endpoint) = &world.engine else {
            eprintln!("skipped on {:?}: it has no S3", world.engine);
            return None;
        };
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(PLACES[0].1))
            .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests"))
            .endpoint_url(endpoint.as_str())
            .force_path_style(true);
        let client = Client::from_conf(config.build());
        Some(Self { client, name: world.table.clone(), endpoint: endpoint.clone() })
    }

    async fn create(&self) {
        let place = CreateBucketConfiguration::builder().location_constraint(PLACES[0].1.into()).build();
        let create = self.client.create_bucket().bucket(&self.name).create_bucket_configuration(place);
        create.send().await.expect("a bucket; ministack has them with MINISTACK_SERVICES=s3");
    }

    /// A feed of all regions.
    fn feed(&self, world: &World, sink: &str) -> String {
        let (table, bucket, endpoint) = (&world.table, &self.name, &self.endpoint);
        format!(
            "[[feed]]\nname = \"{FEED}\"\ntable = \"{table}\"\n[feed.s3]\nbucket = \"{bucket}\"\naws_region = \"{}\"\nendpoint = \
             \"{endpoint}\"\n{sink}\n",
            PLACES[0].1
        )
    }

    /// The names of all objects.
    async fn names(&self) -> Vec<String> {
        let list = self.client.list_objects_v2().bucket(&self.name);
        let pages = list.into_paginator().send().collect::<Result<Vec<_>, _>>().await.expect("a list");
        pages
            .into_iter()
            .flat_map(|page| page.contents.unwrap_or_default())
            .filter_map(|object| object.key)
            .collect()
    }

    async fn bytes(&self, name: &str) -> Vec<u8> {
        let got = self.client.get_object().bucket(&self.name).key(name).send().await.expect("an object");
        got.body.collect().await.expect("its content").into_bytes().to_vec()
    }

    /// All objects, by name.
    async fn objects(&self) -> Vec<Object> {
        let mut objects = Vec::new();
        for name in self.names().await {
            let mut text = String::new();
            GzDecoder::new(self.bytes(&name).await.as_slice()).read_to_string(&mut text).expect("gzip");
            let lines = text.lines().map(|line| serde_json::from_str(line).expect("an event"));
            objects.push((name, lines.collect()));
        }
        objects
    }

    /// All objects, once there are so many events in them.
    async fn await_events(&self, count: usize) -> Vec<Object> {
        let see = || self.objects();
        eventually(&format!("{count} events"), see, |all| events(all).count() >= count).await
    }
}

fn events(objects: &[Object]) -> impl Iterator<Item = &Value> {
    objects.iter().flat_map(|(_, events)| events)
}

/// How often each event is in the objects.
fn counts(objects: &[Object]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for event in events(objects) {
        *counts.entry(text_of(&event["eventID"])).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_write_is_in_one_object_of_its_hour() {
    let mut world = World::prepared(2, PLAIN).await;
    let Some(bucket) = Bucket::new(&world).await else { return };
    world.feeds = bucket.feed(&world, "prefix = \"orders/{region}/\"\nobject_time = \"1s\"");
    for i in 0..20 {
        world.put(i % 2, row(&format!("key {i}"), &format!("value {i:02}"))).await;
    }
    world.start_agents().await;
    let objects = bucket.await_events(20).await;
    world.converged().await;
    assert_eq!(counts(&objects).len(), 20);
    for (name, events) in &objects {
        let parts: Vec<&str> = name.split('/').collect();
        let [_, region, date, hour, file] = parts.as_slice() else { panic!("{name}") };
        let first = &events[0];
        assert_eq!(first["tradewind"]["region"], *region, "{name}");
        let seconds = first["dynamodb"]["ApproximateCreationDateTime"].as_u64().expect("a time");
        let created = rfc3339(seconds);
        assert_eq!(
            (*date, *hour),
            (&*format!("dt={}", &created[..10]), &*format!("hour={}", &created[11..13]))
        );
        let sequence = text_of(&first["dynamodb"]["SequenceNumber"]);
        assert!(file.starts_with(region) && file.ends_with(&format!("-{sequence}.jsonl.gz")), "{name}");
    }
    // Nothing is written again.
    world.stop_agent(0).await;
    world.start_agent(0).await;
    world.put(0, row("one more", "value")).await;
    let after = bucket.await_events(21).await;
    assert!(counts(&after).values().all(|count| *count == 1), "{after:#?}");
    // What is read must be what was written, by others than this project's own code, too.
    let query = "select count(*), count(distinct eventID), count(distinct hour) > 0 from \
                 read_json_auto('{folder}/**/*.gz', hive_partitioning = true)";
    if let Some(read) = read_by_duckdb(&bucket, query).await {
        assert_eq!(read, "(21, 21, True)");
    }
    let (code, tested) = run_json(world.tradewind(0, &["feed", "test", FEED])).await;
    assert_eq!(code, 0, "{tested:#}");
    assert!(bucket.names().await.iter().any(|name| name.contains("-test-0.jsonl")));
}

fn rfc3339(seconds: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// What `DuckDB` reads from all objects, if `tests/with-duckdb` has it at hand: the first row of a query, in which
/// `{folder}` stands for where they are.
async fn read_by_duckdb(bucket: &Bucket, query: &str) -> Option<String> {
    let Ok(python) = std::env::var("TRADEWIND_TEST_DUCKDB") else {
        eprintln!("not read by DuckDB: tests/with-duckdb brings it");
        return None;
    };
    let folder = TempDir::new().expect("a folder");
    for name in bucket.names().await {
        let path: PathBuf = folder.path().join(&name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, bucket.bytes(&name).await).expect("a file");
    }
    let query = query.replace("{folder}", &folder.path().display().to_string());
    let mut command = Command::new(python);
    command.args([
        "-c",
        "import duckdb, sys; print(duckdb.connect().execute(sys.argv[1]).fetchone())",
        &query,
    ]);
    let (code, read, log) = run(command).await;
    assert_eq!(code, 0, "{log}");
    Some(read.trim().to_owned())
}

/// What a program makes of events is read as such, and events with columns of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_parquet_are_read_by_others() {
    let mut world = World::prepared(2, PLAIN).await;
    let Some(bucket) = Bucket::new(&world).await else { return };
    let parquet =
        "object_time = \"1s\"\nformat = \"parquet\"\ncompression = \"zstd\"\ncolumns = { n = \"long\" }";
    let values = bucket
        .feed(&world, &format!("prefix = \"values/\"\n{parquet}"))
        .replace("[feed.s3]", "transform = '.dynamodb.NewImage | { n: (.n.N | tonumber) }'\n[feed.s3]");
    let events = bucket.feed(&world, &format!("prefix = \"events/\"\n{parquet}"));
    world.feeds = format!("{events}{}", values.replace(FEED, "values"));
    for count in 1..=30 {
        world.update(count % 2, key(&format!("key {count}")), "n", n(count)).await;
    }
    world.start_agents().await;
    world.converged().await;
    let rows = |names: &[String], of: &str| names.iter().filter(|name| name.starts_with(of)).count();
    let see = || bucket.names();
    let is_there = |names: &Vec<String>| rows(names, "events/") >= 2 && rows(names, "values/") >= 2;
    eventually("objects of both feeds", see, is_there).await;
    for (query, expected) in [
        (
            "select count(*), count(distinct event_id), sum(n), count(distinct origin), min(created_at) > timestamptz \
             '2026-01-01', min(json_extract_string(new_image, '$.n.N')::int), min(hour)::int < 24 from \
             read_parquet('{folder}/events/**/*.parquet', hive_partitioning = true)",
            "(30, 30, 465, 2, True, 1, True)",
        ),
        (
            "select count(*), sum(n), sum(json_extract(value, '$.n')::int) from \
             read_parquet('{folder}/values/**/*.parquet')",
            "(30, 465, 465)",
        ),
    ] {
        if let Some(read) = read_by_duckdb(&bucket, query).await {
            assert_eq!(read, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_killed_again_and_again_write_each_event_once() {
    const COUNTERS: usize = 7;
    const COUNTS: usize = 40;
    let mut world = World::prepared(2, PLAIN).await;
    let Some(bucket) = Bucket::new(&world).await else { return };
    // Objects follow one another much faster than checkpoints.
    world.tuning.checkpoint_interval = std::time::Duration::from_secs(2);
    world.feeds = bucket.feed(&world, "object_time = \"0s\"");
    world.start_agents().await;
    count_up(&mut world, COUNTERS, COUNTS, 8).await;
    let objects = bucket.await_events(COUNTERS * COUNTS).await;
    world.converged().await;
    assert!(objects.len() > 10, "too few objects for a repetition to be likely: {}", objects.len());
    assert!(counts(&objects).values().all(|count| *count == 1), "an event is in two objects");
    assert_counted(events(&objects), COUNTERS, COUNTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rejected_goes_to_a_bucket_whole_once_that_is_there() {
    let mut world = World::prepared(1, PLAIN).await;
    let Some(bucket) = Bucket::named(&world) else { return };
    let folder = TempDir::new().expect("a folder");
    let (table, path) = (&world.table, folder.path().join("events.jsonl"));
    let (name, endpoint, aws_region) = (&bucket.name, &bucket.endpoint, PLACES[0].1);
    world.feeds = format!(
        "[[feed]]\nname = \"{FEED}\"\ntable = \"{table}\"\ntransform = '.dynamodb.NewImage.v.S | tonumber'\n\
         file.path = {path:?}\n[feed.retry]\non_failure = \"s3://{name}/{{region}}/\"\n\
         on_failure_aws_region = \"{aws_region}\"\non_failure_endpoint = \"{endpoint}\"\n"
    );
    world.start_agents().await;
    for (id, value) in [("a", "1"), ("b", "none"), ("c", "2")] {
        world.put(0, row(id, value)).await;
    }
    let told = || async { std::fs::read_to_string(&path).unwrap_or_default() };
    eventually("what is right", told, |text| text.lines().count() == 2).await;
    let found =
        || async { run_json(world.tradewind(0, &["doctor", "--region", world.name(0)])).await.1.to_string() };
    eventually("a finding", found, |found| found.contains("feed_sink") && found.contains(&bucket.name)).await;
    // Its checkpoint waits for it.
    world.crash_agent(0);
    world.start_agent(0).await;
    bucket.create().await;
    let names = || async { bucket.names().await };
    let names = eventually("the event", names, |names| !names.is_empty()).await;
    let [name] = &names[..] else { panic!("{names:?}") };
    let folder = format!("{0}/{FEED}/dt=", world.name(0));
    let ending = Path::new(name).extension().and_then(OsStr::to_str);
    assert!(name.starts_with(&folder) && ending == Some("json"), "{name}");
    let parked: Value = serde_json::from_slice(&bucket.bytes(name).await).expect("JSON");
    assert_eq!(parked["event"]["dynamodb"]["NewImage"]["v"]["S"], "none", "{parked:#}");
    assert!(text_of(&parked["reason"]).contains("`transform` fails"), "{parked:#}");
    assert_eq!((&parked["feed"], &parked["region"]), (&FEED.into(), &world.name(0).into()), "{parked:#}");
    let (code, text, _) = run(world.tradewind(0, &["feed", "parked", FEED])).await;
    assert!(code == 0 && text.contains(&format!("is in s3://{}/", bucket.name)), "{code}: {text}");
    assert_eq!(world.control_rows(0, "parked/").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_missing_is_told_and_gets_everything_in_the_end() {
    let mut world = World::prepared(2, PLAIN).await;
    let Some(bucket) = Bucket::named(&world) else { return };
    world.feeds = bucket.feed(&world, "object_time = \"0s\"");
    world.start_agents().await;
    for i in 0..5 {
        world.put(0, row(&format!("key {i}"), "value")).await;
    }
    await_retries(&world).await;
    let (code, told) = run_json(world.tradewind(0, &["doctor", "--region", world.name(0)])).await;
    let found = told.to_string();
    assert!(code != 0 && found.contains("feed_sink") && found.contains(&bucket.name), "{code}: {told:#}");
    bucket.create().await;
    let objects = bucket.await_events(5).await;
    assert!(counts(&objects).values().all(|count| *count == 1));
    world.converged().await;
}
