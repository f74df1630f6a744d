//! What the SDK can't read in a stream: the agent reads on, and loses nothing that can be read.
//!
//! Later releases of DynamoDB Local send an empty map within an image as `{}`, and TTL deletes
//! with an event name of their own.

use serde_json::{Value, json};
use tradewind::protocol::STAMP;

use crate::items::{item, key, n, row, s};
use crate::process::{run, run_json};
use crate::world::{PLAIN, World, eventually};
use aws_sdk_dynamodb::types::AttributeValue;
use tradewind_proxy::Tamper;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// Changes every value in GetRecords' answers.
struct Rewrite(fn(&mut Value));

impl Tamper for Rewrite {
    fn answer(&self, operation: &str, body: String) -> String {
        if operation != "GetRecords" {
            return body;
        }
        let mut answer: Value = serde_json::from_str(&body).expect("JSON");
        walk(&mut answer, self.0);
        answer.to_string()
    }
}

fn walk(value: &mut Value, change: fn(&mut Value)) {
    change(value);
    match value {
        Value::Object(members) => members.values_mut().for_each(|member| walk(member, change)),
        Value::Array(elements) => elements.iter_mut().for_each(|element| walk(element, change)),
        _ => {}
    }
}

async fn rewritten(change: fn(&mut Value)) -> World {
    let mut world = World::prepared(2, PLAIN).await;
    for region in [DUBLIN, TOKYO] {
        world.tamper(region, region, Rewrite(change)).await;
    }
    world.start_agents().await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_map_that_arrives_as_nothing_is_an_empty_map() {
    let world = rewritten(|value| {
        if *value == json!({ "M": {} }) {
            *value = json!({});
        }
    })
    .await;
    let map = |members| AttributeValue::M(members);
    let empty = map(item([]));
    let expected = item([
        ("pk", s("a")),
        ("empty", empty.clone()),
        ("list", AttributeValue::L(vec![empty.clone(), s("x")])),
        ("deep", map(item([("inner", empty), ("n", n(1))]))),
    ]);
    world.put(DUBLIN, expected.clone()).await;
    world.put(DUBLIN, row("b", "after it")).await;
    world.await_item(TOKYO, &key("a"), &expected).await;
    world.await_item(TOKYO, &key("b"), &row("b", "after it")).await;
    world.update(TOKYO, key("a"), "v", n(2)).await;
    world.converged().await;
    // Each side recognised the other's echo.
    let total = world.total();
    assert_eq!((total.local_puts, total.agent_writes(), total.unreadable), (3, 3, 0), "{total:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_an_unknown_name_counts_by_its_images() {
    let world = rewritten(|value| {
        if let Some(name) = value.get_mut("eventName") {
            *name = json!("SOMETHING_NEW");
        }
    })
    .await;
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    world.delete(DUBLIN, key("a")).await;
    assert!(world.converged().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_can_not_be_read_is_told_and_passed_over() {
    let world = rewritten(|value| {
        if *value == json!({ "S": "poison" }) {
            *value = json!({ "S": 5 });
        }
    })
    .await;
    world.put(DUBLIN, row("a", "before")).await;
    world.put(DUBLIN, row("b", "poison")).await;
    world.put(DUBLIN, row("c", "after")).await;
    world.await_item(TOKYO, &key("c"), &row("c", "after")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "before")).await;
    world.quiet().await;
    assert_eq!(world.tally(DUBLIN).unreadable, 1);
    assert_eq!(world.get(TOKYO, &key("b")).await, None);
    assert_eq!(world.get(DUBLIN, &key("b")).await, Some(row("b", "poison")));
    assert!(!world.stored(DUBLIN, &key("b")).await.unwrap().contains_key(STAMP));
}

/// What is made of the stream record of an item that is poison.
type Spoil = fn(&mut Value);

async fn spoilt(spoil: Spoil) -> World {
    let mut world = World::prepared(2, PLAIN).await;
    for region in [DUBLIN, TOKYO] {
        world.tamper(region, region, Spoilt(spoil)).await;
    }
    world
}

struct Spoilt(Spoil);

impl Tamper for Spoilt {
    fn answer(&self, operation: &str, body: String) -> String {
        if operation != "GetRecords" {
            return body;
        }
        let mut answer: Value = serde_json::from_str(&body).expect("JSON");
        for record in answer["Records"].as_array_mut().into_iter().flatten() {
            if record["dynamodb"]["NewImage"]["v"] == json!({ "S": "poison" }) {
                self.0(record);
            }
        }
        answer.to_string()
    }
}

/// How many marks there are in dublin's control table; what `verify` has found is beside them.
async fn marks(world: &World) -> usize {
    let rows = world.control_rows(DUBLIN, "gap/").await;
    rows.iter().filter(|row| row.contains_key("cause")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_read_marks_the_table_until_the_replicas_are_equal() {
    let mut world = spoilt(|record| {
        record["dynamodb"].as_object_mut().expect("a body").remove("ApproximateCreationDateTime");
    })
    .await;
    world.start_agent(TOKYO).await;
    let mut process = world.start_process(DUBLIN);
    world.put(DUBLIN, row("a", "before")).await;
    world.put(DUBLIN, row("b", "poison")).await;
    world.put(DUBLIN, row("c", "after")).await;
    process.says("no readable creation time").await;
    world.await_item(TOKYO, &key("c"), &row("c", "after")).await;
    let (code, waited) = run_json(world.tradewind(DUBLIN, &["wait", "--region", "dublin"])).await;
    let mark = &waited["arrivals"][0]["marks"][0];
    assert_eq!(
        (code, &waited["complete"], &mark["cause"]),
        (1, &false.into(), &"unreadable".into()),
        "{waited:#}"
    );
    let (_, text, _) = run(world.tradewind(DUBLIN, &["wait", "--region", "dublin"])).await;
    assert!(text.contains("could not be read") && text.contains("`tradewind verify`"), "{text}");
    assert_eq!(marks(&world).await, 1);
    let (code, found) = run_json(world.tradewind(DUBLIN, &["doctor"])).await;
    let is_mark = |finding: &&Value| finding["name"] == "marked";
    let found = found["findings"].as_array().expect("findings").iter().filter(is_mark).count();
    assert_eq!((code, found), (1, 1));
    let status = || async { run(world.tradewind(TOKYO, &["status"])).await.1 };
    eventually("the mark in another region", status, |text| text.contains("run `tradewind verify`")).await;
    // A mark stays while replicas differ, and goes when they are equal.
    let (code, verdict) = run_json(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!((code, &verdict["tables"][0]["items_differing"]), (1, &1.into()), "{verdict:#}");
    assert_eq!(marks(&world).await, 1);
    world.put(DUBLIN, row("b", "antidote")).await;
    world.await_item(TOKYO, &key("b"), &row("b", "antidote")).await;
    let (code, text, _) = run(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!((code, marks(&world).await), (0, 0), "{text}");
    let (code, waited) = run_json(world.tradewind(DUBLIN, &["wait", "--region", "dublin"])).await;
    assert_eq!((code, &waited["complete"]), (0, &true.into()), "{waited:#}");
    // What was passed over before a checkpoint is not found once more.
    process.kill().await;
    let _process = world.start_process(DUBLIN);
    world.put(DUBLIN, row("d", "later")).await;
    world.await_item(TOKYO, &key("d"), &row("d", "later")).await;
    let (code, waited) = run_json(world.tradewind(DUBLIN, &["wait", "--region", "dublin"])).await;
    assert_eq!((code, marks(&world).await), (0, 0), "{waited:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_wrong_with_a_record_marks_the_table() {
    let spoils: [Spoil; 7] = [
        |record| record["dynamodb"]["ApproximateCreationDateTime"] = json!("yesterday"),
        |record| record["dynamodb"]["ApproximateCreationDateTime"] = json!(-5),
        |record| record["dynamodb"]["ApproximateCreationDateTime"] = json!(0),
        |record| record["dynamodb"]["ApproximateCreationDateTime"] = json!(1e300),
        |record| record["dynamodb"]["NewImage"]["v"] = json!({ "NEWER": "x" }),
        |record| _ = record["dynamodb"].as_object_mut().expect("a body").remove("SequenceNumber"),
        |record| _ = record.as_object_mut().expect("a record").remove("dynamodb"),
    ];
    for (i, spoil) in spoils.into_iter().enumerate() {
        let mut world = spoilt(spoil).await;
        world.start_agents().await;
        // The last record of all: nothing comes that would make a checkpoint pass it.
        world.put(DUBLIN, row("a", "before")).await;
        world.put(DUBLIN, row("b", "poison")).await;
        let made = || async { marks(&world).await };
        eventually(&format!("a mark of record {i}"), made, |marks| *marks == 1).await;
        assert_eq!((world.tally(DUBLIN).unreadable, world.tally(DUBLIN).gaps), (1, 0), "record {i}");
        world.await_item(TOKYO, &key("a"), &row("a", "before")).await;
        assert_eq!(world.get(TOKYO, &key("b")).await, None, "record {i}");
    }
}
