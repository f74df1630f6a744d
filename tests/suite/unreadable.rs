//! What the SDK can't read in a stream: the agent reads on, and loses nothing that can be read.
//!
//! Later releases of DynamoDB Local send an empty map within an image as `{}`, and TTL deletes
//! with an event name of their own.

use serde_json::{Value, json};
use tradewind::protocol::STAMP;

use crate::items::{item, key, n, row, s};
use crate::world::{PLAIN, World};
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
